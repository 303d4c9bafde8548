//! Without the plugin: the node asks the gateway by its WebSocket, and the gateway's agents speak to
//! the mesh by the node's MCP endpoint. For a gateway that is too old for the plugin, or loads none.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use api::Worker;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::document::{Document, DocumentError, Edit};
use super::gateway::Agent;
use super::journal::Credentials;
use super::plugin;
use crate::failure::Failure;

/// A gateway that is asked by its WebSocket.
pub struct Plain {
    /// Where.
    pub url: String,
    /// What opens it; none where it asks for nothing.
    pub token: Option<Zeroizing<String>>,
}

/// Why the plugin is not used, where it cannot be.
pub fn obstacle(config: &Value, version: Option<(u32, u32)>) -> Option<String> {
    let plugins = &config["plugins"];
    let denied = plugins["deny"]
        .as_array()
        .is_some_and(|deny| deny.contains(&Value::from(plugin::ID)));
    match version {
        _ if plugins["enabled"] == json!(false) => Some("plugins are switched off".to_owned()),
        _ if denied => Some(format!("plugins.deny has {}", plugin::ID)),
        Some((year, month)) if (year, month) < TESTED => Some(format!(
            "OpenClaw {year}.{month} is older than the plugin's interface"
        )),
        _ => None,
    }
}

/// The year and the month of the OpenClaw that is found first in PATH, by the package that its
/// command is part of.
pub fn version(path: Option<OsString>) -> Option<(u32, u32)> {
    let command = std::env::split_paths(&path?)
        .map(|dir| dir.join("openclaw"))
        .find(|command| command.is_file())?;
    let command = fs::canonicalize(command).ok()?;
    command.ancestors().skip(1).take(4).find_map(package)
}

