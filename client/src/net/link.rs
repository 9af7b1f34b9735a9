//! The link to one replica: connect, handshake, sealed frames, and all of it again for ever when it breaks, with pauses
//! that grow and are never quite the same. Knows nothing of sessions.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bft_core::ids::{Nanos, ReplicaId};
use bft_core::limits::{HANDSHAKE_TIMEOUT, MILLISECOND, SECOND, SEND_QUEUE_BYTES_PER_PEER};
use bft_core::wire::message::Message;
use bft_core::wire::request::RequestBounds;
use bft_core::wire::{DecodeError, FrameCutter, FrameError, FrameLimits, PeerRole, decode};
use bft_link::{Channel, Handshake, LinkError, LocalIdentity};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::resolve::{Lookup, Resolved, resolve};
use crate::client::draw;

/// The first pause after a link broke or did not come about; doubled up to the last.
const PAUSE_FIRST: u64 = 50 * MILLISECOND;
const PAUSE_LAST: u64 = 2 * SECOND;
/// A link that was up for this long was a good one: the next pause is the first again.
const GOOD_AFTER: u64 = 5 * SECOND;
/// Bytes read in one go, and how many of these a link has before the others get their turn.
const READ_BYTES: usize = 64 << 10;
const READS_PER_TURN: usize = 16;
/// Sealed bytes that wait for the socket before more is sealed.
const SEALED_BYTES_MAX: usize = 1 << 20;

/// What links share.
pub(super) struct Env {
    pub(super) identity: LocalIdentity,
    pub(super) limits: FrameLimits,
    pub(super) bounds: RequestBounds,
    pub(super) waker: Arc<mio::Waker>,
    pub(super) registry: Registry,
    pub(super) read_buffer: Vec<u8>,
    pub(super) plaintext: Vec<u8>,
}

impl Env {
    pub(super) fn new(
        identity: LocalIdentity,
        limits: FrameLimits,
        bounds: RequestBounds,
        waker: Arc<mio::Waker>,
        registry: Registry,
    ) -> Self {
        Self { identity, limits, bounds, waker, registry, read_buffer: vec![0; READ_BYTES], plaintext: Vec::new() }
    }
}

