//! Committed batches go into the service, strictly in the order of their Seqs, one at a time: whether a Request is
//! admitted depends on the results of everything before it (PROTOCOL §5, §6.6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::sessions::Verdict;
use super::trail::{self, chained};
use super::{Detail, Replica};
use crate::config::ClusterConfig;
use crate::door::{Effects, Execute, Executed};
use crate::hash::{Context, Hasher, hash, merkle_root};
use crate::ids::{Digest, LogPosition, Seq};
use crate::journal::record::{Committed, Record, Vote};
use crate::snapshot::{CachedReply, Scalars};
use crate::wire::message::{BatchHeader, Code, Step};
use crate::wire::opening::Opening;
use crate::wire::request::{Body, RequestBounds};

/// Batches that are read back from the journal ahead of their turn.
const READ_AHEAD: u64 = 8;

/// How far execution is, and the replicated values that go with it.
#[derive(Debug)]
pub struct Executing {
    /// The last Seq executed.
    pub last: Seq,
    /// The chain over the batches up to it.
    pub chain: Digest,
    /// The chain over the replies up to it.
    pub exec: Digest,
    /// The agreed time of the last batch.
    pub time_ns: u64,
    running: Option<Running>,
    /// Batches read back from the journal.
    loaded: BTreeMap<Seq, Ready>,
    loading: BTreeSet<(LogPosition, Seq)>,
    state: State,
    /// Memory for the verdicts on the next batch, and for its replies; empty in between.
    verdicts: Vec<Verdict>,
    replies: Vec<CachedReply>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The service is being restored.
    Installing(Seq),
    /// The next snapshot must be ordered first.
    Held,
    Stopped,
}

/// A committed batch with its body.
#[derive(Clone, Debug)]
pub struct Ready {
    /// D.
    pub digest: Digest,
    /// The header.
    pub header: BatchHeader,
    /// The body.
    pub body: Arc<Body>,
}

/// The batch that the service has.
#[derive(Debug)]
struct Running {
    seq: Seq,
    ready: Ready,
    verdicts: Vec<Verdict>,
}

impl Executing {
    /// At the state that a snapshot, or nothing, left.
    #[must_use]
    pub fn new(scalars: &Scalars) -> Self {
        Self {
            last: scalars.seq,
            chain: scalars.chain,
            exec: scalars.exec,
            time_ns: scalars.time_ns,
            running: None,
            loaded: BTreeMap::new(),
            loading: BTreeSet::new(),
            state: State::Open,
            verdicts: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// The service must restore the snapshot at `seq` first.
    pub fn install(&mut self, seq: Seq) {
        self.state = State::Installing(seq);
    }

    /// Whether the service is being restored.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        matches!(self.state, State::Installing(_))
    }

    /// Whether the service has nothing to do, and nothing keeps it from the next batch.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.running.is_none() && self.state == State::Open
    }

    /// Goes on from the state that a snapshot of others left. What is being read back is still waited for.
    pub fn jump(&mut self, scalars: &Scalars) {
        assert!(self.running.is_none(), "nothing of the state that is given up is at work");
        (self.last, self.chain, self.exec) = (scalars.seq, scalars.chain, scalars.exec);
        self.time_ns = scalars.time_ns;
        self.loaded = self.loaded.split_off(&scalars.seq.next());
    }

    /// Nothing is executed until a snapshot could be ordered.
    pub fn hold(&mut self) {
        match self.state {
            State::Open => self.state = State::Held,
            State::Stopped => {}
            State::Held | State::Installing(_) => unreachable!("held at most once, between two batches"),
        }
    }

    /// The snapshot is ordered.
    pub fn resume(&mut self) {
        if self.state == State::Held {
            self.state = State::Open;
        }
    }

    /// Nothing is executed any more.
    pub fn stop(&mut self) {
        self.state = State::Stopped;
    }
}

impl Replica {
    /// Gives the service the next batch, if it is committed, here, and the service is free.
    pub(super) fn execute_ready(&mut self, out: &mut Effects) {
        if self.quarantine.is_suspect() {
            return;
        }
        while self.executing.running.is_none() && self.executing.state == State::Open {
            let next = crate::mutant!(M47ExecutedOutOfOrder, self.executing.last.next(), self.any_committed());
            let Some(ready) = self.committed_batch(next) else {
                self.read_ahead(out);
                return;
            };
            self.start(next, ready, out);
        }
    }

    /// The service executed the batch it had.
    pub(super) fn on_executed(&mut self, seq: Seq, outcome: &Executed, out: &mut Effects) {
        let running = self.executing.running.take().expect("Executed answers an Execute");
        assert_eq!(running.seq, seq, "Executed answers the Execute that is outstanding");
        self.finish(running, outcome, out);
    }

