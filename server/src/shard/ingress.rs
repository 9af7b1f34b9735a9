//! What comes over links: records opened, frames cut and decoded, signatures checked, Requests gathered for one check.

use bft_core::auth::Rejected;
use bft_core::door::{Answer, Input};
use bft_core::ids::{LinkId, Nanos, ReplicaId};
use bft_core::limits;
use bft_core::wire::archive::decode;
use bft_core::wire::message::{Busy, ClientJoin, Message};
use bft_core::wire::request::SignedRequest;

use super::fault::Fault;
use super::link::State;
use super::refusals::Source;
use super::{Admitting, Arrival, FORWARDED_MAX, Gathered, Shard};

/// What a client is told to wait when this replica takes no Requests.
const STOPPING_RETRY_MS: u32 = 1000;
/// And when its pool is full.
const FULL_RETRY_MS: u32 = 20;

impl Shard {
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

    /// Checks the Requests that were gathered. At the end of a turn, before [`Self::arrivals`].
    pub fn finish_turn(&mut self, now: Nanos) {
        let Gathered { mut requests, from } = std::mem::take(&mut self.gathered);
        let Gathered { requests: forwarded, from: forwarded_by } = std::mem::take(&mut self.forwarded);
        let own = requests.len();
        requests.extend(forwarded);
        if requests.is_empty() {
            return;
        }
        self.counters.requests_checked.add(requests.len() as u64);
        let (mut valid, refused) = self.setup.verifier.check_requests(requests);
        self.counters.requests_bad_signature.add(refused.len() as u64);
        let own_refused = refused.partition_point(|index| *index < own);
        let forwarded = valid.split_off(own - own_refused);
        for index in &refused {
            let link = if *index < own { from[*index] } else { forwarded_by[*index - own].1 };
            self.fail(now, link, &Fault::Rejected(Rejected::BadSignature));
        }
        if !valid.is_empty() {
            self.arrivals.push(Arrival::Input(Input::Requests(valid)));
        }
        let is_refused = |index: &usize| refused[own_refused..].binary_search(&(index + own)).is_ok();
        let peers = (0..forwarded_by.len()).filter(|index| !is_refused(index)).map(|index| forwarded_by[index].0);
        let inputs = peers.zip(forwarded.into_messages()).map(|(from, message)| Input::Message { from, message });
        self.arrivals.extend(inputs.map(Arrival::Input));
    }

    pub(super) fn take_records(&mut self, now: Nanos, link: LinkId, bytes: &[u8]) -> Result<(), Fault> {
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
                    if let Message::Request(request) = message {
                        self.take_forwarded(peer, link, request);
                        continue;
                    }
                    self.take_message(peer, message)?;
                }
                None => self.take_client_message(now, link, message)?,
            }
        }
        Ok(())
    }

    /// What a refused message proves of whoever signed it goes on; the link is at fault all the same.
    fn take_message(&mut self, peer: ReplicaId, message: Message) -> Result<(), Fault> {
        let (message, refused) = match self.setup.verifier.check_or_accuse(peer, message) {
            Ok(message) => (Some(message), Ok(())),
            Err(refusal) => (refusal.evidence, Err(refusal.rejected.into())),
        };
        let input = message.map(|message| Arrival::Input(Input::Message { from: peer, message }));
        self.arrivals.extend(input);
        refused
    }

    /// Checked with the rest at the end of the turn, and charged to the link that it came over.
    fn take_forwarded(&mut self, peer: ReplicaId, link: LinkId, request: SignedRequest) {
        if self.forwarded.requests.len() < FORWARDED_MAX {
            self.forwarded.push(request, (peer, link));
        } else {
            self.counters.forwards_dropped.add(1);
        }
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
            | Message::NewView(_)
            | Message::FetchBody(_)
            | Message::Body(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::Slot(_)
            | Message::FetchLog(_)
            | Message::FetchManifest(_)
            | Message::Manifest(_)
            | Message::FetchChunk(_)
            | Message::Chunk(_)
            | Message::FetchTrail(_)
            | Message::Trail(_)
            | Message::Log(_)
            | Message::Evidence(_)
            | Message::Recall(_)
            | Message::Recalled(_) => Err(Rejected::NotAllowed.into()),
        }
    }

    fn take_request(&mut self, now: Nanos, link: LinkId, request: SignedRequest) -> Result<(), Fault> {
        let State::Up(up) = &self.links[&link].state else { unreachable!("the caller has read from it") };
        if !up.keys.contains(&request.entry.client) {
            return Err(Fault::ForeignKey);
        }
        match self.admission {
            Admitting::Yes if self.setup.brim.is_reached() && !self.setup.verifier.knows(&request) => {
                self.counters.requests_unchecked_busy.add(1);
                self.refuse_for_now(now, link, &request, FULL_RETRY_MS);
            }
            Admitting::Yes => match self.rates.take(now, request.entry.client, request.bytes.len()) {
                Ok(()) => self.gathered.push(request, link),
                Err(retry_after_ms) => {
                    self.counters.requests_over_rate.add(1);
                    self.refuse_for_now(now, link, &request, retry_after_ms);
                }
            },
            Admitting::No => self.refuse_for_now(now, link, &request, STOPPING_RETRY_MS),
        }
        Ok(())
    }

    fn refuse_for_now(&mut self, now: Nanos, link: LinkId, request: &SignedRequest, retry_after_ms: u32) {
        let busy = Busy { request: request.entry.digest, retry_after_ms };
        self.answer(now, link, Answer::Busy(busy));
    }

    fn take_join(&mut self, now: Nanos, link: LinkId, join: &ClientJoin) -> Result<(), Fault> {
        let State::Up(up) = &self.links[&link].state else { unreachable!("the caller has read from it") };
        if up.keys.len() >= limits::CLIENT_KEYS_PER_LINK {
            return Err(Fault::TooManyKeys);
        }
        bft_link::check_join(&self.setup.config, &self.setup.verifier, &up.peer.handshake_hash, join)?;
        if self.refusals.is_refused(now, Source::Key(join.public_key)) {
            return Err(Fault::Refused);
        }
        self.client_up(link, join.public_key);
        Ok(())
    }
}
