//! Primaries that keep batches coming, so that no timer expires, and do what no correct one does with Requests.

mod common;

use bft_core::auth::Scheme;
use bft_core::config::ProtocolParams;
use bft_core::door::Input;
use bft_core::ids::{Digest, ReplicaId, RequestNo, Seq, SessionId, View};
use bft_core::limits::{MILLISECOND, SECOND};
use bft_core::wire::canonical::{Tag, signing_bytes};
use bft_core::wire::message::{Message, Status};
use bft_core::wire::opening::Opening;
use bft_core::wire::request::{Body, RequestBounds, SignedRequest, encode_request};
use common::cluster::{Cluster, T0};
use common::{CLUSTER, scheme};

const PARAMS: fn() -> ProtocolParams = || ProtocolParams {
    checkpoint_interval: 8,
    window: 16,
    pipeline_max: 8,
    batch_requests_max: 4,
    ..ProtocolParams::default()
};
/// Requests that may pass one that waits: four full pipelines.
const PATIENCE: u64 = 4 * 8 * 4;

/// A cluster that has answered one operation.
fn running() -> Cluster {
    let mut cluster = Cluster::with(PARAMS());
    cluster.settle();
    submit(&mut cluster);
    cluster
}

/// One more operation, answered.
fn submit(cluster: &mut Cluster) {
    let goal = cluster.done + 1;
    cluster.submit();
    cluster.pass_until(SECOND, |cluster| cluster.done == goal);
}

/// A Request of another client, which opens a session.
fn stranger() -> SignedRequest {
    opening_of("stranger")
}

fn opening_of(client: &str) -> SignedRequest {
    let client = scheme(client);
    let sign = |digest: Digest| client.sign(&signing_bytes(Tag::Request, CLUSTER, digest));
    let opening = Opening { replaces: SessionId(0), at: Seq(0), nonce: [7; 32], certificate: None }.encode();
    let (session, req_no) = (SessionId(0), RequestNo(0));
    let bytes = encode_request(client.public_key(), session, req_no, RequestNo(0), 0, [&opening[..]].into_iter(), sign);
    SignedRequest::parse(bytes, RequestBounds::from(&PARAMS())).expect("a well-formed Request")
}

/// Gives a Request to every backup, and to nobody else.
fn give_to_backups(cluster: &mut Cluster, request: &SignedRequest) {
    let primary = cluster.primary(0);
    give(cluster, &cluster.others(&[primary]), request);
}

fn give(cluster: &mut Cluster, replicas: &[ReplicaId], request: &SignedRequest) {
    for replica in replicas {
        let (checked, refused) = cluster.verifier.check_requests(vec![request.clone()]);
        assert!(refused.is_empty());
        cluster.step(*replica, Input::Requests(checked));
    }
    cluster.settle();
}

/// One backup says that it has executed everything there can ever be.
fn boast(cluster: &mut Cluster) {
    let primary = cluster.primary(0);
    let backups = cluster.others(&[primary]);
    let (epoch, executed) = (cluster.config.epoch(), Seq(u64::MAX));
    // A window of sixteen slots is a word of each map.
    let map = || vec![0];
    let status = Status { epoch, executed, proposed: map(), prepared: map(), committed: map(), ..Status::default() };
    for backup in &backups[1..] {
        let message = cluster.verifier.check(backups[0], Message::Status(status.clone())).expect("well formed");
        cluster.step(*backup, Input::Message { from: backups[0], message });
    }
    cluster.settle();
}

fn suspicions(cluster: &Cluster) -> (u64, u64) {
    let counters = cluster.hosts.iter().map(|host| host.replica.counters());
    counters.fold((0, 0), |(passing, repeating), own| {
        (passing + own.suspected_of_passing_over, repeating + own.suspected_of_repeating)
    })
}

