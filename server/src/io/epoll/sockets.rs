//! The sockets of one executor: accepted, dialled, read, written, and handed to the executor where they belong. The links
//! themselves are the shard's.
//!
//! Kept here: each socket is read once in a turn, replicas before clients, so that a deadline that has come finds
//! everything taken that had arrived (V16), and nobody's bytes keep others waiting; the kernel tells once that there is
//! something, so what has not been read to its end stays in a list.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use bft_core::ids::{LinkId, Nanos};
use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::dial::Dial;
use super::socket::Socket;
use crate::clock;
use crate::error::ServerError;
use crate::io::host::Local;
use crate::io::mesh::{Inbox, Place};
use crate::io::{ACCEPT_RETRY, CLIENT_READ_BYTES, READ_BYTES, TICK, WRITE_BYTES};
use crate::shard::{Origin, Shard, ShardSetup};

/// What the kernel tells at a time; the rest is told next.
const EVENTS: usize = 1024;
/// Connections accepted in a turn: handshakes cost.
const ACCEPTS_PER_TURN: usize = 64;
/// Under which the kernel tells of the bell and of the listener. Links are told of by their ids, which begin with the
/// number of their shard: they never come near.
const BELL: Token = Token(usize::MAX);
const DOOR: Token = Token(usize::MAX - 1);
/// Of the first dialled replica; the next ones go downwards.
const DIAL: usize = usize::MAX - 2;

const _: () = assert!(size_of::<usize>() == size_of::<u64>(), "a token holds a link's id");

/// Whether what is read finds room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Some,
    /// The queue to the core is full: whoever makes room rings the bell.
    None,
}

/// The sockets of one executor, and the shard whose links they carry.
pub struct Sockets {
    poll: Poll,
    events: Events,
    shard: Shard,
    setup: ShardSetup,
    inboxes: Vec<Arc<Inbox>>,
    door: Option<Door>,
    dials: Vec<Dial>,
    sockets: BTreeMap<LinkId, Socket>,
    /// Those that may have something to read.
    readable: Vec<LinkId>,
    buffer: Vec<u8>,
    is_turn_due: bool,
    tick_at: Nanos,
}

/// Where others connect.
struct Door {
    listener: TcpListener,
    /// Somebody may wait there.
    is_ready: bool,
    /// When the door is looked at whatever the kernel says.
    retry_at: Option<Nanos>,
}

