//! The README is run: every command of its `sh` blocks, in its order, as it is written there, by a
//! shell, against real processes on this host. What is replaced is what the README leaves to the
//! reader: the beacon's address, its claim, and which host one is on (a directory of its own).

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const README: &str = include_str!("../../../README.md");

#[test]
fn every_command_of_the_readme_does_what_it_says() {
    let mut commands: VecDeque<String> = blocks("sh")
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned))
        .collect();
    let stage = Stage::new();
    let mut next = |wanted: &str| match commands.pop_front() {
        Some(command) => assert_eq!(command, wanted, "the README says otherwise than this test"),
        None => panic!("the README no longer says {wanted:?}"),
    };

    // Two minutes, one machine.
    next("cargo run -- demo");
    let demo = stage.done("demo", "crabmesh demo");
    assert!(demo.contains("That was a mesh"), "{demo}");
    next("./test.sh"); // Runs this.

    // Two hosts and a beacon.
    next("crabmesh beacon --listen 0.0.0.0:4747");
    let (_beacon, line) = stage.start(
        "beacon",
        &stage.at_hand("crabmesh beacon --listen 0.0.0.0:4747"),
    );
    let claim = line
        .strip_prefix("claim ")
        .unwrap_or_else(|| panic!("no claim: {line:?}"));
    next(
        "crabmesh init --mesh home --beacon beacon.example.com:4747 --claim C --user ana@example.com",
    );
    let init = "crabmesh init --mesh home --beacon beacon.example.com:4747 --claim C --user ana@example.com";
    let init = stage
        .at_hand(init)
        .replace("--claim C", &format!("--claim {claim}"));
    let steps = stage.done("operator", &init);
    assert!(
        steps.contains("1. ") && steps.contains("policy push"),
        "{steps}"
    );
    next("crabmesh policy push");
    stage.done("operator", "crabmesh policy push");
    for gateway in ["gw-a", "gw-b"] {
        let invite =
            format!("crabmesh invite --name {gateway} --tag tag:gateway > {gateway}.token");
        next(&invite);
        stage.done("operator", &invite);
        stage.carry("operator", gateway, &format!("{gateway}.token"));
    }
    next("crabmesh join - < gw-a.token");
    next("crabmesh up");
    next("crabmesh agent add planner");
    let mut nodes = Vec::new();
    for (gateway, agent) in [("gw-a", "planner"), ("gw-b", "coder")] {
        stage.done(gateway, &format!("crabmesh join - < {gateway}.token"));
        let (node, ready) = stage.start(gateway, "crabmesh up");
        assert_eq!(ready, "ready");
        nodes.push(node);
        let added = stage.done(gateway, &format!("crabmesh agent add {agent}"));
        assert!(added.contains("CRABMESH_TOKEN="), "{added}");
    }
    next("crabmesh recv --as coder --follow --exec ./answer.sh");
    stage.program(
        "gw-b",
        "answer.sh",
        "#!/bin/sh\nread -r question\necho \"$question none\"\n",
    );
    let _coder = stage.spawn(
        "gw-b",
        "crabmesh recv --as coder --follow --exec ./answer.sh",
    );
    next("crabmesh send coder@gw-b 'which tests fail?' --as planner --ask");
    // Who types it comes later than a test.
    let answer = stage.done_in_time(
        "gw-a",
        "crabmesh send coder@gw-b 'which tests fail?' --as planner --ask",
    );
    assert_eq!(answer.trim_end(), "which tests fail? none");
    next("crabmesh status");
    let status = stage.done("gw-a", "crabmesh status");
    assert!(status.contains("gw-b"), "{status}");

    // Your agents.
    next("crabmesh agents");
    // The other gateway tells within a second or two who has come.
    let begun = Instant::now();
    let mut agents = stage.done("gw-a", "crabmesh agents");
    while !agents.contains("coder") && begun.elapsed() < Duration::from_secs(20) {
        agents = stage.done("gw-a", "crabmesh agents");
    }
    assert!(agents.contains("coder"), "{agents}");
    let ask = "crabmesh send coder@gw-b 'explain the build' --as planner --ask --stream";
    next(ask);
    assert_eq!(stage.done("gw-a", ask).trim_end(), "explain the build none");

    // The policy.
    for verb in [
        "check",
        "test",
        "matrix",
        "push --dry-run",
        "push",
        "history",
    ] {
        next(&format!("crabmesh policy {verb}"));
        stage.done("operator", &format!("crabmesh policy {verb}"));
    }
    next("crabmesh policy show");
    let shown = stage.done("gw-a", "crabmesh policy show");
    assert!(shown.contains("\"grants\""), "{shown}");

    // The kill switch.
    next("crabmesh kill agent coder@gw-b");
    let said = stage.done("operator", "crabmesh kill agent coder@gw-b");
    assert!(said.contains("agent:coder@gw-b is killed"), "{said}");
    next("crabmesh kill all --except gw-a --out kill.txt");
    stage.done("operator", "crabmesh kill all --except gw-a --out kill.txt");
    stage.carry("operator", "gw-a", "kill.txt");
    next("crabmesh kill --apply kill.txt");
    let said = stage.done("gw-a", "crabmesh kill --apply kill.txt");
    assert!(said.contains("in force here"), "{said}");
    let status = stage.done("gw-a", "crabmesh status");
    assert!(status.contains("killed     everyone except"), "{status}");

    assert!(commands.is_empty(), "no test runs {commands:?}");
}

