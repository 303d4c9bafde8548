//! Virtual time: the `now` of every call, and boringtun's own clock, which stamps handshakes.

use std::time::{Duration, Instant};

use mock_instant::MockClock;

/// Where virtual time stands.
#[derive(Clone, Copy, Debug)]
pub struct Virtual {
    start: Instant,
    /// Now.
    pub now: Instant,
}

impl Virtual {
    /// Time begins. One world at a time on each thread.
    pub fn begin() -> Self {
        MockClock::set_time(Duration::ZERO);
        let start = Instant::now();
        Self { start, now: start }
    }

    /// Time moves on to this instant.
    pub fn advance_to(&mut self, now: Instant) {
        self.now = self.now.max(now);
        MockClock::set_time(self.since_start());
    }

    /// How long the world has existed.
    pub fn since_start(&self) -> Duration {
        self.now - self.start
    }

    /// That long after the beginning.
    pub fn at(&self, offset: Duration) -> Instant {
        self.start + offset
    }
}