impl Sockets {
    /// Listens, and dials whom this side is to dial.
    pub fn open(place: Place, listener: Option<StdListener>) -> Result<Self, ServerError> {
        let Place { pin: _, setup, counters, inboxes } = place;
        let failed = |error: io::Error| ServerError::Executor(error.to_string());
        let poll = Poll::new().map_err(failed)?;
        let bell = inboxes[usize::from(setup.index)].bell.clone();
        let event = bell.event().as_raw_fd();
        poll.registry().register(&mut SourceFd(&event), BELL, Interest::READABLE).map_err(failed)?;
        let door = listener.map(|listener| Door::open(listener, &poll)).transpose().map_err(ServerError::Listener)?;
        let (me, shards, index) = (setup.me, setup.shards, setup.index);
        // One link for each pair: the lower id dials.
        let dialled = setup.config.replicas().filter(|peer| me < *peer && peer.0 % shards == index);
        let dial = |(place, peer)| {
            let address = setup.config.member(peer).expect("a member of the configuration").address.clone();
            Dial::new(peer, address, Token(DIAL - place))
        };
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            shard: Shard::new(setup.clone(), counters),
            dials: dialled.enumerate().map(dial).collect(),
            inboxes,
            door,
            sockets: BTreeMap::new(),
            readable: Vec::new(),
            buffer: vec![0; READ_BYTES],
            is_turn_due: false,
            tick_at: Nanos(0),
            setup,
        })
    }

    /// Until there is something for a turn to do, or `most` has passed; then every socket that has something is read once.
    pub fn wait(&mut self, most: Option<Duration>, room: Room) -> Result<(), ServerError> {
        let timeout = self.timeout(most, room);
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(ServerError::Executor(format!("epoll_wait: {error}")));
            }
            Ok(()) | Err(_) => {}
        }
        self.is_turn_due = false;
        let now = clock::now().mono;
        self.take_events();
        self.accept(now);
        self.dial(now);
        if room == Room::Some {
            self.read(now);
        }
        if now >= self.tick_at {
            self.shard.tick(now);
            self.tick_at = now.after(TICK);
        }
        Ok(())
    }

    fn timeout(&self, most: Option<Duration>, room: Room) -> Duration {
        let has_more = !self.readable.is_empty() && room == Room::Some;
        if self.is_turn_due || has_more || self.door.as_ref().is_some_and(|door| door.is_ready) {
            return Duration::ZERO;
        }
        let retry = self.door.as_ref().and_then(|door| door.retry_at);
        let dials = self.dials.iter().filter_map(Dial::deadline);
        let first = dials.chain(retry).fold(self.tick_at, Nanos::min);
        let wait = Duration::from_nanos(first.since(clock::now().mono));
        most.map_or(wait, |most| most.min(wait))
    }

    fn take_events(&mut self) {
        let mut writable = Vec::new();
        for event in &self.events {
            match event.token() {
                BELL => self.inbox().bell.heard(),
                DOOR => self.door.iter_mut().for_each(|door| door.is_ready = true),
                // A dialled connection: each of those is looked at in every turn.
                token if token.0 > DIAL - self.dials.len() => {}
                token => {
                    let link = LinkId(token.0 as u64);
                    let Some(socket) = self.sockets.get_mut(&link) else { continue };
                    socket.is_closing |= event.is_read_closed() || event.is_error();
                    if (event.is_readable() || socket.is_closing) && !socket.is_readable {
                        socket.is_readable = true;
                        self.readable.push(link);
                    }
                    if event.is_writable() && socket.is_full {
                        socket.is_full = false;
                        writable.push(link);
                    }
                }
            }
        }
        writable.into_iter().for_each(|link| self.write(link));
    }

    fn inbox(&self) -> &Inbox {
        &self.inboxes[usize::from(self.setup.index)]
    }

    fn accept(&mut self, now: Nanos) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(stream) = self.door.as_mut().and_then(|door| door.next(now)) else { return };
            // Whoever is gone again, or is turned away, finds the connection closed.
            let Ok(address) = stream.peer_addr() else { continue };
            let Ok(socket) = Socket::new(stream, None) else { continue };
            let origin = Origin::Accepted(address.ip());
            if let Ok(link) = self.shard.connected(now, origin, crate::entropy()) {
                self.serve(now, link, socket);
            }
        }
    }

    fn dial(&mut self, now: Nanos) {
        for place in 0..self.dials.len() {
            let bell = self.inbox().bell.clone();
            let dial = &mut self.dials[place];
            let Some(stream) = dial.turn(now, self.poll.registry(), &bell) else { continue };
            let peer = dial.peer;
            let Ok(socket) = Socket::new(stream, Some(peer)) else {
                dial.lost(now);
                continue;
            };
            let link = self.shard.connected(now, Origin::Dialled(peer), crate::entropy());
            self.serve(now, link.expect("who is dialled is never turned away"), socket);
        }
    }

    fn serve(&mut self, now: Nanos, link: LinkId, mut socket: Socket) {
        let registered = socket.register(self.poll.registry(), Token(link.0 as usize));
        self.sockets.insert(link, socket);
        if registered.is_err() {
            self.shard.ended(now, link);
        }
    }

    fn read(&mut self, now: Nanos) {
        let mut readable = std::mem::take(&mut self.readable);
        readable.sort_by_key(|link| self.shard.is_client(*link));
        let (mut denied, mut more) = (Vec::new(), Vec::new());
        for link in readable {
            match self.read_link(now, link) {
                Read::All => {}
                Read::More => more.push(link),
                Read::Denied => denied.push(link),
            }
        }
        // Who had no turn has the next one first.
        denied.append(&mut more);
        self.readable = denied;
    }

    fn read_link(&mut self, now: Nanos, link: LinkId) -> Read {
        let Some(socket) = self.sockets.get_mut(&link) else { return Read::All };
        if !self.shard.may_read(link) {
            return Read::Denied;
        }
        let most = if self.shard.is_client(link) { CLIENT_READ_BYTES } else { READ_BYTES };
        let count = match socket.read(&mut self.buffer[..most]) {
            Ok(count @ 1..) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.is_readable = false;
                return Read::All;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Read::More,
            Ok(0) | Err(_) => {
                self.shard.ended(now, link);
                return Read::All;
            }
        };
        // Less than was asked for is all there was, but for the end.
        let has_more = count == most || socket.is_closing;
        socket.is_readable = has_more;
        self.shard.received(now, link, &self.buffer[..count]);
        self.hand_over(link);
        if has_more { Read::More } else { Read::All }
    }

    /// A link whose handshake has just finished may belong to another executor.
    fn hand_over(&mut self, link: LinkId) {
        let Some(handover) = self.shard.handovers().next() else { return };
        assert_eq!(handover.link, link, "a link is handed over when its handshake has just finished");
        let socket = self.sockets.remove(&link).expect("it was just read from");
        if let Ok(connection) = socket.into_connection(self.poll.registry()) {
            self.inboxes[usize::from(handover.shard)].hand_over(connection, handover);
        }
    }

    fn write(&mut self, link: LinkId) {
        let Some(socket) = self.sockets.get_mut(&link) else { return };
        while !socket.is_full {
            if socket.rest().is_empty() {
                self.shard.write(link, socket.rest(), WRITE_BYTES);
            }
            if socket.rest().is_empty() {
                return;
            }
            if socket.write().is_err() {
                self.shard.ended(clock::now().mono, link);
                self.is_turn_due = true;
                return;
            }
        }
    }
}

