//! What clients say to `kv` and what it answers, as bytes (`docs/kv-format.md`). Every operation and every reply has
//! exactly one encoding; whatever else arrives is [`Refusal::Malformed`]. Pure functions of bytes: no state here.

use bft_core::limits::KIB;
use bft_core::wire::canonical::{NotCanonical, Reader};

/// The longest key.
pub const KEY_BYTES_MAX: usize = KIB;
/// The longest value. An operation with it fits a Request, and its reply the results of one, at their default bounds.
pub const VALUE_BYTES_MAX: usize = 200 * KIB;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The value of a key. Answer: [`Reply::Value`].
    Get {
        /// Which.
        key: &'a [u8],
    },
    /// Sets a value. Answer: [`Reply::Stored`].
    Put {
        /// Of which key.
        key: &'a [u8],
        /// The new value.
        value: &'a [u8],
    },
    /// Takes a key out. Answer: [`Reply::Deleted`].
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// Compare and swap: sets a value if the present one is as expected. Answer: [`Reply::Swapped`] or
    /// [`Reply::Mismatch`].
    Cas {
        /// Of which key.
        key: &'a [u8],
        /// What the value must be; `None`: there must be none.
        expect: Option<&'a [u8]>,
        /// The new value.
        value: &'a [u8],
    },
    /// Adds to a counter, which is a value of eight bytes, little endian, and 0 while the key is absent. Answer:
    /// [`Reply::Counter`].
    Add {
        /// Of which key.
        key: &'a [u8],
        /// How much; may be negative.
        delta: i64,
    },
    /// The number of keys. Answer: [`Reply::Count`].
    Count,
    /// Puts bytes behind a value, which is empty while the key is absent. Answer: [`Reply::Appended`].
    Append {
        /// Of which key.
        key: &'a [u8],
        /// What comes behind the present value.
        value: &'a [u8],
    },
}

/// What `kv` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// To [`Operation::Get`]: the value; `None`: no such key.
    Value(Option<&'a [u8]>),
    /// To [`Operation::Put`]: done; and whether the key was there before.
    Stored(Prior),
    /// To [`Operation::Delete`]: done; and whether the key was there before.
    Deleted(Prior),
    /// To [`Operation::Cas`]: done.
    Swapped,
    /// To [`Operation::Cas`]: nothing was changed; this is the present value.
    Mismatch(Option<&'a [u8]>),
    /// To [`Operation::Add`]: the sum.
    Counter(i64),
    /// To [`Operation::Count`].
    Count(u64),
    /// To [`Operation::Append`]: done; and how many bytes the value has now.
    Appended(u32),
    /// To any operation: it was not carried out and nothing was changed.
    Error(Refusal),
}

/// Whether a key was there before an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prior {
    /// It was not.
    Absent,
    /// It was.
    Present,
}

/// Why an operation was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// The bytes are no operation.
    #[error("malformed operation")]
    Malformed = 1,
    /// The key has more than [`KEY_BYTES_MAX`].
    #[error("the key is longer than {KEY_BYTES_MAX} bytes")]
    KeyTooLong = 2,
    /// The value, the expected value, or what [`Operation::Append`] would make, has more than [`VALUE_BYTES_MAX`].
    #[error("the value is, or would be, longer than {VALUE_BYTES_MAX} bytes")]
    ValueTooLong = 3,
    /// [`Operation::Add`] to a value that has not eight bytes.
    #[error("the value is not a counter: it has not 8 bytes")]
    NotACounter = 4,
    /// [`Operation::Add`] beyond what a counter holds.
    #[error("the counter would overflow")]
    Overflow = 5,
    /// An operation that writes, sent as a query.
    #[error("a query cannot write")]
    ReadOnly = 6,
}

impl Refusal {
    const ALL: [Self; 6] =
        [Self::Malformed, Self::KeyTooLong, Self::ValueTooLong, Self::NotACounter, Self::Overflow, Self::ReadOnly];
}

