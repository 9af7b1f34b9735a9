//! Crash points: a fixed run without faults is played once to list what one replica does with its disk, and then again
//! for every moment of every such operation, where the power of that replica goes, or of others too. Every run goes on
//! to the end, under all judges (TESTING §10). `docs/crash-points.md` tells how to read and to replay what comes out.
//!
//! Pairs of cuts, at two replicas, are too many to play all of them: they are drawn.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
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
use crate::rng::Seed;
use crate::run::{Report, run_scripted};
use crate::script::{Company, Crash, Cut, Damage, Part, Script};
use crate::trace::Trace;

/// Everything is a function of this and of the case.
const SEED: u64 = 7;
/// Operations of the second life that are cut again, those of the start itself among them.
const SECOND_OPERATIONS: usize = 12;
/// When the backup that was cut off for long is heard again.
const BACK_AT: u64 = 180 * MILLISECOND;
/// Twice what the transfer needs from then on.
const TRANSFER_TAKES: u64 = 40 * MILLISECOND;
/// When a journal is damaged.
const DAMAGED_AT: u64 = 40 * MILLISECOND;
/// When a snapshot is, and until when the way back is worth cutting.
const SPOILT_AT: u64 = 100 * MILLISECOND;
const FETCHED_BY: u64 = 300 * MILLISECOND;

/// A run that is cut at all its points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// A few batches between two checkpoints.
    Normal,
    /// Checkpoints, snapshots, and the cut of the journal.
    Checkpoints,
    /// The primary is cut off, and comes back; checkpoints and snapshots in the next view.
    ViewChange,
    /// A backup is cut off until the others have thrown away what it lacks, and fetches a snapshot.
    Transfer,
    /// The journal goes from segment to segment.
    Rollover,
    /// A second cut, while the replica comes up after a first one.
    Recovery,
    /// A backup's journal is damaged: it owns up to that, and is silent until it has learnt enough.
    Damage,
    /// The snapshot that a backup's superblock names is damaged: it has no state, and fetches one.
    LostState,
}

