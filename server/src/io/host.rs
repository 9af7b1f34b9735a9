//! The executor that has the core, whichever driver runs it: each turn takes what has arrived from everywhere, steps the
//! core, and carries it out, the journal first because its disk takes longest.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use bft_core::door::{Answer, Input, Lane, Now, To};
use bft_core::ids::{LinkId, Nanos};
use bft_core::limits::{MILLISECOND, SECOND};

use super::Driver;
use super::cores::Cores;
use super::mesh::{Dispatch, RemoteShard};
use crate::brim::Brim;
use crate::clock;
use crate::control::{Control, Question};
use crate::counters::{OrderingCounters, ShardCounters};
use crate::data_dir::DataDir;
use crate::divergence::DivergenceFolder;
use crate::error::ServerError;
use crate::evidence::EvidenceFolder;
use crate::execution::{Execution, ExecutionHandle, ExecutionThread};
use crate::io::journal::{Completed, JournalDisk};
use crate::ordering::{CONTROL_LINK, Node, Words};
use crate::shard::Shard;
use crate::snapshots::{SnapshotDone, SnapshotJob, SnapshotThread};
use crate::start::Started;

/// Requests that a turn takes from one other shard: what others bring is to be seen soon.
const REQUESTS_PER_TURN: usize = 1024;
/// Nothing is in flight when nothing was made durable or executed for this long.
const DRAINED: u64 = 100 * MILLISECOND;
/// A replica that is to stop waits no longer for others.
const DRAIN_MAX: u64 = 2 * SECOND;
/// Nor for sockets to take what waits for them.
const FLUSH_MAX: u64 = SECOND / 2;
/// How often a stopping replica looks whether it is done.
const STOPPING_TICK: Duration = Duration::from_millis(10);

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// No Requests are taken; what is in flight is finished.
    Draining {
        since: Nanos,
    },
    /// The core is not stepped any more; the journal writes what it has, and what the disk has room for.
    Closing,
    /// All is durable that the disk had room for; sockets take what waits.
    Flushing {
        since: Nanos,
    },
}

/// The sockets of the executor that the host runs on, and the shard whose links they carry.
pub trait Local {
    /// Has the shard do something.
    fn with_shard<T>(&mut self, act: impl FnOnce(&mut Shard) -> T) -> T;
    /// Takes links that other executors have brought up.
    fn adopt(&mut self, now: Nanos);
    /// Seals and writes what waits, and closes the sockets of links that are closed.
    fn flush(&mut self);
    /// Whether bytes wait to be written anywhere.
    fn has_output(&self) -> bool;
    /// There is more to do: the next turn waits for nothing.
    fn turn_soon(&mut self);
}

/// What the host is made of, beside its sockets.
pub struct Core<'a> {
    /// Who moves the bytes.
    pub driver: Driver,
    /// The replica.
    pub started: Started,
    /// The shards on other executors.
    pub remotes: Vec<RemoteShard>,
    /// What all shards count.
    pub shards: Vec<Arc<ShardCounters>>,
    /// How the rest of the process speaks to it.
    pub control: &'a Control,
    /// Where threads run.
    pub cores: &'a Cores,
}

/// The core and all it has to do with.
pub struct Host<'a, L> {
    local: L,
    node: Node,
    disk: JournalDisk,
    execution: ExecutionHandle,
    snapshots: Arc<SnapshotThread>,
    evidence: EvidenceFolder,
    divergence: DivergenceFolder,
    snapshots_done: mpsc::Receiver<SnapshotDone>,
    remotes: Vec<RemoteShard>,
    control: &'a Control,
    questions: Vec<Question>,
    completed: Vec<Completed>,
    counters: Arc<OrderingCounters>,
    phase: Phase,
    /// Held until all else has ended, so that nobody else runs this replica meanwhile.
    _directory: DataDir,
}

/// Whether a host goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It does.
    GoesOn,
    /// It was stopped, and everything is done.
    Over,
}

impl<'a, L: Local> Host<'a, L> {
    /// Starts the threads that it needs.
    pub fn new(local: L, brim: Arc<Brim>, core: Core<'a>) -> Self {
        let Core { driver, started, remotes, shards, control, cores } = core;
        let bell = control.bell();
        let (done, snapshots_done) = mpsc::channel();
        let own_bell = bell.clone();
        let executed = started.manifest.as_ref().map_or(bft_core::ids::Seq(0), |manifest| manifest.scalars.seq);
        let tell = move |outcome| {
            // Where the executor is gone nobody waits for it.
            let _ = done.send(outcome);
            own_bell.ring();
        };
        let snapshots = cores.with_all(|| SnapshotThread::start(started.snapshots.clone(), started.manifest, tell));
        let snapshots = Arc::new(snapshots);
        let execution = Execution::new(started.service, started.snapshots, snapshots.clone(), executed);
        let execution = if remotes.is_empty() {
            ExecutionHandle::Inline(Box::new(execution))
        } else {
            ExecutionHandle::Thread(cores.with_all(|| ExecutionThread::start(execution, bell)))
        };
        let counters = Arc::new(OrderingCounters::default());
        let words = Words {
            write_path: started.way.words(driver).into(),
            signatures: bft_core::auth::Ed25519::implementation().into(),
        };
        let node = Node::new(started.core, started.journal, started.effects, words, shards, counters.clone(), brim);
        Self {
            local,
            node,
            disk: started.disk,
            execution,
            snapshots,
            evidence: EvidenceFolder::new(started.directory.evidence()),
            divergence: DivergenceFolder::new(started.directory.divergence()),
            snapshots_done,
            remotes,
            control,
            questions: Vec::new(),
            completed: Vec::new(),
            counters,
            phase: Phase::Running,
            _directory: started.directory,
        }
    }

