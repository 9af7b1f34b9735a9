//! Every bound of the system in one place, and how they depend on one another, checked when this compiles.
//! Bounds that a cluster may choose are in [`crate::config::ProtocolParams`]; here are their defaults and what no
//! configuration may pass (PROTOCOL §1, §14).

/// One kibibyte.
pub const KIB: usize = 1 << 10;
/// One mebibyte.
pub const MIB: usize = 1 << 20;
/// One millisecond in nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;
/// One second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// Replicas in a configuration.
pub const REPLICAS_MAX: usize = 31;
/// Total weight of a configuration.
pub const WEIGHT_TOTAL_MAX: u64 = 1 << 32;

/// Default slots between two checkpoints (K). The window L is twice that.
pub const CHECKPOINT_INTERVAL: u64 = 128;
/// The largest window that a configuration may choose.
pub const WINDOW_MAX: u64 = 4096;
/// Default number of slots that a primary keeps in flight.
pub const PIPELINE_MAX: u64 = 32;
/// Default size of an encoded Request.
pub const REQUEST_BYTES_MAX: usize = 256 * KIB;
/// Default number of operations in a Request.
pub const REQUEST_OPERATIONS_MAX: usize = 4096;
/// Default number of Requests in a batch; no configuration may pass it, because a session id holds 20 bits of index.
pub const BATCH_REQUESTS_MAX: usize = 4096;
/// Default size of a batch's body.
pub const BATCH_BYTES_MAX: usize = MIB;
/// The largest body that a configuration may choose.
pub const BATCH_BYTES_LIMIT: usize = 8 * MIB;
/// Default number of Requests that a session may have outstanding (W).
pub const CLIENT_WINDOW: u64 = 64;
/// The largest window of a session; its bits lie in a fixed array.
pub const CLIENT_WINDOW_MAX: u64 = 1024;
/// Default number of sessions.
pub const SESSIONS_MAX: usize = 10_240;
/// A session that was not used for so long gives way to a new one where the client table is full, in nanoseconds.
pub const SESSION_IDLE: u64 = 60 * SECOND;
/// Default size of the results of one Request.
pub const REPLY_BYTES_MAX: usize = 256 * KIB;
/// Unacknowledged result bytes at which a session must wait, except for its lowest open Request.
pub const SESSION_RESULT_BYTES: usize = MIB;
/// Default size of all cached results.
pub const REPLY_CACHE_BYTES: usize = 32 * MIB;
/// Default bytes of executed bodies after which a snapshot is due.
pub const SNAPSHOT_BYTES: u64 = 256 * MIB as u64;
/// Default slots after which a snapshot is due.
pub const SNAPSHOT_SLOTS: u64 = 131_072;
/// Default base of the view-change timeout, in nanoseconds.
pub const VIEW_TIMEOUT: u64 = 500 * MILLISECOND;
/// The longest view-change timeout, in nanoseconds.
pub const VIEW_TIMEOUT_MAX: u64 = 60 * SECOND;
/// A replica that is called later than it asked for by more than this was not scheduled, in nanoseconds.
pub const LATE_MAX: u64 = 50 * MILLISECOND;
/// How far a primary's clock may be ahead of ours, in nanoseconds.
pub const CLOCK_AHEAD_MAX: u64 = 2 * SECOND;
/// How many windows old the Seq in an OPEN_SESSION may be.
pub const OPEN_SESSION_AGE_WINDOWS: u64 = 64;

/// A chunk of a snapshot.
pub const CHUNK_BYTES_MAX: usize = MIB;
/// Chunks of the service's state in one snapshot: 128 GiB at the longest.
pub const SNAPSHOT_CHUNKS_MAX: u32 = 1 << 17;
/// Pieces of the client table in one snapshot, each as long as a chunk.
pub const SNAPSHOT_CLIENTS_MAX: u32 = 1 << 12;
/// A manifest: the entries of both sections, each a length and a digest.
pub const MANIFEST_BYTES_MAX: usize = 256 + (SNAPSHOT_CHUNKS_MAX + SNAPSHOT_CLIENTS_MAX) as usize * 36;
/// Peers from which one transfer fetches at a time.
pub const TRANSFER_SOURCES_MAX: usize = 4;
/// Chunks that one peer is asked for at a time.
pub const TRANSFER_REQUESTS_PER_SOURCE: usize = 8;
/// Chunks that are asked for or being written. With the manifest this is less than [`IMAGE_BYTES`], which a replica does
/// not need meanwhile: none is asked for while an own image is under way. It also bounds the rate: so much in the time of
/// one answer and one write.
pub const TRANSFER_BYTES: usize = 8 * MIB;
/// Chunks that are read for peers at a time, of all that ask.
pub const TRANSFER_READS_MAX: usize = 4;
/// A peer gets no two manifests in less than this, in nanoseconds.
pub const TRANSFER_MANIFEST_INTERVAL: u64 = 100 * MILLISECOND;
/// A snapshot that a peer transfers is kept for it this long after its last question, in nanoseconds.
pub const TRANSFER_KEPT: u64 = 10 * SECOND;
/// Stable snapshots that are kept at most, for a peer that transfers the oldest; two are kept anyway.
pub const TRANSFER_SNAPSHOTS_MAX: usize = 4;

