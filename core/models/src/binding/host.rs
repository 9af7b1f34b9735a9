//! One real replica with its disk and its outbox: what a shell does, led by a test. A record is durable when the test
//! says so; a message leaves when what it needs is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bft_core::config::ClusterConfig;
use bft_core::door::{Effects, Execute, Executed, Input, Now, Outgoing, Persist, Place, Tuning};
use bft_core::hash::{Context, Hasher};
use bft_core::ids::{Digest, LogPosition, Nanos, ReplicaId, Seq, WallNanos};
use bft_core::journal::record::{Committed, Record, Vote};
use bft_core::journal::superblock::{Directory, Superblock};
use bft_core::replica::Replica;
use bft_core::wire::message::{Code, Message};
use bft_core::wire::recall::Recalled;
use bft_core::wire::request::{Body, RequestBounds, result_digest};
use bft_sim::scheme::LedgerScheme;
use bytes::Bytes;

use super::Diverged;

/// What the wall clocks show, always: batches differ by their Requests alone.
pub const WALL: WallNanos = WallNanos(1_700_000_000_000_000_000);

/// The time `mono` nanoseconds after the beginning.
#[must_use]
pub fn at(mono: u64) -> Now {
    Now { mono: Nanos(mono), wall: WALL }
}

/// A replica and what is around it.
pub struct Host {
    /// The real core.
    pub replica: Replica,
    /// When it wants to be called.
    pub deadline: Nanos,
    /// The question of its start (PROTOCOL §11), once it was asked.
    question: Option<u64>,
    /// Requests of the batches that it voted for or learned of, by digest.
    batches: BTreeMap<Digest, Vec<Digest>>,
    /// Requests of batches that it knows to be committed.
    ordered: BTreeSet<Digest>,
    me: ReplicaId,
    config: Arc<ClusterConfig>,
    scheme: Arc<LedgerScheme>,
    effects: Effects,
    records: Vec<Persist>,
    durable: LogPosition,
    held: Vec<Outgoing>,
}

/// What came out of one or more steps.
#[derive(Default)]
pub struct Out {
    /// Records on their way to the disk.
    pub records: Vec<Persist>,
    /// Messages that left.
    pub left: Vec<Outgoing>,
}

impl Host {
    /// A new replica with an empty disk.
    pub fn new(
        config: &Arc<ClusterConfig>,
        scheme: &Arc<LedgerScheme>,
        me: ReplicaId,
    ) -> Result<(Self, Out), Diverged> {
        Self::start(Arc::clone(config), Arc::clone(scheme), me, Vec::new(), 0)
    }

    /// The process dies, and starts again with what is durable.
    pub fn restart(&mut self, now: u64) -> Result<Out, Diverged> {
        let durable = self.durable;
        let records = self.records.drain(..).filter(|persist| persist.position <= durable).collect();
        let (host, out) = Self::start(Arc::clone(&self.config), Arc::clone(&self.scheme), self.me, records, now)?;
        *self = host;
        Ok(out)
    }

    fn start(
        config: Arc<ClusterConfig>,
        scheme: Arc<LedgerScheme>,
        me: ReplicaId,
        records: Vec<Persist>,
        now: u64,
    ) -> Result<(Self, Out), Diverged> {
        let superblock = newest(&records).unwrap_or_else(|| first(&config, &scheme, me));
        let mut recovery = Replica::recover(Arc::clone(&config), me, scheme.clone(), Tuning::default(), superblock);
        for persist in &records {
            if let Place::Journal(record) = &persist.place {
                let fed = recovery.record(persist.position, record.clone());
                fed.map_err(|why| Diverged(format!("{me} does not read its own journal: {why}")))?;
            }
        }
        let durable = records.last().map_or(LogPosition(0), |persist| persist.position);
        let mut effects = Effects::default();
        let replica = recovery.finish(at(now), durable, Seq(0), &mut effects);
        let (deadline, held) = (Nanos(now), Vec::new());
        let (batches, ordered) = (BTreeMap::new(), BTreeSet::new());
        let question = None;
        let mut host =
            Self { replica, question, deadline, batches, ordered, me, config, scheme, effects, records, durable, held };
        let mut out = Out::default();
        let mut queue = VecDeque::new();
        host.carry_out(&mut out, &mut queue)?;
        host.drain(now, queue, &mut out)?;
        Ok((host, out))
    }

    /// Steps the core, and gives back at once what it executes or loads.
    pub fn step(&mut self, now: u64, input: Input) -> Result<Out, Diverged> {
        let mut out = Out::default();
        self.drain(now, VecDeque::from([input]), &mut out)?;
        Ok(out)
    }

    /// Everything up to `through` is durable: what waited for that leaves, then the core hears of it.
    pub fn flush(&mut self, now: u64, through: LogPosition) -> Result<Out, Diverged> {
        self.durable = through;
        let mut out = Out::default();
        self.release(&mut out);
        self.drain(now, VecDeque::from([Input::Durable(through)]), &mut out)?;
        Ok(out)
    }

