//! What a seed chooses: the cluster, its load, the speed of its parts, and which faults strike (swarm testing: a random
//! subset, because faults that are always on together hide one another). A function of the seed alone; every knob draws
//! from a stream of its own name.

use std::str::FromStr;

use bft_core::config::{Cipher, ProtocolParams};
use bft_core::door::Tuning;
use bft_core::limits::{KIB, MILLISECOND, SECOND, prepared_certificate_bytes};

use crate::environments::Environment;
use crate::rng::{Rng, Seed};
use crate::script::Script;
use crate::villains::clients::ClientStrategy;
use crate::villains::{Seat, Strategy};

/// One microsecond in nanoseconds.
pub const MICROSECOND: u64 = 1_000;

/// A kind of fault that a seed may turn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Messages are lost.
    Drop,
    /// Messages arrive twice.
    Double,
    /// Messages overtake one another.
    Reorder,
    /// The nodes fall into two groups that do not hear each other.
    Partition,
    /// One group hears the other and is not heard.
    OneWay,
    /// A process is killed, what it wrote stays in the cache; or it is stopped cleanly.
    Kill,
    /// A machine loses its power; what was not flushed is lost, torn or there.
    PowerLoss,
    /// All machines lose their power at once.
    PowerLossOfAll,
    /// A process is not scheduled for a while.
    Pause,
    /// A client forgets everything and begins anew.
    ClientRestart,
    /// A wall clock is set.
    ClockJump,
    /// A disk is slow.
    SlowDisk,
    /// A replica's journal, or its newest snapshot, is damaged while it is down.
    BitRot,
    /// A write of a backup's journal went where another one belongs, which shows when it is down.
    Misdirected,
    /// A write or a flush fails.
    IoError,
    /// A write ends early.
    ShortWrite,
    /// A disk has no room for new files.
    DiskFull,
    /// Some replicas attack, by one of the strategies of [`crate::villains`].
    Villain,
    /// A replica's service is not deterministic.
    Drift,
    /// The primary of the highest view is not scheduled until the others have left it.
    Dethrone,
    /// One more client attacks, by one of the strategies of [`crate::villains::clients`].
    HostileClient,
    /// A replica is down, or hears nobody, for so long that the others drop what it lacks.
    Exile,
    /// The disk of a replica is put back to an earlier state of itself, superblock included.
    PutBack,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 23] = [
        Self::Drop,
        Self::Double,
        Self::Reorder,
        Self::Partition,
        Self::OneWay,
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossOfAll,
        Self::Pause,
        Self::ClientRestart,
        Self::ClockJump,
        Self::SlowDisk,
        Self::BitRot,
        Self::Misdirected,
        Self::IoError,
        Self::ShortWrite,
        Self::DiskFull,
        Self::Villain,
        Self::Drift,
        Self::Dethrone,
        Self::HostileClient,
        Self::Exile,
        Self::PutBack,
    ];

    /// Whether it strikes at moments, rather than all the time.
    #[must_use]
    pub fn strikes(self) -> bool {
        match self {
            Self::Drop
            | Self::Double
            | Self::Reorder
            | Self::SlowDisk
            | Self::BitRot
            | Self::Misdirected
            | Self::Villain
            | Self::Drift
            | Self::HostileClient => false,
            Self::Partition
            | Self::OneWay
            | Self::Kill
            | Self::PowerLoss
            | Self::PowerLossOfAll
            | Self::Pause
            | Self::IoError
            | Self::ShortWrite
            | Self::DiskFull
            | Self::ClientRestart
            | Self::ClockJump
            | Self::Dethrone
            | Self::Exile
            | Self::PutBack => true,
        }
    }

    /// How many seeds in a thousand turn it on, where they choose.
    fn frequency(self) -> u32 {
        match self {
            // Each takes one replica out, for a while or for good, and so hides what others would do.
            Self::Drift | Self::PutBack => 150,
            Self::SlowDisk
            | Self::BitRot
            | Self::Misdirected
            | Self::IoError
            | Self::ShortWrite
            | Self::DiskFull
            | Self::Dethrone
            | Self::HostileClient => 250,
            Self::Villain => 500,
            Self::Exile => 300,
            Self::Drop
            | Self::Double
            | Self::Reorder
            | Self::Partition
            | Self::OneWay
            | Self::Kill
            | Self::PowerLoss
            | Self::PowerLossOfAll
            | Self::Pause
            | Self::ClientRestart
            | Self::ClockJump => 450,
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| format!("{fault:?}").eq_ignore_ascii_case(text)).ok_or_else(|| {
            let known = Self::ALL.map(|fault| format!("{fault:?}")).join(", ");
            format!("there is no fault {text}; there are: {known}")
        })
    }
}

