//! The attack: a primary that proposes empty batches while Requests wait, and so looks busy.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;
use bft_core::wire::request::Body;
use std::sync::Arc;

use super::Villain;
use super::instead::Instead;
use super::means::Means;
use super::said::Said;

/// Proposes nothing, again and again.
#[derive(Default)]
pub struct ProposesNothing {
    instead: Instead,
}

impl Villain for ProposesNothing {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::PrePrepare(first) = message else { return said.truth(message) };
        self.instead.say(means, first, said, |means, first| {
            let header = Body::default().header(first.header.time_ns);
            Some(means.propose(first.position.view, first.position.seq, header, Arc::default()))
        });
    }
}
