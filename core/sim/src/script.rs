//! What happens in a run beside what chance brings: empty where a seed chooses everything, written out where every case
//! of a kind is to be played through (`crash_points`, `twins`).

use bft_core::ids::ReplicaId;

use crate::network::Node;
use crate::points::Point;

/// What is to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Replicas that run on two machines, both as they should, under one name and key.
    pub doubled: Vec<ReplicaId>,
    /// Machines that nobody hears and that hear nobody, for a while.
    pub cuts: Vec<Cut>,
    /// A machine that loses its power, and something on its disk while it is down.
    pub damage: Option<Damage>,
    /// Where whose power is cut: one entry for a replica.
    pub crashes: Vec<Crash>,
    /// Rounds of a fixed partition under a fixed leader, one after the other, before the faults end.
    pub rounds: Vec<Round>,
}

/// A machine that is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which.
    pub machine: Node,
    /// From when on.
    pub from: u64,
    /// Until when.
    pub until: u64,
}

/// Something on a disk that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Whose.
    pub victim: ReplicaId,
    /// When its power goes.
    pub at: u64,
    /// What.
    pub part: Part,
}

/// What of a disk is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The journal.
    Journal,
    /// The snapshot that the superblock names.
    Snapshot,
}

/// Who else is hit by a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Nobody.
    One,
    /// Everybody, at the same instant.
    All,
    /// One more, a little later, while the first is still down: together more than F.
    Staggered,
}

/// Cuts of one machine's power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Whose.
    pub victim: ReplicaId,
    /// When, ascending; none: everything is only listed.
    pub points: Vec<Point>,
    /// Who else.
    pub company: Company,
}

/// Some time under one partition and one leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// On which side each machine stands.
    pub side: Vec<bool>,
    /// Whose proposals are not lost.
    pub leader: ReplicaId,
}
