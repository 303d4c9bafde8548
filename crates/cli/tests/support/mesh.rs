//! A beacon, two gateways and their agents, as processes on loopback, each ended with the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::stage::{Beacon, crabmesh, ok, run};

/// The mesh.
pub struct Mesh {
    nodes: Vec<(String, Node)>,
    operator: PathBuf,
    _beacon: Beacon,
    home: tempfile::TempDir,
}

/// An agent and how it proves itself.
pub struct Agent {
    /// `agent@gateway`
    pub address: String,
    /// Its gateway's API on loopback.
    pub api: String,
    /// Its token.
    pub token: String,
    /// The state directory of its gateway.
    pub state: PathBuf,
}

/// A gateway process.
struct Node(Child);

impl Mesh {
    /// Two gateways, `gw-a` and `gw-b`, under this policy.
    pub fn of_two(policy: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let operator = home.path().join("operator");
        let beacon = Beacon::start(&home.path().join("beacon"), "127.0.0.1:0");
        let (claim, address) = (beacon.said("claim"), beacon.said("listen"));
        let user = "ana@example.com";
        let init = [
            "init", "--mesh", "home", "--user", user, "--beacon", &address, "--claim", &claim,
        ];
        ok(&operator, &init, "");
        let file = home.path().join("policy.hujson");
        std::fs::write(&file, policy).expect("written");
        ok(
            &operator,
            &["policy", "push", &file.display().to_string()],
            "",
        );
        let mut mesh = Self {
            nodes: Vec::new(),
            operator,
            _beacon: beacon,
            home,
        };
        for gateway in ["gw-a", "gw-b"] {
            let invite = ["invite", "--name", gateway, "--tag", "tag:gateway"];
            let token = ok(&mesh.operator, &invite, "");
            ok(&mesh.at(gateway), &["join", "-"], &token);
            mesh.up(gateway);
        }
        mesh
    }

    /// The state directory of a gateway, or any other file of the test.
    pub fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Starts a gateway.
    pub fn up(&mut self, gateway: &str) {
        self.up_with(gateway, &[]);
    }

    /// Starts a gateway with these variables.
    pub fn up_with(&mut self, gateway: &str, variables: &[(&str, &str)]) {
        let config = self.at("config.json");
        std::fs::write(&config, r#"{"allow_loopback": true, "log": "debug"}"#).expect("written");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log(gateway))
            .expect("a log");
        let mut child = crabmesh(&self.at(gateway))
            .args(["up", "--config"])
            .arg(&config)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary");
        let stdout = child.stdout.take().expect("piped");
        self.nodes.push((gateway.to_owned(), Node(child)));
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready");
    }

    /// Kills a gateway: SIGKILL.
    pub fn kill(&mut self, gateway: &str) {
        self.nodes.retain(|(name, _)| name != gateway);
    }

    /// Waits until a gateway has ended by itself.
    #[allow(dead_code, reason = "each test takes what it needs")]
    pub fn until_gone(&mut self, gateway: &str) {
        let mut node = self.nodes.iter_mut().filter(|(name, _)| name == gateway);
        let (_, Node(child)) = node.next().expect("it was started");
        until("it ends", || child.try_wait().is_ok_and(|it| it.is_some()));
        self.kill(gateway);
    }

    /// What a gateway has logged.
    pub fn log(&self, gateway: &str) -> PathBuf {
        self.at(&format!("{gateway}.log"))
    }

    /// Adds an agent.
    pub fn agent(&self, name: &str, gateway: &str) -> Agent {
        let state = self.at(gateway);
        let added = json(&ok(&state, &["--json", "agent", "add", name], ""));
        let said = |field: &str| added[field].as_str().unwrap_or_default().to_owned();
        Agent {
            address: format!("{name}@{gateway}"),
            api: said("api"),
            token: said("token"),
            state,
        }
    }

    /// Waits until one agent sees another: gateways tell each other their agents in a session, and
    /// make one when there is something to say.
    pub fn until_known(&self, asker: &Agent, other: &Agent) {
        let name = asker.address.split('@').next().unwrap_or_default();
        until("they know each other", || {
            run(&asker.state, &["ping", &other.address, "--as", name], "");
            ok(&asker.state, &["--json", "agents", "--as", name], "").contains(&other.address)
        });
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
        let patient = begun.elapsed() < Duration::from_secs(30);
        assert!(patient, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The binary that is tested.
#[allow(dead_code, reason = "each test takes what it needs")]
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_crabmesh"))
}
