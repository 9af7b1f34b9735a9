//! Reading the journal at a start: which groups make up the chain, and whether what follows the last good one is a torn
//! tail, to be cut off, or damage, to be owned up to (D4, SHAPES §6).
//!
//! * The chain starts in the segment with the highest number whose first position is not above the journal's start.
//!   A group belongs to it if its check is right and names the check of the group before it. Where block 0 of a newer
//!   segment names the last check, the chain goes on there, whatever else lies behind the last group: the newest wins,
//!   so what an earlier start cut off never comes back.
//! * Let P be the last position of the chain. If a valid group behind the chain or in any file off it (every block is
//!   tried), or the superblock, says that the journal was durable beyond P, then what is missing was durable: damage.
//!   Otherwise it is a torn tail. That a valid group follows proves nothing: several are in flight at a time.
//! * What is written next goes into the same segment behind the last good group if nothing that is left behind there
//!   could ever continue a chain; else into a new segment, whose first group is written before any superblock of this
//!   life: only so does a journal's start beyond the cut never lead into what was cut off.
//!
//! Memory: a window of 1 MiB, one group, and the index (eight bytes a record).

use std::io;

use bytes::Bytes;

use super::block::{BLOCK_BYTES, BlockBuf};
use super::group::{Check, GROUP_HEADER_BYTES, GroupHeader, Seal};
use super::index::Index;
use super::record::{RECORD_ALIGN, RECORD_HEADER_BYTES, Record, RecordInvalid, split_record};
use super::segment::{Owner, SegmentHeader};
use super::superblock::Superblock;
use crate::ids::LogPosition;
use crate::mutant;

/// What is read at once.
const WINDOW_BYTES: usize = 1 << 20;
const BLOCK: u32 = BLOCK_BYTES as u32;

/// A segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// The number in its name. Only a handle: what it holds, its block 0 says.
    pub file: u32,
    /// Its length.
    pub bytes: u32,
}

/// The journal's files, for [`scan()`].
pub trait Blocks {
    /// Every file there is, in any order.
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>>;

    /// Fills `out` from `offset` of a file. Offset, length and memory are multiples of a block, and inside of the file.
    fn read(&mut self, file: u32, offset: u32, out: &mut [u8]) -> io::Result<()>;
}

/// Where the journal ends and goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last journal position of the chain.
    pub(super) chain_last: LogPosition,
    pub(super) check: Check,
    /// `None`: in a new segment.
    pub(super) resume: Option<Resume>,
    pub(super) next_number: u32,
    /// A segment that was cut off could be taken for the start of the chain until a new one is there.
    pub(super) must_open: bool,
    pub(super) is_marked: bool,
    pub(super) index: Index,
    last: LogPosition,
    files: Vec<(u32, u32)>,
    free: Vec<u32>,
}

/// The place behind the last good group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resume {
    pub(super) number: u32,
    pub(super) offset: u32,
    pub(super) end: u32,
}

impl Tail {
    /// The highest LogPosition that counts as handed out: the next record is the one after it.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.last
    }

    /// The segments that are in use: the file's handle and the segment's number. They may differ; whoever names files
    /// by numbers renames first, and flushes the directory.
    #[must_use]
    pub fn files(&self) -> &[(u32, u32)] {
        &self.files
    }

    /// Handles of files that hold nothing that is needed: for new segments.
    #[must_use]
    pub fn free(&self) -> &[u32] {
        &self.free
    }
}

/// What was durable is gone, or cannot be read. Nothing may be cut, overwritten or appended before the superblock says
/// so (PROTOCOL §11, AMNESIA-LITE).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the journal is damaged: its last good group ends at position {last_good} ({place}), but {evidence} says that it was \
     durable up to {durable_through}; keep the directory for inspection, and let this replica learn from its peers",
    place = Place(*.segment, *.offset)
)]
pub struct Damage {
    /// The segment in which the chain ends; `None`: its first one is missing.
    pub segment: Option<u32>,
    /// Where in that segment the next group should be.
    pub offset: u32,
    /// The last position of the chain; 0: none.
    pub last_good: LogPosition,
    /// What was durable once.
    pub durable_through: LogPosition,
    /// Who says so.
    pub evidence: Evidence,
    /// A journal that starts anew, above everything that lies here, in a segment of its own. To be used only after a
    /// superblock with `damaged_through`, and `journal_start` one above its `last()`, is written and flushed.
    pub fresh: Box<Tail>,
}

