//! The attack: a replica that votes in views and Epochs that are not there yet, near and far, to fill the others' memory.

use std::sync::Arc;

use bft_core::ids::{Epoch, ReplicaId, View};
use bft_core::wire::message::{Message, Position};
use bft_core::wire::request::Body;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// How many votes of the future each true one brings with it.
const TIMES: usize = 4;

/// Votes in the future.
pub struct FloodsAhead;

impl Villain for FloodsAhead {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let position = match &message {
            Message::Prepare(vote) => Some(vote.position),
            Message::PrePrepare(proposal) => Some(proposal.position),
            _ => None,
        };
        said.truth(message);
        let Some(position) = position.filter(|_| means.rng.chance(250)) else { return };
        for _ in 0..TIMES {
            let at = ahead(means, position);
            if means.config.primary(at.view) == means.me {
                said.lie(Message::PrePrepare(means.propose(
                    at.view,
                    at.seq,
                    Body::default().header(1),
                    Arc::default(),
                )));
            } else {
                said.lie(Message::Prepare(means.prepare(at)));
            }
            said.lie(Message::Commit(means.commit(at)));
        }
    }
}

/// The same place in another view or Epoch.
fn ahead(means: &mut Means, at: Position) -> Position {
    let digest = means.digest();
    match means.rng.below(4) {
        0 => Position { epoch: Epoch(at.epoch.0 + 1 + means.rng.below(4)), digest, ..at },
        1 => Position { view: View(u64::MAX), digest, ..at },
        2 => Position { view: View((1 << 60) + means.rng.below(100)), digest, ..at },
        _ => Position { view: View(at.view.0 + 1 + means.rng.below(10)), digest, ..at },
    }
}
