//! The attack: a replica that leaves a view and names an old stable checkpoint, or none, and what was prepared above that
//! one as far as a window reaches.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::{Checkpoint, Message, ViewChange};

use super::means::Means;
use super::said::Said;
use super::{Villain, own_view_change};

/// Names an old checkpoint.
#[derive(Default)]
pub struct ForgetsCheckpoint {
    oldest: Option<Checkpoint>,
}

impl Villain for ForgetsCheckpoint {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        if let Message::ViewChange(own) = &message
            && own.replica == means.me
            && self.oldest.is_none()
        {
            self.oldest.clone_from(&own.certificate);
        }
        let window = means.config.params().window;
        let old = if means.shared_below(2, 0) == 0 { None } else { self.oldest.as_ref() };
        own_view_change::say(means, message, said, |own| go_back(own, old, window));
    }
}

/// Says whether that changes anything.
fn go_back(own: &mut ViewChange, old: Option<&Checkpoint>, window: u64) -> bool {
    if own.certificate.as_ref() == old {
        return false;
    }
    own.certificate = old.cloned();
    let end = own.stable().plus(window);
    own.prepared.retain(|certificate| certificate.position.seq <= end);
    true
}
