//! The policy verbs that work without a mesh, as a repository with a policy uses them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const OLD: &str = r#"{
  "tagOwners": {"tag:a": [], "tag:b": []},
  "grants": [
    {"id": "ask", "src": ["agent:x@tag:a"], "dst": ["tag:b"], "msg": ["request"]},
    {"src": ["tag:a"], "dst": ["tag:b"], "ip": ["tcp:22"]},
  ],
  "tests": [{"src": "agent:x@tag:a", "accept": ["agent:y@tag:b:request"]}],
}"#;

#[test]
fn a_difference_is_told_by_its_lines_and_its_exit_code() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let new = OLD.replace("tcp:22", "tcp:22-23").replace(
        "agent:x@tag:a\"], \"dst\": [\"tag:b\"], \"msg\": [\"request\"]",
        "agent:x@tag:a\"], \"dst\": [\"tag:b\"], \"msg\": [\"send\"]",
    );
    write(home.path(), "old.hujson", OLD);
    write(home.path(), "new.hujson", &new);
    write(home.path(), "broken.hujson", "{\"grnats\": []}");
    // Another order, another name, another look.
    let same = OLD.replace("\"id\": \"ask\", ", "").replace(
        "\"src\": [\"tag:a\"], \"dst\": [\"tag:b\"]",
        "\"dst\": [\"tag:b\"], /* to */ \"src\": [\"tag:a\"]",
    );
    write(home.path(), "same.hujson", &same);

    let ended = crabmesh(home.path(), &["policy", "diff", "old.hujson", "new.hujson"]);
    assert_eq!(ended.status.code(), Some(1), "{}", errors(&ended));
    let lines = text(&ended);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(
        lines,
        [
            "+ agent:x@tag:a -> agent:*@tag:b  send  by ask",
            "+ tag:a -> tag:b  tcp:23  by grants[1]",
            "- agent:x@tag:a -> agent:*@tag:b  request  by ask",
        ]
    );
    let ended = crabmesh(
        home.path(),
        &["policy", "diff", "old.hujson", "same.hujson"],
    );
    assert_eq!(
        (ended.status.code(), text(&ended).as_str()),
        (Some(0), "no difference: both mean the same\n")
    );
    let ended = crabmesh(
        home.path(),
        &["--json", "policy", "diff", "old.hujson", "new.hujson"],
    );
    let told: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(
        told["gains"][1],
        json!({
            "src": {"names": ["tag:a"], "agents": null, "gateways": 0},
            "dst": {"names": ["tag:b"], "agents": null, "gateways": 0},
            "what": ["tcp:23"], "by": ["grants[1]"],
        })
    );
    assert_eq!(told["complete"], true);
    for wrong in [
        ["old.hujson", "broken.hujson"],
        ["missing.hujson", "old.hujson"],
    ] {
        let ended = crabmesh(home.path(), &[&["policy", "diff"], &wrong[..]].concat());
        assert_eq!(
            ended.status.code(),
            Some(2),
            "{wrong:?}: {}",
            errors(&ended)
        );
    }
}

#[test]
fn the_gateways_of_a_file_are_counted_in_the_table() {
    let home = tempfile::tempdir().expect("a temporary directory");
    write(home.path(), "p.hujson", OLD);
    let nodes = r#"{"nodes": [{"name": "a-1", "tags": ["tag:a"]}, {"name": "a-2", "tags": ["tag:a"]}, {"name": "b-1", "tags": ["tag:b"]}]}"#;
    write(home.path(), "nodes.json", nodes);

    let ended = crabmesh(
        home.path(),
        &[
            "policy",
            "matrix",
            "p.hujson",
            "--nodes",
            "nodes.json",
            "--svg",
            "m.svg",
        ],
    );
    assert_eq!(ended.status.code(), Some(0), "{}", errors(&ended));
    assert_eq!(
        text(&ended),
        "FROM / TO  1  2\ntag:a (2)  .  b\ntag:b (1)  .  .\n\n  1 tag:a (2)\n  2 tag:b (1)\n\nFROM       TO         MAY\ntag:a (2)  tag:b (1)  x → *: request\n                      tcp:22\n"
    );
    let svg = std::fs::read_to_string(home.path().join("m.svg")).expect("it is written");
    assert!(svg.starts_with("<svg ") && svg.contains("Who may reach whom by p.hujson"));
    let ended = crabmesh(
        home.path(),
        &[
            "--json",
            "policy",
            "matrix",
            "p.hujson",
            "--nodes",
            "nodes.json",
        ],
    );
    let told: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(
        told["cells"],
        json!([{"row": 0, "column": 1, "messages": ["x → *: request"], "others": ["tcp:22"]}])
    );
    let ended = crabmesh(home.path(), &["policy", "matrix", "p.hujson", "--svg", "-"]);
    assert!(text(&ended).starts_with("<svg ") && text(&ended).ends_with("</svg>\n"));
}

