//! `crabmesh bench --quick` measures everything once, in seconds, and cleans up. What the figures
//! are is not a matter for a test: they depend on the machine and its hour.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_quick_bench_shows_every_figure_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().expect("a temporary directory");

    let ended = Command::new(env!("CARGO_BIN_EXE_crabmesh"))
        .args(["bench", "--quick", "--json"])
        .env("TMPDIR", temporary.path())
        .output()
        .expect("the binary");

    let told = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(
        ended.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let rows: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("one object a line"))
        .collect();
    let what: Vec<&str> = rows.iter().filter_map(|row| row["what"].as_str()).collect();
    for begin in [
        "ask",
        "bulk",
        "durable",
        "idle",
        "answers in parts",
        "100 inboxes",
        "the same after a restart",
        "cut by a policy",
        "cut by a kill",
    ] {
        assert!(
            what.iter().any(|what| what.starts_with(begin)),
            "{begin} is not in {what:?}"
        );
    }
    assert!(
        rows.iter()
            .all(|row| row["pass"].is_boolean() && row["limit"].is_string())
    );
    assert_eq!(
        std::fs::read_dir(temporary.path())
            .expect("readable")
            .count(),
        0,
        "left behind"
    );
}
