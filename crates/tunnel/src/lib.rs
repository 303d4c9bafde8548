//! How packets reach peers: a WireGuard session and the paths under it for each of them, routes by
//! destination, the source check, the packet filter and the flows that its replies belong to.
//!
//! ```text
//! handle_packet ──► route ─► flows ─► fragment ─► seal ─► Path picks a link ───► Output::Transmit
//! handle_datagram ► index ─► open ─► source check ─► reassemble ─► flows, filter ► Output::Deliver
//! ```
//! Sans-IO: time comes in with each call, and the shell drains [`Tunnel::poll_output`] after it.
//! boringtun, which `wireguard.rs` alone names, reads a clock of its own for nothing but the
//! timestamps of its handshakes; every timer is ours.
#![forbid(unsafe_code)]

mod flows;
mod fragment;
mod indices;
mod limiter;
mod outbox;
mod packet;
mod peer;
mod session;
mod slots;
mod tunnel;
mod types;
mod wireguard;

pub use packet::MAX_PACKET;
pub use path::{Candidate, CandidateKind, Link};
pub use tunnel::Tunnel;
pub use types::{
    DatagramError, Event, FlowStatus, Output, PacketError, PeerConfig, PeerStatus, TunnelConfig,
};
