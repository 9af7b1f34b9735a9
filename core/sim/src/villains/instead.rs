//! What villains among the primaries share: a batch of their own in place of their core's, the same for everybody and
//! whenever it is sent, with the COMMIT that opens it.

use std::collections::BTreeMap;

use bft_core::ids::{Seq, View};
use bft_core::wire::message::{Message, Position, PrePrepare};

use super::means::Means;
use super::said::Said;

/// Places that are remembered: more than any window has.
const REMEMBERED_MAX: usize = 128;

/// By place: what is proposed there.
#[derive(Default)]
pub struct Instead {
    proposals: BTreeMap<(View, Seq), Option<PrePrepare>>,
}

impl Instead {
    /// Says what `make` makes of a proposal, or the proposal itself where it makes nothing.
    pub fn say(
        &mut self,
        means: &mut Means,
        first: PrePrepare,
        said: &mut Said,
        make: impl FnOnce(&mut Means, &PrePrepare) -> Option<PrePrepare>,
    ) {
        let Position { view, seq, .. } = first.position;
        if self.proposals.len() >= REMEMBERED_MAX {
            self.proposals.pop_first();
        }
        let made = self.proposals.entry((view, seq)).or_insert_with(|| make(means, &first));
        match made {
            Some(other) => {
                said.lie(Message::PrePrepare(other.clone()));
                said.lie(Message::Commit(means.commit(other.position)));
            }
            None => said.truth(Message::PrePrepare(first)),
        }
    }
}
