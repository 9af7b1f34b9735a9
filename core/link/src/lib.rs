//! Links between replicas, and between clients and replicas: a Noise handshake that ends in a [`Peer`] and a
//! [`Channel`] of sealed records. Bytes in, bytes out: no socket, clock or source of entropy. Who dials, for how long a
//! handshake may go on and how many there may be is up to the shell; frames inside the records are
//! `bft_core::wire`'s.
//!
//! ```text
//! connector                                            acceptor (a replica)
//! preface, 16 bytes in clear: versions, suite, role ->
//! length u16 | e                                    ->
//!                          <- length u16 | e, ee, s, es, Identity
//! length u16 | s, se, Identity                      ->
//! records: length u16 | AEAD ciphertext            <->
//! ```
//! Invariants kept here: a [`Peer`] exists only after the one who holds its Ed25519 key signed this very handshake; the
//! same entropy gives the same bytes; before a peer is known it can make this side hold no more than
//! [`HANDSHAKE_MESSAGE_BYTES`](bft_core::limits::HANDSHAKE_MESSAGE_BYTES) of its bytes; an error is final.
#![forbid(unsafe_code)]

mod channel;
mod error;
mod handshake;
mod identity;
mod instances;
mod join;
mod noise;
mod preface;

#[cfg(test)]
mod tests;

pub use channel::{Channel, RECORD_BYTES_MAX, RECORD_PLAINTEXT_MAX, sealed_len};
pub use error::LinkError;
pub use handshake::{Handshake, Peer};
pub use identity::LocalIdentity;
pub use instances::{Duplicate, Instances};
pub use join::{check_join, join};
pub use preface::{PREFACE_BYTES, Role, VERSION_MAX, VERSION_MIN};

/// The length before every message of the handshake and every record.
const LENGTH_BYTES: usize = 2;

/// Moves bytes from the front of `incoming` to `buffer` until that holds `needed`. Whether it does.
fn fill(buffer: &mut Vec<u8>, needed: usize, incoming: &mut &[u8]) -> bool {
    let missing = needed - buffer.len();
    let (taken, rest) = incoming.split_at(missing.min(incoming.len()));
    buffer.extend_from_slice(taken);
    *incoming = rest;
    buffer.len() == needed
}
