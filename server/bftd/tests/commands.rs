//! The commands by hand, one after the other, on real processes: what they say and how they end, for right and for
//! wrong input.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use bft_core::ids::ReplicaId;
use bft_server::children::READY;
use bft_server::testnet::{Testnet, TestnetOptions};
use serde_json::{Value, json};
use support::{bftd, running_cluster};

/// Exit code, stdout, stderr.
fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().expect("no signal"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_cluster_made_by_hand_serves_kv_and_tells_its_status() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster(dir.path(), support::SNAPSHOTS_OFTEN);
    let config = cluster.testnet().client_config().display().to_string();
    let kv = |words: &[&str]| told(&bftd(&[&["kv"], words, &["--config", &config]].concat()));
    let ok = |stdout: &str| (0, stdout.to_owned(), String::new());
    let no = |code, stderr: &str| (code, String::new(), format!("bftd: {stderr}\n"));

    assert_eq!(kv(&["get", "colour"]), no(1, "there is no such key"));
    assert_eq!(kv(&["put", "colour", "blue"]), ok("ok\n"));
    assert_eq!(kv(&["get", "colour"]), ok("blue\n"));
    assert_eq!(kv(&["cas", "colour", "green", "--expect", "red"]), no(1, "nothing changed: the value is \"blue\""));
    assert_eq!(kv(&["cas", "colour", "green", "--expect", "blue"]), ok("ok\n"));
    assert_eq!(kv(&["cas", "colour", "grey", "--absent"]), no(1, "nothing changed: the value is \"green\""));
    assert_eq!(kv(&["cas", "shape", "round", "--absent"]), ok("ok\n"));
    assert_eq!(kv(&["cas", "form", "round", "--expect", "x"]), no(1, "nothing changed: there is no such key"));
    assert_eq!(kv(&["add", "visits", "41"]), ok("41\n"));
    assert_eq!(kv(&["add", "visits", "-43"]), ok("-2\n"));
    assert_eq!(kv(&["append", "log", "ab"]), ok("2\n"));
    assert_eq!(kv(&["append", "log", "c"]), ok("3\n"));
    assert_eq!(kv(&["get", "log"]), ok("abc\n"));
    assert_eq!(kv(&["add", "colour", "1"]), no(64, "the value is not a counter: it has not 8 bytes"));
    assert_eq!(kv(&["count"]), ok("4\n"));
    assert_eq!(kv(&["delete", "shape"]), ok("ok\n"));
    assert_eq!(kv(&["delete", "shape"]), ok("ok: there was no such key\n"));
    assert_eq!(kv(&["put", &"k".repeat(1025), "v"]), no(64, "the key is longer than 1024 bytes"));

    let object = |words: &[&str]| {
        let (code, stdout, _) = kv(&[words, &["--output", "json"]].concat());
        let mut object: Value = serde_json::from_str(&stdout).unwrap();
        assert!(object["seq"].take().as_u64().unwrap() > 0);
        object.as_object_mut().unwrap().remove("seq");
        (code, object)
    };
    assert_eq!(object(&["get", "colour"]), (0, json!({ "value": "green", "value_hex": "677265656e" })));
    assert_eq!(object(&["get", "visits"]), (0, json!({ "value": null, "value_hex": "feffffffffffffff" })));
    assert_eq!(object(&["get", "shape"]), (1, json!({ "value": null, "value_hex": null })));
    assert_eq!(object(&["put", "shape", "round"]), (0, json!({ "existed": false })));
    assert_eq!(object(&["cas", "shape", "x", "--absent"]).1["swapped"], false);
    assert_eq!(object(&["add", "visits", "0"]), (0, json!({ "sum": -2 })));
    assert_eq!(object(&["count"]), (0, json!({ "keys": 4 })));

    // Calls at a time, with the same client.toml: each is a client of its own.
    let add =
        || Command::new(env!("CARGO_BIN_EXE_bftd")).args(["kv", "add", "parallel", "1", "--config", &config]).spawn();
    let calls: Vec<_> = (0..12).map(|_| add().unwrap()).collect();
    for mut call in calls {
        assert!(call.wait().unwrap().success());
    }
    assert_eq!(kv(&["add", "parallel", "0"]), ok("12\n"));

    status(&config);
    let stopped = ReplicaId(3);
    cluster.kill(stopped).unwrap();
    let (code, stdout, stderr) = told(&bftd(&["status", "--config", &config, "--timeout", "1s"]));
    assert_eq!((code, stderr.as_str()), (1, "bftd: 1 of 4 replicas did not answer\n"));
    assert!(stdout.lines().last().unwrap().starts_with("replica 3 at 127.0.0.1:"), "{stdout}");

    cluster.kill_all().unwrap();
    let (code, stdout, stderr) = kv(&["put", "a", "b", "--timeout", "300ms"]);
    assert_eq!((code, stdout.as_str()), (69, ""));
    let told = "bftd: not executed: the deadline passed before it was sent (waited 300ms)\n  replica 0: ";
    assert!(stderr.starts_with(told), "{stderr}");
    let status = bftd(&["status", "--config", &config, "--timeout", "100ms"]);
    assert_eq!(status.status.code(), Some(69));
}

