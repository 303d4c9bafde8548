//! The agent's verbs: send, ask, receive, follow, ack, heartbeat, reply.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use api::{
    AckAnswer, AckRequest, Acked, AskRequest, Body, HeartbeatRequest, Kind, Received, ReceivedList,
    RejectRequest, Reply, ReplyRequest, SendAnswer, SendRequest, State, Timestamp,
};
use axum::extract::{Path, State as Shares};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use identity::AgentAddress;
use serde::Deserialize;
use wire::MessageId;

use super::Shared;
use super::extract::{AsAgent, Json, Query, message_id};
use super::refused::{Refused, json};
use crate::messages::{
    Delivery, DeliveryKind, Draft, Followed, Origin, Outcome, ReceiveOptions, ReplyDraft,
    SendError, Status, WaitFor, within,
};

/// `?wait=SECONDS&max=N&hold=SECONDS`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReceiveQuery {
    wait: Option<u64>,
    max: Option<usize>,
    hold: Option<u64>,
}

/// No query is known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoFields {}

pub(super) async fn send(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Json(request): Json<SendRequest>,
) -> Result<Response, Refused> {
    let (id, draft) = draft(request)?;
    match shared.messages.send(&agent.local, draft).await {
        Ok(sent) => Ok(json(
            StatusCode::OK,
            &SendAnswer {
                id: sent.id.to_string(),
                state: state(sent.state),
                reply: None,
                error: sent.error.map(failure),
            },
        )),
        Err(error) => Err(Refused::of_message(id, &error)),
    }
}

pub(super) async fn ask(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Json(request): Json<AskRequest>,
) -> Result<Response, Refused> {
    let (request, timeout_ms, stream) = request.into_parts();
    let timeout = timeout_ms
        .map_or(ASK_TIMEOUT, Duration::from_millis)
        .min(ASK_TIMEOUT_MAX);
    let (id, draft) = draft(request)?;
    let until = within(timeout);
    if stream {
        let draft = Draft {
            stream: true,
            ..draft
        };
        return super::parts::ask(shared, agent, id, draft, timeout).await;
    }
    let asking = shared
        .messages
        .send_and_wait(&agent.local, draft, WaitFor::Reply, until);
    match shared.until_stopped(asking).await? {
        Ok((_, outcome)) => Ok(json(StatusCode::OK, &outcome_answer(id, outcome, timeout))),
        Err(error) => Err(Refused::of_message(id, &error)),
    }
}

pub(super) async fn receive(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Query(query): Query<ReceiveQuery>,
) -> Result<Response, Refused> {
    let options = ReceiveOptions {
        wait: Duration::from_secs(query.wait.unwrap_or(0).min(RECEIVE_WAIT_MAX_S)),
        max: query.max.unwrap_or(RECEIVE_MAX).clamp(1, RECEIVE_MAX),
        hold: query.hold.map(Duration::from_secs),
    };
    let receiving = shared.messages.receive(&agent.local, options);
    let deliveries = shared.until_stopped(receiving).await??;
    let messages = deliveries
        .into_iter()
        .map(|delivery| shared.received(delivery))
        .collect();
    Ok(json(StatusCode::OK, &ReceivedList { messages }))
}

/// What waits and what comes, as server-sent events: `event: message`, `id:` the message's,
/// `data:` as in `GET /v1/messages`; and `event: cancel` where a sender took back what was shown. What was shown is held as long as the connection is.
pub(super) async fn stream(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Query(NoFields {}): Query<NoFields>,
) -> Result<Response, Refused> {
    let follow = shared.messages.follow(&agent.local).await?;
    let following = shared.agents.follow(&agent);
    let mut stopping = shared.stopping.clone();
    let stopped = async move { stopping.changed().await };
    let events = follow.take_until(Box::pin(stopped)).map(move |followed| {
        // It is online as long as this stream lives.
        let _ = &following;
        Ok::<_, Infallible>(match followed {
            Followed::Delivery(delivery) => {
                let received = shared.received(delivery);
                // Every type of `api` serialises, see `json`.
                let data = serde_json::to_string(&received).unwrap_or_default();
                Event::default().event("message").id(received.id).data(data)
            }
            Followed::Cancelled(id) => {
                let data = serde_json::json!({ "id": id.to_string() }).to_string();
                Event::default().event("cancel").data(data)
            }
        })
    });
    // The first comment tells a follower that it is connected before anything came.
    let hello = futures_util::stream::once(async { Ok(Event::default().comment("connected")) });
    let keep_alive = KeepAlive::new().interval(STREAM_HEARTBEAT);
    Ok(Sse::new(hello.chain(events))
        .keep_alive(keep_alive)
        .into_response())
}

