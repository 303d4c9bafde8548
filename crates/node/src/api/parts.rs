//! Answers in parts: an agent publishes them while it works, and whoever asked follows them.
//!
//! Who follows may come again with the last event's id, after its own restart or the node's; who
//! publishes sends again what it is not sure of, from the number that it is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::{Body as Content, PartsAnswer, PartsLost, PartsRestart, SendAnswer};
use axum::body::Body;
use axum::extract::{Path, State as Shares};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http_body_util::BodyExt;
use router::{Cursor, PartEvent};
use serde::{Deserialize, Serialize};
use wire::MessageId;
use wire::parts::{MAX_PART, Part};

use super::extract::{AsAgent, Query, message_id};
use super::messages::{
    ASK_TIMEOUT, ASK_TIMEOUT_MAX, STREAM_HEARTBEAT, failure, outcome_answer, state,
};
use super::refused::{Refused, json};
use super::{Later, Shared};
use crate::agents::Agent;
use crate::messages::{Draft, Outcome, SendError, WaitFor, within};
use crate::streams::{Publisher, Subscription};

/// `?attempt=N`: that of the delivery which is being answered.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishQuery {
    attempt: Option<u32>,
}

/// `?timeout_ms=N&after=ATTEMPT.SEQ`; the header `Last-Event-ID` says the same.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FollowQuery {
    timeout_ms: Option<u64>,
    after: Option<String>,
}

/// `POST /v1/ask` with `stream`: accepted first, then the parts, then the answer.
pub(super) async fn ask(
    shared: Arc<Shared>,
    agent: Arc<Agent>,
    id: MessageId,
    draft: Draft,
    timeout: Duration,
) -> Result<Response, Refused> {
    let until = within(timeout);
    let asking = shared.messages.ask(&agent.local, draft, WaitFor::Reply);
    let (sent, asked) = asking
        .await
        .map_err(|error| Refused::of_message(id, &error))?;
    let parts = shared
        .messages
        .subscribe(&agent.local, id, Cursor::default())
        .await?;
    let accepted = SendAnswer {
        id: id.to_string(),
        state: state(sent.state),
        reply: None,
        error: sent.error.map(failure),
    };
    let outcome = Box::pin(async move { asked.outcome(until).await });
    let events = Events::new(id, parts, outcome, timeout);
    let first = futures_util::stream::once(async move { event("accepted", &accepted) });
    Ok(shared.sse(first.chain(events.run())))
}

/// `GET /v1/messages/{id}/parts`: takes up the parts of an open ask again.
pub(super) async fn follow(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Query(query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let id = message_id(&id)?;
    let last = headers.get("last-event-id").map(|it| it.to_str());
    let last = match last {
        Some(Ok(text)) => Some(text.to_owned()),
        Some(Err(_)) => return Err(Refused::schema("Last-Event-ID is not ATTEMPT.SEQ")),
        None => query.after,
    };
    let at = match &last {
        Some(text) => cursor(text)
            .ok_or_else(|| Refused::schema(format!("{text:?} is not ATTEMPT.SEQ, as in 1.17")))?,
        None => Cursor::default(),
    };
    let timeout = query
        .timeout_ms
        .map_or(ASK_TIMEOUT, Duration::from_millis)
        .min(ASK_TIMEOUT_MAX);
    let parts = shared.messages.subscribe(&agent.local, id, at).await?;
    let (messages, agent) = (shared.messages.clone(), agent.local.clone());
    let outcome = Box::pin(async move {
        let until = within(timeout);
        messages.wait(&agent, id, WaitFor::Reply, until).await
    });
    Ok(shared.sse(Events::new(id, parts, outcome, timeout).run()))
}

/// `POST /v1/messages/{id}/parts`: one part a line, as many as there are, for as long as it takes.
pub(super) async fn publish(
    Shares(shared): Shares<Arc<Shared>>,
    AsAgent(agent): AsAgent,
    Path(id): Path<String>,
    Query(query): Query<PublishQuery>,
    body: Body,
) -> Result<Response, Refused> {
    let id = message_id(&id)?;
    let publisher = shared
        .messages
        .publisher(&agent.local, id, query.attempt)
        .await?;
    let taking = take_lines(body, &publisher);
    let hidden = async {
        // Whoever publishes is at work: the message stays hidden meanwhile.
        loop {
            let beat = shared.messages.heartbeat(&agent.local, vec![id], None);
            // One that is settled needs none; the publisher says so itself.
            let _ = beat.await;
            tokio::time::sleep(HEARTBEAT).await;
        }
    };
    let taken = tokio::select! {
        taken = taking => taken,
        () = shared.messages.cancelled(&agent.local, id) => Ok(()),
        _ = hidden => Ok(()),
    };
    let closed = publisher.is_closed();
    let answer = |error: Option<Refused>| {
        let status = error.as_ref().map_or(StatusCode::OK, Refused::status);
        let answer = PartsAnswer {
            next: publisher.next(),
            closed,
            error: error.map(Into::into),
        };
        json(status, &answer)
    };
    Ok(match taken {
        Ok(()) => answer(None),
        Err(_) if closed => answer(None),
        Err(refused) => answer(Some(refused)),
    })
}

/// Reads lines until the body ends.
async fn take_lines(mut body: Body, publisher: &Publisher) -> Result<(), Refused> {
    let mut buffer = BytesMut::new();
    loop {
        let mut from = 0;
        while let Some(end) = buffer[from..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(from + end + 1);
            from = 0;
            take_line(&line, publisher).await?;
        }
        if buffer.len() > LINE_MAX {
            return Err(Refused::schema(format!(
                "a line is longer than any part can be, {LINE_MAX} bytes"
            )));
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    buffer.extend_from_slice(&data);
                }
            }
            Some(Err(_)) => return Err(Refused::schema("the request ended before its body did")),
            None => return take_line(&buffer, publisher).await,
        }
    }
}

