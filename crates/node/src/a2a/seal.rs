//! A task's row as sealed bytes: `salt (32) | AES-256-GCM ciphertext and tag`, bound to its id.
//!
//! Each value has a key of its own, derived from a fresh salt: a database that was restored from a
//! copy never repeats a nonce, and there is nothing to count. A task is written twice in its life,
//! so that the derivation costs nothing that anybody feels.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// Seals, opens, and gives names that tell nobody what they name.
pub(super) struct Seal {
    key: Zeroizing<[u8; 32]>,
    names: hmac::Key,
}

/// The bytes were not sealed with this key for this row.
#[derive(Debug)]
pub(super) struct NotSealed;

impl Seal {
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        let mut names = Zeroizing::new([0; 32]);
        expand(&key, &[], b"crabmesh task names v1", &mut names);
        Self {
            names: hmac::Key::new(hmac::HMAC_SHA256, &*names),
            key,
        }
    }

    /// A name for an index: equal for equal parts, and no more.
    pub(super) fn name(&self, parts: &[&[u8]]) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.names);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut name = [0; 16];
        name.copy_from_slice(&context.sign().as_ref()[..16]);
        name
    }

    pub(super) fn seal(&self, id: &[u8; 16], plain: Vec<u8>) -> Result<Vec<u8>, NotSealed> {
        let mut salt = [0; SALT];
        getrandom::fill(&mut salt).map_err(|_| NotSealed)?;
        let mut text = plain;
        let key = self.key_of(&salt)?;
        key.seal_in_place_append_tag(zero(), Aad::from(id), &mut text)
            .map_err(|_| NotSealed)?;
        Ok([&salt[..], &text].concat())
    }

    pub(super) fn open(&self, id: &[u8; 16], sealed: &[u8]) -> Result<Vec<u8>, NotSealed> {
        let (salt, text) = sealed.split_first_chunk::<SALT>().ok_or(NotSealed)?;
        let mut text = text.to_vec();
        let key = self.key_of(salt)?;
        let length = key
            .open_in_place(zero(), Aad::from(id), &mut text)
            .map_err(|_| NotSealed)?
            .len();
        text.truncate(length);
        Ok(text)
    }

    fn key_of(&self, salt: &[u8; SALT]) -> Result<LessSafeKey, NotSealed> {
        let mut key = Zeroizing::new([0; 32]);
        expand(&self.key, salt, b"crabmesh task v1", &mut key);
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| NotSealed)?;
        Ok(LessSafeKey::new(key))
    }
}

fn expand(key: &[u8; 32], salt: &[u8], info: &[u8], out: &mut [u8; 32]) {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            32
        }
    }
    Salt::new(HKDF_SHA256, salt)
        .extract(key)
        .expand(&[info], Length)
        .and_then(|okm| okm.fill(out))
        .expect("32 bytes are within HKDF's bound");
}

/// Each key seals one value.
fn zero() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

const SALT: usize = 32;
