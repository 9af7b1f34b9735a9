//! Between executors: bounded queues with one producer each, for arrivals on their way to the core and for frames and
//! answers on their way back; and inboxes for what is seldom (links that belong elsewhere, the end). Which driver runs the
//! executors makes no difference here.
//!
//! Kept here: a full queue to the core stops the reading of that shard's sockets until there is room; whoever puts
//! something into a queue rings the other's bell after it; an executor that ends, also in a panic, is noticed by both sides.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bft_core::door::{Answer, Lane, To};
use bft_core::ids::{LinkId, Nanos};
use bytes::Bytes;

use super::{Driver, epoll, uring};
use crate::Pin;
use crate::counters::ShardCounters;
use crate::error::ServerError;
use crate::io::doorbell::Doorbell;
use crate::shard::{Arrival, Handover, Shard, ShardSetup};

/// Arrivals on their way from a shard to the core. A full queue stops the reading of that shard's sockets.
const ARRIVALS_MAX: usize = 4096;
/// Frames and answers on their way from the core to a shard.
const DISPATCHES_MAX: usize = 16 * 1024;

/// What the core has for a shard on another executor.
pub enum Dispatch {
    /// To be sent.
    Frame {
        /// To whom.
        to: To,
        /// In which lane.
        lane: Lane,
        /// What.
        frame: Bytes,
    },
    /// To be answered.
    Answer {
        /// Over which link.
        link: LinkId,
        /// What.
        answer: Answer,
    },
    /// No Requests are taken from now on.
    StopAdmitting,
}

/// What others leave for an executor, beside its queues. Not on the way of a request.
pub struct Inbox {
    /// The executor's.
    pub bell: Arc<Doorbell>,
    links: Mutex<Vec<(OwnedFd, Handover)>>,
    is_stopping: AtomicBool,
    /// The shard's queue to the core was full: it wants to hear when there is room.
    is_starved: AtomicBool,
}

impl Inbox {
    /// An empty one.
    pub fn new(bell: Arc<Doorbell>) -> Arc<Self> {
        let (links, is_stopping) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { bell, links, is_stopping, is_starved: AtomicBool::new(false) })
    }

    /// Leaves an established link, with its connection.
    pub fn hand_over(&self, connection: OwnedFd, handover: Handover) {
        self.links.lock().expect("nobody panics while holding it").push((connection, handover));
        self.bell.ring();
    }

    /// Links that others have brought up.
    pub fn links(&self) -> Vec<(OwnedFd, Handover)> {
        std::mem::take(&mut self.links.lock().expect("nobody panics while holding it"))
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.bell.ring();
    }
}

/// Where a shard's executor runs, and what it is.
pub struct Place {
    /// Whether it stays on its core.
    pub pin: Pin,
    /// What the shard needs to know.
    pub setup: ShardSetup,
    /// Where it counts.
    pub counters: Arc<ShardCounters>,
    /// Those of all executors.
    pub inboxes: Vec<Arc<Inbox>>,
}

impl Place {
    /// The executor's own.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inboxes[usize::from(self.setup.index)]
    }
}

