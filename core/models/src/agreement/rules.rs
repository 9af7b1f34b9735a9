//! What correct replicas do, one step at a time. Each step names its replica; when it may happen is in `actions_of`, what
//! it changes in `act`.

use super::{
    Agreement, Disks, Durable, Fault, Naming, Order, Phase, Placed, Prepared, Record, Replica, SLOTS, State, Value,
    View, ViewChange,
};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A primary proposes.
    Propose {
        /// Who.
        replica: usize,
        /// Where.
        slot: usize,
        /// What.
        value: Value,
    },
    /// The PRE-PREPARE arrives, and is voted for.
    Accept {
        /// At whom.
        replica: usize,
        /// Where.
        slot: usize,
        /// What.
        value: Value,
    },
    /// PREPAREs of a quorum have arrived.
    Certify {
        /// At whom.
        replica: usize,
        /// Where.
        slot: usize,
    },
    /// The next record is durable; what waited for it leaves.
    Flush {
        /// Whose.
        replica: usize,
    },
    /// A timer expires, or others are followed.
    Leave {
        /// Who leaves its view.
        replica: usize,
        /// The view it goes to.
        view: View,
    },
    /// The new primary has VIEW-CHANGEs of a quorum.
    Lead {
        /// Who.
        replica: usize,
        /// What its view begins with.
        order: Order,
    },
    /// A NEW-VIEW arrives.
    Follow {
        /// At whom.
        replica: usize,
        /// Its view.
        view: View,
        /// What it begins with.
        order: Order,
    },
    /// The process dies and starts again.
    Crash {
        /// Whose.
        replica: usize,
    },
}

impl Action {
    /// What kind of step it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Propose { .. } => "propose",
            Self::Accept { .. } => "accept",
            Self::Certify { .. } => "certify",
            Self::Flush { .. } => "flush",
            Self::Leave { .. } => "leave",
            Self::Lead { .. } => "lead",
            Self::Follow { .. } => "follow",
            Self::Crash { .. } => "crash",
        }
    }

    /// Whose step it is.
    #[must_use]
    pub fn replica(&self) -> usize {
        match self {
            Self::Propose { replica, .. }
            | Self::Accept { replica, .. }
            | Self::Certify { replica, .. }
            | Self::Flush { replica }
            | Self::Leave { replica, .. }
            | Self::Lead { replica, .. }
            | Self::Follow { replica, .. }
            | Self::Crash { replica } => *replica,
        }
    }
}

/// The number of the last slot of `order`, plus one.
fn end(order: &Order) -> usize {
    order.iter().rposition(Option::is_some).map_or(0, |last| last + 1)
}

fn higher(known: Option<Placed>, other: Placed) -> Option<Placed> {
    Some(known.map_or(other, |known| if known.view < other.view { other } else { known }))
}

fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(at) = sorted.binary_search(&item) {
        sorted.insert(at, item);
    }
}

impl Replica {
    /// Whether its vote at `slot` in its view is durable.
    fn vote_is_durable(&self, slot: usize) -> bool {
        let waits =
            |record: &Record| matches!(record, Record::Vote(at, vote) if *at == slot && vote.view == self.serving);
        !self.pending.iter().any(waits)
    }

    /// The certificates that it holds: of each slot that of the highest view.
    #[must_use]
    pub fn certificates(&self) -> Prepared {
        let mut all = self.before;
        for slot in (0..SLOTS).filter(|slot| self.certified[*slot]) {
            all[slot] = self.accepted[slot].map(|value| Placed { view: self.serving, value });
        }
        all
    }

    fn knows_a_value(&self) -> bool {
        let real = |at: &Option<Placed>| at.is_some_and(|at| at.value != Value::NULL);
        let waits = |record: &Record| matches!(record, Record::Vote(_, vote) if vote.value != Value::NULL);
        let accepted = self.accepted.iter().flatten().any(|value| *value != Value::NULL);
        accepted
            || self.pending.iter().any(waits)
            || self.durable.votes.iter().any(real)
            || self.before.iter().any(real)
    }
}

