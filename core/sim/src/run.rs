//! One seed from its beginning to the verdict: a safety phase in which faults strike, then a liveness phase in which all
//! of them have ended and everything must come to its end.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bft_core::door::LinkState;
use bft_core::ids::ReplicaId;
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::quorum::ReplicaSet;

use crate::checkers::convergence::{self, Standing};
use crate::checkers::{Oracle, Violation};
use crate::client::Client;
use crate::counters::Counters;
use crate::coverage::Seen;
use crate::faults::Striker;
use crate::network::Node;
use crate::options::{Fault, Options};
use crate::points::Plug;
use crate::replica::{Character, Crash, Failing, Machine};
use crate::rng::{Rng, Seed};
use crate::trace::{Actor, Trace};
use crate::villains::Strategy;
use crate::villains::clients::ClientStrategy;
use crate::world::{Event, InLife, ToClient, ToMachine, World};

mod scripted;

use scripted::Rounds;

/// Virtual time in which the liveness phase must see some progress, and be over. A villain that only wastes time may make
/// the second long; how much it wastes is measured elsewhere.
const PROGRESS_BOUND: u64 = 120 * SECOND;
const LIVENESS_BOUND: u64 = 5 * PROGRESS_BOUND;
/// Events that a run may take: beyond, something runs in circles.
const EVENTS_MAX: u64 = 6_000_000;
/// How often a replica that was away is looked at, and after what time.
const WATCH_LOOKS: u32 = 100;
const WATCH_INTERVAL: u64 = 5 * MILLISECOND;
/// How often somebody looks after replicas that wait to be started again.
const OPERATOR_INTERVAL: u64 = 5 * SECOND;
/// How often the end is looked for.
const POLL_INTERVAL: u64 = 20 * MILLISECOND;

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The command that plays it again.
    pub replay: String,
    /// Which replicas attacked.
    pub villain: Option<Strategy>,
    /// Which client attacked.
    pub client: Option<ClientStrategy>,
    /// The hash over everything that happened.
    pub trace: u64,
    /// How often what happened.
    pub counters: Counters,
    /// Which event reached a replica in which status how often.
    pub seen: Seen,
    /// The faults that were on.
    pub faults: Vec<Fault>,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// Where every replica was at the end, for people.
    pub standing: Vec<String>,
}

/// Runs a seed.
#[must_use]
pub fn run(options: Options, trace: Trace) -> Report {
    played(options, trace).report()
}

/// Runs a script, and says beside the verdict what its victims did with their disks.
#[must_use]
pub fn run_scripted(options: Options, trace: Trace) -> (Report, Vec<Plug>) {
    let victims: Vec<_> = options.script.crashes.iter().map(|crash| crash.victim.index()).collect();
    let run = played(options, trace);
    let plugs = victims.into_iter().map(|victim| run.machines[victim].plug().clone()).collect();
    (run.report(), plugs)
}

fn played(options: Options, trace: Trace) -> Run {
    let mut run = Run::new(options, trace);
    let ended = quietly(AssertUnwindSafe(|| run.play_out()));
    if let Err(panic) = ended {
        run.world.checks.report(Oracle::Assertion, panic);
    }
    run
}

struct Run {
    world: World,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    striker: Striker,
    rng: Rng,
    rounds: Rounds,
    phase: Phase,
    events: u64,
    /// When somebody looks next after replicas that wait to be started again.
    operator_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Safety,
    Liveness(Liveness),
    Over,
}

/// How long the liveness phase still lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Liveness {
    /// The sum of what all correct replicas have executed, at the highest.
    executed: u64,
    /// Unless that rises before.
    until: u64,
    ends: u64,
}

impl Liveness {
    fn new(now: u64) -> Self {
        Self { executed: 0, until: now + PROGRESS_BOUND, ends: now + LIVENESS_BOUND }
    }

    fn note(&mut self, now: u64, standings: &[Standing]) {
        let executed = standings.iter().map(|standing| standing.executed.0).sum();
        if executed > self.executed {
            (self.executed, self.until) = (executed, self.ends.min(now + PROGRESS_BOUND));
        }
    }
}

