//! The runtime of a replica: everything around [`bft_core::replica::Replica`] that touches the world. Connections and
//! their links, the journal's disk, the service, snapshots, time.
//!
//! ```text
//! socket -> shard: open records, cut frames, check signatures -> ordering: Replica::step -> journal
//!                                                                    |-> execution: the service -> answers
//! ```
//! [`run`] blocks until the replica is stopped through its [`Control`] or can not go on; [`data_dir::create`] makes the
//! directory it needs. One room, [`io`], knows who moves the bytes, io_uring or epoll; everything else is plain code.

pub mod brim;
pub mod children;
pub mod clock;
pub mod config;
pub mod control;
pub mod counters;
pub mod data_dir;
pub mod divergence;
pub mod error;
pub mod evidence;
pub mod execution;
pub mod incoming;
pub mod io;
pub mod offline;
pub mod ordering;
mod pace;
pub mod progress;
pub mod shard;
pub mod snapshots;
mod start;
pub mod stepping;
pub mod testnet;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use bft_core::config::ClusterConfig;
use bft_core::door::Tuning;
use bft_core::ids::ReplicaId;
use bft_core::journal::JournalOptions;
use bft_core::service::Service;
use serde::Deserialize;
use stepping::Seat;

pub use control::Control;
pub use error::{IoUringRefused, ServerError};
pub use shard::rates::ClientRates;

/// What a replica is started with.
pub struct ServerConfig {
    /// The cluster.
    pub cluster: Arc<ClusterConfig>,
    /// Which replica of it.
    pub me: ReplicaId,
    /// Its secret key, an Ed25519 seed.
    pub secret_key: [u8; 32],
    /// Its directory, made by [`data_dir::create`].
    pub data_dir: PathBuf,
    /// Where it is connected to. Bound by the caller: so a port can be chosen, or handed down.
    pub listener: TcpListener,
    /// Cores granted: 1 runs everything on one executor, the service too; with more, each has an executor, and the
    /// service a thread.
    pub cores: usize,
    /// Whether the executors are pinned to the cores 0, 1, …: only where no one else uses those.
    pub pin: Pin,
    /// Who moves the bytes.
    pub io: Io,
    /// How the journal is written.
    pub journal: JournalOptions,
    /// Intervals and bounds of the core.
    pub tuning: Tuning,
    /// What connections are held to.
    pub rules: LinkRules,
}

/// What those are held to who connect to this replica. Its own choice: other replicas may have others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRules {
    /// The longest time for which a source of what only an enemy sends is refused, in nanoseconds; 0: nobody is.
    pub refusal_max: u64,
    /// How much one client's key may bring.
    pub rates: ClientRates,
}

impl Default for LinkRules {
    fn default() -> Self {
        Self { refusal_max: shard::refusals::LONGEST, rates: ClientRates::default() }
    }
}

/// Whether executors stay on their cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// They do.
    Pinned,
    /// The system moves them.
    Free,
}

/// Who moves a replica's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// io_uring, or epoll where that is refused.
    #[default]
    Auto,
    /// io_uring; where it is refused the replica does not start.
    Uring,
    /// epoll.
    Epoll,
}

impl Io {
    /// As it stands in `bftd.toml`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Runs a replica. Returns `Ok` when it was stopped, everything flushed and the journal closed; an error when it could
/// not start or had to stop. The calling thread runs the core.
pub fn run(config: ServerConfig, service: Box<dyn Service>, control: Control) -> Result<(), ServerError> {
    run_seated(config, service, control, stepping::plain())
}

/// The same, with `seat` deciding who is stepped. For those who put something before a replica to see what becomes of a
/// cluster; whoever runs a replica calls [`run`].
pub fn run_seated(
    config: ServerConfig,
    service: Box<dyn Service>,
    control: Control,
    seat: Seat,
) -> Result<(), ServerError> {
    let ended = EndedAtDrop(&control);
    let outcome = io::run(config, service, &control, seat);
    drop(ended);
    outcome
}

/// Says that the replica has ended, also when it ends in a panic.
struct EndedAtDrop<'a>(&'a Control);

impl Drop for EndedAtDrop<'_> {
    fn drop(&mut self) {
        self.0.ended();
    }
}

/// Fresh bytes from the system.
/// What a new directory is named and keyed with.
#[must_use]
pub fn directory_entropy() -> [u8; 48] {
    let mut bytes = [0; 48];
    getrandom::fill(&mut bytes).expect("the system gives entropy");
    bytes
}

fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system gives entropy");
    bytes
}
