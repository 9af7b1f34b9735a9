//! The attack: a client, or whoever has listened to it, that sends Requests of former sessions again, and Requests that were
//! signed for another cluster.

use std::collections::VecDeque;

use bft_core::door::To;
use bft_core::ids::{ClusterId, RequestNo, SessionId};
use bft_core::wire::message::Message;
use bft_core::wire::opening::Opening;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Requests that are remembered.
const REMEMBERED_MAX: usize = 64;

/// Sends what was.
#[derive(Default)]
pub struct Replays {
    old: VecDeque<SignedRequest>,
}

impl HostileClient for Replays {
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest) {
        if self.old.len() == REMEMBERED_MAX {
            self.old.pop_front();
        }
        self.old.push_back(request.clone());
        let (session, req_no, ack) = (request.entry.session, request.entry.req_no, request.entry.ack);
        means.truth(to, Message::Request(request));
        let old = self.old[means.rng.below(self.old.len() as u64) as usize].clone();
        if means.rng.chance(100) && session != SessionId(0) {
            // A session of its own doing ends the former one; what was signed in that is old from then on.
            let at = bft_core::ids::Seq(means.rng.below(64));
            let opening = Opening { replaces: session, at, nonce: means.rng.bytes(), certificate: None };
            if let Some(lie) = means.sign(SessionId(0), RequestNo(0), RequestNo(0), &[opening.encode()]) {
                means.lie(To::All, lie);
            }
        }
        if means.rng.chance(500) {
            let elsewhere = ClusterId(means.rng.bytes());
            let operations = ClientMeans::operations_of(&old);
            if let Some(lie) = means.sign_for(elsewhere, session, RequestNo(req_no.0 + 1), ack, &operations) {
                means.lie(To::All, lie);
            }
        }
        means.lie(To::All, old);
    }
}
