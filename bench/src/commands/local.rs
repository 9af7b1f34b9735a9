//! `bft-bench local`: a cluster of its own on this machine, under load. The replicas are children of this program;
//! everything that belongs to them is in a temporary folder, and gone afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bft_cli::stop::Stop;
use bft_client::ClientConfig;
use bft_core::config::strict::ByteSize;
use bft_core::limits::REPLICAS_MAX;
use bft_server::children::{LocalCluster, Program, Usage};
use bft_server::config::ServiceSection;
use bft_server::testnet::TestnetOptions;
use rustix::time::{ClockId, clock_gettime};

use super::measure::{self, Bystander};
use crate::exit::{Failure, Reason, because};
use crate::floors::Floors;
use crate::options::{LoadArgs, Plan, ServiceName, Times};
use crate::report::{self, Local, Report};
use crate::watch::{Holding, Observer, Processes, usages};

/// How long replicas have to start and to stop.
pub const PATIENCE: Duration = Duration::from_secs(180);

const EXAMPLES: &str = "\
Examples:
  bft-bench local --replicas 4
  bft-bench local --clients 8 --inflight 4096 --ops-per-envelope 256 --output json
  bft-bench local --clients 1 --inflight 1                   the latency of one operation at a time
  bft-bench local --service kv --keys 1000000 --preload --mix mixed --op-bytes 64 --timeline kv.jsonl
  bft-bench local --rate 20000 --duration 10min --timeline overload.jsonl";

/// Start a cluster on this machine, put load on it, and say what came of it
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How many replicas
    #[arg(long, default_value_t = 4, value_name = "N", help_heading = "Cluster",
          value_parser = clap::value_parser!(u16).range(4..=REPLICAS_MAX as i64))]
    replicas: u16,
    /// Cores that each replica is granted
    #[arg(long, value_name = "K", help_heading = "Cluster", value_parser = clap::value_parser!(u32).range(1..=64))]
    cores: Option<u32>,
    /// Where the temporary folder is made [default: the system's place for those]
    #[arg(long, value_name = "DIR", help_heading = "Cluster")]
    dir: Option<PathBuf>,
    /// Size of a journal file
    #[arg(long, value_name = "SIZE", help_heading = "Cluster")]
    segment_bytes: Option<ByteSize>,
    /// Slots between two checkpoints (the window is twice that)
    #[arg(long, value_name = "SLOTS", help_heading = "Cluster")]
    checkpoint_interval: Option<u64>,
    /// Slots after which a snapshot is due
    #[arg(long, value_name = "SLOTS", help_heading = "Cluster")]
    snapshot_slots: Option<u64>,
    /// Bytes of executed batches after which a snapshot is due
    #[arg(long, value_name = "SIZE", help_heading = "Cluster")]
    snapshot_bytes: Option<ByteSize>,
    /// Sessions that the cluster has room for
    #[arg(long, value_name = "N", help_heading = "Cluster")]
    sessions_max: Option<u32>,
    /// Measure what this machine allows at most, before and after
    #[arg(long, help_heading = "Output")]
    floors: bool,
    #[command(flatten)]
    load: LoadArgs,
}

/// Runs it. The replicas die with this thread.
pub fn local(args: &Args) -> Result<(), Failure> {
    let times = args.load.times()?;
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let folder = folder(args.dir.as_deref())?;
    let mut cluster = create(args, folder.path())?;
    // What cannot be is refused before anything is started.
    let config = client_config(&cluster)?;
    let plan = args.load.plan(&config.cluster, config.timeout)?;
    let before = args.floors()?;
    cluster.start_all(PATIENCE).map_err(because(Reason::Unavailable))?;
    stop.check()?;
    let (outcome, mut local) = under_load(args, &cluster, &config, &plan, times, &stop)?;
    let ends = cluster.stop_all(PATIENCE).map_err(because(Reason::Failed))?;
    folder.close().map_err(because(Reason::Failed))?;
    local.floors = before.zip(args.floors()?);
    report::tell(args.load.output, &Report { load: &args.load, plan: &plan, outcome: &outcome, local: Some(&local) })?;
    match ends.into_iter().find(|status| !status.success()) {
        None => Ok(()),
        Some(status) => Err(Failure::new(Reason::Failed, format!("a replica did not stop in good order: {status}"))),
    }
}

/// A temporary folder, in `parent` or the system's place for those.
pub fn folder(parent: Option<&Path>) -> Result<tempfile::TempDir, Failure> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("bft-bench-");
    let made = match parent {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    made.map_err(|error| Failure::new(Reason::Unavailable, format!("make a temporary folder (--dir): {error}")))
}

fn create(args: &Args, folder: &Path) -> Result<LocalCluster, Failure> {
    let adjust = |options: &mut TestnetOptions| args.adjust(options);
    create_cluster(folder, args.replicas.into(), args.cores, adjust)
}

