//! Where one peer is: its candidates, the probes that prove them, and the link its data takes.
//!
//! ```text
//! candidates ─► Pair (one address, its probes) ─► Paths (all of one peer) ─► Route
//! ```
//! A path is proven by a probe that rode inside the session at data size and was answered on the
//! same link; nothing unproven ever replaces a working relay. Knows no keys and no WireGuard: the
//! tunnel carries out each [`Action`] and reports what it authenticated.
#![forbid(unsafe_code)]

mod link;
mod pair;
mod paths;
mod random;

pub use link::{Link, Reach};
pub use paths::{Action, Paths, PathsConfig, RELAY_SIZE, Route};
pub use random::Random;
pub use wire::probe::{Candidate, CandidateKind};
