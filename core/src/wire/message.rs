//! The messages as the core sees them: one struct each, fixed fields by value, bodies as slices of the buffer they were
//! received in. How they look on the wire is in [`super::archive`]; what is signed is in [`super::canonical`].

use std::sync::Arc;

use bytes::Bytes;

use super::recall::{Recall, Recalled};
use super::request::{Body, SignedRequest};
use crate::evidence::Evidence;
use crate::ids::{Digest, Epoch, PublicKey, ReplicaId, RequestNo, Seq, SessionId, Signature, View};
use crate::quorum::ReplicaSet;
use crate::snapshot::{ChunkBytes, Manifest, Piece};

/// The kind of a frame (SHAPES §5). The numbers are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
#[allow(missing_docs, reason = "each is named after its message")]
pub enum Kind {
    Request = 1,
    Reply = 2,
    Busy = 3,
    InfoQuery = 4,
    Info = 5,
    ClientJoin = 6,
    PrePrepare = 16,
    Prepare = 17,
    Commit = 18,
    Checkpoint = 19,
    Snapshot = 20,
    ViewChange = 21,
    NewView = 22,
    Status = 23,
    FetchSlot = 32,
    Slot = 33,
    FetchBody = 34,
    Body = 35,
    FetchLog = 36,
    Log = 37,
    FetchManifest = 38,
    Manifest = 39,
    FetchChunk = 40,
    Chunk = 41,
    FetchTrail = 42,
    Trail = 43,
    Evidence = 65,
    Recall = 66,
    Recalled = 67,
}

impl Kind {
    /// Every kind that this version knows.
    pub const ALL: [Self; 29] = [
        Self::Request,
        Self::Reply,
        Self::Busy,
        Self::InfoQuery,
        Self::Info,
        Self::ClientJoin,
        Self::PrePrepare,
        Self::Prepare,
        Self::Commit,
        Self::Checkpoint,
        Self::Snapshot,
        Self::ViewChange,
        Self::NewView,
        Self::Status,
        Self::FetchSlot,
        Self::Slot,
        Self::FetchBody,
        Self::Body,
        Self::FetchLog,
        Self::Log,
        Self::FetchManifest,
        Self::Manifest,
        Self::FetchChunk,
        Self::Chunk,
        Self::FetchTrail,
        Self::Trail,
        Self::Evidence,
        Self::Recall,
        Self::Recalled,
    ];

    /// The kind of this number; `None` for one that this version does not know.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Where a batch stands: what every vote is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The configuration.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// The place in the order.
    pub seq: Seq,
    /// The batch's digest D.
    pub digest: Digest,
}

impl Position {
    /// Which batch, whatever the view.
    #[must_use]
    pub fn batch(&self) -> BatchId {
        BatchId { seq: self.seq, digest: self.digest }
    }
}

/// What a PRE-PREPARE or PREPARE adds to its position: the commitment to the nonce that the sender's COMMIT will
/// reveal, and the signature over both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ballot {
    /// `H_opening(nonce)`.
    pub commitment: Digest,
    /// Over the canonical bytes of the PRE-PREPARE or PREPARE.
    pub signature: Signature,
}

/// The header B of a batch. `D = H_batch(cluster, epoch, B)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BatchHeader {
    /// The primary's clock, nanoseconds since 1970.
    pub time_ns: u64,
    /// Requests in the body.
    pub count: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Merkle root over the leaves of the Requests: digest and signature.
    pub merkle_root: Digest,
    /// Zero.
    pub flags: u32,
}

/// A primary's proposal, its vote for it, and the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrePrepare {
    /// What is proposed where.
    pub position: Position,
    /// Of the primary.
    pub ballot: Ballot,
    /// The batch's header.
    pub header: BatchHeader,
    /// The batch's Requests.
    pub body: Arc<Body>,
}

/// A backup's vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// What it votes for.
    pub position: Position,
    /// Who votes.
    pub replica: ReplicaId,
    /// Its commitment and signature.
    pub ballot: Ballot,
}

