//! The client against hand-made answers: four replicas of which the last one lies, and a small honest table of what the
//! cluster executed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::replies::BUSY_PATIENCE;
use super::*;
use crate::auth::Ed25519;
use crate::config::{Admission, Member, ProtocolParams};
use crate::ids::{ClusterId, Epoch};
use crate::limits::{CLIENT_GATHER_FROM, CLIENT_TIMEOUT_MIN, MILLISECOND, SESSION_RESULT_BYTES};
use crate::wire::message::{Busy, Code, Info, Reply};
use crate::wire::opening::{Opening, opening_results};
use crate::wire::request::{FLAG_CLOSE, SignedRequest, result_digest};

const N: u16 = 4;
const LIAR: ReplicaId = ReplicaId(3);
const SESSION: u64 = 7 << 20;

fn config(params: ProtocolParams) -> Arc<ClusterConfig> {
    let member = |id: u16| Member {
        weight: 1,
        public_key: Ed25519::new(&[id as u8 + 1; 32], [0; 32]).public_key(),
        address: format!("127.0.0.1:{}", 7000 + id),
    };
    let members = (0..N).map(member).collect();
    Arc::new(ClusterConfig::new(ClusterId([9; 32]), Epoch(0), params, Admission::Any, members).unwrap())
}

struct Harness {
    core: ClientCore,
    now: Nanos,
    sent: Vec<(To, Message)>,
    done: Vec<(u64, Outcome)>,
    deadline: Option<Nanos>,
}

impl Harness {
    fn with(params: ProtocolParams, options: ClientOptions) -> Self {
        let scheme = Arc::new(Ed25519::new(&[77; 32], [0; 32]));
        let core = ClientCore::new(config(params), scheme, options, [5; 32]);
        Self { core, now: Nanos(1_000_000), sent: Vec::new(), done: Vec::new(), deadline: None }
    }

    /// With a session, all links up, nothing sent or done.
    fn opened_with(params: ProtocolParams, options: ClientOptions) -> Self {
        let mut harness = Self::with(params, options);
        for replica in 0..N {
            harness.step(|core, now, out| core.on_link(now, ReplicaId(replica), LinkState::Up, out));
        }
        harness.step(|core, now, out| core.open(now, out));
        harness.open(SESSION);
        harness
    }

    fn opened() -> Self {
        Self::opened_with(ProtocolParams::default(), ClientOptions::default())
    }

    fn step(&mut self, call: impl FnOnce(&mut ClientCore, Nanos, &mut ClientEffects)) {
        let mut out = ClientEffects::default();
        call(&mut self.core, self.now, &mut out);
        self.sent.append(&mut out.send);
        self.done.append(&mut out.done);
        self.deadline = out.deadline;
    }

    fn message(&mut self, from: u16, message: &Message) {
        self.step(|core, now, out| core.on_message(now, ReplicaId(from), message, out));
    }

    /// INFO of everybody, then the opening's answer.
    fn open(&mut self, session: u64) {
        for replica in 0..N {
            self.info(replica, 0, 5);
        }
        let opening = self.last_request();
        self.answer(&[0, 1], &opening, 7, Code::Ok, &opening_results(opening.entry.digest, session));
        assert_eq!(self.core.session(), Some(SessionId(session)));
        self.sent.clear();
    }

    fn info(&mut self, replica: u16, view: u64, executed: u64) {
        let (view, executed) = (View(view), Seq(executed));
        let info = Info { replica: ReplicaId(replica), view, executed, ..Info::default() };
        self.message(replica, &Message::Info(Box::new(info)));
    }

    fn submit(&mut self, tag: u64) {
        self.core.submit(Bytes::from(tag.to_le_bytes().to_vec()), tag, None).unwrap();
    }

    fn flush(&mut self) {
        self.step(|core, now, out| core.flush(now, out));
    }

    /// Submits one operation and gives the Request that carried it.
    fn send(&mut self, tag: u64) -> SignedRequest {
        self.submit(tag);
        self.flush();
        self.last_request()
    }

    fn last_request(&self) -> SignedRequest {
        self.requests().pop().expect("a Request was sent").1
    }

    fn requests(&self) -> Vec<(To, SignedRequest)> {
        let request = |(to, message): &(To, Message)| match message {
            Message::Request(request) => Some((*to, request.clone())),
            _ => None,
        };
        self.sent.iter().filter_map(request).collect()
    }

