//! The normal case: PRE-PREPARE, PREPARE, COMMIT (PROTOCOL §6). Handlers filter first, each reason named; then they act.

use std::sync::Arc;

use super::new_view::Chosen;
use super::slot::{Accepted, Slot};
use super::{Milestone, Pbft};
use crate::door::{Lane, Now, To};
use crate::ids::{Digest, LogPosition, Seq, View};
use crate::journal::record::{Committed, Record, Vote};
use crate::limits::{CLOCK_AHEAD_MAX, EARLY_BODY_BYTES};
use crate::ordering::Outbox;
use crate::quorum::Voted;
use crate::wire::canonical::{self, commit_nonce, opening};
use crate::wire::message::{
    Ballot, Commit, CommitCertificate, Message, Position, PrePrepare, Prepare, PreparedCertificate,
};
use crate::wire::request::Body;

/// Why a valid message changed nothing. Normal where links lose, double and reorder; counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each says itself")]
pub enum Ignored {
    OtherView,
    BelowWindow,
    AboveWindow,
    Duplicate,
    OwnMessage,
    ClockAhead,
    MemoryFull,
    /// Not what the view must begin with.
    NotInBeginning,
    /// Contradicts what its signer said before. Where both were signed, that is evidence.
    Conflicting,
    /// Of a kind that this version knows and does not act on.
    NotActedOn,
    /// Asks for a vote of a replica that must be silent: after damage, at its start, in quarantine, or as a learner.
    Silent,
    NotNeeded,
}

impl Pbft {
    /// Proposes `body` at the next Seq. The caller asked [`Pbft::room`] first.
    pub fn propose(&mut self, now: Now, body: Body, out: &mut Outbox<'_>) -> Seq {
        assert!(self.room() > 0, "proposals are bounded by the window, the pipeline and memory");
        let seq = self.proposed.next();
        // Not made to grow here: after a clock that was far ahead backups would refuse it (O3). Execution does that.
        let header = body.header(now.wall.0);
        let digest = header.digest(self.config.cluster_id(), self.config.epoch());
        self.proposed = seq;
        self.propose_at(seq, Chosen { digest, header }, Arc::new(body), out);
        seq
    }

    /// Proposes at `seq` what this view must begin with there.
    pub fn propose_again(&mut self, seq: Seq, chosen: Chosen, body: Arc<Body>, out: &mut Outbox<'_>) {
        self.proposed_again(seq);
        self.propose_at(seq, chosen, body, out);
    }

    fn propose_at(&mut self, seq: Seq, Chosen { digest, header }: Chosen, body: Arc<Body>, out: &mut Outbox<'_>) {
        let position = Position { epoch: self.config.epoch(), view: self.view, seq, digest };
        let commitment = opening(&commit_nonce(&self.commit_secret, &position));
        let bytes = canonical::pre_prepare(self.config.cluster_id(), &position, commitment);
        let ballot = Ballot { commitment, signature: self.scheme.sign(&bytes) };
        let pre_prepare = PrePrepare { position, ballot, header, body };
        let needs = self.accept(pre_prepare.clone(), None, out);
        out.send(To::All, Lane::Ordering, Message::PrePrepare(pre_prepare), needs);
    }

    /// A PRE-PREPARE of the view's primary; the verifier checked the signatures and the body.
    pub fn on_pre_prepare(&mut self, now: Now, pre_prepare: PrePrepare, out: &mut Outbox<'_>) -> Result<(), Ignored> {
        let Position { view, seq, digest, .. } = pre_prepare.position;
        self.in_view(view)?;
        if self.is_primary() {
            return Err(Ignored::OwnMessage);
        }
        if !self.may_vote() {
            return Err(Ignored::Silent);
        }
        let is_new = seq > self.beginning().last();
        let is_ahead = is_new && pre_prepare.header.time_ns > now.wall.0.saturating_add(CLOCK_AHEAD_MAX);
        if let Err(ignored) = self.fits_beginning(seq, digest) {
            self.judge_beginning(&pre_prepare);
            return Err(ignored);
        }
        let Some(index) = self.slot_index(seq) else {
            return self.buffer_early(pre_prepare, is_ahead);
        };
        let slot = &self.window[index];
        let counts = |accepted: &&Accepted| {
            crate::mutant!(M7SecondProposalAccepted, accepted.position.view == view, accepted.position.digest == digest)
        };
        if let Some(accepted) = slot.accepted.as_ref().filter(counts) {
            if accepted.position.digest == digest {
                return Err(Ignored::Duplicate);
            }
            let known = (accepted.position, accepted.proposal);
            self.judge_proposal(known, &pre_prepare);
            return Err(Ignored::Conflicting);
        }
        // What the view begins with is voted for although it is committed here: others may need the votes.
        if let Some(certificate) =
            slot.committed.as_ref().filter(|_| crate::mutant!(M50CommittedNotVotedFor, is_new, true))
        {
            let known = (certificate.position, certificate.proposal);
            self.judge_proposal(known, &pre_prepare);
            return Err(Ignored::NotNeeded);
        }
        // Only now: what contradicts another proposal is evidence, whatever its time (S3).
        if is_ahead {
            return Err(Ignored::ClockAhead);
        }
        if !self.make_room(pre_prepare.position.batch(), pre_prepare.body.bytes().len()) {
            return Err(Ignored::MemoryFull);
        }
        self.vote(pre_prepare, out);
        Ok(())
    }

