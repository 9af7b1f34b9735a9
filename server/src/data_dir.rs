//! A replica's directory: making it, and taking it at start.
//!
//! ```text
//! LOCK            held by the one process that runs the replica
//! superblock      4 copies of 4 KiB (bft_core::journal::superblock)
//! journal/        *.seg; what a file holds, its first block says
//! journal-damaged-<instance>/  what a start found damaged, as it was
//! snapshots/      <seq>/ (crate::snapshots)
//! evidence/       made when there is some (crate::evidence)
//! divergence/     made when there is a report (crate::divergence)
//! ```
//!
//! [`DataDir`] is the directory of a replica that runs, [`StoppedDir`] one to be looked into.
//!
//! Kept here: the superblock takes its name last when a directory is made, so a directory that has one is whole; nothing
//! in a directory is touched before its lock is held; what is given out belongs to this replica of this cluster.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bft_core::config::ClusterConfig;
use bft_core::ids::{ClusterId, Epoch, PublicKey, ReplicaId};
use bft_core::journal::superblock::Directory;
use bft_core::journal::{
    BLOCK_BYTES, CopyInvalid, Damage, Repair, SUPERBLOCK_FILE_BYTES, Superblock, SuperblockDamage, read_superblock,
};
use bft_core::replica::own_up;
use rustix::fs::{FlockOperation, flock};

use crate::io::segments::segment_files;

const LOCK: &str = "LOCK";
const SUPERBLOCK: &str = "superblock";
const JOURNAL: &str = "journal";
const SNAPSHOTS: &str = "snapshots";
const EVIDENCE: &str = "evidence";
const DIVERGENCE: &str = "divergence";

/// Why a directory can not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file or folder.
    #[error("data directory: {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is something there already.
    #[error("{0} is not empty: a new replica needs a directory of its own (or start the replica that is there)")]
    NotEmpty(PathBuf),
    /// Another process runs the replica.
    #[error("{0} is locked: another process runs this replica; stop that one first")]
    Locked(PathBuf),
    /// No superblock.
    #[error(
        "{0} holds no replica: it has no superblock. A new replica's directory is made with its cluster (`bftd testnet`). If \
         this replica ran before, find the directory it ran in: on an empty one it would break what it promised"
    )]
    NoSuperblock(PathBuf),
    /// A damaged one.
    #[error("{path}: {source}")]
    Damaged {
        /// The superblock.
        path: PathBuf,
        /// In what way.
        source: SuperblockDamage,
    },
    /// The directory of a replica of another cluster.
    #[error("{path} belongs to the cluster {found}, but the configuration is of {expected}")]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: ClusterId,
        /// What was asked for.
        expected: ClusterId,
    },
    /// The directory of another replica.
    #[error("{path} belongs to replica {found}, not to replica {expected}")]
    OtherReplica {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: ReplicaId,
        /// What was asked for.
        expected: ReplicaId,
    },
    /// The directory of another key.
    #[error(
        "{path} was made for the key {found}, but the secret key belongs to {expected}: what was signed with one key can \
         not be continued with another"
    )]
    OtherKey {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: PublicKey,
        /// What was asked for.
        expected: PublicKey,
    },
    /// The directory of another Epoch.
    #[error(
        "{path} is in epoch {found}, the configuration in epoch {expected}: give the cluster.toml of epoch {found}"
    )]
    OtherEpoch {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: Epoch,
        /// What was asked for.
        expected: Epoch,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io { what, path, source }
}

