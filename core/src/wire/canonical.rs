//! Canonical bytes: fixed fields in fixed order, little endian, and the 80 bytes that signatures are made over. One
//! encoder for each signed thing; archives are never signed (PROTOCOL §2, S10).

use super::message::{Ballot, BatchHeader, Position};
use crate::hash::{Context, Hasher};
use crate::ids::{ClusterId, Digest, Epoch, PublicKey, ReplicaId, Seq, Signature};

/// What Ed25519 signs: `tag ‖ cluster ‖ digest of the canonical bytes`.
pub type SigningBytes = [u8; 80];

/// What a signature is for: sixteen bytes of ASCII at the front of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after what it signs")]
pub enum Tag {
    Request,
    PrePrepare,
    Prepare,
    Checkpoint,
    Snapshot,
    ViewChange,
    NewView,
    Link,
    Join,
    ClientCertificate,
}

impl Tag {
    /// Every tag.
    pub const ALL: [Self; 10] = [
        Self::Request,
        Self::PrePrepare,
        Self::Prepare,
        Self::Checkpoint,
        Self::Snapshot,
        Self::ViewChange,
        Self::NewView,
        Self::Link,
        Self::Join,
        Self::ClientCertificate,
    ];

    fn bytes(self) -> &'static [u8; 16] {
        match self {
            Self::Request => b"bft1.request\0\0\0\0",
            Self::PrePrepare => b"bft1.pre-prepare",
            Self::Prepare => b"bft1.prepare\0\0\0\0",
            Self::Checkpoint => b"bft1.checkpoint\0",
            Self::Snapshot => b"bft1.snapshot\0\0\0",
            Self::ViewChange => b"bft1.view-change",
            Self::NewView => b"bft1.new-view\0\0\0",
            Self::Link => b"bft1.link\0\0\0\0\0\0\0",
            Self::Join => b"bft1.join\0\0\0\0\0\0\0",
            Self::ClientCertificate => b"bft1.client\0\0\0\0\0",
        }
    }
}

/// The bytes to sign for `digest` of an object of kind `tag` in `cluster`.
#[must_use]
pub fn signing_bytes(tag: Tag, cluster: ClusterId, digest: Digest) -> SigningBytes {
    let mut out = [0; 80];
    out[..16].copy_from_slice(tag.bytes());
    out[16..48].copy_from_slice(&cluster.0);
    out[48..].copy_from_slice(&digest.0);
    out
}

/// What a primary signs in a PRE-PREPARE.
#[must_use]
pub fn pre_prepare(cluster: ClusterId, at: &Position, commitment: Digest) -> SigningBytes {
    let mut hasher = position(Context::PrePrepare, at);
    hasher.update(&commitment.0);
    signing_bytes(Tag::PrePrepare, cluster, hasher.finish())
}

/// What a backup signs in a PREPARE.
#[must_use]
pub fn prepare(cluster: ClusterId, at: &Position, replica: ReplicaId, commitment: Digest) -> SigningBytes {
    let mut hasher = position(Context::Prepare, at);
    hasher.update(&replica.0.to_le_bytes()).update(&commitment.0);
    signing_bytes(Tag::Prepare, cluster, hasher.finish())
}

/// What a replica signs in a CHECKPOINT.
#[must_use]
pub fn checkpoint(
    cluster: ClusterId,
    epoch: Epoch,
    seq: Seq,
    root: Digest,
    epoch_end: Seq,
    replica: ReplicaId,
) -> SigningBytes {
    let mut hasher = Hasher::new(Context::Checkpoint);
    hasher.u64(epoch.0).u64(seq.0).update(&root.0).u64(epoch_end.0).update(&replica.0.to_le_bytes());
    signing_bytes(Tag::Checkpoint, cluster, hasher.finish())
}

/// What a replica signs in a SNAPSHOT.
#[must_use]
pub fn snapshot(cluster: ClusterId, epoch: Epoch, seq: Seq, root: Digest, replica: ReplicaId) -> SigningBytes {
    let mut hasher = Hasher::new(Context::Snapshot);
    hasher.u64(epoch.0).u64(seq.0).update(&root.0).update(&replica.0.to_le_bytes());
    signing_bytes(Tag::Snapshot, cluster, hasher.finish())
}

/// What a client authority signs to admit `client`.
#[must_use]
pub fn client_certificate(cluster: ClusterId, client: PublicKey, expires_epoch: Epoch) -> SigningBytes {
    let mut hasher = Hasher::new(Context::ClientCertificate);
    hasher.update(&client.0).u64(expires_epoch.0);
    signing_bytes(Tag::ClientCertificate, cluster, hasher.finish())
}

/// What the nonce of a COMMIT is derived from.
#[must_use]
pub fn commit_nonce(secret: &Digest, at: &Position) -> Digest {
    let mut hasher = Hasher::new(Context::CommitNonce);
    let digest = crate::mutant!(M48NonceOfAnyBatch, at.digest, Digest::ZERO);
    hasher.update(&secret.0).u64(at.epoch.0).u64(at.view.0).u64(at.seq.0).update(&digest.0);
    hasher.finish()
}

/// The commitment to a COMMIT's nonce.
#[must_use]
pub fn opening(nonce: &Digest) -> Digest {
    crate::hash::hash(Context::Opening, &[&nonce.0])
}

fn position(context: Context, at: &Position) -> Hasher {
    let mut hasher = Hasher::new(context);
    hasher.u64(at.epoch.0).u64(at.view.0).u64(at.seq.0).update(&at.digest.0);
    hasher
}

impl Ballot {
    /// Commitment, signature.
    pub(crate) fn bytes(&self) -> [u8; 96] {
        let mut bytes = [0; 96];
        let (commitment, signature) = bytes.split_at_mut(32);
        commitment.copy_from_slice(&self.commitment.0);
        signature.copy_from_slice(&self.signature.0);
        bytes
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, NotCanonical> {
        Ok(Self { commitment: Digest(reader.array()?), signature: Signature(reader.array()?) })
    }
}

impl BatchHeader {
    /// All fields in their order.
    pub(crate) fn bytes(&self) -> [u8; 52] {
        let Self { time_ns, count, body_len, merkle_root, flags } = self;
        let mut bytes = [0; 52];
        bytes[..8].copy_from_slice(&time_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&count.to_le_bytes());
        bytes[12..16].copy_from_slice(&body_len.to_le_bytes());
        bytes[16..48].copy_from_slice(&merkle_root.0);
        bytes[48..].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, NotCanonical> {
        Ok(Self {
            time_ns: reader.u64()?,
            count: reader.u32()?,
            body_len: reader.u32()?,
            merkle_root: Digest(reader.array()?),
            flags: reader.u32()?,
        })
    }
}

/// Reads canonical bytes: bounds before every read, nothing is left over at the end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// The bytes end inside a field, or go on after the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed canonical bytes")]
pub struct NotCanonical;

impl<'a> Reader<'a> {
    /// Reads from the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], NotCanonical> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(NotCanonical)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], NotCanonical> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(NotCanonical)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, NotCanonical> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> Result<u16, NotCanonical> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> Result<u32, NotCanonical> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> Result<u64, NotCanonical> {
        self.array().map(u64::from_le_bytes)
    }

    /// What is not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Everything was read.
    pub fn end(&self) -> Result<(), NotCanonical> {
        if self.rest.is_empty() { Ok(()) } else { Err(NotCanonical) }
    }
}
