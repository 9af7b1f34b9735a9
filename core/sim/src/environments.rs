//! Environments: which faults strike together while one villain is watched, and how often. A seed that names none draws a
//! random subset of all faults instead.

use std::str::FromStr;

use crate::options::Fault;

/// A profile of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Environment {
    /// A quick network and nothing else.
    Ideal,
    /// Messages are lost, up to a third of them.
    Lossy,
    /// Messages arrive twice, up to half of them.
    Doubling,
    /// Slow links on which messages overtake one another.
    Reordering,
    /// Partitions, one-way too.
    Partitions,
    /// Processes are killed, machines lose their power, one at a time.
    Crashes,
    /// Processes are not scheduled.
    Pauses,
    /// One disk is slow.
    SlowDisk,
    /// Machines crash, and bits rot while they are down.
    Rot,
    /// All machines lose their power at once.
    PowerLosses,
    /// Clocks jump.
    Clocks,
    /// All of it, and everything else that can go wrong with machines, clients and services: what rarely meets, meets here.
    Everything,
}

impl Environment {
    /// Every environment.
    pub const ALL: [Self; 12] = [
        Self::Ideal,
        Self::Lossy,
        Self::Doubling,
        Self::Reordering,
        Self::Partitions,
        Self::Crashes,
        Self::Pauses,
        Self::SlowDisk,
        Self::Rot,
        Self::PowerLosses,
        Self::Clocks,
        Self::Everything,
    ];

    /// What the command line and `regressions/` call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ideal => "ideal",
            Self::Lossy => "lossy",
            Self::Doubling => "doubling",
            Self::Reordering => "reordering",
            Self::Partitions => "partitions",
            Self::Crashes => "crashes",
            Self::Pauses => "pauses",
            Self::SlowDisk => "slow-disk",
            Self::Rot => "rot",
            Self::PowerLosses => "power-losses",
            Self::Clocks => "clocks",
            Self::Everything => "everything",
        }
    }

    /// The faults that are on.
    #[must_use]
    pub fn faults(self) -> &'static [Fault] {
        match self {
            Self::Ideal => &[],
            Self::Lossy => &[Fault::Drop],
            Self::Doubling => &[Fault::Double],
            Self::Reordering => &[Fault::Reorder],
            Self::Partitions => &[Fault::Partition, Fault::OneWay],
            Self::Crashes => &[Fault::Kill, Fault::PowerLoss],
            Self::Pauses => &[Fault::Pause],
            Self::SlowDisk => &[Fault::SlowDisk],
            Self::Rot => &[Fault::Kill, Fault::PowerLoss, Fault::BitRot],
            Self::PowerLosses => &[Fault::PowerLossOfAll],
            Self::Clocks => &[Fault::ClockJump],
            Self::Everything => &[
                Fault::Drop,
                Fault::Double,
                Fault::Reorder,
                Fault::Partition,
                Fault::OneWay,
                Fault::Kill,
                Fault::PowerLoss,
                Fault::PowerLossOfAll,
                Fault::Pause,
                Fault::ClientRestart,
                Fault::ClockJump,
                Fault::SlowDisk,
                Fault::BitRot,
                Fault::Misdirected,
                Fault::IoError,
                Fault::ShortWrite,
                Fault::DiskFull,
                Fault::Drift,
                Fault::Dethrone,
                Fault::Exile,
                Fault::PutBack,
            ],
        }
    }

    /// Whether others are faulty in it beside the villain, who then is one.
    #[must_use]
    pub fn leaves_room(self) -> bool {
        self.replicas_min() > 4
    }

    /// How many replicas there must be: room for one more faulty one beside a villain where single machines go down, and for
    /// two where a service drifts or a disk is put back too.
    #[must_use]
    pub fn replicas_min(self) -> usize {
        if self == Self::Everything {
            10
        } else if self.faults().contains(&Fault::PowerLoss) {
            7
        } else {
            4
        }
    }
}

impl FromStr for Environment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|environment| environment.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("there is no environment {text}; there are: {known}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_every_fault_but_the_enemies() {
        let enemies = [Fault::Villain, Fault::HostileClient];
        let others: Vec<_> = Fault::ALL.into_iter().filter(|fault| !enemies.contains(fault)).collect();
        assert_eq!(Environment::Everything.faults(), others);
    }

    #[test]
    fn names_are_unique_and_lead_back() {
        for environment in Environment::ALL {
            assert_eq!(environment.name().parse(), Ok(environment));
        }
        assert!("hell".parse::<Environment>().unwrap_err().contains("power-losses"));
    }
}
