//! The operator's day with a real beacon on loopback: found a mesh, let a gateway in, renew it,
//! replace a stolen key, put the gateway out.

#[path = "operator/stage.rs"]
mod stage;

use serde_json::Value;
use stage::{Beacon, fails, ok, run};

/// The first policy without its grant to the person of `init --user`, and with a port.
const NOT_ANA: &str = r#"{
  "tagOwners": {"tag:gateway": ["ana@example.com"]},
  "grants": [
    {"src": ["agent:*@tag:gateway"], "dst": ["agent:*@tag:gateway"], "msg": ["send", "request"]},
    {"src": ["tag:gateway"], "dst": ["tag:gateway"], "ip": ["tcp:22"]},
  ],
}"#;

#[test]
fn an_operator_founds_a_mesh_lets_a_gateway_in_renews_it_and_puts_it_out() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| home.path().join(name);
    let (operator, beacon_state) = (at("ana"), at("host"));
    let beacon = Beacon::start(&beacon_state, "127.0.0.1:0");
    let (claim, address) = (beacon.said("claim"), beacon.said("listen"));
    assert!(claim.starts_with("cmc1"), "{claim}");

    // init shows the recovery code once, on stderr, and what follows on stdout.
    let init = [
        "init",
        "--mesh",
        "home",
        "--beacon",
        &address,
        "--claim",
        &claim,
        "--user",
        "ana@example.com",
    ];
    let made = run(&operator, &init, "");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr),
    );
    assert!(made.status.success(), "{stderr}");
    assert!(
        stdout.contains("1. ") && stdout.contains("policy push"),
        "{stdout}"
    );
    let code = stderr
        .lines()
        .find_map(|line| line.strip_prefix("recovery code: "))
        .expect("the recovery code")
        .to_owned();
    assert!(!stdout.contains(&code));
    fails(&operator, 1, &init, "");

    // A token is of no use before the beacon is claimed.
    let early = ok(
        &operator,
        &["invite", "--name", "gw-early", "--tag", "tag:gateway"],
        "",
    );
    let refused = fails(&at("early"), 1, &["join", "-"], &early);
    assert!(refused.contains("policy push"), "{refused}");

    ok(&operator, &["policy", "push"], "");
    ok(&operator, &["policy", "push"], "");
    // What is not pushed yet is held against what is in force.
    let checked = run(&operator, &["policy", "check", "-"], NOT_ANA);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
    assert!(
        said.contains("W115") && said.contains("ana@example.com loses the last grant"),
        "{said}"
    );
    assert!(
        said.contains("W116") && said.contains("gains tcp:22"),
        "{said}"
    );
    let checked = run(&operator, &["policy", "check"], "");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        !said.contains("W115") && !said.contains("W116"),
        "the same is no wider: {said}"
    );
    let token = ok(
        &operator,
        &["invite", "--name", "gw-a", "--tag", "tag:gateway"],
        "",
    );
    assert!(
        token.starts_with("cmt1") && !token.contains(char::is_whitespace),
        "{token}"
    );
    fails(
        &operator,
        1,
        &["invite", "--name", "gw-a", "--tag", "tag:gateway"],
        "",
    );

    let joined: Value =
        serde_json::from_str(&ok(&at("a"), &["--json", "join", "-"], &token)).expect("JSON");
    assert_eq!(joined["name"], "gw-a");
    assert_eq!(joined["mesh"], "home");
    fails(&at("a"), 1, &["join", "-"], &token);
    let stolen = fails(&at("thief"), 1, &["join", "-"], &token);
    assert!(stolen.contains("USED ALREADY"), "{stolen}");
    fails(&at("b"), 2, &["join", "-"], &token[..token.len() - 4]);

    // The strict way: no secret travels, no receipt is needed.
    let request = ok(&at("c"), &["join", "--request"], "");
    let invite = [
        "invite",
        "--name",
        "gw-c",
        "--user",
        "ana@example.com",
        "--for",
        &request,
    ];
    let answer = ok(&operator, &invite, "");
    ok(&at("c"), &["join", "-"], &answer);
    fails(&at("d"), 1, &["join", "-"], &answer);

    // Its membership came for its own key, so its renewal needs no report of anybody.
    let renewed = ok(&operator, &["--json", "renew", "gw-c"], "");
    assert!(renewed.contains("gw-c"), "{renewed}");

    // A stolen operator key: root replaces it, and the beacon takes the new one.
    fails(&operator, 2, &["root", "replace", "operator"], "not a code");
    ok(&operator, &["root", "replace", "operator"], &code);
    ok(&operator, &["root", "replace", "policy"], &code);
    ok(&operator, &["root", "replace", "issuer"], &code);
    let late = ok(
        &operator,
        &["invite", "--name", "gw-late", "--tag", "tag:gateway"],
        "",
    );
    ok(&at("late"), &["join", "-"], &late);
    ok(&operator, &["policy", "push"], "");

    // Out, by name; the name is free again.
    ok(&operator, &["remove", "gw-a"], "");
    let again = ok(
        &operator,
        &["invite", "--name", "gw-a", "--tag", "tag:gateway"],
        "",
    );
    ok(&at("a2"), &["join", "-"], &again);

    // A second beacon, and the end of the first.
    let second = Beacon::start(&at("host2"), "127.0.0.1:0");
    let (claim, listen) = (second.said("claim"), second.said("listen"));
    ok(
        &operator,
        &["invite", "--beacon", &listen, "--claim", &claim],
        "",
    );
    ok(&operator, &["remove", &address], "");
    ok(&operator, &["policy", "push"], "");

    // A beacon that serves a mesh says no claim when it starts again.
    drop(second);
    let second = Beacon::start(&at("host2"), &listen);
    assert_eq!(second.said("claim"), "");
}

#[test]
fn verbs_of_the_operator_without_files_name_what_to_do() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let said = fails(home.path(), 1, &["invite", "--name", "gw-a"], "");
    assert!(
        said.contains("hint: ") && said.contains("crabmesh init"),
        "{said}"
    );
    fails(home.path(), 2, &["invite"], "");
    fails(home.path(), 2, &["join", "-"], "hello");
}
