//! The I/O thread: one for a group of sessions, `bft-net-0`. It takes what handles ask for, drives the links and one
//! [`ClientCore`] for each session, and hands the ends of operations back. Everything that arrived is stepped before a
//! deadline is; operations and answers of one turn leave together.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bft_core::auth::Scheme;
use bft_core::client::{ClientCore, ClientEffects, NotSent, Outcome, Unknown};
use bft_core::config::ClusterConfig;
use bft_core::door::{Answer, LinkState, To};
use bft_core::ids::{Digest, Nanos, ReplicaId, SessionId};
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::wire::message::{ClientCertificate, Info, Message, Reply};
use bft_core::wire::opening::read_opening_results;
use bft_core::wire::request::RequestBounds;
use bft_core::wire::{FrameLimits, encode};
use bft_link::{LocalIdentity, join};
use mio::{Events, Poll, Token};
use slab::Slab;

use crate::client::LinkReport;
use crate::completion::{Completion, Outlet, Waiter};
use crate::config::{ClientConfig, SessionStart};
use crate::inbox::{Command, InfoRound, Shared, Taken, after, never_sent};

mod link;
mod resolve;
mod signals;

use link::{Change, Env, Link};

/// What wakes the thread; links have the tokens below.
const WAKE: Token = Token(usize::MAX);
/// INFO that is not older than this answers a session's question without asking the replica again; and so long another
/// question waits for the answer to the last one.
const INFO_FRESH: u64 = 100 * MILLISECOND;
/// How long the cluster has to say that a session is closed, beyond the time that the caller gave.
const CLOSE_GRACE: u64 = SECOND;
/// Requests of finished operations that the routing table may hold, beside as many as there are sessions' windows.
const ROUTES_SLACK: usize = 4096;

/// A session's key, and how it proves to links that it may be here.
pub(crate) struct Key {
    pub(crate) scheme: Arc<dyn Scheme>,
    pub(crate) certificate: Option<ClientCertificate>,
    pub(crate) identity: LocalIdentity,
}

/// The I/O thread's state.
pub(crate) struct Net {
    shared: Arc<Shared>,
    config: Arc<ClusterConfig>,
    poll: Poll,
    env: Env,
    links: Vec<Link>,
    sessions: Vec<Session>,
    routes: Routes,
    /// When which session is due.
    deadlines: BTreeSet<(Nanos, usize)>,
    desks: Vec<InfoDesk>,
    rounds: Vec<InfoRound>,
    effects: ClientEffects,
    frame: Vec<u8>,
}

/// One session on this thread.
struct Session {
    core: ClientCore,
    key: Key,
    outlet: Arc<Outlet>,
    /// The core's tag of an operation is its place here.
    held: Slab<Held>,
    completions: Vec<Completion>,
    /// Bytes of the operations behind them.
    freed_bytes: usize,
    deadline: Option<Nanos>,
    id: Option<SessionId>,
    /// Something was submitted or answered in this turn.
    is_stirred: bool,
    /// Since when, and until when operations are waited for.
    closing: Option<Closing>,
    has_ended: bool,
}