/// A replica saw a prepared certificate, and opens its commitment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// What is committed.
    pub position: Position,
    /// Who commits: the peer of the link it came on.
    pub replica: ReplicaId,
    /// The nonce behind the commitment in the sender's PRE-PREPARE or PREPARE.
    pub nonce: Digest,
}

/// PREPAREs of a quorum, the primary's proposal among them: nothing else can be prepared in this view at this Seq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedCertificate {
    /// What is prepared.
    pub position: Position,
    /// The batch's header.
    pub header: BatchHeader,
    /// Of the primary.
    pub proposal: Ballot,
    /// Of backups, ascending, each once.
    pub prepares: Vec<(ReplicaId, Ballot)>,
}

/// COMMITs of a quorum: this batch has this place in the order, whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitCertificate {
    /// What is committed.
    pub position: Position,
    /// The batch's header.
    pub header: BatchHeader,
    /// Of the primary.
    pub proposal: Ballot,
    /// The primary's opening, if it is one of the quorum.
    pub opening: Option<Digest>,
    /// Of backups, ascending, each once: vote and opening.
    pub commits: Vec<(ReplicaId, Ballot, Digest)>,
}

/// One replica's CHECKPOINT (one signature), or the certificate that a quorum's make (SC). May be relayed by anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The configuration.
    pub epoch: Epoch,
    /// The last Seq it covers.
    pub seq: Seq,
    /// `H_ckpt(n, chain_n, exec_n, config_digest, next_config_digest | 0)`.
    pub root: Digest,
    /// The Seq at which the Epoch ends, if a reconfiguration is pending; else 0.
    pub epoch_end: Seq,
    /// Who signed, ascending, each once.
    pub signatures: Vec<(ReplicaId, Signature)>,
}

/// One replica's SNAPSHOT (one signature), or the certificate that a quorum's make (SS). May be relayed by anyone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotVote {
    /// The configuration.
    pub epoch: Epoch,
    /// The Seq whose state it is.
    pub seq: Seq,
    /// The root of [`crate::snapshot::Manifest`].
    pub root: Digest,
    /// Who signed, ascending, each once.
    pub signatures: Vec<(ReplicaId, Signature)>,
}

/// A replica leaves all views below `view`: what is stable and what is prepared, as far as it knows (P, PROTOCOL §8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChange {
    /// The configuration.
    pub epoch: Epoch,
    /// The view it goes to.
    pub view: View,
    /// Who.
    pub replica: ReplicaId,
    /// SC(h), its last stable checkpoint; `None`: there is none yet.
    pub certificate: Option<Checkpoint>,
    /// Of every Seq of the window above h that was prepared here, the certificate of the highest view; ascending.
    pub prepared: Vec<PreparedCertificate>,
    /// Over the canonical bytes.
    pub signature: Signature,
}

impl ViewChange {
    /// h, the last stable checkpoint of its sender.
    #[must_use]
    pub fn stable(&self) -> Seq {
        self.certificate.as_ref().map_or(Seq(0), |certificate| certificate.seq)
    }

    /// Whether it leaves nothing out of a COMMIT that its sender made in `view` at `seq`: its checkpoint covers that, or
    /// a certificate of that view or a later one is in it.
    #[must_use]
    pub fn answers_for(&self, view: View, seq: Seq) -> bool {
        let certified = |at: &Position| at.seq == seq && at.view >= view;
        seq <= self.stable() || self.prepared.iter().any(|certificate| certified(&certificate.position))
    }
}

/// The primary of a view starts it: VIEW-CHANGEs of a quorum, from which everyone computes the same beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewView {
    /// The configuration.
    pub epoch: Epoch,
    /// The view.
    pub view: View,
    /// For this view, of a minimal quorum, ascending.
    pub view_changes: Vec<Arc<ViewChange>>,
    /// Of the primary, over the canonical bytes.
    pub signature: Signature,
}

