//! Nobody correct is ever accused, and whoever was heard to say two things for one place is (I9). Every piece of evidence
//! is checked anew from its bytes, by a verifier that was in no replica; what was durable of it is found again at every
//! start, wherever the journal begins by then, unless the journal is damaged and the replica owns up to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_core::auth::{Scheme, Verifier};
use bft_core::config::ClusterConfig;
use bft_core::evidence::{Accusation, Accused, Evidence, EvidenceKind};
use bft_core::ids::{Digest, LogPosition, ReplicaId, Seq, View};
use bft_core::journal::record::Record;
use bft_core::limits::EVIDENCE_PER_ACCUSED;
use bft_core::ordering::pbft::Pbft;
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::Message;

use super::Verdict;
use crate::world::Life;

/// A vote that a replica took up: who heard it in which life, whose it is, for which place.
type Heard = (ReplicaId, Life, ReplicaId, View, Seq);

/// What was said to whom, and who told of it.
pub struct Evidences {
    verifier: Verifier,
    heard: BTreeMap<Heard, Digest>,
    /// What each replica tells, over all its lives.
    told: BTreeMap<ReplicaId, Vec<Accused>>,
    /// What each replica wrote down, and at which position first.
    written: BTreeMap<(ReplicaId, Accused), LogPosition>,
    durable: BTreeMap<ReplicaId, LogPosition>,
}

impl Evidences {
    /// `witness` verifies signatures.
    #[must_use]
    pub fn new(config: &Arc<ClusterConfig>, witness: Arc<dyn Scheme>) -> Self {
        let verifier = Verifier::new(Arc::clone(config), witness);
        let (heard, told, written, durable) = Default::default();
        Self { verifier, heard, told, written, durable }
    }

    /// A replica tells of `accusation`.
    pub fn told(&mut self, replica: ReplicaId, accusation: &Accusation, faulty: ReplicaSet) -> Verdict {
        let Accusation { accused, evidence } = accusation;
        let read = Evidence::decode(&evidence.encode()).map_err(|_| format!("unreadable evidence: {accused}"))?;
        if read != **evidence {
            return Err(format!("evidence that reads otherwise than it was written: {accused}"));
        }
        match read.verify(&self.verifier) {
            Ok(found) if found == *accused => {}
            Ok(found) => return Err(format!("evidence that is said to be against {accused} and is against {found}")),
            Err(why) => return Err(format!("evidence that proves nothing, {why}: {accused}")),
        }
        if !faulty.contains(accused.replica) {
            return Err(format!("evidence against a correct replica: {accused}"));
        }
        self.told.entry(replica).or_default().push(*accused);
        Ok(())
    }

    /// A replica writes a record.
    pub fn record(&mut self, replica: ReplicaId, at: LogPosition, record: &Record) {
        if let Record::Evidence(evidence) = record {
            let accused = evidence.accused(self.verifier.config());
            self.written.entry((replica, accused)).or_insert(at);
        }
    }

    /// Everything up to `upto` is on the replica's stable storage.
    pub fn durable(&mut self, replica: ReplicaId, upto: LogPosition) {
        self.durable.insert(replica, upto);
    }

    /// A replica's journal is damaged: it starts without what was in it, evidence included.
    pub fn damaged(&mut self, replica: ReplicaId) {
        self.written.retain(|(of, _), _| *of != replica);
        self.durable.remove(&replica);
    }

    /// A replica starts with these records: what was durable is among them.
    pub fn recovered(&mut self, replica: ReplicaId, records: &[(LogPosition, Record)]) -> Verdict {
        // Superblocks have positions too, which the next life gives away again: what is durable of it begins with its journal.
        let begins_with = records.last().map_or(LogPosition(0), |(at, _)| *at);
        let durable = self.durable.insert(replica, begins_with).unwrap_or_default();
        let written = std::mem::take(&mut self.written);
        let (own, others) = written.into_iter().partition(|((of, _), _)| *of == replica);
        self.written = others;
        records.iter().for_each(|(at, record)| self.record(replica, *at, record));
        let own: BTreeMap<(ReplicaId, Accused), LogPosition> = own;
        match own.iter().find(|(key, at)| **at <= durable && !self.written.contains_key(key)) {
            Some(((_, accused), at)) => Err(format!("evidence of position {at} is not found again: {accused}")),
            None => Ok(()),
        }
    }

