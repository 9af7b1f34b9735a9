//! The demo as a stranger runs it: what it promises on its last line, and what it leaves behind.

#[macro_use]
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use bft_server::Io;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::wait_until;

over_each_driver!(
    two_seconds_of_kv_hold_every_check_and_leave_nothing_behind,
    null_and_more_replicas_work_and_the_text_says_so,
    a_signal_ends_the_load_checks_the_replicas_and_cleans_up,
    replicas_die_with_a_demo_that_is_killed,
);

fn demo(io: Io, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bftd"));
    command.arg("demo").args(arguments).env("TMPDIR", folder).env("BFTD_IO", io.name());
    command
}

fn last_line(stdout: &[u8]) -> Value {
    let text = std::str::from_utf8(stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn two_seconds_of_kv_hold_every_check_and_leave_nothing_behind(io: Io) {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(io, folder.path(), &["--seconds", "2", "--output", "json"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let line = last_line(&output.stdout);
    assert_eq!((&line["replicas"], &line["f"]), (&4.into(), &1.into()));
    // On a machine that stands still for long enough the primary may lose its view, and nothing else is lost.
    assert!(line["view"].is_u64(), "{line}");
    assert_eq!(line["state_digests_equal"], true);
    assert_eq!(line["counters_equal_adds"], true);
    assert_eq!(line["durable"], true);
    let driver = if io == Io::Epoll { "epoll, " } else { "io_uring, " };
    assert!(line["write_path"].as_str().unwrap().starts_with(driver), "{line}");
    assert_eq!((&line["ops_failed"], &line["faults"]), (&0.into(), &Value::Array(Vec::new())));
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(number(&line["ops_committed"]) >= 4.0 * 64.0, "at least the windows: {line}");
    assert!(number(&line["ops_per_s"]) > 0.0 && number(&line["duration_s"]) >= 2.0);
    let latency = ["p50", "p90", "p99", "p999", "max"].map(|name| number(&line["latency_us"][name]));
    assert!(latency[0] > 0.0 && latency.is_sorted(), "{latency:?}");
    assert!(told.contains("   1 s   ") && told.contains(" ops/s   p50 "), "progress once a second: {told}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

fn null_and_more_replicas_work_and_the_text_says_so(io: Io) {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(io, folder.path(), &["--seconds", "1", "--service", "null", "--replicas", "7"]).output().unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}{errors}");
    assert!(told.contains("7 replicas (f = 2) run the service null in "), "{told}");
    assert!(
        told.contains("all 7 replicas have executed Seq ") && told.contains("state digests there: equal ("),
        "{told}"
    );
    assert!(!told.contains("counters hold"), "{told}");
}

/// A demo without an end, and its replicas' process ids, as soon as it has told them.
fn endless(io: Io, folder: &Path) -> (Child, Vec<i32>, BufReader<std::process::ChildStdout>) {
    let mut child = demo(io, folder, &[]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut replicas = Vec::new();
    let mut line = String::new();
    while replicas.len() < 4 {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the demo ended");
        if let Some((_, process)) = line.split_once(": process ") {
            replicas.push(process.split(',').next().unwrap().parse().unwrap());
        }
    }
    (child, replicas, lines)
}

/// Whether a process is gone, or dead and not yet buried.
fn is_dead(process: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])))
        || !Path::new(&format!("/proc/{process}")).exists()
}

fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the demo ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.expect("waited for")
}

fn a_signal_ends_the_load_checks_the_replicas_and_cleans_up(io: Io) {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, replicas, mut lines) = endless(io, folder.path());
    let mut told = String::new();
    while !told.contains("committed") {
        assert!(lines.read_line(&mut told).unwrap() > 0, "{told}");
    }
    assert!(told.contains(" kv put colour blue --config ") && told.contains(" status --config "), "{told}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // The rest must be read: the demo would wait for its reader.
    for line in lines.lines() {
        told += &(line.unwrap() + "\n");
    }
    assert!(ended(&mut child).success(), "{told}");
    assert!(told.contains("state digests there: equal ("), "{told}");
    assert!(replicas.into_iter().all(is_dead));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

fn replicas_die_with_a_demo_that_is_killed(io: Io) {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, replicas, _lines) = endless(io, folder.path());
    assert!(!replicas.iter().any(|replica| is_dead(*replica)));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the replicas are dead", || replicas.iter().all(|replica| is_dead(*replica)));
}
