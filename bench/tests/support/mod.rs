//! `bft-bench` as others run it, and what it leaves behind.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bft_server::Io;
use serde_json::Value;

/// Nothing here takes longer on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The program, with its temporary files in `folder`.
pub fn bench(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bft-bench"));
    command.args(arguments).env("TMPDIR", folder);
    command
}

/// The same with replicas of this driver.
pub fn bench_over(io: Io, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = bench(folder, arguments);
    command.env("BFTD_IO", io.name());
    command
}

/// Runs it to its end.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    bench(folder, arguments).output().unwrap()
}

/// What it says on stderr.
pub fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The object on the last line.
pub fn last_line(output: &Output) -> Value {
    assert!(output.status.success(), "{}", complaint(output));
    let text = std::str::from_utf8(&output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// A number.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Waits until `is_so`, and says what was waited for if it never is.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Processes whose command line names `folder` and that are not dead.
pub fn processes_of(folder: &Path) -> Vec<u32> {
    let needle = folder.display().to_string();
    let ids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        // A process that is dead and not yet buried has no command line.
        String::from_utf8_lossy(&line).contains(&needle)
    };
    ids.filter(is_ours).collect()
}

/// That nothing is left in `folder`, and nobody runs in it.
pub fn assert_nothing_left(folder: &Path) {
    wait_until("every process has ended", || processes_of(folder).is_empty());
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "nothing is left");
}
