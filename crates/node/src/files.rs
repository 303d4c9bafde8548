//! The files of a gateway's state directory, and the two of them that are plain facts.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use identity::{MeshName, NodeId};
use serde::{Deserialize, Serialize};

/// The identity key, 32 bytes. Made by `join`, never leaves.
pub const NODE_KEY: &str = "node.key";
/// The WireGuard key, 32 bytes.
pub const WIREGUARD_KEY: &str = "wg.key";
/// The certificate, as the issuer and the beacon signed it.
pub const CERTIFICATE: &str = "certificate.cbor";
/// What this node believes: a snapshot of `identity::Trust`.
pub const TRUST: &str = "trust.cbor";
/// [`NodeFile`].
pub const NODE: &str = "node.json";
/// [`Addresses`].
pub const ADDRESSES: &str = "addresses.json";
/// The admin token of the local API.
pub const ADMIN_TOKEN: &str = "admin.token";
/// The registry of local agents.
pub const AGENTS: &str = "agents.json";
/// Where the local API listens, written by the running node.
pub const API: &str = "api.json";

/// Facts of the node that outlive a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeFile {
    /// The mesh's name, from the token.
    pub mesh: MeshName,
    /// Who this is.
    pub node: NodeId,
    /// How often it was started: shown in every hello, so that a cloned key betrays itself.
    #[serde(default)]
    pub boot: u64,
}

/// Where things were the last time: enough to find direct peers again without a beacon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// The UDP port of the mesh socket; taken again so that NAT mappings may survive.
    pub port: Option<u16>,
    /// The last addresses that worked, newest first.
    pub last_good: BTreeMap<NodeId, Vec<SocketAddr>>,
}