    /// A record was read back; it may be a batch to be executed.
    pub(super) fn on_loaded_batch(&mut self, at: LogPosition, record: Option<&Record>) {
        let waiting: Vec<_> = self.executing.loading.iter().filter(|(load, _)| *load == at).copied().collect();
        for (at, seq) in waiting {
            self.executing.loading.remove(&(at, seq));
            if seq <= self.executing.last {
                continue;
            }
            let ready = record.and_then(|record| read_batch(record, &self.config));
            match ready {
                Some(ready) => {
                    self.counters.batches_loaded += 1;
                    self.executing.loaded.insert(seq, ready);
                }
                // Unreadable: a peer has it.
                None => self.catch_up.lost(seq),
            }
        }
    }

    pub(super) fn on_installed(&mut self, seq: Seq, out: &mut Effects) {
        if self.executing.state == State::Installing(seq) {
            self.executing.state = State::Open;
            // A service with a store of its own may begin it anew from here.
            out.snapshot_stable = Some(seq);
        }
    }

    /// The replicated values as of the last Seq executed.
    pub(super) fn scalars(&self) -> Scalars {
        Scalars {
            seq: self.executing.last,
            chain: self.executing.chain,
            exec: self.executing.exec,
            time_ns: self.executing.time_ns,
            previous_state_bytes: self.snapshots.previous_state_bytes(),
        }
    }

    /// What is committed at `seq`, with its body, if memory holds it.
    pub(super) fn committed_batch(&self, seq: Seq) -> Option<Ready> {
        if let Some(slot) = self.pbft.slot(seq)
            && let (Some(certificate), Some(body)) = (&slot.committed, slot.committed_body())
        {
            let body = Arc::clone(body);
            return Some(Ready { digest: certificate.position.digest, header: certificate.header, body });
        }
        self.catch_up.backlog(seq).or_else(|| self.executing.loaded.get(&seq)).cloned()
    }

    /// Whether `seq` is committed here, in memory or in the journal, and its batch to be had.
    pub(super) fn is_committed(&self, seq: Seq) -> bool {
        let in_window = self.pbft.slot(seq).is_some_and(|slot| slot.committed.is_some());
        let in_journal = self.index.get(seq).is_some_and(|records| records.committed != LogPosition(0));
        self.catch_up.backlog(seq).is_some() || (!self.catch_up.is_lost(seq) && (in_window || in_journal))
    }

    fn start(&mut self, seq: Seq, ready: Ready, out: &mut Effects) {
        let time_ns =
            crate::mutant!(M46TimeStandsStill, ready.header.time_ns.max(self.executing.time_ns.saturating_add(1)), 1);
        self.executing.time_ns = time_ns;
        let verdicts = self.admit(seq, &ready.body);
        let runs = |verdict: &Verdict| *verdict == Verdict::Run;
        let count = verdicts.iter().filter(|verdict| runs(verdict)).count();
        let body = Arc::clone(&ready.body);
        let running = Running { seq, ready, verdicts };
        if count == 0 {
            let delta = Hasher::new(Context::Delta).finish();
            return self.finish(running, &Executed { delta, ..Executed::default() }, out);
        }
        let mut admitted = Vec::with_capacity(count);
        admitted.extend((0..).zip(&running.verdicts).filter(|(_, verdict)| runs(verdict)).map(|(index, _)| index));
        self.executing.running = Some(running);
        out.execute.push(Execute { seq, time_ns, body, admitted });
    }

    fn admit(&mut self, seq: Seq, body: &Body) -> Vec<Verdict> {
        let (sessions, verifier) = (&mut self.sessions, &self.verifier);
        let mut verdicts = std::mem::take(&mut self.executing.verdicts);
        verdicts.extend((0..).zip(body.entries()).map(|(index, entry)| {
            let admitted = |opening: &Opening| verifier.is_admitted(entry.client, opening.certificate.as_ref());
            sessions.admit(seq, index, entry, body.bytes(), &admitted)
        }));
        verdicts
    }

    /// Keeps results, answers, and moves the chains on.
    fn finish(&mut self, running: Running, outcome: &Executed, out: &mut Effects) {
        let Running { seq, ready, mut verdicts } = running;
        let mut replies = std::mem::take(&mut self.executing.replies);
        let mut results = Results { outcome, next: 0, start: 0 };
        let mut long_ago = 0;
        for (entry, verdict) in ready.body.entries().iter().zip(verdicts.drain(..)) {
            let reply = match verdict {
                Verdict::Run => {
                    let (bytes, digest) = results.next();
                    self.counters.operations += u64::from(entry.operations);
                    self.sessions.complete(seq, entry, bytes, digest)
                }
                Verdict::Answer(reply) => {
                    let repeated = reply.seq != seq;
                    let executed_long_ago = reply.seq.plus(self.config.params().window) < seq;
                    long_ago += u32::from(executed_long_ago || reply.code == Code::AlreadyAcked);
                    self.counters.repeated += u64::from(repeated);
                    self.counters.refused += u64::from(!repeated && reply.code != Code::Ok);
                    reply
                }
            };
            self.pool.executed(&entry.client, &entry.digest);
            replies.push(reply);
        }
        assert_eq!(results.next, outcome.ends.len(), "the shell gives results of exactly the admitted Requests");
        if replies.iter().any(|reply| reply.seq == seq && reply.code == Code::Ok) {
            self.views.executed_effective();
        }
        self.counters.requests += replies.len() as u64;
        self.counters.batches += 1;
        self.fairness.executed(replies.len() as u32, long_ago);
        self.advance_chains(seq, ready.digest, &replies, outcome.delta);
        for (entry, reply) in ready.body.entries().iter().zip(&replies) {
            let detail = if reply.seq == seq { Detail::Designated } else { Detail::Full };
            self.answer(entry, reply, detail, out);
        }
        replies.clear();
        (self.executing.verdicts, self.executing.replies) = (verdicts, replies);
        self.executed_batch(seq, ready.body.bytes().len() as u64, out);
    }

