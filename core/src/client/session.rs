//! The life of a session: INFO to date the opening, the opening, and the end.

use std::sync::Arc;

use super::answers::{Accepted, vouched};
use super::{ClientCore, ClientEffects, Ending, NotSent, Outcome, Session, Unknown};
use crate::door::To;
use crate::hash::{Context, hash};
use crate::ids::{Nanos, ReplicaId, RequestNo, Seq, SessionId};
use crate::limits::{CLIENT_REFUSED_PAUSE, CLIENT_TIMEOUT_MAX};
use crate::quorum::ReplicaSet;
use crate::wire::message::{Code, Info, Message, Reply};
use crate::wire::opening::{Opening, read_opening_results};

impl ClientCore {
    pub(super) fn open_session(&mut self, now: Nanos, out: &mut ClientEffects) {
        if !matches!(self.session, Session::None) || self.ending != Ending::No || now < self.open_at {
            return;
        }
        if let Some(at) = self.at {
            return self.send_opening(now, at, out);
        }
        let ask_at = now.after(self.latencies.timeout());
        self.session = Session::Asking { ask_at, asked: 0, answered: ReplicaSet::EMPTY };
        self.ask_info(now, To::All, out);
    }

    pub(super) fn ask_info(&mut self, now: Nanos, to: To, out: &mut ClientEffects) {
        self.info_asked = Some(now);
        out.send.push((to, Message::InfoQuery { want_digest: false }));
    }

    /// Asks all, unless they were asked within `interval`.
    pub(super) fn ask_who_leads(&mut self, now: Nanos, interval: u64, out: &mut ClientEffects) {
        if self.info_asked.is_none_or(|asked| now.since(asked) >= interval) {
            self.ask_info(now, To::All, out);
        }
    }

    pub(super) fn ask_again(&mut self, now: Nanos, out: &mut ClientEffects) {
        let timeout = self.latencies.timeout();
        if let Session::Asking { ask_at, asked, .. } = &mut self.session
            && *ask_at <= now
        {
            *asked += 1;
            *ask_at = now.after((timeout << (*asked).min(8)).min(CLIENT_TIMEOUT_MAX));
            self.ask_info(now, To::All, out);
        }
    }

    pub(super) fn on_info(&mut self, now: Nanos, from: ReplicaId, info: &Info, out: &mut ClientEffects) {
        if info.replica != from || info.epoch != self.config.epoch() {
            return;
        }
        let heard = self.heard[from.index()].get_or_insert_default();
        heard.view = heard.view.max(info.view);
        heard.executed = heard.executed.max(info.executed);
        let heard = || (0..).map(ReplicaId).zip(&self.heard).filter_map(|(id, heard)| Some((id, heard.as_ref()?)));
        let config = Arc::clone(&self.config);
        let weights = config.weights();
        let view = vouched(weights, heard().map(|(id, heard)| (id, heard.view)));
        let executed = vouched(weights, heard().map(|(id, heard)| (id, heard.executed)));
        let former = self.primary();
        self.view = view.unwrap_or(self.view);
        if self.primary() != former {
            self.follow(former, out);
        }
        if let Session::Asking { answered, .. } = &mut self.session {
            answered.insert(from);
            if let Some(at) = executed.filter(|_| weights.is_blocking(*answered)) {
                self.send_opening(now, at, out);
            }
        }
    }

    /// Each opening has a nonce of its own.
    fn send_opening(&mut self, now: Nanos, at: Seq, out: &mut ClientEffects) {
        self.openings += 1;
        let nonce = hash(Context::Session, &[&self.nonce_seed, &self.openings.to_le_bytes()]).0;
        let opening = Opening { replaces: self.replaces, at, nonce, certificate: self.options.certificate };
        let request = self.sign_in(SessionId(0), RequestNo(0), RequestNo(0), 0, &[&opening.encode()]);
        self.at = Some(at);
        self.session = Session::Opening(Box::new(self.transmit(now, request, out)));
    }

    pub(super) fn on_opening_reply(&mut self, now: Nanos, from: ReplicaId, reply: &Reply, out: &mut ClientEffects) {
        let Session::Opening(opening) = &mut self.session else { return };
        let named = reply.results.as_deref().and_then(|results| read_opening_results(results).ok());
        let Some((_, number)) = named.filter(|(named, _)| *named == opening.request.entry.digest) else { return };
        opening.answers.record(from, reply, reply.results.clone());
        if let Some(accepted) = opening.answers.accepted(self.config.weights(), from) {
            self.on_opening_answered(now, &accepted, number, out);
        }
    }

    fn on_opening_answered(&mut self, now: Nanos, accepted: &Accepted, number: u64, out: &mut ClientEffects) {
        match accepted.code {
            Code::Ok if number != 0 => {
                assert!(self.sent.is_empty() && self.next == RequestNo(1), "a session begins with nothing");
                self.session = Session::Open(SessionId(number));
                self.replaces = SessionId(0);
                self.at = Some(accepted.seq);
            }
            Code::SessionOpen | Code::SessionStale if self.ending != Ending::No => {
                self.session = Session::None;
                self.ending = Ending::Done;
            }
            Code::SessionOpen => {
                // Another life of this key opened it: it is replaced, never used (C18).
                self.replaces = SessionId(number);
                self.send_opening(now, accepted.seq, out);
            }
            Code::SessionStale => self.send_opening(now, Seq(number), out),
            Code::Ok
            | Code::ReplyTooLarge
            | Code::Conflict
            | Code::AlreadyAcked
            | Code::Window
            | Code::MalformedAck
            | Code::Denied
            | Code::SessionUnknown
            | Code::Malformed
            | Code::Closed => self.on_not_admitted(now, out),
        }
    }

    fn on_not_admitted(&mut self, now: Nanos, out: &mut ClientEffects) {
        let not_sent = Outcome::NotSent { reason: NotSent::NotAdmitted };
        self.queue.withdraw(|_| true, |tag| out.done.push((tag, not_sent.clone())));
        self.session = Session::None;
        self.open_at = now.after(CLIENT_REFUSED_PAUSE);
        if self.ending != Ending::No {
            self.ending = Ending::Done;
        }
    }

    /// The session is no more, as of `seq`: a later operation opens another.
    pub(super) fn lose_session(&mut self, seq: Seq, reason: Unknown, out: &mut ClientEffects) {
        self.drop_session(reason, out);
        self.at = Some(seq);
        if self.ending != Ending::No {
            self.ending = Ending::Done;
        }
    }

    pub(super) fn drop_session(&mut self, reason: Unknown, out: &mut ClientEffects) {
        for mut sent in std::mem::take(&mut self.sent).into_values() {
            sent.give_up(|_| true, reason, out);
        }
        self.held.fill(0);
        self.session = Session::None;
        self.next = RequestNo(1);
    }
}
