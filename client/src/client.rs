//! The handle: what programs call. Everything here copies, leaves a command for the I/O thread, and returns; what waits
//! says so.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bft_core::auth::keys::{KeyNotUsable, SecretKey, certify_client};
use bft_core::auth::{Ed25519, Scheme};
use bft_core::client::{ClientCore, ClientOptions, NotSent, Outcome};
use bft_core::config::{Admission, ClusterConfig};
use bft_core::ids::{Epoch, Nanos, PublicKey, ReplicaId};
use bft_core::limits::CLIENT_KEYS_PER_LINK;
use bft_core::wire::message::{ClientCertificate, Info};
use bft_core::wire::request::REQUEST_FIXED_BYTES;
use bft_link::{LinkError, LocalIdentity};
use bytes::{Bytes, BytesMut};

use crate::completion::{
    Completion, Completions, NoCredit, Outlet, Pending, SessionReport, Slot, Wait, Waiter, event_descriptor,
};
use crate::config::ClientConfig;
use crate::inbox::{Command, InfoAnswers, InfoRound, Shared, Taken, after, never_sent};
use crate::net::{Key, Net};

/// For how many Epochs beyond the present one a client certifies its own key.
const CERTIFIED_EPOCHS: u64 = 16;

/// An operation to be submitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Submit<'a> {
    /// What the service gets; copied.
    pub bytes: &'a [u8],
    /// Comes back in the [`Completion`]. Need not differ from others.
    pub tag: u64,
    /// From now; `None`: the configuration's `timeout`.
    pub deadline: Option<Duration>,
    /// How it is served.
    pub kind: OperationKind,
}

/// How an operation is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationKind {
    /// It gets a place in the order, and is executed there.
    #[default]
    Ordered,
}

/// Why not even the first of the operations was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As much is open as may be.
    #[error("too many operations are open: take completions first")]
    Full,
    /// It fits into no Request of this cluster.
    #[error("an operation of {len} bytes; the cluster takes at most {max} (request_bytes_max)")]
    TooLarge {
        /// Its length.
        len: usize,
        /// The longest that fits.
        max: usize,
    },
    /// The client is closed.
    #[error("the client is closed")]
    Closed,
    /// The client was opened for futures alone.
    #[error("this client was opened with Completions::Futures: nobody would take the completion of a tag")]
    NoTags,
}

/// Why a client cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The cluster would not admit the client.
    #[error("{0}")]
    NotAdmitted(#[from] LinkError),
    /// The cluster wants certified clients, and there is no authority key to certify with.
    #[error("the cluster admits certified clients only: name its client authority's key as `authority_key`")]
    NoAuthority,
    /// The authority key is not the one that the cluster trusts.
    #[error("the authority key is {found}, but the cluster's client authority is {expected}: use the right file")]
    WrongAuthority {
        /// The key of the file.
        found: PublicKey,
        /// The cluster's.
        expected: PublicKey,
    },
    /// The client's key cannot be certified.
    #[error(transparent)]
    Key(#[from] KeyNotUsable),
    /// No session, or more than one set of links carries.
    #[error("{0} sessions; one set of links carries 1 to {CLIENT_KEYS_PER_LINK}: open several groups")]
    Sessions(usize),
    /// The system gave no thread, descriptor or entropy.
    #[error("the system refused {what}: {error}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
}

/// What the link to one replica is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkReport {
    /// The replica.
    pub replica: ReplicaId,
    /// Whether the link is up.
    pub is_up: bool,
    /// Why it last was not; empty if it always was.
    pub last_error: String,
}

impl fmt::Display for LinkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.is_up, self.last_error.as_str()) {
            (true, _) => "connected",
            (false, "") => "connecting",
            (false, error) => error,
        };
        write!(f, "replica {}: {state}", self.replica)
    }
}

/// A session with a cluster. Clones share it. When the last clone is dropped the session is closed without waiting.
#[derive(Clone)]
pub struct Client(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    session: usize,
    outlet: Arc<Outlet>,
    cluster: Arc<ClusterConfig>,
    key: PublicKey,
    timeout: Option<Duration>,
}

impl Client {
    /// A client with links of its own. Returns at once: the links, and the session over them, come about behind it, and
    /// again for ever where they do not ([`Self::links`] tells why).
    pub fn open(config: ClientConfig, completions: Completions) -> Result<Self, OpenError> {
        let mut completions = Some(completions);
        let mut clients = Self::open_many(config, 1, |_| completions.take().expect("one session"))?;
        Ok(clients.pop().expect("one session"))
    }

