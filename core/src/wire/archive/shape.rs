//! The payloads as rkyv sees them: plain structs of fixed-width integers, byte arrays and vectors of them, and nothing
//! that checking could walk for long (X7). Their layout is the wire's: a change of any of them is a new
//! [`crate::wire::frame::WIRE_VERSION`]. An optional field is a byte that says whether it is there, and the field.

use std::sync::Arc;

use bytes::Bytes;
use rkyv::rend::u64_le;
use rkyv::vec::ArchivedVec;
use rkyv::with::AsVec;
use rkyv::{Archive, Serialize};

use super::{CHUNK_BYTES, COUNTERS, DecodeError, LOG_SLOTS, MAP_WORDS, SIGNERS, TEXT_BYTES, TRAIL_STEPS};
use crate::ids::{Digest, Epoch, PublicKey, ReplicaId, RequestNo, Seq, SessionId, Signature, View};
use crate::limits;
use crate::quorum::ReplicaSet;
use crate::snapshot::{ChunkBytes, Manifest, Piece, Section};
use crate::wire::message as native;
use crate::wire::request::{Body, RequestBounds};

#[derive(Archive, Serialize)]
pub(super) struct Position {
    epoch: u64,
    view: u64,
    seq: u64,
    digest: [u8; 32],
}

impl From<&native::Position> for Position {
    fn from(at: &native::Position) -> Self {
        Self { epoch: at.epoch.0, view: at.view.0, seq: at.seq.0, digest: at.digest.0 }
    }
}

