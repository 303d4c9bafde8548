//! Progress of a question: told to a client that asked to hear of it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use tokio::sync::watch;
use wire::MessageId;

use crate::messages::{LocalAgent, Messages, Outcome, State, WaitFor};

/// Where to tell it.
pub(super) struct Progress {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    told: u32,
}

impl Progress {
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Self {
        Self {
            peer: context.peer.clone(),
            token: context.meta.get_progress_token(),
            told: 0,
        }
    }

    /// Tells how far the message comes once it is accepted, and between that that it is waited for:
    /// many clients give up a call of which they hear nothing. Goes on until dropped.
    pub(super) async fn follow(
        mut self,
        messages: &Messages,
        agent: &LocalAgent,
        id: MessageId,
        to: &str,
        mut accepted: watch::Receiver<bool>,
        until: Instant,
    ) -> Infallible {
        if self.token.is_none() || accepted.wait_for(|accepted| *accepted).await.is_err() {
            return std::future::pending().await;
        }
        self.tell("accepted: safe at this gateway".into()).await;
        let began = tokio::time::Instant::now();
        let mut beat = tokio::time::interval_at(began + BEAT, BEAT);
        let mut known = State::Accepted;
        for wanted in [State::Stored, State::Delivered] {
            let waiting = messages.wait(agent, id, WaitFor::State(wanted), until);
            let mut waiting = std::pin::pin!(waiting);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut waiting => break outcome,
                    _ = beat.tick() => self.beat(to, began.elapsed()).await,
                }
            };
            match outcome {
                Ok(Outcome::Settled(status)) if !status.state.is_final() => {
                    if status.state > known {
                        known = status.state;
                        self.tell(words(known, to)).await;
                    }
                }
                // It ended, and its asker hears of that now.
                _ => break,
            }
        }
        loop {
            beat.tick().await;
            self.beat(to, began.elapsed()).await;
        }
    }

    async fn beat(&mut self, to: &str, since: Duration) {
        self.tell(format!("waiting for {to} for {} s", since.as_secs()))
            .await;
    }

    async fn tell(&mut self, words: String) {
        let Some(token) = self.token.clone() else {
            return;
        };
        self.told += 1;
        let told = ProgressNotificationParam::new(token, self.told.into()).with_message(words);
        // A client that is gone misses nothing.
        let _ = self.peer.notify_progress(told).await;
    }
}

fn words(state: State, to: &str) -> String {
    match state {
        State::Stored => format!("stored: safe at the gateway of {to}"),
        _ => format!("delivered: {to} has it"),
    }
}

/// Well below the 60 s after which clients give up by default.
const BEAT: Duration = Duration::from_secs(10);
