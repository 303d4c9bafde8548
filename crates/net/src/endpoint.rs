//! The QUIC endpoints and what their transports are tuned for.
//!
//! | endpoint | socket | role | idle |
//! |---|---|---|---|
//! | outer | the mesh socket | dials beacons | pings every 15 s: this keeps the NAT mapping |
//! | overlay | the tunnel | dials and accepts peers | says nothing, and ends after 90 s of silence |
//! | beacon | a UDP socket of its own | accepts links | waits for the clients' pings |

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use identity::IdentityKey;
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    Runtime, TokioRuntime, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use socket2::{Domain, Protocol, Socket, Type};

use crate::beacon::quiet::QuietSocket;
use crate::outer::OuterSocket;
use crate::overlay::{MAX_PAYLOAD, OverlaySocket};
use crate::tls::{self, KeyVerifier, TlsError};
use crate::udp::enlarge_buffers;

/// The endpoint that dials beacons over the mesh socket. It accepts nobody.
///
/// Must be called inside a tokio runtime, as must the others here.
pub fn outer_endpoint(socket: Arc<OuterSocket>) -> io::Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false); // the fixed bit tells QUIC from WireGuard
    Endpoint::new_with_abstract_socket(config, None, socket, Arc::new(TokioRuntime))
}

/// The endpoint of the router inside the tunnel: accepts with `server`, dials with
/// [`overlay_client_config`].
///
/// Its stateless resets (RFC 9000 §10.3) are keyed by the node's identity, so that a restarted
/// gateway ends its old connections at the peers' first packet, instead of after their timeout.
pub fn overlay_endpoint(
    socket: Arc<OverlaySocket>,
    server: quinn::ServerConfig,
    key: &IdentityKey,
) -> io::Result<Endpoint> {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.to_bytes().as_ref());
    let reset = hmac::sign(&secret, b"crabmesh overlay stateless reset v1");
    let mut config =
        EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())));
    // Quinn's default ids carry a checksum under a random key, and a reset is only sent for ids
    // that pass it: after a restart none would.
    config.cid_generator(|| Box::new(RandomIds));
    config.grease_quic_bit(false);
    config
        .max_udp_payload_size(OVERLAY_PAYLOAD)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Endpoint::new_with_abstract_socket(config, Some(server), socket, Arc::new(TokioRuntime))
}

/// The endpoint of a beacon, on a UDP socket of its own; `[::]` takes IPv4 too.
///
/// Its connection ids carry a checksum, and its stateless resets a secret, both keyed by the
/// beacon's identity: after a restart the clients of old connections are told at their first
/// packet, and anything else of unknown id is met with silence.
pub fn beacon_endpoint(
    listen: SocketAddr,
    server: quinn::ServerConfig,
    key: &IdentityKey,
) -> io::Result<Endpoint> {
    let socket = Socket::new(
        Domain::for_address(listen),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if listen.is_ipv6() {
        socket.set_only_v6(!listen.ip().is_unspecified())?;
    }
    enlarge_buffers(&socket);
    socket.bind(&listen.into())?;
    let secret = hmac::Key::new(hmac::HMAC_SHA256, key.to_bytes().as_ref());
    let reset = hmac::sign(&secret, b"crabmesh beacon stateless reset v1");
    let ids = hmac::sign(&secret, b"crabmesh beacon connection ids v1");
    let ids = u64::from_le_bytes(
        *ids.as_ref()
            .first_chunk()
            .expect("HMAC-SHA-256 is 32 bytes"),
    );
    let mut config =
        EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref())));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config.grease_quic_bit(false); // the clients tell QUIC from WireGuard by the fixed bit
    let socket = QuietSocket(TokioRuntime.wrap_udp_socket(socket.into())?);
    Endpoint::new_with_abstract_socket(
        config,
        Some(server),
        Arc::new(socket),
        Arc::new(TokioRuntime),
    )
}

/// How a node dials a peer inside the tunnel: `verifier` wants that peer's identity key.
pub fn overlay_client_config(
    key: &IdentityKey,
    verifier: Arc<dyn KeyVerifier>,
) -> Result<quinn::ClientConfig, TlsError> {
    let mut config = tls::client_config(key, wire::peer::ALPN, verifier)?;
    config.transport_config(Arc::new(overlay_transport()));
    Ok(config)
}

