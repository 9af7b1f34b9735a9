//! `bftd demo`: a cluster of real replica processes on this machine, under load, checked in the end. Everything that
//! belongs to it is in a temporary folder, and gone afterwards.

use std::time::{Duration, Instant};

use bft_cli::stop::Stop;
use bft_client::{Client, ClientConfig, Completions};
use bft_core::ids::ReplicaId;
use bft_core::limits::{MIB, REPLICAS_MAX};
use bft_server::children::{LocalCluster, Program};
use bft_server::config::{ServiceSection, segment_bytes_least};
use bft_server::testnet::TestnetOptions;
use serde_json::json;

use crate::exit::{Failure, Reason, because};
use crate::load::audit::{Settled, settle, sum_of_counters};
use crate::load::driver::{Latencies, Load, Tally};
use crate::load::mix::{KEYS, Workload};
use crate::output::{self, Output};

/// Client keys that drive the load.
const CLIENTS: usize = 4;
/// Operations of the demo under one signature.
const OPERATIONS_PER_REQUEST: u32 = 8;
/// Journal files of the demo: small, so that it starts at once.
const SEGMENT_BYTES: u32 = 16 * MIB as u32;
/// How long replicas have to start, to settle, to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often a stop is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

const EXAMPLES: &str = "\
Examples:
  bftd demo                                until Ctrl-C
  bftd demo --seconds 10 --output json     progress on stderr, one JSON object on stdout
  bftd demo --replicas 7 --service null

The replicas are real processes: kill one, stop it, look at it. In the end the load stops, and the demo waits until all
replicas have executed the same Seq, compares the digests of their states, and adds up the counters.
Exit codes: 0 all checks held; 1 one did not.";

/// Start a cluster on this machine, put load on it, check that all replicas agree
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// How many replicas
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(4..=REPLICAS_MAX as i64))]
    replicas: u16,
    /// For how long; until Ctrl-C if left out
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// What the replicas execute
    #[arg(long, value_enum, default_value_t = Workload::Kv)]
    service: Workload,
    /// How to tell the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs it. The replicas die with this thread.
pub fn demo(args: &Args) -> Result<(), Failure> {
    // The first signal ends the load, the second everything: the replicas die with this process.
    let stop = Stop::on_signals(Reason::Failed)?;
    let folder = tempfile::Builder::new().prefix("bftd-demo-").tempdir().map_err(because(Reason::Unavailable))?;
    let program = Program::own(&["run"]).map_err(because(Reason::Unavailable))?;
    let adjust = |options: &mut TestnetOptions| {
        options.service = ServiceSection { name: args.service.service().into(), config: String::new() };
        options.journal.segment_bytes = SEGMENT_BYTES.max(segment_bytes_least(args.replicas.into(), &options.params));
    };
    let cluster = LocalCluster::create(&folder.path().join("net"), args.replicas.into(), program, adjust);
    let mut cluster = cluster.map_err(because(Reason::Unavailable))?;
    cluster.start_all(PATIENCE).map_err(because(Reason::Unavailable))?;
    introduce(args, &cluster)?;
    let clients = clients(&cluster)?;
    let mut watch = Watch { args, cluster: &mut cluster, stop, ended: Vec::new() };
    let run = watch.load(&clients)?;
    let outcome = check(args, &clients, run);
    clients.into_iter().for_each(|client| client.close(Duration::ZERO));
    let stopped = cluster.stop_all(PATIENCE).map_err(because(Reason::Failed));
    report(args, &outcome)?;
    match stopped?.into_iter().find(|status| !status.success()) {
        None => Ok(()),
        Some(status) => Err(Failure::new(Reason::Failed, format!("a replica did not stop in good order: {status}"))),
    }
}

