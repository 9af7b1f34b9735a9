//! The only room that knows what moves bytes. Two drivers do, and what is asked for or allowed here decides which runs:
//! `uring` (glommio's executors, and a ring for the journal) and, where io_uring is refused, `epoll` (an event loop for each
//! shard, and a thread that writes and flushes). All decisions are made elsewhere (`shard`, `ordering`).
//!
//! Both drive the same things: `host` (the core, its journal, its service, and what it has for the shards), `mesh` (what
//! goes between executors), `journal` and `segments` (blocks, and the files they lie in), `redial` and `cores`. Of a
//! driver's own are its sockets, its timers and its `journal::Device`.
//!
//! With one core everything happens on one executor: a turn takes what the sockets brought, steps the core, writes the
//! journal, seals and sends, and runs the service, without a hop between threads. With more, each executor has a shard
//! of the links; executor 0 has the core too, and hands frames and answers to the others over bounded queues.

mod cores;
pub mod doorbell;
mod epoll;
mod host;
pub mod journal;
mod mesh;
pub mod probe;
mod redial;
pub mod segments;
mod uring;

use std::sync::Arc;

use bft_core::auth::Verifier;
use bft_core::service::Service;
use bft_link::LocalIdentity;

use crate::ServerConfig;
use crate::brim::Brim;
use crate::control::Control;
use crate::counters::ShardCounters;
use crate::error::ServerError;
use crate::io::doorbell::Doorbell;
use crate::io::journal::Device;
use crate::shard::ShardSetup;
use crate::start::start;
use crate::stepping::Seat;
use cores::Cores;
use host::Core;
use mesh::{Inbox, Place};

/// Read at a time. One buffer for all sockets of an executor: what was read is opened before anything else is.
const READ_BYTES: usize = 256 * 1024;
/// Read at a time from a client: under load its Requests are to be few in a turn, and all clients to have theirs soon.
const CLIENT_READ_BYTES: usize = 128 * 1024;
/// Sealed and written at a time to one socket.
const WRITE_BYTES: usize = 256 * 1024;
/// How often handshakes and silent links are looked at, in nanoseconds.
const TICK: u64 = 250_000_000;
/// A wait after the system refused another connection, in nanoseconds: it has no descriptors left.
const ACCEPT_RETRY: u64 = 50_000_000;
/// How long a silent connection of a client lives before the kernel asks whether it is there.
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(60);

/// Who moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// glommio and a ring of the journal's own.
    Uring,
    /// epoll, and a thread for the journal.
    Epoll,
}

impl Driver {
    /// As people and `bftd status` call it. What INFO says of durable writes begins with it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        }
    }

    /// Whose durable writes these words of INFO are about; `None`: nobody's that this program knows.
    #[must_use]
    pub fn of_write_path(words: &str) -> Option<Self> {
        let name = words.split(',').next()?;
        [Self::Uring, Self::Epoll].into_iter().find(|driver| driver.name() == name)
    }

    /// Its way to the disk; what it has done it says with `bell`.
    pub(crate) fn device(self, way: probe::WritePath, bell: &Arc<Doorbell>) -> Result<Box<dyn Device>, ServerError> {
        match self {
            Self::Uring => Ok(Box::new(uring::Ring::new(way, bell)?)),
            Self::Epoll => Ok(Box::new(epoll::Writer::start(way, bell.clone()))),
        }
    }
}

/// Runs a replica until it is stopped or fails. Executor 0 runs on the calling thread.
pub fn run(config: ServerConfig, service: Box<dyn Service>, control: &Control, seat: Seat) -> Result<(), ServerError> {
    let driver = probe::driver(config.io, config.cores)?;
    let cores = Cores::of_this_thread()?;
    let bell = control.bell();
    let started = start(&config, service, driver, &bell, seat)?;
    let ServerConfig { cluster, me, listener, cores: granted, pin, rules, .. } = config;
    let instance = started.directory.superblock().instance;
    let identity = LocalIdentity::replica(cluster.clone(), started.scheme.clone(), me, instance)
        .map_err(|error| ServerError::Config(error.to_string()))?;
    let shards = u16::try_from(granted.max(1)).map_err(|_| ServerError::Config(format!("{granted} cores")))?;
    let brim = Arc::new(Brim::default());
    let verifier = Verifier::new(cluster.clone(), started.scheme.clone());
    let setup = ShardSetup { index: 0, shards, brim, config: cluster, verifier, identity, me, rules };
    let counters: Vec<_> = (0..shards).map(|_| Arc::new(ShardCounters::default())).collect();
    let inboxes: Vec<_> = std::iter::once(Ok(Inbox::new(bell)))
        .chain((1..shards).map(|_| Doorbell::new().map(|bell| Inbox::new(Arc::new(bell)))))
        .collect::<std::io::Result<_>>()
        .map_err(|error| ServerError::Executor(error.to_string()))?;
    let place = |index: u16| {
        let setup = ShardSetup { index, ..setup.clone() };
        Place { pin, setup, counters: counters[usize::from(index)].clone(), inboxes: inboxes.clone() }
    };
    let mut remotes = Vec::new();
    let mut listener = Some(listener);
    for index in (1..shards).rev() {
        // The last shard opens the door: handshakes cost, and the core's executor has enough to do.
        remotes.push(mesh::start_shard(driver, place(index), listener.take()));
    }
    remotes.reverse();
    let core = Core { driver, started, remotes, shards: counters.clone(), control, cores: &cores };
    match driver {
        Driver::Uring => uring::run_core(place(0), listener, core),
        Driver::Epoll => epoll::run_core(place(0), listener, core),
    }
}

#[cfg(test)]
mod tests {
    use super::probe::WritePath;
    use super::*;

    #[test]
    fn the_words_of_info_tell_the_driver() {
        for driver in [Driver::Uring, Driver::Epoll] {
            for way in [WritePath::Fdatasync, WritePath::Dsync, WritePath::Buffered] {
                assert_eq!(Driver::of_write_path(way.words(driver)), Some(driver));
            }
        }
        assert_eq!(Driver::of_write_path(""), None);
    }
}
