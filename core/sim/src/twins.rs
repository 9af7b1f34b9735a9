//! Twins (Bano et al., "Twins: BFT Systems Made Robust", OPODIS 2021): a Byzantine replica as two correct ones that share
//! a name and a key. Every sequence of rounds, each a partition of all machines into two sides and a leader, is played;
//! then all links heal, and the replicas that run once must agree and go on.
//!
//! PBFT keeps its primary, so a round's leader is made by a view: the first view from the present one on that this replica
//! is primary of. While the round lasts, PRE-PREPAREs of every other view are lost, and NEW-VIEWs of every other view that
//! nobody was in before, as a network may lose them, and clients have something to order; so whoever stands with a quorum
//! gives one primary up after the other until that view is reached. Two leaders are chosen from: the doubled replica, which
//! leads on both sides at once, and the one behind it. Clients reach everybody: each half gets the Requests in another
//! order and at another time.
//!
//! With more than F doubled replicas agreement must break somewhere, or this proves nothing: [`control`].

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use bft_core::ids::ReplicaId;
use bft_core::limits::SECOND;

use crate::checkers::{Oracle, Violation};
use crate::cluster::Cluster;
use crate::crash_points::base;
use crate::options::Options;
use crate::pool::spread;
use crate::rng::Seed;
use crate::run::run;
use crate::script::Round;
use crate::trace::Trace;

/// Replicas.
const N: usize = 4;
/// The rounds end the faults; this is long after all of them.
const SAFETY: u64 = 3_600 * SECOND;
/// Operations of a client in a round, at most, and at the end.
const OPERATIONS_PER_ROUND: u32 = 2;

/// One sequence of rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// How many replicas run twice.
    twins: usize,
    /// By round: who stands on the other side than machine 0, as bits, and which leader is taken.
    rounds: Vec<(u32, usize)>,
}

impl Case {
    /// How many cases of one round there are: two sides, and two leaders.
    fn rounds_of(twins: usize) -> u64 {
        2 << (N + twins - 1)
    }

    /// How many cases there are.
    #[must_use]
    pub fn count(twins: usize, rounds: u32) -> u64 {
        Self::rounds_of(twins).pow(rounds)
    }

    /// One of them, by its number.
    #[must_use]
    pub fn nth(twins: usize, rounds: u32, number: u64) -> Self {
        let of_round = Self::rounds_of(twins);
        let round = |nth: u32| number / of_round.pow(nth) % of_round;
        let rounds = (0..rounds).map(|nth| ((round(nth) / 2) as u32, (round(nth) % 2) as usize));
        Self { twins, rounds: rounds.collect() }
    }

    /// The options to play it.
    #[must_use]
    pub fn options(&self) -> Options {
        let operations = OPERATIONS_PER_ROUND * (self.rounds.len() as u32 + 1);
        // Nobody submits by itself: a round tells the clients when.
        let mut options = base(64, operations, SAFETY);
        let first = Cluster::new(&options).primary();
        let behind = |places: usize| ReplicaId(((first.index() + places) % N) as u16);
        options.script.doubled = (0..self.twins).map(behind).collect();
        let leaders = [first, behind(self.twins)];
        let side = |bits: u32| (0..N + self.twins).map(move |machine| machine > 0 && bits >> (machine - 1) & 1 == 1);
        let round = |(bits, leader): &(u32, usize)| Round { side: side(*bits).collect(), leader: leaders[*leader] };
        options.script.rounds = self.rounds.iter().map(round).collect();
        options
    }

    /// What is broken, if anything.
    fn play(&self) -> Option<Violation> {
        run(self.options(), Trace::quiet()).violation
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds: Vec<_> = self.rounds.iter().map(|(side, leader)| format!("{side:x}.{leader}")).collect();
        write!(f, "{}/{}", self.twins, rounds.join("/"))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no case: it looks like 1/3.0/c.1");
        let (twins, rounds) = text.split_once('/').ok_or_else(wrong)?;
        let twins = twins.parse().ok().filter(|twins| (1..=2).contains(twins)).ok_or_else(wrong)?;
        let round = |text: &str| {
            let (side, leader) = text.split_once('.')?;
            let side = u32::from_str_radix(side, 16).ok().filter(|side| *side < 1u32 << (N + twins - 1))?;
            let leader = leader.parse().ok().filter(|leader| *leader < 2)?;
            Some((side, leader))
        };
        let rounds: Option<Vec<_>> = rounds.split('/').map(round).collect();
        Ok(Self { twins, rounds: rounds.ok_or_else(wrong)? })
    }
}

