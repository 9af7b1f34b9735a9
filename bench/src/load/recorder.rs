//! What came of operations, counted where they end. One recorder for each thread that completions arrive on; they are
//! merged when somebody asks.

use bft_client::{NotSent, Outcome, Rejected, Unknown};
use hdrhistogram::Histogram;

/// Latencies in nanoseconds, to three digits.
pub type Latencies = Histogram<u64>;

/// The longest latency that is told apart: an hour.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;

/// A histogram without anything in it.
pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("bounds that a histogram can have")
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// Why an operation failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// In reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// Ordered and refused.
    RejectedConflict = "rejected_conflict",
    /// Ordered and refused.
    RejectedDenied = "rejected_denied",
    /// Executed, but its reply is too large.
    RejectedReplyTooLarge = "rejected_reply_too_large",
    /// The deadline passed before it was sent.
    NotSentDeadline = "not_sent_deadline",
    /// The client was cancelled or closed.
    NotSentClosed = "not_sent_closed",
    /// Too many waited.
    NotSentOverloaded = "not_sent_overloaded",
    /// It fits into no Request.
    NotSentTooLarge = "not_sent_too_large",
    /// The cluster refuses a session.
    NotSentNotAdmitted = "not_sent_not_admitted",
    /// The deadline passed before an answer came.
    UnknownDeadline = "unknown_deadline",
    /// The client was closed before an answer came.
    UnknownClosed = "unknown_closed",
    /// The session was lost.
    UnknownSessionLost = "unknown_session_lost",
    /// What replicas agreed on is no answer.
    UnknownUnreadable = "unknown_unreadable",
    /// The service refused the operation.
    ServiceRefused = "service_refused",
    /// The answer is none to this operation.
    WrongReply = "wrong_reply",
    /// Not answered when the run ended.
    Unanswered = "unanswered",
}

impl Kind {
    /// Of an operation that did not end as done.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Done { .. } => None,
            Outcome::Rejected { reason, .. } => Some(match reason {
                Rejected::Conflict => Self::RejectedConflict,
                Rejected::Denied => Self::RejectedDenied,
                Rejected::ExecutedReplyTooLarge => Self::RejectedReplyTooLarge,
            }),
            Outcome::NotSent { reason } => Some(match reason {
                NotSent::Deadline => Self::NotSentDeadline,
                NotSent::Cancelled | NotSent::Closed => Self::NotSentClosed,
                NotSent::Overloaded => Self::NotSentOverloaded,
                NotSent::TooLarge => Self::NotSentTooLarge,
                NotSent::NotAdmitted => Self::NotSentNotAdmitted,
            }),
            Outcome::Unknown { reason } => Some(match reason {
                Unknown::Deadline => Self::UnknownDeadline,
                Unknown::Cancelled | Unknown::Closed => Self::UnknownClosed,
                Unknown::SessionLost => Self::UnknownSessionLost,
                Unknown::Unreadable => Self::UnknownUnreadable,
            }),
        }
    }
}

/// How many operations failed, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors([u64; Kind::ALL.len()]);

impl Errors {
    /// One more.
    pub fn count(&mut self, kind: Kind, times: u64) {
        self.0[kind as usize] += times;
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Kinds that there were, and how often.
    pub fn by_kind(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.iter().zip(self.0).filter(|(_, count)| *count > 0).map(|(kind, count)| (*kind, count))
    }

    fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}

/// What came of operations in some time.
#[derive(Clone)]
pub struct Tally {
    /// Operations answered.
    pub ops: u64,
    /// Bytes of those, and of their replies.
    pub op_bytes: u64,
    /// Bytes of their replies.
    pub reply_bytes: u64,
    /// Operations that failed.
    pub errors: Errors,
    /// From when an operation was to start until it ended.
    pub latencies: Latencies,
    /// The longest time between two answers, in nanoseconds.
    pub gap_max: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let (ops, op_bytes, reply_bytes, gap_max) = (0, 0, 0, 0);
        Self { ops, op_bytes, reply_bytes, errors: Errors::default(), latencies: latencies(), gap_max }
    }
}

impl Tally {
    /// Adds what `other` has.
    pub fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.op_bytes += other.op_bytes;
        self.reply_bytes += other.reply_bytes;
        self.errors.add(&other.errors);
        self.latencies.add(&other.latencies).expect("of the same bounds");
        self.gap_max = self.gap_max.max(other.gap_max);
    }

    /// The mean size of operations and of replies.
    pub fn mean_bytes(&self) -> (f64, f64) {
        let ops = self.ops.max(1) as f64;
        (self.op_bytes as f64 / ops, self.reply_bytes as f64 / ops)
    }

    fn clear(&mut self) {
        let Self { ops, op_bytes, reply_bytes, errors, latencies, gap_max } = self;
        (*ops, *op_bytes, *reply_bytes, *gap_max) = (0, 0, 0, 0);
        *errors = Errors::default();
        latencies.reset();
    }
}

/// The end of one operation.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// When it was to start.
    pub intended: u64,
    /// What went wrong with it.
    pub failed: Option<Kind>,
    /// Its size.
    pub op_bytes: usize,
    /// Its reply's.
    pub reply_bytes: usize,
}

