//! What this replica remembers to have signed, and what it holds under the signatures of others: both sides of the
//! question that every replica asks when it starts (PROTOCOL §11). Only what memory holds anyway is looked at: the slots
//! of the window, the newest VIEW-CHANGE of each replica, and what began the view.

use super::Pbft;
use super::slot::Slot;
use crate::config::ClusterConfig;
use crate::ids::{Digest, ReplicaId, View};
use crate::wire::canonical::opening;
use crate::wire::message::{Ballot, CommitCertificate, Position};
use crate::wire::recall::{Held, Phase, Recall};

impl Pbft {
    /// What this replica remembers to have signed; `start` tells the question from those of other starts.
    #[must_use]
    pub fn memory(&self, start: u64) -> Recall {
        Recall {
            epoch: self.config.epoch(),
            start,
            view: self.view,
            phase: if self.is_normal() { Phase::Begun } else { Phase::Going },
            through: self.stable.max(self.silent_through),
            stable: self.stable,
            voted: self.map_of(|slot| slot.accepted.is_some()),
            certified: self.map_of(|slot| slot.cert_at.is_some()),
        }
    }

    /// Something that `peer` signed and, by what it asks, lacks; the smallest kind first.
    #[must_use]
    pub fn held_of(&self, peer: ReplicaId, recall: &Recall) -> Option<Held> {
        let votes = self.window.iter().flat_map(|slot| said_in(slot, &self.config, self.view, peer));
        let view_change = self.views.received[peer.index()].iter().cloned().map(Held::ViewChange);
        let new_view = self.new_view().filter(|_| self.primary() == peer).cloned().map(Held::NewView);
        votes.chain(view_change).chain(new_view).find(|held| recall.lacks(held))
    }

    /// This replica's own vote in a certificate, if that is of a Seq below every vote that it cast since it started: a vote
    /// of an earlier life.
    #[must_use]
    pub fn earlier_vote_in(&self, certificate: &CommitCertificate) -> Option<Held> {
        let CommitCertificate { position, proposal, commits, .. } = certificate;
        if self.voted_from.is_some_and(|first| first <= position.seq) {
            return None;
        }
        let backups = commits.iter().map(|(replica, ballot, _)| (*replica, *ballot));
        let ballot = ballot_of(&self.config, self.me, position, proposal, backups)?;
        // Whether its COMMIT is of an earlier life too, nobody can tell.
        Some(Held::Vote { replica: self.me, position: *position, ballot, nonce: None })
    }
}

/// Every vote of `peer` that a slot holds, of the current view and of former ones.
fn said_in(slot: &Slot, config: &ClusterConfig, view: View, peer: ReplicaId) -> impl Iterator<Item = Held> {
    let now = slot.accepted.as_ref().and_then(|accepted| {
        let ballot = if config.primary(view) == peer {
            Some(accepted.proposal)
        } else {
            slot.prepares.get(peer).filter(|(digest, _)| *digest == accepted.position.digest).map(|(_, ballot)| *ballot)
        };
        let revealed = slot.commits.get(peer).map(|(_, nonce)| *nonce);
        ballot.map(|ballot| held(peer, accepted.position, ballot, revealed))
    });
    let before = slot.prepared_before.as_ref().and_then(|certificate| {
        let position = certificate.position;
        let ballot = ballot_of(config, peer, &position, &certificate.proposal, certificate.prepares.iter().copied());
        ballot.map(|ballot| held(peer, position, ballot, None))
    });
    let committed = slot.committed.as_ref().and_then(|certificate| {
        let position = certificate.position;
        let commits = certificate.commits.iter();
        let opened = commits.clone().find(|(replica, _, _)| *replica == peer).map(|(_, _, nonce)| *nonce);
        let revealed = if config.primary(position.view) == peer { certificate.opening } else { opened };
        let ballots = commits.map(|(replica, ballot, _)| (*replica, *ballot));
        let ballot = ballot_of(config, peer, &position, &certificate.proposal, ballots);
        ballot.map(|ballot| held(peer, position, ballot, revealed))
    });
    let left = slot.openings.iter().find(|(replica, _)| *replica == peer);
    let left = left.map(|(_, opened)| held(peer, opened.position, opened.ballot, Some(opened.nonce)));
    [now, before, committed, left].into_iter().flatten()
}

fn ballot_of(
    config: &ClusterConfig,
    peer: ReplicaId,
    at: &Position,
    proposal: &Ballot,
    mut backups: impl Iterator<Item = (ReplicaId, Ballot)>,
) -> Option<Ballot> {
    if config.primary(at.view) == peer {
        return Some(*proposal);
    }
    backups.find(|(replica, _)| *replica == peer).map(|(_, ballot)| ballot)
}

/// A nonce counts where it opens the commitment: what came on a link may be anything.
fn held(replica: ReplicaId, position: Position, ballot: Ballot, revealed: Option<Digest>) -> Held {
    let nonce = revealed.filter(|nonce| opening(nonce) == ballot.commitment);
    Held::Vote { replica, position, ballot, nonce }
}
