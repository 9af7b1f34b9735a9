//! What counts as an answer: enough replicas that agree, each once, whatever one of them invents.

use super::*;

#[test]
fn c6_two_replicas_that_agree_are_enough_and_one_is_not() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    harness.answer(&[0], &request, 9, Code::Ok, &echo(&request));
    assert_eq!(harness.done, []);
    harness.answer(&[1], &request, 9, Code::Ok, &echo(&request));
    assert_eq!(harness.done, [done(1, 9)]);
    harness.answer(&[2, 3], &request, 9, Code::Ok, &echo(&request));
    assert_eq!(harness.done.len(), 1, "late answers change nothing");
}

#[test]
fn z7_z8_copies_of_one_replicas_answer_do_not_add_up() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    for _ in 0..5 {
        harness.answer(&[LIAR.0], &request, 9, Code::Ok, b"\x01\0\0\0x");
    }
    assert_eq!(harness.done, []);
    harness.execute(&request, 9);
    assert_eq!(harness.done, [done(1, 9)], "and the first digest seen is not pinned");
}

#[test]
fn z7_a_liar_neither_decides_nor_blocks_nor_crashes() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    let honest = reply(&request, 9, Code::Ok, &echo(&request));
    let lies = [
        Reply { seq: Seq(8), ..honest.clone() },
        Reply { epoch: Epoch(1), ..honest.clone() },
        Reply { session: SessionId(1), ..honest.clone() },
        Reply { session: SessionId(0), ..honest.clone() },
        Reply { req_no: RequestNo(u64::MAX), ..honest.clone() },
        Reply { req_no: RequestNo(0), ..honest.clone() },
        Reply { digest: Digest([1; 32]), ..honest.clone() },
        Reply { digest: Digest([1; 32]), results: None, ..honest.clone() },
        reply(&request, 9, Code::SessionUnknown, b""),
        reply(&request, 9, Code::Closed, b""),
        reply(&request, 9, Code::Window, b""),
        reply(&request, 9, Code::Ok, b"\xff\xff\xff\xff"),
        reply(&request, 9, Code::Ok, &vec![7; 1 << 20]),
    ];
    for lie in lies {
        harness.hear(LIAR.0, &Answer::Reply(lie));
        harness.hear(77, &Answer::Reply(honest.clone()));
    }
    let busy = Busy { request: request.entry.digest, retry_after_ms: u32::MAX };
    harness.hear(LIAR.0, &Answer::Busy(busy));
    harness.info(LIAR.0, u64::MAX, u64::MAX);
    assert_eq!(harness.done, []);
    harness.answer(&[0], &request, 9, Code::Ok, &echo(&request));
    assert_eq!(harness.done, [], "nothing the liar said counts together with an honest answer");
    harness.answer(&[2], &request, 9, Code::Ok, &echo(&request));
    assert_eq!(harness.done, [done(1, 9)]);
}

#[test]
fn c6_results_come_from_one_and_digests_from_others() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    let full = reply(&request, 9, Code::Ok, &echo(&request));
    let digest_only = Reply { results: None, ..full.clone() };
    harness.hear(0, &Answer::Reply(digest_only.clone()));
    harness.hear(1, &Answer::Reply(digest_only));
    assert_eq!(harness.done, [], "agreed, but the results are missing");
    harness.wait();
    assert_eq!(harness.requests().last().unwrap().0, To::All, "so the Request goes out again, for the full results");
    harness.hear(1, &Answer::Reply(full));
    assert_eq!(harness.done, [done(1, 9)]);
}

#[test]
fn c6_a_later_answer_of_a_replica_takes_the_place_of_its_former_one() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    harness.answer(&[0], &request, 8, Code::Window, b"");
    harness.answer(&[0, 1], &request, 9, Code::Ok, &echo(&request));
    assert_eq!(harness.done, [done(1, 9)]);
}

#[test]
fn a_liars_results_are_not_hoarded() {
    let mut harness = Harness::opened_with(
        ProtocolParams::default(),
        ClientOptions { operations_per_request: 1, ..ClientOptions::default() },
    );
    (0..64).for_each(|tag| harness.submit(tag));
    harness.flush();
    let requests: Vec<_> = harness.requests().into_iter().map(|(_, request)| request).collect();
    assert_eq!(requests.len(), 64);
    for request in &requests {
        harness.answer(&[LIAR.0], request, 9, Code::Ok, &vec![1; 256 << 10]);
    }
    let bound = SESSION_RESULT_BYTES + (512 << 10);
    assert!(harness.core.held[LIAR.index()] <= bound && harness.core.held[LIAR.index()] > bound - (256 << 10));
    for request in &requests {
        harness.execute(request, 10);
    }
    assert_eq!(harness.done, (0..64).map(|tag| done(tag, 10)).collect::<Vec<_>>());
    assert_eq!(harness.core.held, [0; N as usize], "what was kept is given back");
}
