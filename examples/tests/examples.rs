//! The examples as a newcomer runs them: each a process, with what it must say and what it must not leave behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where cargo puts the programs of `examples`, seen from this test's own.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.parent().and_then(Path::parent).unwrap();
    let path = target.join("examples").join(name);
    assert!(path.exists(), "{} is not there: cargo test -p bft-examples builds it", path.display());
    path
}

fn run(name: &str, arguments: &[&str], folder: &Path) -> (bool, String, String) {
    let output = Command::new(program(name)).args(arguments).env("TMPDIR", folder).output().unwrap();
    let Output { status, stdout, stderr } = output;
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn core_loop_adds_every_operation_once_at_all_replicas() {
    let folder = tempfile::tempdir().unwrap();
    let (is_good, told, errors) = run("core_loop", &[], folder.path());
    assert!(is_good && errors.is_empty(), "{told}{errors}");
    let executed = told.strip_prefix("100 operations, sum 5050; the replicas have executed [Seq(").expect(&told);
    let seqs: Vec<_> = executed.trim_end().trim_end_matches(")]").split("), Seq(").collect();
    assert!(seqs.len() == 4 && seqs.iter().all(|seq| *seq == seqs[0] && *seq != "0"), "{told}");
}

#[test]
fn embed_keeps_the_books_over_a_restart_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    let (is_good, told, errors) = run("embed", &[], folder.path());
    assert!(is_good && errors.is_empty(), "{told}{errors}");
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 11, "{told}");
    assert!(lines[0].starts_with("four replicas run in "), "{told}");
    let answers = [
        "open alice: 0",
        "open bob: 0",
        "pay alice 1000: 1000",
        "move alice bob 30: 970",
        "move bob alice 31: refused: the account does not hold so much",
    ];
    assert_eq!(lines[1..6], answers);
    assert!(lines[6].starts_with("moved 1 from alice to bob 500 times in "), "{told}");
    assert_eq!(lines[7], "alice holds 470, bob holds 530, together 1000");
    let (_, rest) = lines[8].split_once("each from its snapshot of Seq ").expect(&told);
    let (snapshot, _) = rest.split_once(' ').expect(&told);
    assert!(snapshot.parse::<u64>().unwrap() >= 8, "{told}");
    assert_eq!(lines[9..], [lines[7], "all replicas stopped in good order"]);
    assert_eq!(entries(folder.path()), 0, "nothing is left");
}

#[test]
fn embed_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (is_good, told, errors) = run("embed", &["replica"], folder.path());
    assert!(!is_good && told.is_empty());
    assert_eq!(errors, "embed: usage: embed, or embed replica --config FILE\n");
    let (is_good, _, errors) = run("embed", &["replica", "--config", "nowhere.toml"], folder.path());
    assert!(!is_good && errors.starts_with("embed: nowhere.toml: No such file or directory"), "{errors}");
}
