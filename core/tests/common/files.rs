//! The snapshots of a replica in a stepping cluster: one chunk of state and the client table, in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bft_core::door::{FileDone, FileOrder, PieceState, SnapshotOrder, SnapshotWritten};
use bft_core::ids::{Digest, Seq};
use bft_core::snapshot::{ChunkBytes, ClientsImage, Manifest, Piece, Section};
use bytes::Bytes;

/// What lies in the folder of snapshots.
#[derive(Default)]
pub struct Files {
    complete: BTreeMap<Seq, Arc<Manifest>>,
    pieces: BTreeMap<(Seq, Piece), ChunkBytes>,
    incoming: BTreeMap<Digest, ChunkBytes>,
}

impl Files {
    /// Writes the image of `state`.
    pub fn write(&mut self, order: &SnapshotOrder, state: u64) -> SnapshotWritten {
        let (state, clients) = (state.to_le_bytes().to_vec(), order.clients.encode());
        let mut manifest = Manifest::new(order.clients.scalars);
        manifest.add_chunk(&state);
        manifest.add_clients(&clients);
        for ((piece, _, _), bytes) in manifest.pieces().zip([state, clients]) {
            self.pieces.insert((order.seq, piece), ChunkBytes::new(Bytes::from(bytes)));
        }
        let (root, state_digest, state_bytes) = (manifest.root(), manifest.state_digest(), manifest.state_bytes());
        self.complete.insert(order.seq, Arc::new(manifest));
        SnapshotWritten { root, state_digest, state_bytes }
    }

    /// The state in a snapshot; nothing, if there is none.
    pub fn state_of(&self, seq: Seq) -> u64 {
        let chunk = &self.pieces[&(seq, Piece { section: Section::State, index: 0 })];
        u64::from_le_bytes(chunk.bytes()[..].try_into().expect("eight bytes"))
    }

    /// What a snapshot consists of.
    pub fn read(&self, seq: Seq, root: Digest) -> Option<(Arc<Manifest>, Box<ClientsImage>)> {
        let manifest = self.complete.get(&seq).filter(|manifest| manifest.root() == root)?;
        let clients = (0..manifest.clients.len() as u32).map(|index| Piece { section: Section::Clients, index });
        let clients: Vec<_> = clients.map(|piece| self.pieces[&(seq, piece)].bytes().to_vec()).collect();
        let clients = ClientsImage::decode(&Bytes::from(clients.concat())).expect("a client table");
        Some((Arc::clone(manifest), Box::new(clients)))
    }

    /// Spoils a snapshot.
    pub fn lose(&mut self, seq: Seq) {
        self.complete.remove(&seq);
    }

    /// Removes snapshots below `seq`.
    pub fn remove_below(&mut self, seq: Seq) {
        self.complete = self.complete.split_off(&seq);
        self.pieces.retain(|(of, _), _| *of >= seq);
    }

    /// Carries out an order.
    pub fn carry_out(&mut self, order: FileOrder) -> Option<FileDone> {
        Some(match order {
            FileOrder::ReadManifest { seq } => FileDone::Manifest { seq, manifest: self.complete.get(&seq).cloned() },
            FileOrder::ReadPiece { to, seq, piece } => {
                FileDone::Piece { to, seq, piece, bytes: self.pieces.get(&(seq, piece)).cloned() }
            }
            FileOrder::Begin { attempt, .. } => {
                FileDone::Begun { attempt, found: self.incoming.keys().copied().collect() }
            }
            FileOrder::Check { attempt, part, digest, .. } => {
                let is_there = self.incoming.contains_key(&digest);
                FileDone::Checked {
                    attempt,
                    part,
                    state: if is_there { PieceState::Whole } else { PieceState::Missing },
                }
            }
            FileOrder::Store { attempt, part, chunk } => {
                self.incoming.insert(chunk.digest(), chunk);
                FileDone::Stored { attempt, part }
            }
            FileOrder::Assemble { attempt, manifest } => {
                let (seq, root) = (manifest.scalars.seq, manifest.root());
                for (piece, _, digest) in manifest.pieces() {
                    self.pieces.insert((seq, piece), self.incoming[&digest].clone());
                }
                self.complete.insert(seq, manifest);
                FileDone::Assembled { attempt, clients: self.read(seq, root).map(|(_, clients)| clients) }
            }
            FileOrder::Reread { seq, root } => FileDone::Reread { seq, image: self.read(seq, root) },
            FileOrder::Clear => {
                self.incoming.clear();
                return None;
            }
        })
    }
}
