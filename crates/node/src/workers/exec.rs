//! `exec`: each message is a run of a command, and what it prints is the reply.
//!
//! The command runs as the node's own user and may do whatever the node may: read its keys, for one.
//! It is the leader of a process group of its own, which is killed as a whole when its time is up, its
//! message is taken back or the node stops. The body is on its stdin and the rest in its environment,
//! as with `crabmesh recv --exec`.

use std::process::{ExitStatus, Stdio};

use ::api::Kind;
use bytes::Bytes;
use identity::AgentAddress;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tracing::debug;
use wire::message::MAX_BODY;

use super::{AttachError, Bounds, Cancelled, Done, Job, Part, Parts, WorkError, Worker, Working};

/// The worker.
pub(super) struct Exec {
    program: String,
    arguments: Vec<String>,
    bounds: Bounds,
}

/// What a command learns of a message, in its environment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The message.
    pub id: &'a str,
    /// What it is.
    pub kind: Kind,
    /// The verified sender.
    pub from: &'a AgentAddress,
    /// The agent that is served.
    pub to: &'a AgentAddress,
    /// A media type.
    pub content_type: &'a str,
    /// 1 the first time.
    pub attempt: u32,
    /// Whether what is printed is the answer.
    pub reply_expected: bool,
    /// The message that this answers, or that failed.
    pub in_reply_to: Option<&'a str>,
    /// Which thread of talk it belongs to.
    pub conversation: Option<&'a str>,
    /// Whether each line is wanted as it is printed.
    pub stream: bool,
}

impl Facts<'_> {
    /// The variables.
    pub fn environment(&self) -> [(&'static str, String); 10] {
        let flag = |is_so: bool| if is_so { "1" } else { "0" }.to_owned();
        [
            ("CRABMESH_FROM", self.from.to_string()),
            ("CRABMESH_TO", self.to.to_string()),
            ("CRABMESH_MESSAGE_ID", self.id.to_owned()),
            ("CRABMESH_KIND", self.kind.as_str().to_owned()),
            ("CRABMESH_REPLY_EXPECTED", flag(self.reply_expected)),
            ("CRABMESH_ATTEMPT", self.attempt.to_string()),
            (
                "CRABMESH_IN_REPLY_TO",
                self.in_reply_to.unwrap_or_default().to_owned(),
            ),
            ("CRABMESH_CONTENT_TYPE", self.content_type.to_owned()),
            (
                "CRABMESH_CONVERSATION",
                self.conversation.unwrap_or_default().to_owned(),
            ),
            ("CRABMESH_STREAM", flag(self.stream)),
        ]
    }
}

impl Exec {
    pub(super) fn new(command: &[String], bounds: Bounds) -> Result<Self, AttachError> {
        let wrong = |why: &str| Err(AttachError(why.into()));
        let Some((program, arguments)) = command.split_first() else {
            return wrong("the command is empty");
        };
        if program.is_empty() || command.iter().any(|part| part.contains('\0')) {
            return wrong("the command makes no sense");
        }
        if command.iter().map(String::len).sum::<usize>() > COMMAND_MAX {
            return wrong("the command is too long");
        }
        // Relative to what the node was started in, which nobody knows.
        if program.contains('/') && !program.starts_with('/') {
            return wrong("the program must be a whole path, or a name to be found in PATH");
        }
        Ok(Self {
            program: program.clone(),
            arguments: arguments.to_vec(),
            bounds,
        })
    }

