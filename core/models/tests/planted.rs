//! What the walks are worth: with a fault planted in the core they must find that it is not the model. Only in a build with
//! the feature `mutants`.
#![cfg(feature = "mutants")]

use bft_core::mutants::{Mutant, plant};
use bft_models::binding::Tally;
use bft_models::plan::walk_agreement;
use bft_models::search::Verdict;

#[test]
fn a_walk_finds_every_planted_fault_of_votes_and_views() {
    let faults = [
        Mutant::M1QuorumTooSmall,
        Mutant::M3VotesPooledOverDigests,
        Mutant::M10CommitBeforeCertificate,
        Mutant::M11PrepareBeforeVote,
        Mutant::M12PromiseNotWaitedFor,
        Mutant::M14LowestSlotLeftOut,
    ];
    for fault in faults {
        plant(Some(fault));
        let found = walk_agreement(1, 1, 100, &mut Tally::default());
        plant(None);
        let Verdict::Broken(_, why) = found.verdict else { panic!("{fault:?} is not found in {} steps", found.states) };
        println!("{}: {}", fault.name(), why[0].chars().take(160).collect::<String>());
    }
}
