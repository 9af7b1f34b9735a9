//! `kv`: keys and values in memory, as large as memory goes. Clients speak the bytes of [`mod@format`]; the state is in
//! `tree`, its chunks in `image`. An operation that cannot be carried out gets a reply that says so; nothing that a
//! client sends makes a fault.
//!
//! Invariants: every write is marked with the Seq of its batch, and no batch comes at or before a Seq of which an image
//! was given: what an image says about [`Snapshot::unchanged_since`] rests on it.

use bft_core::ids::Seq;
use bft_core::service::{Batch, Operation as Admitted, Replies, Service, ServiceFault, Snapshot};

mod entry;
pub mod format;
mod image;
mod tree;

pub use format::{KEY_BYTES_MAX, MalformedReply, Operation, Prior, Refusal, Reply, VALUE_BYTES_MAX};

use entry::{Key, fill};
use image::{History, Layout, read_chunk};
use tree::Tree;

/// Operations whose keys are looked up together before they are executed one by one.
const SIDE_BY_SIDE: usize = 16;

/// The service.
#[derive(Debug)]
pub struct Kv {
    tree: Tree,
    /// Everything up to here is in `tree`.
    at: Seq,
    history: History,
    restoring: Option<Restoring>,
    /// Scratch memory.
    entry: Vec<u8>,
    /// Scratch memory.
    reply: Vec<u8>,
}

#[derive(Debug)]
struct Restoring {
    at: Seq,
    chunks: u32,
    next: u32,
    tree: Tree,
    /// The lowest and the highest hash of each chunk that has entries.
    spans: Vec<Option<(u64, u64)>>,
}

impl Default for Kv {
    fn default() -> Self {
        Self::new()
    }
}

impl Kv {
    /// Without keys.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tree: Tree::new(Seq(0)),
            at: Seq(0),
            history: History::default(),
            restoring: None,
            entry: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// The number of keys.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.tree.keys()
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.tree.get(Key::new(key))
    }

    /// Executes at most [`SIDE_BY_SIDE`] operations of a batch, the first of which has the index `first` in it.
    fn execute_group(&mut self, now: Seq, operations: &[Admitted<'_>], first: usize, replies: &mut Replies<'_>) {
        let mut decoded = [Err(Refusal::Malformed); SIDE_BY_SIDE];
        let mut hashes = [0; SIDE_BY_SIDE];
        for ((decoded, hash), operation) in decoded.iter_mut().zip(&mut hashes).zip(operations) {
            *decoded = Operation::decode(operation.bytes).map(|operation| (operation, Key::new(operation.key())));
            *hash = decoded.map_or(0, |(_, key)| key.hash);
        }
        self.tree.warm(&hashes);
        for (index, decoded) in (first..).zip(&decoded[..operations.len()]) {
            let reply = match *decoded {
                Ok((operation, key)) => {
                    let (tree, entry) = (&mut self.tree, &mut self.entry);
                    Step { tree, key, now, entry, replies: &mut *replies }.apply(operation)
                }
                Err(refusal) => Reply::Error(refusal),
            };
            put_reply(replies, index, reply, &mut self.reply);
        }
    }
}

impl Service for Kv {
    fn open(&mut self) -> Result<Seq, ServiceFault> {
        Ok(Seq(0))
    }

    fn execute(&mut self, batch: &Batch<'_>, replies: &mut Replies<'_>) -> Result<(), ServiceFault> {
        if batch.seq <= self.at {
            return Err(fault(format!("Seq {} was to be executed after Seq {}", batch.seq, self.at)));
        }
        self.at = batch.seq;
        for (group, operations) in batch.operations.chunks(SIDE_BY_SIDE).enumerate() {
            self.execute_group(batch.seq, operations, group * SIDE_BY_SIDE, replies);
        }
        Ok(())
    }

    fn query(&mut self, query: &[u8], reply: &mut Replies<'_>) -> Result<(), ServiceFault> {
        let answer = match Operation::decode(query) {
            Ok(Operation::Get { key }) => Reply::Value(self.tree.get(Key::new(key))),
            Ok(Operation::Count) => Reply::Count(self.tree.keys()),
            Ok(
                Operation::Put { .. }
                | Operation::Delete { .. }
                | Operation::Cas { .. }
                | Operation::Add { .. }
                | Operation::Append { .. },
            ) => Reply::Error(Refusal::ReadOnly),
            Err(refusal) => Reply::Error(refusal),
        };
        put_reply(reply, 0, answer, &mut self.reply);
        Ok(())
    }

    fn snapshot(&mut self, at: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
        if at < self.at {
            return Err(fault(format!("a snapshot of Seq {at} was asked for after Seq {}", self.at)));
        }
        self.at = at;
        Ok(Box::new(self.history.image(&self.tree, at)))
    }

    fn restore_begin(&mut self, at: Seq, chunks: u32) -> Result<(), ServiceFault> {
        self.restoring = Some(Restoring { at, chunks, next: 0, tree: Tree::new(at), spans: Vec::new() });
        Ok(())
    }

