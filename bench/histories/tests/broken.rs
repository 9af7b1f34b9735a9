//! Histories of which everybody can see whether they are broken, of both kinds, and the bounds of the search.

use bft_histories::list::{self, List};
use bft_histories::register::{self, Register};
use bft_histories::{Broken, Exceeded, Limits, Operation, Specification, Verdict, check};

fn verdict<S: Specification + Default>(history: &[Operation<S::Call, S::Answer>]) -> Verdict {
    check(&S::default(), history, Limits::default())
}

fn is_broken<S: Specification + Default>(history: &[Operation<S::Call, S::Answer>]) -> bool {
    match verdict::<S>(history) {
        Verdict::Linearizable => false,
        Verdict::Broken(Broken { longest, unplaced }) => {
            assert!(unplaced < history.len() && longest.len() < history.len() && !longest.contains(&unplaced));
            true
        }
        Verdict::Undecided(exceeded) => panic!("undecided: {exceeded:?}"),
    }
}

type OnRegister = Operation<register::Call, register::Answer>;
type OnList = Operation<list::Call, list::Answer>;

fn write(from: u64, to: u64, value: u64) -> OnRegister {
    Operation::returned(from, register::Call::Write(value), to, register::Answer::Written)
}

fn read(from: u64, to: u64, value: Option<u64>) -> OnRegister {
    Operation::returned(from, register::Call::Read, to, register::Answer::Value(value))
}

fn set(from: u64, to: u64, expect: Option<u64>, value: u64, answer: register::Answer) -> OnRegister {
    Operation::returned(from, register::Call::CompareAndSet { expect, value }, to, answer)
}

fn append(from: u64, to: u64, element: u64, length: usize) -> OnList {
    Operation::returned(from, list::Call::Append(element), to, list::Answer::Length(length))
}

fn elements(from: u64, to: u64, elements: &[u64]) -> OnList {
    Operation::returned(from, list::Call::Read, to, list::Answer::Elements(elements.to_vec()))
}

#[test]
fn what_happened_in_order_is_accepted() {
    assert!(!is_broken::<Register>(&[]));
    let swapped = set(4, 5, Some(1), 2, register::Answer::Set);
    let refused = set(6, 7, Some(1), 3, register::Answer::Mismatch(Some(2)));
    assert!(!is_broken::<Register>(&[read(0, 1, None), write(2, 3, 1), swapped, refused, read(8, 9, Some(2))]));
    let read = elements(6, 7, &[1, 2]);
    assert!(!is_broken::<List>(&[append(0, 1, 1, 1), elements(2, 3, &[1]), append(4, 5, 2, 2), read]));
}

#[test]
fn what_overlaps_may_have_been_in_any_order() {
    // Both reads are in the write's time, and one of them is before it.
    assert!(!is_broken::<Register>(&[write(0, 9, 1), read(1, 2, None), read(3, 4, Some(1))]));
    assert!(is_broken::<Register>(&[write(0, 9, 1), read(1, 2, Some(1)), read(3, 4, None)]));
    assert!(!is_broken::<List>(&[append(0, 9, 1, 2), append(0, 9, 2, 1), elements(10, 11, &[2, 1])]));
    // What returns at the moment of an invocation may come after it.
    assert!(!is_broken::<Register>(&[write(0, 5, 1), read(5, 6, None)]));
    assert!(is_broken::<Register>(&[write(0, 5, 1), read(6, 7, None)]));
}

#[test]
fn a_stale_read_is_found() {
    assert!(is_broken::<Register>(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, Some(1))]));
    assert!(is_broken::<List>(&[append(0, 1, 1, 1), append(2, 3, 2, 2), elements(4, 5, &[1])]));
}

#[test]
fn a_lost_update_is_found() {
    let answer = register::Answer::Set;
    let both = [write(0, 1, 1), set(2, 5, Some(1), 2, answer), set(3, 6, Some(1), 3, answer)];
    assert!(is_broken::<Register>(&both));
    assert!(is_broken::<Register>(&[write(0, 1, 1), read(2, 3, None)]));
    assert!(is_broken::<List>(&[append(0, 1, 1, 1), append(2, 3, 2, 2), elements(4, 5, &[2])]));
}

