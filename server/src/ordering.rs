//! The loop's inside around [`Stepped::step`]: inputs in, and every effect carried out or handed on by the contract of
//! [`bft_core::door`]. No socket, file or clock: the executor brings inputs and time, and takes what is to be written,
//! sent and executed.
//!
//! Kept here: a message leaves when everything that it needs is durable, and waits for nothing else; records reach the
//! journal in the order of their positions; a halt ends everything at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bft_core::divergence::Alarm;
use bft_core::door::{Answer, Effects, FileOrder, InfoTo, Input, Lane, Now, Outgoing, To};
use bft_core::evidence::Accusation;
use bft_core::ids::{Digest, Epoch, LinkId, LogPosition, Nanos, Seq};
use bft_core::journal::superblock::Learner;
use bft_core::journal::{BlockBuf, Extent, Journal, Record, Ticket, Write};
use bft_core::limits::{INFO_COUNTERS_MAX, SECOND};
use bft_core::wire::archive::encode;
use bft_core::wire::message::{Info, Message};
use bytes::{Bytes, BytesMut};

use crate::brim::Brim;
use crate::clock;
use crate::counters::{OrderingCounters, ShardCounters};
use crate::divergence::{QuarantineWatch, tell};
use crate::error::ServerError;
use crate::evidence::Telling;
use crate::execution::{Done, Order, take_orders};
use crate::progress::TransferWatch;
use crate::shard::Arrival;
use crate::stepping::Stepped;

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
    /// To be done with files of snapshots.
    pub files: Vec<FileOrder>,
    /// Snapshots below this one are needed no more.
    pub remove_snapshots_below: Option<Seq>,
    /// To be written where people find it.
    pub evidence: Vec<Accusation>,
    /// The same.
    pub alarms: Vec<Alarm>,
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
    core: Box<dyn Stepped>,
    journal: Journal,
    effects: Effects,
    inputs: VecDeque<Input>,
    /// Requests of clients and forwarded ones: stepped behind everything else, or ordering would wait for them.
    requests: VecDeque<Input>,
    brim: Arc<Brim>,
    waiting: BTreeMap<LogPosition, Vec<Outgoing>>,
    durable: LogPosition,
    deadline: Option<Nanos>,
    orders: VecDeque<Order>,
    /// What is to be done outside.
    pub outbox: Outbox,
    /// When the core last had anything made durable or executed.
    last_work: Nanos,
    transfer: TransferWatch,
    epoch: Epoch,
    /// After damage: the Seq at which the replica may vote again.
    silent_through: Option<Seq>,
    /// Whether people were told that it votes no more.
    is_learner: bool,
    quarantine: QuarantineWatch,
    encoded: BytesMut,
    desk: InfoDesk,
    telling: Telling,
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
    /// Around the core of a replica that was read back. `effects`: what [`bft_core::replica::Recovery::finish`] wanted.
    #[must_use]
    pub fn new(
        core: Box<dyn Stepped>,
        journal: Journal,
        effects: Effects,
        words: Words,
        shards: Vec<Arc<ShardCounters>>,
        counters: Arc<OrderingCounters>,
        brim: Arc<Brim>,
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
            epoch: core.replica().config().epoch(),
            silent_through: core.replica().silent_through(),
            is_learner: false,
            quarantine: QuarantineWatch::default(),
            core,
            journal,
            effects,
            inputs: VecDeque::new(),
            requests: VecDeque::new(),
            brim,
            waiting: BTreeMap::new(),
            deadline: None,
            orders: VecDeque::new(),
            outbox: Outbox::default(),
            last_work: Nanos(0),
            transfer: TransferWatch::default(),
            encoded: BytesMut::new(),
            desk,
            telling: Telling::default(),
            counters,
        }
    }

    /// Carries out what the recovery wanted.
    pub fn start(&mut self, now: Now) -> Result<(), ServerError> {
        if let Some(through) = self.silent_through {
            tracing::warn!(
                silent_through = through.0,
                "the journal was damaged: this replica follows, and does not vote"
            );
        }
        self.tell_of_learner();
        self.carry_out(now)
    }

    /// Something came from a shard.
    pub fn arrived(&mut self, now: Now, arrival: Arrival) {
        match arrival {
            Arrival::Input(input) if is_of_clients(&input) => self.requests.push_back(input),
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
        while let Some(input) = self.next_input() {
            self.step(now, input)?;
        }
        if self.silent_through.is_some() && self.core.replica().silent_through().is_none() {
            self.silent_through = None;
            tracing::info!(stable = self.core.replica().stable().0, "this replica votes again");
        }
        self.tell_of_learner();
        self.quarantine.look(self.core.replica().quarantine());
        let (used, room) = self.core.replica().pool_fill();
        self.brim.look(used, room);
        self.transfer.look(now.mono, self.core.replica().transfer_progress());
        if self.deadline.is_some_and(|deadline| now.mono >= deadline) {
            self.deadline = None;
            self.journal.hurry();
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
        !self.inputs.is_empty() || !self.requests.is_empty()
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

    /// Says once in a life that this replica votes no more, and why.
    fn tell_of_learner(&mut self) {
        let Some(learner) = self.core.replica().learner().filter(|_| !self.is_learner) else { return };
        self.is_learner = true;
        match learner {
            Learner::LostDirectory => tracing::error!(
                "this replica's directory was lost: it is a learner. It follows and answers, and never votes again under \
                 this key; the cluster counts it as faulty"
            ),
            Learner::WentBack { view, seq } => tracing::error!(
                view = view.0,
                seq = seq.0,
                "this replica's disk went back in time: others hold its signature for this view and Seq, and it does not \
                 know of it. It is a learner: it follows and answers, and never votes again under this key; the cluster \
                 counts it as faulty. Who put back a copy of its directory?"
            ),
        }
    }

    fn next_input(&mut self) -> Option<Input> {
        self.inputs.pop_front().or_else(|| self.requests.pop_front())
    }

    fn step(&mut self, now: Now, input: Input) -> Result<(), ServerError> {
        self.counters.steps.add(1);
        self.effects.clear();
        self.core.step(now, input, &mut self.effects);
        self.carry_out(now)
    }

    fn carry_out(&mut self, now: Now) -> Result<(), ServerError> {
        let mut effects = std::mem::take(&mut self.effects);
        // Before a halt too: the more replicas are faulty, the more it matters who.
        for accusation in effects.evidence.drain(..) {
            self.telling.tell(now.mono, &accusation.accused);
            self.outbox.evidence.push(accusation);
        }
        effects.alarms.iter().for_each(tell);
        self.outbox.alarms.append(&mut effects.alarms);
        if let Some(halt) = effects.halt.take() {
            return Err(ServerError::Halted(halt));
        }
        if !effects.persist.is_empty() || !effects.execute.is_empty() {
            self.last_work = now.mono;
        }
        effects.persist.drain(..).for_each(|persist| self.journal.append(persist));
        if let Some(view) = effects.cancel_votes_below.take() {
            let holds = |outgoing: &Outgoing| outgoing.message.voted_in().is_none_or(|voted_in| voted_in >= view);
            self.waiting.values_mut().for_each(|waiting| waiting.retain(holds));
        }
        for outgoing in effects.send.drain(..) {
            if outgoing.needs <= self.durable {
                self.send(outgoing);
            } else {
                self.waiting.entry(outgoing.needs).or_default().push(outgoing);
            }
        }
        for (to, answer) in effects.answer.drain(..) {
            let answer = match answer {
                Answer::Info(info) => Answer::Info(self.desk.fill(now, info, &self.counters, &self.transfer)),
                answer @ (Answer::Reply(_) | Answer::Busy(_)) => answer,
            };
            self.outbox.answers.push((to, answer));
        }
        take_orders(&mut effects, &mut self.orders);
        self.outbox.files.append(&mut effects.files);
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
        let want_digest = want_digest && !self.core.replica().awaits_state();
        let desk = &mut self.desk;
        let is_fresh = desk.digest.is_some_and(|(computed, _, _)| now.mono.since(computed) < DIGEST_INTERVAL);
        if !want_digest || is_fresh || desk.waiting.len() >= DIGEST_WAITERS_MAX {
            self.inputs.push_back(Input::InfoQuery { to: InfoTo(to) });
            return;
        }
        desk.waiting.push(to);
        if !std::mem::replace(&mut desk.is_computing, true) {
            desk.computing_from = self.core.replica().executed();
            self.orders.push_back(Order::Digest);
        }
    }
}

/// What clients want ordered, from their own links or forwarded.
fn is_of_clients(input: &Input) -> bool {
    match input {
        Input::Requests(_) => true,
        Input::Message { message, .. } => matches!(**message, Message::Request(_)),
        Input::Link { .. }
        | Input::Client { .. }
        | Input::Durable(_)
        | Input::Executed { .. }
        | Input::Snapshot { .. }
        | Input::Loaded { .. }
        | Input::File(_)
        | Input::Installed { .. }
        | Input::InfoQuery { .. }
        | Input::Deadline => false,
    }
}

impl InfoDesk {
    /// Adds what the core does not know. The last state digest is told to everybody.
    fn fill(
        &mut self,
        now: Now,
        mut info: Box<Info>,
        counters: &OrderingCounters,
        transfer: &TransferWatch,
    ) -> Box<Info> {
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
        sums.extend(transfer.named(now.mono));
        info.counters.extend(sums.into_iter().map(|(name, count)| (name.to_string(), count)));
        assert!(info.counters.len() <= INFO_COUNTERS_MAX, "all counters fit one INFO");
        info
    }
}

#[cfg(test)]
mod tests {
    use bft_core::auth::{Ed25519, Scheme, Verifier};
    use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
    use bft_core::door::{LinkState, Tuning};
    use bft_core::ids::{ClusterId, ReplicaId, RequestNo, SessionId, View, WallNanos};
    use bft_core::journal::superblock::Directory;
    use bft_core::journal::{Blocks, JournalOptions, SegmentFile, Superblock, scan};
    use bft_core::replica::Replica;
    use bft_core::wire::archive::decode;
    use bft_core::wire::canonical::{Tag, signing_bytes};
    use bft_core::wire::frame::{FrameCutter, FrameLimits, PeerRole};
    use bft_core::wire::message::Kind;
    use bft_core::wire::opening::Opening;
    use bft_core::wire::recall::{Recall, Recalled};
    use bft_core::wire::request::{RequestBounds, SignedRequest, encode_request};

    use super::*;

    const NOW: Now = Now { mono: Nanos(SECOND), wall: WallNanos(1_700_000_000 * SECOND) };

    struct NoBlocks;

    impl Blocks for NoBlocks {
        fn segments(&mut self) -> std::io::Result<Vec<SegmentFile>> {
            Ok(Vec::new())
        }

        fn read(&mut self, _: u32, _: u32, _: &mut [u8]) -> std::io::Result<()> {
            unreachable!("there is no segment")
        }
    }

    fn scheme(of: u8) -> Arc<dyn Scheme> {
        Arc::new(Ed25519::new(&[of; 32], [of; 32]))
    }

    fn config() -> Arc<ClusterConfig> {
        let member = |id: u8| Member { weight: 1, public_key: scheme(id).public_key(), address: "127.0.0.1:1".into() };
        let params = ProtocolParams::default();
        let members = (0..4).map(member).collect();
        Arc::new(ClusterConfig::new(ClusterId([7; 32]), Epoch(0), params, Admission::Any, members).unwrap())
    }

    /// The primary of view 0, alone.
    fn primary() -> Node {
        let config = config();
        let me = config.primary(View(0));
        let superblock = Superblock::first(&Directory {
            cluster_id: config.cluster_id(),
            replica: me,
            public_key: scheme(me.0 as u8).public_key(),
            epoch: Epoch(0),
            directory_id: [1; 16],
            directory_key: [2; 32],
        });
        let tail = scan(&superblock, &mut NoBlocks, &mut |_, _| Ok::<_, ()>(())).unwrap();
        let journal = Journal::new(&superblock, tail, JournalOptions::default());
        let mut effects = Effects::default();
        let recovery = Replica::recover(config, me, scheme(me.0 as u8), Tuning::default(), superblock);
        let replica = recovery.finish(NOW, LogPosition(0), Seq(0), &mut effects);
        let words = Words { write_path: "disk".into(), signatures: "pen".into() };
        let mut node =
            Node::new(Box::new(replica), journal, effects, words, vec![Arc::default()], Arc::default(), Arc::default());
        node.start(NOW).unwrap();
        let question = sent_messages(&mut node).into_iter().find_map(|message| match message {
            Message::Recall(question) => Some(question),
            _ => None,
        });
        let Recall { epoch, start, .. } = question.expect("it asks its peers");
        // Nobody holds anything that it does not know of.
        let verifier = Verifier::new(node.core.replica().config().clone(), scheme(100));
        let answer = verifier.check(me, Message::Recalled(Recalled { epoch, start, held: None })).unwrap();
        for from in node.core.replica().config().clone().replicas().filter(|peer| *peer != me).take(2) {
            node.input(Input::Message { from, message: answer.clone() });
        }
        node.turn(NOW).unwrap();
        node
    }

    fn opening() -> Input {
        let client = scheme(100);
        let opening = Opening { replaces: SessionId(0), at: Seq(0), nonce: [5; 32], certificate: None };
        let sign = |digest| client.sign(&signing_bytes(Tag::Request, config().cluster_id(), digest));
        let bytes = opening.encode();
        let operations = [&bytes[..]];
        let (session, zero) = (SessionId(0), RequestNo(0));
        let request = encode_request(client.public_key(), session, zero, zero, 0, operations.into_iter(), sign);
        let request = SignedRequest::parse(request, RequestBounds::from(config().params())).unwrap();
        let (requests, refused) = Verifier::new(config(), client).check_requests(vec![request]);
        assert!(refused.is_empty());
        Input::Requests(requests)
    }

    fn sent_messages(node: &mut Node) -> Vec<Message> {
        let mut cutter = FrameCutter::new(PeerRole::Replica, FrameLimits::new(&config()));
        node.outbox.frames.drain(..).for_each(|(_, _, frame)| cutter.push(&frame));
        let bounds = RequestBounds::from(config().params());
        std::iter::from_fn(|| cutter.next().unwrap())
            .map(|(header, payload)| decode(header.kind, &payload, bounds).unwrap())
            .collect()
    }

    fn sent(node: &mut Node) -> Vec<Kind> {
        sent_messages(node).iter().map(Message::kind).collect()
    }

    #[test]
    fn z11_d1_a_message_leaves_when_what_it_needs_is_durable() {
        let mut node = primary();
        sent(&mut node);
        node.input(opening());
        node.turn(NOW).unwrap();
        assert!(!sent(&mut node).contains(&Kind::PrePrepare), "the vote is not on the disk yet");
        let write = node.next_write().expect("the vote is to be written");
        node.turn(NOW).unwrap();
        assert!(!sent(&mut node).contains(&Kind::PrePrepare), "nor is it now");
        node.written(write.ticket, write.bytes);
        assert!(sent(&mut node).contains(&Kind::PrePrepare));
        assert!(node.next_write().is_none() && node.has_inputs(), "the core is to learn that it is durable");
    }

    #[test]
    fn ordering_and_questions_go_before_requests() {
        let mut node = primary();
        let opening = |node: &mut Node| node.arrived(NOW, Arrival::Input(opening()));
        opening(&mut node);
        node.arrived(NOW, Arrival::InfoQuery { to: CONTROL_LINK, want_digest: false });
        node.arrived(NOW, Arrival::Input(Input::Link { peer: ReplicaId(1), state: LinkState::Up }));
        let order: Vec<_> = std::iter::from_fn(|| node.next_input()).map(|input| is_of_clients(&input)).collect();
        assert_eq!(order, [false, false, true]);
        assert!(!node.has_inputs());
        opening(&mut node);
        assert!(node.has_inputs());
        node.turn(NOW).unwrap();
        assert!(!node.has_inputs() && node.next_write().is_some(), "the vote for it is to be written");
    }

    #[test]
    fn the_deadline_comes_when_it_was_asked_for_and_behind_everything_else() {
        let mut node = primary();
        let deadline = node.deadline().expect("a replica says where it is every second");
        let steps = node.counters.steps.get();
        node.turn(Now { mono: Nanos(deadline.0 - 1), ..NOW }).unwrap();
        assert_eq!(node.counters.steps.get(), steps);
        node.turn(Now { mono: deadline, ..NOW }).unwrap();
        assert_eq!(node.counters.steps.get(), steps + 1);
        assert!(node.deadline().is_some_and(|next| next > deadline));
    }

    #[test]
    fn a_record_that_is_nowhere_is_said_to_be_unreadable() {
        let mut node = primary();
        node.effects.load.push(LogPosition(77));
        node.carry_out(NOW).unwrap();
        assert!(node.outbox.loads.is_empty());
        let answer = node.inputs.pop_back();
        assert!(matches!(answer, Some(Input::Loaded { at: LogPosition(77), record: None })), "{answer:?}");
    }

    #[test]
    fn a_halt_ends_everything_at_once() {
        let mut node = primary();
        sent(&mut node);
        let halt = bft_core::door::Halt::TwoPrepared { seq: Seq(9), view: View(1) };
        node.effects.halt = Some(halt.clone());
        node.effects.remove_snapshots_below = Some(Seq(8));
        let error = node.carry_out(NOW).unwrap_err();
        assert!(matches!(error, ServerError::Halted(reason) if reason == halt));
        assert_eq!(node.outbox.remove_snapshots_below, None);
    }

    fn state_told(node: &mut Node, at: Nanos, want_digest: bool) -> Option<Option<(Seq, Digest)>> {
        let now = Now { mono: at, ..NOW };
        node.arrived(now, Arrival::InfoQuery { to: CONTROL_LINK, want_digest });
        node.turn(now).unwrap();
        info_told(node).map(|info| info.state)
    }

    fn info_told(node: &mut Node) -> Option<Box<Info>> {
        let answer = node.outbox.answers.pop();
        answer.map(|(to, answer)| match answer {
            Answer::Info(info) if to == CONTROL_LINK => info,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_state_digest_is_computed_once_in_five_seconds() {
        let mut node = primary();
        let digests = |node: &mut Node| std::iter::from_fn(|| node.next_order()).count();
        assert_eq!(state_told(&mut node, Nanos(SECOND), false), Some(None));
        assert_eq!(state_told(&mut node, Nanos(SECOND), true), None, "the answer waits for the digest");
        assert_eq!(state_told(&mut node, Nanos(SECOND), true), None);
        assert_eq!(digests(&mut node), 1, "one for both");
        let digest = Digest([9; 32]);
        node.digested(NOW, Seq(4), digest);
        node.turn(NOW).unwrap();
        let told = [info_told(&mut node).unwrap(), info_told(&mut node).unwrap()];
        assert!(told.iter().all(|info| info.state == Some((Seq(4), digest)) && info.write_path == "disk"));
        assert!(told[0].counters.iter().any(|(name, _)| name == "requests_checked"));
        assert_eq!(state_told(&mut node, Nanos(5 * SECOND), true), Some(Some((Seq(4), digest))));
        assert_eq!(digests(&mut node), 0);
        assert_eq!(state_told(&mut node, Nanos(6 * SECOND), true), None);
        assert_eq!(digests(&mut node), 1);
    }
}
