//! Load on a cluster: clients that keep operations under way, and count what comes of them. What is sent is in `work`,
//! when in `schedule`, one client's part in `lane`, what is counted in `recorder`.
//!
//! The clients of a group share links and one I/O thread, which is where operations end and the next ones start. An
//! open loop has one more thread, which looks at the clock.

pub mod lane;
pub mod recorder;
pub mod schedule;
pub mod work;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_client::{Client, ClientConfig, Completion, Completions, OpenError, SessionReport};
use bft_core::limits::CLIENT_KEYS_PER_LINK;

use crate::options::{Pace, Plan};
use lane::{Lane, LanePace};
use recorder::{Recorder, Tally};
use schedule::Schedule;
use work::Work;

/// How often an open loop starts what is due, where more than that is due.
const TICK: Duration = Duration::from_micros(250);
/// How often is looked whether operations have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What the threads of a load have in common.
pub struct Shared {
    origin: Instant,
    /// The measured interval; before it is known, the end of time.
    from: AtomicU64,
    until: AtomicU64,
    answered: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        let never = || AtomicU64::new(u64::MAX);
        Self { origin: Instant::now(), from: never(), until: never(), answered: AtomicU64::new(0) }
    }

    /// With the measured interval known from the beginning.
    #[cfg(test)]
    fn measuring(interval: Range<u64>) -> Self {
        Self { from: AtomicU64::new(interval.start), until: AtomicU64::new(interval.end), ..Self::new() }
    }

    /// Nanoseconds since the load was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a process does not run for 584 years")
    }

    /// The measured interval. Nothing starts after it.
    pub fn interval(&self) -> Range<u64> {
        self.from.load(Ordering::Acquire)..self.until.load(Ordering::Acquire)
    }

    /// An answer has come; says when the one before it did.
    pub fn answered(&self, now: u64) -> u64 {
        self.answered.fetch_max(now, Ordering::AcqRel)
    }
}

/// Nothing that is done under our locks panics halfway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients that share links and a thread.
struct Group {
    clients: Vec<Client>,
    lanes: Vec<Arc<Mutex<Lane>>>,
    recorder: Arc<Mutex<Recorder>>,
}

