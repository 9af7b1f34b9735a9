//! What a replica writes down before it speaks (PROTOCOL §11, SHAPES §6): one type each, and their canonical bytes.
//! Records carry no check of their own: the group's covers them. Whoever reads one back by [`read_record`] compares its
//! body with the digest in it.
//!
//! ```text
//! header 32: kind u16 | flags u16 | len u32 | epoch u64 | view u64 | seq u64; payload; zeros to a multiple of 16
//! ```

use std::fmt;
use std::sync::Arc;

use crate::config::ProtocolParams;
use crate::evidence::Evidence;
use crate::ids::{Digest, Epoch, ReplicaId, Seq, Signature, View};
use crate::limits::{REPLICAS_MAX, evidence_share_bytes, new_view_bytes};
use crate::wire::canonical::{NotCanonical, Reader};
use crate::wire::message::{
    Ballot, BatchHeader, Checkpoint, CommitCertificate, NewView, Position, PreparedCertificate, SnapshotVote,
};
use bytes::Bytes;

use super::block::BlockBuf;

/// A record's header.
pub const RECORD_HEADER_BYTES: usize = 32;
/// What records are padded to.
pub const RECORD_ALIGN: usize = 16;
/// The payload ends with a body.
const FLAG_BODY: u16 = 1;

const POSITION_BYTES: usize = 32;
const BALLOT_BYTES: usize = 96;
const BATCH_HEADER_BYTES: usize = 52;
const SIGNATURE_BYTES: usize = 2 + 64;
const PROPOSAL_BYTES: usize = POSITION_BYTES + BALLOT_BYTES + BATCH_HEADER_BYTES;
const PREPARE_BYTES: usize = 2 + BALLOT_BYTES;
const OPENING_BYTES: usize = 32;
const COMMIT_BYTES: usize = PREPARE_BYTES + OPENING_BYTES;

/// The kind of a journal record. The numbers are the journal's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
#[allow(missing_docs, reason = "each is named after its record")]
pub enum RecordKind {
    Vote = 1,
    Cert = 2,
    Promise = 3,
    NewView = 4,
    Committed = 5,
    CkptVote = 6,
    Stable = 7,
    SnapVote = 8,
    SnapStable = 9,
    Epoch = 10,
    Evidence = 11,
}

impl RecordKind {
    /// The kind of this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        const ALL: [RecordKind; 11] = [
            RecordKind::Vote,
            RecordKind::Cert,
            RecordKind::Promise,
            RecordKind::NewView,
            RecordKind::Committed,
            RecordKind::CkptVote,
            RecordKind::Stable,
            RecordKind::SnapVote,
            RecordKind::SnapStable,
            RecordKind::Epoch,
            RecordKind::Evidence,
        ];
        ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// This replica's vote for a batch: what it proposed (P1) or prepared (P2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// For what.
    pub position: Position,
    /// The primary's ballot in the PRE-PREPARE.
    pub proposal: Ballot,
    /// The batch's header.
    pub header: BatchHeader,
    /// The batch's body, bytes as they travel; `None` where an earlier VOTE at the same Seq holds it.
    pub body: Option<Bytes>,
}

/// A batch is committed, and where its body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The proof.
    pub certificate: Arc<CommitCertificate>,
    /// The batch's body; `None` where a VOTE at the same Seq holds it.
    pub body: Option<Bytes>,
}

/// A record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// P1, P2.
    Vote(Vote),
    /// A prepared certificate, P3.
    Cert(PreparedCertificate),
    /// What began a view: at its primary before anyone else hears of it, P7.
    NewView(Arc<NewView>),
    /// A commit certificate. Has no flush of its own.
    Committed(Committed),
    /// The root that this replica signs at a checkpoint, P5.
    CkptVote {
        /// The configuration.
        epoch: Epoch,
        /// The checkpoint's Seq.
        seq: Seq,
        /// The root.
        root: Digest,
    },
    /// The root that this replica signs for a snapshot, P5s.
    SnapVote {
        /// The configuration.
        epoch: Epoch,
        /// The snapshot's Seq.
        seq: Seq,
        /// The root.
        root: Digest,
    },
    /// A stable snapshot's certificate, P6s.
    SnapStable(SnapshotVote),
    /// A stable checkpoint's certificate, for peers that lag; the own one lies in the superblock.
    Stable(Checkpoint),
    /// Proof that a replica broke the protocol, checked.
    Evidence(Arc<Evidence>),
}

