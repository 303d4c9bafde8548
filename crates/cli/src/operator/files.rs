//! The operator's files: sealed root, role keys, what this machine believes, what it issued.
//!
//! | file | holds |
//! |---|---|
//! | `root.sealed` | root, sealed with the recovery code |
//! | `ROLE.EPOCH.key` | a role key; the trust log says which epoch is in force |
//! | `trust.cbor` | trust log, beacons, policy, revocations, and the members that were verified |
//! | `ledger.json` | what was issued |
//! | `beacons.json` | where to push, with the claims that were not redeemed yet |
//! | `owner.json` | who `init --user` said the operator is |
//! | `kill.txt` | the kills that no beacon took, for `crabmesh kill --apply` |
//! | `policy.hujson` | the policy as people edit it |
//! | `history.json`, `policy.EPOCH.VERSION.hujson` | the policies that were signed here |
//!
//! The directory is 0700, the files 0600, each replaced whole. **Invariant:** a serial is on disk
//! before what it numbers leaves this machine, and a new role key before the log that names it.

use std::path::Path;
use std::sync::Arc;

use identity::{
    Claim, HostPort, IdentityKey, IdentityPublic, KeyRole, KillFile, Ledger, NodeId, RecoveryCode,
    RoleKey, Root, RootError, Standing, Trust, UnixTime, UserName,
};
use node::state::{StateDir, StateLock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::context::{Context, Owner};
use crate::failure::Failure;

/// The operator's state, held by one process.
pub struct OperatorFiles {
    pub(super) dir: StateDir,
    _lock: StateLock,
    /// What this machine believes.
    pub trust: Trust,
    /// What it issued.
    pub ledger: Ledger,
    /// Where it pushes.
    pub beacons: Vec<BeaconEntry>,
}

/// One beacon to push to.
#[derive(Clone, Serialize, Deserialize)]
pub struct BeaconEntry {
    /// Its node id, by the membership that was signed for it.
    pub node: NodeId,
    /// Where it listens.
    pub address: HostPort,
    /// Its identity key: who answers must hold it.
    pub identity: IdentityPublic,
    /// The text of its claim, until it was redeemed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
}

impl OperatorFiles {
    /// Opens the operator's files of an existing mesh.
    pub fn open(context: &Context) -> Result<Self, Failure> {
        Self::open_in(&context.state_dir(Owner::Operator)?)
    }

    /// The same, in that directory.
    pub fn open_in(path: &Path) -> Result<Self, Failure> {
        if !path.join(TRUST).exists() {
            return Err(
                Failure::failed(format!("{} holds no operator's files", path.display()))
                    .hint("make a mesh with `crabmesh init`, or name its files with --state-dir"),
            );
        }
        let dir = StateDir::open(path)?;
        let lock = dir.lock()?;
        let snapshot = dir.read(TRUST)?.unwrap_or_default();
        let trust = Trust::restore(&snapshot).map_err(|error| {
            Failure::failed(format!(
                "{} cannot be read: {error}",
                dir.file(TRUST).display()
            ))
        })?;
        let ledger = dir.read_json(LEDGER)?.unwrap_or_default();
        let beacons = dir.read_json(BEACONS)?.unwrap_or_default();
        Ok(Self {
            dir,
            _lock: lock,
            trust,
            ledger,
            beacons,
        })
    }

    /// Makes the files of a new mesh; refuses a directory that has one. The mesh exists once
    /// [`save`](Self::save) wrote its trust.
    pub fn create(
        path: &Path,
        root: &Root,
        code: &RecoveryCode,
        salt: [u8; 16],
        roles: &[RoleKey],
        trust: Trust,
    ) -> Result<Self, Failure> {
        let dir = StateDir::create(path)?;
        let lock = dir.lock()?;
        if dir.file(TRUST).exists() {
            return Err(Failure::failed(format!(
                "{} is the operator of a mesh already",
                path.display()
            ))
            .hint("name another directory with --state-dir"));
        }
        dir.write(ROOT, &root.seal(code, salt))?;
        let files = Self {
            dir,
            _lock: lock,
            trust,
            ledger: Ledger::default(),
            beacons: Vec::new(),
        };
        roles.iter().try_for_each(|role| files.write_role(role))?;
        Ok(files)
    }

    /// Writes what this machine knows: the ledger first, so that no serial is given twice.
    pub fn save(&self) -> Result<(), Failure> {
        self.dir.write_json(LEDGER, &self.ledger)?;
        self.dir.write_json(BEACONS, &self.beacons)?;
        self.dir.write(TRUST, &self.trust.snapshot())?;
        Ok(())
    }

    /// The key that holds this role now.
    pub fn role(&self, role: KeyRole) -> Result<RoleKey, Failure> {
        let (epoch, _) = self.trust.log().current(role);
        let name = role_file(role, epoch);
        let bytes = self.dir.read(&name)?.map(Zeroizing::new);
        let key = bytes
            .as_deref()
            .and_then(|bytes| <&[u8; 32]>::try_from(bytes.as_slice()).ok());
        key.and_then(|bytes| RoleKey::from_bytes(bytes, role, self.trust.log()))
            .ok_or_else(|| {
                Failure::failed(format!(
                    "{} is not the {role} key of this mesh",
                    self.dir.file(&name).display()
                ))
                .hint(format!(
                    "make a new one with the recovery code: `crabmesh root replace {role}`"
                ))
            })
    }

    /// The key by which this machine proves itself to beacons.
    pub fn operator_key(&self) -> Result<Arc<IdentityKey>, Failure> {
        Ok(Arc::new(self.role(KeyRole::Operator)?.key().clone()))
    }

    /// The operator key before that one, while its file is still here: a beacon that has not heard
    /// of the new one lets the old one in, to be told.
    pub fn old_operator_key(&self) -> Result<Option<Arc<IdentityKey>>, Failure> {
        let (epoch, _) = self.trust.log().current(KeyRole::Operator);
        let bytes = self
            .dir
            .read(&role_file(KeyRole::Operator, epoch.saturating_sub(1)))?
            .map(Zeroizing::new);
        let bytes = bytes
            .as_deref()
            .and_then(|bytes| <&[u8; 32]>::try_from(bytes.as_slice()).ok());
        Ok(bytes.map(|bytes| Arc::new(IdentityKey::from_bytes(bytes))))
    }

    /// Gives a role its next key; the caller saves. The file of the old one goes with the next
    /// call of [`forget_old_roles`](Self::forget_old_roles).
    pub fn replace_role(
        &mut self,
        role: KeyRole,
        code: &RecoveryCode,
        seed: [u8; 32],
        not_before: UnixTime,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let sealed = self.dir.read(ROOT)?.unwrap_or_default();
        let failed = |error: RootError| Failure::failed(error.to_string());
        let root = Root::open(&sealed, code).map_err(failed)?;
        let (key, log) = root
            .replace(self.trust.log(), role, seed, not_before, now)
            .map_err(failed)?;
        self.write_role(&key)?;
        self.trust
            .accept_trust_log(log.bytes(), now)
            .map_err(|error| {
                Failure::failed(format!("the new trust log does not hold: {error}"))
            })?;
        Ok(())
    }

    /// Removes the keys of ended epochs: they sign nothing that counts.
    pub fn forget_old_roles(&self) -> Result<(), Failure> {
        for role in KeyRole::ALL {
            let (epoch, _) = self.trust.log().current(role);
            for old in 1..epoch {
                self.dir.remove(&role_file(role, old))?;
            }
        }
        Ok(())
    }

    /// The beacons that are in, in the order in which they were added.
    pub fn living_beacons(&self, now: UnixTime) -> impl Iterator<Item = &BeaconEntry> {
        self.beacons
            .iter()
            .filter(move |beacon| self.trust.standing(&beacon.node, now) == Standing::Good)
    }

    /// Adds a beacon whose certificate was just signed.
    pub fn add_beacon(
        &mut self,
        certificate: &[u8],
        claim: &Claim,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let failed =
            |error| Failure::failed(format!("the beacon's membership does not hold: {error}"));
        let member = self
            .trust
            .examine_certificate(certificate)
            .map_err(failed)?;
        self.trust
            .accept_certificate(certificate, now)
            .map_err(failed)?;
        let address = member
            .beacon
            .ok_or_else(|| Failure::failed("the membership is not a beacon's"))?;
        self.beacons.push(BeaconEntry {
            node: member.node,
            address,
            identity: claim.identity,
            claim: Some(claim.to_text().to_string()),
        });
        Ok(())
    }

    /// Notes who the operator is, where that was said.
    pub fn write_owner(&self, user: Option<&UserName>) -> Result<(), Failure> {
        Ok(self.dir.write_json(OWNER, &user)?)
    }

    /// Who the operator is, as far as known.
    pub fn owner(&self) -> Result<Option<UserName>, Failure> {
        Ok(self.dir.read_json::<Option<UserName>>(OWNER)?.flatten())
    }

    /// Writes the kills for whoever carries them by hand; returns where.
    pub fn write_kill(&self) -> Result<std::path::PathBuf, Failure> {
        let text = KillFile::of(&self.trust).map(|file| file.to_text() + "\n");
        self.dir.write(KILL, text.unwrap_or_default().as_bytes())?;
        Ok(self.dir.file(KILL))
    }

    /// Writes the policy that people edit.
    pub fn write_policy(&self, text: &str) -> Result<std::path::PathBuf, Failure> {
        self.dir.write(POLICY, text.as_bytes())?;
        Ok(self.dir.file(POLICY))
    }

    /// The policy that people edit, where it can be read.
    pub fn policy_text(&self) -> Option<String> {
        std::fs::read_to_string(self.dir.file(POLICY)).ok()
    }

    fn write_role(&self, key: &RoleKey) -> Result<(), Failure> {
        Ok(self.dir.write(
            &role_file(key.role(), key.epoch()),
            key.to_bytes().as_slice(),
        )?)
    }
}

fn role_file(role: KeyRole, epoch: u32) -> String {
    format!("{role}.{epoch}.key")
}

const ROOT: &str = "root.sealed";
const TRUST: &str = "trust.cbor";
const LEDGER: &str = "ledger.json";
const BEACONS: &str = "beacons.json";
const OWNER: &str = "owner.json";
const KILL: &str = "kill.txt";
/// Also the default of `crabmesh policy`.
pub const POLICY: &str = "policy.hujson";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: UnixTime = UnixTime(1_750_000_000);

    fn found(path: &Path) -> (OperatorFiles, RecoveryCode) {
        let name = "home".parse().expect("a name");
        let seeds = [[2; 32], [3; 32], [4; 32], [5; 32]];
        let (root, roles, log) = Root::found(&name, [1; 32], seeds, NOW);
        let code = RecoveryCode::generate([6; 16]);
        let trust = Trust::new(log.bytes(), NOW).expect("its own log");
        let files =
            OperatorFiles::create(path, &root, &code, [7; 16], &roles, trust).expect("made");
        files.save().expect("saved");
        (files, code)
    }

    #[test]
    fn the_files_of_a_mesh_read_back_and_are_their_owners_only() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("operator");
        let (files, _) = found(&path);
        let mesh = files.trust.mesh();
        drop(files);

        let files = OperatorFiles::open_in(&path).expect("there");

        assert_eq!(files.trust.mesh(), mesh);
        for role in KeyRole::ALL {
            assert_eq!(files.role(role).expect("its key").role(), role);
        }
        for entry in std::fs::read_dir(&path).expect("a directory") {
            let entry = entry.expect("an entry");
            let mode = entry.metadata().expect("facts").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{:?}", entry.file_name());
        }
    }

    #[test]
    fn one_directory_is_the_operator_of_one_mesh_in_one_process() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("operator");
        let (files, code) = found(&path);
        assert!(OperatorFiles::open_in(&path).is_err(), "held by another");
        drop(files);

        let name = "other".parse().expect("a name");
        let (root, roles, log) = Root::found(&name, [9; 32], [[8; 32]; 4], NOW);
        let trust = Trust::new(log.bytes(), NOW).expect("its own log");
        let again = OperatorFiles::create(&path, &root, &code, [7; 16], &roles, trust);

        assert!(again.is_err());
        assert!(
            OperatorFiles::open_in(home.path()).is_err(),
            "no files there"
        );
    }

    #[test]
    fn only_the_recovery_code_replaces_a_role_key() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("operator");
        let (mut files, code) = found(&path);
        let wrong = RecoveryCode::generate([0; 16]);

        assert!(
            files
                .replace_role(KeyRole::Operator, &wrong, [9; 32], NOW, NOW)
                .is_err()
        );
        assert_eq!(files.role(KeyRole::Operator).expect("the first").epoch(), 1);
        files
            .replace_role(KeyRole::Operator, &code, [9; 32], NOW, NOW)
            .expect("replaced");
        files.save().expect("saved");
        drop(files);

        let files = OperatorFiles::open_in(&path).expect("there");
        assert_eq!(
            files.role(KeyRole::Operator).expect("the second").epoch(),
            2
        );
        assert!(
            files.old_operator_key().expect("readable").is_some(),
            "until beacons know the new one"
        );
        files.forget_old_roles().expect("removed");
        assert!(files.old_operator_key().expect("readable").is_none());
    }
}
