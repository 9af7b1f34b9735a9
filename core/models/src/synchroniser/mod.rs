//! M2: how replicas come to a view together (PROTOCOL §8; after Bravo, Chockler and Gotsman, DISC'20): four replicas, one of
//! them Byzantine, views 0 to 6, messages that get lost. What is ordered in a view is not here; there is always work, so
//! that every backup waits for its primary.
//!
//! Two things hold in every state: no correct replica is more than one view ahead of all other correct ones (V8), and from
//! there, once nothing is lost any more, the correct replicas come to one view and stay in it for long enough to order
//! something. The second is tried out, with clocks, in `fair`.
//!
//! That this is what the code does is held by `crate::binding::ways`.

use std::fmt;

use stateright::{Model, Property};

use crate::agreement::{QUORUM, REPLICAS, Replicas};

mod fair;

/// Views that a state has room for: `fair` goes a little beyond those of the search.
pub const VIEWS: usize = 12;

/// A view.
pub type View = u8;

/// Who leads `view`.
#[must_use]
pub fn primary(view: View) -> usize {
    usize::from(view) % REPLICAS
}

/// One correct replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Replica {
    /// The view that it is in, or goes to.
    pub view: View,
    /// Whether it has left one and not arrived in the next.
    pub is_changing: bool,
    /// The highest view that it knows each other to go to; 0 where that is below its own.
    pub going: [View; REPLICAS],
}

/// The whole system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The Byzantine one stays as it began.
    pub replicas: [Replica; REPLICAS],
    /// Of each view who sent a VIEW-CHANGE for it.
    pub asked: [Replicas; VIEWS],
    /// Of each view whether its correct primary sent a NEW-VIEW.
    pub begun: [bool; VIEWS],
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A timer expires.
    Expire {
        /// Whose.
        replica: usize,
    },
    /// It becomes known who goes where.
    Hear {
        /// To whom.
        replica: usize,
        /// Who goes.
        from: usize,
        /// Where.
        view: View,
    },
    /// A primary has the VIEW-CHANGEs of a quorum.
    Lead {
        /// Who.
        replica: usize,
    },
    /// A NEW-VIEW arrives.
    Follow {
        /// At whom.
        replica: usize,
        /// Of which view.
        view: View,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expire { replica } => write!(f, "r{replica} waits no longer"),
            Self::Hear { replica, from, view } => write!(f, "r{replica} hears that r{from} goes to view {view}"),
            Self::Lead { replica } => write!(f, "r{replica} begins its view"),
            Self::Follow { replica, view } => write!(f, "r{replica} follows into view {view}"),
        }
    }
}

/// A rule that is left out on purpose: the model must break without it, or it shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A replica joins whomever it hears of, not a blocking set.
    JoinsOne,
    /// A replica goes on from a view that no quorum has come to.
    RunsAhead,
    /// Timeouts do not grow.
    NeverDoubles,
    /// Timeouts do not shrink when something is executed: the cluster has lived through many bad views.
    NeverResets,
    /// What is said of views is said once.
    NeverRepeats,
}

/// The model, and what varies between its runs.
#[derive(Clone, Copy, Debug)]
pub struct Synchroniser {
    /// The one that may say anything.
    pub byzantine: usize,
    /// The last view.
    pub last_view: View,
    /// What is left out.
    pub fault: Option<Fault>,
}

impl Synchroniser {
    /// Views 0 to `last_view`; the Byzantine replica leads view `leads` first.
    #[must_use]
    pub fn of(leads: usize, last_view: View) -> Self {
        Self { byzantine: leads, last_view, fault: None }
    }

