//! Who is who: keys, names, node ids, and the signed documents that say so.
#![forbid(unsafe_code)]

mod ids;
mod names;

pub use ids::{
    Digest, Heads, IdentityPublic, MeshId, NodeId, Order, ParseIdError, UnixTime, WireGuardPublic,
};
pub use names::{
    AgentAddress, AgentName, HostPort, MeshName, NodeName, ParseNameError, Tag, UserName,
};
