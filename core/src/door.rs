//! What goes into a replica and what comes out of it, and the contract between [`Effects`] and whoever carries them out
//! (server, simulator, embedder):
//!
//! 1. A [`LogPosition`] counts persisted records, those of the journal and of the superblock alike. The core gives each
//!    record the next number when it emits it. `Durable(p)` says: every record up to p is on stable storage, wherever it
//!    lives. It never goes back, may come late or skip numbers, never early.
//! 2. Records are written in position order. A shell may group them and keep several groups in flight; it reports only
//!    the unbroken prefix.
//! 3. What carries `needs = p` may leave the process only when everything up to p is durable. `needs = 0`: at once. A
//!    message that waits does not hold back those behind it.
//! 4. `execute` goes to the service strictly in Seq order, each Seq once per incarnation; `Executed` returns in the same
//!    order. It needs nothing durable: a quorum's prepared certificates already are.
//! 5. Links may lose, delay, double and reorder. No part of core relies on them.
//! 6. There is one deadline. The shell steps everything that has already arrived before it delivers `Deadline`. With it
//!    records that nobody waits for, and that were held back for company, go out (`Journal::hurry`).
//! 7. A failed write or flush is never an input: the shell ends the process. What destroys (`drop_journal_below`,
//!    `remove_snapshots_below`) is emitted only after the core was told `Durable(p)` of the superblock record that no longer
//!    needs it and no `load` below it is open.
//! 8. `cancel_votes_below` is carried out before what the same step sends: a COMMIT that waits for its record must not leave
//!    after a VIEW-CHANGE that lacks its certificate.
//! 9. `files` are carried out one after the other, and with them the writing of own snapshots: a snapshot that is put
//!    together from transferred pieces and one that is taken here never meet. Each order is answered once, but `Clear`.
//! 10. In the steady state a step allocates what the messages, records and orders in [`Effects`] hold, so many times for
//!     each batch, and nothing for each Request or message.
//! 11. The same state, `Now` and `Input` give the same `Effects`, byte for byte, signatures included.

use std::sync::Arc;

use bytes::Bytes;

use crate::auth::Verified;
use crate::divergence::Alarm;
use crate::evidence::Accusation;
use crate::ids::{Digest, LinkId, LogPosition, Nanos, PublicKey, ReplicaId, Seq, View, WallNanos};
use crate::journal::record::Record;
use crate::journal::superblock::Superblock;
use crate::snapshot::{ChunkBytes, ClientsImage, Manifest, Piece};
use crate::wire::message::{Busy, Info, Kind, Message, Reply};
use crate::wire::request::{Body, SignedRequest};

/// Two clocks, both arguments. Timers use `mono` only; `wall` only dates batches and bounds what a primary may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Never goes back.
    pub mono: Nanos,
    /// Nanoseconds since 1970; may jump.
    pub wall: WallNanos,
}

/// Whether a link is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The handshake is done.
    Up,
    /// It broke or was closed.
    Down,
}

/// What happens to a replica.
#[derive(Debug)]
pub enum Input {
    /// Requests that a shard gathered from clients' links, checked and digested.
    Requests(Verified<Vec<SignedRequest>>),
    /// A message of a peer, over its link.
    Message {
        /// The link's authenticated peer.
        from: ReplicaId,
        /// What it sent.
        message: Verified<Message>,
    },
    /// A peer's link came up or went down.
    Link {
        /// The peer.
        peer: ReplicaId,
        /// Which of the two.
        state: LinkState,
    },
    /// A client's key was brought to a link, or the link went down.
    Client {
        /// The client.
        client: PublicKey,
        /// The link.
        link: LinkId,
        /// Which of the two.
        state: LinkState,
    },
    /// Every record up to this one is on stable storage.
    Durable(LogPosition),
    /// The service executed the batch that the last `execute` named.
    Executed {
        /// Which.
        seq: Seq,
        /// What came of it.
        outcome: Executed,
    },
    /// The files of a snapshot are written and flushed, the directory too.
    Snapshot {
        /// Of which Seq.
        seq: Seq,
        /// What they hold.
        outcome: SnapshotWritten,
    },
    /// The answer to a `load`; `None`: unreadable.
    Loaded {
        /// What was asked for.
        at: LogPosition,
        /// The record there.
        record: Option<Record>,
    },
    /// The answer to one of `files`.
    File(FileDone),
    /// The service holds the state of the snapshot that `install` named.
    Installed {
        /// Of which Seq.
        seq: Seq,
    },
    /// A link asks for INFO; the shell fills in what it knows better.
    InfoQuery {
        /// Where the answer goes.
        to: InfoTo,
    },
    /// The time that `Effects::deadline` named has come.
    Deadline,
}

