//! The handle: what an API handler calls. Every call is one command to the task and one answer;
//! a caller that goes away simply drops its end.

mod command;
mod ids;
mod waits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::NodeId;
use router::{Cursor, Delivery, Refusal, Status};
use tokio::sync::{Notify, mpsc, oneshot};
use wire::message::MAX_BODY;
use wire::{InstanceId, MessageId};

use super::{
    Draft, LocalAgent, Outcome, ReceiveOptions, ReplyDraft, SendError, Sent, Stats, WaitFor,
};
use crate::streams::{Publisher, Streams, Subscription};

use waits::{FOLLOW_AHEAD, Gone};

pub(super) use command::{Command, Reply, Waiter};
pub use ids::fresh_id;
pub(super) use waits::CANCELS_AHEAD;
pub use waits::{Asked, Follow, Followed, Kept};

/// The way to the message plane. Clones share it; the plane ends when the last one is dropped and
/// the streams are gone.
#[derive(Clone, Debug)]
pub struct Messages {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) wake: Arc<Notify>,
    pub(super) streams: Streams,
}

impl Messages {
    /// Lets an agent have an inbox. Called for every registered agent at the start and whenever
    /// one is added; a second call is harmless.
    pub async fn add_agent(&self, agent: &LocalAgent) -> Result<(), SendError> {
        self.call(|done| Command::AddAgent(agent.into(), done))
            .await
    }

    /// Forgets an agent: what waits for it and from it becomes dead letters.
    pub async fn remove_agent(&self, instance: [u8; 16]) -> Result<(), SendError> {
        self.call(|done| Command::RemoveAgent(InstanceId(instance), done))
            .await
    }

    /// Takes a message; resolves when it is fsynced here, or refused.
    pub async fn send(&self, from: &LocalAgent, draft: Draft) -> Result<Sent, SendError> {
        let draft = to_router(draft)?;
        self.call(|answer| Command::Send {
            from: from.into(),
            draft,
            answer,
            wait: None,
        })
        .await
    }

    /// Sends and waits for what comes of it, without a gap between in which an answer could go to
    /// another subscriber of the same agent.
    pub async fn send_and_wait(
        &self,
        from: &LocalAgent,
        draft: Draft,
        what: WaitFor,
        until: Instant,
    ) -> Result<(Sent, Outcome), SendError> {
        let (sent, asked) = self.ask(from, draft, what).await?;
        let outcome = asked.outcome(until).await?;
        Ok((sent, outcome))
    }

    /// The first half of [`Messages::send_and_wait`]: resolves when the message is fsynced here.
    pub async fn ask(
        &self,
        from: &LocalAgent,
        draft: Draft,
        what: WaitFor,
    ) -> Result<(Sent, Asked), SendError> {
        let draft = to_router(draft)?;
        let id = draft.id;
        let (waiter, outcome) = Waiter::new(what);
        let wait = Some(waiter);
        let sent = self
            .call(|answer| Command::Send {
                from: from.into(),
                draft,
                answer,
                wait,
            })
            .await?;
        let asked = Asked {
            messages: self.clone(),
            agent: from.clone(),
            id,
            outcome,
        };
        Ok((sent, asked))
    }

    /// The parts of the answer to a message that this agent sent and that wants them, from where
    /// the cursor is.
    pub async fn subscribe(
        &self,
        agent: &LocalAgent,
        id: MessageId,
        at: Cursor,
    ) -> Result<Subscription, SendError> {
        let peer = self
            .call(|answer| Command::SentTo {
                agent: agent.into(),
                id,
                answer,
            })
            .await?;
        let instance = InstanceId(agent.instance);
        let key = wire::MessageKey { instance, id };
        Ok(self.streams.subscribe(peer, key, at))
    }

    /// Begins, or goes on, to answer a message in parts: refused where its sender wants none.
    /// `attempt` is that of the delivery which is being answered.
    pub async fn publisher(
        &self,
        agent: &LocalAgent,
        id: MessageId,
        attempt: Option<u32>,
    ) -> Result<Publisher, SendError> {
        let target = self
            .call(|answer| Command::PartsTarget {
                agent: agent.into(),
                id,
                answer,
            })
            .await?;
        Ok(self.streams.publisher(target, attempt)?)
    }

    /// Waits for a message that was sent before.
    pub async fn wait(
        &self,
        agent: &LocalAgent,
        id: MessageId,
        what: WaitFor,
        until: Instant,
    ) -> Result<Outcome, SendError> {
        let (waiter, outcome) = Waiter::new(what);
        let command = Command::Wait {
            agent: agent.into(),
            id,
            waiter,
        };
        self.tell(command).await?;
        self.outcome(agent, id, until, outcome).await
    }

