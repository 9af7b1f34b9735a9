//! State transfer, question by question: one replica, three peers that the tests play, a disk and a file thread that they
//! stop, kill and damage. Whole clusters in which it happens under faults are the simulator's.

mod common;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bft_core::auth::Verifier;
use bft_core::door::{Effects, FileDone, FileOrder, Halt, Input, LinkState, Now, Outgoing, Persist, PieceState, Place};
use bft_core::door::{To, Tuning};
use bft_core::hash::{Context, Hasher};
use bft_core::ids::{Digest, Epoch, LogPosition, Nanos, ReplicaId, Seq, View, WallNanos};
use bft_core::journal::record::Record;
use bft_core::journal::superblock::Superblock;
use bft_core::limits::{
    CHUNK_BYTES_MAX, MILLISECOND, SECOND, TRANSFER_BYTES, TRANSFER_REQUESTS_PER_SOURCE, TRANSFER_SOURCES_MAX,
};
use bft_core::replica::{Counters, Replica};
use bft_core::snapshot::{ChunkBytes, ClientsImage, Manifest, Piece, Scalars, Section};
use bft_core::wire::canonical;
use bft_core::wire::message::{Checkpoint, Chunk, FetchChunk, Message, SnapshotVote, StableSnapshot, Status};
use bytes::Bytes;
use common::{TestCluster, superblock_after};

/// What the peers have executed, and their last stable checkpoint.
const EXECUTED: Seq = Seq(5000);
const STABLE: Seq = Seq(4992);
/// The snapshot that they took last, and the one after it.
const OLDER: Seq = Seq(2560);
const NEWER: Seq = Seq(3840);

/// A snapshot as it lies at a peer.
struct Image {
    snapshot: StableSnapshot,
    pieces: BTreeMap<Piece, ChunkBytes>,
}

impl Image {
    fn new(cluster: &TestCluster, seq: Seq, chunks: &[Vec<u8>]) -> Self {
        let scalars = Scalars { seq, chain: Digest([1; 32]), exec: Digest([2; 32]), ..Scalars::default() };
        let clients = ClientsImage { scalars, ..ClientsImage::default() }.encode();
        let mut manifest = Manifest::new(scalars);
        chunks.iter().for_each(|chunk| manifest.add_chunk(chunk));
        manifest.add_clients(&clients);
        let bytes = chunks.iter().chain([&clients]).map(|bytes| ChunkBytes::new(Bytes::from(bytes.clone())));
        let pieces = manifest.pieces().map(|(piece, _, _)| piece).zip(bytes).collect();
        let certificate = signed(cluster, seq, manifest.root(), 3);
        Self { snapshot: StableSnapshot { certificate, manifest: Arc::new(manifest) }, pieces }
    }

    fn chunk(&self, fetch: FetchChunk) -> Message {
        let FetchChunk { seq, piece } = fetch;
        Message::Chunk(Chunk { seq, piece, bytes: Some(self.pieces[&piece].clone()) })
    }
}

fn signed(cluster: &TestCluster, seq: Seq, root: Digest, signers: u16) -> SnapshotVote {
    let signers: Vec<_> = (0..signers).map(ReplicaId).collect();
    cluster.snapshot_of(seq.0, root, &signers)
}

/// Chunks of three bytes, the i-th of them full of the i-th letter.
fn chunks(letters: &str) -> Vec<Vec<u8>> {
    letters.bytes().map(|letter| vec![letter; 3]).collect()
}

/// What stays on the disk when the process is killed.
#[derive(Default)]
struct Disk {
    records: Vec<Persist>,
    durable: LogPosition,
    is_stopped: bool,
    incoming: BTreeMap<Digest, ChunkBytes>,
    /// Complete snapshots.
    complete: BTreeMap<Seq, Arc<Manifest>>,
}

struct Lone {
    cluster: TestCluster,
    verifier: Verifier,
    me: ReplicaId,
    replica: Replica,
    disk: Disk,
    files: VecDeque<FileOrder>,
    sent: Vec<(ReplicaId, Message)>,
    installed: Vec<Seq>,
    removed_below: Option<Seq>,
    halt: Option<Halt>,
    now: u64,
}

