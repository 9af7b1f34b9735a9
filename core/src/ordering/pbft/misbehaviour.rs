//! Where a second statement of a replica meets a first one that it contradicts: what was seen here of both becomes a proof
//! (PROTOCOL §15), which the replica around this keeps and passes on. Statements are looked for where they lie anyway: in
//! the slots of the window, in certificates, and in VIEW-CHANGEs. Nothing is kept for the purpose but the openings of
//! views that were left: the last of each replica for each slot.

use std::sync::Arc;

use super::Pbft;
use super::slot::Slot;
use crate::config::ClusterConfig;
use crate::evidence::{Opened, Proof, SignedVote};
use crate::ids::{ReplicaId, Seq, View};
use crate::wire::canonical::opening;
use crate::wire::message::{
    Ballot, CommitCertificate, NewView, Position, PrePrepare, Prepare, PreparedCertificate, ViewChange,
};

/// Proofs that one step keeps for the replica around this. What it does not keep is found again, or has been found.
const PROOFS_PER_STEP: usize = 64;

/// What a certificate shows that its members said.
struct Said<'a> {
    position: Position,
    proposal: &'a Ballot,
    prepares: Vec<(ReplicaId, &'a Ballot)>,
}

impl<'a> From<&'a PreparedCertificate> for Said<'a> {
    fn from(certificate: &'a PreparedCertificate) -> Self {
        let PreparedCertificate { position, proposal, prepares, .. } = certificate;
        let prepares = prepares.iter().map(|(replica, ballot)| (*replica, ballot)).collect();
        Self { position: *position, proposal, prepares }
    }
}

impl<'a> From<&'a CommitCertificate> for Said<'a> {
    fn from(certificate: &'a CommitCertificate) -> Self {
        let CommitCertificate { position, proposal, commits, .. } = certificate;
        let prepares = commits.iter().map(|(replica, ballot, _)| (*replica, ballot)).collect();
        Self { position: *position, proposal, prepares }
    }
}

fn vote(position: &Position, ballot: &Ballot) -> SignedVote {
    SignedVote { digest: position.digest, ballot: *ballot }
}

/// Whether they are for two batches at one place.
fn contradict(one: &Position, other: &Position) -> bool {
    one.view == other.view && one.seq == other.seq && one.digest != other.digest
}

/// What two certificates prove against those who are in both.
fn between(one: &Said<'_>, other: &Said<'_>) -> Vec<Proof> {
    let Position { view, seq, .. } = one.position;
    if !contradict(&one.position, &other.position) {
        return Vec::new();
    }
    let votes = |one_ballot, other_ballot| (vote(&one.position, one_ballot), vote(&other.position, other_ballot));
    let (first, second) = votes(one.proposal, other.proposal);
    let mut proofs = vec![Proof::two_proposals(view, seq, first, second)];
    for (replica, ballot) in &one.prepares {
        let again = other.prepares.iter().find(|(voter, _)| voter == replica);
        proofs.extend(again.map(|(_, other_ballot)| {
            let (first, second) = votes(ballot, other_ballot);
            Proof::two_prepares(*replica, view, seq, first, second)
        }));
    }
    proofs
}

impl CommitCertificate {
    /// That `replica` sent its COMMIT, if this certificate shows it.
    fn opened_by(&self, replica: ReplicaId, primary: ReplicaId) -> Option<Opened> {
        let position = self.position;
        if replica == primary {
            return self.opening.map(|nonce| Opened { position, ballot: self.proposal, nonce });
        }
        let (_, ballot, nonce) = self.commits.iter().find(|(voter, _, _)| *voter == replica)?;
        Some(Opened { position, ballot: *ballot, nonce: *nonce })
    }
}

impl Slot {
    /// That `replica` sent its COMMIT in the view `at`, if it is the one that this slot's votes are of.
    fn opened_by(&self, config: &ClusterConfig, at: View, replica: ReplicaId) -> Option<Opened> {
        let (digest, nonce) = self.commits.get(replica)?;
        let ballot = if replica == config.primary(at) {
            self.accepted.as_ref().filter(|accepted| accepted.position.digest == digest)?.proposal
        } else {
            self.prepares.get(replica).filter(|(voted, _)| *voted == digest).map(|(_, ballot)| *ballot)?
        };
        let position = Position { epoch: config.epoch(), view: at, seq: self.seq, digest };
        (opening(nonce) == ballot.commitment).then_some(Opened { position, ballot, nonce: *nonce })
    }

    /// Keeps who sent a COMMIT in the view `left`, which is being left.
    pub(super) fn keep_openings(&mut self, config: &ClusterConfig, left: View) {
        for replica in config.replicas() {
            if let Some(opened) = self.opened_by(config, left, replica) {
                self.openings.retain(|(of, _)| *of != replica);
                self.openings.push((replica, opened));
            }
        }
    }
}

impl Pbft {
    /// What was proved since the last time.
    pub fn take_proofs(&mut self) -> Vec<Proof> {
        std::mem::take(&mut self.proofs)
    }

    /// Something is proved.
    pub fn prove(&mut self, proof: Proof) {
        if self.proofs.len() < PROOFS_PER_STEP {
            self.proofs.push(proof);
        }
    }

    /// A certificate is shown: compares it with what was seen of its place, and with VIEW-CHANGEs that came before it.
    pub fn judge_committed(&mut self, certificate: &CommitCertificate) {
        self.judge_certificate(&Said::from(certificate));
        let Position { view, seq, .. } = certificate.position;
        let primary = self.config.primary(view);
        let later = self.views.received.iter().flatten();
        let later = later.filter(|message| message.view > view && !message.answers_for(view, seq));
        let opened = later.filter_map(|message| Some((certificate.opened_by(message.replica, primary)?, message)));
        let proofs = opened.map(|(opened, message)| Proof::Amnesia { opened, view_change: Arc::clone(message) });
        let proofs: Vec<_> = proofs.collect();
        proofs.into_iter().for_each(|proof| self.prove(proof));
    }

