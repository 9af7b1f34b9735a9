//! A machine with its disk, and the process of a replica on it: carries out what the core wants, by the contract of
//! `bft_core::door`, with the production journal on a simulated disk. Decides nothing of the protocol.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bft_core::auth::Verifier;
use bft_core::door::{
    Answer, Effects, Execute, Halt, InfoTo, Input, LinkState, Now, Outgoing, Place, SnapshotOrder, To,
};
use bft_core::execution::execute;
use bft_core::ids::{Digest, LinkId, LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::journal::{Journal, JournalOptions, Target, Ticket, Write, read_record};
use bft_core::replica::Replica;
use bft_core::service::{ReplyBuffer, Service};
use bft_core::wire::message::{Message, Status};
use bft_core::wire::request::SignedRequest;
use bytes::Bytes;

use crate::boot::{self, BootError};
use crate::checkers::Oracle;
use crate::checkers::convergence::Standing;
use crate::disk::{Disk, FileName, Pending};
use crate::images::{self, Writer};
use crate::ledger::{Entry, Ledger};
use crate::network::Node;
use crate::options::{Fault, Options};
use crate::rng::{Rng, Seed};
use crate::trace::Actor;
use crate::villains::lying_backup::LyingBackup;
use crate::world::{Event, InLife, Life, ToMachine, World};

/// Nanoseconds since 1970 at the beginning of every run.
const EPOCH_START: u64 = 1_800_000_000_000_000_000;
/// Steps between two thorough checks of a core's invariants.
const STEPS_BETWEEN_CHECKS: u64 = 256;

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
    /// Its peers have dropped what it needs.
    LeftBehind,
    /// It found its disk damaged, as it was.
    Damaged,
    /// Its service drifted away from the others', and it noticed.
    Drifted,
}

/// What is wrong with a machine from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Character {
    /// Nothing.
    Correct,
    /// It lies.
    Liar,
    /// Its service is not deterministic after a restart.
    Drifter,
}

/// A machine: a disk, clocks, and perhaps a running process.
pub struct Machine {
    id: ReplicaId,
    disk: Disk,
    rng: Rng,
    fate: Rng,
    life: Life,
    process: Option<Box<Process>>,
    gone: Option<Gone>,
    rotten: bool,
    character: Character,
    liar: Option<LyingBackup>,
    disk_factor: u64,
    wall_offset: i64,
    mono_offset: u64,
    paused_until: u64,
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
    /// What the superblock named at the start.
    snapshot: Option<(Seq, Digest)>,
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
    pub fn new(id: ReplicaId, character: Character, world: &World) -> Self {
        let seed = Seed::root(world.options.seed).child("machine").nth(id.0.into());
        let mut disk = Disk::default();
        boot::format(&mut disk, &world.cluster, id, seed);
        let mut machine = Self {
            id,
            disk,
            rng: seed.child("latency").rng(),
            fate: seed.child("fate").rng(),
            life: Life(0),
            process: None,
            gone: None,
            rotten: false,
            character,
            liar: (character == Character::Liar).then(|| {
                let scheme = Arc::clone(&world.cluster.replicas[id.index()]);
                LyingBackup::new(id, Arc::clone(&world.cluster.config), scheme, seed.child("lies").rng())
            }),
            disk_factor: 1,
            wall_offset: 0,
            mono_offset: 0,
            paused_until: 0,
        };
        machine.set_wall_clock(world.options.machine.clock_skew);
        machine
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

    /// From now on it tells the truth.
    pub fn reform(&mut self) {
        self.liar = None;
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
            let event = Event::Machine(self.id, event);
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
            InLife::Deadline { generation } => {
                if self.running().deadline_generation == generation {
                    self.step(world, Input::Deadline);
                }
            }
        }
    }

    // ---- life and death ----