impl Lone {
    fn new() -> Self {
        let cluster = TestCluster::new();
        let me = cluster.config.primary(View(1));
        let disk = Disk::default();
        let (replica, _) = start(&cluster, me, &disk, SECOND);
        let mut lone = Self {
            verifier: cluster.verifier(),
            cluster,
            me,
            replica,
            disk,
            files: VecDeque::new(),
            sent: Vec::new(),
            installed: Vec::new(),
            removed_below: None,
            halt: None,
            now: SECOND,
        };
        lone.greet();
        lone
    }

    /// The same, as far as the two peers that it asked said that they keep nothing of what it lacks.
    fn left_behind() -> Self {
        let mut lone = Self::new();
        lone.leave_behind(OLDER);
        lone
    }

    /// The same, as far as the peer that it asked gave it the manifest of a snapshot of `chunks`. Names that peer.
    fn with_manifest_of(chunks: &[Vec<u8>]) -> (Self, Image, ReplicaId) {
        let mut lone = Self::left_behind();
        let image = Image::new(&lone.cluster, OLDER, chunks);
        let from = lone.take_manifest(&image);
        (lone, image, from)
    }

    /// Whoever it asked gives it the manifest.
    fn take_manifest(&mut self, image: &Image) -> ReplicaId {
        let from = self.asked_for_manifest()[0].0;
        self.hear(from, Message::Manifest(image.snapshot.clone()));
        from
    }

    fn leave_behind(&mut self, snapshot: Seq) {
        for peer in self.peers() {
            self.hear(peer, status(snapshot));
            if self.asked_for_log().is_some_and(|asked| asked == peer) {
                self.hear(peer, Message::Log(Vec::new()));
            }
        }
    }

    fn peers(&self) -> Vec<ReplicaId> {
        self.cluster.config.replicas().filter(|replica| *replica != self.me).collect()
    }

    fn greet(&mut self) {
        for peer in self.peers() {
            self.step(Input::Link { peer, state: LinkState::Up });
        }
    }

    fn hear(&mut self, from: ReplicaId, message: Message) {
        let message = self.verifier.check(from, message).expect("passes the door");
        self.step(Input::Message { from, message });
    }

    fn step(&mut self, input: Input) {
        let mut effects = Effects::default();
        let now = Now { mono: Nanos(self.now), wall: WallNanos(1_700_000_000_000_000_000 + self.now) };
        self.replica.step(now, input, &mut effects);
        self.replica.check_invariants();
        self.carry_out(effects);
    }

    fn carry_out(&mut self, mut effects: Effects) {
        self.disk.records.append(&mut effects.persist);
        self.files.extend(effects.files.drain(..));
        self.sent.extend(effects.send.drain(..).filter_map(|Outgoing { to, message, .. }| match to {
            To::One(peer) => Some((peer, message)),
            To::All => None,
        }));
        self.installed.extend(effects.install);
        self.removed_below = effects.remove_snapshots_below.or(self.removed_below);
        self.halt = self.halt.take().or(effects.halt);
        self.flush();
    }

    fn flush(&mut self) {
        let last = self.disk.records.last().map_or(LogPosition(0), |persist| persist.position);
        if !self.disk.is_stopped && self.disk.durable < last {
            self.disk.durable = last;
            self.step(Input::Durable(last));
        }
    }