/// What reading a socket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// There is no more for now.
    All,
    /// There may be more; others are read first.
    More,
    /// It was not its turn.
    Denied,
}

impl Local for Sockets {
    fn with_shard<T>(&mut self, act: impl FnOnce(&mut Shard) -> T) -> T {
        act(&mut self.shard)
    }

    fn adopt(&mut self, now: Nanos) {
        for (connection, handover) in self.inbox().links() {
            let Ok(socket) = Socket::adopt(connection) else { continue };
            let link = self.shard.adopt(now, handover);
            self.serve(now, link, socket);
        }
    }

    fn flush(&mut self) {
        loop {
            let dirty = self.shard.dirty();
            if dirty.is_empty() {
                break;
            }
            for link in dirty {
                self.write(link);
            }
        }
        for link in self.shard.closed() {
            let Some(socket) = self.sockets.remove(&link) else { continue };
            let dialled = socket.dialled;
            if let Some(dial) = self.dials.iter_mut().find(|dial| Some(dial.peer) == dialled) {
                dial.lost(clock::now().mono);
            }
        }
    }

    fn has_output(&self) -> bool {
        self.shard.has_output() || self.sockets.values().any(|socket| socket.is_full)
    }

    fn turn_soon(&mut self) {
        self.is_turn_due = true;
    }
}

impl Door {
    fn open(listener: StdListener, poll: &Poll) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        poll.registry().register(&mut listener, DOOR, Interest::READABLE)?;
        Ok(Self { listener, is_ready: false, retry_at: None })
    }

    /// Who waits at the door.
    fn next(&mut self, now: Nanos) -> Option<TcpStream> {
        if self.retry_at.is_some_and(|at| now >= at) {
            (self.is_ready, self.retry_at) = (true, None);
        }
        if !self.is_ready {
            return None;
        }
        match self.listener.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                self.retry_at = Some(now.after(ACCEPT_RETRY));
            }
        }
        self.is_ready = false;
        None
    }
}
