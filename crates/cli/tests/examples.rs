//! The programs of `examples/`, as a user runs them, between two gateways on loopback: they answer,
//! ask, pass on refusals, and lose nothing when they or their gateway are killed. And what the node
//! itself serves: `--http` and `--exec`. Where a Python or a Node.js cannot be had, the tests that
//! need it are counted as ignored, by name.

#[path = "support/mesh.rs"]
#[allow(dead_code, reason = "each test takes what it needs")]
mod mesh;
#[path = "support/nodejs.rs"]
mod nodejs;
#[path = "operator/stage.rs"]
mod stage;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use mesh::{Agent, Mesh, until};
use serde_json::Value;

fn main() {
    let mut arguments = Arguments::from_args();
    // They share two gateways.
    arguments.test_threads = Some(1);
    let world: Shared = Arc::default();
    let mut trials: Vec<Trial> = SERVED
        .iter()
        .map(|(name, story)| trial((*name).to_owned(), &world, none(), *story))
        .collect();
    for language in [python(), typescript(arguments.list)] {
        if let Err(why) = &language.program {
            eprintln!("the examples in {} are ignored: {why}", language.name);
        }
        for (name, story) in EXAMPLES {
            let name = format!("{name}_in_{}", language.name);
            trials.push(trial(name, &world, language.clone(), *story));
        }
    }
    let curl = Command::new("curl").arg("--version").output();
    let missing = python().program.is_err() || curl.is_err();
    let page = Trial::test("the_page_does_what_it_says", || {
        follow_the_page();
        Ok(())
    });
    trials.push(page.with_ignored_flag(missing));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // Its processes end with it, and `exit` would not drop it.
    drop(world.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit();
}

type Story = fn(&mut World, &Language);

const EXAMPLES: &[(&str, Story)] = &[
    ("an_agent_answers_and_asks_others", answers_and_asks),
    ("an_agent_passes_a_refusal_on", passes_a_refusal_on),
    ("an_agent_rejects_what_it_does_not_understand", rejects),
    ("an_agent_that_is_killed_loses_nothing", is_killed),
    ("an_agent_outlives_its_gateway", outlives_its_gateway),
    ("an_agent_whose_answer_broke_off_gives_it_again", broke_off),
    ("a_webhook_answers_what_is_signed", webhook),
];

const SERVED: &[(&str, Story)] = &[
    ("a_command_of_the_node_answers", command),
    ("a_worker_that_is_down_is_waited_for", waited_for),
];

fn answers_and_asks(world: &mut World, language: &Language) {
    let coder = world.run(language, "coder");
    let _other = world.serve_echo("tester", "gw-a");

    assert_eq!(world.ask("coder", "hello"), "you said: hello");
    let asked = world.ask("coder", "ask tester@gw-a is it green");
    assert_eq!(asked, "tester@gw-a says: echo is it green");
    drop(coder);
}

fn passes_a_refusal_on(world: &mut World, language: &Language) {
    let _coder = world.run(language, "coder");

    let denied = world.ask("coder", "ask secret@gw-a what is it");

    assert!(denied.contains("(denied)"), "{denied}");
    assert!(denied.contains("the operator may add: "), "{denied}");
}

fn rejects(world: &mut World, language: &Language) {
    let _coder = world.run(language, "coder");
    world.ask("coder", "are you there");

    let send = [
        "send",
        "coder@gw-b",
        "-",
        "--as",
        "planner",
        "--ask",
        "--json",
    ];
    let output = world.crabmesh("gw-a", &send, b"\xff\xfe");

    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["error"]["code"], "rejected", "{answer}");
}

fn is_killed(world: &mut World, language: &Language) {
    let coder = world.run(language, "coder");
    world.ask("coder", "are you there");
    drop(coder);
    let sent = world.send_all("coder", &["one", "two", "three"]);
    // It works on the first, cannot write the answer down, and dies of it.
    let nowhere = world.mesh.at("nowhere").join("journal");
    world.run_with(language, "coder", &nowhere).wait_for_end();

    let _coder = world.run(language, "coder");
    assert_eq!(world.ask("coder", "four"), "you said: four");

    let journal = std::fs::read_to_string(world.journal("coder")).expect("written");
    for id in sent {
        assert_eq!(journal.matches(&id).count(), 1, "{id}: {journal}");
    }
}

