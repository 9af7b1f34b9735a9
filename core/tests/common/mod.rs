//! A cluster with real keys, and well-formed messages of it. What a test wants malformed it mutates.
#![allow(dead_code, reason = "every test file uses its part")]

pub mod cluster;
mod files;

use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme, Verifier};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::door::{Persist, Place};
use bft_core::hash::{Context, hash};
use bft_core::ids::{ClusterId, Digest, Epoch, ReplicaId, RequestNo, Seq, SessionId, Signature, View};
use bft_core::journal::superblock::{Directory, Superblock};
use bft_core::wire::canonical::{self, SigningBytes, Tag, commit_nonce, opening};
use bft_core::wire::message::{
    Ballot, BatchHeader, Checkpoint, Commit, CommitCertificate, CommittedSlot, Message, NewView, Position, PrePrepare,
    Prepare, PreparedCertificate, SnapshotVote, ViewChange,
};
use bft_core::wire::recall::Recalled;
use bft_core::wire::request::{Body, RequestBounds, SignedRequest, encode_request};

/// The name of the cluster that [`TestCluster::new`] makes.
pub const CLUSTER: ClusterId = ClusterId([0xC1; 32]);

/// What a peer that holds nothing answers to the question of a start, if it is among these.
pub fn nothing_is_held<'a>(mut sent: impl Iterator<Item = &'a Message>) -> Option<Message> {
    sent.find_map(|message| match message {
        Message::Recall(question) => {
            Some(Message::Recalled(Recalled { epoch: question.epoch, start: question.start, held: None }))
        }
        _ => None,
    })
}

/// The superblock of `me` in a directory that was just made.
pub fn superblock(config: &ClusterConfig, me: ReplicaId) -> Superblock {
    Superblock::first(&Directory {
        cluster_id: config.cluster_id(),
        replica: me,
        public_key: config.members()[me.index()].public_key,
        epoch: config.epoch(),
        directory_id: [0; 16],
        directory_key: [0; 32],
    })
}

/// The superblock of `me` after these writes.
pub fn superblock_after(config: &ClusterConfig, me: ReplicaId, records: &[Persist]) -> Superblock {
    let newest = records.iter().rev().find_map(|persist| match &persist.place {
        Place::Superblock(superblock) => Some((**superblock).clone()),
        Place::Journal(_) => None,
    });
    newest.unwrap_or_else(|| superblock(config, me))
}

/// The scheme of whoever is called `name`; the same at every call.
pub fn scheme(name: &str) -> Ed25519 {
    Ed25519::new(&hash(Context::Link, &[b"secret of ", name.as_bytes()]).0, [0x5E; 32])
}

/// A cluster, and every secret in it.
pub struct TestCluster {
    /// Its configuration.
    pub config: Arc<ClusterConfig>,
    /// What each replica signs with.
    pub replicas: Vec<Arc<Ed25519>>,
    /// What admits clients.
    pub authority: Ed25519,
}

impl TestCluster {
    /// Four replicas of weight 1, Epoch 3, default parameters, certified clients.
    pub fn new() -> Self {
        Self::named(CLUSTER)
    }

    /// The same, with the same keys, under another name.
    pub fn named(cluster_id: ClusterId) -> Self {
        Self::with(cluster_id, &[1; 4], ProtocolParams::default())
    }

    /// The same, with a checkpoint every 2 Seqs and a window of 4.
    pub fn with_window_of_four() -> Self {
        let params = ProtocolParams { checkpoint_interval: 2, window: 4, pipeline_max: 4, ..ProtocolParams::default() };
        Self::with(CLUSTER, &[1; 4], params)
    }

    /// One replica for each weight.
    pub fn with(cluster_id: ClusterId, weights: &[u64], params: ProtocolParams) -> Self {
        let authority = scheme("authority");
        let admission = Admission::Certified(authority.public_key());
        let replicas: Vec<_> = (0..weights.len()).map(|i| Arc::new(scheme(&format!("replica {i}")))).collect();
        let member = |(replica, weight): (&Arc<Ed25519>, &u64)| {
            let address = "127.0.0.1:0".into();
            Member { weight: *weight, public_key: replica.public_key(), address }
        };
        let members = replicas.iter().zip(weights).map(member).collect();
        let config = ClusterConfig::new(cluster_id, Epoch(3), params, admission, members).expect("a valid cluster");
        Self { config: Arc::new(config), replicas, authority }
    }

