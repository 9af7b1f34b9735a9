//! Who is enough: sets of replicas, their weights, and the two questions the protocol asks of them (PROTOCOL §1). No
//! other file counts replicas.

use std::collections::BTreeMap;

use crate::ids::{Digest, ReplicaId, Seq, Signature};
use crate::limits::{REPLICAS_MAX, WEIGHT_TOTAL_MAX};

/// A set of replicas of one configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReplicaSet(u32);

impl ReplicaSet {
    /// No replica.
    pub const EMPTY: Self = Self(0);

    /// The set whose bit i says whether replica i is in it; `None` if a bit at or above `n` is set.
    #[must_use]
    pub fn from_bits(bits: u32, n: usize) -> Option<Self> {
        (bits & !Self::all(n).0 == 0).then_some(Self(bits))
    }

    /// Replicas 0 to n-1.
    #[must_use]
    pub fn all(n: usize) -> Self {
        assert!(n <= REPLICAS_MAX);
        Self((1 << n) - 1)
    }

    /// Bit i says whether replica i is in the set.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Adds `id`; false if it was there already.
    pub fn insert(&mut self, id: ReplicaId) -> bool {
        assert!(id.index() < REPLICAS_MAX);
        let bit = 1 << id.0;
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }

    /// The set with `id` in it.
    #[must_use]
    pub fn with(mut self, id: ReplicaId) -> Self {
        self.insert(id);
        self
    }

    /// Takes `id` out.
    pub fn remove(&mut self, id: ReplicaId) {
        self.0 &= !(1 << id.0);
    }

    /// Whether `id` is in the set.
    #[must_use]
    pub fn contains(self, id: ReplicaId) -> bool {
        id.index() < REPLICAS_MAX && self.0 & 1 << id.0 != 0
    }

    /// How many replicas are in the set.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let id = u16::try_from(rest.trailing_zeros()).expect("at most 32");
            rest &= rest.checked_sub(1)?;
            Some(ReplicaId(id))
        })
    }
}

impl FromIterator<ReplicaId> for ReplicaSet {
    fn from_iter<I: IntoIterator<Item = ReplicaId>>(ids: I) -> Self {
        ids.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl std::fmt::Debug for ReplicaSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Why weights make no configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// No replica, or more than [`REPLICAS_MAX`].
    #[error("a cluster has 1 to {REPLICAS_MAX} replicas, not {0}")]
    Count(usize),
    /// A weight of 0.
    #[error("replica {0} has weight 0; the least is 1")]
    Zero(ReplicaId),
    /// The sum passes [`WEIGHT_TOTAL_MAX`].
    #[error("the weights add up to more than {WEIGHT_TOTAL_MAX}")]
    Total,
}

/// The weights of a configuration's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    weights: Vec<u64>,
    total: u64,
}

impl Weights {
    /// Weights of replicas 0, 1, …
    pub fn new(weights: Vec<u64>) -> Result<Self, WeightsError> {
        if weights.is_empty() || weights.len() > REPLICAS_MAX {
            return Err(WeightsError::Count(weights.len()));
        }
        let mut total: u64 = 0;
        for (id, weight) in (0..).map(ReplicaId).zip(&weights) {
            if *weight == 0 {
                return Err(WeightsError::Zero(id));
            }
            total = total.checked_add(*weight).filter(|total| *total <= WEIGHT_TOTAL_MAX).ok_or(WeightsError::Total)?;
        }
        Ok(Self { weights, total })
    }

    /// How many replicas there are.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a configuration is never empty")]
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// The weight of one replica.
    #[must_use]
    pub fn weight(&self, id: ReplicaId) -> u64 {
        self.weights[id.index()]
    }

    /// The largest weight that may be Byzantine, F = ⌊(Ω−1)/3⌋.
    #[must_use]
    pub fn faulty_max(&self) -> u64 {
        (self.total - 1) / 3
    }

    /// Whether `set` is a quorum: 2x > Ω + F. Two quorums share more weight than may be Byzantine.
    #[must_use]
    pub fn is_quorum(&self, set: ReplicaSet) -> bool {
        crate::mutant!(
            M1QuorumTooSmall,
            2 * u128::from(self.weigh(set)) > u128::from(self.total) + u128::from(self.faulty_max()),
            {
                let lightest = self.weights.iter().min().copied().unwrap_or(0);
                2 * u128::from(self.weigh(set) + lightest) > u128::from(self.total) + u128::from(self.faulty_max())
            }
        )
    }

    /// Whether `set` is blocking: x > F. At least one correct replica is in it.
    #[must_use]
    pub fn is_blocking(&self, set: ReplicaSet) -> bool {
        self.weigh(set) > self.faulty_max()
    }

