//! Malformed inputs against one live replica, the primary, of a running cluster: a third before the handshake, a third
//! inside a client's session, a third inside the session of a replica whose key the test holds, every one of these well
//! sealed. The replica must go on serving with bounded memory, and nothing that was answered may be lost or doubled.
//!
//! An input counts when the replica has answered it by closing the link; its own counters must say the same. Each input
//! of a session takes a handshake of its own, since the first malformed frame ends a link, so the replica is told to let
//! enemies in again at once. `BFT_HOSTILE_INPUTS` says how many (a few thousand otherwise), `BFT_HOSTILE_SEED` which.

#[macro_use]
mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bft_client::{Client, ClientConfig, Completions, Outcome};
use bft_core::auth::keys::certify_client;
use bft_core::auth::{Ed25519, Scheme, SecretKey, Verifier};
use bft_core::ids::{Epoch, ReplicaId, Seq, View};
use bft_core::limits::HANDSHAKE_TIMEOUT;
use bft_core::wire::archive::decode;
use bft_core::wire::frame::{FrameCutter, FrameHeader, FrameLimits, PeerRole};
use bft_core::wire::message::{Info, Kind, Message};
use bft_fuzz::cast::{Cast, forged};
use bft_fuzz::mutate::{Draw, mutate};
use bft_fuzz::wire::{framed, payload};
use bft_link::{Channel, Handshake, LocalIdentity};
use bft_server::Io;
use bft_server::children::LocalCluster;
use bft_services::kv::{Operation, Reply};
use socket2::{Domain, Socket, Type};
use support::{Adders, Observer, PATIENCE, SNAPSHOTS_RARELY, cluster_over, wait_until};

over_each_driver!(
    malformed_inputs_against_a_live_replica_leave_it_serving_with_bounded_memory,
    an_enemys_address_is_refused_for_a_while_and_nobody_elses,
);

/// How many inputs there are where nobody says: what takes them is the same over both drivers, how they come is not.
const INPUTS: u64 = 6_000;
const EPOLL_INPUTS: u64 = 1_500;
/// Memory that the attacked replica may have more of afterwards.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// Connections that say a byte now and then.
const LORISES: usize = 48;
/// Frames of the liar that are well-formed, signed and untrue, in front of one malformed input of this many.
const LIES: usize = 30;
const LIES_EVERY: usize = 50;

