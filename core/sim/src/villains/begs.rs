//! The attack: a replica that says it has nothing and wants everything, again and again, so that the others work for it.

use bft_core::ids::{ReplicaId, Seq};
use bft_core::wire::message::{BatchId, Message};

use super::Villain;
use super::means::Means;
use super::said::Said;

/// How many times each STATUS is said.
const TIMES: usize = 3;

/// Wants everything.
pub struct Begs;

impl Villain for Begs {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::Status(status) = message else { return said.truth(message) };
        let mut lie = status.clone();
        (lie.executed, lie.snapshot) = (Seq(0), Seq(0));
        lie.stable = if means.rng.chance(500) { Seq(0) } else { status.stable };
        for map in [&mut lie.proposed, &mut lie.prepared, &mut lie.committed] {
            map.fill(0);
        }
        for _ in 0..TIMES {
            said.lie(Message::Status(lie.clone()));
        }
        let seq = Seq(status.executed.0.saturating_sub(means.rng.below(20)));
        said.lie(Message::FetchLog(seq));
        said.lie(Message::FetchSlot(Seq(1 + means.rng.below(seq.0 + 1))));
        said.lie(Message::FetchBody(BatchId { seq, digest: means.digest() }));
    }
}
