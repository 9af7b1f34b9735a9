//! The journal and the superblock: records, groups, segments, scan. All of it pure; who moves the blocks is outside.

pub mod record;
pub mod superblock;
