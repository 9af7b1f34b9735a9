//! The service of the simulator. Every operation is visible for ever: it adds to its client's account and is entered into
//! a list that is never cut, and the answer tells the running values. An operation that is executed twice, in another
//! order or not at all shows in the answers and in the state (C16).
//!
//! ```text
//! operation   client u32 | number u64 | amount u64 | padding
//! answer      the client's operations u64 | the client's sum u64 | operations of all u64
//! state       chunk 0: operations of all u64 | accounts: (client u32, operations u64, sum u64) …
//!             chunk 1 …: entries (client u32, number u64), CHUNK_ENTRIES to a chunk
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_core::ids::Seq;
use bft_core::service::{Batch, Replies, Service, ServiceFault, Snapshot};

/// Entries in a chunk: few, so that a short run has many chunks.
const CHUNK_ENTRIES: usize = 48;
/// Bytes of an entry.
const ENTRY_BYTES: usize = 12;

/// An operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The client.
    pub client: u32,
    /// Its number among the client's operations, over all its lives.
    pub number: u64,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Which one it is.
    pub entry: Entry,
    /// What it adds.
    pub amount: u64,
}

impl Order {
    /// The operation's bytes.
    #[must_use]
    pub fn encode(&self, padding: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 + padding);
        out.extend_from_slice(&self.entry.client.to_le_bytes());
        out.extend_from_slice(&self.entry.number.to_le_bytes());
        out.extend_from_slice(&self.amount.to_le_bytes());
        out.resize(20 + padding, 0xa5);
        out
    }

    /// Reads what [`Self::encode`] wrote.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (client, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (amount, _) = rest.split_first_chunk()?;
        let entry = Entry { client: u32::from_le_bytes(*client), number: u64::from_le_bytes(*number) };
        Some(Self { entry, amount: u64::from_le_bytes(*amount) })
    }
}

/// A client's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Account {
    /// Operations of the client.
    pub operations: u64,
    /// What they added up to.
    pub sum: u64,
}

/// The answer to an operation.
#[must_use]
pub fn answer(account: Account, all: u64) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&account.operations.to_le_bytes());
    out[8..16].copy_from_slice(&account.sum.to_le_bytes());
    out[16..].copy_from_slice(&all.to_le_bytes());
    out
}

/// What a drifting service does otherwise than its twins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It says that a batch changed something else.
    Delta,
    /// It answers otherwise.
    Reply,
    /// It changes its state otherwise, and says nothing of it: later answers tell.
    State,
}

impl Wrong {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Delta, Self::Reply, Self::State];
}

/// A service that is not deterministic: at one Seq it does something else than its twins, and perhaps again when it is
/// restored and executes that Seq anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The first batch at this Seq or later is the one.
    pub at: Seq,
    /// What goes wrong.
    pub wrong: Wrong,
    /// How often it still will.
    pub left: u32,
    /// Whether it did, since the state was last restored.
    pub has_struck: bool,
}

/// The state: accounts and the list of everything that was executed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ledger {
    accounts: Arc<BTreeMap<u32, Account>>,
    /// Full chunks, shared with images, and at which Seq each became full.
    full: Vec<(Seq, Arc<Vec<Entry>>)>,
    last: Vec<Entry>,
    /// What goes wrong here and at no twin.
    drift: Option<Drift>,
    restoring: Option<Box<Restoring>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Restoring {
    at: Seq,
    chunks: u32,
    next: u32,
    all: u64,
    state: Ledger,
}

