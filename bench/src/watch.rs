//! What is seen of the replicas while the load runs: what they say of themselves (INFO), and, where they are this
//! program's children, what the system says of their processes and folders.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bft_client::{Client, ClientConfig, Completions, OpenError, SessionStart};
use bft_core::ids::ReplicaId;
use bft_core::wire::message::Info;
use bft_server::children::{LocalCluster, Usage};

/// How long a replica has to say how it is; under load its answer waits, and one that is silent says nothing.
pub const INFO: Duration = Duration::from_secs(2);
/// A block of `stat(2)`.
const BLOCK_BYTES: u64 = 512;

/// One who asks the replicas.
pub struct Observer(Client);

impl Observer {
    /// With links of its own, and no session.
    pub fn open(config: &ClientConfig) -> Result<Self, OpenError> {
        let session = SessionStart::WithFirstOperation;
        let mut config = ClientConfig { session, ..config.clone() };
        if config.authority.is_some() {
            config.key = None;
        }
        Client::open(config, Completions::Futures).map(Self)
    }

    /// What each replica says, by id; `None` for one that is silent for so long.
    pub fn ask(&self, patience: Duration) -> Vec<Option<Info>> {
        self.0.query_info(patience, false).into_iter().map(|(_, info)| info).collect()
    }
}

/// Replicas that are children of this process.
pub struct Processes {
    replicas: Vec<Process>,
}

struct Process {
    replica: ReplicaId,
    id: u32,
    journal: PathBuf,
    snapshots: PathBuf,
}

/// What one replica's process holds at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Memory, in bytes.
    pub rss: u64,
    /// Its journal on the disk, in bytes.
    pub journal: u64,
    /// Its snapshots on the disk, in bytes.
    pub snapshots: u64,
}

impl Holding {
    /// The larger of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            rss: self.rss.max(other.rss),
            journal: self.journal.max(other.journal),
            snapshots: self.snapshots.max(other.snapshots),
        }
    }
}

impl Processes {
    /// Those that run in `cluster`.
    pub fn of(cluster: &LocalCluster) -> Self {
        let process = |(replica, child): (ReplicaId, &bft_server::children::Child)| {
            let data = cluster.testnet().replica_dir(replica).join("data");
            Process { replica, id: child.id(), journal: data.join("journal"), snapshots: data.join("snapshots") }
        };
        Self { replicas: cluster.running().map(process).collect() }
    }

    /// What each holds now.
    pub fn holdings(&self) -> Vec<Holding> {
        let holding = |process: &Process| Holding {
            rss: resident_bytes(process.id).unwrap_or(0),
            journal: folder_bytes(&process.journal),
            snapshots: folder_bytes(&process.snapshots),
        };
        self.replicas.iter().map(holding).collect()
    }

    /// Who they are.
    pub fn ids(&self) -> impl Iterator<Item = ReplicaId> {
        self.replicas.iter().map(|process| process.replica)
    }
}

/// What each replica has used so far; zero for one that has ended.
pub fn usages(cluster: &LocalCluster) -> Vec<Usage> {
    cluster.running().map(|(_, child)| child.usage().unwrap_or_default()).collect()
}

/// Out of `/proc/PID/status`.
fn resident_bytes(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What the files of a folder take of the disk. Files come and go meanwhile.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_processes_have_a_size() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        fs::write(dir.path().join("inner/file"), vec![1; 10_000]).unwrap();
        assert!(folder_bytes(dir.path()) >= 8192);
        assert_eq!(folder_bytes(&dir.path().join("nowhere")), 0);
        assert!(resident_bytes(std::process::id()).unwrap() > 100_000);
    }
}
