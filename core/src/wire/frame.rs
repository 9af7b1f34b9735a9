//! Frames: a header of 32 bytes, a payload, zeros up to a multiple of 16 (SHAPES §5). Here are the header, what may come
//! from whom and how long it may be, and [`FrameCutter`], which makes frames of a stream of bytes. What a payload means
//! is in [`super::archive`]; how bytes are sealed on their way is the link's.
//!
//! ```text
//!  0  magic    u32  "BFT1"
//!  4  version  u16
//!  6  kind     u16
//!  8  len      u32  of the payload
//! 12  crc      u32  CRC-32C of bytes 0..12 and 16..32
//! 16  epoch    u64  the sender's
//! 24  reserved u64  zero
//! ```
//!
//! Kept here: no byte of a payload is taken before its kind, its sender and its length are found good; a payload starts
//! at a multiple of 16 in memory; a frame that somebody keeps keeps no other frame's bytes alive.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::message::Kind;
use crate::config::ClusterConfig;
use crate::ids::Epoch;
use crate::limits::{self, FRAME_ALIGN, FRAME_HEADER_BYTES};

/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"BFT1";

/// The version of headers and payloads. From the first release on, a change of any byte of `wire_bytes_are_frozen`
/// raises it.
pub const WIRE_VERSION: u16 = 1;

/// What the peer of a link is to the one who reads from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// A replica, to a replica.
    Replica,
    /// A client, to a replica.
    Client,
    /// A replica, to a client.
    Server,
}

/// Why a stream of bytes is no stream of frames. The stream cannot go on after it: close the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FrameError {
    /// The header does not begin with [`MAGIC`].
    #[error("a frame begins with {0:02x?} instead of \"BFT1\": the streams of the two ends no longer agree")]
    Magic([u8; 4]),
    /// Another wire version than the link's.
    #[error("a frame of wire version {0} on a link of version {WIRE_VERSION}")]
    Version(u16),
    /// The header does not match its checksum.
    #[error("a frame header with CRC {found:#010x}, where its bytes give {computed:#010x}")]
    Checksum {
        /// What the header says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The reserved field is not zero.
    #[error("a frame header with {0:#x} in its reserved field, which must be zero")]
    Reserved(u64),
    /// A kind that this version does not know.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u16),
    /// A kind that this peer may not send.
    #[error("a {kind:?} from a {peer:?}, which may not send one")]
    NotAllowed {
        /// What came.
        kind: Kind,
        /// From whom.
        peer: PeerRole,
    },
    /// Longer than this kind may be in this cluster.
    #[error("a {kind:?} of {len} bytes; this cluster allows {limit}")]
    TooLong {
        /// What came.
        kind: Kind,
        /// How long its payload is.
        len: u32,
        /// How long it may be.
        limit: u32,
    },
    /// The bytes between the payload and the next frame are not zero.
    #[error("a {0:?} whose padding is not zero")]
    Padding(Kind),
}

/// How long the payload of each kind may be in a cluster, and who may send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    request: u32,
    reply: u32,
    batch: u32,
    log: u32,
    view_change: u32,
    new_view: u32,
}

impl FrameLimits {
    /// The limits that follow from a cluster's configuration.
    #[must_use]
    pub fn new(config: &ClusterConfig) -> Self {
        let params = config.params();
        let batch = params.batch_bytes_max as usize + limits::PRE_PREPARE_FRAME_SLACK;
        let lengths = 4 * params.request_operations_max as usize;
        let bounded = |bytes: usize| u32::try_from(bytes).expect("every limit is far below 4 GiB");
        Self {
            request: bounded(params.request_bytes_max as usize + limits::REQUEST_FRAME_SLACK),
            reply: bounded(params.reply_bytes_max as usize + lengths + limits::REPLY_FRAME_SLACK),
            batch: bounded(batch),
            // One slot always fits, whatever batches the cluster allows.
            log: bounded(limits::LOG_FRAME_BYTES.max(batch)),
            view_change: bounded(limits::view_change_bytes(config.n(), params.window)),
            new_view: bounded(limits::new_view_bytes(config.n(), params.window)),
        }
    }

    /// How long a payload of `kind` from `peer` may be; `None`: it may not come from there at all.
    #[must_use]
    pub fn payload_max(&self, kind: Kind, peer: PeerRole) -> Option<u32> {
        senders(kind).contains(&peer).then_some(self.of(kind))
    }

