//! The envelope of every signed document, in the shape of COSE_Sign1 (RFC 9052 §4.2): protected
//! header, empty unprotected header, payload, signature.
//!
//! The signature covers the bytes received, under a context string that holds the kind and the
//! mesh, so a document signs for one purpose in one mesh only. Nothing is ever re-encoded.

use sha2::{Digest as _, Sha256};

use crate::cbor::{Fields, FormatError, FromValue, Value};
use crate::keys::{self, IdentityKey, SignatureError};
use crate::{Digest, IdentityPublic, MeshId};

/// What a document is: part of its header and of what is signed. Numbers are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    TrustLogEntry = 1,
    Membership = 2,
    Binding = 3,
    Receipt = 4,
    Record = 5,
    Policy = 6,
    Revocations = 7,
    Request = 8,
    // 9: successor of a role key inside its epoch, 10: successor of an identity key; later stages.
}

/// A document in its envelope, not verified yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sealed<'b> {
    kind: Kind,
    header: &'b [u8],
    payload: &'b [u8],
    signature: &'b [u8],
    whole: &'b [u8],
}

/// Signs a payload and wraps it.
pub(crate) fn sign(kind: Kind, mesh: &MeshId, payload: &[u8], key: &IdentityKey) -> Vec<u8> {
    let header = Value::map([
        (ALGORITHM, Some(Value::Negative(ED25519))),
        (KIND, Some(Value::Uint(kind as u64))),
    ])
    .encode();
    let signature = key.sign(&to_be_signed(kind, mesh, &header, payload));
    Value::Array(vec![
        Value::Bytes(&header),
        Value::map([]),
        Value::Bytes(payload),
        Value::Bytes(&signature),
    ])
    .encode()
}

impl<'b> Sealed<'b> {
    /// Takes the envelope apart; its payload is not to be believed before [`verify`](Self::verify).
    pub(crate) fn open(kind: Kind, bytes: &'b [u8]) -> Result<Self, FormatError> {
        let parts: Vec<Value<'b>> = Vec::from_value(Value::decode(bytes)?)?;
        let [header, unprotected, payload, signature] =
            <[Value<'b>; 4]>::try_from(parts).map_err(|_| FormatError::Malformed)?;
        if unprotected != Value::map([]) {
            return Err(FormatError::Malformed);
        }
        let header = <&[u8]>::from_value(header)?;
        let mut fields = Fields::decode(header)?;
        // A post-quantum signature will be another algorithm here; no fallback between the two.
        if fields.required::<Value<'_>>(ALGORITHM)? != Value::Negative(ED25519) {
            return Err(FormatError::Algorithm);
        }
        if fields.required::<u64>(KIND)? != kind as u64 {
            return Err(FormatError::OtherKind);
        }
        fields.finish()?;
        let payload = <&[u8]>::from_value(payload)?;
        let signature = <&[u8]>::from_value(signature)?;
        Ok(Self {
            kind,
            header,
            payload,
            signature,
            whole: bytes,
        })
    }

    /// What was signed, before its signature is known to be good: only to find the key by.
    pub(crate) fn claims(&self) -> Result<Fields<'b>, FormatError> {
        Fields::decode(self.payload)
    }

    /// The whole document as received.
    pub(crate) fn bytes(&self) -> &'b [u8] {
        self.whole
    }

    /// Checks the signature in that mesh by that key.
    pub(crate) fn verify(&self, mesh: &MeshId, key: &IdentityPublic) -> Result<(), SignatureError> {
        let message = to_be_signed(self.kind, mesh, self.header, self.payload);
        keys::verify(key, &message, self.signature)
    }

    /// SHA-256 of the whole document. Strict Ed25519 gives a payload one signature by an honest
    /// signer, so equal documents have equal digests.
    pub(crate) fn digest(&self) -> Digest {
        digest(self.whole)
    }
}

/// SHA-256 of a document.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// The Sig_structure of RFC 9052 §4.4, with our context as external data.
fn to_be_signed(kind: Kind, mesh: &MeshId, header: &[u8], payload: &[u8]) -> Vec<u8> {
    let kind: &[u8] = match kind {
        Kind::TrustLogEntry => b"trust-log entry",
        Kind::Membership => b"membership",
        Kind::Binding => b"binding",
        Kind::Receipt => b"receipt",
        Kind::Record => b"record",
        Kind::Policy => b"policy",
        Kind::Revocations => b"revocations",
        Kind::Request => b"request",
    };
    let context = [b"crabmesh v1 ", kind, b"\0", &mesh.0].concat();
    Value::Array(vec![
        Value::Text("Signature1"),
        Value::Bytes(header),
        Value::Bytes(&context),
        Value::Bytes(payload),
    ])
    .encode()
}

/// Header label 1, "alg" (RFC 9052 §3.1).
const ALGORITHM: u64 = 1;

/// Header label 3, "content type" (RFC 9052 §3.1): our [`Kind`].
const KIND: u64 = 3;

/// EdDSA, -8 (RFC 9053 §2.2), as -1 - n.
const ED25519: u64 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_signs_for_one_kind_in_one_mesh() {
        let key = IdentityKey::generate([1; 32]);
        let payload = Value::map([(0, Some(Value::Uint(1)))]).encode();
        let (here, there) = (MeshId([1; 32]), MeshId([2; 32]));
        let bytes = sign(Kind::Policy, &here, &payload, &key);

        let sealed = Sealed::open(Kind::Policy, &bytes).expect("well formed");
        assert!(sealed.verify(&here, &key.public()).is_ok());
        assert!(sealed.verify(&there, &key.public()).is_err());
        assert!(matches!(
            Sealed::open(Kind::Record, &bytes),
            Err(FormatError::OtherKind)
        ));
    }

    #[test]
    fn no_byte_of_an_envelope_can_change() {
        let key = IdentityKey::generate([1; 32]);
        let mesh = MeshId([1; 32]);
        let payload = Value::map([(0, Some(Value::Uint(1)))]).encode();
        let bytes = sign(Kind::Policy, &mesh, &payload, &key);

        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            let verified = Sealed::open(Kind::Policy, &bent)
                .is_ok_and(|sealed| sealed.verify(&mesh, &key.public()).is_ok());
            assert!(!verified, "byte {at}");
        }
    }
}
