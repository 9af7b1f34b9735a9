//! The executor that has the core: each turn takes what has arrived from everywhere, steps it, and carries it out, the
//! journal first because its disk takes longest.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bft_core::door::{Answer, Input, Lane, Now, To};
use bft_core::ids::{LinkId, Nanos};
use bft_core::limits::{MILLISECOND, SECOND};
use futures_lite::future::or;
use glommio::timer::sleep;

use super::cores::Cores;
use super::executor::{Executor, look_at_sockets};
use super::{Dispatch, RemoteShard};
use crate::clock;
use crate::control::{Control, Question};
use crate::counters::{OrderingCounters, ShardCounters};
use crate::error::ServerError;
use crate::divergence::DivergenceFolder;
use crate::evidence::EvidenceFolder;
use crate::execution::{Execution, ExecutionHandle, ExecutionThread};
use crate::io::journal::{Completed, JournalRing};
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
    /// The core is not stepped any more; the journal writes what it has.
    Closing,
    /// Everything is durable; sockets take what waits.
    Flushing {
        since: Nanos,
    },
}

struct Host<'a> {
    local: Rc<Executor>,
    node: Node,
    ring: JournalRing,
    execution: ExecutionHandle,
    snapshots: Arc<SnapshotThread>,
    evidence: EvidenceFolder,
    divergence: DivergenceFolder,
    snapshots_done: mpsc::Receiver<SnapshotDone>,
    remotes: Vec<RemoteShard>,
    /// For each remote: what must not be lost when its queue is full.
    urgent: Vec<VecDeque<Dispatch>>,
    control: &'a Control,
    questions: Vec<Question>,
    completed: Vec<Completed>,
    counters: Arc<OrderingCounters>,
    phase: Phase,
}

