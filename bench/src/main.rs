//! `bft-bench`: puts load on a cluster and says what came of it. Here are its arguments; each command is a file of its
//! own in `commands`, the load itself is in `load`, what is asked of the replicas meanwhile in `watch`, and what is told
//! in the end in `report`.

mod commands;
mod environment;
mod floors;
mod load;
mod options;
mod phases;
mod pulse;
mod report;
mod watch;

use std::process::ExitCode;

use bft_cli::{exit, output};
use clap::{Parser, Subcommand};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Planted faults are for the simulator alone.
const _: () = assert!(!bft_core::mutants::MUTANTS, "bft-bench is never built with planted faults");

const EXIT_CODES: &str = "\
Exit codes:
  0   it was measured
  1   it was not, or not to the end
  2   the command line is wrong
  69  what is needed is not to be had: no answer from the cluster, io_uring refused
  78  a configuration is wrong
  130 a signal ended it";

const EXAMPLES: &str = "\
Examples:
  bft-bench local --replicas 4                      a cluster of its own on this machine
  bft-bench local --clients 8 --inflight 4096 --ops-per-envelope 256 --output json
  bft-bench run --config net/client.toml --duration 10s --clients 4 --inflight 64
  bft-bench run --config net/client.toml --rate 5000   open loop
  bft-bench kills --who primary --times 20          how long it is silent when replicas die
  bft-bench villains --only silent                  what a Byzantine replica costs
  bft-bench catch-up --stopped 20s                  how soon one that was stopped is back
  bft-bench transfer --state 1GiB                   how a large state gets over when all goes wrong
  bft-bench floors                                  what this machine allows at most";

/// Load on a cluster, and what came of it: throughput, latency, CPU time, memory.
#[derive(Parser)]
#[command(name = "bft-bench", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(commands::run::Args),
    Local(Box<commands::local::Args>),
    Kills(commands::kills::Args),
    Villains(commands::villains::Args),
    CatchUp(commands::catch_up::Args),
    Transfer(commands::transfer::Args),
    Floors(commands::floors::Args),
    #[command(hide = true)]
    Replica(commands::replica::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => commands::run::run(&args),
        Command::Local(args) => commands::local::local(&args),
        Command::Kills(args) => commands::kills::kills(&args),
        Command::Villains(args) => commands::villains::villains(&args),
        Command::Transfer(args) => commands::transfer::transfer(&args),
        Command::CatchUp(args) => commands::catch_up::catch_up(&args),
        Command::Floors(args) => commands::floors::floors(&args),
        Command::Replica(args) => commands::replica::replica(&args),
    };
    exit::report("bft-bench", outcome)
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
