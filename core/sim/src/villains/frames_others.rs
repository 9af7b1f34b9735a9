//! The attack: a replica that passes on what others said with something changed in it, so that they look as if they had
//! signed badly, or twice; and that shows to those who start what they signed long ago, as if they had lost it.

use std::collections::BTreeMap;

use bft_core::ids::ReplicaId;
use bft_core::wire::message::{Message, Prepare};
use bft_core::wire::recall::{Held, Recalled};

use super::means::Means;
use super::said::Said;
use super::{Heard, Villain};

/// Speaks in others' names.
#[derive(Default)]
pub struct FramesOthers {
    /// What was heard last of this kind: a vote, a checkpoint, a VIEW-CHANGE, a Request.
    heard: [Option<Message>; 4],
    /// The first vote of each replica.
    oldest: BTreeMap<ReplicaId, Prepare>,
}

impl Villain for FramesOthers {
    fn hears(&mut self, _means: &mut Means, _from: ReplicaId, message: &Message) -> Heard {
        if let Message::Prepare(vote) = message {
            self.oldest.entry(vote.replica).or_insert(*vote);
        }
        let slot = match message {
            Message::Prepare(_) => 0,
            Message::Checkpoint(_) => 1,
            Message::ViewChange(_) => 2,
            Message::Request(_) => 3,
            _ => return Heard::Passed,
        };
        self.heard[slot] = Some(message.clone());
        Heard::Passed
    }

    fn to_peer(&mut self, means: &mut Means, peer: ReplicaId, message: Message, said: &mut Said) {
        if let (Message::Recalled(answer), Some(vote)) = (&message, self.oldest.get(&peer)) {
            let Prepare { position, replica, ballot } = *vote;
            let held = Some(Held::Vote { replica, position, ballot, nonce: None });
            return said.lie(Message::Recalled(Recalled { held, ..*answer }));
        }
        said.truth(message);
        if !means.rng.chance(100) {
            return;
        }
        if let Some(heard) = self.heard[means.rng.below(4) as usize].clone() {
            said.lie(changed(means, heard));
        }
    }
}

/// The same in the same name, with something else in it.
fn changed(means: &mut Means, heard: Message) -> Message {
    match heard {
        Message::Prepare(vote) if means.rng.chance(500) => {
            // Signed, but by the wrong one.
            let ballot = means.prepare(vote.position).ballot;
            Message::Prepare(Prepare { ballot, ..vote })
        }
        Message::Prepare(mut vote) => {
            vote.position.digest = means.digest();
            Message::Prepare(vote)
        }
        Message::Checkpoint(mut vote) => {
            vote.root = means.digest();
            Message::Checkpoint(vote)
        }
        Message::ViewChange(mut theirs) => {
            let theirs_now = std::sync::Arc::make_mut(&mut theirs);
            theirs_now.prepared.pop();
            theirs_now.view = theirs_now.view.next();
            Message::ViewChange(theirs)
        }
        Message::Request(mut request) => {
            request.entry.signature.0[7] ^= 1;
            let mut bytes = request.bytes.to_vec();
            let at = bytes.len() - 57;
            bytes[at] ^= 1;
            request.bytes = bytes.into();
            Message::Request(request)
        }
        other => other,
    }
}
