//! What reaches the core: each event on its machine becomes an input, as the server's shards, journal and threads would
//! make it.

use bft_core::auth::Verified;
use bft_core::door::{InfoTo, Input, LinkState};
use bft_core::execution::execute;
use bft_core::ids::{LinkId, LogPosition, ReplicaId, Seq};
use bft_core::journal::{Ticket, read_record};
use bft_core::service::Service;
use bft_core::wire::message::Message;
use bytes::Bytes;

use super::{Job, Machine, Rot, UnderWay, trust};
use crate::boot;
use crate::checkers::Oracle;
use crate::disk::FileName;
use crate::images::{self, Finished};
use crate::points::Moment;
use crate::villains::Heard;
use crate::world::{Event, InLife, Life, ToClient, World};

impl Machine {
    pub(super) fn on_message(&mut self, world: &mut World, from: ReplicaId, message: Message) {
        let Some(process) = &mut self.process else { return };
        if let Message::Slot(_) = &message {
            world.counters.certificates += 1;
        } else if let Message::Log(slots) = &message {
            world.counters.certificates += slots.len() as u64;
        }
        if let Some(villain) = &mut self.villain {
            let heard = villain.hears(world.now, from, &message);
            world.counters.lies += villain.take_misdeeds();
            if heard == Heard::Ignored {
                return;
            }
        }
        match process.verifier.check_or_accuse(from, message) {
            Ok(message) => self.take(world, from, message),
            Err(refusal) if world.cluster.villains.contains(from) => {
                world.counters.lies_refused += 1;
                if let Some(message) = refusal.evidence {
                    self.step(world, Input::Message { from, message });
                }
            }
            Err(refusal) => {
                let rejected = refusal.rejected;
                let text = format!("{:?} refuses what {from:?}, which is correct, sent: {rejected}", self.id);
                world.checks.report(Oracle::Certificates, text);
            }
        }
    }

    /// Who is faulty is judged by nobody.
    fn take(&mut self, world: &mut World, from: ReplicaId, message: Verified<Message>) {
        let (id, life) = (self.id, self.life);
        let is_judged = self.character.is_judged();
        world.checks.arrives(id, from, &message);
        let ordering = self.running().replica.ordering();
        let proved = is_judged.then(|| world.checks.hears(id, life, ordering, &message)).flatten();
        self.step(world, Input::Message { from, message });
        if let Some(accused) = proved {
            world.checks.must_have_told(id, &accused);
        }
    }

    /// A link that goes down late, after a newer one has come up, takes nothing with it.
    pub(super) fn on_peer(&mut self, world: &mut World, peer: ReplicaId, life: Life, state: LinkState) {
        let known = self.running().peers.entry(peer).or_default();
        if life >= *known {
            *known = life;
            self.step(world, Input::Link { peer, state });
        }
    }

    pub(super) fn on_client_message(&mut self, world: &mut World, link: LinkId, message: Message) {
        let Some(process) = &mut self.process else { return };
        let Some((client, _)) = process.clients.get(&link).copied() else { return };
        match message {
            // A link speaks for its own client only: as in production, what names another key goes no further.
            Message::Request(request) if request.entry.client != world.cluster.clients[client].public_key() => {
                refuse(world, self.id, client);
            }
            Message::Request(request) => {
                process.gathered.push(request);
                if process.gathered.len() == 1 {
                    let delay = world.options.machine.gather;
                    self.later(world, delay, InLife::Gathered);
                }
            }
            Message::InfoQuery { .. } => self.step(world, Input::InfoQuery { to: InfoTo(link) }),
            other => world.checks.report(Oracle::Assertion, format!("a client sends {:?}", other.kind())),
        }
    }

    pub(super) fn on_gathered(&mut self, world: &mut World) {
        let process = self.running();
        let mut gathered = std::mem::take(&mut process.gathered);
        if let Some(villain) = &mut self.villain {
            villain.gathers(world.now, &mut gathered);
            world.counters.lies += villain.take_misdeeds();
        }
        let process = self.running();
        let clients: Vec<_> = gathered.iter().map(|request| request.entry.client).collect();
        let (requests, refused) = process.verifier.check_requests(gathered);
        for index in refused {
            let client = world.cluster.client(clients[index]).expect("its link is this client's");
            refuse(world, self.id, client);
        }
        self.step(world, Input::Requests(requests));
    }

    pub(super) fn on_client_up(&mut self, world: &mut World, client: usize, life: Life) {
        let link = world.draw_link();
        self.running().clients.insert(link, (client, life));
        let key = world.cluster.clients[client].public_key();
        self.step(world, Input::Client { client: key, link, state: LinkState::Up });
        let event = ToClient::LinkUp { replica: self.id, machine: self.node, link };
        world.after(0, Event::Client(client, life, event));
    }

    pub(super) fn on_client_down(&mut self, world: &mut World, link: LinkId) {
        let Some((client, _)) = self.running().clients.remove(&link) else { return };
        let key = world.cluster.clients[client].public_key();
        self.step(world, Input::Client { client: key, link, state: LinkState::Down });
    }

    pub(super) fn on_landed(&mut self, world: &mut World, ticket: Ticket) {
        let under_way = self.running().under_way.get_mut(&ticket).expect("a write lands once");
        let UnderWay { operation, name, .. } = *under_way;
        let write = under_way.write.take().expect("a write lands once");
        if self.write_fails(world, name, &write) {
            return;
        }
        self.disk.land(name, write);
        if self.plug.reaches(operation, Moment::Cached) {
            return;
        }
        let delay = self.disk_delay(world);
        self.later(world, delay, InLife::Flushed(ticket));
    }

