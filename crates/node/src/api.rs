//! The local API: HTTP over a unix socket and over loopback TCP, for this host and its agents.
//!
//! ```text
//! unix socket ──┐                    ┌─► messages   send, ask, receive, follow, ack, reply
//!               │                    ├─► a2a        the same, in the words of other makers' agents
//!               ├─► gate ─► router ──┼─► admin      agents and their tokens
//! 127.0.0.1:n ──┘                    ├─► node       status, policy, ping, health, metrics
//!                                    └─► mcp        the agent's verbs as tools for a model
//! ```
//! **Invariants** (design invariant 11). Nothing is answered before the [`gate`](self) knows who
//! asks. The admin is known on the unix socket alone, by its token and its uid; loopback TCP takes
//! agents' tokens alone. A foreign `Host`, any `Origin` and a POST that is not JSON are refused
//! before that. An agent reaches its own messages alone.

mod a2a;
mod admin;
mod directory;
mod extract;
mod gate;
mod listen;
mod mcp;
mod messages;
mod metrics;
mod observe;
mod parts;
mod refused;
mod serve;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ::api::{AgentEntry, Endpoints, Failure, Isolation, KillApplied, Ping, Policy, Status};
use identity::{AgentAddress, AgentName, KillFile, NodeName};
use serde::Deserialize;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::a2a::Tasks;
use crate::agents::Agents;
use crate::messages::Messages;
use crate::state::StateDir;
use crate::workers::Workers;

pub use listen::ApiError;
pub(crate) use messages::failure;
pub(crate) use refused::denied;
pub use serve::Api;

/// What the API asks of the rest of the node.
pub trait NodeView: Send + Sync + 'static {
    /// This gateway's name, once it knows its membership.
    fn own_name(&self) -> Option<NodeName>;
    /// How it all stands. `isolation` is what the API has seen of its callers.
    fn status(&self, isolation: Isolation) -> Later<'_, Status>;
    /// The policy in force.
    fn policy(&self) -> Option<Policy>;
    /// The agents that this agent may reach, or every known one where the admin asks.
    fn directory(&self, asker: Option<&AgentName>) -> Later<'_, Vec<AgentEntry>>;
    /// Whether an agent of this gateway may ask that agent, as far as is known here. The error
    /// says `denied`, `unknown_gateway` or `unknown_agent`.
    fn reach(&self, to: AgentAddress, asker: AgentName) -> Later<'_, Result<(), Failure>>;
    /// Resolves when an answer of `directory` may be another than at the call.
    fn directory_news(&self) -> Later<'static, ()>;
    /// One probe. The error says `denied`, `unknown_gateway` or `unknown_agent`; a lost probe is
    /// no error. The caller bounds the time.
    fn ping(
        &self,
        target: PingTarget,
        asker: Option<AgentName>,
    ) -> Later<'_, Result<Ping, Failure>>;
    /// The way of the moment to a gateway, for a probe that was lost.
    fn path(&self, gateway: &NodeName) -> Later<'_, ::api::Path>;
    /// Takes a kill file that the admin brings. The error says `kill_refused` or `store`.
    fn kill(&self, file: KillFile) -> Later<'_, Result<KillApplied, Failure>>;
    /// Further metrics in Prometheus' text format, each line ended.
    fn metrics(&self) -> Later<'_, String>;
}

/// A boxed future: [`NodeView`] is a trait object, and none of its calls is on the way of a message.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PingTarget {
    /// A gateway.
    Gateway(NodeName),
    /// An agent on one: the answer also says that the policy lets the asker reach it.
    Agent(AgentAddress),
}

/// The settings of the API, as in the configuration file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// The unix socket; absent: `api.sock` in the state directory, or in the runtime directory
    /// where that path is too long.
    pub socket: Option<PathBuf>,
    /// The port on 127.0.0.1; 0: the last one that was free.
    pub port: u16,
    /// Users who may use the admin verbs over the socket without the admin token, beside the
    /// node's own and root with it. They need a `socket` in a directory that they can enter.
    pub admin_uids: Vec<u32>,
    /// Calls of one agent in a second, in the long run.
    pub calls_per_second: f64,
    /// Calls of one agent at once.
    pub burst: f64,
    /// Connections of all callers.
    pub max_connections: usize,
    /// Calls of one agent that are being answered, waiting ones included.
    pub max_in_flight: usize,
}

impl Default for ApiConfig {
    /// Our own choice: far above what a gateway does (20,000 durable messages a second), far below what
    /// a loop that ran away could do to the others.
    fn default() -> Self {
        Self {
            socket: None,
            port: 0,
            admin_uids: Vec::new(),
            calls_per_second: 50_000.0,
            burst: 50_000.0,
            max_connections: 1024,
            max_in_flight: 512,
        }
    }
}

/// What every handler shares.
struct Shared {
    config: ApiConfig,
    state: StateDir,
    agents: Agents,
    workers: Workers,
    messages: Messages,
    tasks: Tasks,
    view: Arc<dyn NodeView>,
    endpoints: Endpoints,
    admin_token: Zeroizing<String>,
    own_uid: u32,
    counters: Counters,
    seen: observe::Seen,
    mcp: mcp::Mcp,
    /// Its other end is dropped when the API stops.
    stopping: watch::Receiver<()>,
}

/// What the API counts.
#[derive(Debug, Default)]
struct Counters {
    calls: AtomicU64,
    unauthorized: AtomicU64,
    throttled: AtomicU64,
    connections: AtomicU64,
}
