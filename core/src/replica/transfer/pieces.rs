//! The pieces of one snapshot on their way here: which are there, which peer was asked for which, and who is asked next.
//! Plain bookkeeping: messages, and what becomes of a snapshot that is complete, are in the parent.
//!
//! Kept here: a piece is stored only when its digest is the one that the manifest has at the index that was asked for
//! (T2); what is on the disk, or on its way to it, is not asked for again (T4); no peer is asked for more than
//! [`TRANSFER_REQUESTS_PER_SOURCE`] at a time, and no more than [`TRANSFER_BYTES`] are under way (MEM1).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::door::{Attempt, FileOrder, PieceState};
use crate::ids::{Digest, Nanos, ReplicaId, Seq};
use crate::limits::{TRANSFER_BYTES, TRANSFER_REQUESTS_PER_SOURCE, TRANSFER_SOURCES_MAX};
use crate::quorum::ReplicaSet;
use crate::snapshot::Manifest;
use crate::wire::message::{Chunk, FetchChunk, SnapshotVote, StableSnapshot};

/// Checks of pieces that the disk has that are ordered at a time.
const CHECKS_MAX: usize = 8;

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nobody was asked for it.
    Missing,
    /// On the disk, perhaps damaged.
    Found,
    /// A peer was asked for it.
    Asked,
    /// On its way to the disk.
    Storing,
    /// On stable storage, or the same as an earlier one.
    Held,
}

/// One peer as a source.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    /// Pieces that it was asked for.
    asked: usize,
    /// When it last gave one, or was asked for the first of these.
    heard: Nanos,
    /// Others come first until then.
    slow_until: Nanos,
}

/// What a CHUNK is good for.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrived {
    /// To be stored.
    Good(FileOrder),
    /// Not what was asked for: whoever gave it gives nothing more.
    Bad,
    /// Whoever was asked no longer has the snapshot.
    NotKept,
    /// It is here already, or belongs to another snapshot.
    NotNeeded,
}

/// The pieces of one snapshot.
#[derive(Debug)]
pub struct Pieces {
    attempt: Attempt,
    certificate: SnapshotVote,
    manifest: Arc<Manifest>,
    /// By part; empty until the disk has said what it holds.
    places: Vec<Place>,
    /// No part below it is missing.
    cursor: u32,
    to_check: Vec<u32>,
    checking: usize,
    asked: BTreeMap<u32, ReplicaId>,
    storing: usize,
    bytes_under_way: usize,
    bytes: u64,
    bytes_held: u64,
    /// Parts that are not held yet.
    open: usize,
    sources: Vec<Source>,
    /// Whose turn comes first: another one at each replica.
    first: ReplicaId,
    /// Peers that no longer have the snapshot.
    gone: ReplicaSet,
}

impl Pieces {
    /// Nothing is known of what the disk holds.
    #[must_use]
    pub fn new(attempt: Attempt, snapshot: StableSnapshot, n: usize, first: ReplicaId) -> Self {
        let StableSnapshot { certificate, manifest } = snapshot;
        Self {
            attempt,
            open: manifest.parts() as usize,
            certificate,
            manifest,
            places: Vec::new(),
            cursor: 0,
            to_check: Vec::new(),
            checking: 0,
            asked: BTreeMap::new(),
            storing: 0,
            bytes_under_way: 0,
            bytes: 0,
            bytes_held: 0,
            sources: vec![Source::default(); n],
            first,
            gone: ReplicaSet::EMPTY,
        }
    }