/// Makes names in a folder durable.
pub fn flush_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether a write failed for want of room, which an operator can make.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes the directory of a new replica. `entropy` must be fresh: it names the directory and keys its checks.
pub fn create(
    path: &Path,
    config: &ClusterConfig,
    me: ReplicaId,
    public_key: PublicKey,
    entropy: &[u8; 48],
) -> Result<(), DataDirError> {
    fs::create_dir_all(path).map_err(failed("create", path))?;
    if fs::read_dir(path).map_err(failed("read", path))?.next().is_some() {
        return Err(DataDirError::NotEmpty(path.to_owned()));
    }
    for name in [JOURNAL, SNAPSHOTS] {
        let folder = path.join(name);
        fs::create_dir(&folder).and_then(|()| flush_folder(&folder)).map_err(failed("create", &folder))?;
    }
    let (directory_id, directory_key) = entropy.split_first_chunk().expect("48 bytes are more than 16");
    let superblock = Superblock::first(&Directory {
        cluster_id: config.cluster_id(),
        replica: me,
        public_key,
        epoch: config.epoch(),
        directory_id: *directory_id,
        directory_key: directory_key.try_into().expect("48 bytes are 16 and 32"),
    });
    let unnamed = path.join("superblock.part");
    let written = File::create_new(&unnamed)
        .and_then(|mut file| file.write_all(&superblock.encode_file()).and_then(|()| file.sync_all()))
        .and_then(|()| flush_folder(path))
        .and_then(|()| fs::rename(&unnamed, path.join(SUPERBLOCK)))
        .and_then(|()| flush_folder(path));
    written.map_err(failed("write", &path.join(SUPERBLOCK)))?;
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => flush_folder(Path::new(".")).map_err(failed("flush", parent)),
        Some(parent) => flush_folder(parent).map_err(failed("flush", parent)),
        None => Ok(()),
    }
}

/// A directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Held as long as the replica runs.
    _lock: File,
    superblock: Superblock,
}

impl DataDir {
    /// Takes the directory: locks it, repairs the copies of its superblock, sees that it belongs to this replica, and
    /// raises its instance. All of that is flushed.
    pub fn open(
        path: &Path,
        config: &ClusterConfig,
        me: ReplicaId,
        public_key: PublicKey,
    ) -> Result<Self, DataDirError> {
        let file_path = path.join(SUPERBLOCK);
        if !file_path.try_exists().map_err(failed("look for", &file_path))? {
            return Err(DataDirError::NoSuperblock(path.to_owned()));
        }
        let lock = lock(path)?;
        let mut file =
            OpenOptions::new().read(true).write(true).open(&file_path).map_err(failed("open", &file_path))?;
        let bytes = read_file(&mut file, &file_path)?;
        let read = read_superblock(&bytes);
        let (mut superblock, repair) =
            read.map_err(|source| DataDirError::Damaged { path: file_path.clone(), source })?;
        let repaired = repair
            .copies
            .iter()
            .try_for_each(|copy| file.write_all_at(&repair.block, u64::from(*copy) * BLOCK_BYTES as u64));
        // Flushed even when nothing was repaired: a killed process may have left it unflushed (D22).
        repaired
            .and_then(|()| file.sync_all())
            .and_then(|()| flush_folder(path))
            .map_err(failed("repair", &file_path))?;
        check_owner(path, &superblock, config, me, public_key)?;
        superblock.sequence += 1;
        superblock.instance += 1;
        write_in_halves(&file, &superblock).map_err(failed("write", &file_path))?;
        Ok(Self { path: path.to_owned(), _lock: lock, superblock })
    }

    /// What the superblock says now.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The journal is damaged. First the superblock says so, in all four copies; then the journal's files are set aside, as
    /// they are, and it starts anew. Gives where they lie now; `None`: there is no file left of it.
    pub fn own_up(&mut self, damage: &Damage, config: &ClusterConfig) -> Result<Option<PathBuf>, DataDirError> {
        let path = self.superblock_path();
        own_up(&mut self.superblock, damage, config);
        let file = OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?;
        write_in_halves(&file, &self.superblock).map_err(failed("write", &path))?;
        let journal = self.journal();
        let files = segment_files(&journal).map_err(failed("read", &journal))?;
        if files.is_empty() {
            return Ok(None);
        }
        let aside = self.path.join(format!("{JOURNAL}-damaged-{}", self.superblock.instance));
        fs::create_dir(&aside).map_err(failed("create", &aside))?;
        for file in files {
            let name = file.file_name().expect("a file in a folder has a name");
            fs::rename(&file, aside.join(name)).map_err(failed("move", &file))?;
        }
        for folder in [&aside, &journal, &self.path] {
            flush_folder(folder).map_err(failed("flush", folder))?;
        }
        Ok(Some(aside))
    }

