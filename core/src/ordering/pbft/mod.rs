//! PBFT: one primary proposes, a quorum prepares, a quorum commits (PROTOCOL §6, after Castro and Liskov, OSDI'99 §4.2, in
//! the version with signatures; COMMIT by nonce opening after Shamis et al., NSDI'22). Slots commit in any order; the
//! replica around this executes them in order. Here: the window of open slots and the normal case. What makes a checkpoint
//! stable is in `replica/checkpoints.rs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::auth::Scheme;
use crate::config::ClusterConfig;
use crate::evidence::Proof;
use crate::ids::{Digest, LogPosition, ReplicaId, Seq, View};
use crate::limits::EARLY_BODY_BYTES;
use crate::ordering::Outbox;
use crate::wire::message::{BatchHeader, BatchId, CommitCertificate, PrePrepare};
use crate::wire::request::Body;

mod bodies;
mod misbehaviour;
pub mod new_view;
mod normal;
mod recall;
pub mod retransmit;
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
    /// H_dmg: a journal was lost here in which votes up to this Seq may have stood. Silent until h reaches it.
    silent_through: Seq,
    standing: Standing,
    /// The replica around this does not trust its machine: silent until it does.
    is_quarantined: bool,
    window: VecDeque<Slot>,
    /// PRE-PREPAREs of the next window, the first for each Seq (V11).
    early: BTreeMap<Seq, PrePrepare>,
    early_bytes: usize,
    /// The last Seq that this replica proposed in this view.
    proposed: Seq,
    /// The highest Seq that is prepared here in the current view.
    highest_prepared: Seq,
    /// The highest Seq voted for in the current view: now, at the last own STATUS, and at the one before.
    voted_through: Seq,
    /// The lowest Seq voted for since this replica started, in whatever view.
    voted_from: Option<Seq>,
    settling: Seq,
    settled: Seq,
    /// Slots with a proposal that are not committed yet.
    open: usize,
    /// Bytes of bodies in the window.
    body_bytes: usize,
    body_bytes_max: usize,
    /// Own records that are not durable yet, and what becomes true with each.
    waiting: VecDeque<(LogPosition, Seq, Milestone)>,
    /// What was proved against others in this step.
    proofs: Vec<Proof>,
}

