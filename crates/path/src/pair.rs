//! One address of a peer: the probes under way to it, and what their answers proved.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wire::probe::{FULL_PROBE, SMALL_PROBE};

use crate::link::Reach;

/// One address of a peer.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) remote: SocketAddr,
    /// What our probes call it.
    pub(crate) id: u32,
    pub(crate) state: State,
    /// The round of probes under way.
    pub(crate) round: Option<Round>,
    /// The largest inner packet that was answered since the path was last lost.
    pub(crate) size: usize,
    pub(crate) srtt: Option<Duration>,
    /// Answers since the path was last lost.
    pub(crate) samples: u32,
    pub(crate) answered_at: Option<Instant>,
    /// A dead path is left alone until then.
    pub(crate) quarantined_until: Option<Instant>,
    /// How long it rested after its last death.
    quarantine: Option<Duration>,
    /// Sequence of the last answered probe, and how many before it were answered without a gap.
    last_answered: u32,
    run: u32,
    sequence: u32,
    sent: [Option<Sent>; SENT],
}

/// How far a path is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Died, and rests.
    Dead,
    /// Nothing known.
    New,
    /// A small probe was answered.
    Alive,
    /// Two probes in a row, one of them at data size.
    Eligible,
}

/// A round of at most [`Round::BUDGET`] probes.
#[derive(Debug)]
pub(crate) struct Round {
    sent: u32,
    pub(crate) next: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    at: Instant,
    size: usize,
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// There and back.
    pub(crate) rtt: Duration,
    /// The size that the probe had when it arrived.
    pub(crate) size: usize,
}

impl Pair {
    pub(crate) fn new(remote: SocketAddr, id: u32) -> Self {
        Self {
            remote,
            id,
            state: State::New,
            round: None,
            size: 0,
            srtt: None,
            samples: 0,
            answered_at: None,
            quarantined_until: None,
            quarantine: None,
            last_answered: 0,
            run: 0,
            sequence: 0,
            sent: [None; SENT],
        }
    }

    /// Begins a round unless one is under way or the path rests.
    pub(crate) fn begin_round(&mut self, now: Instant) {
        let rests = self.quarantined_until.is_some_and(|until| now < until);
        if !rests && self.round.is_none() {
            self.state = self.state.max(State::New);
            self.quarantined_until = None;
            self.round = Some(Round { sent: 0, next: now });
        }
    }

    /// The size of the next probe of the round, once it is due. `full_allowed` bounds how many
    /// paths are probed at data size at once.
    pub(crate) fn next_probe(&mut self, full_allowed: bool, now: Instant) -> Option<usize> {
        let round = self.round.as_mut().filter(|round| round.next <= now)?;
        if round.sent >= Round::BUDGET {
            self.round = None;
            return None;
        }
        round.next = now + Round::pause(round.sent);
        round.sent += 1;
        let full = self.state >= State::Alive && full_allowed;
        Some(if full { FULL_PROBE } else { SMALL_PROBE })
    }

    /// Brings the next probe of the round forward: an answer came.
    pub(crate) fn hasten(&mut self, now: Instant) {
        if let Some(round) = &mut self.round {
            round.next = now;
        }
    }

    /// Notes that a probe goes out now, and numbers it.
    pub(crate) fn record_sent(&mut self, size: usize, now: Instant) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let slot = self.sequence as usize % SENT;
        self.sent[slot] = Some(Sent {
            sequence: self.sequence,
            at: now,
            size,
        });
        self.sequence
    }

    /// Takes the answer to a probe of ours; `None` for one that we did not send or knew already.
    pub(crate) fn handle_answer(
        &mut self,
        sequence: u32,
        received: usize,
        now: Instant,
    ) -> Option<Answer> {
        let slot = sequence as usize % SENT;
        let sent = self.sent[slot].filter(|sent| sent.sequence == sequence)?;
        self.sent[slot] = None;
        let rtt = now.saturating_duration_since(sent.at);
        self.srtt = Some(self.srtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8));
        self.samples = self.samples.saturating_add(1);
        self.answered_at = Some(now);
        let follows = sequence == self.last_answered.wrapping_add(1);
        self.run = if follows {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last_answered = sequence;
        // What arrived counts: a path that truncates proves only what it delivered.
        let size = sent.size.min(received);
        self.size = self.size.max(size);
        self.state =
            match self.size >= FULL_PROBE && (self.run >= 2 || self.state == State::Eligible) {
                true => State::Eligible,
                false => self.state.max(State::Alive),
            };
        if self.state == State::Eligible {
            self.round = None;
        }
        Some(Answer { rtt, size })
    }

    /// Whether a probe of this size and time is still unanswered.
    pub(crate) fn awaits(&self, sequence: u32) -> bool {
        let slot = sequence as usize % SENT;
        self.sent[slot].is_some_and(|sent| sent.sequence == sequence)
    }

    /// Whether the path stands by: proven, and lately.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let lately = |at: Instant| now.saturating_duration_since(at) <= STANDBY;
        self.state == State::Eligible && self.answered_at.is_some_and(lately)
    }

    /// The path died: it rests, each time longer if it dies soon after it was proven.
    pub(crate) fn kill(&mut self, lived: Duration, now: Instant) {
        let rest = match self.quarantine.filter(|_| lived < SHORT_LIFE) {
            Some(last) => (last * 2).min(MAX_QUARANTINE),
            None => FIRST_QUARANTINE,
        };
        self.quarantine = Some(rest);
        self.quarantined_until = Some(now + rest);
        self.state = State::Dead;
        self.forget();
    }

    /// Nothing that was proven holds any longer (the network changed, or nobody looked for long).
    pub(crate) fn forget(&mut self) {
        self.state = self.state.min(State::New);
        self.round = None;
        self.size = 0;
        self.samples = 0;
        self.run = 0;
        self.sent = [None; SENT];
    }

    /// Lower is better: the tier, then microseconds with a small favour for IPv6.
    pub(crate) fn score(&self) -> (u8, u64) {
        let tier = u8::from(!Reach::is_near(self.remote.ip()));
        let rtt = self.srtt.map_or(u64::MAX, |rtt| {
            u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)
        });
        let favour = if self.remote.is_ipv6() { 3000 } else { 0 };
        (tier, rtt.saturating_sub(favour))
    }
}

