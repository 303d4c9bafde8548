//! Two clocks and the dice, all given from outside.

use std::time::{Duration, Instant};

/// Where the wall clock stood at one instant. Timers run on instants alone, so a jump of the wall
/// clock never expires what waits; the wall clock judges what arrives.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    unix_ms: u64,
}

/// Small, seeded, not for secrets: jitter, and the ids of failure notices.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Clock {
    /// The wall clock reads `unix_ms` at `now`.
    pub fn new(unix_ms: u64, now: Instant) -> Self {
        Self {
            instant: now,
            unix_ms,
        }
    }

    /// Milliseconds since 1970 at `now`.
    pub fn unix_ms(&self, now: Instant) -> u64 {
        let later = now.saturating_duration_since(self.instant).as_millis();
        self.unix_ms
            .saturating_add(u64::try_from(later).unwrap_or(u64::MAX))
    }

    /// The instant at which a time to live ends: never later than a whole `ttl_ms` from now, so a
    /// clock that was set back keeps nothing for longer than its sender wanted.
    pub(crate) fn instant_of(&self, expires_at_ms: u64, ttl_ms: u64, now: Instant) -> Instant {
        let left = expires_at_ms.saturating_sub(self.unix_ms(now)).min(ttl_ms);
        now + Duration::from_millis(left)
    }
}

impl Dice {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        let mut state = 0;
        for chunk in seed.chunks_exact(8) {
            state = Self(state ^ u64::from_le_bytes(chunk.try_into().expect("eight"))).next();
        }
        Self(state)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Full jitter between `first` and what doubling it `attempts` times gives, at most `most`.
    pub(crate) fn backoff(&mut self, attempts: u32, first: Duration, most: Duration) -> Duration {
        let ceiling = first.saturating_mul(1 << attempts.min(16)).min(most);
        let span = u64::try_from((ceiling - first).as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        first + Duration::from_micros(self.next() % span)
    }

    pub(crate) fn ten_bytes(&mut self) -> [u8; 10] {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes()[..2]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_waits_between_a_fifth_of_a_second_and_a_minute() {
        let mut dice = Dice::new([7; 32]);
        let (first, most) = (Duration::from_millis(200), Duration::from_secs(60));

        for attempts in 0..40 {
            let wait = dice.backoff(attempts, first, most);
            assert!((first..=most).contains(&wait), "{attempts}: {wait:?}");
        }
    }

    #[test]
    fn a_clock_set_back_keeps_nothing_longer_than_its_time_to_live() {
        let now = Instant::now();
        let clock = Clock::new(1_000, now);

        assert_eq!(
            clock.instant_of(900_000, 500, now),
            now + Duration::from_millis(500)
        );
        assert_eq!(clock.instant_of(900, 500, now), now);
    }
}
