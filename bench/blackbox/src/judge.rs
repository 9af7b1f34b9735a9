//! Whether what the clients noted is right: each object's history linearizable, and each append in its list once if it
//! was answered, at most once if its end is unknown, and not at all if it was never sent.

use std::collections::BTreeMap;

use bft_histories::list::{self, List};
use bft_histories::register::{self, Register};
use bft_histories::{Limits, Operation, Specification, Verdict, check};

use crate::load::{Call, Ending, Note, Object};

/// What is told of histories that are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Operations.
    pub operations: usize,
    /// Of which so many ended as unknown.
    pub unknown: usize,
    /// Of which so many were never sent.
    pub not_sent: usize,
    /// Objects whose histories are linearizable.
    pub objects: usize,
}

/// Looks at everything; an error says what may not be.
pub fn judge(notes: &[Note]) -> Result<Figures, String> {
    let mut objects: BTreeMap<Object, Vec<&Note>> = BTreeMap::new();
    for note in notes {
        if let Ending::Strange(what) = &note.ending {
            return Err(what.clone());
        }
        objects.entry(note.object).or_default().push(note);
    }
    for (object, notes) in &objects {
        match object {
            Object::Register(..) => decide::<Register>(*object, &registers(notes))?,
            Object::List(..) => {
                each_append_once(*object, notes)?;
                decide::<List>(*object, &lists(notes))?;
            }
        }
    }
    let ended_as = |ending: &Ending| notes.iter().filter(|note| note.ending == *ending).count();
    let (unknown, not_sent) = (ended_as(&Ending::Unknown), ended_as(&Ending::NotSent));
    Ok(Figures { operations: notes.len(), unknown, not_sent, objects: objects.len() })
}

fn decide<S: Specification + Default>(object: Object, history: &[Operation<S::Call, S::Answer>]) -> Result<(), String>
where
    S::Call: std::fmt::Debug,
    S::Answer: std::fmt::Debug,
{
    match check(&S::default(), history, Limits::default()) {
        Verdict::Linearizable => Ok(()),
        Verdict::Undecided(exceeded) => Err(format!("{object:?}: {} operations: {exceeded:?} passed", history.len())),
        Verdict::Broken(broken) => {
            let last = broken.longest.iter().rev().take(5).rev().map(|index| format!("{:?}", history[*index]));
            let last = last.collect::<Vec<_>>().join("\n  ");
            let unplaced = &history[broken.unplaced];
            let placed = broken.longest.len();
            Err(format!(
                "{object:?} is not linearizable: behind {placed} operations, in the end\n  {last}\nthere is no place for {unplaced:?}"
            ))
        }
    }
}

/// What was never sent is no part of a history: were it carried out, what others saw of it would come from nowhere.
fn registers(notes: &[&Note]) -> Vec<Operation<register::Call, register::Answer>> {
    let one = |note: &&Note| match (&note.ending, note.call) {
        (Ending::Register(answer), Call::Register(call)) => {
            Some(Operation::returned(note.invoked, call, note.ended, *answer))
        }
        (Ending::Unknown, Call::Register(call)) if call != register::Call::Read => {
            Some(Operation::open(note.invoked, call))
        }
        _ => None,
    };
    notes.iter().filter_map(one).collect()
}

fn lists(notes: &[&Note]) -> Vec<Operation<list::Call, list::Answer>> {
    let one = |note: &&Note| match (&note.ending, note.call) {
        (Ending::List(answer), Call::List(call)) => {
            Some(Operation::returned(note.invoked, call, note.ended, answer.clone()))
        }
        (Ending::Unknown, Call::List(call)) if call != list::Call::Read => Some(Operation::open(note.invoked, call)),
        _ => None,
    };
    notes.iter().filter_map(one).collect()
}