/// How signatures and messages are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fidelity {
    /// Signatures by bookkeeping, messages as values: fast.
    Ledger,
    /// Ed25519, and every message through its wire form.
    Full,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Requests that it keeps outstanding.
    pub window: u64,
    /// Operations in a Request.
    pub operations_per_request: u32,
    /// Operations that it will submit.
    pub operations: u32,
    /// Mean time between two submissions.
    pub think: u64,
    /// Operations in one submission.
    pub burst: u64,
    /// Bytes of padding in an operation, at most.
    pub padding: u64,
    /// How many operations in a thousand get a deadline.
    pub impatience: u32,
}

/// Links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkOptions {
    /// The least delay.
    pub delay_min: u64,
    /// The mean of what comes on top of it.
    pub delay_mean: u64,
    /// Lost messages in a thousand.
    pub drop: u32,
    /// Doubled messages in a thousand.
    pub double: u32,
    /// Overtaking messages in a thousand.
    pub reorder: u32,
}

/// Disks, journals and the execution of batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineOptions {
    /// The least time of a write, and of a flush.
    pub disk_min: u64,
    /// The mean of what comes on top of it.
    pub disk_mean: u64,
    /// How much slower the slow disk is.
    pub slow_disk_factor: u64,
    /// A segment of the journal.
    pub segment_bytes: u32,
    /// A group of records, at most.
    pub group_bytes_max: u32,
    /// Writes of the journal at a time.
    pub flushes_in_flight: usize,
    /// Mean time to execute a batch.
    pub execute_mean: u64,
    /// Mean time to write a snapshot's next file.
    pub snapshot_mean: u64,
    /// How long Requests are gathered before a core sees them.
    pub gather: u64,
    /// How many times in a thousand a core hears late that something is durable.
    pub late: u32,
    /// Wall clocks differ by at most this from the truth.
    pub clock_skew: u64,
}

/// What is given beforehand. The seed chooses the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Scene {
    /// What the villains are after.
    pub villain: Option<Strategy>,
    /// What one more client is after.
    pub client: Option<ClientStrategy>,
    /// Which faults strike.
    pub environment: Option<Environment>,
    /// One more of them.
    pub fault: Option<Fault>,
}

/// Everything that a seed chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// What was given beforehand.
    pub scene: Scene,
    /// How signatures and messages are carried.
    pub fidelity: Fidelity,
    /// The replicas' weights.
    pub weights: Vec<u64>,
    /// The cluster's parameters.
    pub params: ProtocolParams,
    /// What is turned in the cores.
    pub tuning: Tuning,
    /// The clients.
    pub clients: Vec<ClientOptions>,
    /// Links.
    pub network: NetworkOptions,
    /// Disks and execution.
    pub machine: MachineOptions,
    /// The faults that are on.
    pub faults: Vec<Fault>,
    /// What the villains are after, where there are any.
    pub villain: Option<Strategy>,
    /// The weight that villains have, at most: F, but in runs that show what more than F can do.
    pub villain_weight_max: u64,
    /// What the last client is after, where it is hostile.
    pub client: Option<ClientStrategy>,
    /// Mean time between two strikes.
    pub strike_mean: u64,
    /// How long a strike lasts, in the mean.
    pub outage_mean: u64,
    /// When the faults end.
    pub safety: u64,
    /// What happens beside what chance brings: nothing, where a seed chooses.
    pub script: Script,
}

