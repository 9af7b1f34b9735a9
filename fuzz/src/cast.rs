//! Who could have said what is mutated: a cluster's configuration, the keys that somebody holds, and one genuine message
//! of every kind. A fixed cluster for the targets; a running one's keys for the test on a live replica.

use std::sync::Arc;

use bft_core::auth::{Ed25519, Scheme};
use bft_core::config::{Admission, ClusterConfig, Member, ProtocolParams};
use bft_core::evidence::{Evidence, ForgedRequest, Opened, Proof, SignedRoot, SignedVote};
use bft_core::ids::{ClusterId, Digest, Epoch, ReplicaId, RequestNo, Seq, SessionId, Signature, View};
use bft_core::snapshot::{ChunkBytes, Manifest, Piece, Scalars, Section};
use bft_core::wire::canonical::{self, Tag, commit_nonce, opening, signing_bytes};
use bft_core::wire::message::{
    Ballot, BatchBody, Busy, Checkpoint, Chunk, ClientJoin, Code, Commit, CommitCertificate, CommittedSlot, FetchChunk,
    Info, Message, NewView, Position, PrePrepare, Prepare, PreparedCertificate, Reply, SnapshotVote, StableSnapshot,
    Status, Step, Trail, ViewChange,
};
use bft_core::wire::request::{Body, RequestBounds, SignedRequest, encode_request, result_digest};
use bft_services::kv::Operation;

/// The session that Requests are of where nobody opened one.
const SESSION: SessionId = SessionId(9 << 20 | 1);
/// A piece of a snapshot, and where it belongs.
const PIECE: Piece = Piece { section: Section::State, index: 1 };
const CHUNK: &[u8] = b"a chunk of the state";

/// Keys, and the cluster that they are of.
#[derive(Clone)]
pub struct Cast {
    /// The cluster.
    pub config: Arc<ClusterConfig>,
    /// What each replica signs with, by id. Who holds one key only puts it everywhere, and is then found out.
    pub replicas: Vec<Arc<dyn Scheme>>,
    /// The replica that speaks.
    pub speaker: ReplicaId,
    /// The client that signs Requests.
    pub client: Arc<dyn Scheme>,
}

/// The scheme of the fixed secret key number `key`.
#[must_use]
pub fn scheme(key: u8) -> Arc<dyn Scheme> {
    Arc::new(Ed25519::new(&[key; 32], [key; 32]))
}

impl Cast {
    /// Four replicas that admit every client.
    ///
    /// # Panics
    /// Never: the configuration is a constant.
    #[must_use]
    pub fn fixed() -> Self {
        let replicas: Vec<_> = (1..=4).map(scheme).collect();
        let member = |scheme: &Arc<dyn Scheme>| Member {
            weight: 1,
            public_key: scheme.public_key(),
            address: "127.0.0.1:4710".into(),
        };
        let members = replicas.iter().map(member).collect();
        let params = ProtocolParams::default();
        let config = ClusterConfig::new(ClusterId([7; 32]), Epoch(3), params, Admission::Any, members);
        let config = Arc::new(config.expect("a constant that is valid"));
        Self { config, replicas, speaker: ReplicaId(3), client: scheme(100) }
    }

    /// What bounds Requests.
    #[must_use]
    pub fn bounds(&self) -> RequestBounds {
        RequestBounds::from(self.config.params())
    }

    /// A Request of the client.
    ///
    /// # Panics
    /// If it passes the cluster's bounds.
    #[must_use]
    pub fn request(&self, session: SessionId, req_no: RequestNo, operations: &[&[u8]]) -> SignedRequest {
        let cluster = self.config.cluster_id();
        let sign = |digest| self.client.sign(&signing_bytes(Tag::Request, cluster, digest));
        let key = self.client.public_key();
        let ack = RequestNo(req_no.0.saturating_sub(1));
        let bytes = encode_request(key, session, req_no, ack, 0, operations.iter().copied(), sign);
        SignedRequest::parse(bytes, self.bounds()).expect("within the bounds")
    }

