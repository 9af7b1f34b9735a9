//! The one place that decides whether what came over a link is well-formed and signed: a pure function of the bytes and
//! the configuration (C10). Runs on the shard that received the bytes, before the door.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::known::Known;
use super::{Claim, Scheme, Verified, is_usable_key};
use crate::config::{Admission, ClusterConfig};
use crate::evidence::Evidence;
use crate::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, Seq, Signature, View};
use crate::limits::{BATCHES_KNOWN_MAX, LOG_SLOTS_MAX, REQUESTS_KNOWN_MAX};
use crate::quorum::ReplicaSet;
use crate::wire::canonical::{self, SigningBytes, Tag, opening};
use crate::wire::message::{
    Ballot, BatchHeader, Checkpoint, ClientCertificate, CommitCertificate, CommittedSlot, Message, NewView, Position,
    PrePrepare, Prepare, PreparedCertificate, SnapshotVote, StableSnapshot, ViewChange,
};
use crate::wire::recall::Held;
use crate::wire::request::{Body, RequestBounds, RequestEntry, RequestMalformed, SignedRequest};

/// Why something from outside was refused. The link that delivered it is at fault, never a claimed signer (A1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[allow(missing_docs, reason = "each says itself")]
pub enum Rejected {
    #[error("a signature is not valid")]
    BadSignature,
    #[error("a Request or body is malformed: {0}")]
    Malformed(#[from] RequestMalformed),
    #[error("the header or the digest does not belong to the body")]
    BodyMismatch,
    #[error("of another Epoch")]
    WrongEpoch,
    #[error("sent in the name of another replica")]
    WrongSender,
    #[error("a replica that is no member, or not in ascending order")]
    NotAMember,
    #[error("a certificate without a quorum")]
    NoQuorum,
    #[error("a nonce that does not open its commitment")]
    BadOpening,
    #[error("a message that this kind of peer may not send")]
    NotAllowed,
    #[error("Seqs of zero, too many, or not one after the other")]
    BadSeq,
    #[error("a view that the message cannot be about")]
    BadView,
    #[error("a map of another length than the window")]
    BadMap,
    #[error("evidence that proves nothing")]
    BadEvidence,
    #[error("a manifest that is not the one whose root was signed")]
    ManifestMismatch,
}

/// A message that was refused, and what that proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why: the link is at fault.
    pub rejected: Rejected,
    /// EVIDENCE against who signed what was refused, where a signature shows who that is: as if the peer had sent it.
    pub evidence: Option<Verified<Message>>,
}

/// Checks what comes from links. Its clones share what they found valid.
#[derive(Clone)]
pub struct Verifier {
    config: Arc<ClusterConfig>,
    scheme: Arc<dyn Scheme>,
    bounds: RequestBounds,
    known_requests: Arc<Known>,
    known_batches: Arc<Known>,
}

impl Verifier {
    /// A verifier under `config`; `scheme` says what a valid signature is.
    #[must_use]
    pub fn new(config: Arc<ClusterConfig>, scheme: Arc<dyn Scheme>) -> Self {
        let bounds = RequestBounds::from(config.params());
        let known = |places| Arc::new(Known::with_room_for(places));
        let (known_requests, known_batches) = (known(REQUESTS_KNOWN_MAX), known(BATCHES_KNOWN_MAX));
        Self { config, scheme, bounds, known_requests, known_batches }
    }

    /// The configuration that it checks under.
    #[must_use]
    pub fn config(&self) -> &Arc<ClusterConfig> {
        &self.config
    }

    /// What bounds Requests and bodies in this cluster.
    #[must_use]
    pub fn bounds(&self) -> RequestBounds {
        self.bounds
    }

    /// Checks what `from` sent over its link. Signed things may be relayed, everything else speaks for its sender only.
    pub fn check(&self, from: ReplicaId, message: Message) -> Result<Verified<Message>, Rejected> {
        self.judge(from, &message).map(|()| Verified(message))
    }

