//! What a replica signed and let out of its process stays the only thing it signed for that place (I7): one batch for a
//! view and Seq, one root for a checkpoint, one for a snapshot. Over all lives of the replica.

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

/// What each replica signed.
pub struct Signatures {
    config: Arc<ClusterConfig>,
    signed: BTreeMap<(ReplicaId, Place), Digest>,
}

impl Signatures {
    /// Nothing is signed yet.
    #[must_use]
    pub fn new(config: &Arc<ClusterConfig>) -> Self {
        Self { config: Arc::clone(config), signed: BTreeMap::new() }
    }

    /// A message leaves a replica.
    pub fn released(&mut self, message: &Message) -> Verdict {
        match message {
            Message::PrePrepare(proposal) => {
                let at = &proposal.position;
                self.once(self.config.primary(at.view), Place::Vote(at.view, at.seq), at.digest)
            }
            Message::Prepare(vote) => {
                self.once(vote.replica, Place::Vote(vote.position.view, vote.position.seq), vote.position.digest)
            }
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
            | Message::Commit(_)
            | Message::ViewChange(_)
            | Message::NewView(_)
            | Message::FetchBody(_)
            | Message::Body(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::Slot(_)
            | Message::FetchLog(_)
            | Message::Log(_)
            | Message::Evidence(_) => Ok(()),
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
    use bft_core::wire::message::{Checkpoint, Prepare, SnapshotVote};

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
