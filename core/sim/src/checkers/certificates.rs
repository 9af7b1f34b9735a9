//! Every certificate that a replica writes down or sends holds what it claims (I10): distinct members that make a quorum,
//! each of whom signed exactly this, and openings that open. Quorums are counted here, signatures asked of the ledger.

use std::collections::BTreeSet;
use std::sync::Arc;

use bft_core::auth::{Claim, Scheme};
use bft_core::config::ClusterConfig;
use bft_core::ids::{Digest, ReplicaId, Seq, Signature};
use bft_core::journal::record::Record;
use bft_core::wire::canonical::{self, SigningBytes};
use bft_core::wire::message::{
    Ballot, Checkpoint, CommitCertificate, Message, NewView, Position, PreparedCertificate, SnapshotVote, ViewChange,
};

use super::{Verdict, is_quorum, weights_of};

/// Checks certificates of one cluster.
pub struct Certificates {
    config: Arc<ClusterConfig>,
    weights: Vec<u64>,
    witness: Arc<dyn Scheme>,
    /// Of which snapshots a quorum's signatures were seen.
    snapshots: BTreeSet<(Seq, Digest)>,
}

impl Certificates {
    /// `witness` verifies signatures.
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, witness: Arc<dyn Scheme>) -> Self {
        Self { weights: weights_of(&config), config, witness, snapshots: BTreeSet::new() }
    }

    /// A superblock names a snapshot: the replica, or one that it has it from, wrote down that a quorum signed it.
    pub fn named(&self, snapshot: Option<(Seq, Digest)>) -> Verdict {
        match snapshot.filter(|snapshot| !self.snapshots.contains(snapshot)) {
            None => Ok(()),
            Some((seq, root)) => {
                Err(format!("the superblock names snapshot {seq} with root {root:?}, which no quorum signed"))
            }
        }
    }

    /// A replica writes a record.
    pub fn record(&mut self, record: &Record) -> Verdict {
        match record {
            Record::Cert(certificate) => self.prepared(certificate),
            Record::Committed(committed) => self.committed(&committed.certificate),
            Record::Stable(checkpoint) => self.stable(checkpoint),
            Record::SnapStable(vote) => {
                self.snapshot(vote)?;
                self.snapshots.insert((vote.seq, vote.root));
                Ok(())
            }
            Record::NewView(message) => self.new_view(message),
            Record::Vote(_) | Record::CkptVote { .. } | Record::SnapVote { .. } | Record::Evidence(_) => Ok(()),
        }
    }

    /// A message leaves a replica.
    pub fn released(&self, message: &Message) -> Verdict {
        match message {
            Message::Slot(slot) => self.committed(&slot.certificate),
            Message::Log(slots) => slots.iter().try_for_each(|slot| self.committed(&slot.certificate)),
            // A single signature is a vote, more of them a certificate.
            Message::Checkpoint(checkpoint) if checkpoint.signatures.len() > 1 => self.stable(checkpoint),
            Message::Snapshot(vote) if vote.signatures.len() > 1 => self.snapshot(vote),
            Message::Manifest(snapshot) => self.snapshot(&snapshot.certificate),
            Message::ViewChange(message) => self.view_change(message),
            Message::NewView(message) => self.new_view(message),
            Message::Checkpoint(_)
            | Message::Snapshot(_)
            | Message::Request(_)
            | Message::Reply(_)
            | Message::Busy(_)
            | Message::InfoQuery { .. }
            | Message::Info(_)
            | Message::ClientJoin(_)
            | Message::PrePrepare(_)
            | Message::Prepare(_)
            | Message::Commit(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::FetchBody(_)
            | Message::Body(_)
            | Message::FetchLog(_)
            | Message::FetchManifest(_)
            | Message::FetchChunk(_)
            | Message::Chunk(_)
            | Message::FetchTrail(_)
            | Message::Trail(_)
            | Message::Evidence(_) => Ok(()),
        }
    }

    fn prepared(&self, certificate: &PreparedCertificate) -> Verdict {
        let PreparedCertificate { position, proposal, prepares, .. } = certificate;
        let what = || format!("the prepared certificate for Seq {}", position.seq);
        let primary = self.config.primary(position.view);
        self.proposal(position, proposal, &what)?;
        for (replica, ballot) in prepares {
            self.vote(position, *replica, ballot, &what)?;
        }
        let backups = prepares.iter().map(|(replica, _)| *replica);
        self.quorum(backups.chain([primary]), &what)
    }

    fn committed(&self, certificate: &CommitCertificate) -> Verdict {
        let CommitCertificate { position, proposal, opening, commits, .. } = certificate;
        let what = || format!("the commit certificate for Seq {}", position.seq);
        let primary = self.config.primary(position.view);
        self.proposal(position, proposal, &what)?;
        let opens = |nonce: &Digest, ballot: &Ballot| canonical::opening(nonce) == ballot.commitment;
        for (replica, ballot, nonce) in commits {
            self.vote(position, *replica, ballot, &what)?;
            if !opens(nonce, ballot) {
                return Err(format!("{} has a wrong opening of {replica:?}", what()));
            }
        }
        if opening.is_some_and(|nonce| !opens(&nonce, proposal)) {
            return Err(format!("{} has a wrong opening of the primary", what()));
        }
        let backups = commits.iter().map(|(replica, _, _)| *replica);
        self.quorum(backups.chain(opening.map(|_| primary)), &what)
    }

    /// A VIEW-CHANGE: its checkpoint, and certificates of lower views above it, one for each Seq.
    fn view_change(&self, message: &ViewChange) -> Verdict {
        let what = || format!("the VIEW-CHANGE of {:?} for {:?}", message.replica, message.view);
        message.certificate.iter().try_for_each(|checkpoint| self.stable(checkpoint))?;
        let mut last = message.certificate.as_ref().map_or(Seq(0), |checkpoint| checkpoint.seq);
        for certificate in &message.prepared {
            let Position { view, seq, .. } = certificate.position;
            if seq <= last || view >= message.view {
                return Err(format!("{} has a certificate for Seq {seq} in {view:?} after Seq {last}", what()));
            }
            self.prepared(certificate)?;
            last = seq;
        }
        let bytes = message.signing_bytes(self.config.cluster_id());
        self.signature(message.replica, bytes, message.signature, &what)
    }

    /// A NEW-VIEW: VIEW-CHANGEs of a quorum for its view.
    fn new_view(&self, message: &NewView) -> Verdict {
        let what = || format!("the NEW-VIEW of {:?}", message.view);
        for view_change in &message.view_changes {
            if view_change.view != message.view {
                return Err(format!("{} holds a VIEW-CHANGE for {:?}", what(), view_change.view));
            }
            self.view_change(view_change)?;
        }
        self.quorum(message.view_changes.iter().map(|view_change| view_change.replica), &what)?;
        let bytes = message.signing_bytes(self.config.cluster_id());
        self.signature(self.config.primary(message.view), bytes, message.signature, &what)
    }

    /// A stable checkpoint.
    pub fn stable(&self, checkpoint: &Checkpoint) -> Verdict {
        let Checkpoint { epoch, seq, root, epoch_end, signatures } = checkpoint;
        let what = || format!("the stable checkpoint {seq}");
        self.signed(signatures, &what, |replica| {
            canonical::checkpoint(self.config.cluster_id(), *epoch, *seq, *root, *epoch_end, replica)
        })
    }

    fn snapshot(&self, vote: &SnapshotVote) -> Verdict {
        let SnapshotVote { epoch, seq, root, signatures } = vote;
        let what = || format!("the stable snapshot {seq}");
        self.signed(signatures, &what, |replica| {
            canonical::snapshot(self.config.cluster_id(), *epoch, *seq, *root, replica)
        })
    }

    fn signed(
        &self,
        signatures: &[(ReplicaId, Signature)],
        what: &impl Fn() -> String,
        bytes: impl Fn(ReplicaId) -> SigningBytes,
    ) -> Verdict {
        for (replica, signature) in signatures {
            self.signature(*replica, bytes(*replica), *signature, what)?;
        }
        self.quorum(signatures.iter().map(|(replica, _)| *replica), what)
    }

    fn proposal(&self, position: &Position, ballot: &Ballot, what: &impl Fn() -> String) -> Verdict {
        if position.seq == Seq(0) {
            return Err(format!("{} is for no Seq", what()));
        }
        let bytes = canonical::pre_prepare(self.config.cluster_id(), position, ballot.commitment);
        self.signature(self.config.primary(position.view), bytes, ballot.signature, what)
    }

    fn vote(&self, position: &Position, replica: ReplicaId, ballot: &Ballot, what: &impl Fn() -> String) -> Verdict {
        let bytes = canonical::prepare(self.config.cluster_id(), position, replica, ballot.commitment);
        self.signature(replica, bytes, ballot.signature, what)
    }

    fn signature(
        &self,
        signer: ReplicaId,
        bytes: SigningBytes,
        signature: Signature,
        what: &impl Fn() -> String,
    ) -> Verdict {
        let Some(member) = self.config.member(signer) else {
            return Err(format!("{} names {signer:?}, who is no member", what()));
        };
        if self.witness.verify(&Claim { public_key: member.public_key, bytes, signature }) {
            return Ok(());
        }
        Err(format!("{} has a signature that {signer:?} never made", what()))
    }

    fn quorum(&self, members: impl Iterator<Item = ReplicaId>, what: &impl Fn() -> String) -> Verdict {
        let members: Vec<_> = members.collect();
        if is_quorum(&self.weights, members.iter().copied()) {
            return Ok(());
        }
        Err(format!("{} has no quorum: {members:?}", what()))
    }
}

