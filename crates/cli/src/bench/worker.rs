//! A child process in a [`role`](super::role): it gets orders on stdin, one a line, and answers
//! each with one JSON object on stdout. It ends with its stdin, at the latest.

use std::ffi::OsStr;
use std::io::BufRead;
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::cores::{self, Side};
use crate::failure::Failure;

/// The parent's end.
pub struct Worker {
    role: String,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Killed with this.
    child: Child,
}

impl Worker {
    /// Starts one; its arguments are those of the command line after `bench`.
    pub fn start<S: AsRef<OsStr>>(state: Option<&OsStr>, arguments: &[S]) -> Result<Self, Failure> {
        let role = arguments.first().map_or_else(String::new, |role| {
            role.as_ref().to_string_lossy().into_owned()
        });
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        // Nothing of the caller's own mesh may leak in.
        for name in [
            "CRABMESH_STATE_DIR",
            "CRABMESH_TOKEN",
            "CRABMESH_API",
            "NOTIFY_SOCKET",
        ] {
            command.env_remove(name);
        }
        if let Some(state) = state {
            command.arg("--state-dir").arg(state);
        }
        let mut child = command
            .arg("bench")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot start {role}: {error}")))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Self {
                role,
                stdin,
                stdout: BufReader::new(stdout),
                child,
            }),
            _ => Err(Failure::failed("a child without pipes")),
        }
    }

    /// Keeps it on the core of its side.
    pub fn keep(&self, side: Side) -> Result<(), Failure> {
        cores::keep(self.child.id(), side)
    }

    /// What it says next.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stdout.read_line(&mut line)).await;
        match read {
            Ok(Ok(1..)) => serde_json::from_str(&line)
                .map_err(|error| Failure::failed(format!("{} said {line:?}: {error}", self.role))),
            Ok(Ok(0)) => Err(Failure::failed(format!("{} ended early", self.role))),
            Ok(Err(error)) => Err(Failure::failed(format!(
                "cannot hear {}: {error}",
                self.role
            ))),
            Err(_) => Err(Failure::failed(format!(
                "{} did not answer in time",
                self.role
            ))),
        }
    }

    /// Gives an order, without waiting.
    pub async fn tell(&mut self, order: &str) -> Result<(), Failure> {
        self.stdin
            .write_all(format!("{order}\n").as_bytes())
            .await?;
        Ok(())
    }

    /// Gives an order, and waits for its answer.
    pub async fn ask<T: DeserializeOwned>(&mut self, order: &str) -> Result<T, Failure> {
        self.tell(order).await?;
        self.hear().await
    }
}

/// The child's end: orders as they come.
pub fn orders() -> mpsc::Receiver<String> {
    let (orders, received) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if orders.blocking_send(line).is_err() {
                return;
            }
        }
    });
    received
}

/// The longest order: a gigabyte on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
