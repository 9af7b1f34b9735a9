//! Frames that wait for one link, by lane, and what all links of a shard hold together. A body that waits at several
//! links is counted once.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use bft_core::door::Lane;
use bytes::Bytes;

/// Bytes that wait at a shard.
#[derive(Clone, Debug, Default)]
pub struct Budget(Rc<Cell<usize>>);

impl Budget {
    /// How many wait.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.get()
    }

    /// A frame that counts until the last link has sent or dropped it.
    #[must_use]
    pub fn frame(&self, bytes: Bytes) -> Frame {
        self.0.set(self.0.get() + bytes.len());
        Frame(Rc::new(Charged { bytes, budget: self.clone() }))
    }
}

/// A whole encoded frame.
#[derive(Clone, Debug)]
pub struct Frame(Rc<Charged>);

#[derive(Debug)]
struct Charged {
    bytes: Bytes,
    budget: Budget,
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get() - self.bytes.len());
    }
}

impl Frame {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// The frames of the lane that is never dropped from pass the bound by themselves: the link is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck;

/// What waits for one link.
#[derive(Debug, Default)]
pub struct SendQueue {
    lanes: [VecDeque<Frame>; 3],
    bytes: usize,
}

impl SendQueue {
    /// Queues a frame, and drops others of the lowest lane, or the frame itself, while more than `most` bytes would wait.
    /// Says how many were dropped.
    pub fn push(&mut self, lane: Lane, frame: Frame, most: usize) -> Result<u64, Stuck> {
        let mut dropped = 0;
        // A frame for which nothing has to make way is taken whatever its size: its kind bounds it.
        while self.bytes > 0 && self.bytes + frame.bytes().len() > most {
            let is_lowest = self.lowest().is_none_or(|lowest| lowest < lane);
            if lane != Lane::Control && is_lowest {
                return Ok(dropped + 1);
            }
            if !self.shed() {
                return Err(Stuck);
            }
            dropped += 1;
        }
        self.bytes += frame.bytes().len();
        self.lanes[lane as usize].push_back(frame);
        Ok(dropped)
    }

    /// Drops the oldest frame of the lowest lane; false if there is none that may be.
    pub fn shed(&mut self) -> bool {
        let Some(lane) = self.lowest() else { return false };
        let frame = self.lanes[lane as usize].pop_front().expect("the lane is not empty");
        self.bytes -= frame.bytes().len();
        true
    }

    /// Takes the next frame to be sent: the dearest lane first.
    pub fn pop(&mut self) -> Option<Frame> {
        let frame = self.lanes.iter_mut().find_map(VecDeque::pop_front)?;
        self.bytes -= frame.bytes().len();
        Some(frame)
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The lowest lane that holds something that may be dropped.
    fn lowest(&self) -> Option<Lane> {
        [Lane::Bulk, Lane::Ordering].into_iter().find(|lane| !self.lanes[*lane as usize].is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(budget: &Budget, byte: u8) -> Frame {
        budget.frame(Bytes::from(vec![byte; 10]))
    }

    fn rest(queue: &mut SendQueue) -> Vec<u8> {
        std::iter::from_fn(|| queue.pop()).map(|frame| frame.bytes()[0]).collect()
    }

    #[test]
    fn pf4_the_dearest_lane_leaves_first_and_the_lowest_is_dropped_first() {
        let budget = Budget::default();
        let mut queue = SendQueue::default();
        for (lane, byte) in [(Lane::Bulk, 1), (Lane::Ordering, 2), (Lane::Bulk, 3), (Lane::Control, 4)] {
            assert_eq!(queue.push(lane, frame(&budget, byte), 40), Ok(0));
        }
        assert_eq!(queue.push(Lane::Ordering, frame(&budget, 5), 40), Ok(1), "1 is dropped");
        assert_eq!(queue.push(Lane::Bulk, frame(&budget, 6), 40), Ok(1), "3 is dropped");
        assert_eq!(queue.push(Lane::Control, frame(&budget, 7), 40), Ok(1), "6 is dropped");
        assert_eq!(queue.push(Lane::Bulk, frame(&budget, 8), 40), Ok(1), "nothing is lower than 8");
        assert_eq!(rest(&mut queue), [4, 7, 2, 5]);
        assert_eq!((queue.bytes(), budget.used()), (0, 0));
    }

    #[test]
    fn pf4_control_is_never_dropped() {
        let budget = Budget::default();
        let mut queue = SendQueue::default();
        assert_eq!(queue.push(Lane::Control, frame(&budget, 1), 20), Ok(0));
        assert_eq!(queue.push(Lane::Control, frame(&budget, 2), 20), Ok(0));
        assert_eq!(queue.push(Lane::Ordering, frame(&budget, 3), 20), Ok(1));
        assert!(!queue.shed());
        assert_eq!(queue.push(Lane::Control, frame(&budget, 4), 20), Err(Stuck));
        assert_eq!(rest(&mut queue), [1, 2]);
    }

    #[test]
    fn mem1_a_frame_for_several_links_counts_once_until_the_last_is_done() {
        let budget = Budget::default();
        let (mut one, mut two) = (SendQueue::default(), SendQueue::default());
        let shared = frame(&budget, 1);
        one.push(Lane::Ordering, shared.clone(), 100).unwrap();
        two.push(Lane::Ordering, shared, 100).unwrap();
        assert_eq!(budget.used(), 10);
        assert!(one.shed());
        assert_eq!(budget.used(), 10);
        drop(two.pop());
        assert_eq!(budget.used(), 0);
    }
}
