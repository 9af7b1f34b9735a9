//! What must hold in every state (PROTOCOL §16).

use super::{Agreement, State};

impl Agreement {
    /// No two values can be shown to be committed at one slot.
    pub fn agrees(&self, state: &State) -> bool {
        self.slots().all(|slot| {
            let mut committed = self.committed(state, slot).map(|at| at.value);
            let first = committed.next();
            committed.all(|value| Some(value) == first)
        })
    }

    /// L1: at most one value has a prepared certificate at a place.
    pub fn certifies_once(&self, state: &State) -> bool {
        let places = self.views().flat_map(|view| self.slots().map(move |slot| (view, slot)));
        let certified = |view, slot| self.all_values().filter(move |v| self.is_certifiable(state, view, slot, *v));
        places.into_iter().all(|(view, slot)| certified(view, slot).nth(1).is_none())
    }

    /// L2: what is committed is in every beginning of a later view that is valid and can be made.
    pub fn keeps_committed(&self, state: &State) -> bool {
        self.slots().all(|slot| {
            self.committed(state, slot).all(|at| {
                let mut later = self.views().filter(|view| *view > at.view);
                later.all(|view| self.orders(state, view, None).iter().all(|order| order[slot] == Some(at.value)))
            })
        })
    }

    /// No correct replica signs two votes for one place, two VIEW-CHANGEs or two NEW-VIEWs for one view.
    pub fn signs_once(&self, state: &State) -> bool {
        let votes = self.correct().all(|replica| {
            let mut places = self.views().flat_map(|view| self.slots().map(move |slot| (view, slot)));
            places.all(|(view, slot)| state.votes[replica].count(view, slot) <= 1)
        });
        let view_changes = state.view_changes.windows(2).all(|w| (w[0].from, w[0].view) != (w[1].from, w[1].view));
        let new_views = state.new_views.windows(2).all(|w| w[0].0 != w[1].0);
        votes && view_changes && new_views
    }
}