    /// The same, and says of what is refused what it proves.
    pub fn check_or_accuse(&self, from: ReplicaId, message: Message) -> Result<Verified<Message>, Box<Refusal>> {
        match self.judge(from, &message) {
            Ok(()) => Ok(Verified(message)),
            Err(rejected) => {
                let evidence = if let Message::PrePrepare(proposal) = &message {
                    Evidence::of_refused_proposal(self, proposal)
                } else if let Message::NewView(new_view) = &message {
                    Evidence::of_refused_new_view(self, new_view)
                } else {
                    None
                };
                let evidence = evidence.map(|evidence| Verified(Message::Evidence(Arc::new(evidence))));
                Err(Box::new(Refusal { rejected, evidence }))
            }
        }
    }

    /// Checks the signatures of many Requests at once. Gives those that are valid, in their order, and the indices of
    /// the others.
    #[must_use]
    pub fn check_requests(&self, requests: Vec<SignedRequest>) -> (Verified<Vec<SignedRequest>>, Vec<usize>) {
        let valid = self.request_verdicts(requests.iter().map(|request| &request.entry));
        let refused: Vec<_> = (0..requests.len()).filter(|index| !valid[*index]).collect();
        let kept = requests.into_iter().zip(valid).filter(|(_, valid)| *valid).map(|(request, _)| request).collect();
        (Verified(kept), refused)
    }

    /// Whether the Request's signature was found valid before: to check it again costs nothing.
    #[must_use]
    pub fn knows(&self, request: &SignedRequest) -> bool {
        self.known_requests.contains(&request.entry.leaf)
    }

    /// Whether the cluster admits `client`, by what it shows. A key of small order is never admitted: whoever likes could
    /// sign for it (X6).
    #[must_use]
    pub fn is_admitted(&self, client: PublicKey, certificate: Option<&ClientCertificate>) -> bool {
        let is_welcome = match (self.config.admission(), certificate) {
            (Admission::Any, _) => true,
            (Admission::Certified(_), None) => false,
            (Admission::Certified(authority), Some(certificate)) => {
                let bytes = canonical::client_certificate(self.cluster(), client, certificate.expires_epoch);
                certificate.expires_epoch >= self.config.epoch()
                    && self.is_signed(authority, bytes, certificate.signature)
            }
        };
        is_welcome && is_usable_key(&client)
    }

    /// Checks one signature of whatever kind.
    #[must_use]
    pub fn is_signed(&self, public_key: PublicKey, bytes: SigningBytes, signature: Signature) -> bool {
        self.scheme.verify(&Claim { public_key, bytes, signature })
    }

    /// Checks a prepared certificate.
    pub fn prepared(&self, certificate: &PreparedCertificate) -> Result<(), Rejected> {
        let mut claims = Vec::new();
        self.prepared_but_for(certificate, &mut claims)?;
        self.all(&claims)
    }