    /// Lets `time` pass: the replica is called every 50 ms.
    fn pass(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now += 50 * MILLISECOND;
            self.step(Input::Deadline);
        }
    }

    /// The file thread carries out what it was told.
    fn run_files(&mut self) {
        while let Some(order) = self.files.pop_front() {
            if let Some(done) = self.disk.carry_out(order) {
                self.step(Input::File(done));
            }
        }
    }

    /// Killed, and started with what is durable.
    fn restart(&mut self) {
        let durable = self.disk.durable;
        self.disk.records.retain(|persist| persist.position <= durable);
        self.files.clear();
        self.sent.clear();
        let (replica, effects) = start(&self.cluster, self.me, &self.disk, self.now);
        self.replica = replica;
        self.carry_out(effects);
        self.greet();
    }

    fn asked_for_log(&self) -> Option<ReplicaId> {
        let asks = |(_, message): &&(ReplicaId, Message)| matches!(message, Message::FetchLog(_));
        self.sent.iter().rev().find(asks).map(|(peer, _)| *peer)
    }

    /// Takes the FETCH-MANIFESTs that were sent.
    fn asked_for_manifest(&mut self) -> Vec<(ReplicaId, Seq)> {
        self.take(|message| match message {
            Message::FetchManifest(above) => Some(*above),
            _ => None,
        })
    }

    /// Takes the FETCH-CHUNKs that were sent.
    fn questions(&mut self) -> Vec<(ReplicaId, FetchChunk)> {
        self.take(|message| match message {
            Message::FetchChunk(fetch) => Some(*fetch),
            _ => None,
        })
    }

    fn take<T>(&mut self, of: impl Fn(&Message) -> Option<T>) -> Vec<(ReplicaId, T)> {
        let taken = self.sent.iter().filter_map(|(peer, message)| Some((*peer, of(message)?))).collect();
        self.sent.retain(|(_, message)| of(message).is_none());
        taken
    }

    /// Answers every question with what was asked for, until no more are asked. Says how many there were.
    fn feed(&mut self, image: &Image) -> usize {
        let mut answered = 0;
        loop {
            self.run_files();
            let questions = self.questions();
            if questions.is_empty() {
                return answered;
            }
            for (peer, fetch) in questions {
                answered += 1;
                self.hear(peer, image.chunk(fetch));
            }
        }
    }

    /// The peers' window comes here.
    fn show_checkpoint(&mut self, seq: Seq, root: Digest) {
        let (id, epoch) = (self.cluster.config.cluster_id(), self.cluster.config.epoch());
        let sign = |replica| {
            let bytes = canonical::checkpoint(id, epoch, seq, root, Seq(0), replica);
            (replica, bft_core::auth::Scheme::sign(self.cluster.scheme(replica), &bytes))
        };
        let signatures = (0..3).map(ReplicaId).map(sign).collect();
        let certificate = Checkpoint { epoch, seq, root, epoch_end: Seq(0), signatures };
        let peer = self.peers()[0];
        self.hear(peer, Message::Checkpoint(certificate));
    }

    fn superblock(&self) -> Option<&Superblock> {
        self.disk.records.iter().rev().find_map(|persist| match &persist.place {
            Place::Superblock(superblock) => Some(&**superblock),
            Place::Journal(_) => None,
        })
    }

    fn counters(&self) -> &Counters {
        self.replica.counters()
    }
}

impl Disk {
    fn carry_out(&mut self, order: FileOrder) -> Option<FileDone> {
        Some(match order {
            FileOrder::ReadManifest { seq } => FileDone::Manifest { seq, manifest: self.complete.get(&seq).cloned() },
            FileOrder::ReadPiece { to, seq, piece } => {
                let entry = self.complete.get(&seq).and_then(|manifest| manifest.entry(piece));
                let bytes = entry.and_then(|(_, digest)| self.incoming.get(&digest).cloned());
                FileDone::Piece { to, seq, piece, bytes }
            }
            FileOrder::Begin { attempt, manifest } => {
                self.incoming.retain(|digest, _| manifest.pieces().any(|(_, _, wanted)| wanted == *digest));
                FileDone::Begun { attempt, found: self.incoming.keys().copied().collect() }
            }
            FileOrder::Check { attempt, part, len, digest } => {
                let is_whole = |chunk: &ChunkBytes| chunk.digest() == digest && chunk.bytes().len() == len as usize;
                let state = match self.incoming.get(&digest).is_some_and(is_whole) {
                    true => PieceState::Whole,
                    false => PieceState::Missing,
                };
                FileDone::Checked { attempt, part, state }
            }
            FileOrder::Store { attempt, part, chunk } => {
                self.incoming.insert(chunk.digest(), chunk);
                FileDone::Stored { attempt, part }
            }
            FileOrder::Assemble { attempt, manifest } => {
                let is_there = |digest| self.incoming.get(&digest).is_some_and(|chunk| chunk.digest() == digest);
                let clients = manifest.pieces().all(|(_, _, digest)| is_there(digest)).then(|| {
                    let pieces = manifest.clients.iter().map(|(_, digest)| self.incoming[digest].bytes().to_vec());
                    let bytes = Bytes::from(pieces.collect::<Vec<_>>().concat());
                    Box::new(ClientsImage::decode(&bytes).expect("a client table"))
                });
                if clients.is_some() {
                    self.complete.insert(manifest.scalars.seq, manifest);
                }
                FileDone::Assembled { attempt, clients }
            }
            FileOrder::Reread { seq, .. } => FileDone::Reread { seq, image: None },
            // Kept, so that the tests can read pieces of what is complete.
            FileOrder::Clear => return None,
        })
    }
}

