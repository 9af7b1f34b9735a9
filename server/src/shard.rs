//! One shard: the links of one executor, without a socket. Bytes and time in; bytes to write, and what was found good
//! for the core, out. For each link it runs the handshake, opens records, cuts and decodes frames, and has every
//! signature checked; clients' Requests of one turn are checked together. Outgoing frames are encoded once and sealed
//! for each link when its socket can take them.
//!
//! Kept here: nothing passes to the core that the verifier has not sealed; a client's link carries Requests of its own
//! keys only; what only an enemy sends closes the link it came over and has its source refused for a growing while (A1:
//! never whom it names); every queue is bounded, and Control is never dropped from it.

pub mod queue;
pub mod refusals;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bft_core::auth::{Rejected, Scheme, Verifier};
use bft_core::config::ClusterConfig;
use bft_core::door::{Answer, Input, Lane, LinkState, To};
use bft_core::ids::{LinkId, Nanos, PublicKey, ReplicaId};
use bft_core::limits;
use bft_core::wire::archive::{DecodeError, decode, encode};
use bft_core::wire::frame::{FrameCutter, FrameError, FrameLimits, PeerRole};
use bft_core::wire::message::{Busy, ClientJoin, Message};
use bft_core::wire::request::{RequestBounds, SignedRequest};
use bft_link::{Channel, Duplicate, Handshake, Instances, LinkError, LocalIdentity, Peer, RECORD_PLAINTEXT_MAX, Role};
use bytes::{Bytes, BytesMut};

use crate::counters::ShardCounters;
use queue::{Budget, Frame, SendQueue};
use refusals::{Refusals, Source};

/// Clients' links of one shard.
const CLIENT_LINKS_MAX: usize = 4096;
/// Handshakes under way from one address.
const HANDSHAKES_PER_ADDRESS: usize = limits::HANDSHAKES_MAX / 2;
/// A replica says where it is every second: silence this long means that its link is dead.
const REPLICA_SILENCE: u64 = 10 * limits::SECOND;
/// Silence after which a second link of the same process is believed.
const STALE_SILENCE: u64 = 3 * limits::STATUS_INTERVAL_IDLE;
/// Ticks further apart than this say that the process was not scheduled.
const TICK_LATE: u64 = limits::SECOND;
/// What a client is told to wait when this replica takes no Requests.
const STOPPING_RETRY_MS: u32 = 1000;
/// New memory for encoded frames.
const ENCODE_BYTES: usize = 64 * 1024;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody connected.
    Accepted(IpAddr),
    /// This side connected, to that replica.
    Dialled(ReplicaId),
}

/// What a shard needs to know.
#[derive(Clone)]
pub struct ShardSetup {
    /// Which shard.
    pub index: u16,
    /// Of how many.
    pub shards: u16,
    /// The cluster.
    pub config: Arc<ClusterConfig>,
    /// Which replica this is.
    pub me: ReplicaId,
    /// The replica's key.
    pub scheme: Arc<dyn Scheme>,
    /// What it says of itself in handshakes.
    pub identity: LocalIdentity,
    /// The longest time for which a source of what only an enemy sends is refused, in nanoseconds; 0: nobody is.
    pub refusal_max: u64,
}

/// What a shard has for the ordering executor.
#[allow(clippy::large_enum_variant, reason = "almost all are inputs; boxing them would allocate")]
#[derive(Debug)]
pub enum Arrival {
    /// For the core.
    Input(Input),
    /// Somebody asks for INFO.
    InfoQuery {
        /// Where the answer goes.
        to: LinkId,
        /// With a state digest?
        want_digest: bool,
    },
}

/// An established link on its way to the shard where it belongs.
pub struct Handover {
    /// The shard it goes to.
    pub shard: u16,
    /// The link it was here.
    pub link: LinkId,
    peer: Peer,
    channel: Channel,
    address: Option<IpAddr>,
    rest: Vec<u8>,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// Its source is refused for a while.
    Refused,
    /// Too many handshakes are under way from there.
    Busy,
}

