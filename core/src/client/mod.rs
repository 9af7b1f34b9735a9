//! The client as a state machine: one key, one session, no clock and no socket (PROTOCOL §5). It opens a session,
//! gathers operations into signed Requests, sends them until they are answered, and believes what a blocking set of
//! replicas says in the same words. Links, threads and futures are outside: `bft-client` in production, the simulator.
//!
//! Kept here: every taken operation ends exactly once, with the [`Outcome`] that is true of it; a Request that was sent
//! is sent again until it is answered or its session is gone, whoever still waits (C13); `ack` never passes an open
//! Request; a session id is used only if it answers this life's own opening (C18); memory is bounded whatever replicas
//! send.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::Scheme;
use crate::config::ClusterConfig;
use crate::door::{LinkState, To};
use crate::hash::{Context, hash};
use crate::ids::{Digest, Nanos, PublicKey, ReplicaId, RequestNo, Seq, SessionId, View};
use crate::limits::{
    CLIENT_BUSY_MAX, CLIENT_GATHER_FROM, CLIENT_INFO_INTERVAL, CLIENT_QUEUE_BYTES, CLIENT_QUEUE_OPERATIONS,
    CLIENT_REFUSED_PAUSE, CLIENT_TIMEOUT_MAX, MILLISECOND, SESSION_RESULT_BYTES,
};
use crate::quorum::ReplicaSet;
use crate::wire::canonical::{Reader, Tag, signing_bytes};
use crate::wire::message::{Busy, ClientCertificate, Code, Info, Message, Reply};
use crate::wire::opening::{Opening, read_opening_results};
use crate::wire::request::{
    FLAG_CLOSE, REQUEST_FIXED_BYTES, RequestBounds, SignedRequest, encode_request, result_digest,
};

mod answers;
mod outcome;
mod queue;
mod transmission;

use answers::{Accepted, vouched};
pub use outcome::{NotSent, Outcome, Rejected, Unknown};
use queue::{Caller, Operation, Queue, earlier};
use transmission::{Latencies, Transmission};

/// How many times in a row a primary is believed that it is busy; then the others are asked too.
const BUSY_PATIENCE: u32 = 3;

/// What one client may choose; the cluster's configuration bounds it.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Requests under way at a time.
    pub window: u64,
    /// Operations under one signature.
    pub operations_per_request: u32,
    /// Where the cluster asks for one.
    pub certificate: Option<ClientCertificate>,
    /// Operations that may wait to be signed.
    pub queue_operations: usize,
    /// Bytes of operations that may wait to be signed.
    pub queue_bytes: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            window: u64::MAX,
            operations_per_request: u32::MAX,
            certificate: None,
            queue_operations: CLIENT_QUEUE_OPERATIONS,
            queue_bytes: CLIENT_QUEUE_BYTES,
        }
    }
}

/// Why an operation was not taken: nothing will be heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// As much waits as may wait.
    #[error("too many operations wait to be sent: take completions first")]
    Full,
    /// It fits into no Request of this cluster.
    #[error("an operation of {len} bytes; the cluster takes at most {max} (request_bytes_max)")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The longest that fits.
        max: usize,
    },
    /// The client is being closed.
    #[error("the client is closed")]
    Closed,
}

/// What a client wants done. Owned by the caller, cleared and reused by it; the client only appends, and sets
/// `deadline` in every call.
#[derive(Debug, Default)]
pub struct ClientEffects {
    /// REQUESTs and INFO-QUERYs, to one replica or to all. What has no link is dropped: it is sent again.
    pub send: Vec<(To, Message)>,
    /// Operations that ended, by their tags.
    pub done: Vec<(u64, Outcome)>,
    /// When [`ClientCore::on_deadline`] is due; `None`: nothing is.
    pub deadline: Option<Nanos>,
}

impl ClientEffects {
    /// Empties everything and keeps the memory.
    pub fn clear(&mut self) {
        let Self { send, done, deadline } = self;
        send.clear();
        done.clear();
        *deadline = None;
    }
}

/// Where the session is.
#[derive(Debug)]
enum Session {
    /// There is none, and nobody has asked for one.
    None,
    /// INFO is asked for, to learn a Seq for the opening.
    Asking { ask_at: Nanos, asked: u32, answered: ReplicaSet },
    /// The opening is on its way.
    Opening(Box<Transmission>),
    /// It is open.
    Open(SessionId),
}

