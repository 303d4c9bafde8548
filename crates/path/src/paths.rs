//! All paths of one peer, and which of them its data takes.
//!
//! Relay first. A straight path takes over once it is proven at data size, and gives way as soon as
//! what is sent on it goes unanswered: first everything is sent twice, then the relay has it alone.
//! **Invariants:** a working relay never gives way to an unproven path; at most
//! [`Paths::MAX_PAIRS`] addresses are known; after `handle_timeout(now)` nothing is due before `now`.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use wire::NodeId;
use wire::probe::{Candidate, FULL_PROBE, MAX_CANDIDATES, Note, Probe, ProbeAck};

use crate::link::{Link, Reach};
use crate::pair::{Pair, State};
use crate::random::Random;

mod choosing;
mod probing;

/// The largest inner packet for a relay link: a WireGuard message of 1132 bytes, which with the
/// relay's 16 fits a QUIC DATAGRAM on any path that QUIC runs on.
pub const RELAY_SIZE: usize = 1100;

/// What one peer's paths begin with.
#[derive(Clone, Debug)]
pub struct PathsConfig {
    /// The peer.
    pub peer: NodeId,
    /// Which addresses may be probed.
    pub reach: Reach,
}

/// What the tunnel is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a probe of this size, inside the session.
    Probe {
        /// On this link.
        link: Link,
        /// The probe.
        probe: Probe,
        /// The size of the inner packet.
        size: usize,
    },
    /// Send a note on the current route.
    Note(Note),
    /// Send our candidates on the current route.
    TellCandidates,
    /// The peer's data takes another link from now on.
    Changed {
        /// The link.
        link: Option<Link>,
        /// Why.
        why: &'static str,
    },
    /// The peer answered at data size from this address.
    Good(SocketAddr),
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The link.
    pub link: Link,
    /// A second link for the same ciphertext, while the first is suspect.
    pub copy: Option<Link>,
    /// The largest inner packet that both carry.
    pub size: usize,
}

/// All paths of one peer.
#[derive(Debug)]
pub struct Paths {
    config: PathsConfig,
    random: Random,
    start: Instant,
    pairs: BTreeMap<SocketAddr, Entry>,
    next_pair: u32,
    told_epoch: Option<u32>,
    /// Relays that we are connected to and the peer is said to be; its first choice first.
    relays: Vec<NodeId>,
    connected: Vec<NodeId>,
    relay_probe: Option<(u32, Instant, Link)>,
    relay_rtt: Option<Duration>,
    sequence: u32,
    primary: Option<Link>,
    primary_since: Instant,
    why: &'static str,
    last_heard: Option<(Link, Instant)>,
    unanswered: Option<Unanswered>,
    suspicion: Option<Suspicion>,
    last_app: Option<Instant>,
    heartbeat_at: Option<Instant>,
    heartbeat: Option<(u32, Instant)>,
    ladder: Option<(u32, Instant)>,
    rounds: u32,
    next_round: Option<Instant>,
    /// No beacon is connected: nobody could introduce us again, so direct paths are kept alive.
    beaconless: bool,
    tokens: Bucket,
    strangers: BTreeMap<IpAddr, Bucket>,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Entry {
    pair: Pair,
    source: Source,
}

/// How we know an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// By the peer's signed record or from before a restart.
    Known,
    /// The peer told us inside the session.
    Told,
    /// Something authentic came from there.
    Learned,
}

/// What was sent since anything was heard.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    since: Instant,
    last: Instant,
    largest: usize,
}

/// A direct primary that fell silent.
#[derive(Debug)]
struct Suspicion {
    since: Instant,
    /// An answer of this size clears it.
    size: usize,
    probes: u32,
    next: Instant,
    copies: u32,
}

