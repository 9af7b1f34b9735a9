//! Nothing leaves a replica before what it rests on is on stable storage (I8, PROTOCOL §11 P1-P6), nothing is thrown away
//! before what replaces it is, and what was called durable is found again by whoever reads the disk. Keeps a book of
//! every record of every replica; never asks the core or the journal what they think.

use std::collections::{BTreeMap, BTreeSet};

use bft_core::config::ClusterConfig;
use bft_core::door::{Persist, Place};
use bft_core::hash::{Context, hash};
use bft_core::ids::{Digest, LogPosition, ReplicaId, Seq, View};
use bft_core::journal::record::Record;
use bft_core::journal::superblock::Superblock;
use bft_core::wire::message::{Message, NewView, Position, ViewChange};
use std::sync::Arc;

use super::Verdict;

/// What a record says, as far as something rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    Vote(View, Seq, Digest),
    Certificate(View, Seq, Digest),
    Committed(Seq, Digest),
    Checkpoint(Seq, Digest),
    Snapshot(Seq, Digest),
    StableCheckpoint(Seq, Digest),
    StableSnapshot(Seq, Digest),
    NewView(View, Digest),
    Evidence(Digest),
}

impl Fact {
    fn of(record: &Record) -> Self {
        let of = |at: &Position| (at.view, at.seq, at.digest);
        match record {
            Record::Vote(vote) => {
                let (view, seq, digest) = of(&vote.position);
                Self::Vote(view, seq, digest)
            }
            Record::Cert(certificate) => {
                let (view, seq, digest) = of(&certificate.position);
                Self::Certificate(view, seq, digest)
            }
            Record::Committed(committed) => {
                let (_, seq, digest) = of(&committed.certificate.position);
                Self::Committed(seq, digest)
            }
            Record::CkptVote { seq, root, .. } => Self::Checkpoint(*seq, *root),
            Record::SnapVote { seq, root, .. } => Self::Snapshot(*seq, *root),
            Record::SnapStable(vote) => Self::StableSnapshot(vote.seq, vote.root),
            Record::Stable(checkpoint) => Self::StableCheckpoint(checkpoint.seq, checkpoint.root),
            Record::NewView(message) => Self::NewView(message.view, content(message)),
            Record::Evidence(evidence) => Self::Evidence(hash(Context::Batch, &[&evidence.encode()])),
        }
    }
}

/// What of a superblock something rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Anchors {
    promised: View,
    stable: Seq,
    snapshot: Seq,
    journal_start: LogPosition,
    damaged_through: Seq,
    disowned_through: Seq,
}

impl Anchors {
    fn of(superblock: &Superblock) -> Self {
        Self {
            promised: superblock.promised,
            stable: superblock.stable.as_ref().map_or(Seq(0), |stable| stable.seq),
            snapshot: superblock.snapshot.map_or(Seq(0), |(seq, _)| seq),
            journal_start: superblock.journal_start,
            damaged_through: superblock.damaged_through,
            disowned_through: superblock.disowned_through,
        }
    }
}

enum Written {
    Record { fact: Fact, merkle_root: Option<Digest> },
    Superblock(Anchors),
}

/// The book of one replica.
#[derive(Default)]
struct Store {
    /// Asked for and not yet durable.
    pending: BTreeMap<LogPosition, Written>,
    /// Every fact that ever was durable, and the last record that says it.
    durable: BTreeMap<Fact, LogPosition>,
    /// Facts that were, until damage.
    lost: BTreeSet<Fact>,
    anchors: Anchors,
    /// The highest view that a VIEW-CHANGE which left names: no vote in a lower one may leave any more.
    left_for: View,
}

/// The books of all replicas.
pub struct Durable {
    config: Arc<ClusterConfig>,
    stores: Vec<Store>,
}

impl Durable {
    /// Nothing is written yet.
    #[must_use]
    pub fn new(config: &Arc<ClusterConfig>) -> Self {
        Self { config: Arc::clone(config), stores: config.replicas().map(|_| Store::default()).collect() }
    }

