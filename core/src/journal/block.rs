//! Memory in blocks: what O_DIRECT reads and writes. A [`BlockBuf`] starts on a block's boundary in memory, whatever the
//! allocator gives. Invariant: the memory is never moved while a `BlockBuf` holds it, so its alignment stays.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// What is read and written at once, and what buffers are aligned to.
pub const BLOCK_BYTES: usize = 4096;

/// A growing run of bytes that starts on a block's boundary in memory.
pub struct BlockBuf {
    /// A block longer than the capacity, to leave room for the alignment. Its length never changes.
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl BlockBuf {
    /// An empty buffer with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let memory = vec![0; bytes.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES];
        let start = memory.as_ptr().addr().wrapping_neg() % BLOCK_BYTES;
        Self { memory, start, len: 0 }
    }

    /// A buffer of `bytes` zeros.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let mut buffer = Self::with_capacity(bytes);
        buffer.len = bytes;
        buffer
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends `bytes`.
    pub fn put(&mut self, bytes: &[u8]) {
        let at = self.grow(bytes.len());
        self[at..].copy_from_slice(bytes);
    }

    /// Appends two bytes, little endian.
    pub fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Appends four bytes, little endian.
    pub fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Appends eight bytes, little endian.
    pub fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Appends `count` zeros.
    pub fn put_zeros(&mut self, count: usize) {
        let at = self.grow(count);
        self[at..].fill(0);
    }

    /// Appends zeros up to the next multiple of `align`.
    pub fn pad_to(&mut self, align: usize) {
        self.put_zeros(self.len.next_multiple_of(align) - self.len);
    }

    /// Makes room for `more` bytes.
    pub fn reserve(&mut self, more: usize) {
        let needed = self.len + more;
        if needed > self.capacity() {
            let mut larger = Self::with_capacity(needed.max(self.capacity() * 2));
            larger.len = self.len;
            larger.copy_from_slice(self);
            *self = larger;
        }
    }

    /// How many bytes fit without new memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.len() - BLOCK_BYTES
    }

    /// Adds `more` bytes of old content, and says where they start.
    fn grow(&mut self, more: usize) -> usize {
        self.reserve(more);
        let at = self.len;
        self.len += more;
        at
    }
}

impl Deref for BlockBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for BlockBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for BlockBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} of {} bytes)", self.len, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_aligned_while_it_grows_and_moves() {
        let mut buffer = BlockBuf::with_capacity(10);
        let mut expected = Vec::new();
        for round in 0..2000u32 {
            buffer.put_u32(round);
            expected.extend_from_slice(&round.to_le_bytes());
        }
        let moved = Box::new(buffer);
        assert_eq!(moved.as_ptr().addr() % BLOCK_BYTES, 0);
        assert_eq!(**moved, expected[..]);
    }

    #[test]
    fn padding_is_zero_where_old_content_was() {
        let mut buffer = BlockBuf::with_capacity(BLOCK_BYTES);
        buffer.put(&[7; 100]);
        buffer.clear();
        buffer.put(&[1; 3]);
        buffer.pad_to(16);
        assert_eq!(buffer[..], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        buffer.pad_to(16);
        assert_eq!(buffer.len(), 16);
    }
}
