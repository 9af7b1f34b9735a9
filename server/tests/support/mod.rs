//! A cluster of replicas in threads of this process, on ports that the system chose, and a client that blocks.
#![allow(dead_code, unused_macros, reason = "each test program uses a part of it")]

#[macro_use]
mod drivers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_core::auth::{Ed25519, Scheme};
use bft_core::client::{ClientCore, ClientEffects, ClientOptions, Outcome};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::door::{Answer, LinkState, To, Tuning};
use bft_core::ids::{ClusterId, Epoch, Nanos, ReplicaId};
use bft_core::journal::JournalOptions;
use bft_core::service::Service;
use bft_core::wire::archive::{decode, encode};
use bft_core::wire::frame::{FrameCutter, FrameLimits, PeerRole};
use bft_core::wire::message::Info;
use bft_core::wire::request::RequestBounds;
use bft_link::{Channel, Handshake, LocalIdentity};
use bft_server::{Control, Io, LinkRules, Pin, ServerConfig, ServerError, data_dir, run};
use bytes::Bytes;

/// Nothing here takes longer on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub type MakeService = fn() -> Box<dyn Service>;

pub struct Cluster {
    pub config: Arc<ClusterConfig>,
    folder: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    listeners: Vec<Option<TcpListener>>,
    replicas: Vec<Option<Running>>,
    make_service: MakeService,
    io: Io,
    cores: usize,
    /// For replicas that start from now on.
    pub pin: Pin,
}

struct Running {
    control: Control,
    thread: JoinHandle<Result<(), ServerError>>,
}

pub fn replica_secret(id: u16) -> [u8; 32] {
    [id as u8 + 1; 32]
}

impl Cluster {
    /// Directories are made and ports bound; no replica runs.
    pub fn new(io: Io, n: u16, cores: usize, params: ProtocolParams, make_service: MakeService) -> Self {
        let listeners: Vec<_> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let member = |id: u16| Member {
            weight: 1,
            public_key: Ed25519::new(&replica_secret(id), [0; 32]).public_key(),
            address: addresses[usize::from(id)].to_string(),
        };
        let members = (0..n).map(member).collect();
        let config = ClusterConfig::new(ClusterId([7; 32]), Epoch(0), params, Admission::Any, members).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cluster = Self {
            config: Arc::new(config),
            folder,
            addresses,
            listeners: listeners.into_iter().map(Some).collect(),
            replicas: (0..n).map(|_| None).collect(),
            make_service,
            io,
            cores,
            pin: Pin::Free,
        };
        for id in 0..n {
            let key = cluster.config.member(ReplicaId(id)).unwrap().public_key;
            data_dir::create(&cluster.data_dir(id), &cluster.config, ReplicaId(id), key, &[id as u8; 48]).unwrap();
        }
        cluster
    }

    pub fn start_all(&mut self) {
        for id in 0..self.replicas.len() as u16 {
            self.start(id);
        }
        for id in 0..self.replicas.len() as u16 {
            assert!(self.control(id).wait_ready(PATIENCE), "replica {id} does not start");
        }
    }

    pub fn start(&mut self, id: u16) {
        let at = usize::from(id);
        // A replica that stopped has closed its socket: the port is bound again.
        let listener = self.listeners[at].take().unwrap_or_else(|| bind_again(self.addresses[at]));
        let config = self.server_config(id, listener);
        let control = Control::new().unwrap();
        let (of_thread, service) = (control.clone(), (self.make_service)());
        let thread = std::thread::Builder::new().name(format!("replica-{id}"));
        let thread = thread.spawn(move || run(config, service, of_thread)).unwrap();
        self.replicas[at] = Some(Running { control, thread });
    }

    /// On another port, while the replica runs.
    pub fn run_beside(&self, id: u16) -> Result<(), ServerError> {
        let config = self.server_config(id, TcpListener::bind("127.0.0.1:0").unwrap());
        run(config, (self.make_service)(), Control::new().unwrap())
    }

    fn server_config(&self, id: u16, listener: TcpListener) -> ServerConfig {
        ServerConfig {
            cluster: self.config.clone(),
            me: ReplicaId(id),
            secret_key: replica_secret(id),
            data_dir: self.data_dir(id),
            listener,
            cores: self.cores,
            pin: self.pin,
            io: self.io,
            journal: JournalOptions { segment_bytes: 3 << 20, ..JournalOptions::default() },
            tuning: Tuning::default(),
            rules: LinkRules::default(),
        }
    }

