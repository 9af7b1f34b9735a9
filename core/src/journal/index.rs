//! Where each record lies: eight bytes a record, a segment at a time, dropped with the segment.

use std::collections::VecDeque;

use super::block::BLOCK_BYTES;
use crate::ids::LogPosition;

/// Where a record lies: its header and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The segment's number.
    pub segment: u32,
    /// Bytes from the segment's start.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Extent {
    /// The whole blocks that hold it: offset and length for a read that must be aligned.
    #[must_use]
    pub fn blocks(&self) -> (u32, u32) {
        let block = BLOCK_BYTES as u32;
        let start = self.offset / block * block;
        (start, (self.offset + self.len).next_multiple_of(block) - start)
    }
}

/// What one segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    pub(super) number: u32,
    /// The lowest position that may lie here.
    first: LogPosition,
    /// Offset and length of the record at `first + i`. Offset 0, where block 0 lies: a superblock record's position.
    records: Vec<(u32, u32)>,
}

impl SegmentIndex {
    pub(super) fn new(number: u32, first: LogPosition) -> Self {
        Self { number, first, records: Vec::new() }
    }

    pub(super) fn push(&mut self, at: LogPosition, offset: u32, len: u32) {
        let place = usize::try_from(at.0 - self.first.0).expect("a segment holds fewer records than memory has bytes");
        assert!(place >= self.records.len(), "positions rise");
        self.records.resize(place, (0, 0));
        self.records.push((offset, len));
    }

    fn extent(&self, at: LogPosition) -> Option<Extent> {
        let place = usize::try_from(at.0 - self.first.0).ok()?;
        let (offset, len) = *self.records.get(place)?;
        (offset != 0).then_some(Extent { segment: self.number, offset, len })
    }
}

/// The segments of the chain, in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Index(VecDeque<SegmentIndex>);

impl Index {
    pub(super) fn start(&mut self, number: u32, first: LogPosition) {
        self.0.push_back(SegmentIndex::new(number, first));
    }

    pub(super) fn push(&mut self, at: LogPosition, offset: u32, len: u32) {
        self.0.back_mut().expect("a record lies in a segment").push(at, offset, len);
    }

    pub(super) fn locate(&self, at: LogPosition) -> Option<Extent> {
        // Of segments with the same first position only the last holds records.
        let after = self.0.partition_point(|segment| segment.first <= at);
        self.0.get(after.checked_sub(1)?)?.extent(at)
    }

    /// Takes out the oldest segment if no record at or above `at` lies in it and it is below `keep`.
    pub(super) fn drop_oldest(&mut self, at: LogPosition, keep: u32) -> Option<u32> {
        let next = self.0.get(1)?;
        let is_unneeded = next.first <= at && self.0[0].number < keep;
        is_unneeded.then(|| self.0.pop_front().expect("there are two").number)
    }
}