fn from_environment(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn read_key(path: &std::path::Path) -> SecretKey {
    SecretKey::from_pem(&fs::read_to_string(path).unwrap()).unwrap()
}

fn scheme_of(key: &SecretKey) -> Arc<dyn Scheme> {
    Arc::new(Ed25519::new(key.as_bytes(), [1; 32]))
}

/// Who is attacked, by whom, and what of theirs is changed.
struct Stage {
    victim: ReplicaId,
    address: SocketAddr,
    liar: ReplicaId,
    cast: Cast,
    client: LocalIdentity,
    replica: LocalIdentity,
    verifier: Verifier,
    limits: FrameLimits,
    /// Genuine messages of the liar and of the client, of every kind, at several Seqs.
    messages: Vec<Message>,
}

impl Stage {
    fn new(cluster: &LocalCluster) -> Self {
        let testnet = cluster.testnet();
        let config = testnet.cluster().clone();
        let victim = config.primary(View(0));
        let liar = config.replicas().filter(|replica| *replica != victim).last().unwrap();
        let of_liar = scheme_of(&read_key(&testnet.replica_dir(liar).join("key.pem")));
        let authority = scheme_of(&read_key(&testnet.dir().join("client-authority.pem")));
        let of_client = scheme_of(&SecretKey::from_entropy([0xC1; 32]));
        let certificate =
            certify_client(&*authority, config.cluster_id(), of_client.public_key(), Epoch(u64::MAX)).unwrap();
        // Whoever holds the liar's key holds no other: what others are to have signed is forged.
        let replicas = vec![of_liar.clone(); config.n()];
        let cast = Cast { config: config.clone(), replicas, speaker: liar, client: of_client.clone() };
        let seqs = [1, 2, 8, 100, 1000, u64::MAX - 1000];
        Self {
            victim,
            address: config.member(victim).unwrap().address.parse().unwrap(),
            liar,
            client: LocalIdentity::client(config.clone(), of_client, Some(certificate)).unwrap(),
            replica: LocalIdentity::replica(config.clone(), of_liar.clone(), liar, 1).unwrap(),
            verifier: Verifier::new(config.clone(), of_liar),
            limits: FrameLimits::new(&config),
            messages: seqs.into_iter().flat_map(|seq| cast.messages(Seq(seq))).collect(),
            cast,
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The handshake up to its last message, which is in the output of what is given back.
    fn shake(&self, stream: &mut TcpStream, identity: &LocalIdentity, draw: &mut Draw) -> io::Result<Handshake> {
        let mut handshake = Handshake::connect(identity.clone(), self.victim, draw.array());
        stream.write_all(&handshake.take_output())?;
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            handshake.feed(&mut &buffer[..count]).expect("the victim is who it is");
            // Finished is told only when the last message was taken.
            if handshake.closed().is_ok() {
                return Ok(handshake);
            }
        }
    }

    fn open(&self, identity: &LocalIdentity, draw: &mut Draw) -> io::Result<Session> {
        let mut stream = self.connect()?;
        let mut handshake = self.shake(&mut stream, identity, draw)?;
        stream.write_all(&handshake.take_output())?;
        let (peer, channel) = handshake.finished().expect("its last message was sent");
        Ok(Session { stream, channel, hash: peer.handshake_hash })
    }

    /// Whether the library says that no replica takes this stream.
    fn is_refused(&self, from: PeerRole, hash: &[u8; 32], stream: &[u8]) -> bool {
        let mut cutter = FrameCutter::new(from, self.limits);
        cutter.push(stream);
        loop {
            match cutter.next() {
                Err(_) => return true,
                Ok(None) => return false,
                Ok(Some((header, payload))) => match decode(header.kind, &payload, self.cast.bounds()) {
                    Ok(message) if self.takes(from, hash, &message) => {}
                    Ok(_) | Err(_) => return true,
                },
            }
        }
    }

    fn takes(&self, from: PeerRole, hash: &[u8; 32], message: &Message) -> bool {
        match from {
            PeerRole::Replica => self.verifier.check(self.liar, message.clone()).is_ok(),
            PeerRole::Client => self.takes_of_client(hash, message.clone()),
            PeerRole::Server => unreachable!("nobody here speaks as a server"),
        }
    }

    fn takes_of_client(&self, hash: &[u8; 32], message: Message) -> bool {
        match message {
            Message::Request(request) => {
                let is_own = request.entry.client == self.cast.client.public_key();
                is_own && self.verifier.check_requests(vec![request]).1.is_empty()
            }
            Message::ClientJoin(join) => bft_link::check_join(&self.cast.config, &self.verifier, hash, &join).is_ok(),
            Message::InfoQuery { .. } => true,
            other => panic!("the cutter let a {:?} of a client pass", other.kind()),
        }
    }

    /// A stream of frames of which one is refused.
    fn malformed(&self, from: PeerRole, hash: &[u8; 32], draw: &mut Draw) -> Vec<u8> {
        loop {
            let mut stream = Vec::new();
            if draw.below(4) == 0 {
                stream.extend(self.harmless(from));
            }
            stream.extend(self.changed(from, draw));
            if self.is_refused(from, hash, &stream) {
                return stream;
            }
        }
    }

    fn harmless(&self, from: PeerRole) -> Vec<u8> {
        let kind = if from == PeerRole::Client { Kind::InfoQuery } else { Kind::FetchSlot };
        let message = self.messages.iter().find(|message| message.kind() == kind).unwrap();
        framed(kind, &self.cast, &payload(&self.cast, message))
    }

    fn changed(&self, from: PeerRole, draw: &mut Draw) -> Vec<u8> {
        let is_allowed = |message: &&Message| self.limits.payload_max(message.kind(), from).is_some();
        let (allowed, others): (Vec<_>, Vec<_>) = self.messages.iter().partition(is_allowed);
        let message = *draw.one_of(&allowed);
        let mut bytes = payload(&self.cast, message);
        match draw.below(10) {
            // Archives with wrong offsets and lengths, cut short, with too much in them; Requests likewise.
            0..=4 => {
                mutate(draw, &mut bytes);
                framed(message.kind(), &self.cast, &bytes)
            }
            5 => {
                let mut frame = framed(message.kind(), &self.cast, &bytes);
                mutate(draw, &mut frame);
                frame
            }
            6 => {
                let most = self.limits.payload_max(message.kind(), from).unwrap();
                let len = *draw.one_of(&[most + 1, most * 2, u32::MAX]);
                let header = FrameHeader { kind: message.kind(), len, epoch: self.cast.config.epoch() };
                [&header.to_bytes()[..], &bytes].concat()
            }
            7 => {
                let other = *draw.one_of(&others);
                framed(other.kind(), &self.cast, &payload(&self.cast, other))
            }
            8 => {
                let mut frame = framed(message.kind(), &self.cast, &bytes);
                let padding = frame.len() - 32 - bytes.len();
                if padding > 0 {
                    *frame.last_mut().unwrap() = 1;
                    return frame;
                }
                self.badly_signed(draw)
            }
            _ => {
                if draw.below(2) == 0 {
                    return self.badly_signed(draw);
                }
                let len = 32 + draw.below(200);
                draw.bytes(len)
            }
        }
    }

    /// A Request whose signature is not valid.
    fn badly_signed(&self, draw: &mut Draw) -> Vec<u8> {
        let is_request = |message: &&Message| message.kind() == Kind::Request;
        let requests: Vec<_> = self.messages.iter().filter(is_request).collect();
        let Message::Request(request) = *draw.one_of(&requests) else { unreachable!("just filtered") };
        let bytes = &request.bytes[..request.bytes.len() - 64];
        let signature = forged(request.entry.signature, draw.below(512));
        framed(Kind::Request, &self.cast, &[bytes, &signature.0].concat())
    }

    /// What the liar may well say and nobody should believe: votes for what was never proposed, heights that are none.
    fn lies(&self, draw: &mut Draw) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut told = 0;
        while told < LIES {
            let message = draw.one_of(&self.messages).clone();
            let message = match message {
                Message::Status(mut status) => {
                    (status.stable, status.executed) = (Seq(draw.u64() >> draw.below(64)), Seq(draw.u64()));
                    status.view = View(draw.u64() >> draw.below(64));
                    status.prepared.fill_with(|| draw.u64());
                    Message::Status(status)
                }
                Message::FetchSlot(_) => Message::FetchSlot(Seq(draw.u64() >> draw.below(64))),
                Message::FetchLog(_) => Message::FetchLog(Seq(draw.u64() >> draw.below(64))),
                Message::Log(_) => Message::Log(Vec::new()),
                Message::Commit(mut commit) => {
                    commit.position.seq = Seq(1 + (draw.u64() >> draw.below(63)) / 2);
                    commit.nonce.0 = draw.array();
                    Message::Commit(commit)
                }
                // Of several signatures only the liar's own is right.
                Message::Checkpoint(mut vote) => {
                    vote.signatures.retain(|(replica, _)| *replica == self.liar);
                    Message::Checkpoint(vote)
                }
                Message::Snapshot(mut vote) => {
                    vote.signatures.retain(|(replica, _)| *replica == self.liar);
                    Message::Snapshot(vote)
                }
                other => other,
            };
            if self.verifier.check(self.liar, message.clone()).is_ok() {
                stream.extend(framed(message.kind(), &self.cast, &payload(&self.cast, &message)));
                told += 1;
            }
        }
        stream
    }
}

/// A link of the test to the victim.
struct Session {
    stream: TcpStream,
    channel: Channel,
    hash: [u8; 32],
}

impl Session {
    fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        let mut sealed = Vec::new();
        self.channel.seal(frames, &mut sealed);
        self.stream.write_all(&sealed)
    }
}