fn package(dir: &Path) -> Option<(u32, u32)> {
    let text = fs::read_to_string(PathBuf::from(dir).join("package.json")).ok()?;
    let package: Value = serde_json::from_str(&text).ok()?;
    let version = package["version"]
        .as_str()
        .filter(|_| package["name"] == "openclaw")?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

impl Plain {
    /// As the configuration has it.
    pub fn of(config: &Value) -> Result<Self, Failure> {
        let gateway = &config["gateway"];
        let port = match &gateway["port"] {
            Value::Null => DEFAULT_PORT,
            port => port
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .ok_or_else(|| Failure::failed("gateway.port is no port"))?,
        };
        let auth = &gateway["auth"];
        let mode = auth["mode"].as_str().unwrap_or("token");
        let token = match (mode, auth[mode].as_str()) {
            ("none", _) => None,
            ("token" | "password", Some(token)) if is_literal(token) => {
                Some(Zeroizing::new(token.to_owned()))
            }
            _ => {
                return Err(Failure::failed(
                    "gateway.auth does not hold the gateway's token itself",
                )
                .hint(format!(
                    "put it into a file, and `crabmesh agent add NAME --openclaw ws://127.0.0.1:{port} --secret-file FILE`"
                )));
            }
        };
        Ok(Self {
            url: format!("ws://127.0.0.1:{port}"),
            token,
        })
    }

    /// How the node serves an agent of it.
    pub fn worker(&self, id: &str) -> Worker {
        Worker::Openclaw {
            url: self.url.clone(),
            agent: Some(id.to_owned()),
            timeout_s: None,
            concurrency: None,
        }
    }

    /// Whether that is how it is served; how long a message may take is its owner's to say.
    pub fn serves(&self, id: &str, worker: &Worker) -> bool {
        matches!(worker, Worker::Openclaw { url, agent, .. }
            if *url == self.url && agent.as_deref() == Some(id))
    }
}

/// The agent as which the whole gateway speaks: OpenClaw tells an MCP server not which of its agents
/// calls.
pub fn speaker(agents: &[Agent]) -> Option<&Agent> {
    let main = agents.iter().find(|agent| agent.id == "main");
    main.or(agents.first())
}

/// The MCP server in the configuration.
pub fn configure(
    document: &Document,
    speaker: &Agent,
    credentials: &Credentials,
    api: &str,
) -> Result<(String, Vec<Edit>), DocumentError> {
    // A dry run has no token yet.
    let token = credentials.agents.get(&speaker.id);
    let bearer = format!("Bearer {}", token.map_or("", |it| it.token.as_str()));
    let mut edits = Vec::new();
    for (field, value) in [
        (&["url"][..], json!(format!("{api}/mcp"))),
        (&["transport"], json!("streamable-http")),
        (&["headers", "Authorization"], json!(bearer)),
        // As long as the longest ask.
        (&["requestTimeoutMs"], json!(600_000)),
    ] {
        let path = [&SERVER, field].concat();
        edits.extend(document.set(&path, value)?);
    }
    let text = document.text();
    match Document::parse(&text)?.value()? == document.value()? {
        true => Ok((text, edits)),
        false => Err(DocumentError::Malformed(
            "it does not survive a change".to_owned(),
        )),
    }
}

/// Not a reference to a variable, which the gateway's own environment has.
fn is_literal(token: &str) -> bool {
    !token.is_empty() && !token.contains("${")
}

/// The entry in the configuration.
const SERVER: [&str; 3] = ["mcp", "servers", "mesh"];
const DEFAULT_PORT: u16 = 18789;
/// The oldest whose interface for plugins ours was tested with.
const TESTED: (u32, u32) = (2026, 9);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plugin_is_used_unless_it_cannot_be() {
        let why = |config, version| obstacle(&config, version);

        assert_eq!(why(json!({}), None), None);
        assert_eq!(why(json!({}), Some((2026, 9))), None);
        assert!(why(json!({}), Some((2026, 8))).is_some());
        assert!(why(json!({"plugins": {"enabled": false}}), None).is_some());
        assert!(why(json!({"plugins": {"deny": ["crabmesh"]}}), Some((2026, 9))).is_some());
        assert_eq!(why(json!({"plugins": {"deny": ["other"]}}), None), None);
    }

    #[test]
    fn the_version_is_that_of_the_package_whose_command_is_found() {
        let root = tempfile::tempdir().expect("a directory");
        let package = root.path().join("lib/openclaw");
        let bin = root.path().join("bin");
        fs::create_dir_all(&package).expect("ours");
        fs::create_dir_all(&bin).expect("ours");
        fs::write(package.join("openclaw.mjs"), "").expect("ours");
        fs::write(
            package.join("package.json"),
            r#"{"name": "openclaw", "version": "2026.5.28-beta.1"}"#,
        )
        .expect("ours");
        std::os::unix::fs::symlink(package.join("openclaw.mjs"), bin.join("openclaw"))
            .expect("ours");

        assert_eq!(version(Some(bin.into())), Some((2026, 5)));
        assert_eq!(version(Some(root.path().into())), None);
        assert_eq!(version(None), None);
    }

    #[test]
    fn a_token_that_stands_elsewhere_is_asked_for() {
        let of = |config| Plain::of(&config);

        let plain =
            of(json!({"gateway": {"port": 1234, "auth": {"mode": "password", "password": "p"}}}))
                .expect("all there");
        assert_eq!(plain.url, "ws://127.0.0.1:1234");
        assert_eq!(plain.token.expect("one").as_str(), "p");
        let open = of(json!({"gateway": {"auth": {"mode": "none"}}})).expect("all there");
        assert!(open.token.is_none() && open.url.ends_with(":18789"));
        for config in [
            json!({}),
            json!({"gateway": {"auth": {"token": "${OPENCLAW_GATEWAY_TOKEN}"}}}),
            json!({"gateway": {"auth": {"token": {"source": "env"}}}}),
            json!({"gateway": {"auth": {"mode": "trusted-proxy"}}}),
            json!({"gateway": {"port": 70000, "auth": {"mode": "none"}}}),
        ] {
            assert!(of(config.clone()).is_err(), "{config}");
        }
    }
}
