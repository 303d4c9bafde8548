//! Processes of a test: run to their end, or in the background until the value is dropped.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// A process in the background. Dropping it kills it, by pid, and reaps it; where a test failed
/// meanwhile, the last that it logged is shown.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    logged: Arc<Mutex<VecDeque<String>>>,
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
    let _ = child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes());
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
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
        assert_eq!(
            self.code, code,
            "{}\n{}{}",
            self.command, self.stdout, self.stderr
        );
        self
    }
}

impl Running {
    /// Starts a command; its standard output is read line by line, of its standard error the last
    /// lines are kept.
    pub fn start(command: &[&str]) -> Self {
        let name = command.join(" ");
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || forward(stdout, &sender));
        let logged = Arc::<Mutex<VecDeque<String>>>::default();
        let log = Arc::clone(&logged);
        std::thread::spawn(move || keep(stderr, &log));
        Self {
            child,
            lines,
            logged,
            command: name,
        }
    }

    /// The next line of its standard output.
    pub fn line(&mut self, within: Duration) -> String {
        self.lines
            .recv_timeout(within)
            .unwrap_or_else(|_| panic!("{} printed nothing within {within:?}", self.command))
    }

    /// Waits until it logs a line with these words.
    pub fn wait_for_log(&self, words: &str, within: Duration) {
        let start = Instant::now();
        while !self.log().contains(words) {
            assert!(
                start.elapsed() < within,
                "{} did not log {words:?}:\n{}",
                self.command,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last that it logged.
    pub fn log(&self) -> String {
        let logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged
            .iter()
            .fold(String::new(), |text, line| text + line + "\n")
    }

    /// The next line, where there is one in time.
    pub fn try_line(&mut self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }

    /// Its process id. `ip netns exec` replaces itself, so it is the command's own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and wait until it is gone.
    pub fn terminate(mut self, within: Duration) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let start = Instant::now();
        while self.child.try_wait().expect("a child").is_none() {
            assert!(start.elapsed() < within, "{} does not end", self.command);
            std::thread::sleep(Duration::from_millis(50));
        }
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
        if std::thread::panicking() && !self.log().is_empty() {
            eprintln!("--- {} logged last:\n{}", self.command, self.log());
        }
    }
}

fn keep(stderr: impl Read, log: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == KEPT_LINES {
            log.pop_front();
        }
        log.push_back(line);
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

/// Of the log of a process in the background.
const KEPT_LINES: usize = 60;