impl Record {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Vote(_) => RecordKind::Vote,
            Self::Cert(_) => RecordKind::Cert,
            Self::NewView(_) => RecordKind::NewView,
            Self::Committed(_) => RecordKind::Committed,
            Self::CkptVote { .. } => RecordKind::CkptVote,
            Self::SnapVote { .. } => RecordKind::SnapVote,
            Self::SnapStable(_) => RecordKind::SnapStable,
            Self::Stable(_) => RecordKind::Stable,
            Self::Evidence(_) => RecordKind::Evidence,
        }
    }

    /// Whether anybody waits for this record to be durable. For a commit certificate nobody does: what it says can be
    /// fetched again, and what follows from it has records of its own.
    #[must_use]
    pub fn has_own_flush(&self) -> bool {
        match self {
            Self::Committed(_) => false,
            Self::Vote(_)
            | Self::Cert(_)
            | Self::NewView(_)
            | Self::CkptVote { .. }
            | Self::SnapVote { .. }
            | Self::SnapStable(_)
            | Self::Stable(_)
            | Self::Evidence(_) => true,
        }
    }

    /// Epoch, view and Seq for the record's header; view 0 where a record has none.
    #[must_use]
    pub fn place(&self) -> (Epoch, View, Seq) {
        let of = |at: &Position| (at.epoch, at.view, at.seq);
        match self {
            Self::Vote(vote) => of(&vote.position),
            Self::Cert(cert) => of(&cert.position),
            Self::NewView(new_view) => (new_view.epoch, new_view.view, Seq(0)),
            Self::Committed(committed) => of(&committed.certificate.position),
            Self::CkptVote { epoch, seq, .. } | Self::SnapVote { epoch, seq, .. } => (*epoch, View(0), *seq),
            Self::SnapStable(vote) => (vote.epoch, View(0), vote.seq),
            Self::Stable(vote) => (vote.epoch, View(0), vote.seq),
            Self::Evidence(evidence) => {
                let (view, seq) = evidence.proof.place();
                (evidence.epoch, view, seq)
            }
        }
    }

    /// Bytes that [`Self::encode`] appends: a multiple of [`RECORD_ALIGN`].
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        (RECORD_HEADER_BYTES + self.payload_len()).next_multiple_of(RECORD_ALIGN)
    }

    /// Appends header, payload and padding.
    pub fn encode(&self, out: &mut BlockBuf) {
        let at = out.len();
        let (epoch, view, seq) = self.place();
        let len = self.payload_len();
        out.put_u16(self.kind() as u16);
        out.put_u16(if self.body().is_some() { FLAG_BODY } else { 0 });
        out.put_u32(u32::try_from(len).expect("a record fits a segment"));
        out.put_u64(epoch.0);
        out.put_u64(view.0);
        out.put_u64(seq.0);
        self.put_payload(out);
        assert_eq!(out.len() - at, RECORD_HEADER_BYTES + len, "a payload is as long as it said");
        out.pad_to(RECORD_ALIGN);
    }

    /// Reads the payload that `header` stands before; a body stays a slice of it.
    pub fn decode(header: &RecordHeader, payload: &Bytes) -> Result<Self, RecordInvalid> {
        let at = header.place;
        let place = |digest| Position { epoch: at.0, view: at.1, seq: at.2, digest };
        let mut reader = Reader::new(payload);
        let record = match header.kind {
            RecordKind::Vote => {
                let position = place(Digest(reader.array()?));
                let (proposal, header) = (Ballot::read(&mut reader)?, BatchHeader::read(&mut reader)?);
                Self::Vote(Vote { position, proposal, header, body: None })
            }
            RecordKind::Cert => {
                let position = place(Digest(reader.array()?));
                let (proposal, header) = (Ballot::read(&mut reader)?, BatchHeader::read(&mut reader)?);
                let prepares = read_list(&mut reader, |reader| Ok((read_replica(reader)?, Ballot::read(reader)?)))?;
                Self::Cert(PreparedCertificate { position, header, proposal, prepares })
            }
            RecordKind::NewView => Self::NewView(Arc::new(NewView::decode(reader.take(reader.rest().len())?)?)),
            RecordKind::Committed => {
                let position = place(Digest(reader.array()?));
                let (proposal, header) = (Ballot::read(&mut reader)?, BatchHeader::read(&mut reader)?);
                let opening = read_option(&mut reader, |reader| Ok(Digest(reader.array()?)))?;
                let commits = read_list(&mut reader, |reader| {
                    Ok((read_replica(reader)?, Ballot::read(reader)?, Digest(reader.array()?)))
                })?;
                let certificate = CommitCertificate { position, header, proposal, opening, commits };
                Self::Committed(Committed { certificate: Arc::new(certificate), body: None })
            }
            RecordKind::CkptVote => Self::CkptVote { epoch: at.0, seq: at.2, root: Digest(reader.array()?) },
            RecordKind::SnapVote => Self::SnapVote { epoch: at.0, seq: at.2, root: Digest(reader.array()?) },
            RecordKind::SnapStable => {
                let root = Digest(reader.array()?);
                let signatures = read_signatures(&mut reader)?;
                Self::SnapStable(SnapshotVote { epoch: at.0, seq: at.2, root, signatures })
            }
            RecordKind::Stable => {
                let (root, epoch_end) = (Digest(reader.array()?), Seq(reader.u64()?));
                let signatures = read_signatures(&mut reader)?;
                Self::Stable(Checkpoint { epoch: at.0, seq: at.2, root, epoch_end, signatures })
            }
            RecordKind::Evidence => Self::Evidence(Arc::new(Evidence::decode(reader.take(reader.rest().len())?)?)),
            kind @ (RecordKind::Promise | RecordKind::Epoch) => {
                return Err(RecordInvalid::Kind { kind: kind as u16 });
            }
        };
        let rest = payload.slice(payload.len() - reader.rest().len()..);
        let record = record.with_body(header.flags, rest)?;
        if record.place() == at { Ok(record) } else { Err(RecordInvalid::Malformed) }
    }

    fn body(&self) -> Option<&Bytes> {
        match self {
            Self::Vote(Vote { body, .. }) | Self::Committed(Committed { body, .. }) => body.as_ref(),
            Self::Cert(_)
            | Self::NewView(_)
            | Self::CkptVote { .. }
            | Self::SnapVote { .. }
            | Self::SnapStable(_)
            | Self::Stable(_)
            | Self::Evidence(_) => None,
        }
    }

    fn with_body(mut self, flags: u16, rest: Bytes) -> Result<Self, RecordInvalid> {
        match (&mut self, flags) {
            (Self::Vote(Vote { body, .. }) | Self::Committed(Committed { body, .. }), FLAG_BODY) => *body = Some(rest),
            (_, 0) if rest.is_empty() => {}
            _ => return Err(RecordInvalid::Malformed),
        }
        Ok(self)
    }

    fn payload_len(&self) -> usize {
        let fixed = match self {
            Self::Vote(_) => PROPOSAL_BYTES,
            Self::Cert(cert) => PROPOSAL_BYTES + 2 + cert.prepares.len() * PREPARE_BYTES,
            Self::Committed(Committed { certificate, .. }) => {
                let opening = 1 + certificate.opening.map_or(0, |_| OPENING_BYTES);
                PROPOSAL_BYTES + opening + 2 + certificate.commits.len() * COMMIT_BYTES
            }
            Self::NewView(new_view) => new_view.encode().len(),
            Self::Evidence(evidence) => evidence.encode().len(),
            Self::CkptVote { .. } | Self::SnapVote { .. } => 32,
            Self::SnapStable(vote) => 32 + 2 + vote.signatures.len() * SIGNATURE_BYTES,
            Self::Stable(vote) => 32 + 8 + 2 + vote.signatures.len() * SIGNATURE_BYTES,
        };
        fixed + self.body().map_or(0, Bytes::len)
    }

    fn put_payload(&self, out: &mut BlockBuf) {
        match self {
            Self::Vote(Vote { position, proposal, header, .. }) => put_proposal(out, position, proposal, header),
            Self::Cert(PreparedCertificate { position, header, proposal, prepares }) => {
                put_proposal(out, position, proposal, header);
                put_count(out, prepares.len());
                for (replica, ballot) in prepares {
                    out.put_u16(replica.0);
                    out.put(&ballot.bytes());
                }
            }
            Self::NewView(new_view) => out.put(&new_view.encode()),
            Self::Evidence(evidence) => out.put(&evidence.encode()),
            Self::Committed(Committed { certificate, .. }) => put_commit_certificate(out, certificate),
            Self::CkptVote { root, .. } | Self::SnapVote { root, .. } => out.put(&root.0),
            Self::SnapStable(SnapshotVote { root, signatures, .. }) => {
                out.put(&root.0);
                put_signatures(out, signatures);
            }
            Self::Stable(Checkpoint { root, epoch_end, signatures, .. }) => {
                out.put(&root.0);
                out.put_u64(epoch_end.0);
                put_signatures(out, signatures);
            }
        }
        if let Some(body) = self.body() {
            out.put(body);
        }
    }
}

