//! What travels between processes: messages as the core sees them, canonical bytes, frames and archives.

pub mod canonical;
pub mod message;
pub mod opening;
pub mod request;
