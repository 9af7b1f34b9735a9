//! The attack (B20): a source of state transfer that gives garbage for a piece, a genuine piece under another index, a piece
//! that is too long or too short, says that it keeps nothing, and shows manifests that nobody signed: one that was changed
//! in a single digest, one that is huge, one of another Seq. And steps of an execution that nobody took.

use std::sync::Arc;

use bft_core::ids::{Digest, ReplicaId, Seq};
use bft_core::snapshot::ChunkBytes;
use bft_core::wire::message::{Chunk, Message, StableSnapshot, Trail};
use bytes::Bytes;

use super::Villain;
use super::means::Means;
use super::said::Said;
use crate::rng::Rng;

/// Pieces that a manifest pretends to have.
const HUGE: usize = 20_000;

/// How many of the pieces and manifests in a thousand that it gives are false: the others make it worth asking.
const LIES: u32 = 700;

/// Gives what is none.
pub struct LyingSource;

impl Villain for LyingSource {
    fn to_peer(&mut self, means: &mut Means, _peer: ReplicaId, message: Message, said: &mut Said) {
        match message {
            Message::Manifest(snapshot) if means.rng.chance(LIES) => {
                said.lie(Message::Manifest(manifest(&mut means.rng, snapshot)));
            }
            Message::Chunk(genuine) if means.rng.chance(LIES) => {
                said.lie(Message::Chunk(chunk(&mut means.rng, genuine)));
            }
            Message::Trail(genuine) if means.rng.chance(LIES) => {
                said.lie(Message::Trail(trail(&mut means.rng, genuine)));
            }
            other => said.truth(other),
        }
    }
}

/// What is shown in place of a signed manifest.
pub fn manifest(rng: &mut Rng, snapshot: StableSnapshot) -> StableSnapshot {
    let StableSnapshot { mut certificate, mut manifest } = snapshot;
    let content = Arc::make_mut(&mut manifest);
    match rng.below(4) {
        0 => content.state.extend(std::iter::repeat_n((1, Digest(rng.bytes())), HUGE)),
        1 => content.clients.iter_mut().for_each(|(_, digest)| *digest = Digest(rng.bytes())),
        2 => {
            content.scalars.seq = Seq(content.scalars.seq.0 * 2);
            certificate.seq = content.scalars.seq;
        }
        _ => certificate.signatures.truncate(1),
    }
    StableSnapshot { certificate, manifest }
}

/// What is given in place of a piece.
pub fn chunk(rng: &mut Rng, chunk: Chunk) -> Chunk {
    let Chunk { seq, mut piece, bytes } = chunk;
    let genuine = bytes.map(|chunk| chunk.bytes().to_vec()).unwrap_or_default();
    let bytes = match rng.below(5) {
        0 => genuine.iter().map(|byte| byte ^ 0x55).collect(),
        1 => [&genuine[..], &[0]].concat(),
        2 => genuine[..genuine.len() / 2].to_vec(),
        3 => {
            // The right bytes, with the digest of their own place, under another index.
            piece.index = piece.index.wrapping_add(1 + rng.below(2) as u32);
            genuine
        }
        _ => return Chunk { seq, piece, bytes: None },
    };
    Chunk { seq, piece, bytes: Some(ChunkBytes::new(Bytes::from(bytes))) }
}

/// What is given in place of the steps of an execution.
pub fn trail(rng: &mut Rng, mut trail: Trail) -> Trail {
    let nth = rng.below(trail.steps.len().max(1) as u64) as usize;
    match rng.below(4) {
        0 => trail.exec_before = Digest(rng.bytes()),
        1 => trail.chain = Digest(rng.bytes()),
        2 => trail.steps.truncate(nth),
        _ => trail.steps.iter_mut().skip(nth).take(1).for_each(|step| step.delta = Digest(rng.bytes())),
    }
    trail
}

#[cfg(test)]
mod tests {
    use bft_core::auth::{Rejected, Verifier};
    use bft_core::ids::Epoch;
    use bft_core::snapshot::{Manifest, Piece, Scalars, Section};
    use bft_core::wire::canonical;
    use bft_core::wire::message::{SnapshotVote, Step};

    use super::*;
    use crate::cluster::Cluster;
    use crate::options::{Fidelity, Options};
    use crate::rng::Seed;

    #[test]
    fn b20_no_manifest_of_it_passes_the_door() {
        let cluster = Cluster::new(&Options::from_seed(1, Fidelity::Ledger));
        let config = &cluster.config;
        let seq = Seq(config.params().checkpoint_interval);
        let mut manifest = Manifest::new(Scalars { seq, ..Scalars::default() });
        manifest.add_chunk(b"state");
        manifest.add_clients(b"clients");
        let root = manifest.root();
        let sign = |id| {
            let bytes = canonical::snapshot(config.cluster_id(), Epoch(0), seq, root, id);
            (id, cluster.replicas[id.index()].sign(&bytes))
        };
        let certificate =
            SnapshotVote { epoch: Epoch(0), seq, root, signatures: config.replicas().map(sign).collect() };
        let genuine = StableSnapshot { certificate, manifest: Arc::new(manifest) };
        let verifier = Verifier::new(Arc::clone(config), Arc::clone(&cluster.witness));
        let verdict = |snapshot| verifier.check(ReplicaId(0), Message::Manifest(snapshot));
        assert!(verdict(genuine.clone()).is_ok());
        let mut rng = Seed::root(3).rng();
        let refused: Vec<_> =
            (0..40).map(|_| verdict(self::manifest(&mut rng, genuine.clone())).unwrap_err()).collect();
        for reason in [Rejected::ManifestMismatch, Rejected::BadSignature, Rejected::NoQuorum] {
            assert!(refused.contains(&reason), "{reason}: {refused:?}");
        }
    }

    #[test]
    fn b20_no_trail_of_it_is_the_one_that_was_asked_for() {
        let steps = (0..8).map(|nth| Step { reply_root: Digest([nth; 32]), delta: Digest([7; 32]) }).collect();
        let genuine = Trail { seq: Seq(8), chain: Digest([1; 32]), exec_before: Digest([2; 32]), steps };
        let mut rng = Seed::root(5).rng();
        let given: Vec<_> = (0..100).map(|_| trail(&mut rng, genuine.clone())).collect();
        assert!(!given.contains(&genuine));
        assert!(given.iter().any(|trail| trail.steps.len() < 8) && given.iter().any(|trail| trail.steps.len() == 8));
    }

    #[test]
    fn b20_what_it_gives_is_never_the_piece_that_was_asked_for() {
        let piece = Piece { section: Section::State, index: 3 };
        let genuine = Chunk { seq: Seq(8), piece, bytes: Some(ChunkBytes::new(Bytes::from_static(b"a chunk"))) };
        let mut rng = Seed::root(4).rng();
        let given: Vec<_> = (0..100).map(|_| chunk(&mut rng, genuine.clone())).collect();
        assert!(!given.contains(&genuine));
        assert!(given.iter().any(|chunk| chunk.bytes == genuine.bytes && chunk.piece != piece), "under another index");
        assert!(given.iter().any(|chunk| chunk.bytes.is_none()) && given.iter().any(|chunk| chunk.piece == piece));
    }
}
