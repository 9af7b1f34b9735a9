//! The nightly matrix: every villain in every environment, seeds in which a client attacks beside one, and seeds that
//! choose everything, until the time is up. A cell without a seed in which its villain acted proves nothing and fails the
//! night; so does an event that reached no replica in some status while some fault was on. What is rare is not left to
//! luck: in its last third the night seeks what is still missing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::coverage::{Coverage, Meeting};
use crate::environments::Environment;
use crate::options::{Fault, Fidelity, Options, Scene};
use crate::run::{Report, run};
use crate::trace::Trace;
use crate::villains::Strategy;
use crate::villains::clients::ClientStrategy;

/// Plays that are remembered for what they met.
const LEADS_MAX: usize = 8;

/// Who attacks in a row of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enemy {
    /// Replicas.
    Replicas(Strategy),
    /// A client.
    Client(ClientStrategy),
}

impl Enemy {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let replicas = Strategy::ALL.iter().copied().map(Self::Replicas);
        replicas.chain(ClientStrategy::ALL.iter().copied().map(Self::Client))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replicas(strategy) => strategy.name(),
            Self::Client(strategy) => strategy.name(),
        }
    }

    fn scene(self, environment: Environment) -> Scene {
        let (villain, client) = match self {
            Self::Replicas(strategy) => (Some(strategy), None),
            Self::Client(strategy) => (None, Some(strategy)),
        };
        Scene { villain, client, environment: Some(environment), fault: None }
    }

    fn misdeeds(self, report: &Report) -> u64 {
        match self {
            Self::Replicas(_) => report.counters.lies,
            Self::Client(_) => report.counters.client_misdeeds,
        }
    }
}

/// What one seed plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Cell(Enemy, Environment),
    /// A villain where everything goes wrong, and a client who attacks too: each round another one.
    Together(Strategy),
    /// Whatever the seed chooses: faults come together here as in no environment.
    Any,
    /// Something that was met, with a fault that was not on then.
    Sought,
}

impl Turn {
    /// A round of the night: for each enemy a seed in every environment and one of free choice, for each villain one in
    /// company.
    fn round() -> Vec<Self> {
        let row = |enemy| {
            let cells = Environment::ALL.map(|environment| Self::Cell(enemy, environment));
            let together = match enemy {
                Enemy::Replicas(strategy) => Some(Self::Together(strategy)),
                Enemy::Client(_) => None,
            };
            cells.into_iter().chain(together).chain([Self::Any])
        };
        Enemy::all().flat_map(row).collect()
    }

    fn scene(self, round: u64) -> Scene {
        match self {
            Self::Cell(enemy, environment) => enemy.scene(environment),
            Self::Together(strategy) => {
                let nth = strategy as usize + round as usize;
                let client = ClientStrategy::ALL[nth % ClientStrategy::ALL.len()];
                Scene { client: Some(client), ..Enemy::Replicas(strategy).scene(Environment::Everything) }
            }
            Self::Any => Scene::default(),
            Self::Sought => unreachable!("no round has it: its scene is that of what met something"),
        }
    }
}

/// A night.
#[derive(Clone, Copy, Debug)]
pub struct Night {
    /// The first seed. Every cell takes the next one in its turn: no two play the same.
    pub start: u64,
    /// When no further seed is begun.
    pub time: Duration,
    /// Threads.
    pub jobs: usize,
}

/// What was seen of one villain in one environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Seeds.
    pub seeds: u64,
    /// Those in which the villain acted: the others do not count.
    pub acted: u64,
    /// How often.
    pub misdeeds: u64,
    /// Seeds that broke a promise.
    pub failed: u64,
}

/// What was seen in a night.
#[derive(Debug, Default)]
pub struct Matrix {
    cells: BTreeMap<(Enemy, Environment), Cell>,
    together: Cell,
    any: Cell,
    sought: Cell,
    coverage: Coverage,
    operations: u64,
    seconds: f64,
}