/// Why a link is closed.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error(transparent)]
    Duplicate(#[from] Duplicate),
    #[error("a Request of a client whose key is not on this link")]
    ForeignKey,
    #[error("more than {} client keys on one link", limits::CLIENT_KEYS_PER_LINK)]
    TooManyKeys,
    #[error("more than {CLIENT_LINKS_MAX} links of clients")]
    TooManyLinks,
    #[error("its source is refused for a while")]
    Refused,
    #[error("the handshake took too long")]
    Slow,
    #[error("nothing came for {} s", REPLICA_SILENCE / limits::SECOND)]
    Silent,
    #[error("it does not read what it is sent")]
    Stuck,
}

impl Fault {
    /// Whether only an enemy does that.
    fn is_hostile(&self) -> bool {
        match self {
            Self::Link(error) => error.is_hostile(),
            Self::Frame(_) | Self::Decode(_) | Self::Rejected(_) | Self::ForeignKey | Self::TooManyKeys => true,
            Self::Duplicate(_) | Self::TooManyLinks | Self::Refused | Self::Slow | Self::Silent | Self::Stuck => false,
        }
    }
}

struct Link {
    origin: Option<IpAddr>,
    state: State,
    /// Handshake output: goes before everything that is sealed.
    clear: Vec<u8>,
    queue: SendQueue,
    heard: Nanos,
    is_dirty: bool,
}

enum State {
    Handshake { handshake: Box<Handshake>, until: Nanos },
    Up(Box<Up>),
}

struct Up {
    peer: Peer,
    channel: Channel,
    cutter: FrameCutter,
    keys: Vec<PublicKey>,
}

/// The links of one executor.
pub struct Shard {
    setup: ShardSetup,
    verifier: Verifier,
    bounds: RequestBounds,
    frame_limits: FrameLimits,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    peers: Vec<Option<LinkId>>,
    instances: Instances,
    /// Where replicas connect from: never refused by address, or one enemy on a replica's host would cut it off.
    replica_addresses: BTreeMap<ReplicaId, IpAddr>,
    refusals: Refusals,
    budget: Budget,
    admission: Admitting,
    gathered: Vec<SignedRequest>,
    gathered_from: Vec<LinkId>,
    arrivals: Vec<Arrival>,
    handovers: Vec<Handover>,
    dirty: Vec<LinkId>,
    closed: Vec<LinkId>,
    plain: Vec<u8>,
    encoded: BytesMut,
    counters: Arc<ShardCounters>,
    quiet: Quiet,
    ticked: Nanos,
}

/// Whether clients' Requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admitting {
    Yes,
    No,
}

impl Shard {
    /// A shard without links.
    #[must_use]
    pub fn new(setup: ShardSetup, counters: Arc<ShardCounters>) -> Self {
        let verifier = Verifier::new(setup.config.clone(), setup.scheme.clone());
        let members = setup.config.n();
        let address_of = |(id, member): (u16, &bft_core::config::Member)| {
            let host = member.address.rsplit_once(':')?.0.trim_matches(['[', ']']);
            Some((ReplicaId(id), host.parse().ok()?))
        };
        let replica_addresses = (0..).zip(setup.config.members()).filter_map(address_of).collect();
        Self {
            bounds: verifier.bounds(),
            frame_limits: FrameLimits::new(&setup.config),
            verifier,
            links: BTreeMap::new(),
            next_link: u64::from(setup.index) << 48,
            peers: vec![None; members],
            instances: Instances::new(members),
            replica_addresses,
            refusals: Refusals::new(setup.refusal_max),
            budget: Budget::default(),
            admission: Admitting::Yes,
            gathered: Vec::new(),
            gathered_from: Vec::new(),
            arrivals: Vec::new(),
            handovers: Vec::new(),
            dirty: Vec::new(),
            closed: Vec::new(),
            plain: Vec::new(),
            encoded: BytesMut::new(),
            counters,
            quiet: Quiet::default(),
            ticked: Nanos(u64::MAX),
            setup,
        }
    }

    /// The shard of a link, whichever shard asks.
    #[must_use]
    pub fn of_link(link: LinkId) -> usize {
        usize::try_from(link.0 >> 48).expect("16 bits")
    }

