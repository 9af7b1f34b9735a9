//! M1: why PBFT with view changes is safe (PROTOCOL §6, §8, §11, §16), as a state machine small enough to look at every
//! state of: four replicas of which some are Byzantine, one slot or two, a few views, crashes that lose what is not
//! durable. `rules` says what can happen, `soup` what can be made of the messages there are, `properties` what must hold.
//!
//! The network is the set of messages that left: each may arrive at any time, again, or never. What arrives and changes
//! nothing is no step; a quorum of votes arrives in one. Byzantine replicas have sent whatever they can sign, so their
//! messages are in no state. Not modelled: weights, bodies, checkpoints, transfer, epochs.
//!
//! That this is what the code does is held by `crate::binding`, which walks the model and the real core together.

use stateright::{Model, Property};

mod properties;
mod rules;
mod show;
mod soup;

pub use rules::Action;

/// n.
pub const REPLICAS: usize = 4;
/// A quorum, unless that is the fault.
pub const QUORUM: u32 = 3;
/// Slots that a state has room for.
pub const SLOTS: usize = 2;
/// Views that a state has room for.
pub const VIEWS: usize = 3;
/// Values that a state has room for.
pub const VALUES: usize = 8;

/// A batch, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u8);

impl Value {
    /// The batch that fills gaps.
    pub const NULL: Self = Self(0);
}

/// A view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View(pub u8);

impl View {
    /// Who leads it: replicas are numbered so that this is so simple.
    #[must_use]
    pub fn primary(self) -> usize {
        usize::from(self.0) % REPLICAS
    }

    /// The view after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What is prepared, or voted for, at a slot: in which view, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placed {
    /// The view.
    pub view: View,
    /// The value.
    pub value: Value,
}

/// O: of each slot what the view must begin with there.
pub type Order = [Option<Value>; SLOTS];
/// P: of each slot the certificate of the highest view.
pub type Prepared = [Option<Placed>; SLOTS];

/// A set of replicas, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replicas(pub u8);

impl Replicas {
    /// With this one.
    #[must_use]
    pub fn with(self, replica: usize) -> Self {
        Self(self.0 | 1 << replica)
    }

    /// Whether this one is in it.
    #[must_use]
    pub fn has(self, replica: usize) -> bool {
        self.0 & 1 << replica != 0
    }

    /// How many.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Votes of one replica: a set of (view, slot, value).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Votes(u64);

impl Votes {
    fn bit(view: View, slot: usize, value: Value) -> u64 {
        1 << ((usize::from(view.0) * SLOTS + slot) * VALUES + usize::from(value.0))
    }

    /// Adds a vote.
    pub fn insert(&mut self, view: View, slot: usize, value: Value) {
        self.0 |= Self::bit(view, slot, value);
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(self, view: View, slot: usize, value: Value) -> bool {
        self.0 & Self::bit(view, slot, value) != 0
    }

    /// How many values it has at this place.
    #[must_use]
    pub fn count(self, view: View, slot: usize) -> u32 {
        let all = (1 << VALUES) - 1;
        (self.0 >> ((usize::from(view.0) * SLOTS + slot) * VALUES) & all).count_ones()
    }
}

/// Where a replica is between views.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In its view.
    #[default]
    Normal,
    /// On the way; the promise is not durable yet.
    Promising,
    /// On the way; its VIEW-CHANGE has left.
    Changing,
}

/// A record on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// A vote at a slot.
    Vote(usize, Placed),
    /// A prepared certificate at a slot.
    Cert(usize, Placed),
    /// The promise to vote in no lower view.
    Promise(View),
    /// What a view begins with.
    NewView(View, Order),
}

/// What a crash leaves of a replica. Of votes only those that a restart can come back to are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Durable {
    /// The highest promise.
    pub promised: View,
    /// The NEW-VIEW of the highest view, unless a higher one is promised.
    pub begun: Option<(View, Order)>,
    /// Of each slot the vote of the highest view.
    pub votes: Prepared,
    /// Of each slot the certificate of the highest view.
    pub certs: Prepared,
}

/// One correct replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Replica {
    /// The view it is in, or on the way to.
    pub view: View,
    /// Which of the two.
    pub phase: Phase,
    /// The view that its slots are of: always `view`, unless the fault is that it votes on.
    pub serving: View,
    /// What its view began with.
    pub order: Order,
    /// What it voted for in this view.
    pub accepted: Order,
    /// Where it holds a prepared certificate of this view.
    pub certified: [bool; SLOTS],
    /// Certificates of the views before.
    pub before: Prepared,
    /// Records on their way to the disk, in order.
    pub pending: Vec<Record>,
    /// What is on it.
    pub durable: Durable,
}

/// A VIEW-CHANGE that left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewChange {
    /// Who sent it.
    pub from: usize,
    /// The view it asks for.
    pub view: View,
    /// P.
    pub prepared: Prepared,
}

