//! Pieces of snapshots that are transferred: each a file of its own, named by its digest, until all are there and a
//! snapshot is made of them; and what is read of own snapshots for peers. On the thread that writes snapshots
//! ([`crate::snapshots`]), so that the two never meet. What is fetched from whom is the core's.
//!
//! ```text
//! snapshots/incoming/<digest>     one piece, written and flushed, its name too
//! ```
//!
//! Kept here: a piece that is reported as stored is on stable storage; a name is never used again for other bytes, because
//! finished snapshots are made of further names of the same files; a snapshot that is reported as complete was read back.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bft_core::door::{FileDone, FileOrder, PieceState};
use bft_core::ids::Digest;
use bft_core::limits::CHUNK_BYTES_MAX;
use bft_core::snapshot::{ChunkBytes, ClientsImage, Manifest, Piece, Section};
use bytes::Bytes;

use crate::data_dir::flush_folder;
use crate::snapshots::{
    SnapshotError, SnapshotFolder, at, chunk_path, clients_path, is_not_found, read_checked, write_flushed,
};

const INCOMING: &str = "incoming";

/// The folder of the pieces.
pub struct Incoming {
    snapshots: SnapshotFolder,
    path: PathBuf,
}

impl Incoming {
    /// In the folder of the snapshots.
    #[must_use]
    pub fn new(snapshots: SnapshotFolder) -> Self {
        Self { path: snapshots.root().join(INCOMING), snapshots }
    }

    /// Carries out an order; `None` where the core waits for no answer, or the thread is to stop.
    pub fn carry_out(
        &self,
        order: &FileOrder,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<Option<FileDone>, SnapshotError> {
        Ok(Some(match *order {
            FileOrder::ReadManifest { seq } => {
                let manifest = readable(self.snapshots.manifest(seq)).map(Arc::new);
                FileDone::Manifest { seq, manifest }
            }
            FileOrder::ReadPiece { to, seq, piece } => {
                let bytes = readable(read_piece(&piece_path(&self.snapshots.path(seq), piece)));
                FileDone::Piece { to, seq, piece, bytes: bytes.map(ChunkBytes::new) }
            }
            FileOrder::Begin { attempt, ref manifest } => FileDone::Begun { attempt, found: self.begin(manifest)? },
            FileOrder::Check { attempt, part, len, digest } => {
                FileDone::Checked { attempt, part, state: self.check(len, digest)? }
            }
            FileOrder::Store { attempt, part, ref chunk } => {
                self.store(chunk)?;
                FileDone::Stored { attempt, part }
            }
            FileOrder::Assemble { attempt, ref manifest } => {
                let Some(clients) = self.assemble(manifest, is_stopping)? else { return Ok(None) };
                FileDone::Assembled { attempt, clients: clients.map(Box::new) }
            }
            FileOrder::Reread { seq, root } => {
                let image = self.snapshots.load(seq, root);
                let image = whole(image)?.map(|(manifest, clients)| (Arc::new(manifest), Box::new(clients)));
                FileDone::Reread { seq, image }
            }
            FileOrder::Clear => {
                self.clear()?;
                return Ok(None);
            }
        }))
    }

    /// Keeps the pieces that `manifest` lists, and removes everything else.
    fn begin(&self, manifest: &Manifest) -> Result<Vec<Digest>, SnapshotError> {
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.and_then(|()| flush_folder(self.snapshots.root())).map_err(at(&self.path))?,
        }
        let wanted: HashSet<Digest> = manifest.pieces().map(|(_, _, digest)| digest).collect();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let path = entry.map_err(at(&self.path))?.path();
            let digest = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            match digest.filter(|digest| wanted.contains(digest)) {
                Some(digest) => found.push(digest),
                None => fs::remove_file(&path).map_err(at(&path))?,
            }
        }
        flush_folder(&self.path).map_err(at(&self.path))?;
        Ok(found)
    }

    fn check(&self, len: u32, digest: Digest) -> Result<PieceState, SnapshotError> {
        let path = self.piece(digest);
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        match read_checked(&path, (len, digest), &mut buffer) {
            Ok(_) => Ok(PieceState::Whole),
            Err(SnapshotError::Damaged { .. }) => {
                fs::remove_file(&path).map_err(at(&path))?;
                Ok(PieceState::Missing)
            }
            Err(error) if is_not_found(&error) => Ok(PieceState::Missing),
            Err(error) => Err(error),
        }
    }

    fn store(&self, chunk: &ChunkBytes) -> Result<(), SnapshotError> {
        let path = self.piece(chunk.digest());
        // What a former try left, of which a finished snapshot may be another name, stays as it is.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            Err(_) | Ok(()) => {}
        }
        write_flushed(&path, chunk.bytes())?;
        flush_folder(&self.path).map_err(at(&self.path))
    }

    /// A snapshot's folder under its own name, read back. `None`: the thread is to stop. `Some(None)`: a piece is missing
    /// or damaged.
    fn assemble(
        &self,
        manifest: &Manifest,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<Option<Option<ClientsImage>>, SnapshotError> {
        let seq = manifest.scalars.seq;
        let part = self.snapshots.begin_part(seq)?;
        for (piece, _, digest) in manifest.pieces() {
            if is_stopping() {
                return Ok(None);
            }
            if !self.give_name(digest, &piece_path(&part, piece))? {
                return Ok(Some(None));
            }
        }
        write_flushed(&part.join("manifest"), &manifest.encode())?;
        self.snapshots.publish(&part, seq)?;
        match self.snapshots.load(seq, manifest.root()) {
            Ok((_, clients)) => Ok(Some(Some(clients))),
            Err(error @ SnapshotError::Damaged { .. }) => {
                tracing::warn!(seq = seq.0, %error, "a transferred snapshot is damaged: what is wrong is fetched again");
                Ok(Some(None))
            }
            Err(error) => Err(error),
        }
    }

    /// A further name for a piece, or a copy where the file system does not give one. False if there is no such piece.
    fn give_name(&self, digest: Digest, to: &Path) -> Result<bool, SnapshotError> {
        let from = self.piece(digest);
        match fs::hard_link(&from, to) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(_) => {
                let copied = fs::copy(&from, to).and_then(|_| File::open(to)?.sync_all());
                copied.map_err(at(to))?;
                Ok(true)
            }
        }
    }

    fn clear(&self) -> Result<(), SnapshotError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| flush_folder(self.snapshots.root())).map_err(at(&self.path)),
        }
    }

    fn piece(&self, digest: Digest) -> PathBuf {
        self.path.join(digest.to_string())
    }
}