/// Tokens, refilled one each `every`.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl Paths {
    /// The most addresses of one peer: those it tells, those we know, and some that it appears from.
    pub const MAX_PAIRS: usize = 64;

    /// A peer of which nothing is known but its identity.
    pub fn new(config: PathsConfig, seed: u64, now: Instant) -> Self {
        Self {
            config,
            random: Random::new(seed),
            start: now,
            pairs: BTreeMap::new(),
            next_pair: 1,
            told_epoch: None,
            relays: Vec::new(),
            connected: Vec::new(),
            relay_probe: None,
            relay_rtt: None,
            sequence: 0,
            primary: None,
            primary_since: now,
            why: "no link yet",
            last_heard: None,
            unanswered: None,
            suspicion: None,
            last_app: None,
            heartbeat_at: None,
            heartbeat: None,
            ladder: None,
            rounds: 0,
            next_round: None,
            beaconless: false,
            tokens: Bucket {
                tokens: PEER_BURST,
                refilled: now,
            },
            strangers: BTreeMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// The relays over which the peer can be reached now, best first, out of all that this node is
    /// connected to.
    pub fn set_relays(&mut self, relays: &[NodeId], connected: &[NodeId], now: Instant) {
        self.relays.clear();
        self.relays.extend(relays.iter().take(MAX_RELAYS));
        self.connected.clear();
        self.connected.extend(connected);
        let newly_alone = connected.is_empty() && !self.beaconless;
        self.beaconless = connected.is_empty();
        if newly_alone {
            self.relay_rtt = None;
            self.schedule_heartbeat(now);
        }
        self.choose("the relay changed", now);
        if newly_alone && !self.is_direct() && self.last_heard.is_some() {
            self.trigger(now);
        }
    }

    /// Addresses that we know of ourselves: from the signed record and from before a restart.
    pub fn set_known(&mut self, addresses: impl Iterator<Item = SocketAddr>, now: Instant) {
        for addr in addresses.take(MAX_KNOWN) {
            self.learn(addr, Source::Known);
        }
        let _ = now;
    }

    /// Addresses that the peer told us inside the session; replaces those of an earlier epoch.
    pub fn handle_candidates(
        &mut self,
        epoch: u32,
        candidates: impl Iterator<Item = Candidate>,
        now: Instant,
    ) {
        if self.told_epoch == Some(epoch) {
            return;
        }
        self.told_epoch = Some(epoch);
        let told: Vec<SocketAddr> = candidates
            .take(MAX_CANDIDATES)
            .map(|one| one.addr)
            .collect();
        let primary = self.primary.and_then(|link| link.remote());
        self.pairs.retain(|addr, entry| {
            entry.source != Source::Told || told.contains(addr) || Some(*addr) == primary
        });
        let mut news = false;
        for addr in told {
            news |= self.learn(addr, Source::Told);
        }
        if news && !self.is_direct() {
            self.trigger(now);
        }
    }

    /// A session stands: both sides probe at once, which is what opens their NATs to each other.
    pub fn handle_session(&mut self, now: Instant) {
        self.last_app = Some(now);
        self.choose("the session stands", now);
        if !self.is_direct() {
            self.trigger(now);
        }
    }

    /// Something authentic came by this link.
    pub fn handle_heard(&mut self, link: &Link, now: Instant) {
        self.unanswered = None;
        let known = matches!(&self.last_heard, Some((last, _)) if last == link);
        self.last_heard = Some((*link, now));
        if known && self.primary.is_some() {
            return;
        }
        match *link {
            Link::Direct { remote } => {
                if self.learn(remote, Source::Learned) && !self.is_direct() {
                    self.begin_round_of(remote, now);
                }
            }
            Link::Relay { relay, .. } => {
                // Its record may be older than its choice of beacons; but what was on the way when
                // the relay went is no news of it.
                let usable = self.connected.contains(&relay) && !self.relays.contains(&relay);
                if usable && self.relays.len() < MAX_RELAYS {
                    self.relays.push(relay);
                }
            }
        }
        if self.primary.is_none() {
            self.choose("the peer was heard", now);
        }
    }

    /// Application data of the peer came, or ours goes out: the peer is in use.
    pub fn handle_app(&mut self, now: Instant) {
        let was_active = self.is_active(now);
        self.last_app = Some(now);
        if !was_active && !self.is_direct() && self.last_heard.is_some() {
            self.trigger(now);
        }
        if self.next_round.is_none() && !self.is_direct() && self.last_heard.is_some() {
            self.next_round = Some(now + ROUNDS[0]);
        }
    }

    /// Something that the peer answers (data, a probe) of this size went out on the route.
    pub fn handle_sent(&mut self, size: usize, now: Instant) {
        let unanswered = self.unanswered.get_or_insert(Unanswered {
            since: now,
            last: now,
            largest: 0,
        });
        unanswered.largest = unanswered.largest.max(size);
        unanswered.last = now;
        if let Some(suspicion) = &mut self.suspicion {
            suspicion.copies = suspicion.copies.saturating_sub(1);
        }
    }

    /// A probe of the peer came by this link; the tunnel answers it there.
    pub fn handle_probe(&mut self, link: &Link, now: Instant) {
        let Link::Direct { remote } = *link else {
            return;
        };
        if self.is_direct() {
            return;
        }
        // A triggered check: the peer's probe opened its NAT to us at this moment.
        let proven = self
            .pairs
            .get(&remote)
            .is_some_and(|entry| entry.pair.is_fresh(now));
        if !proven {
            self.begin_round_of(remote, now);
        }
    }

    /// The peer answered a probe of ours, by this link.
    pub fn handle_ack(&mut self, link: &Link, ack: &ProbeAck, now: Instant) {
        if ack.pair == RELAY_PAIR {
            if let Some((_, at, _)) = self
                .relay_probe
                .take_if(|(sequence, _, probed)| *sequence == ack.sequence && probed == link)
            {
                let rtt = now.saturating_duration_since(at);
                self.relay_rtt = Some(self.relay_rtt.map_or(rtt, |srtt| (srtt * 7 + rtt) / 8));
            }
            return;
        }
        let Some(remote) = link.remote() else { return };
        let Some(entry) = self
            .pairs
            .get_mut(&remote)
            .filter(|entry| entry.pair.id == ack.pair)
        else {
            return;
        };
        let Some(answer) = entry
            .pair
            .handle_answer(ack.sequence, usize::from(ack.received), now)
        else {
            return;
        };
        self.strangers.remove(&remote.ip());
        if entry.pair.state == State::Alive {
            entry.pair.begin_round(now);
            entry.pair.hasten(now);
        }
        if self.primary == Some(*link) {
            if self
                .suspicion
                .as_ref()
                .is_some_and(|suspicion| answer.size >= suspicion.size)
            {
                self.suspicion = None;
                self.unanswered = None;
            }
            if self
                .heartbeat
                .is_some_and(|(sequence, _)| sequence == ack.sequence)
            {
                self.heartbeat = None;
            }
        }
        self.choose("proven at data size", now);
    }

    /// A note of the peer.
    pub fn handle_note(&mut self, note: Note, now: Instant) {
        match note {
            // What it sends straight is lost; so may be what we send.
            Note::PrimaryRelayed => self.suspect(FULL_PROBE, now),
            Note::NetChange => {
                self.suspect(FULL_PROBE, now);
                self.trigger(now);
            }
            Note::GoingIdle | Note::PleaseInit => {}
        }
    }

    /// The operating system says that this link does not work.
    pub fn handle_link_error(&mut self, link: &Link, now: Instant) {
        if self.primary == Some(*link) && link.is_direct() {
            self.demote("the system reports it unreachable", now);
        }
    }

    /// Our own addresses changed: nothing proven holds, but the session does.
    pub fn handle_net_change(&mut self, now: Instant) {
        if self.is_direct() {
            self.suspect(FULL_PROBE, now);
        }
        for entry in self.pairs.values_mut() {
            entry.pair.quarantined_until = None;
        }
        self.actions.push_back(Action::Note(Note::NetChange));
        self.trigger(now);
    }

    /// Where a packet goes now; `None` where there is no link at all.
    pub fn route(&self) -> Option<Route> {
        let link = self.primary.or(self.last_heard.map(|(link, _)| link))?;
        let copy = match &self.suspicion {
            Some(suspicion) if suspicion.copies > 0 => self.relay(),
            _ => None,
        };
        let size = match link {
            Link::Direct { remote } => {
                let proven = self.pairs.get(&remote).map_or(0, |entry| entry.pair.size);
                if copy.is_some() {
                    RELAY_SIZE
                } else {
                    proven.max(RELAY_SIZE)
                }
            }
            Link::Relay { .. } => RELAY_SIZE,
        };
        Some(Route {
            link,
            copy: copy.filter(|copy| *copy != link),
            size,
        })
    }

    /// Where a handshake goes: over every relay, and to the addresses that are known for good.
    pub fn openings(&self) -> impl Iterator<Item = Link> + '_ {
        let peer = self.config.peer;
        let relays = self
            .relays
            .iter()
            .map(move |&relay| Link::Relay { relay, peer });
        let primary = self.primary.filter(Link::is_direct);
        let known = self
            .pairs
            .values()
            .filter(|entry| entry.source != Source::Told || entry.pair.answered_at.is_some())
            .map(|entry| Link::Direct {
                remote: entry.pair.remote,
            })
            .filter(move |link| Some(*link) != primary)
            .take(MAX_OPENINGS);
        relays.chain(primary).chain(known)
    }

    /// Whether the peer was used within the last five minutes.
    pub fn is_active(&self, now: Instant) -> bool {
        self.last_app
            .is_some_and(|at| now.saturating_duration_since(at) < ACTIVE)
    }

    /// Whether a path is worth having: the peer is in use, or nobody could introduce us later.
    pub fn wants_direct(&self, now: Instant) -> bool {
        let recent = |at: Instant| now.saturating_duration_since(at) < RECENT;
        let used =
            self.last_app.is_some_and(recent) || self.last_heard.is_some_and(|(_, at)| recent(at));
        self.is_active(now) || (self.beaconless && used)
    }

    /// Since when what we send has gone unanswered; `None` once nothing was sent for a while.
    pub fn silent_since(&self, now: Instant) -> Option<Instant> {
        let lately = |sent: &Unanswered| now.saturating_duration_since(sent.last) < SENT_LATELY;
        self.unanswered
            .filter(lately)
            .map(|unanswered| unanswered.since)
    }

    /// The relays over which the peer can be reached.
    pub fn relays(&self) -> &[NodeId] {
        &self.relays
    }

    /// When the peer was last heard.
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard.map(|(_, at)| at)
    }

    /// The link that data takes.
    pub fn primary(&self) -> Option<Link> {
        self.primary
    }

    /// Why it takes that one.
    pub fn why(&self) -> &'static str {
        self.why
    }

    /// The round trip on it.
    pub fn rtt(&self) -> Option<Duration> {
        match self.primary? {
            Link::Direct { remote } => self.pairs.get(&remote)?.pair.srtt,
            Link::Relay { .. } => self.relay_rtt,
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rounds = self
            .pairs
            .values()
            .filter_map(|entry| entry.pair.round.as_ref().map(|round| round.next));
        let silence = self.silence_limit().map(|(at, _)| at);
        let suspicion = self.suspicion.as_ref().map(|suspicion| suspicion.next);
        let idle = self.idle_at();
        rounds
            .chain(silence)
            .chain(suspicion)
            .chain(idle)
            .chain(self.heartbeat_at)
            .chain(self.next_round)
            .chain(self.ladder.map(|(_, at)| at))
            .chain(self.relay_check_at())
            .min()
    }

    /// Does all that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some((_, size)) = self.silence_limit().filter(|(at, _)| *at <= now) {
            self.heartbeat = None;
            self.suspect(size, now);
        }
        self.press_suspicion(now);
        if self.relay_check_at().is_some_and(|at| at <= now) {
            self.probe_relay(now);
        }
        if self.idle_at().is_some_and(|at| at <= now) {
            self.go_idle(now);
        }
        if self.heartbeat_at.is_some_and(|at| at <= now) {
            self.beat(now);
        }
        if self.next_round.is_some_and(|at| at <= now) {
            self.next_round = None;
            if !self.is_direct() && self.wants_direct(now) {
                self.begin_rounds(now);
            }
        }
        self.probe_pairs(now);
        self.climb(now);
    }

    fn is_direct(&self) -> bool {
        self.primary.is_some_and(|link| link.is_direct())
    }

    fn relay(&self) -> Option<Link> {
        let peer = self.config.peer;
        self.relays
            .first()
            .map(|&relay| Link::Relay { relay, peer })
    }
}

/// What our probes over the relay call it.
const RELAY_PAIR: u32 = 0;

/// Relays of one peer that count: two homes, and what it is learned to use meanwhile.
const MAX_RELAYS: usize = 4;
const MAX_KNOWN: usize = 16;

/// Addresses that a handshake goes to beside the relays.
const MAX_OPENINGS: usize = 8;

/// Rounds after the first while relayed and active, then every five minutes (paths.md §1).
const ROUNDS: [Duration; 3] = [
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
];
const LAST_ROUND: Duration = Duration::from_secs(300);

/// Without a relay there is nothing to fall back on and nobody to introduce us.
const ROUND_WITHOUT_RELAY: Duration = Duration::from_secs(12);

/// In use within so long (paths.md §1, Idle).
const ACTIVE: Duration = Duration::from_secs(300);

/// While no beacon is connected, the direct paths of peers used or heard within so long are kept.
const RECENT: Duration = Duration::from_secs(24 * 3600);

/// Silence is only news while something is sent.
const SENT_LATELY: Duration = Duration::from_secs(10);

/// Probes to one peer: 50 a second (paths.md §1, Security).
const PEER_BURST: u32 = 50;
const PEER_REFILL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
