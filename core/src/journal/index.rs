//! Where each record lies: eight bytes a record, a segment at a time, dropped with the segment. Positions that lie elsewhere,
//! those of superblock records, cost a place for each gap, however long it is.

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
    /// Where positions follow one another without a gap, in order.
    runs: Vec<Run>,
    /// Offset and length of each record.
    records: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: LogPosition,
    /// The place of its first record.
    place: usize,
}

impl SegmentIndex {
    pub(super) fn new(number: u32, first: LogPosition) -> Self {
        Self { number, first, runs: Vec::new(), records: Vec::new() }
    }

    pub(super) fn push(&mut self, at: LogPosition, offset: u32, len: u32) {
        let place = self.records.len();
        let next = self.runs.last().map_or(self.first, |run| LogPosition(run.first.0 + (place - run.place) as u64));
        assert!(at >= next, "positions rise");
        if self.runs.is_empty() || at > next {
            self.runs.push(Run { first: at, place });
        }
        self.records.push((offset, len));
    }

    fn extent(&self, at: LogPosition) -> Option<Extent> {
        let after = self.runs.partition_point(|run| run.first <= at);
        let run = self.runs[after.checked_sub(1)?];
        let end = self.runs.get(after).map_or(self.records.len(), |next| next.place);
        let place = run.place.checked_add(usize::try_from(at.0 - run.first.0).ok()?)?;
        let (offset, len) = *self.records[..end].get(place)?;
        Some(Extent { segment: self.number, offset, len })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_and_gaps_cost_a_place_however_long_they_are() {
        let far = u64::MAX - 1;
        let mut index = Index::default();
        index.start(7, LogPosition(3));
        for (at, offset) in [(4, 100), (5, 200), (9, 300), (far, 400), (far + 1, 500)] {
            index.push(LogPosition(at), offset, 10);
        }
        let found = |at| index.locate(LogPosition(at)).map(|extent| extent.offset);
        assert_eq!([4, 5, 9, far, far + 1].map(found), [100, 200, 300, 400, 500].map(Some));
        assert_eq!([2, 3, 6, 8, 10, far - 1].map(found), [None; 6]);
        assert_eq!(index.0[0].runs.len(), 3);
    }
}