    /// The largest whole frame that may come from `peer`.
    #[must_use]
    pub fn frame_max(&self, peer: PeerRole) -> usize {
        let payload = Kind::ALL.into_iter().filter_map(|kind| self.payload_max(kind, peer)).max();
        frame_bytes(payload.expect("every peer may send something"))
    }

    fn of(&self, kind: Kind) -> u32 {
        match kind {
            Kind::Request => self.request,
            Kind::Reply => self.reply,
            Kind::PrePrepare | Kind::Slot | Kind::Body => self.batch,
            Kind::Log => self.log,
            Kind::ViewChange => self.view_change,
            Kind::NewView => self.new_view,
            Kind::Manifest => limits::MANIFEST_FRAME_BYTES as u32,
            Kind::Chunk => (limits::CHUNK_BYTES_MAX + limits::CHUNK_FRAME_SLACK) as u32,
            Kind::Trail => limits::TRAIL_FRAME_BYTES as u32,
            Kind::Evidence => limits::EVIDENCE_BYTES as u32,
            Kind::Busy
            | Kind::InfoQuery
            | Kind::Info
            | Kind::ClientJoin
            | Kind::Prepare
            | Kind::Commit
            | Kind::Checkpoint
            | Kind::Snapshot
            | Kind::Status
            | Kind::FetchSlot
            | Kind::FetchBody
            | Kind::FetchLog
            | Kind::FetchManifest
            | Kind::FetchChunk
            | Kind::FetchTrail => limits::SMALL_FRAME_BYTES as u32,
        }
    }
}

/// Which peers may send a kind, at least one: the same table on every link of every cluster.
#[must_use]
pub fn senders(kind: Kind) -> &'static [PeerRole] {
    match kind {
        Kind::Request => &[PeerRole::Client, PeerRole::Replica],
        Kind::InfoQuery | Kind::ClientJoin => &[PeerRole::Client],
        Kind::Reply | Kind::Busy | Kind::Info => &[PeerRole::Server],
        Kind::PrePrepare
        | Kind::Prepare
        | Kind::Commit
        | Kind::Checkpoint
        | Kind::Snapshot
        | Kind::ViewChange
        | Kind::NewView
        | Kind::Status
        | Kind::FetchSlot
        | Kind::Slot
        | Kind::FetchBody
        | Kind::Body
        | Kind::FetchLog
        | Kind::Log
        | Kind::FetchManifest
        | Kind::Manifest
        | Kind::FetchChunk
        | Kind::Chunk
        | Kind::FetchTrail
        | Kind::Trail
        | Kind::Evidence => &[PeerRole::Replica],
    }
}

/// Whether what is decoded from a payload of this kind holds slices of it. Such a payload gets memory of its own, so
/// that whoever keeps a small Request does not keep everything that came with it.
pub(super) fn is_kept(kind: Kind) -> bool {
    match kind {
        Kind::Request | Kind::Reply | Kind::PrePrepare | Kind::Slot | Kind::Body | Kind::Log | Kind::Chunk => true,
        Kind::Busy
        | Kind::InfoQuery
        | Kind::Info
        | Kind::ClientJoin
        | Kind::Prepare
        | Kind::Commit
        | Kind::Checkpoint
        | Kind::Snapshot
        | Kind::ViewChange
        | Kind::NewView
        | Kind::Status
        | Kind::FetchSlot
        | Kind::FetchBody
        | Kind::FetchLog
        | Kind::FetchManifest
        | Kind::Manifest
        | Kind::FetchChunk
        | Kind::FetchTrail
        | Kind::Trail
        | Kind::Evidence => false,
    }
}

/// Header, payload and padding of a payload of `len` bytes.
fn frame_bytes(len: u32) -> usize {
    FRAME_HEADER_BYTES + (len as usize).next_multiple_of(FRAME_ALIGN)
}

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: Kind,
    /// Bytes of the payload, without padding.
    pub len: u32,
    /// The sender's configuration.
    pub epoch: Epoch,
}

