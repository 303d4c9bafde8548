//! What `connect` did to one gateway, by which `disconnect` takes it back. Written before the deed:
//! what was not done after all is then nothing to take back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use identity::AgentName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::document::Edit;
use super::files::{self, Owner};
use super::gateway::Place;
use crate::failure::Failure;

/// The journal of one gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// The configuration that was changed.
    pub config: PathBuf,
    /// How it was before the first change, which is in the backup; none where others changed it
    /// between two of ours.
    pub before_sha256: Option<String>,
    /// How our last change left it.
    pub after_sha256: Option<String>,
    /// The changes, in their order.
    pub edits: Vec<Edit>,
    /// The agents that were not on the mesh before.
    pub agents: Vec<AgentName>,
    /// Whether it was connected without the plugin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// Whether that was by its A2A channel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub channel: bool,
    /// The agents that the node was told to serve by the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub served: Vec<AgentName>,
    /// Of what opens the way to each, as it was told to the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets_sha256: BTreeMap<AgentName, String>,
    /// Where journals of before 0.1.0 had the one secret of all; nothing reads it.
    #[serde(default, skip_serializing)]
    pub token_sha256: Option<String>,
}

/// The credentials file: the node's API, and a token for each OpenClaw agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// `http://127.0.0.1:PORT`
    pub api: String,
    /// By the agent's id in OpenClaw.
    pub agents: BTreeMap<String, Credential>,
}

/// One agent's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Its name on the mesh.
    pub name: AgentName,
    /// Its API token.
    pub token: String,
}

impl Journal {
    /// The journal of a gateway, where it has one.
    pub fn read(place: &Place) -> Result<Option<Self>, Failure> {
        read_json(place, files::JOURNAL)
    }

    /// Keeps it.
    pub fn write(&self, place: &Place, owner: Owner) -> Result<(), Failure> {
        write_json(place, owner, files::JOURNAL, self)
    }
}

impl Credentials {
    /// Those of a gateway; none at first.
    pub fn read(place: &Place) -> Result<Self, Failure> {
        Ok(read_json(place, files::CREDENTIALS)?.unwrap_or_default())
    }

    /// Keeps them, for the gateway's user alone.
    pub fn write(&self, place: &Place, owner: Owner) -> Result<(), Failure> {
        write_json(place, owner, files::CREDENTIALS, self)
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)
    }
}

fn read_json<T: DeserializeOwned>(place: &Place, name: &str) -> Result<Option<T>, Failure> {
    let path = place.ours.join(name);
    let Some(text) = files::read(&path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    // Without the parser's words: they may quote a token.
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Failure::failed(format!(
            "{} is damaged at line {}",
            path.display(),
            error.line()
        ))
        .hint("move it away, and run `crabmesh connect openclaw` again")
    })
}

fn write_json(
    place: &Place,
    owner: Owner,
    name: &str,
    value: &impl Serialize,
) -> Result<(), Failure> {
    let mut text = Zeroizing::new(
        serde_json::to_vec_pretty(value).map_err(|error| Failure::failed(error.to_string()))?,
    );
    text.push(b'\n');
    owner.make_dir(&place.ours)?;
    owner.write(&place.ours.join(name), &text, 0o600)
}