    /// A connection is there. `entropy` must be fresh and secret.
    pub fn connected(&mut self, now: Nanos, origin: Origin, entropy: [u8; 32]) -> Result<LinkId, TurnedAway> {
        let handshake = match origin {
            Origin::Accepted(address) => {
                self.make_room(now, address)?;
                Handshake::accept(self.setup.identity.clone(), entropy)
            }
            Origin::Dialled(peer) => Handshake::connect(self.setup.identity.clone(), peer, entropy),
        };
        let link = self.new_id();
        let until = now.after(limits::HANDSHAKE_TIMEOUT);
        let state = State::Handshake { handshake: Box::new(handshake), until };
        let origin = match origin {
            Origin::Accepted(address) => Some(address),
            Origin::Dialled(_) => None,
        };
        self.links.insert(link, Link::new(origin, state, now));
        self.take_handshake_output(link);
        Ok(link)
    }

    /// A link that another shard brought up. What came after its handshake is taken now.
    pub fn adopt(&mut self, now: Nanos, handover: Handover) -> LinkId {
        let Handover { shard, link: _, peer, channel, address, rest } = handover;
        assert_eq!(shard, self.setup.index, "a link is handed to the shard that it belongs to");
        let link = self.new_id();
        let up = self.new_up(peer, channel);
        self.links.insert(link, Link::new(address, State::Up(Box::new(up)), now));
        if let Err(fault) = self.came_up(now, link).and_then(|()| self.take_records(now, link, &rest)) {
            self.fail(now, link, &fault);
        }
        link
    }

    /// Bytes came over a link.
    pub fn received(&mut self, now: Nanos, link: LinkId, bytes: &[u8]) {
        let Some(held) = self.links.get_mut(&link) else { return };
        held.heard = now;
        let taken = match held.state {
            State::Handshake { .. } => self.take_handshake(now, link, bytes),
            State::Up(_) => self.take_records(now, link, bytes),
        };
        if let Err(fault) = taken {
            self.fail(now, link, &fault);
        }
    }

    /// The socket of a link ended.
    pub fn ended(&mut self, now: Nanos, link: LinkId) {
        let Some(held) = self.links.get(&link) else { return };
        let clean = match &held.state {
            State::Handshake { handshake, .. } => handshake.closed(),
            State::Up(up) => up.channel.closed(),
        };
        match clean {
            Ok(()) => self.close(link),
            Err(error) => self.fail(now, link, &error.into()),
        }
    }

