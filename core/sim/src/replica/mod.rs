//! A machine with its disk, and the process of a replica on it: carries out what the core wants, by the contract of
//! `bft_core::door`, with the production journal on a simulated disk. Decides nothing of the protocol. Here: what a
//! machine is, and where each event on it goes.
//!
//! * `life`: how a process begins and ends; `inputs`: from events to inputs; `effects`: a step and what it wants done;
//! * `outbox`: what leaves, and what a villain makes of it; `machinery`: writes and threads;
//! * `failing`: disks that fail or have no room; `power`: the plug, and what is left when it is pulled;
//! * `judged`: what judges see; `told`: what the trace says.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bft_core::auth::Verifier;
use bft_core::door::{Effects, Execute, Input, Now, Outgoing, SnapshotOrder};
use bft_core::ids::{LinkId, LogPosition, Nanos, ReplicaId, Seq, WallNanos};
use bft_core::journal::{Journal, JournalOptions, Ticket};
use bft_core::replica::{QuarantinePhase, Replica};
use bft_core::service::ReplyBuffer;
use bft_core::snapshot::Manifest;
use bft_core::wire::request::SignedRequest;

use crate::boot;
use crate::checkers::divergence::Trust;
use crate::disk::{Disk, FileName, Pending};
use crate::images::Writer;
use crate::ledger::{Drift, Ledger, Wrong};
use crate::network::Node;
use crate::options::Options;
use crate::points::Plug;
use crate::rng::{Rng, Seed};
use crate::villains::means::Means;
use crate::villains::{Lasts, Twin};
use crate::world::{Event, InLife, Life, ToMachine, World};

pub use failing::Failing;

mod effects;
mod failing;
mod inputs;
mod judged;
mod life;
mod machinery;
mod outbox;
mod power;
mod told;

/// Nanoseconds since 1970 at the beginning of every run.
const EPOCH_START: u64 = 1_800_000_000_000_000_000;

/// How a process ends against its will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; the machine runs on.
    Killed,
    /// The machine loses its power.
    PowerLost,
    /// The process stops as it should: everything queued is written, and a mark behind it.
    Stopped,
}

/// Why a replica will not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It is one of two under one name, and the others went on with what the other one said.
    Outvoted,
    /// It was a villain, and what it caused stopped its own core.
    Undone,
}

/// What became of a machine's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rot {
    /// Nothing.
    Unharmed,
    /// It was damaged, and no start has seen it.
    Hidden,
    /// It was found. Until what is written anew is durable beyond this position, the next start may find it again.
    Found(LogPosition),
}

/// What became of the snapshot that a machine's superblock names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// Nothing.
    Unharmed,
    /// It was damaged, and no start has seen it.
    Hidden,
    /// It was found, and no other snapshot has taken its place.
    Found,
}

/// What is wrong with a machine from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// Nothing.
    Correct,
    /// It attacks.
    Villain,
    /// Its service is not deterministic.
    Drifter,
    /// It is one of two that act under one name, each as it should.
    Twin,
    /// Nothing was, until its disk was put back to an earlier state of itself.
    PutBack,
}

impl Character {
    /// Whether what it says of others, and what others say of it, is judged.
    #[must_use]
    pub fn is_judged(self) -> bool {
        match self {
            Self::Correct | Self::Drifter => true,
            Self::Villain | Self::Twin | Self::PutBack => false,
        }
    }
}

/// A machine: a disk, clocks, and perhaps a running process.
pub struct Machine {
    node: Node,
    id: ReplicaId,
    disk: Disk,
    rng: Rng,
    fate: Rng,
    life: Life,
    process: Option<Box<Process>>,
    gone: Option<Gone>,
    rot: Rot,
    /// What became of the snapshot that its superblock names.
    spoilt: Spoilt,
    awaits_state: bool,
    /// How far the last start knew of damage.
    owned_up: Seq,
    /// It lost votes and casts none, as far as is known.
    is_silent: bool,
    /// It votes no more, as far as is known.
    is_learner: bool,
    /// An earlier state of its disk.
    image: Option<Disk>,
    character: Character,
    villain: Option<Twin>,
    /// What goes wrong in its service, between two processes.
    drift: Option<Drift>,
    disk_factor: u64,
    wall_offset: i64,
    mono_offset: u64,
    paused_until: u64,
    full_until: u64,
    failing: Option<Failing>,
    has_given_up: bool,
    plug: Plug,
}