#[test]
fn check_speaks_sarif_of_a_file_that_loads_and_of_one_that_does_not() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let shape = serde_json::from_str(include_str!("sarif.schema.json")).expect("JSON");
    let validator = jsonschema::validator_for(&shape).expect("a schema");
    let shadowed = OLD.replace(
        "\n  ],\n  \"tests\"",
        "\n    {\"src\": [\"tag:a\"], \"dst\": [\"tag:b\"], \"ip\": [\"tcp:22\"]},\n  ],\n  \"tests\"",
    );
    for (name, file, code, exit) in [
        ("a b.hujson", shadowed.as_str(), "W109", 0),
        ("wrong.hujson", "{\n  \"grnats\": []\n}", "E010", 1),
        ("not.hujson", "{\n  \"ä\": [,]\n}", "E002", 1),
        ("empty.hujson", "{\"grants\": []}", "W102", 0),
    ] {
        write(home.path(), name, file);
        let ended = crabmesh(home.path(), &["policy", "check", name, "--sarif"]);
        assert_eq!(
            ended.status.code(),
            Some(exit),
            "{name}: {}",
            errors(&ended)
        );
        let log: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
        let wrong: Vec<String> = validator
            .iter_errors(&log)
            .map(|error| error.to_string())
            .collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?}\n{log:#}");
        let run = &log["runs"][0];
        let results = run["results"].as_array().expect("results");
        let result = results.iter().find(|it| it["ruleId"] == code).expect(code);
        let rule = usize::try_from(result["ruleIndex"].as_u64().expect("a number")).expect("small");
        assert_eq!(run["tool"]["driver"]["rules"][rule]["id"], code);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], name.replace(' ', "%20"));
        if code == "W109" {
            assert_eq!(
                place["region"],
                json!({"startLine": 6, "startColumn": 5, "endLine": 6, "endColumn": 59})
            );
            assert_eq!(result["level"], "warning");
        }
    }
    // What is no SARIF does not pass.
    assert!(!validator.is_valid(&json!({"version": "2.1.0", "runs": [{}]})));
    assert!(!validator.is_valid(&json!({"version": "2.0.0", "runs": []})));
}

#[test]
fn check_is_told_the_warnings_with_their_places() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = OLD.replace(
        "[\"tag:b\"], \"ip\": [\"tcp:22\"]",
        "[\"tag:a\", \"tag:b\"], \"ip\": [\"tcp:22\", \"tcp:5432\"]",
    );
    write(home.path(), "p.hujson", &file);

    let ended = crabmesh(home.path(), &["policy", "check", "p.hujson"]);
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(text(&ended), "p.hujson: 2 rules, 1 test, 1 warning\n");
    let said = errors(&ended);
    assert!(
        said.contains("W111") && said.contains("p.hujson:5") && said.contains("help:"),
        "{said}"
    );
}

fn write(home: &Path, name: &str, text: &str) {
    std::fs::write(home.join(name), text).expect("written");
}

fn text(ended: &Output) -> String {
    String::from_utf8(ended.stdout.clone()).expect("text")
}

fn errors(ended: &Output) -> String {
    String::from_utf8_lossy(&ended.stderr).into_owned()
}

fn crabmesh(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crabmesh"))
        .args(arguments)
        .current_dir(home)
        .env("CRABMESH_STATE_DIR", home.join("state"))
        .env("HOME", home)
        .env_remove("CRABMESH_API")
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}
