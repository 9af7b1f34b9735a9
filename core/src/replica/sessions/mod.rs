//! The client table: exactly-once execution (PROTOCOL §5). Replicated state: everything here is a function of the
//! executed batches alone, but for the links that answers go to. Two phases a batch: [`Sessions::admit`] decides about
//! every Request before the service sees the batch, [`Sessions::complete`] keeps the results.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use crate::config::ProtocolParams;
use crate::ids::{Digest, PublicKey, RequestNo, Seq, SessionId};
use crate::limits::{OPEN_SESSION_AGE_WINDOWS, SESSION_RESULT_BYTES};
use crate::snapshot::{CachedReply, ClientsImage, Scalars, SessionImage};
use crate::wire::message::Code;
use crate::wire::opening::{Opening, opening_results};
use crate::wire::request::{FLAG_CLOSE, RequestEntry, result_digest};

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// What becomes of one Request of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the service.
    Run,
    /// It does not: the answer is known.
    Answer(CachedReply),
}

/// The client table.
#[derive(Debug)]
pub struct Sessions {
    params: ProtocolParams,
    table: BTreeMap<SessionId, Session>,
    by_client: Map<PublicKey, SessionId>,
    /// The ends of a list of all sessions in the order of their last use; 0 if there is none.
    oldest: SessionId,
    newest: SessionId,
    next_recency: u64,
    cached_bytes: u64,
}

#[derive(Debug)]
struct Session {
    client: PublicKey,
    opened_by: Digest,
    opened_at: Seq,
    recency: u64,
    /// Its neighbours in the list by recency; 0 at the ends.
    older: SessionId,
    newer: SessionId,
    floor: RequestNo,
    max_seen: RequestNo,
    /// Entry i is the answer to `floor + 1 + i`.
    replies: VecDeque<Option<CachedReply>>,
    result_bytes: usize,
}

impl Sessions {
    /// An empty table.
    #[must_use]
    pub fn new(params: &ProtocolParams) -> Self {
        Self {
            params: params.clone(),
            table: BTreeMap::new(),
            by_client: Map::default(),
            oldest: SessionId(0),
            newest: SessionId(0),
            next_recency: 1,
            cached_bytes: 0,
        }
    }

    /// The table of a snapshot.
    #[must_use]
    pub fn restore(params: &ProtocolParams, image: ClientsImage) -> Self {
        let mut sessions = Self { next_recency: image.next_recency, ..Self::new(params) };
        let mut ages: Vec<_> = image.sessions.iter().map(|session| (session.recency, session.id)).collect();
        ages.sort_unstable();
        for session in image.sessions {
            let SessionImage { id, client, opened_by, opened_at, recency, floor, max_seen, replies } = session;
            let mut restored = Session {
                client,
                opened_by,
                opened_at,
                recency,
                older: SessionId(0),
                newer: SessionId(0),
                floor,
                max_seen,
                replies: VecDeque::new(),
                result_bytes: 0,
            };
            for reply in replies {
                sessions.cached_bytes += restored.put(reply) as u64;
            }
            sessions.insert(id, restored);
        }
        ages.into_iter().for_each(|(_, id)| sessions.link_newest(id));
        sessions
    }

    /// Decides about one Request of the batch at `seq`, in the order of the batch. `admitted` says whether the client
    /// may be one, by the certificate that its opening carries.
    pub fn admit(
        &mut self,
        seq: Seq,
        index: u32,
        entry: &RequestEntry,
        body: &[u8],
        admitted: &dyn Fn(&Opening) -> bool,
    ) -> Verdict {
        if entry.session == SessionId(0) {
            return Verdict::Answer(self.open(seq, index, entry, body, admitted));
        }
        let window = self.params.client_window;
        let mut freed = 0;
        let verdict = match self.table.get_mut(&entry.session) {
            Some(session) if session.client == entry.client => session.admit(entry, window, &mut freed),
            _ => Err(Code::SessionUnknown),
        };
        self.cached_bytes -= freed as u64;
        match verdict {
            Ok(None) if entry.flags & FLAG_CLOSE != 0 => {
                self.remove(entry.session);
                Verdict::Answer(refusal(seq, entry, Code::Closed))
            }
            Ok(None) => {
                self.touch(entry.session);
                Verdict::Run
            }
            Ok(Some(cached)) => Verdict::Answer(cached),
            Err(code) => Verdict::Answer(refusal(seq, entry, code)),
        }
    }

