//! The image of the whole state at a Seq: what its files hold, how its root is made, how it is checked when it is read
//! back (PROTOCOL §4, SHAPES §7). Pure: the shell writes and reads the files.
//!
//! ```text
//! snapshots/<seq>/chunk-00000 …     the service's chunks, as the service gave them
//! snapshots/<seq>/clients-00000 …   the client table, in pieces of CHUNK_BYTES_MAX
//! snapshots/<seq>/manifest          written last; see Manifest::encode
//! ```

use bytes::Bytes;

use crate::hash::{Context, Hasher, hash, merkle_root};
use crate::ids::{Digest, PublicKey, RequestNo, Seq, SessionId};
use crate::limits::{CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_MAX, SNAPSHOT_CLIENTS_MAX};
use crate::wire::canonical::{NotCanonical, Reader};
use crate::wire::message::Code;

/// The first eight bytes of a manifest.
const MAGIC: &[u8; 8] = b"bftsnap1";
/// Length and digest of one piece in a manifest's file.
const ENTRY_BYTES: usize = 4 + 32;
/// What a manifest's file has before and between the entries.
const MANIFEST_FIXED_BYTES: usize = MAGIC.len() + SCALARS_BYTES + 2 * 4;
const SCALARS_BYTES: usize = 8 + 32 + 32 + 8 + 8;

/// The digest of one chunk.
#[must_use]
pub fn chunk_digest(bytes: &[u8]) -> Digest {
    hash(Context::Chunk, &[bytes])
}

/// A part of a snapshot that has files of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Section {
    /// The service's chunks.
    State = 0,
    /// The client table.
    Clients = 1,
}

impl Section {
    /// The section of this number on the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::State, Self::Clients].into_iter().find(|section| *section as u8 == number)
    }
}

/// One file of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// Of what.
    pub section: Section,
    /// The how manieth there, from 0.
    pub index: u32,
}

/// The bytes of a piece and their digest, computed once, where they came in: they cannot be apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkBytes {
    bytes: Bytes,
    digest: Digest,
}

impl ChunkBytes {
    /// Computes the digest.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { digest: chunk_digest(&bytes), bytes }
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The [`chunk_digest`] of the bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Replicated values that are neither the service's nor a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Scalars {
    /// The Seq whose state this is.
    pub seq: Seq,
    /// The chain over all batches up to it.
    pub chain: Digest,
    /// The chain over all replies up to it.
    pub exec: Digest,
    /// The agreed time of the last batch.
    pub time_ns: u64,
    /// Bytes of the service's chunks in the snapshot before this one.
    pub previous_state_bytes: u64,
}

/// The cached answer to one Request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedReply {
    /// The Request's number.
    pub req_no: RequestNo,
    /// Where it was executed.
    pub seq: Seq,
    /// How it ended.
    pub code: Code,
    /// What the Request held: tells a repetition from another body under the same number.
    pub content: Digest,
    /// The digest of code and results.
    pub digest: Digest,
    /// The results.
    pub results: Bytes,
}

/// One session as it is replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionImage {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub client: PublicKey,
    /// The digest of the Request that opened it.
    pub opened_by: Digest,
    /// Where it was opened.
    pub opened_at: Seq,
    /// Moves when a session opens or executes: the lowest is evicted when the table is full.
    pub recency: u64,
    /// Every number up to this one is acknowledged.
    pub floor: RequestNo,
    /// The highest number executed or refused for good.
    pub max_seen: RequestNo,
    /// Answers above the floor, ascending. A number has its bit set exactly if it has an answer here.
    pub replies: Vec<CachedReply>,
}

/// The client table and the other replicated values at a Seq. Shares the results' bytes with the live table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClientsImage {
    /// Everything that is not a session.
    pub scalars: Scalars,
    /// The next value of `recency`.
    pub next_recency: u64,
    /// Ascending by id.
    pub sessions: Vec<SessionImage>,
}

