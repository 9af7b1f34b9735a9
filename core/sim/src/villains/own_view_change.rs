//! What villains that lie about their past share: their own VIEW-CHANGE, changed and signed anew wherever it appears, in a
//! NEW-VIEW of their own too.

use std::sync::Arc;

use bft_core::ids::ReplicaId;
use bft_core::wire::message::{Message, NewView, ViewChange};

use super::means::Means;
use super::said::Said;

/// Says `message`; an own VIEW-CHANGE as `change` leaves it, which says whether it changed anything.
pub fn say(means: &Means, message: Message, said: &mut Said, change: impl FnOnce(&mut ViewChange) -> bool) {
    match message {
        Message::ViewChange(mut own) if own.replica == means.me => {
            if change_own(means, &mut own, change) {
                said.lie(Message::ViewChange(own));
            } else {
                said.truth(Message::ViewChange(own));
            }
        }
        Message::NewView(new_view) if means.config.primary(new_view.view) == means.me => {
            match with_own(means, &new_view, change) {
                Some(other) => said.lie(Message::NewView(Arc::new(other))),
                None => said.truth(Message::NewView(new_view)),
            }
        }
        other => said.truth(other),
    }
}

/// A NEW-VIEW with the own VIEW-CHANGE as `change` leaves it; `None`: it is not in it, or does not change.
pub fn with_own(means: &Means, first: &NewView, change: impl FnOnce(&mut ViewChange) -> bool) -> Option<NewView> {
    let mut other = first.clone();
    let is_own = |message: &&mut Arc<ViewChange>| message.replica == means.me;
    let own = other.view_changes.iter_mut().find(is_own)?;
    if !change_own(means, own, change) {
        return None;
    }
    means.seal_new_view(&mut other);
    Some(other)
}

/// The VIEW-CHANGE of `replica` in a NEW-VIEW.
#[must_use]
pub fn of(new_view: &NewView, replica: ReplicaId) -> Option<&Arc<ViewChange>> {
    new_view.view_changes.iter().find(|message| message.replica == replica)
}

fn change_own(means: &Means, own: &mut Arc<ViewChange>, change: impl FnOnce(&mut ViewChange) -> bool) -> bool {
    let changed = change(Arc::make_mut(own));
    if changed {
        means.seal_view_change(Arc::make_mut(own));
    }
    changed
}
