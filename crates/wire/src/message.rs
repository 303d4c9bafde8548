//! Agent messages as they travel from gateway to gateway.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use identity::AgentName;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The largest body of one message, 256 KiB (messaging.md §4.2; more is a blob, a later stage).
pub const MAX_BODY: usize = 256 << 10;

/// The longest content type, 127 bytes as in RFC 6838 §4.2.
pub const MAX_CONTENT_TYPE: usize = 127;

/// A message's identity and idempotency key: a UUIDv7 (RFC 9562 §5.7) that the sender made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(Uuid);

/// One life of an agent on its gateway: random, made anew when an agent is added, so that a new
/// agent of an old name inherits nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub [u8; 16]);

/// Names a message between two gateways: the session says which node, this which agent there and
/// which of its messages. Two agents may choose the same id without meeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageKey {
    /// The agent that sent the message.
    pub instance: InstanceId,
    /// The message.
    pub id: MessageId,
}

/// One message with all that travels. The nodes at both ends are those of the authenticated
/// session, so no field names them: nothing here can lie about where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Made by the sender.
    pub id: MessageId,
    /// What it is.
    pub kind: Kind,
    /// The sending agent, on the session's peer.
    pub from: AgentName,
    /// The addressed agent, on the receiving gateway.
    pub to: AgentName,
    /// The life of the sending agent; with the session's peer and the id it is the key by which
    /// the receiver knows a message again.
    pub instance: InstanceId,
    /// The life of the sender's spool: a spool that was lost starts its sequence anew.
    pub epoch: u64,
    /// Counts up, with gaps, for each (sending agent, addressed agent) pair of one epoch: the
    /// order of delivery.
    pub sequence: u64,
    /// Milliseconds since 1970, by the sender's clock.
    pub created_at_ms: u64,
    /// How long after `created_at_ms` it may still be delivered, in milliseconds.
    pub ttl_ms: u64,
    /// Gateways that it may still cross.
    pub hops_left: u8,
    /// What led to it.
    pub cause: Cause,
    /// Which thread of talk it belongs to, in the sender's own words: see [`is_conversation`].
    pub conversation: Option<Box<str>>,
    /// A media type (RFC 6838), at most [`MAX_CONTENT_TYPE`] bytes of printable ASCII.
    pub content_type: Box<str>,
    /// At most [`MAX_BODY`] bytes, opaque to the mesh.
    pub body: Bytes,
}

/// What a message is, and so which verb of the policy it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// One way; verb `send`.
    Message,
    /// An answer is expected; verb `request`.
    Request,
    /// Answers a request, and rides its grant.
    Reply {
        /// The request.
        in_reply_to: MessageId,
    },
    /// An answer is expected, and its parts as they come; verb `stream`.
    Stream,
}

/// What led to a message: the chain of messages that began with a person, a timer or a program of
/// its own accord. Its sender's gateway says so, and every gateway counts for itself (see the
/// router's `causes`): who lies here only hides its own part of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The first message of the chain; the message itself where nothing led to it.
    pub root: MessageId,
    /// How many messages came before it, one because of the other.
    pub depth: u8,
    /// How many of the last of these went back and forth between the same two agents.
    pub bounces: u8,
}

/// A frame between the routers of two gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageFrame {
    /// Sender to receiver: store this.
    Offer {
        /// The message.
        envelope: Envelope,
        /// The sequence of the message of the same pair that must be stored before this one; 0
        /// where none is waiting.
        after: u64,
    },
    /// Receiver to sender: it is fsynced in the inbox, or was before.
    Stored {
        /// The message.
        key: MessageKey,
    },
    /// Receiver to sender: it is not, and why; also after the fact, for what was stored.
    Refused {
        /// The message.
        key: MessageKey,
        /// Why.
        nack: Nack,
    },
    /// Receiver to sender: how far a stored message came. Best effort; only the last counts.
    Progress {
        /// The message.
        key: MessageKey,
        /// How far.
        stage: Stage,
    },
    /// Sender to receiver: its agent takes the message back. Answered by [`Nack::Cancelled`], and
    /// said again on each new session until then.
    Cancel {
        /// The message.
        key: MessageKey,
    },
    /// Receiver to sender: what this message led to was stopped as a loop.
    Looped {
        /// The message.
        key: MessageKey,
    },
}

/// How far a stored message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Handed to the agent.
    Delivered,
    /// Acked by the agent.
    Done,
    /// Given up at the receiver.
    Failed,
}

