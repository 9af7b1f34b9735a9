//! What leaves the replica, when it may: by the truth, or by what a liar makes of it.

use bft_core::door::{Answer, Outgoing, To};
use bft_core::ids::{LinkId, LogPosition, ReplicaId, View};
use bft_core::wire::message::Message;

use super::told::note_send;
use super::{Character, Machine};
use crate::villains::lying_backup::LyingBackup;
use crate::world::{ToMachine, World};

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
        if self.character != Character::Liar {
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
        let (node, from) = (self.node, self.id);
        let arrive = |message| ToMachine::Message { from, message };
        let said = match &mut self.liar {
            Some(liar) => tell(world, liar, |liar| liar.to_peer(message)),
            None => vec![message],
        };
        for message in said {
            world.send_to_replica(node, peer, message, arrive);
        }
    }

    pub(super) fn answer(&mut self, world: &mut World, link: LinkId, answer: Answer) {
        let Some((client, life)) = self.running().clients.get(&link).copied() else { return };
        let message = Message::from(answer);
        world.trace.number(message.kind() as u64);
        let said = match &mut self.liar {
            Some(liar) => tell(world, liar, |liar| liar.to_client(message)),
            None => vec![message],
        };
        for message in said {
            world.send_to_client((self.node, self.id), client, life, message);
        }
    }
}

fn tell(world: &mut World, liar: &mut LyingBackup, say: impl FnOnce(&mut LyingBackup) -> Vec<Message>) -> Vec<Message> {
    let before = liar.told;
    let said = say(liar);
    world.counters.lies += liar.told - before;
    said
}
