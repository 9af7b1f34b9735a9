//! The search for an order: Wing and Gong's ("Testing and verifying concurrent objects", 1993) with Lowe's memory of
//! configurations ("Testing for linearizability", 2017), as porcupine has it.
//!
//! It walks the invocations and returns in the order of time. An invocation may be placed next in the order if its
//! answer fits; both its events then leave the list. Who meets a return of what was not placed went wrong, and takes the
//! last placed one back. A set of placed operations with the state that they made is searched behind once: what comes
//! of it does not depend on their order.
//!
//! Invariants: `placed` are exactly the operations whose events are out of the list; while something returned is not
//! placed, its return is in the list, so that a walk never comes to the end.

use std::collections::HashSet;

use crate::{Broken, End, Exceeded, Limits, Operation, Specification, Verdict};

/// Whether there is an order of all of `history` that was answered, and any part of what is open, in which each answer is
/// what `specification` says, and nothing is before what had returned when it was invoked. Returns at the very time of
/// an invocation do not precede it.
pub fn check<S: Specification>(
    specification: &S,
    history: &[Operation<S::Call, S::Answer>],
    limits: Limits,
) -> Verdict {
    Search::new(specification, history, limits).run()
}

/// Places in the list; the list's head is at 0.
type Place = usize;
const HEAD: Place = 0;

#[derive(Clone, Copy, Debug)]
enum Event {
    Head,
    Invocation(usize),
    Return(usize),
}

/// The events that are not placed, in the order of time.
struct Timeline {
    events: Vec<Event>,
    next: Vec<Place>,
    previous: Vec<Place>,
    /// By operation: where it was invoked, and where it returned.
    invocations: Vec<Place>,
    returns: Vec<Option<Place>>,
}

impl Timeline {
    fn new<C, A>(history: &[Operation<C, A>]) -> Self {
        let mut timed = Vec::with_capacity(2 * history.len());
        for (index, operation) in history.iter().enumerate() {
            timed.push((operation.invoked, 0, Event::Invocation(index)));
            if let End::Returned { at, .. } = operation.end {
                assert!(at >= operation.invoked, "operation {index} returned before it was invoked");
                timed.push((at, 1, Event::Return(index)));
            }
        }
        timed.sort_by_key(|&(time, kind, _)| (time, kind));
        let events: Vec<_> = std::iter::once(Event::Head).chain(timed.into_iter().map(|(.., event)| event)).collect();
        let mut timeline = Self {
            next: (1..=events.len()).map(|place| place % events.len()).collect(),
            previous: (0..events.len()).map(|place| (place + events.len() - 1) % events.len()).collect(),
            invocations: vec![HEAD; history.len()],
            returns: vec![None; history.len()],
            events,
        };
        for (place, event) in timeline.events.iter().enumerate() {
            match *event {
                Event::Head => {}
                Event::Invocation(index) => timeline.invocations[index] = place,
                Event::Return(index) => timeline.returns[index] = Some(place),
            }
        }
        timeline
    }

    fn take_out(&mut self, operation: usize) {
        self.unlink(self.invocations[operation]);
        if let Some(place) = self.returns[operation] {
            self.unlink(place);
        }
    }

    /// The reverse of the last [`Self::take_out`] that was not reversed.
    fn put_back(&mut self, operation: usize) {
        if let Some(place) = self.returns[operation] {
            self.link(place);
        }
        self.link(self.invocations[operation]);
    }

    fn unlink(&mut self, place: Place) {
        let (previous, next) = (self.previous[place], self.next[place]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn link(&mut self, place: Place) {
        self.next[self.previous[place]] = place;
        self.previous[self.next[place]] = place;
    }
}

/// Which operations are placed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Box<[u64]>);

impl Placed {
    fn none(operations: usize) -> Self {
        Self(vec![0; operations.div_ceil(64)].into())
    }

    fn toggle(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}

struct Search<'a, S: Specification> {
    specification: &'a S,
    history: &'a [Operation<S::Call, S::Answer>],
    limits: Limits,
    timeline: Timeline,
    placed: Placed,
    state: S::State,
    /// What was placed, and the state before it.
    order: Vec<(usize, S::State)>,
    /// Answered operations that are not placed.
    due: usize,
    seen: HashSet<(Placed, S::State)>,
    seen_bytes: usize,
    steps: u64,
    furthest: Option<Broken>,
}

impl<'a, S: Specification> Search<'a, S> {
    fn new(specification: &'a S, history: &'a [Operation<S::Call, S::Answer>], limits: Limits) -> Self {
        Self {
            specification,
            history,
            limits,
            timeline: Timeline::new(history),
            placed: Placed::none(history.len()),
            state: specification.initial(),
            order: Vec::new(),
            due: history.iter().filter(|operation| operation.answer().is_some()).count(),
            seen: HashSet::new(),
            seen_bytes: 0,
            steps: 0,
            furthest: None,
        }
    }

    fn run(mut self) -> Verdict {
        let mut place = self.timeline.next[HEAD];
        while self.due > 0 {
            place = match self.timeline.events[place] {
                Event::Head => unreachable!("the return of what is due is in the list"),
                Event::Invocation(operation) => {
                    self.steps += 1;
                    if self.steps > self.limits.steps {
                        return Verdict::Undecided(Exceeded::Steps);
                    }
                    match self.place(operation) {
                        Ok(true) => self.timeline.next[HEAD],
                        Ok(false) => self.timeline.next[place],
                        Err(exceeded) => return Verdict::Undecided(exceeded),
                    }
                }
                Event::Return(operation) => {
                    self.remember_furthest(operation);
                    match self.take_back() {
                        Some(taken_back) => self.timeline.next[self.timeline.invocations[taken_back]],
                        None => return Verdict::Broken(self.furthest.expect("just remembered")),
                    }
                }
            };
        }
        Verdict::Linearizable
    }

    /// Places it next, if it fits and that has not been tried; says whether.
    fn place(&mut self, operation: usize) -> Result<bool, Exceeded> {
        let Operation { call, .. } = &self.history[operation];
        let answer = self.history[operation].answer();
        let Some(after) = self.specification.step(&self.state, call, answer) else { return Ok(false) };
        self.placed.toggle(operation);
        let bytes = size_of::<(Placed, S::State)>() + size_of_val(&*self.placed.0) + self.specification.bytes(&after);
        if !self.seen.insert((self.placed.clone(), after.clone())) {
            self.placed.toggle(operation);
            return Ok(false);
        }
        self.seen_bytes += bytes;
        if self.seen_bytes > self.limits.bytes {
            return Err(Exceeded::Bytes);
        }
        self.order.push((operation, std::mem::replace(&mut self.state, after)));
        self.timeline.take_out(operation);
        self.due -= usize::from(answer.is_some());
        Ok(true)
    }

    /// Takes the last one back, if there is one.
    fn take_back(&mut self) -> Option<usize> {
        let (operation, before) = self.order.pop()?;
        self.state = before;
        self.placed.toggle(operation);
        self.timeline.put_back(operation);
        self.due += usize::from(self.history[operation].answer().is_some());
        Some(operation)
    }

    fn remember_furthest(&mut self, unplaced: usize) {
        if self.furthest.as_ref().is_none_or(|furthest| furthest.longest.len() < self.order.len()) {
            let longest = self.order.iter().map(|(operation, _)| *operation).collect();
            self.furthest = Some(Broken { longest, unplaced });
        }
    }
}
