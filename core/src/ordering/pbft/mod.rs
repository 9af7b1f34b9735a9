//! PBFT: one primary proposes, a quorum prepares, a quorum commits (PROTOCOL §6, after Castro and Liskov, OSDI'99 §4.2, in
//! the version with signatures; COMMIT by nonce opening after Shamis et al., NSDI'22). Slots commit in any order; the
//! replica around this executes them in order. Here: the window of open slots and the normal case. What makes a checkpoint
//! stable is in `replica/checkpoints.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::auth::Scheme;
use crate::config::ClusterConfig;
use crate::ids::{Digest, LogPosition, ReplicaId, Seq, View};
use crate::limits::EARLY_BODY_BYTES;
use crate::ordering::Outbox;
use crate::wire::message::{BatchHeader, BatchId, CommitCertificate, PrePrepare};
use crate::wire::request::Body;

pub mod new_view;
mod normal;
mod retransmit;
pub mod slot;
mod view_change;

pub use normal::Ignored;
use slot::Slot;
use view_change::Views;

/// The ordering core of one replica.
pub struct Pbft {
    config: Arc<ClusterConfig>,
    me: ReplicaId,
    scheme: Arc<dyn Scheme>,
    commit_secret: Digest,
    /// The view it is in, or the one it goes to.
    view: View,
    views: Views,
    /// h: the last stable checkpoint. Slot i of the window is Seq h + 1 + i.
    stable: Seq,
    window: VecDeque<Slot>,
    /// PRE-PREPAREs of the next window, the first for each Seq (V11).
    early: BTreeMap<Seq, PrePrepare>,
    early_bytes: usize,
    /// The last Seq that this replica proposed in this view.
    proposed: Seq,
    /// The agreed time of the last batch that this replica proposed.
    proposed_time: u64,
    /// The highest Seq that is prepared here in the current view.
    highest_prepared: Seq,
    /// Bytes of bodies in the window.
    body_bytes: usize,
    body_bytes_max: usize,
    /// Own records that are not durable yet, and what becomes true with each.
    waiting: VecDeque<(LogPosition, Seq, Milestone)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Milestone {
    Vote,
    Cert,
}

impl Pbft {
    /// The core at a stable checkpoint, with an empty window.
    #[must_use]
    pub fn new(
        config: Arc<ClusterConfig>,
        me: ReplicaId,
        scheme: Arc<dyn Scheme>,
        view: View,
        stable: Seq,
        body_bytes_max: usize,
    ) -> Self {
        let commit_secret = scheme.commit_secret();
        let views = Views::new(view, config.n());
        let mut core = Self {
            config,
            me,
            scheme,
            commit_secret,
            view,
            views,
            stable,
            window: VecDeque::new(),
            early: BTreeMap::new(),
            early_bytes: 0,
            proposed: stable,
            proposed_time: 0,
            highest_prepared: Seq(0),
            body_bytes: 0,
            body_bytes_max,
            waiting: VecDeque::new(),
        };
        core.fill_window();
        core
    }

    /// The view that this replica is in, or the one it goes to.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// The primary of that view.
    #[must_use]
    pub fn primary(&self) -> ReplicaId {
        self.config.primary(self.view)
    }

    /// Whether that is this replica.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.primary() == self.me
    }

    /// h, the last stable checkpoint.
    #[must_use]
    pub fn stable(&self) -> Seq {
        self.stable
    }

    /// The slot of `seq`, if it is in the window.
    #[must_use]
    pub fn slot(&self, seq: Seq) -> Option<&Slot> {
        self.window.get(self.slot_index(seq)?)
    }

