//! From a data directory back to a running replica (PROTOCOL §11): what was written is flushed before it is believed, and
//! checked before it is used. A damaged journal is owned up to, and the replica learns from its peers; in the place of a
//! damaged snapshot it fetches one from them; any other damage stops the start with a reason.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme};
use bft_core::config::ClusterConfig;
use bft_core::door::Effects;
use bft_core::ids::{LogPosition, Seq};
use bft_core::journal::{
    Blocks, Damage, Journal, LongestRecord, Record, ScanError, SegmentFile, Superblock, Tail, scan,
};
use bft_core::replica::{Recovery, Replica};
use bft_core::service::Service;
use bft_core::snapshot::Manifest;

use crate::ServerConfig;
use crate::clock;
use crate::data_dir::{DataDir, flush_folder};
use crate::error::ServerError;
use crate::incoming::whole;
use crate::io::Driver;
use crate::io::doorbell::Doorbell;
use crate::io::journal::JournalDisk;
use crate::io::probe::{self, WritePath};
use crate::io::segments::{Segments, segment_files};
use crate::snapshots::SnapshotFolder;
use crate::stepping::{Seat, Stepped};

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
    /// The replica, or what stands before it.
    pub core: Box<dyn Stepped>,
    /// Its journal.
    pub journal: Journal,
    /// The journal's files, and who carries its blocks to them.
    pub disk: JournalDisk,
    /// What the recovery wants done.
    pub effects: Effects,
    /// The replica's key.
    pub scheme: Arc<dyn Scheme>,
}

/// Reads everything back.
pub fn start(
    config: &ServerConfig,
    mut service: Box<dyn Service>,
    driver: Driver,
    bell: &Arc<Doorbell>,
    seat: Seat,
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
    config.journal.check(LongestRecord::of(config.cluster.n(), config.cluster.params()))?;
    let mut directory = DataDir::open(&config.data_dir, &config.cluster, config.me, scheme.public_key())?;
    let snapshots = SnapshotFolder::open(directory.snapshots())?;
    let (mut recovery, manifest) = begin(config, &scheme, &snapshots, directory.superblock())?;
    let service_at = service.open()?;
    if directory.superblock().snapshot.is_none() && service_at != Seq(0) {
        return Err(ServerError::Config(format!(
            "the service holds the state of Seq {service_at}, but {} has no snapshot: they do not belong together",
            config.data_dir.display()
        )));
    }
    let mut files = JournalFiles::open(&directory.journal())?;
    let tail = match read_journal(&directory, &mut files, &mut recovery)? {
        Found::Whole(tail) => tail,
        Found::Damaged(damage) => {
            own_up(&mut directory, &config.cluster, &damage)?;
            (recovery, _) = begin(config, &scheme, &snapshots, directory.superblock())?;
            files = JournalFiles::open(&directory.journal())?;
            *damage.fresh
        }
    };
    let way = probe::write_path(driver, &directory.journal())?;
    let (in_use, free) = files.sorted(&tail);
    let segment_bytes = config.journal.segment_bytes;
    let segments = Segments::open(&directory.journal(), way, segment_bytes, in_use, free, bell.clone())?;
    let disk = JournalDisk::open(driver.device(way, bell)?, way, segments, directory.superblock_path())?;
    let last = tail.last();
    let journal = Journal::new(directory.superblock(), tail, config.journal);
    let mut effects = Effects::default();
    let replica = recovery.finish(clock::now(), last, service_at, &mut effects);
    let core = seat(replica, &mut effects);
    Ok(Started { directory, way, snapshots, manifest, service, core, journal, disk, effects, scheme })
}

/// A replica at its newest stable snapshot, to be fed with records. Without a state, if that snapshot is damaged.
fn begin(
    config: &ServerConfig,
    scheme: &Arc<dyn Scheme>,
    snapshots: &SnapshotFolder,
    superblock: &Superblock,
) -> Result<(Recovery, Option<Manifest>), ServerError> {
    let (cluster, tuning) = (config.cluster.clone(), config.tuning.clone());
    let mut recovery = Replica::recover(cluster, config.me, scheme.clone(), tuning, superblock.clone());
    let Some((seq, root)) = superblock.snapshot else { return Ok((recovery, None)) };
    let Some((manifest, clients)) = whole(snapshots.load(seq, root))? else {
        recovery.snapshot_lost();
        return Ok((recovery, None));
    };
    recovery.snapshot(&manifest, clients);
    Ok((recovery, Some(manifest)))
}

