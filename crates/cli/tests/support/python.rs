//! A Python with the packages that a test needs, made once and kept in the user's cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// A Python that has exactly these packages, as `name==version`; the reason where it cannot be had:
/// no Python, no `venv`, no registry. Two tests that ask at once wait for each other.
pub fn python(requirements: &[&str]) -> Result<PathBuf, String> {
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    let cache = PathBuf::from(home).join(".cache/crabmesh-tests");
    let wanted = requirements.join("\n");
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&wanted)[..8]);
    let place = cache.join(format!("venv-{hash}"));
    let said = |error: std::io::Error| format!("{}: {error}", place.display());
    fs::create_dir_all(&cache).map_err(said)?;
    // Held until this returns; a test that is killed lets go of it.
    let lock = File::create(cache.join(format!("venv-{hash}.lock"))).map_err(said)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| said(error.into()))?;
    let (python, ready) = (place.join("bin/python"), place.join("ready"));
    if fs::read_to_string(&ready).is_ok_and(|made| made == wanted) && runs(&python) {
        return Ok(python);
    }
    if place.exists() {
        fs::remove_dir_all(&place).map_err(said)?;
    }
    done(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
    let install = ["-m", "pip", "install", "--quiet", "--no-input"];
    done(Command::new(&python).args(install).args(requirements))?;
    fs::write(ready, wanted).map_err(said)?;
    Ok(python)
}

/// The Python below a venv may have gone.
fn runs(python: &Path) -> bool {
    done(Command::new(python).args(["-c", ""])).is_ok()
}

fn done(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stderr, .. } = command
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&stderr);
    let last = said.trim().lines().next_back().unwrap_or_default();
    match status.success() {
        true => Ok(()),
        false => Err(format!("{program} ended with {status}: {last}")),
    }
}