/// Whether the client is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// As soon as the window has room for the Request that closes the session.
    Wanted,
    /// That Request is on its way.
    Sent,
    /// Nothing is left to do.
    Done,
}

/// A Request of the session that is not answered yet.
#[derive(Debug)]
struct Sent {
    transmission: Transmission,
    /// Who waits for its operations, in their order; `None`: nobody any more. Empty: it closes the session.
    callers: Vec<Option<Caller>>,
    /// No caller's deadline is before this one.
    earliest: Option<Nanos>,
    /// How often the window refused it, the last time at which Seq, and when it is signed again.
    refusals: u32,
    refused_at: Seq,
    sign_at: Option<Nanos>,
}

/// What a replica last said about itself.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    view: View,
    executed: Seq,
}

/// One client key and its session.
pub struct ClientCore {
    config: Arc<ClusterConfig>,
    scheme: Arc<dyn Scheme>,
    key: PublicKey,
    options: ClientOptions,
    bounds: RequestBounds,
    nonce_seed: [u8; 32],
    openings: u64,
    queue: Queue,
    session: Session,
    ending: Ending,
    /// What the next opening says it replaces.
    replaces: SessionId,
    /// The Seq of the next opening; `None`: ask for one.
    at: Option<Seq>,
    /// No opening before this time.
    open_at: Nanos,
    /// The number of the next Request.
    next: RequestNo,
    sent: BTreeMap<RequestNo, Sent>,
    /// Bytes of unaccepted results, by the replica that sent them.
    held: Vec<usize>,
    heard: Vec<Option<Heard>>,
    info_asked: Option<Nanos>,
    view: View,
    up: ReplicaSet,
    latencies: Latencies,
    /// Nothing new is signed before this time.
    hold_until: Nanos,
    busy_streak: u32,
}

impl ClientCore {
    /// A client with the key of `scheme`. `nonce_seed` must be drawn anew for every life of the key.
    #[must_use]
    pub fn new(
        config: Arc<ClusterConfig>,
        scheme: Arc<dyn Scheme>,
        mut options: ClientOptions,
        nonce_seed: [u8; 32],
    ) -> Self {
        let params = config.params();
        options.window = options.window.clamp(1, params.client_window);
        options.operations_per_request = options.operations_per_request.clamp(1, params.request_operations_max);
        Self {
            key: scheme.public_key(),
            bounds: RequestBounds::from(params),
            nonce_seed,
            openings: 0,
            queue: Queue::default(),
            session: Session::None,
            ending: Ending::No,
            replaces: SessionId(0),
            at: None,
            open_at: Nanos(0),
            next: RequestNo(1),
            sent: BTreeMap::new(),
            held: vec![0; config.n()],
            heard: vec![None; config.n()],
            info_asked: None,
            view: View(0),
            up: ReplicaSet::EMPTY,
            latencies: Latencies::new(),
            hold_until: Nanos(0),
            busy_streak: 0,
            config,
            scheme,
            options,
        }
    }

    /// Opens a session now, so that the first operation need not wait for it. [`Self::flush`] does when it must.
    pub fn open(&mut self, now: Nanos, out: &mut ClientEffects) {
        self.open_session(now, out);
        self.set_deadline(now, out);
    }

    /// Takes an operation. Nothing is sent before [`Self::flush`]. Tags need not differ.
    pub fn submit(&mut self, operation: Bytes, tag: u64, deadline: Option<Nanos>) -> Result<(), NotTaken> {
        let max = self.request_capacity() - 4;
        if self.ending != Ending::No {
            return Err(NotTaken::Closed);
        }
        if operation.len() > max {
            return Err(NotTaken::TooLarge { len: operation.len(), max });
        }
        let is_full = self.queue.len() >= self.options.queue_operations
            || self.queue.bytes() + operation.len() > self.options.queue_bytes;
        if is_full && !self.queue.is_empty() {
            return Err(NotTaken::Full);
        }
        self.queue.push(Operation { bytes: operation, caller: Caller::new(tag, deadline) });
        Ok(())
    }

    /// Nobody waits any more for the operations with this tag. Costs in proportion to all that are outstanding.
    pub fn cancel(&mut self, now: Nanos, tag: u64, out: &mut ClientEffects) {
        let not_sent = Outcome::NotSent { reason: NotSent::Cancelled };
        self.queue.withdraw(|caller| caller.tag == tag, |tag| out.done.push((tag, not_sent.clone())));
        for sent in self.sent.values_mut() {
            sent.give_up(|caller| caller.tag == tag, Unknown::Cancelled, out);
        }
        self.set_deadline(now, out);
    }

