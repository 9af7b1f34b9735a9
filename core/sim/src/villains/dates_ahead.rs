//! The attack: a primary that dates its batches from the future, a little and very much, and from the past.

use std::sync::Arc;

use bft_core::ids::ReplicaId;
use bft_core::limits::{CLOCK_AHEAD_MAX, MILLISECOND, SECOND};
use bft_core::wire::message::{BatchHeader, Message};

use super::Villain;
use super::instead::Instead;
use super::means::Means;
use super::said::Said;

/// Dates batches as it likes.
#[derive(Default)]
pub struct DatesAhead {
    instead: Instead,
}

impl Villain for DatesAhead {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::PrePrepare(first) = message else { return said.truth(message) };
        self.instead.say(means, first, said, |means, first| {
            let true_one = first.header.time_ns;
            let time_ns = match means.rng.below(16) {
                0 => u64::MAX,
                1 => true_one.saturating_add(3_600 * SECOND),
                2 => true_one.saturating_add(CLOCK_AHEAD_MAX + MILLISECOND),
                3..8 => true_one.saturating_add(CLOCK_AHEAD_MAX - 500 * MILLISECOND),
                8 => 1,
                9 => true_one.saturating_sub(SECOND),
                _ => return None,
            };
            let header = BatchHeader { time_ns, ..first.header };
            Some(means.propose(first.position.view, first.position.seq, header, Arc::clone(&first.body)))
        });
    }
}
