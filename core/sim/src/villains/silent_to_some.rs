//! The attack: a replica that says nothing to as many as may be faulty, always the same ones, so that they look as if they
//! were the faulty ones.

use bft_core::ids::ReplicaId;
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Says nothing to some.
#[derive(Default)]
pub struct SilentToSome {
    shunned: Option<ReplicaSet>,
}

impl SilentToSome {
    fn shunned(&mut self, means: &Means) -> ReplicaSet {
        *self.shunned.get_or_insert_with(|| {
            let n = means.config.n() as u64;
            let weights = means.config.weights();
            let first = means.shared_below(n, 0);
            let ids = (0..n).map(|ahead| ReplicaId(((first + ahead) % n) as u16));
            let mut shunned = ReplicaSet::EMPTY;
            for id in ids.filter(|id| !means.fellows.contains(*id)) {
                if !weights.is_blocking(shunned.with(id)) {
                    shunned.insert(id);
                }
            }
            shunned
        })
    }
}

impl Villain for SilentToSome {
    fn to_peer(&mut self, means: &mut Means, peer: ReplicaId, message: Message, said: &mut Said) {
        if self.shunned(means).contains(peer) { said.nothing() } else { said.truth(message) }
    }
}
