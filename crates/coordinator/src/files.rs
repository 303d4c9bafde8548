//! The beacon's own secrets on disk: its identity key, and until it is claimed the claim's secret.
//! The directory is 0700, the files are 0600; a file that others can read is refused, not mended,
//! since they may have read it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The identity key, 32 bytes.
const IDENTITY: &str = "identity.key";
/// The claim's secret, 32 bytes; gone once the beacon is claimed.
const CLAIM: &str = "claim.secret";
/// The database.
const DATABASE: &str = "beacon.db";

/// The directory of a beacon.
#[derive(Clone, Debug)]
pub struct BeaconDir {
    path: PathBuf,
}

impl BeaconDir {
    /// Opens the directory, making it where it is missing.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let failed = |source| FileError::Io {
            path: path.into(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
        match mode & 0o077 {
            0 => Ok(Self { path: path.into() }),
            _ => Err(FileError::Permissions {
                path: path.into(),
                wanted: "700",
            }),
        }
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The seed of the identity key: the one on disk, else this fresh one, which is written first.
    pub fn identity(&self, fresh: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, FileError> {
        self.secret(IDENTITY, fresh)
    }

    /// The secret of the claim, likewise.
    pub fn claim(&self, fresh: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, FileError> {
        self.secret(CLAIM, fresh)
    }

    /// The claim was redeemed: its secret is void.
    pub fn remove_claim(&self) -> Result<(), FileError> {
        let path = self.path.join(CLAIM);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(FileError::Io { path, source }),
            Ok(()) => self.sync(),
        }
    }

    fn secret(&self, name: &str, fresh: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, FileError> {
        let path = self.path.join(name);
        let failed = |source| FileError::Io {
            path: path.clone(),
            source,
        };
        match File::open(&path) {
            Ok(mut file) => {
                let facts = file.metadata().map_err(failed)?;
                if facts.permissions().mode() & 0o077 != 0 {
                    return Err(FileError::Permissions {
                        path,
                        wanted: "600",
                    });
                }
                let mut secret = Zeroizing::new([0; 32]);
                file.read_exact(&mut secret[..]).map_err(failed)?;
                Ok(secret)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = self.path.join(format!(".{name}.new"));
                let mut options = OpenOptions::new();
                let mut file = options
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&new)
                    .map_err(failed)?;
                file.write_all(fresh)
                    .and_then(|()| file.sync_all())
                    .map_err(failed)?;
                fs::rename(&new, &path).map_err(failed)?;
                self.sync()?;
                Ok(Zeroizing::new(*fresh))
            }
            Err(source) => Err(failed(source)),
        }
    }

    fn sync(&self) -> Result<(), FileError> {
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|source| FileError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

/// Why the beacon's files could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file system refused.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{} can be read by other users; hint: chmod {wanted} {}", path.display(), path.display())]
    Permissions {
        /// Which file or directory.
        path: PathBuf,
        /// The mode it should have.
        wanted: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_for_its_owner_only_and_the_claim_can_be_voided() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("beacon");
        let files = BeaconDir::open(&path).expect("made");

        assert_eq!(*files.claim(&[1; 32]).expect("made"), [1; 32]);
        assert_eq!(*files.claim(&[2; 32]).expect("read"), [1; 32]);
        let mode = fs::metadata(path.join(CLAIM))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        files.remove_claim().expect("removed");
        files.remove_claim().expect("twice is fine");
        assert_eq!(*files.claim(&[3; 32]).expect("made"), [3; 32]);

        fs::set_permissions(path.join(CLAIM), fs::Permissions::from_mode(0o644)).expect("set");
        assert!(matches!(
            files.claim(&[4; 32]),
            Err(FileError::Permissions { .. })
        ));
    }
}
