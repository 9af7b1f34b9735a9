//! Random runs: whatever gets lost, lies or is given up, every operation ends once, and as an honest cluster has it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

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
                    self.harness.hear(LIAR.0, &Answer::Reply(lie));
                }
            }
            Move::Busy { from, which } => {
                if let Some(request) = self.pick(which) {
                    let busy = Busy { request: request.entry.digest, retry_after_ms: 30 };
                    self.harness.hear(from, &Answer::Busy(busy));
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
            self.harness.hear(replica, &Answer::Reply(Reply { results, ..reply.clone() }));
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