    fn start(&mut self, world: &mut World) {
        if self.is_up() || self.gone.is_some() {
            return;
        }
        self.life = Life(self.life.0 + 1);
        // Monotonic clocks begin anew with the machine.
        self.mono_offset = self.fate.below(1 << 40);
        let may_lose_power = world.options.has(Fault::PowerLoss) || world.options.has(Fault::PowerLossOfAll);
        if self.life.0 > 1 && !self.rotten && may_lose_power && self.fate.chance(150) {
            world.counters.starts_cut_short += 1;
            boot::cut_short(&mut self.disk, &mut self.fate, &mut world.counters);
        }
        let booted = match boot::boot(&mut self.disk) {
            Ok(booted) => booted,
            Err(BootError::Damage(why)) if self.rotten => {
                world.counters.damage_found += 1;
                world.trace.event(world.now, Actor::Replica(self.id.index()), 90, || format!("does not start: {why}"));
                self.gone = Some(Gone::Damaged);
                return;
            }
            Err(BootError::Damage(why) | BootError::Broken(why)) => {
                return world.checks.report(Oracle::Durable, format!("{:?} does not start: {why}", self.id));
            }
        };
        if self.rotten {
            world
                .checks
                .report(Oracle::Durable, format!("{:?} starts and does not see that its disk is damaged", self.id));
        }
        world.checks.recovered(self.id, &booted.superblock, &booted.records);
        world.checks.state_at(self.id, Seq(0));
        let mut effects = Effects::default();
        let now = self.now(world);
        let recovered = boot::recover(&booted, &world.cluster, &world.options, self.id, now, &mut effects);
        let replica = match recovered {
            Ok(replica) => replica,
            Err(error) => {
                return world.checks.report(Oracle::Durable, format!("{:?} does not recover: {error}", self.id));
            }
        };
        world.counters.restarts += u64::from(self.life.0 > 1);
        world.trace.event(world.now, Actor::Replica(self.id.index()), 91, || {
            let records = booted.records.len();
            format!("starts, life {}: {records} records, snapshot {:?}", self.life.0, booted.superblock.snapshot)
        });
        let stable = replica.stable();
        let mut process = Process::new(replica, booted, world, self.id);
        if self.character == Character::Drifter && self.life.0 > 1 {
            process.service.drift(stable.next());
        }
        self.process = Some(Box::new(process));
        self.carry_out(world, effects);
    }

    /// The process ends. Says whether there was one.
    pub fn crash(&mut self, world: &mut World, crash: Crash) -> bool {
        let Some(process) = self.process.take() else { return false };
        process.replica.check_invariants();
        if crash == Crash::Stopped {
            self.process = Some(process);
            self.close(world);
            self.process = None;
            world.checks.crashed(self.id);
            return true;
        }
        let under_way = process.under_way.into_values();
        let under_way =
            under_way.filter_map(|under_way| under_way.write.map(|write| (under_way.name, write))).collect();
        match crash {
            Crash::Killed => self.disk.process_killed(under_way, &mut self.fate, &mut world.counters),
            Crash::PowerLost => self.disk.power_lost(under_way, &mut self.fate, &mut world.counters),
            Crash::Stopped => unreachable!("nothing is under way after a clean stop"),
        }
        world.checks.crashed(self.id);
        self.paused_until = 0;
        true
    }

    /// Writes everything that is queued, and the mark of a clean stop.
    fn close(&mut self, world: &mut World) {
        self.running().journal.close();
        loop {
            self.pump(world);
            let process = self.process.as_mut().expect("it is being closed");
            let Some((ticket, UnderWay { name, write })) = process.under_way.pop_first() else { break };
            write.into_iter().for_each(|write| self.disk.land(name, write));
            self.disk.flush(name);
            process.journal.written(ticket);
            world.checks.durable(self.id, process.journal.durable());
        }
        assert!(self.running().journal.is_idle(), "a closed journal has nothing left to do");
    }

    /// The machine, whose process is down, loses its power.
    pub fn lose_power_while_down(&mut self, world: &mut World) {
        self.disk.power_lost(Vec::new(), &mut self.fate, &mut world.counters);
    }

    /// A bit of what is provably durable in the journal flips while the process is down. Says whether there was one.
    pub fn rot(&mut self, world: &mut World) -> bool {
        self.disk.flush_all();
        let provable = boot::provable(&self.disk);
        if provable.is_empty() {
            return false;
        }
        let (name, range) = provable[self.fate.below(provable.len() as u64) as usize].clone();
        let byte = self.fate.range(range.start as u64, range.end as u64 - 1) as usize;
        self.disk.rot(name, byte, self.fate.below(8) as u8);
        self.rotten = true;
        world.counters.bits_rotted += 1;
        true
    }

    // ---- inputs ----

