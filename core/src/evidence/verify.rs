//! What makes evidence hold. For each kind: the signatures in it are the accused's, and no correct replica signs all of
//! it, whatever it loses of what it did not wait for, and however often it starts again. A VIEW-CHANGE of the same view
//! with a later checkpoint is lawful and no kind knows it.

use std::sync::Arc;

use super::{Accused, Evidence, ForgedRequest, Opened, Proof, SignedRoot, SignedVote};
use crate::auth::{Rejected, Verifier};
use crate::hash::{merkle_path, merkle_root_from};
use crate::ids::{ClusterId, Epoch, ReplicaId, Seq, Signature, View};
use crate::ordering::pbft::new_view::Beginning;
use crate::wire::canonical::{self, SigningBytes, opening};
use crate::wire::message::{Ballot, BatchHeader, NewView, Position, PrePrepare, ViewChange};
use crate::wire::request::{RequestMalformed, SignedRequest};

/// Why evidence proves nothing. Whoever delivered it is at fault, never the one it accuses (A1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Other keys, and another meaning of every signature.
    #[error("it is about the cluster {found}, and the configuration is of {expected}")]
    OtherCluster {
        /// The evidence's.
        found: ClusterId,
        /// The configuration's.
        expected: ClusterId,
    },
    /// Perhaps other keys.
    #[error("it is about Epoch {found}, and the configuration is of Epoch {expected}")]
    OtherEpoch {
        /// The evidence's.
        found: Epoch,
        /// The configuration's.
        expected: Epoch,
    },
    /// It accuses nobody.
    #[error("replica {0} is no member of the cluster")]
    NotAMember(ReplicaId),
    /// A primary's vote is its PRE-PREPARE.
    #[error("replica {0} is the primary of the view, whose vote is no PREPARE")]
    NotABackup(ReplicaId),
    /// Somebody else may have made it.
    #[error("the {what} is not signed by replica {signer}")]
    NotSigned {
        /// Who should have.
        signer: ReplicaId,
        /// What.
        what: &'static str,
    },
    /// One statement contradicts nothing.
    #[error("its two statements are one and the same, or not in ascending order")]
    NotTwo,
    /// They may both stand.
    #[error("its two statements are not about the same view")]
    NotOneView,
    /// Nobody sent that COMMIT.
    #[error("the nonce does not open the commitment of the vote")]
    NotOpened,
    /// There was nothing yet to be remembered.
    #[error("the COMMIT is not of an earlier view than the VIEW-CHANGE")]
    NotEarlier,
    /// It was remembered.
    #[error(
        "the VIEW-CHANGE answers for the COMMIT, by its checkpoint or by a certificate of that view or a later one"
    )]
    Remembered,
    /// The NEW-VIEW is in order.
    #[error("the NEW-VIEW is valid")]
    ValidNewView,
    /// It cannot say what its view must begin with.
    #[error("the NEW-VIEW is not valid, which the evidence does not claim: {0}")]
    InvalidNewView(Rejected),
    /// Nothing follows from it.
    #[error("the VIEW-CHANGEs of the NEW-VIEW contradict one another")]
    NoBeginning,
    /// The NEW-VIEW demands what was proposed, or leaves it open.
    #[error("the NEW-VIEW allows what was proposed")]
    Allowed,
    /// The digest is of another batch.
    #[error("the header is not that of what was proposed")]
    OtherHeader,
    /// No batch of this cluster has it in this form.
    #[error("the Request is malformed: {0}")]
    Malformed(RequestMalformed),
    /// The batch has another one at that place.
    #[error("the Request is not in the batch")]
    NotInBatch,
    /// The client wants it.
    #[error("the Request is signed by its client")]
    GenuineRequest,
}

impl Evidence {
    /// Whether it holds, and against whom. A function of its bytes and the verifier's configuration alone.
    pub fn verify(&self, verifier: &Verifier) -> Result<Accused, Unproven> {
        let config = verifier.config();
        if self.cluster != config.cluster_id() {
            return Err(Unproven::OtherCluster { found: self.cluster, expected: config.cluster_id() });
        }
        if self.epoch != config.epoch() {
            return Err(Unproven::OtherEpoch { found: self.epoch, expected: config.epoch() });
        }
        let accused = self.accused(config);
        let judge = Judge { verifier, accused: accused.replica };
        if config.member(accused.replica).is_none() {
            return Err(Unproven::NotAMember(accused.replica));
        }
        match &self.proof {
            Proof::TwoProposals { view, seq, said } => judge.two_proposals(*view, *seq, said)?,
            Proof::TwoPrepares { view, seq, said, .. } => judge.two_prepares(*view, *seq, said)?,
            Proof::TwoCheckpoints { seq, said, .. } => judge.two_checkpoints(*seq, said)?,
            Proof::Amnesia { opened, view_change } => judge.amnesia(opened, view_change)?,
            Proof::FalseNewView { new_view, against: None } => judge.invalid_new_view(new_view)?,
            Proof::FalseNewView { new_view, against: Some((seq, vote)) } => judge.broken(new_view, *seq, vote)?,
            Proof::TwoNewViews(said) => judge.two_new_views(said)?,
            Proof::ForgedRequest(forged) => judge.forged_request(forged)?,
        }
        Ok(accused)
    }

