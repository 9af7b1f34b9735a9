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
use crate::door::{Answer, LinkState, To};
use crate::ids::{Digest, Nanos, PublicKey, ReplicaId, RequestNo, Seq, SessionId, View};
use crate::limits::{CLIENT_QUEUE_BYTES, CLIENT_QUEUE_OPERATIONS};
use crate::quorum::ReplicaSet;
use crate::wire::message::{ClientCertificate, Message};
use crate::wire::request::RequestBounds;

mod answers;
mod outcome;
mod queue;
mod replies;
mod requests;
mod session;
#[cfg(test)]
mod tests;
mod transmission;

pub use outcome::{NotSent, Outcome, Rejected, Unknown};
use queue::{Caller, Operation, Queue, earlier};
use transmission::{Latencies, Transmission};

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

impl Session {
    fn opening(&self) -> Option<&Transmission> {
        match self {
            Self::Opening(opening) => Some(opening),
            Self::None | Self::Asking { .. } | Self::Open(_) => None,
        }
    }

    fn opening_mut(&mut self) -> Option<&mut Transmission> {
        match self {
            Self::Opening(opening) => Some(opening),
            Self::None | Self::Asking { .. } | Self::Open(_) => None,
        }
    }
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

    /// What the replica at the other end of a link says.
    pub fn on_answer(&mut self, now: Nanos, from: ReplicaId, answer: &Answer, out: &mut ClientEffects) {
        if self.config.member(from).is_some() {
            match answer {
                Answer::Reply(reply) => self.on_reply(now, from, reply, out),
                Answer::Busy(busy) => self.on_busy(now, from, busy),
                Answer::Info(info) => self.on_info(now, from, info, out),
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
        self.session.opening().map(|opening| opening.request.entry.digest)
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
