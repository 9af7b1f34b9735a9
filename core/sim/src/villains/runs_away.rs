//! The attack: a replica that calls everybody to a view beyond all others, and shows checkpoints that nobody reached, with
//! signatures of its own in place of a quorum's.

use std::sync::Arc;

use bft_core::ids::{ReplicaId, Seq, Signature, View};
use bft_core::wire::message::{Checkpoint, Message, ViewChange};

use super::Villain;
use super::means::Means;
use super::said::Said;

/// The view that it goes to, about.
const FAR: u64 = 1 << 60;

/// Runs ahead.
pub struct RunsAway;

impl Villain for RunsAway {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let is_status = matches!(message, Message::Status(_));
        said.truth(message);
        if !is_status {
            return;
        }
        said.lie(Message::Checkpoint(forged_checkpoint(means)));
        let certificate = means.rng.chance(300).then(|| forged_checkpoint(means));
        let mut call = ViewChange {
            epoch: means.config.epoch(),
            view: View(FAR + means.rng.below(1000)),
            replica: means.me,
            certificate,
            prepared: Vec::new(),
            signature: Signature::ZERO,
        };
        means.seal_view_change(&mut call);
        said.lie(Message::ViewChange(Arc::new(call)));
    }
}

/// A checkpoint that it alone signed: as itself, or with the same signature for everybody.
fn forged_checkpoint(means: &mut Means) -> Checkpoint {
    let interval = means.config.params().checkpoint_interval;
    let seq = Seq(interval * (1 + means.rng.below(1 << 40)));
    let (epoch, root) = (means.config.epoch(), means.digest());
    let mut checkpoint = Checkpoint { epoch, seq, root, epoch_end: Seq(0), signatures: Vec::new() };
    means.seal_checkpoint(&mut checkpoint);
    if means.rng.chance(500) {
        let (_, signature) = checkpoint.signatures[0];
        checkpoint.signatures = means.config.replicas().map(|replica| (replica, signature)).collect();
    }
    checkpoint
}