    /// A core asks for a record.
    pub fn persisted(&mut self, replica: ReplicaId, persist: &Persist) {
        let written = match &persist.place {
            Place::Journal(record) => written(record),
            Place::Superblock(superblock) => Written::Superblock(Anchors::of(superblock)),
        };
        self.stores[replica.index()].pending.insert(persist.position, written);
    }

    /// Everything up to `upto` is durable. Says which prepared certificates are, by Seq and root over the Requests.
    pub fn durable(&mut self, replica: ReplicaId, upto: LogPosition) -> Vec<(Seq, Digest)> {
        let store = &mut self.stores[replica.index()];
        let rest = store.pending.split_off(&upto.next());
        let durable = std::mem::replace(&mut store.pending, rest);
        durable.into_iter().filter_map(|(position, written)| store.keep(position, written)).collect()
    }

    /// What was not durable is gone.
    pub fn crashed(&mut self, replica: ReplicaId) {
        self.stores[replica.index()].pending.clear();
    }

    /// What was durable in a replica's journal is lost: nothing may rest on it any more. Its superblock is not.
    pub fn damaged(&mut self, replica: ReplicaId) {
        let store = &mut self.stores[replica.index()];
        store.pending.clear();
        store.lost.extend(std::mem::take(&mut store.durable).into_keys());
    }

    /// A replica starts with what it read. What it found beyond the durable prefix is durable from now on.
    pub fn recovered(
        &mut self,
        replica: ReplicaId,
        superblock: &Superblock,
        records: &[(LogPosition, Record)],
    ) -> Result<Vec<(Seq, Digest)>, String> {
        self.audited(replica, superblock, records)?;
        let store = &mut self.stores[replica.index()];
        store.pending.clear();
        store.anchors = Anchors::of(superblock);
        Ok(records.iter().filter_map(|(position, record)| store.keep(*position, written(record))).collect())
    }

    /// A reader of the disk found this: everything durable and not dropped must be in it.
    pub fn audited(&self, replica: ReplicaId, superblock: &Superblock, records: &[(LogPosition, Record)]) -> Verdict {
        let store = &self.stores[replica.index()];
        let found = Anchors::of(superblock);
        let Anchors { promised, stable, snapshot, journal_start, damaged_through, disowned_through } = store.anchors;
        if found.promised < promised
            || found.stable < stable
            || found.snapshot < snapshot
            || found.journal_start < journal_start
            || found.damaged_through < damaged_through
            || found.disowned_through < disowned_through
        {
            return Err(format!("the superblock went back: {found:?}, but {:?} was durable", store.anchors));
        }
        let read: BTreeMap<_, _> = records.iter().map(|(position, record)| (*position, Fact::of(record))).collect();
        for (fact, position) in &store.durable {
            if *position >= found.journal_start && read.get(position) != Some(fact) {
                return Err(format!("{fact:?}, durable at position {position}, is not on the disk any more"));
            }
        }
        Ok(())
    }

