//! In one life, a replica's service executes in the order of the Seqs, from the state it began with, each once (I2). Seqs
//! in which nothing is admitted never reach it: that all replicas leave out the same ones, `exactly_once` sees.

use bft_core::door::Execute;
use bft_core::ids::{ReplicaId, Seq};

use super::Verdict;

/// The last Seq of each replica's life.
pub struct Execution {
    last: Vec<Seq>,
}

impl Execution {
    /// `n` replicas without state.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { last: vec![Seq(0); n] }
    }

    /// The replica's service now holds the state of `seq`.
    pub fn state_at(&mut self, replica: ReplicaId, seq: Seq) {
        self.last[replica.index()] = seq;
    }

    /// The replica executes a batch.
    pub fn execute(&mut self, replica: ReplicaId, order: &Execute) -> Verdict {
        let last = &mut self.last[replica.index()];
        let right = order.seq > *last;
        let was = std::mem::replace(last, order.seq);
        if right { Ok(()) } else { Err(format!("executes Seq {} after Seq {was}", order.seq)) }
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
}
