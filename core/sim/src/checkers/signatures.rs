//! What a replica signed and let out of its process stays the only thing it signed for that place (I7): one batch for a
//! view and Seq, one root for a checkpoint, one for a snapshot. Over all lives of the replica. Who lost what it signed to
//! damage signs nothing more where it has been (D7).

use std::collections::BTreeMap;

use bft_core::config::ClusterConfig;
use bft_core::ids::{Digest, ReplicaId, Seq, View};
use bft_core::wire::message::Message;
use std::sync::Arc;

use super::Verdict;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Vote(View, Seq),
    Checkpoint(Seq),
    Snapshot(Seq),
}

impl Place {
    fn seq(self) -> Seq {
        match self {
            Self::Vote(_, seq) | Self::Checkpoint(seq) | Self::Snapshot(seq) => seq,
        }
    }
}

/// What each replica signed.
pub struct Signatures {
    config: Arc<ClusterConfig>,
    signed: BTreeMap<(ReplicaId, Place), Digest>,
    /// The highest Seq that a replica had signed for when its journal was damaged.
    forgotten: BTreeMap<ReplicaId, Seq>,
}

impl Signatures {
    /// Nothing is signed yet.
    #[must_use]
    pub fn new(config: &Arc<ClusterConfig>) -> Self {
        Self { config: Arc::clone(config), signed: BTreeMap::new(), forgotten: BTreeMap::new() }
    }

    /// A replica's journal is damaged: what it signed it no longer knows.
    pub fn damaged(&mut self, replica: ReplicaId) {
        let of_it = self.signed.keys().filter(|(signer, _)| *signer == replica);
        let highest = of_it.map(|(_, place)| place.seq()).max().unwrap_or_default();
        self.forgotten.insert(replica, highest);
    }

