//! Identifiers and quantities: newtypes, so that a View is never taken for a Seq. No behaviour beyond arithmetic that
//! cannot wrap.

use std::fmt;

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this one. Panics past `u64::MAX`: a peer's number is bounded before it gets here.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("counter exhausted"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A period with one primary. Starts at 0 in every Epoch.
    View
}
counter! {
    /// The number of a place in the order, from 1. 0 means "before the first".
    Seq
}
counter! {
    /// A membership configuration.
    Epoch
}
counter! {
    /// The number of a client's Request inside its session, from 1. 0 only in the Request that opens a session.
    RequestNo
}
counter! {
    /// A session of a client: `(seq << 20) | index in the batch` of the Request that opened it. 0: none.
    SessionId
}
counter! {
    /// The number of a persisted record, over journal and superblock together. 0: nothing has to be durable.
    LogPosition
}
counter! {
    /// Nanoseconds on a clock that never goes back. Timers use nothing else.
    Nanos
}
counter! {
    /// Nanoseconds since 1970 on the wall clock. Dates batches, and bounds what a primary may claim.
    WallNanos
}
counter! {
    /// A client's connection as the shell numbers it; means nothing in another process or after a restart.
    LinkId
}

impl Nanos {
    /// `self + ns`, or the end of time.
    #[must_use]
    pub fn after(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// How long after `earlier` this is; 0 if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Seq {
    /// The Seq `n` places on, or the last one there is.
    #[must_use]
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }

    /// Whether a checkpoint of interval `interval` falls on this Seq.
    #[must_use]
    pub fn is_checkpoint(self, interval: u64) -> bool {
        self.0 != 0 && self.0.is_multiple_of(interval)
    }
}

/// A replica's index in the configuration of its Epoch, below [`crate::limits::REPLICAS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaId(pub u16);

impl ReplicaId {
    /// The index as such.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! bytes_type {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// All bytes zero: stands for "none" where a field must hold something.
            pub const ZERO: Self = Self([0; $len]);

            /// The bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ZERO
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl std::str::FromStr for $name {
            type Err = NotHex;

            fn from_str(text: &str) -> Result<Self, NotHex> {
                let mut bytes = [0; $len];
                parse_hex(text, &mut bytes)?;
                Ok(Self(bytes))
            }
        }
    };
}

bytes_type! {
    /// A BLAKE3 hash under one of the contexts of [`crate::hash`].
    Digest, 32
}
bytes_type! {
    /// The name of a cluster, drawn at random when it is made; in every file, signature and handshake.
    ClusterId, 32
}
bytes_type! {
    /// An Ed25519 public key. A client is known by it.
    PublicKey, 32
}
bytes_type! {
    /// An Ed25519 signature, `R ‖ s`.
    Signature, 64
}

/// Not the expected number of lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits")]
pub struct NotHex {
    /// The number of digits that were expected.
    pub expected: usize,
}

fn parse_hex(text: &str, out: &mut [u8]) -> Result<(), NotHex> {
    let expected = out.len() * 2;
    let digits = text.as_bytes();
    if digits.len() != expected {
        return Err(NotHex { expected });
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotHex { expected }),
    };
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_refuses_what_it_would_not_print() {
        let digest = Digest(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("00".parse::<Digest>(), Err(NotHex { expected: 64 }));
        let upper = digest.to_string().to_uppercase();
        assert_eq!(upper.parse::<Digest>(), Err(NotHex { expected: 64 }));
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Seq(u64::MAX).plus(1), Seq(u64::MAX));
        assert_eq!(Nanos(3).since(Nanos(5)), 0);
        assert!(!Seq(0).is_checkpoint(4) && Seq(8).is_checkpoint(4) && !Seq(9).is_checkpoint(4));
    }
}
