//! The door: a step of the core, and everything it wants done.

use std::sync::Arc;

use bft_core::door::{Effects, FileOrder, Halt, Input};
use bft_core::ids::Nanos;
use bft_core::replica::Replica;
use bft_core::service::Service;

use super::told::{note, note_persist};
use super::{Character, Crash, Gone, Job, Machine, trust};
use crate::checkers::Oracle;
use crate::counters::Counters;
use crate::coverage::Status;
use crate::disk::FileName;
use crate::images;
use crate::points::{Moment, Operation};
use crate::trace::Actor;
use crate::world::{Event, InLife, ToMachine, World};

/// Steps between two thorough checks of a core's invariants.
const STEPS_BETWEEN_CHECKS: u64 = 256;

/// What a core counts of transfers and quarantines.
struct Transferred {
    transfers: u64,
    fetched: u64,
    resumed: u64,
    refused: u64,
    divergences: u64,
    repairs: u64,
    quarantines_ended: u64,
}

impl Transferred {
    fn of(replica: &Replica) -> Self {
        let counters = replica.counters();
        Self {
            transfers: counters.transfers,
            fetched: counters.chunks_fetched,
            resumed: counters.chunks_resumed,
            refused: counters.chunks_refused,
            divergences: counters.divergences,
            repairs: counters.repairs,
            quarantines_ended: counters.quarantines_ended,
        }
    }

    /// Adds what came to it.
    fn count(self, replica: &Replica, counters: &mut Counters) {
        let now = Self::of(replica);
        counters.transfers += now.transfers - self.transfers;
        counters.chunks_fetched += now.fetched - self.fetched;
        counters.chunks_resumed += now.resumed - self.resumed;
        counters.chunks_refused += now.refused - self.refused;
        counters.divergences += now.divergences - self.divergences;
        counters.repairs += now.repairs - self.repairs;
        counters.quarantines_ended += now.quarantines_ended - self.quarantines_ended;
    }
}

impl Machine {
    pub(super) fn step(&mut self, world: &mut World, input: Input) {
        let now = self.now(world);
        let process = self.process.as_mut().expect("only a running process steps");
        world.counters.steps += 1;
        note(world, self.id, &input);
        world.seen.note(&input, status_of(&process.replica));
        let mut effects = std::mem::take(&mut process.effects);
        let before = Transferred::of(&process.replica);
        process.replica.step(now, input, &mut effects);
        before.count(&process.replica, &mut world.counters);
        process.steps += 1;
        let silent_through = process.replica.silent_through();
        if process.steps.is_multiple_of(STEPS_BETWEEN_CHECKS) {
            process.replica.check_invariants();
        }
        let is_learner = process.replica.learner().is_some();
        let awaits_state = process.replica.awaits_state();
        if !matches!(self.character, Character::Villain | Character::Twin) {
            world.checks.stands(self.id, process.replica.ordering());
        }
        self.note_silence(world, silent_through);
        self.note_learner(world, is_learner);
        self.note_state(world, awaits_state);
        self.carry_out(world, effects);
    }

    pub(super) fn carry_out(&mut self, world: &mut World, mut effects: Effects) {
        world.trace.number(effects.persist.len() as u64);
        for persist in effects.persist.drain(..) {
            world.checks.persisted(self.id, &persist);
            note_persist(world, &persist.place, persist.position);
            self.running().journal.append(persist);
        }
        self.pump(world);
        if self.plug.is_pulled() {
            return;
        }
        if let Some(view) = effects.cancel_votes_below {
            self.cancel_votes_below(world, view);
        }
        for outgoing in effects.send.drain(..) {
            let process = self.running();
            if outgoing.needs <= process.journal.durable() {
                self.let_go(world, outgoing);
            } else {
                process.held.entry(outgoing.needs).or_default().push(outgoing);
            }
        }
        for (link, answer) in effects.answer.drain(..) {
            self.answer(world, link, answer);
        }
        self.order_jobs(world, &mut effects);
        self.order_files(world, &mut effects);
        for at in effects.load.drain(..) {
            let delay = self.disk_delay(world);
            self.later(world, delay, InLife::Loaded(at));
        }
        if self.character.is_judged() {
            for accusation in &effects.evidence {
                world.counters.evidence += 1;
                world.checks.accused(self.id, accusation, world.cluster.villains);
            }
        }
        self.tell_alarms(world, &effects);
        self.throw_away(world, &effects);
        self.set_deadline(world, effects.deadline);
        if let Some(halt) = effects.halt.take() {
            return self.halt(world, &halt);
        }
        effects.clear();
        self.running().effects = effects;
    }

    /// Who is faulty is judged by nobody.
    fn tell_alarms(&mut self, world: &mut World, effects: &Effects) {
        if matches!(self.character, Character::Villain | Character::Twin) {
            return;
        }
        for alarm in &effects.alarms {
            world.trace.event(world.now, Actor::Replica(self.id.index()), 94, || alarm.text());
            world.counters.count_finding(alarm);
            world.checks.alarmed(self.id, trust(self.character), alarm);
        }
    }

