//! Four replicas without consensus: they speak link and wire as real ones do, check every signature, and share one
//! table of what was executed, so that they agree. Operations are echoed.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_client::ClientConfig;
use bft_core::auth::keys::SecretKey;
use bft_core::auth::{Ed25519, Scheme, Verifier};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, Seq, SessionId, View};
use bft_core::wire::message::{Code, Info, Message, Reply};
use bft_core::wire::opening::{Opening, opening_results};
use bft_core::wire::request::{FLAG_CLOSE, RequestBounds, SignedRequest, result_digest};
use bft_core::wire::{FrameCutter, FrameLimits, PeerRole, decode, encode};
use bft_link::{Channel, Handshake, LocalIdentity, check_join};
use bytes::Bytes;

pub const N: usize = 4;
/// Nothing here takes longer, unless it is broken.
pub const SOON: Duration = Duration::from_secs(20);

/// Looks again and again until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

pub struct Cluster {
    pub config: Arc<ClusterConfig>,
    pub ledger: Arc<Ledger>,
    addresses: Vec<SocketAddr>,
    replicas: Vec<Option<Replica>>,
}

/// What the cluster has executed, and how it behaves.
#[derive(Default)]
pub struct Ledger {
    /// Requests are executed and not answered.
    pub is_silent: AtomicBool,
    /// Requests are not even executed.
    pub is_deaf: AtomicBool,
    pub connections: AtomicUsize,
    table: Mutex<Table>,
    links: Mutex<Vec<Arc<Link>>>,
}

/// A connection after its handshake: what one replica executes, all answer.
struct Link {
    keys: Mutex<Vec<PublicKey>>,
    channel: Mutex<Channel>,
    stream: TcpStream,
}

impl Link {
    fn send(&self, message: &Message) {
        let (mut frame, mut sealed) = (Vec::new(), Vec::new());
        encode(message, Epoch(0), &mut frame);
        let mut channel = self.channel.lock().unwrap();
        channel.seal(&frame, &mut sealed);
        // A client that is gone needs no answer.
        drop((&self.stream).write_all(&sealed));
    }
}

#[derive(Default)]
struct Table {
    seq: u64,
    clients: HashMap<PublicKey, Entry>,
    runs: BTreeMap<Vec<u8>, u32>,
}

#[derive(Default)]
struct Entry {
    session: u64,
    opened: Option<(Digest, Reply)>,
    replies: BTreeMap<u64, Reply>,
}

struct Replica {
    is_stopped: Arc<AtomicBool>,
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: JoinHandle<()>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::start_with(Admission::Any, |address| address.to_string())
    }

    /// `name` says how `cluster.toml` names an address.
    pub fn start_with(admission: Admission, name: impl Fn(SocketAddr) -> String) -> Self {
        let listeners: Vec<_> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let member = |(id, address): (usize, &SocketAddr)| Member {
            weight: 1,
            public_key: secret(id).public_key(),
            address: name(*address),
        };
        let members = addresses.iter().enumerate().map(member).collect();
        let id = ClusterId([4; 32]);
        let config = ClusterConfig::new(id, Epoch(0), ProtocolParams::default(), admission, members).unwrap();
        let (config, ledger) = (Arc::new(config), Arc::<Ledger>::default());
        let replica = |(id, listener)| Some(Replica::start(id, listener, &config, &ledger));
        let replicas = listeners.into_iter().enumerate().map(replica).collect();
        Self { config, ledger, addresses, replicas }
    }

    pub fn client(&self) -> ClientConfig {
        ClientConfig::new(self.config.clone())
    }

    /// Ends a replica and all of its connections.
    pub fn kill(&mut self, id: usize) {
        self.replicas[id].take().expect("it runs").stop();
    }

    /// Starts it again where it was.
    pub fn revive(&mut self, id: usize) {
        let listener = TcpListener::bind(self.addresses[id]).unwrap();
        self.replicas[id] = Some(Replica::start(id, listener, &self.config, &self.ledger));
    }

    pub fn runs(&self, operation: &[u8]) -> u32 {
        self.ledger.table.lock().unwrap().runs.get(operation).copied().unwrap_or(0)
    }

    pub fn open_sessions(&self) -> usize {
        self.ledger.table.lock().unwrap().clients.values().filter(|entry| entry.session != 0).count()
    }

    pub fn clients(&self) -> usize {
        self.ledger.table.lock().unwrap().clients.len()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.replicas.iter_mut().filter_map(Option::take).for_each(Replica::stop);
    }
}

