//! Records that are being read back from the journal: each once, however many wait for it, be it the execution, a peer's
//! answer, a new view or a report. The journal is not cut above the lowest of them.

use std::collections::BTreeSet;

use crate::door::Effects;
use crate::ids::LogPosition;

/// What was asked for and has not come.
#[derive(Debug, Default)]
pub struct Loading {
    under_way: BTreeSet<LogPosition>,
}

impl Loading {
    /// Reads `at`, unless it is being read already: whoever waits for it hears of it.
    pub fn begin(&mut self, at: LogPosition, out: &mut Effects) {
        if self.under_way.insert(at) {
            out.load.push(at);
        }
    }

    /// It came, readable or not.
    pub fn end(&mut self, at: LogPosition) {
        let is_expected = self.under_way.remove(&at);
        assert!(is_expected, "Loaded answers a load");
    }

    /// The lowest of them.
    #[must_use]
    pub fn lowest(&self) -> Option<LogPosition> {
        self.under_way.first().copied()
    }
}