    fn order_jobs(&mut self, world: &mut World, effects: &mut Effects) {
        let process = self.process.as_mut().expect("only a running process has effects");
        let was_idle = process.jobs.is_empty();
        process.jobs.extend(effects.install.take().map(Job::Install));
        let snapshot = effects.snapshot.take();
        let (before, after): (Vec<_>, Vec<_>) = effects
            .execute
            .drain(..)
            .partition(|order| snapshot.as_ref().is_none_or(|snapshot| order.seq <= snapshot.seq));
        for order in before.iter().chain(&after) {
            world.checks.execute(self.id, order);
            world.counters.refused += (order.body.entries().len() - order.admitted.len()) as u64;
            world.trace.number(order.seq.0);
            world.trace.detail(|| format!("execute Seq {}: {} Requests", order.seq, order.admitted.len()));
        }
        if let Some(snapshot) = snapshot.as_ref().filter(|_| self.character != Character::Villain) {
            world.checks.snapshot_ordered(self.id, snapshot.seq);
        }
        process.jobs.extend(before.into_iter().map(Job::Execute));
        process.jobs.extend(snapshot.map(Job::Snapshot));
        process.jobs.extend(after.into_iter().map(Job::Execute));
        if was_idle {
            self.start_job(world);
        }
    }

    fn order_files(&mut self, world: &mut World, effects: &mut Effects) {
        for order in effects.files.drain(..) {
            self.judge_order(world, &order);
            let was_idle = self.running().writer.order_files(order);
            if was_idle {
                self.later_snapshot_step(world);
            }
        }
    }

    /// What is stored is what the signed manifest has at that place (T2), and does not lie here already, whatever crashed
    /// meanwhile (T4).
    fn judge_order(&mut self, world: &mut World, order: &FileOrder) {
        match order {
            FileOrder::Begin { manifest, .. } => self.running().transferred = Some(Arc::clone(manifest)),
            FileOrder::Store { part, chunk, .. } => {
                let manifest = self.running().transferred.as_ref();
                let expected = manifest.and_then(|manifest| manifest.part(*part)).map(|(_, len, digest)| (len, digest));
                let found = (chunk.bytes().len() as u32, chunk.digest());
                if expected != Some(found) {
                    let text = format!("{:?} stores {found:?} as piece {part}, signed is {expected:?}", self.id);
                    world.checks.report(Oracle::Certificates, text);
                }
                if images::holds(&self.disk, found.0, found.1) {
                    let text = format!("{:?} fetches {:?} again, which lies on its disk", self.id, found.1);
                    world.checks.report(Oracle::Durable, text);
                }
            }
            FileOrder::ReadManifest { .. }
            | FileOrder::ReadPiece { .. }
            | FileOrder::Check { .. }
            | FileOrder::Assemble { .. }
            | FileOrder::Reread { .. }
            | FileOrder::Clear => {}
        }
    }

    fn throw_away(&mut self, world: &mut World, effects: &Effects) {
        let process = self.process.as_mut().expect("only a running process has effects");
        if let Some(seq) = effects.snapshot_stable {
            world.counters.snapshots_stable += 1;
            process.service.snapshot_stable(seq);
        }
        if let Some(below) = effects.drop_journal_below {
            world.counters.journal_drops += 1;
            world.checks.journal_dropped(self.id, below);
            for number in process.journal.drop_below(below) {
                let file = process.segments.remove(&number).expect("a segment has a file");
                process.free.push(file);
            }
        }
        if let Some(below) = effects.remove_snapshots_below {
            world.checks.snapshots_removed(self.id, below);
            let old = images::files_below(&self.disk, below, process.writer.unfinished());
            self.remove(world, &old);
        }
    }

    /// Removes the files of old snapshots; the power may go when some of them are gone.
    fn remove(&mut self, world: &World, files: &[FileName]) {
        if files.is_empty() {
            return;
        }
        let Some(number) = self.plug.begin(Operation::Removal, world.now) else { return };
        let pulled = self.plug.submit(number);
        let gone = if pulled == Some(Moment::Torn) { files.len() / 2 } else { files.len() };
        files[..gone].iter().for_each(|name| self.disk.remove(*name));
    }

    fn halt(&mut self, world: &mut World, halt: &Halt) {
        world.trace.event(world.now, Actor::Replica(self.id.index()), 92, || format!("halts: {halt}"));
        if self.character == Character::Twin {
            self.gone = Some(Gone::Outvoted);
            self.crash(world, Crash::Killed);
            return;
        }
        match halt {
            Halt::TwoCommitted { .. } | Halt::TwoPrepared { .. } | Halt::TwoRoots { .. }
                if self.character == Character::Villain =>
            {
                self.gone = Some(Gone::Undone);
                self.crash(world, Crash::Killed);
            }
            Halt::TwoCommitted { .. } | Halt::TwoPrepared { .. } | Halt::TwoRoots { .. } => {
                world.checks.report(Oracle::Assertion, format!("{:?} halts: {halt}", self.id));
                self.crash(world, Crash::Killed);
            }
        }
    }

    fn set_deadline(&mut self, world: &mut World, deadline: Option<Nanos>) {
        let offset = self.mono_offset;
        let process = self.process.as_mut().expect("only a running process has effects");
        if let Some(deadline) = deadline.filter(|deadline| *deadline != process.deadline) {
            process.deadline = deadline;
            process.deadline_generation += 1;
            let event = InLife::Deadline { generation: process.deadline_generation };
            let event = Event::Machine(self.node, ToMachine::InLife(self.life, event));
            world.deadline(deadline.0.saturating_sub(offset), event);
        }
    }
}

fn status_of(replica: &Replica) -> Status {
    let ordering = replica.ordering();
    if !ordering.is_normal() {
        Status::Changing
    } else if ordering.is_primary() {
        Status::Primary
    } else {
        Status::Backup
    }
}
