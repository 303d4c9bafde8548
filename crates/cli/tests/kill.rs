//! The kill switch with real processes on loopback: by a beacon, by hand with the beacon dead, and
//! lifted again.

#[path = "operator/mesh.rs"]
mod mesh;
#[path = "operator/stage.rs"]
mod stage;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh::{Mesh, json, until};
use stage::{crabmesh, fails, ok, run};

#[test]
fn what_is_killed_is_signed_pushed_and_lifted_by_root_alone() {
    let mesh = Mesh::found("ana@example.com");
    let ana = &mesh.operator;
    mesh.join("gw-a", &["--tag", "tag:gateway"]);
    mesh.join("gw-ana", &["--user", "ana@example.com"]);

    let said = ok(ana, &["kill", "agent", "coder@gw-a"], "");
    assert!(
        said.starts_with("agent:coder@gw-a is killed; stored by 127.0.0.1:"),
        "{said}"
    );
    let twice = ok(ana, &["--json", "kill", "agent", "coder@gw-a"], "");
    assert_eq!(json(&twice)["version"], "1.1", "nothing new to sign");

    for (line, says) in [
        (&["kill"][..], "WHAT"),
        (&["kill", "agent"], "whom?"),
        (&["kill", "agent", "coder@gw-z"], "no gateway gw-z"),
        (&["kill", "agent", "coder"], "coder"),
        (&["kill", "node", "gw-z"], "no gateway gw-z"),
        (&["kill", "node", "gw-a", "--except", "gw-a"], "--except"),
        (&["kill", "all", "gw-a"], "takes no name"),
        (&["kill", "all", "--except", "gw-z"], "no gateway gw-z"),
        (&["kill", "all", "--except", "group:ops"], "no group:ops"),
        // Too much to come of a slip.
        (&["kill", "all"], "every gateway"),
        (&["kill", "user", "ana@example.com"], "yourself"),
        (&["kill", "all", "--except", "gw-a"], "gw-ana"),
    ] {
        let said = fails(ana, 2, line, "");
        assert!(said.contains(says), "{line:?}: {said}");
    }
    ok(
        ana,
        &[
            "kill",
            "all",
            "--except",
            "ana@example.com",
            "--except",
            "gw-a",
        ],
        "",
    );
    ok(ana, &["kill", "node", "gw-a"], "");
    ok(ana, &["kill", "user", "ana@example.com", "--yes"], "");
    ok(ana, &["kill", "all", "--yes"], "");
    fails(ana, 1, &["renew", "gw-ana"], "");
    let killed = mesh.token("gw-late", &["--tag", "tag:gateway"]);
    fails(&mesh.at("gw-late"), 1, &["join", "-"], &killed);

    let kept = ok(
        ana,
        &["root", "replace", "revoker", "--keep-kills"],
        &mesh.code,
    );
    assert!(kept.contains("epoch 2"), "{kept}");
    fails(&mesh.at("gw-late"), 1, &["join", "-"], &killed);
    let lifted = run(ana, &["root", "replace", "revoker"], &mesh.code);
    assert!(lifted.status.success());
    let said = String::from_utf8_lossy(&lifted.stderr).into_owned();
    for what in [
        "agent:coder@gw-a",
        "everyone",
        "user:ana@example.com",
        "gateway gw-a",
    ] {
        assert!(said.contains(&format!("lifted: {what}")), "{what}: {said}");
    }
    ok(&mesh.at("gw-late"), &["join", "-"], &killed);
    fails(
        ana,
        2,
        &["root", "replace", "issuer", "--keep-kills"],
        &mesh.code,
    );
}

#[test]
fn a_kill_that_no_beacon_takes_is_on_file_and_the_hint_says_how_to_go_on() {
    let mut mesh = Mesh::found("ana@example.com");
    mesh.join("gw-a", &["--tag", "tag:gateway"]);
    fails(&mesh.operator, 1, &["kill", "--out", "-"], "");
    mesh.beacon = None;

    let said = fails(&mesh.operator, 1, &["kill", "agent", "coder@gw-a"], "");
    let hint = said
        .lines()
        .find_map(|line| line.strip_prefix("hint: bring "));
    let hint = hint.unwrap_or_else(|| panic!("no hint: {said}"));
    let (file, rest) = hint.split_once(" to any gateway").expect("says where to");
    assert!(rest.contains("`crabmesh kill --apply FILE`"), "{rest}");
    let kept = std::fs::read_to_string(file).expect("the file that the hint names");
    assert!(kept.starts_with("cmk1"), "{kept}");

    let out = mesh.at("out.txt").display().to_string();
    let said = fails(
        &mesh.operator,
        1,
        &["kill", "node", "gw-a", "--out", &out],
        "",
    );
    assert!(said.contains(&out), "{said}");
    let newer = std::fs::read_to_string(&out).expect("written all the same");
    assert_ne!(newer, kept);
    assert_eq!(
        ok(&mesh.operator, &["kill", "--out", "-"], ""),
        newer.trim()
    );

    // Who takes it must know it, and have a node.
    let gateway = mesh.at("gw-a");
    for (garbage, says) in [
        ("hello".to_owned(), "cmk1"),
        (newer[..newer.len() / 2].to_owned(), "damaged"),
        (mesh.code.clone(), "cmk1"),
    ] {
        let said = fails(&gateway, 2, &["kill", "--apply", "-"], &garbage);
        assert!(said.contains(says), "{said}");
    }
    fails(&gateway, 2, &["kill", "--apply", "no-such-file"], "");
    fails(&gateway, 2, &["kill", "all", "--apply", "-"], &newer);
    fails(&gateway, 5, &["kill", "--apply", "-"], &newer);
}

