//! State transfer (PROTOCOL §10 item 3): a replica whose missing batches are no longer kept fetches the newest snapshot
//! that a quorum has signed, from several peers at once, and goes on from it; and gives others what they fetch. The
//! replica goes on voting meanwhile: what it accepts is no matter of its state.
//!
//! * `pieces`: which pieces are there, and whom to ask for which; `serving`: what peers transfer from here.
//!
//! The way of a transfer: `Seeking`, after a blocking set said that what is missing is gone: a peer's MANIFEST is wanted,
//! and the verifier has found a quorum's signatures on its root. `Fetching`: pieces, each compared with the manifest
//! before it is stored under its digest, so that neither a crash nor a change of the target makes anyone fetch a good one
//! again. `Assembling`: the shell makes a snapshot of them and reads it back. `Waiting`, until the own window has come to
//! it and the service has nothing to do. `Switching`: the superblock names it (P9). Then the service restores it, the
//! client table and all replicated values become its own, and commit certificates lead on from there as ever.
//!
//! Kept here: nothing is installed that a quorum has not signed (T1); a claim only says whom to ask; who gives a wrong
//! piece gives nothing more in this transfer, who is slow is asked last (T3).

use std::sync::Arc;

use super::Replica;
use crate::door::{Attempt, Effects, FileDone, FileOrder, Lane, Now, To};
use crate::ids::{LogPosition, Nanos, ReplicaId, Seq};
use crate::limits::SECOND;
use crate::ordering::Outbox;
use crate::ordering::pbft::Ignored;
use crate::quorum::{ReplicaSet, Weights};
use crate::snapshot::{ChunkBytes, ClientsImage, Manifest, Piece};
use crate::wire::message::{Chunk, FetchChunk, Message, SnapshotVote, StableSnapshot};

mod pieces;
mod serving;

use pieces::{Arrived, Pieces};
use serving::{Asked, Serving};

/// STATUS intervals that a peer may take to answer FETCH-MANIFEST before the next one is asked.
const MANIFEST_PATIENCE: u64 = 10;
/// STATUS intervals that a peer may take to give the next piece before others are asked for what it was asked for.
const PIECE_PATIENCE: u64 = 40;
/// How long who was slow, or gave something wrong, comes behind the others, in nanoseconds.
const PAUSE: u64 = 10 * SECOND;
/// STATUS intervals in which no peer gives what is missing, after which a snapshot is sought although nobody said that it
/// is gone; only by who is [`FAR_BEHIND`] windows behind.
const LOG_PATIENCE: u64 = 100;
const FAR_BEHIND: u64 = 8;

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The snapshot.
    pub seq: Seq,
    /// Bytes of all its pieces, equal ones once.
    pub bytes: u64,
    /// Of those, bytes on stable storage here.
    pub bytes_held: u64,
}

/// The transfers of a replica, both ways.
#[derive(Debug)]
pub struct Transfer {
    me: ReplicaId,
    state: State,
    /// The last one.
    attempt: Attempt,
    /// What each peer says its newest stable snapshot is: whom to ask, and nothing else.
    claims: Vec<Seq>,
    /// Peers that gave a wrong piece, and since when there is one.
    bad: ReplicaSet,
    bad_since: Nanos,
    serving: Serving,
}

#[derive(Debug)]
enum State {
    Idle,
    /// A snapshot of this Seq or a later one is wanted.
    Seeking {
        missing: Seq,
        asked: Option<(ReplicaId, Nanos)>,
        tried: ReplicaSet,
    },
    /// Of a snapshot of `missing` or a later Seq.
    Fetching {
        missing: Seq,
        pieces: Box<Pieces>,
    },
    Assembling {
        attempt: Attempt,
        missing: Seq,
        target: Target,
    },
    Waiting {
        target: Target,
        clients: Box<ClientsImage>,
    },
    Switching {
        at: LogPosition,
        target: Target,
        clients: Box<ClientsImage>,
    },
}

/// A snapshot whose pieces are all here.
#[derive(Clone, Debug)]
struct Target {
    certificate: SnapshotVote,
    manifest: Arc<Manifest>,
    /// Of all its pieces, equal ones once.
    bytes: u64,
}

impl Transfer {
    /// Nothing is transferred, and nothing is known of `n` replicas.
    #[must_use]
    pub fn new(n: usize, me: ReplicaId) -> Self {
        Self {
            me,
            state: State::Idle,
            attempt: Attempt(0),
            claims: vec![Seq(0); n],
            bad: ReplicaSet::EMPTY,
            bad_since: Nanos(0),
            serving: Serving::default(),
        }
    }

