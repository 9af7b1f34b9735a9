//! How sessions are opened, lost and closed.

use super::*;

#[test]
fn c11_an_opening_dates_itself_by_what_a_correct_replica_has_executed() {
    let mut harness = Harness::with(ProtocolParams::default(), ClientOptions::default());
    harness.step(|core, now, out| core.open(now, out));
    assert_eq!(harness.sent, [(To::All, Message::InfoQuery { want_digest: false })]);
    harness.info(LIAR.0, 0, u64::MAX);
    harness.info(LIAR.0, 0, u64::MAX);
    assert_eq!(harness.requests().len(), 0, "one alone is not asked for a date");
    harness.wait();
    assert_eq!(harness.sent.len(), 2, "INFO is asked for again");
    harness.info(0, 0, 40);
    assert_eq!(opening(&harness.last_request()).at, Seq(40));
}

#[test]
fn c18_a_session_learnt_from_an_answer_is_replaced_and_never_used() {
    let mut harness = Harness::with(ProtocolParams::default(), ClientOptions::default());
    harness.send_and_learn();
    let first = harness.last_request();
    harness.answer(&[0, 1], &first, 6, Code::SessionOpen, &opening_results(first.entry.digest, 44));
    assert_eq!(harness.core.session(), None);
    let second = harness.last_request();
    assert_eq!((opening(&second).replaces, opening(&second).at), (SessionId(44), Seq(6)));
    assert_ne!(opening(&first).nonce, opening(&second).nonce, "each opening has its own nonce");
    harness.answer(&[0, 1], &second, 7, Code::SessionStale, &opening_results(second.entry.digest, 900));
    let third = harness.last_request();
    assert_eq!((opening(&third).replaces, opening(&third).at), (SessionId(44), Seq(900)));
    // The answer to another life's opening, and to a former one of this life.
    harness.answer(&[0, 1], &third, 8, Code::Ok, &opening_results(Digest([3; 32]), 55));
    harness.answer(&[0, 1], &third, 8, Code::Ok, &opening_results(first.entry.digest, 55));
    assert_eq!(harness.core.session(), None);
    harness.answer(&[LIAR.0, 1], &third, 8, Code::Ok, &opening_results(third.entry.digest, 66));
    assert_eq!(harness.core.session(), Some(SessionId(66)));
    harness.flush();
    assert_eq!(harness.last_request().entry.session, SessionId(66));
}

#[test]
fn c18_two_lives_of_one_key_open_differently() {
    let nonce = |seed| {
        let scheme = Arc::new(Ed25519::new(&[77; 32], [0; 32]));
        let core = ClientCore::new(config(ProtocolParams::default()), scheme, ClientOptions::default(), seed);
        let mut harness = Harness { core, ..Harness::opened() };
        harness.send_and_learn();
        opening(&harness.last_request()).nonce
    };
    assert_ne!(nonce([1; 32]), nonce([2; 32]));
}

#[test]
fn a_client_that_is_not_admitted_says_so_and_asks_again_later() {
    let mut harness = Harness::with(ProtocolParams::default(), ClientOptions::default());
    harness.send_and_learn();
    let request = harness.last_request();
    harness.answer(&[0, 1], &request, 6, Code::Denied, &opening_results(request.entry.digest, 0));
    assert_eq!(harness.done, [not_sent(1, NotSent::NotAdmitted)]);
    harness.sent.clear();
    harness.submit(2);
    harness.flush();
    assert_eq!(harness.sent, []);
    harness.wait();
    assert_eq!(harness.requests().len(), 1);
}

#[test]
fn a_lost_session_leaves_its_requests_unknown_and_another_one_is_opened() {
    let mut harness = Harness::opened();
    let first = harness.send(1);
    harness.send(2);
    harness.answer(&[0, 2], &first, 30, Code::SessionUnknown, b"");
    assert_eq!(harness.done, [unknown(1, Unknown::SessionLost), unknown(2, Unknown::SessionLost)]);
    assert_eq!(harness.deadline, None, "nobody asks for a session that nobody needs");
    harness.submit(3);
    harness.flush();
    let again = harness.last_request();
    assert_eq!((opening(&again).replaces, opening(&again).at), (SessionId(0), Seq(30)));
    harness.answer(&[0, 1], &again, 31, Code::Ok, &opening_results(again.entry.digest, 31 << 20));
    harness.flush();
    let request = harness.last_request();
    assert_eq!((request.entry.session, request.entry.req_no), (SessionId(31 << 20), RequestNo(1)));
    harness.execute(&first, 32);
    harness.execute(&request, 32);
    assert_eq!(harness.done.last(), Some(&done(3, 32)), "and answers of the old session are nothing to the new one");
}