    fn answer(&mut self, from: &[u16], request: &SignedRequest, seq: u64, code: Code, results: &[u8]) {
        for replica in from {
            self.message(*replica, &Message::Reply(reply(request, seq, code, results)));
        }
    }

    /// The answer of two correct replicas to a Request that was executed: each operation echoed.
    fn execute(&mut self, request: &SignedRequest, seq: u64) {
        self.answer(&[0, 1], request, seq, Code::Ok, &echo(request));
    }

    /// Lets time pass until the deadline, and delivers it.
    fn wait(&mut self) {
        self.now = self.now.max(self.deadline.expect("something is due"));
        self.step(|core, now, out| core.on_deadline(now, out));
    }

    fn pass(&mut self, ns: u64) {
        self.now = self.now.after(ns);
        while self.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.step(|core, now, out| core.on_deadline(now, out));
        }
    }
}

fn reply(request: &SignedRequest, seq: u64, code: Code, results: &[u8]) -> Reply {
    Reply {
        epoch: Epoch(0),
        session: request.entry.session,
        req_no: request.entry.req_no,
        seq: Seq(seq),
        code,
        digest: result_digest(code, results),
        results: Some(Bytes::copy_from_slice(results)),
    }
}

fn echo(request: &SignedRequest) -> Vec<u8> {
    request.operations().flat_map(|operation| [&(operation.len() as u32).to_le_bytes(), operation].concat()).collect()
}

fn done(tag: u64, seq: u64) -> (u64, Outcome) {
    (tag, Outcome::Done { seq: Seq(seq), result: Bytes::from(tag.to_le_bytes().to_vec()) })
}

fn unknown(tag: u64, reason: Unknown) -> (u64, Outcome) {
    (tag, Outcome::Unknown { reason })
}

fn not_sent(tag: u64, reason: NotSent) -> (u64, Outcome) {
    (tag, Outcome::NotSent { reason })
}

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
fn z7_copies_of_one_replicas_answer_do_not_add_up() {
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
        harness.message(LIAR.0, &Message::Reply(lie));
        harness.message(77, &Message::Reply(honest.clone()));
    }
    let busy = Busy { request: request.entry.digest, retry_after_ms: u32::MAX };
    harness.message(LIAR.0, &Message::Busy(busy));
    harness.message(LIAR.0, &Message::FetchLog(Seq(0)));
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
    harness.message(0, &Message::Reply(digest_only.clone()));
    harness.message(1, &Message::Reply(digest_only));
    assert_eq!(harness.done, [], "agreed, but the results are missing");
    harness.wait();
    assert_eq!(harness.requests().last().unwrap().0, To::All, "so the Request goes out again, for the full results");
    harness.message(1, &Message::Reply(full));
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
        harness.message(0, &Message::Reply(digest_only.clone()));
        harness.message(1, &Message::Reply(digest_only));
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
    let busy = Message::Busy(Busy { request: request.entry.digest, retry_after_ms: 50 });
    harness.message((primary.0 + 1) % N, &busy);
    assert!(harness.core.hold_until < harness.now, "it was not asked");
    for _ in 0..BUSY_PATIENCE {
        harness.message(primary.0, &busy);
        let before = harness.now;
        harness.wait();
        assert_eq!(harness.now.since(before), 50 * MILLISECOND);
        assert_eq!(harness.requests().last().unwrap().0, To::One(primary));
    }
    harness.message(primary.0, &busy);
    harness.wait();
    assert_eq!(harness.requests().last().unwrap().0, To::All);
    let hold = harness.core.hold_until;
    harness.message(0, &busy);
    assert_eq!(harness.core.hold_until, hold, "one of all is not enough");
    harness.message(1, &busy);
    assert_eq!(harness.core.hold_until, harness.now.after(50 * MILLISECOND), "a correct one is busy");
    harness.submit(2);
    harness.flush();
    assert_eq!(harness.requests().last().unwrap().1.entry.req_no, RequestNo(1), "nothing new while it is");
    harness.execute(&request, 9);
    harness.pass(50 * MILLISECOND);
    assert_eq!(harness.last_request().entry.req_no, RequestNo(2));
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
    let busy = Message::Busy(Busy { request: opening.entry.digest, retry_after_ms: 500 });
    (0..N).for_each(|replica| harness.message(replica, &busy));
    harness.pass(1000 * MILLISECOND);
    assert_eq!(harness.done, [not_sent(1, NotSent::Overloaded)]);
    let again = harness.last_request();
    assert_eq!(again.entry.digest, opening.entry.digest, "it is not given up");
    harness.answer(&[0, 1], &again, 7, Code::Ok, &opening_results(again.entry.digest, 9));
    assert_eq!(harness.core.session(), Some(SessionId(9)));
}

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