/// Bodies in memory: what a full pipeline needs.
pub const BODY_BYTES: usize = 32 * MIB;
/// Bodies of PRE-PREPAREs beyond the window.
pub const EARLY_BODY_BYTES: usize = 8 * MIB;
/// Requests that wait to be ordered, over all clients.
pub const POOL_BYTES: usize = 32 * MIB;
/// Requests that wait to be ordered, of one client.
pub const POOL_BYTES_PER_CLIENT: usize = MIB;
/// Frames that wait to be sent, over all links.
pub const SEND_QUEUE_BYTES: usize = 32 * MIB;
/// Frames that wait to be sent to one peer.
pub const SEND_QUEUE_BYTES_PER_PEER: usize = 8 * MIB;
/// Buffers that links receive into, over all links.
pub const RECEIVE_BYTES: usize = 32 * MIB;
/// Batches and replies between ordering and execution.
pub const EXECUTE_QUEUE_BYTES: usize = 8 * MIB;
/// Replies of one batch: an operation whose reply passes it is answered `ReplyTooLarge`.
pub const BATCH_RESULT_BYTES: usize = 8 * MIB;
/// What images of unfinished snapshots hold back.
pub const IMAGE_BYTES: usize = 16 * MIB;
/// The client table with full windows: 64 bytes for each Request that a session may have outstanding.
pub const CLIENT_TABLE_BYTES: usize = SESSIONS_MAX * CLIENT_WINDOW as usize * 64;
/// Where the records of each Seq above the older of two snapshots lie: 64 bytes each.
pub const JOURNAL_INDEX_BYTES: usize = 2 * SNAPSHOT_SLOTS as usize * 64;
/// Public keys that signatures are checked with and whose points are remembered: more than there are sessions. Filling
/// each of eight hash tables to the brim of a power of two.
pub const PUBLIC_KEYS_KNOWN_MAX: usize = 8 * 1792;
/// What they take: key and point, in tables that are at most 7/8 full.
pub const PUBLIC_KEYS_KNOWN_BYTES: usize = PUBLIC_KEYS_KNOWN_MAX * 8 / 7 * (32 + 160 + 1);
/// Requests that were found valid and need no second check of their signatures: with many clients' full windows under
/// way, twice over.
pub const REQUESTS_KNOWN_MAX: usize = 16_384;
/// Batches whose Requests were all found valid that a verifier remembers: what the windows of two views hold, and more.
pub const BATCHES_KNOWN_MAX: usize = 2048;
/// What both take: a digest each.
pub const KNOWN_BYTES: usize = (REQUESTS_KNOWN_MAX + BATCHES_KNOWN_MAX) * 32;
/// Pieces of evidence kept against one replica in an Epoch.
pub const EVIDENCE_PER_ACCUSED: usize = 64;
/// Evidence kept in memory and carried along in the journal, in canonical bytes; and what one piece may have.
pub const EVIDENCE_BYTES: usize = 2 * MIB;
/// How often one peer whose link comes and goes is told all of it.
pub const EVIDENCE_TELL_INTERVAL: u64 = 10 * SECOND;
/// What all of it adds up to at the defaults.
pub const MEMORY_BYTES: usize = CLIENT_TABLE_BYTES
    + REPLY_CACHE_BYTES
    + POOL_BYTES
    + BODY_BYTES
    + EARLY_BODY_BYTES
    + SEND_QUEUE_BYTES
    + RECEIVE_BYTES
    + EXECUTE_QUEUE_BYTES
    + IMAGE_BYTES
    + JOURNAL_INDEX_BYTES
    + PUBLIC_KEYS_KNOWN_BYTES
    + KNOWN_BYTES
    + EVIDENCE_BYTES
    + TRAIL_BYTES;

