//! The attack: a replica that votes and never opens what it committed to, so that commit certificates lack it.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Never commits.
pub struct WithholdsCommits;

impl Villain for WithholdsCommits {
    fn to_peer(&mut self, _means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        match message {
            Message::Commit(_) => said.nothing(),
            other => said.truth(other),
        }
    }
}
