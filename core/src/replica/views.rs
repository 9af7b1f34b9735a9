//! When to leave a view, and how a replica gets from one to the next (PROTOCOL §8, §13; the synchroniser after Bravo,
//! Chockler and Gotsman, DISC'20): what is waited for, for how long, and what is said to whom. What a view begins with is
//! in `ordering/pbft`.
//!
//! One thing is waited for at a time: an execution, by whoever knows of work; or a NEW-VIEW, by whoever is one of a quorum
//! on its way. A timer that expires leads to the next view, and doubles until something is executed again.
//!
//! A primary waits like its backups: where weights are unequal those that have left its view may be too few to make it
//! follow, and all that a quorum lacks.

use std::sync::Arc;

use super::Replica;
use super::fairness::Unfair;
use crate::door::{Effects, Halt, Lane, Now, To};
use crate::evidence::Proof;
use crate::ids::{Nanos, ReplicaId, Seq, View};
use crate::journal::record::Record;
use crate::limits::{LATE_MAX, VIEW_TIMEOUT_MAX};
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::ordering::pbft::new_view::TwoPrepared;
use crate::wire::message::{Message, NewView, Status, ViewChange};

/// What a progress timer lasts in commit latencies, and in base timeouts at most (PROTOCOL §13).
const LATENCIES: u64 = 8;
/// Requests that a backup forwards again when their primary keeps it waiting.
const FORWARDED_AGAIN: usize = 32;
/// STATUS intervals between two NEW-VIEWs to one peer.
const NEW_VIEW_INTERVAL: u64 = 4;

/// What a replica waits for, and how long.
#[derive(Debug)]
pub struct Views {
    timer: Option<Timer>,
    /// Views in a row that were left before anything was executed in them.
    failed: u32,
    /// Whether something was executed in the present one.
    has_progressed: bool,
    /// Batches with a Request that had an effect, executed so far.
    effective: u64,
    /// The time that the shell was told to call at.
    told: Option<Nanos>,
    /// Smoothed time from a vote to the execution, and the sample that is being taken.
    latency: u64,
    sample: Option<(Seq, Nanos)>,
    /// When each peer was last sent the NEW-VIEW.
    new_view_sent: Vec<Option<Nanos>>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    waits_for: WaitsFor,
    at: Nanos,
    /// Until when the primary gets the oldest Requests again.
    forward_at: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    /// The next batch with an effect after this many.
    Execution(u64),
    /// The NEW-VIEW of this view.
    NewView(View),
}

impl Views {
    pub fn new(n: usize) -> Self {
        Self {
            timer: None,
            failed: 0,
            has_progressed: true,
            effective: 0,
            told: None,
            latency: 0,
            sample: None,
            new_view_sent: vec![None; n],
        }
    }

    /// A batch in which a Request had an effect was executed.
    pub fn executed_effective(&mut self) {
        self.effective += 1;
        self.failed = 0;
        self.has_progressed = true;
    }

    /// The present view is left.
    fn leave(&mut self) {
        // What a failed view took says nothing about how long a batch takes in one that does not fail.
        self.sample = None;
        if !std::mem::take(&mut self.has_progressed) {
            self.failed = self.failed.saturating_add(1);
        }
    }

    /// The shell is told to call at this time.
    pub fn tell(&mut self, deadline: Nanos) -> Nanos {
        let at = self.timer.map_or(deadline, |timer| {
            let next = timer.forward_at.map_or(timer.at, |forward| forward.min(timer.at));
            deadline.min(next)
        });
        self.told = Some(at);
        at
    }

    /// Execution goes on at a later Seq: what lies between took none of the time that a batch takes.
    pub fn forget_sample(&mut self) {
        self.sample = None;
    }

    /// A replica that was not scheduled in time blames nobody else for it (V16).
    fn excuse_lateness(&mut self, now: Nanos) {
        let late = self.told.take().map_or(0, |told| now.since(told));
        if let Some(timer) = self.timer.as_mut().filter(|_| late > LATE_MAX) {
            timer.at = timer.at.after(late);
        }
    }
}

