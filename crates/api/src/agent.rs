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
    /// How the node itself serves it; without one the agent calls this API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Worker>,
    /// A secret for the worker that the caller brings, as in [`WorkerSet`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_secret: Option<String>,
    /// What it says of itself until it says so itself, as in [`ProfileRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it can do, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<Skill>,
}

/// `POST /v1/admin/agents/{name}/worker`: how the node serves an agent from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSet {
    /// Null: the agent calls this API itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<Worker>,
    /// `http`: the secret that signs, `whsec_` and base64; made by the node where absent. `a2a`: the
    /// bearer, and `openclaw`: the gateway's token, where one is wanted. Never shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_secret: Option<String>,
}

/// How the node itself serves an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Worker {
    /// Each message is a signed POST, and what comes back is the reply.
    Http {
        /// Where to: `https`, or `http` on this host.
        url: String,
        /// How long one message may take; 120 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u64>,
        /// Messages at once, of different senders; 8 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
        /// Lets `http` leave this host: everybody on the way reads and answers.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        insecure_http: bool,
    },
    /// Each message is a run of a command as the node's own user, and what it prints is the reply.
    Exec {
        /// The program, and its arguments. No shell reads them.
        command: Vec<String>,
        /// How long one message may take; 120 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u64>,
        /// Messages at once, of different senders; 1 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
    },
    /// Each message is posted to an A2A server, and what comes of its task is the reply.
    A2a {
        /// Its JSON-RPC endpoint: `https`, or `http` on this host.
        url: String,
        /// How long one message may take; 120 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u64>,
        /// Messages at once, of different senders; 8 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
        /// As with `http`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        insecure_http: bool,
    },
    /// Each message is a turn of an agent of an OpenClaw gateway on this host, and what it says last
    /// is the reply.
    Openclaw {
        /// The gateway's A2A channel, `http`, or its WebSocket, `ws`; on this host.
        url: String,
        /// Its id in the gateway; `main` where absent. By the A2A channel, the gateway's bindings say
        /// which of its agents answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<String>,
        /// How long one try may take; 120 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u64>,
        /// Messages at once, of different senders; 4 where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        concurrency: Option<usize>,
    },
}

/// How an agent is attached, and how that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// As it was set.
    pub worker: Worker,
    /// What became of the last message.
    pub state: WorkerState,
    /// Since when, in that state.
    pub since: Timestamp,
    /// What is wrong, in the node's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Messages that it was given and did, since the node started.
    pub done: u64,
    /// Tries that came to nothing and were, or will be, made again.
    pub retried: u64,
    /// Messages that were given up.
    pub given_up: u64,
}

/// Whether what is behind a worker does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// It did, or was not asked yet.
    Ok,
    /// Its last message failed.
    Failing,
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
    /// What signs the messages to an `http` worker, shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_secret: Option<String>,
}

/// The answer to `POST /v1/admin/agents/{name}/worker`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSetAnswer {
    /// The agent.
    pub name: AgentName,
    /// What signs the messages to an `http` worker, shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_secret: Option<String>,
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
    /// Where the node itself serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerStatus>,
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

impl Worker {
    /// The word in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Exec { .. } => "exec",
            Self::A2a { .. } => "a2a",
            Self::Openclaw { .. } => "openclaw",
        }
    }
}

impl WorkerState {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
        }
    }
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
