//! The core by itself: four replicas and their clients in one thread, over queues, without sockets, disk or clock. What
//! is left is ordering. `cargo bench -p bft-bench --bench ordering`
//!
//! Each case is measured twice: with the signatures of production, and with ones that cost a hash.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

mod support;

use std::collections::VecDeque;
use std::sync::Arc;

use bft_core::auth::{Scheme, Verifier};
use bft_core::client::{ClientCore, ClientEffects, ClientOptions, Outcome};
use bft_core::config::ClusterConfig;
use bft_core::door::{Effects, Input, LinkState, Now, To, Tuning};
use bft_core::execution;
use bft_core::ids::{LinkId, LogPosition, Nanos, PublicKey, ReplicaId, Seq, WallNanos};
use bft_core::journal::superblock::{Directory, Superblock};
use bft_core::replica::Replica;
use bft_core::service::ReplyBuffer;
use bft_core::wire::message::Message;
use bft_services::null::Null;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use support::{Cheap, cluster, ed25519, quick};

const REPLICAS: usize = 4;

/// Makes the key with a number.
type MakeKey = fn(usize) -> Arc<dyn Scheme>;

/// One replica and what its shell keeps for it.
struct Host {
    replica: Replica,
    service: Null,
    replies: ReplyBuffer,
    effects: Effects,
}

/// All of it.
struct World {
    config: Arc<ClusterConfig>,
    verifier: Verifier,
    hosts: Vec<Host>,
    client: ClientCore,
    effects: ClientEffects,
    queue: VecDeque<(ReplicaId, Input)>,
    now: u64,
    steps: u64,
}

impl World {
    fn new(key: MakeKey, operations_per_request: u32) -> Self {
        let schemes: Vec<_> = (0..=REPLICAS).map(key).collect();
        let config = cluster(&schemes[..REPLICAS]);
        let verifier = Verifier::new(config.clone(), schemes[REPLICAS].clone());
        let host = |me: ReplicaId| {
            let scheme = schemes[me.index()].clone();
            let superblock = first_superblock(&config, me, scheme.public_key());
            let recovery = Replica::recover(config.clone(), me, scheme, Tuning::default(), superblock);
            let replica = recovery.finish(at(1), LogPosition(0), Seq(0), &mut Effects::default());
            Host { replica, service: Null::new(0), replies: ReplyBuffer::default(), effects: Effects::default() }
        };
        let hosts = config.replicas().map(host).collect();
        let options = ClientOptions { operations_per_request, ..ClientOptions::default() };
        let client = ClientCore::new(config.clone(), schemes[REPLICAS].clone(), options, [9; 32]);
        let (effects, queue) = (ClientEffects::default(), VecDeque::new());
        let mut world = Self { config, verifier, hosts, client, effects, queue, now: 1, steps: 0 };
        world.connect();
        world
    }

    fn connect(&mut self) {
        let (client, link, state) = (self.client.key(), LinkId(1), LinkState::Up);
        for replica in self.config.replicas() {
            self.queue.push_back((replica, Input::Client { client, link, state }));
            self.client.on_link(at(self.now).mono, replica, state, &mut self.effects);
            // Before its first vote each asks the others what they hold of it.
            let peers = self.config.replicas().filter(|peer| *peer != replica);
            self.queue.extend(peers.map(|peer| (replica, Input::Link { peer, state })));
        }
        self.order(1, Bytes::from_static(&[7; 16]));
    }

    /// Orders so many operations, and waits until they are answered and every replica is done.
    fn order(&mut self, operations: usize, operation: Bytes) {
        self.now += 1_000_000;
        for tag in 0..operations {
            self.client.submit(operation.clone(), tag as u64, None).expect("the client's queue holds them");
        }
        let mut answered = 0;
        while answered < operations {
            self.client.flush(at(self.now).mono, &mut self.effects);
            answered += self.effects.done.drain(..).inspect(|(_, outcome)| assert_done(outcome)).count();
            let sent: Vec<_> = self.effects.send.drain(..).collect();
            sent.into_iter().for_each(|(to, message)| self.deliver(to, message));
            while let Some((to, input)) = self.queue.pop_front() {
                self.step(to, input);
            }
        }
    }

