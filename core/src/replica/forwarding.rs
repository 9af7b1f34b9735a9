//! Requests that a backup passes on to its primary: a client that sends to all may not reach the primary. Most of them
//! have: so a Request is passed on only when it still waits a STATUS interval later, and few at a time. Under overload,
//! when clients send everything to all, this is what keeps replicas from doing their clients' work once more.

use std::collections::{HashSet, VecDeque};

use super::pool::Pool;
use crate::ids::{Digest, Nanos, PublicKey};
use crate::wire::request::{RequestEntry, SignedRequest};

/// Requests that are remembered; beyond that clients send again.
const REMEMBERED_MAX: usize = 4096;
/// Requests that are passed on at a time.
const AT_A_TIME: usize = 32;

/// What may have to be passed on.
#[derive(Debug, Default)]
pub struct Forwarding {
    waiting: VecDeque<(Nanos, PublicKey, Digest)>,
    known: HashSet<Digest, foldhash::fast::FixedState>,
}

impl Forwarding {
    /// A client sent this here.
    pub fn note(&mut self, now: Nanos, entry: &RequestEntry) {
        if self.waiting.len() < REMEMBERED_MAX && self.known.insert(entry.digest) {
            self.waiting.push_back((now, entry.client, entry.digest));
        }
    }

    /// What still waits `patience` after it came.
    pub fn due(&mut self, now: Nanos, patience: u64, pool: &Pool) -> Vec<SignedRequest> {
        let mut due = Vec::new();
        while due.len() < AT_A_TIME
            && let Some((_, client, digest)) = self.waiting.pop_front_if(|(at, _, _)| now.since(*at) >= patience)
        {
            self.known.remove(&digest);
            due.extend(pool.find(&client, &digest).cloned());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{RequestNo, SessionId, Signature};
    use crate::replica::pool::PoolBounds;
    use crate::wire::request::{RequestBounds, encode_request};

    fn request(req_no: u64) -> SignedRequest {
        let sign = |_| Signature([1; 64]);
        let (session, req_no, ack) = (SessionId(1), RequestNo(req_no), RequestNo(0));
        let bytes = encode_request(PublicKey([3; 32]), session, req_no, ack, 0, [&b"op"[..]].into_iter(), sign);
        let bounds = RequestBounds { request_bytes: 4096, operations: 8, requests: 100, body_bytes: 1 << 16 };
        SignedRequest::parse(bytes, bounds).unwrap()
    }

    #[test]
    fn pf4_only_what_still_waits_is_passed_on_and_little_at_a_time() {
        let bounds = PoolBounds {
            bytes: 1 << 20,
            bytes_per_client: 1 << 20,
            requests_per_client: 1024,
            batch_bytes: 1 << 16,
            batch_requests: 100,
        };
        let (mut pool, mut forwarding) = (Pool::new(bounds), Forwarding::default());
        let requests: Vec<_> = (1..=100).map(request).collect();
        for request in requests.iter().chain(&requests) {
            pool.add(request);
            forwarding.note(Nanos(5), &request.entry);
        }
        assert!(forwarding.due(Nanos(14), 10, &pool).is_empty(), "most of them are about to be proposed");
        requests[..60].iter().for_each(|request| pool.executed(&request.entry.client, &request.entry.digest));
        let first = forwarding.due(Nanos(15), 10, &pool);
        assert_eq!(first, requests[60..60 + AT_A_TIME]);
        let rest = forwarding.due(Nanos(15), 10, &pool);
        assert_eq!(rest, requests[60 + AT_A_TIME..]);
        forwarding.note(Nanos(15), &requests[99].entry);
        assert_eq!(forwarding.due(Nanos(25), 10, &pool), requests[99..], "what is sent again may be passed on again");
    }
}