impl ArchivedPosition {
    fn native(&self) -> native::Position {
        native::Position {
            epoch: Epoch(self.epoch.to_native()),
            view: View(self.view.to_native()),
            seq: Seq(self.seq.to_native()),
            digest: Digest(self.digest),
        }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Ballot {
    commitment: [u8; 32],
    signature: [u8; 64],
}

impl From<&native::Ballot> for Ballot {
    fn from(ballot: &native::Ballot) -> Self {
        Self { commitment: ballot.commitment.0, signature: ballot.signature.0 }
    }
}

impl ArchivedBallot {
    fn native(&self) -> native::Ballot {
        native::Ballot { commitment: Digest(self.commitment), signature: Signature(self.signature) }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct BatchHeader {
    time_ns: u64,
    merkle_root: [u8; 32],
    count: u32,
    body_len: u32,
    flags: u32,
}

impl From<&native::BatchHeader> for BatchHeader {
    fn from(header: &native::BatchHeader) -> Self {
        let native::BatchHeader { time_ns, count, body_len, merkle_root, flags } = *header;
        Self { time_ns, merkle_root: merkle_root.0, count, body_len, flags }
    }
}

impl ArchivedBatchHeader {
    fn native(&self) -> native::BatchHeader {
        native::BatchHeader {
            time_ns: self.time_ns.to_native(),
            count: self.count.to_native(),
            body_len: self.body_len.to_native(),
            merkle_root: Digest(self.merkle_root),
            flags: self.flags.to_native(),
        }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct PrePrepare<'a> {
    position: Position,
    ballot: Ballot,
    header: BatchHeader,
    #[rkyv(with = AsVec)]
    body: &'a [u8],
}

impl<'a> From<&'a native::PrePrepare> for PrePrepare<'a> {
    fn from(message: &'a native::PrePrepare) -> Self {
        Self {
            position: (&message.position).into(),
            ballot: (&message.ballot).into(),
            header: (&message.header).into(),
            body: message.body.bytes(),
        }
    }
}

impl ArchivedPrePrepare<'_> {
    pub(super) fn native(&self, payload: &Bytes, bounds: RequestBounds) -> Result<native::PrePrepare, DecodeError> {
        Ok(native::PrePrepare {
            position: self.position.native(),
            ballot: self.ballot.native(),
            header: self.header.native(),
            body: Arc::new(Body::parse(payload.slice_ref(&self.body), bounds)?),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Prepare {
    position: Position,
    ballot: Ballot,
    replica: u16,
}

impl From<&native::Prepare> for Prepare {
    fn from(message: &native::Prepare) -> Self {
        Self { position: (&message.position).into(), ballot: (&message.ballot).into(), replica: message.replica.0 }
    }
}

impl ArchivedPrepare {
    pub(super) fn native(&self) -> native::Prepare {
        native::Prepare {
            position: self.position.native(),
            replica: ReplicaId(self.replica.to_native()),
            ballot: self.ballot.native(),
        }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Commit {
    position: Position,
    nonce: [u8; 32],
    replica: u16,
}

impl From<&native::Commit> for Commit {
    fn from(message: &native::Commit) -> Self {
        Self { position: (&message.position).into(), nonce: message.nonce.0, replica: message.replica.0 }
    }
}

impl ArchivedCommit {
    pub(super) fn native(&self) -> native::Commit {
        native::Commit {
            position: self.position.native(),
            replica: ReplicaId(self.replica.to_native()),
            nonce: Digest(self.nonce),
        }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct OpenedVote {
    ballot: Ballot,
    nonce: [u8; 32],
    replica: u16,
}

#[derive(Archive, Serialize)]
pub(super) struct CommitCertificate {
    position: Position,
    header: BatchHeader,
    proposal: Ballot,
    opening: [u8; 32],
    has_opening: u8,
    commits: Vec<OpenedVote>,
}

impl From<&native::CommitCertificate> for CommitCertificate {
    fn from(certificate: &native::CommitCertificate) -> Self {
        let (has_opening, opening) = optional(certificate.opening);
        let vote = |(replica, ballot, nonce): &(ReplicaId, native::Ballot, Digest)| OpenedVote {
            ballot: ballot.into(),
            nonce: nonce.0,
            replica: replica.0,
        };
        Self {
            position: (&certificate.position).into(),
            header: (&certificate.header).into(),
            proposal: (&certificate.proposal).into(),
            opening: opening.0,
            has_opening,
            commits: certificate.commits.iter().map(vote).collect(),
        }
    }
}

impl ArchivedCommitCertificate {
    fn native(&self) -> Result<native::CommitCertificate, DecodeError> {
        SIGNERS.check(self.commits.len())?;
        let vote =
            |vote: &ArchivedOpenedVote| (ReplicaId(vote.replica.to_native()), vote.ballot.native(), Digest(vote.nonce));
        Ok(native::CommitCertificate {
            position: self.position.native(),
            header: self.header.native(),
            proposal: self.proposal.native(),
            opening: is_there(self.has_opening)?.then_some(Digest(self.opening)),
            commits: self.commits.iter().map(vote).collect(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Slot<'a> {
    certificate: CommitCertificate,
    #[rkyv(with = AsVec)]
    body: &'a [u8],
}

impl<'a> From<&'a native::CommittedSlot> for Slot<'a> {
    fn from(slot: &'a native::CommittedSlot) -> Self {
        Self { certificate: (&*slot.certificate).into(), body: slot.body.bytes() }
    }
}

impl ArchivedSlot<'_> {
    pub(super) fn native(&self, payload: &Bytes, bounds: RequestBounds) -> Result<native::CommittedSlot, DecodeError> {
        Ok(native::CommittedSlot {
            certificate: Arc::new(self.certificate.native()?),
            body: Arc::new(Body::parse(payload.slice_ref(&self.body), bounds)?),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Log<'a> {
    slots: Vec<Slot<'a>>,
}

impl<'a> From<&'a Vec<native::CommittedSlot>> for Log<'a> {
    fn from(slots: &'a Vec<native::CommittedSlot>) -> Self {
        Self { slots: slots.iter().map(Slot::from).collect() }
    }
}

impl ArchivedLog<'_> {
    pub(super) fn native(
        &self,
        payload: &Bytes,
        bounds: RequestBounds,
    ) -> Result<Vec<native::CommittedSlot>, DecodeError> {
        LOG_SLOTS.check(self.slots.len())?;
        self.slots.iter().map(|slot| slot.native(payload, bounds)).collect()
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Signed {
    replica: u16,
    signature: [u8; 64],
}

fn signed(signatures: &[(ReplicaId, Signature)]) -> Vec<Signed> {
    signatures.iter().map(|(replica, signature)| Signed { replica: replica.0, signature: signature.0 }).collect()
}

fn signatures(signed: &[ArchivedSigned]) -> Result<Vec<(ReplicaId, Signature)>, DecodeError> {
    SIGNERS.check(signed.len())?;
    Ok(signed.iter().map(|one| (ReplicaId(one.replica.to_native()), Signature(one.signature))).collect())
}

#[derive(Archive, Serialize)]
pub(super) struct Checkpoint {
    epoch: u64,
    seq: u64,
    epoch_end: u64,
    root: [u8; 32],
    signatures: Vec<Signed>,
}

impl From<&native::Checkpoint> for Checkpoint {
    fn from(message: &native::Checkpoint) -> Self {
        Self {
            epoch: message.epoch.0,
            seq: message.seq.0,
            epoch_end: message.epoch_end.0,
            root: message.root.0,
            signatures: signed(&message.signatures),
        }
    }
}

impl ArchivedCheckpoint {
    pub(super) fn native(&self) -> Result<native::Checkpoint, DecodeError> {
        Ok(native::Checkpoint {
            epoch: Epoch(self.epoch.to_native()),
            seq: Seq(self.seq.to_native()),
            root: Digest(self.root),
            epoch_end: Seq(self.epoch_end.to_native()),
            signatures: signatures(&self.signatures)?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct SnapshotVote {
    epoch: u64,
    seq: u64,
    root: [u8; 32],
    signatures: Vec<Signed>,
}

impl From<&native::SnapshotVote> for SnapshotVote {
    fn from(message: &native::SnapshotVote) -> Self {
        Self {
            epoch: message.epoch.0,
            seq: message.seq.0,
            root: message.root.0,
            signatures: signed(&message.signatures),
        }
    }
}

impl ArchivedSnapshotVote {
    pub(super) fn native(&self) -> Result<native::SnapshotVote, DecodeError> {
        Ok(native::SnapshotVote {
            epoch: Epoch(self.epoch.to_native()),
            seq: Seq(self.seq.to_native()),
            root: Digest(self.root),
            signatures: signatures(&self.signatures)?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Status<'a> {
    epoch: u64,
    view: u64,
    stable: u64,
    executed: u64,
    snapshot: u64,
    view_changes: u32,
    is_changing: u8,
    #[rkyv(with = AsVec)]
    proposed: &'a [u64],
    #[rkyv(with = AsVec)]
    prepared: &'a [u64],
    #[rkyv(with = AsVec)]
    committed: &'a [u64],
}

impl<'a> From<&'a native::Status> for Status<'a> {
    fn from(message: &'a native::Status) -> Self {
        let native::Status { epoch, view, changing, stable, executed, snapshot, proposed, prepared, committed } =
            message;
        Self {
            epoch: epoch.0,
            view: view.0,
            stable: stable.0,
            executed: executed.0,
            snapshot: snapshot.0,
            view_changes: changing.unwrap_or_default().bits(),
            is_changing: changing.is_some().into(),
            proposed,
            prepared,
            committed,
        }
    }
}

impl ArchivedStatus<'_> {
    pub(super) fn native(&self) -> Result<native::Status, DecodeError> {
        let map = |words: &ArchivedVec<u64_le>| {
            MAP_WORDS.check(words.len())?;
            Ok::<_, DecodeError>(words.iter().map(|word| word.to_native()).collect())
        };
        let view_changes = ReplicaSet::from_bits(self.view_changes.to_native(), limits::REPLICAS_MAX)
            .ok_or(DecodeError::Replicas(self.view_changes.to_native()))?;
        Ok(native::Status {
            epoch: Epoch(self.epoch.to_native()),
            view: View(self.view.to_native()),
            changing: is_there(self.is_changing)?.then_some(view_changes),
            stable: Seq(self.stable.to_native()),
            executed: Seq(self.executed.to_native()),
            snapshot: Seq(self.snapshot.to_native()),
            proposed: map(&self.proposed)?,
            prepared: map(&self.prepared)?,
            committed: map(&self.committed)?,
        })
    }
}

/// FETCH-SLOT, FETCH-LOG, FETCH-MANIFEST and FETCH-TRAIL.
#[derive(Archive, Serialize)]
pub(super) struct Fetch {
    seq: u64,
}

impl From<&Seq> for Fetch {
    fn from(seq: &Seq) -> Self {
        Self { seq: seq.0 }
    }
}

impl ArchivedFetch {
    pub(super) fn native(&self) -> Seq {
        Seq(self.seq.to_native())
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Step {
    reply_root: [u8; 32],
    delta: [u8; 32],
}

#[derive(Archive, Serialize)]
pub(super) struct Trail {
    seq: u64,
    chain: [u8; 32],
    exec_before: [u8; 32],
    steps: Vec<Step>,
}

impl From<&native::Trail> for Trail {
    fn from(trail: &native::Trail) -> Self {
        let step = |step: &native::Step| Step { reply_root: step.reply_root.0, delta: step.delta.0 };
        Self {
            seq: trail.seq.0,
            chain: trail.chain.0,
            exec_before: trail.exec_before.0,
            steps: trail.steps.iter().map(step).collect(),
        }
    }
}

impl ArchivedTrail {
    pub(super) fn native(&self) -> Result<native::Trail, DecodeError> {
        TRAIL_STEPS.check(self.steps.len())?;
        let step =
            |step: &ArchivedStep| native::Step { reply_root: Digest(step.reply_root), delta: Digest(step.delta) };
        Ok(native::Trail {
            seq: Seq(self.seq.to_native()),
            chain: Digest(self.chain),
            exec_before: Digest(self.exec_before),
            steps: self.steps.iter().map(step).collect(),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct FetchBody {
    seq: u64,
    digest: [u8; 32],
}

impl From<&native::BatchId> for FetchBody {
    fn from(batch: &native::BatchId) -> Self {
        Self { seq: batch.seq.0, digest: batch.digest.0 }
    }
}

impl ArchivedFetchBody {
    pub(super) fn native(&self) -> native::BatchId {
        native::BatchId { seq: Seq(self.seq.to_native()), digest: Digest(self.digest) }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct BatchBody<'a> {
    seq: u64,
    header: BatchHeader,
    #[rkyv(with = AsVec)]
    body: &'a [u8],
}

impl<'a> From<&'a native::BatchBody> for BatchBody<'a> {
    fn from(batch: &'a native::BatchBody) -> Self {
        Self { seq: batch.seq.0, header: (&batch.header).into(), body: batch.body.bytes() }
    }
}

impl ArchivedBatchBody<'_> {
    pub(super) fn native(&self, payload: &Bytes, bounds: RequestBounds) -> Result<native::BatchBody, DecodeError> {
        Ok(native::BatchBody {
            seq: Seq(self.seq.to_native()),
            header: self.header.native(),
            body: Arc::new(Body::parse(payload.slice_ref(&self.body), bounds)?),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct StableSnapshot<'a> {
    certificate: SnapshotVote,
    #[rkyv(with = AsVec)]
    manifest: &'a [u8],
}

impl<'a> StableSnapshot<'a> {
    pub(super) fn new(certificate: &native::SnapshotVote, manifest: &'a [u8]) -> Self {
        Self { certificate: certificate.into(), manifest }
    }
}

impl ArchivedStableSnapshot<'_> {
    pub(super) fn native(
        &self,
        read: impl FnOnce(&[u8]) -> Result<Manifest, DecodeError>,
    ) -> Result<native::StableSnapshot, DecodeError> {
        let certificate = self.certificate.native()?;
        Ok(native::StableSnapshot { certificate, manifest: Arc::new(read(&self.manifest)?) })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct FetchChunk {
    seq: u64,
    index: u32,
    section: u8,
}

impl From<&native::FetchChunk> for FetchChunk {
    fn from(fetch: &native::FetchChunk) -> Self {
        Self { seq: fetch.seq.0, index: fetch.piece.index, section: fetch.piece.section as u8 }
    }
}

impl ArchivedFetchChunk {
    pub(super) fn native(&self) -> Result<native::FetchChunk, DecodeError> {
        let piece = piece(self.section, self.index.to_native())?;
        Ok(native::FetchChunk { seq: Seq(self.seq.to_native()), piece })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Chunk<'a> {
    seq: u64,
    index: u32,
    section: u8,
    has_bytes: u8,
    #[rkyv(with = AsVec)]
    bytes: &'a [u8],
}

impl<'a> From<&'a native::Chunk> for Chunk<'a> {
    fn from(chunk: &'a native::Chunk) -> Self {
        Self {
            seq: chunk.seq.0,
            index: chunk.piece.index,
            section: chunk.piece.section as u8,
            has_bytes: chunk.bytes.is_some().into(),
            bytes: chunk.bytes.as_ref().map_or(&[], |chunk| chunk.bytes()),
        }
    }
}

impl ArchivedChunk<'_> {
    /// The digest is computed here: on the thread that received the bytes.
    pub(super) fn native(&self, payload: &Bytes) -> Result<native::Chunk, DecodeError> {
        CHUNK_BYTES.check(self.bytes.len())?;
        let bytes = is_there(self.has_bytes)?.then(|| ChunkBytes::new(payload.slice_ref(&self.bytes)));
        let piece = piece(self.section, self.index.to_native())?;
        Ok(native::Chunk { seq: Seq(self.seq.to_native()), piece, bytes })
    }
}

fn piece(section: u8, index: u32) -> Result<Piece, DecodeError> {
    let section = Section::from_number(section).ok_or(DecodeError::Section(section))?;
    Ok(Piece { section, index })
}

#[derive(Archive, Serialize)]
pub(super) struct Reply<'a> {
    epoch: u64,
    session: u64,
    req_no: u64,
    seq: u64,
    digest: [u8; 32],
    code: u16,
    has_results: u8,
    #[rkyv(with = AsVec)]
    results: &'a [u8],
}

impl<'a> From<&'a native::Reply> for Reply<'a> {
    fn from(message: &'a native::Reply) -> Self {
        Self {
            epoch: message.epoch.0,
            session: message.session.0,
            req_no: message.req_no.0,
            seq: message.seq.0,
            digest: message.digest.0,
            code: message.code as u16,
            has_results: message.results.is_some().into(),
            results: message.results.as_deref().unwrap_or_default(),
        }
    }
}

impl ArchivedReply<'_> {
    pub(super) fn native(&self, payload: &Bytes) -> Result<native::Reply, DecodeError> {
        let code = self.code.to_native();
        Ok(native::Reply {
            epoch: Epoch(self.epoch.to_native()),
            session: SessionId(self.session.to_native()),
            req_no: RequestNo(self.req_no.to_native()),
            seq: Seq(self.seq.to_native()),
            code: native::Code::from_number(code).ok_or(DecodeError::Code(code))?,
            digest: Digest(self.digest),
            results: is_there(self.has_results)?.then(|| payload.slice_ref(&self.results)),
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Busy {
    request: [u8; 32],
    retry_after_ms: u32,
}

impl From<&native::Busy> for Busy {
    fn from(message: &native::Busy) -> Self {
        Self { request: message.request.0, retry_after_ms: message.retry_after_ms }
    }
}

impl ArchivedBusy {
    pub(super) fn native(&self) -> native::Busy {
        native::Busy { request: Digest(self.request), retry_after_ms: self.retry_after_ms.to_native() }
    }
}

#[derive(Archive, Serialize)]
pub(super) struct InfoQuery {
    pub(super) want_digest: u8,
}

impl ArchivedInfoQuery {
    pub(super) fn want_digest(&self) -> Result<bool, DecodeError> {
        is_there(self.want_digest)
    }
}

#[derive(Archive, Serialize)]
pub(super) struct Counter<'a> {
    value: u64,
    #[rkyv(with = AsVec)]
    name: &'a [u8],
}

#[derive(Archive, Serialize)]
pub(super) struct Info<'a> {
    epoch: u64,
    view: u64,
    executed: u64,
    stable: u64,
    snapshot: u64,
    state_seq: u64,
    cpu_us: u64,
    rss_max_kib: u64,
    state_digest: [u8; 32],
    peers: u32,
    replica: u16,
    has_state: u8,
    #[rkyv(with = AsVec)]
    write_path: &'a [u8],
    #[rkyv(with = AsVec)]
    sealed: &'a [u8],
    #[rkyv(with = AsVec)]
    signatures: &'a [u8],
    counters: Vec<Counter<'a>>,
}

impl<'a> From<&'a native::Info> for Info<'a> {
    fn from(info: &'a native::Info) -> Self {
        let (state_seq, state_digest) = info.state.unwrap_or_default();
        Self {
            epoch: info.epoch.0,
            view: info.view.0,
            executed: info.executed.0,
            stable: info.stable.0,
            snapshot: info.snapshot.0,
            state_seq: state_seq.0,
            cpu_us: info.cpu_us,
            rss_max_kib: info.rss_max_kib,
            state_digest: state_digest.0,
            peers: info.peers,
            replica: info.replica.0,
            has_state: info.state.is_some().into(),
            write_path: info.write_path.as_bytes(),
            sealed: info.sealed.as_bytes(),
            signatures: info.signatures.as_bytes(),
            counters: info
                .counters
                .iter()
                .map(|(name, value)| Counter { value: *value, name: name.as_bytes() })
                .collect(),
        }
    }
}

impl ArchivedInfo<'_> {
    pub(super) fn native(&self) -> Result<native::Info, DecodeError> {
        COUNTERS.check(self.counters.len())?;
        let counter = |counter: &ArchivedCounter<'_>| Ok((text(&counter.name)?, counter.value.to_native()));
        let state = (Seq(self.state_seq.to_native()), Digest(self.state_digest));
        Ok(native::Info {
            replica: ReplicaId(self.replica.to_native()),
            epoch: Epoch(self.epoch.to_native()),
            view: View(self.view.to_native()),
            executed: Seq(self.executed.to_native()),
            stable: Seq(self.stable.to_native()),
            snapshot: Seq(self.snapshot.to_native()),
            state: is_there(self.has_state)?.then_some(state),
            peers: self.peers.to_native(),
            write_path: text(&self.write_path)?,
            sealed: text(&self.sealed)?,
            signatures: text(&self.signatures)?,
            cpu_us: self.cpu_us.to_native(),
            rss_max_kib: self.rss_max_kib.to_native(),
            counters: self.counters.iter().map(counter).collect::<Result<_, DecodeError>>()?,
        })
    }
}

#[derive(Archive, Serialize)]
pub(super) struct ClientJoin {
    public_key: [u8; 32],
    signature: [u8; 64],
    expires_epoch: u64,
    certificate: [u8; 64],
    has_certificate: u8,
}

impl From<&native::ClientJoin> for ClientJoin {
    fn from(message: &native::ClientJoin) -> Self {
        let certificate = message.certificate;
        Self {
            public_key: message.public_key.0,
            signature: message.signature.0,
            expires_epoch: certificate.map_or(0, |certificate| certificate.expires_epoch.0),
            certificate: certificate.map_or([0; 64], |certificate| certificate.signature.0),
            has_certificate: certificate.is_some().into(),
        }
    }
}

impl ArchivedClientJoin {
    pub(super) fn native(&self) -> Result<native::ClientJoin, DecodeError> {
        let certificate = native::ClientCertificate {
            expires_epoch: Epoch(self.expires_epoch.to_native()),
            signature: Signature(self.certificate),
        };
        Ok(native::ClientJoin {
            public_key: PublicKey(self.public_key),
            certificate: is_there(self.has_certificate)?.then_some(certificate),
            signature: Signature(self.signature),
        })
    }
}

fn optional(digest: Option<Digest>) -> (u8, Digest) {
    (digest.is_some().into(), digest.unwrap_or_default())
}

fn is_there(flag: u8) -> Result<bool, DecodeError> {
    match flag {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Flag(other)),
    }
}

fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    TEXT_BYTES.check(bytes.len())?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::Text)
}
