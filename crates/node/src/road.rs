//! The road of packets, as every gateway has it: mesh socket, tunnel, data plane, and the QUIC
//! endpoint over them. [`run`](crate::run()) lays one; `crabmesh bench` measures one by itself.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Instant;

use identity::{IdentityKey, NodeId, WireGuardKey};
use net::outer::OuterSocket;
use net::tls::KeyVerifier;
use net::udp::MeshSocket;
use tokio::sync::mpsc;
use tunnel::{Tunnel, TunnelConfig};

use crate::plane::{Plane, PlaneCommand, PlaneEvent, PlanePorts, Relayed};
use crate::run::{QUEUE, RunError};

pub use tunnel::{Candidate, CandidateKind, Link, PeerConfig};

/// Whose road.
pub struct RoadConfig<'a> {
    /// The gateway.
    pub node: NodeId,
    /// Its WireGuard key.
    pub wireguard: WireGuardKey,
    /// Its address inside the mesh.
    pub overlay: Ipv6Addr,
    /// Whether peers may be met on this host's loopback.
    pub allow_loopback: bool,
    /// Its identity, for QUIC.
    pub identity: &'a IdentityKey,
    /// Whose keys QUIC takes.
    pub verifier: Arc<dyn KeyVerifier>,
    /// Random, for the tunnel.
    pub seed: [u8; 32],
}

/// The road, and the ends of the channels that lead to it.
pub struct Road {
    /// To be run.
    pub plane: Plane,
    /// What the rest of the node asks of it.
    pub commands: mpsc::Sender<PlaneCommand>,
    /// What relays bring.
    pub relayed: mpsc::Sender<Relayed>,
    /// Its news.
    pub events: mpsc::Receiver<PlaneEvent>,
    /// The way of QUIC to beacons, over the same socket.
    pub outer: Arc<OuterSocket>,
    /// QUIC to peers, inside the tunnel.
    pub endpoint: quinn::Endpoint,
    /// How to dial them.
    pub client: quinn::ClientConfig,
}

impl Road {
    /// Lays a road over this socket. Must be called inside a tokio runtime.
    pub fn lay(socket: Arc<MeshSocket>, config: RoadConfig<'_>) -> Result<Self, RunError> {
        let RoadConfig {
            node,
            wireguard,
            overlay,
            allow_loopback,
            identity,
            verifier,
            seed,
        } = config;
        let (commands, plane_commands) = mpsc::channel(QUEUE);
        let (relayed, from_relays) = mpsc::channel(QUEUE);
        let (plane_events, events) = mpsc::channel(QUEUE);
        let outer = OuterSocket::new(Arc::clone(&socket));
        let (overlay_socket, overlay_port) = net::overlay::overlay(overlay);
        let tunnel_config = TunnelConfig {
            node,
            key: wireguard,
            overlay,
            allow_loopback,
        };
        let tunnel = Tunnel::new(tunnel_config, seed, Instant::now());
        let ports = PlanePorts {
            commands: plane_commands,
            relayed: from_relays,
            events: plane_events,
        };
        let plane = Plane::new(tunnel, socket, Arc::clone(&outer), overlay_port, ports);
        let server = net::endpoint::overlay_server_config(identity, Arc::clone(&verifier))?;
        let client = net::endpoint::overlay_client_config(identity, verifier)?;
        let endpoint = net::endpoint::overlay_endpoint(overlay_socket, server, identity)
            .map_err(RunError::Socket)?;
        Ok(Self {
            plane,
            commands,
            relayed,
            events,
            outer,
            endpoint,
            client,
        })
    }
}
