//! The attack: a client that opens one session after the other, ends those that it has, and opens the same one again.

use bft_core::door::To;
use bft_core::ids::{RequestNo, SessionId};
use bft_core::wire::message::Message;
use bft_core::wire::opening::Opening;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Openings for each Request that its core sends, in a thousand.
const OPENINGS: u32 = 150;

/// Opens and opens.
#[derive(Default)]
pub struct ChurnsSessions {
    /// Its core's last opening, as it was sent and as it reads.
    opening: Option<(SignedRequest, Opening)>,
}

impl HostileClient for ChurnsSessions {
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest) {
        let session = request.entry.session;
        if session == SessionId(0) {
            let opening = request.operations().next().and_then(|operation| Opening::decode(operation).ok());
            self.opening = opening.map(|opening| (request.clone(), opening)).or(self.opening.take());
        }
        means.truth(to, Message::Request(request));
        let Some((first, opening)) = &self.opening else { return };
        if !means.rng.chance(OPENINGS) {
            return;
        }
        if means.rng.chance(300) {
            return means.lie(To::All, first.clone());
        }
        let replaces = means.rng.pick(&[session, session, opening.replaces, SessionId(0)]);
        let another = Opening { replaces, nonce: means.rng.bytes(), ..*opening };
        if let Some(lie) = means.sign(SessionId(0), RequestNo(0), RequestNo(0), &[another.encode()]) {
            means.lie(To::All, lie);
        }
    }
}