/// The bytes are no reply of `kv`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed reply of kv")]
pub struct MalformedReply;

impl From<NotCanonical> for Refusal {
    fn from(_: NotCanonical) -> Self {
        Self::Malformed
    }
}

impl From<NotCanonical> for MalformedReply {
    fn from(_: NotCanonical) -> Self {
        Self
    }
}

const GET: u8 = 1;
const PUT: u8 = 2;
const DELETE: u8 = 3;
const CAS: u8 = 4;
const ADD: u8 = 5;
const COUNT: u8 = 6;
const APPEND: u8 = 7;

impl<'a> Operation<'a> {
    /// Appends the encoded operation to `out`; appends nothing if key or value are too long.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        self.check()?;
        match *self {
            Self::Get { key } => put_parts(out, GET, &[key]),
            Self::Put { key, value } => put_parts(out, PUT, &[&key_len(key), key, value]),
            Self::Delete { key } => put_parts(out, DELETE, &[key]),
            Self::Cas { key, expect: None, value } => put_parts(out, CAS, &[&key_len(key), key, &[0], value]),
            Self::Cas { key, expect: Some(expect), value } => {
                let expect_len = (expect.len() as u32).to_le_bytes();
                put_parts(out, CAS, &[&key_len(key), key, &[1], &expect_len, expect, value]);
            }
            Self::Add { key, delta } => put_parts(out, ADD, &[&delta.to_le_bytes(), key]),
            Self::Count => put_parts(out, COUNT, &[]),
            Self::Append { key, value } => put_parts(out, APPEND, &[&key_len(key), key, value]),
        }
        Ok(())
    }

    /// The encoded operation.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::new();
        self.encode(&mut out)?;
        Ok(out)
    }

    /// Reads an operation. What it holds are slices of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let mut reader = Reader::new(bytes);
        let operation = match reader.u8()? {
            GET => Self::Get { key: reader.rest() },
            PUT => Self::Put { key: read_key(&mut reader)?, value: reader.rest() },
            DELETE => Self::Delete { key: reader.rest() },
            CAS => {
                let key = read_key(&mut reader)?;
                let expect = match reader.u8()? {
                    0 => None,
                    1 => {
                        let len = reader.u32()?;
                        Some(reader.take(len as usize)?)
                    }
                    _ => return Err(Refusal::Malformed),
                };
                Self::Cas { key, expect, value: reader.rest() }
            }
            ADD => Self::Add { delta: reader.u64()?.cast_signed(), key: reader.rest() },
            COUNT => {
                reader.end()?;
                Self::Count
            }
            APPEND => Self::Append { key: read_key(&mut reader)?, value: reader.rest() },
            _ => return Err(Refusal::Malformed),
        };
        operation.check()?;
        Ok(operation)
    }

    /// The key that it is about; an empty one if it is about none.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Self::Get { key }
            | Self::Put { key, .. }
            | Self::Delete { key }
            | Self::Cas { key, .. }
            | Self::Add { key, .. }
            | Self::Append { key, .. } => key,
            Self::Count => &[],
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let none: &[u8] = &[];
        let (expect, value) = match *self {
            Self::Put { value, .. } | Self::Append { value, .. } => (none, value),
            Self::Cas { expect, value, .. } => (expect.unwrap_or(none), value),
            Self::Get { .. } | Self::Delete { .. } | Self::Add { .. } | Self::Count => (none, none),
        };
        if self.key().len() > KEY_BYTES_MAX {
            return Err(Refusal::KeyTooLong);
        }
        if expect.len() > VALUE_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Err(Refusal::ValueTooLong);
        }
        Ok(())
    }
}

const ERROR: u8 = 0;
const VALUE_ABSENT: u8 = 1;
const VALUE: u8 = 2;
const STORED: u8 = 3;
const DELETED: u8 = 4;
const SWAPPED: u8 = 5;
const MISMATCH_ABSENT: u8 = 6;
const MISMATCH: u8 = 7;
const COUNTER: u8 = 8;
const KEYS: u8 = 9;
const APPENDED: u8 = 10;

