//! What executing each Seq of the last few intervals came to: so that replicas whose checkpoints differ find out where they
//! began to (PROTOCOL §7). Plain bookkeeping; who is asked, and what becomes of an answer, is in `quarantine`.
//!
//! A checkpoint's root binds the `exec` chain, and through it every step that led there: whoever gives steps that end in
//! the root has given the right ones. So they travel on demand, and need no signature of their own.

use std::collections::VecDeque;

use crate::hash::{Context, Hasher, hash};
use crate::ids::{Digest, Seq};
use crate::limits::TRAIL_INTERVALS;
use crate::wire::message::{Step, Trail};

/// One Seq, executed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed {
    /// The Seq.
    pub seq: Seq,
    /// The digest of its batch.
    pub batch: Digest,
    /// The chain over all batches up to it.
    pub chain: Digest,
    /// The chain over all replies and deltas up to it.
    pub exec: Digest,
    /// What it added to that.
    pub step: Step,
}

/// The last Seqs that were executed here, without a gap.
#[derive(Debug)]
pub struct Trails {
    interval: u64,
    /// The state before the first of them: its Seq, and the `exec` chain there.
    base: (Seq, Digest),
    kept: VecDeque<Executed>,
}

impl Trails {
    /// Nothing was executed since the state of `base`, at which the `exec` chain had this value.
    #[must_use]
    pub fn new(interval: u64, base: (Seq, Digest)) -> Self {
        Self { interval, base, kept: VecDeque::new() }
    }

    /// The state came from elsewhere: goes on from `base`.
    pub fn restart(&mut self, base: (Seq, Digest)) {
        self.base = base;
        self.kept.clear();
    }

    /// The next Seq was executed.
    pub fn note(&mut self, executed: Executed) {
        let last = self.kept.back().map_or(self.base.0, |last| last.seq);
        assert_eq!(executed.seq, last.next(), "Seqs are executed one after the other");
        let most = (TRAIL_INTERVALS * self.interval) as usize;
        if self.kept.len() == most
            && let Some(oldest) = self.kept.pop_front()
        {
            self.base = (oldest.seq, oldest.exec);
        } else if self.kept.capacity() == 0 {
            self.kept.reserve_exact(most);
        }
        self.kept.push_back(executed);
    }

    /// What executing `seq` came to.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Option<&Executed> {
        let first = self.kept.front()?.seq;
        self.kept.get(usize::try_from(seq.0.checked_sub(first.0)?).ok()?)
    }

    /// The `exec` chain after `seq`.
    #[must_use]
    pub fn exec_at(&self, seq: Seq) -> Option<Digest> {
        if seq == self.base.0 { Some(self.base.1) } else { self.at(seq).map(|executed| executed.exec) }
    }

    /// The trail to a checkpoint, if all of it is kept.
    #[must_use]
    pub fn to(&self, seq: Seq) -> Option<Trail> {
        let before = Seq(seq.0.checked_sub(self.interval).filter(|_| seq.is_checkpoint(self.interval))?);
        let exec_before = self.exec_at(before)?;
        let chain = self.at(seq)?.chain;
        let steps = (1..=self.interval).map(|ahead| self.at(before.plus(ahead)).expect("no gap").step).collect();
        Some(Trail { seq, chain, exec_before, steps })
    }

    /// Recounts. For the invariants.
    pub fn check(&self) {
        assert!(self.kept.len() as u64 <= TRAIL_INTERVALS * self.interval);
        assert!((1..).zip(&self.kept).all(|(nth, executed)| executed.seq == self.base.0.plus(nth)), "no gap");
    }
}

/// The `exec` chain after one more Seq.
#[must_use]
pub fn chained(exec: Digest, seq: Seq, step: Step) -> Digest {
    hash(Context::Exec, &[&exec.0, &seq.0.to_le_bytes(), &step.reply_root.0, &step.delta.0])
}

/// The `exec` chain after each step of a trail, in their order. It has no more steps than there are Seqs up to its own.
#[must_use]
pub fn fold(trail: &Trail) -> Vec<Digest> {
    assert!(trail.steps.len() as u64 <= trail.seq.0, "its length was compared with the interval");
    let first = trail.seq.0 + 1 - trail.steps.len() as u64;
    let mut exec = trail.exec_before;
    let steps = (first..).map(Seq).zip(&trail.steps);
    steps
        .map(|(seq, step)| {
            exec = chained(exec, seq, *step);
            exec
        })
        .collect()
}

/// The root of a checkpoint.
#[must_use]
pub fn root(seq: Seq, chain: Digest, exec: Digest, config: Digest) -> Digest {
    let mut hasher = Hasher::new(Context::Checkpoint);
    hasher.u64(seq.0).update(&chain.0).update(&exec.0).update(&config.0).update(&Digest::ZERO.0);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(through: u64) -> Trails {
        let mut trails = Trails::new(4, (Seq(0), Digest::ZERO));
        let mut exec = Digest::ZERO;
        for seq in (1..=through).map(Seq) {
            let step = Step { reply_root: Digest([seq.0 as u8; 32]), delta: Digest([3; 32]) };
            exec = chained(exec, seq, step);
            trails.note(Executed { seq, batch: Digest([1; 32]), chain: Digest([seq.0 as u8; 32]), exec, step });
            trails.check();
        }
        trails
    }

    #[test]
    fn k4_a_trail_ends_where_the_execution_did_and_in_nothing_else() {
        let trails = filled(40);
        let trail = trails.to(Seq(36)).expect("kept");
        assert_eq!((trail.steps.len(), trail.chain), (4, Digest([36; 32])));
        let execs = fold(&trail);
        assert_eq!(execs.last().copied(), trails.exec_at(Seq(36)));
        assert_eq!(execs[0], trails.exec_at(Seq(33)).expect("kept"));
        for nth in 0..4 {
            let mut forged = trail.clone();
            forged.steps[nth].delta = Digest([4; 32]);
            assert_ne!(fold(&forged).last(), execs.last());
        }
        let before = Trail { exec_before: Digest([9; 32]), ..trail };
        assert_ne!(fold(&before).last(), execs.last());
    }

    #[test]
    fn only_whole_intervals_that_are_kept_are_given() {
        let trails = filled(40);
        assert!(trails.to(Seq(40)).is_some() && trails.to(Seq(28)).is_some(), "four intervals");
        assert!(trails.to(Seq(24)).is_none() && trails.to(Seq(44)).is_none());
        assert!(trails.to(Seq(39)).is_none() && trails.to(Seq(0)).is_none(), "no checkpoints");
        assert_eq!(filled(4).to(Seq(4)).map(|trail| trail.exec_before), Some(Digest::ZERO), "from the beginning");
        let mut moved = filled(40);
        moved.restart((Seq(8), Digest([5; 32])));
        assert!(moved.to(Seq(40)).is_none() && moved.exec_at(Seq(8)) == Some(Digest([5; 32])));
    }
}
