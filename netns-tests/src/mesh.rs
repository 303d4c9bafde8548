//! A whole mesh in a lab, made only by the commands that a user types.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::agent::AgentClient;
use crate::cage::Cage;
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
    /// More arguments for `up`.
    pub options: Vec<String>,
    cage: Option<Caged>,
}

/// How a confined gateway's commands begin.
#[derive(Clone)]
struct Caged {
    outer: Vec<String>,
    inner: Vec<String>,
    binary: String,
}

impl Mesh {
    /// Starts a beacon on this host, claims it and pushes this policy.
    pub fn new(beacon_host: Host, policy: &str) -> Self {
        let state = tempfile::tempdir().expect("a temporary directory");
        let mut mesh = Self {
            beacon_host,
            beacon: None,
            state,
        };
        let mut beacon = mesh.spawn_beacon();
        let line = beacon.line(Duration::from_secs(20));
        let claim = line
            .strip_prefix("claim ")
            .unwrap_or_else(|| panic!("no claim in {line:?}"));
        mesh.beacon = Some(beacon);
        let address = mesh.address();
        mesh.operator(
            &[
                "init",
                "--mesh",
                "lab",
                "--beacon",
                &address,
                "--claim",
                claim,
                "--user",
                "ana@example.com",
            ],
            "",
        )
        .expect_success();
        mesh.push(policy);
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
        crabmesh(
            &self.beacon_host,
            &self.state.path().join("operator-home"),
            arguments,
            input,
        )
    }

    /// Invites a gateway with the tag `tag:lab` and lets it join and start on this host.
    pub fn gateway(&self, name: &str, host: &Host) -> Gateway {
        let mut gateway = self.joined(name, host);
        gateway.start();
        gateway
    }

    /// Invites a gateway and lets it join, without starting it.
    pub fn joined(&self, name: &str, host: &Host) -> Gateway {
        self.tagged(name, host, "tag:lab")
    }

    /// Invites a gateway with this tag and lets it join, without starting it.
    pub fn tagged(&self, name: &str, host: &Host, tag: &str) -> Gateway {
        self.enrol(
            Gateway {
                name: name.into(),
                host: host.clone(),
                state: self.state.path().join(name),
                node: None,
                options: Vec::new(),
                cage: None,
            },
            tag,
        )
    }

    /// Invites a gateway and lets it join and start in a cage.
    pub fn caged(&self, name: &str, host: &Host, cage: &Cage) -> Gateway {
        let caged = Caged {
            outer: cage.outer(),
            inner: cage.inner(),
            binary: cage.install(&binary()),
        };
        let mut gateway = self.enrol(
            Gateway {
                name: name.into(),
                host: host.clone(),
                state: cage.state(),
                node: None,
                options: Vec::new(),
                cage: Some(caged),
            },
            "tag:lab",
        );
        gateway.start();
        gateway
    }

    fn enrol(&self, gateway: Gateway, tag: &str) -> Gateway {
        let token = self
            .operator(&["invite", "--name", &gateway.name, "--tag", tag], "")
            .expect_success()
            .stdout;
        gateway.crabmesh(&["join", "-"], &token).expect_success();
        gateway
    }

    /// Pushes another policy.
    pub fn push(&self, policy: &str) {
        let file = self.state.path().join("policy.hujson");
        std::fs::write(&file, policy).expect("written");
        self.operator(&["policy", "push", &file.display().to_string()], "")
            .expect_success();
    }

    /// A directory that lives as long as the mesh.
    pub fn scratch(&self) -> &Path {
        self.state.path()
    }

    /// Starts one more beacon on this host and adds it to the mesh.
    pub fn add_beacon(&self, host: &Host) -> Running {
        let state = self
            .state
            .path()
            .join(&host.namespace)
            .display()
            .to_string();
        let mut beacon = host.start(&[
            &binary(),
            "--state-dir",
            &state,
            "beacon",
            "--listen",
            "0.0.0.0:4747",
        ]);
        let line = beacon.line(STARTED_WITHIN);
        let claim = line
            .strip_prefix("claim ")
            .unwrap_or_else(|| panic!("no claim in {line:?}"));
        let address = format!("{}:4747", host.address);
        self.operator(&["invite", "--beacon", &address, "--claim", claim], "")
            .expect_success();
        beacon
    }

    fn spawn_beacon(&self) -> Running {
        let state = self.state.path().join("beacon-home");
        self.beacon_host.start(&[
            &binary(),
            "--state-dir",
            &state.display().to_string(),
            "beacon",
            "--listen",
            "0.0.0.0:4747",
        ])
    }
}

