//! The node: how it stands, what it may, how far others are.

use std::net::SocketAddr;

use identity::{HostPort, NodeName, Tag};
use serde::{Deserialize, Serialize};

use crate::{RevocationsStatus, Timestamp};

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The name of the mesh.
    pub mesh: String,
    /// This gateway.
    pub node: NodeStatus,
    /// Its beacons.
    pub beacons: Vec<BeaconStatus>,
    /// The other gateways, by name.
    pub peers: Vec<PeerStatus>,
    /// The policy in force; null where there is none, and so nothing is allowed.
    pub policy: Option<PolicyStatus>,
    /// Whom the operator cut off; null where that never was anybody.
    pub revocations: Option<RevocationsStatus>,
    /// What the beacons told.
    pub map: MapStatus,
}

/// This gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name; null until it has its membership.
    pub name: Option<NodeName>,
    /// Its id, in hex.
    pub id: String,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// When its membership ends.
    pub expires_at: Option<Timestamp>,
    /// What keeps its agents from its keys.
    pub isolation: Isolation,
    /// What the guards of a policy may demand of it, in the words of the policy file.
    #[serde(default)]
    pub enforces: Vec<String>,
}

/// What keeps agents from the node's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Nothing: agents run under the node's own uid, or none was seen yet.
    None,
    /// The uid: every agent that was seen runs under another.
    Uid,
}

/// One beacon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeaconStatus {
    /// Where it listens.
    pub address: HostPort,
    /// `connecting`, `quic`, `tls` or `down`.
    pub state: String,
    /// To it and back; null unless up.
    pub rtt_ms: Option<f64>,
}

/// One other gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: NodeName,
    /// Its id, in hex.
    pub id: String,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Whether it is reached now, or a beacon sees it.
    pub online: bool,
    /// The way to it.
    pub path: PeerPath,
    /// To it and back, by the last probe.
    pub rtt_ms: Option<f64>,
    /// Seconds since the last WireGuard handshake.
    pub last_handshake_s: Option<u64>,
    /// Ciphertext sent to it.
    pub tx_bytes: u64,
    /// Ciphertext received from it.
    pub rx_bytes: u64,
    /// Messages that wait for it here.
    pub queued: u64,
    /// When its membership ends.
    pub expires_at: Option<Timestamp>,
}

/// The way to a peer, and why it is this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerPath {
    /// What kind.
    pub kind: PathKind,
    /// The address of the peer, or that of the relay; null where there is no way.
    pub remote: Option<String>,
    /// In a few words.
    pub why: String,
}

/// Which kind of way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Between the two hosts.
    Direct,
    /// Through a beacon.
    Relay,
    /// None at the moment.
    None,
}

/// Which policy is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// `EPOCH.VERSION`: the epoch rises only with a new signing key.
    pub version: String,
    /// Seconds since it was signed.
    pub age_s: u64,
}

/// How fresh the map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    /// Seconds since a beacon last said that it is whole; null where none did.
    pub age_s: Option<u64>,
}

/// `GET /v1/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// As in `status`.
    pub version: String,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// The HuJSON file.
    pub text: String,
}

/// `POST /v1/ping`: one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// `gateway` or `agent@gateway`.
    pub target: String,
    /// How long to wait for the answer; 1000 where absent, at most 60,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ping {
    /// The way that it took; that of the moment where it was lost.
    pub path: Path,
    /// There and back; null where it was lost.
    pub rtt_ms: Option<f64>,
}

/// The way of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// What kind.
    pub kind: PathKind,
    /// The address of the peer or of the relay.
    pub remote: Option<String>,
}

/// `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always true: a node that is not well does not answer.
    pub ok: bool,
    /// The binary's version.
    pub version: String,
}

impl Path {
    /// A direct way.
    pub fn direct(remote: SocketAddr) -> Self {
        Self {
            kind: PathKind::Direct,
            remote: Some(remote.to_string()),
        }
    }

    /// Through the beacon at that address.
    pub fn relay(beacon: &HostPort) -> Self {
        Self {
            kind: PathKind::Relay,
            remote: Some(beacon.to_string()),
        }
    }

    /// No way.
    pub fn none() -> Self {
        Self {
            kind: PathKind::None,
            remote: None,
        }
    }
}

impl PathKind {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::None => "none",
        }
    }
}
