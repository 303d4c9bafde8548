//! `recv --exec`: one run of a command for one message.

use std::process::Stdio;
use std::time::Duration;

use api::{Body, Received, ReplyRequest, SendAnswer};
use node::workers::exec::Facts;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
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
        let (lines, mut printing) = tokio::sync::mpsc::channel(LINES_AHEAD);
        let mut parts = Parts::new(received);
        let printed = {
            let child = self.child(received, lines);
            let mut child = std::pin::pin!(child);
            loop {
                tokio::select! {
                    biased;
                    Some(line) = printing.recv() => parts.publish(client, line).await,
                    printed = &mut child => break printed,
                    // The stream of a follower holds it already; a single `recv` holds it by this.
                    () = tokio::time::sleep(HEARTBEAT) => {
                        let beat = client.post_raw(&beat, &json!({}), Duration::ZERO).await;
                        if beat.is_ok_and(|it| it.is_refused("cancelled")) {
                            note(format!("crabmesh: {} was taken back", received.id));
                            return Ok(true);
                        }
                    }
                }
            }
        };
        while let Ok(line) = printing.try_recv() {
            parts.publish(client, line).await;
        }
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

    async fn child(
        &self,
        received: &Received,
        lines: tokio::sync::mpsc::Sender<String>,
    ) -> Result<Vec<u8>, String> {
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
            stream: received.stream,
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
                let mut stdout = BufReader::new(stdout.take(most));
                loop {
                    let from = printed.len();
                    let read = stdout.read_until(b'\n', &mut printed).await;
                    if read.map_err(|error| error.to_string())? == 0 {
                        break;
                    }
                    if received.stream
                        && let Ok(line) = std::str::from_utf8(&printed[from..])
                    {
                        // Nobody hears the lines any longer: the answer itself is what counts.
                        let _ = lines.send(line.to_owned()).await;
                    }
                }
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

/// The lines that a command prints, as parts of its answer where they are wanted.
struct Parts {
    path: String,
    seq: u64,
    /// None where they are not wanted, or no longer.
    wanted: bool,
}

impl Parts {
    fn new(received: &Received) -> Self {
        let (id, attempt) = (&received.id, received.attempt);
        Self {
            path: format!("/v1/messages/{id}/parts?attempt={attempt}"),
            seq: 0,
            wanted: received.stream,
        }
    }

    /// A part that is not taken ends the parts: the answer comes all the same.
    async fn publish(&mut self, client: &mut Client, line: String) {
        if !self.wanted {
            return;
        }
        self.seq += 1;
        let part = api::Part {
            seq: self.seq,
            text: Some(line),
            base64: None,
            kind: None,
        };
        let taken: Result<api::PartsAnswer, Failure> = client.post(&self.path, &part).await;
        self.wanted = taken.is_ok_and(|taken| !taken.closed);
    }
}

/// Lines that a command may print before they are passed on.
const LINES_AHEAD: usize = 64;

/// A third of the time that a message is hidden without one.
const HEARTBEAT: Duration = Duration::from_secs(10);
