//! CHECKPOINTs and snapshots: of members each once, and a manifest with a quorum over its root.

use std::sync::Arc;

use bft_core::auth::{Rejected, Scheme};
use bft_core::ids::{Epoch, ReplicaId, Seq, Signature};
use bft_core::snapshot::{Manifest, Scalars};
use bft_core::wire::canonical;
use bft_core::wire::message::{Checkpoint, Message, SnapshotVote, StableSnapshot};

use crate::checking::{NOBODY, check, each_change_is_refused, first, flip, spoil};
use crate::common::TestCluster;

#[test]
fn a_checkpoint_is_of_members_each_once_and_at_its_interval() {
    let cluster = TestCluster::new();
    let all: Vec<_> = cluster.config.replicas().collect();
    for signers in [&all[..1], &all[3..], &all[..3], &all] {
        each_change_is_refused(
            &cluster.checkpoint(256, signers),
            [
                ("epoch", Rejected::WrongEpoch, (|m| m.epoch = Epoch(4)) as fn(&mut Checkpoint)),
                ("no checkpoint", Rejected::BadSeq, |m| m.seq = Seq(255)),
                ("seq 0", Rejected::BadSeq, |m| m.seq = Seq(0)),
                ("another checkpoint", Rejected::BadSignature, |m| m.seq = Seq(128)),
                ("root", Rejected::BadSignature, |m| flip(&mut m.root)),
                ("end of the Epoch", Rejected::BadSeq, |m| m.epoch_end = Seq(384)),
                ("signature", Rejected::BadSignature, |m| spoil(&mut first(&mut m.signatures).1)),
                ("no signature", Rejected::NoQuorum, |m| m.signatures.clear()),
                ("no member", Rejected::NotAMember, |m| m.signatures.last_mut().unwrap().0 = NOBODY),
                ("twice", Rejected::NotAMember, |m| m.signatures.insert(0, m.signatures[0])),
                ("out of order", Rejected::NotAMember, |m| m.signatures.push((ReplicaId(0), Signature::ZERO))),
            ],
            |message| check(&cluster, Message::Checkpoint(message)),
        );
    }
    let mut swapped = cluster.checkpoint(256, &all);
    let (one, two) = (swapped.signatures[1].1, swapped.signatures[2].1);
    (swapped.signatures[1].1, swapped.signatures[2].1) = (two, one);
    assert_eq!(check(&cluster, Message::Checkpoint(swapped)), Err(Rejected::BadSignature), "signers exchanged");
}

#[test]
fn a_checkpoint_signed_over_the_end_of_an_epoch_that_does_not_end_spoils_no_certificate() {
    let cluster = TestCluster::new();
    let (signer, seq, epoch_end) = (ReplicaId(1), Seq(256), Seq(384));
    let mut vote = cluster.checkpoint(seq.0, &[signer]);
    let bytes = canonical::checkpoint(cluster.config.cluster_id(), vote.epoch, seq, vote.root, epoch_end, signer);
    (vote.epoch_end, vote.signatures[0].1) = (epoch_end, cluster.scheme(signer).sign(&bytes));
    assert_eq!(check(&cluster, Message::Checkpoint(vote)), Err(Rejected::BadSeq));
}

#[test]
fn a_snapshot_is_of_members_each_once_and_at_a_checkpoint() {
    let cluster = TestCluster::new();
    let all: Vec<_> = cluster.config.replicas().collect();
    for signers in [&all[..1], &all[3..], &all[..3], &all] {
        each_change_is_refused(
            &cluster.snapshot(256, signers),
            [
                ("epoch", Rejected::WrongEpoch, (|m| m.epoch = Epoch(4)) as fn(&mut SnapshotVote)),
                ("no checkpoint", Rejected::BadSeq, |m| m.seq = Seq(255)),
                ("seq 0", Rejected::BadSeq, |m| m.seq = Seq(0)),
                ("another checkpoint", Rejected::BadSignature, |m| m.seq = Seq(128)),
                ("root", Rejected::BadSignature, |m| flip(&mut m.root)),
                ("signature", Rejected::BadSignature, |m| spoil(&mut first(&mut m.signatures).1)),
                ("no signature", Rejected::NoQuorum, |m| m.signatures.clear()),
                ("no member", Rejected::NotAMember, |m| m.signatures.last_mut().unwrap().0 = NOBODY),
                ("twice", Rejected::NotAMember, |m| m.signatures.insert(0, m.signatures[0])),
                ("out of order", Rejected::NotAMember, |m| m.signatures.push((ReplicaId(0), Signature::ZERO))),
            ],
            |message| check(&cluster, Message::Snapshot(message)),
        );
    }
}

#[test]
fn t1_a_manifest_passes_only_with_a_quorum_over_its_root() {
    let cluster = TestCluster::new();
    let all: Vec<_> = cluster.config.replicas().collect();
    let mut manifest = Manifest::new(Scalars { seq: Seq(256), ..Scalars::default() });
    manifest.add_chunk(b"state");
    manifest.add_clients(b"clients");
    for signers in [&all[1..], &all] {
        let good = StableSnapshot {
            certificate: cluster.snapshot_of(256, manifest.root(), signers),
            manifest: Arc::new(manifest.clone()),
        };
        each_change_is_refused(
            &good,
            [
                ("epoch", Rejected::WrongEpoch, (|m| m.certificate.epoch = Epoch(4)) as fn(&mut StableSnapshot)),
                ("no checkpoint", Rejected::BadSeq, |m| m.certificate.seq = Seq(255)),
                ("another checkpoint", Rejected::BadSignature, |m| m.certificate.seq = Seq(128)),
                ("root", Rejected::BadSignature, |m| flip(&mut m.certificate.root)),
                ("signature", Rejected::BadSignature, |m| spoil(&mut first(&mut m.certificate.signatures).1)),
                ("a blocking set", Rejected::NoQuorum, |m| m.certificate.signatures.truncate(2)),
                ("twice", Rejected::NotAMember, |m| m.certificate.signatures[1] = m.certificate.signatures[0]),
                ("its seq", Rejected::ManifestMismatch, |m| Arc::make_mut(&mut m.manifest).scalars.seq = Seq(128)),
                ("time", Rejected::ManifestMismatch, |m| Arc::make_mut(&mut m.manifest).scalars.time_ns += 1),
                ("a chunk", Rejected::ManifestMismatch, |m| flip(&mut Arc::make_mut(&mut m.manifest).state[0].1)),
                ("clients", Rejected::ManifestMismatch, |m| flip(&mut Arc::make_mut(&mut m.manifest).clients[0].1)),
                ("one more", Rejected::ManifestMismatch, |m| Arc::make_mut(&mut m.manifest).add_chunk(b"")),
            ],
            |message| check(&cluster, Message::Manifest(message)),
        );
    }
}

#[test]
fn a_checkpoint_is_no_snapshot() {
    let cluster = TestCluster::new();
    let all: Vec<_> = cluster.config.replicas().collect();
    let Checkpoint { epoch, seq, root, signatures, .. } = cluster.checkpoint(256, &all);
    let shown = SnapshotVote { epoch, seq, root, signatures };
    assert_eq!(check(&cluster, Message::Snapshot(shown)), Err(Rejected::BadSignature));
}
