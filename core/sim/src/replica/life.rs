//! How a process begins and ends, and what becomes of its disk when it does.

use std::ops::Range;
use std::sync::Arc;

use bft_core::door::Effects;
use bft_core::ids::Seq;
use bft_core::journal::Tail;

use super::{Character, Crash, Machine, Process, Rot, Spoilt, UnderWay};
use crate::boot::{self, BootError, Power};
use crate::checkers::Oracle;
use crate::disk::FileName;
use crate::ledger::Drift;
use crate::options::Fault;
use crate::trace::Actor;
use crate::world::{Life, World};

impl Machine {
    pub(super) fn start(&mut self, world: &mut World) {
        if self.is_up() || self.gone.is_some() {
            return;
        }
        self.life = Life(self.life.0 + 1);
        // Monotonic clocks begin anew with the machine.
        self.mono_offset = self.fate.below(1 << 40);
        let may_lose_power = world.options.has(Fault::PowerLoss) || world.options.has(Fault::PowerLossOfAll);
        if self.life.0 > 1 && self.rot != Rot::Hidden && may_lose_power && self.fate.chance(150) {
            world.counters.starts_cut_short += 1;
            boot::cut_short(&mut self.disk, &mut self.fate, &mut world.counters);
        }
        let Some(mut booted) = self.boot(world) else { return };
        if booted.damage.is_some() && may_lose_power && self.fate.chance(250) {
            world.counters.starts_cut_short += 1;
            self.disk.power_lost(Vec::new(), &mut self.fate, &mut world.counters);
            let Some(again) = self.boot(world) else { return };
            booted = again;
        }
        world.checks.recovered(self.id, &booted.superblock, &booted.records);
        world.checks.state_at(self.id, Seq(0));
        let mut effects = Effects::default();
        let now = self.now(world);
        let recovered = boot::recover(&booted, &world.cluster, &world.options, self.id, now, &mut effects);
        let replica = match recovered {
            Ok(replica) => replica,
            Err(error) => {
                return world.checks.report(Oracle::Durable, format!("{:?} does not recover: {error}", self.id));
            }
        };
        world.counters.restarts += u64::from(self.life.0 > 1);
        world.trace.event(world.now, Actor::Replica(self.id.index()), 91, || {
            let records = booted.records.len();
            format!("starts, life {}: {records} records, snapshot {:?}", self.life.0, booted.superblock.snapshot)
        });
        self.note_silence(world, replica.silent_through());
        self.awaits_state = replica.awaits_state();
        self.is_learner = replica.learner().is_some();
        let mut process = Process::new(replica, booted, world, self.id);
        process.service.drift(self.drift.map(|drift| Drift { has_struck: false, ..drift }));
        self.process = Some(Box::new(process));
        self.carry_out(world, effects);
    }

    /// Reads the disk. Damage must be found when there is some, and only then.
    fn boot(&mut self, world: &mut World) -> Option<boot::Booted> {
        let config = Arc::clone(&world.cluster.config);
        let mut power = Power { plug: &mut self.plug, rng: &mut self.fate, now: world.now };
        let booted = match boot::boot(&mut self.disk, &config, &mut power) {
            Ok(booted) => booted,
            Err(BootError::Pulled) => return None,
            Err(why @ (BootError::Damage(_) | BootError::Broken(_))) => {
                world.checks.report(Oracle::Durable, format!("{:?} does not start: {why}", self.id));
                return None;
            }
        };
        let owned_up = booted.superblock.damaged_through;
        let is_owned_up = owned_up > std::mem::replace(&mut self.owned_up, owned_up);
        match (self.rot, &booted.damage) {
            // An earlier start wrote down that there is damage, and got no further.
            (Rot::Hidden, None) if is_owned_up => self.finds_damage(world, "owned up to it before", &booted.tail),
            (Rot::Hidden, None) => {
                let text = format!("{:?} starts and does not see that its disk is damaged", self.id);
                world.checks.report(Oracle::Durable, text);
            }
            (Rot::Unharmed, Some(why)) => {
                world.checks.report(Oracle::Durable, format!("{:?} finds damage that nothing did: {why}", self.id));
            }
            (Rot::Hidden | Rot::Found(_), Some(why)) => self.finds_damage(world, why, &booted.tail),
            (Rot::Unharmed | Rot::Found(_), None) => {}
        }
        let lost = booted.snapshot.as_ref().and_then(|read| read.as_ref().err());
        self.compare_snapshot(world, lost);
        Some(booted)
    }

