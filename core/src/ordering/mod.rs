//! Ordering cores: each turns Requests of many into one order. PBFT is the one there is; what all of them need from the
//! replica around them is here.

use crate::door::{Effects, Lane, Outgoing, Persist, Place, To};
use crate::ids::{Digest, LogPosition, Seq};
use crate::journal::record::Record;
use crate::journal::superblock::Superblock;
use crate::replica::index::JournalIndex;
use crate::wire::message::Message;

pub mod pbft;

/// Where a step writes its effects: numbers records, and says of each message what it needs to be durable.
pub struct Outbox<'a> {
    effects: &'a mut Effects,
    last: &'a mut LogPosition,
    index: &'a mut JournalIndex,
}

impl<'a> Outbox<'a> {
    /// `last` is the number of the last record ever emitted; `index` notes where each goes.
    pub fn new(effects: &'a mut Effects, last: &'a mut LogPosition, index: &'a mut JournalIndex) -> Self {
        Self { effects, last, index }
    }

    /// Emits a record for the journal, and gives its number.
    pub fn persist(&mut self, record: Record) -> LogPosition {
        self.index.note_record(self.last.next(), &record);
        self.emit(Place::Journal(record))
    }

    /// Emits a superblock, and gives its number.
    pub fn persist_superblock(&mut self, superblock: Superblock) -> LogPosition {
        self.emit(Place::Superblock(Box::new(superblock)))
    }

    /// Sends `message` as soon as everything up to `needs` is durable.
    pub fn send(&mut self, to: To, lane: Lane, message: Message, needs: LogPosition) {
        self.effects.send.push(Outgoing { to, lane, message, needs });
    }

    /// Whether a record holds the body of this batch at this Seq.
    #[must_use]
    pub fn holds_body(&self, seq: Seq, digest: Digest) -> bool {
        self.index.body(seq, digest).is_some()
    }

    /// Everything else.
    pub fn effects(&mut self) -> &mut Effects {
        self.effects
    }

    fn emit(&mut self, place: Place) -> LogPosition {
        *self.last = self.last.next();
        self.effects.persist.push(Persist { position: *self.last, place });
        *self.last
    }
}
