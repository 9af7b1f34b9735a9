//! The journal's own ring: blocks to the disk and back. Writes go out linked to their flush, several at a time;
//! completions ring the executor's bell. What is written when is `bft_core::journal`'s; nothing here is tried twice.
//!
//! Kept here: memory that the kernel may still read or fill is neither moved nor freed (see `Drop`); a write counts when
//! it was whole and its flush has succeeded (D3); the first error is the last thing this ring says (D2).

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::rc::Rc;

use bft_core::ids::LogPosition;
use bft_core::journal::{BlockBuf, Extent, Record, Target, Ticket, Write, read_record};
use bytes::Bytes;
use io_uring::{IoUring, cqueue, opcode, types};

use crate::error::{IoUringRefused, ServerError};
use crate::io::doorbell::Doorbell;
use crate::io::probe::WritePath;
use crate::io::segments::{JournalFile, Segments};

/// Entries of the ring: far more than groups in flight, superblocks and reads need.
const ENTRIES: u32 = 64;
/// Reads that the ring takes at a time; others wait.
const READS_MAX: usize = 16;

/// What the ring has done.
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

enum Flight {
    Write { ticket: Ticket, bytes: BlockBuf, file: Rc<JournalFile>, left: u8 },
    Read { at: LogPosition, bytes: BlockBuf, file: Rc<JournalFile>, extent: Extent },
}

/// Tags the completion of a flush; the rest of the tag is the flight's place.
const FLUSH: u64 = 1 << 63;

/// The ring, and the files it writes to.
pub struct JournalRing {
    ring: IoUring,
    way: WritePath,
    segments: Segments,
    superblock: Rc<JournalFile>,
    flights: Vec<Option<Flight>>,
    /// Waits for a segment's file to be made.
    held: Option<Write>,
    reads: Vec<(LogPosition, Extent)>,
    reading: usize,
    is_pushed: bool,
}

impl JournalRing {
    /// A ring that rings `bell`.
    pub fn new(way: WritePath, segments: Segments, superblock: PathBuf, bell: &Doorbell) -> Result<Self, ServerError> {
        let refused = |what| move |source| ServerError::from(IoUringRefused { what, source });
        let ring = IoUring::new(ENTRIES).map_err(refused("io_uring_setup for the journal"))?;
        ring.submitter().register_eventfd(bell.event().as_raw_fd()).map_err(refused("IORING_REGISTER_EVENTFD"))?;
        let opened = way.open(&superblock);
        let file =
            opened.map_err(|source| ServerError::JournalIo { what: "open", path: superblock.clone(), source })?;
        let superblock = Rc::new(JournalFile { file, path: superblock });
        let (flights, reads) = (Vec::new(), Vec::new());
        Ok(Self { ring, way, segments, superblock, flights, held: None, reads, reading: 0, is_pushed: false })
    }

    /// Whether the next write may be handed in: none waits for a file.
    pub fn is_ready(&mut self) -> Result<bool, ServerError> {
        if let Some(write) = self.held.take() {
            self.write(write)?;
        }
        Ok(self.held.is_none())
    }

    /// Hands in a write. Goes to the kernel with [`Self::submit`].
    pub fn write(&mut self, write: Write) -> Result<(), ServerError> {
        assert!(self.held.is_none(), "writes are handed in when the ring is ready");
        let (file, offset) = match write.target {
            Target::Superblock { copies } => (self.superblock.clone(), u64::from(copies[0]) * 4096),
            Target::Segment { number, offset, is_new } => match self.segments.file(number, is_new)? {
                Some(file) => (file, u64::from(offset)),
                None => {
                    tracing::warn!(segment = number, "the journal waits for a new segment to be written full of zeros");
                    self.held = Some(write);
                    return Ok(());
                }
            },
        };
        let Write { ticket, bytes, .. } = write;
        let place = self.free_place();
        let len = u32::try_from(bytes.len()).expect("a write lies in one segment");
        let (first, flush) =
            self.way.entries(&file.file, (bytes.as_ptr(), len), offset, (place as u64, place as u64 | FLUSH));
        let left = 1 + u8::from(flush.is_some());
        self.flights[place] = Some(Flight::Write { ticket, bytes, file, left });
        for entry in std::iter::once(first).chain(flush) {
            // SAFETY: the flight keeps the memory and the file until the completions of both entries are seen; `bytes`
            // owns its memory on the heap, so moving the flight does not move it.
            unsafe { self.ring.submission().push(&entry) }.expect("the ring holds more than may be in flight");
        }
        self.is_pushed = true;
        Ok(())
    }

    /// Asks for a record. Goes to the kernel with [`Self::submit`].
    pub fn read(&mut self, at: LogPosition, extent: Extent) {
        self.reads.push((at, extent));
    }

    /// Files of segments that are needed no more.
    pub fn recycle(&mut self, segments: impl IntoIterator<Item = u32>) -> Result<(), ServerError> {
        segments.into_iter().try_for_each(|number| self.segments.recycle(number))
    }

