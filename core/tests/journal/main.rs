//! The journal on a disk that loses and tears what was not flushed.

mod crash;
mod damage;
mod disk;
mod format;
mod lives;
mod superblock;
mod writing;
