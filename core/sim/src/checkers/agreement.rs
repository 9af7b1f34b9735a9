//! One Seq, one batch: whatever replica executes or commits, whenever, in whatever life (I1).

use std::collections::BTreeMap;

use bft_core::door::Execute;
use bft_core::hash::{Context, Hasher};
use bft_core::ids::{Digest, ReplicaId, Seq};
use bft_core::wire::message::Position;

use super::Verdict;

/// What each Seq holds, and who said so first.
#[derive(Default)]
pub struct Agreement {
    executed: BTreeMap<Seq, (ReplicaId, Digest)>,
    committed: BTreeMap<Seq, (ReplicaId, Digest)>,
}

impl Agreement {
    /// A replica executes a batch: its bytes, its time and what is admitted of it must be everybody's.
    pub fn execute(&mut self, replica: ReplicaId, order: &Execute) -> Verdict {
        let mut hasher = Hasher::new(Context::Batch);
        hasher.u64(order.time_ns).u64(order.body.bytes().len() as u64).update(order.body.bytes());
        order.admitted.iter().for_each(|index| {
            hasher.u64(u64::from(*index));
        });
        agree(&mut self.executed, "executes", order.seq, replica, hasher.finish())
    }

    /// A replica holds a commit certificate.
    pub fn committed(&mut self, replica: ReplicaId, position: &Position) -> Verdict {
        agree(&mut self.committed, "commits", position.seq, replica, position.digest)
    }
}

fn agree(
    known: &mut BTreeMap<Seq, (ReplicaId, Digest)>,
    verb: &str,
    seq: Seq,
    replica: ReplicaId,
    digest: Digest,
) -> Verdict {
    let (first, there) = *known.entry(seq).or_insert((replica, digest));
    if there == digest {
        return Ok(());
    }
    Err(format!("{verb} {digest:?} at Seq {seq}, where {first:?} has {there:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::made;
    use super::*;

    #[test]
    fn two_batches_at_one_seq_are_found() {
        let mut agreement = Agreement::default();
        let order = made::execute(1, &[made::order(1)]);
        assert_eq!(agreement.execute(ReplicaId(0), &order), Ok(()));
        assert_eq!(agreement.execute(ReplicaId(1), &order), Ok(()));
        assert!(agreement.execute(ReplicaId(2), &made::execute(1, &[made::order(2)])).is_err());
        let mut later = order.clone();
        later.time_ns += 1;
        assert!(agreement.execute(ReplicaId(2), &later).is_err(), "another time");
        let mut refused = order;
        refused.admitted.clear();
        assert!(agreement.execute(ReplicaId(2), &refused).is_err(), "another verdict on a Request");
    }

    #[test]
    fn two_commit_certificates_at_one_seq_are_found() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.committed(ReplicaId(0), &made::position(3, 1)), Ok(()));
        assert_eq!(agreement.committed(ReplicaId(1), &made::position(4, 2)), Ok(()));
        assert!(agreement.committed(ReplicaId(1), &made::position(3, 2)).is_err());
    }
}