/// An operation that the core has.
struct Held {
    waiter: Waiter,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Closing {
    drain_until: Nanos,
    /// The core was told; it has until then.
    told: Option<Nanos>,
}

/// Which session an answer is for.
#[derive(Default)]
struct Routes {
    by_session: HashMap<SessionId, usize>,
    /// Requests and openings that are, or were, under way.
    by_request: HashMap<Digest, usize>,
}

/// What one replica said about itself, and which sessions want to know.
#[derive(Default)]
struct InfoDesk {
    last: Option<(Nanos, Info)>,
    waiting: Vec<usize>,
    /// When the question went out that is not answered yet.
    asked: Option<Nanos>,
}

impl Net {
    /// What handles and the thread have in common.
    pub(crate) fn share(config: &ClusterConfig, poll: &Poll, sessions: usize) -> io::Result<Shared> {
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE)?);
        let report = |replica| LinkReport { replica, is_up: false, last_error: String::new() };
        Ok(Shared::new(waker, config.replicas().map(report).collect(), sessions))
    }

    /// Starts the thread.
    pub(crate) fn start(
        poll: Poll,
        shared: &Arc<Shared>,
        client: &ClientConfig,
        lanes: Vec<(ClientCore, Key, Arc<Outlet>)>,
    ) -> io::Result<()> {
        let (config, start) = (&client.cluster, client.session);
        let sessions: Vec<_> = lanes.into_iter().map(|(core, key, outlet)| Session::new(core, key, outlet)).collect();
        let link = |(index, member): (usize, &bft_core::config::Member)| {
            Link::new(ReplicaId(index as u16), &member.address, Token(index))
        };
        let links: Vec<_> = config.members().iter().enumerate().map(link).collect();
        let identity = sessions[0].key.identity.clone();
        let (limits, bounds) = (FrameLimits::new(config), RequestBounds::from(config.params()));
        let env = Env::new(identity, limits, bounds, shared.waker(), poll.registry().try_clone()?);
        let mut net = Self {
            shared: shared.clone(),
            config: config.clone(),
            poll,
            env,
            desks: links.iter().map(|_| InfoDesk::default()).collect(),
            links,
            sessions,
            routes: Routes::default(),
            deadlines: BTreeSet::new(),
            rounds: Vec::new(),
            effects: ClientEffects::default(),
            frame: Vec::new(),
        };
        let thread = signals::spawn("bft-net-0", move || {
            // Whatever happens in there, nobody may wait for ever.
            if catch_unwind(AssertUnwindSafe(|| net.run(start))).is_err() {
                tracing::error!("the client's I/O thread panicked; its sessions end");
            }
            net.end();
        })?;
        shared.set_thread(thread);
        Ok(())
    }

    fn run(&mut self, start: SessionStart) {
        let mut events = Events::with_capacity(64);
        let mut commands = Vec::new();
        let mut received = Vec::new();
        if start == SessionStart::AtOnce {
            let now = self.shared.clock.now();
            (0..self.sessions.len()).for_each(|index| self.step(index, |core, out| core.open(now, out)));
        }
        while self.sessions.iter().any(|session| !session.has_ended) {
            self.wait(&mut events);
            let now = self.shared.clock.now();
            self.shared.take(&mut commands);
            commands.drain(..).for_each(|command| self.obey(now, command));
            for index in 0..self.links.len() {
                self.turn_link(now, index, &mut received);
            }
            self.fire(now);
            self.flush_sessions(now);
            self.flush_links(now);
            self.deliver();
        }
    }

    // ---- waiting -----------------------------------------------------------------------------------------------

    fn wait(&mut self, events: &mut Events) {
        let timeout = if self.links.iter().any(Link::has_more) { Some(Duration::ZERO) } else { self.timeout() };
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            Err(error) => panic!("epoll_wait on our own descriptor: {error}"),
        }
        for event in events.iter().filter(|event| event.token() != WAKE) {
            // Errors and hang-ups show when reading.
            self.links[event.token().0].on_readable();
        }
    }

    /// Until the next deadline of anybody; a bit late rather than a bit early, which would only turn in vain.
    fn timeout(&self) -> Option<Duration> {
        let links = self.links.iter().filter_map(Link::deadline);
        let rounds = self.rounds.iter().map(|round| round.until);
        let closing = self.sessions.iter().filter_map(Session::closing_deadline);
        let sessions = self.deadlines.first().map(|(deadline, _)| *deadline);
        let next = links.chain(rounds).chain(closing).chain(sessions).min()?;
        let ns = next.since(self.shared.clock.now());
        Some(Duration::from_millis(ns.div_ceil(MILLISECOND)))
    }

    // ---- what handles ask for ----------------------------------------------------------------------------------

    fn obey(&mut self, now: Nanos, command: Command) {
        match command {
            Command::Submit { session, operations } => {
                self.sessions[session].is_stirred = true;
                operations.into_iter().for_each(|taken| self.sessions[session].submit(taken));
            }
            Command::Cancel { session, tag } => self.cancel(now, session, tag),
            Command::Close { session, drain } => {
                self.sessions[session].closing = Some(Closing { drain_until: after(now, drain), told: None });
                self.sessions[session].is_stirred = true;
            }
            Command::Info(round) => {
                for link in &mut self.links {
                    ask_info(link, &self.config, &mut self.frame, round.want_digest);
                }
                self.rounds.push(round);
            }
        }
    }

    fn cancel(&mut self, now: Nanos, index: usize, tag: u64) {
        let is_meant = |waiter: &Waiter| matches!(waiter, Waiter::Tag(own) if *own == tag);
        let held = &self.sessions[index].held;
        let places: Vec<_> =
            held.iter().filter(|(_, held)| is_meant(&held.waiter)).map(|(place, _)| place as u64).collect();
        for place in places {
            self.step(index, |core, out| core.cancel(now, place, out));
        }
    }

    // ---- links -------------------------------------------------------------------------------------------------

    fn turn_link(&mut self, now: Nanos, index: usize, received: &mut Vec<Message>) {
        let change = self.links[index].turn(now, &mut self.env, received);
        self.on_change(now, index, &change);
        let from = self.links[index].replica;
        for message in received.drain(..) {
            let answer = Answer::try_from(message).expect("the frame cutter lets nothing else through to a client");
            self.on_answer(now, from, &answer);
        }
    }

    fn on_change(&mut self, now: Nanos, index: usize, change: &Change) {
        self.report(index);
        let state = match change {
            Change::None => return,
            Change::Up(handshake_hash) => {
                self.introduce(index, handshake_hash);
                LinkState::Up
            }
            Change::Down => LinkState::Down,
        };
        self.desks[index].asked = None;
        let replica = self.links[index].replica;
        for session in 0..self.sessions.len() {
            self.step(session, |core, out| core.on_link(now, replica, state, out));
        }
    }

    /// Tells handles what a link is doing, if that is new.
    fn report(&mut self, index: usize) {
        let link = &mut self.links[index];
        if std::mem::take(&mut link.is_news) {
            self.shared.report(index, link.is_up(), &link.last_error);
        }
    }

    /// Brings the keys of the other sessions to a new link, and the questions that are open.
    fn introduce(&mut self, index: usize, handshake_hash: &[u8; 32]) {
        let (link, cluster) = (&mut self.links[index], self.config.cluster_id());
        for session in self.sessions[1..].iter().filter(|session| !session.has_ended) {
            let Key { scheme, certificate, .. } = &session.key;
            let message = Message::ClientJoin(join(&**scheme, *certificate, handshake_hash, cluster));
            self.frame.clear();
            encode(&message, self.config.epoch(), &mut self.frame);
            link.send(&self.frame);
        }
        for round in &self.rounds {
            ask_info(link, &self.config, &mut self.frame, round.want_digest);
        }
    }

    fn flush_links(&mut self, now: Nanos) {
        for index in 0..self.links.len() {
            let change = self.links[index].flush(now);
            if let Change::Down = change {
                self.on_change(now, index, &change);
            }
        }
    }

    // ---- what replicas say -------------------------------------------------------------------------------------

    fn on_answer(&mut self, now: Nanos, from: ReplicaId, answer: &Answer) {
        let to = match answer {
            Answer::Reply(reply) => self.routes.of_reply(reply),
            Answer::Busy(busy) => self.routes.by_request.get(&busy.request).copied(),
            Answer::Info(info) => return self.on_info(now, from, info),
        };
        if let Some(index) = to {
            if let Answer::Busy(_) = answer {
                self.sessions[index].outlet.history.busy.fetch_add(1, Ordering::Relaxed);
            }
            self.sessions[index].is_stirred = true;
            self.step(index, |core, out| core.on_answer(now, from, answer, out));
        }
    }

    fn on_info(&mut self, now: Nanos, from: ReplicaId, info: &Info) {
        if info.replica != from {
            return;
        }
        self.rounds.retain(|round| !round.answers.take(from, info, round.want_digest));
        let desk = &mut self.desks[from.index()];
        desk.last = Some((now, info.clone()));
        desk.asked = None;
        let waiting = std::mem::take(&mut desk.waiting);
        let answer = Answer::Info(Box::new(info.clone()));
        for index in waiting {
            self.step(index, |core, out| core.on_answer(now, from, &answer, out));
        }
    }

    /// A session wants INFO: what is fresh is given at once, the rest is asked for once for all sessions.
    fn want_info(&mut self, now: Nanos, index: usize, to: To) {
        for replica in self.config.replicas() {
            let is_meant = match to {
                To::All => true,
                To::One(one) => one == replica,
            };
            let desk = &mut self.desks[replica.index()];
            if !is_meant {
                continue;
            }
            if let Some((at, info)) = &desk.last
                && now.since(*at) <= INFO_FRESH
            {
                let answer = Answer::Info(Box::new(info.clone()));
                self.step(index, |core, out| core.on_answer(now, replica, &answer, out));
                continue;
            }
            if !desk.waiting.contains(&index) {
                desk.waiting.push(index);
            }
            if desk.asked.is_none_or(|asked| now.since(asked) > INFO_FRESH) {
                desk.asked = Some(now);
                ask_info(&mut self.links[replica.index()], &self.config, &mut self.frame, false);
            }
        }
    }

    // ---- sessions ----------------------------------------------------------------------------------------------

    /// Calls into a core, and does what it wants done.
    fn step(&mut self, index: usize, call: impl FnOnce(&mut ClientCore, &mut ClientEffects)) {
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        call(&mut self.sessions[index].core, &mut effects);
        let mut wants_info = None;
        for (to, message) in effects.send.drain(..) {
            match message {
                Message::InfoQuery { .. } => wants_info = Some(to),
                request => self.send(index, to, &request),
            }
        }
        let session = &mut self.sessions[index];
        effects.done.drain(..).for_each(|(place, outcome)| session.finish(place, outcome));
        self.set_deadline(index, effects.deadline);
        self.routes.follow(index, &mut self.sessions[index]);
        self.effects = effects;
        if let Some(to) = wants_info {
            self.want_info(self.shared.clock.now(), index, to);
        }
    }

    fn send(&mut self, index: usize, to: To, message: &Message) {
        if let Message::Request(request) = message {
            self.routes.by_request.insert(request.entry.digest, index);
        }
        self.frame.clear();
        encode(message, self.config.epoch(), &mut self.frame);
        match to {
            To::All => self.links.iter_mut().for_each(|link| link.send(&self.frame)),
            To::One(replica) => self.links[replica.index()].send(&self.frame),
        }
    }

    fn set_deadline(&mut self, index: usize, deadline: Option<Nanos>) {
        let former = std::mem::replace(&mut self.sessions[index].deadline, deadline);
        if former != deadline {
            former.map(|former| self.deadlines.remove(&(former, index)));
            deadline.map(|deadline| self.deadlines.insert((deadline, index)));
        }
    }

    /// What is due.
    fn fire(&mut self, now: Nanos) {
        let due: Vec<_> = self.deadlines.range(..=(now, usize::MAX)).map(|(_, index)| *index).collect();
        for index in due {
            self.step(index, |core, out| core.on_deadline(now, out));
        }
        for index in 0..self.sessions.len() {
            self.go_on_closing(now, index);
        }
        self.rounds.retain(|round| round.until > now);
    }

    fn flush_sessions(&mut self, now: Nanos) {
        for index in 0..self.sessions.len() {
            if std::mem::take(&mut self.sessions[index].is_stirred) {
                self.step(index, |core, out| core.flush(now, out));
            }
        }
        self.routes.sweep(&self.sessions, &self.config);
    }

    fn go_on_closing(&mut self, now: Nanos, index: usize) {
        let session = &mut self.sessions[index];
        let Some(Closing { drain_until, told }) = session.closing else { return };
        if told.is_none() && (now >= drain_until || session.core.is_idle()) {
            let until = now.max(drain_until).after(CLOSE_GRACE);
            session.closing = Some(Closing { drain_until, told: Some(until) });
            self.step(index, |core, out| core.close(now, out));
        }
        if told.is_some_and(|until| now >= until) {
            self.step(index, |core, out| core.abandon(now, out));
        }
    }

    /// Hands over what ended in this turn.
    fn deliver(&mut self) {
        for session in &mut self.sessions {
            session.deliver();
            if session.core.is_closed() && !session.has_ended {
                assert!(session.held.is_empty(), "a closed core has ended every operation");
                session.has_ended = true;
                session.closing = None;
                self.shared.session_ended();
                session.outlet.end();
            }
        }
    }

    /// The thread is over: in good order, when there is nothing left, or after a panic.
    fn end(&mut self) {
        for command in self.shared.end() {
            if let Command::Submit { session, operations } = command {
                operations.into_iter().for_each(|taken| self.sessions[session].refuse(taken));
            }
        }
        for session in &mut self.sessions {
            for (_, held) in std::mem::take(&mut session.held) {
                session.settle(&held, Outcome::Unknown { reason: Unknown::Closed });
            }
            session.deliver();
            if !session.has_ended {
                self.shared.session_ended();
                session.outlet.end();
            }
        }
        self.rounds.clear();
    }
}