    /// A VIEW-CHANGE is shown, by its sender or in a NEW-VIEW.
    pub fn judge_view_change(&mut self, message: &ViewChange) {
        for certificate in &message.prepared {
            self.judge_certificate(&Said::from(certificate));
        }
        let above = self.window.iter().filter(|slot| slot.seq > message.stable());
        let forgotten = above.filter_map(|slot| self.forgotten(slot, message)).next();
        if let Some(opened) = forgotten {
            self.prove(Proof::Amnesia { opened, view_change: Arc::new(message.clone()) });
        }
    }

    /// Two certificates in a NEW-VIEW are for one place and two batches.
    pub fn judge_two_prepared(&mut self, new_view: &NewView, seq: Seq, view: View) {
        let of_place =
            |certificate: &&PreparedCertificate| certificate.position.seq == seq && certificate.position.view == view;
        let all = new_view.view_changes.iter().flat_map(|message| &message.prepared).filter(of_place);
        let mut all: Vec<_> = all.map(Said::from).collect();
        let Some(first) = all.pop() else { return };
        let proofs: Vec<_> = all.iter().flat_map(|other| between(&first, other)).collect();
        proofs.into_iter().for_each(|proof| self.prove(proof));
    }

    /// A PRE-PREPARE for a place at which another one is known.
    pub(super) fn judge_proposal(&mut self, known: (Position, Ballot), other: &PrePrepare) {
        let at = other.position;
        if contradict(&known.0, &at) {
            let (one, other) = (vote(&known.0, &known.1), vote(&at, &other.ballot));
            self.prove(Proof::two_proposals(at.view, at.seq, one, other));
        }
    }

    /// A PRE-PREPARE that is not what its view must begin with.
    pub(super) fn judge_beginning(&mut self, proposal: &PrePrepare) {
        let Some(new_view) = self.new_view().cloned() else { return };
        let against = Some((proposal.position.seq, vote(&proposal.position, &proposal.ballot)));
        self.prove(Proof::FalseNewView { new_view, against });
    }

    /// A PREPARE, beside the one that stands and the certificate that may be here.
    pub(super) fn judge_prepare(&mut self, index: usize, prepare: &Prepare) {
        let Prepare { position: at, replica, ballot } = prepare;
        let slot = &self.window[index];
        let standing = slot.prepares.get(*replica).map(|(digest, ballot)| SignedVote { digest, ballot: *ballot });
        let certified = slot.committed.as_ref().filter(|certificate| contradict(&certificate.position, at));
        let certified = certified.and_then(|certificate| {
            let (_, ballot, _) = certificate.commits.iter().find(|(voter, _, _)| voter == replica)?;
            Some(vote(&certificate.position, ballot))
        });
        let known = [standing, certified].into_iter().flatten().find(|known| known.digest != at.digest);
        if let Some(known) = known {
            self.prove(Proof::two_prepares(*replica, at.view, at.seq, known, vote(at, ballot)));
        }
    }

    /// `replica` voted or committed at a slot: its VIEW-CHANGE for a later view may have come before that.
    pub(super) fn judge_late(&mut self, index: usize, replica: ReplicaId) {
        let Some(message) = &self.views.received[replica.index()] else { return };
        if message.view <= self.view {
            return;
        }
        let message = Arc::clone(message);
        if let Some(opened) = self.forgotten(&self.window[index], &message) {
            self.prove(Proof::Amnesia { opened, view_change: message });
        }
    }

    fn judge_certificate(&mut self, seen: &Said<'_>) {
        let Some(index) = self.slot_index(seen.position.seq) else { return };
        let slot = &self.window[index];
        let mut proofs = Vec::new();
        let before = slot.prepared_before.as_ref().map(Said::from);
        let committed = slot.committed.as_ref().map(|certificate| Said::from(&**certificate));
        for known in [before, committed].into_iter().flatten() {
            proofs.extend(between(&known, seen));
        }
        let at = seen.position;
        if let Some(accepted) = slot.accepted.as_ref().filter(|accepted| contradict(&accepted.position, &at)) {
            let (one, other) = (vote(&accepted.position, &accepted.proposal), vote(&at, seen.proposal));
            proofs.push(Proof::two_proposals(at.view, at.seq, one, other));
        }
        if at.view == self.view {
            for (replica, ballot) in &seen.prepares {
                let standing = slot.prepares.get(*replica).filter(|(digest, _)| *digest != at.digest);
                proofs.extend(standing.map(|(digest, known)| {
                    let known = SignedVote { digest, ballot: *known };
                    Proof::two_prepares(*replica, at.view, at.seq, known, vote(&at, ballot))
                }));
            }
        }
        proofs.into_iter().for_each(|proof| self.prove(proof));
    }

    /// A COMMIT of its sender at `slot` that a VIEW-CHANGE does not answer for.
    fn forgotten(&self, slot: &Slot, message: &ViewChange) -> Option<Opened> {
        let of = message.replica;
        let now = slot.opened_by(&self.config, self.view, of);
        let before = slot.openings.iter().find(|(replica, _)| *replica == of).map(|(_, opened)| *opened);
        let certificate = slot.committed.as_ref();
        let committed = certificate.and_then(|sure| sure.opened_by(of, self.config.primary(sure.position.view)));
        [now, before, committed].into_iter().flatten().find(|opened| {
            let Position { view, seq, .. } = opened.position;
            view < message.view && !message.answers_for(view, seq)
        })
    }
}
