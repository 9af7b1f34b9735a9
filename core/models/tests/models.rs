//! The models for as long as a test may last: what must hold holds, every rule that is left out breaks them, and the real
//! core takes every kind of step with them. `bft-models` goes further.

use bft_models::binding::Tally;
use bft_models::plan::{Extent, rows, walk_agreement};
use bft_models::search::Verdict;

#[test]
fn every_row_of_the_table_is_as_it_must_be() {
    for row in rows(Extent::Quick, 1) {
        let name = row.name.clone();
        let (found, as_expected) = row.run(2);
        assert!(as_expected, "{name}: {} {:?}", found.verdict, found.verdict);
        assert!(found.states > 0, "{name} looked at something");
    }
}

#[test]
fn a_search_says_the_same_again() {
    let table = || -> Vec<_> {
        let row = |row: bft_models::plan::Row| row.name.contains("M1 without: votes").then(|| row.run(1).0);
        rows(Extent::Quick, 1).into_iter().filter_map(row).map(|found| (found.states, found.verdict)).collect()
    };
    let once = table();
    assert!(!once.is_empty() && once.iter().all(|(_, verdict)| matches!(verdict, Verdict::Broken(..))), "{once:?}");
    assert_eq!(once, table());
}

#[test]
fn the_real_core_takes_every_kind_of_step_with_the_model() {
    let mut tally = Tally::default();
    let found = walk_agreement(2, 1000, 10, &mut tally);
    assert_eq!(found.verdict, Verdict::HoldsSoFar);
    assert_eq!(tally.walks, 40);
    for kind in ["propose", "accept", "certify", "flush", "leave", "lead", "follow", "crash"] {
        let taken = tally.wanted.get(kind).copied().unwrap_or_default();
        assert!(taken >= 5, "the core is made to {kind} {taken} times: {tally:?}");
    }
    for kind in ["propose", "accept", "certify", "leave", "lead", "follow"] {
        assert!(tally.unasked.contains_key(kind), "no message out of turn makes the core {kind}: {tally:?}");
    }
    assert!(tally.messages > 1000 && tally.committed > 50, "{tally:?}");
}
