//! Requests that wait to be ordered: at the primary until they are proposed, at a backup until they are executed. Bounded
//! for each client and in total; taken by deficit round robin over clients, so that one who sends much cannot keep the
//! others waiting (PROTOCOL §6.1, §14).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crate::ids::{Digest, PublicKey, RequestNo, SessionId};
use crate::wire::request::{Body, RequestEntry, SignedRequest};

/// Bytes that a client may put into a batch before it is another's turn.
const QUANTUM: usize = 16 * 1024;
/// Requests that the empty queues which are kept for the next clients have room for, all together.
const SPARE_ROOM_MAX: usize = 4096;

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;
type Set<K> = HashSet<K, foldhash::fast::FixedState>;

/// What bounds a pool and the batches taken from it.
#[derive(Clone, Copy, Debug)]
pub struct PoolBounds {
    /// Bytes in total.
    pub bytes: usize,
    /// Bytes of one client.
    pub bytes_per_client: usize,
    /// Requests of one client.
    pub requests_per_client: usize,
    /// Bytes of a batch's body.
    pub batch_bytes: usize,
    /// Requests of a batch.
    pub batch_requests: usize,
}

/// What became of a Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It waits.
    New,
    /// It waits already, or is in a batch that is not executed yet.
    Known,
    /// The pool, or the client's part of it, is full.
    Full,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    bounds: PoolBounds,
    queues: Map<PublicKey, Queue>,
    /// Clients with something waiting, in the order of their turns.
    turns: VecDeque<PublicKey>,
    /// Every Request that waits, or was taken and is not executed yet.
    known: Set<Digest>,
    /// Those of them that open a session, and whose they are.
    openings: BTreeMap<Digest, PublicKey>,
    bytes: usize,
    waiting: usize,
    /// Memory of queues that came to their end.
    spare: Vec<VecDeque<SignedRequest>>,
    /// Requests that these have room for.
    spare_room: usize,
    /// Used by [`Self::take`], empty in between: the numbers in the batch, and clients that wait for the next one.
    keys: Set<(PublicKey, SessionId, RequestNo)>,
    set_aside: VecDeque<PublicKey>,
}

