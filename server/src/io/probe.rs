//! What this machine allows, tried out at start: io_uring at all, and which way of making a write durable is the
//! fastest on the journal's disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bft_core::journal::BlockBuf;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::OFlags;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::error::{IoUringRefused, ServerError};

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
    /// O_DIRECT, and an fdatasync linked behind each write.
    LinkedFdatasync,
    /// O_DIRECT and O_DSYNC.
    Dsync,
    /// Through the page cache, and an fdatasync linked behind each write: where O_DIRECT is refused.
    Buffered,
}

impl WritePath {
    /// In words, for INFO and logs.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::LinkedFdatasync => "io_uring, O_DIRECT write linked to fdatasync",
            Self::Dsync => "io_uring, O_DIRECT O_DSYNC write",
            Self::Buffered => "io_uring, buffered write linked to fdatasync",
        }
    }

    /// Opens a file of the journal for it.
    pub fn open(self, path: &Path) -> io::Result<File> {
        let flags = match self {
            Self::LinkedFdatasync => OFlags::DIRECT,
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
            Self::LinkedFdatasync | Self::Buffered => {
                let flush = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build().user_data(flush_tag);
                (write.flags(squeue::Flags::IO_LINK), Some(flush))
            }
        }
    }
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
    let ring = IoUring::new(8).map_err(refused("io_uring_setup"))?;
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
    Ok(())
}

/// Measures on a file in `folder` which way is the fastest, and says what it found. The linked fdatasync is the way that
/// does well on all disks; O_DSYNC is far better on some, and far worse on others while they are busy. So it has to be
/// twice as fast by the medians of interleaved tries, in every one of several rounds: what else the machine does meanwhile
/// seldom falls on one of the two ways each time.
pub fn write_path(folder: &Path) -> Result<WritePath, ServerError> {
    let path = folder.join("probe");
    let failed = |what| {
        let path = path.clone();
        move |source| ServerError::JournalIo { what, path, source }
    };
    let mut file = File::create(&path).map_err(failed("create"))?;
    file.write_all(&vec![0; PROBE_BYTES as usize]).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    let direct =
        match (Trial::new(WritePath::LinkedFdatasync, &path, BLOCK), Trial::new(WritePath::Dsync, &path, BLOCK)) {
            (Ok(linked), Ok(dsync)) => compare(linked, dsync),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
    let (way, time) = match direct {
        Ok(best) => best,
        // What a file system without O_DIRECT says, at open or at the first write.
        Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP)) => {
            let trial = Trial::new(WritePath::Buffered, &path, BLOCK).and_then(Trial::run);
            (WritePath::Buffered, trial.map_err(failed("write"))?)
        }
        Err(error) => return Err(failed("write")(error)),
    };
    std::fs::remove_file(&path).map_err(failed("remove"))?;
    tracing::info!(path = way.words(), ?time, "the journal's durable write path, and its median for 4 KiB");
    if time < LYING_CACHE {
        tracing::warn!(
            ?time,
            "flushes are faster than any disk: what is called durable would not survive a power loss"
        );
    }
    Ok(way)
}

fn compare(mut linked: Trial, mut dsync: Trial) -> io::Result<(WritePath, Duration)> {
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        linked.times.clear();
        dsync.times.clear();
        for _ in 0..TRIES {
            linked.try_once()?;
            dsync.try_once()?;
        }
        rounds.push((linked.median(), dsync.median()));
        if choose(&rounds).0 == WritePath::LinkedFdatasync {
            break;
        }
    }
    tracing::debug!(?rounds, "durable write of 4 KiB, medians of linked fdatasync and of O_DSYNC");
    Ok(choose(&rounds))
}

/// From the medians of each round, the linked fdatasync's first: what to use, and its median over the rounds.
fn choose(rounds: &[(Duration, Duration)]) -> (WritePath, Duration) {
    let is_clearly_better = rounds.iter().all(|(linked, dsync)| *dsync * 2 < *linked);
    let way = if is_clearly_better { WritePath::Dsync } else { WritePath::LinkedFdatasync };
    let mut times: Vec<_> =
        rounds.iter().map(|(linked, dsync)| if is_clearly_better { *dsync } else { *linked }).collect();
    times.sort_unstable();
    (way, times[times.len() / 2])
}

const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();

/// One way, on trial: writes of one size, each waited for until it is durable.
pub struct Trial {
    way: WritePath,
    file: File,
    ring: IoUring,
    block: BlockBuf,
    bytes: u32,
    /// Where in the file the next write goes, in writes.
    places: u64,
    times: Vec<Duration>,
}

impl Trial {
    /// Writes of `bytes`, a multiple of 4096, all over the file at `path`, which must have room for one at least.
    pub fn new(way: WritePath, path: &Path, bytes: u32) -> io::Result<Self> {
        let (file, ring) = (way.open(path)?, IoUring::new(8)?);
        let places = file.metadata()?.len() / u64::from(bytes);
        if places == 0 || !bytes.is_multiple_of(4096) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self { way, file, ring, block: BlockBuf::zeroed(bytes as usize), bytes, places, times: Vec::new() })
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
        let (write, flush) = self.way.entries(&self.file, (self.block.as_ptr(), self.bytes), offset, (0, 1));
        let count = 1 + usize::from(flush.is_some());
        for entry in std::iter::once(write).chain(flush) {
            // SAFETY: block and file outlive the wait for all completions below.
            unsafe { self.ring.submission().push(&entry) }.expect("eight entries hold two");
        }
        self.ring.submit_and_wait(count)?;
        let mut outcome = Ok(());
        for completion in self.ring.completion() {
            let of_entry = match (completion.user_data(), completion.result()) {
                (_, result) if result < 0 => Err(io::Error::from_raw_os_error(-result)),
                (0, result) if result.unsigned_abs() != self.bytes => Err(io::Error::from(io::ErrorKind::WriteZero)),
                _ => Ok(()),
            };
            outcome = outcome.and(of_entry);
        }
        self.times.push(begin.elapsed());
        outcome
    }

    /// How long the write in the middle took. There was one at least.
    pub fn median(&mut self) -> Duration {
        self.times.sort_unstable();
        self.times[self.times.len() / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_path_is_found_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let way = write_path(dir.path()).unwrap();
        assert!(way.open(&dir.path().join("nothing")).is_err(), "it makes no files");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, [0; 4096]).unwrap();
        way.open(&file).unwrap();
    }

    #[test]
    fn o_dsync_has_to_be_clearly_better_every_time() {
        let ms = |(linked, dsync)| (Duration::from_millis(linked), Duration::from_millis(dsync));
        let chosen = |rounds: [(u64, u64); 3]| choose(&rounds.map(ms));
        assert_eq!(chosen([(9, 4), (5, 2), (7, 3)]), (WritePath::Dsync, Duration::from_millis(3)));
        assert_eq!(chosen([(90, 4), (5, 2), (6, 3)]), (WritePath::LinkedFdatasync, Duration::from_millis(6)));
        assert_eq!(chosen([(1, 10), (50, 2), (50, 3)]), (WritePath::LinkedFdatasync, Duration::from_millis(50)));
    }

    #[test]
    fn the_refusal_names_what_to_change() {
        let source = io::Error::from_raw_os_error(1);
        let text = IoUringRefused { what: "io_uring_setup", source }.to_string();
        for setting in ["kernel.io_uring_disabled", "seccomp", "ulimit -l", "Operation not permitted"] {
            assert!(text.contains(setting), "{setting}: {text}");
        }
        assert!(io_uring(1_000_000).is_err(), "no machine locks half a terabyte for rings");
        io_uring(1).unwrap();
    }
}
