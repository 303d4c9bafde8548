//! The simulator: whole gateways (real tunnels, real routers) on a simulated network, in virtual
//! time. A seed decides everything, so a seed replays a run. (But for one thing: boringtun reads the
//! real wall clock as a gateway starts, so two starts within a moment may differ by a handshake.)
//!
//! ```text
//! Scenario (from a seed) ─► World { Gateway × n, Network (NATs, loss, relay) } ─► violations
//! ```
//! What is checked are the invariants of paths.md §1 (I1, I3, I4, I5, I7, I11, I12), and of requests
//! that each is answered and nobody hears two answers. Gateways are killed at any time, and on purpose
//! moments after their agent sent, acked, answered or took an answer; disks are full and
//! policies closed for a while; agents forget, reject, leave and come back; some messages live for
//! seconds. What comes to nothing by any of these must be named.
#![forbid(unsafe_code)]

pub mod clock;
mod gateway;
mod nat;
mod network;
mod scenario;
mod stream;
mod world;

pub use nat::{Filtering, Mapping, Nat};
pub use scenario::{Deed, Fault, Scenario};
pub use world::{Report, World};
