//! VIEW-CHANGE and NEW-VIEW: every part is checked, and what they share is checked once.

use std::sync::Arc;

use bft_core::auth::{Rejected, Scheme, Verifier};
use bft_core::ids::{Epoch, ReplicaId, Seq, View};
use bft_core::wire::message::{Message, NewView, ViewChange};

use crate::checking::{Case, Counting, NOBODY, RELAY, check, each_change_is_refused, flip, spoil};
use crate::common::{CLUSTER, TestCluster};

/// The VIEW-CHANGE of `replica` for view 2, with what was prepared in views 0 and 1.
fn view_change(cluster: &TestCluster, replica: u16) -> ViewChange {
    let quorum: Vec<_> = (0..3).map(ReplicaId).collect();
    let prepared = |view, seq| cluster.prepared(view, seq, &cluster.body(seq), &cluster.backups(View(view))[..2]);
    let certificate = Some(cluster.checkpoint(128, &quorum));
    Arc::unwrap_or_clone(cluster.view_change(
        ReplicaId(replica),
        2,
        certificate,
        vec![prepared(0, 129), prepared(1, 131)],
    ))
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
    Arc::unwrap_or_clone(cluster.new_view(2, view_changes.into_iter().map(Arc::new).collect()))
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
        let counting = Counting::new();
        let verifier = Verifier::new(cluster.config.clone(), counting.clone());
        let view_changes = replicas.iter().map(|replica| view_change(&cluster, *replica)).collect();
        let message = Message::NewView(Arc::new(new_view(&cluster, view_changes)));
        verifier.check(RELAY, message).map(drop).expect("valid");
        counting.count()
    };
    // The NEW-VIEW, three VIEW-CHANGEs, a checkpoint of three signatures and two certificates of three.
    assert_eq!(count(&[0, 1, 3]), 1 + 3 + 3 + 2 * 3);
}