impl ClientsImage {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_scalars(&mut out, &self.scalars);
        out.extend_from_slice(&self.next_recency.to_le_bytes());
        out.extend_from_slice(&(self.sessions.len() as u32).to_le_bytes());
        for session in &self.sessions {
            out.extend_from_slice(&session.id.0.to_le_bytes());
            out.extend_from_slice(&session.client.0);
            out.extend_from_slice(&session.opened_by.0);
            out.extend_from_slice(&session.opened_at.0.to_le_bytes());
            out.extend_from_slice(&session.recency.to_le_bytes());
            out.extend_from_slice(&session.floor.0.to_le_bytes());
            out.extend_from_slice(&session.max_seen.0.to_le_bytes());
            out.extend_from_slice(&(session.replies.len() as u32).to_le_bytes());
            for reply in &session.replies {
                out.extend_from_slice(&reply.req_no.0.to_le_bytes());
                out.extend_from_slice(&reply.seq.0.to_le_bytes());
                out.extend_from_slice(&(reply.code as u16).to_le_bytes());
                out.extend_from_slice(&reply.content.0);
                out.extend_from_slice(&reply.digest.0);
                out.extend_from_slice(&(reply.results.len() as u32).to_le_bytes());
                out.extend_from_slice(&reply.results);
            }
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &Bytes) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        let scalars = read_scalars(&mut reader)?;
        let next_recency = reader.u64()?;
        let mut sessions = Vec::new();
        for _ in 0..reader.u32()? {
            let mut session = SessionImage {
                id: SessionId(reader.u64()?),
                client: PublicKey(reader.array()?),
                opened_by: Digest(reader.array()?),
                opened_at: Seq(reader.u64()?),
                recency: reader.u64()?,
                floor: RequestNo(reader.u64()?),
                max_seen: RequestNo(reader.u64()?),
                replies: Vec::new(),
            };
            for _ in 0..reader.u32()? {
                let req_no = RequestNo(reader.u64()?);
                let seq = Seq(reader.u64()?);
                let code = Code::from_number(reader.u16()?).ok_or(NotCanonical)?;
                let content = Digest(reader.array()?);
                let digest = Digest(reader.array()?);
                let len = reader.u32()? as usize;
                let results = bytes.slice_ref(reader.take(len)?);
                session.replies.push(CachedReply { req_no, seq, code, content, digest, results });
            }
            sessions.push(session);
        }
        reader.end()?;
        Ok(Self { scalars, next_recency, sessions })
    }
}

/// What a snapshot's files hold: lengths and digests, section by section. Its root is what replicas sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Everything that is neither the service's nor a client's.
    pub scalars: Scalars,
    /// Length and digest of each of the service's chunks.
    pub state: Vec<(u32, Digest)>,
    /// Length and digest of each piece of the client table.
    pub clients: Vec<(u32, Digest)>,
}

/// Why bytes are no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestInvalid {
    /// Not the magic, cut short, too long, or a length out of bounds.
    #[error("not a snapshot manifest of this version, or damaged")]
    Malformed,
}

impl Manifest {
    /// An empty manifest for the snapshot that `image` belongs to: chunks are to be added with [`Self::add_chunk`], the
    /// client table with [`Self::add_clients`].
    #[must_use]
    pub fn new(scalars: Scalars) -> Self {
        Self { scalars, state: Vec::new(), clients: Vec::new() }
    }

    /// The next of the service's chunks.
    pub fn add_chunk(&mut self, bytes: &[u8]) {
        self.add_known_chunk(bytes.len() as u32, chunk_digest(bytes));
    }

    /// The next of the service's chunks, unchanged since an earlier snapshot that has its length and digest.
    pub fn add_known_chunk(&mut self, len: u32, digest: Digest) {
        assert!(len as usize <= CHUNK_BYTES_MAX, "a service may not give longer chunks");
        self.state.push((len, digest));
    }