    /// One message of every kind, in the order of [`bft_core::wire::message::Kind::ALL`], at `seq`.
    ///
    /// # Panics
    /// Never: what it encodes is short.
    #[must_use]
    pub fn messages(&self, seq: Seq) -> Vec<Message> {
        let put = Operation::Put { key: b"key", value: b"value" }.to_bytes().expect("short");
        let add = Operation::Add { key: b"counter", delta: 1 }.to_bytes().expect("short");
        let request = self.request(SESSION, RequestNo(seq.0), &[&put, &add]);
        let slot = |seq| self.slot(seq, &request);
        let pre_prepare = self.pre_prepare(seq, &request);
        let position = pre_prepare.position;
        let interval = self.config.params().checkpoint_interval;
        let checkpoint = Seq(seq.0.next_multiple_of(interval));
        vec![
            Message::Request(request.clone()),
            Message::Reply(self.reply(seq)),
            Message::Busy(Busy { request: request.entry.digest, retry_after_ms: 20 }),
            Message::InfoQuery { want_digest: true },
            Message::Info(Box::new(self.info(seq))),
            Message::ClientJoin(ClientJoin {
                public_key: self.client.public_key(),
                certificate: None,
                signature: self.client.sign(&signing_bytes(Tag::Join, self.config.cluster_id(), Digest::ZERO)),
            }),
            Message::PrePrepare(pre_prepare),
            Message::Prepare(Prepare { position, replica: self.speaker, ballot: self.ballot(&position, self.speaker) }),
            Message::Commit(Commit { position, replica: self.speaker, nonce: self.nonce(&position, self.speaker) }),
            Message::Checkpoint(self.checkpoint(checkpoint)),
            Message::Snapshot(self.snapshot(checkpoint)),
            Message::ViewChange(Arc::new(self.view_change(self.speaker, checkpoint, &request))),
            Message::NewView(Arc::new(self.new_view(checkpoint, &request, 0))),
            Message::Status(self.status(seq)),
            Message::FetchSlot(seq),
            Message::Slot(slot(seq)),
            Message::FetchBody(position.batch()),
            Message::Body(BatchBody { seq, header: slot(seq).certificate.header, body: slot(seq).body }),
            Message::FetchLog(seq),
            Message::Log(vec![slot(seq), slot(seq.next())]),
            Message::FetchManifest(seq),
            Message::Manifest(self.stable_snapshot(checkpoint)),
            Message::FetchChunk(FetchChunk { seq: checkpoint, piece: PIECE }),
            Message::Chunk(Chunk { seq: checkpoint, piece: PIECE, bytes: Some(ChunkBytes::new(CHUNK.into())) }),
            Message::FetchTrail(checkpoint),
            Message::Trail(Trail {
                seq: checkpoint,
                chain: Digest([3; 32]),
                exec_before: Digest([4; 32]),
                steps: vec![Step { reply_root: Digest([5; 32]), delta: Digest([6; 32]) }; interval as usize],
            }),
            Message::Evidence(Arc::new(self.evidence(seq).swap_remove(0))),
        ]
    }

    /// One piece of evidence of every kind and form against the speaker, at `seq`.
    #[must_use]
    pub fn evidence(&self, seq: Seq) -> Vec<Evidence> {
        let speaker = self.speaker;
        let request = self.request(SESSION, RequestNo(seq.0), &[b"evidence"]);
        let checkpoint = Seq(seq.0.next_multiple_of(self.config.params().checkpoint_interval));
        let at = |view, batch: u8| Position { epoch: self.config.epoch(), view, seq, digest: Digest([batch; 32]) };
        let vote = |at: Position| SignedVote { digest: at.digest, ballot: self.ballot(&at, speaker) };
        let (view, next) = (self.view(), self.view().next());
        let root = |byte: u8| {
            let (root, epoch_end) = (Digest([byte; 32]), Seq(0));
            let (cluster, epoch) = (self.config.cluster_id(), self.config.epoch());
            let bytes = canonical::checkpoint(cluster, epoch, checkpoint, root, epoch_end, speaker);
            SignedRoot { root, epoch_end, signature: self.scheme(speaker).sign(&bytes) }
        };
        let committed = at(view, 1);
        let nonce = self.nonce(&committed, speaker);
        let opened = Opened { position: committed, ballot: self.ballot(&committed, speaker), nonce };
        let new_view = |without| Arc::new(self.new_view(checkpoint, &request, without));
        let contradicting = Position { view: new_view(0).view, seq: checkpoint.next(), ..committed };
        let mut few = self.new_view(checkpoint, &request, 0);
        few.view_changes.pop();
        self.sign_new_view(&mut few);
        let against = Some((contradicting.seq, vote(contradicting)));
        let proofs = [
            Proof::two_proposals(view, seq, vote(at(view, 1)), vote(at(view, 2))),
            Proof::two_prepares(speaker, next, seq, vote(at(next, 1)), vote(at(next, 2))),
            Proof::two_checkpoints(speaker, checkpoint, root(1), root(2)),
            Proof::Amnesia { opened, view_change: Arc::new(self.forgetful(speaker)) },
            Proof::FalseNewView { new_view: new_view(0), against },
            Proof::FalseNewView { new_view: Arc::new(few), against: None },
            Proof::two_new_views(self.config.cluster_id(), new_view(0), new_view(1)),
            self.forged_request(seq, &request),
        ];
        proofs.map(|proof| Evidence::new(&self.config, proof)).into()
    }

