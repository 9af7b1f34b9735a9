//! A disk that can lose, finish or tear what was not flushed, and a shell that moves the journal's blocks onto it.
//! Nothing here knows the format: it sees files, writes and flushes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bft_core::door::{Persist, Place};
use bft_core::ids::{ClusterId, Digest, Epoch, LogPosition, PublicKey, ReplicaId, Seq, Signature, View};
use bft_core::journal::record::{Committed, Vote};
use bft_core::journal::superblock::Directory;
use bft_core::journal::{
    Blocks, Journal, JournalOptions, Record, SUPERBLOCK_FILE_BYTES, ScanError, SegmentFile, Superblock, Tail, Target,
    Ticket, read_superblock, scan,
};
use bft_core::wire::message::{Ballot, BatchHeader, CommitCertificate, Position};
use bytes::Bytes;

/// What is lost or torn at once.
pub const SECTOR: usize = 512;

pub const OPTIONS: JournalOptions =
    JournalOptions { segment_bytes: 64 << 10, group_bytes_max: 12 << 10, flushes_in_flight: 4 };

/// Journal records and their positions.
pub type Records = Vec<(LogPosition, Record)>;

/// What becomes of a write that was not flushed when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Whole,
    /// The first sectors arrive.
    Head(usize),
    /// The last sectors arrive.
    Rest(usize),
    /// Every second sector arrives.
    Odd,
}

impl Fate {
    /// Every fate of a write of `bytes`.
    pub fn all(bytes: usize) -> Vec<Self> {
        let sectors = bytes / SECTOR;
        let torn = (1..sectors).flat_map(|n| [Self::Head(n), Self::Rest(n)]);
        [Self::Lost, Self::Whole, Self::Odd].into_iter().chain(torn).collect()
    }

    fn keeps(self, sector: usize, sectors: usize) -> bool {
        match self {
            Self::Lost => false,
            Self::Whole => true,
            Self::Head(n) => sector < n,
            Self::Rest(n) => sector >= sectors - n,
            Self::Odd => sector % 2 == 1,
        }
    }
}

#[derive(Clone)]
pub struct Pending {
    pub ticket: Ticket,
    pub target: Target,
    pub bytes: Vec<u8>,
}

/// What is on stable storage.
#[derive(Clone, Default)]
pub struct Disk {
    pub files: BTreeMap<u32, Vec<u8>>,
    pub superblock: Vec<u8>,
    /// Every read of these fails.
    pub unreadable: Option<u32>,
}

impl Disk {
    pub fn new() -> Self {
        Self { superblock: first_superblock().encode_file().to_vec(), ..Self::default() }
    }

    pub fn apply(&mut self, write: &Pending, fate: Fate) {
        let (file, offset) = match write.target {
            Target::Segment { number, offset, .. } => {
                (self.files.get_mut(&number).expect("made before the write"), offset as usize)
            }
            Target::Superblock { copies } => (&mut self.superblock, copies[0] as usize * 4096),
        };
        let sectors = write.bytes.len() / SECTOR;
        for sector in (0..sectors).filter(|sector| fate.keeps(*sector, sectors)) {
            let at = sector * SECTOR;
            file[offset + at..offset + at + SECTOR].copy_from_slice(&write.bytes[at..at + SECTOR]);
        }
    }

    /// Every byte of every file up to its last one that is not zero, as (file, offset).
    pub fn used_bytes(&self) -> Vec<(u32, usize)> {
        let used = |(file, bytes): (&u32, &Vec<u8>)| {
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            (0..end).map(|at| (*file, at)).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(used).collect()
    }

    /// The superblock, repaired, as a start does it.
    pub fn start(&mut self) -> Superblock {
        let (superblock, repair) = read_superblock(&self.superblock).expect("two copies are equal");
        for copy in repair.copies {
            let at = copy as usize * 4096;
            self.superblock[at..at + 4096].copy_from_slice(&repair.block);
        }
        assert_eq!(self.superblock.len(), SUPERBLOCK_FILE_BYTES);
        superblock
    }

    /// What a start reads.
    pub fn scan(&mut self) -> Result<(Tail, Records), ScanError<io::Error>> {
        let superblock = read_superblock(&self.superblock).expect("two copies are equal").0;
        let mut records = Vec::new();
        let tail = scan(&superblock, self, &mut |at, record| {
            records.push((at, record));
            Ok(())
        })?;
        Ok((tail, records))
    }
}

impl Blocks for Disk {
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        let of = |(file, bytes): (&u32, &Vec<u8>)| SegmentFile { file: *file, bytes: bytes.len() as u32 };
        Ok(self.files.iter().map(of).collect())
    }

