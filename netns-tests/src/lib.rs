//! A small internet in network namespaces, for tests that need a kernel: public hosts, homes
//! behind NAT of several kinds, and real `crabmesh` processes in them.
//!
//! Everything is made with `ip` and `nft`, carries documentation addresses (RFC 5737) and is gone
//! after the test, also after one that failed or was killed: each lab sweeps what a dead process
//! left behind.

pub mod agent;
pub mod cage;
pub mod capture;
pub mod lab;
pub mod mesh;
pub mod openclaw;
pub mod process;

pub use agent::AgentClient;
pub use cage::Cage;
pub use capture::Capture;
pub use lab::{Home, Host, Lab, Nat};
pub use mesh::{Gateway, Mesh, OPEN_POLICY};
pub use openclaw::Claw;
pub use process::{Finished, Running};