fn start(cluster: &TestCluster, me: ReplicaId, disk: &Disk, now: u64) -> (Replica, Effects) {
    let superblock = superblock_after(&cluster.config, me, &disk.records);
    let (journal_start, snapshot) = (superblock.journal_start, superblock.snapshot);
    let scheme = Arc::clone(&cluster.replicas[me.index()]);
    let mut recovery = Replica::recover(Arc::clone(&cluster.config), me, scheme, Tuning::default(), superblock);
    if let Some((seq, _)) = snapshot {
        let manifest = &disk.complete[&seq];
        let scalars = manifest.scalars;
        recovery.snapshot(manifest, ClientsImage { scalars, ..ClientsImage::default() });
    }
    for persist in disk.records.iter().filter(|persist| persist.position >= journal_start) {
        if let Place::Journal(record) = &persist.place {
            recovery.record(persist.position, record.clone()).expect("its own journal");
        }
    }
    let last = disk.records.last().map_or(LogPosition(0), |persist| persist.position);
    let mut effects = Effects::default();
    let now = Now { mono: Nanos(now), wall: WallNanos(1_700_000_000_000_000_000 + now) };
    (recovery.finish(now, last, Seq(0), &mut effects), effects)
}

fn status(snapshot: Seq) -> Message {
    let map = || vec![0; 4];
    Message::Status(Status {
        epoch: Epoch(3),
        stable: STABLE,
        executed: EXECUTED,
        snapshot,
        proposed: map(),
        prepared: map(),
        committed: map(),
        ..Status::default()
    })
}

fn checkpoint_root(cluster: &TestCluster, scalars: &Scalars) -> Digest {
    let mut hasher = Hasher::new(Context::Checkpoint);
    hasher.u64(scalars.seq.0).update(&scalars.chain.0).update(&scalars.exec.0);
    hasher.update(&cluster.config.digest().0).update(&Digest::ZERO.0);
    hasher.finish()
}

#[test]
fn t1_only_a_blocking_set_starts_a_transfer_and_only_a_certificate_gives_it_a_target() {
    let mut lone = Lone::new();
    let peers = lone.peers();
    for peer in &peers {
        lone.hear(*peer, status(Seq(1 << 40)));
    }
    let first = lone.asked_for_log().expect("who is behind asks for what is missing");
    lone.hear(first, Message::Log(Vec::new()));
    lone.hear(first, Message::Log(Vec::new()));
    lone.pass(SECOND);
    assert!(lone.asked_for_manifest().is_empty(), "one peer can say what it likes");

    lone.leave_behind(OLDER);
    let asked = lone.asked_for_manifest();
    assert_eq!(asked.len(), 1, "one peer at a time: {asked:?}");
    assert_eq!(asked[0].1, Seq(0));
    let image = Image::new(&lone.cluster, OLDER, &chunks("abc"));
    let mut forged = image.snapshot.clone();
    forged.certificate = signed(&lone.cluster, OLDER, image.snapshot.certificate.root, 2);
    assert!(lone.verifier.check(peers[0], Message::Manifest(forged)).is_err(), "two of four are no quorum");
    let mut forged = image.snapshot.clone();
    Arc::make_mut(&mut forged.manifest).state[1].1 = Digest([9; 32]);
    assert!(lone.verifier.check(peers[0], Message::Manifest(forged)).is_err(), "nobody signed this manifest");
    assert!(lone.files.is_empty());

    lone.hear(peers[0], Message::Manifest(image.snapshot.clone()));
    assert!(matches!(&lone.files[0], FileOrder::Begin { manifest, .. } if *manifest == image.snapshot.manifest));
    assert_eq!(lone.replica.transfer_progress(), None, "the disk has not said what it holds");
    lone.run_files();
    let progress = lone.replica.transfer_progress().expect("pieces are fetched");
    assert_eq!((progress.seq, progress.bytes_held), (OLDER, 0));
}

