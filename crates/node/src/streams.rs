//! The parts of answers on their way between agents, while the answers are made.
//!
//! ```text
//! agent ─ Publisher ─► Ring ─ serve ─► a bidirectional stream ─ Subscription ─► who asked
//! ```
//! The answering gateway keeps a [`Ring`] for each request whose parts are wanted; the asking one
//! subscribes as soon as it knows the peer, and again whenever the connection is lost, from where it
//! was. Nothing here is durable: the answer itself is a message like any other. A peer can only ask
//! for parts of the answers to its own messages: a ring is found by the session's node and key.

mod serve;
mod subscription;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use identity::NodeId;
use router::{Cursor, PartsTarget, PushError, Ring};
use tokio::sync::{Notify, mpsc, oneshot};
use wire::message::MessageKey;
use wire::parts::Part;

use crate::sessions::SessionCommand;

pub(crate) use serve::serve;
pub use subscription::Subscription;

/// The rings of this gateway, and the way to those of others. Clones share them.
#[derive(Clone)]
pub struct Streams {
    inner: Arc<Inner>,
}

/// An agent's end: its answer to one request, part by part.
pub struct Publisher {
    streams: Streams,
    target: PartsTarget,
    attempt: u32,
    slot: Arc<Slot>,
}

struct Inner {
    node: NodeId,
    sessions: mpsc::Sender<SessionCommand>,
    slots: Mutex<BTreeMap<(NodeId, MessageKey), Arc<Slot>>>,
}

/// One ring, and who waits for it to change.
struct Slot {
    state: Mutex<SlotState>,
    /// More to read, or the end.
    more: Notify,
    /// Room to write.
    room: Notify,
}

struct SlotState {
    ring: Ring,
    /// Which of the readers is the newest; older ones end.
    reader: u64,
    /// Whether that one is there.
    reading: bool,
    used: Instant,
    /// The request was taken back, answered or given up.
    closed: bool,
}

impl Streams {
    /// For a gateway that reaches no other.
    pub fn alone(node: NodeId) -> Self {
        Self::new(node, mpsc::channel(1).0)
    }

    /// No answer is being made. Other gateways are reached over these sessions.
    pub(crate) fn new(node: NodeId, sessions: mpsc::Sender<SessionCommand>) -> Self {
        Self {
            inner: Arc::new(Inner {
                node,
                sessions,
                slots: Mutex::default(),
            }),
        }
    }

    /// An agent begins, or goes on, to answer in parts.
    pub(crate) fn publisher(
        &self,
        target: PartsTarget,
        attempt: Option<u32>,
    ) -> Result<Publisher, PublishError> {
        let shown = target.attempt;
        let attempt = attempt.unwrap_or(shown);
        if attempt == 0 || attempt > shown {
            return Err(PublishError::Attempt { shown });
        }
        let slot = self.slot(target.peer, target.key)?;
        Ok(Publisher {
            streams: self.clone(),
            target,
            attempt,
            slot,
        })
    }

    /// Who asked wants the parts of the answer to a message that it sent to `peer`.
    pub(crate) fn subscribe(&self, peer: NodeId, key: MessageKey, at: Cursor) -> Subscription {
        Subscription::new(self.clone(), peer, key, at)
    }

    /// The same where parts were made or asked for; else there is nobody to tell.
    pub(crate) fn end_known(&self, peer: NodeId, key: MessageKey) {
        if lock(&self.inner.slots).contains_key(&(peer, key)) {
            self.end(peer, key);
        }
    }

    /// No more parts will come of this answer: it was given, or none will be.
    pub(crate) fn end(&self, peer: NodeId, key: MessageKey) {
        // Made where there is none: who subscribes late is told at once.
        if let Ok(slot) = self.slot(peer, key) {
            let mut state = lock(&slot.state);
            state.ring.end();
            (state.closed, state.used) = (true, Instant::now());
            drop(state);
            slot.more.notify_waiters();
            slot.room.notify_waiters();
        }
    }

    /// The slot of a message, made where there is none yet.
    fn slot(&self, peer: NodeId, key: MessageKey) -> Result<Arc<Slot>, PublishError> {
        let now = Instant::now();
        let mut slots = lock(&self.inner.slots);
        if let Some(slot) = slots.get(&(peer, key)) {
            return Ok(slot.clone());
        }
        if slots.len() >= SLOTS_MOST {
            slots.retain(|_, slot| !lock(&slot.state).is_idle(now));
        }
        let of_peer = slots
            .range((peer, LOWEST)..)
            .take_while(|it| it.0.0 == peer);
        if slots.len() >= SLOTS_MOST || of_peer.count() >= SLOTS_OF_PEER {
            return Err(PublishError::TooMany);
        }
        let slot = Arc::new(Slot {
            state: Mutex::new(SlotState {
                ring: Ring::default(),
                reader: 0,
                reading: false,
                used: now,
                closed: false,
            }),
            more: Notify::new(),
            room: Notify::new(),
        });
        slots.insert((peer, key), slot.clone());
        Ok(slot)
    }

