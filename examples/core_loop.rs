//! bft-core alone: four replicas and a client in one thread, over queues. No socket, no disk, no clock: what a shell has
//! to do for a replica, and nothing else. A real shell writes the records to a disk, and holds back every message until
//! what it `needs` is durable; here memory is the disk, and everything is durable at once.

use std::collections::VecDeque;
use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, Verifier};
use bft_core::client::{ClientCore, ClientEffects, ClientOptions, Outcome};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::door::{Answer, Effects, Input, LinkState, Now, To, Tuning};
use bft_core::execution;
use bft_core::ids::{ClusterId, Epoch, LinkId, LogPosition, Nanos, PublicKey, ReplicaId, Seq, WallNanos};
use bft_core::journal::superblock::{Directory, Superblock};
use bft_core::replica::Replica;
use bft_core::service::{Batch, Replies, ReplyBuffer, Service, ServiceFault, Snapshot};
use bft_core::wire::message::Message;
use bytes::Bytes;

/// A service that counts: every operation adds its length, the reply is the sum so far.
#[derive(Default)]
struct Sum(u64);

impl Service for Sum {
    fn open(&mut self) -> Result<Seq, ServiceFault> {
        Ok(Seq(0))
    }

    fn execute(&mut self, batch: &Batch<'_>, replies: &mut Replies<'_>) -> Result<(), ServiceFault> {
        for (index, operation) in batch.operations.iter().enumerate() {
            self.0 += operation.bytes.len() as u64;
            replies.put(index, &self.0.to_le_bytes());
        }
        Ok(())
    }

    fn query(&mut self, _query: &[u8], replies: &mut Replies<'_>) -> Result<(), ServiceFault> {
        replies.put(0, &self.0.to_le_bytes());
        Ok(())
    }

    fn snapshot(&mut self, _at: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
        Ok(Box::new(Image(self.0)))
    }

    fn restore_begin(&mut self, _at: Seq, _chunks: u32) -> Result<(), ServiceFault> {
        Ok(())
    }

    fn restore_chunk(&mut self, _index: u32, bytes: &[u8]) -> Result<(), ServiceFault> {
        self.0 = u64::from_le_bytes(bytes.try_into().map_err(|_| ServiceFault("a chunk is 8 bytes".into()))?);
        Ok(())
    }

    fn restore_finish(&mut self) -> Result<(), ServiceFault> {
        Ok(())
    }

    fn restore_abort(&mut self) {}
}

struct Image(u64);

impl Snapshot for Image {
    fn chunks(&self) -> u32 {
        1
    }

    fn read(&mut self, _index: u32, out: &mut [u8]) -> Result<usize, ServiceFault> {
        out[..8].copy_from_slice(&self.0.to_le_bytes());
        Ok(8)
    }
}

/// One replica and what its shell keeps for it.
struct Host {
    replica: Replica,
    service: Sum,
    replies: ReplyBuffer,
}

/// What is under way between the hosts: inputs, each for one of them.
type Queue = VecDeque<(ReplicaId, Input)>;

