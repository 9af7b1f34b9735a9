//! What an application implements (SHAPES §3): the shape in Rust; the C shape is the same, row by row.

use std::ops::Range;

use crate::hash::{Context, Hasher};
use crate::ids::{Digest, PublicKey, RequestNo, Seq, SessionId};

/// The service cannot go on: the replica stops and says why. A refusal of one operation is not a fault; it belongs
/// into that operation's reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service fault: {0}")]
pub struct ServiceFault(pub String);

/// Lives on the execution thread; never shared, never entered twice at a time. A pure function of the state and the
/// batch: no clock, chance, address, hash order, locale, thread. It never learns the view: two correct replicas may
/// execute one Seq in different views.
pub trait Service: Send + 'static {
    /// The Seq whose state it holds now. Seq(0): none (a state in memory). Otherwise a Seq that `snapshot_stable`
    /// named: the replica replays from there. Anything else makes the replica restore its own snapshot first.
    fn open(&mut self) -> Result<Seq, ServiceFault>;

    /// Exactly one reply per operation. Called for batches with at least one admitted operation: gaps in Seq are
    /// normal.
    fn execute(&mut self, batch: &Batch<'_>, replies: &mut Replies<'_>) -> Result<(), ServiceFault>;

    /// Read only, between two batches.
    fn query(&mut self, query: &[u8], reply: &mut Replies<'_>) -> Result<(), ServiceFault>;

    /// Must cost no more than a batch: share, do not copy. The image stays as of `at` while execution goes on.
    fn snapshot(&mut self, at: Seq) -> Result<Box<dyn Snapshot>, ServiceFault>;

    /// The snapshot at `at` is agreed on and on disk: a service with a store of its own may now commit and forget
    /// older ones.
    fn snapshot_stable(&mut self, _at: Seq) {}

    /// A state of `chunks` chunks follows.
    fn restore_begin(&mut self, at: Seq, chunks: u32) -> Result<(), ServiceFault>;

    /// The next chunk: ascending, verified.
    fn restore_chunk(&mut self, index: u32, bytes: &[u8]) -> Result<(), ServiceFault>;

    /// Atomic: the old state or the new.
    fn restore_finish(&mut self) -> Result<(), ServiceFault>;

    /// The restore will not be finished: the old state stays.
    fn restore_abort(&mut self);
}

/// An image of the state. Read on the snapshot thread while `execute` goes on. Dropped = ended.
pub trait Snapshot: Send {
    /// How many chunks it has.
    fn chunks(&self) -> u32;

    /// May be false although nothing changed; never true although something did. Lets the library keep its file and
    /// digest.
    fn unchanged_since(&self, _index: u32, _earlier: Seq) -> bool {
        false
    }

    /// Writes chunk `index` to the front of `out`, which holds [`crate::limits::CHUNK_BYTES_MAX`], and returns its
    /// length. Chunk boundaries and bytes are a function of the state alone, not of its history: restore followed by
    /// snapshot gives the same chunks.
    fn read(&mut self, index: u32, out: &mut [u8]) -> Result<usize, ServiceFault>;
}

/// One operation of a batch, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// The bytes, as the client signed them.
    pub bytes: &'a [u8],
    /// The client's public key.
    pub client: PublicKey,
    /// The client's session.
    pub session: SessionId,
    /// The Request's number in the session.
    pub req_no: RequestNo,
    /// The operation's index in its Request.
    pub index: u32,
}

/// The admitted operations of one Seq. Holds agreed things only.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// Its place in the order.
    pub seq: Seq,
    /// The agreed time, nanoseconds since 1970, strictly increasing from batch to batch.
    pub time_ns: u64,
    /// The operations, in order.
    pub operations: &'a [Operation<'a>],
}

/// Where a service puts its replies: one for each operation, in any order, each once.
#[derive(Debug)]
pub struct Replies<'a> {
    buffer: &'a mut ReplyBuffer,
}

/// The storage behind [`Replies`]; kept by whoever runs the service and reused from batch to batch.
#[derive(Debug)]
pub struct ReplyBuffer {
    bytes: Vec<u8>,
    /// Bytes of replies that are kept; what lies behind them is the last one that was too large.
    kept: usize,
    replies: Vec<Reply>,
    delta: Hasher,
}

/// What a service gave for one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Missing,
    At(Range<u32>),
    TooLarge,
}

/// The replies of a batch pass [`crate::limits::BATCH_RESULT_BYTES`]: this one is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

impl Default for ReplyBuffer {
    fn default() -> Self {
        Self { bytes: Vec::new(), kept: 0, replies: Vec::new(), delta: Hasher::new(Context::Delta) }
    }
}

impl ReplyBuffer {
    /// Empties the buffer and makes room for `operations` replies.
    pub fn begin(&mut self, operations: usize) -> Replies<'_> {
        self.bytes.clear();
        self.kept = 0;
        self.replies.clear();
        self.replies.resize(operations, Reply::Missing);
        self.delta = Hasher::new(Context::Delta);
        Replies { buffer: self }
    }

    /// The reply to operation `index`; `None` if the service gave none.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Result<&[u8], TooLarge>> {
        match &self.replies[index] {
            Reply::Missing => None,
            Reply::At(range) => Some(Ok(&self.bytes[range.start as usize..range.end as usize])),
            Reply::TooLarge => Some(Err(TooLarge)),
        }
    }

    /// Bytes of all replies.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a length in bytes, not a collection")]
    pub fn len(&self) -> usize {
        self.kept
    }

    /// The digest of what was passed to [`Replies::delta`].
    #[must_use]
    pub fn delta(&self) -> Digest {
        self.delta.finish()
    }
}

impl Replies<'_> {
    /// The reply to operation `index`. The last one given stands.
    pub fn put(&mut self, index: usize, reply: &[u8]) {
        self.reserve(index, reply.len()).copy_from_slice(reply);
    }

    /// `len` zero bytes, to be filled, as the reply to operation `index`. Where the batch's replies together pass
    /// [`crate::limits::BATCH_RESULT_BYTES`] this one is dropped, at every replica alike, and the client is told so.
    pub fn reserve(&mut self, index: usize, len: usize) -> &mut [u8] {
        let buffer = &mut *self.buffer;
        let kept = buffer.kept;
        buffer.bytes.truncate(kept);
        let end = kept + len;
        if end <= crate::limits::BATCH_RESULT_BYTES {
            buffer.replies[index] = Reply::At(kept as u32..end as u32);
            buffer.kept = end;
        } else {
            buffer.replies[index] = Reply::TooLarge;
        }
        buffer.bytes.resize(end, 0);
        &mut buffer.bytes[kept..]
    }

    /// What this batch changed, in the service's own terms: hashed, with its length, into the per-Seq execution
    /// digest, so that a divergence is named at its Seq even where replies agree.
    pub fn delta(&mut self, bytes: &[u8]) {
        self.buffer.delta.u64(bytes.len() as u64).update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BATCH_RESULT_BYTES;

    #[test]
    fn replies_beyond_the_batch_bound_are_dropped_and_later_small_ones_kept() {
        let mut buffer = ReplyBuffer::default();
        let mut replies = buffer.begin(4);
        replies.put(0, b"first");
        replies.reserve(1, BATCH_RESULT_BYTES);
        replies.put(2, b"third");
        assert_eq!(buffer.get(0), Some(Ok(&b"first"[..])));
        assert_eq!(buffer.get(1), Some(Err(TooLarge)));
        assert_eq!(buffer.get(2), Some(Ok(&b"third"[..])));
        assert_eq!(buffer.get(3), None);
    }
}