/// What the longest record of a cluster holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongContent {
    /// A commit certificate of all replicas, with a body of `batch_bytes_max`.
    Batch,
    /// A NEW-VIEW of all replicas over a whole window.
    NewView,
    /// Evidence against a replica: a faulty one decides how long it is.
    Evidence,
}

impl fmt::Display for LongContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Batch => "a batch of protocol.batch_bytes_max",
            Self::NewView => "a NEW-VIEW of all replicas over two times protocol.checkpoint_interval slots",
            Self::Evidence => "evidence against a replica",
        })
    }
}

/// The longest record that a replica of a cluster may have to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongestRecord {
    /// What it holds.
    pub content: LongContent,
    /// What it takes, as [`Record::encoded_len`] counts.
    pub bytes: usize,
}

impl LongestRecord {
    /// Among so many replicas with these parameters. All other records are shorter than a batch with its certificate.
    #[must_use]
    pub fn of(replicas: usize, params: &ProtocolParams) -> Self {
        let certificate = PROPOSAL_BYTES + 1 + OPENING_BYTES + 2 + replicas * COMMIT_BYTES;
        let payloads = [
            (certificate + params.batch_bytes_max as usize, LongContent::Batch),
            (new_view_bytes(replicas, params.window), LongContent::NewView),
            (evidence_share_bytes(replicas), LongContent::Evidence),
        ];
        let (payload, content) = payloads.into_iter().max_by_key(|(bytes, _)| *bytes).expect("there are three");
        Self { content, bytes: (RECORD_HEADER_BYTES + payload).next_multiple_of(RECORD_ALIGN) }
    }
}

