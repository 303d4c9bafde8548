//! The network of a node: the mesh socket in batches, QUIC over it and over the tunnel, TLS by raw
//! public keys, names and local addresses.
//!
//! ```text
//!                ┌───────────── data plane (node) ─────────────┐
//!  udp ◄────────►│ demux ─► Tunnel ◄──── inner packets ───────►│◄──► overlay ◄──► quinn (peers)
//!                └─────────┬───────────────────────────────────┘
//!                          └─ QUIC of dialled beacons ─► outer ◄──► quinn (beacons)
//! ```

pub mod allocations;
pub mod beacon;
pub mod demux;
pub mod endpoint;
pub mod interfaces;
pub mod link;
pub mod outer;
pub mod overlay;
pub mod resolver;
mod ring;
pub mod tls;
pub mod udp;
