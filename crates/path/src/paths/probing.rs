//! Which addresses are known and probed, and how often.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use wire::probe::{Probe, SMALL_PROBE};

use super::{
    Action, Bucket, Entry, LAST_ROUND, PEER_BURST, PEER_REFILL, Paths, RELAY_PAIR,
    ROUND_WITHOUT_RELAY, ROUNDS, Source,
};
use crate::link::Link;
use crate::pair::{Pair, Round, State};

impl Paths {
    /// Takes an address into account; says whether it was new.
    pub(super) fn learn(&mut self, addr: SocketAddr, source: Source) -> bool {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        if !self.config.reach.admits(addr) {
            return false;
        }
        if let Some(entry) = self.pairs.get_mut(&addr) {
            if source == Source::Known {
                entry.source = source;
            }
            return false;
        }
        if self.pairs.len() >= Self::MAX_PAIRS && !self.evict() {
            return false;
        }
        let id = self.next_pair;
        self.next_pair = self.next_pair.wrapping_add(1).max(1);
        self.pairs.insert(
            addr,
            Entry {
                pair: Pair::new(addr, id),
                source,
            },
        );
        true
    }

    /// Makes room: the worst of those that never answered goes.
    pub(super) fn evict(&mut self) -> bool {
        let primary = self.primary.and_then(|link| link.remote());
        let worst = self
            .pairs
            .iter()
            .filter(|(addr, entry)| Some(**addr) != primary && entry.pair.round.is_none())
            .min_by_key(|(_, entry)| (entry.pair.answered_at, entry.pair.id))
            .map(|(addr, _)| *addr);
        worst.is_some_and(|addr| self.pairs.remove(&addr).is_some())
    }

    /// Looks for a direct path at once, whatever the schedule says.
    pub(super) fn trigger(&mut self, now: Instant) {
        self.rounds = 0;
        self.begin_rounds(now);
    }

    pub(super) fn begin_rounds(&mut self, now: Instant) {
        for entry in self.pairs.values_mut() {
            entry.pair.begin_round(now);
        }
        self.actions.push_back(Action::TellCandidates);
        self.probe_relay(now);
        let pause = match (self.relays.is_empty(), ROUNDS.get(self.rounds as usize)) {
            (true, _) => ROUND_WITHOUT_RELAY,
            (false, Some(&pause)) => pause,
            (false, None) => self.random.around(LAST_ROUND, 20),
        };
        self.rounds = self.rounds.saturating_add(1);
        self.next_round = Some(now + pause);
        self.probe_pairs(now);
    }

    pub(super) fn begin_round_of(&mut self, remote: SocketAddr, now: Instant) {
        if let Some(entry) = self.pairs.get_mut(&remote) {
            entry.pair.begin_round(now);
        }
        self.probe_pairs(now);
    }

    /// One small probe over the relay, to know what a direct path has to beat.
    pub(super) fn probe_relay(&mut self, now: Instant) {
        if let Some(link) = self.relay() {
            self.sequence = self.sequence.wrapping_add(1);
            self.relay_probe = Some((self.sequence, now, link));
            let probe = self.make_probe(RELAY_PAIR, self.sequence, link, now);
            self.actions.push_back(Action::Probe {
                link,
                probe,
                size: SMALL_PROBE,
            });
        }
    }

    pub(super) fn make_probe(&self, pair: u32, sequence: u32, link: Link, now: Instant) -> Probe {
        let sent_us = now.saturating_duration_since(self.start).as_micros();
        Probe {
            pair,
            sequence,
            sent_us: u64::try_from(sent_us).unwrap_or(u64::MAX),
            primary: self.primary == Some(link),
        }
    }

    /// Sends a probe of this size to this address, now.
    pub(super) fn probe(&mut self, remote: SocketAddr, size: usize, now: Instant) -> Option<u32> {
        let entry = self.pairs.get_mut(&remote)?;
        let (pair, sequence) = (entry.pair.id, entry.pair.record_sent(size, now));
        let link = Link::Direct { remote };
        let probe = self.make_probe(pair, sequence, link, now);
        self.actions.push_back(Action::Probe { link, probe, size });
        Some(sequence)
    }

    pub(super) fn probe_pairs(&mut self, now: Instant) {
        let in_full_stage =
            |entry: &&Entry| entry.pair.state == State::Alive && entry.pair.round.is_some();
        let mut full = self.pairs.values().filter(in_full_stage).count();
        let due: Vec<SocketAddr> = self
            .pairs
            .iter()
            .filter(|(_, entry)| {
                entry
                    .pair
                    .round
                    .as_ref()
                    .is_some_and(|round| round.next <= now)
            })
            .map(|(addr, _)| *addr)
            .collect();
        for remote in due {
            if !self.tokens.take(PEER_BURST, PEER_REFILL, now) {
                self.defer(remote, now);
                continue;
            }
            let Some(entry) = self.pairs.get_mut(&remote) else {
                continue;
            };
            let Some(size) = entry.pair.next_probe(full <= MAX_FULL_STAGE, now) else {
                continue;
            };
            full += usize::from(entry.pair.round.as_ref().is_some_and(Round::is_fresh));
            let silent = entry.pair.answered_at.is_none();
            if silent && !self.may_bother(remote.ip(), now) {
                continue;
            }
            self.probe(remote, size, now);
        }
    }

    /// The budget of this peer is used up; a little later then.
    pub(super) fn defer(&mut self, remote: SocketAddr, now: Instant) {
        if let Some(round) = self
            .pairs
            .get_mut(&remote)
            .and_then(|entry| entry.pair.round.as_mut())
        {
            round.next = now + Duration::from_millis(100);
        }
    }

    /// A host that never answered gets few probes in all, however many ports of it a peer names.
    pub(super) fn may_bother(&mut self, ip: IpAddr, now: Instant) -> bool {
        if self.strangers.len() >= Self::MAX_PAIRS && !self.strangers.contains_key(&ip) {
            self.strangers.pop_first();
        }
        let bucket = self.strangers.entry(ip).or_insert(Bucket {
            tokens: STRANGER_BURST,
            refilled: now,
        });
        bucket.take(STRANGER_BURST, STRANGER_REFILL, now)
    }
}

impl Bucket {
    fn take(&mut self, burst: u32, every: Duration, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_micros() / every.as_micros();
        if passed > 0 {
            let refill = u32::try_from(passed).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(refill).min(burst);
            self.refilled = now;
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }
}

/// Full-size probing of at most so many addresses at once (paths.md §1).
const MAX_FULL_STAGE: usize = 3;

/// Probes to one host that never answered: eight candidates' rounds, then one each three seconds.
const STRANGER_BURST: u32 = 96;
const STRANGER_REFILL: Duration = Duration::from_secs(3);
