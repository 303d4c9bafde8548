//! The world: it moves time from event to event, breaks what the scenario says, and watches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use identity::NodeId;
use path::Random;
use router::{Clock, Delivery, DeliveryKind, Origin, Output as RouterOutput, Refusal, State};
use tunnel::{Event, Link, Output, PeerConfig};
use wire::message::{MessageId, MessageKey};

use crate::clock::Virtual;
use crate::gateway::{Gateway, PORT, Rules, ack_id, overlay};
use crate::network::{Network, RELAY};
use crate::scenario::{Fault, Scenario};
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
    /// Messages that their receivers answered, and what they shall not do twice.
    answered: BTreeSet<MessageId>,
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
    Ack {
        gateway: usize,
        boot: u32,
        id: MessageId,
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
}

impl World {
    /// The world of this scenario, at its first instant.
    pub fn new(scenario: Scenario, trace: bool) -> Self {
        let time = Virtual::begin();
        let mut random = Random::new(scenario.seed ^ 0x5eed);
        let rules = Rules::new(scenario.places.len());
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
        gateway.sync(now);
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
            Happening::Ack {
                gateway: n,
                boot,
                id,
            } => {
                let gateway = &mut self.gateways[n];
                if gateway.boot == boot {
                    match gateway.router.ack(gateway.agent.instance, id, now) {
                        Ok(Some(ticket)) => drop(self.acking.insert((n, ticket), id)),
                        Ok(None) => {}
                        // Taken back while it was worked on.
                        Err(Refusal::Cancelled) if self.taken_back.contains(&id) => {}
                        Err(error) => self.violation(format!(
                            "gateway {n} does not know {id} that it showed: {error}"
                        )),
                    }
                }
            }
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

    fn send_message(&mut self, from: usize) {
        let now = self.time.now;
        let others = self.gateways.len() as u64 - 1;
        let to = (from + 1 + usize::try_from(self.random.below(others)).expect("small"))
            % self.gateways.len();
        if self.time.since_start() < self.scenario.ends {
            let unix_ms =
                BASE_MS + u64::try_from(self.time.since_start().as_millis()).expect("short");
            let id = self.gateways[from].send(to, unix_ms, now);
            let kind = self.random.below(ONE_IN);
            match kind {
                // Some are taken back: before they go, on their way, while they are worked on.
                0 => {
                    let after = Duration::from_millis(self.random.below(400));
                    self.schedule(after, Happening::Cancel { gateway: from, id });
                }
                // And some are for agents that answer whatever they are shown.
                1 => drop(self.chains.insert(id, BTreeSet::new())),
                _ => {}
            }
            let pair = (from.min(to), from.max(to));
            // What is taken back before it goes wants no path.
            if kind != 0 && self.first_messages.insert(pair) {
                self.schedule(
                    Duration::from_secs(2),
                    Happening::ExpectDirect(pair.0, pair.1),
                );
            }
            let every = u64::try_from(self.scenario.message_every.as_millis()).expect("short");
            let after = Duration::from_millis(1 + self.random.below(2 * every));
            self.schedule(after, Happening::Message(from));
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
                let peers = self.peers_of(n);
                let unix_ms =
                    BASE_MS + u64::try_from(self.time.since_start().as_millis()).expect("short");
                let seed = self.random.next_u64();
                self.acking.retain(|(gateway, _), _| *gateway != n);
                self.gateways[n].restart(&peers, seed, Clock::new(unix_ms, now), now);
                let after = Duration::from_millis(100 + self.random.below(500));
                self.schedule(after, Happening::Connect(n));
            }
            Fault::SmallMtu => self.network.mtu = 900,
        }
    }

    fn heal(&mut self) {
        self.network.cuts.clear();
        self.network.mtu = 1472;
        self.network.loss = self.network.loss.min(20);
        if !self.network.relay_up {
            self.break_(Fault::RelayUp);
        }
    }

    /// From here on the gap between two gateways is measured, where the fault alone can make one.
    fn watch(&mut self, a: usize, b: usize) {
        let direct = |from: usize, to: usize| {
            let id = self.gateways[to].id;
            self.gateways[from]
                .tunnel
                .status(self.time.now)
                .any(|peer| peer.node == id && peer.link.is_some_and(|link| link.is_direct()))
        };
        let fair = self.network.relay_up
            && self.network.loss == 0
            && self.network.cuts.is_empty()
            && self.network.mtu == 1472
            && self.gateways[a].connected
            && self.gateways[b].connected
            && direct(a, b)
            && direct(b, a);
        for pair in [(a, b), (b, a)] {
            self.flows.remove(&pair);
            if fair {
                self.flows.insert(
                    pair,
                    Flow {
                        last: Some(self.time.now),
                        worst: Duration::ZERO,
                    },
                );
            }
        }
    }

