//! What survives a crash. A row is a value of its own: any one of them can be written, replaced or
//! deleted alone, and [`Router::restore`](crate::Router::restore) makes the same router of them.

pub mod v1;

use bytes::Bytes;
use identity::{AgentAddress, AgentName, NodeId};
use serde::{Deserialize, Serialize};
use wire::message::{Cause, MessageKey};
use wire::{Envelope, InstanceId, MessageId};

use crate::words::{Agent, Failure, State, Status};

/// The number of a row, unique over all tables and over the life of a spool. That of an outbox
/// row is also the sequence of its message, so a sequence never comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u64);

/// The tables of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Messages from here, on their way or settled.
    Outbox,
    /// Messages to here, waiting or acked.
    Inbox,
    /// Given up, kept for people.
    Dead,
}

/// One change of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "moved once, into the spool's queue"
)]
pub enum Write {
    /// Writes or replaces a row.
    Put(RowId, Row),
    /// Deletes a row; one that is missing is fine.
    Delete(Table, RowId),
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "moved once, into the spool's queue"
)]
pub enum Row {
    /// In [`Table::Outbox`].
    Outbox(OutboxRow),
    /// In [`Table::Inbox`].
    Inbox(InboxRow),
    /// In [`Table::Dead`].
    Dead(DeadRow),
}

/// A message from a local agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::large_enum_variant,
    reason = "moved once, into the spool's queue"
)]
pub enum OutboxRow {
    /// The receiver is not known to have it.
    Waiting {
        /// The gateway that it goes to.
        node: NodeId,
        /// The address as the agent wrote it.
        to: AgentAddress,
        /// The message.
        envelope: Envelope,
        /// Tells a retry from another message of the same id.
        hash: [u8; 16],
    },
    /// The receiver has it, or never will; what is left is how it stands.
    Sent(Sent),
}

/// How a message of a local agent stands, without its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The sending agent's life.
    pub instance: InstanceId,
    /// The sending agent's name.
    pub from: AgentName,
    /// The message.
    pub id: MessageId,
    /// The gateway that it went to.
    pub node: NodeId,
    /// The address as the agent wrote it.
    pub to: AgentAddress,
    /// Tells a retry from another message of the same id.
    pub hash: [u8; 16],
    /// Whether an answer may come.
    pub expects_reply: bool,
    /// Whether its parts may come before it.
    pub stream: bool,
    /// What led to it.
    pub cause: Cause,
    /// The answer that came.
    pub reply: Option<MessageId>,
    /// How far it came.
    pub state: State,
    /// Why no further.
    pub error: Option<Failure>,
    /// Its agent took it back, and the receiver is not known to have heard.
    pub taken_back: bool,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// In milliseconds.
    pub ttl_ms: u64,
}

/// A message to a local agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::large_enum_variant,
    reason = "moved once, into the spool's queue"
)]
pub enum InboxRow {
    /// Not acked yet.
    Waiting(Letter),
    /// Acked or given up: known again, never shown.
    Known(Known),
}

/// A message in an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The agent here.
    pub owner: Agent,
    /// The gateway that it came from, as its session proved.
    pub node: NodeId,
    /// The sender, with that gateway's name.
    pub from: AgentAddress,
    /// Names the message at its gateway.
    pub key: MessageKey,
    /// The life of the sender's spool.
    pub epoch: u64,
    /// Its place among the messages of that sender to this agent.
    pub sequence: u64,
    /// What it is about.
    pub subject: Subject,
    /// What led to it.
    pub cause: Cause,
    /// Which thread of talk it belongs to.
    pub conversation: Option<Box<str>>,
    /// Milliseconds since 1970, by the sender's clock.
    pub created_at_ms: u64,
    /// In milliseconds.
    pub ttl_ms: u64,
    /// A media type.
    pub content_type: Box<str>,
    /// From afar.
    pub body: Bytes,
    /// Tells a resend from another message of the same id.
    pub hash: [u8; 16],
    /// How often it was shown, as far as the disk knows.
    pub shown: u32,
    /// How often it was shown and neither acked nor held on to.
    pub strikes: u32,
}

