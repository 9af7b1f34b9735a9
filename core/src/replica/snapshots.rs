//! Snapshots: rarely, the replicas agree on the image of the whole state; a quorum's agreement frees the journal
//! (PROTOCOL §7, SHAPES §7). When one is due is a function of the executed batches and of earlier images' sizes, so that
//! all correct replicas vote for the same points. One image is under way at a time; when the next is due before it is
//! written, execution waits: that is the back-pressure of a slow disk.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::Replica;
use crate::divergence::What;
use crate::door::{Effects, FileOrder, Lane, SnapshotOrder, SnapshotWritten, To};
use crate::ids::{Digest, LogPosition, ReplicaId, Seq, Signature};
use crate::journal::record::Record;
use crate::limits::TRANSFER_SNAPSHOTS_MAX;
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::quorum::{VoteSet, Voted, VotesBySeq};
use crate::snapshot::Manifest;
use crate::wire::canonical;
use crate::wire::message::{Message, SnapshotVote};

/// Snapshot points for which votes are kept: the newest.
const POINTS_KEPT: usize = 4;

/// Where the next snapshot is due, and what became of the last ones.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Bytes of bodies and number of batches executed since the last point.
    bytes_since: u64,
    slots_since: u64,
    /// Bytes of the state in the last image and in the one before; the last one is not known while it is written.
    last_bytes: Option<u64>,
    bytes_before: u64,
    /// The image that is being written.
    running: Option<Seq>,
    /// A point that waits for `running`.
    held: Option<Seq>,
    votes: VotesBySeq<POINTS_KEPT>,
    /// Roots that this replica came to, and what it signed: one root for each Seq, ever.
    own: BTreeMap<Seq, Own>,
    /// The certificates of the newest stable snapshots, ascending: what peers are shown.
    stable: VecDeque<SnapshotVote>,
    /// Stable and in a superblock that is not durable yet.
    pending: Option<Pending>,
    /// Waits for loads below it.
    drop_below: Option<LogPosition>,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    root: Digest,
    /// `None`: nothing is signed, for the reasons that checkpoints have. What others agree on counts for it all the same.
    vote: Option<OwnVote>,
    /// Whether the files are there in this life of the process.
    written: bool,
}

#[derive(Clone, Copy, Debug)]
struct OwnVote {
    signature: Signature,
    /// The record.
    at: LogPosition,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    at: LogPosition,
    seq: Seq,
    /// Snapshots from this one on are kept: the one before it, or an older one that a peer transfers.
    kept: Seq,
    /// No slot up to here is needed in the journal.
    through: Seq,
}

impl Snapshots {
    /// After the snapshot of `manifest`, or at the beginning.
    #[must_use]
    pub fn new(manifest: Option<&Manifest>) -> Self {
        let last_bytes = Some(manifest.map_or(0, Manifest::state_bytes));
        let bytes_before = manifest.map_or(0, |manifest| manifest.scalars.previous_state_bytes);
        Self { last_bytes, bytes_before, ..Self::default() }
    }

    /// SS(s) of an own snapshot.
    pub fn note_stable(&mut self, certificate: SnapshotVote) {
        if self.stable.back().is_some_and(|newest| newest.seq >= certificate.seq) {
            return;
        }
        self.stable.push_back(certificate);
        let surplus = self.stable.len().saturating_sub(TRANSFER_SNAPSHOTS_MAX);
        self.stable.drain(..surplus);
    }

    /// The certificate of the newest stable snapshot.
    #[must_use]
    pub fn newest(&self) -> Option<&SnapshotVote> {
        self.stable.back()
    }

    /// The certificate of a stable snapshot that may still lie here.
    #[must_use]
    pub fn certificate(&self, seq: Seq) -> Option<&SnapshotVote> {
        self.stable.iter().find(|certificate| certificate.seq == seq)
    }

