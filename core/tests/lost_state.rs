//! A replica whose newest stable snapshot cannot be read back at a start: what it does without a state, and how it comes by
//! one. Whole clusters with damaged snapshots are the simulator's.

mod common;

use bft_core::config::ProtocolParams;
use bft_core::ids::{ReplicaId, Seq};
use bft_core::limits::SECOND;
use bft_core::wire::message::{Kind, Message};
use common::cluster::Cluster;

/// The snapshot that is lost.
const LOST: Seq = Seq(8);

/// A cluster beyond its first snapshot, and a backup that has just started without being able to read it. It hears nobody yet.
fn cluster() -> (Cluster, ReplicaId) {
    let params =
        ProtocolParams { checkpoint_interval: 8, window: 16, pipeline_max: 8, snapshot_slots: 8, ..Default::default() };
    let mut cluster = Cluster::with(params);
    cluster.settle();
    cluster.link();
    cluster.run_to(12);
    let loser = cluster.others(&[cluster.primary(0)])[0];
    cluster.pass(SECOND);
    assert_eq!(cluster.hosts[loser.index()].replica.stable_snapshot(), LOST);
    cluster.host(loser).files.lose(LOST);
    cluster.restart(loser);
    (cluster, loser)
}

fn awaits_state(cluster: &Cluster, replica: ReplicaId) -> bool {
    cluster.hosts[replica.index()].replica.awaits_state()
}

#[test]
fn d4_who_lost_its_state_votes_and_executes_nothing() {
    let (mut cluster, loser) = cluster();
    assert!(awaits_state(&cluster, loser));
    cluster.hears = |_, _, message| message.kind() != Kind::Manifest;
    cluster.link();
    cluster.pass(SECOND);
    // The other backup is gone: nothing is committed without this one.
    cluster.down = vec![cluster.others(&[cluster.primary(0), loser])[0]];
    let view = cluster.view(loser);
    cluster.run_to(16);
    cluster.pass(20 * SECOND);
    assert_eq!((cluster.done, cluster.view(loser)), (cluster.submitted, view), "and it suspects nobody");
    let host = &cluster.hosts[loser.index()];
    assert!(awaits_state(&cluster, loser) && host.executed.is_empty());
    let said_of_state =
        cluster.sent.iter().filter(|(from, _)| *from == loser).filter_map(|(_, message)| match message {
            Message::Checkpoint(vote) if vote.signatures.len() == 1 => Some(vote.seq),
            Message::Snapshot(vote) => Some(vote.seq),
            _ => None,
        });
    assert!(said_of_state.max() <= Some(LOST), "it signs no state that it does not have");
}

#[test]
fn d4_the_snapshot_that_was_lost_leads_back_although_nobody_has_a_newer_one() {
    let (mut cluster, loser) = cluster();
    cluster.link();
    cluster.pass(SECOND);
    let replica = &cluster.hosts[loser.index()].replica;
    assert!(!awaits_state(&cluster, loser));
    assert_eq!((replica.counters().transfers, replica.stable_snapshot()), (1, LOST));
    assert_eq!(replica.counters().repairs, 0, "it never was in quarantine");
    cluster.come_together();
    cluster.run_to(40);
    cluster.come_together();
    // The files are there again.
    cluster.restart(loser);
    assert!(!awaits_state(&cluster, loser));
}

#[test]
fn d4_a_snapshot_that_only_one_replica_can_read_leads_all_others_back() {
    let (mut cluster, loser) = cluster();
    for other in cluster.others(&[cluster.primary(0), loser]) {
        cluster.host(other).files.lose(LOST);
        cluster.restart(other);
    }
    cluster.link();
    cluster.pass(20 * SECOND);
    assert!(cluster.config.replicas().all(|replica| !awaits_state(&cluster, replica)));
    cluster.run_to(16);
    cluster.come_together();
}
