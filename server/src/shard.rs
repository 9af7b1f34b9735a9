//! One shard: the links of one executor, without a socket. Bytes and time in; bytes to write, and what was found good
//! for the core, out. For each link it runs the handshake, opens records, cuts and decodes frames, and has every
//! signature checked; clients' Requests of one turn are checked together. Outgoing frames are encoded once and sealed
//! for each link when its socket can take them.
//!
//! * `arrival`: who may connect, and where a link belongs; `link`: one link; `fault`: why it is closed;
//! * `ingress`: from bytes to checked messages; `egress`, `queue`: from messages to bytes; `refusals`: for how long whose
//!   connections are turned away; `rates`: how much one client may bring.
//!
//! Kept here: nothing passes to the core that the verifier has not sealed; a client's link carries Requests of its own
//! keys only; what only an enemy sends closes the link it came over and has its source refused for a growing while (A1:
//! never whom it names); every queue is bounded, and Control is never dropped from it.

mod arrival;
mod egress;
mod fault;
mod ingress;
mod link;
pub mod queue;
pub mod rates;
pub mod refusals;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bft_core::auth::Verifier;
use bft_core::config::ClusterConfig;
use bft_core::door::{Input, LinkState};
use bft_core::ids::{LinkId, Nanos, ReplicaId};
use bft_core::limits;
use bft_core::wire::frame::FrameLimits;
use bft_core::wire::request::{RequestBounds, SignedRequest};
use bft_link::{Channel, Instances, LocalIdentity, Peer};
use bytes::BytesMut;

use crate::LinkRules;
use crate::brim::Brim;
use crate::counters::ShardCounters;
use fault::{Fault, Quiet};
use link::{Link, State};
use queue::Budget;
use rates::Rates;
use refusals::{Refusals, Source};

/// Requests of clients that one turn checks, but for what is read at a time: more gain little, and what replicas send
/// waits meanwhile.
const GATHERED_MAX: usize = 256;
/// Forwarded Requests that one turn checks. More are dropped: they come over the links that carry the protocol, which
/// never wait, and whoever forwarded them does so again.
const FORWARDED_MAX: usize = 256;
/// Clients' links of one shard.
const CLIENT_LINKS_MAX: usize = 4096;
/// A replica says where it is every second: silence this long means that its link is dead.
const REPLICA_SILENCE: u64 = 10 * limits::SECOND;
/// Ticks further apart than this say that the process was not scheduled.
const TICK_LATE: u64 = limits::SECOND;

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
    /// Whether the pool is full.
    pub brim: Arc<Brim>,
    /// Checks what comes: one for all shards, so that none checks what another has.
    pub verifier: Verifier,
    /// What it says of itself in handshakes.
    pub identity: LocalIdentity,
    /// What connections are held to.
    pub rules: LinkRules,
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

impl Arrival {
    /// How many Requests of clients it brings.
    #[must_use]
    pub fn requests(&self) -> usize {
        match self {
            Self::Input(Input::Requests(requests)) => requests.len(),
            Self::Input(_) | Self::InfoQuery { .. } => 0,
        }
    }
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

/// The links of one executor.
pub struct Shard {
    setup: ShardSetup,
    bounds: RequestBounds,
    frame_limits: FrameLimits,
    links: BTreeMap<LinkId, Link>,
    next_link: u64,
    peers: Vec<Option<LinkId>>,
    instances: Instances,
    /// When the last link of each replica went down.
    gone: Vec<Nanos>,
    /// Where replicas connect from: never refused by address, or one enemy on a replica's host would cut it off.
    replica_addresses: BTreeMap<ReplicaId, IpAddr>,
    refusals: Refusals,
    rates: Rates,
    budget: Budget,
    admission: Admitting,
    gathered: Gathered<LinkId>,
    forwarded: Gathered<(ReplicaId, LinkId)>,
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

/// Requests that wait for the check at the end of the turn, and who brought each.
struct Gathered<From> {
    requests: Vec<SignedRequest>,
    from: Vec<From>,
}

impl<From> Default for Gathered<From> {
    fn default() -> Self {
        Self { requests: Vec::new(), from: Vec::new() }
    }
}

impl<From> Gathered<From> {
    fn push(&mut self, request: SignedRequest, from: From) {
        self.requests.push(request);
        self.from.push(from);
    }
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
        let members = setup.config.n();
        let address_of = |(id, member): (u16, &bft_core::config::Member)| {
            let host = member.address.rsplit_once(':')?.0.trim_matches(['[', ']']);
            Some((ReplicaId(id), host.parse().ok()?))
        };
        let replica_addresses = (0..).zip(setup.config.members()).filter_map(address_of).collect();
        Self {
            bounds: setup.verifier.bounds(),
            frame_limits: FrameLimits::new(&setup.config),
            links: BTreeMap::new(),
            next_link: u64::from(setup.index) << 48,
            peers: vec![None; members],
            instances: Instances::new(members),
            gone: vec![Nanos(0); members],
            replica_addresses,
            refusals: Refusals::new(setup.rules.refusal_max),
            rates: Rates::new(setup.rules.rates),
            budget: Budget::default(),
            admission: Admitting::Yes,
            gathered: Gathered::default(),
            forwarded: Gathered::default(),
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

    /// Whether this link may be read in this turn. Clients that have brought as many Requests as one turn checks wait in
    /// their sockets for the next one; replicas never do.
    #[must_use]
    pub fn may_read(&self, link: LinkId) -> bool {
        self.gathered.requests.len() < GATHERED_MAX || !self.is_client(link)
    }

    /// Whether a client is at the other end.
    #[must_use]
    pub fn is_client(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(Link::is_client)
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

    fn new_id(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
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
        self.gone[peer.index()] = self.ticked;
        if self.peers[peer.index()] == Some(link) {
            self.peers[peer.index()] = None;
            tracing::info!(replica = peer.0, "link down");
            self.arrivals.push(Arrival::Input(Input::Link { peer, state: LinkState::Down }));
        }
    }
}