/// What became of the journal.
enum Found {
    Whole(Tail),
    Damaged(Damage),
}

/// From here on the replica is silent until its peers' checkpoints pass everything that it may have signed.
fn own_up(directory: &mut DataDir, cluster: &ClusterConfig, damage: &Damage) -> Result<(), ServerError> {
    let aside = directory.own_up(damage, cluster)?;
    tracing::error!(
        %damage,
        silent_through = directory.superblock().damaged_through.0,
        set_aside = aside.map(|path| path.display().to_string()),
        "the journal is damaged: this replica learns from its peers, and votes again when the stable checkpoint has \
         reached silent_through. Check the disk"
    );
    Ok(())
}

fn read_journal(directory: &DataDir, files: &mut JournalFiles, recovery: &mut Recovery) -> Result<Found, ServerError> {
    let mut records = 0u64;
    let mut on_record = |at: LogPosition, record: Record| {
        records += 1;
        recovery.record(at, record)
    };
    let tail = scan(directory.superblock(), files, &mut on_record);
    match tail {
        Ok(tail) => {
            tracing::info!(records, last = tail.last().0, "journal read");
            Ok(Found::Whole(tail))
        }
        Err(ScanError::Damage(damage)) => Ok(Found::Damaged(damage)),
        Err(ScanError::Io(source)) => Err(ServerError::JournalIo { what: "read", path: directory.journal(), source }),
        Err(error @ (ScanError::Twice(..) | ScanError::Record { .. } | ScanError::Refused { .. })) => {
            Err(ServerError::JournalUnusable(error.to_string()))
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::JournalIo { what, path, source }
}

/// The files of the journal as the scan reads them: a file's handle is its place in the list.
pub(crate) struct JournalFiles {
    paths: Vec<PathBuf>,
    files: Vec<(File, SegmentFile)>,
}

impl JournalFiles {
    /// Opens and flushes them, and their names: what a killed process wrote may sit unflushed, and is about to be
    /// believed (D22).
    pub(crate) fn open(folder: &Path) -> Result<Self, ServerError> {
        let opened = Self::look(folder)?;
        for ((file, _), path) in opened.files.iter().zip(&opened.paths) {
            file.sync_all().map_err(failed("flush", path))?;
        }
        flush_folder(folder).map_err(failed("flush", folder))?;
        Ok(opened)
    }

    /// Opens them to be read, and changes nothing.
    pub(crate) fn look(folder: &Path) -> Result<Self, ServerError> {
        let paths = segment_files(folder).map_err(failed("list", folder))?;
        let mut files = Vec::new();
        for (number, path) in (0..).zip(&paths) {
            let file = File::open(path).map_err(failed("open", path))?;
            let len = file.metadata().map_err(failed("look at", path))?.len();
            let bytes =
                u32::try_from(len).map_err(|_| failed("use", path)(io::Error::from(io::ErrorKind::FileTooLarge)))?;
            files.push((file, SegmentFile { file: number, bytes }));
        }
        Ok(Self { paths, files })
    }

    /// Where they lie, by their handles.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Those in use by the number of their segment, and the others.
    fn sorted(&self, tail: &Tail) -> (Vec<(u32, PathBuf)>, Vec<PathBuf>) {
        let number = |handle: u32| tail.files().iter().find(|(file, _)| *file == handle).map(|(_, number)| *number);
        let (mut in_use, mut free) = (Vec::new(), Vec::new());
        for (handle, path) in (0..).zip(&self.paths) {
            match number(handle) {
                Some(number) => in_use.push((number, path.clone())),
                None => free.push(path.clone()),
            }
        }
        (in_use, free)
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