impl Run {
    fn new(options: Options, trace: Trace) -> Self {
        let world = World::new(options, trace);
        let character = |id| match (world.cluster.villains.contains(id), world.cluster.drifters.contains(id)) {
            (true, _) => Character::Villain,
            (false, true) => Character::Drifter,
            (false, false) => Character::Correct,
        };
        let doubled = world.options.script.doubled.clone();
        let character = |id| if doubled.contains(&id) { Character::Twin } else { character(id) };
        let names = world.cluster.config.replicas().chain(doubled.iter().copied());
        let machines = (0..).zip(names).map(|(node, id)| Machine::new(Node(node), id, character(id), &world)).collect();
        let clients = (0..world.options.clients.len()).map(|index| Client::new(index, &world)).collect();
        let rng = Seed::root(world.options.seed).child("run").rng();
        let striker = Striker::new(&world);
        let rounds = Rounds::default();
        Self { world, machines, clients, striker, rng, rounds, phase: Phase::Safety, events: 0, operator_at: 0 }
    }

    fn play_out(&mut self) {
        self.begin();
        while self.phase != Phase::Over && self.world.checks.violation().is_none() {
            let Some((at, event)) = self.world.queue.pop() else { break };
            self.world.now = at;
            self.world.checks.at(at);
            self.events += 1;
            if self.events > EVENTS_MAX {
                let text = format!("more than {EVENTS_MAX} events, the last {event:?}: something runs in circles");
                return self.world.checks.report(Oracle::Convergence, text);
            }
            self.on_event(event);
        }
        if self.world.checks.violation().is_none() {
            self.machines.iter().for_each(|machine| machine.audit(&mut self.world));
            self.judge();
        }
    }

