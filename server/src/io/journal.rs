//! The journal's disk: blocks to it and back. What is written when is `bft_core::journal`'s; who carries the blocks is a
//! [`Device`] of the driver's, which says with the executor's bell that some have come back.
//!
//! Kept here: a write counts when it was whole and made durable (D3); the first error is the last thing that is said (D2),
//! and nothing is tried twice.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bft_core::ids::LogPosition;
use bft_core::journal::{BlockBuf, Extent, Record, Target, Ticket, Write, read_record};
use bytes::Bytes;

use crate::clock;
use crate::error::ServerError;
use crate::io::probe::WritePath;
use crate::io::segments::{JournalFile, Segments};
use crate::pace::OnceASecond;

/// Reads that a device is given at a time; others wait.
const READS_MAX: usize = 16;

/// What the disk has done.
#[allow(clippy::large_enum_variant, reason = "few are kept at a time, and boxing them would allocate")]
#[derive(Debug)]
pub enum Completed {
    /// A write is durable.
    Written {
        /// Which.
        ticket: Ticket,
        /// Its memory, for `Journal::recycle`.
        bytes: BlockBuf,
    },
    /// A record was read back; `None`: it is not readable.
    Read {
        /// Where it is.
        at: LogPosition,
        /// The record.
        record: Option<Record>,
    },
}

/// Blocks on their way to the disk or back.
#[derive(Debug)]
pub struct Flight {
    /// What for.
    pub aim: Aim,
    /// Their memory.
    pub bytes: BlockBuf,
    /// The file.
    pub file: Arc<JournalFile>,
    /// Where in it.
    pub offset: u64,
}

/// What a flight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// To be made durable.
    Write(Ticket),
    /// To be read.
    Read {
        /// Which record.
        at: LogPosition,
        /// Where it lies.
        extent: Extent,
    },
}

/// A flight that is over.
#[derive(Debug)]
pub struct Landed {
    /// With its memory.
    pub flight: Flight,
    /// So many bytes were read, or written and, if all of them were, made durable.
    pub outcome: Result<usize, DiskError>,
}

/// What failed.
#[derive(Debug)]
pub struct DiskError {
    /// Of a flight.
    pub what: &'static str,
    /// What the system says.
    pub source: io::Error,
}

impl DiskError {
    /// For `map_err`.
    pub fn of(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { what, source }
    }
}

/// Who carries blocks. Flights may land in any order; it keeps their memory until they have.
pub trait Device {
    /// Takes a flight. It begins with the next [`Device::submit`].
    fn take(&mut self, flight: Flight);
    /// Begins all that were taken.
    fn submit(&mut self) -> Result<(), ServerError>;
    /// One that has landed since it was asked last.
    fn landed(&mut self) -> Result<Option<Landed>, ServerError>;
}

/// The journal's files and superblock, and the device between them and the core.
pub struct JournalDisk {
    device: Box<dyn Device>,
    segments: Segments,
    superblock: Arc<JournalFile>,
    /// Waits for a segment's file to be made.
    held: Option<Write>,
    telling: OnceASecond,
    reads: VecDeque<(LogPosition, Extent)>,
    reading: usize,
    writing: usize,
}

impl JournalDisk {
    /// Opens the superblock's file.
    pub fn open(
        device: Box<dyn Device>,
        way: WritePath,
        segments: Segments,
        superblock: PathBuf,
    ) -> Result<Self, ServerError> {
        let file = way.open(&superblock).map_err(|source| ServerError::JournalIo {
            what: "open",
            path: superblock.clone(),
            source,
        })?;
        let superblock = Arc::new(JournalFile { file, path: superblock });
        Ok(Self {
            device,
            segments,
            superblock,
            held: None,
            telling: OnceASecond::default(),
            reads: VecDeque::new(),
            reading: 0,
            writing: 0,
        })
    }

    /// Whether the next write may be handed in: none waits for a file.
    pub fn is_ready(&mut self) -> Result<bool, ServerError> {
        if let Some(write) = self.held.take() {
            self.write(write)?;
        }
        Ok(self.held.is_none())
    }

