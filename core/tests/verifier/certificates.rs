//! Certificates of what is prepared and committed, and the slots and logs that hold them.

use std::sync::Arc;

use bft_core::auth::Rejected;
use bft_core::config::ProtocolParams;
use bft_core::ids::{Digest, Epoch, ReplicaId, Seq, View};
use bft_core::limits::LOG_SLOTS_MAX;
use bft_core::wire::canonical::opening;
use bft_core::wire::message::{CommitCertificate, CommittedSlot, Message, PreparedCertificate};
use bft_core::wire::request::Body;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::checking::{Case, NOBODY, check, each_change_is_refused, first, flip, spoil};
use crate::common::{CLUSTER, TestCluster};

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
