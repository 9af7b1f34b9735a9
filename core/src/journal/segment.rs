//! Block 0 of a segment: what the segment is known by, never by the name of its file.
//!
//! ```text
//! magic 8 | version u16 | cluster_id 32 | replica u16 | directory id 16 | segment number u32 | first LogPosition u64
//! | check of the last group before 16 | check 16; zeros to the end of the block
//! ```

use super::VERSION;
use super::block::{BLOCK_BYTES, BlockBuf};
use super::group::{Check, Seal};
use super::superblock::Superblock;
use crate::ids::{ClusterId, LogPosition, ReplicaId};
use crate::wire::canonical::Reader;

const MAGIC: &[u8; 8] = b"bftjrnl1";
/// What the check covers.
const CHECKED_BYTES: usize = 88;

/// Whose a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The replica.
    pub replica: ReplicaId,
    /// The directory.
    pub directory_id: [u8; 16],
}

impl Owner {
    /// The one that the superblock names.
    #[must_use]
    pub fn of(superblock: &Superblock) -> Self {
        let Superblock { cluster_id, replica, directory_id, .. } = superblock;
        Self { cluster_id: *cluster_id, replica: *replica, directory_id: *directory_id }
    }
}

/// What block 0 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Raised with every segment, never used twice in a directory.
    pub number: u32,
    /// No record of the segment lies below this: one above the last position of the group before it.
    pub first_position: LogPosition,
    /// The check of the group before it.
    pub prev_check: Check,
}

impl SegmentHeader {
    /// Appends block 0.
    pub fn encode(&self, owner: &Owner, seal: &Seal, out: &mut BlockBuf) {
        let at = out.len();
        out.put(MAGIC);
        out.put_u16(VERSION);
        out.put(&owner.cluster_id.0);
        out.put_u16(owner.replica.0);
        out.put(&owner.directory_id);
        out.put_u32(self.number);
        out.put_u64(self.first_position.0);
        out.put(&self.prev_check.0);
        let check = seal.check(&[&out[at..]]);
        out.put(&check.0);
        out.pad_to(BLOCK_BYTES);
    }

    /// Reads block 0; `None` if it is not one of this directory, or damaged.
    #[must_use]
    pub fn decode(owner: &Owner, seal: &Seal, block: &[u8]) -> Option<Self> {
        let checked = block.get(..CHECKED_BYTES)?;
        let mut reader = Reader::new(block);
        let magic: [u8; 8] = reader.array().ok()?;
        let version = reader.u16().ok()?;
        let cluster_id = ClusterId(reader.array().ok()?);
        let replica = ReplicaId(reader.u16().ok()?);
        let directory_id = reader.array().ok()?;
        let header = Self {
            number: reader.u32().ok()?,
            first_position: LogPosition(reader.u64().ok()?),
            prev_check: Check(reader.array().ok()?),
        };
        let check = Check(reader.array().ok()?);
        let is_ours = magic == *MAGIC
            && version == VERSION
            && *owner == Owner { cluster_id, replica, directory_id }
            && check == seal.check(&[checked]);
        is_ours.then_some(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_only_the_own_directory_reads_a_segment() {
        let owner = Owner { cluster_id: ClusterId([1; 32]), replica: ReplicaId(2), directory_id: [3; 16] };
        let seal = Seal::new([4; 32]);
        let header = SegmentHeader { number: 5, first_position: LogPosition(6), prev_check: Check([7; 16]) };
        let mut block = BlockBuf::with_capacity(BLOCK_BYTES);
        header.encode(&owner, &seal, &mut block);
        assert_eq!(block.len(), BLOCK_BYTES);
        assert_eq!(SegmentHeader::decode(&owner, &seal, &block), Some(header));

        let of_peer = Owner { replica: ReplicaId(3), ..owner };
        let of_other_life = Owner { directory_id: [9; 16], ..owner };
        assert_eq!(SegmentHeader::decode(&of_peer, &seal, &block), None);
        assert_eq!(SegmentHeader::decode(&of_other_life, &seal, &block), None);
        assert_eq!(SegmentHeader::decode(&owner, &Seal::new([8; 32]), &block), None);
        for at in 0..CHECKED_BYTES + 16 {
            block[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&owner, &seal, &block), None, "byte {at}");
            block[at] ^= 1;
        }
    }
}
