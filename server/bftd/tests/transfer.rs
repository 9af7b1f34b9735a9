//! Real replicas that were away for longer than two snapshots: their peers have cut their journals, so they fetch a
//! snapshot, and go on from it.

#[macro_use]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use bft_client::{Client, ClientConfig, Completions, Outcome};
use bft_core::ids::{ReplicaId, View};
use bft_core::wire::message::Info;
use bft_server::Io;
use bft_server::children::LocalCluster;
use bft_services::kv::Operation;
use support::{Adders, Observer, PATIENCE, SNAPSHOTS_OFTEN, bftd, running_cluster_over, wait_until};

over_each_driver!(
    t3_a_replica_that_was_away_too_long_fetches_the_state_and_votes_again,
    t4_a_transfer_that_is_killed_in_the_middle_fetches_no_good_chunk_again,
);

/// Values that make the state so large that its transfer can be interrupted: 48 MiB.
const VALUES: usize = 768;
const VALUE_BYTES: usize = 64 << 10;

fn counter(info: &Info, name: &str) -> u64 {
    info.counter(name).unwrap_or(0)
}

fn a_backup(cluster: &LocalCluster) -> ReplicaId {
    let config = cluster.testnet().cluster();
    config.replicas().find(|replica| *replica != config.primary(View(0))).expect("four replicas have three backups")
}

/// Runs load until the others have come by three snapshots: what the one that is down lacks is cut then.
fn leave_behind(observer: &Observer, adders: &Adders, away: ReplicaId) {
    let snapshot = || {
        observer
            .infos(false)
            .into_iter()
            .flatten()
            .filter(|info| info.replica != away)
            .map(|info| info.snapshot.0)
            .min()
    };
    let goal = snapshot().expect("three replicas answer") + 3 * SNAPSHOTS_OFTEN;
    adders.wait_for_more("the load runs", 1);
    wait_until("the others take three snapshots", || snapshot().is_some_and(|snapshot| snapshot >= goal));
}

fn fill(cluster: &LocalCluster) {
    let config = ClientConfig::load(&cluster.testnet().client_config()).unwrap();
    let client = Client::open(config, Completions::Futures).unwrap();
    for key in 0..VALUES {
        // Every value is another one: equal chunks would be fetched once.
        let value: Vec<u8> = (0..VALUE_BYTES / 8).flat_map(|at| (key * VALUE_BYTES + at).to_le_bytes()).collect();
        let put = Operation::Put { key: format!("value-{key}").as_bytes(), value: &value }.to_bytes().unwrap();
        let outcome = client.call(&put, PATIENCE);
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    }
    client.close(Duration::from_secs(1));
}

fn t3_a_replica_that_was_away_too_long_fetches_the_state_and_votes_again(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster_over(io, dir.path(), SNAPSHOTS_OFTEN);
    let away = a_backup(&cluster);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 500);
    cluster.kill(away).unwrap();
    leave_behind(&observer, &adders, away);

    cluster.start(away).unwrap();
    cluster.child(away).wait_ready(PATIENCE).unwrap();
    wait_until("it has fetched a snapshot", || {
        observer.info(away).is_some_and(|info| counter(&info, "transfers") > 0 && counter(&info, "chunks_fetched") > 0)
    });
    let goal = observer.stable();
    wait_until("it catches up under load", || observer.info(away).is_some_and(|info| info.executed.0 >= goal));

    // Without another one nothing commits unless this one votes.
    let other = cluster
        .testnet()
        .cluster()
        .replicas()
        .find(|replica| *replica != away && *replica != cluster.testnet().cluster().primary(View(0)));
    let other = other.expect("three others");
    cluster.kill(other).unwrap();
    adders.wait_for_more("it votes again", 500);
    cluster.start(other).unwrap();
    cluster.child(other).wait_ready(PATIENCE).unwrap();
    adders.stop_and_compare();
    observer.wait_equal();

    let client = cluster.testnet().client_config();
    let told = bftd(&["status", "--config", client.to_str().unwrap(), "--output", "json"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let row = &told["replicas"][away.index()];
    assert!(row["transfer"].is_null() && row["counters"]["transfers"].as_u64() > Some(0), "{row}");
    let words = cluster.child(away).said().unwrap();
    assert!(words.contains("state transfer: a snapshot is fetched from peers"), "{words}");
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}

fn t4_a_transfer_that_is_killed_in_the_middle_fetches_no_good_chunk_again(io: Io) {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = running_cluster_over(io, dir.path(), SNAPSHOTS_OFTEN);
    let away = a_backup(&cluster);
    let observer = Observer::new(&cluster);
    let adders = Adders::start(&cluster);
    adders.wait_for_more("the load runs", 100);
    cluster.kill(away).unwrap();
    fill(&cluster);
    leave_behind(&observer, &adders, away);
    // From now on the target stays what it is.
    adders.stop_and_compare();

    let incoming: PathBuf = cluster.testnet().replica_dir(away).join("data/snapshots/incoming");
    let stored = || std::fs::read_dir(&incoming).map_or(0, Iterator::count) as u64;
    cluster.start(away).unwrap();
    wait_until("a part of the chunks is there", || stored() >= 8);
    cluster.kill(away).unwrap();
    let left = stored();

    cluster.start(away).unwrap();
    cluster.child(away).wait_ready(PATIENCE).unwrap();
    observer.wait_equal();
    let info = observer.info(away).expect("it runs");
    let (fetched, resumed) = (counter(&info, "chunks_fetched"), counter(&info, "chunks_resumed"));
    let chunks = (VALUES * VALUE_BYTES) as u64 >> 20;
    assert_eq!(counter(&info, "transfers"), 1, "killed in the middle: {info:?}");
    // The last file may have been cut off by the kill.
    assert!(resumed + 1 >= left && resumed <= left, "{resumed} of {left} are found again");
    assert!(fetched > 0 && fetched + resumed >= chunks, "{fetched} and {resumed} of {chunks} MiB");
    let manifest = cluster.testnet().replica_dir(away).join(format!("data/snapshots/{}/manifest", info.snapshot));
    let manifest = bft_core::snapshot::Manifest::decode(&std::fs::read(manifest).unwrap()).unwrap();
    let distinct: std::collections::BTreeSet<_> = manifest.pieces().map(|(_, _, digest)| digest).collect();
    assert_eq!(fetched + resumed, distinct.len() as u64, "each piece came once");
    let ends = cluster.stop_all(PATIENCE).unwrap();
    assert!(ends.iter().all(|end| end.success()), "{ends:?}");
}
