//! VIEW-CHANGE and NEW-VIEW in canonical bytes: what is signed, what travels and what lies in the journal are the same
//! bytes. They are rare, nest deeply and are hashed: an archive would be a second form of them and save nothing.
//!
//! ```text
//! certificate   seq u64 | root 32 | epoch_end u64 | count u16 × (replica u16 | signature 64)
//! prepared      view u64 | seq u64 | digest 32 | header 52 | commitment 32 | signature 64 | count u16 × (replica u16 | commitment 32 | signature 64)
//! VIEW-CHANGE   epoch u64 | view u64 | replica u16 | 0, or 1 and a certificate | count u16 × prepared | signature 64
//! NEW-VIEW      epoch u64 | view u64 | count u16 × (len u32 | VIEW-CHANGE) | signature 64
//! ```

use std::sync::Arc;

use super::canonical::{NotCanonical, Reader, SigningBytes, Tag, signing_bytes};
use super::message::{Ballot, BatchHeader, Checkpoint, NewView, Position, PreparedCertificate, ViewChange};
use crate::hash::{Context, hash};
use crate::ids::{ClusterId, Digest, Epoch, ReplicaId, Seq, Signature, View};
use crate::limits::{REPLICAS_MAX, WINDOW_MAX};

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

impl ViewChange {
    /// The message in canonical bytes, its signature last.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.unsigned();
        out.extend_from_slice(&self.signature.0);
        out
    }

    /// What it takes in canonical bytes, at most.
    #[must_use]
    pub fn bytes_at_most(&self) -> usize {
        /// Fixed fields, and a checkpoint of every replica.
        const FIXED: usize = 256 + REPLICAS_MAX * (2 + SIGNATURE_BYTES);
        let prepares: usize = self.prepared.iter().map(|certificate| certificate.prepares.len()).sum();
        FIXED + 256 * self.prepared.len() + 98 * prepares
    }

    /// What the sender signs.
    #[must_use]
    pub fn signing_bytes(&self, cluster: ClusterId) -> SigningBytes {
        signing_bytes(Tag::ViewChange, cluster, hash(Context::ViewChange, &[&self.unsigned()]))
    }

    /// Reads one that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        let (epoch, view) = (Epoch(reader.u64()?), View(reader.u64()?));
        let replica = ReplicaId(reader.u16()?);
        let certificate = match reader.u8()? {
            0 => None,
            1 => Some(read_checkpoint(&mut reader, epoch)?),
            _ => return Err(NotCanonical),
        };
        let count = usize::from(reader.u16()?);
        if count > WINDOW_MAX as usize {
            return Err(NotCanonical);
        }
        let prepared = (0..count).map(|_| read_prepared(&mut reader, epoch)).collect::<Result<_, _>>()?;
        let signature = Signature(reader.array()?);
        reader.end()?;
        Ok(Self { epoch, view, replica, certificate, prepared, signature })
    }

    fn unsigned(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes_at_most());
        put_u64(&mut out, self.epoch.0);
        put_u64(&mut out, self.view.0);
        put_u16(&mut out, self.replica.0);
        out.push(self.certificate.is_some().into());
        if let Some(certificate) = &self.certificate {
            put_checkpoint(&mut out, certificate);
        }
        put_count(&mut out, self.prepared.len(), WINDOW_MAX as usize);
        self.prepared.iter().for_each(|certificate| put_prepared(&mut out, certificate));
        out
    }
}

impl NewView {
    /// The message in canonical bytes, its signature last.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.unsigned();
        out.extend_from_slice(&self.signature.0);
        out
    }

    /// What it takes in canonical bytes, at most.
    #[must_use]
    pub fn bytes_at_most(&self) -> usize {
        128 + self.view_changes.iter().map(|message| 4 + message.bytes_at_most()).sum::<usize>()
    }

    /// What the new primary signs.
    #[must_use]
    pub fn signing_bytes(&self, cluster: ClusterId) -> SigningBytes {
        signing_bytes(Tag::NewView, cluster, hash(Context::NewView, &[&self.unsigned()]))
    }

    /// Reads one that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotCanonical> {
        let mut reader = Reader::new(bytes);
        let (epoch, view) = (Epoch(reader.u64()?), View(reader.u64()?));
        let count = usize::from(reader.u16()?);
        if count > REPLICAS_MAX {
            return Err(NotCanonical);
        }
        let mut view_changes = Vec::with_capacity(count);
        for _ in 0..count {
            let len = reader.u32()? as usize;
            view_changes.push(Arc::new(ViewChange::decode(reader.take(len)?)?));
        }
        let signature = Signature(reader.array()?);
        reader.end()?;
        Ok(Self { epoch, view, view_changes, signature })
    }

    fn unsigned(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes_at_most());
        put_u64(&mut out, self.epoch.0);
        put_u64(&mut out, self.view.0);
        put_count(&mut out, self.view_changes.len(), REPLICAS_MAX);
        for view_change in &self.view_changes {
            let bytes = view_change.encode();
            out.extend_from_slice(&u32::try_from(bytes.len()).expect("far below 4 GiB").to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        out
    }
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize, most: usize) {
    assert!(count <= most, "what we send is bounded where it is made");
    put_u16(out, count as u16);
}

