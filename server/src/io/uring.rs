//! The executors: sockets, timers and the journal's ring on glommio. All decisions are made elsewhere (`shard`,
//! `ordering`); here bytes are moved and tasks woken.
//!
//! With one core everything happens on one executor: a turn takes what the sockets brought, steps the core, writes the
//! journal, seals and sends, and runs the service, without a hop between threads. With more, each executor has a shard
//! of the links; executor 0 has the core too, and hands frames and answers to the others over bounded queues.

mod cores;
mod executor;
mod node;
mod socket;
mod wake;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bft_core::door::{Answer, Lane, To};
use bft_core::ids::LinkId;
use bft_core::service::Service;
use bft_link::LocalIdentity;
use bytes::Bytes;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

use crate::brim::Brim;
use crate::control::Control;
use crate::counters::ShardCounters;
use crate::error::{IoUringRefused, ServerError};
use crate::io::doorbell::Doorbell;
use crate::io::probe;
use crate::shard::{Arrival, Handover, ShardSetup};
use crate::start::start;
use crate::{Pin, ServerConfig};
use cores::Cores;
use executor::Executor;
use socket::Descriptor;

/// Memory that each of an executor's rings registers; its files are read by other means.
const IO_MEMORY: usize = 64 * 1024;
/// Entries of each of an executor's three rings: locked memory is scarce.
const RING_DEPTH: usize = 128;
/// Arrivals on their way from a shard to the core. A full queue stops the reading of that shard's sockets.
const ARRIVALS_MAX: usize = 4096;
/// Frames and answers on their way from the core to a shard.
const DISPATCHES_MAX: usize = 16 * 1024;

/// What the core has for a shard on another executor.
enum Dispatch {
    Frame { to: To, lane: Lane, frame: Bytes },
    Answer { link: LinkId, answer: Answer },
    StopAdmitting,
}

/// What others leave for an executor, beside its queues. Not on the way of a request.
struct Inbox {
    bell: Arc<Doorbell>,
    links: Mutex<Vec<(Descriptor, Handover)>>,
    is_stopping: AtomicBool,
    /// The shard's queue to the core was full: it wants to hear when there is room.
    is_starved: AtomicBool,
}

impl Inbox {
    fn new(bell: Arc<Doorbell>) -> Arc<Self> {
        let (links, is_stopping) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { bell, links, is_stopping, is_starved: AtomicBool::new(false) })
    }

    fn hand_over(&self, descriptor: Descriptor, handover: Handover) {
        self.links.lock().expect("nobody panics while holding it").push((descriptor, handover));
        self.bell.ring();
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// The other end of a shard on another executor, as executor 0 has it.
struct RemoteShard {
    inbox: Arc<Inbox>,
    arrivals: rtrb::Consumer<Arrival>,
    dispatches: rtrb::Producer<Dispatch>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

/// The core's end, as the shard has it.
struct ToCore {
    bell: Arc<Doorbell>,
    arrivals: rtrb::Producer<Arrival>,
    dispatches: rtrb::Consumer<Dispatch>,
}

/// Runs a replica until it is stopped or fails. Executor 0 runs on the calling thread.
pub fn run(config: ServerConfig, service: Box<dyn Service>, control: &Control) -> Result<(), ServerError> {
    probe::io_uring(config.cores)?;
    let cores_granted = Cores::of_this_thread()?;
    let bell = control.bell();
    let started = start(&config, service, &bell)?;
    let ServerConfig { cluster, me, listener, cores, pin, rules, .. } = config;
    let instance = started.directory.superblock().instance;
    let identity = LocalIdentity::replica(cluster.clone(), started.scheme.clone(), me, instance)
        .map_err(|error| ServerError::Config(error.to_string()))?;
    let shards = u16::try_from(cores.max(1)).map_err(|_| ServerError::Config(format!("{cores} cores")))?;
    let scheme = started.scheme.clone();
    let brim = Arc::new(Brim::default());
    let setup = ShardSetup { index: 0, shards, brim, config: cluster, scheme, identity, me, rules };
    let counters: Vec<_> = (0..shards).map(|_| Arc::new(ShardCounters::default())).collect();
    let inboxes: Vec<_> = std::iter::once(Ok(Inbox::new(bell)))
        .chain((1..shards).map(|_| Doorbell::new().map(|bell| Inbox::new(Arc::new(bell)))))
        .collect::<std::io::Result<_>>()
        .map_err(|error| ServerError::Executor(error.to_string()))?;
    let mut remotes = Vec::new();
    let mut listener = Some(listener);
    for index in (1..shards).rev() {
        // The last shard opens the door: handshakes cost, and the core's executor has enough to do.
        let place = ShardPlace { index, pin, setup: setup.clone(), counters: counters[usize::from(index)].clone() };
        remotes.push(start_shard(place, listener.take(), &inboxes));
    }
    remotes.reverse();
    let executor = make_executor(0, pin)?;
    let outcome = executor.run(async {
        let local = Executor::new(setup, counters[0].clone(), inboxes.clone(), None)?;
        node::run(local, listener, started, remotes, counters, control, &cores_granted).await
    });
    drop(executor);
    outcome
}

/// Where a shard's executor runs, and what it is.
struct ShardPlace {
    index: u16,
    pin: Pin,
    setup: ShardSetup,
    counters: Arc<ShardCounters>,
}

fn start_shard(place: ShardPlace, listener: Option<TcpListener>, inboxes: &[Arc<Inbox>]) -> RemoteShard {
    let (arrivals, from_shard) = rtrb::RingBuffer::new(ARRIVALS_MAX);
    let (to_shard, dispatches) = rtrb::RingBuffer::new(DISPATCHES_MAX);
    let inbox = inboxes[usize::from(place.index)].clone();
    let core = ToCore { bell: inboxes[0].bell.clone(), arrivals, dispatches };
    let inboxes = inboxes.to_vec();
    let thread = std::thread::Builder::new().name(format!("bft-shard-{}", place.index));
    let thread = thread.spawn(move || {
        let executor = make_executor(place.index, place.pin)?;
        let setup = ShardSetup { index: place.index, ..place.setup };
        executor.run(async {
            let local = Executor::new(setup, place.counters, inboxes, Some(core))?;
            local.run_shard(listener).await
        })
    });
    let thread = Some(thread.expect("the system has threads left"));
    RemoteShard { inbox, arrivals: from_shard, dispatches: to_shard, thread }
}

fn make_executor(index: u16, pin: Pin) -> Result<LocalExecutor, ServerError> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let placement = match pin {
        Pin::Pinned => Placement::Fixed(usize::from(index) % cpus),
        Pin::Free => Placement::Unbound,
    };
    let builder = LocalExecutorBuilder::new(placement).io_memory(IO_MEMORY).ring_depth(RING_DEPTH);
    builder.make().map_err(|error| {
        let source = std::io::Error::other(error.to_string());
        IoUringRefused { what: "the executor's rings", source }.into()
    })
}