    /// Sends, and has the reply kept from the agent's inbox, as [`Self::keep`] does.
    pub async fn send_kept(
        &self,
        from: &LocalAgent,
        draft: Draft,
    ) -> Result<(Sent, Kept), SendError> {
        let draft = to_router(draft)?;
        let (waiter, outcome) = Waiter::new(WaitFor::KeptReply);
        let wait = Some(waiter);
        let kept = Kept {
            outcome,
            wake: self.wake.clone(),
        };
        let sent = self
            .call(|answer| Command::Send {
                from: from.into(),
                draft,
                answer,
                wait,
            })
            .await?;
        Ok((sent, kept))
    }

    /// Waits for the reply to a message that was sent before. Unlike with [`Self::wait`] it is not
    /// acked by being handed over: its taker stores it first, and then says so.
    pub async fn keep(&self, agent: &LocalAgent, id: MessageId) -> Result<Kept, SendError> {
        let (waiter, outcome) = Waiter::new(WaitFor::KeptReply);
        let command = Command::Wait {
            agent: agent.into(),
            id,
            waiter,
        };
        self.tell(command).await?;
        Ok(Kept {
            outcome,
            wake: self.wake.clone(),
        })
    }

    /// The reply that was handed over to a [`Kept`] is safe with its taker.
    pub async fn settle_reply(&self, agent: &LocalAgent, id: MessageId) {
        // A plane that has stopped hands it over again.
        let _ = self
            .commands
            .send(Command::SettleReply {
                agent: agent.into(),
                id,
            })
            .await;
    }

    /// What waits for the agent, or what comes within the time. Each is hidden until its hold
    /// ends; ack it, or it comes again.
    pub async fn receive(
        &self,
        agent: &LocalAgent,
        options: ReceiveOptions,
    ) -> Result<Vec<Delivery>, SendError> {
        let (answer, mut deliveries) = oneshot::channel();
        let wait = !options.wait.is_zero();
        let (max, hold) = (
            options.max.clamp(1, router::limits::INBOX_ROWS),
            options.hold,
        );
        let command = Command::Receive {
            agent: agent.into(),
            max,
            hold,
            wait,
            answer,
        };
        self.tell(command).await?;
        let _gone = Gone(self.wake.clone());
        if !wait {
            return deliveries.await.map_err(|_| SendError::Stopping)?;
        }
        match tokio::time::timeout(options.wait, &mut deliveries).await {
            Ok(answer) => answer.map_err(|_| SendError::Stopping)?,
            // Closing first decides the race with a delivery made at this very moment.
            Err(_) => {
                deliveries.close();
                deliveries.try_recv().unwrap_or(Ok(Vec::new()))
            }
        }
    }

    /// Everything that waits for the agent and everything that comes, until dropped.
    pub async fn follow(&self, agent: &LocalAgent) -> Result<Follow, SendError> {
        let (sender, followed) = mpsc::channel(FOLLOW_AHEAD + CANCELS_AHEAD);
        let command = Command::Follow {
            agent: agent.into(),
            followed: sender,
        };
        self.tell(command).await?;
        Ok(Follow {
            followed,
            wake: self.wake.clone(),
        })
    }

    /// Takes a message of this agent back; resolves when that is fsynced. What is settled already
    /// stays as it is: see the state.
    pub async fn cancel(&self, agent: &LocalAgent, id: MessageId) -> Result<Status, SendError> {
        self.call(|done| Command::Cancel {
            agent: agent.into(),
            id,
            done,
        })
        .await
    }

    /// Settles a message that this agent will never do: its sender hears `rejected`, and `why`
    /// stays here, with the dead letter.
    pub async fn reject(
        &self,
        agent: &LocalAgent,
        id: MessageId,
        why: Option<String>,
    ) -> Result<(), SendError> {
        self.call(|done| Command::Reject {
            agent: agent.into(),
            id,
            why,
            done,
        })
        .await
    }

    /// Resolves when the sender takes a message back that this agent was shown; never otherwise.
    pub async fn cancelled(&self, agent: &LocalAgent, id: MessageId) {
        let (heard, hears) = oneshot::channel();
        let command = Command::Cancelled {
            agent: agent.into(),
            id,
            heard,
        };
        let gone = Gone(self.wake.clone());
        if self.commands.send(command).await.is_ok() && hears.await.is_ok() {
            return;
        }
        // Settled otherwise, or the node stops: whoever does the work hears of that elsewhere.
        drop(gone);
        std::future::pending().await
    }