/// The whole system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Those that are Byzantine stay as they began.
    pub replicas: [Replica; REPLICAS],
    /// PRE-PREPAREs and PREPAREs that left.
    pub votes: [Votes; REPLICAS],
    /// COMMITs that left.
    pub commits: [Votes; REPLICAS],
    /// VIEW-CHANGEs that left, in order, each once.
    pub view_changes: Vec<ViewChange>,
    /// NEW-VIEWs that left correct primaries, in order, each once.
    pub new_views: Vec<(View, Order)>,
}

/// A rule that is left out on purpose: the model must break without it, or it shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// COMMIT leaves before its certificate is durable.
    CommitBeforeCertificate,
    /// PREPARE and PRE-PREPARE leave before the vote is durable.
    PrepareBeforeVote,
    /// VIEW-CHANGE leaves before the promise is durable.
    ViewChangeBeforePromise,
    /// The disk forgets votes.
    VotesForgotten,
    /// The disk forgets certificates.
    CertificatesForgotten,
    /// The disk forgets promises.
    PromisesForgotten,
    /// The disk forgets what views began with.
    BeginningsForgotten,
    /// A view may begin with any certificate for a slot, not that of the highest view.
    AnyCertificate,
    /// A replica votes in its old view after it asked for a new one.
    VotesAfterViewChange,
    /// Two replicas are a quorum.
    QuorumOfTwo,
    /// Backups believe what a new primary says its view begins with.
    NewViewBelieved,
    /// A vote that waits for its record leaves although its view was left; P holds what was durable at that moment.
    WaitingReleased,
    /// Only the second half of that: votes that wait are released, P is what the protocol says.
    WaitingReleasedOnly,
    /// A second NEW-VIEW for the same view is accepted, and own votes are forgotten for it.
    VotesResetByNewView,
    /// P holds only certificates of the view before.
    LastViewOnly,
}

/// Which states are told apart by the names of values alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The first value that anybody proposes is called 1: of two states that differ in names one is looked at.
    FirstIsOne,
    /// Names are given elsewhere.
    Given,
}

/// How fast disks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disks {
    /// Every record waits, is durable some time later or lost in a crash, and what needs it waits with it.
    Slow,
    /// Every record is durable in the step that writes it. A record that is lost with the message that waited for it is as
    /// if its step was never taken: what slow disks add is only what else happens while it waits.
    Instant,
}

/// What is asked of every state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Everything.
    All,
    /// That no two values are committed at one slot, and that this follows as it should.
    Safety,
    /// That no two values are committed at one slot.
    Agreement,
}

/// The model, and what varies between its runs.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// Who may do anything.
    pub byzantine: Replicas,
    /// Slots: 1 or 2.
    pub slots: usize,
    /// The last view.
    pub last_view: View,
    /// Values that are proposed, beside null.
    pub values: u8,
    /// How they are named.
    pub naming: Naming,
    /// When records are durable.
    pub disks: Disks,
    /// What is asked.
    pub judged: Judged,
    /// What is left out.
    pub fault: Option<Fault>,
}

impl Agreement {
    /// One slot, two values, views 0 to `last_view`; the one Byzantine replica leads view `leads` first.
    #[must_use]
    pub fn of(leads: usize, last_view: u8) -> Self {
        Self {
            byzantine: Replicas::default().with(leads),
            slots: 1,
            last_view: View(last_view),
            values: 2,
            naming: Naming::FirstIsOne,
            disks: Disks::Slow,
            judged: Judged::All,
            fault: None,
        }
    }

    /// With disks that take no time.
    #[must_use]
    pub fn instant(self) -> Self {
        Self { disks: Disks::Instant, ..self }
    }

    /// Without this rule.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// Asked for this only.
    #[must_use]
    pub fn judged(self, judged: Judged) -> Self {
        Self { judged, ..self }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn correct(&self) -> impl Iterator<Item = usize> + use<> {
        let byzantine = self.byzantine;
        (0..REPLICAS).filter(move |replica| !byzantine.has(*replica))
    }

    fn slots(&self) -> std::ops::Range<usize> {
        0..self.slots
    }

    fn views(&self) -> impl Iterator<Item = View> + use<> {
        (0..=self.last_view.0).map(View)
    }

    fn quorum(&self) -> u32 {
        if self.has(Fault::QuorumOfTwo) { 2 } else { QUORUM }
    }
}

impl Model for Agreement {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.correct().for_each(|replica| self.actions_of(state, replica, actions));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.act(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("agreement", Self::agrees),
            Property::always("L1: one certificate", Self::certifies_once),
            Property::always("L2: committed stays", Self::keeps_committed),
            Property::always("signs once", Self::signs_once),
        ];
        all.truncate(match self.judged {
            Judged::All => 4,
            Judged::Safety => 3,
            Judged::Agreement => 1,
        });
        all
    }
}