    /// Signs what waits into Requests, as far as the window allows, opening a session if there is none. Called after
    /// every round of submissions and messages: what came together then leaves together.
    pub fn flush(&mut self, now: Nanos, out: &mut ClientEffects) {
        self.expire(now, out);
        if !self.queue.is_empty() {
            self.open_session(now, out);
        }
        while self.may_send(now) {
            self.send_next(now, out);
        }
        if self.ending == Ending::Wanted && self.session().is_some() && self.has_room() {
            self.send_close(now, out);
        }
        self.set_deadline(now, out);
    }

    /// A message of the replica at the other end of a link; what a client has no use for is ignored.
    pub fn on_message(&mut self, now: Nanos, from: ReplicaId, message: &Message, out: &mut ClientEffects) {
        if self.config.member(from).is_some() {
            match message {
                Message::Reply(reply) => self.on_reply(now, from, reply, out),
                Message::Busy(busy) => self.on_busy(now, from, busy),
                Message::Info(info) => self.on_info(now, from, info, out),
                Message::Request(_)
                | Message::InfoQuery { .. }
                | Message::ClientJoin(_)
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
                | Message::Log(_) => {}
            }
        }
        self.set_deadline(now, out);
    }

    /// The link to `replica` came up or went down. A caller that never says so is served too: everything then goes to
    /// all replicas at once.
    pub fn on_link(&mut self, now: Nanos, replica: ReplicaId, state: LinkState, out: &mut ClientEffects) {
        match state {
            LinkState::Down => self.up.remove(replica),
            LinkState::Up => {
                self.up.insert(replica);
                self.greet(replica, out);
            }
        }
        self.set_deadline(now, out);
    }

    /// The time that [`ClientEffects::deadline`] named has come.
    pub fn on_deadline(&mut self, now: Nanos, out: &mut ClientEffects) {
        self.ask_again(now, out);
        self.resend(now, out);
        let is_due = |sent: &Sent| sent.sign_at.is_some_and(|at| at <= now);
        let due: Vec<_> = self.sent.iter().filter(|(_, sent)| is_due(sent)).map(|(req_no, _)| *req_no).collect();
        for req_no in due {
            self.sign_again(now, req_no, out);
        }
        self.flush(now, out);
    }

    /// Ends the client: what waits was not sent, what was sent is still waited for, and the session is closed, after
    /// which nothing of it can execute. Then [`Self::is_closed`].
    pub fn close(&mut self, now: Nanos, out: &mut ClientEffects) {
        if self.ending != Ending::No {
            return;
        }
        let not_sent = Outcome::NotSent { reason: NotSent::Closed };
        self.queue.withdraw(|_| true, |tag| out.done.push((tag, not_sent.clone())));
        self.ending = match self.session {
            Session::None | Session::Asking { .. } => Ending::Done,
            Session::Opening(_) | Session::Open(_) => Ending::Wanted,
        };
        if self.ending == Ending::Done {
            self.session = Session::None;
        }
        self.flush(now, out);
    }

    /// Ends the client without waiting for anybody: every operation ends now.
    pub fn abandon(&mut self, now: Nanos, out: &mut ClientEffects) {
        self.close(now, out);
        self.drop_session(Unknown::Closed, out);
        self.ending = Ending::Done;
        out.deadline = None;
    }

