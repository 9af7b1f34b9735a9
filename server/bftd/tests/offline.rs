//! `bftd inspect` and `bftd verify` on the directory of a replica: what they say of a whole one and of damaged ones, and
//! that they change nothing.

#[macro_use]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use bft_core::auth::{Ed25519, Scheme};
use bft_core::config::ClusterConfig;
use bft_core::config::file::write_cluster;
use bft_core::ids::{ReplicaId, View};
use bft_server::Io;
use serde_json::Value;
use support::{Adders, Observer, PATIENCE, SNAPSHOTS_OFTEN, bftd, running_cluster_over, wait_until};

over_each_driver!(d4_a_stopped_replica_is_looked_into_and_nothing_is_changed,);

const BLOCK: usize = 4096;

/// A file as it is: its bytes, when they were last changed, and its mode.
#[derive(PartialEq, Eq)]
struct State {
    bytes: Vec<u8>,
    changed: (i64, i64),
    mode: u32,
}

/// Everything below a folder.
fn everything(folder: &Path) -> BTreeMap<PathBuf, State> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::metadata(&path).unwrap();
        let (changed, mode) = ((metadata.mtime(), metadata.mtime_nsec()), metadata.mode());
        let bytes = if metadata.is_dir() {
            found.extend(everything(&path));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        found.insert(path, State { bytes, changed, mode });
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command that answers in JSON; gives its exit code and the answer.
fn asked(arguments: &[&str]) -> (Option<i32>, Value) {
    let (code, said, complaint) = told(&bftd(&[arguments, &["--output", "json"]].concat()));
    let line = said.lines().last().unwrap_or_else(|| panic!("{arguments:?} says nothing: {complaint}"));
    (code, serde_json::from_str(line).unwrap())
}

/// A replica that has written a journal and a snapshot, in a directory of its own.
fn written(io: Io, dir: &Path) -> (PathBuf, PathBuf, ClusterConfig) {
    let mut cluster = running_cluster_over(io, dir, SNAPSHOTS_OFTEN);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    let replica = ReplicaId(0);
    wait_until("there is a snapshot, and more after it", || {
        observer.info(replica).is_some_and(|info| info.snapshot.0 > 0 && info.stable > info.snapshot)
    });
    let data = cluster.testnet().replica_dir(replica).join("data");
    let refused = bftd(&["verify", data.to_str().unwrap()]);
    let (code, _, why) = told(&refused);
    assert!(code == Some(69) && why.contains("stop it first"), "{code:?} {why}");
    let refused = bftd(&["inspect", "journal", data.to_str().unwrap()]);
    assert_eq!(told(&refused).0, Some(69));
    adders.stop_and_compare();
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
    let config = (**cluster.testnet().cluster()).clone();
    (data, dir.join("net").join("cluster.toml"), config)
}

fn d4_a_stopped_replica_is_looked_into_and_nothing_is_changed(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let (data, _, config) = written(io, dir.path());
    let name = data.to_str().unwrap();
    let before = everything(&data);

    let (code, superblock) = asked(&["inspect", "superblock", name]);
    assert_eq!(code, Some(0));
    assert_eq!(superblock["superblock"]["replica"], 0);
    assert_eq!(superblock["superblock"]["cluster"], config.cluster_id().to_string());
    assert!(superblock["superblock"]["stable"]["seq"].as_u64() > superblock["superblock"]["snapshot"]["seq"].as_u64());
    assert!(superblock["copies"].as_array().unwrap().iter().all(|copy| copy.as_str().unwrap().starts_with("whole, ")));
    assert!(!superblock.to_string().contains("key\":\"(") && superblock["superblock"].get("directory_key").is_none());

    let (code, journal) = asked(&["inspect", "journal", name, "--limit", "7"]);
    assert_eq!((code, &journal["state"]), (Some(0), &Value::from("whole")));
    let positions = |journal: &Value| -> Vec<u64> {
        let entries = journal["entries"].as_array().unwrap().iter();
        entries.filter_map(|entry| entry["position"].as_u64()).collect()
    };
    let first = positions(&journal);
    let records = journal["records"].as_u64().unwrap();
    assert!(first.len() == 7 && journal["left_out"] == records - 7, "{first:?} of {records}");
    let kinds: Vec<_> =
        journal["entries"].as_array().unwrap().iter().filter_map(|entry| entry["kind"].as_str()).collect();
    assert!(kinds.contains(&"VOTE") && kinds.contains(&"CERT"), "{kinds:?}");
    let (from, to) = (first[2].to_string(), first[4].to_string());
    let (_, narrowed) = asked(&["inspect", "journal", name, "--from", &from, "--to", &to]);
    assert_eq!(positions(&narrowed), first[2..=4]);
    let (code, text, _) = told(&bftd(&["inspect", "journal", name, "--from", &from, "--to", &to]));
    assert!(code == Some(0) && text.starts_with("segment ") && text.contains("\n  group at "), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("    ")).count(), 3, "{text}");

    let (code, verified) = asked(&["verify", name]);
    assert_eq!((code, &verified["sound"], &verified["findings"]), (Some(0), &true.into(), &Value::Array(Vec::new())));
    assert!(verified["records"] == records && verified["signed"].as_u64().unwrap() > records / 2, "{verified}");
    assert!(verified["snapshots"].as_u64().unwrap() > 0);
    assert!(everything(&data) == before, "they only read");
}