    /// A VIEW-CHANGE that names nothing.
    fn forgetful(&self, replica: ReplicaId) -> ViewChange {
        let (epoch, view) = (self.config.epoch(), View(self.view().0 + 1));
        let (certificate, prepared, signature) = (None, Vec::new(), Signature::ZERO);
        let mut message = ViewChange { epoch, view, replica, certificate, prepared, signature };
        message.signature = self.scheme(replica).sign(&message.signing_bytes(self.config.cluster_id()));
        message
    }

    /// A batch of the speaker with one Request in it, whose signature is another one's.
    fn forged_request(&self, seq: Seq, request: &SignedRequest) -> Proof {
        let mut bytes = request.bytes.to_vec();
        let end = bytes.len();
        bytes[end - 64..].copy_from_slice(&forged(request.entry.signature, 3).0);
        let request = SignedRequest::parse(bytes.into(), self.bounds()).expect("a signature may be any bytes");
        let PrePrepare { position, ballot, header, .. } = self.pre_prepare(seq, &request);
        let (path, request) = (Vec::new(), request.bytes);
        let forged = ForgedRequest { view: position.view, seq, ballot, header, index: 0, path, request };
        Proof::ForgedRequest(Box::new(forged))
    }

    fn view(&self) -> View {
        let views = (0..self.config.n() as u64).map(View);
        views.into_iter().find(|view| self.config.primary(*view) == self.speaker).expect("each is primary of some view")
    }

    fn scheme(&self, replica: ReplicaId) -> &dyn Scheme {
        &*self.replicas[replica.index()]
    }

    fn nonce(&self, at: &Position, replica: ReplicaId) -> Digest {
        commit_nonce(&self.scheme(replica).commit_secret(), at)
    }

    /// The vote of a replica: as the primary, where it is the one of the view.
    fn ballot(&self, at: &Position, replica: ReplicaId) -> Ballot {
        let commitment = opening(&self.nonce(at, replica));
        let cluster = self.config.cluster_id();
        let bytes = if self.config.primary(at.view) == replica {
            canonical::pre_prepare(cluster, at, commitment)
        } else {
            canonical::prepare(cluster, at, replica, commitment)
        };
        Ballot { commitment, signature: self.scheme(replica).sign(&bytes) }
    }

    fn pre_prepare(&self, seq: Seq, request: &SignedRequest) -> PrePrepare {
        let body = Body::join(std::slice::from_ref(request));
        let header = body.header(1_700_000_000_000_000_000 + seq.0 % 1_000_000);
        let epoch = self.config.epoch();
        let digest = header.digest(self.config.cluster_id(), epoch);
        let position = Position { epoch, view: self.view(), seq, digest };
        let primary = self.config.primary(position.view);
        PrePrepare { position, ballot: self.ballot(&position, primary), header, body: Arc::new(body) }
    }

    fn slot(&self, seq: Seq, request: &SignedRequest) -> CommittedSlot {
        let PrePrepare { position, ballot: proposal, header, body } = self.pre_prepare(seq, request);
        let primary = self.config.primary(position.view);
        let backups = self.config.replicas().filter(|replica| *replica != primary);
        let commit = |backup| (backup, self.ballot(&position, backup), self.nonce(&position, backup));
        let opening = Some(self.nonce(&position, primary));
        let certificate =
            CommitCertificate { position, header, proposal, opening, commits: backups.map(commit).collect() };
        CommittedSlot { certificate: Arc::new(certificate), body }
    }