    /// Whether nothing is under way that a snapshot of others would come between.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_none() && self.held.is_none() && self.pending.is_none()
    }

    /// Whether an own image is being written.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.running.is_some()
    }

    /// Goes on from a snapshot of others, whose superblock is durable; no record below `drop_below` is needed any more.
    pub fn jump(&mut self, manifest: &Manifest, certificate: SnapshotVote, drop_below: LogPosition) {
        assert!(self.is_idle(), "no own image is under way");
        let seq = certificate.seq;
        self.votes.forget_through(seq);
        let (votes, own) = (std::mem::take(&mut self.votes), std::mem::take(&mut self.own));
        *self = Self { votes, own, drop_below: Some(drop_below), ..Self::new(Some(manifest)) };
        self.note_stable(certificate);
    }

    /// Goes on from the own newest snapshot once more.
    pub fn rewind(&mut self, manifest: &Manifest) {
        assert!(self.is_idle(), "no own image is under way");
        let (votes, stable) = (std::mem::take(&mut self.votes), std::mem::take(&mut self.stable));
        *self = Self { votes, stable, drop_below: self.drop_below, ..Self::new(Some(manifest)) };
    }

    /// A point that waits is not wanted any more. Says whether one did.
    pub fn drop_held(&mut self) -> bool {
        self.held.take().is_some()
    }

    /// Who signed what at `seq`.
    #[must_use]
    pub fn votes_at(&self, seq: Seq) -> Option<&VoteSet<Signature>> {
        self.votes.at(seq)
    }

    /// The highest Seq for which this replica signed something.
    #[must_use]
    pub fn highest_signed(&self) -> Seq {
        let signed = self.own.iter().rev().find(|(_, own)| own.vote.is_some());
        signed.map_or(Seq(0), |(seq, _)| *seq)
    }

    /// What this replica came to says nothing any more: it executes anew.
    pub fn disown(&mut self) {
        self.own.clear();
    }

    fn note_own(&mut self, seq: Seq, own: Own) {
        self.own.insert(seq, own);
        while self.own.len() > POINTS_KEPT {
            self.own.pop_first();
        }
    }

    /// A batch was executed.
    pub fn count(&mut self, body_bytes: u64) {
        self.bytes_since += body_bytes;
        self.slots_since += 1;
    }

    /// Bytes of the state in the image before the one that is ordered now.
    #[must_use]
    pub fn previous_state_bytes(&self) -> u64 {
        self.last_bytes.unwrap_or(self.bytes_before)
    }
}

impl Replica {
    /// A root that the journal says was signed here.
    pub(super) fn restore_snapshot_vote(&mut self, seq: Seq, root: Digest) {
        if seq <= self.superblock.disowned_through {
            return;
        }
        let vote = Some(OwnVote { signature: self.sign_snapshot(seq, root), at: LogPosition(0) });
        let written = self.superblock.snapshot.is_some_and(|(newest, _)| seq <= newest);
        self.snapshots.own.insert(seq, Own { root, vote, written });
    }

    /// Orders a snapshot if `seq`, a checkpoint that was just executed, is a point.
    pub(super) fn snapshot_when_due(&mut self, seq: Seq, out: &mut Effects) {
        if self.quarantine.is_suspect() {
            return;
        }
        let params = self.config.params();
        let bytes = params.snapshot_bytes.max(self.snapshots.bytes_before);
        if self.snapshots.bytes_since < bytes && self.snapshots.slots_since < params.snapshot_slots {
            return;
        }
        (self.snapshots.bytes_since, self.snapshots.slots_since) = (0, 0);
        if self.snapshots.running.is_some() {
            if crate::mutant!(M57PointSkipped, false, true) {
                return;
            }
            self.snapshots.held = Some(seq);
            self.executing.hold();
        } else {
            self.order_snapshot(seq, out);
        }
    }

    /// The files of the image at `seq` are on stable storage: signs its root, once and for all (P5s).
    pub(super) fn on_snapshot_written(&mut self, seq: Seq, outcome: SnapshotWritten, out: &mut Effects) {
        assert_eq!(self.snapshots.running.take(), Some(seq), "one image is under way");
        self.counters.snapshots_written += 1;
        self.snapshots.last_bytes = Some(outcome.state_bytes);
        let may_sign = self.may_sign(seq);
        match self.snapshots.own.get_mut(&seq) {
            Some(own) if own.root != outcome.root => {
                let signed = own.root;
                let agreed = self.superblock.snapshot.filter(|named| *named == (seq, signed)).map(|_| signed);
                self.differ(What::ReplayedSnapshot, seq, outcome.root, agreed, out);
            }
            Some(own) => own.written = true,
            // What was signed here is not known (D7), or not stood by (K4): the next point is voted for.
            None if !may_sign => {
                self.snapshots.note_own(seq, Own { root: outcome.root, vote: None, written: true });
                self.compare_snapshots(seq, out);
            }
            None => self.vote_for_snapshot(seq, outcome.root, out),
        }
        self.snapshot_stable_when_voted(seq, outcome.root, out);
        if let Some(held) = self.snapshots.held.take() {
            self.order_snapshot(held, out);
            self.executing.resume();
        }
    }

    /// What was written before a quorum had said what it holds of this replica is signed now.
    pub(super) fn sign_snapshots(&mut self, out: &mut Effects) {
        let own = self.snapshots.own.range((Bound::Excluded(self.stable_snapshot()), Bound::Unbounded));
        let unsigned = own.filter(|(seq, own)| own.vote.is_none() && self.may_sign(**seq));
        let unsigned: Vec<_> = unsigned.map(|(seq, own)| (*seq, own.root)).collect();
        unsigned.into_iter().for_each(|(seq, root)| self.vote_for_snapshot(seq, root, out));
    }

