//! The attack: a client that signs two bodies under one number and sends one to some replicas and the other to the others.

use bft_core::door::To;
use bft_core::ids::SessionId;
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Two bodies for each number.
pub struct TwoBodies;

impl HostileClient for TwoBodies {
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest) {
        let entry = &request.entry;
        if entry.session == SessionId(0) {
            return means.truth(to, Message::Request(request));
        }
        let operations: Vec<_> = request.operations().map(<[u8]>::to_vec).collect();
        let operations: Vec<_> = operations.iter().map(|operation| means.other_amount(operation)).collect();
        let other = means.sign(entry.session, entry.req_no, entry.ack, &operations);
        for replica in means.config.replicas() {
            match &other {
                Some(other) if means.rng.chance(500) => means.lie(To::One(replica), other.clone()),
                Some(_) | None => means.truth(To::One(replica), Message::Request(request.clone())),
            }
        }
    }
}