impl FrameHeader {
    /// Reads a header and checks that a frame like this may come from `peer`.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES], peer: PeerRole, limits: &FrameLimits) -> Result<Self, FrameError> {
        let magic = field(bytes, 0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let version = u16::from_le_bytes(field(bytes, 4));
        if version != WIRE_VERSION {
            return Err(FrameError::Version(version));
        }
        let (found, computed) = (u32::from_le_bytes(field(bytes, 12)), checksum(bytes));
        if found != computed {
            return Err(FrameError::Checksum { found, computed });
        }
        let reserved = u64::from_le_bytes(field(bytes, 24));
        if reserved != 0 {
            return Err(FrameError::Reserved(reserved));
        }
        let number = u16::from_le_bytes(field(bytes, 6));
        let kind = Kind::from_number(number).ok_or(FrameError::UnknownKind(number))?;
        let limit = limits.payload_max(kind, peer).ok_or(FrameError::NotAllowed { kind, peer })?;
        let len = u32::from_le_bytes(field(bytes, 8));
        if len > limit {
            return Err(FrameError::TooLong { kind, len, limit });
        }
        Ok(Self { kind, len, epoch: Epoch(u64::from_le_bytes(field(bytes, 16))) })
    }

    /// The header in bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&WIRE_VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Bytes of the whole frame: header, payload and padding.
    #[must_use]
    pub fn frame_bytes(self) -> usize {
        frame_bytes(self.len)
    }
}

fn field<const N: usize>(bytes: &[u8; FRAME_HEADER_BYTES], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("every field lies inside the header")
}

/// CRC-32C of a header without the checksum itself.
fn checksum(bytes: &[u8; FRAME_HEADER_BYTES]) -> u32 {
    let mut covered = [0; FRAME_HEADER_BYTES - 4];
    covered[..12].copy_from_slice(&bytes[..12]);
    covered[12..].copy_from_slice(&bytes[16..]);
    crc_fast::crc32_iscsi(&covered)
}

/// Where frames are encoded to: a `Vec<u8>`, or a `BytesMut` from which [`BytesMut::split`] and `freeze` make one
/// `Bytes` for all links, over memory that is used again when they are done with it.
pub trait FrameBuffer: AsRef<[u8]> + AsMut<[u8]> {
    /// Makes room for `additional` bytes.
    fn make_room(&mut self, additional: usize);
    /// Appends `bytes`.
    fn append(&mut self, bytes: &[u8]);
}