    fn weigh(&self, set: ReplicaSet) -> u64 {
        set.iter().map(|id| self.weight(id)).sum()
    }
}

/// Votes of one kind about one thing: of each replica the digest it voted for and what came with it (a signature, a
/// commitment). The first vote of a replica stands.
#[derive(Clone, Debug)]
pub struct VoteSet<T> {
    votes: Vec<Option<(Digest, T)>>,
}

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voted {
    /// Counted.
    New,
    /// This replica had voted for the same digest.
    Again,
    /// This replica had voted for another digest, which stands.
    Conflicts,
}

impl<T: Clone> VoteSet<T> {
    /// No votes yet, of `n` replicas.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { votes: vec![None; n] }
    }

    /// Counts the vote of `from` for `digest`.
    pub fn vote(&mut self, from: ReplicaId, digest: Digest, with: T) -> Voted {
        match &self.votes[from.index()] {
            Some((former, _)) if *former == digest => {
                crate::mutant!(M2DuplicatesCounted, {}, {
                    if let Some(free) = self.votes.iter_mut().find(|vote| vote.is_none()) {
                        *free = Some((digest, with));
                    }
                });
                Voted::Again
            }
            Some(_) => Voted::Conflicts,
            None => {
                self.votes[from.index()] = Some((digest, with));
                Voted::New
            }
        }
    }

    /// Who voted for exactly `digest`.
    #[must_use]
    pub fn voters(&self, digest: Digest) -> ReplicaSet {
        self.iter()
            .filter(|(_, vote, _)| crate::mutant!(M3VotesPooledOverDigests, *vote == digest, true))
            .map(|(voter, _, _)| voter)
            .collect()
    }

    /// A digest other than `mine` that a blocking set without `me` voted for, and how many those are: at least one of
    /// them is correct, so `mine` is wrong.
    #[must_use]
    pub fn refutation(&self, weights: &Weights, me: ReplicaId, mine: Digest) -> Option<(Digest, usize)> {
        self.iter().filter(|(replica, digest, _)| *replica != me && *digest != mine).find_map(|(_, other, _)| {
            let voters = self.voters(other);
            weights.is_blocking(voters).then_some((other, voters.len()))
        })
    }

    /// Who voted at all.
    #[must_use]
    pub fn all_voters(&self) -> ReplicaSet {
        self.iter().map(|(voter, _, _)| voter).collect()
    }

    /// The vote of one replica.
    #[must_use]
    pub fn get(&self, from: ReplicaId) -> Option<(Digest, &T)> {
        self.votes[from.index()].as_ref().map(|(digest, with)| (*digest, with))
    }

    /// All votes, ascending by replica.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, Digest, &T)> {
        (0..).map(ReplicaId).zip(&self.votes).filter_map(|(id, vote)| vote.as_ref().map(|(d, with)| (id, *d, with)))
    }

    /// Forgets the vote of one replica.
    pub fn forget(&mut self, from: ReplicaId) {
        self.votes[from.index()] = None;
    }

    /// Forgets all votes and keeps the memory.
    pub fn clear(&mut self) {
        self.votes.fill(None);
    }
}

impl VoteSet<Signature> {
    /// The signatures over `root`, ascending by replica: those of a certificate.
    #[must_use]
    pub fn signatures(&self, root: Digest) -> Vec<(ReplicaId, Signature)> {
        let of_root = self.iter().filter(|(_, digest, _)| *digest == root);
        of_root.map(|(replica, _, signature)| (replica, *signature)).collect()
    }
}

/// Signed votes for a root at each of some Seqs. Of each replica the newest `MOST` are kept, so that none can fill the
/// memory.
#[derive(Debug, Default)]
pub struct VotesBySeq<const MOST: usize>(BTreeMap<Seq, VoteSet<Signature>>);