fn put_checkpoint(out: &mut Vec<u8>, checkpoint: &Checkpoint) {
    put_u64(out, checkpoint.seq.0);
    out.extend_from_slice(&checkpoint.root.0);
    put_u64(out, checkpoint.epoch_end.0);
    put_count(out, checkpoint.signatures.len(), REPLICAS_MAX);
    for (replica, signature) in &checkpoint.signatures {
        put_u16(out, replica.0);
        out.extend_from_slice(&signature.0);
    }
}

fn put_prepared(out: &mut Vec<u8>, certificate: &PreparedCertificate) {
    let PreparedCertificate { position, header, proposal, prepares } = certificate;
    put_u64(out, position.view.0);
    put_u64(out, position.seq.0);
    out.extend_from_slice(&position.digest.0);
    out.extend_from_slice(&header.bytes());
    out.extend_from_slice(&proposal.bytes());
    put_count(out, prepares.len(), REPLICAS_MAX);
    for (replica, ballot) in prepares {
        put_u16(out, replica.0);
        out.extend_from_slice(&ballot.bytes());
    }
}

/// A count of replicas, whose entries of `bytes` each are all there: nothing is set aside for what is not.
fn read_count(reader: &mut Reader<'_>, bytes: usize) -> Result<usize, NotCanonical> {
    let count = usize::from(reader.u16()?);
    if count > REPLICAS_MAX || reader.rest().len() < count * bytes { Err(NotCanonical) } else { Ok(count) }
}

fn read_checkpoint(reader: &mut Reader<'_>, epoch: Epoch) -> Result<Checkpoint, NotCanonical> {
    let (seq, root, epoch_end) = (Seq(reader.u64()?), Digest(reader.array()?), Seq(reader.u64()?));
    let count = read_count(reader, 2 + SIGNATURE_BYTES)?;
    let signature = |reader: &mut Reader<'_>| Ok((ReplicaId(reader.u16()?), Signature(reader.array()?)));
    let signatures = (0..count).map(|_| signature(reader)).collect::<Result<_, NotCanonical>>()?;
    Ok(Checkpoint { epoch, seq, root, epoch_end, signatures })
}

fn read_prepared(reader: &mut Reader<'_>, epoch: Epoch) -> Result<PreparedCertificate, NotCanonical> {
    let (view, seq, digest) = (View(reader.u64()?), Seq(reader.u64()?), Digest(reader.array()?));
    let header = BatchHeader::read(reader)?;
    let proposal = Ballot::read(reader)?;
    let count = read_count(reader, 2 + 32 + SIGNATURE_BYTES)?;
    let prepare = |reader: &mut Reader<'_>| Ok((ReplicaId(reader.u16()?), Ballot::read(reader)?));
    let prepares = (0..count).map(|_| prepare(reader)).collect::<Result<_, NotCanonical>>()?;
    Ok(PreparedCertificate { position: Position { epoch, view, seq, digest }, header, proposal, prepares })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view_change(replica: u16) -> ViewChange {
        let ballot = |byte| Ballot { commitment: Digest([byte; 32]), signature: Signature([byte; 64]) };
        let prepared = |seq| PreparedCertificate {
            position: Position { epoch: Epoch(3), view: View(1), seq: Seq(seq), digest: Digest([seq as u8; 32]) },
            header: BatchHeader { time_ns: 9, count: 2, body_len: 77, merkle_root: Digest([8; 32]), flags: 0 },
            proposal: ballot(1),
            prepares: vec![(ReplicaId(1), ballot(2)), (ReplicaId(3), ballot(3))],
        };
        ViewChange {
            epoch: Epoch(3),
            view: View(2),
            replica: ReplicaId(replica),
            certificate: Some(Checkpoint {
                epoch: Epoch(3),
                seq: Seq(8),
                root: Digest([4; 32]),
                epoch_end: Seq(0),
                signatures: vec![(ReplicaId(0), Signature([5; 64])), (ReplicaId(2), Signature([6; 64]))],
            }),
            prepared: vec![prepared(9), prepared(11)],
            signature: Signature([7; 64]),
        }
    }

    fn new_view() -> NewView {
        let view_changes = (0..3).map(|replica| Arc::new(view_change(replica))).collect();
        NewView { epoch: Epoch(3), view: View(2), view_changes, signature: Signature([9; 64]) }
    }

    #[test]
    fn what_was_encoded_is_read_and_nothing_else() {
        let bytes = view_change(1).encode();
        assert_eq!(ViewChange::decode(&bytes), Ok(view_change(1)));
        assert!((0..bytes.len()).all(|end| ViewChange::decode(&bytes[..end]).is_err()), "no cut is read");
        assert!(ViewChange::decode(&[&bytes[..], b"x"].concat()).is_err());
        let bytes = new_view().encode();
        assert_eq!(NewView::decode(&bytes), Ok(new_view()));
        assert!((0..bytes.len()).all(|end| NewView::decode(&bytes[..end]).is_err()), "no cut is read");
    }

    #[test]
    fn s10_every_byte_but_the_signature_is_signed() {
        let cluster = ClusterId([1; 32]);
        let message = view_change(1);
        let bytes = message.encode();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            let Ok(other) = ViewChange::decode(&other) else { continue };
            let same = other.signing_bytes(cluster) == message.signing_bytes(cluster);
            assert_eq!(same, at >= bytes.len() - SIGNATURE_BYTES, "byte {at}");
        }
    }
}
