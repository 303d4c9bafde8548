//! The words between an agent and the router: what it hands in, what it gets, how a message stands.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use identity::{AgentAddress, AgentName, NodeId, NodeName};
use policy::{Denial, MessageRequest, Verdict};
use serde::{Deserialize, Serialize};
use wire::message::{Cause, Nack};
use wire::{InstanceId, MessageId};

/// A local agent, as its API token proves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Agent {
    /// Its name on this gateway.
    pub name: AgentName,
    /// Its life: all state hangs on this.
    pub instance: InstanceId,
}

/// Who decides: the policy and the members at this moment. The shell publishes snapshots of it;
/// the router never keeps a verdict.
pub trait Authority: fmt::Debug {
    /// May the message pass?
    fn authorize(&self, request: &MessageRequest<'_>) -> Verdict;
    /// May the answer to this request pass, whose size is that of the answer?
    fn authorize_reply(&self, request: &MessageRequest<'_>) -> Verdict;
    /// Whether there is a policy at all. Without one nothing passes, and nothing that waits is
    /// given up either: a gateway that has just started learns its policy a moment later.
    fn has_policy(&self) -> bool;
    /// The gateway of that name.
    fn node_named(&self, name: &NodeName) -> Option<NodeId>;
    /// The name of that gateway.
    fn name_of(&self, node: &NodeId) -> Option<NodeName>;
}

/// What an agent wants sent. A reply is made by [`Router::reply`](crate::Router::reply).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The idempotency key: a retry with the same id and content is the same message. Made fresh
    /// by the caller where the agent did not choose one. Its time is when the message was made.
    pub id: MessageId,
    /// Where to.
    pub to: AgentAddress,
    /// Whether an answer is expected, and so which verb is needed.
    pub expects_reply: bool,
    /// Whether the answer's parts are wanted as they come; then an answer is expected.
    pub stream: bool,
    /// What led to it.
    pub origin: Origin,
    /// Which thread of talk it belongs to; an answer carries it back.
    pub conversation: Option<Box<str>>,
    /// How long after the id's time it may still be delivered.
    pub ttl: Duration,
    /// A media type.
    pub content_type: Box<str>,
    /// Opaque.
    pub body: Bytes,
}

/// What led to a message, as its agent says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It does not say: led to by the last message that it was shown from the addressed agent, where
    /// the two take turns.
    #[default]
    Unsaid,
    /// Nothing: a person, a timer, a program of its own accord.
    Nothing,
    /// A message that the agent was shown.
    Message(MessageId),
}

/// What an agent wants answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// As [`Draft::id`].
    pub id: MessageId,
    /// A media type.
    pub content_type: Box<str>,
    /// Opaque.
    pub body: Bytes,
}

/// How far a message came, as its sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum State {
    /// Fsynced in the sender's spool.
    Accepted,
    /// Fsynced in the receiver's inbox.
    Stored,
    /// Handed to the agent.
    Delivered,
    /// Acked by the agent.
    Done,
    /// No grant allows it, or a kill forbids it.
    Denied,
    /// Its time to live passed.
    Expired,
    /// Given up for another reason.
    Failed,
}

/// Why something did not happen: for programs, and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredFailure", into = "StoredFailure")]
pub struct Failure {
    /// For programs, snake case.
    pub code: Box<str>,
    /// One sentence in our own words.
    pub reason: Box<str>,
    /// A grant that would allow it, in HuJSON, where that is what is missing.
    pub missing_grant: Option<Box<str>>,
    /// What of the policy denied it, where it is this gateway's policy: as in [`Denial::code`].
    pub cause: Option<Box<str>>,
    /// The guard or the block that did.
    pub rule: Option<Box<str>>,
}

/// A failure in a row of the spool, as rows of the first version have it: cause and rule follow the
/// code, which has no blank in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredFailure {
    code: Box<str>,
    reason: Box<str>,
    missing_grant: Option<Box<str>>,
}

/// How a message stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The message.
    pub id: MessageId,
    /// How far it came.
    pub state: State,
    /// Why no further.
    pub error: Option<Failure>,
    /// The reply that came, where one was expected.
    pub reply: Option<MessageId>,
}