impl<'a> Reply<'a> {
    /// Appends the encoded reply to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Value(None) => put_parts(out, VALUE_ABSENT, &[]),
            Self::Value(Some(value)) => put_parts(out, VALUE, &[value]),
            Self::Stored(prior) => put_parts(out, STORED, &[&[prior as u8]]),
            Self::Deleted(prior) => put_parts(out, DELETED, &[&[prior as u8]]),
            Self::Swapped => put_parts(out, SWAPPED, &[]),
            Self::Mismatch(None) => put_parts(out, MISMATCH_ABSENT, &[]),
            Self::Mismatch(Some(value)) => put_parts(out, MISMATCH, &[value]),
            Self::Counter(sum) => put_parts(out, COUNTER, &[&sum.to_le_bytes()]),
            Self::Count(keys) => put_parts(out, KEYS, &[&keys.to_le_bytes()]),
            Self::Appended(bytes) => put_parts(out, APPENDED, &[&bytes.to_le_bytes()]),
            Self::Error(refusal) => put_parts(out, ERROR, &[&[refusal as u8]]),
        }
    }

    /// Reads a reply. A value in it is a slice of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MalformedReply> {
        let mut reader = Reader::new(bytes);
        let reply = match reader.u8()? {
            VALUE => return Ok(Self::Value(Some(reader.rest()))),
            MISMATCH => return Ok(Self::Mismatch(Some(reader.rest()))),
            VALUE_ABSENT => Self::Value(None),
            STORED => Self::Stored(read_prior(&mut reader)?),
            DELETED => Self::Deleted(read_prior(&mut reader)?),
            SWAPPED => Self::Swapped,
            MISMATCH_ABSENT => Self::Mismatch(None),
            COUNTER => Self::Counter(reader.u64()?.cast_signed()),
            KEYS => Self::Count(reader.u64()?),
            APPENDED => Self::Appended(reader.u32()?),
            ERROR => {
                let code = reader.u8()?;
                let refusal = Refusal::ALL.into_iter().find(|refusal| *refusal as u8 == code);
                Self::Error(refusal.ok_or(MalformedReply)?)
            }
            _ => return Err(MalformedReply),
        };
        reader.end()?;
        Ok(reply)
    }
}

