//! Where in the journal the records of each Seq lie, for every slot that a restart or a peer may still ask for: those
//! above the older of the two newest stable snapshots.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Digest, LogPosition, Seq};
use crate::journal::record::{Committed, Record, Vote};
use crate::wire::message::BatchId;

/// The records of one Seq. Positions of 0: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SlotRecords {
    /// The first record of any kind.
    pub first: LogPosition,
    /// The VOTE or COMMITTED that holds the body of `digest`.
    pub body: LogPosition,
    /// The committed batch's digest, or until one is committed that of the batch voted for last.
    pub digest: Digest,
    /// The bytes of that body.
    pub body_len: u32,
    /// The commit certificate.
    pub committed: LogPosition,
}

/// The records of consecutive Seqs, from the first that is kept.
#[derive(Debug)]
pub struct JournalIndex {
    /// The Seq before the first entry.
    base: Seq,
    slots: VecDeque<SlotRecords>,
    /// Bodies of batches that were voted for at a Seq in another view than the one that `slots` names.
    others: BTreeMap<(Seq, Digest), (LogPosition, u32)>,
}

impl JournalIndex {
    /// An empty index of the Seqs above `base`.
    #[must_use]
    pub fn new(base: Seq) -> Self {
        Self { base, slots: VecDeque::new(), others: BTreeMap::new() }
    }

    /// Notes where `record` lies.
    pub fn note_record(&mut self, at: LogPosition, record: &Record) {
        match record {
            Record::Vote(Vote { position, body, .. }) => {
                let Some(records) = self.note(position.seq, at) else { return };
                let is_chosen = records.committed == LogPosition(0) || records.digest == position.digest;
                let body = body.as_ref().map(|body| (at, body.len() as u32));
                if is_chosen {
                    self.choose(position.batch(), body);
                } else if let Some(body) = body {
                    self.others.insert((position.seq, position.digest), body);
                }
            }
            Record::Cert(certificate) => drop(self.note(certificate.position.seq, at)),
            Record::Committed(Committed { certificate, body }) => {
                let Some(records) = self.note(certificate.position.seq, at) else { return };
                records.committed = at;
                let body = body.as_ref().map(|body| (at, body.len() as u32));
                self.choose(certificate.position.batch(), body);
            }
            Record::NewView(_)
            | Record::CkptVote { .. }
            | Record::SnapVote { .. }
            | Record::SnapStable(_)
            | Record::Stable(_)
            | Record::Evidence(_) => {}
        }
    }

    /// Notes a record at `at` that belongs to `seq`.
    fn note(&mut self, seq: Seq, at: LogPosition) -> Option<&mut SlotRecords> {
        let index = usize::try_from(seq.0.checked_sub(self.base.0 + 1)?).ok()?;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, SlotRecords::default());
        }
        let records = &mut self.slots[index];
        if records.first == LogPosition(0) {
            records.first = at;
        }
        Some(records)
    }

    /// The batch at its Seq is `batch` from now on; `body` holds it, or a record that was noted before.
    fn choose(&mut self, batch: BatchId, body: Option<(LogPosition, u32)>) {
        let BatchId { seq, digest } = batch;
        let body = body.or_else(|| self.others.remove(&(seq, digest)));
        let index = usize::try_from(seq.0 - self.base.0 - 1).expect("noted before");
        let records = &mut self.slots[index];
        if records.digest == digest && records.body != LogPosition(0) && body.is_none() {
            return;
        }
        let former = (records.digest, (records.body, records.body_len));
        let (at, len) = body.unwrap_or_default();
        (records.digest, records.body, records.body_len) = (digest, at, len);
        if former.0 != digest && former.1.0 != LogPosition(0) {
            self.others.insert((seq, former.0), former.1);
        }
    }

    /// The record that holds the body of `digest` at `seq`.
    #[must_use]
    pub fn body(&self, seq: Seq, digest: Digest) -> Option<LogPosition> {
        let records = self.get(seq)?;
        let chosen = (records.digest == digest && records.body != LogPosition(0)).then_some(records.body);
        chosen.or_else(|| self.others.get(&(seq, digest)).map(|(at, _)| *at))
    }

    /// What is known of `seq`.
    #[must_use]
    pub fn get(&self, seq: Seq) -> Option<&SlotRecords> {
        let index = usize::try_from(seq.0.checked_sub(self.base.0 + 1)?).ok()?;
        self.slots.get(index)
    }

    /// The Seq before the first that is kept.
    #[must_use]
    pub fn base(&self) -> Seq {
        self.base
    }

    /// How many Seqs are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The first record of any Seq above `seq`; `None` if there is none.
    #[must_use]
    pub fn first_above(&self, seq: Seq) -> Option<LogPosition> {
        let skip = usize::try_from(seq.0.saturating_sub(self.base.0)).unwrap_or(usize::MAX);
        self.slots.iter().skip(skip).map(|records| records.first).filter(|first| *first != LogPosition(0)).min()
    }

    /// Forgets the Seqs up to `seq`.
    pub fn forget(&mut self, seq: Seq) {
        if seq > self.base {
            let count = usize::try_from(seq.0 - self.base.0).unwrap_or(usize::MAX);
            self.slots.drain(..count.min(self.slots.len()));
            self.base = seq;
            self.others = self.others.split_off(&(seq.next(), Digest::ZERO));
        }
    }
}