    fn begin(&mut self) {
        for node in self.nodes() {
            let delay = self.rng.below(MILLISECOND);
            self.world.after(delay, Event::Machine(node, ToMachine::Start));
        }
        self.begin_script();
        for client in &mut self.clients {
            client.wake_later(&mut self.world);
        }
        if self.world.options.has(Fault::SlowDisk) {
            let slow = self.rng.below(self.machines.len() as u64) as usize;
            let factor = self.world.options.machine.slow_disk_factor;
            self.world.counters.slow_disks += u64::from(factor == 100);
            self.machines[slow].slow_disk(factor);
        }
        let safety = self.world.options.safety;
        self.world.after(safety, Event::EndOfFaults);
        self.world.after(self.striker.until_next(), Event::Strike);
        self.world.after(self.rng.below(safety / 4), Event::Audit);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Machine(node, event) => self.on_machine_event(node, event),
            Event::Client(index, life, event) => {
                let client = &mut self.clients[index];
                if client.life() == life {
                    client.on_event(&mut self.world, event);
                }
            }
            Event::Strike => self.on_strike(),
            Event::PowerLoss(node) => self.on_power_loss(node),
            Event::Scripted => self.on_scripted(),
            Event::EndOfFaults => self.end_faults(),
            Event::Audit => {
                let which = self.rng.below(self.machines.len() as u64) as usize;
                self.machines[which].audit(&mut self.world);
                let next = self.rng.exponential(self.world.options.safety / 8);
                self.world.after(next, Event::Audit);
            }
            Event::Watch { replica, looks } => self.watch(replica, looks),
            Event::Poll => self.poll(),
        }
    }

    fn on_machine_event(&mut self, node: Node, event: ToMachine) {
        let machine = &mut self.machines[node.0];
        let was_up = machine.is_up();
        machine.on_event(&mut self.world, event);
        let pulled = machine.lose_power_where_pulled(&mut self.world);
        match (was_up, machine.is_up()) {
            (false, true) => self.came_up(node),
            (true, false) => self.went_down(node),
            (true, true) | (false, false) => {}
        }
        if self.machines[node.0].take_giving_up() {
            let outage = self.striker.outage();
            self.world.after(outage, Event::Machine(node, ToMachine::Start));
        }
        if let Some(point) = pulled {
            self.on_pulled(node, point);
        }
    }

    /// Links to the new process come up, one after the other.
    fn came_up(&mut self, node: Node) {
        let came = &self.machines[node.0];
        let life = came.life();
        for peer in self.machines.iter().filter(|peer| peer.id() != came.id() && peer.is_up()) {
            let delay = self.rng.below(5 * MILLISECOND);
            for (at, other) in [(peer, came), (came, peer)] {
                let (peer, life, state) = (other.id(), other.life(), LinkState::Up);
                let event = ToMachine::InLife(at.life(), InLife::Peer { peer, life, state });
                self.world.after(delay, Event::Machine(at.node(), event));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let delay = self.rng.below(5 * MILLISECOND);
            let event = InLife::ClientUp { client: index, life: client.life() };
            self.world.after(delay, Event::Machine(node, ToMachine::InLife(life, event)));
        }
    }

    /// Its peers and clients notice, sooner or later.
    fn went_down(&mut self, node: Node) {
        let gone = &self.machines[node.0];
        let replica = gone.id();
        for peer in self.machines.iter().filter(|peer| peer.id() != replica && peer.is_up()) {
            let delay = self.rng.below(20 * MILLISECOND);
            let event = InLife::Peer { peer: replica, life: gone.life(), state: LinkState::Down };
            self.world.after(delay, Event::Machine(peer.node(), ToMachine::InLife(peer.life(), event)));
        }
        for (index, client) in self.clients.iter().enumerate() {
            let delay = self.rng.below(20 * MILLISECOND);
            if let Some(link) = client.link(node) {
                let event = ToClient::LinkDown { replica, machine: node, link };
                self.world.after(delay, Event::Client(index, client.life(), event));
            }
        }
    }

    // ---- faults ----

    fn on_strike(&mut self) {
        if self.phase != Phase::Safety {
            return;
        }
        if let Some(fault) = self.striker.pick() {
            self.strike(fault);
        }
        let next = self.striker.until_next();
        self.world.after(next, Event::Strike);
    }

    fn strike(&mut self, fault: Fault) {
        let outage = self.striker.outage();
        match fault {
            Fault::Partition | Fault::OneWay => self.partition(fault, outage),
            Fault::Kill => {
                let crash = if self.striker.below(3) == 0 { Crash::Stopped } else { Crash::Killed };
                self.crash_one(crash, outage);
            }
            Fault::PowerLoss => self.crash_one(Crash::PowerLost, outage),
            Fault::PowerLossOfAll => self.power_loss_of_all(),
            Fault::Pause => {
                let which = self.striker.below(self.machines.len());
                self.world.counters.pauses += 1;
                self.note(fault, || format!("r{which} is not scheduled for {} ms", outage / MILLISECOND));
                self.machines[which].pause(self.world.now + outage);
            }
            Fault::Exile => self.exile(),
            Fault::PutBack => self.put_back(outage),
            Fault::ClientRestart => {
                let which = self.striker.below(self.clients.len());
                self.world.counters.client_restarts += 1;
                self.restart_client(which);
            }
            Fault::ClockJump => {
                let which = self.striker.below(self.machines.len());
                self.world.counters.clock_jumps += 1;
                self.note(fault, || format!("the wall clock of r{which} is set"));
                self.machines[which].set_wall_clock(900 * MILLISECOND);
            }
            Fault::IoError | Fault::ShortWrite => self.fail_disk(fault),
            Fault::DiskFull => {
                let which = self.striker.below(self.machines.len());
                self.world.counters.disks_full += 1;
                self.note(fault, || format!("the disk of r{which} is full for {} ms", outage / MILLISECOND));
                self.machines[which].fill_up(self.world.now + outage);
            }
            Fault::Dethrone => self.dethrone(outage),
            Fault::Drop
            | Fault::Double
            | Fault::Reorder
            | Fault::SlowDisk
            | Fault::BitRot
            | Fault::Misdirected
            | Fault::Villain
            | Fault::HostileClient
            | Fault::Drift => {
                unreachable!("does not strike")
            }
        }
    }

    /// Whoever leads is away for longer than the others wait for it.
    fn dethrone(&mut self, outage: u64) {
        let Some(view) = self.machines.iter().filter_map(Machine::view).max() else { return };
        let primary = self.world.cluster.config.primary(view);
        let away = self.world.options.params.view_timeout + outage;
        self.world.counters.dethroned += 1;
        self.note(Fault::Dethrone, || format!("{primary:?}, primary of {view:?}, is not scheduled"));
        self.machines[primary.index()].pause(self.world.now + away);
    }

    fn partition(&mut self, fault: Fault, outage: u64) {
        let nodes = self.machines.len() + self.clients.len();
        let side = self.striker.side(nodes);
        let until = self.world.now + outage;
        let is_one_way = fault == Fault::OneWay;
        self.note(fault, || format!("{side:?} is cut off{}", if is_one_way { ", but hears" } else { "" }));
        for from in 0..nodes {
            for to in 0..nodes {
                let is_cut = if is_one_way { side[from] && !side[to] } else { side[from] != side[to] };
                if is_cut {
                    self.world.network.cut(Node(from), Node(to), until);
                }
            }
        }
        let counters = &mut self.world.counters;
        *(if is_one_way { &mut counters.one_way } else { &mut counters.partitions }) += 1;
    }

    /// A replica is down, or hears no other, until those have taken snapshots without it. When it comes back it is looked
    /// at, to be struck in the middle of what it fetches.
    fn exile(&mut self) {
        let which = self.striker.below(self.machines.len());
        let outage = self.striker.exile();
        let id = self.machines[which].id();
        if self.striker.below(2) == 0 {
            if !self.crash_machine(which, Crash::Killed, outage) {
                return;
            }
        } else {
            self.note(Fault::Exile, || format!("r{which} is alone for {} ms", outage / MILLISECOND));
            let until = self.world.now + outage;
            for other in (0..self.machines.len()).filter(|other| *other != which) {
                self.world.network.cut(Node(which), Node(other), until);
                self.world.network.cut(Node(other), Node(which), until);
            }
        }
        self.world.counters.exiles += 1;
        self.world.after(outage, Event::Watch { replica: id, looks: WATCH_LOOKS });
    }

    /// First a state of every disk is kept; later one of them is put back to it.
    fn put_back(&mut self, outage: u64) {
        let which = self.striker.below(self.machines.len());
        if !self.machines[which].has_image() {
            let sound = |machine: &&mut Machine| machine.character() == Character::Correct && !machine.is_mending();
            return self.machines.iter_mut().filter(sound).for_each(Machine::keep_image);
        }
        if self.crash_machine(which, Crash::Killed, outage) {
            self.note(Fault::PutBack, || format!("the disk of r{which} is put back"));
            self.machines[which].put_back(&mut self.world);
        }
    }

    /// Strikes a replica that transfers a snapshot, sooner or later.
    fn watch(&mut self, id: ReplicaId, looks: u32) {
        if self.phase != Phase::Safety || looks == 0 {
            return;
        }
        let is_struck = self.machines[id.index()].is_transferring() && self.striker.below(4) == 0;
        let crash = if self.striker.below(2) == 0 { Crash::Killed } else { Crash::PowerLost };
        let outage = self.striker.outage() / 4;
        if is_struck && self.crash_machine(id.index(), crash, outage) {
            self.world.counters.transfers_cut += 1;
        }
        self.world.after(WATCH_INTERVAL, Event::Watch { replica: id, looks: looks - 1 });
    }

    fn crash_one(&mut self, crash: Crash, outage: u64) {
        let which = self.striker.below(self.machines.len());
        self.crash_machine(which, crash, outage);
    }

    /// Where it may go down. Says whether it did.
    fn crash_machine(&mut self, which: usize, crash: Crash, outage: u64) -> bool {
        if !self.may_crash(which) {
            return false;
        }
        self.machines[which].crash(&mut self.world, crash);
        match crash {
            Crash::Killed => self.world.counters.kills += 1,
            Crash::PowerLost => self.world.counters.power_losses += 1,
            Crash::Stopped => self.world.counters.stops += 1,
        }
        self.world.trace.event(self.world.now, Actor::Replica(which), 30, || format!("{crash:?}"));
        self.went_down(Node(which));
        let may_rot = self.striker.may_rot();
        if may_rot && self.striker.may_spoil() && self.machines[which].spoil(&mut self.world) {
            self.world.trace.event(self.world.now, Actor::Replica(which), 31, || "its snapshot is damaged".into());
        } else if may_rot && self.machines[which].rot(&mut self.world) {
            self.world.trace.event(self.world.now, Actor::Replica(which), 31, || "its journal is damaged".into());
        } else if self.striker.may_misdirect() && self.machines[which].misdirect(&mut self.world) {
            self.world.trace.event(self.world.now, Actor::Replica(which), 31, || "a write has gone astray".into());
        }
        self.world.after(outage, Event::Machine(Node(which), ToMachine::Start));
        true
    }

    /// An operation of somebody's disk is going to fail, and the process will end. It may come late, when others are down:
    /// it costs nobody what is durable.
    fn fail_disk(&mut self, fault: Fault) {
        let which = self.striker.below(self.machines.len());
        let nth = self.striker.nth_operation();
        let is_flush = self.striker.below(2) == 0;
        if self.may_crash(which) {
            let failing = match (fault, is_flush) {
                (Fault::ShortWrite, _) => Failing::Short(nth),
                (_, true) => Failing::Flush(nth),
                (_, false) => Failing::Write(nth),
            };
            self.note(fault, || format!("the disk of r{which} is going to fail: {failing:?}"));
            self.machines[which].fail(failing);
        }
    }

    /// Whether a machine may go down: at most F of the weight is down or faulty at a time.
    fn may_crash(&self, which: usize) -> bool {
        let machine = &self.machines[which];
        let counts = machine.character() == Character::Correct && !machine.is_mending();
        let more = if counts { self.world.options.weights[which] } else { 0 };
        let is_within = self.faulty_weight() + more <= self.world.options.faulty_max();
        machine.is_up() && machine.character() != Character::Villain && is_within
    }

    /// The weight of everybody who is down, gone, at mending damage, or faulty by character.
    fn faulty_weight(&self) -> u64 {
        let is_faulty =
            |machine: &&Machine| !machine.is_up() || machine.is_mending() || machine.character() != Character::Correct;
        let weights = &self.world.options.weights;
        self.machines.iter().filter(is_faulty).map(|machine| weights[machine.id().index()]).sum()
    }

    fn power_loss_of_all(&mut self) {
        self.note(Fault::PowerLossOfAll, || "all machines lose their power".into());
        self.world.counters.power_losses_of_all += 1;
        for node in self.nodes() {
            self.lose_power(node);
            let delay = self.striker.outage() / 4;
            self.world.after(delay, Event::Machine(node, ToMachine::Start));
        }
    }

    /// A machine loses its power, whether its process is up or down.
    fn lose_power(&mut self, node: Node) {
        let machine = &mut self.machines[node.0];
        if machine.crash(&mut self.world, Crash::PowerLost) {
            self.went_down(node);
        } else {
            machine.lose_power_while_down(&mut self.world);
        }
    }

    fn restart_client(&mut self, which: usize) {
        let old: Vec<_> = self.nodes().into_iter().map(|node| (node, self.clients[which].link(node))).collect();
        self.clients[which].restart(&mut self.world);
        for (node, link) in old {
            let machine = &self.machines[node.0];
            if !machine.is_up() {
                continue;
            }
            let life = machine.life();
            if let Some(link) = link {
                let delay = self.rng.below(20 * MILLISECOND);
                let event = ToMachine::InLife(life, InLife::ClientDown(link));
                self.world.after(delay, Event::Machine(node, event));
            }
            let delay = self.rng.below(5 * MILLISECOND);
            let event = InLife::ClientUp { client: which, life: self.clients[which].life() };
            self.world.after(delay, Event::Machine(node, ToMachine::InLife(life, event)));
        }
    }

    fn end_faults(&mut self) {
        self.world.trace.event(self.world.now, Actor::World, 40, || "the faults end".into());
        self.world.network.heal();
        for node in self.nodes() {
            let machine = &mut self.machines[node.0];
            machine.pause(0);
            machine.mend_disk();
            machine.reform();
            self.world.after(0, Event::Machine(node, ToMachine::Start));
        }
        self.clients.iter_mut().for_each(Client::hurry);
        self.operator_at = self.world.now + OPERATOR_INTERVAL;
        self.phase = Phase::Liveness(Liveness::new(self.world.now));
        self.world.after(POLL_INTERVAL, Event::Poll);
    }

    // ---- the end ----

    fn poll(&mut self) {
        let Phase::Liveness(mut liveness) = self.phase else { return };
        let judged = self.machines.iter_mut().filter(|machine| machine.is_judged());
        let standings: Vec<_> = judged.filter_map(Machine::standing).collect();
        liveness.note(self.world.now, &standings);
        self.phase = Phase::Liveness(liveness);
        let waiting = self.clients.iter().filter(|client| !client.is_done(&self.world)).count();
        let down = self.machines.iter().filter(|machine| !machine.is_up() && machine.gone().is_none()).count();
        if self.is_over_budget() {
            // Votes that a villain has spoiled and a replica that is gone for good: a quorum of the others may not be left.
            self.world.counters.liveness_left_out += 1;
            self.phase = Phase::Over;
        } else if down == 0 && convergence::is_reached(&standings, waiting, self.world.checks.done_through())
            || self.world.now > liveness.until
        {
            self.phase = Phase::Over;
        } else {
            self.start_again();
            self.world.after(POLL_INTERVAL, Event::Poll);
        }
    }

    /// An operator starts a replica again that cannot come out of its quarantine by itself, as its log says.
    fn start_again(&mut self) {
        if self.world.now < self.operator_at {
            return;
        }
        self.operator_at = self.world.now + OPERATOR_INTERVAL;
        for node in self.nodes() {
            if self.machines[node.0].waits_for_its_operator() {
                self.machines[node.0].crash(&mut self.world, Crash::Stopped);
                self.went_down(node);
                self.world.after(MILLISECOND, Event::Machine(node, ToMachine::Start));
            }
        }
    }

    /// More than F of the weight is gone, at mending damage, or has lied.
    fn is_over_budget(&self) -> bool {
        let is_lost = |machine: &&Machine| {
            machine.gone().is_some() || machine.is_mending() || machine.character() != Character::Correct
        };
        let lost: ReplicaSet = self.machines.iter().filter(is_lost).map(Machine::id).collect();
        let weights = &self.world.options.weights;
        lost.iter().map(|id| weights[id.index()]).sum::<u64>() > self.world.options.faulty_max()
    }

    fn judge(&mut self) {
        let mut standings = Vec::new();
        let mut states = Vec::new();
        for machine in self.machines.iter_mut().filter(|machine| machine.character() != Character::Twin) {
            let (Some(standing), Some((executed, state, entries))) = (machine.standing(), machine.state()) else {
                continue;
            };
            self.world.trace.digest(&state);
            if let Some(stable) = machine.stable_in_order() {
                self.world.checks.has_noticed(machine.id(), stable);
            }
            if machine.is_judged() && !machine.is_secretly_wrong() {
                standings.push(Standing { state, ..standing });
            }
            states.push((machine.id(), executed, entries));
        }
        if !self.is_over_budget() {
            let waiting = self.clients.iter().filter(|client| !client.is_done(&self.world)).count();
            let operations = self.clients.iter().map(Client::waiting).sum();
            if let Err(text) = convergence::judge(&standings, waiting, operations) {
                self.world.checks.report(Oracle::Convergence, text);
            }
        }
        // A replica that is still behind is no proof of a loss: what it lacks, convergence has reported.
        let highest = states.iter().map(|(_, executed, _)| *executed).max().unwrap_or_default();
        for (id, executed, entries) in states {
            self.world.checks.state(id, executed, highest, &entries);
        }
    }

    fn report(self) -> Report {
        Report {
            seed: self.world.options.seed,
            replay: self.world.options.replay(),
            villain: self.world.options.villain,
            client: self.world.options.client,
            trace: self.world.trace.hash(),
            counters: self.world.counters.clone(),
            seen: self.world.seen.clone(),
            faults: self.world.options.faults.clone(),
            violation: self.world.checks.violation().cloned(),
            standing: self.machines.iter().map(Machine::describe).collect(),
        }
    }

    fn note(&mut self, fault: Fault, line: impl FnOnce() -> String) {
        self.world.trace.event(self.world.now, Actor::World, 50 + fault as u64, line);
    }

    fn nodes(&self) -> Vec<Node> {
        self.machines.iter().map(Machine::node).collect()
    }
}

thread_local! {
    /// The last panic of this thread, while somebody listens.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENING: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs `f`; a panic becomes its message and place, and is not printed.
pub(crate) fn quietly<R>(f: AssertUnwindSafe<impl FnOnce() -> R>) -> Result<R, String> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if LISTENING.with_borrow(|listening| *listening) {
                PANIC.set(Some(info.to_string().replace('\n', " ")));
            } else {
                before(info);
            }
        }));
    });
    LISTENING.set(true);
    let result = catch_unwind(f);
    LISTENING.set(false);
    result.map_err(|_| PANIC.take().unwrap_or_else(|| "a panic without a message".into()))
}