    /// Which try this is.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Which snapshot.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.certificate.seq
    }

    /// What it consists of.
    #[must_use]
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// That a quorum signed it.
    #[must_use]
    pub fn certificate(&self) -> &SnapshotVote {
        &self.certificate
    }

    /// Bytes of all distinct pieces, and of those that are held; `None` until the disk has said what it holds.
    #[must_use]
    pub fn bytes(&self) -> Option<(u64, u64)> {
        self.has_begun().then_some((self.bytes, self.bytes_held))
    }

    /// Whether every piece is held.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.has_begun() && self.open == 0
    }

    /// Whether answers of peers are outstanding.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.has_begun() || self.checking > 0 || self.storing > 0 || !self.asked.is_empty()
    }

    /// Whether `peer` said that it no longer has the snapshot.
    #[must_use]
    pub fn is_gone(&self, peer: ReplicaId) -> bool {
        self.gone.contains(peer)
    }

    /// The disk holds pieces of these names. Of equal pieces one is fetched, and stands for all.
    pub fn begin(&mut self, found: &[Digest]) {
        assert!(!self.has_begun(), "a transfer begins once");
        let manifest = Arc::clone(&self.manifest);
        let digest_of = |part: &u32| manifest.part(*part).expect("a part of the manifest").2;
        let mut by_digest: Vec<u32> = (0..manifest.parts()).collect();
        by_digest.sort_by_key(|part| (digest_of(part), *part));
        self.places = vec![Place::Missing; by_digest.len()];
        for pair in by_digest.windows(2) {
            if digest_of(&pair[0]) == digest_of(&pair[1]) {
                self.places[pair[1] as usize] = Place::Held;
                self.open -= 1;
            }
        }
        let distinct = (0..manifest.parts()).filter(|part| self.places[*part as usize] == Place::Missing);
        self.bytes = distinct.map(|part| u64::from(self.len_of(part))).sum();
        for digest in found {
            let at = by_digest.partition_point(|part| digest_of(part) < *digest);
            if let Some(part) = by_digest.get(at).filter(|part| digest_of(part) == *digest) {
                self.places[*part as usize] = Place::Found;
                self.to_check.push(*part);
            }
        }
        self.to_check.sort_unstable_by(|a, b| b.cmp(a));
        self.to_check.dedup();
    }

    /// The next check of a piece that the disk has.
    pub fn next_check(&mut self) -> Option<FileOrder> {
        if self.checking >= CHECKS_MAX {
            return None;
        }
        let part = self.to_check.pop()?;
        self.checking += 1;
        let (_, len, digest) = self.manifest.part(part).expect("a part of the manifest");
        Some(FileOrder::Check { attempt: self.attempt, part, len, digest })
    }

    /// What a check came to. Says whether the piece need not be fetched.
    pub fn checked(&mut self, part: u32, state: PieceState) -> bool {
        assert_eq!(self.places[part as usize], Place::Found, "what was found is checked once");
        self.checking -= 1;
        match state {
            PieceState::Whole => self.hold(part),
            PieceState::Missing => self.miss(part),
        }
        state == PieceState::Whole
    }

    /// A piece is on stable storage.
    pub fn stored(&mut self, part: u32) {
        assert_eq!(self.places[part as usize], Place::Storing, "what is stored was ordered to be");
        self.storing -= 1;
        self.bytes_under_way -= self.len_of(part) as usize;
        self.hold(part);
    }

    /// Whom to ask next, and for what. `eligible`: who may be asked at all.
    pub fn next_question(&mut self, now: Nanos, eligible: ReplicaSet) -> Option<(ReplicaId, FetchChunk)> {
        if !self.has_begun() {
            return None;
        }
        while self.places.get(self.cursor as usize).is_some_and(|place| *place != Place::Missing) {
            self.cursor += 1;
        }
        let (piece, len, _) = self.manifest.part(self.cursor)?;
        if !self.has_room_for(len) {
            return None;
        }
        let to = self.best_source(now, eligible)?;
        let source = &mut self.sources[to.index()];
        if source.asked == 0 {
            source.heard = now;
        }
        source.asked += 1;
        self.asked.insert(self.cursor, to);
        self.places[self.cursor as usize] = Place::Asked;
        self.bytes_under_way += len as usize;
        Some((to, FetchChunk { seq: self.seq(), piece }))
    }

    /// A peer gave something.
    pub fn arrived(&mut self, now: Nanos, from: ReplicaId, chunk: Chunk) -> Arrived {
        if chunk.seq != self.seq() || !self.has_begun() {
            return Arrived::NotNeeded;
        }
        let Some(bytes) = chunk.bytes else {
            let was_asked = self.sources[from.index()].asked > 0;
            self.gone = if was_asked { self.gone.with(from) } else { self.gone };
            self.take_back(from);
            return if was_asked { Arrived::NotKept } else { Arrived::NotNeeded };
        };
        let (part, entry) = (self.manifest.part_of(chunk.piece), self.manifest.entry(chunk.piece));
        let is_it = |(len, digest): (u32, Digest)| {
            bytes.bytes().len() == len as usize && crate::mutant!(M60ChunkNotCompared, bytes.digest() == digest, true)
        };
        let is_here = crate::mutant!(
            M34IndexNotCompared,
            entry.is_some_and(is_it),
            self.manifest.pieces().any(|(_, len, digest)| is_it((len, digest)))
        );
        let Some(part) = part.filter(|_| is_here) else {
            self.take_back(from);
            return Arrived::Bad;
        };
        match self.places[part as usize] {
            // Late, after somebody else was asked, or nobody yet: it is the right one all the same.
            Place::Asked => self.answered(part),
            Place::Missing if self.has_room_for(self.len_of(part)) => {
                self.bytes_under_way += self.len_of(part) as usize;
            }
            Place::Missing | Place::Found | Place::Storing | Place::Held => return Arrived::NotNeeded,
        }
        self.sources[from.index()].heard = now;
        self.storing += 1;
        self.places[part as usize] = Place::Storing;
        Arrived::Good(FileOrder::Store { attempt: self.attempt, part, chunk: bytes })
    }

    /// Peers that kept us waiting for longer than `patience`: what they were asked for others are asked for, and they come
    /// behind all others for `pause`.
    pub fn rotate(&mut self, now: Nanos, patience: u64, pause: u64) {
        for index in 0..self.sources.len() {
            let source = &mut self.sources[index];
            if source.asked > 0 && now.since(source.heard) > patience {
                source.slow_until = now.after(pause);
                self.take_back(ReplicaId(index as u16));
            }
        }
    }

    /// Nothing is expected of `peer` any more.
    pub fn take_back(&mut self, peer: ReplicaId) {
        let parts: Vec<_> = self.asked.iter().filter(|(_, of)| **of == peer).map(|(part, _)| *part).collect();
        for part in parts {
            self.answered(part);
            self.bytes_under_way -= self.len_of(part) as usize;
            self.miss(part);
        }
    }

    /// Recounts. For the invariants.
    pub fn check(&self) {
        let at = |place: Place| {
            let placed = (0..).zip(&self.places).filter(move |(_, at)| **at == place);
            placed.map(|(part, _): (u32, _)| part)
        };
        assert_eq!(at(Place::Asked).count(), self.asked.len());
        assert_eq!(at(Place::Storing).count(), self.storing);
        let under_way = at(Place::Asked).chain(at(Place::Storing)).map(|part| self.len_of(part) as usize);
        assert_eq!(under_way.sum::<usize>(), self.bytes_under_way, "bytes under way are counted right");
        assert!(self.bytes_under_way <= TRANSFER_BYTES);
        assert_eq!(self.sources.iter().map(|source| source.asked).sum::<usize>(), self.asked.len());
        assert!(self.sources.iter().all(|source| source.asked <= TRANSFER_REQUESTS_PER_SOURCE));
        if self.has_begun() {
            assert_eq!(self.places.iter().filter(|place| **place != Place::Held).count(), self.open);
            assert!(at(Place::Missing).next().is_none_or(|first| first >= self.cursor));
        }
    }

    fn has_begun(&self) -> bool {
        self.places.len() == self.manifest.parts() as usize
    }

    /// Whether a piece may be asked for, or taken from who was not asked.
    fn has_room_for(&self, len: u32) -> bool {
        self.bytes_under_way + len as usize <= TRANSFER_BYTES
    }

    fn len_of(&self, part: u32) -> u32 {
        self.manifest.part(part).expect("a part of the manifest").1
    }

    fn hold(&mut self, part: u32) {
        self.places[part as usize] = Place::Held;
        self.open -= 1;
        self.bytes_held += u64::from(self.len_of(part));
    }

    fn miss(&mut self, part: u32) {
        self.places[part as usize] = Place::Missing;
        self.cursor = self.cursor.min(part);
    }

    /// `part` is not waited for any more, whoever was asked.
    fn answered(&mut self, part: u32) {
        let of = self.asked.remove(&part).expect("who was asked is known");
        self.sources[of.index()].asked -= 1;
    }

    /// Of the first few eligible peers, the slow ones last, the one that was asked for least.
    fn best_source(&self, now: Nanos, eligible: ReplicaSet) -> Option<ReplicaId> {
        let mut peers: Vec<_> = eligible.iter().filter(|peer| !self.gone.contains(*peer)).collect();
        let n = self.sources.len();
        let turn = |peer: &ReplicaId| (peer.index() + n - self.first.index()) % n;
        peers.sort_by_key(|peer| (self.sources[peer.index()].slow_until > now, turn(peer)));
        peers.truncate(TRANSFER_SOURCES_MAX);
        let has_room = |peer: &ReplicaId| self.sources[peer.index()].asked < TRANSFER_REQUESTS_PER_SOURCE;
        peers.into_iter().filter(has_room).min_by_key(|peer| self.sources[peer.index()].asked)
    }
}