    /// The superblock's file.
    #[must_use]
    pub fn superblock_path(&self) -> PathBuf {
        self.path.join(SUPERBLOCK)
    }

    /// The folder of the journal's segments.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The folder of snapshots.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    /// The folder of evidence, which need not be there.
    #[must_use]
    pub fn evidence(&self) -> PathBuf {
        self.path.join(EVIDENCE)
    }

    /// The folder of reports of divergences, which need not be there.
    #[must_use]
    pub fn divergence(&self) -> PathBuf {
        self.path.join(DIVERGENCE)
    }
}

/// Writes a file that is for people: under its name it is whole and flushed. Its folder is made with the first file in it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().expect("a file lies in a folder");
    if !folder.exists() {
        fs::create_dir(folder)?;
        folder.parent().map_or(Ok(()), flush_folder)?;
    }
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(bytes).and_then(|()| file.sync_all())?;
    fs::rename(&part, path)?;
    flush_folder(folder)
}

fn lock(path: &Path) -> Result<File, DataDirError> {
    let path = path.join(LOCK);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = options.map_err(failed("open", &path))?;
    hold(file, path, FlockOperation::NonBlockingLockExclusive)
}

fn hold(file: File, path: PathBuf, how: FlockOperation) -> Result<File, DataDirError> {
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::Locked(path)),
        Err(error) => Err(failed("lock", &path)(error.into())),
    }
}

/// The bytes of the superblock's file; one more than there should be, so that a longer file is not taken for a whole one.
fn read_file(file: &mut File, path: &Path) -> Result<Vec<u8>, DataDirError> {
    let mut bytes = Vec::new();
    let most = SUPERBLOCK_FILE_BYTES as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(failed("read", path))?;
    Ok(bytes)
}

/// The directory of a replica that does not run, to be looked into. Every file is opened for reading and nothing else, and
/// no replica starts on it meanwhile.
#[derive(Debug)]
pub struct StoppedDir {
    path: PathBuf,
    /// `None`: the replica never ran, or the directory is a copy.
    _lock: Option<File>,
    superblock: Vec<u8>,
}

impl StoppedDir {
    /// Refused while a replica runs in it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let file_path = path.join(SUPERBLOCK);
        let mut file = match File::open(&file_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DataDirError::NoSuperblock(path.to_owned()));
            }
            opened => opened.map_err(failed("open", &file_path))?,
        };
        let lock_path = path.join(LOCK);
        let lock = match File::open(&lock_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => {
                let file = opened.map_err(failed("open", &lock_path))?;
                Some(hold(file, lock_path, FlockOperation::NonBlockingLockShared)?)
            }
        };
        let superblock = read_file(&mut file, &file_path)?;
        Ok(Self { path: path.to_owned(), _lock: lock, superblock })
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the superblock's file says as a whole, and which copies differ from that.
    pub fn superblock(&self) -> Result<(Superblock, Repair), DataDirError> {
        let path = self.path.join(SUPERBLOCK);
        read_superblock(&self.superblock).map_err(|source| DataDirError::Damaged { path, source })
    }

    /// What each of its copies says; fewer than four: the file is too short.
    #[must_use]
    pub fn copies(&self) -> Vec<Result<Superblock, CopyInvalid>> {
        self.superblock.chunks_exact(BLOCK_BYTES).map(Superblock::decode).collect()
    }

    /// The folder of the journal's segments.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The folder of snapshots.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }
}

pub(crate) fn check_owner(
    path: &Path,
    superblock: &Superblock,
    config: &ClusterConfig,
    me: ReplicaId,
    public_key: PublicKey,
) -> Result<(), DataDirError> {
    let path = path.to_owned();
    if superblock.cluster_id != config.cluster_id() {
        return Err(DataDirError::OtherCluster { path, found: superblock.cluster_id, expected: config.cluster_id() });
    }
    if superblock.replica != me {
        return Err(DataDirError::OtherReplica { path, found: superblock.replica, expected: me });
    }
    if superblock.public_key != public_key {
        return Err(DataDirError::OtherKey { path, found: superblock.public_key, expected: public_key });
    }
    if superblock.epoch != config.epoch() {
        return Err(DataDirError::OtherEpoch { path, found: superblock.epoch, expected: config.epoch() });
    }
    Ok(())
}

