//! The kill switch with no beacon to carry it.

use std::time::{Duration, Instant};

use netns_tests::{Gateway, Lab, Mesh, Nat, OPEN_POLICY};

use crate::Test;

pub const TESTS: &[Test] = &[(
    "with_the_beacon_dead_a_kill_brought_to_one_gateway_is_obeyed_by_both",
    a_kill_brought_to_one_gateway_is_obeyed_by_both,
)];

fn a_kill_brought_to_one_gateway_is_obeyed_by_both() {
    let mut lab = Lab::new();
    let mut mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (home_a, home_b) = (lab.home(Nat::Cone), lab.home(Nat::Cone));
    let (a, b) = (
        mesh.gateway("gw-a", &home_a.host),
        mesh.gateway("gw-b", &home_b.host),
    );
    a.agent("asker");
    b.agent("silent");
    let _echo = b.echo_agent("echo");
    a.wait_to_know("gw-b");
    b.wait_to_know("gw-a");
    assert_eq!(a.ask("asker", "echo@gw-b", "hello"), "HELLO");
    a.wait_for_path("gw-b", "direct", Duration::from_secs(10));
    b.wait_for_path("gw-a", "direct", Duration::from_secs(10));
    let ask = [
        "send",
        "silent@gw-b",
        "?",
        "--as",
        "asker",
        "--ask",
        "--timeout",
        "60s",
        "--json",
    ];
    let mut waiting = a.start_crabmesh(&ask);
    wait(|| {
        !b.crabmesh(&["recv", "--as", "silent", "--json"], "")
            .stdout
            .is_empty()
    });

    mesh.kill_beacon();
    let file = mesh.scratch().join("kill.txt").display().to_string();
    let kill = ["kill", "agent", "silent@gw-b", "--out", &file];
    let said = mesh.operator(&kill, "").expect_code(1);
    assert!(
        said.stderr.contains("crabmesh kill --apply"),
        "{}",
        said.stderr
    );

    let start = Instant::now();
    let applied = b.json(&["kill", "--apply", &file, "--json"]);
    assert_eq!(applied["peers"], 1, "{applied}");
    let ended: serde_json::Value =
        serde_json::from_str(&waiting.line(Duration::from_secs(10))).expect("one object");
    eprintln!(
        "applied, and the open ask ended after {:?}",
        start.elapsed()
    );
    assert_eq!(ended["state"], "denied", "{ended}");
    assert_eq!(ended["error"]["code"], "blocked", "{ended}");
    for gateway in [&a, &b] {
        wait(|| kills(gateway) == ["agent:silent@gw-b"]);
    }
    let refused = a.crabmesh(&["send", "silent@gw-b", "?", "--as", "asker"], "");
    let refused = refused.expect_code(3).stderr;
    assert!(
        refused.contains("agent:silent@gw-b was killed"),
        "{refused}"
    );
    let answers = ["send", "asker@gw-a", "?", "--as", "silent"];
    b.crabmesh(&answers, "").expect_code(3);
    // Its neighbour on the same gateway goes on.
    assert_eq!(a.ask("asker", "echo@gw-b", "and you?"), "AND YOU?");
}

fn kills(gateway: &Gateway) -> Vec<String> {
    let status = gateway.json(&["status", "--json"]);
    let kills = status["revocations"]["kills"].as_array();
    let kills = kills.into_iter().flatten().filter_map(|kill| kill.as_str());
    kills.map(str::to_owned).collect()
}

fn wait(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "not in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}
