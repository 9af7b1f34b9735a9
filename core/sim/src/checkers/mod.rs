//! Judges: each watches what goes in and out of every core of a run and keeps its own books. They share the message
//! types with the core and none of its decisions: quorums are counted, orders replayed and answers computed anew.

use std::fmt;
use std::sync::Arc;

use bft_core::auth::Scheme;
use bft_core::client::Unknown;
use bft_core::config::ClusterConfig;
use bft_core::divergence::Alarm;
use bft_core::door::{Execute, Executed, Persist, Place};
use bft_core::evidence::{Accusation, Accused};
use bft_core::ids::{LogPosition, Nanos, PublicKey, ReplicaId, Seq};
use bft_core::journal::record::Record;
use bft_core::journal::superblock::Superblock;
use bft_core::ordering::pbft::Pbft;
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::Message;

use crate::ledger::Entry;
use crate::world::Life;

use divergence::Trust;

pub mod agreement;
pub mod asked;
pub mod certificates;
pub mod convergence;
pub mod divergence;
pub mod durability;
pub mod durable;
pub mod evidence;
pub mod exactly_once;
pub mod execution;
pub mod signatures;
pub mod validity;
pub mod views;

/// Who found the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Oracle {
    /// One Seq, one batch, at all replicas (I1).
    Agreement,
    /// Seq after Seq, each once in a life (I2).
    Execution,
    /// Only what its client submitted (I3).
    Validity,
    /// Each operation has one effect or none, and answers are those of a sequential execution (I4, I5).
    ExactlyOnce,
    /// Nothing is said before what it rests on is on disk, and what was on disk is found again (I8).
    Durable,
    /// One signature of a replica for one place (I7).
    Signatures,
    /// Every certificate holds what it claims (I10).
    Certificates,
    /// Nobody runs ahead, and a view begins with what its VIEW-CHANGEs say (I10).
    Views,
    /// Nobody correct is accused; who is heard to contradict itself is (I9).
    Evidence,
    /// Who differs is found and named, and nobody else (K4).
    Divergence,
    /// What a client was told outlasts everything (I15).
    Durability,
    /// When the faults end, everything is finished and all are equal (I17).
    Convergence,
    /// A core stopped itself, or broke one of its own assertions.
    Assertion,
}

impl Oracle {
    /// Every oracle.
    pub const ALL: [Self; 13] = [
        Self::Agreement,
        Self::Execution,
        Self::Validity,
        Self::ExactlyOnce,
        Self::Durable,
        Self::Signatures,
        Self::Certificates,
        Self::Views,
        Self::Evidence,
        Self::Divergence,
        Self::Durability,
        Self::Convergence,
        Self::Assertion,
    ];

    /// The name in `mutants.toml` and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agreement => "agreement",
            Self::Execution => "execution",
            Self::Validity => "validity",
            Self::ExactlyOnce => "exactly-once",
            Self::Durable => "durable",
            Self::Signatures => "signatures",
            Self::Certificates => "certificates",
            Self::Views => "views",
            Self::Evidence => "evidence",
            Self::Divergence => "divergence",
            Self::Durability => "durability",
            Self::Convergence => "convergence",
            Self::Assertion => "assertion",
        }
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who found it.
    pub oracle: Oracle,
    /// When.
    pub at: Nanos,
    /// What.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {}.{:03} ms: {}",
            self.oracle.name(),
            self.at.0 / 1_000_000,
            self.at.0 / 1_000 % 1_000,
            self.text
        )
    }
}

/// What a judge says: nothing, or what is wrong.
pub type Verdict = Result<(), String>;

/// All judges of a run. The first violation is kept; a run that has one goes no further.
pub struct Checks {
    now: u64,
    violation: Option<Violation>,
    doubled: ReplicaSet,
    put_back: ReplicaSet,
    agreement: agreement::Agreement,
    execution: execution::Execution,
    validity: validity::Validity,
    exactly_once: exactly_once::ExactlyOnce,
    durable: durable::Durable,
    signatures: signatures::Signatures,
    asked: asked::Asked,
    certificates: certificates::Certificates,
    views: views::Views,
    evidence: evidence::Evidences,
    divergence: divergence::Divergence,
    durability: durability::Durability,
}

