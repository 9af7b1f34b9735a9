//! How the ends of operations reach those who wait for them: a queue with a descriptor to wait on, a callback, or a
//! slot for each operation that a future or a blocked caller looks into. Also the bound on how many may be open.

use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bft_core::client::{Outcome, Unknown};
use rustix::event::{EventfdFlags, eventfd};

/// The end of an operation that was submitted with a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The tag that the operation was submitted with.
    pub tag: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Takes completions out of the vector, as many as came together.
pub type BatchCallback = Box<dyn FnMut(&mut Vec<Completion>) + Send>;

/// Where the completions of tagged operations go. Futures and blocking calls work beside all three.
pub enum Completions {
    /// To a queue that [`Client::poll`](crate::Client::poll) empties.
    Queue,
    /// To this function, on the client's I/O thread: it must not wait for anything, least of all for this client.
    Callback(Box<dyn FnMut(Completion) + Send>),
    /// To this function, on the client's I/O thread, as many at a time as came together; it takes them out. Like a
    /// callback, it must not wait; it may submit what is to follow.
    Batches(BatchCallback),
    /// There are none: tagged operations are refused.
    Futures,
}

/// How long [`Client::poll`](crate::Client::poll) waits for the first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this long.
    UpTo(Duration),
    /// Until there is one, or the client has ended.
    Forever,
}

/// Nothing that is done under our locks panics halfway; a caller's panic elsewhere must not take the client down.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one operation's caller is owed. Dropping it unanswered answers: the end is unknown.
pub(crate) enum Waiter {
    /// A completion with this tag.
    Tag(u64),
    /// A look into this slot.
    Slot(Arc<Slot>),
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Self::Slot(slot) = self {
            slot.fill(Outcome::Unknown { reason: Unknown::Closed });
        }
    }
}

/// One operation's end, once it is there.
#[derive(Default)]
pub(crate) struct Slot {
    state: Mutex<SlotState>,
    filled: Condvar,
}

#[derive(Default)]
struct SlotState {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Slot {
    pub(crate) fn filled_with(outcome: Outcome) -> Arc<Self> {
        let slot = Arc::<Self>::default();
        slot.fill(outcome);
        slot
    }

    /// The first outcome stands.
    pub(crate) fn fill(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        if state.outcome.is_none() {
            state.outcome = Some(outcome);
            self.filled.notify_all();
            let waker = state.waker.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Blocks until the outcome is there.
    pub(crate) fn wait(&self) -> Outcome {
        let state = lock(&self.state);
        let state = self.filled.wait_while(state, |state| state.outcome.is_none());
        let state = state.unwrap_or_else(PoisonError::into_inner);
        state.outcome.clone().expect("waited for")
    }
}

/// An operation on its way, as a future for any executor. Dropping it does not withdraw the operation: nobody hears of
/// its end then.
pub struct Pending(pub(crate) Arc<Slot>);

impl Future for Pending {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = lock(&self.0.state);
        if let Some(outcome) = &state.outcome {
            return Poll::Ready(outcome.clone());
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// What has happened to one client's sessions so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionReport {
    /// Sessions opened: one, unless some were lost.
    pub opened: u64,
    /// Sessions that ended though this client did not close them.
    pub lost: u64,
    /// How often a replica answered BUSY.
    pub busy: u64,
}

/// The same while it is counted: by the I/O thread alone, and read by the handles.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) opened: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) busy: AtomicU64,
}

impl History {
    pub(crate) fn report(&self) -> SessionReport {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SessionReport { opened: read(&self.opened), lost: read(&self.lost), busy: read(&self.busy) }
    }
}

/// Where one session's completions go, and how many may be open. Between the session's handles and the I/O thread.
pub(crate) struct Outlet {
    pub(crate) history: History,
    target: Target,
    event: Arc<OwnedFd>,
    credit: Mutex<Credit>,
    ended: Mutex<bool>,
    on_end: Condvar,
}

enum Target {
    Queue { ready: Mutex<VecDeque<Completion>>, filled: Condvar },
    Callback(Mutex<Box<dyn FnMut(Completion) + Send>>),
    Batches(Mutex<BatchCallback>),
    Futures,
}

/// What may still be taken.
struct Credit {
    operations: usize,
    bytes: usize,
    is_open: bool,
}

/// Why nothing may be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoCredit {
    Full,
    Closed,
}

impl Outlet {
    /// `silent` is a descriptor for those whose completions do not go to a queue: it never becomes readable.
    pub(crate) fn new(
        completions: Completions,
        silent: &Arc<OwnedFd>,
        operations: usize,
        bytes: usize,
    ) -> std::io::Result<Self> {
        let (target, event) = match completions {
            Completions::Queue => {
                (Target::Queue { ready: Mutex::default(), filled: Condvar::new() }, Arc::new(event_descriptor()?))
            }
            Completions::Callback(callback) => (Target::Callback(Mutex::new(callback)), silent.clone()),
            Completions::Batches(callback) => (Target::Batches(Mutex::new(callback)), silent.clone()),
            Completions::Futures => (Target::Futures, silent.clone()),
        };
        let credit = Mutex::new(Credit { operations, bytes, is_open: true });
        Ok(Self {
            history: History::default(),
            target,
            event,
            credit,
            ended: Mutex::new(false),
            on_end: Condvar::new(),
        })
    }