struct Process {
    replica: Replica,
    verifier: Verifier,
    journal: Journal,
    service: Ledger,
    buffer: ReplyBuffer,
    effects: Effects,
    /// What waits for its record, by record.
    held: BTreeMap<LogPosition, Vec<Outgoing>>,
    under_way: BTreeMap<Ticket, UnderWay>,
    jobs: VecDeque<Job>,
    writer: Writer,
    /// The snapshot that this life began with.
    started_from: Option<Seq>,
    /// The manifest of the snapshot that is, or was last, fetched from others.
    transferred: Option<Arc<Manifest>>,
    gathered: Vec<SignedRequest>,
    clients: BTreeMap<LinkId, (usize, Life)>,
    /// The newest life of each peer that a link came up to.
    peers: BTreeMap<ReplicaId, Life>,
    /// Which file holds which segment, and files that hold nothing.
    segments: BTreeMap<u32, u32>,
    free: Vec<u32>,
    next_file: u32,
    deadline: Nanos,
    deadline_generation: u64,
    steps: u64,
}

/// A write of the journal between its submission and its end.
struct UnderWay {
    /// Its number among the operations of the machine.
    operation: usize,
    name: FileName,
    /// `None`: landed.
    write: Option<Pending>,
}

/// What the execution thread does, in order.
enum Job {
    Execute(Execute),
    Snapshot(SnapshotOrder),
    Install(Seq),
}

impl Machine {
    /// A machine with a new directory on its disk, not yet running.
    #[must_use]
    pub fn new(node: Node, id: ReplicaId, character: Character, world: &World) -> Self {
        let seed = Seed::root(world.options.seed).child("machine").nth(node.0 as u64);
        let mut disk = Disk::default();
        boot::format(&mut disk, &world.cluster, id, seed);
        let mut machine = Self {
            node,
            id,
            disk,
            rng: seed.child("latency").rng(),
            fate: seed.child("fate").rng(),
            life: Life(0),
            process: None,
            gone: None,
            rot: Rot::Unharmed,
            spoilt: Spoilt::Unharmed,
            awaits_state: false,
            owned_up: Seq(0),
            is_silent: false,
            is_learner: false,
            image: None,
            character,
            villain: (character == Character::Villain).then(|| twin(id, world)),
            drift: (character == Character::Drifter).then(|| drift(&mut seed.child("drift").rng())),
            disk_factor: 1,
            wall_offset: 0,
            mono_offset: 0,
            paused_until: 0,
            full_until: 0,
            failing: None,
            has_given_up: false,
            plug: Plug::default(),
        };
        machine.set_wall_clock(world.options.machine.clock_skew);
        machine
    }

    /// Its end of its links.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// Whose machine it is.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// Whether its process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Why it will not come back, if so.
    #[must_use]
    pub fn gone(&self) -> Option<Gone> {
        self.gone
    }

    /// The number of the present life.
    #[must_use]
    pub fn life(&self) -> Life {
        self.life
    }

    /// What is wrong with it.
    #[must_use]
    pub fn character(&self) -> Character {
        self.character
    }

    /// Whether it lost votes to damage and casts none for now, or its state and executes nothing.
    #[must_use]
    pub fn is_mending(&self) -> bool {
        self.is_silent || self.awaits_state
    }

    /// The faults end: a villain that would go on for ever and be borne does so.
    pub fn reform(&mut self) {
        self.villain.take_if(|villain| villain.strategy().lasts() == Lasts::UntilHealed);
        self.drift = None;
        if let Some(process) = &mut self.process {
            let drift = process.service.drifting();
            process.service.drift(drift.map(|drift| Drift { left: 0, ..drift }));
        }
    }

    /// Whether it has to come to where the others are.
    #[must_use]
    pub fn is_judged(&self) -> bool {
        self.villain.is_none() && self.character != Character::Twin
    }

