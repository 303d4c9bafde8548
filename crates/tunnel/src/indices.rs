//! Session indices: 24 bits that do not repeat and do not tell how many came before.

use std::hash::Hasher;

/// Walks all 2²⁴ values in an order that the seed decides.
#[derive(Debug)]
pub(crate) struct Indices {
    seed: [u8; 32],
    counter: u32,
}

impl Indices {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// The next index: the counter through a four-round Feistel network of two 12-bit halves, which
    /// is a permutation whatever the round function is.
    pub(crate) fn next(&mut self) -> u32 {
        self.counter = (self.counter + 1) & 0xff_ffff;
        let (mut left, mut right) = (self.counter >> 12, self.counter & 0xfff);
        for round in 0..4 {
            (left, right) = (right, left ^ self.mix(round, right));
        }
        left << 12 | right
    }

    fn mix(&self, round: u8, half: u32) -> u32 {
        // SipHash with the secret as prefix; nothing is authenticated by it.
        #[allow(deprecated)]
        let mut hasher = std::hash::SipHasher::new();
        hasher.write(&self.seed);
        hasher.write_u8(round);
        hasher.write_u32(half);
        u32::try_from(hasher.finish() & 0xfff).expect("twelve bits")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn indices_do_not_repeat_and_stay_within_24_bits() {
        let mut indices = Indices::new([7; 32]);

        let seen: BTreeSet<u32> = (0..20_000).map(|_| indices.next()).collect();

        assert_eq!(seen.len(), 20_000);
        assert!(seen.iter().all(|index| *index < 1 << 24));
    }
}
