//! What replicas answer to Requests, and what it means for the operations in them.

use bytes::Bytes;

use super::answers::Accepted;
use super::queue::Caller;
use super::transmission::Transmission;
use super::{ClientCore, ClientEffects, Outcome, Rejected, Unknown};
use crate::door::To;
use crate::ids::{Nanos, ReplicaId, RequestNo, Seq, SessionId};
use crate::limits::{CLIENT_BUSY_MAX, CLIENT_TIMEOUT_MAX, MILLISECOND, SESSION_RESULT_BYTES};
use crate::wire::canonical::Reader;
use crate::wire::message::{Busy, Code, Reply};
use crate::wire::request::result_digest;

/// An answer to a Request that had to be sent again may come from a new view: the client asks, this often in the time after
/// which an answer is late.
const LATE_ANSWERS: u64 = 8;
/// How many times in a row a primary is believed that it is busy; then the others are asked too.
pub(super) const BUSY_PATIENCE: u32 = 3;

impl ClientCore {
    pub(super) fn on_reply(&mut self, now: Nanos, from: ReplicaId, reply: &Reply, out: &mut ClientEffects) {
        let bytes_max = (self.config.params().reply_bytes_max as usize).max(40);
        let is_sound = reply.epoch == self.config.epoch()
            && reply
                .results
                .as_ref()
                .is_none_or(|results| results.len() <= bytes_max && result_digest(reply.code, results) == reply.digest);
        if !is_sound {
            return;
        }
        if reply.session == SessionId(0) {
            self.on_opening_reply(now, from, reply, out);
        } else if self.session() == Some(reply.session) {
            self.on_request_reply(now, from, reply, out);
        }
    }

    fn on_request_reply(&mut self, now: Nanos, from: ReplicaId, reply: &Reply, out: &mut ClientEffects) {
        let results = self.affordable(from, reply);
        let Some(sent) = self.sent.get_mut(&reply.req_no) else { return };
        // Refusals of an earlier signing still come in from slower replicas.
        if reply.code == Code::Window && reply.seq <= sent.refused_at {
            return;
        }
        let answers = &mut sent.transmission.answers;
        let before = answers.held(from);
        answers.record(from, reply, results);
        self.held[from.index()] = self.held[from.index()] + answers.held(from) - before;
        if let Some(accepted) = answers.accepted(self.config.weights(), from) {
            self.on_accepted(now, reply.req_no, accepted, out);
        }
    }

    /// The results of a reply, if the replica does not make this client keep more of them than a correct one could.
    /// Those left out come again when the Request does, and are then accepted on arrival.
    fn affordable(&self, from: ReplicaId, reply: &Reply) -> Option<Bytes> {
        let bound = SESSION_RESULT_BYTES + 2 * self.config.params().reply_bytes_max as usize;
        let is_affordable = |results: &&Bytes| self.held[from.index()] + results.len() <= bound;
        reply.results.as_ref().filter(is_affordable).cloned()
    }

    fn on_accepted(&mut self, now: Nanos, req_no: RequestNo, accepted: Accepted, out: &mut ClientEffects) {
        let Accepted { seq, code, results } = accepted;
        if self.sent[&req_no].transmission.resends > 0 {
            self.ask_who_leads(now, self.latencies.timeout() / LATE_ANSWERS, out);
        }
        let is_close = self.sent[&req_no].callers.is_empty();
        match code {
            Code::Window => self.put_back(now, req_no, seq),
            _ if is_close => self.lose_session(seq, Unknown::Closed, out),
            Code::Ok => {
                let callers = self.finish(now, req_no);
                deliver(seq, &results, &callers, out);
            }
            Code::ReplyTooLarge => self.refuse(now, req_no, seq, Rejected::ExecutedReplyTooLarge, out),
            Code::Conflict => self.refuse(now, req_no, seq, Rejected::Conflict, out),
            Code::Denied => self.refuse(now, req_no, seq, Rejected::Denied, out),
            // After these the number would stay open for ever. All but the first are said of no Request of ours.
            Code::SessionUnknown
            | Code::AlreadyAcked
            | Code::MalformedAck
            | Code::SessionOpen
            | Code::SessionStale
            | Code::Malformed
            | Code::Closed => self.lose_session(seq, Unknown::SessionLost, out),
        }
    }