    /// What comes before the first turn.
    pub fn begin(&mut self) -> Result<(), ServerError> {
        self.node.start(clock::now())?;
        self.carry_out(clock::now())?;
        self.control.started();
        Ok(())
    }

    /// One turn, when there is something to do or its time has come.
    pub fn turn(&mut self) -> Result<Progress, ServerError> {
        let now = clock::now();
        self.gather(now)?;
        self.carry_out(now)?;
        Ok(if self.is_over(now) { Progress::Over } else { Progress::GoesOn })
    }

    /// How long a turn may be waited for; `None`: until there is something to do. Everything that has arrived is to be
    /// taken before a deadline is (V16): when it has come, the sockets are looked at first.
    pub fn wait_max(&self) -> Option<Duration> {
        let wait = self.node.deadline().map(|deadline| Duration::from_nanos(deadline.since(clock::now().mono)));
        match self.phase {
            Phase::Running => wait,
            Phase::Draining { .. } | Phase::Closing | Phase::Flushing { .. } => {
                Some(wait.map_or(STOPPING_TICK, |wait| wait.min(STOPPING_TICK)))
            }
        }
    }

    /// What comes after the last turn, also after one that failed.
    pub fn end(&mut self) -> Result<(), ServerError> {
        self.write_for_people();
        self.remotes.iter().for_each(RemoteShard::stop);
        let mut ended = Ok(());
        for remote in &mut self.remotes {
            ended = ended.and(remote.join());
        }
        ended
    }

    /// Its sockets.
    pub fn local(&mut self) -> &mut L {
        &mut self.local
    }

    /// Takes what has arrived from sockets, disk, service, snapshots, other executors and the process.
    fn gather(&mut self, now: Now) -> Result<(), ServerError> {
        self.local.adopt(now.mono);
        let node = &mut self.node;
        self.local.with_shard(|shard| {
            shard.finish_turn(now.mono);
            shard.arrivals().for_each(|arrival| node.arrived(now, arrival));
        });
        for index in 0..self.remotes.len() {
            self.gather_remote(now, index)?;
        }
        self.disk.completed(&mut self.completed)?;
        for completed in self.completed.drain(..) {
            match completed {
                Completed::Written { ticket, bytes } => self.node.written(ticket, bytes),
                Completed::Read { at, record } => self.node.loaded(at, record),
            }
        }
        while let Some(done) = self.execution.poll()? {
            self.node.executed(done);
        }
        while let Ok(done) = self.snapshots_done.try_recv() {
            match done {
                SnapshotDone::Written { seq, outcome } => self.node.input(Input::Snapshot { seq, outcome }),
                SnapshotDone::Digest { at, digest } => self.node.digested(now, at, digest),
                SnapshotDone::File(done) => self.node.input(Input::File(done)),
                SnapshotDone::Failed(error) => return Err(error.into()),
            }
        }
        self.take_questions(now);
        Ok(())
    }

    fn gather_remote(&mut self, now: Now, index: usize) -> Result<(), ServerError> {
        let node = &mut self.node;
        let requests = self.remotes[index].take(REQUESTS_PER_TURN, |arrival| node.arrived(now, arrival))?;
        if requests >= REQUESTS_PER_TURN {
            self.local.turn_soon();
        }
        Ok(())
    }

    fn take_questions(&mut self, now: Now) {
        let Some((is_stopping, questions)) = self.control.asked() else { return };
        for question in questions {
            let want_digest = question.want_digest;
            self.questions.push(question);
            self.node.arrived(now, crate::shard::Arrival::InfoQuery { to: CONTROL_LINK, want_digest });
        }
        if is_stopping && self.phase == Phase::Running {
            tracing::info!("stopping: no more Requests are taken");
            self.phase = Phase::Draining { since: now.mono };
            self.local.with_shard(Shard::stop_admitting);
            for index in 0..self.remotes.len() {
                self.dispatch(index, Dispatch::StopAdmitting, Lane::Control);
            }
        }
    }

