//! Checkpoints: every K Seqs the replicas agree on the order and the replies so far; a quorum's agreement moves the window
//! on and frees memory (PROTOCOL §7). Nothing here costs in proportion to the state.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use super::{Replica, trail};
use crate::divergence::What;
use crate::door::{Effects, Halt, Lane, To};
use crate::evidence::{Proof, SignedRoot};
use crate::ids::{Digest, LogPosition, ReplicaId, Seq, Signature};
use crate::journal::record::Record;
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::quorum::{ReplicaSet, VoteSet, Voted, VotesBySeq};
use crate::wire::canonical;
use crate::wire::message::{Checkpoint, Message};

/// Checkpoints above h for which one replica's vote is kept (K6).
const VOTES_PER_REPLICA: usize = 2;

/// The checkpoints above h.
#[derive(Debug, Default)]
pub struct Checkpoints {
    votes: VotesBySeq<VOTES_PER_REPLICA>,
    /// Roots that this replica came to: one for each Seq, ever.
    own: BTreeMap<Seq, Own>,
    /// Stable, in a superblock that is not durable yet.
    pending: VecDeque<(LogPosition, Seq)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own {
    root: Digest,
    /// `None`: nothing is signed: what was before the journal was damaged is not known (D7), or is not stood by (K4); or this
    /// replica may sign nothing, yet or any more (D11).
    vote: Option<OwnVote>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OwnVote {
    signature: Signature,
    /// The record.
    at: LogPosition,
    counted: bool,
}

impl Checkpoints {
    /// Whether an own checkpoint above `stable` waits for the others.
    #[must_use]
    pub fn has_unstable(&self, stable: Seq) -> bool {
        self.own.last_key_value().is_some_and(|(seq, _)| *seq > stable)
    }

    /// Who signed what at `seq`, above h.
    #[must_use]
    pub fn votes_at(&self, seq: Seq) -> Option<&VoteSet<Signature>> {
        self.votes.at(seq)
    }

    /// The highest Seq for which this replica signed something that is not stable yet.
    #[must_use]
    pub fn highest_signed(&self) -> Seq {
        let signed = self.own.iter().rev().find(|(_, own)| own.vote.is_some());
        signed.map_or(Seq(0), |(seq, _)| *seq)
    }

    /// What this replica came to says nothing any more: it executes anew.
    pub fn disown(&mut self) {
        self.own.clear();
    }
}

impl Replica {
    /// A root that the journal says was signed here.
    pub(super) fn restore_checkpoint(&mut self, seq: Seq, root: Digest) {
        if seq <= self.superblock.disowned_through {
            return;
        }
        let signature = self.sign_checkpoint(seq, root);
        let vote = OwnVote { signature, at: LogPosition(0), counted: false };
        self.checkpoints.own.insert(seq, Own { root, vote: Some(vote) });
    }

    /// `seq` was executed and is a multiple of K: signs its root, once and for all.
    pub(super) fn take_checkpoint(&mut self, seq: Seq, out: &mut Effects) {
        let root = self.checkpoint_root(seq);
        let own = self.checkpoints.own.get(&seq);
        if let Some(own) = crate::mutant!(M52CheckpointSignedAgain, own, None) {
            if own.root == root {
                return;
            }
            let agreed = (seq <= self.pbft.stable()).then_some(own.root);
            return self.differ(What::Replay, seq, root, agreed, out);
        }
        if seq <= self.pending_stable() {
            return self.compare_with_stable(seq, root, out);
        }
        if !self.may_sign(seq) {
            self.checkpoints.own.insert(seq, Own { root, vote: None });
        } else {
            self.vote_for_checkpoint(seq, root, out);
        }
        self.compare_with_others(seq, out);
    }

    /// What was executed before a quorum had said what it holds of this replica is signed now.
    pub(super) fn sign_checkpoints(&mut self, out: &mut Effects) {
        let own = self.checkpoints.own.range((Bound::Excluded(self.pbft.stable()), Bound::Unbounded));
        let unsigned = own.filter(|(seq, own)| own.vote.is_none() && self.may_sign(**seq));
        let unsigned: Vec<_> = unsigned.map(|(seq, own)| (*seq, own.root)).collect();
        unsigned.into_iter().for_each(|(seq, root)| self.vote_for_checkpoint(seq, root, out));
    }

    fn vote_for_checkpoint(&mut self, seq: Seq, root: Digest, out: &mut Effects) {
        let record = Record::CkptVote { epoch: self.config.epoch(), seq, root };
        let at = Outbox::new(out, &mut self.last, &mut self.index).persist(record);
        let signature = self.sign_checkpoint(seq, root);
        let vote = OwnVote { signature, at, counted: false };
        self.checkpoints.own.insert(seq, Own { root, vote: Some(vote) });
        let message = Message::Checkpoint(self.own_checkpoint(seq, root, signature));
        Outbox::new(out, &mut self.last, &mut self.index).send(To::All, Lane::Control, message, at);
    }

    /// A CHECKPOINT of one replica, or a certificate of a quorum.
    pub(super) fn on_checkpoint(&mut self, checkpoint: Checkpoint, out: &mut Effects) -> Result<(), Ignored> {
        self.judge_checkpoint(&checkpoint);
        let Checkpoint { seq, root, ref signatures, .. } = checkpoint;
        if seq <= self.pending_stable() {
            return Err(Ignored::BelowWindow);
        }
        let signers: ReplicaSet = signatures.iter().map(|(replica, _)| *replica).collect();
        if self.makes_stable(signers) {
            self.make_stable(checkpoint, out);
            return Ok(());
        }
        let mut result = Err(Ignored::Duplicate);
        for (replica, signature) in signatures {
            match self.count_checkpoint(*replica, seq, root, *signature) {
                Voted::New => result = Ok(()),
                Voted::Again => {}
                Voted::Conflicts => result = Err(Ignored::Conflicting),
            }
        }
        self.compare_with_others(seq, out);
        self.look_for_agreement(seq, out);
        self.stable_when_voted(seq, root, out);
        result
    }

    /// Compares a CHECKPOINT, or a certificate, with what its signers said before.
    pub(super) fn judge_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let Checkpoint { seq, root, epoch_end, ref signatures, .. } = *checkpoint;
        let votes = self.checkpoints.votes.at(seq);
        let stable = self.superblock.stable.as_ref().filter(|stable| stable.seq == seq && stable.root != root);
        for (replica, signature) in signatures {
            let voted = votes.and_then(|votes| votes.get(*replica)).filter(|(voted, _)| *voted != root);
            let voted = voted.map(|(root, signature)| (root, *signature));
            let certified = stable.and_then(|stable| {
                let signed = stable.signatures.iter().find(|(signer, _)| signer == replica)?;
                Some((stable.root, signed.1))
            });
            if let Some((known, known_signature)) = voted.or(certified) {
                let known = SignedRoot { root: known, epoch_end: Seq(0), signature: known_signature };
                let other = SignedRoot { root, epoch_end, signature: *signature };
                self.pbft.prove(Proof::two_checkpoints(*replica, seq, known, other));
            }
        }
    }

    /// The certificate of a quorum, from the beginning of a view.
    pub(super) fn adopt_checkpoint(&mut self, certificate: Checkpoint, out: &mut Effects) {
        if certificate.seq > self.pending_stable() {
            self.make_stable(certificate, out);
        }
    }

    /// Own votes and stable certificates that have become durable.
    pub(super) fn checkpoints_durable(&mut self, out: &mut Effects) {
        let durable = self.durable;
        let newly: Vec<_> = self
            .checkpoints
            .own
            .iter_mut()
            .filter_map(|(seq, own)| Some((*seq, own.root, own.vote.as_mut()?)))
            .filter(|(_, _, vote)| !vote.counted && vote.at <= durable)
            .map(|(seq, root, vote)| {
                vote.counted = true;
                (seq, root, vote.signature)
            })
            .collect();
        for (seq, root, signature) in newly {
            if seq > self.pending_stable() {
                self.count_checkpoint(self.me, seq, root, signature);
                self.look_for_agreement(seq, out);
                self.stable_when_voted(seq, root, out);
            }
        }
        while let Some((at, seq)) = self.checkpoints.pending.front().copied()
            && at <= durable
        {
            self.checkpoints.pending.pop_front();
            if seq > self.pbft.stable() {
                self.advance_window(seq, out);
            }
        }
    }

    /// Sends `peer`, whose last stable checkpoint is `stable`, what it needs to come to ours.
    pub(super) fn retransmit_checkpoints(&mut self, peer: ReplicaId, stable: Seq, out: &mut Effects) {
        let stands_by = !self.superblock.quarantined && self.is_sworn_in();
        let own = self.checkpoints.own.range((Bound::Excluded(stable), Bound::Unbounded)).filter(|_| stands_by);
        let own = own.filter_map(|(seq, own)| Some((*seq, own.root, own.vote.filter(|vote| vote.counted)?.signature)));
        let own: Vec<_> = own.map(|(seq, root, signature)| self.own_checkpoint(seq, root, signature)).collect();
        let certificate = self
            .superblock
            .stable
            .clone()
            .filter(|certificate| certificate.seq > stable && certificate.seq <= self.pbft.stable());
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        for checkpoint in certificate.into_iter().chain(own) {
            outbox.send(To::One(peer), Lane::Control, Message::Checkpoint(checkpoint), LogPosition(0));
        }
    }

    fn checkpoint_root(&self, seq: Seq) -> Digest {
        trail::root(seq, self.executing.chain, self.executing.exec, self.config.digest())
    }

    fn sign_checkpoint(&self, seq: Seq, root: Digest) -> Signature {
        let (cluster, epoch) = (self.config.cluster_id(), self.config.epoch());
        self.scheme.sign(&canonical::checkpoint(cluster, epoch, seq, root, Seq(0), self.me))
    }

    fn own_checkpoint(&self, seq: Seq, root: Digest, signature: Signature) -> Checkpoint {
        let epoch = self.config.epoch();
        Checkpoint { epoch, seq, root, epoch_end: Seq(0), signatures: vec![(self.me, signature)] }
    }

    /// The highest checkpoint that is stable, durable or not.
    fn pending_stable(&self) -> Seq {
        self.checkpoints.pending.back().map_or(self.pbft.stable(), |(_, seq)| *seq)
    }

    fn makes_stable(&self, signers: ReplicaSet) -> bool {
        let weights = self.config.weights();
        crate::mutant!(M21StableWithBlockingSet, weights.is_quorum(signers), weights.is_blocking(signers))
    }

    fn count_checkpoint(&mut self, replica: ReplicaId, seq: Seq, root: Digest, signature: Signature) -> Voted {
        let n = self.config.n();
        self.checkpoints.votes.vote(n, replica, seq, root, signature)
    }

    fn stable_when_voted(&mut self, seq: Seq, root: Digest, out: &mut Effects) {
        let Some(votes) = self.checkpoints.votes.at(seq) else { return };
        if !self.makes_stable(votes.voters(root)) {
            return;
        }
        let (epoch, signatures) = (self.config.epoch(), votes.signatures(root));
        self.make_stable(Checkpoint { epoch, seq, root, epoch_end: Seq(0), signatures }, out);
    }

    /// Persists SC(n) (P6). The window moves once that is durable.
    fn make_stable(&mut self, certificate: Checkpoint, out: &mut Effects) {
        let (seq, there) = (certificate.seq, certificate.root);
        self.superblock.stable = Some(certificate);
        let superblock = self.superblock.clone();
        let at = Outbox::new(out, &mut self.last, &mut self.index).persist_superblock(superblock);
        let counts_at = crate::mutant!(M53WindowBeforeDurable, at, self.durable);
        self.checkpoints.pending.push_back((counts_at, seq));
        if let Some(here) = self.checkpoints.own.get(&seq).map(|own| own.root) {
            self.judge_own(seq, here, there, out);
        }
    }

    fn advance_window(&mut self, seq: Seq, out: &mut Effects) {
        self.counters.checkpoints += 1;
        self.checkpoints.votes.forget_through(seq);
        self.checkpoints.own = self.checkpoints.own.split_off(&seq.next());
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        let (catch_up, executed) = (&mut self.catch_up, self.executing.last);
        self.pbft.advance(seq, &mut outbox, |slot| catch_up.keep_committed(executed, slot));
        self.forget_bodies_through(seq);
    }

    /// A blocking set that has another root than we do: at least one of them is right.
    fn compare_with_others(&mut self, seq: Seq, out: &mut Effects) {
        let Some(own) = self.checkpoints.own.get(&seq).copied() else { return };
        let Some(votes) = self.checkpoints.votes.at(seq) else { return };
        if let Some((there, _)) = votes.refutation(self.config.weights(), self.me, own.root) {
            self.differ(What::Checkpoint, seq, own.root, Some(there), out);
        }
    }

    /// The state of `seq`, which a quorum signed, came from others: it must be what the checkpoint of that Seq says.
    pub(super) fn compare_transferred(&mut self, seq: Seq, out: &mut Effects) {
        let here = self.checkpoint_root(seq);
        let stable = self.superblock.stable.as_ref().filter(|stable| stable.seq == seq);
        if let Some(there) = stable.map(|stable| stable.root).filter(|there| *there != here) {
            self.halt(Halt::TwoRoots { seq, here, there }, out);
        }
    }

    /// The certificate came first, the execution now.
    fn compare_with_stable(&mut self, seq: Seq, here: Digest, out: &mut Effects) {
        let Some(stable) = self.superblock.stable.as_ref().filter(|stable| stable.seq == seq) else { return };
        let there = stable.root;
        self.judge_own(seq, here, there, out);
    }

    /// What this replica came to, beside what a quorum signed.
    fn judge_own(&mut self, seq: Seq, here: Digest, there: Digest, out: &mut Effects) {
        if here == there {
            self.agrees(seq, out);
        } else {
            self.differ(What::Checkpoint, seq, here, Some(there), out);
        }
    }
}