    fn read(&mut self, file: u32, offset: u32, out: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(4096) && out.len().is_multiple_of(4096));
        assert!(out.as_ptr().addr().is_multiple_of(4096), "O_DIRECT needs aligned memory");
        if self.unreadable == Some(file) {
            return Err(io::Error::other("medium error"));
        }
        let offset = offset as usize;
        out.copy_from_slice(&self.files[&file][offset..offset + out.len()]);
        Ok(())
    }
}

/// A process: a journal, the disk below it, and what it handed over so far.
pub struct Shell {
    pub disk: Disk,
    pub journal: Journal,
    pub pending: Vec<Pending>,
    /// Every journal record that must be found again, if it was durable.
    pub records: Records,
    pub last: LogPosition,
    pub superblock: Superblock,
    free: Vec<u32>,
    /// Blocks of segments that were submitted.
    written: BTreeSet<(u32, u32)>,
}

impl Shell {
    pub fn start(mut disk: Disk) -> Result<Self, ScanError<io::Error>> {
        let superblock = disk.start();
        let (tail, records) = disk.scan()?;
        Ok(Self::with(disk, superblock, tail, records))
    }

    pub fn with(mut disk: Disk, superblock: Superblock, tail: Tail, records: Records) -> Self {
        let (last, free) = (tail.last(), rename(&mut disk, &tail));
        let journal = Journal::new(&superblock, tail, OPTIONS);
        Self { disk, journal, pending: Vec::new(), records, last, superblock, free, written: BTreeSet::new() }
    }

    pub fn append(&mut self, record: Record) -> LogPosition {
        self.last = self.last.next();
        self.records.push((self.last, record.clone()));
        self.journal.append(Persist { position: self.last, place: Place::Journal(record) });
        self.last
    }

    pub fn append_superblock(&mut self, change: impl FnOnce(&mut Superblock)) -> LogPosition {
        self.last = self.last.next();
        change(&mut self.superblock);
        let place = Place::Superblock(Box::new(self.superblock.clone()));
        self.journal.append(Persist { position: self.last, place });
        self.last
    }

    /// Submits what the journal has to write.
    pub fn submit(&mut self) {
        while let Some(write) = self.journal.next_write() {
            assert!(write.bytes.as_ptr().addr().is_multiple_of(4096) && write.bytes.len().is_multiple_of(4096));
            if let Target::Segment { number, offset, is_new } = write.target {
                assert_eq!(is_new, offset == 0);
                self.make_file(number, is_new);
                for block in (offset..offset + write.bytes.len() as u32).step_by(4096) {
                    assert!(self.written.insert((number, block)), "no block is written twice (D13)");
                }
            }
            self.pending.push(Pending { ticket: write.ticket, target: write.target, bytes: write.bytes.to_vec() });
            self.journal.recycle(write.bytes);
        }
    }

    /// One of the pending writes and its flush are done.
    pub fn complete(&mut self, at: usize) {
        let write = self.pending.remove(at);
        self.disk.apply(&write, Fate::Whole);
        self.journal.written(write.ticket);
    }

    /// Submits and completes until nothing is left, whether anybody waits for it or not.
    pub fn settle(&mut self) {
        self.journal.hurry();
        self.submit();
        while !self.pending.is_empty() {
            self.complete(0);
            self.submit();
        }
    }

    pub fn drop_below(&mut self, at: LogPosition) -> usize {
        let numbers = self.journal.drop_below(at);
        let count = numbers.len();
        self.free.extend(numbers);
        count
    }

    /// The power fails: pending write i meets fate i.
    pub fn crash(&self, fates: &[Fate]) -> Disk {
        let mut disk = self.disk.clone();
        for (write, fate) in self.pending.iter().zip(fates) {
            disk.apply(write, *fate);
        }
        disk
    }

