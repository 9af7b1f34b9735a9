//! The messages that left correct replicas, real ones, each under what the model calls it. It may be delivered at any
//! time, again, or never.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bft_core::door::To;
use bft_core::ordering::pbft::new_view::Beginning;
use bft_core::wire::message::{self, Message, Position};

use super::names::Names;
use super::{Diverged, Ended};
use crate::agreement::{Order, Phase, SLOTS, State, Value, View, ViewChange, Votes};

/// Messages without a place in the model that may still be delivered.
const OTHERS: usize = 64;

/// Who voted for what.
pub type Place = (usize, View, usize, Value);

/// See above.
#[derive(Default)]
pub struct Network {
    /// PRE-PREPAREs and PREPAREs.
    pub votes: BTreeMap<Place, Message>,
    /// COMMITs.
    pub commits: BTreeMap<Place, Message>,
    /// Votes and COMMITs that a replica would send again if it were asked: after a restart. The model has sent them.
    pub owed: BTreeSet<Place>,
    /// VIEW-CHANGEs.
    pub view_changes: BTreeMap<ViewChange, Arc<message::ViewChange>>,
    /// NEW-VIEWs of correct primaries.
    pub new_views: BTreeMap<(View, Order), Arc<message::NewView>>,
    /// The last of everything else: who sent it, to whom.
    pub others: VecDeque<(usize, To, Message)>,
}

/// What a view begins with, by slot.
pub fn order_of(names: &Names, view_changes: &[Arc<message::ViewChange>]) -> Result<Order, Diverged> {
    let beginning = Beginning::of(view_changes, names.null())
        .map_err(|two| Diverged(format!("two batches are prepared at {} in {}", two.seq, two.view)))?;
    let mut order = [None; SLOTS];
    for (seq, chosen) in &beginning.order {
        if let Some(slot) = names.slot(*seq) {
            order[slot] = Some(names.value(chosen.digest));
        }
    }
    Ok(order)
}

impl Network {
    /// `message` left `from`.
    pub fn leave(&mut self, names: &mut Names, from: usize, to: To, message: Message) -> Result<(), Ended> {
        if let Message::PrePrepare(proposal) = &message {
            names.note(proposal.header, &proposal.body)?;
            insert(names, &mut self.votes, from, proposal.position, &message)
        } else if let Message::Prepare(prepare) = &message {
            insert(names, &mut self.votes, from, prepare.position, &message)
        } else if let Message::Commit(commit) = &message {
            insert(names, &mut self.commits, from, commit.position, &message)
        } else if let Message::ViewChange(sent) = &message {
            let (view, prepared) = (names.view(sent.view)?, names.prepared(&sent.prepared)?);
            self.view_changes.insert(ViewChange { from, view, prepared }, Arc::clone(sent));
            Ok(())
        } else {
            self.leave_other(names, from, to, message)
        }
    }

    fn leave_other(&mut self, names: &Names, from: usize, to: To, message: Message) -> Result<(), Ended> {
        if let Message::NewView(sent) = &message
            && names.view(sent.view)?.primary() == from
        {
            let order = order_of(names, &sent.view_changes)?;
            self.new_views.insert((names.view(sent.view)?, order), Arc::clone(sent));
            return Ok(());
        }
        if self.others.len() == OTHERS {
            self.others.pop_front();
        }
        self.others.push_back((from, to, message));
        Ok(())
    }

    /// `replica` started again: what it stands for, and did not send, it owes.
    pub fn owe(&mut self, replica: usize, state: &State) {
        let me = &state.replicas[replica];
        if me.phase == Phase::Normal {
            let stands = |slot: usize| me.accepted[slot].map(|value| (replica, me.view, slot, value));
            self.owed.extend((0..SLOTS).filter_map(stands));
        }
    }

    /// Whether exactly that left which left in the model, but for what is owed.
    pub fn compare(&self, state: &State) -> Result<(), Diverged> {
        self.compare_votes("votes", &self.votes, &state.votes)?;
        self.compare_votes("commits", &self.commits, &state.commits)?;
        let view_changes: Vec<_> = self.view_changes.keys().cloned().collect();
        let new_views: Vec<_> = self.new_views.keys().copied().collect();
        if view_changes != state.view_changes {
            return Err(Diverged(format!("VIEW-CHANGEs left: {view_changes:?}, model: {:?}", state.view_changes)));
        }
        if new_views != state.new_views {
            return Err(Diverged(format!("NEW-VIEWs left: {new_views:?}, model: {:?}", state.new_views)));
        }
        Ok(())
    }

    fn compare_votes(&self, what: &str, left: &BTreeMap<Place, Message>, model: &[Votes]) -> Result<(), Diverged> {
        let mut same = vec![Votes::default(); model.len()];
        let owed = self.owed.iter().filter(|(from, view, slot, value)| model[*from].has(*view, *slot, *value));
        left.keys().chain(owed).for_each(|(from, view, slot, value)| same[*from].insert(*view, *slot, *value));
        if same == model { Ok(()) } else { Err(Diverged(format!("{what} left: {:?}, model: {model:?}", left.keys()))) }
    }
}

fn insert(
    names: &Names,
    places: &mut BTreeMap<Place, Message>,
    from: usize,
    at: Position,
    message: &Message,
) -> Result<(), Ended> {
    if let Some(slot) = names.slot(at.seq) {
        places.entry((from, names.view(at.view)?, slot, names.value(at.digest))).or_insert_with(|| message.clone());
    }
    Ok(())
}