/// Counts for the measured interval, and for the time since somebody last looked.
pub struct Recorder {
    measured: Tally,
    recent: Tally,
}

impl Recorder {
    /// With nothing in it.
    pub fn new() -> Self {
        Self { measured: Tally::default(), recent: Tally::default() }
    }

    /// An operation has ended at `now`. The measured interval has its answers, and the latencies of all operations that
    /// were to start in it, whenever they end.
    pub fn ended(&mut self, now: u64, interval: &std::ops::Range<u64>, end: End) {
        let latency = now.saturating_sub(end.intended).max(1);
        self.recent.latencies.saturating_record(latency);
        if interval.contains(&end.intended) {
            self.measured.latencies.saturating_record(latency);
        }
        match end.failed {
            None => {
                count_answer(&mut self.recent, end);
                if interval.contains(&now) {
                    count_answer(&mut self.measured, end);
                }
            }
            Some(kind) => {
                self.recent.errors.count(kind, 1);
                if now >= interval.start {
                    self.measured.errors.count(kind, 1);
                }
            }
        }
    }

    /// There was no answer from `since` to `now`.
    pub fn gap(&mut self, since: u64, now: u64, interval: &std::ops::Range<u64>) {
        self.recent.gap_max = self.recent.gap_max.max(now.saturating_sub(since));
        let within = now.min(interval.end).saturating_sub(since.max(interval.start));
        self.measured.gap_max = self.measured.gap_max.max(within);
    }

    /// An operation that was to start at `intended` was not answered when the run ended, at `now`: it has taken so long
    /// at least.
    pub fn unfinished(&mut self, now: u64, intended: u64, interval: &std::ops::Range<u64>) {
        if interval.contains(&intended) {
            self.measured.latencies.saturating_record(now.saturating_sub(intended).max(1));
        }
    }

    /// So many operations were sent and not answered when the run ended.
    pub fn unanswered(&mut self, count: u64) {
        self.measured.errors.count(Kind::Unanswered, count);
    }

    /// Adds to `sum` what came since the last call.
    pub fn take_recent(&mut self, sum: &mut Tally) {
        sum.add(&self.recent);
        self.recent.clear();
    }

    /// What the measured interval has so far.
    pub fn measured(&self) -> &Tally {
        &self.measured
    }
}

fn count_answer(tally: &mut Tally, end: End) {
    tally.ops += 1;
    tally.op_bytes += end.op_bytes as u64;
    tally.reply_bytes += end.reply_bytes as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(intended: u64) -> End {
        End { intended, failed: None, op_bytes: 16, reply_bytes: 2 }
    }

    #[test]
    fn answers_count_when_they_come_and_latencies_when_operations_were_due() {
        let interval = 1_000..2_000;
        let mut recorder = Recorder::new();
        recorder.ended(1_500, &interval, end(900));
        recorder.ended(1_999, &interval, end(1_000));
        recorder.ended(2_500, &interval, end(1_900));
        recorder.ended(2_600, &interval, end(2_000));
        let measured = recorder.measured();
        assert_eq!((measured.ops, measured.latencies.len(), measured.latencies.max()), (2, 2, 999));
        assert_eq!((measured.op_bytes, measured.reply_bytes), (32, 4));
        let mut recent = Tally::default();
        recorder.take_recent(&mut recent);
        assert_eq!((recent.ops, recent.latencies.len()), (4, 4));
        recorder.take_recent(&mut recent);
        assert_eq!(recent.ops, 4, "taken once");
    }

    #[test]
    fn errors_are_told_by_kind_and_a_timeout_has_its_latency() {
        let interval = 1_000..2_000;
        let mut recorder = Recorder::new();
        let failed = |kind| End { failed: Some(kind), ..end(1_100) };
        recorder.ended(1_200, &interval, failed(Kind::WrongReply));
        recorder.ended(9_100, &interval, failed(Kind::UnknownDeadline));
        recorder.unfinished(5_000, 1_500, &interval);
        recorder.unanswered(1);
        let measured = recorder.measured();
        let by_kind: Vec<_> = measured.errors.by_kind().map(|(kind, count)| (kind.name(), count)).collect();
        assert_eq!(by_kind, [("unknown_deadline", 1), ("wrong_reply", 1), ("unanswered", 1)]);
        assert_eq!((measured.errors.total(), measured.ops, measured.latencies.len()), (3, 0, 3));
        assert!(measured.latencies.max() >= 8_000);
    }

    #[test]
    fn a_gap_counts_as_far_as_it_lies_in_the_interval() {
        let interval = 1_000..2_000;
        let mut recorder = Recorder::new();
        recorder.gap(0, 1_100, &interval);
        assert_eq!(recorder.measured().gap_max, 100);
        recorder.gap(1_900, 9_000, &interval);
        assert_eq!(recorder.measured().gap_max, 100);
        recorder.gap(1_500, 1_800, &interval);
        assert_eq!(recorder.measured().gap_max, 300);
    }
}
