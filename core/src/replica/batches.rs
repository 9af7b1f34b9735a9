//! Bodies by their digest, committed or not: those that a new primary lacks of what it must propose again, and those
//! that another one lacks (FETCH-BODY, PROTOCOL §8). Whoever gives a body proves it by its digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Replica;
use super::executing::read_batch;
use crate::door::{Effects, Lane, Now, To};
use crate::ids::{LogPosition, Nanos, ReplicaId, Seq};
use crate::journal::record::Record;
use crate::ordering::Outbox;
use crate::ordering::pbft::{Ignored, Pbft};
use crate::wire::message::{BatchBody, BatchHeader, BatchId, Message};
use crate::wire::request::Body;

/// STATUS intervals after which a body is asked for again.
const PATIENCE: u64 = 2;

/// Bodies under way.
#[derive(Debug, Default)]
pub struct Batches {
    /// What this replica lacks, as the primary of a new view.
    wanted: BTreeMap<BatchId, Wanted>,
    /// What peers lack and the journal is asked for: one a peer.
    serving: BTreeMap<ReplicaId, (BatchId, BatchHeader, LogPosition)>,
}

#[derive(Debug)]
enum Wanted {
    Loading(LogPosition),
    /// Asked of all at that time.
    Asked(Nanos),
    Here(Arc<Body>),
}

/// Bodies that are obtained ahead of their turn. They are used in the order of their Seqs: if a higher one came first, it could
/// take the memory without which the lowest is never executed.
struct Ahead {
    waiting: usize,
    waiting_max: usize,
}

impl Ahead {
    /// The body, if it is its turn and there is room for it.
    fn take(&mut self, pbft: &mut Pbft, batch: BatchId, body: Option<Arc<Body>>) -> Option<Arc<Body>> {
        let is_next = self.waiting == 0;
        let body = body.filter(|body| is_next && pbft.make_room(batch, body.bytes().len()));
        self.waiting += usize::from(body.is_none());
        body
    }

    /// Whether no more is to be obtained for now.
    fn is_far(&self) -> bool {
        self.waiting >= self.waiting_max
    }
}

impl Batches {
    /// Nothing is wanted any more.
    pub fn clear(&mut self) {
        self.wanted.clear();
    }
}

impl Replica {
    /// Proposes what the view must begin with, in its order, as bodies are to be had and memory holds them.
    pub(super) fn propose_again(&mut self, now: Now, out: &mut Effects) {
        let due: Vec<_> = self.pbft.to_propose_again().collect();
        let mut ahead = self.bodies_ahead();
        for (seq, chosen) in due {
            let batch = BatchId { seq, digest: chosen.digest };
            let body = if chosen.header == BatchHeader::NULL {
                Some(Arc::new(Body::default()))
            } else {
                self.obtain(now, batch, out)
            };
            if let Some(body) = ahead.take(&mut self.pbft, batch, body) {
                self.batches.wanted.remove(&batch);
                // What is executed here is proposed for others: nobody would take it off the list of what is on its way.
                if seq > self.executing.last {
                    body.entries().iter().for_each(|entry| self.pool.ordered(entry));
                }
                let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
                self.pbft.propose_again(seq, chosen, body, &mut outbox);
            }
            if ahead.is_far() {
                return;
            }
        }
    }

    /// Reads back the bodies of own proposals that a restart left without: peers may not have them yet.
    pub(super) fn restore_bodies(&mut self, now: Now, out: &mut Effects) {
        let without: Vec<_> = self.pbft.proposals_without_body().collect();
        let mut ahead = self.bodies_ahead();
        for batch in without {
            let body = self.obtain(now, batch, out);
            if let Some(body) = ahead.take(&mut self.pbft, batch, body) {
                self.batches.wanted.remove(&batch);
                self.pbft.restore_body(batch, body);
            }
            if ahead.is_far() {
                return;
            }
        }
    }

    fn bodies_ahead(&self) -> Ahead {
        Ahead { waiting: 0, waiting_max: self.config.params().pipeline_max as usize }
    }