impl Night {
    /// Runs the matrix until the time is up; `on_failure` hears of each seed that breaks a promise, as it happens.
    pub fn run(self, mut on_failure: impl FnMut(&Report) + Send) -> Matrix {
        let begun = Instant::now();
        let progress = Mutex::new((Progress::new(self.start), &mut on_failure));
        let progress = || progress.lock().expect("who panics does not hold it");
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while begun.elapsed() < self.time {
                        let is_late = begun.elapsed() >= self.time * 2 / 3;
                        let play = progress().0.next(is_late);
                        let report = run(Options::in_scene(play.seed, Fidelity::Ledger, play.scene), Trace::quiet());
                        let (progress, on_failure) = &mut *progress();
                        if report.violation.is_some() {
                            on_failure(&report);
                        }
                        progress.add(play, &report);
                    }
                });
            }
        });
        let mut matrix = std::mem::take(&mut progress().0.matrix);
        matrix.seconds = begun.elapsed().as_secs_f64();
        matrix
    }
}

/// One seed of a night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Play {
    turn: Turn,
    seed: u64,
    scene: Scene,
}

/// Something that is missing.
enum Wanted<'a> {
    /// That somebody acts somewhere.
    Act(Enemy, Environment),
    /// That what these met is met while this fault is on.
    Meet(&'a [Play], Fault),
}

/// Where a night is: rounds first; then, in its last third, what they left empty is sought.
struct Progress {
    /// The next seed.
    seed: u64,
    round: Vec<Turn>,
    /// Turns of rounds so far.
    turns: u64,
    /// Seeds so far for what was still missing.
    sought: usize,
    /// The first plays that met something: it is sought where it was met.
    leads: BTreeMap<Meeting, Vec<Play>>,
    matrix: Matrix,
}

impl Progress {
    fn new(seed: u64) -> Self {
        let round = Turn::round();
        let mut matrix = Matrix::default();
        // A cell that nobody comes to is empty all the same.
        for turn in &round {
            matrix.cell(*turn);
        }
        Self { seed, round, turns: 0, sought: 0, leads: BTreeMap::new(), matrix }
    }

    fn next(&mut self, is_late: bool) -> Play {
        let seed = self.seed;
        self.seed += 1;
        if is_late && let Some(play) = self.seek(seed) {
            return play;
        }
        let length = self.round.len() as u64;
        let turn = self.round[(self.turns % length) as usize];
        let scene = turn.scene(self.turns / length);
        self.turns += 1;
        Play { turn, seed, scene }
    }

    /// What is missing takes turns; where something was met, first the same seeds are played with the fault, then new ones.
    fn seek(&mut self, seed: u64) -> Option<Play> {
        let wanted = self.wanted();
        let nth = self.sought.checked_rem(wanted.len())?;
        let attempt = self.sought / wanted.len();
        let play = match wanted[nth] {
            Wanted::Act(enemy, environment) => {
                Play { turn: Turn::Cell(enemy, environment), seed, scene: enemy.scene(environment) }
            }
            Wanted::Meet(leads, fault) => {
                let lead = leads[attempt % leads.len()];
                let seed = if attempt < leads.len() { lead.seed } else { seed };
                Play { turn: Turn::Sought, seed, scene: Scene { fault: Some(fault), ..lead.scene } }
            }
        };
        self.sought += 1;
        Some(play)
    }

    fn wanted(&self) -> Vec<Wanted<'_>> {
        let idle = self.matrix.idle_cells().map(|(enemy, environment)| Wanted::Act(enemy, environment));
        let unmet = self.matrix.coverage.missing().filter_map(|(meeting, fault)| {
            let leads = self.leads.get(&meeting)?;
            Some(Wanted::Meet(leads, fault))
        });
        idle.chain(unmet).collect()
    }

    fn add(&mut self, play: Play, report: &Report) {
        self.matrix.add(play.turn, report);
        if play.turn != Turn::Sought {
            for meeting in report.seen.meetings() {
                let leads = self.leads.entry(meeting).or_default();
                if leads.len() < LEADS_MAX {
                    leads.push(play);
                }
            }
        }
    }
}

