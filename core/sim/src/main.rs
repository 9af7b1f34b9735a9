//! `bft-sim`: the commands of the simulator.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use bft_sim::campaign::Campaign;
use bft_sim::crash_points::{self, Case, Extent, Scenario, Tally};
use bft_sim::environments::Environment;
use bft_sim::matrix::Night;
use bft_sim::options::{Fault, Fidelity, Options, Scene};
use bft_sim::regressions;
use bft_sim::run::{Report, run};
use bft_sim::trace::Trace;
use bft_sim::twins::{self, Choice};
use bft_sim::villains::Strategy;
use bft_sim::villains::clients::ClientStrategy;
use clap::{Args, Parser, Subcommand};

/// Runs whole clusters and their faults in virtual time, from seeds.
#[derive(Parser)]
#[command(name = "bft-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds; succeeds only if every one of them kept every promise.
    Run {
        #[command(flatten)]
        seeds: Seeds,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        #[command(flatten)]
        mode: Mode,
    },
    /// Runs one seed and prints its options, everything that happens, and the verdict.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Leaves out the events.
        #[arg(long)]
        quiet: bool,
        #[command(flatten)]
        mode: Mode,
    },
    /// Runs every seed twice; succeeds only if both runs did the same, event by event.
    Determinism {
        #[command(flatten)]
        seeds: Seeds,
        #[command(flatten)]
        mode: Mode,
    },
    /// Plants each known fault into the core; succeeds only if every one is found where it was found before.
    Mutants {
        /// Looks for the smallest seed that finds each, and prints the rows of mutants.toml.
        #[arg(long)]
        search: bool,
        /// With --search: this villain attacks, instead of whom the seeds choose.
        #[arg(long, requires = "search")]
        villain: Option<Strategy>,
        /// With --search: only these mutants.
        names: Vec<String>,
    },
    /// Cuts the power around every operation of a replica on its disk, one run for each moment.
    CrashPoints {
        /// Only this one: sc1 normal, sc2 checkpoints, sc3 view change, sc4 state transfer, sc6 rollover, sc7 a second
        /// cut at the start, sc8 a damaged journal.
        #[arg(long)]
        scenario: Option<Scenario>,
        /// A second replica too, and each of them alone, with all others, and with one other a little later.
        #[arg(long)]
        all: bool,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Plays this case and prints everything that happens, like sc2/one/r1/37:torn.
        #[arg(long, conflicts_with_all = ["scenario", "all", "pairs"])]
        case: Option<Case>,
        /// Instead: so many pairs of cuts at two replicas, drawn from --seed.
        #[arg(long, conflicts_with_all = ["scenario", "all"])]
        pairs: Option<u64>,
        /// Where pairs are drawn from.
        #[arg(long, default_value_t = 0, requires = "pairs")]
        seed: u64,
    },
    /// Runs one replica twice under one name, through every sequence of partitions and leaders; and two replicas, which
    /// must break agreement. Succeeds only if the first breaks nothing and the second does.
    Twins {
        /// Rounds of one partition and one leader.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3))]
        rounds: u32,
        /// Only so many of the scenarios, drawn from --seed.
        #[arg(long)]
        sample: Option<u64>,
        /// Where the sample is drawn from.
        #[arg(long, default_value_t = 0, requires = "sample")]
        seed: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Plays this case and prints everything that happens, like 1/3.0/c.1.
        #[arg(long, conflicts_with_all = ["rounds", "sample"])]
        case: Option<twins::Case>,
    },
    /// Runs every villain in every environment until the time is up; succeeds only if every villain acted everywhere, every
    /// event met every status under every fault, and every promise was kept.
    Nightly {
        /// How long.
        #[arg(long, default_value_t = 20)]
        minutes: u64,
        /// The first seed: a new one every night.
        #[arg(long)]
        start: u64,
        /// Threads.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Replays every seed that once failed; succeeds only if none does.
    Regressions,
}

