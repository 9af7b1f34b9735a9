//! Whole replicas over real sockets and a real disk.

mod support;

use bft_core::client::Outcome;
use bft_core::config::ProtocolParams;
use bft_core::service::Service;
use bft_services::kv::{Kv, Operation, Reply};
use support::{Cluster, PATIENCE};

fn kv() -> Box<dyn Service> {
    Box::new(Kv::new())
}

fn add(key: &[u8]) -> Vec<u8> {
    Operation::Add { key, delta: 1 }.to_bytes().unwrap()
}

fn counter(outcome: &Outcome) -> i64 {
    let Outcome::Done { result, .. } = outcome else { panic!("{outcome:?}") };
    match Reply::decode(result) {
        Ok(Reply::Counter(value)) => value,
        other => panic!("{other:?}"),
    }
}

/// Checkpoints and snapshots come often, so that a short test sees them.
fn small() -> ProtocolParams {
    ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 4,
        snapshot_slots: 32,
        ..ProtocolParams::default()
    }
}

#[test]
fn c16_four_replicas_count_every_operation_once() {
    let mut cluster = Cluster::new(4, 1, small(), kv);
    cluster.start_all();
    let mut client = cluster.client(100);
    for round in 0..100 {
        assert_eq!(counter(&client.call(add(b"one"))), round + 1);
    }
    let many = client.call_all((0..5000).map(|_| add(b"many")));
    let mut counts: Vec<_> = many.iter().map(counter).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=5000).collect::<Vec<_>>());
    cluster.wait_until("on a snapshot", |info| info.snapshot.0 >= 32);
    let executed = (0..4).map(|id| cluster.info(id).executed).max().unwrap();
    cluster.wait_until("as far as the others", |info| info.executed >= executed);
    let states: Vec<_> =
        (0..4).map(|id| cluster.control(id).info_with_digest(PATIENCE).unwrap().state.unwrap().1).collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "{states:?}");
    cluster.stop_all();
}

#[test]
fn d22_a_cluster_that_stopped_goes_on_where_it_was() {
    let mut cluster = Cluster::new(4, 1, small(), kv);
    cluster.start_all();
    let mut client = cluster.client(100);
    for round in 0..50 {
        assert_eq!(counter(&client.call(add(b"key"))), round + 1);
    }
    drop(client);
    cluster.stop_all();
    cluster.start_all();
    let mut client = cluster.client(100);
    assert_eq!(counter(&client.call(add(b"key"))), 51);
    assert!((0..4).all(|id| cluster.info(id).executed.0 > 50));
    cluster.stop_all();
}
