//! Which sessions are idle, by this replica's own clock: not replicated, and no part of any answer that is ordered. While
//! only sessions in use fill the client table, a client that wants another one is told BUSY; what is ordered all the
//! same evicts by the rule of `sessions`.

use crate::ids::Nanos;
use crate::limits::SESSION_IDLE;

/// Marks in the recency of sessions, one each [`SESSION_IDLE`].
#[derive(Debug, Default)]
pub struct IdleMarks {
    older: u64,
    newer: u64,
    next: Nanos,
}

impl IdleMarks {
    /// Takes the time, and the recency that the next session in use will have.
    pub fn tick(&mut self, now: Nanos, next_recency: u64) {
        if now >= self.next {
            self.older = self.newer;
            self.newer = next_recency;
            self.next = now.after(SESSION_IDLE);
        }
    }

    /// A session with less recency was not used for [`SESSION_IDLE`] at least.
    #[must_use]
    pub fn idle_below(&self) -> u64 {
        self.older
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_not_used_for_the_whole_time_is_idle() {
        let mut marks = IdleMarks::default();
        marks.tick(Nanos(5), 10);
        assert_eq!(marks.idle_below(), 0, "nobody was watched long enough");
        marks.tick(Nanos(5 + SESSION_IDLE - 1), 20);
        assert_eq!(marks.idle_below(), 0);
        marks.tick(Nanos(5 + SESSION_IDLE), 30);
        assert_eq!(marks.idle_below(), 10);
        marks.tick(Nanos(6 + 2 * SESSION_IDLE), 40);
        assert_eq!(marks.idle_below(), 30);
    }
}
