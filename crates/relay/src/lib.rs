//! The relay server: passes ciphertext between the members of a mesh, by node id.
//!
//! It judges no pair of members and reads no policy: who may come in is the
//! [`Gatekeeper`](net::beacon::Gatekeeper)'s word, and what a datagram means is for the WireGuard
//! sessions at both ends. It answers nobody who does not speak its protocol.
//!
//! ```text
//! UDP ─► quic ────┐             ┌─► Core: who is here, queues, limits, counters
//!                 ├─► session ──┤
//! TCP ─► tls443 ──┘             └─► MapSession: the coordinator
//! ```
#![forbid(unsafe_code)]

pub mod core;

mod hub;
mod quic;
mod server;
mod session;
mod tls443;

pub use crate::core::{Counts, Limits};
pub use hub::Monitor;
pub use net::beacon::Cut;
pub use server::{Relay, RelayConfig, RelayError, run};
