//! Payloads: messages to and from bytes. A REQUEST, a VIEW-CHANGE, a NEW-VIEW, EVIDENCE, RECALL
//! and RECALLED are their canonical bytes; every other
//! payload is one rkyv archive of a plain struct, which lies in `shape`. Decoding checks the archive, copies the few fixed fields, and keeps bodies and
//! results as slices of the payload. Nothing here is ever hashed or signed (X7): archives are not canonical.
//!
//! Kept here: every vector has a bound, on both sides; no input panics, recurses or costs more than in proportion to its
//! length. Signatures and membership are `auth`'s.

mod shape;

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use rkyv::api::{access_with_context, serialize_using};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::ser::{Positional, Serializer, Writer};
use rkyv::util::with_arena;
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Portable, Serialize};

use super::frame::{AlignedBuffer, FrameBuffer, FrameHeader};
use super::message::{CommittedSlot, Kind, Message, NewView, ViewChange};
use super::recall::{Recall, Recalled};
use super::request::{RequestBounds, RequestMalformed, SignedRequest};
use crate::evidence::Evidence;
use crate::ids::Epoch;
use crate::limits::{self, FRAME_ALIGN, FRAME_HEADER_BYTES};
use crate::snapshot::Manifest;

/// Why a payload is no message of its kind. The link that delivered it is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeError {
    /// Cut short, or with pointers that lead out of it.
    #[error("the payload of {len} bytes is no archive of a {kind:?}")]
    Archive {
        /// What it should be.
        kind: Kind,
        /// How long it is.
        len: usize,
    },
    /// Not the canonical bytes of its kind.
    #[error("the payload of {len} bytes is no {kind:?} in canonical bytes")]
    Canonical {
        /// What it should be.
        kind: Kind,
        /// How long it is.
        len: usize,
    },
    /// A vector with more elements than it may ever have.
    #[error("{found} {what}; the most is {most}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A result code that this version does not know.
    #[error("the unknown result code {0}")]
    Code(u16),
    /// The byte that says whether a field is there is neither 0 nor 1.
    #[error("a presence byte of {0}, which must be 0 or 1")]
    Flag(u8),
    /// A set of replicas with a bit that no replica has.
    #[error("a set of replicas {0:#x}, with a bit that no replica has")]
    Replicas(u32),
    /// A section that no snapshot has.
    #[error("the unknown section {0} of a snapshot")]
    Section(u8),
    /// A text that is not UTF-8.
    #[error("a text that is not UTF-8")]
    Text,
    /// A Request, or the body of a batch.
    #[error("a Request or body is malformed: {0}")]
    Request(#[from] RequestMalformed),
}

/// A vector of a payload and how long it may be: checked when it comes in, asserted when it goes out.
struct Vector {
    what: &'static str,
    most: usize,
}

const SIGNERS: Vector = Vector { what: "signatures of replicas", most: limits::REPLICAS_MAX };
const MAP_WORDS: Vector = Vector { what: "words of a window map", most: (limits::WINDOW_MAX / 64) as usize };
const LOG_SLOTS: Vector = Vector { what: "slots of a LOG", most: limits::LOG_SLOTS_MAX };
const CHUNKS: Vector = Vector { what: "chunks of a snapshot", most: limits::SNAPSHOT_CHUNKS_MAX as usize };
const CLIENTS: Vector = Vector { what: "pieces of a client table", most: limits::SNAPSHOT_CLIENTS_MAX as usize };
const CHUNK_BYTES: Vector = Vector { what: "bytes of a CHUNK", most: limits::CHUNK_BYTES_MAX };
const COUNTERS: Vector = Vector { what: "counters of an INFO", most: limits::INFO_COUNTERS_MAX };
const TRAIL_STEPS: Vector = Vector { what: "steps of a TRAIL", most: limits::TRAIL_STEPS_MAX };
const TEXT_BYTES: Vector = Vector { what: "bytes of a text of an INFO", most: limits::INFO_TEXT_BYTES_MAX };

impl Vector {
    fn check(&self, found: usize) -> Result<(), DecodeError> {
        if found <= self.most {
            return Ok(());
        }
        Err(DecodeError::TooMany { what: self.what, found, most: self.most })
    }

    fn assert(&self, len: usize) {
        assert!(len <= self.most, "{len} {}; no peer takes more than {}", self.what, self.most);
    }
}

