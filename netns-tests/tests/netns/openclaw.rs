//! Two real OpenClaw gateways, each behind a NAT of its own, joined by `crabmesh connect`. The models
//! are fake and write down each call: one for each message is the promise.

use std::time::{Duration, Instant};

use netns_tests::{Claw, Lab, Mesh, Nat, Running};

use crate::Test;

pub const TESTS: &[Test] = &[
    (
        "two_openclaw_gateways_ask_and_answer_in_one_turn_send_and_are_told_why_not",
        two_openclaw_gateways_talk,
    ),
    (
        "openclaw_loses_nothing_and_repeats_nothing_when_node_gateway_or_both_are_killed_mid_turn",
        openclaw_survives_kills,
    ),
    (
        "openclaw_without_the_plugin_is_written_to_by_a2a_or_websocket_and_asks_by_mcp",
        openclaw_without_the_plugin,
    ),
];

fn two_openclaw_gateways_talk() {
    let (_lab, _mesh, a, b) = pair();

    // In one turn, both ways, by the tools that every turn has.
    let said = a.turn(
        "main",
        r#"CALL mesh_ask {"to": "main@gw-b", "message": "question-1"}"#,
    );
    assert!(said.contains("gw-b says: question-1"), "{said}");
    let said = b.turn(
        "main",
        r#"CALL mesh_ask {"to": "main@gw-a", "message": "question-2"}"#,
    );
    assert!(said.contains("gw-a says: question-2"), "{said}");
    assert!(
        said.contains("text from main@gw-a, another agent; data"),
        "{said}"
    );

    // And by OpenClaw's own, as on any channel.
    let listed = a.turn("main", r#"CALL conversations_list {"channel": "mesh"}"#);
    let reference = listed.split('"').find(|word| word.starts_with("conv_"));
    let reference = reference
        .unwrap_or_else(|| panic!("{listed}"))
        .trim_end_matches('\\');
    let turn = format!(
        r#"CALL conversations_turn {{"conversationRef": "{reference}", "message": "question-3", "timeoutSeconds": 90}}"#
    );
    let said = a.turn("main", &turn);
    assert!(
        said.contains("replied") && said.contains("gw-b says: question-3"),
        "{said}"
    );

    // Without waiting: the answer comes by itself, and is answered by nobody.
    let send = r#"CALL message {"action": "send", "channel": "mesh", "target": "main@gw-b", "message": "question-4"}"#;
    assert!(a.turn("main", send).contains("messageId"));
    a.wait_for_call("gw-b says: question-4", SOON);

    // Who is not there, and who may not be spoken to: told in the turn, with the rule that is missing.
    for (to, words) in [
        ("main@gw-z", "no gateway named gw-z"),
        ("ghost@gw-b", "has nobody to go to"),
        ("ops@gw-b", "This rule is missing in the policy of the mesh"),
        ("ops@gw-b", "agent:ops@gw-b"),
        ("ops@gw-b", "ask your user, or whoever runs the mesh"),
    ] {
        let said = a.turn(
            "main",
            &format!(r#"CALL mesh_ask {{"to": "{to}", "message": "hello"}}"#),
        );
        assert!(said.contains(words), "{to}: {said}");
    }
    // An agent speaks as itself, whatever account it names.
    let posing = r#"CALL message {"action": "send", "channel": "mesh", "accountId": "main", "target": "main@gw-b", "message": "I am main"}"#;
    let said = a.turn("ops", posing);
    assert!(said.contains("agent:ops@gw-a"), "{said}");

    for (claw, question) in [
        (&b, "question-1"),
        (&a, "question-2"),
        (&b, "question-3"),
        (&b, "question-4"),
    ] {
        let asked = claw.told();
        let asked = asked.iter().filter(|text| {
            text.contains("text from main@gw-") && text.contains(&format!("]\n{question}"))
        });
        assert_eq!(asked.count(), 1, "one model call for {question}");
    }
    assert_eq!(b.calls("I am main") + b.calls("hello"), 0);

    // Two that answer everything end by themselves, and hear why.
    a.turn(
        "main",
        r#"CALL mesh_send {"to": "main@gw-b", "message": "PINGPONG", "expect_reply": false}"#,
    );
    let count = quiet(|| a.calls("PINGPONG") + b.calls("PINGPONG"));
    assert!((2..=12).contains(&count), "{count} turns in circles");
    let told = [a.told(), b.told()].concat();
    assert!(
        told.iter().any(|text| text.contains("round in circles")),
        "and say why"
    );
}

fn openclaw_survives_kills() {
    let (_lab, _mesh, a, mut b) = pair();
    assert_eq!(answer(ask(&a, "warm-up")), "gw-b says: warm-up");

    let asked = ask(&a, "SLEEP 6 node-killed");
    b.wait_for_call("node-killed", SOON);
    b.gateway.kill();
    b.gateway.start();
    assert_eq!(answer(asked), "gw-b says: SLEEP 6 node-killed");
    assert_eq!(b.calls("node-killed"), 1, "the turn went on");

    let asked = ask(&a, "SLEEP 6 gateway-killed");
    b.wait_for_call("gateway-killed", SOON);
    b.kill_openclaw();
    b.start_openclaw();
    b.wait();
    assert_eq!(answer(asked), "gw-b says: SLEEP 6 gateway-killed");
    assert_eq!(
        b.calls("gateway-killed"),
        2,
        "the one that was cut off, and its repetition"
    );

    let asked = ask(&a, "SLEEP 6 both-killed");
    b.wait_for_call("both-killed", SOON);
    b.kill_openclaw();
    b.gateway.kill();
    b.gateway.start();
    b.start_openclaw();
    b.wait();
    assert_eq!(answer(asked), "gw-b says: SLEEP 6 both-killed");
    assert_eq!(b.calls("both-killed"), 2);

    b.stop_openclaw();
    let asked = ask(&a, "asked-while-down");
    std::thread::sleep(Duration::from_secs(3));
    b.start_openclaw();
    b.wait();
    assert_eq!(answer(asked), "gw-b says: asked-while-down");
    assert_eq!(b.calls("asked-while-down"), 1);

    // Nothing comes again, and OpenClaw sends nothing of what was cut off by itself.
    let calls = quiet(|| b.told().len());
    assert_eq!(calls, 1 + 1 + 2 + 2 + 1, "{:#?}", b.told());
    assert_eq!(a.told().len(), 0, "{:#?}", a.told());
}

fn openclaw_without_the_plugin() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), POLICY);
    let (home_a, home_b) = (lab.home(Nat::Cone), lab.home(Nat::Symmetric));
    let a = mesh.gateway("gw-a", &home_a.host);
    let mut b = Claw::start_with(&mesh, "gw-b", &home_b.host, &["--without-plugin"]);
    a.crabmesh(
        &["agent", "add", "main", "--exec", "sed", "s/^/heard: /"],
        "",
    )
    .expect_success();
    b.wait();
    b.gateway.wait_to_know("gw-a");
    a.wait_to_know("gw-b");
    let ask = |text: &str| {
        let line = [
            "send",
            "main@gw-b",
            text,
            "--as",
            "main",
            "--ask",
            "--timeout",
            "300s",
        ];
        a.start_crabmesh(&line)
    };
    let listed = |b: &Claw| {
        b.gateway
            .crabmesh(&["agent", "list"], "")
            .expect_success()
            .stdout
    };

    assert!(listed(&b).contains("openclaw http://127.0.0.1:18789 (ops)"));
    assert_eq!(answer(ask("by-channel")), "gw-b says: by-channel");
    let told = b.told().remove(0);
    for words in ["from main@gw-a, verified", "foreign text", "agent=main"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let said = b.turn(
        "main",
        r#"CALL mesh__mesh_ask {"to": "main@gw-a", "text": "by-mcp"}"#,
    );
    assert!(said.contains("heard: by-mcp"), "{said}");

    // A turn that is cut off is run again, elsewhere than where OpenClaw goes on with it by itself.
    let asked = ask("SLEEP 6 cut-off");
    let start = Instant::now();
    while !b.told().iter().any(|text| text.contains("cut-off")) {
        assert!(start.elapsed() < SOON, "{:#?}", b.told());
        std::thread::sleep(Duration::from_millis(100));
    }
    b.kill_openclaw();
    b.start_openclaw();
    b.wait();
    assert_eq!(answer(asked), "gw-b says: SLEEP 6 cut-off");

    b.connect("disconnect", &[]);
    let said = b.connect("connect", &["--websocket"]);
    assert!(!said.contains("a2a"), "{said}");
    // OpenClaw 2026.9.6 does not end an MCP session whose agent has a new token.
    b.stop_openclaw();
    b.start_openclaw();
    b.wait();
    assert!(listed(&b).contains("openclaw ws://127.0.0.1:18789 (main)"));
    // Without marks of ours in the text, the fake model repeats OpenClaw's own last line.
    assert!(answer(ask("by-websocket")).contains("session=agent:main:mesh:gw-a:main"));
    assert!(b.told().iter().any(|text| text.contains("by-websocket")));
}

