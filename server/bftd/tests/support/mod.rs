//! Clusters of real `bftd` processes, and clients that count.

#![allow(dead_code, unused_macros, reason = "each test binary uses a part of it")]

#[macro_use]
#[path = "../../../tests/support/drivers.rs"]
mod drivers;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bft_client::{Client, ClientConfig, Completion, Completions, Outcome, SessionStart, Submit, Wait};
use bft_core::ids::ReplicaId;
use bft_core::wire::message::Info;
use bft_server::Io;
use bft_server::children::{LocalCluster, Program};
use bft_server::testnet::TestnetOptions;
use bft_services::kv::{Operation, Reply};

/// Nothing here takes longer on the slowest machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Slots between checkpoints: few, so that a second holds many.
pub const INTERVAL: u64 = 8;

pub fn program() -> Program {
    Program { path: env!("CARGO_BIN_EXE_bftd").into(), arguments: vec!["run".into()] }
}

/// Snapshots come soon: restarts begin at one.
pub const SNAPSHOTS_OFTEN: u64 = 64 * INTERVAL;
/// A replica that was away for a few seconds is not left behind by two snapshots.
pub const SNAPSHOTS_RARELY: u64 = 8192 * INTERVAL;

/// A cluster of four with small files and frequent checkpoints. Nothing runs.
pub fn cluster(dir: &Path, snapshot_slots: u64) -> LocalCluster {
    cluster_over(Io::Auto, dir, snapshot_slots)
}

/// The same with this driver.
pub fn cluster_over(io: Io, dir: &Path, snapshot_slots: u64) -> LocalCluster {
    let adjust = move |options: &mut TestnetOptions| {
        options.io = io;
        options.journal.segment_bytes = 4 << 20;
        options.params.checkpoint_interval = INTERVAL;
        options.params.window = 2 * INTERVAL;
        options.params.pipeline_max = INTERVAL;
        options.params.snapshot_slots = snapshot_slots;
    };
    LocalCluster::create(&dir.join("net"), 4, program(), adjust).unwrap()
}

/// A cluster of four, running.
pub fn running_cluster(dir: &Path, snapshot_slots: u64) -> LocalCluster {
    running_cluster_over(Io::Auto, dir, snapshot_slots)
}

/// The same with this driver.
pub fn running_cluster_over(io: Io, dir: &Path, snapshot_slots: u64) -> LocalCluster {
    let mut cluster = cluster_over(io, dir, snapshot_slots);
    cluster.start_all(PATIENCE).unwrap();
    let words = cluster.child(ReplicaId(0)).said().unwrap();
    match io {
        Io::Auto => {}
        Io::Uring => assert!(words.contains("who moves the bytes driver=\"io_uring\""), "{words}"),
        Io::Epoll => assert!(words.contains("who moves the bytes driver=\"epoll\""), "{words}"),
    }
    cluster
}

/// Runs `bftd` to its end.
pub fn bftd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bftd")).args(arguments).output().unwrap()
}

/// Waits until `is_so`, and says what was waited for if it never is.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One who only asks.
pub struct Observer(Client);

impl Observer {
    pub fn new(cluster: &LocalCluster) -> Self {
        let mut config = ClientConfig::load(&cluster.testnet().client_config()).unwrap();
        config.session = SessionStart::WithFirstOperation;
        Self(Client::open(config, Completions::Futures).unwrap())
    }

    /// What each replica says now; `None` for one that says nothing.
    pub fn infos(&self, want_digest: bool) -> Vec<Option<Info>> {
        self.0.query_info(Duration::from_millis(1500), want_digest).into_iter().map(|(_, info)| info).collect()
    }

    pub fn info(&self, replica: ReplicaId) -> Option<Info> {
        self.infos(false)[replica.index()].clone()
    }

    /// The highest stable checkpoint that any replica tells of.
    pub fn stable(&self) -> u64 {
        self.infos(false).into_iter().flatten().map(|info| info.stable.0).max().unwrap_or(0)
    }

    /// Waits until all replicas have executed the same and hold the same state.
    pub fn wait_equal(&self) {
        wait_until("all replicas hold the same state at the same Seq", || {
            let infos: Vec<_> = self.infos(true).into_iter().flatten().collect();
            let states: Vec<_> = infos.iter().filter_map(|info| Some((info.executed, info.state?))).collect();
            states.len() == 4
                && states.iter().all(|(executed, (at, _))| executed == at)
                && states.windows(2).all(|pair| pair[0] == pair[1])
        });
    }
}

