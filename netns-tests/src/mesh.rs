//! A whole mesh in a lab, made only by the commands that a user types.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::lab::Host;
use crate::process::{Finished, Running, run_with_input};

/// A beacon that was claimed, and the operator's files.
pub struct Mesh {
    /// The public host of the beacon.
    pub beacon_host: Host,
    /// The beacon, unless a test took and killed it.
    pub beacon: Option<Running>,
    state: tempfile::TempDir,
}

/// A gateway that joined, and its agents' tokens.
pub struct Gateway {
    /// Its name in the mesh.
    pub name: String,
    /// Where it runs.
    pub host: Host,
    /// Its state directory.
    pub state: PathBuf,
    /// The node, while it runs.
    pub node: Option<Running>,
}

impl Mesh {
    /// Starts a beacon on this host, claims it and pushes this policy.
    pub fn new(beacon_host: Host, policy: &str) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut mesh = Self { beacon_host, beacon: None, state };
        let mut beacon = mesh.spawn_beacon();
        let line = beacon.line(Duration::from_secs(20));
        let claim = line.strip_prefix("claim ").unwrap_or_else(|| panic!("no claim in {line:?}"));
        mesh.beacon = Some(beacon);
        let address = mesh.address();
        mesh.operator(&["init", "--mesh", "lab", "--beacon", &address, "--claim", claim, "--user", "ana@example.com"], "")
            .expect_success();
        let file = mesh.state.path().join("policy.hujson");
        std::fs::write(&file, policy).expect("written");
        mesh.operator(&["policy", "push", &file.display().to_string()], "").expect_success();
        mesh
    }

    /// The beacon's HOST:PORT.
    pub fn address(&self) -> String {
        format!("{}:4747", self.beacon_host.address)
    }

    /// Starts the beacon again on its state.
    pub fn restart_beacon(&mut self) {
        self.beacon = Some(self.spawn_beacon());
    }

    /// SIGKILL for the beacon.
    pub fn kill_beacon(&mut self) {
        self.beacon = None;
    }

    /// Runs an operator's command on the beacon's host (any host that reaches it would do).
    pub fn operator(&self, arguments: &[&str], input: &str) -> Finished {
        crabmesh(&self.beacon_host, &self.state.path().join("operator-home"), arguments, input)
    }

    /// Invites a gateway with the tag `tag:lab` and lets it join and start on this host.
    pub fn gateway(&self, name: &str, host: &Host) -> Gateway {
        let gateway = self.joined(name, host);
        let mut gateway = gateway;
        gateway.start();
        gateway
    }

    /// Invites a gateway and lets it join, without starting it.
    pub fn joined(&self, name: &str, host: &Host) -> Gateway {
        let token = self.operator(&["invite", "--name", name, "--tag", "tag:lab"], "").expect_success().stdout;
        let state = self.state.path().join(name);
        crabmesh(host, &state, &["join", "-"], &token).expect_success();
        Gateway { name: name.into(), host: host.clone(), state, node: None }
    }

    /// A directory that lives as long as the mesh.
    pub fn scratch(&self) -> &Path {
        self.state.path()
    }

    fn spawn_beacon(&self) -> Running {
        let state = self.state.path().join("beacon-home");
        self.beacon_host.start(&[&binary(), "--state-dir", &state.display().to_string(), "beacon", "--listen", "0.0.0.0:4747"])
    }
}

impl Gateway {
    /// Starts the node and waits until its local API answers.
    pub fn start(&mut self) {
        let mut node = self.host.start(&[&binary(), "--state-dir", &self.state.display().to_string(), "up"]);
        let line = node.line(Duration::from_secs(20));
        assert!(line.starts_with("ready"), "{}: {line:?}", self.name);
        self.node = Some(node);
    }

    /// SIGKILL for the node.
    pub fn kill(&mut self) {
        self.node.take().expect("it runs").kill();
    }

    /// Runs a command against this node.
    pub fn crabmesh(&self, arguments: &[&str], input: &str) -> Finished {
        crabmesh(&self.host, &self.state, arguments, input)
    }

    /// Starts a command against this node in the background.
    pub fn start_crabmesh(&self, arguments: &[&str]) -> Running {
        let state = self.state.display().to_string();
        self.host.start(&[&[&*binary(), "--state-dir", &state], arguments].concat())
    }

    /// Adds an agent, which acts by the admin token from here on.
    pub fn agent(&self, name: &str) {
        self.crabmesh(&["agent", "add", name], "").expect_success();
    }

    /// An agent that answers each request with what it was asked, in upper case.
    pub fn echo_agent(&self, name: &str) -> Running {
        self.agent(name);
        self.start_crabmesh(&["recv", "--as", name, "--follow", "--exec", "tr", "a-z", "A-Z"])
    }

    /// The path to this peer as `status` shows it: `direct`, `relay` or `none`.
    pub fn path_to(&self, peer: &str) -> String {
        let status: serde_json::Value = self.json(&["status", "--json"]);
        let peers = status["peers"].as_array().expect("peers");
        peers
            .iter()
            .find(|entry| entry["name"] == peer)
            .map_or("none".into(), |entry| entry["path"]["kind"].as_str().expect("a kind").into())
    }

    /// Runs a command and reads the JSON that it prints.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let finished = self.crabmesh(arguments, "").expect_success();
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
    }

    /// Waits until the path to this peer is of this kind; how long that took.
    pub fn wait_for_path(&self, peer: &str, kind: &str, within: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let seen = self.path_to(peer);
            if seen == kind {
                return start.elapsed();
            }
            assert!(start.elapsed() < within, "{} to {peer} is {seen}, not {kind}, after {within:?}", self.name);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks an agent and returns its answer.
    pub fn ask(&self, me: &str, to: &str, text: &str) -> String {
        let answer = self.crabmesh(&["send", to, text, "--as", me, "--ask", "--timeout", "30s"], "").expect_success();
        answer.stdout.trim_end().to_owned()
    }
}

/// Runs the binary on a host to its end.
pub fn crabmesh(host: &Host, state: &Path, arguments: &[&str], input: &str) -> Finished {
    let state = state.display().to_string();
    let binary = binary();
    let command = [&["ip", "netns", "exec", &host.namespace, &binary, "--state-dir", &state], arguments].concat();
    run_with_input(&command, input)
}

/// The binary under test: built into the same target directory as this test.
pub fn binary() -> String {
    let here = std::env::current_exe().expect("a test knows its path");
    let path = here.ancestors().nth(2).expect("target/PROFILE/deps/test").join("crabmesh");
    assert!(path.exists(), "{} is missing; run `cargo build --workspace` first", path.display());
    path.display().to_string()
}
