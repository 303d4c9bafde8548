//! A SQLite file with its key beside it: made for this user alone, and opened with suspicion.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};
use zeroize::Zeroizing;

use super::SpoolError;
use crate::state::StateDir;

/// Makes the file where there is none. SQLite gives its other files the mode of this one.
pub(crate) fn make(path: &Path) -> Result<(), SpoolError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|source| SpoolError::Io {
            verb: "make",
            path: path.into(),
            source,
        })
}

/// The key of a database; made where there is neither.
pub(crate) fn read_key(
    state: &StateDir,
    name: &'static str,
    database: &Path,
) -> Result<Zeroizing<[u8; 32]>, SpoolError> {
    let wrong = || SpoolError::WrongKey {
        key: state.file(name),
        path: database.into(),
    };
    if let Some(bytes) = state.read(name)?.map(Zeroizing::new) {
        return <[u8; 32]>::try_from(bytes.as_slice())
            .map(Zeroizing::new)
            .map_err(|_| wrong());
    }
    if std::fs::metadata(database).is_ok_and(|facts| facts.len() > 0) {
        return Err(SpoolError::KeyMissing {
            key: state.file(name),
            path: database.into(),
        });
    }
    let key = Zeroizing::new(random());
    state.write(name, key.as_slice())?;
    Ok(key)
}

/// SQLite's own opinion of the file.
pub(crate) fn check(connection: &Connection) -> Result<(), rusqlite::Error> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(verdict)))
}

/// Whether the file itself is damaged.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

/// Moves a damaged database and its log out of the way.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf, SpoolError> {
    let free = (1..)
        .map(|n| with_suffix(path, &format!(".damaged-{n}")))
        .find(|aside| !aside.exists());
    let aside = free.expect("a file system has fewer names than numbers");
    let renamed = |source| SpoolError::Io {
        verb: "set aside",
        path: path.into(),
        source,
    };
    let log = with_suffix(path, "-wal");
    if log.exists() {
        std::fs::rename(&log, with_suffix(&aside, "-wal")).map_err(renamed)?;
    }
    std::fs::rename(path, &aside).map_err(renamed)?;
    Ok(aside)
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source does not fail after boot");
    bytes
}