#[derive(Args, Clone, Copy)]
struct Seeds {
    /// How many.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 0)]
    start: u64,
}

#[derive(Args, Clone, Copy)]
struct Mode {
    /// Real Ed25519, and every message through its bytes on the wire.
    #[arg(long)]
    full: bool,
    /// Who attacks, instead of whom the seed chooses (a name of docs/simulator.md).
    #[arg(long)]
    villain: Option<Strategy>,
    /// Which hostile client there is, instead of whom the seed chooses (a name of docs/simulator.md).
    #[arg(long)]
    client: Option<ClientStrategy>,
    /// Which faults strike, instead of those that the seed chooses (a name of docs/simulator.md).
    #[arg(long)]
    environment: Option<Environment>,
    /// One more fault that strikes (a name of core/sim/src/options.rs).
    #[arg(long)]
    fault: Option<Fault>,
}

impl Mode {
    fn fidelity(self) -> Fidelity {
        if self.full { Fidelity::Full } else { Fidelity::Ledger }
    }

    fn scene(self) -> Scene {
        let Self { villain, client, environment, fault, .. } = self;
        Scene { villain, client, environment, fault }
    }

    fn options(self, seed: u64) -> Options {
        Options::in_scene(seed, self.fidelity(), self.scene())
    }
}