    pub fn control(&self, id: u16) -> &Control {
        &self.replicas[usize::from(id)].as_ref().expect("it runs").control
    }

    pub fn stop(&mut self, id: u16) -> Result<(), ServerError> {
        let running = self.replicas[usize::from(id)].take().expect("it runs");
        running.control.stop();
        running.thread.join().expect("no panic")
    }

    pub fn stop_all(&mut self) {
        self.replicas.iter().flatten().for_each(|running| running.control.stop());
        for id in 0..self.replicas.len() as u16 {
            if self.replicas[usize::from(id)].is_some() {
                self.stop(id).unwrap();
            }
        }
    }

    pub fn info(&self, id: u16) -> Info {
        self.control(id).info(PATIENCE).expect("a running replica says what it is")
    }

    /// Waits until `is_so` of all running replicas.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Info) -> bool) {
        let until = Instant::now() + PATIENCE;
        for id in 0..self.replicas.len() as u16 {
            while self.replicas[usize::from(id)].is_some() && !is_so(&self.info(id)) {
                assert!(Instant::now() < until, "replica {id}: not {what}: {:?}", self.info(id));
                std::thread::yield_now();
            }
        }
    }

    /// Waits until all running replicas stand at one Seq, and holds their states there against one another. What a client
    /// was answered says nothing of any single one: f+1 had executed it.
    pub fn assert_alike(&self) {
        let running: Vec<_> =
            (0..self.replicas.len() as u16).filter(|id| self.replicas[usize::from(*id)].is_some()).collect();
        let until = Instant::now() + PATIENCE;
        loop {
            let executed: BTreeSet<_> = running.iter().map(|id| self.info(*id).executed).collect();
            if executed.len() == 1 {
                // A digest may be of some seconds ago, and of another Seq then.
                let state = |id: &u16| self.control(*id).info_with_digest(PATIENCE)?.state;
                let states: BTreeMap<_, _> =
                    running.iter().map(|id| (*id, state(id).expect("it has a state"))).collect();
                let seqs: BTreeSet<_> = states.values().map(|(seq, _)| *seq).collect();
                if seqs.len() == 1 {
                    let digests: BTreeSet<_> = states.values().map(|(_, digest)| *digest).collect();
                    assert_eq!(digests.len(), 1, "{states:?}");
                    return;
                }
            }
            assert!(Instant::now() < until, "the replicas stand at {executed:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn client(&self, secret: u8) -> Client {
        Client::connect(&self.config, &self.addresses, [secret; 32])
    }

    pub fn address(&self, id: u16) -> SocketAddr {
        self.addresses[usize::from(id)]
    }

    pub fn data_dir(&self, id: u16) -> PathBuf {
        self.folder.path().join(format!("r{id}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for running in self.replicas.iter_mut().filter_map(Option::take) {
            running.control.stop();
            let _ = running.thread.join();
        }
    }
}

fn bind_again(address: SocketAddr) -> TcpListener {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < until, "{address}: {error}"),
        }
        std::thread::yield_now();
    }
}

/// One key; for each link a thread that reads raw bytes; calls that block.
pub struct Client {
    core: ClientCore,
    config: Arc<ClusterConfig>,
    links: Vec<Option<ClientLink>>,
    incoming: mpsc::Receiver<(ReplicaId, Vec<u8>)>,
    effects: ClientEffects,
    begin: Instant,
    next_tag: u64,
    done: Vec<(u64, Outcome)>,
}

struct ClientLink {
    stream: TcpStream,
    channel: Channel,
    cutter: FrameCutter,
}