#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<SignedRequest>,
    bytes: usize,
    deficit: usize,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(bounds: PoolBounds) -> Self {
        Self {
            bounds,
            queues: Map::default(),
            turns: VecDeque::new(),
            known: Set::default(),
            openings: BTreeMap::new(),
            bytes: 0,
            waiting: 0,
            spare: Vec::new(),
            spare_room: 0,
            keys: Set::default(),
            set_aside: VecDeque::new(),
        }
    }

    /// Puts a Request at the end of its client's queue.
    pub fn add(&mut self, request: &SignedRequest) -> Added {
        if self.known.contains(&request.entry.digest) {
            return Added::Known;
        }
        let size = request.bytes.len();
        let client = request.entry.client;
        let (its_bytes, its_requests) =
            self.queues.get(&client).map_or((0, 0), |queue| (queue.bytes, queue.requests.len()));
        let client_is_full =
            its_bytes + size > self.bounds.bytes_per_client || its_requests >= self.bounds.requests_per_client;
        if client_is_full || self.bytes + size > self.bounds.bytes {
            return Added::Full;
        }
        let queue = self.queues.entry(client).or_insert_with(|| {
            self.turns.push_back(client);
            let requests = self.spare.pop().unwrap_or_default();
            self.spare_room -= requests.capacity();
            Queue { requests, ..Queue::default() }
        });
        queue.requests.push_back(request.clone());
        queue.bytes += size;
        self.bytes += size;
        self.waiting += 1;
        self.know(&request.entry);
        Added::New
    }

    /// Marks a Request as in a batch that is not executed yet, although it was not taken from here.
    pub fn mark_ordered(&mut self, entry: &RequestEntry) {
        self.know(entry);
    }

    /// Batches that were not executed may never be: their Requests may be added and taken again.
    pub fn forget_ordered(&mut self) {
        let known: Set<_> = self.iter().map(|request| request.entry.digest).collect();
        self.openings.retain(|digest, _| known.contains(digest));
        self.known = known;
    }

    /// A batch that holds this Request is proposed: it waits no longer, and is known until it is executed.
    pub fn ordered(&mut self, entry: &RequestEntry) {
        self.forget(&entry.client, &entry.digest);
        self.know(entry);
    }

    /// Takes Requests for one batch: whole turns, until the batch or the pool is at its end.
    pub fn take(&mut self, out: &mut Vec<SignedRequest>) {
        let mut room = self.bounds.batch_bytes;
        self.keys.clear();
        while let Some(client) = self.turns.pop_front() {
            let queue = self.queues.get_mut(&client).expect("a client with a turn has a queue");
            queue.deficit += QUANTUM;
            let mut batch_is_full = false;
            let mut is_set_aside = false;
            while let Some(request) = queue.requests.front() {
                let size = request.bytes.len();
                // Two bodies under one number, as a client that signs again sends them: no batch may hold both.
                if self.keys.contains(&request.entry.key()) {
                    is_set_aside = true;
                    break;
                }
                if size + Body::overhead(out.len() + 1) > room || out.len() == self.bounds.batch_requests {
                    batch_is_full = true;
                    break;
                }
                if size > queue.deficit {
                    break;
                }
                room -= size;
                queue.deficit -= size;
                queue.bytes -= size;
                self.bytes -= size;
                self.waiting -= 1;
                self.keys.insert(request.entry.key());
                out.push(queue.requests.pop_front().expect("it has a front"));
            }
            if is_set_aside {
                queue.deficit = 0;
                self.set_aside.push_back(client);
                continue;
            }
            let rest = !queue.requests.is_empty();
            match (rest, batch_is_full) {
                (false, _) => self.forget_queue(&client),
                (true, false) => self.turns.push_back(client),
                (true, true) => {
                    // It keeps its turn, and what it could not use of it is not paid twice.
                    queue.deficit = queue.deficit.saturating_sub(QUANTUM);
                    self.turns.push_front(client);
                    break;
                }
            }
        }
        self.turns.append(&mut self.set_aside);
    }

    /// A batch with this Request was executed.
    pub fn executed(&mut self, client: &PublicKey, digest: &Digest) {
        self.forget(client, digest);
    }

    /// Drops what `is_open` no longer wants: Requests that lost to another body under their number, or whose session is
    /// gone.
    pub fn purge(&mut self, is_open: &dyn Fn(&SignedRequest) -> bool) {
        let mut clients = std::mem::take(&mut self.turns);
        clients.retain(|client| {
            let queue = self.queues.get_mut(client).expect("a client with a turn has a queue");
            queue.requests.retain(|request| {
                let keep = is_open(request);
                if !keep {
                    self.known.remove(&request.entry.digest);
                    self.openings.remove(&request.entry.digest);
                    queue.bytes -= request.bytes.len();
                    self.bytes -= request.bytes.len();
                    self.waiting -= 1;
                }
                keep
            });
            let keep = !queue.requests.is_empty();
            if !keep {
                self.forget_queue(client);
            }
            keep
        });
        self.turns = clients;
    }

    /// Drops openings that wait for more room than there is for those on their way and for them; who `replaces` a session
    /// of its own needs none.
    pub fn drop_openings(&mut self, room: usize, replaces: &dyn Fn(&PublicKey) -> bool) {
        let openings = self.openings.iter().map(|(digest, client)| (*digest, *client));
        let in_need = openings.filter(|(_, client)| !replaces(client));
        let (waiting, on_their_way): (Vec<_>, Vec<_>) =
            in_need.partition(|(digest, client)| self.find(client, digest).is_some());
        for (digest, client) in waiting.into_iter().skip(room.saturating_sub(on_their_way.len())) {
            self.forget(&client, &digest);
        }
    }

    /// A Request that waits.
    #[must_use]
    pub fn find(&self, client: &PublicKey, digest: &Digest) -> Option<&SignedRequest> {
        self.queues.get(client)?.requests.iter().find(|request| request.entry.digest == *digest)
    }

    /// How many Requests wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The bytes of those that wait, and the most that may.
    #[must_use]
    pub fn fill(&self) -> (usize, usize) {
        (self.bytes, self.bounds.bytes)
    }

    /// Whether a Request waits, or is in a batch that is not executed yet.
    #[must_use]
    pub fn knows(&self, digest: &Digest) -> bool {
        self.known.contains(digest)
    }

    /// How many Requests that open a session wait, or are in a batch that is not executed yet.
    #[must_use]
    pub fn openings(&self) -> usize {
        self.openings.len()
    }

    /// The Requests that wait, client by client.
    pub fn iter(&self) -> impl Iterator<Item = &SignedRequest> {
        self.turns.iter().flat_map(|client| &self.queues[client].requests)
    }

    /// Of each client that waits the Request that came first.
    pub fn oldest_of_each(&self) -> impl Iterator<Item = &SignedRequest> {
        self.turns.iter().map(|client| &self.queues[client].requests[0])
    }

    /// Recounts; `open`: the Requests of batches that are to be executed yet, where all of them are known. For the
    /// invariants.
    pub fn check(&self, open: Option<&BTreeSet<Digest>>) {
        let bytes: usize = self.iter().map(|request| request.bytes.len()).sum();
        assert_eq!(bytes, self.bytes, "pool bytes are counted right");
        assert_eq!(self.iter().count(), self.waiting, "waiting Requests are counted right");
        assert_eq!(self.turns.len(), self.queues.len(), "each queue has its turn");
        assert!(self.bytes <= self.bounds.bytes);
        let spare_room: usize = self.spare.iter().map(VecDeque::capacity).sum();
        assert!(spare_room == self.spare_room && spare_room <= SPARE_ROOM_MAX, "spare queues are counted right");
        let waiting: BTreeSet<_> = self.iter().map(|request| request.entry.digest).collect();
        assert!(waiting.iter().all(|digest| self.known.contains(digest)));
        if let Some(open) = open {
            let known = waiting.union(open).filter(|digest| self.known.contains(*digest)).count();
            assert_eq!(known, self.known.len(), "what neither waits nor is in an open batch may come again");
        }
        assert!(
            self.openings.keys().all(|opening| self.known.contains(opening)),
            "openings are forgotten with the rest"
        );
    }

    fn know(&mut self, entry: &RequestEntry) {
        self.known.insert(entry.digest);
        if entry.session == SessionId(0) {
            self.openings.insert(entry.digest, entry.client);
        }
    }

    /// It is known no longer, and if it waits, it waits no longer.
    fn forget(&mut self, client: &PublicKey, digest: &Digest) {
        if !self.known.remove(digest) {
            return;
        }
        self.openings.remove(digest);
        let Some(queue) = self.queues.get_mut(client) else { return };
        let Some(index) = queue.requests.iter().position(|request| request.entry.digest == *digest) else { return };
        let request = queue.requests.remove(index).expect("it was found there");
        queue.bytes -= request.bytes.len();
        self.bytes -= request.bytes.len();
        self.waiting -= 1;
        if queue.requests.is_empty() {
            self.forget_queue(client);
            self.turns.retain(|other| other != client);
        }
    }

    /// Lets go of an empty queue; its memory serves the next client.
    fn forget_queue(&mut self, client: &PublicKey) {
        let queue = self.queues.remove(client).expect("a client has a queue as long as it has something waiting");
        assert!(queue.requests.is_empty());
        if self.spare_room + queue.requests.capacity() <= SPARE_ROOM_MAX {
            self.spare_room += queue.requests.capacity();
            self.spare.push(queue.requests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{RequestNo, SessionId, Signature};
    use crate::wire::request::{RequestBounds, encode_request};

    const BOUNDS: PoolBounds = PoolBounds {
        bytes: 1 << 20,
        bytes_per_client: 1 << 19,
        requests_per_client: 64,
        batch_bytes: 64 * 1024,
        batch_requests: 100,
    };

    fn request(client: u8, req_no: u64, size: usize) -> SignedRequest {
        request_of(SessionId(1), client, req_no, size)
    }

    fn request_of(session: SessionId, client: u8, req_no: u64, size: usize) -> SignedRequest {
        let operation = vec![client; size];
        let bytes = encode_request(
            PublicKey([client; 32]),
            session,
            RequestNo(req_no),
            RequestNo(0),
            0,
            [&operation[..]].into_iter(),
            |_| Signature([1; 64]),
        );
        let bounds = RequestBounds { request_bytes: 1 << 20, operations: 8, requests: 100, body_bytes: 1 << 20 };
        SignedRequest::parse(bytes, bounds).unwrap()
    }

    fn digests<'a>(requests: impl IntoIterator<Item = &'a SignedRequest>) -> BTreeSet<Digest> {
        requests.into_iter().map(|request| request.entry.digest).collect()
    }

    #[test]
    fn pf4_a_client_that_floods_leaves_the_others_their_share() {
        let mut pool = Pool::new(BOUNDS);
        for req_no in 1..=30 {
            assert_eq!(pool.add(&request(1, req_no, 12_000)), Added::New);
        }
        assert_eq!(pool.add(&request(2, 1, 100)), Added::New);
        let mut batch = Vec::new();
        pool.take(&mut batch);
        pool.check(Some(&digests(&batch)));
        assert!(batch.iter().any(|request| request.entry.client == PublicKey([2; 32])), "in the first batch");
        assert!(batch.len() >= 5, "and the batch is full all the same");
        let of_first: Vec<_> = batch.iter().filter(|r| r.entry.client.0[0] == 1).map(|r| r.entry.req_no.0).collect();
        assert!(of_first.is_sorted(), "a client's Requests keep their order");
    }

    #[test]
    fn mem1_the_pool_is_bounded_for_each_client_and_in_total() {
        let mut pool = Pool::new(BOUNDS);
        assert!((1..=64).all(|req_no| pool.add(&request(1, req_no, 10)) == Added::New));
        assert_eq!(pool.add(&request(1, 65, 10)), Added::Full);
        assert_eq!(pool.add(&request(1, 1, 10)), Added::Known);
        for client in 2..=4 {
            for req_no in 1..=5 {
                pool.add(&request(client, req_no, 100_000));
            }
        }
        pool.check(Some(&BTreeSet::new()));
        assert!(pool.bytes <= BOUNDS.bytes);
    }

    #[test]
    fn c7_two_bodies_under_one_number_never_share_a_batch() {
        let mut pool = Pool::new(BOUNDS);
        for size in [10, 11] {
            assert_eq!(pool.add(&request(1, 1, size)), Added::New);
        }
        assert_eq!(pool.add(&request(2, 1, 10)), Added::New);
        let mut batches = [Vec::new(), Vec::new()];
        let mut taken = BTreeSet::new();
        for batch in &mut batches {
            pool.take(batch);
            taken.extend(digests(&*batch));
            pool.check(Some(&taken));
            let bounds = RequestBounds { request_bytes: 1 << 20, operations: 8, requests: 100, body_bytes: 1 << 20 };
            Body::parse(Body::join(batch).bytes().clone(), bounds).expect("a batch that every replica accepts");
        }
        assert_eq!(batches.map(|batch| batch.len()), [2, 1]);
    }

    #[test]
    fn openings_are_counted_until_they_are_executed() {
        let mut pool = Pool::new(BOUNDS);
        let openings: Vec<_> = (1..=3).map(|client| request_of(SessionId(0), client, 0, 10)).collect();
        assert!(openings.iter().chain([&request(4, 1, 10)]).all(|request| pool.add(request) == Added::New));
        assert_eq!(pool.openings(), 3);
        let mut batch = Vec::new();
        pool.take(&mut batch);
        assert_eq!((pool.waiting(), pool.openings()), (0, 3), "they are on their way");
        assert!(openings.iter().all(|opening| pool.knows(&opening.entry.digest)));
        for opening in &openings {
            pool.executed(&opening.entry.client, &opening.entry.digest);
        }
        pool.check(Some(&digests(&[request(4, 1, 10)])));
        assert_eq!(pool.openings(), 0);
    }

    #[test]
    fn mem1_openings_that_wait_for_more_room_than_there_is_are_dropped() {
        let mut pool = Pool::new(BOUNDS);
        let openings: Vec<_> = (1..=4).map(|client| request_of(SessionId(0), client, 0, 10)).collect();
        pool.mark_ordered(&openings[0].entry);
        assert!(openings[1..].iter().chain([&request(5, 1, 10)]).all(|request| pool.add(request) == Added::New));
        let second = &openings[1].entry;
        // Room for two: one is on its way to it.
        pool.drop_openings(2, &|client| *client == second.client);
        pool.check(Some(&digests(&openings[..1])));
        assert_eq!((pool.openings(), pool.waiting()), (3, 3), "who replaces its own, and who opens nothing, wait on");
        assert!(pool.knows(&openings[0].entry.digest) && pool.knows(&second.digest));
        pool.drop_openings(0, &|_| false);
        pool.check(Some(&digests(&openings[..1])));
        assert_eq!((pool.openings(), pool.waiting()), (1, 1), "what is on its way is not taken back");
        pool.forget_ordered();
        assert_eq!(pool.openings(), 0);
    }

    #[test]
    fn executed_and_purged_requests_leave_no_trace() {
        let mut pool = Pool::new(BOUNDS);
        let requests: Vec<_> = (1..=4).map(|req_no| request(1, req_no, 10)).collect();
        assert!(requests.iter().all(|request| pool.add(request) == Added::New));
        pool.executed(&requests[1].entry.client, &requests[1].entry.digest);
        pool.check(Some(&BTreeSet::new()));
        assert_eq!(pool.waiting(), 3);
        pool.purge(&|request| request.entry.req_no.0 > 3);
        pool.check(Some(&BTreeSet::new()));
        assert_eq!(pool.waiting(), 1);
        pool.executed(&requests[3].entry.client, &requests[3].entry.digest);
        pool.check(Some(&BTreeSet::new()));
        assert_eq!(pool.add(&requests[0]), Added::New, "what left may come again");
    }
}
