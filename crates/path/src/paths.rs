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
use wire::probe::{Candidate, FULL_PROBE, MAX_CANDIDATES, Note, Probe, ProbeAck, SMALL_PROBE};

use crate::link::{Link, Reach};
use crate::pair::{Pair, Round, State};
use crate::random::Random;

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

    /// Takes an address into account; says whether it was new.
    fn learn(&mut self, addr: SocketAddr, source: Source) -> bool {
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
    fn evict(&mut self) -> bool {
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
    fn trigger(&mut self, now: Instant) {
        self.rounds = 0;
        self.begin_rounds(now);
    }

    fn begin_rounds(&mut self, now: Instant) {
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

    fn begin_round_of(&mut self, remote: SocketAddr, now: Instant) {
        if let Some(entry) = self.pairs.get_mut(&remote) {
            entry.pair.begin_round(now);
        }
        self.probe_pairs(now);
    }

    /// One small probe over the relay, to know what a direct path has to beat.
    fn probe_relay(&mut self, now: Instant) {
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

    fn make_probe(&self, pair: u32, sequence: u32, link: Link, now: Instant) -> Probe {
        let sent_us = now.saturating_duration_since(self.start).as_micros();
        Probe {
            pair,
            sequence,
            sent_us: u64::try_from(sent_us).unwrap_or(u64::MAX),
            primary: self.primary == Some(link),
        }
    }

    /// Sends a probe of this size to this address, now.
    fn probe(&mut self, remote: SocketAddr, size: usize, now: Instant) -> Option<u32> {
        let entry = self.pairs.get_mut(&remote)?;
        let (pair, sequence) = (entry.pair.id, entry.pair.record_sent(size, now));
        let link = Link::Direct { remote };
        let probe = self.make_probe(pair, sequence, link, now);
        self.actions.push_back(Action::Probe { link, probe, size });
        Some(sequence)
    }

    fn probe_pairs(&mut self, now: Instant) {
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
    fn defer(&mut self, remote: SocketAddr, now: Instant) {
        if let Some(round) = self
            .pairs
            .get_mut(&remote)
            .and_then(|entry| entry.pair.round.as_mut())
        {
            round.next = now + Duration::from_millis(100);
        }
    }

    /// A host that never answered gets few probes in all, however many ports of it a peer names.
    fn may_bother(&mut self, ip: IpAddr, now: Instant) -> bool {
        if self.strangers.len() >= Self::MAX_PAIRS && !self.strangers.contains_key(&ip) {
            self.strangers.pop_first();
        }
        let bucket = self.strangers.entry(ip).or_insert(Bucket {
            tokens: STRANGER_BURST,
            refilled: now,
        });
        bucket.take(STRANGER_BURST, STRANGER_REFILL, now)
    }

    /// Picks the link for data from what is proven.
    fn choose(&mut self, why: &'static str, now: Instant) {
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

    fn adopt(&mut self, link: Option<Link>, why: &'static str, now: Instant) {
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
    fn silence_limit(&self) -> Option<(Instant, usize)> {
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
    fn relay_check_at(&self) -> Option<Instant> {
        let unanswered = self
            .unanswered
            .filter(|_| matches!(self.primary, Some(Link::Relay { .. })))?;
        let asked = self
            .relay_probe
            .is_some_and(|(_, at, _)| at > unanswered.since);
        (!asked && !self.relays.is_empty()).then_some(unanswered.since + MAX_SILENCE)
    }

    fn suspect(&mut self, size: usize, now: Instant) {
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
    fn press_suspicion(&mut self, now: Instant) {
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
    fn demote(&mut self, why: &'static str, now: Instant) {
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

    fn idle_at(&self) -> Option<Instant> {
        let kept = self.beaconless || self.relays.is_empty();
        match self.is_direct() && !kept {
            true => Some(self.last_app.unwrap_or(self.primary_since) + ACTIVE),
            false => None,
        }
    }

    fn go_idle(&mut self, now: Instant) {
        for entry in self.pairs.values_mut() {
            entry.pair.forget();
        }
        let relay = self.relay();
        self.adopt(relay, "idle", now);
        self.next_round = None;
    }

    fn schedule_heartbeat(&mut self, now: Instant) {
        if self.is_direct() {
            let pause = match self.beaconless {
                true => KEEPALIVE_WITHOUT_BEACON,
                false => self.random.around(HEARTBEAT, 10),
            };
            self.heartbeat_at = Some(now + pause);
        }
    }

    /// A full-size probe: keeps the NAT open, and finds a path that no longer carries data.
    fn beat(&mut self, now: Instant) {
        self.heartbeat_at = None;
        if let Some(Link::Direct { remote }) = self.primary {
            let sequence = self.probe(remote, FULL_PROBE, now);
            self.heartbeat = sequence.map(|sequence| (sequence, now));
            self.schedule_heartbeat(now);
        }
    }

    /// Asks the new primary for larger packets, each size at most three times.
    fn climb(&mut self, now: Instant) {
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

    /// The most addresses of one peer: those it tells, those we know, and some that it appears from.
    pub const MAX_PAIRS: usize = 64;
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

/// What our probes over the relay call it.
const RELAY_PAIR: u32 = 0;

/// Relays of one peer that count: two homes, and what it is learned to use meanwhile.
const MAX_RELAYS: usize = 4;
const MAX_KNOWN: usize = 16;

/// Addresses that a handshake goes to beside the relays.
const MAX_OPENINGS: usize = 8;

/// Full-size probing of at most so many addresses at once (paths.md §1).
const MAX_FULL_STAGE: usize = 3;

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

const HEARTBEAT: Duration = Duration::from_secs(20);
const KEEPALIVE_WITHOUT_BEACON: Duration = Duration::from_secs(12);

/// Silence after data before a direct path is suspect: 4 × srtt within these (paths.md §1).
const MIN_SILENCE: Duration = Duration::from_millis(250);
const MAX_SILENCE: Duration = Duration::from_secs(1);

/// Silence is only news while something is sent.
const SENT_LATELY: Duration = Duration::from_secs(10);

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

/// Probes to one peer: 50 a second (paths.md §1, Security).
const PEER_BURST: u32 = 50;
const PEER_REFILL: Duration = Duration::from_millis(20);

/// Probes to one host that never answered: eight candidates' rounds, then one each three seconds.
const STRANGER_BURST: u32 = 96;
const STRANGER_REFILL: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests;