#[test]
fn with_the_beacon_dead_a_kill_goes_from_gateway_to_gateway() {
    let mut mesh = Mesh::found("ana@example.com");
    for gateway in ["gw-a", "gw-b"] {
        mesh.join(gateway, &["--tag", "tag:gateway"]);
    }
    let _nodes = [mesh.up("gw-a"), mesh.up("gw-b")];
    let (a, b) = (mesh.at("gw-a"), mesh.at("gw-b"));
    ok(&a, &["agent", "add", "planner"], "");
    ok(&b, &["agent", "add", "coder"], "");
    let ask = |state: &Path| {
        let ask = [
            "send",
            "coder@gw-b",
            "?",
            "--as",
            "planner",
            "--timeout",
            "200ms",
            "--ask",
        ];
        run(state, &ask, "").status.code()
    };
    until("the two are in session", || {
        ask(&a) == Some(4) && delivered(&b)
    });
    let lists = |state: &Path| ok(state, &["agents", "--as", "planner"], "").contains("coder");
    until("gw-a lists coder", || lists(&a));

    // What hangs in the air when the kill comes.
    let waiting = crabmesh(&a)
        .args([
            "send",
            "coder@gw-b",
            "?",
            "--as",
            "planner",
            "--timeout",
            "60s",
            "--ask",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    until("the ask is open", || {
        ok(&b, &["--json", "recv", "--as", "coder"], "")
            .lines()
            .count()
            > 0
    });
    mesh.beacon = None;
    let file = mesh.at("kill.txt").display().to_string();
    fails(
        &mesh.operator,
        1,
        &["kill", "agent", "coder@gw-b", "--out", &file],
        "",
    );

    let begun = Instant::now();
    let applied = json(&ok(&b, &["--json", "kill", "--apply", &file], ""));
    assert_eq!(
        (&applied["news"], &applied["peers"]),
        (&true.into(), &1.into())
    );
    let ended = waiting.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(3), "{said}");
    // By its own gateway's word or by the other's, whichever is first.
    assert!(said.contains("killed"), "{said}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "and not by its timeout"
    );

    let heard = |state: &Path| {
        let status = json(&ok(state, &["--json", "status"], ""));
        !status["revocations"].is_null()
    };
    until("gw-a has heard of it", || heard(&a));
    let refused = run(&a, &["send", "coder@gw-b", "?", "--as", "planner"], "");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("agent:coder@gw-b was killed"), "{said}");
    assert!(!lists(&a));
    for gateway in [&a, &b] {
        let status = json(&ok(gateway, &["--json", "status"], ""));
        assert_eq!(status["revocations"]["kills"][0], "agent:coder@gw-b");
        assert!(ok(gateway, &["status"], "").contains("killed     agent:coder@gw-b"));
    }
    let again = ok(&a, &["kill", "--apply", &file], "");
    assert!(again.contains("was already in force"), "{again}");

    // Another mesh's operator has no word here.
    let stranger = Mesh::found("eve@example.com");
    stranger.join("gw-a", &["--tag", "tag:gateway"]);
    let foreign = ok(
        &stranger.operator,
        &["kill", "node", "gw-a", "--out", "-"],
        "",
    );
    let said = fails(&a, 1, &["kill", "--apply", "-"], &foreign);
    assert!(said.contains("another mesh"), "{said}");

    // Everybody: each hears of it from one that is killed itself.
    fails(
        &mesh.operator,
        1,
        &["kill", "all", "--yes", "--out", &file],
        "",
    );
    ok(&a, &["kill", "--apply", &file], "");
    until("gw-b is out too", || {
        let status = json(&ok(&b, &["--json", "status"], ""));
        status["peers"].as_array().is_some_and(Vec::is_empty)
    });
    let said = fails(&b, 3, &["send", "planner@gw-a", "?", "--as", "coder"], "");
    assert!(said.contains("everyone"), "{said}");

    // And lifted, by hand on each: nobody talks to them any more.
    fails(
        &mesh.operator,
        1,
        &["root", "replace", "revoker"],
        &mesh.code,
    );
    let lifted = ok(&mesh.operator, &["kill", "--out", "-"], "");
    for gateway in [&a, &b] {
        ok(gateway, &["kill", "--apply", "-"], &lifted);
    }
    until("they talk again", || ask(&a) == Some(4) && delivered(&b));
}

/// Whether coder was shown something, which is acked.
fn delivered(gateway: &Path) -> bool {
    let shown = ok(gateway, &["--json", "recv", "--as", "coder", "--ack"], "");
    !shown.is_empty()
}
