//! The attack: a backup that says one thing to some and another to others, answers clients with what was never executed,
//! hands out batches that are not the committed ones, and lies about where it is. Everything it may sign, it signs well.

use std::sync::Arc;

use bft_core::ids::{ReplicaId, Seq};
use bft_core::wire::message::{CommittedSlot, Message, Position, Prepare, Reply};
use bft_core::wire::request::{Body, RequestBounds, result_digest};
use bytes::Bytes;

use super::Villain;
use super::means::Means;
use super::said::Said;

/// How many of its messages in a thousand are lies.
const LIES: u32 = 250;

/// Lies now and then.
pub struct LyingBackup;

impl Villain for LyingBackup {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        if !means.rng.chance(LIES) {
            return said.truth(message);
        }
        if means.rng.chance(200) {
            return said.nothing();
        }
        match message {
            Message::Prepare(prepare) => prepares(means, prepare, said),
            Message::Commit(mut commit) => {
                commit.nonce = means.digest();
                said.lie(Message::Commit(commit));
            }
            Message::Checkpoint(mut vote) if vote.signatures.len() == 1 => {
                vote.root = means.digest();
                means.seal_checkpoint(&mut vote);
                said.lie(Message::Checkpoint(vote));
            }
            Message::Snapshot(mut vote) if vote.signatures.len() == 1 => {
                vote.root = means.digest();
                means.seal_snapshot(&mut vote);
                said.lie(Message::Snapshot(vote));
            }
            Message::Status(mut status) => {
                status.executed = Seq(status.executed.0 + means.rng.below(1000));
                status.stable = Seq(status.stable.0.saturating_sub(means.rng.below(20)));
                status.snapshot = Seq(means.rng.below(status.executed.0 + 1));
                for map in [&mut status.proposed, &mut status.prepared, &mut status.committed] {
                    map.iter_mut().for_each(|word| *word = means.rng.u64());
                }
                said.lie(Message::Status(status));
            }
            Message::Slot(slot) => said.lie(Message::Slot(false_slot(means, slot))),
            Message::Log(slots) => {
                let slots = slots.into_iter().map(|slot| false_slot(means, slot)).collect();
                said.lie(Message::Log(slots));
            }
            Message::FetchLog(seq) => said.lie(Message::FetchLog(Seq(means.rng.below(seq.0 + 10)))),
            other => {
                said.truth(other.clone());
                said.lie(other);
            }
        }
    }

    fn to_client(&mut self, means: &mut Means, message: Message, said: &mut Said) {
        if !means.rng.chance(LIES) {
            return said.truth(message);
        }
        match message {
            Message::Reply(reply) => replies(reply, said),
            Message::Info(mut info) => {
                info.executed = Seq(means.rng.below(1 << 40));
                said.lie(Message::Info(info));
            }
            other => said.truth(other),
        }
    }
}

/// A vote for a batch that nobody proposed, with its COMMIT, beside the true one or instead of it.
fn prepares(means: &mut Means, prepare: Prepare, said: &mut Said) {
    let position = Position { digest: means.digest(), ..prepare.position };
    said.lie(Message::Prepare(means.prepare(position)));
    said.lie(Message::Commit(means.commit(position)));
    if means.rng.chance(500) {
        said.truth(Message::Prepare(prepare));
    }
}

/// A true certificate with a body that is not its own: another one, or the same with a broken signature in it.
fn false_slot(means: &mut Means, slot: CommittedSlot) -> CommittedSlot {
    let CommittedSlot { mut certificate, body } = slot;
    let bounds = RequestBounds::from(means.config.params());
    let mut bytes = body.bytes().to_vec();
    let lie = match means.rng.below(3) {
        0 => Arc::default(),
        1 if !bytes.is_empty() => {
            // The last bytes of a body are the signature of its last Request.
            *bytes.last_mut().expect("not empty") ^= 1;
            Arc::new(Body::parse(Bytes::from(bytes), bounds).expect("a signature may be any bytes"))
        }
        _ => {
            Arc::make_mut(&mut certificate).commits.pop();
            body
        }
    };
    CommittedSlot { certificate, body: lie }
}

/// Twice the same wrong answer: whoever counts answers and not replicas takes it for two.
fn replies(reply: Reply, said: &mut Said) {
    let mut results = reply.results.as_ref().map_or_else(|| vec![0; 28], |results| results.to_vec());
    if let Some(last) = results.last_mut() {
        *last ^= 0x55;
    }
    let digest = result_digest(reply.code, &results);
    let lie = Reply { digest, results: Some(Bytes::from(results)), ..reply };
    said.lie(Message::Reply(lie.clone()));
    said.lie(Message::Reply(lie));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::options::{Fidelity, Options};
    use crate::rng::Seed;
    use crate::villains::{Strategy, Twin};
    use bft_core::ids::{Digest, Epoch, Signature, View};
    use bft_core::quorum::ReplicaSet;
    use bft_core::wire::message::Ballot;

    #[test]
    fn b3_it_lies_sometimes_and_signs_its_lies() {
        let cluster = Cluster::new(&Options::from_seed(1, Fidelity::Ledger));
        let me = cluster.config.replicas().find(|id| *id != cluster.primary()).unwrap();
        let scheme = Arc::clone(&cluster.replicas[me.index()]);
        let fellows = ReplicaSet::EMPTY.with(me);
        let means = Means::new(me, Arc::clone(&cluster.config), scheme, fellows, Seed::root(5));
        let mut liar = Twin::new(Strategy::LyingBackup, means);
        let position = Position { epoch: Epoch(0), view: View(0), seq: Seq(1), digest: Digest([1; 32]) };
        let ballot = Ballot { commitment: Digest::ZERO, signature: Signature([0; 64]) };
        let truth = Message::Prepare(Prepare { position, replica: me, ballot });
        let mut said = Vec::new();
        for _ in 0..100 {
            let lines = liar.to_peer(0, cluster.primary(), truth.clone());
            said.extend(lines.drain().map(|line| line.message));
        }
        assert!(liar.take_misdeeds() > 0 && said.contains(&truth));
        let verifier = bft_core::auth::Verifier::new(Arc::clone(&cluster.config), Arc::clone(&cluster.witness));
        let lies = said.into_iter().filter(|message| matches!(message, Message::Prepare(_)) && *message != truth);
        assert!(lies.map(|lie| verifier.check(me, lie)).filter(Result::is_ok).count() > 5);
    }
}
