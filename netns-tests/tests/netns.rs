//! What only a kernel can show. Without root (and `ip`, `nft`) every test here is counted as
//! ignored, by name.

use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use netns_tests::{Lab, Mesh, Nat, lab};

fn main() {
    let arguments = Arguments::from_args();
    let missing = lab::available().err();
    if let Some(what) = &missing {
        eprintln!("netns-tests are skipped: {what}");
    }
    let trials = TESTS
        .iter()
        .map(|&(name, test)| {
            Trial::test(name, move || {
                test();
                Ok(())
            })
            .with_ignored_flag(missing.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

const TESTS: &[(&str, fn())] = &[
    ("messages_flow_between_two_cones_and_become_direct", messages_flow_between_two_cones_and_become_direct),
];

const OPEN_POLICY: &str = r#"{
  "tagOwners": {"tag:lab": ["ana@example.com"]},
  "grants": [{"id": "lab", "src": ["agent:*@tag:lab"], "dst": ["agent:*@tag:lab"], "msg": ["send", "request"]}],
  "tests": [{"src": "agent:any@tag:lab", "accept": ["agent:any@tag:lab:request"]}],
}"#;

fn messages_flow_between_two_cones_and_become_direct() {
    let mut lab = Lab::new();
    let mesh = Mesh::new(lab.public_host(), OPEN_POLICY);
    let (a, b) = (lab.home(Nat::Cone), lab.home(Nat::Cone));
    let (a, b) = (mesh.gateway("gw-a", &a.host), mesh.gateway("gw-b", &b.host));
    a.agent("asker");
    let _echo = b.echo_agent("echo");

    assert_eq!(a.ask("asker", "echo@gw-b", "hello"), "HELLO");
    a.wait_for_path("gw-b", "direct", Duration::from_secs(2));
}
