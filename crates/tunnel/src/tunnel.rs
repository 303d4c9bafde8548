//! All peers: which of them a datagram or a packet is for, and the one queue of outputs.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Instant;

use identity::{NodeId, WireGuardPublic};
use path::{Candidate, Link, Random};
use policy::PacketFilter;
use wire::probe::MAX_CANDIDATES;

use crate::flows;
use crate::indices::Indices;
use crate::limiter::Limiter;
use crate::outbox::Outbox;
use crate::packet::Header;
use crate::peer::{OurCandidates, Peer, Setting};
use crate::session::{INIT, OVERHEAD, RESPONSE};
use crate::types::{
    DatagramError, Event, Output, PacketError, PeerConfig, PeerStatus, TunnelConfig,
};
use crate::wireguard::{Keys, WireGuard};

/// The tunnel of one node to all its peers.
///
/// Mutate once (`handle_…`, `set_…`, `ping`), then `poll_output` until [`Output::Wait`].
pub struct Tunnel {
    config: TunnelConfig,
    keys: Keys,
    public: WireGuardPublic,
    peers: Vec<Peer>,
    /// When each peer wants its `handle_timeout`, and those for whom this must be asked again.
    wakes: Vec<Option<Instant>>,
    touched: Vec<usize>,
    by_node: BTreeMap<NodeId, usize>,
    by_key: BTreeMap<WireGuardPublic, usize>,
    by_overlay: BTreeMap<Ipv6Addr, usize>,
    by_index: BTreeMap<u32, usize>,
    filter: Arc<PacketFilter>,
    candidates: Arc<OurCandidates>,
    relays: Vec<NodeId>,
    indices: Indices,
    random: Random,
    limiter: Limiter,
    outbox: Outbox,
    /// The time of the last call: outputs have none of their own.
    now: Instant,
}