/// The record that lies in an [`super::Extent`], from its bytes.
pub fn read_record(bytes: &Bytes) -> Result<Record, RecordInvalid> {
    let (header, payload) = split_record(bytes)?;
    if RECORD_HEADER_BYTES + payload.len() == bytes.len() {
        Record::decode(&header, &payload)
    } else {
        Err(RecordInvalid::Malformed)
    }
}

/// The header and payload at the front of `bytes`.
pub(super) fn split_record(bytes: &Bytes) -> Result<(RecordHeader, Bytes), RecordInvalid> {
    let mut reader = Reader::new(bytes);
    let header = RecordHeader::read(&mut reader)?;
    let payload = bytes.slice_ref(reader.take(header.len as usize)?);
    Ok((header, payload))
}

/// What stands before a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The kind.
    pub kind: RecordKind,
    /// Whether a body ends the payload.
    pub flags: u16,
    /// Bytes of the payload.
    pub len: u32,
    /// What [`Record::place`] says.
    pub place: (Epoch, View, Seq),
}

impl RecordHeader {
    /// Reads one.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, RecordInvalid> {
        let kind = reader.u16()?;
        Ok(Self {
            kind: RecordKind::from_number(kind).ok_or(RecordInvalid::Kind { kind })?,
            flags: reader.u16()?,
            len: reader.u32()?,
            place: (Epoch(reader.u64()?), View(reader.u64()?), Seq(reader.u64()?)),
        })
    }
}

