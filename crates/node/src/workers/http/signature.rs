//! The signature of Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, under a secret that both
//! sides hold.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use zeroize::Zeroizing;

use crate::workers::{AttachError, Secret};

/// Signs under one secret.
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(secret: &Secret) -> Result<Self, AttachError> {
        let wrong = || {
            AttachError(format!(
                "the secret must be {PREFIX} and {} to {} bytes in base64",
                SIZE.start(),
                SIZE.end()
            ))
        };
        let text = secret.reveal().strip_prefix(PREFIX).ok_or_else(wrong)?;
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| wrong())?;
        let bytes = Zeroizing::new(bytes);
        if !SIZE.contains(&bytes.len()) {
            return Err(wrong());
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body);
        format!("v1,{}", BASE64.encode(context.sign().as_ref()))
    }
}

/// A secret of 256 random bits.
pub(in crate::workers) fn make_secret() -> Result<Secret, AttachError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes)
        .map_err(|_| AttachError("the kernel gives no random bytes".into()))?;
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 44));
    text.push_str(PREFIX);
    BASE64.encode_append(&*bytes, &mut text);
    Ok(Secret(text))
}

const PREFIX: &str = "whsec_";
/// As the standard recommends.
const SIZE: std::ops::RangeInclusive<usize> = 24..=64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed beside with Python's hmac and base64.
    #[test]
    fn a_signature_is_what_others_compute() {
        let secret = Secret(Zeroizing::new(
            "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz".to_owned(),
        ));
        let signer = Signer::new(&secret).expect("24 bytes");

        let signature = signer.sign("msg_1", 1_795_470_123, br#"{"a":1}"#);

        assert_eq!(signature, EXPECTED);
    }

    #[test]
    fn a_secret_that_is_none_is_refused_without_being_named() {
        for text in ["", "whsec_", "whsec_AAAA", "whsec_%%%%", "MDEyMzQ1Njc4OTAx"] {
            let secret = Secret(Zeroizing::new(text.to_owned()));
            let error = match Signer::new(&secret) {
                Ok(_) => panic!("{text} is taken"),
                Err(error) => error.to_string(),
            };
            assert!(text.len() < 7 || !error.contains(text), "{error}");
        }
        assert!(Signer::new(&make_secret().expect("random")).is_ok());
    }

    const EXPECTED: &str = "v1,gqtEA4lVyzyKho6A19xPsk+5DBiSFW1VrUB8MnJnMts=";
}
