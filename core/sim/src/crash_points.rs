//! Crash points: a fixed run without faults is played once to list what one replica does with its disk, and then again
//! for every moment of every such operation, where the power of that replica goes, or of others too. Every run goes on
//! to the end, under all judges (TESTING §10). `docs/crash-points.md` tells how to read and to replay what comes out.
//!
//! A scenario of state transfer belongs into [`Scenario::ALL`]: its operations are listed and cut like all others.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use bft_core::config::{Cipher, ProtocolParams};
use bft_core::door::Tuning;
use bft_core::ids::ReplicaId;
use bft_core::limits::{KIB, MILLISECOND};

use crate::cluster::Cluster;
use crate::counters::Counters;
use crate::network::Node;
use crate::options::{ClientOptions, Fidelity, MICROSECOND, MachineOptions, NetworkOptions, Options, Scene};
use crate::points::{Operation, Plug, Point};
use crate::pool::spread;
use crate::run::{Report, run_scripted};
use crate::script::{Company, Crash, Cut, Script};
use crate::trace::Trace;

/// Everything is a function of this and of the case.
const SEED: u64 = 7;
/// Operations of the second life that are cut again, those of the start itself among them.
const SECOND_OPERATIONS: usize = 12;

/// A run that is cut at all its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// A few batches between two checkpoints.
    Normal,
    /// Checkpoints, snapshots, and the cut of the journal.
    Checkpoints,
    /// The primary is cut off, and comes back; checkpoints and snapshots in the next view.
    ViewChange,
    /// The journal goes from segment to segment.
    Rollover,
    /// A second cut, while the replica comes up after a first one.
    Recovery,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: [Self; 5] = [Self::Normal, Self::Checkpoints, Self::ViewChange, Self::Rollover, Self::Recovery];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "sc1",
            Self::Checkpoints => "sc2",
            Self::ViewChange => "sc3",
            Self::Rollover => "sc6",
            Self::Recovery => "sc7",
        }
    }

    /// What the run without a cut must show, or its points are not those of the scenario.
    fn gap(self, counters: &Counters, seen: &BTreeMap<Operation, usize>) -> Option<String> {
        let lacks = |kinds: &[Operation]| kinds.iter().find(|kind| !seen.contains_key(kind)).copied();
        match self {
            Self::Normal => lacks(&[Operation::Group]).map(|kind| format!("no {kind:?}")),
            Self::Checkpoints | Self::Recovery => {
                let kinds = [
                    Operation::Group,
                    Operation::NewSegment,
                    Operation::RecycledSegment,
                    Operation::FirstCopies,
                    Operation::LastCopies,
                    Operation::Chunk,
                    Operation::Name,
                    Operation::Removal,
                ];
                let copies = seen.get(&Operation::LastCopies).copied().unwrap_or(0);
                let few = (copies < 3).then(|| format!("only {copies} superblocks"));
                lacks(&kinds).map(|kind| format!("no {kind:?}")).or(few)
            }
            Self::ViewChange if counters.new_views == 0 => Some("no NEW-VIEW".into()),
            Self::ViewChange => lacks(&[Operation::Name]).map(|kind| format!("no {kind:?}")),
            Self::Rollover => lacks(&[Operation::NewSegment]).map(|kind| format!("no {kind:?}")),
        }
    }

    /// The replicas whose points are worth cutting: the first one stands for the others where time is short.
    fn victims(self) -> [ReplicaId; 2] {
        // A backup, which is the primary of the next view, and the primary, which a view change comes to be cut off.
        let primary = self.primary();
        [ReplicaId((primary.0 + 1) % 4), primary]
    }

    /// The primary of the first view.
    fn primary(self) -> ReplicaId {
        Cluster::new(&self.uncut()).primary()
    }

    fn options(self) -> Options {
        let mut options = self.uncut();
        if self == Self::ViewChange {
            let machine = Node(self.primary().index());
            options.script.cuts.push(Cut { machine, from: 30 * MILLISECOND, until: 400 * MILLISECOND });
        }
        options
    }

    /// Its cluster and its load, with all links.
    fn uncut(self) -> Options {
        let (snapshot_slots, operations, safety) = match self {
            Self::Normal => (64, 5, 40),
            Self::Checkpoints | Self::Recovery => (8, 22, 80),
            Self::ViewChange => (12, 24, 700),
            Self::Rollover => (64, 18, 70),
        };
        base(snapshot_slots, operations, safety * MILLISECOND)
    }
}