    /// A verifier with a scheme of its own.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.config.clone(), Arc::new(scheme("verifier")))
    }

    /// What `replica` signs with.
    pub fn scheme(&self, replica: ReplicaId) -> &Ed25519 {
        &self.replicas[replica.index()]
    }

    /// The backups of `view`, ascending.
    pub fn backups(&self, view: View) -> Vec<ReplicaId> {
        self.config.replicas().filter(|replica| *replica != self.config.primary(view)).collect()
    }

    /// A Request of the client called `client`, in its session 9.
    pub fn request(&self, client: &str, req_no: u64, operations: &[&[u8]]) -> SignedRequest {
        let client = scheme(client);
        let cluster = self.config.cluster_id();
        let sign = |digest| client.sign(&canonical::signing_bytes(Tag::Request, cluster, digest));
        let (session, req_no, ack) = (SessionId(9), RequestNo(req_no), RequestNo(req_no - 1));
        let operations = operations.iter().copied();
        let bytes = encode_request(client.public_key(), session, req_no, ack, 0, operations, sign);
        SignedRequest::parse(bytes, self.bounds()).expect("a well-formed Request")
    }

    /// What bounds Requests and bodies here.
    pub fn bounds(&self) -> RequestBounds {
        RequestBounds::from(self.config.params())
    }

    /// A body of three Requests of three clients, different for every `salt`.
    pub fn body(&self, salt: u64) -> Body {
        let salted = salt.to_le_bytes();
        let request = |client: &str| self.request(client, salt + 1, &[&salted, client.as_bytes()]);
        Body::join(&["ada", "bob", "cyd"].map(request))
    }

    /// The batch of `body`: its header and where it stands.
    pub fn position(&self, view: u64, seq: u64, body: &Body) -> (Position, BatchHeader) {
        let header = body.header(1_700_000_000_000_000_000 + seq);
        let digest = header.digest(self.config.cluster_id(), self.config.epoch());
        (Position { epoch: self.config.epoch(), view: View(view), seq: Seq(seq), digest }, header)
    }

    /// The nonce that `replica` opens in its COMMIT.
    pub fn nonce(&self, replica: ReplicaId, at: &Position) -> Digest {
        commit_nonce(&self.scheme(replica).commit_secret(), at)
    }

    /// The primary's vote.
    pub fn proposal(&self, at: &Position) -> Ballot {
        let primary = self.config.primary(at.view);
        let commitment = opening(&self.nonce(primary, at));
        let bytes = canonical::pre_prepare(self.config.cluster_id(), at, commitment);
        Ballot { commitment, signature: self.scheme(primary).sign(&bytes) }
    }

    /// The vote of `replica` as a backup.
    pub fn ballot(&self, at: &Position, replica: ReplicaId) -> Ballot {
        let commitment = opening(&self.nonce(replica, at));
        let bytes = canonical::prepare(self.config.cluster_id(), at, replica, commitment);
        Ballot { commitment, signature: self.scheme(replica).sign(&bytes) }
    }

    /// The primary's PRE-PREPARE of `body`.
    pub fn pre_prepare(&self, view: u64, seq: u64, body: Body) -> PrePrepare {
        let (position, header) = self.position(view, seq, &body);
        PrePrepare { position, ballot: self.proposal(&position), header, body: Arc::new(body) }
    }

    /// The same, dated by its primary.
    pub fn pre_prepare_dated(&self, view: u64, seq: u64, body: Body, time_ns: u64) -> PrePrepare {
        let header = body.header(time_ns);
        let digest = header.digest(self.config.cluster_id(), self.config.epoch());
        let position = Position { epoch: self.config.epoch(), view: View(view), seq: Seq(seq), digest };
        PrePrepare { position, ballot: self.proposal(&position), header, body: Arc::new(body) }
    }

    /// The PREPARE of `replica`.
    pub fn prepare(&self, position: Position, replica: ReplicaId) -> Prepare {
        Prepare { position, replica, ballot: self.ballot(&position, replica) }
    }

    /// The COMMIT of `replica`.
    pub fn commit(&self, position: Position, replica: ReplicaId) -> Commit {
        Commit { position, replica, nonce: self.nonce(replica, &position) }
    }

    /// That the primary and `backups` prepared `body`.
    pub fn prepared(&self, view: u64, seq: u64, body: &Body, backups: &[ReplicaId]) -> PreparedCertificate {
        let (position, header) = self.position(view, seq, body);
        let prepares = backups.iter().map(|replica| (*replica, self.ballot(&position, *replica))).collect();
        PreparedCertificate { position, header, proposal: self.proposal(&position), prepares }
    }

    /// That the primary and `backups` committed `body`.
    pub fn committed(&self, view: u64, seq: u64, body: &Body, backups: &[ReplicaId]) -> CommitCertificate {
        let (position, header) = self.position(view, seq, body);
        let commit =
            |replica: &ReplicaId| (*replica, self.ballot(&position, *replica), self.nonce(*replica, &position));
        let opening = Some(self.nonce(self.config.primary(position.view), &position));
        let commits = backups.iter().map(commit).collect();
        CommitCertificate { position, header, proposal: self.proposal(&position), opening, commits }
    }

    /// A batch that all replicas committed.
    pub fn slot(&self, view: u64, seq: u64) -> CommittedSlot {
        let body = self.body(seq);
        let certificate = self.committed(view, seq, &body, &self.backups(View(view)));
        CommittedSlot { certificate: Arc::new(certificate), body: Arc::new(body) }
    }

    /// The VIEW-CHANGE of `replica` for `view`.
    pub fn view_change(
        &self,
        replica: ReplicaId,
        view: u64,
        certificate: Option<Checkpoint>,
        prepared: Vec<PreparedCertificate>,
    ) -> Arc<ViewChange> {
        let (epoch, view, signature) = (self.config.epoch(), View(view), Signature::ZERO);
        let mut message = ViewChange { epoch, view, replica, certificate, prepared, signature };
        message.signature = self.scheme(replica).sign(&message.signing_bytes(self.config.cluster_id()));
        Arc::new(message)
    }

    /// The NEW-VIEW of the primary of `view`.
    pub fn new_view(&self, view: u64, view_changes: Vec<Arc<ViewChange>>) -> Arc<NewView> {
        let (epoch, view, signature) = (self.config.epoch(), View(view), Signature::ZERO);
        let mut message = NewView { epoch, view, view_changes, signature };
        let primary = self.scheme(self.config.primary(view));
        message.signature = primary.sign(&message.signing_bytes(self.config.cluster_id()));
        Arc::new(message)
    }

    /// The CHECKPOINT of `signers` at `seq`.
    pub fn checkpoint(&self, seq: u64, signers: &[ReplicaId]) -> Checkpoint {
        let (epoch, seq, root, epoch_end) = (self.config.epoch(), Seq(seq), Digest([0xAB; 32]), Seq(0));
        let cluster = self.config.cluster_id();
        let bytes = |replica| canonical::checkpoint(cluster, epoch, seq, root, epoch_end, replica);
        Checkpoint { epoch, seq, root, epoch_end, signatures: self.sign_all(signers, bytes) }
    }

    /// The SNAPSHOT of `signers` at `seq`.
    pub fn snapshot(&self, seq: u64, signers: &[ReplicaId]) -> SnapshotVote {
        self.snapshot_of(seq, Digest([0xCD; 32]), signers)
    }

    /// The SNAPSHOT of `signers` at `seq` over `root`.
    pub fn snapshot_of(&self, seq: u64, root: Digest, signers: &[ReplicaId]) -> SnapshotVote {
        let (epoch, seq) = (self.config.epoch(), Seq(seq));
        let bytes = |replica| canonical::snapshot(self.config.cluster_id(), epoch, seq, root, replica);
        SnapshotVote { epoch, seq, root, signatures: self.sign_all(signers, bytes) }
    }

    fn sign_all(
        &self,
        signers: &[ReplicaId],
        bytes: impl Fn(ReplicaId) -> SigningBytes,
    ) -> Vec<(ReplicaId, Signature)> {
        signers.iter().map(|signer| (*signer, self.scheme(*signer).sign(&bytes(*signer)))).collect()
    }
}
