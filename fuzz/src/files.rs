//! Files that people write: `cluster.toml`, `client.toml`, `bftd.toml`, keys, and variables of the environment over them.

use std::cell::OnceCell;
use std::fs;
use std::path::Path;

use bft_client::ClientConfig;
use bft_core::auth::SecretKey;
use bft_core::config::file::{parse_cluster, write_cluster};
use bft_core::ids::ReplicaId;
use bft_server::config::ReplicaConfig;
use bft_server::testnet::{Testnet, TestnetOptions};

use crate::feed::Feed;

/// Which file, then its text. An error names the file and a reason; a cluster that reads writes itself to the same.
pub fn config(data: &[u8]) {
    let mut feed = Feed::new(data);
    let which = feed.u8() % 5;
    let Ok(text) = std::str::from_utf8(feed.rest()) else { return };
    match which {
        0 => cluster(text),
        1 => {
            if let Ok(key) = SecretKey::from_pem(text) {
                let again = SecretKey::from_pem(&key.to_pem()).expect("its own form");
                assert_eq!(key.public_key(), again.public_key());
            }
        }
        2 => in_testnet(|dir| replica(&dir.join("replica-0"), text, [])),
        3 => in_testnet(|dir| client(dir, text)),
        _ => in_testnet(|dir| variables(&dir.join("replica-0"), text)),
    }
}

fn cluster(text: &str) {
    match parse_cluster(text, "a.toml") {
        Ok(config) => {
            let written = write_cluster(&config);
            let again = parse_cluster(&written, "a.toml").expect("its own form");
            assert_eq!(again, config);
            assert_eq!(write_cluster(&again), written);
        }
        Err(error) => assert!(error.to_string().starts_with("a.toml"), "{error}"),
    }
}

/// The files that a text names are beside it: with neither slash nor backslash it names no others.
fn names_only_neighbours(text: &str) -> bool {
    !text.contains(['/', '\\'])
}

fn client(dir: &Path, text: &str) {
    let path = dir.join("fuzzed.toml");
    if names_only_neighbours(text) {
        fs::write(&path, text).expect("a folder of our own");
        // Accepted or not: it ends, and does not panic.
        let _ = ClientConfig::load(&path);
    }
}

fn replica(dir: &Path, text: &str, variables: impl IntoIterator<Item = (String, String)>) {
    let path = dir.join("fuzzed.toml");
    if !names_only_neighbours(text) {
        return;
    }
    fs::write(&path, text).expect("a folder of our own");
    if let Ok(config) = ReplicaConfig::load_with(&path, variables) {
        assert!(config.cluster.member(config.me).is_some());
    }
}

/// Lines `NAME=value` over the file that testnet writes.
fn variables(dir: &Path, text: &str) {
    let genuine = fs::read_to_string(dir.join("bftd.toml")).expect("testnet wrote it");
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let variables: Vec<_> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    if variables.iter().all(|(_, value)| names_only_neighbours(value)) {
        replica(dir, &genuine, variables);
    }
}

thread_local! {
    static TESTNET: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
}

/// A test network in a folder of this thread's, gone with it.
fn in_testnet(use_it: impl FnOnce(&Path)) {
    TESTNET.with(|testnet| {
        let dir = testnet.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary folder");
            make_testnet(dir.path());
            dir
        });
        use_it(&dir.path().join("net"));
    });
}

fn make_testnet(dir: &Path) -> Testnet {
    let options = TestnetOptions::loopback(4, 4710).expect("four ports");
    Testnet::create(&dir.join("net"), &options).expect("an empty folder")
}

/// What `testnet` writes: `cluster.toml`, a key, `bftd.toml`, `client.toml`, by the number that [`config`] has for each.
///
/// # Panics
/// If there is no temporary folder.
#[must_use]
pub fn genuine() -> Vec<(u8, String)> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let testnet = make_testnet(dir.path());
    let read = |path: &Path| fs::read_to_string(path).expect("just written");
    let replica = testnet.config(ReplicaId(0));
    // Keys are drawn anew each time: the files of the corpus have fixed ones.
    let cluster = write_cluster(&crate::wire::cast().config);
    let key = SecretKey::from_entropy([9; 32]).to_pem().to_string();
    let variables = "BFTD_CORES=2\nBFTD_LOG__LEVEL=debug\nBFTD_JOURNAL__SEGMENT_BYTES=8MiB\n";
    vec![(0, cluster), (1, key), (2, read(&replica)), (3, read(&testnet.client_config())), (4, variables.into())]
}