    fn advance_chains(&mut self, seq: Seq, digest: Digest, replies: &[CachedReply], delta: Digest) {
        let executing = &mut self.executing;
        let reply_root = merkle_root(replies.iter().map(|reply| reply.digest));
        let number = seq.0.to_le_bytes();
        executing.chain = hash(Context::Chain, &[&executing.chain.0, &number, &digest.0]);
        let step = Step { reply_root, delta };
        executing.exec = chained(executing.exec, seq, step);
        executing.last = seq;
        let (chain, exec) = (executing.chain, executing.exec);
        self.note_step(trail::Executed { seq, batch: digest, chain, exec, step });
    }

    fn executed_batch(&mut self, seq: Seq, body_bytes: u64, out: &mut Effects) {
        // Of what is executed behind the window nobody knows what was accepted here: it is caught up with now.
        if self.pbft.is_overruled(seq) || seq == self.pbft.stable() {
            self.forget_requests_not_open();
        }
        self.pbft.executed(seq);
        self.catch_up.executed(seq);
        self.executing.loaded.remove(&seq);
        self.snapshots.count(body_bytes);
        if seq.is_checkpoint(self.config.params().checkpoint_interval) {
            self.take_checkpoint(seq, out);
            self.snapshot_when_due(seq, out);
        }
    }

    /// Asks for the next batches that only the journal holds.
    fn read_ahead(&mut self, out: &mut Effects) {
        for ahead in 1..=READ_AHEAD {
            let seq = self.executing.last.plus(ahead);
            if self.committed_batch(seq).is_some() {
                continue;
            }
            let is_committed = self.is_committed(seq);
            let Some(records) = self.index.get(seq).filter(|_| is_committed) else { return };
            let at = records.body;
            let readable = at != LogPosition(0) && at <= self.durable && !self.catch_up.is_lost(seq);
            if readable && self.executing.loading.insert((at, seq)) {
                self.loading.begin(at, out);
            }
        }
    }

    /// For the mutant that executes whatever is committed.
    #[cfg(feature = "mutants")]
    fn any_committed(&self) -> Seq {
        let open = self.pbft.slots().find(|slot| slot.seq > self.executing.last && slot.committed_body().is_some());
        open.filter(|slot| slot.committed.is_some()).map_or(self.executing.last.next(), |slot| slot.seq)
    }
}

/// The batch that a VOTE or COMMITTED holds; `None` also where it has rotted since it was written: nothing but its own
/// digests stands for what is read back from a running journal (D5).
pub(super) fn read_batch(record: &Record, config: &ClusterConfig) -> Option<Ready> {
    let (position, header, body) = match record {
        Record::Vote(Vote { position, header, body, .. }) => (position, header, body.as_ref()?),
        Record::Committed(Committed { certificate, body }) => {
            (&certificate.position, &certificate.header, body.as_ref()?)
        }
        Record::Cert(_)
        | Record::NewView(_)
        | Record::CkptVote { .. }
        | Record::SnapVote { .. }
        | Record::SnapStable(_)
        | Record::Stable(_)
        | Record::Evidence(_) => return None,
    };
    let body = Arc::new(Body::parse(body.clone(), RequestBounds::from(config.params())).ok()?);
    let is_it = header.digest(config.cluster_id(), position.epoch) == position.digest;
    let is_whole = is_it && *header == body.header(header.time_ns);
    is_whole.then_some(Ready { digest: position.digest, header: *header, body })
}

/// The results of the admitted Requests, one after the other.
struct Results<'a> {
    outcome: &'a Executed,
    next: usize,
    start: usize,
}

impl Results<'_> {
    fn next(&mut self) -> (bytes::Bytes, Option<Digest>) {
        let (end, digest) = self.outcome.ends[self.next];
        let bytes = self.outcome.results.slice(self.start..end as usize);
        self.start = end as usize;
        self.next += 1;
        (bytes, digest)
    }
}
