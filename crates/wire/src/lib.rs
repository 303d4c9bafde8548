//! Every byte that leaves a machine, apart from the signed documents of `identity`.
//!
//! Frames are [postcard](https://postcard.jamesmunns.com/wire-format) behind a 32-bit little-endian
//! length ([`frame`]); what rides inside the WireGuard session beside IP packets is a fixed layout
//! ([`probe`]). Decoders are total and bounded, and each has a fuzz target.
#![forbid(unsafe_code)]

mod bounded;
pub mod frame;
pub mod link;
pub mod map;
pub mod message;
pub mod parts;
pub mod peer;
pub mod probe;
pub mod profile;

pub use identity::NodeId;
pub use message::{Envelope, InstanceId, MessageId, MessageKey};
