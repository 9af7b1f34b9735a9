//! Exactly once, whatever clients and primaries do: the rules of PROTOCOL §5 one by one, and against a model that knows
//! nothing of windows.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ids::Signature;
use crate::wire::opening::read_opening_results;
use crate::wire::request::{RequestBounds, SignedRequest, encode_request};

const BOUNDS: RequestBounds =
    RequestBounds { request_bytes: 1 << 20, operations: 8, requests: 100, body_bytes: 1 << 20 };

fn params() -> ProtocolParams {
    ProtocolParams { client_window: 4, sessions_max: 3, ..ProtocolParams::default() }
}

fn request(client: u8, session: SessionId, req_no: u64, ack: u64, flags: u32, operation: &[u8]) -> SignedRequest {
    let (req_no, ack) = (RequestNo(req_no), RequestNo(ack));
    let operations = [operation].into_iter();
    let bytes =
        encode_request(PublicKey([client; 32]), session, req_no, ack, flags, operations, |_| Signature([1; 64]));
    SignedRequest::parse(bytes, BOUNDS).unwrap()
}

fn opening(client: u8, replaces: SessionId, at: u64, nonce: u8) -> SignedRequest {
    let opening = Opening { replaces, at: Seq(at), nonce: [nonce; 32], certificate: None };
    request(client, SessionId(0), 0, 0, 0, &opening.encode())
}

/// A table that executes one Request a batch: the result of a Request is what `results` makes of its operation.
struct Table {
    sessions: Sessions,
    seq: Seq,
    /// How often each operation ran.
    ran: BTreeMap<Vec<u8>, u32>,
}

impl Table {
    fn new(params: &ProtocolParams) -> Self {
        Self { sessions: Sessions::new(params), seq: Seq(0), ran: BTreeMap::new() }
    }

    fn order(&mut self, request: &SignedRequest) -> CachedReply {
        self.order_with(request, b"ok")
    }

    fn order_with(&mut self, request: &SignedRequest, results: &[u8]) -> CachedReply {
        self.seq = self.seq.next();
        let verdict = self.sessions.admit(self.seq, 0, &request.entry, &request.bytes, &|_| true);
        let reply = match verdict {
            Verdict::Answer(reply) => reply,
            Verdict::Run => {
                *self.ran.entry(request.operations().next().unwrap().to_vec()).or_default() += 1;
                let digest = result_digest(Code::Ok, results);
                let results = Bytes::copy_from_slice(results);
                self.sessions.complete(self.seq, &request.entry, results, Some(digest))
            }
        };
        self.sessions.check();
        reply
    }

    fn open(&mut self, client: u8, replaces: SessionId, nonce: u8) -> SessionId {
        let reply = self.order(&opening(client, replaces, self.seq.0, nonce));
        assert_eq!(reply.code, Code::Ok);
        SessionId(read_opening_results(&reply.results).unwrap().1)
    }

    fn code(&mut self, client: u8, session: SessionId, req_no: u64, ack: u64) -> Code {
        self.order(&request(client, session, req_no, ack, 0, &req_no.to_le_bytes())).code
    }
}

#[test]
fn c1_a_window_executes_in_any_order_and_once() {
    let mut table = Table::new(&params());
    let session = table.open(1, SessionId(0), 1);
    for req_no in [3, 1, 4, 2, 1, 3, 4, 2] {
        assert_eq!(table.code(1, session, req_no, 0), Code::Ok);
    }
    assert!(table.ran.values().all(|times| *times == 1) && table.ran.len() == 4);
    assert_eq!(table.code(1, session, 5, 0), Code::Window);
    assert_eq!(table.code(1, session, 5, 2), Code::Ok);
    assert_eq!(table.code(1, session, 2, 0), Code::AlreadyAcked);
    assert_eq!(table.code(1, session, 6, 6), Code::MalformedAck);
    assert_eq!(table.code(1, session, 8, 7), Code::MalformedAck, "an ack of what was never seen");
}

