//! The only room that knows an executor and a ring: sockets and timers (`uring`), the journal's blocks (`journal`,
//! `segments`, `probe`), and what wakes an executor from another thread (`doorbell`).

pub mod doorbell;
pub mod journal;
pub mod probe;
pub mod segments;
pub mod uring;
