//! Progress of a question: told to a client that asked to hear of it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use router::PartEvent;
use wire::MessageId;

use crate::foreign;
use crate::messages::{LocalAgent, Messages, Outcome, State, WaitFor};
use crate::streams::Subscription;

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

    /// Tells how far an accepted message comes, what comes of its answer before that is whole, and
    /// between that that it is waited for: many clients give up a call of which they hear nothing.
    /// Goes on until dropped.
    pub(super) async fn follow(
        mut self,
        messages: &Messages,
        agent: &LocalAgent,
        id: MessageId,
        to: &str,
        mut parts: Option<Subscription>,
        until: Instant,
    ) -> Infallible {
        if self.token.is_none() {
            return std::future::pending().await;
        }
        self.tell("accepted: safe at this gateway".into()).await;
        let began = tokio::time::Instant::now();
        let mut beat = tokio::time::interval_at(began + BEAT, BEAT);
        let reaching = |wanted| messages.wait(agent, id, WaitFor::State(wanted), until);
        let mut known = State::Accepted;
        let mut waiting = Some(Box::pin(reaching(State::Stored)));
        loop {
            let outcome = async {
                match &mut waiting {
                    Some(waiting) => waiting.await,
                    None => std::future::pending().await,
                }
            };
            let part = async {
                match &mut parts {
                    Some(parts) => parts.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // How far it came is told before what came of it.
                biased;
                outcome = outcome => {
                    waiting = None;
                    // What ended is told to its asker now.
                    if let Ok(Outcome::Settled(status)) = outcome
                        && !status.state.is_final()
                        && status.state > known
                    {
                        known = status.state;
                        self.tell(words(known, to)).await;
                        waiting = (known < State::Delivered)
                            .then(|| Box::pin(reaching(State::Delivered)));
                    }
                }
                part = part => match part {
                    Some(PartEvent::End) | None => parts = None,
                    Some(part) => self.tell(told(part, to)).await,
                },
                _ = beat.tick() => {
                    let since = began.elapsed().as_secs();
                    self.tell(format!("waiting for {to} for {since} s")).await;
                }
            }
        }
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

/// A part of the answer: on one line, and said to be the other's.
fn told(part: PartEvent, to: &str) -> String {
    match part {
        PartEvent::Part { part, .. } => match api::Body::from_bytes(part.content.into()) {
            api::Body::Text(text) => format!("{to} writes: {}", foreign::line(&text, PART_MAX)),
            api::Body::Binary(bytes) => format!("{to} writes {} bytes", bytes.len()),
        },
        PartEvent::Restart { .. } => format!("{to} begins its answer again"),
        PartEvent::Lost { .. } => format!("some of what {to} writes is lost; the answer has it"),
        PartEvent::End => String::new(),
    }
}

/// Well below the 60 s after which clients give up by default.
const BEAT: Duration = Duration::from_secs(10);

/// What a line of progress has room for.
const PART_MAX: usize = 4096;
