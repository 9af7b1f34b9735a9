//! The attack: a client that never acknowledges an answer, so that replicas keep all of them.

use bft_core::door::To;
use bft_core::ids::{RequestNo, SessionId};
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Acknowledges nothing.
pub struct NeverAcks;

impl HostileClient for NeverAcks {
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest) {
        let entry = &request.entry;
        let operations = ClientMeans::operations_of(&request);
        match means.sign(entry.session, entry.req_no, RequestNo(0), &operations) {
            Some(other) if entry.session != SessionId(0) && entry.ack != RequestNo(0) => means.lie(to, other),
            Some(_) | None => means.truth(to, Message::Request(request)),
        }
    }
}