    /// All slots of the window, ascending.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.window.iter()
    }

    /// Slots with a proposal that are not committed yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.window.iter().filter(|slot| slot.accepted.is_some() && slot.committed.is_none()).count()
    }

    /// How many batches may be proposed now: 0 unless this is the primary, what its view must begin with is proposed, the
    /// window and the pipeline have room and memory holds another body.
    #[must_use]
    pub fn room(&self) -> usize {
        let params = self.config.params();
        let room_for_body = self.body_bytes + params.batch_bytes_max as usize <= self.body_bytes_max;
        if !self.is_primary() || !self.is_normal() || !self.has_begun() {
            return 0;
        }
        if !room_for_body || self.proposed.0 >= self.stable.0 + params.window {
            return 0;
        }
        (params.pipeline_max as usize).saturating_sub(self.in_flight())
    }

    /// The highest Seq that is prepared here in the current view.
    #[must_use]
    pub fn highest_prepared(&self) -> Seq {
        self.highest_prepared
    }

    /// The header of a batch that was voted for, prepared or committed here.
    #[must_use]
    pub fn header_of(&self, batch: BatchId) -> Option<BatchHeader> {
        let slot = self.slot(batch.seq)?;
        let accepted = slot.accepted.as_ref().map(|accepted| (accepted.position, accepted.header));
        let prepared = slot.prepared_before.as_ref().map(|prepared| (prepared.position, prepared.header));
        let committed = slot.committed.as_ref().map(|committed| (committed.position, committed.header));
        let known = [accepted, prepared, committed].into_iter().flatten();
        known.into_iter().find(|(at, _)| at.batch() == batch).map(|(_, header)| header)
    }

    /// Own open proposals whose bodies memory does not hold: after a restart.
    pub fn proposals_without_body(&self) -> impl Iterator<Item = BatchId> {
        let open = self.window.iter().filter(|slot| self.is_primary() && slot.committed.is_none());
        let accepted = open.filter_map(|slot| slot.accepted.as_ref());
        accepted.filter(|accepted| accepted.body.is_none()).map(|accepted| accepted.position.batch())
    }

    /// Such a body, read back.
    pub fn restore_body(&mut self, batch: BatchId, body: Arc<Body>) {
        let Some(index) = self.slot_index(batch.seq) else { return };
        let Some(accepted) = &mut self.window[index].accepted else { return };
        if accepted.position.batch() == batch && accepted.body.is_none() {
            self.body_bytes += body.bytes().len();
            accepted.body = Some(body);
        }
    }

    /// Moves h to `seq`: the slots up to it are forgotten, and given out, ascending. The certificate is durable.
    pub fn advance(&mut self, seq: Seq, out: &mut Outbox<'_>) -> Vec<Slot> {
        assert!(seq > self.stable, "the window never moves back");
        let count = usize::try_from(seq.0 - self.stable.0).unwrap_or(usize::MAX).min(self.window.len());
        let left: Vec<_> = self.window.drain(..count).collect();
        self.body_bytes -= left.iter().map(Slot::body_bytes).sum::<usize>();
        self.stable = seq;
        self.proposed = self.proposed.max(seq);
        self.views.forget_through(seq);
        self.waiting.retain(|(_, waiting, _)| *waiting > seq);
        self.fill_window();
        self.take_early(out);
        left
    }

    /// `seq` was executed: its body leaves memory as soon as its record is durable.
    pub fn executed(&mut self, seq: Seq) {
        if let Some(index) = self.slot_index(seq) {
            self.window[index].executed = true;
            self.release_body(index);
        }
    }

    /// A certificate from elsewhere says what is committed at `seq`, inside the window. Gives whether this was news, or
    /// the digest that is committed here already and differs.
    pub fn learn(&mut self, certificate: &Arc<CommitCertificate>, body: Arc<Body>) -> Result<bool, Digest> {
        let digest = certificate.position.digest;
        let Some(index) = self.slot_index(certificate.position.seq) else { return Ok(false) };
        let slot = &mut self.window[index];
        if let Some(known) = &slot.committed {
            return if known.position.digest == digest { Ok(false) } else { Err(known.position.digest) };
        }
        slot.committed = Some(Arc::clone(certificate));
        let accepted_it = slot.accepted.as_ref().is_some_and(|accepted| accepted.position.digest == digest);
        // Where memory is full the journal gives the body back in its turn.
        let held = slot.body_bytes();
        if !accepted_it && self.body_bytes + body.bytes().len() <= self.body_bytes_max {
            slot.other = Some((digest, body));
            self.body_bytes = self.body_bytes - held + slot.body_bytes();
        }
        Ok(true)
    }

    /// Recounts. For the invariants.
    pub fn check(&self) {
        let bytes: usize = self.window.iter().map(Slot::body_bytes).sum();
        assert_eq!(bytes, self.body_bytes, "bodies are counted right");
        assert_eq!(self.window.len() as u64, self.config.params().window);
        assert!((1..).zip(&self.window).all(|(i, slot)| slot.seq == self.stable.plus(i)), "the window has no gap");
        assert!(self.early_bytes <= EARLY_BODY_BYTES && self.early.len() as u64 <= self.config.params().window);
        for slot in &self.window {
            assert!(slot.cert_at.is_none() || slot.accepted.is_some(), "a certificate is of an accepted batch");
            if let (Some(accepted), Some(committed), Some(_)) = (&slot.accepted, &slot.committed, slot.cert_at) {
                let same_view = accepted.position.view == committed.position.view;
                assert!(
                    !same_view || accepted.position.digest == committed.position.digest,
                    "what is prepared and what is committed in one view is the same batch (L1)"
                );
            }
        }
    }

    fn release_body(&mut self, index: usize) {
        let slot = &mut self.window[index];
        let before = slot.body_bytes();
        slot.release_body();
        self.body_bytes = self.body_bytes - before + slot.body_bytes();
    }

    fn fill_window(&mut self) {
        let n = self.config.n();
        while (self.window.len() as u64) < self.config.params().window {
            let seq = self.stable.plus(self.window.len() as u64 + 1);
            self.window.push_back(Slot::new(seq, n));
        }
    }

    fn slot_index(&self, seq: Seq) -> Option<usize> {
        let index = usize::try_from(seq.0.checked_sub(self.stable.0 + 1)?).ok()?;
        (index < self.window.len()).then_some(index)
    }
}
