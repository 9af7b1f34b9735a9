//! Who is not listened to for a while: sources of what only an enemy sends. The time grows with every offence and is
//! forgotten after good conduct. Bounded: the table holds the worst.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bft_core::ids::{Nanos, PublicKey};
use bft_core::limits::{MILLISECOND, SECOND};

/// Refusal after the first offence; doubled with each further one.
const FIRST: u64 = 100 * MILLISECOND;
/// The longest refusal, where nothing else is configured.
pub const LONGEST: u64 = 30 * SECOND;
/// Good conduct after which offences are forgotten.
const FORGOTTEN: u64 = 600 * SECOND;
/// Sources in the table.
const SOURCES_MAX: usize = 4096;

/// Who offended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An address; of IPv6 its network, which one host can have whole.
    Address(IpAddr),
    /// A key that finished a handshake.
    Key(PublicKey),
}

impl Source {
    /// The source that connections from `address` are charged to.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Address(address),
            IpAddr::V6(address) => match address.to_ipv4_mapped() {
                Some(address) => Self::Address(address.into()),
                None => Self::Address(std::net::Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            },
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Offences {
    count: u32,
    until: Nanos,
}

/// The table.
#[derive(Debug)]
pub struct Refusals {
    offences: BTreeMap<Source, Offences>,
    longest: u64,
}

impl Refusals {
    /// An empty one. `longest`: how long a refusal may become, in nanoseconds; 0: nobody is refused.
    #[must_use]
    pub fn new(longest: u64) -> Self {
        Self { offences: BTreeMap::new(), longest }
    }

    /// Whether `source` is refused at `now`.
    #[must_use]
    pub fn is_refused(&self, now: Nanos, source: Source) -> bool {
        self.offences.get(&source).is_some_and(|offences| now < offences.until)
    }

    /// `source` offended.
    pub fn strike(&mut self, now: Nanos, source: Source) {
        self.offences.retain(|_, offences| now.since(offences.until) < FORGOTTEN);
        if self.offences.len() >= SOURCES_MAX && !self.offences.contains_key(&source) {
            let mildest = self.offences.iter().min_by_key(|(_, offences)| offences.until).map(|(source, _)| *source);
            self.offences.remove(&mildest.expect("a full table is not empty"));
        }
        let offences = self.offences.entry(source).or_insert(Offences { count: 0, until: now });
        let time = (FIRST << offences.count.min(16)).min(self.longest);
        *offences = Offences { count: offences.count.saturating_add(1), until: now.after(time) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pf6_the_refusal_grows_and_is_forgotten() {
        let mut refusals = Refusals::new(LONGEST);
        let source = Source::address([10, 0, 0, 1].into());
        let mut now = Nanos(0);
        let mut last = 0;
        for _ in 0..12 {
            refusals.strike(now, source);
            let time =
                (0..).map(|i| i * 50 * MILLISECOND).find(|t| !refusals.is_refused(now.after(*t), source)).unwrap();
            assert!(time > last || time == LONGEST);
            (last, now) = (time, now.after(time));
        }
        assert_eq!(last, LONGEST);
        now = now.after(FORGOTTEN + 1);
        refusals.strike(now, source);
        assert!(!refusals.is_refused(now.after(FIRST), source));
    }

    #[test]
    fn pf6_the_longest_refusal_is_what_was_configured() {
        let source = Source::address([10, 0, 0, 1].into());
        for (longest, expected) in [(0, 0), (150 * MILLISECOND, 150 * MILLISECOND), (LONGEST, 400 * MILLISECOND)] {
            let mut refusals = Refusals::new(longest);
            (0..3).for_each(|_| refusals.strike(Nanos(0), source));
            assert!(!refusals.is_refused(Nanos(expected), source));
            assert!(expected == 0 || refusals.is_refused(Nanos(expected - 1), source));
        }
    }

    #[test]
    fn mem1_the_table_is_bounded() {
        let mut refusals = Refusals::new(LONGEST);
        for i in 0..2 * SOURCES_MAX as u32 {
            refusals.strike(Nanos(u64::from(i)), Source::Address(std::net::Ipv4Addr::from_bits(i).into()));
        }
        assert_eq!(refusals.offences.len(), SOURCES_MAX);
    }

    #[test]
    fn an_ipv6_host_is_charged_by_its_network() {
        let of = |text: &str| Source::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