impl Options {
    /// What `seed` chooses.
    #[must_use]
    pub fn from_seed(seed: u64, fidelity: Fidelity) -> Self {
        Self::in_scene(seed, fidelity, Scene::default())
    }

    /// What `seed` chooses in a given scene.
    #[must_use]
    pub fn in_scene(seed: u64, fidelity: Fidelity, scene: Scene) -> Self {
        let root = Seed::root(seed).child("options");
        let rng = |name: &str| root.child(name).rng();
        let faults = draw_faults(root.child("faults"), scene);
        // Who comes back and fetches a snapshot is to meet sources that lie.
        let is_exile = faults.contains(&Fault::Exile) && rng("lying source").chance(500);
        let drawn = || if is_exile { Strategy::LyingSource } else { rng("villain").pick(Strategy::ALL) };
        let villain = faults.contains(&Fault::Villain).then(|| scene.villain.unwrap_or_else(drawn));
        let drawn = || rng("hostile client").pick(ClientStrategy::ALL);
        let client = faults.contains(&Fault::HostileClient).then(|| scene.client.unwrap_or_else(drawn));
        let has = |fault| faults.contains(&fault);
        let safety = rng("safety").range(2 * SECOND, 6 * SECOND);
        let params = draw_params(root.child("params"), has(Fault::Exile));
        let weights = draw_weights(&mut rng("weights"), scene.environment);
        let n = weights.len();
        Self {
            seed,
            scene,
            fidelity,
            clients: draw_clients(root.child("clients"), &params, safety, client),
            network: draw_network(root.child("network"), scene.environment, &has),
            machine: draw_machine(root.child("machine"), &params, n),
            tuning: draw_tuning(root.child("tuning"), &params),
            params,
            strike_mean: rng("strikes").range(150 * MILLISECOND, 900 * MILLISECOND),
            outage_mean: rng("outages").range(50 * MILLISECOND, 500 * MILLISECOND),
            villain,
            villain_weight_max: faulty_max(&weights),
            client,
            faults,
            safety,
            script: Script::default(),
            weights,
        }
    }

    /// The command that plays it again.
    #[must_use]
    pub fn replay(&self) -> String {
        let mut command = format!("bft-sim replay --seed {}", self.seed);
        if self.fidelity == Fidelity::Full {
            command.push_str(" --full");
        }
        for (flag, name) in [
            (" --villain ", self.scene.villain.map(Strategy::name)),
            (" --client ", self.scene.client.map(ClientStrategy::name)),
            (" --environment ", self.scene.environment.map(Environment::name)),
        ] {
            name.into_iter().for_each(|name| command.extend([flag, name]));
        }
        self.scene.fault.into_iter().for_each(|fault| command.push_str(&format!(" --fault {fault:?}")));
        command
    }

    /// Whether a fault is on.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// How many machines run replicas.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.weights.len() + self.script.doubled.len()
    }

    /// F, the largest weight that may be faulty.
    #[must_use]
    pub fn faulty_max(&self) -> u64 {
        faulty_max(&self.weights)
    }

    /// The client that attacks, if one does.
    #[must_use]
    pub fn hostile_client(&self) -> Option<usize> {
        self.client.map(|_| self.clients.len() - 1)
    }

    /// Operations that all clients will submit.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.clients.iter().map(|client| u64::from(client.operations)).sum()
    }
}

fn faulty_max(weights: &[u64]) -> u64 {
    (weights.iter().sum::<u64>() - 1) / 3
}

fn draw_faults(seed: Seed, scene: Scene) -> Vec<Fault> {
    let mut faults = draw_faults_but_one(seed, Scene { fault: None, ..scene });
    faults.extend(scene.fault.filter(|fault| !faults.contains(fault)));
    faults
}

