//! Whole runs on real processes: what the last line promises, and what is left behind.

mod support;

use std::fs;
use std::io::Read;
use std::process::Stdio;

use bft_server::Io;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{assert_nothing_left, bench, bench_over, complaint, last_line, number, processes_of, run, wait_until};

const FIELDS: [&str; 24] = [
    "ops_per_s",
    "ops",
    "errors",
    "errors_by_kind",
    "duration_s",
    "latency_us",
    "op_bytes",
    "reply_bytes",
    "ops_per_envelope",
    "clients",
    "inflight",
    "replicas",
    "durable",
    "signed",
    "encrypted",
    "environment",
    "phases",
    "progress",
    "busy",
    "sessions_lost",
    "cpu_us_per_op",
    "replica_rss_mib_max",
    "disk_mib_max",
    "per_replica",
];

fn assert_sane(line: &Value) {
    for field in FIELDS {
        assert!(!line[field].is_null(), "{field} is missing: {line}");
    }
    assert_eq!((&line["errors"], &line["sessions_lost"]), (&0.into(), &0.into()), "{line}");
    assert_eq!((&line["durable"], &line["signed"], &line["encrypted"]), (&true.into(), &true.into(), &true.into()));
    assert!(number(&line["ops"]) > 0.0 && number(&line["cpu_us_per_op"]) > 0.0, "{line}");
    let rate = number(&line["ops"]) / number(&line["duration_s"]);
    assert!((rate - number(&line["ops_per_s"])).abs() < 0.1, "{line}");
    let latency = ["p50", "p90", "p99", "p999", "max"].map(|name| number(&line["latency_us"][name]));
    assert!(latency[0] > 0.0 && latency.is_sorted(), "{latency:?}");
}

#[test]
fn a_closed_loop_says_all_that_is_promised_and_leaves_nothing_behind() {
    closed_loop(Io::Uring, "io_uring, ");
    closed_loop(Io::Epoll, "epoll, ");
}

fn closed_loop(io: Io, driver: &str) {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["local", "--duration", "1500ms", "--warmup", "300ms", "--clients", "2", "--inflight", "128"];
    let more = ["--ops-per-envelope", "16", "--op-bytes", "32", "--reply-bytes", "8", "--output", "json"];
    let line = last_line(&bench_over(io, folder.path(), &[&arguments[..], &more].concat()).output().unwrap());
    assert_sane(&line);
    assert_eq!((&line["op_bytes"], &line["reply_bytes"]), (&32.0.into(), &8.0.into()));
    assert_eq!((&line["clients"], &line["inflight"]), (&2.into(), &128.into()));
    assert_eq!((&line["replicas"], &line["ops_per_envelope"]), (&4.into(), &16.into()));
    assert_eq!((&line["loop"], &line["duration_s"]), (&"closed".into(), &1.5.into()));
    let replicas = line["per_replica"].as_array().unwrap();
    assert_eq!(replicas.len(), 4);
    for replica in replicas {
        assert!(number(&replica["rss_mib_max"]) > 1.0 && number(&replica["journal_mib_max"]) > 0.0, "{replica}");
    }
    let progress = line["progress"].as_array().unwrap();
    assert!(progress.iter().all(|one| number(&one["executed"][1]) > number(&one["executed"][0])), "{line}");
    let environment = &line["environment"];
    for field in ["machine", "kernel", "commit", "durable_write_path", "rustc", "profile"] {
        assert!(!environment[field].as_str().unwrap().is_empty(), "{field}: {environment}");
    }
    assert!(environment["durable_write_path"].as_str().unwrap().starts_with(driver), "{environment}");
    assert!(environment["crypto"]["signatures"].as_str().unwrap().contains("ed25519"));
    assert!(environment["crypto"]["links"].as_str().unwrap().contains("Noise"));
    assert_nothing_left(folder.path());
}