fn introduce(args: &Args, cluster: &LocalCluster) -> Result<(), Failure> {
    let testnet = cluster.testnet();
    let f = testnet.cluster().weights().faulty_max();
    let service = args.service.service();
    let dir = testnet.dir().display();
    let mut text = format!("{} replicas (f = {f}) run the service {service} in {dir}\n", args.replicas);
    for (replica, child) in cluster.running() {
        let address = &testnet.cluster().member(replica).expect("a replica of the cluster").address;
        text += &format!("  replica {replica}: process {}, {address}\n", child.id());
    }
    if args.seconds.is_none() {
        let program = std::env::current_exe().map_or_else(|_| "bftd".into(), |path| path.display().to_string());
        let config = testnet.client_config().display().to_string();
        text += "\nThey take your operations too:\n";
        text += &format!("  {program} status --config {config}\n");
        if args.service == Workload::Kv {
            text += &format!("  {program} kv put colour blue --config {config}\n");
            text += &format!("  {program} kv get colour --config {config}\n");
            text += &format!("  {program} kv add visits 1 --config {config}\n");
        }
        text += "\nCtrl-C ends the load and compares the replicas.\n";
    }
    args.output.progress(text.trim_end())
}

fn clients(cluster: &LocalCluster) -> Result<Vec<Client>, Failure> {
    let mut config = ClientConfig::load(&cluster.testnet().client_config()).map_err(because(Reason::Failed))?;
    config.operations_per_request = OPERATIONS_PER_REQUEST;
    config.timeout = Some(PATIENCE);
    Client::open_many(config, CLIENTS, |_| Completions::Queue).map_err(because(Reason::Failed))
}

/// The load while it runs.
struct Watch<'a> {
    args: &'a Args,
    cluster: &'a mut LocalCluster,
    stop: Stop,
    /// Replicas that have ended though nobody told them to.
    ended: Vec<ReplicaId>,
}

/// What the load came to.
struct Run {
    tally: Tally,
    added: i64,
    elapsed: Duration,
    ended: Vec<ReplicaId>,
}

impl Watch<'_> {
    fn load(&mut self, clients: &[Client]) -> Result<Run, Failure> {
        let window = self.cluster.testnet().cluster().params().client_window as usize;
        let inflight = window * OPERATIONS_PER_REQUEST as usize;
        let started = Instant::now();
        let load = Load::start(clients, self.args.service, inflight).map_err(because(Reason::Unavailable))?;
        let end = self.args.seconds.map(|seconds| started + Duration::from_secs(seconds));
        let mut total = load.tally();
        let mut told = started;
        while !self.stop.is_told() && end.is_none_or(|end| Instant::now() < end) {
            std::thread::sleep(LOOK_INTERVAL);
            let since = told.elapsed();
            if since >= PROGRESS {
                told += since;
                let tally = load.tally();
                total.add(&tally);
                self.tell(started.elapsed(), since, &tally, &total)?;
            }
        }
        let (added, rest) = load.stop();
        total.add(&rest);
        Ok(Run { tally: total, added, elapsed: started.elapsed(), ended: std::mem::take(&mut self.ended) })
    }

    fn tell(&mut self, at: Duration, since: Duration, tally: &Tally, total: &Tally) -> Result<(), Failure> {
        let per_second = tally.done as f64 / since.as_secs_f64();
        let [p50, p99] = [0.5, 0.99].map(|q| tally.latencies.value_at_quantile(q) as f64 / 1000.0);
        let seconds = at.as_secs();
        let failed = if total.failed == 0 { String::new() } else { format!("   {} failed", total.failed) };
        self.args.output.progress(&format!(
            "{seconds:4} s   {per_second:9.0} ops/s   p50 {p50:7.1} ms   p99 {p99:7.1} ms   committed {}{failed}",
            total.done
        ))?;
        for replica in self.cluster.testnet().cluster().replicas() {
            let status = self.cluster.child(replica).try_wait().map_err(because(Reason::Failed))?;
            if let Some(status) = status.filter(|_| !self.ended.contains(&replica)) {
                self.ended.push(replica);
                self.args.output.progress(&format!("replica {replica} has ended: {status}"))?;
            }
        }
        Ok(())
    }
}

/// What is told in the end.
struct Outcome {
    run: Run,
    settled: Result<Settled, String>,
    /// The sum of the counters, where there are some.
    counters: Option<Result<i64, String>>,
}