    /// Whether this replica waits for a snapshot of others.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        match &self.state {
            State::Idle | State::Seeking { .. } => None,
            State::Fetching { pieces, .. } => {
                pieces.bytes().map(|(bytes, bytes_held)| Progress { seq: pieces.seq(), bytes, bytes_held })
            }
            State::Assembling { target, .. } | State::Waiting { target, .. } | State::Switching { target, .. } => {
                let Target { certificate, bytes, .. } = target;
                Some(Progress { seq: certificate.seq, bytes: *bytes, bytes_held: *bytes })
            }
        }
    }

    /// `missing` and what follows is not to be had from logs.
    pub fn seek(&mut self, missing: Seq) {
        if !self.is_active() {
            self.state = State::Seeking { missing, asked: None, tried: ReplicaSet::EMPTY };
        }
    }

    /// The newest snapshot that a blocking set claims to have: at least one of them does.
    #[must_use]
    pub fn known(&self, weights: &Weights) -> Seq {
        let claiming = |least: Seq| {
            let claims = (0..).map(ReplicaId).zip(&self.claims);
            claims.filter(|(_, claim)| **claim >= least).map(|(peer, _)| peer).collect()
        };
        let supported = |claim: &Seq| weights.is_blocking(claiming(*claim));
        self.claims.iter().copied().filter(supported).max().unwrap_or_default()
    }

    /// `peer` says that this is its newest stable snapshot.
    pub fn claims(&mut self, peer: ReplicaId, snapshot: Seq) {
        self.claims[peer.index()] = snapshot;
    }

    /// It is this late.
    pub fn note_time(&mut self, now: Nanos) {
        self.serving.note_time(now);
    }

    /// `peer` asks for batches.
    pub fn goes_on(&mut self, peer: ReplicaId) {
        self.serving.goes_on(peer);
    }

    /// The oldest snapshot that a peer transfers from here.
    #[must_use]
    pub fn wanted_by_peers(&self) -> Option<Seq> {
        self.serving.wanted()
    }

    /// For the invariants.
    pub fn check(&self) {
        self.serving.check(self.claims.len());
        if let State::Fetching { pieces, .. } = &self.state {
            pieces.check();
        }
    }

    /// Of `peers`, those that claim a snapshot of `seq` or a later one.
    fn claiming(&self, peers: ReplicaSet, seq: Seq) -> ReplicaSet {
        peers.iter().filter(|peer| self.claims[peer.index()] >= seq).collect()
    }

    fn fetch(&mut self, missing: Seq, snapshot: StableSnapshot, out: &mut Effects) {
        self.attempt.0 += 1;
        out.files.push(FileOrder::Begin { attempt: self.attempt, manifest: Arc::clone(&snapshot.manifest) });
        let pieces = Box::new(Pieces::new(self.attempt, snapshot, self.claims.len(), self.me));
        self.state = State::Fetching { missing, pieces };
    }

    fn pieces_of(&mut self, attempt: Attempt) -> Option<&mut Pieces> {
        match &mut self.state {
            State::Fetching { pieces, .. } if pieces.attempt() == attempt => Some(pieces),
            State::Idle
            | State::Seeking { .. }
            | State::Fetching { .. }
            | State::Assembling { .. }
            | State::Waiting { .. }
            | State::Switching { .. } => None,
        }
    }

    pub(super) fn give_up(&mut self) {
        self.state = State::Idle;
        self.bad = ReplicaSet::EMPTY;
    }
}

impl Replica {
    /// Does what can be done of a transfer now. At the end of every step.
    pub(super) fn advance_transfer(&mut self, now: Now, out: &mut Effects) {
        if !self.transfer.is_active() {
            return;
        }
        if self.is_transfer_obsolete() {
            return self.transfer.give_up();
        }
        match self.transfer.state {
            State::Seeking { .. } => self.ask_for_manifest(now, out),
            State::Fetching { .. } => self.ask_for_pieces(now, out),
            State::Idle | State::Assembling { .. } => {}
            State::Waiting { .. } => self.switch_when_possible(out),
            State::Switching { .. } => self.install_when_durable(now, out),
        }
    }

