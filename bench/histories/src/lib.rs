//! Linearizability: whether what clients saw of a service could have happened one operation at a time, each at some
//! moment between its invocation and its return. What an operation does is said by a [`Specification`]; [`register`] and
//! [`list`] are two. Who makes histories is elsewhere (`bench/blackbox`).
//!
//! Invariants: pure, without clock, file or thread; bounded by [`Limits`] whatever the history is, and what passes them
//! is [`Verdict::Undecided`], never a guess.

mod check;
pub mod list;
pub mod register;

use std::hash::Hash;

pub use check::check;

/// What a service does, one operation at a time, for one object: linearizability is local, so a service of many objects
/// is checked object by object (Herlihy and Wing 1990, theorem 1).
pub trait Specification {
    /// What the object holds.
    type State: Clone + Eq + Hash;
    /// What is asked for.
    type Call;
    /// What is answered.
    type Answer;

    /// What it holds at first.
    fn initial(&self) -> Self::State;

    /// What it holds after `call`, if that is answered so in `state`; `None` if it is not. Without an answer nobody
    /// knows it, and any will do.
    fn step(&self, state: &Self::State, call: &Self::Call, answer: Option<&Self::Answer>) -> Option<Self::State>;

    /// About how many bytes of memory a state takes.
    fn bytes(&self, state: &Self::State) -> usize;
}

/// What one client did once. Times are of one monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<C, A> {
    /// When it began, or earlier.
    pub invoked: u64,
    /// What was asked for.
    pub call: C,
    /// How it ended.
    pub end: End<A>,
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End<A> {
    /// With an answer.
    Returned {
        /// When, or later.
        at: u64,
        /// What was answered.
        answer: A,
    },
    /// Nobody knows: it took effect at any time after its invocation, or will, or never.
    Open,
}

impl<C, A> Operation<C, A> {
    /// One that was answered.
    pub fn returned(invoked: u64, call: C, at: u64, answer: A) -> Self {
        Self { invoked, call, end: End::Returned { at, answer } }
    }

    /// One that never was.
    pub fn open(invoked: u64, call: C) -> Self {
        Self { invoked, call, end: End::Open }
    }

    fn answer(&self) -> Option<&A> {
        match &self.end {
            End::Returned { answer, .. } => Some(answer),
            End::Open => None,
        }
    }
}

/// How much a check may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations tried.
    pub steps: u64,
    /// Bytes of remembered configurations, about.
    pub bytes: usize,
}

impl Default for Limits {
    /// A few seconds, 256 MiB.
    fn default() -> Self {
        Self { steps: 20_000_000, bytes: 256 << 20 }
    }
}

/// What comes of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Broken(Broken),
    /// It takes more than it may.
    Undecided(Exceeded),
}

/// Where the search for an order came to its end. Operations by their index in the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// One of the longest orders that there are of a part of it.
    pub longest: Vec<usize>,
    /// What had returned by then and fits nowhere behind them.
    pub unplaced: usize,
}

/// Which of the [`Limits`] was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    /// [`Limits::steps`].
    Steps,
    /// [`Limits::bytes`].
    Bytes,
}
