//! `bftd run`: one replica, in the foreground, until it is told to stop.

use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::path::PathBuf;

use bft_cli::stop;
use bft_core::service::Service;
use bft_server::children::{READY, inherited_listener};
use bft_server::config::{LogFormat, LogSection, ReplicaConfig};
use bft_server::data_dir::{self, DataDirError};
use bft_server::{Control, ServerError, directory_entropy};
use bft_services::named::{NoService, by_name};
use tracing_subscriber::EnvFilter;

use crate::exit::{Failure, Reason, because};

const EXAMPLES: &str = "\
Examples:
  bftd run --config replica-0/bftd.toml
  BFTD_LOG__FORMAT=json BFTD_LOG__LEVEL=debug bftd run --config replica-0/bftd.toml

Every key of the file can be given as BFTD_SECTION__KEY in the environment, which goes before the file.
--learner is for a replica whose directory is lost: on an empty one it follows, answers and serves its peers, and counts as
faulty. Without it, a replica does not start on an empty directory: it would break what it promised.
SIGTERM or SIGINT: finish what is under way, flush, exit 0. A second one: stop at once.
With LISTEN_FDS=1 the replica takes descriptor 3 for its listening socket.";

/// Run one replica in the foreground
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The replica's bftd.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// For a replica whose directory is lost: start it on an empty one. It never votes again under its key
    #[arg(long)]
    learner: bool,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    // First of all: descriptor 3 is taken by whatever is opened next otherwise.
    let handed_down = inherited_listener().map_err(because(Reason::Config))?;
    let config = ReplicaConfig::load(&args.config).map_err(because(Reason::Config))?;
    start_log(&config)?;
    if args.learner {
        make_learner(&config)?;
    }
    let service = service(&config)?;
    let listener = match handed_down {
        Some(listener) => listener,
        None => TcpListener::bind(&config.listen).map_err(|error| {
            Failure::new(Reason::Unavailable, format!("cannot listen at {}: {error}", config.listen))
        })?,
    };
    let control = Control::new().map_err(because(Reason::Unavailable))?;
    stop_on_signals(&control)?;
    tell_when_ready(&control, &config, &listener)?;
    let outcome = bft_server::run(config.into_server_config(listener), service, control);
    match outcome {
        Ok(()) => {
            tracing::info!("replica has stopped in good order");
            Ok(())
        }
        Err(error) => Err(failure(&error)),
    }
}

fn make_learner(config: &ReplicaConfig) -> Result<(), Failure> {
    let public_key = config.secret_key.public_key();
    data_dir::create_learner(&config.data_dir, &config.cluster, config.me, public_key, &directory_entropy())
        .map_err(|error| failure(&ServerError::DataDir(error)))
}

fn service(config: &ReplicaConfig) -> Result<Box<dyn Service>, Failure> {
    by_name(&config.service.name, &config.service.config).map_err(|error| {
        let key = match error {
            NoService::Name(_) => "service.name",
            NoService::Config { .. } => "service.config",
        };
        Failure::new(Reason::Config, config.error(key, error))
    })
}

fn start_log(config: &ReplicaConfig) -> Result<(), Failure> {
    let LogSection { format, level } = &config.log;
    let filter = EnvFilter::builder().parse(level).map_err(|error| {
        let place = config.error("log.level", error).with_hint("write error, warn, info, debug or trace");
        Failure::new(Reason::Config, place)
    })?;
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Pretty => log.with_ansi(colours).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}

fn stop_on_signals(control: &Control) -> Result<(), Failure> {
    let control = control.clone();
    stop::on_signal(Reason::Failed, move |signal| {
        tracing::info!(signal, "stopping; a second signal stops at once");
        control.stop();
    })
}

fn tell_when_ready(control: &Control, config: &ReplicaConfig, listener: &TcpListener) -> Result<(), Failure> {
    let listen = listener.local_addr().map_err(because(Reason::Unavailable))?;
    let (replica, cluster) = (config.me, config.cluster.cluster_id());
    let say = move || tracing::info!(%replica, %listen, %cluster, "{READY}");
    control.when_ready(say).map_err(because(Reason::Unavailable))
}

fn failure(error: &ServerError) -> Failure {
    let reason = match error {
        ServerError::IoUringRefused(_) | ServerError::DataDir(DataDirError::Locked(_)) => Reason::Unavailable,
        ServerError::Config(_)
        | ServerError::SegmentTooShort(_)
        | ServerError::DataDir(
            DataDirError::NoSuperblock(_)
            | DataDirError::Voter(_)
            | DataDirError::OtherCluster { .. }
            | DataDirError::OtherReplica { .. }
            | DataDirError::OtherKey { .. }
            | DataDirError::OtherEpoch { .. },
        ) => Reason::Config,
        ServerError::DataDir(DataDirError::Io { .. } | DataDirError::NotEmpty(_) | DataDirError::Damaged { .. })
        | ServerError::JournalIo { .. }
        | ServerError::JournalUnusable(_)
        | ServerError::Snapshot(_)
        | ServerError::Service(_)
        | ServerError::Halted(_)
        | ServerError::Listener(_)
        | ServerError::ThreadEnded(_)
        | ServerError::Executor(_) => Reason::Failed,
    };
    Failure::new(reason, error)
}