#[test]
fn a_reordered_append_is_found() {
    assert!(is_broken::<List>(&[append(0, 1, 1, 1), append(2, 3, 2, 2), elements(4, 5, &[2, 1])]));
    // Two readers who disagree about what overlapped.
    let appends = [append(0, 3, 1, 1), append(0, 3, 2, 2)];
    let [one, other] = appends;
    assert!(is_broken::<List>(&[one, other, elements(4, 5, &[1, 2]), elements(4, 5, &[2, 1])]));
}

#[test]
fn a_doubled_append_is_found() {
    assert!(is_broken::<List>(&[append(0, 1, 1, 1), elements(2, 3, &[1, 1])]));
    assert!(is_broken::<List>(&[append(0, 1, 1, 2), elements(2, 3, &[1, 1])]));
    // Nor may what nobody heard of happen twice.
    let open = Operation::open(0, list::Call::Append(1));
    assert!(is_broken::<List>(&[open.clone(), elements(2, 3, &[1, 1])]));
    assert!(!is_broken::<List>(&[open, elements(2, 3, &[1])]));
}

#[test]
fn a_split_brain_is_found() {
    // Each side sees its own writes and none of the other.
    let side = |value| [write(0, 1, value), read(2, 3, Some(value)), read(4, 5, Some(value))];
    assert!(is_broken::<Register>(&[side(1), side(2)].concat()));
    let side = |element| [append(0, 1, element, 1), elements(2, 3, &[element])];
    assert!(is_broken::<List>(&[side(1), side(2)].concat()));
}

#[test]
fn what_never_returned_may_happen_late_or_never() {
    let open = Operation::open(0, register::Call::Write(7));
    for seen in [None, Some(7)] {
        assert!(!is_broken::<Register>(&[open.clone(), read(2, 3, None), read(4, 5, seen)]));
    }
    assert!(is_broken::<Register>(&[open.clone(), read(2, 3, Some(7)), read(4, 5, None)]), "it happens once");
    let late = Operation::open(10, register::Call::Write(7));
    assert!(is_broken::<Register>(&[late, read(2, 3, Some(7))]), "not before it was invoked");
}

#[test]
fn a_swap_that_was_answered_as_failed_changed_nothing() {
    let refused = set(2, 3, Some(5), 2, register::Answer::Mismatch(Some(1)));
    assert!(!is_broken::<Register>(&[write(0, 1, 1), refused.clone(), read(4, 5, Some(1))]));
    assert!(is_broken::<Register>(&[write(0, 1, 1), refused, read(4, 5, Some(2))]));
    let wrong_kind = Operation::returned(0, register::Call::Read, 1, register::Answer::Written);
    assert!(is_broken::<Register>(&[wrong_kind]));
}

#[test]
fn the_end_of_the_search_says_what_did_not_fit() {
    let history = [write(0, 1, 1), write(2, 3, 2), read(4, 5, Some(1)), read(6, 7, Some(2))];
    let Verdict::Broken(broken) = verdict::<Register>(&history) else { panic!("it is broken") };
    assert_eq!(broken, Broken { longest: vec![0, 1], unplaced: 2 });
}

/// Sixteen open writes and a read of what nobody wrote: every subset of them is a configuration.
fn explosion() -> Vec<OnRegister> {
    let open = (0..16).map(|value| Operation::open(0, register::Call::Write(value)));
    open.chain([read(1, 2, Some(99))]).collect()
}

#[test]
fn beyond_the_limits_there_is_no_verdict() {
    let few = Limits { steps: 1000, ..Limits::default() };
    assert_eq!(check(&Register, &explosion(), few), Verdict::Undecided(Exceeded::Steps));
    let small = Limits { bytes: 100_000, ..Limits::default() };
    assert_eq!(check(&Register, &explosion(), small), Verdict::Undecided(Exceeded::Bytes));
    assert!(is_broken::<Register>(&explosion()));
}

#[test]
fn a_long_history_with_few_at_a_time_is_decided_at_once() {
    let mut history = Vec::new();
    for round in 0..5000 {
        let at = round * 10;
        history.extend([write(at, at + 5, round), write(at + 1, at + 6, round + 1_000_000)]);
        history.push(read(at + 7, at + 8, Some(round)));
    }
    let limits = Limits { steps: 100_000, bytes: 64 << 20 };
    assert_eq!(check(&Register, &history, limits), Verdict::Linearizable);
    history.push(read(60_000, 60_001, Some(3)));
    assert!(matches!(check(&Register, &history, limits), Verdict::Broken(_)));
}
