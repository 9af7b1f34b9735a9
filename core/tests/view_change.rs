//! From one view to the next, step by step: four replicas and a client in one thread, a clock that the tests move, links
//! that they cut and disks that they stop. Whole clusters under faults are the simulator's.

mod common;

use std::collections::VecDeque;
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, Verifier};
use bft_core::client::{ClientCore, ClientEffects, ClientOptions, Outcome};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::door::{Answer, Effects, Execute, Executed, Input, LinkState, Now, Outgoing, Persist, Place, To, Tuning};
use bft_core::hash::{Context, Hasher};
use bft_core::ids::{Digest, LinkId, LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::journal::record::Record;
use bft_core::journal::superblock::{Directory, Superblock};
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::replica::Replica;
use bft_core::wire::canonical::{self, commit_nonce, opening};
use bft_core::wire::message::{Ballot, Code, Kind, Message, NewView, Position, PrePrepare, ViewChange};
use bft_core::wire::request::result_digest;
use bytes::Bytes;
use common::{CLUSTER, scheme};

/// The base timeout of a view.
const T0: u64 = 500 * MILLISECOND;
const LINK: LinkId = LinkId(1);

struct Host {
    replica: Replica,
    effects: Effects,
    records: Vec<Persist>,
    durable: LogPosition,
    disk_is_stopped: bool,
    held: Vec<Outgoing>,
    deadline: Nanos,
    executed: Vec<Seq>,
}

/// Who hears whom: of a message from one replica to another whether it arrives.
type Hears = fn(ReplicaId, ReplicaId, &Message) -> bool;

struct Cluster {
    config: Arc<ClusterConfig>,
    schemes: Vec<Arc<Ed25519>>,
    verifier: Verifier,
    hosts: Vec<Host>,
    client: ClientCore,
    said: ClientEffects,
    done: u64,
    submitted: u64,
    now: u64,
    queue: VecDeque<(ReplicaId, Input)>,
    hears: Hears,
    down: Vec<ReplicaId>,
    /// Every message that left a replica, newest last.
    sent: Vec<(ReplicaId, Message)>,
}

impl Cluster {
    fn new() -> Self {
        let schemes: Vec<_> = (0..4).map(|i| Arc::new(scheme(&format!("replica {i}")))).collect();
        let member = |scheme: &Arc<Ed25519>| {
            let address = "127.0.0.1:0".into();
            Member { weight: 1, public_key: scheme.public_key(), address }
        };
        let members = schemes.iter().map(member).collect();
        let params =
            ProtocolParams { checkpoint_interval: 8, window: 16, pipeline_max: 8, ..ProtocolParams::default() };
        let epoch = bft_core::ids::Epoch(3);
        let config = Arc::new(ClusterConfig::new(CLUSTER, epoch, params, Admission::Any, members).expect("valid"));
        let client: Arc<dyn Scheme> = Arc::new(scheme("client"));
        let options = ClientOptions { window: 4, operations_per_request: 1, ..ClientOptions::default() };
        let mut cluster = Self {
            verifier: Verifier::new(Arc::clone(&config), Arc::clone(&client)),
            hosts: config.replicas().map(|me| start(&config, &schemes, me, Vec::new(), SECOND)).collect(),
            client: ClientCore::new(Arc::clone(&config), client, options, [9; 32]),
            said: ClientEffects::default(),
            done: 0,
            submitted: 0,
            now: SECOND,
            queue: VecDeque::new(),
            hears: |_, _, _| true,
            down: Vec::new(),
            sent: Vec::new(),
            schemes,
            config,
        };
        for replica in cluster.config.replicas() {
            cluster.greet(replica);
        }
        cluster
    }

    fn greet(&mut self, replica: ReplicaId) {
        let client = self.client.key();
        self.queue.push_back((replica, Input::Client { client, link: LINK, state: LinkState::Up }));
        self.client.on_link(Nanos(self.now), replica, LinkState::Up, &mut self.said);
    }

    fn primary(&self, view: u64) -> ReplicaId {
        self.config.primary(View(view))
    }

    fn others(&self, not: &[ReplicaId]) -> Vec<ReplicaId> {
        self.config.replicas().filter(|replica| !not.contains(replica)).collect()
    }

    fn host(&mut self, replica: ReplicaId) -> &mut Host {
        &mut self.hosts[replica.index()]
    }

    fn now(&self) -> Now {
        Now { mono: Nanos(self.now), wall: WallNanos(1_700_000_000_000_000_000 + self.now) }
    }

    fn submit(&mut self) {
        self.submitted += 1;
        self.client.submit(Bytes::from_static(b"op"), self.submitted, None).expect("room in the client's queue");
        self.client.flush(Nanos(self.now), &mut self.said);
        self.settle();
    }

    /// Carries everything that is under way, until nothing is, at one point in time.
    fn settle(&mut self) {
        loop {
            self.carry_from_client();
            let Some((to, input)) = self.queue.pop_front() else { return };
            self.step(to, input);
        }
    }

    /// Lets `time` pass: everybody is called at the time that it asked for.
    fn pass(&mut self, time: u64) {
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
    fn pass_until(&mut self, most: u64, is_so: impl Fn(&Self) -> bool) -> u64 {
        let from = self.now;
        while !is_so(self) {
            assert!(self.now < from + most, "it does not come to that");
            self.pass(5 * MILLISECOND);
        }
        self.now - from
    }

    fn carry_from_client(&mut self) {
        for (_, outcome) in self.said.done.drain(..) {
            assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
            self.done += 1;
        }
        for (to, message) in std::mem::take(&mut self.said.send) {
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

    fn step(&mut self, at: ReplicaId, input: Input) {
        if self.down.contains(&at) {
            return;
        }
        let now = self.now();
        let host = &mut self.hosts[at.index()];
        host.effects.clear();
        host.replica.step(now, input, &mut host.effects);
        host.replica.check_invariants();
        self.carry_out(at);
    }

    fn carry_out(&mut self, at: ReplicaId) {
        let host = &mut self.hosts[at.index()];
        let mut effects = std::mem::take(&mut host.effects);
        assert_eq!(effects.halt, None);
        host.records.append(&mut effects.persist);
        if let Some(view) = effects.cancel_votes_below {
            host.held.retain(|outgoing| outgoing.message.voted_in().is_none_or(|voted_in| voted_in >= view));
        }
        host.held.append(&mut effects.send);
        host.deadline = effects.deadline.unwrap_or(host.deadline);
        for order in effects.execute.drain(..) {
            host.executed.push(order.seq);
            self.queue.push_back((at, Input::Executed { seq: order.seq, outcome: executed(&order) }));
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
            let message = match answer {
                Answer::Reply(reply) => Message::Reply(reply),
                Answer::Busy(busy) => Message::Busy(busy),
                Answer::Info(info) => Message::Info(info),
            };
            self.client.on_message(Nanos(self.now), at, &message, &mut self.said);
        }
        self.hosts[at.index()].effects = effects;
        self.flush(at);
        self.release(at);
    }

    fn flush(&mut self, at: ReplicaId) {
        let host = &mut self.hosts[at.index()];
        let last = host.records.last().map_or(LogPosition(0), |persist| persist.position);
        if !host.disk_is_stopped && host.durable < last {
            host.durable = last;
            self.queue.push_back((at, Input::Durable(last)));
        }
    }

    fn release(&mut self, at: ReplicaId) {
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
    fn start_disk(&mut self, at: ReplicaId) {
        self.host(at).disk_is_stopped = false;
        self.flush(at);
        self.release(at);
        self.settle();
    }

    /// The process is killed and starts again with what is durable.
    fn restart(&mut self, at: ReplicaId) {
        let host = &mut self.hosts[at.index()];
        let durable = host.durable;
        let records: Vec<_> = host.records.drain(..).filter(|persist| persist.position <= durable).collect();
        self.hosts[at.index()] = start(&self.config, &self.schemes, at, records, self.now);
        self.carry_out(at);
        self.greet(at);
        self.settle();
    }

    fn view(&self, at: ReplicaId) -> (View, bool) {
        let ordering = self.hosts[at.index()].replica.ordering();
        (ordering.view(), ordering.is_normal())
    }

    fn all_are_in(&self, view: u64) -> bool {
        self.others(&self.down).into_iter().all(|replica| self.view(replica) == (View(view), true))
    }

    fn sent_of(&self, kind: Kind) -> impl Iterator<Item = &(ReplicaId, Message)> {
        self.sent.iter().filter(move |(_, message)| message.kind() == kind)
    }
}

fn start(
    config: &Arc<ClusterConfig>,
    schemes: &[Arc<Ed25519>],
    me: ReplicaId,
    records: Vec<Persist>,
    now: u64,
) -> Host {
    let mut superblock = Superblock::first(&Directory {
        cluster_id: config.cluster_id(),
        replica: me,
        public_key: schemes[me.index()].public_key(),
        epoch: config.epoch(),
        directory_id: [0; 16],
        directory_key: [0; 32],
    });
    for persist in &records {
        if let Place::Superblock(newer) = &persist.place {
            superblock = (**newer).clone();
        }
    }
    let scheme = Arc::clone(&schemes[me.index()]);
    let mut recovery = Replica::recover(Arc::clone(config), me, scheme, Tuning::default(), superblock);
    for persist in &records {
        if let Place::Journal(record) = &persist.place {
            recovery.record(persist.position, record.clone()).expect("its own journal");
        }
    }
    let last = records.last().map_or(LogPosition(0), |persist| persist.position);
    let mut effects = Effects::default();
    let now = Now { mono: Nanos(now), wall: WallNanos(1_700_000_000_000_000_000 + now) };
    let replica = recovery.finish(now, last, Seq(0), &mut effects);
    let deadline = effects.deadline.unwrap_or_default();
    let (held, executed) = (Vec::new(), Vec::new());
    Host { replica, effects, records, durable: last, disk_is_stopped: false, held, deadline, executed }
}

fn executed(order: &Execute) -> Executed {
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

/// A cluster that has answered one operation in view 0.
fn running() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.settle();
    cluster.submit();
    cluster.pass_until(SECOND, |cluster| cluster.done == 1);
    cluster
}

#[test]
fn v12_a_request_that_waits_for_a_dead_primary_is_executed_once_in_the_next_view() {
    let mut cluster = running();
    cluster.down.push(cluster.primary(0));
    cluster.submit();
    let took = cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
    assert!(cluster.all_are_in(1));
    assert!(took <= 2 * T0 + 100 * MILLISECOND, "{took} ns");
    let executed: Vec<_> =
        cluster.others(&cluster.down).iter().map(|r| cluster.hosts[r.index()].executed.len()).collect();
    assert!(executed.iter().all(|count| *count == executed[0]), "{executed:?}");
}

#[test]
fn v12_what_a_dead_primary_had_proposed_to_a_quorum_comes_back_at_its_seq() {
    let mut cluster = running();
    // Nobody hears a COMMIT: the batch is prepared everywhere and committed nowhere.
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    let prepared = cluster.hosts[0].replica.ordering().highest_prepared();
    let digest = |cluster: &Cluster, replica: ReplicaId| {
        let ordering = cluster.hosts[replica.index()].replica.ordering();
        ordering.slot(prepared).and_then(|slot| slot.accepted.as_ref()).map(|accepted| accepted.position.digest)
    };
    let before = digest(&cluster, ReplicaId(0));
    assert!(before.is_some());
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, _| true;
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
    let others = cluster.others(&cluster.down);
    for replica in others {
        assert_eq!(digest(&cluster, replica), before, "the same batch at the same Seq, in view 1");
        assert_eq!(cluster.hosts[replica.index()].executed.iter().filter(|seq| **seq == prepared).count(), 1);
    }
}

#[test]
fn v9_views_change_although_whatever_is_said_of_them_first_is_lost() {
    let mut cluster = running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| !matches!(message, Message::ViewChange(_) | Message::NewView(_));
    cluster.submit();
    cluster.pass(2 * T0);
    assert!(cluster.sent_of(Kind::ViewChange).count() >= 3 && !cluster.all_are_in(1));
    cluster.hears = |_, _, _| true;
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
}

#[test]
fn v7_a_commit_that_waits_for_its_record_does_not_leave_after_the_view_is_left() {
    let mut cluster = running();
    let backup = cluster.primary(2);
    let primary = cluster.primary(0);
    // The vote of the backup reaches the disk, its certificate does not.
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    let certified = cluster.host(backup).replica.ordering().highest_prepared();
    cluster.hears = |_, _, _| true;
    cluster.down.push(primary);
    cluster.host(backup).disk_is_stopped = true;
    cluster.submit();
    cluster.pass_until(4 * T0, |cluster| cluster.view(backup).0 > View(0));
    assert_eq!(cluster.view(backup), (View(1), false));
    let held =
        |cluster: &Cluster, kind| cluster.hosts[backup.index()].held.iter().any(|out| out.message.kind() == kind);
    assert!(!held(&cluster, Kind::Commit) && !held(&cluster, Kind::Prepare), "cancelled");
    assert!(cluster.sent_of(Kind::ViewChange).all(|(from, _)| *from != backup), "the promise is not durable");
    cluster.start_disk(backup);
    let of_backup = |(from, message): &(ReplicaId, Message)| match message {
        Message::ViewChange(message) if *from == backup => Some(Arc::clone(message)),
        _ => None,
    };
    let message = cluster.sent.iter().find_map(of_backup).expect("it says so as soon as it is");
    assert!(message.prepared.iter().any(|certificate| certificate.position.seq == certified), "{message:?}");
}

#[test]
fn v8_a_replica_that_is_alone_goes_one_view_on_and_comes_back() {
    let mut cluster = running();
    let alone = cluster.primary(1);
    cluster.hears = |from, to, _| ![from, to].contains(&ReplicaId(u16::MAX));
    let hears: Vec<Hears> = vec![
        |from, to, _| from != ReplicaId(0) && to != ReplicaId(0),
        |from, to, _| from != ReplicaId(1) && to != ReplicaId(1),
        |from, to, _| from != ReplicaId(2) && to != ReplicaId(2),
        |from, to, _| from != ReplicaId(3) && to != ReplicaId(3),
    ];
    cluster.hears = hears[alone.index()];
    // It alone gets the Request, and nobody executes it.
    cluster.submit();
    let request = cluster.sent.len();
    cluster.pass(600 * SECOND);
    assert!(cluster.sent.len() > request);
    assert!(cluster.view(alone).0 <= View(1), "{:?}", cluster.view(alone));
    cluster.hears = |_, _, _| true;
    cluster.submit();
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == cluster.submitted);
}

#[test]
fn v8_one_replica_moves_nobody_and_a_blocking_set_moves_all() {
    let mut cluster = running();
    let far = |cluster: &Cluster, replica: ReplicaId, view: u64| {
        let mut message = ViewChange {
            epoch: cluster.config.epoch(),
            view: View(view),
            replica,
            certificate: None,
            prepared: Vec::new(),
            signature: bft_core::ids::Signature::ZERO,
        };
        message.signature = cluster.schemes[replica.index()].sign(&message.signing_bytes(CLUSTER));
        let message = Message::ViewChange(Arc::new(message));
        Input::Message { from: replica, message: cluster.verifier.check(replica, message).expect("well signed") }
    };
    let at = ReplicaId(0);
    let input = far(&cluster, ReplicaId(1), 1 << 60);
    cluster.step(at, input);
    cluster.settle();
    assert_eq!(cluster.view(at), (View(0), true));
    let input = far(&cluster, ReplicaId(2), 7);
    cluster.step(at, input);
    assert_eq!(cluster.view(at).0, View(7), "the highest view that a blocking set has reached");
}

#[test]
fn v10_timeouts_double_while_views_fail_and_fall_back_after_progress() {
    let mut cluster = running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| message.kind() != Kind::NewView;
    cluster.submit();
    let mut times = Vec::new();
    for view in 1..=4 {
        let from = cluster.now;
        let witness = cluster.primary(0);
        let witness = cluster.others(&[witness])[0];
        cluster.pass_until(100 * T0, |cluster| cluster.view(witness).0 >= View(view));
        times.push(cluster.now - from);
    }
    assert!(times.windows(2).skip(1).all(|pair| pair[1] > pair[0] + pair[0] / 2), "{times:?}");
    cluster.hears = |_, _, _| true;
    cluster.pass_until(100 * T0, |cluster| cluster.done == 2);
    let (view, _) = cluster.view(cluster.others(&cluster.down)[0]);
    cluster.down = vec![cluster.config.primary(view)];
    cluster.submit();
    let took = cluster.pass_until(100 * T0, |cluster| cluster.done == 3);
    assert!(took <= 4 * T0, "{took} ns after progress, in {view:?}");
}

#[test]
fn v11_a_request_that_comes_after_its_execution_is_no_reason_to_suspect_anybody() {
    let mut cluster = Cluster::new();
    cluster.settle();
    cluster.submit();
    cluster.pass_until(SECOND, |cluster| cluster.done == 1);
    let late = cluster.sent.iter().find_map(|(_, message)| match message {
        Message::PrePrepare(proposal) => proposal.body.requests().next(),
        _ => None,
    });
    let late = late.expect("it was proposed");
    let down = cluster.primary(0);
    cluster.down.push(down);
    for replica in cluster.others(&[down]) {
        let requests = cluster.verifier.check_requests(vec![late.clone()]).0;
        cluster.step(replica, Input::Requests(requests));
    }
    cluster.pass(20 * T0);
    assert!(cluster.all_are_in(0));
}

#[test]
fn v16_a_replica_that_was_not_scheduled_suspects_nobody_and_a_silent_primary_is_suspected_all_the_same() {
    let mut cluster = running();
    let (primary, backup) = (cluster.primary(0), cluster.primary(2));
    // Something waits at the backup, and before its time is over the host stands still for two seconds.
    cluster.hears = |_, _, _| false;
    cluster.submit();
    cluster.pass(T0 / 2);
    cluster.now += 2 * SECOND;
    cluster.step(backup, Input::Deadline);
    assert_eq!(cluster.view(backup), (View(0), true));
    cluster.hears = |_, _, _| true;
    cluster.down.push(primary);
    cluster.pass_until(3 * T0, |cluster| cluster.view(backup).0 == View(1));
}

/// The cluster in view 1, and the NEW-VIEW that began it.
fn in_view_one() -> (Cluster, Arc<NewView>) {
    let mut cluster = running();
    cluster.down.push(cluster.primary(0));
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    cluster.pass_until(5 * SECOND, |cluster| cluster.all_are_in(1));
    let new_view = cluster.sent.iter().find_map(|(_, message)| match message {
        Message::NewView(new_view) => Some(Arc::clone(new_view)),
        _ => None,
    });
    (cluster, new_view.expect("a NEW-VIEW began it"))
}

#[test]
fn v4_a_proposal_that_the_beginning_of_the_view_does_not_have_is_not_voted_for() {
    let mut cluster = running();
    let primary = cluster.primary(1);
    cluster.hears = |_, _, message| message.kind() != Kind::Commit;
    cluster.submit();
    cluster.down.push(cluster.primary(0));
    // The new primary is silent: the test speaks for it.
    cluster.hears = |_, _, message| message.voted_in().is_none();
    cluster.pass_until(5 * SECOND, |cluster| cluster.all_are_in(1));
    let backup = cluster.others(&[primary, cluster.primary(0)])[0];
    let ordering = cluster.hosts[backup.index()].replica.ordering();
    let seq = *ordering.beginning().order.keys().next().expect("something was prepared");
    assert!(ordering.slot(seq).expect("in the window").accepted.is_none());
    let null = ordering.null_digest();
    let epoch = cluster.config.epoch();
    let propose = |digest, header, body| {
        let position = Position { epoch, view: View(1), seq, digest };
        let scheme = &cluster.schemes[primary.index()];
        let commitment = opening(&commit_nonce(&scheme.commit_secret(), &position));
        let signature = scheme.sign(&canonical::pre_prepare(CLUSTER, &position, commitment));
        Message::PrePrepare(PrePrepare { position, ballot: Ballot { commitment, signature }, header, body })
    };
    let lie = propose(null, bft_core::wire::message::BatchHeader::NULL, Arc::default());
    let message = cluster.verifier.check(primary, lie).expect("well signed");
    let votes = |cluster: &Cluster| {
        let is_vote = |persist: &&Persist| matches!(persist.place, Place::Journal(Record::Vote(_)));
        cluster.hosts[backup.index()].records.iter().filter(is_vote).count()
    };
    let before = votes(&cluster);
    cluster.step(backup, Input::Message { from: primary, message });
    assert_eq!(votes(&cluster), before, "no vote");
    assert_eq!(cluster.view(backup), (View(2), false), "its primary is proved to have lied");
}

#[test]
fn s9_a_second_new_view_of_the_same_view_is_never_begun_and_ends_it() {
    let (mut cluster, first) = in_view_one();
    let primary = cluster.primary(1);
    let mut second = (*first).clone();
    // The same senders, one of them with another VIEW-CHANGE: one that forgets what it had prepared.
    let mut forgetful = (*second.view_changes[0]).clone();
    forgetful.prepared.clear();
    let signer = &cluster.schemes[forgetful.replica.index()];
    forgetful.signature = signer.sign(&forgetful.signing_bytes(CLUSTER));
    second.view_changes[0] = Arc::new(forgetful);
    second.signature = cluster.schemes[primary.index()].sign(&second.signing_bytes(CLUSTER));
    assert_ne!(second, *first);
    let backup = cluster.others(&[primary, cluster.primary(0)])[0];
    let message = cluster.verifier.check(primary, Message::NewView(Arc::new(second))).expect("well signed");
    let again = cluster.verifier.check(primary, Message::NewView(Arc::clone(&first))).expect("the first one");
    cluster.step(backup, Input::Message { from: primary, message: again });
    assert_eq!(cluster.hosts[backup.index()].replica.counters().ignored_conflicting, 0, "the same again");
    assert_eq!(cluster.hosts[backup.index()].replica.ordering().new_view(), Some(&first));
    cluster.step(backup, Input::Message { from: primary, message });
    let counters = cluster.hosts[backup.index()].replica.counters();
    assert_eq!((counters.ignored_conflicting, counters.evidence), (1, 2), "and of who forgot");
    assert_eq!(cluster.view(backup), (View(2), false));
}

#[test]
fn v6_a_replica_that_starts_again_on_its_way_to_a_view_says_the_same_again() {
    let mut cluster = running();
    cluster.hears = |_, _, message| !matches!(message, Message::Commit(_) | Message::NewView(_));
    cluster.submit();
    let (primary, backup) = (cluster.primary(0), cluster.primary(2));
    cluster.down.push(primary);
    cluster.pass_until(3 * T0, |cluster| cluster.sent_of(Kind::ViewChange).any(|(from, _)| *from == backup));
    let own = |cluster: &Cluster| cluster.hosts[backup.index()].replica.ordering().own_view_change().cloned();
    let before = own(&cluster);
    assert!(before.as_ref().is_some_and(|message| !message.prepared.is_empty()));
    cluster.restart(backup);
    assert_eq!(cluster.view(backup), (View(1), false), "the promise stands");
    assert_eq!(own(&cluster), before, "byte for byte");
    cluster.hears = |_, _, _| true;
    cluster.pass_until(20 * T0, |cluster| cluster.done == 2);
}

#[test]
fn s9_a_primary_that_starts_again_repeats_its_new_view_and_makes_no_other() {
    let (mut cluster, first) = in_view_one();
    let primary = cluster.primary(1);
    cluster.sent.clear();
    cluster.restart(primary);
    assert_eq!(cluster.view(primary), (View(1), true));
    assert_eq!(cluster.hosts[primary.index()].replica.ordering().new_view(), Some(&first));
    cluster.hears = |_, _, _| true;
    cluster.pass_until(20 * T0, |cluster| cluster.done == 2);
    let all_the_same = cluster.sent_of(Kind::NewView).all(|(_, message)| match message {
        Message::NewView(new_view) => new_view.view > View(1) || *new_view == first,
        _ => unreachable!("only NEW-VIEWs were asked for"),
    });
    assert!(all_the_same);
}

#[test]
fn d1_a_new_view_is_durable_before_its_primary_speaks_of_it() {
    let mut cluster = running();
    let primary = cluster.primary(1);
    cluster.down.push(cluster.primary(0));
    cluster.submit();
    cluster.pass_until(3 * T0, |cluster| cluster.sent_of(Kind::ViewChange).any(|(from, _)| *from == primary));
    let records = |cluster: &Cluster| {
        let places = cluster.hosts[primary.index()].records.iter();
        places.filter(|persist| matches!(persist.place, Place::Journal(Record::NewView(_)))).count()
    };
    assert_eq!(records(&cluster), usize::from(cluster.sent_of(Kind::NewView).count() > 0));
    cluster.pass_until(5 * SECOND, |cluster| cluster.done == 2);
    assert_eq!(records(&cluster), 1);
}
