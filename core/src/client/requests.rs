//! From waiting operations to signed Requests on their way, and on their way again.

use super::queue::{Caller, earlier};
use super::transmission::Transmission;
use super::{ClientCore, ClientEffects, Ending, NotSent, Outcome, Sent, Session, Unknown};
use crate::door::To;
use crate::ids::{Nanos, ReplicaId, RequestNo, Seq, SessionId};
use crate::limits::{CLIENT_GATHER_FROM, CLIENT_INFO_INTERVAL, POOL_BYTES_PER_CLIENT};
use crate::quorum::ReplicaSet;
use crate::wire::canonical::{Tag, signing_bytes};
use crate::wire::message::Message;
use crate::wire::request::{FLAG_CLOSE, REQUEST_FIXED_BYTES, SignedRequest, encode_request};

impl ClientCore {
    pub(super) fn may_send(&self, now: Nanos) -> bool {
        if self.session().is_none() || self.queue.is_empty() || now < self.hold_until || !self.has_room() {
            return false;
        }
        // More than replicas keep of one client at a time would come back as BUSY.
        let under_way: usize = self.sent.values().map(|sent| sent.transmission.request.bytes.len()).sum();
        let next = (self.queue.bytes() + REQUEST_FIXED_BYTES).min(self.bounds.request_bytes);
        if !self.sent.is_empty() && under_way + next > POOL_BYTES_PER_CLIENT {
            return false;
        }
        // A lone operation leaves at once; under load answers set the pace (the network's own clock). Requests that
        // are late hold nothing back.
        let is_on_time = |sent: &&Sent| sent.transmission.resends == 0 && sent.sign_at.is_none();
        let on_time = self.sent.values().filter(is_on_time).count();
        on_time < CLIENT_GATHER_FROM
            || self.queue.fills(self.options.operations_per_request as usize, self.request_capacity())
    }

    /// Bytes that the operations of one Request may take, with their lengths.
    pub(super) fn request_capacity(&self) -> usize {
        self.bounds.request_bytes - REQUEST_FIXED_BYTES
    }

    /// Every number up to this one is finished.
    fn ack(&self) -> RequestNo {
        let lowest = self.sent.first_key_value().map_or(self.next, |(req_no, _)| *req_no);
        RequestNo(lowest.0 - 1)
    }

    pub(super) fn has_room(&self) -> bool {
        self.next.0 <= self.ack().0 + self.options.window
    }

    pub(super) fn send_next(&mut self, now: Nanos, out: &mut ClientEffects) {
        let taken = self.queue.take(self.options.operations_per_request as usize, self.request_capacity());
        let operations: Vec<_> = taken.iter().map(|operation| &operation.bytes[..]).collect();
        let request = self.sign(self.next, self.ack(), 0, &operations);
        let callers: Vec<_> = taken.iter().map(|operation| Some(operation.caller)).collect();
        self.send(now, self.next, request, callers, out);
        self.next = self.next.next();
    }

    pub(super) fn send_close(&mut self, now: Nanos, out: &mut ClientEffects) {
        let request = self.sign(self.next, self.ack(), FLAG_CLOSE, &[&[]]);
        self.send(now, self.next, request, Vec::new(), out);
        self.next = self.next.next();
        self.ending = Ending::Sent;
    }

    fn sign(&self, req_no: RequestNo, ack: RequestNo, flags: u32, operations: &[&[u8]]) -> SignedRequest {
        let session = self.session().expect("Requests are signed in an open session");
        self.sign_in(session, req_no, ack, flags, operations)
    }

    pub(super) fn sign_in(
        &self,
        session: SessionId,
        req_no: RequestNo,
        ack: RequestNo,
        flags: u32,
        operations: &[&[u8]],
    ) -> SignedRequest {
        let sign = |digest| self.scheme.sign(&signing_bytes(Tag::Request, self.config.cluster_id(), digest));
        let bytes = encode_request(self.key, session, req_no, ack, flags, operations.iter().copied(), sign);
        SignedRequest::parse(bytes, self.bounds).expect("own Requests keep the bounds they were cut to")
    }

