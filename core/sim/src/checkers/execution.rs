//! In one life, a replica's service executes in the order of the Seqs, from the state it began with, each once (I2), at times
//! that grow. Seqs
//! in which nothing is admitted never reach it: that all replicas leave out the same ones, `exactly_once` sees.

use bft_core::door::Execute;
use bft_core::ids::{ReplicaId, Seq};

use super::Verdict;

/// The last Seq of each replica's life, and its time.
pub struct Execution {
    last: Vec<(Seq, u64)>,
}

impl Execution {
    /// `n` replicas without state.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { last: vec![(Seq(0), 0); n] }
    }

    /// The replica's service now holds the state of `seq`.
    pub fn state_at(&mut self, replica: ReplicaId, seq: Seq) {
        self.last[replica.index()] = (seq, 0);
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
    fn time_that_stands_still_is_found() {
        let mut execution = Execution::new(1);
        let (first, mut second) = (made::execute(1, &[]), made::execute(2, &[]));
        assert_eq!(execution.execute(ReplicaId(0), &first), Ok(()));
        second.time_ns = first.time_ns;
        assert!(execution.execute(ReplicaId(0), &second).is_err());
    }
}
