//! Two tunnels, a relay between them, and two NATs: enough of a network to tell a story, in
//! virtual time.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use identity::{NodeId, WireGuardKey};
use policy::{Document, Node, PacketFilter, Policy};
use tunnel::{
    Candidate, CandidateKind, DatagramError, Event, Link, Output, PacketError, PeerConfig, Tunnel,
    TunnelConfig,
};

pub const RELAY: NodeId = NodeId([9; 16]);
pub const MS: Duration = Duration::from_millis(1);
const POLICY: &str = r#"{
  "tagOwners": {"tag:home": ["ana@example.com"]},
  "grants": [{"src": ["agent:*@tag:home"], "dst": ["agent:*@tag:home"], "msg": ["send", "request"]}],
}"#;

/// Two nodes.
pub struct Pair {
    pub now: Instant,
    pub nodes: [Side; 2],
    /// Whether the relay works.
    pub relay: bool,
    /// Whether what node 0, node 1 sends straight is lost on the way.
    pub cut: [bool; 2],
    pub delivered: [Vec<Vec<u8>>; 2],
    pub events: [Vec<Event>; 2],
    pub errors: [Vec<DatagramError>; 2],
    /// Datagrams on the wire: sender, link as sent, size.
    pub wire: Vec<(usize, Link, usize)>,
    /// Told how long the world has existed, each time that time moves: the simulator's boringtun has
    /// a clock that must follow.
    pub on_time: fn(Duration),
    start: Instant,
    flight: Vec<(Instant, usize, Link, Vec<u8>)>,
}

/// One node.
pub struct Side {
    pub tunnel: Tunnel,
    pub id: NodeId,
    pub key: WireGuardKey,
    pub overlay: Ipv6Addr,
    /// Its address on the public side of its NAT.
    pub addr: SocketAddr,
    /// A cone NAT lets in what comes from where something was sent to (address and port).
    pub opened: BTreeSet<SocketAddr>,
    wake: Option<Instant>,
}

impl Pair {
    /// Two nodes that know each other, connected to the relay.
    pub fn new() -> Self {
        let mut pair = Self::strangers();
        pair.introduce(&[RELAY], &[]);
        pair.connect();
        pair
    }

    /// Two nodes without peers and relay.
    pub fn strangers() -> Self {
        let now = Instant::now();
        Self {
            now,
            nodes: [Side::new(1, now), Side::new(2, now)],
            relay: true,
            cut: [false, false],
            delivered: Default::default(),
            events: Default::default(),
            errors: Default::default(),
            wire: Vec::new(),
            on_time: |_| {},
            start: now,
            flight: Vec::new(),
        }
    }

    /// Tells each about the other.
    pub fn introduce(&mut self, relays: &[NodeId], last_good: &[SocketAddr]) {
        for n in 0..2 {
            let config = self.nodes[1 - n].as_peer(relays, last_good);
            let filter = filter(&self.nodes, n);
            self.nodes[n].tunnel.set_filter(filter, self.now);
            self.nodes[n].tunnel.set_peers(&[config], self.now);
        }
        self.drain();
    }

    /// Connects both to the relay; they learn their outside addresses there.
    pub fn connect(&mut self) {
        for side in &mut self.nodes {
            let observed = Candidate {
                addr: side.addr,
                kind: CandidateKind::Observed,
            };
            side.tunnel.set_candidates(vec![observed], self.now);
            side.tunnel.set_relays(&[RELAY], self.now);
        }
        self.drain();
    }

    /// The relay dies, and both notice.
    pub fn lose_relay(&mut self) {
        self.relay = false;
        for side in &mut self.nodes {
            side.tunnel.set_relays(&[], self.now);
        }
        self.drain();
    }