/// Who says that the journal was durable further than it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The superblock.
    Superblock,
    /// A valid group.
    Group {
        /// The file's handle.
        file: u32,
        /// Where in it.
        offset: u32,
    },
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Superblock => f.write_str("the superblock"),
            Self::Group { file, offset } => write!(f, "the group at byte {offset} of file {file}"),
        }
    }
}

struct Place(Option<u32>, u32);

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(segment) => write!(f, "segment {segment}, before byte {}", self.1),
            None => f.write_str("its first segment is missing"),
        }
    }
}

/// Why there is no journal to start from.
#[derive(Debug, thiserror::Error)]
pub enum ScanError<E> {
    /// A file could not be read.
    #[error("cannot read the journal: {0}")]
    Io(#[from] io::Error),
    /// What was durable is gone.
    #[error(transparent)]
    Damage(Damage),
    /// Two files claim to be one segment: somebody copied files.
    #[error("the files {0} and {1} of the journal both hold segment {2}: remove the copy")]
    Twice(u32, u32, u32),
    /// A whole group holds what this version does not understand.
    #[error("record {at} of the journal: {why}")]
    Record {
        /// Its position.
        at: LogPosition,
        /// Why.
        #[source]
        why: RecordInvalid,
    },
    /// The caller refused a record.
    #[error("record {at} of the journal: {why}")]
    Refused {
        /// Its position.
        at: LogPosition,
        /// What it said.
        why: E,
    },
}

/// What a scan comes by on its way along the chain.
#[allow(clippy::large_enum_variant, reason = "one at a time, and passed on at once")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The next segment.
    Segment(SegmentFile, SegmentHeader),
    /// A good group, and where in the segment it begins.
    Group(u32, GroupHeader),
    /// A record that is still needed.
    Record {
        /// Its position.
        at: LogPosition,
        /// Its bytes in the journal.
        bytes: u32,
        /// The record.
        record: Record,
    },
}

/// Reads the journal that `superblock` belongs to, and passes on its records from `journal_start` on, in order. What
/// was read must be flushed before anything is done about it (D22): the scan cannot, the caller does so before.
pub fn scan<E>(
    superblock: &Superblock,
    blocks: &mut dyn Blocks,
    on_record: &mut dyn FnMut(LogPosition, Record) -> Result<(), E>,
) -> Result<Tail, ScanError<E>> {
    scan_seeing(superblock, blocks, &mut |seen| match seen {
        Seen::Record { at, record, .. } => on_record(at, record),
        Seen::Segment(..) | Seen::Group(..) => Ok(()),
    })
}

/// The same for those who want to see how the records lie.
pub fn scan_seeing<E>(
    superblock: &Superblock,
    blocks: &mut dyn Blocks,
    on_seen: &mut dyn FnMut(Seen) -> Result<(), E>,
) -> Result<Tail, ScanError<E>> {
    let mut scan = Scan::new(superblock, blocks)?;
    scan.refuse_copies()?;
    let chain = scan.walk(on_seen)?;
    let survey = scan.survey(&chain)?;
    scan.judge(chain, &survey)
}

/// A file with a block 0 of this directory.
#[derive(Clone, Copy)]
struct Segment {
    file: SegmentFile,
    header: SegmentHeader,
}

/// The good groups, one after the other.
struct Chain {
    segments: Vec<Segment>,
    /// Behind the last group.
    offset: u32,
    last: LogPosition,
    check: Check,
    /// The last group is a mark that says that everything before it is durable.
    is_marked: bool,
    index: Index,
}

/// What lies off the chain.
#[derive(Default)]
struct Survey {
    /// The highest claim beyond the chain.
    proof: Option<(LogPosition, Evidence)>,
    /// The highest position and segment number seen.
    last: LogPosition,
    number: u32,
    /// Valid groups lie behind the chain in its last segment.
    has_leftover: bool,
}

struct Scan<'a> {
    superblock: &'a Superblock,
    seal: Seal,
    files: Vec<SegmentFile>,
    segments: Vec<Segment>,
    window: Window<'a>,
}