/// Appends `message` to `out` as one whole frame from a sender in `epoch`. Panics on a vector that no peer would take:
/// what we send is bounded where it is made.
pub fn encode(message: &Message, epoch: Epoch, out: &mut impl FrameBuffer) {
    assert_bounds(message);
    let start = out.as_ref().len();
    out.make_room(payload_estimate(message) + FRAME_HEADER_BYTES + FRAME_ALIGN);
    out.append(&[0; FRAME_HEADER_BYTES]);
    encode_payload(message, out);
    let payload = start + FRAME_HEADER_BYTES;
    let len = out.as_ref().len() - payload;
    out.append(&[0; FRAME_ALIGN][..len.next_multiple_of(FRAME_ALIGN) - len]);
    let len = u32::try_from(len).expect("the limits of all kinds are far below 4 GiB");
    let header = FrameHeader { kind: message.kind(), len, epoch };
    out.as_mut()[start..payload].copy_from_slice(&header.to_bytes());
}

/// What a slot adds to the payload of a LOG or SLOT, at most.
#[must_use]
pub fn slot_bytes(slot: &CommittedSlot) -> usize {
    // The archived struct, one opened vote for each commit, and what aligns them.
    320 + 130 * slot.certificate.commits.len() + slot.body.bytes().len()
}

