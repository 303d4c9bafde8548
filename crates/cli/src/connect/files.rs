//! Files of another program's user: replaced whole, with the mode and the owner that they had or
//! must have.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::failure::Failure;

/// The credentials file, in our directory.
pub const CREDENTIALS: &str = "credentials.json";
/// The journal.
pub const JOURNAL: &str = "connect.json";
/// The configuration as it was before the first change.
pub const BACKUP: &str = "openclaw.json.before";

/// Whom the gateway's files belong to: everything that we write does too.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    uid: u32,
    gid: u32,
    foreign: bool,
}

impl Owner {
    /// The owner of the configuration. Only root may act for another user.
    pub fn of(config: &Path) -> Result<Self, Failure> {
        let facts = fs::metadata(config).map_err(|error| cannot("read", config, &error))?;
        let own = rustix::process::geteuid().as_raw();
        let (uid, gid) = (facts.uid(), facts.gid());
        match uid == own || own == 0 {
            true => Ok(Self {
                uid,
                gid,
                foreign: uid != own,
            }),
            false => Err(Failure::usage(format!(
                "{} belongs to user {uid}, and this is user {own}",
                config.display()
            ))
            .hint("run this as the user of the gateway")),
        }
    }

    fn give(&self, path: &Path) -> Result<(), Failure> {
        if self.foreign {
            chown(path, Some(self.uid), Some(self.gid))
                .map_err(|error| cannot("give away", path, &error))?;
        }
        Ok(())
    }

    /// Makes a directory for its owner alone, with its parents.
    pub fn make_dir(&self, path: &Path) -> Result<(), Failure> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_dir(parent)?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
            .map_err(|error| cannot("make", path, &error))?;
        self.give(path)
    }

    /// Replaces a file whole and durably.
    pub fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
        let failed = |error| cannot("write", path, &error);
        let dir = path.parent().unwrap_or(Path::new("/"));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!(".{name}.crabmesh"));
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed)?;
        file.write_all(bytes).map_err(failed)?;
        file.set_permissions(Permissions::from_mode(mode))
            .map_err(failed)?;
        file.sync_all().map_err(failed)?;
        self.give(&temporary)?;
        fs::rename(&temporary, path).map_err(failed)?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }
}

/// The text of a file, where there is one.
pub fn read(path: &Path) -> Result<Option<String>, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

/// The mode of a file.
pub fn mode(path: &Path) -> Result<u32, Failure> {
    let facts = fs::metadata(path).map_err(|error| cannot("read", path, &error))?;
    Ok(facts.permissions().mode() & 0o7777)
}

/// By which a text is known again.
pub fn hash(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()))
}

/// What went wrong, with which file.
pub fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}
