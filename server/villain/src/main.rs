//! `bft-villain`: a replica of a real cluster that attacks it. The villains are those of the simulator, file by file; here
//! is the program around them, which is never shipped and which nothing depends on. `possessed` is the villain at the door
//! of a core, `run` the process, `scenes` where each villain belongs.

mod possessed;
mod run;
mod scenes;

use std::process::ExitCode;

use bft_cli::exit;
use clap::{Parser, Subcommand};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Planted faults are for the simulator alone.
const _: () = assert!(!bft_core::mutants::MUTANTS, "bft-villain is never built with planted faults");

const EXAMPLES: &str = "\
Examples:
  bft-villain list
  bft-villain run --villain proposes-two --config net/replica-0/bftd.toml
  bft-bench villains --only proposes-two          what it costs a cluster";

/// A replica that attacks its cluster, to see what becomes of that.
#[derive(Parser)]
#[command(name = "bft-villain", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    List(scenes::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::List(args) => scenes::list(&args),
    };
    exit::report("bft-villain", outcome)
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