/// The other end of a shard on another executor, as the core has it. Dropped, it tells the shard to end.
pub struct RemoteShard {
    inbox: Arc<Inbox>,
    arrivals: rtrb::Consumer<Arrival>,
    dispatches: rtrb::Producer<Dispatch>,
    /// What must not be lost when the queue is full.
    urgent: VecDeque<Dispatch>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl RemoteShard {
    /// Takes arrivals until they have brought `most` Requests; gives how many those were.
    pub fn take(&mut self, most: usize, mut act: impl FnMut(Arrival)) -> Result<usize, ServerError> {
        let (mut has_made_room, mut requests) = (false, 0);
        while requests < most
            && let Ok(arrival) = self.arrivals.pop()
        {
            requests += arrival.requests();
            act(arrival);
            has_made_room = true;
        }
        if has_made_room && self.inbox.is_starved.swap(false, Ordering::SeqCst) {
            self.inbox.bell.ring();
        }
        if self.arrivals.is_abandoned() {
            return Err(self.join().err().unwrap_or(ServerError::ThreadEnded("shard")));
        }
        Ok(requests)
    }

    /// Queues something. False: it was dropped, because the queue is full; what is in the lane of Control waits instead.
    pub fn dispatch(&mut self, dispatch: Dispatch, lane: Lane) -> bool {
        let Err(rtrb::PushError::Full(dispatch)) = self.dispatches.push(dispatch) else { return true };
        match lane {
            Lane::Control => self.urgent.push_back(dispatch),
            Lane::Ordering | Lane::Bulk => return false,
        }
        true
    }

    /// Wakes the shard if anything waits for it.
    pub fn flush(&mut self) {
        push_all(&mut self.urgent, &mut self.dispatches);
        if self.dispatches.slots() < DISPATCHES_MAX {
            self.inbox.bell.ring();
        }
    }

    /// Tells the shard to end.
    pub fn stop(&self) {
        self.inbox.stop();
    }

    /// Waits until the shard has ended.
    pub fn join(&mut self) -> Result<(), ServerError> {
        match self.thread.take() {
            None => Ok(()),
            Some(thread) => thread.join().unwrap_or(Err(ServerError::ThreadEnded("shard"))),
        }
    }
}

impl Drop for RemoteShard {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The core's end, as the shard has it.
pub struct ToCore {
    inbox: Arc<Inbox>,
    bell: Arc<Doorbell>,
    arrivals: rtrb::Producer<Arrival>,
    dispatches: rtrb::Consumer<Dispatch>,
    /// What the queue to the core had no room for: nothing is read meanwhile.
    waiting: VecDeque<Arrival>,
    /// Behind the queues: whoever hears it finds them abandoned.
    _at_end: RingAtEnd,
}

impl ToCore {
    /// A turn of the shard: takes what the core has for it, and hands over what has arrived.
    pub fn exchange(&mut self, now: Nanos, shard: &mut Shard) {
        while let Ok(dispatch) = self.dispatches.pop() {
            match dispatch {
                Dispatch::Frame { to, lane, frame } => shard.send(now, to, lane, frame),
                Dispatch::Answer { link, answer } => shard.answer(now, link, answer),
                Dispatch::StopAdmitting => shard.stop_admitting(),
            }
        }
        shard.finish_turn(now);
        self.waiting.extend(shard.arrivals());
        self.push_arrivals();
    }

    /// Whether the queue to the core is full: then no socket is read.
    pub fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the shard is to end.
    pub fn is_over(&self) -> bool {
        self.inbox.is_stopping.load(Ordering::Acquire) || self.dispatches.is_abandoned()
    }

    fn push_arrivals(&mut self) {
        let before = self.waiting.len();
        push_all(&mut self.waiting, &mut self.arrivals);
        if !self.waiting.is_empty() {
            self.inbox.is_starved.store(true, Ordering::SeqCst);
            // The core may have made room just before it could see the flag.
            push_all(&mut self.waiting, &mut self.arrivals);
        }
        if self.waiting.len() < before {
            self.bell.ring();
        }
    }
}

/// Starts a shard on an executor of its own.
pub fn start_shard(driver: Driver, place: Place, listener: Option<TcpListener>) -> RemoteShard {
    let (arrivals, from_shard) = rtrb::RingBuffer::new(ARRIVALS_MAX);
    let (to_shard, dispatches) = rtrb::RingBuffer::new(DISPATCHES_MAX);
    let (inbox, bell) = (place.inbox().clone(), place.inboxes[0].bell.clone());
    let at_end = RingAtEnd(bell.clone());
    let waiting = VecDeque::new();
    let core = ToCore { inbox: inbox.clone(), bell, arrivals, dispatches, waiting, _at_end: at_end };
    let thread = std::thread::Builder::new().name(format!("bft-shard-{}", place.setup.index));
    let thread = thread.spawn(move || match driver {
        Driver::Uring => uring::run_shard(place, listener, core),
        Driver::Epoll => epoll::run_shard(place, listener, core),
    });
    let thread = Some(thread.expect("the system has threads left"));
    RemoteShard { inbox, arrivals: from_shard, dispatches: to_shard, urgent: VecDeque::new(), thread }
}

fn push_all<T>(waiting: &mut VecDeque<T>, queue: &mut rtrb::Producer<T>) {
    while let Some(first) = waiting.pop_front() {
        if let Err(rtrb::PushError::Full(first)) = queue.push(first) {
            waiting.push_front(first);
            return;
        }
    }
}

/// Rings a bell when it is dropped.
struct RingAtEnd(Arc<Doorbell>);

impl Drop for RingAtEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}