impl Matrix {
    fn cell(&mut self, turn: Turn) -> &mut Cell {
        match turn {
            Turn::Cell(enemy, environment) => self.cells.entry((enemy, environment)).or_default(),
            Turn::Together(_) => &mut self.together,
            Turn::Any => &mut self.any,
            Turn::Sought => &mut self.sought,
        }
    }

    fn add(&mut self, turn: Turn, report: &Report) {
        let misdeeds = match turn {
            Turn::Cell(enemy, _) => enemy.misdeeds(report),
            Turn::Together(_) | Turn::Any | Turn::Sought => report.counters.lies + report.counters.client_misdeeds,
        };
        let cell = self.cell(turn);
        cell.seeds += 1;
        cell.acted += u64::from(misdeeds > 0);
        cell.misdeeds += misdeeds;
        cell.failed += u64::from(report.violation.is_some());
        self.operations += report.counters.operations;
        self.coverage.add(report);
    }

    fn every_cell(&self) -> impl Iterator<Item = &Cell> {
        self.cells.values().chain([&self.together, &self.any, &self.sought])
    }

    /// Where a villain never acted.
    fn idle_cells(&self) -> impl Iterator<Item = (Enemy, Environment)> {
        self.cells.iter().filter(|(_, cell)| cell.acted == 0).map(|(place, _)| *place)
    }

