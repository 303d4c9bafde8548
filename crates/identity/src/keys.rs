//! The private keys of a node: Ed25519 for its identity, X25519 for its tunnel.
//!
//! Both are made from a seed that the shell drew, are wiped when dropped, and never print.
//! **Invariant:** every Ed25519 check in this crate is the strict one (no small-order keys, no
//! second encoding of a signature), so a signature has exactly one form.

use std::fmt;

use ed25519_dalek::Signer;
use zeroize::Zeroizing;

use crate::{IdentityPublic, WireGuardPublic};

/// The Ed25519 key by which a node, a role or root signs.
pub struct IdentityKey(ed25519_dalek::SigningKey);

/// The X25519 key of a node's WireGuard tunnel.
pub struct WireGuardKey(x25519_dalek::StaticSecret);

impl IdentityKey {
    /// The key of this seed, which must be random and used for nothing else.
    pub fn generate(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// The key that [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(bytes))
    }

    /// The 32 secret bytes, for a file of mode 0600.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// What others verify with.
    pub fn public(&self) -> IdentityPublic {
        IdentityPublic(self.0.verifying_key().to_bytes())
    }

    /// Signs these bytes (RFC 8032 pure Ed25519: deterministic).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The key as PKCS#8 version 1 DER (RFC 5958, RFC 8410 §7): what aws-lc-rs and rustls load.
    pub fn to_pkcs8_v1_der(&self) -> Zeroizing<Vec<u8>> {
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_V1_PREFIX.len() + 32));
        der.extend_from_slice(&PKCS8_V1_PREFIX);
        der.extend_from_slice(self.to_bytes().as_slice());
        der
    }
}

impl WireGuardKey {
    /// The key of this seed, which must be random and used for nothing else.
    pub fn generate(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self::from_bytes(&seed)
    }

    /// The key that [`to_bytes`](Self::to_bytes) wrote.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(x25519_dalek::StaticSecret::from(*bytes))
    }

    /// The 32 secret bytes, for a file of mode 0600 and for the tunnel.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// What peers know.
    pub fn public(&self) -> WireGuardPublic {
        WireGuardPublic(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }
}

/// Checks an Ed25519 signature, strictly.
pub fn verify(
    key: &IdentityPublic,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(&key.0).map_err(|_| SignatureError)?;
    let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| SignatureError)?;
    key.verify_strict(message, &signature)
        .map_err(|_| SignatureError)
}

impl Clone for IdentityKey {
    fn clone(&self) -> Self {
        Self::from_bytes(&self.to_bytes())
    }
}

impl Clone for WireGuardKey {
    fn clone(&self) -> Self {
        Self::from_bytes(&self.to_bytes())
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey(of {})", self.public())
    }
}

impl fmt::Debug for WireGuardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireGuardKey(of {})", self.public())
    }
}

/// SEQUENCE { INTEGER 0, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING (32) } }.
const PKCS8_V1_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The key is none, or it did not sign these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct SignatureError;

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    #[test]
    fn aws_lc_loads_the_exported_key_and_agrees_on_its_public_half() {
        let key = IdentityKey::generate([7; 32]);

        let loaded =
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key.to_pkcs8_v1_der()).expect("PKCS#8 v1");

        assert_eq!(loaded.public_key().as_ref(), key.public().0);
        assert_eq!(loaded.sign(b"x").as_ref(), key.sign(b"x"));
    }

    #[test]
    fn a_small_order_key_verifies_nothing() {
        let mut small = [0; 32];
        small[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;

        assert_eq!(
            verify(&IdentityPublic(small), b"any", &signature),
            Err(SignatureError)
        );
    }

    #[test]
    fn only_the_signed_bytes_verify_and_keys_do_not_print() {
        let key = IdentityKey::generate([9; 32]);
        let signature = key.sign(b"this");

        assert_eq!(verify(&key.public(), b"this", &signature), Ok(()));
        assert!(verify(&key.public(), b"that", &signature).is_err());
        assert!(verify(&key.public(), b"this", &signature[..63]).is_err());
        assert!(!format!("{key:?}").contains("0909"));
    }
}