/// Copies 0 and 1, a flush, copies 2 and 3, a flush: at every moment two copies are equal and whole (D9).
fn write_in_halves(file: &File, superblock: &Superblock) -> io::Result<()> {
    let bytes = superblock.encode_file();
    let half = SUPERBLOCK_FILE_BYTES / 2;
    for at in [0, half] {
        file.write_all_at(&bytes[at..at + half], at as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bft_core::auth::{Ed25519, Scheme};
    use bft_core::config::{Admission, Member, ProtocolParams};

    use super::*;

    fn key(of: u8) -> PublicKey {
        Ed25519::new(&[of; 32], [0; 32]).public_key()
    }

    fn config(cluster: u8, epoch: u64) -> ClusterConfig {
        let member = |of| Member { weight: 1, public_key: key(of), address: format!("127.0.0.1:{of}") };
        let members = (1..=4).map(member).collect();
        let params = ProtocolParams::default();
        ClusterConfig::new(ClusterId([cluster; 32]), Epoch(epoch), params, Admission::Any, members).unwrap()
    }

    fn created(dir: &Path) -> PathBuf {
        let path = dir.join("r1");
        create(&path, &config(1, 0), ReplicaId(1), key(2), &[9; 48]).unwrap();
        path
    }

    fn open(path: &Path) -> Result<DataDir, DataDirError> {
        DataDir::open(path, &config(1, 0), ReplicaId(1), key(2))
    }

    #[test]
    fn a_directory_is_made_once_and_its_instance_rises_with_every_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = created(dir.path());
        for instance in 1..=3 {
            let opened = open(&path).unwrap();
            assert_eq!(opened.superblock().instance, instance);
            assert!(opened.journal().is_dir() && opened.snapshots().is_dir());
        }
        let again = create(&path, &config(1, 0), ReplicaId(1), key(2), &[8; 48]);
        assert!(matches!(again, Err(DataDirError::NotEmpty(_))));
    }

    #[test]
    fn d11_a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = created(dir.path());
        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(DataDirError::Locked(_))));
        drop(first);
        open(&path).unwrap();
    }

    #[test]
    fn d12_an_empty_directory_is_no_replica() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, DataDirError::NoSuperblock(_)) && error.to_string().contains("bftd testnet"));
        assert!(!dir.path().join(LOCK).exists(), "nothing is left in a directory that is none of ours");
    }

    #[test]
    fn x5_a_directory_of_another_cluster_replica_key_or_epoch_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = created(dir.path());
        let open = |config: &ClusterConfig, me, public_key| DataDir::open(&path, config, ReplicaId(me), public_key);
        assert!(matches!(open(&config(2, 0), 1, key(2)), Err(DataDirError::OtherCluster { .. })));
        assert!(matches!(open(&config(1, 0), 2, key(2)), Err(DataDirError::OtherReplica { .. })));
        assert!(matches!(open(&config(1, 0), 1, key(3)), Err(DataDirError::OtherKey { .. })));
        assert!(matches!(open(&config(1, 1), 1, key(2)), Err(DataDirError::OtherEpoch { .. })));
        assert_eq!(open(&config(1, 0), 1, key(2)).unwrap().superblock().instance, 1, "a refusal changes nothing");
    }

    #[test]
    fn d21_copies_that_a_crash_left_different_are_repaired_before_anything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = created(dir.path());
        drop(open(&path).unwrap());
        let file = path.join(SUPERBLOCK);
        let whole = fs::read(&file).unwrap();
        let mut torn = whole.clone();
        torn[..BLOCK_BYTES].fill(7);
        torn[BLOCK_BYTES..2 * BLOCK_BYTES].fill(0);
        fs::write(&file, &torn).unwrap();
        assert_eq!(open(&path).unwrap().superblock().instance, 2);
        torn[2 * BLOCK_BYTES + 100] ^= 1;
        fs::write(&file, &torn).unwrap();
        assert!(matches!(open(&path), Err(DataDirError::Damaged { .. })));
    }
}