    /// Whether a snapshot of others is on its way here.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.replica.transfer_progress().is_some())
    }

    /// Whether it is in quarantine, and nothing but a start leads out of it: there is no snapshot to go back to.
    #[must_use]
    pub fn waits_for_its_operator(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let replica = &process.replica;
            let is_stopped = replica.quarantine().is_some_and(|of| of.phase == QuarantinePhase::Stopped);
            is_stopped && replica.stable_snapshot() == Seq(0) && replica.transfer_progress().is_none()
        })
    }

    /// Sets the wall clock anew, at most `most` nanoseconds wrong.
    pub fn set_wall_clock(&mut self, most: u64) {
        self.wall_offset = self.fate.below(2 * most + 1) as i64 - most as i64;
    }

    /// The disk becomes `factor` times as slow as it should be.
    pub fn slow_disk(&mut self, factor: u64) {
        self.disk_factor = factor;
    }

    /// The process is not scheduled until `until`.
    pub fn pause(&mut self, until: u64) {
        self.paused_until = until;
    }

    /// Something happens here.
    pub fn on_event(&mut self, world: &mut World, event: ToMachine) {
        if self.paused_until > world.now {
            let at = self.paused_until;
            let is_deadline = matches!(event, ToMachine::InLife(_, InLife::Deadline { .. }));
            let event = Event::Machine(self.node, event);
            return if is_deadline { world.deadline(at, event) } else { world.after(at - world.now, event) };
        }
        match event {
            ToMachine::Start => self.start(world),
            ToMachine::Message { from, message } => self.on_message(world, from, message),
            ToMachine::FromClient { link, message } => self.on_client_message(world, link, message),
            ToMachine::InLife(life, event) if life == self.life && self.is_up() => self.in_life(world, event),
            ToMachine::InLife(..) => {}
        }
    }

    fn in_life(&mut self, world: &mut World, event: InLife) {
        match event {
            InLife::Peer { peer, life, state } => self.on_peer(world, peer, life, state),
            InLife::ClientUp { client, life } => self.on_client_up(world, client, life),
            InLife::ClientDown(link) => self.on_client_down(world, link),
            InLife::Gathered => self.on_gathered(world),
            InLife::Landed(ticket) => self.on_landed(world, ticket),
            InLife::Flushed(ticket) => self.on_flushed(world, ticket),
            InLife::Durable => self.tell_durable(world),
            InLife::JobDone => self.on_job_done(world),
            InLife::SnapshotStep => self.on_snapshot_step(world),
            InLife::Loaded(at) => self.on_loaded(world, at),
            InLife::Say { peer, message } => self.say(world, peer, message),
            InLife::Deadline { generation } => {
                if self.running().deadline_generation == generation {
                    self.running().journal.hurry();
                    self.step(world, Input::Deadline);
                }
            }
        }
    }

    fn later(&self, world: &mut World, delay: u64, event: InLife) {
        world.after(delay, Event::Machine(self.node, ToMachine::InLife(self.life, event)));
    }

    fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("events in a life find its process")
    }

    fn now(&self, world: &World) -> Now {
        let wall = (EPOCH_START + world.now).saturating_add_signed(self.wall_offset);
        Now { mono: Nanos(world.now + self.mono_offset), wall: WallNanos(wall) }
    }
}

impl Process {
    fn new(replica: Replica, booted: boot::Booted, world: &World, me: ReplicaId) -> Self {
        let options: &Options = &world.options;
        let journal = JournalOptions {
            segment_bytes: options.machine.segment_bytes,
            group_bytes_max: options.machine.group_bytes_max,
            flushes_in_flight: options.machine.flushes_in_flight,
        };
        let segments: BTreeMap<u32, u32> = booted.tail.files().iter().map(|(file, number)| (*number, *file)).collect();
        let free = booted.tail.free().to_vec();
        let next_file = segments.values().chain(&free).copied().max().unwrap_or(0);
        let scheme = Arc::clone(&world.cluster.replicas[me.index()]);
        Self {
            verifier: Verifier::new(Arc::clone(&world.cluster.config), scheme),
            started_from: booted.superblock.snapshot.map(|(seq, _)| seq),
            transferred: None,
            journal: Journal::new(&booted.superblock, booted.tail, journal),
            replica,
            service: Ledger::default(),
            buffer: ReplyBuffer::default(),
            effects: Effects::default(),
            held: BTreeMap::new(),
            under_way: BTreeMap::new(),
            jobs: VecDeque::new(),
            writer: Writer::default(),
            gathered: Vec::new(),
            clients: BTreeMap::new(),
            peers: BTreeMap::new(),
            segments,
            free,
            next_file,
            deadline: Nanos(u64::MAX),
            deadline_generation: 0,
            steps: 0,
        }
    }
}

/// Whether the services of machines of this character are deterministic.
fn trust(character: Character) -> Trust {
    match character {
        Character::Drifter => Trust::Drifts,
        Character::Correct | Character::Villain | Character::Twin | Character::PutBack => Trust::Sound,
    }
}

/// What goes wrong in the service of a drifter: early enough to come to something.
fn drift(rng: &mut Rng) -> Drift {
    let wrong = Wrong::ALL[rng.below(Wrong::ALL.len() as u64) as usize];
    Drift { at: Seq(rng.range(1, 80)), wrong, left: rng.range(1, 3) as u32, has_struck: false }
}

/// The villain at the door of a replica, with its key.
fn twin(id: ReplicaId, world: &World) -> Twin {
    let strategy = world.options.villain.expect("a run with villains has a strategy");
    let (config, scheme) = (Arc::clone(&world.cluster.config), Arc::clone(&world.cluster.replicas[id.index()]));
    Twin::new(strategy, Means::new(id, config, scheme, world.cluster.villains, Seed::root(world.options.seed)))
}