    /// What the client sends: a shard would check it and hand it to its replica.
    fn deliver(&mut self, to: To, message: Message) {
        for replica in self.config.replicas().filter(|replica| to == To::All || to == To::One(*replica)) {
            let input = match &message {
                Message::Request(request) => {
                    let (requests, refused) = self.verifier.check_requests(vec![request.clone()]);
                    assert!(refused.is_empty(), "the client signs what it sends");
                    Input::Requests(requests)
                }
                Message::InfoQuery { .. } => Input::InfoQuery { to: bft_core::door::InfoTo(LinkId(1)) },
                other => panic!("a client does not send {other:?}"),
            };
            self.queue.push_back((replica, input));
        }
    }

    fn step(&mut self, me: ReplicaId, input: Input) {
        self.steps += 1;
        let host = &mut self.hosts[me.index()];
        host.effects.clear();
        host.replica.step(at(self.now), input, &mut host.effects);
        for order in &host.effects.execute {
            let outcome = execution::execute(&mut host.service, order, &mut host.replies).expect("null has no faults");
            self.queue.push_back((me, Input::Executed { seq: order.seq, outcome }));
        }
        if let Some(persist) = host.effects.persist.last() {
            self.queue.push_back((me, Input::Durable(persist.position)));
        }
        for outgoing in host.effects.send.drain(..) {
            let peers = self.config.replicas().filter(|peer| *peer != me);
            for peer in peers.filter(|peer| outgoing.to == To::All || outgoing.to == To::One(*peer)) {
                let message =
                    self.verifier.check(me, outgoing.message.clone()).expect("correct replicas send valid messages");
                self.queue.push_back((peer, Input::Message { from: me, message }));
            }
        }
        for (_, answer) in host.effects.answer.drain(..) {
            self.client.on_answer(at(self.now).mono, me, &answer, &mut self.effects);
        }
    }
}

fn assert_done(outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}

fn first_superblock(config: &ClusterConfig, replica: ReplicaId, public_key: PublicKey) -> Superblock {
    Superblock::first(&Directory {
        cluster_id: config.cluster_id(),
        replica,
        public_key,
        epoch: config.epoch(),
        directory_id: [0; 16],
        directory_key: [0; 32],
    })
}

/// Time passes as it is told to.
fn at(ns: u64) -> Now {
    Now { mono: Nanos(1_000_000_000 + ns), wall: WallNanos(1_000_000_000 + ns) }
}

fn ordering(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("four cores, operations of 16 B");
    let schemes: [(&str, MakeKey); 2] = [("Ed25519", ed25519), ("hash", Cheap::key)];
    for (scheme, key) in schemes {
        for (operations, per_request) in [(1, 1), (64, 1), (4096, 256)] {
            let mut world = World::new(key, per_request);
            let operation = Bytes::from_static(&[7; 16]);
            group.throughput(Throughput::Elements(operations as u64));
            group.bench_function(
                format!("{operations} in Requests of {per_request}, signatures {scheme}"),
                |bencher| {
                    bencher.iter(|| world.order(operations, operation.clone()));
                },
            );
        }
    }
    group.finish();
    let mut group = criterion.benchmark_group("steps of one core");
    let mut world = World::new(Cheap::key, 1);
    let before = world.steps;
    world.order(64, Bytes::from_static(&[7; 16]));
    group.throughput(Throughput::Elements(world.steps - before));
    group.bench_function("64 operations one by one, signatures hash", |bencher| {
        bencher.iter(|| world.order(64, Bytes::from_static(&[7; 16])));
    });
    group.finish();
}

criterion_group! { name = benches; config = quick(); targets = ordering }
criterion_main!(benches);