    /// Settles messages for good; resolves when that is fsynced. One result for each id.
    pub async fn ack(
        &self,
        agent: &LocalAgent,
        ids: Vec<MessageId>,
    ) -> Result<Vec<Result<(), Refusal>>, SendError> {
        self.call(|done| Command::Ack {
            agent: agent.into(),
            ids,
            done,
        })
        .await
    }

    /// Answers a request and acks it, in one fsync.
    pub async fn reply(
        &self,
        agent: &LocalAgent,
        to: MessageId,
        reply: ReplyDraft,
    ) -> Result<Sent, SendError> {
        if reply.body.len() > MAX_BODY {
            return Err(Refusal::TooLarge.into());
        }
        let answer = router::Answer {
            id: reply.id.unwrap_or_else(fresh_id),
            content_type: reply.content_type.into(),
            body: reply.body,
        };
        self.call(|done| Command::Reply {
            from: agent.into(),
            to,
            answer,
            done,
        })
        .await
    }

    /// Keeps messages hidden for longer. One result for each id.
    pub async fn heartbeat(
        &self,
        agent: &LocalAgent,
        ids: Vec<MessageId>,
        hold: Option<Duration>,
    ) -> Result<Vec<Result<(), Refusal>>, SendError> {
        self.call(|done| Command::Heartbeat {
            agent: agent.into(),
            ids,
            hold,
            done,
        })
        .await
    }

    /// Shows messages again at once: for deliveries whose caller is known to be gone.
    pub async fn release(&self, agent: &LocalAgent, ids: Vec<MessageId>) {
        // A plane that has stopped has released everything.
        let _ = self
            .commands
            .send(Command::Release {
                agent: agent.into(),
                ids,
            })
            .await;
    }

    /// How a message of this agent stands.
    pub async fn state(&self, agent: &LocalAgent, id: MessageId) -> Result<Status, SendError> {
        self.call(|answer| Command::State {
            agent: agent.into(),
            id,
            answer,
        })
        .await
    }

    /// How many messages wait for each peer, for `status`.
    pub async fn queued(&self) -> Result<Vec<(NodeId, usize)>, SendError> {
        self.call(Command::Queued).await
    }

    /// Queues and counters.
    pub async fn stats(&self) -> Result<Stats, SendError> {
        let (answer, stats) = oneshot::channel();
        self.tell(Command::Stats(answer)).await?;
        stats.await.map_err(|_| SendError::Stopping)
    }

    /// Resolves when everything that the router has decided so far is on disk.
    pub async fn drain(&self) {
        let (answer, done) = oneshot::channel();
        if self.commands.send(Command::Drain(answer)).await.is_ok() {
            // A plane that stops drains too.
            let _ = done.await;
        }
    }

    async fn tell(&self, command: Command) -> Result<(), SendError> {
        let told = self.commands.send(command).await;
        told.map_err(|_| SendError::Stopping)
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, SendError> {
        let (answer, result) = oneshot::channel();
        self.tell(command(answer)).await?;
        result.await.map_err(|_| SendError::Stopping)?
    }

    async fn outcome(
        &self,
        agent: &LocalAgent,
        id: MessageId,
        until: Instant,
        outcome: oneshot::Receiver<Outcome>,
    ) -> Result<Outcome, SendError> {
        // Dropped before the state is asked for, and also when this call is cancelled.
        let gone = Gone(self.wake.clone());
        let mut outcome = outcome;
        match tokio::time::timeout_at(until.into(), &mut outcome).await {
            Ok(Ok(outcome)) => return Ok(outcome),
            // The task drops a waiter of an unknown message; asking for its state says why.
            Ok(Err(_)) => {}
            Err(_) => {
                outcome.close();
                if let Ok(outcome) = outcome.try_recv() {
                    return Ok(outcome);
                }
            }
        }
        drop((outcome, gone));
        self.state(agent, id).await.map(Outcome::TimedOut)
    }
}

fn to_router(draft: Draft) -> Result<router::Draft, SendError> {
    if draft.body.len() > MAX_BODY {
        return Err(Refusal::TooLarge.into());
    }
    Ok(router::Draft {
        id: draft.id.unwrap_or_else(fresh_id),
        to: draft.to,
        expects_reply: draft.expects_reply || draft.stream,
        stream: draft.stream,
        origin: draft.origin,
        conversation: draft.conversation.map(Into::into),
        ttl: draft.ttl.unwrap_or(router::limits::DEFAULT_TTL),
        content_type: draft.content_type.into(),
        body: draft.body,
    })
}
