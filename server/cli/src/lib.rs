//! What our programs have in common for those who run them: how a command ends, what it writes and logs and where, and how
//! it is stopped. What a command does is the program's.

pub mod exit;
pub mod log;
pub mod output;
pub mod stop;
