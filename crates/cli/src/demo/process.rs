//! The demo's stage: a temporary directory, and the processes in it. Whoever was started is ended,
//! by its own pid.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::failure::Failure;
use crate::output::note;

/// Where it all happens.
pub struct Stage {
    home: PathBuf,
    program: PathBuf,
    keep: bool,
    actors: Vec<Actor>,
}

/// One process that stays until the end.
struct Actor {
    name: String,
    child: Child,
    /// Kept open: an actor that prints must not meet a closed pipe.
    _stdout: Option<BufReader<ChildStdout>>,
}

/// What a command that ended has left.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Stage {
    /// An empty one.
    pub fn build(keep: bool) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("cannot find this program: {error}")))?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| Failure::failed(error.to_string()))?;
        let home =
            std::env::temp_dir().join(format!("crabmesh-demo-{:016x}", u64::from_ne_bytes(random)));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&home)
            .map_err(|error| Failure::failed(format!("cannot make {}: {error}", home.display())))?;
        Ok(Self {
            home,
            program,
            keep,
            actors: Vec::new(),
        })
    }

    /// A file or directory of the stage.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Puts a file there.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        fs::write(&path, text).map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", path.display()))
        })?;
        Ok(path)
    }

    /// Starts a command that stays, with the state of `name`; its log goes to a file.
    pub async fn start<S: AsRef<OsStr>>(
        &mut self,
        name: &str,
        state: &str,
        arguments: &[S],
        first_line: Option<&str>,
    ) -> Result<String, Failure> {
        let log = File::create(self.path(&format!("{name}.log")))
            .map_err(|error| Failure::failed(format!("cannot write a log: {error}")))?;
        let mut child = self
            .command(state)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(if first_line.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stderr(log)
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot start {name}: {error}")))?;
        let mut stdout = child.stdout.take().map(BufReader::new);
        let mut line = String::new();
        let mut told = Ok(());
        if let (Some(stdout), Some(wanted)) = (&mut stdout, first_line) {
            let read = tokio::time::timeout(STARTED_WITHIN, stdout.read_line(&mut line)).await;
            told = match read {
                Ok(Ok(_)) if line.starts_with(wanted) => Ok(()),
                Ok(Ok(0)) => Err(Failure::failed(format!(
                    "{name} ended before it said `{wanted}`"
                ))),
                Ok(Ok(_)) => Err(Failure::failed(format!(
                    "{name} said {:?} instead of `{wanted}`",
                    line.trim()
                ))),
                Ok(Err(error)) => Err(Failure::failed(format!("cannot hear {name}: {error}"))),
                Err(_) => Err(Failure::failed(format!(
                    "{name} did not say `{wanted}` in time"
                ))),
            };
        }
        self.actors.push(Actor {
            name: name.to_owned(),
            child,
            _stdout: stdout,
        });
        told.map(|()| line.trim().to_owned())
    }

    /// The process id of a command that stays.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.actors
            .iter()
            .find(|actor| actor.name == name)?
            .child
            .id()
    }

    /// Ends a command that stays.
    pub async fn end(&mut self, name: &str) -> Result<(), Failure> {
        let at = self.actors.iter().position(|actor| actor.name == name);
        let mut actor = match at {
            Some(at) => self.actors.remove(at),
            None => return Err(Failure::failed(format!("{name} does not run"))),
        };
        actor.terminate();
        tokio::time::timeout(ENDED_WITHIN, actor.child.wait())
            .await
            .map_err(|_| Failure::failed(format!("{name} did not end by itself")))?
            .map(drop)
            .map_err(|error| Failure::failed(format!("cannot hear {name}: {error}")))
    }

    /// Runs a command to its end.
    pub async fn run<S: AsRef<OsStr>>(
        &self,
        state: &str,
        arguments: &[S],
        stdin: &str,
    ) -> Result<Ended, Failure> {
        let mut child = self
            .command(state)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot run a command: {error}")))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A command that reads nothing closes its stdin.
            let _ = pipe.write_all(stdin.as_bytes()).await;
        }
        let output = child
            .wait_with_output()
            .await
            .map_err(|error| Failure::failed(format!("cannot hear a command: {error}")))?;
        Ok(Ended {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        })
    }

    /// As [`Self::run`]; anything but exit 0 ends the demo.
    pub async fn done<S: AsRef<OsStr>>(
        &self,
        state: &str,
        arguments: &[S],
        stdin: &str,
    ) -> Result<String, Failure> {
        let ended = self.run(state, arguments, stdin).await?;
        match ended.code {
            Some(0) => Ok(ended.stdout),
            code => {
                // The first words only: what follows may be a token.
                let words: Vec<_> = arguments
                    .iter()
                    .take(2)
                    .map(|a| a.as_ref().to_string_lossy())
                    .collect();
                let code = code.map_or("a signal".to_owned(), |code| format!("exit {code}"));
                Err(Failure::failed(format!(
                    "`crabmesh {}` ended with {code}: {}",
                    words.join(" "),
                    ended.stderr
                )))
            }
        }
    }

    /// The ends of the logs, for whoever wants to know why it failed.
    pub fn show_logs(&self) {
        for actor in &self.actors {
            let log = tail(&self.path(&format!("{}.log", actor.name))).unwrap_or_default();
            if !log.trim().is_empty() {
                note(format!("--- {} said last:\n{}", actor.name, log.trim_end()));
            }
        }
    }

    /// Ends every process and removes the directory.
    pub async fn strike(mut self) {
        self.actors.iter().rev().for_each(Actor::terminate);
        for actor in &mut self.actors {
            if tokio::time::timeout(ENDED_WITHIN, actor.child.wait())
                .await
                .is_err()
            {
                note(format!("{} did not end by itself", actor.name));
                // It is being killed; nothing is left to do where that fails.
                let _ = actor.child.kill().await;
            }
        }
        if self.keep {
            note(format!(
                "the state and the logs are in {}",
                self.home.display()
            ));
        } else if let Err(error) = fs::remove_dir_all(&self.home) {
            note(format!("cannot remove {}: {error}", self.home.display()));
        }
    }

    fn command(&self, state: &str) -> Command {
        let mut command = Command::new(&self.program);
        // Nothing of the caller's own mesh may leak in.
        for name in [
            "CRABMESH_STATE_DIR",
            "CRABMESH_TOKEN",
            "CRABMESH_API",
            "NOTIFY_SOCKET",
        ] {
            command.env_remove(name);
        }
        command
            .arg("--state-dir")
            .arg(self.path(state))
            .kill_on_drop(true);
        command
    }
}

impl Actor {
    /// One that has ended already needs no signal.
    fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

const STARTED_WITHIN: Duration = Duration::from_secs(30);
const ENDED_WITHIN: Duration = Duration::from_secs(5);
const LOG_TAIL: u64 = 2000;
