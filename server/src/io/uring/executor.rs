//! One executor's sockets: accepted, dialled, read, written, and handed to the executor where they belong. The links
//! themselves are the shard's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bft_core::ids::{LinkId, Nanos, ReplicaId};
use futures_lite::future::yield_now;
use glommio::Task;
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;

use super::bell::Listener;
use super::socket::Socket;
use super::wake::Notice;
use crate::brim::Brim;
use crate::clock;
use crate::error::ServerError;
use crate::io::mesh::{Inbox, Place, ToCore};
use crate::io::redial::{CONNECT_TIMEOUT, Redial, look_up};
use crate::io::{ACCEPT_RETRY, CLIENT_READ_BYTES, READ_BYTES, TICK, WRITE_BYTES};
use crate::shard::{Handover, Origin, Shard, ShardSetup};

/// Tasks of closed sockets end at once; nothing waits longer for them.
const END_MAX: u64 = 1_000_000_000;

/// The sockets of one executor, and the shard whose links they carry.
pub struct Executor {
    /// The links.
    pub shard: RefCell<Shard>,
    /// There is something to do.
    pub turn: Notice,
    setup: ShardSetup,
    sockets: RefCell<BTreeMap<LinkId, Rc<Socket>>>,
    buffer: RefCell<Vec<u8>>,
    inboxes: Vec<Arc<Inbox>>,
    core: Option<RefCell<ToCore>>,
    /// Tasks that wait to read.
    readers: RefCell<Vec<Rc<Notice>>>,
    /// Tasks that run as long as the executor. It does not drop them by itself.
    tasks: RefCell<Vec<Task<()>>>,
    /// Tasks that end by themselves: of sockets, when those are closed, and the one that hears the bell.
    ending_tasks: Cell<usize>,
    is_ending: Cell<bool>,
}

impl Executor {
    /// For the executor that this is called on. `core`: the way to the core, where it is on another one.
    pub fn new(place: Place, core: Option<ToCore>) -> Rc<Self> {
        let Place { pin: _, setup, counters, inboxes } = place;
        Rc::new(Self {
            shard: RefCell::new(Shard::new(setup.clone(), counters)),
            turn: Notice::default(),
            setup,
            sockets: RefCell::default(),
            buffer: RefCell::new(vec![0; READ_BYTES]),
            inboxes,
            core: core.map(RefCell::new),
            readers: RefCell::default(),
            tasks: RefCell::default(),
            ending_tasks: Cell::new(0),
            is_ending: Cell::new(false),
        })
    }

    /// Whether the pool is full, as all shards see it.
    pub fn brim(&self) -> Arc<Brim> {
        self.setup.brim.clone()
    }

    /// Starts the tasks that run beside the turns.
    pub fn start(self: &Rc<Self>, listener: Option<StdListener>) -> Result<(), ServerError> {
        let bell =
            Listener::new(self.inbox().bell.clone()).map_err(|error| ServerError::Executor(error.to_string()))?;
        self.run(self.clone().hear(bell));
        self.keep(self.clone().tick());
        if let Some(listener) = listener {
            listener.set_nonblocking(true).map_err(ServerError::Listener)?;
            // SAFETY: the descriptor is owned, and the listener takes it over.
            let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
            self.keep(self.clone().accept(listener));
        }
        let me = self.setup.me;
        for peer in self.setup.config.replicas() {
            // One link for each pair: the lower id dials.
            if me < peer && peer.0 % self.setup.shards == self.setup.index {
                self.keep(self.clone().dial(peer));
            }
        }
        Ok(())
    }

    /// The loop of a shard that has the core on another executor.
    pub async fn run_shard(self: Rc<Self>, listener: Option<StdListener>) -> Result<(), ServerError> {
        self.start(listener)?;
        let core = self.core.as_ref().expect("this executor's shard is not the core's");
        loop {
            self.before_turn().await;
            self.turn.taken().await;
            let now = clock::now().mono;
            if core.borrow().is_over() {
                return self.end().await;
            }
            self.adopt(now);
            core.borrow_mut().exchange(now, &mut self.shard.borrow_mut());
            if !core.borrow().is_full() {
                self.resume_readers();
            }
            self.flush();
        }
    }

    /// Where the last turn was full, replicas are read before clients go on: an executor that always has something to do
    /// seldom asks the kernel what else has come.
    pub async fn before_turn(&self) {
        if !self.readers.borrow().is_empty() {
            look_at_sockets().await;
            self.resume_readers();
        }
    }

