//! Between the client's lines and the node's HTTP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::call::{Call, PARSE_ERROR, SESSION, error, key};
use super::lines::Line;
use super::session::Session;
use crate::client::{Client, Unanswered};
use crate::failure::Failure;
use crate::output::note;
use crate::terminal::printable;

/// One client, one agent.
pub struct Bridge {
    client: Client,
    out: mpsc::Sender<Bytes>,
    session: Session,
    /// The requests that are not answered yet, to be taken back.
    open: Mutex<HashMap<String, AbortHandle>>,
}

/// How an exchange ended that brought no answer.
enum Ended {
    /// The node does not know the session: it was restarted, or the session was idle for too long.
    NoSession(Option<HeaderValue>),
    /// Nothing was said to the node.
    Unsaid(Failure),
    /// It was said, and nobody knows what came of it.
    Broken(Failure),
    /// The node refused it.
    Refused(Failure),
}

impl Bridge {
    pub fn new(client: Client, out: mpsc::Sender<Bytes>) -> Self {
        Self {
            client,
            out,
            session: Session::default(),
            open: Mutex::new(HashMap::new()),
        }
    }

    /// Takes a line. Requests go side by side; everything else keeps its place among them. May be
    /// dropped, where the bridge ends.
    pub async fn take(self: &Arc<Self>, line: Line, calls: &mut JoinSet<()>) {
        let line = match line {
            Line::Whole(line) if line.is_empty() => return,
            Line::Whole(line) => line,
            Line::TooLong => {
                note("crabmesh: a line is longer than any message");
                let answer = error(Value::Null, PARSE_ERROR, "longer than any message");
                return self.print(&answer).await;
            }
        };
        let message = match serde_json::from_slice(&line) {
            Ok(message) => message,
            Err(reason) => {
                note(format!("crabmesh: a line is no JSON: {reason}"));
                let answer = error(Value::Null, PARSE_ERROR, "the line is no JSON");
                return self.print(&answer).await;
            }
        };
        let call = Call::new(message);
        if call.method() == "initialize" {
            // A client that does not wait for its answer goes on in the session all the same.
            return self.answer(&call).await;
        }
        if let Some(id) = call.id().map(key) {
            let bridge = self.clone();
            // Entered before it can end.
            let mut open = self.open();
            let handle = calls.spawn(async move { bridge.answer(&call).await });
            open.insert(id, handle);
            return;
        }
        let taken_back = call.cancels().and_then(|id| self.open().remove(&id));
        // Without a session, to close a call's stream is to take it back.
        let told = match (&taken_back, self.session.held().id) {
            (Some(_), None) => Ok(()),
            _ => self.say(&call).await,
        };
        if let Some(handle) = taken_back {
            handle.abort();
        }
        if let Err(ended) = told {
            note(format!(
                "crabmesh: the node did not hear {}: {}",
                printable(call.method()),
                ended.failure()
            ));
        }
    }

    /// Ends the session, as the protocol wants.
    pub async fn end(&self) {
        let Some(id) = self.session.held().id else {
            return;
        };
        let headers = vec![(hyper::header::HeaderName::from_static(SESSION), id)];
        let ending = self.client.mcp(Method::DELETE, headers, None);
        // A node that is gone has ended it already.
        let _ = tokio::time::timeout(END, ending).await;
    }