fn piece_path(folder: &Path, piece: Piece) -> PathBuf {
    match piece.section {
        Section::State => chunk_path(folder, piece.index),
        Section::Clients => clients_path(folder, piece.index),
    }
}

fn read_piece(path: &Path) -> Result<Bytes, SnapshotError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(at(path))?;
    file.take(CHUNK_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(at(path))?;
    Ok(bytes.into())
}

/// An own snapshot; one that is damaged, or not there, is of no use, and said to be.
pub(crate) fn whole<T>(read: Result<T, SnapshotError>) -> Result<Option<T>, SnapshotError> {
    let why = match read {
        Ok(read) => return Ok(Some(read)),
        Err(error @ SnapshotError::Damaged { .. }) => error.to_string(),
        Err(SnapshotError::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
            format!("{} is missing", path.display())
        }
        Err(error) => return Err(error),
    };
    tracing::error!(
        why,
        "the own snapshot is of no use: this replica executes nothing until it has fetched that one or a later one from the \
         others. Check the disk"
    );
    Ok(None)
}

/// What a peer asked for; what can not be read it must find elsewhere.
fn readable<T>(read: Result<T, SnapshotError>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(error) => {
            if !is_not_found(&error) {
                tracing::warn!(%error, "a peer asks for a part of a snapshot that can not be read");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use bft_core::door::Attempt;
    use bft_core::ids::{ReplicaId, Seq};
    use bft_core::snapshot::Scalars;

    use super::*;

    const ATTEMPT: Attempt = Attempt(3);

    struct Setup {
        dir: tempfile::TempDir,
        incoming: Incoming,
        manifest: Arc<Manifest>,
        pieces: Vec<ChunkBytes>,
    }

    /// A snapshot of four chunks, two of them equal, and a client table.
    fn setup() -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let incoming = Incoming::new(SnapshotFolder::open(dir.path().to_owned()).unwrap());
        let image = ClientsImage { scalars: Scalars { seq: Seq(8), ..Scalars::default() }, ..ClientsImage::default() };
        let mut manifest = Manifest::new(image.scalars);
        let chunks: [&[u8]; 4] = [b"one", b"two", b"two", b"three"];
        chunks.iter().for_each(|chunk| manifest.add_chunk(chunk));
        let clients = image.encode();
        manifest.add_clients(&clients);
        let pieces = chunks.iter().map(|chunk| chunk.to_vec()).chain([clients]);
        let pieces = pieces.map(|bytes| ChunkBytes::new(bytes.into())).collect();
        Setup { dir, incoming, manifest: Arc::new(manifest), pieces }
    }

    impl Setup {
        fn order(&self, order: FileOrder) -> Option<FileDone> {
            self.incoming.carry_out(&order, &|| false).unwrap()
        }

        fn begin(&self) -> Vec<Digest> {
            match self.order(FileOrder::Begin { attempt: ATTEMPT, manifest: Arc::clone(&self.manifest) }) {
                Some(FileDone::Begun { attempt: ATTEMPT, found }) => found,
                other => panic!("{other:?}"),
            }
        }

        fn store(&self, part: u32) {
            let chunk = self.pieces[part as usize].clone();
            let done = self.order(FileOrder::Store { attempt: ATTEMPT, part, chunk });
            assert_eq!(done, Some(FileDone::Stored { attempt: ATTEMPT, part }));
        }

        fn check(&self, part: u32) -> PieceState {
            let (_, len, digest) = self.manifest.part(part).unwrap();
            match self.order(FileOrder::Check { attempt: ATTEMPT, part, len, digest }) {
                Some(FileDone::Checked { attempt: ATTEMPT, state, .. }) => state,
                other => panic!("{other:?}"),
            }
        }

        fn assemble(&self) -> Option<Box<ClientsImage>> {
            match self.order(FileOrder::Assemble { attempt: ATTEMPT, manifest: Arc::clone(&self.manifest) }) {
                Some(FileDone::Assembled { attempt: ATTEMPT, clients }) => clients,
                other => panic!("{other:?}"),
            }
        }

        fn file(&self, part: u32) -> PathBuf {
            self.dir.path().join("incoming").join(self.pieces[part as usize].digest().to_string())
        }
    }

    #[test]
    fn a_snapshot_is_made_of_its_pieces_and_given_to_others() {
        let setup = setup();
        assert!(setup.begin().is_empty());
        [0, 1, 3, 4].into_iter().for_each(|part| setup.store(part));
        assert_eq!(setup.assemble().unwrap().scalars.seq, Seq(8));
        let seq = Seq(8);
        let manifest = Some(Arc::clone(&setup.manifest));
        assert_eq!(setup.order(FileOrder::ReadManifest { seq }), Some(FileDone::Manifest { seq, manifest }));
        for ((piece, _, _), expected) in setup.manifest.pieces().zip(&setup.pieces) {
            let done = setup.order(FileOrder::ReadPiece { to: ReplicaId(2), seq, piece });
            let bytes = Some(expected.clone());
            assert_eq!(done, Some(FileDone::Piece { to: ReplicaId(2), seq, piece, bytes }));
        }
        assert_eq!(setup.order(FileOrder::Clear), None);
        assert!(!setup.dir.path().join("incoming").exists());
        assert_eq!(setup.order(FileOrder::Clear), None, "there is nothing left to be removed");
        assert_eq!(setup.incoming.snapshots.load(seq, setup.manifest.root()).unwrap().0, *setup.manifest);
    }

    #[test]
    fn t4_what_was_stored_is_found_again_and_what_is_damaged_is_not() {
        let setup = setup();
        setup.begin();
        [0, 1, 3].into_iter().for_each(|part| setup.store(part));
        fs::write(setup.file(1), b"tw").unwrap();
        fs::write(setup.dir.path().join("incoming").join("stray"), b"of another try").unwrap();
        let mut found = setup.begin();
        let mut expected: Vec<_> = [0, 1, 3].map(|part| setup.pieces[part].digest()).to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(!setup.dir.path().join("incoming").join("stray").exists());
        assert_eq!([0, 1, 3, 4].map(|part| setup.check(part)), {
            use PieceState::{Missing, Whole};
            [Whole, Missing, Whole, Missing]
        });
        assert!(!setup.file(1).exists(), "a damaged piece is not found again");
    }

    #[test]
    fn k5_a_snapshot_of_a_damaged_or_missing_piece_is_not_taken_for_whole() {
        let setup = setup();
        setup.begin();
        [0, 1, 4].into_iter().for_each(|part| setup.store(part));
        assert_eq!(setup.assemble(), None, "a piece is missing");
        setup.store(3);
        fs::write(setup.file(3), b"threx").unwrap();
        assert_eq!(setup.assemble(), None, "a piece is damaged");
        assert_eq!(setup.check(3), PieceState::Missing);
        setup.store(3);
        assert!(setup.assemble().is_some());
    }

    #[test]
    fn what_is_not_there_is_said_not_to_be_there() {
        let setup = setup();
        let (seq, to) = (Seq(16), ReplicaId(1));
        let piece = Piece { section: Section::State, index: 0 };
        let manifest = setup.order(FileOrder::ReadManifest { seq });
        assert_eq!(manifest, Some(FileDone::Manifest { seq, manifest: None }));
        let read = setup.order(FileOrder::ReadPiece { to, seq, piece });
        assert_eq!(read, Some(FileDone::Piece { to, seq, piece, bytes: None }));
    }
}
