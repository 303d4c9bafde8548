//! How little a gateway needs: of rights, of memory, of CPU.

use std::time::{Duration, Instant};

use netns_tests::{Cage, Gateway, Lab, Mesh, Nat, OPEN_POLICY};

use crate::Test;

pub const TESTS: &[Test] = &[
    (CAGED, a_gateway_runs_with_the_least_rights),
    (IDLE, an_idle_gateway_with_fifty_peers),
];

/// Needs control groups, beyond what the lab needs.
pub const CAGED: &str =
    "a_gateway_runs_as_uid_1000_without_capabilities_read_only_in_256_mb_and_a_quarter_cpu";
const IDLE: &str = "an_idle_gateway_with_fifty_peers_needs_at_most_40_mb_and_one_percent_of_a_core";

/// Whether a gateway can be caged here; otherwise what is missing.
pub fn available() -> Result<(), String> {
    Cage::new().map(drop)
}

fn a_gateway_runs_with_the_least_rights() {
    let cage = Cage::new().expect("seen before");
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (home_a, home_b) = (lab.home(Nat::Cone), lab.home(Nat::Cone));
    let mut a = mesh.caged("gw-a", &home_a.host, &cage);
    let b = mesh.gateway("gw-b", &home_b.host);

    let status = std::fs::read_to_string(format!(
        "/proc/{}/status",
        a.node.as_ref().expect("it runs").pid()
    ))
    .expect("it runs");
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1000\t1000\t1000\t1000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line:?} is not in\n{status}");
    }
    for place in ["/", "/tmp", "/var/tmp", "/dev/shm", "/run", "/etc", "/root"] {
        let wrote = a.beside(&["touch", &format!("{place}/crabmesh-was-here")]);
        assert_ne!(wrote.code, 0, "{place} can be written to");
    }
    a.beside(&["touch", &a.state.join("probe").display().to_string()])
        .expect_success();

    let _echoes = [a.echo_agent("echo"), b.echo_agent("echo")];
    a.wait_to_know("gw-b");
    b.wait_to_know("gw-a");
    assert_eq!(a.ask("echo", "echo@gw-b", "from the cage"), "FROM THE CAGE");
    assert_eq!(b.ask("echo", "echo@gw-a", "to the cage"), "TO THE CAGE");
    let body = "x".repeat(200 << 10);
    for _ in 0..20 {
        b.crabmesh(&["send", "echo@gw-a", "-", "--as", "echo"], &body)
            .expect_success();
    }
    assert_eq!(b.ask("echo", "echo@gw-a", "after much"), "AFTER MUCH");
    let (_, peak) = a.memory();
    eprintln!(
        "in the cage: peak {peak} KiB resident, {:?} bytes counted by the group",
        cage.peak_memory()
    );
    a.kill();
}

fn an_idle_gateway_with_fifty_peers() {
    let mut lab = Lab::new();
    // A star: what is measured is one gateway with fifty peers, not fifty with one more each.
    let mesh = Mesh::new(lab.public_host(), STAR);
    let (centre, crowd) = (lab.public_host(), lab.public_host());
    let mut centre = mesh.tagged("centre", &centre, "tag:centre");
    centre.start();
    let leaves: Vec<Gateway> = (0..PEERS)
        .map(|number| {
            let mut leaf = mesh.tagged(&format!("leaf-{number}"), &crowd, "tag:leaf");
            leaf.start();
            leaf
        })
        .collect();
    let start = Instant::now();
    loop {
        let status = centre.json(&["status", "--json"]);
        let peers = status["peers"].as_array().expect("peers");
        let met = peers
            .iter()
            .filter(|peer| peer["path"]["kind"] == "direct")
            .count();
        if met == PEERS {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "only {met} of {} are direct",
            peers.len()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    // What the meeting cost is over.
    std::thread::sleep(Duration::from_secs(10));

    let (before, start) = (centre.cpu_time(), Instant::now());
    std::thread::sleep(IDLE_FOR);
    let used = (centre.cpu_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    let (private, peak) = centre.memory();
    eprintln!(
        "idle with {PEERS} peers: {private} KiB of its own (peak {peak} resident), {:.2} % of a core",
        used * 100.0
    );

    assert!(private <= MOST_PRIVATE, "{private} KiB");
    assert!(used < 0.01, "{:.2} % of a core", used * 100.0);
    drop(leaves);
}

const PEERS: usize = 50;

/// KiB that are the node's own. The limit is 40 MB with the program's pages, of which this build has
/// more than a release build: `crabmesh bench` measures that one whole.
const MOST_PRIVATE: u64 = 30 << 10;

const IDLE_FOR: Duration = Duration::from_secs(20);

const STAR: &str = r#"{
  "tagOwners": {"tag:centre": ["ana@example.com"], "tag:leaf": ["ana@example.com"]},
  "grants": [{"id": "star", "src": ["agent:*@tag:leaf"], "dst": ["agent:*@tag:centre"], "msg": ["send"]}],
  "tests": [{"src": "agent:any@tag:leaf", "accept": ["agent:any@tag:centre:send"], "deny": ["agent:any@tag:leaf:send"]}],
}"#;