    fn start(&self, job: &Job, stream: bool) -> Result<Child, WorkError> {
        let (id, in_reply_to) = (job.id.to_string(), job.in_reply_to.map(|id| id.to_string()));
        let facts = Facts {
            id: &id,
            kind: job.kind,
            from: &job.from,
            to: &job.to,
            content_type: &job.content_type,
            attempt: job.attempt,
            reply_expected: job.reply_expected,
            in_reply_to: in_reply_to.as_deref(),
            conversation: job.conversation.as_deref(),
            stream,
        };
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(facts.environment())
            // The service manager's word is for the node alone.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command.spawn().map_err(|error| {
            WorkError::unreachable(format!("the command does not start: {}", error.kind()))
        })
    }

    async fn run(&self, job: &Job, mut parts: Parts) -> Result<Done, WorkError> {
        let mut child = self.start(job, parts.wanted())?;
        let group = Group::of(&child);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A command that does not care for the body closes its stdin; that is its right.
                let _ = stdin.write_all(&job.body).await;
            }
            Ok(())
        };
        let read = async {
            match stdout {
                Some(stdout) => printed(stdout, &mut parts).await,
                None => Ok(Vec::new()),
            }
        };
        let complain = async {
            if let Some(stderr) = stderr {
                log(stderr, job).await;
            }
            Ok(())
        };
        // The first that fails ends the others, and with them the command.
        let ((), printed, ()) = tokio::try_join!(write, read, complain)?;
        let status = child.wait().await;
        // From here on the number may be another's.
        group.spare();
        match status {
            Ok(status) if status.success() => Ok(Done::text(Bytes::from(printed))),
            Ok(status) => Err(WorkError::failed(said(status))),
            Err(error) => Err(WorkError::failed(format!("it is lost: {}", error.kind()))),
        }
    }
}

impl Worker for Exec {
    fn work<'a>(&'a self, job: &'a Job, parts: Parts, mut cancelled: Cancelled) -> Working<'a> {
        Box::pin(async move {
            tokio::select! {
                biased;
                () = cancelled.wait() => Err(WorkError::never("cancelled")),
                ran = tokio::time::timeout(self.bounds.timeout, self.run(job, parts)) => {
                    ran.unwrap_or_else(|_| {
                        let seconds = self.bounds.timeout.as_secs();
                        Err(WorkError::failed(format!("killed: not done within {seconds} s")))
                    })
                }
            }
        })
    }

    fn concurrency(&self) -> usize {
        self.bounds.concurrency
    }
}

/// The process group of a command that was not waited for yet; killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its leader is not waited for, so the number is still its own. One that is gone is fine.
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// All that a command prints, each line a part as it comes.
async fn printed(stdout: impl AsyncRead + Unpin, parts: &mut Parts) -> Result<Vec<u8>, WorkError> {
    let mut stdout = BufReader::new(stdout.take(MAX_BODY as u64 + 1));
    let mut printed = Vec::new();
    loop {
        let before = printed.len();
        match stdout.read_until(b'\n', &mut printed).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Err(WorkError::failed("what it prints cannot be read")),
        }
        if printed.len() > MAX_BODY {
            return Err(WorkError::never(format!(
                "it prints more than {MAX_BODY} bytes"
            )));
        }
        if parts.wanted() {
            let line = &printed[before..];
            let part = match std::str::from_utf8(line) {
                Ok(text) => Part::Text(text.to_owned()),
                Err(_) => Part::Bytes(Bytes::copy_from_slice(line)),
            };
            parts.put(part).await;
        }
    }
    Ok(printed)
}

/// What a command complains of goes to the log of whoever looks for it, and no more than a page.
async fn log(stderr: impl AsyncRead + Unpin, job: &Job) {
    let mut stderr = BufReader::new(stderr);
    let mut said = Vec::new();
    if (&mut stderr)
        .take(STDERR_MAX)
        .read_to_end(&mut said)
        .await
        .is_ok()
        && !said.is_empty()
    {
        for line in String::from_utf8_lossy(&said).lines().take(STDERR_LINES) {
            debug!(agent = %job.to.agent, msg = %job.id, stderr = %line.escape_debug());
        }
    }
    // Read on, so that it does not wait for us.
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
}

fn said(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;

    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "it ended oddly".into(),
    }
}

/// Messages at once: most commands are not made to run beside themselves.
pub(super) const CONCURRENCY: usize = 1;

/// What a command may have in all; the kernel takes 32 times as much.
const COMMAND_MAX: usize = 64 << 10;
const STDERR_MAX: u64 = 8 << 10;
const STDERR_LINES: usize = 64;

#[cfg(test)]
pub(super) mod tests;
