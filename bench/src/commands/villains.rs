//! `bft-bench villains`: what one Byzantine replica costs a cluster, villain by villain. Each is run several times, each time
//! in a fresh cluster, by turns with runs without it. Who the villains are is in `cast`, one run in `stage`.

mod cast;
mod stage;

use std::path::PathBuf;
use std::time::Duration;

use bft_cli::stop::Stop;
use bft_core::config::strict::HumanDuration;
use serde_json::{Value, json};

use crate::environment::environment;
use crate::exit::{Failure, Reason};
use crate::output::{self, Output};
use crate::report::rounded;
use cast::{Cast, Harm, Villain};
use stage::{Company, Run, Stage, Times, load_in_words};

const EXAMPLES: &str = "\
Examples:
  bft-bench villains                                        all of them: about 25 minutes
  bft-bench villains --only silent --only begs --rounds 1
  bft-bench villains --only slow --settle 26s               is it borne better after half a minute?";

/// Measure what one Byzantine replica of four costs a cluster, villain by villain
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only this villain; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Runs of each villain, and as many without it
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long the load runs before the window
    #[arg(long, default_value = "3s", value_name = "TIME")]
    settle: HumanDuration,
    /// The window
    #[arg(long, default_value = "3s", value_name = "TIME")]
    window: HumanDuration,
    /// The program that runs a villain [default: bft-villain beside this one]
    #[arg(long, value_name = "FILE")]
    villain_program: Option<PathBuf>,
    /// Where temporary folders are made [default: the system's place for those]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to tell the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How often a round is played until the villain acts, in the mean.
const ATTEMPTS_PER_ROUND: u32 = 3;

/// What came of one villain.
struct Verdict {
    villain: Villain,
    without: Vec<Run>,
    with: Vec<Run>,
    /// Rounds that do not count.
    idle_rounds: u32,
}

/// Measures, and tells.
pub fn villains(args: &Args) -> Result<(), Failure> {
    let times = args.times()?;
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let cast = Cast::new(args.villain_program.clone())?;
    let villains = cast.villains(&args.only)?;
    let stage = Stage { cast: &cast, dir: args.dir.as_deref(), times, stop: &stop };
    args.output.progress(HEADINGS)?;
    let mut verdicts = Vec::new();
    for villain in villains {
        let verdict = rounds(&stage, villain, args.rounds)?;
        args.output.progress(&verdict.row())?;
        verdicts.push(verdict);
    }
    tell(args, &verdicts)?;
    check(&verdicts)
}

impl Args {
    fn times(&self) -> Result<Times, Failure> {
        let (settle, window) = (Duration::from_nanos(self.settle.0), Duration::from_nanos(self.window.0));
        let bounds = [("--settle", settle, Duration::ZERO, 300), ("--window", window, Duration::from_millis(100), 300)];
        for (name, time, least, most) in bounds {
            if time < least || time > Duration::from_secs(most) {
                let what = format!("{name} is {time:?}, but must be {least:?} to {most} s");
                return Err(Failure::new(Reason::Usage, what));
            }
        }
        Ok(Times { settle, window })
    }
}

/// By turns, and each round in the other order, so that a machine that becomes slower favours nobody. A round in which the
/// villain had nothing to spoil does not count, and is played again.
fn rounds(stage: &Stage<'_>, villain: Villain, rounds: u32) -> Result<Verdict, Failure> {
    let mut verdict = Verdict { villain, without: Vec::new(), with: Vec::new(), idle_rounds: 0 };
    let attempts = rounds * ATTEMPTS_PER_ROUND;
    for attempt in 0..attempts {
        let (without, with) = if attempt % 2 == 0 {
            let without = stage.run(&verdict.villain, Company::Honest)?;
            (without, stage.run(&verdict.villain, Company::WithVillain)?)
        } else {
            let with = stage.run(&verdict.villain, Company::WithVillain)?;
            (stage.run(&verdict.villain, Company::Honest)?, with)
        };
        let gives_up = attempt + 1 == attempts;
        if with.is_idle() && !gives_up {
            verdict.idle_rounds += 1;
            continue;
        }
        verdict.without.push(without);
        verdict.with.push(with);
        if verdict.with.len() == rounds as usize {
            break;
        }
    }
    Ok(verdict)
}

const HEADINGS: &str =
    "villain              place    scene       without     with  ratio   aim   view  evidence  misdeeds";

impl Verdict {
    fn ratio(&self) -> f64 {
        median(&self.with, |run| run.ops_per_s) / median(&self.without, |run| run.ops_per_s)
    }

    /// The least of all rounds: 0 of a villain that did nothing however often it was tried.
    fn misdeeds(&self) -> u64 {
        self.with.iter().map(|run| run.misdeeds.unwrap_or(0)).min().unwrap_or(0)
    }

    fn errors(&self) -> u64 {
        self.with.iter().chain(&self.without).map(|run| run.errors).sum()
    }

