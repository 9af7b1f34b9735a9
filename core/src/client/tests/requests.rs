//! What is signed into Requests: gathering, bounds, and the window.

use super::*;

#[test]
fn operations_that_come_together_leave_together() {
    let mut harness = Harness::opened();
    harness.send(0);
    assert_eq!(harness.requests()[0].0, To::One(harness.core.primary()), "a lone one leaves at once, to the primary");
    (1..1000).for_each(|tag| harness.submit(tag));
    harness.flush();
    for tag in 1000..1200 {
        harness.submit(tag);
        harness.flush();
    }
    let requests = harness.requests();
    assert_eq!(requests.len(), CLIENT_GATHER_FROM, "then they gather");
    assert_eq!(requests[1].1.entry.operations, 999);
    harness.execute(&requests[0].1, 9);
    harness.flush();
    let last = harness.last_request();
    assert_eq!((last.entry.operations, last.entry.req_no, last.entry.ack), (198, RequestNo(5), RequestNo(1)));
}

#[test]
fn a_request_is_cut_at_the_clusters_bounds() {
    let params = ProtocolParams { request_bytes_max: 1024, request_operations_max: 10, ..ProtocolParams::default() };
    let mut harness = Harness::opened_with(params, ClientOptions::default());
    let too_large = harness.core.submit(Bytes::from(vec![0; 893]), 0, None);
    assert_eq!(too_large, Err(NotTaken::TooLarge { len: 893, max: 892 }));
    harness.core.submit(Bytes::from(vec![0; 892]), 1, None).unwrap();
    (2..40).for_each(|tag| harness.submit(tag));
    harness.flush();
    let requests = harness.requests();
    let counts: Vec<_> = requests.iter().map(|(_, request)| request.entry.operations).collect();
    assert_eq!(counts, [1, 10, 10, 10], "the last eight gather");
    assert_eq!(requests[0].1.bytes.len(), 1024);
}

#[test]
fn large_requests_wait_for_one_another() {
    let mut harness = Harness::opened();
    for tag in 0..10 {
        harness.core.submit(Bytes::from(vec![7; 200 << 10]), tag, None).unwrap();
    }
    harness.flush();
    let first = harness.last_request();
    assert_eq!(harness.requests().len(), 4, "a fifth could be of 256 KiB, and pass what a replica keeps of a client");
    harness.execute(&first, 9);
    harness.flush();
    assert_eq!(harness.last_request().entry.req_no, first.entry.req_no.next());
}

#[test]
fn the_window_bounds_what_is_under_way_and_ack_never_passes_an_open_request() {
    let params = ProtocolParams { client_window: 3, ..ProtocolParams::default() };
    let mut harness = Harness::opened_with(params, ClientOptions { operations_per_request: 1, ..Default::default() });
    (1..=9).for_each(|tag| harness.submit(tag));
    harness.flush();
    let first: Vec<_> = harness.requests().into_iter().map(|(_, request)| request).collect();
    assert_eq!(first.len(), 3);
    harness.execute(&first[1], 9);
    harness.execute(&first[2], 9);
    harness.flush();
    assert_eq!(harness.requests().len(), 3, "Request 1 holds the window");
    harness.execute(&first[0], 10);
    harness.flush();
    let acks: Vec<_> =
        harness.requests()[3..].iter().map(|(_, request)| (request.entry.req_no.0, request.entry.ack.0)).collect();
    assert_eq!(acks, [(4, 3), (5, 3), (6, 3)]);
}

#[test]
fn a_full_queue_refuses_and_keeps_what_it_has() {
    let options = ClientOptions { queue_operations: 2, ..ClientOptions::default() };
    let mut harness = Harness::with(ProtocolParams::default(), options);
    harness.submit(1);
    harness.submit(2);
    assert_eq!(harness.core.submit(Bytes::new(), 3, None), Err(NotTaken::Full));
    harness.flush();
    harness.open(SESSION);
    harness.flush();
    assert_eq!(harness.last_request().entry.operations, 2);
}
