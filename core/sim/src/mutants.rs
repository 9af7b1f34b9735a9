//! Planted faults of bft-core against the judges: each must die at its recorded seed or probe, by the recorded judge, and
//! the core without it must live there (TESTING §8). Planting is process-wide: one mutant at a time.

use serde::Deserialize;

/// How to get a build that holds the planted faults.
pub const HOW_TO_BUILD: &str = "this build holds no planted faults; run: \
     cargo run --release -p bft-sim --features mutants --target-dir target/mutants -- mutants";

/// The recorded killers.
const RECORDED: &str = include_str!("../mutants.toml");

/// What kills a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The mutant's name.
    pub name: String,
    /// The smallest seed that kills it…
    pub seed: Option<u64>,
    /// … and who finds it there.
    pub oracle: Option<String>,
    /// Who attacks there, if that is given and not the seed's choice.
    pub villain: Option<String>,
    /// The probe that kills it, where no seed does.
    pub probe: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutant: Vec<Row>,
}

/// The rows of `mutants.toml`.
pub fn recorded() -> Result<Vec<Row>, String> {
    toml::from_str::<File>(RECORDED).map(|file| file.mutant).map_err(|error| format!("mutants.toml: {error}"))
}

#[cfg(feature = "mutants")]
pub use planted::{check, search};

#[cfg(feature = "mutants")]
mod planted {
    use std::time::Instant;

    use bft_core::mutants::{Mutant, plant};

    use super::{Row, recorded};
    use crate::checkers::{Oracle, Violation};
    use crate::crash_points::{self, Scenario};
    use crate::options::{Fidelity, Options, Scene};
    use crate::probes::{PROBES, holds};
    use crate::run::run;
    use crate::trace::Trace;
    use crate::villains::Strategy;

    /// Faults that cutting the power must show too, and where.
    const BY_CRASH_POINTS: [(Mutant, Scenario); 5] = [
        (Mutant::M10CommitBeforeCertificate, Scenario::Normal),
        (Mutant::M11PrepareBeforeVote, Scenario::Normal),
        (Mutant::M12PromiseNotWaitedFor, Scenario::ViewChange),
        (Mutant::M22CollectBeforeDurable, Scenario::Checkpoints),
        (Mutant::M35FlushErrorIgnored, Scenario::Normal),
    ];

    /// Seeds that a search tries.
    const SEARCHED: u64 = 5_000;

    /// Runs every mutant at its recorded killer, and the core without it too; says whether all died and the core lived.
    pub fn check() -> Result<bool, String> {
        let rows = recorded()?;
        if let Some(row) = rows.iter().find(|row| Mutant::ALL.iter().all(|mutant| mutant.name() != row.name)) {
            return Err(format!("mutants.toml: there is no mutant {}", row.name));
        }
        let mut all_died = true;
        for mutant in Mutant::ALL {
            let row = rows.iter().find(|row| row.name == mutant.name());
            let begun = Instant::now();
            let verdict = row.ok_or_else(|| "is not in mutants.toml".to_owned()).and_then(|row| kill(*mutant, row));
            let ms = begun.elapsed().as_millis();
            match verdict {
                Ok(how) => println!("{:>4}  killed  {how}  {ms} ms", mutant.name()),
                Err(why) => {
                    all_died = false;
                    println!("{:>4}  LIVES   {why}  {ms} ms", mutant.name());
                }
            }
        }
        Ok(all_died & die_by_crash_points())
    }

    fn die_by_crash_points() -> bool {
        let mut all_died = true;
        for (mutant, scenario) in BY_CRASH_POINTS {
            match planted(mutant, || crash_points::first_failure(scenario, 2)) {
                Some((case, why)) => println!("{:>4}  killed  at the crash point {case}: {why}", mutant.name()),
                None => {
                    all_died = false;
                    println!("{:>4}  LIVES   at every crash point of {}", mutant.name(), scenario.name());
                }
            }
        }
        all_died
    }