/// A load.
pub struct Load {
    shared: Arc<Shared>,
    pace: Pace,
    groups: Vec<Group>,
    driver: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    /// Opens the clients of `plan`. Nothing is sent but what opens sessions.
    pub fn open(config: &ClientConfig, plan: &Plan) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::new());
        let mut config = config.clone();
        config.operations_per_request = plan.ops_per_envelope;
        config.timeout = Some(plan.timeout);
        config.queue_operations = plan.inflight;
        config.queue_bytes = plan.inflight.saturating_mul(plan.op_bytes_max);
        // Clients that are certified here are new: nobody else's session is ended.
        if config.authority.is_some() {
            config.key = None;
        }
        let mut groups = Vec::new();
        for first in (0..plan.clients).step_by(CLIENT_KEYS_PER_LINK) {
            let count = CLIENT_KEYS_PER_LINK.min(plan.clients - first);
            groups.push(Group::open(&config, plan, &shared, first..first + count)?);
        }
        Ok(Self { shared, pace: plan.pace, groups, driver: None, is_over: Arc::default() })
    }

    /// Starts operations.
    pub fn start(&mut self) -> std::io::Result<()> {
        let start = self.shared.now();
        self.shared.answered(start);
        let clients: Vec<_> = self.groups.iter().flat_map(|group| group.clients.iter().zip(&group.lanes)).collect();
        let schedule = |client| match self.pace {
            Pace::Closed => LanePace::Closed,
            Pace::Open { rate } => {
                LanePace::Open { schedule: Schedule::new(start, rate, client, clients.len()), started: 0 }
            }
        };
        for (index, (client, lane)) in clients.iter().enumerate() {
            lock(lane).start((*client).clone(), schedule(index));
        }
        if let Pace::Open { rate } = self.pace {
            let lanes = clients.iter().map(|(_, lane)| (*lane).clone()).collect();
            let driver = Driver { shared: self.shared.clone(), lanes, schedule: Schedule::new(start, rate, 0, 1) };
            let is_over = self.is_over.clone();
            let thread = std::thread::Builder::new().name("bft-rate".into());
            self.driver = Some(thread.spawn(move || driver.run(&is_over))?);
        }
        Ok(())
    }

    /// Measures from `from` for `duration`, in the time of [`Self::now`]; nothing starts after that.
    pub fn measure(&self, from: u64, duration: Duration) -> Range<u64> {
        let until = from.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        self.shared.until.store(until, Ordering::Release);
        self.shared.from.store(from, Ordering::Release);
        from..until
    }

    /// Nanoseconds since the load was made.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// What came of operations since this was last asked. A silence that still lasts counts as a gap.
    pub fn recent(&self) -> Tally {
        let mut sum = Tally::default();
        self.groups.iter().for_each(|group| lock(&group.recorder).take_recent(&mut sum));
        let silence = self.now().saturating_sub(self.shared.answered.load(Ordering::Acquire));
        sum.gap_max = sum.gap_max.max(silence);
        sum
    }

    /// Operations due and not started, and started and not ended.
    pub fn backlog(&self) -> (u64, u64) {
        let now = self.now().min(self.shared.interval().end.saturating_sub(1));
        self.lanes().fold((0, 0), |(overdue, under_way), lane| {
            let lane = lock(lane);
            (overdue + lane.overdue(now), under_way + lane.under_way() as u64)
        })
    }

    /// What has happened to each client's sessions.
    pub fn sessions(&self) -> impl Iterator<Item = SessionReport> {
        self.groups.iter().flat_map(|group| group.clients.iter().map(Client::sessions))
    }

    /// What the links of the clients are doing, in words.
    pub fn links_in_words(&self) -> String {
        self.groups[0].clients[0].links().iter().map(|link| format!("\n  {link}")).collect()
    }

    /// Waits until every operation that there was to start has ended; false: `is_given_up` said so before.
    pub fn wait_done(&self, is_given_up: impl Fn() -> bool) -> bool {
        self.wait(Lane::is_done, is_given_up)
    }

    /// Waits until no operation is under way; false: `is_given_up` said so before.
    pub fn wait_idle(&self, is_given_up: impl Fn() -> bool) -> bool {
        self.wait(|lane| lane.under_way() == 0, is_given_up)
    }

    fn wait(&self, is_ready: impl Fn(&Lane) -> bool, is_given_up: impl Fn() -> bool) -> bool {
        while !self.lanes().all(|lane| is_ready(&lock(lane))) {
            if is_given_up() {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        true
    }

    /// Ends the load: what is not answered counts as such. Closes the sessions, for which the cluster has `grace`.
    pub fn end(mut self, grace: Duration) -> Tally {
        self.is_over.store(true, Ordering::Release);
        if let Some(driver) = self.driver.take() {
            driver.join().expect("a panic of the load was printed by its thread");
        }
        self.lanes().for_each(|lane| lock(lane).end());
        let interval = self.shared.interval();
        let mut sum = Tally::default();
        for group in &mut self.groups {
            let mut recorder = lock(&group.recorder);
            recorder.gap(self.shared.answered.load(Ordering::Acquire), interval.end, &interval);
            sum.add(recorder.measured());
        }
        for group in self.groups {
            close(group.clients, grace);
        }
        sum
    }

    fn lanes(&self) -> impl Iterator<Item = &Arc<Mutex<Lane>>> {
        self.groups.iter().flat_map(|group| &group.lanes)
    }
}

/// All at once: the last handle of a client closes it too, without waiting.
fn close(mut clients: Vec<Client>, grace: Duration) {
    if let Some(last) = clients.pop() {
        drop(clients);
        last.close(grace);
    }
}

impl Group {
    fn open(
        config: &ClientConfig,
        plan: &Plan,
        shared: &Arc<Shared>,
        indices: Range<usize>,
    ) -> Result<Self, OpenError> {
        let recorder = Arc::new(Mutex::new(Recorder::new()));
        let lane = |index| {
            let work = Work::new(plan.work, index, plan.clients);
            Arc::new(Mutex::new(Lane::new(shared.clone(), recorder.clone(), work, plan.inflight)))
        };
        let lanes: Vec<_> = indices.map(lane).collect();
        let clients = Client::open_many(config.clone(), lanes.len(), |index| {
            let lane = lanes[index].clone();
            Completions::Batches(Box::new(move |completions: &mut Vec<Completion>| lock(&lane).completed(completions)))
        })?;
        Ok(Self { clients, lanes, recorder })
    }
}

/// Starts the operations of an open loop when they are due.
struct Driver {
    shared: Arc<Shared>,
    lanes: Vec<Arc<Mutex<Lane>>>,
    /// Of all clients together.
    schedule: Schedule,
}

impl Driver {
    fn run(&self, is_over: &AtomicBool) {
        let mut seen = 0;
        while !is_over.load(Ordering::Acquire) {
            let now = self.shared.now();
            if now >= self.shared.interval().end {
                return;
            }
            let due = self.schedule.due(now);
            let count = self.lanes.len() as u64;
            for number in seen.max(due.saturating_sub(count))..due {
                lock(&self.lanes[(number % count) as usize]).fill(now);
            }
            seen = due;
            let next = Duration::from_nanos(self.schedule.time(due).saturating_sub(self.shared.now()));
            std::thread::sleep(next.clamp(TICK, LOOK_INTERVAL));
        }
    }
}
