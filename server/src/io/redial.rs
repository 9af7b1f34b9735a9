//! When a replica that this side dials is dialled again, and where it is.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

/// How long a dialled connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The first wait before dialling again; doubled until the longest.
const REDIAL_FIRST: Duration = Duration::from_millis(20);
const REDIAL_LONGEST: Duration = Duration::from_secs(1);
/// A link that lived this long was a good one, in nanoseconds: dialling starts afresh.
const GOOD_LINK: u64 = 5_000_000_000;

/// The waits of one peer.
pub struct Redial {
    wait: Duration,
}

impl Default for Redial {
    fn default() -> Self {
        Self { wait: REDIAL_FIRST }
    }
}

impl Redial {
    /// How long to wait now that an attempt, or the link that came of it, has ended after `lived` nanoseconds.
    pub fn after(&mut self, lived: u64) -> Duration {
        if lived > GOOD_LINK {
            self.wait = REDIAL_FIRST;
        }
        let wait = jittered(self.wait);
        self.wait = (self.wait * 2).min(REDIAL_LONGEST);
        wait
    }
}

/// Between half of `wait` and all of it.
fn jittered(wait: Duration) -> Duration {
    let [chance, ..] = crate::entropy();
    wait / 2 + wait / 2 * u32::from(chance) / 255
}

/// Where `address` is. Names are asked for, which can take seconds: on a thread that has time.
pub fn look_up(address: &str) -> Option<SocketAddr> {
    address.to_socket_addrs().ok().and_then(|mut found| found.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_a_good_link_starts_them_afresh() {
        let mut redial = Redial::default();
        let mut longest = REDIAL_FIRST;
        for _ in 0..10 {
            let wait = redial.after(GOOD_LINK);
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
            longest = (longest * 2).min(REDIAL_LONGEST);
        }
        assert_eq!(longest, REDIAL_LONGEST);
        assert!(redial.after(GOOD_LINK + 1) <= REDIAL_FIRST);
    }
}