    /// Keeps the results of a Request that ran, and gives its answer. Results above the bound become the code
    /// `ReplyTooLarge`, at every replica.
    pub fn complete(&mut self, seq: Seq, entry: &RequestEntry, results: Bytes, digest: Option<Digest>) -> CachedReply {
        let reply = match digest {
            Some(digest) if results.len() <= self.params.reply_bytes_max as usize => {
                let (req_no, content) = (entry.req_no, entry.content);
                CachedReply { req_no, seq, code: Code::Ok, content, digest, results }
            }
            _ => refusal(seq, entry, Code::ReplyTooLarge),
        };
        // An opening later in the same batch may have evicted the session.
        if let Some(session) = self.table.get_mut(&entry.session) {
            crate::mutant!(M55RefusedNotSeen, {}, {
                if reply.code == Code::Ok {
                    session.max_seen = session.max_seen.max(entry.req_no);
                }
            });
            self.cached_bytes += session.put(reply.clone()) as u64;
            self.evict_for_bytes(entry.session);
        }
        reply
    }

    /// What to answer at once to a Request that came from a link and needs no ordering: it was executed.
    #[must_use]
    pub fn answered(&self, entry: &RequestEntry) -> Option<CachedReply> {
        if entry.session == SessionId(0) {
            let (id, session) = self.session_of(&entry.client)?;
            return (session.opened_by == entry.digest).then(|| opened(session.opened_at, entry, id));
        }
        let session = self.table.get(&entry.session).filter(|session| session.client == entry.client)?;
        session.get(entry.req_no).filter(|reply| reply.content == entry.content).cloned()
    }

    /// Whether the client has said itself that it needs no answer any more: nobody who is correct orders such a Request.
    #[must_use]
    pub fn is_acknowledged(&self, entry: &RequestEntry) -> bool {
        let session = self.table.get(&entry.session).filter(|session| session.client == entry.client);
        session.is_some_and(|session| entry.req_no <= session.floor)
    }

    /// Whether ordering this Request could still have an effect or an answer: it is not known to be done.
    #[must_use]
    pub fn is_open(&self, entry: &RequestEntry) -> bool {
        match self.table.get(&entry.session).filter(|session| session.client == entry.client) {
            Some(session) => entry.req_no > session.floor && session.get(entry.req_no).is_none(),
            None => self.session_of(&entry.client).is_none_or(|(_, session)| session.opened_by != entry.digest),
        }
    }

    /// How many of `wanted` sessions can be opened without an end to one that was in use since the time of `idle_below`
    /// (what [`Self::next_recency`] was then).
    #[must_use]
    pub fn room(&self, wanted: usize, idle_below: u64) -> usize {
        let free = wanted.min(self.params.sessions_max as usize - self.table.len());
        let idle = self.by_age().take_while(|(_, session)| session.recency < idle_below);
        free + idle.take(wanted - free).count()
    }

    /// Whether `client` has one: another one replaces it, and needs no room.
    #[must_use]
    pub fn has_one(&self, client: &PublicKey) -> bool {
        self.by_client.contains_key(client)
    }

