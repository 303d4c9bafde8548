//! The admin's verbs and what the node tells about itself.

use std::sync::Arc;
use std::time::Duration;

use api::{
    AgentAdd, AgentAdded, Failure, Health, KillRequest, LocalAgentEntry, LocalAgents, Path as Way,
    Ping, PingRequest, Timestamp,
};
use axum::extract::{Path, State as Shares};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use identity::{AgentAddress, AgentName, KillFile};
use tracing::info;

use super::extract::{Anyone, AsAdmin, Json};
use super::messages::NoFields;
use super::refused::{Refused, json};
use super::{PingTarget, Shared, directory, metrics};
use crate::agents::{Agent, AgentToken};
use crate::view::shown_skills;

pub(super) async fn list(Shares(shared): Shares<Arc<Shared>>, AsAdmin { .. }: AsAdmin) -> Response {
    let agents = shared
        .agents
        .list()
        .iter()
        .map(|agent| shared.local_entry(agent))
        .collect();
    json(StatusCode::OK, &LocalAgents { agents })
}

pub(super) async fn show(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { .. }: AsAdmin,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let name = agent_name(&name)?;
    match shared.agents.named(&name) {
        Some(agent) => Ok(json(StatusCode::OK, &shared.local_entry(&agent))),
        None => Err(Refused::unknown_agent(format!(
            "there is no agent named {name}"
        ))),
    }
}

pub(super) async fn add(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Json(add): Json<AgentAdd>,
) -> Result<Response, Refused> {
    let profile = directory::checked(add.description, add.skills)?;
    let (agent, token) = shared.agents.add(add.name, profile)?;
    if let Err(error) = shared.messages.add_agent(&agent.local).await {
        // An agent without an inbox would lose what it is sent.
        shared.agents.remove(&agent.local.name)?;
        return Err(error.into());
    }
    info!(target: "crabmesh::audit", uid, agent = %agent.local.name, "an agent was added");
    Ok(json(StatusCode::CREATED, &shared.added(&agent, &token)))
}

pub(super) async fn rotate(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Path(name): Path<String>,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Response, Refused> {
    let (agent, token) = shared.agents.rotate(&agent_name(&name)?)?;
    info!(target: "crabmesh::audit", uid, agent = %agent.local.name, "an agent's token was replaced");
    Ok(json(StatusCode::OK, &shared.added(&agent, &token)))
}

pub(super) async fn remove(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let agent = shared.agents.remove(&agent_name(&name)?)?;
    shared.mcp.forget(&agent.local.instance);
    shared.messages.remove_agent(agent.local.instance).await?;
    info!(target: "crabmesh::audit", uid, agent = %agent.local.name, "an agent was removed");
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn ping(
    Shares(shared): Shares<Arc<Shared>>,
    Anyone(caller): Anyone,
    Json(request): Json<PingRequest>,
) -> Result<Response, Refused> {
    let wrong = |error: identity::ParseNameError| Refused::schema(error.to_string());
    let target = match request.target.contains('@') {
        true => PingTarget::Agent(request.target.parse().map_err(wrong)?),
        false => PingTarget::Gateway(request.target.parse().map_err(wrong)?),
    };
    let gateway = match &target {
        PingTarget::Gateway(name) => name.clone(),
        PingTarget::Agent(address) => address.node.clone(),
    };
    let timeout = Duration::from_millis(request.timeout_ms.unwrap_or(1000)).min(PING_TIMEOUT_MAX);
    let asker = caller.agent().map(|agent| agent.local.name.clone());
    let answer = match tokio::time::timeout(timeout, shared.view.ping(target, asker)).await {
        Ok(answer) => answer.map_err(|failure: Failure| Refused::from_failure(failure))?,
        Err(_) => {
            let path: Way = shared.view.path(&gateway).await;
            Ping { path, rtt_ms: None }
        }
    };
    Ok(json(StatusCode::OK, &answer))
}

pub(super) async fn status(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { .. }: AsAdmin,
) -> Response {
    let isolation = shared.seen.isolation();
    json(StatusCode::OK, &shared.view.status(isolation).await)
}

pub(super) async fn policy(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { .. }: AsAdmin,
) -> Result<Response, Refused> {
    match shared.view.policy() {
        Some(policy) => Ok(json(StatusCode::OK, &policy)),
        None => Err(Refused::new(
            StatusCode::NOT_FOUND,
            "no_policy",
            "this gateway has no policy yet, so nothing is allowed",
        )
        .hint("crabmesh policy push, on the operator's machine")),
    }
}

pub(super) async fn kill(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Json(KillRequest { file }): Json<KillRequest>,
) -> Result<Response, Refused> {
    let file = KillFile::parse(&file).map_err(|error| {
        Refused::new(StatusCode::BAD_REQUEST, "kill_refused", error.to_string())
            .hint("take what `crabmesh kill --out FILE` wrote, whole")
    })?;
    let applied = shared
        .view
        .kill(file)
        .await
        .map_err(Refused::from_failure)?;
    let version = &applied.version;
    info!(target: "crabmesh::audit", uid, version, news = applied.news, "a kill file was applied");
    Ok(json(StatusCode::OK, &applied))
}

pub(super) async fn health(Anyone(_): Anyone) -> Response {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    json(StatusCode::OK, &Health { ok: true, version })
}

pub(super) async fn metrics(
    Shares(shared): Shares<Arc<Shared>>,
    Anyone(_): Anyone,
) -> Result<Response, Refused> {
    let stats = shared.messages.stats().await?;
    let mut text = metrics::text(&shared.counters, &stats);
    text.push_str(&shared.view.metrics().await);
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

pub(super) async fn openapi(Anyone(_): Anyone) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], api::OPENAPI).into_response()
}

/// Any path that is not in the table; said to those alone whom the gate let pass.
pub(super) async fn unknown(Anyone(_): Anyone) -> Refused {
    Refused::new(
        StatusCode::NOT_FOUND,
        "unknown_route",
        "there is no such route",
    )
    .hint("GET /v1/openapi.json lists them")
}

/// A path of the table under another method.
pub(super) async fn wrong_method(Anyone(_): Anyone) -> Refused {
    Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "the route has another method",
    )
    .hint("GET /v1/openapi.json lists them")
}

impl Shared {
    fn local_entry(&self, agent: &Agent) -> LocalAgentEntry {
        LocalAgentEntry {
            name: agent.local.name.clone(),
            created_at: Timestamp(agent.created_at_ms),
            idle_s: self.agents.idle_s(agent),
            presence: self.presence(agent),
            description: agent.profile.description().map(Into::into),
            skills: shown_skills(&agent.profile),
        }
    }

    fn added(&self, agent: &Agent, token: &AgentToken) -> AgentAdded {
        let name = agent.local.name.clone();
        let address = self.view.own_name().map(|node| AgentAddress {
            agent: name.clone(),
            node,
        });
        let api = format!("http://{}", self.endpoints.loopback);
        AgentAdded {
            name,
            address,
            token: token.reveal().to_owned(),
            api,
        }
    }
}

pub(super) fn agent_name(text: &str) -> Result<AgentName, Refused> {
    text.parse()
        .map_err(|error: identity::ParseNameError| Refused::schema(error.to_string()))
}

const PING_TIMEOUT_MAX: Duration = Duration::from_secs(60);