async fn take_line(line: &[u8], publisher: &Publisher) -> Result<(), Refused> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let api::Part {
        seq,
        text,
        base64,
        kind,
    } = serde_json::from_slice(line).map_err(|error| Refused::schema(error.to_string()))?;
    let content = Content::from_fields(text, base64.as_deref())
        .map_err(|error| Refused::schema(error.to_string()))?;
    let content = Bytes::from(content.into_bytes());
    let pushed = publisher.push(seq, kind.map(Into::into), content).await;
    pushed.map(drop).map_err(|error| {
        let error = SendError::Parts(error);
        Refused::from(&error)
    })
}

/// What an ask in parts comes to: the parts, and after them the answer.
struct Events {
    id: MessageId,
    parts: Option<Subscription>,
    outcome: Option<Later<'static, Result<Outcome, SendError>>>,
    timeout: Duration,
    answer: Option<SendAnswer>,
    /// By when parts that are still on their way must have come.
    until: Option<tokio::time::Instant>,
}

impl Events {
    fn new(
        id: MessageId,
        parts: Subscription,
        outcome: Later<'static, Result<Outcome, SendError>>,
        timeout: Duration,
    ) -> Self {
        Self {
            id,
            parts: Some(parts),
            outcome: Some(outcome),
            timeout,
            answer: None,
            until: None,
        }
    }

    fn run(self) -> impl Stream<Item = Event> {
        futures_util::stream::unfold(self, |mut events| async {
            events.next().await.map(|event| (event, events))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            let part = async {
                match &mut self.parts {
                    Some(parts) => parts.next().await,
                    None => std::future::pending().await,
                }
            };
            let outcome = async {
                match &mut self.outcome {
                    Some(outcome) => outcome.await,
                    None => std::future::pending().await,
                }
            };
            let late = async {
                match self.until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                part = part => match part {
                    Some(PartEvent::End) | None => self.parts = None,
                    Some(part) => return Some(part_event(part)),
                },
                outcome = outcome => {
                    self.outcome = None;
                    self.settle(outcome);
                }
                () = late => self.parts = None,
            }
            if self.parts.is_none()
                && let Some(answer) = self.answer.take()
            {
                return Some(event("answer", &answer));
            }
            if self.parts.is_none() && self.outcome.is_none() && self.answer.is_none() {
                return None;
            }
        }
    }

    fn settle(&mut self, outcome: Result<Outcome, SendError>) {
        let answered = matches!(outcome, Ok(Outcome::Answered(_)));
        self.answer = match outcome {
            Ok(outcome) => Some(outcome_answer(self.id, outcome, self.timeout)),
            Err(error) => Refused::of_message(self.id, &error).into_answer(),
        };
        match answered {
            true => self.until = Some(tokio::time::Instant::now() + LATE),
            // Nothing more will come.
            false => self.parts = None,
        }
    }
}

impl Shared {
    fn sse(&self, events: impl Stream<Item = Event> + Send + 'static) -> Response {
        let mut stopping = self.stopping.clone();
        let stopped = Box::pin(async move { stopping.changed().await });
        let events = events.take_until(stopped).map(Ok::<_, Infallible>);
        let keep_alive = KeepAlive::new().interval(STREAM_HEARTBEAT);
        Sse::new(events).keep_alive(keep_alive).into_response()
    }
}

fn part_event(part: PartEvent) -> Event {
    match part {
        PartEvent::Part { attempt, part } => {
            let Part { seq, kind, content } = part;
            let (text, base64) = Content::from_bytes(content.into()).into_fields();
            let kind = kind.map(Into::into);
            let id = format!("{attempt}.{seq}");
            let part = api::Part {
                seq,
                text,
                base64,
                kind,
            };
            with_data(Event::default().event("part").id(id), &part)
        }
        PartEvent::Restart { attempt } => event("restart", &PartsRestart { attempt }),
        PartEvent::Lost { next } => event("lost", &PartsLost { next }),
        // Taken for the end of the parts before.
        PartEvent::End => Event::default(),
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    with_data(Event::default().event(name), data)
}

fn with_data(event: Event, data: &impl Serialize) -> Event {
    // Every type of `api` serialises, see `json`.
    event.data(serde_json::to_string(data).unwrap_or_default())
}

/// `ATTEMPT.SEQ`
fn cursor(text: &str) -> Option<Cursor> {
    let (attempt, seq) = text.split_once('.')?;
    Some(Cursor {
        attempt: attempt.parse().ok()?,
        seq: seq.parse().ok()?,
    })
}

/// The largest part with every byte of it escaped as `\u00XX`, and room for the other fields.
const LINE_MAX: usize = 6 * MAX_PART + 1024;

/// A third of the time that a message is hidden without one.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long parts may come after the answer. They travel beside it, on a stream of their own.
const LATE: Duration = Duration::from_secs(1);
