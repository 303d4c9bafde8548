//! A2A: the endpoint of each agent, in the bindings JSON-RPC and HTTP+JSON.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::Failure;
use api::a2a::{
    Call, Card, Event as Told, Problem, ProblemKind, SendParams, Skill, VERSION_HEADER, Version,
    read, read_list, read_send, wrap,
};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequestParts, Path, State as Shares};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use identity::AgentAddress;
use serde_json::{Value, json};

use super::Shared;
use super::extract::AsAgent;
use super::refused::{Refused, json as answer};
use crate::a2a::Watched;
use crate::agents::Agent;

/// A call at an endpoint: who asks whom, in which version, and where the endpoint is to the caller.
pub(super) struct Asked {
    agent: Arc<Agent>,
    to: Result<AgentAddress, Problem>,
    version: Result<Option<Version>, Problem>,
    query: Vec<(String, String)>,
    base: String,
}

impl FromRequestParts<Arc<Shared>> for Asked {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refused> {
        let AsAgent(agent) = AsAgent::from_request_parts(parts, shared).await?;
        let path = parts.uri.path().split('/').skip(2);
        let names: Vec<&str> = path.take(2).collect();
        let query = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let query = query.map(|query| query.0).unwrap_or_default();
        let named = parts.headers.get(VERSION_HEADER);
        let named = match named {
            // What is no text is no version.
            Some(value) => Some(value.to_str().unwrap_or("?").to_owned()),
            None => query
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(VERSION_HEADER))
                .map(|(_, value)| value.clone()),
        };
        Ok(Self {
            to: endpoint(&names),
            version: Version::named(named.as_deref()),
            query,
            base: shared.base_of(&parts.headers),
            agent,
        })
    }
}

/// `GET /a2a`: the endpoints that this agent may ask.
pub(super) async fn list(
    Shares(shared): Shares<Arc<Shared>>,
    asked: Asked,
) -> Result<Response, Refused> {
    let asker = asked.agent.local.name.clone();
    let agents = shared.view.directory(Some(&asker)).await;
    let agents: Vec<Value> = agents
        .iter()
        .map(|entry| {
            let url = asked.url_of(&entry.address);
            json!({
                "address": entry.address,
                "url": url,
                "card": format!("{url}{CARD}"),
                "online": entry.online,
                "last_seen_s": entry.last_seen_s,
            })
        })
        .collect();
    Ok(answer(StatusCode::OK, &json!({"agents": agents})))
}

/// `GET …/.well-known/agent-card.json`, and `agent.json`, where clients of before 0.3 look.
pub(super) async fn card(
    Shares(shared): Shares<Arc<Shared>>,
    asked: Asked,
) -> Result<Response, Refused> {
    let to = asked
        .to
        .clone()
        .map_err(|problem| Refused::new(StatusCode::NOT_FOUND, "unknown_agent", problem.message))?;
    let card = shared.card_of(&asked, &to).await;
    let card = card.map_err(Refused::from_failure)?;
    // To whom no version is named the card says all of them.
    let version = asked.version.ok().flatten();
    Ok(answer(StatusCode::OK, &card.write(version)))
}

/// `POST /a2a/{gateway}/{agent}`: JSON-RPC.
pub(super) async fn rpc(
    Shares(shared): Shares<Arc<Shared>>,
    asked: Asked,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => {
            let problem = wrap(&Value::Null, Err(&unread(&rejection)));
            return closing(answer(StatusCode::OK, &problem));
        }
    };
    let read = read(&body, asked.version.clone());
    let (id, version) = (read.id, read.version);
    let done = async {
        let call = read.call?;
        let to = asked.to.clone()?;
        shared.call(&asked, &to, call, version).await
    };
    match done.await {
        Ok(Answered::Value(value)) => answer(StatusCode::OK, &wrap(&id, Ok(value))),
        Ok(Answered::Stream(told)) => shared.events(*told, move |told| match told {
            Ok(told) => wrap(&id, Ok(told.write(version))),
            Err(problem) => wrap(&id, Err(&problem)),
        }),
        Err(problem) => answer(StatusCode::OK, &wrap(&id, Err(&problem))),
    }
}

/// `POST …/message:send`.
pub(super) async fn send(
    shares: Shares<Arc<Shared>>,
    asked: Asked,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let left = body.is_err();
    let answered = http(shares, asked, read_body(body).map(Call::Send)).await;
    if left { closing(answered) } else { answered }
}

/// `POST …/message:stream`.
pub(super) async fn stream(
    shares: Shares<Arc<Shared>>,
    asked: Asked,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let left = body.is_err();
    let answered = http(shares, asked, read_body(body).map(Call::Stream)).await;
    if left { closing(answered) } else { answered }
}

