//! The journal and the superblock (SHAPES §6): records, groups, segments, scan. All of it pure: who moves the blocks is
//! outside, so the simulator tears the very bytes that production writes.
//!
//! Life of a data directory: [`superblock::Superblock::first`] makes it; at every start [`superblock::read_superblock`]
//! (and its repair), then a flush of the superblock, of every segment and of the directory (what a killed process wrote
//! may sit unflushed, D22), then [`scan()`], then [`Journal::new`].

pub mod block;
pub mod group;
pub mod index;
pub mod record;
pub mod scan;
pub mod segment;
pub mod superblock;
pub mod writer;

pub use block::{BLOCK_BYTES, BlockBuf};
pub use index::Extent;
pub use record::{LongContent, LongestRecord, Record, RecordInvalid, read_record};
pub use scan::{Blocks, Damage, Evidence, ScanError, Seen, SegmentFile, Tail, scan, scan_seeing};
pub use superblock::{CopyInvalid, Repair, SUPERBLOCK_FILE_BYTES, Superblock, SuperblockDamage, read_superblock};
pub use writer::{Journal, JournalOptions, SegmentTooShort, Target, Ticket, Write};

/// The version of everything that lies in a data directory. Another number is refused.
pub const VERSION: u16 = 1;
