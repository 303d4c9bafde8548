//! What a client asks: read from a JSON-RPC request of either version, or from the path, the query
//! and the body of the HTTP binding.

use serde_json::{Map, Value, json};

use super::fields::{Object, Wrong};
use super::message::{MAX_ID, Message};
use super::{Problem, ProblemKind, Role, TaskState, Version};
use crate::Timestamp;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Take a message, and answer with the task.
    Send(Box<SendParams>),
    /// Take a message, and tell of the task as it goes on.
    Stream(Box<SendParams>),
    /// How a task stands.
    Get {
        /// The task.
        id: String,
        /// How much of what was said is wanted; all where absent.
        history: Option<u32>,
    },
    /// The tasks of this agent at this endpoint.
    List(ListParams),
    /// Take a task back.
    Cancel {
        /// The task.
        id: String,
    },
    /// Tell of a task as it goes on.
    Subscribe {
        /// The task.
        id: String,
    },
    /// Anything about push notifications.
    Push,
    /// The agent's card.
    Card,
}

/// A message to be sent, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct SendParams {
    /// The message.
    pub message: Message,
    /// Whether to answer at once, and not when the task has ended.
    pub at_once: bool,
    /// As in [`Call::Get`].
    pub history: Option<u32>,
}

/// Which tasks are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListParams {
    /// Of one thread of talk.
    pub context: Option<String>,
    /// In one state.
    pub state: Option<TaskState>,
    /// Changed at this time or later.
    pub after: Option<Timestamp>,
    /// How many at once, from 1 to 100.
    pub page_size: u32,
    /// Where the page begins: what the last one said.
    pub page_token: Option<String>,
    /// As in [`Call::Get`].
    pub history: Option<u32>,
    /// Whether what came of them is wanted too.
    pub artifacts: bool,
}

/// A request of JSON-RPC, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The request's id, to be given back.
    pub id: Value,
    /// In which version to answer.
    pub version: Version,
    /// What is asked, or what is wrong with it.
    pub call: Result<Call, Problem>,
}

/// Reads a request of JSON-RPC. Without a named version the method's name decides, which is 0.3 for
/// every name that 0.3 has.
pub fn read(bytes: &[u8], named: Result<Option<Version>, Problem>) -> Read {
    let mut id = Value::Null;
    let version = match &named {
        Ok(Some(version)) => *version,
        _ => Version::V1,
    };
    let refused = |id: Value, problem| Read {
        id,
        version,
        call: Err(problem),
    };
    let document: Value = match serde_json::from_slice(bytes) {
        Ok(document) => document,
        Err(error) => {
            let problem = Problem::new(ProblemKind::Parse, format!("not JSON: {error}"));
            return refused(id, problem);
        }
    };
    let wrong = |why: &str| Problem::new(ProblemKind::InvalidRequest, why);
    let object = match &document {
        Value::Object(object) => object,
        Value::Array(_) => return refused(id, wrong("batches are not taken; send one request")),
        _ => return refused(id, wrong("a request is a JSON object")),
    };
    match object.get("id") {
        Some(found @ (Value::String(_) | Value::Number(_))) => id = found.clone(),
        None | Some(Value::Null) => {}
        Some(_) => return refused(id, wrong("id must be a string or a number")),
    }
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return refused(id, wrong("jsonrpc must be \"2.0\""));
    }
    let method = match object.get("method") {
        Some(Value::String(method)) => method,
        Some(_) => return refused(id, wrong("method must be a string")),
        None => return refused(id, wrong("method is missing")),
    };
    let named = match named {
        Ok(named) => named,
        Err(problem) => return refused(id, problem),
    };
    let method = match Method::named(method, named) {
        Ok(method) => method,
        Err(problem) => return refused(id, problem),
    };
    let empty = Value::Object(Map::new());
    let params = object.get("params").filter(|it| !it.is_null());
    let call = method.call(params.unwrap_or(&empty));
    Read {
        id,
        version: method.version,
        call: call.map_err(|wrong| match wrong {
            Fault::Wrong(wrong) => Problem::params(&wrong.within("params")),
            Fault::Problem(problem) => problem,
        }),
    }
}