pub(super) async fn ack(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Response, Refused> {
    let id = message_id(&id)?;
    for result in shared.messages.ack(&agent.local, vec![id]).await? {
        result?;
    }
    Ok(json(
        StatusCode::OK,
        &Acked {
            id: id.to_string(),
            error: None,
        },
    ))
}

pub(super) async fn ack_many(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Json(request): Json<AckRequest>,
) -> Result<Response, Refused> {
    if request.ids.len() > ACK_MAX {
        return Err(Refused::schema(format!("at most {ACK_MAX} ids at once")));
    }
    let ids: Vec<MessageId> = request
        .ids
        .iter()
        .map(|id| message_id(id))
        .collect::<Result<_, _>>()?;
    let results = shared.messages.ack(&agent.local, ids.clone()).await?;
    let results = ids.into_iter().zip(results).map(|(id, result)| Acked {
        id: id.to_string(),
        error: result.err().map(|refusal| Refused::from(refusal).into()),
    });
    Ok(json(
        StatusCode::OK,
        &AckAnswer {
            results: results.collect(),
        },
    ))
}

pub(super) async fn heartbeat(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Json(request): Json<HeartbeatRequest>,
) -> Result<Response, Refused> {
    let id = message_id(&id)?;
    let hold = request.hold_s.map(Duration::from_secs);
    for result in shared
        .messages
        .heartbeat(&agent.local, vec![id], hold)
        .await?
    {
        result?;
    }
    Ok(json(
        StatusCode::OK,
        &Acked {
            id: id.to_string(),
            error: None,
        },
    ))
}

/// An agent that cannot do it now gives it back; it comes again at once, attempt + 1.
pub(super) async fn release(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Response, Refused> {
    let id = message_id(&id)?;
    shared.messages.release(&agent.local, vec![id]).await;
    Ok(json(
        StatusCode::OK,
        &Acked {
            id: id.to_string(),
            error: None,
        },
    ))
}

pub(super) async fn reply(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Json(request): Json<ReplyRequest>,
) -> Result<Response, Refused> {
    let to = message_id(&id)?;
    let ReplyRequest {
        body,
        body_base64,
        content_type,
        id,
    } = request;
    let (content_type, body) = content(body, body_base64, content_type)?;
    let id = match id {
        Some(id) => message_id(&id)?,
        None => crate::messages::fresh_id(),
    };
    let draft = ReplyDraft {
        id: Some(id),
        content_type,
        body,
    };
    match shared.messages.reply(&agent.local, to, draft).await {
        Ok(sent) => Ok(json(
            StatusCode::OK,
            &SendAnswer {
                id: sent.id.to_string(),
                state: state(sent.state),
                reply: None,
                error: sent.error.map(failure),
            },
        )),
        Err(error) => Err(Refused::of_message(id, &error)),
    }
}

/// This agent will never do it: settled, and its sender hears so.
pub(super) async fn reject(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Json(RejectRequest { reason }): Json<RejectRequest>,
) -> Result<Response, Refused> {
    let id = message_id(&id)?;
    if reason.as_ref().is_some_and(|text| text.len() > REASON_MAX) {
        return Err(Refused::schema(format!(
            "a reason is at most {REASON_MAX} bytes"
        )));
    }
    shared.messages.reject(&agent.local, id, reason).await?;
    Ok(json(
        StatusCode::OK,
        &Acked {
            id: id.to_string(),
            error: None,
        },
    ))
}

/// The sender takes its message back. The answer says how it stands: what was settled before stays
/// so.
pub(super) async fn cancel(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Response, Refused> {
    let status = shared
        .messages
        .cancel(&agent.local, message_id(&id)?)
        .await?;
    Ok(json(StatusCode::OK, &status_answer(status)))
}

pub(super) async fn show(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let status = shared
        .messages
        .state(&agent.local, message_id(&id)?)
        .await?;
    Ok(json(StatusCode::OK, &status_answer(status)))
}

impl Shared {
    /// What waits for others ends when the API does; the caller asks the next start.
    pub(super) async fn until_stopped<T>(
        &self,
        waiting: impl Future<Output = T>,
    ) -> Result<T, Refused> {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            biased;
            done = waiting => Ok(done),
            _ = stopping.changed() => Err(SendError::Stopping.into()),
        }
    }

    pub(super) fn received(&self, delivery: Delivery) -> Received {
        let Delivery {
            id,
            kind,
            from,
            to,
            content_type,
            body,
            created_at_ms,
            attempt,
            stream,
            conversation,
            cause,
            ..
        } = delivery;
        let (body, body_base64) = Body::from_bytes(body.into()).into_fields();
        let reply_expected = kind == DeliveryKind::Request;
        let (kind, in_reply_to, error) = match kind {
            DeliveryKind::Message | DeliveryKind::Request => (Kind::Message, None, None),
            DeliveryKind::Reply { in_reply_to } => (Kind::Reply, Some(in_reply_to), None),
            DeliveryKind::Failure { of, error } => (Kind::Failure, Some(of), Some(failure(error))),
        };
        // Something can only be delivered after this gateway learned its name, except a failure
        // that outlived the membership; that one came from here.
        let node = self.view.own_name().unwrap_or_else(|| from.node.clone());
        Received {
            id: id.to_string(),
            kind,
            from,
            to: AgentAddress { agent: to, node },
            body,
            body_base64,
            content_type: content_type.into(),
            created_at: Timestamp(created_at_ms),
            attempt,
            reply_expected,
            stream,
            conversation: conversation.map(Into::into),
            root: cause.root.to_string(),
            depth: cause.depth,
            in_reply_to: in_reply_to.map(|id| id.to_string()),
            error,
        }
    }
}

/// The id is made here where the agent made none, so that a refusal can name it too.
pub(super) fn draft(request: SendRequest) -> Result<(MessageId, Draft), Refused> {
    let SendRequest {
        to,
        body,
        body_base64,
        content_type,
        ttl_s,
        id,
        reply_expected,
        cause,
        conversation,
    } = request;
    let origin = match cause.as_deref() {
        None => Origin::Unsaid,
        Some("none") => Origin::Nothing,
        Some(id) => Origin::Message(message_id(id)?),
    };
    let (content_type, body) = content(body, body_base64, content_type)?;
    let id = match id {
        Some(id) => message_id(&id)?,
        None => crate::messages::fresh_id(),
    };
    let draft = Draft {
        id: Some(id),
        to,
        expects_reply: reply_expected,
        stream: false,
        origin,
        conversation,
        ttl: ttl_s.map(Duration::from_secs),
        content_type,
        body,
    };
    Ok((id, draft))
}

fn content(
    body: Option<String>,
    body_base64: Option<String>,
    content_type: Option<String>,
) -> Result<(String, Bytes), Refused> {
    let body = Body::from_fields(body, body_base64.as_deref())
        .map_err(|error| Refused::schema(error.to_string()))?;
    let content_type = content_type.unwrap_or_else(|| body.content_type().to_owned());
    Ok((content_type, Bytes::from(body.into_bytes())))
}

pub(super) fn outcome_answer(id: MessageId, outcome: Outcome, timeout: Duration) -> SendAnswer {
    match outcome {
        Outcome::Answered(reply) => SendAnswer {
            id: id.to_string(),
            state: State::Done,
            reply: Some(reply_of(reply)),
            error: None,
        },
        Outcome::Settled(status) => status_answer(status),
        Outcome::TimedOut(status) => {
            let mut answer = status_answer(status);
            let mut reason = format!("no answer within {:?}", timeout);
            // It waits for a token; that is no end of its own.
            if let Some(waits) = answer.error.take() {
                reason = format!("{reason}: {}", waits.reason);
            }
            let timeout = api::Failure::new("timeout", reason)
                .hint("a late answer arrives by `crabmesh recv`");
            answer.error = Some(timeout);
            answer
        }
    }
}

fn reply_of(delivery: Delivery) -> Reply {
    let (body, body_base64) = Body::from_bytes(delivery.body.into()).into_fields();
    Reply {
        id: delivery.id.to_string(),
        from: delivery.from,
        body,
        body_base64,
        content_type: delivery.content_type.into(),
    }
}

pub(super) fn status_answer(status: Status) -> SendAnswer {
    SendAnswer {
        id: status.id.to_string(),
        state: state(status.state),
        reply: None,
        error: status.error.map(failure),
    }
}

pub(super) fn state(state: router::State) -> State {
    match state {
        router::State::Accepted => State::Accepted,
        router::State::Stored => State::Stored,
        router::State::Delivered => State::Delivered,
        router::State::Done => State::Done,
        router::State::Denied => State::Denied,
        router::State::Expired => State::Expired,
        router::State::Failed => State::Failed,
    }
}

pub(crate) fn failure(failure: router::Failure) -> api::Failure {
    api::Failure {
        code: failure.code.into(),
        reason: failure.reason.into(),
        hint: None,
        missing_grant: failure.missing_grant,
        cause: failure.cause,
        rule: failure.rule,
    }
}

/// As `crabmesh send --timeout`.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time to live of a message, so also of an answer's.
pub(super) const ASK_TIMEOUT_MAX: Duration = router::limits::MAX_TTL;

/// A sentence or two, for people.
const REASON_MAX: usize = 1024;

/// Below what proxies and HTTP clients take for a dead connection.
pub(super) const RECEIVE_WAIT_MAX_S: u64 = 60;

/// The most messages of one answer; with the largest bodies 25 MiB.
pub(super) const RECEIVE_MAX: usize = 100;

/// An inbox has no more.
pub(super) const ACK_MAX: usize = router::limits::INBOX_ROWS;

/// Below the 30 s after which some clients give up a silent stream.
pub(super) const STREAM_HEARTBEAT: Duration = Duration::from_secs(10);