impl Replica {
    /// At the beginning of every step.
    pub(super) fn note_time(&mut self, now: Now) {
        self.transfer.note_time(now.mono);
        self.views.excuse_lateness(now.mono);
    }

    /// At the end of every step: takes every step towards the next view that is due, and sets the timer.
    pub(super) fn advance_views(&mut self, now: Now, is_deadline: bool, out: &mut Effects) {
        if self.pbft.may_vote() {
            if let Some(view) = self.pbft.view_to_join() {
                self.go_to(view, out);
            }
            while self.accusations.condemns(self.pbft.view()) && !self.pbft.is_primary() {
                self.suspect(out);
            }
            self.send_view_change_when_promised(out);
            if let Some(new_view) = self.pbft.make_new_view() {
                self.send_new_view(new_view, out);
            }
        }
        self.sample_latency(now);
        let expired = is_deadline && self.views.timer.is_some_and(|timer| timer.at <= now.mono);
        self.set_timer(now);
        if expired && self.views.timer.is_some_and(|timer| timer.at <= now.mono) {
            // What can have no effect any more is no reason (V11).
            self.purge_pool();
            self.set_timer(now);
        }
        if expired && self.views.timer.is_some_and(|timer| timer.at <= now.mono) {
            self.suspect(out);
            self.send_view_change_when_promised(out);
            self.set_timer(now);
        } else if self.views.timer.is_some_and(|timer| timer.forward_at.is_some_and(|at| at <= now.mono)) {
            self.forward_again(out);
        }
    }

    /// A VIEW-CHANGE, checked by the verifier.
    pub(super) fn on_view_change(&mut self, message: &Arc<ViewChange>) -> Result<(), Ignored> {
        if let Some(certificate) = &message.certificate {
            self.judge_checkpoint(certificate);
        }
        self.pbft.on_view_change(message)
    }

    /// A NEW-VIEW, checked by the verifier: whoever has it can compute what its view begins with.
    pub(super) fn on_new_view(&mut self, message: Arc<NewView>, out: &mut Effects) -> Result<(), Ignored> {
        let view = message.view;
        if view == self.pbft.view() && self.pbft.is_normal() {
            return Err(self.judge_second_new_view(message));
        }
        if view < self.pbft.view() {
            return Err(Ignored::OtherView);
        }
        if self.config.primary(view) == self.me {
            self.compare_own_new_view(&message, out);
        }
        self.judge_members(&message);
        if view > self.pbft.view() {
            self.leave_for(view, out);
        }
        self.begin(message, out);
        Ok(())
    }

    /// A NEW-VIEW of the view that this replica is in. Another signature over the same one contradicts nothing.
    fn judge_second_new_view(&mut self, message: Arc<NewView>) -> Ignored {
        let cluster = self.config.cluster_id();
        let Some(known) = self.pbft.new_view().filter(|known| **known != message).cloned() else {
            return Ignored::Duplicate;
        };
        if known.signing_bytes(cluster) == message.signing_bytes(cluster) {
            return Ignored::Duplicate;
        }
        self.judge_members(&message);
        self.pbft.prove(Proof::two_new_views(cluster, known, message));
        Ignored::Conflicting
    }

    /// What a NEW-VIEW shows that others said.
    fn judge_members(&mut self, message: &NewView) {
        for view_change in &message.view_changes {
            if let Some(certificate) = &view_change.certificate {
                self.judge_checkpoint(certificate);
            }
            self.pbft.judge_view_change(view_change);
        }
    }

