//! Operations that are taken and not yet signed into a Request: bounded, first in first out, each can still be
//! withdrawn.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::ids::Nanos;
use crate::limits::MILLISECOND;

/// A taken operation.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) bytes: Bytes,
    pub(super) caller: Caller,
}

/// Who waits for an operation, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) tag: u64,
    pub(super) deadline: Option<Nanos>,
}

impl Caller {
    /// Deadlines are taken up to the next millisecond, so that as many fall due together as possible.
    pub(super) fn new(tag: u64, deadline: Option<Nanos>) -> Self {
        let up = |deadline: Nanos| Nanos(deadline.0.checked_next_multiple_of(MILLISECOND).unwrap_or(u64::MAX));
        Self { tag, deadline: deadline.map(up) }
    }

    pub(super) fn is_due(&self, now: Nanos) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// The earlier of two times of which either may be none.
pub(super) fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// The operations that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    operations: VecDeque<Operation>,
    /// Operations with their four bytes of length each.
    bytes: usize,
    /// No deadline in the queue is before this one.
    earliest: Option<Nanos>,
}

impl Queue {
    pub(super) fn push(&mut self, operation: Operation) {
        self.bytes += encoded(&operation);
        self.earliest = earlier(self.earliest, operation.caller.deadline);
        self.operations.push_back(operation);
    }

    /// Takes from the front what one Request holds: at least one operation.
    pub(super) fn take(&mut self, operations_max: usize, bytes_max: usize) -> Vec<Operation> {
        let mut bytes = 0;
        let mut count = 0;
        for operation in self.operations.iter().take(operations_max) {
            bytes += encoded(operation);
            if bytes > bytes_max && count > 0 {
                break;
            }
            count += 1;
        }
        let taken: Vec<_> = self.operations.drain(..count).collect();
        self.bytes -= taken.iter().map(encoded).sum::<usize>();
        if self.operations.is_empty() {
            self.earliest = None;
        }
        taken
    }

    /// Withdraws everything for which `which` holds; `on_each` gets the tags in their order.
    pub(super) fn withdraw(&mut self, which: impl Fn(&Caller) -> bool, mut on_each: impl FnMut(u64)) {
        let (mut bytes, mut earliest) = (0, None);
        self.operations.retain(|operation| {
            if which(&operation.caller) {
                on_each(operation.caller.tag);
                return false;
            }
            bytes += encoded(operation);
            earliest = earlier(earliest, operation.caller.deadline);
            true
        });
        (self.bytes, self.earliest) = (bytes, earliest);
    }

    /// Whether what waits fills a Request of these bounds.
    pub(super) fn fills(&self, operations_max: usize, bytes_max: usize) -> bool {
        self.operations.len() >= operations_max || self.bytes >= bytes_max
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When a deadline may be due.
    pub(super) fn earliest(&self) -> Option<Nanos> {
        self.earliest
    }
}

/// What an operation takes in a Request.
fn encoded(operation: &Operation) -> usize {
    operation.bytes.len() + 4
}
