//! Keeps a TLS link warm, and says when it is dead. On QUIC the transport does both.

use std::time::{Duration, Instant};

/// Counts the heartbeats that nothing answered.
#[derive(Debug)]
pub(super) struct Heartbeat {
    silent: u32,
    sent: Option<(u64, Instant)>,
    next: u64,
}

/// What a beat asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Send this ping.
    Ping(u64),
    /// Nobody is there any more.
    Dead,
}

impl Heartbeat {
    pub(super) fn new() -> Self {
        Self {
            silent: 0,
            sent: None,
            next: 0,
        }
    }

    /// The beacon was heard, whatever it said.
    pub(super) fn handle_heard(&mut self) {
        self.silent = 0;
    }

    /// The round trip, where this answers the last ping.
    pub(super) fn handle_pong(&mut self, token: u64, now: Instant) -> Option<Duration> {
        let (_, sent) = self.sent.take_if(|(expected, _)| *expected == token)?;
        Some(now.saturating_duration_since(sent))
    }

    /// To be called every [`Heartbeat::EVERY`].
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        if self.silent == Self::MAX_SILENT {
            return Beat::Dead;
        }
        self.silent += 1;
        let token = self.next;
        self.next += 1;
        self.sent = Some((token, now));
        Beat::Ping(token)
    }

    /// Inside the 20 s after which a home relay's TLS link is pinged (paths.md §1).
    pub(super) const EVERY: Duration = Duration::from_secs(15);

    /// At 1 % loss, three in a row are one in a million.
    const MAX_SILENT: u32 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_silent_beats_end_the_link_and_any_word_saves_it() {
        let now = Instant::now();
        let mut heartbeat = Heartbeat::new();

        assert_eq!(heartbeat.beat(now), Beat::Ping(0));
        assert_eq!(heartbeat.beat(now), Beat::Ping(1));
        heartbeat.handle_heard();
        let beats: Vec<_> = (0..4).map(|_| heartbeat.beat(now)).collect();

        assert_eq!(
            beats,
            [Beat::Ping(2), Beat::Ping(3), Beat::Ping(4), Beat::Dead]
        );
    }

    #[test]
    fn only_the_answer_to_the_last_ping_measures_the_way() {
        let now = Instant::now();
        let mut heartbeat = Heartbeat::new();
        heartbeat.beat(now);
        heartbeat.beat(now + Duration::from_secs(15));

        assert_eq!(heartbeat.handle_pong(0, now), None);
        let rtt = heartbeat.handle_pong(1, now + Duration::from_millis(15_040));
        assert_eq!(rtt, Some(Duration::from_millis(40)));
    }
}
