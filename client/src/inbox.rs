//! What handles ask of the I/O thread: one queue for all sessions, and a wake-up where it was empty. Bounded by the
//! sessions' credit, and by one entry a call for the rest.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use bft_core::client::{NotSent, Outcome};
use bft_core::ids::{Nanos, ReplicaId};
use bft_core::wire::message::Info;
use bytes::Bytes;

use crate::client::LinkReport;
use crate::completion::{Waiter, lock};

/// An operation on its way to the thread.
pub(crate) struct Taken {
    pub(crate) bytes: Bytes,
    pub(crate) deadline: Option<Nanos>,
    pub(crate) waiter: Waiter,
}

/// What a handle asks for. Sessions are known by their index.
pub(crate) enum Command {
    Submit { session: usize, operations: Vec<Taken> },
    Cancel { session: usize, tag: u64 },
    Close { session: usize, drain: Duration },
    Info(InfoRound),
}

/// A question to all replicas, and who waits for it.
pub(crate) struct InfoRound {
    pub(crate) want_digest: bool,
    pub(crate) until: Nanos,
    pub(crate) answers: Arc<InfoAnswers>,
}

/// What replicas have answered so far.
pub(crate) struct InfoAnswers {
    state: Mutex<InfoState>,
    finished: Condvar,
}

struct InfoState {
    answers: Vec<Option<Info>>,
    is_finished: bool,
}

impl InfoAnswers {
    pub(crate) fn new(replicas: usize) -> Self {
        Self {
            state: Mutex::new(InfoState { answers: vec![None; replicas], is_finished: false }),
            finished: Condvar::new(),
        }
    }

    /// Takes an answer; one that lacks what a former one has does not replace it. Whether nothing more is missing.
    pub(crate) fn take(&self, from: ReplicaId, info: &Info, want_digest: bool) -> bool {
        let mut state = lock(&self.state);
        let slot = &mut state.answers[from.index()];
        if slot.as_ref().is_none_or(|former| former.state.is_none() || info.state.is_some()) {
            *slot = Some(info.clone());
        }
        let is_whole = |info: &Info| info.state.is_some() || !want_digest;
        state.answers.iter().all(|answer| answer.as_ref().is_some_and(is_whole))
    }

    pub(crate) fn finish(&self) {
        lock(&self.state).is_finished = true;
        self.finished.notify_all();
    }

    pub(crate) fn wait(&self) -> Vec<(ReplicaId, Option<Info>)> {
        let state = lock(&self.state);
        let mut state =
            self.finished.wait_while(state, |state| !state.is_finished).unwrap_or_else(PoisonError::into_inner);
        (0..).map(ReplicaId).zip(state.answers.iter_mut().map(Option::take)).collect()
    }
}

impl Drop for InfoRound {
    fn drop(&mut self) {
        self.answers.finish();
    }
}

/// Nanoseconds since the client was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Nanos {
        Nanos(u64::try_from(self.0.elapsed().as_nanos()).expect("a process does not run for 584 years"))
    }
}

/// The time `duration` after `now`, or the end of time.
pub(crate) fn after(now: Nanos, duration: Duration) -> Nanos {
    now.after(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// What the handles of a group of sessions share with their I/O thread.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    commands: Mutex<Option<Vec<Command>>>,
    waker: Arc<mio::Waker>,
    links: Mutex<Vec<LinkReport>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: Mutex<Option<ThreadId>>,
    /// Sessions that have not ended.
    sessions: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(waker: Arc<mio::Waker>, links: Vec<LinkReport>, sessions: usize) -> Self {
        Self {
            clock: Clock::start(),
            commands: Mutex::new(Some(Vec::new())),
            waker,
            links: Mutex::new(links),
            thread: Mutex::default(),
            thread_id: Mutex::default(),
            sessions: AtomicUsize::new(sessions),
        }
    }

    /// Leaves a command for the thread; gives it back if the thread has ended.
    pub(crate) fn push(&self, command: Command) -> Result<(), Command> {
        let mut commands = lock(&self.commands);
        let Some(commands) = commands.as_mut() else { return Err(command) };
        commands.push(command);
        // Whoever finds the queue empty wakes the thread; it takes all there is.
        if commands.len() == 1 {
            self.waker.wake().expect("an event descriptor can always be written");
        }
        Ok(())
    }

    /// Everything that was left for the thread.
    pub(crate) fn take(&self, into: &mut Vec<Command>) {
        assert!(into.is_empty());
        std::mem::swap(lock(&self.commands).as_mut().expect("the thread has not ended"), into);
    }

    /// The thread ends: what is still there was not sent, and nothing more is taken.
    pub(crate) fn end(&self) -> Vec<Command> {
        lock(&self.commands).take().unwrap_or_default()
    }

    pub(crate) fn waker(&self) -> Arc<mio::Waker> {
        self.waker.clone()
    }

    /// A session ends; said before anybody who waits for that is told.
    pub(crate) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether every session has ended: then the thread does too.
    pub(crate) fn is_unused(&self) -> bool {
        self.sessions.load(Ordering::Acquire) == 0
    }

    pub(crate) fn report(&self, index: usize, is_up: bool, last_error: &str) {
        let report = &mut lock(&self.links)[index];
        report.is_up = is_up;
        report.last_error = last_error.into();
    }

    pub(crate) fn links(&self) -> Vec<LinkReport> {
        lock(&self.links).clone()
    }

    pub(crate) fn set_thread(&self, thread: JoinHandle<()>) {
        *lock(&self.thread_id) = Some(thread.thread().id());
        *lock(&self.thread) = Some(thread);
    }

    /// Panics on the I/O thread itself: it would wait for what only it can do.
    pub(crate) fn assert_may_wait(&self) {
        let own = std::thread::current().id();
        assert_ne!(*lock(&self.thread_id), Some(own), "a completion callback must not wait for its own client");
    }

    /// Waits until the thread is gone. Only after all of its sessions have ended.
    pub(crate) fn join(&self) {
        if let Some(thread) = lock(&self.thread).take() {
            // A panic was caught and reported inside; joining is all that is left.
            let _ = thread.join();
        }
    }
}

/// The end of an operation that a handle could not even leave for the thread.
pub(crate) fn never_sent(reason: NotSent) -> Outcome {
    Outcome::NotSent { reason }
}