    /// A SNAPSHOT of one replica, or several.
    pub(super) fn on_snapshot_vote(&mut self, vote: &SnapshotVote, out: &mut Effects) -> Result<(), Ignored> {
        let SnapshotVote { seq, root, ref signatures, .. } = *vote;
        if seq <= self.stable_snapshot() {
            return Err(Ignored::BelowWindow);
        }
        let mut result = Err(Ignored::Duplicate);
        for (replica, signature) in signatures {
            match self.count_snapshot_vote(*replica, seq, root, *signature) {
                Voted::New => result = Ok(()),
                Voted::Again => {}
                Voted::Conflicts => result = Err(Ignored::Conflicting),
            }
        }
        self.snapshot_stable_when_voted(seq, root, out);
        self.compare_snapshots(seq, out);
        result
    }

    /// Own votes, and superblocks that name a new stable snapshot, that have become durable.
    pub(super) fn snapshots_durable(&mut self, out: &mut Effects) {
        let durable = self.durable;
        let stable = self.stable_snapshot();
        let above = (Bound::Excluded(stable), Bound::Unbounded);
        let own = self.snapshots.own.range(above).filter_map(|(seq, own)| Some((*seq, own.root, own.vote?)));
        let own: Vec<_> = own.filter(|(_, _, vote)| vote.at <= durable).collect();
        for (seq, root, vote) in own {
            if self.count_snapshot_vote(self.me, seq, root, vote.signature) == Voted::New {
                self.snapshot_stable_when_voted(seq, root, out);
                self.compare_snapshots(seq, out);
            }
        }
        if let Some(pending) = self.snapshots.pending.take_if(|pending| pending.at <= durable) {
            self.collect(pending, out);
        }
        self.drop_when_unread(out);
    }

    /// Frees the journal as soon as nothing below the cut is being read.
    pub(super) fn drop_when_unread(&mut self, out: &mut Effects) {
        let lowest = self.loading.lowest();
        let unread = |below: &mut LogPosition| lowest.is_none_or(|lowest| lowest >= *below);
        if let Some(below) = self.snapshots.drop_below.take_if(unread) {
            out.drop_journal_below = Some(below);
        }
    }

    /// Sends `peer`, whose newest stable snapshot is `snapshot`, own votes for later ones.
    pub(super) fn retransmit_snapshot_votes(&mut self, peer: ReplicaId, snapshot: Seq, out: &mut Effects) {
        let durable = self.durable;
        if self.superblock.quarantined || !self.is_sworn_in() {
            return;
        }
        let above = (Bound::Excluded(snapshot), Bound::Unbounded);
        let own = self.snapshots.own.range(above).filter_map(|(seq, own)| Some((*seq, own.root, own.vote?)));
        let own = own.filter(|(_, _, vote)| vote.at <= durable);
        let own: Vec<_> = own.map(|(seq, root, vote)| self.own_snapshot_vote(seq, root, vote.signature)).collect();
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        for vote in own {
            outbox.send(To::One(peer), Lane::Control, Message::Snapshot(vote), LogPosition(0));
        }
    }

    fn order_snapshot(&mut self, seq: Seq, out: &mut Effects) {
        assert_eq!(seq, self.executing.last, "the image is of the state after this very batch");
        let scalars = self.scalars();
        self.snapshots.bytes_before = scalars.previous_state_bytes;
        self.snapshots.last_bytes = None;
        self.counters.snapshots_begun += 1;
        self.snapshots.running = Some(seq);
        out.snapshot = Some(SnapshotOrder { seq, clients: Arc::new(self.sessions.image(scalars)) });
    }

    fn vote_for_snapshot(&mut self, seq: Seq, root: Digest, out: &mut Effects) {
        let record = Record::SnapVote { epoch: self.config.epoch(), seq, root };
        let at = Outbox::new(out, &mut self.last, &mut self.index).persist(record);
        let signature = self.sign_snapshot(seq, root);
        let vote = Some(OwnVote { signature, at });
        self.snapshots.note_own(seq, Own { root, vote, written: true });
        let message = Message::Snapshot(self.own_snapshot_vote(seq, root, signature));
        Outbox::new(out, &mut self.last, &mut self.index).send(To::All, Lane::Control, message, at);
    }

    fn count_snapshot_vote(&mut self, replica: ReplicaId, seq: Seq, root: Digest, signature: Signature) -> Voted {
        let n = self.config.n();
        self.snapshots.votes.vote(n, replica, seq, root, signature)
    }