    /// One node starts again: same keys, port and NAT, nothing else.
    pub fn restart(&mut self, n: usize) {
        let seed = u8::try_from(n).expect("small") + 1;
        let old = &self.nodes[n];
        let (addr, opened) = (old.addr, old.opened.clone());
        let mut side = Side::start(seed, seed + 100, self.now);
        (side.addr, side.opened) = (addr, opened);
        self.nodes[n] = side;
        let filter = filter(&self.nodes, n);
        self.nodes[n].tunnel.set_filter(filter, self.now);
    }

    /// Node `n` sends a packet of `size` bytes on the router's port.
    pub fn send(&mut self, n: usize, size: usize) -> Result<(), PacketError> {
        let packet = self.packet(n, size);
        self.send_packet(n, &packet)
    }

    pub fn send_packet(&mut self, n: usize, packet: &[u8]) -> Result<(), PacketError> {
        let sent = self.nodes[n].tunnel.handle_packet(packet, self.now);
        self.drain();
        sent
    }

    /// A packet of node `n` for the other, on the router's port.
    pub fn packet(&self, n: usize, size: usize) -> Vec<u8> {
        packet(self.nodes[n].overlay, self.nodes[1 - n].overlay, 4747, size)
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let wakes = self.nodes.iter().filter_map(|side| side.wake);
            let arrivals = self.flight.iter().map(|(at, ..)| *at);
            let Some(next) = wakes.chain(arrivals).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let now = self.now;
            (self.on_time)(now - self.start);
            let arrived: Vec<_> = self.flight.extract_if(.., |(at, ..)| *at <= now).collect();
            for (_, to, link, mut datagram) in arrived {
                if let Err(error) = self.nodes[to]
                    .tunnel
                    .handle_datagram(&link, &mut datagram, now)
                {
                    self.errors[to].push(error);
                }
            }
            for side in &mut self.nodes {
                side.tunnel.handle_timeout(now);
            }
            self.drain();
            assert!(
                self.nodes
                    .iter()
                    .filter_map(|side| side.wake)
                    .all(|wake| wake > now),
                "a timeout in the past would spin"
            );
        }
        self.now = end;
        (self.on_time)(end - self.start);
    }

    /// Lets time pass while both send a packet every 20 ms.
    pub fn run_talking(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            for n in 0..2 {
                // Without a session or link it is queued or counted.
                let _ = self.send(n, 300);
            }
            self.run(20 * MS);
        }
    }

    pub fn drain(&mut self) {
        for n in 0..2 {
            let mut sent: Vec<(Link, Vec<u8>)> = Vec::new();
            loop {
                match self.nodes[n].tunnel.poll_output() {
                    Output::Transmit {
                        link,
                        bytes,
                        segment_size,
                    } => {
                        assert!(bytes.len() <= 65_507 && bytes.len().div_ceil(segment_size) <= 64);
                        sent.extend(bytes.chunks(segment_size).map(|one| (*link, one.to_vec())));
                    }
                    Output::Deliver { packet, .. } => self.delivered[n].push(packet.to_vec()),
                    Output::Event(event) => self.events[n].push(event),
                    Output::Wait(wake) => {
                        self.nodes[n].wake = wake;
                        break;
                    }
                }
            }
            for (link, datagram) in sent {
                self.carry(n, link, datagram);
            }
        }
    }

    fn carry(&mut self, n: usize, link: Link, datagram: Vec<u8>) {
        self.wire.push((n, link, datagram.len()));
        let to = 1 - n;
        match link {
            Link::Direct { remote } => {
                self.nodes[n].opened.insert(remote);
                let from = self.nodes[n].addr;
                let lets_in = self.nodes[to].opened.contains(&from);
                if remote == self.nodes[to].addr && lets_in && !self.cut[n] {
                    let seen = Link::Direct { remote: from };
                    self.flight.push((self.now + 10 * MS, to, seen, datagram));
                }
            }
            Link::Relay { relay, peer } => {
                assert!(
                    datagram.len() <= 1132,
                    "{} bytes for a relay",
                    datagram.len()
                );
                if self.relay && peer == self.nodes[to].id {
                    let seen = Link::Relay {
                        relay,
                        peer: self.nodes[n].id,
                    };
                    self.flight.push((self.now + 20 * MS, to, seen, datagram));
                }
            }
            _ => {}
        }
    }

    /// The kind of link that node `n` uses.
    pub fn kind(&self, n: usize) -> &'static str {
        let status = self.nodes[n].tunnel.status(self.now).next();
        match status.and_then(|status| status.link) {
            Some(Link::Direct { .. }) => "direct",
            Some(Link::Relay { .. }) => "relay",
            _ => "none",
        }
    }

    pub fn handshakes(&self, n: usize) -> u64 {
        self.nodes[n]
            .tunnel
            .status(self.now)
            .map(|status| status.handshakes)
            .sum()
    }
}