impl<'a> Scan<'a> {
    fn new(superblock: &'a Superblock, blocks: &'a mut dyn Blocks) -> io::Result<Self> {
        let (owner, seal) = (Owner::of(superblock), Seal::new(superblock.directory_key));
        let files = blocks.segments()?;
        let mut block = BlockBuf::zeroed(BLOCK_BYTES);
        let mut segments = Vec::new();
        for file in files.iter().filter(|file| file.bytes >= BLOCK) {
            blocks.read(file.file, 0, &mut block)?;
            if let Some(header) = SegmentHeader::decode(&owner, &seal, &block) {
                segments.push(Segment { file: *file, header });
            }
        }
        segments.sort_unstable_by_key(|segment| (segment.header.number, segment.file.file));
        Ok(Self { superblock, seal, files, segments, window: Window::new(blocks) })
    }

    fn refuse_copies<E>(&self) -> Result<(), ScanError<E>> {
        let mut pairs = self.segments.windows(2);
        match pairs.find(|pair| pair[0].header.number == pair[1].header.number) {
            Some(pair) => Err(ScanError::Twice(pair[0].file.file, pair[1].file.file, pair[0].header.number)),
            None => Ok(()),
        }
    }

    fn walk<E>(&mut self, on_seen: &mut dyn FnMut(Seen) -> Result<(), E>) -> Result<Chain, ScanError<E>> {
        let mut chain = Chain {
            segments: Vec::new(),
            offset: 0,
            last: LogPosition(0),
            check: Check::NONE,
            is_marked: false,
            index: Index::default(),
        };
        let start = self.superblock.journal_start.max(LogPosition(1));
        let Some(root) = self.segments.iter().rfind(|segment| segment.header.first_position <= start) else {
            return Ok(chain);
        };
        chain.last = LogPosition(root.header.first_position.0 - 1);
        chain.check = root.header.prev_check;
        let root = *root;
        chain.enter(root, on_seen)?;
        loop {
            if let Some(next) = self.successor(&chain) {
                chain.enter(next, on_seen)?;
            } else if let Some((header, check, group)) = self.next_group(&chain)? {
                self.deliver(&mut chain, &header, &group, on_seen)?;
                chain.follow(&header, check);
            } else {
                return Ok(chain);
            }
        }
    }

    /// The newest segment that names the chain's last group as the one before it.
    fn successor(&self, chain: &Chain) -> Option<Segment> {
        let continues = |segment: &&Segment| {
            segment.header.number > chain.number()
                && segment.header.prev_check == chain.check
                && segment.header.first_position == chain.last.next()
        };
        self.segments.iter().rfind(continues).copied()
    }

    fn next_group(&mut self, chain: &Chain) -> io::Result<Option<(GroupHeader, Check, Bytes)>> {
        let file = chain.end().file;
        let Some(header) = self.header_at(file, chain.offset)? else { return Ok(None) };
        let continues =
            header.segment == chain.number() && header.prev_check == chain.check && header.first_position > chain.last;
        // No disk has so many records; nor may a number run over.
        let is_countable = header.first_position.0.checked_add(u64::from(header.records) + 1).is_some();
        if !continues || !is_countable {
            return Ok(None);
        }
        Ok(self.verified(file, chain.offset, &header)?.map(|(check, group)| (header, check, group)))
    }

    fn deliver<E>(
        &self,
        chain: &mut Chain,
        header: &GroupHeader,
        group: &Bytes,
        on_seen: &mut dyn FnMut(Seen) -> Result<(), E>,
    ) -> Result<(), ScanError<E>> {
        let mut at = header.first_position;
        on_seen(Seen::Group(chain.offset, *header)).map_err(|why| ScanError::Refused { at, why })?;
        let mut offset = GROUP_HEADER_BYTES;
        for _ in 0..header.records {
            let unreadable = |why| ScanError::Record { at, why };
            let (record, payload) = split_record(&group.slice(offset..)).map_err(unreadable)?;
            let len = RECORD_HEADER_BYTES + payload.len();
            chain.index.push(at, chain.offset + offset as u32, len as u32);
            if at >= self.superblock.journal_start {
                let record = Record::decode(&record, &payload).map_err(unreadable)?;
                let seen = Seen::Record { at, bytes: len as u32, record };
                on_seen(seen).map_err(|why| ScanError::Refused { at, why })?;
            }
            offset = (offset + len.next_multiple_of(RECORD_ALIGN)).min(group.len());
            at = at.next();
        }
        Ok(())
    }

