//! The bodies of the window, and the memory that they may take. Memory is a copy: the journal has every body that was voted
//! for or committed, and gives it back.
//!
//! Kept here: a body is counted once, and none that is only kept for later takes the room of one that is proposed now. A
//! primary proposes in the order of Seqs, within the same bound: so the lowest open Seq finds room at every backup, and
//! gives it back when it is executed.

use std::sync::Arc;

use super::Pbft;
use super::slot::Slot;
use crate::ids::{Digest, Seq};
use crate::wire::message::BatchId;
use crate::wire::request::Body;

impl Pbft {
    /// Whether memory holds the body of `batch`, `bytes` long, beside those that are open. Bodies kept from former views, or
    /// from peers, leave for it, the highest Seq first.
    #[must_use]
    pub fn make_room(&mut self, batch: BatchId, bytes: usize) -> bool {
        let (seq, digest) = (batch.seq, batch.digest);
        let is_held = self.slot(seq).is_some_and(|slot| slot.body_of(digest).is_some());
        if is_held {
            return true;
        }
        for index in (0..self.window.len()).rev() {
            if self.fits(bytes) {
                break;
            }
            self.change(index, |slot| slot.other = None);
        }
        self.fits(bytes)
    }

    /// Whether memory holds so many bytes beside all that it holds now.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.body_bytes + bytes <= self.body_bytes_max
    }

    /// Whether memory holds one more body, of whatever size, for a new proposal.
    pub(super) fn has_room_for_another(&self) -> bool {
        self.fits(self.config.params().batch_bytes_max as usize)
    }

    /// What a former view left here and the present one does not begin with is not kept: nobody proposes it at its Seq in
    /// this view, and a later one reads it back.
    pub(super) fn forget_other_bodies(&mut self) {
        for index in 0..self.window.len() {
            let slot = &self.window[index];
            let chosen = self.beginning().order.get(&slot.seq).map(|chosen| chosen.digest);
            let is_kept = |digest: Digest| slot.is_committed_as(digest) || chosen == Some(digest);
            if slot.other.as_ref().is_some_and(|(digest, _)| !is_kept(*digest)) {
                self.change(index, |slot| slot.other = None);
            }
        }
    }

    /// Own open proposals whose bodies memory does not hold, ascending: after a restart.
    pub fn proposals_without_body(&self) -> impl Iterator<Item = BatchId> {
        let open = self.window.iter().filter(|slot| self.is_primary() && slot.committed.is_none());
        let accepted = open.filter_map(|slot| slot.accepted.as_ref());
        accepted.filter(|accepted| accepted.body.is_none()).map(|accepted| accepted.position.batch())
    }

    /// Such a body, read back. The caller made room for it.
    pub fn restore_body(&mut self, batch: BatchId, body: Arc<Body>) {
        let Some(index) = self.slot_index(batch.seq) else { return };
        self.change(index, |slot| {
            let accepted = slot.accepted.as_mut().filter(|accepted| accepted.position.batch() == batch);
            if let Some(accepted) = accepted {
                accepted.body = Some(body);
            }
        });
    }

    /// The body of what is committed at its Seq, which the journal could not give back.
    pub fn restore_committed_body(&mut self, batch: BatchId, body: Arc<Body>) {
        let Some(index) = self.slot_index(batch.seq) else { return };
        if !self.make_room(batch, body.bytes().len()) {
            return;
        }
        self.change(index, |slot| match &mut slot.accepted {
            Some(accepted) if accepted.position.digest == batch.digest => accepted.body = Some(body),
            Some(_) | None => slot.other = Some((batch.digest, body)),
        });
    }

    /// Whether another batch was committed at `seq` than the one that was accepted here.
    #[must_use]
    pub fn is_overruled(&self, seq: Seq) -> bool {
        let Some(slot) = self.slot(seq) else { return false };
        slot.accepted.as_ref().is_some_and(|accepted| !slot.is_committed_as(accepted.position.digest))
    }

    /// `seq` was executed: its body leaves memory as soon as its record is durable.
    pub fn executed(&mut self, seq: Seq) {
        if let Some(index) = self.slot_index(seq) {
            self.change(index, |slot| {
                slot.executed = true;
                slot.release_body();
            });
        }
    }

    /// Counts anew. For the invariants.
    pub(super) fn check_bodies(&self) {
        let bytes: usize = self.window.iter().map(Slot::body_bytes).sum();
        assert_eq!(bytes, self.body_bytes, "bodies are counted right");
    }
}
