//! What was found valid here and costs no second check: Requests, because a client sends again, and because the PRE-PREPARE
//! with a Request comes after the client has sent it here too; and whole batches, because a view begins with what former
//! ones left open. A pure cache of good news: a Request is known by its leaf, which binds every signed field and the
//! signature itself (C15), and a batch by the root over its leaves, so what is found here is what the check would say. The
//! digest of a Request would not do: it leaves the signature out, and a primary could put a broken one beside it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::Digest;

/// Each with its own lock, so that threads that share a verifier seldom wait for one another.
const SHARDS: usize = 8;
/// Digests that share a place; the newest is first.
const WAYS: usize = 4;

/// The digests of what was found valid lately, a bounded number. Takes no memory before the first.
pub(super) struct Known {
    /// Of each shard.
    sets: usize,
    /// Empty, or so many sets. Nothing has the digest zero.
    shards: [Mutex<Vec<[Digest; WAYS]>>; SHARDS],
}

impl Known {
    /// Room for so many.
    pub(super) fn with_room_for(places: usize) -> Self {
        assert!(places.is_multiple_of(SHARDS * WAYS) && places > 0, "whole sets, and some");
        Self { sets: places / SHARDS / WAYS, shards: Default::default() }
    }

    /// Whether what has this digest was found valid.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let set = self.set_of(digest);
        *digest != Digest::ZERO && self.shard(digest).get(set).is_some_and(|set| set.contains(digest))
    }

    /// What has this digest was found valid. The oldest in its place is forgotten.
    pub(super) fn insert(&self, digest: Digest) {
        let mut shard = self.shard(&digest);
        if shard.is_empty() {
            shard.resize(self.sets, [Digest::ZERO; WAYS]);
        }
        let set = &mut shard[self.set_of(&digest)];
        if !set.contains(&digest) {
            set.rotate_right(1);
            set[0] = digest;
        }
    }

    fn shard(&self, digest: &Digest) -> MutexGuard<'_, Vec<[Digest; WAYS]>> {
        // Sets are whole between calls whatever the user of one does, so a poisoned lock means nothing.
        self.shards[usize::from(digest.0[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_of(&self, digest: &Digest) -> usize {
        usize::from(u16::from_le_bytes([digest.0[1], digest.0[2]])) % self.sets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{Context, hash};
    use crate::limits::REQUESTS_KNOWN_MAX;

    fn leaf(i: usize) -> Digest {
        hash(Context::Leaf, &[&i.to_le_bytes()])
    }

    #[test]
    fn mem1_known_requests_are_bounded_and_only_what_was_put_in() {
        let known = Known::with_room_for(REQUESTS_KNOWN_MAX);
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
        let known = Known::with_room_for(REQUESTS_KNOWN_MAX);
        let same_place: Vec<_> = (0..).map(leaf).filter(|l| l.0[0] == 0 && known.set_of(l) == 7).take(WAYS).collect();
        same_place.iter().for_each(|leaf| known.insert(*leaf));
        (0..10).for_each(|_| known.insert(same_place[0]));
        assert!(same_place.iter().all(|leaf| known.contains(leaf)));
    }
}