    /// `replica`, whose ordering core is `ordering`, is about to take `message`. Gives what it must tell of when it has,
    /// if that is the second half of a contradiction.
    pub fn hears(&mut self, replica: ReplicaId, life: Life, ordering: &Pbft, message: &Message) -> Option<Accused> {
        let (kind, signer, at) = match message {
            Message::Prepare(vote) => (EvidenceKind::TwoPrepares, vote.replica, vote.position),
            Message::PrePrepare(proposal) => {
                let at = proposal.position;
                (EvidenceKind::TwoProposals, self.verifier.config().primary(at.view), at)
            }
            _ => return None,
        };
        let slot = ordering.slot(at.seq).filter(|_| ordering.view() == at.view && ordering.is_normal())?;
        let first = match kind {
            // A proposal is taken up or not for many reasons; what is said of the one that stands is what it stands for.
            EvidenceKind::TwoProposals => slot.accepted.as_ref()?.position.digest,
            _ => *self.heard.entry((replica, life, signer, at.view, at.seq)).or_insert(at.digest),
        };
        let accused = Accused { replica: signer, kind, epoch: at.epoch, view: at.view, seq: at.seq };
        let proposes_in_order = ordering.beginning().allows(at.seq, at.digest, ordering.null_digest());
        (first != at.digest && (kind == EvidenceKind::TwoPrepares || proposes_in_order)).then_some(accused)
    }

    /// `replica` has both halves: it tells, or told, or has told enough of this one.
    pub fn must_have_told(&self, replica: ReplicaId, accused: &Accused) -> Verdict {
        let told = self.told.get(&replica).map_or(&[][..], Vec::as_slice);
        let of_signer = told.iter().filter(|known| known.replica == accused.replica).count();
        if told.contains(accused) || of_signer >= EVIDENCE_PER_ACCUSED {
            return Ok(());
        }
        Err(format!("both halves were heard, and nothing is told of {accused}"))
    }
}

#[cfg(test)]
mod tests {
    use bft_core::evidence::{Proof, SignedVote};
    use bft_core::wire::canonical::{self, opening};
    use bft_core::wire::message::{Ballot, Position};

    use super::*;
    use crate::checkers::made;

    #[test]
    fn i9_a_correct_replica_that_is_accused_is_found() {
        let cluster = made::cluster();
        let signer = cluster.config.replicas().find(|id| *id != cluster.primary()).expect("a backup");
        let vote = |digest| {
            let position = Position { epoch: cluster.config.epoch(), ..made::position(3, digest) };
            let commitment = opening(&Digest([9; 32]));
            let bytes = canonical::prepare(cluster.config.cluster_id(), &position, signer, commitment);
            let signature = cluster.replicas[signer.index()].sign(&bytes);
            SignedVote { digest: position.digest, ballot: Ballot { commitment, signature } }
        };
        let evidence = |one, other| {
            let proof = Proof::two_prepares(signer, View(0), Seq(3), one, other);
            let evidence = Arc::new(Evidence::new(&cluster.config, proof));
            Accusation { accused: evidence.accused(&cluster.config), evidence }
        };
        let mut judge = Evidences::new(&cluster.config, Arc::clone(&cluster.witness));
        let liar = ReplicaSet::EMPTY.with(signer);
        let genuine = evidence(vote(1), vote(2));
        assert!(judge.must_have_told(ReplicaId(0), &genuine.accused).is_err());
        assert_eq!(judge.told(ReplicaId(0), &genuine, liar), Ok(()));
        assert_eq!(judge.must_have_told(ReplicaId(0), &genuine.accused), Ok(()));
        assert!(judge.told(ReplicaId(0), &genuine, ReplicaSet::EMPTY).is_err(), "it is correct");
        assert!(judge.told(ReplicaId(0), &evidence(vote(1), vote(1)), liar).is_err(), "it proves nothing");
        let record = |accusation: &Accusation| Record::Evidence(Arc::clone(&accusation.evidence));
        judge.record(ReplicaId(0), LogPosition(5), &record(&genuine));
        judge.durable(ReplicaId(0), LogPosition(4));
        assert_eq!(judge.recovered(ReplicaId(0), &[]), Ok(()), "it was not durable");
        judge.record(ReplicaId(0), LogPosition(5), &record(&genuine));
        judge.durable(ReplicaId(0), LogPosition(5));
        assert_eq!(judge.recovered(ReplicaId(0), &[(LogPosition(9), record(&genuine))]), Ok(()), "a later copy");
        judge.durable(ReplicaId(0), LogPosition(9));
        assert!(judge.recovered(ReplicaId(0), &[]).is_err(), "it is lost");
        judge.record(ReplicaId(0), LogPosition(8), &record(&genuine));
        assert_eq!(
            judge.recovered(ReplicaId(0), &[]),
            Ok(()),
            "what was durable at 8 was something of the life before"
        );
        judge.record(ReplicaId(0), LogPosition(9), &record(&genuine));
        judge.record(ReplicaId(1), LogPosition(9), &record(&genuine));
        judge.durable(ReplicaId(1), LogPosition(9));
        judge.damaged(ReplicaId(0));
        assert_eq!(judge.recovered(ReplicaId(0), &[]), Ok(()), "it owned up to damage");
        assert!(judge.recovered(ReplicaId(1), &[]).is_err(), "the damage was to another's journal");
        let other = Accusation { accused: Accused { seq: Seq(4), ..genuine.accused }, ..genuine };
        assert!(judge.told(ReplicaId(0), &other, liar).is_err(), "it is of another Seq");
    }
}