    /// Many sessions over one thread and one set of links, each with a key and tags of its own. The first has the
    /// configuration's key, if that has one; the others have fresh ones.
    pub fn open_many(
        config: ClientConfig,
        sessions: usize,
        mut completions: impl FnMut(usize) -> Completions,
    ) -> Result<Vec<Self>, OpenError> {
        if sessions == 0 || sessions > CLIENT_KEYS_PER_LINK {
            return Err(OpenError::Sessions(sessions));
        }
        let silent = Arc::new(event_descriptor().map_err(system("an event descriptor"))?);
        let mut lanes = Vec::with_capacity(sessions);
        for index in 0..sessions {
            lanes.push(lane(&config, index, completions(index), &silent)?);
        }
        let poll = mio::Poll::new().map_err(system("an epoll descriptor"))?;
        let shared = Arc::new(Net::share(&config.cluster, &poll, sessions).map_err(system("an event descriptor"))?);
        let handle = |(session, lane): (usize, &Lane)| {
            let (shared, outlet, cluster) = (shared.clone(), lane.outlet.clone(), config.cluster.clone());
            Self(Arc::new(Handle { shared, session, outlet, cluster, key: lane.core.key(), timeout: config.timeout }))
        };
        let clients: Vec<_> = lanes.iter().enumerate().map(handle).collect();
        let lanes = lanes.into_iter().map(|lane| (lane.core, lane.key, lane.outlet)).collect();
        Net::start(poll, &shared, &config, lanes).map_err(system("a thread"))?;
        Ok(clients)
    }

    /// Takes operations: copies them, never blocks. `Ok(k)`: the first k are taken, and each of them completes exactly
    /// once; fewer than all where there is room for no more, or the next one is too large.
    pub fn submit(&self, operations: &[Submit<'_>]) -> Result<usize, SubmitError> {
        let handle = &*self.0;
        if !handle.outlet.takes_tags() {
            return Err(SubmitError::NoTags);
        }
        let max = handle.operation_bytes_max();
        let fitting = operations.iter().position(|operation| operation.bytes.len() > max).unwrap_or(operations.len());
        if fitting == 0
            && let Some(first) = operations.first()
        {
            return Err(SubmitError::TooLarge { len: first.bytes.len(), max });
        }
        let lengths = operations[..fitting].iter().map(|operation| operation.bytes.len());
        let taken = handle.outlet.reserve(lengths).map_err(|refused| match refused {
            NoCredit::Full => SubmitError::Full,
            NoCredit::Closed => SubmitError::Closed,
        })?;
        handle.leave(&operations[..taken]).map(|()| taken)
    }

    /// Gives at most `max` completions, appended to `out`; says how many. Only for [`Completions::Queue`].
    pub fn poll(&self, out: &mut Vec<Completion>, max: usize, wait: Wait) -> usize {
        if wait != Wait::No {
            self.0.shared.assert_may_wait();
        }
        self.0.outlet.poll(out, max, wait)
    }

    /// Readable while [`Self::poll`] has something to give. Not to be read from or written to.
    #[must_use]
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.0.outlet.event()
    }

    /// Nobody waits any more for the operations with this tag; each still completes, at once.
    pub fn cancel(&self, tag: u64) {
        // A thread that has ended has completed everything already.
        let _ = self.0.shared.push(Command::Cancel { session: self.0.session, tag });
    }

    /// Submits one operation as a future. Where it cannot be taken the future is ready, with the reason.
    pub fn send(&self, operation: &[u8], deadline: Option<Duration>) -> Pending {
        Pending(self.0.send(operation, deadline))
    }

    /// Submits one operation and waits for its end, which comes at the deadline at the latest.
    pub fn call(&self, operation: &[u8], deadline: Duration) -> Outcome {
        self.0.shared.assert_may_wait();
        self.0.send(operation, Some(deadline)).wait()
    }

    /// Asks all replicas how they are, and waits for their answers or `timeout`. `want_digest`: with a digest of their
    /// state, which each computes at most once in five seconds.
    #[must_use]
    pub fn query_info(&self, timeout: Duration, want_digest: bool) -> Vec<(ReplicaId, Option<Info>)> {
        let shared = &self.0.shared;
        shared.assert_may_wait();
        let answers = Arc::new(InfoAnswers::new(self.0.cluster.n()));
        let until = after(shared.clock.now(), timeout);
        let round = InfoRound { want_digest, until, answers: answers.clone() };
        // A round that is dropped is finished.
        let _ = shared.push(Command::Info(round));
        answers.wait()
    }

    /// What each link is doing.
    #[must_use]
    pub fn links(&self) -> Vec<LinkReport> {
        self.0.shared.links()
    }

    /// What has happened to this client's sessions.
    #[must_use]
    pub fn sessions(&self) -> SessionReport {
        self.0.outlet.history.report()
    }

    /// The session's key: who this client is to the cluster.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.key
    }

    /// Takes no more operations, waits at most `drain` for those that are open, then ends the session: what was not
    /// sent never will be, and nothing of what was sent can execute any more, once the cluster has said so. Where it
    /// does not within another second, operations still open end as unknown.
    pub fn close(self, drain: Duration) {
        let handle = &*self.0;
        handle.shared.assert_may_wait();
        handle.close(drain);
        handle.outlet.wait_end();
        // The last session to end takes the thread with it.
        if handle.shared.is_unused() {
            handle.shared.join();
        }
    }
}