    /// A message leaves a replica.
    pub fn released(&mut self, replica: ReplicaId, message: &Message) -> Verdict {
        match message {
            Message::ViewChange(message) if message.replica == replica => {
                self.in_promised_view(replica, "VIEW-CHANGE", message.view)?;
                self.certificates_are_named(replica, message)?;
                let left_for = &mut self.stores[replica.index()].left_for;
                *left_for = message.view.max(*left_for);
                Ok(())
            }
            Message::NewView(message) if self.config.primary(message.view) == replica => {
                self.in_promised_view(replica, "NEW-VIEW", message.view)?;
                self.rests_on(replica, "NEW-VIEW", Fact::NewView(message.view, content(message)))
            }
            Message::PrePrepare(proposal) if self.config.primary(proposal.position.view) == replica => {
                self.vote(replica, "PRE-PREPARE", &proposal.position)
            }
            Message::Prepare(vote) if vote.replica == replica => self.vote(replica, "PREPARE", &vote.position),
            Message::Commit(commit) if commit.replica == replica => {
                let at = &commit.position;
                self.in_promised_view(replica, "COMMIT", at.view)?;
                self.may_still_vote(replica, "COMMIT", at.view)?;
                self.rests_on(replica, "COMMIT", Fact::Certificate(at.view, at.seq, at.digest))
            }
            Message::Checkpoint(vote) if vote.signatures.iter().any(|(signer, _)| *signer == replica) => {
                let fact = Fact::Checkpoint(vote.seq, vote.root);
                // Among others' the own signature may be an old one.
                let is_old = vote.signatures.len() > 1 && self.stores[replica.index()].lost.contains(&fact);
                if is_old { Ok(()) } else { self.rests_on(replica, "CHECKPOINT", fact) }
            }
            Message::Snapshot(vote) if vote.signatures.iter().any(|(signer, _)| *signer == replica) => {
                self.rests_on(replica, "SNAPSHOT", Fact::Snapshot(vote.seq, vote.root))
            }
            Message::PrePrepare(_)
            | Message::Prepare(_)
            | Message::Commit(_)
            | Message::Checkpoint(_)
            | Message::Snapshot(_)
            | Message::Request(_)
            | Message::Reply(_)
            | Message::Busy(_)
            | Message::InfoQuery { .. }
            | Message::Info(_)
            | Message::ClientJoin(_)
            | Message::ViewChange(_)
            | Message::NewView(_)
            | Message::Status(_)
            | Message::FetchSlot(_)
            | Message::Slot(_)
            | Message::FetchBody(_)
            | Message::Body(_)
            | Message::FetchLog(_)
            | Message::FetchManifest(_)
            | Message::Manifest(_)
            | Message::FetchChunk(_)
            | Message::Chunk(_)
            | Message::FetchTrail(_)
            | Message::Trail(_)
            | Message::Log(_)
            | Message::Evidence(_)
            | Message::Recall(_)
            | Message::Recalled(_) => Ok(()),
        }
    }

    /// A core lets go of its journal below `position`.
    pub fn journal_dropped(&self, replica: ReplicaId, position: LogPosition) -> Verdict {
        let start = self.stores[replica.index()].anchors.journal_start;
        if position <= start {
            return Ok(());
        }
        Err(format!("drops the journal below {position} while the durable superblock starts it at {start}"))
    }

    /// A core lets go of its snapshots below `seq`.
    pub fn snapshots_removed(&self, replica: ReplicaId, seq: Seq) -> Verdict {
        let snapshot = self.stores[replica.index()].anchors.snapshot;
        if seq <= snapshot {
            return Ok(());
        }
        Err(format!("removes the snapshots below {seq} while the durable superblock names {snapshot}"))
    }

    /// The VIEW-CHANGE names, for every Seq above its checkpoint, the certificate of the highest view that is durable: the
    /// COMMITs that rest on them may have left.
    fn certificates_are_named(&self, replica: ReplicaId, message: &ViewChange) -> Verdict {
        let stable = message.certificate.as_ref().map_or(Seq(0), |checkpoint| checkpoint.seq);
        let mut highest: BTreeMap<Seq, (View, Digest)> = BTreeMap::new();
        for fact in self.stores[replica.index()].durable.keys() {
            if let Fact::Certificate(view, seq, digest) = fact
                && *seq > stable
                && *view < message.view
            {
                let known = highest.entry(*seq).or_insert((*view, *digest));
                *known = (*known).max((*view, *digest));
            }
        }
        let named = message.prepared.iter().map(|certificate| certificate.position);
        let named: BTreeMap<_, _> = named.map(|at| (at.seq, (at.view, at.digest))).collect();
        match highest.iter().find(|(seq, certificate)| named.get(seq) != Some(certificate)) {
            None => Ok(()),
            Some((seq, certificate)) => {
                Err(format!("VIEW-CHANGE for {:?} leaves out {certificate:?} at Seq {seq}", message.view))
            }
        }
    }

