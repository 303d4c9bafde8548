//! What the router says to its shell.

use std::time::Instant;

use identity::NodeId;
use wire::message::{MessageFrame, MessageKey};
use wire::{InstanceId, MessageId};

use crate::rows::{RowId, Write};
use crate::words::{Delivery, Failure, Status};

/// What the shell must do. `Wait` comes last; then the router has nothing more to say until
/// something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "moved once, from the queue to the shell"
)]
pub enum Output {
    /// Send a frame to a peer that is up. Frames to one peer keep their order.
    Send {
        /// The peer.
        peer: NodeId,
        /// The frame.
        frame: MessageFrame,
    },
    /// Write these, all or none, after all that was asked for before. With a ticket: fsync, then
    /// [`Router::handle_stored`](crate::Router::handle_stored). Without: whenever convenient, nobody waits.
    Store {
        /// What to say when it is done.
        ticket: Option<Ticket>,
        /// The changes.
        writes: Vec<Write>,
    },
    /// Read this row of [`Table::Inbox`](crate::Table::Inbox), which was stored, then
    /// [`Router::handle_loaded`](crate::Router::handle_loaded).
    Load(RowId),
    /// Show this to a holder that asked for it.
    Deliver {
        /// Who asked.
        holder: HolderId,
        /// What it gets.
        delivery: Delivery,
    },
    /// A reply, to whoever [watches](crate::Router::watch) the request. Then either
    /// [`Router::handle_answer_taken`](crate::Router::handle_answer_taken), or
    /// [`Router::handle_answer_kept`](crate::Router::handle_answer_kept), or, where nobody was there,
    /// [`Router::handle_answer_left`](crate::Router::handle_answer_left), at once: before the next poll.
    Answer {
        /// The request.
        request: MessageKey,
        /// The reply.
        delivery: Delivery,
    },
    /// Something that people or metrics should know.
    Event(Event),
    /// Drained: call [`Router::handle_timeout`](crate::Router::handle_timeout) then.
    Wait(Option<Instant>),
}

/// Names one [`Output::Store`]; later stores have higher tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Names somebody who is shown messages; chosen by the shell, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HolderId(pub u64);

/// What became of handing something in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accept {
    /// It is accepted when this is stored.
    Storing(Ticket),
    /// The same message was accepted before; so it stands.
    Known(Status),
}

/// A change worth telling: the audit trail. Bodies never appear.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message of a local agent is safe here.
    Accepted {
        /// The message.
        key: MessageKey,
        /// Where it goes.
        node: NodeId,
    },
    /// How a message of a local agent stands, where that changed and somebody watches.
    Changed {
        /// The message.
        key: MessageKey,
        /// How it stands.
        status: Status,
    },
    /// A message of a local agent came to nothing.
    Failed {
        /// The message.
        key: MessageKey,
        /// Why.
        error: Failure,
    },
    /// A message from that node was refused.
    Refused {
        /// The node.
        node: NodeId,
        /// The message.
        key: MessageKey,
        /// Why, in full: the node itself is told the code alone.
        error: Failure,
    },
    /// A stored message to a local agent was given up.
    DeadLetter {
        /// The node that it came from.
        node: NodeId,
        /// The message.
        key: MessageKey,
        /// Why.
        error: Failure,
    },
    /// Messages wait for a peer that is down: a session with it is wanted.
    Wanted {
        /// The peer.
        peer: NodeId,
    },
    /// The sender took a message back that an agent here was shown.
    Cancelled {
        /// The agent's life.
        instance: InstanceId,
        /// Where the message came from.
        node: NodeId,
        /// The message.
        key: MessageKey,
    },
    /// A message of a local agent was one too many of those that led to each other.
    Looped {
        /// The message.
        key: MessageKey,
        /// The first of the chain.
        root: MessageId,
        /// How many came before.
        depth: u8,
    },
    /// An agent was removed; whoever was shown its messages gets no more.
    AgentGone {
        /// Its life.
        instance: InstanceId,
    },
}