/// Intervals of checkpoints whose steps are kept, so that a replica that differs learns where it began to.
pub const TRAIL_INTERVALS: u64 = 4;
/// The steps of those: digests and chains, 168 bytes each.
pub const TRAIL_BYTES: usize = (TRAIL_INTERVALS * CHECKPOINT_INTERVAL) as usize * 168;
/// Steps of one TRAIL: the longest interval that a configuration may choose.
pub const TRAIL_STEPS_MAX: usize = WINDOW_MAX as usize / 2;
/// Operations that a report of a divergence lists.
pub const REPORT_OPERATIONS_MAX: usize = 1024;
/// Pieces of a snapshot that a report of a divergence lists.
pub const REPORT_PIECES_MAX: usize = 1024;
/// How long a replica that differed again after its repair waits until it executes anew, in nanoseconds; doubled each time.
pub const REPAIR_PAUSE: u64 = 2 * SECOND;
/// The longest such pause, in nanoseconds.
pub const REPAIR_PAUSE_MAX: u64 = 600 * SECOND;

/// A frame's header.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Frames are padded to a multiple of this, and receive buffers aligned to it.
pub const FRAME_ALIGN: usize = 16;
/// What a REQUEST's payload may add to `request_bytes_max`.
pub const REQUEST_FRAME_SLACK: usize = KIB;
/// What a PRE-PREPARE's payload may add to `batch_bytes_max`.
pub const PRE_PREPARE_FRAME_SLACK: usize = 64 * KIB;
/// What a small message of replicas may have: votes, STATUS, FETCH and INFO.
pub const SMALL_FRAME_BYTES: usize = 16 * KIB;
/// Counters in an INFO.
pub const INFO_COUNTERS_MAX: usize = 80;
/// A name or text in an INFO.
pub const INFO_TEXT_BYTES_MAX: usize = 128;
/// What a REPLY's payload may add to the results and their lengths.
pub const REPLY_FRAME_SLACK: usize = KIB;
/// A NEW-VIEW: REPLICAS_MAX VIEW-CHANGEs of a default window of prepared certificates, or fewer of a longer one. A
/// configuration whose NEW-VIEW could pass it is refused.
pub const NEW_VIEW_FRAME_BYTES: usize = 32 * MIB;
/// What a RECALLED's payload adds to the NEW-VIEW that it may show.
pub const RECALLED_FRAME_SLACK: usize = 32;
/// Certificates and bodies in one LOG.
pub const LOG_FRAME_BYTES: usize = 2 * MIB;
/// A stable snapshot's certificate and manifest.
pub const MANIFEST_FRAME_BYTES: usize = 5 * MIB;
/// A TRAIL.
pub const TRAIL_FRAME_BYTES: usize = 64 * TRAIL_STEPS_MAX + KIB;
/// What a CHUNK's payload may add to the chunk.
pub const CHUNK_FRAME_SLACK: usize = 4 * KIB;
/// Slots in one LOG.
pub const LOG_SLOTS_MAX: usize = 256;
/// The text of a secret key in PEM.
pub const KEY_FILE_BYTES_MAX: usize = 4 * KIB;
/// One message of the handshake.
pub const HANDSHAKE_MESSAGE_BYTES: usize = 4 * KIB;
/// Client keys on one link.
pub const CLIENT_KEYS_PER_LINK: usize = 1024;
/// Operations that a client keeps until they are signed into Requests.
pub const CLIENT_QUEUE_OPERATIONS: usize = 65_536;
/// Bytes of operations that a client keeps until they are signed into Requests.
pub const CLIENT_QUEUE_BYTES: usize = 16 * MIB;
/// A client with fewer Requests than this under way sends what it has; with more it gathers until one is answered.
pub const CLIENT_GATHER_FROM: usize = 4;
/// Shortest time after which a client asks all replicas, in nanoseconds.
pub const CLIENT_TIMEOUT_MIN: u64 = 20 * MILLISECOND;
/// The time after which it does while it has no latencies of its own, in nanoseconds.
pub const CLIENT_TIMEOUT_FIRST: u64 = 200 * MILLISECOND;
/// The longest, after which it also asks again for ever, in nanoseconds.
pub const CLIENT_TIMEOUT_MAX: u64 = 2 * SECOND;
/// How long a client may be told to wait by one BUSY, in nanoseconds.
pub const CLIENT_BUSY_MAX: u64 = SECOND;
/// How often a busy client asks which view it is, in nanoseconds.
pub const CLIENT_INFO_INTERVAL: u64 = 2 * SECOND;
/// How long a client that was not admitted waits before it tries again, in nanoseconds.
pub const CLIENT_REFUSED_PAUSE: u64 = SECOND;
/// Handshakes under way at a time.
pub const HANDSHAKES_MAX: usize = 128;
/// A handshake that takes longer is given up, in nanoseconds.
pub const HANDSHAKE_TIMEOUT: u64 = 5 * SECOND;