    fn in_promised_view(&self, replica: ReplicaId, what: &str, view: View) -> Verdict {
        let promised = self.stores[replica.index()].anchors.promised;
        if view <= promised {
            return Ok(());
        }
        Err(format!("{what} of {view:?} leaves while the durable promise is {promised:?}"))
    }

    fn may_still_vote(&self, replica: ReplicaId, what: &str, view: View) -> Verdict {
        let left_for = self.stores[replica.index()].left_for;
        if view >= left_for {
            return Ok(());
        }
        Err(format!("{what} of {view:?} leaves after a VIEW-CHANGE for {left_for:?}"))
    }

    fn vote(&self, replica: ReplicaId, what: &str, at: &Position) -> Verdict {
        self.in_promised_view(replica, what, at.view)?;
        self.may_still_vote(replica, what, at.view)?;
        let high = self.stores[replica.index()].anchors.stable.plus(self.config.params().window);
        if at.seq > high {
            return Err(format!("{what} for Seq {} leaves while the durable window ends at {high}", at.seq));
        }
        self.rests_on(replica, what, Fact::Vote(at.view, at.seq, at.digest))
    }

    fn rests_on(&self, replica: ReplicaId, what: &str, fact: Fact) -> Verdict {
        if self.stores[replica.index()].durable.contains_key(&fact) {
            return Ok(());
        }
        Err(format!("{what} leaves before {fact:?} is durable"))
    }
}

impl Store {
    fn keep(&mut self, position: LogPosition, written: Written) -> Option<(Seq, Digest)> {
        match written {
            Written::Superblock(anchors) => {
                self.anchors = anchors;
                None
            }
            Written::Record { fact, merkle_root } => {
                self.durable.insert(fact, position);
                let (Fact::Certificate(_, seq, _), Some(merkle_root)) = (fact, merkle_root) else { return None };
                Some((seq, merkle_root))
            }
        }
    }
}

fn content(message: &NewView) -> Digest {
    hash(Context::NewView, &[&message.encode()])
}

fn written(record: &Record) -> Written {
    let merkle_root = match record {
        Record::Cert(certificate) => Some(certificate.header.merkle_root),
        Record::Vote(_)
        | Record::Committed(_)
        | Record::CkptVote { .. }
        | Record::SnapVote { .. }
        | Record::SnapStable(_)
        | Record::Stable(_)
        | Record::NewView(_)
        | Record::Evidence(_) => None,
    };
    Written::Record { fact: Fact::of(record), merkle_root }
}

#[cfg(test)]
mod tests {
    use bft_core::ids::{ClusterId, Epoch, PublicKey, Signature};
    use bft_core::journal::record::Vote;
    use bft_core::wire::message::{BatchHeader, Checkpoint, Commit, Prepare};

    use super::super::made;
    use super::*;

    const ME: ReplicaId = ReplicaId(0);

    fn vote(seq: u64) -> Record {
        let (position, proposal) = (made::position(seq, 1), made::ballot());
        Record::Vote(Vote { position, proposal, header: BatchHeader::default(), body: None })
    }

    fn superblock(stable: u64, journal_start: u64, snapshot: u64) -> Superblock {
        let checkpoint = Checkpoint {
            epoch: Epoch(0),
            seq: Seq(stable),
            root: Digest::ZERO,
            epoch_end: Seq(0),
            signatures: Vec::new(),
        };
        Superblock {
            sequence: 1,
            cluster_id: ClusterId::ZERO,
            replica: ME,
            directory_id: [0; 16],
            directory_key: [0; 32],
            public_key: PublicKey::ZERO,
            instance: 1,
            epoch: Epoch(0),
            promised: View(0),
            stable: Some(checkpoint),
            damaged_through: Seq(0),
            quarantined: false,
            disowned_through: Seq(0),
            snapshot: Some((Seq(snapshot), Digest::ZERO)),
            journal_start: LogPosition(journal_start),
            collected: Seq(0),
            durable_through: LogPosition(0),
            learner: None,
        }
    }