impl FrameBuffer for Vec<u8> {
    fn make_room(&mut self, additional: usize) {
        self.reserve(additional);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl FrameBuffer for BytesMut {
    fn make_room(&mut self, additional: usize) {
        self.reserve(additional);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Memory whose contents start at a multiple of [`FRAME_ALIGN`].
#[derive(Debug, Default)]
pub(super) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    /// Room for `capacity` bytes; none of it is touched.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let exact = Vec::<u8>::with_capacity(capacity);
        if exact.as_ptr().align_offset(FRAME_ALIGN) == 0 {
            return Self { bytes: exact, start: 0 };
        }
        // Allocators align to 16 from 16 bytes on, as a rule; where one does not, the start is moved up.
        let mut bytes = Vec::<u8>::with_capacity(capacity + FRAME_ALIGN - 1);
        let start = bytes.as_ptr().align_offset(FRAME_ALIGN);
        bytes.resize(start, 0);
        Self { bytes, start }
    }

    /// Appends `more`, for which there must be room: moving the bytes could lose the alignment.
    pub(super) fn append(&mut self, more: &[u8]) {
        assert!(more.len() <= self.bytes.capacity() - self.bytes.len(), "an aligned buffer never grows");
        self.bytes.extend_from_slice(more);
    }

    pub(super) fn freeze(self) -> Bytes {
        let mut bytes = Bytes::from(self.bytes);
        bytes.advance(self.start);
        bytes
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// Makes frames of a stream of bytes, cut anywhere. Holds one unfinished frame, never longer than its kind may be, and
/// the frames that were pushed and not yet taken. Memory for a frame is set aside when its header is found good, and
/// touched as its bytes come.
#[derive(Debug)]
pub struct FrameCutter {
    peer: PeerRole,
    limits: FrameLimits,
    /// The header of the unfinished frame, as far as it came.
    head: [u8; FRAME_HEADER_BYTES],
    /// Bytes of the unfinished frame that came, over header, payload and padding.
    taken: usize,
    /// What `head` says, once it is whole.
    header: Option<FrameHeader>,
    payload: AlignedBuffer,
    ready: VecDeque<(FrameHeader, Bytes)>,
    failed: Option<FrameError>,
}

impl FrameCutter {
    /// Places for finished frames that are kept between two pushes.
    const READY_KEPT: usize = 64;

    /// A cutter for what comes from `peer`, at the beginning of the stream.
    #[must_use]
    pub fn new(peer: PeerRole, limits: FrameLimits) -> Self {
        Self {
            peer,
            limits,
            head: [0; FRAME_HEADER_BYTES],
            taken: 0,
            header: None,
            payload: AlignedBuffer::default(),
            ready: VecDeque::new(),
            failed: None,
        }
    }

    /// Takes the next bytes of the stream. After an error they are dropped.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while self.failed.is_none() && !bytes.is_empty() {
            let taken = if self.taken == 0 { self.take_run(&mut bytes) } else { Ok(()) };
            if let Err(error) = taken.and_then(|()| self.take(&mut bytes)) {
                self.failed = Some(error);
            }
        }
    }

    /// The next whole frame, its padding checked; `None` until more bytes come. What came before an error is given
    /// first, then the error, for ever.
    #[allow(clippy::should_implement_trait, reason = "the stream has errors and goes on after `None`")]
    pub fn next(&mut self) -> Result<Option<(FrameHeader, Bytes)>, FrameError> {
        let frame = self.ready.pop_front();
        if self.ready.is_empty() {
            self.ready.shrink_to(Self::READY_KEPT);
        }
        match (frame, self.failed) {
            (Some(frame), _) => Ok(Some(frame)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// Takes the whole frames at the front of `bytes` whose payloads nobody keeps: one copy into one piece of memory.
    fn take_run(&mut self, bytes: &mut &[u8]) -> Result<(), FrameError> {
        let first = self.ready.len();
        let mut end = 0;
        let outcome = loop {
            match self.transient_frame(&bytes[end..]) {
                Ok(Some(header)) => {
                    self.ready.push_back((header, Bytes::new()));
                    end += header.frame_bytes();
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let (run, rest) = bytes.split_at(end);
        *bytes = rest;
        if !run.is_empty() {
            let mut buffer = AlignedBuffer::with_capacity(run.len());
            buffer.append(run);
            let run = buffer.freeze();
            let mut at = 0;
            for (header, payload) in self.ready.range_mut(first..) {
                let start = at + FRAME_HEADER_BYTES;
                *payload = run.slice(start..start + header.len as usize);
                at += header.frame_bytes();
            }
        }
        outcome
    }

    /// The header of the frame that `bytes` begins with, if it is all there and nobody keeps such a payload.
    fn transient_frame(&self, bytes: &[u8]) -> Result<Option<FrameHeader>, FrameError> {
        let Some(head) = bytes.first_chunk() else { return Ok(None) };
        let header = FrameHeader::parse(head, self.peer, &self.limits)?;
        if is_kept(header.kind) {
            return Ok(None);
        }
        let Some(frame) = bytes.get(..header.frame_bytes()) else { return Ok(None) };
        check_padding(header.kind, &frame[FRAME_HEADER_BYTES + header.len as usize..])?;
        Ok(Some(header))
    }

    /// Takes what `bytes` has of the next part of the unfinished frame: header, payload or padding.
    fn take(&mut self, bytes: &mut &[u8]) -> Result<(), FrameError> {
        if let Some(header) = self.header {
            self.take_body(header, bytes)?;
        } else {
            self.take_header(bytes)?;
        }
        if let Some(header) = self.header.take_if(|header| self.taken == header.frame_bytes()) {
            self.ready.push_back((header, std::mem::take(&mut self.payload).freeze()));
            self.taken = 0;
        }
        Ok(())
    }

    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<(), FrameError> {
        let part = split_front(bytes, FRAME_HEADER_BYTES - self.taken);
        self.head[self.taken..self.taken + part.len()].copy_from_slice(part);
        self.taken += part.len();
        if self.taken == FRAME_HEADER_BYTES {
            let header = FrameHeader::parse(&self.head, self.peer, &self.limits)?;
            self.payload = AlignedBuffer::with_capacity(header.len as usize);
            self.header = Some(header);
        }
        Ok(())
    }

    fn take_body(&mut self, header: FrameHeader, bytes: &mut &[u8]) -> Result<(), FrameError> {
        let payload_left = header.len as usize - self.payload.len();
        let part = if payload_left > 0 {
            let part = split_front(bytes, payload_left);
            self.payload.append(part);
            part
        } else {
            let part = split_front(bytes, header.frame_bytes() - self.taken);
            check_padding(header.kind, part)?;
            part
        };
        self.taken += part.len();
        Ok(())
    }
}

/// Splits off at most `len` bytes of the front.
fn split_front<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    front
}

fn check_padding(kind: Kind, padding: &[u8]) -> Result<(), FrameError> {
    if padding.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(FrameError::Padding(kind)) }
}

#[cfg(test)]
mod tests;
