//! How long to wait before dialling again: exponential, with full jitter, so that ten thousand
//! gateways do not come back to a restarted beacon in step.

use std::time::Duration;

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait; `random` is uniform over all of `u64`.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let ceiling = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let share = random as f64 / u64::MAX as f64;
        ceiling.mul_f64(share).max(SHORTEST)
    }

    /// Retrying soon would change nothing: waits as long as it ever does.
    pub(super) fn settle(&mut self) {
        self.failures = self.failures.max(16);
    }

    /// The link was up and useful: begin anew.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// Full jitter may draw nothing at all; a loop must not spin on that.
const SHORTEST: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::default();

        let waits: Vec<_> = (0..10).map(|_| backoff.next(u64::MAX)).collect();

        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[9], LONGEST);
        backoff.reset();
        assert_eq!(backoff.next(u64::MAX), FIRST);
        assert_eq!(backoff.next(0), SHORTEST);
        backoff.settle();
        assert_eq!(backoff.next(u64::MAX), LONGEST);
    }
}
