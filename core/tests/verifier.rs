//! What comes over a link: of every message the well-formed one passes, and with any one field changed it is refused
//! for the right reason.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bft_core::auth::{Claim, Ed25519, Rejected, Scheme, Verifier};
use bft_core::config::ProtocolParams;
use bft_core::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, RequestNo, Seq, SessionId, Signature, View};
use bft_core::limits::LOG_SLOTS_MAX;
use bft_core::snapshot::{Manifest, Piece, Scalars, Section};
use bft_core::wire::canonical::{self, SigningBytes, opening};
use bft_core::wire::message::{
    BatchHeader, BatchId, Busy, Checkpoint, Chunk, ClientJoin, Code, CommitCertificate, CommittedSlot, FetchChunk,
    Message, NewView, Position, PrePrepare, Prepare, PreparedCertificate, Reply, SnapshotVote, StableSnapshot, Status,
    Trail, ViewChange,
};
use bft_core::wire::request::{Body, SignedRequest};
use bytes::Bytes;
use common::{CLUSTER, TestCluster};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Somebody who relays.
const RELAY: ReplicaId = ReplicaId(2);
const NOBODY: ReplicaId = ReplicaId(4);

/// What the cluster says to `message` from `from`; what passes is handed on unchanged.
fn check_from(cluster: &TestCluster, from: ReplicaId, message: &Message) -> Result<(), Rejected> {
    cluster.verifier().check(from, message.clone()).map(|verified| assert_eq!(*verified, *message))
}

fn check(cluster: &TestCluster, message: Message) -> Result<(), Rejected> {
    check_from(cluster, RELAY, &message)
}

