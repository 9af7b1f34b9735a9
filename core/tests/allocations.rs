//! What a step allocates in the steady state: what its messages and records hold, so many for each batch, and nothing for
//! each Request or message. Four replicas and a client in one thread, over queues, with an
//! allocator that counts. Only `Replica::step` is counted; the shell around it may do as it likes.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, Verified, Verifier};
use bft_core::client::{ClientCore, ClientEffects, ClientOptions, Outcome};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::door::{Effects, InfoTo, Input, LinkState, Now, Place, To, Tuning};
use bft_core::ids::{ClusterId, Epoch, LinkId, LogPosition, Nanos, ReplicaId, Seq, WallNanos};
use bft_core::journal::record::Record;
use bft_core::journal::superblock::{Directory, Superblock};
use bft_core::replica::Replica;
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;
use bytes::Bytes;
use common::cluster::executed;

/// The system's allocator, and how often each thread asked it for memory.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came; the count beside it is a plain cell of the thread, which
// allocates nothing and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests under way at a time.
const WINDOW: u64 = 16;
/// Checkpoints before the count begins: containers have their size then.
const WARM_UP_CHECKPOINTS: u64 = 6;
/// Checkpoints while it runs.
const COUNTED_CHECKPOINTS: u64 = 4;

/// What a PRE-PREPARE of its own costs the primary: the body's bytes and their reference count, its entries and theirs.
const PROPOSAL_HOLDS: u64 = 4;
/// The votes in a prepared certificate.
const CERT_HOLDS: u64 = 1;
/// A commit certificate, shared by the record and the slot, and the votes in it.
const COMMITTED_HOLDS: u64 = 2;
/// Which Requests of a batch the service gets.
const EXECUTE_HOLDS: u64 = 1;
/// Checkpoints come once in many batches: votes, certificate, superblock; now and then a container grows.
const CHECKPOINT_TAKES: u64 = 10;

/// What goes in, by what it asks of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Requests,
    PrePrepare,
    Prepare,
    Commit,
    Checkpoint,
    Durable,
    Executed,
    Other,
}

fn kind(input: &Input) -> Kind {
    match input {
        Input::Requests(_) => Kind::Requests,
        Input::Message { message, .. } => match **message {
            Message::PrePrepare(_) => Kind::PrePrepare,
            Message::Prepare(_) => Kind::Prepare,
            Message::Commit(_) => Kind::Commit,
            Message::Checkpoint(_) => Kind::Checkpoint,
            _ => Kind::Other,
        },
        Input::Durable(_) => Kind::Durable,
        Input::Executed { .. } => Kind::Executed,
        _ => Kind::Other,
    }
}

/// What the steps of one replica asked for, and what came out of them.
#[derive(Clone, Debug, Default)]
struct Count {
    asked: BTreeMap<Kind, u64>,
    proposals: u64,
    certs: u64,
    committed: u64,
    executes: u64,
    checkpoints: u64,
}

struct Host {
    replica: Replica,
    effects: Effects,
    count: Count,
}

type Queue = VecDeque<(ReplicaId, Input)>;

struct Cluster {
    config: Arc<ClusterConfig>,
    verifier: Verifier,
    hosts: Vec<Host>,
    client: ClientCore,
    said: ClientEffects,
    queue: Queue,
    finished: u64,
    submitted: u64,
}

impl Cluster {
    fn new() -> Self {
        let schemes: Vec<Arc<dyn Scheme>> =
            (0..5u8).map(|i| Arc::new(Ed25519::new(&[i + 1; 32], [i; 32])) as _).collect();
        let member = |scheme: &Arc<dyn Scheme>| {
            let address = "127.0.0.1:0".to_string();
            Member { weight: 1, public_key: scheme.public_key(), address }
        };
        let members = schemes[..4].iter().map(member).collect();
        let config =
            ClusterConfig::new(ClusterId([7; 32]), Epoch(0), ProtocolParams::default(), Admission::Any, members);
        let config = Arc::new(config.unwrap());
        let host = |me: ReplicaId| {
            let scheme = Arc::clone(&schemes[me.index()]);
            let superblock = Superblock::first(&Directory {
                cluster_id: config.cluster_id(),
                replica: me,
                public_key: scheme.public_key(),
                epoch: config.epoch(),
                directory_id: [0; 16],
                directory_key: [0; 32],
            });
            let recovery = Replica::recover(Arc::clone(&config), me, scheme, Tuning::default(), superblock);
            let replica = recovery.finish(now(), LogPosition(0), Seq(0), &mut Effects::default());
            Host { replica, effects: Effects::default(), count: Count::default() }
        };
        let options = ClientOptions { window: WINDOW, operations_per_request: 1, ..ClientOptions::default() };
        let mut cluster = Self {
            verifier: Verifier::new(Arc::clone(&config), Arc::clone(&schemes[4])),
            hosts: config.replicas().map(host).collect(),
            client: ClientCore::new(Arc::clone(&config), Arc::clone(&schemes[4]), options, [9; 32]),
            said: ClientEffects::default(),
            queue: Queue::new(),
            finished: 0,
            submitted: 0,
            config,
        };
        for replica in cluster.config.replicas() {
            let client = cluster.client.key();
            cluster.queue.push_back((replica, Input::Client { client, link: LinkId(1), state: LinkState::Up }));
            cluster.client.on_link(now().mono, replica, LinkState::Up, &mut cluster.said);
            // A link that comes up makes each ask the others what they hold of it.
            let peers = cluster.config.replicas().filter(|peer| *peer != replica);
            let state = LinkState::Up;
            cluster.queue.extend(peers.map(|peer| (replica, Input::Link { peer, state })));
        }
        cluster
    }