    /// Gives the kernel what was handed in.
    pub fn submit(&mut self) -> Result<(), ServerError> {
        while self.reading < READS_MAX
            && let Some((at, extent)) = self.reads.pop()
        {
            self.push_read(at, extent);
        }
        if std::mem::take(&mut self.is_pushed) {
            self.ring.submit().map_err(|source| self.failed("submit to", &self.superblock.path, source))?;
        }
        Ok(())
    }

    /// What the kernel has done since the last call.
    pub fn completed(&mut self, out: &mut Vec<Completed>) -> Result<(), ServerError> {
        while let Some(entry) = self.next_entry() {
            self.complete(&entry, out)?;
        }
        Ok(())
    }

    /// Whether the kernel has anything to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held.is_none() && self.flights.iter().all(Option::is_none)
    }

    fn next_entry(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn complete(&mut self, entry: &cqueue::Entry, out: &mut Vec<Completed>) -> Result<(), ServerError> {
        let is_flush = entry.user_data() & FLUSH != 0;
        let place = (entry.user_data() & !FLUSH) as usize;
        let result = u32::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        match self.flights[place].as_mut().expect("a completion belongs to a flight") {
            Flight::Write { bytes, file, left, .. } => {
                *left -= 1;
                let (is_last, path) = (*left == 0, file.path.clone());
                let expected = if is_flush { 0 } else { bytes.len() };
                // Also a failed one is over when its last entry is: nobody would wait for it in vain.
                let landed = if is_last { self.flights[place].take() } else { None };
                match result {
                    Ok(done) if done as usize == expected => {}
                    Ok(done) => {
                        let short = io::Error::other(format!("{done} of {expected} bytes were written"));
                        return Err(self.failed("write", &path, short));
                    }
                    Err(error) => return Err(self.failed(if is_flush { "flush" } else { "write" }, &path, error)),
                }
                if let Some(Flight::Write { ticket, bytes, .. }) = landed {
                    out.push(Completed::Written { ticket, bytes });
                }
            }
            Flight::Read { .. } => {
                let Some(Flight::Read { at, bytes, file, extent }) = self.flights[place].take() else {
                    unreachable!("just seen there")
                };
                self.reading -= 1;
                let record = result.and_then(|done| read_back(bytes, done as usize, extent));
                let record = record.inspect_err(|error| {
                    tracing::warn!(position = at.0, path = %file.path.display(), %error, "a record is not readable");
                });
                out.push(Completed::Read { at, record: record.ok() });
            }
        }
        Ok(())
    }

    fn push_read(&mut self, at: LogPosition, extent: Extent) {
        let file = self.segments.existing(extent.segment).expect("the journal names segments that it has");
        let (offset, len) = extent.blocks();
        let mut bytes = BlockBuf::zeroed(len as usize);
        let place = self.free_place();
        let fd = types::Fd(file.file.as_raw_fd());
        let entry =
            opcode::Read::new(fd, bytes.as_mut_ptr(), len).offset(offset.into()).build().user_data(place as u64);
        self.flights[place] = Some(Flight::Read { at, bytes, file, extent });
        // SAFETY: as for writes.
        unsafe { self.ring.submission().push(&entry) }.expect("the ring holds more than may be in flight");
        self.reading += 1;
        self.is_pushed = true;
    }

    fn free_place(&mut self) -> usize {
        self.flights.iter().position(Option::is_none).unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        })
    }

    fn failed(&self, what: &'static str, path: &std::path::Path, source: io::Error) -> ServerError {
        ServerError::JournalIo { what, path: path.to_owned(), source }
    }
}

impl Drop for JournalRing {
    /// The kernel may still use the memory of what is in flight: it is waited for, and given up where that fails.
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.flights.iter().any(Option::is_some) {
            if self.ring.submit_and_wait(1).is_err() {
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            while let Some(entry) = self.next_entry() {
                let place = (entry.user_data() & !FLUSH) as usize;
                let is_over = match &mut self.flights[place] {
                    Some(Flight::Write { left, .. }) => {
                        *left -= 1;
                        *left == 0
                    }
                    Some(Flight::Read { .. }) => true,
                    None => false,
                };
                if is_over {
                    done.extend(self.flights[place].take());
                }
            }
        }
    }
}

