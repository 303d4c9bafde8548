//! Agents: those of this gateway, and those that one of them may reach.

use identity::{AgentAddress, AgentName};
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// `POST /v1/admin/agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentAdd {
    /// Its name on this gateway.
    pub name: AgentName,
}

/// A new token, shown this once; also for `POST /v1/admin/agents/{name}/rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentAdded {
    /// The agent.
    pub name: AgentName,
    /// How others write it, once this gateway knows its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<AgentAddress>,
    /// Its API token.
    pub token: String,
    /// Where it reaches the API: for `CRABMESH_API`.
    pub api: String,
}

/// `GET /v1/admin/agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalAgents {
    /// By name.
    pub agents: Vec<LocalAgentEntry>,
}

/// One agent of this gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalAgentEntry {
    /// Its name.
    pub name: AgentName,
    /// When it was added.
    pub created_at: Timestamp,
    /// Seconds since its last call; null before the first.
    pub idle_s: Option<u64>,
}

/// `GET /v1/agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agents {
    /// By gateway and name.
    pub agents: Vec<AgentEntry>,
}

/// One agent that may be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEntry {
    /// How to write to it.
    pub address: AgentAddress,
    /// Whether its gateway is known to be up.
    pub online: bool,
    /// Seconds since it was last seen at its gateway; null where unknown.
    pub last_seen_s: Option<u64>,
}
