//! The identifiers of the mesh: fixed-size, ordered, cheap to copy, with a short `Display`.
//!
//! Every one serialises as its bytes in binary formats and as lower-case hex in readable ones.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A gateway or beacon, for as long as its membership lives: the first 16 bytes of SHA-256 over
/// the mesh id, the kind of enrolment and the enrolment key, so it survives key rolls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

/// One mesh: SHA-256 of the first entry of its trust log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshId(pub [u8; 32]);

/// SHA-256 of one signed document, as received.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The Ed25519 public key by which a node signs its records and proves itself in TLS.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityPublic(pub [u8; 32]);

/// The X25519 public key of a node's WireGuard tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireGuardPublic(pub [u8; 32]);

/// Whole seconds since 1970-01-01T00:00:00Z: the unit of every date in a signed document.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct UnixTime(pub u64);

/// Where a policy or a revocation set stands: first the epoch that root set, then the version
/// inside it. Only root raises an epoch, so a stolen role key cannot outrun its replacement.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Order {
    /// The epoch of the signing role in the trust log.
    pub epoch: u32,
    /// Counts up from 1 within the epoch.
    pub version: u64,
}

/// What two nodes compare in their hello: the lower side pulls before it judges a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heads {
    /// How many entries the trust log has, and the hash of its last.
    pub trust_log: Option<(u32, Digest)>,
    /// The active policy.
    pub policy: Option<(Order, Digest)>,
    /// The active revocation set.
    pub revocations: Option<(Order, Digest)>,
}

impl UnixTime {
    /// This time moved later, saturating.
    pub fn plus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// This time moved earlier, saturating.
    pub fn minus(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }
}

macro_rules! bytes_newtype {
    ($name:ident, $size:literal) => {
        impl fmt::Display for $name {
            /// The first four bytes in hex: enough to tell members apart in a log.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for byte in &self.0[..4] {
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl $name {
            /// The whole identifier in lower-case hex.
            pub fn to_hex(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .map_err(|_| ParseIdError { expected: $size })?;
                let bytes = bytes
                    .try_into()
                    .map_err(|_| ParseIdError { expected: $size })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&self.to_hex())
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; $size]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

bytes_newtype!(NodeId, 16);
bytes_newtype!(MeshId, 32);
bytes_newtype!(Digest, 32);
bytes_newtype!(IdentityPublic, 32);
bytes_newtype!(WireGuardPublic, 32);

/// The text is not an identifier in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} bytes in hex")]
pub struct ParseIdError {
    expected: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let id = NodeId([0xab; 16]);

        assert_eq!(id.to_hex().parse(), Ok(id));
        assert_eq!(id.to_string(), "abababab");
        assert!("ab".parse::<NodeId>().is_err());
    }
}