    /// Whether the client was closed and nothing is left to wait for.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ending == Ending::Done
    }

    /// Whether no taken operation is without its end.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.sent.values().all(|sent| sent.callers.iter().all(Option::is_none))
    }

    /// The client's key.
    #[must_use]
    pub fn key(&self) -> PublicKey {
        self.key
    }

    /// The open session: replies of it are for this client.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            Session::Open(id) => Some(id),
            Session::None | Session::Asking { .. } | Session::Opening(_) => None,
        }
    }

    /// The opening under way: replies of session 0 whose results begin with it are for this client.
    #[must_use]
    pub fn opening(&self) -> Option<Digest> {
        match &self.session {
            Session::Opening(opening) => Some(opening.request.entry.digest),
            Session::None | Session::Asking { .. } | Session::Open(_) => None,
        }
    }

    /// Whether this Request is one of this client's and under way.
    #[must_use]
    pub fn is_under_way(&self, request: Digest) -> bool {
        let mut all = self.sent.values().map(|sent| &sent.transmission);
        self.opening() == Some(request) || all.any(|transmission| transmission.request.entry.digest == request)
    }

    /// Who is believed to be primary: INFO of a blocking set tells.
    #[must_use]
    pub fn primary(&self) -> ReplicaId {
        self.config.primary(self.view)
    }

    // ---- Requests ----------------------------------------------------------------------------------------------

    fn may_send(&self, now: Nanos) -> bool {
        if self.session().is_none() || self.queue.is_empty() || now < self.hold_until || !self.has_room() {
            return false;
        }
        // A lone operation leaves at once; under load answers set the pace (the network's own clock). Requests that
        // are late hold nothing back.
        let is_on_time = |sent: &&Sent| sent.transmission.resends == 0 && sent.sign_at.is_none();
        let on_time = self.sent.values().filter(is_on_time).count();
        on_time < CLIENT_GATHER_FROM
            || self.queue.fills(self.options.operations_per_request as usize, self.request_capacity())
    }

    /// Bytes that the operations of one Request may take, with their lengths.
    fn request_capacity(&self) -> usize {
        self.bounds.request_bytes - REQUEST_FIXED_BYTES
    }

    /// Every number up to this one is finished.
    fn ack(&self) -> RequestNo {
        let lowest = self.sent.first_key_value().map_or(self.next, |(req_no, _)| *req_no);
        RequestNo(lowest.0 - 1)
    }

    fn has_room(&self) -> bool {
        self.next.0 <= self.ack().0 + self.options.window
    }

    fn send_next(&mut self, now: Nanos, out: &mut ClientEffects) {
        let taken = self.queue.take(self.options.operations_per_request as usize, self.request_capacity());
        let operations: Vec<_> = taken.iter().map(|operation| &operation.bytes[..]).collect();
        let request = self.sign(self.next, self.ack(), 0, &operations);
        let callers: Vec<_> = taken.iter().map(|operation| Some(operation.caller)).collect();
        self.send(now, self.next, request, callers, out);
        self.next = self.next.next();
    }

    fn send_close(&mut self, now: Nanos, out: &mut ClientEffects) {
        let request = self.sign(self.next, self.ack(), FLAG_CLOSE, &[&[]]);
        self.send(now, self.next, request, Vec::new(), out);
        self.next = self.next.next();
        self.ending = Ending::Sent;
    }

    fn sign(&self, req_no: RequestNo, ack: RequestNo, flags: u32, operations: &[&[u8]]) -> SignedRequest {
        let session = self.session().expect("Requests are signed in an open session");
        self.sign_in(session, req_no, ack, flags, operations)
    }

    fn sign_in(
        &self,
        session: SessionId,
        req_no: RequestNo,
        ack: RequestNo,
        flags: u32,
        operations: &[&[u8]],
    ) -> SignedRequest {
        let sign = |digest| self.scheme.sign(&signing_bytes(Tag::Request, self.config.cluster_id(), digest));
        let bytes = encode_request(self.key, session, req_no, ack, flags, operations.iter().copied(), sign);
        SignedRequest::parse(bytes, self.bounds).expect("own Requests keep the bounds they were cut to")
    }

    fn send(
        &mut self,
        now: Nanos,
        req_no: RequestNo,
        request: SignedRequest,
        callers: Vec<Option<Caller>>,
        out: &mut ClientEffects,
    ) {
        if self.info_asked.is_none_or(|asked| now.since(asked) >= CLIENT_INFO_INTERVAL) {
            self.ask_info(now, To::All, out);
        }
        let transmission = self.transmit(now, request, out);
        let earliest = callers.iter().flatten().fold(None, |earliest, caller| earlier(earliest, caller.deadline));
        let sent = Sent { transmission, callers, earliest, refusals: 0, refused_at: Seq(0), sign_at: None };
        let former = self.sent.insert(req_no, sent);
        assert!(former.is_none(), "a number is used once");
    }

    /// Sends a Request for the first time: to the primary, or to all where there is no link to it.
    fn transmit(&self, now: Nanos, request: SignedRequest, out: &mut ClientEffects) -> Transmission {
        let primary = self.primary();
        let to = if self.up.contains(primary) { To::One(primary) } else { To::All };
        out.send.push((to, Message::Request(request.clone())));
        Transmission::new(request, self.config.n(), to, now, self.latencies.timeout())
    }

    /// The window refused the Request: the same operations under the same number, with the present ack.
    fn sign_again(&mut self, now: Nanos, req_no: RequestNo, out: &mut ClientEffects) {
        let former = &self.sent[&req_no].transmission.request;
        let operations: Vec<_> = former.operations().collect();
        let request = self.sign(req_no, self.ack(), former.entry.flags, &operations);
        let transmission = self.transmit(now, request, out);
        let sent = self.sent.get_mut(&req_no).expect("looked up above");
        let former = std::mem::replace(&mut sent.transmission, transmission);
        sent.sign_at = None;
        self.release(&former);
    }

    fn resend(&mut self, now: Nanos, out: &mut ClientEffects) {
        let timeout = self.latencies.timeout();
        let opening = match &mut self.session {
            Session::Opening(opening) => Some(&mut **opening),
            Session::None | Session::Asking { .. } | Session::Open(_) => None,
        };
        let mut is_late = false;
        for transmission in self.sent.values_mut().map(|sent| &mut sent.transmission).chain(opening) {
            if transmission.resend_at <= now {
                let to = transmission.resend(now, timeout);
                out.send.push((to, Message::Request(transmission.request.clone())));
                is_late = true;
            }
        }
        if is_late && self.info_asked.is_none_or(|asked| now.since(asked) >= timeout) {
            self.ask_info(now, To::All, out);
        }
    }

    /// A link came up: what its replica was to have goes there again.
    fn greet(&mut self, replica: ReplicaId, out: &mut ClientEffects) {
        let to = To::One(replica);
        if matches!(self.session, Session::Asking { .. }) {
            out.send.push((to, Message::InfoQuery { want_digest: false }));
        }
        let opening = match &self.session {
            Session::Opening(opening) => Some(&**opening),
            Session::None | Session::Asking { .. } | Session::Open(_) => None,
        };
        for transmission in self.sent.values().map(|sent| &sent.transmission).chain(opening) {
            if transmission.is_for(replica) {
                out.send.push((to, Message::Request(transmission.request.clone())));
            }
        }
    }

    fn expire(&mut self, now: Nanos, out: &mut ClientEffects) {
        let is_due = |earliest: Option<Nanos>| earliest.is_some_and(|earliest| earliest <= now);
        if is_due(self.queue.earliest()) {
            let not_sent = Outcome::NotSent { reason: NotSent::Deadline };
            self.queue.withdraw(|caller| caller.is_due(now), |tag| out.done.push((tag, not_sent.clone())));
        }
        for sent in self.sent.values_mut().filter(|sent| is_due(sent.earliest)) {
            sent.give_up(|caller| caller.is_due(now), Unknown::Deadline, out);
        }
    }

    // ---- answers -----------------------------------------------------------------------------------------------

    fn on_reply(&mut self, now: Nanos, from: ReplicaId, reply: &Reply, out: &mut ClientEffects) {
        let bytes_max = (self.config.params().reply_bytes_max as usize).max(40);
        let is_sound = reply.epoch == self.config.epoch()
            && reply
                .results
                .as_ref()
                .is_none_or(|results| results.len() <= bytes_max && result_digest(reply.code, results) == reply.digest);
        if !is_sound {
            return;
        }
        if reply.session == SessionId(0) {
            self.on_opening_reply(now, from, reply, out);
        } else if self.session() == Some(reply.session) {
            self.on_request_reply(now, from, reply, out);
        }
    }

    fn on_request_reply(&mut self, now: Nanos, from: ReplicaId, reply: &Reply, out: &mut ClientEffects) {
        let results = self.affordable(from, reply);
        let Some(sent) = self.sent.get_mut(&reply.req_no) else { return };
        // Refusals of an earlier signing still come in from slower replicas.
        if reply.code == Code::Window && reply.seq <= sent.refused_at {
            return;
        }
        let answers = &mut sent.transmission.answers;
        let before = answers.held(from);
        answers.record(from, reply, results);
        self.held[from.index()] = self.held[from.index()] + answers.held(from) - before;
        if let Some(accepted) = answers.accepted(self.config.weights(), from) {
            self.on_accepted(now, reply.req_no, accepted, out);
        }
    }

    /// The results of a reply, if the replica does not make this client keep more of them than a correct one could.
    /// Those left out come again when the Request does, and are then accepted on arrival.
    fn affordable(&self, from: ReplicaId, reply: &Reply) -> Option<Bytes> {
        let bound = SESSION_RESULT_BYTES + 2 * self.config.params().reply_bytes_max as usize;
        let is_affordable = |results: &&Bytes| self.held[from.index()] + results.len() <= bound;
        reply.results.as_ref().filter(is_affordable).cloned()
    }

    fn on_accepted(&mut self, now: Nanos, req_no: RequestNo, accepted: Accepted, out: &mut ClientEffects) {
        let Accepted { seq, code, results } = accepted;
        let is_close = self.sent[&req_no].callers.is_empty();
        match code {
            Code::Window => self.put_back(now, req_no, seq),
            _ if is_close => self.lose_session(seq, Unknown::Closed, out),
            Code::Ok => {
                let callers = self.finish(now, req_no);
                deliver(seq, &results, &callers, out);
            }
            Code::ReplyTooLarge => self.refuse(now, req_no, seq, Rejected::ExecutedReplyTooLarge, out),
            Code::Conflict => self.refuse(now, req_no, seq, Rejected::Conflict, out),
            Code::Denied => self.refuse(now, req_no, seq, Rejected::Denied, out),
            // After these the number would stay open for ever. All but the first are said of no Request of ours.
            Code::SessionUnknown
            | Code::AlreadyAcked
            | Code::MalformedAck
            | Code::SessionOpen
            | Code::SessionStale
            | Code::Malformed
            | Code::Closed => self.lose_session(seq, Unknown::SessionLost, out),
        }
    }

    fn refuse(&mut self, now: Nanos, req_no: RequestNo, seq: Seq, reason: Rejected, out: &mut ClientEffects) {
        let callers = self.finish(now, req_no);
        let outcome = Outcome::Rejected { seq, reason };
        out.done.extend(callers.iter().flatten().map(|caller| (caller.tag, outcome.clone())));
    }

    /// The Request is answered: its number is free to be acknowledged.
    fn finish(&mut self, now: Nanos, req_no: RequestNo) -> Vec<Option<Caller>> {
        let sent = self.sent.remove(&req_no).expect("an answer is accepted to an open Request");
        self.release(&sent.transmission);
        self.latencies.record(now.since(sent.transmission.first_sent));
        if sent.transmission.resends == 0 {
            self.busy_streak = 0;
        }
        sent.callers
    }

    /// Forgets what replicas answered to it.
    fn release(&mut self, transmission: &Transmission) {
        for (id, held) in (0..).map(ReplicaId).zip(&mut self.held) {
            *held -= transmission.answers.held(id);
        }
    }

    /// The window refused it: it is signed again after a pause, when more is acknowledged.
    fn put_back(&mut self, now: Nanos, req_no: RequestNo, seq: Seq) {
        let sent = self.sent.get_mut(&req_no).expect("an answer is accepted to an open Request");
        sent.refusals += 1;
        sent.refused_at = seq;
        let pause = (self.latencies.timeout() / 4) << sent.refusals.min(8);
        sent.sign_at = Some(now.after(pause.min(CLIENT_TIMEOUT_MAX)));
        sent.transmission.resend_at = Nanos(u64::MAX);
    }

    /// BUSY proves nothing. A primary is believed a few times, the others when a correct one is among them; the Request
    /// stays, and goes out again later.
    fn on_busy(&mut self, now: Nanos, from: ReplicaId, busy: &Busy) {
        let opening = match &mut self.session {
            Session::Opening(opening) => Some(&mut **opening),
            Session::None | Session::Asking { .. } | Session::Open(_) => None,
        };
        let mut all = self.sent.values_mut().map(|sent| &mut sent.transmission).chain(opening);
        let named = all.find(|transmission| transmission.request.entry.digest == busy.request);
        let Some(transmission) = named.filter(|transmission| transmission.is_for(from)) else { return };
        let hint = u64::from(busy.retry_after_ms) * MILLISECOND;
        let until = now.after(hint.clamp(MILLISECOND, CLIENT_BUSY_MAX));
        let is_new_hold = now >= self.hold_until;
        match transmission.to {
            To::One(_) if is_new_hold && self.busy_streak == BUSY_PATIENCE => {}
            To::One(_) => {
                transmission.busy.insert(from);
                transmission.resend_at = until;
                if is_new_hold {
                    self.busy_streak += 1;
                    self.hold_until = until;
                }
            }
            To::All => {
                let is_news = transmission.busy.insert(from);
                if is_news && self.config.weights().is_blocking(transmission.busy) {
                    transmission.resend_at = transmission.resend_at.max(until);
                    self.hold_until = self.hold_until.max(until);
                }
            }
        }
    }

    // ---- the session -------------------------------------------------------------------------------------------

    fn open_session(&mut self, now: Nanos, out: &mut ClientEffects) {
        if !matches!(self.session, Session::None) || self.ending != Ending::No || now < self.open_at {
            return;
        }
        if let Some(at) = self.at {
            return self.send_opening(now, at, out);
        }
        let ask_at = now.after(self.latencies.timeout());
        self.session = Session::Asking { ask_at, asked: 0, answered: ReplicaSet::EMPTY };
        self.ask_info(now, To::All, out);
    }

    fn ask_info(&mut self, now: Nanos, to: To, out: &mut ClientEffects) {
        self.info_asked = Some(now);
        out.send.push((to, Message::InfoQuery { want_digest: false }));
    }

    fn ask_again(&mut self, now: Nanos, out: &mut ClientEffects) {
        let timeout = self.latencies.timeout();
        if let Session::Asking { ask_at, asked, .. } = &mut self.session
            && *ask_at <= now
        {
            *asked += 1;
            *ask_at = now.after((timeout << (*asked).min(8)).min(CLIENT_TIMEOUT_MAX));
            self.ask_info(now, To::All, out);
        }
    }

    fn on_info(&mut self, now: Nanos, from: ReplicaId, info: &Info, out: &mut ClientEffects) {
        if info.replica != from || info.epoch != self.config.epoch() {
            return;
        }
        let heard = self.heard[from.index()].get_or_insert_default();
        heard.view = heard.view.max(info.view);
        heard.executed = heard.executed.max(info.executed);
        let heard = || (0..).map(ReplicaId).zip(&self.heard).filter_map(|(id, heard)| Some((id, heard.as_ref()?)));
        let weights = self.config.weights();
        let view = vouched(weights, heard().map(|(id, heard)| (id, heard.view)));
        let executed = vouched(weights, heard().map(|(id, heard)| (id, heard.executed)));
        self.view = view.unwrap_or(self.view);
        if let Session::Asking { answered, .. } = &mut self.session {
            answered.insert(from);
            if let Some(at) = executed.filter(|_| weights.is_blocking(*answered)) {
                self.send_opening(now, at, out);
            }
        }
    }

    /// Each opening has a nonce of its own.
    fn send_opening(&mut self, now: Nanos, at: Seq, out: &mut ClientEffects) {
        self.openings += 1;
        let nonce = hash(Context::Session, &[&self.nonce_seed, &self.openings.to_le_bytes()]).0;
        let opening = Opening { replaces: self.replaces, at, nonce, certificate: self.options.certificate };
        let request = self.sign_in(SessionId(0), RequestNo(0), RequestNo(0), 0, &[&opening.encode()]);
        self.at = Some(at);
        self.session = Session::Opening(Box::new(self.transmit(now, request, out)));
    }

    fn on_opening_reply(&mut self, now: Nanos, from: ReplicaId, reply: &Reply, out: &mut ClientEffects) {
        let Session::Opening(opening) = &mut self.session else { return };
        let named = reply.results.as_deref().and_then(|results| read_opening_results(results).ok());
        let Some((_, number)) = named.filter(|(named, _)| *named == opening.request.entry.digest) else { return };
        opening.answers.record(from, reply, reply.results.clone());
        if let Some(accepted) = opening.answers.accepted(self.config.weights(), from) {
            self.on_opening_answered(now, &accepted, number, out);
        }
    }

    fn on_opening_answered(&mut self, now: Nanos, accepted: &Accepted, number: u64, out: &mut ClientEffects) {
        match accepted.code {
            Code::Ok if number != 0 => {
                assert!(self.sent.is_empty() && self.next == RequestNo(1), "a session begins with nothing");
                self.session = Session::Open(SessionId(number));
                self.replaces = SessionId(0);
                self.at = Some(accepted.seq);
            }
            Code::SessionOpen | Code::SessionStale if self.ending != Ending::No => {
                self.session = Session::None;
                self.ending = Ending::Done;
            }
            Code::SessionOpen => {
                // Another life of this key opened it: it is replaced, never used (C18).
                self.replaces = SessionId(number);
                self.send_opening(now, accepted.seq, out);
            }
            Code::SessionStale => self.send_opening(now, Seq(number), out),
            Code::Ok
            | Code::ReplyTooLarge
            | Code::Conflict
            | Code::AlreadyAcked
            | Code::Window
            | Code::MalformedAck
            | Code::Denied
            | Code::SessionUnknown
            | Code::Malformed
            | Code::Closed => self.on_not_admitted(now, out),
        }
    }

    fn on_not_admitted(&mut self, now: Nanos, out: &mut ClientEffects) {
        let not_sent = Outcome::NotSent { reason: NotSent::NotAdmitted };
        self.queue.withdraw(|_| true, |tag| out.done.push((tag, not_sent.clone())));
        self.session = Session::None;
        self.open_at = now.after(CLIENT_REFUSED_PAUSE);
        if self.ending != Ending::No {
            self.ending = Ending::Done;
        }
    }

    /// The session is no more, as of `seq`: a later operation opens another.
    fn lose_session(&mut self, seq: Seq, reason: Unknown, out: &mut ClientEffects) {
        self.drop_session(reason, out);
        self.at = Some(seq);
        if self.ending != Ending::No {
            self.ending = Ending::Done;
        }
    }

    fn drop_session(&mut self, reason: Unknown, out: &mut ClientEffects) {
        for mut sent in std::mem::take(&mut self.sent).into_values() {
            sent.give_up(|_| true, reason, out);
        }
        self.held.fill(0);
        self.session = Session::None;
        self.next = RequestNo(1);
    }

    // ---- time --------------------------------------------------------------------------------------------------

    fn set_deadline(&self, now: Nanos, out: &mut ClientEffects) {
        let session = match &self.session {
            Session::Asking { ask_at, .. } => Some(*ask_at),
            Session::Opening(opening) => Some(opening.resend_at),
            Session::None if !self.queue.is_empty() => Some(self.open_at),
            Session::Open(_) if !self.queue.is_empty() && now < self.hold_until => Some(self.hold_until),
            Session::Open(_) if self.may_send(now) => Some(now),
            Session::Open(_) if self.ending == Ending::Wanted && self.has_room() => Some(now),
            Session::None | Session::Open(_) => None,
        };
        let first = earlier(session, self.queue.earliest());
        out.deadline = self.sent.values().fold(first, |first, sent| {
            let of_callers = earlier(sent.earliest, sent.sign_at);
            earlier(first, earlier(of_callers, Some(sent.transmission.resend_at)))
        });
    }
}