    /// What a peer says of views: it gets what it lacks of them.
    pub(super) fn on_status_of_view(&mut self, now: Now, from: ReplicaId, status: &Status, out: &mut Effects) {
        if status.changing.is_some() {
            self.pbft.goes_to(from, status.view);
        }
        let view = self.pbft.view();
        let is_behind = status.view < view || (status.view == view && status.changing.is_some());
        if !is_behind {
            return;
        }
        let message = if self.pbft.is_normal() {
            let interval = NEW_VIEW_INTERVAL * self.tuning.status_busy;
            let sent = &mut self.views.new_view_sent[from.index()];
            let lately = sent.is_some_and(|sent| now.mono.since(sent) < interval);
            let new_view = self.pbft.new_view().filter(|_| !lately);
            *sent = if new_view.is_some() { Some(now.mono) } else { *sent };
            new_view.map(|new_view| Message::NewView(Arc::clone(new_view)))
        } else {
            let has_it = status.view == view && status.changing.is_some_and(|seen| seen.contains(self.me));
            let wants_it = crate::mutant!(M28ViewChangeSentOnce, !has_it, false);
            let own = self.pbft.own_view_change().filter(|_| wants_it);
            own.map(|own| Message::ViewChange(Arc::clone(own)))
        };
        if let Some(message) = message {
            let needs = self.views_need;
            let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
            outbox.send(To::One(from), Lane::Control, message, needs);
        }
    }

    /// Gives up a primary that keeps batches coming and Requests waiting.
    pub(super) fn suspect_when_unfair(&mut self, out: &mut Effects) {
        if self.pbft.is_primary() || !self.pbft.is_normal() || !self.pbft.may_vote() {
            return;
        }
        let executed = (self.executing.last, self.counters.requests);
        let known = self.catch_up.executed_by_others(self.config.weights()).max(self.pbft.highest_prepared());
        match self.fairness.judge(&self.pool, executed, known) {
            None => return,
            Some(Unfair::PassesOver) => self.counters.suspected_of_passing_over += 1,
            Some(Unfair::Repeats) => self.counters.suspected_of_repeating += 1,
        }
        self.suspect(out);
    }

    /// Gives up the primary of the current view.
    fn suspect(&mut self, out: &mut Effects) {
        self.counters.suspected += 1;
        self.go_to(self.pbft.view().next(), out);
    }

    /// Promises to vote in no view below `view`.
    fn go_to(&mut self, view: View, out: &mut Effects) {
        assert!(self.pbft.may_vote(), "who is silent moves nobody to another view (D7)");
        self.leave_for(view, out);
        self.pbft.promise(self.views_need);
    }

    /// Leaves the current view, and persists that (P4).
    fn leave_for(&mut self, view: View, out: &mut Effects) {
        self.counters.views_left += 1;
        self.views.leave();
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        let open = self.pbft.leave(view, &mut outbox);
        self.superblock.promised = view;
        self.views_need = outbox.persist_superblock(self.superblock.clone());
        self.batches.clear();
        self.fairness.forget();
        self.pool.forget_ordered();
        for request in open {
            self.pool.add(&request);
        }
        self.next_status = Nanos(0);
    }

    fn send_view_change_when_promised(&mut self, out: &mut Effects) {
        if self.pbft.has_promised(self.durable) {
            let message = self.pbft.make_view_change(self.superblock.stable.clone());
            let needs = crate::mutant!(M12PromiseNotWaitedFor, self.views_need, crate::ids::LogPosition(0));
            let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
            outbox.send(To::All, Lane::Control, Message::ViewChange(message), needs);
        }
    }

    /// As the primary: V is fixed once and for all when its record is emitted (P7).
    fn send_new_view(&mut self, new_view: NewView, out: &mut Effects) {
        let new_view = Arc::new(new_view);
        self.begin(Arc::clone(&new_view), out);
        let needs = self.views_need;
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(To::All, Lane::Control, Message::NewView(new_view), needs);
    }

