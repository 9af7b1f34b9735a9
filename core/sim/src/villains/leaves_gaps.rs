//! The attack: a primary that leaves out places in the order and proposes behind them.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::{Means, place};
use super::said::Said;

/// Leaves places out.
pub struct LeavesGaps;

impl Villain for LeavesGaps {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        match message {
            Message::PrePrepare(proposal)
                if means.shared_below(6, place(proposal.position.view, proposal.position.seq)) == 0 =>
            {
                said.nothing();
            }
            other => said.truth(other),
        }
    }
}
