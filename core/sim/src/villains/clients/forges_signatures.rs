//! The attack: a client that sends Requests with signatures that are none, and Requests in the name of other clients.

use bft_core::door::To;
use bft_core::wire::message::Message;
use bft_core::wire::request::SignedRequest;

use super::HostileClient;
use super::means::ClientMeans;

/// Requests for each that its core sends.
const TIMES: u64 = 4;

/// Signs badly.
pub struct ForgesSignatures;

impl HostileClient for ForgesSignatures {
    fn sends(&mut self, means: &mut ClientMeans, to: To, request: SignedRequest) {
        for _ in 0..TIMES {
            let mut bytes = request.bytes.to_vec();
            let signature = bytes.len() - 64;
            match means.rng.below(4) {
                0 => bytes[signature + means.rng.below(64) as usize] ^= 1 << means.rng.below(8),
                1 => bytes[signature..].fill(0),
                2 => bytes[signature - 1] ^= 1,
                // Another client's key: whoever believes it charges that one.
                _ => bytes[..32].copy_from_slice(&means.another_key().0),
            }
            if let Some(lie) = means.parse(bytes) {
                means.lie(To::All, lie);
            }
        }
        means.truth(to, Message::Request(request));
    }
}
