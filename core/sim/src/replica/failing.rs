//! Disks that do not do what they are told: the shell ends the process (D2), or waits for room (D8).

use super::{Crash, Machine};
use crate::disk::{FileName, Pending};
use crate::points::{Moment, Operation};
use crate::trace::Actor;
use crate::world::World;

/// An operation that is going to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The write after so many operations: nothing of it reaches the disk.
    Write(u32),
    /// The write after so many operations ends early.
    Short(u32),
    /// The flush after so many operations.
    Flush(u32),
}

impl Machine {
    /// An operation on the disk is going to fail.
    pub fn fail(&mut self, failing: Failing) {
        self.failing = Some(failing);
    }

    /// The disk has no room for new files until `until`.
    pub fn fill_up(&mut self, until: u64) {
        self.full_until = until;
    }

    /// The disk works again.
    pub fn mend_disk(&mut self) {
        (self.disk_factor, self.full_until, self.failing) = (1, 0, None);
    }

    /// Whether this operation fails: counts down to it.
    fn is_due(&mut self, is_flush: bool) -> Option<Failing> {
        let failing = self.failing.as_mut()?;
        match failing {
            Failing::Write(left) | Failing::Short(left) if !is_flush && *left == 0 => self.failing.take(),
            Failing::Flush(left) if is_flush && *left == 0 => self.failing.take(),
            Failing::Write(left) | Failing::Short(left) | Failing::Flush(left) => {
                *left = left.saturating_sub(1);
                None
            }
        }
    }

    /// A write of the journal is complete. Says whether it failed, and the process with it.
    pub(super) fn write_fails(&mut self, world: &mut World, name: FileName, write: &Pending) -> bool {
        let Some(failing) = self.is_due(false) else { return false };
        if let Failing::Short(_) = failing {
            let len = self.fate.below(write.bytes.len() as u64) as usize;
            self.disk.land(name, Pending { offset: write.offset, bytes: write.bytes[..len].to_vec() });
            world.counters.short_writes += 1;
        } else {
            world.counters.io_errors += 1;
        }
        self.give_up(world, failing);
        true
    }

    /// A flush is complete. Says whether it failed, and the process with it: what it was for is clean and lost, and
    /// whoever tried again would be told that all is well.
    pub(super) fn flush_fails(&mut self, world: &mut World, operation: usize, name: FileName) -> bool {
        let failing = self.is_due(true);
        if failing.is_none() && !self.plug.reaches(operation, Moment::Failed) {
            return false;
        }
        if failing.is_none() {
            self.renew_fate(world);
        }
        self.disk.flush_failed(name, &mut self.fate, &mut world.counters);
        world.counters.io_errors += 1;
        let goes_on = bft_core::mutant!(M35FlushErrorIgnored, false, true);
        if goes_on {
            self.plug.put_back();
        } else if let Some(failing) = failing {
            self.give_up(world, failing);
        }
        !goes_on
    }

    fn give_up(&mut self, world: &mut World, failing: Failing) {
        world.trace.event(world.now, Actor::Replica(self.id.index()), 34, || format!("its disk fails: {failing:?}"));
        self.crash(world, Crash::Killed);
        self.has_given_up = true;
    }

    /// Whether the process ended itself because of its disk, and nobody has acted on it.
    pub fn take_giving_up(&mut self) -> bool {
        std::mem::take(&mut self.has_given_up)
    }

    /// How long a new file of the journal waits for room.
    pub(super) fn wait_for_room(&self, world: &mut World, operation: Operation) -> u64 {
        let waits = operation == Operation::NewSegment && self.full_until > world.now;
        world.counters.segments_put_off += u64::from(waits);
        if waits { self.full_until - world.now } else { 0 }
    }

    /// A snapshot's next file may have to wait for room: then all of it is written again when there is some.
    pub(super) fn puts_snapshot_off(&mut self, world: &mut World, operation: Operation) -> bool {
        let makes_file = matches!(operation, Operation::Chunk | Operation::Clients | Operation::Manifest);
        let puts_off = makes_file && self.full_until > world.now;
        if puts_off {
            world.counters.snapshots_put_off += 1;
            let process = self.process.as_mut().expect("a snapshot is written by a process");
            process.writer.begin_anew(&mut self.disk);
        }
        puts_off
    }
}