/// A cluster of children of this program, not started yet.
pub fn create_cluster(
    folder: &Path,
    replicas: usize,
    cores: Option<u32>,
    adjust: impl FnOnce(&mut TestnetOptions),
) -> Result<LocalCluster, Failure> {
    let cores = cores.map(|cores| cores.to_string());
    let arguments: Vec<_> = match &cores {
        Some(cores) => vec!["replica", "--cores", cores],
        None => vec!["replica"],
    };
    let program = Program::own(&arguments).map_err(because(Reason::Unavailable))?;
    LocalCluster::create(&folder.join("net"), replicas, program, adjust).map_err(because(Reason::Usage))
}

/// What a client of `cluster` goes by.
pub fn client_config(cluster: &LocalCluster) -> Result<ClientConfig, Failure> {
    ClientConfig::load(&cluster.testnet().client_config()).map_err(because(Reason::Failed))
}

/// Starts all replicas. Gives what a client of theirs goes by, and one who asks them.
pub fn start(cluster: &mut LocalCluster) -> Result<(ClientConfig, Observer), Failure> {
    let config = client_config(cluster)?;
    cluster.start_all(PATIENCE).map_err(because(Reason::Unavailable))?;
    let observer = Observer::open(&config).map_err(because(Reason::Config))?;
    Ok((config, observer))
}

impl Args {
    fn floors(&self) -> Result<Option<Floors>, Failure> {
        self.floors.then(|| super::floors::in_dir(self.dir.as_deref())).transpose()
    }

    fn adjust(&self, options: &mut TestnetOptions) {
        let config = match (self.load.service, self.load.reply_bytes) {
            (ServiceName::Null, Some(ByteSize(bytes))) => format!("reply_bytes={bytes}"),
            (ServiceName::Null, None) | (ServiceName::Kv, _) => String::new(),
        };
        options.service = ServiceSection { name: self.load.service.name().into(), config };
        if let Some(ByteSize(bytes)) = self.segment_bytes {
            // What is no size of a segment is refused by the replica, with its bounds.
            options.journal.segment_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
        let params = &mut options.params;
        if let Some(interval) = self.checkpoint_interval {
            (params.checkpoint_interval, params.window) = (interval, interval.saturating_mul(2));
            params.pipeline_max = params.pipeline_max.min(params.window);
        }
        params.snapshot_slots = self.snapshot_slots.unwrap_or(params.snapshot_slots);
        params.snapshot_bytes = self.snapshot_bytes.map_or(params.snapshot_bytes, |bytes| bytes.0);
        params.sessions_max = self.sessions_max.unwrap_or(params.sessions_max);
    }
}

fn under_load(
    args: &Args,
    cluster: &LocalCluster,
    config: &ClientConfig,
    plan: &Plan,
    times: Times,
    stop: &Stop,
) -> Result<(measure::Outcome, Local), Failure> {
    let mut accounts = Accounts::new(cluster);
    let outcome = measure::measure(&args.load, config, plan, times, stop, &mut accounts)?;
    Ok((outcome, accounts.settle()))
}

/// What the replicas and this process use while it is measured.
struct Accounts<'a> {
    cluster: &'a LocalCluster,
    processes: Processes,
    begin: Option<Moment>,
    end: Option<Moment>,
    holdings: Vec<Holding>,
    holdings_max: Vec<Holding>,
}

/// What has been used until some moment.
struct Moment {
    replicas: Vec<Usage>,
    own: Duration,
}

impl Moment {
    fn now(cluster: &LocalCluster) -> Self {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let own = Duration::new(own.tv_sec.unsigned_abs(), u32::try_from(own.tv_nsec).unwrap_or(0));
        Self { replicas: usages(cluster), own }
    }
}

impl<'a> Accounts<'a> {
    fn new(cluster: &'a LocalCluster) -> Self {
        let processes = Processes::of(cluster);
        let none = vec![Holding::default(); processes.ids().count()];
        Self { cluster, processes, begin: None, end: None, holdings: none.clone(), holdings_max: none }
    }

    fn settle(self) -> Local {
        let (Some(begin), Some(end)) = (self.begin, self.end) else { panic!("a run that was measured has two ends") };
        let used = |(begin, end): (&Usage, &Usage)| end.cpu.saturating_sub(begin.cpu);
        let after = usages(self.cluster);
        let per_replica = self.processes.ids().enumerate().map(|(index, replica)| report::LocalReplica {
            replica,
            cpu: used((&begin.replicas[index], &end.replicas[index])),
            rss_max: after[index].rss_max_kib * 1024,
            at_end: self.holdings[index],
            most: self.holdings_max[index],
        });
        Local { per_replica: per_replica.collect(), generator_cpu: end.own.saturating_sub(begin.own), floors: None }
    }
}

impl Bystander for Accounts<'_> {
    fn begins(&mut self) {
        self.begin = Some(Moment::now(self.cluster));
    }

    fn ends(&mut self) {
        self.end = Some(Moment::now(self.cluster));
    }

    fn look(&mut self) -> &[Holding] {
        self.holdings = self.processes.holdings();
        for (most, now) in self.holdings_max.iter_mut().zip(&self.holdings) {
            *most = most.max(*now);
        }
        &self.holdings
    }
}
