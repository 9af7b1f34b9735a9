//! Before the first vote of a start (PROTOCOL §11, D11): every peer is asked what it holds under this replica's signature
//! that its disk does not know of, again and again until a quorum has answered, this replica among it. Whoever is asked
//! answers at once, also while it asks itself: a whole cluster that starts needs one round trip.
//!
//! A signature that is missing proves that the disk went back in time, superblock included, because everything is durable
//! before it is signed. Such a replica votes no more, and its superblock says so: it is a learner. It goes on to execute,
//! to answer and to give others what they lack.
//!
//! Answers show what memories hold, and windows move on: who was away for long may pass. So every commit certificate that
//! is fetched later, of a Seq below all votes of this life, is compared with the same question, and so is an own NEW-VIEW
//! that comes back.
//!
//! Kept here: nothing but the replica's own signature makes it a learner, and only one that its disk must know; answers
//! count for the question of this very start, and only until it votes, because what it signs from then on the question does
//! not know of.

use std::sync::Arc;

use super::Replica;
use crate::door::{Effects, Lane, Now, To};
use crate::ids::{LogPosition, Nanos, ReplicaId, View};
use crate::journal::superblock::Learner;
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::quorum::ReplicaSet;
use crate::wire::message::{CommitCertificate, Message, NewView};
use crate::wire::recall::{Held, Recall, Recalled};

/// Answers that a peer gets in one STATUS interval: they can be large.
const ANSWERS_PER_INTERVAL: u64 = 4;

/// What was asked at this start, and who has answered.
#[derive(Debug)]
pub struct Handshake {
    /// What it knew of when it started: the question. None: a learner.
    question: Option<Recall>,
    stage: Stage,
    answered: ReplicaSet,
    /// When each peer was last answered here.
    told: Vec<Option<Nanos>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A quorum has not answered yet.
    Asking,
    Over,
}

impl Handshake {
    /// Nothing is asked, and none of `n` replicas was answered.
    #[must_use]
    pub fn new(n: usize) -> Self {
        Self { question: None, stage: Stage::Over, answered: ReplicaSet::EMPTY, told: vec![None; n] }
    }

    /// Whether a quorum has not answered yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Asking
    }

    /// Whether `peer` gets an answer at `now`.
    fn may_answer(&mut self, peer: ReplicaId, now: Nanos, interval: u64) -> bool {
        let told = &mut self.told[peer.index()];
        let is_due = told.is_none_or(|told| now.since(told) >= interval / ANSWERS_PER_INTERVAL);
        *told = if is_due { Some(now) } else { *told };
        is_due
    }
}

impl Replica {
    /// Everything was read back: peers are asked, unless this replica votes no more anyway.
    pub(super) fn begin_handshake(&mut self, now: Now, out: &mut Effects) {
        if self.superblock.learner.is_some() {
            return self.pbft.learn_only();
        }
        // A disk that went back gives the number of an instance a second time; the clocks tell the two apart.
        let start = self.superblock.instance.rotate_left(32) ^ now.wall.0 ^ now.mono.0.rotate_left(16);
        self.handshake.question = Some(self.pbft.memory(start));
        self.handshake.stage = Stage::Asking;
        self.vote_when_answered(out);
    }

    /// Asks those that have not answered.
    pub(super) fn ask_peers(&mut self, out: &mut Effects) {
        let Some(question) = self.handshake.question.as_ref().filter(|_| self.handshake.is_open()) else { return };
        let known = self.handshake.answered.with(self.me);
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        for peer in self.config.replicas().filter(|peer| !known.contains(*peer)) {
            outbox.send(To::One(peer), Lane::Control, Message::Recall(question.clone()), LogPosition(0));
        }
    }

    /// A peer starts, and asks.
    pub(super) fn on_recall(
        &mut self,
        now: Now,
        from: ReplicaId,
        question: &Recall,
        out: &mut Effects,
    ) -> Result<(), Ignored> {
        if !self.handshake.may_answer(from, now.mono, self.tuning.status_busy) {
            return Err(Ignored::Duplicate);
        }
        let held = self.pbft.held_of(from, question);
        let answer = Recalled { epoch: question.epoch, start: question.start, held };
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(To::One(from), Lane::Control, Message::Recalled(answer), LogPosition(0));
        Ok(())
    }

    /// A peer answers. What proves nothing is an answer all the same: a liar could as well have shown nothing.
    pub(super) fn on_recalled(&mut self, from: ReplicaId, answer: &Recalled, out: &mut Effects) -> Result<(), Ignored> {
        let question = self.handshake.question.as_ref().filter(|question| question.start == answer.start);
        let question = question.filter(|_| self.handshake.is_open()).ok_or(Ignored::NotNeeded)?;
        let own = answer.held.as_ref().filter(|held| held.signer(&self.config) == self.me);
        if let Some(held) = own.filter(|held| question.lacks(held)) {
            self.become_learner(held, out);
            return Ok(());
        }
        self.handshake.answered.insert(from);
        self.vote_when_answered(out);
        Ok(())
    }

    /// A commit certificate was fetched.
    pub(super) fn compare_with_memory(&mut self, certificate: &CommitCertificate, out: &mut Effects) {
        let Some(question) = &self.handshake.question else { return };
        if let Some(held) = self.pbft.earlier_vote_in(certificate).filter(|held| question.lacks(held)) {
            self.become_learner(&held, out);
        }
    }

    /// A NEW-VIEW under the own signature comes back, of a view that did not begin here: in this life it was not made.
    pub(super) fn compare_own_new_view(&mut self, message: &Arc<NewView>, out: &mut Effects) {
        let held = Held::NewView(Arc::clone(message));
        if self.handshake.question.as_ref().is_some_and(|question| question.lacks(&held)) {
            self.become_learner(&held, out);
        }
    }

    /// Whether this replica may sign anything at all, as far as its start goes.
    pub(super) fn is_sworn_in(&self) -> bool {
        !self.handshake.is_open() && self.superblock.learner.is_none()
    }

    /// A promise that the journal knew of and the superblock did not is durable before anything is signed in its view (P4).
    pub(super) fn vote_when_answered(&mut self, out: &mut Effects) {
        if !self.handshake.is_open() {
            return;
        }
        let is_answered = self.config.weights().is_quorum(self.handshake.answered.with(self.me));
        let is_promised = crate::mutant!(M12PromiseNotWaitedFor, self.views_need <= self.durable, true);
        if !is_answered || !is_promised {
            return;
        }
        self.handshake.stage = Stage::Over;
        self.pbft.begin_to_vote(&mut Outbox::new(out, &mut self.last, &mut self.index));
        self.sign_checkpoints(out);
        self.sign_snapshots(out);
    }

    /// `held` is missing here: no vote leaves any more, not even one that waits for its record. A CHECKPOINT or VIEW-CHANGE
    /// that waits is of this life, and contradicts nothing that this life knows of.
    fn become_learner(&mut self, held: &Held, out: &mut Effects) {
        let (view, seq) = held.place();
        (self.handshake.question, self.handshake.stage) = (None, Stage::Over);
        self.pbft.learn_only();
        out.cancel_votes_below = Some(View(u64::MAX));
        self.superblock.learner = Some(Learner::WentBack { view, seq });
        Outbox::new(out, &mut self.last, &mut self.index).persist_superblock(self.superblock.clone());
    }
}
