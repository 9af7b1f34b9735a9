//! What makes up for links that lose: replicas say where they are, and get what they lack (PROTOCOL §6.8). What was first
//! sent after the own STATUS before the last is left out: it is more likely on its way than lost, and batches sent twice
//! take the room of new ones.

use std::sync::Arc;

use super::Pbft;
use super::slot::{Accepted, Slot};
use crate::door::{Lane, To};
use crate::ids::{LogPosition, ReplicaId, Seq};
use crate::ordering::Outbox;
use crate::wire::message::{Message, PrePrepare, Prepare, Status};

/// Votes that one STATUS may call for.
const VOTES_PER_STATUS: usize = 64;
/// Bytes of PRE-PREPAREs that one STATUS may call for, beyond the first.
const BODY_BYTES_PER_STATUS: usize = 1 << 20;

impl Pbft {
    /// The maps of a STATUS, which is about to be sent.
    pub fn describe(&mut self, status: &mut Status) {
        self.settled = std::mem::replace(&mut self.settling, self.voted_through);
        self.describe_view(status);
        status.stable = self.stable;
        status.proposed = self.map_of(|slot| slot.accepted.is_some() || slot.committed.is_some());
        status.prepared = self.map_of(|slot| slot.cert_at.is_some() || slot.committed.is_some());
        status.committed = self.map_of(|slot| slot.committed.is_some());
    }

    /// A bit for each slot of the window, the lowest Seq first.
    pub(super) fn map_of(&self, has: impl Fn(&Slot) -> bool) -> Vec<u64> {
        let mut map = vec![0u64; self.window.len().div_ceil(64)];
        for (index, _) in self.window.iter().enumerate().filter(|(_, slot)| has(slot)) {
            map[index / 64] |= 1 << (index % 64);
        }
        map
    }

    /// Sends `peer` the own messages that its STATUS shows it to lack.
    pub fn retransmit(&self, peer: ReplicaId, status: &Status, out: &mut Outbox<'_>) {
        if !self.may_vote() || status.view != self.view || status.changing.is_some() || !self.is_normal() {
            return;
        }
        let (mut votes, mut body_bytes) = (0, 0);
        for slot in self.window.iter().take_while(|slot| slot.seq <= self.settled) {
            let Some(accepted) = slot.accepted.as_ref().filter(|accepted| accepted.vote_is_durable) else { continue };
            if votes == VOTES_PER_STATUS {
                return;
            }
            if lacks(&status.proposed, status.stable, slot.seq) && self.is_primary() {
                let Some(pre_prepare) = proposal(accepted) else { continue };
                if body_bytes > BODY_BYTES_PER_STATUS {
                    continue;
                }
                body_bytes += pre_prepare.body.bytes().len();
                votes += 1;
                send(peer, Message::PrePrepare(pre_prepare), out);
            }
            if lacks(&status.committed, status.stable, slot.seq) {
                votes += 1;
                if let Some(ballot) = accepted.own {
                    let prepare = Prepare { position: accepted.position, replica: self.me, ballot };
                    send(peer, Message::Prepare(prepare), out);
                }
                if slot.cert_is_durable {
                    send(peer, Message::Commit(self.own_commit(&accepted.position)), out);
                }
            }
        }
    }
}

/// What the map of a peer whose last stable checkpoint is `stable` says of `seq`; `None`: its window does not reach there.
#[must_use]
pub fn says(map: &[u64], stable: Seq, seq: Seq) -> Option<bool> {
    let index = seq.0.checked_sub(stable.0.checked_add(1)?)?;
    let word = map.get(usize::try_from(index / 64).ok()?)?;
    Some(word & 1 << (index % 64) != 0)
}

/// Whether a peer would take it. What it cannot place it would drop.
fn lacks(map: &[u64], stable: Seq, seq: Seq) -> bool {
    says(map, stable, seq) == Some(false)
}

fn proposal(accepted: &Accepted) -> Option<PrePrepare> {
    let body = Arc::clone(accepted.body.as_ref()?);
    Some(PrePrepare { position: accepted.position, ballot: accepted.proposal, header: accepted.header, body })
}

fn send(peer: ReplicaId, message: Message, out: &mut Outbox<'_>) {
    out.send(To::One(peer), Lane::Ordering, message, LogPosition(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o1_a_peer_that_says_it_is_at_the_last_seq_there_is_lacks_nothing() {
        assert_eq!(says(&[1], Seq(7), Seq(8)), Some(true));
        assert_eq!(says(&[1], Seq(7), Seq(9)), Some(false));
        for (stable, seq) in [(u64::MAX, 8), (u64::MAX, u64::MAX), (u64::MAX - 1, 8), (0, u64::MAX)] {
            assert_eq!(says(&[1], Seq(stable), Seq(seq)), None);
        }
    }
}
