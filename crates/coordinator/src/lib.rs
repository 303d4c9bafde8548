//! The coordinator of a beacon: rendezvous, map, presence, enrolment.
//!
//! It is an untrusted cache. Everything that authorises is signed elsewhere and verified by who
//! receives it; a hostile coordinator can withhold and lie about presence, and nothing else. The
//! deciding half is [`core::Core`]; [`serve::Coordinator`] drives it and is the gate of the relay.
#![forbid(unsafe_code)]

pub mod accept;
pub mod core;
pub mod enroll;
mod files;
mod gate;
pub mod log;
pub mod presence;
pub mod serve;
pub mod session;
pub mod store;

pub use files::FileError;
pub use serve::{Coordinator, Cut, OpenError, RunError};