impl Scenario {
    /// Every scenario.
    pub const ALL: [Self; 8] = [
        Self::Normal,
        Self::Checkpoints,
        Self::ViewChange,
        Self::Transfer,
        Self::Rollover,
        Self::Recovery,
        Self::Damage,
        Self::LostState,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "sc1",
            Self::Checkpoints => "sc2",
            Self::ViewChange => "sc3",
            Self::Transfer => "sc4",
            Self::Rollover => "sc6",
            Self::Recovery => "sc7",
            Self::Damage => "sc8",
            Self::LostState => "sc9",
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
            Self::Transfer if counters.transfers == 0 => Some("no transfer".into()),
            Self::Transfer if !seen.contains_key(&Operation::Group) => Some("its points lie elsewhere".into()),
            Self::Transfer => None,
            Self::Damage if counters.amnesias == 0 => Some("no damage".into()),
            Self::Damage if counters.voting_again == 0 => Some("who lost its votes never votes again".into()),
            Self::Damage => None,
            Self::LostState if counters.states_lost == 0 => Some("no state is lost".into()),
            Self::LostState if counters.states_found == 0 => Some("who lost its state never has one again".into()),
            Self::LostState => None,
        }
    }

    /// The replicas whose points are worth cutting: the first one stands for the others where time is short.
    fn victims(self) -> [ReplicaId; 2] {
        let primary = self.primary();
        let backup = match self {
            // The primary of the next view; where a view changes, the present one comes to be cut off.
            Self::Normal | Self::Checkpoints | Self::ViewChange | Self::Rollover | Self::Recovery => 1,
            Self::Transfer | Self::Damage | Self::LostState => 2,
        };
        [ReplicaId((primary.0 + backup) % 4), primary]
    }

    /// When its points are worth cutting: before and after, it is like another one.
    fn span(self) -> Range<u64> {
        let safety = self.uncut().safety;
        match self {
            Self::Normal | Self::Checkpoints | Self::ViewChange | Self::Rollover | Self::Recovery => 0..safety,
            Self::Transfer => BACK_AT..BACK_AT + TRANSFER_TAKES,
            Self::Damage => DAMAGED_AT..safety,
            Self::LostState => SPOILT_AT..FETCHED_BY,
        }
    }

    /// The primary of the first view.
    fn primary(self) -> ReplicaId {
        Cluster::new(&self.uncut()).primary()
    }

    fn options(self) -> Options {
        let mut options = self.uncut();
        let script = &mut options.script;
        let damage = |at, part| Some(Damage { victim: self.victims()[0], at, part });
        match self {
            Self::Normal | Self::Checkpoints | Self::Rollover | Self::Recovery => {}
            Self::ViewChange => {
                let machine = Node(self.primary().index());
                script.cuts.push(Cut { machine, from: 30 * MILLISECOND, until: 400 * MILLISECOND });
            }
            Self::Transfer => {
                let machine = Node(self.victims()[0].index());
                script.cuts.push(Cut { machine, from: 20 * MILLISECOND, until: BACK_AT });
            }
            Self::Damage => script.damage = damage(DAMAGED_AT, Part::Journal),
            Self::LostState => script.damage = damage(SPOILT_AT, Part::Snapshot),
        }
        options
    }

    /// Of what a replica did with its disk, the operations to be cut, each with its number.
    fn worth_cutting(self, log: &[(Operation, u64)]) -> Vec<(usize, Operation)> {
        let span = self.span();
        let numbered = (0..).zip(log).filter(|(_, (_, at))| span.contains(at));
        numbered.map(|(nth, (kind, _))| (nth, *kind)).collect()
    }

    /// Its cluster and its load, with all links.
    fn uncut(self) -> Options {
        let (snapshot_slots, operations, safety) = match self {
            Self::Normal => (64, 5, 40),
            Self::Checkpoints | Self::Recovery => (8, 22, 80),
            Self::ViewChange => (12, 24, 700),
            Self::Transfer => (8, 90, 400),
            Self::Rollover => (64, 18, 70),
            Self::Damage => (12, 45, 200),
            Self::LostState => (12, 60, 300),
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

/// A run with its cuts. Written as `sc2/one/r1/37:torn`, with further points behind a `+`; a pair of cuts at two replicas as
/// `sc2/pair/r1/37:torn/r3/12:after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Of what.
    pub scenario: Scenario,
    /// Whose power goes, and where: one replica's, or two's.
    pub crashes: Vec<Crash>,
}

impl Case {
    /// The options to play it.
    #[must_use]
    pub fn options(&self) -> Options {
        let mut options = self.scenario.options();
        options.script.crashes.clone_from(&self.crashes);
        options
    }

    fn play(&self) -> (Report, Vec<Plug>) {
        run_scripted(self.options(), Trace::quiet())
    }

    /// What the first replica did with its disk.
    fn log(&self) -> Vec<(Operation, u64)> {
        self.play().1[0].log().to_vec()
    }

    fn with(&self, point: Point) -> Self {
        let mut case = self.clone();
        case.crashes[0].points.push(point);
        case
    }
}

const COMPANIES: [(Company, &str); 3] =
    [(Company::One, "one"), (Company::All, "all"), (Company::Staggered, "staggered")];

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let company = match &self.crashes[..] {
            [crash] => COMPANIES[crash.company as usize].1,
            _ => PAIR,
        };
        write!(f, "{}/{company}", self.scenario.name())?;
        self.crashes.iter().try_for_each(|Crash { victim, points, .. }| {
            let points: Vec<_> = points.iter().map(Point::to_string).collect();
            write!(f, "/r{}/{}", victim.0, points.join("+"))
        })
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split('/').collect();
        match parts[..] {
            [scenario, PAIR, one, at, other, there] => {
                let crashes = vec![crash(Company::One, one, at)?, crash(Company::One, other, there)?];
                if crashes[0].victim == crashes[1].victim {
                    return Err("a pair is of two replicas".into());
                }
                Ok(Self { scenario: scenario.parse()?, crashes })
            }
            [scenario, company, victim, points] => {
                let company = COMPANIES.iter().find(|(_, name)| *name == company);
                let (company, _) = company.ok_or("who loses power is one, all or staggered")?;
                Ok(Self { scenario: scenario.parse()?, crashes: vec![crash(*company, victim, points)?] })
            }
            _ => Err(format!("`{text}` is no case: it looks like sc2/one/r1/37:torn")),
        }
    }
}

fn crash(company: Company, victim: &str, points: &str) -> Result<Crash, String> {
    let victim = victim.strip_prefix('r').and_then(|number| number.parse().ok()).filter(|number| *number < 4);
    let victim = ReplicaId(victim.ok_or("a replica is one of r0 to r3")?);
    let points = points.split('+').map(str::parse).collect::<Result<Vec<Point>, _>>()?;
    if !points.is_sorted_by(|earlier, later| earlier.operation < later.operation) {
        return Err("points come in the order of their operations".into());
    }
    Ok(Crash { victim, points, company })
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> = Self::ALL.iter().map(|scenario| scenario.name()).collect();
        let named = Self::ALL.into_iter().find(|scenario| scenario.name() == text);
        named.ok_or_else(|| format!("there is no scenario `{text}`: take one of {}", names.join(", ")))
    }
}