fn outlives_its_gateway(world: &mut World, language: &Language) {
    let _coder = world.run(language, "coder");
    world.ask("coder", "are you there");

    world.mesh.kill("gw-b");
    world.mesh.up("gw-b");

    assert_eq!(world.ask("coder", "still there"), "you said: still there");
}

/// The gateway dies with the stream open and the reply call in flight. What the agent left behind
/// there must not take what the next gateway shows.
fn broke_off(world: &mut World, language: &Language) {
    let node = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = node.local_addr().expect("bound");
    let journal = world.mesh.at(&format!("broke-off.{}", language.name));
    let mut program = language.run("agent");
    program
        .env("CRABMESH_TOKEN", "cma_none")
        .env("CRABMESH_API", format!("http://{address}"))
        .env("JOURNAL", journal);
    let log = world.mesh.log("broke-off.program");
    let program = Program::start(program, &log);
    let id = "01a215e3-9eb9-761e-b479-2aaad8b90043";
    let reply = format!("POST /v1/messages/{id}/reply ");

    let stream = shows(&node, id);
    let (call, head) = called(&node);
    assert!(head.starts_with(&reply), "{head}");
    drop(stream);
    std::thread::sleep(Duration::from_millis(50));
    drop(call);
    program.wait_for("will come again");

    let _stream = shows(&node, id);
    let (mut call, head) = called(&node);
    assert!(head.starts_with(&reply), "{head}");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    call.write_all(answer.as_bytes()).expect("written");
}

/// A stream that is asked for, with a message on it.
fn shows(node: &TcpListener, id: &str) -> TcpStream {
    let (mut stream, head) = called(node);
    assert!(head.starts_with("GET /v1/messages/stream "), "{head}");
    let message = format!(
        r#"{{"id":"{id}","kind":"message","from":"planner@gw-a","body":"hi","reply_expected":true,"attempt":1}}"#
    );
    let event = format!("event: message\ndata: {message}\n\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked";
    let text = format!("{head}\r\n\r\n{:x}\r\n{event}\r\n", event.len());
    stream.write_all(text.as_bytes()).expect("written");
    stream
}

/// The next call of an API: its connection, and its first line.
fn called(node: &TcpListener) -> (TcpStream, String) {
    let (stream, _) = node.accept().expect("it comes");
    let mut reader = BufReader::new(stream);
    let (mut first, mut line) = (String::new(), String::new());
    reader.read_line(&mut first).expect("a line");
    while line != "\r\n" {
        line.clear();
        assert_ne!(reader.read_line(&mut line).expect("a line"), 0, "cut off");
    }
    (reader.into_inner(), first)
}

fn webhook(world: &mut World, language: &Language) {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/");
    let added = world.admin("gw-b", &["--json", "agent", "add", "hook", "--http", &url]);
    let added: Value = serde_json::from_str(&added).expect("JSON");
    let secret = added["worker_secret"].as_str().expect("shown once");
    let mut program = language.run("webhook");
    program
        .arg(port.to_string())
        .env("CRABMESH_WEBHOOK_SECRET", secret);
    let hook = Program::start(program, &world.mesh.log("webhook"));
    hook.wait_for("listening");

    assert_eq!(world.ask("hook", "hello"), "planner@gw-a said: hello");

    // Whoever does not hold the secret is nobody.
    let forged = post(
        port,
        "webhook-id: 1\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,AAAA\r\n",
    );
    assert!(forged.starts_with("HTTP/1.1 401"), "{forged}");
    assert!(post(port, "").starts_with("HTTP/1.1 401"));
    let list = world.admin("gw-b", &["agent", "list"]);
    let line = list
        .lines()
        .find(|line| line.starts_with("hook"))
        .expect("listed");
    assert!(line.contains(&url) && line.ends_with("ok"), "{line}");
    assert!(!list.contains("whsec_"));
    world.admin("gw-b", &["agent", "remove", "hook"]);
}

fn command(world: &mut World, _: &Language) {
    let _echo = world.serve_echo("echo", "gw-b");

    assert_eq!(world.ask("echo", "hello"), "echo hello");

    let shown = world.admin("gw-b", &["agent", "show", "echo"]);
    assert!(
        shown.contains("exec sh -c") && shown.contains("ok"),
        "{shown}"
    );
    world.admin(
        "gw-b",
        &["agent", "set", "echo", "--exec", "sh", "-c", "exit 7"],
    );
    let send = [
        "send",
        "echo@gw-b",
        "?",
        "--as",
        "planner",
        "--ask",
        "--timeout",
        "60s",
    ];
    let output = world.crabmesh("gw-a", &send, b"");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("will not do it"),
        "{said}"
    );
    let shown = world.admin("gw-b", &["agent", "show", "echo"]);
    assert!(shown.contains("exit code 7"), "{shown}");
}