/// A small cluster on a quick network: four replicas, two clients, K = 4 and L = 8, journals of few blocks.
pub(crate) fn base(snapshot_slots: u64, operations: u32, safety: u64) -> Options {
    let checkpoint_interval = 4;
    let params = ProtocolParams {
        checkpoint_interval,
        window: 2 * checkpoint_interval,
        pipeline_max: 4,
        request_bytes_max: 3 * KIB as u32,
        request_operations_max: 4,
        batch_requests_max: 2,
        batch_bytes_max: 4 * KIB as u32,
        client_window: 8,
        sessions_max: 16,
        reply_bytes_max: 512,
        reply_cache_bytes: 256 * KIB as u64,
        snapshot_bytes: 1 << 20,
        snapshot_slots,
        view_timeout: 60 * MILLISECOND,
        cipher: Cipher::AesGcm,
    };
    let client = ClientOptions {
        window: 4,
        operations_per_request: 1,
        operations,
        // Two thirds before the faults end, the rest when everybody is back.
        think: safety * 3 / 2 / u64::from(operations),
        burst: 1,
        padding: 16,
        impatience: 0,
    };
    Options {
        seed: SEED,
        scene: Scene::default(),
        fidelity: Fidelity::Ledger,
        weights: vec![1; 4],
        params,
        tuning: Tuning { status_busy: 10 * MILLISECOND, status_idle: 200 * MILLISECOND, ..Tuning::default() },
        clients: vec![client.clone(), client],
        network: NetworkOptions {
            delay_min: 50 * MICROSECOND,
            delay_mean: 50 * MICROSECOND,
            drop: 0,
            double: 0,
            reorder: 0,
        },
        machine: MachineOptions {
            disk_min: 40 * MICROSECOND,
            disk_mean: 100 * MICROSECOND,
            slow_disk_factor: 1,
            segment_bytes: 48 * KIB as u32,
            group_bytes_max: 32 * KIB as u32,
            flushes_in_flight: 3,
            execute_mean: 20 * MICROSECOND,
            snapshot_mean: 200 * MICROSECOND,
            gather: 50 * MICROSECOND,
            late: 0,
            clock_skew: MILLISECOND,
        },
        faults: Vec::new(),
        villain: None,
        villain_weight_max: 0,
        client: None,
        strike_mean: safety,
        outage_mean: safety,
        safety,
        script: Script::default(),
    }
}

/// A run with its cuts. Written as `sc2/one/r1/37:torn`, with further points behind a `+`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Of what.
    pub scenario: Scenario,
    /// Whose power goes, and where.
    pub crash: Crash,
}

impl Case {
    /// The options to play it.
    #[must_use]
    pub fn options(&self) -> Options {
        let mut options = self.scenario.options();
        options.script.crash = Some(self.crash.clone());
        options
    }

    fn play(&self) -> (Report, Plug) {
        run_scripted(self.options(), Trace::quiet())
    }

    fn with(&self, point: Point) -> Self {
        let mut case = self.clone();
        case.crash.points.push(point);
        case
    }
}

const COMPANIES: [(Company, &str); 3] =
    [(Company::One, "one"), (Company::All, "all"), (Company::Staggered, "staggered")];

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crash { victim, points, company } = &self.crash;
        let (_, company) = COMPANIES[*company as usize];
        let points: Vec<_> = points.iter().map(Point::to_string).collect();
        write!(f, "{}/{company}/r{}/{}", self.scenario.name(), victim.0, points.join("+"))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        let [scenario, company, victim, points] = parts[..] else {
            return Err(format!("`{text}` is no case: it looks like sc2/one/r1/37:torn"));
        };
        let scenario = scenario.parse()?;
        let company = COMPANIES.iter().find(|(_, name)| *name == company);
        let (company, _) = company.ok_or("who loses power is one, all or staggered")?;
        let victim = victim.strip_prefix('r').and_then(|number| number.parse().ok()).filter(|number| *number < 4);
        let victim = ReplicaId(victim.ok_or("a replica is one of r0 to r3")?);
        let points = points.split('+').map(str::parse).collect::<Result<Vec<Point>, _>>()?;
        if !points.is_sorted_by(|earlier, later| earlier.operation < later.operation) {
            return Err("points come in the order of their operations".into());
        }
        Ok(Self { scenario, crash: Crash { victim, points, company: *company } })
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> = Self::ALL.iter().map(|scenario| scenario.name()).collect();
        let named = Self::ALL.into_iter().find(|scenario| scenario.name() == text);
        named.ok_or_else(|| format!("there is no scenario `{text}`: take one of {}", names.join(", ")))
    }
}