fn read_back(bytes: BlockBuf, done: usize, extent: Extent) -> io::Result<Record> {
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
    use std::sync::Arc;

    use bft_core::door::{Persist, Place};
    use bft_core::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, Seq};
    use bft_core::journal::superblock::Directory;
    use bft_core::journal::{Journal, JournalOptions, SUPERBLOCK_FILE_BYTES, Superblock, read_superblock, scan};

    use super::*;
    use crate::start::JournalFiles;

    struct Disk {
        folder: tempfile::TempDir,
        superblock: Superblock,
        journal: Journal,
        ring: JournalRing,
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
        fn new(way: WritePath, superblock_path: Option<PathBuf>) -> Self {
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
            let segments = Segments::open(folder.path(), way, bytes, vec![], vec![], bell.clone()).unwrap();
            let ring = JournalRing::new(way, segments, path, &bell).unwrap();
            let journal = Journal::new(&superblock, tail, options());
            Self { folder, superblock, journal, ring }
        }

        fn append(&mut self, position: u64, place: Place) {
            self.journal.append(Persist { position: LogPosition(position), place });
        }

        fn run_until(&mut self, mut is_done: impl FnMut(&mut Self, Vec<Completed>) -> bool) -> Result<(), ServerError> {
            let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
            loop {
                while self.ring.is_ready()?
                    && let Some(write) = self.journal.next_write()
                {
                    self.ring.write(write)?;
                }
                self.ring.submit()?;
                let mut completed = Vec::new();
                self.ring.completed(&mut completed)?;
                if is_done(self, completed) {
                    return Ok(());
                }
                assert!(std::time::Instant::now() < until, "the disk does nothing");
                std::thread::yield_now();
            }
        }

        fn run_until_durable(&mut self, position: u64) -> Result<(), ServerError> {
            self.run_until(|disk, completed| {
                for done in completed {
                    let Completed::Written { ticket, bytes } = done else { panic!("{done:?}") };
                    disk.journal.written(ticket);
                    disk.journal.recycle(bytes);
                }
                disk.journal.durable() >= LogPosition(position)
            })
        }
    }

    fn vote(seq: u64) -> Record {
        Record::CkptVote { epoch: Epoch(0), seq: Seq(seq), root: Digest([seq as u8; 32]) }
    }

    #[test]
    fn what_is_written_is_read_back_and_found_by_the_next_start() {
        for way in [WritePath::Buffered, WritePath::LinkedFdatasync, WritePath::Dsync] {
            let mut disk = Disk::new(way, None);
            for position in 1..=100 {
                // One group each, so that segments follow one another.
                disk.append(position, Place::Journal(vote(position)));
                disk.run_until_durable(position).unwrap();
            }
            let superblock = Superblock { journal_start: LogPosition(2), ..disk.superblock.clone() };
            disk.append(101, Place::Superblock(Box::new(superblock)));
            disk.run_until_durable(101).unwrap();

            let extent = disk.journal.locate(LogPosition(77)).unwrap();
            disk.ring.read(LogPosition(77), extent);
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
            drop(disk.ring);
            let mut files = JournalFiles::open(disk.folder.path()).unwrap();
            let mut found = Vec::new();
            let tail = scan(&superblock, &mut files, &mut |at, record| {
                found.push((at.0, record));
                Ok::<_, ()>(())
            });
            assert!(found.iter().map(|(at, _)| *at).eq(2..=100), "{way:?}");
            assert!(tail.unwrap().files().len() > 3, "100 groups of two blocks need several segments of 16");
        }
    }

    #[test]
    fn d2_a_failed_write_is_the_end() {
        let mut disk = Disk::new(WritePath::Buffered, Some("/dev/full".into()));
        disk.append(1, Place::Superblock(Box::new(first_superblock())));
        let error = disk.run_until_durable(1).unwrap_err();
        assert!(
            matches!(&error, ServerError::JournalIo { what: "write", path, .. } if path.as_os_str() == "/dev/full")
        );
        assert_eq!(disk.journal.durable(), LogPosition(0), "nothing is reported");
    }

    #[test]
    fn d2_a_failed_flush_is_the_end() {
        // It takes every write, and has nothing to flush.
        let mut disk = Disk::new(WritePath::Buffered, Some("/dev/null".into()));
        disk.append(1, Place::Superblock(Box::new(first_superblock())));
        let error = disk.run_until_durable(1).unwrap_err();
        assert!(matches!(&error, ServerError::JournalIo { what: "flush", .. }), "{error}");
        assert_eq!(disk.journal.durable(), LogPosition(0), "nothing is reported");
    }

    #[test]
    fn d3_a_short_write_is_the_end() {
        let mut disk = Disk::new(WritePath::Buffered, None);
        disk.append(1, Place::Journal(vote(1)));
        let write = disk.journal.next_write().unwrap();
        disk.ring.write(write).unwrap();
        // The kernel is given half of what the flight expects.
        let Some(Flight::Write { bytes, .. }) = &mut disk.ring.flights[0] else { panic!("it is in flight") };
        bytes.put_zeros(4096);
        disk.ring.submit().unwrap();
        let error = disk.run_until(|_, completed| !completed.is_empty()).unwrap_err();
        assert!(matches!(&error, ServerError::JournalIo { what: "write", .. }), "{error}");
    }

    #[test]
    fn a_record_that_can_not_be_read_is_said_to_be_unreadable() {
        let mut disk = Disk::new(WritePath::Buffered, None);
        disk.append(1, Place::Journal(vote(1)));
        disk.run_until_durable(1).unwrap();
        let extent = disk.journal.locate(LogPosition(1)).unwrap();
        let path = crate::io::segments::segment_files(disk.folder.path()).unwrap().remove(0);
        let mut bytes = fs::read(&path).unwrap();
        bytes[extent.offset as usize] = 0xff;
        fs::write(&path, bytes).unwrap();
        disk.ring.read(LogPosition(1), extent);
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
