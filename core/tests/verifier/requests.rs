//! Requests of clients, by themselves and in a batch: each is its client's in every bit, and is checked once.

use std::sync::Arc;

use bft_core::auth::{Rejected, Scheme, Verifier};
use bft_core::ids::{RequestNo, SessionId, Signature, View};
use bft_core::limits::REQUESTS_KNOWN_MAX;
use bft_core::wire::message::Message;
use bft_core::wire::request::{Body, SignedRequest, encode_request};
use bytes::Bytes;

use crate::checking::{Counting, check};
use crate::common::TestCluster;
use crate::votes::signed_by_the_primary;

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
fn what_a_client_sent_here_is_not_checked_again_in_a_batch() {
    let cluster = TestCluster::new();
    let scheme = Counting::new();
    let verifier = Verifier::new(Arc::clone(&cluster.config), scheme.clone());
    let checked = |act: &dyn Fn()| {
        let before = scheme.count();
        act();
        scheme.count() - before
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

/// A view begins with what former ones left open, and has no time to check thousands of signatures once more.
#[test]
fn v8_a_batch_that_was_found_valid_is_not_checked_again_in_the_next_view_whatever_came_since() {
    let cluster = TestCluster::new();
    let scheme = Counting::credulous();
    let verifier = Verifier::new(Arc::clone(&cluster.config), scheme.clone());
    let unsigned = |req_no: u64| {
        let (key, session, req_no, ack) = (scheme.public_key(), SessionId(9), RequestNo(req_no), RequestNo(req_no - 1));
        let bytes = encode_request(key, session, req_no, ack, 0, [&b"op"[..]].into_iter(), |_| Signature([7; 64]));
        SignedRequest::parse(bytes, cluster.bounds()).unwrap()
    };
    let batch: Vec<_> = (1..=16).map(unsigned).collect();
    let propose = |view: u64, batch: &[SignedRequest]| {
        let before = scheme.count();
        let proposal = Message::PrePrepare(cluster.pre_prepare(view, 1, Body::join(batch)));
        assert!(verifier.check(cluster.config.primary(View(view)), proposal).is_ok());
        scheme.count() - before
    };
    assert_eq!(propose(0, &batch), 17, "the proposal, and every Request");
    let since: Vec<_> = (100..100 + 2 * REQUESTS_KNOWN_MAX as u64).map(unsigned).collect();
    assert!(verifier.check_requests(since).1.is_empty());
    assert!(batch.iter().any(|request| !verifier.knows(request)), "the Requests are forgotten");
    assert_eq!(propose(1, &batch), 1, "the proposal");
    assert!(propose(1, &batch[..15]) > 1, "another batch of the same Requests is not known");
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