/// The last note of a list is the read after everything.
fn each_append_once(object: Object, notes: &[&Note]) -> Result<(), String> {
    let Some(Note { ending: Ending::List(list::Answer::Elements(elements)), .. }) = notes.last() else {
        return Err(format!("{object:?} could not be read in the end: {:?}", notes.last()));
    };
    let mut found: BTreeMap<u64, usize> = BTreeMap::new();
    elements.iter().for_each(|element| *found.entry(*element).or_default() += 1);
    for note in notes {
        let Call::List(list::Call::Append(element)) = note.call else { continue };
        let times = found.remove(&element).unwrap_or(0);
        let is_right = match &note.ending {
            Ending::List(list::Answer::Length(length)) => times == 1 && elements.get(length - 1) == Some(&element),
            Ending::Unknown => times <= 1,
            Ending::NotSent => times == 0,
            Ending::List(list::Answer::Elements(_)) | Ending::Register(_) | Ending::Strange(_) => false,
        };
        if !is_right {
            return Err(format!("{object:?} has {element} {times} times, which was appended so: {note:?}"));
        }
    }
    match found.first_key_value() {
        None => Ok(()),
        Some((stranger, _)) => Err(format!("{object:?} has {stranger}, which nobody appended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Object = Object::List(0, 0);
    const REGISTER: Object = Object::Register(0, 0);

    fn note(object: Object, call: Call, invoked: u64, ending: Ending) -> Note {
        Note { object, call, invoked, ended: invoked + 1, ending }
    }

    fn append(at: u64, element: u64, ending: Ending) -> Note {
        note(LIST, Call::List(list::Call::Append(element)), at, ending)
    }

    fn length(length: usize) -> Ending {
        Ending::List(list::Answer::Length(length))
    }

    fn elements(at: u64, elements: &[u64]) -> Note {
        note(LIST, Call::List(list::Call::Read), at, Ending::List(list::Answer::Elements(elements.to_vec())))
    }

    #[test]
    fn good_notes_are_counted() {
        let notes = [
            append(0, 1, length(1)),
            append(2, 2, Ending::Unknown),
            append(4, 3, Ending::NotSent),
            append(6, 4, Ending::Unknown),
            note(REGISTER, Call::Register(register::Call::Read), 8, Ending::Register(register::Answer::Value(None))),
            elements(10, &[1, 4]),
        ];
        assert_eq!(judge(&notes), Ok(Figures { operations: 6, unknown: 2, not_sent: 1, objects: 2 }));
    }

    #[test]
    fn what_was_lost_doubled_or_came_from_nowhere_is_told() {
        let refused = |notes: &[Note]| judge(notes).unwrap_err();
        let lost = [append(0, 1, length(1)), append(2, 2, length(2)), elements(4, &[1])];
        assert!(refused(&lost).contains("has 2 0 times"), "{}", refused(&lost));
        for ending in [length(1), Ending::Unknown] {
            let doubled = refused(&[append(0, 1, ending), elements(4, &[1, 1])]);
            assert!(doubled.contains("has 1 2 times"), "{doubled}");
        }
        let moved = refused(&[append(0, 1, length(2)), append(0, 2, Ending::Unknown), elements(4, &[1, 2])]);
        assert!(moved.contains("has 1 1 times"), "{moved}");
        let unsent = refused(&[append(0, 1, Ending::NotSent), elements(4, &[1])]);
        assert!(unsent.contains("has 1 1 times"), "{unsent}");
        assert!(refused(&[elements(4, &[9])]).contains("which nobody appended"));
        assert!(refused(&[append(0, 1, Ending::Unknown)]).contains("could not be read in the end"));
    }

    #[test]
    fn what_is_in_no_order_and_what_is_strange_is_told() {
        let read = |at, value| {
            let answer = Ending::Register(register::Answer::Value(value));
            note(REGISTER, Call::Register(register::Call::Read), at, answer)
        };
        let write = |at, value, ending| note(REGISTER, Call::Register(register::Call::Write(value)), at, ending);
        let written = Ending::Register(register::Answer::Written);
        let stale = judge(&[write(0, 1, written), read(4, None)]).unwrap_err();
        assert!(stale.contains("is not linearizable"), "{stale}");
        let unsent = judge(&[write(0, 1, Ending::NotSent), read(4, Some(1))]).unwrap_err();
        assert!(unsent.contains("is not linearizable"), "{unsent}");
        assert_eq!(
            judge(&[write(0, 1, Ending::Unknown), read(4, None), read(6, Some(1))]).map(|told| told.unknown),
            Ok(1)
        );
        assert_eq!(judge(&[write(0, 1, Ending::Strange("oh".into()))]), Err("oh".into()));
    }
}