    fn judge(&self, from: ReplicaId, message: &Message) -> Result<(), Rejected> {
        match message {
            Message::Request(request) => self.requests(std::slice::from_ref(&request.entry))?,
            Message::PrePrepare(pre_prepare) => self.pre_prepare(pre_prepare)?,
            Message::Prepare(prepare) => self.prepare(prepare)?,
            Message::Commit(commit) => {
                self.position(&commit.position)?;
                if commit.replica != from {
                    return Err(Rejected::WrongSender);
                }
            }
            Message::Checkpoint(checkpoint) => self.checkpoint(checkpoint)?,
            Message::Snapshot(vote) => self.snapshot(vote)?,
            Message::Status(status) => {
                self.members(status.changing.unwrap_or_default())?;
                [&status.proposed, &status.prepared, &status.committed]
                    .into_iter()
                    .try_for_each(|map| self.map(map))?;
            }
            Message::Slot(slot) => self.slots(std::slice::from_ref(slot))?,
            Message::Log(slots) => self.slots(slots)?,
            Message::ViewChange(view_change) => {
                let mut claims = Vec::new();
                self.view_change_but_for(view_change, &mut claims)?;
                self.all(&claims)?;
            }
            Message::NewView(new_view) => self.new_view(new_view)?,
            Message::Body(batch) => self.body(&batch.header, &batch.body)?,
            Message::Manifest(snapshot) => self.stable_snapshot(snapshot)?,
            // A CHUNK is compared with the manifest, a TRAIL with the checkpoint's root, by whoever asked for it.
            Message::FetchSlot(_)
            | Message::FetchBody(_)
            | Message::FetchLog(_)
            | Message::FetchManifest(_)
            | Message::FetchChunk(_)
            | Message::Chunk(_)
            | Message::FetchTrail(_)
            | Message::Trail(_) => {}
            Message::Recall(recall) => {
                self.epoch(recall.epoch)?;
                [&recall.voted, &recall.certified].into_iter().try_for_each(|map| self.map(map))?;
            }
            Message::Recalled(recalled) => {
                self.epoch(recalled.epoch)?;
                recalled.held.as_ref().map_or(Ok(()), |held| self.held(held))?;
            }
            Message::Evidence(evidence) => drop(evidence.verify(self).map_err(|_| Rejected::BadEvidence)?),
            Message::InfoQuery { .. }
            | Message::Reply(_)
            | Message::Busy(_)
            | Message::Info(_)
            | Message::ClientJoin(_) => return Err(Rejected::NotAllowed),
        }
        Ok(())
    }

    /// Checks everything of a prepared certificate but its signatures, which it adds to `claims`.
    fn prepared_but_for(&self, certificate: &PreparedCertificate, claims: &mut Vec<Claim>) -> Result<(), Rejected> {
        let PreparedCertificate { position, header, proposal, prepares } = certificate;
        self.header(position, header)?;
        let primary = self.config.primary(position.view);
        let backups = self.ascending(prepares.iter().map(|(replica, _)| *replica), Some(primary))?;
        self.quorum(backups.with(primary))?;
        claims.push(self.proposal_claim(position, proposal));
        claims.extend(prepares.iter().map(|(replica, ballot)| self.prepare_claim(position, *replica, ballot)));
        Ok(())
    }

    /// Checks everything of a VIEW-CHANGE but its signatures, which it adds to `claims` (validate_vc of PROTOCOL §8).
    fn view_change_but_for(&self, message: &ViewChange, claims: &mut Vec<Claim>) -> Result<(), Rejected> {
        let ViewChange { epoch, view, replica, certificate, prepared, signature } = message;
        self.epoch(*epoch)?;
        self.ascending(std::iter::once(*replica), None)?;
        if *view == View(0) {
            return Err(Rejected::BadView);
        }
        if let Some(certificate) = certificate {
            let signers = self.checkpoint_but_for(certificate, claims)?;
            self.quorum(signers)?;
        }
        let stable = message.stable();
        let mut last = stable;
        for certificate in prepared {
            let Position { view: of, seq, .. } = certificate.position;
            if seq <= last || seq > stable.plus(self.config.params().window) {
                return Err(Rejected::BadSeq);
            }
            if of >= *view {
                return Err(Rejected::BadView);
            }
            let checked = crate::mutant!(M20CertificateUnsigned, usize::MAX, claims.len());
            self.prepared_but_for(certificate, claims)?;
            claims.truncate(checked);
            last = seq;
        }
        claims.push(self.claim(*replica, message.signing_bytes(self.cluster()), *signature));
        Ok(())
    }

