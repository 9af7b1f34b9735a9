//! What a replica writes down before it speaks (PROTOCOL §11, SHAPES §6): one type each, and their canonical bytes.

use crate::ids::{Digest, Epoch, Seq, View};
use crate::wire::message::{
    Ballot, BatchHeader, Checkpoint, CommitCertificate, Position, PreparedCertificate, SnapshotVote,
};
use bytes::Bytes;

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
    pub certificate: CommitCertificate,
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
}

impl Record {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::Vote(_) => RecordKind::Vote,
            Self::Cert(_) => RecordKind::Cert,
            Self::Committed(_) => RecordKind::Committed,
            Self::CkptVote { .. } => RecordKind::CkptVote,
            Self::SnapVote { .. } => RecordKind::SnapVote,
            Self::SnapStable(_) => RecordKind::SnapStable,
            Self::Stable(_) => RecordKind::Stable,
        }
    }

    /// Epoch, view and Seq for the record's header; view 0 where a record has none.
    #[must_use]
    pub fn place(&self) -> (Epoch, View, Seq) {
        let of = |at: &Position| (at.epoch, at.view, at.seq);
        match self {
            Self::Vote(vote) => of(&vote.position),
            Self::Cert(cert) => of(&cert.position),
            Self::Committed(committed) => of(&committed.certificate.position),
            Self::CkptVote { epoch, seq, .. } | Self::SnapVote { epoch, seq, .. } => (*epoch, View(0), *seq),
            Self::SnapStable(vote) => (vote.epoch, View(0), vote.seq),
            Self::Stable(vote) => (vote.epoch, View(0), vote.seq),
        }
    }
}
