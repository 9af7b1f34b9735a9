//! Keeps every client's window full, one thread a client, and counts what comes back. A closed loop: its latencies are
//! those of a cluster that has all it can do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_client::{Client, Completion, Outcome, Submit, SubmitError, Wait};
use hdrhistogram::Histogram;

use super::mix::{Asked, Mix, Workload};

/// Operations handed over and taken back at a time.
const AT_A_TIME: usize = 64;
/// How long a thread waits for completions before it looks up.
const LOOK_UP: Duration = Duration::from_millis(20);
/// The longest latency that is told apart.
const LATENCY_MAX_US: u64 = 120_000_000;

/// Latencies in microseconds.
pub type Latencies = Histogram<u64>;

/// A histogram without anything in it.
pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("bounds that a histogram can have")
}

/// What came of operations in some time.
#[derive(Clone)]
pub struct Tally {
    /// Operations that were answered as they should be.
    pub done: u64,
    /// Operations that were not.
    pub failed: u64,
    /// What was wrong with the first of those.
    pub first_failure: Option<String>,
    /// Of those that were answered.
    pub latencies: Latencies,
}

impl Tally {
    fn new() -> Self {
        Self { done: 0, failed: 0, first_failure: None, latencies: latencies() }
    }

    /// Adds what `other` has.
    pub fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.failed += other.failed;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
        self.latencies.add(&other.latencies).expect("of the same bounds");
    }

    fn done(&mut self, latency: Duration) {
        self.done += 1;
        self.latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    fn failed(&mut self, why: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(why);
    }
}

/// A load that runs.
pub struct Load {
    is_stopping: Arc<AtomicBool>,
    desks: Vec<Arc<Mutex<Tally>>>,
    threads: Vec<JoinHandle<i64>>,
}

impl Load {
    /// Starts it: every client keeps `inflight` operations under way.
    pub fn start(clients: &[Client], workload: Workload, inflight: usize) -> std::io::Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut load = Self { is_stopping, desks: Vec::new(), threads: Vec::new() };
        let count = u32::try_from(clients.len()).expect("a handful of clients");
        for (client, index) in clients.iter().zip(0..) {
            let desk = Arc::new(Mutex::new(Tally::new()));
            let mut driver = Driver {
                client: client.clone(),
                mix: Mix::new(workload, index, count),
                slots: vec![None; inflight],
                free: (0..inflight).collect(),
                operations: vec![Vec::new(); AT_A_TIME],
                completions: Vec::new(),
                desk: desk.clone(),
                is_stopping: load.is_stopping.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("load-{index}"));
            load.threads.push(thread.spawn(move || driver.run())?);
            load.desks.push(desk);
        }
        Ok(load)
    }

    /// What came of operations since this was last asked.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::new();
        for desk in &self.desks {
            let fresh = Tally::new();
            let taken = std::mem::replace(&mut *desk.lock().unwrap_or_else(PoisonError::into_inner), fresh);
            sum.add(&taken);
        }
        sum
    }

    /// Starts nothing more, and waits for the end of everything that is under way. Gives what was added to counters and
    /// acknowledged, and what came of operations since [`Self::tally`] was last asked.
    pub fn stop(mut self) -> (i64, Tally) {
        self.is_stopping.store(true, Ordering::Release);
        let ended = std::mem::take(&mut self.threads).into_iter().map(JoinHandle::join);
        let added = ended.map(|added| added.expect("a panic of the load was printed by its thread")).sum();
        (added, self.tally())
    }
}

/// One client's thread.
struct Driver {
    client: Client,
    mix: Mix,
    /// What is under way, by tag.
    slots: Vec<Option<(Asked, Instant)>>,
    free: Vec<usize>,
    /// Bytes of operations, used again.
    operations: Vec<Vec<u8>>,
    completions: Vec<Completion>,
    desk: Arc<Mutex<Tally>>,
    is_stopping: Arc<AtomicBool>,
}

impl Driver {
    fn run(&mut self) -> i64 {
        loop {
            if !self.is_stopping.load(Ordering::Acquire) {
                while self.free.len() >= AT_A_TIME.min(self.slots.len()) && self.submit() {}
            } else if self.free.len() == self.slots.len() {
                return self.mix.added();
            }
            self.client.poll(&mut self.completions, AT_A_TIME, Wait::UpTo(LOOK_UP));
            self.settle();
        }
    }

    /// Hands over as many operations as there are free slots, up to [`AT_A_TIME`]. False: no more now.
    fn submit(&mut self) -> bool {
        let count = self.free.len().min(AT_A_TIME);
        let now = Instant::now();
        let tags = self.free.split_off(self.free.len() - count);
        for (tag, bytes) in tags.iter().zip(&mut self.operations) {
            self.slots[*tag] = Some((self.mix.next(bytes), now));
        }
        let pairs = tags.iter().zip(&self.operations);
        let batch: Vec<_> =
            pairs.map(|(tag, bytes)| Submit { bytes, tag: *tag as u64, ..Submit::default() }).collect();
        let mut taken = 0;
        while taken < count {
            match self.client.submit(&batch[taken..]) {
                Ok(more) => taken += more,
                // The queue is longer than all slots together, and nobody else uses this client.
                Err(error @ (SubmitError::Full | SubmitError::TooLarge { .. } | SubmitError::NoTags)) => {
                    panic!("{error}")
                }
                Err(error @ SubmitError::Closed) => {
                    for tag in &tags[taken..] {
                        self.slots[*tag] = None;
                        self.free.push(*tag);
                        lock(&self.desk).failed(error.to_string());
                    }
                    self.is_stopping.store(true, Ordering::Release);
                    return false;
                }
            }
        }
        true
    }

    fn settle(&mut self) {
        if self.completions.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut desk = lock(&self.desk);
        for Completion { tag, outcome } in self.completions.drain(..) {
            let slot = usize::try_from(tag).expect("the tags are ours");
            let (asked, since) = self.slots[slot].take().expect("an operation completes once");
            self.free.push(slot);
            let verdict = match outcome {
                Outcome::Done { result, .. } => self.mix.answered(asked, &result),
                other @ (Outcome::Rejected { .. } | Outcome::NotSent { .. } | Outcome::Unknown { .. }) => {
                    Err(format!("{asked:?} ended as {other:?}"))
                }
            };
            match verdict {
                Ok(()) => desk.done(now - since),
                Err(why) => desk.failed(why),
            }
        }
    }
}

fn lock(desk: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}
