//! The parts of an answer, as they come: one bidirectional stream for each request whose parts are
//! wanted (messaging.md §4.2, Streams). The asker's gateway opens it with [`STREAM`] and one
//! [`Subscribe`], and again after each loss of the connection, saying what it has; the other side
//! sends [`PartsFrame`]s. Parts are a preview: the answer itself is a message, and durable.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::message::MessageKey;

/// The first byte of such a stream.
pub const STREAM: u8 = 4;

/// The largest part, 64 KiB: a quarter of a body. Proposed by us.
pub const MAX_PART: usize = 64 << 10;

/// The longest word for what a part is. Proposed by us.
pub const MAX_KIND: usize = 32;

/// Asker to answerer: send me the parts of the answer to this message of mine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The message, of the session's peer.
    pub key: MessageKey,
    /// Which attempt at the answer I have heard of; 0 before the first.
    pub attempt: u32,
    /// The last part of it that I have; 0 before the first.
    pub after: u64,
}

/// Answerer to asker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartsFrame {
    /// The parts that follow are of this attempt: what came of an earlier one is void.
    Attempt(u32),
    /// One part.
    Part(Part),
    /// The parts before this number are gone.
    Lost {
        /// The next to come.
        next: u64,
    },
    /// No more will come: the answer is on its way, or none will be.
    End {
        /// The number of the last part; 0 where there was none.
        last: u64,
    },
}

/// One part of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Counts up from 1, without gaps.
    pub seq: u64,
    /// What it is, where it is not simply more of the answer; see [`is_kind`].
    pub kind: Option<Box<str>>,
    /// At most [`MAX_PART`] bytes.
    pub content: Bytes,
}

/// Whether a text can say what a part is: 1 to [`MAX_KIND`] small letters, digits, `_` or `-`.
pub fn is_kind(text: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    (1..=MAX_KIND).contains(&text.len()) && text.bytes().all(fits)
}

impl Part {
    /// Whether it keeps to its bounds.
    pub fn is_bounded(&self) -> bool {
        self.seq > 0 && self.content.len() <= MAX_PART && self.kind.as_deref().is_none_or(is_kind)
    }
}