    pub(super) fn on_flushed(&mut self, world: &mut World, ticket: Ticket) {
        let under_way = self.running().under_way.remove(&ticket).expect("a write is flushed once");
        if self.flush_fails(world, under_way.operation, under_way.name) {
            return;
        }
        bft_core::mutant!(M36FlushBesideWrite, self.disk.flush(under_way.name), {});
        if self.plug.reaches(under_way.operation, Moment::Unheard) {
            return;
        }
        let process = self.process.as_mut().expect("events in a life find its process");
        let before = process.journal.durable();
        process.journal.written(ticket);
        let durable = process.journal.durable();
        self.pump(world);
        if self.plug.is_pulled() {
            return;
        }
        if durable > before {
            if matches!(self.rot, Rot::Found(through) if durable > through) {
                self.rot = Rot::Unharmed;
            }
            world.checks.durable(self.id, durable);
            self.release(world, durable);
            if self.rng.chance(world.options.machine.late) {
                let delay = self.disk_delay(world);
                self.later(world, delay, InLife::Durable);
            } else {
                self.tell_durable(world);
            }
        }
        self.plug.reaches(under_way.operation, Moment::After);
    }

    /// Says once more, or at last, up to where everything is durable.
    pub(super) fn tell_durable(&mut self, world: &mut World) {
        let durable = self.running().journal.durable();
        self.step(world, Input::Durable(durable));
    }

    pub(super) fn on_job_done(&mut self, world: &mut World) {
        let process = self.process.as_mut().expect("events in a life find its process");
        let job = process.jobs.pop_front().expect("the execution thread had a job");
        let input = match job {
            Job::Execute(order) => {
                let outcome = execute(&mut process.service, &order, &mut process.buffer);
                let outcome = outcome.expect("the simulated service has no fault");
                let has_struck =
                    process.service.drifting().is_some_and(|drift| drift.has_struck && drift.at == order.seq);
                world.counters.drifts += u64::from(has_struck);
                world.checks.executed(self.id, trust(self.character), order.seq, &outcome);
                Some(Input::Executed { seq: order.seq, outcome })
            }
            Job::Snapshot(order) => {
                let image = process.service.snapshot(order.seq).expect("the simulated service has no fault");
                if process.writer.order(&order, image) {
                    self.later_snapshot_step(world);
                }
                None
            }
            Job::Install(seq) => self.install(world, seq),
        };
        self.start_job(world);
        if let Some(input) = input {
            self.step(world, input);
        }
    }

    fn install(&mut self, world: &mut World, seq: Seq) -> Option<Input> {
        let process = self.process.as_mut().expect("a job is of a process");
        let named = boot::durable_snapshot(&self.disk).filter(|(at, _)| *at == seq);
        let restored = named
            .ok_or_else(|| format!("asked to install {seq}, which no durable superblock names"))
            .and_then(|(_, root)| images::read(&self.disk, seq, root))
            .and_then(|read| images::restore(&mut process.service, seq, &read.chunks));
        if let Err(why) = restored {
            world.checks.report(Oracle::Durable, format!("{:?}: {why}", self.id));
            return None;
        }
        process.writer.forget_last();
        world.checks.state_at(self.id, seq);
        world.counters.restarts_from_snapshot += u64::from(process.started_from == Some(seq));
        Some(Input::Installed { seq })
    }

    pub(super) fn on_snapshot_step(&mut self, world: &mut World) {
        let process = self.process.as_mut().expect("events in a life find its process");
        let operation = process.writer.next();
        if operation.is_some_and(|operation| self.puts_snapshot_off(world, operation)) {
            let delay = self.full_until - world.now;
            return self.later(world, delay, InLife::SnapshotStep);
        }
        let number = operation.map(|operation| self.plug.begin(operation, world.now));
        if number == Some(None) {
            return;
        }
        let number = number.flatten();
        let process = self.process.as_mut().expect("events in a life find its process");
        let finished = process.writer.step(&mut self.disk);
        if process.writer.is_busy() {
            self.later_snapshot_step(world);
        }
        let reaches = |machine: &mut Self, moment| number.is_some_and(|number| machine.plug.reaches(number, moment));
        if number.is_some_and(|number| self.plug.submit(number).is_some()) || reaches(self, Moment::Unheard) {
            return;
        }
        match finished {
            Some(Finished::Image(seq, outcome)) => {
                world.counters.snapshots += 1;
                self.step(world, Input::Snapshot { seq, outcome });
                reaches(self, Moment::After);
            }
            Some(Finished::File(done)) => {
                self.step(world, Input::File(done));
                reaches(self, Moment::After);
            }
            None => drop(reaches(self, Moment::After)),
        }
    }

    pub(super) fn on_loaded(&mut self, world: &mut World, at: LogPosition) {
        let process = self.process.as_mut().expect("events in a life find its process");
        world.counters.loads += 1;
        let record = process.journal.locate(at).and_then(|extent| {
            let mut bytes = vec![0; extent.len as usize];
            let name = FileName::Segment(process.segments[&extent.segment]);
            self.disk
                .read_at(name, extent.offset as usize, &mut bytes)
                .then(|| read_record(&Bytes::from(bytes)).ok())?
        });
        if record.is_none() {
            let text = format!("{:?}: record {at} is to be loaded and cannot be read", self.id);
            world.checks.report(Oracle::Durable, text);
        }
        self.step(world, Input::Loaded { at, record });
    }
}

/// A Request is refused on the link of this client.
fn refuse(world: &mut World, at: ReplicaId, client: usize) {
    world.counters.requests_refused += 1;
    if world.options.hostile_client() != Some(client) {
        world
            .checks
            .report(Oracle::Certificates, format!("{at:?} refuses a Request of client {client}, which is correct"));
    }
}
