//! The attack: a replica that hears everything and says nothing, to peers and to clients.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Message;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Says nothing.
pub struct Silent;

impl Villain for Silent {
    fn to_peer(&mut self, _means: &mut Means, _peer: ReplicaId, _message: Message, said: &mut Said) {
        said.nothing();
    }

    fn to_client(&mut self, _means: &mut Means, _message: Message, said: &mut Said) {
        said.nothing();
    }
}
