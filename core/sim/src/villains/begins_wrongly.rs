//! The attack: a new primary that begins its view as it must not: with a VIEW-CHANGE too few or one too many, with one that
//! it has changed, or rightly, and then proposes something else than that.

use std::sync::Arc;

use bft_core::ids::{ReplicaId, View};
use bft_core::ordering::pbft::new_view::Beginning;
use bft_core::wire::message::{BatchHeader, Message, NewView, PrePrepare};

use super::Villain;
use super::means::Means;
use super::said::Said;

/// Begins its view wrongly.
#[derive(Default)]
pub struct BeginsWrongly {
    /// The last view that was begun rightly, and with what.
    begun: Option<(View, Beginning)>,
}

impl BeginsWrongly {
    fn begin(&mut self, means: &Means, first: &NewView) -> Option<NewView> {
        let mut other = first.clone();
        match means.shared_below(4, first.view.0) {
            0 => drop(other.view_changes.pop()),
            1 => other.view_changes.extend(first.view_changes.last().cloned()),
            2 => {
                // In another's name: its signature no longer fits.
                let theirs = other.view_changes.iter_mut().find(|message| message.replica != means.me)?;
                let theirs = Arc::make_mut(theirs);
                (theirs.prepared, theirs.certificate) = (Vec::new(), None);
            }
            _ => {
                let beginning = Beginning::of(&first.view_changes, means.digest_of(&BatchHeader::NULL)).ok()?;
                self.begun = Some((first.view, beginning));
                return None;
            }
        }
        means.seal_new_view(&mut other);
        Some(other)
    }

    /// Something else than what its view begins with.
    fn propose(&self, means: &Means, first: &PrePrepare) -> Option<PrePrepare> {
        let (view, beginning) = self.begun.as_ref()?;
        let at = &first.position;
        if *view != at.view || !beginning.order.contains_key(&at.seq) {
            return None;
        }
        let header = if first.header == BatchHeader::NULL {
            first.body.header(1)
        } else {
            BatchHeader { time_ns: first.header.time_ns + 1, ..first.header }
        };
        Some(means.propose(at.view, at.seq, header, Arc::clone(&first.body)))
    }
}

impl Villain for BeginsWrongly {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let other = match &message {
            Message::NewView(first) if means.config.primary(first.view) == means.me => {
                self.begin(means, first).map(|other| Message::NewView(Arc::new(other)))
            }
            Message::PrePrepare(first) => self.propose(means, first).map(Message::PrePrepare),
            _ => None,
        };
        match other {
            Some(other) => said.lie(other),
            None => said.truth(message),
        }
    }
}
