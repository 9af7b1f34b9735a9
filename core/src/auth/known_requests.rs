//! Requests whose signatures were found valid here: a client that sends again, and the PRE-PREPARE with a Request that
//! its client had sent here too, cost no second check. A pure cache of good news: a Request is known by its leaf, which
//! binds every signed field and the signature itself (C15), so what is found here is what the check would say. The digest
//! of a Request would not do: it leaves the signature out, and a primary could put a broken one beside it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::Digest;
use crate::limits::REQUESTS_KNOWN_MAX;

/// Each with its own lock, so that threads that share a verifier seldom wait for one another.
const SHARDS: usize = 8;
/// Leaves that share a place; the newest is first.
const WAYS: usize = 4;
const SETS: usize = REQUESTS_KNOWN_MAX / SHARDS / WAYS;

/// The leaves of Requests that were found valid lately, at most [`REQUESTS_KNOWN_MAX`]. Takes no memory before the first.
#[derive(Default)]
pub(super) struct KnownRequests {
    /// Empty, or [`SETS`] sets. No Request has the leaf zero.
    shards: [Mutex<Vec<[Digest; WAYS]>>; SHARDS],
}

impl KnownRequests {
    /// Whether the Request with this leaf was found valid.
    pub(super) fn contains(&self, leaf: &Digest) -> bool {
        *leaf != Digest::ZERO && self.shard(leaf).get(set_of(leaf)).is_some_and(|set| set.contains(leaf))
    }

    /// The Request with this leaf was found valid. The oldest in its place is forgotten.
    pub(super) fn insert(&self, leaf: Digest) {
        let mut shard = self.shard(&leaf);
        if shard.is_empty() {
            shard.resize(SETS, [Digest::ZERO; WAYS]);
        }
        let set = &mut shard[set_of(&leaf)];
        if !set.contains(&leaf) {
            set.rotate_right(1);
            set[0] = leaf;
        }
    }

    fn shard(&self, leaf: &Digest) -> MutexGuard<'_, Vec<[Digest; WAYS]>> {
        // Sets are whole between calls whatever the user of one does, so a poisoned lock means nothing.
        self.shards[usize::from(leaf.0[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_of(leaf: &Digest) -> usize {
    usize::from(u16::from_le_bytes([leaf.0[1], leaf.0[2]])) % SETS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{Context, hash};

    fn leaf(i: usize) -> Digest {
        hash(Context::Leaf, &[&i.to_le_bytes()])
    }

    #[test]
    fn mem1_known_requests_are_bounded_and_only_what_was_put_in() {
        let known = KnownRequests::default();
        assert!(!known.contains(&Digest::ZERO) && !known.contains(&leaf(0)));
        for i in 0..3 * REQUESTS_KNOWN_MAX {
            known.insert(leaf(i));
            assert!(known.contains(&leaf(i)), "the newest is known");
        }
        let places: usize = known.shards.iter().map(|shard| shard.lock().unwrap().len() * WAYS).sum();
        assert_eq!(places, REQUESTS_KNOWN_MAX);
        let still = (0..3 * REQUESTS_KNOWN_MAX).filter(|i| known.contains(&leaf(*i))).count();
        assert!(still <= REQUESTS_KNOWN_MAX && still > REQUESTS_KNOWN_MAX / 2, "{still}");
        assert!((0..1000).all(|i| !known.contains(&leaf(4 * REQUESTS_KNOWN_MAX + i))), "what never came");
        assert!(!known.contains(&Digest::ZERO), "an empty place is no Request");
    }

    #[test]
    fn putting_one_in_twice_costs_no_other_its_place() {
        let known = KnownRequests::default();
        let same_place: Vec<_> = (0..).map(leaf).filter(|l| l.0[0] == 0 && set_of(l) == 7).take(WAYS).collect();
        same_place.iter().for_each(|leaf| known.insert(*leaf));
        (0..10).for_each(|_| known.insert(same_place[0]));
        assert!(same_place.iter().all(|leaf| known.contains(leaf)));
    }
}
