//! A2A by the unmodified client of PyPI, against two gateways on loopback: every operation in every
//! binding and version, bad input, and what a task is after a kill. Where pip cannot install the
//! client, its tests are counted as ignored, by name.

#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/python.rs"]
mod python;
#[path = "operator/stage.rs"]
mod stage;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use libtest_mimic::{Arguments, Trial};
use mesh::{Agent, Mesh};
use serde_json::Value;

fn main() {
    let mut arguments = Arguments::from_args();
    // They share two gateways.
    arguments.test_threads = Some(1);
    let python = match arguments.list {
        true => Err("it is not asked for".to_owned()),
        false => python::python(&["a2a-sdk==1.3.0"]),
    };
    if let Err(why) = &python {
        eprintln!("what needs the client of PyPI is ignored: {why}");
    }
    let missing = python.is_err();
    let world: Shared = Arc::default();
    let mut trials = Vec::new();
    for (name, story) in STORIES {
        let (world, python) = (world.clone(), python.clone());
        let tell = move || {
            let python = python?;
            let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
            story(world.get_or_insert_with(World::new), &python);
            Ok(())
        };
        trials.push(Trial::test(*name, tell).with_ignored_flag(missing));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Its processes end with it, and `exit` would not drop it.
    drop(world.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit();
}

type Shared = Arc<Mutex<Option<World>>>;
type Story = fn(&mut World, &Path);

const STORIES: &[(&str, Story)] = &[
    ("every_operation_by_jsonrpc", |world, python| {
        world
            .coder()
            .tell(python, "every_operation_by_jsonrpc", &[]);
    }),
    ("every_operation_by_http", |world, python| {
        world.coder().tell(python, "every_operation_by_http", &[]);
    }),
    ("every_operation_by_0_3", |world, python| {
        world.coder().tell(python, "every_operation_by_0_3", &[]);
    }),
    ("all_kinds_of_parts_cross_the_mesh", |world, python| {
        world.coder().tell(python, "lossless", &[]);
    }),
    ("bad_input_is_refused_by_name", bad_input),
    ("what_the_policy_denies_is_rejected", |world, python| {
        world.denied().tell(python, "denied", &[]);
    }),
    ("the_endpoints_are_listed", |world, python| {
        world.coder().tell(python, "endpoints", &[]);
    }),
    ("a_task_outlives_a_kill_of_the_node", outlives_a_kill),
    ("a_kill_at_every_commit_loses_no_answer", kill_points),
    ("an_a2a_server_serves_an_agent", |world, _| {
        // It names who asks beside the text, so that the text crosses the mesh as part of a whole.
        assert_eq!(world.ask_bridge("over the bridge"), "over the bridge");
        assert_eq!(world.worker.seen("over the bridge"), 1);
    }),
    ("a_kill_of_the_node_posts_nothing_twice", posted_once),
    ("no_text_of_an_agent_is_in_a_log", nothing_logged),
];

/// The node that posted to an A2A server is killed while that works, and asks for the task.
fn posted_once(world: &mut World, _: &Path) {
    let question = "slow over the bridge";
    let asking = world.start_asking_bridge(question);
    mesh::until("the server has it", || world.worker.seen(question) == 1);
    world.mesh.kill("gw-a");
    std::thread::sleep(std::time::Duration::from_secs(1));
    world.mesh.up("gw-a");
    let ended = asking.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(said.trim(), question);
    assert_eq!(world.worker.seen(question), 1, "posted twice");
}

fn bad_input(world: &mut World, python: &Path) {
    // A task of another agent, at the same endpoint.
    let other = Asked {
        asker: &world.tester,
        to: &world.worker.agent,
    };
    let foreign = other.tell(python, "ask", &["slow", "m-foreign"]);
    world.coder().tell(python, "bad_input", &[&foreign]);
}

/// The asking node is killed while the far agent works; the answer comes while it is down.
fn outlives_a_kill(world: &mut World, python: &Path) {
    let asked = ["slow through a kill", "m-kill"];
    let id = world.coder().tell(python, "ask", &asked);
    world.mesh.kill("gw-a");
    world.mesh.up("gw-a");
    let told = [
        &id,
        "m-kill",
        "ECHO slow through a kill",
        "slow through a kill",
    ];
    world.coder().tell(python, "answered", &told);
    // Sent once, and no answer is left over for the agent's own inbox.
    assert_eq!(world.worker.seen(asked[0]), 1);
    assert_eq!(world.inbox(), "");
}

/// The asking node kills itself round each commit of a task; the client asks again with the same id.
fn kill_points(world: &mut World, python: &Path) {
    for (n, point) in [
        "before-task-commit:1",
        "after-task-commit:1",
        "before-task-commit:2",
        "after-task-commit:2",
        "before-outbox-commit:1",
        "after-outbox-commit:1",
        "after-stored-write:1",
    ]
    .iter()
    .enumerate()
    {
        world.mesh.kill("gw-a");
        world.mesh.up_with("gw-a", &[("CRABMESH_CRASH_AT", point)]);
        let (question, message) = (format!("at point {n}"), format!("m-point-{n}"));
        world
            .coder()
            .try_tell(python, "ask", &[&question, &message]);
        world.mesh.until_gone("gw-a");
        world.mesh.up("gw-a");
        let id = world.coder().tell(python, "ask", &[&question, &message]);
        let answer = format!("ECHO {question}");
        let told = [&id, message.as_str(), &answer, &question];
        world.coder().tell(python, "answered", &told);
        assert_eq!(world.worker.seen(&question), 1, "{point}");
        assert_eq!(
            world.inbox(),
            "",
            "{point}: an answer was shown after it was stored"
        );
    }
}

fn nothing_logged(world: &mut World, _: &Path) {
    for gateway in ["gw-a", "gw-b"] {
        let log = std::fs::read_to_string(world.mesh.log(gateway)).expect("a log");
        for said in ["ECHO", "2+2?", "slow", "cma_"] {
            assert!(!log.contains(said), "{gateway} logged {said}");
        }
    }
}

/// Two gateways: planner and tester on the one ask coder on the other, which answers by itself.
struct World {
    mesh: Mesh,
    planner: Agent,
    tester: Agent,
    guard: Agent,
    worker: Worker,
}

/// An agent that asks another.
struct Asked<'a> {
    asker: &'a Agent,
    to: &'a Agent,
}

impl World {
    fn new() -> Self {
        let mesh = Mesh::of_two(POLICY);
        let planner = mesh.agent("planner", "gw-a");
        let tester = mesh.agent("tester", "gw-a");
        let coder = mesh.agent("coder", "gw-b");
        let guard = mesh.agent("guard", "gw-b");
        mesh.until_known(&planner, &coder);
        mesh.until_known(&tester, &coder);
        Self {
            worker: Worker::start(coder),
            mesh,
            planner,
            tester,
            guard,
        }
    }

    fn coder(&self) -> Asked<'_> {
        Asked {
            asker: &self.planner,
            to: &self.worker.agent,
        }
    }

    /// `bridge` on gw-a, which the node serves by an A2A server: its own, as tester, to coder.
    fn attach_bridge(&self) {
        let name = ["agent", "show", "bridge"];
        if stage::run(&self.planner.state, &name, "").status.success() {
            return;
        }
        let url = format!("{}/a2a/gw-b/coder", self.tester.api);
        let add = [
            "agent",
            "add",
            "bridge",
            "--a2a",
            &url,
            "--bearer-file",
            "-",
        ];
        stage::ok(&self.planner.state, &add, &self.tester.token);
        let list = stage::ok(&self.planner.state, &["agent", "list"], "");
        assert!(list.contains(&format!("a2a {url}")), "{list}");
        assert!(!list.contains(&self.tester.token));
    }

    fn ask_bridge(&self, question: &str) -> String {
        let asking = self.start_asking_bridge(question);
        let ended = asking.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&ended.stdout).trim().to_owned()
    }

    fn start_asking_bridge(&self, question: &str) -> Child {
        self.attach_bridge();
        let ask = [
            "send",
            "bridge@gw-a",
            question,
            "--as",
            "guard",
            "--ask",
            "--timeout",
            "60s",
        ];
        stage::crabmesh(&self.guard.state)
            .args(ask)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary")
    }

    fn denied(&self) -> Asked<'_> {
        Asked {
            asker: &self.planner,
            to: &self.guard,
        }
    }

    /// What waits in planner's own inbox.
    fn inbox(&self) -> String {
        let recv = ["--json", "recv", "--as", "planner"];
        stage::ok(&self.planner.state, &recv, "")
    }
}