#[test]
fn c3_an_evicted_or_replaced_session_never_executes_again() {
    let mut table = Table::new(&params());
    let first = table.open(1, SessionId(0), 1);
    assert_eq!(table.code(1, first, 1, 0), Code::Ok);
    for client in 2..=4 {
        table.open(client, SessionId(0), 1);
    }
    assert_eq!(table.sessions.len(), 3, "the table is full, and the least recently used session is gone");
    assert_eq!(table.code(1, first, 2, 0), Code::SessionUnknown);
    assert_eq!(table.code(1, first, 1, 0), Code::SessionUnknown);
    let second = table.open(1, SessionId(0), 2);
    assert!(second > first, "ids are never used again");
    let third = table.open(1, second, 3);
    assert_eq!(table.code(1, second, 1, 0), Code::SessionUnknown);
    assert_eq!(table.code(1, third, 1, 0), Code::Ok);
}

#[test]
fn c7_another_body_under_a_used_number_is_a_conflict() {
    let mut table = Table::new(&params());
    let session = table.open(1, SessionId(0), 1);
    assert_eq!(table.order(&request(1, session, 1, 0, 0, b"one")).code, Code::Ok);
    assert_eq!(table.order(&request(1, session, 1, 0, 0, b"other")).code, Code::Conflict);
    assert_eq!(table.ran.len(), 1);
}

#[test]
fn c11_a_replayed_opening_neither_closes_nor_evicts() {
    let params = ProtocolParams { checkpoint_interval: 1, window: 2, ..params() };
    let mut table = Table::new(&params);
    let old = opening(1, SessionId(0), 0, 1);
    let first = SessionId(read_opening_results(&table.order(&old).results).unwrap().1);
    assert_eq!(table.order(&old).results, opening_results(old.entry.digest, first.0), "answered again, not opened");
    let second = table.open(1, first, 2);
    let replayed = table.order(&old);
    assert_eq!(replayed.code, Code::SessionOpen, "the living session is not the one it would replace");
    assert_eq!(read_opening_results(&replayed.results).unwrap().1, second.0);
    for _ in 0..200 {
        table.code(1, second, 0, 0);
    }
    assert_eq!(table.order(&old).code, Code::SessionStale, "and after its window it is too old for anything");
    assert_eq!(table.order(&opening(2, SessionId(0), 10_000, 1)).code, Code::SessionStale, "nor may it be ahead");
    assert_eq!(table.code(1, second, 1, 0), Code::Ok);
}

#[test]
fn c14_results_are_kept_until_they_are_acknowledged() {
    let params = ProtocolParams { reply_bytes_max: 64, ..params() };
    let mut table = Table::new(&params);
    let session = table.open(1, SessionId(0), 1);
    let first = request(1, session, 1, 0, 0, b"a");
    assert_eq!(table.order_with(&first, &[7; 64]).results.len(), 64);
    assert_eq!(table.sessions.answered(&first.entry).unwrap().results, vec![7; 64], "again, in full");
    let large = request(1, session, 2, 0, 0, b"b");
    assert_eq!(table.order_with(&large, &[7; 65]).code, Code::ReplyTooLarge);
    assert_eq!(table.order_with(&large, &[7; 65]).code, Code::ReplyTooLarge, "and it does not run again");
    assert_eq!(table.ran[&b"b"[..]], 1);
}

#[test]
fn c17_the_lowest_open_number_always_runs() {
    let params = ProtocolParams { reply_bytes_max: 1 << 20, client_window: 8, ..params() };
    let mut table = Table::new(&params);
    let session = table.open(1, SessionId(0), 1);
    let half = vec![1; SESSION_RESULT_BYTES / 2];
    for req_no in [2u64, 3] {
        assert_eq!(table.order_with(&request(1, session, req_no, 0, 0, &[req_no as u8]), &half).code, Code::Ok);
    }
    assert_eq!(table.code(1, session, 4, 0), Code::Window, "a mebibyte of results waits");
    assert_eq!(table.code(1, session, 1, 0), Code::Ok, "whose end frees them");
    assert_eq!(table.code(1, session, 4, 3), Code::Ok);
}