    /// A damaged snapshot must be found, and no other.
    fn compare_snapshot(&mut self, world: &mut World, lost: Option<&String>) {
        match (self.spoilt, lost) {
            (Spoilt::Hidden, None) => {
                let text = format!("{:?} starts and does not see that its snapshot is damaged", self.id);
                world.checks.report(Oracle::Durable, text);
            }
            (Spoilt::Unharmed, Some(why)) => {
                let text = format!("{:?} finds a snapshot damaged that nothing touched: {why}", self.id);
                world.checks.report(Oracle::Durable, text);
            }
            (Spoilt::Hidden | Spoilt::Found, Some(why)) => {
                world.counters.states_lost += u64::from(self.spoilt == Spoilt::Hidden);
                world.trace.event(world.now, Actor::Replica(self.id.index()), 95, || format!("has no state: {why}"));
                self.spoilt = Spoilt::Found;
            }
            // A transfer had ended when the process did.
            (Spoilt::Unharmed | Spoilt::Found, None) => self.spoilt = Spoilt::Unharmed,
        }
    }

    fn finds_damage(&mut self, world: &mut World, why: &str, tail: &Tail) {
        world.counters.amnesias += 1;
        world.trace.event(world.now, Actor::Replica(self.id.index()), 90, || why.to_owned());
        world.checks.damaged(self.id);
        self.rot = Rot::Found(tail.last());
    }

    /// Whether the replica votes, and since when it does again.
    pub(super) fn note_silence(&mut self, world: &mut World, silent_through: Option<Seq>) {
        if self.is_silent && silent_through.is_none() {
            world.counters.voting_again += 1;
            world.trace.event(world.now, Actor::Replica(self.id.index()), 93, || "votes again".into());
        }
        self.is_silent = silent_through.is_some();
    }

    /// Whether the replica has a state to go on from.
    pub(super) fn note_state(&mut self, world: &mut World, awaits_state: bool) {
        if self.awaits_state && !awaits_state {
            self.spoilt = Spoilt::Unharmed;
            world.counters.states_found += 1;
            world.trace.event(world.now, Actor::Replica(self.id.index()), 96, || "has a state again".into());
        }
        self.awaits_state = awaits_state;
    }

    /// Whether the replica has found that it votes no more.
    pub(super) fn note_learner(&mut self, world: &mut World, is_learner: bool) {
        if self.is_learner || !is_learner {
            return;
        }
        self.is_learner = true;
        if self.character != Character::Villain {
            world.counters.learners += 1;
            world.trace.event(world.now, Actor::Replica(self.id.index()), 94, || "votes no more".into());
            world.checks.learns(self.id);
        }
    }

    /// Keeps what its disk holds for certain, unless something is wrong with that, or an earlier state is kept.
    pub fn keep_image(&mut self) {
        if self.image.is_none() && self.rot == Rot::Unharmed && self.spoilt == Spoilt::Unharmed {
            self.image = Some(self.disk.durable_image());
        }
    }

    /// Whether an earlier state of its disk is kept.
    #[must_use]
    pub fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// The disk becomes what it was when its image was kept, while the process is down.
    pub fn put_back(&mut self, world: &mut World) {
        assert!(!self.is_up(), "nobody changes the disk of a running process");
        self.disk = self.image.take().expect("an earlier state is kept");
        (self.rot, self.spoilt) = (Rot::Unharmed, Spoilt::Unharmed);
        self.character = Character::PutBack;
        world.counters.put_back += 1;
        world.checks.put_back(self.id);
    }

