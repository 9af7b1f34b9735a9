//! `bft-bench kills`: for how long a cluster is silent when one of its replicas dies. The replicas are children of this
//! program and are killed one at a time under a steady load; what was acknowledged is counted in the end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bft_cli::stop::Stop;
use bft_core::ids::{ReplicaId, View};
use bft_core::wire::message::Info;
use bft_server::children::LocalCluster;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::local::{PATIENCE, create_cluster, folder, start};
use crate::environment::environment;
use crate::exit::{Failure, Reason, because};
use crate::options::ServiceName;
use crate::output::{self, Output};
use crate::pulse::{Count, Pulse};
use crate::report::rounded;
use crate::watch::{INFO, Observer};

/// The load runs undisturbed for so long before each kill.
const QUIET: Duration = Duration::from_millis(1500);
/// How long before and after a kill is looked at for gaps.
const LOOK: Duration = Duration::from_secs(1);
/// How often is looked whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

const EXAMPLES: &str = "\
Examples:
  bft-bench kills --who primary --times 20
  bft-bench kills --who backup --times 20 --rate 2000 --output json";

/// Kill replicas of a local cluster under load, and say how long it is silent
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Who is killed
    #[arg(long, value_enum, default_value_t)]
    who: Victim,
    /// How often
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    times: u32,
    /// Additions per second, at fixed times
    #[arg(long, default_value_t = 1000, value_name = "R", value_parser = clap::value_parser!(u64).range(50..=20_000))]
    rate: u64,
    /// Where the temporary folder is made [default: the system's place for those]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to tell the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Whom the kills hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Victim {
    /// The primary of the moment
    #[default]
    Primary,
    /// The backups, in turn
    Backup,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        }
    }
}

/// What one kill did.
#[derive(Clone, Copy, Debug)]
struct Kill {
    replica: ReplicaId,
    /// From the kill to the first answer to something submitted after it.
    first_commit: u64,
    /// The longest time without an answer in the second before the kill, and in the one after it.
    gap_before: u64,
    gap_after: u64,
    /// From its start until it had executed what the others had when it started.
    caught_up: u64,
}

/// Kills, and tells. The replicas die with this thread.
pub fn kills(args: &Args) -> Result<(), Failure> {
    let stop = Stop::on_signals(Reason::Interrupted)?;
    let folder = folder(args.dir.as_deref())?;
    let mut cluster = create_cluster(folder.path(), 4, None, |options| {
        options.service.name = ServiceName::Kv.name().into();
    })?;
    let (config, observer) = start(&mut cluster)?;
    let t0 = Duration::from_nanos(config.cluster.params().view_timeout);
    let pulse = Pulse::start(config, args.rate).map_err(because(Reason::Config))?;
    let mut rounds = Rounds { cluster: &mut cluster, observer, pulse, stop: &stop };
    let kills = rounds.all(args)?;
    let count = rounds.pulse.stop().map_err(|what| Failure::new(Reason::Failed, what))?;
    cluster.stop_all(PATIENCE).map_err(because(Reason::Failed))?;
    folder.close().map_err(because(Reason::Failed))?;
    tell(args, t0, &kills, &count)?;
    check(&count)
}

/// Kills and what is seen of them.
struct Rounds<'a> {
    cluster: &'a mut LocalCluster,
    observer: Observer,
    pulse: Pulse,
    stop: &'a Stop,
}