/// The load has stopped: looks at what the replicas hold.
fn check(args: &Args, clients: &[Client], run: Run) -> Outcome {
    let counters = match args.service {
        Workload::Kv => Some(sum_of_counters(&clients[0], PATIENCE)),
        Workload::Null => None,
    };
    let settled = match run.ended.first() {
        None => settle(&clients[0], PATIENCE),
        Some(replica) => Err(format!("replica {replica} ended during the demo")),
    };
    Outcome { run, settled, counters }
}

impl Outcome {
    /// Everything that is not as it should be.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match &self.settled {
            Ok(settled) if settled.digests_equal() => {}
            Ok(settled) => {
                faults.push(format!("the state digests at Seq {} differ: {:?}", settled.seq, settled.digests));
            }
            Err(why) => faults.push(why.clone()),
        }
        match &self.counters {
            Some(Ok(sum)) if *sum != self.run.added => {
                faults.push(format!("the counters hold {sum}, but {} was added and acknowledged", self.run.added));
            }
            Some(Err(why)) => faults.push(why.clone()),
            Some(Ok(_)) | None => {}
        }
        if let Some(why) = &self.run.tally.first_failure {
            faults.push(format!("{} operations failed, the first so: {why}", self.run.tally.failed));
        }
        if self.run.tally.done == 0 {
            faults.push("no operation was committed".into());
        }
        faults
    }
}

fn report(args: &Args, outcome: &Outcome) -> Result<(), Failure> {
    let faults = outcome.faults();
    match args.output {
        Output::Text => output::write(text(args, outcome).as_bytes())?,
        Output::Json => output::line(&object(args, outcome, &faults).to_string())?,
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::new(Reason::Failed, faults.join("\nbftd: "))) }
}

fn text(args: &Args, outcome: &Outcome) -> String {
    let Outcome { run, settled, counters } = outcome;
    let latency = |q| run.tally.latencies.value_at_quantile(q) as f64 / 1000.0;
    let mut text = format!(
        "\n{} operations in {:.1} s: {:.0} a second; latency p50 {:.1} ms, p99 {:.1} ms\n",
        run.tally.done,
        run.elapsed.as_secs_f64(),
        run.tally.done as f64 / run.elapsed.as_secs_f64(),
        latency(0.5),
        latency(0.99),
    );
    if let Ok(settled) = settled {
        let durable = settled.infos[0].write_path.as_str();
        let durable = if settled.is_durable() { durable } else { "nothing" };
        let verb = if settled.digests_equal() { "equal" } else { "DIFFERENT" };
        text += &format!("all {} replicas have executed Seq {}\n", args.replicas, settled.seq);
        text += &format!("state digests there: {verb} ({})\n", settled.digests[0]);
        text += &format!("made durable by: {durable}\n");
    }
    if let Some(Ok(sum)) = counters {
        text += &format!("counters hold {sum}; {} was added and acknowledged; {KEYS} keys\n", run.added);
    }
    text
}

fn object(args: &Args, outcome: &Outcome, faults: &[String]) -> serde_json::Value {
    let Outcome { run, settled, counters } = outcome;
    let settled = settled.as_ref().ok();
    let view = settled.and_then(|settled| settled.infos.iter().map(|info| info.view.0).max());
    let ops_per_s = run.tally.done as f64 / run.elapsed.as_secs_f64();
    json!({
        "replicas": args.replicas,
        "f": (args.replicas - 1) / 3,
        "service": args.service.service(),
        "view": view,
        "seq": settled.map(|settled| settled.seq.0),
        "ops_committed": run.tally.done,
        "ops_failed": run.tally.failed,
        "ops_per_s": ops_per_s.round(),
        "duration_s": (run.elapsed.as_secs_f64() * 1000.0).round() / 1000.0,
        "latency_us": latency_object(&run.tally.latencies),
        "state_digests_equal": settled.is_some_and(Settled::digests_equal),
        "state_digest": settled.map(|settled| settled.digests[0].to_string()),
        "counters_equal_adds": counters.as_ref().map(|sum| sum.as_ref() == Ok(&run.added)),
        "durable": settled.is_some_and(Settled::is_durable),
        "write_path": settled.map(|settled| settled.infos[0].write_path.clone()),
        "faults": faults,
    })
}

fn latency_object(latencies: &Latencies) -> serde_json::Value {
    let at = |q| latencies.value_at_quantile(q);
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": latencies.max() })
}