/// `GET …/tasks`.
pub(super) async fn tasks(shares: Shares<Arc<Shared>>, asked: Asked) -> Response {
    let call = read_list(asked.query.clone()).map(Call::List);
    http(shares, asked, call).await
}

/// `GET …/tasks/{task}`, and `GET …/tasks/{task}:subscribe`.
pub(super) async fn task(
    shares: Shares<Arc<Shared>>,
    asked: Asked,
    Path((_, _, task)): Path<(String, String, String)>,
) -> Response {
    let call = match task.strip_suffix(":subscribe") {
        Some(id) => Ok(Call::Subscribe { id: id.to_owned() }),
        // The only other field that a query has for it is one of a list's too.
        None => read_list(asked.query.clone()).map(|list| Call::Get {
            id: task,
            history: list.history,
        }),
    };
    http(shares, asked, call).await
}

/// `POST …/tasks/{task}:cancel` and `:subscribe`.
pub(super) async fn act(
    shares: Shares<Arc<Shared>>,
    asked: Asked,
    Path((_, _, task)): Path<(String, String, String)>,
) -> Response {
    let call = match task.rsplit_once(':') {
        Some((id, "cancel")) => Ok(Call::Cancel { id: id.to_owned() }),
        Some((id, "subscribe")) => Ok(Call::Subscribe { id: id.to_owned() }),
        _ => Err(Problem::new(
            ProblemKind::MethodNotFound,
            "a task is asked to :cancel or to :subscribe",
        )),
    };
    http(shares, asked, call).await
}

/// Everything below `…/pushNotificationConfigs`.
pub(super) async fn push(shares: Shares<Arc<Shared>>, asked: Asked) -> Response {
    http(shares, asked, Ok(Call::Push)).await
}

/// `GET …/extendedAgentCard`.
pub(super) async fn extended_card(shares: Shares<Arc<Shared>>, asked: Asked) -> Response {
    http(shares, asked, Ok(Call::Card)).await
}

/// What a call comes to.
enum Answered {
    Value(Value),
    Stream(Box<crate::a2a::Told>),
}

async fn http(
    Shares(shared): Shares<Arc<Shared>>,
    asked: Asked,
    call: Result<Call, Problem>,
) -> Response {
    let done = async {
        if asked.version.clone()? == Some(Version::V03) {
            return Err(Problem::new(
                ProblemKind::VersionNotSupported,
                "the HTTP+JSON binding is spoken in 1.0; 0.3 is in JSON-RPC",
            ));
        }
        let call = call?;
        let to = asked.to.clone()?;
        shared.call(&asked, &to, call, Version::V1).await
    };
    match done.await {
        Ok(Answered::Value(value)) => answer(StatusCode::OK, &value),
        Ok(Answered::Stream(told)) => shared.events(*told, |told| match told {
            Ok(told) => told.write(Version::V1),
            Err(problem) => problem.http(),
        }),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.kind.http_status());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            answer(status, &problem.http())
        }
    }
}

impl Shared {
    async fn call(
        &self,
        asked: &Asked,
        to: &AgentAddress,
        call: Call,
        version: Version,
    ) -> Result<Answered, Problem> {
        let agent = &asked.agent.local;
        let tasks = &self.tasks;
        let value = match call {
            Call::Send(params) => {
                let SendParams {
                    message,
                    at_once,
                    history,
                } = *params;
                let mut task = tasks.send(agent, to, message, false).await?;
                if !at_once {
                    task = self.ended(task).await?;
                }
                let told = Told::Task(task.task(history));
                // Both versions answer with an event that is a task.
                told.write(version)
            }
            Call::Stream(params) => {
                let history = params.history;
                let task = tasks.send(agent, to, params.message, true).await?;
                return Ok(Answered::Stream(Box::new(task.follow(history))));
            }
            Call::Get { id, history } => {
                let task = tasks.find(agent, to, &id).await?;
                task.task(history).write(version)
            }
            Call::List(params) => tasks.list(agent, to, &params).await?.write(),
            Call::Cancel { id } => tasks
                .cancel(agent, to, &id)
                .await?
                .task(None)
                .write(version),
            Call::Subscribe { id } => {
                let task = tasks.find(agent, to, &id).await?;
                if task.is_over() {
                    return Err(Problem::new(
                        ProblemKind::UnsupportedOperation,
                        "the task has ended, and nothing more is told of it; hint: GetTask",
                    ));
                }
                return Ok(Answered::Stream(Box::new(task.follow(None))));
            }
            Call::Push => return Err(Problem::no_push()),
            Call::Card => {
                let card = self.card_of(asked, to).await;
                let card = card.map_err(|failure| {
                    Problem::of_failure(ProblemKind::InvalidRequest, &failure)
                })?;
                card.write(Some(version).filter(|version| *version == Version::V1))
            }
        };
        Ok(Answered::Value(value))
    }

