//! A cluster in one thread that a test leads step by step: four replicas and a client, a clock that the test moves, links
//! that it cuts, disks that it stops and services that it leads astray. Whole clusters under faults are the simulator's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, Verifier};
use bft_core::client::{ClientCore, ClientEffects, ClientOptions, Outcome};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::divergence::Alarm;
use bft_core::door::{Effects, Execute, Executed, Input, LinkState, Now, Outgoing, Persist, Place, To, Tuning};
use bft_core::hash::{Context, Hasher};
use bft_core::ids::{Digest, LinkId, LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::replica::Replica;
use bft_core::wire::message::{Code, Kind, Message};
use bft_core::wire::request::{SignedRequest, result_digest};
use bytes::Bytes;

use super::files::Files;
use super::{CLUSTER, TestCluster, scheme, superblock_after};

const LINK: LinkId = LinkId(1);
/// The base timeout of a view.
pub const T0: u64 = 500 * MILLISECOND;
/// What wall clocks begin with.
pub const WALL: u64 = 1_700_000_000_000_000_000;

pub struct Host {
    pub replica: Replica,
    pub effects: Effects,
    pub records: Vec<Persist>,
    pub durable: LogPosition,
    pub disk_is_stopped: bool,
    pub held: Vec<Outgoing>,
    pub deadline: Nanos,
    pub executed: Vec<Seq>,
    pub service_is_stopped: bool,
    /// What the service would have answered.
    pub unanswered: Vec<Input>,
    pub files: Files,
    /// What the service holds.
    pub state: u64,
    /// How often the service will still go astray when it executes a Seq.
    pub astray: BTreeMap<Seq, u32>,
    pub alarms: Vec<Alarm>,
}

/// Who hears whom: of a message from one replica to another whether it arrives.
pub type Hears = fn(ReplicaId, ReplicaId, &Message) -> bool;

pub struct Cluster {
    pub config: Arc<ClusterConfig>,
    pub tuning: Tuning,
    pub schemes: Vec<Arc<Ed25519>>,
    pub verifier: Verifier,
    pub hosts: Vec<Host>,
    pub client: ClientCore,
    pub said: ClientEffects,
    pub done: u64,
    pub submitted: u64,
    pub now: u64,
    pub queue: VecDeque<(ReplicaId, Input)>,
    pub hears: Hears,
    pub down: Vec<ReplicaId>,
    /// Every message that left a replica, newest last.
    pub sent: Vec<(ReplicaId, Message)>,
    /// Every Request that the client sent, newest last.
    pub asked: Vec<SignedRequest>,
    /// What each replica was told to send, and what must be durable first.
    pub told: Vec<(ReplicaId, Kind, LogPosition)>,
    /// What the wall clock of each replica was when the test's clock stood at 0.
    pub walls: Vec<u64>,
}

impl Cluster {
    pub fn new() -> Self {
        Self::with(ProtocolParams { checkpoint_interval: 8, window: 16, pipeline_max: 8, ..ProtocolParams::default() })
    }

    /// One that has answered one operation in view 0.
    pub fn running() -> Self {
        Self::new().answered_once()
    }

    /// It answers one operation in view 0.
    pub fn answered_once(mut self) -> Self {
        self.settle();
        self.submit();
        self.pass_until(SECOND, |cluster| cluster.done == 1);
        self
    }

    pub fn with(params: ProtocolParams) -> Self {
        Self::tuned(params, Tuning::default())
    }

    pub fn tuned(params: ProtocolParams, tuning: Tuning) -> Self {
        let schemes: Vec<_> = (0..4).map(|i| Arc::new(scheme(&format!("replica {i}")))).collect();
        let member = |scheme: &Arc<Ed25519>| {
            let address = "127.0.0.1:0".into();
            Member { weight: 1, public_key: scheme.public_key(), address }
        };
        let members = schemes.iter().map(member).collect();
        let epoch = bft_core::ids::Epoch(3);
        let config = Arc::new(ClusterConfig::new(CLUSTER, epoch, params, Admission::Any, members).expect("valid"));
        let client: Arc<dyn Scheme> = Arc::new(scheme("client"));
        let options = ClientOptions { window: 4, operations_per_request: 1, ..ClientOptions::default() };
        let mut cluster = Self {
            verifier: Verifier::new(Arc::clone(&config), Arc::clone(&client)),
            hosts: config
                .replicas()
                .map(|me| start(&config, &schemes, &tuning, me, Vec::new(), Files::default(), SECOND))
                .collect(),
            client: ClientCore::new(Arc::clone(&config), client, options, [9; 32]),
            said: ClientEffects::default(),
            done: 0,
            submitted: 0,
            now: SECOND,
            queue: VecDeque::new(),
            hears: |_, _, _| true,
            down: Vec::new(),
            sent: Vec::new(),
            asked: Vec::new(),
            told: Vec::new(),
            walls: vec![WALL; 4],
            tuning,
            schemes,
            config,
        };
        for replica in cluster.config.replicas() {
            cluster.carry_out(replica);
            cluster.greet(replica);
        }
        cluster
    }

    pub fn greet(&mut self, replica: ReplicaId) {
        let client = self.client.key();
        self.queue.push_back((replica, Input::Client { client, link: LINK, state: LinkState::Up }));
        self.client.on_link(Nanos(self.now), replica, LinkState::Up, &mut self.said);
    }

    /// Every replica learns that it has a link to every other.
    pub fn link(&mut self) {
        for at in self.config.replicas() {
            for peer in self.others(&[at]) {
                self.queue.push_back((at, Input::Link { peer, state: LinkState::Up }));
            }
        }
        self.settle();
    }

    /// All that its replicas could sign.
    pub fn secrets(&self) -> TestCluster {
        let (config, replicas) = (Arc::clone(&self.config), self.schemes.clone());
        TestCluster { config, replicas, authority: scheme("authority") }
    }

    pub fn primary(&self, view: u64) -> ReplicaId {
        self.config.primary(View(view))
    }

    pub fn others(&self, not: &[ReplicaId]) -> Vec<ReplicaId> {
        self.config.replicas().filter(|replica| !not.contains(replica)).collect()
    }

    pub fn host(&mut self, replica: ReplicaId) -> &mut Host {
        &mut self.hosts[replica.index()]
    }

    pub fn now(&self, at: ReplicaId) -> Now {
        Now { mono: Nanos(self.now), wall: WallNanos(self.walls[at.index()] + self.now) }
    }

    pub fn submit(&mut self) {
        self.submit_operation(Bytes::from_static(b"op"));
    }

    pub fn submit_operation(&mut self, operation: Bytes) {
        self.submitted += 1;
        self.client.submit(operation, self.submitted, None).expect("room in the client's queue");
        self.client.flush(Nanos(self.now), &mut self.said);
        self.settle();
    }

    /// Carries everything that is under way, until nothing is, at one point in time.
    pub fn settle(&mut self) {
        loop {
            self.carry_from_client();
            let Some((to, input)) = self.queue.pop_front() else { return };
            self.step(to, input);
        }
    }

    /// Lets `time` pass: everybody is called at the time that it asked for.
    pub fn pass(&mut self, time: u64) {
        let end = self.now + time;
        loop {
            let client = self.said.deadline.map_or(u64::MAX, |deadline| deadline.0);
            let up = self.others(&self.down);
            let next = up.iter().map(|replica| self.hosts[replica.index()].deadline.0).min().unwrap_or(u64::MAX);
            let at = next.min(client).max(self.now + 1);
            if at > end {
                self.now = end;
                return;
            }
            self.now = at;
            if client <= at {
                self.said.deadline = None;
                self.client.on_deadline(Nanos(at), &mut self.said);
            }
            for replica in up {
                if self.hosts[replica.index()].deadline.0 <= at {
                    self.step(replica, Input::Deadline);
                }
            }
            self.settle();
        }
    }

    /// Lets time pass until `is_so`, at most `most`; says how long it took.
    pub fn pass_until(&mut self, most: u64, is_so: impl Fn(&Self) -> bool) -> u64 {
        let from = self.now;
        while !is_so(self) {
            assert!(self.now < from + most, "it does not come to that");
            self.pass(5 * MILLISECOND);
        }
        self.now - from
    }

    /// Operations, one after the other, until somebody has executed `seq`.
    pub fn run_to(&mut self, seq: u64) {
        while self.hosts.iter().all(|host| host.replica.executed() < Seq(seq)) {
            self.submit();
            assert!(self.submitted < 1000, "it does not come to Seq {seq}");
            if self.done < self.submitted {
                self.pass_until(10 * SECOND, |cluster| cluster.done == cluster.submitted);
            }
        }
    }

    /// After a while everybody holds the same.
    pub fn come_together(&mut self) {
        self.pass(3 * SECOND);
        let states: Vec<_> = self.hosts.iter().map(|host| (host.replica.executed(), host.state)).collect();
        assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
    }

    pub fn carry_from_client(&mut self) {
        for (_, outcome) in self.said.done.drain(..) {
            assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
            self.done += 1;
        }
        for (to, message) in std::mem::take(&mut self.said.send) {
            if let Message::Request(request) = &message {
                self.asked.push(request.clone());
            }
            let up = self.others(&self.down);
            for replica in up.into_iter().filter(|replica| to == To::All || to == To::One(*replica)) {
                let input = match &message {
                    Message::Request(request) => Input::Requests(self.verifier.check_requests(vec![request.clone()]).0),
                    Message::InfoQuery { .. } => Input::InfoQuery { to: bft_core::door::InfoTo(LINK) },
                    other => panic!("a client does not send {other:?}"),
                };
                self.queue.push_back((replica, input));
            }
        }
    }

    pub fn step(&mut self, at: ReplicaId, input: Input) {
        if self.down.contains(&at) {
            return;
        }
        let now = self.now(at);
        let host = &mut self.hosts[at.index()];
        host.effects.clear();
        host.replica.step(now, input, &mut host.effects);
        host.replica.check_invariants();
        self.carry_out(at);
    }

    pub fn carry_out(&mut self, at: ReplicaId) {
        let host = &mut self.hosts[at.index()];
        let mut effects = std::mem::take(&mut host.effects);
        assert_eq!(effects.halt, None);
        host.records.append(&mut effects.persist);
        if let Some(view) = effects.cancel_votes_below {
            host.held.retain(|outgoing| outgoing.message.voted_in().is_none_or(|voted_in| voted_in >= view));
        }
        self.told.extend(effects.send.iter().map(|outgoing| (at, outgoing.message.kind(), outgoing.needs)));
        host.held.append(&mut effects.send);
        host.deadline = effects.deadline.unwrap_or(host.deadline);
        host.alarms.append(&mut effects.alarms);
        if let Some(seq) = effects.install.take() {
            host.state = host.files.state_of(seq);
            self.queue.push_back((at, Input::Installed { seq }));
        }
        if let Some(order) = effects.snapshot.take() {
            let outcome = host.files.write(&order, host.state);
            self.queue.push_back((at, Input::Snapshot { seq: order.seq, outcome }));
        }
        for order in effects.execute.drain(..) {
            host.executed.push(order.seq);
            let outcome = host.execute(at, &order);
            let answer = Input::Executed { seq: order.seq, outcome };
            if host.service_is_stopped {
                host.unanswered.push(answer);
            } else {
                self.queue.push_back((at, answer));
            }
        }
        for order in effects.files.drain(..) {
            self.queue.extend(host.files.carry_out(order).map(|done| (at, Input::File(done))));
        }
        if let Some(below) = effects.remove_snapshots_below.take() {
            host.files.remove_below(below);
        }
        for load in effects.load.drain(..) {
            let record = host.records.iter().find(|persist| persist.position == load).map(|persist| &persist.place);
            let record = match record {
                Some(Place::Journal(record)) => Some(record.clone()),
                Some(Place::Superblock(_)) | None => None,
            };
            self.queue.push_back((at, Input::Loaded { at: load, record }));
        }
        for (_, answer) in effects.answer.drain(..) {
            self.client.on_answer(Nanos(self.now), at, &answer, &mut self.said);
        }
        self.hosts[at.index()].effects = effects;
        self.flush(at);
        self.release(at);
    }

    pub fn flush(&mut self, at: ReplicaId) {
        let host = &mut self.hosts[at.index()];
        let last = host.records.last().map_or(LogPosition(0), |persist| persist.position);
        if !host.disk_is_stopped && host.durable < last {
            host.durable = last;
            self.queue.push_back((at, Input::Durable(last)));
        }
    }

    pub fn release(&mut self, at: ReplicaId) {
        let host = &mut self.hosts[at.index()];
        let (leave, held): (Vec<_>, Vec<_>) = host.held.drain(..).partition(|outgoing| outgoing.needs <= host.durable);
        host.held = held;
        for Outgoing { to, message, .. } in leave {
            let hears = self.hears;
            let is_for = |peer: &ReplicaId| *peer != at && (to == To::All || to == To::One(*peer));
            for peer in self.config.replicas().filter(is_for).filter(|peer| hears(at, *peer, &message)) {
                let message = self.verifier.check(at, message.clone()).expect("a correct replica's");
                self.queue.push_back((peer, Input::Message { from: at, message }));
            }
            self.sent.push((at, message));
        }
    }

    /// The disk writes on.
    pub fn start_disk(&mut self, at: ReplicaId) {
        self.host(at).disk_is_stopped = false;
        self.flush(at);
        self.release(at);
        self.settle();
    }

    /// The service goes on.
    pub fn start_service(&mut self, at: ReplicaId) {
        let host = self.host(at);
        host.service_is_stopped = false;
        let answers = std::mem::take(&mut host.unanswered);
        self.queue.extend(answers.into_iter().map(|answer| (at, answer)));
        self.settle();
    }

    /// The process is killed and starts again with what is durable.
    pub fn restart(&mut self, at: ReplicaId) {
        let host = &mut self.hosts[at.index()];
        let durable = host.durable;
        let records: Vec<_> = host.records.drain(..).filter(|persist| persist.position <= durable).collect();
        let (files, astray) = (std::mem::take(&mut host.files), std::mem::take(&mut host.astray));
        self.hosts[at.index()] = start(&self.config, &self.schemes, &self.tuning, at, records, files, self.now);
        self.hosts[at.index()].astray = astray;
        self.carry_out(at);
        self.greet(at);
        self.settle();
    }

    pub fn view(&self, at: ReplicaId) -> (View, bool) {
        let ordering = self.hosts[at.index()].replica.ordering();
        (ordering.view(), ordering.is_normal())
    }

    pub fn all_are_in(&self, view: u64) -> bool {
        self.others(&self.down).into_iter().all(|replica| self.view(replica) == (View(view), true))
    }

    pub fn sent_of(&self, kind: Kind) -> impl Iterator<Item = &(ReplicaId, Message)> {
        self.sent.iter().filter(move |(_, message)| message.kind() == kind)
    }
}

fn start(
    config: &Arc<ClusterConfig>,
    schemes: &[Arc<Ed25519>],
    tuning: &Tuning,
    me: ReplicaId,
    records: Vec<Persist>,
    files: Files,
    now: u64,
) -> Host {
    let superblock = superblock_after(config, me, &records);
    let scheme = Arc::clone(&schemes[me.index()]);
    let named = superblock.snapshot;
    let start = superblock.journal_start;
    let mut recovery = Replica::recover(Arc::clone(config), me, scheme, tuning.clone(), superblock);
    if let Some((seq, root)) = named {
        match files.read(seq, root) {
            Some((manifest, clients)) => recovery.snapshot(&manifest, *clients),
            None => recovery.snapshot_lost(),
        }
    }
    for persist in records.iter().filter(|persist| persist.position >= start) {
        if let Place::Journal(record) = &persist.place {
            recovery.record(persist.position, record.clone()).expect("its own journal");
        }
    }
    let last = records.last().map_or(LogPosition(0), |persist| persist.position);
    let mut effects = Effects::default();
    let now = Now { mono: Nanos(now), wall: WallNanos(WALL + now) };
    let replica = recovery.finish(now, last, Seq(0), &mut effects);
    let deadline = effects.deadline.unwrap_or_default();
    Host {
        replica,
        effects,
        records,
        durable: last,
        disk_is_stopped: false,
        held: Vec::new(),
        deadline,
        executed: Vec::new(),
        service_is_stopped: false,
        unanswered: Vec::new(),
        files,
        state: 0,
        astray: BTreeMap::new(),
        alarms: Vec::new(),
    }
}

impl Host {
    fn execute(&mut self, me: ReplicaId, order: &Execute) -> Executed {
        self.state = self.state.wrapping_mul(31).wrapping_add(order.seq.0);
        let mut outcome = executed(order);
        if let Some(left) = self.astray.get_mut(&order.seq).filter(|left| **left > 0) {
            *left -= 1;
            let mut delta = Hasher::new(Context::Delta);
            delta.u64(u64::from(me.0));
            outcome.delta = delta.finish();
        }
        outcome
    }
}

/// What the service answers: eight bytes an operation.
pub fn executed(order: &Execute) -> Executed {
    let mut results = Vec::new();
    let ends = order.admitted.iter().map(|_| {
        let start = results.len();
        results.extend_from_slice(&8u32.to_le_bytes());
        results.extend_from_slice(&order.seq.0.to_le_bytes());
        (results.len() as u32, Some(result_digest(Code::Ok, &results[start..])))
    });
    let ends: Vec<(u32, Option<Digest>)> = ends.collect();
    Executed { results: Bytes::from(results), ends, delta: Hasher::new(Context::Delta).finish() }
}