impl Checks {
    /// Judges for a cluster in which `villains` attack; `witness` verifies signatures. Of replicas that act twice under one
    /// name nothing is expected but certificates that hold: each half may be right, the replica is not.
    #[must_use]
    pub fn new(
        config: &Arc<ClusterConfig>,
        witness: Arc<dyn Scheme>,
        villains: ReplicaSet,
        doubled: &[ReplicaId],
    ) -> Self {
        let n = config.n();
        Self {
            now: 0,
            violation: None,
            doubled: doubled.iter().copied().collect(),
            put_back: ReplicaSet::EMPTY,
            agreement: agreement::Agreement::default(),
            execution: execution::Execution::new(n),
            validity: validity::Validity::default(),
            exactly_once: exactly_once::ExactlyOnce::default(),
            durable: durable::Durable::new(config),
            signatures: signatures::Signatures::new(config),
            asked: asked::Asked::new(config),
            evidence: evidence::Evidences::new(config, Arc::clone(&witness)),
            divergence: divergence::Divergence::default(),
            certificates: certificates::Certificates::new(Arc::clone(config), witness),
            views: views::Views::new(config, doubled.iter().copied().fold(villains, ReplicaSet::with)),
            durability: durability::Durability::new(config, villains),
        }
    }

    /// The time that violations are dated with.
    pub fn at(&mut self, now: u64) {
        self.now = now;
    }

    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// Keeps a violation that somebody else found.
    pub fn report(&mut self, oracle: Oracle, text: String) {
        self.violation.get_or_insert(Violation { oracle, at: Nanos(self.now), text });
    }

    /// A client submitted an operation.
    pub fn submitted(&mut self, client: PublicKey, entry: Entry, bytes: &[u8]) {
        self.validity.submitted(client, entry, bytes);
    }

    /// A hostile client signed an operation beside its core.
    pub fn signed(&mut self, client: PublicKey, entry: Entry, bytes: Vec<u8>) {
        self.validity.signed(client, entry, bytes);
    }

    /// A core asked for a record to be made durable.
    pub fn persisted(&mut self, replica: ReplicaId, persist: &Persist) {
        if !self.is_bound(replica) {
            return self.persisted_unbound(replica, persist);
        }
        self.durable.persisted(replica, persist);
        match &persist.place {
            Place::Journal(record) => {
                self.evidence.record(replica, persist.position, record);
                self.record(replica, record);
            }
            Place::Superblock(superblock) => {
                let verdict = superblock.stable.as_ref().map_or(Ok(()), |stable| self.certificates.stable(stable));
                self.judge(Oracle::Certificates, replica, verdict);
                let verdict = self.certificates.named(superblock.snapshot);
                self.judge(Oracle::Certificates, replica, verdict);
            }
        }
    }

    /// Whether a replica is held to what its disk once held: one of two under one name is not, nor one whose disk was put
    /// back. Of either nothing is expected but certificates that hold.
    fn is_bound(&self, replica: ReplicaId) -> bool {
        !self.doubled.contains(replica) && !self.put_back.contains(replica)
    }

    /// The halves number their records alike, and so does a disk that went back: what was asked for counts as held.
    fn persisted_unbound(&mut self, replica: ReplicaId, persist: &Persist) {
        if let Place::Journal(Record::Cert(certificate)) = &persist.place {
            self.durability.certified(replica, certificate.position.seq, certificate.header.merkle_root);
        }
    }

    fn record(&mut self, replica: ReplicaId, record: &Record) {
        let verdict = self.certificates.record(record);
        self.judge(Oracle::Certificates, replica, verdict);
        if let Record::Committed(committed) = record {
            let verdict = self.agreement.committed(replica, &committed.certificate.position);
            self.judge(Oracle::Agreement, replica, verdict);
        }
    }

    /// Everything up to `upto` is on the replica's stable storage.
    pub fn durable(&mut self, replica: ReplicaId, upto: LogPosition) {
        if !self.is_bound(replica) {
            return;
        }
        self.evidence.durable(replica, upto);
        let certified = self.durable.durable(replica, upto);
        for (seq, merkle_root) in certified {
            self.durability.certified(replica, seq, merkle_root);
        }
    }