    /// Every combination of fates of the pending writes.
    pub fn crashes(&self) -> Vec<Vec<Fate>> {
        self.pending.iter().fold(vec![Vec::new()], |tuples, write| {
            let fates = Fate::all(write.bytes.len());
            tuples.iter().flat_map(|tuple| fates.iter().map(|fate| [&tuple[..], &[*fate]].concat())).collect()
        })
    }

    /// What `disk`, the outcome of a crash of this shell, must give: a prefix of the records that reaches `durable`.
    pub fn check_recovered(&self, found: &[(LogPosition, Record)]) {
        let expected = self.records.iter().filter(|(at, _)| *at >= self.superblock.journal_start);
        let expected = Vec::from_iter(expected.cloned());
        assert!(expected.starts_with(found), "only what was appended, in order");
        let durable = expected.iter().filter(|(at, _)| *at <= self.journal.durable()).count();
        assert!(found.len() >= durable, "{} records found, {durable} were durable", found.len());
    }

    fn make_file(&mut self, number: u32, is_new: bool) {
        if is_new {
            let recycled = self.free.pop().and_then(|file| self.disk.files.remove(&file));
            let bytes = recycled.unwrap_or_else(|| vec![0; OPTIONS.segment_bytes as usize]);
            let other = self.disk.files.insert(number, bytes);
            assert!(other.is_none(), "the number of a segment is never used twice");
        }
    }
}

/// The same records; says which positions differ, not what they hold.
pub fn assert_same(found: &[(LogPosition, Record)], expected: &[(LogPosition, Record)], context: impl std::fmt::Debug) {
    let positions = |records: &[(LogPosition, Record)]| Vec::from_iter(records.iter().map(|(at, _)| at.0));
    assert_eq!(positions(found), positions(expected), "{context:?}");
    assert!(found == expected, "{context:?}: a record changed");
}

/// Names the files by what they hold, and says which are free.
fn rename(disk: &mut Disk, tail: &Tail) -> Vec<u32> {
    let mut files = std::mem::take(&mut disk.files);
    for (file, number) in tail.files() {
        disk.files.insert(*number, files.remove(file).expect("the scan saw it"));
    }
    for file in tail.free() {
        let name = (*file..).find(|name| !disk.files.contains_key(name)).expect("there are 2^32 names");
        disk.files.insert(name, files.remove(file).expect("the scan saw it"));
    }
    assert!(files.is_empty(), "every file is in use or free");
    let is_used = |name: &u32| tail.files().iter().any(|(_, number)| number == name);
    disk.files.keys().copied().filter(|name| !is_used(name)).collect()
}

pub fn first_superblock() -> Superblock {
    Superblock::first(&Directory {
        cluster_id: ClusterId([1; 32]),
        replica: ReplicaId(2),
        public_key: PublicKey([3; 32]),
        epoch: Epoch(0),
        directory_id: [4; 16],
        directory_key: [5; 32],
    })
}

/// A VOTE with a body of `bytes` bytes that tells it from others.
pub fn vote(seq: u64, bytes: usize) -> Record {
    let body = Bytes::from_iter((0..bytes).map(|at| (seq as usize * 31 + at) as u8));
    vote_with(seq, body)
}

pub fn vote_with(seq: u64, body: Bytes) -> Record {
    Record::Vote(Vote {
        position: Position { epoch: Epoch(0), view: View(1), seq: Seq(seq), digest: Digest([seq as u8; 32]) },
        proposal: Ballot { commitment: Digest([6; 32]), signature: Signature([7; 64]) },
        header: BatchHeader {
            time_ns: seq * 1000,
            count: 1,
            body_len: body.len() as u32,
            merkle_root: Digest([8; 32]),
            flags: 0,
        },
        body: Some(body),
    })
}

/// A commit certificate: a record that nobody waits for.
pub fn committed(seq: u64, body: Option<Bytes>) -> Record {
    let Record::Vote(Vote { position, proposal, header, .. }) = vote_with(seq, Bytes::new()) else {
        unreachable!("it is a vote")
    };
    let certificate = CommitCertificate { position, header, proposal, opening: None, commits: Vec::new() };
    Record::Committed(Committed { certificate: Arc::new(certificate), body })
}
