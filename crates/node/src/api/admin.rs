//! The admin's verbs and what the node tells about itself.

use std::sync::Arc;
use std::time::Duration;

use api::{
    AgentAdd, AgentAdded, Failure, Health, KillRequest, LocalAgentEntry, LocalAgents, Path as Way,
    Ping, PingRequest, Timestamp, WorkerSet, WorkerSetAnswer,
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
use crate::workers::{AttachError, Attached, Secret};

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
    let (worker, secret) = attached(add.worker, add.worker_secret)?;
    let (agent, token) = shared.agents.add(add.name, worker, profile)?;
    if let Err(error) = shared.messages.add_agent(&agent.local).await {
        // An agent without an inbox would lose what it is sent.
        shared.agents.remove(&agent.local.name)?;
        return Err(error.into());
    }
    info!(target: "crabmesh::audit", uid, agent = %agent.local.name, "an agent was added");
    let added = shared.added(&agent, &token, secret.as_ref());
    Ok(json(StatusCode::CREATED, &added))
}

/// How the node serves an agent from now on; what it is doing for it meanwhile is done again.
pub(super) async fn attach(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Path(name): Path<String>,
    Json(WorkerSet {
        worker,
        worker_secret,
    }): Json<WorkerSet>,
) -> Result<Response, Refused> {
    let name = agent_name(&name)?;
    let (worker, secret) = attached(worker, worker_secret)?;
    let agent = shared.agents.attach(&name, worker)?;
    let worker = agent.worker.as_ref().map(|worker| worker.settings.kind());
    info!(target: "crabmesh::audit", uid, agent = %agent.local.name, worker, "an agent was attached anew");
    let worker_secret = secret.map(|secret| secret.reveal().to_owned());
    Ok(json(
        StatusCode::OK,
        &WorkerSetAnswer {
            name,
            worker_secret,
        },
    ))
}

pub(super) async fn rotate(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Path(name): Path<String>,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Response, Refused> {
    let name = agent_name(&name)?;
    let before = shared.agents.named(&name).and_then(|it| it.worker.clone());
    let (worker, secret) = match before.as_deref().map(Attached::renewed) {
        Some(renewed) => {
            let (worker, secret) = renewed.map_err(|error| not_attached(&error))?;
            (Some(worker), secret)
        }
        None => (None, None),
    };
    // A worker without a secret of ours goes on undisturbed.
    let worker = worker.filter(|_| secret.is_some());
    let (agent, token) = shared.agents.rotate(&name, worker)?;
    info!(target: "crabmesh::audit", uid, agent = %agent.local.name, "an agent's token was replaced");
    Ok(json(
        StatusCode::OK,
        &shared.added(&agent, &token, secret.as_ref()),
    ))
}

pub(super) async fn remove(
    Shares(shared): Shares<Arc<Shared>>,
    AsAdmin { uid }: AsAdmin,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let agent = shared.agents.remove(&agent_name(&name)?)?;
    shared.mcp.forget(&agent.local.instance);
    shared.messages.remove_agent(agent.local.instance).await?;
    shared.tasks.remove_agent(agent.local.instance).await;
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
    text.push_str(&shared.workers.metrics(&shared.agents));
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
            worker: self.workers.status(agent),
        }
    }

    fn added(&self, agent: &Agent, token: &AgentToken, secret: Option<&Secret>) -> AgentAdded {
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
            worker_secret: secret.map(|secret| secret.reveal().to_owned()),
        }
    }
}

fn not_attached(error: &AttachError) -> Refused {
    Refused::from_failure(Failure::new("worker", error.to_string()))
}

/// What was asked for, checked; and the secret that only its answer shows.
fn attached(
    worker: Option<api::Worker>,
    secret: Option<String>,
) -> Result<(Option<Attached>, Option<Secret>), Refused> {
    match (worker, secret) {
        (Some(worker), secret) => {
            let (attached, shown) =
                Attached::new(worker, secret).map_err(|error| not_attached(&error))?;
            Ok((Some(attached), shown))
        }
        (None, Some(_)) => Err(Refused::schema("a worker_secret needs a worker")),
        (None, None) => Ok((None, None)),
    }
}

pub(super) fn agent_name(text: &str) -> Result<AgentName, Refused> {
    text.parse()
        .map_err(|error: identity::ParseNameError| Refused::schema(error.to_string()))
}

const PING_TIMEOUT_MAX: Duration = Duration::from_secs(60);