impl Asked<'_> {
    /// One run of the client, which must succeed; what it printed.
    fn tell(&self, python: &Path, story: &str, more: &[&str]) -> String {
        let (ok, said, stderr) = self.run(python, story, more);
        assert!(ok, "{story}: {stderr}");
        said
    }

    /// One run that may fail, as its gateway does.
    fn try_tell(&self, python: &Path, story: &str, more: &[&str]) {
        self.run(python, story, more);
    }

    fn run(&self, python: &Path, story: &str, more: &[&str]) -> (bool, String, String) {
        let client = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/a2a_client.py");
        let (agent, gateway) = self.to.address.split_once('@').expect("an address");
        let output = Command::new(python)
            .arg(client)
            .args([story, &self.asker.api, &self.asker.token, gateway, agent])
            .args(more)
            .output()
            .expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        (
            output.status.success(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }
}

/// `coder`, which echoes: by `crabmesh recv --follow` and `crabmesh reply`, as any program would.
struct Worker {
    agent: Agent,
    follower: Child,
    thread: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    fn start(agent: Agent) -> Self {
        let mut follower = stage::crabmesh(&agent.state)
            .args(["--json", "recv", "--as", "coder", "--follow"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary");
        let lines = BufReader::new(follower.stdout.take().expect("piped"));
        let (state, seen) = (agent.state.clone(), Arc::<Mutex<Vec<String>>>::default());
        let told = seen.clone();
        let thread = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let message: Value = serde_json::from_str(&line).expect("JSON");
                if message["kind"] != "message" {
                    // One that was taken back.
                    continue;
                }
                let body = message["body"].as_str().unwrap_or_default().to_owned();
                told.lock().expect("whole").push(body.clone());
                answer(&state, &message, body);
            }
        });
        Self {
            agent,
            follower,
            thread: Some(thread),
            seen,
        }
    }

    /// How often it was asked that.
    fn seen(&self, question: &str) -> usize {
        let seen = self.seen.lock().expect("whole");
        seen.iter().filter(|body| body.contains(question)).count()
    }
}

fn answer(state: &Path, message: &Value, body: String) {
    let id = message["id"].as_str().expect("an id");
    let content_type = message["content_type"].as_str().unwrap_or_default();
    if body == "never" {
        return;
    }
    if body.contains("slow") {
        std::thread::sleep(std::time::Duration::from_millis(800));
    }
    let whole = content_type == "application/vnd.a2a.message+json";
    let (said, kind) = match whole {
        true => (body, content_type),
        false => (format!("ECHO {body}"), "text/plain"),
    };
    let reply = ["reply", id, "-", "--as", "coder", "--content-type", kind];
    // Taken back meanwhile, or its gateway is being killed: it comes again, or it does not.
    stage::run(state, &reply, &said);
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.follower.kill();
        let _ = self.follower.wait();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [
    {"src": ["agent:planner@tag:gateway", "agent:tester@tag:gateway"], "dst": ["agent:coder@tag:gateway", "agent:ghost@tag:gateway"], "msg": ["request"]},
    {"src": ["agent:guard@tag:gateway"], "dst": ["agent:bridge@tag:gateway"], "msg": ["request"]},
  ],
}
"#;
