//! A group: what one flush makes durable. Its header, its check under the directory's key, and how the next one is
//! chained to it.
//!
//! ```text
//! header 64: magic u32 | version u16 | records u16 | bytes u32 | segment u32 | first_position u64
//!            | durable_through u64 | prev_check 16 | check 16
//! records    `bytes` of them, see super::record; zeros to the end of the block
//! ```
//! The check is over the header in front of it and the records. The magic comes from the directory's key as well: who
//! does not know the key cannot even make a block look like the start of a group, so trying every block costs no more
//! hashing than there are groups (D14).

use super::VERSION;
use super::block::BlockBuf;
use crate::ids::LogPosition;
use crate::wire::canonical::Reader;

/// A group's header.
pub const GROUP_HEADER_BYTES: usize = 64;
/// Where the check lies in it.
const CHECK_AT: usize = 48;

/// Sixteen bytes of BLAKE3 under the directory's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check(pub [u8; 16]);

impl Check {
    /// What the first group of a directory has before it.
    pub const NONE: Self = Self([0; 16]);
}

/// The directory's key at work.
#[derive(Clone)]
pub struct Seal {
    key: [u8; 32],
    magic: [u8; 4],
}

impl Seal {
    /// For the directory that has this key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        let drawn = blake3::keyed_hash(&key, b"bft1 group magic");
        let magic = *drawn.as_bytes().first_chunk().expect("a hash is longer than a magic");
        Self { key, magic }
    }

    /// The check over `parts`, one after the other.
    #[must_use]
    pub fn check(&self, parts: &[&[u8]]) -> Check {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for part in parts {
            hasher.update(part);
        }
        let hash = hasher.finalize();
        Check(*hash.as_bytes().first_chunk().expect("a hash is longer than a check"))
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

/// A group's header, but for the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupHeader {
    /// Records in it. None: a mark, at a clean stop or at the start of a segment that leaves a torn tail behind.
    pub records: u16,
    /// Bytes of the records.
    pub bytes: u32,
    /// The segment it lies in.
    pub segment: u32,
    /// The position of its first record.
    pub first_position: LogPosition,
    /// The last position of the newest group in the unbroken durable prefix when this was written.
    pub durable_through: LogPosition,
    /// The check of the group before it.
    pub prev_check: Check,
}

impl GroupHeader {
    /// The position of its last record; of the last one before it if it has none.
    #[must_use]
    pub fn last_position(&self) -> LogPosition {
        LogPosition((self.first_position.0 - 1).saturating_add(u64::from(self.records)))
    }

    /// Writes itself and the check into the space left for them at `at`, in front of the records, and returns the check.
    pub fn seal(&self, seal: &Seal, out: &mut BlockBuf, at: usize) -> Check {
        let mut header = [0; GROUP_HEADER_BYTES];
        header[0..4].copy_from_slice(&seal.magic);
        header[4..6].copy_from_slice(&VERSION.to_le_bytes());
        header[6..8].copy_from_slice(&self.records.to_le_bytes());
        header[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        header[12..16].copy_from_slice(&self.segment.to_le_bytes());
        header[16..24].copy_from_slice(&self.first_position.0.to_le_bytes());
        header[24..32].copy_from_slice(&self.durable_through.0.to_le_bytes());
        header[32..CHECK_AT].copy_from_slice(&self.prev_check.0);
        let records = at + GROUP_HEADER_BYTES;
        assert_eq!(out.len() - records, self.bytes as usize, "the records are the rest of the buffer");
        let check = seal.check(&[&header[..CHECK_AT], &out[records..]]);
        header[CHECK_AT..].copy_from_slice(&check.0);
        out[at..records].copy_from_slice(&header);
        check
    }

    /// The header at the front of `block`, if it looks like one of this directory. Only [`Self::verify`] tells.
    #[must_use]
    pub fn parse(seal: &Seal, block: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(block.get(..GROUP_HEADER_BYTES)?);
        let magic: [u8; 4] = reader.array().ok()?;
        let version = reader.u16().ok()?;
        let header = Self {
            records: reader.u16().ok()?,
            bytes: reader.u32().ok()?,
            segment: reader.u32().ok()?,
            first_position: LogPosition(reader.u64().ok()?),
            durable_through: LogPosition(reader.u64().ok()?),
            prev_check: Check(reader.array().ok()?),
        };
        let is_plausible = magic == seal.magic && version == VERSION && header.durable_through < header.first_position;
        is_plausible.then_some(header)
    }

    /// The check of `group`, header and records, if it is the right one.
    #[must_use]
    pub fn verify(seal: &Seal, group: &[u8]) -> Option<Check> {
        let (header, records) = group.split_at_checked(GROUP_HEADER_BYTES)?;
        let check = seal.check(&[&header[..CHECK_AT], records]);
        (header[CHECK_AT..] == check.0).then_some(check)
    }
}
