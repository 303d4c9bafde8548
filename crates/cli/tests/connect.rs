//! `crabmesh connect openclaw` and `disconnect openclaw`, with a real node and configurations as
//! people write them: what they change, what they leave alone, and how it is taken back.

#[path = "operator/stage.rs"]
mod stage;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use stage::{Beacon, crabmesh, fails, ok, run};

#[test]
fn connecting_puts_every_agent_on_the_mesh_and_disconnecting_takes_all_of_it_back() {
    let node = Node::up();
    let claw = node.claw(HAND_WRITTEN);
    fs::set_permissions(&claw.config, fs::Permissions::from_mode(0o640)).expect("ours");

    let dry = claw.connect(&["--dry-run"]);
    assert_eq!(claw.text(), HAND_WRITTEN);
    assert!(!claw.ours().exists() && node.agents().is_empty());
    let said = claw.connect(&[]);

    let planned: Vec<&str> = dry
        .lines()
        .filter_map(|line| line.strip_prefix("would: "))
        .collect();
    assert!(planned.len() >= 8, "{dry}");
    for change in planned {
        assert!(said.contains(change), "{change} was planned: {said}");
    }
    assert_eq!(node.agents(), ["main", "ops"]);
    let value = claw.value();
    assert_eq!(
        value["channels"]["mesh"],
        json!({"enabled": true, "credentials": claw.credentials(), "agents": ["main", "ops"]})
    );
    assert_eq!(value["channels"]["telegram"], json!({"enabled": false}));
    let paths = &value["plugins"]["load"]["paths"];
    assert_eq!(*paths, json!(["/mine", claw.ours().join("plugin")]));
    assert_eq!(
        value["plugins"]["allow"],
        json!(["mine", "crabmesh"]),
        "a list of what may load has it"
    );
    assert!(
        value["session"].get("dmScope").is_none(),
        "people's sessions are theirs"
    );
    for kept in [
        "// the house",
        "'/mine', // a plugin of mine",
        "/* the end */",
    ] {
        assert!(claw.text().contains(kept), "{}", claw.text());
    }
    assert_eq!(mode(&claw.config), 0o640);
    assert_eq!(mode(&claw.credentials()), 0o600);
    assert_eq!(mode(&claw.ours()), 0o700);
    assert!(claw.ours().join("plugin/src/inbox.js").exists());

    let said = claw.disconnect(&["--dry-run"]);
    assert!(said.contains("would: agent main leaves the mesh"), "{said}");
    assert_eq!(node.agents(), ["main", "ops"]);
    claw.disconnect(&[]);

    assert_eq!(claw.text(), HAND_WRITTEN, "to the byte");
    assert_eq!(mode(&claw.config), 0o640);
    assert!(!claw.ours().exists() && node.agents().is_empty());
    assert!(claw.disconnect(&[]).contains("nothing to take back"));
}

#[test]
fn connecting_twice_changes_nothing_and_heals_what_is_missing() {
    let node = Node::up();
    let claw = node.claw("{}\n");
    claw.connect(&[]);
    let (config, credentials) = (claw.text(), fs::read(claw.credentials()).expect("there"));

    let said = claw.connect(&[]);

    assert_eq!(said, "nothing to change: this gateway is connected");
    assert_eq!(claw.text(), config);
    assert_eq!(fs::read(claw.credentials()).expect("there"), credentials);

    // A token that is worth nothing any more is replaced, a file that is gone is written.
    ok(&node.state, &["agent", "rotate", "main"], "");
    fs::remove_file(claw.ours().join("plugin/index.js")).expect("there");
    let said = claw.connect(&[]);
    assert!(
        said.contains("main was on the mesh already, and has a new token"),
        "{said}"
    );
    assert!(said.contains("1 files"), "{said}");
    assert_ne!(fs::read(claw.credentials()).expect("there"), credentials);
    assert!(claw.connect(&[]).starts_with("nothing to change"));
}