fn waited_for(world: &mut World, _: &Language) {
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/");
    world.admin("gw-b", &["agent", "add", "late", "--http", &url]);
    world.known("late@gw-b");
    let asking = {
        let mut ask = stage::crabmesh(&world.mesh.at("gw-a"));
        ask.args(["send", "late@gw-b", "there?", "--as", "planner", "--ask"]);
        ask.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary")
    };
    until("it is said to fail", || {
        let shown = world.admin("gw-b", &["agent", "show", "late"]);
        shown.contains("failing") && shown.contains("connection refused")
    });
    world.mesh.kill("gw-b");
    world.mesh.up("gw-b");

    let listener = TcpListener::bind(("127.0.0.1", port)).expect("bound");
    let (stream, _) = listener.accept().expect("it comes");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).expect("a line") > 2 {
        line.clear();
    }
    let mut body = [0; 6];
    stream.read_exact(&mut body).expect("a body");
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nhere";
    stream
        .get_mut()
        .write_all(answer.as_bytes())
        .expect("written");

    let output = asking.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "here");
    world.admin("gw-b", &["agent", "remove", "late"]);
}

/// Runs every command of `docs/your-own-program.md` on the host that is named beside it, and holds
/// what it prints against what the page shows.
fn follow_the_page() {
    let mesh = Mesh::of_two(OPEN_POLICY);
    let port = free_port().to_string();
    let (mut hosts, mut programs) = (BTreeMap::new(), Vec::new());
    let (mut printed, mut id, mut seen) = (String::new(), String::new(), 0);
    for (kind, text) in blocks(PAGE) {
        let text = text.replace("8080", &port);
        let Some(name) = kind.strip_prefix("sh ") else {
            is_what_was_printed(&kind, &text, &printed);
            continue;
        };
        let host: &mut Host = hosts
            .entry(name.to_owned())
            .or_insert_with(|| Host::new(&mesh, name));
        for line in text.lines() {
            seen += 1;
            let line = line.replace("/ID/", &format!("/{id}/"));
            if line.starts_with(". ") {
                host.before.push_str(&format!("{line}\n"));
            } else if line.starts_with("env ") {
                let log = mesh.log(&format!("page-{}", programs.len()));
                programs.push(Program::start(host.shell(&format!("exec {line}")), &log));
            } else {
                printed = host.done(&line);
            }
            if let Some(first) = printed.split_once(r#""id":""#) {
                id = first.1.chars().take_while(|c| *c != '"').collect();
            }
        }
    }
    assert!(seen >= 16, "commands are gone: {seen}");
}

/// Ids and times are others each time; what is there is not.
fn is_what_was_printed(kind: &str, shown: &str, printed: &str) {
    let firsts = |text: &str| -> Vec<String> {
        let words = text.lines().map(|line| line.split(' ').next());
        words
            .map(|word| word.unwrap_or_default().to_owned())
            .collect()
    };
    match kind {
        "json" => {
            let read = |text: &str| -> Value {
                serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
            };
            assert_eq!(keys(&read(shown)), keys(&read(printed)), "{printed}");
        }
        "text" if shown.starts_with("AGENT ") => {
            assert_eq!(firsts(shown), firsts(printed.trim_end()), "{printed}");
        }
        "text" => assert_eq!(printed.trim_end(), shown),
        other => panic!("nothing tests {other:?}"),
    }
}

/// Every key, with those of the objects within.
fn keys(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat())
            .collect(),
        Value::Array(values) => values.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}

