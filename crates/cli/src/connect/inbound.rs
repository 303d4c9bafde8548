//! Without the plugin, how the node speaks to the agents of a gateway: where, and with which secret
//! for each of them.

use std::collections::BTreeMap;

use api::Worker;
use serde_json::Value;
use zeroize::Zeroizing;

use super::choice::CHANNEL;
use super::gateway::Agent;
use crate::failure::Failure;

/// The way in to one gateway.
pub struct Inbound {
    /// Where.
    pub url: String,
    secrets: Secrets,
}

enum Secrets {
    /// Its own token opens the WebSocket, for every agent; none where it asks for nothing.
    Gateway(Option<Zeroizing<String>>),
    /// Each agent has a peer of its own in the A2A channel, with a bearer that opens nothing else.
    Peers(BTreeMap<String, Zeroizing<String>>),
}

impl Inbound {
    /// By the WebSocket, with the token that the configuration has.
    pub fn websocket(config: &Value) -> Result<Self, Failure> {
        let port = port(config)?;
        let auth = &config["gateway"]["auth"];
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
            secrets: Secrets::Gateway(token),
        })
    }

    /// By the A2A channel, with the bearers that the configuration has, and new ones where it has
    /// none.
    pub fn channel(config: &Value, agents: &[Agent]) -> Result<Self, Failure> {
        let port = port(config)?;
        let mut bearers = BTreeMap::new();
        for Agent { id, .. } in agents {
            let peer = peer(id)?;
            let bearer = match &config["channels"][CHANNEL]["peers"][&peer]["token"] {
                Value::Null => new_bearer()?,
                Value::String(bearer) if is_literal(bearer) => Zeroizing::new(bearer.clone()),
                _ => {
                    return Err(Failure::failed(format!(
                        "channels.{CHANNEL}.peers.{peer}.token is no token itself"
                    ))
                    .hint("take it out, and one is made"));
                }
            };
            bearers.insert(id.clone(), bearer);
        }
        Ok(Self {
            url: format!("http://127.0.0.1:{port}"),
            secrets: Secrets::Peers(bearers),
        })
    }

    /// What opens the way to an agent.
    pub fn secret(&self, id: &str) -> Option<&str> {
        let secret = match &self.secrets {
            Secrets::Gateway(token) => token.as_ref(),
            Secrets::Peers(bearers) => bearers.get(id),
        };
        secret.map(|it| it.as_str())
    }

    /// How the node serves an agent.
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

/// The name of the peer that writes to an agent.
pub fn peer(id: &str) -> Result<String, Failure> {
    let peer = format!("mesh-{id}");
    match peer.len() <= PEER_MAX {
        true => Ok(peer),
        false => Err(Failure::failed(format!(
            "agent {id} has a name too long for a peer of the A2A channel, which takes {PEER_MAX} characters"
        ))
        .hint("connect the gateway by its WebSocket: --websocket")),
    }
}

fn port(config: &Value) -> Result<u16, Failure> {
    match &config["gateway"]["port"] {
        Value::Null => Ok(DEFAULT_PORT),
        port => port
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| Failure::failed("gateway.port is no port")),
    }
}

fn new_bearer() -> Result<Zeroizing<String>, Failure> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *random).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(Zeroizing::new(data_encoding::HEXLOWER.encode(&*random)))
}

/// Not a reference to a variable, which the gateway's own environment has.
fn is_literal(token: &str) -> bool {
    !token.is_empty() && !token.contains("${")
}

const DEFAULT_PORT: u16 = 18789;
/// `^[a-z0-9][a-z0-9._-]{0,63}$` of OpenClaw 2026.9.6.
const PEER_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_that_stands_elsewhere_is_asked_for() {
        let of = |config| Inbound::websocket(&config);

        let inbound =
            of(json!({"gateway": {"port": 1234, "auth": {"mode": "password", "password": "p"}}}))
                .expect("all there");
        assert_eq!(inbound.url, "ws://127.0.0.1:1234");
        assert_eq!(inbound.secret("main"), Some("p"));
        let open = of(json!({"gateway": {"auth": {"mode": "none"}}})).expect("all there");
        assert!(open.secret("main").is_none() && open.url.ends_with(":18789"));
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

    #[test]
    fn every_agent_has_a_bearer_of_its_own_and_keeps_it() {
        let agents = [agent("main"), agent("ops")];
        let of = |config| Inbound::channel(&config, &agents);

        let new = of(json!({})).expect("made");
        assert_eq!(new.url, "http://127.0.0.1:18789");
        let (main, ops) = (new.secret("main"), new.secret("ops"));
        assert!(main.is_some_and(|it| it.len() == 64) && main != ops);
        let peers = json!({"channels": {"a2a": {"peers": {"mesh-main": {"token": "kept"}}}}});
        assert_eq!(of(peers).expect("read").secret("main"), Some("kept"));
        let elsewhere = json!({"channels": {"a2a": {"peers": {"mesh-ops": {"token": "${T}"}}}}});
        assert!(of(elsewhere).is_err());
        assert!(peer(&"x".repeat(59)).is_ok() && peer(&"x".repeat(60)).is_err());
    }

    fn agent(id: &str) -> Agent {
        Agent {
            id: id.to_owned(),
            name: id.parse().expect("a name"),
        }
    }
}
