//! The loop's inside around [`Replica::step`]: inputs in, and every effect carried out or handed on by the contract of
//! [`bft_core::door`]. No socket, file or clock: the executor brings inputs and time, and takes what is to be written,
//! sent and executed.
//!
//! Kept here: a message leaves when everything that it needs is durable, and waits for nothing else; records reach the
//! journal in the order of their positions; a halt ends everything at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bft_core::door::{Answer, Effects, InfoTo, Input, Lane, Now, Outgoing, To};
use bft_core::ids::{Digest, Epoch, LinkId, LogPosition, Nanos, Seq};
use bft_core::journal::{BlockBuf, Extent, Journal, Record, Ticket, Write};
use bft_core::limits::{INFO_COUNTERS_MAX, SECOND};
use bft_core::replica::Replica;
use bft_core::wire::archive::encode;
use bft_core::wire::message::Info;
use bytes::{Bytes, BytesMut};

use crate::clock;
use crate::counters::{OrderingCounters, ShardCounters};
use crate::error::ServerError;
use crate::execution::{Done, Order, take_orders};
use crate::shard::Arrival;

/// New memory for encoded frames.
const ENCODE_BYTES: usize = 256 * 1024;
/// A state digest is this old at most before it is computed again, and computed no more often.
const DIGEST_INTERVAL: u64 = 5 * SECOND;
/// Links that may wait for a state digest.
const DIGEST_WAITERS_MAX: usize = 1024;
/// The process's own questions come from here. No shard numbers a link so.
pub const CONTROL_LINK: LinkId = LinkId(u64::MAX);

/// What the core wants done outside, in the order in which it wants it.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Encoded frames for replicas.
    pub frames: Vec<(To, Lane, Bytes)>,
    /// Answers for links of clients.
    pub answers: Vec<(LinkId, Answer)>,
    /// Records to be read back.
    pub loads: Vec<(LogPosition, Extent)>,
    /// Segments whose files are needed no more.
    pub recycle: Vec<u32>,
    /// Snapshots below this one are needed no more.
    pub remove_snapshots_below: Option<Seq>,
}

/// What INFO says about how this process works.
#[derive(Clone, Debug)]
pub struct Words {
    /// How the journal makes writes durable.
    pub write_path: String,
    /// How signatures are checked.
    pub signatures: String,
}

/// The replica, its journal, and what waits for it.
pub struct Node {
    replica: Replica,
    journal: Journal,
    effects: Effects,
    inputs: VecDeque<Input>,
    waiting: BTreeMap<LogPosition, Vec<Outgoing>>,
    durable: LogPosition,
    deadline: Option<Nanos>,
    orders: VecDeque<Order>,
    /// What is to be done outside.
    pub outbox: Outbox,
    /// When the core last had anything made durable or executed.
    last_work: Nanos,
    epoch: Epoch,
    encoded: BytesMut,
    desk: InfoDesk,
    counters: Arc<OrderingCounters>,
}

/// Who waits for INFO, and the last state digest.
struct InfoDesk {
    words: Words,
    shards: Vec<Arc<ShardCounters>>,
    digest: Option<(Nanos, Seq, Digest)>,
    is_computing: bool,
    /// What had been executed when the computing was ordered. Batches that the service never saw count too: they have
    /// changed nothing.
    computing_from: Seq,
    waiting: Vec<LinkId>,
    rss_max_kib: (Nanos, u64),
}

impl Node {
    /// Around a replica that was read back. `effects`: what [`bft_core::replica::Recovery::finish`] wanted.
    #[must_use]
    pub fn new(
        replica: Replica,
        journal: Journal,
        effects: Effects,
        words: Words,
        shards: Vec<Arc<ShardCounters>>,
        counters: Arc<OrderingCounters>,
    ) -> Self {
        let desk = InfoDesk {
            words,
            shards,
            digest: None,
            is_computing: false,
            computing_from: Seq(0),
            waiting: Vec::new(),
            rss_max_kib: (Nanos(0), clock::rss_max_kib()),
        };
        Self {
            durable: journal.durable(),
            epoch: replica.config().epoch(),
            replica,
            journal,
            effects,
            inputs: VecDeque::new(),
            waiting: BTreeMap::new(),
            deadline: None,
            orders: VecDeque::new(),
            outbox: Outbox::default(),
            last_work: Nanos(0),
            encoded: BytesMut::new(),
            desk,
            counters,
        }
    }