    fn send(
        &mut self,
        now: Nanos,
        req_no: RequestNo,
        request: SignedRequest,
        callers: Vec<Option<Caller>>,
        out: &mut ClientEffects,
    ) {
        self.ask_who_leads(now, CLIENT_INFO_INTERVAL, out);
        let transmission = self.transmit(now, request, out);
        let earliest = callers.iter().flatten().fold(None, |earliest, caller| earlier(earliest, caller.deadline));
        let sent = Sent { transmission, callers, earliest, refusals: 0, refused_at: Seq(0), sign_at: None };
        let former = self.sent.insert(req_no, sent);
        assert!(former.is_none(), "a number is used once");
    }

    /// Sends a Request for the first time: to the primary, or to all where there is no link to it.
    pub(super) fn transmit(&self, now: Nanos, request: SignedRequest, out: &mut ClientEffects) -> Transmission {
        let primary = self.primary();
        let to = if self.up.contains(primary) { To::One(primary) } else { To::All };
        out.send.push((to, Message::Request(request.clone())));
        Transmission::new(request, self.config.n(), to, now, self.latencies.timeout())
    }

    /// The window refused the Request: the same operations under the same number, with the present ack.
    pub(super) fn sign_again(&mut self, now: Nanos, req_no: RequestNo, out: &mut ClientEffects) {
        let former = &self.sent[&req_no].transmission.request;
        let operations: Vec<_> = former.operations().collect();
        let request = self.sign(req_no, self.ack(), former.entry.flags, &operations);
        let transmission = self.transmit(now, request, out);
        let sent = self.sent.get_mut(&req_no).expect("looked up above");
        let former = std::mem::replace(&mut sent.transmission, transmission);
        sent.sign_at = None;
        self.release(&former);
    }

    pub(super) fn resend(&mut self, now: Nanos, out: &mut ClientEffects) {
        let timeout = self.latencies.timeout();
        let opening = self.session.opening_mut();
        let mut is_late = false;
        for transmission in self.sent.values_mut().map(|sent| &mut sent.transmission).chain(opening) {
            if transmission.resend_at <= now {
                let to = transmission.resend(now, timeout);
                out.send.push((to, Message::Request(transmission.request.clone())));
                is_late = true;
            }
        }
        if is_late {
            self.ask_who_leads(now, timeout, out);
        }
    }

    /// There is another primary: what the former one has, and has not passed on for all that is known, goes to it at once,
    /// and to all as late as it would have.
    pub(super) fn follow(&mut self, former: ReplicaId, out: &mut ClientEffects) {
        let primary = self.primary();
        let to = if self.up.contains(primary) { To::One(primary) } else { To::All };
        let opening = self.session.opening_mut();
        let waiting = self.sent.values_mut().filter(|sent| sent.sign_at.is_none()).map(|sent| &mut sent.transmission);
        for transmission in waiting.chain(opening).filter(|transmission| transmission.to == To::One(former)) {
            transmission.to = to;
            transmission.busy = ReplicaSet::EMPTY;
            out.send.push((to, Message::Request(transmission.request.clone())));
        }
    }

    /// A link came up: what its replica was to have goes there again.
    pub(super) fn greet(&mut self, replica: ReplicaId, out: &mut ClientEffects) {
        let to = To::One(replica);
        if matches!(self.session, Session::Asking { .. }) {
            out.send.push((to, Message::InfoQuery { want_digest: false }));
        }
        let opening = self.session.opening();
        for transmission in self.sent.values().map(|sent| &sent.transmission).chain(opening) {
            if transmission.is_for(replica) {
                out.send.push((to, Message::Request(transmission.request.clone())));
            }
        }
    }

    pub(super) fn expire(&mut self, now: Nanos, out: &mut ClientEffects) {
        let is_due = |earliest: Option<Nanos>| earliest.is_some_and(|earliest| earliest <= now);
        if is_due(self.queue.earliest()) {
            // Without a session nothing is signed, and there may be none to be had.
            let is_turned_away = self.session.opening().is_some_and(|opening| opening.met_busy);
            let reason = if is_turned_away { NotSent::Overloaded } else { NotSent::Deadline };
            let not_sent = Outcome::NotSent { reason };
            self.queue.withdraw(|caller| caller.is_due(now), |tag| out.done.push((tag, not_sent.clone())));
        }
        for sent in self.sent.values_mut().filter(|sent| is_due(sent.earliest)) {
            sent.give_up(|caller| caller.is_due(now), Unknown::Deadline, out);
        }
    }
}