/// Who asked for INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoTo(pub LinkId);

/// What executing one batch came to.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Executed {
    /// The results of all admitted Requests, one after the other; each operation's with a u32 length before it.
    pub results: Bytes,
    /// Where each admitted Request's results end in `results`, and their [`crate::wire::request::result_digest`] under
    /// code `Ok`; `None`: they passed the bound of the batch and are not there.
    pub ends: Vec<(u32, Option<Digest>)>,
    /// What the service passed to `Replies::delta`, hashed.
    pub delta: Digest,
}

/// What a written snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotWritten {
    /// The root of its manifest.
    pub root: Digest,
    /// The Merkle root of the service's chunks.
    pub state_digest: Digest,
    /// Bytes of the service's chunks.
    pub state_bytes: u64,
}

/// Where a record belongs.
#[allow(clippy::large_enum_variant, reason = "almost all are journal records; boxing them would allocate")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Appended to the journal.
    Journal(Record),
    /// Written over the superblock.
    Superblock(Box<Superblock>),
}

/// A record to be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Its number, one above the last.
    pub position: LogPosition,
    /// What and where.
    pub place: Place,
}

/// Who a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Every other replica.
    All,
    /// One.
    One(ReplicaId),
}

/// What a full send queue drops first: the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// View changes, checkpoints, STATUS.
    Control,
    /// PRE-PREPARE, PREPARE, COMMIT.
    Ordering,
    /// Answers to FETCH, and forwarded Requests.
    Bulk,
}

/// A message to peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Who it is for.
    pub to: To,
    /// How dear it is.
    pub lane: Lane,
    /// What is sent.
    pub message: Message,
    /// It leaves when everything up to here is durable.
    pub needs: LogPosition,
}

/// A batch for the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    /// Its place in the order.
    pub seq: Seq,
    /// The agreed time.
    pub time_ns: u64,
    /// The whole batch.
    pub body: Arc<Body>,
    /// Which of the body's Requests are admitted, ascending. May be none: then the service is not called.
    pub admitted: Vec<u32>,
}

/// A snapshot to be taken after executing `seq` and before the next.
#[derive(Clone, Debug)]
pub struct SnapshotOrder {
    /// The Seq.
    pub seq: Seq,
    /// The client table and the other replicated values as of that Seq, to be encoded and written beside the chunks.
    pub clients: Arc<ClientsImage>,
}

/// Numbers what a replica tried to transfer since it started: an answer about an earlier try is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Attempt(pub u64);

/// What is to be done with the files of snapshots: transfer is the core's, files are the shell's. Pieces that are being
/// transferred lie in a folder of their own, each named by its digest, so that whatever snapshot comes to be the target,
/// what it shares with the former one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOrder {
    /// Read the manifest of an own snapshot.
    ReadManifest {
        /// Which.
        seq: Seq,
    },
    /// Read a piece of an own snapshot for a peer.
    ReadPiece {
        /// For whom.
        to: ReplicaId,
        /// Which snapshot.
        seq: Seq,
        /// Which piece.
        piece: Piece,
    },
    /// Pieces of this manifest are about to be transferred: remove what lies in their folder and is none of them, and say
    /// what is left.
    Begin {
        /// Which try this is.
        attempt: Attempt,
        /// The target's.
        manifest: Arc<Manifest>,
    },
    /// Whether the transferred piece with this digest is whole; one that is not is removed.
    Check {
        /// Which try this is.
        attempt: Attempt,
        /// The how manieth piece of its manifest.
        part: u32,
        /// How long it must be.
        len: u32,
        /// What it must hash to.
        digest: Digest,
    },
    /// Write a transferred piece, and flush it and its name.
    Store {
        /// Which try this is.
        attempt: Attempt,
        /// The how manieth piece of its manifest.
        part: u32,
        /// Compared with the manifest.
        chunk: ChunkBytes,
    },
    /// Every piece is there: make a snapshot of them, flush files and names, read it back and compare it with the manifest.
    Assemble {
        /// Which try this is.
        attempt: Attempt,
        /// The target's.
        manifest: Arc<Manifest>,
    },
    /// Read the own snapshot that the superblock names back, compare it with its digests, and say what it holds: the service
    /// is to be restored from it.
    Reread {
        /// Which.
        seq: Seq,
        /// The root that it must have.
        root: Digest,
    },
    /// No transfer is under way: remove the folder of transferred pieces.
    Clear,
}

