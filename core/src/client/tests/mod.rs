//! The client against hand-made answers: four replicas of which the last one lies. Here: what the tests of every file ask
//! and answer with.
//!
//! * `answers`: what it takes for an answer; `requests`: what it sends, and how much; `patience`: when it sends again, and
//!   how operations end; `sessions`: opening, losing and closing; `model`: random runs against an honest table.

use std::sync::Arc;

use bytes::Bytes;

use super::replies::BUSY_PATIENCE;
use super::*;
use crate::auth::Ed25519;
use crate::config::{Admission, Member, ProtocolParams};
use crate::ids::{ClusterId, Epoch};
use crate::limits::{CLIENT_GATHER_FROM, CLIENT_TIMEOUT_FIRST, CLIENT_TIMEOUT_MIN, MILLISECOND, SESSION_RESULT_BYTES};
use crate::wire::message::{Busy, Code, Info, Reply};
use crate::wire::opening::{Opening, opening_results};
use crate::wire::request::{FLAG_CLOSE, SignedRequest, result_digest};

mod answers;
mod model;
mod patience;
mod requests;
mod sessions;

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

    fn hear(&mut self, from: u16, answer: &Answer) {
        self.step(|core, now, out| core.on_answer(now, ReplicaId(from), answer, out));
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
        self.hear(replica, &Answer::Info(Box::new(info)));
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
            self.hear(*replica, &Answer::Reply(reply(request, seq, code, results)));
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