/// A batch by its place and digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId {
    /// The place.
    pub seq: Seq,
    /// D.
    pub digest: Digest,
}

/// The batch that a FETCH-BODY asked for. Its digest proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchBody {
    /// The place it was voted for.
    pub seq: Seq,
    /// The header.
    pub header: BatchHeader,
    /// The Requests.
    pub body: Arc<Body>,
}

/// Where a replica is: the peer sends what it lacks. Bit i of a map is Seq `stable + 1 + i`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// The configuration.
    pub epoch: Epoch,
    /// The view it is in, or the one it goes to.
    pub view: View,
    /// Whether it goes to `view` and has not arrived: bit i says that it has the VIEW-CHANGE of replica i for it.
    pub changing: Option<ReplicaSet>,
    /// The last stable checkpoint, h.
    pub stable: Seq,
    /// The last Seq executed.
    pub executed: Seq,
    /// The newest stable snapshot, 0 if none.
    pub snapshot: Seq,
    /// Which slots of the window have a PRE-PREPARE here.
    pub proposed: Vec<u64>,
    /// Which have a prepared certificate.
    pub prepared: Vec<u64>,
    /// Which are committed.
    pub committed: Vec<u64>,
}

/// A committed batch that anyone can check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedSlot {
    /// That it is committed.
    pub certificate: Arc<CommitCertificate>,
    /// The batch.
    pub body: Arc<Body>,
}

/// A stable snapshot, as it is shown to whoever lags: SS(s), and what the snapshot consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StableSnapshot {
    /// Of a quorum, over the root of `manifest`.
    pub certificate: SnapshotVote,
    /// Lengths and digests of all pieces.
    pub manifest: Arc<Manifest>,
}

/// Asks for one piece of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchChunk {
    /// Which snapshot.
    pub seq: Seq,
    /// Which piece of it.
    pub piece: Piece,
}

/// One piece of a snapshot. Whether it is the right one, the manifest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Which snapshot.
    pub seq: Seq,
    /// Which piece of it.
    pub piece: Piece,
    /// What it holds; `None`: the snapshot is not kept here, or not any more.
    pub bytes: Option<ChunkBytes>,
}

/// What the execution of one Seq came to, as it goes into the `exec` chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Step {
    /// The Merkle root over the digests of the replies.
    pub reply_root: Digest,
    /// What the service said that the batch changed, hashed.
    pub delta: Digest,
}

/// Every step of one checkpoint's interval. Whether it is the one that led to the checkpoint, the checkpoint's root tells:
/// the steps, chained, end in a value that the root binds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trail {
    /// The checkpoint.
    pub seq: Seq,
    /// The chain over all batches up to it.
    pub chain: Digest,
    /// The `exec` chain at the checkpoint before it.
    pub exec_before: Digest,
    /// Of the Seqs after that one, ascending, up to `seq`.
    pub steps: Vec<Step>,
}

/// What a replica tells about itself to whoever asks: `bftd status`, the bench, a client that opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Info {
    /// Who.
    pub replica: ReplicaId,
    /// Its configuration.
    pub epoch: Epoch,
    /// Its view.
    pub view: View,
    /// The last Seq executed.
    pub executed: Seq,
    /// The last stable checkpoint.
    pub stable: Seq,
    /// The newest stable snapshot, 0 if none.
    pub snapshot: Seq,
    /// The state digest and the Seq at which it was computed, if asked for and to be had.
    pub state: Option<(Seq, Digest)>,
    /// Peers with a link up.
    pub peers: u32,
    /// How the journal makes writes durable: `"linked fdatasync"`, …; empty: it does not.
    pub write_path: String,
    /// How this link is sealed: `"Noise_XX_25519_AESGCM_SHA256"`.
    pub sealed: String,
    /// How Requests are checked: `"ed25519 ZIP-215 (avx2)"`.
    pub signatures: String,
    /// CPU time of the process in microseconds.
    pub cpu_us: u64,
    /// Largest resident memory of the process so far, in KiB.
    pub rss_max_kib: u64,
    /// Named counters, for people.
    pub counters: Vec<(String, u64)>,
}