fn secret(id: usize) -> SecretKey {
    SecretKey::from_entropy([id as u8 + 1; 32])
}

impl Replica {
    fn start(id: usize, listener: TcpListener, config: &Arc<ClusterConfig>, ledger: &Arc<Ledger>) -> Self {
        let is_stopped = Arc::<AtomicBool>::default();
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let address = listener.local_addr().unwrap();
        let (stopped, open, config, ledger) = (is_stopped.clone(), streams.clone(), config.clone(), ledger.clone());
        let acceptor = std::thread::spawn(move || {
            let mut serving = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                ledger.connections.fetch_add(1, Ordering::SeqCst);
                open.lock().unwrap().push(stream.try_clone().unwrap());
                let (config, ledger) = (config.clone(), ledger.clone());
                serving.push(std::thread::spawn(move || serve(id, stream, &config, &ledger)));
            }
            // Those that were accepted while `stop` went through its list.
            open.lock().unwrap().iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
            serving.into_iter().for_each(|thread| thread.join().unwrap());
        });
        Self { is_stopped, address, streams, acceptor }
    }

    fn stop(self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        let served = self.acceptor.join();
        // What went wrong in there fails the test, unless that has failed already.
        assert!(served.is_ok() || std::thread::panicking(), "a replica's thread panicked");
    }
}

/// One connection, until it ends.
fn serve(id: usize, mut stream: TcpStream, config: &Arc<ClusterConfig>, ledger: &Ledger) {
    let scheme: Arc<dyn Scheme> = Arc::new(Ed25519::new(secret(id).as_bytes(), [8; 32]));
    let verifier = Verifier::new(config.clone(), scheme.clone());
    let identity = LocalIdentity::replica(config.clone(), scheme, ReplicaId(id as u16), 1).unwrap();
    let mut handshake = Handshake::accept(identity, [id as u8; 32]);
    let mut buffer = vec![0; 1 << 16];
    let (peer, channel, mut plain) = loop {
        let Ok(count @ 1..) = stream.read(&mut buffer) else { return };
        let mut rest = &buffer[..count];
        handshake.feed(&mut rest).expect("the client shakes hands properly");
        if stream.write_all(&handshake.take_output()).is_err() {
            return;
        }
        if let Some((peer, mut channel)) = handshake.finished() {
            let mut plain = Vec::new();
            channel.open(rest, &mut plain).unwrap();
            break (peer, channel, plain);
        }
    };
    let keys = Mutex::new(vec![peer.public_key]);
    let link = Link { keys, channel: Mutex::new(channel), stream: stream.try_clone().unwrap() };
    let link = Arc::new(link);
    ledger.links.lock().unwrap().push(link.clone());
    let mut cutter = FrameCutter::new(PeerRole::Client, FrameLimits::new(config));
    let bounds = RequestBounds::from(config.params());
    loop {
        cutter.push(&plain);
        while let Some((header, payload)) = cutter.next().expect("the client sends proper frames") {
            match decode(header.kind, &payload, bounds).expect("and proper messages") {
                Message::ClientJoin(join) => {
                    check_join(config, &verifier, &peer.handshake_hash, &join).expect("a proper join");
                    link.keys.lock().unwrap().push(join.public_key);
                }
                Message::InfoQuery { want_digest } => link.send(&ledger.info(id, want_digest)),
                Message::Request(request) => {
                    let is_known = link.keys.lock().unwrap().contains(&request.entry.client);
                    assert!(is_known, "a Request of a key that is not on this link");
                    assert_eq!(verifier.check_requests(vec![request.clone()]).1, [0usize; 0], "a valid signature");
                    ledger.answer(&request);
                }
                other => panic!("a client sent {other:?}"),
            }
        }
        plain.clear();
        let Ok(count @ 1..) = stream.read(&mut buffer) else { break };
        link.channel.lock().unwrap().open(&buffer[..count], &mut plain).expect("sealed by the client");
    }
    ledger.links.lock().unwrap().retain(|other| !Arc::ptr_eq(other, &link));
}