/// Clients that add 1 to counters of their own as fast as answers come, and count the answers.
pub struct Adders {
    clients: Vec<Client>,
    threads: Vec<JoinHandle<()>>,
    is_stopping: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    errors: Arc<Mutex<Vec<Outcome>>>,
}

const ADDERS: usize = 4;
/// Counters of each.
const COUNTERS: u64 = 8;
/// Operations of each that are under way.
const INFLIGHT: u64 = 32;

fn counter(adder: usize, tag: u64) -> String {
    format!("adder-{adder}/{}", tag % COUNTERS)
}

impl Adders {
    pub fn start(cluster: &LocalCluster) -> Self {
        Self::start_after(cluster, 0)
    }

    /// The same, where others have added so much before.
    pub fn start_after(cluster: &LocalCluster, before: u64) -> Self {
        let mut config = ClientConfig::load(&cluster.testnet().client_config()).unwrap();
        config.timeout = None;
        config.operations_per_request = 4;
        let clients = Client::open_many(config, ADDERS, |_| Completions::Queue).unwrap();
        let mut adders = Self {
            clients,
            threads: Vec::new(),
            is_stopping: Arc::default(),
            acknowledged: Arc::new(AtomicU64::new(before)),
            errors: Arc::default(),
        };
        for (index, client) in adders.clients.clone().into_iter().enumerate() {
            let (is_stopping, acknowledged) = (adders.is_stopping.clone(), adders.acknowledged.clone());
            let errors = adders.errors.clone();
            let add = move || drive(&client, index, &is_stopping, &acknowledged, &errors);
            adders.threads.push(std::thread::spawn(add));
        }
        adders
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Waits for so many more answers.
    pub fn wait_for_more(&self, what: &str, count: u64) {
        let goal = self.acknowledged() + count;
        wait_until(what, || self.acknowledged() >= goal);
    }

    /// Starts nothing more, and waits for every answer. The counters must hold what was answered: an operation that
    /// was lost makes them less, one that was doubled makes them more (C16).
    pub fn stop_and_compare(mut self) -> u64 {
        self.is_stopping.store(true, Ordering::Release);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
        let errors = std::mem::take(&mut *self.errors.lock().unwrap());
        assert!(errors.is_empty(), "clients saw {} errors, the first: {:?}", errors.len(), errors[0]);
        let sum: i64 = (0..ADDERS)
            .flat_map(|adder| (0..COUNTERS).map(move |tag| (adder, tag)))
            .map(|(adder, tag)| {
                let key = counter(adder, tag);
                let get = Operation::Get { key: key.as_bytes() }.to_bytes().unwrap();
                let Outcome::Done { result, .. } = self.clients[0].call(&get, PATIENCE) else {
                    panic!("no answer to a get")
                };
                match Reply::decode(&result).unwrap() {
                    Reply::Value(Some(value)) => i64::from_le_bytes(value.try_into().unwrap()),
                    Reply::Value(None) => 0,
                    other => panic!("{other:?}"),
                }
            })
            .sum();
        let acknowledged = self.acknowledged();
        assert_eq!(sum as u64, acknowledged, "what the counters hold, and what was answered");
        for client in self.clients {
            client.close(Duration::from_secs(1));
        }
        acknowledged
    }
}

fn drive(
    client: &Client,
    adder: usize,
    is_stopping: &AtomicBool,
    acknowledged: &AtomicU64,
    errors: &Mutex<Vec<Outcome>>,
) {
    let (mut next, mut open) = (0, 0);
    let mut completions = Vec::new();
    loop {
        while open < INFLIGHT && !is_stopping.load(Ordering::Acquire) {
            let bytes = Operation::Add { key: counter(adder, next).as_bytes(), delta: 1 }.to_bytes().unwrap();
            let taken = client.submit(&[Submit { bytes: &bytes, tag: next, ..Submit::default() }]).unwrap();
            assert_eq!(taken, 1);
            next += 1;
            open += 1;
        }
        if open == 0 {
            return;
        }
        open -= client.poll(&mut completions, usize::MAX, Wait::UpTo(PATIENCE)) as u64;
        for Completion { outcome, .. } in completions.drain(..) {
            match &outcome {
                Outcome::Done { result, .. } => {
                    assert!(matches!(Reply::decode(result), Ok(Reply::Counter(_))), "{result:?}");
                    acknowledged.fetch_add(1, Ordering::AcqRel);
                }
                Outcome::Rejected { .. } | Outcome::NotSent { .. } | Outcome::Unknown { .. } => {
                    errors.lock().unwrap().push(outcome);
                }
            }
        }
    }
}
