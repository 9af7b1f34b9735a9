//! Connections that come, and links that come up: who may, and on which shard they belong.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bft_core::door::{Input, LinkState};
use bft_core::ids::{LinkId, Nanos, PublicKey, ReplicaId};
use bft_core::limits;
use bft_core::wire::frame::{FrameCutter, PeerRole};
use bft_link::{Channel, Duplicate, Handshake, Peer, Role};

use super::fault::Fault;
use super::link::{Link, State, Up};
use super::refusals::Source;
use super::{Arrival, CLIENT_LINKS_MAX, Handover, Origin, Shard, TurnedAway};

/// Handshakes under way from one address.
pub(super) const HANDSHAKES_PER_ADDRESS: usize = limits::HANDSHAKES_MAX / 2;
/// Silence after which a second link of the same process is believed.
pub(super) const STALE_SILENCE: u64 = 3 * limits::STATUS_INTERVAL_IDLE;

impl Shard {
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

    fn new_up(&self, peer: Peer, channel: Channel) -> Up {
        let role = match peer.role {
            Role::Replica => PeerRole::Replica,
            Role::Client => PeerRole::Client,
        };
        Up { peer, channel, cutter: FrameCutter::new(role, self.frame_limits), keys: Vec::new() }
    }

    pub(super) fn take_handshake(&mut self, now: Nanos, link: LinkId, mut bytes: &[u8]) -> Result<(), Fault> {
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
            Err(Duplicate::Stale { .. }) if self.is_long_gone(now, peer) => {
                // A disk that was put back, and nobody else is left of this replica: it asks what is held of it (D11).
                tracing::warn!(
                    replica = peer.0,
                    instance,
                    "comes with a lower instance than before: its disk went back"
                );
                self.instances.forget(peer);
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

    fn is_long_gone(&self, now: Nanos, peer: ReplicaId) -> bool {
        self.instances.is_away(peer) && now.since(self.gone[peer.index()]) > STALE_SILENCE
    }

    pub(super) fn client_up(&mut self, link: LinkId, client: PublicKey) {
        let State::Up(up) = &mut self.links.get_mut(&link).expect("the caller has it").state else {
            unreachable!("only a link that is up has keys")
        };
        if !up.keys.contains(&client) {
            up.keys.push(client);
            self.arrivals.push(Arrival::Input(Input::Client { client, link, state: LinkState::Up }));
        }
    }
}
