//! What replicas answered to one Request, and whether enough of them agree (C6, Z7): at most one answer a replica is
//! kept, the last one; answers count by replica and only together with those that say exactly the same. Also the one
//! other thing that a client believes of many: the highest number that a correct replica vouches for.

use bytes::Bytes;

use crate::ids::{Digest, ReplicaId, Seq};
use crate::quorum::{ReplicaSet, Weights};
use crate::wire::message::{Code, Reply};
use crate::wire::request::result_digest;

/// One replica's answer. The epoch, session and number are those of the Request it is kept with.
#[derive(Clone, Debug)]
struct Answer {
    seq: Seq,
    code: Code,
    digest: Digest,
    results: Option<Bytes>,
}

impl Answer {
    fn agrees(&self, other: &Self) -> bool {
        (self.seq, self.code, self.digest) == (other.seq, other.code, other.digest)
    }
}

/// What a blocking set of replicas vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) seq: Seq,
    pub(super) code: Code,
    pub(super) results: Bytes,
}

/// The answers to one Request, by replica.
#[derive(Clone, Debug)]
pub(super) struct Answers(Vec<Option<Answer>>);

impl Answers {
    pub(super) fn new(replicas: usize) -> Self {
        Self(vec![None; replicas])
    }

    /// Takes the answer of `from`, in place of its former one; `results` are those of the reply, or none where they are
    /// not worth their memory.
    pub(super) fn record(&mut self, from: ReplicaId, reply: &Reply, results: Option<Bytes>) {
        let mut answer = Answer { seq: reply.seq, code: reply.code, digest: reply.digest, results };
        if let Some(former) = &mut self.0[from.index()]
            && former.agrees(&answer)
        {
            answer.results = answer.results.or(former.results.take());
            crate::mutant!(M27RepliesCountedTwice, {}, {
                if let Some(free) = self.0.iter_mut().find(|slot| slot.is_none()) {
                    *free = Some(answer.clone());
                }
            });
        }
        self.0[from.index()] = Some(answer);
    }

    /// What is accepted, now that `from` has answered: its answer, if replicas that agree with it are a blocking set
    /// and the results are there.
    pub(super) fn accepted(&self, weights: &Weights, from: ReplicaId) -> Option<Accepted> {
        let answer = self.0[from.index()].as_ref()?;
        let agreeing = || self.iter().filter(|(_, other)| other.agrees(answer));
        let voters: ReplicaSet = agreeing().map(|(id, _)| id).collect();
        let enough = crate::mutant!(M26AcceptedByFaulty, weights.is_blocking(voters), {
            let weight: u64 = voters.iter().map(|id| weights.weight(id)).sum();
            weight >= weights.faulty_max()
        });
        if !enough {
            return None;
        }
        let results = agreeing().find_map(|(_, answer)| answer.results.clone());
        // Nobody needs to send results that are empty.
        let empty = || (result_digest(answer.code, &[]) == answer.digest).then(Bytes::new);
        Some(Accepted { seq: answer.seq, code: answer.code, results: results.or_else(empty)? })
    }

    /// Bytes of results kept from `replica`.
    pub(super) fn held(&self, replica: ReplicaId) -> usize {
        let results = self.0[replica.index()].as_ref().and_then(|answer| answer.results.as_ref());
        results.map_or(0, Bytes::len)
    }

    fn iter(&self) -> impl Iterator<Item = (ReplicaId, &Answer)> {
        (0..).map(ReplicaId).zip(&self.0).filter_map(|(id, answer)| answer.as_ref().map(|answer| (id, answer)))
    }
}

/// The highest value such that the replicas at it or above are a blocking set: a correct one among them has got so far.
pub(super) fn vouched<T: Ord + Copy>(weights: &Weights, said: impl Iterator<Item = (ReplicaId, T)>) -> Option<T> {
    let mut said: Vec<_> = said.collect();
    said.sort_unstable_by_key(|(_, value)| std::cmp::Reverse(*value));
    let mut set = ReplicaSet::EMPTY;
    said.into_iter()
        .find(|(id, _)| {
            set.insert(*id);
            weights.is_blocking(set)
        })
        .map(|(_, value)| value)
}
