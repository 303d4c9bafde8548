//! Answers in parts, loops and messages that are taken back, between two gateways: seen from the
//! binary, also while a gateway is killed.

#[path = "support/mesh.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod mesh;
#[path = "operator/stage.rs"]
mod stage;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::mesh::{Agent, Mesh, until};
use crate::stage::{crabmesh, ok, run};

const POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [{"src": ["agent:*@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["send", "request", "stream"]}],
}"#;

/// Twenty lines in two seconds.
const SLOW: &str =
    "read -r q; i=1; while [ $i -le 20 ]; do echo \"$i $q\"; i=$((i+1)); sleep 0.1; done";

#[test]
fn an_answer_comes_line_by_line_and_is_printed_once() {
    let (mesh, planner, _coder) = mesh();
    let _worker = exec(&mesh, "gw-b", "coder", SLOW);

    let mut asking = ask(&planner, "tokens", &["--stream"]);
    let stdout = BufReader::new(asking.stdout.take().expect("piped"));
    let mut lines = stdout.lines().map(|line| line.expect("text"));

    assert_eq!(lines.next().as_deref(), Some("1 tokens"));
    assert!(
        asking.try_wait().expect("a child").is_none(),
        "the first line is there while the rest is made"
    );
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest.len(), 19, "{rest:?}");
    assert_eq!(rest.last().map(String::as_str), Some("20 tokens"));
    assert!(asking.wait().expect("ended").success());
}

#[test]
fn parts_outlive_a_kill_of_the_asking_gateway() {
    let (mut mesh, planner, _coder) = mesh();
    let _worker = exec(&mesh, "gw-b", "coder", SLOW);
    let mut asking = ask(&planner, "tokens", &["--stream"]);
    let stdout = BufReader::new(asking.stdout.take().expect("piped"));
    let mut lines = stdout.lines().map(|line| line.expect("text"));
    assert_eq!(lines.next().as_deref(), Some("1 tokens"));

    mesh.kill("gw-a");
    mesh.up("gw-a");

    let rest: Vec<_> = lines.collect();
    assert!(asking.wait().expect("ended").success());
    let wanted: Vec<_> = (2..=20).map(|n| format!("{n} tokens")).collect();
    assert_eq!(rest, wanted, "each once, in order");
}

#[test]
fn an_answer_whose_gateway_is_killed_comes_whole_all_the_same() {
    let (mut mesh, planner, _coder) = mesh();
    let _worker = exec(&mesh, "gw-b", "coder", SLOW);
    let mut asking = ask(&planner, "tokens", &["--stream"]);
    let stdout = BufReader::new(asking.stdout.take().expect("piped"));
    let mut lines = stdout.lines().map(|line| line.expect("text"));
    assert_eq!(lines.next().as_deref(), Some("1 tokens"));

    mesh.kill("gw-b");
    mesh.up("gw-b");

    let all: Vec<_> = lines.collect();
    assert_eq!(all.last().map(String::as_str), Some("20 tokens"), "{all:?}");
    assert!(asking.wait().expect("ended").success());
}

#[test]
fn a_command_ends_when_its_message_is_taken_back() {
    let (mesh, planner, _coder) = mesh();
    let flag = mesh.at("ended");
    let trap = format!("echo began > {0}.began; exec sleep 120", flag.display());
    let _worker = exec(&mesh, "gw-b", "coder", &trap);
    let ask = [
        "send",
        "coder@gw-b",
        "go",
        "--as",
        "planner",
        "--ask",
        "--timeout",
        "1s",
    ];
    let asked = text(run(&planner.state, &ask, "").stdout);
    let id = asked.split_whitespace().nth(1).expect("the id").to_owned();
    until("the command runs", || mesh.at("ended.began").exists());

    let taken = ok(&planner.state, &["cancel", &id, "--as", "planner"], "");
    assert_eq!(taken.trim(), format!("cancelled {id}"));

    // The heartbeat of the command's runner hears of it, within ten seconds.
    until("the command is ended", || !is_running("sleep 120"));
    let again = ok(&planner.state, &["cancel", &id, "--as", "planner"], "");
    assert_eq!(again.trim(), format!("cancelled {id}"));
}

#[test]
fn two_commands_that_answer_everything_stop_after_twelve_messages() {
    let (mesh, planner, _coder) = mesh();
    let binary = mesh::binary().display();
    let answer = |as_agent: &str, to: &str| {
        let state = mesh.at(if as_agent == "planner" {
            "gw-a"
        } else {
            "gw-b"
        });
        format!(
            "cat >/dev/null; {binary} --state-dir {} send {to} pong --as {as_agent} >>{log} 2>&1",
            state.display(),
            log = mesh.at(&format!("{as_agent}.said")).display()
        )
    };
    let _planner = exec(&mesh, "gw-a", "planner", &answer("planner", "coder@gw-b"));
    let _coder = exec(&mesh, "gw-b", "coder", &answer("coder", "planner@gw-a"));

    run(
        &planner.state,
        &["send", "coder@gw-b", "ping", "--as", "planner"],
        "",
    );

    let said = |agent: &str| {
        std::fs::read_to_string(mesh.at(&format!("{agent}.said"))).unwrap_or_default()
    };
    until("one of them is stopped", || {
        said("planner").contains("went back and forth")
            || said("coder").contains("went back and forth")
    });
    let sent = |text: String| {
        text.lines()
            .filter(|line| line.starts_with("accepted"))
            .count()
    };
    let all = 1 + sent(said("planner")) + sent(said("coder"));
    assert!(all <= 12, "{all} messages");
    assert!(
        all >= 11,
        "{all} messages: {} {}",
        said("planner"),
        said("coder")
    );
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

/// `planner@gw-a` and `coder@gw-b`, who know each other.
fn mesh() -> (Mesh, Agent, Agent) {
    let mesh = Mesh::of_two(POLICY);
    let (planner, coder) = (mesh.agent("planner", "gw-a"), mesh.agent("coder", "gw-b"));
    mesh.until_known(&planner, &coder);
    mesh.until_known(&coder, &planner);
    (mesh, planner, coder)
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exec(mesh: &Mesh, gateway: &str, agent: &str, script: &str) -> Running {
    let child = crabmesh(&mesh.at(gateway))
        .args([
            "recv", "--as", agent, "--follow", "--exec", "sh", "-c", script,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary");
    Running(child)
}

fn ask(planner: &Agent, text: &str, more: &[&str]) -> Child {
    crabmesh(&planner.state)
        .args(["send", "coder@gw-b", text, "--as", "planner", "--ask"])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary")
}

/// Whether a process with these arguments, begun by a shell of this test, is there.
fn is_running(arguments: &str) -> bool {
    let wanted = arguments.replace(' ', "\0") + "\0";
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    let running = lines.filter(|line| line == wanted.as_bytes()).count() > 0;
    std::thread::sleep(Duration::from_millis(100));
    running
}