impl Round {
    /// At most 12 unanswered probes per candidate and round (paths.md §1).
    const BUDGET: u32 = 12;

    /// 0, 100, 200, 400, 800 ms, then each second: the pause after probe number `sent`.
    fn pause(sent: u32) -> Duration {
        Duration::from_millis(match sent {
            0 | 1 => 100,
            2 => 200,
            3 => 400,
            _ => 1000,
        })
    }

    /// Whether this is the first probe of the round.
    pub(crate) fn is_fresh(&self) -> bool {
        self.sent == 0
    }
}

/// Probes whose answer would still count: a round, the size ladder and a suspicion together.
const SENT: usize = 32;

/// A proven path that is not in use is trusted for so long.
const STANDBY: Duration = Duration::from_secs(10);

/// How long a dead path rests, doubled each time it dies young (paths.md §1: 5 s × 2 ≤ 5 min).
const FIRST_QUARANTINE: Duration = Duration::from_secs(5);
const MAX_QUARANTINE: Duration = Duration::from_secs(300);
const SHORT_LIFE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        Pair::new("192.0.2.1:1".parse().expect("an address"), 1)
    }

    #[test]
    fn a_round_sends_twelve_probes_in_about_nine_seconds() {
        let start = Instant::now();
        let mut pair = pair();
        pair.begin_round(start);

        let mut sent = Vec::new();
        for tick in 0..2000 {
            let now = start + Duration::from_millis(tick * 10);
            if let Some(size) = pair.next_probe(true, now) {
                assert_eq!(
                    size, SMALL_PROBE,
                    "nothing large goes to an address that never answered"
                );
                sent.push(tick * 10);
            }
        }

        assert_eq!(sent[..6], [0, 100, 200, 400, 800, 1800]);
        assert_eq!(sent.len(), 12);
        assert!(pair.round.is_none());
    }

    #[test]
    fn two_answers_in_a_row_with_one_at_data_size_make_a_path_eligible() {
        let start = Instant::now();
        let mut pair = pair();
        pair.begin_round(start);

        let small = pair.record_sent(SMALL_PROBE, start);
        pair.handle_answer(small, SMALL_PROBE, start + Duration::from_millis(10))
            .expect("ours");
        assert_eq!(pair.state, State::Alive);
        assert!(
            pair.handle_answer(small, SMALL_PROBE, start).is_none(),
            "an answer counts once"
        );
        let full = pair.record_sent(FULL_PROBE, start);
        pair.handle_answer(full, FULL_PROBE, start + Duration::from_millis(20))
            .expect("ours");

        assert_eq!(pair.state, State::Eligible);
        assert_eq!(pair.size, FULL_PROBE);
    }

    #[test]
    fn a_path_that_cuts_large_packets_never_becomes_eligible() {
        let start = Instant::now();
        let mut pair = pair();

        for _ in 0..6 {
            let sequence = pair.record_sent(SMALL_PROBE, start);
            pair.handle_answer(sequence, SMALL_PROBE, start)
                .expect("ours");
        }

        assert_eq!(pair.state, State::Alive);
    }

    #[test]
    fn a_path_that_dies_young_rests_longer_each_time() {
        let start = Instant::now();
        let mut pair = pair();

        pair.kill(Duration::from_secs(1000), start);
        assert_eq!(pair.quarantined_until, Some(start + Duration::from_secs(5)));
        pair.begin_round(start + Duration::from_secs(4));
        assert!(pair.round.is_none());
        pair.kill(Duration::from_secs(1), start);
        assert_eq!(
            pair.quarantined_until,
            Some(start + Duration::from_secs(10))
        );
    }
}