    /// The task once it has ended; or as it stands, where that takes too long or the node stops.
    async fn ended(&self, task: Watched) -> Result<Watched, Problem> {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            ended = task.clone().ended() => ended,
            _ = stopping.changed() => Ok(task),
            () = tokio::time::sleep(BLOCKS) => Ok(task),
        }
    }

    /// What is told of a task, as server-sent events, until it ends or the node stops.
    fn events(
        &self,
        told: crate::a2a::Told,
        write: impl Fn(Result<Told, Problem>) -> Value + Send + 'static,
    ) -> Response {
        let mut stopping = self.stopping.clone();
        let stopped = async move { stopping.changed().await };
        let events = each(told)
            .take_until(Box::pin(stopped))
            .map(move |told| Ok::<_, Infallible>(Event::default().data(write(told).to_string())));
        let keep_alive = KeepAlive::new().interval(HEARTBEAT);
        Sse::new(events).keep_alive(keep_alive).into_response()
    }

    /// Where this API is to the caller: its `Host`, which the gate has looked at.
    fn base_of(&self, headers: &HeaderMap) -> String {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let ours = |host: &&str| host.ends_with(&format!(":{}", self.endpoints.loopback.port()));
        match host.filter(ours) {
            Some(host) => format!("http://{host}"),
            // Over the unix socket any name is as good.
            None => format!("http://{}", self.endpoints.loopback),
        }
    }

    async fn card_of(&self, asked: &Asked, to: &AgentAddress) -> Result<Card, Failure> {
        let asker = asked.agent.local.name.clone();
        self.view.reach(to.clone(), asker.clone()).await?;
        let known = self.view.directory(Some(&asker)).await;
        let known = known.into_iter().find(|entry| entry.address == *to);
        let (words, skills) = known.map_or((None, Vec::new()), |it| (it.description, it.skills));
        let mut skills: Vec<Skill> = skills.into_iter().map(skill).collect();
        if skills.is_empty() {
            skills.push(Skill::talk());
        }
        Ok(Card {
            name: to.to_string(),
            description: words.unwrap_or_else(|| {
                format!(
                    "The agent {} on the gateway {}, over the mesh.",
                    to.agent, to.node
                )
            }),
            url: asked.url_of(to),
            skills,
        })
    }
}

impl Asked {
    fn url_of(&self, to: &AgentAddress) -> String {
        format!("{}/a2a/{}/{}", self.base, to.node, to.agent)
    }
}

/// In the agent's own words, which are bounded and free of control characters on decode.
fn skill(skill: api::Skill) -> Skill {
    let name = skill.name.unwrap_or_else(|| skill.id.clone());
    Skill {
        description: skill.description.unwrap_or_else(|| name.clone()),
        id: skill.id,
        name,
    }
}

fn each(told: crate::a2a::Told) -> impl Stream<Item = Result<Told, Problem>> {
    futures_util::stream::unfold(told, |mut told| async move {
        let next = told.next().await?;
        Some((next, told))
    })
}

fn endpoint(names: &[&str]) -> Result<AgentAddress, Problem> {
    let wrong = |why: String| {
        let failure = Failure::new("unknown_agent", format!("no such endpoint: {why}"))
            .hint("GET /a2a lists them");
        Problem::of_failure(ProblemKind::InvalidRequest, &failure)
    };
    match names {
        [node, agent] => Ok(AgentAddress {
            node: node
                .parse()
                .map_err(|error: identity::ParseNameError| wrong(error.to_string()))?,
            agent: agent
                .parse()
                .map_err(|error: identity::ParseNameError| wrong(error.to_string()))?,
        }),
        _ => Err(wrong("it is /a2a/GATEWAY/AGENT".to_owned())),
    }
}

fn read_body(body: Result<Bytes, BytesRejection>) -> Result<Box<SendParams>, Problem> {
    read_send(&body.map_err(|rejection| unread(&rejection))?)
}

/// The rest of the body is still on the way: nothing else can come on this connection.
fn closing(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

fn unread(rejection: &BytesRejection) -> Problem {
    let reason = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => "the request is larger than any message can be",
        _ => "the request ended before its body did",
    };
    Problem::new(ProblemKind::InvalidRequest, reason)
}

const CARD: &str = "/.well-known/agent-card.json";

/// How long `SendMessage` waits for the end of a task, before it answers how it stands. Proposed by
/// us: far above what HTTP clients wait.
const BLOCKS: Duration = Duration::from_secs(600);

/// Below the 30 s after which some clients give up a silent stream.
const HEARTBEAT: Duration = Duration::from_secs(10);
