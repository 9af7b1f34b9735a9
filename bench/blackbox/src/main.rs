//! `bft-blackbox`: real replicas in network namespaces, faults, and a judgement of what their clients saw. Never shipped;
//! needs root, `ip` and TUN devices. Here are its arguments; `sandbox` is where everything happens, `scenarios` what.

mod draw;
mod judge;
mod load;
mod sandbox;
mod scenarios;
mod stage;
mod wire;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bft_cli::exit::{self, Failure, Reason, because};
use bft_cli::output;
use bft_cli::stop::Stop;
use clap::{Parser, Subcommand};

use crate::sandbox::Folder;
use crate::scenarios::{ALL, Part, Scenario};
use crate::stage::{Setting, play};

const EXIT_CODES: &str = "\
Exit codes:
  0   everything held
  1   something did not
  2   the command line is wrong
  69  what is needed is not to be had: root, ip, /dev/net/tun, bftd
  130 a signal ended it";

const EXAMPLES: &str = "\
Examples:
  bft-blackbox list
  bft-blackbox run kill-primary split --seconds 5
  bft-blackbox run twin-primary --seed 7 --keep      the files and logs stay
  bft-blackbox all --short                           what every landing plays";

/// Faults of real replicas in network namespaces, and whether what their clients saw is right
#[derive(Parser)]
#[command(name = "bft-blackbox", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what scenarios there are
    List,
    /// Play some of them, in this order
    Run {
        /// Their names
        #[arg(required = true, value_name = "SCENARIO", value_parser = clap::builder::PossibleValuesParser::new(ALL.map(|scenario| scenario.name)))]
        names: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Play all of them
    All {
        /// Only those of every landing
        #[arg(long)]
        short: bool,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(clap::Args)]
struct Options {
    /// How long each fault lasts
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Of what clients choose, and which packets are lost
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The program of the replicas [default: bftd, beside this program]
    #[arg(long, value_name = "PATH")]
    bftd: Option<PathBuf>,
    /// Leave the files of the replicas, and say where
    #[arg(long)]
    keep: bool,
    /// For this program's own use
    #[arg(long, hide = true, value_name = "FOLDER")]
    inside: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::List => list(),
        Command::Run { names, options } => {
            let named =
                |name: &String| ALL.iter().find(|scenario| scenario.name == name).expect("clap knows the names");
            run(&names.iter().map(named).collect::<Vec<_>>(), &options)
        }
        Command::All { short, options } => {
            let is_in = |scenario: &&Scenario| !short || scenario.part == Part::Short;
            run(&ALL.iter().filter(is_in).collect::<Vec<_>>(), &options)
        }
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => exit::report("bft-blackbox", Err(failure)),
    }
}

fn list() -> Result<ExitCode, Failure> {
    for Scenario { name, what, part, .. } in &ALL {
        let part = match part {
            Part::Short => "short",
            Part::Night => "night",
        };
        output::line(&format!("{name:<18} {part}  {what}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run(scenarios: &[&Scenario], options: &Options) -> Result<ExitCode, Failure> {
    let bftd = options.program()?;
    let Some(folder) = &options.inside else {
        return sandbox::enclose(if options.keep { Folder::Kept } else { Folder::Removed });
    };
    sandbox::settle()?;
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let span = Duration::from_secs(options.seconds);
    let setting = Setting { bftd: &bftd, folder, span, seed: options.seed, stop: &stop };
    let mut failed = 0;
    for scenario in scenarios {
        failed += usize::from(!is_right(scenario, setting)?);
        stop.check()?;
    }
    output::line(&format!("{} passed, {failed} failed (seed {})", scenarios.len() - failed, options.seed))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(Reason::Failed as u8) })
}

/// Plays one, and tells of it in a line.
fn is_right(scenario: &Scenario, setting: Setting<'_>) -> Result<bool, Failure> {
    let begun = Instant::now();
    let outcome = play(scenario, setting);
    setting.stop.check()?;
    let seconds = begun.elapsed().as_secs_f64();
    let (verdict, words) = match &outcome {
        Ok(words) => ("ok", words.clone()),
        Err(failure) => ("FAILED", failure.to_string()),
    };
    output::line(&format!("{verdict:<7} {:<18} {seconds:>5.1} s  {words}", scenario.name))?;
    Ok(outcome.is_ok())
}

impl Options {
    fn program(&self) -> Result<PathBuf, Failure> {
        let path = match &self.bftd {
            Some(path) => path.clone(),
            None => std::env::current_exe().map_err(because(Reason::Unavailable))?.with_file_name("bftd"),
        };
        path.canonicalize().map_err(|error| {
            let what = format!(
                "{}: {error}; build it (`cargo build --release -p bftd`) or name it with --bftd",
                path.display()
            );
            Failure::new(Reason::Unavailable, what)
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }
}