    /// A backup's PREPARE.
    pub fn on_prepare(&mut self, prepare: &Prepare, out: &mut Outbox<'_>) -> Result<(), Ignored> {
        crate::mutant!(M4VotesPooledOverViews, self.in_view(prepare.position.view), Ok(()))?;
        if prepare.replica == self.me {
            return Err(Ignored::OwnMessage);
        }
        let index = self.index_in_window(prepare.position.seq)?;
        self.judge_prepare(index, prepare);
        let voted = self.window[index].prepares.vote(prepare.replica, prepare.position.digest, prepare.ballot);
        match voted {
            Voted::Conflicts => Err(Ignored::Conflicting),
            Voted::Again => crate::mutant!(M2DuplicatesCounted, Err(Ignored::Duplicate), {
                self.advance_slot(index, out);
                Ok(())
            }),
            Voted::New => {
                self.judge_late(index, prepare.replica);
                self.advance_slot(index, out);
                Ok(())
            }
        }
    }

    /// A COMMIT, of the peer whose link it came on.
    pub fn on_commit(&mut self, commit: &Commit, out: &mut Outbox<'_>) -> Result<(), Ignored> {
        crate::mutant!(M4VotesPooledOverViews, self.in_view(commit.position.view), Ok(()))?;
        let index = self.index_in_window(commit.position.seq)?;
        match self.window[index].commits.vote(commit.replica, commit.position.digest, commit.nonce) {
            Voted::New => {
                self.judge_late(index, commit.replica);
                self.advance_slot(index, out);
                Ok(())
            }
            Voted::Again => Err(Ignored::Duplicate),
            Voted::Conflicts => Err(Ignored::Conflicting),
        }
    }

    /// Every record up to `through` is durable: own votes and certificates among them count from now on.
    pub fn on_durable(&mut self, through: LogPosition, out: &mut Outbox<'_>) {
        while let Some((at, seq, milestone)) = self.waiting.front().copied() {
            if at > through {
                return;
            }
            self.waiting.pop_front();
            let index = self.slot_index(seq).expect("what waits is in the window");
            self.reach(index, milestone);
            self.change(index, Slot::release_body);
            self.advance_slot(index, out);
        }
    }

    /// Nothing is voted for that was proposed beyond the window.
    pub(super) fn forget_early(&mut self) {
        self.early.clear();
        self.early_bytes = 0;
    }

    /// Takes from the early buffer what the window has reached.
    pub(super) fn take_early(&mut self, out: &mut Outbox<'_>) {
        let end = self.stable.plus(self.config.params().window);
        while let Some(entry) = self.early.first_entry()
            && *entry.key() <= end
        {
            let pre_prepare = entry.remove();
            self.early_bytes -= pre_prepare.body.bytes().len();
            let Some(index) = self.slot_index(pre_prepare.position.seq) else { continue };
            let slot = &self.window[index];
            let is_free = slot.accepted.is_none() && slot.committed.is_none();
            if is_free && self.make_room(pre_prepare.position.batch(), pre_prepare.body.bytes().len()) {
                self.vote(pre_prepare, out);
            }
        }
    }