#[test]
fn d17_the_superblock_names_the_snapshot_before_it_is_installed_and_then_the_rest_goes() {
    let (mut lone, image, from) = Lone::with_manifest_of(&chunks("abc"));
    assert_eq!(lone.feed(&image), 4, "three chunks and the client table, each once");
    lone.pass(SECOND);
    assert!(lone.installed.is_empty(), "the window has not come to it");

    lone.disk.is_stopped = true;
    lone.show_checkpoint(STABLE, Digest([7; 32]));
    lone.disk.is_stopped = false;
    lone.flush();
    let superblock = lone.superblock().expect("the window moved").clone();
    assert_eq!(superblock.snapshot, Some((OLDER, image.snapshot.certificate.root)));
    assert_eq!(superblock.collected, OLDER, "what was below it is not kept here");
    assert_eq!(lone.installed, [OLDER]);

    assert_eq!(lone.removed_below, Some(OLDER));
    assert_eq!((lone.replica.executed(), lone.replica.stable_snapshot()), (OLDER, OLDER));
    assert_eq!((lone.counters().transfers, lone.counters().chunks_fetched), (1, 4));
    assert_eq!(lone.replica.transfer_progress(), None);
    lone.step(Input::Installed { seq: OLDER });
    lone.sent.clear();
    lone.hear(from, status(OLDER));
    assert!(
        lone.take(|message| matches!(message, Message::FetchLog(seq) if *seq == OLDER.next()).then_some(())).len() == 1
    );
}

#[test]
fn p9_nothing_is_installed_before_its_superblock_is_durable() {
    let mut lone = Lone::left_behind();
    let image = Image::new(&lone.cluster, OLDER, &chunks("abc"));
    let from = lone.asked_for_manifest()[0].0;
    lone.show_checkpoint(STABLE, Digest([7; 32]));
    lone.hear(from, Message::Manifest(image.snapshot.clone()));
    lone.disk.is_stopped = true;
    lone.feed(&image);
    let last = lone.disk.records.last().expect("the switch is on its way to the disk").clone();
    assert!(matches!(last.place, Place::Superblock(superblock) if superblock.snapshot.is_some()));
    let certified = |persist: &Persist| matches!(persist.place, Place::Journal(Record::SnapStable(_)));
    assert!(lone.disk.records.iter().any(certified), "with the certificate before it");
    assert!(lone.installed.is_empty() && lone.removed_below.is_none());
    assert_eq!(lone.replica.executed(), Seq(0));

    // A crash before it is durable: the state before. What was fetched is found again.
    lone.restart();
    assert_eq!(lone.replica.executed(), Seq(0));
    lone.disk.is_stopped = false;
    lone.leave_behind(OLDER);
    lone.take_manifest(&image);
    assert_eq!(lone.feed(&image), 0);
    assert_eq!(lone.installed, [OLDER]);

    // A crash after it: the new one, although the service had not restored it yet.
    lone.restart();
    assert_eq!(lone.replica.executed(), OLDER);
    assert_eq!(lone.installed, [OLDER, OLDER]);
}

#[test]
fn t2_a_piece_counts_only_under_the_index_that_was_asked_for() {
    let (mut lone, image, _) = Lone::with_manifest_of(&chunks("abcdefgh"));
    lone.run_files();
    let questions = lone.questions();
    assert_eq!(questions.len(), 9);
    let (liar, asked) = questions[0];
    let other = Piece { section: Section::State, index: asked.piece.index + 1 };
    let lie = Chunk { seq: OLDER, piece: asked.piece, bytes: Some(image.pieces[&other].clone()) };
    lone.hear(liar, Message::Chunk(lie));
    assert!(lone.files.is_empty(), "a genuine piece under a wrong index is not stored");
    assert_eq!(lone.counters().chunks_refused, 1);

    // Whoever lied gives nothing more; what it was asked for others are asked for.
    let again = lone.questions();
    let was_asked_of_liar = questions.iter().filter(|(peer, _)| *peer == liar).count();
    assert_eq!(again.len(), was_asked_of_liar);
    assert!(again.iter().all(|(peer, _)| *peer != liar));
    lone.hear(liar, image.chunk(asked));
    assert!(lone.files.is_empty(), "not even when it tells the truth");
    for (peer, fetch) in questions.into_iter().chain(again).filter(|(peer, _)| *peer != liar) {
        lone.hear(peer, image.chunk(fetch));
    }
    lone.run_files();
    assert_eq!(lone.counters().chunks_fetched, 9);
    let bad_index = Piece { section: Section::Clients, index: 77 };
    let (honest, bytes) = (lone.peers().into_iter().find(|peer| *peer != liar).expect("two others"), None);
    lone.hear(honest, Message::Chunk(Chunk { seq: OLDER, piece: bad_index, bytes }));
    assert!(lone.disk.complete.contains_key(&OLDER));
}