impl Side {
    fn new(n: u8, now: Instant) -> Self {
        Self::start(n, n, now)
    }

    fn start(n: u8, seed: u8, now: Instant) -> Self {
        let key = WireGuardKey::generate([n; 32]);
        let id = NodeId([n; 16]);
        let overlay = Ipv6Addr::new(0xfd11, 0x2233, 0x4455, 0, 0, 0, 0, u16::from(n));
        let config = TunnelConfig {
            node: id,
            key: key.clone(),
            overlay,
            allow_loopback: false,
        };
        Self {
            tunnel: Tunnel::new(config, [seed; 32], now),
            id,
            key,
            overlay,
            addr: ([198, 51, 100, n], 4000).into(),
            opened: BTreeSet::new(),
            wake: None,
        }
    }

    /// As the others know it.
    pub fn as_peer(&self, relays: &[NodeId], last_good: &[SocketAddr]) -> PeerConfig {
        PeerConfig {
            node: self.id,
            wireguard: self.key.public(),
            overlay: self.overlay,
            relays: relays.to_vec(),
            addresses: Vec::new(),
            last_good: last_good
                .iter()
                .filter(|addr| **addr == self.addr)
                .copied()
                .collect(),
            leaving: false,
        }
    }
}

/// The filter of node `n` under a policy that lets all agents talk.
pub fn filter(nodes: &[Side; 2], n: usize) -> PacketFilter {
    filter_under(POLICY, nodes, n)
}

/// The filter of node `n` under this policy.
pub fn filter_under(policy: &str, nodes: &[Side; 2], n: usize) -> PacketFilter {
    let (document, _) = Document::parse("policy.hujson", policy).expect("the policy is right");
    let places: Vec<Node> = nodes
        .iter()
        .zip(["gw-a", "gw-b"])
        .map(|(side, name)| Node {
            user: None,
            tags: vec!["tag:home".parse().expect("a tag")],
            addresses: vec![side.overlay.into()],
            ..Node::new(side.id, name.parse().expect("a name"))
        })
        .collect();
    Policy::compile(&document, &places).packet_filter(&nodes[n].id, 4747, identity::UnixTime(0))
}

/// A UDP packet of `size` bytes, from and to this port.
pub fn packet(from: Ipv6Addr, to: Ipv6Addr, port: u16, size: usize) -> Vec<u8> {
    let mut packet = vec![0xa5; size.max(48)];
    let length = u16::try_from(packet.len() - 40).expect("small");
    packet[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet[6..8].copy_from_slice(&[17, 64]);
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
    packet[40..42].copy_from_slice(&port.to_be_bytes());
    packet[42..44].copy_from_slice(&port.to_be_bytes());
    packet[44..46].copy_from_slice(&length.to_be_bytes());
    packet
}

/// Counts what the other end of the world said.
pub fn count<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().filter(|other| *other == one).count()
}

/// How many datagrams each link kind carried.
pub fn by_kind(wire: &[(usize, Link, usize)]) -> BTreeMap<bool, usize> {
    let mut kinds = BTreeMap::new();
    for (_, link, _) in wire {
        *kinds.entry(link.is_direct()).or_default() += 1;
    }
    kinds
}
