//! A state directory: who this process is and what it must not forget.
//!
//! The directory is 0700 and every file in it 0600. A file is replaced whole (temporary file,
//! fsync, rename, fsync of the directory), so a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One directory of state, with its permissions checked.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// Held while a process uses the directory; a second process is refused. Released with the process.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateDir {
    /// Opens the directory, making it (and its parents) where it is missing.
    pub fn create(path: &Path) -> Result<Self, StateError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| StateError::io("make", path, source))?;
        Self::open(path)
    }

    /// Opens the directory; it must exist and be this user's alone.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let facts = fs::metadata(path).map_err(|source| StateError::io("open", path, source))?;
        if facts.permissions().mode() & 0o077 != 0 {
            return Err(StateError::Permissions {
                path: path.into(),
                wanted: "700",
            });
        }
        if facts.uid() != rustix::process::geteuid().as_raw() {
            return Err(StateError::Owner { path: path.into() });
        }
        Ok(Self { path: path.into() })
    }

    /// Where the directory is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Takes the directory for this process.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.file("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StateError::io("open", &path, source))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(StateLock { _file: file }),
            Err(_) => Err(StateError::InUse {
                path: self.path.clone(),
            }),
        }
    }

    /// Reads a file whole; `None` where there is none. Files that others can read are refused:
    /// any of them may hold a key.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.file(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::io("open", &path, source)),
        };
        let facts = file
            .metadata()
            .map_err(|source| StateError::io("read", &path, source))?;
        if facts.permissions().mode() & 0o077 != 0 {
            return Err(StateError::Permissions {
                path,
                wanted: "600",
            });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|source| StateError::io("read", &path, source))?;
        Ok(Some(bytes))
    }

    /// Replaces a file whole and durably.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        let temporary = self.file(&format!(".{name}.new"));
        let failed = |source| StateError::io("write", &path, source);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&temporary, &path).map_err(failed)?;
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }

    /// Removes a file; one that is missing is fine.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::io("remove", &path, source))
            }
            _ => Ok(()),
        }
    }

    /// Reads a JSON file; `None` where there is none.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.read(name)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(source) => Err(StateError::Json {
                path: self.file(name),
                source,
            }),
        }
    }

    /// Replaces a JSON file.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|source| StateError::Json {
            path: self.file(name),
            source,
        })?;
        self.write(name, &bytes)
    }
}

impl StateError {
    fn io(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            verb,
            path: path.into(),
            source,
        }
    }
}

/// Why state could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{} can be read by other users; hint: chmod {wanted} {}", path.display(), path.display())]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// The mode it should have.
        wanted: &'static str,
    },
    /// Another user's directory.
    #[error("{} belongs to another user; hint: run as its owner, or name another with --state-dir", path.display())]
    Owner {
        /// The directory.
        path: PathBuf,
    },
    /// Another process runs on it.
    #[error("{} is in use by another process; hint: one node or beacon per state directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error("{} is not the JSON that was expected", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_readable_by_its_owner_only() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::create(&home.path().join("deep/er")).expect("made");

        state.write("node.key", b"old").expect("written");
        state.write("node.key", b"new").expect("replaced");

        assert_eq!(
            state.read("node.key").expect("readable").as_deref(),
            Some(&b"new"[..])
        );
        let mode = fs::metadata(state.file("node.key"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(state.read("absent").expect("no error").is_none());
    }

    #[test]
    fn what_others_can_read_is_refused_by_name() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::create(&home.path().join("s")).expect("made");
        state.write("node.key", b"secret").expect("written");

        fs::set_permissions(state.file("node.key"), fs::Permissions::from_mode(0o644))
            .expect("set");

        let error = state.read("node.key").expect_err("refused").to_string();
        assert!(
            error.contains("node.key") && error.contains("chmod 600"),
            "{error}"
        );
    }

    #[test]
    fn one_process_uses_a_directory_at_a_time() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let state = StateDir::create(&home.path().join("s")).expect("made");

        let held = state.lock().expect("free");

        assert!(matches!(state.lock(), Err(StateError::InUse { .. })));
        drop(held);
        assert!(state.lock().is_ok());
    }
}
