//! What is done to clusters, one row each. A scenario gets a cluster under load, and gives it back well but for the one
//! replica that it made faulty; what must hold of every one of them is in `stage`.

mod disk;
mod links;
mod processes;
mod twin;

use bft_cli::exit::Failure;
use bft_server::testnet::TestnetOptions;

use crate::stage::{Stage, Told};
use crate::world::World;

/// One of them.
pub struct Scenario {
    /// How it is called.
    pub name: &'static str,
    /// What happens in it, for people.
    pub what: &'static str,
    /// What is special about its cluster.
    pub adjust: fn(&mut TestnetOptions),
    /// What is to be done before the replicas start.
    pub prepare: fn(&mut World<'_>) -> Result<(), Failure>,
    /// What happens.
    pub act: fn(&mut Stage<'_>) -> Result<Told, Failure>,
    /// Whether it belongs to every landing.
    pub part: Part,
}

/// When a scenario is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// At every landing.
    Short,
    /// At night.
    Night,
}

/// A scenario with an ordinary cluster.
const fn plain(
    name: &'static str,
    what: &'static str,
    part: Part,
    act: fn(&mut Stage<'_>) -> Result<Told, Failure>,
) -> Scenario {
    Scenario { name, what, adjust: |_| (), prepare: |_| Ok(()), act, part }
}

/// All of them.
pub const ALL: [Scenario; 15] = [
    plain("kill-primary", "the primary is killed, and started again", Part::Short, processes::kill_primary),
    plain("kill-backup", "a backup is killed, and started again", Part::Short, processes::kill_backup),
    plain("pause-primary", "the primary stands still (SIGSTOP), and goes on", Part::Short, processes::pause_primary),
    Scenario {
        adjust: processes::snapshots_often,
        ..plain("late-replica", "a backup is down for three snapshots", Part::Short, processes::late_replica)
    },
    plain("cut-off-primary", "nobody reaches the primary, nor it anybody", Part::Short, links::cut_off_primary),
    plain("cut-off-backup", "nobody reaches a backup, nor it anybody", Part::Night, links::cut_off_backup),
    plain("split", "two replicas on either side: no commit, until they meet again", Part::Short, links::split),
    plain("deaf-primary", "the primary hears nobody, but is heard", Part::Night, links::deaf_primary),
    plain("dumb-primary", "nobody hears the primary, but it hears all", Part::Short, links::dumb_primary),
    plain(
        "bad-weather",
        "every packet takes 50 ms, 20 more or less, and 5 % are lost",
        Part::Short,
        links::bad_weather,
    ),
    Scenario {
        adjust: disk::journals_that_fit,
        prepare: disk::small_disk_of_backup,
        ..plain("full-disk-backup", "no room on a backup's disk, then room", Part::Short, disk::fill_backup)
    },
    Scenario {
        adjust: disk::journals_that_fit,
        prepare: disk::small_disk_of_primary,
        ..plain("full-disk-primary", "no room on the first primary's disk, then room", Part::Night, disk::fill_primary)
    },
    Scenario {
        adjust: disk::journals_that_fit,
        prepare: disk::small_disk_of_backup,
        ..plain("full-disk-stop", "no room on a backup's disk: it is stopped", Part::Night, disk::stop_full_backup)
    },
    plain("twin-backup", "a backup runs twice, each process on its side of a partition", Part::Night, twin::of_backup),
    plain("twin-primary", "the primary runs twice, each process on its side", Part::Short, twin::of_primary),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_and_the_short_set_has_each_kind_of_fault() {
        let mut names: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        let is_short =
            |start: &str| ALL.iter().any(|scenario| scenario.part == Part::Short && scenario.name.starts_with(start));
        for start in ["kill-", "pause-", "late-", "cut-off-", "split", "bad-weather", "full-disk-", "twin-"] {
            assert!(is_short(start), "{start}");
        }
    }
}
