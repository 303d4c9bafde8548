//! The binary as an operator meets it: a beacon process, and commands with their exit codes.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A beacon process, ended with the test.
pub struct Beacon {
    child: Child,
    first_line: String,
}

impl Beacon {
    pub fn start(state: &Path, listen: &str) -> Self {
        let mut child = crabmesh(state)
            .args(["--json", "beacon", "--listen", listen])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary");
        let stdout = child.stdout.take().expect("piped");
        let mut first_line = String::new();
        BufReader::new(stdout)
            .read_line(&mut first_line)
            .expect("a line");
        Self { child, first_line }
    }

    pub fn said(&self, field: &str) -> String {
        let said: Value = serde_json::from_str(&self.first_line).expect("JSON");
        said[field].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn crabmesh(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crabmesh"));
    command
        .env_remove("CRABMESH_STATE_DIR")
        .arg("--state-dir")
        .arg(state);
    command
}

pub fn run(state: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = crabmesh(state)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut pipe = child.stdin.take().expect("piped");
    // A command that needs no input may end before it is written.
    if let Err(error) = pipe.write_all(stdin.as_bytes()) {
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    }
    drop(pipe);
    child.wait_with_output().expect("it ends")
}

/// What a command printed that must succeed.
pub fn ok(state: &Path, args: &[&str], stdin: &str) -> String {
    let output = run(state, args, stdin);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// What a command said that must fail with this code.
pub fn fails(state: &Path, code: i32, args: &[&str], stdin: &str) -> String {
    let output = run(state, args, stdin);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}