/// What became of a [`FileOrder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileDone {
    /// A manifest; `None`: it is not there, or damaged.
    Manifest {
        /// Of which snapshot.
        seq: Seq,
        /// What it says.
        manifest: Option<Arc<Manifest>>,
    },
    /// A piece; `None`: it is not there.
    Piece {
        /// For whom.
        to: ReplicaId,
        /// Of which snapshot.
        seq: Seq,
        /// Which one.
        piece: Piece,
        /// What it holds.
        bytes: Option<ChunkBytes>,
    },
    /// What lies in the folder, by name: whether it is whole is to be checked.
    Begun {
        /// Which try this is.
        attempt: Attempt,
        /// The names.
        found: Vec<Digest>,
    },
    /// What a check came to.
    Checked {
        /// Which try this is.
        attempt: Attempt,
        /// The how manieth piece of its manifest.
        part: u32,
        /// What it is.
        state: PieceState,
    },
    /// A piece is on stable storage.
    Stored {
        /// Which try this is.
        attempt: Attempt,
        /// The how manieth piece of its manifest.
        part: u32,
    },
    /// The snapshot is complete and on stable storage; `None`: what was read back is not what was stored, or not there.
    Assembled {
        /// Which try this is.
        attempt: Attempt,
        /// Its client table.
        clients: Option<Box<ClientsImage>>,
    },
    /// An own snapshot was read back; `None`: it is not there, or damaged.
    Reread {
        /// Which.
        seq: Seq,
        /// What it consists of, and its client table.
        image: Option<(Arc<Manifest>, Box<ClientsImage>)>,
    },
}

/// Of a transferred piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceState {
    /// It has its length and digest.
    Whole,
    /// It is not there, or was damaged and is not there any more.
    Missing,
}

/// What goes to a client's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to a Request that was ordered.
    Reply(Reply),
    /// The Request was not taken.
    Busy(Busy),
    /// The answer to an INFO-QUERY.
    Info(Box<Info>),
}

impl From<Answer> for Message {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Reply(reply) => Self::Reply(reply),
            Answer::Busy(busy) => Self::Busy(busy),
            Answer::Info(info) => Self::Info(info),
        }
    }
}

impl TryFrom<Message> for Answer {
    /// What no replica says to a client.
    type Error = Kind;

    fn try_from(message: Message) -> Result<Self, Kind> {
        match message {
            Message::Reply(reply) => Ok(Self::Reply(reply)),
            Message::Busy(busy) => Ok(Self::Busy(busy)),
            Message::Info(info) => Ok(Self::Info(info)),
            Message::Request(_)
            | Message::InfoQuery { .. }
            | Message::ClientJoin(_)
            | Message::PrePrepare(_)
            | Message::Prepare(_)
            | Message::Commit(_)
            | Message::Checkpoint(_)
            | Message::Snapshot(_)
            | Message::ViewChange(_)
            | Message::NewView(_)
            | Message::FetchBody(_)
            | Message::Body(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::Slot(_)
            | Message::FetchLog(_)
            | Message::Log(_)
            | Message::FetchManifest(_)
            | Message::Manifest(_)
            | Message::FetchChunk(_)
            | Message::Chunk(_)
            | Message::FetchTrail(_)
            | Message::Trail(_)
            | Message::Evidence(_) => Err(message.kind()),
        }
    }
}

/// Why a replica must stop. Going on could break a promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Two batches are committed at one Seq: more replicas are faulty than the configuration allows for.
    #[error("safety is broken: Seq {seq} is committed with digest {here:?} here and with a certificate for {there:?}")]
    TwoCommitted {
        /// The Seq.
        seq: Seq,
        /// Committed here.
        here: Digest,
        /// Certified elsewhere.
        there: Digest,
    },
    /// Two batches are prepared at one Seq in one view: more replicas are faulty than the configuration allows for.
    #[error("safety is broken: Seq {seq} is prepared with two digests in {view:?}")]
    TwoPrepared {
        /// The Seq.
        seq: Seq,
        /// The view.
        view: View,
    },
    /// A quorum signed a snapshot, and a quorum a checkpoint of the same Seq that contradicts it: more replicas are faulty
    /// than the configuration allows for.
    #[error("safety is broken: the snapshot of Seq {seq} makes the checkpoint {here:?}, a quorum signed {there:?}")]
    TwoRoots {
        /// The Seq.
        seq: Seq,
        /// What the snapshot says.
        here: Digest,
        /// What the checkpoint says.
        there: Digest,
    },
}