impl Harness {
    /// Submits operation 1, and lets the client learn where the cluster is.
    fn send_and_learn(&mut self) {
        self.submit(1);
        self.flush();
        self.info(0, 0, 5);
        self.info(1, 0, 5);
    }
}

fn opening(request: &SignedRequest) -> Opening {
    assert_eq!((request.entry.session, request.entry.req_no), (SessionId(0), RequestNo(0)));
    Opening::decode(request.operations().next().unwrap()).unwrap()
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

/// What a correct cluster knows of this client, in the order in which it happened to execute.
#[derive(Default)]
struct Cluster {
    seq: u64,
    session: u64,
    opened: Option<(Digest, Reply)>,
    floor: u64,
    replies: BTreeMap<u64, Reply>,
    /// How often each operation ran.
    runs: BTreeMap<Vec<u8>, u32>,
}

impl Cluster {
    fn order(&mut self, request: &SignedRequest, window: u64) -> Reply {
        self.seq += 1;
        let entry = &request.entry;
        if entry.session == SessionId(0) {
            return self.open(request);
        }
        if entry.session.0 != self.session {
            return reply(request, self.seq, Code::SessionUnknown, b"");
        }
        assert!(entry.ack < entry.req_no, "ack is below the number");
        self.floor = self.floor.max(entry.ack.0);
        if entry.req_no.0 > self.floor + window {
            return reply(request, self.seq, Code::Window, b"");
        }
        if let Some(former) = self.replies.get(&entry.req_no.0) {
            return former.clone();
        }
        assert!(entry.req_no.0 > self.floor, "an acknowledged number was answered before");
        if entry.flags == FLAG_CLOSE {
            self.session = 0;
            return reply(request, self.seq, Code::Closed, b"");
        }
        request.operations().for_each(|operation| *self.runs.entry(operation.to_vec()).or_default() += 1);
        let reply = reply(request, self.seq, Code::Ok, &echo(request));
        self.replies.insert(entry.req_no.0, reply.clone());
        reply
    }

    fn open(&mut self, request: &SignedRequest) -> Reply {
        if let Some((digest, reply)) = &self.opened
            && *digest == request.entry.digest
        {
            return reply.clone();
        }
        let results = |number| opening_results(request.entry.digest, number);
        if opening(request).replaces.0 != self.session {
            return reply(request, self.seq, Code::SessionOpen, &results(self.session));
        }
        self.evict();
        self.session = self.seq << 20;
        let reply = reply(request, self.seq, Code::Ok, &results(self.session));
        self.opened = Some((request.entry.digest, reply.clone()));
        reply
    }

    fn evict(&mut self) {
        (self.session, self.floor) = (0, 0);
        self.replies.clear();
    }
}

#[derive(Clone, Debug)]
enum Move {
    Submit {
        wait_ms: Option<u64>,
    },
    Cancel(u64),
    Flush,
    /// A Request of those under way reaches the order, `copies` answers reach the client; the first without results.
    Order {
        which: usize,
        copies: u16,
    },
    Lie {
        which: usize,
        code: u16,
    },
    Busy {
        from: u16,
        which: usize,
    },
    Info {
        from: u16,
        view: u64,
    },
    Link {
        replica: u16,
        is_up: bool,
    },
    Evict,
    Pass {
        ms: u64,
    },
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => proptest::option::of(1..300u64).prop_map(|wait_ms| Move::Submit { wait_ms }),
        1 => (0..40u64).prop_map(Move::Cancel),
        3 => Just(Move::Flush),
        6 => (any::<usize>(), 0..=3u16).prop_map(|(which, copies)| Move::Order { which, copies }),
        2 => (any::<usize>(), 0..12u16).prop_map(|(which, code)| Move::Lie { which, code }),
        1 => (0..N, any::<usize>()).prop_map(|(from, which)| Move::Busy { from, which }),
        2 => (0..N, 0..3u64).prop_map(|(from, view)| Move::Info { from, view }),
        1 => (0..N, any::<bool>()).prop_map(|(replica, is_up)| Move::Link { replica, is_up }),
        1 => Just(Move::Evict),
        3 => (0..700u64).prop_map(|ms| Move::Pass { ms }),
    ]
}

/// A whole run: the random moves, then an honest cluster until the client is closed.
struct Run {
    harness: Harness,
    cluster: Cluster,
    taken: u64,
}

