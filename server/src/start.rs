//! From a data directory back to a running replica (PROTOCOL §11): what was written is flushed before it is believed,
//! checked before it is used, and damage stops the start with a reason.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme};
use bft_core::door::Effects;
use bft_core::ids::LogPosition;
use bft_core::journal::{Blocks, Journal, Record, ScanError, SegmentFile, Tail, scan};
use bft_core::replica::{RecoverError, Recovery, Replica};
use bft_core::service::Service;
use bft_core::snapshot::Manifest;

use crate::ServerConfig;
use crate::clock;
use crate::data_dir::{DataDir, flush_folder};
use crate::error::ServerError;
use crate::io::doorbell::Doorbell;
use crate::io::journal::JournalRing;
use crate::io::probe::{self, WritePath};
use crate::io::segments::{Segments, segment_files};
use crate::snapshots::SnapshotFolder;

/// A replica that was read back, and what belongs to it.
pub struct Started {
    /// Its directory, held.
    pub directory: DataDir,
    /// How writes are made durable.
    pub way: WritePath,
    /// Its snapshots.
    pub snapshots: SnapshotFolder,
    /// The snapshot that the service is restored from, if there is one.
    pub manifest: Option<Manifest>,
    /// The service, opened.
    pub service: Box<dyn Service>,
    /// The replica.
    pub replica: Replica,
    /// Its journal.
    pub journal: Journal,
    /// The journal's ring and files.
    pub ring: JournalRing,
    /// What the recovery wants done.
    pub effects: Effects,
    /// The replica's key.
    pub scheme: Arc<dyn Scheme>,
}

/// Reads everything back.
pub fn start(
    config: &ServerConfig,
    mut service: Box<dyn Service>,
    bell: &Arc<Doorbell>,
) -> Result<Started, ServerError> {
    let scheme: Arc<dyn Scheme> = Arc::new(Ed25519::new(&config.secret_key, crate::entropy()));
    let member = config.cluster.member(config.me);
    let member = member.ok_or_else(|| ServerError::Config(format!("the cluster has no replica {}", config.me)))?;
    if member.public_key != scheme.public_key() {
        return Err(ServerError::Config(format!(
            "the secret key belongs to {}, but cluster.toml says that replica {} has {}",
            scheme.public_key(),
            config.me,
            member.public_key
        )));
    }
    let directory = DataDir::open(&config.data_dir, &config.cluster, config.me, scheme.public_key())?;
    let snapshots = SnapshotFolder::open(directory.snapshots())?;
    let superblock = directory.superblock().clone();
    let mut recovery =
        Replica::recover(config.cluster.clone(), config.me, scheme.clone(), config.tuning.clone(), superblock.clone());
    let mut manifest = None;
    if let Some((seq, root)) = superblock.snapshot {
        let (read, clients) = snapshots.load(seq, root)?;
        recovery.snapshot(&read, clients);
        manifest = Some(read);
    }
    let service_at = service.open()?;
    let mut files = JournalFiles::open(&directory.journal())?;
    let tail = read_journal(&directory, &mut files, &mut recovery)?;
    let way = probe::write_path(&directory.journal())?;
    let path_of = |file: u32| files.paths[file as usize].clone();
    let in_use = tail.files().iter().map(|(file, number)| (*number, path_of(*file))).collect();
    let free = tail.free().iter().map(|file| path_of(*file)).collect();
    let segment_bytes = config.journal.segment_bytes;
    let segments = Segments::open(&directory.journal(), way, segment_bytes, in_use, free, bell.clone())?;
    let ring = JournalRing::new(way, segments, directory.superblock_path(), bell)?;
    let last = tail.last();
    let journal = Journal::new(&superblock, tail, config.journal);
    let mut effects = Effects::default();
    let replica = recovery.finish(clock::now(), last, service_at, &mut effects);
    Ok(Started { directory, way, snapshots, manifest, service, replica, journal, ring, effects, scheme })
}

fn read_journal(directory: &DataDir, files: &mut JournalFiles, recovery: &mut Recovery) -> Result<Tail, ServerError> {
    let mut records = 0u64;
    let mut on_record = |at: LogPosition, record: Record| {
        records += 1;
        recovery.record(at, record)
    };
    let tail = scan(directory.superblock(), files, &mut on_record);
    let tail = tail.map_err(|error: ScanError<RecoverError>| match error {
        ScanError::Io(source) => ServerError::JournalIo { what: "read", path: directory.journal(), source },
        error
        @ (ScanError::Damage(_) | ScanError::Twice(..) | ScanError::Record { .. } | ScanError::Refused { .. }) => {
            ServerError::JournalDamaged(error.to_string())
        }
    })?;
    tracing::info!(records, last = tail.last().0, "journal read");
    Ok(tail)
}

/// The files of the journal as the scan reads them: a file's handle is its place in the list.
struct JournalFiles {
    paths: Vec<PathBuf>,
    files: Vec<(File, SegmentFile)>,
}

impl JournalFiles {
    /// Opens and flushes them, and their names: what a killed process wrote may sit unflushed, and is about to be
    /// believed (D22).
    fn open(folder: &Path) -> Result<Self, ServerError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| ServerError::JournalIo { what, path, source }
        };
        let paths = segment_files(folder).map_err(failed("list", folder))?;
        let mut files = Vec::new();
        for (number, path) in (0..).zip(&paths) {
            let file = File::open(path).map_err(failed("open", path))?;
            file.sync_all().map_err(failed("flush", path))?;
            let len = file.metadata().map_err(failed("look at", path))?.len();
            let bytes =
                u32::try_from(len).map_err(|_| failed("use", path)(io::Error::from(io::ErrorKind::FileTooLarge)))?;
            files.push((file, SegmentFile { file: number, bytes }));
        }
        flush_folder(folder).map_err(failed("flush", folder))?;
        Ok(Self { paths, files })
    }
}

impl Blocks for JournalFiles {
    fn segments(&mut self) -> io::Result<Vec<SegmentFile>> {
        Ok(self.files.iter().map(|(_, segment)| *segment).collect())
    }

    fn read(&mut self, file: u32, offset: u32, out: &mut [u8]) -> io::Result<()> {
        self.files[file as usize].0.read_exact_at(out, offset.into())
    }
}
