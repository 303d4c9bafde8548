//! A body in JSON: text as text, anything else in base64.

use std::fmt;

use data_encoding::BASE64;

/// The two fields `body` and `body_base64`, of which exactly one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Binary(Vec<u8>),
}

impl Body {
    /// From the fields of a request or an answer; none means empty.
    pub fn from_fields(text: Option<String>, base64: Option<&str>) -> Result<Self, BodyError> {
        match (text, base64) {
            (Some(_), Some(_)) => Err(BodyError::Both),
            (Some(text), None) => Ok(Self::Text(text)),
            (None, Some(base64)) => match BASE64.decode(base64.as_bytes()) {
                Ok(bytes) => Ok(Self::Binary(bytes)),
                Err(_) => Err(BodyError::Base64),
            },
            (None, None) => Ok(Self::Text(String::new())),
        }
    }

    /// From bytes, as text where they are text.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Binary(error.into_bytes()),
        }
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The fields `body` and `body_base64`.
    pub fn into_fields(self) -> (Option<String>, Option<String>) {
        match self {
            Self::Text(text) => (Some(text), None),
            Self::Binary(bytes) => (None, Some(BASE64.encode(&bytes))),
        }
    }

    /// The content type of a body that came without one.
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Text(_) => "text/plain; charset=utf-8",
            Self::Binary(_) => "application/octet-stream",
        }
    }
}

/// The fields make no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Two bodies.
    Both,
    /// Not base64.
    Base64,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "give body or body_base64, not both",
            Self::Base64 => "body_base64 is not base64 (RFC 4648 §4, with padding)",
        })
    }
}

impl std::error::Error for BodyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_text_where_it_can_be() {
        for bytes in [b"".to_vec(), "grüße".into(), vec![0xff, 0, 1]] {
            let (text, base64) = Body::from_bytes(bytes.clone()).into_fields();
            assert_eq!(text.is_some(), std::str::from_utf8(&bytes).is_ok());

            let back = Body::from_fields(text, base64.as_deref()).expect("its own fields");
            assert_eq!(back.into_bytes(), bytes);
        }
        assert_eq!(
            Body::from_fields(Some("a".into()), Some("YQ==")),
            Err(BodyError::Both)
        );
        assert_eq!(Body::from_fields(None, Some("?")), Err(BodyError::Base64));
    }
}
