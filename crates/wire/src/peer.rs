//! The control stream between two gateways, inside the QUIC connection inside their tunnel.

use identity::{AgentName, Heads};
use serde::{Deserialize, Serialize};

use crate::map::Document;

/// The ALPN protocol (RFC 7301) of the QUIC connection between two gateways.
pub const ALPN: &[u8] = b"crabmesh-peer/2";

/// The UDP port of the router inside the tunnel. Never visible outside; open between two members
/// exactly when some `msg` grant may apply in either direction.
pub const ROUTER_PORT: u16 = 4747;

/// The most agents of one gateway that a directory names.
pub const MAX_DIRECTORY: usize = 256;

/// A frame on the control stream; each side opens one unidirectional stream for its own frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFrame {
    /// The first frame of each side.
    Hello(Hello),
    /// My heads changed.
    Heads(Heads),
    /// Send me what is newer than these.
    Pull(Heads),
    /// A document that you pulled, or news of a member.
    Document(Document),
    /// The agents here that the other side may reach, under the policy. Replaces the last.
    Directory(Vec<DirectoryEntry>),
    /// Asks for a [`PeerFrame::Pong`].
    Ping {
        /// Echoed.
        token: u64,
        /// Where one agent asks for another: who asks, and whom for.
        agents: Option<(AgentName, AgentName)>,
    },
    /// Answers a ping.
    Pong {
        /// From the ping.
        token: u64,
        /// Whether the agent is there and the policy lets the asker reach it; true without agents.
        reachable: bool,
    },
}

/// How a session between two gateways begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What I hold.
    pub heads: Heads,
    /// Counts up with each start of this node; two live counters betray a cloned key.
    pub boot: u64,
    /// Random for each session: a clone is only told from a late packet by answering it.
    pub challenge: [u8; 16],
}

/// One agent of a gateway's directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryEntry {
    /// Its name there.
    pub name: AgentName,
    /// Seconds since its last call of the local API; `None` before the first.
    pub idle_s: Option<u64>,
}