/// Two homes with an OpenClaw gateway each, that know each other.
fn pair() -> (Lab, Mesh, Claw, Claw) {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), POLICY);
    let (home_a, home_b) = (lab.home(Nat::Cone), lab.home(Nat::Symmetric));
    let a = Claw::start(&mesh, "gw-a", &home_a.host);
    let b = Claw::start(&mesh, "gw-b", &home_b.host);
    a.wait();
    b.wait();
    a.gateway.wait_to_know("gw-b");
    b.gateway.wait_to_know("gw-a");
    (lab, mesh, a, b)
}

/// A question of main@gw-a that waits for its answer.
fn ask(a: &Claw, text: &str) -> Running {
    a.gateway.start_crabmesh(&[
        "send",
        "main@gw-b",
        text,
        "--as",
        "main",
        "--ask",
        "--timeout",
        "300s",
    ])
}

fn answer(mut asked: Running) -> String {
    asked.line(Duration::from_secs(300))
}

/// The number, once it has not changed for a while.
fn quiet(count: impl Fn() -> usize) -> usize {
    let start = Instant::now();
    let mut last = (count(), Instant::now());
    while last.1.elapsed() < QUIET {
        assert!(
            start.elapsed() < Duration::from_secs(180),
            "it does not end: {}",
            last.0
        );
        std::thread::sleep(Duration::from_millis(500));
        let now = count();
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

/// `main` may speak to `main` and to an agent that does not exist; to `ops` nobody may.
const POLICY: &str = r#"{
  "tagOwners": {"tag:lab": ["ana@example.com"]},
  "grants": [
    {"id": "mains-talk", "src": ["agent:main@tag:lab"], "dst": ["agent:main@tag:lab"], "msg": ["send", "request"]},
    {"id": "to-a-ghost", "src": ["agent:main@tag:lab"], "dst": ["agent:ghost@tag:lab"], "msg": ["request"]},
  ],
  "tests": [{"src": "agent:main@tag:lab", "accept": ["agent:main@tag:lab:request"], "deny": ["agent:ops@tag:lab:request"]}],
}"#;

/// A turn on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Far longer than a fake model thinks.
const QUIET: Duration = Duration::from_secs(15);
