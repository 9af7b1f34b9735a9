//! From one view to a later one (PROTOCOL §8, after Castro and Liskov, OSDI'99 §4.4, in the version with signatures): what
//! a replica promises, collects and begins with. When to leave a view is decided in `replica/views.rs`.
//!
//! Kept here: once a view is left, nothing is voted in it any more, what still waits for its record included; the
//! VIEW-CHANGE names every certificate whose COMMIT may have left, because it is made only when the promise, and with
//! it everything before, is durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::new_view::{Beginning, Chosen, TwoPrepared};
use super::{Ignored, Pbft};
use crate::ids::{Digest, LogPosition, ReplicaId, Seq, Signature, View};
use crate::ordering::Outbox;
use crate::quorum::ReplicaSet;
use crate::wire::message::{BatchHeader, Checkpoint, NewView, Status, ViewChange};
use crate::wire::request::SignedRequest;

/// Where a replica is between views.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// In the view.
    Normal,
    /// On the way to it; the promise is not durable yet.
    Promising(LogPosition),
    /// On the way to it; the own VIEW-CHANGE is made.
    Changing,
}

/// What a replica knows of the current view's beginning, and of views to come.
#[derive(Debug)]
pub(super) struct Views {
    phase: Phase,
    /// Of each replica the VIEW-CHANGE for the highest view.
    pub(super) received: Vec<Option<Arc<ViewChange>>>,
    /// The highest view that each other replica is known to go to.
    going_to: Vec<View>,
    /// What began the current view; none in view 0, and on the way.
    new_view: Option<Arc<NewView>>,
    beginning: Beginning,
    /// Of the beginning what its primary has not proposed in this view yet.
    again: BTreeMap<Seq, Chosen>,
}

impl Views {
    pub(super) fn new(view: View, n: usize) -> Self {
        Self {
            phase: if view == View(0) { Phase::Normal } else { Phase::Changing },
            received: vec![None; n],
            going_to: vec![View(0); n],
            new_view: None,
            beginning: Beginning::default(),
            again: BTreeMap::new(),
        }
    }

    pub(super) fn forget_through(&mut self, stable: Seq) {
        self.again = self.again.split_off(&stable.next());
    }
}

impl Pbft {
    /// Whether this replica is in its view: only then does it vote.
    #[must_use]
    pub fn is_normal(&self) -> bool {
        self.views.phase == Phase::Normal
    }

    /// What the current view began with.
    #[must_use]
    pub fn beginning(&self) -> &Beginning {
        &self.views.beginning
    }

    /// What began the current view.
    #[must_use]
    pub fn new_view(&self) -> Option<&Arc<NewView>> {
        self.views.new_view.as_ref()
    }

    /// The digest of the null batch.
    #[must_use]
    pub fn null_digest(&self) -> Digest {
        BatchHeader::NULL.digest(self.config.cluster_id(), self.config.epoch())
    }

    /// Leaves the current view for `view`: no vote of a lower one is made from now on, and what waits to be sent is
    /// cancelled. Gives the Requests of batches that may not be ordered now; they must not be lost.
    pub fn leave(&mut self, view: View, out: &mut Outbox<'_>) -> Vec<SignedRequest> {
        assert!(view > self.view, "views only rise");
        out.effects().cancel_votes_below = Some(view);
        self.leave_view(view)
    }

    fn leave_view(&mut self, view: View) -> Vec<SignedRequest> {
        let open = self.window.iter().filter(|slot| slot.committed.is_none());
        let bodies = open.filter_map(|slot| slot.accepted.as_ref()?.body.as_ref());
        let requests = bodies.flat_map(|body| body.requests()).collect();
        let left = self.view;
        for index in 0..self.window.len() {
            let config = Arc::clone(&self.config);
            self.change(index, |slot| slot.leave_view(&config, left));
        }
        self.forget_early();
        self.waiting.clear();
        self.highest_prepared = Seq(0);
        (self.voted_through, self.settling, self.settled) = (self.stable, self.stable, self.stable);
        self.proposed = self.stable;
        self.view = view;
        self.views.phase = Phase::Changing;
        self.views.new_view = None;
        self.views.beginning = Beginning::default();
        self.views.again.clear();
        requests
    }

    /// The promise to vote in no lower view than the current one is record `at`.
    pub fn promise(&mut self, at: LogPosition) {
        self.views.phase = Phase::Promising(at);
    }

