//! One peer: its session, its paths, and all that its packets need, so that peers can later be
//! spread over threads. What is to be sent goes into the [`Outbox`] of whoever drives it; what comes
//! is taken in `receiving.rs`.

mod pings;
mod receiving;

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use path::{Action, Candidate, Link, Paths, PathsConfig, Reach, Route};
use policy::PacketFilter;
use wire::probe::{Candidates, FRAGMENT_OVERHEAD, Fragment, MAX_FRAGMENTS, Note};

use self::pings::Ping;
use crate::flows::Flows;
use crate::fragment::Reassembly;
use crate::outbox::Outbox;
use crate::packet::Header;
use crate::session::{Due, INIT, OVERHEAD, Rekey, Session};
use crate::types::{Event, PacketError, PeerConfig, PeerStatus};
use crate::wireguard::WireGuard;

/// One peer.
pub(crate) struct Peer {
    pub(crate) config: PeerConfig,
    /// The 24 bits by which its datagrams name it.
    pub(crate) index: u32,
    local: Ipv6Addr,
    session: Session<WireGuard>,
    paths: Paths,
    filter: Arc<PacketFilter>,
    flows: Flows,
    candidates: Arc<OurCandidates>,
    queue: VecDeque<Vec<u8>>,
    pings: Vec<Ping>,
    ping_sequence: u32,
    reassembly: Reassembly,
    fragment_id: u32,
    /// When something last asked for a session.
    wanted_at: Option<Instant>,
    tell_again: Option<(usize, Instant)>,
    /// No beacon is connected; look after the session although nobody sends.
    beaconless: bool,
    keep_at: Option<Instant>,
    control: Vec<u8>,
    scratch: Vec<u8>,
    tx_bytes: u64,
    rx_bytes: u64,
    dropped: u64,
}

/// Where we may be reached, as every peer is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct OurCandidates {
    pub(crate) epoch: u32,
    pub(crate) list: Vec<Candidate>,
}

