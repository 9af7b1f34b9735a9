//! What every villain has: its key, its place, chance, and the company it keeps. Whatever may be signed with its key alone,
//! it signs here, well-formed or not.

use std::sync::Arc;

use bft_core::auth::Scheme;
use bft_core::config::ClusterConfig;
use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, ReplicaId, Seq, View};
use bft_core::quorum::ReplicaSet;
use bft_core::wire::canonical::{self, commit_nonce, opening};
use bft_core::wire::message::{
    Ballot, BatchHeader, Checkpoint, Commit, NewView, Position, PrePrepare, Prepare, SnapshotVote, ViewChange,
};
use bft_core::wire::request::Body;

use crate::rng::{Rng, Seed};

/// The means of one villain.
pub struct Means {
    /// Who it is.
    pub me: ReplicaId,
    /// What everybody knows.
    pub config: Arc<ClusterConfig>,
    /// Its own.
    pub rng: Rng,
    /// All villains, itself among them.
    pub fellows: ReplicaSet,
    /// Nanoseconds since the beginning of the run.
    pub now: u64,
    pub(super) misdeeds: u64,
    scheme: Arc<dyn Scheme>,
    /// What all of them draw the same from.
    shared: Seed,
}

impl Means {
    /// The means of `me`, who holds the key of `scheme`.
    #[must_use]
    pub fn new(
        me: ReplicaId,
        config: Arc<ClusterConfig>,
        scheme: Arc<dyn Scheme>,
        fellows: ReplicaSet,
        run: Seed,
    ) -> Self {
        let seed = run.child("villains");
        let (rng, shared) = (seed.nth(me.0.into()).rng(), seed.child("shared"));
        Self { me, config, rng, fellows, now: 0, misdeeds: 0, scheme, shared }
    }

    /// Something was done to what came in.
    pub fn misdeed(&mut self) {
        self.misdeeds += 1;
    }

    /// Everybody but this one.
    pub fn others(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        let me = self.me;
        self.config.replicas().filter(move |replica| *replica != me)
    }

    /// A coin that all villains see fall the same way, once for each `about`: which half of the others a peer is in.
    #[must_use]
    pub fn is_in_other_half(&self, peer: ReplicaId, about: u64) -> bool {
        !self.fellows.contains(peer) && self.shared.nth(about).nth(peer.0.into()).rng().chance(500)
    }

    /// A number below `end`, for all villains the same, once for each `about`.
    #[must_use]
    pub fn shared_below(&self, end: u64, about: u64) -> u64 {
        self.shared.child("number").nth(about).rng().below(end)
    }

    /// A digest of nothing.
    pub fn digest(&mut self) -> Digest {
        hash(Context::Batch, &[&self.rng.bytes()])
    }

    /// The digest of the batch under `header`.
    #[must_use]
    pub fn digest_of(&self, header: &BatchHeader) -> Digest {
        header.digest(self.config.cluster_id(), self.config.epoch())
    }

    /// The commitment to what the own COMMIT at `at` opens.
    fn commitment(&self, at: &Position) -> Digest {
        opening(&commit_nonce(&self.scheme.commit_secret(), at))
    }

    /// A proposal of this batch at this place, signed.
    #[must_use]
    pub fn propose(&self, view: View, seq: Seq, header: BatchHeader, body: Arc<Body>) -> PrePrepare {
        let position = Position { epoch: self.config.epoch(), view, seq, digest: self.digest_of(&header) };
        PrePrepare { position, ballot: self.sign_proposal(&position), header, body }
    }

    /// The ballot of a PRE-PREPARE at `at`.
    #[must_use]
    pub fn sign_proposal(&self, at: &Position) -> Ballot {
        let commitment = self.commitment(at);
        let bytes = canonical::pre_prepare(self.config.cluster_id(), at, commitment);
        Ballot { commitment, signature: self.scheme.sign(&bytes) }
    }

    /// A PREPARE for `position`.
    #[must_use]
    pub fn prepare(&self, position: Position) -> Prepare {
        let commitment = self.commitment(&position);
        let bytes = canonical::prepare(self.config.cluster_id(), &position, self.me, commitment);
        Prepare { position, replica: self.me, ballot: Ballot { commitment, signature: self.scheme.sign(&bytes) } }
    }

    /// The COMMIT that opens what was committed to at `position`.
    #[must_use]
    pub fn commit(&self, position: Position) -> Commit {
        Commit { position, replica: self.me, nonce: commit_nonce(&self.scheme.commit_secret(), &position) }
    }

    /// Signs a CHECKPOINT as it stands, alone.
    pub fn seal_checkpoint(&self, vote: &mut Checkpoint) {
        let cluster = self.config.cluster_id();
        let bytes = canonical::checkpoint(cluster, vote.epoch, vote.seq, vote.root, vote.epoch_end, self.me);
        vote.signatures = vec![(self.me, self.scheme.sign(&bytes))];
    }

    /// Signs a SNAPSHOT as it stands, alone.
    pub fn seal_snapshot(&self, vote: &mut SnapshotVote) {
        let bytes = canonical::snapshot(self.config.cluster_id(), vote.epoch, vote.seq, vote.root, self.me);
        vote.signatures = vec![(self.me, self.scheme.sign(&bytes))];
    }

    /// Signs a VIEW-CHANGE as it stands.
    pub fn seal_view_change(&self, message: &mut ViewChange) {
        message.replica = self.me;
        message.signature = self.scheme.sign(&message.signing_bytes(self.config.cluster_id()));
    }

    /// Signs a NEW-VIEW as it stands.
    pub fn seal_new_view(&self, message: &mut NewView) {
        message.signature = self.scheme.sign(&message.signing_bytes(self.config.cluster_id()));
    }
}

/// A number for a place, to draw by.
#[must_use]
pub fn place(view: View, seq: Seq) -> u64 {
    view.0 << 40 ^ seq.0
}