/// The result code of an ordered Request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Code {
    /// Executed; or, for the Request that opens a session, opened.
    Ok = 0,
    /// Executed; its results pass `reply_bytes_max` and are not kept.
    ReplyTooLarge = 1,
    /// Another body was executed under this number.
    Conflict = 2,
    /// The number is acknowledged already.
    AlreadyAcked = 3,
    /// The number, or the bytes of unacknowledged results, pass the window: send it again later.
    Window = 4,
    /// `ack` is not below the number, or above any number seen.
    MalformedAck = 5,
    /// The client is not admitted.
    Denied = 6,
    /// No such session: never opened, replaced, closed or evicted.
    SessionUnknown = 7,
    /// An opening named another session than the current one, whose id is in the result.
    SessionOpen = 8,
    /// An opening's `at` is too old or ahead; the Seq it came to is in the result.
    SessionStale = 9,
    /// A malformed opening or closing.
    Malformed = 10,
    /// The session is closed.
    Closed = 11,
}

impl Info {
    /// One of the counters; `None` if the replica tells of none by this name.
    #[must_use]
    pub fn counter(&self, name: &str) -> Option<u64> {
        self.counters.iter().find(|(counter, _)| counter == name).map(|(_, count)| *count)
    }
}

impl Code {
    /// The code of this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        const ALL: [Code; 12] = [
            Code::Ok,
            Code::ReplyTooLarge,
            Code::Conflict,
            Code::AlreadyAcked,
            Code::Window,
            Code::MalformedAck,
            Code::Denied,
            Code::SessionUnknown,
            Code::SessionOpen,
            Code::SessionStale,
            Code::Malformed,
            Code::Closed,
        ];
        ALL.into_iter().find(|code| *code as u16 == number)
    }
}

/// A replica's answer to a Request. It counts with `blocking set` many that agree in everything but who sent them and
/// whether the results are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The configuration.
    pub epoch: Epoch,
    /// The session; 0 for an opening.
    pub session: SessionId,
    /// The Request's number in it; 0 for an opening.
    pub req_no: RequestNo,
    /// Where it was ordered.
    pub seq: Seq,
    /// How it ended.
    pub code: Code,
    /// [`super::request::result_digest`] of code and results.
    pub digest: Digest,
    /// The results, each with a u32 length before it; `None` where another replica was to send them. For an opening: the
    /// Request's digest, then eight bytes (the new session, the current one, or a Seq, by code).
    pub results: Option<Bytes>,
}

/// Advice of one replica: not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The digest of the Request that was not taken.
    pub request: Digest,
    /// Come back after this many milliseconds.
    pub retry_after_ms: u32,
}

/// Brings a further client key to a link, after the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientJoin {
    /// The key.
    pub public_key: PublicKey,
    /// Its certificate, where the cluster asks for one.
    pub certificate: Option<ClientCertificate>,
    /// Over the handshake hash of this link, by the key.
    pub signature: Signature,
}

/// The client authority's word that a key may be a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The last Epoch it holds in.
    pub expires_epoch: Epoch,
    /// By the authority.
    pub signature: Signature,
}