/// Waits until the victim has closed the link, whatever it says before.
fn wait_closed(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => return,
            Err(error) => panic!("the victim keeps the link of an enemy: {error}"),
        }
    }
}

/// How many of a kind are to be sent, and were.
struct Third {
    name: &'static str,
    left: AtomicU64,
    sent: AtomicU64,
}

impl Third {
    fn new(name: &'static str, count: u64) -> Self {
        Self { name, left: AtomicU64::new(count), sent: AtomicU64::new(0) }
    }

    /// Delivers until all are. A link that breaks before its input was on it (the victim makes room among handshakes,
    /// oldest first) is made again.
    fn deliver(&self, mut draw: Draw, mut one: impl FnMut(&mut Draw) -> io::Result<()>) {
        let mut broken = 0;
        while self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok() {
            while let Err(error) = one(&mut draw) {
                broken += 1;
                assert!(broken < 1000, "{}: {error}", self.name);
            }
            self.sent.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn differing(genuine: &[u8], draw: &mut Draw) -> Vec<u8> {
    loop {
        let mut bytes = genuine.to_vec();
        mutate(draw, &mut bytes);
        // The same with more behind it would be a good handshake and a bad record.
        if !bytes.starts_with(genuine) {
            return bytes;
        }
    }
}

/// One malformed input in the place of a handshake or a part of one.
fn before_the_handshake(stage: &Stage, recorded: &[u8], draw: &mut Draw) -> io::Result<()> {
    let mut stream = stage.connect()?;
    let identity = if draw.below(2) == 0 { &stage.client } else { &stage.replica };
    let first = Handshake::connect(identity.clone(), stage.victim, draw.array()).take_output();
    let bytes = match draw.below(9) {
        0 => {
            let len = 1 + draw.below(400);
            draw.bytes(len)
        }
        1 => b"GET /metrics HTTP/1.1\r\nHost: replica\r\n\r\n".to_vec(),
        2 | 3 => differing(&first, draw),
        4 => [&first[..16], &[0xFF, 0xFF], &draw.bytes(100)[..]].concat(),
        5 => first[..draw.below(first.len())].to_vec(),
        which => {
            let third = stage.shake(&mut stream, identity, draw)?.take_output();
            match which {
                6 => differing(&third, draw),
                7 => recorded.to_vec(),
                _ => [&[0xFF, 0xFF][..], &draw.bytes(300)].concat(),
            }
        }
    };
    // It may have closed the link before it was all said.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    wait_closed(stream);
    Ok(())
}

fn in_a_session(
    stage: &Stage,
    from: PeerRole,
    identity: &LocalIdentity,
    before: Vec<u8>,
    draw: &mut Draw,
) -> io::Result<()> {
    let mut session = stage.open(identity, draw)?;
    if !before.is_empty() {
        session.send(&before)?;
    }
    let malformed = stage.malformed(from, &session.hash, draw);
    session.send(&malformed)?;
    wait_closed(session.stream);
    Ok(())
}

/// Connections that say one byte now and then, until the victim has had enough of each.
fn slow_lorises(stage: &Stage) {
    let first = Handshake::connect(stage.client.clone(), stage.victim, [3; 32]).take_output();
    let mut open: Vec<_> = (0..LORISES).map(|_| stage.connect().unwrap()).collect();
    let deadline = Instant::now() + Duration::from_nanos(HANDSHAKE_TIMEOUT) + PATIENCE;
    for byte in first.iter().cycle() {
        assert!(Instant::now() < deadline, "{} slow handshakes are still open", open.len());
        open.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
        if open.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(150));
    }
}

/// A client that adds 1 and waits for the answer, again and again.
struct Steady {
    client: Client,
    answered: i64,
}

impl Steady {
    fn new(cluster: &LocalCluster) -> Self {
        let config = ClientConfig::load(&cluster.testnet().client_config()).unwrap();
        Self { client: Client::open(config, Completions::Futures).unwrap(), answered: 0 }
    }

    fn add(&mut self) {
        let add = Operation::Add { key: b"steady", delta: 1 }.to_bytes().unwrap();
        let outcome = self.client.call(&add, PATIENCE);
        let Outcome::Done { result, .. } = &outcome else { panic!("no answer to an add: {outcome:?}") };
        self.answered += 1;
        assert_eq!(Reply::decode(result), Ok(Reply::Counter(self.answered)), "each add once");
    }
}

fn counter(info: &Info, name: &str) -> u64 {
    info.counter(name).unwrap_or_else(|| panic!("no counter {name}"))
}

/// The three thirds of an attack, and how many lies were told beside them.
struct Attack {
    early: Third,
    of_client: Third,
    of_replica: Third,
    lies: AtomicUsize,
}

impl Attack {
    fn of(total: u64) -> Self {
        Self {
            early: Third::new("before the handshake", total - 2 * (total / 3)),
            of_client: Third::new("as a client", total / 3),
            of_replica: Third::new("as a replica", total / 3),
            lies: AtomicUsize::new(0),
        }
    }

    fn sent(&self) -> [u64; 3] {
        [&self.early, &self.of_client, &self.of_replica].map(|third| third.sent.load(Ordering::Acquire))
    }

    /// Sends everything, while `meanwhile` is called again and again.
    fn run(&self, stage: &Stage, seed: u64, mut meanwhile: impl FnMut()) {
        let draw = move |which: u64| Draw::new(seed.wrapping_mul(1000).wrapping_add(which));
        let mut stream = stage.connect().unwrap();
        let recorded = stage.shake(&mut stream, &stage.client, &mut Draw::new(9)).unwrap().take_output();
        let recorded = &recorded;
        std::thread::scope(|scope| {
            let mut attackers = vec![scope.spawn(move || slow_lorises(stage))];
            for which in 0..2 {
                attackers.push(scope.spawn(move || {
                    self.early.deliver(draw(which), |draw| before_the_handshake(stage, recorded, draw));
                }));
                attackers.push(scope.spawn(move || {
                    self.of_client.deliver(draw(10 + which), |draw| {
                        in_a_session(stage, PeerRole::Client, &stage.client, Vec::new(), draw)
                    });
                }));
            }
            // One link at a time: a second one of a replica would end the first.
            attackers.push(scope.spawn(move || self.as_the_replica(stage, draw(20))));
            while attackers.iter().any(|attacker| !attacker.is_finished()) {
                meanwhile();
                std::thread::sleep(Duration::from_millis(20));
            }
            attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
        });
    }

    fn as_the_replica(&self, stage: &Stage, draw: Draw) {
        let mut count = 0;
        self.of_replica.deliver(draw, |draw| {
            count += 1;
            let is_lying = count % LIES_EVERY == 0;
            let before = if is_lying { stage.lies(draw) } else { Vec::new() };
            in_a_session(stage, PeerRole::Replica, &stage.replica, before, draw)?;
            self.lies.fetch_add(if is_lying { LIES } else { 0 }, Ordering::AcqRel);
            Ok(())
        });
    }
}

/// Tells the victim, which does not run yet, to let enemies in again at once.
fn refuse_nobody(cluster: &LocalCluster, victim: ReplicaId) {
    let file = cluster.testnet().config(victim);
    let text = fs::read_to_string(&file).unwrap();
    let (default, none) = ("refusal_max = \"30s\"", "refusal_max = \"0s\"");
    assert!(text.contains(default));
    fs::write(&file, text.replace(default, none)).unwrap();
}

fn malformed_inputs_against_a_live_replica_leave_it_serving_with_bounded_memory(io: Io) {
    let total = from_environment("BFT_HOSTILE_INPUTS", if io == Io::Epoll { EPOLL_INPUTS } else { INPUTS });
    let seed = from_environment("BFT_HOSTILE_SEED", 1);
    eprintln!("BFT_HOSTILE_INPUTS={total} BFT_HOSTILE_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster_over(io, dir.path(), SNAPSHOTS_RARELY);
    let stage = Stage::new(&cluster);
    refuse_nobody(&cluster, stage.victim);
    let honest: Vec<_> = stage.cast.config.replicas().filter(|replica| *replica != stage.liar).collect();
    honest.iter().for_each(|replica| cluster.start(*replica).unwrap());
    honest.iter().for_each(|replica| cluster.child(*replica).wait_ready(PATIENCE).unwrap());
    let observer = Observer::new(&cluster);
    let mut steady = Steady::new(&cluster);
    (0..200).for_each(|_| steady.add());
    let before = observer.info(stage.victim).unwrap();
    let rss_before = cluster.child(stage.victim).usage().unwrap().rss_max_kib;

    let (attack, started) = (Attack::of(total), Instant::now());
    attack.run(&stage, seed, || steady.add());
    let took = started.elapsed();

    // It is the same process, its memory is bounded, and it has counted what was sent.
    assert!(honest.iter().all(|replica| cluster.child(*replica).try_wait().unwrap().is_none()), "no replica stopped");
    let grown = cluster.child(stage.victim).usage().unwrap().rss_max_kib - rss_before;
    let after = observer.info(stage.victim).unwrap();
    let delta = |name| counter(&after, name) - counter(&before, name);
    let (failed, rejected) = (delta("handshakes_failed"), delta("links_rejected"));
    let [early, of_client, of_replica] = attack.sent();
    eprintln!(
        "{early} inputs before the handshake, {of_client} as a client, {of_replica} as a replica, and {} lies in \
         {took:.1?}; the replica counted {failed} failed handshakes and {rejected} rejected links; its memory grew by \
         {grown} KiB; {} adds were answered meanwhile",
        attack.lies.load(Ordering::Acquire),
        steady.answered - 200,
    );
    assert_eq!(early + of_client + of_replica, total);
    assert!(failed >= early + LORISES as u64 && rejected >= of_client + of_replica);
    assert!(grown < GROWTH_KIB_MAX, "memory grew by {grown} KiB");

    // The cluster serves as before, and takes the replica back that was played.
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the cluster serves as before", 500);
    adders.stop_and_compare();
    steady.add();
    cluster.start(stage.liar).unwrap();
    cluster.child(stage.liar).wait_ready(PATIENCE).unwrap();
    observer.wait_equal();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

/// From an address that no replica has.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

fn an_enemys_address_is_refused_for_a_while_and_nobody_elses(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster_over(io, dir.path(), SNAPSHOTS_RARELY);
    cluster.start_all(PATIENCE).unwrap();
    let stage = Stage::new(&cluster);
    let observer = Observer::new(&cluster);
    let refused = || counter(&observer.info(stage.victim).unwrap(), "links_refused");
    let enemy = Ipv4Addr::new(127, 0, 0, 9);
    let early_data = |source| {
        let mut stream = connect_from(source, stage.address);
        let first = Handshake::connect(stage.client.clone(), stage.victim, [5; 32]).take_output();
        // It may be refused before it was all said.
        let _ = stream.write_all(&[&first[..16], &[0xFF, 0x7F]].concat());
        wait_closed(stream);
    };
    let at_first = refused();
    wait_until("the enemy is turned away at the door", || {
        early_data(enemy);
        refused() >= at_first + 3
    });
    let mut stranger = connect_from(Ipv4Addr::new(127, 0, 0, 10), stage.address);
    stage.shake(&mut stranger, &stage.client, &mut Draw::new(1)).expect("another address is let in");
    Steady::new(&cluster).add();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}
