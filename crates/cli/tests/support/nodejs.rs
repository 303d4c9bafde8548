//! A Node.js that runs TypeScript as it is: the machine's own, or one from npm, fetched once and kept
//! in the user's cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program; the reason where it cannot be had: no npm, no registry. Two tests that ask at once
/// wait for each other.
pub fn nodejs() -> Result<PathBuf, String> {
    let own = PathBuf::from("node");
    if runs_typescript(&own) {
        return Ok(own);
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let cache = PathBuf::from(home).join(".cache/crabmesh-tests");
    let place = cache.join(format!("node-{VERSION}"));
    let said = |error: std::io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(&place).map_err(said)?;
    // Held until this returns; a test that is killed lets go of it.
    let lock = File::create(cache.join(format!("node-{VERSION}.lock"))).map_err(said)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| said(error.into()))?;
    let program = place.join("node_modules/.bin/node");
    if runs_typescript(&program) {
        return Ok(program);
    }
    let installed = Command::new("npm")
        .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
        .arg(&place)
        .arg(format!("node@{VERSION}"))
        .output()
        .map_err(|error| format!("npm: {error}"))?;
    match installed.status.success() && runs_typescript(&program) {
        true => Ok(program),
        false => Err(format!("npm cannot install node@{VERSION}")),
    }
}

/// From 22.18 on without a flag.
fn runs_typescript(node: &Path) -> bool {
    let evaluate = "process.exit(process.features.typescript ? 0 : 1)";
    let ran = Command::new(node).args(["-e", evaluate]).output();
    ran.is_ok_and(|output| output.status.success())
}

/// What the OpenClaw lab has, too.
const VERSION: &str = "24.21.0";
