//! `recv --exec`: one run of a command for one message.

use std::process::Stdio;
use std::time::Duration;

use api::{Body, Received, ReplyRequest, SendAnswer};
use node::workers::exec::Facts;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::note;

/// Runs the command.
pub struct Worker {
    program: String,
    arguments: Vec<String>,
}

impl Worker {
    pub fn new(command: Vec<String>) -> Result<Self, Failure> {
        let mut command = command.into_iter();
        match command.next() {
            Some(program) => Ok(Self {
                program,
                arguments: command.collect(),
            }),
            None => Err(Failure::usage("--exec needs a command")),
        }
    }

    /// Runs it; true when the message is settled, false when it must come again.
    pub async fn run(&self, client: &mut Client, received: &Received) -> Result<bool, Failure> {
        let beat = format!("/v1/messages/{}/heartbeat", received.id);
        let printed = {
            let child = self.child(received);
            let mut child = std::pin::pin!(child);
            loop {
                tokio::select! {
                    printed = &mut child => break printed,
                    // The stream of a follower holds it already; a single `recv` holds it by this.
                    () = tokio::time::sleep(HEARTBEAT) => {
                        let _: Option<api::Acked> = client.post(&beat, &json!({})).await.ok();
                    }
                }
            }
        };
        match printed {
            Ok(printed) => {
                let body = if received.reply_expected {
                    Some(printed)
                } else {
                    None
                };
                self.settle(client, received, body).await
            }
            Err(reason) => {
                note(format!("crabmesh: {} is given back: {reason}", received.id));
                Ok(false)
            }
        }
    }

    async fn settle(
        &self,
        client: &mut Client,
        received: &Received,
        reply: Option<Vec<u8>>,
    ) -> Result<bool, Failure> {
        let settled = match reply {
            Some(bytes) => {
                let (body, body_base64) = Body::from_bytes(bytes).into_fields();
                let id = Some(node::messages::fresh_id().to_string());
                let request = ReplyRequest {
                    body,
                    body_base64,
                    content_type: None,
                    id,
                };
                let path = format!("/v1/messages/{}/reply", received.id);
                client.post::<SendAnswer>(&path, &request).await.map(|_| ())
            }
            None => {
                let path = format!("/v1/messages/{}/ack", received.id);
                client
                    .post::<api::Acked>(&path, &json!({}))
                    .await
                    .map(|_| ())
            }
        };
        match settled {
            Ok(()) => Ok(true),
            Err(failure) if failure.exit() == Exit::NoNode => Err(failure),
            Err(failure) => {
                // Expired, or answered by another life of this agent: nothing is left to do.
                note(format!(
                    "crabmesh: {} is not settled: {failure}",
                    received.id
                ));
                Ok(true)
            }
        }
    }

    async fn child(&self, received: &Received) -> Result<Vec<u8>, String> {
        let body = received
            .body()
            .map_err(|error| error.to_string())?
            .into_bytes();
        let facts = Facts {
            id: &received.id,
            kind: received.kind,
            from: &received.from,
            to: &received.to,
            content_type: &received.content_type,
            attempt: received.attempt,
            reply_expected: received.reply_expected,
            in_reply_to: received.in_reply_to.as_deref(),
            conversation: received.conversation.as_deref(),
        };
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(facts.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.program))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A command that does not care for the body closes its stdin; that is its right.
                let _ = stdin.write_all(&body).await;
            }
        };
        let read = async {
            let mut printed = Vec::new();
            if let Some(stdout) = stdout {
                let most = wire::message::MAX_BODY as u64 + 1;
                stdout
                    .take(most)
                    .read_to_end(&mut printed)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(printed)
        };
        let ((), printed) = tokio::join!(write, read);
        let printed = printed?;
        if printed.len() > wire::message::MAX_BODY {
            return Err(format!("{} prints more than a body may have", self.program));
        }
        let status = child.wait().await.map_err(|error| error.to_string())?;
        match status.success() {
            true => Ok(printed),
            false => Err(format!("{} ended with {status}", self.program)),
        }
    }
}

/// A third of the time that a message is hidden without one.
const HEARTBEAT: Duration = Duration::from_secs(10);