    /// What a refused NEW-VIEW proves, if its primary signed it.
    #[must_use]
    pub fn of_refused_new_view(verifier: &Verifier, new_view: &Arc<NewView>) -> Option<Self> {
        let proof = Proof::FalseNewView { new_view: Arc::clone(new_view), against: None };
        let evidence = Self::new(verifier.config(), proof);
        evidence.verify(verifier).is_ok().then_some(evidence)
    }

    /// What a refused PRE-PREPARE proves, if its primary signed it: the first Request in it that its client has not
    /// signed.
    #[must_use]
    pub fn of_refused_proposal(verifier: &Verifier, proposal: &PrePrepare) -> Option<Self> {
        let PrePrepare { position, ballot, header, body } = proposal;
        // Its header and its primary's signature first: they cost one check, and whoever is not the primary no more.
        let judge = Judge { verifier, accused: verifier.config().primary(position.view) };
        let is_signed = crate::mutant!(M39ClaimedSignerBlamed, judge.proposal(position, ballot).is_ok(), true);
        if position.epoch != verifier.config().epoch() || !is_signed {
            return None;
        }
        let index = verifier.first_unsigned(body.entries())?;
        let leaves = body.entries().iter().map(|entry| entry.leaf).collect();
        let entry = &body.entries()[index];
        let forged = ForgedRequest {
            view: position.view,
            seq: position.seq,
            ballot: *ballot,
            header: *header,
            index: index as u32,
            path: merkle_path(leaves, index),
            request: body.bytes().slice(entry.bytes.start as usize..entry.bytes.end as usize),
        };
        let evidence = Self::new(verifier.config(), Proof::ForgedRequest(Box::new(forged)));
        let is_proved = crate::mutant!(M39ClaimedSignerBlamed, evidence.verify(verifier).is_ok(), true);
        is_proved.then_some(evidence)
    }
}

/// Checks one accusation.
struct Judge<'a> {
    verifier: &'a Verifier,
    accused: ReplicaId,
}

