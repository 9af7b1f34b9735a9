//! Snapshots as files: written on a thread of their own while execution goes on, read back and checked at start. What
//! they hold and how their root is made is in [`bft_core::snapshot`].
//!
//! ```text
//! snapshots/<seq>.part/      being written
//! snapshots/<seq>/           complete: every file flushed, then the folder, then its name
//! snapshots/incoming/        pieces that are transferred from peers (crate::incoming)
//! ```
//!
//! Kept here: a folder without `.part` is whole and flushed; a chunk that the service says is unchanged is the same file
//! as in the snapshot before, under another name; nothing that is read back is used before its digest is compared.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bft_core::divergence::Alarm;
use bft_core::door::{FileDone, FileOrder, SnapshotOrder, SnapshotWritten};
use bft_core::evidence::Accusation;
use bft_core::ids::{Digest, Seq};
use bft_core::limits::{CHUNK_BYTES_MAX, MANIFEST_BYTES_MAX, SNAPSHOT_CHUNKS_MAX, SNAPSHOT_CLIENTS_MAX};
use bft_core::service::{Service, ServiceFault, Snapshot};
use bft_core::snapshot::{ClientsImage, Manifest, Scalars, chunk_digest};
use bft_core::wire::canonical::NotCanonical;
use bytes::Bytes;

use crate::data_dir::{flush_folder, is_disk_full};
use crate::divergence::DivergenceFolder;
use crate::evidence::EvidenceFolder;
use crate::incoming::Incoming;

/// How long the writer waits before it tries a full disk again.
const FULL_DISK_RETRY: Duration = Duration::from_secs(5);

/// Why a snapshot can not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file or folder.
    #[error("snapshot {path}: {source}: the disk under it must be repaired, then start again")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What was read is not what was written.
    #[error("snapshot {path} is damaged: {what}. A start fetches it, or a later one, from the peers")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// In what way.
        what: &'static str,
    },
    /// More than a manifest may list.
    #[error(
        "the snapshot at Seq {seq} has {found} {what}; the most is {most}: the service must give fewer, larger chunks"
    )]
    TooMany {
        /// Of which Seq.
        seq: Seq,
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: u32,
    },
    /// The service could not give or take a chunk.
    #[error(transparent)]
    Service(#[from] ServiceFault),
}

impl SnapshotError {
    fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_disk_full(source),
            Self::Damaged { .. } | Self::TooMany { .. } | Self::Service(_) => false,
        }
    }
}

/// The folder `snapshots`.
#[derive(Clone, Debug)]
pub struct SnapshotFolder {
    root: PathBuf,
}