    fn kill(mutant: Mutant, row: &Row) -> Result<String, String> {
        match row {
            Row { seed: Some(seed), oracle: Some(oracle), probe: None, villain, .. } => {
                let villain = villain.as_deref().map(str::parse).transpose()?;
                kill_by_seed(mutant, *seed, villain, oracle)
            }
            Row { seed: None, oracle: None, probe: Some(probe), villain: None, .. } => kill_by_probe(mutant, probe),
            Row { .. } => Err("its row needs seed and oracle, or probe".into()),
        }
    }

    fn kill_by_seed(mutant: Mutant, seed: u64, villain: Option<Strategy>, oracle: &str) -> Result<String, String> {
        match planted(mutant, || play(seed, villain)) {
            Some(violation) if violation.oracle.name() == oracle => {}
            Some(violation) => return Err(format!("at seed {seed}, not by {oracle} but by {violation}")),
            None => return Err(format!("at seed {seed}")),
        }
        match play(seed, villain) {
            Some(violation) => Err(format!("the core without it fails at seed {seed}: {violation}")),
            None => Ok(format!("at seed {seed:<5} by {oracle}")),
        }
    }

    fn kill_by_probe(mutant: Mutant, name: &str) -> Result<String, String> {
        let probe = PROBES.iter().find(|(known, _)| *known == name);
        let (_, probe) = probe.ok_or_else(|| format!("there is no probe {name}"))?;
        if planted(mutant, || holds(*probe)).is_ok() {
            return Err(format!("the probe {name}"));
        }
        match holds(*probe) {
            Err(why) => Err(format!("the core without it fails the probe {name}: {why}")),
            Ok(()) => Ok(format!("by the probe {name}")),
        }
    }

    /// Looks for the smallest seed that kills each mutant (those called `only`, if any), with `villain` if one is given, and
    /// prints its row.
    pub fn search(only: &[String], villain: Option<Strategy>) -> bool {
        let mut all_died = true;
        let wanted = |mutant: &&Mutant| only.is_empty() || only.iter().any(|name| name == mutant.name());
        for mutant in Mutant::ALL.iter().filter(wanted) {
            let by_oracle =
                |seed| planted(*mutant, || play(seed, villain)).filter(is_kill).map(|violation| (seed, violation));
            if let Some((seed, violation)) = (0..SEARCHED).find_map(by_oracle) {
                println!("[[mutant]]\nname = \"{}\"\nseed = {seed}", mutant.name());
                villain.iter().for_each(|villain| println!("villain = \"{}\"", villain.name()));
                println!("oracle = \"{}\" # {}\n", violation.oracle.name(), violation.text);
                continue;
            }
            let by_probe = PROBES.iter().find(|(_, probe)| planted(*mutant, || holds(*probe)).is_err());
            match by_probe {
                Some((name, _)) => println!("[[mutant]]\nname = \"{}\"\nprobe = \"{name}\"\n", mutant.name()),
                None => {
                    all_died = false;
                    println!("# {} survives {SEARCHED} seeds and every probe\n", mutant.name());
                }
            }
        }
        all_died
    }

    /// A run that only did not come to its end in time is no kill.
    fn is_kill(violation: &Violation) -> bool {
        violation.oracle != Oracle::Convergence
    }

    fn play(seed: u64, villain: Option<Strategy>) -> Option<Violation> {
        let scene = Scene { villain, ..Scene::default() };
        run(Options::in_scene(seed, Fidelity::Ledger, scene), Trace::quiet()).violation
    }

    fn planted<R>(mutant: Mutant, f: impl FnOnce() -> R) -> R {
        plant(Some(mutant));
        let result = f();
        plant(None);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::checkers::Oracle;
    use bft_core::mutants::Mutant;

    #[test]
    fn every_mutant_has_one_row_with_a_killer_that_exists() {
        let rows = recorded().unwrap();
        let names: BTreeSet<_> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len(), "one row each");
        assert_eq!(names, Mutant::ALL.iter().map(|mutant| mutant.name()).collect());
        for row in rows {
            match (&row.oracle, &row.probe) {
                (Some(oracle), None) => assert!(Oracle::ALL.iter().any(|known| known.name() == oracle), "{row:?}"),
                (None, Some(probe)) => assert!(crate::probes::PROBES.iter().any(|(name, _)| name == probe), "{row:?}"),
                (Some(_), Some(_)) | (None, None) => panic!("{row:?}"),
            }
        }
    }
}