fn status(config: &str) {
    let (code, stdout, stderr) = told(&bftd(&["status", "--config", config]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{stdout}");
    let words = ["REPLICA", "ADDRESS", "VIEW", "SEQ", "STABLE", "STATE", "DURABLE", "BY", "PEERS"];
    assert!(lines[0].split_whitespace().eq(words), "{stdout}");
    assert_eq!(stdout.matches(" (primary) ").count(), 1);

    let (code, stdout, _) = told(&bftd(&["status", "--config", config, "--output", "json"]));
    assert_eq!(code, 0);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(object["f"], 1);
    let replicas = object["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 4);
    for (index, replica) in replicas.iter().enumerate() {
        assert_eq!((&replica["replica"], &replica["view"]), (&json!(index), &json!(0)));
        assert_eq!((&replica["peers"], &replica["durable"]), (&json!(3), &json!(true)));
        assert_eq!(replica["executed"], replicas[0]["executed"], "nothing is under way");
        assert_eq!(replica["state_digest_seq"], replica["executed"], "closing a session changes no state");
        assert_eq!(replica["state_digest"], replicas[0]["state_digest"]);
        assert_eq!(replica["state_digest"].as_str().unwrap().len(), 64);
        assert_eq!(replica["sealed"], "Noise_XX_25519_AESGCM_SHA256");
    }
}

#[test]
fn testnet_says_what_to_do_next_and_leaves_folders_alone_that_have_something_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("net").display().to_string();
    let (code, stdout, stderr) = told(&bftd(&["testnet", "--replicas", "4", "--dir", &net, "--base-port", "9000"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    let said = format!(
        "made a cluster of 4 in {net}\n  bftd run --config {net}/replica-0/bftd.toml\n  bftd run --config \
         {net}/replica-1/bftd.toml\n  bftd run --config {net}/replica-2/bftd.toml\n  bftd run --config \
         {net}/replica-3/bftd.toml\nthen\n  bftd status --config {net}/client.toml\n"
    );
    assert_eq!(stdout, said);
    let again = told(&bftd(&["testnet", "--dir", &net]));
    let refused = format!("bftd: {net} is not empty: name a folder that does not exist yet, or an empty one\n");
    assert_eq!(again, (1, String::new(), refused));

    let far = dir.path().join("far").display().to_string();
    let refused = |arguments: &[&str]| told(&bftd(&[&["testnet", "--dir", &far], arguments].concat()));
    let wrong = |stderr: &str| (78, String::new(), format!("bftd: {stderr}\n"));
    assert_eq!(refused(&["--hosts", "a:1,b"]), wrong("\"b\" is no address: write host:port, as in 10.0.0.1:4710"));
    let counts = "--replicas is 4, but --hosts names 2: leave --replicas out, or name each";
    assert_eq!(refused(&["--replicas", "4", "--hosts", "a:1,b:1"]), wrong(counts));
    let ports = "the ports 65533 to 65536 do not exist: the last one is 65535";
    assert_eq!(refused(&["--base-port", "65533"]), wrong(ports));
    let usage = refused(&["--replicas", "32"]);
    assert!(usage.0 == 2 && usage.2.contains("32 is not in 1..=31"), "{usage:?}");
    assert!(!Path::new(&far).exists());
    let (code, stdout, _) = refused(&["--hosts", "a.example:4710,b.example:4710,c.example:4710,d.example:4710"]);
    assert_eq!(code, 0);
    assert!(stdout.contains(&format!("  b.example:4710: copy {far}/replica-1 there, then `bftd run ")), "{stdout}");
}

/// A cluster's folder in which nothing runs; the ports in it are not used.
fn testnet(dir: &Path) -> Testnet {
    let mut options = TestnetOptions::loopback(4, 4710).unwrap();
    options.journal.segment_bytes = 3 << 20;
    Testnet::create(&dir.join("net"), &options).unwrap()
}

/// `bftd run` with its listener on a port that the system chooses.
fn run(config: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bftd"));
    command.arg("run").arg("--config").arg(config).env("BFTD_LISTEN", "127.0.0.1:0");
    command.envs(variables.iter().copied());
    command
}

#[test]
fn d11_a_second_process_on_the_same_directory_is_refused_and_the_first_one_stops_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let testnet = testnet(dir.path());
    let log = dir.path().join("log");
    let config = testnet.config(ReplicaId(0));
    let variables = [("BFTD_LOG__FORMAT", "json")];
    let mut first = run(&config, &variables).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    support::wait_until("the first one is ready", || fs::read_to_string(&log).unwrap().contains(READY));

    let (code, stdout, stderr) = told(&run(&config, &[("BFTD_LOG__LEVEL", "error")]).output().unwrap());
    let lock = testnet.replica_dir(ReplicaId(0)).join("data/LOCK");
    let refused =
        format!("bftd: {} is locked: another process runs this replica; stop that one first\n", lock.display());
    assert_eq!((code, stdout, stderr), (69, String::new(), refused));

    rustix::process::kill_process(rustix::process::Pid::from_child(&first), rustix::process::Signal::TERM).unwrap();
    let mut status = None;
    support::wait_until("it stops", || {
        status = first.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ready: Vec<_> = lines.iter().filter(|line| line["message"] == READY).collect();
    assert_eq!(ready.len(), 1, "one line when ready: {text}");
    assert_eq!((&ready[0]["level"], &ready[0]["replica"]), (&json!("INFO"), &json!("0")));
    assert!(ready[0]["listen"].as_str().unwrap().starts_with("127.0.0.1:"));
}

#[test]
fn wrong_configurations_are_told_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let testnet = testnet(dir.path());
    let config = testnet.config(ReplicaId(0));
    let folder = testnet.replica_dir(ReplicaId(0)).display().to_string();
    let refused = |variables: &[(&str, &str)]| told(&run(&config, variables).stdout(Stdio::piped()).output().unwrap());
    let wrong = |stderr: &str| (78, String::new(), format!("bftd: {stderr}\n"));
    assert_eq!(refused(&[("BFTD_CROES", "1")]), wrong("BFTD_CROES: croes: unknown key; did you mean `cores`?"));
    let level = refused(&[("BFTD_LOG__LEVEL", "info,=")]);
    assert!(level.0 == 78 && level.2.starts_with("bftd: BFTD_LOG__LEVEL: log.level: "), "{level:?}");
    let service = refused(&[("BFTD_SERVICE__NAME", "vk")]);
    let told_of = "bftd: BFTD_SERVICE__NAME: service.name: unknown service \"vk\"; built in are kv and null\n";
    assert_eq!(service, (78, String::new(), told_of.into()));
    let segment = "journal.segment_bytes: is 1MiB, but one file must hold the longest record of this cluster, evidence against \
                   a replica (2097184 bytes); take \"3MiB\" or more";
    let short = refused(&[("BFTD_JOURNAL__SEGMENT_BYTES", "1MiB")]);
    assert_eq!(short, wrong(&format!("BFTD_JOURNAL__SEGMENT_BYTES: {segment}")));
    let other_key = testnet.replica_dir(ReplicaId(1)).join("key.pem");
    let key = refused(&[("BFTD_KEY", other_key.to_str().unwrap()), ("BFTD_LOG__LEVEL", "error")]);
    assert!(key.0 == 78 && key.2.contains("the secret key belongs to "), "{key:?}");
    let other_data = testnet.replica_dir(ReplicaId(1)).join("data");
    let data = refused(&[("BFTD_DATA_DIR", other_data.to_str().unwrap()), ("BFTD_LOG__LEVEL", "error")]);
    assert_eq!(data, wrong(&format!("{} belongs to replica 1, not to replica 0", other_data.display())));
    let nothing = dir.path().join("nothing");
    fs::create_dir(&nothing).unwrap();
    let data = refused(&[("BFTD_DATA_DIR", nothing.to_str().unwrap()), ("BFTD_LOG__LEVEL", "error")]);
    assert!(data.0 == 78 && data.2.contains("holds no replica: it has no superblock"), "{data:?}");

    let key = Path::new(&folder).join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mode = "its mode is 0644, so that others may read the secret key: chmod 600 it";
    assert_eq!(refused(&[]), wrong(&format!("{}: {mode}", key.display())));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let busy = told(&run(&config, &[]).env("BFTD_LISTEN", &address).output().unwrap());
    let told_of = format!("bftd: cannot listen at {address}: Address already in use (os error 98)\n");
    assert_eq!(busy, (69, String::new(), told_of));
    let handed = told(&run(&config, &[]).env("LISTEN_FDS", "2").output().unwrap());
    assert_eq!(handed, wrong("LISTEN_FDS is \"2\"; a replica takes one listener"));

    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("replica = 0", "replica = \"zero\"")).unwrap();
    let line = text.lines().position(|line| line == "replica = 0").unwrap() + 1;
    let number =
        format!("{folder}/bftd.toml:{line}:11: replica: expected a whole number from 0 to 65535, found \"zero\"");
    assert_eq!(refused(&[]), wrong(&number));
    fs::remove_file(&config).unwrap();
    let gone = "No such file or directory (os error 2); this is the replica's configuration, bftd.toml";
    assert_eq!(refused(&[]), wrong(&format!("{folder}/bftd.toml: {gone}")));

    let client = testnet.client_config();
    fs::write(&client, fs::read_to_string(&client).unwrap().replace("timeout", "time_out")).unwrap();
    let kv = told(&bftd(&["kv", "count", "--config", client.to_str().unwrap()]));
    assert!(kv.0 == 78 && kv.2.contains(": time_out: unknown key; did you mean `timeout`?"), "{kv:?}");
    assert_eq!(bftd(&["kv", "count"]).status.code(), Some(2));
    assert_eq!(bftd(&["kv", "cas", "a", "b"]).status.code(), Some(2));
    assert_eq!(bftd(&["no-such-command"]).status.code(), Some(2));
}

#[test]
fn every_command_has_help_with_examples() {
    for command in ["demo", "testnet", "run", "kv", "status", "audit"] {
        let (code, stdout, _) = told(&bftd(&[command, "--help"]));
        assert!(
            code == 0 && stdout.contains("Examples:\n  ") && stdout.contains(&format!("bftd {command} ")),
            "{stdout}"
        );
    }
    let (code, stdout, _) = told(&bftd(&["--help"]));
    assert!(code == 0 && stdout.contains("Exit codes:\n  0   "), "{stdout}");
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bftd"))
        .args(["status", "--timeout", "200ms", "--config"])
        .arg(testnet(dir.path()).client_config())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(69), "the verdict stands");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "bftd: no replica answered\n", "and no panic");
}
