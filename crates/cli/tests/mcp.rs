//! The node's `/mcp` and `crabmesh mcp`, by the unmodified client of PyPI: over both transports, in
//! a session (2025-11-25) and without one (2026-07-28). What no such client sends is sent by hand.
//! Where pip cannot install the client, its tests are counted as ignored, by name.

#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/python.rs"]
mod python;
#[path = "operator/stage.rs"]
mod stage;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};
use mesh::{Agent, Mesh};
use serde_json::{Value, json};

fn main() {
    let mut arguments = Arguments::from_args();
    // They share two gateways and their agents.
    arguments.test_threads = Some(1);
    let python = match arguments.list {
        true => Err("it is not asked for".to_owned()),
        false => python::python(&["mcp==2.3.0"]),
    };
    if let Err(why) = &python {
        eprintln!("what needs the client of PyPI is ignored: {why}");
    }
    let missing = python.is_err();
    let world: Shared = Arc::default();
    let mut trials = Vec::new();
    for story in STORIES {
        for transport in ["http", "stdio"] {
            for mode in ["legacy", "auto"] {
                let (world, python) = (world.clone(), python.clone());
                let tell = move || {
                    let python = python?;
                    act(&world, |world| world.tell(&python, story, transport, mode));
                    Ok(())
                };
                let name = format!("{story}_over_{transport}_{mode}");
                trials.push(Trial::test(name, tell).with_ignored_flag(missing));
            }
        }
    }
    for (name, story) in BY_HAND {
        let world = world.clone();
        let tell = move || {
            act(&world, story);
            Ok(())
        };
        trials.push(Trial::test(*name, tell));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Its processes end with it, and `exit` would not drop it.
    drop(lock(&world).take());
    conclusion.exit();
}

/// What the client of PyPI does, in `clients/mcp_client.py`.
const STORIES: &[&str] = &[
    "tools_are_typed",
    "agents_talk",
    "an_answer_is_heard_while_it_is_made",
    "refusals_can_be_acted_on",
    "an_endless_talk_is_ended",
    "a_call_is_taken_back",
    "bad_input_is_refused",
    "a_restart_is_not_felt",
];

/// What is sent by hand.
const BY_HAND: &[Story] = &[
    ("a_line_that_is_no_message_is_answered", no_message),
    (
        "with_the_node_down_a_tool_says_so_and_calls_go_on_when_it_is_back",
        node_down,
    ),
    (
        "a_question_that_a_killed_node_was_asked_is_not_repeated",
        killed_mid_ask,
    ),
    ("a_wrong_token_is_told", wrong_token),
    ("no_text_of_an_agent_is_in_a_log", nothing_logged),
];

fn no_message(world: &mut World) {
    let mut bridge = world.bridge();

    bridge.write("{");
    assert_eq!(bridge.read()["error"]["code"], -32700);
    bridge.write(&"a".repeat(3 << 20));
    assert_eq!(bridge.read()["error"]["code"], -32700);
    bridge.write("");
    bridge.write("[]");
    bridge.initialize();
    bridge.write(r#"{"jsonrpc": "2.0", "id": "x", "method": "no/such"}"#);
    let answer = bridge.read();
    assert_eq!(
        (&answer["id"], &answer["error"]["code"]),
        (&json!("x"), &json!(-32601))
    );
    bridge.write(r#"{"jsonrpc": "2.0", "id": 9, "method": "ping"}"#);
    assert_eq!(
        bridge.read(),
        json!({"jsonrpc": "2.0", "id": 9, "result": {}})
    );
    // A script that writes all at once and closes the pipe has its answers too.
    let mut script = world.bridge();
    script.write(&initialize().to_string());
    script.write(r#"{"jsonrpc": "2.0", "method": "notifications/initialized"}"#);
    script.call(2, "mesh_agents", &json!({}));
    script.input = None;
    assert_eq!(script.read()["id"], 1);
    let agents = script.read();
    assert_eq!(agents["result"]["isError"], false, "{agents}");
    assert_eq!(script.end(), "");
}

fn node_down(world: &mut World) {
    let mut bridge = world.bridge();
    bridge.initialize();
    world.mesh.kill("gw-a");

    bridge.call(
        2,
        "mesh_send",
        &json!({"to": "coder@gw-b", "text": "after the restart"}),
    );
    std::thread::sleep(std::time::Duration::from_millis(300));
    world.mesh.up("gw-a");

    let answer = bridge.read();
    assert_eq!(
        (&answer["id"], &answer["result"]["isError"]),
        (&json!(2), &json!(false)),
        "{answer}"
    );
    let said = bridge.end();
    assert!(said.contains("waiting for it"), "{said}");
    assert!(said.contains("beginning another"), "{said}");
    world.drain();
}

fn killed_mid_ask(world: &mut World) {
    let mut bridge = world.bridge();
    bridge.initialize();
    bridge.call(
        2,
        "mesh_ask",
        &json!({"to": "coder@gw-b", "text": "?", "timeout_s": 60}),
    );
    let coder = world.coder.state.clone();
    let mut asked = String::new();
    mesh::until("the question is there", || {
        asked = stage::ok(&coder, &["--json", "recv", "--as", "coder", "--ack"], "");
        !asked.is_empty()
    });

    world.mesh.kill("gw-a");

    let answer = bridge.read();
    let words = answer["result"]["content"][0]["text"]
        .as_str()
        .unwrap_or_default();
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    assert!(words.contains("do not repeat it"), "{words}");
    world.mesh.up("gw-a");
    // A call that is harmless is made in another session, by itself.
    bridge.call(3, "mesh_agents", &json!({}));
    assert_eq!(bridge.read()["result"]["isError"], false);
    let again = stage::ok(&coder, &["--json", "recv", "--as", "coder"], "");
    assert!(again.is_empty(), "it was asked twice: {again}");
}

fn wrong_token(world: &mut World) {
    let mut bridge = world.bridge_with("cma_wrong");

    bridge.write(&initialize().to_string());

    let answer = bridge.read();
    let words = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(words.contains("valid token"), "{answer}");
    let said = bridge.end();
    assert!(
        said.contains("401") && !said.contains("cma_wrong"),
        "{said}"
    );
}

/// The gateways of these tests log at `debug`.
fn nothing_logged(world: &mut World) {
    let mut bridge = world.bridge();
    bridge.initialize();
    bridge.call(
        2,
        "mesh_send",
        &json!({"to": "coder@gw-b", "text": "a-very-private-word"}),
    );
    assert_eq!(bridge.read()["result"]["isError"], false);
    world.drain();

    for gateway in ["gw-a", "gw-b"] {
        let log = std::fs::read_to_string(world.mesh.log(gateway)).expect("a log");
        assert!(log.contains("DEBUG"), "it is no log at debug");
        for word in [
            "a-very-private-word",
            &world.planner.token,
            &world.coder.token,
        ] {
            assert!(!log.contains(word), "{gateway} logs what it carries");
        }
    }
}

/// A name that is a sentence, and what shows it.
type Story = (&'static str, fn(&mut World));

type Shared = Arc<Mutex<Option<World>>>;

/// Two gateways with an agent each, who may write to each other.
struct World {
    mesh: Mesh,
    planner: Agent,
    coder: Agent,
}

/// A `crabmesh mcp` that the test holds both ends of.
struct Bridge {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: tempfile::NamedTempFile,
}

fn act(world: &Shared, story: impl FnOnce(&mut World)) {
    story(lock(world).get_or_insert_with(World::found));
}

fn lock(world: &Shared) -> std::sync::MutexGuard<'_, Option<World>> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn found() -> Self {
        let mesh = Mesh::of_two(POLICY);
        let planner = mesh.agent("planner", "gw-a");
        let coder = mesh.agent("coder", "gw-b");
        mesh.agent("closed", "gw-b");
        mesh.until_known(&planner, &coder);
        mesh.until_known(&coder, &planner);
        Self {
            mesh,
            planner,
            coder,
        }
    }

    /// Runs the client of PyPI; it may ask for a restart of the planner's gateway.
    fn tell(&mut self, python: &Path, story: &str, transport: &str, mode: &str) {
        let who =
            |agent: &Agent| json!({"api": agent.api, "token": agent.token, "state": agent.state});
        let told = json!({
            "story": story, "transport": transport, "mode": mode,
            "crabmesh": mesh::binary(), "planner": who(&self.planner), "coder": who(&self.coder),
        });
        let errors = tempfile::NamedTempFile::new().expect("a file");
        let mut child = Command::new(python)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/clients/mcp_client.py"
            ))
            .env("CRABMESH_TEST", told.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen().expect("a file"))
            .spawn()
            .expect("python");
        let mut input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        for line in output.lines() {
            if line.expect("text") == "restart" {
                self.mesh.kill("gw-a");
                self.mesh.up("gw-a");
                writeln!(input, "restarted").expect("it listens");
            }
        }
        let status = child.wait().expect("it ends");
        let said = std::fs::read_to_string(errors.path()).unwrap_or_default();
        assert!(status.success(), "{status}\n{said}");
    }

    fn bridge(&self) -> Bridge {
        self.bridge_with(&self.planner.token)
    }

    fn bridge_with(&self, token: &str) -> Bridge {
        let errors = tempfile::NamedTempFile::new().expect("a file");
        let mut child = stage::crabmesh(&self.planner.state)
            .args(["mcp", "--as", "planner"])
            .env("CRABMESH_TOKEN", token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.reopen().expect("a file"))
            .spawn()
            .expect("the binary");
        Bridge {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("piped")),
            child,
            errors,
        }
    }

    /// Takes whatever waits for the coder, at least one message.
    fn drain(&self) {
        let recv = ["--json", "recv", "--as", "coder", "--ack"];
        mesh::until("something is there", || {
            !stage::ok(&self.coder.state, &recv, "").is_empty()
        });
    }
}

impl Bridge {
    fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{line}").expect("it listens");
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn initialize(&mut self) {
        self.write(&initialize().to_string());
        // What was refused before may be answered in between.
        while self.read()["result"]["serverInfo"]["name"] != "crabmesh" {}
        self.write(r#"{"jsonrpc": "2.0", "method": "notifications/initialized"}"#);
    }

    fn call(&mut self, id: u32, tool: &str, arguments: &Value) {
        let params = json!({"name": tool, "arguments": arguments});
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        self.write(&call.to_string());
    }

    /// Closes its input, so that it ends; what it said on stderr.
    fn end(&mut self) -> String {
        self.input = None;
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}");
        std::fs::read_to_string(self.errors.path()).unwrap_or_default()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "by hand", "version": "1"},
    }})
}

const POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [
    {"src": ["agent:planner@tag:gateway"], "dst": ["agent:coder@tag:gateway"], "msg": ["send", "request", "stream"]},
    {"src": ["agent:coder@tag:gateway"], "dst": ["agent:planner@tag:gateway"], "msg": ["send", "request"]},
    {"src": ["agent:planner@tag:gateway"], "dst": ["agent:nobody@tag:gateway"], "msg": ["request"]},
  ],
}"#;