    /// Sessions that are used from now on have at least this recency.
    #[must_use]
    pub fn next_recency(&self) -> u64 {
        self.next_recency
    }

    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes of all cached results.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.cached_bytes
    }

    /// The table as of now; shares the results' bytes.
    #[must_use]
    pub fn image(&self, scalars: Scalars) -> ClientsImage {
        let sessions = self.table.iter().map(|(id, session)| session.image(*id)).collect();
        ClientsImage { scalars, next_recency: self.next_recency, sessions }
    }

    /// Recounts what is kept beside the table. For the invariants.
    pub fn check(&self) {
        let bytes: usize = self.table.values().map(|session| session.result_bytes).sum();
        assert_eq!(bytes as u64, self.cached_bytes, "cached bytes are counted right");
        assert_eq!(self.table.len(), self.by_client.len(), "one session a client");
        let by_age: Vec<_> = self.by_age().collect();
        assert_eq!(self.table.len(), by_age.len(), "each session is in the list once");
        assert!(by_age.is_sorted_by_key(|(_, session)| session.recency), "the list is in order");
        assert_eq!(by_age.last().map_or(SessionId(0), |(id, _)| *id), self.newest);
        assert!(self.table.len() <= self.params.sessions_max as usize);
        for (id, session) in &self.table {
            assert_eq!(self.by_client.get(&session.client), Some(id));
            assert!(session.replies.len() as u64 <= self.params.client_window);
            assert!(session.floor <= session.max_seen);
        }
    }

    fn open(
        &mut self,
        seq: Seq,
        index: u32,
        entry: &RequestEntry,
        body: &[u8],
        admitted: &dyn Fn(&Opening) -> bool,
    ) -> CachedReply {
        let answer = |code, number| {
            let results = opening_results(entry.digest, number);
            let digest = result_digest(code, &results);
            CachedReply { req_no: entry.req_no, seq, code, content: entry.content, digest, results }
        };
        let opening = entry.operations(body).next().map(Opening::decode);
        let Some(Ok(opening)) = opening.filter(|_| entry.operations == 1 && entry.flags == 0 && entry.req_no.0 == 0)
        else {
            return answer(Code::Malformed, 0);
        };
        let current = self.session_of(&entry.client).map(|(id, session)| (id, session.opened_by, session.opened_at));
        if let Some((id, opened_by, opened_at)) = current
            && opened_by == entry.digest
        {
            return opened(opened_at, entry, id);
        }
        if !admitted(&opening) {
            return answer(Code::Denied, 0);
        }
        let age = OPEN_SESSION_AGE_WINDOWS.saturating_mul(self.params.window);
        if opening.at > seq || opening.at.plus(age) < seq {
            return answer(Code::SessionStale, seq.0);
        }
        let current = current.map_or(SessionId(0), |(id, _, _)| id);
        if opening.replaces != current {
            return answer(Code::SessionOpen, current.0);
        }
        self.remove(current);
        self.make_room();
        let id = SessionId(seq.0 << 20 | u64::from(index));
        let session = Session {
            client: entry.client,
            opened_by: entry.digest,
            opened_at: seq,
            recency: self.take_recency(),
            older: SessionId(0),
            newer: SessionId(0),
            floor: RequestNo(0),
            max_seen: RequestNo(0),
            replies: VecDeque::new(),
            result_bytes: 0,
        };
        self.insert(id, session);
        self.link_newest(id);
        opened(seq, entry, id)
    }

    fn session_of(&self, client: &PublicKey) -> Option<(SessionId, &Session)> {
        let id = *self.by_client.get(client)?;
        Some((id, &self.table[&id]))
    }

    fn insert(&mut self, id: SessionId, session: Session) {
        self.by_client.insert(session.client, id);
        self.table.insert(id, session);
    }

    fn remove(&mut self, id: SessionId) {
        if self.table.contains_key(&id) {
            self.unlink(id);
        }
        if let Some(session) = self.table.remove(&id) {
            self.by_client.remove(&session.client);
            self.cached_bytes -= session.result_bytes as u64;
        }
    }

    /// Evicts the session that was used least recently when the table is full.
    fn make_room(&mut self) {
        if self.table.len() == self.params.sessions_max as usize {
            self.remove(self.oldest);
        }
    }

    /// Evicts whole sessions other than `own`, most unacknowledged bytes first, then lowest id, until all results fit;
    /// a session within its fair share is never evicted (C19).
    fn evict_for_bytes(&mut self, own: SessionId) {
        let fair = self.params.reply_cache_bytes / u64::from(self.params.sessions_max);
        while self.cached_bytes > self.params.reply_cache_bytes {
            let most = self
                .table
                .iter()
                .filter(|(id, session)| **id != own && session.result_bytes as u64 > fair)
                .max_by_key(|(id, session)| (session.result_bytes, std::cmp::Reverse(**id)))
                .map(|(id, _)| *id);
            let Some(most) = most else { return };
            self.remove(most);
        }
    }

    fn touch(&mut self, id: SessionId) {
        let recency = self.take_recency();
        self.session_mut(id).recency = recency;
        if self.newest != id {
            self.unlink(id);
            self.link_newest(id);
        }
    }

    /// Puts a session that is in no list at the newest end.
    fn link_newest(&mut self, id: SessionId) {
        let older = std::mem::replace(&mut self.newest, id);
        match older {
            SessionId(0) => self.oldest = id,
            older => self.session_mut(older).newer = id,
        }
        let session = self.session_mut(id);
        (session.older, session.newer) = (older, SessionId(0));
    }

    /// Takes a session out of the list.
    fn unlink(&mut self, id: SessionId) {
        let Session { older, newer, .. } = *self.session_mut(id);
        match older {
            SessionId(0) => self.oldest = newer,
            older => self.session_mut(older).newer = newer,
        }
        match newer {
            SessionId(0) => self.newest = older,
            newer => self.session_mut(newer).older = older,
        }
    }

    fn session_mut(&mut self, id: SessionId) -> &mut Session {
        self.table.get_mut(&id).expect("the list leads to sessions in the table")
    }

    /// All sessions, the one used least recently first.
    fn by_age(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        let first = self.table.get_key_value(&self.oldest);
        let entries = std::iter::successors(first, |(_, session)| self.table.get_key_value(&session.newer));
        entries.map(|(id, session)| (*id, session)).take(self.table.len() + 1)
    }

    fn take_recency(&mut self) -> u64 {
        self.next_recency += 1;
        self.next_recency - 1
    }
}