    /// A message leaves a replica.
    pub fn released(&mut self, replica: ReplicaId, message: &Message) {
        if !self.doubled.contains(replica) {
            let verdict = self.asked.released(replica, message);
            self.judge(Oracle::Signatures, replica, verdict);
        }
        if self.is_bound(replica) {
            let verdict = self.durable.released(replica, message);
            self.judge(Oracle::Durable, replica, verdict);
            let verdict = self.signatures.released(message);
            self.judge(Oracle::Signatures, replica, verdict);
            let verdict = self.views.released(replica, message);
            self.judge(Oracle::Views, replica, verdict);
        }
        let verdict = self.certificates.released(message);
        self.judge(Oracle::Certificates, replica, verdict);
    }

    /// A core tells of evidence.
    pub fn accused(&mut self, replica: ReplicaId, accusation: &Accusation, villains: ReplicaSet) {
        let faulty = self.doubled.iter().chain(self.put_back.iter()).fold(villains, ReplicaSet::with);
        let verdict = self.evidence.told(replica, accusation, faulty);
        self.judge(Oracle::Evidence, replica, verdict);
    }

    /// A core is about to take a message. Gives what it must tell of when it has.
    pub fn hears(&mut self, replica: ReplicaId, life: Life, ordering: &Pbft, message: &Message) -> Option<Accused> {
        self.evidence.hears(replica, life, ordering, message)
    }

    /// A core has taken both halves of a contradiction.
    pub fn must_have_told(&mut self, replica: ReplicaId, accused: &Accused) {
        let verdict = self.evidence.must_have_told(replica, accused);
        self.judge(Oracle::Evidence, replica, verdict);
    }

    /// A core lets go of its journal below `position`.
    pub fn journal_dropped(&mut self, replica: ReplicaId, position: LogPosition) {
        if !self.is_bound(replica) {
            return;
        }
        let verdict = self.durable.journal_dropped(replica, position);
        self.judge(Oracle::Durable, replica, verdict);
    }

    /// A core lets go of its snapshots below `seq`.
    pub fn snapshots_removed(&mut self, replica: ReplicaId, seq: Seq) {
        if !self.is_bound(replica) {
            return;
        }
        let verdict = self.durable.snapshots_removed(replica, seq);
        self.judge(Oracle::Durable, replica, verdict);
    }

    /// The disk of a replica was put back to an earlier state of itself.
    pub fn put_back(&mut self, replica: ReplicaId) {
        self.put_back.insert(replica);
        self.views.put_back(replica);
    }

    /// A replica found that it signed what it does not know of. Nobody does whose disk kept what it held.
    pub fn learns(&mut self, replica: ReplicaId) {
        self.asked.learns(replica);
        if self.is_bound(replica) {
            let text = "becomes a learner, and its disk never went back".into();
            self.judge(Oracle::Signatures, replica, Err(text));
        }
    }

    /// A message that arrived is about to be taken.
    pub fn arrives(&mut self, replica: ReplicaId, from: ReplicaId, message: &Message) {
        self.asked.hears(replica, from, message);
    }

    /// A replica lost what its journal had not made durable.
    pub fn crashed(&mut self, replica: ReplicaId) {
        self.durable.crashed(replica);
    }

    /// A replica starts and finds that its journal is damaged.
    pub fn damaged(&mut self, replica: ReplicaId) {
        self.durable.damaged(replica);
        self.evidence.damaged(replica);
        self.signatures.damaged(replica);
    }

    /// A replica starts with what it read from its disk.
    pub fn recovered(&mut self, replica: ReplicaId, superblock: &Superblock, records: &[(LogPosition, Record)]) {
        if self.doubled.contains(replica) {
            return;
        }
        self.asked.starts(replica, superblock.learner.is_some());
        if !self.is_bound(replica) {
            return;
        }
        self.views.recovered(replica, superblock.promised);
        let verdict = self.evidence.recovered(replica, records);
        self.judge(Oracle::Evidence, replica, verdict);
        let certified = match self.durable.recovered(replica, superblock, records) {
            Ok(certified) => certified,
            Err(text) => return self.judge(Oracle::Durable, replica, Err(text)),
        };
        for (seq, merkle_root) in certified {
            self.durability.certified(replica, seq, merkle_root);
        }
    }

