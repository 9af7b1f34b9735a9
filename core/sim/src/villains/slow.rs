//! The attack: a primary that proposes everything just before its backups would give it up.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// The part of the base timeout, in a thousand, that a proposal is held back for. The rest is for what it takes to execute.
const HELD_BACK: u64 = 800;

/// Proposes late.
pub struct Slow;

impl Villain for Slow {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        match message {
            Message::PrePrepare(proposal) => {
                let delay = means.config.params().view_timeout / 1000 * HELD_BACK;
                said.later(delay, Message::PrePrepare(proposal));
            }
            other => said.truth(other),
        }
    }
}
