//! `a2a`: each message is posted to an A2A server, and what comes of its task is the reply.
//!
//! That a message is about to be posted is on disk first, and the task that it became right after:
//! at the next attempt, and after a restart of the node, that task is asked for and nothing is
//! posted again, but to an OpenClaw gateway that has restarted since and forgotten it. The server's
//! thread of talk is named by the verified sender and the conversation, so
//! that no sender can speak into another's.

#[cfg(test)]
mod tests;

use ::api::Kind;
use ::api::a2a::{Content, Event, Message, Part, Role, body_of, parts_of};
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use reqwest::Url;
use serde_json::json;
use tokio::time::Instant;
use wire::message::MAX_BODY;
use zeroize::Zeroizing;

use super::openclaw::channel;
use super::{
    AttachError, Bounds, Cancelled, Done, Job, Parts, Secret, WorkError, Worker, Working, http,
};
use crate::a2a::Posted;
use crate::a2a::client::{Came, Client, ClientError, Trace, came_of};

/// The worker.
pub(super) struct A2a {
    client: Client,
    server: Server,
    posted: Option<Posted>,
    bounds: Bounds,
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// One that keeps to the protocol.
    Any,
    /// An OpenClaw gateway's channel.
    Openclaw,
}

impl A2a {
    pub(super) fn new(
        server: Server,
        url: Url,
        bearer: Option<&Secret>,
        posted: Option<Posted>,
        bounds: Bounds,
    ) -> Result<Self, AttachError> {
        let bearer = bearer.map(|secret| Zeroizing::new(secret.reveal().to_owned()));
        let shown = |bearer: &Zeroizing<String>| bearer.bytes().all(|b| (0x21..0x7f).contains(&b));
        if bearer
            .as_ref()
            .is_some_and(|it| it.is_empty() || it.len() > BEARER_MAX || !shown(it))
        {
            return Err(AttachError(
                "that is no bearer: printable characters without blanks".into(),
            ));
        }
        let client = Client::new(http::client(&url, bounds)?, url, bearer);
        Ok(Self {
            client,
            server,
            posted,
            bounds,
        })
    }

    async fn ask(&self, job: &Job, trace: &mut Option<Trace>) -> Result<Done, WorkError> {
        let Some(posted) = &self.posted else {
            return Err(WorkError::unreachable("nothing is remembered here"));
        };
        let kept = |_| WorkError::unreachable("what was posted cannot be kept on disk");
        let until = Instant::now() + self.bounds.timeout;
        *trace = posted.trace(job.id).await.map_err(kept)?;
        // Twice at most: a server that says it never had the message is given it again.
        for _ in 0..2 {
            let again = trace.is_some();
            let message = self.server.message(job, again)?;
            let mut known = match trace.take().filter(|it| self.server.can_follow(it)) {
                Some(known) => known,
                None => {
                    let mut known = Trace::default();
                    posted.note(job.id, Some(&known)).await.map_err(kept)?;
                    match self.client.send(&message).await {
                        Ok(Event::Task(task)) => {
                            known.task = Some(task.id.clone());
                            posted.note(job.id, Some(&known)).await.map_err(kept)?;
                            if let Some(came) = came_of(task) {
                                return self.end(job, posted, came).await;
                            }
                        }
                        Ok(Event::Message(answer)) => {
                            let done = done_of(job, Came::Parts(answer.parts, answer.metadata))?;
                            known.answer = Some((done.content_type.clone(), done.body.to_vec()));
                            posted.note(job.id, Some(&known)).await.map_err(kept)?;
                            return Ok(done);
                        }
                        // It may have it, whatever it said.
                        Ok(_) | Err(ClientError::Unknown(_)) if !self.server.can_follow(&known) => {
                            return Err(WorkError::failed("its answer was lost"));
                        }
                        Ok(_) | Err(ClientError::Unknown(_)) => {}
                        Err(ClientError::Unreached(why)) => {
                            posted.note(job.id, None).await.map_err(kept)?;
                            return Err(WorkError::unreachable(why));
                        }
                        Err(ClientError::Refused(why)) => {
                            posted.note(job.id, None).await.map_err(kept)?;
                            return Err(WorkError::never(why));
                        }
                    }
                    known
                }
            };
            if let Some((content_type, body)) = known.answer {
                let body = Bytes::from(body);
                return Ok(Done { content_type, body });
            }
            let had = known.task.clone();
            *trace = Some(known.clone());
            let came = self.client.poll(&message, &mut known, until).await;
            if known.task != had {
                posted.note(job.id, Some(&known)).await.map_err(kept)?;
            }
            match came {
                Ok(Some(Came::Forgotten)) if self.server == Server::Openclaw => {
                    *trace = Some(Trace::default());
                }
                Ok(Some(came)) => return self.end(job, posted, came).await,
                Ok(None) => *trace = None,
                Err(error) => return Err(WorkError::failed(error.to_string())),
            }
        }
        Err(WorkError::failed("it loses what it is sent"))
    }

