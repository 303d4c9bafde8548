//! What the handle asks of the task.

use std::time::Duration;

use identity::NodeId;
use router::{Agent, Delivery, PartsTarget, Refusal, State, Status};
use tokio::sync::{mpsc, oneshot};
use wire::{InstanceId, MessageId};

use super::Followed;
use crate::messages::{Outcome, SendError, Sent, Stats, WaitFor};

pub(in crate::messages) type Reply<T> = oneshot::Sender<Result<T, SendError>>;

/// What the handle asks of the task.
#[derive(Debug)]
pub(in crate::messages) enum Command {
    AddAgent(Agent, Reply<()>),
    RemoveAgent(InstanceId, Reply<()>),
    Send {
        from: Agent,
        draft: router::Draft,
        answer: Reply<Sent>,
        wait: Option<Waiter>,
    },
    Reply {
        from: Agent,
        to: MessageId,
        answer: router::Answer,
        done: Reply<Sent>,
    },
    Wait {
        agent: Agent,
        id: MessageId,
        waiter: Waiter,
    },
    SettleReply {
        agent: Agent,
        id: MessageId,
    },
    Receive {
        agent: Agent,
        max: usize,
        hold: Option<Duration>,
        wait: bool,
        answer: Reply<Vec<Delivery>>,
    },
    Follow {
        agent: Agent,
        followed: mpsc::Sender<Followed>,
    },
    Cancel {
        agent: Agent,
        id: MessageId,
        done: Reply<Status>,
    },
    Reject {
        agent: Agent,
        id: MessageId,
        why: Option<String>,
        done: Reply<()>,
    },
    Cancelled {
        agent: Agent,
        id: MessageId,
        heard: oneshot::Sender<()>,
    },
    PartsTarget {
        agent: Agent,
        id: MessageId,
        answer: Reply<PartsTarget>,
    },
    SentTo {
        agent: Agent,
        id: MessageId,
        answer: Reply<NodeId>,
    },
    Ack {
        agent: Agent,
        ids: Vec<MessageId>,
        done: Reply<Vec<Result<(), Refusal>>>,
    },
    Heartbeat {
        agent: Agent,
        ids: Vec<MessageId>,
        hold: Option<Duration>,
        done: Reply<Vec<Result<(), Refusal>>>,
    },
    Release {
        agent: Agent,
        ids: Vec<MessageId>,
    },
    State {
        agent: Agent,
        id: MessageId,
        answer: Reply<Status>,
    },
    Queued(Reply<Vec<(NodeId, usize)>>),
    Stats(oneshot::Sender<Stats>),
    Drain(oneshot::Sender<()>),
}

/// Somebody waits for a reply or a state.
#[derive(Debug)]
pub(in crate::messages) struct Waiter {
    pub(in crate::messages) what: WaitFor,
    pub(in crate::messages) answer: oneshot::Sender<Outcome>,
}

impl Waiter {
    pub(super) fn new(what: WaitFor) -> (Self, oneshot::Receiver<Outcome>) {
        let (answer, outcome) = oneshot::channel();
        (Self { what, answer }, outcome)
    }
}

impl WaitFor {
    /// Whether a state is what was waited for.
    pub(in crate::messages) fn met_by(self, status: &Status) -> bool {
        match self {
            Self::Reply | Self::KeptReply => status.state.is_final() && status.state != State::Done,
            Self::State(wanted) => status.state >= wanted || status.state.is_final(),
        }
    }
}
