//! Why a replica can not start or must stop.

use std::io;
use std::path::PathBuf;

use bft_core::door::Halt;
use bft_core::journal::SegmentTooShort;
use bft_core::service::ServiceFault;

use crate::data_dir::DataDirError;
use crate::snapshots::SnapshotError;

/// Why [`crate::run`] ended. What was promised before stays kept: everything that left the process was durable.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// io_uring is not to be had.
    #[error(transparent)]
    IoUringRefused(#[from] IoUringRefused),
    /// A write, flush or read of the journal failed. It is never tried again: after a failed flush nobody knows what is
    /// on the disk (D2).
    #[error(
        "the journal's disk failed: {what} {path}: {source}. This replica stops; check the disk, then start it again"
    )]
    JournalIo {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The journal can be read, but not by this program, or not as one.
    #[error("journal: {0}")]
    JournalUnusable(String),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The service.
    #[error(transparent)]
    Service(ServiceFault),
    /// The core stops the replica.
    #[error(transparent)]
    Halted(Halt),
    /// A socket of the replica itself.
    #[error("the listening socket: {0}")]
    Listener(io::Error),
    /// What the configuration and the keys say does not fit together.
    #[error("{0}")]
    Config(String),
    /// The journal's segments are too short for the cluster.
    #[error(transparent)]
    SegmentTooShort(#[from] SegmentTooShort),
    /// A thread of the replica ended by itself; it has printed why.
    #[error("the {0} thread ended unexpectedly")]
    ThreadEnded(&'static str),
    /// The executor could not be made or run.
    #[error("the executor failed: {0}")]
    Executor(String),
}

/// io_uring is refused, or does not do what the journal and the sockets need.
#[derive(Debug, thiserror::Error)]
#[error(
    "io_uring is refused here ({what}: {source}). Allow it: `sysctl kernel.io_uring_disabled=0`; in a container a seccomp \
     profile that lets io_uring_setup, io_uring_enter and io_uring_register pass; and at least 512 KiB of locked memory \
     for each core (`ulimit -l`, LimitMEMLOCK=). Or do without it: `io = \"auto\"` in bftd.toml"
)]
pub struct IoUringRefused {
    /// What was tried.
    pub what: &'static str,
    /// What the system says.
    pub source: io::Error,
}