    /// A peer asks for a batch.
    pub(super) fn on_fetch_body(&mut self, from: ReplicaId, batch: BatchId, out: &mut Effects) -> Result<(), Ignored> {
        let Some(header) = self.pbft.header_of(batch) else { return Err(Ignored::NotNeeded) };
        if let Some(body) = self.pbft.slot(batch.seq).and_then(|slot| slot.body_of(batch.digest)) {
            let body = Arc::clone(body);
            self.send_body(from, BatchBody { seq: batch.seq, header, body }, out);
            return Ok(());
        }
        let at = self.index.body(batch.seq, batch.digest).filter(|at| *at <= self.durable).ok_or(Ignored::NotNeeded)?;
        if self.batches.serving.contains_key(&from) {
            return Err(Ignored::Duplicate);
        }
        self.batches.serving.insert(from, (batch, header, at));
        self.loading.begin(at, out);
        Ok(())
    }

    /// A body from a peer; the verifier compared it with its header.
    pub(super) fn on_body(&mut self, batch: BatchBody) -> Result<(), Ignored> {
        let digest = batch.header.digest(self.config.cluster_id(), self.config.epoch());
        match self.batches.wanted.get_mut(&BatchId { seq: batch.seq, digest }) {
            Some(wanted @ (Wanted::Asked(_) | Wanted::Loading(_))) => {
                *wanted = Wanted::Here(batch.body);
                Ok(())
            }
            Some(Wanted::Here(_)) => Err(Ignored::Duplicate),
            None => Err(Ignored::NotNeeded),
        }
    }

    /// A record was read back; it may hold bodies that somebody waits for.
    pub(super) fn on_loaded_body(&mut self, at: LogPosition, record: Option<&Record>, out: &mut Effects) {
        let config = Arc::clone(&self.config);
        let read = |batch: &BatchId| {
            record.and_then(|record| read_batch(record, &config)).filter(|ready| ready.digest == batch.digest)
        };
        for (batch, wanted) in &mut self.batches.wanted {
            if matches!(wanted, Wanted::Loading(loading) if *loading == at) {
                // Unreadable: a peer has it.
                *wanted = read(batch).map_or(Wanted::Asked(Nanos(0)), |ready| Wanted::Here(ready.body));
            }
        }
        let served: Vec<_> = self.batches.serving.iter().filter(|(_, (_, _, load))| *load == at).collect();
        let served: Vec<_> = served.into_iter().map(|(peer, (batch, header, _))| (*peer, *batch, *header)).collect();
        for (peer, batch, header) in served {
            self.batches.serving.remove(&peer);
            if let Some(ready) = read(&batch) {
                self.send_body(peer, BatchBody { seq: batch.seq, header, body: ready.body }, out);
            }
        }
    }

    /// The body of `batch` if memory holds it; otherwise it is on its way from the journal, or from peers.
    fn obtain(&mut self, now: Now, batch: BatchId, out: &mut Effects) -> Option<Arc<Body>> {
        if let Some(body) = self.pbft.slot(batch.seq).and_then(|slot| slot.body_of(batch.digest)) {
            return Some(Arc::clone(body));
        }
        match self.batches.wanted.get(&batch) {
            Some(Wanted::Here(body)) => return Some(Arc::clone(body)),
            Some(Wanted::Loading(_)) => return None,
            Some(Wanted::Asked(at)) if now.mono.since(*at) < PATIENCE * self.tuning.status_busy => return None,
            Some(Wanted::Asked(_)) => self.ask_for_body(now, batch, out),
            None => match self.index.body(batch.seq, batch.digest).filter(|at| *at <= self.durable) {
                Some(at) => {
                    self.batches.wanted.insert(batch, Wanted::Loading(at));
                    self.loading.begin(at, out);
                }
                None => self.ask_for_body(now, batch, out),
            },
        }
        None
    }

    fn ask_for_body(&mut self, now: Now, batch: BatchId, out: &mut Effects) {
        self.batches.wanted.insert(batch, Wanted::Asked(now.mono));
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(To::All, Lane::Control, Message::FetchBody(batch), LogPosition(0));
    }

    fn send_body(&mut self, to: ReplicaId, body: BatchBody, out: &mut Effects) {
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(To::One(to), Lane::Bulk, Message::Body(body), LogPosition(0));
    }

    /// Bodies are asked for only as long as the view that needs them lasts, and above h.
    pub(super) fn forget_bodies_through(&mut self, stable: Seq) {
        self.batches.wanted.retain(|batch, _| batch.seq > stable);
    }
}
