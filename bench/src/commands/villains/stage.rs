//! One run: a fresh cluster of four, all as they should be or with one villain, a load that keeps the machine busy, and
//! what was answered in one window of it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bft_cli::stop::Stop;
use bft_core::ids::{ReplicaId, View};
use bft_core::wire::message::Info;
use bft_server::children::{Child, LocalCluster};
use bft_server::testnet::TestnetOptions;
use rustix::process::Signal;

use super::cast::{Cast, Place, Scene, Villain};
use crate::commands::local::{create_cluster, folder, start};
use crate::commands::measure::{sleep_until, start_load};
use crate::exit::{Failure, Reason, because};
use crate::load::Load;
use crate::load::recorder::{Kind, Tally};
use crate::options::{Pace, Plan, ServiceName, WorkPlan};
use crate::watch::{INFO, Observer};

/// Replicas.
const REPLICAS: usize = 4;
/// The load: many signatures and small operations, so that processors are what is scarce.
const CLIENTS: usize = 16;
const INFLIGHT: usize = 256;
const OPS_PER_ENVELOPE: u32 = 8;
const OP_BYTES: usize = 16;
/// How long an operation may take: longer than a run.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long a replica has to say how it is while one is stopped, and so how often is looked whether a view has ended.
const INFO_LOOK: Duration = Duration::from_millis(250);
/// The longest time for which a primary is stopped.
const STOPPED_MAX: Duration = Duration::from_secs(2);
/// How long the cluster has to close sessions.
const CLOSE: Duration = Duration::from_millis(200);
/// How long a villain has to stop and say what it did.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Where a backup must come to need a snapshot: checkpoints, slots between snapshots, and Requests of a batch, so that there
/// are many slots.
const ABSENCE_INTERVAL: u64 = 16;
const ABSENCE_SNAPSHOT_SLOTS: u64 = 64;
const ABSENCE_BATCH_REQUESTS: u32 = 8;

/// Who is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Four replicas that are as they should be.
    Honest,
    /// Three, and a villain.
    WithVillain,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the first operation to the window.
    pub settle: Duration,
    /// The window.
    pub window: Duration,
}

/// What one run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Operations answered in the window, by its length.
    pub ops_per_s: f64,
    /// Operations that ended as they should not have: not those that the end of the run cut off.
    pub errors: u64,
    /// The highest view that a replica without a villain was in at the end.
    pub view: u64,
    /// The most evidence that one of them had.
    pub evidence: u64,
    /// What the villain says it did; `None`: there was none, or it did not come to say so.
    pub misdeeds: Option<u64>,
    /// Whether the villain's process was gone before the window ended.
    pub is_gone: bool,
    /// CPU time in the window of the replica that is the villain, or would be.
    pub cpu_in_place: Duration,
    /// And of the other three.
    pub cpu_of_others: Duration,
}

impl Run {
    /// Whether the villain, if there was one, did nothing that it says.
    pub fn is_idle(&self) -> bool {
        self.misdeeds.unwrap_or(0) == 0
    }
}

/// Where runs take place.
pub struct Stage<'a> {
    /// Who can be a villain.
    pub cast: &'a Cast,
    /// Where temporary folders are made.
    pub dir: Option<&'a Path>,
    /// How long things take.
    pub times: Times,
    /// Whether a signal came.
    pub stop: &'a Stop,
}

/// A cluster under load.
struct Scenery {
    cluster: LocalCluster,
    observer: Observer,
    load: Load,
    scene: Scene,
    /// Who is the villain, or would be.
    place: ReplicaId,
    company: Company,
}

/// What is sent.
fn plan() -> Plan {
    Plan {
        clients: CLIENTS,
        inflight: INFLIGHT,
        pace: Pace::Closed,
        ops_per_envelope: OPS_PER_ENVELOPE,
        work: WorkPlan::Null { op_bytes: OP_BYTES, reply_bytes: 0 },
        op_bytes_max: OP_BYTES,
        timeout: TIMEOUT,
    }
}