    fn on_message(&mut self, world: &mut World, from: ReplicaId, message: Message) {
        let Some(process) = &mut self.process else { return };
        if let Message::Slot(_) = &message {
            world.counters.certificates += 1;
        } else if let Message::Log(slots) = &message {
            world.counters.certificates += slots.len() as u64;
        }
        match process.verifier.check(from, message) {
            Ok(message) => self.step(world, Input::Message { from, message }),
            Err(_) if world.cluster.liars.contains(from) => world.counters.lies_refused += 1,
            Err(rejected) => {
                let text = format!("{:?} refuses what {from:?}, which is correct, sent: {rejected}", self.id);
                world.checks.report(Oracle::Certificates, text);
            }
        }
    }

    /// A link that goes down late, after a newer one has come up, takes nothing with it.
    fn on_peer(&mut self, world: &mut World, peer: ReplicaId, life: Life, state: LinkState) {
        let known = self.running().peers.entry(peer).or_default();
        if life >= *known {
            *known = life;
            self.step(world, Input::Link { peer, state });
        }
    }

    fn on_client_message(&mut self, world: &mut World, link: LinkId, message: Message) {
        let Some(process) = &mut self.process else { return };
        if !process.clients.contains_key(&link) {
            return;
        }
        match message {
            Message::Request(request) => {
                process.gathered.push(request);
                if process.gathered.len() == 1 {
                    let delay = world.options.machine.gather;
                    self.later(world, delay, InLife::Gathered);
                }
            }
            Message::InfoQuery { .. } => self.step(world, Input::InfoQuery { to: InfoTo(link) }),
            other => world.checks.report(Oracle::Assertion, format!("a client sends {:?}", other.kind())),
        }
    }

    fn on_gathered(&mut self, world: &mut World) {
        let process = self.running();
        let gathered = std::mem::take(&mut process.gathered);
        let (requests, refused) = process.verifier.check_requests(gathered);
        if !refused.is_empty() {
            world.checks.report(Oracle::Certificates, format!("{:?} refuses a correct client's Request", self.id));
        }
        self.step(world, Input::Requests(requests));
    }

    fn on_client_up(&mut self, world: &mut World, client: usize, life: Life) {
        let link = world.draw_link();
        self.running().clients.insert(link, (client, life));
        let key = world.cluster.clients[client].public_key();
        self.step(world, Input::Client { client: key, link, state: LinkState::Up });
        let event = crate::world::ToClient::LinkUp { replica: self.id, link };
        world.after(0, Event::Client(client, life, event));
    }

    fn on_client_down(&mut self, world: &mut World, link: LinkId) {
        let Some((client, _)) = self.running().clients.remove(&link) else { return };
        let key = world.cluster.clients[client].public_key();
        self.step(world, Input::Client { client: key, link, state: LinkState::Down });
    }

    fn on_landed(&mut self, world: &mut World, ticket: Ticket) {
        let under_way = self.running().under_way.get_mut(&ticket).expect("a write lands once");
        let (name, write) = (under_way.name, under_way.write.take().expect("a write lands once"));
        self.disk.land(name, write);
        let delay = self.disk_delay(world);
        self.later(world, delay, InLife::Flushed(ticket));
    }

    fn on_flushed(&mut self, world: &mut World, ticket: Ticket) {
        let process = self.process.as_mut().expect("events in a life find its process");
        let under_way = process.under_way.remove(&ticket).expect("a write is flushed once");
        self.disk.flush(under_way.name);
        let before = process.journal.durable();
        process.journal.written(ticket);
        let durable = process.journal.durable();
        self.pump(world);
        if durable > before {
            world.checks.durable(self.id, durable);
            self.release(world, durable);
            if self.rng.chance(world.options.machine.late) {
                let delay = self.disk_delay(world);
                self.later(world, delay, InLife::Durable);
            } else {
                self.tell_durable(world);
            }
        }
    }

    /// Says once more, or at last, up to where everything is durable.
    fn tell_durable(&mut self, world: &mut World) {
        let durable = self.running().journal.durable();
        self.step(world, Input::Durable(durable));
    }

    fn on_job_done(&mut self, world: &mut World) {
        let process = self.process.as_mut().expect("events in a life find its process");
        let job = process.jobs.pop_front().expect("the execution thread had a job");
        let input = match job {
            Job::Execute(order) => {
                let outcome = execute(&mut process.service, &order, &mut process.buffer);
                let outcome = outcome.expect("the simulated service has no fault");
                world.checks.executed(self.id, order.seq, &outcome);
                Some(Input::Executed { seq: order.seq, outcome })
            }
            Job::Snapshot(order) => {
                let image = process.service.snapshot(order.seq).expect("the simulated service has no fault");
                if process.writer.order(&order, image) {
                    self.later_snapshot_step(world);
                }
                None
            }
            Job::Install(seq) => self.install(world, seq),
        };
        self.start_job(world);
        if let Some(input) = input {
            self.step(world, input);
        }
    }