    /// Takes links that other executors have brought up.
    pub fn adopt(self: &Rc<Self>, now: Nanos) {
        for (connection, handover) in self.inbox().links() {
            let Ok(socket) = Socket::adopt(connection).map(Rc::new) else { continue };
            let link = self.shard.borrow_mut().adopt(now, handover);
            self.serve_on_task(link, socket);
        }
    }

    /// Seals and writes what waits, and closes the sockets of links that are closed.
    pub fn flush(&self) {
        loop {
            let dirty = self.shard.borrow_mut().dirty();
            if dirty.is_empty() {
                break;
            }
            for link in dirty {
                self.write(link);
            }
        }
        for link in self.shard.borrow_mut().closed() {
            if let Some(socket) = self.sockets.borrow_mut().remove(&link) {
                socket.close();
            }
        }
    }

    /// Whether bytes wait to be written anywhere.
    pub fn has_output(&self) -> bool {
        self.shard.borrow().has_output() || self.sockets.borrow().values().any(|socket| socket.is_full.get())
    }

    /// Closes everything, and waits until the tasks have seen it: an executor that goes leaves its tasks, and with them
    /// the listening socket, behind.
    pub async fn end(&self) -> Result<(), ServerError> {
        self.is_ending.set(true);
        self.inbox().bell.ring();
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        for task in tasks {
            task.cancel().await;
        }
        for socket in std::mem::take(&mut *self.sockets.borrow_mut()).into_values() {
            socket.close();
        }
        self.resume_readers();
        let until = clock::now().mono.after(END_MAX);
        while self.ending_tasks.get() > 0 && clock::now().mono < until {
            sleep(Duration::from_millis(1)).await;
        }
        // What was pending in the kernel is cancelled when it is submitted next.
        sleep(Duration::from_millis(1)).await;
        Ok(())
    }

    fn inbox(&self) -> &Inbox {
        &self.inboxes[usize::from(self.setup.index)]
    }

    fn write(&self, link: LinkId) {
        let Some(socket) = self.sockets.borrow().get(&link).cloned() else { return };
        while !socket.is_full.get() {
            self.shard.borrow_mut().write(link, &mut socket.rest(), WRITE_BYTES);
            if socket.rest().is_empty() {
                return;
            }
            match socket.write_now() {
                Ok(true) => {}
                Ok(false) => {
                    socket.is_full.set(true);
                    socket.writer.give();
                }
                Err(_) => return self.shard.borrow_mut().ended(clock::now().mono, link),
            }
        }
    }

    fn resume_readers(&self) {
        self.readers.borrow_mut().drain(..).for_each(|reader| reader.give());
    }

    /// Waits while the queue to the core is full, or the turn for more of a client's Requests.
    async fn has_room(&self, link: LinkId) {
        let is_core_full = || self.core.as_ref().is_some_and(|core| core.borrow().is_full());
        let must_wait = || is_core_full() || !self.shard.borrow().may_read(link);
        while !self.is_ending.get() && must_wait() {
            let reader = Rc::new(Notice::default());
            self.readers.borrow_mut().push(reader.clone());
            reader.taken().await;
        }
    }

    async fn hear(self: Rc<Self>, bell: Listener) {
        while !self.is_ending.get() {
            if let Err(error) = bell.heard().await {
                tracing::error!(%error, "the executor's bell is broken");
                return;
            }
            self.turn.give();
        }
        bell.close().await;
    }