    /// Tries every block behind the chain, and of every file off it.
    fn survey(&mut self, chain: &Chain) -> io::Result<Survey> {
        let mut survey = Survey::default();
        for file in self.files.clone() {
            let is_end = chain.segments.last().is_some_and(|end| end.file == file);
            let is_inside = chain.segments.iter().any(|segment| segment.file == file);
            if is_end {
                self.survey_file(file, chain.offset, chain, &mut survey)?;
            } else if !is_inside {
                self.survey_file(file, 0, chain, &mut survey)?;
            }
        }
        Ok(survey)
    }

    fn survey_file(&mut self, file: SegmentFile, from: u32, chain: &Chain, survey: &mut Survey) -> io::Result<()> {
        let mut offset = from;
        while offset < whole_blocks(file) {
            let mut step = BLOCK;
            if let Some(header) = self.header_at(file, offset)?
                && let Some((_, group)) = self.verified(file, offset, &header)?
            {
                survey.add(&header, Evidence::Group { file: file.file, offset }, chain.last);
                survey.has_leftover |=
                    chain.segments.last().is_some_and(|end| end.file == file && end.header.number == header.segment);
                step = group.len().next_multiple_of(BLOCK_BYTES) as u32;
            }
            offset += step;
        }
        Ok(())
    }

    fn judge<E>(self, chain: Chain, survey: &Survey) -> Result<Tail, ScanError<E>> {
        let superblock = self.superblock;
        let by_superblock = (superblock.durable_through, Evidence::Superblock);
        let by_superblock = Some(by_superblock).filter(|(through, _)| *through > chain.last);
        let proof = survey.proof.into_iter().chain(by_superblock).max_by_key(|(through, _)| *through);
        match mutant!(M37DamageCutOff, proof, None) {
            None => Ok(self.cut(chain, survey)),
            Some((durable_through, evidence)) => Err(ScanError::Damage(Damage {
                segment: chain.segments.last().map(|end| end.header.number),
                offset: chain.offset,
                last_good: chain.last,
                durable_through,
                evidence,
                fresh: Box::new(self.start_anew(&chain, survey)),
            })),
        }
    }

    /// Goes on behind the chain.
    fn cut(self, chain: Chain, survey: &Survey) -> Tail {
        let end = chain.segments.last();
        let newest = self.segments.last().map(|segment| segment.header.number);
        let must_open = survey.has_leftover || newest > end.map(|end| end.header.number);
        let resume = end.filter(|_| !must_open).map(|end| Resume {
            number: end.header.number,
            offset: chain.offset,
            end: whole_blocks(end.file),
        });
        let is_used = |file: &SegmentFile| chain.segments.iter().any(|segment| segment.file == *file);
        let before_start = self.superblock.journal_start.0.saturating_sub(1);
        Tail {
            chain_last: chain.last,
            check: chain.check,
            resume,
            next_number: self.next_number(survey),
            must_open,
            is_marked: chain.is_marked,
            last: chain.last.max(LogPosition(before_start)).max(self.superblock.durable_through),
            files: chain.segments.iter().map(|segment| (segment.file.file, segment.header.number)).collect(),
            free: self.files.iter().filter(|file| !is_used(file)).map(|file| file.file).collect(),
            index: chain.index,
        }
    }

    /// Leaves everything behind.
    fn start_anew(&self, chain: &Chain, survey: &Survey) -> Tail {
        let before_start = self.superblock.journal_start.0.saturating_sub(1);
        let seen = [chain.last, survey.last, self.superblock.durable_through, LogPosition(before_start)];
        let last = seen.into_iter().max().expect("there are four");
        Tail {
            chain_last: last,
            check: Check::NONE,
            resume: None,
            next_number: self.next_number(survey),
            must_open: true,
            is_marked: false,
            index: Index::default(),
            last,
            files: Vec::new(),
            free: self.files.iter().map(|file| file.file).collect(),
        }
    }

    /// A number that no segment, group or file has.
    fn next_number(&self, survey: &Survey) -> u32 {
        let segments = self.segments.iter().map(|segment| segment.header.number);
        let highest = segments.chain(self.files.iter().map(|file| file.file)).max().unwrap_or(0);
        highest.max(survey.number).checked_add(1).expect("2^32 segments are never written")
    }

