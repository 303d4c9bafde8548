//! The other direction: this node as a client of an A2A server, JSON-RPC, 1.0 first.
//!
//! A message is posted once. Some servers take the same `messageId` for a new task that hangs, so
//! that after a broken connection or a timeout a task is looked for, never made again: by its id
//! where that is known, and by its thread of talk, which is fresh for each message, where it is not.
//! A server that knows no method of 1.0 is asked in 0.3 from then on.
//!
//! **Invariants.** The bearer goes to the URL that was set, in `Authorization`, and nowhere else: no
//! redirect is followed, no proxy of the environment is used. Of an answer no more is read than a
//! message may be. What a server says is in no log and in no error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::api::a2a::{Event, Message, Part, ProblemKind, Task, TaskState, VERSION_HEADER, Version};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client as Http, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// One A2A server.
pub(crate) struct Client {
    http: Http,
    url: Url,
    bearer: Option<Zeroizing<String>>,
    /// It answered in 0.3.
    old: AtomicBool,
}

/// What a server made of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Came {
    /// An answer, in parts.
    Parts(Vec<Part>, Option<Map<String, Value>>),
    /// It will not do it.
    Rejected,
    /// It tried, or wants what nobody here can give: input, or a login.
    Failed(&'static str),
    /// It does not know the task any longer: it restarted, as many do with their tasks in memory.
    Forgotten,
}

/// Why a server was not asked, or did not answer. In our own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    /// It never had the message.
    #[error("{0}")]
    Unreached(String),
    /// It may have the message; nothing more is known.
    #[error("{0}")]
    Unknown(String),
    /// It refused the message for what it is.
    #[error("{0}")]
    Refused(String),
}

/// What is kept of a message that was posted, or is about to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trace {
    /// The task that it became, where that is known.
    pub(crate) task: Option<String>,
    /// The answer, where it came without a task: its content type and its body.
    pub(crate) answer: Option<(String, Vec<u8>)>,
}

/// What a server knows of a message.
enum Found {
    Task(String),
    /// It lists its tasks, and this is none of them.
    Nothing,
    /// It does not list them.
    Unknown,
}

impl Client {
    pub(crate) fn new(http: Http, url: Url, bearer: Option<Zeroizing<String>>) -> Self {
        Self {
            http,
            url,
            bearer,
            old: AtomicBool::new(false),
        }
    }

    /// Takes a task back, as far as the server lets it.
    pub(crate) async fn cancel(&self, task: &str) {
        let params = json!({"id": task});
        let method = self.method("CancelTask", "tasks/cancel");
        // Nobody waits for it any longer, whatever it says.
        let _ = self.call(method, params, SHORT).await;
    }

    /// Posts a message, once: what a server makes of it is told at once.
    pub(crate) async fn send(&self, message: &Message) -> Result<Event, ClientError> {
        for version in [Version::V1, Version::V03] {
            if version == Version::V1 && self.old.load(Ordering::Relaxed) {
                continue;
            }
            let (method, configuration) = match version {
                Version::V1 => ("SendMessage", json!({"returnImmediately": true})),
                Version::V03 => ("message/send", json!({"blocking": false})),
            };
            let params = json!({
                "message": message.write(version),
                "configuration": configuration,
            });
            match self.call((method, version), params, SENDS_WITHIN).await {
                Ok(result) => {
                    return Event::read(&result, version)
                        .map_err(|_| unknown("its answer makes no sense"));
                }
                Err(Fault::Rpc(code)) if is_old(code) && version == Version::V1 => {
                    self.old.store(true, Ordering::Relaxed);
                }
                Err(Fault::Rpc(code)) => {
                    return Err(ClientError::Refused(format!(
                        "it refused: A2A error {code}"
                    )));
                }
                Err(Fault::Client(error)) => return Err(error),
            }
        }
        let why = "it speaks neither A2A 1.0 nor 0.3";
        Err(ClientError::Refused(why.into()))
    }