    /// One packet of a flow, and the next 20 ms later.
    fn flow(&mut self, from: usize, to: usize, until: Instant) {
        let now = self.time.now;
        if now >= until {
            if let Some(flow) = self.flows.remove(&(from, to)) {
                let worst = flow
                    .worst
                    .max(flow.last.map_or(Duration::ZERO, |last| now - last));
                let latency = self.network.places[from].latency + self.network.places[to].latency;
                // Who sends into a cut of one direction hears of it from the other side, over the
                // relay, and its next packet goes there: a round trip beyond the silence.
                if worst > GAP + 2 * latency {
                    self.violation(format!("I5: {from} to {to} stood still for {worst:?}"));
                }
            }
            return;
        }
        let packet = inner_packet(overlay(from), overlay(to), &[FLOW; 300]);
        let _ = self.gateways[from].tunnel.handle_packet(&packet, now);
        self.schedule(
            Duration::from_millis(20),
            Happening::Flow { from, to, until },
        );
    }

    fn expect_direct(&mut self, a: usize, b: usize) {
        // With loss or a fault it may take a round more.
        if !self.calm || self.scenario.loss > 0 {
            return;
        }
        let possible = self.possible(a, b);
        for (from, to) in [(a, b), (b, a)] {
            let id = self.gateways[to].id;
            let status = self.gateways[from]
                .tunnel
                .status(self.time.now)
                .find(|peer| peer.node == id);
            let link = status.and_then(|status| status.link);
            match link {
                None => self.violation(format!(
                    "I4: {from} has no path to {to} two seconds after the first message"
                )),
                Some(link) if possible && !link.is_direct() => {
                    self.violation(format!(
                        "I3: {from} to {to} is relayed two seconds after the first message"
                    ));
                }
                Some(link) if !possible && link.is_direct() => {
                    self.violation(format!(
                        "the oracle knows no direct path from {from} to {to}, yet {link}"
                    ));
                }
                Some(_) => {}
            }
        }
    }

