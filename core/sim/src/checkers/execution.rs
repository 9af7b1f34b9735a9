//! In one life, a replica's service executes in the order of the Seqs, from the state it began with, each once (I2), at times
//! that grow; and it takes snapshots at the same points as all others. Seqs in which nothing is admitted never reach it:
//! that all replicas leave out the same ones, `exactly_once` sees.

use std::collections::BTreeMap;

use bft_core::door::Execute;
use bft_core::ids::{ReplicaId, Seq};

use super::Verdict;

/// The last Seq of each replica's life, and its time.
pub struct Execution {
    last: Vec<(Seq, u64)>,
    /// The point of each replica's last snapshot; and before each point the one that comes before it.
    point: Vec<Seq>,
    points: BTreeMap<Seq, Seq>,
}

impl Execution {
    /// `n` replicas without state.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { last: vec![(Seq(0), 0); n], point: vec![Seq(0); n], points: BTreeMap::new() }
    }

    /// The replica's service now holds the state of `seq`.
    pub fn state_at(&mut self, replica: ReplicaId, seq: Seq) {
        self.last[replica.index()] = (seq, 0);
        self.point[replica.index()] = seq;
    }

    /// The replica takes a snapshot. A state that it begins with is that of a point.
    pub fn snapshot_ordered(&mut self, replica: ReplicaId, seq: Seq) -> Verdict {
        let former = std::mem::replace(&mut self.point[replica.index()], seq);
        let expected = *self.points.entry(seq).or_insert(former);
        if expected == former {
            return Ok(());
        }
        Err(format!("takes snapshots of {former} and {seq}, and others of {expected} and {seq}"))
    }

    /// The replica executes a batch.
    pub fn execute(&mut self, replica: ReplicaId, order: &Execute) -> Verdict {
        let (last, time) = std::mem::replace(&mut self.last[replica.index()], (order.seq, order.time_ns));
        if order.seq <= last {
            return Err(format!("executes Seq {} after Seq {last}", order.seq));
        }
        if order.time_ns <= time {
            return Err(format!(
                "executes Seq {} at {} ns, not later than Seq {last} at {time} ns",
                order.seq, order.time_ns
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::made;
    use super::*;

    #[test]
    fn s6_steps_back_and_repetitions_are_found() {
        let run = |base: u64, seqs: &[u64]| {
            let mut execution = Execution::new(1);
            execution.state_at(ReplicaId(0), Seq(base));
            seqs.iter().try_for_each(|seq| execution.execute(ReplicaId(0), &made::execute(*seq, &[])))
        };
        assert_eq!(run(0, &[1, 2, 3]), Ok(()));
        assert_eq!(run(8, &[9, 10]), Ok(()));
        assert_eq!(run(0, &[1, 3]), Ok(()), "nothing was admitted at Seq 2");
        assert!(run(0, &[1, 3, 2]).is_err());
        assert!(run(0, &[1, 2, 2]).is_err());
        assert!(run(8, &[8]).is_err());
    }

    #[test]
    fn a_point_that_a_replica_leaves_out_is_found() {
        let mut execution = Execution::new(3);
        let mut points = |replica, points: &[u64]| {
            points.iter().try_for_each(|seq| execution.snapshot_ordered(ReplicaId(replica), Seq(*seq)))
        };
        assert_eq!(points(0, &[8, 16, 24]), Ok(()));
        assert!(points(1, &[8, 24]).is_err());
        execution.state_at(ReplicaId(2), Seq(16));
        assert_eq!(execution.snapshot_ordered(ReplicaId(2), Seq(24)), Ok(()), "what came before is not its own");
    }

    #[test]
    fn time_that_stands_still_is_found() {
        let mut execution = Execution::new(1);
        let (first, mut second) = (made::execute(1, &[]), made::execute(2, &[]));
        assert_eq!(execution.execute(ReplicaId(0), &first), Ok(()));
        second.time_ns = first.time_ns;
        assert!(execution.execute(ReplicaId(0), &second).is_err());
    }
}
