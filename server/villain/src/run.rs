//! `bft-villain run`: one replica, as `bftd run` runs it, with a villain at its core's door. In the end it says how many
//! misdeeds there were.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bft_cli::exit::{Failure, Reason, because};
use bft_cli::{log, output, stop};
use bft_core::auth::{Ed25519, Scheme};
use bft_core::quorum::ReplicaSet;
use bft_server::children::{READY, inherited_listener};
use bft_server::config::ReplicaConfig;
use bft_server::stepping::{self, Seat};
use bft_server::{Control, ServerConfig, clock, run_seated};
use bft_services::named::by_name;
use bft_sim::rng::Seed;
use bft_sim::villains::means::Means;
use bft_sim::villains::{Strategy, Twin};

use crate::possessed::Possessed;

/// Run one replica that attacks
#[derive(clap::Args)]
pub struct Args {
    /// What it is after; without it the replica is as it should be
    #[arg(long, value_name = "NAME")]
    villain: Option<Strategy>,
    /// What its chance is drawn from
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// The replica's bftd.toml
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs it.
pub fn run(args: &Args) -> Result<(), Failure> {
    // First of all: descriptor 3 is taken by whatever is opened next otherwise.
    let handed_down = inherited_listener().map_err(because(Reason::Config))?;
    let config = ReplicaConfig::load(&args.config).map_err(because(Reason::Config))?;
    log::start(&config.log.level)?;
    let service = by_name(&config.service.name, &config.service.config).map_err(because(Reason::Config))?;
    let listener = match handed_down {
        Some(listener) => listener,
        None => TcpListener::bind(&config.listen).map_err(because(Reason::Unavailable))?,
    };
    let control = Control::new().map_err(because(Reason::Unavailable))?;
    stop_on_signals(&control)?;
    tell_when_ready(&control, &config, &listener)?;
    let config = config.into_server_config(listener);
    let Some(strategy) = args.villain else {
        return run_seated(config, service, control, stepping::plain()).map_err(because(Reason::Failed));
    };
    let misdeeds = Arc::new(AtomicU64::new(0));
    let seat = seat(strategy, args.seed, &config, misdeeds.clone())?;
    let outcome = run_seated(config, service, control, seat);
    output::line(&format!("villain {}: {} misdeeds", strategy.name(), misdeeds.load(Ordering::Relaxed)))?;
    outcome.map_err(because(Reason::Failed))
}

/// Puts a villain before the core, with the replica's own key and no other.
fn seat(strategy: Strategy, seed: u64, config: &ServerConfig, misdeeds: Arc<AtomicU64>) -> Result<Seat, Failure> {
    let mut entropy = [0; 32];
    getrandom::fill(&mut entropy).map_err(because(Reason::Unavailable))?;
    let scheme: Arc<dyn Scheme> = Arc::new(Ed25519::new(&config.secret_key, entropy));
    let fellows = ReplicaSet::EMPTY.with(config.me);
    let means = Means::new(config.me, config.cluster.clone(), scheme, fellows, Seed::root(seed));
    let twin = Twin::new(strategy, means);
    let me = config.me;
    Ok(Box::new(move |replica, effects| Box::new(Possessed::new(replica, me, twin, clock::now(), effects, misdeeds))))
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