    /// Steps and carries out until nothing is left that could be done now.
    fn carry_out(&mut self, now: Now) -> Result<(), ServerError> {
        loop {
            match self.phase {
                Phase::Running | Phase::Draining { .. } => self.node.turn(now)?,
                Phase::Closing | Phase::Flushing { .. } => {}
            }
            self.write_journal()?;
            self.send(now);
            let is_stepping = matches!(self.phase, Phase::Running | Phase::Draining { .. });
            let Some(order) = self.node.next_order() else {
                if is_stepping && self.node.has_inputs() {
                    continue;
                }
                return Ok(());
            };
            if let Some(done) = self.execution.order(order)? {
                self.node.executed(done);
            }
        }
    }

    fn write_journal(&mut self) -> Result<(), ServerError> {
        while self.disk.is_ready()? {
            let Some(write) = self.node.next_write() else { break };
            self.disk.write(write)?;
        }
        for (at, extent) in self.node.outbox.loads.drain(..) {
            self.disk.read(at, extent);
        }
        self.disk.recycle(self.node.outbox.recycle.drain(..))?;
        self.disk.submit()?;
        for order in self.node.outbox.files.drain(..) {
            self.snapshots.submit(SnapshotJob::Files(order));
        }
        if let Some(seq) = self.node.outbox.remove_snapshots_below.take() {
            self.snapshots.submit(SnapshotJob::RemoveBelow(seq));
        }
        self.write_for_people();
        Ok(())
    }

    fn write_for_people(&mut self) {
        for accusation in self.node.outbox.evidence.drain(..) {
            self.snapshots.submit(SnapshotJob::Evidence { folder: self.evidence.clone(), accusation });
        }
        for alarm in self.node.outbox.alarms.drain(..) {
            self.snapshots.submit(SnapshotJob::Alarm { folder: self.divergence.clone(), alarm });
        }
    }

    fn send(&mut self, now: Now) {
        let mut frames = std::mem::take(&mut self.node.outbox.frames);
        for (to, lane, frame) in frames.drain(..) {
            self.send_frame(now.mono, to, lane, frame);
        }
        self.node.outbox.frames = frames;
        let mut answers = std::mem::take(&mut self.node.outbox.answers);
        for (link, answer) in answers.drain(..) {
            self.send_answer(now.mono, link, answer);
        }
        self.node.outbox.answers = answers;
        self.remotes.iter_mut().for_each(RemoteShard::flush);
        self.local.flush();
    }

    fn send_frame(&mut self, now: Nanos, to: To, lane: Lane, frame: bytes::Bytes) {
        let shards = self.remotes.len() + 1;
        match to {
            To::One(peer) => match peer.index() % shards {
                0 => self.local.with_shard(|shard| shard.send(now, to, lane, frame)),
                shard => self.dispatch(shard - 1, Dispatch::Frame { to, lane, frame }, lane),
            },
            To::All => {
                for index in 0..self.remotes.len() {
                    self.dispatch(index, Dispatch::Frame { to, lane, frame: frame.clone() }, lane);
                }
                self.local.with_shard(|shard| shard.send(now, to, lane, frame));
            }
        }
    }

    fn send_answer(&mut self, now: Nanos, link: LinkId, answer: Answer) {
        if link == CONTROL_LINK {
            if let Answer::Info(info) = answer {
                // Who does not wait any more is not told.
                self.questions.drain(..).for_each(|question| drop(question.answer.send((*info).clone())));
            }
            return;
        }
        match Shard::of_link(link) {
            0 => self.local.with_shard(|shard| shard.answer(now, link, answer)),
            shard => self.dispatch(shard - 1, Dispatch::Answer { link, answer }, Lane::Ordering),
        }
    }

    /// Links may lose what a full queue has no room for.
    fn dispatch(&mut self, index: usize, dispatch: Dispatch, lane: Lane) {
        if !self.remotes[index].dispatch(dispatch, lane) {
            self.counters.shard_queue_full.add(1);
        }
    }

    fn is_over(&mut self, now: Now) -> bool {
        match self.phase {
            Phase::Running => false,
            Phase::Draining { since } => {
                let is_quiet = now.mono.since(self.node.last_work()) > DRAINED;
                if is_quiet || now.mono.since(since) > DRAIN_MAX {
                    self.node.close();
                    self.phase = Phase::Closing;
                    self.local.turn_soon();
                }
                false
            }
            Phase::Closing => {
                if self.node.is_closed() && self.disk.is_idle() {
                    tracing::info!("stopped: the journal is closed");
                } else if self.disk.waits_for_room() {
                    // Nothing that leaves this replica stands on what is not durable: it may be lost, as in a crash.
                    tracing::warn!("stopped: the disk is full, so the journal ends where it is; nobody was told more");
                } else {
                    return false;
                }
                self.phase = Phase::Flushing { since: now.mono };
                false
            }
            Phase::Flushing { since } => !self.local.has_output() || now.mono.since(since) > FLUSH_MAX,
        }
    }
}