/// The name of two cuts at two replicas.
const PAIR: &str = "pair";

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
    /// Of a pair, cuts that the other one put off for ever.
    pub missed: usize,
    /// What failed, and why.
    pub failures: Vec<(String, String)>,
    /// How long it took.
    pub seconds: f64,
}

impl Tally {
    /// Everything in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { name, operations, runs, missed, failures, seconds } = self;
        let per_second = *runs as f64 / seconds.max(0.001);
        let kinds: Vec<_> = operations.iter().map(|(kind, count)| format!("{kind:?} {count}")).collect();
        let (count, failed) = (operations.values().sum::<usize>(), failures.len());
        let missed = if *missed > 0 { format!("{missed} not reached, ") } else { String::new() };
        format!(
            "{name:<18} {count:>4} operations, {runs:>5} points, {missed}{failed} failed, {seconds:.1} s, \
             {per_second:.0} runs/s; {}",
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
                on_done(tally(&Case { scenario: *scenario, crashes: vec![crash] }, jobs));
            }
        }
    }
}

/// Plays pairs of cuts, at two replicas, a point each: `count` of them, drawn from `seed`.
#[must_use]
pub fn pairs(count: u64, seed: u64, jobs: usize) -> Tally {
    let begun = Instant::now();
    let scenarios: Vec<_> = Scenario::ALL.into_iter().filter(|scenario| *scenario != Scenario::Recovery).collect();
    let logs: Vec<_> = scenarios.iter().map(|scenario| (*scenario, logs_of_all(*scenario))).collect();
    let draw = |nth| {
        let mut rng = Seed::root(seed).child("pairs").nth(nth).rng();
        let (scenario, logs) = &logs[rng.below(logs.len() as u64) as usize];
        let one = rng.below(4) as usize;
        let other = (one + rng.range(1, 3) as usize) % 4;
        let mut crash = |victim: usize| {
            let log = &logs[victim];
            let (operation, kind) = log[rng.below(log.len() as u64) as usize];
            let moments = kind.moments();
            let moment = moments[rng.below(moments.len() as u64) as usize];
            let points = vec![Point { operation, moment }];
            Crash { victim: ReplicaId(victim as u16), points, company: Company::One }
        };
        Case { scenario: *scenario, crashes: vec![crash(one), crash(other)] }
    };
    let cases: Vec<_> = (0..count).map(draw).collect();
    let (mut failures, mut missed) = (Vec::new(), 0);
    let play = |case: &Case| {
        let (report, plugs) = case.play();
        (report.violation, plugs.iter().map(Plug::left).sum::<usize>())
    };
    spread(jobs, &cases, play, |case, (violation, left)| {
        missed += left;
        failures.extend(violation.map(|violation| (case.to_string(), violation.to_string())));
    });
    let seconds = begun.elapsed().as_secs_f64();
    Tally { name: PAIR.into(), operations: BTreeMap::new(), runs: cases.len(), missed, failures, seconds }
}

/// What every replica of a scenario does with its disk, without a cut.
fn logs_of_all(scenario: Scenario) -> Vec<Vec<(usize, Operation)>> {
    let uncut = |id| Crash { victim: ReplicaId(id), points: Vec::new(), company: Company::One };
    let (_, plugs) = Case { scenario, crashes: (0..4).map(uncut).collect() }.play();
    plugs.iter().map(|plug| scenario.worth_cutting(plug.log())).collect()
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
    let (report, plugs) = uncut.play();
    let log = uncut.scenario.worth_cutting(plugs[0].log());
    let mut operations = BTreeMap::new();
    log.iter().for_each(|(_, kind)| *operations.entry(*kind).or_default() += 1);
    let mut failures: Vec<(String, String)> = Vec::new();
    failures.extend(report.violation.map(|violation| (name.clone(), violation.to_string())));
    failures.extend(uncut.scenario.gap(&report.counters, &operations).map(|gap| (name.clone(), gap)));
    let cases = match uncut.scenario {
        Scenario::Normal
        | Scenario::Checkpoints
        | Scenario::ViewChange
        | Scenario::Transfer
        | Scenario::Rollover
        | Scenario::Damage
        | Scenario::LostState => {
            log.iter().flat_map(|(nth, kind)| points(*nth, *kind)).map(|point| uncut.with(point)).collect()
        }
        Scenario::Recovery => twice(uncut, &log, jobs),
    };
    spread(jobs, &cases, judge, |case, verdict| failures.extend(verdict.err().map(|why| (case.to_string(), why))));
    Tally { name, operations, runs: cases.len(), missed: 0, failures, seconds: begun.elapsed().as_secs_f64() }
}

fn points(operation: usize, kind: Operation) -> impl Iterator<Item = Point> {
    kind.moments().iter().map(move |moment| Point { operation, moment: *moment })
}

