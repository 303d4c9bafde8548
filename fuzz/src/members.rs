//! `tunnel`: what strangers send to the mesh socket, and what a member sends inside its session.
//!
//! The input is a list of acts against a gateway that has a live session with one peer. The peer is
//! boringtun itself, so it can seal what no honest tunnel would. Whatever the gateway takes in is
//! held against the rules for replies (`replies`).

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use identity::{NodeId, WireGuardKey};
use policy::{Document, Node, PacketFilter, Policy};
use tunnel::{Candidate, CandidateKind, Link, Output, PeerConfig, Tunnel, TunnelConfig};
use wire::probe::NEXT_HEADER;

use crate::replies::Witness;

/// A gateway, its hostile peer, and the beacon between them.
pub const GATEWAY: NodeId = NodeId([1; 16]);
/// The peer.
pub const PEER: NodeId = NodeId([2; 16]);
/// The relay.
pub const RELAY: NodeId = NodeId([9; 16]);
/// The gateway's address inside the mesh.
pub const GATEWAY_OVERLAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// The peer's.
pub const PEER_OVERLAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

const ROUTER_PORT: u16 = 4747;

static FILTER: LazyLock<PacketFilter> = LazyLock::new(|| {
    let text = r#"{"grants": [{"src": ["*"], "dst": ["*"], "msg": ["send"], "ip": ["udp:5000"]}]}"#;
    let (document, _) = Document::parse("fuzz", text).expect("a policy");
    let node = |id, name: &str, address: Ipv6Addr| Node {
        addresses: vec![address.into()],
        ..Node::new(id, name.parse().expect("a name"))
    };
    let nodes = [
        node(GATEWAY, "gateway", GATEWAY_OVERLAY),
        node(PEER, "peer", PEER_OVERLAY),
    ];
    Policy::compile(&document, &nodes).packet_filter(&GATEWAY, ROUTER_PORT, identity::UnixTime(0))
});

/// Acts, each a byte of kind, two of length (little endian), and that many bytes.
pub fn tunnel(bytes: &[u8]) {
    let mut fight = Fight::begin();
    let mut rest = bytes;
    for _ in 0..MAX_ACTS {
        let Some((&[kind, low, high], after)) = rest.split_first_chunk::<3>() else {
            break;
        };
        let length = usize::from(u16::from_le_bytes([low, high])) % MAX_LENGTH;
        let (part, after) = after.split_at(length.min(after.len()));
        fight.act(kind, part);
        rest = after;
    }
    assert_eq!(fight.gateway.status(fight.now).count(), 1);
}

/// One run.
struct Fight {
    gateway: Tunnel,
    peer: Tunn,
    now: Instant,
    filter: PacketFilter,
    witness: Witness,
    /// How many packets the gateway took in.
    delivered: usize,
}

impl Fight {
    /// A gateway and a peer whose session stands.
    fn begin() -> Self {
        let now = Instant::now();
        let keys = [[3; 32], [4; 32]].map(WireGuardKey::generate);
        let config = TunnelConfig {
            node: GATEWAY,
            key: keys[0].clone(),
            overlay: GATEWAY_OVERLAY,
            allow_loopback: true,
        };
        let mut gateway = Tunnel::new(config, [5; 32], now);
        gateway.set_filter(FILTER.clone(), now);
        gateway.set_relays(&[RELAY], now);
        let candidate = Candidate {
            addr: address(1),
            kind: CandidateKind::Observed,
        };
        gateway.set_candidates(vec![candidate], now);
        let peer = PeerConfig {
            node: PEER,
            wireguard: keys[1].public(),
            overlay: PEER_OVERLAY,
            relays: vec![RELAY],
            addresses: vec![address(2)],
            last_good: Vec::new(),
            leaving: false,
        };
        gateway.set_peers(&[peer], now);
        let secret = StaticSecret::from(*keys[1].to_bytes());
        let peer = Tunn::new(
            secret,
            PublicKey::from(keys[0].public().0),
            None,
            None,
            7,
            None,
        );
        let mut fight = Self {
            gateway,
            peer,
            now,
            filter: FILTER.clone(),
            witness: Witness::default(),
            delivered: 0,
        };
        fight.drain();
        let mut out = vec![0; 2048];
        if let TunnResult::WriteToNetwork(init) =
            fight.peer.format_handshake_initiation(&mut out, true)
        {
            let mut init = init.to_vec();
            fight.receive(relay(), &mut init);
        }
        fight
    }

