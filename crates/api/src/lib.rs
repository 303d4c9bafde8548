//! The words of the local API: what is asked, what is answered, what is refused.
//!
//! HTTP and JSON over a unix socket or loopback TCP. Names are snake_case and stable. A request
//! with a field that is not known here is refused, naming it; a client ignores such fields in
//! answers. Every refusal is `{"error": {code, reason, hint?, missing_grant?, cause?, rule?}}`, whatever else is
//! beside it. The whole is described by [`OPENAPI`], which is served at `/v1/openapi.json`.
#![forbid(unsafe_code)]

pub mod a2a;
mod agent;
mod body;
mod failure;
mod kill;
mod message;
mod node;
mod part;
mod route;
mod time;

pub use agent::{
    AgentAdd, AgentAdded, AgentEntry, Agents, LocalAgentEntry, LocalAgents, OwnPresence, Presence,
    Profile, ProfileRequest, Skill, Worker, WorkerSet, WorkerSetAnswer, WorkerState, WorkerStatus,
};
pub use body::{Body, BodyError};
pub use failure::{ErrorAnswer, Failure};
pub use kill::{KillApplied, KillRequest, RevocationsStatus};
pub use message::{
    AckAnswer, AckRequest, Acked, AskRequest, HeartbeatRequest, Kind, Received, ReceivedList,
    RejectRequest, Reply, ReplyRequest, SendAnswer, SendRequest, State,
};
pub use node::{
    BeaconStatus, Health, Isolation, MapStatus, NodeStatus, Path, PathKind, PeerPath, PeerStatus,
    Ping, PingRequest, Policy, PolicyStatus, Status,
};
pub use part::{Part, PartsAnswer, PartsLost, PartsRestart};
pub use route::{Access, Route, Verb};
pub use time::Timestamp;

/// The API's description, OpenAPI 3.1. Kept true by tests.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The header by which the admin token acts for a local agent, and an agent says who it takes
/// itself for.
pub const AGENT_HEADER: &str = "x-crabmesh-agent";

/// Where the running node listens, in the file `api.json` of its state directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Endpoints {
    /// The unix socket.
    pub socket: std::path::PathBuf,
    /// Loopback TCP, for agents of other users.
    pub loopback: std::net::SocketAddr,
}