/// Two cuts: the first at every moment of the last operation of each kind, the second at every moment of what the
/// replica does next, its start first of all.
fn twice(uncut: &Case, log: &[(usize, Operation)], jobs: usize) -> Vec<Case> {
    let mut last = BTreeMap::new();
    log.iter().filter(|(_, kind)| *kind != Operation::LastInstance).for_each(|(nth, kind)| {
        last.insert(*kind, *nth);
    });
    let first: Vec<_> =
        last.into_iter().flat_map(|(kind, nth)| points(nth, kind)).map(|point| uncut.with(point)).collect();
    let mut cases = Vec::new();
    spread(jobs, &first, Case::log, |case, log| {
        let cut = case.crashes[0].points[0].operation;
        let second = (cut + 1..).zip(&log[cut + 1..]);
        let next = second.skip_while(|(_, (kind, _))| !starts(*kind)).take(SECOND_OPERATIONS);
        cases.extend(next.flat_map(|(nth, (kind, _))| points(nth, *kind)).map(|point| case.with(point)));
    });
    cases.sort_unstable_by_key(|case| case.crashes[0].points.clone());
    cases
}

/// Whether a process that comes up begins with this.
fn starts(kind: Operation) -> bool {
    matches!(kind, Operation::Repair | Operation::FlushAll)
}

fn judge(case: &Case) -> Result<(), String> {
    let (report, plugs) = case.play();
    let left = plugs[0].left();
    match report.violation {
        Some(violation) => Err(violation.to_string()),
        None if left > 0 => Err(format!("{left} points were not reached")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Moment;

    #[test]
    fn cases_are_read_as_they_are_written() {
        for text in [
            "sc2/one/r1/37:torn",
            "sc7/all/r0/3:before+5:cached",
            "sc3/staggered/r2/0:after",
            "sc4/pair/r2/9:complete/r0/4:lost",
        ] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "sc2", "sc5/one/r1/1:torn", "sc2/two/r1/1:torn", "sc2/one/r4/1:torn", "sc2/one/r1/2:torn+1:torn"]
        {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
    }

    /// Plays the points of some operations at the first victim; says how many there were.
    fn hold(scenario: Scenario, company: Company, chosen: impl Fn(&Operation) -> bool, moments: &[Moment]) -> usize {
        let [victim, _] = scenario.victims();
        let uncut = Case { scenario, crashes: vec![Crash { victim, points: Vec::new(), company }] };
        let log = scenario.worth_cutting(&uncut.log());
        let of_kind = log.iter().filter(|(_, kind)| chosen(kind));
        let all = of_kind.flat_map(|(nth, kind)| points(*nth, *kind));
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
    fn t4_power_cut_at_every_step_of_a_transfer_fetches_nothing_again() {
        let of_transfer = |kind: &Operation| {
            (Operation::Begin..=Operation::Clear).contains(kind)
                || matches!(kind, Operation::FirstCopies | Operation::LastCopies)
        };
        assert!(hold(Scenario::Transfer, Company::One, of_transfer, &Moment::ALL) > 60);
    }

    #[test]
    fn d20_power_cut_while_a_start_owns_up_to_damage() {
        let of_start = |kind: &Operation| (Operation::Repair..=Operation::LastInstance).contains(kind);
        assert!(hold(Scenario::Damage, Company::One, of_start, &Moment::ALL) > 15);
    }

    #[test]
    fn d4_power_cut_while_a_lost_state_is_fetched() {
        let of_transfer = |kind: &Operation| {
            (Operation::Begin..=Operation::LastInstance).contains(kind)
                || matches!(kind, Operation::FirstCopies | Operation::LastCopies)
        };
        assert!(hold(Scenario::LostState, Company::One, of_transfer, &Moment::ALL) > 60);
    }

    #[test]
    fn pairs_are_drawn_and_hold() {
        let tally = pairs(12, 1, 2);
        assert_eq!((tally.runs, &tally.failures), (12, &Vec::new()));
        assert!(tally.missed < 6, "{} of 24 points", tally.missed);
    }

    #[test]
    fn a_run_is_the_same_up_to_its_point_and_the_point_is_reached() {
        let crash = Crash { victim: ReplicaId(1), points: Vec::new(), company: Company::One };
        let uncut = Case { scenario: Scenario::Normal, crashes: vec![crash] };
        let whole = uncut.log();
        assert!(whole.len() > 8, "{whole:?}");
        for moment in Moment::ALL {
            let (report, plugs) = uncut.with(Point { operation: 5, moment }).play();
            let cut = &plugs[0];
            assert_eq!(report.violation, None);
            assert_eq!((cut.left(), report.counters.points, report.counters.restarts), (0, 1, 1));
            assert_eq!(cut.log()[..=5], whole[..=5]);
        }
    }
}
