//! One scenario from its beginning to its end: a cluster, clients at work, what the scenario does to them, and the
//! judgement. What the scenarios do is in `scenarios`.

use std::path::Path;
use std::time::{Duration, Instant};

use bft_cli::exit::{Failure, Reason};
use bft_cli::output;
use bft_cli::stop::Stop;
use bft_client::ClientConfig;
use bft_core::ids::ReplicaId;
use bft_server::testnet::TestnetOptions;

use crate::judge::judge;
use crate::load::Load;
use crate::scenarios::Scenario;
use crate::world::{PATIENCE, World, station};

/// The load runs undisturbed for so long before the fault.
const QUIET: Duration = Duration::from_secs(1);
/// And so long after everything is well again.
const AFTERWARDS: Duration = Duration::from_millis(500);
/// Within this a cluster that has a quorum must commit something new, however busy the machine is.
const COMMIT_MAX: Duration = Duration::from_secs(40);
/// Small files: a cluster starts in no time, and a disk is full soon.
const SEGMENT_BYTES: u32 = 3 << 20;

/// How scenarios are played.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The program of the replicas.
    pub bftd: &'a Path,
    /// Where files go.
    pub folder: &'a Path,
    /// How long a fault lasts.
    pub span: Duration,
    /// Of all chance that is ours.
    pub seed: u64,
    /// Whether somebody wants an end.
    pub stop: &'a Stop,
}

/// A cluster under load.
pub struct Stage<'a> {
    /// The cluster.
    pub world: World<'a>,
    /// The clients.
    pub load: Load,
    /// How long a fault lasts.
    pub span: Duration,
}

/// What a scenario has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// In words, with figures.
    pub figures: String,
    /// The one that was made faulty on purpose: nothing is asked of it in the end.
    pub faulty: Option<ReplicaId>,
}

/// What a scenario tells where all replicas must be well in the end.
pub fn told(figures: String) -> Told {
    Told { figures, faulty: None }
}

/// In milliseconds, for people.
pub fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1e3)
}

/// Plays one; gives its line.
pub fn play(scenario: &Scenario, setting: Setting<'_>) -> Result<String, Failure> {
    let adjust = |options: &mut TestnetOptions| {
        options.journal.segment_bytes = SEGMENT_BYTES;
        (scenario.adjust)(options);
    };
    let folder = setting.folder.join(scenario.name);
    let mut world = World::create(&folder, setting.bftd, setting.seed, setting.stop, adjust)?;
    (scenario.prepare)(&mut world)?;
    world.start_all()?;
    let config = ClientConfig::load(&world.testnet().client_config());
    let config = config.map_err(|error| Failure::new(Reason::Failed, error))?;
    let load = Load::start(&config, setting.seed)?;
    let mut stage = Stage { world, load, span: setting.span };
    let outcome = stage.act(scenario);
    let Stage { mut world, load, .. } = stage;
    let line = outcome.and_then(|told| settle(&mut world, load, &told));
    if line.is_err() && !setting.stop.is_told() {
        for station in world.stations().collect::<Vec<_>>() {
            output::complain(&format!("-- station {}, in the end:\n{}", station.0, world.last_words(station)));
        }
    }
    line
}

/// Ends the load, and judges.
fn settle(world: &mut World<'_>, load: Load, told: &Told) -> Result<String, Failure> {
    let notes = load.stop()?;
    let faulty = told.faulty.map(station);
    if let Some((ended, status)) = world.ended().filter(|(ended, _)| Some(*ended) != faulty) {
        return Err(Failure::new(Reason::Failed, format!("station {} ended by itself: {status}", ended.0)));
    }
    let sound: Vec<_> = world.replicas().into_iter().filter(|replica| Some(*replica) != told.faulty).collect();
    world.wait("the same state at all sound replicas", |world| world.is_equal(&sound))?;
    let figures = judge(&notes).map_err(|what| Failure::new(Reason::Failed, what))?;
    if let Some(faulty) = faulty {
        world.kill(faulty)?;
    }
    world.stop_all()?;
    let (carried, lost) = world.wire().counts();
    Ok(format!(
        "{}; {} operations ({} unknown, {} unsent) linearizable in {} objects, {carried} packets, {lost} lost",
        told.figures, figures.operations, figures.unknown, figures.not_sent, figures.objects
    ))
}

impl Stage<'_> {
    fn act(&mut self, scenario: &Scenario) -> Result<Told, Failure> {
        self.first_commit(0)?;
        self.sleep(QUIET)?;
        let told = (scenario.act)(self)?;
        self.sleep(AFTERWARDS)?;
        Ok(told)
    }

    /// Waits for an answer to something that was begun at `since` or later; gives the time from then to it.
    pub fn first_commit(&self, since: u64) -> Result<Duration, Failure> {
        self.world.wait("a commit of something new", |_| self.load.first_answer_to(since).is_some())?;
        let first = Duration::from_nanos(self.load.first_answer_to(since).expect("just seen") - since);
        if first <= COMMIT_MAX {
            return Ok(first);
        }
        let what = format!("the first commit of something new came after {}, not within {}", ms(first), ms(COMMIT_MAX));
        Err(Failure::new(Reason::Failed, what))
    }

    /// Goes on for so long.
    pub fn sleep(&self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        self.world.wait("time", |_| Instant::now() >= end)
    }

    /// Starts a replica that is down, and waits until it has executed what the others have by now; says how long it took.
    pub fn restart(&mut self, replica: ReplicaId) -> Result<Duration, Failure> {
        let begun = Instant::now();
        self.world.start(station(replica))?;
        let ready = self.world.child(station(replica)).wait_ready(PATIENCE);
        ready.map_err(|error| Failure::new(Reason::Failed, error))?;
        self.catch_up(replica)?;
        Ok(begun.elapsed())
    }

    /// Waits until it has executed what any has by now; says how long it took.
    pub fn catch_up(&self, replica: ReplicaId) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let goal = self.world.infos().iter().flatten().map(|info| info.executed).max().unwrap_or_default();
        let what = format!("replica {replica} at Seq {goal}");
        self.world
            .wait(&what, |world| world.infos()[replica.index()].as_ref().is_some_and(|info| info.executed >= goal))?;
        Ok(begun.elapsed())
    }
}
