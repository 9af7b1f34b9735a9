//! One place in the order while it is open: who proposed what, who voted, how far it is.

use std::sync::Arc;

use crate::config::ClusterConfig;
use crate::evidence::Opened;
use crate::ids::{Digest, LogPosition, ReplicaId, Seq, View};
use crate::quorum::{ReplicaSet, VoteSet};
use crate::wire::canonical::opening;
use crate::wire::message::{Ballot, BatchHeader, CommitCertificate, Position, PreparedCertificate};
use crate::wire::request::Body;

/// What this replica accepted at a slot, and its own vote for it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// What, where, in which view.
    pub position: Position,
    /// The primary's ballot.
    pub proposal: Ballot,
    /// The batch's header.
    pub header: BatchHeader,
    /// The batch; `None` once it was executed: then it is read back from the journal.
    pub body: Option<Arc<Body>>,
    /// This replica's own ballot in its PREPARE; none at the primary, whose proposal is its vote.
    pub own: Option<Ballot>,
    /// The VOTE of this replica.
    pub vote_at: LogPosition,
    /// Whether that is durable: only then does the own vote count.
    pub vote_is_durable: bool,
}

/// One slot of the window.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its Seq.
    pub seq: Seq,
    /// The first valid PRE-PREPARE of the current view, and none of another.
    pub accepted: Option<Accepted>,
    /// Of backups.
    pub prepares: VoteSet<Ballot>,
    /// Openings as they came; whether they open anything is decided when they are counted.
    pub commits: VoteSet<Digest>,
    /// Whose openings were found to open the commitment of its vote for the accepted batch.
    opened: ReplicaSet,
    /// This replica's CERT.
    pub cert_at: Option<LogPosition>,
    /// Whether that is durable: only then does the own COMMIT count.
    pub cert_is_durable: bool,
    /// That it is committed, however this replica came to know.
    pub committed: Option<Arc<CommitCertificate>>,
    /// The prepared certificate of the highest view before the current one (P, PROTOCOL §8).
    pub prepared_before: Option<PreparedCertificate>,
    /// A batch that is committed, or was voted for in a former view, and is not the accepted one.
    pub other: Option<(Digest, Arc<Body>)>,
    /// Of each replica the COMMIT that it sent in the last view that was left, where it sent one.
    pub openings: Vec<(ReplicaId, Opened)>,
    /// Whether it was executed: then the body is kept only until its record is durable.
    pub executed: bool,
}

impl Slot {
    /// An empty slot in a cluster of `n`.
    #[must_use]
    pub fn new(seq: Seq, n: usize) -> Self {
        Self {
            seq,
            accepted: None,
            prepares: VoteSet::new(n),
            commits: VoteSet::new(n),
            opened: ReplicaSet::EMPTY,
            cert_at: None,
            cert_is_durable: false,
            committed: None,
            prepared_before: None,
            other: None,
            openings: Vec::new(),
            executed: false,
        }
    }

    /// Makes it an empty slot at `seq`, in the same memory.
    pub fn reuse(&mut self, seq: Seq) {
        let Self {
            seq: at,
            accepted,
            prepares,
            commits,
            opened,
            cert_at,
            cert_is_durable,
            committed,
            prepared_before,
            other,
            openings,
            executed,
        } = self;
        (*at, *accepted, *opened, *cert_at, *committed) = (seq, None, ReplicaSet::EMPTY, None, None);
        (*prepared_before, *other) = (None, None);
        (*cert_is_durable, *executed) = (false, false);
        prepares.clear();
        commits.clear();
        openings.clear();
    }

    /// Puts a proposal into it. One body is held once.
    pub fn accept(&mut self, mut accepted: Accepted) {
        self.opened = ReplicaSet::EMPTY;
        if let Some((_, body)) = self.other.take_if(|(digest, _)| *digest == accepted.position.digest) {
            accepted.body.get_or_insert(body);
        }
        self.accepted = Some(accepted);
    }

    /// Whether this batch is committed here.
    #[must_use]
    pub fn is_committed_as(&self, digest: Digest) -> bool {
        self.committed.as_ref().is_some_and(|committed| committed.position.digest == digest)
    }

