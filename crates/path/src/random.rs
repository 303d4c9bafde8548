//! Jitter and identifiers from a seed, the same on every run: SplitMix64. Not for secrets.

/// A stream of numbers from a seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 where that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64().checked_rem(bound).unwrap_or(0)
    }

    /// `duration` moved by up to this many percent either way.
    pub fn around(&mut self, duration: std::time::Duration, percent: u32) -> std::time::Duration {
        let span =
            u64::try_from(duration.as_micros()).unwrap_or(u64::MAX) / 100 * u64::from(percent);
        let offset = self.below(2 * span + 1);
        duration.saturating_sub(std::time::Duration::from_micros(span))
            + std::time::Duration::from_micros(offset)
    }
}
