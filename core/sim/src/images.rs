//! Snapshots on a simulated disk: written file by file with time between them, read back and checked at a start. And the
//! pieces of transferred ones: each stored under its digest, made a snapshot of when all are there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bft_core::door::{Attempt, FileDone, FileOrder, PieceState, SnapshotOrder, SnapshotWritten};
use bft_core::ids::{Digest, Seq};
use bft_core::limits::CHUNK_BYTES_MAX;
use bft_core::service::{Service, Snapshot};
use bft_core::snapshot::{ChunkBytes, ClientsImage, Manifest, Piece, Section, chunk_digest};
use bytes::Bytes;

use crate::disk::{Disk, FileName, Pending};
use crate::points::Operation;

/// An image that is being written.
pub struct Writing {
    seq: Seq,
    image: Box<dyn Snapshot>,
    clients: Vec<u8>,
    manifest: Manifest,
    /// The next chunk.
    next: u32,
    /// What comes next.
    operation: Operation,
}

/// What the thread does, one after the other.
enum Task {
    /// An own image is written.
    Image(Writing),
    /// An order on files is carried out.
    Order(FileOrder),
    /// A piece landed, and is to be flushed.
    Landed(Attempt, u32, Digest),
    /// Pieces are made a snapshot of.
    Assembly(Attempt, Arc<Manifest>, AssemblyStage),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AssemblyStage {
    Pieces,
    Manifest,
    Folder,
    Name,
    ReadBack,
}

/// What a step of the thread finished.
#[derive(Debug)]
pub enum Finished {
    /// The files of an own image are on stable storage.
    Image(Seq, SnapshotWritten),
    /// An order on files was carried out.
    File(FileDone),
}

/// Images and orders in the order in which they came; the first is being carried out.
#[derive(Default)]
pub struct Writer {
    queue: VecDeque<Task>,
    /// The last one that was finished in this life: what has not changed since is not written again.
    last: Option<(Seq, Manifest)>,
}

impl Writer {
    /// Takes an image; says whether nothing was being written before.
    pub fn order(&mut self, order: &SnapshotOrder, image: Box<dyn Snapshot>) -> bool {
        let manifest = Manifest::new(order.clients.scalars);
        let clients = order.clients.encode();
        let operation = Operation::Chunk;
        self.queue.push_back(Task::Image(Writing { seq: order.seq, image, clients, manifest, next: 0, operation }));
        self.queue.len() == 1
    }

    /// Takes an order on files; says whether nothing was being done before.
    pub fn order_files(&mut self, order: FileOrder) -> bool {
        self.queue.push_back(Task::Order(order));
        self.queue.len() == 1
    }

    /// The service was restored: nothing that was written before tells what has not changed since.
    pub fn forget_last(&mut self) {
        self.last = None;
    }

    /// Whether there is anything to do.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The oldest Seq whose files are being written.
    #[must_use]
    pub fn unfinished(&self) -> Option<Seq> {
        self.queue.iter().find_map(|task| match task {
            Task::Image(writing) => Some(writing.seq),
            Task::Order(_) | Task::Landed(..) | Task::Assembly(..) => None,
        })
    }

    /// There is no room for the next file: everything that was written of this image goes, and it begins anew.
    pub fn begin_anew(&mut self, disk: &mut Disk) {
        let Some(Task::Image(writing)) = self.queue.front_mut() else { panic!("the step is of an image") };
        disk.remove_snapshot(writing.seq);
        writing.manifest = Manifest::new(writing.manifest.scalars);
        (writing.next, writing.operation) = (0, Operation::Chunk);
    }

