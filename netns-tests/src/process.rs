//! Processes of a test: run to their end, or in the background until the value is dropped.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A process in the background. Dropping it kills it, by pid, and reaps it.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    command: String,
}

/// A process that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    command: String,
}

/// Runs a command to its end.
pub fn run(command: &[&str]) -> Finished {
    run_with_input(command, "")
}

/// Runs a command to its end, with this on its standard input.
pub fn run_with_input(command: &[&str], input: &str) -> Finished {
    use std::io::Write;
    let name = command.join(" ");
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    // A command that never reads its input closes the pipe: that is its choice.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{name}: {error}"));
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        command: name,
    }
}

impl Finished {
    /// Panics, with all that it printed, unless it ended with 0.
    pub fn expect_success(self) -> Self {
        self.expect_code(0)
    }

    /// Panics, with all that it printed, unless it ended with this code.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}{}", self.command, self.stdout, self.stderr);
        self
    }
}

impl Running {
    /// Starts a command; its standard output is read line by line, its standard error goes to the
    /// test's own.
    pub fn start(command: &[&str]) -> Self {
        let name = command.join(" ");
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || forward(stdout, &sender));
        Self { child, lines, command: name }
    }

    /// The next line of its standard output.
    pub fn line(&mut self, within: Duration) -> String {
        self.lines
            .recv_timeout(within)
            .unwrap_or_else(|_| panic!("{} printed nothing within {within:?}", self.command))
    }

    /// The next line, where there is one in time.
    pub fn try_line(&mut self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }

    /// Its process id. `ip netns exec` replaces itself, so it is the command's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn forward(stdout: impl Read, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        if lines.send(line).is_err() {
            return;
        }
    }
}
