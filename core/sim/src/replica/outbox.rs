//! What leaves the replica, when it may: the truth, or what a villain makes of it.

use bft_core::door::{Answer, Outgoing, To};
use bft_core::ids::{LinkId, LogPosition, ReplicaId, View};
use bft_core::wire::message::Message;

use super::told::note_send;
use super::{Character, Machine};
use crate::carriage::carry_lie;
use crate::villains::said::{By, Line};
use crate::world::{InLife, ToMachine, World};

impl Machine {
    /// What waits for its record and votes in a view that is left never leaves.
    pub(super) fn cancel_votes_below(&mut self, world: &mut World, view: View) {
        let process = self.running();
        let mut cancelled = 0;
        for held in process.held.values_mut() {
            let before = held.len();
            held.retain(|outgoing| outgoing.message.voted_in().is_none_or(|voted_in| voted_in >= view));
            cancelled += before - held.len();
        }
        process.held.retain(|_, held| !held.is_empty());
        world.counters.votes_cancelled += cancelled as u64;
        world.trace.number(view.0);
    }

    pub(super) fn release(&mut self, world: &mut World, durable: LogPosition) {
        let process = self.running();
        let waiting = process.held.split_off(&durable.next());
        let released = std::mem::replace(&mut process.held, waiting);
        for outgoing in released.into_values().flatten() {
            self.let_go(world, outgoing);
        }
    }

    pub(super) fn let_go(&mut self, world: &mut World, outgoing: Outgoing) {
        let Outgoing { to, message, .. } = outgoing;
        if self.character != Character::Villain {
            world.checks.released(self.id, &message);
        }
        note_send(world, to, &message);
        match to {
            To::One(peer) => self.send(world, peer, message),
            To::All => {
                let me = self.id;
                let peers = world.cluster.config.replicas().filter(|peer| *peer != me);
                for peer in peers {
                    self.send(world, peer, message.clone());
                }
            }
        }
    }

    fn send(&mut self, world: &mut World, peer: ReplicaId, message: Message) {
        let Some(mut villain) = self.villain.take() else { return self.say(world, peer, message) };
        for line in villain.to_peer(world.now, peer, message).drain() {
            let Line { to, delay, message, by } = line;
            let to = to.unwrap_or(peer);
            let Some(message) = pass(world, message, by) else { continue };
            if delay == 0 {
                self.say(world, to, message);
            } else {
                self.later(world, delay, InLife::Say { peer: to, message });
            }
        }
        world.counters.lies += villain.take_misdeeds();
        self.villain = Some(villain);
    }

    /// A message leaves for a peer.
    pub(super) fn say(&mut self, world: &mut World, peer: ReplicaId, message: Message) {
        let (node, from) = (self.node, self.id);
        let arrive = |message| ToMachine::Message { from, message };
        world.send_to_replica(node, peer, message, arrive);
    }

    pub(super) fn answer(&mut self, world: &mut World, link: LinkId, answer: Answer) {
        let Some((client, life)) = self.running().clients.get(&link).copied() else { return };
        let message = Message::from(answer);
        world.trace.number(message.kind() as u64);
        let from = (self.node, self.id);
        let Some(villain) = &mut self.villain else { return world.send_to_client(from, client, life, message) };
        for line in villain.to_client(world.now, message).drain() {
            if let Some(message) = pass(world, line.message, line.by) {
                world.send_to_client(from, client, life, message);
            }
        }
        world.counters.lies += villain.take_misdeeds();
    }
}

/// What of a villain's own message the wire lets through: bytes that are no message never reach a core.
fn pass(world: &mut World, message: Message, by: By) -> Option<Message> {
    match by {
        By::Core => Some(message),
        By::Villain => {
            let arrived = carry_lie(&message, &world.cluster.config);
            world.counters.lies_refused += u64::from(arrived.is_none());
            arrived
        }
    }
}