/// The load in words.
pub fn load_in_words() -> String {
    format!(
        "service null, {CLIENTS} clients, {INFLIGHT} operations of {OP_BYTES} B each under way, {OPS_PER_ENVELOPE} an \
         envelope"
    )
}

impl Stage<'_> {
    /// One run. The replicas die with this thread.
    pub fn run(&self, villain: &Villain, company: Company) -> Result<Run, Failure> {
        let folder = folder(self.dir)?;
        let mut scenery = self.set(folder.path(), villain, company)?;
        scenery.begin(self.stop, self.times.settle)?;
        let interval = scenery.load.measure(scenery.load.now(), self.times.window);
        let before = scenery.cpu_times();
        scenery.disturb(self.stop)?;
        sleep_until(self.stop, &scenery.load, interval.end)?;
        let run = scenery.end(self.times.window, before)?;
        folder.close().map_err(because(Reason::Failed))?;
        Ok(run)
    }

    fn set(&self, folder: &Path, villain: &Villain, company: Company) -> Result<Scenery, Failure> {
        let scene = villain.scene;
        let mut cluster = create_cluster(folder, REPLICAS, None, |options| adjust(scene, options))?;
        let place = cluster.testnet().cluster().primary(villain.place.view());
        if company == Company::WithVillain {
            cluster.run_by(place, self.cast.program(villain));
        }
        let (config, observer) = start(&mut cluster)?;
        let load = start_load(&config, &plan(), self.stop)?;
        Ok(Scenery { cluster, observer, load, scene, place, company })
    }
}

fn adjust(scene: Scene, options: &mut TestnetOptions) {
    options.service.name = ServiceName::Null.name().into();
    match scene {
        Scene::Quiet | Scene::ViewsEnd => {}
        Scene::Absence => {
            let params = &mut options.params;
            params.checkpoint_interval = ABSENCE_INTERVAL;
            params.window = 2 * ABSENCE_INTERVAL;
            params.pipeline_max = params.pipeline_max.min(ABSENCE_INTERVAL);
            params.snapshot_slots = ABSENCE_SNAPSHOT_SLOTS;
            params.batch_requests_max = ABSENCE_BATCH_REQUESTS;
        }
    }
}

impl Scenery {
    /// The time in which a villain does what it likes before anything is measured.
    fn begin(&mut self, stop: &Stop, settle: Duration) -> Result<(), Failure> {
        let settle = u64::try_from(settle.as_nanos()).expect("checked to be minutes at most");
        let until = self.load.now() + settle;
        match self.scene {
            Scene::Quiet | Scene::ViewsEnd => {}
            Scene::Absence => self.cluster.kill(self.absent()).map_err(because(Reason::Failed))?,
        }
        sleep_until(stop, &self.load, until)
    }

    /// What happens at the beginning of the window.
    fn disturb(&mut self, stop: &Stop) -> Result<(), Failure> {
        match self.scene {
            Scene::Quiet => Ok(()),
            Scene::ViewsEnd => self.end_view(stop),
            Scene::Absence => self.cluster.start(self.absent()).map_err(because(Reason::Unavailable)),
        }
    }

    /// Who is away: a backup, and never the villain.
    fn absent(&self) -> ReplicaId {
        self.cluster.testnet().cluster().primary(View(Place::Backup.view().0 + 1))
    }

    /// Stops the primary until the others are in another view.
    fn end_view(&mut self, stop: &Stop) -> Result<(), Failure> {
        let before = self.view(&self.observer.ask(INFO_LOOK));
        let primary = self.cluster.testnet().cluster().primary(before);
        let deadline = Instant::now() + STOPPED_MAX;
        self.cluster.child(primary).signal(Signal::STOP);
        let mut told = Ok(());
        while told.is_ok() && self.view(&self.observer.ask(INFO_LOOK)) == before && Instant::now() < deadline {
            told = stop.check();
        }
        self.cluster.child(primary).signal(Signal::CONT);
        told
    }

    fn villain(&self) -> Option<ReplicaId> {
        (self.company == Company::WithVillain).then_some(self.place)
    }