/// The response of JSON-RPC.
pub fn wrap(id: &Value, result: Result<Value, &Problem>) -> Value {
    match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(problem) => json!({"jsonrpc": "2.0", "id": id, "error": problem.rpc()}),
    }
}

/// Reads the body of `message:send` or `message:stream`, which are of 1.0.
pub fn read_send(bytes: &[u8]) -> Result<Box<SendParams>, Problem> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(ProblemKind::Parse, format!("not JSON: {error}")))?;
    send_params(&value, Version::V1).map_err(|fault| match fault {
        Fault::Wrong(wrong) => Problem::params(&wrong),
        Fault::Problem(problem) => problem,
    })
}

/// Reads what is wanted of a list from fields that are texts, as a query has them.
pub fn read_list(
    fields: impl IntoIterator<Item = (String, String)>,
) -> Result<ListParams, Problem> {
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name, Value::String(value)));
    list_params(&Value::Object(fields.collect())).map_err(|wrong| Problem::params(&wrong))
}

struct Method {
    verb: Verb,
    version: Version,
}

#[derive(Clone, Copy)]
enum Verb {
    Send,
    Stream,
    Get,
    List,
    Cancel,
    Subscribe,
    Push,
    Card,
}

enum Fault {
    Wrong(Wrong),
    Problem(Problem),
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

impl Method {
    fn named(name: &str, named: Option<Version>) -> Result<Self, Problem> {
        let found = METHODS.iter().find(|(it, ..)| *it == name);
        match (found, named) {
            (Some((_, version, verb)), _) if named.is_none_or(|it| it == *version) => Ok(Self {
                verb: *verb,
                version: *version,
            }),
            (Some((_, version, _)), _) => {
                let needed = match version {
                    Version::V1 => "1.0",
                    Version::V03 => "0.3",
                };
                let message = format!("{name} is of another version; hint: A2A-Version: {needed}");
                Err(Problem::new(ProblemKind::MethodNotFound, message))
            }
            (None, _) => {
                let shown: String = name
                    .chars()
                    .take(64)
                    .flat_map(char::escape_default)
                    .collect();
                let message = format!("there is no method {shown}");
                Err(Problem::new(ProblemKind::MethodNotFound, message))
            }
        }
    }