    /// A VOTE read back from the journal: it is durable, and stands.
    pub fn restore_vote(&mut self, vote: &Vote, body: Option<Arc<Body>>) {
        let Some(index) = self.slot_index(vote.position.seq) else { return };
        if vote.position.view != self.view {
            return;
        }
        let own = (!self.is_primary()).then(|| self.make_prepare(&vote.position).ballot);
        let accepted = Accepted {
            position: vote.position,
            proposal: vote.proposal,
            header: vote.header,
            body,
            own,
            vote_at: LogPosition(0),
            vote_is_durable: false,
        };
        self.voted_through = self.voted_through.max(vote.position.seq);
        self.change(index, |slot| slot.accept(accepted));
        self.reach(index, Milestone::Vote);
        if self.is_primary() {
            self.proposed = self.proposed.max(vote.position.seq);
            self.proposed_again(vote.position.seq);
        }
    }

    /// A CERT read back from the journal.
    pub fn restore_certificate(&mut self, certificate: &PreparedCertificate) {
        let Some(index) = self.slot_index(certificate.position.seq) else { return };
        let slot = &mut self.window[index];
        if certificate.position.view != self.view {
            let known = slot.prepared_before.as_ref().map(|known| known.position.view);
            if known.is_none_or(|known| known < certificate.position.view) {
                slot.prepared_before = Some(certificate.clone());
            }
            return;
        }
        for (replica, ballot) in &certificate.prepares {
            slot.prepares.vote(*replica, certificate.position.digest, *ballot);
        }
        slot.cert_at = Some(LogPosition(0));
        self.highest_prepared = self.highest_prepared.max(certificate.position.seq);
        self.reach(index, Milestone::Cert);
    }

    /// A COMMITTED read back from the journal.
    pub fn restore_committed(&mut self, certificate: Arc<CommitCertificate>) {
        let Some(index) = self.slot_index(certificate.position.seq) else { return };
        self.change(index, |slot| {
            slot.committed = Some(certificate);
            // The execution reads it back in its turn: only open batches are kept in memory.
            if let Some(accepted) = &mut slot.accepted {
                accepted.body = None;
            }
        });
    }

    /// Accepts a proposal of another, and sends the own PREPARE for it once the VOTE is durable.
    fn vote(&mut self, pre_prepare: PrePrepare, out: &mut Outbox<'_>) {
        let prepare = self.make_prepare(&pre_prepare.position);
        let vote_at = self.accept(pre_prepare, Some(prepare.ballot), out);
        let needs = crate::mutant!(M11PrepareBeforeVote, vote_at, LogPosition(0));
        out.send(To::All, Lane::Ordering, Message::Prepare(prepare), needs);
    }

    /// Puts a proposal into its slot and persists the VOTE (P1, P2).
    fn accept(&mut self, pre_prepare: PrePrepare, own: Option<Ballot>, out: &mut Outbox<'_>) -> LogPosition {
        let PrePrepare { position, ballot, header, body } = pre_prepare;
        assert!(position.view == self.view, "votes are cast in the view that this replica is in (V7)");
        assert!(self.may_vote(), "who does not know what it voted for votes for nothing (D7)");
        let index = self.slot_index(position.seq).expect("only what is in the window is accepted");
        let held = out.holds_body(position.seq, position.digest);
        let vote = Vote { position, proposal: ballot, header, body: (!held).then(|| body.bytes().clone()) };
        let vote_at = out.persist(Record::Vote(vote));
        self.waiting.push_back((vote_at, position.seq, Milestone::Vote));
        assert!(self.window[index].accepted.is_none(), "one vote for each Seq and view (S8)");
        let body = Some(body);
        let accepted = Accepted { position, proposal: ballot, header, body, own, vote_at, vote_is_durable: false };
        self.voted_through = self.voted_through.max(position.seq);
        self.voted_from = Some(self.voted_from.map_or(position.seq, |first| first.min(position.seq)));
        self.change(index, |slot| slot.accept(accepted));
        self.advance_slot(index, out);
        vote_at
    }

    /// What a record of this replica makes true once it is durable.
    fn reach(&mut self, index: usize, milestone: Milestone) {
        let slot = &mut self.window[index];
        let Some(accepted) = &mut slot.accepted else { return };
        let position = accepted.position;
        match milestone {
            Milestone::Vote => {
                accepted.vote_is_durable = true;
                if let Some(own) = accepted.own {
                    slot.prepares.vote(self.me, position.digest, own);
                }
            }
            Milestone::Cert => {
                slot.cert_is_durable = true;
                slot.commits.vote(self.me, position.digest, commit_nonce(&self.commit_secret, &position));
            }
        }
    }