    /// The client table, whole; the pieces are `bytes.chunks(CHUNK_BYTES_MAX)`.
    pub fn add_clients(&mut self, bytes: &[u8]) {
        self.clients.extend(bytes.chunks(CHUNK_BYTES_MAX).map(|piece| (piece.len() as u32, chunk_digest(piece))));
    }

    /// The Merkle root of the service's chunks: the digest of the state, whatever order of operations led to it.
    #[must_use]
    pub fn state_digest(&self) -> Digest {
        section_root(&self.state)
    }

    /// Bytes of the service's chunks.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        self.state.iter().map(|(len, _)| u64::from(*len)).sum()
    }

    /// What replicas sign.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut scalars = Vec::new();
        put_scalars(&mut scalars, &self.scalars);
        let mut hasher = Hasher::new(Context::Snapshot);
        hasher.update(&scalars);
        hasher.u64(self.state.len() as u64).u64(self.state_bytes()).update(&self.state_digest().0);
        let clients = crate::mutant!(M23ClientsOutsideRoot, section_root(&self.clients), Digest::ZERO);
        hasher.u64(self.clients.len() as u64).update(&clients.0);
        hasher.finish()
    }

    /// Length and digest of a piece; `None`: the snapshot has no such piece.
    #[must_use]
    pub fn entry(&self, piece: Piece) -> Option<(u32, Digest)> {
        let section = match piece.section {
            Section::State => &self.state,
            Section::Clients => &self.clients,
        };
        section.get(piece.index as usize).copied()
    }

    /// How many pieces there are.
    #[must_use]
    pub fn parts(&self) -> u32 {
        (self.state.len() + self.clients.len()) as u32
    }

    /// The how manieth of [`Self::pieces`] a piece is; `None`: the snapshot has no such piece.
    #[must_use]
    pub fn part_of(&self, piece: Piece) -> Option<u32> {
        self.entry(piece)?;
        Some(match piece.section {
            Section::State => piece.index,
            Section::Clients => self.state.len() as u32 + piece.index,
        })
    }

    /// The piece of this number, with its length and digest.
    #[must_use]
    pub fn part(&self, part: u32) -> Option<(Piece, u32, Digest)> {
        let piece = match part.checked_sub(self.state.len() as u32) {
            None => Piece { section: Section::State, index: part },
            Some(index) => Piece { section: Section::Clients, index },
        };
        let (len, digest) = self.entry(piece)?;
        Some((piece, len, digest))
    }

    /// Every piece with its length and digest: the service's chunks, then the client table.
    pub fn pieces(&self) -> impl Iterator<Item = (Piece, u32, Digest)> + '_ {
        let sections = [(Section::State, &self.state), (Section::Clients, &self.clients)];
        sections.into_iter().flat_map(|(section, entries)| {
            (0..).zip(entries).map(move |(index, (len, digest))| (Piece { section, index }, *len, *digest))
        })
    }

    /// How long [`Self::encode`] is.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        MANIFEST_FIXED_BYTES + (self.state.len() + self.clients.len()) * ENTRY_BYTES
    }

    /// The bytes of the manifest's file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_scalars(&mut out, &self.scalars);
        for section in [&self.state, &self.clients] {
            out.extend_from_slice(&(section.len() as u32).to_le_bytes());
            for (len, digest) in section {
                out.extend_from_slice(&len.to_le_bytes());
                out.extend_from_slice(&digest.0);
            }
        }
        out
    }

    /// Reads what [`Self::encode`] wrote. Whether it is the right one, its root tells.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestInvalid> {
        let malformed = |_| ManifestInvalid::Malformed;
        let mut reader = Reader::new(bytes);
        if reader.array().map_err(malformed)? != *MAGIC {
            return Err(ManifestInvalid::Malformed);
        }
        let mut manifest = Self::new(read_scalars(&mut reader).map_err(malformed)?);
        let sections = [(&mut manifest.state, SNAPSHOT_CHUNKS_MAX), (&mut manifest.clients, SNAPSHOT_CLIENTS_MAX)];
        for (section, most) in sections {
            let count = reader.u32().map_err(malformed)?;
            if count > most {
                return Err(ManifestInvalid::Malformed);
            }
            for _ in 0..count {
                let len = reader.u32().map_err(malformed)?;
                if len as usize > CHUNK_BYTES_MAX {
                    return Err(ManifestInvalid::Malformed);
                }
                section.push((len, Digest(reader.array().map_err(malformed)?)));
            }
        }
        reader.end().map_err(malformed)?;
        Ok(manifest)
    }
}