/// What a replica wants done. Owned by the caller, cleared and reused by it; `step` only appends.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be made durable, in this order.
    pub persist: Vec<Persist>,
    /// To be sent to replicas.
    pub send: Vec<Outgoing>,
    /// Of what `send` of this or of former steps still holds: every PRE-PREPARE, PREPARE and COMMIT of a lower view is
    /// to be dropped, even if its record becomes durable. Comes before what this step sends.
    pub cancel_votes_below: Option<View>,
    /// To be sent to clients' links.
    pub answer: Vec<(LinkId, Answer)>,
    /// To be executed, in this order. At most one is outstanding.
    pub execute: Vec<Execute>,
    /// To be taken before anything that `execute` names in this step or later.
    pub snapshot: Option<SnapshotOrder>,
    /// The service is told that this snapshot is stable.
    pub snapshot_stable: Option<Seq>,
    /// To be done with files of snapshots, in this order.
    pub files: Vec<FileOrder>,
    /// Restore the service from the files of this snapshot.
    pub install: Option<Seq>,
    /// Records to be read back.
    pub load: Vec<LogPosition>,
    /// No record below this one is needed any more.
    pub drop_journal_below: Option<LogPosition>,
    /// No snapshot below this one is needed any more, but for unfinished ones.
    pub remove_snapshots_below: Option<Seq>,
    /// To be told to people and kept where they find it: proved against others, or read back at a start. May come twice.
    pub evidence: Vec<Accusation>,
    /// To be told to people and kept where they find it: this replica differs from the others, or nobody agrees.
    pub alarms: Vec<Alarm>,
    /// The time of the next `Deadline`; replaces the former one; `None` keeps it.
    pub deadline: Option<Nanos>,
    /// Stop.
    pub halt: Option<Halt>,
}

impl Effects {
    /// Empties everything and keeps the memory.
    pub fn clear(&mut self) {
        let Self {
            persist,
            send,
            cancel_votes_below,
            answer,
            execute,
            snapshot,
            snapshot_stable,
            files,
            install,
            load,
            drop_journal_below,
            remove_snapshots_below,
            evidence,
            alarms,
            deadline,
            halt,
        } = self;
        persist.clear();
        send.clear();
        answer.clear();
        execute.clear();
        load.clear();
        evidence.clear();
        alarms.clear();
        files.clear();
        (*cancel_votes_below, *snapshot, *snapshot_stable, *install) = (None, None, None, None);
        (*drop_journal_below, *remove_snapshots_below, *deadline, *halt) = (None, None, None, None);
    }
}

/// What the simulator turns to reach rare states sooner. Production uses the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How often STATUS is sent while work is outstanding, in nanoseconds.
    pub status_busy: u64,
    /// How often it is sent when nothing is.
    pub status_idle: u64,
    /// Bodies kept in memory, in bytes; older ones are read back from the journal.
    pub body_bytes: usize,
    /// Requests that wait to be ordered, in bytes.
    pub pool_bytes: usize,
    /// Requests of one client that wait to be ordered, in bytes.
    pub pool_bytes_per_client: usize,
    /// Slots in one LOG.
    pub log_slots: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        use crate::limits;
        Self {
            status_busy: limits::STATUS_INTERVAL_BUSY,
            status_idle: limits::STATUS_INTERVAL_IDLE,
            body_bytes: limits::BODY_BYTES,
            pool_bytes: limits::POOL_BYTES,
            pool_bytes_per_client: limits::POOL_BYTES_PER_CLIENT,
            log_slots: limits::LOG_SLOTS_MAX,
        }
    }
}