    /// Forgets the rings that nobody reads or writes any longer, and what is too old in the rest.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        lock(&self.inner.slots).retain(|_, slot| {
            let mut state = lock(&slot.state);
            let reading = state.reading;
            state.ring.trim(reading, now);
            !state.is_idle(now)
        });
    }

    /// How many rings there are, and what they hold in bytes.
    pub(crate) fn stats(&self) -> (usize, usize) {
        let slots = lock(&self.inner.slots);
        let bytes = slots.values().map(|slot| lock(&slot.state).ring.bytes());
        (slots.len(), bytes.sum())
    }

    async fn connection(&self, peer: NodeId) -> Option<quinn::Connection> {
        let (answer, connection) = oneshot::channel();
        let command = SessionCommand::Connection(peer, answer);
        self.inner.sessions.send(command).await.ok()?;
        connection.await.ok()?
    }
}

impl Publisher {
    /// Hands on one part; waits while whoever asked is there and slower than the agent. False where
    /// it was handed on before.
    pub async fn push(
        &self,
        seq: u64,
        kind: Option<Box<str>>,
        content: Bytes,
    ) -> Result<bool, PublishError> {
        let part = Part { seq, kind, content };
        loop {
            // Made before the look, so that no change is missed.
            let room = self.slot.room.notified();
            {
                let now = Instant::now();
                let mut state = lock(&self.slot.state);
                let reading = state.reading;
                if state.closed {
                    return Err(PublishError::Push(PushError::Ended));
                }
                if state.ring.has_room(reading) {
                    let new = state.ring.push(self.attempt, part, now)?;
                    state.ring.trim(reading, now);
                    state.used = now;
                    drop(state);
                    if new {
                        self.slot.more.notify_waiters();
                    }
                    return Ok(new);
                }
            }
            room.await;
        }
    }

    /// The number of the part that is wanted next.
    pub fn next(&self) -> u64 {
        lock(&self.slot.state).ring.next()
    }

    /// Whether no more is wanted: the request was taken back, or is answered.
    pub fn is_closed(&self) -> bool {
        lock(&self.slot.state).closed
    }

    /// No more parts come; the answer does.
    pub fn end(&self) {
        self.streams.end(self.target.peer, self.target.key);
    }
}

impl SlotState {
    /// Nobody reads, and nobody wrote for as long as parts are kept.
    fn is_idle(&self, now: Instant) -> bool {
        !self.reading && now.saturating_duration_since(self.used) >= IDLE
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slots, bytes) = self.stats();
        f.debug_struct("Streams")
            .field("slots", &slots)
            .field("bytes", &bytes)
            .finish()
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("key", &self.target.key)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Why a part is not handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The ring does not take it.
    #[error(transparent)]
    Push(#[from] PushError),
    /// The message was shown fewer times.
    #[error("the message was shown {shown} times, and attempts count these from 1")]
    Attempt {
        /// How often it was.
        shown: u32,
    },
    /// Too many answers are being given in parts.
    #[error("too many answers are being given in parts")]
    TooMany,
}

impl PublishError {
    /// The code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Push(PushError::Gap { .. }) => "gap",
            Self::Push(PushError::Stale { .. }) | Self::Attempt { .. } => "stale",
            Self::Push(PushError::Ended) => "ended",
            Self::Push(PushError::Unbounded) => "schema",
            Self::TooMany => "too_many_streams",
        }
    }
}

/// A panic elsewhere leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lowest key, to range from.
const LOWEST: MessageKey = MessageKey {
    instance: wire::InstanceId([0; 16]),
    id: wire::MessageId::LOWEST,
};

/// Answers in parts at once; with a mebibyte each they would not fit the smallest host, but only one
/// that is read slowly holds that much. Proposed by us.
const SLOTS_MOST: usize = 4096;
/// The share of one peer.
const SLOTS_OF_PEER: usize = 1024;

/// As long as parts are kept for a reader that is away.
const IDLE: std::time::Duration = std::time::Duration::from_secs(60);