#[test]
fn t3_who_is_silent_or_keeps_nothing_holds_nobody_up() {
    let mut lone = Lone::left_behind();
    let image = Image::new(&lone.cluster, OLDER, &chunks("abcdefgh"));
    let from = lone.asked_for_manifest()[0].0;
    // The first one asked does not answer: another one is.
    lone.pass(SECOND);
    let second = lone.asked_for_manifest();
    assert!(!second.is_empty() && second.iter().all(|(peer, _)| *peer != from), "{second:?}");
    lone.hear(second[0].0, Message::Manifest(image.snapshot.clone()));
    lone.run_files();
    let questions = lone.questions();
    let (silent, gone, good) = (lone.peers()[0], lone.peers()[1], lone.peers()[2]);
    assert!(
        [silent, gone, good].iter().all(|peer| questions.iter().any(|(asked, _)| asked == peer)),
        "from all at once"
    );
    for (_, FetchChunk { seq, piece }) in questions.iter().filter(|(peer, _)| *peer == gone) {
        lone.hear(gone, Message::Chunk(Chunk { seq: *seq, piece: *piece, bytes: None }));
    }
    for (peer, fetch) in questions.iter().filter(|(peer, _)| *peer == good) {
        lone.hear(*peer, image.chunk(*fetch));
    }
    // What the one does not keep the others are asked for; what the other does not give, later.
    let mut answered = 0;
    for _ in 0..100 {
        lone.run_files();
        for (peer, fetch) in lone.questions().into_iter().filter(|(peer, _)| *peer != silent) {
            assert_eq!(peer, good);
            answered += 1;
            lone.hear(peer, image.chunk(fetch));
        }
        lone.pass(100 * MILLISECOND);
    }
    assert!(answered >= 2 && lone.disk.complete.contains_key(&OLDER), "{answered}");
    assert_eq!(lone.counters().chunks_fetched, 9);
}

#[test]
fn t4_a_newer_target_keeps_what_it_shares_with_the_former_one() {
    let mut lone = Lone::left_behind();
    let older = Image::new(&lone.cluster, OLDER, &chunks("abcd"));
    let newer = Image::new(&lone.cluster, NEWER, &chunks("abXYbb"));
    lone.take_manifest(&older);
    lone.run_files();
    let questions = lone.questions();
    // Two chunks come; then nobody keeps that snapshot any more.
    for (peer, fetch) in &questions {
        let is_given = fetch.piece.section == Section::State && fetch.piece.index < 2;
        if is_given {
            lone.hear(*peer, older.chunk(*fetch));
        }
    }
    lone.run_files();
    for peer in lone.peers() {
        lone.hear(peer, status(NEWER));
    }
    for _ in 0..4 {
        let mut asked = lone.questions();
        asked.extend(questions.iter().copied());
        for (peer, FetchChunk { seq, piece }) in asked {
            lone.hear(peer, Message::Chunk(Chunk { seq, piece, bytes: None }));
        }
    }
    let asked = lone.asked_for_manifest();
    assert_eq!(asked.len(), 1, "a newer one is looked for");
    lone.hear(asked[0].0, Message::Manifest(newer.snapshot.clone()));
    let fetched = lone.feed(&newer);
    assert_eq!(lone.counters().chunks_resumed, 2);
    assert_eq!(fetched, 3, "X, Y and the client table; a and b are there, and b is there three times");
    lone.show_checkpoint(STABLE, Digest([7; 32]));
    assert_eq!(lone.installed, [NEWER]);
}

