//! The attack: a replica that is quick for a while and slow for a while, so that whoever measures it is always wrong.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// By turns quick and slow.
pub struct FastAndSlow;

impl Villain for FastAndSlow {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let timeout = means.config.params().view_timeout;
        if (means.now / timeout).is_multiple_of(2) {
            said.truth(message);
        } else {
            said.later(timeout / 3 + means.rng.below(timeout / 3), message);
        }
    }
}
