//! A replica that starts again executes what its journal holds and compares the result with what it signed, or what a
//! quorum did: it never signs a second root for one Seq, and goes into quarantine when its service has become another.

mod common;

use std::sync::Arc;

use bft_core::config::ProtocolParams;
use bft_core::door::{Effects, FileOrder, Input, Now, Place, SnapshotWritten, Tuning};
use bft_core::ids::{Digest, LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::journal::record::{Committed, Record, Vote};
use bft_core::journal::superblock::Superblock;
use bft_core::replica::Replica;
use bft_core::wire::message::Message;
use bft_core::wire::request::Body;
use common::{CLUSTER, TestCluster, superblock};

/// Every Seq is a checkpoint and a snapshot point: one empty batch is enough.
fn cluster() -> TestCluster {
    let params = ProtocolParams {
        checkpoint_interval: 1,
        window: 2,
        pipeline_max: 1,
        snapshot_slots: 1,
        ..ProtocolParams::default()
    };
    TestCluster::with(CLUSTER, &[1; 4], params)
}

const NOW: Now = Now { mono: Nanos(1), wall: WallNanos(1_700_000_000_000_000_009) };

/// A backup whose journal holds the committed empty batch of Seq 1 and `signed`, after it executed that batch.
fn replay(cluster: &TestCluster, signed: Option<Record>, change: impl FnOnce(&mut Superblock)) -> (Replica, Effects) {
    let me = cluster.backups(View(0))[0];
    let mut superblock = superblock(&cluster.config, me);
    change(&mut superblock);
    let body = Body::default();
    let (position, header) = cluster.position(0, 1, &body);
    let backups = cluster.backups(View(0));
    let certificate = Arc::new(cluster.committed(0, 1, &body, &backups));
    let vote = Vote { position, proposal: cluster.proposal(&position), header, body: Some(body.bytes().clone()) };
    let vote = Record::Vote(vote);
    let records = [
        Some(vote.clone()),
        Some(Record::Cert(cluster.prepared(0, 1, &body, &backups))),
        Some(Record::Committed(Committed { certificate, body: None })),
        signed,
    ];
    let scheme = cluster.replicas[me.index()].clone();
    let mut recovery = Replica::recover(cluster.config.clone(), me, scheme, Tuning::default(), superblock);
    let mut last = LogPosition(0);
    for record in records.into_iter().flatten() {
        last = last.next();
        recovery.record(last, record).expect("a journal of this cluster");
    }
    let mut effects = Effects::default();
    let mut replica = recovery.finish(NOW, last, Seq(0), &mut effects);
    let answer = common::nothing_is_held(effects.send.iter().map(|outgoing| &outgoing.message)).expect("it asks");
    for from in cluster.config.replicas().filter(|peer| *peer != me).take(2) {
        let message = cluster.verifier().check(from, answer.clone()).expect("well-formed");
        replica.step(NOW, Input::Message { from, message }, &mut effects);
    }
    assert_eq!(effects.load, [LogPosition(1)], "the body is read back");
    assert_eq!(replica.executed(), Seq(0));
    effects.clear();
    replica.step(NOW, Input::Loaded { at: LogPosition(1), record: Some(vote) }, &mut effects);
    assert_eq!(replica.executed(), Seq(1));
    (replica, effects)
}

/// The root that a correct replica signs at Seq 1.
fn right_root(cluster: &TestCluster) -> Digest {
    let (_, effects) = replay(cluster, None, |_| {});
    assert_eq!(effects.halt, None);
    let roots = effects.persist.iter().filter_map(|persist| match &persist.place {
        Place::Journal(Record::CkptVote { seq: Seq(1), root, .. }) => Some(*root),
        _ => None,
    });
    roots.last().expect("it signs the checkpoint")
}

fn flipped(digest: Digest) -> Digest {
    Digest(digest.0.map(|byte| byte ^ 1))
}

fn signs_something(effects: &Effects) -> bool {
    let signs = |message: &Message| matches!(message, Message::Checkpoint(_) | Message::Snapshot(_));
    let is_record = |place: &Place| matches!(place, Place::Journal(_));
    effects.persist.iter().any(|persist| is_record(&persist.place))
        || effects.send.iter().any(|outgoing| signs(&outgoing.message))
}

/// It is in quarantine, its superblock is to say so before anything else happens, and nothing is signed.
fn is_quarantined(replica: &Replica, effects: &Effects) -> bool {
    let [persist] = &effects.persist[..] else { return false };
    let Place::Superblock(superblock) = &persist.place else { return false };
    let is_durable = superblock.quarantined && superblock.disowned_through == Seq(1);
    is_durable && replica.quarantine().is_some() && !signs_something(effects) && effects.halt.is_none()
}

#[test]
fn k4_a_replay_that_comes_to_another_root_than_was_signed_is_not_signed_again() {
    let cluster = cluster();
    let root = right_root(&cluster);
    let signed = |root| Some(Record::CkptVote { epoch: cluster.config.epoch(), seq: Seq(1), root });
    let (_, effects) = replay(&cluster, signed(root), |_| {});
    assert_eq!(effects.halt, None, "the same again");
    assert!(effects.snapshot.is_some() && !signs_something(&effects), "what is signed is not signed twice");
    let (replica, effects) = replay(&cluster, signed(flipped(root)), |_| {});
    assert!(is_quarantined(&replica, &effects) && effects.snapshot.is_none());

    // A start later it is still there, and what it had signed it does not stand by.
    let (replica, effects) = replay(&cluster, signed(flipped(root)), |superblock| {
        (superblock.quarantined, superblock.disowned_through) = (true, Seq(1));
    });
    assert!(replica.quarantine().is_some() && effects.persist.is_empty() && !signs_something(&effects));
}

#[test]
fn k4_a_replay_that_contradicts_the_stable_checkpoint_of_the_superblock_ends_in_quarantine() {
    let cluster = cluster();
    let right = right_root(&cluster);
    let quorum: Vec<_> = (0..3).map(ReplicaId).collect();
    let start = |root| {
        let stable = bft_core::wire::message::Checkpoint { root, ..cluster.checkpoint(1, &quorum) };
        replay(&cluster, None, |superblock| superblock.stable = Some(stable))
    };
    assert!(start(right).0.quarantine().is_none());
    let (replica, effects) = start(flipped(right));
    assert!(is_quarantined(&replica, &effects));
}

#[test]
fn k4_a_snapshot_that_differs_from_the_one_that_was_signed_is_not_signed_again() {
    let cluster = cluster();
    let ours = Digest([0x51; 32]);
    let write = |root| {
        let signed = Record::SnapVote { epoch: cluster.config.epoch(), seq: Seq(1), root: ours };
        let (mut replica, mut effects) = replay(&cluster, Some(signed), |_| {});
        assert_eq!(effects.snapshot.as_ref().map(|order| order.seq), Some(Seq(1)));
        effects.clear();
        let outcome = SnapshotWritten { root, state_digest: Digest::ZERO, state_bytes: 8 };
        replica.step(NOW, Input::Snapshot { seq: Seq(1), outcome }, &mut effects);
        (replica, effects)
    };
    let (replica, same) = write(ours);
    assert!(replica.quarantine().is_none() && !signs_something(&same));
    let (replica, other) = write(flipped(ours));
    assert!(is_quarantined(&replica, &other));
    assert_eq!(other.files, [FileOrder::ReadManifest { seq: Seq(1) }], "what differs is looked for");
}