    /// Hands in a write. It begins with [`Self::submit`].
    pub fn write(&mut self, write: Write) -> Result<(), ServerError> {
        assert!(self.held.is_none(), "writes are handed in when the disk is ready");
        let (file, offset) = match write.target {
            Target::Superblock { copies } => (self.superblock.clone(), u64::from(copies[0]) * 4096),
            Target::Segment { number, offset, is_new } => match self.segments.file(number, is_new)? {
                Some(file) => (file, u64::from(offset)),
                None => {
                    // Each turn of the executor comes here again.
                    if self.telling.is_due(clock::now().mono).is_some() {
                        tracing::warn!(
                            segment = number,
                            "the journal waits for a new segment to be written full of zeros"
                        );
                    }
                    self.held = Some(write);
                    return Ok(());
                }
            },
        };
        self.writing += 1;
        self.device.take(Flight { aim: Aim::Write(write.ticket), bytes: write.bytes, file, offset });
        Ok(())
    }

    /// Asks for a record. It is read after [`Self::submit`].
    pub fn read(&mut self, at: LogPosition, extent: Extent) {
        self.reads.push_back((at, extent));
    }

    /// Files of segments that are needed no more.
    pub fn recycle(&mut self, segments: impl IntoIterator<Item = u32>) -> Result<(), ServerError> {
        segments.into_iter().try_for_each(|number| self.segments.recycle(number))
    }

    /// Begins what was handed in.
    pub fn submit(&mut self) -> Result<(), ServerError> {
        while self.reading < READS_MAX
            && let Some((at, extent)) = self.reads.pop_front()
        {
            let file = self.segments.existing(extent.segment).expect("the journal names segments that it has");
            let (offset, len) = extent.blocks();
            let (bytes, offset) = (BlockBuf::zeroed(len as usize), u64::from(offset));
            self.reading += 1;
            self.device.take(Flight { aim: Aim::Read { at, extent }, bytes, file, offset });
        }
        self.device.submit()
    }

    /// What the disk has done since the last call.
    pub fn completed(&mut self, out: &mut Vec<Completed>) -> Result<(), ServerError> {
        while let Some(Landed { flight, outcome }) = self.device.landed()? {
            out.push(match flight.aim {
                Aim::Write(ticket) => self.written(flight, ticket, outcome)?,
                Aim::Read { at, extent } => self.read_back(flight, at, extent, outcome),
            });
        }
        Ok(())
    }

    /// Whether the disk has nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_none() && !self.has_flights()
    }

    /// Whether all that it has to do waits for room on the disk, which may never come.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.held.is_some() && !self.has_flights() && self.segments.lacks_room()
    }

    fn has_flights(&self) -> bool {
        !self.reads.is_empty() || self.reading > 0 || self.writing > 0
    }

    fn written(
        &mut self,
        flight: Flight,
        ticket: Ticket,
        outcome: Result<usize, DiskError>,
    ) -> Result<Completed, ServerError> {
        self.writing -= 1;
        let Flight { bytes, file, .. } = flight;
        let whole = outcome.and_then(|done| {
            let short = || io::Error::other(format!("{done} of {} bytes were written", bytes.len()));
            if done == bytes.len() { Ok(()) } else { Err(DiskError { what: "write", source: short() }) }
        });
        match whole {
            Ok(()) => Ok(Completed::Written { ticket, bytes }),
            Err(DiskError { what, source }) => Err(ServerError::JournalIo { what, path: file.path.clone(), source }),
        }
    }

    fn read_back(
        &mut self,
        flight: Flight,
        at: LogPosition,
        extent: Extent,
        outcome: Result<usize, DiskError>,
    ) -> Completed {
        self.reading -= 1;
        let Flight { bytes, file, .. } = flight;
        let record = outcome.map_err(|error| error.source).and_then(|done| record(bytes, done, extent));
        let record = record.inspect_err(|error| {
            tracing::warn!(position = at.0, path = %file.path.display(), %error, "a record is not readable");
        });
        Completed::Read { at, record: record.ok() }
    }
}