    /// A NEW-VIEW of the view's primary, with valid VIEW-CHANGEs of a minimal quorum. What they share is checked once.
    pub(crate) fn new_view(&self, message: &NewView) -> Result<(), Rejected> {
        let NewView { epoch, view, view_changes, signature } = message;
        self.epoch(*epoch)?;
        let senders = self.ascending(view_changes.iter().map(|view_change| view_change.replica), None)?;
        self.quorum(senders)?;
        let without = |replica| {
            let mut rest = senders;
            rest.remove(replica);
            rest
        };
        if senders.iter().any(|replica| self.config.weights().is_quorum(without(replica))) {
            return Err(Rejected::NoQuorum);
        }
        // The primary first: whoever is not it does not get a window's worth of work out of us.
        let primary = self.config.primary(*view);
        self.all(&[self.claim(primary, message.signing_bytes(self.cluster()), *signature)])?;
        let mut claims = Vec::new();
        for view_change in view_changes {
            if view_change.view != *view {
                return Err(Rejected::BadView);
            }
            self.view_change_but_for(view_change, &mut claims)?;
        }
        claims.sort_unstable_by_key(|claim| (claim.public_key, claim.bytes, claim.signature));
        claims.dedup();
        self.all(&claims)
    }

    /// Checks a commit certificate.
    pub fn committed(&self, certificate: &CommitCertificate) -> Result<(), Rejected> {
        let mut claims = Vec::new();
        self.committed_but_for(certificate, &mut claims)?;
        self.all(&claims)
    }

    /// Checks everything of a commit certificate but its signatures, which it adds to `claims`.
    fn committed_but_for(&self, certificate: &CommitCertificate, claims: &mut Vec<Claim>) -> Result<(), Rejected> {
        let CommitCertificate { position, header, proposal, opening: revealed, commits } = certificate;
        self.header(position, header)?;
        let primary = self.config.primary(position.view);
        let mut voters = self.ascending(commits.iter().map(|(replica, _, _)| *replica), Some(primary))?;
        if let Some(nonce) = revealed {
            self.opens(nonce, proposal.commitment)?;
            voters.insert(primary);
        }
        self.quorum(voters)?;
        claims.push(self.proposal_claim(position, proposal));
        for (replica, ballot, nonce) in commits {
            self.opens(nonce, ballot.commitment)?;
            claims.push(self.prepare_claim(position, *replica, ballot));
        }
        Ok(())
    }

    fn pre_prepare(&self, pre_prepare: &PrePrepare) -> Result<(), Rejected> {
        let PrePrepare { position, ballot, header, body } = pre_prepare;
        self.header(position, header)?;
        self.body(header, body)?;
        // The proposal first: whoever is not the primary does not get a batch's worth of work out of us.
        let claim = self.proposal_claim(position, ballot);
        self.all(&[crate::mutant!(M6ProposalOfAnybody, claim, self.of_anybody(claim))])?;
        // A view begins with batches of former ones, as many as the window holds: to check all their Requests once more would
        // take longer than a view has.
        if !self.known_batches.contains(&header.merkle_root) {
            self.requests(body.entries())?;
            self.known_batches.insert(header.merkle_root);
        }
        Ok(())
    }

    fn prepare(&self, prepare: &Prepare) -> Result<(), Rejected> {
        let Prepare { position, replica, ballot } = prepare;
        self.position(position)?;
        self.ascending(std::iter::once(*replica), None)?;
        if *replica == self.config.primary(position.view) {
            return Err(Rejected::WrongSender);
        }
        self.all(&[self.prepare_claim(position, *replica, ballot)])
    }

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Rejected> {
        let mut claims = Vec::new();
        self.checkpoint_but_for(checkpoint, &mut claims)?;
        self.all(&claims)
    }

