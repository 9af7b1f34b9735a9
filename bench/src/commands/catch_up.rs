//! `bft-bench catch-up`: how soon a replica that was stopped is with the others again while the load goes on at half of
//! what they can do, and what that costs the others.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bft_cli::stop::Stop;
use bft_client::ClientConfig;
use bft_core::config::strict::{ByteSize, HumanDuration};
use bft_core::ids::{ReplicaId, Seq, View};
use bft_core::wire::message::Info;
use bft_server::children::LocalCluster;
use serde_json::{Value, json};

use super::local::{PATIENCE, create_cluster, folder, start};
use super::measure::open_load;
use crate::environment::environment;
use crate::exit::{Failure, Reason, because};
use crate::load::Load;
use crate::load::work::{KV_PUT_BYTES_MIN, Mix};
use crate::options::{Pace, Plan, ServiceName, WorkPlan};
use crate::output::{self, Output};
use crate::report::rounded;
use crate::watch::{INFO, Observer};

/// Of the load: enough of them that replicas have something to batch.
const CLIENTS: usize = 8;
const UNDER_WAY: usize = 128;
const OPS_PER_ENVELOPE: u32 = 8;
/// An operation that waited so long while a replica was away is one that was not served.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a load runs before anything is measured, and how long its maximum is.
const WARM_UP: Duration = Duration::from_secs(1);
const MAXIMUM: Duration = Duration::from_secs(5);
/// The return is looked at for so long at least.
const RETURN_MIN: Duration = Duration::from_secs(5);
/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How often is looked whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How long the cluster has to close sessions.
const CLOSE: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  bft-bench catch-up --stopped 20s
  bft-bench catch-up --stopped 10min --output json
  bft-bench catch-up --stopped 20s --snapshot-bytes 4MiB      the state itself is fetched";

/// Stop a replica under load, start it again, and say how soon it is with the others
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// For how long it is stopped
    #[arg(long, value_name = "TIME", default_value = "20s")]
    stopped: HumanDuration,
    /// For how long the load is measured before that
    #[arg(long, value_name = "TIME", default_value = "10s")]
    before: HumanDuration,
    /// Within which time it must be with the others again
    #[arg(long, value_name = "TIME", default_value = "2min")]
    within: HumanDuration,
    /// What the others must keep of their throughput, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    kept: u8,
    /// Keys that are written
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Size of a put
    #[arg(long, value_name = "BYTES", default_value = "128")]
    op_bytes: ByteSize,
    /// Bytes of executed batches after which a snapshot is due
    #[arg(long, value_name = "SIZE")]
    snapshot_bytes: Option<ByteSize>,
    /// Where the temporary folder is made [default: the system's place for those]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to tell the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Operations answered in a second, in each part of the run.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    /// In a closed loop.
    most: f64,
    /// At half of that, all four running.
    before: f64,
    /// One of them stopped.
    stopped: f64,
    /// From its start until it was with the others.
    returning: f64,
}

impl Rates {
    /// What was kept of what there was before the stop.
    fn kept(&self) -> f64 {
        self.stopped.min(self.returning) / self.before
    }
}

/// How it came back.
#[derive(Clone, Copy, Debug, Default)]
struct Return {
    took: Duration,
    /// Batches that it lacked when it was started.
    lacked: u64,
    transfers: u64,
    chunks: u64,
}

/// Stops, starts, and tells. The replicas die with this thread.
pub fn catch_up(args: &Args) -> Result<(), Failure> {
    let plan = args.plan()?;
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let folder = folder(args.dir.as_deref())?;
    let mut cluster = create_cluster(folder.path(), 4, None, |options| {
        options.service.name = ServiceName::Kv.name().into();
        options.params.snapshot_bytes = args.snapshot_bytes.map_or(options.params.snapshot_bytes, |bytes| bytes.0);
    })?;
    let (config, observer) = start(&mut cluster)?;
    let mut run = Run { cluster: &mut cluster, observer, config, stop: &stop, rates: Rates::default() };
    run.rates.most = run.maximum(&plan)?;
    args.output.progress(&format!("at most {:.0} operations/s; from here on half of it", run.rates.most))?;
    let returned = run.half(args, &plan)?;
    let rates = run.rates;
    cluster.stop_all(PATIENCE).map_err(because(Reason::Failed))?;
    folder.close().map_err(because(Reason::Failed))?;
    tell(args, &rates, &returned)?;
    check(args, &rates, &returned)
}

