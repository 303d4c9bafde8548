//! A kill that travels by hand, for when no beacon answers: the revocation set, and the trust log by
//! which whoever takes it verifies the key that signed it.

use crate::Trust;
use crate::cbor::{Fields, FormatError, Value};
use crate::text::{self, TextError};

/// `cmk1…`: no secret, and of no use to forge: whoever takes it verifies it like every document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillFile {
    trust_log: Vec<u8>,
    revocations: Vec<u8>,
}

impl KillFile {
    /// What this node holds; `None` where nobody was ever revoked.
    pub fn of(trust: &Trust) -> Option<Self> {
        let held = trust.revocations()?;
        Some(Self::from_parts(trust.trust_log(), &held.bytes))
    }

    /// Of documents that nobody verified; whoever takes the file will.
    pub fn from_parts(trust_log: &[u8], revocations: &[u8]) -> Self {
        Self {
            trust_log: trust_log.to_vec(),
            revocations: revocations.to_vec(),
        }
    }

    /// The text to hand over.
    pub fn to_text(&self) -> String {
        let bytes = Value::map([
            (TRUST_LOG, Some(Value::Bytes(&self.trust_log))),
            (REVOCATIONS, Some(Value::Bytes(&self.revocations))),
        ])
        .encode();
        text::encode(text::KILL, &bytes).to_string()
    }

    /// Reads the text; verifies nothing but its checksum.
    pub fn parse(text: &str) -> Result<Self, KillFileError> {
        let bytes = text::decode(text::KILL, text)?;
        let mut fields = Fields::decode(&bytes)?;
        let trust_log: &[u8] = fields.required(TRUST_LOG)?;
        let revocations: &[u8] = fields.required(REVOCATIONS)?;
        fields.finish()?;
        Ok(Self::from_parts(trust_log, revocations))
    }

    /// For [`Trust::accept_trust_log`].
    pub fn trust_log(&self) -> &[u8] {
        &self.trust_log
    }

    /// For [`Trust::accept_revocations`].
    pub fn revocations(&self) -> &[u8] {
        &self.revocations
    }
}

/// Why a text is no kill file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KillFileError {
    /// Not a text of this kind, or damaged.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Whole, but not what its prefix says.
    #[error("the content of the kill file cannot be read")]
    Format(#[source] FormatError),
}

impl From<FormatError> for KillFileError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

const TRUST_LOG: u64 = 0;
const REVOCATIONS: u64 = 1;
