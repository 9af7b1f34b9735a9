//! The machine under the process: writes on their way to the disk, and the threads that execute and write snapshots.

use bft_core::journal::{Target, Write};

use super::{Job, Machine, UnderWay};
use crate::disk::{FileName, Pending};
use crate::points::Operation;
use crate::world::{InLife, World};

impl Machine {
    /// Submits what the journal has to write.
    pub(super) fn pump(&mut self, world: &mut World) {
        while let Some(write) = self.running().journal.next_write() {
            let Write { ticket, target, bytes } = write;
            let kind = operation(target, self.running().free.is_empty());
            let Some(operation) = self.plug.begin(kind, world.now) else { return };
            let (name, offset) = self.place(world, target);
            let write = Pending { offset, bytes: bytes.to_vec() };
            let process = self.running();
            process.journal.recycle(bytes);
            process.under_way.insert(ticket, UnderWay { operation, name, write: Some(write) });
            let delay = self.disk_delay(world) + self.wait_for_room(world, kind);
            self.later(world, delay, InLife::Landed(ticket));
            if self.plug.submit(operation).is_some() {
                return;
            }
        }
    }

    fn place(&mut self, world: &mut World, target: Target) -> (FileName, usize) {
        let process = self.process.as_mut().expect("only a running process writes");
        match target {
            Target::Superblock { copies } => {
                (FileName::Superblock, copies[0] as usize * bft_core::journal::BLOCK_BYTES)
            }
            Target::Segment { number, offset, is_new } => {
                if is_new {
                    let file = process.free.pop();
                    world.counters.recycled += u64::from(file.is_some());
                    let file = file.unwrap_or_else(|| {
                        process.next_file += 1;
                        let len = world.options.machine.segment_bytes as usize;
                        self.disk.create(FileName::Segment(process.next_file), len);
                        process.next_file
                    });
                    process.segments.insert(number, file);
                }
                (FileName::Segment(process.segments[&number]), offset as usize)
            }
        }
    }

    pub(super) fn start_job(&mut self, world: &mut World) {
        let mean = world.options.machine.execute_mean;
        let delay = match self.running().jobs.front() {
            None => return,
            Some(Job::Execute(_) | Job::Snapshot(_)) => self.rng.exponential(mean),
            Some(Job::Install(_)) => 10 * self.rng.exponential(mean),
        };
        self.later(world, delay, InLife::JobDone);
    }

    pub(super) fn later_snapshot_step(&mut self, world: &mut World) {
        let delay = self.rng.exponential(world.options.machine.snapshot_mean);
        self.later(world, delay, InLife::SnapshotStep);
    }

    pub(super) fn disk_delay(&mut self, world: &World) -> u64 {
        let machine = &world.options.machine;
        (machine.disk_min + self.rng.exponential(machine.disk_mean)) * self.disk_factor
    }
}

/// What a write of the journal is, where a new segment must have a new file or finds an old one.
fn operation(target: Target, must_make_file: bool) -> Operation {
    match target {
        Target::Segment { is_new: false, .. } => Operation::Group,
        Target::Segment { is_new: true, .. } if must_make_file => Operation::NewSegment,
        Target::Segment { is_new: true, .. } => Operation::RecycledSegment,
        Target::Superblock { copies: [0, _] } => Operation::FirstCopies,
        Target::Superblock { .. } => Operation::LastCopies,
    }
}