#[test]
fn close_ends_the_session_in_the_order() {
    let mut harness = Harness::opened();
    harness.send(1);
    harness.submit(2);
    harness.step(|core, now, out| core.close(now, out));
    assert_eq!(harness.done, [not_sent(2, NotSent::Closed)]);
    assert_eq!(harness.core.submit(Bytes::new(), 3, None), Err(NotTaken::Closed));
    let close = harness.last_request();
    assert_eq!((close.entry.flags, close.entry.req_no, close.entry.operations), (FLAG_CLOSE, RequestNo(2), 1));
    harness.wait();
    assert!(!harness.core.is_closed());
    harness.answer(&[0, 1], &close, 12, Code::Closed, b"");
    assert!(harness.core.is_closed());
    assert_eq!(harness.done[1..], [unknown(1, Unknown::Closed)]);
    assert_eq!(harness.deadline, None);
}

#[test]
fn close_waits_for_room_and_for_an_opening_under_way() {
    let params = ProtocolParams { client_window: 1, ..ProtocolParams::default() };
    let mut harness = Harness::opened_with(params, ClientOptions::default());
    let request = harness.send(1);
    harness.step(|core, now, out| core.close(now, out));
    assert_eq!(harness.last_request(), request);
    harness.execute(&request, 9);
    harness.wait();
    assert_eq!(harness.last_request().entry.flags, FLAG_CLOSE);
    assert_eq!(harness.done, [done(1, 9)]);

    let mut harness = Harness::with(ProtocolParams::default(), ClientOptions::default());
    harness.send_and_learn();
    let opening = harness.last_request();
    harness.step(|core, now, out| core.close(now, out));
    assert_eq!(harness.done, [not_sent(1, NotSent::Closed)]);
    harness.answer(&[0, 1], &opening, 9, Code::Ok, &opening_results(opening.entry.digest, SESSION));
    harness.wait();
    assert_eq!(harness.last_request().entry.flags, FLAG_CLOSE);
    let close = harness.last_request();
    harness.answer(&[0, 1], &close, 10, Code::SessionUnknown, b"");
    assert!(harness.core.is_closed(), "a session that is gone is closed too");
}

#[test]
fn abandon_ends_everything_at_once() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    harness.submit(2);
    harness.step(|core, now, out| core.abandon(now, out));
    assert_eq!(harness.done, [not_sent(2, NotSent::Closed), unknown(1, Unknown::Closed)]);
    assert!(harness.core.is_closed() && harness.core.is_idle());
    harness.execute(&request, 9);
    harness.flush();
    assert_eq!((harness.done.len(), harness.deadline), (2, None));
}

#[test]
fn whoever_is_given_no_session_is_told_that_there_is_none_and_asks_on() {
    let mut harness = Harness::with(ProtocolParams::default(), ClientOptions::default());
    let deadline = harness.now.after(700 * MILLISECOND);
    harness.core.submit(Bytes::from_static(b"operation"), 1, Some(deadline)).unwrap();
    harness.flush();
    for replica in 0..N {
        harness.info(replica, 0, 5);
    }
    let opening = harness.last_request();
    let busy = Answer::Busy(Busy { request: opening.entry.digest, retry_after_ms: 500 });
    (0..N).for_each(|replica| harness.hear(replica, &busy));
    harness.pass(1000 * MILLISECOND);
    assert_eq!(harness.done, [not_sent(1, NotSent::Overloaded)]);
    let again = harness.last_request();
    assert_eq!(again.entry.digest, opening.entry.digest, "it is not given up");
    harness.answer(&[0, 1], &again, 7, Code::Ok, &opening_results(again.entry.digest, 9));
    assert_eq!(harness.core.session(), Some(SessionId(9)));
}