    /// What a disk holds for certain is compared with what was reported durable.
    pub fn audited(&mut self, replica: ReplicaId, superblock: &Superblock, records: &[(LogPosition, Record)]) {
        if !self.is_bound(replica) {
            return;
        }
        let verdict = self.durable.audited(replica, superblock, records);
        self.judge(Oracle::Durable, replica, verdict);
    }

    /// A life of a replica begins with the state of `seq`.
    pub fn state_at(&mut self, replica: ReplicaId, seq: Seq) {
        self.execution.state_at(replica, seq);
        self.divergence.state_at(replica);
    }

    /// A core tells that something differs.
    pub fn alarmed(&mut self, replica: ReplicaId, trust: Trust, alarm: &Alarm) {
        let verdict = self.divergence.told(replica, trust, alarm);
        self.judge(Oracle::Divergence, replica, verdict);
    }

    /// At the end, of a replica that is in order and knows of this checkpoint.
    pub fn has_noticed(&mut self, replica: ReplicaId, stable: Seq) {
        let verdict = self.divergence.noticed(replica, stable);
        self.judge(Oracle::Divergence, replica, verdict);
    }

    /// A core has taken a step.
    pub fn stands(&mut self, replica: ReplicaId, ordering: &Pbft) {
        if !self.is_bound(replica) {
            return;
        }
        let verdict = self.views.stands(replica, ordering);
        self.judge(Oracle::Views, replica, verdict);
    }

    /// A core orders a snapshot of the state at `seq`.
    pub fn snapshot_ordered(&mut self, replica: ReplicaId, seq: Seq) {
        if self.doubled.contains(replica) {
            return;
        }
        let verdict = self.execution.snapshot_ordered(replica, seq);
        self.judge(Oracle::Execution, replica, verdict);
    }

    /// A core asked for a batch to be executed.
    pub fn execute(&mut self, replica: ReplicaId, order: &Execute) {
        if self.doubled.contains(replica) {
            return;
        }
        let verdict = self.execution.execute(replica, order);
        self.judge(Oracle::Execution, replica, verdict);
        let verdict = self.agreement.execute(replica, order);
        self.judge(Oracle::Agreement, replica, verdict);
        let verdict = self.durability.execute(order);
        self.judge(Oracle::Durability, replica, verdict);
        let verdict = self.validity.execute(order);
        self.judge(Oracle::Validity, replica, verdict);
        if self.violation.is_none() {
            let verdict = self.exactly_once.execute(order);
            self.judge(Oracle::ExactlyOnce, replica, verdict);
        }
    }

    /// A service executed a batch.
    pub fn executed(&mut self, replica: ReplicaId, trust: Trust, seq: Seq, outcome: &Executed) {
        if self.doubled.contains(replica) {
            return;
        }
        self.divergence.executed(replica, trust, seq, outcome);
        if trust == Trust::Drifts {
            return;
        }
        let verdict = self.exactly_once.executed(seq, outcome);
        self.judge(Oracle::ExactlyOnce, replica, verdict);
    }

    /// A client was told that an operation is done.
    pub fn done(&mut self, entry: Entry, seq: Seq, result: &[u8]) {
        self.durability.done(entry, seq);
        let verdict = self.exactly_once.done(entry, seq, result);
        self.judge_client(Oracle::ExactlyOnce, verdict);
    }

    /// A client was told that an operation is done, and that its result was too large to be kept.
    pub fn executed_unseen(&mut self, entry: Entry, seq: Seq) {
        self.durability.done(entry, seq);
        let verdict = self.exactly_once.executed_unseen(entry, seq);
        self.judge_client(Oracle::ExactlyOnce, verdict);
    }

    /// A client was told that an operation was not executed and never will be.
    pub fn never(&mut self, entry: Entry) {
        let verdict = self.exactly_once.never(entry);
        self.judge_client(Oracle::ExactlyOnce, verdict);
    }

    /// A client was told that nobody knows how an operation ends.
    pub fn unknown(&mut self, entry: Entry, reason: Unknown) {
        let verdict = self.exactly_once.unknown(entry, reason);
        self.judge_client(Oracle::ExactlyOnce, verdict);
    }

    /// The last Seq whose outcome a client was told.
    #[must_use]
    pub fn done_through(&self) -> Seq {
        self.durability.done_through()
    }