    pub(crate) fn takes_tags(&self) -> bool {
        match self.target {
            Target::Queue { .. } | Target::Callback(_) | Target::Batches(_) => true,
            Target::Futures => false,
        }
    }

    /// Reserves room for operations of these lengths, in their order; says for how many there was.
    pub(crate) fn reserve(&self, lengths: impl Iterator<Item = usize>) -> Result<usize, NoCredit> {
        let mut credit = lock(&self.credit);
        if !credit.is_open {
            return Err(NoCredit::Closed);
        }
        let mut taken = 0;
        for length in lengths {
            if credit.operations == 0 || credit.bytes < length {
                return if taken == 0 { Err(NoCredit::Full) } else { Ok(taken) };
            }
            credit.operations -= 1;
            credit.bytes -= length;
            taken += 1;
        }
        Ok(taken)
    }

    /// Gives back the bytes of an operation that has ended, and its place unless a completion still holds that.
    pub(crate) fn release(&self, operations: usize, bytes: usize) {
        let mut credit = lock(&self.credit);
        credit.operations += operations;
        credit.bytes += bytes;
    }

    /// From now on nothing is taken. Whether this call did it.
    pub(crate) fn shut(&self) -> bool {
        std::mem::replace(&mut lock(&self.credit).is_open, false)
    }

    /// Hands completions of tagged operations over. A queue keeps their places until they are polled.
    pub(crate) fn deliver(&self, completions: &mut Vec<Completion>) {
        match &self.target {
            Target::Queue { ready, filled } => {
                let mut ready = lock(ready);
                if ready.is_empty() && !completions.is_empty() {
                    rustix::io::write(&*self.event, &1u64.to_ne_bytes())
                        .expect("an event descriptor at zero takes one");
                }
                ready.extend(completions.drain(..));
                filled.notify_all();
            }
            Target::Callback(callback) => {
                self.release(completions.len(), 0);
                let mut callback = lock(callback);
                for completion in completions.drain(..) {
                    // A caller's bug must not end everybody's operations.
                    if catch_unwind(AssertUnwindSafe(|| callback(completion))).is_err() {
                        tracing::error!("a completion callback panicked; the client goes on");
                    }
                }
            }
            Target::Batches(callback) => {
                self.release(completions.len(), 0);
                let mut callback = lock(callback);
                if catch_unwind(AssertUnwindSafe(|| callback(completions))).is_err() {
                    tracing::error!("a completion callback panicked; the client goes on");
                }
                completions.clear();
            }
            Target::Futures => assert!(completions.is_empty(), "tagged operations are not taken"),
        }
    }

    pub(crate) fn poll(&self, out: &mut Vec<Completion>, max: usize, wait: Wait) -> usize {
        let Target::Queue { ready, filled } = &self.target else { return 0 };
        let mut ready = lock(ready);
        let is_idle = |ready: &mut VecDeque<Completion>| ready.is_empty() && !self.has_ended();
        ready = match wait {
            Wait::No => ready,
            Wait::UpTo(time) => {
                filled.wait_timeout_while(ready, time, is_idle).unwrap_or_else(PoisonError::into_inner).0
            }
            Wait::Forever => filled.wait_while(ready, is_idle).unwrap_or_else(PoisonError::into_inner),
        };
        let count = ready.len().min(max);
        out.extend(ready.drain(..count));
        if ready.is_empty() && count > 0 {
            rustix::io::read(&*self.event, &mut [0; 8]).expect("readable while the queue was not empty");
        }
        drop(ready);
        self.release(count, 0);
        count
    }

    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Nothing more comes.
    pub(crate) fn end(&self) {
        self.shut();
        *lock(&self.ended) = true;
        self.on_end.notify_all();
        match &self.target {
            Target::Queue { ready, filled } => {
                // Taken so that nobody is between looking and waiting.
                let _ready = lock(ready);
                filled.notify_all();
            }
            Target::Callback(callback) => {
                // It may hold a handle of this very client: nobody would ever drop the one for the other.
                let callback = std::mem::replace(&mut *lock(callback), Box::new(|_| {}));
                drop(callback);
            }
            Target::Batches(callback) => {
                let callback = std::mem::replace(&mut *lock(callback), Box::new(|_| {}));
                drop(callback);
            }
            Target::Futures => {}
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        *lock(&self.ended)
    }

    pub(crate) fn wait_end(&self) {
        let ended = lock(&self.ended);
        drop(self.on_end.wait_while(ended, |ended| !*ended).unwrap_or_else(PoisonError::into_inner));
    }
}

/// A descriptor that one write makes readable and one read makes silent again.
pub(crate) fn event_descriptor() -> std::io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
