//! The attack: a primary that proposes one batch to some and another to the others, and commits to both; its fellows
//! among the backups vote for both as well, each to the half that has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_core::ids::{ReplicaId, Seq, View};
use bft_core::wire::message::{BatchHeader, Message, Position, PrePrepare};
use bft_core::wire::request::Body;

use super::means::{Means, place};
use super::said::Said;
use super::{Heard, Villain};

/// Places that are remembered: more than any window has.
const REMEMBERED_MAX: usize = 128;

/// Two batches for each place.
#[derive(Default)]
pub struct ProposesTwo {
    /// By place: the first batch, and the one of the other half.
    two: BTreeMap<(View, Seq), (Position, BatchHeader, Arc<Body>)>,
}

impl ProposesTwo {
    fn remember(&mut self, means: &Means, first: &PrePrepare) -> &(Position, BatchHeader, Arc<Body>) {
        let Position { view, seq, .. } = first.position;
        if self.two.len() >= REMEMBERED_MAX {
            self.two.pop_first();
        }
        self.two.entry((view, seq)).or_insert_with(|| {
            let (header, body) = other_batch(means, first);
            let position = Position { digest: means.digest_of(&header), ..first.position };
            (position, header, body)
        })
    }
}

/// A batch that differs from the proposed one: by its time alone, by its order, or by having nothing in it. All villains
/// make the same of the same.
fn other_batch(means: &Means, first: &PrePrepare) -> (BatchHeader, Arc<Body>) {
    let time_ns = first.header.time_ns + 1;
    match means.shared_below(3, place(first.position.view, first.position.seq)) {
        0 => (Body::default().header(time_ns), Arc::default()),
        1 if first.header.count > 1 => {
            let mut requests: Vec<_> = first.body.requests().collect();
            requests.reverse();
            let body = Body::join(&requests);
            (body.header(time_ns), Arc::new(body))
        }
        _ => (BatchHeader { time_ns, ..first.header }, Arc::clone(&first.body)),
    }
}

impl Villain for ProposesTwo {
    fn hears(&mut self, means: &mut Means, from: ReplicaId, message: &Message) -> Heard {
        if let Message::PrePrepare(first) = message
            && means.fellows.contains(from)
        {
            self.remember(means, first);
        }
        Heard::Passed
    }

    fn to_peer(&mut self, means: &mut Means, peer: ReplicaId, message: Message, said: &mut Said) {
        let in_other_half = |at: &Position| means.is_in_other_half(peer, place(at.view, at.seq));
        if let Message::PrePrepare(first) = &message
            && in_other_half(&first.position)
        {
            let (position, header, body) = self.remember(means, first);
            said.lie(Message::PrePrepare(means.propose(position.view, position.seq, *header, Arc::clone(body))));
            said.lie(Message::Commit(means.commit(*position)));
        } else if let Message::Prepare(vote) = &message
            && let Some((position, ..)) = self.two.get(&(vote.position.view, vote.position.seq))
            && in_other_half(position)
        {
            said.lie(Message::Prepare(means.prepare(*position)));
            said.lie(Message::Commit(means.commit(*position)));
        } else {
            said.truth(message);
        }
    }
}
