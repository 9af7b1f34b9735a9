//! `bftd testnet`: makes a cluster's folder.

use std::path::PathBuf;

use bft_core::limits::REPLICAS_MAX;
use bft_server::testnet::{BASE_PORT, Testnet, TestnetError, TestnetOptions};

use crate::exit::{Failure, Reason};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  bftd testnet --replicas 4 --dir net
  bftd testnet --replicas 4 --dir net --base-port 9000
  bftd testnet --dir net --hosts a.example:4710,b.example:4710,c.example:4710,d.example:4710
                                 then copy net/replica-K to the K-th host (from 0)";

/// Make a cluster: keys, configurations and data directories of all replicas, and what a client needs
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How many replicas: 3f+1 of them bear f faulty ones [default: 4, or one for each of --hosts]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=REPLICAS_MAX as i64))]
    replicas: Option<u16>,
    /// The folder to be made
    #[arg(long)]
    dir: PathBuf,
    /// All on this machine: the port of the first one, the others follow
    #[arg(long, value_name = "PORT", default_value_t = BASE_PORT, conflicts_with = "hosts",
        value_parser = clap::value_parser!(u16).range(1..))]
    base_port: u16,
    /// Each on a machine of its own: where, in the order of their ids
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    hosts: Vec<String>,
}

/// Makes it and says what to do next.
pub fn testnet(args: &Args) -> Result<(), Failure> {
    let options = options(args)?;
    let testnet = Testnet::create(&args.dir, &options).map_err(failure)?;
    let dir = args.dir.display();
    let n = testnet.cluster().n();
    let mut text = format!("made a cluster of {n} in {dir}\n");
    if args.hosts.is_empty() {
        for replica in testnet.cluster().replicas() {
            text += &format!("  bftd run --config {}\n", testnet.config(replica).display());
        }
    } else {
        for (replica, host) in testnet.cluster().replicas().zip(&args.hosts) {
            text += &format!("  {host}: copy {} there, then `bftd run --config …/bftd.toml`\n", testnet.replica_dir(replica).display());
        }
        text += "the data directories belong to these replicas alone: copy each once, and run each in one place\n";
    }
    text += &format!("then\n  bftd status --config {}\n", testnet.client_config().display());
    output::write(text.as_bytes())
}

fn options(args: &Args) -> Result<TestnetOptions, Failure> {
    let hosts = args.hosts.len();
    if hosts == 0 {
        let replicas = args.replicas.unwrap_or(4).into();
        return TestnetOptions::loopback(replicas, args.base_port).map_err(failure);
    }
    if let Some(replicas) = args.replicas.filter(|replicas| usize::from(*replicas) != hosts) {
        let message = format!("--replicas is {replicas}, but --hosts names {hosts}: leave --replicas out, or name each");
        return Err(Failure::new(Reason::Config, message));
    }
    TestnetOptions::hosts(args.hosts.clone()).map_err(failure)
}

fn failure(error: TestnetError) -> Failure {
    let reason = match error {
        TestnetError::Address(_) | TestnetError::Ports { .. } | TestnetError::Invalid(_) => Reason::Config,
        TestnetError::NotEmpty(_) | TestnetError::DataDir(_) | TestnetError::Io { .. } => Reason::Failed,
    };
    Failure::new(reason, error)
}
