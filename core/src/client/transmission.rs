//! A Request on its way: to whom it went, when it goes again, and what came back; and the times by which the client
//! decides that an answer is late.

use super::answers::Answers;
use crate::door::To;
use crate::ids::{Nanos, ReplicaId};
use crate::limits::{CLIENT_TIMEOUT_FIRST, CLIENT_TIMEOUT_MAX, CLIENT_TIMEOUT_MIN};
use crate::quorum::ReplicaSet;
use crate::wire::request::SignedRequest;

/// A signed Request that is sent until it is answered.
#[derive(Clone, Debug)]
pub(super) struct Transmission {
    pub(super) request: SignedRequest,
    pub(super) answers: Answers,
    pub(super) first_sent: Nanos,
    /// When it goes out again.
    pub(super) resend_at: Nanos,
    /// How often it went out again.
    pub(super) resends: u32,
    /// Who it went to last.
    pub(super) to: To,
    /// Who of them said BUSY since.
    pub(super) busy: ReplicaSet,
    /// A BUSY about it was believed.
    pub(super) met_busy: bool,
}

impl Transmission {
    /// A Request that goes out now, for the first time.
    pub(super) fn new(request: SignedRequest, replicas: usize, to: To, now: Nanos, timeout: u64) -> Self {
        Self {
            request,
            answers: Answers::new(replicas),
            first_sent: now,
            resend_at: now.after(timeout),
            resends: 0,
            to,
            busy: ReplicaSet::EMPTY,
            met_busy: false,
        }
    }

    /// Whether it waits for anything of `replica`.
    pub(super) fn is_for(&self, replica: ReplicaId) -> bool {
        match self.to {
            To::All => true,
            To::One(to) => to == replica,
        }
    }

    /// Notes that it goes out again now, and says to whom: to all, unless its primary said that it is busy.
    pub(super) fn resend(&mut self, now: Nanos, timeout: u64) -> To {
        if self.busy.is_empty() {
            self.to = To::All;
        }
        self.resends += 1;
        self.busy = ReplicaSet::EMPTY;
        self.resend_at = now.after((timeout << self.resends.min(8)).min(CLIENT_TIMEOUT_MAX));
        self.to
    }
}

/// The client's own latencies of late, and what follows from them.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    last: Vec<u64>,
    next: usize,
    timeout: u64,
}

impl Latencies {
    const KEPT: usize = 128;
    /// How many new ones it takes to look at them again.
    const STRIDE: usize = 16;

    pub(super) fn new() -> Self {
        Self { last: Vec::with_capacity(Self::KEPT), next: 0, timeout: CLIENT_TIMEOUT_FIRST }
    }

    /// After how long an answer is late: four times the 99th percentile.
    pub(super) fn timeout(&self) -> u64 {
        self.timeout
    }

    /// Takes one more in. It counts for no more than the present timeout, so that one view change moves the next
    /// timeouts by a step and not to the end.
    pub(super) fn record(&mut self, latency: u64) {
        let latency = latency.min(self.timeout);
        if self.last.len() < Self::KEPT {
            self.last.push(latency);
        } else {
            self.last[self.next % Self::KEPT] = latency;
        }
        self.next += 1;
        if self.next.is_multiple_of(Self::STRIDE) {
            let mut sorted = self.last.clone();
            sorted.sort_unstable();
            let p99 = sorted[(sorted.len() * 99).div_ceil(100) - 1];
            self.timeout = (4 * p99).clamp(CLIENT_TIMEOUT_MIN, CLIENT_TIMEOUT_MAX);
        }
    }
}
