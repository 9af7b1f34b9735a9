//! Who differs is found, named and nobody else (K4): a report gives the very first Seq at which a drifting service came to
//! something else than correct ones; a correct replica is never in quarantine; and no drift outlives a checkpoint unnoticed.
//! Keeps its own books of what every service came to.

use std::collections::BTreeMap;

use bft_core::divergence::{Alarm, Finding, Report, Unnamed, What};
use bft_core::door::Executed;
use bft_core::hash::{Context, Hasher};
use bft_core::ids::{Digest, ReplicaId, Seq};

use super::Verdict;

/// Whether a service may drift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is deterministic.
    Sound,
    /// It may come to something else than the others.
    Drifts,
}

/// What services came to.
#[derive(Default)]
pub struct Divergence {
    /// By Seq, at sound ones.
    right: BTreeMap<Seq, Digest>,
    /// Of each that may drift, since its state was last a signed one.
    drifting: BTreeMap<ReplicaId, BTreeMap<Seq, Digest>>,
}

impl Divergence {
    /// The state of a replica's service is that of `seq`, as a quorum signed it.
    pub fn state_at(&mut self, replica: ReplicaId) {
        self.drifting.remove(&replica);
    }

    /// A service executed a batch.
    pub fn executed(&mut self, replica: ReplicaId, trust: Trust, seq: Seq, outcome: &Executed) {
        let digest = digest(outcome);
        match trust {
            Trust::Sound => drop(self.right.insert(seq, digest)),
            Trust::Drifts => drop(self.drifting.entry(replica).or_default().insert(seq, digest)),
        }
    }

    /// A replica tells that something differs.
    pub fn told(&self, replica: ReplicaId, trust: Trust, alarm: &Alarm) -> Verdict {
        let report = match (alarm, trust) {
            (Alarm::Nondeterminism(_), _) => return Err("says that nobody can agree, and a quorum is sound".into()),
            (Alarm::Diverged(report), Trust::Sound) => return Err(format!("is sound and in quarantine: {report:?}")),
            (Alarm::Diverged(report), Trust::Drifts) => report,
        };
        let first = self.first(replica);
        match &report.finding {
            Finding::Slot(slot) if Some(slot.seq) == first => Ok(()),
            Finding::Slot(slot) => Err(format!("names Seq {} as the first that differs, which is {first:?}", slot.seq)),
            Finding::Between { after, through, why } => self.is_between(report, first, (*after, *through), *why),
            Finding::Pieces { chunks, clients, more } if chunks.is_empty() && clients.is_empty() && *more == 0 => {
                Err(format!("names no piece of snapshot {}, which differs", report.seq))
            }
            Finding::Pieces { .. } => Ok(()),
        }
    }

    /// At the end: `stable` is the last checkpoint that a replica knows of, and all up to there it has executed.
    pub fn noticed(&self, replica: ReplicaId, stable: Seq) -> Verdict {
        match self.first(replica) {
            Some(first) if first <= stable => {
                Err(format!("came to something else at Seq {first} and has not noticed, after checkpoint {stable}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The first Seq at which it came to something else than sound ones.
    fn first(&self, replica: ReplicaId) -> Option<Seq> {
        let of_it = self.drifting.get(&replica)?;
        of_it
            .iter()
            .find(|(seq, digest)| self.right.get(seq).is_some_and(|right| right != *digest))
            .map(|(seq, _)| *seq)
    }

    fn is_between(&self, report: &Report, first: Option<Seq>, (after, through): (Seq, Seq), why: Unnamed) -> Verdict {
        let is_of_state = matches!(report.what, What::Snapshot | What::ReplayedSnapshot);
        let is_before = why == Unnamed::SignedWrongly || why == Unnamed::NotKept;
        let is_there = first.is_some_and(|first| first > after && first <= through);
        if is_of_state || is_before || is_there {
            return Ok(());
        }
        Err(format!("says that it differs above {after} and at most {through}, first is {first:?}: {report:?}"))
    }
}

fn digest(outcome: &Executed) -> Digest {
    let mut hasher = Hasher::new(Context::Exec);
    for (end, digest) in &outcome.ends {
        hasher.u64(u64::from(*end)).update(&digest.unwrap_or_default().0);
    }
    hasher.update(&outcome.delta.0);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use bft_core::divergence::{Came, SlotDiffers};
    use bft_core::ids::Epoch;

    use super::*;

    const DRIFTER: ReplicaId = ReplicaId(2);

    fn executed(delta: u8) -> Executed {
        Executed { delta: Digest([delta; 32]), ..Executed::default() }
    }

    /// Sound ones came to 1 everywhere, the drifter to 2 from Seq 5 on.
    fn book() -> Divergence {
        let mut book = Divergence::default();
        for seq in (1..=8).map(Seq) {
            book.executed(ReplicaId(0), Trust::Sound, seq, &executed(1));
            book.executed(DRIFTER, Trust::Drifts, seq, &executed(if seq >= Seq(5) { 2 } else { 1 }));
        }
        book
    }

    fn report(finding: Finding) -> Alarm {
        Alarm::Diverged(Box::new(Report {
            replica: DRIFTER,
            epoch: Epoch(0),
            what: What::Checkpoint,
            seq: Seq(8),
            here: Digest([1; 32]),
            there: None,
            roots: Vec::new(),
            repeated: 0,
            finding,
        }))
    }

    fn slot(seq: u64) -> Finding {
        let came = Came { exec: Digest::ZERO, reply_root: Digest::ZERO, delta: Digest::ZERO };
        let (seq, batch) = (Seq(seq), Digest::ZERO);
        Finding::Slot(Box::new(SlotDiffers { seq, batch, here: came, there: came, operations: None }))
    }

    #[test]
    fn k4_a_report_that_names_another_seq_is_found() {
        let book = book();
        assert_eq!(book.told(DRIFTER, Trust::Drifts, &report(slot(5))), Ok(()));
        assert!(book.told(DRIFTER, Trust::Drifts, &report(slot(4))).is_err());
        assert!(book.told(DRIFTER, Trust::Drifts, &report(slot(6))).is_err());
        assert!(book.told(ReplicaId(0), Trust::Sound, &report(slot(5))).is_err(), "nobody sound is in quarantine");
        let between = |after, through| {
            report(Finding::Between { after: Seq(after), through: Seq(through), why: Unnamed::NoAnswer })
        };
        assert_eq!(book.told(DRIFTER, Trust::Drifts, &between(4, 8)), Ok(()));
        assert!(book.told(DRIFTER, Trust::Drifts, &between(5, 8)).is_err());
    }

    #[test]
    fn k4_a_drift_that_nobody_noticed_is_found() {
        let mut book = book();
        assert_eq!(book.noticed(DRIFTER, Seq(4)), Ok(()));
        assert!(book.noticed(DRIFTER, Seq(8)).is_err());
        book.state_at(DRIFTER);
        assert_eq!(book.noticed(DRIFTER, Seq(8)), Ok(()));
    }
}
