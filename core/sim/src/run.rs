//! One seed from its beginning to the verdict: a safety phase in which faults strike, then a liveness phase in which all
//! of them have ended and everything must come to its end.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bft_core::door::LinkState;
use bft_core::ids::ReplicaId;
use bft_core::limits::{MILLISECOND, SECOND};

use crate::checkers::convergence::{self, Standing};
use crate::checkers::{Oracle, Violation};
use crate::client::Client;
use crate::counters::Counters;
use crate::coverage::Seen;
use crate::faults::Striker;
use crate::network::Node;
use crate::options::{Fault, Options};
use crate::replica::{Character, Crash, Machine};
use crate::rng::{Rng, Seed};
use crate::trace::{Actor, Trace};
use crate::villains::Strategy;
use crate::villains::clients::ClientStrategy;
use crate::world::{Event, InLife, ToClient, ToMachine, World};

/// Virtual time that the liveness phase may take.
const LIVENESS_BOUND: u64 = 120 * SECOND;
/// Events that a run may take: beyond, something runs in circles.
const EVENTS_MAX: u64 = 6_000_000;
/// How often a replica that was away is looked at, and after what time.
const WATCH_LOOKS: u32 = 100;
const WATCH_INTERVAL: u64 = 5 * MILLISECOND;
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
    let mut run = Run::new(options, trace);
    let ended = quietly(AssertUnwindSafe(|| run.play_out()));
    if let Err(panic) = ended {
        run.world.checks.report(Oracle::Assertion, panic);
    }
    run.report()
}

struct Run {
    world: World,
    machines: Vec<Machine>,
    clients: Vec<Client>,
    striker: Striker,
    rng: Rng,
    phase: Phase,
    events: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Safety,
    Liveness { until: u64 },
    Over,
}

