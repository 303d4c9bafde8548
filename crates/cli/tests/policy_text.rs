//! `policy fmt`, `import` and `export` as people and pipelines meet them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const UGLY: &str = "{ // mine\n\"grants\":[{\"src\":[\"*\"],\"dst\":[\"*\"],\"msg\":[\"send\"]}]}";
const NEAT: &str = "{\n  // mine\n  \"grants\": [\n    {\"src\": [\"*\"], \"dst\": [\"*\"], \"msg\": [\"send\"]},\n  ],\n}\n";

#[test]
fn fmt_replaces_the_file_and_leaves_the_rest_of_the_folder_alone() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("policy.hujson");
    fs::write(&file, UGLY).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("ours");
    let link = home.path().join("link.hujson");
    symlink(&file, &link).expect("linked");

    let first = crabmesh(home.path(), &["policy", "fmt", "link.hujson"]);
    let second = crabmesh(home.path(), &["policy", "fmt", "link.hujson"]);

    assert_eq!(
        (first.code, first.out.as_str()),
        (0, "link.hujson: formatted\n")
    );
    assert_eq!(second.out, "link.hujson: is formatted already\n");
    assert_eq!(fs::read_to_string(&file).expect("text"), NEAT);
    assert!(link.is_symlink(), "a link stays a link");
    let mode = fs::metadata(&file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    assert_eq!(
        fs::read_dir(home.path()).expect("readable").count(),
        2,
        "nothing is left over"
    );
}

#[test]
fn fmt_check_changes_nothing_and_names_the_file() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let file = home.path().join("policy.hujson");
    fs::write(&file, UGLY).expect("written");

    let ugly = crabmesh(home.path(), &["policy", "fmt", "--check", "policy.hujson"]);
    assert_eq!(ugly.code, 1);
    assert!(
        ugly.err.contains("policy.hujson is not formatted\nhint: "),
        "{}",
        ugly.err
    );
    assert_eq!(fs::read_to_string(&file).expect("text"), UGLY);

    fs::write(&file, NEAT).expect("written");
    let neat = crabmesh(home.path(), &["policy", "fmt", "--check", "policy.hujson"]);
    assert_eq!(neat.code, 0, "{}", neat.err);
}

#[test]
fn fmt_of_stdin_goes_to_stdout() {
    let home = tempfile::tempdir().expect("a temporary directory");

    let neat = with_stdin(home.path(), &["policy", "fmt", "-"], UGLY);
    let check = with_stdin(home.path(), &["policy", "fmt", "-", "--check"], UGLY);
    let broken = with_stdin(home.path(), &["policy", "fmt", "-"], "{\"grants\": [}");

    assert_eq!((neat.code, neat.out.as_str()), (0, NEAT));
    assert_eq!((check.code, check.out.as_str()), (1, ""));
    assert!(
        check.err.contains("stdin is not formatted"),
        "{}",
        check.err
    );
    assert_eq!((broken.code, broken.out.as_str()), (1, ""));
    assert!(
        broken.err.contains("E002") && broken.err.contains("stdin: 1 error"),
        "{}",
        broken.err
    );
}

#[test]
fn fmt_formats_a_file_that_check_refuses() {
    let home = tempfile::tempdir().expect("a temporary directory");

    let neat = with_stdin(home.path(), &["policy", "fmt", "-"], "{\"grnats\":[]}");

    assert_eq!(
        (neat.code, neat.out.as_str()),
        (0, "{\n  \"grnats\": [],\n}\n")
    );
}