    /// At the end: what a replica's service holds.
    pub fn state(&mut self, replica: ReplicaId, executed: Seq, highest: Seq, entries: &[Entry]) {
        let verdict = self.durability.state(executed, highest, entries);
        self.judge(Oracle::Durability, replica, verdict);
        let verdict = self.exactly_once.state(executed, entries);
        self.judge(Oracle::ExactlyOnce, replica, verdict);
    }

    fn judge(&mut self, oracle: Oracle, replica: ReplicaId, verdict: Verdict) {
        if let Err(text) = verdict {
            self.report(oracle, format!("{replica:?}: {text}"));
        }
    }

    fn judge_client(&mut self, oracle: Oracle, verdict: Verdict) {
        if let Err(text) = verdict {
            self.report(oracle, text);
        }
    }
}

/// Whether the replicas that `members` yields, each counted once, weigh enough for a quorum: twice their weight passes
/// the total and what may be faulty of it. Counted here anew, with nothing of the core's.
fn is_quorum(weights: &[u64], members: impl Iterator<Item = ReplicaId>) -> bool {
    let mut seen = vec![false; weights.len()];
    members.filter(|member| member.index() < weights.len()).for_each(|member| seen[member.index()] = true);
    let weight: u128 = weights.iter().zip(seen).filter(|(_, seen)| *seen).map(|(weight, _)| u128::from(*weight)).sum();
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    2 * weight > total + (total - 1) / 3
}

fn weights_of(config: &ClusterConfig) -> Vec<u64> {
    config.members().iter().map(|member| member.weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_are_counted_by_weight_and_each_member_once() {
        let quorum = |weights: &[u64], members: &[u16]| is_quorum(weights, members.iter().copied().map(ReplicaId));
        assert!(quorum(&[1; 4], &[0, 1, 2]) && !quorum(&[1; 4], &[0, 1]) && !quorum(&[1; 4], &[0, 1, 1, 0]));
        assert!(quorum(&[1; 5], &[0, 1, 2, 3]) && !quorum(&[1; 5], &[0, 1, 2]));
        assert!(quorum(&[4, 1, 1, 1], &[0, 1]) && !quorum(&[4, 1, 1, 1], &[1, 2, 3]));
        assert!(!quorum(&[1; 4], &[0, 1, 9]));
    }
}

/// Makes what the judges' tests feed them.
#[cfg(test)]
mod made {
    use bft_core::ids::{Digest, Epoch, RequestNo, SessionId, Signature, View};
    use bft_core::wire::message::{Ballot, Position};
    use bft_core::wire::request::{Body, RequestBounds, SignedRequest, encode_request};

    use super::*;
    use crate::cluster::Cluster;
    use crate::ledger::Order;
    use crate::options::{Fidelity, Options};

    pub const CLIENT: PublicKey = PublicKey([7; 32]);

    pub fn cluster() -> Cluster {
        let mut options = Options::from_seed(1, Fidelity::Ledger);
        options.weights = vec![1; 4];
        Cluster::new(&options)
    }

    pub fn position(seq: u64, digest: u8) -> Position {
        Position { epoch: Epoch(0), view: View(0), seq: Seq(seq), digest: Digest([digest; 32]) }
    }

    pub fn ballot() -> Ballot {
        Ballot { commitment: Digest::ZERO, signature: Signature([0; 64]) }
    }

    pub fn order(number: u64) -> Order {
        Order { entry: Entry { client: 0, number }, amount: 10 + number }
    }

    pub fn execute(seq: u64, orders: &[Order]) -> Execute {
        if orders.is_empty() {
            return Execute { seq: Seq(seq), time_ns: seq, body: Arc::default(), admitted: vec![] };
        }
        let bounds = RequestBounds { request_bytes: 4096, operations: 64, requests: 16, body_bytes: 1 << 16 };
        let operations: Vec<_> = orders.iter().map(|order| order.encode(0)).collect();
        let operations = operations.iter().map(Vec::as_slice);
        let sign = |_| Signature([0; 64]);
        let bytes = encode_request(CLIENT, SessionId(1), RequestNo(seq), RequestNo(0), 0, operations, sign);
        let request = SignedRequest::parse(bytes, bounds).expect("well-formed");
        Execute { seq: Seq(seq), time_ns: seq, body: Arc::new(Body::join(&[request])), admitted: vec![0] }
    }
}