impl Durable {
    /// The view that a restart comes back to, and whether it is in it.
    fn restarts_in(&self) -> (View, Phase, Order) {
        match self.begun {
            Some((view, order)) if view >= self.promised => (view, Phase::Normal, order),
            _ if self.promised == View(0) => (View(0), Phase::Normal, [None; SLOTS]),
            _ => (self.promised, Phase::Changing, [None; SLOTS]),
        }
    }

    /// Forgets what no restart comes back to.
    fn prune(&mut self) {
        self.begun = self.begun.filter(|(view, _)| *view >= self.promised);
        let (view, _, _) = self.restarts_in();
        for vote in &mut self.votes {
            *vote = vote.filter(|vote| vote.view >= view);
        }
    }
}

impl Agreement {
    /// What `replica` may do next.
    pub(super) fn actions_of(&self, state: &State, replica: usize, actions: &mut Vec<Action>) {
        let me = &state.replicas[replica];
        if me.phase == Phase::Normal || self.has(Fault::VotesAfterViewChange) {
            self.votes_of(state, replica, actions);
        }
        if !me.pending.is_empty() {
            actions.push(Action::Flush { replica });
        }
        let later = (me.view.0 + 1..=self.last_view.0).map(View);
        actions.extend(later.map(|view| Action::Leave { replica, view }));
        if me.phase == Phase::Changing && me.view.primary() == replica {
            let orders = self.orders(state, me.view, Some(replica));
            actions.extend(orders.into_iter().map(|order| Action::Lead { replica, order }));
        }
        self.followed_by(state, replica, actions);
        actions.push(Action::Crash { replica });
    }