    /// Seeds that broke a promise.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.every_cell().map(|cell| cell.failed).sum()
    }

    /// Cells that prove nothing: by villain, where it did nothing, and in how many seeds; by fault, what nobody met while it
    /// was on.
    #[must_use]
    pub fn empty(&self) -> Vec<String> {
        let mut empty: BTreeMap<Enemy, Vec<String>> = BTreeMap::new();
        for (enemy, environment) in self.idle_cells() {
            let seeds = format!("{} ({} seeds)", environment.name(), self.cells[&(enemy, environment)].seeds);
            empty.entry(enemy).or_default().push(seeds);
        }
        let idle =
            empty.into_iter().map(|(enemy, cells)| format!("{} did nothing in {}", enemy.name(), cells.join(", ")));
        idle.chain(self.coverage.empty()).collect()
    }

    /// The table, one row a villain: in each environment the seeds in which it acted, and failures behind a `!`.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!("{:<20}", "acted in seeds");
        for environment in Environment::ALL {
            let _ = write!(out, " {:>12}", environment.name());
        }
        let _ = writeln!(out, " {:>12}", "misdeeds");
        for enemy in Enemy::all() {
            let _ = write!(out, "{:<20}", enemy.name());
            let mut misdeeds = 0;
            for environment in Environment::ALL {
                let cell = self.cells.get(&(enemy, environment)).copied().unwrap_or_default();
                misdeeds += cell.misdeeds;
                let failed = if cell.failed > 0 { format!("!{}", cell.failed) } else { String::new() };
                let _ = write!(out, " {:>12}", format!("{}/{}{failed}", cell.acted, cell.seeds));
            }
            let _ = writeln!(out, " {misdeeds:>12}");
        }
        out
    }

    /// Everything else in a few lines.
    #[must_use]
    pub fn summary(&self) -> String {
        let seeds: u64 = self.every_cell().map(|cell| cell.seeds).sum();
        let least = self.cells.values().map(|cell| cell.acted).min().unwrap_or(0);
        format!(
            "{seeds} seeds in {:.1} s, {} failed; {} cells, at least {least} seeds in each; {} seeds of a villain and a client \
             together; {} seeds that chose everything; {} seeds for what was still missing; {} operations\n{}",
            self.seconds,
            self.failed(),
            self.cells.len(),
            self.together.seeds,
            self.any.seeds,
            self.sought.seeds,
            self.operations,
            self.coverage.summary(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bft_core::door::Input;
    use bft_core::ids::Nanos;

    use super::*;
    use crate::checkers::{Oracle, Violation};
    use crate::coverage::Status;

    #[test]
    fn a_cell_counts_only_when_its_villain_acted() {
        let mut matrix = Matrix::default();
        let cell = (Enemy::Replicas(Strategy::Silent), Environment::Ideal);
        let turn = Turn::Cell(cell.0, cell.1);
        let idle = "silent did nothing in ideal (1 seeds)".to_owned();
        let mut report = Report::default();
        matrix.add(turn, &report);
        assert!(matrix.empty().contains(&idle));
        report.counters.lies = 3;
        matrix.add(turn, &report);
        assert!(!matrix.empty().contains(&idle));
        assert_eq!(matrix.cells[&cell], Cell { seeds: 2, acted: 1, misdeeds: 3, failed: 0 });
        assert!(matrix.table().contains("1/2"));
        report.violation = Some(Violation { oracle: Oracle::Agreement, at: Nanos(0), text: String::new() });
        matrix.add(Turn::Any, &report);
        matrix.add(Turn::Together(Strategy::Silent), &report);
        assert_eq!(matrix.failed(), 2, "seeds of free choice count too, and those in company");
    }

    #[test]
    fn a_villain_meets_every_attacking_client_in_its_turn() {
        let company = |strategy| (0..).map(move |round| Turn::Together(strategy).scene(round));
        for strategy in Strategy::ALL {
            let met: BTreeSet<_> =
                company(*strategy).take(ClientStrategy::ALL.len()).map(|scene| scene.client).collect();
            assert_eq!(met.len(), ClientStrategy::ALL.len());
            let options = Options::in_scene(1, Fidelity::Ledger, Turn::Together(*strategy).scene(0));
            assert!(options.villain == Some(*strategy) && options.client.is_some());
        }
    }

    #[test]
    fn what_is_missing_is_sought_where_half_of_it_was_met() {
        let mut progress = Progress::new(100);
        let first = progress.next(false);
        assert!(matches!(progress.wanted()[..], [Wanted::Act(..), ..]), "nothing was met yet, and nobody acted");
        let mut report = Report { faults: vec![Fault::Kill], ..Report::default() };
        report.counters.lies = 1;
        report.counters.client_misdeeds = 1;
        for turn in Turn::round() {
            progress.add(Play { turn, ..first }, &report);
        }
        report.seen.note(&Input::Deadline, Status::Backup);
        let lead = Play { turn: Turn::Any, seed: 7, scene: Scene::default() };
        progress.add(lead, &report);
        let faults: Vec<_> = Fault::ALL.into_iter().filter(|fault| *fault != Fault::Kill).collect();
        let mut sought = || faults.iter().map(|_| progress.next(true)).collect::<Vec<_>>();
        let (same, new) = (sought(), sought());
        for ((same, new), fault) in same.iter().zip(&new).zip(&faults) {
            let scene = Scene { fault: Some(*fault), ..lead.scene };
            assert_eq!(*same, Play { turn: Turn::Sought, seed: 7, scene });
            assert!(new.scene == scene && new.seed > 100);
        }
        let found = Report { faults, ..report };
        progress.add(same[0], &found);
        assert!(progress.wanted().is_empty());
        assert_eq!(progress.next(true).turn, progress.round[1], "then the rounds go on");
        assert_eq!(progress.leads.values().flatten().count(), 1, "what was sought leads nowhere");
    }

    #[test]
    fn a_night_without_time_has_every_cell_and_all_are_empty() {
        let night = Night { start: 1, time: Duration::ZERO, jobs: 1 };
        let matrix = night.run(|_| {});
        assert_eq!(matrix.cells.len(), Enemy::all().count() * Environment::ALL.len());
        assert_eq!(matrix.empty().len(), Enemy::all().count() + Fault::ALL.len());
    }
}
