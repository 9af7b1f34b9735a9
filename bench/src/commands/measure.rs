//! A load from its beginning to its end: sessions, preload, warm-up, the measured interval, what is still under way
//! afterwards. Meanwhile the replicas are asked how they are, and a [`Bystander`] looks after whatever else is seen.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use bft_cli::stop::Stop;
use bft_client::ClientConfig;
use bft_core::wire::message::Info;
use serde_json::{Value, json};

use crate::exit::{Failure, Reason, because};
use crate::load::Load;
use crate::load::recorder::{Kind, Tally};
use crate::options::{LoadArgs, Plan, Times};
use crate::output::Output;
use crate::phases::Phases;
use crate::report::{latency_object, mib, rounded};
use crate::watch::{Holding, Observer};

/// How long a cluster has to open the first session.
const FIRST_SESSION: Duration = Duration::from_secs(30);
/// How long nothing may happen while sessions are opened: those that are not open then may never be.
const NO_MORE_SESSIONS: Duration = Duration::from_secs(3);
/// How often a signal is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The most that is waited for operations under way at the end, however long they may take.
const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How long the cluster has to close sessions.
const CLOSE: Duration = Duration::from_secs(1);
/// How long a replica has to say how it is: under overload its answer waits behind everything else. At the beginning,
/// and at each look, it has less: what is measured ends in time.
const INFO: Duration = Duration::from_secs(10);
const INFO_LOOK: Duration = Duration::from_millis(500);
/// Sleeps until `until`, unless it is told to stop: then the replicas that are children die with this process.
pub fn sleep_until(stop: &Stop, load: &Load, until: u64) -> Result<(), Failure> {
    loop {
        stop.check()?;
        let left = Duration::from_nanos(until.saturating_sub(load.now()));
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_INTERVAL));
    }
}

/// One who sees more of the replicas than a client does.
pub trait Bystander {
    /// The measured interval begins.
    fn begins(&mut self);
    /// It ends.
    fn ends(&mut self);
    /// Time to look; what each replica holds, by id.
    fn look(&mut self) -> &[Holding];
}

/// Sees nothing: the replicas are elsewhere.
pub struct Nobody;

impl Bystander for Nobody {
    fn begins(&mut self) {}
    fn ends(&mut self) {}
    fn look(&mut self) -> &[Holding] {
        &[]
    }
}

/// What came of it.
pub struct Outcome {
    /// Of the measured interval.
    pub tally: Tally,
    /// How long that was.
    pub duration: Duration,
    /// What the replicas said of themselves when it began.
    pub begin: Vec<Option<Info>>,
    /// And when it ended.
    pub end: Vec<Option<Info>>,
    /// What their checkpoints and snapshots meant for the load.
    pub phases: Phases,
    /// Operations that were due and not started when it ended, in an open loop.
    pub overdue: u64,
    /// What happened to sessions.
    pub sessions: Sessions,
}

/// What happened to all clients' sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Clients with a session.
    pub clients_open: u64,
    /// Sessions that ended though nobody closed them.
    pub lost: u64,
    /// How often a client was answered BUSY.
    pub busy: u64,
    /// Clients that were.
    pub clients_busy: u64,
}

impl Sessions {
    fn of(load: &Load) -> Self {
        load.sessions().fold(Self::default(), |sum, client| Self {
            clients_open: sum.clients_open + u64::from(client.opened > client.lost),
            lost: sum.lost + client.lost,
            busy: sum.busy + client.busy,
            clients_busy: sum.clients_busy + u64::from(client.busy > 0),
        })
    }
}