#[test]
fn t4_a_killed_replica_fetches_no_good_piece_again() {
    let (mut lone, image, _) = Lone::with_manifest_of(&chunks("abcdefgh"));
    lone.run_files();
    for (peer, fetch) in lone.questions().into_iter().take(5) {
        lone.hear(peer, image.chunk(fetch));
    }
    lone.run_files();
    // One of the five is damaged when the replica starts again.
    let damaged = *lone.disk.incoming.keys().next().expect("five are stored");
    lone.disk.incoming.insert(damaged, ChunkBytes::new(Bytes::from_static(b"rot")));
    lone.restart();
    lone.leave_behind(OLDER);
    lone.take_manifest(&image);
    assert_eq!(lone.feed(&image), 9 - 4);
    assert_eq!((lone.counters().chunks_resumed, lone.counters().chunks_fetched), (4, 5));
    assert!(lone.disk.complete.contains_key(&OLDER));
}

#[test]
fn t4_answers_about_a_former_try_are_of_no_use() {
    let (mut lone, image, _) = Lone::with_manifest_of(&chunks("abcdefgh"));
    lone.feed(&image);
    // The assembly finds damage: everything begins anew, and what is whole stays.
    lone.show_checkpoint(Seq(128), Digest([7; 32]));
    let mut damaged = Lone::left_behind();
    damaged.take_manifest(&image);
    damaged.run_files();
    for (peer, fetch) in damaged.questions() {
        damaged.hear(peer, image.chunk(fetch));
    }
    let stored: Vec<_> =
        damaged.files.iter().filter(|order| matches!(order, FileOrder::Store { .. })).cloned().collect();
    assert_eq!(stored.len(), 9);
    while !matches!(damaged.files.front(), Some(FileOrder::Assemble { .. })) {
        let order = damaged.files.pop_front().expect("assembly follows");
        if let Some(done) = damaged.disk.carry_out(order) {
            damaged.step(Input::File(done));
        }
    }
    let rotten = *damaged.disk.incoming.keys().next().expect("nine are stored");
    damaged.disk.incoming.insert(rotten, ChunkBytes::new(Bytes::from_static(b"rot")));
    assert_eq!(damaged.feed(&image), 1, "only what is damaged is fetched again");
    // A late answer about the first try, after the second has ended.
    let FileOrder::Store { attempt, part, .. } = stored[0] else { unreachable!("filtered") };
    damaged.step(Input::File(FileDone::Stored { attempt, part }));
    damaged.step(Input::File(FileDone::Begun { attempt, found: vec![rotten] }));
    damaged.step(Input::File(FileDone::Assembled { attempt, clients: None }));
    damaged.show_checkpoint(STABLE, Digest([7; 32]));
    assert_eq!(damaged.installed, [OLDER]);
}

#[test]
fn mem1_few_pieces_are_under_way_at_a_time() {
    let large: Vec<_> = (0..40u8).map(|fill| vec![fill; CHUNK_BYTES_MAX]).collect();
    let (mut lone, image, _) = Lone::with_manifest_of(&large);
    lone.run_files();
    let questions = lone.questions();
    assert_eq!(questions.len(), TRANSFER_BYTES / CHUNK_BYTES_MAX);
    // What came and is not written yet counts too.
    for (peer, fetch) in &questions {
        lone.hear(*peer, image.chunk(*fetch));
    }
    assert!(lone.questions().is_empty());
    assert_eq!(lone.files.len(), questions.len());
    assert_eq!(lone.feed(&image), 41 - questions.len());

    let small: Vec<_> = (0..200u8).map(|fill| vec![fill; 2]).collect();
    let (mut lone, _, _) = Lone::with_manifest_of(&small);
    lone.run_files();
    let questions = lone.questions();
    for peer in lone.peers() {
        let of_peer = questions.iter().filter(|(asked, _)| *asked == peer).count();
        assert_eq!(of_peer, TRANSFER_REQUESTS_PER_SOURCE);
    }
    assert!(lone.peers().len() <= TRANSFER_SOURCES_MAX);
}