    fn install(&mut self, world: &mut World, seq: Seq) -> Option<Input> {
        let process = self.process.as_mut().expect("a job is of a process");
        let named = process.snapshot.filter(|(at, _)| *at == seq);
        let restored = named
            .ok_or_else(|| format!("asked to install {seq}, which the superblock does not name"))
            .and_then(|(_, root)| images::read(&self.disk, seq, root))
            .and_then(|read| images::restore(&mut process.service, seq, &read.chunks));
        if let Err(why) = restored {
            world.checks.report(Oracle::Durable, format!("{:?}: {why}", self.id));
            return None;
        }
        world.checks.state_at(self.id, seq);
        world.counters.restarts_from_snapshot += 1;
        Some(Input::Installed { seq })
    }

    fn on_snapshot_step(&mut self, world: &mut World) {
        let process = self.process.as_mut().expect("events in a life find its process");
        let finished = process.writer.step(&mut self.disk);
        if process.writer.is_busy() {
            self.later_snapshot_step(world);
        }
        if let Some((seq, outcome)) = finished {
            world.counters.snapshots += 1;
            self.step(world, Input::Snapshot { seq, outcome });
        }
    }

    fn on_loaded(&mut self, world: &mut World, at: LogPosition) {
        let process = self.process.as_mut().expect("events in a life find its process");
        world.counters.loads += 1;
        let record = process.journal.locate(at).and_then(|extent| {
            let mut bytes = vec![0; extent.len as usize];
            let name = FileName::Segment(process.segments[&extent.segment]);
            self.disk
                .read_at(name, extent.offset as usize, &mut bytes)
                .then(|| read_record(&Bytes::from(bytes)).ok())?
        });
        if record.is_none() {
            let text = format!("{:?}: record {at} is to be loaded and cannot be read", self.id);
            world.checks.report(Oracle::Durable, text);
        }
        self.step(world, Input::Loaded { at, record });
    }

    // ---- the door ----

    fn step(&mut self, world: &mut World, input: Input) {
        let now = self.now(world);
        let process = self.process.as_mut().expect("only a running process steps");
        world.counters.steps += 1;
        note(world, self.id, &input);
        let mut effects = std::mem::take(&mut process.effects);
        process.replica.step(now, input, &mut effects);
        process.steps += 1;
        if process.steps.is_multiple_of(STEPS_BETWEEN_CHECKS) {
            process.replica.check_invariants();
        }
        self.carry_out(world, effects);
    }

    fn carry_out(&mut self, world: &mut World, mut effects: Effects) {
        world.trace.number(effects.persist.len() as u64);
        for persist in effects.persist.drain(..) {
            world.checks.persisted(self.id, &persist);
            note_persist(world, &persist.place, persist.position);
            self.running().journal.append(persist);
        }
        self.pump(world);
        if let Some(view) = effects.cancel_votes_below {
            self.cancel_votes_below(world, view);
        }
        for outgoing in effects.send.drain(..) {
            let process = self.running();
            if outgoing.needs <= process.journal.durable() {
                self.let_go(world, outgoing);
            } else {
                process.held.entry(outgoing.needs).or_default().push(outgoing);
            }
        }
        for (link, answer) in effects.answer.drain(..) {
            self.answer(world, link, answer);
        }
        self.order_jobs(world, &mut effects);
        for at in effects.load.drain(..) {
            let delay = self.disk_delay(world);
            self.later(world, delay, InLife::Loaded(at));
        }
        self.throw_away(world, &effects);
        self.set_deadline(world, effects.deadline);
        if let Some(halt) = effects.halt.take() {
            return self.halt(world, &halt);
        }
        effects.clear();
        self.running().effects = effects;
    }

    fn cancel_votes_below(&mut self, world: &mut World, view: View) {
        let process = self.running();
        let mut cancelled = 0;
        for held in process.held.values_mut() {
            let before = held.len();
            held.retain(|outgoing| outgoing.message.voted_in().is_none_or(|of| of >= view));
            cancelled += before - held.len();
        }
        process.held.retain(|_, held| !held.is_empty());
        world.counters.votes_cancelled += cancelled as u64;
        world.trace.number(view.0);
    }

