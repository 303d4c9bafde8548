//! What is waited for, until it comes or its waiter goes. Whoever goes wakes the task, so that it
//! forgets who no longer waits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::Stream;
use router::Delivery;
use tokio::sync::{Notify, mpsc, oneshot};
use wire::MessageId;

use super::Messages;
use crate::messages::{LocalAgent, Outcome, SendError};

/// A message that was accepted, and whose answer or state is waited for.
#[derive(Debug)]
pub struct Asked {
    pub(super) messages: Messages,
    pub(super) agent: LocalAgent,
    pub(super) id: MessageId,
    pub(super) outcome: oneshot::Receiver<Outcome>,
}

/// The deliveries of an agent as they come, until dropped. What it was shown is held (no other
/// subscriber sees it) until acked, or until this is dropped.
#[derive(Debug)]
pub struct Follow {
    pub(super) followed: mpsc::Receiver<Followed>,
    pub(super) wake: Arc<Notify>,
}

/// The wait for a reply that is not acked by being handed over. Until [`Messages::settle_reply`] it
/// is nobody else's, and a restart hands it over again.
#[derive(Debug)]
pub struct Kept {
    pub(super) outcome: oneshot::Receiver<Outcome>,
    pub(super) wake: Arc<Notify>,
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "moved once, into the channel")]
pub enum Followed {
    /// A message, to be acked.
    Delivery(Delivery),
    /// The sender took this message back after it was shown; there is nothing to ack.
    Cancelled(MessageId),
}

impl Kept {
    /// What came of it; `None` where the message is not known, or the agent was removed.
    pub async fn outcome(&mut self) -> Option<Outcome> {
        (&mut self.outcome).await.ok()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.outcome.close();
        self.wake.notify_one();
    }
}

impl Asked {
    /// The message.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// What came of it by then.
    pub async fn outcome(self, until: Instant) -> Result<Outcome, SendError> {
        let Self {
            messages,
            agent,
            id,
            outcome,
        } = self;
        messages.outcome(&agent, id, until, outcome).await
    }
}

impl Follow {
    /// What comes next; `None` when the plane stops or the agent is removed.
    pub async fn next(&mut self) -> Option<Followed> {
        std::future::poll_fn(|cx| self.poll_followed(cx)).await
    }

    fn poll_followed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Followed>> {
        let polled = self.followed.poll_recv(cx);
        // The task fills the channel and forgets it; an empty one asks for more.
        if matches!(polled, Poll::Ready(Some(_))) && self.followed.is_empty() {
            self.wake.notify_one();
        }
        polled
    }
}

impl Stream for Follow {
    type Item = Followed;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Followed>> {
        self.poll_followed(cx)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.followed.close();
        self.wake.notify_one();
    }
}

/// A caller that waits.
pub(super) struct Gone(pub(super) Arc<Notify>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Deliveries that a follower is handed ahead of reading them.
pub(super) const FOLLOW_AHEAD: usize = 64;

/// What was taken back and a follower has not read; more of it is told by heartbeats alone.
pub(in crate::messages) const CANCELS_AHEAD: usize = 64;
