//! The attack: a replica that holds everything back and lets it go at once, late.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Says everything at once.
pub struct Bursts;

impl Villain for Bursts {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        // Now and then behind the base timeout, now and then before.
        let period = means.config.params().view_timeout * 3 / 2;
        said.later(period - means.now % period, message);
    }
}