fn main() {
    let schemes: Vec<Arc<dyn Scheme>> = (0..5u8).map(|i| Arc::new(Ed25519::new(&[i + 1; 32], [i; 32])) as _).collect();
    let config = Arc::new(cluster(&schemes[..4]));
    let verifier = Verifier::new(Arc::clone(&config), Arc::clone(&schemes[4]));
    let mut queue = Queue::new();
    let mut hosts: Vec<Host> = config
        .replicas()
        .map(|me| {
            let scheme = Arc::clone(&schemes[me.index()]);
            let superblock = first_superblock(&config, me, scheme.public_key());
            let recovery = Replica::recover(Arc::clone(&config), me, scheme, Tuning::default(), superblock);
            let replica = recovery.finish(now(), LogPosition(0), Seq(0), &mut Effects::default());
            Host { replica, service: Sum::default(), replies: ReplyBuffer::default() }
        })
        .collect();

    let mut client = ClientCore::new(Arc::clone(&config), Arc::clone(&schemes[4]), ClientOptions::default(), [9; 32]);
    let mut effects = ClientEffects::default();
    for replica in config.replicas() {
        let (client_key, state) = (client.key(), LinkState::Up);
        queue.push_back((replica, Input::Client { client: client_key, link: LinkId(1), state }));
        client.on_link(now().mono, replica, LinkState::Up, &mut effects);
        // Before its first vote each asks the others what they hold of it: as soon as a link to one of them comes up.
        queue.extend(
            config.replicas().filter(|peer| *peer != replica).map(|peer| (replica, Input::Link { peer, state })),
        );
    }
    for tag in 1..=100u64 {
        client.submit(Bytes::from(vec![0; tag as usize]), tag, None).expect("the client's queue holds a hundred");
    }
    client.flush(now().mono, &mut effects);

    let mut sums = Vec::new();
    while sums.len() < 100 {
        for (to, message) in effects.send.drain(..) {
            from_client(&config, &verifier, to, message, &mut queue);
        }
        for (tag, outcome) in effects.done.drain(..) {
            let Outcome::Done { result, .. } = outcome else { panic!("operation {tag} failed: {outcome:?}") };
            sums.push(u64::from_le_bytes(result[..].try_into().expect("the service replies with 8 bytes")));
        }
        effects.clear();
        while let Some((to, input)) = queue.pop_front() {
            for answer in step(&mut hosts, &verifier, to, input, &mut queue) {
                client.on_answer(now().mono, to, &answer, &mut effects);
            }
        }
        client.flush(now().mono, &mut effects);
    }
    assert_eq!(sums.iter().max(), Some(&5050), "1 + 2 + … + 100, each added once");
    let executed: Vec<_> = hosts.iter().map(|host| host.replica.executed()).collect();
    println!("100 operations, sum 5050; the replicas have executed {executed:?}");
}

/// Steps one replica and carries out its effects; gives what it says to the client.
fn step(hosts: &mut [Host], verifier: &Verifier, at: ReplicaId, input: Input, queue: &mut Queue) -> Vec<Answer> {
    let host = &mut hosts[at.index()];
    let mut effects = Effects::default();
    host.replica.step(now(), input, &mut effects);
    for order in &effects.execute {
        let outcome = execution::execute(&mut host.service, order, &mut host.replies).expect("Sum never fails");
        queue.push_back((at, Input::Executed { seq: order.seq, outcome }));
    }
    if let Some(persist) = effects.persist.last() {
        queue.push_back((at, Input::Durable(persist.position)));
    }
    for outgoing in effects.send {
        let peers = host.replica.config().replicas().filter(|peer| *peer != at);
        for peer in peers.filter(|peer| outgoing.to == To::All || outgoing.to == To::One(*peer)) {
            let message = verifier.check(at, outgoing.message.clone()).expect("correct replicas send valid messages");
            queue.push_back((peer, Input::Message { from: at, message }));
        }
    }
    effects.answer.into_iter().map(|(_, answer)| answer).collect()
}

/// What the client sends: a shard would check it and hand it to its replica.
fn from_client(config: &ClusterConfig, verifier: &Verifier, to: To, message: Message, queue: &mut Queue) {
    for replica in config.replicas().filter(|replica| to == To::All || to == To::One(*replica)) {
        let input = match &message {
            Message::Request(request) => {
                let (requests, refused) = verifier.check_requests(vec![request.clone()]);
                assert!(refused.is_empty(), "the client signs what it sends");
                Input::Requests(requests)
            }
            Message::InfoQuery { .. } => Input::InfoQuery { to: bft_core::door::InfoTo(LinkId(1)) },
            other => panic!("a client does not send {other:?}"),
        };
        queue.push_back((replica, input));
    }
}

fn cluster(schemes: &[Arc<dyn Scheme>]) -> ClusterConfig {
    let member = |scheme: &Arc<dyn Scheme>| Member {
        weight: 1,
        public_key: scheme.public_key(),
        address: "127.0.0.1:0".to_string(),
    };
    let members = schemes.iter().map(member).collect();
    ClusterConfig::new(ClusterId([7; 32]), Epoch(0), ProtocolParams::default(), Admission::Any, members)
        .expect("four members with keys of their own are a cluster")
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

/// Nothing here waits: the time may stand still.
fn now() -> Now {
    Now { mono: Nanos(1_000_000_000), wall: WallNanos(1_000_000_000) }
}
