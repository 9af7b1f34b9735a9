//! A list: elements are put at its end, and it is read as a whole.

use crate::Specification;

/// The specification.
#[derive(Clone, Copy, Debug, Default)]
pub struct List;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To put this at the end.
    Append(u64),
    /// All of it.
    Read,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Call::Append`]: how many elements there are now.
    Length(usize),
    /// To [`Call::Read`].
    Elements(Vec<u64>),
}

impl Specification for List {
    type State = Vec<u64>;
    type Call = Call;
    type Answer = Answer;

    fn initial(&self) -> Self::State {
        Vec::new()
    }

    fn step(&self, state: &Self::State, call: &Call, answer: Option<&Answer>) -> Option<Self::State> {
        let is_due = match (call, answer) {
            (_, None) => true,
            (Call::Append(_), Some(Answer::Length(length))) => *length == state.len() + 1,
            (Call::Read, Some(Answer::Elements(elements))) => elements == state,
            (Call::Append(_), Some(Answer::Elements(_))) | (Call::Read, Some(Answer::Length(_))) => false,
        };
        is_due.then(|| match call {
            Call::Append(element) => state.iter().chain([element]).copied().collect(),
            Call::Read => state.clone(),
        })
    }

    fn bytes(&self, state: &Self::State) -> usize {
        size_of::<Self::State>() + size_of_val(&state[..])
    }
}