    /// Whether it saw this Request ordered since it started.
    #[must_use]
    pub fn has_ordered(&self, request: Digest) -> bool {
        self.ordered.contains(&request)
    }

    /// What a peer answers to the question of its start that holds nothing it does not know of: disks here lose nothing
    /// that was durable.
    #[must_use]
    pub fn answer(&self) -> Option<Message> {
        let epoch = self.config.epoch();
        self.question.map(|start| Message::Recalled(Recalled { epoch, start, held: None }))
    }

    /// The last record written.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.records.last().map_or(LogPosition(0), |persist| persist.position)
    }

    /// Up to where the disk is written.
    #[must_use]
    pub fn durable(&self) -> LogPosition {
        self.durable
    }

    fn drain(&mut self, now: u64, mut queue: VecDeque<Input>, out: &mut Out) -> Result<(), Diverged> {
        while let Some(input) = queue.pop_front() {
            self.effects.clear();
            self.replica.step(at(now), input, &mut self.effects);
            self.replica.check_invariants();
            self.carry_out(out, &mut queue)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, out: &mut Out, queue: &mut VecDeque<Input>) -> Result<(), Diverged> {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(halt) = &effects.halt {
            return Err(Diverged(format!("{} halts: {halt}", self.me)));
        }
        effects.persist.iter().for_each(|persist| self.note_ordered(persist));
        out.records.extend(effects.persist.iter().cloned());
        self.records.append(&mut effects.persist);
        if let Some(view) = effects.cancel_votes_below {
            self.held.retain(|held| held.message.voted_in().is_none_or(|voted_in| voted_in >= view));
        }
        for outgoing in &effects.send {
            if let Message::Recall(question) = &outgoing.message {
                self.question = Some(question.start);
            }
        }
        self.held.append(&mut effects.send);
        self.release(out);
        self.deadline = effects.deadline.unwrap_or(self.deadline);
        queue.extend(effects.execute.iter().map(|order| Input::Executed { seq: order.seq, outcome: executed(order) }));
        queue.extend(effects.load.iter().map(|at| self.loaded(*at)));
        self.effects = effects;
        Ok(())
    }

    fn note_ordered(&mut self, persist: &Persist) {
        let bounds = RequestBounds::from(self.config.params());
        let requests = |body: &Bytes| {
            let body = Body::parse(body.clone(), bounds).unwrap_or_default();
            body.entries().iter().map(|entry| entry.digest).collect::<Vec<_>>()
        };
        let Place::Journal(record) = &persist.place else { return };
        if let Record::Vote(Vote { position, body: Some(body), .. }) = record {
            self.batches.insert(position.digest, requests(body));
        }
        if let Record::Committed(Committed { certificate, body }) = record {
            let known = self.batches.get(&certificate.position.digest).cloned();
            self.ordered.extend(body.as_ref().map(requests).or(known).unwrap_or_default());
        }
    }

    fn loaded(&self, at: LogPosition) -> Input {
        let found = self.records.iter().find(|persist| persist.position == at);
        let record = found.and_then(|persist| match &persist.place {
            Place::Journal(record) => Some(record.clone()),
            Place::Superblock(_) => None,
        });
        Input::Loaded { at, record }
    }

    fn release(&mut self, out: &mut Out) {
        let durable = self.durable;
        let (leave, held) = self.held.drain(..).partition(|held| held.needs <= durable);
        self.held = held;
        out.left.extend::<Vec<_>>(leave);
    }
}

fn first(config: &ClusterConfig, scheme: &LedgerScheme, replica: ReplicaId) -> Superblock {
    use bft_core::auth::Scheme as _;
    Superblock::first(&Directory {
        cluster_id: config.cluster_id(),
        replica,
        public_key: scheme.public_key(),
        epoch: config.epoch(),
        directory_id: [0; 16],
        directory_key: [0; 32],
    })
}

fn newest(records: &[Persist]) -> Option<Superblock> {
    records.iter().rev().find_map(|persist| match &persist.place {
        Place::Superblock(superblock) => Some((**superblock).clone()),
        Place::Journal(_) => None,
    })
}

/// What a service answers that has no state: nothing, to every operation.
fn executed(order: &Execute) -> Executed {
    let mut results = Vec::new();
    let mut ends: Vec<(u32, Option<Digest>)> = Vec::new();
    for _ in &order.admitted {
        let start = results.len();
        results.extend_from_slice(&0u32.to_le_bytes());
        ends.push((results.len() as u32, Some(result_digest(Code::Ok, &results[start..]))));
    }
    Executed { results: Bytes::from(results), ends, delta: Hasher::new(Context::Delta).finish() }
}
