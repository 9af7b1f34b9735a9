//! Which models are searched how far, and what must come of it: the rows of the table. A negative control is a model
//! without one of its rules; it must break.

use std::time::{Duration, Instant};

use crate::agreement::{self, Agreement, Judged, Replicas};
use crate::binding::{self, Tally, ways};
use crate::search::{Bounds, Found, Verdict, search, wander};
use crate::synchroniser::{self, Synchroniser};

/// How much there is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Seconds: for `cargo test`.
    Quick,
    /// A minute: for every landing.
    Short,
    /// A quarter of an hour or more: for the night.
    Long,
}

/// What must come of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing is broken.
    Holds,
    /// Something is: what was left out matters.
    Breaks,
}

/// Does the work of a row.
type Work = Box<dyn FnOnce(usize) -> Found>;

/// A row that can be run.
pub struct Row {
    /// What is looked at.
    pub name: String,
    /// What must come of it.
    pub expected: Expected,
    work: Work,
}

impl Row {
    fn holds(name: impl Into<String>, work: impl FnOnce(usize) -> Found + 'static) -> Self {
        Self { name: name.into(), expected: Expected::Holds, work: Box::new(work) }
    }

    fn breaks(name: impl Into<String>, work: impl FnOnce(usize) -> Found + 'static) -> Self {
        Self { name: name.into(), expected: Expected::Breaks, work: Box::new(work) }
    }

    /// Runs it on so many threads; says what was found, and whether that is what must be.
    #[must_use]
    pub fn run(self, threads: usize) -> (Found, bool) {
        let found = (self.work)(threads);
        let is_broken = matches!(found.verdict, Verdict::Broken(..));
        let as_expected = is_broken == (self.expected == Expected::Breaks);
        (found, as_expected)
    }
}

/// All rows of `extent`, in the order of the table. `seed` is where random walks begin.
#[must_use]
pub fn rows(extent: Extent, seed: u64) -> Vec<Row> {
    let mut rows = agreement_rows(extent, seed);
    rows.extend(synchroniser_rows(extent));
    rows.extend(binding_rows(extent, seed));
    rows.extend(agreement_controls(extent));
    rows.extend(synchroniser_controls(extent));
    rows
}

/// More states than any search here comes to.
const ALL: usize = usize::MAX / 2;
/// Of models that are too large: states that are come to, some of them again and again.
const FIRST: usize = 10_000_000;

fn exhaust(model: Agreement, states: usize) -> impl FnOnce(usize) -> Found {
    move |threads| search(model, Bounds { threads, states })
}

fn agreement_rows(extent: Extent, seed: u64) -> Vec<Row> {
    let name = |leads: usize, disks: &str, views: u8| {
        format!("M1 one slot, views 0 to {views}, {disks} disks, r{leads} is the enemy")
    };
    let slow = |leads| Row::holds(name(leads, "slow", 1), exhaust(Agreement::of(leads, 1), ALL));
    let instant = |leads| Row::holds(name(leads, "instant", 2), exhaust(Agreement::of(leads, 2).instant(), ALL));
    let two_slots = |leads, walks| {
        let model = Agreement { slots: 2, ..Agreement::of(leads, 2) };
        let name = format!("M1 two slots, views 0 to 2, slow disks, {walks} random walks, r{leads} is the enemy");
        Row::holds(name, move |_| wander(model, seed, walks, 120))
    };
    match extent {
        Extent::Quick => vec![slow(2), two_slots(1, 100)],
        Extent::Short => {
            let mut rows: Vec<_> = (0..4).map(slow).collect();
            rows.extend([instant(1), instant(3)]);
            rows.extend((0..3).map(|leads| two_slots(leads, 500)));
            rows
        }
        Extent::Long => {
            let mut rows: Vec<_> = (0..4).map(slow).chain((0..4).map(instant)).collect();
            rows.extend((0..4).map(|leads| {
                let name = name(leads, "slow", 2) + ", the first states";
                Row::holds(name, exhaust(Agreement::of(leads, 2), FIRST))
            }));
            rows.extend((0..3).map(|leads| {
                let model = Agreement { slots: 2, ..Agreement::of(leads, 1).instant() };
                let name =
                    format!("M1 two slots, views 0 to 1, instant disks, the first states, r{leads} is the enemy");
                Row::holds(name, exhaust(model, FIRST))
            }));
            rows.extend((0..3).map(|leads| two_slots(leads, 20_000)));
            rows
        }
    }
}

fn synchroniser_rows(extent: Extent) -> Vec<Row> {
    let row = |leads, last_view| {
        let name = format!("M2 views 0 to {last_view}, r{leads} is the enemy");
        let model = Synchroniser::of(leads, last_view);
        Row::holds(name, move |threads| search(model, Bounds { threads, states: ALL }))
    };
    match extent {
        Extent::Quick => vec![row(1, 2)],
        Extent::Short => (0..4).map(|leads| row(leads, 3)).collect(),
        Extent::Long => (0..4).map(|leads| row(leads, 4)).chain([row(1, 6)]).collect(),
    }
}

fn binding_rows(extent: Extent, seed: u64) -> Vec<Row> {
    let walks: u64 = match extent {
        Extent::Quick => 10,
        Extent::Short => 100,
        Extent::Long => 1000,
    };
    let agreement = (1..=2usize).map(move |slots| {
        let name = format!("M1 with the real core, {slots} of its slots, {} walks and what follows", 4 * walks);
        Row::holds(name, move |_| walk_agreement(slots, seed, walks, &mut Tally::default()))
    });
    let name = format!("M2 with the real core, views 0 to 6, {} walks", 4 * walks);
    let ways = Row::holds(name, move |_| walk_synchroniser(seed, walks));
    agreement.chain([ways]).collect()
}