/// How much is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One replica, without company.
    One,
    /// Two replicas, one after the other, with every company.
    Everything,
}

/// What came of the points of a scenario at one replica.
#[derive(Debug)]
pub struct Tally {
    /// Scenario, company and replica.
    pub name: String,
    /// How often each operation was begun in the run without a cut.
    pub operations: BTreeMap<Operation, usize>,
    /// Runs, each with its own points.
    pub runs: usize,
    /// What failed, and why.
    pub failures: Vec<(String, String)>,
    /// How long it took.
    pub seconds: f64,
}

impl Tally {
    /// Everything in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { name, operations, runs, failures, seconds } = self;
        let per_second = *runs as f64 / seconds.max(0.001);
        let kinds: Vec<_> = operations.iter().map(|(kind, count)| format!("{kind:?} {count}")).collect();
        let (count, failed) = (operations.values().sum::<usize>(), failures.len());
        format!(
            "{name:<18} {count:>4} operations, {runs:>5} points, {failed} failed, {seconds:.1} s, {per_second:.0} runs/s; {}",
            kinds.join(", ")
        )
    }
}

/// Plays every point of these scenarios; `on_done` gets what came of each scenario, company and replica.
pub fn enumerate(scenarios: &[Scenario], extent: Extent, jobs: usize, mut on_done: impl FnMut(Tally)) {
    for scenario in scenarios {
        let (victims, companies) = match extent {
            Extent::One => (&scenario.victims()[..1], &COMPANIES[..1]),
            Extent::Everything => (&scenario.victims()[..], &COMPANIES[..]),
        };
        for victim in victims {
            for (company, _) in companies {
                let crash = Crash { victim: *victim, points: Vec::new(), company: *company };
                on_done(tally(&Case { scenario: *scenario, crash }, jobs));
            }
        }
    }
}

/// The first point of a scenario that fails, for those who planted a fault: the run without a cut, if that does.
#[must_use]
pub fn first_failure(scenario: Scenario, jobs: usize) -> Option<(String, String)> {
    let mut first = None;
    enumerate(&[scenario], Extent::One, jobs, |tally| first = tally.failures.into_iter().next());
    first
}

/// Plays every point of a case without points.
fn tally(uncut: &Case, jobs: usize) -> Tally {
    let begun = Instant::now();
    let name = uncut.to_string().trim_end_matches('/').to_owned();
    let (report, plug) = uncut.play();
    let log: Vec<_> = plug.log().iter().filter(|(_, at)| *at < uncut.scenario.options().safety).copied().collect();
    let mut operations = BTreeMap::new();
    log.iter().for_each(|(kind, _)| *operations.entry(*kind).or_default() += 1);
    let mut failures: Vec<(String, String)> = Vec::new();
    failures.extend(report.violation.map(|violation| (name.clone(), violation.to_string())));
    failures.extend(uncut.scenario.gap(&report.counters, &operations).map(|gap| (name.clone(), gap)));
    let cases = match uncut.scenario {
        Scenario::Normal | Scenario::Checkpoints | Scenario::ViewChange | Scenario::Rollover => {
            (0..).zip(&log).flat_map(|(nth, (kind, _))| points(nth, *kind)).map(|point| uncut.with(point)).collect()
        }
        Scenario::Recovery => twice(uncut, &log, jobs),
    };
    spread(jobs, &cases, judge, |case, verdict| failures.extend(verdict.err().map(|why| (case.to_string(), why))));
    Tally { name, operations, runs: cases.len(), failures, seconds: begun.elapsed().as_secs_f64() }
}

fn points(operation: usize, kind: Operation) -> impl Iterator<Item = Point> {
    kind.moments().iter().map(move |moment| Point { operation, moment: *moment })
}

/// Two cuts: the first at every moment of the last operation of each kind, the second at every moment of what the
/// replica does next, its start first of all.
fn twice(uncut: &Case, log: &[(Operation, u64)], jobs: usize) -> Vec<Case> {
    let mut last = BTreeMap::new();
    (0..).zip(log).filter(|(_, (kind, _))| *kind != Operation::LastInstance).for_each(|(nth, (kind, _))| {
        last.insert(*kind, nth);
    });
    let first: Vec<_> =
        last.into_iter().flat_map(|(kind, nth)| points(nth, kind)).map(|point| uncut.with(point)).collect();
    let mut cases = Vec::new();
    spread(
        jobs,
        &first,
        |case| case.play().1,
        |case, plug| {
            let cut = case.crash.points[0].operation;
            let second = (cut + 1..).zip(&plug.log()[cut + 1..]);
            let next = second.skip_while(|(_, (kind, _))| !starts(*kind)).take(SECOND_OPERATIONS);
            cases.extend(next.flat_map(|(nth, (kind, _))| points(nth, *kind)).map(|point| case.with(point)));
        },
    );
    cases.sort_unstable_by_key(|case| case.crash.points.clone());
    cases
}