impl Ledger {
    /// Everything that was executed, in its order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let full = self.full.iter().flat_map(|(_, chunk)| chunk.iter());
        full.chain(&self.last).copied().collect()
    }

    /// The service is not deterministic.
    pub fn drift(&mut self, drift: Option<Drift>) {
        self.drift = drift;
    }

    /// What goes wrong here, or went.
    #[must_use]
    pub fn drifting(&self) -> Option<Drift> {
        self.drift
    }

    /// Whether it goes wrong at this batch.
    fn goes_wrong(&mut self, seq: Seq) -> Option<Wrong> {
        let drift = self.drift.as_mut().filter(|drift| !drift.has_struck && drift.left > 0 && seq >= drift.at)?;
        (drift.at, drift.left, drift.has_struck) = (seq, drift.left - 1, true);
        Some(drift.wrong)
    }

    /// Applies one operation.
    pub fn apply(&mut self, at: Seq, order: Order) -> [u8; 24] {
        let account = Arc::make_mut(&mut self.accounts).entry(order.entry.client).or_default();
        account.operations += 1;
        account.sum = account.sum.wrapping_add(order.amount);
        let account = *account;
        self.last.push(order.entry);
        if self.last.len() == CHUNK_ENTRIES {
            self.full.push((at, Arc::new(std::mem::take(&mut self.last))));
        }
        answer(account, self.count())
    }

    fn corrupt(&mut self, client: u32) {
        let account = Arc::make_mut(&mut self.accounts).entry(client).or_default();
        account.sum = account.sum.wrapping_add(1);
    }

    fn count(&self) -> u64 {
        (self.full.len() * CHUNK_ENTRIES + self.last.len()) as u64
    }
}

impl Service for Ledger {
    fn open(&mut self) -> Result<Seq, ServiceFault> {
        Ok(Seq(0))
    }

    fn execute(&mut self, batch: &Batch<'_>, replies: &mut Replies<'_>) -> Result<(), ServiceFault> {
        let wrong = self.goes_wrong(batch.seq);
        for (index, operation) in batch.operations.iter().enumerate() {
            let order = Order::decode(operation.bytes);
            let mut reply = match order {
                Some(order) => self.apply(batch.seq, order).to_vec(),
                None => b"malformed".to_vec(),
            };
            match wrong {
                Some(Wrong::Reply) => reply[0] ^= 1,
                Some(Wrong::State) => order.iter().for_each(|order| self.corrupt(order.entry.client)),
                Some(Wrong::Delta) | None => {}
            }
            replies.delta(&reply);
            replies.put(index, &reply);
        }
        if wrong == Some(Wrong::Delta) {
            replies.delta(b"drifted");
        }
        Ok(())
    }

    fn query(&mut self, _query: &[u8], reply: &mut Replies<'_>) -> Result<(), ServiceFault> {
        reply.put(0, &self.count().to_le_bytes());
        Ok(())
    }

    fn snapshot(&mut self, _at: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
        Ok(Box::new(Image(Self { restoring: None, ..self.clone() })))
    }

    fn restore_begin(&mut self, at: Seq, chunks: u32) -> Result<(), ServiceFault> {
        self.restoring = Some(Box::new(Restoring { at, chunks, next: 0, all: 0, state: Self::default() }));
        Ok(())
    }

    fn restore_chunk(&mut self, index: u32, bytes: &[u8]) -> Result<(), ServiceFault> {
        let restoring = self.restoring.as_mut().expect("a restore is under way");
        if index != restoring.next {
            return Err(ServiceFault(format!("chunk {index} instead of {}", restoring.next)));
        }
        restoring.next += 1;
        let malformed = || ServiceFault(format!("chunk {index} is malformed"));
        if index == 0 { restoring.head(bytes) } else { restoring.entries(bytes) }.ok_or_else(malformed)
    }

    fn restore_finish(&mut self) -> Result<(), ServiceFault> {
        let restoring = self.restoring.take().expect("a restore is under way");
        if restoring.next != restoring.chunks || restoring.state.count() != restoring.all {
            return Err(ServiceFault("the chunks do not make a whole state".into()));
        }
        let drift = self.drift.map(|drift| Drift { has_struck: false, ..drift });
        *self = Self { drift, ..restoring.state };
        Ok(())
    }

    fn restore_abort(&mut self) {
        self.restoring = None;
    }
}

impl Restoring {
    fn head(&mut self, bytes: &[u8]) -> Option<()> {
        let (all, accounts) = bytes.split_first_chunk()?;
        self.all = u64::from_le_bytes(*all);
        let mut read = BTreeMap::new();
        for account in accounts.chunks(20) {
            let (client, rest) = account.split_first_chunk()?;
            let (operations, sum) = rest.split_first_chunk()?;
            let account =
                Account { operations: u64::from_le_bytes(*operations), sum: u64::from_le_bytes(sum.try_into().ok()?) };
            read.insert(u32::from_le_bytes(*client), account);
        }
        self.state.accounts = Arc::new(read);
        Some(())
    }