    fn order_jobs(&mut self, world: &mut World, effects: &mut Effects) {
        let process = self.process.as_mut().expect("only a running process has effects");
        let was_idle = process.jobs.is_empty();
        process.jobs.extend(effects.install.take().map(Job::Install));
        let snapshot = effects.snapshot.take();
        let (before, after): (Vec<_>, Vec<_>) = effects
            .execute
            .drain(..)
            .partition(|order| snapshot.as_ref().is_none_or(|snapshot| order.seq <= snapshot.seq));
        for order in before.iter().chain(&after) {
            world.checks.execute(self.id, order);
            world.counters.refused += (order.body.entries().len() - order.admitted.len()) as u64;
            world.trace.number(order.seq.0);
            world.trace.detail(|| format!("execute Seq {}: {} Requests", order.seq, order.admitted.len()));
        }
        process.jobs.extend(before.into_iter().map(Job::Execute));
        process.jobs.extend(snapshot.map(Job::Snapshot));
        process.jobs.extend(after.into_iter().map(Job::Execute));
        if was_idle {
            self.start_job(world);
        }
    }

    fn throw_away(&mut self, world: &mut World, effects: &Effects) {
        let process = self.process.as_mut().expect("only a running process has effects");
        if let Some(seq) = effects.snapshot_stable {
            world.counters.snapshots_stable += 1;
            process.service.snapshot_stable(seq);
        }
        if let Some(below) = effects.drop_journal_below {
            world.counters.journal_drops += 1;
            world.checks.journal_dropped(self.id, below);
            for number in process.journal.drop_below(below) {
                let file = process.segments.remove(&number).expect("a segment has a file");
                process.free.push(file);
            }
        }
        if let Some(below) = effects.remove_snapshots_below {
            world.checks.snapshots_removed(self.id, below);
            images::remove_below(&mut self.disk, below, process.writer.unfinished());
        }
    }

    fn halt(&mut self, world: &mut World, halt: &Halt) {
        world.trace.event(world.now, Actor::Replica(self.id.index()), 92, || format!("halts: {halt}"));
        match halt {
            Halt::LeftBehind { .. } => {
                world.counters.left_behind += 1;
                self.gone = Some(Gone::LeftBehind);
                self.crash(world, Crash::Killed);
            }
            Halt::Diverged { .. } | Halt::ReplayDiverged { .. } if self.character == Character::Drifter => {
                world.counters.drifts_found += 1;
                self.gone = Some(Gone::Drifted);
                self.crash(world, Crash::Killed);
            }
            Halt::TwoCommitted { .. }
            | Halt::TwoPrepared { .. }
            | Halt::Diverged { .. }
            | Halt::ReplayDiverged { .. } => {
                world.checks.report(Oracle::Assertion, format!("{:?} halts: {halt}", self.id));
                self.crash(world, Crash::Killed);
            }
        }
    }

    fn set_deadline(&mut self, world: &mut World, deadline: Option<Nanos>) {
        let offset = self.mono_offset;
        let process = self.process.as_mut().expect("only a running process has effects");
        if let Some(deadline) = deadline.filter(|deadline| *deadline != process.deadline) {
            process.deadline = deadline;
            process.deadline_generation += 1;
            let event = InLife::Deadline { generation: process.deadline_generation };
            let event = Event::Machine(self.id, ToMachine::InLife(self.life, event));
            world.deadline(deadline.0.saturating_sub(offset), event);
        }
    }

    // ---- messages ----

    fn release(&mut self, world: &mut World, durable: LogPosition) {
        let process = self.running();
        let waiting = process.held.split_off(&durable.next());
        let released = std::mem::replace(&mut process.held, waiting);
        for outgoing in released.into_values().flatten() {
            self.let_go(world, outgoing);
        }
    }

    fn let_go(&mut self, world: &mut World, outgoing: Outgoing) {
        let Outgoing { to, message, .. } = outgoing;
        if self.character != Character::Liar {
            world.checks.released(self.id, &message);
        }
        note_send(world, to, &message);
        match to {
            To::One(peer) => self.send(world, peer, message),
            To::All => {
                let me = self.id;
                let peers = world.cluster.config.replicas().filter(|peer| *peer != me);
                for peer in peers {
                    self.send(world, peer, message.clone());
                }
            }
        }
    }