    /// SS(s): a quorum, the own files among them. Persists it, and with it where the journal starts from now on (P6s).
    fn snapshot_stable_when_voted(&mut self, seq: Seq, root: Digest, out: &mut Effects) {
        let Some(votes) = self.snapshots.votes.at(seq) else { return };
        let own = self.snapshots.own.get(&seq).filter(|own| own.written && own.root == root);
        let own_counts = own.is_some_and(|own| own.vote.is_none() || votes.get(self.me).is_some());
        let weights = self.config.weights();
        let newer = seq > self.stable_snapshot() && self.snapshots.pending.is_none();
        if !own_counts || !newer || self.quarantine.is_suspect() || !weights.is_quorum(votes.voters(root)) {
            return;
        }
        let certificate = SnapshotVote { epoch: self.config.epoch(), seq, root, signatures: votes.signatures(root) };
        let former = self.stable_snapshot();
        self.snapshots.note_stable(certificate.clone());
        let kept = self.kept_for_transfers(former);
        let through = self.through_for(former, kept);
        let at = self.persist_stable(certificate, through, out);
        let pending = Pending { at, seq, kept, through };
        self.snapshots.pending = Some(pending);
        let early = crate::mutant!(M22CollectBeforeDurable, false, true);
        if early {
            self.snapshots.pending = None;
            self.collect(pending, out);
            self.drop_when_unread(out);
        }
    }

    /// Persists SS(s), and that no record of a slot up to `through` is needed any more (P6s, P9).
    pub(super) fn persist_stable(&mut self, certificate: SnapshotVote, through: Seq, out: &mut Effects) -> LogPosition {
        let cut = self.index.first_above(through).unwrap_or(self.last.next());
        self.superblock.snapshot = Some((certificate.seq, certificate.root));
        self.superblock.journal_start = self.superblock.journal_start.max(cut);
        self.superblock.collected = self.superblock.collected.max(through);
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.persist(Record::SnapStable(certificate));
        // What began the view outlives the cut, and so does evidence: a copy, durable before the superblock that names the
        // cut (S9).
        if let Some(new_view) = self.pbft.new_view().filter(|_| self.new_view_at < cut) {
            self.new_view_at = outbox.persist(Record::NewView(Arc::clone(new_view)));
        }
        self.accusations.carry_over(cut, |evidence| outbox.persist(Record::Evidence(evidence)));
        outbox.persist_superblock(self.superblock.clone())
    }

    /// The oldest snapshot whose files are kept: the one before the newest, or an older one that a peer transfers.
    fn kept_for_transfers(&self, former: Seq) -> Seq {
        let oldest = self.snapshots.stable.front().map_or(former, |certificate| certificate.seq);
        self.transfer.wanted_by_peers().map_or(former, |wanted| former.min(wanted.max(oldest)))
    }

    /// Up to where no records are kept. Those above a snapshot that a peer transfers are, because it needs them next, as
    /// long as the index of them does not pass what it may take anyway.
    fn through_for(&self, former: Seq, kept: Seq) -> Seq {
        let usual = former.min(self.pbft.stable());
        let most = 2 * self.config.params().snapshot_slots;
        usual.min(kept.max(Seq(self.executing.last.0.saturating_sub(most))))
    }

    /// The superblock no longer needs what lies below the cut: what destroys comes now, and not before (D17).
    fn collect(&mut self, pending: Pending, out: &mut Effects) {
        let Pending { seq, kept, through, .. } = pending;
        self.counters.snapshots += 1;
        self.snapshots.votes.forget_through(seq);
        self.index.forget(through);
        out.snapshot_stable = Some(seq);
        out.remove_snapshots_below = Some(kept);
        self.snapshots.drop_below = Some(self.superblock.journal_start);
        if !self.transfer.is_active() {
            // A transfer that was given up, here or in an earlier life, may have left something.
            out.files.push(FileOrder::Clear);
        }
    }

    fn sign_snapshot(&self, seq: Seq, root: Digest) -> Signature {
        let (cluster, epoch) = (self.config.cluster_id(), self.config.epoch());
        self.scheme.sign(&canonical::snapshot(cluster, epoch, seq, root, self.me))
    }

    fn own_snapshot_vote(&self, seq: Seq, root: Digest, signature: Signature) -> SnapshotVote {
        SnapshotVote { epoch: self.config.epoch(), seq, root, signatures: vec![(self.me, signature)] }
    }

    /// A blocking set that has another root than we do: at least one of them is right.
    fn compare_snapshots(&mut self, seq: Seq, out: &mut Effects) {
        let (Some(own), Some(votes)) = (self.snapshots.own.get(&seq).copied(), self.snapshots.votes.at(seq)) else {
            return;
        };
        if let Some((there, _)) = votes.refutation(self.config.weights(), self.me, own.root) {
            self.differ(What::Snapshot, seq, own.root, Some(there), out);
        }
    }
}
