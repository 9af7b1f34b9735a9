//! Changes of genuine bytes, drawn from a seed: the ones that find bugs in decoders more often than noise does.

/// Numbers from a seed (splitmix64): the same everywhere and for ever.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The numbers of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// One of `0..count`.
    ///
    /// # Panics
    /// If `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        (self.u64() % count as u64) as usize
    }

    /// One of `things`.
    ///
    /// # Panics
    /// If there are none.
    pub fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.u64() as u8).collect()
    }

    /// 32 bytes.
    pub fn array(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.u64() as u8)
    }
}

/// What numbers are made to be: the ends of ranges, and what lies beside them.
const NUMBERS: [u64; 12] = [
    0,
    1,
    2,
    0x7F,
    0xFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFF0,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_FFFE,
    0xFFFF_FFFF_FFFF_FFFF,
];

/// Changes `bytes` in one to four places.
pub fn mutate(draw: &mut Draw, bytes: &mut Vec<u8>) {
    for _ in 0..=draw.below(4) {
        mutate_once(draw, bytes);
    }
}

fn mutate_once(draw: &mut Draw, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        let len = 1 + draw.below(64);
        bytes.extend(draw.bytes(len));
        return;
    }
    let at = draw.below(bytes.len());
    match draw.below(8) {
        0 => bytes[at] ^= 1 << draw.below(8),
        1 => bytes[at] = *draw.one_of(&[0, 1, 0x7F, 0x80, 0xFF]),
        2 => put(bytes, at & !3, &(*draw.one_of(&NUMBERS) as u32).to_le_bytes()),
        3 => put(bytes, at & !7, &draw.one_of(&NUMBERS).to_le_bytes()),
        // Offsets of archives are small numbers, of either sign.
        4 => nudge(bytes, at & !3, draw.below(65) as i32 - 32),
        5 => bytes.truncate(at),
        6 => {
            let len = 1 + draw.below(48);
            let more = draw.bytes(len);
            bytes.splice(at..at, more);
        }
        _ => {
            let (from, len) = (draw.below(bytes.len()), 1 + draw.below(32));
            let piece = bytes[from..bytes.len().min(from + len)].to_vec();
            put(bytes, at, &piece);
        }
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let end = bytes.len().min(at + new.len());
    let start = at.min(end);
    bytes[start..end].copy_from_slice(&new[..end - start]);
}

fn nudge(bytes: &mut [u8], at: usize, by: i32) {
    if let Some(Ok(word)) = bytes.get(at..at + 4).map(<[u8; 4]>::try_from) {
        put(bytes, at, &i32::from_le_bytes(word).wrapping_add(by).to_le_bytes());
    }
}