    /// Whether a batch was proposed here and is not committed yet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.accepted.is_some() && self.committed.is_none()
    }

    /// Whether PREPAREs of a quorum are here, the own vote among them or not, and the own vote is durable.
    #[must_use]
    pub fn is_prepared(&self, config: &ClusterConfig) -> bool {
        self.accepted.as_ref().is_some_and(|accepted| {
            let voters = self.prepares.voters(accepted.position.digest);
            accepted.vote_is_durable && config.weights().is_quorum(voters.with(config.primary(accepted.position.view)))
        })
    }

    /// The prepared certificate of the accepted batch: a quorum's votes, no more.
    #[must_use]
    pub fn prepared_certificate(&self, config: &ClusterConfig) -> PreparedCertificate {
        let accepted = self.accepted.as_ref().expect("only an accepted batch is prepared");
        let mut voters = ReplicaSet::EMPTY.with(config.primary(accepted.position.view));
        let mut prepares = Vec::with_capacity(config.n() - 1);
        for (replica, digest, ballot) in self.prepares.iter() {
            if digest == accepted.position.digest && !config.weights().is_quorum(voters) {
                voters.insert(replica);
                prepares.push((replica, *ballot));
            }
        }
        PreparedCertificate {
            position: accepted.position,
            header: accepted.header,
            proposal: accepted.proposal,
            prepares,
        }
    }

    /// Who opened the commitment of its vote for the accepted batch. Votes and openings stand once they came, so none is
    /// hashed again that was found to fit.
    pub fn openers(&mut self, primary: ReplicaId) -> ReplicaSet {
        let Some(accepted) = &self.accepted else { return ReplicaSet::EMPTY };
        let before = self.opened;
        let fits = |(replica, digest, nonce): &(ReplicaId, Digest, &Digest)| {
            !before.contains(*replica)
                && *digest == accepted.position.digest
                && self.ballot(accepted, *replica, primary).is_some_and(|ballot| opening(nonce) == ballot.commitment)
        };
        let newly = self.commits.iter().filter(fits).map(|(replica, _, _)| replica);
        self.opened = newly.fold(before, ReplicaSet::with);
        self.opened
    }

    /// The commit certificate of the accepted batch, from the openings of `openers`.
    #[must_use]
    pub fn commit_certificate(&self, openers: ReplicaSet, primary: ReplicaId) -> CommitCertificate {
        let accepted = self.accepted.as_ref().expect("only an accepted batch is committed by votes");
        let nonce = |replica| self.commits.get(replica).map(|(_, nonce)| *nonce).expect("an opener has opened");
        let mut commits = Vec::with_capacity(openers.len());
        commits.extend(openers.iter().filter(|replica| *replica != primary).map(|replica| {
            let ballot = self.ballot(accepted, replica, primary).expect("an opener has voted");
            (replica, *ballot, nonce(replica))
        }));
        CommitCertificate {
            position: accepted.position,
            header: accepted.header,
            proposal: accepted.proposal,
            opening: openers.contains(primary).then(|| nonce(primary)),
            commits,
        }
    }

    /// The batch that is committed here, if this replica knows it and still holds its body.
    #[must_use]
    pub fn committed_body(&self) -> Option<&Arc<Body>> {
        self.body_of(self.committed.as_ref()?.position.digest)
    }

    /// The body of the batch `digest`, if it is held here.
    #[must_use]
    pub fn body_of(&self, digest: Digest) -> Option<&Arc<Body>> {
        let accepted = self.accepted.as_ref().filter(|accepted| accepted.position.digest == digest);
        let other = self.other.as_ref().filter(|(other, _)| *other == digest).map(|(_, body)| body);
        accepted.and_then(|accepted| accepted.body.as_ref()).or(other)
    }

    /// The view `left` is left: its votes are forgotten but for who committed, its certificate is kept, and of the bodies
    /// the one that is needed.
    pub fn leave_view(&mut self, config: &ClusterConfig, left: View) {
        self.keep_openings(config, left);
        let is_highest = self.cert_at.is_some();
        if crate::mutant!(M15FirstCertificateNamed, is_highest, is_highest && self.prepared_before.is_none()) {
            self.prepared_before = Some(self.prepared_certificate(config));
        }
        let needed = self.committed.as_ref().map(|committed| committed.position.digest);
        let needed = needed.or(self.prepared_before.as_ref().map(|certificate| certificate.position.digest));
        let accepted = self.accepted.take();
        let held = accepted.and_then(|accepted| Some((accepted.position.digest, accepted.body?)));
        let kept = self.other.take();
        self.other = [kept, held].into_iter().flatten().find(|(digest, _)| Some(*digest) == needed);
        self.prepares.clear();
        self.commits.clear();
        (self.opened, self.cert_at, self.cert_is_durable) = (ReplicaSet::EMPTY, None, false);
    }

    /// Lets go of bodies that nobody here needs any more, and that the journal has or will have.
    pub fn release_body(&mut self) {
        if !self.executed {
            return;
        }
        self.other = None;
        if let Some(accepted) = self.accepted.as_mut().filter(|accepted| accepted.vote_is_durable) {
            accepted.body = None;
        }
    }

    /// Bytes of bodies held in memory.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        let accepted = self.accepted.as_ref().and_then(|accepted| accepted.body.as_ref());
        let other = self.other.as_ref().map(|(_, body)| body);
        [accepted, other].into_iter().flatten().map(|body| body.bytes().len()).sum()
    }

    fn ballot<'a>(&'a self, accepted: &'a Accepted, replica: ReplicaId, primary: ReplicaId) -> Option<&'a Ballot> {
        if replica == primary {
            return Some(&accepted.proposal);
        }
        let (digest, ballot) = self.prepares.get(replica)?;
        (digest == accepted.position.digest).then_some(ballot)
    }
}