/// Whatever one replica or client says to a replica, and its answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after its message")]
pub enum Message {
    /// Of a client on its link, or forwarded by a backup to its primary.
    Request(SignedRequest),
    Reply(Reply),
    Busy(Busy),
    /// Asks for INFO; true: with a state digest.
    InfoQuery {
        want_digest: bool,
    },
    Info(Box<Info>),
    ClientJoin(ClientJoin),
    PrePrepare(PrePrepare),
    Prepare(Prepare),
    Commit(Commit),
    Checkpoint(Checkpoint),
    Snapshot(SnapshotVote),
    ViewChange(Arc<ViewChange>),
    NewView(Arc<NewView>),
    Status(Status),
    /// Asks for the commit certificate and body of one Seq.
    FetchSlot(Seq),
    Slot(CommittedSlot),
    /// Asks for the batch with this digest, committed or not.
    FetchBody(BatchId),
    Body(BatchBody),
    /// Asks for committed slots from this Seq on.
    FetchLog(Seq),
    /// Committed slots of consecutive Seqs.
    Log(Vec<CommittedSlot>),
    /// Asks for the newest stable snapshot, if it is above this Seq.
    FetchManifest(Seq),
    Manifest(StableSnapshot),
    FetchChunk(FetchChunk),
    Chunk(Chunk),
    /// Asks for the trail to this checkpoint.
    FetchTrail(Seq),
    Trail(Trail),
    /// Proof that a replica broke the protocol. May be relayed by anyone.
    Evidence(Arc<Evidence>),
    /// Asks, at a start: do you hold something under my signature that I do not know of?
    Recall(Recall),
    Recalled(Recalled),
}

impl Message {
    /// The view that it votes in, if it is a vote: what [`crate::door::Effects::cancel_votes_below`] is about.
    #[must_use]
    pub fn voted_in(&self) -> Option<View> {
        match self {
            Self::PrePrepare(proposal) => Some(proposal.position.view),
            Self::Prepare(vote) => Some(vote.position.view),
            Self::Commit(commit) => Some(commit.position.view),
            Self::Request(_)
            | Self::Reply(_)
            | Self::Busy(_)
            | Self::InfoQuery { .. }
            | Self::Info(_)
            | Self::ClientJoin(_)
            | Self::Checkpoint(_)
            | Self::Snapshot(_)
            | Self::ViewChange(_)
            | Self::NewView(_)
            | Self::Status(_)
            | Self::FetchSlot(_)
            | Self::Slot(_)
            | Self::FetchBody(_)
            | Self::Body(_)
            | Self::FetchLog(_)
            | Self::Log(_)
            | Self::FetchManifest(_)
            | Self::Manifest(_)
            | Self::FetchChunk(_)
            | Self::Chunk(_)
            | Self::FetchTrail(_)
            | Self::Trail(_)
            | Self::Evidence(_)
            | Self::Recall(_)
            | Self::Recalled(_) => None,
        }
    }

    /// The kind of the frame that carries it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::Reply(_) => Kind::Reply,
            Self::Busy(_) => Kind::Busy,
            Self::InfoQuery { .. } => Kind::InfoQuery,
            Self::Info(_) => Kind::Info,
            Self::ClientJoin(_) => Kind::ClientJoin,
            Self::PrePrepare(_) => Kind::PrePrepare,
            Self::Prepare(_) => Kind::Prepare,
            Self::Commit(_) => Kind::Commit,
            Self::Checkpoint(_) => Kind::Checkpoint,
            Self::Snapshot(_) => Kind::Snapshot,
            Self::ViewChange(_) => Kind::ViewChange,
            Self::NewView(_) => Kind::NewView,
            Self::Status(_) => Kind::Status,
            Self::FetchSlot(_) => Kind::FetchSlot,
            Self::Slot(_) => Kind::Slot,
            Self::FetchBody(_) => Kind::FetchBody,
            Self::Body(_) => Kind::Body,
            Self::FetchLog(_) => Kind::FetchLog,
            Self::Log(_) => Kind::Log,
            Self::FetchManifest(_) => Kind::FetchManifest,
            Self::Manifest(_) => Kind::Manifest,
            Self::FetchChunk(_) => Kind::FetchChunk,
            Self::Chunk(_) => Kind::Chunk,
            Self::FetchTrail(_) => Kind::FetchTrail,
            Self::Trail(_) => Kind::Trail,
            Self::Evidence(_) => Kind::Evidence,
            Self::Recall(_) => Kind::Recall,
            Self::Recalled(_) => Kind::Recalled,
        }
    }
}
