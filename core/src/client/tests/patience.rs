//! What happens while no answer comes, or one that is none: sending again, giving up, refusals, BUSY.

use super::*;

#[test]
fn an_unanswered_request_goes_to_all_and_again_for_ever() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    let mut at = vec![harness.now];
    for _ in 0..12 {
        harness.wait();
        at.push(harness.now);
    }
    let requests = harness.requests();
    assert_eq!(requests.len(), 13);
    assert!(requests[1..].iter().all(|(to, again)| *to == To::All && again.bytes == request.bytes));
    let gaps: Vec<_> = at.windows(2).map(|pair| pair[1].since(pair[0]) / MILLISECOND).collect();
    assert_eq!(gaps, [200, 400, 800, 1600, 2000, 2000, 2000, 2000, 2000, 2000, 2000, 2000]);
    harness.execute(&request, 9);
    assert_eq!(harness.done, [done(1, 9)]);
    assert_eq!(harness.deadline, None);
}

#[test]
fn the_timeout_follows_the_clients_own_latencies() {
    let mut harness = Harness::opened();
    for tag in 0..200 {
        let request = harness.send(tag);
        harness.now = harness.now.after(30 * MILLISECOND);
        harness.execute(&request, tag + 10);
    }
    assert_eq!(harness.core.latencies.timeout(), 120 * MILLISECOND);
    for tag in 0..200 {
        let request = harness.send(tag);
        harness.execute(&request, tag + 10);
    }
    assert_eq!(harness.core.latencies.timeout(), CLIENT_TIMEOUT_MIN);
}

#[test]
fn a_client_follows_the_view_that_a_correct_replica_vouches_for() {
    let mut harness = Harness::opened();
    let of = |harness: &Harness, view| harness.core.config.primary(View(view));
    harness.info(LIAR.0, 2, 5);
    assert_eq!(harness.core.primary(), of(&harness, 0));
    harness.info(0, 1, 5);
    assert_eq!(harness.core.primary(), of(&harness, 1), "two are in view 1 or above");
    harness.send(1);
    assert_eq!(harness.requests()[0].0, To::One(of(&harness, 1)));
}

/// How many INFO-QUERYs went out.
fn questions(harness: &Harness) -> usize {
    harness.sent.iter().filter(|(_, message)| matches!(message, Message::InfoQuery { .. })).count()
}

#[test]
fn v8_a_late_answer_makes_the_client_ask_who_leads_and_what_waits_goes_there_at_once() {
    let mut harness = Harness::opened();
    let (first, second) = (harness.core.config.primary(View(0)), harness.core.config.primary(View(1)));
    let late = harness.send(1);
    harness.sent.clear();
    harness.wait();
    assert_eq!((harness.requests()[0].0, questions(&harness)), (To::All, 1));
    // It was asked too early: nobody had left the view.
    harness.info(0, 0, 5);
    harness.info(1, 0, 5);
    harness.pass(100 * MILLISECOND);
    harness.sent.clear();
    harness.execute(&late, 9);
    assert_eq!(questions(&harness), 1, "there was an answer at last: from whose view?");
    // What leaves before that is known goes to a primary that may be gone.
    let waiting = harness.send(2);
    assert_eq!(harness.requests().last(), Some(&(To::One(first), waiting.clone())));
    harness.sent.clear();
    harness.info(0, 1, 9);
    harness.info(LIAR.0, 1, 9);
    assert_eq!(harness.requests(), [(To::One(second), waiting.clone())]);
    harness.info(1, 1, 9);
    harness.info(2, 1, 9);
    assert_eq!(harness.requests().len(), 1, "once for each new primary");
    harness.wait();
    assert_eq!(harness.requests().last(), Some(&(To::All, waiting)), "and to all as late as ever");
}

#[test]
fn many_late_answers_are_one_question() {
    let mut harness = Harness::opened();
    let requests: Vec<_> = (0..3).map(|tag| harness.send(tag)).collect();
    harness.pass(CLIENT_TIMEOUT_FIRST);
    harness.pass(100 * MILLISECOND);
    harness.sent.clear();
    requests.iter().for_each(|request| harness.execute(request, 9));
    assert_eq!((harness.done.len(), questions(&harness)), (3, 1));
}

#[test]
fn without_a_link_to_the_primary_everybody_is_asked_at_once() {
    let mut harness = Harness::opened();
    let primary = harness.core.primary();
    harness.step(|core, now, out| core.on_link(now, primary, LinkState::Down, out));
    let request = harness.send(1);
    assert_eq!(harness.requests()[0].0, To::All);
    harness.step(|core, now, out| core.on_link(now, primary, LinkState::Up, out));
    assert_eq!(harness.requests().last(), Some(&(To::One(primary), request)), "a new link gets what it missed");
}

#[test]
fn c13_requests_that_were_given_up_are_finished_and_free_the_window() {
    let options = ClientOptions { operations_per_request: 1, ..ClientOptions::default() };
    let mut harness = Harness::opened_with(ProtocolParams::default(), options);
    let deadline = harness.now.after(100 * MILLISECOND);
    for tag in 0..65u64 {
        harness.core.submit(Bytes::from(tag.to_le_bytes().to_vec()), tag, Some(deadline)).unwrap();
    }
    harness.flush();
    harness.pass(150 * MILLISECOND);
    let mut expected: Vec<_> = (0..64).map(|tag| unknown(tag, Unknown::Deadline)).collect();
    expected.insert(0, not_sent(64, NotSent::Deadline));
    assert_eq!(harness.done, expected, "what was signed is unknown, what was not is not sent");
    harness.sent.clear();
    harness.pass(100 * MILLISECOND);
    let again = harness.requests();
    assert_eq!(again.len(), 64, "all are sent again although nobody waits");
    again.iter().for_each(|(_, request)| harness.execute(request, 9));
    let next = harness.send(100);
    assert_eq!((next.entry.req_no, next.entry.ack), (RequestNo(65), RequestNo(64)));
    harness.execute(&next, 10);
    assert_eq!(harness.done.last(), Some(&done(100, 10)));
}

