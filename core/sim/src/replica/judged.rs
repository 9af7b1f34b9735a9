//! What judges and people see of a machine.

use bft_core::ids::{Digest, Seq, View};

use super::{Job, Machine, Rot};
use crate::boot::{self, BootError};
use crate::checkers::Oracle;
use crate::checkers::convergence::Standing;
use crate::images;
use crate::ledger::Entry;
use crate::world::World;

impl Machine {
    /// Compares what a power loss would leave for certain with what was reported durable.
    pub fn audit(&self, world: &mut World) {
        if !self.is_up() || self.rot != Rot::Unharmed {
            return;
        }
        world.counters.audits += 1;
        let image = self.disk.durable_image();
        let found = boot::superblock_of(&image).map_err(BootError::Broken).and_then(|(superblock, _)| {
            let (records, _) = boot::records_of(&image, &superblock)?;
            Ok((superblock, records))
        });
        match found {
            Ok((superblock, records)) => world.checks.audited(self.id, &superblock, &records),
            Err(why @ (BootError::Damage(_) | BootError::Broken(_))) => {
                world
                    .checks
                    .report(Oracle::Durable, format!("{:?} could not start after a power loss: {why}", self.id));
            }
            Err(BootError::Pulled) => unreachable!("reading needs no plug"),
        }
    }

    /// Where the replica is; the state's digest only where it is wanted, because it costs.
    pub fn standing(&mut self) -> Option<Standing> {
        let process = self.process.as_mut()?;
        // Who has no state has executed nothing.
        let executed = if process.replica.awaits_state() { Seq(0) } else { process.replica.executed() };
        let idle = process.jobs.is_empty() && process.under_way.is_empty();
        Some(Standing { replica: self.id, executed, idle, state: Digest::ZERO })
    }

    /// The view that it is in, or goes to.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        self.process.as_ref().map(|process| process.replica.ordering().view())
    }

    /// Whether its disk has been found not to know what it signed, so that it follows and votes no more.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.is_learner
    }

    /// The service's state: its digest and everything in it. None while a snapshot is still to be installed, or fetched.
    pub fn state(&mut self) -> Option<(Seq, Digest, Vec<Entry>)> {
        let process = self.process.as_mut()?;
        if process.replica.awaits_state() || process.jobs.iter().any(|job| matches!(job, Job::Install(_))) {
            return None;
        }
        process.replica.check_invariants();
        let executed = process.replica.executed();
        Some((executed, images::state_digest(&mut process.service, executed), process.service.entries()))
    }

    /// Whether its service drifted and nobody could tell yet: what it holds may be wrong.
    #[must_use]
    pub fn is_secretly_wrong(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.service.drifting().is_some_and(|drift| drift.has_struck))
    }

    /// The last stable checkpoint of a replica that is not in quarantine.
    #[must_use]
    pub fn stable_in_order(&self) -> Option<Seq> {
        let replica = &self.process.as_ref()?.replica;
        replica.quarantine().is_none().then(|| replica.stable().min(replica.executed()))
    }

    /// A line about the replica, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match (&self.process, self.gone) {
            (Some(process), _) => {
                let replica = &process.replica;
                let (executed, stable) = (replica.executed(), replica.stable());
                let counters: Vec<_> = replica.counters().named().into_iter().filter(|(_, count)| *count > 0).collect();
                format!(
                    "{:?}: executed {executed}, stable {stable}, snapshot {}, jobs {}, writes {}, held {}; {counters:?}",
                    self.id,
                    replica.stable_snapshot(),
                    process.jobs.len(),
                    process.under_way.len(),
                    process.held.len(),
                )
            }
            (None, Some(gone)) => format!("{:?}: gone, {gone:?}", self.id),
            (None, None) => format!("{:?}: down", self.id),
        }
    }
}