impl Sent {
    /// Ends the operations of the callers for whom `which` holds. The Request goes on (C13).
    fn give_up(&mut self, which: impl Fn(&Caller) -> bool, reason: Unknown, out: &mut ClientEffects) {
        let mut earliest = None;
        for slot in &mut self.callers {
            let Some(caller) = slot else { continue };
            if which(caller) {
                out.done.push((caller.tag, Outcome::Unknown { reason }));
                *slot = None;
            } else {
                earliest = earlier(earliest, caller.deadline);
            }
        }
        self.earliest = earliest;
    }
}

/// Gives each caller its operation's result: slices of `results`.
fn deliver(seq: Seq, results: &Bytes, callers: &[Option<Caller>], out: &mut ClientEffects) {
    let split = split(results, callers.len());
    for (index, caller) in callers.iter().enumerate() {
        let Some(caller) = caller else { continue };
        let outcome = match &split {
            Some(parts) => Outcome::Done { seq, result: parts[index].clone() },
            None => Outcome::Unknown { reason: Unknown::Unreadable },
        };
        out.done.push((caller.tag, outcome));
    }
}

/// The results of `count` operations, each with its length before it, and nothing else.
fn split(results: &Bytes, count: usize) -> Option<Vec<Bytes>> {
    let mut reader = Reader::new(results);
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let len = reader.u32().ok()?;
        let start = results.len() - reader.rest().len();
        let part = reader.take(len as usize).ok()?;
        parts.push(results.slice(start..start + part.len()));
    }
    reader.end().ok().map(|()| parts)
}
