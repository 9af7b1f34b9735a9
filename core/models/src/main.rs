//! `bft-models`: searches the models, walks them together with the real core, and prints what it found.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bft_models::plan::{Expected, Extent, rows};
use bft_models::search::Verdict;

const USAGE: &str = "\
Searches the models of the view change and of the synchroniser, and walks them together with the real core.

usage: bft-models [quick|short|long] [--threads N] [--seed N] [--only WORDS]

  quick, short, long   how far: seconds, a minute, much longer (short)
  --threads N          threads of a search (2)
  --seed N             where random walks begin (1)
  --only WORDS         only rows whose name has these words

Prints a row for each model: what was looked at, different states (for walks: steps), the most steps from the beginning,
seconds, and the verdict; for a negative control, which must break, the steps that break it. Exit code 1: a row is not as
it must be.";

struct Options {
    extent: Extent,
    threads: usize,
    seed: u64,
    only: String,
}

fn number<T: std::str::FromStr>(name: &str, value: Option<String>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{name} needs a number"))?;
    value.parse().map_err(|_| format!("{name} takes a whole number, not {value}"))
}

/// `None`: help is asked for.
fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut options = Options { extent: Extent::Short, threads: 2, seed: 1, only: String::new() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "quick" => options.extent = Extent::Quick,
            "short" => options.extent = Extent::Short,
            "long" => options.extent = Extent::Long,
            "--threads" => options.threads = number("--threads", arguments.next())?,
            "--seed" => options.seed = number("--seed", arguments.next())?,
            "--only" => options.only = arguments.next().ok_or("--only needs words")?,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("{other} is no option")),
        }
    }
    if !(1..=64).contains(&options.threads) {
        return Err("--threads takes 1 to 64".into());
    }
    Ok(Some(options))
}

/// Runs the rows; whether all are as they must be.
fn run(options: &Options) -> bool {
    let (mut passed, mut failed) = (0, 0);
    println!("{:<88} {:>10} {:>5} {:>8}  verdict", "model", "states", "depth", "seconds");
    for row in rows(options.extent, options.seed).into_iter().filter(|row| row.name.contains(&options.only)) {
        let (name, expected) = (row.name.clone(), row.expected);
        let (found, as_expected) = row.run(options.threads);
        let (states, depth, seconds) = (found.states, found.depth, found.took.as_secs_f64());
        println!("{name:<88} {states:>10} {depth:>5} {seconds:>8.1}  {}", found.verdict);
        if let Verdict::Broken(_, steps) = &found.verdict {
            println!("    {}", steps.join("; "));
        }
        match (as_expected, expected) {
            (true, _) => passed += 1,
            (false, Expected::Holds) => failed += 1,
            (false, Expected::Breaks) => {
                println!("    FAILED: it must break, or the model shows nothing about this rule");
                failed += 1;
            }
        }
    }
    println!("{passed} as they must be, {failed} not");
    failed == 0 && passed > 0
}

fn main() -> ExitCode {
    match options(std::env::args().skip(1)) {
        Ok(Some(options)) if run(&options) => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::FAILURE,
        Ok(None) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("bft-models: {why}\n{USAGE}");
            ExitCode::from(64)
        }
    }
}
