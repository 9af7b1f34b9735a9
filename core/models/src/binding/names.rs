//! What is called what in the model and in the core: replicas, views, slots, and batches, which get their numbers in the
//! order in which they are seen.

use std::sync::Arc;

use bft_core::config::ClusterConfig;
use bft_core::ids::{self, Digest, ReplicaId, Seq};
use bft_core::wire::message::{BatchHeader, Position, PreparedCertificate};
use bft_core::wire::request::Body;

use super::Ended;
use crate::agreement::{Placed, REPLICAS, SLOTS, VALUES, Value, View};

/// A batch: its digest, its header, its Requests.
#[derive(Clone)]
pub struct Batch {
    /// D.
    pub digest: Digest,
    /// Its header.
    pub header: BatchHeader,
    /// Its Requests.
    pub body: Arc<Body>,
}

/// The dictionary.
pub struct Names {
    config: Arc<ClusterConfig>,
    ids: [ReplicaId; REPLICAS],
    slots: usize,
    last_view: View,
    /// By number; the null batch first.
    batches: Vec<Batch>,
}

impl Names {
    /// Numbers replicas by the first view that they lead.
    #[must_use]
    pub fn new(config: &Arc<ClusterConfig>, slots: usize, last_view: View) -> Self {
        let ids = std::array::from_fn(|replica| config.primary(ids::View(replica as u64)));
        let header = BatchHeader::NULL;
        let digest = header.digest(config.cluster_id(), config.epoch());
        let null = Batch { digest, header, body: Arc::default() };
        Self { config: Arc::clone(config), ids, slots, last_view, batches: vec![null] }
    }

    /// The core's name of a replica.
    #[must_use]
    pub fn id(&self, replica: usize) -> ReplicaId {
        self.ids[replica]
    }

    /// The model's view, if it has this one.
    pub fn view(&self, view: ids::View) -> Result<View, Ended> {
        let known = u8::try_from(view.0).ok().map(View).filter(|view| *view <= self.last_view);
        known.ok_or(Ended::BeyondTheViews)
    }

    /// The model's slot, if it has this one.
    #[must_use]
    pub fn slot(&self, seq: Seq) -> Option<usize> {
        let slot = usize::try_from(seq.0.checked_sub(1)?).ok()?;
        (slot < self.slots).then_some(slot)
    }

    /// The slots of the model.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// A batch gets its number, if it has none.
    pub fn note(&mut self, header: BatchHeader, body: &Arc<Body>) -> Result<Value, Ended> {
        let digest = header.digest(self.config.cluster_id(), self.config.epoch());
        if let Some(known) = self.number(digest) {
            return Ok(known);
        }
        if self.batches.len() == VALUES {
            return Err(Ended::BeyondTheValues);
        }
        self.batches.push(Batch { digest, header, body: Arc::clone(body) });
        Ok(Value(self.batches.len() as u8 - 1))
    }

    /// The number of a batch that was noted.
    #[must_use]
    pub fn number(&self, digest: Digest) -> Option<Value> {
        self.batches.iter().position(|batch| batch.digest == digest).map(|at| Value(at as u8))
    }

    /// The number of a batch that must have been noted.
    #[must_use]
    pub fn value(&self, digest: Digest) -> Value {
        self.number(digest).expect("every batch that is voted for was noted")
    }

    /// The batch of this number.
    #[must_use]
    pub fn batch(&self, value: Value) -> Option<&Batch> {
        self.batches.get(usize::from(value.0))
    }

    /// The digest of the null batch.
    #[must_use]
    pub fn null(&self) -> Digest {
        self.batches[0].digest
    }

    /// Batches that have numbers, null among them.
    pub fn values(&self) -> impl Iterator<Item = Value> + use<> {
        (0..self.batches.len() as u8).map(Value)
    }

    /// The core's name of a place.
    #[must_use]
    pub fn position(&self, view: View, slot: usize, value: Value) -> Option<Position> {
        let digest = self.batch(value)?.digest;
        Some(Position { epoch: self.config.epoch(), view: core_view(view), seq: core_seq(slot), digest })
    }

    /// The certificates, by slot.
    pub fn prepared(&self, certificates: &[PreparedCertificate]) -> Result<[Option<Placed>; SLOTS], Ended> {
        let mut prepared = [None; SLOTS];
        for PreparedCertificate { position: at, .. } in certificates {
            if let Some(slot) = self.slot(at.seq) {
                prepared[slot] = Some(Placed { view: self.view(at.view)?, value: self.value(at.digest) });
            }
        }
        Ok(prepared)
    }
}

/// The core's name of a view.
#[must_use]
pub fn core_view(view: View) -> ids::View {
    ids::View(view.0.into())
}

/// The core's name of a slot.
#[must_use]
pub fn core_seq(slot: usize) -> Seq {
    Seq(slot as u64 + 1)
}