    /// A message leaves a replica.
    pub fn released(&mut self, message: &Message) -> Verdict {
        match message {
            Message::PrePrepare(proposal) => {
                let at = &proposal.position;
                let primary = self.config.primary(at.view);
                self.once(primary, Place::Vote(at.view, at.seq), at.digest)?;
                self.remembers(primary, "PRE-PREPARE", at.seq)
            }
            Message::Prepare(vote) => {
                let at = &vote.position;
                self.once(vote.replica, Place::Vote(at.view, at.seq), at.digest)?;
                self.remembers(vote.replica, "PREPARE", at.seq)
            }
            Message::Commit(vote) => self.remembers(vote.replica, "COMMIT", vote.position.seq),
            Message::ViewChange(message) => self.remembers(message.replica, "VIEW-CHANGE", message.stable().next()),
            Message::Checkpoint(vote) => vote
                .signatures
                .iter()
                .try_for_each(|(signer, _)| self.once(*signer, Place::Checkpoint(vote.seq), vote.root)),
            Message::Snapshot(vote) => vote
                .signatures
                .iter()
                .try_for_each(|(signer, _)| self.once(*signer, Place::Snapshot(vote.seq), vote.root)),
            Message::Request(_)
            | Message::Reply(_)
            | Message::Busy(_)
            | Message::InfoQuery { .. }
            | Message::Info(_)
            | Message::ClientJoin(_)
            | Message::NewView(_)
            | Message::FetchBody(_)
            | Message::Body(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::Slot(_)
            | Message::FetchLog(_)
            | Message::FetchManifest(_)
            | Message::Manifest(_)
            | Message::FetchChunk(_)
            | Message::Chunk(_)
            | Message::FetchTrail(_)
            | Message::Trail(_)
            | Message::Log(_)
            | Message::Evidence(_) => Ok(()),
        }
    }

    /// Nothing is signed up to the highest Seq that was signed for before damage.
    fn remembers(&self, signer: ReplicaId, what: &str, seq: Seq) -> Verdict {
        match self.forgotten.get(&signer) {
            Some(forgotten) if seq <= *forgotten => Err(format!(
                "{signer:?} makes a {what} for Seq {seq}, but lost to damage what it signed up to Seq {forgotten}"
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn once(&mut self, signer: ReplicaId, place: Place, digest: Digest) -> Verdict {
        let first = *self.signed.entry((signer, place)).or_insert(digest);
        if first == digest {
            return Ok(());
        }
        Err(format!("{signer:?} signed {first:?} and then {digest:?} for {place:?}"))
    }
}

#[cfg(test)]
mod tests {
    use bft_core::ids::{Epoch, Signature};
    use bft_core::wire::message::{Checkpoint, Prepare, SnapshotVote, ViewChange};

    use super::super::made;
    use super::*;

    #[test]
    fn s8_two_votes_for_one_place_are_found() {
        let mut judge = Signatures::new(&made::cluster().config);
        let vote = |replica, seq, digest| {
            let (position, ballot) = (made::position(seq, digest), made::ballot());
            Message::Prepare(Prepare { position, replica: ReplicaId(replica), ballot })
        };
        assert_eq!(judge.released(&vote(0, 1, 1)), Ok(()));
        assert_eq!(judge.released(&vote(0, 1, 1)), Ok(()));
        assert_eq!(judge.released(&vote(1, 1, 2)), Ok(()), "another replica");
        assert_eq!(judge.released(&vote(0, 2, 2)), Ok(()), "another Seq");
        assert!(judge.released(&vote(0, 1, 2)).is_err());
    }

    #[test]
    fn d7_who_lost_its_votes_may_not_vote_where_it_has_been() {
        let mut judge = Signatures::new(&made::cluster().config);
        let vote = |replica, seq| {
            let (position, ballot) = (made::position(seq, 1), made::ballot());
            Message::Prepare(Prepare { position, replica: ReplicaId(replica), ballot })
        };
        let view_change = |replica, stable| {
            let (epoch, root, epoch_end, signatures) = (Epoch(0), Digest([stable as u8; 32]), Seq(0), Vec::new());
            let certificate = Checkpoint { epoch, seq: Seq(stable), root, epoch_end, signatures };
            let (view, prepared, signature) = (View(1), Vec::new(), Signature([0; 64]));
            let certificate = Some(certificate);
            let replica = ReplicaId(replica);
            Message::ViewChange(Arc::new(ViewChange { epoch, view, replica, certificate, prepared, signature }))
        };
        for seq in [1, 9] {
            assert_eq!(judge.released(&vote(0, seq)), Ok(()));
            assert_eq!(judge.released(&vote(1, seq)), Ok(()));
        }
        judge.damaged(ReplicaId(0));
        assert!(judge.released(&vote(0, 9)).is_err(), "the same vote as before: it cannot know");
        assert!(judge.released(&vote(0, 2)).is_err());
        assert!(judge.released(&view_change(0, 8)).is_err(), "a certificate for Seq 9 may be missing in it");
        assert_eq!(judge.released(&view_change(0, 9)), Ok(()));
        assert_eq!(judge.released(&vote(0, 10)), Ok(()));
        assert_eq!(judge.released(&vote(1, 9)), Ok(()), "another replica");
        assert_eq!(judge.released(&view_change(1, 0)), Ok(()), "another replica");
    }

    #[test]
    fn two_roots_at_one_seq_are_found() {
        let mut judge = Signatures::new(&made::cluster().config);
        let signatures = vec![(ReplicaId(2), Signature([0; 64]))];
        let (epoch, seq, epoch_end) = (Epoch(0), Seq(8), Seq(0));
        let checkpoint = |root| {
            let root = Digest([root; 32]);
            Message::Checkpoint(Checkpoint { epoch, seq, root, epoch_end, signatures: signatures.clone() })
        };
        let snapshot = |root| {
            Message::Snapshot(SnapshotVote { epoch, seq, root: Digest([root; 32]), signatures: signatures.clone() })
        };
        assert_eq!(judge.released(&checkpoint(1)), Ok(()));
        assert_eq!(judge.released(&snapshot(2)), Ok(()));
        assert!(judge.released(&checkpoint(2)).is_err());
        assert!(judge.released(&snapshot(1)).is_err());
    }
}