    /// Checks everything of a checkpoint but its signatures, which it adds to `claims`. Gives who signed.
    fn checkpoint_but_for(&self, checkpoint: &Checkpoint, claims: &mut Vec<Claim>) -> Result<ReplicaSet, Rejected> {
        let Checkpoint { epoch, seq, root, epoch_end, signatures } = checkpoint;
        self.checkpoint_seq(*epoch, *seq)?;
        // No Epoch ends yet, and no correct replica signs that one does. Votes are counted by their roots alone: an end that
        // somebody signs would make a certificate whose signatures are over different things.
        if *epoch_end != Seq(0) {
            return Err(Rejected::BadSeq);
        }
        let bytes = |replica| canonical::checkpoint(self.cluster(), *epoch, *seq, *root, *epoch_end, replica);
        self.signatures(signatures, bytes, claims)
    }

    fn snapshot(&self, vote: &SnapshotVote) -> Result<(), Rejected> {
        let mut claims = Vec::new();
        self.snapshot_but_for(vote, &mut claims)?;
        self.all(&claims)
    }

    /// Checks everything of a SNAPSHOT but its signatures, which it adds to `claims`. Gives who signed.
    fn snapshot_but_for(&self, vote: &SnapshotVote, claims: &mut Vec<Claim>) -> Result<ReplicaSet, Rejected> {
        let SnapshotVote { epoch, seq, root, signatures } = vote;
        self.checkpoint_seq(*epoch, *seq)?;
        let bytes = |replica| canonical::snapshot(self.cluster(), *epoch, *seq, *root, replica);
        self.signatures(signatures, bytes, claims)
    }

    /// SS(s) with its manifest. The signatures first: who has no certificate does not get a large manifest hashed.
    fn stable_snapshot(&self, snapshot: &StableSnapshot) -> Result<(), Rejected> {
        let StableSnapshot { certificate, manifest } = snapshot;
        let mut claims = Vec::new();
        let signers = self.snapshot_but_for(certificate, &mut claims)?;
        self.quorum(signers)?;
        self.all(&claims)?;
        let is_its = manifest.scalars.seq == certificate.seq && manifest.root() == certificate.root;
        if crate::mutant!(M33ManifestNotCompared, is_its, true) { Ok(()) } else { Err(Rejected::ManifestMismatch) }
    }

    /// Committed slots of consecutive Seqs. Their signatures are checked together: few signers, many signatures.
    fn slots(&self, slots: &[CommittedSlot]) -> Result<(), Rejected> {
        let seq = |slot: &CommittedSlot| slot.certificate.position.seq;
        let is_next = |pair: &[CommittedSlot]| seq(&pair[0]).0.checked_add(1) == Some(seq(&pair[1]).0);
        if slots.len() > LOG_SLOTS_MAX || !slots.windows(2).all(is_next) {
            return Err(Rejected::BadSeq);
        }
        let mut claims = Vec::new();
        for CommittedSlot { certificate, body } in slots {
            self.committed_but_for(certificate, &mut claims)?;
            self.body(&certificate.header, body)?;
        }
        self.all(&claims)
    }

    /// A map of the slots in the window: one bit each and no more.
    fn map(&self, map: &[u64]) -> Result<(), Rejected> {
        let window = self.config.params().window as usize;
        let beyond = |last: &u64| !window.is_multiple_of(64) && last >> (window % 64) != 0;
        if map.len() != window.div_ceil(64) || map.last().is_some_and(beyond) {
            return Err(Rejected::BadMap);
        }
        Ok(())
    }

    /// D is the digest of the header.
    pub(crate) fn header(&self, position: &Position, header: &BatchHeader) -> Result<(), Rejected> {
        self.position(position)?;
        let right = crate::mutant!(
            M5BodyNotCompared,
            header.flags == 0 && header.digest(self.cluster(), position.epoch) == position.digest,
            true
        );
        if right { Ok(()) } else { Err(Rejected::BodyMismatch) }
    }

    /// The header is the one of this body.
    fn body(&self, header: &BatchHeader, body: &Body) -> Result<(), Rejected> {
        let right = crate::mutant!(M5BodyNotCompared, *header == body.header(header.time_ns), true);
        if right { Ok(()) } else { Err(Rejected::BodyMismatch) }
    }