impl Tunnel {
    /// A tunnel without peers, whose filter denies all.
    pub fn new(config: TunnelConfig, seed: [u8; 32], now: Instant) -> Self {
        let keys = Keys::new(&config.key);
        let public = config.key.public();
        let [a, b, c, d, e, f, g, h, ..] = seed;
        Self {
            config,
            keys,
            public,
            peers: Vec::new(),
            wakes: Vec::new(),
            touched: Vec::new(),
            by_node: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_overlay: BTreeMap::new(),
            by_index: BTreeMap::new(),
            filter: Arc::new(PacketFilter::deny_all()),
            candidates: Arc::default(),
            relays: Vec::new(),
            indices: Indices::new(seed),
            random: Random::new(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            limiter: Limiter::new(now),
            outbox: Outbox::default(),
            now,
        }
    }

    /// The full list of peers. Who is absent is dropped at once, session and all; who has a new key
    /// begins anew.
    pub fn set_peers(&mut self, peers: &[PeerConfig], now: Instant) {
        self.now = now;
        let mut kept: BTreeMap<NodeId, Peer> = std::mem::take(&mut self.peers)
            .into_iter()
            .map(|peer| (peer.config.node, peer))
            .collect();
        let me = self.config.node;
        for config in peers.iter().filter(|config| config.node != me) {
            let old = kept.remove(&config.node).filter(|old| {
                old.config.wireguard == config.wireguard && old.config.overlay == config.overlay
            });
            let peer = match old {
                Some(mut peer) => {
                    peer.update(config.clone(), &self.relays, &mut self.outbox, now);
                    peer
                }
                None => self.make_peer(config, now),
            };
            self.peers.push(peer);
        }
        self.index_peers();
    }

    /// Which packets of the peers may enter, besides replies; before the first call, none. What a
    /// peer has open and may open no more ends at once.
    pub fn set_filter(&mut self, filter: PacketFilter, now: Instant) {
        self.now = now;
        self.filter = Arc::new(filter);
        for peer in &mut self.peers {
            peer.set_filter(&self.filter, now);
        }
    }

    /// Where this node may be reached; told to every peer inside its session.
    pub fn set_candidates(&mut self, mut candidates: Vec<Candidate>, now: Instant) {
        self.now = now;
        candidates.truncate(MAX_CANDIDATES);
        if self.candidates.list == candidates {
            return;
        }
        let epoch = self.candidates.epoch.wrapping_add(1);
        self.candidates = Arc::new(OurCandidates {
            epoch,
            list: candidates,
        });
        for peer in &mut self.peers {
            peer.set_candidates(&self.candidates, &mut self.outbox, now);
        }
        self.touch_all();
    }

    /// The beacons whose relay can be used now.
    pub fn set_relays(&mut self, connected: &[NodeId], now: Instant) {
        self.now = now;
        self.relays = connected.to_vec();
        for peer in &mut self.peers {
            peer.set_relays(connected, &mut self.outbox, now);
        }
        self.touch_all();
    }

    /// Takes one datagram from the network. The bytes are the tunnel's to overwrite.
    pub fn handle_datagram(
        &mut self,
        link: &Link,
        datagram: &mut [u8],
        now: Instant,
    ) -> Result<(), DatagramError> {
        self.now = now;
        let kind = datagram.first_chunk::<4>().copied().map(u32::from_le_bytes);
        match (kind, datagram.len()) {
            (Some(DATA), OVERHEAD..=MAX_DATAGRAM) => {
                let place = self.place_of(datagram, 4)?;
                self.touch(place);
                self.peers[place].handle_data(link, datagram, &mut self.outbox, now)
            }
            (Some(INITIATION), INIT) => self.handle_init(link, datagram, now),
            (Some(ANSWER), RESPONSE) => {
                let place = self.place_of(datagram, 8)?;
                if !self.keys.knows_us(datagram) {
                    return Err(DatagramError::Stranger);
                }
                self.touch(place);
                self.peers[place].handle_response(link, datagram, &mut self.outbox, now)
            }
            _ => Err(DatagramError::Malformed),
        }
    }

    /// Takes one inner packet of this node, routed by its destination.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) -> Result<(), PacketError> {
        self.now = now;
        let header = Header::parse(packet).ok_or(PacketError::Malformed)?;
        // Our own control packets are made here and nowhere else.
        if header.src != self.config.overlay || header.is_control() {
            return Err(PacketError::Malformed);
        }
        let place = *self
            .by_overlay
            .get(&header.dst)
            .ok_or(PacketError::NoRoute)?;
        self.touch(place);
        self.peers[place].send(packet, &header, &mut self.outbox, now)
    }

    /// The operating system says that nothing can be sent on this link.
    pub fn handle_link_error(&mut self, link: &Link, now: Instant) {
        self.now = now;
        for peer in &mut self.peers {
            peer.handle_link_error(link, &mut self.outbox, now);
        }
        self.touch_all();
    }

    /// This host's addresses changed.
    pub fn handle_net_change(&mut self, now: Instant) {
        self.now = now;
        for peer in &mut self.peers {
            peer.handle_net_change(&mut self.outbox, now);
        }
        self.touch_all();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.refresh_wakes();
        for place in 0..self.peers.len() {
            if self.wakes[place].is_some_and(|at| at <= now) {
                self.peers[place].handle_timeout(&mut self.outbox, now);
                self.touch(place);
            }
        }
    }

    /// Asks a peer for a sign of life, told as [`Event::Pong`] with this token; there is no event
    /// for one that stays unanswered. Says whether the peer is known.
    pub fn ping(&mut self, peer: &NodeId, token: u64, now: Instant) -> bool {
        self.now = now;
        let Some(&place) = self.by_node.get(peer) else {
            return false;
        };
        self.peers[place].ping(token, &mut self.outbox, now);
        self.touch(place);
        true
    }

