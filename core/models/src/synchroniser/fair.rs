//! What follows a state of the synchroniser when nothing is lost any more, with clocks: in every tick everybody hears what
//! everybody was at in the tick before, because it is said again and again. A view is good when three correct replicas are
//! in it, a correct one leads, and they stay for as long as an order takes.

use super::{Action, Fault, REPLICAS, State, Synchroniser, View, primary};

/// Ticks of the base timeout: shorter than a view needs to do anything.
const BASE: u64 = 2;
/// Ticks from the beginning of a view to its first execution.
const ORDER: u64 = 3;
/// Ticks until a good view must have come, whatever happened before.
const PATIENCE: u64 = 2000;
/// How often timeouts were doubled by bad views long ago, if nothing ever resets them.
const LONG_AGO: u32 = 16;

/// What the Byzantine replica does meanwhile.
#[derive(Clone, Copy, Debug)]
enum Enemy {
    Silent,
    /// Says to everybody that it goes to the same view.
    Joins,
}

#[derive(Clone, Copy)]
struct Clock {
    /// What is waited for: the view, and whether it is on the way to it.
    waits_for: Option<(View, bool)>,
    at: u64,
    failed: u32,
}

struct Run<'a> {
    model: &'a Synchroniser,
    enemy: Enemy,
    state: State,
    clocks: [Clock; REPLICAS],
    good_since: Option<(View, u64)>,
}

impl Synchroniser {
    /// Whether a good view comes from `state`, with fresh timeouts and with those of many bad views.
    pub fn comes_to_a_view(&self, state: &State) -> bool {
        [Enemy::Silent, Enemy::Joins].into_iter().all(|enemy| {
            let bad_views = |replica: usize| u32::from(state.replicas[replica].view);
            self.comes_together(state, enemy, |_| 0) && self.comes_together(state, enemy, bad_views)
        })
    }

    fn comes_together(&self, state: &State, enemy: Enemy, failed: impl Fn(usize) -> u32) -> bool {
        let before = if self.has(Fault::NeverResets) { LONG_AGO } else { 0 };
        let clock = |replica| Clock { waits_for: None, at: 0, failed: before + failed(replica) };
        let clocks = std::array::from_fn(clock);
        // Views go on beyond those of the model: they are counted from 0 again, with the same primaries.
        let mut run = Run { model: self, enemy, state: *state, clocks, good_since: None };
        (0..PATIENCE).any(|tick| run.tick(tick))
    }
}

impl Run<'_> {
    /// One tick; whether the good view has come.
    fn tick(&mut self, now: u64) -> bool {
        let before = self.state;
        for replica in self.model.correct() {
            self.hear(&before, replica);
        }
        for replica in self.model.correct() {
            self.run_clock(now, replica);
        }
        self.lower();
        self.is_good(now)
    }

    /// Everything that the others were at.
    fn hear(&mut self, before: &State, replica: usize) {
        for from in (0..REPLICAS).filter(|from| *from != replica) {
            let view = if from == self.model.byzantine {
                matches!(self.enemy, Enemy::Joins).then_some(self.state.replicas[replica].view)
            } else {
                let is_said = before.replicas[from].is_changing && !self.model.has(Fault::NeverRepeats);
                is_said.then_some(before.replicas[from].view)
            };
            if let Some(view) = view {
                self.act(Action::Hear { replica, from, view });
            }
        }
        if self.may_lead(before, replica) {
            self.act(Action::Lead { replica });
        }
        let me = self.state.replicas[replica];
        let leads = |from: &usize| *from != replica && !before.replicas[*from].is_changing;
        let ahead = self.model.correct().filter(leads).map(|from| before.replicas[from].view);
        let ahead = ahead.filter(|view| *view > me.view || (*view == me.view && me.is_changing && *view > 0)).max();
        if let Some(view) = ahead.filter(|_| !self.model.has(Fault::NeverRepeats)) {
            self.act(Action::Follow { replica, view });
        }
    }

    /// From now on the Byzantine replica counts only where it speaks.
    fn may_lead(&self, before: &State, replica: usize) -> bool {
        let me = &self.state.replicas[replica];
        let asks = |from: &usize| before.replicas[*from].is_changing && before.replicas[*from].view == me.view;
        let speaks = u32::from(matches!(self.enemy, Enemy::Joins));
        let asked = self.model.correct().filter(asks).count() as u32 + speaks;
        let hears = !self.model.has(Fault::NeverRepeats);
        hears && me.is_changing && primary(me.view) == replica && asked >= super::QUORUM
    }

    fn act(&mut self, action: Action) {
        let (Action::Expire { replica }
        | Action::Hear { replica, .. }
        | Action::Lead { replica }
        | Action::Follow { replica, .. }) = action;
        let view = self.state.replicas[replica].view;
        self.model.act(&mut self.state, action);
        let left = self.state.replicas[replica].view > view;
        self.clocks[replica].failed += u32::from(left);
    }

    fn run_clock(&mut self, now: u64, replica: usize) {
        let me = self.state.replicas[replica];
        let waits_for = self.model.waits(&self.state, replica).then_some((me.view, me.is_changing));
        let clock = &mut self.clocks[replica];
        if clock.waits_for != waits_for {
            let doubled = if self.model.has(Fault::NeverDoubles) { 0 } else { clock.failed.min(20) };
            // Nobody's clock is the other's.
            (clock.waits_for, clock.at) = (waits_for, now + (BASE << doubled) + replica as u64 % 2);
        }
        if waits_for.is_some() && clock.at <= now {
            self.act(Action::Expire { replica });
        }
    }

    /// Counts views from 0 again, where that changes no primary: a run has room for a few only.
    fn lower(&mut self) {
        let turn = REPLICAS as View;
        let correct = || self.model.correct();
        while correct().all(|replica| self.state.replicas[replica].view > turn) {
            for replica in correct() {
                let me = &mut self.state.replicas[replica];
                me.view -= turn;
                me.going.iter_mut().for_each(|going| *going = going.saturating_sub(turn));
                self.clocks[replica].waits_for = self.clocks[replica].waits_for.map(|(view, way)| (view - turn, way));
            }
            self.state.asked.rotate_left(REPLICAS);
            self.state.begun.rotate_left(REPLICAS);
            self.good_since = None;
        }
    }

    fn is_good(&mut self, now: u64) -> bool {
        let mut places = self.model.correct().map(|replica| self.state.replicas[replica]);
        let first = places.next().map_or(0, |first| first.view);
        let together = self.model.correct().all(|replica| {
            let me = &self.state.replicas[replica];
            me.view == first && !me.is_changing
        });
        if !together || primary(first) == self.model.byzantine {
            self.good_since = None;
            return false;
        }
        let (_, since) = *self.good_since.filter(|(view, _)| *view == first).get_or_insert((first, now));
        self.good_since = Some((first, since));
        now >= since + ORDER
    }
}
