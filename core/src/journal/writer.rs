//! The journal as it is written: records in, blocks out, and up to where everything is durable.
//!
//! * Group commit: what is queued becomes one group; up to `flushes_in_flight` groups are under way at a time, each with
//!   a flush of its own. `durable()` is the unbroken prefix over journal and superblock (D15).
//! * A commit certificate has no flush of its own: nothing waits for it. It rides in the next group that somebody waits
//!   for, or goes when many wait, when a superblock behind it does, at [`Journal::hurry`] and at a clean stop.
//! * A group starts on a block that was never written in this segment's life (D13), never spans segments, and ends
//!   before a superblock record (D18): positions in a group are consecutive.
//! * A superblock record is written when every journal record before it is durable, so the superblock never runs ahead
//!   of the journal; journal records behind it do not wait for it. One superblock write at a time: copies 0 and 1, flush,
//!   copies 2 and 3, flush; what came in meanwhile is merged into the next (D21).
//! * Block 0 of a new segment travels in one write with the segment's first group: if either of them is lost, the scan
//!   takes the group for torn, and the number of the segment is never used again.

use std::collections::VecDeque;

use super::block::{BLOCK_BYTES, BlockBuf};
use super::group::{Check, GROUP_HEADER_BYTES, GroupHeader, Seal};
use super::index::{Extent, Index};
use super::record::{LongestRecord, RECORD_HEADER_BYTES, Record};
use super::scan::{Resume, Tail};
use super::segment::{Owner, SegmentHeader};
use super::superblock::Superblock;
use crate::door::{Persist, Place};
use crate::ids::LogPosition;
use crate::limits::MIB;

/// How the journal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalOptions {
    /// Bytes of a new segment: a multiple of a block, and at least [`Self::segment_bytes_least`].
    pub segment_bytes: u32,
    /// Bytes of records at which a group is closed; a single larger record goes alone.
    pub group_bytes_max: u32,
    /// Groups under way at a time.
    pub flushes_in_flight: usize,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 * MIB as u32, group_bytes_max: 4 * MIB as u32, flushes_in_flight: 4 }
    }
}

impl JournalOptions {
    /// The least `segment_bytes` where this is the longest record: a group of it alone behind block 0.
    #[must_use]
    pub fn segment_bytes_least(longest: LongestRecord) -> u32 {
        let bytes = BLOCK_BYTES + GROUP_HEADER_BYTES + longest.bytes;
        u32::try_from(bytes.next_multiple_of(BLOCK_BYTES))
            .expect("the bounds of all configurations are far below 4 GiB")
    }

    /// Whether the records of such a replica fit its segments.
    pub fn check(&self, longest: LongestRecord) -> Result<(), SegmentTooShort> {
        let (segment_bytes, least) = (self.segment_bytes, Self::segment_bytes_least(longest));
        if segment_bytes >= least { Ok(()) } else { Err(SegmentTooShort { segment_bytes, longest, least }) }
    }
}

/// With such segments a replica would have to stop as soon as the longest record comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal's segment_bytes is {segment_bytes}, but the longest record of this cluster, {} ({} bytes), must fit one \
     segment: take {least} or more",
    longest.content, longest.bytes
)]
pub struct SegmentTooShort {
    /// What it is.
    pub segment_bytes: u32,
    /// The longest record.
    pub longest: LongestRecord,
    /// What it must be.
    pub least: u32,
}

/// Records without a flush of their own that may wait for company, and their bytes.
const RIDERS_MAX: usize = 64;
const RIDERS_BYTES_MAX: usize = MIB / 4;

/// Names a write, to be handed back when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Into a segment.
    Segment {
        /// Its number.
        number: u32,
        /// Bytes from its start.
        offset: u32,
        /// The file is to be made first, or recycled: `segment_bytes` long, every block written once, and in its
        /// directory durably before this write counts as durable. `offset` is 0.
        is_new: bool,
    },
    /// Over two neighbouring copies in the superblock's file: copy i lies at `i * BLOCK_BYTES`.
    Superblock {
        /// Their numbers.
        copies: [u32; 2],
    },
}

/// Whole blocks to be written and flushed.
#[derive(Debug)]
pub struct Write {
    /// Its name.
    pub ticket: Ticket,
    /// Where it goes.
    pub target: Target,
    /// What goes there. To be given back with [`Journal::recycle`].
    pub bytes: BlockBuf,
}

