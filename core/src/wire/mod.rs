//! What travels between processes: messages as the core sees them, canonical bytes, frames and archives.

pub mod archive;
pub mod canonical;
pub mod frame;
pub mod message;
pub mod opening;
pub mod recall;
pub mod request;
mod view_change;

pub use archive::{DecodeError, decode, encode};
pub use frame::{FrameBuffer, FrameCutter, FrameError, FrameHeader, FrameLimits, PeerRole};