/// How a node accepts peers inside the tunnel.
pub fn overlay_server_config(
    key: &IdentityKey,
    verifier: Arc<dyn KeyVerifier>,
) -> Result<quinn::ServerConfig, TlsError> {
    let mut config = tls::server_config(key, wire::peer::ALPN, verifier)?;
    config.transport_config(Arc::new(overlay_transport()));
    config.migration(false); // an overlay address is a node's for good
    config
        .max_incoming(64)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(1 << 20);
    Ok(config)
}

/// How a client dials a beacon.
pub fn link_client_config(
    key: &IdentityKey,
    verifier: Arc<dyn KeyVerifier>,
) -> Result<quinn::ClientConfig, TlsError> {
    let mut config = tls::client_config(key, wire::link::ALPN, verifier)?;
    let mut transport = link_transport();
    transport.keep_alive_interval(Some(LINK_KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// How a beacon accepts links.
pub fn link_server_config(
    key: &IdentityKey,
    verifier: Arc<dyn KeyVerifier>,
) -> Result<quinn::ServerConfig, TlsError> {
    let mut config = tls::server_config(key, wire::link::ALPN, verifier)?;
    let mut transport = link_transport();
    // The beacon opens the one stream. Until the client has proved itself, it may send what a
    // stranger may; then the relay opens the window (`Connection::set_receive_window`).
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(
            wire::link::PRE_AUTHENTICATION_BYTES as u32,
        ));
    config.transport_config(Arc::new(transport));
    // Clients behind NATs move; what they sent before their turn is bounded in number and bytes.
    config.migration(true);
    config
        .max_incoming(1024)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(8 << 20);
    Ok(config)
}

/// Inside the tunnel.
pub fn overlay_transport() -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(OVERLAY_PAYLOAD);
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(MIN_PAYLOAD)
        .min_mtu(MIN_PAYLOAD)
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(None)
        .max_idle_timeout(Some(idle(OVERLAY_IDLE)))
        // Bidirectional ones carry the parts of answers, one each; of the others each side opens three.
        .max_concurrent_bidi_streams(PARTS_AT_FIRST)
        .max_concurrent_uni_streams(VarInt::from_u32(16))
        // What a peer may make us hold, and we hold for it: with 50 peers that all stall us,
        // half of a container of 256 MB. A stream's share carries 100 Mbit/s over 100 ms.
        .stream_receive_window(VarInt::from_u32(1_250_000))
        .receive_window(VarInt::from_u32(2_500_000))
        .send_window(2_500_000)
        .datagram_receive_buffer_size(None);
    transport
}

/// Answers whose parts a peer may be sent at once, before the first is
/// ([`quinn::Connection::set_max_concurrent_bi_streams`]). quinn keeps 170 bytes for each that may be, in
/// every connection: few pairs of gateways use it, and 1,024 with 50 peers were 8.6 MB.
const PARTS_AT_FIRST: VarInt = VarInt::from_u32(16);

/// The same, after the first. Proposed by us: five times what a busy pair of gateways was measured
/// with.
pub const PARTS_AT_ONCE: VarInt = VarInt::from_u32(1024);

fn link_transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(MIN_PAYLOAD)
        .max_idle_timeout(Some(idle(LINK_IDLE)))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(1_250_000))
        .receive_window(VarInt::from_u32(1_250_000))
        .send_window(2_500_000)
        // Relayed datagrams, oldest dropped first: 50 ms at 80 Mbit/s.
        .datagram_receive_buffer_size(Some(512 << 10))
        .datagram_send_buffer_size(512 << 10);
    transport
}

fn idle(timeout: Duration) -> IdleTimeout {
    IdleTimeout::try_from(timeout).expect("seconds fit a varint of milliseconds")
}

/// Connection ids of 8 random bytes that say nothing about who made them.
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).expect("the kernel has random bytes");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// QUIC's floor (RFC 9000 §14).
const MIN_PAYLOAD: u16 = 1200;

/// [`MAX_PAYLOAD`] in quinn's type.
const OVERLAY_PAYLOAD: u16 = MAX_PAYLOAD as u16;

/// A connection inside the tunnel that says nothing for so long is gone without a packet; the
/// next message pays one more round trip. Long enough that a short outage does not end it.
const OVERLAY_IDLE: Duration = Duration::from_secs(90);

/// Home relay pings (paths.md §1, idle budget): 240 an hour.
const LINK_KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One ping with all its retransmissions, and then some.
const LINK_IDLE: Duration = Duration::from_secs(20);