/// What an agent gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What to ack.
    pub id: MessageId,
    /// What it is.
    pub kind: DeliveryKind,
    /// The verified sender; for a failure the one that the message could not reach.
    pub from: AgentAddress,
    /// The agent here.
    pub to: AgentName,
    /// A media type.
    pub content_type: Box<str>,
    /// From afar, untrusted.
    pub body: Bytes,
    /// Milliseconds since 1970, by the sender's clock.
    pub created_at_ms: u64,
    /// When its time to live passes, by the sender's clock; whoever still tries may stop then.
    pub expires_at_ms: u64,
    /// 1 the first time, more when it may have been shown before.
    pub attempt: u32,
    /// Whether the answer's parts are wanted as they come.
    pub stream: bool,
    /// Which thread of talk it belongs to, in the sender's words.
    pub conversation: Option<Box<str>>,
    /// What led to it.
    pub cause: Cause,
}

/// What a delivery is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryKind {
    /// One way.
    Message,
    /// An answer is expected.
    Request,
    /// The answer to a request of this agent.
    Reply {
        /// The request.
        in_reply_to: MessageId,
    },
    /// A message of this agent came to nothing, after it had been accepted.
    Failure {
        /// The message.
        of: MessageId,
        /// Why.
        error: Failure,
    },
}

/// Why the router does not take something from an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The policy has no grant for it, or a kill forbids it.
    #[error("denied: {}", .0.reason)]
    Denied(Denial),
    /// No gateway of that name is in the map.
    #[error("no gateway named {0} is in this mesh")]
    UnknownGateway(NodeName),
    /// There is no such agent here, or it was removed.
    #[error("no such agent on this gateway")]
    UnknownAgent,
    /// The id was used before, for another content.
    #[error("this id was used for another message")]
    Conflict,
    /// The id's time is ahead of this gateway's clock.
    #[error("the id's time is more than {} minutes ahead", crate::limits::MAX_AHEAD.as_secs() / 60)]
    FromTheFuture,
    /// The time to live, counted from the id's time, has passed.
    #[error("its time to live has passed")]
    Expired,
    /// The body is too large.
    #[error("a body is at most {} KiB", wire::message::MAX_BODY >> 10)]
    TooLarge,
    /// The content type or the time to live breaks its bound.
    #[error("{0}")]
    Schema(&'static str),
    /// The agent has too much on its way.
    #[error("too many messages of this agent are on their way")]
    OutboxFull,
    /// The agent waits for too many answers.
    #[error("too many requests of this agent wait for their answers")]
    TooManyRequests,
    /// No such message of this agent, or no longer.
    #[error("no such message")]
    NotFound,
    /// The message expects no answer, or has one.
    #[error("the message expects no answer, or was answered before")]
    NotOpen,
    /// Too many messages led to each other: which, and between whom.
    #[error("{0}")]
    Loop(Box<str>),
    /// What is said to have led to the message was never shown to its agent, or is forgotten.
    #[error(
        "the message that led to this one is not known: it was never shown to this agent, or is too old"
    )]
    UnknownCause,
    /// The sender took the message back.
    #[error("its sender took the message back")]
    Cancelled,
    /// The sender waits for the answer alone.
    #[error("whoever sent this message wants its answer alone, and no parts")]
    NoParts,
}

impl State {
    /// Whether nothing can follow.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Done | Self::Denied | Self::Expired | Self::Failed
        )
    }
}

impl Refusal {
    /// The code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Denied(denial) => code_of(denial),
            Self::UnknownGateway(_) => "unknown_gateway",
            Self::UnknownAgent => "unknown_agent",
            Self::Conflict => "conflict",
            Self::FromTheFuture => "from_the_future",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::Schema(_) => "schema",
            Self::OutboxFull => "outbox_full",
            Self::TooManyRequests => "too_many_requests",
            Self::NotFound => "not_found",
            Self::NotOpen => NO_OPEN_REQUEST,
            Self::Loop(_) => "loop",
            Self::UnknownCause => "unknown_cause",
            Self::Cancelled => CANCELLED,
            Self::NoParts => "not_wanted",
        }
    }
}

impl Failure {
    pub(crate) fn new(code: &str, reason: &str) -> Self {
        Self {
            code: code.into(),
            reason: reason.into(),
            missing_grant: None,
            cause: None,
            rule: None,
        }
    }