    fn requests(&self, entries: &[RequestEntry]) -> Result<(), Rejected> {
        let valid = self.request_verdicts(entries.iter());
        if valid.into_iter().all(|valid| valid) { Ok(()) } else { Err(Rejected::BadSignature) }
    }

    /// Of each Request whether its signature is valid. Checks together those that are not known, the same one once, and
    /// knows them then.
    fn request_verdicts<'a>(&self, entries: impl Iterator<Item = &'a RequestEntry> + Clone) -> Vec<bool> {
        let mut valid: Vec<_> = entries.clone().map(|entry| self.known_requests.contains(&entry.leaf)).collect();
        // Where the claim of each leaf stands: equal leaves have equal signed fields and signatures (C15).
        let mut claim_of = BTreeMap::new();
        let mut claims = Vec::new();
        for (_, entry) in valid.iter().zip(entries.clone()).filter(|(known, _)| !**known) {
            claim_of.entry(entry.leaf).or_insert_with(|| {
                claims.push(self.request_claim(entry));
                claims.len() - 1
            });
        }
        let mut verdicts = Vec::with_capacity(claims.len());
        self.scheme.verify_many(&claims, &mut verdicts);
        assert_eq!(verdicts.len(), claims.len());
        for (valid, entry) in valid.iter_mut().zip(entries).filter(|(known, _)| !**known) {
            *valid = verdicts[claim_of[&entry.leaf]];
        }
        let good = claim_of.into_iter().filter(|(_, claim)| verdicts[*claim]);
        good.for_each(|(leaf, _)| self.known_requests.insert(leaf));
        valid
    }

    /// Whether a Request's client has signed it, asked of the scheme and of nobody's memory.
    pub(crate) fn is_request_signed(&self, entry: &RequestEntry) -> bool {
        self.scheme.verify(&self.request_claim(entry))
    }

    /// The first Request whose client has not signed it.
    pub(crate) fn first_unsigned(&self, entries: &[RequestEntry]) -> Option<usize> {
        self.request_verdicts(entries.iter()).into_iter().position(|valid| !valid)
    }

    fn request_claim(&self, entry: &RequestEntry) -> Claim {
        let bytes = canonical::signing_bytes(Tag::Request, self.cluster(), entry.digest);
        Claim { public_key: entry.client, bytes, signature: entry.signature }
    }

    fn proposal_claim(&self, at: &Position, ballot: &Ballot) -> Claim {
        let primary = self.config.primary(at.view);
        let bytes = canonical::pre_prepare(self.cluster(), at, ballot.commitment);
        self.claim(primary, bytes, ballot.signature)
    }

    fn prepare_claim(&self, at: &Position, replica: ReplicaId, ballot: &Ballot) -> Claim {
        let bytes = canonical::prepare(self.cluster(), at, replica, ballot.commitment);
        self.claim(replica, bytes, ballot.signature)
    }

    /// `replica` is a member: [`Self::ascending`] has said so.
    fn claim(&self, replica: ReplicaId, bytes: SigningBytes, signature: Signature) -> Claim {
        Claim { public_key: self.config.members()[replica.index()].public_key, bytes, signature }
    }

    /// Whether a member signed what is shown, and opened what it is said to have opened; nothing else of it matters to its
    /// signer.
    fn held(&self, held: &Held) -> Result<(), Rejected> {
        let claim = match held {
            Held::Vote { replica, position, ballot, nonce } => {
                self.position(position)?;
                self.ascending(std::iter::once(*replica), None)?;
                nonce.as_ref().map_or(Ok(()), |nonce| self.opens(nonce, ballot.commitment))?;
                if *replica == self.config.primary(position.view) {
                    self.proposal_claim(position, ballot)
                } else {
                    self.prepare_claim(position, *replica, ballot)
                }
            }
            Held::ViewChange(message) => {
                self.epoch(message.epoch)?;
                self.ascending(std::iter::once(message.replica), None)?;
                self.claim(message.replica, message.signing_bytes(self.cluster()), message.signature)
            }
            Held::NewView(message) => {
                self.epoch(message.epoch)?;
                let primary = self.config.primary(message.view);
                self.claim(primary, message.signing_bytes(self.cluster()), message.signature)
            }
        };
        self.all(&[claim])
    }

    /// At least one signature, of members in ascending order; what is to be checked of them is added to `claims`.
    fn signatures(
        &self,
        signatures: &[(ReplicaId, Signature)],
        bytes: impl Fn(ReplicaId) -> SigningBytes,
        claims: &mut Vec<Claim>,
    ) -> Result<ReplicaSet, Rejected> {
        let signers = self.ascending(signatures.iter().map(|(replica, _)| *replica), None)?;
        if signers.is_empty() {
            return Err(Rejected::NoQuorum);
        }
        let claim = |(replica, signature): &(_, _)| self.claim(*replica, bytes(*replica), *signature);
        claims.extend(signatures.iter().map(claim));
        Ok(signers)
    }

    fn members(&self, set: ReplicaSet) -> Result<(), Rejected> {
        self.ascending(set.iter(), None).map(drop)
    }

    fn all(&self, claims: &[Claim]) -> Result<(), Rejected> {
        let mut valid = Vec::with_capacity(claims.len());
        self.scheme.verify_many(claims, &mut valid);
        assert_eq!(valid.len(), claims.len());
        if valid.into_iter().all(|valid| valid) { Ok(()) } else { Err(Rejected::BadSignature) }
    }

    fn ascending(
        &self,
        replicas: impl Iterator<Item = ReplicaId>,
        never: Option<ReplicaId>,
    ) -> Result<ReplicaSet, Rejected> {
        let mut set = ReplicaSet::EMPTY;
        let mut last = None;
        for replica in replicas {
            let in_order = last.is_none_or(|last| last < replica);
            if self.config.member(replica).is_none() || !in_order || Some(replica) == never {
                return Err(Rejected::NotAMember);
            }
            set.insert(replica);
            last = Some(replica);
        }
        Ok(set)
    }

    fn quorum(&self, voters: ReplicaSet) -> Result<(), Rejected> {
        if self.config.weights().is_quorum(voters) { Ok(()) } else { Err(Rejected::NoQuorum) }
    }

    fn opens(&self, nonce: &Digest, commitment: Digest) -> Result<(), Rejected> {
        if opening(nonce) == commitment { Ok(()) } else { Err(Rejected::BadOpening) }
    }

    /// Of our epoch, and at a Seq.
    fn position(&self, at: &Position) -> Result<(), Rejected> {
        self.epoch(at.epoch)?;
        if at.seq == Seq(0) { Err(Rejected::BadSeq) } else { Ok(()) }
    }

    /// Of our epoch, and at a Seq that a checkpoint falls on.
    fn checkpoint_seq(&self, epoch: Epoch, seq: Seq) -> Result<(), Rejected> {
        self.epoch(epoch)?;
        if seq.is_checkpoint(self.config.params().checkpoint_interval) { Ok(()) } else { Err(Rejected::BadSeq) }
    }

    fn epoch(&self, epoch: Epoch) -> Result<(), Rejected> {
        if epoch == self.config.epoch() { Ok(()) } else { Err(Rejected::WrongEpoch) }
    }

    /// For the mutant that lets anybody propose.
    #[cfg(feature = "mutants")]
    fn of_anybody(&self, claim: Claim) -> Claim {
        let mut signers = self.config.members().iter().map(|member| Claim { public_key: member.public_key, ..claim });
        signers.find(|claim| self.scheme.verify(claim)).unwrap_or(claim)
    }

    fn cluster(&self) -> ClusterId {
        self.config.cluster_id()
    }
}
