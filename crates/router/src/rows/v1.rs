//! Rows as the first version wrote them: they knew of depth, not of causes and conversations. A
//! spool keeps such rows until they are settled, so they are read for as long as a message lives.

use bytes::Bytes;
use identity::{AgentAddress, AgentName, NodeId};
use serde::Deserialize;
use wire::message::{Cause, Kind, MessageKey};
use wire::{InstanceId, MessageId};

use super::Subject;
use crate::words::{Agent, Failure, State};

/// A row of the outbox.
#[derive(Debug, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "read once")]
pub enum OutboxRow {
    /// As today's.
    Waiting {
        /// As today's.
        node: NodeId,
        /// As today's.
        to: AgentAddress,
        /// As it was sent then.
        envelope: Envelope,
        /// As today's.
        hash: [u8; 16],
    },
    /// As today's.
    Sent(Sent),
}

/// A row of the inbox.
#[derive(Debug, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "read once")]
pub enum InboxRow {
    /// As today's.
    Waiting(Letter),
    /// As today's.
    Known(Known),
}

/// An envelope of `crabmesh-peer/1`.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the fields of today's, in their order of then")]
pub struct Envelope {
    id: MessageId,
    kind: Kind,
    from: AgentName,
    to: AgentName,
    instance: InstanceId,
    epoch: u64,
    sequence: u64,
    created_at_ms: u64,
    ttl_ms: u64,
    hops_left: u8,
    depth: u8,
    content_type: Box<str>,
    body: Bytes,
}

/// As today's.
#[derive(Debug, Deserialize)]
pub struct Sent {
    instance: InstanceId,
    from: AgentName,
    id: MessageId,
    node: NodeId,
    to: AgentAddress,
    hash: [u8; 16],
    expects_reply: bool,
    depth: u8,
    reply: Option<MessageId>,
    state: State,
    error: Option<Failure>,
    created_at_ms: u64,
    ttl_ms: u64,
}

/// As today's.
#[derive(Debug, Deserialize)]
pub struct Letter {
    owner: Agent,
    node: NodeId,
    from: AgentAddress,
    key: MessageKey,
    epoch: u64,
    sequence: u64,
    subject: Subject,
    depth: u8,
    created_at_ms: u64,
    ttl_ms: u64,
    content_type: Box<str>,
    body: Bytes,
    hash: [u8; 16],
    shown: u32,
    strikes: u32,
}

/// As today's.
#[derive(Debug, Deserialize)]
pub struct Known {
    owner: Agent,
    node: NodeId,
    from: AgentAddress,
    key: MessageKey,
    epoch: u64,
    sequence: u64,
    hash: [u8; 16],
    depth: u8,
    open: bool,
    created_at_ms: u64,
    ttl_ms: u64,
}

impl From<OutboxRow> for super::OutboxRow {
    fn from(row: OutboxRow) -> Self {
        match row {
            OutboxRow::Waiting {
                node,
                to,
                envelope,
                hash,
            } => Self::Waiting {
                node,
                to,
                envelope: envelope.into(),
                hash,
            },
            OutboxRow::Sent(sent) => Self::Sent(sent.into()),
        }
    }
}

impl From<InboxRow> for super::InboxRow {
    fn from(row: InboxRow) -> Self {
        match row {
            InboxRow::Waiting(letter) => Self::Waiting(letter.into()),
            InboxRow::Known(known) => Self::Known(known.into()),
        }
    }
}

impl From<Envelope> for wire::Envelope {
    fn from(it: Envelope) -> Self {
        Self {
            id: it.id,
            kind: it.kind,
            from: it.from,
            to: it.to,
            instance: it.instance,
            epoch: it.epoch,
            sequence: it.sequence,
            created_at_ms: it.created_at_ms,
            ttl_ms: it.ttl_ms,
            hops_left: it.hops_left,
            cause: cause(it.id, it.depth),
            conversation: None,
            content_type: it.content_type,
            body: it.body,
        }
    }
}

impl From<Sent> for super::Sent {
    fn from(it: Sent) -> Self {
        Self {
            instance: it.instance,
            from: it.from,
            id: it.id,
            node: it.node,
            to: it.to,
            hash: it.hash,
            expects_reply: it.expects_reply,
            stream: false,
            cause: cause(it.id, it.depth),
            reply: it.reply,
            state: it.state,
            error: it.error,
            taken_back: false,
            created_at_ms: it.created_at_ms,
            ttl_ms: it.ttl_ms,
        }
    }
}

impl From<Letter> for super::Letter {
    fn from(it: Letter) -> Self {
        Self {
            owner: it.owner,
            node: it.node,
            from: it.from,
            key: it.key,
            epoch: it.epoch,
            sequence: it.sequence,
            subject: it.subject,
            cause: cause(it.key.id, it.depth),
            conversation: None,
            created_at_ms: it.created_at_ms,
            ttl_ms: it.ttl_ms,
            content_type: it.content_type,
            body: it.body,
            hash: it.hash,
            shown: it.shown,
            strikes: it.strikes,
        }
    }
}

impl From<Known> for super::Known {
    fn from(it: Known) -> Self {
        Self {
            owner: it.owner,
            node: it.node,
            from: it.from,
            key: it.key,
            epoch: it.epoch,
            sequence: it.sequence,
            hash: it.hash,
            cause: cause(it.key.id, it.depth),
            conversation: None,
            open: it.open,
            created_at_ms: it.created_at_ms,
            ttl_ms: it.ttl_ms,
        }
    }
}

/// Which message was the first was not said then.
fn cause(id: MessageId, depth: u8) -> Cause {
    Cause {
        depth,
        ..Cause::none(id)
    }
}