/// Whether a process that comes up begins with this.
fn starts(kind: Operation) -> bool {
    matches!(kind, Operation::Repair | Operation::FlushAll)
}

fn judge(case: &Case) -> Result<(), String> {
    let (report, plug) = case.play();
    match report.violation {
        Some(violation) => Err(violation.to_string()),
        None if plug.left() > 0 => Err(format!("{} points were not reached", plug.left())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Moment;

    #[test]
    fn cases_are_read_as_they_are_written() {
        for text in ["sc2/one/r1/37:torn", "sc7/all/r0/3:before+5:cached", "sc3/staggered/r2/0:after"] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "sc2", "sc4/one/r1/1:torn", "sc2/two/r1/1:torn", "sc2/one/r4/1:torn", "sc2/one/r1/2:torn+1:torn"]
        {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
    }

    /// Plays the points of some operations at the first victim; says how many there were.
    fn hold(scenario: Scenario, company: Company, chosen: impl Fn(&Operation) -> bool, moments: &[Moment]) -> usize {
        let [victim, _] = scenario.victims();
        let uncut = Case { scenario, crash: Crash { victim, points: Vec::new(), company } };
        let (_, plug) = uncut.play();
        let of_kind = (0..).zip(plug.log()).filter(|(_, (kind, _))| chosen(kind));
        let all = of_kind.flat_map(|(nth, (kind, _))| points(nth, *kind));
        let cases: Vec<_> =
            all.filter(|point| moments.contains(&point.moment)).map(|point| uncut.with(point)).collect();
        spread(2, &cases, judge, |case, verdict| assert_eq!(verdict, Ok(()), "{case}"));
        cases.len()
    }

    #[test]
    fn d13_a_torn_write_spoils_nothing_that_was_durable() {
        assert!(hold(Scenario::Normal, Company::One, |kind| *kind == Operation::Group, &[Moment::Torn]) > 10);
    }

    #[test]
    fn d15_power_cut_around_every_superblock_write() {
        let is_superblock = |kind: &Operation| matches!(kind, Operation::FirstCopies | Operation::LastCopies);
        assert!(hold(Scenario::Checkpoints, Company::One, is_superblock, &Moment::ALL) > 80);
    }

    #[test]
    fn d16_what_a_view_rests_on_outlasts_the_cut_of_the_journal_and_a_power_loss_of_all() {
        // A segment is used again when a snapshot of the second view has let go of it.
        let after_snapshots = |kind: &Operation| matches!(kind, Operation::RecycledSegment | Operation::Removal);
        assert!(hold(Scenario::ViewChange, Company::All, after_snapshots, &Moment::ALL) > 5);
    }

    #[test]
    fn d17_power_cut_at_every_step_of_a_drop_at_all_replicas_at_once() {
        let destroys = |kind: &Operation| matches!(kind, Operation::RecycledSegment | Operation::Removal);
        assert!(hold(Scenario::Checkpoints, Company::All, destroys, &Moment::ALL) > 20);
    }

    #[test]
    fn d2_a_flush_that_fails_at_any_operation_ends_the_process_and_nothing_else() {
        assert!(hold(Scenario::Normal, Company::One, |_| true, &[Moment::Failed]) > 15);
    }

    #[test]
    fn a_run_is_the_same_up_to_its_point_and_the_point_is_reached() {
        let crash = Crash { victim: ReplicaId(1), points: Vec::new(), company: Company::One };
        let uncut = Case { scenario: Scenario::Normal, crash };
        let (_, whole) = uncut.play();
        assert!(whole.log().len() > 8, "{:?}", whole.log());
        for moment in Moment::ALL {
            let (report, cut) = uncut.with(Point { operation: 5, moment }).play();
            assert_eq!(report.violation, None);
            assert_eq!((cut.left(), report.counters.points, report.counters.restarts), (0, 1, 1));
            assert_eq!(cut.log()[..=5], whole.log()[..=5]);
        }
    }
}
