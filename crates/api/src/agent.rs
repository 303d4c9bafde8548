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
    /// What it says of itself until it says so itself, as in [`ProfileRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it can do, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<Skill>,
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
    /// Whether it is there.
    #[serde(default)]
    pub presence: Presence,
    /// What it is, in its own words.
    #[serde(default)]
    pub description: Option<String>,
    /// What it can do.
    #[serde(default)]
    pub skills: Vec<Skill>,
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
    /// Whether it is there itself.
    #[serde(default)]
    pub presence: Presence,
    /// Seconds since it was last seen at its gateway; null where unknown.
    pub last_seen_s: Option<u64>,
    /// Whether it may be asked for the parts of its answers as they come.
    #[serde(default)]
    pub streams: bool,
    /// What it is, in its own words: foreign text, on one line.
    #[serde(default)]
    pub description: Option<String>,
    /// What it can do, in its own words.
    #[serde(default)]
    pub skills: Vec<Skill>,
}

/// Whether an agent is there to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It follows its inbox, or called its gateway within the last minute.
    Online,
    /// It does not, or says so. What it is sent waits for it.
    Away,
    /// Its gateway is not reached. What it is sent waits here.
    Offline,
    /// Its gateway has not told yet.
    #[default]
    #[serde(other)]
    Unknown,
}

/// One thing that an agent can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// 1 to 64 of `A-Za-z0-9._:-`, unique for its agent.
    pub id: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people and models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `POST /v1/profile`, and for the operator `POST /v1/admin/agents/{name}/profile`: what others see
/// of an agent. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileRequest {
    /// What it is; empty: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// All that it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skills: Option<Vec<Skill>>,
    /// `away` holds until `online`, whatever the agent calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub presence: Option<OwnPresence>,
}

/// What an agent may say of its presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnPresence {
    /// There, while it follows its inbox or calls.
    Online,
    /// Not to be counted on.
    Away,
}

/// What others see of the agent from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The agent.
    pub name: AgentName,
    /// Whether it is there.
    pub presence: Presence,
    /// What it is.
    pub description: Option<String>,
    /// What it can do.
    pub skills: Vec<Skill>,
}

impl Presence {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Away => "away",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        }
    }
}