impl SnapshotFolder {
    /// The folder at `root`, without what an earlier run left unfinished.
    pub fn open(root: PathBuf) -> Result<Self, SnapshotError> {
        let folder = Self { root };
        for (path, name) in folder.entries()? {
            if name.ends_with(".part") {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        flush_folder(&folder.root).map_err(at(&folder.root))?;
        Ok(folder)
    }

    /// The folder at `root` as it is, to be looked into.
    #[must_use]
    pub fn look(root: PathBuf) -> Self {
        Self { root }
    }

    /// The Seqs of the snapshots that are whole, ascending, and the names of what is not.
    pub fn list(&self) -> Result<(Vec<Seq>, Vec<String>), SnapshotError> {
        let (mut whole, mut unfinished) = (Vec::new(), Vec::new());
        for (_, name) in self.entries()? {
            match name.parse() {
                Ok(seq) => whole.push(Seq(seq)),
                Err(_) => unfinished.push(name),
            }
        }
        whole.sort_unstable();
        unfinished.sort_unstable();
        Ok((whole, unfinished))
    }

    /// The root that the manifest of the snapshot at `seq` has.
    pub fn root_of(&self, seq: Seq) -> Result<Digest, SnapshotError> {
        self.manifest(seq).map(|manifest| manifest.root())
    }

    /// Reads the snapshot at `seq`, whose root is `root`: every digest of it is compared.
    pub fn load(&self, seq: Seq, root: Digest) -> Result<(Manifest, ClientsImage), SnapshotError> {
        let folder = self.path(seq);
        let manifest = self.manifest(seq)?;
        if manifest.root() != root || manifest.scalars.seq != seq {
            return Err(SnapshotError::Damaged {
                path: folder,
                what: "its manifest has another root than the superblock says",
            });
        }
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        for (index, expected) in (0..).zip(&manifest.state) {
            read_checked(&chunk_path(&folder, index), *expected, &mut buffer)?;
        }
        let mut clients = Vec::new();
        for (index, expected) in (0..).zip(&manifest.clients) {
            clients.extend_from_slice(read_checked(&clients_path(&folder, index), *expected, &mut buffer)?);
        }
        let image = ClientsImage::decode(&Bytes::from(clients));
        let image = image.map_err(|NotCanonical| SnapshotError::Damaged {
            path: folder,
            what: "its client table does not decode",
        })?;
        Ok((manifest, image))
    }

    /// Puts the service into the state of the snapshot at `seq`, and gives its manifest.
    pub fn restore(&self, seq: Seq, service: &mut dyn Service) -> Result<Manifest, SnapshotError> {
        let folder = self.path(seq);
        let manifest = self.manifest(seq)?;
        service.restore_begin(seq, manifest.state.len() as u32)?;
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        for (index, expected) in (0..).zip(&manifest.state) {
            let restored = read_checked(&chunk_path(&folder, index), *expected, &mut buffer)
                .and_then(|bytes| Ok(service.restore_chunk(index, bytes)?));
            if let Err(error) = restored {
                service.restore_abort();
                return Err(error);
            }
        }
        service.restore_finish()?;
        Ok(manifest)
    }

    /// Removes complete snapshots below `seq`.
    fn remove_below(&self, seq: Seq) -> Result<(), SnapshotError> {
        for (path, name) in self.entries()? {
            if name.parse().is_ok_and(|at: u64| at < seq.0) {
                fs::remove_dir_all(&path).map_err(at(&path))?;
            }
        }
        flush_folder(&self.root).map_err(at(&self.root))
    }

    /// The manifest of the snapshot at `seq`.
    pub(crate) fn manifest(&self, seq: Seq) -> Result<Manifest, SnapshotError> {
        let path = self.path(seq).join("manifest");
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(at(&path))?;
        file.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(at(&path))?;
        Manifest::decode(&bytes).map_err(|_| SnapshotError::Damaged { path, what: "not a manifest of this version" })
    }

    fn entries(&self) -> Result<Vec<(PathBuf, String)>, SnapshotError> {
        let entries = fs::read_dir(&self.root).map_err(at(&self.root))?;
        let named = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned()))
        };
        entries.map(named).collect::<io::Result<_>>().map_err(at(&self.root))
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the snapshot at `seq` is, or will be.
    pub(crate) fn path(&self, seq: Seq) -> PathBuf {
        self.root.join(seq.to_string())
    }

    /// An empty folder in which the snapshot at `seq` is made.
    pub(crate) fn begin_part(&self, seq: Seq) -> Result<PathBuf, SnapshotError> {
        let part = self.root.join(format!("{seq}.part"));
        if part.exists() {
            fs::remove_dir_all(&part).map_err(at(&part))?;
        }
        fs::create_dir(&part).map_err(at(&part))?;
        Ok(part)
    }

    /// Flushes a finished folder and gives it its name. A snapshot of the same Seq can lie there: it was complete, but not
    /// agreed on, when the process ended, and the batches before it were executed again.
    pub(crate) fn publish(&self, part: &Path, seq: Seq) -> Result<(), SnapshotError> {
        flush_folder(part).map_err(at(part))?;
        let path = self.path(seq);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(at(&path))?;
        }
        fs::rename(part, &path).map_err(at(&path))?;
        flush_folder(&self.root).map_err(at(&self.root))
    }
}

/// Whether something was to be read that is not there.
pub(crate) fn is_not_found(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io { path, source }
}

pub(crate) fn chunk_path(folder: &Path, index: u32) -> PathBuf {
    folder.join(format!("chunk-{index:05}"))
}

