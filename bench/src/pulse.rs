//! A steady stream of operations that shows when a cluster answers and when it does not: `kv` counters are added to at a
//! fixed rate, whatever has become of the earlier additions, and every answer is noted with its time.
//!
//! Kept here: an operation's tag is the time when it was submitted, and every operation submitted ends exactly once.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_client::{Client, ClientConfig, Completion, Completions, OpenError, Outcome, Submit};
use bft_services::kv::{Operation, Reply};

use crate::load::lock;
use crate::load::schedule::Schedule;

/// The counter that is added to.
const KEY: &[u8] = b"pulse";
/// How long an addition may take: longer than any view change here.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long the thread that submits sleeps at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// An answer: when the operation was submitted, and when it was answered, in the time of [`Pulse::now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When it was submitted.
    pub submitted: u64,
    /// When it was answered.
    pub answered: u64,
}

/// The stream.
pub struct Pulse {
    client: Client,
    shared: Arc<Shared>,
    is_over: Arc<AtomicBool>,
    driver: JoinHandle<()>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Additions submitted.
    pub submitted: u64,
    /// Those that were answered.
    pub acknowledged: u64,
    /// How the others ended, one of them.
    pub failure: Option<String>,
    /// What the counter holds.
    pub counted: i64,
}

struct Shared {
    origin: Instant,
    submitted: AtomicU64,
    ended: AtomicU64,
    beats: Mutex<Vec<Beat>>,
    failure: Mutex<Option<String>>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a process does not run for 584 years")
    }

    fn take(&self, Completion { tag, outcome }: Completion) {
        match &outcome {
            Outcome::Done { result, .. } if matches!(Reply::decode(result), Ok(Reply::Counter(_))) => {
                lock(&self.beats).push(Beat { submitted: tag, answered: self.now() });
            }
            Outcome::Done { .. } | Outcome::Rejected { .. } | Outcome::NotSent { .. } | Outcome::Unknown { .. } => {
                lock(&self.failure).get_or_insert_with(|| format!("{outcome:?}"));
            }
        }
        self.ended.fetch_add(1, Ordering::Release);
    }
}

impl Pulse {
    /// Starts to add `rate` times a second.
    pub fn start(mut config: ClientConfig, rate: u64) -> Result<Self, OpenError> {
        config.timeout = Some(TIMEOUT);
        let shared = Arc::new(Shared {
            origin: Instant::now(),
            submitted: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            beats: Mutex::default(),
            failure: Mutex::default(),
        });
        let taking = shared.clone();
        let take = move |completions: &mut Vec<Completion>| completions.drain(..).for_each(|end| taking.take(end));
        let client = Client::open(config, Completions::Batches(Box::new(take)))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let driver = Driver { client: client.clone(), shared: shared.clone(), is_over: is_over.clone() };
        let driver = std::thread::spawn(move || driver.run(rate));
        Ok(Self { client, shared, is_over, driver })
    }

    /// Nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// What is known against the stream: an addition that was not answered as it must be.
    pub fn failure(&self) -> Option<String> {
        lock(&self.shared.failure).clone()
    }

    /// The first answer to an operation that was submitted at `since` or later.
    pub fn first_answer_to(&self, since: u64) -> Option<Beat> {
        let beats = lock(&self.shared.beats);
        beats.iter().filter(|beat| beat.submitted >= since).min_by_key(|beat| beat.answered).copied()
    }

    /// The longest time in `interval` in which no answer came.
    pub fn gap_max(&self, interval: &Range<u64>) -> u64 {
        gap_max(&lock(&self.shared.beats), interval)
    }

    /// Stops to add, waits for every answer, and reads the counter.
    pub fn stop(self) -> Result<Count, String> {
        self.is_over.store(true, Ordering::Release);
        self.driver.join().expect("a panic of the stream was printed by its thread");
        let submitted = self.shared.submitted.load(Ordering::Acquire);
        while self.shared.ended.load(Ordering::Acquire) < submitted {
            std::thread::sleep(LOOK_INTERVAL);
        }
        let get = Operation::Get { key: KEY }.to_bytes().expect("the key is short");
        let outcome = self.client.call(&get, TIMEOUT);
        let counted = match &outcome {
            Outcome::Done { result, .. } => counter(result),
            Outcome::Rejected { .. } | Outcome::NotSent { .. } | Outcome::Unknown { .. } => None,
        };
        let counted = counted.ok_or_else(|| format!("the counter cannot be read: {outcome:?}"))?;
        let acknowledged = lock(&self.shared.beats).len() as u64;
        Ok(Count { submitted, acknowledged, failure: lock(&self.shared.failure).take(), counted })
    }
}

/// A counter as `get` answers it; one that was never added to is 0.
fn counter(result: &[u8]) -> Option<i64> {
    match Reply::decode(result).ok()? {
        Reply::Value(None) => Some(0),
        Reply::Value(Some(value)) => Some(i64::from_le_bytes(value.try_into().ok()?)),
        Reply::Stored(_)
        | Reply::Deleted(_)
        | Reply::Swapped
        | Reply::Mismatch(_)
        | Reply::Counter(_)
        | Reply::Count(_)
        | Reply::Appended(_)
        | Reply::Error(_) => None,
    }
}

fn gap_max(beats: &[Beat], interval: &Range<u64>) -> u64 {
    let mut answers: Vec<_> = beats.iter().map(|beat| beat.answered).filter(|at| interval.contains(at)).collect();
    answers.push(interval.end);
    answers.sort_unstable();
    let starts = std::iter::once(&interval.start).chain(&answers);
    starts.zip(&answers).map(|(before, after)| after - before).max().expect("the end is one of them")
}

/// Submits what is due.
struct Driver {
    client: Client,
    shared: Arc<Shared>,
    is_over: Arc<AtomicBool>,
}

impl Driver {
    fn run(&self, rate: u64) {
        let schedule = Schedule::new(self.shared.now(), rate, 0, 1);
        let add = Operation::Add { key: KEY, delta: 1 }.to_bytes().expect("the key is short");
        let mut number = 0;
        while !self.is_over.load(Ordering::Acquire) {
            let now = self.shared.now();
            while number < schedule.due(now) {
                let operation = Submit { bytes: &add, tag: self.shared.now(), ..Submit::default() };
                // Where the client is full, what is due waits: it is the time of submission that counts here.
                if self.client.submit(&[operation]).is_err() {
                    break;
                }
                self.shared.submitted.fetch_add(1, Ordering::Release);
                number += 1;
            }
            let next = Duration::from_nanos(schedule.time(number).saturating_sub(self.shared.now()));
            std::thread::sleep(next.min(LOOK_INTERVAL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_reach_from_edge_to_edge() {
        let beats = [20, 50, 55, 300].map(|answered| Beat { submitted: 0, answered });
        assert_eq!(gap_max(&beats, &(10..60)), 30);
        assert_eq!(gap_max(&beats, &(10..100)), 45);
        assert_eq!(gap_max(&beats, &(100..200)), 100);
        assert_eq!(gap_max(&[], &(5..9)), 4);
    }
}
