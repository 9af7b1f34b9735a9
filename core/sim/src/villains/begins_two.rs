//! The attack: a new primary that begins its view with the VIEW-CHANGEs of one quorum for some and with those of another
//! for the others, or with another one of its own, and proposes to each half what its own beginning wants.

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_core::ids::{ReplicaId, View};
use bft_core::ordering::pbft::new_view::Beginning;
use bft_core::quorum::ReplicaSet;
use bft_core::wire::message::{BatchHeader, Message, NewView, PrePrepare, ViewChange};

use super::means::Means;
use super::said::Said;
use super::{Heard, Villain};

/// Two beginnings for its view.
#[derive(Default)]
pub struct BeginsTwo {
    /// The newest VIEW-CHANGE of each replica, its own among them.
    heard: BTreeMap<ReplicaId, Arc<ViewChange>>,
    /// The view that it begins twice, its other NEW-VIEW, and what that begins with.
    other: Option<(View, Arc<NewView>, Beginning)>,
}

impl BeginsTwo {
    fn note(&mut self, message: &Arc<ViewChange>) {
        let known = self.heard.get(&message.replica);
        if known.is_none_or(|known| known.view <= message.view) {
            self.heard.insert(message.replica, Arc::clone(message));
        }
    }

    /// Makes the other NEW-VIEW, if there is anything to make it of.
    fn other_than(&mut self, means: &Means, first: &NewView) -> Option<&(View, Arc<NewView>, Beginning)> {
        if self.other.as_ref().is_none_or(|(view, ..)| *view != first.view) {
            let chosen = self.of_others(means, first).or_else(|| with_less_of_its_own(means, first))?;
            let beginning = Beginning::of(&chosen, means.digest_of(&BatchHeader::NULL)).ok()?;
            let mut other = NewView { view_changes: chosen, ..first.clone() };
            means.seal_new_view(&mut other);
            self.other = Some((first.view, Arc::new(other), beginning));
        }
        self.other.as_ref()
    }

    /// Another quorum's VIEW-CHANGEs, those that the first one left out before all.
    fn of_others(&self, means: &Means, first: &NewView) -> Option<Vec<Arc<ViewChange>>> {
        let of_view = self.heard.values().filter(|message| message.view == first.view);
        let in_first =
            |message: &&Arc<ViewChange>| first.view_changes.iter().any(|used| used.replica == message.replica);
        let (used, unused): (Vec<_>, Vec<_>) = of_view.partition(in_first);
        if unused.is_empty() { None } else { minimal_quorum(means, unused.into_iter().chain(used)) }
    }

    /// What the other half is proposed, where its beginning wants something else.
    fn fitting(&self, means: &Means, proposal: &PrePrepare) -> Option<PrePrepare> {
        let (view, _, beginning) = self.other.as_ref()?;
        let at = &proposal.position;
        let chosen = beginning.order.get(&at.seq).filter(|chosen| *view == at.view && chosen.digest != at.digest)?;
        (chosen.header == BatchHeader::NULL).then(|| means.propose(at.view, at.seq, chosen.header, Arc::default()))
    }
}

/// The same VIEW-CHANGEs, but with nothing prepared and nothing stable in its own.
fn with_less_of_its_own(means: &Means, first: &NewView) -> Option<Vec<Arc<ViewChange>>> {
    let mut chosen = first.view_changes.clone();
    let own = chosen.iter_mut().find(|message| message.replica == means.me)?;
    if own.prepared.is_empty() && own.certificate.is_none() {
        return None;
    }
    let own = Arc::make_mut(own);
    (own.prepared, own.certificate) = (Vec::new(), None);
    means.seal_view_change(own);
    Some(chosen)
}

/// The first of `messages` that make a quorum, none of them to spare, ascending.
fn minimal_quorum<'a>(
    means: &Means,
    messages: impl Iterator<Item = &'a Arc<ViewChange>>,
) -> Option<Vec<Arc<ViewChange>>> {
    let weights = means.config.weights();
    let mut members = ReplicaSet::EMPTY;
    let mut chosen: Vec<Arc<ViewChange>> = Vec::new();
    for message in messages {
        if !weights.is_quorum(members) {
            members.insert(message.replica);
            chosen.push(Arc::clone(message));
        }
    }
    for replica in members.iter() {
        let mut rest = members;
        rest.remove(replica);
        if weights.is_quorum(rest) {
            members = rest;
        }
    }
    chosen.retain(|message| members.contains(message.replica));
    chosen.sort_unstable_by_key(|message| message.replica);
    weights.is_quorum(members).then_some(chosen)
}

impl Villain for BeginsTwo {
    fn hears(&mut self, _means: &mut Means, _from: ReplicaId, message: &Message) -> Heard {
        if let Message::ViewChange(message) = message {
            self.note(message);
        }
        Heard::Passed
    }

    fn to_peer(&mut self, means: &mut Means, peer: ReplicaId, message: Message, said: &mut Said) {
        if let Message::ViewChange(own) = &message {
            self.note(own);
        } else if let Message::NewView(first) = &message
            && means.config.primary(first.view) == means.me
            && means.is_in_other_half(peer, first.view.0)
        {
            // Where not enough is here for another one, nothing is said: the peer will say that it still waits.
            if let Some((_, other, _)) = self.other_than(means, first) {
                said.lie(Message::NewView(Arc::clone(other)));
            }
            return;
        } else if let Message::PrePrepare(proposal) = &message
            && means.is_in_other_half(peer, proposal.position.view.0)
            && let Some(fitting) = self.fitting(means, proposal)
        {
            return said.lie(Message::PrePrepare(fitting));
        }
        said.truth(message);
    }
}