    pub(crate) fn denied(denial: Denial) -> Self {
        Self {
            code: code_of(&denial).into(),
            cause: Some(cause_of(&denial).into()),
            rule: denial.rule.map(|rule| rule.as_str().into()),
            reason: denial.reason.into(),
            missing_grant: denial.missing_grant.map(Into::into),
        }
    }

    /// What a receiver's nack means to people; its words never come from afar.
    pub(crate) fn of_nack(nack: Nack) -> Self {
        let (code, reason) = match nack {
            Nack::Denied => (
                "denied",
                "the receiving gateway's policy has no grant for it",
            ),
            Nack::Blocked => (
                BLOCKED,
                "the operator killed or blocked one of the two agents or its gateway",
            ),
            Nack::Throttled { .. } => (
                "throttled",
                "the receiving gateway takes less at a time; it is offered again",
            ),
            Nack::Full => ("full", "the receiving agent's inbox is full"),
            Nack::TooLarge => (
                "too_large",
                "the receiving gateway takes smaller bodies only",
            ),
            Nack::Expired => ("expired", "its time to live passed"),
            Nack::UnknownAgent => ("unknown_agent", "there is no such agent on that gateway"),
            Nack::Conflict => ("conflict", "its id was used for another message"),
            Nack::NoOpenRequest => (NO_OPEN_REQUEST, "the request is answered, expired or gone"),
            Nack::FromTheFuture => (
                "from_the_future",
                "the two gateways' clocks differ too much",
            ),
            Nack::OutOfOrder => ("out_of_order", "an earlier message is missing"),
            Nack::Loop => (
                "loop",
                "the receiving gateway stopped it: too many messages led to each other",
            ),
            Nack::Rejected => ("rejected", "the receiving agent will not do it"),
            Nack::Cancelled => (CANCELLED, "its sender took the message back"),
            Nack::Schema => ("schema", "the receiving gateway could not read it"),
            _ => ("refused", "the receiving gateway refused it"),
        };
        Self::new(code, reason)
    }

    /// The state in which such a failure leaves a message.
    pub(crate) fn state(&self) -> State {
        match &*self.code {
            "denied" | BLOCKED => State::Denied,
            "expired" => State::Expired,
            _ => State::Failed,
        }
    }

    /// What the sender is told of it, where it is the policy's or the operator's word.
    pub(crate) fn denial_nack(&self) -> Option<Nack> {
        match &*self.code {
            "denied" => Some(Nack::Denied),
            BLOCKED => Some(Nack::Blocked),
            _ => None,
        }
    }
}

/// A [`Denial`] of a code that means a kill, and not a grant that is missing: of the agent.
pub const BLOCKED: &str = "blocked";

/// The same of the whole gateway. What waits for it is parked, as it may come back; whoever waits
/// for its answer is told [`BLOCKED`] at once.
pub const CUT_OFF: &str = "cut_off";

/// The code of a message that its own agent took back.
pub const CANCELLED: &str = "cancelled";

/// The code of a reply that nobody waits for.
pub(crate) const NO_OPEN_REQUEST: &str = "no_open_request";

/// What of the policy or the operator's word denied it: as in [`Denial::code`], in the words of the
/// policy file.
pub fn cause_of(denial: &Denial) -> &'static str {
    match denial.code {
        CUT_OFF => BLOCKED,
        code => code,
    }
}

impl From<Failure> for StoredFailure {
    fn from(failure: Failure) -> Self {
        let code = match (&failure.cause, &failure.rule) {
            (Some(cause), Some(rule)) => format!("{} {cause} {rule}", failure.code).into(),
            (Some(cause), None) => format!("{} {cause}", failure.code).into(),
            (None, _) => failure.code,
        };
        Self {
            code,
            reason: failure.reason,
            missing_grant: failure.missing_grant,
        }
    }
}

impl From<StoredFailure> for Failure {
    fn from(stored: StoredFailure) -> Self {
        let mut words = stored.code.splitn(3, ' ').map(Box::from);
        Self {
            code: words.next().unwrap_or_default(),
            cause: words.next(),
            rule: words.next(),
            reason: stored.reason,
            missing_grant: stored.missing_grant,
        }
    }
}

/// What programs are told of a denial.
fn code_of(denial: &Denial) -> &'static str {
    match denial.code {
        BLOCKED | CUT_OFF => BLOCKED,
        _ => "denied",
    }
}