    /// Whether the own VIEW-CHANGE is to be made: everything up to `durable` is durable, and the promise is.
    #[must_use]
    pub fn has_promised(&self, durable: LogPosition) -> bool {
        let waits = crate::mutant!(M12PromiseNotWaitedFor, LogPosition(u64::MAX), LogPosition(0));
        match self.views.phase {
            Phase::Promising(at) => at.min(waits) <= durable,
            Phase::Normal | Phase::Changing => false,
        }
    }

    /// Makes the own VIEW-CHANGE for the current view; everything that it names is durable. `certificate` is that of the
    /// last stable checkpoint.
    pub fn make_view_change(&mut self, certificate: Option<Checkpoint>) -> Arc<ViewChange> {
        assert!(self.may_vote(), "who may lack certificates names none (D7)");
        let stable = certificate.as_ref().map_or(Seq(0), |certificate| certificate.seq);
        let slots = self.window.iter().filter(|slot| slot.seq > stable);
        let mut message = ViewChange {
            epoch: self.config.epoch(),
            view: self.view,
            replica: self.me,
            certificate,
            prepared: slots.filter_map(|slot| slot.prepared_before.clone()).collect(),
            signature: Signature::ZERO,
        };
        if crate::mutant!(M14LowestSlotLeftOut, false, !message.prepared.is_empty()) {
            message.prepared.remove(0);
        }
        message.signature = self.scheme.sign(&message.signing_bytes(self.config.cluster_id()));
        self.views.phase = Phase::Changing;
        let message = Arc::new(message);
        self.views.received[self.me.index()] = Some(Arc::clone(&message));
        message
    }

    /// A VIEW-CHANGE, checked by the verifier.
    pub fn on_view_change(&mut self, message: &Arc<ViewChange>) -> Result<(), Ignored> {
        let from = message.replica;
        if from == self.me {
            return Err(Ignored::OwnMessage);
        }
        if self.views.received[from.index()].as_ref().is_none_or(|known| known != message) {
            self.judge_view_change(message);
        }
        self.goes_to(from, message.view);
        if message.view < self.view || (message.view == self.view && self.is_normal()) {
            return Err(Ignored::OtherView);
        }
        let known = &mut self.views.received[from.index()];
        let rank = |message: &ViewChange| (message.view, message.stable());
        // One that was made again after a restart may know a later checkpoint.
        if known.as_ref().is_some_and(|known| rank(known) >= rank(message)) {
            return Err(Ignored::Duplicate);
        }
        *known = Some(Arc::clone(message));
        Ok(())
    }

    /// `replica` is on its way to `view`, or in it.
    pub fn goes_to(&mut self, replica: ReplicaId, view: View) {
        let known = &mut self.views.going_to[replica.index()];
        *known = (*known).max(view);
    }

    /// The highest view to which a blocking set of others goes, or beyond it, if that is above the current one: at
    /// least one correct replica goes there (join rule, V8).
    #[must_use]
    pub fn view_to_join(&self) -> Option<View> {
        if self.views.going_to.iter().all(|view| *view <= self.view) {
            return None;
        }
        let mut views = self.views.going_to.clone();
        views.sort_unstable();
        let at_or_above = |view: View| -> ReplicaSet {
            let replicas = (0..).map(ReplicaId).zip(&self.views.going_to);
            replicas.filter(|(replica, going)| *replica != self.me && **going >= view).map(|(id, _)| id).collect()
        };
        let enough = |view: View| {
            let there = at_or_above(view);
            crate::mutant!(M30JoinsOne, self.config.weights().is_blocking(there), !there.is_empty())
        };
        views.into_iter().rev().find(|view| enough(*view)).filter(|view| *view > self.view)
    }

    /// Who is known to have sent a VIEW-CHANGE for the current view.
    #[must_use]
    pub fn view_changes_seen(&self) -> ReplicaSet {
        let received = (0..).map(ReplicaId).zip(&self.views.received);
        let of_view = |message: &Arc<ViewChange>| message.view == self.view;
        received.filter(|(_, message)| message.as_ref().is_some_and(of_view)).map(|(id, _)| id).collect()
    }

    /// Whether a quorum, this replica among it, is on its way to the current view or beyond it: from then on its primary is
    /// waited for. Those beyond count: what they sent for this view may be lost, and they will not send it again.
    #[must_use]
    pub fn quorum_is_going(&self) -> bool {
        let replicas = (0..).map(ReplicaId).zip(&self.views.going_to);
        let going: ReplicaSet = replicas.filter(|(_, view)| **view >= self.view).map(|(id, _)| id).collect();
        let is_quorum = crate::mutant!(M31RunsAway, self.config.weights().is_quorum(going.with(self.me)), true);
        self.views.phase == Phase::Changing && is_quorum
    }

