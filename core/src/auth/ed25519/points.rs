//! Decompressed public keys, kept because decompression costs a tenth of a verification and the same few replicas and
//! clients sign all the time. A pure cache: what is found here is what [`super::decode`] would give.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use curve25519_dalek::edwards::EdwardsPoint;
use foldhash::quality::FixedState;

use crate::ids::PublicKey;
use crate::limits::PUBLIC_KEYS_KNOWN_MAX;

/// Each with its own lock, so that threads that share a scheme seldom wait for one another.
const SHARDS: usize = 8;
const SHARD_KEYS_MAX: usize = PUBLIC_KEYS_KNOWN_MAX / SHARDS;

/// The points of keys that were seen lately, at most [`PUBLIC_KEYS_KNOWN_MAX`]. Takes no memory before the first.
#[derive(Default)]
pub(super) struct KnownPoints {
    shards: [Mutex<HashMap<PublicKey, EdwardsPoint, FixedState>>; SHARDS],
}

impl KnownPoints {
    /// The point that `key` encodes; `None` if it encodes none.
    pub(super) fn get(&self, key: &PublicKey) -> Option<EdwardsPoint> {
        if let Some(point) = self.shard(key).get(key) {
            return Some(*point);
        }
        let point = super::decode(&key.0)?;
        let mut shard = self.shard(key);
        if shard.len() >= SHARD_KEYS_MAX {
            // Whoever floods it with fresh keys pays for a bad signature each; the others decompress once more.
            shard.clear();
        }
        shard.insert(*key, point);
        Some(point)
    }

    fn shard(&self, key: &PublicKey) -> MutexGuard<'_, HashMap<PublicKey, EdwardsPoint, FixedState>> {
        // A map is whole between calls whatever its user does, so a poisoned lock means nothing.
        self.shards[usize::from(key.0[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings whose first byte leads to one shard, each with both signs; about half of them are points.
    fn keys() -> impl Iterator<Item = PublicKey> {
        (0u32..).map(|i| {
            let mut bytes = [0; 32];
            bytes[4..8].copy_from_slice(&(i / 2).to_le_bytes());
            bytes[31] = (i as u8 & 1) << 7;
            PublicKey(bytes)
        })
    }

    #[test]
    fn it_is_bounded_and_always_gives_what_decoding_gives() {
        let known = KnownPoints::default();
        for key in keys().take(3 * SHARD_KEYS_MAX) {
            assert_eq!(known.get(&key), super::super::decode(&key.0));
            assert!(known.shard(&key).len() <= SHARD_KEYS_MAX);
        }
        for key in keys().take(100) {
            assert_eq!(known.get(&key), super::super::decode(&key.0), "also when it was dropped before");
            assert_eq!(known.get(&key), super::super::decode(&key.0), "also when it is found");
        }
    }
}