/// What a replica's signature is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has just started: its peers may hold something that it signed and does not know of.
    Asking,
    /// It votes, unless it is silent after damage.
    Voter,
    /// It signs nothing any more: what it once signed is lost.
    Learner,
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
        let window = (1..=config.params().window).map(|ahead| Slot::new(stable.plus(ahead), config.n())).collect();
        Self {
            config,
            me,
            scheme,
            commit_secret,
            view,
            views,
            stable,
            silent_through: Seq(0),
            standing: Standing::Asking,
            is_quarantined: false,
            window,
            early: BTreeMap::new(),
            early_bytes: 0,
            proposed: stable,
            highest_prepared: Seq(0),
            voted_through: stable,
            voted_from: None,
            settling: stable,
            settled: stable,
            open: 0,
            body_bytes: 0,
            body_bytes_max,
            waiting: VecDeque::new(),
            proofs: Vec::new(),
        }
    }

    /// After damage: nothing is signed for slots or views until h reaches `seq` (PROTOCOL §11, AMNESIA-LITE).
    #[must_use]
    pub fn silent_through(mut self, seq: Seq) -> Self {
        self.silent_through = seq;
        self
    }

    /// Whether this replica remembers every vote it may have cast above h, as far as its own disk can tell (D7).
    #[must_use]
    pub fn remembers(&self) -> bool {
        crate::mutant!(M49DamagedVotesEarly, self.stable >= self.silent_through, true)
    }

    /// Whether this replica votes, proposes and changes views: only who remembers every vote it may have cast above h (D7), of
    /// whom its peers know none that it lacks (D11), and who is not in quarantine.
    #[must_use]
    pub fn may_vote(&self) -> bool {
        let unasked = crate::mutant!(M62VotesUnasked, false, self.standing == Standing::Asking);
        self.remembers() && !self.is_quarantined && (self.standing == Standing::Voter || unasked)
    }

    /// What this replica's signature is good for.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// It votes no more, ever.
    pub fn learn_only(&mut self) {
        self.standing = Standing::Learner;
        self.forget_early();
    }

    /// Its peers know of nothing that it lacks: what waited for this is done.
    pub fn begin_to_vote(&mut self, out: &mut Outbox<'_>) {
        assert_eq!(self.standing, Standing::Asking, "a start is over once, and a learner votes no more");
        self.standing = Standing::Voter;
        (0..self.window.len()).for_each(|index| self.advance_slot(index, out));
    }

    /// Nothing is voted for, proposed or changed from now on. What was voted for before stays true.
    pub fn quarantine(&mut self) {
        self.is_quarantined = true;
        self.forget_early();
    }

    /// Takes part again: what became prepared meanwhile is committed.
    pub fn release(&mut self, out: &mut Outbox<'_>) {
        self.is_quarantined = false;
        for index in 0..self.window.len() {
            self.advance_slot(index, out);
        }
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
        self.open
    }

    /// How many batches may be proposed now: 0 unless this is the primary, what its view must begin with is proposed, the
    /// window and the pipeline have room and memory holds another body.
    #[must_use]
    pub fn room(&self) -> usize {
        let params = self.config.params();
        if !self.may_vote() || !self.is_primary() || !self.is_normal() || !self.has_begun() {
            return 0;
        }
        let end = crate::mutant!(M8WindowNotHeld, self.stable.0 + params.window, u64::MAX);
        if !self.has_room_for_another() || self.proposed.0 >= end {
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

    /// Moves h to `seq`: the slots up to it are shown to `leaves`, ascending, and forgotten. The certificate is durable.
    pub fn advance(&mut self, seq: Seq, out: &mut Outbox<'_>, mut leaves: impl FnMut(&Slot)) {
        assert!(seq > self.stable, "the window never moves back");
        let window = self.config.params().window;
        let count = (seq.0 - self.stable.0).min(window);
        for ahead in window - count + 1..=window {
            let mut slot = self.window.pop_front().expect("a window of slots");
            leaves(&slot);
            self.body_bytes -= slot.body_bytes();
            self.open -= usize::from(slot.is_open());
            slot.reuse(seq.plus(ahead));
            self.window.push_back(slot);
        }
        self.stable = seq;
        self.proposed = self.proposed.max(seq);
        self.views.forget_through(seq);
        self.waiting.retain(|(_, waiting, _)| *waiting > seq);
        self.take_early(out);
    }

    /// A certificate from elsewhere says what is committed at `seq`, inside the window. Gives whether this was news, or
    /// the digest that is committed here already and differs.
    pub fn learn(&mut self, certificate: &Arc<CommitCertificate>, body: Arc<Body>) -> Result<bool, Digest> {
        let digest = certificate.position.digest;
        let Some(index) = self.slot_index(certificate.position.seq) else { return Ok(false) };
        if let Some(known) = &self.window[index].committed {
            return if known.position.digest == digest { Ok(false) } else { Err(known.position.digest) };
        }
        let fits = self.fits(body.bytes().len());
        self.change(index, |slot| {
            slot.committed = Some(Arc::clone(certificate));
            let accepted_it = slot.accepted.as_ref().is_some_and(|accepted| accepted.position.digest == digest);
            // Where memory is full the journal gives the body back in its turn.
            slot.other = (!accepted_it && fits).then_some((digest, body));
        });
        Ok(true)
    }

    /// Recounts. For the invariants.
    pub fn check(&self) {
        self.check_bodies();
        let open = self.window.iter().filter(|slot| slot.is_open()).count();
        assert_eq!(open, self.open, "open slots are counted right");
        assert_eq!(self.window.len() as u64, self.config.params().window);
        assert!((1..).zip(&self.window).all(|(i, slot)| slot.seq == self.stable.plus(i)), "the window has no gap");
        assert!(self.may_vote() || self.early.is_empty(), "who is silent keeps no proposal to vote for later (D7)");
        assert!(self.early_bytes <= EARLY_BODY_BYTES && self.early.len() as u64 <= self.config.params().window);
        for slot in &self.window {
            assert!(self.remembers() || slot.accepted.is_none(), "who is silent has voted for nothing (D7)");
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

    /// Changes a slot, and keeps what is counted over all slots right.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut Slot)) {
        let slot = &mut self.window[index];
        let (bytes, open) = (slot.body_bytes(), usize::from(slot.is_open()));
        change(slot);
        self.body_bytes = self.body_bytes - bytes + slot.body_bytes();
        self.open = self.open - open + usize::from(slot.is_open());
    }

    fn slot_index(&self, seq: Seq) -> Option<usize> {
        let index = usize::try_from(seq.0.checked_sub(self.stable.0 + 1)?).ok()?;
        (index < self.window.len()).then_some(index)
    }
}
