//! A replica whose disk is full: it waits for room, which is no crash, and what it promised holds; the others go on.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bft_cli::exit::{Failure, Reason, because};
use bft_client::{Client, ClientConfig, Completions};
use bft_core::ids::{ReplicaId, View};
use bft_server::testnet::TestnetOptions;
use bft_services::kv::Operation;

use super::processes::snapshots_often;
use crate::stage::{Stage, Told, ms, told};
use crate::world::{World, station};

/// Room for a few segments of the journal, and a snapshot.
const DISK: &str = "48m";
/// Of executed bodies, between two snapshots: the journal holds what came after the older of two.
const SNAPSHOT_BYTES: u64 = 4 << 20;
/// What a replica says that has no room.
const COMPLAINT: &str = "no room for the journal";
/// So many batches behind: more than a replica ever is on this machine that only waits for the others.
const STANDS_STILL: u64 = 100;
/// What is written to fill journals: large, so that it is a matter of few commits, which are slow on a busy machine.
const VALUE_BYTES: usize = 96 << 10;
const KEYS: u64 = 16;
const PACE: Duration = Duration::from_millis(5);
const TIMEOUT: Duration = Duration::from_secs(2);

/// With room on the disk there is enough of it, however fast the machine is.
pub fn journals_that_fit(options: &mut TestnetOptions) {
    snapshots_often(options);
    options.params.snapshot_bytes = SNAPSHOT_BYTES;
}

fn first_primary(world: &World<'_>) -> ReplicaId {
    world.testnet().cluster().primary(View(0))
}

/// Neither the first primary nor its successor.
fn some_backup(world: &World<'_>) -> ReplicaId {
    world.testnet().cluster().primary(View(2))
}

pub fn small_disk_of_backup(world: &mut World<'_>) -> Result<(), Failure> {
    world.move_to_small_disk(some_backup(world), DISK)
}

pub fn small_disk_of_primary(world: &mut World<'_>) -> Result<(), Failure> {
    world.move_to_small_disk(first_primary(world), DISK)
}

pub fn fill_backup(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = some_backup(&stage.world);
    fill(stage, victim)
}

pub fn fill_primary(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = first_primary(&stage.world);
    fill(stage, victim)
}

/// Who is told to stop meanwhile does, and starts again once there is room.
pub fn stop_full_backup(stage: &mut Stage<'_>) -> Result<Told, Failure> {
    let victim = some_backup(&stage.world);
    let (filler, ballast) = fill_until_it_waits(stage, victim)?;
    let asked = stage.load.now();
    stage.world.stop(station(victim))?;
    let stopped = Duration::from_nanos(stage.load.now() - asked);
    fs::remove_file(&ballast.path).map_err(because(Reason::Failed))?;
    drop(filler);
    stage.world.start(station(victim))?;
    let back = stage.catch_up(victim)?;
    Ok(told(format!("stopped within {}; caught up in {} once there was room", ms(stopped), ms(back))))
}

fn fill(stage: &mut Stage<'_>, victim: ReplicaId) -> Result<Told, Failure> {
    let (filler, ballast) = fill_until_it_waits(stage, victim)?;
    let first = stage.first_commit(stage.load.now())?;
    stage.sleep(stage.span)?;
    fs::remove_file(&ballast.path).map_err(because(Reason::Failed))?;
    drop(filler);
    let back = stage.catch_up(victim)?;
    let figures = format!(
        "{} MiB of ballast; it stood still {} after it said so, first commit without it {} later; caught up in {} once \
         there was room",
        ballast.bytes >> 20,
        ms(ballast.stood_after),
        ms(first),
        ms(back)
    );
    Ok(told(figures))
}

/// What fills the disk of a replica.
struct Ballast {
    path: PathBuf,
    bytes: u64,
    /// How long the replica wrote on in the segment that it had.
    stood_after: Duration,
}

fn fill_until_it_waits(stage: &mut Stage<'_>, victim: ReplicaId) -> Result<(Filler, Ballast), Failure> {
    let config = ClientConfig::load(&stage.world.testnet().client_config()).map_err(because(Reason::Failed))?;
    let filler = Filler::start(config)?;
    let path = stage.world.data_dir(victim).join("ballast");
    let bytes = fill_up(&path).map_err(because(Reason::Failed))?;
    let log = stage.world.testnet().replica_dir(victim).join("log");
    let complains = |_: &World<'_>| fs::read_to_string(&log).is_ok_and(|log| log.contains(COMPLAINT));
    stage.world.wait("a replica that finds no room", complains)?;
    let said = stage.load.now();
    stage.world.wait("a replica that stands still for want of room", |world| lag(world, victim) >= STANDS_STILL)?;
    let stood_after = Duration::from_nanos(stage.load.now() - said);
    Ok((filler, Ballast { path, bytes, stood_after }))
}

/// How many batches it is behind the furthest; 0 if it does not say.
fn lag(world: &World<'_>, replica: ReplicaId) -> u64 {
    let infos = world.infos();
    let furthest = infos.iter().flatten().map(|info| info.executed.0).max().unwrap_or(0);
    infos[replica.index()].as_ref().map_or(0, |info| furthest - info.executed.0)
}

/// Writes until there is no more room; says how much.
fn fill_up(path: &Path) -> std::io::Result<u64> {
    let mut file = File::create_new(path)?;
    let mut written = 0;
    let zeros = [0; 4096];
    loop {
        match file.write(&zeros) {
            Ok(bytes) => written += bytes as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(written),
            Err(error) => return Err(error),
        }
    }
}

/// Writes large values, so that journals grow.
struct Filler {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    fn start(config: ClientConfig) -> Result<Self, Failure> {
        let client = Client::open(config, Completions::Futures).map_err(because(Reason::Failed))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let body = move || {
            let value = vec![1; VALUE_BYTES];
            for number in 0_u64.. {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let key = format!("filler/{}", number % KEYS);
                let put = Operation::Put { key: key.as_bytes(), value: &value }.to_bytes().expect("within its bounds");
                // How it ends is nothing to the filler: those who are judged are others.
                client.call(&put, TIMEOUT);
                std::thread::sleep(PACE);
            }
        };
        Ok(Self { is_over, thread: Some(std::thread::spawn(body)) })
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed there.
            let _ = thread.join();
        }
    }
}