    /// Answers a request, whatever happens.
    async fn answer(&self, call: &Call) {
        let started = Instant::now();
        let mut pause = PAUSE_FIRST;
        let mut renewed = false;
        let (failure, what_to_do) = loop {
            match self.say(call).await {
                Ok(()) => break self.close(call),
                Err(Ended::NoSession(id)) if !renewed => {
                    renewed = true;
                    if let Err(failure) = self.renew(id).await {
                        break (Some(failure), AGAIN);
                    }
                }
                Err(Ended::NoSession(_)) => {
                    let failure = Failure::failed("the node ends every session at once");
                    break (Some(failure), AGAIN);
                }
                Err(Ended::Unsaid(_)) if started.elapsed() < PATIENCE => {
                    if pause == PAUSE_FIRST {
                        note("crabmesh: the local node does not answer; waiting for it");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(Ended::Broken(_)) if call.repeatable() && started.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE_FIRST).await;
                }
                Err(Ended::Broken(failure)) => break (Some(failure), UNKNOWN),
                Err(Ended::Unsaid(failure)) => break (Some(failure), AGAIN),
                Err(Ended::Refused(failure)) => break (Some(failure), REFUSED),
            }
        };
        let Some(failure) = failure else { return };
        note(format!("crabmesh: {failure}"));
        self.print(&call.refused(&failure, what_to_do)).await;
        self.close(call);
    }

    fn close(&self, call: &Call) -> (Option<Failure>, &'static str) {
        if let Some(id) = call.id() {
            self.open().remove(&key(id));
        }
        (None, "")
    }

    /// Says a message to the node, and prints what it answers as it comes.
    async fn say(&self, call: &Call) -> Result<(), Ended> {
        let held = self.session.held();
        let response = self.post(call.message(), call.headers(&held)).await?;
        let in_session = held.id.is_some() && call.own_version().is_none();
        if response.status() == StatusCode::NOT_FOUND && in_session {
            return Err(Ended::NoSession(held.id));
        }
        let began = response.headers().get(SESSION).cloned();
        let mut answers = Answers::of(response, call.id()).await?;
        let Some(id) = call.id() else { return Ok(()) };
        while let Some(message) = answers.next().await? {
            let ours = message.get("id") == Some(id) && message.get("method").is_none();
            if ours && call.method() == "initialize" && message.get("result").is_some() {
                let version = message["result"]["protocolVersion"].as_str();
                let initialize = call.message().clone();
                self.session.begin(initialize, began.clone(), version);
            }
            self.print(&message).await;
            if ours {
                return Ok(());
            }
        }
        Err(broken())
    }

