//! How much one client may send: a token bucket that goes into debt and says how long to pause,
//! so that a client over its share is slowed down, not cut off.

use std::time::{Duration, Instant};

/// Filled at a steady rate, up to its size.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    size: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(per_second: u64, size: u64, now: Instant) -> Self {
        Self {
            rate: per_second.max(1) as f64,
            size: size as f64,
            level: size as f64,
            at: now,
        }
    }

    /// Takes `amount`, and says how long to wait until the bucket is out of debt.
    pub fn take(&mut self, amount: usize, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.level = (self.level + since * self.rate).min(self.size) - amount as f64;
        match self.level < 0.0 {
            true => Duration::from_secs_f64((-self.level / self.rate).min(LONGEST)),
            false => Duration::ZERO,
        }
    }
}

/// A pause is not a sentence: whoever waits so long is out of any debt it could make in one go.
const LONGEST: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_debt_is_paid_by_waiting() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, 500, start);

        assert_eq!(bucket.take(500, start), Duration::ZERO);
        assert_eq!(bucket.take(250, start), Duration::from_millis(250));
        assert_eq!(
            bucket.take(0, start + Duration::from_millis(250)),
            Duration::ZERO
        );
        assert_eq!(
            bucket.take(500, start + Duration::from_secs(60)),
            Duration::ZERO
        );
        assert!(bucket.take(1, start + Duration::from_secs(60)) > Duration::ZERO);
    }
}
