//! When and where faults strike: a stream of chance of its own, so that what is struck never shifts what the parts do by
//! themselves.

use bft_core::limits::MILLISECOND;

use crate::options::Fault;
use crate::rng::{Rng, Seed};
use crate::world::World;

/// Chooses strikes.
pub struct Striker {
    rng: Rng,
    kinds: Vec<Fault>,
    strike_mean: u64,
    outage_mean: u64,
    rots: bool,
    misdirects: bool,
}

impl Striker {
    /// For the faults that are on.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let options = &world.options;
        Self {
            rng: Seed::root(options.seed).child("strikes").rng(),
            kinds: options.faults.iter().copied().filter(|fault| fault.strikes()).collect(),
            strike_mean: options.strike_mean,
            outage_mean: options.outage_mean,
            rots: options.has(Fault::BitRot),
            misdirects: options.has(Fault::Misdirected),
        }
    }

    /// The time to the next strike.
    pub fn until_next(&mut self) -> u64 {
        self.rng.exponential(self.strike_mean)
    }

    /// What strikes.
    pub fn pick(&mut self) -> Option<Fault> {
        if self.kinds.is_empty() { None } else { Some(self.rng.pick(&self.kinds)) }
    }

    /// How long it lasts.
    pub fn outage(&mut self) -> u64 {
        self.rng.exponential(self.outage_mean)
    }

    /// How long a replica is away that is to be left behind.
    pub fn exile(&mut self) -> u64 {
        self.rng.range(800 * MILLISECOND, 2_500 * MILLISECOND)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.rng.below(end as u64) as usize
    }

    /// Which nodes fall to one side of a partition.
    pub fn side(&mut self, nodes: usize) -> Vec<bool> {
        let share = self.rng.pick(&[150, 300, 500]);
        (0..nodes).map(|_| self.rng.chance(share)).collect()
    }

    /// Whether a bit of a crashed machine flips.
    pub fn may_rot(&mut self) -> bool {
        self.rots && self.rng.chance(500)
    }

    /// Whether it flips in a snapshot, if there is one, and not in the journal.
    pub fn may_spoil(&mut self) -> bool {
        self.rng.chance(400)
    }

    /// Whether a crashed machine shows that a write went astray.
    pub fn may_misdirect(&mut self) -> bool {
        self.misdirects && self.rng.chance(500)
    }

    /// Which operation of a disk fails, counted from the next one.
    pub fn nth_operation(&mut self) -> u32 {
        self.rng.below(12) as u32
    }
}
