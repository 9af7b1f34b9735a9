//! What a client was told outlasts everything (I15). Two books: a batch may be executed only when a quorum of replicas
//! holds its prepared certificate on stable storage, because then no loss of all memories can undo it; and at the end
//! every state holds every operation that was called done. A villain counts among the quorum whatever its disk holds: its
//! word is all that others can know, and of every quorum what is left without villains is enough.

use std::collections::{BTreeMap, BTreeSet};

use bft_core::config::ClusterConfig;
use bft_core::door::Execute;
use bft_core::ids::{Digest, ReplicaId, Seq};
use bft_core::quorum::ReplicaSet;

use super::{Verdict, is_quorum, weights_of};
use crate::ledger::Entry;

/// Who holds what durably, and what was promised.
pub struct Durability {
    weights: Vec<u64>,
    villains: ReplicaSet,
    certified: BTreeMap<(Seq, Digest), BTreeSet<ReplicaId>>,
    done: BTreeMap<Entry, Seq>,
}

impl Durability {
    /// Nothing is promised yet; `villains` promise what they like.
    #[must_use]
    pub fn new(config: &ClusterConfig, villains: ReplicaSet) -> Self {
        Self { weights: weights_of(config), villains, certified: BTreeMap::new(), done: BTreeMap::new() }
    }

    /// A prepared certificate is on a replica's stable storage; a batch is known by the root over its Requests.
    pub fn certified(&mut self, replica: ReplicaId, seq: Seq, merkle_root: Digest) {
        self.certified.entry((seq, merkle_root)).or_default().insert(replica);
    }

    /// A replica executes a batch.
    pub fn execute(&self, order: &Execute) -> Verdict {
        let merkle_root = order.body.header(0).merkle_root;
        let holders = self.certified.get(&(order.seq, merkle_root));
        if is_quorum(&self.weights, holders.into_iter().flatten().copied().chain(self.villains.iter())) {
            return Ok(());
        }
        let holders = holders.map_or(0, BTreeSet::len);
        Err(format!("executes Seq {} while {holders} replicas hold its prepared certificate durably", order.seq))
    }

    /// A client is told that an operation is done.
    pub fn done(&mut self, entry: Entry, seq: Seq) {
        self.done.insert(entry, seq);
    }

    /// The last Seq at which an operation was called done.
    #[must_use]
    pub fn done_through(&self) -> Seq {
        self.done.values().copied().max().unwrap_or_default()
    }

    /// What a replica holds at the end, where `highest` is the last Seq that any of them has executed. One that is still
    /// behind may lack what came later; nobody may lack what all of them could have.
    pub fn state(&self, executed: Seq, highest: Seq, entries: &[Entry]) -> Verdict {
        let held: BTreeSet<_> = entries.iter().collect();
        for (entry, seq) in &self.done {
            if *seq > highest || *seq <= executed && !held.contains(entry) {
                return Err(format!("lacks {entry:?}, which was called done at Seq {seq}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::made;
    use super::*;

    #[test]
    fn d23_a_batch_that_no_quorum_holds_durably_may_not_be_executed() {
        let mut judge = Durability::new(&made::cluster().config, ReplicaSet::EMPTY);
        let order = made::execute(1, &[made::order(1)]);
        let root = order.body.header(0).merkle_root;
        judge.certified(ReplicaId(0), Seq(1), root);
        judge.certified(ReplicaId(1), Seq(1), root);
        judge.certified(ReplicaId(1), Seq(1), root);
        judge.certified(ReplicaId(2), Seq(1), Digest([1; 32]));
        judge.certified(ReplicaId(2), Seq(2), root);
        assert!(judge.execute(&order).is_err());
        judge.certified(ReplicaId(2), Seq(1), root);
        assert_eq!(judge.execute(&order), Ok(()));
    }

    #[test]
    fn an_operation_that_was_called_done_may_not_be_missing() {
        let mut judge = Durability::new(&made::cluster().config, ReplicaSet::EMPTY);
        let entry = made::order(1).entry;
        assert_eq!(judge.state(Seq(0), Seq(0), &[]), Ok(()));
        judge.done(entry, Seq(2));
        assert!(judge.state(Seq(2), Seq(2), &[]).is_err());
        assert!(judge.state(Seq(1), Seq(1), &[entry]).is_err());
        assert_eq!(judge.state(Seq(2), Seq(2), &[entry]), Ok(()));
        assert_eq!(judge.state(Seq(1), Seq(2), &[]), Ok(()), "it is only behind");
    }
}
