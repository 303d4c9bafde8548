//! The command line as scripts meet it: help, exit codes, which stream says what.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Every command, with its subcommands. Its help is a promise: a change shows in the diff of
/// `tests/help`. To accept one: `CRABMESH_BLESS=1 cargo test -p crabmesh-cli --test cli`.
#[test]
fn every_command_explains_itself() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let bless = std::env::var_os("CRABMESH_BLESS").is_some();
    let mut wrong = Vec::new();
    let mut queue: Vec<Vec<String>> = vec![Vec::new()];
    let mut seen = BTreeMap::new();
    while let Some(path) = queue.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("--help");
        let ended = crabmesh(home.path(), &arguments);
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}");
        assert!(ended.stderr.is_empty(), "{arguments:?}: help is a result");
        let help = String::from_utf8(ended.stdout).expect("text");
        for command in subcommands(&help) {
            queue.push(path.iter().cloned().chain([command]).collect());
        }
        let name = if path.is_empty() {
            "crabmesh".to_owned()
        } else {
            path.join("-")
        };
        seen.insert(format!("{name}.txt"), help);
    }
    for (file, help) in &seen {
        let at = golden.join(file);
        if bless {
            std::fs::create_dir_all(&golden).expect("made");
            std::fs::write(&at, help).expect("written");
        }
        match std::fs::read_to_string(&at) {
            Ok(before) if before == *help => {}
            Ok(before) => wrong.push(format!("{file} is now:\n{help}\nand was:\n{before}")),
            Err(error) => wrong.push(format!("{file}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen.len() >= 27, "{:?}", seen.keys());
}

#[test]
fn without_a_node_the_exit_code_is_5_and_the_hint_is_up() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["agents"],
        &["agents", "--as", "planner"],
        &["agent", "list"],
        &["agent", "add", "planner"],
        &["agent", "rotate", "planner"],
        &["agent", "remove", "planner"],
        &["ping", "gw-b"],
        &["send", "coder@gw-b", "hi", "--as", "planner"],
        &[
            "send",
            "coder@gw-b",
            "hi",
            "--as",
            "planner",
            "--ask",
            "--json",
        ],
        &["recv", "--as", "coder"],
        &["recv", "--as", "coder", "--follow"],
        &["reply", ID, "yes", "--as", "coder"],
        &["ack", ID, "--as", "coder"],
    ] {
        let ended = crabmesh(home.path(), arguments);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(5), "{arguments:?}: {said}");
        assert!(
            said.starts_with("crabmesh: ") && said.contains("\nhint: "),
            "{arguments:?}: {said}"
        );
        assert!(said.contains("crabmesh up"), "{arguments:?}: {said}");
        assert!(ended.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn what_makes_no_sense_ends_with_2() {
    let home = tempfile::tempdir().expect("a temporary directory");
    for (arguments, words) in [
        (&["sing"][..], "sing"),
        (&["send"], "AGENT@GATEWAY"),
        (&["send", "coder@gw-b", "hi"], "--as"),
        (&["send", "coder", "hi", "--as", "planner"], "AGENT@GATEWAY"),
        (
            &["send", "Coder@gw-b", "hi", "--as", "planner"],
            "agent name",
        ),
        (
            &["send", "coder@gw-b", "hi", "--as", "planner", "--ttl", "1y"],
            "30s",
        ),
        (
            &["send", "coder@gw-b", "hi", "--as", "planner", "--id", "7"],
            "UUIDv7",
        ),
        (
            &["recv", "--as", "coder", "--ack", "--exec", "true"],
            "--exec",
        ),
        (&["join"], "TOKEN"),
        (&["invite"], "--name"),
        (&["agent", "add", "../x"], "agent name"),
    ] {
        let ended = crabmesh(home.path(), arguments);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(ended.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_token_is_never_sent_to_another_host() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let ended = command(home.path())
        .args(["recv", "--as", "coder"])
        .env("CRABMESH_API", "http://192.0.2.1:4749")
        .env("CRABMESH_TOKEN", "cma_secret")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();

    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(
        said.contains("another host") && !said.contains("cma_secret"),
        "{said}"
    );
}

#[test]
fn a_directory_that_never_joined_is_no_gateway() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let ended = crabmesh(home.path(), &["up"]);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();

    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("crabmesh join"), "{said}");
}

fn crabmesh(home: &Path, arguments: &[&str]) -> Output {
    command(home).args(arguments).output().expect("it runs")
}

fn command(home: &Path) -> Command {
    let state: PathBuf = home.join("state");
    let mut command = Command::new(env!("CARGO_BIN_EXE_crabmesh"));
    for name in [
        "CRABMESH_API",
        "CRABMESH_TOKEN",
        "CRABMESH_LOG",
        "COLUMNS",
        "LINES",
    ] {
        command.env_remove(name);
    }
    command
        .env("CRABMESH_STATE_DIR", state)
        .env("HOME", home)
        .stdin(Stdio::null());
    command
}

/// The names below `Commands:`.
fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    // Continued descriptions are indented further than names.
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

const ID: &str = "019ab3f0-6c1e-7d2a-8a55-0c9e6f6f3b1d";