impl Args {
    fn plan(&self) -> Result<Plan, Failure> {
        let most = 64 << 10;
        let op_bytes = usize::try_from(self.op_bytes.0).unwrap_or(usize::MAX);
        if !(KV_PUT_BYTES_MIN..=most).contains(&op_bytes) {
            let what = format!("--op-bytes is {op_bytes}, but must be {KV_PUT_BYTES_MIN} to {most}");
            return Err(Failure::new(Reason::Usage, what));
        }
        let work = WorkPlan::Kv { mix: Mix::Put, keys: self.keys, value_bytes: op_bytes - KV_PUT_BYTES_MIN };
        Ok(Plan {
            clients: CLIENTS,
            inflight: UNDER_WAY,
            pace: Pace::Closed,
            // Envelopes stay within a Request, whose default bound is 256 KiB.
            ops_per_envelope: OPS_PER_ENVELOPE.min(u32::try_from((192 << 10) / op_bytes).expect("few")),
            work,
            op_bytes_max: work.op_bytes_max(),
            timeout: TIMEOUT,
        })
    }
}

struct Run<'a> {
    cluster: &'a mut LocalCluster,
    observer: Observer,
    config: ClientConfig,
    stop: &'a Stop,
    rates: Rates,
}

impl Run<'_> {
    fn start(&self, plan: &Plan) -> Result<Load, Failure> {
        let mut load = open_load(&self.config, plan, self.stop)?;
        // Whatever fails from now on counts.
        load.measure(0, FOR_EVER);
        load.start().map_err(because(Reason::Unavailable))?;
        self.rate_over(&load, WARM_UP)?;
        Ok(load)
    }

    /// What a closed loop comes to.
    fn maximum(&self, plan: &Plan) -> Result<f64, Failure> {
        let load = self.start(plan)?;
        let most = self.rate_over(&load, MAXIMUM)?;
        self.end(load)?;
        Ok(most)
    }

    /// The part of which it is all about.
    fn half(&mut self, args: &Args, plan: &Plan) -> Result<Return, Failure> {
        let rate = ((self.rates.most / 2.0) as u64).max(1);
        let load = self.start(&Plan { pace: Pace::Open { rate }, ..plan.clone() })?;
        self.rates.before = self.rate_over(&load, Duration::from_nanos(args.before.0))?;
        let victim = self.backup()?;
        self.cluster.kill(victim).map_err(because(Reason::Failed))?;
        args.output.progress(&format!("replica {victim} is stopped"))?;
        self.rates.stopped = self.rate_over(&load, Duration::from_nanos(args.stopped.0))?;
        let returned = self.bring_back(victim, &load, Duration::from_nanos(args.within.0))?;
        self.end(load)?;
        Ok(returned)
    }

    /// Whoever is a backup, and will not be the next primary.
    fn backup(&self) -> Result<ReplicaId, Failure> {
        let view = self.observer.ask(INFO).iter().flatten().map(|info| info.view.0).max();
        let view = view.ok_or_else(|| Failure::new(Reason::Unavailable, "no replica says in what view it is"))?;
        Ok(self.cluster.testnet().cluster().primary(View(view + 2)))
    }

    /// Starts it, and looks on until what it has executed is within a checkpoint of what the others have.
    fn bring_back(&mut self, victim: ReplicaId, load: &Load, within: Duration) -> Result<Return, Failure> {
        let others_at = furthest(&self.observer.ask(INFO));
        load.recent();
        let begun = Instant::now();
        self.cluster.start(victim).map_err(because(Reason::Unavailable))?;
        let interval = self.cluster.testnet().cluster().params().checkpoint_interval;
        let mut first_said = None;
        let (took, info) = loop {
            self.sleep(LOOK_INTERVAL)?;
            let infos = self.observer.ask(INFO);
            if let Some(info) = &infos[victim.index()] {
                first_said.get_or_insert(info.executed.0);
                if info.executed.0 + interval >= furthest(&infos).0 {
                    break (begun.elapsed(), info.clone());
                }
            }
            if begun.elapsed() > within {
                let what = format!("replica {victim} was not with the others within {within:?}: {infos:?}");
                return Err(Failure::new(Reason::Failed, what));
            }
        };
        self.sleep(RETURN_MIN.saturating_sub(begun.elapsed()))?;
        self.rates.returning = load.recent().ops as f64 / begun.elapsed().as_secs_f64();
        let lacked = others_at.0.saturating_sub(first_said.expect("it said how far it was"));
        let count = |name| info.counter(name).unwrap_or(0);
        Ok(Return { took, lacked, transfers: count("transfers"), chunks: count("chunks_fetched") })
    }

    /// Operations answered in a second, over so long from now on.
    fn rate_over(&self, load: &Load, time: Duration) -> Result<f64, Failure> {
        load.recent();
        let begun = Instant::now();
        self.sleep(time)?;
        Ok(load.recent().ops as f64 / begun.elapsed().as_secs_f64())
    }

    fn sleep(&self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.stop.check()?;
            std::thread::sleep(LOOK_INTERVAL.min(end.saturating_duration_since(Instant::now())));
        }
        self.stop.check()
    }

    /// Nothing more starts; what is under way ends. An operation that failed at any time fails the run.
    fn end(&self, load: Load) -> Result<(), Failure> {
        load.measure(0, Duration::from_nanos(load.now()));
        let patience = Instant::now() + TIMEOUT + CLOSE;
        load.wait_idle(|| self.stop.is_told() || Instant::now() > patience);
        let tally = load.end(CLOSE);
        match tally.errors.by_kind().next() {
            None => Ok(()),
            Some((kind, count)) => {
                Err(Failure::new(Reason::Failed, format!("{count} operations failed: {}", kind.name())))
            }
        }
    }
}

