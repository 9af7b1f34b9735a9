//! What this machine allows, tried out at start: io_uring at all, which decides the driver, and which way of making a
//! write durable is the fastest on the journal's disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use bft_core::journal::BlockBuf;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::OFlags;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::Io;
use crate::error::{IoUringRefused, ServerError};
use crate::io::Driver;

/// How often each way is tried in a round.
const TRIES: usize = 11;
/// O_DSYNC has to be clearly better in each of them.
const ROUNDS: usize = 5;
/// The file that is written to.
const PROBE_BYTES: u64 = 64 * BLOCK as u64;
/// How much at a time.
const BLOCK: u32 = 4096;
/// A flush faster than this reaches no disk.
const LYING_CACHE: Duration = Duration::from_micros(5);

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePath {
    /// O_DIRECT, and an fdatasync behind it.
    Fdatasync,
    /// O_DIRECT and O_DSYNC.
    Dsync,
    /// Through the page cache, and an fdatasync behind it: where O_DIRECT is refused.
    Buffered,
}

impl WritePath {
    /// In words, for INFO and logs: how `driver` does it.
    #[must_use]
    pub fn words(self, driver: Driver) -> &'static str {
        match (driver, self) {
            (Driver::Uring, Self::Fdatasync) => "io_uring, O_DIRECT write linked to fdatasync",
            (Driver::Uring, Self::Dsync) => "io_uring, O_DIRECT O_DSYNC write",
            (Driver::Uring, Self::Buffered) => "io_uring, buffered write linked to fdatasync",
            (Driver::Epoll, Self::Fdatasync) => "epoll, O_DIRECT writes on a thread, then fdatasync",
            (Driver::Epoll, Self::Dsync) => "epoll, O_DIRECT O_DSYNC writes on a thread",
            (Driver::Epoll, Self::Buffered) => "epoll, buffered writes on a thread, then fdatasync",
        }
    }

    /// Whether a write is durable when it is done, without a flush.
    #[must_use]
    pub fn is_synchronous(self) -> bool {
        match self {
            Self::Dsync => true,
            Self::Fdatasync | Self::Buffered => false,
        }
    }

    /// Opens a file of the journal for it.
    pub fn open(self, path: &Path) -> io::Result<File> {
        let flags = match self {
            Self::Fdatasync => OFlags::DIRECT,
            Self::Dsync => OFlags::DIRECT | OFlags::DSYNC,
            Self::Buffered => OFlags::empty(),
        };
        let flags = i32::try_from(flags.bits()).expect("the flags of open(2) fit an int");
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
    }

    /// The entries that write `len` bytes at `from` to `offset` of `file` and make them durable. The first is tagged
    /// `write_tag`, the second, where there is one, `flush_tag`.
    pub fn entries(
        self,
        file: &File,
        (from, len): (*const u8, u32),
        offset: u64,
        (write_tag, flush_tag): (u64, u64),
    ) -> (squeue::Entry, Option<squeue::Entry>) {
        let fd = types::Fd(file.as_raw_fd());
        let write = opcode::Write::new(fd, from, len).offset(offset).build().user_data(write_tag);
        match self {
            Self::Dsync => (write, None),
            // The link makes the flush wait for the write, and cancels it when the write fails or is short (D3).
            Self::Fdatasync | Self::Buffered => {
                let flush = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(flush_tag);
                (write.flags(squeue::Flags::IO_LINK), Some(flush))
            }
        }
    }
}

/// Which driver runs: what was asked for, or, where that is left open, the ring unless it is refused. This is found out
/// before glommio is called: it panics in places where it is.
pub fn driver(asked: Io, cores: usize) -> Result<Driver, IoUringRefused> {
    let driver = match asked {
        Io::Uring => io_uring(cores).map(|()| Driver::Uring)?,
        Io::Epoll => Driver::Epoll,
        Io::Auto => match io_uring(cores) {
            Ok(()) => Driver::Uring,
            Err(IoUringRefused { what, source }) => {
                tracing::warn!(
                    driver = Driver::Epoll.name(),
                    refused = what,
                    %source,
                    "io_uring is refused here: epoll moves the bytes, and a thread writes the journal. All works; each \
                     durable write costs two hops between threads more"
                );
                return Ok(Driver::Epoll);
            }
        },
    };
    tracing::info!(driver = driver.name(), "who moves the bytes");
    Ok(driver)
}