/// Appends a stored entry, `key length u16 ‖ key ‖ value`: what memory holds, what a chunk lists and what a delta says.
pub(super) fn put_entry(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(&key_len(key));
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// The key and the value of a stored entry.
pub(super) fn read_entry(entry: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let mut reader = Reader::new(entry);
    let key = read_key(&mut reader)?;
    Operation::Put { key, value: reader.rest() }.check()?;
    Ok((key, reader.rest()))
}

fn put_parts(out: &mut Vec<u8>, tag: u8, parts: &[&[u8]]) {
    out.push(tag);
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn key_len(key: &[u8]) -> [u8; 2] {
    u16::try_from(key.len()).expect("the length of a key was checked").to_le_bytes()
}

fn read_key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], NotCanonical> {
    let len = reader.u16()?;
    reader.take(len.into())
}

fn read_prior(reader: &mut Reader<'_>) -> Result<Prior, MalformedReply> {
    match reader.u8()? {
        0 => Ok(Prior::Absent),
        1 => Ok(Prior::Present),
        _ => Err(MalformedReply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_the_documented_ones() {
        let operations: [(Operation<'_>, &[u8]); 8] = [
            (Operation::Get { key: b"k" }, b"\x01k"),
            (Operation::Put { key: b"k", value: b"vw" }, b"\x02\x01\0kvw"),
            (Operation::Delete { key: b"" }, b"\x03"),
            (Operation::Cas { key: b"k", expect: None, value: b"v" }, b"\x04\x01\0k\0v"),
            (Operation::Cas { key: b"k", expect: Some(b"ab"), value: b"v" }, b"\x04\x01\0k\x01\x02\0\0\0abv"),
            (Operation::Add { key: b"k", delta: -2 }, b"\x05\xfe\xff\xff\xff\xff\xff\xff\xffk"),
            (Operation::Count, b"\x06"),
            (Operation::Append { key: b"k", value: b"vw" }, b"\x07\x01\0kvw"),
        ];
        for (operation, bytes) in operations {
            assert_eq!(operation.to_bytes().unwrap(), bytes, "{operation:?}");
            assert_eq!(Operation::decode(bytes), Ok(operation));
        }
        let replies: [(Reply<'_>, &[u8]); 13] = [
            (Reply::Error(Refusal::Overflow), b"\0\x05"),
            (Reply::Value(None), b"\x01"),
            (Reply::Value(Some(b"v")), b"\x02v"),
            (Reply::Value(Some(b"")), b"\x02"),
            (Reply::Stored(Prior::Absent), b"\x03\0"),
            (Reply::Deleted(Prior::Present), b"\x04\x01"),
            (Reply::Swapped, b"\x05"),
            (Reply::Mismatch(None), b"\x06"),
            (Reply::Mismatch(Some(b"v")), b"\x07v"),
            (Reply::Counter(-1), b"\x08\xff\xff\xff\xff\xff\xff\xff\xff"),
            (Reply::Count(3), b"\x09\x03\0\0\0\0\0\0\0"),
            (Reply::Appended(258), b"\x0a\x02\x01\0\0"),
            (Reply::Error(Refusal::ReadOnly), b"\0\x06"),
        ];
        for (reply, bytes) in replies {
            let mut out = Vec::new();
            reply.encode(&mut out);
            assert_eq!(out, bytes, "{reply:?}");
            assert_eq!(Reply::decode(bytes), Ok(reply));
        }
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        let malformed: [&[u8]; 12] = [
            b"",
            b"\0",
            b"\x08",
            b"\x07",
            b"\x07\x02\0k",
            b"\x06x",
            b"\x02",
            b"\x02\x02\0k",
            b"\x04\x01\0k",
            b"\x04\x01\0k\x02v",
            b"\x04\x01\0k\x01\x02\0\0\0a",
            b"\x05\0\0\0\0\0\0\0",
        ];
        for bytes in malformed {
            assert_eq!(Operation::decode(bytes), Err(Refusal::Malformed), "{bytes:?}");
        }
        let key = vec![b'k'; KEY_BYTES_MAX + 1];
        let value = vec![b'v'; VALUE_BYTES_MAX + 1];
        let (long_key, long_value) = (Err(Refusal::KeyTooLong), Err(Refusal::ValueTooLong));
        assert_eq!(Operation::Get { key: &key }.to_bytes(), long_key);
        assert_eq!(Operation::Put { key: b"", value: &value }.to_bytes(), long_value);
        assert_eq!(Operation::Cas { key: b"", expect: Some(&value), value: b"" }.to_bytes(), long_value);
        assert_eq!(Operation::Append { key: b"", value: &value }.to_bytes(), long_value);
        assert_eq!(Operation::decode(&[&[GET], &key[..]].concat()), Err(Refusal::KeyTooLong));
        assert_eq!(Operation::decode(&[&[PUT, 0, 0], &value[..]].concat()), Err(Refusal::ValueTooLong));
        let fitting = Operation::Put { key: &key[1..], value: &value[1..] };
        assert_eq!(Operation::decode(&fitting.to_bytes().unwrap()), Ok(fitting));
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..40), tag in 0u8..12) {
            if let Some(first) = bytes.first_mut() {
                *first = tag;
            }
            if let Ok(operation) = Operation::decode(&bytes) {
                prop_assert_eq!(operation.to_bytes().unwrap(), bytes.clone());
            }
            if let Ok(reply) = Reply::decode(&bytes) {
                let mut out = Vec::new();
                reply.encode(&mut out);
                prop_assert_eq!(out, bytes);
            }
        }
    }
}
