//! A kill that is brought by hand, as no beacon answered.

use serde::{Deserialize, Serialize};

/// `POST /v1/admin/kill`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// What `crabmesh kill --out` wrote: `cmk1…`.
    pub file: String,
}

/// What came of it. It is on the disk of this gateway and in force here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillApplied {
    /// `EPOCH.VERSION` of the revocations in force: the epoch rises only with a new signing key.
    pub version: String,
    /// Whether it was news here.
    pub news: bool,
    /// Gateways in session with this one, which are told first.
    pub peers: u64,
    /// Beacons with a link to this one, which are told too.
    pub beacons: u64,
}

/// Part of `GET /v1/status`: whom the operator cut off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationsStatus {
    /// As in [`KillApplied`].
    pub version: String,
    /// The kills in force but those of single gateways, which are in the list of peers no more:
    /// `agent:coder@gw-b`, `user:ana@example.com`, `everyone except …`.
    pub kills: Vec<String>,
}
