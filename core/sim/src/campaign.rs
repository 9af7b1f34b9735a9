//! Many seeds: run by several threads, summed up, and held to account: a campaign in which a fault never struck, or in
//! which hardly anything was done, proves nothing and fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use crate::checkers::Violation;
use crate::counters::{Counters, Need};
use crate::coverage::Coverage;
use crate::options::{Fault, Fidelity, Options, Scene};
use crate::run::{Report, run};
use crate::trace::Trace;
use crate::villains::Strategy;
use crate::villains::clients::ClientStrategy;

/// From this many seeds on, a campaign must have seen everything.
const SEEDS_FOR_COVERAGE: u64 = 100;
/// Operations of a seed, in the median, in a campaign of that length.
const MEDIAN_OPERATIONS: u64 = 200;

/// Which seeds are run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed.
    pub start: u64,
    /// How many.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// How signatures and messages are carried.
    pub fidelity: Fidelity,
    /// What the seeds do not choose.
    pub scene: Scene,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Summary {
    seeds: u64,
    /// Whether something was given: then the rest may well be missing.
    is_staged: bool,
    counters: Counters,
    operations: Vec<u64>,
    faults: BTreeMap<Fault, u64>,
    /// By strategy: seeds with villains of it, those of them in which one acted, misdeeds.
    villains: BTreeMap<Strategy, (u64, u64, u64)>,
    /// The same by strategy of a client.
    clients: BTreeMap<ClientStrategy, (u64, u64, u64)>,
    coverage: Coverage,
    failures: Vec<(u64, Violation)>,
    seconds: f64,
}

impl Campaign {
    /// Runs every seed; `on_failure` hears of each that breaks a promise, as it happens.
    pub fn run(self, mut on_failure: impl FnMut(&Report)) -> Summary {
        let begun = Instant::now();
        let next = AtomicU64::new(self.start);
        let mut summary = Summary { is_staged: self.scene != Scene::default(), ..Summary::default() };
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..self.jobs.max(1) {
                let (send, next) = (send.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= self.start + self.seeds {
                            return;
                        }
                        let report = run(Options::in_scene(seed, self.fidelity, self.scene), Trace::quiet());
                        if send.send(report).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            for report in receive {
                if report.violation.is_some() {
                    on_failure(&report);
                }
                summary.add(report);
            }
        });
        summary.seconds = begun.elapsed().as_secs_f64();
        summary.failures.sort_unstable_by_key(|(seed, _)| *seed);
        summary
    }
}

impl Summary {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.counters.add(&report.counters);
        self.operations.push(report.counters.operations);
        for fault in &report.faults {
            *self.faults.entry(*fault).or_default() += 1;
        }
        if let Some(villain) = report.villain {
            let (seeds, acted, misdeeds) = self.villains.entry(villain).or_default();
            *seeds += 1;
            *acted += u64::from(report.counters.lies > 0);
            *misdeeds += report.counters.lies;
        }
        if let Some(client) = report.client {
            let (seeds, acted, misdeeds) = self.clients.entry(client).or_default();
            *seeds += 1;
            *acted += u64::from(report.counters.client_misdeeds > 0);
            *misdeeds += report.counters.client_misdeeds;
        }
        self.coverage.add(&report);
        self.failures.extend(report.violation.map(|violation| (report.seed, violation)));
    }

    /// The seeds that broke a promise, and which.
    #[must_use]
    pub fn failures(&self) -> &[(u64, Violation)] {
        &self.failures
    }

    /// Operations of a seed, in the median.
    #[must_use]
    pub fn median_operations(&self) -> u64 {
        let mut sorted = self.operations.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or(0)
    }

    /// What a campaign of this length must have seen and has not.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        if self.seeds < SEEDS_FOR_COVERAGE || self.is_staged {
            return Vec::new();
        }
        let never = self.counters.rows().into_iter().filter(|(_, count, need)| *need == Need::Must && *count == 0);
        let mut gaps: Vec<_> = never.map(|(name, _, _)| format!("no {name} in {} seeds", self.seeds)).collect();
        for fault in Fault::ALL {
            let on = self.faults.get(&fault).copied().unwrap_or(0);
            if on * 20 < self.seeds {
                gaps.push(format!("{fault:?} was on in {on} of {} seeds, fewer than 5 %", self.seeds));
            }
        }
        if self.median_operations() < MEDIAN_OPERATIONS {
            let median = self.median_operations();
            gaps.push(format!("{median} operations per seed in the median, fewer than {MEDIAN_OPERATIONS}"));
        }
        gaps
    }

    /// Everything in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut out = format!("{} seeds in {:.1} s, {} failed", self.seeds, self.seconds, self.failures.len());
        let _ = write!(out, "; {} operations per seed in the median", self.median_operations());
        for (name, count, _) in self.counters.rows() {
            let _ = write!(out, "; {count} {name}");
        }
        let on: Vec<_> = self.faults.iter().map(|(fault, on)| format!("{fault:?} {on}")).collect();
        let _ = write!(out, "; seeds with each fault: {}", on.join(", "));
        let villains = self.villains.iter().map(|(villain, acts)| (villain.name(), acts));
        let clients = self.clients.iter().map(|(client, acts)| (client.name(), acts));
        let acts: Vec<_> = villains
            .chain(clients)
            .map(|(name, (seeds, acted, misdeeds))| format!("{name} {acted} of {seeds} ({misdeeds} misdeeds)"))
            .collect();
        let _ = write!(out, "; seeds in which each villain acted: {}; {}", acts.join(", "), self.coverage.summary());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seed: u64, operations: u64) -> Report {
        let counters = Counters { operations, ..Counters::default() };
        let faults = Fault::ALL.to_vec();
        Report { seed, counters, faults, ..Report::default() }
    }

    #[test]
    fn a_campaign_that_proves_nothing_has_gaps() {
        let mut summary = Summary::default();
        (0..99).for_each(|seed| summary.add(report(seed, 1)));
        assert!(summary.gaps().is_empty(), "too short to be held to account");
        summary.add(report(99, 1));
        let gaps = summary.gaps().join("\n");
        assert!(gaps.contains("no dropped") && gaps.contains("1 operations per seed"), "{gaps}");
        assert!(!gaps.contains("differing pieces named"), "that may never happen");
        let mut quiet = report(100, 1);
        quiet.faults.clear();
        (0..2000).for_each(|_| summary.add(quiet.clone()));
        assert!(summary.gaps().iter().any(|gap| gap.contains("PowerLossOfAll was on in 100 of 2100")));
    }
}