#[test]
fn the_policy_of_the_readme_passes_its_own_tests() {
    for text in blocks("jsonc") {
        let (document, warnings) =
            policy::Document::parse("README.md", &text).unwrap_or_else(|said| panic!("{said:?}"));
        assert!(warnings.is_empty(), "{warnings:?}");
        let report = policy::Policy::run_tests(&document, &[], identity::UnixTime(1_800_000_000));
        assert!(
            report.passed() && !report.outcomes.is_empty(),
            "{:?}",
            report.outcomes
        );
    }
    assert_eq!(blocks("jsonc").len(), 1);
}

#[test]
fn what_the_readme_links_to_is_there() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let targets: Vec<&str> = README
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    assert!(!targets.is_empty());
    for target in targets
        .iter()
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
    {
        assert!(root.join(target).exists(), "{target}");
    }
}

/// A directory for each host, and `crabmesh` on the path.
struct Stage {
    home: tempfile::TempDir,
    beacon: String,
}

/// A process of the stage; ended, by its pid, when dropped.
struct Actor(Child);

impl Stage {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(home.path().join("bin")).expect("made");
        symlink(
            env!("CARGO_BIN_EXE_crabmesh"),
            home.path().join("bin/crabmesh"),
        )
        .expect("linked");
        for host in ["demo", "beacon", "operator", "gw-a", "gw-b"] {
            std::fs::create_dir(home.path().join(host)).expect("made");
        }
        Self {
            home,
            beacon: format!("127.0.0.1:{}", free_port()),
        }
    }

    /// The command with the address of our beacon.
    fn at_hand(&self, command: &str) -> String {
        command
            .replace("0.0.0.0:4747", &self.beacon)
            .replace("beacon.example.com:4747", &self.beacon)
    }

    /// Runs a command on a host; what it printed.
    fn done(&self, host: &str, command: &str) -> String {
        let output = self.run(host, command);
        assert!(
            output.status.success(),
            "{host}$ {command}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// As [`Self::done`], again until it succeeds.
    fn done_in_time(&self, host: &str, command: &str) -> String {
        let start = Instant::now();
        while start.elapsed() < WITHIN {
            let output = self.run(host, command);
            if output.status.success() {
                return String::from_utf8(output.stdout).expect("text");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.done(host, command)
    }

    fn run(&self, host: &str, command: &str) -> Output {
        self.shell(host, command)
            .stdin(Stdio::null())
            .output()
            .expect("a shell")
    }

    /// Starts a command on a host, and waits for its first line.
    fn start(&self, host: &str, command: &str) -> (Actor, String) {
        let mut actor = self.spawn(host, command);
        let mut lines = BufReader::new(actor.0.stdout.take().expect("piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("readable");
        // Whoever prints more must not meet a closed pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        (actor, line.trim_end().to_owned())
    }

    fn spawn(&self, host: &str, command: &str) -> Actor {
        let log =
            std::fs::File::create(self.home.path().join(format!("{host}.log"))).expect("made");
        // `exec`, so that the shell's pid is the command's.
        let mut shell = self.shell(host, &format!("exec {command}"));
        Actor(
            shell
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(log)
                .spawn()
                .expect("a shell"),
        )
    }

    fn shell(&self, host: &str, command: &str) -> Command {
        let path = format!(
            "{}:{}",
            self.path("bin").display(),
            std::env::var("PATH").expect("a path")
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(self.path(host));
        shell
            .env("PATH", path)
            .env("CRABMESH_STATE_DIR", self.path(host).join("state"));
        shell
            .env_remove("CRABMESH_TOKEN")
            .env_remove("CRABMESH_API")
            .env_remove("NOTIFY_SOCKET");
        shell
    }

    fn carry(&self, from: &str, to: &str, file: &str) {
        std::fs::copy(self.path(from).join(file), self.path(to).join(file)).expect("carried");
    }

    fn program(&self, host: &str, name: &str, text: &str) {
        let path = self.path(host).join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for host in ["beacon", "gw-a", "gw-b"] {
            let log =
                std::fs::read_to_string(self.path(&format!("{host}.log"))).unwrap_or_default();
            eprintln!("--- {host} logged:\n{log}");
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // One that has ended already needs no signal.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The code blocks of one language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}");
    let mut blocks = Vec::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        if line == fence {
            blocks.push(
                lines
                    .by_ref()
                    .take_while(|line| *line != "```")
                    .collect::<Vec<_>>()
                    .join("\n"),
            );
        }
    }
    blocks
}

/// A port that is free for UDP and TCP alike.
fn free_port() -> u16 {
    let free = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let address = socket.local_addr().ok()?;
        TcpListener::bind(address).ok().map(|_| address.port())
    };
    (0..100)
        .find_map(|_| free())
        .expect("a port that is free for UDP and TCP")
}

const WITHIN: Duration = Duration::from_secs(30);