impl Rounds<'_> {
    fn all(&mut self, args: &Args) -> Result<Vec<Kill>, Failure> {
        self.wait("the first answer", |rounds| rounds.pulse.first_answer_to(0).is_some())?;
        (0..args.times)
            .map(|round| {
                let kill = self.one(args.who, round)?;
                let ms = |ns: u64| ns as f64 / 1e6;
                let (first, after) = (ms(kill.first_commit), ms(kill.gap_after));
                let replica = kill.replica;
                let told = format!(
                    "{round:>4}: {replica} killed: first commit after {first:.1} ms, longest gap {after:.1} ms, \
                     caught up in {:.0} ms",
                    ms(kill.caught_up)
                );
                args.output.progress(&told)?;
                Ok(kill)
            })
            .collect()
    }

    fn one(&mut self, who: Victim, round: u32) -> Result<Kill, Failure> {
        self.sleep(QUIET)?;
        let replica = self.victim(who, round)?;
        let look = u64::try_from(LOOK.as_nanos()).expect("a second");
        let killed = self.pulse.now();
        self.cluster.kill(replica).map_err(because(Reason::Failed))?;
        self.wait("a commit without it", |rounds| rounds.pulse.first_answer_to(killed).is_some())?;
        let first = self.pulse.first_answer_to(killed).expect("just seen").answered;
        self.wait("the second after it", |rounds| rounds.pulse.now() > killed + look)?;
        let gap_before = self.pulse.gap_max(&(killed.saturating_sub(look)..killed));
        let gap_after = self.pulse.gap_max(&(killed..killed + look));
        let caught_up = self.restart(replica)?;
        Ok(Kill { replica, first_commit: first - killed, gap_before, gap_after, caught_up })
    }

    /// Who is to die next.
    fn victim(&self, who: Victim, round: u32) -> Result<ReplicaId, Failure> {
        let infos = self.observer.ask(INFO);
        let view = infos.iter().flatten().map(|info| info.view).max();
        let view = view.ok_or_else(|| Failure::new(Reason::Unavailable, "no replica says in what view it is"))?;
        let cluster = self.cluster.testnet().cluster();
        let ahead = match who {
            Victim::Primary => 0,
            Victim::Backup => 1 + u64::from(round) % (cluster.n() as u64 - 1),
        };
        Ok(cluster.primary(View(view.0 + ahead)))
    }

    /// Starts it again; says how long it took to execute what the others had executed by then.
    fn restart(&mut self, replica: ReplicaId) -> Result<u64, Failure> {
        let executed = |info: &Info| info.executed;
        let goal = self.observer.ask(INFO).iter().flatten().map(executed).max().unwrap_or_default();
        let begin = self.pulse.now();
        self.cluster.start(replica).map_err(because(Reason::Unavailable))?;
        self.cluster.child(replica).wait_ready(PATIENCE).map_err(because(Reason::Failed))?;
        self.wait("the killed replica's return", |rounds| {
            let infos = rounds.observer.ask(INFO);
            infos[replica.index()].as_ref().is_some_and(|info| info.executed >= goal)
        })?;
        Ok(self.pulse.now() - begin)
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            self.stop.check()?;
            if let Some(failure) = self.pulse.failure() {
                return Err(Failure::new(Reason::Failed, format!("an addition was not carried out: {failure}")));
            }
            if Instant::now() > deadline {
                let seconds = PATIENCE.as_secs();
                return Err(Failure::new(Reason::Failed, format!("{what} did not come within {seconds} s")));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    fn sleep(&self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        self.wait("time", |_| Instant::now() >= end)
    }
}

/// What was acknowledged is there, and once.
fn check(count: &Count) -> Result<(), Failure> {
    let Count { submitted, acknowledged, failure, counted } = count;
    if let Some(failure) = failure {
        return Err(Failure::new(Reason::Failed, format!("an addition was not carried out: {failure}")));
    }
    if u64::try_from(*counted) == Ok(*acknowledged) && acknowledged == submitted {
        return Ok(());
    }
    let what = format!("{submitted} additions, {acknowledged} acknowledged, but the counter holds {counted}");
    Err(Failure::new(Reason::Failed, what))
}

fn tell(args: &Args, t0: Duration, kills: &[Kill], count: &Count) -> Result<(), Failure> {
    let object = object(args, t0, kills, count);
    match args.output {
        Output::Json => output::line(&object.to_string()),
        Output::Text => {
            let row = |name: &str, field: &str| {
                let at = |which: &str| object[field][which].as_f64().unwrap_or(f64::NAN);
                output::line(&format!("{name:<34} {:>9.1} {:>9.1}", at("median"), at("worst")))
            };
            output::line(&format!(
                "{} kills of the {}, ms {:>23} {:>9}",
                kills.len(),
                args.who.name(),
                "median",
                "worst"
            ))?;
            row("first commit of something new", "first_commit_ms")?;
            row("longest gap, second before", "gap_before_ms")?;
            row("longest gap, second after", "gap_after_ms")?;
            row("caught up after the restart", "caught_up_ms")?;
            let Count { acknowledged, counted, .. } = count;
            output::line(&format!("{acknowledged} additions acknowledged, the counter holds {counted}"))
        }
    }
}

fn object(args: &Args, t0: Duration, kills: &[Kill], count: &Count) -> Value {
    let of = |what: fn(&Kill) -> u64| {
        let mut times: Vec<_> = kills.iter().map(what).collect();
        times.sort_unstable();
        let ms = |ns: u64| rounded(ns as f64 / 1e6, 3);
        let all: Vec<_> = times.iter().copied().map(ms).collect();
        json!({ "median": all[(all.len() - 1) / 2], "worst": all[all.len() - 1], "all": all })
    };
    json!({
        "who": args.who.name(),
        "times": kills.len(),
        "rate_per_s": args.rate,
        "view_timeout_ms": t0.as_secs_f64() * 1e3,
        "first_commit_ms": of(|kill| kill.first_commit),
        "gap_before_ms": of(|kill| kill.gap_before),
        "gap_after_ms": of(|kill| kill.gap_after),
        "caught_up_ms": of(|kill| kill.caught_up),
        "submitted": count.submitted,
        "acknowledged": count.acknowledged,
        "counted": count.counted,
        "environment": environment(),
    })
}