/// Why a receiver will not keep a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Nack {
    /// The receiver's policy has no grant for it. Final.
    Denied,
    /// Too much from this sender at the moment; try again after so many milliseconds.
    Throttled {
        /// Milliseconds to wait.
        retry_after_ms: u32,
    },
    /// The agent's inbox or the disk is full; try again.
    Full,
    /// The body exceeds [`MAX_BODY`] or what the receiver takes. Final.
    TooLarge,
    /// Its time to live had passed. Final.
    Expired,
    /// A grant allows it, but there is no such agent on that gateway. Final.
    UnknownAgent,
    /// The same id came before with another content. Final.
    Conflict,
    /// A reply that answers no open request of that agent, or a second one. Final.
    NoOpenRequest,
    /// The id's time is further ahead than clocks may differ. Final.
    FromTheFuture,
    /// An earlier message of the same pair is missing; send that one first.
    OutOfOrder,
    /// Too many hops or causes. Final.
    Loop,
    /// A field breaks its grammar or bound. Final.
    Schema,
    /// A kill of the operator forbids it, whatever the policy says. Final.
    Blocked,
    /// The agent there will never do it. Final.
    Rejected,
    /// Its sender took it back. Final.
    Cancelled,
}

impl MessageId {
    /// Before any other, to range from. No message has it.
    pub const LOWEST: Self = Self(Uuid::nil());

    /// An id for a message made at `unix_ms`, from 10 random bytes.
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid())
    }

    /// The id from its 16 bytes, where they are a UUIDv7.
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        let id = Uuid::from_bytes(bytes);
        (id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122)
            .then_some(Self(id))
    }

    /// The id's 16 bytes, which sort by time.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// When it was made, in milliseconds since 1970: its first 48 bits.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0.as_u128() >> 80).expect("48 bits fit")
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = ParseMessageIdError;

    fn from_str(text: &str) -> Result<Self, ParseMessageIdError> {
        let id = Uuid::try_parse(text).map_err(|_| ParseMessageIdError)?;
        Self::from_bytes(id.into_bytes()).ok_or(ParseMessageIdError)
    }
}

/// The text is not a UUIDv7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message id is a UUIDv7")]
pub struct ParseMessageIdError;

impl Kind {
    /// Whether an answer is expected.
    pub fn expects_reply(self) -> bool {
        matches!(self, Self::Request | Self::Stream)
    }
}

impl Cause {
    /// That of a message which nothing led to.
    pub fn none(id: MessageId) -> Self {
        Self {
            root: id,
            depth: 0,
            bounces: 0,
        }
    }

    /// That of a message which this one led to; `back` where it goes to whoever sent this one.
    pub fn next(self, back: bool) -> Self {
        Self {
            root: self.root,
            depth: self.depth.saturating_add(1),
            bounces: if back {
                self.bounces.saturating_add(1)
            } else {
                0
            },
        }
    }
}

/// Whether a text can name a conversation: 1 to [`MAX_CONVERSATION`] letters, digits, `.`, `_`, `:`
/// or `-`, so that it can stand in a header, a path and a session key as it is.
pub fn is_conversation(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=MAX_CONVERSATION).contains(&text.len()) && text.bytes().all(fits)
}

/// The longest name of a conversation. Proposed by us: a UUID and a word.
pub const MAX_CONVERSATION: usize = 64;

impl Nack {
    /// Whether the sender may try the same message again.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Throttled { .. } | Self::Full | Self::OutOfOrder)
    }
}

impl fmt::Display for InstanceId {
    /// The first four bytes in hex, as node ids do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InstanceId({self})")
    }
}

impl Envelope {
    /// What names it, beside the node that it comes from.
    pub fn key(&self) -> MessageKey {
        MessageKey {
            instance: self.instance,
            id: self.id,
        }
    }

    /// The instant after which nobody delivers it, in milliseconds since 1970.
    pub fn expires_at_ms(&self) -> u64 {
        self.created_at_ms.saturating_add(self.ttl_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_carries_its_time_and_sorts_by_it() {
        let early = MessageId::new(1_700_000_000_000, [9; 10]);
        let late = MessageId::new(1_700_000_000_001, [0; 10]);

        assert_eq!(early.unix_ms(), 1_700_000_000_000);
        assert!(early < late);
        assert_eq!(early.to_string().parse(), Ok(early));
        assert!(
            "67e55044-10b1-426f-9247-bb680e5fe0c8"
                .parse::<MessageId>()
                .is_err()
        );
    }
}