/// A host of the page: a directory, and what was sourced before.
struct Host {
    directory: PathBuf,
    state: PathBuf,
    bin: PathBuf,
    before: String,
}

impl Host {
    fn new(mesh: &Mesh, name: &str) -> Self {
        let (directory, bin) = (mesh.at(&format!("page-{name}")), mesh.at("bin"));
        std::fs::create_dir_all(&directory).expect("made");
        std::fs::create_dir_all(&bin).expect("made");
        // Made by the first host.
        let _ = symlink(mesh::binary(), bin.join("crabmesh"));
        symlink(EXAMPLES_AT, directory.join("examples")).expect("linked");
        Self {
            directory,
            state: mesh.at(name),
            bin,
            before: String::new(),
        }
    }

    fn shell(&self, line: &str) -> Command {
        let path = std::env::var("PATH").expect("a path");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{}{line}", self.before)])
            .current_dir(&self.directory)
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("CRABMESH_STATE_DIR", &self.state)
            .env_remove("CRABMESH_TOKEN")
            .env_remove("CRABMESH_API")
            .stdin(Stdio::null());
        shell
    }

    /// What it printed. Whoever types comes later than a test: until the gateways know what was
    /// added, it is refused and typed again.
    fn done(&self, line: &str) -> String {
        let mut output = self.shell(line).output().expect("a shell");
        until(line, || {
            let refused = String::from_utf8_lossy(&output.stdout).contains("unknown_agent");
            let done = output.status.success() && !refused;
            if !done {
                output = self.shell(line).output().expect("a shell");
            }
            done
        });
        String::from_utf8(output.stdout).expect("text")
    }
}

/// The code blocks: what is behind the fence, and the text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push((kind.to_owned(), text.join("\n")));
        }
    }
    blocks
}

/// Two gateways, and whoever asks.
struct World {
    mesh: Mesh,
    planner: Agent,
}

type Shared = Arc<Mutex<Option<World>>>;

/// What is served goes with it.
struct Served<'a> {
    state: PathBuf,
    name: &'a str,
}

impl World {
    fn new() -> Self {
        let mesh = Mesh::of_two(POLICY);
        let planner = mesh.agent("planner", "gw-a");
        Self { mesh, planner }
    }

    /// Starts an example as an agent of gw-b, added where it is not yet.
    fn run(&mut self, language: &Language, name: &str) -> Program {
        let journal = self.journal(name);
        self.run_with(language, name, &journal)
    }

    fn run_with(&mut self, language: &Language, name: &str, journal: &Path) -> Program {
        let token = self.mesh.at(&format!("{name}.{}", language.name));
        if !token.exists() {
            // Another language's agent of that name goes.
            stage::run(&self.mesh.at("gw-b"), &["agent", "remove", name], "");
            let _ = std::fs::remove_file(self.journal(name));
            let agent = self.mesh.agent(name, "gw-b");
            std::fs::write(&token, format!("{}\n{}", agent.token, agent.api)).expect("written");
        }
        let text = std::fs::read_to_string(&token).expect("written");
        let (token, api) = text.split_once('\n').expect("two lines");
        let mut program = language.run("agent");
        program
            .env("CRABMESH_TOKEN", token)
            .env("CRABMESH_API", api)
            .env("JOURNAL", journal);
        Program::start(program, &self.mesh.log(&format!("{name}.program")))
    }

    fn journal(&self, name: &str) -> PathBuf {
        self.mesh.at(&format!("{name}.jsonl"))
    }

