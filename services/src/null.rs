//! The service that does nothing: every operation has the same reply, whatever its bytes. What remains is the cost of
//! ordering. Its state is how many operations it has executed, so that snapshots, state transfer and exactly-once can
//! be seen at work.

use bft_core::ids::Seq;
use bft_core::service::{Batch, Replies, Service, ServiceFault, Snapshot};

/// Answers every operation and query with the same number of zero bytes.
#[derive(Debug)]
pub struct Null {
    reply_bytes: usize,
    state: Counter,
    restoring: Option<Restoring>,
}

/// How many operations were executed, and the last Seq that had some. Its image is itself.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    executed: u64,
    changed: Seq,
}

#[derive(Clone, Copy, Debug)]
struct Restoring {
    at: Seq,
    executed: Option<u64>,
}

impl Null {
    /// Replies have `reply_bytes` bytes.
    #[must_use]
    pub fn new(reply_bytes: usize) -> Self {
        Self { reply_bytes, state: Counter::default(), restoring: None }
    }

    /// How many operations were executed.
    #[must_use]
    pub fn executed(&self) -> u64 {
        self.state.executed
    }
}

impl Service for Null {
    fn open(&mut self) -> Result<Seq, ServiceFault> {
        Ok(Seq(0))
    }

    fn execute(&mut self, batch: &Batch<'_>, replies: &mut Replies<'_>) -> Result<(), ServiceFault> {
        for index in 0..batch.operations.len() {
            replies.reserve(index, self.reply_bytes);
        }
        self.state.executed += batch.operations.len() as u64;
        self.state.changed = batch.seq;
        replies.delta(&self.state.executed.to_le_bytes());
        Ok(())
    }

    fn query(&mut self, _query: &[u8], reply: &mut Replies<'_>) -> Result<(), ServiceFault> {
        reply.reserve(0, self.reply_bytes);
        Ok(())
    }

    fn snapshot(&mut self, _at: Seq) -> Result<Box<dyn Snapshot>, ServiceFault> {
        Ok(Box::new(self.state))
    }

    fn restore_begin(&mut self, at: Seq, chunks: u32) -> Result<(), ServiceFault> {
        if chunks != 1 {
            return Err(ServiceFault(format!("null: the state at Seq {at} has {chunks} chunks instead of 1")));
        }
        self.restoring = Some(Restoring { at, executed: None });
        Ok(())
    }

    fn restore_chunk(&mut self, index: u32, bytes: &[u8]) -> Result<(), ServiceFault> {
        let restoring = self.restoring.as_mut().ok_or_else(no_restore)?;
        let (0, Ok(state)) = (index, <[u8; 8]>::try_from(bytes)) else {
            return Err(ServiceFault(format!("null: chunk {index} has {} bytes; chunk 0 with 8 is due", bytes.len())));
        };
        restoring.executed = Some(u64::from_le_bytes(state));
        Ok(())
    }

    fn restore_finish(&mut self) -> Result<(), ServiceFault> {
        let Restoring { at, executed } = self.restoring.take().ok_or_else(no_restore)?;
        let executed = executed.ok_or_else(|| ServiceFault("null: the restore ended without its chunk".into()))?;
        self.state = Counter { executed, changed: at };
        Ok(())
    }

    fn restore_abort(&mut self) {
        self.restoring = None;
    }
}

fn no_restore() -> ServiceFault {
    ServiceFault("null: no restore was begun".into())
}

impl Snapshot for Counter {
    fn chunks(&self) -> u32 {
        1
    }

    fn unchanged_since(&self, _index: u32, earlier: Seq) -> bool {
        self.changed <= earlier
    }

    fn read(&mut self, index: u32, out: &mut [u8]) -> Result<usize, ServiceFault> {
        let (0, Some(out)) = (index, out.first_chunk_mut()) else {
            return Err(ServiceFault(format!("null: chunk {index} was asked for; there is chunk 0 with 8 bytes")));
        };
        *out = self.executed.to_le_bytes();
        Ok(out.len())
    }
}