    fn persist(judge: &mut Durable, position: u64, place: Place) {
        judge.persisted(ME, &Persist { position: LogPosition(position), place });
    }

    fn prepare(seq: u64) -> Message {
        Message::Prepare(Prepare { position: made::position(seq, 1), replica: ME, ballot: made::ballot() })
    }

    #[test]
    fn z11_d1_a_vote_that_is_not_durable_may_not_leave() {
        let mut judge = Durable::new(&made::cluster().config);
        assert!(judge.released(ME, &prepare(1)).is_err());
        persist(&mut judge, 1, Place::Journal(vote(1)));
        assert!(judge.released(ME, &prepare(1)).is_err(), "asked for is not durable");
        judge.durable(ME, LogPosition(1));
        assert_eq!(judge.released(ME, &prepare(1)), Ok(()));
        assert!(judge.released(ME, &prepare(2)).is_err());
        let commit = Commit { position: made::position(1, 1), replica: ME, nonce: Digest::ZERO };
        assert!(judge.released(ME, &Message::Commit(commit)).is_err(), "a vote is no certificate");
        let relayed = Prepare { position: made::position(9, 1), replica: ReplicaId(1), ballot: made::ballot() };
        assert_eq!(judge.released(ME, &Message::Prepare(relayed)), Ok(()), "another's vote rests on nothing here");
    }

    #[test]
    fn a_root_that_is_not_durable_may_not_leave() {
        let mut judge = Durable::new(&made::cluster().config);
        let root = Digest([5; 32]);
        let signatures = vec![(ME, Signature([0; 64]))];
        let message =
            Message::Checkpoint(Checkpoint { epoch: Epoch(0), seq: Seq(8), root, epoch_end: Seq(0), signatures });
        assert!(judge.released(ME, &message).is_err());
        let other = Record::CkptVote { epoch: Epoch(0), seq: Seq(8), root: Digest([6; 32]) };
        persist(&mut judge, 1, Place::Journal(other));
        judge.durable(ME, LogPosition(1));
        assert!(judge.released(ME, &message).is_err(), "another root");
        persist(&mut judge, 2, Place::Journal(Record::CkptVote { epoch: Epoch(0), seq: Seq(8), root }));
        judge.durable(ME, LogPosition(2));
        assert_eq!(judge.released(ME, &message), Ok(()));
    }

    #[test]
    fn p6_no_vote_passes_the_window_of_the_durable_checkpoint() {
        let config = made::cluster().config;
        let window = config.params().window;
        let mut judge = Durable::new(&config);
        persist(&mut judge, 1, Place::Journal(vote(window + 1)));
        persist(&mut judge, 2, Place::Superblock(Box::new(superblock(1, 0, 0))));
        judge.durable(ME, LogPosition(1));
        assert!(judge.released(ME, &prepare(window + 1)).is_err());
        judge.durable(ME, LogPosition(2));
        assert_eq!(judge.released(ME, &prepare(window + 1)), Ok(()));
    }

    #[test]
    fn d17_nothing_is_thrown_away_before_the_superblock_allows_it() {
        let mut judge = Durable::new(&made::cluster().config);
        persist(&mut judge, 1, Place::Superblock(Box::new(superblock(8, 5, 8))));
        assert!(judge.journal_dropped(ME, LogPosition(5)).is_err());
        assert!(judge.snapshots_removed(ME, Seq(8)).is_err());
        judge.durable(ME, LogPosition(1));
        assert_eq!(judge.journal_dropped(ME, LogPosition(5)), Ok(()));
        assert_eq!(judge.snapshots_removed(ME, Seq(8)), Ok(()));
        assert!(judge.journal_dropped(ME, LogPosition(6)).is_err());
    }