impl Session {
    /// The rule of PROTOCOL §5. `Ok(None)`: run it; `Ok(Some)`: it ran before.
    fn admit(&mut self, entry: &RequestEntry, window: u64, freed: &mut usize) -> Result<Option<CachedReply>, Code> {
        if entry.ack >= entry.req_no || entry.ack > self.max_seen {
            return Err(Code::MalformedAck);
        }
        if entry.ack > self.floor {
            *freed = self.raise_floor(entry.ack);
        }
        let is_over = crate::mutant!(
            M25HighestNumberOnly,
            entry.req_no <= self.floor,
            entry.req_no <= self.max_seen && self.get(entry.req_no).is_none()
        );
        if crate::mutant!(M24AcknowledgedRunsAgain, is_over, false) {
            return Err(Code::AlreadyAcked);
        }
        if entry.req_no.0 > self.floor.0 + window {
            return Err(Code::Window);
        }
        if let Some(cached) = self.get(entry.req_no) {
            return if cached.content == entry.content { Ok(Some(cached.clone())) } else { Err(Code::Conflict) };
        }
        if self.result_bytes >= SESSION_RESULT_BYTES && entry.req_no.0 > self.floor.0 + 1 {
            return Err(Code::Window);
        }
        self.max_seen = crate::mutant!(M55RefusedNotSeen, self.max_seen.max(entry.req_no), self.max_seen);
        Ok(None)
    }

    fn raise_floor(&mut self, ack: RequestNo) -> usize {
        let mut freed = 0;
        for _ in 0..ack.0 - self.floor.0 {
            if let Some(Some(reply)) = self.replies.pop_front() {
                freed += reply.results.len();
            }
        }
        self.floor = ack;
        self.result_bytes -= freed;
        freed
    }

    fn get(&self, req_no: RequestNo) -> Option<&CachedReply> {
        let index = req_no.0.checked_sub(self.floor.0 + 1)?;
        self.replies.get(usize::try_from(index).ok()?)?.as_ref()
    }

    /// Keeps an answer, and says how many bytes that takes.
    fn put(&mut self, reply: CachedReply) -> usize {
        // A later Request of the same batch may have acknowledged this one; then nobody asks for it again.
        let Some(index) = reply.req_no.0.checked_sub(self.floor.0 + 1) else { return 0 };
        let index = usize::try_from(index).expect("within the window");
        if self.replies.len() <= index {
            self.replies.resize(index + 1, None);
        }
        let bytes = reply.results.len();
        self.result_bytes += bytes;
        let former = self.replies[index].replace(reply);
        assert!(former.is_none(), "a Request completes once");
        bytes
    }

    fn image(&self, id: SessionId) -> SessionImage {
        SessionImage {
            id,
            client: self.client,
            opened_by: self.opened_by,
            opened_at: self.opened_at,
            recency: self.recency,
            floor: self.floor,
            max_seen: self.max_seen,
            replies: self.replies.iter().flatten().cloned().collect(),
        }
    }
}

fn refusal(seq: Seq, entry: &RequestEntry, code: Code) -> CachedReply {
    let digest = result_digest(code, &[]);
    CachedReply { req_no: entry.req_no, seq, code, content: entry.content, digest, results: Bytes::new() }
}

fn opened(seq: Seq, entry: &RequestEntry, id: SessionId) -> CachedReply {
    let results = opening_results(entry.digest, id.0);
    let digest = result_digest(Code::Ok, &results);
    CachedReply { req_no: entry.req_no, seq, code: Code::Ok, content: entry.content, digest, results }
}

#[cfg(test)]
mod tests;
