//! Root and the role keys, where they are made. Only the operator's machine runs this.
//!
//! Root lives as a file sealed with the recovery code, which is shown once; no daily command
//! opens it.

use aws_lc_rs::{aead, hkdf};
use data_encoding::BASE32_NOPAD;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::keys::IdentityKey;
use crate::{IdentityPublic, KeyRole, MeshName, TrustLog, UnixTime};

/// The key that signs the trust log.
#[derive(Debug)]
pub struct Root {
    key: IdentityKey,
}

/// One role's key, in one epoch.
#[derive(Clone, Debug)]
pub struct RoleKey {
    role: KeyRole,
    epoch: u32,
    key: IdentityKey,
}

/// Opens the sealed root: 128 random bits.
pub struct RecoveryCode(Zeroizing<[u8; 16]>);

impl Root {
    /// Founds a mesh: root, the first key of each role (in the order of [`KeyRole::ALL`]), and the
    /// trust log that names them. Every seed must be random.
    pub fn found(
        name: &MeshName,
        root: [u8; 32],
        roles: [[u8; 32]; 4],
        now: UnixTime,
    ) -> (Self, [RoleKey; 4], TrustLog) {
        let root = Self {
            key: IdentityKey::generate(root),
        };
        let keys = std::array::from_fn(|at| RoleKey {
            role: KeyRole::ALL[at],
            epoch: 1,
            key: IdentityKey::generate(roles[at]),
        });
        let publics: [IdentityPublic; 4] = keys.each_ref().map(RoleKey::public);
        let log = TrustLog::begin(name, publics, &root.key, now);
        (root, keys, log)
    }

    /// Gives a role its next epoch, with a new key. What the old one signed after `not_before`
    /// (when it was stolen; else now) is void at once, and all of it 30 days later.
    pub fn replace(
        &self,
        log: &TrustLog,
        role: KeyRole,
        seed: [u8; 32],
        not_before: UnixTime,
        now: UnixTime,
    ) -> Result<(RoleKey, TrustLog), RootError> {
        if log.root() != self.key.public() {
            return Err(RootError::OtherMesh);
        }
        let key = IdentityKey::generate(seed);
        let log = log.replace(role, key.public(), not_before, &self.key, now);
        let (epoch, _) = log.current(role);
        Ok((RoleKey { role, epoch, key }, log))
    }

    /// Seals root for a file. The salt must be random; it makes the key single-use, so the nonce
    /// may be fixed.
    pub fn seal(&self, code: &RecoveryCode, salt: [u8; 16]) -> Vec<u8> {
        let secret = self.key.to_bytes();
        let mut sealed = secret.to_vec();
        let key = code.sealing_key(&salt);
        let tag = key
            .seal_in_place_separate_tag(nonce(), aead::Aad::from(MAGIC), &mut sealed)
            .expect("32 bytes are within the limits of AES-256-GCM");
        [MAGIC, &salt, &sealed, tag.as_ref()].concat()
    }

    /// Opens what [`seal`](Self::seal) wrote.
    pub fn open(sealed: &[u8], code: &RecoveryCode) -> Result<Self, RootError> {
        let rest = sealed.strip_prefix(MAGIC).ok_or(RootError::Format)?;
        let (salt, rest) = rest.split_first_chunk::<16>().ok_or(RootError::Format)?;
        let mut secret = Zeroizing::new(rest.to_vec());
        let key = code.sealing_key(salt);
        let opened = key
            .open_in_place(nonce(), aead::Aad::from(MAGIC), &mut secret)
            .map_err(|_| RootError::WrongCode)?;
        let secret: &[u8; 32] = (&*opened).try_into().map_err(|_| RootError::Format)?;
        Ok(Self {
            key: IdentityKey::from_bytes(secret),
        })
    }
}

impl RoleKey {
    /// The role.
    pub fn role(&self) -> KeyRole {
        self.role
    }

    /// Its epoch in the trust log.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// What others verify with.
    pub fn public(&self) -> IdentityPublic {
        self.key.public()
    }

    /// The key itself: the operator's proves a link to a beacon.
    pub fn key(&self) -> &IdentityKey {
        &self.key
    }

    /// The secret, for a file of mode 0600; the trust log knows the rest.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.key.to_bytes()
    }

    /// The key that holds this role in that log now; `None` where another does.
    pub fn from_bytes(bytes: &[u8; 32], role: KeyRole, log: &TrustLog) -> Option<Self> {
        let key = IdentityKey::from_bytes(bytes);
        let (epoch, public) = log.current(role);
        (public == key.public()).then_some(Self { role, epoch, key })
    }
}

impl RecoveryCode {
    /// A code of these random bits.
    pub fn generate(bits: [u8; 16]) -> Self {
        Self(Zeroizing::new(bits))
    }