impl<const MOST: usize> VotesBySeq<MOST> {
    /// Those at `seq`.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Option<&VoteSet<Signature>> {
        self.0.get(&seq)
    }

    /// Counts the vote of `from`, one of `n` replicas.
    pub fn vote(&mut self, n: usize, from: ReplicaId, seq: Seq, root: Digest, signature: Signature) -> Voted {
        let voted = self.0.entry(seq).or_insert_with(|| VoteSet::new(n)).vote(from, root, signature);
        let has_voted = |votes: &VoteSet<Signature>| votes.get(from).is_some();
        if self.0.values().filter(|votes| has_voted(votes)).count() > MOST
            && let Some((lowest, votes)) = self.0.iter_mut().find(|(_, votes)| has_voted(votes))
        {
            votes.forget(from);
            if votes.all_voters().is_empty() {
                let lowest = *lowest;
                self.0.remove(&lowest);
            }
        }
        voted
    }

    /// Forgets what is at or below `seq`.
    pub fn forget_through(&mut self, seq: Seq) {
        self.0 = self.0.split_off(&seq.next());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_two_quorums_share_a_correct_replica_and_survive_the_faulty() {
        for n in 1..=REPLICAS_MAX {
            let weights = Weights::new(vec![1; n]).unwrap();
            let f = (n - 1) / 3;
            let first = |k: usize| ReplicaSet::all(k);
            let q = (1..=n).find(|k| weights.is_quorum(first(*k))).unwrap();
            assert_eq!(q, (n + f) / 2 + 1, "n = {n}");
            assert!(2 * q - n > f, "two quorums of {n} share a correct replica");
            assert!(q <= n - f, "the correct replicas of {n} are a quorum");
            assert!(weights.is_blocking(first(f + 1)) && !weights.is_blocking(first(f)));
        }
    }

    #[test]
    fn s11_unequal_weights_keep_the_same_laws() {
        for raw in
            [vec![1, 2, 3, 4], vec![5, 5, 5, 1, 1], vec![1 << 31, 1 << 30, 1 << 29, 1 << 29], vec![7, 1, 1, 1, 1, 1, 1]]
        {
            let weights = Weights::new(raw.clone()).unwrap();
            let sets: Vec<_> =
                (0..1u32 << raw.len()).map(|bits| ReplicaSet::from_bits(bits, raw.len()).unwrap()).collect();
            for a in &sets {
                let rest = ReplicaSet::from_bits(!a.bits() & ReplicaSet::all(raw.len()).bits(), raw.len()).unwrap();
                assert!(weights.is_blocking(*a) || weights.is_quorum(rest), "what may fail leaves a quorum");
                for b in sets.iter().filter(|b| weights.is_quorum(**b) && weights.is_quorum(*a)) {
                    let both = ReplicaSet::from_bits(a.bits() & b.bits(), raw.len()).unwrap();
                    assert!(weights.is_blocking(both), "{raw:?}: {a:?} and {b:?}");
                }
            }
        }
    }

    #[test]
    fn z9_weights_cannot_overflow() {
        assert_eq!(Weights::new(vec![u64::MAX, 2]), Err(WeightsError::Total));
        assert_eq!(Weights::new(vec![1, 0]), Err(WeightsError::Zero(ReplicaId(1))));
        assert_eq!(Weights::new(vec![]), Err(WeightsError::Count(0)));
        assert_eq!(Weights::new(vec![1; 32]), Err(WeightsError::Count(32)));
    }

    #[test]
    fn s5_votes_count_once_and_for_one_digest() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let mut votes = VoteSet::new(4);
        assert_eq!(votes.vote(ReplicaId(2), a, ()), Voted::New);
        assert_eq!(votes.vote(ReplicaId(2), a, ()), Voted::Again);
        assert_eq!(votes.vote(ReplicaId(2), b, ()), Voted::Conflicts);
        assert_eq!(votes.vote(ReplicaId(0), b, ()), Voted::New);
        assert_eq!(votes.voters(a), ReplicaSet::EMPTY.with(ReplicaId(2)));
        assert_eq!(votes.voters(b), ReplicaSet::EMPTY.with(ReplicaId(0)));
        assert_eq!(votes.all_voters().len(), 2);
        votes.clear();
        assert!(votes.all_voters().is_empty());
    }

    #[test]
    fn votes_at_new_seqs_displace_those_of_the_same_replica_at_old_ones() {
        let (root, signature) = (Digest([1; 32]), Signature([2; 64]));
        let (talker, other) = (ReplicaId(1), ReplicaId(3));
        let mut votes = VotesBySeq::<2>::default();
        for seq in [8, 16, 24].map(Seq) {
            assert_eq!(votes.vote(4, talker, seq, root, signature), Voted::New);
        }
        assert!(votes.at(Seq(8)).is_none(), "nobody is left there");
        assert_eq!(votes.vote(4, other, Seq(16), root, signature), Voted::New);
        assert_eq!(votes.at(Seq(16)).unwrap().signatures(root), [(talker, signature), (other, signature)]);
        votes.vote(4, talker, Seq(32), root, signature);
        assert_eq!(votes.at(Seq(16)).unwrap().signatures(root), [(other, signature)]);
        votes.forget_through(Seq(24));
        assert!(votes.at(Seq(24)).is_none() && votes.at(Seq(32)).is_some());
    }

    #[test]
    fn t5_sets_from_the_wire_name_members_only() {
        assert_eq!(ReplicaSet::from_bits(0b1_0000, 4), None);
        assert_eq!(ReplicaSet::from_bits(0b1001, 4), Some([ReplicaId(0), ReplicaId(3)].into_iter().collect()));
    }
}
