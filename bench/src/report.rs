//! What is told in the end: one JSON object, or a page for people. The fields are described in `docs/bench.md`.

use std::time::Duration;

use bft_core::ids::ReplicaId;
use bft_core::wire::message::Info;
use serde_json::{Map, Value, json};

use crate::commands::measure::Outcome;
use crate::environment::environment;
use crate::exit::Failure;
use crate::floors::Floors;
use crate::load::recorder::Latencies;
use crate::options::{LoadArgs, Pace, Plan, WorkPlan};
use crate::output::{self, Output};
use crate::watch::Holding;

/// All that a report is made of.
pub struct Report<'a> {
    /// What was asked for.
    pub load: &'a LoadArgs,
    /// What that came to.
    pub plan: &'a Plan,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// What is known of replicas that are children.
    pub local: Option<&'a Local>,
}

/// What the replicas and this process have used in the measured interval.
pub struct Local {
    /// Each replica.
    pub per_replica: Vec<LocalReplica>,
    /// CPU time of this process.
    pub generator_cpu: Duration,
    /// What the machine allowed before and after, if that was asked for.
    pub floors: Option<(Floors, Floors)>,
}

/// One replica.
pub struct LocalReplica {
    /// Who.
    pub replica: ReplicaId,
    /// CPU time in the measured interval.
    pub cpu: Duration,
    /// The most memory it ever had, in bytes.
    pub rss_max: u64,
    /// What it held in the end.
    pub at_end: Holding,
    /// The most of each that was seen.
    pub most: Holding,
}

/// Tells it.
pub fn tell(output: Output, report: &Report<'_>) -> Result<(), Failure> {
    match output {
        Output::Text => output::write(report.text().as_bytes()),
        Output::Json => output::line(&report.object().to_string()),
    }
}

/// A number with so many digits after the point.
pub fn rounded(number: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (number * scale).round() / scale
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    rounded(bytes as f64 / f64::from(1 << 20), 1)
}

/// Percentiles in microseconds.
pub fn latency_object(latencies: &Latencies) -> Value {
    let us = |ns: u64| rounded(ns as f64 / 1000.0, 1);
    let at = |quantile| us(latencies.value_at_quantile(quantile));
    json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": us(latencies.max()) })
}

/// What all replicas say alike; where they differ, each what it says.
fn said(infos: &[Option<Info>], what: fn(&Info) -> &str) -> String {
    let mut words: Vec<&str> = infos.iter().flatten().map(what).collect();
    words.sort_unstable();
    words.dedup();
    words.join("; ")
}

/// Whether every replica has answered, and says something: what an empty word means is in [`Info`].
fn all_say(infos: &[Option<Info>], what: fn(&Info) -> &str) -> bool {
    !infos.is_empty() && infos.iter().all(|info| info.as_ref().is_some_and(|info| !what(info).is_empty()))
}