/// Why bytes are no record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordInvalid {
    /// A kind that this version does not know.
    #[error("journal record of kind {kind}, which this version does not know: it was written by a newer one")]
    Kind {
        /// The number.
        kind: u16,
    },
    /// Cut short, too long, or fields that contradict each other.
    #[error("malformed journal record")]
    Malformed,
}

impl From<NotCanonical> for RecordInvalid {
    fn from(_: NotCanonical) -> Self {
        Self::Malformed
    }
}

fn put_proposal(out: &mut BlockBuf, position: &Position, proposal: &Ballot, header: &BatchHeader) {
    out.put(&position.digest.0);
    out.put(&proposal.bytes());
    out.put(&header.bytes());
}

fn put_commit_certificate(out: &mut BlockBuf, certificate: &CommitCertificate) {
    let CommitCertificate { position, header, proposal, opening, commits } = certificate;
    put_proposal(out, position, proposal, header);
    put_option(out, opening.as_ref(), |out, opening| out.put(&opening.0));
    put_count(out, commits.len());
    for (replica, ballot, opening) in commits {
        out.put_u16(replica.0);
        out.put(&ballot.bytes());
        out.put(&opening.0);
    }
}

fn put_count(out: &mut BlockBuf, count: usize) {
    assert!(count <= REPLICAS_MAX, "at most one entry a replica");
    out.put_u16(count as u16);
}

pub(super) fn put_option<T>(out: &mut BlockBuf, value: Option<T>, put: impl FnOnce(&mut BlockBuf, T)) {
    out.put(&[u8::from(value.is_some())]);
    if let Some(value) = value {
        put(out, value);
    }
}

pub(super) fn put_signatures(out: &mut BlockBuf, signatures: &[(ReplicaId, Signature)]) {
    put_count(out, signatures.len());
    for (replica, signature) in signatures {
        out.put_u16(replica.0);
        out.put(&signature.0);
    }
}

fn read_replica(reader: &mut Reader<'_>) -> Result<ReplicaId, NotCanonical> {
    reader.u16().map(ReplicaId)
}

fn read_list<'a, T>(
    reader: &mut Reader<'a>,
    mut entry: impl FnMut(&mut Reader<'a>) -> Result<T, NotCanonical>,
) -> Result<Vec<T>, NotCanonical> {
    let count = usize::from(reader.u16()?);
    if count > REPLICAS_MAX {
        return Err(NotCanonical);
    }
    (0..count).map(|_| entry(reader)).collect()
}

pub(super) fn read_option<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, NotCanonical>,
) -> Result<Option<T>, NotCanonical> {
    match reader.u8()? {
        0 => Ok(None),
        1 => read(reader).map(Some),
        _ => Err(NotCanonical),
    }
}

pub(super) fn read_signatures(reader: &mut Reader<'_>) -> Result<Vec<(ReplicaId, Signature)>, NotCanonical> {
    read_list(reader, |reader| Ok((read_replica(reader)?, Signature(reader.array()?))))
}