impl Judge<'_> {
    /// A correct primary makes a proposal durable before it leaves, and makes no other one in its view (P1).
    fn two_proposals(&self, view: View, seq: Seq, said: &[SignedVote; 2]) -> Result<(), Unproven> {
        two(&said[0].digest, &said[1].digest)?;
        said.iter().try_for_each(|vote| self.proposal(&self.at(view, seq, vote), &vote.ballot))
    }

    /// A correct backup makes its vote durable before it leaves, and casts no other one in its view (P2).
    fn two_prepares(&self, view: View, seq: Seq, said: &[SignedVote; 2]) -> Result<(), Unproven> {
        if self.accused == self.verifier.config().primary(view) {
            return Err(Unproven::NotABackup(self.accused));
        }
        two(&said[0].digest, &said[1].digest)?;
        said.iter().try_for_each(|vote| self.prepare(&self.at(view, seq, vote), &vote.ballot))
    }

    /// A correct replica signs one root for a Seq, ever (P5).
    fn two_checkpoints(&self, seq: Seq, said: &[SignedRoot; 2]) -> Result<(), Unproven> {
        two(&(said[0].root, said[0].epoch_end), &(said[1].root, said[1].epoch_end))?;
        let config = self.verifier.config();
        said.iter().try_for_each(|SignedRoot { root, epoch_end, signature }| {
            let cluster = config.cluster_id();
            let bytes = canonical::checkpoint(cluster, config.epoch(), seq, *root, *epoch_end, self.accused);
            self.signed("CHECKPOINT", bytes, *signature)
        })
    }

    /// A correct replica's certificate is durable before its COMMIT leaves, and it names it in every later VIEW-CHANGE
    /// until a stable checkpoint has passed it (P3). Its checkpoint never falls back, a restart loses neither.
    fn amnesia(&self, opened: &Opened, view_change: &ViewChange) -> Result<(), Unproven> {
        let Opened { position, ballot, nonce } = opened;
        let config = self.verifier.config();
        if view_change.epoch != config.epoch() {
            return Err(Unproven::OtherEpoch { found: view_change.epoch, expected: config.epoch() });
        }
        if position.view >= view_change.view {
            return Err(Unproven::NotEarlier);
        }
        if view_change.answers_for(position.view, position.seq) {
            return Err(Unproven::Remembered);
        }
        if opening(nonce) != ballot.commitment {
            return Err(Unproven::NotOpened);
        }
        if self.accused == config.primary(position.view) {
            self.proposal(position, ballot)?;
        } else {
            self.prepare(position, ballot)?;
        }
        self.signed("VIEW-CHANGE", view_change.signing_bytes(config.cluster_id()), view_change.signature)
    }

    /// A correct primary has checked what it begins its view with.
    fn invalid_new_view(&self, new_view: &NewView) -> Result<(), Unproven> {
        self.new_view_is_signed(new_view)?;
        match self.verifier.new_view(new_view) {
            Ok(()) => Err(Unproven::ValidNewView),
            Err(_) => Ok(()),
        }
    }

    /// A correct primary proposes what its NEW-VIEW demands, and fixes that before anybody hears of it (P7).
    fn broken(&self, new_view: &NewView, seq: Seq, vote: &SignedVote) -> Result<(), Unproven> {
        self.new_view_is_signed(new_view)?;
        // Only a valid one is bounded in what it demands.
        self.verifier.new_view(new_view).map_err(Unproven::InvalidNewView)?;
        let config = self.verifier.config();
        let null = BatchHeader::NULL.digest(config.cluster_id(), config.epoch());
        let beginning = Beginning::of(&new_view.view_changes, null).map_err(|_| Unproven::NoBeginning)?;
        if beginning.allows(seq, vote.digest, null) {
            return Err(Unproven::Allowed);
        }
        self.proposal(&self.at(new_view.view, seq, vote), &vote.ballot)
    }

    /// A correct primary fixes V once (P7). Two signatures over the same V are one statement.
    fn two_new_views(&self, [first, second]: &[Arc<NewView>; 2]) -> Result<(), Unproven> {
        if first.view != second.view {
            return Err(Unproven::NotOneView);
        }
        let cluster = self.verifier.config().cluster_id();
        two(&first.signing_bytes(cluster), &second.signing_bytes(cluster))?;
        self.new_view_is_signed(first)?;
        self.new_view_is_signed(second)
    }

    /// A correct primary checks every Request before it proposes it; what it must propose again, a quorum with a correct
    /// backup in it has checked.
    fn forged_request(&self, forged: &ForgedRequest) -> Result<(), Unproven> {
        let ForgedRequest { view, seq, ballot, header, index, path, request } = forged;
        let config = self.verifier.config();
        let digest = header.digest(config.cluster_id(), config.epoch());
        let position = Position { epoch: config.epoch(), view: *view, seq: *seq, digest };
        self.verifier.header(&position, header).map_err(|_| Unproven::OtherHeader)?;
        self.proposal(&position, ballot)?;
        let parsed = SignedRequest::parse(request.clone(), self.verifier.bounds()).map_err(Unproven::Malformed)?;
        if merkle_root_from(parsed.entry.leaf, *index, header.count, path) != Some(header.merkle_root) {
            return Err(Unproven::NotInBatch);
        }
        if self.verifier.is_request_signed(&parsed.entry) { Err(Unproven::GenuineRequest) } else { Ok(()) }
    }

    fn new_view_is_signed(&self, new_view: &NewView) -> Result<(), Unproven> {
        let config = self.verifier.config();
        if new_view.epoch != config.epoch() {
            return Err(Unproven::OtherEpoch { found: new_view.epoch, expected: config.epoch() });
        }
        self.signed("NEW-VIEW", new_view.signing_bytes(config.cluster_id()), new_view.signature)
    }

    fn at(&self, view: View, seq: Seq, vote: &SignedVote) -> Position {
        Position { epoch: self.verifier.config().epoch(), view, seq, digest: vote.digest }
    }

    fn proposal(&self, at: &Position, ballot: &Ballot) -> Result<(), Unproven> {
        let bytes = canonical::pre_prepare(self.verifier.config().cluster_id(), at, ballot.commitment);
        self.signed("PRE-PREPARE", bytes, ballot.signature)
    }

    fn prepare(&self, at: &Position, ballot: &Ballot) -> Result<(), Unproven> {
        let bytes = canonical::prepare(self.verifier.config().cluster_id(), at, self.accused, ballot.commitment);
        self.signed("PREPARE", bytes, ballot.signature)
    }

    fn signed(&self, what: &'static str, bytes: SigningBytes, signature: Signature) -> Result<(), Unproven> {
        let signer = self.accused;
        let member = self.verifier.config().member(signer).ok_or(Unproven::NotAMember(signer))?;
        if self.verifier.is_signed(member.public_key, bytes, signature) {
            Ok(())
        } else {
            Err(Unproven::NotSigned { signer, what })
        }
    }
}

fn two<T: Ord>(first: &T, second: &T) -> Result<(), Unproven> {
    if first < second { Ok(()) } else { Err(Unproven::NotTwo) }
}
