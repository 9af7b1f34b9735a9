//! PRE-PREPARE, PREPARE and COMMIT: of whom they are, and of what.

use std::sync::Arc;

use bft_core::auth::{Rejected, Scheme};
use bft_core::ids::{Digest, Epoch, ReplicaId, Seq, Signature, View};
use bft_core::wire::canonical;
use bft_core::wire::message::{BatchHeader, Commit, Message, Position, PrePrepare, Prepare};
use bft_core::wire::request::Body;

use crate::checking::{NOBODY, check, check_from, each_change_is_refused, flip, spoil};
use crate::common::{CLUSTER, TestCluster};

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
pub fn signed_by_the_primary(cluster: &TestCluster, header: BatchHeader, body: Body) -> Message {
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
            ("epoch", Rejected::WrongEpoch, (|m| m.position.epoch = Epoch(2)) as fn(&mut Commit)),
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
