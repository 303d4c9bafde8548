//! From a file to the mesh and back: what a push refuses, what it keeps, and how an earlier policy
//! is in force again. With a real beacon on loopback.

#[path = "operator/stage.rs"]
mod stage;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use stage::{Beacon, fails, ok};

/// A mesh of ana's with its first policy in force, and the directory of its operator.
fn founded(home: &Path) -> (Beacon, std::path::PathBuf) {
    let operator = home.join("ana");
    let beacon = Beacon::start(&home.join("host"), "127.0.0.1:0");
    let (claim, address) = (beacon.said("claim"), beacon.said("listen"));
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
    ok(&operator, &init, "");
    ok(&operator, &["policy", "push"], "");
    (beacon, operator)
}

/// The objects that a command prints, one a line.
fn objects(state: &Path, args: &[&str], stdin: &str) -> Vec<Value> {
    let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
    let lines = ok(state, &args, stdin);
    let parse = |line: &str| serde_json::from_str(line).expect("JSON");
    lines.lines().map(parse).collect()
}

/// The versions in the list, newest first, and which is in force.
fn history(operator: &Path) -> (Vec<String>, String) {
    let list = objects(operator, &["policy", "history"], "");
    let version = |it: &Value| it["version"].as_str().expect("a version").to_owned();
    let in_force: Vec<_> = list.iter().filter(|it| it["in_force"] == true).collect();
    assert_eq!(in_force.len(), 1, "{list:?}");
    (list.iter().map(version).collect(), version(in_force[0]))
}

const ANAS: &str = r#"// What ana wants.
{"grants": [{"src": ["ana@example.com"], "dst": ["*"], "msg": ["send"]}],
 "tests": [{"src": "ana@example.com", "deny": ["tag:none:22"]}], "tagOwners": {"tag:none": []}}"#;

const BOBS: &str = r#"{"grants": [{"src": ["bob@example.com"], "dst": ["*"], "msg": ["send"]}]}"#;

#[test]
fn a_policy_is_tried_pushed_kept_and_taken_back() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (_beacon, operator) = founded(home.path());
    let first = std::fs::read_to_string(operator.join("operator/policy.hujson")).expect("a file");

    // What would be, and nothing is.
    let plan = &objects(&operator, &["policy", "push", "-", "--dry-run"], ANAS)[0];
    assert_eq!(plan["version"], "1.2", "{plan}");
    assert_eq!(plan["in_force"], "1.1");
    assert_eq!(plan["changes"], true);
    let gains = plan["diff"]["gains"].as_array().expect("a list");
    assert!(!gains.is_empty(), "{plan}");
    assert_eq!(history(&operator), (vec!["1.1".into()], "1.1".into()));

    let pushed = &objects(&operator, &["policy", "push", "-"], ANAS)[0];
    assert_eq!(pushed["version"], "1.2", "{pushed}");
    let again = &objects(&operator, &["policy", "push", "-", "--dry-run"], ANAS)[0];
    assert_eq!(
        (&again["version"], &again["changes"]),
        (&"1.2".into(), &false.into())
    );
    let list = objects(&operator, &["policy", "history"], "");
    assert_eq!(list[0]["title"], "What ana wants.");
    assert_eq!(list[0]["bytes"], ANAS.len());
    let told = ok(&operator, &["policy", "history"], "");
    assert!(
        told.lines().nth(1).expect("a row").contains("in force"),
        "{told}"
    );

    let plan = ok(&operator, &["policy", "push", "--dry-run"], "");
    assert!(plan.contains("would be signed as policy 1.3"), "{plan}");
    let lost = |line: &str| line.starts_with("- ") && line.contains("ana@example.com");
    assert!(plan.lines().any(lost), "{plan}");

    // Each text is there, and nobody else's to read.
    let shown = ok(&operator, &["policy", "show", "--version", "1"], "");
    assert_eq!(shown, first.trim());
    let kept = std::fs::metadata(operator.join("operator/policy.1.1.hujson")).expect("a file");
    assert_eq!(kept.permissions().mode() & 0o077, 0);
    fails(&operator, 2, &["policy", "show", "--version", "9"], "");

    // Back: an old text, a new number.
    let plan = &objects(&operator, &["policy", "rollback", "--dry-run"], "")[0];
    assert_eq!(
        (&plan["version"], &plan["in_force"]),
        (&"1.3".into(), &"1.2".into())
    );
    ok(&operator, &["policy", "rollback"], "");
    let versions = ["1.3", "1.2", "1.1"].map(str::to_owned).to_vec();
    assert_eq!(history(&operator), (versions, "1.3".into()));
    let shown = ok(&operator, &["policy", "show", "--version", "1.3"], "");
    assert_eq!(shown, first.trim());
    let said = fails(&operator, 2, &["policy", "rollback", "1.3"], "");
    assert!(said.contains("in force already"), "{said}");
    ok(&operator, &["policy", "rollback", "2"], "");
    assert_eq!(history(&operator).1, "1.4");
}

#[test]
fn a_push_refuses_what_it_would_be_wrong_to_believe_in() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let (_beacon, operator) = founded(home.path());
    let refused = |args: &[&str], text: &str| {
        let said = fails(&operator, 1, args, text);
        assert_eq!(history(&operator).0, ["1.1"], "nothing was signed: {said}");
        said
    };

    let long = format!("// {}\n{ANAS}", "x".repeat(policy::MAX_PUSHED));
    let said = refused(&["policy", "push", "-"], &long);
    assert!(said.contains("can be signed"), "{said}");

    // The person of `init --user`, unless it is meant; a dry run is no way round.
    for args in [
        &["policy", "push", "-"][..],
        &["policy", "push", "-", "--dry-run"],
    ] {
        let said = refused(args, BOBS);
        assert!(
            said.contains("locks you out: ana@example.com") && said.contains("--yes"),
            "{said}"
        );
    }

    // A guard that nobody holds, with its name and its line.
    let guarded = r#"{
        "groups": {"group:ops": ["ana@example.com"]},
        "grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send"]}],
        "guards": [
            {"id": "slow", "src": ["agent:*@*"], "dst": ["agent:*@*"], "rate": {"limit": "1/s"}},
            {"id": "money", "src": ["agent:*@*"], "dst": ["internet:api.example.com"], "spend": {"cap": "$1/day"}},
        ],
    }"#;
    let said = refused(&["policy", "push", "-"], guarded);
    for part in ["guard money", "\"spend\"", "stdin:6", "nothing was pushed"] {
        assert!(said.contains(part), "{part}: {said}");
    }

    // A test that fails.
    let failing = ANAS.replace("deny", "accept");
    let said = refused(&["policy", "push", "-"], &failing);
    assert!(said.contains("1 of 1 test failed"), "{said}");

    // A rollback is no way round either.
    ok(&operator, &["policy", "push", "-", "--yes"], BOBS);
    ok(&operator, &["policy", "push"], "");
    let said = fails(&operator, 1, &["policy", "rollback"], "");
    assert!(said.contains("locks you out"), "{said}");
    assert_eq!(history(&operator).1, "1.3");
    ok(&operator, &["policy", "rollback", "--yes"], "");
    assert_eq!(history(&operator).1, "1.4");
}
