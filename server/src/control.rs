//! The handle by which the rest of the process speaks to a running replica: stop it, learn that it runs, ask it for its
//! INFO.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::Duration;

use bft_core::wire::message::Info;

use crate::io::doorbell::Doorbell;

/// Longer than any disk takes to read a journal back.
const START_MAX: Duration = Duration::from_secs(24 * 3600);
/// Questions that may wait.
const QUESTIONS_MAX: usize = 64;

/// Of one call of [`crate::run`]. Clones speak to the same replica.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Something was asked since the replica last looked: it takes no lock to see that nothing was.
    is_asked: AtomicBool,
    bell: Arc<Doorbell>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    is_stopping: bool,
    questions: Vec<Question>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running,
    Ended,
}

/// Somebody waits for INFO.
#[derive(Debug)]
pub(crate) struct Question {
    /// With a state digest?
    pub want_digest: bool,
    /// Where it goes.
    pub answer: mpsc::Sender<Info>,
}

impl Control {
    /// A handle that belongs to no replica yet.
    pub fn new() -> io::Result<Self> {
        let bell = Arc::new(Doorbell::new()?);
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
                is_asked: AtomicBool::new(false),
                bell,
            }),
        })
    }

    /// Asks the replica to stop: it takes no more Requests, finishes what is in flight, flushes, and `run` returns
    /// `Ok`. Calling it again changes nothing.
    pub fn stop(&self) {
        self.lock().is_stopping = true;
        self.ask();
    }

    /// Waits until the replica has read its state back and takes connections. False: it ended, or `timeout` passed.
    #[must_use]
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        let state = self.lock();
        let waited = self.shared.changed.wait_timeout_while(state, timeout, |state| state.phase == Phase::Starting);
        waited.expect("nobody panics while holding it").0.phase == Phase::Running
    }

    /// Calls `act` once the replica takes connections, on a thread of its own; never, if it ends before.
    pub fn when_ready(&self, act: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let control = self.clone();
        let wait = move || {
            if control.wait_ready(START_MAX) {
                act();
            }
        };
        thread::Builder::new().name("bft-ready".into()).spawn(wait).map(drop)
    }

    /// What the replica says of itself. `None`: it does not run, has too many questions, or `timeout` passed.
    #[must_use]
    pub fn info(&self, timeout: Duration) -> Option<Info> {
        self.question(timeout, false)
    }

    /// The same, with the digest of its state, which may be up to five seconds old.
    #[must_use]
    pub fn info_with_digest(&self, timeout: Duration) -> Option<Info> {
        self.question(timeout, true)
    }

    fn question(&self, timeout: Duration, want_digest: bool) -> Option<Info> {
        let (answer, answered) = mpsc::channel();
        {
            let mut state = self.lock();
            if state.phase != Phase::Running || state.questions.len() >= QUESTIONS_MAX {
                return None;
            }
            state.questions.push(Question { want_digest, answer });
        }
        self.ask();
        answered.recv_timeout(timeout).ok()
    }

    /// The bell of the ordering executor.
    #[must_use]
    pub(crate) fn bell(&self) -> Arc<Doorbell> {
        self.shared.bell.clone()
    }

    pub(crate) fn started(&self) {
        self.enter(Phase::Running);
    }

    pub(crate) fn ended(&self) {
        self.enter(Phase::Ended);
        self.lock().questions.clear();
    }

    /// What was asked since the last call: whether to stop, and questions. `None`: nothing.
    pub(crate) fn asked(&self) -> Option<(bool, Vec<Question>)> {
        if !self.shared.is_asked.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut state = self.lock();
        Some((state.is_stopping, std::mem::take(&mut state.questions)))
    }

    fn ask(&self) {
        self.shared.is_asked.store(true, Ordering::Release);
        self.shared.bell.ring();
    }

    fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("nobody panics while holding it")
    }
}