#[test]
fn pf2_a_primary_that_ignores_a_client_while_it_serves_others_loses_its_view() {
    let mut cluster = running();
    // What is forwarded to the primary is as good as ignored by it.
    cluster.hears = |_, _, message| !matches!(message, Message::Request(_));
    give_to_backups(&mut cluster, &stranger());
    boast(&mut cluster);
    let before = cluster.done;
    while !cluster.all_are_in(1) {
        assert!(cluster.done < 4 * PATIENCE, "it keeps its view for ever");
        submit(&mut cluster);
        cluster.pass(20 * MILLISECOND);
    }
    assert!(cluster.done - before > PATIENCE, "it had the time that a loaded primary may need");
    let (passing_over, repeating) = suspicions(&cluster);
    assert!(passing_over >= 2 && repeating == 0, "a blocking set says why: {passing_over} {repeating}");
    cluster.pass(SECOND);
    assert!(cluster.hosts.iter().all(|host| host.replica.sessions().len() == 2), "the next primary serves it");
}

#[test]
fn v14_a_request_that_waits_behind_many_others_and_is_served_costs_no_view() {
    let mut cluster = running();
    cluster.hears = |_, _, message| !matches!(message, Message::Request(_));
    give_to_backups(&mut cluster, &stranger());
    for round in 0..2 * PATIENCE {
        if round == PATIENCE / 2 {
            // A loaded primary comes to it in the end.
            cluster.hears = |_, _, _| true;
            give_to_backups(&mut cluster, &stranger());
        }
        submit(&mut cluster);
        cluster.pass(50 * MILLISECOND);
    }
    assert!(cluster.all_are_in(0));
    assert_eq!(suspicions(&cluster), (0, 0));
    assert!(cluster.hosts.iter().all(|host| host.replica.sessions().len() == 2), "it was served");
}

#[test]
fn mem1_v14_an_opening_without_room_costs_no_view_and_ends_no_session() {
    let mut cluster = Cluster::with(ProtocolParams { sessions_max: 2, ..PARAMS() }).answered_once();
    cluster.hears = |_, _, message| !matches!(message, Message::Request(_));
    give_to_backups(&mut cluster, &opening_of("who waits"));
    // The backups have room for one, the primary gives it to another.
    let primary = cluster.primary(0);
    give(&mut cluster, &[primary], &opening_of("who comes in"));
    let sessions = |cluster: &Cluster| cluster.hosts.iter().map(|host| host.replica.sessions().len()).max();
    assert_eq!(sessions(&cluster), Some(2));
    cluster.pass(20 * T0);
    assert!(cluster.all_are_in(0), "the primary was right");
    let session = cluster.client.session();
    cluster.down.push(primary);
    cluster.submit();
    cluster.pass_until(10 * SECOND, |cluster| cluster.done == 2);
    assert_eq!(cluster.client.session(), session, "the next primary does not order it either");
}

#[test]
fn pf3_a_primary_that_orders_old_requests_again_while_others_wait_loses_its_view() {
    let mut cluster = running();
    let old = captured(&mut cluster);
    cluster.pass_until(SECOND, |cluster| cluster.done == 2);
    for _ in 0..20 {
        submit(&mut cluster);
    }
    cluster.hears = |_, _, message| !matches!(message, Message::Request(_));
    give_to_backups(&mut cluster, &stranger());
    let primary = cluster.primary(0);
    cluster.down.push(primary);
    let keys = cluster.secrets();
    let first = cluster.hosts[0].replica.executed().0 + 1;
    for seq in first.. {
        assert!(seq < first + PATIENCE, "it keeps its view for ever");
        if cluster.all_are_in(1) {
            break;
        }
        // One in five is new: the progress timers never expire.
        let request = if seq % 5 == 0 { captured(&mut cluster) } else { old.clone() };
        let message = Message::PrePrepare(keys.pre_prepare(0, seq, Body::join(&[request])));
        for backup in cluster.others(&[primary]) {
            let message = cluster.verifier.check(primary, message.clone()).expect("well signed");
            cluster.step(backup, Input::Message { from: primary, message });
        }
        cluster.settle();
        cluster.pass(20 * MILLISECOND);
    }
    assert!(cluster.view(cluster.primary(1)).0 >= View(1));
    let (passing_over, repeating) = suspicions(&cluster);
    assert!(repeating >= 2 && passing_over == 0, "a blocking set says why: {passing_over} {repeating}");
}

/// The Request of the next operation, as the client sent it; it reaches the replicas too, unless they are down.
fn captured(cluster: &mut Cluster) -> SignedRequest {
    let before = cluster.asked.len();
    cluster.submit();
    let request = cluster.asked[before..].first().expect("the client sends at once");
    request.clone()
}
