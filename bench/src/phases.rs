//! Whether checkpoints and snapshots leave a mark: the intervals between two looks, told apart by what the replicas did
//! in them.

use bft_core::wire::message::Info;
use serde_json::{Value, json};

use crate::load::recorder::Tally;
use crate::report::{latency_object, rounded};

/// What the replicas did in an interval. Of two things, the later one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing special.
    Quiet,
    /// A checkpoint became stable.
    Checkpoint,
    /// A snapshot was being taken and written.
    Snapshot,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Quiet, Self::Checkpoint, Self::Snapshot];

    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Checkpoint => "checkpoint",
            Self::Snapshot => "snapshot",
        }
    }
}

/// What one replica said of its checkpoints and snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    stable: u64,
    begun: u64,
    written: u64,
}

impl Said {
    fn by(info: &Info) -> Self {
        let counter = |name: &str| info.counter(name).unwrap_or(0);
        let (begun, written) = (counter("snapshots_begun"), counter("snapshots_written"));
        Self { stable: info.stable.0, begun, written }
    }

    fn phase_since(self, before: Self) -> Phase {
        if self.begun > self.written || before.begun > before.written || self.begun > before.begun {
            Phase::Snapshot
        } else if self.stable > before.stable {
            Phase::Checkpoint
        } else {
            Phase::Quiet
        }
    }
}

/// All intervals so far.
pub struct Phases {
    before: Vec<Option<Said>>,
    latest: Option<Phase>,
    sums: [Sum; 3],
}

/// The intervals of one phase.
#[derive(Default)]
struct Sum {
    intervals: u64,
    tally: Tally,
    /// The longest silence in each unbroken run of such intervals, in nanoseconds.
    gaps: Vec<u64>,
}

impl Phases {
    /// From when the replicas said this.
    pub fn since(infos: &[Option<Info>]) -> Self {
        let before = infos.iter().map(|info| info.as_ref().map(Said::by)).collect();
        Self { before, latest: None, sums: Default::default() }
    }

    /// An interval with this tally has passed; then the replicas said this. What it was.
    pub fn count(&mut self, tally: &Tally, infos: &[Option<Info>]) -> Phase {
        let mut phase = Phase::Quiet;
        for (before, info) in self.before.iter_mut().zip(infos) {
            // One that is silent has said nothing new.
            let Some(now) = info.as_ref().map(Said::by) else { continue };
            let former = before.replace(now).unwrap_or(now);
            phase = phase.max(now.phase_since(former));
        }
        let sum = &mut self.sums[phase as usize];
        sum.intervals += 1;
        sum.tally.add(tally);
        if self.latest.replace(phase) != Some(phase) {
            sum.gaps.push(0);
        }
        let gap = sum.gaps.last_mut().expect("pushed above or earlier");
        *gap = (*gap).max(tally.gap_max);
        phase
    }

    /// All phases that there were.
    pub fn object(&self) -> Value {
        let of = |phase: &Phase| {
            let sum = &self.sums[*phase as usize];
            (sum.intervals > 0).then(|| (phase.name().to_string(), sum.object()))
        };
        Value::Object(Phase::ALL.iter().filter_map(of).collect())
    }
}

impl Sum {
    fn object(&self) -> Value {
        let mut gaps = self.gaps.clone();
        gaps.sort_unstable();
        let ms = |ns: u64| rounded(ns as f64 / 1e6, 3);
        json!({
            "intervals": self.intervals,
            "runs": gaps.len(),
            "ops": self.tally.ops,
            "latency_us": latency_object(&self.tally.latencies),
            "commit_gap_ms": {
                "median_of_runs": ms(gaps[gaps.len() / 2]),
                "max": ms(self.tally.gap_max),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stable: u64, begun: u64, written: u64) -> Said {
        Said { stable, begun, written }
    }

    #[test]
    fn an_interval_is_what_happened_in_it() {
        let before = said(128, 1, 1);
        assert_eq!(said(128, 1, 1).phase_since(before), Phase::Quiet);
        assert_eq!(said(256, 1, 1).phase_since(before), Phase::Checkpoint);
        assert_eq!(said(256, 2, 1).phase_since(before), Phase::Snapshot);
        assert_eq!(said(128, 2, 2).phase_since(before), Phase::Snapshot, "begun and written within it");
        assert_eq!(said(128, 2, 2).phase_since(said(128, 2, 1)), Phase::Snapshot, "written in it");
    }

    #[test]
    fn gaps_are_counted_by_runs() {
        let mut phases = Phases::since(&[]);
        for gap in [5, 3, 9] {
            phases.count(&Tally { gap_max: gap * 1_000_000, ops: 1, ..Tally::default() }, &[]);
        }
        let object = phases.object();
        let quiet = &object["quiet"];
        assert_eq!((&quiet["intervals"], &quiet["runs"], &quiet["ops"]), (&3.into(), &1.into(), &3.into()));
        assert_eq!(quiet["commit_gap_ms"]["max"], 9.0);
        assert!(object.get("snapshot").is_none());
    }
}
