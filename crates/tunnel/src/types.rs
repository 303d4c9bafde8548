//! What goes into a [`Tunnel`](crate::Tunnel) and what comes out.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use identity::{NodeId, WireGuardKey, WireGuardPublic};
use path::Link;

/// Who we are.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Our id.
    pub node: NodeId,
    /// Our WireGuard key.
    pub key: WireGuardKey,
    /// Our address inside the mesh.
    pub overlay: Ipv6Addr,
    /// Whether peers may be met on this host's loopback (both sides must say so).
    pub allow_loopback: bool,
}

/// A peer with whom some grant joins us, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its id.
    pub node: NodeId,
    /// Its WireGuard key, from its signed record.
    pub wireguard: WireGuardPublic,
    /// Its address inside the mesh: the only source that its packets may have.
    pub overlay: Ipv6Addr,
    /// The beacons that it is connected to, by its signed record.
    pub relays: Vec<NodeId>,
    /// Where it may be reached, by its signed record.
    pub addresses: Vec<SocketAddr>,
    /// Where it was reached before a restart ([`Event::GoodAddress`], kept by the shell).
    pub last_good: Vec<SocketAddr>,
    /// Set while it is being cut off: our router may still tell it why, and nothing is taken of it
    /// any more, whatever the filter says.
    pub leaving: bool,
}

/// One thing that the shell is to do. Borrows the tunnel's own buffers: nothing is allocated for a
/// packet.
#[derive(Debug)]
pub enum Output<'a> {
    /// Send these datagrams on this link.
    Transmit {
        /// The link.
        link: &'a Link,
        /// Datagrams of `segment_size` bytes back to back; the last may be shorter. At most 64 and
        /// at most 65,507 bytes: one GSO send. On a relay link each is at most 1132 bytes.
        bytes: &'a [u8],
        /// The size of each.
        segment_size: usize,
    },
    /// An inner packet of a peer: decrypted, its source checked; the filter allows it or it answers
    /// a packet of ours.
    Deliver {
        /// The peer.
        peer: NodeId,
        /// One IP packet.
        packet: &'a [u8],
    },
    /// A change worth telling.
    Event(Event),
    /// Drained; call `handle_timeout` at that time.
    Wait(Option<std::time::Instant>),
}

/// A change worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer's data takes another link from now on.
    PathChanged {
        /// The peer.
        peer: NodeId,
        /// The link; `None` where there is none.
        link: Option<Link>,
        /// Why, in a few words for people.
        why: &'static str,
    },
    /// Somebody whom we do not know proved that he has this key; he got no answer.
    UnknownPeer {
        /// His key.
        wireguard: WireGuardPublic,
        /// Where he is.
        link: Link,
    },
    /// A peer was reached straight at this address: worth keeping for after a restart.
    GoodAddress {
        /// The peer.
        peer: NodeId,
        /// The address.
        remote: SocketAddr,
    },
    /// A ping was answered.
    Pong {
        /// The peer.
        peer: NodeId,
        /// From the call of `ping`.
        token: u64,
        /// The link that the answer came by.
        link: Link,
        /// There and back.
        rtt: Duration,
    },
    /// A session with fresh keys stands.
    HandshakeDone {
        /// The peer.
        peer: NodeId,
    },
}

/// The state of one peer, for `status`.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// The link that its data takes; `None` where there is none.
    pub link: Option<Link>,
    /// Why this link and not a better one, in a few words for people.
    pub why: &'static str,
    /// The round trip on that link.
    pub rtt: Option<Duration>,
    /// How long ago the last handshake was; `None` before the first.
    pub last_handshake: Option<Duration>,
    /// How long ago anything authentic came from it; `None` before the first.
    pub last_heard: Option<Duration>,
    /// Handshakes so far; more than 40 an hour are an alarm.
    pub handshakes: u64,
    /// Bytes of inner packets sent.
    pub tx_bytes: u64,
    /// Bytes of inner packets received.
    pub rx_bytes: u64,
    /// Packets that wait for a session.
    pub queued: usize,
    /// Packets dropped: by the filter, a full queue, a foreign source, or for want of a link.
    pub dropped: u64,
    /// The conversations with it under `ip` grants.
    pub flows: FlowStatus,
}

/// How many flows there are with a peer, and what became of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStatus {
    /// Live ones that this node opened: their replies pass.
    pub local: usize,
    /// Live ones that the peer opened, by leave of the filter.
    pub remote: usize,
    /// Those that found no room.
    pub refused: u64,
    /// Those that gave way to a newer one of the same side.
    pub evicted: u64,
    /// Those that a change of policy ended.
    pub cut: u64,
}

/// Why a datagram from the network was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// It is no WireGuard message.
    #[error("not a wireguard message")]
    Malformed,
    /// Its mac1 is wrong: the sender does not know our key.
    #[error("the sender does not know this node's key")]
    Stranger,
    /// Too many handshakes from there.
    #[error("too many handshakes from this source")]
    Flood,
    /// A handshake of a key that we do not know.
    #[error("the handshake is of an unknown key")]
    UnknownPeer,
    /// No session has this index.
    #[error("no session has this index")]
    UnknownSession,
    /// It did not decrypt, came twice, or is too old.
    #[error("it does not authenticate, or came before")]
    Unauthentic,
    /// The inner source address is not that peer's.
    #[error("the inner source address is not the peer's")]
    ForeignSource,
    /// The filter denies it, and it answers nothing of ours.
    #[error("the packet filter denies it")]
    Denied,
    /// The filter allows it, but the peer has as many flows as it may have.
    #[error("the peer has too many flows")]
    TooManyFlows,
    /// What it carries is malformed.
    #[error("the inner packet is malformed")]
    BadPacket,
}

/// Why an inner packet was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// It is no IPv6 packet of at most [`MAX_PACKET`](crate::MAX_PACKET) bytes from our address.
    #[error("not an inner packet of this node")]
    Malformed,
    /// No peer has this destination.
    #[error("no peer has this destination")]
    NoRoute,
    /// The peer is cut off, and this is not our router's last word.
    #[error("the peer is cut off")]
    Denied,
    /// The queue for packets without a session is full.
    #[error("the queue for packets without a session is full")]
    QueueFull,
    /// There is no link to the peer now.
    #[error("no link to the peer")]
    NoLink,
}
