//! The attack: a replica that signs one root of a checkpoint for some and another for the others, and the same with the
//! roots of snapshots. With its fellows it signs the same wrong root, so that their votes add up.

use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, ReplicaId};
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Two roots for each checkpoint.
pub struct CheckpointsTwo;

/// What all villains sign instead of `root`.
fn other_root(root: Digest) -> Digest {
    hash(Context::Checkpoint, &[&root.0, b"another"])
}

impl Villain for CheckpointsTwo {
    fn to_peer(&mut self, means: &mut Means, peer: ReplicaId, message: Message, said: &mut Said) {
        match message {
            Message::Checkpoint(mut vote) if vote.signatures.len() == 1 && means.is_in_other_half(peer, vote.seq.0) => {
                vote.root = other_root(vote.root);
                means.seal_checkpoint(&mut vote);
                said.lie(Message::Checkpoint(vote));
            }
            Message::Snapshot(mut vote) if vote.signatures.len() == 1 && means.is_in_other_half(peer, vote.seq.0) => {
                vote.root = other_root(vote.root);
                means.seal_snapshot(&mut vote);
                said.lie(Message::Snapshot(vote));
            }
            other => said.truth(other),
        }
    }
}
