//! The search against the definition itself: small random histories, and all orders of all parts of them.

use bft_histories::list::{self, List};
use bft_histories::register::{self, Register};
use bft_histories::{End, Limits, Operation, Specification, Verdict, check};

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Whether some order of all that was answered and any of what is open is in real time and to the specification: each
/// candidate is built whole, and only then looked at.
fn is_linearizable<S: Specification>(specification: &S, history: &[Operation<S::Call, S::Answer>]) -> bool {
    (0..1_u32 << history.len()).any(|part| {
        let chosen: Vec<_> = (0..history.len()).filter(|index| part >> index & 1 == 1).collect();
        let has_all =
            (0..history.len()).all(|index| chosen.contains(&index) || matches!(history[index].end, End::Open));
        has_all && some_order(chosen, 0, &|order| is_order(specification, history, order))
    })
}

fn some_order(mut items: Vec<usize>, from: usize, is_good: &impl Fn(&[usize]) -> bool) -> bool {
    if from == items.len() {
        return is_good(&items);
    }
    (from..items.len()).any(|other| {
        items.swap(from, other);
        some_order(items.clone(), from + 1, is_good)
    })
}

fn is_order<S: Specification>(specification: &S, history: &[Operation<S::Call, S::Answer>], order: &[usize]) -> bool {
    let returned = |index: usize| match history[index].end {
        End::Returned { at, .. } => at,
        End::Open => u64::MAX,
    };
    let is_in_time = (0..order.len())
        .all(|place| order[place + 1..].iter().all(|later| returned(*later) >= history[order[place]].invoked));
    let answer = |index: usize| match &history[index].end {
        End::Returned { answer, .. } => Some(answer),
        End::Open => None,
    };
    let step = |state: Option<S::State>, index: &usize| {
        state.and_then(|state| specification.step(&state, &history[*index].call, answer(*index)))
    };
    is_in_time && order.iter().fold(Some(specification.initial()), step).is_some()
}

fn compare<S: Specification + Default>(
    rounds: u64,
    mut any: impl FnMut(&mut Draw) -> Operation<S::Call, S::Answer>,
) -> (u64, u64) {
    let (mut good, mut bad) = (0, 0);
    for round in 0..rounds {
        let mut draw = Draw(round);
        let history: Vec<_> = (0..2 + draw.below(4)).map(|_| any(&mut draw)).collect();
        let expected = is_linearizable(&S::default(), &history);
        match check(&S::default(), &history, Limits::default()) {
            Verdict::Linearizable => assert!(expected, "round {round}: accepted"),
            Verdict::Broken(_) => assert!(!expected, "round {round}: refused"),
            Verdict::Undecided(exceeded) => panic!("round {round}: {exceeded:?}"),
        }
        *if expected { &mut good } else { &mut bad } += 1;
    }
    (good, bad)
}

fn ended<C, A>(draw: &mut Draw, call: C, answer: A) -> Operation<C, A> {
    let invoked = draw.below(8);
    match draw.below(5) {
        0 => Operation::open(invoked, call),
        _ => Operation::returned(invoked, call, invoked + draw.below(6), answer),
    }
}

#[test]
fn registers_are_judged_as_the_definition_says() {
    let value = |draw: &mut Draw| draw.below(3).checked_sub(1);
    let any = |draw: &mut Draw| match draw.below(4) {
        0 => {
            let call = register::Call::Write(draw.below(2));
            ended(draw, call, register::Answer::Written)
        }
        1 => {
            let call = register::Call::CompareAndSet { expect: value(draw), value: draw.below(2) };
            let answer = match draw.below(2) {
                0 => register::Answer::Set,
                _ => register::Answer::Mismatch(value(draw)),
            };
            ended(draw, call, answer)
        }
        _ => {
            let answer = register::Answer::Value(value(draw));
            ended(draw, register::Call::Read, answer)
        }
    };
    let (good, bad) = compare::<Register>(6000, any);
    assert!(good > 500 && bad > 500, "{good} linearizable, {bad} not");
}

#[test]
fn lists_are_judged_as_the_definition_says() {
    let any = |draw: &mut Draw| match draw.below(2) {
        0 => {
            let (call, length) = (list::Call::Append(draw.below(2)), 1 + draw.below(2) as usize);
            ended(draw, call, list::Answer::Length(length))
        }
        _ => {
            let elements = (0..draw.below(3)).map(|_| draw.below(2)).collect();
            ended(draw, list::Call::Read, list::Answer::Elements(elements))
        }
    };
    let (good, bad) = compare::<List>(6000, any);
    assert!(good > 500 && bad > 500, "{good} linearizable, {bad} not");
}