    /// Who is far behind, and gets nothing of what is missing from anybody, does not wait until somebody says that it is
    /// gone.
    pub(super) fn seek_when_far_behind(&mut self, now: Now) {
        let (missing, since) = self.catch_up.missing();
        let far = self.executing.last.plus(FAR_BEHIND * self.config.params().window);
        let waits =
            missing == self.executing.last.next() && now.mono.since(since) > LOG_PATIENCE * self.tuning.status_busy;
        let ahead = self.transfer.claiming(self.peers, far.next());
        if waits && self.config.weights().is_blocking(ahead) {
            self.transfer.seek(missing);
        }
    }

    /// A peer asks for the newest stable snapshot above a Seq.
    pub(super) fn on_fetch_manifest(&mut self, from: ReplicaId, above: Seq, out: &mut Effects) -> Result<(), Ignored> {
        let newest =
            self.snapshots.newest().filter(|certificate| certificate.seq > above && self.keeps(certificate.seq));
        let Some(seq) = newest.map(|certificate| certificate.seq) else { return Err(Ignored::NotNeeded) };
        match self.transfer.serving.wants_manifest(from, seq) {
            Asked::First => out.files.push(FileOrder::ReadManifest { seq }),
            Asked::AsOthers => {}
            Asked::TooOften => return Err(Ignored::Duplicate),
        }
        Ok(())
    }

    /// A peer asks for a piece of a snapshot.
    pub(super) fn on_fetch_chunk(
        &mut self,
        from: ReplicaId,
        fetch: FetchChunk,
        out: &mut Effects,
    ) -> Result<(), Ignored> {
        let FetchChunk { seq, piece } = fetch;
        if !self.keeps(seq) {
            self.send_chunk(from, seq, piece, None, out);
            return Ok(());
        }
        if !self.transfer.serving.wants_piece(from, fetch) {
            return Err(Ignored::MemoryFull);
        }
        self.read_pieces(out);
        Ok(())
    }

    /// SS(s) with its manifest, checked by the verifier.
    pub(super) fn on_manifest(&mut self, snapshot: StableSnapshot, out: &mut Effects) -> Result<(), Ignored> {
        self.compare_manifest(&snapshot, out);
        let State::Seeking { missing, .. } = self.transfer.state else { return Err(Ignored::NotNeeded) };
        if snapshot.certificate.seq < missing {
            return Err(Ignored::BelowWindow);
        }
        self.transfer.fetch(missing, snapshot, out);
        Ok(())
    }

    /// A piece, or that it is not kept.
    pub(super) fn on_chunk(
        &mut self,
        now: Now,
        from: ReplicaId,
        chunk: Chunk,
        out: &mut Effects,
    ) -> Result<(), Ignored> {
        let State::Fetching { pieces, .. } = &mut self.transfer.state else { return Err(Ignored::NotNeeded) };
        if self.transfer.bad.contains(from) {
            return Err(Ignored::NotNeeded);
        }
        match pieces.arrived(now.mono, from, chunk) {
            Arrived::Good(order) => {
                if let FileOrder::Store { chunk, .. } = &order {
                    self.counters.chunks_fetched += 1;
                    self.counters.chunk_bytes_fetched += chunk.bytes().len() as u64;
                }
                out.files.push(order);
                Ok(())
            }
            Arrived::Bad => {
                self.counters.chunks_refused += 1;
                self.transfer.bad.insert(from);
                self.transfer.bad_since = now.mono;
                Err(Ignored::Conflicting)
            }
            Arrived::NotKept => Ok(()),
            Arrived::NotNeeded => Err(Ignored::Duplicate),
        }
    }

    /// The shell carried out an order on files.
    pub(super) fn on_file(&mut self, now: Now, done: FileDone, out: &mut Effects) {
        match done {
            FileDone::Manifest { seq, manifest } => {
                self.compare_own_manifest(seq, manifest.as_ref(), out);
                self.send_manifest(seq, manifest, out);
            }
            FileDone::Reread { seq, image } => self.on_reread(seq, image, now, out),
            FileDone::Piece { to, seq, piece, bytes } => {
                self.transfer.serving.piece_read();
                self.counters.chunks_served += u64::from(bytes.is_some());
                self.send_chunk(to, seq, piece, bytes, out);
                self.read_pieces(out);
            }
            FileDone::Begun { attempt, found } => {
                if let Some(pieces) = self.transfer.pieces_of(attempt) {
                    pieces.begin(&found);
                }
            }
            FileDone::Checked { attempt, part, state } => {
                let is_held = self.transfer.pieces_of(attempt).is_some_and(|pieces| pieces.checked(part, state));
                self.counters.chunks_resumed += u64::from(is_held);
            }
            FileDone::Stored { attempt, part } => {
                if let Some(pieces) = self.transfer.pieces_of(attempt) {
                    pieces.stored(part);
                }
            }
            FileDone::Assembled { attempt, clients } => self.on_assembled(attempt, clients, out),
        }
    }

