//! The attack: a replica that leaves a view and says that nothing was prepared in it.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::means::Means;
use super::said::Said;
use super::{Villain, own_view_change};

/// Names no prepared certificate.
pub struct ForgetsPrepared;

impl Villain for ForgetsPrepared {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        own_view_change::say(means, message, said, |own| {
            let had_some = !own.prepared.is_empty();
            own.prepared.clear();
            had_some
        });
    }
}
