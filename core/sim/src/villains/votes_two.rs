//! The attack: a backup that sends some its vote for the proposed batch and others a vote for another one, each with the
//! COMMIT that opens it, so that nobody knows what it voted for.

use bft_core::ids::ReplicaId;
use bft_core::wire::message::{Message, Position};

use super::Villain;
use super::means::{Means, place};
use super::said::Said;

/// Two votes for each place.
pub struct VotesTwo;

impl Villain for VotesTwo {
    fn to_peer(&mut self, means: &mut Means, peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::Prepare(vote) = &message else { return said.truth(message) };
        if !means.is_in_other_half(peer, place(vote.position.view, vote.position.seq)) {
            return said.truth(message);
        }
        let position = Position { digest: means.digest(), ..vote.position };
        said.lie(Message::Prepare(means.prepare(position)));
        said.lie(Message::Commit(means.commit(position)));
        // And sometimes both of them.
        if means.rng.chance(300) {
            said.truth(message);
        }
    }
}