    /// What comes next; `None`: something is only read.
    #[must_use]
    pub fn next(&self) -> Option<Operation> {
        match self.queue.front().expect("a step is of a task") {
            Task::Image(writing) => Some(writing.operation),
            Task::Order(order) => match order {
                FileOrder::Begin { .. } => Some(Operation::Begin),
                FileOrder::Store { .. } => Some(Operation::Piece),
                FileOrder::Clear => Some(Operation::Clear),
                FileOrder::ReadManifest { .. }
                | FileOrder::ReadPiece { .. }
                | FileOrder::Reread { .. }
                | FileOrder::Check { .. }
                | FileOrder::Assemble { .. } => None,
            },
            Task::Landed(..) => Some(Operation::PieceName),
            Task::Assembly(_, _, stage) => match stage {
                AssemblyStage::Pieces => Some(Operation::Assembly),
                AssemblyStage::Manifest => Some(Operation::AssemblyManifest),
                AssemblyStage::Folder => Some(Operation::AssemblyRename),
                AssemblyStage::Name => Some(Operation::AssemblyName),
                AssemblyStage::ReadBack => None,
            },
        }
    }

    /// Writes the next file, or flushes, or carries out an order. Gives what is finished with this.
    pub fn step(&mut self, disk: &mut Disk) -> Option<Finished> {
        let task = self.queue.pop_front().expect("a step is of a task");
        let (finished, rest) = match task {
            Task::Image(writing) => self.step_image(disk, writing),
            Task::Order(order) => carry_out(disk, order),
            Task::Landed(attempt, part, digest) => {
                disk.flush(FileName::Incoming(digest));
                (Some(Finished::File(FileDone::Stored { attempt, part })), None)
            }
            Task::Assembly(attempt, manifest, stage) => assemble(disk, attempt, manifest, stage),
        };
        if let Some(rest) = rest {
            self.queue.push_front(rest);
        }
        finished
    }

    fn step_image(&mut self, disk: &mut Disk, mut writing: Writing) -> (Option<Finished>, Option<Task>) {
        if let Some(next) = writing.step(disk, self.last.as_ref()) {
            writing.operation = next;
            return (None, Some(Task::Image(writing)));
        }
        let Writing { seq, manifest, .. } = writing;
        let written = SnapshotWritten {
            root: manifest.root(),
            state_digest: manifest.state_digest(),
            state_bytes: manifest.state_bytes(),
        };
        self.last = Some((seq, manifest));
        (Some(Finished::Image(seq, written)), None)
    }
}

impl Writing {
    /// Carries out what comes next and gives what comes after it; `None`: the snapshot is finished.
    fn step(&mut self, disk: &mut Disk, last: Option<&(Seq, Manifest)>) -> Option<Operation> {
        match self.operation {
            Operation::Chunk => {
                if self.next == 0 {
                    disk.begin_folder(self.seq);
                }
                self.chunk(disk, last);
                self.next += 1;
                let is_last = self.next == self.image.chunks();
                Some(if is_last { Operation::Clients } else { Operation::Chunk })
            }
            Operation::Clients => {
                self.manifest.add_clients(&self.clients);
                for (index, piece) in (0..).zip(self.clients.chunks(CHUNK_BYTES_MAX)) {
                    write(disk, FileName::Clients(self.seq, index), piece.to_vec());
                }
                Some(Operation::Manifest)
            }
            Operation::Manifest => {
                write(disk, FileName::Manifest(self.seq), self.manifest.encode());
                Some(Operation::Folder)
            }
            Operation::Folder => {
                disk.flush_folder(self.seq);
                Some(Operation::Rename)
            }
            Operation::Rename => {
                disk.name_folder(self.seq);
                Some(Operation::Name)
            }
            Operation::Name => {
                bft_core::mutant!(M38NameNotFlushed, disk.flush_names(), {});
                None
            }
            Operation::Group
            | Operation::NewSegment
            | Operation::RecycledSegment
            | Operation::FirstCopies
            | Operation::LastCopies
            | Operation::Removal
            | Operation::Begin
            | Operation::Piece
            | Operation::PieceName
            | Operation::Assembly
            | Operation::AssemblyManifest
            | Operation::AssemblyRename
            | Operation::AssemblyName
            | Operation::Clear
            | Operation::Repair
            | Operation::FlushAll
            | Operation::FirstInstance
            | Operation::LastInstance => unreachable!("no part of a snapshot"),
        }
    }