impl Client {
    fn connect(config: &Arc<ClusterConfig>, addresses: &[SocketAddr], secret: [u8; 32]) -> Self {
        let scheme: Arc<dyn Scheme> = Arc::new(Ed25519::new(&secret, [1; 32]));
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).unwrap();
        let (sender, incoming) = mpsc::channel();
        let core = ClientCore::new(config.clone(), scheme.clone(), ClientOptions::default(), nonce);
        let links = (0..).map(ReplicaId).zip(addresses).map(|(id, address)| {
            let identity = LocalIdentity::client(config.clone(), scheme.clone(), None).unwrap();
            let (stream, channel) = handshake(identity, id, *address).ok()?;
            read_on_thread(id, stream.try_clone().unwrap(), sender.clone());
            let cutter = FrameCutter::new(PeerRole::Server, FrameLimits::new(config));
            Some(ClientLink { stream, channel, cutter })
        });
        let links: Vec<_> = links.collect();
        let mut client = Self {
            core,
            config: config.clone(),
            links,
            incoming,
            effects: ClientEffects::default(),
            begin: Instant::now(),
            next_tag: 0,
            done: Vec::new(),
        };
        for id in config.replicas().filter(|id| client.links[id.index()].is_some()).collect::<Vec<_>>() {
            client.core.on_link(client.now(), id, LinkState::Up, &mut client.effects);
            client.carry_out();
        }
        client
    }

    /// Submits all and waits for all; outcomes in the order of the operations.
    pub fn call_all(&mut self, operations: impl IntoIterator<Item = Vec<u8>>) -> Vec<Outcome> {
        let first = self.next_tag;
        for operation in operations {
            self.core.submit(Bytes::from(operation), self.next_tag, None).unwrap();
            self.next_tag += 1;
        }
        let count = (self.next_tag - first) as usize;
        let until = Instant::now() + PATIENCE;
        while self.done.len() < count {
            self.turn(until);
        }
        let mut done = std::mem::take(&mut self.done);
        done.sort_by_key(|(tag, _)| *tag);
        done.into_iter().map(|(_, outcome)| outcome).collect()
    }

    pub fn call(&mut self, operation: Vec<u8>) -> Outcome {
        self.call_all([operation]).pop().unwrap()
    }

    fn turn(&mut self, until: Instant) {
        self.core.flush(self.now(), &mut self.effects);
        let deadline = self.carry_out();
        assert!(Instant::now() < until, "no answer");
        let wait = deadline.map_or(until - Instant::now(), |at| Duration::from_nanos(at.since(self.now())));
        match self.incoming.recv_timeout(wait) {
            Ok((from, bytes)) => self.take(from, &bytes),
            Err(_) => self.core.on_deadline(self.now(), &mut self.effects),
        }
        self.carry_out();
    }

    fn take(&mut self, from: ReplicaId, bytes: &[u8]) {
        let now = self.now();
        let Some(link) = &mut self.links[from.index()] else { return };
        if bytes.is_empty() {
            self.links[from.index()] = None;
            self.core.on_link(now, from, LinkState::Down, &mut self.effects);
            return;
        }
        let mut plain = Vec::new();
        link.channel.open(bytes, &mut plain).unwrap();
        link.cutter.push(&plain);
        while let Some((header, payload)) = link.cutter.next().unwrap() {
            let message = decode(header.kind, &payload, RequestBounds::from(self.config.params())).unwrap();
            self.core.on_answer(now, from, &Answer::try_from(message).unwrap(), &mut self.effects);
        }
    }

    fn carry_out(&mut self) -> Option<Nanos> {
        for (to, message) in self.effects.send.drain(..) {
            let mut frame = Vec::new();
            encode(&message, self.config.epoch(), &mut frame);
            for (index, link) in self.links.iter_mut().enumerate() {
                let is_meant = match to {
                    To::All => true,
                    To::One(replica) => replica.index() == index,
                };
                if let (true, Some(link)) = (is_meant, link) {
                    let mut sealed = Vec::new();
                    link.channel.seal(&frame, &mut sealed);
                    // A replica that is gone says so on the reading side.
                    let _ = link.stream.write_all(&sealed);
                }
            }
        }
        self.done.append(&mut self.effects.done);
        let deadline = self.effects.deadline;
        self.effects.clear();
        deadline
    }

    fn now(&self) -> Nanos {
        Nanos(self.begin.elapsed().as_nanos() as u64)
    }
}

pub fn handshake(identity: LocalIdentity, id: ReplicaId, address: SocketAddr) -> std::io::Result<(TcpStream, Channel)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy).unwrap();
    let mut handshake = Handshake::connect(identity, id, entropy);
    loop {
        stream.write_all(&handshake.take_output())?;
        if let Some((_, channel)) = handshake.finished() {
            return Ok((stream, channel));
        }
        let mut byte = [0; 1];
        stream.read_exact(&mut byte)?;
        handshake.feed(&mut &byte[..]).unwrap();
    }
}

fn read_on_thread(id: ReplicaId, mut stream: TcpStream, sender: mpsc::Sender<(ReplicaId, Vec<u8>)>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = stream.read(&mut buffer).unwrap_or(0);
            if sender.send((id, buffer[..count].to_vec())).is_err() || count == 0 {
                return;
            }
        }
    });
}

impl Drop for Client {
    fn drop(&mut self) {
        for link in self.links.iter().flatten() {
            let _ = link.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}
