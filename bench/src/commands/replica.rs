//! `bft-bench replica`: what `local` starts. One replica with a service that is built in, until it is told to stop.

use std::net::TcpListener;
use std::path::PathBuf;

use bft_cli::{log, stop};
use bft_server::Control;
use bft_server::children::{READY, inherited_listener};
use bft_server::config::{ReplicaConfig, VARIABLE_PREFIX};
use bft_services::named::by_name;

use crate::exit::{Failure, Reason, because};

/// Run one replica of a local cluster
#[derive(clap::Args)]
pub struct Args {
    /// The replica's bftd.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Cores granted
    #[arg(long, value_name = "K")]
    cores: Option<u32>,
}

/// Runs it.
pub fn replica(args: &Args) -> Result<(), Failure> {
    // First of all: descriptor 3 is taken by whatever is opened next otherwise.
    let handed_down = inherited_listener().map_err(because(Reason::Config))?;
    let listener = handed_down.ok_or_else(|| {
        Failure::new(Reason::Usage, "a replica of bft-bench takes its listener from its parent: use `bft-bench local`")
    })?;
    let config = ReplicaConfig::load_with(&args.config, variables(args)).map_err(because(Reason::Config))?;
    log::start(&config.log.level)?;
    let service = by_name(&config.service.name, &config.service.config).map_err(because(Reason::Config))?;
    let control = Control::new().map_err(because(Reason::Unavailable))?;
    stop_on_signals(&control)?;
    tell_when_ready(&control, &config, &listener)?;
    bft_server::run(config.into_server_config(listener), service, control).map_err(because(Reason::Failed))
}

/// The environment's, and what the command line says, which goes before them.
fn variables(args: &Args) -> Vec<(String, String)> {
    let all = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let ours = all.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX));
    let mut ours: Vec<_> = ours.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect();
    if let Some(cores) = args.cores {
        ours.retain(|(name, _)| name != "BFTD_CORES");
        ours.push(("BFTD_CORES".into(), cores.to_string()));
    }
    ours
}

fn stop_on_signals(control: &Control) -> Result<(), Failure> {
    let control = control.clone();
    stop::on_signal(Reason::Failed, move |_| control.stop())
}

fn tell_when_ready(control: &Control, config: &ReplicaConfig, listener: &TcpListener) -> Result<(), Failure> {
    let listen = listener.local_addr().map_err(because(Reason::Unavailable))?;
    let replica = config.me;
    control.when_ready(move || tracing::info!(%replica, %listen, "{READY}")).map_err(because(Reason::Unavailable))
}
