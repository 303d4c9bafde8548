//! The OpenClaw plugin's own tests, by Node's test runner; skipped by name where there is no Node that
//! runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let node = node();
    if node.is_none() {
        eprintln!("the_plugins_own_tests_pass is ignored: no node of version 22 or later is here");
    }
    let trial = Trial::test("the_plugins_own_tests_pass", {
        let node = node.clone();
        move || {
            the_plugins_own_tests_pass(&node.unwrap_or_default());
            Ok(())
        }
    });
    let trials = vec![trial.with_ignored_flag(node.is_none())];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn the_plugins_own_tests_pass(node: &Path) {
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/openclaw");
    let ended = Command::new(node)
        .arg("--test")
        .current_dir(plugin)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    let passed = said.lines().find_map(|line| {
        let (_, count) = line.split_once("pass ")?;
        count.trim().parse::<u32>().ok()
    });
    assert!(passed >= Some(30), "the tests are gone: {said}");
}

/// On the path, or the lab's.
fn node() -> Option<PathBuf> {
    let lab = std::env::var_os("CRABMESH_LAB")
        .map(PathBuf::from)
        .or_else(|| {
            let home = std::env::var_os("HOME").map(PathBuf::from);
            home.map(|home| home.join(".cache/crabmesh-lab"))
        });
    let lab = lab.map(|lab| lab.join("node/node_modules/.bin/node"));
    [Some(PathBuf::from("node")), lab]
        .into_iter()
        .flatten()
        .find(|node| {
            let version = Command::new(node).arg("--version").output();
            let version = version.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
            let major = version.ok().and_then(|version| {
                let major = version
                    .trim()
                    .trim_start_matches('v')
                    .split('.')
                    .next()?
                    .to_owned();
                major.parse::<u32>().ok()
            });
            major >= Some(22)
        })
}
