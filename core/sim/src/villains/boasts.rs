//! The attack: a replica that says it is where nobody can be, so that the others wait for it, ask it, and follow it.

use bft_core::ids::{ReplicaId, Seq, View};
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Is far ahead of everybody.
pub struct Boasts;

/// A height that is not `true_one`.
fn height(means: &mut Means, true_one: u64) -> u64 {
    match means.rng.below(4) {
        0 => u64::MAX,
        1 => u64::MAX - means.rng.below(1000),
        2 => true_one + means.rng.below(1000),
        _ => true_one + means.config.params().window * means.rng.below(4),
    }
}

impl Villain for Boasts {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::Status(mut status) = message else { return said.truth(message) };
        status.executed = Seq(height(means, status.executed.0));
        if means.rng.chance(500) {
            status.stable = Seq(height(means, status.stable.0));
        }
        if means.rng.chance(500) {
            status.snapshot = Seq(height(means, status.snapshot.0));
        }
        if means.rng.chance(300) {
            status.view = View(height(means, status.view.0));
            status.changing = Some(ReplicaSet::all(means.config.n()));
        }
        said.lie(Message::Status(status));
    }

    fn to_client(&mut self, means: &mut Means, message: Message, said: &mut Said) {
        let Message::Info(mut info) = message else { return said.truth(message) };
        info.executed = Seq(height(means, info.executed.0));
        info.view = View(height(means, info.view.0));
        said.lie(Message::Info(info));
    }
}