    fn entries(&mut self, bytes: &[u8]) -> Option<()> {
        for entry in bytes.chunks(ENTRY_BYTES) {
            let (client, number) = entry.split_first_chunk()?;
            let number = u64::from_le_bytes(number.try_into().ok()?);
            self.state.last.push(Entry { client: u32::from_le_bytes(*client), number });
        }
        if self.state.last.len() == CHUNK_ENTRIES {
            self.state.full.push((self.at, Arc::new(std::mem::take(&mut self.state.last))));
        }
        Some(())
    }
}

/// The state at a Seq.
struct Image(Ledger);

impl Snapshot for Image {
    fn chunks(&self) -> u32 {
        1 + self.0.full.len() as u32 + u32::from(!self.0.last.is_empty())
    }

    fn unchanged_since(&self, index: u32, earlier: Seq) -> bool {
        index > 0 && self.0.full.get(index as usize - 1).is_some_and(|(filled, _)| *filled <= earlier)
    }

    fn read(&mut self, index: u32, out: &mut [u8]) -> Result<usize, ServiceFault> {
        let mut bytes = Vec::new();
        if index == 0 {
            bytes.extend_from_slice(&self.0.count().to_le_bytes());
            for (client, account) in self.0.accounts.iter() {
                bytes.extend_from_slice(&client.to_le_bytes());
                bytes.extend_from_slice(&account.operations.to_le_bytes());
                bytes.extend_from_slice(&account.sum.to_le_bytes());
            }
        } else {
            let entries = self.0.full.get(index as usize - 1).map_or(&self.0.last, |(_, chunk)| &**chunk);
            for entry in entries {
                bytes.extend_from_slice(&entry.client.to_le_bytes());
                bytes.extend_from_slice(&entry.number.to_le_bytes());
            }
        }
        out[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(operations: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for number in 0..operations {
            let entry = Entry { client: (number % 3) as u32, number };
            let order = Order { entry, amount: number };
            assert_eq!(Order::decode(&order.encode(5)), Some(order));
            ledger.apply(Seq(1 + number), order);
        }
        ledger
    }

    fn chunks(ledger: &mut Ledger, at: Seq) -> Vec<Vec<u8>> {
        let mut image = ledger.snapshot(at).unwrap();
        let mut out = vec![0; bft_core::limits::CHUNK_BYTES_MAX];
        (0..image.chunks())
            .map(|index| {
                let len = image.read(index, &mut out).unwrap();
                out[..len].to_vec()
            })
            .collect()
    }

    #[test]
    fn restore_followed_by_snapshot_gives_the_same_chunks() {
        for operations in [0, 1, 47, 48, 49, 200] {
            let mut ledger = filled(operations);
            let written = chunks(&mut ledger, Seq(operations));
            let mut restored = Ledger::default();
            restored.restore_begin(Seq(operations), written.len() as u32).unwrap();
            for (index, chunk) in (0..).zip(&written) {
                restored.restore_chunk(index, chunk).unwrap();
            }
            restored.restore_finish().unwrap();
            assert_eq!(chunks(&mut restored, Seq(operations)), written);
            assert_eq!(restored.entries(), ledger.entries());
        }
    }

    #[test]
    fn a_chunk_that_is_called_unchanged_is() {
        let mut ledger = filled(100);
        let before = chunks(&mut ledger, Seq(100));
        for number in 100..150 {
            ledger.apply(Seq(1 + number), Order { entry: Entry { client: 0, number }, amount: 1 });
        }
        let image = ledger.snapshot(Seq(150)).unwrap();
        let unchanged: Vec<u32> = (0..image.chunks()).filter(|index| image.unchanged_since(*index, Seq(100))).collect();
        assert_eq!(unchanged, [1, 2]);
        let after = chunks(&mut ledger, Seq(150));
        assert!(unchanged.iter().all(|index| before[*index as usize] == after[*index as usize]));
        assert_ne!(before[0], after[0]);
    }

    #[test]
    fn a_cut_state_is_refused_and_the_old_one_stays() {
        let mut ledger = filled(100);
        let written = chunks(&mut ledger, Seq(100));
        let mut other = filled(3);
        other.restore_begin(Seq(100), written.len() as u32).unwrap();
        other.restore_chunk(0, &written[0]).unwrap();
        assert!(other.restore_finish().is_err());
        assert_eq!(other.entries(), filled(3).entries());
    }
}