impl Run {
    const WINDOW: u64 = 4;

    fn new() -> Self {
        let params = ProtocolParams { client_window: Self::WINDOW, ..ProtocolParams::default() };
        let options = ClientOptions { operations_per_request: 3, queue_operations: 20, ..ClientOptions::default() };
        Self { harness: Harness::with(params, options), cluster: Cluster::default(), taken: 0 }
    }

    fn pick(&self, which: usize) -> Option<SignedRequest> {
        let requests = self.harness.requests();
        (!requests.is_empty()).then(|| requests[which % requests.len()].1.clone())
    }

    fn apply(&mut self, next: &Move) {
        let harness = &mut self.harness;
        match *next {
            Move::Submit { wait_ms } => {
                let deadline = wait_ms.map(|ms| harness.now.after(ms * MILLISECOND));
                let operation = Bytes::from(self.taken.to_le_bytes().to_vec());
                if harness.core.submit(operation, self.taken, deadline).is_ok() {
                    self.taken += 1;
                }
            }
            Move::Cancel(tag) => harness.step(|core, now, out| core.cancel(now, tag, out)),
            Move::Flush => harness.flush(),
            Move::Order { which, copies } => {
                if let Some(request) = self.pick(which) {
                    self.order(&request, copies);
                }
            }
            Move::Lie { which, code } => {
                if let Some(request) = self.pick(which) {
                    let lie = reply(&request, 1, Code::from_number(code).unwrap(), b"\x01\0\0\0x");
                    self.harness.message(LIAR.0, &Message::Reply(lie));
                }
            }
            Move::Busy { from, which } => {
                if let Some(request) = self.pick(which) {
                    let busy = Busy { request: request.entry.digest, retry_after_ms: 30 };
                    self.harness.message(from, &Message::Busy(busy));
                }
            }
            Move::Info { from, view } => harness.info(from, view, self.cluster.seq),
            Move::Link { replica, is_up } => {
                let state = if is_up { LinkState::Up } else { LinkState::Down };
                harness.step(|core, now, out| core.on_link(now, ReplicaId(replica), state, out));
            }
            Move::Evict => self.cluster.evict(),
            Move::Pass { ms } => {
                harness.pass(ms * MILLISECOND);
                // Old copies of Requests stay in the network, but not all of them for ever.
                let excess = harness.sent.len().saturating_sub(200);
                harness.sent.drain(..excess);
            }
        }
    }

    fn order(&mut self, request: &SignedRequest, copies: u16) {
        let reply = self.cluster.order(request, Self::WINDOW);
        for replica in 0..copies {
            let results = reply.results.clone().filter(|_| replica > 0 || request.entry.session == SessionId(0));
            self.harness.message(replica, &Message::Reply(Reply { results, ..reply.clone() }));
        }
    }

    fn finish(&mut self) {
        for _ in 0..200 {
            (0..N).for_each(|replica| self.harness.info(replica, 0, self.cluster.seq));
            let sent = std::mem::take(&mut self.harness.sent);
            for (_, message) in sent {
                if let Message::Request(request) = message {
                    self.order(&request, 3);
                }
            }
            if self.harness.core.is_idle() && self.harness.core.ending == Ending::No {
                self.harness.step(|core, now, out| core.close(now, out));
            }
            if self.harness.deadline.is_none() {
                break;
            }
            self.harness.wait();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_ends_once_and_truly(moves in proptest::collection::vec(moves(), 0..250)) {
        let mut run = Run::new();
        moves.iter().for_each(|next| run.apply(next));
        run.finish();
        prop_assert!(run.harness.core.is_closed());
        let mut ends = vec![0; run.taken as usize];
        for (tag, outcome) in &run.harness.done {
            ends[*tag as usize] += 1;
            let operation = tag.to_le_bytes();
            let runs = run.cluster.runs.get(&operation[..]).copied().unwrap_or(0);
            match outcome {
                Outcome::Done { result, .. } => prop_assert!(runs == 1 && result[..] == operation),
                Outcome::NotSent { .. } => prop_assert_eq!(runs, 0),
                Outcome::Unknown { .. } => prop_assert!(runs <= 1),
                Outcome::Rejected { .. } => prop_assert!(false, "nothing was refused"),
            }
        }
        prop_assert!(ends.iter().all(|count| *count == 1), "{:?}", ends);
        prop_assert_eq!(&run.harness.core.held, &vec![0; usize::from(N)]);
    }
}