    fn send(&mut self, world: &mut World, peer: ReplicaId, message: Message) {
        let from = self.id;
        let arrive = |message| ToMachine::Message { from, message };
        let said = match &mut self.liar {
            Some(liar) => tell(world, liar, |liar| liar.to_peer(message)),
            None => vec![message],
        };
        for message in said {
            world.send_to_replica(Node(from.index()), peer, message, arrive);
        }
    }

    fn answer(&mut self, world: &mut World, link: LinkId, answer: Answer) {
        let Some((client, life)) = self.running().clients.get(&link).copied() else { return };
        let message = match answer {
            Answer::Reply(reply) => Message::Reply(reply),
            Answer::Busy(busy) => Message::Busy(busy),
            Answer::Info(info) => Message::Info(info),
        };
        world.trace.number(message.kind() as u64);
        let said = match &mut self.liar {
            Some(liar) => tell(world, liar, |liar| liar.to_client(message)),
            None => vec![message],
        };
        for message in said {
            world.send_to_client(self.id, client, life, message);
        }
    }

    // ---- disk and threads ----

    /// Submits what the journal has to write.
    fn pump(&mut self, world: &mut World) {
        while let Some(write) = self.running().journal.next_write() {
            let Write { ticket, target, bytes } = write;
            let (name, offset) = self.place(world, target);
            let write = Pending { offset, bytes: bytes.to_vec() };
            let process = self.running();
            process.journal.recycle(bytes);
            process.under_way.insert(ticket, UnderWay { name, write: Some(write) });
            let delay = self.disk_delay(world);
            self.later(world, delay, InLife::Landed(ticket));
        }
    }

    fn place(&mut self, world: &mut World, target: Target) -> (FileName, usize) {
        let process = self.process.as_mut().expect("only a running process writes");
        match target {
            Target::Superblock { copies } => {
                (FileName::Superblock, copies[0] as usize * bft_core::journal::BLOCK_BYTES)
            }
            Target::Segment { number, offset, is_new } => {
                if is_new {
                    let file = process.free.pop();
                    world.counters.recycled += u64::from(file.is_some());
                    let file = file.unwrap_or_else(|| {
                        process.next_file += 1;
                        let len = world.options.machine.segment_bytes as usize;
                        self.disk.create(FileName::Segment(process.next_file), len);
                        process.next_file
                    });
                    process.segments.insert(number, file);
                }
                (FileName::Segment(process.segments[&number]), offset as usize)
            }
        }
    }

    fn start_job(&mut self, world: &mut World) {
        let mean = world.options.machine.execute_mean;
        let delay = match self.running().jobs.front() {
            None => return,
            Some(Job::Execute(_) | Job::Snapshot(_)) => self.rng.exponential(mean),
            Some(Job::Install(_)) => 10 * self.rng.exponential(mean),
        };
        self.later(world, delay, InLife::JobDone);
    }

    fn later_snapshot_step(&mut self, world: &mut World) {
        let delay = self.rng.exponential(world.options.machine.snapshot_mean);
        self.later(world, delay, InLife::SnapshotStep);
    }

    fn disk_delay(&mut self, world: &World) -> u64 {
        let machine = &world.options.machine;
        (machine.disk_min + self.rng.exponential(machine.disk_mean)) * self.disk_factor
    }

    fn later(&self, world: &mut World, delay: u64, event: InLife) {
        world.after(delay, Event::Machine(self.id, ToMachine::InLife(self.life, event)));
    }

    fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("events in a life find its process")
    }

    fn now(&self, world: &World) -> Now {
        let wall = (EPOCH_START + world.now).saturating_add_signed(self.wall_offset);
        Now { mono: Nanos(world.now + self.mono_offset), wall: WallNanos(wall) }
    }

    // ---- for judges ----

    /// Compares what a power loss would leave for certain with what was reported durable.
    pub fn audit(&self, world: &mut World) {
        if !self.is_up() || self.rotten {
            return;
        }
        world.counters.audits += 1;
        let image = self.disk.durable_image();
        let found = boot::superblock_of(&image).map_err(BootError::Broken).and_then(|(superblock, _)| {
            let (records, _) = boot::records_of(&image, &superblock)?;
            Ok((superblock, records))
        });
        match found {
            Ok((superblock, records)) => world.checks.audited(self.id, &superblock, &records),
            Err(BootError::Damage(why) | BootError::Broken(why)) => {
                world
                    .checks
                    .report(Oracle::Durable, format!("{:?} could not start after a power loss: {why}", self.id));
            }
        }
    }

    /// Where the replica is; the state's digest only where it is wanted, because it costs.
    pub fn standing(&mut self) -> Option<Standing> {
        let process = self.process.as_mut()?;
        let executed = process.replica.executed();
        let idle = process.jobs.is_empty() && process.under_way.is_empty();
        Some(Standing { replica: self.id, executed, idle, state: Digest::ZERO })
    }

    /// The service's state: its digest and everything in it.
    pub fn state(&mut self) -> Option<(Seq, Digest, Vec<Entry>)> {
        let process = self.process.as_mut()?;
        process.replica.check_invariants();
        let executed = process.replica.executed();
        Some((executed, images::state_digest(&mut process.service, executed), process.service.entries()))
    }

    /// A line about the replica, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match (&self.process, self.gone) {
            (Some(process), _) => {
                let replica = &process.replica;
                let (executed, stable) = (replica.executed(), replica.stable());
                let counters: Vec<_> = replica.counters().named().into_iter().filter(|(_, count)| *count > 0).collect();
                format!(
                    "{:?}: executed {executed}, stable {stable}, snapshot {}, jobs {}, writes {}, held {}; {counters:?}",
                    self.id,
                    replica.stable_snapshot(),
                    process.jobs.len(),
                    process.under_way.len(),
                    process.held.len(),
                )
            }
            (None, Some(gone)) => format!("{:?}: gone, {gone:?}", self.id),
            (None, None) => format!("{:?}: down", self.id),
        }
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
            snapshot: booted.superblock.snapshot,
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

fn tell(world: &mut World, liar: &mut LyingBackup, say: impl FnOnce(&mut LyingBackup) -> Vec<Message>) -> Vec<Message> {
    let before = liar.told;
    let said = say(liar);
    world.counters.lies += liar.told - before;
    said
}

fn note(world: &mut World, id: ReplicaId, input: &Input) {
    let kind = match input {
        Input::Requests(_) => 1,
        Input::Message { message, .. } => 100 + message.kind() as u64,
        Input::Link { .. } => 2,
        Input::Client { .. } => 3,
        Input::Durable(_) => 4,
        Input::Executed { .. } => 5,
        Input::Snapshot { .. } => 6,
        Input::Loaded { .. } => 7,
        Input::Installed { .. } => 8,
        Input::InfoQuery { .. } => 9,
        Input::Deadline => 10,
    };
    world.trace.event(world.now, Actor::Replica(id.index()), kind, || describe_input(input));
}

fn describe_input(input: &Input) -> String {
    match input {
        Input::Requests(requests) => {
            let numbers = requests.iter().map(|request| format!("{:?}/{}", request.entry.client, request.entry.req_no));
            format!("Requests {}", numbers.collect::<Vec<_>>().join(" "))
        }
        Input::Message { from, message } => format!("{from:?} says {}", describe(message)),
        Input::Link { peer, state } => format!("link to {peer:?} {state:?}"),
        Input::Client { client, link, state } => format!("client {client:?} on link {link} {state:?}"),
        Input::Durable(through) => format!("durable through {through}"),
        Input::Executed { seq, .. } => format!("executed Seq {seq}"),
        Input::Snapshot { seq, outcome } => format!("snapshot {seq} written: {:?}", outcome.root),
        Input::Loaded { at, record } => format!("loaded {at}: {:?}", record.as_ref().map(|record| record.kind())),
        Input::Installed { seq } => format!("installed {seq}"),
        Input::InfoQuery { .. } => "INFO-QUERY".into(),
        Input::Deadline => "deadline".into(),
    }
}

