//! A register: it holds a value or none, and is read, written, and compared and set.

use crate::Specification;

/// The specification.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// What it holds.
    Read,
    /// To hold this.
    Write(u64),
    /// To hold `value` if it holds `expect`.
    CompareAndSet {
        /// What it must hold; `None`: nothing.
        expect: Option<u64>,
        /// What it is to hold.
        value: u64,
    },
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Call::Read`]: what it holds.
    Value(Option<u64>),
    /// To [`Call::Write`].
    Written,
    /// To [`Call::CompareAndSet`]: done.
    Set,
    /// To [`Call::CompareAndSet`]: not done, it holds this.
    Mismatch(Option<u64>),
}

impl Specification for Register {
    type State = Option<u64>;
    type Call = Call;
    type Answer = Answer;

    fn initial(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, call: &Call, answer: Option<&Answer>) -> Option<Self::State> {
        let (after, due) = match *call {
            Call::Read => (*state, Answer::Value(*state)),
            Call::Write(value) => (Some(value), Answer::Written),
            Call::CompareAndSet { expect, value } if expect == *state => (Some(value), Answer::Set),
            Call::CompareAndSet { .. } => (*state, Answer::Mismatch(*state)),
        };
        answer.is_none_or(|answer| *answer == due).then_some(after)
    }

    fn bytes(&self, _: &Self::State) -> usize {
        size_of::<Self::State>()
    }
}