/// Lets the process lock as much memory as it may, and sees whether rings can be made and do what they must.
pub fn io_uring(cores: usize) -> Result<(), IoUringRefused> {
    let limit = getrlimit(Resource::Memlock);
    // Raising a soft limit to the hard one is always allowed; where it fails, glommio says so with the figure.
    let _ = setrlimit(Resource::Memlock, rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum });
    let refused = |what| move |source| IoUringRefused { what, source };
    let needed = 512 * 1024 * (cores as u64 + 1);
    if limit.maximum.is_some_and(|maximum| maximum < needed) {
        let source =
            io::Error::other(format!("the hard limit of locked memory is {:?}, needed are {needed}", limit.maximum));
        return Err(IoUringRefused { what: "memlock", source });
    }
    let mut ring = IoUring::new(8).map_err(refused("io_uring_setup"))?;
    let mut supported = io_uring::Probe::new();
    ring.submitter().register_probe(&mut supported).map_err(refused("io_uring_register"))?;
    for (code, what) in [
        (opcode::Write::CODE, "IORING_OP_WRITE"),
        (opcode::Read::CODE, "IORING_OP_READ"),
        (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    ] {
        if !supported.is_supported(code) {
            return Err(refused(what)(io::Error::from(io::ErrorKind::Unsupported)));
        }
    }
    // SAFETY: it does nothing, and so uses no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.expect("an empty ring has room for one");
    ring.submit_and_wait(1).map(drop).map_err(refused("io_uring_enter"))
}

/// Measures on a file in `folder` which way is the fastest, and says what it found. An fdatasync behind it is the way that
/// does well on all disks; O_DSYNC is far better on some, and far worse on others while they are busy. So it has to be
/// twice as fast by the medians of interleaved tries, in every one of several rounds: what else the machine does meanwhile
/// seldom falls on one of the two ways each time.
pub fn write_path(driver: Driver, folder: &Path) -> Result<WritePath, ServerError> {
    let path = folder.join("probe");
    let failed = |what| {
        let path = path.clone();
        move |source| ServerError::JournalIo { what, path, source }
    };
    let mut file = File::create(&path).map_err(failed("create"))?;
    file.write_all(&vec![0; PROBE_BYTES as usize]).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    let direct = match [WritePath::Fdatasync, WritePath::Dsync].map(|way| Trial::new(driver, way, &path, BLOCK)) {
        [Ok(flushed), Ok(dsync)] => compare(flushed, dsync),
        [Err(error), _] | [_, Err(error)] => Err(error),
    };
    let (way, time) = match direct {
        Ok(best) => best,
        // What a file system without O_DIRECT says, at open or at the first write.
        Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP)) => {
            let trial = Trial::new(driver, WritePath::Buffered, &path, BLOCK).and_then(Trial::run);
            (WritePath::Buffered, trial.map_err(failed("write"))?)
        }
        Err(error) => return Err(failed("write")(error)),
    };
    std::fs::remove_file(&path).map_err(failed("remove"))?;
    tracing::info!(path = way.words(driver), ?time, "the journal's durable write path, and its median for 4 KiB");
    if time < LYING_CACHE {
        tracing::warn!(
            ?time,
            "flushes are faster than any disk: what is called durable would not survive a power loss"
        );
    }
    Ok(way)
}

fn compare(mut flushed: Trial, mut dsync: Trial) -> io::Result<(WritePath, Duration)> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        flushed.times.clear();
        dsync.times.clear();
        for _ in 0..TRIES {
            flushed.try_once()?;
            dsync.try_once()?;
        }
        rounds.push((flushed.median(), dsync.median()));
        if choose(&rounds).0 == WritePath::Fdatasync {
            break;
        }
    }
    tracing::debug!(?rounds, "durable write of 4 KiB, medians with fdatasync and with O_DSYNC");
    Ok(choose(&rounds))
}

/// From the medians of each round, fdatasync's first: what to use, and its median over the rounds.
fn choose(rounds: &[(Duration, Duration)]) -> (WritePath, Duration) {
    let is_clearly_better = rounds.iter().all(|(flushed, dsync)| *dsync * 2 < *flushed);
    let way = if is_clearly_better { WritePath::Dsync } else { WritePath::Fdatasync };
    let mut times: Vec<_> =
        rounds.iter().map(|(flushed, dsync)| if is_clearly_better { *dsync } else { *flushed }).collect();
    times.sort_unstable();
    (way, times[times.len() / 2])
}

const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();

/// One way, on trial: writes of one size, each waited for until it is durable.
pub struct Trial {
    way: WritePath,
    file: File,
    means: Means,
    block: BlockBuf,
    bytes: u32,
    /// Where in the file the next write goes, in writes.
    places: u64,
    times: Vec<Duration>,
}

/// What a driver writes with.
enum Means {
    Ring(Box<IoUring>),
    Calls,
}

