//! The attack: a primary that proposes Requests again that were executed before, beside new ones or alone.

use std::collections::VecDeque;
use std::sync::Arc;

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;
use bft_core::wire::request::{Body, SignedRequest};

use super::instead::Instead;
use super::means::Means;
use super::said::Said;
use super::{Heard, Villain};

/// Requests that are remembered.
const REMEMBERED_MAX: usize = 64;

/// Proposes old Requests.
#[derive(Default)]
pub struct ReplaysRequests {
    old: VecDeque<SignedRequest>,
    instead: Instead,
}

impl ReplaysRequests {
    fn remember(&mut self, body: &Body) {
        self.old.extend(body.requests());
        while self.old.len() > REMEMBERED_MAX {
            self.old.pop_front();
        }
    }
}

impl Villain for ReplaysRequests {
    fn hears(&mut self, _means: &mut Means, _from: ReplicaId, message: &Message) -> Heard {
        if let Message::PrePrepare(proposal) = message {
            self.remember(&proposal.body);
        }
        Heard::Passed
    }

    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::PrePrepare(first) = message else { return said.truth(message) };
        let (old, body) = (&self.old, Arc::clone(&first.body));
        self.instead.say(means, first, said, |means, first| {
            if old.is_empty() || means.rng.chance(500) {
                return None;
            }
            let room = means.config.params().batch_requests_max as usize;
            let mut requests: Vec<_> = first.body.requests().take(room - 1).collect();
            requests.push(old[means.rng.below(old.len() as u64) as usize].clone());
            let body = Body::join(&requests);
            let header = body.header(first.header.time_ns);
            Some(means.propose(first.position.view, first.position.seq, header, Arc::new(body)))
        });
        self.remember(&body);
    }
}
