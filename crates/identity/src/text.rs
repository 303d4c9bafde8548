//! Bytes as text that people carry: a prefix that says what it is, base32, and a checksum, so that
//! a text which lost its end or a letter says so instead of failing somewhere later.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// What a text is, by its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(&'static str, &'static str);

pub(crate) const TOKEN: Prefix = Prefix("cmt1", "a join token");
pub(crate) const REQUEST: Prefix = Prefix("cmr1", "a join request");
pub(crate) const CLAIM: Prefix = Prefix("cmc1", "a beacon's claim");
pub(crate) const KILL: Prefix = Prefix("cmk1", "a kill file");

pub(crate) fn encode(prefix: Prefix, bytes: &[u8]) -> Zeroizing<String> {
    let whole = Zeroizing::new([bytes, &checksum(prefix, bytes)].concat());
    let mut text = Zeroizing::new(String::from(prefix.0));
    BASE32_NOPAD.encode_append(&whole, &mut text);
    text.make_ascii_lowercase();
    text
}

/// Reads a text; white space inside (a line that was wrapped) does not count.
pub(crate) fn decode(prefix: Prefix, text: &str) -> Result<Zeroizing<Vec<u8>>, TextError> {
    if text.len() > MAX_TEXT {
        return Err(TextError::TooLong);
    }
    let compact = |byte: &u8| !byte.is_ascii_whitespace();
    let text: Zeroizing<Vec<u8>> = Zeroizing::new(
        text.bytes()
            .filter(compact)
            .map(|b| b.to_ascii_uppercase())
            .collect(),
    );
    let begins = |prefix: &Prefix| text.starts_with(prefix.0.to_ascii_uppercase().as_bytes());
    if !begins(&prefix) {
        let other = [TOKEN, REQUEST, CLAIM, KILL].into_iter().find(begins);
        return Err(match other {
            Some(other) => TextError::Other {
                expected: prefix.1,
                found: other.1,
            },
            None => TextError::Prefix {
                expected: prefix.1,
                prefix: prefix.0,
            },
        });
    }
    let body = &text[prefix.0.len()..];
    let decoded = BASE32_NOPAD.decode(body).map(Zeroizing::new);
    let whole = decoded.map_err(|_| TextError::Damaged { what: prefix.1 })?;
    let (bytes, sum) = whole
        .split_last_chunk::<CHECKSUM>()
        .ok_or(TextError::Damaged { what: prefix.1 })?;
    match *sum == checksum(prefix, bytes) {
        true => Ok(Zeroizing::new(bytes.to_vec())),
        false => Err(TextError::Damaged { what: prefix.1 }),
    }
}

fn checksum(prefix: Prefix, bytes: &[u8]) -> [u8; CHECKSUM] {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(prefix.0)
        .chain_update(bytes)
        .finalize()
        .into();
    *hash.first_chunk().expect("4 of 32 bytes")
}

/// One damaged text in four thousand million goes unseen here, and fails its signature then.
const CHECKSUM: usize = 4;

/// A kill file with one document's worth of content in base32; bounds what a paste can cost.
const MAX_TEXT: usize = 2 << 20;

/// Why a text is not what it was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// None of ours.
    #[error("this is not {expected}: it would begin with {prefix}")]
    Prefix {
        /// What was asked for.
        expected: &'static str,
        /// How that begins.
        prefix: &'static str,
    },
    /// Ours, but another.
    #[error("this is {found}, not {expected}")]
    Other {
        /// What was asked for.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// The checksum is wrong.
    #[error("{what} is damaged: a part is missing or mistyped")]
    Damaged {
        /// What it is.
        what: &'static str,
    },
    /// Longer than any.
    #[error("the text is too long")]
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_reads_back_also_when_wrapped_and_in_capitals() {
        let text = encode(CLAIM, b"some bytes");
        let wrapped = format!(" {}\n{} ", &text[..9], &text[9..]).to_uppercase();

        assert!(text.starts_with("cmc1"));
        assert_eq!(
            decode(CLAIM, &wrapped).as_deref(),
            Ok(&b"some bytes".to_vec())
        );
    }

    #[test]
    fn a_damaged_text_says_what_is_wrong() {
        let text = encode(CLAIM, b"some bytes");
        let damaged = Err(TextError::Damaged {
            what: "a beacon's claim",
        });

        assert_eq!(decode(CLAIM, &text[..text.len() - 3]), damaged);
        assert_eq!(decode(CLAIM, &text.replace(&text[6..7], "7")), damaged);
        assert!(matches!(decode(TOKEN, &text), Err(TextError::Other { .. })));
        assert!(matches!(
            decode(TOKEN, "hello"),
            Err(TextError::Prefix { .. })
        ));
        assert!(decode(TOKEN, "cmt1").is_err());
    }
}
