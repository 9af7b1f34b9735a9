//! What cannot be measured is refused before anything runs, with the reason and what to do.

mod support;

use std::fs;

use support::{assert_nothing_left, complaint, run};

/// The exit code, and what is said, of a call that must be refused.
fn refused(arguments: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), arguments);
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_nothing_left(folder.path());
    (output.status.code().unwrap(), complaint(&output))
}

#[test]
fn more_under_way_than_the_window_holds() {
    let (code, told) = refused(&["local", "--inflight", "4097", "--ops-per-envelope", "64"]);
    assert_eq!(code, 2, "{told}");
    for word in
        ["--inflight is 4097", "at most 4096", "64 envelopes (the cluster's client_window)", "--ops-per-envelope to 65"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn numbers_that_make_no_load() {
    for (arguments, word) in [
        (["--clients", "0"], "0 is not in 1"),
        (["--inflight", "0"], "0 is not in 1"),
        (["--rate", "0"], "0 is not in 1"),
        (["--replicas", "3"], "3 is not in 4"),
        (["--service", "vk"], "possible values: null, kv"),
        (["--duration", "0s"], "--duration is 0ns, but must be 10ms to 7d"),
        (["--duration", "soon"], "no time"),
        (["--ops-per-envelope", "4097"], "the cluster takes at most 4096 (request_operations_max)"),
        (["--op-bytes", "1MiB"], "(request_bytes_max)"),
        (["--reply-bytes", "65537"], "answers with at most 65536"),
        (["--keys", "10"], "--keys is for --service kv"),
        (["--mix", "put"], "--mix is for --service kv"),
        (["--checkpoint-interval", "3"], "checkpoint_interval"),
    ] {
        let (code, told) = refused(&[&["local"], &arguments[..]].concat());
        assert_eq!(code, 2, "{arguments:?}: {told}");
        assert!(told.contains(word), "{arguments:?}: {word}: {told}");
    }
    let (code, told) = refused(&["local", "--service", "kv", "--reply-bytes", "1"]);
    assert!(code == 2 && told.contains("--reply-bytes is for --service null"), "{told}");
    let (code, told) = refused(&["local", "--service", "kv", "--op-bytes", "10"]);
    assert!(code == 2 && told.contains("a put has 11 to "), "{told}");
}

#[test]
fn configurations_that_are_not_there_or_wrong() {
    let (code, told) = refused(&["run", "--config", "nowhere/client.toml"]);
    assert_eq!(code, 78, "{told}");
    assert!(told.contains("nowhere/client.toml: ") && told.contains("client's configuration"), "{told}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.toml");
    fs::write(&path, "version = 1\nclutser = \"x\"\n").unwrap();
    let (code, told) = refused(&["run", "--config", path.to_str().unwrap()]);
    assert!(code == 78 && told.contains("did you mean `cluster`?"), "{told}");
}

#[test]
fn a_replica_alone_is_no_command_for_people() {
    let (code, told) = refused(&["replica", "--config", "bftd.toml"]);
    assert!(code == 2 && told.contains("use `bft-bench local`"), "{told}");
}

#[test]
fn villains_that_nobody_runs() {
    let (code, told) = refused(&["villains", "--villain-program", "nowhere/bft-villain"]);
    assert_eq!(code, 69, "{told}");
    assert!(told.contains("nowhere/bft-villain: ") && told.contains("cargo build --release -p bft-villain"), "{told}");
    let (code, told) = refused(&["villains", "--villain-program", "/bin/false"]);
    assert!(code == 69 && told.contains("--villain-program /bin/false"), "{told}");
    let (code, told) = refused(&["villains", "--window", "50ms"]);
    assert!(code == 2 && told.contains("--window is 50ms, but must be 100ms to 300 s"), "{told}");
    let (code, told) = refused(&["villains", "--rounds", "0"]);
    assert!(code == 2 && told.contains("0 is not in 1"), "{told}");
}