#[cfg(test)]
mod tests {
    use bft_core::ids::Epoch;
    use bft_core::wire::message::BatchHeader;

    use super::super::made;
    use super::*;
    use crate::cluster::Cluster;

    fn judge(cluster: &Cluster) -> Certificates {
        Certificates::new(Arc::clone(&cluster.config), Arc::clone(&cluster.witness))
    }

    fn ballot(cluster: &Cluster, replica: ReplicaId, at: &Position) -> (Ballot, Digest) {
        let scheme = &cluster.replicas[replica.index()];
        let nonce = canonical::commit_nonce(&scheme.commit_secret(), at);
        let commitment = canonical::opening(&nonce);
        let bytes = if replica == cluster.primary() {
            canonical::pre_prepare(cluster.config.cluster_id(), at, commitment)
        } else {
            canonical::prepare(cluster.config.cluster_id(), at, replica, commitment)
        };
        (Ballot { commitment, signature: scheme.sign(&bytes) }, nonce)
    }

    fn prepared(cluster: &Cluster, backups: usize) -> PreparedCertificate {
        let position = made::position(3, 1);
        let backups = cluster.config.replicas().filter(|id| *id != cluster.primary()).take(backups);
        PreparedCertificate {
            position,
            header: BatchHeader::default(),
            proposal: ballot(cluster, cluster.primary(), &position).0,
            prepares: backups.map(|id| (id, ballot(cluster, id, &position).0)).collect(),
        }
    }

