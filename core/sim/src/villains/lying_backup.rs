//! The attack: a backup that says one thing to some and another to others, answers clients with what was never executed,
//! hands out batches that are not the committed ones, and lies about where it is. Everything it may sign, it signs well.

use std::sync::Arc;

use bft_core::auth::Scheme;
use bft_core::config::ClusterConfig;
use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, ReplicaId, Seq};
use bft_core::wire::canonical::{self, commit_nonce, opening};
use bft_core::wire::message::{CommittedSlot, Message, Position, Prepare, Reply};
use bft_core::wire::request::{Body, RequestBounds, result_digest};
use bytes::Bytes;

use super::lying_source;
use crate::rng::Rng;

/// How many of its messages in a thousand are lies.
const LIES: u32 = 250;
/// How many of the pieces and manifests that it gives: few are asked for.
const SOURCE_LIES: u32 = 700;

/// One liar.
pub struct LyingBackup {
    me: ReplicaId,
    config: Arc<ClusterConfig>,
    scheme: Arc<dyn Scheme>,
    rng: Rng,
    /// Lies told so far.
    pub told: u64,
}

impl LyingBackup {
    /// A liar with the key of `scheme`.
    #[must_use]
    pub fn new(me: ReplicaId, config: Arc<ClusterConfig>, scheme: Arc<dyn Scheme>, rng: Rng) -> Self {
        Self { me, config, scheme, rng, told: 0 }
    }

    /// What one peer gets in place of `message`.
    pub fn to_peer(&mut self, message: Message) -> Vec<Message> {
        let lies = if matches!(message, Message::Chunk(_) | Message::Manifest(_)) { SOURCE_LIES } else { LIES };
        if !self.rng.chance(lies) {
            return vec![message];
        }
        self.told += 1;
        if self.rng.chance(200) {
            return Vec::new();
        }
        match message {
            Message::Prepare(prepare) => self.prepares(prepare),
            Message::Commit(mut commit) => {
                commit.nonce = self.digest();
                vec![Message::Commit(commit)]
            }
            Message::Checkpoint(mut vote) if vote.signatures.len() == 1 => {
                vote.root = self.digest();
                let cluster = self.config.cluster_id();
                let bytes = canonical::checkpoint(cluster, vote.epoch, vote.seq, vote.root, vote.epoch_end, self.me);
                vote.signatures = vec![(self.me, self.scheme.sign(&bytes))];
                vec![Message::Checkpoint(vote)]
            }
            Message::Snapshot(mut vote) if vote.signatures.len() == 1 => {
                vote.root = self.digest();
                let bytes = canonical::snapshot(self.config.cluster_id(), vote.epoch, vote.seq, vote.root, self.me);
                vote.signatures = vec![(self.me, self.scheme.sign(&bytes))];
                vec![Message::Snapshot(vote)]
            }
            Message::Status(mut status) => {
                status.executed = Seq(status.executed.0 + self.rng.below(1000));
                status.stable = Seq(status.stable.0.saturating_sub(self.rng.below(20)));
                status.snapshot = Seq(self.rng.below(status.executed.0 + 1));
                for map in [&mut status.proposed, &mut status.prepared, &mut status.committed] {
                    map.iter_mut().for_each(|word| *word = self.rng.u64());
                }
                vec![Message::Status(status)]
            }
            Message::Slot(slot) => vec![Message::Slot(self.slot(slot))],
            Message::Log(slots) => vec![Message::Log(slots.into_iter().map(|slot| self.slot(slot)).collect())],
            Message::FetchLog(seq) => vec![Message::FetchLog(Seq(self.rng.below(seq.0 + 10)))],
            Message::Manifest(snapshot) => vec![Message::Manifest(lying_source::manifest(&mut self.rng, snapshot))],
            Message::Chunk(chunk) => vec![Message::Chunk(lying_source::chunk(&mut self.rng, chunk))],
            other => vec![other.clone(), other],
        }
    }

    /// What a client gets in place of `message`.
    pub fn to_client(&mut self, message: Message) -> Vec<Message> {
        if !self.rng.chance(LIES) {
            return vec![message];
        }
        self.told += 1;
        match message {
            Message::Reply(reply) => self.replies(reply),
            Message::Info(mut info) => {
                info.executed = Seq(self.rng.below(1 << 40));
                vec![Message::Info(info)]
            }
            other => vec![other],
        }
    }

    /// A vote for a batch that nobody proposed, with its COMMIT, beside the true one or instead of it.
    fn prepares(&mut self, prepare: Prepare) -> Vec<Message> {
        let position = Position { digest: self.digest(), ..prepare.position };
        let nonce = commit_nonce(&self.scheme.commit_secret(), &position);
        let commitment = opening(&nonce);
        let bytes = canonical::prepare(self.config.cluster_id(), &position, self.me, commitment);
        let ballot = bft_core::wire::message::Ballot { commitment, signature: self.scheme.sign(&bytes) };
        let lie = Message::Prepare(Prepare { position, replica: self.me, ballot });
        let commit = bft_core::wire::message::Commit { position, replica: self.me, nonce };
        let mut said = vec![lie, Message::Commit(commit)];
        if self.rng.chance(500) {
            said.push(Message::Prepare(prepare));
        }
        said
    }

    /// A true certificate with a body that is not its own: another one, or the same with a broken signature in it.
    fn slot(&mut self, slot: CommittedSlot) -> CommittedSlot {
        let CommittedSlot { mut certificate, body } = slot;
        let bounds = RequestBounds::from(self.config.params());
        let mut bytes = body.bytes().to_vec();
        let lie = match self.rng.below(3) {
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
    fn replies(&mut self, reply: Reply) -> Vec<Message> {
        let mut results = reply.results.as_ref().map_or_else(|| vec![0; 28], |results| results.to_vec());
        if let Some(last) = results.last_mut() {
            *last ^= 0x55;
        }
        let digest = result_digest(reply.code, &results);
        let lie = Reply { digest, results: Some(Bytes::from(results)), ..reply };
        vec![Message::Reply(lie.clone()), Message::Reply(lie)]
    }

    fn digest(&mut self) -> Digest {
        hash(Context::Batch, &[&self.rng.bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use crate::options::{Fidelity, Options};
    use crate::rng::Seed;
    use bft_core::ids::{Epoch, Signature, View};
    use bft_core::wire::message::Ballot;

    #[test]
    fn b3_it_lies_sometimes_and_signs_its_lies() {
        let cluster = Cluster::new(&Options::from_seed(1, Fidelity::Ledger));
        let me = cluster.config.replicas().find(|id| *id != cluster.primary()).unwrap();
        let scheme = Arc::clone(&cluster.replicas[me.index()]);
        let mut liar = LyingBackup::new(me, Arc::clone(&cluster.config), scheme, Seed::root(5).rng());
        let position = Position { epoch: Epoch(0), view: View(0), seq: Seq(1), digest: Digest([1; 32]) };
        let ballot = Ballot { commitment: Digest::ZERO, signature: Signature([0; 64]) };
        let truth = Message::Prepare(Prepare { position, replica: me, ballot });
        let said: Vec<_> = (0..100).flat_map(|_| liar.to_peer(truth.clone())).collect();
        assert!(liar.told > 0 && said.contains(&truth));
        let verifier = bft_core::auth::Verifier::new(Arc::clone(&cluster.config), Arc::clone(&cluster.witness));
        let lies = said.into_iter().filter(|message| matches!(message, Message::Prepare(_)) && *message != truth);
        assert!(lies.map(|lie| verifier.check(me, lie)).filter(Result::is_ok).count() > 5);
    }
}