/// Runs the core and its executor until it is stopped or fails.
pub async fn run(
    local: Rc<Executor>,
    listener: Option<TcpListener>,
    started: Started,
    remotes: Vec<RemoteShard>,
    shards: Vec<Arc<ShardCounters>>,
    control: &Control,
    cores: &Cores,
) -> Result<(), ServerError> {
    let bell = control.bell();
    let (done, snapshots_done) = mpsc::channel();
    let ring_bell = bell.clone();
    let executed = started.manifest.as_ref().map_or(bft_core::ids::Seq(0), |manifest| manifest.scalars.seq);
    let tell = move |outcome| {
        // Where the executor is gone nobody waits for it.
        let _ = done.send(outcome);
        ring_bell.ring();
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
    let words =
        Words { write_path: started.way.words().into(), signatures: bft_core::auth::Ed25519::implementation().into() };
    let node =
        Node::new(started.replica, started.journal, started.effects, words, shards, counters.clone(), local.brim());
    let urgent = remotes.iter().map(|_| VecDeque::new()).collect();
    let mut host = Host {
        local: local.clone(),
        node,
        ring: started.ring,
        execution,
        snapshots,
        evidence: EvidenceFolder::new(started.directory.evidence()),
        divergence: DivergenceFolder::new(started.directory.divergence()),
        snapshots_done,
        remotes,
        urgent,
        control,
        questions: Vec::new(),
        completed: Vec::new(),
        counters,
        phase: Phase::Running,
    };
    local.start(listener)?;
    let outcome = host.serve().await;
    host.write_for_people();
    let ended = host.end_remotes();
    local.end().await?;
    outcome.and(ended)
}

impl Host<'_> {
    async fn serve(&mut self) -> Result<(), ServerError> {
        self.node.start(clock::now())?;
        self.carry_out(clock::now())?;
        self.control.started();
        loop {
            self.wait().await;
            let now = clock::now();
            self.gather(now)?;
            self.carry_out(now)?;
            if self.is_over(now) {
                return Ok(());
            }
        }
    }

    /// Until there is something to do. Everything that has arrived is taken before a deadline is (V16): when it has come,
    /// the sockets are looked at first.
    async fn wait(&self) {
        self.local.before_turn().await;
        let wait = self.node.deadline().map(|deadline| Duration::from_nanos(deadline.since(clock::now().mono)));
        let wait = match self.phase {
            Phase::Running => wait,
            Phase::Draining { .. } | Phase::Closing | Phase::Flushing { .. } => {
                Some(wait.map_or(STOPPING_TICK, |wait| wait.min(STOPPING_TICK)))
            }
        };
        let is_due = match wait {
            None => {
                self.local.turn.taken().await;
                false
            }
            Some(Duration::ZERO) => true,
            Some(wait) => {
                let woken = async {
                    self.local.turn.taken().await;
                    false
                };
                let due = async {
                    sleep(wait).await;
                    true
                };
                or(woken, due).await
            }
        };
        if is_due {
            look_at_sockets().await;
        }
    }

    /// Takes what has arrived from sockets, disk, service, snapshots, other executors and the process.
    fn gather(&mut self, now: Now) -> Result<(), ServerError> {
        self.local.adopt(now.mono);
        {
            let mut shard = self.local.shard.borrow_mut();
            shard.finish_turn(now.mono);
            shard.arrivals().for_each(|arrival| self.node.arrived(now, arrival));
        }
        for index in 0..self.remotes.len() {
            self.gather_remote(now, index)?;
        }
        self.ring.completed(&mut self.completed)?;
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
        let remote = &mut self.remotes[index];
        let (mut has_made_room, mut requests) = (false, 0);
        while requests < REQUESTS_PER_TURN
            && let Ok(arrival) = remote.arrivals.pop()
        {
            requests += arrival.requests();
            self.node.arrived(now, arrival);
            has_made_room = true;
        }
        if requests >= REQUESTS_PER_TURN {
            self.local.turn.give();
        }
        if has_made_room && remote.inbox.is_starved.swap(false, Ordering::SeqCst) {
            remote.inbox.bell.ring();
        }
        if remote.arrivals.is_abandoned() {
            return Err(join(remote).err().unwrap_or(ServerError::ThreadEnded("shard")));
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
            self.local.shard.borrow_mut().stop_admitting();
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
        while self.ring.is_ready()? {
            let Some(write) = self.node.next_write() else { break };
            self.ring.write(write)?;
        }
        for (at, extent) in self.node.outbox.loads.drain(..) {
            self.ring.read(at, extent);
        }
        self.ring.recycle(self.node.outbox.recycle.drain(..))?;
        self.ring.submit()?;
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
        for (index, remote) in self.remotes.iter_mut().enumerate() {
            while let Some(dispatch) = self.urgent[index].pop_front() {
                if let Err(rtrb::PushError::Full(dispatch)) = remote.dispatches.push(dispatch) {
                    self.urgent[index].push_front(dispatch);
                    break;
                }
            }
            if remote.dispatches.slots() < super::DISPATCHES_MAX {
                remote.inbox.bell.ring();
            }
        }
        self.local.flush();
    }

    fn send_frame(&mut self, now: Nanos, to: To, lane: Lane, frame: bytes::Bytes) {
        let shards = self.remotes.len() + 1;
        match to {
            To::One(peer) => match peer.index() % shards {
                0 => self.local.shard.borrow_mut().send(now, to, lane, frame),
                shard => self.dispatch(shard - 1, Dispatch::Frame { to, lane, frame }, lane),
            },
            To::All => {
                for index in 0..self.remotes.len() {
                    self.dispatch(index, Dispatch::Frame { to, lane, frame: frame.clone() }, lane);
                }
                self.local.shard.borrow_mut().send(now, to, lane, frame);
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
            0 => self.local.shard.borrow_mut().answer(now, link, answer),
            shard => self.dispatch(shard - 1, Dispatch::Answer { link, answer }, Lane::Ordering),
        }
    }

    /// Links may lose what a full queue has no room for; what is in the lane of Control waits.
    fn dispatch(&mut self, index: usize, dispatch: Dispatch, lane: Lane) {
        if let Err(rtrb::PushError::Full(dispatch)) = self.remotes[index].dispatches.push(dispatch) {
            match lane {
                Lane::Control => self.urgent[index].push_back(dispatch),
                Lane::Ordering | Lane::Bulk => self.counters.shard_queue_full.add(1),
            }
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
                    self.local.turn.give();
                }
                false
            }
            Phase::Closing => {
                if self.node.is_closed() && self.ring.is_idle() {
                    tracing::info!("stopped: the journal is closed");
                    self.phase = Phase::Flushing { since: now.mono };
                }
                false
            }
            Phase::Flushing { since } => !self.local.has_output() || now.mono.since(since) > FLUSH_MAX,
        }
    }

    fn end_remotes(&mut self) -> Result<(), ServerError> {
        self.remotes.iter().for_each(|remote| remote.inbox.stop());
        let mut ended = Ok(());
        for remote in &mut self.remotes {
            ended = ended.and(join(remote));
        }
        ended
    }
}

fn join(remote: &mut RemoteShard) -> Result<(), ServerError> {
    match remote.thread.take() {
        None => Ok(()),
        Some(thread) => thread.join().unwrap_or(Err(ServerError::ThreadEnded("shard"))),
    }
}
