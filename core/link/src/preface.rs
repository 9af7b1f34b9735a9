//! The sixteen bytes in clear that the connecting side sends first. They are part of the Noise prologue: whoever changes
//! them on the way makes message 2 undecryptable, so no version or suite can be talked down.

use std::ops::RangeInclusive;

use bft_core::config::Cipher;
use bft_core::wire::frame::WIRE_VERSION;

use crate::error::LinkError;

/// The lowest wire version that this crate speaks.
pub const VERSION_MIN: u16 = 1;
/// The highest wire version that this crate speaks.
pub const VERSION_MAX: u16 = 1;
/// The length of a preface.
pub const PREFACE_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"BFT1";
const _: () = assert!(VERSION_MIN <= VERSION_MAX && VERSION_MAX == WIRE_VERSION);

/// What one side of a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// A member of the cluster.
    Replica = 1,
    /// A client of it.
    Client = 2,
}

impl Role {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Replica),
            2 => Some(Self::Client),
            _ => None,
        }
    }
}

/// A preface that says what this side can go along with: the version to use, and what the peer claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub version: u16,
    pub role: Role,
}

/// What this side sends when it connects.
pub(crate) fn encode(cipher: Cipher, role: Role) -> [u8; PREFACE_BYTES] {
    let mut out = [0; PREFACE_BYTES];
    out[..4].copy_from_slice(&MAGIC);
    out[4..6].copy_from_slice(&VERSION_MIN.to_le_bytes());
    out[6..8].copy_from_slice(&VERSION_MAX.to_le_bytes());
    out[8] = cipher as u8;
    out[9] = role as u8;
    out
}

/// Reads what a connecting side sent, at an acceptor whose cluster uses `cipher`. The versions come first: what the rest
/// means is theirs to say.
pub(crate) fn accept(bytes: &[u8; PREFACE_BYTES], cipher: Cipher) -> Result<Accepted, LinkError> {
    let [m0, m1, m2, m3, min0, min1, max0, max1, suite, role, reserved @ ..] = *bytes;
    let found = [m0, m1, m2, m3];
    if found != MAGIC {
        return Err(LinkError::NotOurs { found });
    }
    let theirs = u16::from_le_bytes([min0, min1])..=u16::from_le_bytes([max0, max1]);
    let version = common_version(&theirs)?;
    if suite != cipher as u8 {
        return Err(LinkError::WrongSuite { theirs: suite, ours: cipher as u8 });
    }
    let role = Role::from_byte(role).ok_or(LinkError::Preface { what: "no such role" })?;
    if reserved != [0; 6] {
        return Err(LinkError::Preface { what: "reserved bytes are not zero" });
    }
    Ok(Accepted { version, role })
}

/// The highest version that both sides speak.
fn common_version(theirs: &RangeInclusive<u16>) -> Result<u16, LinkError> {
    if theirs.is_empty() {
        return Err(LinkError::Preface { what: "the lowest version is above the highest" });
    }
    let version = VERSION_MAX.min(*theirs.end());
    if version < VERSION_MIN.max(*theirs.start()) {
        return Err(LinkError::NoCommonVersion { theirs: theirs.clone() });
    }
    Ok(version)
}