    /// What looks like a group's header there.
    fn header_at(&mut self, file: SegmentFile, offset: u32) -> io::Result<Option<GroupHeader>> {
        let Some(block) = self.window.block(file, offset)? else { return Ok(None) };
        Ok(GroupHeader::parse(&self.seal, block))
    }

    /// The group there, if its check is right.
    fn verified(&mut self, file: SegmentFile, offset: u32, header: &GroupHeader) -> io::Result<Option<(Check, Bytes)>> {
        let len = GROUP_HEADER_BYTES + header.bytes as usize;
        let Some(group) = self.window.copy(file, offset, len)? else { return Ok(None) };
        Ok(GroupHeader::verify(&self.seal, &group).map(|check| (check, Bytes::from(group))))
    }
}

impl Chain {
    fn enter<E>(
        &mut self,
        segment: Segment,
        on_seen: &mut dyn FnMut(Seen) -> Result<(), E>,
    ) -> Result<(), ScanError<E>> {
        let at = segment.header.first_position;
        self.index.start(segment.header.number, at);
        self.segments.push(segment);
        self.offset = BLOCK;
        on_seen(Seen::Segment(segment.file, segment.header)).map_err(|why| ScanError::Refused { at, why })
    }

    fn follow(&mut self, header: &GroupHeader, check: Check) {
        self.is_marked = header.records == 0 && header.durable_through == header.last_position();
        self.last = header.last_position();
        self.check = check;
        self.offset += (GROUP_HEADER_BYTES as u32 + header.bytes).next_multiple_of(BLOCK);
    }

    fn end(&self) -> &Segment {
        self.segments.last().expect("the chain was entered")
    }

    fn number(&self) -> u32 {
        self.end().header.number
    }
}

impl Survey {
    fn add(&mut self, header: &GroupHeader, evidence: Evidence, chain_last: LogPosition) {
        self.last = self.last.max(header.last_position());
        self.number = self.number.max(header.segment);
        let claim = header.durable_through;
        let proves = mutant!(M58LaterGroupProves, claim > chain_last, header.last_position() > chain_last);
        if proves && self.proof.is_none_or(|(highest, _)| claim > highest) {
            self.proof = Some((claim, evidence));
        }
    }
}

fn whole_blocks(file: SegmentFile) -> u32 {
    file.bytes / BLOCK * BLOCK
}

/// A part of one file in memory, moved along as it is read.
struct Window<'a> {
    blocks: &'a mut dyn Blocks,
    file: Option<u32>,
    start: u32,
    bytes: BlockBuf,
}

impl<'a> Window<'a> {
    fn new(blocks: &'a mut dyn Blocks) -> Self {
        Self { blocks, file: None, start: 0, bytes: BlockBuf::with_capacity(0) }
    }

    /// The block at `offset`; `None`: the file ends before its end.
    fn block(&mut self, file: SegmentFile, offset: u32) -> io::Result<Option<&[u8]>> {
        if offset >= whole_blocks(file) {
            return Ok(None);
        }
        let rest = self.ahead(file, offset)?;
        Ok(Some(&rest[..BLOCK_BYTES]))
    }

    /// `len` bytes from `offset`, a block's start; `None`: the file ends before.
    fn copy(&mut self, file: SegmentFile, offset: u32, len: usize) -> io::Result<Option<Vec<u8>>> {
        if len > (whole_blocks(file) - offset) as usize {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let rest = self.ahead(file, offset + out.len() as u32)?;
            out.extend_from_slice(&rest[..rest.len().min(len - out.len())]);
        }
        Ok(Some(out))
    }

    /// At least one block from `offset`, a block's start inside of the file.
    fn ahead(&mut self, file: SegmentFile, offset: u32) -> io::Result<&[u8]> {
        let is_inside =
            self.file == Some(file.file) && (self.start..self.start + self.bytes.len() as u32).contains(&offset);
        if !is_inside {
            let len = WINDOW_BYTES.min((whole_blocks(file) - offset) as usize);
            self.file = None;
            self.bytes.clear();
            self.bytes.put_zeros(len);
            self.blocks.read(file.file, offset, &mut self.bytes)?;
            (self.file, self.start) = (Some(file.file), offset);
        }
        Ok(&self.bytes[(offset - self.start) as usize..])
    }
}
