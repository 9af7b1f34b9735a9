//! What was seen together: which event reached a replica in which status, while which fault was on or which villain
//! attacked. Counted in every run and summed over all, so that what no seed ever tried shows.

use std::collections::BTreeMap;
use std::fmt;

use bft_core::door::{Input, LinkState};
use bft_core::wire::message::Kind;

use crate::options::Fault;
use crate::run::Report;
use crate::villains::Strategy;
use crate::villains::clients::ClientStrategy;

/// Inputs that are no messages.
const LOCAL: [&str; 11] = [
    "Requests",
    "link up",
    "link down",
    "client",
    "durable",
    "executed",
    "snapshot",
    "loaded",
    "installed",
    "deadline",
    "file",
];
/// What a replica may be doing when something happens to it.
const STATUSES: [&str; 3] = ["primary", "backup", "changing"];
/// Events: those, and messages of every kind that replicas send one another.
const EVENTS: usize = LOCAL.len() + PEER_KINDS.len();
const PEER_KINDS: [Kind; 24] = [
    Kind::Request,
    Kind::PrePrepare,
    Kind::Prepare,
    Kind::Commit,
    Kind::Checkpoint,
    Kind::Snapshot,
    Kind::ViewChange,
    Kind::NewView,
    Kind::Status,
    Kind::FetchSlot,
    Kind::Slot,
    Kind::FetchBody,
    Kind::Body,
    Kind::FetchLog,
    Kind::Log,
    Kind::FetchManifest,
    Kind::Manifest,
    Kind::FetchChunk,
    Kind::Chunk,
    Kind::FetchTrail,
    Kind::Trail,
    Kind::Evidence,
    Kind::Recall,
    Kind::Recalled,
];

/// What a replica is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It proposes.
    Primary,
    /// It votes.
    Backup,
    /// It is between views.
    Changing,
}

/// An event that reaches a replica in some status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Meeting {
    event: usize,
    status: usize,
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at a {} one", event_name(self.event), STATUSES[self.status])
    }
}

/// How often each event reached a replica in each status, in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen([[u32; STATUSES.len()]; EVENTS]);

impl Default for Seen {
    fn default() -> Self {
        Self([[0; STATUSES.len()]; EVENTS])
    }
}

impl Seen {
    /// What was met.
    pub fn meetings(&self) -> impl Iterator<Item = Meeting> {
        meetings(&self.0).filter(|(_, count)| *count > 0).map(|(meeting, _)| meeting)
    }

    /// `input` reaches a replica.
    pub fn note(&mut self, input: &Input, status: Status) {
        if let Some(event) = event_of(input) {
            self.0[event][status as usize] += 1;
        }
    }
}

/// The event's place in the table. What a shell answers for itself is none.
fn event_of(input: &Input) -> Option<usize> {
    Some(match input {
        Input::Requests(_) => 0,
        Input::Link { state: LinkState::Up, .. } => 1,
        Input::Link { state: LinkState::Down, .. } => 2,
        Input::Client { .. } => 3,
        Input::Durable(_) => 4,
        Input::Executed { .. } => 5,
        Input::Snapshot { .. } => 6,
        Input::Loaded { .. } => 7,
        Input::Installed { .. } => 8,
        Input::Deadline => 9,
        Input::File(_) => 10,
        Input::InfoQuery { .. } => return None,
        Input::Message { message, .. } => {
            let kind = message.kind();
            return PEER_KINDS.iter().position(|known| *known == kind).map(|place| LOCAL.len() + place);
        }
    })
}

fn event_name(event: usize) -> String {
    LOCAL.get(event).map_or_else(|| format!("{:?}", PEER_KINDS[event - LOCAL.len()]), |name| (*name).to_owned())
}

/// What was on while something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    Fault(Fault),
    Villain(Strategy),
    Client(ClientStrategy),
}

/// By event and status.
type Table = [[u64; STATUSES.len()]; EVENTS];

const EMPTY: Table = [[0; STATUSES.len()]; EVENTS];

/// The sum over many runs.
#[derive(Clone, Debug)]
pub struct Coverage {
    seen: BTreeMap<Condition, Table>,
    all: Table,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { seen: BTreeMap::new(), all: EMPTY }
    }
}

impl Coverage {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        let villain = report.villain.filter(|_| report.counters.lies > 0).map(Condition::Villain);
        let client = report.client.filter(|_| report.counters.client_misdeeds > 0).map(Condition::Client);
        add(&mut self.all, &report.seen);
        for condition in report.faults.iter().copied().map(Condition::Fault).chain(villain).chain(client) {
            let sum = self.seen.entry(condition).or_insert(EMPTY);
            add(sum, &report.seen);
        }
    }

    /// How many triples of event, status and fault or villain were seen, and of all pairs of event and status those that
    /// never were.
    #[must_use]
    pub fn summary(&self) -> String {
        let cells = self.seen.len() * EVENTS * STATUSES.len();
        let seen: usize =
            self.seen.values().map(|table| table.iter().flatten().filter(|count| **count > 0).count()).sum();
        let never: Vec<_> = unseen(&self.all).map(|meeting| meeting.to_string()).collect();
        let never = if never.is_empty() { "none".to_owned() } else { never.join(", ") };
        format!("event x status x fault or villain: {seen} of {cells} seen; event x status never seen: {never}")
    }

    /// By fault, what was never met while it was on.
    #[must_use]
    pub fn empty(&self) -> Vec<String> {
        let of = |fault| {
            let unseen: Vec<_> = self.unseen_with(fault).map(|meeting| meeting.to_string()).collect();
            (!unseen.is_empty()).then(|| format!("{fault:?} was never on with {}", unseen.join(", ")))
        };
        Fault::ALL.into_iter().filter_map(of).collect()
    }

    /// What was never met while some fault was on, and while which.
    pub fn missing(&self) -> impl Iterator<Item = (Meeting, Fault)> {
        Fault::ALL.into_iter().flat_map(|fault| self.unseen_with(fault).map(move |meeting| (meeting, fault)))
    }

    fn unseen_with(&self, fault: Fault) -> impl Iterator<Item = Meeting> {
        unseen(self.seen.get(&Condition::Fault(fault)).unwrap_or(&EMPTY))
    }
}

fn meetings<C: Copy>(table: &[[C; STATUSES.len()]; EVENTS]) -> impl Iterator<Item = (Meeting, C)> {
    let rows = table.iter().enumerate();
    rows.flat_map(|(event, row)| (0..STATUSES.len()).map(move |status| (Meeting { event, status }, row[status])))
}

fn unseen(table: &Table) -> impl Iterator<Item = Meeting> {
    meetings(table).filter(|(_, count)| *count == 0).map(|(meeting, _)| meeting)
}

fn add(sum: &mut Table, seen: &Seen) {
    for (sum, count) in sum.iter_mut().flatten().zip(seen.0.iter().flatten()) {
        *sum += u64::from(*count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_on_is_counted_with_what_happened_and_the_rest_is_named() {
        let mut report = Report { faults: vec![Fault::Drop, Fault::Kill], ..Report::default() };
        report.seen.note(&Input::Deadline, Status::Backup);
        let mut coverage = Coverage::default();
        coverage.add(&report);
        let summary = coverage.summary();
        assert!(summary.starts_with("event x status x fault or villain: 2 of 210 seen"), "{summary}");
        assert!(summary.contains("deadline at a primary one") && !summary.contains("deadline at a backup one"));
        report.villain = Some(Strategy::Silent);
        coverage.add(&report);
        assert!(coverage.summary().contains("2 of 210"), "a villain that did nothing does not count");
    }
}
