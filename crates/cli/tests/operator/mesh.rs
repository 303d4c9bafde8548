//! A mesh of processes on loopback: an operator, a beacon, gateways.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::stage::{Beacon, crabmesh, ok, run};

/// An operator, his beacon, and a directory for each host.
pub struct Mesh {
    home: tempfile::TempDir,
    pub operator: PathBuf,
    pub beacon: Option<Beacon>,
    pub code: String,
}

/// A gateway process, ended with the test.
pub struct Node(pub Child);

impl Mesh {
    pub fn found(user: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let operator = home.path().join("operator");
        let beacon = Beacon::start(&home.path().join("beacon"), "127.0.0.1:0");
        let (claim, address) = (beacon.said("claim"), beacon.said("listen"));
        let init = [
            "init", "--mesh", "home", "--user", user, "--beacon", &address, "--claim", &claim,
        ];
        let made = run(&operator, &init, "");
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        let code = said
            .lines()
            .find_map(|line| line.strip_prefix("recovery code: "));
        let code = code.unwrap_or_else(|| panic!("{said}")).to_owned();
        ok(&operator, &["policy", "push"], "");
        Self {
            home,
            operator,
            beacon: Some(beacon),
            code,
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn token(&self, name: &str, terms: &[&str]) -> String {
        let invite = [&["invite", "--name", name], terms].concat();
        ok(&self.operator, &invite, "")
    }

    pub fn join(&self, name: &str, terms: &[&str]) {
        ok(&self.at(name), &["join", "-"], &self.token(name, terms));
    }

    pub fn up(&self, name: &str) -> Node {
        let config = self.at("config.json");
        std::fs::write(&config, r#"{"allow_loopback": true, "log": "warn"}"#).expect("written");
        let mut child = crabmesh(&self.at(name))
            .args(["up", "--config"])
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary");
        let stdout = child.stdout.take().expect("piped");
        let mut line = String::new();
        let node = Node(child);
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready");
        node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "not in time: {what}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