    fn votes_of(&self, state: &State, replica: usize, actions: &mut Vec<Action>) {
        let me = &state.replicas[replica];
        let view = me.serving;
        for slot in self.slots() {
            match me.accepted[slot] {
                None if view.primary() == replica => self.proposals(state, replica, slot, actions),
                None => {
                    let fits = |value: &Value| match me.order[slot] {
                        Some(chosen) => chosen == *value,
                        None => slot >= end(&me.order) && self.may_be_new(state, *value),
                    };
                    let values = self.all_values().filter(fits);
                    let values = values.filter(|value| self.is_proposed(state, view, slot, *value));
                    actions.extend(values.map(|value| Action::Accept { replica, slot, value }));
                }
                Some(value) if !me.certified[slot] && me.vote_is_durable(slot) => {
                    let voters = self.voters(state, view, slot, value).with(replica).with(view.primary());
                    if voters.len() >= self.quorum() {
                        actions.push(Action::Certify { replica, slot });
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// What a primary may propose at `slot`: first what its view must begin with, then anything, without a gap.
    fn proposals(&self, state: &State, replica: usize, slot: usize, actions: &mut Vec<Action>) {
        let me = &state.replicas[replica];
        if let Some(value) = me.order[slot] {
            return actions.push(Action::Propose { replica, slot, value });
        }
        let begins = (0..end(&me.order)).all(|slot| me.accepted[slot].is_some());
        let is_next = (0..slot).all(|slot| me.accepted[slot].is_some() || me.order[slot].is_some());
        if begins && is_next && slot >= end(&me.order) {
            let values = self.all_values().filter(|value| self.may_be_new(state, *value));
            actions.extend(values.map(|value| Action::Propose { replica, slot, value }));
        }
    }

    /// Whether `value` may be proposed where nothing must be: not null, and named as the model names values.
    fn may_be_new(&self, state: &State, value: Value) -> bool {
        let is_named = || match self.naming {
            Naming::Given => true,
            Naming::FirstIsOne => {
                let sent = |replica| (1..=self.values).any(|v| self.voted_ever(state, replica, Value(v)));
                value == Value(1) || self.correct().any(|r| state.replicas[r].knows_a_value() || sent(r))
            }
        };
        value != Value::NULL && is_named()
    }

    fn voted_ever(&self, state: &State, replica: usize, value: Value) -> bool {
        self.views().any(|view| self.slots().any(|slot| state.votes[replica].has(view, slot, value)))
    }

    /// NEW-VIEWs of others that may arrive at `replica`.
    fn followed_by(&self, state: &State, replica: usize, actions: &mut Vec<Action>) {
        let me = &state.replicas[replica];
        let again = self.has(Fault::VotesResetByNewView);
        let may_begin = |view: &View| *view > me.view || (*view == me.view && (me.phase != Phase::Normal || again));
        let views = self.views().skip(1).filter(may_begin).filter(|view| view.primary() != replica);
        for view in views {
            let orders = self.offered(state, view).into_iter();
            let orders = orders.filter(|order| view > me.view || me.phase != Phase::Normal || *order != me.order);
            actions.extend(orders.map(|order| Action::Follow { replica, view, order }));
        }
    }

    /// Beginnings of `view` that its primary may have sent and a backup accepts.
    fn offered(&self, state: &State, view: View) -> Vec<Order> {
        if !self.byzantine.has(view.primary()) {
            let sent = state.new_views.iter().filter(|(of, _)| *of == view);
            return sent.map(|(_, order)| *order).collect();
        }
        if !self.has(Fault::NewViewBelieved) {
            return self.orders(state, view, None);
        }
        let any = |slot: usize, value| {
            let mut order = [Some(Value::NULL); SLOTS];
            order[slot..].fill(None);
            order[slot] = Some(value);
            order
        };
        let all = self.slots().flat_map(|slot| self.all_values().map(move |value| any(slot, value)));
        all.chain([[None; SLOTS]]).collect()
    }

    /// Takes a step that may be taken.
    pub(super) fn act(&self, state: &mut State, action: Action) {
        let replica = action.replica();
        self.take(state, action);
        while self.disks == Disks::Instant && !state.replicas[replica].pending.is_empty() {
            self.flush(state, replica);
        }
    }

    fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::Propose { replica, slot, value } | Action::Accept { replica, slot, value } => {
                self.vote(state, replica, slot, value);
            }
            Action::Certify { replica, slot } => self.certify(state, replica, slot),
            Action::Flush { replica } => self.flush(state, replica),
            Action::Leave { replica, view } => self.leave(state, replica, view),
            Action::Lead { replica, order } => {
                let view = state.replicas[replica].view;
                begin(&mut state.replicas[replica], view, order);
            }
            Action::Follow { replica, view, order } => {
                let me = &mut state.replicas[replica];
                if view > me.view {
                    self.leave_view(me, view);
                } else if me.phase == Phase::Normal {
                    (me.accepted, me.certified) = ([None; SLOTS], [false; SLOTS]);
                }
                begin(me, view, order);
            }
            Action::Crash { replica } => self.restart(state, replica),
        }
    }

    fn vote(&self, state: &mut State, replica: usize, slot: usize, value: Value) {
        let me = &mut state.replicas[replica];
        me.accepted[slot] = Some(value);
        me.pending.push(Record::Vote(slot, Placed { view: me.serving, value }));
        if self.has(Fault::PrepareBeforeVote) {
            state.votes[replica].insert(me.serving, slot, value);
        }
    }

    fn certify(&self, state: &mut State, replica: usize, slot: usize) {
        let me = &mut state.replicas[replica];
        let value = me.accepted[slot].expect("what is certified was accepted");
        me.certified[slot] = true;
        me.pending.push(Record::Cert(slot, Placed { view: me.serving, value }));
        if self.has(Fault::CommitBeforeCertificate) {
            state.commits[replica].insert(me.serving, slot, value);
        }
    }

    /// The first record that waits is durable.
    fn flush(&self, state: &mut State, replica: usize) {
        let me = &mut state.replicas[replica];
        let record = me.pending.remove(0);
        self.write(&mut me.durable, record);
        let released = self.has(Fault::WaitingReleased) || self.has(Fault::WaitingReleasedOnly);
        let leaves = |vote: Placed| released || vote.view >= me.serving;
        match record {
            Record::Vote(slot, vote) if leaves(vote) => state.votes[replica].insert(vote.view, slot, vote.value),
            Record::Cert(slot, vote) if leaves(vote) => state.commits[replica].insert(vote.view, slot, vote.value),
            Record::Vote(..) | Record::Cert(..) => {}
            Record::Promise(view) if me.phase == Phase::Promising && me.view == view => {
                me.phase = Phase::Changing;
                self.say(state, replica);
            }
            Record::Promise(_) => {}
            Record::NewView(view, order) if view.primary() == replica => insert(&mut state.new_views, (view, order)),
            Record::NewView(..) => {}
        }
    }

    fn write(&self, durable: &mut Durable, record: Record) {
        match record {
            Record::Vote(slot, vote) if !self.has(Fault::VotesForgotten) => {
                durable.votes[slot] = higher(durable.votes[slot], vote);
            }
            Record::Cert(slot, vote) if !self.has(Fault::CertificatesForgotten) => {
                durable.certs[slot] = higher(durable.certs[slot], vote);
            }
            Record::Promise(view) if !self.has(Fault::PromisesForgotten) => {
                durable.promised = durable.promised.max(view);
            }
            Record::NewView(view, order) if !self.has(Fault::BeginningsForgotten) => {
                durable.begun = Some((view, order));
            }
            Record::Vote(..) | Record::Cert(..) | Record::Promise(_) | Record::NewView(..) => {}
        }
        durable.prune();
    }

    /// The VIEW-CHANGE of `replica` for its view leaves.
    fn say(&self, state: &mut State, replica: usize) {
        let me = &state.replicas[replica];
        let last = |at: &Placed| !self.has(Fault::LastViewOnly) || at.view.next() == me.view;
        let prepared = me.before.map(|at| at.filter(last));
        insert(&mut state.view_changes, ViewChange { from: replica, view: me.view, prepared });
    }

    /// Everything that is not durable is gone; what is, says where the replica is. What it stands for is sent again: a vote
    /// that was cancelled for a promise which is lost now comes back.
    fn restart(&self, state: &mut State, replica: usize) {
        let me = &mut state.replicas[replica];
        let durable = std::mem::take(&mut me.durable);
        let (view, phase, order) = durable.restarts_in();
        *me = Replica { view, phase, serving: view, order, ..Replica::default() };
        for slot in 0..SLOTS {
            me.accepted[slot] = durable.votes[slot].filter(|vote| vote.view == view).map(|vote| vote.value);
            me.certified[slot] = durable.certs[slot].is_some_and(|cert| cert.view == view);
            me.before[slot] = durable.certs[slot].filter(|cert| cert.view < view);
        }
        me.durable = durable;
        match phase {
            Phase::Normal => resend(state, replica),
            Phase::Promising | Phase::Changing => self.say(state, replica),
        }
    }

    fn leave(&self, state: &mut State, replica: usize, view: View) {
        self.leave_view(&mut state.replicas[replica], view);
        if self.has(Fault::ViewChangeBeforePromise) {
            self.say(state, replica);
        }
    }

    fn leave_view(&self, me: &mut Replica, view: View) {
        me.before = if self.has(Fault::WaitingReleased) { me.durable.certs } else { me.certificates() };
        if !self.has(Fault::VotesAfterViewChange) {
            me.serve(view);
        }
        (me.view, me.phase) = (view, Phase::Promising);
        me.pending.push(Record::Promise(view));
    }
}

impl Replica {
    /// Its slots are those of `view` from now on.
    fn serve(&mut self, view: View) {
        self.serving = view;
        (self.order, self.accepted, self.certified) = ([None; SLOTS], [None; SLOTS], [false; SLOTS]);
    }
}

fn begin(me: &mut Replica, view: View, order: Order) {
    if me.serving < view {
        me.before = me.certificates();
        me.serve(view);
    }
    (me.phase, me.order) = (Phase::Normal, order);
    me.pending.push(Record::NewView(view, order));
}

/// The votes of its view that are durable leave, if they did not before.
fn resend(state: &mut State, replica: usize) {
    let me = &state.replicas[replica];
    for slot in 0..SLOTS {
        let Some(value) = me.accepted[slot] else { continue };
        state.votes[replica].insert(me.view, slot, value);
        if me.certified[slot] {
            state.commits[replica].insert(me.view, slot, value);
        }
    }
}
