//! Who stands how: revoked, forbidden, replaced; and where gateways may stand together.

use std::time::{Duration, Instant};

use netns_tests::{Finished, Gateway, Lab, Mesh, Nat, OPEN_POLICY, Running};

use crate::Test;

pub const TESTS: &[Test] = &[
    (
        "a_removed_beacon_is_replaced_by_another_that_gateways_learn_of",
        a_removed_beacon_is_replaced,
    ),
    (
        "a_removed_gateway_is_cut_off_and_the_sender_is_told",
        a_removed_gateway_is_cut_off,
    ),
    (
        "a_pushed_policy_takes_effect_and_names_the_missing_grant",
        a_pushed_policy_takes_effect,
    ),
    (
        "two_gateways_on_one_host_just_work",
        two_gateways_on_one_host_just_work,
    ),
    (
        "gateways_on_a_host_without_a_network_meet_on_its_loopback",
        gateways_meet_on_loopback,
    ),
];

fn a_removed_gateway_is_cut_off() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (home_a, home_b) = (lab.home(Nat::Cone), lab.home(Nat::Cone));
    let (a, b) = (
        mesh.gateway("gw-a", &home_a.host),
        mesh.gateway("gw-b", &home_b.host),
    );
    let agents = [a.echo_agent("echo"), b.echo_agent("echo")];
    acquaint(&a, &b);
    assert_eq!(a.ask("echo", "echo@gw-b", "hello"), "HELLO");
    a.wait_for_path("gw-b", "direct", Duration::from_secs(10));

    mesh.operator(&["remove", "gw-b"], "").expect_success();
    let start = Instant::now();
    let refused = wait_for_refusal(|| send(&a, "echo", "echo@gw-b"));
    eprintln!(
        "removed, and refused after {:?}: {}",
        start.elapsed(),
        refused.stdout.trim()
    );

    let answer: serde_json::Value = serde_json::from_str(&refused.stdout).expect("one object");
    assert!(answer["error"]["code"].is_string(), "{answer}");
    assert!(
        answer["error"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("gw-b")),
        "{answer}"
    );
    // Direct as they were, the removed one reaches nobody either.
    let answer = b.crabmesh(
        &[
            "send",
            "echo@gw-a",
            "let me in",
            "--as",
            "echo",
            "--ask",
            "--timeout",
            "3s",
        ],
        "",
    );
    assert_ne!(answer.code, 0, "{}", answer.stdout);
    drop(agents);
}

fn a_pushed_policy_takes_effect() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (home_a, home_b) = (lab.home(Nat::Cone), lab.home(Nat::Cone));
    let (a, b) = (
        mesh.gateway("gw-a", &home_a.host),
        mesh.gateway("gw-b", &home_b.host),
    );
    a.agent("asker");
    let _echo = b.echo_agent("echo");
    acquaint(&a, &b);
    assert_eq!(a.ask("asker", "echo@gw-b", "hello"), "HELLO");

    // Requests remain, one-way messages do not.
    mesh.push(&OPEN_POLICY.replace(r#""msg": ["send", "request"]"#, r#""msg": ["request"]"#));
    let refused = wait_for_refusal(|| send(&a, "asker", "echo@gw-b"));

    let answer: serde_json::Value = serde_json::from_str(&refused.stdout).expect("one object");
    assert_eq!(
        (refused.code, answer["state"].as_str()),
        (3, Some("denied")),
        "{answer}"
    );
    assert!(answer["error"]["missing_grant"].is_string(), "{answer}");
    assert_eq!(a.ask("asker", "echo@gw-b", "still"), "STILL");
}

fn a_removed_beacon_is_replaced() {
    let mut lab = Lab::new();
    let mut mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (home_a, home_b) = (lab.home(Nat::Symmetric), lab.home(Nat::Symmetric));
    let (a, b) = (
        mesh.gateway("gw-a", &home_a.host),
        mesh.gateway("gw-b", &home_b.host),
    );
    let _agents = talk(&a, &b);

    let second = lab.public_host();
    let _beacon = mesh.add_beacon(&second);
    mesh.operator(&["remove", &mesh.address()], "")
        .expect_success();
    for gateway in [&a, &b] {
        wait_for_beacon(gateway, &format!("{}:4747", second.address));
    }
    mesh.kill_beacon();

    // Only a relay joins these two, and it is another one now.
    assert_eq!(
        a.ask("echo", "echo@gw-b", "over the other"),
        "OVER THE OTHER"
    );
    assert_eq!(a.path_to("gw-b"), "relay");
}

/// Until this is its only beacon, and up.
fn wait_for_beacon(gateway: &Gateway, address: &str) {
    let start = Instant::now();
    loop {
        let beacons = gateway.json(&["status", "--json"])["beacons"].clone();
        let all: Vec<_> = beacons.as_array().into_iter().flatten().collect();
        if matches!(*all, [one] if one["address"] == address && one["state"] == "quic") {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{}: {beacons}",
            gateway.name
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn two_gateways_on_one_host_just_work() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let home = lab.home(Nat::Cone);
    let (a, b) = (
        mesh.gateway("gw-a", &home.host),
        mesh.gateway("gw-b", &home.host),
    );

    talk(&a, &b);
}

fn gateways_meet_on_loopback() {
    let mut lab = Lab::new();
    let lonely = lab.lone_host();
    let mesh = Mesh::new(lonely.clone(), OPEN_POLICY);
    let config = mesh.scratch().join("gateway.json");
    std::fs::write(&config, r#"{"allow_loopback": true}"#).expect("written");
    let start = |name| {
        let mut gateway = mesh.joined(name, &lonely);
        gateway.options = vec!["--config".into(), config.display().to_string()];
        gateway.start();
        gateway
    };
    let (a, b) = (start("gw-a"), start("gw-b"));

    talk(&a, &b);
    a.wait_for_path("gw-b", "direct", Duration::from_secs(10));
}

fn talk(a: &Gateway, b: &Gateway) -> [Running; 2] {
    let agents = [a.echo_agent("echo"), b.echo_agent("echo")];
    acquaint(a, b);
    assert_eq!(a.ask("echo", "echo@gw-b", "from a"), "FROM A");
    assert_eq!(b.ask("echo", "echo@gw-a", "from b"), "FROM B");
    agents
}

fn acquaint(a: &Gateway, b: &Gateway) {
    a.wait_to_know(&b.name);
    b.wait_to_know(&a.name);
}

fn send(from: &Gateway, me: &str, to: &str) -> Finished {
    from.crabmesh(&["send", to, "by the way", "--as", me, "--json"], "")
}

/// Until it is refused: what was changed is known here.
fn wait_for_refusal(attempt: impl Fn() -> Finished) -> Finished {
    let start = Instant::now();
    loop {
        let finished = attempt();
        if finished.code != 0 {
            return finished;
        }
        assert!(
            start.elapsed() < KNOWN_WITHIN,
            "still not refused: {}",
            finished.stdout
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Milliseconds where nothing else runs; two seconds and a busy machine are allowed for.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