#[test]
fn an_agent_that_was_on_the_mesh_before_stays_on_it() {
    let node = Node::up();
    let claw = node.claw("{agents: {entries: {main: {}, ops: {}}}}");
    ok(&node.state, &["agent", "add", "planner"], "");

    let said = claw.connect(&["--agent", "main=planner"]);

    assert!(
        said.contains("agent main was on the mesh already, and has a new token, as planner"),
        "{said}"
    );
    assert_eq!(node.agents(), ["planner"], "only who was chosen");
    let more = claw.connect(&["--agent", "ops"]);
    assert!(
        more.contains(r#"agents = ["main","ops"] (was ["main"])"#),
        "{more}"
    );
    claw.disconnect(&[]);
    assert_eq!(node.agents(), ["planner"]);
    assert_eq!(claw.text(), "{agents: {entries: {main: {}, ops: {}}}}");
}

#[test]
fn what_the_user_changed_since_stays() {
    let node = Node::up();
    let claw = node.claw(HAND_WRITTEN);
    claw.connect(&[]);
    let changed = claw
        .text()
        .replace(
            "\"enabled\": true,\n",
            "\"enabled\": true, allowFrom: ['*@gw-b'],\n",
        )
        .replace("port: 18789", "port: 18790 /* moved */");
    assert!(
        changed.contains("allowFrom") && changed.contains("moved"),
        "{changed}"
    );
    fs::write(&claw.config, &changed).expect("ours");

    let said = claw.disconnect(&[]);

    assert!(said.contains("channels.mesh is gone, with"), "{said}");
    assert!(
        said.contains("allowFrom"),
        "what went with it is told: {said}"
    );
    let value = claw.value();
    assert_eq!(value["gateway"]["port"], 18790);
    assert_eq!(value["channels"], json!({"telegram": {"enabled": false}}));
    assert_eq!(
        value["plugins"],
        json!({"load": {"paths": ["/mine"]}, "allow": ["mine"]})
    );
    assert!(claw.text().contains("/* moved */") && claw.text().contains("/* the end */"));
}

#[test]
fn what_the_user_has_switched_off_is_not_switched_on() {
    let node = Node::up();
    let text =
        "{plugins: {entries: {crabmesh: {enabled: false}}}, gateway: {reload: {mode: 'off'}}}";
    let claw = node.claw(text);

    let said = claw.connect(&[]);

    assert_eq!(
        claw.value()["plugins"]["entries"]["crabmesh"]["enabled"],
        false
    );
    assert!(said.contains("switched off"), "{said}");
    assert!(said.contains("restart the gateway"), "{said}");
    claw.disconnect(&[]);
    assert_eq!(claw.text(), text);
}

#[test]
fn what_cannot_be_edited_safely_is_left_alone_with_the_lines_to_paste() {
    let node = Node::up();
    for (text, why) in [
        (
            "{channels: {$include: './channels.json5'}}",
            "`$include` is not followed",
        ),
        (
            "{plugins: [], agents: {}}",
            "plugins is not what OpenClaw takes there",
        ),
        (
            "{channels: {}, channels: {mesh: {}}}",
            "channels stands there twice",
        ),
    ] {
        let claw = node.claw(text);
        let ended = run(&node.state, &claw.line("connect", &[]), "");
        let (out, err) = (printed(&ended.stdout), printed(&ended.stderr));

        assert_eq!(ended.status.code(), Some(1), "{text}: {err}");
        assert!(
            err.contains("is not changed") && err.contains(why),
            "{text}: {err}"
        );
        assert!(
            out.contains("paste this into") && out.contains("\"credentials\""),
            "{out}"
        );
        assert_eq!(claw.text(), text);
        claw.disconnect(&[]);
        assert_eq!(claw.text(), text);
    }
}

#[test]
fn a_configuration_that_makes_no_sense_changes_nothing() {
    let node = Node::up();
    for (text, why) in [
        ("{agents: {entries: {main: {}}", "cannot be read as JSON5"),
        ("{a: 1 b: 2}", "cannot be read as JSON5"),
        ("[]", "is not what OpenClaw takes"),
        ("", "is not what OpenClaw takes"),
        (
            "{agents: {$include: './a.json5'}}",
            "`$include` is not followed",
        ),
    ] {
        let claw = node.claw(text);
        let said = fails(&node.state, 1, &claw.line("connect", &[]), "");
        assert!(said.contains(why), "{text}: {said}");
        assert!(said.contains("--agent"), "{text}: {said}");
        assert!(!claw.ours().exists() && node.agents().is_empty());
    }
    let claw = node.claw("{}");
    let said = fails(
        &node.state,
        2,
        &claw.line("connect", &["--agent", "main=No Name"]),
        "",
    );
    assert!(said.contains("names no agent of the mesh"), "{said}");
    fs::remove_file(&claw.config).expect("there");
    let said = fails(&node.state, 2, &claw.line("connect", &[]), "");
    assert!(said.contains("cannot read"), "{said}");
    fs::create_dir(&claw.config).expect("made");
    let said = fails(&node.state, 1, &claw.line("connect", &[]), "");
    assert!(said.contains("cannot read"), "{said}");
}

#[test]
fn a_link_is_followed_and_the_environment_is_read() {
    let node = Node::up();
    let claw = node.claw("{}");
    let link = claw.home.join("link.json");
    symlink(&claw.config, &link).expect("made");

    let ended = crabmesh(&node.state)
        .args(["--json", "connect", "openclaw"])
        .env("OPENCLAW_CONFIG_PATH", &link)
        .env("OPENCLAW_STATE_DIR", &claw.home)
        .output()
        .expect("the binary");

    assert!(ended.status.success(), "{}", printed(&ended.stderr));
    for line in printed(&ended.stdout).lines() {
        let object: Value = serde_json::from_str(line).expect("one object a line");
        assert!(
            object["change"].is_string() || object["remark"].is_string(),
            "{line}"
        );
    }
    assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
    assert!(claw.value()["channels"]["mesh"]["enabled"] == json!(true));
    claw.disconnect(&[]);
    assert_eq!(claw.text(), "{}");
}

#[test]
fn without_the_plugin_the_node_asks_the_gateway_and_the_gateway_the_node() {
    const BEFORE: &str = "{\n  // mine\n  gateway: {port: 18799, auth: {token: 'the-gateways-own'}},\n  agents: {entries: {main: {}, ops: {}}},\n}\n";
    let node = Node::up();
    let claw = node.claw(BEFORE);
    ok(&node.state, &["agent", "add", "ops"], "");
    fs::set_permissions(&claw.config, fs::Permissions::from_mode(0o644)).expect("ours");

    let dry = claw.connect(&["--without-plugin", "--dry-run"]);
    assert_eq!(claw.text(), BEFORE);
    assert!(!claw.ours().exists());
    let said = claw.connect(&["--without-plugin"]);

    assert!(
        said.contains("by its WebSocket: its version is not known"),
        "{said}"
    );
    for change in dry.lines().filter_map(|line| line.strip_prefix("would: ")) {
        assert!(said.contains(change), "{change} was planned: {said}");
    }
    for word in [
        "speaks as main",
        "can be read by others",
        "headers.Authorization = a token",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(
        !said.contains("the-gateways-own") && !said.contains("cma_"),
        "{said}"
    );
    let listed = ok(&node.state, &["agent", "list"], "");
    for way in [
        "openclaw ws://127.0.0.1:18799 (main)",
        "openclaw ws://127.0.0.1:18799 (ops)",
    ] {
        assert!(listed.contains(way), "{listed}");
    }
    let server = &claw.value()["mcp"]["servers"]["mesh"];
    assert_eq!(server["transport"], "streamable-http");
    let credentials = fs::read_to_string(claw.credentials()).expect("there");
    let credentials: Value = serde_json::from_str(&credentials).expect("JSON");
    let token = credentials["agents"]["main"]["token"]
        .as_str()
        .expect("one");
    assert_eq!(
        server["headers"]["Authorization"],
        format!("Bearer {token}")
    );
    assert!(claw.value()["plugins"].is_null() && claw.text().contains("// mine"));

    let (config, again) = (claw.text(), claw.connect(&[]));
    assert!(again.starts_with("nothing to change"), "{again}");
    assert_eq!(claw.text(), config);

    // A new token of the gateway is taken over.
    fs::write(&claw.config, config.replace("the-gateways-own", "another")).expect("ours");
    let said = claw.connect(&[]);
    assert!(said.contains("agent main is served"), "{said}");
    assert!(claw.connect(&[]).starts_with("nothing to change"));

    claw.disconnect(&[]);
    assert_eq!(claw.text(), BEFORE.replace("the-gateways-own", "another"));
    assert_eq!(node.agents(), ["ops"]);
    let listed = ok(&node.state, &["agent", "list"], "");
    assert!(listed.contains("its own calls"), "{listed}");
}

#[test]
fn without_the_plugin_a_gateway_that_has_an_a2a_channel_is_written_to_by_it() {
    const BEFORE: &str = "{\n  // mine\n  gateway: {auth: {token: 'the-gateways-own'}},\n  agents: {entries: {main: {}, ops: {}}},\n  bindings: [{agentId: 'ops', match: {channel: 'telegram'}}],\n  meta: {lastTouchedVersion: '2026.9.6'},\n}\n";
    let node = Node::up();
    let claw = node.claw(BEFORE);

    let dry = claw.connect(&["--without-plugin", "--dry-run"]);
    assert_eq!(claw.text(), BEFORE);
    let said = claw.connect(&["--without-plugin"]);

    let binding = |said: &str| {
        let line = said.lines().find(|line| line.contains("bindings gains"));
        line.map(|line| line.trim_start_matches("would: ").to_owned())
    };
    assert!(binding(&said).is_some() && binding(&dry) == binding(&said));
    let listed = ok(&node.state, &["agent", "list"], "");
    for way in [
        "openclaw http://127.0.0.1:18789 (main)",
        "openclaw http://127.0.0.1:18789 (ops)",
    ] {
        assert!(listed.contains(way), "{listed}");
    }
    let value = claw.value();
    let channel = &value["channels"]["a2a"];
    let (main, ops) = (
        &channel["peers"]["mesh-main"],
        &channel["peers"]["mesh-ops"],
    );
    assert!(main["token"].as_str().is_some_and(|it| it.len() == 64));
    assert_ne!(main, ops, "a bearer for each agent");
    assert_eq!(channel["enabled"], true);
    assert!(
        !said.contains(main["token"].as_str().expect("one")),
        "{said}"
    );
    assert_eq!(
        value["bindings"][2],
        json!({"agentId": "ops", "match": {"channel": "a2a", "peer": {"kind": "direct", "id": "mesh-ops"}}})
    );
    let journal = fs::read_to_string(claw.ours().join("connect.json")).expect("there");
    assert!(!journal.contains("the-gateways-own"), "it is not needed");

    let (config, again) = (claw.text(), claw.connect(&[]));
    assert!(again.starts_with("nothing to change"), "{again}");
    assert_eq!(claw.text(), config);
    assert!(
        claw.connect(&["--agent", "ops"])
            .starts_with("nothing to change")
    );
    let said = fails(&node.state, 2, &claw.line("connect", &["--websocket"]), "");
    assert!(said.contains("connected by its A2A channel"), "{said}");
    // A bearer that somebody changed is taken over.
    let bearer = main["token"].as_str().expect("one");
    fs::write(&claw.config, config.replace(bearer, "another")).expect("ours");
    let said = claw.connect(&[]);
    assert!(said.contains("agent main is served"), "{said}");
    assert!(!said.contains("agent ops is served"), "{said}");
    fs::write(&claw.config, &config).expect("ours");

    claw.disconnect(&[]);
    assert_eq!(claw.text(), BEFORE);
    assert!(node.agents().is_empty());
    let said = claw.connect(&["--websocket"]);
    assert!(said.contains("ws://127.0.0.1:18789"), "{said}");
    assert!(claw.value()["channels"].is_null());
}

#[test]
fn with_the_plugin_an_agent_that_is_served_otherwise_is_left_alone() {
    let node = Node::up();
    let claw = node.claw("{}");
    ok(&node.state, &["agent", "add", "main", "--exec", "cat"], "");

    let said = fails(&node.state, 2, &claw.line("connect", &[]), "");

    assert!(said.contains("served by a worker `exec`"), "{said}");
    assert!(!claw.ours().exists() && claw.text() == "{}");
    claw.connect(&["--agent", "main=planner"]);
    assert_eq!(node.agents(), ["main", "planner"]);
}

#[test]
fn a_gateway_that_loads_no_plugins_is_connected_without_ours() {
    let node = Node::up();
    let claw = node.claw("{plugins: {enabled: false}, gateway: {auth: {mode: 'none'}}}");
    ok(&node.state, &["agent", "add", "main", "--exec", "cat"], "");

    fails(&node.state, 2, &claw.line("connect", &[]), "");
    assert!(!claw.ours().exists(), "what others attached is not touched");
    let said = claw.connect(&["--agent", "main=planner"]);

    assert!(
        said.contains("without the plugin: plugins are switched off"),
        "{said}"
    );
    assert!(!claw.ours().join("plugin").exists());
    assert_eq!(node.agents(), ["main", "planner"]);
    claw.disconnect(&[]);
    assert_eq!(node.agents(), ["main"]);
    let listed = ok(&node.state, &["agent", "list"], "");
    assert!(
        listed.contains("exec cat"),
        "what others attached stays: {listed}"
    );
}

#[test]
fn without_a_node_nothing_happens() {
    let home = tempfile::tempdir().expect("a directory");
    let config = home.path().join("openclaw.json");
    fs::write(&config, "{}").expect("ours");
    let config = config.display().to_string();

    fails(
        home.path(),
        5,
        &["connect", "openclaw", "--config", &config],
        "",
    );

    assert_eq!(fs::read_to_string(&config).expect("there"), "{}");
    assert!(!home.path().join("crabmesh").exists());
}

/// One gateway of a mesh, running.
struct Node {
    state: PathBuf,
    child: Child,
    home: tempfile::TempDir,
    _beacon: Beacon,
}

/// A directory of OpenClaw's.
struct Claw {
    home: PathBuf,
    config: PathBuf,
    node: PathBuf,
}

impl Node {
    fn up() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let operator = home.path().join("operator");
        let beacon = Beacon::start(&home.path().join("beacon"), "127.0.0.1:0");
        let (claim, address) = (beacon.said("claim"), beacon.said("listen"));
        let init = [
            "init",
            "--mesh",
            "home",
            "--user",
            "ana@example.com",
            "--beacon",
            &address,
            "--claim",
            &claim,
        ];
        assert!(run(&operator, &init, "").status.success());
        ok(&operator, &["policy", "push"], "");
        let invite = ["invite", "--name", "gw-a", "--tag", "tag:gateway"];
        let token = ok(&operator, &invite, "");
        let state = home.path().join("gw-a");
        ok(&state, &["join", "-"], &token);
        let settings = home.path().join("config.json");
        fs::write(&settings, r#"{"allow_loopback": true, "log": "warn"}"#).expect("ours");
        let mut child = crabmesh(&state)
            .args(["up", "--config"])
            .arg(&settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        assert_eq!(line.trim(), "ready");
        Self {
            state,
            child,
            home,
            _beacon: beacon,
        }
    }

    fn claw(&self, text: &str) -> Claw {
        let home = tempfile::tempdir_in(self.home.path())
            .expect("a directory")
            .keep();
        let home = home.canonicalize().expect("real");
        let config = home.join("openclaw.json");
        fs::write(&config, text).expect("ours");
        Claw {
            home,
            config,
            node: self.state.clone(),
        }
    }

    fn agents(&self) -> Vec<String> {
        let listed = ok(&self.state, &["--json", "agent", "list"], "");
        let name = |line| -> Value { serde_json::from_str(line).expect("JSON") };
        let names = listed.lines().map(name);
        names
            .map(|agent| agent["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Claw {
    fn line<'a>(&'a self, verb: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let config = self.config.to_str().expect("text");
        [&[verb, "openclaw", "--config", config], more].concat()
    }

    fn connect(&self, more: &[&str]) -> String {
        ok(&self.node, &self.line("connect", more), "")
    }

    fn disconnect(&self, more: &[&str]) -> String {
        ok(&self.node, &self.line("disconnect", more), "")
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.config).expect("there")
    }

    fn value(&self) -> Value {
        let options = jsonc_parser::ParseOptions::default();
        let root = jsonc_parser::cst::CstRootNode::parse(&self.text(), &options);
        root.expect("JSON5").to_serde_value().expect("values")
    }

    fn ours(&self) -> PathBuf {
        self.home.join("crabmesh")
    }

    fn credentials(&self) -> PathBuf {
        self.ours().join("credentials.json")
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

fn printed(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const HAND_WRITTEN: &str = "\
// the house
{
  gateway: { mode: 'local', port: 18789 },
  agents: {
    ownership: \"explicit\",
    entries: { main: {}, ops: { workspace: '~/ops' } },
  },
  plugins: {
    load: {
      paths: [
        '/mine', // a plugin of mine
      ],
    },
    allow: ['mine'],
  },
  session: {},
  channels: { telegram: { enabled: false } },
  /* the end */
}
";