    fn possible(&self, a: usize, b: usize) -> bool {
        self.possible.contains(&(a, b))
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

    fn drain_router(&mut self, n: usize) -> bool {
        let now = self.time.now;
        let mut spoke = false;
        loop {
            let fsync = now + Duration::from_millis(1 + self.random.below(4));
            let gateway = &mut self.gateways[n];
            match gateway.router.poll_output() {
                RouterOutput::Send { peer, frame } => gateway.stream(peer).send(&frame, now),
                RouterOutput::Store { ticket, writes } => {
                    let after = gateway
                        .unsynced
                        .back()
                        .map_or(fsync, |(at, ..)| fsync.max(*at));
                    gateway.unsynced.push_back((after, ticket, writes));
                }
                RouterOutput::Load(row) => gateway.load(row, now),
                RouterOutput::Deliver { delivery, .. } => {
                    let id = ack_id(&delivery);
                    if self.acked.contains(&id) {
                        self.violation(format!("I1: {id} is shown after its ack"));
                    }
                    self.shown.insert(id);
                    self.answer_in_chain(n, &delivery);
                    let boot = self.gateways[n].boot;
                    let after = Duration::from_millis(1 + self.random.below(50));
                    self.schedule(
                        after,
                        Happening::Ack {
                            gateway: n,
                            boot,
                            id,
                        },
                    );
                    self.gateways[n].demand(now);
                }
                RouterOutput::Answer { request, .. } => {
                    gateway.router.handle_answer_left(request, now)
                }
                RouterOutput::Event(event) => self.handle_router_event(n, event),
                RouterOutput::Wait(wake) => {
                    gateway.router_wake = wake;
                    break;
                }
            }
            spoke = true;
        }
        // Acks that reached the disk.
        let gateway = &self.gateways[n];
        let waiting: BTreeSet<_> = gateway
            .unsynced
            .iter()
            .filter_map(|(_, ticket, _)| *ticket)
            .collect();
        let stored: Vec<_> = self
            .acking
            .extract_if(.., |(owner, ticket), _| {
                *owner == n && !waiting.contains(ticket)
            })
            .collect();
        self.acked.extend(stored.into_iter().map(|(_, id)| id));
        spoke
    }

    /// An agent that answers everything, told or not that it does.
    fn answer_in_chain(&mut self, n: usize, delivery: &Delivery) {
        let now = self.time.now;
        let root = delivery.cause.root;
        let Some(chain) = self.chains.get_mut(&root) else {
            return;
        };
        // Notices of what failed are no talk, and what is shown again was answered.
        if delivery.kind != DeliveryKind::Message || !self.answered.insert(delivery.id) {
            return;
        }
        let from = self
            .gateways
            .iter()
            .position(|gateway| gateway.agent.name == delivery.from.agent);
        let Some(from) = from else { return };
        let unix_ms = BASE_MS + u64::try_from(self.time.since_start().as_millis()).expect("short");
        let origin = Origin::Message(delivery.id);
        chain.insert(delivery.id);
        self.gateways[n].send_because(origin, from, unix_ms, now);
    }

    fn handle_router_event(&mut self, n: usize, event: router::Event) {
        let now = self.time.now;
        match event {
            router::Event::Accepted { key, .. } => drop(self.accepted.insert(key)),
            router::Event::Wanted { peer } => self.gateways[n].stream(peer).want(now),
            router::Event::Looped { .. } => self.loops += 1,
            router::Event::Failed { key, error } | router::Event::DeadLetter { key, error, .. } => {
                // What led to a loop came to something itself.
                if &*error.code == "loop" {
                    return;
                }
                self.failed.insert(key.id, error.code.to_string());
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

    /// What waits where, for the trace.
    fn backlog(&self) -> String {
        let one = |gateway: &Gateway| {
            let streams: Vec<_> = gateway
                .streams
                .values()
                .map(|stream| stream.backlog())
                .collect();
            format!(
                "{}: queued {:?}, streams {streams:?}",
                gateway.number,
                gateway.router.queued()
            )
        };
        self.gateways.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    fn is_settled(&self) -> bool {
        let arrived = self.accepted.iter().map(|key| &key.id).all(|id| {
            self.acked.contains(id) || self.failed.contains_key(id) || self.taken_back.contains(id)
        });
        arrived && self.time.since_start() > self.scenario.ends + Duration::from_secs(3)
    }

    fn check_messages(&mut self) {
        let lost: Vec<_> = self
            .accepted
            .iter()
            .filter(|key| !self.acked.contains(&key.id) && !self.taken_back.contains(&key.id))
            .map(|key| key.id)
            .collect();
        for id in lost.iter().take(3) {
            let fate = self
                .failed
                .get(id)
                .cloned()
                .unwrap_or_else(|| "no word of it".into());
            let shown = self.shown.contains(id);
            self.violation(format!(
                "I1: accepted, never acked: {id} ({fate}, shown: {shown}); {} in all",
                lost.len()
            ));
        }
    }

    /// Agents that answer everything are stopped, and not before.
    fn check_chains(&mut self) {
        let longest = usize::from(router::limits::MAX_BOUNCES);
        for (root, chain) in std::mem::take(&mut self.chains) {
            if chain.len() > longest {
                self.violation(format!(
                    "{root} led to {} messages, {longest} allowed",
                    chain.len()
                ));
            }
        }
    }

    /// I4 and I11: after the network has healed everybody in use has a path, and queues are bounded.
    fn check_paths(&mut self) {
        for n in 0..self.gateways.len() {
            for peer in self.gateways[n]
                .tunnel
                .status(self.time.now)
                .collect::<Vec<_>>()
            {
                let heard = peer
                    .last_heard
                    .is_some_and(|ago| ago < Duration::from_secs(60));
                if heard && peer.link.is_none() {
                    self.violation(format!(
                        "I4: {n} has no path to {}: {}",
                        peer.node, peer.why
                    ));
                }
                if peer.queued > 256 {
                    self.violation(format!("I11: {n} queues {} packets", peer.queued));
                }
            }
        }
    }

    /// I7: a path changes when something happens, and not else.
    fn check_changes(&mut self) {
        let excuses = self.scenario.faults.len();
        let minutes = usize::try_from(self.time.since_start().as_secs() / 60).expect("short") + 1;
        let allowed = 3
            + 3 * excuses
            + if self.scenario.loss >= 20 {
                2 * minutes
            } else {
                0
            };
        for ((n, peer), changes) in std::mem::take(&mut self.changes) {
            if changes.len() > allowed {
                self.violation(format!(
                    "I7: {n} changed its path to {peer} {} times, {allowed} allowed",
                    changes.len()
                ));
            }
        }
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

/// Of so many messages, one is taken back and one is for agents that answer everything.
const ONE_IN: u64 = 20;

/// 2026-11-23.
const BASE_MS: u64 = 1_795_000_000_000;

/// No fault of a direct path may cost more while a relay works (I5).
const GAP: Duration = Duration::from_millis(1200);

/// How long a healed network may need to deliver everything.
const SETTLE: Duration = Duration::from_secs(300);
