//! How an agent is attached: from options to the words of the API, and back to a line.

use std::path::PathBuf;
use std::time::Duration;

use api::{Timestamp, Worker, WorkerState, WorkerStatus};

use crate::context::{argument_or_stdin, now};
use crate::duration;
use crate::failure::Failure;
use crate::terminal::printable;

/// Without --http, --a2a, --openclaw or --exec the agent calls the API itself: `recv`, or a program of
/// its own.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// Have the node POST each message to URL, signed; what it answers is the reply
    #[arg(long, value_name = "URL", conflicts_with = "exec")]
    pub http: Option<String>,
    /// Have the node post each message to the A2A server whose JSON-RPC endpoint URL is
    #[arg(long, value_name = "URL", conflicts_with_all = ["exec", "http"])]
    pub a2a: Option<String>,
    /// The bearer for --a2a is in FILE (- is stdin), or in CRABMESH_A2A_BEARER
    #[arg(long, value_name = "FILE", requires = "a2a")]
    pub bearer_file: Option<PathBuf>,
    /// Have the node give each message to the OpenClaw gateway of this host: by its A2A channel where
    /// URL is http://, by its WebSocket where it is ws://
    #[arg(long, value_name = "URL", conflicts_with_all = ["exec", "http", "a2a"])]
    pub openclaw: Option<String>,
    /// The agent's id in the OpenClaw gateway [default: main]
    #[arg(long, value_name = "ID", requires = "openclaw")]
    pub openclaw_agent: Option<String>,
    /// How long one message may take [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Messages at once, of different senders [default: 8, 4 with --openclaw, 1 with --exec]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Let --http or --a2a leave this host without TLS: whoever is on the way reads and answers
    #[arg(long, conflicts_with_all = ["exec", "openclaw"])]
    pub insecure_http: bool,
    /// FILE (- is stdin) has the secret that signs, whsec_ and base64; or what the OpenClaw gateway
    /// takes: its token, or the bearer of an A2A peer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["exec", "a2a"])]
    pub secret_file: Option<PathBuf>,
    /// Have the node run CMD for each message, as the node's own user; must be the last option
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    pub exec: Option<Vec<String>>,
}

impl AttachArgs {
    /// The worker, and the secret that was brought.
    pub fn read(self) -> Result<(Option<Worker>, Option<String>), Failure> {
        let mut secret = self.secret_file.as_deref().map(read_secret).transpose()?;
        if self.a2a.is_some() {
            secret = match &self.bearer_file {
                Some(file) => Some(read_secret(file)?),
                None => std::env::var(BEARER).ok().filter(|it| !it.is_empty()),
            };
        }
        let timeout_s = self.timeout.map(|timeout| timeout.as_secs().max(1));
        let concurrency = self.concurrency;
        if let Some(url) = self.openclaw {
            let worker = Worker::Openclaw {
                url,
                agent: self.openclaw_agent,
                timeout_s,
                concurrency,
            };
            return Ok((Some(worker), secret));
        }
        if let Some(url) = self.a2a {
            let worker = Worker::A2a {
                url,
                timeout_s,
                concurrency,
                insecure_http: self.insecure_http,
            };
            return Ok((Some(worker), secret));
        }
        let worker = match (self.http, self.exec) {
            (Some(url), _) => Some(Worker::Http {
                url,
                timeout_s,
                concurrency,
                insecure_http: self.insecure_http,
            }),
            (None, Some(command)) => Some(Worker::Exec {
                command: whole(command)?,
                timeout_s,
                concurrency,
            }),
            (None, None) if timeout_s.is_some() || concurrency.is_some() => {
                return Err(Failure::usage(
                    "--timeout and --concurrency are for --http, --a2a, --openclaw and --exec",
                ));
            }
            (None, None) if secret.is_some() => {
                return Err(Failure::usage("--secret-file is for --http and --openclaw"));
            }
            (None, None) => None,
        };
        Ok((worker, secret))
    }
}

/// The node has another working directory: a path of this one is made whole.
fn whole(mut command: Vec<String>) -> Result<Vec<String>, Failure> {
    if let Some(program) = command.first_mut()
        && program.contains('/')
    {
        let path = std::fs::canonicalize(&*program)
            .map_err(|error| Failure::usage(format!("{}: {error}", printable(program))))?;
        match path.into_os_string().into_string() {
            Ok(path) => *program = path,
            Err(_) => return Err(Failure::usage("the path of the command is not UTF-8")),
        }
    }
    Ok(command)
}

fn read_secret(file: &std::path::Path) -> Result<String, Failure> {
    let bytes = match file.as_os_str() == "-" {
        true => argument_or_stdin("-", SECRET_MAX)?,
        false => std::fs::read(file)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?,
    };
    match String::from_utf8(bytes) {
        Ok(text) if text.len() <= SECRET_MAX => Ok(text.trim().to_owned()),
        _ => Err(Failure::usage("that is no secret")),
    }
}

/// How it is attached, on one line.
pub fn way(worker: Option<&WorkerStatus>) -> String {
    match worker.map(|status| &status.worker) {
        None => "its own calls".to_owned(),
        Some(Worker::Http { url, .. }) => format!("http {}", printable(url)),
        Some(Worker::A2a { url, .. }) => format!("a2a {}", printable(url)),
        Some(Worker::Openclaw { url, agent, .. }) => {
            let agent = agent.as_deref().unwrap_or("main");
            format!("openclaw {} ({})", printable(url), printable(agent))
        }
        Some(Worker::Exec { command, .. }) => {
            let words: Vec<String> = command.iter().map(|word| printable(word)).collect();
            let mut line = format!("exec {}", words.join(" "));
            if line.chars().count() > LINE_MAX {
                line = line.chars().take(LINE_MAX).chain(['…']).collect();
            }
            line
        }
        Some(other) => other.kind().to_owned(),
    }
}

/// How that goes, on one line.
pub fn state(worker: Option<&WorkerStatus>) -> String {
    let Some(status) = worker else {
        return "-".to_owned();
    };
    match (status.state, &status.why) {
        (WorkerState::Ok, _) => "ok".to_owned(),
        (WorkerState::Failing, why) => {
            let why = why
                .as_deref()
                .map_or(String::new(), |why| format!(": {}", printable(why)));
            format!("failing for {}{why}", age(status.since))
        }
    }
}

fn age(since: Timestamp) -> String {
    duration::short(now().0.saturating_sub(since.0 / 1000))
}

/// The longest secret of a webhook has 94 bytes; a bearer may be a token that says much.
const SECRET_MAX: usize = 4096;
/// The variable.
const BEARER: &str = "CRABMESH_A2A_BEARER";
const LINE_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_worker_cannot_steer_a_terminal_nor_fill_it() {
        let status = WorkerStatus {
            worker: Worker::Exec {
                command: vec!["sh".into(), "-c".into(), "\u{1b}[2J".repeat(30)],
                timeout_s: None,
                concurrency: None,
            },
            state: WorkerState::Failing,
            since: Timestamp(0),
            why: Some("exit code 1".into()),
            done: 0,
            retried: 0,
            given_up: 0,
        };

        let line = way(Some(&status));

        assert!(
            !line.contains('\u{1b}') && line.chars().count() == LINE_MAX + 1,
            "{line}"
        );
        assert!(state(Some(&status)).ends_with("d: exit code 1"));
        assert_eq!(
            (way(None), state(None)),
            ("its own calls".into(), "-".into())
        );
    }
}