    /// Of the next view that the speaker is primary of, with one prepared certificate above the checkpoint.
    fn view_change(&self, replica: ReplicaId, checkpoint: Seq, request: &SignedRequest) -> ViewChange {
        let PrePrepare { position, ballot: proposal, header, .. } = self.pre_prepare(checkpoint.next(), request);
        let primary = self.config.primary(position.view);
        let backups = self.config.replicas().filter(|replica| *replica != primary);
        let prepares = backups.map(|backup| (backup, self.ballot(&position, backup))).collect();
        let mut message = ViewChange {
            epoch: self.config.epoch(),
            view: View(self.view().0 + self.config.n() as u64),
            replica,
            certificate: Some(self.checkpoint(checkpoint)),
            prepared: vec![PreparedCertificate { position, header, proposal, prepares }],
            signature: Signature::ZERO,
        };
        message.signature = self.scheme(replica).sign(&message.signing_bytes(self.config.cluster_id()));
        message
    }

    fn new_view(&self, checkpoint: Seq, request: &SignedRequest, without: u16) -> NewView {
        let quorum = self.config.replicas().filter(|replica| replica.0 != without);
        let view_changes: Vec<_> =
            quorum.map(|replica| Arc::new(self.view_change(replica, checkpoint, request))).collect();
        let (epoch, view) = (self.config.epoch(), view_changes[0].view);
        let mut message = NewView { epoch, view, view_changes, signature: Signature::ZERO };
        self.sign_new_view(&mut message);
        message
    }

    fn sign_new_view(&self, message: &mut NewView) {
        message.signature = self.scheme(self.speaker).sign(&message.signing_bytes(self.config.cluster_id()));
    }

    fn checkpoint(&self, seq: Seq) -> Checkpoint {
        let (cluster, epoch, root, epoch_end) =
            (self.config.cluster_id(), self.config.epoch(), Digest([5; 32]), Seq(0));
        let sign = |id| (id, self.scheme(id).sign(&canonical::checkpoint(cluster, epoch, seq, root, epoch_end, id)));
        Checkpoint { epoch, seq, root, epoch_end, signatures: self.config.replicas().map(sign).collect() }
    }

    fn stable_snapshot(&self, seq: Seq) -> StableSnapshot {
        let mut manifest = Manifest::new(Scalars { seq, ..Scalars::default() });
        manifest.add_chunk(b"the first");
        manifest.add_chunk(CHUNK);
        manifest.add_clients(b"a client table");
        StableSnapshot { certificate: self.snapshot_of(seq, manifest.root()), manifest: Arc::new(manifest) }
    }

    fn snapshot(&self, seq: Seq) -> SnapshotVote {
        self.snapshot_of(seq, Digest([6; 32]))
    }

    fn snapshot_of(&self, seq: Seq, root: Digest) -> SnapshotVote {
        let (cluster, epoch) = (self.config.cluster_id(), self.config.epoch());
        let sign = |id| (id, self.scheme(id).sign(&canonical::snapshot(cluster, epoch, seq, root, id)));
        SnapshotVote { epoch, seq, root, signatures: self.config.replicas().map(sign).collect() }
    }

    fn status(&self, seq: Seq) -> Status {
        let words = self.config.params().window.div_ceil(64);
        let map = || vec![0; usize::try_from(words).expect("a window is short")];
        let (epoch, view) = (self.config.epoch(), self.view());
        let (proposed, prepared, committed) = (map(), map(), map());
        let (changing, stable, snapshot) = (None, Seq(0), Seq(0));
        Status { epoch, view, changing, stable, executed: seq, snapshot, proposed, prepared, committed }
    }

    fn reply(&self, seq: Seq) -> Reply {
        let results = bytes::Bytes::from_static(b"\x02\0\0\0ok\0\0\0\0");
        let digest = result_digest(Code::Ok, &results);
        let (epoch, session, req_no) = (self.config.epoch(), SESSION, RequestNo(seq.0));
        Reply { epoch, session, req_no, seq, code: Code::Ok, digest, results: Some(results) }
    }

    fn info(&self, seq: Seq) -> Info {
        Info {
            replica: self.speaker,
            epoch: self.config.epoch(),
            executed: seq,
            state: Some((seq, Digest([8; 32]))),
            write_path: "linked fdatasync".into(),
            counters: vec![("steps".into(), 7)],
            ..Info::default()
        }
    }
}

/// The signature with one bit of it changed.
#[must_use]
pub fn forged(mut signature: Signature, bit: usize) -> Signature {
    signature.0[bit / 8 % 64] ^= 1 << (bit % 8);
    signature
}
