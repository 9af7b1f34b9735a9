//! The attack: a replica that answers clients as if all were well, and gives nothing to its peers.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Answers clients only.
pub struct RepliesOnly;

impl Villain for RepliesOnly {
    fn to_peer(&mut self, _means: &mut Means, _peer: ReplicaId, _message: Message, said: &mut Said) {
        said.nothing();
    }
}