    fn refuse(&mut self, now: Nanos, req_no: RequestNo, seq: Seq, reason: Rejected, out: &mut ClientEffects) {
        let callers = self.finish(now, req_no);
        let outcome = Outcome::Rejected { seq, reason };
        out.done.extend(callers.iter().flatten().map(|caller| (caller.tag, outcome.clone())));
    }

    /// The Request is answered: its number is free to be acknowledged.
    fn finish(&mut self, now: Nanos, req_no: RequestNo) -> Vec<Option<Caller>> {
        let sent = self.sent.remove(&req_no).expect("an answer is accepted to an open Request");
        self.release(&sent.transmission);
        self.latencies.record(now.since(sent.transmission.first_sent));
        if sent.transmission.resends == 0 {
            self.busy_streak = 0;
        }
        sent.callers
    }

    /// Forgets what replicas answered to it.
    pub(super) fn release(&mut self, transmission: &Transmission) {
        for (id, held) in (0..).map(ReplicaId).zip(&mut self.held) {
            *held -= transmission.answers.held(id);
        }
    }

    /// The window refused it: it is signed again after a pause, when more is acknowledged.
    fn put_back(&mut self, now: Nanos, req_no: RequestNo, seq: Seq) {
        let sent = self.sent.get_mut(&req_no).expect("an answer is accepted to an open Request");
        sent.refusals += 1;
        sent.refused_at = seq;
        let pause = (self.latencies.timeout() / 4) << sent.refusals.min(8);
        sent.sign_at = Some(now.after(pause.min(CLIENT_TIMEOUT_MAX)));
        sent.transmission.resend_at = Nanos(u64::MAX);
    }

    /// BUSY proves nothing. A primary is believed a few times, the others when a correct one is among them; the Request
    /// stays, and goes out again later.
    pub(super) fn on_busy(&mut self, now: Nanos, from: ReplicaId, busy: &Busy) {
        let opening = self.session.opening_mut();
        let mut all = self.sent.values_mut().map(|sent| &mut sent.transmission).chain(opening);
        let named = all.find(|transmission| transmission.request.entry.digest == busy.request);
        let Some(transmission) = named.filter(|transmission| transmission.is_for(from)) else { return };
        let hint = u64::from(busy.retry_after_ms) * MILLISECOND;
        let until = now.after(hint.clamp(MILLISECOND, CLIENT_BUSY_MAX));
        let is_new_hold = now >= self.hold_until;
        match transmission.to {
            To::One(_) if is_new_hold && self.busy_streak == BUSY_PATIENCE => {}
            To::One(_) => {
                transmission.busy.insert(from);
                transmission.met_busy = true;
                transmission.resend_at = until;
                if is_new_hold {
                    self.busy_streak += 1;
                    self.hold_until = until;
                }
            }
            To::All => {
                let is_news = transmission.busy.insert(from);
                if is_news && self.config.weights().is_blocking(transmission.busy) {
                    transmission.met_busy = true;
                    transmission.resend_at = transmission.resend_at.max(until);
                    self.hold_until = self.hold_until.max(until);
                }
            }
        }
    }
}

/// Gives each caller its operation's result: slices of `results`.
fn deliver(seq: Seq, results: &Bytes, callers: &[Option<Caller>], out: &mut ClientEffects) {
    let split = split(results, callers.len());
    for (index, caller) in callers.iter().enumerate() {
        let Some(caller) = caller else { continue };
        let outcome = match &split {
            Some(parts) => Outcome::Done { seq, result: parts[index].clone() },
            None => Outcome::Unknown { reason: Unknown::Unreadable },
        };
        out.done.push((caller.tag, outcome));
    }
}

/// The results of `count` operations, each with its length before it, and nothing else.
fn split(results: &Bytes, count: usize) -> Option<Vec<Bytes>> {
    let mut reader = Reader::new(results);
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let len = reader.u32().ok()?;
        let start = results.len() - reader.rest().len();
        let part = reader.take(len as usize).ok()?;
        parts.push(results.slice(start..start + part.len()));
    }
    reader.end().ok().map(|()| parts)
}