    async fn tick(self: Rc<Self>) {
        while !self.is_ending.get() {
            sleep(Duration::from_nanos(TICK)).await;
            self.shard.borrow_mut().tick(clock::now().mono);
            self.turn.give();
        }
    }

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        while !self.is_ending.get() {
            match listener.accept().await {
                Ok(stream) => self.accepted(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_nanos(ACCEPT_RETRY)).await;
                }
            }
        }
    }

    fn accepted(self: &Rc<Self>, stream: TcpStream) {
        // Whoever is gone again, or is turned away, finds the connection closed.
        let Ok(socket) = Socket::new(stream).map(Rc::new) else { return };
        let Ok(address) = socket.peer_address() else { return };
        let origin = Origin::Accepted(address);
        let Ok(link) = self.shard.borrow_mut().connected(clock::now().mono, origin, crate::entropy()) else { return };
        self.serve_on_task(link, socket);
        self.turn.give();
    }

    fn serve_on_task(self: &Rc<Self>, link: LinkId, socket: Rc<Socket>) {
        let executor = self.clone();
        self.sockets.borrow_mut().insert(link, socket.clone());
        self.run(async move { executor.serve(link, socket).await });
    }

    /// Runs a task that ends by itself when the executor ends.
    fn run(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let executor = self.clone();
        self.ending_tasks.set(self.ending_tasks.get() + 1);
        let counted = async move {
            task.await;
            executor.ending_tasks.set(executor.ending_tasks.get() - 1);
        };
        glommio::spawn_local(counted).detach();
    }

    /// Runs a task until it is cancelled when the executor ends.
    fn keep(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().push(glommio::spawn_local(task));
    }

    /// Keeps a link to `peer` for ever.
    async fn dial(self: Rc<Self>, peer: ReplicaId) {
        let mut redial = Redial::default();
        while !self.is_ending.get() {
            let begin = clock::now().mono;
            if let Some(socket) = self.connect(peer).await {
                let now = clock::now().mono;
                let link = self.shard.borrow_mut().connected(now, Origin::Dialled(peer), crate::entropy());
                let link = link.expect("who is dialled is never turned away");
                self.sockets.borrow_mut().insert(link, socket.clone());
                self.turn.give();
                self.serve(link, socket).await;
            }
            sleep(redial.after(clock::now().mono.since(begin))).await;
        }
    }

    async fn connect(&self, peer: ReplicaId) -> Option<Rc<Socket>> {
        let address = self.setup.config.member(peer).expect("a member of the configuration").address.clone();
        let resolved = match address.parse::<SocketAddr>() {
            Ok(address) => Some(address),
            // Names are asked for on another thread: it can take seconds.
            Err(_) => glommio::executor().spawn_blocking(move || look_up(&address)).await,
        };
        let Some(resolved) = resolved else {
            tracing::debug!(replica = peer.0, "its address is not known");
            return None;
        };
        match TcpStream::connect_timeout(resolved, CONNECT_TIMEOUT).await {
            Ok(stream) => Socket::new(stream).ok().map(Rc::new),
            Err(error) => {
                tracing::debug!(replica = peer.0, %resolved, %error, "not connected");
                None
            }
        }
    }

    /// Reads until the link ends.
    async fn serve(self: &Rc<Self>, link: LinkId, socket: Rc<Socket>) {
        self.run(self.clone().write_when_full(link, socket.clone()));
        loop {
            self.has_room(link).await;
            let most = if self.shard.borrow().is_client(link) { CLIENT_READ_BYTES } else { READ_BYTES };
            let read = socket.read(&self.buffer, most).await;
            if socket.is_closed.get() {
                break;
            }
            let now = clock::now().mono;
            let Ok(count @ 1..) = read else {
                self.shard.borrow_mut().ended(now, link);
                break;
            };
            self.shard.borrow_mut().received(now, link, &self.buffer.borrow()[..count]);
            self.turn.give();
            if self.hand_over(link, &socket) {
                return;
            }
            if count == most {
                // More may wait; others are read first.
                yield_now().await;
            }
        }
        self.sockets.borrow_mut().remove(&link);
        socket.close();
        self.turn.give();
    }

    /// True if the link belongs to another executor and has gone there.
    fn hand_over(&self, link: LinkId, socket: &Socket) -> bool {
        let handover: Option<Handover> = self.shard.borrow_mut().handovers().next();
        let Some(handover) = handover else { return false };
        assert_eq!(handover.link, link, "a link is handed over when its handshake has just finished");
        self.sockets.borrow_mut().remove(&link);
        if let Ok(connection) = socket.descriptor() {
            self.inboxes[usize::from(handover.shard)].hand_over(connection, handover);
        }
        socket.is_closed.set(true);
        socket.writer.give();
        true
    }

    async fn write_when_full(self: Rc<Self>, link: LinkId, socket: Rc<Socket>) {
        loop {
            socket.writer.taken().await;
            if socket.is_closed.get() {
                return;
            }
            if socket.write_rest().await.is_err() {
                self.shard.borrow_mut().ended(clock::now().mono, link);
                self.turn.give();
                return;
            }
            socket.is_full.set(false);
            self.write(link);
        }
    }
}

/// Once for the kernel to say what is readable, once for it to be read.
pub async fn look_at_sockets() {
    for _ in 0..2 {
        glommio::executor().yield_task_queue_now().await;
    }
}
