//! The journal on a disk that loses and tears what was not flushed.

mod crash;
mod disk;