#[test]
fn an_open_loop_starts_what_is_due_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["local", "--duration", "2s", "--warmup", "500ms", "--clients", "3", "--rate", "50"];
    let line = last_line(&run(folder.path(), &[&arguments[..], &["--output", "json"]].concat()));
    assert_sane(&line);
    assert_eq!((&line["loop"], &line["rate"]), (&"open".into(), &50.into()));
    // 100 were due in the interval, however slow the machine; a backlog of the warm-up's 25 may come on top.
    let (ops, overdue) = (number(&line["ops"]), number(&line["overdue"]));
    assert!(ops <= 130.0 && ops + overdue > 0.0, "{line}");
    assert_nothing_left(folder.path());
}

#[test]
fn kv_is_preloaded_and_the_timeline_has_a_row_for_each_look() {
    let folder = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let timeline = files.path().join("timeline");
    let path = timeline.to_str().unwrap();
    let arguments = ["local", "--service", "kv", "--keys", "1000", "--preload", "--mix", "mixed", "--op-bytes", "40"];
    let times = ["--duration", "1500ms", "--warmup", "300ms", "--interval", "100ms", "--timeline", path];
    let cluster = ["--checkpoint-interval", "8", "--snapshot-slots", "16", "--ops-per-envelope", "4"];
    let more = ["--inflight", "64", "--output", "json"];
    let output = run(folder.path(), &[&arguments[..], &times, &cluster, &more].concat());
    let line = last_line(&output);
    assert_sane(&line);
    assert!(complaint(&output).contains("preloaded 1000 keys"), "{}", complaint(&output));
    assert_eq!((&line["service"], &line["keys"]), (&"kv".into(), &1000.into()));
    let phases = line["phases"].as_object().unwrap();
    let intervals: f64 = phases.values().map(|phase| number(&phase["intervals"])).sum();
    let rows: Vec<Value> =
        fs::read_to_string(&timeline).unwrap().lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    assert!(!rows.is_empty() && rows.len() as f64 == intervals, "{} rows, {line}", rows.len());
    let snapshots: f64 =
        line["progress"].as_array().unwrap().iter().map(|one| number(&one["counters"]["snapshots"])).sum();
    assert!(snapshots > 0.0 && phases.contains_key("snapshot"), "{line}");
    for row in &rows {
        for field in ["ops", "commit_gap_ms", "busy", "latency_us", "phase"] {
            assert!(!row[field].is_null(), "{field}: {row}");
        }
        assert_eq!(row["rss_mib"].as_array().unwrap().len(), 4, "{row}");
        assert_eq!(row["journal_mib"].as_array().unwrap().len(), 4, "{row}");
    }
    assert_nothing_left(folder.path());
}

#[test]
fn clients_beyond_the_sessions_are_told_busy_and_nobody_else_suffers() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["local", "--clients", "6", "--sessions-max", "4", "--inflight", "1", "--timeout", "1s"];
    let times = ["--duration", "1500ms", "--warmup", "100ms", "--output", "json"];
    let line = last_line(&run(folder.path(), &[&arguments[..], &times].concat()));
    assert!(number(&line["ops"]) > 0.0, "{line}");
    assert_eq!((&line["clients_with_session"], &line["sessions_lost"]), (&4.into(), &0.into()), "{line}");
    assert!(number(&line["clients_told_busy"]) >= 2.0 && number(&line["busy"]) >= 2.0, "{line}");
    // Only operations of those without a session failed: refused, or given up, before they left.
    let by_kind = line["errors_by_kind"].as_object().unwrap();
    assert!(by_kind.keys().all(|kind| kind == "not_sent_overloaded" || kind == "not_sent_deadline"), "{line}");
    assert_nothing_left(folder.path());
}

#[test]
fn a_signal_ends_everything() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = bench(folder.path(), &["local", "--duration", "1h", "--inflight", "1"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until("the replicas run", || processes_of(folder.path()).len() == 4);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = child.wait().unwrap();
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        if signal == Signal::KILL {
            wait_until("every replica has died too", || processes_of(folder.path()).is_empty());
        } else {
            assert_eq!((status.code(), told.as_str()), (Some(130), "bft-bench: interrupted\n"));
            assert_nothing_left(folder.path());
        }
    }
}
