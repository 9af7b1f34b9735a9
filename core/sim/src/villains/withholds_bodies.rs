//! The attack: a primary that gives its batches to just enough of the others, and to the rest a proposal without a body;
//! whoever asks for a body or for what is committed gets nothing.

use std::sync::Arc;

use bft_core::ids::ReplicaId;
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::{Message, PrePrepare};

use super::Villain;
use super::means::{Means, place};
use super::said::Said;

/// Keeps bodies back.
pub struct WithholdsBodies;

/// Who gets the body of a batch: a quorum with this one.
fn is_given(means: &Means, peer: ReplicaId, proposal: &PrePrepare) -> bool {
    let n = means.config.n() as u64;
    let first = means.shared_below(n, place(proposal.position.view, proposal.position.seq));
    let mut given = ReplicaSet::EMPTY.with(means.me);
    for ahead in 0..n {
        if !means.config.weights().is_quorum(given) {
            given.insert(ReplicaId(((first + ahead) % n) as u16));
        }
    }
    given.contains(peer)
}

impl Villain for WithholdsBodies {
    fn to_peer(&mut self, means: &mut Means, peer: ReplicaId, message: Message, said: &mut Said) {
        match message {
            Message::PrePrepare(proposal) if !is_given(means, peer, &proposal) => {
                said.lie(Message::PrePrepare(PrePrepare { body: Arc::default(), ..proposal }));
            }
            Message::Body(_) | Message::Slot(_) | Message::Log(_) => said.nothing(),
            other => said.truth(other),
        }
    }
}