#[test]
fn import_prints_the_policy_and_says_what_is_different() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let theirs = r#"{"groups": {"group:ops": ["ana@example.com"]}, "ssh": [], "derpMap": {},
        "acls": [{"action": "accept", "src": ["group:ops", "autogroup:admin"], "dst": ["*:22"]}],
        "tests": [{"src": "ana@example.com", "accept": ["group:ops:22"]}]}"#;

    let imported = with_stdin(
        home.path(),
        &["policy", "import", "--tailscale", "-"],
        theirs,
    );

    assert_eq!(imported.code, 0, "{}", imported.err);
    assert!(
        imported.out.contains("// \"ssh\" was here"),
        "{}",
        imported.out
    );
    let said: Vec<&str> = imported.err.lines().collect();
    assert!(
        said.contains(&"\"ssh\" is left out: it only means something to Tailscale"),
        "{said:?}"
    );
    assert!(said.contains(&"\"derpMap\" is left out: it only means something to Tailscale"));
    assert!(
        imported.err.contains("\"autogroup:admin\" matches nobody"),
        "{}",
        imported.err
    );
    let check = with_stdin(home.path(), &["policy", "check", "-"], &imported.out);
    assert_eq!(check.code, 0, "{}", check.err);
    assert!(!check.err.contains("W101"), "{}", check.err);
    let again = with_stdin(
        home.path(),
        &["policy", "fmt", "--check", "-"],
        &imported.out,
    );
    assert_eq!(again.code, 0, "what is imported is formatted");
}

#[test]
fn a_tailscale_test_that_does_not_hold_here_is_pointed_out() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let theirs = r#"{"tagOwners": {"tag:a": []},
        "acls": [{"action": "accept", "src": ["autogroup:admin"], "dst": ["tag:a:22"]}],
        "tests": [{"src": "ana@example.com", "accept": ["tag:a:22"]}]}"#;

    let imported = with_stdin(
        home.path(),
        &["policy", "import", "--tailscale", "-"],
        theirs,
    );

    assert_eq!(imported.code, 0, "{}", imported.err);
    assert!(
        imported.err.contains("tests that do not hold here: 1 of 1"),
        "{}",
        imported.err
    );
}

#[test]
fn export_prints_what_tailscale_accepts_and_names_the_rest() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let ours = r#"{"grants": [
        {"id": "ask", "src": ["agent:a@*"], "dst": ["agent:b@*"], "msg": ["request"]},
        {"id": "named", "src": ["gw-a"], "dst": ["*"], "ip": ["22"]}]}"#;

    let exported = with_stdin(home.path(), &["policy", "export", "--tailscale", "-"], ours);
    let facts = with_stdin(
        home.path(),
        &["--json", "policy", "export", "--tailscale", "-"],
        ours,
    );

    assert_eq!(exported.code, 0, "{}", exported.err);
    assert!(
        exported.out.contains("crabmesh.dev/cap/msg"),
        "{}",
        exported.out
    );
    assert!(
        exported.err.starts_with("grant named: left out"),
        "{}",
        exported.err
    );
    let facts: serde_json::Value = serde_json::from_str(&facts.out).expect("JSON");
    assert_eq!(facts["text"], exported.out.as_str());
    assert_eq!(facts["notes"].as_array().map(Vec::len), Some(2));
}

#[test]
fn whose_file_it_is_must_be_said() {
    let home = tempfile::tempdir().expect("a temporary directory");

    for arguments in [
        &["policy", "import", "acl.hujson"][..],
        &["policy", "export"],
        &["policy", "import", "--tailscale"],
    ] {
        let ended = crabmesh(home.path(), arguments);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{arguments:?}");
    }
}

struct Ended {
    code: i32,
    out: String,
    err: String,
}

fn crabmesh(home: &Path, arguments: &[&str]) -> Ended {
    with_stdin(home, arguments, "")
}

fn with_stdin(home: &Path, arguments: &[&str], input: &str) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_crabmesh"))
        .args(arguments)
        .current_dir(home)
        .env("CRABMESH_STATE_DIR", home.join("state"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    // It may end before it has read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().expect("it ends");
    Ended {
        code: status.code().expect("no signal"),
        out: String::from_utf8(stdout).expect("text"),
        err: String::from_utf8(stderr).expect("text"),
    }
}
