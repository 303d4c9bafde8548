//! The simulator: whole gateways (real tunnels, real routers) on a simulated network, in virtual
//! time. A seed decides everything, so a seed replays a run.
//!
//! ```text
//! Scenario (from a seed) ─► World { Gateway × n, Network (NATs, loss, relay) } ─► violations
//! ```
//! What is checked are the invariants of paths.md §1 (I1, I3, I4, I5, I7, I11, I12).
#![forbid(unsafe_code)]

pub mod clock;
mod gateway;
mod nat;
mod network;
mod scenario;
mod stream;
mod world;

pub use nat::{Filtering, Mapping, Nat};
pub use scenario::{Fault, Scenario};
pub use world::{Report, World};