    /// Whether the snapshot of `seq` is stable and, as far as is known, whole here.
    fn keeps(&self, seq: Seq) -> bool {
        let is_damaged = self.quarantine.is_own_damaged() && seq == self.stable_snapshot();
        !is_damaged && self.snapshots.certificate(seq).is_some()
    }

    /// Whether the log has led past what a snapshot was wanted for.
    fn is_transfer_obsolete(&self) -> bool {
        let is_suspect = self.quarantine.is_suspect();
        let executed = self.sound_through();
        match &self.transfer.state {
            State::Idle => true,
            State::Seeking { missing, .. } => {
                let is_in_log = !is_suspect && self.is_committed(*missing);
                is_in_log || executed >= *missing
            }
            State::Fetching { pieces, .. } => executed >= pieces.seq(),
            State::Assembling { target, .. } | State::Waiting { target, .. } => executed >= target.certificate.seq,
            State::Switching { .. } => false,
        }
    }

    /// One peer at a time, the one that claims most first: a manifest can be large.
    fn ask_for_manifest(&mut self, now: Now, out: &mut Effects) {
        let patience = MANIFEST_PATIENCE * self.tuning.status_busy;
        let State::Seeking { missing, asked, mut tried } = self.transfer.state else { return };
        if asked.is_some_and(|(peer, at)| self.peers.contains(peer) && now.mono.since(at) < patience) {
            return;
        }
        let claiming = self.transfer.claiming(self.peers, missing);
        if claiming.iter().all(|peer| tried.contains(peer)) {
            tried = ReplicaSet::EMPTY;
        }
        let untried = claiming.iter().filter(|peer| !tried.contains(*peer));
        let Some(peer) = untried.max_by_key(|peer| self.transfer.claims[peer.index()]) else { return };
        let (asked, tried) = (Some((peer, now.mono)), tried.with(peer));
        self.transfer.state = State::Seeking { missing, asked, tried };
        let above = Seq(missing.0 - 1);
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        outbox.send(To::One(peer), Lane::Control, Message::FetchManifest(above), LogPosition(0));
    }

    fn ask_for_pieces(&mut self, now: Now, out: &mut Effects) {
        let patience = PIECE_PATIENCE * self.tuning.status_busy;
        let State::Fetching { missing, pieces } = &mut self.transfer.state else { return };
        let missing = *missing;
        pieces.rotate(now.mono, patience, PAUSE);
        out.files.extend(std::iter::from_fn(|| pieces.next_check()));
        if pieces.is_complete() {
            let (certificate, manifest) = (pieces.certificate().clone(), Arc::clone(pieces.manifest()));
            let bytes = pieces.bytes().expect("it has begun").0;
            let target = Target { certificate, manifest, bytes };
            let attempt = pieces.attempt();
            out.files.push(FileOrder::Assemble { attempt, manifest: Arc::clone(&target.manifest) });
            self.transfer.state = State::Assembling { attempt, missing, target };
            return;
        }
        // Memory for both is not accounted for.
        if self.snapshots.is_writing() {
            return;
        }
        let bad = self.transfer.bad;
        let seq = pieces.seq();
        let has_it = |peer: &ReplicaId| self.transfer.claims[peer.index()] >= seq && !bad.contains(*peer);
        let eligible: ReplicaSet = self.peers.iter().filter(has_it).collect();
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        while let Some((peer, fetch)) = pieces.next_question(now.mono, eligible) {
            outbox.send(To::One(peer), Lane::Control, Message::FetchChunk(fetch), LogPosition(0));
        }
        let is_stuck = !pieces.is_waiting() && eligible.iter().all(|peer| pieces.is_gone(peer));
        if is_stuck {
            self.find_sources(now, seq, missing);
        }
    }

