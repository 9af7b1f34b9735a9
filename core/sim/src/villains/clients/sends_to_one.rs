//! The attack: a client that sends each Request to one replica only, now this one and now that one, so that some know of work
//! that others do not know of.

use bft_core::door::To;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Tells one.
pub struct SendsToOne;

impl HostileClient for SendsToOne {
    fn sends(&mut self, means: &mut ClientMeans, _to: To, request: SignedRequest) {
        let one = means.anyone();
        means.lie(one, request);
    }
}