impl Ledger {
    fn info(&self, id: usize, want_digest: bool) -> Message {
        let executed = Seq(self.table.lock().unwrap().seq);
        let state = want_digest.then_some((executed, Digest([6; 32])));
        let replica = ReplicaId(id as u16);
        Message::Info(Box::new(Info { replica, view: View(0), executed, state, ..Info::default() }))
    }

    /// Executes the Request, and lets every replica that has a link of its client answer.
    fn answer(&self, request: &SignedRequest) {
        if self.is_deaf.load(Ordering::SeqCst) {
            return;
        }
        let reply = Message::Reply(self.table.lock().unwrap().order(request));
        if self.is_silent.load(Ordering::SeqCst) {
            return;
        }
        let links = self.links.lock().unwrap().clone();
        for link in links.iter().filter(|link| link.keys.lock().unwrap().contains(&request.entry.client)) {
            link.send(&reply);
        }
    }
}

impl Table {
    fn order(&mut self, request: &SignedRequest) -> Reply {
        let sent = &request.entry;
        let entry = self.clients.entry(sent.client).or_default();
        let seq = self.seq + 1;
        if sent.session == SessionId(0) {
            self.seq = seq;
            return entry.open(seq, request);
        }
        if sent.session.0 != entry.session {
            // At one place for all replicas: it was lost when the present one was opened.
            return reply(request, entry.session >> 20, Code::SessionUnknown, &[]);
        }
        if let Some(former) = entry.replies.get(&sent.req_no.0) {
            return former.clone();
        }
        self.seq = seq;
        let reply = if sent.flags == FLAG_CLOSE {
            reply(request, seq, Code::Closed, &[])
        } else {
            let echo = |operation: &[u8]| [&(operation.len() as u32).to_le_bytes(), operation].concat();
            let results: Vec<_> = request.operations().flat_map(echo).collect();
            request.operations().for_each(|operation| *self.runs.entry(operation.to_vec()).or_default() += 1);
            reply(request, seq, Code::Ok, &results)
        };
        // The answer to a closing stays, so that all replicas give it.
        entry.replies.insert(sent.req_no.0, reply.clone());
        reply
    }
}

impl Entry {
    fn open(&mut self, seq: u64, request: &SignedRequest) -> Reply {
        if let Some((digest, reply)) = &self.opened
            && *digest == request.entry.digest
        {
            return reply.clone();
        }
        let opening = Opening::decode(request.operations().next().unwrap()).unwrap();
        let results = |number| opening_results(request.entry.digest, number);
        if opening.replaces.0 != self.session {
            return reply(request, self.session >> 20, Code::SessionOpen, &results(self.session));
        }
        *self = Self { session: seq << 20, ..Self::default() };
        let reply = reply(request, seq, Code::Ok, &results(self.session));
        self.opened = Some((request.entry.digest, reply.clone()));
        reply
    }
}

fn reply(request: &SignedRequest, seq: u64, code: Code, results: &[u8]) -> Reply {
    let (session, req_no) = (request.entry.session, request.entry.req_no);
    let (digest, results) = (result_digest(code, results), Some(Bytes::copy_from_slice(results)));
    Reply { epoch: Epoch(0), session, req_no, seq: Seq(seq), code, digest, results }
}