#[test]
fn d4_what_is_damaged_is_told_with_what_it_means() {
    let dir = tempfile::tempdir().unwrap();
    let (data, cluster_file, config) = written(Io::Auto, dir.path());
    // A copy of the directory, damaged by `damage`, under `cluster_file`: exit code, and what was found.
    let verify = |name: &str, cluster_file: &Path, damage: &dyn Fn(&Path)| {
        let at = dir.path().join(name);
        copy(&data, &at);
        damage(&at);
        let (code, said) = asked(&["verify", at.to_str().unwrap(), "--cluster", cluster_file.to_str().unwrap()]);
        let found = said["findings"].as_array().unwrap().iter().map(|finding| {
            assert!(!finding["means"].as_str().unwrap().is_empty() && !finding["remedy"].as_str().unwrap().is_empty());
            (finding["part"].as_str().unwrap().to_owned(), finding["meaning"].as_str().unwrap().to_owned())
        });
        (code, found.collect::<Vec<_>>())
    };
    let one = |part: &str, meaning: &str| vec![(part.to_owned(), meaning.to_owned())];
    assert_eq!(verify("whole", &cluster_file, &|_| {}), (Some(0), vec![]));

    let torn_copy = |data: &Path| flip(&data.join("superblock"), 300);
    assert_eq!(verify("copy", &cluster_file, &torn_copy), (Some(0), one("superblock", "ordinary")));
    let three_copies = |data: &Path| (0..3).for_each(|number| flip(&data.join("superblock"), number * BLOCK + 300));
    assert_eq!(verify("copies", &cluster_file, &three_copies), (Some(1), one("superblock", "cannot start")));

    let in_journal = |data: &Path| {
        let files = fs::read_dir(data.join("journal")).unwrap().map(|entry| entry.unwrap().path());
        let mut in_use: Vec<_> = files.filter(|path| fs::read(path).unwrap()[0] != 0).collect();
        in_use.sort();
        // Behind it lies the mark of the clean stop at least.
        flip(in_use.last().unwrap(), BLOCK + 70);
    };
    assert_eq!(verify("journal", &cluster_file, &in_journal), (Some(1), one("journal", "learns anew")));
    let at = dir.path().join("journal");
    let (code, text, why) = told(&bftd(&["inspect", "journal", at.to_str().unwrap()]));
    assert!(code == Some(1) && text.contains("; damaged") && why.contains("the journal is damaged"), "{text} {why}");

    let newest = |data: &Path| {
        let folders = fs::read_dir(data.join("snapshots")).unwrap().map(|entry| entry.unwrap().path());
        folders.max_by_key(|path| path.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap_or(0)).unwrap()
    };
    let in_snapshot = |data: &Path| flip(&newest(data).join("chunk-00000"), 10);
    let (code, found) = verify("snapshot", &cluster_file, &in_snapshot);
    assert!(code == Some(1) && found == one("snapshot", "cannot start"), "{code:?} {found:?}");

    // A cluster.toml in which the first primary has another key: nothing that it proposed is genuine.
    let mut members = config.members().to_vec();
    let primary = [View(0), View(1)].map(|view| config.primary(view)).into_iter().find(|id| *id != ReplicaId(0));
    members[primary.unwrap().index()].public_key = Ed25519::new(&[9; 32], [0; 32]).public_key();
    let (id, epoch, params) = (config.cluster_id(), config.epoch(), config.params().clone());
    let other = ClusterConfig::new(id, epoch, params, config.admission(), members).unwrap();
    let other_file = dir.path().join("other.toml");
    fs::write(&other_file, write_cluster(&other)).unwrap();
    let (code, found) = verify("keys", &other_file, &|_| {});
    assert!(code == Some(1) && found.iter().any(|(_, meaning)| meaning == "not genuine"), "{code:?} {found:?}");

    let nothing = bftd(&["verify", dir.path().to_str().unwrap()]);
    let (code, _, why) = told(&nothing);
    assert!(code == Some(78) && why.contains("no superblock"), "{why}");
}