    /// Checks the Requests that were gathered. At the end of a turn, before [`Self::arrivals`].
    pub fn finish_turn(&mut self, now: Nanos) {
        if self.gathered.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.gathered);
        let from = std::mem::take(&mut self.gathered_from);
        self.counters.requests_checked.add(requests.len() as u64);
        let (valid, refused) = self.verifier.check_requests(requests);
        self.counters.requests_bad_signature.add(refused.len() as u64);
        for index in refused {
            self.fail(now, from[index], &Fault::Rejected(Rejected::BadSignature));
        }
        if !valid.is_empty() {
            self.arrivals.push(Arrival::Input(Input::Requests(valid)));
        }
    }

    /// What came since the last call, in order.
    pub fn arrivals(&mut self) -> std::vec::Drain<'_, Arrival> {
        self.arrivals.drain(..)
    }

    /// Links that belong to other shards.
    pub fn handovers(&mut self) -> std::vec::Drain<'_, Handover> {
        self.handovers.drain(..)
    }

    /// Links that have something to write since the last call.
    pub fn dirty(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.dirty)
    }

    /// Links whose sockets are to be closed.
    pub fn closed(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.closed)
    }

    /// An encoded frame for replicas whose links are here.
    pub fn send(&mut self, now: Nanos, to: To, lane: Lane, frame: Bytes) {
        let frame = self.budget.frame(frame);
        match to {
            To::All => {
                for index in 0..self.peers.len() {
                    self.send_to(now, index, lane, &frame);
                }
            }
            To::One(peer) => self.send_to(now, peer.index(), lane, &frame),
        }
    }

    /// An answer for a client's link. It waits in the lane of ordering: a client that does not read loses answers, and
    /// asks again.
    pub fn answer(&mut self, now: Nanos, link: LinkId, answer: Answer) {
        let Some(State::Up(up)) = self.links.get(&link).map(|held| &held.state) else { return };
        let message = match answer {
            Answer::Reply(reply) => Message::Reply(reply),
            Answer::Busy(busy) => Message::Busy(busy),
            Answer::Info(mut info) => {
                info.sealed = up.channel.name().into();
                Message::Info(info)
            }
        };
        if self.encoded.capacity() < ENCODE_BYTES / 16 {
            self.encoded.reserve(ENCODE_BYTES);
        }
        encode(&message, self.setup.config.epoch(), &mut self.encoded);
        let frame = self.budget.frame(self.encoded.split().freeze());
        self.enqueue(now, link, Lane::Ordering, frame);
    }

    /// Appends sealed bytes for a link until `out` holds `most` or nothing waits.
    pub fn write(&mut self, link: LinkId, out: &mut Vec<u8>, most: usize) {
        let Some(held) = self.links.get_mut(&link) else { return };
        held.is_dirty = false;
        let before = out.len();
        out.append(&mut held.clear);
        if let State::Up(up) = &mut held.state {
            seal(&mut held.queue, &mut up.channel, &mut self.plain, out, most);
        }
        if held.queue.bytes() > 0 {
            held.is_dirty = true;
            self.dirty.push(link);
        }
        self.counters.bytes_sent.add((out.len() - before) as u64);
    }

    /// Whether anything waits to be written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.links.values().any(|held| !held.clear.is_empty() || held.queue.bytes() > 0)
    }

    /// Ends handshakes that take too long and links of replicas that are silent.
    pub fn tick(&mut self, now: Nanos) {
        // A process that was not scheduled has not listened either: what was sent meanwhile has yet to be read.
        let unheard = now.since(self.ticked).saturating_sub(TICK_LATE);
        self.ticked = now;
        self.links.values_mut().for_each(|held| held.forgive(unheard));
        let late: Vec<_> = self.links.iter().filter_map(|(link, held)| Some((*link, held.overdue(now)?))).collect();
        for (link, fault) in late {
            self.fail(now, link, &fault);
        }
    }

    /// From now on clients' Requests are answered with BUSY.
    pub fn stop_admitting(&mut self) {
        self.admission = Admitting::No;
    }

    /// Whether that replica's link is here and up.
    #[must_use]
    pub fn has_peer(&self, peer: ReplicaId) -> bool {
        self.peers[peer.index()].is_some()
    }

    /// Refuses whoever offended lately, and keeps the table of handshakes from being filled by one address.
    fn make_room(&mut self, now: Nanos, address: IpAddr) -> Result<(), TurnedAway> {
        let is_replica = self.replica_addresses.values().any(|known| *known == address);
        if !is_replica && self.refusals.is_refused(now, Source::address(address)) {
            self.counters.links_refused.add(1);
            return Err(TurnedAway::Refused);
        }
        let mut of_address: BTreeMap<Source, (usize, LinkId)> = BTreeMap::new();
        let mut total = 0;
        for (link, held) in &self.links {
            if let (State::Handshake { .. }, Some(from)) = (&held.state, held.origin) {
                // Ascending by age: the first one seen is the oldest.
                of_address.entry(Source::address(from)).or_insert((0, *link)).0 += 1;
                total += 1;
            }
        }
        let own = of_address.get(&Source::address(address)).map_or(0, |(count, _)| *count);
        if own >= HANDSHAKES_PER_ADDRESS && !is_replica {
            self.counters.links_refused.add(1);
            return Err(TurnedAway::Busy);
        }
        if total >= limits::HANDSHAKES_MAX {
            let (_, oldest) = of_address.values().max_by_key(|(count, _)| *count).expect("there are some");
            self.fail(now, *oldest, &Fault::Slow);
        }
        Ok(())
    }

    fn new_id(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    fn new_up(&self, peer: Peer, channel: Channel) -> Up {
        let role = match peer.role {
            Role::Replica => PeerRole::Replica,
            Role::Client => PeerRole::Client,
        };
        Up { peer, channel, cutter: FrameCutter::new(role, self.frame_limits), keys: Vec::new() }
    }

    fn take_handshake(&mut self, now: Nanos, link: LinkId, mut bytes: &[u8]) -> Result<(), Fault> {
        let held = self.links.get_mut(&link).expect("the caller has it");
        let State::Handshake { handshake, .. } = &mut held.state else { unreachable!("the caller has seen it") };
        handshake.feed(&mut bytes)?;
        self.take_handshake_output(link);
        let held = self.links.get_mut(&link).expect("nothing has closed it");
        let State::Handshake { handshake, .. } = &mut held.state else { unreachable!("nothing has changed it") };
        let Some((peer, channel)) = handshake.finished() else { return Ok(()) };
        let (address, is_silent) = (held.origin, held.clear.is_empty());
        let shard = self.shard_of(&peer, link);
        if shard != self.setup.index && is_silent {
            let rest = bytes.to_vec();
            self.links.remove(&link);
            self.handovers.push(Handover { shard, link, peer, channel, address, rest });
            return Ok(());
        }
        let up = self.new_up(peer, channel);
        self.links.get_mut(&link).expect("nothing has closed it").state = State::Up(Box::new(up));
        self.came_up(now, link)?;
        self.take_records(now, link, bytes)
    }

    /// All links of one replica belong to one shard; clients are spread.
    fn shard_of(&self, peer: &Peer, link: LinkId) -> u16 {
        match peer.replica {
            Some(replica) => replica.0 % self.setup.shards,
            None => (link.0 % u64::from(self.setup.shards)) as u16,
        }
    }

    fn take_handshake_output(&mut self, link: LinkId) {
        let held = self.links.get_mut(&link).expect("the caller has it");
        let State::Handshake { handshake, .. } = &mut held.state else { return };
        let output = handshake.take_output();
        if !output.is_empty() {
            held.clear.extend_from_slice(&output);
            self.mark(link);
        }
    }

    /// The handshake is done: may it be, and whom is it to be told?
    fn came_up(&mut self, now: Nanos, link: LinkId) -> Result<(), Fault> {
        let held = &self.links[&link];
        let State::Up(up) = &held.state else { unreachable!("the caller has brought it up") };
        let (replica, key, instance, origin) = (up.peer.replica, up.peer.public_key, up.peer.instance, held.origin);
        if self.refusals.is_refused(now, Source::Key(key)) {
            return Err(Fault::Refused);
        }
        self.counters.links_up.add(1);
        match replica {
            Some(peer) => {
                self.replica_up(now, peer, instance, link)?;
                if let Some(address) = origin {
                    self.replica_addresses.insert(peer, address);
                }
                Ok(())
            }
            None => {
                let clients = self.links.values().filter(|held| held.is_client()).count();
                if clients > CLIENT_LINKS_MAX {
                    return Err(Fault::TooManyLinks);
                }
                self.client_up(link, key);
                Ok(())
            }
        }
    }

    fn replica_up(&mut self, now: Nanos, peer: ReplicaId, instance: u64, link: LinkId) -> Result<(), Fault> {
        let older = match self.instances.up(peer, instance, link) {
            Err(Duplicate::ClonedDisk { older, .. }) if now.since(self.links[&older].heard) > STALE_SILENCE => {
                // The connection broke, and this side has not noticed.
                self.close(older);
                self.instances.up(peer, instance, link)?
            }
            up => up?,
        };
        if let Some(older) = older {
            self.close(older);
            // `close` has said that the older link is down.
        }
        tracing::info!(replica = peer.0, instance, "link up");
        self.peers[peer.index()] = Some(link);
        self.arrivals.push(Arrival::Input(Input::Link { peer, state: LinkState::Up }));
        Ok(())
    }

    fn client_up(&mut self, link: LinkId, client: PublicKey) {
        let State::Up(up) = &mut self.links.get_mut(&link).expect("the caller has it").state else {
            unreachable!("only a link that is up has keys")
        };
        if !up.keys.contains(&client) {
            up.keys.push(client);
            self.arrivals.push(Arrival::Input(Input::Client { client, link, state: LinkState::Up }));
        }
    }

    fn take_records(&mut self, now: Nanos, link: LinkId, bytes: &[u8]) -> Result<(), Fault> {
        let State::Up(up) = &mut self.links.get_mut(&link).expect("the caller has it").state else {
            unreachable!("the caller has brought it up")
        };
        self.plain.clear();
        let opened = up.channel.open(bytes, &mut self.plain);
        up.cutter.push(&self.plain);
        self.counters.bytes_received.add(self.plain.len() as u64);
        // What was opened before the fault was sealed by the peer.
        self.take_frames(now, link)?;
        Ok(opened?)
    }

    fn take_frames(&mut self, now: Nanos, link: LinkId) -> Result<(), Fault> {
        // A frame can close the link: a second link of the same replica ends the first.
        while let Some(State::Up(up)) = self.links.get_mut(&link).map(|held| &mut held.state) {
            let Some((header, payload)) = up.cutter.next()? else { break };
            let replica = up.peer.replica;
            self.counters.frames_received.add(1);
            let message = decode(header.kind, &payload, self.bounds)?;
            match replica {
                Some(peer) => {
                    let message = self.verifier.check(peer, message)?;
                    self.arrivals.push(Arrival::Input(Input::Message { from: peer, message }));
                }
                None => self.take_client_message(now, link, message)?,
            }
        }
        Ok(())
    }

    fn take_client_message(&mut self, now: Nanos, link: LinkId, message: Message) -> Result<(), Fault> {
        match message {
            Message::Request(request) => self.take_request(now, link, request),
            Message::InfoQuery { want_digest } => {
                self.arrivals.push(Arrival::InfoQuery { to: link, want_digest });
                Ok(())
            }
            Message::ClientJoin(join) => self.take_join(now, link, &join),
            Message::Reply(_)
            | Message::Busy(_)
            | Message::Info(_)
            | Message::PrePrepare(_)
            | Message::Prepare(_)
            | Message::Commit(_)
            | Message::Checkpoint(_)
            | Message::Snapshot(_)
            | Message::ViewChange(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::Slot(_)
            | Message::FetchLog(_)
            | Message::Log(_) => Err(Rejected::NotAllowed.into()),
        }
    }

    fn take_request(&mut self, now: Nanos, link: LinkId, request: SignedRequest) -> Result<(), Fault> {
        let State::Up(up) = &self.links[&link].state else { unreachable!("the caller has read from it") };
        if !up.keys.contains(&request.entry.client) {
            return Err(Fault::ForeignKey);
        }
        match self.admission {
            Admitting::Yes => {
                self.gathered.push(request);
                self.gathered_from.push(link);
            }
            Admitting::No => {
                let busy = Busy { request: request.entry.digest, retry_after_ms: STOPPING_RETRY_MS };
                self.answer(now, link, Answer::Busy(busy));
            }
        }
        Ok(())
    }

    fn take_join(&mut self, now: Nanos, link: LinkId, join: &ClientJoin) -> Result<(), Fault> {
        let State::Up(up) = &self.links[&link].state else { unreachable!("the caller has read from it") };
        if up.keys.len() >= limits::CLIENT_KEYS_PER_LINK {
            return Err(Fault::TooManyKeys);
        }
        bft_link::check_join(&self.setup.config, &self.verifier, &up.peer.handshake_hash, join)?;
        if self.refusals.is_refused(now, Source::Key(join.public_key)) {
            return Err(Fault::Refused);
        }
        self.client_up(link, join.public_key);
        Ok(())
    }

    fn send_to(&mut self, now: Nanos, index: usize, lane: Lane, frame: &Frame) {
        if let Some(link) = self.peers[index] {
            self.enqueue(now, link, lane, frame.clone());
        }
    }

    fn enqueue(&mut self, now: Nanos, link: LinkId, lane: Lane, frame: Frame) {
        let Some(held) = self.links.get_mut(&link) else { return };
        match held.queue.push(lane, frame, limits::SEND_QUEUE_BYTES_PER_PEER) {
            Ok(dropped) => {
                self.counters.frames_sent.add(1);
                self.counters.frames_dropped.add(dropped);
                self.mark(link);
                self.shed();
            }
            Err(queue::Stuck) => self.fail(now, link, &Fault::Stuck),
        }
    }

    /// Keeps what all links hold together inside this shard's part of the bound: the fullest queue gives first.
    fn shed(&mut self) {
        let most = limits::SEND_QUEUE_BYTES / usize::from(self.setup.shards);
        while self.budget.used() > most {
            let fullest = self.links.values_mut().max_by_key(|held| held.queue.bytes());
            if !fullest.is_some_and(|held| held.queue.shed()) {
                return;
            }
            self.counters.frames_dropped.add(1);
        }
    }

    fn mark(&mut self, link: LinkId) {
        let held = self.links.get_mut(&link).expect("the caller has it");
        if !std::mem::replace(&mut held.is_dirty, true) {
            self.dirty.push(link);
        }
    }

    /// Closes a link and holds its source to account.
    fn fail(&mut self, now: Nanos, link: LinkId, fault: &Fault) {
        let Some(held) = self.links.get(&link) else { return };
        let (origin, is_hostile) = (held.origin, fault.is_hostile());
        let (who, key) = match &held.state {
            State::Handshake { .. } => {
                self.counters.handshakes_failed.add(1);
                (None, None)
            }
            State::Up(up) => {
                self.counters.links_rejected.add(1);
                (up.peer.replica, Some(up.peer.public_key))
            }
        };
        self.quiet.warn(now, origin, who, fault);
        if is_hostile {
            origin.into_iter().for_each(|address| self.refusals.strike(now, Source::address(address)));
            key.into_iter().for_each(|key| self.refusals.strike(now, Source::Key(key)));
        }
        self.close(link);
    }

    fn close(&mut self, link: LinkId) {
        let Some(held) = self.links.remove(&link) else { return };
        self.closed.push(link);
        let State::Up(up) = held.state else { return };
        for client in up.keys {
            self.arrivals.push(Arrival::Input(Input::Client { client, link, state: LinkState::Down }));
        }
        let Some(peer) = up.peer.replica else { return };
        self.instances.down(peer, link);
        if self.peers[peer.index()] == Some(link) {
            self.peers[peer.index()] = None;
            tracing::info!(replica = peer.0, "link down");
            self.arrivals.push(Arrival::Input(Input::Link { peer, state: LinkState::Down }));
        }
    }
}

impl Link {
    fn new(origin: Option<IpAddr>, state: State, now: Nanos) -> Self {
        Self { origin, state, clear: Vec::new(), queue: SendQueue::default(), heard: now, is_dirty: false }
    }

    fn forgive(&mut self, ns: u64) {
        self.heard = self.heard.after(ns);
        match &mut self.state {
            State::Handshake { until, .. } => *until = until.after(ns),
            State::Up(_) => {}
        }
    }

    fn is_client(&self) -> bool {
        match &self.state {
            State::Handshake { .. } => false,
            State::Up(up) => up.peer.replica.is_none(),
        }
    }

    fn overdue(&self, now: Nanos) -> Option<Fault> {
        match &self.state {
            State::Handshake { until, .. } => (now >= *until).then_some(Fault::Slow),
            State::Up(up) => {
                let is_silent = up.peer.replica.is_some() && now.since(self.heard) > REPLICA_SILENCE;
                is_silent.then_some(Fault::Silent)
            }
        }
    }
}

/// Seals frames together while they fit one record; a frame longer than that goes by itself, uncopied.
fn seal(queue: &mut SendQueue, channel: &mut Channel, plain: &mut Vec<u8>, out: &mut Vec<u8>, most: usize) {
    plain.clear();
    while out.len() + plain.len() < most {
        let Some(frame) = queue.pop() else { break };
        let bytes = frame.bytes();
        if plain.len() + bytes.len() > RECORD_PLAINTEXT_MAX && !plain.is_empty() {
            channel.seal(plain, out);
            plain.clear();
        }
        if bytes.len() > RECORD_PLAINTEXT_MAX {
            channel.seal(bytes, out);
        } else {
            plain.extend_from_slice(bytes);
        }
    }
    if !plain.is_empty() {
        channel.seal(plain, out);
    }
}

/// Says why links are closed, once a second at most.
#[derive(Debug, Default)]
struct Quiet {
    next: Nanos,
    unsaid: u64,
}

impl Quiet {
    fn warn(&mut self, now: Nanos, address: Option<IpAddr>, replica: Option<ReplicaId>, fault: &Fault) {
        if now < self.next {
            self.unsaid += 1;
            return;
        }
        let replica = replica.map(|id| id.0);
        let address = address.map(|address| address.to_string());
        tracing::warn!(address, replica, unsaid = self.unsaid, reason = %fault, "link closed");
        *self = Self { next: now.after(limits::SECOND), unsaid: 0 };
    }
}
