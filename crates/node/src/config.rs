//! The configuration file of a gateway: JSON, every key optional, unknown keys refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::api::ApiConfig;
use crate::messages::Budgets;
use crate::spool::Durability;

/// How a gateway runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where its state is; from the command line.
    #[serde(skip)]
    pub state_dir: PathBuf,
    /// The UDP port of the mesh socket. Without one: the last one, or a free one.
    pub port: Option<u16>,
    /// Where peers may also look for this gateway (a forwarded port, say): the addresses of last
    /// resort in its signed record.
    pub addresses: Vec<SocketAddr>,
    /// Whether peers may be met on this host's loopback: for several gateways on one host. Both
    /// sides must say so.
    pub allow_loopback: bool,
    /// What is logged to stderr, as in `CRABMESH_LOG`, which wins: `info`, `node=debug`.
    pub log: Option<String>,
    /// The local API.
    pub api: ApiConfig,
    /// How many messages may lead to each other.
    pub loops: Loops,
    /// What `accepted` and `stored` wait for. Only `crabmesh bench` says anything but `full`.
    pub durability: Durability,
}

/// How much may follow from one message: see [`Budgets`]. More is refused as `loop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loops {
    /// Messages in one chain between the same two agents, answers included.
    pub back_and_forth: u8,
    /// Messages in one chain, whoever they are between.
    pub depth: u8,
    /// Messages of one root that pass this gateway.
    pub per_root: u32,
}

impl Default for Loops {
    fn default() -> Self {
        let Budgets {
            bounces,
            depth,
            per_root,
        } = Budgets::default();
        Self {
            back_and_forth: bounces,
            depth,
            per_root,
        }
    }
}

impl From<Loops> for Budgets {
    fn from(loops: Loops) -> Self {
        Self {
            bounces: loops.back_and_forth,
            depth: loops.depth,
            per_root: loops.per_root,
        }
    }
}

impl Config {
    /// The defaults, on this state directory.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            ..Self::default()
        }
    }

    /// Reads a file.
    pub fn load(state_dir: PathBuf, file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read(file).map_err(|source| ConfigError::Unreadable {
            file: file.into(),
            source,
        })?;
        let config: Self =
            serde_json::from_slice(&text).map_err(|source| ConfigError::Malformed {
                file: file.into(),
                source,
            })?;
        Ok(Self {
            state_dir,
            ..config
        })
    }
}

/// Why a configuration file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what is expected; the cause names line and column.
    #[error("{}: {source}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_configuration_is_accepted() {
        let sample = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../configs/gateway.json"
        ));

        let config = Config::load("state".into(), sample).expect("the sample is valid");

        assert_eq!(config.port, Some(4748));
        assert_eq!(config.state_dir, PathBuf::from("state"));
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let file = home.path().join("gateway.json");
        std::fs::write(&file, r#"{"prot": 4747}"#).expect("written");

        let error = Config::load("state".into(), &file)
            .expect_err("refused")
            .to_string();

        assert!(
            error.contains("prot") && error.contains("gateway.json"),
            "{error}"
        );
    }
}