    /// Asks for the task of a message that was posted, until it has ended. `Ok(None)`: the server
    /// says that it never had the message.
    pub(crate) async fn poll(
        &self,
        message: &Message,
        trace: &mut Trace,
        until: Instant,
    ) -> Result<Option<Came>, ClientError> {
        let mut pause = FIRST_PAUSE;
        let (mut last, mut absent) = (None, 0);
        while Instant::now() + pause < until {
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(PAUSE);
            let Some(task) = trace.task.clone() else {
                match self.find(message).await {
                    Found::Task(task) => trace.task = Some(task),
                    // It may just be at it.
                    Found::Nothing if absent < ABSENT => absent += 1,
                    Found::Nothing => return Ok(None),
                    Found::Unknown => {
                        last = Some("its answer was lost, and it does not list the task");
                    }
                }
                continue;
            };
            match self.get(&task).await {
                Ok(task) => match came_of(task) {
                    Some(came) => return Ok(Some(came)),
                    None => last = None,
                },
                Err(Fault::Rpc(code)) if kind_of(code) == Some(ProblemKind::TaskNotFound) => {
                    return Ok(Some(Came::Forgotten));
                }
                Err(_) => last = Some("it does not answer for the task"),
            }
        }
        Err(unknown(last.unwrap_or("the task has not ended in time")))
    }

    async fn get(&self, task: &str) -> Result<Task, Fault> {
        let params = json!({"id": task, "historyLength": 0});
        let method = self.method("GetTask", "tasks/get");
        let result = self.call(method, params, SHORT).await?;
        Task::read(&result, method.1).map_err(|_| Fault::Client(unknown("its task makes no sense")))
    }

    /// The task of a message whose answer was lost: by the message in its history.
    async fn find(&self, message: &Message) -> Found {
        let Some(context) = &message.context else {
            return Found::Unknown;
        };
        let params = json!({"contextId": context, "pageSize": 100, "historyLength": 10});
        let result = self.call(("ListTasks", Version::V1), params, SHORT).await;
        let Ok(result) = result else {
            return Found::Unknown;
        };
        let Some(tasks) = result.get("tasks").and_then(Value::as_array) else {
            return Found::Unknown;
        };
        let mut silent = false;
        for task in tasks {
            match task["history"].as_array() {
                Some(history) if history.iter().any(|it| it["messageId"] == *message.id) => {
                    return match task["id"].as_str() {
                        Some(id) => Found::Task(id.to_owned()),
                        None => Found::Unknown,
                    };
                }
                Some(history) => silent |= history.is_empty(),
                None => silent = true,
            }
        }
        // One of them that does not say what it is about may be it.
        match silent {
            true => Found::Unknown,
            false => Found::Nothing,
        }
    }

    fn method(&self, new: &'static str, old: &'static str) -> (&'static str, Version) {
        match self.old.load(Ordering::Relaxed) {
            true => (old, Version::V03),
            false => (new, Version::V1),
        }
    }

    async fn call(
        &self,
        (method, version): (&'static str, Version),
        params: Value,
        within: Duration,
    ) -> Result<Value, Fault> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let mut post = self
            .http
            .post(self.url.clone())
            .timeout(within)
            .header(CONTENT_TYPE, "application/json")
            .body(request.to_string());
        post = match version {
            Version::V1 => post.header(VERSION_HEADER, "1.0"),
            Version::V03 => post.header(VERSION_HEADER, "0.3"),
        };
        if let Some(bearer) = &self.bearer {
            let value = Zeroizing::new(format!("Bearer {}", &**bearer));
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| ClientError::Unreached("its bearer is no header value".into()))?;
            value.set_sensitive(true);
            post = post.header(AUTHORIZATION, value);
        }
        let response = post.send().await.map_err(|error| fault_of(&error))?;
        judge(response.status())?;
        let answer = read(response).await?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|_| unknown("its answer is no JSON"))?;
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            if error["message"] == RATE_LIMITED {
                let why = "it takes no more for the moment";
                return Err(ClientError::Unreached(why.into()).into());
            }
            return Err(Fault::Rpc(error["code"].as_i64().unwrap_or(0)));
        }
        match answer {
            Value::Object(mut answer) if answer.contains_key("result") => {
                Ok(answer.remove("result").unwrap_or_default())
            }
            _ => Err(Fault::Client(unknown("its answer has no result"))),
        }
    }
}