fn furthest(infos: &[Option<Info>]) -> Seq {
    infos.iter().flatten().map(|info| info.executed).max().unwrap_or_default()
}

fn check(args: &Args, rates: &Rates, returned: &Return) -> Result<(), Failure> {
    let within = Duration::from_nanos(args.within.0);
    if returned.took > within {
        return Err(Failure::new(
            Reason::Failed,
            format!("it was back after {:?}, not within {within:?}", returned.took),
        ));
    }
    let (kept, least) = (100.0 * rates.kept(), args.kept);
    if kept >= f64::from(least) {
        return Ok(());
    }
    Err(Failure::new(Reason::Failed, format!("the others kept {kept:.0} % of their throughput, not {least} %")))
}

fn tell(args: &Args, rates: &Rates, returned: &Return) -> Result<(), Failure> {
    if args.output == Output::Json {
        return output::line(&object(args, rates, returned).to_string());
    }
    let row = |name: &str, rate: f64| output::line(&format!("{name:<34} {rate:>9.0} operations/s"));
    row("closed loop", rates.most)?;
    row("half of it, four replicas", rates.before)?;
    row(&format!("one of them stopped for {}", args.stopped), rates.stopped)?;
    row("while it came back", rates.returning)?;
    output::line(&format!(
        "with the others again after {:.2} s: {} batches behind at its start, {} transfers, {} chunks fetched",
        returned.took.as_secs_f64(),
        returned.lacked,
        returned.transfers,
        returned.chunks
    ))
}

fn object(args: &Args, rates: &Rates, returned: &Return) -> Value {
    json!({
        "stopped_s": Duration::from_nanos(args.stopped.0).as_secs_f64(),
        "ops_per_s_max": rounded(rates.most, 1),
        "ops_per_s_before": rounded(rates.before, 1),
        "ops_per_s_stopped": rounded(rates.stopped, 1),
        "ops_per_s_returning": rounded(rates.returning, 1),
        "kept": rounded(rates.kept(), 3),
        "caught_up_s": rounded(returned.took.as_secs_f64(), 3),
        "batches_behind": returned.lacked,
        "transfers": returned.transfers,
        "chunks_fetched": returned.chunks,
        "environment": environment(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_both_times_counts() {
        let rates = Rates { most: 200.0, before: 100.0, stopped: 95.0, returning: 70.0 };
        assert!((rates.kept() - 0.7).abs() < 1e-9);
    }
}
