//! The sender's side of a transfer: which peers transfer which snapshot, and what is read for them.
//!
//! Kept here: a peer has at most [`TRANSFER_REQUESTS_PER_SOURCE`] questions waiting, all peers together at most
//! [`TRANSFER_READS_MAX`] answers in memory on this side of the send queues (MEM1).

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Nanos, ReplicaId, Seq};
use crate::limits::{TRANSFER_KEPT, TRANSFER_MANIFEST_INTERVAL, TRANSFER_READS_MAX, TRANSFER_REQUESTS_PER_SOURCE};
use crate::quorum::ReplicaSet;
use crate::wire::message::FetchChunk;

/// What comes of a question for a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is to be read.
    First,
    /// It is being read.
    AsOthers,
    /// It is large, and the peer had one just now.
    TooOften,
}

/// What peers transfer from here.
#[derive(Debug, Default)]
pub struct Serving {
    now: Nanos,
    /// What each peer last asked for a piece of, and when it last asked for that or for what comes after it.
    questions: BTreeMap<ReplicaId, (Seq, Nanos)>,
    /// Who waits for which manifest, and when each peer last asked for one.
    manifests: BTreeMap<Seq, ReplicaSet>,
    manifest_asked: BTreeMap<ReplicaId, Nanos>,
    waiting: VecDeque<(ReplicaId, FetchChunk)>,
    reading: usize,
}

impl Serving {
    /// It is this late.
    pub fn note_time(&mut self, now: Nanos) {
        self.now = now;
    }

    /// The oldest snapshot that a peer transfers: one that it asked for lately.
    #[must_use]
    pub fn wanted(&self) -> Option<Seq> {
        let lately = self.questions.values().filter(|(_, at)| self.now.since(*at) < TRANSFER_KEPT);
        lately.map(|(seq, _)| *seq).min()
    }

    /// A peer that transferred a snapshot asks for what comes after it.
    pub fn goes_on(&mut self, peer: ReplicaId) {
        let now = self.now;
        if let Some((_, at)) = self.questions.get_mut(&peer).filter(|(_, at)| now.since(*at) < TRANSFER_KEPT) {
            *at = now;
        }
    }

    /// `peer` asks for a manifest.
    pub fn wants_manifest(&mut self, peer: ReplicaId, seq: Seq) -> Asked {
        let lately = |at: &Nanos| self.now.since(*at) < TRANSFER_MANIFEST_INTERVAL;
        if self.manifest_asked.get(&peer).is_some_and(lately) {
            return Asked::TooOften;
        }
        self.manifest_asked.insert(peer, self.now);
        let waiting = self.manifests.entry(seq).or_default();
        let is_first = waiting.is_empty();
        waiting.insert(peer);
        if is_first { Asked::First } else { Asked::AsOthers }
    }

    /// Who waits for the manifest of `seq`.
    pub fn manifest_read(&mut self, seq: Seq) -> ReplicaSet {
        self.manifests.remove(&seq).unwrap_or_default()
    }

    /// `peer` asks for a piece. False if it has too many questions open.
    pub fn wants_piece(&mut self, peer: ReplicaId, fetch: FetchChunk) -> bool {
        self.questions.insert(peer, (fetch.seq, self.now));
        let open = self.waiting.iter().filter(|(of, _)| *of == peer).count();
        if open >= TRANSFER_REQUESTS_PER_SOURCE {
            return false;
        }
        self.waiting.push_back((peer, fetch));
        true
    }

    /// The next piece to be read.
    pub fn next_read(&mut self) -> Option<(ReplicaId, FetchChunk)> {
        if self.reading >= TRANSFER_READS_MAX {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.reading += 1;
        Some(next)
    }

    /// One was read.
    pub fn piece_read(&mut self) {
        self.reading -= 1;
    }

    /// For the invariants.
    pub fn check(&self, n: usize) {
        assert!(self.reading <= TRANSFER_READS_MAX && self.waiting.len() <= n * TRANSFER_REQUESTS_PER_SOURCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Piece, Section};

    const PEER: ReplicaId = ReplicaId(2);

    fn fetch(seq: u64, index: u32) -> FetchChunk {
        FetchChunk { seq: Seq(seq), piece: Piece { section: Section::State, index } }
    }

    #[test]
    fn mem1_a_peer_waits_for_few_pieces_and_few_are_read_at_a_time() {
        let mut serving = Serving::default();
        let taken = (0..100).filter(|index| serving.wants_piece(PEER, fetch(8, *index))).count();
        assert_eq!(taken, TRANSFER_REQUESTS_PER_SOURCE);
        assert!(serving.wants_piece(ReplicaId(3), fetch(8, 0)), "one peer takes nothing from another");
        let reads: Vec<_> = std::iter::from_fn(|| serving.next_read()).collect();
        assert_eq!(reads.len(), TRANSFER_READS_MAX);
        serving.piece_read();
        assert!(serving.next_read().is_some() && serving.next_read().is_none());
        serving.check(4);
    }

    #[test]
    fn a_snapshot_is_wanted_while_a_peer_asks_for_it_or_for_what_comes_after_it() {
        let mut serving = Serving::default();
        serving.goes_on(PEER);
        assert_eq!(serving.wanted(), None, "who never transferred anything keeps nothing from being freed");
        serving.wants_piece(PEER, fetch(8, 0));
        serving.wants_piece(ReplicaId(3), fetch(16, 0));
        serving.note_time(Nanos(TRANSFER_KEPT - 1));
        assert_eq!(serving.wanted(), Some(Seq(8)));
        serving.goes_on(ReplicaId(3));
        serving.note_time(Nanos(TRANSFER_KEPT));
        assert_eq!(serving.wanted(), Some(Seq(16)));
        serving.note_time(Nanos(3 * TRANSFER_KEPT));
        serving.goes_on(ReplicaId(3));
        assert_eq!(serving.wanted(), None);
    }

    #[test]
    fn a_manifest_is_read_once_for_all_who_wait_for_it() {
        let mut serving = Serving::default();
        serving.note_time(Nanos(5));
        assert_eq!(serving.wants_manifest(PEER, Seq(8)), Asked::First);
        assert_eq!(serving.wants_manifest(ReplicaId(3), Seq(8)), Asked::AsOthers);
        assert_eq!(serving.manifest_read(Seq(8)).len(), 2);
        assert!(serving.manifest_read(Seq(8)).is_empty());
        assert_eq!(serving.wants_manifest(PEER, Seq(8)), Asked::TooOften, "a small question has a large answer");
        serving.note_time(Nanos(5 + TRANSFER_MANIFEST_INTERVAL));
        assert_eq!(serving.wants_manifest(PEER, Seq(8)), Asked::First);
    }
}