    /// The own VIEW-CHANGE for the current view, while it is needed.
    #[must_use]
    pub fn own_view_change(&self) -> Option<&Arc<ViewChange>> {
        let own = self.views.received[self.me.index()].as_ref()?;
        (own.view == self.view && self.views.phase == Phase::Changing).then_some(own)
    }

    /// As the primary to be: the NEW-VIEW, once a quorum's VIEW-CHANGEs are here.
    #[must_use]
    pub fn make_new_view(&self) -> Option<NewView> {
        if !self.is_primary() || self.views.phase != Phase::Changing {
            return None;
        }
        let weights = self.config.weights();
        let mut chosen = ReplicaSet::EMPTY.with(self.me);
        let seen = self.view_changes_seen();
        if !weights.is_quorum(seen) || !seen.contains(self.me) {
            return None;
        }
        seen.iter().for_each(|replica| {
            if !weights.is_quorum(chosen) {
                chosen.insert(replica);
            }
        });
        for replica in chosen.iter().filter(|replica| *replica != self.me) {
            let mut without = chosen;
            without.remove(replica);
            if weights.is_quorum(without) {
                chosen = without;
            }
        }
        let mut without_me = chosen;
        without_me.remove(self.me);
        if weights.is_quorum(without_me) {
            chosen = without_me;
        }
        let message = |replica: ReplicaId| self.views.received[replica.index()].clone();
        let mut new_view = NewView {
            epoch: self.config.epoch(),
            view: self.view,
            view_changes: chosen.iter().filter_map(message).collect(),
            signature: Signature::ZERO,
        };
        new_view.signature = self.scheme.sign(&new_view.signing_bytes(self.config.cluster_id()));
        Some(new_view)
    }

    /// Begins the view of `new_view`, to which this replica has come. Gives the Seq at which the beginning contradicts
    /// what is committed here, if there is one.
    pub fn begin(&mut self, new_view: Arc<NewView>) -> Result<Result<(), (Seq, Digest, Digest)>, TwoPrepared> {
        assert!(new_view.view == self.view && !self.is_normal(), "a view begins once");
        let beginning = Beginning::of(&new_view.view_changes, self.null_digest())?;
        // What was committed in a lower view is in every later beginning (L2); a later view decides for itself.
        let committed = self.window.iter().filter_map(|slot| slot.committed.as_ref().map(|sure| sure.position));
        let broken = committed
            .filter(|at| at.seq > beginning.stable && at.view < self.view)
            .map(|at| (at, beginning.order.get(&at.seq).map_or(Digest::ZERO, |chosen| chosen.digest)))
            .find(|(at, there)| at.digest != *there)
            .map(|(at, there)| (at.seq, at.digest, there));
        self.proposed = self.proposed.max(beginning.last());
        if self.is_primary() {
            let mut again = beginning.order.clone().split_off(&self.stable.next());
            // Read back from a journal, votes may come before the copy of what began their view.
            again.retain(|seq, _| self.slot(*seq).is_none_or(|slot| slot.accepted.is_none()));
            self.views.again = again;
        }
        self.views.beginning = beginning;
        self.forget_other_bodies();
        self.views.new_view = Some(new_view);
        self.views.phase = Phase::Normal;
        Ok(broken.map_or(Ok(()), Err))
    }

    /// A NEW-VIEW read back from the journal: the view began before. Gives the Seq at which that cannot be.
    pub fn restore_new_view(&mut self, new_view: &Arc<NewView>) -> Result<(), Seq> {
        if new_view.view < self.view || (new_view.view == self.view && self.is_normal()) {
            return Ok(());
        }
        if new_view.view > self.view {
            self.leave_view(new_view.view);
        }
        match self.begin(Arc::clone(new_view)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err((seq, _, _))) | Err(TwoPrepared { seq, .. }) => Err(seq),
        }
    }

    /// What the primary must still propose again, as far as the window reaches.
    pub fn to_propose_again(&self) -> impl Iterator<Item = (Seq, Chosen)> {
        let end = self.stable.plus(self.config.params().window);
        self.views.again.range(..=end).map(|(seq, chosen)| (*seq, *chosen))
    }

    /// Whether the primary has proposed everything that its view must begin with.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.views.again.is_empty()
    }

    pub(super) fn proposed_again(&mut self, seq: Seq) {
        self.views.again.remove(&seq);
    }

    /// What STATUS says of views.
    pub(super) fn describe_view(&self, status: &mut Status) {
        status.view = self.view;
        status.changing = (!self.is_normal()).then(|| self.view_changes_seen());
    }
}