    /// Begins another session in the client's name; the others wait until it is there.
    async fn renew(&self, unknown: Option<HeaderValue>) -> Result<(), Failure> {
        let _one = self.session.renewing.lock().await;
        let held = self.session.held();
        if held.id != unknown {
            return Ok(());
        }
        let Some(initialize) = held.initialize else {
            return Err(Failure::failed("the client began no session"));
        };
        note("crabmesh: the node knows the session no longer; beginning another");
        let begun = tokio::time::timeout(PATIENCE, self.begin_again(initialize)).await;
        match begun {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ended)) => Err(ended.failure()),
            Err(_) => Err(Failure::no_node("the local node does not answer in time")),
        }
    }

    async fn begin_again(&self, initialize: Value) -> Result<(), Ended> {
        let mut message = initialize.clone();
        message["id"] = json!("crabmesh-again");
        let response = self.post(&message, Vec::new()).await?;
        let id = response.headers().get(SESSION).cloned();
        let mut answers = Answers::of(response, message.get("id")).await?;
        while let Some(answer) = answers.next().await? {
            if answer.get("id") != message.get("id") {
                continue;
            }
            let Some(version) = answer["result"]["protocolVersion"].as_str() else {
                let failure = Failure::failed("the node does not begin a session again");
                return Err(Ended::Refused(failure));
            };
            self.session.begin(initialize, id, Some(version));
            let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            let initialized = Call::new(initialized);
            let headers = initialized.headers(&self.session.held());
            self.post(initialized.message(), headers).await?;
            return Ok(());
        }
        Err(broken())
    }

    async fn post(
        &self,
        message: &Value,
        headers: Vec<(hyper::header::HeaderName, HeaderValue)>,
    ) -> Result<Response<Incoming>, Ended> {
        let body = Bytes::from(message.to_string());
        let posted = self.client.mcp(Method::POST, headers, Some(body)).await;
        posted.map_err(|unanswered| match unanswered {
            Unanswered::Unsaid(failure) => Ended::Unsaid(failure),
            Unanswered::Broken(failure) => Ended::Broken(failure),
        })
    }

    async fn print(&self, message: &Value) {
        // A client that reads no more is about to end us.
        let _ = self.out.send(message.to_string().into()).await;
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, AbortHandle>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended {
    fn failure(self) -> Failure {
        match self {
            Self::NoSession(_) => Failure::failed("the node does not know the session"),
            Self::Unsaid(failure) | Self::Broken(failure) | Self::Refused(failure) => failure,
        }
    }
}

/// The messages of one HTTP answer.
enum Answers {
    One(Option<Value>),
    Events { body: Incoming, buffer: BytesMut },
}

impl Answers {
    /// An answer that is neither of the two is a refusal.
    async fn of(response: Response<Incoming>, id: Option<&Value>) -> Result<Self, Ended> {
        let status = response.status();
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        if status.is_success() && content_type.is_some_and(|it| it.starts_with("text/event-stream"))
        {
            return Ok(Self::Events {
                body: response.into_body(),
                buffer: BytesMut::new(),
            });
        }
        let collected = http_body_util::Limited::new(response.into_body(), ANSWER_MAX)
            .collect()
            .await
            .map_err(|_| broken())?
            .to_bytes();
        let message: Option<Value> = serde_json::from_slice(&collected).ok();
        match message {
            Some(mut message) if message["jsonrpc"].is_string() => {
                // What could not be read as a request is answered without its id.
                if let Some(id) = id.filter(|_| message["id"].is_null()) {
                    message["id"] = id.clone();
                }
                Ok(Self::One(Some(message)))
            }
            _ if status == StatusCode::ACCEPTED => Ok(Self::One(None)),
            _ => {
                let words = String::from_utf8_lossy(&collected);
                let reason = message
                    .as_ref()
                    .and_then(|it| it["error"]["reason"].as_str())
                    .unwrap_or(&words);
                let hint = message.as_ref().and_then(|it| it["error"]["hint"].as_str());
                let hint = hint
                    .map(|hint| format!(" (hint: {hint})"))
                    .unwrap_or_default();
                let reason: String = reason.chars().take(REASON_MAX).collect();
                Err(Ended::Refused(Failure::failed(format!(
                    "the node refuses with {}: {}",
                    status.as_u16(),
                    printable(&format!("{reason}{hint}"))
                ))))
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Value>, Ended> {
        let (body, buffer) = match self {
            Self::One(message) => return Ok(message.take()),
            Self::Events { body, buffer } => (body, buffer),
        };
        loop {
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let event = buffer.split_to(end);
                buffer.advance(2);
                let data = event[..]
                    .split(|byte| *byte == b'\n')
                    .find_map(|line| line.strip_prefix(b"data:"))
                    .filter(|data| !data.trim_ascii().is_empty());
                // An event without data only says from where a stream may be taken up again.
                if let Some(data) = data {
                    return serde_json::from_slice(data).map(Some).map_err(|_| broken());
                }
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        buffer.extend_from_slice(&data);
                    }
                    if buffer.len() > ANSWER_MAX {
                        return Err(broken());
                    }
                }
                Some(Err(_)) => return Err(broken()),
                None => return Ok(None),
            }
        }
    }
}

fn broken() -> Ended {
    Ended::Broken(Failure::no_node(
        "the local node broke off before it answered",
    ))
}

const AGAIN: &str = "nothing was done; try again once the gateway runs (crabmesh up)";
const UNKNOWN: &str =
    "it may have been done: do not repeat it before mesh_inbox shows no answer to it";
const REFUSED: &str = "nothing was done";

/// How long a restart of the node may take before a call is given up.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
const END: Duration = Duration::from_millis(500);

/// Above what the node writes in one event.
const ANSWER_MAX: usize = 8 << 20;
const REASON_MAX: usize = 500;