fn record(bytes: BlockBuf, done: usize, extent: Extent) -> io::Result<Record> {
    let (start, len) = extent.blocks();
    if done != len as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let from = (extent.offset - start) as usize;
    let bytes = Bytes::from_owner(bytes).slice(from..from + extent.len as usize);
    read_record(&bytes).map_err(|why| io::Error::other(why.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bft_core::door::{Persist, Place};
    use bft_core::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, Seq};
    use bft_core::journal::superblock::Directory;
    use bft_core::journal::{Journal, JournalOptions, SUPERBLOCK_FILE_BYTES, Superblock, read_superblock, scan};

    use super::*;
    use crate::io::Driver;
    use crate::io::doorbell::Doorbell;
    use crate::start::JournalFiles;

    const DRIVERS: [Driver; 2] = [Driver::Uring, Driver::Epoll];

    struct Disk {
        folder: tempfile::TempDir,
        superblock: Superblock,
        journal: Journal,
        disk: JournalDisk,
    }

    fn options() -> JournalOptions {
        JournalOptions { segment_bytes: 64 * 1024, ..JournalOptions::default() }
    }

    fn first_superblock() -> Superblock {
        Superblock::first(&Directory {
            cluster_id: ClusterId([1; 32]),
            replica: ReplicaId(0),
            public_key: PublicKey([2; 32]),
            epoch: Epoch(0),
            directory_id: [3; 16],
            directory_key: [4; 32],
        })
    }

    impl Disk {
        fn new(driver: Driver, way: WritePath, superblock_path: Option<PathBuf>) -> Self {
            let bell = Arc::new(Doorbell::new().unwrap());
            Self::with(driver.device(way, &bell).unwrap(), way, superblock_path)
        }

        fn with(device: Box<dyn Device>, way: WritePath, superblock_path: Option<PathBuf>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let superblock = first_superblock();
            let path = superblock_path.unwrap_or_else(|| folder.path().join("superblock"));
            if path.starts_with(folder.path()) {
                fs::write(&path, &*superblock.encode_file()).unwrap();
            }
            let mut files = JournalFiles::open(folder.path()).unwrap();
            let tail = scan(&superblock, &mut files, &mut |_, _| Ok::<_, ()>(())).unwrap();
            let bell = Arc::new(Doorbell::new().unwrap());
            let bytes = options().segment_bytes;
            let segments = Segments::open(folder.path(), way, bytes, vec![], vec![], bell).unwrap();
            let disk = JournalDisk::open(device, way, segments, path).unwrap();
            let journal = Journal::new(&superblock, tail, options());
            Self { folder, superblock, journal, disk }
        }

        fn append(&mut self, position: u64, place: Place) {
            self.journal.append(Persist { position: LogPosition(position), place });
        }

        fn run_until(&mut self, mut is_done: impl FnMut(&mut Self, Vec<Completed>) -> bool) -> Result<(), ServerError> {
            let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
            loop {
                while self.disk.is_ready()?
                    && let Some(write) = self.journal.next_write()
                {
                    self.disk.write(write)?;
                }
                self.disk.submit()?;
                let mut completed = Vec::new();
                self.disk.completed(&mut completed)?;
                if is_done(self, completed) {
                    return Ok(());
                }
                assert!(std::time::Instant::now() < until, "the disk does nothing");
                std::thread::yield_now();
            }
        }

        fn run_until_durable(&mut self, position: u64) -> Result<(), ServerError> {
            self.run_until(|disk, completed| {
                disk.take(completed);
                disk.journal.durable() >= LogPosition(position)
            })
        }

        fn take(&mut self, completed: Vec<Completed>) {
            for done in completed {
                let Completed::Written { ticket, bytes } = done else { panic!("{done:?}") };
                self.journal.written(ticket);
                self.journal.recycle(bytes);
            }
        }
    }

    fn vote(seq: u64) -> Record {
        Record::CkptVote { epoch: Epoch(0), seq: Seq(seq), root: Digest([seq as u8; 32]) }
    }

    #[test]
    fn what_is_written_is_read_back_and_found_by_the_next_start() {
        let ways = [WritePath::Buffered, WritePath::Fdatasync, WritePath::Dsync];
        for (driver, way) in DRIVERS.into_iter().flat_map(|driver| ways.map(|way| (driver, way))) {
            let mut disk = Disk::new(driver, way, None);
            for position in 1..=100 {
                // One group each, so that segments follow one another.
                disk.append(position, Place::Journal(vote(position)));
                disk.run_until_durable(position).unwrap();
            }
            let superblock = Superblock { journal_start: LogPosition(2), ..disk.superblock.clone() };
            disk.append(101, Place::Superblock(Box::new(superblock)));
            disk.run_until_durable(101).unwrap();

            let extent = disk.journal.locate(LogPosition(77)).unwrap();
            disk.disk.read(LogPosition(77), extent);
            disk.run_until(|_, mut completed| match completed.pop() {
                Some(Completed::Read { at, record }) => {
                    assert_eq!((at, record), (LogPosition(77), Some(vote(77))));
                    true
                }
                other => {
                    assert!(other.is_none(), "{other:?}");
                    false
                }
            })
            .unwrap();

            let file = fs::read(disk.folder.path().join("superblock")).unwrap();
            assert_eq!(file.len(), SUPERBLOCK_FILE_BYTES);
            let (superblock, repair) = read_superblock(&file).unwrap();
            assert!(repair.copies.is_empty() && superblock.journal_start == LogPosition(2));
            drop(disk.disk);
            let mut files = JournalFiles::open(disk.folder.path()).unwrap();
            let mut found = Vec::new();
            let tail = scan(&superblock, &mut files, &mut |at, record| {
                found.push((at.0, record));
                Ok::<_, ()>(())
            });
            assert!(found.iter().map(|(at, _)| *at).eq(2..=100), "{driver:?} {way:?}");
            assert!(tail.unwrap().files().len() > 3, "100 groups of two blocks need several segments of 16");
        }
    }

    /// Writes a superblock to `path`; nothing may be reported, and what failed is given back.
    fn fail(driver: Driver, path: &str) -> (&'static str, PathBuf) {
        let mut disk = Disk::new(driver, WritePath::Buffered, Some(path.into()));
        disk.append(1, Place::Superblock(Box::new(first_superblock())));
        let error = disk.run_until_durable(1).unwrap_err();
        assert_eq!(disk.journal.durable(), LogPosition(0), "nothing is reported");
        let ServerError::JournalIo { what, path, .. } = error else { panic!("{error}") };
        (what, path)
    }

    #[test]
    fn d2_a_failed_write_is_the_end() {
        for driver in DRIVERS {
            assert_eq!(fail(driver, "/dev/full"), ("write", "/dev/full".into()));
        }
    }

    #[test]
    fn d2_a_failed_flush_is_the_end() {
        for driver in DRIVERS {
            // It takes every write, and has nothing to flush.
            assert_eq!(fail(driver, "/dev/null"), ("flush", "/dev/null".into()));
        }
    }

    /// Writes half of what it is given.
    #[derive(Default)]
    struct Half(Vec<Flight>);

    impl Device for Half {
        fn take(&mut self, flight: Flight) {
            self.0.push(flight);
        }

        fn submit(&mut self) -> Result<(), ServerError> {
            Ok(())
        }

        fn landed(&mut self) -> Result<Option<Landed>, ServerError> {
            let landed = |flight: Flight| Landed { outcome: Ok(flight.bytes.len() / 2), flight };
            Ok(self.0.pop().map(landed))
        }
    }

    #[test]
    fn a_full_disk_is_waited_for_and_says_that_it_may_be_for_ever() {
        let mut disk = Disk::new(Driver::Epoll, WritePath::Buffered, None);
        let has_room = disk.disk.segments.fill_disk(disk.folder.path());
        let mut position = 0;
        disk.run_until(|disk, completed| {
            disk.take(completed);
            if disk.journal.is_idle() {
                // One group each, up to the end of the segment.
                position += 1;
                disk.append(position, Place::Journal(vote(position)));
            }
            disk.disk.waits_for_room()
        })
        .unwrap();
        let durable = disk.journal.durable();
        assert_eq!(durable, LogPosition(position - 1), "what the segment had room for");
        assert!(position > 2);
        has_room.store(true, std::sync::atomic::Ordering::Relaxed);
        disk.run_until_durable(position).unwrap();
        assert!(!disk.disk.waits_for_room());
    }

    #[test]
    fn d3_a_short_write_is_the_end() {
        let mut disk = Disk::with(Box::new(Half::default()), WritePath::Buffered, None);
        disk.append(1, Place::Journal(vote(1)));
        let error = disk.run_until_durable(1).unwrap_err();
        assert!(matches!(&error, ServerError::JournalIo { what: "write", .. }), "{error}");
        assert!(error.to_string().contains("4096 of 8192 bytes were written"), "{error}");
        assert_eq!(disk.journal.durable(), LogPosition(0), "nothing is reported");
    }

    #[test]
    fn a_record_that_can_not_be_read_is_said_to_be_unreadable() {
        for driver in DRIVERS {
            let mut disk = Disk::new(driver, WritePath::Buffered, None);
            disk.append(1, Place::Journal(vote(1)));
            disk.run_until_durable(1).unwrap();
            let extent = disk.journal.locate(LogPosition(1)).unwrap();
            let path = crate::io::segments::segment_files(disk.folder.path()).unwrap().remove(0);
            let mut bytes = fs::read(&path).unwrap();
            bytes[extent.offset as usize] = 0xff;
            fs::write(&path, bytes).unwrap();
            disk.disk.read(LogPosition(1), extent);
            disk.run_until(|_, mut completed| match completed.pop() {
                Some(Completed::Read { record, .. }) => {
                    assert_eq!(record, None);
                    true
                }
                other => {
                    assert!(other.is_none(), "{other:?}");
                    false
                }
            })
            .unwrap();
        }
    }
}