    /// No peer that may be asked has the snapshot any more: a newer one, if somebody claims to have one. What is stored is
    /// kept. Otherwise those that gave something wrong get another chance, after a while: a correct one may have been
    /// unlucky with its disk.
    fn find_sources(&mut self, now: Now, seq: Seq, missing: Seq) {
        let peers = self.peers.iter().filter(|peer| !self.transfer.bad.contains(*peer)).collect();
        if !self.transfer.claiming(peers, seq.next()).is_empty() {
            self.transfer.state = State::Seeking { missing, asked: None, tried: ReplicaSet::EMPTY };
        }
        if now.mono.since(self.transfer.bad_since) > PAUSE {
            self.transfer.bad = ReplicaSet::EMPTY;
        }
    }

    fn on_assembled(&mut self, answered: Attempt, clients: Option<Box<ClientsImage>>, out: &mut Effects) {
        let State::Assembling { attempt, missing, target } = &self.transfer.state else { return };
        if *attempt != answered {
            return;
        }
        let (missing, target) = (*missing, target.clone());
        match clients {
            Some(clients) => self.transfer.state = State::Waiting { target, clients },
            // Something was damaged between its storing and now: what is still whole stays.
            None => {
                let Target { certificate, manifest, .. } = target;
                self.transfer.fetch(missing, StableSnapshot { certificate, manifest }, out);
            }
        }
    }

    /// The superblock names the snapshot (P9) as soon as the own window has come to it, so that no slot below it is open,
    /// and nothing of the state that it replaces is at work.
    fn switch_when_possible(&mut self, out: &mut Effects) {
        let State::Waiting { target, .. } = &self.transfer.state else { return };
        let seq = target.certificate.seq;
        let is_at_rest = self.executing.is_free() && self.snapshots.is_idle();
        // What a report compares is in the state that is given up.
        let is_possible = self.pbft.stable() >= seq && is_at_rest && self.quarantine.is_told();
        if !is_possible {
            return;
        }
        let certificate = target.certificate.clone();
        let at = self.persist_stable(certificate, seq, out);
        // Nothing is executed any more on the state that is given up.
        self.executing.install(seq);
        let State::Waiting { target, clients } = std::mem::replace(&mut self.transfer.state, State::Idle) else {
            unreachable!("looked at above")
        };
        self.transfer.state = State::Switching { at, target, clients };
    }

    /// The superblock names the snapshot: everything that is replicated becomes what it says.
    fn install_when_durable(&mut self, now: Now, out: &mut Effects) {
        if !matches!(self.transfer.state, State::Switching { at, .. } if at <= self.durable) {
            return;
        }
        let State::Switching { target, clients, .. } = std::mem::replace(&mut self.transfer.state, State::Idle) else {
            unreachable!("looked at above")
        };
        let Target { certificate, manifest, .. } = target;
        let seq = certificate.seq;
        self.transfer.give_up();
        self.counters.transfers += 1;
        self.adopt_state(&manifest, *clients, now);
        self.snapshots.jump(&manifest, certificate, self.superblock.journal_start);
        self.index.forget(seq);
        if self.quarantine.is_suspect() {
            self.execute_anew(seq, out);
        }
        out.install = Some(seq);
        out.remove_snapshots_below = Some(seq);
        out.files.push(FileOrder::Clear);
        self.drop_when_unread(out);
        self.compare_transferred(seq, out);
    }

    fn read_pieces(&mut self, out: &mut Effects) {
        while let Some((to, FetchChunk { seq, piece })) = self.transfer.serving.next_read() {
            out.files.push(FileOrder::ReadPiece { to, seq, piece });
        }
    }

    fn send_manifest(&mut self, seq: Seq, manifest: Option<Arc<Manifest>>, out: &mut Effects) {
        let waiting = self.transfer.serving.manifest_read(seq);
        let certificate = self.snapshots.certificate(seq);
        let (Some(manifest), Some(certificate)) = (manifest, certificate) else { return };
        let certificate = certificate.clone();
        let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
        for peer in waiting.iter() {
            let snapshot = StableSnapshot { certificate: certificate.clone(), manifest: Arc::clone(&manifest) };
            outbox.send(To::One(peer), Lane::Bulk, Message::Manifest(snapshot), LogPosition(0));
        }
    }

    fn send_chunk(&mut self, to: ReplicaId, seq: Seq, piece: Piece, bytes: Option<ChunkBytes>, out: &mut Effects) {
        let message = Message::Chunk(Chunk { seq, piece, bytes });
        Outbox::new(out, &mut self.last, &mut self.index).send(To::One(to), Lane::Bulk, message, LogPosition(0));
    }
}