impl Handle {
    fn operation_bytes_max(&self) -> usize {
        self.cluster.params().request_bytes_max as usize - REQUEST_FIXED_BYTES - 4
    }

    /// The time that a deadline, or its lack, comes to for an operation that is submitted `now`.
    fn deadline(&self, now: Nanos, deadline: Option<Duration>) -> Option<Nanos> {
        deadline.or(self.timeout).map(|deadline| after(now, deadline))
    }

    /// Leaves operations with reserved room for the thread: one copy for all.
    fn leave(&self, operations: &[Submit<'_>]) -> Result<(), SubmitError> {
        let now = self.shared.clock.now();
        let mut copy = BytesMut::with_capacity(operations.iter().map(|operation| operation.bytes.len()).sum());
        let take = |operation: &Submit<'_>| {
            match operation.kind {
                OperationKind::Ordered => copy.extend_from_slice(operation.bytes),
            }
            let (bytes, deadline) = (copy.split().freeze(), self.deadline(now, operation.deadline));
            Taken { bytes, deadline, waiter: Waiter::Tag(operation.tag) }
        };
        let operations = operations.iter().map(take).collect();
        let command = Command::Submit { session: self.session, operations };
        self.shared.push(command).map_err(|_| SubmitError::Closed)
    }

    fn send(&self, operation: &[u8], deadline: Option<Duration>) -> Arc<Slot> {
        if operation.len() > self.operation_bytes_max() {
            return Slot::filled_with(never_sent(NotSent::TooLarge));
        }
        match self.outlet.reserve(std::iter::once(operation.len())) {
            Ok(_) => {}
            Err(NoCredit::Full) => return Slot::filled_with(never_sent(NotSent::Overloaded)),
            Err(NoCredit::Closed) => return Slot::filled_with(never_sent(NotSent::Closed)),
        }
        let slot = Arc::<Slot>::default();
        let (bytes, deadline) = (Bytes::copy_from_slice(operation), self.deadline(self.shared.clock.now(), deadline));
        let taken = Taken { bytes, deadline, waiter: Waiter::Slot(slot.clone()) };
        let command = Command::Submit { session: self.session, operations: vec![taken] };
        if let Err(refused) = self.shared.push(command) {
            slot.fill(never_sent(NotSent::Closed));
            drop(refused);
        }
        slot
    }

    fn close(&self, drain: Duration) {
        if self.outlet.shut() {
            // A thread that has ended has ended all of its sessions.
            let _ = self.shared.push(Command::Close { session: self.session, drain });
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

/// One session, before there is a thread.
struct Lane {
    core: ClientCore,
    key: Key,
    outlet: Arc<Outlet>,
}

fn lane(
    config: &ClientConfig,
    index: usize,
    completions: Completions,
    silent: &Arc<OwnedFd>,
) -> Result<Lane, OpenError> {
    let secret = match &config.key {
        Some(key) if index == 0 => key.clone(),
        Some(_) | None => SecretKey::from_entropy(entropy()?),
    };
    let scheme: Arc<dyn Scheme> = Arc::new(Ed25519::new(secret.as_bytes(), entropy()?));
    let certificate = certify(config, scheme.public_key())?;
    let identity = LocalIdentity::client(config.cluster.clone(), scheme.clone(), certificate)?;
    let options = ClientOptions {
        window: config.window,
        operations_per_request: config.operations_per_request,
        certificate,
        // The outlet's credit is the bound.
        queue_operations: usize::MAX,
        queue_bytes: usize::MAX,
    };
    let core = ClientCore::new(config.cluster.clone(), scheme.clone(), options, entropy()?);
    let bytes = config.queue_bytes.max(config.cluster.params().request_bytes_max as usize);
    let outlet = Outlet::new(completions, silent, config.queue_operations.max(1), bytes);
    let outlet = Arc::new(outlet.map_err(system("an event descriptor"))?);
    Ok(Lane { core, key: Key { scheme, certificate, identity }, outlet })
}

/// The certificate that the cluster wants of `client`, signed with the configuration's authority key.
fn certify(config: &ClientConfig, client: PublicKey) -> Result<Option<ClientCertificate>, OpenError> {
    let expected = match config.cluster.admission() {
        Admission::Any => return Ok(None),
        Admission::Certified(expected) => expected,
    };
    let authority = config.authority.as_ref().ok_or(OpenError::NoAuthority)?;
    let found = authority.public_key();
    if found != expected {
        return Err(OpenError::WrongAuthority { found, expected });
    }
    let expires_epoch = Epoch(config.cluster.epoch().0.saturating_add(CERTIFIED_EPOCHS));
    let authority = Ed25519::new(authority.as_bytes(), entropy()?);
    Ok(Some(certify_client(&authority, config.cluster.cluster_id(), client, expires_epoch)?))
}

fn entropy() -> Result<[u8; 32], OpenError> {
    draw().map_err(system("entropy"))
}

/// 32 bytes of the system's entropy.
pub(crate) fn draw() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> OpenError {
    move |error| OpenError::System { what, error }
}