impl Report<'_> {
    fn ops_per_s(&self) -> f64 {
        self.outcome.tally.ops as f64 / self.outcome.duration.as_secs_f64()
    }

    fn object(&self) -> Value {
        let Outcome { tally, duration, end, sessions, overdue, .. } = self.outcome;
        let (op_bytes, reply_bytes) = tally.mean_bytes();
        let errors: Map<_, _> =
            tally.errors.by_kind().map(|(kind, count)| (kind.name().to_string(), count.into())).collect();
        let mut object = json!({
            "ops_per_s": rounded(self.ops_per_s(), 1),
            "ops": tally.ops,
            "errors": tally.errors.total(),
            "errors_by_kind": errors,
            "duration_s": duration.as_secs_f64(),
            "latency_us": latency_object(&tally.latencies),
            "commit_gap_ms_max": rounded(tally.gap_max as f64 / 1e6, 3),
            "loop": match self.plan.pace { Pace::Closed => "closed", Pace::Open { .. } => "open" },
            "rate": self.load.rate,
            "overdue": overdue,
            "service": self.load.service.name(),
            "op_bytes": rounded(op_bytes, 1),
            "reply_bytes": rounded(reply_bytes, 1),
            "ops_per_envelope": self.plan.ops_per_envelope,
            "clients": self.plan.clients,
            "inflight": self.plan.inflight,
            "busy": sessions.busy,
            "clients_told_busy": sessions.clients_busy,
            "clients_with_session": sessions.clients_open,
            "sessions_lost": sessions.lost,
            "replicas": end.len(),
            "durable": all_say(end, |info| &info.write_path),
            "signed": all_say(end, |info| &info.signatures),
            "encrypted": all_say(end, |info| &info.sealed),
            "phases": self.outcome.phases.object(),
            "progress": self.progress(),
            "environment": self.environment(),
        });
        let more = object.as_object_mut().expect("made above");
        if let WorkPlan::Kv { keys, .. } = self.plan.work {
            more.insert("keys".into(), keys.into());
        }
        if let Some(local) = self.local {
            more.extend(self.local_fields(local));
            if let Some((before, after)) = &local.floors {
                more.insert("floors".into(), json!({ "before": before.object(), "after": after.object() }));
            }
        }
        object
    }

    /// What the replicas did in the interval, as they say.
    fn progress(&self) -> Value {
        let Outcome { begin, end, .. } = self.outcome;
        let pair = |(begin, end): (&Option<Info>, &Option<Info>)| {
            let (Some(begin), Some(end)) = (begin, end) else { return Value::Null };
            let before = |name: &str| begin.counter(name).unwrap_or(0);
            let since = |(name, count): &(String, u64)| (name.clone(), Value::from(count.saturating_sub(before(name))));
            let counters: Map<_, _> = end.counters.iter().map(since).collect();
            json!({
                "replica": end.replica.0,
                "view": end.view.0,
                "executed": [begin.executed.0, end.executed.0],
                "stable": [begin.stable.0, end.stable.0],
                "snapshot": [begin.snapshot.0, end.snapshot.0],
                "counters": counters,
            })
        };
        begin.iter().zip(end).map(pair).collect()
    }

    fn environment(&self) -> Value {
        let mut environment = environment();
        let end = &self.outcome.end;
        let more = environment.as_object_mut().expect("an object");
        more.insert("durable_write_path".into(), said(end, |info| &info.write_path).into());
        let (signatures, sealed) = (said(end, |info| &info.signatures), said(end, |info| &info.sealed));
        more.insert("crypto".into(), json!({ "signatures": signatures, "links": sealed }));
        environment
    }

    fn local_fields(&self, local: &Local) -> impl Iterator<Item = (String, Value)> {
        let of_replica = |replica: &LocalReplica| {
            json!({
                "replica": replica.replica.0,
                "cpu_s": rounded(replica.cpu.as_secs_f64(), 2),
                "rss_mib_max": mib(replica.rss_max),
                "rss_mib_end": mib(replica.at_end.rss),
                "journal_mib_end": mib(replica.at_end.journal),
                "journal_mib_max": mib(replica.most.journal),
                "snapshots_mib_end": mib(replica.at_end.snapshots),
                "snapshots_mib_max": mib(replica.most.snapshots),
            })
        };
        let disk = |replica: &LocalReplica| replica.most.journal + replica.most.snapshots;
        let per_replica: Vec<_> = local.per_replica.iter().map(of_replica).collect();
        let rss = local.per_replica.iter().map(|replica| replica.rss_max).max().unwrap_or(0);
        let disk = local.per_replica.iter().map(disk).max().unwrap_or(0);
        [
            ("cpu_us_per_op", rounded(self.cpu_us_per_op(local), 3).into()),
            ("generator_cpu_s", rounded(local.generator_cpu.as_secs_f64(), 2).into()),
            ("replica_rss_mib_max", mib(rss).into()),
            ("disk_mib_max", mib(disk).into()),
            ("per_replica", per_replica.into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_string(), value))
    }

    /// Whether a primary was left, as those who answered say.
    fn views(&self) -> String {
        let highest = |infos: &[Option<Info>]| infos.iter().flatten().map(|info| info.view.0).max();
        match (highest(&self.outcome.begin), highest(&self.outcome.end)) {
            (Some(begin), Some(end)) if begin == end => format!("{end} all along"),
            (Some(begin), Some(end)) => format!("{begin} at the beginning, {end} at the end"),
            _ => "unknown".into(),
        }
    }

    fn cpu_us_per_op(&self, local: &Local) -> f64 {
        let replicas: Duration = local.per_replica.iter().map(|replica| replica.cpu).sum();
        (replicas + local.generator_cpu).as_secs_f64() * 1e6 / self.outcome.tally.ops.max(1) as f64
    }

    fn text(&self) -> String {
        let Outcome { tally, duration, end, sessions, overdue, .. } = self.outcome;
        let ms = |quantile| tally.latencies.value_at_quantile(quantile) as f64 / 1e6;
        let load = match self.plan.pace {
            Pace::Closed => format!("closed loop, {} under way each", self.plan.inflight),
            Pace::Open { rate } => format!("open loop, {rate} operations/s asked for"),
        };
        let mut text = format!(
            "{} clients, {load}, up to {} operations an envelope, service {}\n\n",
            self.plan.clients,
            self.plan.ops_per_envelope,
            self.load.service.name(),
        );
        let mut line = |name: &str, value: String| text += &format!("{name:<14}{value}\n");
        let (op_bytes, reply_bytes) = tally.mean_bytes();
        line("operations/s", format!("{:.0}   ({} in {:.1} s)", self.ops_per_s(), tally.ops, duration.as_secs_f64()));
        line("bytes", format!("{op_bytes:.0} an operation, {reply_bytes:.0} a reply"));
        let [p50, p90, p99, p999, max] = [ms(0.5), ms(0.9), ms(0.99), ms(0.999), tally.latencies.max() as f64 / 1e6];
        line("latency", format!("p50 {p50:.2} ms   p90 {p90:.2}   p99 {p99:.2}   p99.9 {p999:.2}   max {max:.2}"));
        line("longest gap", format!("{:.1} ms between two answers", tally.gap_max as f64 / 1e6));
        line("errors", tally.errors.total().to_string());
        tally.errors.by_kind().for_each(|(kind, count)| line("", format!("{count} {}", kind.name())));
        if *overdue > 0 {
            line("overdue", format!("{overdue} operations were due and could not be sent"));
        }
        if sessions.busy > 0 || sessions.lost > 0 {
            line(
                "busy",
                format!("{} times, {} clients; {} sessions lost", sessions.busy, sessions.clients_busy, sessions.lost),
            );
        }
        line("view", self.views());
        let yes = |is_so: bool, how: String| if is_so { how } else { "NO".into() };
        line("durable", yes(all_say(end, |info| &info.write_path), said(end, |info| &info.write_path)));
        line("signed", yes(all_say(end, |info| &info.signatures), said(end, |info| &info.signatures)));
        line("encrypted", yes(all_say(end, |info| &info.sealed), said(end, |info| &info.sealed)));
        if let Some(local) = self.local {
            line("CPU", format!("{:.2} us an operation, all processes", self.cpu_us_per_op(local)));
            for replica in &local.per_replica {
                line(
                    &format!("  replica {}", replica.replica),
                    format!(
                        "{:.2} s CPU, memory at most {:.0} MiB, journal at most {:.0} MiB",
                        replica.cpu.as_secs_f64(),
                        mib(replica.rss_max),
                        mib(replica.most.journal)
                    ),
                );
            }
            line("  generator", format!("{:.2} s CPU", local.generator_cpu.as_secs_f64()));
        }
        if let Some((before, after)) = self.local.and_then(|local| local.floors.as_ref()) {
            text += &format!("floors before\n{}floors after\n{}", before.text(), after.text());
        }
        let mut line = |name: &str, value: String| text += &format!("{name:<14}{value}\n");
        let environment = environment();
        let of = |key: &str| environment[key].as_str().unwrap_or("unknown").to_string();
        line("machine", format!("{}, {} cores, {}", of("machine"), environment["cores"], of("kernel")));
        line("build", format!("commit {}, {}, {}", of("commit"), of("profile"), of("rustc")));
        text
    }
}