pub(crate) fn clients_path(folder: &Path, index: u32) -> PathBuf {
    folder.join(format!("clients-{index:05}"))
}

pub(crate) fn read_checked<'a>(
    path: &Path,
    (len, digest): (u32, Digest),
    buffer: &'a mut [u8],
) -> Result<&'a [u8], SnapshotError> {
    let damaged = |what| SnapshotError::Damaged { path: path.to_owned(), what };
    let mut file = File::open(path).map_err(at(path))?;
    let size = file.metadata().map_err(at(path))?.len();
    if size != u64::from(len) {
        return Err(damaged("its length is not the one in the manifest"));
    }
    let bytes = &mut buffer[..len as usize];
    file.read_exact(bytes).map_err(at(path))?;
    if chunk_digest(bytes) != digest {
        return Err(damaged("its digest is not the one in the manifest"));
    }
    Ok(bytes)
}

pub(crate) fn write_flushed(path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(path))
}

/// What the thread does.
pub enum SnapshotJob {
    /// Writes the files of a snapshot.
    Write {
        /// The service's image.
        image: Box<dyn Snapshot>,
        /// Its Seq, and the client table.
        order: SnapshotOrder,
    },
    /// Computes the state digest of an image and keeps nothing.
    Digest {
        /// The service's image.
        image: Box<dyn Snapshot>,
        /// Its Seq.
        at: Seq,
    },
    /// Removes complete snapshots below this Seq.
    RemoveBelow(Seq),
    /// Carries out an order of the core on files.
    Files(FileOrder),
    /// The service was restored from this snapshot.
    Restored(Manifest),
    /// Writes a piece of evidence, also when the thread is to stop.
    Evidence {
        /// Where.
        folder: EvidenceFolder,
        /// What.
        accusation: Accusation,
    },
    /// Writes a report of a divergence, also when the thread is to stop.
    Alarm {
        /// Where.
        folder: DivergenceFolder,
        /// What.
        alarm: Alarm,
    },
}

/// What the thread did.
#[derive(Debug)]
pub enum SnapshotDone {
    /// The files are written and flushed, the folders too.
    Written {
        /// Of which Seq.
        seq: Seq,
        /// What they hold.
        outcome: SnapshotWritten,
    },
    /// The state digest at a Seq.
    Digest {
        /// The Seq.
        at: Seq,
        /// The digest.
        digest: Digest,
    },
    /// An order of the core was carried out.
    File(FileDone),
    /// It could not; the thread has ended.
    Failed(SnapshotError),
}

/// Hands jobs to the thread. The last one dropped ends it after what it is at.
pub struct SnapshotThread {
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<SnapshotJob>,
    is_stopping: bool,
}

impl SnapshotThread {
    /// Starts the thread. `previous` is what the service was restored from. `done` is called on the thread.
    #[must_use]
    pub fn start(
        folder: SnapshotFolder,
        previous: Option<Manifest>,
        done: impl FnMut(SnapshotDone) + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let incoming = Incoming::new(folder.clone());
        let writer = Writer { folder, incoming, previous, shared: shared.clone() };
        let thread = std::thread::Builder::new().name("bft-snapshot".into());
        let thread = thread.spawn(move || writer.run(done)).expect("the system has threads left");
        Self { shared, thread: Some(thread) }
    }

    /// Hands in a job. Writes are one at a time, as the core orders them; digests too.
    pub fn submit(&self, job: SnapshotJob) {
        self.shared.lock().waiting.push_back(job);
        self.shared.changed.notify_one();
    }
}

impl Drop for SnapshotThread {
    fn drop(&mut self) {
        self.shared.lock().is_stopping = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Jobs> {
        self.state.lock().expect("nobody panics while holding the jobs")
    }

    fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }
}