    /// Without this rule.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn correct(&self) -> impl Iterator<Item = usize> + use<> {
        let byzantine = self.byzantine;
        (0..REPLICAS).filter(move |replica| *replica != byzantine)
    }

    /// Whether the timer of `replica` runs: whoever is in a view waits for an execution; whoever is on its way waits for a
    /// NEW-VIEW, from when it knows that a quorum is on its way (V8).
    #[must_use]
    pub fn waits(&self, state: &State, replica: usize) -> bool {
        let me = &state.replicas[replica];
        let going = (0..REPLICAS).filter(|other| *other != replica && me.going[*other] >= me.view);
        let is_quorum = going.count() as u32 + 1 >= QUORUM;
        !me.is_changing || is_quorum || self.has(Fault::RunsAhead)
    }

    /// The view that `replica` joins, if enough others go beyond its own.
    fn joins(&self, me: &Replica) -> Option<View> {
        let mut going = me.going;
        going.sort_unstable();
        let [.., second, highest] = going;
        let view = if self.has(Fault::JoinsOne) { highest } else { second };
        (view > me.view).then_some(view)
    }

    fn go(&self, state: &mut State, replica: usize, view: View) {
        let me = &mut state.replicas[replica];
        (me.view, me.is_changing) = (view, true);
        state.asked[usize::from(view)] = state.asked[usize::from(view)].with(replica);
    }

    /// Whether a quorum, the Byzantine replica among it, asked for `view`.
    fn is_wanted(&self, state: &State, view: View) -> bool {
        view > 0 && state.asked[usize::from(view)].with(self.byzantine).len() >= QUORUM
    }

    /// Whether a NEW-VIEW of `view` can be had.
    fn has_begun(&self, state: &State, view: View) -> bool {
        if primary(view) == self.byzantine { self.is_wanted(state, view) } else { state.begun[usize::from(view)] }
    }

    fn may_lead(&self, state: &State, replica: usize) -> bool {
        let me = &state.replicas[replica];
        me.is_changing && primary(me.view) == replica && self.is_wanted(state, me.view)
    }

    fn hears(&self, state: &State, replica: usize, actions: &mut Vec<Action>) {
        let me = &state.replicas[replica];
        let others = self.correct().filter(|from| *from != replica && state.replicas[*from].is_changing);
        let news = others.map(|from| (from, state.replicas[from].view));
        let lies = [me.view, me.view + 1, self.last_view].map(|view| (self.byzantine, view));
        let mut all: Vec<_> = news.chain(lies).filter(|(_, view)| *view <= self.last_view).collect();
        all.dedup();
        all.retain(|(from, view)| *view >= me.view && *view > me.going[*from]);
        actions.extend(all.into_iter().map(|(from, view)| Action::Hear { replica, from, view }));
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Expire { replica } => self.go(state, replica, state.replicas[replica].view + 1),
            Action::Hear { replica, from, view } => {
                let me = &mut state.replicas[replica];
                me.going[from] = me.going[from].max(view);
                if let Some(view) = self.joins(me) {
                    self.go(state, replica, view);
                }
            }
            Action::Lead { replica } => {
                let me = &mut state.replicas[replica];
                me.is_changing = false;
                state.begun[usize::from(me.view)] = true;
            }
            Action::Follow { replica, view } => {
                let me = &mut state.replicas[replica];
                (me.view, me.is_changing) = (view, false);
            }
        }
        self.forget(state);
    }

    /// What lies below where everybody is makes no difference any more.
    fn forget(&self, state: &mut State) {
        for me in &mut state.replicas {
            let view = me.view;
            me.going.iter_mut().filter(|going| **going < view).for_each(|going| *going = 0);
        }
        let lowest = self.correct().map(|replica| state.replicas[replica].view).min().unwrap_or(0);
        let below = usize::from(lowest);
        state.asked[..below].fill(Replicas::default());
        state.begun[..below].fill(false);
    }

    /// V8: the foremost correct replica is at most one view ahead of the next.
    fn keeps_together(&self, state: &State) -> bool {
        let mut views: Vec<_> = self.correct().map(|replica| state.replicas[replica].view).collect();
        views.sort_unstable();
        let [.., second, first] = views[..] else { return true };
        first <= second + 1
    }
}

impl Model for Synchroniser {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for replica in self.correct() {
            let me = &state.replicas[replica];
            if me.view < self.last_view && self.waits(state, replica) {
                actions.push(Action::Expire { replica });
            }
            self.hears(state, replica, actions);
            if self.may_lead(state, replica) {
                actions.push(Action::Lead { replica });
            }
            let later = (me.view..=self.last_view).filter(|view| *view > me.view || me.is_changing);
            let later = later.filter(|view| primary(*view) != replica && self.has_begun(state, *view));
            actions.extend(later.map(|view| Action::Follow { replica, view }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        self.act(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("V8: at most one view ahead", Self::keeps_together),
            Property::always("comes to a view", Self::comes_to_a_view),
        ]
    }
}
