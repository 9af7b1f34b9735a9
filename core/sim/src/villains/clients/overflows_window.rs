//! The attack: a client that uses numbers beyond its window, near and far, and acknowledges what it never asked for.

use bft_core::door::To;
use bft_core::ids::{RequestNo, SessionId};
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Numbers out of order.
pub struct OverflowsWindow;

impl HostileClient for OverflowsWindow {
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest) {
        let (session, number, ack) = (request.entry.session, request.entry.req_no.0, request.entry.ack);
        means.truth(to, Message::Request(request));
        if session == SessionId(0) || !means.rng.chance(500) {
            return;
        }
        let window = means.config.params().client_window;
        let ahead = means.rng.pick(&[window, window + 1, 2 * window, 1 << 40, u64::MAX - number]);
        let req_no = RequestNo(number + ahead);
        let ack = means.rng.pick(&[ack, ack, RequestNo(number), RequestNo(req_no.0 - 1), req_no, RequestNo(u64::MAX)]);
        let operations = [means.order()];
        if let Some(lie) = means.sign(session, req_no, ack, &operations) {
            means.lie(To::All, lie);
        }
    }
}