/// The journal and the superblock of a running replica.
#[derive(Debug)]
pub struct Journal {
    options: JournalOptions,
    owner: Owner,
    seal: Seal,
    /// Waiting, in order.
    records: VecDeque<(LogPosition, Record)>,
    superblocks: VecDeque<(LogPosition, Box<Superblock>)>,
    riders: Riders,
    /// The highest position of a journal record that is to go out with or without company.
    due: LogPosition,
    /// Under way, in order.
    flights: VecDeque<Flight>,
    superblock_write: Option<SuperblockWrite>,
    next_ticket: Ticket,
    /// The highest position appended, and the highest with nothing open below it.
    appended: LogPosition,
    durable: LogPosition,
    /// The last position in a group, and the last in the unbroken prefix of durable groups.
    chain_last: LogPosition,
    groups_durable: LogPosition,
    check: Check,
    place: Option<Resume>,
    next_number: u32,
    /// An empty group is due before anything else.
    must_open: bool,
    /// The last group is an empty one: everything before it was durable.
    is_marked: bool,
    /// One is due as soon as nothing is waiting or under way.
    is_closing: bool,
    index: Index,
    sequence: u64,
    pool: Vec<BlockBuf>,
}

/// What waits without a flush of its own.
#[derive(Debug, Default)]
struct Riders {
    count: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    segment: u32,
    first: LogPosition,
    last: LogPosition,
    is_done: bool,
}

/// A superblock on its way, and the positions that were merged into it.
#[derive(Debug)]
struct SuperblockWrite {
    first: LogPosition,
    block: BlockBuf,
    pair: Pair,
    /// `None`: the pair is not handed out yet.
    ticket: Option<Ticket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    First,
    Second,
}

impl Pair {
    fn copies(self) -> [u32; 2] {
        match self {
            Self::First => [0, 1],
            Self::Second => [2, 3],
        }
    }
}

impl Journal {
    /// Goes on where the scan ended. `superblock` is the one that was read.
    #[must_use]
    pub fn new(superblock: &Superblock, tail: Tail, options: JournalOptions) -> Self {
        assert!(options.segment_bytes as usize >= 2 * BLOCK_BYTES, "a segment holds block 0 and a group");
        assert!((options.segment_bytes as usize).is_multiple_of(BLOCK_BYTES), "a segment is whole blocks");
        assert!(options.flushes_in_flight > 0, "a journal that never writes");
        Self {
            options,
            owner: Owner::of(superblock),
            seal: Seal::new(superblock.directory_key),
            records: VecDeque::new(),
            superblocks: VecDeque::new(),
            riders: Riders::default(),
            due: tail.last(),
            flights: VecDeque::new(),
            superblock_write: None,
            next_ticket: Ticket(1),
            appended: tail.last(),
            durable: tail.last(),
            chain_last: tail.chain_last,
            groups_durable: tail.chain_last,
            check: tail.check,
            place: tail.resume,
            next_number: tail.next_number,
            must_open: tail.must_open,
            is_marked: tail.is_marked || tail.chain_last == LogPosition(0),
            is_closing: false,
            index: tail.index,
            sequence: superblock.sequence,
            pool: Vec::new(),
        }
    }

    /// Queues a record. Its position is the one after the last.
    pub fn append(&mut self, persist: Persist) {
        let Persist { position, place } = persist;
        assert_eq!(position, self.appended.next(), "positions are consecutive");
        self.appended = position;
        match place {
            Place::Journal(record) => {
                self.board(position, &record);
                self.records.push_back((position, record));
            }
            Place::Superblock(superblock) => {
                assert_eq!(Owner::of(&superblock), self.owner, "a directory never changes hands");
                self.hurry();
                self.superblocks.push_back((position, superblock));
            }
        }
    }

    /// What is queued waits for no company any more. The shell calls it with each deadline of the core, so that nothing
    /// stays in memory for longer than a quiet replica is silent.
    pub fn hurry(&mut self) {
        self.due = self.appended;
        self.riders = Riders::default();
    }

    /// Clean stop: when nothing is waiting or under way, an empty group says that everything before it was durable.
    pub fn close(&mut self) {
        self.hurry();
        self.is_closing = true;
    }

    /// The next write that may go out now, beside those that are under way.
    pub fn next_write(&mut self) -> Option<Write> {
        self.next_superblock_write().or_else(|| self.next_group_write())
    }

    /// This write and its flush are done.
    pub fn written(&mut self, ticket: Ticket) {
        if self.superblock_write.as_ref().is_some_and(|write| write.ticket == Some(ticket)) {
            self.superblock_written();
        } else {
            let flight = self.flights.iter_mut().find(|flight| flight.ticket == ticket && !flight.is_done);
            flight.expect("only what was handed out is written, and once").is_done = true;
            while let Some(flight) = self.flights.pop_front_if(|flight| flight.is_done) {
                self.groups_durable = flight.last;
            }
        }
        self.durable = self.durable.max(self.unbroken());
    }

