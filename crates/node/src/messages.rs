//! The message plane: the task that drives [`router::Router`], and the handle by which the local
//! API and the peers' streams speak to it.
//!
//! ```text
//! API handlers ─ Messages ─┐                                   ┌─► answers, deliveries
//! peers' streams ─ PeerInput ─┤► task: Router ─► poll_output ──┼─► (NodeId, MessageFrame) to the streams
//! spool thread ── committed ──┘                                └─► spool thread (group commit)
//! ```
//! The task owns the router; nothing is locked. It answers `accepted` and `acked` only when the
//! spool said that the row is on disk.

mod handle;
mod task;

#[cfg(test)]
pub(crate) mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::{AgentAddress, AgentName, NodeId};
use wire::message::MessageFrame;
use wire::{InstanceId, MessageId};

use crate::streams::PublishError;

pub use handle::{Asked, Follow, Followed, Kept, Messages, fresh_id};
pub use router::{Budgets, Delivery, DeliveryKind, Failure, Origin, Refusal, State, Status};
pub(crate) use task::unix_ms;
pub use task::{MessagesConfig, MessagesEnds, Plane, start};

/// A local agent, as its API token proves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAgent {
    /// Its name on this gateway.
    pub name: AgentName,
    /// Its life: random, made when the agent was added.
    pub instance: [u8; 16],
}

/// What an agent wants sent.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Chosen by the agent as its idempotency key, or made here.
    pub id: Option<MessageId>,
    /// Where to.
    pub to: AgentAddress,
    /// Whether it expects an answer: verb `request` instead of `send`.
    pub expects_reply: bool,
    /// Whether the answer's parts are wanted as they come: verb `stream`. Then it expects an answer.
    pub stream: bool,
    /// What led to it.
    pub origin: Origin,
    /// Which thread of talk it belongs to: see [`wire::message::is_conversation`].
    pub conversation: Option<String>,
    /// At most [`router::limits::MAX_TTL`]; without one [`router::limits::DEFAULT_TTL`].
    pub ttl: Option<Duration>,
    /// A media type, at most [`wire::message::MAX_CONTENT_TYPE`] printable ASCII bytes.
    pub content_type: String,
    /// At most [`wire::message::MAX_BODY`] bytes.
    pub body: Bytes,
}

/// What an agent answers.
#[derive(Clone, Debug)]
pub struct ReplyDraft {
    /// Chosen by the agent as its idempotency key, or made here.
    pub id: Option<MessageId>,
    /// A media type.
    pub content_type: String,
    /// At most [`wire::message::MAX_BODY`] bytes.
    pub body: Bytes,
}

/// A message that is safe: fsynced here. A retry of an id gets the state that it has by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its id.
    pub id: MessageId,
    /// How far it came.
    pub state: State,
    /// Why no further.
    pub error: Option<Failure>,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// The reply. It counts as acked once it is handed over here.
    Reply,
    /// The reply, for one that must have it on disk before it is acked: see [`Messages::keep`].
    KeptReply,
    /// That it came this far, or can come no further.
    State(State),
}

/// What came of waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply.
    Answered(Delivery),
    /// No reply will come, or the state was reached.
    Settled(Status),
    /// Not within the time; how it stands now. A late answer arrives by `receive`.
    TimedOut(Status),
}

/// How to receive.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveOptions {
    /// How long to wait where nothing waits; zero asks only.
    pub wait: Duration,
    /// At most so many.
    pub max: usize,
    /// How long they stay hidden without an ack or a heartbeat; without one
    /// [`router::limits::VISIBILITY`].
    pub hold: Option<Duration>,
}

/// Why an agent's call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The router does not take it; see [`Refusal::code`].
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The parts of an answer are not taken; see [`PublishError::code`].
    #[error(transparent)]
    Parts(#[from] PublishError),
    /// The spool could not write: the disk is full or broken. Nothing was accepted.
    #[error("the spool cannot write")]
    Store,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// What happens on the way to other gateways.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "moved once, into a channel")]
pub enum PeerInput {
    /// The message streams with that peer are up, and each side's hello was judged.
    Up(NodeId),
    /// They are gone.
    Down(NodeId),
    /// A frame arrived.
    Frame(NodeId, MessageFrame),
}

/// What the plane wants of the way to other gateways.
#[derive(Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "moved once, into a channel")]
pub enum PeerOutput {
    /// Send this to a peer that is up. Frames to one peer keep their order.
    Frame(NodeId, MessageFrame),
    /// Messages wait for a peer that is down: dial it.
    Wanted(NodeId),
}

/// What the plane holds, for `status` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The router's queues and counters.
    pub router: router::Stats,
    /// What the spool did.
    pub spool: crate::spool::SpoolStats,
}

impl From<&LocalAgent> for router::Agent {
    fn from(agent: &LocalAgent) -> Self {
        Self {
            name: agent.name.clone(),
            instance: InstanceId(agent.instance),
        }
    }
}

impl SendError {
    /// The code for programs: that of the refusal, `store_full` or `stopping`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Parts(error) => error.code(),
            Self::Store => "store_full",
            Self::Stopping => "stopping",
        }
    }

    /// The grant that is missing, where that is why.
    pub fn missing_grant(&self) -> Option<&str> {
        match self {
            Self::Refused(Refusal::Denied(denial)) => denial.missing_grant.as_deref(),
            _ => None,
        }
    }
}

/// An instant to wait until, for callers that think in durations.
pub fn within(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration)
        .unwrap_or(now + Duration::from_secs(365 * 24 * 3600))
}
