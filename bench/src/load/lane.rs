//! One client's operations: which are under way, and what starts next. Everything that happens to them happens on the
//! client's I/O thread, as completions arrive, so that no other thread has to be woken; in an open loop a second thread
//! starts what is due.
//!
//! Kept here: an operation has a slot from its start to its end, and its tag is the slot's number; an operation's
//! latency counts from when it was to start.

use std::sync::{Arc, Mutex};

use bft_client::{Client, Completion, Outcome, Submit, SubmitError};

use super::recorder::{End, Kind, Recorder};
use super::schedule::Schedule;
use super::work::{Asked, Verdict, Work};
use super::{Shared, lock};

/// Operations handed over at a time.
const AT_A_TIME: usize = 128;

/// One client's operations.
pub struct Lane {
    shared: Arc<Shared>,
    recorder: Arc<Mutex<Recorder>>,
    /// None before the load has started, and after it has ended.
    client: Option<Client>,
    work: Work,
    has_more: bool,
    pace: LanePace,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Bytes of operations on their way to the client, used again.
    bytes: Vec<u8>,
}

/// When this client's operations start.
#[derive(Clone, Copy, Debug)]
pub enum LanePace {
    /// As soon as there is a slot.
    Closed,
    /// When they are due; `started` have been.
    Open {
        /// When.
        schedule: Schedule,
        /// The number of the next one.
        started: u64,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    intended: u64,
    asked: Asked,
    op_bytes: u32,
}

impl Lane {
    /// A client with `inflight` slots. It does nothing before [`Self::start`].
    pub fn new(shared: Arc<Shared>, recorder: Arc<Mutex<Recorder>>, work: Work, inflight: usize) -> Self {
        let slots = vec![Slot::default(); inflight];
        let free = (0..u32::try_from(inflight).expect("at most a window of full envelopes")).rev().collect();
        let (client, has_more, pace, bytes) = (None, true, LanePace::Closed, Vec::new());
        Self { shared, recorder, client, work, has_more, pace, slots, free, bytes }
    }

    /// From now on operations start.
    pub fn start(&mut self, client: Client, pace: LanePace) {
        (self.client, self.pace) = (Some(client), pace);
        self.fill(self.shared.now());
    }

    /// Starts nothing more, and forgets the client. What is under way counts as not answered.
    pub fn end(&mut self) {
        self.client = None;
        self.end_at(self.shared.now());
    }

    fn end_at(&mut self, now: u64) {
        let interval = self.shared.interval();
        let mut recorder = lock(&self.recorder);
        let mut is_free = vec![false; self.slots.len()];
        self.free.iter().for_each(|slot| is_free[*slot as usize] = true);
        let open = self.slots.iter().zip(&is_free).filter(|(_, is_free)| !**is_free);
        open.for_each(|(slot, _)| recorder.unfinished(now, slot.intended, &interval));
        if let LanePace::Open { schedule, started } = self.pace {
            let due = schedule.due(interval.end.saturating_sub(1).min(now));
            (started..due).for_each(|number| recorder.unfinished(now, schedule.time(number), &interval));
        }
        recorder.unanswered(self.under_way() as u64);
    }

    /// How many operations are due and not started, in an open loop.
    pub fn overdue(&self, now: u64) -> u64 {
        match self.pace {
            LanePace::Closed => 0,
            LanePace::Open { schedule, started } => schedule.due(now).saturating_sub(started),
        }
    }

    /// How many operations are under way.
    pub fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether every operation that there was has ended.
    pub fn is_done(&self) -> bool {
        !self.has_more && self.under_way() == 0
    }

    /// Takes the ends of operations, and starts others in their place.
    pub fn completed(&mut self, completions: &mut Vec<Completion>) {
        let now = self.shared.now();
        self.settle_all(now, completions);
        self.fill(now);
    }

    fn settle_all(&mut self, now: u64, completions: &mut Vec<Completion>) {
        let interval = self.shared.interval();
        let recorder = self.recorder.clone();
        let mut recorder = lock(&recorder);
        let mut has_answer = false;
        for Completion { tag, outcome } in completions.drain(..) {
            let end = self.settle(tag, &outcome);
            has_answer |= end.failed.is_none();
            recorder.ended(now, &interval, end);
        }
        if has_answer {
            recorder.gap(self.shared.answered(now), now, &interval);
        }
    }

    fn settle(&mut self, tag: u64, outcome: &Outcome) -> End {
        let index = u32::try_from(tag).expect("the tags are ours");
        let Slot { intended, asked, op_bytes } = self.slots[index as usize];
        self.free.push(index);
        let (failed, reply_bytes) = match outcome {
            Outcome::Done { result, .. } => (self.judge(asked, result), result.len()),
            Outcome::Rejected { .. } | Outcome::NotSent { .. } | Outcome::Unknown { .. } => (Kind::of(outcome), 0),
        };
        End { intended, failed, op_bytes: op_bytes as usize, reply_bytes }
    }

    fn judge(&self, asked: Asked, result: &[u8]) -> Option<Kind> {
        match self.work.check(asked, result) {
            Verdict::Right => None,
            Verdict::Refused => Some(Kind::ServiceRefused),
            Verdict::Wrong => Some(Kind::WrongReply),
        }
    }

    /// Starts as many operations as are to start now.
    pub fn fill(&mut self, now: u64) {
        while self.fill_some(now) == AT_A_TIME {}
    }