    /// Takes a write's memory back.
    pub fn recycle(&mut self, mut bytes: BlockBuf) {
        let largest = self.options.group_bytes_max as usize + 3 * BLOCK_BYTES;
        if bytes.capacity() <= 2 * largest && self.pool.len() <= self.options.flushes_in_flight {
            bytes.clear();
            self.pool.push(bytes);
        }
    }

    /// Takes out the segments that hold no record at or above `at`, and says their numbers: their files are free once
    /// the superblock that no longer needs them is durable (D17), which `drop_journal_below` promises.
    pub fn drop_below(&mut self, at: LogPosition) -> Vec<u32> {
        let keep = self.flights.front().map_or(u32::MAX, |flight| flight.segment);
        std::iter::from_fn(|| self.index.drop_oldest(at, keep)).collect()
    }

    /// Every record up to this one is on stable storage.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        self.durable
    }

    /// Nothing is waiting or under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.must_open && !self.must_close() && self.is_quiet()
    }

    /// Where a durable journal record lies; `None`: it is not durable yet, dropped, or a superblock's position.
    #[must_use]
    pub fn locate(&self, at: LogPosition) -> Option<Extent> {
        if at <= self.durable { self.index.locate(at) } else { None }
    }

    /// A record that somebody waits for takes along what waits before it.
    fn board(&mut self, position: LogPosition, record: &Record) {
        assert_eq!(position, self.appended);
        self.riders.count += 1;
        self.riders.bytes += record.encoded_len();
        let is_full = self.riders.count >= RIDERS_MAX || self.riders.bytes >= RIDERS_BYTES_MAX;
        if record.has_own_flush() || is_full || self.is_closing {
            self.hurry();
        }
    }

    fn must_close(&self) -> bool {
        self.is_closing && !self.is_marked
    }

    fn is_quiet(&self) -> bool {
        self.records.is_empty()
            && self.superblocks.is_empty()
            && self.flights.is_empty()
            && self.superblock_write.is_none()
    }

    /// The position before the first one that is open.
    fn unbroken(&self) -> LogPosition {
        let open = [
            self.flights.front().map(|flight| flight.first),
            self.records.front().map(|(position, _)| *position),
            self.superblock_write.as_ref().map(|write| write.first),
            self.superblocks.front().map(|(position, _)| *position),
        ];
        open.into_iter().flatten().min().map_or(self.appended, |first| LogPosition(first.0 - 1))
    }

    fn next_superblock_write(&mut self) -> Option<Write> {
        if self.superblock_write.is_none() {
            self.superblock_write = self.merge_superblocks();
        }
        if self.superblock_write.as_ref()?.ticket.is_some() {
            return None;
        }
        let (ticket, mut bytes) = (self.draw_ticket(), self.buffer());
        let write = self.superblock_write.as_mut()?;
        write.ticket = Some(ticket);
        let copies = write.pair.copies();
        for _ in copies {
            bytes.put(&write.block);
        }
        Some(Write { ticket, target: Target::Superblock { copies }, bytes })
    }

    /// The newest superblock that has every journal record before it durable, in place of all before it.
    fn merge_superblocks(&mut self) -> Option<SuperblockWrite> {
        let (first, _) = self.superblocks.front()?;
        let first = *first;
        let of_flight = self.flights.front().map(|flight| flight.first);
        let open = of_flight.or(self.records.front().map(|(position, _)| *position));
        let must_open = self.must_open;
        let is_ready = |position: LogPosition| !must_open && open.is_none_or(|open| position < open);
        let mut merged = None;
        while let Some((_, superblock)) = self.superblocks.pop_front_if(|(position, _)| is_ready(*position)) {
            merged = Some(superblock);
        }
        let mut superblock = merged?;
        self.sequence += 1;
        superblock.sequence = self.sequence;
        superblock.durable_through = self.groups_durable;
        let mut block = BlockBuf::with_capacity(BLOCK_BYTES);
        superblock.encode(&mut block);
        Some(SuperblockWrite { first, block, pair: Pair::First, ticket: None })
    }

    fn superblock_written(&mut self) {
        let write = self.superblock_write.take().expect("one is under way");
        self.superblock_write = match write.pair {
            Pair::First => Some(SuperblockWrite { pair: Pair::Second, ticket: None, ..write }),
            Pair::Second => None,
        };
    }

    fn next_group_write(&mut self) -> Option<Write> {
        if self.flights.len() >= self.options.flushes_in_flight {
            return None;
        }
        let (records, bytes) = self.next_group()?;
        let is_new = self.make_room(GROUP_HEADER_BYTES + bytes);
        let place = self.place.expect("there is room");
        let mut out = self.buffer();
        out.reserve(GROUP_HEADER_BYTES + bytes + 2 * BLOCK_BYTES);
        let offset = if is_new { 0 } else { place.offset };
        if is_new {
            let header =
                SegmentHeader { number: place.number, first_position: self.chain_last.next(), prev_check: self.check };
            header.encode(&self.owner, &self.seal, &mut out);
        }
        let flight = self.put_group(records, place, &mut out);
        out.pad_to(BLOCK_BYTES);
        self.place = Some(Resume { offset: offset + out.len() as u32, ..place });
        let ticket = flight.ticket;
        self.flights.push_back(flight);
        Some(Write { ticket, target: Target::Segment { number: place.number, offset, is_new }, bytes: out })
    }

    /// How many of the waiting records make up the next group, and their bytes; none of them: a mark.
    fn next_group(&self) -> Option<(u16, usize)> {
        let is_mark_due = self.must_open || (self.must_close() && self.is_quiet());
        if is_mark_due {
            return Some((0, 0));
        }
        let mut next = self.records.front()?.0;
        if next > self.due {
            return None;
        }
        let (mut count, mut bytes) = (0, 0);
        for (position, record) in &self.records {
            let len = record.encoded_len();
            let is_full = count > 0 && bytes + len > self.group_room();
            if *position != next || is_full || count == u16::MAX {
                break;
            }
            (count, bytes, next) = (count + 1, bytes + len, next.next());
        }
        Some((count, bytes))
    }

    /// Bytes of records in the largest group: of several, no more than an empty segment takes.
    fn group_room(&self) -> usize {
        let segment = (self.options.segment_bytes as usize).saturating_sub(BLOCK_BYTES + GROUP_HEADER_BYTES);
        segment.min(self.options.group_bytes_max as usize)
    }

    /// Moves on to a new segment if a group of this length does not fit the rest of the current one.
    fn make_room(&mut self, len: usize) -> bool {
        let fits = |place: &Resume| len <= place.end.saturating_sub(place.offset) as usize;
        if self.place.as_ref().is_some_and(fits) {
            return false;
        }
        let (number, end) = (self.next_number, self.options.segment_bytes);
        let place = Resume { number, offset: BLOCK_BYTES as u32, end };
        assert!(fits(&place), "a record of {len} bytes does not fit a segment of {end}");
        self.next_number = number.checked_add(1).expect("2^32 segments are never written");
        self.index.start(number, self.chain_last.next());
        self.place = Some(place);
        true
    }

    /// Appends the next group, which starts at `place`.
    fn put_group(&mut self, records: u16, place: Resume, out: &mut BlockBuf) -> Flight {
        let at = out.len();
        let first_position = match records {
            0 => self.chain_last.next(),
            _ => self.records.front().expect("it has records").0,
        };
        out.put_zeros(GROUP_HEADER_BYTES);
        for (position, record) in self.records.drain(..usize::from(records)) {
            let start = out.len();
            record.encode(out);
            let payload = u32::from_le_bytes(*out[start + 4..].first_chunk().expect("a record has a header"));
            self.index.push(position, place.offset + (start - at) as u32, RECORD_HEADER_BYTES as u32 + payload);
        }
        if self.records.is_empty() {
            self.riders = Riders::default();
        }
        let header = GroupHeader {
            records,
            bytes: (out.len() - at - GROUP_HEADER_BYTES) as u32,
            segment: place.number,
            first_position,
            durable_through: self.groups_durable,
            prev_check: self.check,
        };
        self.check = header.seal(&self.seal, out, at);
        self.chain_last = header.last_position();
        self.must_open = false;
        self.is_marked = records == 0;
        let ticket = self.draw_ticket();
        let last = self.chain_last;
        Flight { ticket, segment: place.number, first: first_position, last, is_done: false }
    }

    fn draw_ticket(&mut self) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket = Ticket(ticket.0 + 1);
        ticket
    }

    fn buffer(&mut self) -> BlockBuf {
        self.pool
            .pop()
            .unwrap_or_else(|| BlockBuf::with_capacity(self.options.group_bytes_max as usize + 3 * BLOCK_BYTES))
    }
}