/// How often a replica says where it is while work is outstanding, in nanoseconds.
pub const STATUS_INTERVAL_BUSY: u64 = 50 * MILLISECOND;
/// How often it does when nothing is, in nanoseconds.
pub const STATUS_INTERVAL_IDLE: u64 = SECOND;

/// Evidence kept against one of `replicas`, and so one piece of it at its largest, in canonical bytes.
#[must_use]
pub const fn evidence_share_bytes(replicas: usize) -> usize {
    let faulty_max = replicas.saturating_sub(1) / 3;
    EVIDENCE_BYTES / if faulty_max == 0 { 1 } else { faulty_max }
}

/// The prepared certificate of one slot at its largest among `replicas`, encoded.
#[must_use]
pub const fn prepared_certificate_bytes(replicas: usize) -> usize {
    160 + (replicas + 1) * (2 + 32 + 64)
}

/// A VIEW-CHANGE at its largest: a prepared certificate for every slot of the window.
#[must_use]
pub const fn view_change_bytes(replicas: usize, window: u64) -> usize {
    window as usize * prepared_certificate_bytes(replicas) + SMALL_FRAME_BYTES
}

/// A NEW-VIEW at its largest: a VIEW-CHANGE of every replica.
#[must_use]
pub const fn new_view_bytes(replicas: usize, window: u64) -> usize {
    replicas * view_change_bytes(replicas, window)
}

const _: () = assert!(REQUEST_BYTES_MAX <= BATCH_BYTES_MAX && BATCH_BYTES_MAX <= BATCH_BYTES_LIMIT);
const _: () = assert!(PIPELINE_MAX <= 2 * CHECKPOINT_INTERVAL && 2 * CHECKPOINT_INTERVAL <= WINDOW_MAX);
const _: () = assert!(CHECKPOINT_INTERVAL.is_power_of_two());
const _: () = assert!(PIPELINE_MAX as usize * BATCH_BYTES_MAX <= BODY_BYTES);
const _: () = assert!(BATCH_REQUESTS_MAX < 1 << 20, "a session id has 20 bits for the index in the batch");
const _: () = assert!(PUBLIC_KEYS_KNOWN_MAX >= SESSIONS_MAX + REPLICAS_MAX);
const _: () = assert!(CLIENT_WINDOW <= CLIENT_WINDOW_MAX);
const _: () = assert!(CLIENT_TIMEOUT_MIN <= CLIENT_TIMEOUT_FIRST && CLIENT_TIMEOUT_FIRST <= CLIENT_TIMEOUT_MAX);
const _: () = assert!(REPLICAS_MAX < 32, "a set of replicas is a u32");
const _: () = assert!(SNAPSHOT_SLOTS.is_multiple_of(CHECKPOINT_INTERVAL));
const _: () = assert!((INFO_COUNTERS_MAX + 3) * (INFO_TEXT_BYTES_MAX + 32) + KIB <= SMALL_FRAME_BYTES);
const _: () = assert!(
    2 * new_view_bytes(4, 2 * CHECKPOINT_INTERVAL) + KIB <= EVIDENCE_BYTES,
    "two NEW-VIEWs of four replicas are one piece of evidence"
);
const _: () = assert!(MANIFEST_BYTES_MAX + 4 * KIB <= MANIFEST_FRAME_BYTES, "the largest manifest fits its frame");
const _: () = assert!(MANIFEST_FRAME_BYTES <= SEND_QUEUE_BYTES_PER_PEER, "a manifest can be queued");
const _: () = assert!(TRANSFER_BYTES + MANIFEST_FRAME_BYTES <= IMAGE_BYTES && TRANSFER_BYTES >= CHUNK_BYTES_MAX);
const _: () = assert!(TRANSFER_SNAPSHOTS_MAX >= 2);
const _: () = assert!(LOG_FRAME_BYTES >= BATCH_BYTES_MAX + PRE_PREPARE_FRAME_SLACK, "a LOG must hold any one slot");
const _: () = assert!(MEMORY_BYTES <= 254 * MIB, "goal: 256 MiB a replica, with code and stacks");
const _: () = assert!(
    new_view_bytes(REPLICAS_MAX, 2 * CHECKPOINT_INTERVAL) <= NEW_VIEW_FRAME_BYTES,
    "the largest NEW-VIEW fits its frame"
);