    #[test]
    fn d4_what_was_durable_must_be_found_again() {
        let mut judge = Durable::new(&made::cluster().config);
        persist(&mut judge, 1, Place::Journal(vote(1)));
        persist(&mut judge, 2, Place::Journal(vote(2)));
        persist(&mut judge, 3, Place::Superblock(Box::new(superblock(0, 0, 0))));
        judge.durable(ME, LogPosition(1));
        let (one, two) = ((LogPosition(1), vote(1)), (LogPosition(2), vote(2)));
        assert!(judge.audited(ME, &superblock(0, 0, 0), &[]).is_err());
        assert!(judge.audited(ME, &superblock(0, 0, 0), &[(LogPosition(1), vote(2))]).is_err());
        assert_eq!(judge.audited(ME, &superblock(0, 0, 0), std::slice::from_ref(&one)), Ok(()));
        assert_eq!(judge.audited(ME, &superblock(0, 2, 0), &[]), Ok(()), "dropped lawfully");
        // What a start found beyond the durable prefix was flushed by it and must stay (D22).
        assert!(judge.recovered(ME, &superblock(0, 0, 0), &[one.clone(), two]).is_ok());
        assert!(judge.recovered(ME, &superblock(0, 0, 0), &[one]).is_err());
    }

    #[test]
    fn a_superblock_that_goes_back_is_found() {
        let mut judge = Durable::new(&made::cluster().config);
        persist(&mut judge, 1, Place::Superblock(Box::new(superblock(8, 0, 0))));
        judge.durable(ME, LogPosition(1));
        assert!(judge.audited(ME, &superblock(4, 0, 0), &[]).is_err());
        assert_eq!(judge.audited(ME, &superblock(8, 0, 0), &[]), Ok(()));
    }

    #[test]
    fn d7_nothing_rests_on_what_was_lost_to_damage() {
        let mut judge = Durable::new(&made::cluster().config);
        let (epoch, seq, root) = (Epoch(0), Seq(8), Digest([5; 32]));
        let checkpoint = |signers: u16| {
            let signatures = (0..signers).map(|signer| (ReplicaId(signer), Signature([0; 64]))).collect();
            Message::Checkpoint(Checkpoint { epoch, seq, root, epoch_end: Seq(0), signatures })
        };
        persist(&mut judge, 1, Place::Journal(vote(1)));
        persist(&mut judge, 2, Place::Journal(Record::CkptVote { epoch, seq, root }));
        persist(&mut judge, 3, Place::Superblock(Box::new(superblock(8, 0, 0))));
        judge.durable(ME, LogPosition(3));
        assert_eq!(judge.released(ME, &prepare(1)), Ok(()));
        judge.damaged(ME);
        assert!(judge.released(ME, &prepare(1)).is_err());
        assert_eq!(judge.released(ME, &checkpoint(2)), Ok(()), "a certificate with an old signature");
        assert!(judge.released(ME, &checkpoint(1)).is_err(), "an old vote");
        assert_eq!(judge.audited(ME, &superblock(8, 0, 0), &[]), Ok(()), "what is lost need not be found");
        assert!(judge.audited(ME, &superblock(4, 0, 0), &[]).is_err(), "the superblock is not lost");
    }

    #[test]
    fn d20_the_silence_after_damage_is_not_forgotten() {
        let mut judge = Durable::new(&made::cluster().config);
        let silent = |through| Superblock { damaged_through: Seq(through), ..superblock(8, 0, 0) };
        persist(&mut judge, 1, Place::Superblock(Box::new(silent(24))));
        judge.durable(ME, LogPosition(1));
        assert!(judge.audited(ME, &silent(0), &[]).is_err());
        assert_eq!(judge.audited(ME, &silent(24), &[]), Ok(()));
    }
}
