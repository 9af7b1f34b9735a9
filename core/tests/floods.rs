//! Peers that say more than they have to, so that the others work for nothing.

mod common;

use bft_core::door::Input;
use bft_core::ids::ReplicaId;
use bft_core::limits::{SECOND, STATUS_INTERVAL_BUSY};
use bft_core::wire::message::{Kind, Message, Status};
use common::cluster::Cluster;

/// `peer` says to `to` that it has nothing.
fn beg(cluster: &mut Cluster, peer: ReplicaId, to: ReplicaId) {
    // A window of sixteen slots is a word of each map.
    let map = || vec![0];
    let epoch = cluster.config.epoch();
    let status = Status { epoch, proposed: map(), prepared: map(), committed: map(), ..Status::default() };
    let message = cluster.verifier.check(peer, Message::Status(status)).expect("well formed");
    cluster.step(to, Input::Message { from: peer, message });
}

#[test]
fn pf4_a_peer_that_says_again_and_again_what_it_lacks_gets_it_once_in_an_interval() {
    let mut cluster = Cluster::new();
    cluster.settle();
    for goal in 1..=3 {
        cluster.submit();
        cluster.pass_until(SECOND, |cluster| cluster.done == goal);
    }
    cluster.pass(3 * SECOND);
    // What they truly say would count as well.
    cluster.hears = |_, _, message| message.kind() != Kind::Status;
    let backups = cluster.others(&[cluster.primary(0)]);
    let given = |cluster: &mut Cluster, peer: ReplicaId, times: usize| {
        cluster.pass(STATUS_INTERVAL_BUSY);
        let before = cluster.sent_of(Kind::Commit).count();
        (0..times).for_each(|_| beg(cluster, peer, backups[0]));
        cluster.sent_of(Kind::Commit).count() - before
    };
    let slots = given(&mut cluster, backups[1], 1);
    assert!(slots >= 3, "{slots}");
    assert_eq!(given(&mut cluster, backups[1], 20), slots, "as much as if it had said so once");
    assert_eq!(given(&mut cluster, backups[1], 1), slots, "an interval later it gets it again: it may have been lost");
    assert_eq!(given(&mut cluster, backups[2], 2), slots, "and so does another");
}