fn describe(message: &Message) -> String {
    match message {
        Message::Request(request) => format!("Request {:?}/{}", request.entry.client, request.entry.req_no),
        Message::PrePrepare(proposal) => {
            let at = &proposal.position;
            let requests = proposal.body.entries().len();
            format!("PRE-PREPARE {} in {:?} {:?}, {requests} Requests", at.seq, at.view, at.digest)
        }
        Message::Prepare(vote) => format!("PREPARE {} {:?}", vote.position.seq, vote.position.digest),
        Message::Commit(commit) => format!("COMMIT {} {:?}", commit.position.seq, commit.position.digest),
        Message::Checkpoint(vote) => format!("CHECKPOINT {} {:?} of {}", vote.seq, vote.root, vote.signatures.len()),
        Message::Snapshot(vote) => format!("SNAPSHOT {} {:?} of {}", vote.seq, vote.root, vote.signatures.len()),
        Message::Status(status) => {
            let Status { view, changing, stable, executed, snapshot, .. } = status;
            format!("STATUS {view:?} {changing:?} stable {stable} executed {executed} snapshot {snapshot}")
        }
        Message::ViewChange(message) => {
            let prepared = message.prepared.iter().map(|prepared| prepared.position);
            let prepared: Vec<_> = prepared.map(|at| format!("{}@{}", at.seq, at.view)).collect();
            format!("VIEW-CHANGE {:?} stable {} prepared {}", message.view, message.stable(), prepared.join(" "))
        }
        Message::NewView(message) => {
            let of: Vec<_> = message.view_changes.iter().map(|message| message.replica).collect();
            format!("NEW-VIEW {:?} of {of:?}", message.view)
        }
        Message::FetchBody(batch) => format!("FETCH-BODY {} {:?}", batch.seq, batch.digest),
        Message::Body(batch) => format!("BODY {}", batch.seq),
        Message::FetchSlot(seq) => format!("FETCH-SLOT {seq}"),
        Message::FetchLog(seq) => format!("FETCH-LOG {seq}"),
        Message::Slot(slot) => format!("SLOT {}", slot.certificate.position.seq),
        Message::Log(slots) => {
            let seq = |slot: Option<&bft_core::wire::message::CommittedSlot>| {
                slot.map_or(Seq(0), |slot| slot.certificate.position.seq)
            };
            format!("LOG {}..={}", seq(slots.first()), seq(slots.last()))
        }
        Message::Reply(reply) => format!("REPLY {}/{} {:?}", reply.session, reply.req_no, reply.code),
        Message::Busy(_) | Message::InfoQuery { .. } | Message::Info(_) | Message::ClientJoin(_) => {
            format!("{:?}", message.kind())
        }
    }
}

fn note_persist(world: &mut World, place: &Place, position: LogPosition) {
    world.trace.number(position.0);
    world.trace.detail(|| match place {
        Place::Journal(record) => format!("persist {position}: {:?} Seq {}", record.kind(), record.place().2),
        Place::Superblock(superblock) => format!(
            "persist {position}: superblock, promised {:?}, stable {:?}, snapshot {:?}, start {}",
            superblock.promised,
            superblock.stable.as_ref().map(|stable| stable.seq),
            superblock.snapshot.map(|(seq, _)| seq),
            superblock.journal_start
        ),
    });
}

fn note_send(world: &mut World, to: To, message: &Message) {
    world.trace.number(message.kind() as u64);
    match message {
        Message::PrePrepare(proposal) => world.trace.digest(&proposal.position.digest),
        Message::Prepare(vote) => world.trace.digest(&vote.position.digest),
        Message::Commit(commit) => world.trace.digest(&commit.nonce),
        Message::Checkpoint(vote) => world.trace.digest(&vote.root),
        Message::Snapshot(vote) => world.trace.digest(&vote.root),
        Message::Status(status) => world.trace.number(status.executed.0 << 32 | status.stable.0),
        Message::FetchSlot(seq) | Message::FetchLog(seq) => world.trace.number(seq.0),
        Message::ViewChange(message) => {
            world.counters.view_changes += 1;
            world.trace.number(message.view.0);
        }
        Message::NewView(message) => {
            world.counters.new_views += 1;
            world.trace.number(message.view.0);
        }
        Message::FetchBody(batch) => world.trace.digest(&batch.digest),
        Message::Body(batch) => {
            world.counters.bodies_sent += 1;
            world.trace.number(batch.seq.0);
        }
        Message::Request(_)
        | Message::Slot(_)
        | Message::Log(_)
        | Message::Reply(_)
        | Message::Busy(_)
        | Message::InfoQuery { .. }
        | Message::Info(_)
        | Message::ClientJoin(_) => {}
    }
    world.trace.detail(|| match to {
        To::All => format!("send all {}", describe(message)),
        To::One(peer) => format!("send {peer:?} {}", describe(message)),
    });
}
