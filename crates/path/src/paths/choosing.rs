//! Which link the data takes: what is proven, what falls silent, and when to climb back.

use std::time::{Duration, Instant};

use wire::probe::{FULL_PROBE, Note, SMALL_PROBE};

use super::{ACTIVE, Action, Paths, ROUND_WITHOUT_RELAY, ROUNDS, Suspicion};
use crate::link::Link;
use crate::pair::Pair;

impl Paths {
    /// Picks the link for data from what is proven.
    pub(super) fn choose(&mut self, why: &'static str, now: Instant) {
        let best = self
            .pairs
            .values()
            .filter(|entry| entry.pair.is_fresh(now))
            .min_by_key(|entry| entry.pair.score())
            .map(|entry| &entry.pair);
        match self.primary {
            Some(current @ Link::Direct { remote }) => {
                let Some(best) = best.filter(|best| best.remote != remote) else {
                    return;
                };
                let best_link = Link::Direct {
                    remote: best.remote,
                };
                let better = self
                    .pairs
                    .get(&remote)
                    .is_none_or(|entry| best.beats(&entry.pair));
                if better && current != best_link {
                    self.adopt(Some(best_link), "a better direct path", now);
                }
            }
            Some(Link::Relay { relay, .. }) if self.relays.contains(&relay) => {
                let worth = |pair: &&Pair| match (pair.srtt, self.relay_rtt) {
                    // A detour that is direct by name only: a VPN inside a VPN (paths.md §1).
                    (Some(direct), Some(relay)) => direct <= relay * 2 + Duration::from_millis(50),
                    _ => true,
                };
                if let Some(best) = best.filter(worth) {
                    self.adopt(
                        Some(Link::Direct {
                            remote: best.remote,
                        }),
                        why,
                        now,
                    );
                }
            }
            _ => {
                let direct = best.map(|best| Link::Direct {
                    remote: best.remote,
                });
                let next = direct.or(self.relay());
                if next != self.primary {
                    let why = if next.is_some() { why } else { "no link left" };
                    self.adopt(next, why, now);
                }
            }
        }
    }

    pub(super) fn adopt(&mut self, link: Option<Link>, why: &'static str, now: Instant) {
        self.primary = link;
        self.primary_since = now;
        self.why = why;
        self.suspicion = None;
        self.unanswered = None;
        self.heartbeat = None;
        self.heartbeat_at = None;
        self.ladder = None;
        self.actions.push_back(Action::Changed { link, why });
        match link {
            Some(Link::Direct { remote }) => {
                self.next_round = None;
                self.ladder = Some((0, now));
                self.schedule_heartbeat(now);
                self.actions.push_back(Action::Good(remote));
            }
            _ if self.wants_direct(now) => {
                let pause = if self.relays.is_empty() {
                    ROUND_WITHOUT_RELAY
                } else {
                    ROUNDS[0]
                };
                self.next_round = Some(
                    self.next_round
                        .map_or(now + pause, |at| at.min(now + pause)),
                );
            }
            _ => {}
        }
    }

    /// When the primary has been silent for too long, and at what size it must then prove itself.
    pub(super) fn silence_limit(&self) -> Option<(Instant, usize)> {
        let Some(Link::Direct { remote }) = self.primary else {
            return None;
        };
        if self.suspicion.is_some() {
            return None;
        }
        let pair = &self.pairs.get(&remote)?.pair;
        let srtt = pair.srtt.unwrap_or(MAX_SILENCE);
        let limit = (srtt * 4).clamp(MIN_SILENCE, MAX_SILENCE);
        let sent = self.unanswered.map(|unanswered| {
            (
                unanswered.since + limit,
                unanswered.largest.clamp(SMALL_PROBE, FULL_PROBE),
            )
        });
        let beat = self
            .heartbeat
            .filter(|(sequence, _)| pair.awaits(*sequence))
            .map(|(_, at)| (at + limit, FULL_PROBE));
        sent.into_iter().chain(beat).min()
    }

    /// What goes over a relay unanswered is asked after, once: the last packet of a conversation
    /// needs no answer, and silence alone must not cost a handshake.
    pub(super) fn relay_check_at(&self) -> Option<Instant> {
        let unanswered = self
            .unanswered
            .filter(|_| matches!(self.primary, Some(Link::Relay { .. })))?;
        let asked = self
            .relay_probe
            .is_some_and(|(_, at, _)| at > unanswered.since);
        (!asked && !self.relays.is_empty()).then_some(unanswered.since + MAX_SILENCE)
    }

    pub(super) fn suspect(&mut self, size: usize, now: Instant) {
        if self.is_direct() && self.suspicion.is_none() {
            self.suspicion = Some(Suspicion {
                since: now,
                size,
                probes: 0,
                next: now,
                copies: MAX_COPIES,
            });
            self.press_suspicion(now);
        }
    }

    /// Probes a suspect primary at 0, 150 and 300 ms; gives it up when nothing came by 450 ms.
    pub(super) fn press_suspicion(&mut self, now: Instant) {
        let Some(Link::Direct { remote }) = self.primary else {
            self.suspicion = None;
            return;
        };
        let Some(suspicion) = self
            .suspicion
            .as_mut()
            .filter(|suspicion| suspicion.next <= now)
        else {
            return;
        };
        if suspicion.probes < SUSPECT_PROBES {
            suspicion.probes += 1;
            let last = suspicion.probes == SUSPECT_PROBES;
            // On a long way round the answer needs its time; the copies bridge it.
            let srtt = self
                .pairs
                .get(&remote)
                .and_then(|entry| entry.pair.srtt)
                .unwrap_or_default();
            let patience = (srtt * 2).clamp(SUSPECT_LIMIT, MAX_PATIENCE);
            suspicion.next = if last {
                (suspicion.since + patience).max(now + SUSPECT_PAUSE)
            } else {
                now + SUSPECT_PAUSE
            };
            let size = suspicion.size;
            self.probe(remote, size, now);
        } else {
            self.demote("the direct path fell silent", now);
        }
    }

