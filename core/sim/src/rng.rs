//! Chance, from one seed: a tree of named streams, so that a new knob never shifts what the others draw.

/// A node of the tree. Children are told apart by name; drawing from one says nothing about another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u64);

impl Seed {
    /// The root of a run.
    #[must_use]
    pub fn root(seed: u64) -> Self {
        Self(mix(seed ^ 0x6266_742d_7369_6d31))
    }

    /// The child called `name`.
    #[must_use]
    pub fn child(self, name: &str) -> Self {
        let folded = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mix(self.0 ^ mix(folded)))
    }

    /// The child with this number.
    #[must_use]
    pub fn nth(self, number: u64) -> Self {
        Self(mix(self.0.rotate_left(17) ^ mix(number)))
    }

    /// The stream of this node.
    #[must_use]
    pub fn rng(self) -> Rng {
        Rng { state: std::array::from_fn(|lane| mix(self.0.wrapping_add(lane as u64 + 1))) }
    }
}

/// SplitMix64's finaliser: a bijection that scatters every bit.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream: xoshiro256**.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        let s = &mut self.state;
        let drawn = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        drawn
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "an empty range holds no number");
        ((u128::from(self.u64()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `permille` times in a thousand.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.below(1000) < u64::from(permille)
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// An exponentially distributed number with this mean, cut off at twelve times the mean. Integers only: the same on
    /// every machine.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        // -ln(u) in 16.16 fixed point: whole halvings from the leading zeros, the rest linear within the octave.
        let bits = self.u64() | 1;
        let halvings = u64::from(bits.leading_zeros());
        let mantissa = (bits << halvings) >> 47 & 0xffff;
        let logarithm = ((halvings + 1) << 16) - mantissa;
        let scaled = u128::from(mean) * u128::from(logarithm) * 45_426 / (1 << 32);
        (scaled as u64).min(mean.saturating_mul(12))
    }

    /// 32 bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        let mut out = [0; 32];
        out.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.u64().to_le_bytes()));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_their_names_and_on_nothing_drawn_elsewhere() {
        let root = Seed::root(7);
        let mut network = root.child("network").rng();
        let before = network.clone().u64();
        root.child("disk").rng().u64();
        assert_eq!(root.child("network").rng().u64(), before);
        assert_ne!(root.child("disk").rng().u64(), network.u64());
        assert_ne!(root.nth(1).rng().u64(), root.nth(2).rng().u64());
    }

    #[test]
    fn numbers_stay_in_their_range_and_have_about_their_mean() {
        let mut rng = Seed::root(1).rng();
        let drawn: Vec<u64> = (0..10_000).map(|_| rng.range(3, 9)).collect();
        assert!((3..=9).all(|number| drawn.contains(&number)) && drawn.iter().all(|number| (3..=9).contains(number)));
        let sum: u64 = (0..100_000).map(|_| rng.exponential(1000)).sum();
        assert!((90_000_000..110_000_000).contains(&sum), "{sum}");
        let hits = (0..100_000).filter(|_| rng.chance(100)).count();
        assert!((9_000..11_000).contains(&hits));
    }
}
