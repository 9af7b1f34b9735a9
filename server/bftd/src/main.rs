//! `bftd`: one program for replicas and for those who look after them. Here are its arguments; each command is a file
//! of its own in `commands`.

mod commands;
mod load;

use std::process::ExitCode;

use bft_cli::{exit, output};
use clap::{Parser, Subcommand};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Planted faults are for the simulator alone.
const _: () = assert!(!bft_core::mutants::MUTANTS, "bftd is never built with planted faults");

const EXIT_CODES: &str = "\
Exit codes:
  0   it worked
  1   it did not: a check failed, a key is not there, a replica had to stop
  2   the command line is wrong
  64  an operation is refused for what is in it
  65  a file can not be read, or is not what it should be
  69  what is needed is not to be had: no answer from the cluster, io_uring refused, the directory in use
  78  a configuration is wrong";

const EXAMPLES: &str = "\
Examples:
  bftd demo                                       a cluster of four, under load, to look at
  bftd testnet --replicas 4 --dir net             make a cluster on this machine
  bftd run --config net/replica-0/bftd.toml       run one of its replicas (and the others likewise)
  bftd kv put colour blue --config net/client.toml
  bftd status --config net/client.toml
  bftd verify net/replica-0/data                  is a stopped replica's directory whole and genuine?
  bftd inspect journal net/replica-0/data         what lies in it";

/// Byzantine fault-tolerant replication: replicas, test clusters, a demo, and the tools around them.
#[derive(Parser)]
#[command(name = "bftd", version, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(commands::demo::Args),
    Testnet(commands::testnet::Args),
    Run(commands::run::Args),
    Kv(commands::kv::Args),
    Status(commands::status::Args),
    Inspect(commands::inspect::Args),
    Verify(commands::verify::Args),
    Audit(commands::audit::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => commands::demo::demo(&args),
        Command::Testnet(args) => commands::testnet::testnet(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Kv(args) => commands::kv::kv(&args),
        Command::Status(args) => commands::status::status(&args),
        Command::Inspect(args) => commands::inspect::inspect(&args),
        Command::Verify(args) => commands::verify::verify(&args),
        Command::Audit(args) => commands::audit::audit(&args),
    };
    exit::report("bftd", outcome)
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