    fn call(&self, params: &Value) -> Result<Call, Fault> {
        let object = Object::of(params)?;
        let id = || object.required("id", MAX_ID).map(str::to_owned);
        Ok(match self.verb {
            Verb::Send => Call::Send(send_params(params, self.version)?),
            Verb::Stream => Call::Stream(send_params(params, self.version)?),
            Verb::Get => Call::Get {
                id: id()?,
                history: history(&object, self.version)?,
            },
            Verb::List => Call::List(list_params(params)?),
            Verb::Cancel => Call::Cancel { id: id()? },
            Verb::Subscribe => Call::Subscribe { id: id()? },
            Verb::Push => Call::Push,
            Verb::Card => Call::Card,
        })
    }
}

fn send_params(value: &Value, version: Version) -> Result<Box<SendParams>, Fault> {
    let object = Object::of(value)?;
    let message = object.read("message", |it| Message::read(it, version))?;
    let message = message.ok_or_else(|| Wrong::here("is missing").within("message"))?;
    if message.role != Role::User {
        let role = Wrong::here("must be ROLE_USER: agents answer, they do not ask here");
        return Err(role.within("role").within("message").into());
    }
    let (mut at_once, mut wanted) = (false, None);
    if let Some(configuration) = object.object("configuration")? {
        let within = |wrong: Wrong| wrong.within("configuration");
        let push = ["taskPushNotificationConfig", "pushNotificationConfig"];
        if push.iter().any(|name| configuration.get(name).is_some()) {
            return Err(Fault::Problem(no_push()));
        }
        at_once = match version {
            Version::V1 => configuration.flag("returnImmediately").map_err(within)?,
            Version::V03 => configuration
                .flag("blocking")
                .map_err(within)?
                .map(|it| !it),
        }
        .unwrap_or(false);
        wanted = history(&configuration, version).map_err(within)?;
    }
    Ok(Box::new(SendParams {
        message,
        at_once,
        history: wanted,
    }))
}

fn list_params(value: &Value) -> Result<ListParams, Wrong> {
    let object = Object::of(value)?;
    let state = match object.text("status")? {
        // What Protocol Buffers call unspecified is not asked for.
        None | Some("" | "TASK_STATE_UNSPECIFIED") => None,
        Some(word) => match TaskState::of_word(word) {
            Some(state) => Some(state),
            None => return Err(Wrong::here("is no state of a task").within("status")),
        },
    };
    let after = match object.text("statusTimestampAfter")? {
        None | Some("") => None,
        Some(text) => Some(instant(text).ok_or_else(|| {
            Wrong::here("is no time like 2026-11-23T21:30:00Z").within("statusTimestampAfter")
        })?),
    };
    Ok(ListParams {
        context: object.name("contextId", MAX_ID)?.map(str::to_owned),
        state,
        after,
        page_size: object.whole("pageSize", 1..=MAX_PAGE)?.unwrap_or(PAGE),
        page_token: object.name("pageToken", MAX_ID)?.map(str::to_owned),
        history: history(&object, Version::V1)?,
        artifacts: object.flag("includeArtifacts")?.unwrap_or(false),
    })
}

fn history(object: &Object<'_>, version: Version) -> Result<Option<u32>, Wrong> {
    let wanted = object.whole("historyLength", 0..=u32::MAX)?;
    // To 0.3 nothing wanted and nothing said are the same.
    Ok(wanted.filter(|it| version == Version::V1 || *it > 0))
}

/// A time in UTC with any fraction of a second.
fn instant(text: &str) -> Option<Timestamp> {
    let utc = text
        .strip_suffix('Z')
        .or_else(|| text.strip_suffix("+00:00"))?;
    let (seconds, fraction) = utc.split_once('.').unwrap_or((utc, "0"));
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis: String = fraction.chars().chain("00".chars()).take(3).collect();
    format!("{seconds}.{millis}Z").parse().ok()
}

/// Why nothing is pushed.
pub(super) fn no_push() -> Problem {
    Problem::new(
        ProblemKind::PushNotificationNotSupported,
        "this gateway calls nobody back; hint: stream, subscribe, or ask for the task again",
    )
}

impl Problem {
    /// Why nothing is pushed.
    pub fn no_push() -> Self {
        no_push()
    }
}

/// A page where its size is not said, and the largest: as the specification has it.
const PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;

const METHODS: [(&str, Version, Verb); 22] = [
    ("SendMessage", Version::V1, Verb::Send),
    ("SendStreamingMessage", Version::V1, Verb::Stream),
    ("GetTask", Version::V1, Verb::Get),
    ("ListTasks", Version::V1, Verb::List),
    ("CancelTask", Version::V1, Verb::Cancel),
    ("SubscribeToTask", Version::V1, Verb::Subscribe),
    ("CreateTaskPushNotificationConfig", Version::V1, Verb::Push),
    ("GetTaskPushNotificationConfig", Version::V1, Verb::Push),
    ("ListTaskPushNotificationConfigs", Version::V1, Verb::Push),
    ("ListTaskPushNotificationConfig", Version::V1, Verb::Push),
    ("DeleteTaskPushNotificationConfig", Version::V1, Verb::Push),
    ("GetExtendedAgentCard", Version::V1, Verb::Card),
    ("message/send", Version::V03, Verb::Send),
    ("message/stream", Version::V03, Verb::Stream),
    ("tasks/get", Version::V03, Verb::Get),
    ("tasks/cancel", Version::V03, Verb::Cancel),
    ("tasks/resubscribe", Version::V03, Verb::Subscribe),
    ("tasks/pushNotificationConfig/set", Version::V03, Verb::Push),
    ("tasks/pushNotificationConfig/get", Version::V03, Verb::Push),
    (
        "tasks/pushNotificationConfig/list",
        Version::V03,
        Verb::Push,
    ),
    (
        "tasks/pushNotificationConfig/delete",
        Version::V03,
        Verb::Push,
    ),
    (
        "agent/getAuthenticatedExtendedCard",
        Version::V03,
        Verb::Card,
    ),
];