    async fn end(&self, job: &Job, posted: &Posted, came: Came) -> Result<Done, WorkError> {
        if self.server == Server::Openclaw && matches!(came, Came::Failed(_)) {
            // Not the model: what that says of an error is an answer there. The turn did not come about,
            // as while the gateway starts; the next try has a task of its own.
            let kept = |_| WorkError::unreachable("what was posted cannot be kept on disk");
            let spent = Trace::default();
            posted.note(job.id, Some(&spent)).await.map_err(kept)?;
            return Err(WorkError::failed(
                "the gateway could not run the turn; hint: its log",
            ));
        }
        done_of(job, came)
    }
}

impl Server {
    /// What is posted; `again` where it may have been before.
    fn message(self, job: &Job, again: bool) -> Result<Message, WorkError> {
        match self {
            Self::Any => Ok(message_of(job)),
            Self::Openclaw => channel::message(job, again),
        }
    }

    /// Whether it can be asked for what became of a message: OpenClaw does not list its tasks.
    fn can_follow(self, known: &Trace) -> bool {
        self == Self::Any || known.task.is_some() || known.answer.is_some()
    }
}

impl Worker for A2a {
    fn work<'a>(&'a self, job: &'a Job, _: Parts, mut cancelled: Cancelled) -> Working<'a> {
        Box::pin(async move {
            if job.kind == Kind::Failure {
                // There is nothing to say to anybody.
                return Ok(Done::silent());
            }
            let mut trace = None;
            let done = tokio::select! {
                biased;
                () = cancelled.wait() => None,
                done = self.ask(job, &mut trace) => Some(done),
            };
            match (done, trace) {
                (Some(done), _) if job.kind == Kind::Message => done,
                // Nobody waits for what is said to it.
                (Some(done), _) => done.map(|_| Done::silent()),
                (None, trace) => {
                    if let Some(task) = trace.and_then(|trace| trace.task) {
                        self.client.cancel(&task).await;
                    }
                    Err(WorkError::never("cancelled"))
                }
            }
        })
    }

    fn concurrency(&self) -> usize {
        self.bounds.concurrency
    }
}

fn message_of(job: &Job) -> Message {
    let (mut parts, inner) = parts_of(&job.content_type, &job.body);
    if parts.is_empty() {
        parts.push(Part::text(""));
    }
    let mut metadata = inner.unwrap_or_default();
    // Set last: who asks is this gateway's word, not the message's.
    metadata.insert(
        "crabmesh".into(),
        json!({
            "from": job.from,
            "message": job.id.to_string(),
            "kind": job.kind.as_str(),
            "conversation": job.conversation,
            "foreign": true,
        }),
    );
    Message {
        role: Role::User,
        context: Some(match &job.conversation {
            Some(conversation) => context(job, conversation),
            None => context(job, &job.id.to_string()),
        }),
        metadata: Some(metadata),
        ..Message::of_agent(job.id.to_string(), parts)
    }
}

/// The name of a thread of talk there, in which no other sender can speak.
pub(super) fn context(job: &Job, talk: &str) -> String {
    let name = format!("{}\0{}\0{talk}", job.from, job.to);
    let digest = digest(&SHA256, name.as_bytes());
    format!("mesh-{}", HEXLOWER.encode(&digest.as_ref()[..16]))
}

fn done_of(job: &Job, came: Came) -> Result<Done, WorkError> {
    let (parts, metadata) = match came {
        Came::Parts(parts, metadata) => (parts, metadata),
        Came::Rejected => return Err(WorkError::never("it rejected the message")),
        // Its task is spent, and posting it again would be a second one.
        Came::Failed(why) => return Err(WorkError::never(why)),
        Came::Forgotten => {
            return Err(WorkError::never("it does not know the task any longer"));
        }
    };
    if parts.is_empty() {
        return Ok(Done::silent());
    }
    let only_text = matches!(
        &parts[..],
        [Part {
            content: Content::Text(_),
            ..
        }]
    );
    let answer = Message {
        // Beside one text it is worth no JSON.
        metadata: metadata.filter(|_| !only_text),
        ..Message::of_agent(format!("{}-reply", job.id), parts)
    };
    let (content_type, body) = body_of(&answer);
    if body.len() > MAX_BODY {
        return Err(WorkError::never(
            "its answer is larger than a message can be",
        ));
    }
    Ok(Done {
        content_type,
        body: Bytes::from(body),
    })
}

/// Messages at once.
pub(super) const CONCURRENCY: usize = 8;
const BEARER_MAX: usize = 4096;
