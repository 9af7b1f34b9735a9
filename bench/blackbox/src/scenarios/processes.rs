//! Replicas whose process dies, stands still, or is away for long.

use bft_cli::exit::Failure;
use bft_core::ids::ReplicaId;
use bft_core::wire::message::Info;
use bft_server::testnet::TestnetOptions;
use rustix::process::Signal;

use crate::stage::{Stage, Told, ms, told};
use crate::world::station;

/// Slots between checkpoints, and between snapshots, where a few seconds are to hold several.
const CHECKPOINTS: u64 = 8;
const SNAPSHOTS: u64 = 16 * CHECKPOINTS;

pub fn kill_primary(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.primary()?;
    kill(stage, victim)
}

pub fn kill_backup(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.backup()?;
    kill(stage, victim)
}

fn kill(stage: &mut Stage<'_>, victim: ReplicaId) -> Result<Told, Failure> {
    let killed = stage.load.now();
    stage.world.kill(station(victim))?;
    let first = stage.first_commit(killed)?;
    stage.sleep(stage.span)?;
    let back = stage.restart(victim)?;
    Ok(told(format!("first commit {} after the kill, back in {}", ms(first), ms(back))))
}

pub fn pause_primary(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.primary()?;
    let stopped = stage.load.now();
    stage.world.child(station(victim)).signal(Signal::STOP);
    let first = stage.first_commit(stopped)?;
    stage.sleep(stage.span)?;
    stage.world.child(station(victim)).signal(Signal::CONT);
    let back = stage.catch_up(victim)?;
    Ok(told(format!("first commit {} after the stop, caught up in {}", ms(first), ms(back))))
}

pub fn snapshots_often(options: &mut TestnetOptions) {
    let params = &mut options.params;
    (params.checkpoint_interval, params.window, params.pipeline_max) = (CHECKPOINTS, 2 * CHECKPOINTS, CHECKPOINTS);
    params.snapshot_slots = SNAPSHOTS;
}

/// The others have cut their journals meanwhile: the state itself must be fetched.
pub fn late_replica(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = stage.world.backup()?;
    let killed = stage.load.now();
    stage.world.kill(station(victim))?;
    let first = stage.first_commit(killed)?;
    let oldest = |infos: Vec<Option<Info>>| {
        infos.iter().flatten().filter(|info| info.replica != victim).map(|info| info.snapshot.0).min()
    };
    let goal = oldest(stage.world.infos()).unwrap_or(0) + 3 * SNAPSHOTS;
    stage.world.wait("three snapshots", |world| oldest(world.infos()).is_some_and(|oldest| oldest >= goal))?;
    let back = stage.restart(victim)?;
    let infos = stage.world.infos();
    let count = |name: &str| infos[victim.index()].as_ref().and_then(|info| info.counter(name)).unwrap_or(0);
    let (transfers, chunks) = (count("transfers"), count("chunks_fetched"));
    if transfers == 0 {
        return Err(Failure::new(bft_cli::exit::Reason::Failed, "it came back without a transfer of the state"));
    }
    let figures = format!(
        "first commit {} after the kill, back in {} with {chunks} chunks in {transfers} transfers",
        ms(first),
        ms(back)
    );
    Ok(told(figures))
}