    /// Seven groups of four: 128 bits and a checksum in base32.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.0.to_vec());
        bytes.push(self.checksum());
        let letters = Zeroizing::new(BASE32_NOPAD.encode(&bytes).to_ascii_lowercase());
        let mut text = Zeroizing::new(String::with_capacity(GROUPS * 5));
        for (at, letter) in letters.chars().enumerate() {
            if at > 0 && at % 4 == 0 {
                text.push('-');
            }
            text.push(letter);
        }
        text
    }

    /// Reads a code as a person types it: case, spaces and dashes do not count, and the digits
    /// that base32 leaves out mean the letters that they look like.
    pub fn parse(text: &str) -> Result<Self, RootError> {
        let mut letters = Zeroizing::new(String::with_capacity(GROUPS * 4));
        for letter in text
            .chars()
            .filter(|letter| !letter.is_whitespace() && *letter != '-')
        {
            if letters.len() > GROUPS * 4 {
                return Err(RootError::Code);
            }
            letters.push(match letter.to_ascii_uppercase() {
                '0' => 'O',
                '1' => 'I',
                '8' => 'B',
                other => other,
            });
        }
        let decoded = BASE32_NOPAD
            .decode(letters.as_bytes())
            .map_err(|_| RootError::Code)?;
        let decoded = Zeroizing::new(decoded);
        let (sum, bits) = decoded.split_last().ok_or(RootError::Code)?;
        let mut bits: [u8; 16] = bits.try_into().map_err(|_| RootError::Code)?;
        let code = Self::generate(bits);
        bits.zeroize();
        match *sum == code.checksum() {
            true => Ok(code),
            false => Err(RootError::Code),
        }
    }

    fn checksum(&self) -> u8 {
        Sha256::new()
            .chain_update(MAGIC)
            .chain_update(*self.0)
            .finalize()[0]
    }

    /// The code has full entropy, so HKDF (RFC 5869) is enough: no stretching.
    fn sealing_key(&self, salt: &[u8; 16]) -> aead::LessSafeKey {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.0.as_slice());
        let expanded = extracted
            .expand(&[MAGIC], &aead::AES_256_GCM)
            .expect("one key is within the limits of HKDF");
        aead::LessSafeKey::new(aead::UnboundKey::from(expanded))
    }
}

impl std::fmt::Debug for RecoveryCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryCode(..)")
    }
}

/// Why root cannot be opened or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// Mistyped.
    #[error("the recovery code is mistyped: it is seven groups of four letters and digits")]
    Code,
    /// Well formed, but of another root.
    #[error("the recovery code does not open this root")]
    WrongCode,
    /// Not a sealed root.
    #[error("the file is not a sealed root")]
    Format,
    /// The trust log is another root's.
    #[error("the trust log belongs to another root")]
    OtherMesh,
}

const MAGIC: &[u8] = b"crabmesh sealed root v1\0";

/// A key of its own for each salt, so the nonce may stand still.
fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; 12])
}

/// 17 bytes are 28 letters.
const GROUPS: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (Root, TrustLog) {
        let name = "home".parse().expect("a name");
        let (root, _, log) = Root::found(
            &name,
            [1; 32],
            [[2; 32], [3; 32], [4; 32], [5; 32]],
            UnixTime(9),
        );
        (root, log)
    }

    #[test]
    fn only_its_recovery_code_opens_a_sealed_root() {
        let (root, log) = root();
        let code = RecoveryCode::generate([7; 16]);
        let mut sealed = root.seal(&code, [8; 16]);

        let typed = code.to_text().to_uppercase().replace('-', " ");
        let opened = Root::open(&sealed, &RecoveryCode::parse(&typed).expect("as shown"));
        assert!(opened.is_ok_and(|root| root.key.public() == log.root()));
        let other = RecoveryCode::generate([9; 16]);
        assert_eq!(
            Root::open(&sealed, &other).err(),
            Some(RootError::WrongCode)
        );
        if let Some(last) = sealed.last_mut() {
            *last ^= 1;
        }
        assert_eq!(Root::open(&sealed, &code).err(), Some(RootError::WrongCode));
    }

    #[test]
    fn a_mistyped_recovery_code_is_told_from_a_wrong_one() {
        let text = RecoveryCode::generate([7; 16]).to_text();

        assert_eq!(text.len(), 34);
        assert_eq!(RecoveryCode::parse(&text[1..]).err(), Some(RootError::Code));
        let bent = text.replacen(&text[..1], "7", 1);
        assert_eq!(RecoveryCode::parse(&bent).err(), Some(RootError::Code));
        assert_eq!(
            RecoveryCode::parse(&"a".repeat(10_000)).err(),
            Some(RootError::Code)
        );
    }

    #[test]
    fn a_replaced_role_has_the_next_epoch_and_the_old_key_is_not_it_any_more() {
        let (root, log) = root();
        let (key, newer) = root
            .replace(&log, KeyRole::Policy, [6; 32], UnixTime(9), UnixTime(20))
            .expect("its own root");

        assert_eq!(key.epoch(), 2);
        assert!(newer.extends(&log));
        assert!(RoleKey::from_bytes(&[3; 32], KeyRole::Policy, &log).is_some());
        assert!(RoleKey::from_bytes(&[3; 32], KeyRole::Policy, &newer).is_none());
        assert!(RoleKey::from_bytes(&[2; 32], KeyRole::Issuer, &newer).is_some());
    }
}