    /// What the replica in the villain's place, and the others, have used so far.
    fn cpu_times(&self) -> (Duration, Duration) {
        let used = |(replica, child): (ReplicaId, &Child)| (replica, child.usage().unwrap_or_default().cpu);
        let (place, others): (Vec<_>, Vec<_>) =
            self.cluster.running().map(used).partition(|(replica, _)| *replica == self.place);
        let sum = |all: Vec<(ReplicaId, Duration)>| all.into_iter().map(|(_, cpu)| cpu).sum();
        (sum(place), sum(others))
    }

    /// The highest view that one who does not lie is in.
    fn view(&self, infos: &[Option<Info>]) -> View {
        self.honest(infos).map(|info| info.view).max().unwrap_or_default()
    }

    fn honest<'a>(&self, infos: &'a [Option<Info>]) -> impl Iterator<Item = &'a Info> + use<'a> {
        let villain = self.villain();
        let by_id = infos.iter().zip(0..).filter(move |(_, id)| villain != Some(ReplicaId(*id)));
        by_id.filter_map(|(info, _)| info.as_ref())
    }

    /// Ends it, and says what came of it since the replicas had used `before`.
    fn end(mut self, window: Duration, before: (Duration, Duration)) -> Result<Run, Failure> {
        let after = self.cpu_times();
        let infos = self.observer.ask(INFO);
        let view = self.view(&infos).0;
        let evidence = self.honest(&infos).filter_map(|info| info.counter("evidence")).max().unwrap_or(0);
        let villain = self.villain();
        let is_gone = match villain {
            None => false,
            Some(villain) => self.cluster.child(villain).try_wait().map_err(because(Reason::Failed))?.is_some(),
        };
        let tally = self.load.end(CLOSE);
        let misdeeds = match villain {
            None => None,
            Some(villain) => last_words(&mut self.cluster, villain)?,
        };
        self.cluster.kill_all().map_err(because(Reason::Failed))?;
        if villain.is_none() && tally.ops == 0 {
            return Err(Failure::new(Reason::Failed, "a cluster without a villain answered nothing in the window"));
        }
        let ops_per_s = tally.ops as f64 / window.as_secs_f64();
        let cpu_in_place = after.0.saturating_sub(before.0);
        let cpu_of_others = after.1.saturating_sub(before.1);
        let errors = errors(&tally);
        Ok(Run { ops_per_s, errors, view, evidence, misdeeds, is_gone, cpu_in_place, cpu_of_others })
    }
}

/// What an end that comes in the middle of the load cuts off is no error.
fn errors(tally: &Tally) -> u64 {
    let others = tally.errors.by_kind().filter(|(kind, _)| !matches!(kind, Kind::Unanswered | Kind::UnknownClosed));
    others.map(|(_, count)| count).sum()
}

/// Stops the villain, and reads how many misdeeds it says there were.
fn last_words(cluster: &mut LocalCluster, villain: ReplicaId) -> Result<Option<u64>, Failure> {
    let child = cluster.child(villain);
    child.terminate();
    child.wait(LAST_WORDS).map_err(because(Reason::Failed))?;
    let log = cluster.testnet().replica_dir(villain).join("log");
    let said = fs::read_to_string(&log);
    let said = said.map_err(|error| Failure::new(Reason::Failed, format!("read {}: {error}", log.display())))?;
    Ok(misdeeds(&said))
}

/// From the line `villain NAME: N misdeeds`.
fn misdeeds(log: &str) -> Option<u64> {
    let mut counts = log.lines().filter_map(|line| line.strip_prefix("villain ")?.strip_suffix(" misdeeds"));
    counts.next_back()?.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_villain_say_what_it_did() {
        assert_eq!(misdeeds("WARN villain x\nvillain slow: 12 misdeeds\n"), Some(12));
        assert_eq!(misdeeds("villain slow: many misdeeds\n"), None);
        assert_eq!(misdeeds("thread panicked\n"), None);
    }

    #[test]
    fn what_the_end_cuts_off_is_no_error() {
        let mut tally = Tally::default();
        tally.errors.count(Kind::Unanswered, 100);
        tally.errors.count(Kind::WrongReply, 2);
        assert_eq!(errors(&tally), 2);
    }
}
