//! A key with its hash, and an entry as it is stored. Short entries lie in the bucket itself: no counter, no pointer,
//! and a bucket of them is copied in one go. Longer ones are shared between the copies of their bucket.

use std::sync::Arc;

use super::format::put_entry;

/// What lies in the bucket itself: keys of 16 bytes with a counter do.
const SHORT_MAX: usize = 30;

/// A key and where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    /// Keyless, so that it is the same at every replica.
    pub(super) hash: u64,
    pub(super) bytes: &'a [u8],
}

/// A stored entry and where it belongs.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    hash: u64,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Shared(Arc<[u8]>),
}

const _: () = assert!(size_of::<Entry>() == 40, "what memory a key takes depends on it");

impl<'a> Key<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let hash = blake3::hash(bytes);
        let hash = u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
        Self { hash, bytes }
    }

    /// The key of an entry that was checked.
    pub(super) fn of_entry(entry: &'a [u8]) -> Self {
        Self::new(split(entry).0)
    }
}

impl Entry {
    /// `bytes` are what [`put_entry`] writes.
    pub(super) fn new(hash: u64, bytes: &[u8]) -> Self {
        Self { hash, bytes: Bytes::new(bytes) }
    }

    /// As [`put_entry`] writes it.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Short { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Shared(bytes) => bytes,
        }
    }

    /// Replaces the bytes; the key in them is the same.
    pub(super) fn set(&mut self, new: &[u8]) {
        if let Bytes::Shared(shared) = &mut self.bytes
            && let Some(own) = Arc::get_mut(shared)
            && own.len() == new.len()
        {
            own.copy_from_slice(new);
        } else {
            self.bytes = Bytes::new(new);
        }
    }

    /// The bytes that it takes in a chunk: its length before it.
    pub(super) fn chunk_bytes(&self) -> u64 {
        let len = match &self.bytes {
            Bytes::Short { len, .. } => usize::from(*len),
            Bytes::Shared(bytes) => bytes.len(),
        };
        chunk_bytes(len)
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn key(&self) -> &[u8] {
        split(self.bytes()).0
    }

    pub(super) fn value(&self) -> &[u8] {
        split(self.bytes()).1
    }
}

impl Bytes {
    fn new(from: &[u8]) -> Self {
        if from.len() > SHORT_MAX {
            return Self::Shared(from.into());
        }
        let mut bytes = [0; SHORT_MAX];
        bytes[..from.len()].copy_from_slice(from);
        Self::Short { len: from.len() as u8, bytes }
    }
}

/// What an entry of `len` bytes takes in a chunk.
pub(super) fn chunk_bytes(len: usize) -> u64 {
    len as u64 + 4
}

/// The key and the value of an entry that was checked.
fn split(entry: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) = entry.split_first_chunk().expect("an entry begins with the length of its key");
    rest.split_at(u16::from_le_bytes(*len).into())
}

/// Writes an entry into `scratch` in place of what was there.
pub(super) fn fill<'s>(scratch: &'s mut Vec<u8>, key: &[u8], value: &[u8]) -> &'s [u8] {
    scratch.clear();
    put_entry(scratch, key, value);
    scratch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_entries_change_into_one_another() {
        let mut scratch = Vec::new();
        let mut entry = Entry::new(7, fill(&mut scratch, b"key", b""));
        let mut shared = Vec::new();
        for len in [0, 25, 26, 26, 1000, 1000, 3] {
            let value = vec![len as u8; len];
            entry.set(fill(&mut scratch, b"key", &value));
            assert_eq!((entry.hash(), entry.key(), entry.value()), (7, &b"key"[..], &value[..]));
            assert_eq!(entry.bytes(), scratch);
            assert_eq!(entry.chunk_bytes(), len as u64 + 3 + 2 + 4);
            shared.push((entry.clone(), value));
        }
        for (copy, value) in shared {
            assert_eq!(copy.value(), value, "a copy stays what it was");
        }
    }

    #[test]
    fn an_entry_that_nobody_shares_is_changed_in_place() {
        let mut scratch = Vec::new();
        let mut entry = Entry::new(7, fill(&mut scratch, b"key", &[1; 100]));
        let before = entry.bytes().as_ptr();
        entry.set(fill(&mut scratch, b"key", &[2; 100]));
        assert_eq!((entry.bytes().as_ptr(), entry.value()), (before, &[2; 100][..]));
    }
}