    /// An agent that the node of that gateway serves with a command.
    fn serve_echo<'a>(&self, name: &'a str, gateway: &str) -> Served<'a> {
        let script = "printf 'echo '; cat";
        let add = ["agent", "add", name, "--exec", "sh", "-c", script];
        stage::ok(&self.mesh.at(gateway), &add, "");
        Served {
            state: self.mesh.at(gateway),
            name,
        }
    }

    fn known(&self, address: &str) {
        let list = ["--json", "agents", "--as", "planner"];
        until("it is known", || {
            stage::ok(&self.planner.state, &list, "").contains(&format!("\"{address}\""))
        });
    }

    /// The answer of an agent of gw-b to the planner.
    fn ask(&self, name: &str, question: &str) -> String {
        let to = format!("{name}@gw-b");
        self.known(&to);
        let ask = ["send", &to, question, "--as", "planner", "--ask"];
        stage::ok(&self.planner.state, &ask, "")
    }

    /// Messages that nobody waits for; their ids.
    fn send_all(&self, name: &str, texts: &[&str]) -> Vec<String> {
        let to = format!("{name}@gw-b");
        let send = |text: &&str| {
            let send = ["--json", "send", &to, text, "--as", "planner"];
            let sent: Value =
                serde_json::from_str(&stage::ok(&self.planner.state, &send, "")).expect("JSON");
            sent["id"].as_str().expect("an id").to_owned()
        };
        texts.iter().map(send).collect()
    }

    fn admin(&self, gateway: &str, arguments: &[&str]) -> String {
        stage::ok(&self.mesh.at(gateway), arguments, "")
    }

    fn crabmesh(&self, gateway: &str, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = stage::crabmesh(&self.mesh.at(gateway))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let mut pipe = child.stdin.take().expect("piped");
        // What reads nothing may end before it is written.
        let _ = pipe.write_all(stdin);
        drop(pipe);
        child.wait_with_output().expect("it ends")
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        stage::run(&self.state, &["agent", "remove", self.name], "");
    }
}

/// How the examples of one language are run.
#[derive(Clone)]
struct Language {
    name: &'static str,
    program: Result<PathBuf, String>,
    extension: &'static str,
}

impl Language {
    fn run(&self, example: &str) -> Command {
        let file = format!("{example}.{}", self.extension);
        let file = Path::new(EXAMPLES_AT).join(self.name).join(file);
        let mut command = Command::new(self.program.as_ref().expect("not ignored"));
        command.arg(file);
        command
    }
}

fn python() -> Language {
    let version = "import sys; sys.exit(sys.version_info < (3, 11))";
    let ran = Command::new("python3").args(["-c", version]).output();
    let program = match ran {
        Ok(output) if output.status.success() => Ok("python3".into()),
        Ok(_) => Err("python3 is older than 3.11".into()),
        Err(error) => Err(format!("python3: {error}")),
    };
    Language {
        name: "python",
        program,
        extension: "py",
    }
}

fn typescript(only_listed: bool) -> Language {
    Language {
        name: "typescript",
        program: match only_listed {
            true => Err("it is not asked for".into()),
            false => nodejs::nodejs(),
        },
        extension: "ts",
    }
}

/// A program of the user, killed with the test.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(mut command: Command, log: &Path) -> Self {
        let out = File::create(log).expect("a log");
        let err = out.try_clone().expect("a log");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Self {
            child: child.expect("it runs"),
            log: log.to_owned(),
        }
    }

    fn wait_for_end(mut self) {
        until("it ends", || {
            self.child.try_wait().is_ok_and(|ended| ended.is_some())
        });
    }

    fn wait_for(&self, word: &str) {
        until(word, || {
            std::fs::read_to_string(&self.log).is_ok_and(|log| log.contains(word))
        });
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("--- the program said:\n{log}");
        }
    }
}

fn trial(name: String, world: &Shared, language: Language, story: Story) -> Trial {
    let world = world.clone();
    let missing = language.program.is_err();
    let tell = move || {
        let mut world = world.lock().unwrap_or_else(PoisonError::into_inner);
        story(world.get_or_insert_with(World::new), &language);
        Ok(())
    };
    Trial::test(name, tell).with_ignored_flag(missing)
}

/// For what needs none.
fn none() -> Language {
    Language {
        name: "none",
        program: Ok(PathBuf::new()),
        extension: "",
    }
}

fn post(port: u16, headers: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let head = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n";
    let text = format!("{head}{headers}Content-Length: 2\r\n\r\nhi");
    stream.write_all(text.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("bound").port()
}

const PAGE: &str = include_str!("../../../docs/your-own-program.md");
const EXAMPLES_AT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

const POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [
    {"src": ["agent:planner@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["send", "request"]},
    {"src": ["agent:coder@tag:gateway"], "dst": ["agent:tester@tag:gateway"], "msg": ["request"]},
  ],
}
"#;

const OPEN_POLICY: &str = r#"{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [
    {"src": ["agent:*@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["send", "request"]},
  ],
}
"#;