    /// Starts at most as many as are handed over at a time; says how many.
    fn fill_some(&mut self, now: u64) -> usize {
        if now >= self.shared.interval().end || !self.has_more {
            return 0;
        }
        let Some(client) = self.client.clone() else { return 0 };
        let room = match self.pace {
            LanePace::Closed => self.free.len(),
            LanePace::Open { .. } => self.free.len().min(usize::try_from(self.overdue(now)).unwrap_or(usize::MAX)),
        };
        let count = self.prepare(now, room.min(AT_A_TIME));
        if count == 0 {
            return 0;
        }
        let taken = self.hand_over(&client, count);
        self.started(taken);
        taken
    }

    /// The first `count` of those prepared are under way.
    fn started(&mut self, count: usize) {
        self.free.truncate(self.free.len() - count);
        if let LanePace::Open { started, .. } = &mut self.pace {
            *started += count as u64;
        }
    }

    /// Makes `count` operations for the slots at the end of `free`; fewer if there are no more.
    fn prepare(&mut self, now: u64, count: usize) -> usize {
        self.bytes.clear();
        for place in 0..count {
            let from = self.bytes.len();
            let Some(asked) = self.work.next(&mut self.bytes) else {
                self.has_more = false;
                return place;
            };
            let intended = match self.pace {
                LanePace::Closed => now,
                LanePace::Open { schedule, started } => schedule.time(started + place as u64),
            };
            let op_bytes = u32::try_from(self.bytes.len() - from).expect("an operation fits a Request");
            let slot = self.free[self.free.len() - 1 - place];
            self.slots[slot as usize] = Slot { intended, asked, op_bytes };
        }
        count
    }

    fn hand_over(&self, client: &Client, count: usize) -> usize {
        let mut submits = [Submit::default(); AT_A_TIME];
        let mut from = 0;
        for (place, submit) in submits[..count].iter_mut().enumerate() {
            let slot = self.free[self.free.len() - 1 - place];
            let to = from + self.slots[slot as usize].op_bytes as usize;
            *submit = Submit { bytes: &self.bytes[from..to], tag: u64::from(slot), ..Submit::default() };
            from = to;
        }
        match client.submit(&submits[..count]) {
            Ok(taken) => taken,
            // What is not taken now is tried again when something has ended. A closed client has ended everything.
            Err(SubmitError::Full | SubmitError::Closed) => 0,
            Err(error @ (SubmitError::TooLarge { .. } | SubmitError::NoTags)) => panic!("{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::WorkPlan;

    const MS: u64 = 1_000_000;

    fn lane(pace: LanePace, interval: std::ops::Range<u64>) -> Lane {
        let recorder = Arc::new(Mutex::new(Recorder::new()));
        let work = Work::new(WorkPlan::Null { op_bytes: 16, reply_bytes: 0 }, 0, 1);
        let mut lane = Lane::new(Arc::new(Shared::measuring(interval)), recorder, work, 8);
        lane.pace = pace;
        lane
    }

    /// Starts `count` operations at `now`, as far as there is room; gives their tags.
    fn start(lane: &mut Lane, now: u64, count: usize) -> Vec<u64> {
        let count = lane.prepare(now, count.min(lane.free.len()));
        let tags = lane.free.iter().rev().take(count).map(|slot| u64::from(*slot)).collect();
        lane.started(count);
        tags
    }

    fn answer(lane: &mut Lane, now: u64, tags: &[u64]) {
        let done = || Outcome::Done { seq: bft_core::ids::Seq(1), result: Default::default() };
        let mut completions = tags.iter().map(|tag| Completion { tag: *tag, outcome: done() }).collect();
        lane.settle_all(now, &mut completions);
    }

    /// Latencies in milliseconds, the shortest first.
    fn latencies(lane: &Lane) -> Vec<u64> {
        let recorder = lock(&lane.recorder);
        let recorded = recorder.measured().latencies.iter_recorded();
        recorded.flat_map(|value| vec![value.value_iterated_to() / MS; value.count_at_value() as usize]).collect()
    }

    #[test]
    fn latency_counts_from_when_an_operation_was_due_not_from_when_it_could_be_sent() {
        // One is due each millisecond from 0 on, but nothing can be sent before 10 ms.
        let schedule = Schedule::new(0, 1_000, 0, 1);
        let mut lane = lane(LanePace::Open { schedule, started: 0 }, 0..100 * MS);
        assert_eq!(lane.overdue(10 * MS), 11);
        let tags = start(&mut lane, 10 * MS, 5);
        answer(&mut lane, 12 * MS, &tags);
        assert_eq!(latencies(&lane), [8, 9, 10, 11, 12], "a stall shows in all that it kept waiting");
        assert_eq!((lane.overdue(10 * MS), lane.under_way()), (6, 0));
    }

    #[test]
    fn what_is_not_answered_or_not_even_sent_in_the_end_counts_with_the_time_it_waited() {
        let schedule = Schedule::new(0, 1_000, 0, 1);
        let mut lane = lane(LanePace::Open { schedule, started: 0 }, 0..4 * MS);
        start(&mut lane, MS, 2);
        lane.end_at(9 * MS);
        assert_eq!(latencies(&lane), [6, 7, 8, 9]);
        assert_eq!(lock(&lane.recorder).measured().errors.total(), 2, "those that were sent");
    }

    #[test]
    fn a_closed_loop_counts_from_when_an_operation_was_handed_over() {
        let mut lane = lane(LanePace::Closed, 0..100 * MS);
        let first = start(&mut lane, 3 * MS, 100);
        assert_eq!((first.len(), lane.under_way()), (8, 8), "as many as there are slots");
        answer(&mut lane, 5 * MS, &first[..1]);
        let second = start(&mut lane, 5 * MS, 1);
        assert_eq!(second, first[..1], "its slot is used again");
        answer(&mut lane, 9 * MS, &second);
        assert_eq!(latencies(&lane), [2, 4]);
    }
}
