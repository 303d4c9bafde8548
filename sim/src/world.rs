//! The world: it moves time from event to event, breaks what the scenario says, and watches: what its
//! agents say to each other is in `messages.rs`, `asks.rs` and `settling.rs`, what becomes of paths in `paths.rs`.

mod asks;
mod messages;
mod paths;
mod settling;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use identity::NodeId;
use path::Random;
use router::{Clock, Delivery, State};
use tunnel::{Event, Link, Output, PeerConfig};
use wire::message::{MessageId, MessageKey};

use self::asks::Asks;
use self::settling::End;
use crate::clock::Virtual;
use crate::gateway::{Gateway, PORT, Rules, overlay};
use crate::network::{Network, RELAY};
use crate::scenario::{Deed, Fault, Scenario};
use crate::stream::STREAM;

/// A running world.
pub struct World {
    /// Virtual time.
    pub time: Virtual,
    scenario: Scenario,
    network: Network,
    gateways: Vec<Gateway>,
    random: Random,
    queue: BTreeMap<(Instant, u64), Happening>,
    counter: u64,
    first_messages: BTreeSet<(usize, usize)>,
    accepted: BTreeSet<MessageKey>,
    shown: BTreeSet<MessageId>,
    acking: BTreeMap<(usize, router::Ticket), MessageId>,
    acked: BTreeSet<MessageId>,
    failed: BTreeMap<MessageId, String>,
    /// Messages that their senders took back before they were done: these alone may come to nothing.
    taken_back: BTreeSet<MessageId>,
    /// Messages that agents answered which answer everything: once each.
    answered: BTreeSet<MessageId>,
    asks: Asks,
    /// Messages that live for seconds, and those that their receivers rejected: these may come to
    /// nothing, and then are named.
    mortal: BTreeSet<MessageId>,
    rejected: BTreeSet<MessageId>,
    /// For a while some policy allowed nothing: whatever came to nothing since is named.
    forbade: bool,
    /// Gateways that are killed when their agent does this.
    struck: BTreeSet<(usize, Deed)>,
    /// Of each root, the messages that it led to; loops end them.
    chains: BTreeMap<MessageId, BTreeSet<MessageId>>,
    loops: u64,
    flows: BTreeMap<(usize, usize), Flow>,
    changes: BTreeMap<(usize, NodeId), Vec<Instant>>,
    /// Pairs that the oracle gives a direct path.
    possible: BTreeSet<(usize, usize)>,
    calm: bool,
    violations: Vec<String>,
    trace: bool,
    packets: u64,
}

/// Something that is going to happen.
enum Happening {
    Datagram {
        to: usize,
        boot: u32,
        link: Link,
        bytes: Vec<u8>,
    },
    Message(usize),
    Cancel {
        gateway: usize,
        id: MessageId,
    },
    End {
        gateway: usize,
        boot: u32,
        id: MessageId,
        by: End,
    },
    Leave(usize),
    Kept {
        gateway: usize,
        boot: u32,
        request: MessageKey,
        delivery: Box<Delivery>,
    },
    Fault(Fault),
    Connect(usize),
    Observe,
    Flow {
        from: usize,
        to: usize,
        until: Instant,
    },
    ExpectDirect(usize, usize),
}

/// A stream of packets that measures gaps.
#[derive(Clone, Copy, Debug)]
struct Flow {
    last: Option<Instant>,
    worst: Duration,
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What broke an invariant; empty is good.
    pub violations: Vec<String>,
    /// Messages accepted and acked.
    pub messages: usize,
    /// Datagrams on the wire.
    pub packets: u64,
    /// Virtual time.
    pub lasted: Duration,
    /// Handshakes of all gateways together.
    pub handshakes: u64,
    /// Messages that were taken back in time.
    pub cancelled: usize,
    /// Chains of answers that were stopped as loops.
    pub loops: u64,
    /// Requests whose answer arrived.
    pub answers: usize,
}