/// Why a link is not up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("cannot resolve {address}: {error}")]
    Resolve { address: String, error: io::Error },
    #[error("{address} resolves to no address")]
    NoAddress { address: String },
    #[error("cannot connect to {at}: {error}")]
    Connect { at: SocketAddr, error: io::Error },
    #[error("no link after {} s: {what}", HANDSHAKE_TIMEOUT / SECOND)]
    Slow { what: String },
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("the replica closed the connection{}", .0.as_ref().map_or(String::new(), |error| format!(": {error}")))]
    Closed(Option<LinkError>),
    #[error("the link is refused: {0}")]
    Refused(#[from] LinkError),
    #[error("the replica sent a malformed frame: {0}")]
    Frame(#[from] FrameError),
    #[error("the replica sent a malformed message: {0}")]
    Message(#[from] DecodeError),
}

/// What became of a link in a turn.
#[derive(Debug)]
pub(super) enum Change {
    None,
    /// It is up; what CLIENT-JOINs on it sign.
    Up([u8; 32]),
    /// It was up and is not.
    Down,
}

enum State {
    Pausing { until: Nanos },
    Resolving { lookup: Lookup, until: Nanos },
    Connecting { stream: TcpStream, at: SocketAddr, until: Nanos },
    Handshaking { wire: Wire, handshake: Box<Handshake>, until: Nanos },
    Up { wire: Wire, channel: Box<Channel>, cutter: Box<FrameCutter>, since: Nanos },
}

/// A connected socket and what waits to go into it.
struct Wire {
    stream: TcpStream,
    /// Sealed; sent up to `written`.
    sealed: Vec<u8>,
    written: usize,
    /// Whether reading may give something: edges are reported once.
    is_readable: bool,
}

pub(super) struct Link {
    pub(super) replica: ReplicaId,
    address: String,
    token: Token,
    state: State,
    /// Frames that wait to be sealed.
    frames: Vec<u8>,
    /// Connections in a row that came to nothing.
    failures: u32,
    /// Why the link is not up, or last was not.
    pub(super) last_error: String,
    /// Whether the link came up or broke since somebody looked.
    pub(super) is_news: bool,
}

impl Link {
    pub(super) fn new(replica: ReplicaId, address: &str, token: Token) -> Self {
        let state = State::Pausing { until: Nanos(0) };
        let (address, frames) = (address.to_owned(), Vec::new());
        Self { replica, address, token, state, frames, failures: 0, last_error: String::new(), is_news: false }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Leaves a frame to be sent. Dropped where the link is not up or does not keep up: whoever made it makes it again.
    pub(super) fn send(&mut self, frame: &[u8]) {
        if let State::Up { wire, .. } = &self.state
            && self.frames.len() + wire.waiting() + frame.len() <= SEND_QUEUE_BYTES_PER_PEER
        {
            self.frames.extend_from_slice(frame);
        }
    }

    /// The socket may have something to read.
    pub(super) fn on_readable(&mut self) {
        match &mut self.state {
            State::Handshaking { wire, .. } | State::Up { wire, .. } => wire.is_readable = true,
            State::Pausing { .. } | State::Resolving { .. } | State::Connecting { .. } => {}
        }
    }

    /// Whether a turn would do something although no event comes.
    pub(super) fn has_more(&self) -> bool {
        match &self.state {
            State::Handshaking { wire, .. } | State::Up { wire, .. } => wire.is_readable,
            State::Pausing { .. } | State::Resolving { .. } | State::Connecting { .. } => false,
        }
    }

    /// When a turn is due.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        match &self.state {
            State::Pausing { until }
            | State::Resolving { until, .. }
            | State::Connecting { until, .. }
            | State::Handshaking { until, .. } => Some(*until),
            State::Up { .. } => None,
        }
    }

    /// Does what can be done now; messages that came in are appended to `received`.
    pub(super) fn turn(&mut self, now: Nanos, env: &mut Env, received: &mut Vec<Message>) -> Change {
        let was_up = self.is_up();
        match self.advance(now, env, received) {
            Ok(Some(handshake_hash)) => Change::Up(handshake_hash),
            Ok(None) => Change::None,
            Err(broken) => {
                self.fail(now, &broken);
                if was_up { Change::Down } else { Change::None }
            }
        }
    }

    /// Seals what waits and sends as much as the socket takes.
    pub(super) fn flush(&mut self, now: Nanos) -> Change {
        let State::Up { wire, channel, .. } = &mut self.state else { return Change::None };
        let sent = loop {
            if !self.frames.is_empty() && wire.waiting() < SEALED_BYTES_MAX {
                wire.sealed.drain(..std::mem::take(&mut wire.written));
                channel.seal(&self.frames, &mut wire.sealed);
                self.frames.clear();
            }
            match wire.write() {
                Ok(()) if !self.frames.is_empty() && wire.waiting() == 0 => {}
                other => break other,
            }
        };
        match sent {
            Ok(()) => Change::None,
            Err(error) => {
                self.fail(now, &Broken::Io(error));
                Change::Down
            }
        }
    }

    fn advance(&mut self, now: Nanos, env: &mut Env, received: &mut Vec<Message>) -> Result<Option<[u8; 32]>, Broken> {
        match &mut self.state {
            State::Pausing { until } if now < *until => Ok(None),
            State::Pausing { .. } => self.resolve(now, env),
            State::Resolving { lookup, until } => match lookup.answer() {
                Some(Ok(found)) => self.connect(now, env, &found),
                Some(Err(error)) => Err(Broken::Resolve { address: self.address.clone(), error }),
                None if now >= *until => Err(Broken::Slow { what: format!("{} is being resolved", self.address) }),
                None => Ok(None),
            },
            State::Connecting { stream, at, until } => match connected(stream) {
                Ok(true) => self.begin_handshake(now, env),
                Ok(false) if now >= *until => Err(Broken::Slow { what: format!("{at} does not answer") }),
                Ok(false) => Ok(None),
                Err(error) => Err(Broken::Connect { at: *at, error }),
            },
            State::Handshaking { .. } => self.shake(now, env, received),
            State::Up { wire, channel, cutter, .. } => {
                read_frames(wire, channel, cutter, env, received)?;
                Ok(None)
            }
        }
    }

    fn resolve(&mut self, now: Nanos, env: &mut Env) -> Result<Option<[u8; 32]>, Broken> {
        let until = now.after(HANDSHAKE_TIMEOUT);
        match resolve(&self.address, &env.waker) {
            Ok(Resolved::At(found)) => self.connect(now, env, &found),
            Ok(Resolved::Later(lookup)) => {
                self.state = State::Resolving { lookup, until };
                Ok(None)
            }
            Err(error) => Err(Broken::Resolve { address: self.address.clone(), error }),
        }
    }

    /// Connects to one of the addresses: another one after each failure.
    fn connect(&mut self, now: Nanos, env: &mut Env, found: &[SocketAddr]) -> Result<Option<[u8; 32]>, Broken> {
        if found.is_empty() {
            return Err(Broken::NoAddress { address: self.address.clone() });
        }
        let at = found[self.failures as usize % found.len()];
        let mut stream = TcpStream::connect(at).map_err(|error| Broken::Connect { at, error })?;
        env.registry.register(&mut stream, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.state = State::Connecting { stream, at, until: now.after(HANDSHAKE_TIMEOUT) };
        Ok(None)
    }

    fn begin_handshake(&mut self, now: Nanos, env: &mut Env) -> Result<Option<[u8; 32]>, Broken> {
        let State::Connecting { stream, at, until } = std::mem::replace(&mut self.state, State::Pausing { until: now })
        else {
            unreachable!("called while connecting");
        };
        prepare(&stream).map_err(|error| Broken::Connect { at, error })?;
        let handshake = Box::new(Handshake::connect(env.identity.clone(), self.replica, draw()?));
        let wire = Wire { stream, sealed: Vec::new(), written: 0, is_readable: true };
        self.state = State::Handshaking { wire, handshake, until };
        self.shake(now, env, &mut Vec::new())
    }

    fn shake(&mut self, now: Nanos, env: &mut Env, received: &mut Vec<Message>) -> Result<Option<[u8; 32]>, Broken> {
        let State::Handshaking { wire, handshake, until } = &mut self.state else {
            unreachable!("called while shaking hands");
        };
        let mut rest: &[u8] = &[];
        loop {
            wire.sealed.extend_from_slice(&handshake.take_output());
            wire.write()?;
            if let Some((peer, channel)) = handshake.finished() {
                let early = rest.to_vec();
                return self.come_up(now, channel, peer.handshake_hash, &early, env, received);
            }
            let Some(count) = wire.read(&mut env.read_buffer)? else { break };
            if count == 0 {
                return Err(Broken::Closed(handshake.closed().err()));
            }
            rest = &env.read_buffer[..count];
            handshake.feed(&mut rest)?;
        }
        if now >= *until {
            let what = handshake.closed().err().map_or(String::new(), |error| error.to_string());
            return Err(Broken::Slow { what });
        }
        Ok(None)
    }

    fn come_up(
        &mut self,
        now: Nanos,
        channel: Channel,
        handshake_hash: [u8; 32],
        early: &[u8],
        env: &mut Env,
        received: &mut Vec<Message>,
    ) -> Result<Option<[u8; 32]>, Broken> {
        let State::Handshaking { wire, .. } = std::mem::replace(&mut self.state, State::Pausing { until: now }) else {
            unreachable!("called while shaking hands");
        };
        let (mut channel, mut cutter) = (Box::new(channel), Box::new(FrameCutter::new(PeerRole::Server, env.limits)));
        open_frames(early, &mut channel, &mut cutter, env, received)?;
        self.frames.clear();
        self.state = State::Up { wire, channel, cutter, since: now };
        self.is_news = true;
        tracing::debug!(replica = %self.replica, "link up");
        Ok(Some(handshake_hash))
    }

    /// Drops the connection, and pauses before the next one.
    fn fail(&mut self, now: Nanos, broken: &Broken) {
        if let State::Up { since, .. } = &self.state
            && now.since(*since) >= GOOD_AFTER
        {
            self.failures = 0;
        }
        let text = broken.to_string();
        // Said once for each new reason; a cluster that is down would say it for ever.
        if text == self.last_error {
            tracing::debug!(replica = %self.replica, "{text}");
        } else {
            tracing::warn!(replica = %self.replica, "{text}");
        }
        self.last_error = text;
        self.is_news = true;
        self.frames.clear();
        let pause = (PAUSE_FIRST << self.failures.min(8)).min(PAUSE_LAST);
        self.failures += 1;
        self.state = State::Pausing { until: now.after(jittered(pause)) };
    }
}

impl Wire {
    fn waiting(&self) -> usize {
        self.sealed.len() - self.written
    }

    /// Sends as much as the socket takes.
    fn write(&mut self) -> io::Result<()> {
        while self.waiting() > 0 {
            match self.stream.write(&self.sealed[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sealed.clear();
        self.written = 0;
        Ok(())
    }

    /// `None`: nothing is there now. `Some(0)`: nothing will come any more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if !self.is_readable {
            return Ok(None);
        }
        loop {
            match self.stream.read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Reads what is there, up to a turn's share.
fn read_frames(
    wire: &mut Wire,
    channel: &mut Channel,
    cutter: &mut FrameCutter,
    env: &mut Env,
    received: &mut Vec<Message>,
) -> Result<(), Broken> {
    for _ in 0..READS_PER_TURN {
        let mut buffer = std::mem::take(&mut env.read_buffer);
        let read = wire.read(&mut buffer);
        let opened = match &read {
            Ok(Some(count)) if *count > 0 => open_frames(&buffer[..*count], channel, cutter, env, received),
            Ok(_) | Err(_) => Ok(()),
        };
        env.read_buffer = buffer;
        opened?;
        match read? {
            None => break,
            Some(0) => return Err(Broken::Closed(channel.closed().err())),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Sealed bytes to messages.
fn open_frames(
    sealed: &[u8],
    channel: &mut Channel,
    cutter: &mut FrameCutter,
    env: &mut Env,
    received: &mut Vec<Message>,
) -> Result<(), Broken> {
    env.plaintext.clear();
    channel.open(sealed, &mut env.plaintext)?;
    cutter.push(&env.plaintext);
    while let Some((header, payload)) = cutter.next()? {
        received.push(decode(header.kind, &payload, env.bounds)?);
    }
    Ok(())
}

/// Whether a connection has come about.
fn connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Small frames leave at once, and a peer that vanished is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let alive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
    socket2::SockRef::from(stream).set_tcp_keepalive(&alive)
}

/// Three quarters to five quarters of `pause`: many clients do not come back all at once.
fn jittered(pause: u64) -> u64 {
    let mut chance = [0; 2];
    // Without entropy the pause is merely not jittered.
    let chance = getrandom::fill(&mut chance).map_or(1 << 15, |()| u64::from(u16::from_le_bytes(chance)));
    pause * 3 / 4 + pause / 2 * chance / (1 << 16)
}