/// What went wrong with one call.
enum Fault {
    /// The server's own code.
    Rpc(i64),
    Client(ClientError),
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// What came of a task that has ended, or that goes no further.
pub(crate) fn came_of(task: Task) -> Option<Came> {
    Some(match task.status.state {
        TaskState::Completed => {
            let mut artifacts = task.artifacts.into_iter();
            let (mut parts, metadata) = match artifacts.next() {
                Some(first) => (first.parts, first.metadata),
                // Some put their answer there.
                None => match task.status.message {
                    Some(message) => (message.parts, message.metadata),
                    None => (Vec::new(), None),
                },
            };
            parts.extend(artifacts.flat_map(|artifact| artifact.parts));
            Came::Parts(parts, metadata)
        }
        TaskState::Rejected => Came::Rejected,
        TaskState::Failed => Came::Failed("its task failed"),
        TaskState::Canceled => Came::Failed("its task was canceled there"),
        TaskState::InputRequired => Came::Failed("it asks for more input, which nobody gives here"),
        TaskState::AuthRequired => Came::Failed("it asks for a login, which nobody gives here"),
        TaskState::Submitted | TaskState::Working | TaskState::Unknown => return None,
    })
}

async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, ClientError> {
    let broke = |_| unknown("the connection broke before the answer was whole");
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broke)? {
        if answer.len() + chunk.len() > ANSWER_MAX {
            return Err(unknown("its answer is larger than any message can be"));
        }
        answer.extend_from_slice(&chunk);
    }
    Ok(answer)
}

fn judge(status: StatusCode) -> Result<(), ClientError> {
    let why = format!("HTTP {}", status.as_u16());
    match status {
        _ if status.is_success() => Ok(()),
        // It does not know us, is elsewhere or takes no more: for the admin, or for later.
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE => Err(ClientError::Unreached(why)),
        _ if status.is_redirection() => Err(ClientError::Unreached(format!(
            "{why}: redirects are not followed; give the last URL"
        ))),
        _ if status.is_server_error() => Err(ClientError::Unknown(why)),
        _ => Err(ClientError::Refused(why)),
    }
}

fn fault_of(error: &reqwest::Error) -> ClientError {
    if error.is_connect() {
        return ClientError::Unreached("cannot connect".into());
    }
    match error.is_timeout() {
        true => unknown("no answer in time"),
        false => unknown("the connection broke before the answer was whole"),
    }
}

/// What a server says to a method or a version that it does not know.
fn is_old(code: i64) -> bool {
    matches!(
        kind_of(code),
        Some(
            ProblemKind::MethodNotFound
                | ProblemKind::VersionNotSupported
                | ProblemKind::UnsupportedOperation
        )
    )
}

fn kind_of(code: i64) -> Option<ProblemKind> {
    ProblemKind::of_code(code)
}

fn unknown(why: &str) -> ClientError {
    ClientError::Unknown(why.to_owned())
}

/// OpenClaw has no code of its own for it (2026.9.6), and no HTTP status.
const RATE_LIMITED: &str = "Peer is rate limited";
/// A server answers at once that it took a message.
const SENDS_WITHIN: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(10);
/// So many times a server says that it has no such task before it is believed.
const ABSENT: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Below what a rate limit of 30 in a minute allows, as OpenClaw has it.
const PAUSE: Duration = Duration::from_secs(3);
/// The largest message in base64 inside JSON, and as much again around it.
const ANSWER_MAX: usize = 1 << 20;