    /// Does what a slot has become ready for.
    pub(super) fn advance_slot(&mut self, index: usize, out: &mut Outbox<'_>) {
        let slot = &self.window[index];
        if slot.cert_at.is_none() && slot.is_prepared(&self.config) && self.may_vote() {
            self.prepared(index, out);
        }
        let primary = self.primary();
        let slot = &mut self.window[index];
        if slot.cert_at.is_some() && slot.committed.is_none() {
            let openers = slot.openers(primary);
            if self.config.weights().is_quorum(openers) {
                let certificate = slot.commit_certificate(openers, primary);
                self.committed(index, certificate, out);
            }
        }
    }

    /// Prepared for the first time: persists CERT (P3); COMMIT leaves when that is durable.
    fn prepared(&mut self, index: usize, out: &mut Outbox<'_>) {
        let certificate = self.window[index].prepared_certificate(&self.config);
        let position = certificate.position;
        let cert_at = out.persist(Record::Cert(certificate));
        self.window[index].cert_at = Some(cert_at);
        self.highest_prepared = self.highest_prepared.max(position.seq);
        self.waiting.push_back((cert_at, position.seq, Milestone::Cert));
        let needs = crate::mutant!(M10CommitBeforeCertificate, cert_at, LogPosition(0));
        out.send(To::All, Lane::Ordering, Message::Commit(self.own_commit(&position)), needs);
    }

    fn committed(&mut self, index: usize, certificate: CommitCertificate, out: &mut Outbox<'_>) {
        // The VOTE at this Seq holds the body: what is committed by votes is what was accepted.
        let certificate = Arc::new(certificate);
        out.persist(Record::Committed(Committed { certificate: Arc::clone(&certificate), body: None }));
        self.change(index, |slot| slot.committed = Some(certificate));
    }

    fn make_prepare(&self, position: &Position) -> Prepare {
        let commitment = opening(&commit_nonce(&self.commit_secret, position));
        let bytes = canonical::prepare(self.config.cluster_id(), position, self.me, commitment);
        let ballot = Ballot { commitment, signature: self.scheme.sign(&bytes) };
        Prepare { position: *position, replica: self.me, ballot }
    }

    pub(super) fn own_commit(&self, position: &Position) -> Commit {
        let nonce = commit_nonce(&self.commit_secret, position);
        Commit { position: *position, replica: self.me, nonce }
    }

    fn buffer_early(&mut self, pre_prepare: PrePrepare, is_ahead: bool) -> Result<(), Ignored> {
        let seq = pre_prepare.position.seq;
        if seq <= self.stable {
            return Err(Ignored::BelowWindow);
        }
        let bytes = pre_prepare.body.bytes().len();
        if let Some(known) = self.early.get(&seq) {
            let known = (known.position, known.ballot);
            self.judge_proposal(known, &pre_prepare);
            return Err(Ignored::Duplicate);
        }
        if is_ahead {
            return Err(Ignored::ClockAhead);
        }
        let windows = crate::mutant!(M9EarlyProposalDropped, 2, 1);
        let far = self.stable.plus(windows * self.config.params().window);
        let is_too_much = seq > far || self.early_bytes + bytes > EARLY_BODY_BYTES;
        if crate::mutant!(M44EarlyWithoutBound, is_too_much, false) {
            return Err(Ignored::AboveWindow);
        }
        self.early_bytes += bytes;
        self.early.insert(seq, pre_prepare);
        Ok(())
    }

    fn in_view(&self, view: View) -> Result<(), Ignored> {
        let votes = crate::mutant!(M13VotesOnTheWay, self.is_normal(), true);
        if view == self.view && votes { Ok(()) } else { Err(Ignored::OtherView) }
    }

    fn fits_beginning(&self, seq: Seq, digest: Digest) -> Result<(), Ignored> {
        let allows = self.beginning().allows(seq, digest, self.null_digest());
        let fits = crate::mutant!(M19BeginningNotCompared, allows, true);
        if fits { Ok(()) } else { Err(Ignored::NotInBeginning) }
    }

    fn index_in_window(&self, seq: Seq) -> Result<usize, Ignored> {
        if seq <= self.stable {
            return Err(Ignored::BelowWindow);
        }
        self.slot_index(seq).ok_or(Ignored::AboveWindow)
    }
}