#[test]
fn cancel_withdraws_what_was_not_signed_and_gives_up_what_was() {
    let params = ProtocolParams { client_window: 1, ..ProtocolParams::default() };
    let mut harness = Harness::opened_with(params, ClientOptions::default());
    let request = harness.send(1);
    harness.submit(2);
    harness.submit(3);
    harness.flush();
    harness.step(|core, now, out| core.cancel(now, 1, out));
    harness.step(|core, now, out| core.cancel(now, 2, out));
    harness.step(|core, now, out| core.cancel(now, 99, out));
    assert_eq!(harness.done, [unknown(1, Unknown::Cancelled), not_sent(2, NotSent::Cancelled)]);
    harness.execute(&request, 9);
    harness.flush();
    let last = harness.last_request();
    assert_eq!(last.operations().collect::<Vec<_>>(), [3u64.to_le_bytes()]);
}

#[test]
fn a_request_that_the_window_refused_is_signed_again_with_the_present_ack() {
    let mut harness = Harness::opened();
    let first = harness.send(1);
    let second = harness.send(2);
    harness.answer(&[0, 1], &second, 9, Code::Window, b"");
    harness.execute(&first, 10);
    harness.sent.clear();
    harness.wait();
    let again = harness.last_request();
    assert_eq!((again.entry.req_no, again.entry.ack), (RequestNo(2), RequestNo(1)));
    assert_eq!(again.entry.content, second.entry.content);
    harness.answer(&[2, 3], &again, 9, Code::Window, b"");
    assert_eq!(harness.core.sent[&RequestNo(2)].refusals, 1, "the slower replicas' word of the same refusal");
    harness.execute(&again, 11);
    assert_eq!(harness.done, [done(1, 10), done(2, 11)]);
}

#[test]
fn codes_become_outcomes() {
    let mut harness = Harness::opened();
    let codes = [
        (Code::ReplyTooLarge, Rejected::ExecutedReplyTooLarge),
        (Code::Conflict, Rejected::Conflict),
        (Code::Denied, Rejected::Denied),
    ];
    for (code, reason) in codes {
        let request = harness.send(1);
        let digest_only = Reply { results: None, ..reply(&request, 9, code, b"") };
        harness.hear(0, &Answer::Reply(digest_only.clone()));
        harness.hear(1, &Answer::Reply(digest_only));
        assert_eq!(harness.done.pop(), Some((1, Outcome::Rejected { seq: Seq(9), reason })));
    }
}

#[test]
fn c12_a_refused_request_is_finished_and_acknowledged() {
    let mut harness = Harness::opened();
    let first = harness.send(0);
    harness.answer(&[0, 1], &first, 9, Code::Denied, b"");
    for tag in 1..=100 {
        let request = harness.send(tag);
        assert_eq!(request.entry.ack.0, tag, "the refused number counts as finished");
        harness.execute(&request, 9 + tag);
        assert_eq!(harness.done.last(), Some(&done(tag, 9 + tag)));
    }
}

#[test]
fn malformed_results_that_too_many_agree_on_end_the_operations_all_the_same() {
    for results in [&b""[..], b"\x05\0\0\0x", b"\x01\0\0\0xy", b"\0\0\0\0\0\0\0\0"] {
        let mut harness = Harness::opened();
        let request = harness.send(1);
        harness.answer(&[0, 1], &request, 9, Code::Ok, results);
        assert_eq!(harness.done, [unknown(1, Unknown::Unreadable)]);
    }
}

#[test]
fn a_busy_primary_is_believed_for_a_while_then_the_others_are_asked() {
    let mut harness = Harness::opened();
    let request = harness.send(1);
    let primary = harness.core.primary();
    let busy = Answer::Busy(Busy { request: request.entry.digest, retry_after_ms: 50 });
    harness.hear((primary.0 + 1) % N, &busy);
    assert!(harness.core.hold_until < harness.now, "it was not asked");
    for _ in 0..BUSY_PATIENCE {
        harness.hear(primary.0, &busy);
        let before = harness.now;
        harness.wait();
        assert_eq!(harness.now.since(before), 50 * MILLISECOND);
        assert_eq!(harness.requests().last().unwrap().0, To::One(primary));
    }
    harness.hear(primary.0, &busy);
    harness.wait();
    assert_eq!(harness.requests().last().unwrap().0, To::All);
    let hold = harness.core.hold_until;
    harness.hear(0, &busy);
    assert_eq!(harness.core.hold_until, hold, "one of all is not enough");
    harness.hear(1, &busy);
    assert_eq!(harness.core.hold_until, harness.now.after(50 * MILLISECOND), "a correct one is busy");
    harness.submit(2);
    harness.flush();
    assert_eq!(harness.requests().last().unwrap().1.entry.req_no, RequestNo(1), "nothing new while it is");
    harness.execute(&request, 9);
    harness.pass(50 * MILLISECOND);
    assert_eq!(harness.last_request().entry.req_no, RequestNo(2));
}