    /// Runs until `checkpoint` is stable at every replica.
    fn run_to(&mut self, checkpoint: Seq) {
        while self.hosts.iter().any(|host| host.replica.stable() < checkpoint) {
            while self.submitted < self.finished + WINDOW {
                self.submitted += 1;
                self.client.submit(Bytes::from_static(&[7; 16]), self.submitted, None).unwrap();
            }
            self.client.flush(now().mono, &mut self.said);
            self.carry_from_client();
            while let Some((to, input)) = self.queue.pop_front() {
                self.step(to, input);
            }
        }
    }

    fn carry_from_client(&mut self) {
        for (_, outcome) in self.said.done.drain(..) {
            assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
            self.finished += 1;
        }
        let mut for_primary = Vec::new();
        for (to, message) in std::mem::take(&mut self.said.send) {
            match message {
                Message::Request(request) if to == To::All => self.give_all(|cluster| {
                    let requests = cluster.checked(vec![request.clone()]);
                    Input::Requests(requests)
                }),
                Message::Request(request) => for_primary.push(request),
                Message::InfoQuery { .. } => self.give_all(|_| Input::InfoQuery { to: InfoTo(LinkId(1)) }),
                other => panic!("a client does not send {other:?}"),
            }
        }
        if !for_primary.is_empty() {
            let input = Input::Requests(self.checked(for_primary));
            self.queue.push_back((self.hosts[0].replica.ordering().primary(), input));
        }
    }

    fn give_all(&mut self, input: impl Fn(&Self) -> Input) {
        let inputs: Vec<_> = self.config.replicas().map(|replica| (replica, input(self))).collect();
        self.queue.extend(inputs);
    }

    fn checked(&self, requests: Vec<SignedRequest>) -> Verified<Vec<SignedRequest>> {
        let (requests, refused) = self.verifier.check_requests(requests);
        assert!(refused.is_empty());
        requests
    }

    fn step(&mut self, at: ReplicaId, input: Input) {
        let Host { replica, effects, count } = &mut self.hosts[at.index()];
        let kind = kind(&input);
        effects.clear();
        let before = ASKED.get();
        replica.step(now(), input, effects);
        *count.asked.entry(kind).or_default() += ASKED.get() - before;
        assert_eq!(effects.halt, None);
        for order in &effects.execute {
            count.executes += 1;
            self.queue.push_back((at, Input::Executed { seq: order.seq, outcome: executed(order) }));
        }
        if let Some(persist) = effects.persist.last() {
            self.queue.push_back((at, Input::Durable(persist.position)));
        }
        for persist in &effects.persist {
            match &persist.place {
                Place::Journal(Record::Cert(_)) => count.certs += 1,
                Place::Journal(Record::Committed(_)) => count.committed += 1,
                Place::Journal(Record::CkptVote { .. }) => count.checkpoints += 1,
                Place::Journal(_) | Place::Superblock(_) => {}
            }
        }
        for outgoing in &effects.send {
            count.proposals += u64::from(matches!(outgoing.message, Message::PrePrepare(_)));
            let is_for = |peer: &ReplicaId| *peer != at && (outgoing.to == To::All || outgoing.to == To::One(*peer));
            for peer in self.config.replicas().filter(is_for) {
                let message = self.verifier.check(at, outgoing.message.clone()).expect("valid");
                self.queue.push_back((peer, Input::Message { from: at, message }));
            }
        }
        for (_, answer) in effects.answer.drain(..) {
            self.client.on_answer(now().mono, at, &answer, &mut self.said);
        }
    }
}

/// Nothing here waits: the time may stand still.
fn now() -> Now {
    Now { mono: Nanos(1_000_000_000), wall: WallNanos(1_000_000_000) }
}

#[test]
fn a_step_allocates_nothing_but_what_its_messages_hold() {
    let mut cluster = Cluster::new();
    let interval = cluster.config.params().checkpoint_interval;
    cluster.run_to(Seq(WARM_UP_CHECKPOINTS * interval));
    cluster.hosts.iter_mut().for_each(|host| host.count = Count::default());
    let finished = cluster.finished;
    cluster.run_to(Seq((WARM_UP_CHECKPOINTS + COUNTED_CHECKPOINTS) * interval));
    for host in &cluster.hosts {
        let count = &host.count;
        let asked: u64 = count.asked.values().sum();
        let held = PROPOSAL_HOLDS * count.proposals
            + CERT_HOLDS * count.certs
            + COMMITTED_HOLDS * count.committed
            + EXECUTE_HOLDS * count.executes;
        assert!(asked <= held + CHECKPOINT_TAKES * count.checkpoints, "{asked} allocations: {count:?}");
        assert!(count.executes >= COUNTED_CHECKPOINTS * interval && count.committed >= count.executes, "{count:?}");
    }
    let requests = cluster.finished - finished;
    let batches = cluster.hosts[0].count.executes;
    assert!(requests > 4 * batches, "{requests} Requests in {batches} batches: what is counted is not one for each");
}