    fn act(&mut self, kind: u8, part: &[u8]) {
        match kind % 9 {
            0 => self.receive(direct(), &mut part.to_vec()),
            1 => self.receive(relay(), &mut part.to_vec()),
            2 => self.seal(relay(), part, None),
            3 => self.seal(direct(), part, None),
            4 => self.seal(relay(), &control(part), None),
            5 => {
                let ms = part
                    .iter()
                    .take(3)
                    .fold(0, |ms, byte| ms << 8 | u64::from(*byte));
                self.now += Duration::from_millis(ms);
                self.gateway.handle_timeout(self.now);
                self.drain();
            }
            6 => {
                if self.gateway.handle_packet(part, self.now).is_ok() {
                    self.witness.handle_sent(part);
                }
                self.drain();
            }
            8 => {
                self.filter = match part.first() {
                    Some(0) => PacketFilter::deny_all(),
                    _ => FILTER.clone(),
                };
                self.gateway.set_filter(self.filter.clone(), self.now);
            }
            _ => self.seal(direct(), &control(part), part.first().copied()),
        }
    }

    /// The peer seals an inner packet; one byte of it may be bent on the way.
    fn seal(&mut self, link: Link, packet: &[u8], bend: Option<u8>) {
        let mut out = vec![0; packet.len() + 256];
        if let TunnResult::WriteToNetwork(datagram) = self.peer.encapsulate(packet, &mut out) {
            let mut datagram = datagram.to_vec();
            if let Some(at) = bend {
                let at = usize::from(at) % datagram.len();
                datagram[at] ^= 0x40;
            }
            self.receive(link, &mut datagram);
        }
    }

    fn receive(&mut self, link: Link, datagram: &mut [u8]) {
        let _ = self.gateway.handle_datagram(&link, datagram, self.now);
        self.drain();
    }

    /// Takes all that the gateway wants done. What it hands to its inner network comes from the
    /// peer's own address; what it sends, the peer reads.
    fn drain(&mut self) {
        let mut replies = Vec::new();
        for _ in 0..MAX_OUTPUTS {
            match self.gateway.poll_output() {
                Output::Deliver { peer, packet } => {
                    self.delivered += 1;
                    assert_eq!(peer, PEER);
                    assert_eq!(
                        packet.get(8..24),
                        Some(&PEER_OVERLAY.octets()[..]),
                        "foreign source"
                    );
                    assert_eq!(packet.get(24..40), Some(&GATEWAY_OVERLAY.octets()[..]));
                    self.witness.handle_entered(packet, &PEER, &self.filter);
                }
                Output::Transmit {
                    bytes,
                    segment_size,
                    ..
                } => {
                    assert!(segment_size > 0 && bytes.len() <= 65_507);
                    replies.extend(bytes.chunks(segment_size).map(<[u8]>::to_vec));
                }
                Output::Event(_) => {}
                Output::Wait(_) => return self.answer(&replies),
            }
        }
        panic!("the gateway never comes to rest");
    }

    /// The peer finishes handshakes that the gateway takes part in.
    fn answer(&mut self, datagrams: &[Vec<u8>]) {
        let mut out = vec![0; 65_600];
        for datagram in datagrams
            .iter()
            .filter(|datagram| matches!(datagram.first(), Some(1 | 2)))
        {
            if let TunnResult::WriteToNetwork(reply) =
                self.peer.decapsulate(None, datagram, &mut out)
            {
                let mut reply = reply.to_vec();
                let _ = self.gateway.handle_datagram(&relay(), &mut reply, self.now);
            }
        }
    }
}

/// An inner packet of the session's own kind (`wire::probe`), from the peer to the gateway.
pub fn control(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([NEXT_HEADER, 1]);
    packet.extend(PEER_OVERLAY.octets());
    packet.extend(GATEWAY_OVERLAY.octets());
    packet.extend(body);
    packet
}

fn relay() -> Link {
    Link::Relay {
        relay: RELAY,
        peer: PEER,
    }
}

fn direct() -> Link {
    Link::Direct { remote: address(2) }
}

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], 4747))
}

/// Enough for a story; a longer one only costs time.
const MAX_ACTS: usize = 64;
const MAX_LENGTH: usize = 2048;
const MAX_OUTPUTS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hostile_member_has_a_session_and_only_its_own_packets_pass() {
        let mut fight = Fight::begin();
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        packet.extend(PEER_OVERLAY.octets());
        packet.extend(GATEWAY_OVERLAY.octets());
        packet.extend([0x13, 0x88, 0x13, 0x88, 0, 8, 0, 0]);
        let mut foreign = packet.clone();
        foreign[23] = 9;

        fight.act(2, &packet);
        fight.act(2, &foreign);

        assert_eq!(fight.delivered, 1);
    }

    #[test]
    fn a_reply_passes_and_is_witnessed() {
        let mut fight = Fight::begin();
        let packet = |from: Ipv6Addr, to: Ipv6Addr, ports: [u8; 4]| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(ports);
            packet.extend([0, 8, 0, 0]);
            packet
        };
        let reply = packet(PEER_OVERLAY, GATEWAY_OVERLAY, [0, 53, 0x20, 0]);

        fight.act(2, &reply);
        assert_eq!(fight.delivered, 0);
        fight.act(6, &packet(GATEWAY_OVERLAY, PEER_OVERLAY, [0x20, 0, 0, 53]));
        fight.act(8, &[0]);
        fight.act(2, &reply);

        assert_eq!(fight.delivered, 1);
    }
}