    /// The view begins: persists with what (P7), adopts its checkpoint.
    fn begin(&mut self, new_view: Arc<NewView>, out: &mut Effects) {
        self.counters.views_begun += 1;
        let record = Record::NewView(Arc::clone(&new_view));
        self.views_need = Outbox::new(out, &mut self.last, &mut self.index).persist(record);
        self.new_view_at = self.views_need;
        match self.pbft.begin(Arc::clone(&new_view)) {
            Ok(Ok(())) => {}
            Ok(Err((seq, here, there))) => self.halt(Halt::TwoCommitted { seq, here, there }, out),
            Err(TwoPrepared { seq, view }) => {
                self.pbft.judge_two_prepared(&new_view, seq, view);
                return self.halt(Halt::TwoPrepared { seq, view }, out);
            }
        }
        if let Some(certificate) = self.pbft.beginning().certificate.clone() {
            self.adopt_checkpoint(certificate, out);
        }
        self.views.timer = None;
        self.next_status = Nanos(0);
        self.forward_again(out);
    }

    /// A sample at a time of how long a batch takes from the vote to its execution, by the own clock only.
    fn sample_latency(&mut self, now: Now) {
        let executed = self.executing.last;
        match self.views.sample {
            Some((seq, since)) if seq <= executed => {
                let sample = now.mono.since(since);
                let latency = self.views.latency;
                self.views.latency = if latency == 0 { sample } else { (7 * latency + sample) / 8 };
                self.views.sample = None;
            }
            Some(_) => {}
            None => {
                let open = self.pbft.slot(executed.next()).is_some_and(|slot| slot.accepted.is_some());
                self.views.sample = open.then_some((executed.next(), now.mono));
            }
        }
    }

    fn set_timer(&mut self, now: Now) {
        let waits_for = self.waits_for();
        let is_same = self.views.timer.map(|timer| timer.waits_for) == waits_for;
        if crate::mutant!(M54TimerSetByEveryStep, is_same, false) {
            return;
        }
        let base = self.config.params().view_timeout;
        let factor = 1 << crate::mutant!(M29TimeoutsStayShort, self.views.failed.min(20), 0);
        let progress = (LATENCIES * self.views.latency).clamp(base, LATENCIES * base);
        self.views.timer = waits_for.map(|waits_for| {
            let duration = match waits_for {
                WaitsFor::Execution(_) => progress,
                WaitsFor::NewView(_) => base,
            };
            let duration = duration.saturating_mul(factor).min(VIEW_TIMEOUT_MAX.max(base));
            let forward_at = matches!(waits_for, WaitsFor::Execution(_)).then(|| now.mono.after(duration / 2));
            Timer { waits_for, at: now.mono.after(duration), forward_at }
        });
    }

    fn waits_for(&self) -> Option<WaitsFor> {
        if !self.pbft.may_vote() {
            return None;
        }
        if self.pbft.is_normal() {
            // Whose state comes from others does not execute meanwhile, whoever is primary.
            if self.transfer.is_active() || self.awaits_state() {
                return None;
            }
            // The next batch is committed: what it waits for is the own service or disk (V16).
            let next = self.executing.last.next();
            if self.is_committed(next) || self.catch_up.is_lost(next) {
                return None;
            }
            // One who is right has executed it, so it is to be had: what it waits for is to catch up (V16).
            if self.catch_up.is_executed_by_others(next, self.config.weights()) {
                return None;
            }
            // What was proposed has left the pool, and may never be prepared if too few are in this view.
            let is_open = self.pbft.in_flight() > 0 || self.pbft.highest_prepared() > self.executing.last;
            let has_work = self.pool.waiting() > 0 || is_open;
            let waits = crate::mutant!(M65PrimaryNeverLeaves, has_work, has_work && !self.pbft.is_primary());
            return waits.then_some(WaitsFor::Execution(self.views.effective));
        }
        // Nobody goes on from a view that a quorum has not come to (V8).
        self.pbft.quorum_is_going().then_some(WaitsFor::NewView(self.pbft.view()))
    }

    /// Sends the primary what it may have missed.
    fn forward_again(&mut self, out: &mut Effects) {
        if let Some(timer) = &mut self.views.timer {
            timer.forward_at = None;
        }
        if !self.pbft.is_primary() {
            let oldest = self.pool.iter().take(FORWARDED_AGAIN).cloned().collect();
            self.forward(oldest, out);
        }
    }
}
