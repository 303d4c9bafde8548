//! The trust log: which keys hold which role, in which epoch. Hash-chained, signed by root.
//!
//! **Invariant:** epochs only rise along the chain, and only root raises them. Of two branches the
//! one whose last entry was signed later counts: that entry names the last one it keeps, by the
//! hash chain, and so cuts off every other.

use std::time::Duration;

use crate::cbor::{FormatError, FromValue, Value};
use crate::envelope::{self, Kind, Sealed};
use crate::keys::IdentityKey;
use crate::{Digest, IdentityPublic, MeshId, MeshName, TrustError, UnixTime};

/// What a role key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyRole {
    /// Signs memberships.
    Issuer,
    /// Signs the policy.
    Policy,
    /// Signs revocations.
    Revoker,
    /// Proves the operator to beacons.
    Operator,
}

/// The log, verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustLog {
    mesh: MeshId,
    name: MeshName,
    root: IdentityPublic,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    bytes: Vec<u8>,
    digest: Digest,
    signed_at: UnixTime,
    not_before: UnixTime,
    /// Epoch and key of each role, in the order of [`KeyRole::ALL`].
    roles: [(u32, IdentityPublic); 4],
}

/// How a role key's epoch stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Epoch {
    /// In force, with its key.
    Current(IdentityPublic),
    /// Ended by an entry that counts from `not_before`.
    Ended {
        /// The key that it had.
        key: IdentityPublic,
        /// From when on it is void.
        not_before: UnixTime,
    },
    /// Not in this log.
    Unknown,
}

impl KeyRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Issuer, Self::Policy, Self::Revoker, Self::Operator];

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Policy => "policy",
            Self::Revoker => "revoker",
            Self::Operator => "operator",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl TrustLog {
    /// Reads and verifies a whole log: root's signature on each entry, the chain, the epochs.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        let parts: Vec<&[u8]> = Vec::from_value(Value::decode(bytes)?)?;
        let (&first, rest) = parts.split_first().ok_or(FormatError::Malformed)?;
        if parts.len() > MAX_ENTRIES {
            return Err(FormatError::TooLong.into());
        }
        let sealed = Sealed::open(Kind::TrustLogEntry, first)?;
        let (entry, genesis) = Entry::read(&sealed, 0)?;
        let Some((root, name)) = genesis else {
            return Err(FormatError::Contradiction.into());
        };
        sealed.verify(&MeshId([0; 32]), &root)?;
        let mesh = MeshId(entry.digest.0);
        let mut log = Self {
            mesh,
            name,
            root,
            entries: vec![entry],
            bytes: bytes.to_vec(),
        };
        for (index, &bytes) in (1..).zip(rest) {
            let sealed = Sealed::open(Kind::TrustLogEntry, bytes)?;
            sealed.verify(&mesh, &root)?;
            let (entry, genesis) = Entry::read(&sealed, index)?;
            let previous: Option<Digest> = sealed.claims()?.optional(PREVIOUS)?;
            let chained = genesis.is_none() && previous == Some(log.last().digest);
            if !chained || !entry.may_follow(log.last()) {
                return Err(TrustError::Chain { index });
            }
            log.entries.push(entry);
        }
        Ok(log)
    }

    /// Begins a log. The mesh is what its first entry hashes to.
    pub(crate) fn begin(
        name: &MeshName,
        roles: [IdentityPublic; 4],
        root: &IdentityKey,
        now: UnixTime,
    ) -> Self {
        let roles = roles.map(|key| (1, key));
        let public = root.public();
        let entry = Entry::payload(0, None, Some((&public, name)), now, now, &roles);
        let entry = envelope::sign(Kind::TrustLogEntry, &MeshId([0; 32]), &entry, root);
        let bytes = Value::Array(vec![Value::Bytes(&entry)]).encode();
        Self::parse(&bytes).expect("what root just signed is a log")
    }

    /// Adds an entry that gives a role the next epoch and this key. What the old key signed is
    /// void from `not_before` on, which may lie before `now`: when it was stolen.
    pub(crate) fn replace(
        &self,
        role: KeyRole,
        key: IdentityPublic,
        not_before: UnixTime,
        root: &IdentityKey,
        now: UnixTime,
    ) -> Self {
        let last = self.last();
        let mut roles = last.roles;
        roles[role.index()] = (roles[role.index()].0 + 1, key);
        let signed_at = now.max(last.signed_at.plus(Duration::from_secs(1)));
        let not_before = not_before.min(signed_at);
        let previous = Some(&last.digest);
        let index = self.len();
        let entry = Entry::payload(index, previous, None, signed_at, not_before, &roles);
        let entry = envelope::sign(Kind::TrustLogEntry, &self.mesh, &entry, root);
        let entries = self.entries.iter().map(|entry| Value::Bytes(&entry.bytes));
        let bytes = Value::Array(entries.chain([Value::Bytes(&entry)]).collect()).encode();
        Self::parse(&bytes).expect("a verified log and what root just signed are a log")
    }

    /// The mesh that this log is of.
    pub fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// The name that its founder gave the mesh.
    pub fn name(&self) -> &MeshName {
        &self.name
    }

    /// The key that signs the log.
    pub fn root(&self) -> IdentityPublic {
        self.root
    }

    /// How many entries, and the hash of the last.
    pub fn head(&self) -> (u32, Digest) {
        (self.len(), self.last().digest)
    }

    /// When root signed last.
    pub fn signed_at(&self) -> UnixTime {
        self.last().signed_at
    }

    /// The log as received.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The epoch of a role now, and its key.
    pub fn current(&self, role: KeyRole) -> (u32, IdentityPublic) {
        self.last().roles[role.index()]
    }

    /// Whether this log begins with all entries of the other.
    pub(crate) fn extends(&self, other: &Self) -> bool {
        self.entries
            .get(other.entries.len() - 1)
            .is_some_and(|entry| *entry == *other.last())
    }

    /// The epoch of a role: in force, ended, or unknown.
    pub(crate) fn epoch(&self, role: KeyRole, epoch: u32) -> Epoch {
        let holds = |entry: &&Entry| entry.roles[role.index()].0 == epoch;
        let Some(key) = self
            .entries
            .iter()
            .find(holds)
            .map(|entry| entry.roles[role.index()].1)
        else {
            return Epoch::Unknown;
        };
        match self
            .entries
            .iter()
            .find(|entry| entry.roles[role.index()].0 > epoch)
        {
            Some(end) => Epoch::Ended {
                key,
                not_before: end.not_before,
            },
            None => Epoch::Current(key),
        }
    }

    fn len(&self) -> u32 {
        u32::try_from(self.entries.len()).expect("at most MAX_ENTRIES")
    }

    fn last(&self) -> &Entry {
        self.entries.last().expect("a log has a first entry")
    }
}