impl World {
    /// The world of this scenario, at its first instant.
    pub fn new(scenario: Scenario, trace: bool) -> Self {
        let time = Virtual::begin();
        let mut random = Random::new(scenario.seed ^ 0x5eed);
        let rules = Rules::open(scenario.places.len());
        let clock = Clock::new(BASE_MS, time.now);
        let gateways: Vec<Gateway> = (0..scenario.places.len())
            .map(|n| Gateway::new(n, rules.clone(), random.next_u64(), clock, time.now))
            .collect();
        let mut scenario = scenario;
        let nodes = scenario.places.len();
        let possible = (0..nodes)
            .flat_map(|a| (0..nodes).map(move |b| (a, b)))
            .filter(|(a, b)| a != b && scenario.direct_is_possible(*a, *b))
            .collect();
        let network = Network {
            nats: std::mem::take(&mut scenario.nats),
            places: scenario.places.clone(),
            loss: scenario.loss,
            duplicates: scenario.duplicates,
            jitter: scenario.jitter,
            mtu: 1472,
            cuts: Vec::new(),
            relay_up: true,
            random: Random::new(random.next_u64()),
        };
        let mut world = Self {
            time,
            network,
            gateways,
            random,
            queue: BTreeMap::new(),
            counter: 0,
            first_messages: BTreeSet::new(),
            accepted: BTreeSet::new(),
            shown: BTreeSet::new(),
            acking: BTreeMap::new(),
            acked: BTreeSet::new(),
            failed: BTreeMap::new(),
            taken_back: BTreeSet::new(),
            answered: BTreeSet::new(),
            asks: Asks::default(),
            mortal: BTreeSet::new(),
            rejected: BTreeSet::new(),
            forbade: false,
            struck: BTreeSet::new(),
            chains: BTreeMap::new(),
            loops: 0,
            flows: BTreeMap::new(),
            changes: BTreeMap::new(),
            possible,
            calm: true,
            violations: Vec::new(),
            trace,
            packets: 0,
            scenario,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        for n in 0..self.gateways.len() {
            let peers = self.peers_of(n);
            self.gateways[n].tunnel.set_peers(&peers, self.time.now);
            let after = Duration::from_millis(self.random.below(500));
            self.schedule(after, Happening::Connect(n));
            let after = Duration::from_millis(700 + self.random.below(500));
            self.schedule(after, Happening::Message(n));
            let after = Duration::from_millis(2000 + self.random.below(10_000));
            self.schedule(after, Happening::Leave(n));
        }
        self.schedule(Duration::from_secs(15), Happening::Observe);
        for (at, fault) in self.scenario.faults.clone() {
            self.schedule(at, Happening::Fault(fault));
            if let Fault::Cut(a, b) | Fault::CutOneWay(a, b) = fault {
                let from = at.saturating_sub(Duration::from_secs(1));
                let until = self.time.at(at + Duration::from_secs(5));
                self.schedule(
                    from,
                    Happening::Flow {
                        from: a,
                        to: b,
                        until,
                    },
                );
                self.schedule(
                    from,
                    Happening::Flow {
                        from: b,
                        to: a,
                        until,
                    },
                );
            }
        }
    }

    /// Runs it to its end: the faults, then a quiet time in which everything must settle.
    pub fn run(mut self) -> Report {
        let ends = self.time.at(self.scenario.ends);
        self.run_until(ends);
        self.heal();
        let limit = self.time.now + SETTLE;
        while self.time.now < limit && !self.is_settled() {
            let next = self.time.now + Duration::from_secs(1);
            self.run_until(next);
            self.note(format!(
                "acked {} of {}; {}",
                self.acked.len(),
                self.accepted.len(),
                self.backlog()
            ));
        }
        self.check_messages();
        self.check_chains();
        self.check_asks();
        self.check_paths();
        self.check_changes();
        let status = |gateway: &Gateway| {
            gateway
                .tunnel
                .status(self.time.now)
                .map(|peer| peer.handshakes)
                .sum::<u64>()
        };
        Report {
            seed: self.scenario.seed,
            messages: self.acked.len(),
            packets: self.packets,
            lasted: self.time.since_start(),
            handshakes: self.gateways.iter().map(status).sum(),
            cancelled: self.taken_back.difference(&self.acked).count(),
            loops: self.loops,
            answers: self.asks.answered(),
            violations: self.violations,
        }
    }

    fn run_until(&mut self, end: Instant) {
        self.settle_all();
        loop {
            let events = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = self
                .gateways
                .iter()
                .filter_map(Gateway::wake)
                .chain(events)
                .min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.time.advance_to(next);
            let now = self.time.now;
            while let Some(first) = self
                .queue
                .first_entry()
                .filter(|first| first.key().0 <= now)
            {
                let happening = first.remove();
                self.handle(happening);
            }
            for n in 0..self.gateways.len() {
                self.wake(n);
            }
            self.settle_all();
            if self.violations.len() > 20 {
                return;
            }
        }
        self.time.advance_to(end);
    }

    fn wake(&mut self, n: usize) {
        let now = self.time.now;
        let gateway = &mut self.gateways[n];
        if let Some(failed) = gateway.sync(now) {
            self.acking
                .retain(|(owner, ticket), _| *owner != n || *ticket > failed);
        }
        let gateway = &mut self.gateways[n];
        if gateway.tunnel_wake.is_some_and(|at| at <= now) {
            gateway.tunnel.handle_timeout(now);
            while !matches!(self.drain_tunnel(n), Drained::Done) {}
            if self.gateways[n].tunnel_wake.is_some_and(|at| at <= now) {
                self.violation(format!(
                    "I12: tunnel {n} wants to be woken in the past, twice"
                ));
            }
        }
        let gateway = &mut self.gateways[n];
        if gateway.router_wake.is_some_and(|at| at <= now) {
            gateway.router.handle_timeout(now);
        }
        for stream in gateway.streams.values_mut() {
            if stream.poll_timeout().is_some_and(|at| at <= now) {
                stream.handle_timeout(now);
            }
        }
    }

    /// Until nobody has anything to say at this instant.
    fn settle_all(&mut self) {
        for n in 0..self.gateways.len() {
            for _ in 0..100 {
                let spoke = self.drain_router(n)
                    | self.send_packets(n)
                    | matches!(self.drain_tunnel(n), Drained::Some);
                if !spoke {
                    break;
                }
            }
        }
    }

    fn handle(&mut self, happening: Happening) {
        let now = self.time.now;
        match happening {
            Happening::Datagram {
                to,
                boot,
                link,
                mut bytes,
            } => {
                let gateway = &mut self.gateways[to];
                if gateway.boot == boot {
                    // Refusals are the tunnel's business.
                    let _ = gateway.tunnel.handle_datagram(&link, &mut bytes, now);
                    while !matches!(self.drain_tunnel(to), Drained::Done) {}
                }
            }
            Happening::Message(from) => self.send_message(from),
            Happening::Cancel { gateway: n, id } => {
                let gateway = &mut self.gateways[n];
                // One that was never accepted, or whose gateway died before it was, is not known.
                match gateway.router.cancel(gateway.agent.instance, id, now) {
                    Ok(status) if status.state != State::Done => drop(self.taken_back.insert(id)),
                    _ => {}
                }
            }
            Happening::End {
                gateway,
                boot,
                id,
                by,
            } => self.end(gateway, boot, id, by),
            Happening::Leave(n) => self.leave(n),
            Happening::Kept {
                gateway,
                boot,
                request,
                delivery,
            } => self.keep(gateway, boot, request, &delivery),
            Happening::Fault(fault) => self.break_(fault),
            Happening::Connect(n) => self.connect(n),
            Happening::Observe => {
                // The link's own keepalive, every 15 s, also keeps the cone's mapping.
                for n in 0..self.gateways.len() {
                    if self.network.relay_up {
                        let observed = self.network.observe(n, now);
                        let candidates = Gateway::candidates(&self.network.places[n], observed);
                        self.gateways[n].tunnel.set_candidates(candidates, now);
                    }
                }
                self.schedule(Duration::from_secs(15), Happening::Observe);
            }
            Happening::Flow { from, to, until } => self.flow(from, to, until),
            Happening::ExpectDirect(a, b) => self.expect_direct(a, b),
        }
    }

    fn connect(&mut self, n: usize) {
        let now = self.time.now;
        if !self.network.relay_up {
            return;
        }
        let observed = self.network.observe(n, now);
        let candidates = Gateway::candidates(&self.network.places[n], observed);
        let gateway = &mut self.gateways[n];
        gateway.connected = true;
        gateway.tunnel.set_candidates(candidates, now);
        gateway.tunnel.set_relays(&[RELAY], now);
    }

    fn break_(&mut self, fault: Fault) {
        let now = self.time.now;
        self.note(format!("fault {fault:?}"));
        self.calm = false;
        match fault {
            Fault::Cut(a, b) => {
                self.watch(a, b);
                self.network.cuts.extend([(a, b), (b, a)]);
            }
            Fault::CutOneWay(a, b) => {
                self.watch(a, b);
                self.network.cuts.push((a, b));
            }
            Fault::Heal => {
                self.network.cuts.clear();
                self.network.mtu = 1472;
            }
            Fault::RelayDown => {
                self.network.relay_up = false;
                // Their QUIC links notice after some pings.
                for gateway in &mut self.gateways {
                    gateway.connected = false;
                    gateway.tunnel.set_relays(&[], now);
                }
            }
            Fault::RelayUp => {
                self.network.relay_up = true;
                for n in 0..self.gateways.len() {
                    let after = Duration::from_millis(self.random.below(1000));
                    self.schedule(after, Happening::Connect(n));
                }
            }
            Fault::Flush(nat) => self.network.nats[nat].flush(),
            Fault::Restart(n) => {
                // Who is dead stands still, and no path is to blame.
                self.flows.retain(|(from, to), _| *from != n && *to != n);
                let peers = self.peers_of(n);
                let unix_ms = self.unix_ms();
                let seed = self.random.next_u64();
                self.acking.retain(|(gateway, _), _| *gateway != n);
                self.gateways[n].restart(&peers, seed, Clock::new(unix_ms, now), now);
                self.wait_again(n);
                let after = Duration::from_millis(100 + self.random.below(500));
                self.schedule(after, Happening::Connect(n));
            }
            Fault::Strike(n, deed) => drop(self.struck.insert((n, deed))),
            Fault::SmallMtu => self.network.mtu = 900,
            Fault::Forbid(n) => {
                self.forbade = true;
                // Packets may not pass either.
                self.flows.clear();
                let rules = Rules::closed(self.gateways.len());
                self.gateways[n].obey(rules, now);
            }
            Fault::Allow(n) => {
                let rules = Rules::open(self.gateways.len());
                self.gateways[n].obey(rules, now);
            }
            Fault::DiskFull(n) => self.gateways[n].disk_is_full = true,
            Fault::DiskFree(n) => self.gateways[n].disk_is_full = false,
        }
    }

    /// An agent did something: its gateway may die of it, and now and then another one with it.
    fn did(&mut self, n: usize, deed: Deed) {
        if !self.struck.remove(&(n, deed)) {
            return;
        }
        let after = Duration::from_micros(self.random.below(8000));
        self.schedule(after, Happening::Fault(Fault::Restart(n)));
        if self.random.below(4) == 0 {
            let other = (n + 1) % self.gateways.len();
            let after = Duration::from_millis(self.random.below(100));
            self.schedule(after, Happening::Fault(Fault::Restart(other)));
        }
    }

    fn heal(&mut self) {
        self.struck.clear();
        for gateway in &mut self.gateways {
            gateway.disk_is_full = false;
        }
        self.network.cuts.clear();
        self.network.mtu = 1472;
        self.network.loss = self.network.loss.min(20);
        if !self.network.relay_up {
            self.break_(Fault::RelayUp);
        }
    }

    /// What the tunnel of `n` wants done.
    fn drain_tunnel(&mut self, n: usize) -> Drained {
        let now = self.time.now;
        let mut sent: Vec<(Link, Vec<u8>)> = Vec::new();
        let mut delivered: Vec<(NodeId, Vec<u8>)> = Vec::new();
        let mut events = Vec::new();
        loop {
            match self.gateways[n].tunnel.poll_output() {
                Output::Transmit {
                    link,
                    bytes,
                    segment_size,
                } => {
                    sent.extend(bytes.chunks(segment_size).map(|one| (*link, one.to_vec())));
                }
                Output::Deliver { peer, packet } => delivered.push((peer, packet.to_vec())),
                Output::Event(event) => events.push(event),
                Output::Wait(wake) => {
                    self.gateways[n].tunnel_wake = wake;
                    break;
                }
            }
        }
        let done = sent.is_empty() && delivered.is_empty() && events.is_empty();
        for (link, bytes) in sent {
            self.carry(n, link, bytes);
        }
        for (peer, packet) in delivered {
            self.deliver(n, peer, &packet);
        }
        for event in events {
            self.note(format!("gateway {n}: {event:?}"));
            match event {
                Event::PathChanged { peer, .. } => {
                    self.changes.entry((n, peer)).or_default().push(now)
                }
                Event::GoodAddress { peer, remote } => {
                    self.gateways[n].last_good.insert((peer, remote));
                }
                _ => {}
            }
        }
        if done { Drained::Done } else { Drained::Some }
    }

    fn carry(&mut self, from: usize, link: Link, bytes: Vec<u8>) {
        let now = self.time.now;
        self.packets += 1;
        match link {
            Link::Direct { remote } => {
                for arrival in self.network.send(from, remote, bytes.len(), now) {
                    let link = Link::Direct {
                        remote: arrival.from,
                    };
                    self.arrive(arrival.at, arrival.to, link, bytes.clone());
                }
            }
            Link::Relay { relay, peer } => {
                if bytes.len() > 1132 {
                    self.violation(format!("{} bytes for a relay", bytes.len()));
                }
                let to = self.gateways.iter().position(|gateway| gateway.id == peer);
                let Some(to) = to.filter(|to| self.gateways[*to].connected) else {
                    return;
                };
                for at in self.network.relay(from, to, now) {
                    let link = Link::Relay {
                        relay,
                        peer: self.gateways[from].id,
                    };
                    self.arrive(at, to, link, bytes.clone());
                }
            }
            _ => {}
        }
    }

    fn arrive(&mut self, at: Instant, to: usize, link: Link, bytes: Vec<u8>) {
        let boot = self.gateways[to].boot;
        self.counter += 1;
        self.queue.insert(
            (at, self.counter),
            Happening::Datagram {
                to,
                boot,
                link,
                bytes,
            },
        );
    }

    fn deliver(&mut self, n: usize, peer: NodeId, packet: &[u8]) {
        let now = self.time.now;
        let from = usize::from(peer.0[0]) - 1;
        let source: Option<[u8; 16]> = packet.get(8..24).and_then(|source| source.try_into().ok());
        if source.map(Ipv6Addr::from) != Some(overlay(from)) {
            self.violation(format!("gateway {n} was given a foreign source by {from}"));
        }
        match packet.get(48..).and_then(<[u8]>::split_first) {
            Some((&STREAM, rest)) => {
                let gateway = &mut self.gateways[n];
                let arrived = gateway.stream(peer).handle(rest, now);
                if arrived.restarted {
                    gateway.router.handle_down(peer, now);
                    gateway.router.handle_up(peer, now);
                }
                for frame in arrived.frames {
                    gateway.router.handle_frame(peer, frame, now);
                }
            }
            Some((&FLOW, _)) => {
                if let Some(flow) = self.flows.get_mut(&(from, n)) {
                    let gap = flow.last.map_or(Duration::ZERO, |last| now - last);
                    flow.worst = flow.worst.max(gap);
                    flow.last = Some(now);
                }
                // As QUIC would.
                let answer = inner_packet(overlay(n), overlay(from), &[FLOW_ACK; 30]);
                let _ = self.gateways[n].tunnel.handle_packet(&answer, now);
            }
            _ => {}
        }
    }

    /// Packets of the streams into the tunnel.
    fn send_packets(&mut self, n: usize) -> bool {
        let now = self.time.now;
        let gateway = &mut self.gateways[n];
        let mut spoke = false;
        for (peer, stream) in &mut gateway.streams {
            let to = overlay(usize::from(peer.0[0]) - 1);
            while let Some(payload) = stream.packets.pop_front() {
                let packet = inner_packet(gateway.overlay, to, &payload);
                // What the tunnel cannot take now, the stream sends again.
                let _ = gateway.tunnel.handle_packet(&packet, now);
                spoke = true;
            }
        }
        spoke
    }

    fn peers_of(&self, n: usize) -> Vec<PeerConfig> {
        let others = self.gateways.iter().filter(|other| other.number != n);
        others
            .map(|other| {
                let good = self.gateways[n]
                    .last_good
                    .iter()
                    .filter(|(id, _)| *id == other.id);
                other.as_peer(good.map(|(_, addr)| *addr))
            })
            .collect()
    }

    fn unix_ms(&self) -> u64 {
        BASE_MS + u64::try_from(self.time.since_start().as_millis()).expect("short")
    }

    fn schedule(&mut self, after: Duration, happening: Happening) {
        self.counter += 1;
        self.queue
            .insert((self.time.now + after, self.counter), happening);
    }

    fn violation(&mut self, text: String) {
        let at = self.time.since_start();
        self.note(format!("VIOLATION {text}"));
        self.violations.push(format!("{at:?} {text}"));
    }

    fn note(&self, text: String) {
        if self.trace {
            eprintln!("{:>12?} {text}", self.time.since_start());
        }
    }
}

impl Gateway {
    /// When it wants to be woken.
    fn wake(&self) -> Option<Instant> {
        let disk = self.unsynced.front().map(|(at, ..)| *at);
        let streams = self
            .streams
            .values()
            .filter_map(|stream| stream.poll_timeout());
        self.tunnel_wake
            .into_iter()
            .chain(self.router_wake)
            .chain(disk)
            .chain(streams)
            .min()
    }
}

/// Whether a drain brought anything.
enum Drained {
    Some,
    Done,
}

fn inner_packet(from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).expect("small");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[17, 64]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    for word in [PORT, PORT, length, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    packet
}

/// First bytes of the packets that measure gaps.
const FLOW: u8 = 1;
const FLOW_ACK: u8 = 2;

/// 2026-11-23.
const BASE_MS: u64 = 1_795_000_000_000;

/// How long a healed network may need to deliver everything.
const SETTLE: Duration = Duration::from_secs(300);
