//! The attack: a primary that proposes Requests whose clients never signed them: another key, another operation, a
//! signature with a bit flipped, of zeros, or with ℓ added to its s.

use std::sync::Arc;

use bft_core::ids::ReplicaId;
use bft_core::wire::message::{Message, PrePrepare};
use bft_core::wire::request::{Body, RequestBounds, RequestEntry};
use bytes::Bytes;

use super::Villain;
use super::instead::Instead;
use super::means::Means;
use super::said::Said;

/// The order of the group that Ed25519 signs in, little endian.
const ELL: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Proposes forged Requests.
#[derive(Default)]
pub struct ForgesRequests {
    instead: Instead,
}

impl Villain for ForgesRequests {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        let Message::PrePrepare(first) = message else { return said.truth(message) };
        self.instead.say(
            means,
            first,
            said,
            |means, first| if means.rng.chance(300) { forge(means, first) } else { None },
        );
    }
}

fn forge(means: &mut Means, first: &PrePrepare) -> Option<PrePrepare> {
    let entries = first.body.entries();
    if entries.is_empty() {
        return None;
    }
    let entry = &entries[means.rng.below(entries.len() as u64) as usize];
    let mut bytes = first.body.bytes().to_vec();
    break_one(means, entry, &mut bytes);
    let body = Body::parse(Bytes::from(bytes), RequestBounds::from(means.config.params())).ok()?;
    let header = body.header(first.header.time_ns);
    Some(means.propose(first.position.view, first.position.seq, header, Arc::new(body)))
}

/// Breaks one Request in a body.
fn break_one(means: &mut Means, entry: &RequestEntry, body: &mut [u8]) {
    let request = &mut body[entry.bytes.start as usize..entry.bytes.end as usize];
    let signature = request.len() - 64;
    match means.rng.below(6) {
        0 => request[signature + means.rng.below(64) as usize] ^= 1 << means.rng.below(8),
        1 => request[signature..].fill(0),
        2 => add_ell(&mut request[signature + 32..]),
        // The neutral element as a key, R and s: whatever the message, the equation holds.
        3 => {
            request[..32].fill(0);
            request[0] = 1;
            request[signature..].fill(0);
            request[signature] = 1;
        }
        4 => request[..32].copy_from_slice(&means.rng.bytes()),
        // The last byte of the last operation.
        _ => request[signature - 1] ^= 0x55,
    }
}

fn add_ell(s: &mut [u8]) {
    let mut carry = 0;
    for (byte, ell) in s.iter_mut().zip(ELL) {
        let sum = u16::from(*byte) + u16::from(ell) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
}