/// Puts the load of `plan` on a cluster, and measures.
pub fn measure(
    args: &LoadArgs,
    config: &ClientConfig,
    plan: &Plan,
    times: Times,
    stop: &Stop,
    bystander: &mut dyn Bystander,
) -> Result<Outcome, Failure> {
    let observer = Observer::open(config).map_err(because(Reason::Config))?;
    if args.preload {
        preload(args.output, config, &plan.preload(&config.cluster), stop)?;
    }
    let mut timeline = Timeline::create(args.timeline.as_deref())?;
    let load = start_load(config, plan, stop)?;
    let warmup = u64::try_from(times.warmup.as_nanos()).expect("checked to be days at most");
    let interval = load.measure(load.now() + warmup, times.duration);
    sleep_until(stop, &load, interval.start)?;
    bystander.begins();
    is_answered(&load.recent())?;
    let begin = observer.ask(INFO.min(times.duration / 2));
    let mut watch = Watch {
        observer: &observer,
        load: &load,
        stop,
        bystander: &mut *bystander,
        timeline: &mut timeline,
        interval: interval.clone(),
        phases: Phases::since(&begin),
        looked: load.now(),
        busy: Sessions::of(&load).busy,
    };
    // What came before belongs to no look.
    load.recent();
    watch.until_the_end(times.interval)?;
    let Watch { phases, .. } = watch;
    bystander.ends();
    let (overdue, _) = load.backlog();
    let end = observer.ask(INFO);
    timeline.close()?;
    let patience = Instant::now() + plan.timeout.min(DRAIN_MAX) + CLOSE;
    load.wait_idle(|| stop.is_told() || Instant::now() > patience);
    bystander.look();
    let sessions = Sessions::of(&load);
    let tally = load.end(CLOSE);
    stop.check()?;
    Ok(Outcome { tally, duration: times.duration, begin, end, phases, overdue, sessions })
}

/// Writes every key once.
pub fn preload(output: Output, config: &ClientConfig, plan: &Plan, stop: &Stop) -> Result<(), Failure> {
    let begin = Instant::now();
    let load = start_load(config, plan, stop)?;
    load.wait_done(|| stop.is_told());
    stop.check()?;
    let tally = load.recent();
    load.end(CLOSE);
    if let Some((kind, count)) = tally.errors.by_kind().next() {
        let what = format!("the preload failed: {count} of {} operations: {}", count + tally.ops, kind.name());
        return Err(Failure::new(Reason::Failed, what));
    }
    output.progress(&format!("preloaded {} keys in {:.1} s", tally.ops, begin.elapsed().as_secs_f64()))
}

/// The load of `plan`, under way.
pub fn start_load(config: &ClientConfig, plan: &Plan, stop: &Stop) -> Result<Load, Failure> {
    let mut load = open_load(config, plan, stop)?;
    load.start().map_err(because(Reason::Unavailable))?;
    Ok(load)
}

/// The load of `plan`, all sessions open.
pub fn open_load(config: &ClientConfig, plan: &Plan, stop: &Stop) -> Result<Load, Failure> {
    let load = Load::open(config, plan).map_err(because(Reason::Config))?;
    wait_for_sessions(&load, plan, stop)?;
    Ok(load)
}

