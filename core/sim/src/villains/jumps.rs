//! The attack: a primary that proposes at the end of the window, behind it and far away, to use up the places in between.

use std::sync::Arc;

use bft_core::ids::{ReplicaId, Seq};
use bft_core::wire::message::Message;

use super::Villain;
use super::instead::Instead;
use super::means::Means;
use super::said::Said;

/// Proposes far ahead.
#[derive(Default)]
pub struct Jumps {
    instead: Instead,
}

impl Villain for Jumps {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::PrePrepare(first) = message else { return said.truth(message) };
        self.instead.say(means, first, said, |means, first| {
            let window = means.config.params().window;
            let ahead = match means.rng.below(8) {
                0 => window / 2,
                1 => window,
                2 => 2 * window,
                3 => u64::MAX - first.position.seq.0,
                _ => return None,
            };
            let seq = Seq(first.position.seq.0 + ahead);
            Some(means.propose(first.position.view, seq, first.header, Arc::clone(&first.body)))
        });
    }
}