impl Trial {
    /// Writes of `bytes`, a multiple of 4096, all over the file at `path`, which must have room for one at least.
    pub fn new(driver: Driver, way: WritePath, path: &Path, bytes: u32) -> io::Result<Self> {
        let file = way.open(path)?;
        let means = match driver {
            Driver::Uring => Means::Ring(Box::new(IoUring::new(8)?)),
            Driver::Epoll => Means::Calls,
        };
        let places = file.metadata()?.len() / u64::from(bytes);
        if places == 0 || !bytes.is_multiple_of(4096) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { way, file, means, block: BlockBuf::zeroed(bytes as usize), bytes, places, times: Vec::new() })
    }

    fn run(mut self) -> io::Result<Duration> {
        for _ in 0..TRIES {
            self.try_once()?;
        }
        Ok(self.median())
    }

    /// One write.
    pub fn try_once(&mut self) -> io::Result<()> {
        let begin = Instant::now();
        let offset = self.times.len() as u64 % self.places * u64::from(self.bytes);
        let outcome = match &mut self.means {
            Means::Ring(ring) => {
                let (write, flush) = self.way.entries(&self.file, (self.block.as_ptr(), self.bytes), offset, (0, 1));
                let entries = std::iter::once(write).chain(flush);
                // SAFETY: block and file outlive the wait for all completions.
                unsafe { wait_for_all(ring, entries, self.bytes) }
            }
            Means::Calls => write_now(self.way, &self.file, &self.block, offset),
        };
        self.times.push(begin.elapsed());
        outcome
    }

    /// How long the write in the middle took. There was one at least.
    pub fn median(&mut self) -> Duration {
        self.times.sort_unstable();
        self.times[self.times.len() / 2]
    }
}

/// Submits entries, of which the first writes `bytes`, and waits for them.
///
/// # Safety
/// What they point to stays until this returns.
unsafe fn wait_for_all(ring: &mut IoUring, entries: impl Iterator<Item = squeue::Entry>, bytes: u32) -> io::Result<()> {
    let mut count = 0;
    for entry in entries {
        // SAFETY: the caller's promise.
        unsafe { ring.submission().push(&entry) }.expect("eight entries hold two");
        count += 1;
    }
    ring.submit_and_wait(count)?;
    let mut outcome = Ok(());
    for completion in ring.completion() {
        let of_entry = match (completion.user_data(), completion.result()) {
            (_, result) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
            (0, result) if result.unsigned_abs() != bytes => Err(io::Error::from(io::ErrorKind::WriteZero)),
            _ => Ok(()),
        };
        outcome = outcome.and(of_entry);
    }
    outcome
}

fn write_now(way: WritePath, file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    if file.write_at(block, offset)? != block.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    if way.is_synchronous() { Ok(()) } else { file.sync_data() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_path_is_found_and_nothing_is_left() {
        for driver in [Driver::Uring, Driver::Epoll] {
            let dir = tempfile::tempdir().unwrap();
            let way = write_path(driver, dir.path()).unwrap();
            assert!(way.open(&dir.path().join("nothing")).is_err(), "it makes no files");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            let file = dir.path().join("file");
            std::fs::write(&file, [0; 4096]).unwrap();
            way.open(&file).unwrap();
        }
    }

    #[test]
    fn what_is_asked_for_decides_and_otherwise_what_is_allowed() {
        assert_eq!(driver(Io::Epoll, 1).unwrap(), Driver::Epoll);
        assert_eq!(driver(Io::Uring, 1).unwrap(), Driver::Uring);
        assert_eq!(driver(Io::Auto, 1).unwrap(), Driver::Uring);
        // No machine locks half a terabyte for rings.
        assert_eq!(driver(Io::Auto, 1_000_000).unwrap(), Driver::Epoll);
        assert_eq!(driver(Io::Uring, 1_000_000).unwrap_err().what, "memlock");
    }

    #[test]
    fn o_dsync_has_to_be_clearly_better_every_time() {
        let ms = |(linked, dsync)| (Duration::from_millis(linked), Duration::from_millis(dsync));
        let chosen = |rounds: [(u64, u64); 3]| choose(&rounds.map(ms));
        assert_eq!(chosen([(9, 4), (5, 2), (7, 3)]), (WritePath::Dsync, Duration::from_millis(3)));
        assert_eq!(chosen([(90, 4), (5, 2), (6, 3)]), (WritePath::Fdatasync, Duration::from_millis(6)));
        assert_eq!(chosen([(1, 10), (50, 2), (50, 3)]), (WritePath::Fdatasync, Duration::from_millis(50)));
    }

    #[test]
    fn the_refusal_names_what_to_change() {
        let source = io::Error::from_raw_os_error(1);
        let text = IoUringRefused { what: "io_uring_setup", source }.to_string();
        for setting in ["kernel.io_uring_disabled", "seccomp", "ulimit -l", "Operation not permitted"] {
            assert!(text.contains(setting), "{setting}: {text}");
        }
    }
}
