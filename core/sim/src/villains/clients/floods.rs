//! The attack: a client that sends valid Requests as fast as it can, to everybody, new ones and the same ones again.

use bft_core::door::To;
use bft_core::ids::{RequestNo, SessionId};
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Requests for each that its core sends.
const TIMES: u64 = 12;

/// Sends too much.
pub struct Floods;

impl HostileClient for Floods {
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest) {
        let (session, number, ack) = (request.entry.session, request.entry.req_no.0, request.entry.ack);
        if session != SessionId(0) {
            for ahead in 1..=TIMES {
                let operations = [means.order()];
                if let Some(more) = means.sign(session, RequestNo(number + ahead), ack, &operations) {
                    means.lie(To::All, more);
                }
                means.lie(To::All, request.clone());
            }
        }
        means.truth(to, Message::Request(request));
    }
}