    fn chunk(&mut self, disk: &mut Disk, last: Option<&(Seq, Manifest)>) {
        let name = FileName::Chunk(self.seq, self.next);
        if let Some((earlier, manifest)) = last
            && self.image.unchanged_since(self.next, *earlier)
            && let Some(bytes) = disk.read(FileName::Chunk(*earlier, self.next))
        {
            let (len, digest) = manifest.state[self.next as usize];
            self.manifest.add_known_chunk(len, digest);
            write(disk, name, bytes);
            return;
        }
        let mut bytes = vec![0; CHUNK_BYTES_MAX];
        let len = self.image.read(self.next, &mut bytes).expect("the simulated service has no fault");
        bytes.truncate(len);
        self.manifest.add_chunk(&bytes);
        write(disk, name, bytes);
    }
}

/// Carries out an order, or begins to.
fn carry_out(disk: &mut Disk, order: FileOrder) -> (Option<Finished>, Option<Task>) {
    let done = match order {
        FileOrder::ReadManifest { seq } => {
            let bytes = disk.read(FileName::Manifest(seq));
            let manifest = bytes.and_then(|bytes| Manifest::decode(&bytes).ok()).map(Arc::new);
            FileDone::Manifest { seq, manifest }
        }
        FileOrder::ReadPiece { to, seq, piece } => {
            let bytes = disk.read(piece_name(seq, piece)).map(|bytes| ChunkBytes::new(bytes.into()));
            FileDone::Piece { to, seq, piece, bytes }
        }
        FileOrder::Begin { attempt, manifest } => {
            let wanted: BTreeSet<Digest> = manifest.pieces().map(|(_, _, digest)| digest).collect();
            let (found, other): (Vec<_>, Vec<_>) =
                incoming(disk).into_iter().partition(|digest| wanted.contains(digest));
            other.into_iter().for_each(|digest| disk.remove(FileName::Incoming(digest)));
            FileDone::Begun { attempt, found }
        }
        FileOrder::Check { attempt, part, len, digest } => {
            let state = if holds(disk, len, digest) { PieceState::Whole } else { PieceState::Missing };
            if state == PieceState::Missing {
                disk.remove(FileName::Incoming(digest));
            }
            FileDone::Checked { attempt, part, state }
        }
        FileOrder::Store { attempt, part, chunk } => {
            write(disk, FileName::Incoming(chunk.digest()), chunk.bytes().to_vec());
            return (None, Some(Task::Landed(attempt, part, chunk.digest())));
        }
        FileOrder::Assemble { attempt, manifest } => {
            return (None, Some(Task::Assembly(attempt, manifest, AssemblyStage::Pieces)));
        }
        FileOrder::Reread { seq, root } => {
            let image = read(disk, seq, root).ok();
            FileDone::Reread { seq, image: image.map(|read| (Arc::new(read.manifest), Box::new(read.clients))) }
        }
        FileOrder::Clear => {
            incoming(disk).into_iter().for_each(|digest| disk.remove(FileName::Incoming(digest)));
            return (None, None);
        }
    };
    (Some(Finished::File(done)), None)
}

/// Whether the transferred piece of this digest lies on the disk, whole.
#[must_use]
pub fn holds(disk: &Disk, len: u32, digest: Digest) -> bool {
    let bytes = disk.read(FileName::Incoming(digest));
    bytes.is_some_and(|bytes| bytes.len() == len as usize && chunk_digest(&bytes) == digest)
}

fn incoming(disk: &Disk) -> Vec<Digest> {
    let digest = |name| match name {
        FileName::Incoming(digest) => Some(digest),
        FileName::Superblock
        | FileName::Segment(_)
        | FileName::Chunk(..)
        | FileName::Clients(..)
        | FileName::Manifest(_) => None,
    };
    disk.names().filter_map(digest).collect()
}

fn piece_name(seq: Seq, piece: Piece) -> FileName {
    match piece.section {
        Section::State => FileName::Chunk(seq, piece.index),
        Section::Clients => FileName::Clients(seq, piece.index),
    }
}

/// A piece that is not there leaves a hole, which is found when the snapshot is read back.
fn assemble(
    disk: &mut Disk,
    attempt: Attempt,
    manifest: Arc<Manifest>,
    stage: AssemblyStage,
) -> (Option<Finished>, Option<Task>) {
    let seq = manifest.scalars.seq;
    let next = match stage {
        AssemblyStage::Pieces => {
            disk.begin_folder(seq);
            for (piece, _, digest) in manifest.pieces() {
                if let Some(bytes) = disk.read(FileName::Incoming(digest)) {
                    write(disk, piece_name(seq, piece), bytes);
                }
            }
            AssemblyStage::Manifest
        }
        AssemblyStage::Manifest => {
            write(disk, FileName::Manifest(seq), manifest.encode());
            AssemblyStage::Folder
        }
        AssemblyStage::Folder => {
            disk.flush_folder(seq);
            disk.name_folder(seq);
            AssemblyStage::Name
        }
        AssemblyStage::Name => {
            bft_core::mutant!(M38NameNotFlushed, disk.flush_names(), {});
            AssemblyStage::ReadBack
        }
        AssemblyStage::ReadBack => {
            let clients = read(disk, seq, manifest.root()).ok().map(|read| Box::new(read.clients));
            return (Some(Finished::File(FileDone::Assembled { attempt, clients })), None);
        }
    };
    (None, Some(Task::Assembly(attempt, manifest, next)))
}

fn write(disk: &mut Disk, name: FileName, bytes: Vec<u8>) {
    disk.create(name, 0);
    disk.land(name, Pending { offset: 0, bytes });
    disk.flush_bytes(name);
}

/// The files of the snapshots below `seq`, but for those that are not finished.
#[must_use]
pub fn files_below(disk: &Disk, seq: Seq, unfinished: Option<Seq>) -> Vec<FileName> {
    let is_old = |name: &FileName| name.snapshot().is_some_and(|of| of < seq && Some(of) != unfinished);
    disk.names().filter(is_old).collect()
}

/// A snapshot that was read back: everything in it is what its root says.
pub struct Read {
    /// What it holds.
    pub manifest: Manifest,
    /// The client table.
    pub clients: ClientsImage,
    /// The service's chunks.
    pub chunks: Vec<Vec<u8>>,
}

/// Reads the snapshot of `seq`, whose root must be `root`.
pub fn read(disk: &Disk, seq: Seq, root: Digest) -> Result<Read, String> {
    let bytes = disk.read(FileName::Manifest(seq)).ok_or_else(|| format!("snapshot {seq} has no manifest"))?;
    let manifest = Manifest::decode(&bytes).map_err(|error| format!("the manifest of snapshot {seq}: {error}"))?;
    if manifest.root() != root {
        return Err(format!("snapshot {seq} has the root {:?} instead of {root:?}", manifest.root()));
    }
    let section = |files: &[(u32, Digest)], name: fn(Seq, u32) -> FileName| -> Result<Vec<Vec<u8>>, String> {
        (0..).zip(files).map(|(index, file)| part(disk, name(seq, index), *file)).collect()
    };
    let chunks = section(&manifest.state, FileName::Chunk)?;
    let clients = Bytes::from(section(&manifest.clients, FileName::Clients)?.concat());
    let clients = ClientsImage::decode(&clients).map_err(|error| format!("the clients of snapshot {seq}: {error}"))?;
    Ok(Read { manifest, clients, chunks })
}

fn part(disk: &Disk, name: FileName, (len, digest): (u32, Digest)) -> Result<Vec<u8>, String> {
    let bytes = disk.read(name).ok_or_else(|| format!("{name:?} is missing"))?;
    let is_whole = bytes.len() == len as usize && chunk_digest(&bytes) == digest;
    if is_whole { Ok(bytes) } else { Err(format!("{name:?} is damaged")) }
}

/// Puts what was read into a service.
pub fn restore(service: &mut dyn Service, seq: Seq, chunks: &[Vec<u8>]) -> Result<(), String> {
    let fault = |fault| format!("restoring snapshot {seq}: {fault}");
    service.restore_begin(seq, chunks.len() as u32).map_err(fault)?;
    for (index, chunk) in (0..).zip(chunks) {
        service.restore_chunk(index, chunk).map_err(fault)?;
    }
    service.restore_finish().map_err(fault)
}

/// The digest of a service's state.
#[must_use]
pub fn state_digest(service: &mut dyn Service, at: Seq) -> Digest {
    let mut image = service.snapshot(at).expect("the simulated service has no fault");
    let mut manifest = Manifest::new(bft_core::snapshot::Scalars::default());
    let mut bytes = vec![0; CHUNK_BYTES_MAX];
    for index in 0..image.chunks() {
        let len = image.read(index, &mut bytes).expect("the simulated service has no fault");
        manifest.add_chunk(&bytes[..len]);
    }
    manifest.state_digest()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::counters::Counters;
    use crate::ledger::{Entry, Ledger, Order};
    use crate::rng::Seed;

    fn filled(operations: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for number in 0..operations {
            ledger.apply(Seq(1 + number), Order { entry: Entry { client: 0, number }, amount: number });
        }
        ledger
    }

    fn ordered(writer: &mut Writer, ledger: &mut Ledger, seq: u64) {
        let clients = Arc::new(ClientsImage::default());
        let image = ledger.snapshot(Seq(seq)).unwrap();
        writer.order(&SnapshotOrder { seq: Seq(seq), clients }, image);
    }

    fn finish(writer: &mut Writer, disk: &mut Disk) -> (Seq, SnapshotWritten) {
        match std::iter::repeat_with(|| writer.step(disk)).flatten().next().unwrap() {
            Finished::Image(seq, written) => (seq, written),
            Finished::File(done) => panic!("{done:?}"),
        }
    }

    #[test]
    fn what_was_written_is_read_back_and_restored_after_a_power_loss() {
        let (mut disk, mut writer, mut ledger) = (Disk::default(), Writer::default(), filled(150));
        for seq in [150, 250] {
            ordered(&mut writer, &mut ledger, seq);
            let (at, written) = finish(&mut writer, &mut disk);
            disk.power_lost(Vec::new(), &mut Seed::root(seq).rng(), &mut Counters::default());
            let found = read(&disk, at, written.root).unwrap();
            let mut restored = Ledger::default();
            restore(&mut restored, at, &found.chunks).unwrap();
            assert_eq!(restored.entries(), ledger.entries());
            assert_eq!(state_digest(&mut restored, at), written.state_digest);
            for number in 150..250 {
                ledger.apply(Seq(1 + number), Order { entry: Entry { client: 0, number }, amount: 1 });
            }
        }
        let old = files_below(&disk, Seq(250), None);
        assert!(!old.is_empty() && old.iter().all(|name| name.snapshot() == Some(Seq(150))));
        assert!(files_below(&disk, Seq(250), Some(Seq(150))).is_empty(), "it is being written");
    }

    #[test]
    fn k2_an_unfinished_snapshot_is_not_taken_for_a_whole_one() {
        let mut writer = Writer::default();
        ordered(&mut writer, &mut filled(150), 150);
        let mut whole = Disk::default();
        let (seq, written) = finish(&mut writer, &mut whole);
        let unfinished = (0..100).filter(|seed| {
            let (mut disk, mut writer) = (Disk::default(), Writer::default());
            ordered(&mut writer, &mut filled(150), 150);
            let mut rng = Seed::root(*seed).rng();
            (0..rng.below(10)).for_each(|_| assert!(writer.step(&mut disk).is_none()));
            let is_named = writer.next() == Some(Operation::Name);
            disk.power_lost(Vec::new(), &mut rng, &mut Counters::default());
            assert!(is_named || read(&disk, seq, written.root).is_err(), "without its name");
            read(&disk, seq, written.root).is_err()
        });
        // A name that is not flushed may be there all the same.
        assert!((85..100).contains(&unfinished.count()));
    }
}