fn draw_faults_but_one(seed: Seed, scene: Scene) -> Vec<Fault> {
    if scene != Scene::default() {
        let villain = scene.villain.map(|_| Fault::Villain);
        // Whoever waits for a view of its own must see one.
        let needs_views = |villain: &Strategy| matches!(villain.seat(), Seat::Second | Seat::Leaving);
        let dethrone = scene.villain.filter(needs_views).map(|_| Fault::Dethrone);
        // Whoever lies to who fetches a snapshot must be asked for one.
        let exile = scene.villain.filter(|villain| *villain == Strategy::LyingSource).map(|_| Fault::Exile);
        let client = scene.client.map(|_| Fault::HostileClient);
        let mut faults = scene.environment.map_or(&[][..], Environment::faults).to_vec();
        for fault in [villain, dethrone, exile, client].into_iter().flatten() {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        return faults;
    }
    // A few runs without any fault: there, nothing may be lost, late or repeated for another reason.
    if seed.child("none").rng().chance(40) {
        return Vec::new();
    }
    let on = |fault: &Fault| seed.child(&format!("{fault:?}")).rng().chance(fault.frequency());
    Fault::ALL.into_iter().filter(on).collect()
}

fn draw_weights(rng: &mut Rng, environment: Option<Environment>) -> Vec<u64> {
    let n = rng.pick(&[4, 4, 4, 5, 7, 7, 10]);
    let n = environment.map_or(n, |environment| n.max(environment.replicas_min()));
    if rng.chance(700) {
        return vec![1; n];
    }
    (0..n).map(|_| rng.range(1, 4)).collect()
}

fn draw_params(seed: Seed, is_exile: bool) -> ProtocolParams {
    let rng = |name: &str| seed.child(name).rng();
    let checkpoint_interval = rng("interval").pick(&[4, 8, 16]);
    let batch_bytes_max = rng("batch bytes").pick(&[4, 8, 16]) * KIB as u32;
    ProtocolParams {
        checkpoint_interval,
        window: 2 * checkpoint_interval,
        pipeline_max: rng("pipeline").range(1, 2 * checkpoint_interval),
        request_bytes_max: 3 * KIB as u32,
        request_operations_max: 16,
        batch_requests_max: rng("batch requests").pick(&[1, 2, 4, 16]),
        batch_bytes_max,
        client_window: rng("client window").pick(&[1, 4, 64, 64]),
        sessions_max: rng("sessions").pick(&[16, 64]),
        reply_bytes_max: rng("reply bytes").pick(&[256, 512, 4096]),
        reply_cache_bytes: 256 * KIB as u64,
        snapshot_bytes: rng("snapshot bytes").pick(&[8, 32, 1024]) * KIB as u64,
        // Where a replica is to be left behind the others must come by two snapshots meanwhile.
        snapshot_slots: checkpoint_interval
            * rng("snapshot slots").pick(if is_exile { &[1, 2] } else { &[2, 4, 8, 16] }),
        view_timeout: 500 * MILLISECOND,
        cipher: Cipher::AesGcm,
    }
}

fn draw_tuning(seed: Seed, params: &ProtocolParams) -> Tuning {
    let rng = |name: &str| seed.child(name).rng();
    let batch = params.batch_bytes_max as usize;
    Tuning {
        status_busy: rng("status busy").range(10, 50) * MILLISECOND,
        status_idle: rng("status idle").range(100, 1000) * MILLISECOND,
        body_bytes: rng("body bytes").pick(&[2, 4, 64]) * batch,
        pool_bytes: rng("pool bytes").pick(&[4, 16, 64]) * batch,
        pool_bytes_per_client: rng("pool bytes per client").pick(&[2, 4, 16]) * batch,
        log_slots: rng("log slots").pick(&[1, 4, 64]),
    }
}

fn draw_clients(
    seed: Seed,
    params: &ProtocolParams,
    safety: u64,
    hostile: Option<ClientStrategy>,
) -> Vec<ClientOptions> {
    let count = seed.child("count").rng().range(2, 5);
    let total = seed.child("operations").rng().range(240, 640);
    // A hostile one comes on top: the others have as much to do as without it.
    (0..count + u64::from(hostile.is_some()))
        .map(|nth| {
            let seed = seed.nth(nth);
            let rng = |name: &str| seed.child(name).rng();
            let operations = total.div_ceil(count);
            let burst = rng("burst").pick(&[1, 1, 4, 12]);
            ClientOptions {
                window: rng("window").range(1, params.client_window),
                operations_per_request: rng("operations").pick(&[1, 1, 4, 16]),
                operations: operations as u32,
                think: safety * burst / operations,
                burst,
                padding: rng("padding").pick(&[0, 16, 120]),
                impatience: if rng("impatience").chance(200) { 100 } else { 0 },
            }
        })
        .collect()
}

fn draw_network(seed: Seed, environment: Option<Environment>, has: &impl Fn(Fault) -> bool) -> NetworkOptions {
    let rng = |name: &str| seed.child(name).rng();
    let when = |fault, permille| if has(fault) { permille } else { 0 };
    let delays: &[u64] = match environment {
        None | Some(Environment::Everything) => &[50, 200, 1_000, 5_000],
        Some(Environment::Reordering) => &[5_000, 30_000],
        Some(_) => &[50, 200, 1_000],
    };
    // One fault alone may be a worse one.
    let (drop, double) = match environment {
        None | Some(Environment::Everything) => (&[5, 20, 50, 150][..], &[10, 50, 200][..]),
        Some(_) => (&[20, 100, 300][..], &[50, 200, 500][..]),
    };
    NetworkOptions {
        delay_min: rng("delay min").range(20, 500) * MICROSECOND,
        delay_mean: rng("delay mean").pick(delays) * MICROSECOND,
        drop: when(Fault::Drop, rng("drop").pick(drop)) as u32,
        double: when(Fault::Double, rng("double").pick(double)) as u32,
        reorder: when(Fault::Reorder, rng("reorder").pick(&[10, 50, 200])) as u32,
    }
}

fn draw_machine(seed: Seed, params: &ProtocolParams, n: usize) -> MachineOptions {
    let rng = |name: &str| seed.child(name).rng();
    // A segment holds any one record, the largest NEW-VIEW too.
    let new_view = n * (params.window as usize * prepared_certificate_bytes(n) + 4 * KIB);
    let group_bytes_max = (2 * params.batch_bytes_max).next_multiple_of(4096).max(32 * KIB as u32);
    MachineOptions {
        disk_min: rng("disk min").range(10, 100) * MICROSECOND,
        disk_mean: rng("disk mean").pick(&[50, 500, 3_000]) * MICROSECOND,
        slow_disk_factor: rng("slow disk").pick(&[10, 30, 100]),
        segment_bytes: (group_bytes_max * rng("segment").pick(&[2, 4, 8]) as u32)
            .max((new_view + 8 * KIB).next_multiple_of(4096) as u32),
        group_bytes_max,
        flushes_in_flight: rng("flushes").range(1, 4) as usize,
        execute_mean: rng("execute").pick(&[5, 50, 1_000]) * MICROSECOND,
        snapshot_mean: rng("snapshot").pick(&[50, 1_000, 20_000]) * MICROSECOND,
        gather: rng("gather").pick(&[0, 50, 500]) * MICROSECOND,
        late: rng("late").pick(&[0, 0, 50, 300]),
        clock_skew: rng("skew").pick(&[0, 1, 400]) * MILLISECOND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_valid_cluster_and_every_fault_is_common() {
        let options: Vec<_> = (0..2000).map(|seed| Options::from_seed(seed, Fidelity::Ledger)).collect();
        assert_eq!(options[7], Options::from_seed(7, Fidelity::Ledger));
        for options in &options {
            assert_eq!(crate::cluster::Cluster::new(options).config.n(), options.weights.len());
        }
        for fault in Fault::ALL {
            let on = options.iter().filter(|options| options.has(fault)).count();
            assert!(on * 20 > options.len(), "{fault:?} is on in {on} of {}", options.len());
        }
        assert!(options.iter().any(|options| options.faults.is_empty()));
        let one_more = Scene { fault: Some(Fault::Exile), ..Scene::default() };
        for without in &options[..100] {
            let with = Options::in_scene(without.seed, Fidelity::Ledger, one_more);
            assert!(with.has(Fault::Exile) && without.faults.iter().all(|fault| with.has(*fault)));
            assert!(with.replay().ends_with(" --fault Exile") && "exile".parse() == Ok(Fault::Exile));
        }
        assert!(options.iter().all(|options| options.operations() >= 240));
    }
}
