//! `bft-bench run`: load on a cluster that runs already.

use std::path::PathBuf;

use bft_cli::stop::Stop;
use bft_client::ClientConfig;

use super::measure::{self, Nobody};
use crate::exit::{Failure, Reason, because};
use crate::options::LoadArgs;
use crate::report::{self, Report};

const EXAMPLES: &str = "\
Examples:
  bft-bench run --config net/client.toml --duration 10s --clients 4 --inflight 64
  bft-bench run --config net/client.toml --clients 8 --inflight 4096 --ops-per-envelope 256
  bft-bench run --config net/client.toml --rate 5000 --output json
  bft-bench run --config net/client.toml --service kv --keys 100000 --op-bytes 128 --preload

Without --rate the loop is closed: every client keeps --inflight operations under way. With it the loop is open:
operations are due at fixed times, and their latency counts from those times, whatever keeps them from being sent.";

/// Put load on a cluster, and say what came of it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The cluster's client.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    let times = args.load.times()?;
    let config = ClientConfig::load(&args.config).map_err(because(Reason::Config))?;
    let plan = args.load.plan(&config.cluster, config.timeout)?;
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let outcome = measure::measure(&args.load, &config, &plan, times, &stop, &mut Nobody)?;
    report::tell(args.load.output, &Report { load: &args.load, plan: &plan, outcome: &outcome, local: None })
}