    /// Carries out what the recovery wanted.
    pub fn start(&mut self, now: Now) -> Result<(), ServerError> {
        self.carry_out(now)
    }

    /// Something came from a shard.
    pub fn arrived(&mut self, now: Now, arrival: Arrival) {
        match arrival {
            Arrival::Input(input) => self.inputs.push_back(input),
            Arrival::InfoQuery { to, want_digest } => self.info_query(now, to, want_digest),
        }
    }

    /// The service did something.
    pub fn executed(&mut self, done: Done) {
        self.inputs.push_back(match done {
            Done::Executed { seq, outcome } => Input::Executed { seq, outcome },
            Done::Installed(seq) => Input::Installed { seq },
        });
    }

    /// Something for the core that needs no thought.
    pub fn input(&mut self, input: Input) {
        self.inputs.push_back(input);
    }

    /// A write is durable.
    pub fn written(&mut self, ticket: Ticket, bytes: BlockBuf) {
        self.journal.written(ticket);
        self.journal.recycle(bytes);
        let durable = self.journal.durable();
        if durable > self.durable {
            self.counters.records.add(durable.0 - self.durable.0);
            self.durable = durable;
            self.inputs.push_back(Input::Durable(durable));
            self.release();
        }
    }

    /// A record was read back.
    pub fn loaded(&mut self, at: LogPosition, record: Option<Record>) {
        self.inputs.push_back(Input::Loaded { at, record });
    }

    /// A state digest was computed.
    pub fn digested(&mut self, now: Now, at: Seq, digest: Digest) {
        self.desk.is_computing = false;
        self.desk.digest = Some((now.mono, at.max(self.desk.computing_from), digest));
        for to in std::mem::take(&mut self.desk.waiting) {
            self.inputs.push_back(Input::InfoQuery { to: InfoTo(to) });
        }
    }

    /// Steps everything that has arrived, and the deadline behind it if that has come.
    pub fn turn(&mut self, now: Now) -> Result<(), ServerError> {
        self.counters.turns.add(1);
        while let Some(input) = self.inputs.pop_front() {
            self.step(now, input)?;
        }
        if self.deadline.is_some_and(|deadline| now.mono >= deadline) {
            self.deadline = None;
            self.step(now, Input::Deadline)?;
        }
        Ok(())
    }

    /// The next write for the journal's ring.
    pub fn next_write(&mut self) -> Option<Write> {
        let write = self.journal.next_write()?;
        self.counters.flushes.add(1);
        self.counters.journal_bytes.add(write.bytes.len() as u64);
        Some(write)
    }

    /// The next order for the service.
    pub fn next_order(&mut self) -> Option<Order> {
        let order = self.orders.pop_front()?;
        if let Order::Execute(batch) = &order {
            self.counters.batches_executed.add(1);
            self.counters.requests_executed.add(batch.admitted.len() as u64);
        }
        Some(order)
    }

    /// Whether inputs wait.
    #[must_use]
    pub fn has_inputs(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// When the core wants to be called at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        self.deadline
    }

    /// When the core last had anything made durable or executed.
    #[must_use]
    pub fn last_work(&self) -> Nanos {
        self.last_work
    }

    /// The clean end of the journal: writes go on until [`Self::is_closed`].
    pub fn close(&mut self) {
        self.journal.close();
    }

