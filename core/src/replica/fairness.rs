//! What only the primary's ill will explains, though batches go on being executed: a Request that is passed over for ever,
//! and batches of what was executed long ago (PROTOCOL §13; after Clement et al., "Making Byzantine Fault Tolerant Systems
//! Tolerate Byzantine Faults", NSDI 2009). Neither looks at a clock, so that load alone makes nobody a suspect.
//!
//! Kept here: of each client that waits, its oldest Request, at most one; what is counted against the primary was ordered
//! after that Request had come.

use std::collections::{HashMap, VecDeque};

use super::pool::Pool;
use crate::config::ProtocolParams;
use crate::ids::{Digest, PublicKey, Seq};

/// A Request may see so many full pipelines of later ones pass.
const PIPELINES: u64 = 4;
/// Batches over which the share of repetitions is taken.
const BATCHES: usize = 64;

/// Why the primary is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfair {
    /// A Request waits, and too many later ones were executed.
    PassesOver,
    /// Most of what is ordered was executed long ago, while Requests wait.
    Repeats,
}

/// What is held against the primary of the present view.
#[derive(Debug)]
pub struct Fairness {
    patience: u64,
    watched: HashMap<PublicKey, Watched, foldhash::fast::FixedState>,
    /// Of the last batches, how many Requests each had, and how many of those repeated old ones.
    batches: VecDeque<(u32, u32)>,
    ordered: u64,
    repeated: u64,
}

/// The oldest waiting Request of a client.
#[derive(Clone, Copy, Debug)]
struct Watched {
    digest: Digest,
    /// Nothing up to here counts: it may have been ordered before the Request came.
    after: Seq,
    /// With more Requests executed than this it has been passed over; known when `after` is executed.
    limit: Option<u64>,
}

impl Fairness {
    pub fn new(params: &ProtocolParams) -> Self {
        let pipeline = u64::from(params.batch_requests_max).saturating_mul(params.pipeline_max);
        Self {
            patience: PIPELINES.saturating_mul(pipeline),
            watched: HashMap::default(),
            batches: VecDeque::with_capacity(BATCHES),
            ordered: 0,
            repeated: 0,
        }
    }

    /// A new primary: what the old one did is not held against it.
    pub fn forget(&mut self) {
        self.watched.clear();
        self.batches.clear();
        (self.ordered, self.repeated) = (0, 0);
    }

    /// A batch was executed.
    pub fn executed(&mut self, requests: u32, repeated: u32) {
        if self.batches.len() == BATCHES
            && let Some((ordered, repeated)) = self.batches.pop_front()
        {
            self.ordered -= u64::from(ordered);
            self.repeated -= u64::from(repeated);
        }
        self.batches.push_back((requests, repeated));
        self.ordered += u64::from(requests);
        self.repeated += u64::from(repeated);
    }

    /// Looks at what waits, now and then. `executed` and `requests`: the last Seq executed and how many Requests that made
    /// so far; `known`: the highest Seq that is known to be ordered.
    pub fn judge(&mut self, pool: &Pool, (executed, requests): (Seq, u64), known: Seq) -> Option<Unfair> {
        let mut passed_over = false;
        let mut former = std::mem::take(&mut self.watched);
        for oldest in pool.oldest_of_each() {
            let (client, digest) = (oldest.entry.client, oldest.entry.digest);
            let same = former.remove(&client).filter(|watched| watched.digest == digest);
            let mut watched = same.unwrap_or(Watched { digest, after: known, limit: None });
            if watched.limit.is_none() && executed >= watched.after {
                // Whatever else waits here may rightly come first.
                watched.limit = Some(requests + pool.waiting() as u64 + self.patience);
            }
            passed_over |= watched.limit.is_some_and(|limit| requests > limit);
            self.watched.insert(client, watched);
        }
        let repeats = self.batches.len() == BATCHES && 4 * self.repeated > 3 * self.ordered && pool.waiting() > 0;
        if passed_over {
            return Some(Unfair::PassesOver);
        }
        repeats.then_some(Unfair::Repeats)
    }
}