fn section_root(section: &[(u32, Digest)]) -> Digest {
    merkle_root(section.iter().map(|(_, digest)| *digest))
}

fn put_scalars(out: &mut Vec<u8>, scalars: &Scalars) {
    let Scalars { seq, chain, exec, time_ns, previous_state_bytes } = scalars;
    out.extend_from_slice(&seq.0.to_le_bytes());
    out.extend_from_slice(&chain.0);
    out.extend_from_slice(&exec.0);
    out.extend_from_slice(&time_ns.to_le_bytes());
    out.extend_from_slice(&previous_state_bytes.to_le_bytes());
}

fn read_scalars(reader: &mut Reader<'_>) -> Result<Scalars, NotCanonical> {
    Ok(Scalars {
        seq: Seq(reader.u64()?),
        chain: Digest(reader.array()?),
        exec: Digest(reader.array()?),
        time_ns: reader.u64()?,
        previous_state_bytes: reader.u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ClientsImage {
        let reply = CachedReply {
            req_no: RequestNo(4),
            seq: Seq(9),
            code: Code::Ok,
            content: Digest([1; 32]),
            digest: Digest([2; 32]),
            results: Bytes::from_static(b"\x01\0\0\0x"),
        };
        let session = SessionImage {
            id: SessionId(3 << 20),
            client: PublicKey([7; 32]),
            opened_by: Digest([8; 32]),
            opened_at: Seq(3),
            recency: 5,
            floor: RequestNo(3),
            max_seen: RequestNo(4),
            replies: vec![reply],
        };
        let scalars = Scalars { seq: Seq(12), time_ns: 77, ..Scalars::default() };
        ClientsImage { scalars, next_recency: 6, sessions: vec![session] }
    }

    #[test]
    fn c20_k7_the_root_binds_clients_state_and_every_scalar() {
        let bytes = image().encode();
        let mut manifest = Manifest::new(image().scalars);
        manifest.add_chunk(b"state");
        manifest.add_clients(&bytes);
        let root = manifest.root();
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest.clone()));

        let mut other = manifest.clone();
        other.clients[0].1 = Digest([9; 32]);
        assert_ne!(other.root(), root);
        let mut other = manifest.clone();
        other.state.push((0, chunk_digest(b"")));
        assert_ne!(other.root(), root);
        let changes: [fn(&mut Scalars); 5] = [
            |scalars| scalars.seq = scalars.seq.next(),
            |scalars| scalars.chain.0[0] ^= 1,
            |scalars| scalars.exec.0[0] ^= 1,
            |scalars| scalars.time_ns += 1,
            |scalars| scalars.previous_state_bytes += 1,
        ];
        for change in changes {
            let mut other = manifest.clone();
            change(&mut other.scalars);
            assert_ne!(other.root(), root, "{:?}", other.scalars);
        }
        let mut aged = image();
        aged.next_recency += 1;
        let mut other = Manifest { clients: Vec::new(), ..manifest };
        other.add_clients(&aged.encode());
        assert_ne!(other.root(), root, "the recency of sessions");
    }

    #[test]
    fn a_damaged_manifest_or_table_is_refused() {
        let mut manifest = Manifest::new(Scalars::default());
        manifest.add_chunk(b"state");
        let bytes = manifest.encode();
        for end in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..end]).is_err());
        }
        let table = Bytes::from(image().encode());
        assert_eq!(ClientsImage::decode(&table), Ok(image()));
        for end in 0..table.len() {
            assert!(ClientsImage::decode(&table.slice(..end)).is_err());
        }
    }
}