    /// The process ends. Says whether there was one.
    pub fn crash(&mut self, world: &mut World, crash: Crash) -> bool {
        let Some(process) = self.process.take() else { return false };
        process.replica.check_invariants();
        self.drift = self.drift.and(process.service.drifting());
        if crash == Crash::Stopped {
            self.process = Some(process);
            self.close(world);
            self.process = None;
            world.checks.crashed(self.id);
            return true;
        }
        let under_way = process.under_way.into_values();
        let under_way =
            under_way.filter_map(|under_way| under_way.write.map(|write| (under_way.name, write))).collect();
        match crash {
            Crash::Killed => self.disk.process_killed(under_way, &mut self.fate, &mut world.counters),
            Crash::PowerLost => self.disk.power_lost(under_way, &mut self.fate, &mut world.counters),
            Crash::Stopped => unreachable!("nothing is under way after a clean stop"),
        }
        world.checks.crashed(self.id);
        self.paused_until = 0;
        true
    }

    /// Writes everything that is queued, and the mark of a clean stop.
    fn close(&mut self, world: &mut World) {
        self.running().journal.close();
        loop {
            self.pump(world);
            let process = self.process.as_mut().expect("it is being closed");
            let Some((ticket, UnderWay { name, write, .. })) = process.under_way.pop_first() else { break };
            write.into_iter().for_each(|write| self.disk.land(name, write));
            self.disk.flush(name);
            process.journal.written(ticket);
            world.checks.durable(self.id, process.journal.durable());
        }
        assert!(self.running().journal.is_idle(), "a closed journal has nothing left to do");
    }

    /// The machine, whose process is down, loses its power.
    pub fn lose_power_while_down(&mut self, world: &mut World) {
        self.disk.power_lost(Vec::new(), &mut self.fate, &mut world.counters);
    }

    /// A write of what is provably durable in the journal has gone where an earlier one belongs. Says whether there were
    /// two.
    pub fn misdirect(&mut self, world: &mut World) -> bool {
        self.disk.flush_all();
        let provable = boot::provable(&self.disk);
        if provable.len() < 2 {
            return false;
        }
        let astray = self.fate.range(1, provable.len() as u64 - 1) as usize;
        let spoilt = self.fate.below(astray as u64) as usize;
        let ((from, range), (to, at)) = (provable[astray].clone(), provable[spoilt].clone());
        self.disk.misdirect((from, to), (range, at.start));
        self.rot = Rot::Hidden;
        world.counters.misdirected += 1;
        true
    }

    /// Something of what is provably durable in the journal is damaged while the process is down: a bit flips, or a file is
    /// gone. Says whether there was anything.
    pub fn rot(&mut self, world: &mut World) -> bool {
        self.disk.flush_all();
        let provable = boot::provable(&self.disk);
        if provable.is_empty() {
            return false;
        }
        let (name, range) = provable[self.fate.below(provable.len() as u64) as usize].clone();
        if self.harm(name, range) {
            world.counters.files_lost += 1;
        } else {
            world.counters.bits_rotted += 1;
        }
        self.rot = Rot::Hidden;
        true
    }

    /// Something of the snapshot that its superblock names is damaged while the process is down: a bit flips, or a file is
    /// gone. Says whether there was one.
    pub fn spoil(&mut self, world: &mut World) -> bool {
        self.disk.flush_all();
        let Some((seq, _)) = boot::durable_snapshot(&self.disk) else { return false };
        let files: Vec<_> = self.disk.names().filter(|name| name.snapshot() == Some(seq)).collect();
        if files.is_empty() || self.spoilt != Spoilt::Unharmed {
            return false;
        }
        let name = self.fate.pick(&files);
        self.harm(name, 0..self.disk.len(name));
        world.counters.snapshots_spoilt += 1;
        self.spoilt = Spoilt::Hidden;
        true
    }

    /// A bit of a file flips within `range`, or the file is gone. Says whether it is.
    fn harm(&mut self, name: FileName, range: Range<usize>) -> bool {
        let byte = self.fate.range(range.start as u64, range.end as u64 - 1) as usize;
        let is_lost = self.fate.chance(250);
        if is_lost {
            self.disk.remove(name);
        } else {
            self.disk.rot(name, byte, self.fate.below(8) as u8);
        }
        is_lost
    }
}