/// What came of many cases.
#[derive(Debug, Default)]
pub struct Tally {
    /// Cases played.
    pub runs: u64,
    /// Those that broke a promise, and which.
    pub failures: Vec<(Case, Violation)>,
    /// How long it took.
    pub seconds: f64,
}

impl Tally {
    /// Everything in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { runs, failures, seconds } = self;
        let per_second = *runs as f64 / seconds.max(0.001);
        format!("{runs} scenarios, {} failed, {seconds:.1} s, {per_second:.0} runs/s", failures.len())
    }

    /// Whether two replicas that run once executed different batches at one Seq, in any case.
    #[must_use]
    pub fn disagreement(&self) -> Option<&(Case, Violation)> {
        self.failures.iter().find(|(_, violation)| violation.oracle == Oracle::Agreement)
    }
}

/// Which cases of some length are played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All of them.
    All,
    /// So many, drawn from this seed.
    Sample {
        /// How many.
        count: u64,
        /// From where.
        seed: u64,
    },
}

/// Plays cases with one doubled replica.
#[must_use]
pub fn enumerate(rounds: u32, choice: Choice, jobs: usize) -> Tally {
    let all = Case::count(1, rounds);
    let cases: Vec<_> = match choice {
        Choice::All => (0..all).map(|number| Case::nth(1, rounds, number)).collect(),
        Choice::Sample { count, seed } => {
            let mut rng = Seed::root(seed).child("twins").rng();
            (0..count).map(|_| Case::nth(1, rounds, rng.below(all))).collect()
        }
    };
    play_all(&cases, jobs)
}

/// Plays all cases of one round with one doubled replica more than a cluster withstands: some of them must end with two
/// batches at one Seq.
#[must_use]
pub fn control(jobs: usize) -> Tally {
    let cases: Vec<_> = (0..Case::count(2, 1)).map(|number| Case::nth(2, 1, number)).collect();
    play_all(&cases, jobs)
}

fn play_all(cases: &[Case], jobs: usize) -> Tally {
    let begun = Instant::now();
    let mut tally = Tally { runs: cases.len() as u64, ..Tally::default() };
    spread(jobs, cases, Case::play, |case, violation| {
        tally.failures.extend(violation.map(|violation| (case.clone(), violation)));
    });
    tally.seconds = begun.elapsed().as_secs_f64();
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_and_leader_is_a_case_of_its_own() {
        assert_eq!((Case::count(1, 2), Case::count(1, 3), Case::count(2, 1)), (1024, 32_768, 64));
        let cases: std::collections::BTreeSet<_> = (0..1024).map(|nth| Case::nth(1, 2, nth).to_string()).collect();
        assert_eq!(cases.len(), 1024);
        for text in &cases {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), *text);
        }
        for wrong in ["", "1", "3/0.0", "1/10.0", "1/0.2", "1/0", "1/x.0"] {
            assert!(wrong.parse::<Case>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn b1_one_twin_breaks_nothing_and_two_break_agreement() {
        // The halves stand on both sides and lead, one of them with a quorum.
        let split: Case = "1/8.0/8.1".parse().unwrap();
        assert_eq!(split.play(), None);
        // One half becomes a learner, which no VIEW-CHANGE takes along.
        let late: Case = "1/2.0/8.0/1.1".parse().unwrap();
        assert_eq!(late.play(), None);
        let broken = control(2);
        let (case, violation) = broken.disagreement().expect("two halves of two replicas make two quorums");
        assert_eq!(case.play().as_ref(), Some(violation), "a case is played again from its name");
    }
}