impl Run {
    fn new(options: Options, trace: Trace) -> Self {
        let world = World::new(options, trace);
        let character = |id| match (world.cluster.villains.contains(id), world.cluster.drifters.contains(id)) {
            (true, _) => Character::Villain,
            (false, true) => Character::Drifter,
            (false, false) => Character::Correct,
        };
        let machines = world.cluster.config.replicas().map(|id| Machine::new(id, character(id), &world)).collect();
        let clients = (0..world.options.clients.len()).map(|index| Client::new(index, &world)).collect();
        let rng = Seed::root(world.options.seed).child("run").rng();
        let striker = Striker::new(&world);
        Self { world, machines, clients, striker, rng, phase: Phase::Safety, events: 0 }
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
            self.judge();
        }
    }

    fn begin(&mut self) {
        for id in self.ids() {
            let delay = self.rng.below(MILLISECOND);
            self.world.after(delay, Event::Machine(id, ToMachine::Start));
        }
        for client in &mut self.clients {
            client.wake_later(&mut self.world);
        }
        if self.world.options.has(Fault::SlowDisk) {
            let slow = self.rng.below(self.machines.len() as u64) as usize;
            self.machines[slow].slow_disk(self.world.options.machine.slow_disk_factor);
        }
        let safety = self.world.options.safety;
        self.world.after(safety, Event::EndOfFaults);
        self.world.after(self.striker.until_next(), Event::Strike);
        self.world.after(self.rng.below(safety / 4), Event::Audit);
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Machine(id, event) => self.on_machine_event(id, event),
            Event::Client(index, life, event) => {
                let client = &mut self.clients[index];
                if client.life() == life {
                    client.on_event(&mut self.world, event);
                }
            }
            Event::Strike => self.on_strike(),
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

    fn on_machine_event(&mut self, id: ReplicaId, event: ToMachine) {
        let was_up = self.machines[id.index()].is_up();
        self.machines[id.index()].on_event(&mut self.world, event);
        match (was_up, self.machines[id.index()].is_up()) {
            (false, true) => self.came_up(id),
            (true, false) => self.went_down(id),
            (true, true) | (false, false) => {}
        }
    }

    /// Links to the new process come up, one after the other.
    fn came_up(&mut self, id: ReplicaId) {
        let life = self.machines[id.index()].life();
        for peer in self.ids() {
            let machine = &self.machines[peer.index()];
            if peer != id && machine.is_up() {
                let delay = self.rng.below(5 * MILLISECOND);
                let state = LinkState::Up;
                for ((at, here), (peer, there)) in
                    [((peer, machine.life()), (id, life)), ((id, life), (peer, machine.life()))]
                {
                    let event = ToMachine::InLife(here, InLife::Peer { peer, life: there, state });
                    self.world.after(delay, Event::Machine(at, event));
                }
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let delay = self.rng.below(5 * MILLISECOND);
            let event = InLife::ClientUp { client: index, life: client.life() };
            self.world.after(delay, Event::Machine(id, ToMachine::InLife(life, event)));
        }
    }

    /// Its peers and clients notice, sooner or later.
    fn went_down(&mut self, id: ReplicaId) {
        for peer in self.ids() {
            let machine = &self.machines[peer.index()];
            if peer != id && machine.is_up() {
                let delay = self.rng.below(20 * MILLISECOND);
                let event = InLife::Peer { peer: id, life: self.machines[id.index()].life(), state: LinkState::Down };
                self.world.after(delay, Event::Machine(peer, ToMachine::InLife(machine.life(), event)));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let delay = self.rng.below(20 * MILLISECOND);
            if let Some(link) = client.link(id) {
                let event = ToClient::LinkDown { replica: id, link };
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
            Fault::Dethrone => self.dethrone(outage),
            Fault::Drop
            | Fault::Double
            | Fault::Reorder
            | Fault::SlowDisk
            | Fault::BitRot
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

    /// At most F of the weight is down or faulty at a time, those that will not come back among it. Says whether this one
    /// went down.
    fn crash_machine(&mut self, which: usize, crash: Crash, outage: u64) -> bool {
        let (machine, id) = (&self.machines[which], self.machines[which].id());
        let may_crash = machine.is_up() && machine.character() != Character::Villain;
        let more = if machine.character() == Character::Correct { self.world.options.weights[which] } else { 0 };
        if !may_crash || self.faulty_weight() + more > self.world.options.faulty_max() {
            return false;
        }
        self.machines[which].crash(&mut self.world, crash);
        match crash {
            Crash::Killed => self.world.counters.kills += 1,
            Crash::PowerLost => self.world.counters.power_losses += 1,
            Crash::Stopped => self.world.counters.stops += 1,
        }
        self.world.trace.event(self.world.now, Actor::Replica(which), 30, || format!("{crash:?}"));
        self.went_down(id);
        if self.striker.may_rot() && self.machines[which].rot(&mut self.world) {
            self.world.trace.event(self.world.now, Actor::Replica(which), 31, || "a bit of its journal flips".into());
        }
        self.world.after(outage, Event::Machine(id, ToMachine::Start));
        true
    }

    /// The weight of everybody who is down, gone, or faulty by character.
    fn faulty_weight(&self) -> u64 {
        let is_faulty = |machine: &&Machine| !machine.is_up() || machine.character() != Character::Correct;
        let weights = &self.world.options.weights;
        self.machines.iter().filter(is_faulty).map(|machine| weights[machine.id().index()]).sum()
    }

    fn power_loss_of_all(&mut self) {
        self.note(Fault::PowerLossOfAll, || "all machines lose their power".into());
        self.world.counters.power_losses_of_all += 1;
        for id in self.ids() {
            let machine = &mut self.machines[id.index()];
            if machine.crash(&mut self.world, Crash::PowerLost) {
                self.went_down(id);
            } else {
                machine.lose_power_while_down(&mut self.world);
            }
            let delay = self.striker.outage() / 4;
            self.world.after(delay, Event::Machine(id, ToMachine::Start));
        }
    }

    fn restart_client(&mut self, which: usize) {
        let old: Vec<_> = self.ids().into_iter().map(|id| (id, self.clients[which].link(id))).collect();
        self.clients[which].restart(&mut self.world);
        for (id, link) in old {
            let machine = &self.machines[id.index()];
            if !machine.is_up() {
                continue;
            }
            let life = machine.life();
            if let Some(link) = link {
                let delay = self.rng.below(20 * MILLISECOND);
                let event = ToMachine::InLife(life, InLife::ClientDown(link));
                self.world.after(delay, Event::Machine(id, event));
            }
            let delay = self.rng.below(5 * MILLISECOND);
            let event = InLife::ClientUp { client: which, life: self.clients[which].life() };
            self.world.after(delay, Event::Machine(id, ToMachine::InLife(life, event)));
        }
    }

    fn end_faults(&mut self) {
        self.world.trace.event(self.world.now, Actor::World, 40, || "the faults end".into());
        self.world.network.heal();
        for id in self.ids() {
            let machine = &mut self.machines[id.index()];
            machine.pause(0);
            machine.slow_disk(1);
            machine.reform();
            self.world.after(0, Event::Machine(id, ToMachine::Start));
        }
        self.clients.iter_mut().for_each(Client::hurry);
        self.phase = Phase::Liveness { until: self.world.now + LIVENESS_BOUND };
        self.world.after(POLL_INTERVAL, Event::Poll);
    }

    // ---- the end ----

    fn poll(&mut self) {
        let Phase::Liveness { until } = self.phase else { return };
        let judged = self.machines.iter_mut().filter(|machine| machine.is_judged());
        let standings: Vec<_> = judged.filter_map(Machine::standing).collect();
        let waiting = self.clients.iter().filter(|client| !client.is_done(&self.world)).count();
        let down = self.machines.iter().filter(|machine| !machine.is_up() && machine.gone().is_none()).count();
        if self.is_over_budget() {
            // Votes that a villain has spoiled and a replica that is gone for good: a quorum of the others may not be left.
            self.world.counters.liveness_left_out += 1;
            self.phase = Phase::Over;
        } else if down == 0 && convergence::is_reached(&standings, waiting) || self.world.now > until {
            self.phase = Phase::Over;
        } else {
            self.world.after(POLL_INTERVAL, Event::Poll);
        }
    }

    /// More than F of the weight is gone or has lied.
    fn is_over_budget(&self) -> bool {
        let is_lost = |machine: &&Machine| machine.gone().is_some() || machine.character() != Character::Correct;
        let weights = &self.world.options.weights;
        let lost: u64 = self.machines.iter().filter(is_lost).map(|machine| weights[machine.id().index()]).sum();
        lost > self.world.options.faulty_max()
    }

    fn judge(&mut self) {
        let mut standings = Vec::new();
        let mut states = Vec::new();
        for machine in &mut self.machines {
            let (Some(standing), Some((executed, state, entries))) = (machine.standing(), machine.state()) else {
                continue;
            };
            self.world.trace.digest(&state);
            if machine.is_judged() {
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

    fn ids(&self) -> Vec<ReplicaId> {
        self.machines.iter().map(Machine::id).collect()
    }
}

thread_local! {
    /// The last panic of this thread, while somebody listens.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENING: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs `f`; a panic becomes its message and place, and is not printed.
fn quietly<R>(f: AssertUnwindSafe<impl FnOnce() -> R>) -> Result<R, String> {
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