impl Session {
    fn new(core: ClientCore, key: Key, outlet: Arc<Outlet>) -> Self {
        Self {
            core,
            key,
            outlet,
            held: Slab::new(),
            completions: Vec::new(),
            freed_bytes: 0,
            deadline: None,
            id: None,
            is_stirred: false,
            closing: None,
            has_ended: false,
        }
    }

    fn submit(&mut self, taken: Taken) {
        let Taken { bytes, deadline, waiter } = taken;
        let length = bytes.len();
        let place = self.held.insert(Held { waiter, bytes: length });
        // Too long, or too many: neither passes the handle. Only closing may have come between.
        if self.core.submit(bytes, place as u64, deadline).is_err() {
            self.finish(place as u64, never_sent(NotSent::Closed));
        }
    }

    fn refuse(&mut self, taken: Taken) {
        let held = Held { waiter: taken.waiter, bytes: taken.bytes.len() };
        self.settle(&held, never_sent(NotSent::Closed));
    }

    fn finish(&mut self, place: u64, outcome: Outcome) {
        let place = usize::try_from(place).expect("the core gives back the tags that it got");
        let held = self.held.remove(place);
        self.settle(&held, outcome);
    }

    fn settle(&mut self, held: &Held, outcome: Outcome) {
        match &held.waiter {
            Waiter::Tag(tag) => {
                self.freed_bytes += held.bytes;
                self.completions.push(Completion { tag: *tag, outcome });
            }
            Waiter::Slot(slot) => {
                self.outlet.release(1, held.bytes);
                slot.fill(outcome);
            }
        }
    }