/// Waits until every client has a session. Clients beyond those that the cluster has room for go without one.
fn wait_for_sessions(load: &Load, plan: &Plan, stop: &Stop) -> Result<(), Failure> {
    let begin = Instant::now();
    let (mut open, mut since) = (0, begin);
    loop {
        stop.check()?;
        let now_open = Sessions::of(load).clients_open;
        if now_open > open {
            (open, since) = (now_open, Instant::now());
        }
        if open == plan.clients as u64 || (open > 0 && since.elapsed() > NO_MORE_SESSIONS) {
            return Ok(());
        }
        if begin.elapsed() > FIRST_SESSION && open == 0 {
            let seconds = FIRST_SESSION.as_secs();
            let what = format!("the cluster opened no session within {seconds} s:{}", load.links_in_words());
            return Err(Failure::new(Reason::Unavailable, what));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// Where every answer is a wrong one, this is not the service that the load is for.
fn is_answered(warmup: &Tally) -> Result<(), Failure> {
    let wrong = |(kind, _): &(Kind, u64)| matches!(kind, Kind::WrongReply | Kind::ServiceRefused);
    let wrong: u64 = warmup.errors.by_kind().filter(wrong).map(|(_, count)| count).sum();
    if warmup.ops > 0 || wrong == 0 {
        return Ok(());
    }
    let what = "no answer is one to what was sent: the replicas run another --service, or the service null with \
                another reply_bytes than --reply-bytes";
    Err(Failure::new(Reason::Failed, what))
}

/// Who looks while it is measured.
struct Watch<'a> {
    observer: &'a Observer,
    load: &'a Load,
    stop: &'a Stop,
    bystander: &'a mut dyn Bystander,
    timeline: &'a mut Timeline,
    interval: Range<u64>,
    phases: Phases,
    /// What was there at the last look.
    looked: u64,
    busy: u64,
}

impl Watch<'_> {
    fn until_the_end(&mut self, every: Duration) -> Result<(), Failure> {
        let every = u64::try_from(every.as_nanos()).expect("checked to be days at most");
        let Range { start, end } = self.interval;
        let mut next = start.saturating_add(every);
        while next < end {
            sleep_until(self.stop, self.load, next)?;
            self.look()?;
            let passed = self.load.now().saturating_sub(start) / every;
            next = start.saturating_add((passed + 1).saturating_mul(every));
        }
        sleep_until(self.stop, self.load, end)
    }

    fn look(&mut self) -> Result<(), Failure> {
        let holdings = self.bystander.look();
        let (now, tally) = (self.load.now(), self.load.recent());
        let left = Duration::from_nanos(self.interval.end.saturating_sub(now));
        let infos = self.observer.ask(left.clamp(LOOK_INTERVAL, INFO_LOOK));
        let phase = self.phases.count(&tally, &infos);
        let told = Sessions::of(self.load);
        let (overdue, under_way) = self.load.backlog();
        let of_infos = |what: fn(&Info) -> u64| infos.iter().map(|info| info.as_ref().map(what)).collect::<Vec<_>>();
        let of_holdings = |what: fn(&Holding) -> u64| holdings.iter().map(|own| mib(what(own))).collect::<Vec<_>>();
        let seconds = now.saturating_sub(self.looked).max(1) as f64 / 1e9;
        let row = json!({
            "t_s": rounded(now.saturating_sub(self.interval.start) as f64 / 1e9, 3),
            "phase": phase.name(),
            "ops": tally.ops,
            "ops_per_s": rounded(tally.ops as f64 / seconds, 0),
            "errors": tally.errors.total(),
            "commit_gap_ms": rounded(tally.gap_max as f64 / 1e6, 3),
            "latency_us": latency_object(&tally.latencies),
            "busy": told.busy - self.busy,
            "sessions_lost": told.lost,
            "overdue": overdue,
            "under_way": under_way,
            "executed": of_infos(|info| info.executed.0),
            "stable": of_infos(|info| info.stable.0),
            "snapshot": of_infos(|info| info.snapshot.0),
            "rss_mib": of_holdings(|holding| holding.rss),
            "journal_mib": of_holdings(|holding| holding.journal),
            "snapshots_mib": of_holdings(|holding| holding.snapshots),
        });
        (self.looked, self.busy) = (now, told.busy);
        self.timeline.write(&row)
    }
}

/// One line for each interval, if anybody wants them.
struct Timeline(Option<BufWriter<File>>);

impl Timeline {
    fn create(path: Option<&Path>) -> Result<Self, Failure> {
        let create = |path: &Path| {
            File::create(path)
                .map_err(|error| Failure::new(Reason::Usage, format!("--timeline {}: {error}", path.display())))
        };
        Ok(Self(path.map(create).transpose()?.map(BufWriter::new)))
    }

    fn write(&mut self, row: &Value) -> Result<(), Failure> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        writeln!(file, "{row}").map_err(|error| Failure::new(Reason::Failed, format!("--timeline: {error}")))
    }

    fn close(&mut self) -> Result<(), Failure> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        file.flush().map_err(|error| Failure::new(Reason::Failed, format!("--timeline: {error}")))
    }
}