impl Entry {
    fn payload(
        index: u32,
        previous: Option<&Digest>,
        genesis: Option<(&IdentityPublic, &MeshName)>,
        signed_at: UnixTime,
        not_before: UnixTime,
        roles: &[(u32, IdentityPublic); 4],
    ) -> Vec<u8> {
        let role = |(epoch, key): &'_ (u32, IdentityPublic)| (u64::from(*epoch), key.0);
        let roles = roles.each_ref().map(role);
        let roles = roles
            .iter()
            .map(|(epoch, key)| Value::Array(vec![Value::Uint(*epoch), Value::Bytes(key)]));
        Value::map([
            (INDEX, Some(Value::Uint(u64::from(index)))),
            (PREVIOUS, previous.map(|digest| Value::Bytes(&digest.0))),
            (ROOT, genesis.map(|(root, _)| Value::Bytes(&root.0))),
            (NAME, genesis.map(|(_, name)| Value::Text(name.as_str()))),
            (SIGNED_AT, Some(Value::Uint(signed_at.0))),
            (NOT_BEFORE, Some(Value::Uint(not_before.0))),
            (ROLES, Some(Value::Array(roles.collect()))),
        ])
        .encode()
    }

    /// Reads what an entry claims; `verify` and the chain are the caller's.
    fn read(
        sealed: &Sealed<'_>,
        index: u32,
    ) -> Result<(Self, Option<(IdentityPublic, MeshName)>), FormatError> {
        let mut fields = sealed.claims()?;
        let at: u32 = fields.required(INDEX)?;
        let previous: Option<Digest> = fields.optional(PREVIOUS)?;
        let root: Option<IdentityPublic> = fields.optional(ROOT)?;
        let name: Option<&str> = fields.optional(NAME)?;
        let signed_at: UnixTime = fields.required(SIGNED_AT)?;
        let not_before: UnixTime = fields.required(NOT_BEFORE)?;
        let roles: Vec<Vec<Value<'_>>> = fields.required(ROLES)?;
        fields.finish()?;
        let roles: Vec<_> = roles.into_iter().map(read_role).collect::<Result<_, _>>()?;
        let roles = roles.try_into().map_err(|_| FormatError::Malformed)?;
        let first = index == 0;
        if at != index || previous.is_none() != first || not_before > signed_at {
            return Err(FormatError::Contradiction);
        }
        let genesis = match (first, root, name) {
            (true, Some(root), Some(name)) => Some((root, name.parse()?)),
            (false, None, None) => None,
            _ => return Err(FormatError::Contradiction),
        };
        let bytes = sealed.bytes().to_vec();
        let entry = Self {
            bytes,
            digest: sealed.digest(),
            signed_at,
            not_before,
            roles,
        };
        Ok((entry, genesis))
    }

    /// Time goes forward, no epoch goes back, and no key changes within its epoch.
    fn may_follow(&self, previous: &Self) -> bool {
        let risen = |(old, new): (&(u32, IdentityPublic), &(u32, IdentityPublic))| {
            new.0 > old.0 || new == old
        };
        self.signed_at > previous.signed_at && previous.roles.iter().zip(&self.roles).all(risen)
    }
}

fn read_role(parts: Vec<Value<'_>>) -> Result<(u32, IdentityPublic), FormatError> {
    let [epoch, key] = <[Value<'_>; 2]>::try_from(parts).map_err(|_| FormatError::Malformed)?;
    Ok((u32::from_value(epoch)?, IdentityPublic::from_value(key)?))
}

impl std::fmt::Display for KeyRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for KeyRole {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(UnknownRole)
    }
}

/// The text names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is issuer, policy, revoker or operator")]
pub struct UnknownRole;

/// Four roles renewed every 90 days for 60 years.
const MAX_ENTRIES: usize = 1000;

const INDEX: u64 = 0;
const PREVIOUS: u64 = 1;
const ROOT: u64 = 2;
const NAME: u64 = 3;
const SIGNED_AT: u64 = 4;
const NOT_BEFORE: u64 = 5;
const ROLES: u64 = 6;