    fn restore_chunk(&mut self, index: u32, bytes: &[u8]) -> Result<(), ServiceFault> {
        let restoring = self.restoring.as_mut().ok_or_else(no_restore)?;
        if index != restoring.next || index >= restoring.chunks {
            let Restoring { next, chunks, .. } = restoring;
            return Err(fault(format!("chunk {index} came where chunk {next} of {chunks} was due")));
        }
        restoring.next += 1;
        let (at, tree) = (restoring.at, &mut restoring.tree);
        let mut last: Option<Key<'_>> = None;
        let mut span = None;
        let read = read_chunk(bytes, |entry| {
            let key = Key::of_entry(entry);
            if last.is_some_and(|last| (last.hash, last.bytes) > (key.hash, key.bytes)) {
                return Err("its entries are not in their order".to_owned());
            }
            last = Some(key);
            span = Some((span.map_or(key.hash, |(lowest, _)| lowest), key.hash));
            match tree.put(key, entry, at) {
                Prior::Absent => Ok(()),
                Prior::Present => Err("it has a key that came before".to_owned()),
            }
        });
        restoring.spans.push(span);
        if read.is_err() {
            self.restoring = None;
        }
        read.map_err(|what| fault(format!("chunk {index} of Seq {at} is no chunk of kv: {what}")))
    }

    fn restore_finish(&mut self) -> Result<(), ServiceFault> {
        let Restoring { at, chunks, next, tree, spans } = self.restoring.take().ok_or_else(no_restore)?;
        if next != chunks {
            return Err(fault(format!("the restore of Seq {at} ended after {next} of {chunks} chunks")));
        }
        let layout = Layout::of(&tree);
        if chunks != layout.chunks() {
            return Err(fault(format!("the state of Seq {at} came in {chunks} chunks and makes {}", layout.chunks())));
        }
        for (index, span) in (0..).zip(spans) {
            if span.is_some_and(|(lowest, highest)| !layout.holds(index, lowest, highest)) {
                return Err(fault(format!("chunk {index} of Seq {at} has entries that belong into another one")));
            }
        }
        self.tree = tree;
        self.at = at;
        self.history = History::starting(at, layout);
        Ok(())
    }

    fn restore_abort(&mut self) {
        self.restoring = None;
    }
}

/// One operation being carried out.
struct Step<'t, 's, 'r> {
    tree: &'t mut Tree,
    key: Key<'s>,
    now: Seq,
    entry: &'s mut Vec<u8>,
    replies: &'s mut Replies<'r>,
}

impl<'t> Step<'t, '_, '_> {
    fn apply(mut self, operation: Operation<'_>) -> Reply<'t> {
        match operation {
            Operation::Get { .. } => Reply::Value(self.tree.get(self.key)),
            Operation::Put { value, .. } => Reply::Stored(self.put(value)),
            Operation::Delete { .. } => Reply::Deleted(self.delete()),
            Operation::Cas { expect, value, .. } => {
                if self.tree.get(self.key) != expect {
                    return Reply::Mismatch(self.tree.get(self.key));
                }
                self.put(value);
                Reply::Swapped
            }
            Operation::Add { delta, .. } => match sum(self.tree.get(self.key), delta) {
                Ok(sum) => {
                    self.put(&sum.to_le_bytes());
                    Reply::Counter(sum)
                }
                Err(refusal) => Reply::Error(refusal),
            },
            Operation::Count => Reply::Count(self.tree.keys()),
            Operation::Append { value, .. } => match joined(self.tree.get(self.key), value) {
                Ok(joined) => {
                    self.put(&joined);
                    Reply::Appended(joined.len() as u32)
                }
                Err(refusal) => Reply::Error(refusal),
            },
        }
    }

    /// Says in the delta what the entry is now.
    fn put(&mut self, value: &[u8]) -> Prior {
        let entry = fill(self.entry, self.key.bytes, value);
        self.replies.delta(entry);
        self.tree.put(self.key, entry, self.now)
    }

    /// Says in the delta, after an empty piece, which no entry is, what key went.
    fn delete(&mut self) -> Prior {
        let prior = self.tree.remove(self.key, self.now);
        if prior == Prior::Present {
            self.replies.delta(&[]);
            self.replies.delta(self.key.bytes);
        }
        prior
    }
}

fn sum(value: Option<&[u8]>, delta: i64) -> Result<i64, Refusal> {
    let present = match value {
        None => 0,
        Some(value) => i64::from_le_bytes(value.try_into().map_err(|_| Refusal::NotACounter)?),
    };
    present.checked_add(delta).ok_or(Refusal::Overflow)
}

fn joined(present: Option<&[u8]>, value: &[u8]) -> Result<Vec<u8>, Refusal> {
    let present = present.unwrap_or_default();
    if present.len() + value.len() > VALUE_BYTES_MAX {
        Err(Refusal::ValueTooLong)
    } else {
        Ok([present, value].concat())
    }
}

fn put_reply(replies: &mut Replies<'_>, index: usize, reply: Reply<'_>, scratch: &mut Vec<u8>) {
    scratch.clear();
    reply.encode(scratch);
    replies.put(index, scratch);
}

fn fault(what: impl std::fmt::Display) -> ServiceFault {
    ServiceFault(format!("kv: {what}"))
}

fn no_restore() -> ServiceFault {
    fault("no restore was begun")
}