/// What a letter is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subject {
    /// One way.
    Message,
    /// An answer is expected.
    Request,
    /// An answer.
    Reply {
        /// The request.
        in_reply_to: MessageId,
    },
    /// A message of the owner came to nothing.
    Failure {
        /// The message.
        of: MessageId,
        /// Why.
        error: Failure,
    },
    /// An answer is expected, and its parts as they come.
    Stream,
}

/// A message that was in an inbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The agent here.
    pub owner: Agent,
    /// The gateway that it came from.
    pub node: NodeId,
    /// The sender, with that gateway's name.
    pub from: AgentAddress,
    /// Names the message at its gateway.
    pub key: MessageKey,
    /// The life of the sender's spool.
    pub epoch: u64,
    /// Its place among the messages of that sender to this agent.
    pub sequence: u64,
    /// Tells a resend from another message of the same id.
    pub hash: [u8; 16],
    /// What led to it.
    pub cause: Cause,
    /// Which thread of talk it belonged to.
    pub conversation: Option<Box<str>>,
    /// Whether an answer to it may still be made here.
    pub open: bool,
    /// Milliseconds since 1970.
    pub created_at_ms: u64,
    /// In milliseconds.
    pub ttl_ms: u64,
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// The agent here: the sender of what never left, or the owner of what was never acked.
    pub instance: InstanceId,
    /// Its name.
    pub agent: AgentName,
    /// The other end.
    pub other: AgentAddress,
    /// The message.
    pub id: MessageId,
    /// Why.
    pub error: Failure,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// A media type.
    pub content_type: Box<str>,
    /// The body, where it is still here.
    pub body: Bytes,
}

impl Row {
    /// Where it belongs.
    pub fn table(&self) -> Table {
        match self {
            Self::Outbox(_) => Table::Outbox,
            Self::Inbox(_) => Table::Inbox,
            Self::Dead(_) => Table::Dead,
        }
    }
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Outbox, Self::Inbox, Self::Dead];

    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbox => "outbox",
            Self::Inbox => "inbox",
            Self::Dead => "dead",
        }
    }
}

impl Subject {
    /// Whether an answer is expected.
    pub fn expects_reply(&self) -> bool {
        matches!(self, Self::Request | Self::Stream)
    }
}

impl Sent {
    pub(crate) fn status(&self) -> Status {
        Status {
            id: self.id,
            state: self.state,
            error: self.error.clone(),
            reply: self.reply,
        }
    }
}

impl Letter {
    /// While it waits for its ack.
    pub(crate) fn row(&self) -> Row {
        Row::Inbox(InboxRow::Waiting(self.clone()))
    }

    /// What is left of it when it is settled.
    pub(crate) fn known(&self, open: bool) -> Known {
        Known {
            owner: self.owner.clone(),
            node: self.node,
            from: self.from.clone(),
            key: self.key,
            epoch: self.epoch,
            sequence: self.sequence,
            hash: self.hash,
            cause: self.cause,
            conversation: self.conversation.clone(),
            open: open && self.subject.expects_reply(),
            created_at_ms: self.created_at_ms,
            ttl_ms: self.ttl_ms,
        }
    }
}

/// SHA-256, cut to 16 bytes, over everything in an envelope that its sender chose.
pub(crate) fn content_hash(envelope: &Envelope) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    use wire::message::Kind;

    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(envelope.from.as_str().as_bytes());
    field(envelope.to.as_str().as_bytes());
    match envelope.kind {
        Kind::Message => field(&[0]),
        Kind::Request => field(&[1]),
        Kind::Stream => field(&[2]),
        Kind::Reply { in_reply_to } => field(&in_reply_to.to_bytes()),
    }
    // A reply lives for what is left of its request, which is less at each retry.
    if !matches!(envelope.kind, Kind::Reply { .. }) {
        field(&envelope.ttl_ms.to_le_bytes());
    }
    field(envelope.content_type.as_bytes());
    field(&envelope.body);
    // What led to it is no part of it: a retry is the same message.
    if let Some(conversation) = &envelope.conversation {
        field(conversation.as_bytes());
    }
    let digest = hash.finalize();
    *digest.first_chunk().expect("32 bytes hold 16")
}
