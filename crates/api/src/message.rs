//! Messages: sent, received, settled.

use identity::AgentAddress;
use serde::{Deserialize, Serialize};

use crate::{Body, BodyError, Failure, Timestamp};

/// `POST /v1/send`: take a message. The answer comes when it is fsynced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// Where to, `agent@gateway`.
    pub to: AgentAddress,
    /// The body, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// A media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// How long it may still be delivered, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// The idempotency key, a UUIDv7; made by the node where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whether an answer is expected, to arrive as a `reply`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reply_expected: bool,
    /// What led to it: the id of a message that this agent was shown, or `none`. Absent: the last
    /// message that it was shown from the addressed agent, where the two take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Which thread of talk it belongs to: 1 to 64 letters, digits, `.`, `_`, `:` or `-`. An answer
    /// carries it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
}

/// `POST /v1/ask`: take a message and wait for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskRequest {
    /// As in [`SendRequest`].
    pub to: AgentAddress,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How long the caller waits; the message lives on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether the answer's parts are wanted as they come. The answer of the call is then a stream
    /// of server-sent events: `accepted`, `part`, `restart`, `lost` and, as the last, `answer`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
}

/// `POST /v1/messages/{id}/reply`: answer a message, and ack it in the same fsync.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyRequest {
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// As in [`SendRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The idempotency key of the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// `POST /v1/messages/ack`: settle many at once; `POST /v1/messages/{id}/ack` takes no fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckRequest {
    /// At most 1000.
    pub ids: Vec<String>,
}

/// `POST /v1/messages/{id}/heartbeat`: keep it hidden for longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// From now; 30 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_s: Option<u64>,
}

/// `POST /v1/messages/{id}/reject`: this agent will never do it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectRequest {
    /// Kept with the dead letter on this gateway; the sender hears `rejected` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a message stands. What was never accepted has `error` and a status of 4xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendAnswer {
    /// The message.
    pub id: String,
    /// How far it came.
    pub state: State,
    /// The answer, where one was waited for and came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// Why no further; `timeout` where only the waiting ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// The answer to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The reply's own id.
    pub id: String,
    /// Who answered: the verified `agent@gateway`.
    pub from: AgentAddress,
    /// The body, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// A media type.
    pub content_type: String,
}

/// How far a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Fsynced in the outbox of the sender's gateway.
    Accepted,
    /// Fsynced in the inbox of the receiver's gateway.
    Stored,
    /// Handed to the agent.
    Delivered,
    /// Acked by the agent.
    Done,
    /// The policy forbids it.
    Denied,
    /// Its time to live passed.
    Expired,
    /// Given up for another reason.
    Failed,
}

/// One received message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// What to ack.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// The verified sender; for a failure the one that could not be reached.
    pub from: AgentAddress,
    /// The agent here.
    pub to: AgentAddress,
    /// The body, where it is text. From afar: untrusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// A media type.
    pub content_type: String,
    /// By the sender's clock.
    pub created_at: Timestamp,
    /// 1 the first time, more when it may have been shown before.
    pub attempt: u32,
    /// Whether it wants an answer.
    pub reply_expected: bool,
    /// Whether it wants the answer's parts as they come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stream: bool,
    /// Which thread of talk it belongs to, in the sender's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// The first message of the chain that led to it; its own id where nothing did.
    pub root: String,
    /// How many messages led to it.
    pub depth: u8,
    /// The message that this answers, or that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_reply_to: Option<String>,
    /// Why the message failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// What a received message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// From another agent.
    Message,
    /// The answer to a message of this agent.
    Reply,
    /// A message of this agent came to nothing after it had been accepted.
    Failure,
}

/// `GET /v1/messages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedList {
    /// Oldest first; empty where nothing came in time.
    pub messages: Vec<Received>,
}

/// The answer to an ack or a heartbeat of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// The message.
    pub id: String,
    /// Why it was not done, for one of many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

/// The answer to `POST /v1/messages/ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckAnswer {
    /// One for each id, in their order.
    pub results: Vec<Acked>,
}

impl AskRequest {
    /// The message, how long to wait, and whether parts are wanted.
    pub fn into_parts(self) -> (SendRequest, Option<u64>, bool) {
        let Self {
            to,
            body,
            body_base64,
            content_type,
            ttl_s,
            id,
            timeout_ms,
            stream,
            cause,
            conversation,
        } = self;
        let send = SendRequest {
            to,
            body,
            body_base64,
            content_type,
            ttl_s,
            id,
            reply_expected: true,
            cause,
            conversation,
        };
        (send, timeout_ms, stream)
    }
}

impl Received {
    /// The body.
    pub fn body(&self) -> Result<Body, BodyError> {
        Body::from_fields(self.body.clone(), self.body_base64.as_deref())
    }
}

impl Reply {
    /// The body.
    pub fn body(&self) -> Result<Body, BodyError> {
        Body::from_fields(self.body.clone(), self.body_base64.as_deref())
    }
}

impl State {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Stored => "stored",
            Self::Delivered => "delivered",
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Expired => "expired",
            Self::Failed => "failed",
        }
    }
}

impl Kind {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Reply => "reply",
            Self::Failure => "failure",
        }
    }
}