impl Gateway {
    /// Starts the node and waits until its local API answers.
    pub fn start(&mut self) {
        let outer = self
            .cage
            .as_ref()
            .map(|cage| cage.outer.clone())
            .unwrap_or_default();
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let command = [outer, self.command(&[&["up"], &*options].concat())].concat();
        let mut node = Running::start(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let line = node.line(STARTED_WITHIN);
        assert!(line.starts_with("ready"), "{}: {line:?}", self.name);
        self.node = Some(node);
    }

    /// SIGKILL for the node.
    pub fn kill(&mut self) {
        self.node.take().expect("it runs").kill();
    }

    /// Runs a command against this node.
    pub fn crabmesh(&self, arguments: &[&str], input: &str) -> Finished {
        let command = self.command(arguments);
        run_with_input(
            &command.iter().map(String::as_str).collect::<Vec<_>>(),
            input,
        )
    }

    /// Starts a command against this node in the background.
    pub fn start_crabmesh(&self, arguments: &[&str]) -> Running {
        let command = self.command(arguments);
        Running::start(&command.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs any program where this gateway is: on its host, in its cage.
    pub fn beside(&self, program: &[&str]) -> Finished {
        let command = self
            .place()
            .into_iter()
            .chain(program.iter().map(|word| (*word).to_owned()));
        let command: Vec<String> = command.collect();
        run_with_input(&command.iter().map(String::as_str).collect::<Vec<_>>(), "")
    }

    fn command(&self, arguments: &[&str]) -> Vec<String> {
        let binary = self
            .cage
            .as_ref()
            .map_or_else(binary, |cage| cage.binary.clone());
        let state = self.state.display().to_string();
        let words = [&*binary, "--state-dir", &state]
            .into_iter()
            .chain(arguments.iter().copied());
        self.place()
            .into_iter()
            .chain(words.map(str::to_owned))
            .collect()
    }

    fn place(&self) -> Vec<String> {
        let host = ["ip", "netns", "exec", &self.host.namespace].map(str::to_owned);
        let inner = self
            .cage
            .as_ref()
            .map(|cage| cage.inner.clone())
            .unwrap_or_default();
        host.into_iter().chain(inner).collect()
    }

    /// Adds an agent, which acts by the admin token from here on.
    pub fn agent(&self, name: &str) {
        self.crabmesh(&["agent", "add", name], "").expect_success();
    }

    /// Adds an agent that speaks the API itself, by its own token; each value is a connection.
    pub fn agent_client(&self, name: &str) -> impl Fn() -> AgentClient + use<> {
        let added = self.json(&["agent", "add", name, "--json"]);
        let (state, token) = (
            self.state.clone(),
            added["token"].as_str().expect("a token").to_owned(),
        );
        move || AgentClient::new(&state, &token)
    }

    /// An agent that answers each request with what it was asked, in upper case.
    pub fn echo_agent(&self, name: &str) -> Running {
        self.agent(name);
        self.start_crabmesh(&[
            "recv", "--as", name, "--follow", "--exec", "tr", "a-z", "A-Z",
        ])
    }

    /// The path to this peer as `status` shows it: `direct`, `relay` or `none`.
    pub fn path_to(&self, peer: &str) -> String {
        let status: serde_json::Value = self.json(&["status", "--json"]);
        let peers = status["peers"].as_array().expect("peers");
        peers
            .iter()
            .find(|entry| entry["name"] == peer)
            .map_or("none".into(), |entry| {
                entry["path"]["kind"].as_str().expect("a kind").into()
            })
    }

    /// Runs a command and reads the JSON that it prints.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let finished = self.crabmesh(arguments, "").expect_success();
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
    }

    /// Waits until the path to this peer is of this kind; how long that took.
    pub fn wait_for_path(&self, peer: &str, kind: &str, within: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let seen = self.path_to(peer);
            if seen == kind {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < within,
                "{} to {peer} is {seen}, not {kind}, after {within:?}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until this gateway knows that one and what it may say to it.
    pub fn wait_to_know(&self, peer: &str) {
        let start = Instant::now();
        loop {
            let status = self.json(&["status", "--json"]);
            let known = status["peers"]
                .as_array()
                .is_some_and(|peers| peers.iter().any(|entry| entry["name"] == peer));
            if known && !status["policy"].is_null() {
                return;
            }
            assert!(
                start.elapsed() < KNOWN_WITHIN,
                "{} does not know {peer}: {status:#}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What of the node's resident memory is its own (not pages of its file), and the peak of all of
    /// it, in KiB.
    pub fn memory(&self) -> (u64, u64) {
        let pid = self.node.as_ref().expect("it runs").pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .expect("the kernel tells");
            line.trim()
                .trim_end_matches(" kB")
                .parse()
                .expect("a number")
        };
        (field("RssAnon:"), field("VmHWM:"))
    }

    /// The CPU time that the node has used, user and system.
    pub fn cpu_time(&self) -> Duration {
        let pid = self.node.as_ref().expect("it runs").pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // Fields 14 and 15 of proc(5); the second, in brackets, may hold anything.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .expect("its name")
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11..=12]
            .iter()
            .map(|field| field.parse::<u64>().expect("ticks"))
            .sum();
        Duration::from_millis(ticks * 10) // USER_HZ is 100 on every Linux that we run on
    }

    /// Asks an agent and returns its answer.
    pub fn ask(&self, me: &str, to: &str, text: &str) -> String {
        let answer = self
            .crabmesh(
                &["send", to, text, "--as", me, "--ask", "--timeout", "30s"],
                "",
            )
            .expect_success();
        answer.stdout.trim_end().to_owned()
    }
}

/// Runs the binary on a host to its end.
pub fn crabmesh(host: &Host, state: &Path, arguments: &[&str], input: &str) -> Finished {
    let state = state.display().to_string();
    let binary = binary();
    let command = [
        &[
            "ip",
            "netns",
            "exec",
            &host.namespace,
            &binary,
            "--state-dir",
            &state,
        ],
        arguments,
    ]
    .concat();
    run_with_input(&command, input)
}

/// Everybody may message everybody.
pub const OPEN_POLICY: &str = r#"{
  "tagOwners": {"tag:lab": ["ana@example.com"]},
  "grants": [{"id": "lab", "src": ["agent:*@tag:lab"], "dst": ["agent:*@tag:lab"], "msg": ["send", "request"]}],
  "tests": [{"src": "agent:any@tag:lab", "accept": ["agent:any@tag:lab:request"]}],
}"#;

/// The binary under test: built into the same target directory as this test.
pub fn binary() -> String {
    let here = std::env::current_exe().expect("a test knows its path");
    let path = here
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/test")
        .join("crabmesh");
    assert!(
        path.exists(),
        "{} is missing; run `cargo build --workspace` first",
        path.display()
    );
    path.display().to_string()
}

/// A debug build in a quarter of a busy CPU.
const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// From the start of a gateway until it has the map.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);