/// Walks of 200 steps, `walks` with each replica as the enemy.
pub fn walk_agreement(slots: usize, seed: u64, walks: u64, tally: &mut Tally) -> Found {
    let started = Instant::now();
    let mut found = Found { states: 0, depth: 200, took: Duration::ZERO, verdict: Verdict::HoldsSoFar };
    for (leads, nth) in (0..4).flat_map(|leads| (0..walks).map(move |nth| (leads, nth))) {
        let model = Agreement { slots, ..Agreement::of(leads, 2) };
        if let Err(wrong) = binding::walk(&model, seed.wrapping_add(nth), 200, tally) {
            found.verdict = Verdict::Broken("the model is not the code", vec![wrong.to_string()]);
            break;
        }
    }
    let taken = tally.wanted.values().chain(tally.unasked.values()).sum::<u64>();
    Found { states: taken as usize, took: started.elapsed(), ..found }
}

fn walk_synchroniser(seed: u64, walks: u64) -> Found {
    let started = Instant::now();
    let mut found = Found { states: 0, depth: 100, took: Duration::ZERO, verdict: Verdict::HoldsSoFar };
    for (leads, nth) in (0..4).flat_map(|leads| (0..walks).map(move |nth| (leads, nth))) {
        match ways::walk(&Synchroniser::of(leads, 6), seed.wrapping_add(nth), 100) {
            Ok(steps) => found.states += steps,
            Err(wrong) => {
                found.verdict = Verdict::Broken("the model is not the code", vec![wrong.to_string()]);
                break;
            }
        }
    }
    Found { took: started.elapsed(), ..found }
}

fn agreement_controls(extent: Extent) -> Vec<Row> {
    use agreement::Fault;
    let one = |leads, last| Agreement::of(leads, last).judged(Judged::Safety);
    let two_enemies = Agreement { byzantine: Replicas(0b11), ..one(0, 1) };
    let mut models = vec![("two enemies of four", two_enemies)];
    let mut without = |name, fault, model: Agreement| models.push((name, model.without(fault)));
    without("COMMIT before its certificate is durable", Fault::CommitBeforeCertificate, one(0, 1));
    without("PREPARE before its vote is durable", Fault::PrepareBeforeVote, one(0, 1));
    without("VIEW-CHANGE before its promise is durable", Fault::ViewChangeBeforePromise, one(0, 1));
    without("votes not durable", Fault::VotesForgotten, one(0, 1).instant());
    without("certificates not durable", Fault::CertificatesForgotten, one(0, 1).instant());
    without("promises not durable", Fault::PromisesForgotten, one(0, 1).instant());
    without("any certificate for the new view", Fault::AnyCertificate, one(1, 2).instant());
    without("votes after VIEW-CHANGE", Fault::VotesAfterViewChange, one(0, 1).instant());
    without("a quorum of two", Fault::QuorumOfTwo, one(0, 1).instant());
    without("NEW-VIEW not computed again", Fault::NewViewBelieved, one(1, 1).instant());
    without("waiting COMMIT released after VIEW-CHANGE", Fault::WaitingReleased, one(0, 1));
    without("own votes reset by a second NEW-VIEW", Fault::VotesResetByNewView, one(1, 2).instant());
    without("P holds only the last view", Fault::LastViewOnly, one(0, 2).instant());
    let twice = one(1, 2).instant().judged(Judged::All);
    without("NEW-VIEW not durable: signs twice", Fault::BeginningsForgotten, twice);
    let row = |(name, model): (&str, Agreement)| Row::breaks(format!("M1 without: {name}"), exhaust(model, ALL));
    let agreement = |(name, model): &(&str, Agreement)| {
        let model = model.clone().judged(Judged::Agreement);
        Row::breaks(format!("M1 without, until two values are committed: {name}"), exhaust(model, ALL))
    };
    // Without these rules two committed values are not far; without others they are, behind millions of states.
    let near = ["two enemies", "COMMIT before"];
    let is_near = |(name, _): &&(&str, Agreement)| near.iter().any(|near| name.contains(near));
    let mut rows = Vec::new();
    if extent == Extent::Long {
        rows.extend(models.iter().filter(is_near).map(agreement));
        let released = one(0, 1).without(Fault::WaitingReleasedOnly);
        rows.push(Row::holds("M1 what waits is released, P is made when all is durable", exhaust(released, ALL)));
    }
    models.into_iter().map(row).chain(rows).collect()
}

fn synchroniser_controls(extent: Extent) -> Vec<Row> {
    use synchroniser::Fault;
    let last_view = if extent == Extent::Quick { 3 } else { 4 };
    let row = |(name, fault)| {
        let model = Synchroniser::of(1, last_view).without(fault);
        let work = move |threads| search(model, Bounds { threads, states: ALL });
        Row::breaks(format!("M2 without: {name}"), work)
    };
    let faults = [
        ("joins a blocking set only", Fault::JoinsOne),
        ("waits for a quorum", Fault::RunsAhead),
        ("timeouts that double", Fault::NeverDoubles),
        ("timeouts that are reset", Fault::NeverResets),
        ("retransmission", Fault::NeverRepeats),
    ];
    faults.into_iter().map(row).collect()
}
