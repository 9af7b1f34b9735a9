//! What is going to happen, in order of virtual time. Events of one instant come out in the order they were put in, but
//! deadlines after everything else: a shell steps what has arrived before it says that time is up (door, rule 6).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// When within an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Everything that arrives or is finished.
    First,
    /// Deadlines.
    Last,
}

/// A queue of events. Holds what is to come and nothing else.
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<(u64, Turn, u64, usize)>>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    pushed: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), pushed: 0 }
    }
}

impl<E> Queue<E> {
    /// `event` happens at `at`.
    pub fn push(&mut self, at: u64, turn: Turn, event: E) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.heap.push(Reverse((at, turn, self.pushed, slot)));
        self.pushed += 1;
    }

    /// The next event and its time.
    pub fn pop(&mut self) -> Option<(u64, E)> {
        let Reverse((at, _, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        let event = self.slots[slot].take().expect("a queued slot is filled");
        Some((at, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_after_what_arrived_in_the_same_instant() {
        let mut queue = Queue::default();
        queue.push(5, Turn::Last, "deadline");
        queue.push(5, Turn::First, "one");
        queue.push(3, Turn::Last, "early");
        queue.push(5, Turn::First, "two");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [(3, "early"), (5, "one"), (5, "two"), (5, "deadline")]);
    }
}