    fn deliver(&mut self) {
        if !self.completions.is_empty() {
            self.outlet.release(0, std::mem::take(&mut self.freed_bytes));
            self.outlet.deliver(&mut self.completions);
        }
    }

    fn closing_deadline(&self) -> Option<Nanos> {
        self.closing.map(|closing| closing.told.unwrap_or(closing.drain_until))
    }
}

impl Routes {
    fn of_reply(&self, reply: &Reply) -> Option<usize> {
        if reply.session != SessionId(0) {
            return self.by_session.get(&reply.session).copied();
        }
        let (opening, _) = read_opening_results(reply.results.as_deref()?).ok()?;
        self.by_request.get(&opening).copied()
    }

    /// Keeps up with the session that a core has.
    fn follow(&mut self, index: usize, session: &mut Session) {
        let id = session.core.session();
        if id != session.id {
            let former = std::mem::replace(&mut session.id, id);
            if former.is_some() && session.closing.is_none() {
                session.outlet.history.lost.fetch_add(1, Ordering::Relaxed);
            }
            session.outlet.history.opened.fetch_add(u64::from(id.is_some()), Ordering::Relaxed);
            former.map(|former| self.by_session.remove(&former));
            id.map(|id| self.by_session.insert(id, index));
        }
    }

    /// Forgets Requests that are no longer under way, when these are the most.
    fn sweep(&mut self, sessions: &[Session], config: &ClusterConfig) {
        let window = usize::try_from(config.params().client_window).expect("at most CLIENT_WINDOW_MAX");
        if self.by_request.len() > 2 * sessions.len() * window + ROUTES_SLACK {
            self.by_request.retain(|request, index| sessions[*index].core.is_under_way(*request));
        }
    }
}

/// Asks one replica for INFO.
fn ask_info(link: &mut Link, config: &ClusterConfig, frame: &mut Vec<u8>, want_digest: bool) {
    frame.clear();
    encode(&Message::InfoQuery { want_digest }, config.epoch(), frame);
    link.send(frame);
}