/// A change of one thing, and what must become of it.
type Case<T> = (&'static str, Rejected, fn(&mut T));

/// `good` passes, and with each of the changes is refused as it says.
fn each_change_is_refused<T: Clone>(
    good: &T,
    cases: impl IntoIterator<Item = Case<T>>,
    check: impl Fn(T) -> Result<(), Rejected>,
) {
    assert_eq!(check(good.clone()), Ok(()), "unchanged");
    for (what, expected, change) in cases {
        let mut changed = good.clone();
        change(&mut changed);
        assert_eq!(check(changed), Err(expected), "{what}");
    }
}

fn flip(digest: &mut Digest) {
    digest.0[31] ^= 0x80;
}

/// Changes what is signed, and leaves `s` reduced.
fn spoil(signature: &mut Signature) {
    signature.0[32] ^= 1;
}

fn first<T>(of: &mut [T]) -> &mut T {
    &mut of[0]
}

#[test]
fn x5_verifiers_of_two_clusters_with_the_same_keys_take_nothing_from_one_another() {
    let (here, there) = (TestCluster::new(), TestCluster::named(ClusterId([2; 32])));
    let every = |cluster: &TestCluster| {
        let body = cluster.body(1);
        let (position, _) = cluster.position(0, 1, &body);
        let all: Vec<_> = cluster.config.replicas().collect();
        vec![
            Message::Request(cluster.request("ada", 1, &[b"x"])),
            Message::PrePrepare(cluster.pre_prepare(0, 1, body)),
            Message::Prepare(cluster.prepare(position, cluster.backups(View(0))[2])),
            Message::Checkpoint(cluster.checkpoint(128, &all)),
            Message::Snapshot(cluster.snapshot(128, &all)),
            Message::Slot(cluster.slot(0, 1)),
        ]
    };
    for message in every(&there) {
        assert_eq!(check(&there, message.clone()), Ok(()));
        assert!(check(&here, message.clone()).is_err(), "{message:?}");
    }
}

#[test]
fn z2_a_proposal_is_the_primarys_and_of_its_body() {
    let cluster = TestCluster::new();
    let good = cluster.pre_prepare(1, 7, cluster.body(7));
    each_change_is_refused(
        &good,
        [
            ("epoch", Rejected::WrongEpoch, (|m| m.position.epoch = Epoch(4)) as fn(&mut PrePrepare)),
            ("view: another primary", Rejected::BadSignature, |m| m.position.view = View(2)),
            ("view: the same primary", Rejected::BadSignature, |m| m.position.view = View(5)),
            ("seq", Rejected::BadSignature, |m| m.position.seq = Seq(8)),
            ("seq 0", Rejected::BadSeq, |m| m.position.seq = Seq(0)),
            ("digest", Rejected::BodyMismatch, |m| flip(&mut m.position.digest)),
            ("commitment", Rejected::BadSignature, |m| flip(&mut m.ballot.commitment)),
            ("signature", Rejected::BadSignature, |m| spoil(&mut m.ballot.signature)),
            ("no signature", Rejected::BadSignature, |m| m.ballot.signature = Signature::ZERO),
            ("time", Rejected::BodyMismatch, |m| m.header.time_ns += 1),
            ("count", Rejected::BodyMismatch, |m| m.header.count -= 1),
            ("length", Rejected::BodyMismatch, |m| m.header.body_len += 1),
            ("root", Rejected::BodyMismatch, |m| flip(&mut m.header.merkle_root)),
            ("flags", Rejected::BodyMismatch, |m| m.header.flags = 1),
            ("no body", Rejected::BodyMismatch, |m| m.body = Arc::default()),
            ("another body", Rejected::BodyMismatch, |m| m.body = Arc::new(TestCluster::new().body(8))),
        ],
        |message| check(&cluster, Message::PrePrepare(message)),
    );
    let empty = cluster.pre_prepare(1, 7, Body::default());
    assert_eq!(check(&cluster, Message::PrePrepare(empty)), Ok(()), "an empty batch");
}

/// What a primary that lies signs: `body` under `header`.
fn signed_by_the_primary(cluster: &TestCluster, header: BatchHeader, body: Body) -> Message {
    let epoch = cluster.config.epoch();
    let position = Position { epoch, view: View(0), seq: Seq(1), digest: header.digest(CLUSTER, epoch) };
    Message::PrePrepare(PrePrepare { position, ballot: cluster.proposal(&position), header, body: Arc::new(body) })
}

#[test]
fn z2_s2_a_primary_that_signs_another_header_than_its_bodys_is_refused() {
    let cluster = TestCluster::new();
    let body = cluster.body(1);
    let good = body.header(5);
    assert_eq!(check(&cluster, signed_by_the_primary(&cluster, good, body.clone())), Ok(()));
    for bad in [
        BatchHeader { count: good.count + 1, ..good },
        BatchHeader { body_len: good.body_len - 1, ..good },
        BatchHeader { merkle_root: Digest([1; 32]), ..good },
        BatchHeader { flags: 1, ..good },
        cluster.body(2).header(5),
    ] {
        let message = signed_by_the_primary(&cluster, bad, body.clone());
        assert_eq!(check(&cluster, message), Err(Rejected::BodyMismatch), "{bad:?}");
    }
}

#[test]
fn c10_one_bad_client_signature_refuses_the_batch() {
    let cluster = TestCluster::new();
    let good: Vec<_> = (1..=40).map(|req_no| cluster.request("ada", req_no, &[b"x"])).collect();
    for place in [0, 17, 39] {
        let mut requests = good.clone();
        requests[place] = with_spoiled_signature(&cluster, &requests[place]);
        let body = Body::join(&requests);
        let message = signed_by_the_primary(&cluster, body.header(5), body);
        assert_eq!(check(&cluster, message), Err(Rejected::BadSignature), "at {place}");
    }
    let body = Body::join(&good);
    assert_eq!(check(&cluster, signed_by_the_primary(&cluster, body.header(5), body)), Ok(()));
}

#[test]
fn z2_nobody_proposes_for_the_primary() {
    let cluster = TestCluster::new();
    for backup in cluster.backups(View(0)) {
        let mut message = cluster.pre_prepare(0, 1, cluster.body(1));
        let position = message.position;
        let bytes = canonical::pre_prepare(CLUSTER, &position, message.ballot.commitment);
        message.ballot.signature = cluster.scheme(backup).sign(&bytes);
        assert_eq!(check(&cluster, Message::PrePrepare(message)), Err(Rejected::BadSignature));
    }
    // Its own may be relayed by anyone.
    for from in cluster.config.replicas() {
        let message = cluster.pre_prepare(0, 1, cluster.body(1));
        assert_eq!(check_from(&cluster, from, &Message::PrePrepare(message)), Ok(()));
    }
}

type Change<'a> = dyn Fn(&mut Prepare) + 'a;

#[test]
fn z1_a_prepare_is_of_one_backup_and_one_place() {
    let cluster = TestCluster::new();
    let (position, _) = cluster.position(4, 7, &cluster.body(7));
    for backup in cluster.backups(View(4)) {
        let good = cluster.prepare(position, backup);
        let cases: [(_, _, &Change); 13] = [
            ("epoch", Rejected::WrongEpoch, &|m| m.position.epoch = Epoch(2)),
            ("view: the same primary", Rejected::BadSignature, &|m| m.position.view = View(8)),
            ("seq", Rejected::BadSignature, &|m| m.position.seq = Seq(8)),
            ("seq 0", Rejected::BadSeq, &|m| m.position.seq = Seq(0)),
            ("digest", Rejected::BadSignature, &|m| flip(&mut m.position.digest)),
            ("the primary", Rejected::WrongSender, &|m| m.replica = cluster.config.primary(View(4))),
            ("no member", Rejected::NotAMember, &|m| m.replica = NOBODY),
            ("far from a member", Rejected::NotAMember, &|m| m.replica = ReplicaId(u16::MAX)),
            ("commitment", Rejected::BadSignature, &|m| flip(&mut m.ballot.commitment)),
            ("signature", Rejected::BadSignature, &|m| spoil(&mut m.ballot.signature)),
            ("no signature", Rejected::BadSignature, &|m| m.ballot.signature = Signature::ZERO),
            ("the signature of a proposal", Rejected::BadSignature, &|m| m.ballot = cluster.proposal(&position)),
            ("another backup", Rejected::BadSignature, &|m| {
                m.replica = *cluster.backups(View(4)).iter().find(|other| **other != backup).unwrap();
            }),
        ];
        assert_eq!(check(&cluster, Message::Prepare(good)), Ok(()));
        for (what, expected, change) in cases {
            let mut changed = good;
            change(&mut changed);
            assert_eq!(check(&cluster, Message::Prepare(changed)), Err(expected), "{what} of {backup}");
        }
    }
}

#[test]
fn a1_a_commit_speaks_for_its_link_only() {
    let cluster = TestCluster::new();
    let (position, _) = cluster.position(0, 7, &cluster.body(7));
    let good = cluster.commit(position, ReplicaId(1));
    each_change_is_refused(
        &good,
        [
            (
                "epoch",
                Rejected::WrongEpoch,
                (|m| m.position.epoch = Epoch(2)) as fn(&mut bft_core::wire::message::Commit),
            ),
            ("seq 0", Rejected::BadSeq, |m| m.position.seq = Seq(0)),
            ("another replica", Rejected::WrongSender, |m| m.replica = ReplicaId(3)),
            ("no member", Rejected::WrongSender, |m| m.replica = NOBODY),
        ],
        |message| check_from(&cluster, ReplicaId(1), &Message::Commit(message)),
    );
    for from in [0, 2, 3].map(ReplicaId) {
        assert_eq!(check_from(&cluster, from, &Message::Commit(good)), Err(Rejected::WrongSender));
    }
}

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

#[test]
fn s5_a_prepared_certificate_is_a_quorum_of_distinct_members_with_its_primary() {
    let cluster = TestCluster::new();
    let verifier = cluster.verifier();
    let backups = cluster.backups(View(6));
    for chosen in [&backups[..2], &backups[1..], &backups] {
        each_change_is_refused(
            &cluster.prepared(6, 7, &cluster.body(7), chosen),
            [
                ("epoch", Rejected::WrongEpoch, (|c| c.position.epoch = Epoch(4)) as fn(&mut PreparedCertificate)),
                ("view: the same primary", Rejected::BadSignature, |c| c.position.view = View(10)),
                ("seq", Rejected::BadSignature, |c| c.position.seq = Seq(8)),
                ("seq 0", Rejected::BadSeq, |c| c.position.seq = Seq(0)),
                ("digest", Rejected::BodyMismatch, |c| flip(&mut c.position.digest)),
                ("time", Rejected::BodyMismatch, |c| c.header.time_ns += 1),
                ("count", Rejected::BodyMismatch, |c| c.header.count += 1),
                ("length", Rejected::BodyMismatch, |c| c.header.body_len += 1),
                ("root", Rejected::BodyMismatch, |c| flip(&mut c.header.merkle_root)),
                ("flags", Rejected::BodyMismatch, |c| c.header.flags = 2),
                ("the primary's commitment", Rejected::BadSignature, |c| flip(&mut c.proposal.commitment)),
                ("the primary's signature", Rejected::BadSignature, |c| spoil(&mut c.proposal.signature)),
                ("a backup's commitment", Rejected::BadSignature, |c| flip(&mut first(&mut c.prepares).1.commitment)),
                ("a backup's signature", Rejected::BadSignature, |c| spoil(&mut first(&mut c.prepares).1.signature)),
                ("signers exchanged", Rejected::BadSignature, |c| {
                    (c.prepares[0].1, c.prepares[1].1) = (c.prepares[1].1, c.prepares[0].1);
                }),
                ("too few", Rejected::NoQuorum, |c| c.prepares.truncate(1)),
                ("none", Rejected::NoQuorum, |c| c.prepares.clear()),
                ("one twice", Rejected::NotAMember, |c| c.prepares[1] = c.prepares[0]),
                ("out of order", Rejected::NotAMember, |c| c.prepares.swap(0, 1)),
                ("no member", Rejected::NotAMember, |c| c.prepares.last_mut().unwrap().0 = NOBODY),
            ],
            |certificate| verifier.prepared(&certificate),
        );
        let mut with_primary = cluster.prepared(6, 7, &cluster.body(7), chosen);
        let primary = cluster.config.primary(View(6));
        with_primary.prepares[0] = (primary, cluster.ballot(&with_primary.position, primary));
        with_primary.prepares.sort_by_key(|(replica, _)| *replica);
        assert_eq!(verifier.prepared(&with_primary), Err(Rejected::NotAMember), "the primary as a backup");
    }
}

/// Everything that may be wrong with a commit certificate.
fn commit_certificate_cases() -> Vec<Case<CommitCertificate>> {
    vec![
        ("epoch", Rejected::WrongEpoch, |c| c.position.epoch = Epoch(4)),
        ("view: the same primary", Rejected::BadSignature, |c| c.position.view = View(10)),
        ("seq", Rejected::BadSignature, |c| c.position.seq = Seq(8)),
        ("seq 0", Rejected::BadSeq, |c| c.position.seq = Seq(0)),
        ("digest", Rejected::BodyMismatch, |c| flip(&mut c.position.digest)),
        ("time", Rejected::BodyMismatch, |c| c.header.time_ns += 1),
        ("flags", Rejected::BodyMismatch, |c| c.header.flags = 2),
        ("root", Rejected::BodyMismatch, |c| flip(&mut c.header.merkle_root)),
        ("the primary's commitment", Rejected::BadOpening, |c| flip(&mut c.proposal.commitment)),
        ("the primary's signature", Rejected::BadSignature, |c| spoil(&mut c.proposal.signature)),
        ("the primary's opening", Rejected::BadOpening, |c| flip(c.opening.as_mut().unwrap())),
        ("a forged commitment and opening of the primary", Rejected::BadSignature, |c| {
            c.opening = Some(Digest([1; 32]));
            c.proposal.commitment = opening(&Digest([1; 32]));
        }),
        ("a backup's commitment", Rejected::BadOpening, |c| flip(&mut first(&mut c.commits).1.commitment)),
        ("a backup's signature", Rejected::BadSignature, |c| spoil(&mut first(&mut c.commits).1.signature)),
        ("a backup's opening", Rejected::BadOpening, |c| flip(&mut first(&mut c.commits).2)),
        ("a forged commitment and opening of a backup", Rejected::BadSignature, |c| {
            c.commits[0].2 = Digest([1; 32]);
            c.commits[0].1.commitment = opening(&Digest([1; 32]));
        }),
        ("openings exchanged", Rejected::BadOpening, |c| {
            (c.commits[0].2, c.commits[1].2) = (c.commits[1].2, c.commits[0].2);
        }),
        ("signers exchanged", Rejected::BadSignature, |c| {
            let (zero, one) = (c.commits[0], c.commits[1]);
            c.commits[0] = (zero.0, one.1, one.2);
            c.commits[1] = (one.0, zero.1, zero.2);
        }),
        ("too few", Rejected::NoQuorum, |c| c.commits.truncate(1)),
        ("the primary alone", Rejected::NoQuorum, |c| c.commits.clear()),
        ("one twice", Rejected::NotAMember, |c| c.commits[1] = c.commits[0]),
        ("out of order", Rejected::NotAMember, |c| c.commits.swap(0, 1)),
        ("no member", Rejected::NotAMember, |c| c.commits.last_mut().unwrap().0 = NOBODY),
    ]
}

#[test]
fn z3_a_commit_certificate_is_a_quorum_of_openings() {
    let cluster = TestCluster::new();
    let verifier = cluster.verifier();
    let backups = cluster.backups(View(6));
    for chosen in [&backups[..2], &backups[1..], &backups] {
        let good = cluster.committed(6, 7, &cluster.body(7), chosen);
        each_change_is_refused(&good, commit_certificate_cases(), |certificate| verifier.committed(&certificate));

        let without_primary = CommitCertificate { opening: None, ..good.clone() };
        let expected = if chosen.len() == 3 { Ok(()) } else { Err(Rejected::NoQuorum) };
        assert_eq!(verifier.committed(&without_primary), expected, "the primary counts only if it opened");

        let mut with_primary = good;
        let primary = cluster.config.primary(View(6));
        let at = with_primary.position;
        with_primary.commits[0] = (primary, cluster.ballot(&at, primary), cluster.nonce(primary, &at));
        with_primary.commits.sort_by_key(|(replica, _, _)| *replica);
        assert_eq!(verifier.committed(&with_primary), Err(Rejected::NotAMember), "the primary as a backup");
    }
}

#[test]
fn s11_certificates_are_weighed() {
    let cluster = TestCluster::with(CLUSTER, &[4, 1, 1, 1, 1, 1, 1], ProtocolParams::default());
    let verifier = cluster.verifier();
    let heavy = ReplicaId(0);
    // Total 10, F = 3: a quorum weighs 7 or more.
    for view in 0..7 {
        let light: Vec<_> = cluster.backups(View(view)).into_iter().filter(|replica| *replica != heavy).collect();
        let (primary_weighs, with_heavy) = match cluster.config.primary(View(view)) == heavy {
            true => (4, light[..3].to_vec()),
            false => (1, [&[heavy], &light[..2]].concat()),
        };
        assert_eq!(verifier.prepared(&cluster.prepared(view, 1, &cluster.body(1), &with_heavy)), Ok(()));
        let lacking = &with_heavy[..with_heavy.len() - 1];
        let lacking = cluster.prepared(view, 1, &cluster.body(1), lacking);
        assert_eq!(verifier.prepared(&lacking), Err(Rejected::NoQuorum));
        let expected = if primary_weighs + light.len() >= 7 { Ok(()) } else { Err(Rejected::NoQuorum) };
        assert_eq!(verifier.committed(&cluster.committed(view, 1, &cluster.body(1), &light)), expected);
    }
}

#[test]
fn a_slot_is_a_certificate_and_its_body() {
    let cluster = TestCluster::new();
    let good = cluster.slot(6, 7);
    each_change_is_refused(
        &good,
        [
            ("no body", Rejected::BodyMismatch, (|s| s.body = Arc::default()) as fn(&mut CommittedSlot)),
            ("another body", Rejected::BodyMismatch, |s| s.body = Arc::new(TestCluster::new().body(8))),
        ],
        |slot| check(&cluster, Message::Slot(slot)),
    );
    each_change_is_refused(&*good.certificate, commit_certificate_cases(), |certificate| {
        let certificate = Arc::new(certificate);
        check(&cluster, Message::Slot(CommittedSlot { certificate, body: good.body.clone() }))
    });
}

#[test]
fn t1_a_log_has_no_gap_and_no_bad_slot_anywhere() {
    let cluster = TestCluster::new();
    let good: Vec<_> = (5..17).map(|seq| cluster.slot(seq % 3, seq)).collect();
    let log = |slots: Vec<CommittedSlot>| check(&cluster, Message::Log(slots));
    assert_eq!(log(good.clone()), Ok(()));
    assert_eq!(log(vec![]), Ok(()), "nothing to tell");
    each_change_is_refused(
        &good,
        [
            (
                "a gap",
                Rejected::BadSeq,
                (|slots| {
                    slots.remove(3);
                }) as fn(&mut Vec<CommittedSlot>),
            ),
            ("one twice", Rejected::BadSeq, |slots| slots[4] = slots[3].clone()),
            ("backwards", Rejected::BadSeq, |slots| slots.reverse()),
            ("too many", Rejected::BadSeq, |slots| {
                let slot = slots[0].clone();
                slots.resize(LOG_SLOTS_MAX + 1, slot);
            }),
        ],
        log,
    );
    for place in 0..good.len() {
        let mut slots = good.clone();
        spoil(&mut Arc::make_mut(&mut slots[place].certificate).commits[2].1.signature);
        assert_eq!(log(slots), Err(Rejected::BadSignature), "slot {place}");
        let mut slots = good.clone();
        slots[place].body = Arc::default();
        assert_eq!(log(slots), Err(Rejected::BodyMismatch), "slot {place}");
    }
    let mut endless = vec![good[0].clone(), good[0].clone()];
    for slot in &mut endless {
        Arc::make_mut(&mut slot.certificate).position.seq = Seq(u64::MAX);
    }
    assert_eq!(log(endless), Err(Rejected::BadSeq), "nothing comes after the last Seq");
}

#[test]
fn a_status_has_maps_of_the_window_and_no_more() {
    let cluster = TestCluster::new();
    let words = cluster.config.params().window as usize / 64;
    let map = vec![u64::MAX; words];
    let good = Status { proposed: map.clone(), prepared: map.clone(), committed: map, ..Status::default() };
    each_change_is_refused(
        &good,
        [
            ("a short map", Rejected::BadMap, (|s| s.proposed.truncate(1)) as fn(&mut Status)),
            ("a long map", Rejected::BadMap, |s| s.prepared.push(0)),
            ("no map", Rejected::BadMap, |s| s.committed.clear()),
        ],
        |status| check(&cluster, Message::Status(status)),
    );
    let params = ProtocolParams {
        checkpoint_interval: 8,
        window: 16,
        pipeline_max: 16,
        snapshot_slots: 64,
        ..ProtocolParams::default()
    };
    let small = TestCluster::with(CLUSTER, &[1; 4], params);
    let status = |bits| Status { proposed: vec![0], prepared: vec![0], committed: vec![bits], ..Status::default() };
    assert_eq!(check(&small, Message::Status(status(0xffff))), Ok(()));
    assert_eq!(check(&small, Message::Status(status(0x1_0000))), Err(Rejected::BadMap), "beyond the window");
}

/// `request` with another signature.
fn with_spoiled_signature(cluster: &TestCluster, request: &SignedRequest) -> SignedRequest {
    let mut bytes = request.bytes.to_vec();
    let s = bytes.len() - 32;
    bytes[s] ^= 1;
    SignedRequest::parse(Bytes::from(bytes), cluster.bounds()).unwrap()
}

#[test]
fn a_request_is_its_clients_in_every_bit() {
    let cluster = TestCluster::new();
    let good = cluster.request("ada", 3, &[b"operation", b"another"]);
    assert_eq!(check(&cluster, Message::Request(good.clone())), Ok(()), "whoever forwards it");
    let mut refused = 0;
    for bit in 0..good.bytes.len() * 8 {
        let mut bytes = good.bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // Lengths and flags that mean nothing are refused before.
        let Ok(changed) = SignedRequest::parse(Bytes::from(bytes), cluster.bounds()) else { continue };
        assert_eq!(check(&cluster, Message::Request(changed)), Err(Rejected::BadSignature), "bit {bit}");
        refused += 1;
    }
    assert!(refused > (32 + 8 + 8 + 8 + 64) * 8, "every fixed field at least");
}

#[test]
fn many_requests_are_told_apart() {
    let cluster = TestCluster::new();
    let mut requests: Vec<_> = (1..=50).map(|req_no| cluster.request("ada", req_no, &[b"x"])).collect();
    let bad = [0, 9, 10, 49];
    for index in bad {
        requests[index] = with_spoiled_signature(&cluster, &requests[index]);
    }
    let (kept, refused) = cluster.verifier().check_requests(requests.clone());
    assert_eq!(refused, bad);
    let expected: Vec<_> = (0..50).filter(|index| !bad.contains(index)).map(|index| requests[index].clone()).collect();
    assert_eq!(*kept, expected);
    let (kept, refused) = cluster.verifier().check_requests(vec![]);
    assert!(kept.is_empty() && refused.is_empty());
}

#[test]
fn what_a_replica_may_not_send_is_refused_and_what_needs_no_check_passes() {
    let cluster = TestCluster::new();
    let reply = Reply {
        epoch: Epoch(3),
        session: SessionId(1),
        req_no: RequestNo(1),
        seq: Seq(1),
        code: Code::Ok,
        digest: Digest::ZERO,
        results: None,
    };
    let join = ClientJoin { public_key: cluster.authority.public_key(), certificate: None, signature: Signature::ZERO };
    for message in [
        Message::Reply(reply),
        Message::Busy(Busy { request: Digest::ZERO, retry_after_ms: 1 }),
        Message::InfoQuery { want_digest: true },
        Message::Info(Box::default()),
        Message::ClientJoin(join),
    ] {
        assert_eq!(check(&cluster, message), Err(Rejected::NotAllowed));
    }
    let batch = BatchId { seq: Seq(1), digest: Digest::ZERO };
    let piece = Piece { section: Section::State, index: u32::MAX };
    for message in [
        Message::FetchSlot(Seq(1)),
        Message::FetchLog(Seq(1)),
        Message::FetchBody(batch),
        Message::FetchManifest(Seq(1)),
        Message::FetchChunk(FetchChunk { seq: Seq(1), piece }),
        Message::Chunk(Chunk { seq: Seq(1), piece, bytes: None }),
        Message::FetchTrail(Seq(1)),
        Message::Trail(Trail { seq: Seq(1), chain: Digest::ZERO, exec_before: Digest::ZERO, steps: Vec::new() }),
    ] {
        assert_eq!(check(&cluster, message), Ok(()));
    }
}

/// The VIEW-CHANGE of `replica` for view 2, with what was prepared in views 0 and 1.
fn view_change(cluster: &TestCluster, replica: u16) -> ViewChange {
    let quorum: Vec<_> = (0..3).map(ReplicaId).collect();
    let prepared = |view, seq| cluster.prepared(view, seq, &cluster.body(seq), &cluster.backups(View(view))[..2]);
    let message = ViewChange {
        epoch: cluster.config.epoch(),
        view: View(2),
        replica: ReplicaId(replica),
        certificate: Some(cluster.checkpoint(128, &quorum)),
        prepared: vec![prepared(0, 129), prepared(1, 131)],
        signature: Signature::ZERO,
    };
    signed_by(cluster, message)
}

fn signed_by(cluster: &TestCluster, mut message: ViewChange) -> ViewChange {
    let signer = cluster.config.member(message.replica).map_or(ReplicaId(0), |_| message.replica);
    message.signature = cluster.scheme(signer).sign(&message.signing_bytes(CLUSTER));
    message
}

/// All the same signed anew: what is wrong is not only the signature.
#[test]
fn z4_v1_every_part_of_a_view_change_is_checked() {
    let cluster = TestCluster::new();
    let cases: [Case<ViewChange>; 11] = [
        ("another Epoch", Rejected::WrongEpoch, |message| message.epoch = Epoch(4)),
        ("view 0", Rejected::BadView, |message| message.view = View(0)),
        ("nobody's", Rejected::NotAMember, |message| message.replica = NOBODY),
        ("a checkpoint without a quorum", Rejected::NoQuorum, |message| {
            message.certificate.as_mut().unwrap().signatures.pop();
        }),
        ("a checkpoint with a wrong root", Rejected::BadSignature, |message| {
            flip(&mut message.certificate.as_mut().unwrap().root);
        }),
        ("no checkpoint for what lies above one", Rejected::BadSeq, |message| {
            message.certificate = None;
            message.prepared[1].position.seq = Seq(257);
        }),
        ("one Seq twice", Rejected::BadSeq, |message| message.prepared[1] = message.prepared[0].clone()),
        ("below the checkpoint", Rejected::BadSeq, |message| message.prepared[0].position.seq = Seq(128)),
        ("of the view itself", Rejected::BadView, |message| message.prepared[1].position.view = View(2)),
        ("without a quorum", Rejected::NoQuorum, |message| {
            message.prepared[0].prepares.pop();
        }),
        ("with a vote for something else", Rejected::BadSignature, |message| {
            message.prepared[0].prepares[1].1 = message.prepared[1].prepares[0].1;
        }),
    ];
    each_change_is_refused(&view_change(&cluster, 3), cases, |message| {
        check(&cluster, Message::ViewChange(Arc::new(signed_by(&cluster, message))))
    });
    let mut forged = view_change(&cluster, 3);
    spoil(&mut forged.signature);
    assert_eq!(check(&cluster, Message::ViewChange(Arc::new(forged))), Err(Rejected::BadSignature));
}

fn new_view(cluster: &TestCluster, view_changes: Vec<ViewChange>) -> NewView {
    let view_changes = view_changes.into_iter().map(Arc::new).collect();
    let (epoch, view) = (cluster.config.epoch(), View(2));
    let mut message = NewView { epoch, view, view_changes, signature: Signature::ZERO };
    message.signature = cluster.scheme(cluster.config.primary(view)).sign(&message.signing_bytes(CLUSTER));
    message
}

#[test]
fn v1_a_new_view_holds_valid_view_changes_of_a_minimal_quorum() {
    let cluster = TestCluster::new();
    let of = |replicas: &[u16]| replicas.iter().map(|replica| view_change(&cluster, *replica)).collect::<Vec<_>>();
    let verdict = |message| check(&cluster, Message::NewView(Arc::new(message)));
    assert_eq!(verdict(new_view(&cluster, of(&[0, 1, 3]))), Ok(()));
    assert_eq!(verdict(new_view(&cluster, of(&[0, 1]))), Err(Rejected::NoQuorum));
    assert_eq!(verdict(new_view(&cluster, of(&[0, 1, 2, 3]))), Err(Rejected::NoQuorum), "one could be left out");
    assert_eq!(verdict(new_view(&cluster, of(&[1, 0, 3]))), Err(Rejected::NotAMember), "unsorted");
    assert_eq!(verdict(new_view(&cluster, of(&[0, 0, 3]))), Err(Rejected::NotAMember), "one twice");
    let mut other = of(&[0, 1, 3]);
    other[1] = signed_by(&cluster, ViewChange { view: View(3), ..other[1].clone() });
    assert_eq!(verdict(new_view(&cluster, other)), Err(Rejected::BadView));
    let mut forged = of(&[0, 1, 3]);
    spoil(&mut forged[2].signature);
    assert_eq!(verdict(new_view(&cluster, forged)), Err(Rejected::BadSignature));
    let mut by_another = new_view(&cluster, of(&[0, 1, 3]));
    let backup = cluster.backups(View(2))[0];
    by_another.signature = cluster.scheme(backup).sign(&by_another.signing_bytes(CLUSTER));
    assert_eq!(verdict(by_another), Err(Rejected::BadSignature));
}

#[test]
fn v15_what_view_changes_share_is_checked_once() {
    let cluster = TestCluster::new();
    let count = |replicas: &[u16]| {
        let counting = Arc::new(Counting(common::scheme("verifier"), AtomicUsize::new(0)));
        let verifier = Verifier::new(cluster.config.clone(), counting.clone());
        let view_changes = replicas.iter().map(|replica| view_change(&cluster, *replica)).collect();
        let message = Message::NewView(Arc::new(new_view(&cluster, view_changes)));
        verifier.check(RELAY, message).map(drop).expect("valid");
        counting.1.load(Ordering::Relaxed)
    };
    // The NEW-VIEW, three VIEW-CHANGEs, a checkpoint of three signatures and two certificates of three.
    assert_eq!(count(&[0, 1, 3]), 1 + 3 + 3 + 2 * 3);
}

/// Every byte of `certificate` that is a digest, a nonce or a signature.
fn bytes_of(certificate: &mut CommitCertificate) -> Vec<&mut u8> {
    let CommitCertificate { position, header, proposal, opening, commits } = certificate;
    let mut bytes: Vec<&mut u8> = Vec::new();
    bytes.extend(position.digest.0.iter_mut().chain(&mut header.merkle_root.0));
    bytes.extend(proposal.commitment.0.iter_mut().chain(&mut proposal.signature.0));
    bytes.extend(opening.iter_mut().flat_map(|nonce| &mut nonce.0));
    for (_, ballot, nonce) in commits {
        bytes.extend(ballot.commitment.0.iter_mut().chain(&mut ballot.signature.0).chain(&mut nonce.0));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn z12_no_certificate_survives_a_flipped_bit(at: prop::sample::Index, bit in 0u8..8) {
        let cluster = TestCluster::new();
        let mut certificate = cluster.committed(1, 7, &Body::default(), &cluster.backups(View(1)));
        let mut bytes = bytes_of(&mut certificate);
        let at = at.index(bytes.len());
        *bytes[at] ^= 1 << bit;
        prop_assert!(cluster.verifier().committed(&certificate).is_err(), "byte {}", at);
    }
}

/// A scheme that counts what it is asked to check.
struct Counting(Ed25519, AtomicUsize);

impl Scheme for Counting {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn sign(&self, bytes: &SigningBytes) -> Signature {
        self.0.sign(bytes)
    }

    fn verify(&self, claim: &Claim) -> bool {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.verify(claim)
    }

    fn commit_secret(&self) -> Digest {
        self.0.commit_secret()
    }
}

#[test]
fn what_a_client_sent_here_is_not_checked_again_in_a_batch() {
    let cluster = TestCluster::new();
    let scheme = Arc::new(Counting(common::scheme("verifier"), AtomicUsize::new(0)));
    let verifier = Verifier::new(Arc::clone(&cluster.config), scheme.clone());
    let checked = |act: &dyn Fn()| {
        let before = scheme.1.load(Ordering::Relaxed);
        act();
        scheme.1.load(Ordering::Relaxed) - before
    };
    let requests = ["ada", "bob"].map(|client| cluster.request(client, 1, &[b"op"]));
    let body = Body::join(&[requests[0].clone(), requests[1].clone(), cluster.request("cyd", 1, &[b"op"])]);
    let pre_prepare = Message::PrePrepare(cluster.pre_prepare(0, 1, body));
    let primary = cluster.config.primary(View(0));
    let take = || assert_eq!(verifier.check_requests(requests.to_vec()).1, [] as [usize; 0]);
    let accept = || assert!(verifier.clone().check(primary, pre_prepare.clone()).is_ok());
    let [ada, bob] = requests.clone();
    let twice = vec![ada.clone(), bob.clone(), ada.clone(), ada.clone()];
    let take_twice = || {
        let (valid, refused) = verifier.check_requests(twice.clone());
        assert!(refused.is_empty() && *valid == twice, "each has the verdict of the one that was checked");
    };
    assert_eq!(checked(&take_twice), 2, "the same one once");
    assert!(verifier.knows(&ada) && verifier.knows(&bob));
    assert_eq!(checked(&take), 0);
    assert_eq!(checked(&accept), 2, "the proposal and the third Request");
    assert_eq!(checked(&take), 0, "the client sends again");
    assert_eq!(checked(&accept), 1, "the proposal, always");
}

#[test]
fn c9_c15_a_known_request_beside_another_signature_is_refused_by_whoever_sees_it() {
    let cluster = TestCluster::new();
    let primary = cluster.config.primary(View(0));
    let good = cluster.request("ada", 1, &[b"op"]);
    let mut bytes = good.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let bad = SignedRequest::parse(bytes.into(), cluster.bounds()).unwrap();
    assert_eq!(good.entry.digest, bad.entry.digest, "one identity, two signatures");
    let batch = |request: &SignedRequest| {
        let body = Body::join(&[cluster.request("bob", 1, &[b"op"]), request.clone()]);
        Message::PrePrepare(cluster.pre_prepare(0, 1, body))
    };
    // Whatever a replica saw before, its verdicts are those of one that saw nothing.
    for saw in [vec![], vec![&good], vec![&bad], vec![&good, &bad], vec![&bad, &good]] {
        let verifier = cluster.verifier();
        for request in saw {
            let (_, refused) = verifier.check_requests(vec![request.clone()]);
            assert_eq!(refused.is_empty(), std::ptr::eq(request, &good));
        }
        assert_eq!(verifier.check(primary, batch(&bad)).map(drop), Err(Rejected::BadSignature));
        assert!(verifier.check(primary, batch(&good)).is_ok());
        assert_eq!(verifier.check(primary, batch(&bad)).map(drop), Err(Rejected::BadSignature));
    }
}