/// The message in a payload of `kind`. What it keeps of the payload it shares. `bounds` are the cluster's.
pub fn decode(kind: Kind, payload: &Bytes, bounds: RequestBounds) -> Result<Message, DecodeError> {
    let payload = &if kind == Kind::Request { payload.clone() } else { aligned(payload) };
    Ok(match kind {
        Kind::Request => Message::Request(SignedRequest::parse(payload.clone(), bounds)?),
        Kind::Reply => Message::Reply(access::<shape::ArchivedReply<'_>>(kind, payload)?.native(payload)?),
        Kind::Busy => Message::Busy(access::<shape::ArchivedBusy>(kind, payload)?.native()),
        Kind::InfoQuery => {
            let query = access::<shape::ArchivedInfoQuery>(kind, payload)?;
            Message::InfoQuery { want_digest: query.want_digest()? }
        }
        Kind::Info => Message::Info(Box::new(access::<shape::ArchivedInfo<'_>>(kind, payload)?.native()?)),
        Kind::ClientJoin => Message::ClientJoin(access::<shape::ArchivedClientJoin>(kind, payload)?.native()?),
        Kind::PrePrepare => {
            let proposal = access::<shape::ArchivedPrePrepare<'_>>(kind, payload)?;
            Message::PrePrepare(proposal.native(payload, bounds)?)
        }
        Kind::Prepare => Message::Prepare(access::<shape::ArchivedPrepare>(kind, payload)?.native()),
        Kind::Commit => Message::Commit(access::<shape::ArchivedCommit>(kind, payload)?.native()),
        Kind::Checkpoint => Message::Checkpoint(access::<shape::ArchivedCheckpoint>(kind, payload)?.native()?),
        Kind::Snapshot => Message::Snapshot(access::<shape::ArchivedSnapshotVote>(kind, payload)?.native()?),
        Kind::ViewChange => Message::ViewChange(Arc::new(canonical(kind, payload, ViewChange::decode)?)),
        Kind::NewView => Message::NewView(Arc::new(canonical(kind, payload, NewView::decode)?)),
        Kind::Status => Message::Status(access::<shape::ArchivedStatus<'_>>(kind, payload)?.native()?),
        Kind::FetchSlot => Message::FetchSlot(access::<shape::ArchivedFetch>(kind, payload)?.native()),
        Kind::Slot => Message::Slot(access::<shape::ArchivedSlot<'_>>(kind, payload)?.native(payload, bounds)?),
        Kind::FetchBody => Message::FetchBody(access::<shape::ArchivedFetchBody>(kind, payload)?.native()),
        Kind::Body => Message::Body(access::<shape::ArchivedBatchBody<'_>>(kind, payload)?.native(payload, bounds)?),
        Kind::FetchLog => Message::FetchLog(access::<shape::ArchivedFetch>(kind, payload)?.native()),
        Kind::Log => Message::Log(access::<shape::ArchivedLog<'_>>(kind, payload)?.native(payload, bounds)?),
        Kind::FetchManifest => Message::FetchManifest(access::<shape::ArchivedFetch>(kind, payload)?.native()),
        Kind::Manifest => {
            let snapshot = access::<shape::ArchivedStableSnapshot<'_>>(kind, payload)?;
            Message::Manifest(snapshot.native(|bytes| canonical(kind, bytes, Manifest::decode))?)
        }
        Kind::FetchChunk => Message::FetchChunk(access::<shape::ArchivedFetchChunk>(kind, payload)?.native()?),
        Kind::Chunk => Message::Chunk(access::<shape::ArchivedChunk<'_>>(kind, payload)?.native(payload)?),
        Kind::FetchTrail => Message::FetchTrail(access::<shape::ArchivedFetch>(kind, payload)?.native()),
        Kind::Trail => Message::Trail(access::<shape::ArchivedTrail>(kind, payload)?.native()?),
        Kind::Evidence => Message::Evidence(Arc::new(canonical(kind, payload, Evidence::decode)?)),
        Kind::Recall => Message::Recall(canonical(kind, payload, Recall::decode)?),
        Kind::Recalled => Message::Recalled(canonical(kind, payload, Recalled::decode)?),
    })
}

fn assert_bounds(message: &Message) {
    match message {
        Message::Checkpoint(checkpoint) => SIGNERS.assert(checkpoint.signatures.len()),
        Message::Snapshot(vote) => SIGNERS.assert(vote.signatures.len()),
        Message::Status(status) => {
            let maps = [&status.proposed, &status.prepared, &status.committed];
            maps.into_iter().for_each(|map| MAP_WORDS.assert(map.len()));
        }
        Message::Recall(recall) => {
            [&recall.voted, &recall.certified].into_iter().for_each(|map| MAP_WORDS.assert(map.len()));
        }
        Message::Slot(slot) => SIGNERS.assert(slot.certificate.commits.len()),
        Message::Log(slots) => {
            LOG_SLOTS.assert(slots.len());
            slots.iter().for_each(|slot| SIGNERS.assert(slot.certificate.commits.len()));
        }
        Message::Info(info) => {
            COUNTERS.assert(info.counters.len());
            let names = info.counters.iter().map(|(name, _)| name);
            let texts = [&info.write_path, &info.sealed, &info.signatures];
            names.chain(texts).for_each(|text| TEXT_BYTES.assert(text.len()));
        }
        Message::Manifest(snapshot) => {
            SIGNERS.assert(snapshot.certificate.signatures.len());
            CHUNKS.assert(snapshot.manifest.state.len());
            CLIENTS.assert(snapshot.manifest.clients.len());
        }
        Message::Chunk(chunk) => CHUNK_BYTES.assert(chunk.bytes.as_ref().map_or(0, |chunk| chunk.bytes().len())),
        Message::Trail(trail) => TRAIL_STEPS.assert(trail.steps.len()),
        Message::Request(_)
        | Message::Reply(_)
        | Message::Busy(_)
        | Message::InfoQuery { .. }
        | Message::ClientJoin(_)
        | Message::PrePrepare(_)
        | Message::Prepare(_)
        | Message::Commit(_)
        | Message::ViewChange(_)
        | Message::NewView(_)
        | Message::FetchSlot(_)
        | Message::FetchBody(_)
        | Message::Body(_)
        | Message::FetchLog(_)
        | Message::FetchManifest(_)
        | Message::FetchChunk(_)
        | Message::FetchTrail(_)
        | Message::Evidence(_)
        | Message::Recalled(_) => {}
    }
}

/// What `message` takes, near enough that a large one is not moved while it is written.
fn payload_estimate(message: &Message) -> usize {
    /// The fixed fields of any message, and the vectors that do not grow with what clients send.
    const FIXED: usize = 512;
    match message {
        Message::Request(request) => request.bytes.len(),
        Message::Reply(reply) => FIXED + reply.results.as_ref().map_or(0, Bytes::len),
        Message::PrePrepare(proposal) => FIXED + proposal.body.bytes().len(),
        Message::Slot(slot) => FIXED + slot_bytes(slot),
        Message::Log(slots) => FIXED + slots.iter().map(slot_bytes).sum::<usize>(),
        Message::Body(batch) => FIXED + batch.body.bytes().len(),
        Message::ViewChange(view_change) => view_change.bytes_at_most(),
        Message::NewView(new_view) => new_view.bytes_at_most(),
        Message::Manifest(snapshot) => FIXED + snapshot.manifest.encoded_len(),
        Message::Chunk(chunk) => FIXED + chunk.bytes.as_ref().map_or(0, |chunk| chunk.bytes().len()),
        Message::Trail(trail) => FIXED + 64 * trail.steps.len(),
        Message::Evidence(evidence) => evidence.bytes_at_most(),
        Message::Recalled(recalled) => recalled.bytes_at_most(),
        Message::Busy(_)
        | Message::InfoQuery { .. }
        | Message::Info(_)
        | Message::ClientJoin(_)
        | Message::Prepare(_)
        | Message::Commit(_)
        | Message::Checkpoint(_)
        | Message::Snapshot(_)
        | Message::Status(_)
        | Message::FetchSlot(_)
        | Message::FetchBody(_)
        | Message::FetchLog(_)
        | Message::FetchManifest(_)
        | Message::FetchChunk(_)
        | Message::FetchTrail(_)
        | Message::Recall(_) => FIXED,
    }
}

fn encode_payload(message: &Message, out: &mut impl FrameBuffer) {
    match message {
        Message::Request(request) => out.append(&request.bytes),
        Message::Reply(reply) => write(&shape::Reply::from(reply), out),
        Message::Busy(busy) => write(&shape::Busy::from(busy), out),
        Message::InfoQuery { want_digest } => write(&shape::InfoQuery { want_digest: (*want_digest).into() }, out),
        Message::Info(info) => write(&shape::Info::from(&**info), out),
        Message::ClientJoin(join) => write(&shape::ClientJoin::from(join), out),
        Message::PrePrepare(proposal) => write(&shape::PrePrepare::from(proposal), out),
        Message::Prepare(prepare) => write(&shape::Prepare::from(prepare), out),
        Message::Commit(commit) => write(&shape::Commit::from(commit), out),
        Message::Checkpoint(checkpoint) => write(&shape::Checkpoint::from(checkpoint), out),
        Message::Snapshot(vote) => write(&shape::SnapshotVote::from(vote), out),
        Message::ViewChange(view_change) => out.append(&view_change.encode()),
        Message::NewView(new_view) => out.append(&new_view.encode()),
        Message::Evidence(evidence) => out.append(&evidence.encode()),
        Message::Recall(recall) => out.append(&recall.encode()),
        Message::Recalled(recalled) => out.append(&recalled.encode()),
        Message::Status(status) => write(&shape::Status::from(status), out),
        Message::FetchSlot(seq) | Message::FetchLog(seq) | Message::FetchManifest(seq) | Message::FetchTrail(seq) => {
            write(&shape::Fetch::from(seq), out);
        }
        Message::Slot(slot) => write(&shape::Slot::from(slot), out),
        Message::FetchBody(batch) => write(&shape::FetchBody::from(batch), out),
        Message::Body(batch) => write(&shape::BatchBody::from(batch), out),
        Message::Log(slots) => write(&shape::Log::from(slots), out),
        Message::Manifest(snapshot) => {
            let manifest = snapshot.manifest.encode();
            write(&shape::StableSnapshot::new(&snapshot.certificate, &manifest), out);
        }
        Message::FetchChunk(fetch) => write(&shape::FetchChunk::from(fetch), out),
        Message::Chunk(chunk) => write(&shape::Chunk::from(chunk), out),
        Message::Trail(trail) => write(&shape::Trail::from(trail), out),
    }
}

/// What `bytes`, a payload of `kind` or a part of one, are in canonical bytes.
fn canonical<T, E>(kind: Kind, bytes: &[u8], read: impl FnOnce(&[u8]) -> Result<T, E>) -> Result<T, DecodeError> {
    read(bytes).map_err(|_| DecodeError::Canonical { kind, len: bytes.len() })
}

/// Where rkyv writes an archive: the end of a buffer, counted from where the payload starts.
struct Payload<'a> {
    out: &'a mut dyn FrameBuffer,
    start: usize,
}

impl Positional for Payload<'_> {
    fn pos(&self) -> usize {
        (*self.out).as_ref().len() - self.start
    }
}

impl<E> Writer<E> for Payload<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.out.append(bytes);
        Ok(())
    }
}

type ArchiveSerializer<'out, 'arena> = Strategy<Serializer<Payload<'out>, ArenaHandle<'arena>, ()>, Failure>;

fn write<T>(shape: &T, out: &mut impl FrameBuffer)
where
    T: for<'out, 'arena> Serialize<ArchiveSerializer<'out, 'arena>>,
{
    let start = out.as_ref().len();
    with_arena(|arena| {
        let mut serializer = Serializer::new(Payload { out, start }, arena.acquire(), ());
        serialize_using::<_, Failure>(shape, &mut serializer)
            .expect("writing to memory, far below the reach of an offset");
    });
}

type ArchiveCheck<'a> = Validator<ArchiveValidator<'a>, ()>;

/// The archive that `payload` is, once all of it was checked.
fn access<T>(kind: Kind, payload: &[u8]) -> Result<&T, DecodeError>
where
    T: Portable + for<'a> CheckBytes<Strategy<ArchiveCheck<'a>, Failure>>,
{
    /// A LOG, its slots, the votes and the body of each: nothing lies deeper.
    const DEPTH: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");
    let mut check = Validator::new(ArchiveValidator::with_max_depth(payload, Some(DEPTH)), ());
    access_with_context::<T, _, Failure>(payload, &mut check)
        .map_err(|Failure| DecodeError::Archive { kind, len: payload.len() })
}

/// `payload`, or a copy where it does not begin at a multiple of 16: the archive's integers lie at theirs.
fn aligned(payload: &Bytes) -> Bytes {
    if payload.as_ptr().align_offset(FRAME_ALIGN) == 0 {
        return payload.clone();
    }
    let mut copy = AlignedBuffer::with_capacity(payload.len());
    copy.append(payload);
    copy.freeze()
}

#[cfg(test)]
pub(super) mod tests;