struct Writer {
    folder: SnapshotFolder,
    incoming: Incoming,
    previous: Option<Manifest>,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, mut done: impl FnMut(SnapshotDone)) {
        while let Some(job) = self.next() {
            match self.carry_out(job) {
                Ok(Some(outcome)) => done(outcome),
                Ok(None) => {}
                Err(error) => return done(SnapshotDone::Failed(error)),
            }
        }
    }

    fn next(&self) -> Option<SnapshotJob> {
        let mut jobs = self.shared.lock();
        loop {
            if jobs.is_stopping {
                jobs.waiting.retain(|job| matches!(job, SnapshotJob::Evidence { .. } | SnapshotJob::Alarm { .. }));
                return jobs.waiting.pop_front();
            }
            if let Some(job) = jobs.waiting.pop_front() {
                return Some(job);
            }
            jobs = self.shared.changed.wait(jobs).expect("nobody panics while holding the jobs");
        }
    }

    fn carry_out(&mut self, job: SnapshotJob) -> Result<Option<SnapshotDone>, SnapshotError> {
        match job {
            SnapshotJob::Write { mut image, order } => self.write(image.as_mut(), &order),
            SnapshotJob::Digest { mut image, at } => {
                let digest = state_digest(image.as_mut())?;
                Ok(Some(SnapshotDone::Digest { at, digest }))
            }
            SnapshotJob::RemoveBelow(seq) => self.folder.remove_below(seq).map(|()| None),
            SnapshotJob::Files(order) => self.files(&order),
            SnapshotJob::Restored(manifest) => {
                self.previous = Some(manifest);
                Ok(None)
            }
            SnapshotJob::Evidence { folder, accusation } => {
                folder.keep(&accusation);
                Ok(None)
            }
            SnapshotJob::Alarm { folder, alarm } => {
                folder.keep(&alarm);
                Ok(None)
            }
        }
    }

    /// A full disk is waited for here too.
    fn files(&self, order: &FileOrder) -> Result<Option<SnapshotDone>, SnapshotError> {
        loop {
            match self.incoming.carry_out(order, &|| self.shared.is_stopping()) {
                Ok(done) => return Ok(done.map(SnapshotDone::File)),
                Err(error) if error.is_disk_full() => {
                    tracing::error!(%error, "no room for a snapshot of others: free some, it is tried again");
                    if !self.wait(FULL_DISK_RETRY) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A full disk is waited for: the image stays, execution stops at the next snapshot but one, and an operator can
    /// make room. `None` when the thread is stopped meanwhile.
    fn write(
        &mut self,
        image: &mut dyn Snapshot,
        order: &SnapshotOrder,
    ) -> Result<Option<SnapshotDone>, SnapshotError> {
        loop {
            match self.try_write(image, order) {
                Ok(None) => return Ok(None),
                Ok(Some(manifest)) => {
                    let outcome = SnapshotWritten {
                        root: manifest.root(),
                        state_digest: manifest.state_digest(),
                        state_bytes: manifest.state_bytes(),
                    };
                    self.previous = Some(manifest);
                    return Ok(Some(SnapshotDone::Written { seq: order.seq, outcome }));
                }
                Err(error) if error.is_disk_full() => {
                    tracing::error!(seq = order.seq.0, %error, "no room for a snapshot: free some, it is tried again");
                    if !self.wait(FULL_DISK_RETRY) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// False when the thread is to stop.
    fn wait(&self, time: Duration) -> bool {
        let jobs = self.shared.lock();
        let waited = self.shared.changed.wait_timeout_while(jobs, time, |jobs| !jobs.is_stopping);
        !waited.expect("nobody panics while holding the jobs").0.is_stopping
    }

    /// `None` when the thread is stopped meanwhile.
    fn try_write(&self, image: &mut dyn Snapshot, order: &SnapshotOrder) -> Result<Option<Manifest>, SnapshotError> {
        let chunks = image.chunks();
        check_count(order.seq, "chunks", chunks as usize, SNAPSHOT_CHUNKS_MAX)?;
        let part = self.folder.begin_part(order.seq)?;
        let mut manifest = Manifest::new(order.clients.scalars);
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        for index in 0..chunks {
            if self.shared.is_stopping() {
                return Ok(None);
            }
            if !self.link_unchanged(image, &part, index, &mut manifest)? {
                let len = image.read(index, &mut buffer)?;
                write_flushed(&chunk_path(&part, index), &buffer[..len])?;
                manifest.add_chunk(&buffer[..len]);
            }
        }
        let clients = order.clients.encode();
        let pieces = clients.len().div_ceil(CHUNK_BYTES_MAX);
        check_count(order.seq, "pieces of its client table", pieces, SNAPSHOT_CLIENTS_MAX)?;
        for (index, piece) in (0..).zip(clients.chunks(CHUNK_BYTES_MAX)) {
            write_flushed(&clients_path(&part, index), piece)?;
        }
        manifest.add_clients(&clients);
        write_flushed(&part.join("manifest"), &manifest.encode())?;
        self.folder.publish(&part, order.seq)?;
        Ok(Some(manifest))
    }

    /// Gives the file of an unchanged chunk a second name. False if the chunk must be read.
    fn link_unchanged(
        &self,
        image: &dyn Snapshot,
        part: &Path,
        index: u32,
        manifest: &mut Manifest,
    ) -> Result<bool, SnapshotError> {
        let Some(previous) = &self.previous else { return Ok(false) };
        let Some((len, digest)) = previous.state.get(index as usize) else { return Ok(false) };
        let earlier = previous.scalars.seq;
        if !image.unchanged_since(index, earlier) {
            return Ok(false);
        }
        let (from, to) = (chunk_path(&self.folder.path(earlier), index), chunk_path(part, index));
        match fs::hard_link(&from, &to) {
            Ok(()) => {
                manifest.add_known_chunk(*len, *digest);
                Ok(true)
            }
            // Removed meanwhile, or a file system without hard links.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                Ok(false)
            }
            Err(error) => Err(at(&to)(error)),
        }
    }
}

/// What no manifest can list is found before it is written.
fn check_count(seq: Seq, what: &'static str, found: usize, most: u32) -> Result<(), SnapshotError> {
    if found <= most as usize { Ok(()) } else { Err(SnapshotError::TooMany { seq, what, found, most }) }
}

fn state_digest(image: &mut dyn Snapshot) -> Result<Digest, SnapshotError> {
    let mut manifest = Manifest::new(Scalars::default());
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    for index in 0..image.chunks() {
        let len = image.read(index, &mut buffer)?;
        manifest.add_chunk(&buffer[..len]);
    }
    Ok(manifest.state_digest())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bft_core::service::{Batch, Replies};

    use super::*;

    /// A state of chunks, all of one byte each, of which the first never changes.
    struct Chunks(Vec<u8>);

    impl Snapshot for Chunks {
        fn chunks(&self) -> u32 {
            self.0.len() as u32
        }

        fn unchanged_since(&self, index: u32, _earlier: Seq) -> bool {
            index == 0
        }

        fn read(&mut self, index: u32, out: &mut [u8]) -> Result<usize, ServiceFault> {
            out[..3].fill(self.0[index as usize]);
            Ok(3)
        }
    }

    #[derive(Default)]
    struct Restored {
        chunks: Vec<Vec<u8>>,
        is_finished: bool,
        is_aborted: bool,
    }

    impl Service for Restored {
        fn open(&mut self) -> Result<Seq, ServiceFault> {
            Ok(Seq(0))
        }

        fn execute(&mut self, _: &Batch<'_>, _: &mut Replies<'_>) -> Result<(), ServiceFault> {
            Ok(())
        }

        fn query(&mut self, _: &[u8], _: &mut Replies<'_>) -> Result<(), ServiceFault> {
            Ok(())
        }

        fn snapshot(&mut self, _: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
            Err(ServiceFault("not asked for".into()))
        }

        fn restore_begin(&mut self, _: Seq, _: u32) -> Result<(), ServiceFault> {
            Ok(())
        }

        fn restore_chunk(&mut self, index: u32, bytes: &[u8]) -> Result<(), ServiceFault> {
            assert_eq!(index as usize, self.chunks.len());
            self.chunks.push(bytes.to_vec());
            Ok(())
        }

        fn restore_finish(&mut self) -> Result<(), ServiceFault> {
            self.is_finished = true;
            Ok(())
        }

        fn restore_abort(&mut self) {
            self.is_aborted = true;
        }
    }

    fn order(seq: u64) -> SnapshotOrder {
        let scalars = Scalars { seq: Seq(seq), time_ns: seq, ..Scalars::default() };
        SnapshotOrder { seq: Seq(seq), clients: Arc::new(ClientsImage { scalars, ..ClientsImage::default() }) }
    }

    fn start(folder: &SnapshotFolder, previous: Option<Manifest>) -> (SnapshotThread, mpsc::Receiver<SnapshotDone>) {
        let (sender, receiver) = mpsc::channel();
        (SnapshotThread::start(folder.clone(), previous, move |done| sender.send(done).unwrap()), receiver)
    }

    fn write(thread: &SnapshotThread, done: &mpsc::Receiver<SnapshotDone>, seq: u64, chunks: &[u8]) -> SnapshotWritten {
        thread.submit(SnapshotJob::Write { image: Box::new(Chunks(chunks.to_vec())), order: order(seq) });
        match done.recv().unwrap() {
            SnapshotDone::Written { seq: written, outcome } => {
                assert_eq!(written, Seq(seq));
                outcome
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_restored_and_unchanged_chunks_are_the_same_files() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let folder = SnapshotFolder::open(dir.path().to_owned()).unwrap();
        let (thread, done) = start(&folder, None);
        write(&thread, &done, 8, b"ab");
        let written = write(&thread, &done, 16, b"acd");
        let inode = |seq: u64, index| fs::metadata(chunk_path(&folder.path(Seq(seq)), index)).unwrap().ino();
        assert_eq!(inode(8, 0), inode(16, 0));
        assert_ne!(inode(8, 1), inode(16, 1));

        thread.submit(SnapshotJob::RemoveBelow(Seq(16)));
        thread.submit(SnapshotJob::Digest { image: Box::new(Chunks(b"acd".to_vec())), at: Seq(20) });
        match done.recv().unwrap() {
            SnapshotDone::Digest { at, digest } => assert_eq!((at, digest), (Seq(20), written.state_digest)),
            other => panic!("{other:?}"),
        }
        assert!(!folder.path(Seq(8)).exists());

        let (manifest, clients) = folder.load(Seq(16), written.root).unwrap();
        assert_eq!((manifest.state_bytes(), clients.scalars.time_ns), (9, 16));
        let mut service = Restored::default();
        folder.restore(Seq(16), &mut service).unwrap();
        assert!(service.is_finished && service.chunks == [b"aaa", b"ccc", b"ddd"]);
    }

    #[test]
    fn k5_damage_is_refused_and_the_service_keeps_its_state() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SnapshotFolder::open(dir.path().to_owned()).unwrap();
        let (thread, done) = start(&folder, None);
        let root = write(&thread, &done, 8, b"ab").root;
        drop(thread);
        assert!(matches!(folder.load(Seq(8), Digest([1; 32])), Err(SnapshotError::Damaged { .. })));
        for name in ["chunk-00001", "clients-00000", "manifest"] {
            let path = folder.path(Seq(8)).join(name);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[1] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(matches!(folder.load(Seq(8), root), Err(SnapshotError::Damaged { .. })), "{name}");
            let mut service = Restored::default();
            if name == "chunk-00001" {
                assert!(folder.restore(Seq(8), &mut service).is_err());
                assert!(service.is_aborted && !service.is_finished);
            }
            fs::write(&path, &good).unwrap();
        }
        folder.load(Seq(8), root).unwrap();
    }

    #[test]
    fn an_unfinished_snapshot_is_removed_and_a_complete_one_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("8.part")).unwrap();
        let folder = SnapshotFolder::open(dir.path().to_owned()).unwrap();
        assert!(!dir.path().join("8.part").exists());
        let (thread, done) = start(&folder, None);
        let first = write(&thread, &done, 8, b"ab");
        assert_eq!(write(&thread, &done, 8, b"ab"), first);
    }
}