    /// The direct primary is dead: the relay has the data, the path rests, the others are looked at.
    pub(super) fn demote(&mut self, why: &'static str, now: Instant) {
        let Some(Link::Direct { remote }) = self.primary else {
            return;
        };
        let lived = now.saturating_duration_since(self.primary_since);
        let alone = self.relays.is_empty();
        if let Some(entry) = self.pairs.get_mut(&remote) {
            entry.pair.kill(lived, now);
            if alone {
                // Nothing else is left to rest on.
                entry.pair.quarantined_until = None;
            }
        }
        let rest = self
            .pairs
            .get(&remote)
            .and_then(|entry| entry.pair.quarantined_until);
        self.primary = None;
        let other = self.relay();
        self.adopt(other, why, now);
        if other.is_some() {
            self.actions.push_back(Action::Note(Note::PrimaryRelayed));
        } else {
            self.choose(why, now);
        }
        self.trigger(now);
        if let (Some(rest), Some(next)) = (rest, self.next_round) {
            self.next_round = Some(next.min(rest));
        }
    }

    pub(super) fn idle_at(&self) -> Option<Instant> {
        let kept = self.beaconless || self.relays.is_empty();
        match self.is_direct() && !kept {
            true => Some(self.last_app.unwrap_or(self.primary_since) + ACTIVE),
            false => None,
        }
    }

    pub(super) fn go_idle(&mut self, now: Instant) {
        for entry in self.pairs.values_mut() {
            entry.pair.forget();
        }
        let relay = self.relay();
        self.adopt(relay, "idle", now);
        self.next_round = None;
    }

    pub(super) fn schedule_heartbeat(&mut self, now: Instant) {
        if self.is_direct() {
            let pause = match self.beaconless {
                true => KEEPALIVE_WITHOUT_BEACON,
                false => self.random.around(HEARTBEAT, 10),
            };
            self.heartbeat_at = Some(now + pause);
        }
    }

    /// A full-size probe: keeps the NAT open, and finds a path that no longer carries data.
    pub(super) fn beat(&mut self, now: Instant) {
        self.heartbeat_at = None;
        if let Some(Link::Direct { remote }) = self.primary {
            let sequence = self.probe(remote, FULL_PROBE, now);
            self.heartbeat = sequence.map(|sequence| (sequence, now));
            self.schedule_heartbeat(now);
        }
    }

    /// Asks the new primary for larger packets, each size at most three times.
    pub(super) fn climb(&mut self, now: Instant) {
        let Some((tries, _)) = self.ladder.filter(|(_, at)| *at <= now) else {
            return;
        };
        let Some(Link::Direct { remote }) = self.primary else {
            self.ladder = None;
            return;
        };
        let proven = self.pairs.get(&remote).map_or(0, |entry| entry.pair.size);
        let top = if remote.is_ipv4() {
            LADDER.len()
        } else {
            LADDER.len() - 1
        };
        for &size in LADDER[..top].iter().filter(|&&size| size > proven) {
            self.probe(remote, size, now);
        }
        let done = tries + 1 >= LADDER_TRIES || proven >= LADDER[top - 1];
        self.ladder = (!done).then_some((tries + 1, now + LADDER_PAUSE));
    }
}

impl Pair {
    /// Whether data should move here from a path that works: a better tier at once, else only a
    /// clear difference over several samples, or the two would take turns.
    fn beats(&self, current: &Self) -> bool {
        let ((tier, mine), (current_tier, theirs)) = (self.score(), current.score());
        if tier != current_tier {
            return tier < current_tier;
        }
        let margin = (theirs / 100 * 15).max(5_000);
        self.samples >= 3 && current.samples >= 3 && mine.saturating_add(margin) < theirs
    }
}

/// On a path in use, so that its NAT mapping stays and its silence is heard (paths.md §1).
const HEARTBEAT: Duration = Duration::from_secs(20);
/// The same while no beacon is connected: nobody could introduce us again.
const KEEPALIVE_WITHOUT_BEACON: Duration = Duration::from_secs(12);

/// Silence after data before a direct path is suspect: 4 × srtt within these (paths.md §1).
const MIN_SILENCE: Duration = Duration::from_millis(250);
const MAX_SILENCE: Duration = Duration::from_secs(1);

/// What a suspect path is asked, and when it is given up (paths.md §1).
const SUSPECT_PROBES: u32 = 3;
const SUSPECT_PAUSE: Duration = Duration::from_millis(150);
const SUSPECT_LIMIT: Duration = Duration::from_millis(450);
const MAX_PATIENCE: Duration = Duration::from_secs(2);

/// Packets sent twice while a path is suspect.
const MAX_COPIES: u32 = 64;

/// Inner sizes tried on a new primary: UDP payload less WireGuard's 32 for paths of 1392, 1420,
/// 1452, 1480 and 1500 bytes; the last on IPv4 alone, whose header is 20 bytes shorter.
const LADDER: [usize; 5] = [1312, 1340, 1372, 1420, 1440];
const LADDER_TRIES: u32 = 3;
const LADDER_PAUSE: Duration = Duration::from_millis(500);