    #[test]
    fn s5_a_certificate_without_a_quorum_or_with_one_member_twice_is_found() {
        let cluster = made::cluster();
        let mut judge = judge(&cluster);
        assert_eq!(judge.record(&Record::Cert(prepared(&cluster, 2))), Ok(()));
        assert!(judge.record(&Record::Cert(prepared(&cluster, 1))).is_err());
        let mut twice = prepared(&cluster, 1);
        twice.prepares.push(twice.prepares[0]);
        assert!(judge.record(&Record::Cert(twice)).is_err());
        let mut pooled = prepared(&cluster, 2);
        pooled.position.digest = Digest([2; 32]);
        assert!(judge.record(&Record::Cert(pooled)).is_err(), "votes for another digest");
    }

    #[test]
    fn a_commit_certificate_needs_openings_of_a_quorum() {
        let cluster = made::cluster();
        let judge = judge(&cluster);
        let position = made::position(3, 1);
        let (proposal, opening) = ballot(&cluster, cluster.primary(), &position);
        let backups = cluster.config.replicas().filter(|id| *id != cluster.primary()).take(2);
        let commits = backups.map(|id| {
            let (ballot, nonce) = ballot(&cluster, id, &position);
            (id, ballot, nonce)
        });
        let header = BatchHeader::default();
        let whole =
            CommitCertificate { position, header, proposal, opening: Some(opening), commits: commits.collect() };
        assert_eq!(judge.committed(&whole), Ok(()));
        assert!(judge.committed(&CommitCertificate { opening: None, ..whole.clone() }).is_err());
        let mut closed = whole;
        closed.commits[0].2 = Digest([1; 32]);
        assert!(judge.committed(&closed).is_err());
    }

    #[test]
    fn k1_a_checkpoint_is_not_stable_with_fewer_than_a_quorum() {
        let cluster = made::cluster();
        let judge = judge(&cluster);
        let (epoch, seq, root, epoch_end) = (Epoch(0), Seq(8), Digest([1; 32]), Seq(0));
        let signatures = |count: usize| -> Vec<_> {
            let sign = |id: ReplicaId| {
                let bytes = canonical::checkpoint(cluster.config.cluster_id(), epoch, seq, root, epoch_end, id);
                (id, cluster.replicas[id.index()].sign(&bytes))
            };
            cluster.config.replicas().take(count).map(sign).collect()
        };
        let stable = |count| Checkpoint { epoch, seq, root, epoch_end, signatures: signatures(count) };
        assert_eq!(judge.stable(&stable(3)), Ok(()));
        assert!(judge.stable(&stable(2)).is_err());
        assert!(judge.stable(&Checkpoint { root: Digest([2; 32]), ..stable(3) }).is_err());
        assert_eq!(judge.released(&Message::Checkpoint(stable(1))), Ok(()), "a vote");
        assert!(judge.released(&Message::Checkpoint(stable(2))).is_err());
    }
}