#[test]
fn mem1_what_is_given_unasked_is_taken_only_where_there_is_room() {
    let large: Vec<_> = (0..40u8).map(|fill| vec![fill; CHUNK_BYTES_MAX]).collect();
    let (mut lone, image, from) = Lone::with_manifest_of(&large);
    lone.run_files();
    for piece in image.pieces.keys() {
        lone.hear(from, image.chunk(FetchChunk { seq: OLDER, piece: *piece }));
    }
    assert!(lone.files.len() <= TRANSFER_BYTES / CHUNK_BYTES_MAX, "{} pieces wait for the disk", lone.files.len());
    lone.feed(&image);
    lone.show_checkpoint(STABLE, Digest([7; 32]));
    assert_eq!(lone.installed, [OLDER]);
}

#[test]
fn k3_the_state_of_others_must_be_what_the_checkpoint_says() {
    for is_right in [true, false] {
        let (mut lone, image, _) = Lone::with_manifest_of(&chunks("abc"));
        lone.feed(&image);
        let root = checkpoint_root(&lone.cluster, &image.snapshot.manifest.scalars);
        lone.show_checkpoint(OLDER, if is_right { root } else { Digest([7; 32]) });
        let (seq, here, there) = (OLDER, root, Digest([7; 32]));
        assert_eq!(lone.halt, (!is_right).then_some(Halt::TwoRoots { seq, here, there }));
    }
}

#[test]
fn who_has_transferred_a_snapshot_gives_it_to_others() {
    let mut lone = Lone::left_behind();
    let image = Image::new(&lone.cluster, OLDER, &chunks("abc"));
    let from = lone.asked_for_manifest()[0].0;
    let piece = Piece { section: Section::State, index: 1 };
    let fetch = FetchChunk { seq: OLDER, piece };
    lone.hear(from, Message::FetchManifest(Seq(0)));
    lone.hear(from, Message::FetchChunk(fetch));
    let refused = Message::Chunk(Chunk { seq: OLDER, piece, bytes: None });
    assert_eq!(lone.sent.pop(), Some((from, refused)), "and says so where it has nothing");
    lone.hear(from, Message::Manifest(image.snapshot.clone()));
    lone.feed(&image);
    lone.show_checkpoint(STABLE, Digest([7; 32]));
    lone.step(Input::Installed { seq: OLDER });
    lone.run_files();
    lone.sent.clear();

    let peers = lone.peers();
    for peer in &peers[..2] {
        lone.hear(*peer, Message::FetchManifest(OLDER));
        lone.hear(*peer, Message::FetchManifest(Seq(128)));
    }
    assert_eq!(lone.files.len(), 1, "it is read once for both");
    lone.hear(peers[2], Message::FetchChunk(fetch));
    lone.run_files();
    let expected: Vec<_> = peers[..2].iter().map(|peer| (*peer, Message::Manifest(image.snapshot.clone()))).collect();
    assert_eq!(lone.sent[..2], expected);
    assert_eq!(lone.sent[2..], [(peers[2], image.chunk(fetch))]);
    assert_eq!(lone.counters().chunks_served, 1);

    // After a restart too: the certificate lies in the journal.
    lone.restart();
    lone.hear(peers[0], Message::FetchManifest(Seq(0)));
    lone.run_files();
    assert_eq!(lone.sent.last(), Some(&(peers[0], Message::Manifest(image.snapshot))));
}

#[test]
fn a_transfer_is_given_up_when_the_log_goes_on() {
    let mut lone = Lone::new();
    for peer in lone.peers() {
        lone.hear(peer, status(OLDER));
        if lone.asked_for_log() == Some(peer) {
            lone.hear(peer, Message::Log(Vec::new()));
        }
    }
    assert!(!lone.asked_for_manifest().is_empty());
    let slot = lone.cluster.slot(0, 1);
    let peer = lone.peers()[2];
    lone.hear(peer, Message::Log(vec![slot]));
    lone.pass(4 * SECOND);
    assert!(lone.asked_for_manifest().is_empty());
    let image = Image::new(&lone.cluster, OLDER, &chunks("abc"));
    lone.hear(peer, Message::Manifest(image.snapshot));
    assert!(lone.files.is_empty());

    // Nobody says that what is missing is gone, and nobody gives it: who is so far behind does not wait for ever.
    lone.pass(2 * SECOND);
    assert!(!lone.asked_for_manifest().is_empty());
}