    /// Whether the journal has nothing more to write.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.journal.is_idle()
    }

    fn step(&mut self, now: Now, input: Input) -> Result<(), ServerError> {
        self.counters.steps.add(1);
        self.effects.clear();
        self.replica.step(now, input, &mut self.effects);
        self.carry_out(now)
    }

    fn carry_out(&mut self, now: Now) -> Result<(), ServerError> {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(halt) = effects.halt.take() {
            return Err(ServerError::Halted(halt));
        }
        if !effects.persist.is_empty() || !effects.execute.is_empty() {
            self.last_work = now.mono;
        }
        effects.persist.drain(..).for_each(|persist| self.journal.append(persist));
        for outgoing in effects.send.drain(..) {
            if outgoing.needs <= self.durable {
                self.send(outgoing);
            } else {
                self.waiting.entry(outgoing.needs).or_default().push(outgoing);
            }
        }
        for (to, answer) in effects.answer.drain(..) {
            let answer = match answer {
                Answer::Info(info) => Answer::Info(self.desk.fill(now, info, &self.counters)),
                answer @ (Answer::Reply(_) | Answer::Busy(_)) => answer,
            };
            self.outbox.answers.push((to, answer));
        }
        take_orders(&mut effects, &mut self.orders);
        for at in effects.load.drain(..) {
            match self.journal.locate(at) {
                Some(extent) => self.outbox.loads.push((at, extent)),
                None => self.inputs.push_back(Input::Loaded { at, record: None }),
            }
        }
        if let Some(at) = effects.drop_journal_below.take() {
            self.outbox.recycle.extend(self.journal.drop_below(at));
        }
        let remove = effects.remove_snapshots_below.take();
        self.outbox.remove_snapshots_below = self.outbox.remove_snapshots_below.max(remove);
        self.deadline = effects.deadline.take().or(self.deadline);
        self.effects = effects;
        Ok(())
    }

    fn release(&mut self) {
        let later = self.waiting.split_off(&self.durable.next());
        for outgoing in std::mem::replace(&mut self.waiting, later).into_values().flatten() {
            self.send(outgoing);
        }
    }

    /// Encodes once for all links.
    fn send(&mut self, outgoing: Outgoing) {
        let Outgoing { to, lane, message, needs } = outgoing;
        assert!(needs <= self.durable, "a message waits for what it needs");
        if self.encoded.capacity() < ENCODE_BYTES / 16 {
            self.encoded.reserve(ENCODE_BYTES);
        }
        encode(&message, self.epoch, &mut self.encoded);
        self.outbox.frames.push((to, lane, self.encoded.split().freeze()));
    }

    /// The core answers at once, or when a digest is there.
    fn info_query(&mut self, now: Now, to: LinkId, want_digest: bool) {
        let desk = &mut self.desk;
        let is_fresh = desk.digest.is_some_and(|(computed, _, _)| now.mono.since(computed) < DIGEST_INTERVAL);
        if !want_digest || is_fresh || desk.waiting.len() >= DIGEST_WAITERS_MAX {
            self.inputs.push_back(Input::InfoQuery { to: InfoTo(to) });
            return;
        }
        desk.waiting.push(to);
        if !std::mem::replace(&mut desk.is_computing, true) {
            desk.computing_from = self.replica.executed();
            self.orders.push_back(Order::Digest);
        }
    }
}

impl InfoDesk {
    /// Adds what the core does not know. The last state digest is told to everybody.
    fn fill(&mut self, now: Now, mut info: Box<Info>, counters: &OrderingCounters) -> Box<Info> {
        info.state = self.digest.map(|(_, at, digest)| (at, digest));
        info.write_path.clone_from(&self.words.write_path);
        info.signatures.clone_from(&self.words.signatures);
        info.cpu_us = clock::cpu_us();
        if now.mono.since(self.rss_max_kib.0) > SECOND / 10 {
            self.rss_max_kib = (now.mono, clock::rss_max_kib());
        }
        info.rss_max_kib = self.rss_max_kib.1;
        let of_shards = self.shards.iter().flat_map(|counters| counters.named());
        let mut sums: BTreeMap<&'static str, u64> = counters.named().into_iter().collect();
        for (name, count) in of_shards {
            *sums.entry(name).or_default() += count;
        }
        info.counters.extend(sums.into_iter().map(|(name, count)| (name.to_string(), count)));
        assert!(info.counters.len() <= INFO_COUNTERS_MAX, "all counters fit one INFO");
        info
    }
}
