//! The attack: a replica that never hears one client, whoever brings its Requests, and so never proposes them.

use bft_core::ids::{PublicKey, ReplicaId};
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

use super::means::Means;
use super::{Heard, Villain};

/// Is deaf to one client.
#[derive(Default)]
pub struct Censors {
    /// The first one that it heard of.
    victim: Option<PublicKey>,
}

impl Censors {
    fn is_censored(&mut self, request: &SignedRequest) -> bool {
        *self.victim.get_or_insert(request.entry.client) == request.entry.client
    }
}

impl Villain for Censors {
    fn hears(&mut self, means: &mut Means, _from: ReplicaId, message: &Message) -> Heard {
        if let Message::Request(request) = message
            && self.is_censored(request)
        {
            means.misdeed();
            return Heard::Ignored;
        }
        Heard::Passed
    }

    fn gathers(&mut self, means: &mut Means, requests: &mut Vec<SignedRequest>) {
        requests.retain(|request| {
            let censored = self.is_censored(request);
            if censored {
                means.misdeed();
            }
            !censored
        });
    }
}