    fn row(&self) -> String {
        let Villain { name, place, scene, harm } = &self.villain;
        let (without, with) = (median(&self.without, |run| run.ops_per_s), median(&self.with, |run| run.ops_per_s));
        let (ratio, aim) = (self.ratio() * 100.0, harm.aim() * 100.0);
        let (view, evidence) =
            (median(&self.with, |run| run.view as f64), median(&self.with, |run| run.evidence as f64));
        let idle = match self.idle_rounds {
            0 => String::new(),
            rounds => format!("  did nothing in {rounds} more"),
        };
        let missed = if ratio < aim { "  below the aim" } else { "" };
        let gone = if self.with.iter().any(|run| run.is_gone) { "  gone before the end" } else { "" };
        format!(
            "{name:<20} {:<8} {:<9} {without:>9.0} {with:>8.0} {ratio:>5.0}% {aim:>4.0}% {view:>6.0} {evidence:>9.0} {:>9}\
             {idle}{missed}{gone}",
            place.name(),
            scene.name(),
            self.misdeeds()
        )
    }

    fn object(&self) -> Value {
        let Villain { name, place, scene, harm } = &self.villain;
        json!({
            "villain": name,
            "place": place.name(),
            "scene": scene.name(),
            "without": runs(&self.without),
            "with": runs(&self.with),
            "ratio": rounded(self.ratio(), 4),
            "aim": harm.aim(),
            "misdeeds_min": self.misdeeds(),
            "idle_rounds": self.idle_rounds,
            "errors": self.errors(),
        })
    }
}

/// The one in the middle; of an even number, the lower of the two.
fn median(runs: &[Run], of: fn(&Run) -> f64) -> f64 {
    let mut all: Vec<_> = runs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[(all.len() - 1) / 2]
}

fn runs(runs: &[Run]) -> Value {
    let one = |run: &Run| {
        json!({
            "ops_per_s": rounded(run.ops_per_s, 1),
            "errors": run.errors,
            "view": run.view,
            "evidence": run.evidence,
            "misdeeds": run.misdeeds,
            "gone": run.is_gone,
            "cpu_in_place_s": run.cpu_in_place.as_secs_f64(),
            "cpu_of_others_s": run.cpu_of_others.as_secs_f64(),
        })
    };
    runs.iter().map(one).collect()
}

fn tell(args: &Args, verdicts: &[Verdict]) -> Result<(), Failure> {
    match args.output {
        Output::Json => {
            let object = json!({
                "load": load_in_words(),
                "rounds": args.rounds,
                "settle_s": args.settle.0 as f64 / 1e9,
                "window_s": args.window.0 as f64 / 1e9,
                "villains": verdicts.iter().map(Verdict::object).collect::<Vec<_>>(),
                "environment": environment(),
            });
            output::line(&object.to_string())
        }
        Output::Text => {
            for (who, harm) in [("the worst", Harm::Lies), ("of the floods", Harm::Flood)] {
                let of = verdicts.iter().filter(|verdict| verdict.villain.harm == harm);
                if let Some(worst) = of.min_by(|one, other| one.ratio().total_cmp(&other.ratio())) {
                    output::line(&format!("{who}: {}, {:.0} %", worst.villain.name, worst.ratio() * 100.0))?;
                }
            }
            output::line(&load_in_words())
        }
    }
}

/// A villain that did nothing was not borne, and an answer that is wrong is no answer.
fn check(verdicts: &[Verdict]) -> Result<(), Failure> {
    let named = |is_it: fn(&&Verdict) -> bool| {
        let names: Vec<_> = verdicts.iter().filter(is_it).map(|verdict| &*verdict.villain.name).collect();
        names.join(", ")
    };
    let idle = named(|verdict| verdict.misdeeds() == 0);
    let wrong = named(|verdict| verdict.errors() > 0);
    match (idle.is_empty(), wrong.is_empty()) {
        (_, false) => Err(Failure::new(Reason::Failed, format!("operations ended in errors with: {wrong}"))),
        (false, true) => {
            Err(Failure::new(Reason::Failed, format!("these did nothing in one run after the other: {idle}")))
        }
        (true, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::cast::{Place, Scene};
    use super::*;

    fn verdict(without: &[f64], with: &[f64], misdeeds: Option<u64>, errors: u64) -> Verdict {
        let run = |ops_per_s: &f64| Run {
            ops_per_s: *ops_per_s,
            errors,
            view: 1,
            evidence: 0,
            misdeeds,
            is_gone: false,
            cpu_in_place: Duration::ZERO,
            cpu_of_others: Duration::ZERO,
        };
        let villain = Villain { name: "x".into(), place: Place::Primary, scene: Scene::Quiet, harm: Harm::Lies };
        Verdict {
            villain,
            without: without.iter().map(run).collect(),
            with: with.iter().map(run).collect(),
            idle_rounds: 0,
        }
    }

    #[test]
    fn medians_are_compared_and_what_misses_its_aim_is_marked() {
        let borne = verdict(&[100.0, 90.0, 400.0], &[60.0, 50.0, 1.0], Some(3), 0);
        assert!((borne.ratio() - 0.5).abs() < 1e-9, "{}", borne.ratio());
        assert!(borne.row().ends_with("50%   50%      1         0         3"), "{}", borne.row());
        assert!(verdict(&[100.0], &[49.0], Some(1), 0).row().ends_with("below the aim"));
        assert!(check(&[borne]).is_ok());
    }

    #[test]
    fn who_did_nothing_and_wrong_answers_are_failures() {
        assert!(check(&[verdict(&[1.0], &[1.0], Some(0), 0)]).is_err());
        assert!(check(&[verdict(&[1.0], &[1.0], None, 0)]).is_err());
        assert!(check(&[verdict(&[1.0], &[1.0], Some(1), 1)]).is_err());
    }
}