    /// The next thing to do; [`Output::Wait`] once there is nothing more.
    pub fn poll_output(&mut self) -> Output<'_> {
        if self.outbox.is_empty() {
            self.outbox.reset();
            self.refresh_wakes();
            return Output::Wait(self.wakes.iter().flatten().min().copied());
        }
        self.outbox.poll().expect("it is not empty")
    }

    /// The state of every peer.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = PeerStatus> + '_ {
        self.peers.iter().map(move |peer| peer.status(now))
    }

    fn handle_init(&mut self, link: &Link, init: &[u8], now: Instant) -> Result<(), DatagramError> {
        if !self.keys.knows_us(init) {
            return Err(DatagramError::Stranger);
        }
        // Copies of an initiation come on every way; they cost no Diffie-Hellman.
        let outbox = &mut self.outbox;
        if self
            .peers
            .iter_mut()
            .any(|peer| peer.answer_copy(link, init, outbox, now))
        {
            return Ok(());
        }
        let known = !link.is_direct() || self.peers.iter().any(|peer| peer.knows(link));
        if !self.limiter.allows(link, known, now) {
            return Err(DatagramError::Flood);
        }
        let wireguard = self
            .keys
            .initiator(init)
            .ok_or(DatagramError::Unauthentic)?;
        let Some(&place) = self.by_key.get(&wireguard) else {
            self.outbox.tell(Event::UnknownPeer {
                wireguard,
                link: *link,
            });
            return Err(DatagramError::UnknownPeer);
        };
        self.touch(place);
        self.peers[place].handle_init(link, init, &mut self.outbox, now)
    }

    /// The peer whose index stands at this place of a message.
    fn place_of(&self, datagram: &[u8], at: usize) -> Result<usize, DatagramError> {
        let index = datagram.get(at..).and_then(|rest| rest.first_chunk::<4>());
        let index = u32::from_le_bytes(*index.ok_or(DatagramError::Malformed)?) >> 8;
        self.by_index
            .get(&index)
            .copied()
            .ok_or(DatagramError::UnknownSession)
    }

    fn make_peer(&mut self, config: &PeerConfig, now: Instant) -> Peer {
        let index = self.indices.next();
        let setting = Setting {
            index,
            local: self.config.overlay,
            noise: WireGuard::new(&self.keys, &config.wireguard, index),
            larger: self.public > config.wireguard,
            allow_loopback: self.config.allow_loopback,
            filter: self.filter.clone(),
            candidates: self.candidates.clone(),
            seed: self.random.next_u64(),
        };
        let mut peer = Peer::new(config.clone(), setting, now);
        peer.set_relays(&self.relays, &mut self.outbox, now);
        peer.call_if_known(&mut self.outbox, now);
        peer
    }

    fn index_peers(&mut self) {
        let places = || self.peers.iter().enumerate();
        self.by_node = places()
            .map(|(place, peer)| (peer.config.node, place))
            .collect();
        self.by_key = places()
            .map(|(place, peer)| (peer.config.wireguard, place))
            .collect();
        self.by_overlay = places()
            .map(|(place, peer)| (peer.config.overlay, place))
            .collect();
        self.by_index = places().map(|(place, peer)| (peer.index, place)).collect();
        let room = flows::room(self.peers.len());
        for peer in &mut self.peers {
            peer.set_flows(room);
        }
        self.wakes = vec![None; self.peers.len()];
        self.touch_all();
    }

    fn touch(&mut self, place: usize) {
        // A batch touches one peer many times in a row.
        if self.touched.last() != Some(&place) && self.touched.len() < self.peers.len() * 2 + 8 {
            self.touched.push(place);
        } else if self.touched.last() != Some(&place) {
            self.touch_all();
        }
    }

    fn touch_all(&mut self) {
        self.touched.clear();
        self.touched.extend(0..self.peers.len());
    }

    fn refresh_wakes(&mut self) {
        while let Some(place) = self.touched.pop() {
            self.wakes[place] = self.peers[place].poll_timeout(self.now);
        }
    }
}

/// Message types (WireGuard whitepaper §5.4), with their three reserved zero bytes.
const INITIATION: u32 = 1;
const ANSWER: u32 = 2;
const DATA: u32 = 4;

/// What fits a UDP datagram on any link that we would use.
const MAX_DATAGRAM: usize = 9000;