fn main() -> ExitCode {
    let held = match Arguments::parse().command {
        Command::Run { seeds, jobs, mode } => campaign(seeds, jobs, mode),
        Command::Replay { seed, quiet, mode } => replay(seed, quiet, mode),
        Command::Determinism { seeds, mode } => determinism(seeds, mode),
        Command::Mutants { search, villain, names } => mutants(search, villain, &names),
        Command::CrashPoints { case: Some(case), .. } => play(case.options(), &case.to_string()),
        Command::CrashPoints { pairs: Some(count), seed, jobs, .. } => crash_pairs(count, seed, jobs),
        Command::CrashPoints { scenario, all, jobs, .. } => crash_points(scenario, all, jobs),
        Command::Twins { case: Some(case), .. } => play(case.options(), &case.to_string()),
        Command::Twins { rounds, sample, seed, jobs, case: None } => {
            twins(rounds, sample.map_or(Choice::All, |count| Choice::Sample { count, seed }), jobs)
        }
        Command::Nightly { minutes, start, jobs } => nightly(minutes, start, jobs),
        Command::Regressions => replay_regressions(),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn campaign(seeds: Seeds, jobs: usize, mode: Mode) -> bool {
    let campaign =
        Campaign { start: seeds.start, seeds: seeds.seeds, jobs, fidelity: mode.fidelity(), scene: mode.scene() };
    let summary = campaign.run(print_failure);
    let gaps = summary.gaps();
    gaps.iter().for_each(|gap| println!("not enough: {gap}"));
    println!("{}", summary.line());
    gaps.is_empty() && summary.failures().is_empty()
}

fn print_failure(report: &Report) {
    if let Some(violation) = &report.violation {
        println!("seed {} fails: {violation}", report.seed);
        println!("  replay with: {}", report.replay);
    }
}

fn nightly(minutes: u64, start: u64, jobs: usize) -> bool {
    println!("{minutes} minutes, seeds from {start}");
    let matrix = Night { start, time: Duration::from_secs(60 * minutes), jobs }.run(print_failure);
    let empty = matrix.empty();
    print!("{}", matrix.table());
    empty.iter().for_each(|cell| println!("not enough: {cell}"));
    println!("{}", matrix.summary());
    empty.is_empty() && matrix.failed() == 0
}

fn replay(seed: u64, quiet: bool, mode: Mode) -> bool {
    let options = mode.options(seed);
    println!("{options:#?}");
    print_run(run(options, if quiet { Trace::quiet() } else { to_stdout() }), &format!("seed {seed}"))
}

fn play(options: Options, name: &str) -> bool {
    print_run(run(options, to_stdout()), name)
}

fn to_stdout() -> Trace {
    Trace::to(Box::new(std::io::BufWriter::with_capacity(1 << 16, std::io::stdout())))
}

/// Prints what came of a run, whose events are out already.
fn print_run(report: Report, name: &str) -> bool {
    report.standing.iter().for_each(|line| println!("{line}"));
    report.counters.rows().iter().for_each(|(name, count, _)| println!("{count:>10} {name}"));
    println!("trace {:016x}", report.trace);
    match &report.violation {
        Some(violation) => println!("{name} fails: {violation}"),
        None => println!("{name} holds"),
    }
    report.violation.is_none()
}

fn crash_points(scenario: Option<Scenario>, all: bool, jobs: usize) -> bool {
    let scenarios = scenario.map_or(Scenario::ALL.to_vec(), |scenario| vec![scenario]);
    let extent = if all { Extent::Everything } else { Extent::One };
    let (mut runs, mut failed) = (0, 0);
    crash_points::enumerate(&scenarios, extent, jobs, |tally| {
        (runs, failed) = (runs + tally.runs, failed + tally.failures.len());
        print_tally(&tally);
    });
    println!("{runs} points, {failed} failed");
    failed == 0
}

fn crash_pairs(count: u64, seed: u64, jobs: usize) -> bool {
    let tally = crash_points::pairs(count, seed, jobs);
    print_tally(&tally);
    tally.failures.is_empty()
}

fn print_tally(tally: &Tally) {
    for (case, why) in &tally.failures {
        println!("{case} fails: {why}\n  replay with: bft-sim crash-points --case {case}");
    }
    println!("{}", tally.line());
}

fn determinism(seeds: Seeds, mode: Mode) -> bool {
    let mut differing = 0;
    for seed in seeds.start..seeds.start + seeds.seeds {
        let trace = || run(mode.options(seed), Trace::quiet()).trace;
        let (first, second) = (trace(), trace());
        if first != second {
            differing += 1;
            println!("seed {seed} did {first:016x} and then {second:016x}");
        }
    }
    println!("{} seeds run twice, {differing} of them differently", seeds.seeds);
    differing == 0
}

fn twins(rounds: u32, choice: Choice, jobs: usize) -> bool {
    let tally = twins::enumerate(rounds, choice, jobs);
    for (case, violation) in &tally.failures {
        println!("{case} fails: {violation}\n  replay with: bft-sim twins --case {case}");
    }
    println!("one replica twice: {}", tally.line());
    let control = twins::control(jobs);
    println!("two replicas twice, which must fail: {}", control.line());
    let disagreement = control.disagreement();
    match disagreement {
        Some((case, violation)) => println!("  as it must: {case}: {violation}"),
        None => println!("  no scenario breaks agreement: the judges see nothing"),
    }
    tally.failures.is_empty() && disagreement.is_some()
}

#[cfg(feature = "mutants")]
fn mutants(search: bool, villain: Option<Strategy>, names: &[String]) -> bool {
    if search {
        return bft_sim::mutants::search(names, villain);
    }
    bft_sim::mutants::check().unwrap_or_else(|error| {
        println!("{error}");
        false
    })
}

#[cfg(not(feature = "mutants"))]
fn mutants(_search: bool, _villain: Option<Strategy>, _names: &[String]) -> bool {
    println!("{}", bft_sim::mutants::HOW_TO_BUILD);
    false
}

fn replay_regressions() -> bool {
    let all = match regressions::all(&regressions::directory()) {
        Ok(all) => all,
        Err(error) => {
            println!("{error}");
            return false;
        }
    };
    let mut failed = 0;
    for (name, regression) in &all {
        match regressions::replay(regression) {
            Ok(()) => println!("{name} holds: {}", regression.note),
            Err(violation) => {
                failed += 1;
                println!("{name} fails: {violation} ({})", regression.note);
            }
        }
    }
    println!("{} regressions, {failed} failed", all.len());
    failed == 0
}
