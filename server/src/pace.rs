//! How often the same thing is said: what an enemy can bring about, or what goes on for long, must not fill a log.

use bft_core::ids::Nanos;
use bft_core::limits::SECOND;

/// Lets one a second through, and counts the others.
#[derive(Debug, Default)]
pub struct OnceASecond {
    next: Nanos,
    unsaid: u64,
}

impl OnceASecond {
    /// Whether to say it at `now`, and how many times it was not said since it was last; `None`: not now.
    pub fn is_due(&mut self, now: Nanos) -> Option<u64> {
        if now < self.next {
            self.unsaid += 1;
            return None;
        }
        let Self { unsaid, .. } = std::mem::replace(self, Self { next: now.after(SECOND), unsaid: 0 });
        Some(unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_is_said_and_the_others_are_counted() {
        let mut pace = OnceASecond::default();
        let said: Vec<_> = (0..10).map(|now| pace.is_due(Nanos(SECOND + now))).collect();
        assert_eq!((said[0], said[1..].iter().flatten().count()), (Some(0), 0));
        assert_eq!(pace.is_due(Nanos(2 * SECOND - 1)), None);
        assert_eq!(pace.is_due(Nanos(2 * SECOND)), Some(10));
        assert_eq!(pace.is_due(Nanos(5 * SECOND)), Some(0), "long after, nothing is owed");
    }
}