/// What the tunnel gives a new peer.
pub(crate) struct Setting {
    pub(crate) index: u32,
    pub(crate) local: Ipv6Addr,
    pub(crate) noise: WireGuard,
    /// Whether our key is the larger one.
    pub(crate) larger: bool,
    pub(crate) allow_loopback: bool,
    pub(crate) filter: Arc<PacketFilter>,
    pub(crate) candidates: Arc<OurCandidates>,
    pub(crate) seed: u64,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, setting: Setting, now: Instant) -> Self {
        let reach = Reach {
            allow_loopback: setting.allow_loopback,
            overlay: setting.local,
        };
        let paths = PathsConfig {
            peer: config.node,
            reach,
        };
        let mut peer = Self {
            index: setting.index,
            local: setting.local,
            session: Session::new(setting.noise, setting.larger, setting.seed),
            paths: Paths::new(paths, setting.seed.rotate_left(32), now),
            filter: setting.filter,
            flows: Flows::new(0),
            candidates: setting.candidates,
            queue: VecDeque::new(),
            pings: Vec::new(),
            ping_sequence: 0,
            reassembly: Reassembly::default(),
            fragment_id: 0,
            wanted_at: None,
            tell_again: None,
            beaconless: true,
            keep_at: None,
            control: Vec::new(),
            scratch: Vec::new(),
            tx_bytes: 0,
            rx_bytes: 0,
            dropped: 0,
            config,
        };
        peer.learn_known(now);
        peer
    }

    /// A peer that was reached before a restart is called at once: with the beacon gone, both must
    /// call for their NATs to open.
    pub(crate) fn call_if_known(&mut self, out: &mut Outbox, now: Instant) {
        if !self.config.last_good.is_empty() {
            self.want(out, now);
        }
    }

    pub(crate) fn update(
        &mut self,
        config: PeerConfig,
        connected: &[wire::NodeId],
        out: &mut Outbox,
        now: Instant,
    ) {
        if self.config != config {
            self.config = config;
            self.learn_known(now);
            self.set_relays(connected, out, now);
        }
    }

    fn learn_known(&mut self, now: Instant) {
        let known = self.config.last_good.iter().chain(&self.config.addresses);
        self.paths.set_known(known.copied(), now);
    }

    pub(crate) fn set_filter(&mut self, filter: &Arc<PacketFilter>, now: Instant) {
        self.filter = filter.clone();
        let node = &self.config.node;
        self.flows
            .handle_filter(|packet| filter.allows(node, packet), now);
    }

    /// How many flows it may have from now on.
    pub(crate) fn set_flows(&mut self, room: usize) {
        self.flows.set_room(room);
    }

    pub(crate) fn set_candidates(
        &mut self,
        candidates: &Arc<OurCandidates>,
        out: &mut Outbox,
        now: Instant,
    ) {
        self.candidates = candidates.clone();
        self.tell_candidates(out, now);
    }

    /// The beacons that are connected now.
    pub(crate) fn set_relays(
        &mut self,
        connected: &[wire::NodeId],
        out: &mut Outbox,
        now: Instant,
    ) {
        let mut usable: Vec<_> = self.config.relays.clone();
        // Also those over which it was heard, though its record does not name them (yet).
        usable.extend(
            self.paths
                .relays()
                .iter()
                .filter(|relay| !self.config.relays.contains(relay)),
        );
        usable.retain(|relay| connected.contains(relay));
        self.beaconless = connected.is_empty();
        self.keep_at = self.beaconless.then_some(now + KEEP);
        self.paths.set_relays(&usable, connected, now);
        if self.session.is_pending() && !usable.is_empty() {
            // The initiation under way was made before this relay was there.
            self.send_init(out, now);
        }
        self.act(out, now);
    }

    pub(crate) fn handle_net_change(&mut self, out: &mut Outbox, now: Instant) {
        self.paths.handle_net_change(now);
        self.act(out, now);
    }

    pub(crate) fn handle_link_error(&mut self, link: &Link, out: &mut Outbox, now: Instant) {
        self.paths.handle_link_error(link, now);
        self.act(out, now);
    }

    /// Whether this link was of use with the peer.
    pub(crate) fn knows(&self, link: &Link) -> bool {
        self.paths.primary() == Some(*link) || self.paths.openings().any(|known| known == *link)
    }

    /// Sends an inner packet of this node, or keeps it until there is a session.
    pub(crate) fn send(
        &mut self,
        packet: &[u8],
        header: &Header,
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), PacketError> {
        // Its own filter decides on what comes from us; who leaves gets no more than last words.
        if self.config.leaving && !header.is_router() {
            self.dropped += 1;
            return Err(PacketError::Denied);
        }
        self.flows.handle_outbound(header, now);
        self.paths.handle_app(now);
        let sent = if !self.session.is_ready(now) {
            self.enqueue(packet, out, now)
        } else {
            self.wanted_at = Some(now);
            self.transmit(packet, out, now)
        };
        self.act(out, now);
        sent
    }

    fn enqueue(
        &mut self,
        packet: &[u8],
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), PacketError> {
        self.want(out, now);
        if self.queue.len() >= MAX_QUEUE {
            self.dropped += 1;
            return Err(PacketError::QueueFull);
        }
        self.queue.push_back(packet.to_vec());
        Ok(())
    }

    /// Asks for a session.
    fn want(&mut self, out: &mut Outbox, now: Instant) {
        self.wanted_at = Some(now);
        if !self.session.is_pending() {
            self.initiate(out, now);
        }
    }

    fn initiate(&mut self, out: &mut Outbox, now: Instant) {
        if self.session.initiate(now) {
            self.send_init(out, now);
        }
    }

    /// The same bytes on every way that may lead there.
    fn send_init(&mut self, out: &mut Outbox, _now: Instant) {
        let Some(init) = self.session.pending_init() else {
            return;
        };
        for link in self.paths.openings() {
            out.transmit_bytes(link, init);
        }
    }

    /// Sends an inner packet on the route, whole or in parts.
    fn transmit(
        &mut self,
        packet: &[u8],
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), PacketError> {
        let Some(route) = self.paths.route() else {
            self.dropped += 1;
            return Err(PacketError::NoLink);
        };
        if packet.len() <= route.size {
            self.seal(packet, &route, out);
        } else {
            self.transmit_parts(packet, &route, out);
        }
        self.tx_bytes += packet.len() as u64;
        self.paths.handle_sent(packet.len(), now);
        self.rekey(out, now);
        Ok(())
    }

    fn transmit_parts(&mut self, packet: &[u8], route: &Route, out: &mut Outbox) {
        let most = route.size - FRAGMENT_OVERHEAD;
        let count = packet.len().div_ceil(most).min(MAX_FRAGMENTS);
        let each = packet.len().div_ceil(count);
        self.fragment_id = self.fragment_id.wrapping_add(1);
        let mut scratch = std::mem::take(&mut self.scratch);
        for (index, part) in packet.chunks(each).enumerate() {
            let index = u8::try_from(index).expect("at most MAX_FRAGMENTS");
            let count = u8::try_from(count).expect("at most MAX_FRAGMENTS");
            let fragment = Fragment {
                id: self.fragment_id,
                index,
                count,
                part,
            };
            scratch.clear();
            fragment.encode(self.local, self.config.overlay, &mut scratch);
            self.seal(&scratch, route, out);
        }
        self.scratch = scratch;
    }

    /// Encrypts a packet into the outbox; the same ciphertext once more where the route says so.
    fn seal(&mut self, packet: &[u8], route: &Route, out: &mut Outbox) {
        let room = out.wire_room((packet.len() + OVERHEAD).max(INIT));
        if let Some(size) = self.session.seal(packet, room) {
            out.transmit(route.link, size);
            if let Some(copy) = route.copy {
                out.transmit_again(copy, size);
            }
        }
    }

    /// A control packet on this link, from `scratch`.
    fn send_control(
        &mut self,
        link: Link,
        out: &mut Outbox,
        write: impl FnOnce(&mut Vec<u8>, Ipv6Addr, Ipv6Addr),
    ) {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write(&mut scratch, self.local, self.config.overlay);
        let route = Route {
            link,
            copy: None,
            size: scratch.len(),
        };
        self.seal(&scratch, &route, out);
        self.scratch = scratch;
    }

    fn rekey(&mut self, out: &mut Outbox, now: Instant) {
        match self.session.rekey(now) {
            Rekey::None => {}
            Rekey::Initiate => self.initiate(out, now),
            Rekey::Ask => self.send_note(Note::PleaseInit, out),
        }
    }

    fn send_note(&mut self, note: Note, out: &mut Outbox) {
        if let Some(route) = self.paths.route() {
            self.send_control(route.link, out, |bytes, from, to| {
                note.encode(from, to, bytes)
            });
        }
    }

    fn tell_candidates(&mut self, out: &mut Outbox, now: Instant) {
        let Some(route) = self.paths.route().filter(|_| self.session.is_ready(now)) else {
            return;
        };
        let ours = self.candidates.clone();
        self.send_control(route.link, out, |bytes, from, to| {
            Candidates::encode(ours.epoch, &ours.list, from, to, bytes);
        });
    }

    /// A key stands. `fresh` says that there was none before.
    fn established(&mut self, fresh: bool, out: &mut Outbox, now: Instant) {
        out.tell(Event::HandshakeDone {
            peer: self.config.node,
        });
        if fresh {
            self.paths.handle_session(now);
            let (link, why) = (self.paths.primary(), self.paths.why());
            out.tell(Event::PathChanged {
                peer: self.config.node,
                link,
                why,
            });
            self.tell_again = Some((0, now + TELL_AGAIN[0]));
        }
        while let Some(packet) = self.queue.pop_front() {
            // A packet that finds no link is counted there.
            let _ = self.transmit(&packet, out, now);
        }
        self.send_pings(out, now);
        self.act(out, now);
    }

    /// Carries out what the paths decided.
    fn act(&mut self, out: &mut Outbox, now: Instant) {
        while let Some(action) = self.paths.poll_action() {
            let ready = self.session.is_ready(now);
            match action {
                Action::Probe { link, probe, size } if ready => {
                    self.send_control(link, out, |bytes, from, to| {
                        probe.encode(from, to, size, bytes)
                    });
                    if self.paths.primary() == Some(link) {
                        self.paths.handle_sent(size, now);
                        self.rekey(out, now);
                    }
                }
                Action::Note(note) if ready => self.send_note(note, out),
                Action::TellCandidates => self.tell_candidates(out, now),
                Action::Changed { link, why } => {
                    if self.paths.last_heard().is_some() {
                        out.tell(Event::PathChanged {
                            peer: self.config.node,
                            link,
                            why,
                        });
                    }
                }
                Action::Good(remote) => out.tell(Event::GoodAddress {
                    peer: self.config.node,
                    remote,
                }),
                Action::Probe { .. } | Action::Note(_) => {}
            }
        }
    }

    /// When to call `handle_timeout`.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let session = self.session.poll_timeout();
        let paths = self.paths.poll_timeout();
        let tell = self.tell_again.map(|(_, at)| at);
        session
            .into_iter()
            .chain(paths)
            .chain(tell)
            .chain(self.keep_at)
            .chain(self.distress_at(now))
            .min()
    }

    /// When silence on all paths means that the peer may have lost the session.
    fn distress_at(&self, now: Instant) -> Option<Instant> {
        let since = self
            .paths
            .silent_since(now)
            .filter(|_| !self.session.is_pending())?;
        Some((since + DISTRESS).max(self.session.next_unasked().unwrap_or(since)))
    }

    pub(crate) fn handle_timeout(&mut self, out: &mut Outbox, now: Instant) {
        match self.session.handle_timeout(now) {
            Some(Due::Copy) => self.send_init(out, now),
            Some(Due::Failed) => self.retry(out, now),
            None => {}
        }
        self.paths.handle_timeout(now);
        if self.distress_at(now).is_some_and(|at| at <= now)
            && self.session.may_initiate_unasked(now)
        {
            self.initiate(out, now);
        }
        if self.keep_at.is_some_and(|at| at <= now) {
            self.keep_at = Some(now + KEEP);
            let lost = !self.session.is_ready(now) && !self.session.is_pending();
            if lost && (self.paths.wants_direct(now) || !self.config.last_good.is_empty()) {
                self.initiate(out, now);
            }
        }
        if let Some((step, _)) = self.tell_again.filter(|(_, at)| *at <= now) {
            self.tell_again = TELL_AGAIN
                .get(step + 1)
                .map(|&after| (step + 1, now + after));
            self.tell_candidates(out, now);
        }
        self.act(out, now);
    }

    /// An attempt to shake hands failed: another, as long as somebody wants it.
    fn retry(&mut self, out: &mut Outbox, now: Instant) {
        let wanted = |at: Instant| now.saturating_duration_since(at) < WANTED;
        // A peer that is there will answer; and boringtun would take an attempt that was given up
        // for one that failed, 90 s later, and forget the live session over it.
        if self.wanted_at.is_some_and(wanted) || self.session.is_ready(now) {
            self.initiate(out, now);
        } else {
            self.session.give_up();
            self.dropped += self.queue.len() as u64;
            self.queue.clear();
            self.pings.clear();
        }
    }

    pub(crate) fn status(&self, now: Instant) -> PeerStatus {
        let past = |at: Instant| now.saturating_duration_since(at);
        let ready = self.session.is_ready(now);
        PeerStatus {
            node: self.config.node,
            link: self.paths.primary().filter(|_| ready),
            why: match ready {
                true => self.paths.why(),
                false if self.session.is_pending() => "waiting for an answer to the handshake",
                false => "no session",
            },
            rtt: self.paths.rtt().filter(|_| ready),
            last_handshake: self.session.age(now),
            last_heard: self.paths.last_heard().map(past),
            handshakes: self.session.handshakes(),
            tx_bytes: self.tx_bytes,
            rx_bytes: self.rx_bytes,
            queued: self.queue.len(),
            dropped: self.dropped,
            flows: self.flows.status(now),
        }
    }
}

/// Packets that wait for a session, as boringtun and the kernel have it in some form.
const MAX_QUEUE: usize = 256;

/// Silence on every path for so long: the peer may have restarted and lost its keys. Longer than a
/// suspicion takes, so that it is never the path's fault alone.
const DISTRESS: Duration = Duration::from_millis(2500);

/// How long a session is tried for after it was last wanted: WireGuard's REKEY_ATTEMPT_TIME.
const WANTED: Duration = Duration::from_secs(90);

/// How often a lost session is tried for while no beacon is connected: as often as a NAT needs it.
const KEEP: Duration = Duration::from_secs(12);

/// Our candidates are told with the session and again, as nothing acknowledges them.
const TELL_AGAIN: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_millis(900),
    Duration::from_secs(3),
];