#[test]
fn c19_sessions_within_their_share_survive_those_that_never_acknowledge() {
    let params = ProtocolParams { reply_bytes_max: 4096, reply_cache_bytes: 6000, ..params() };
    let mut table = Table::new(&params);
    let modest = table.open(1, SessionId(0), 1);
    assert_eq!(table.order_with(&request(1, modest, 1, 0, 0, b"m"), &[1; 100]).code, Code::Ok);
    let greedy = [2, 3].map(|client| table.open(client, SessionId(0), 1));
    for req_no in 1..=2u64 {
        for (client, session) in [2, 3].into_iter().zip(greedy) {
            table.order_with(&request(client, session, req_no, 0, 0, &[client, req_no as u8]), &[2; 3000]);
        }
    }
    assert!(table.sessions.cached_bytes() <= 6000 + 3000, "what is cached is bounded");
    assert_eq!(table.order(&request(1, modest, 1, 0, 0, b"m")).results, vec![1; 100], "its answer is still there");
}

#[test]
fn c4_a_restored_table_refuses_what_the_first_one_executed() {
    let mut table = Table::new(&params());
    let session = table.open(1, SessionId(0), 1);
    for req_no in [1, 3] {
        table.code(1, session, req_no, 0);
    }
    let image = table.sessions.image(Scalars::default());
    let bytes = Bytes::from(image.encode());
    let decoded = ClientsImage::decode(&bytes).unwrap();
    assert_eq!(decoded, image);
    table.sessions = Sessions::restore(&params(), decoded);
    for req_no in [1, 3, 2] {
        assert_eq!(table.code(1, session, req_no, 0), Code::Ok);
    }
    assert!(table.ran.values().all(|times| *times == 1), "none ran twice");
    assert_eq!(table.sessions.image(Scalars::default()).sessions[0].replies.len(), 3);
}

#[test]
fn a_closed_session_is_gone() {
    let mut table = Table::new(&params());
    let session = table.open(1, SessionId(0), 1);
    let close = request(1, session, 1, 0, FLAG_CLOSE, b"");
    assert_eq!(table.order(&close).code, Code::Closed);
    assert_eq!(table.code(1, session, 2, 0), Code::SessionUnknown);
    assert!(table.sessions.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is ordered, in whatever order, however often: nothing runs twice in one life of a session, and the
    /// restored table decides as the live one.
    #[test]
    fn c5_nothing_runs_twice_under_any_order(
        steps in prop::collection::vec((1..4u8, 0..8u64, 0..6u64, any::<bool>()), 1..120),
    ) {
        let params = params();
        let mut table = Table::new(&params);
        let mut current: BTreeMap<u8, SessionId> = BTreeMap::new();
        let mut ran: BTreeSet<(SessionId, u64)> = BTreeSet::new();
        for (nonce, (client, req_no, ack, reopen)) in (0u8..).zip(steps) {
            if reopen && req_no == 0 {
                let replaces = current.get(&client).copied().unwrap_or_default();
                let reply = table.order(&opening(client, replaces, table.seq.0, nonce));
                let (_, number) = read_opening_results(&reply.results).unwrap();
                prop_assert!(matches!(reply.code, Code::Ok | Code::SessionOpen));
                current.insert(client, SessionId(number));
                continue;
            }
            let Some(session) = current.get(&client).copied() else { continue };
            let before = table.ran.values().sum::<u32>();
            table.order(&request(client, session, req_no, ack, 0, &[client, req_no as u8]));
            if table.ran.values().sum::<u32>() > before {
                prop_assert!(ran.insert((session, req_no)), "{session:?} {req_no} ran twice");
            }
            let image = table.sessions.image(Scalars::default());
            let restored = Sessions::restore(&params, image.clone());
            prop_assert_eq!(restored.image(Scalars::default()), image);
        }
    }
}

#[test]
fn mem1_an_opening_has_room_while_it_ends_no_session_in_use() {
    let mut table = Table::new(&params());
    let key = |client: u8| PublicKey([client; 32]);
    let first = table.open(1, SessionId(0), 1);
    table.open(2, SessionId(0), 1);
    assert_eq!(table.sessions.room(2, 0), 1);
    table.open(3, SessionId(0), 1);
    let mark = table.sessions.next_recency();
    assert_eq!(table.sessions.room(1, 0), 0);
    assert!(table.sessions.has_one(&key(1)) && !table.sessions.has_one(&key(4)));
    assert_eq!(table.code(1, first, 1, 0), Code::Ok);
    assert_eq!(table.sessions.room(4, mark), 2, "two were not used since, the third was");
    assert_eq!(table.sessions.room(1, mark), 1, "no more than is wanted");
}
