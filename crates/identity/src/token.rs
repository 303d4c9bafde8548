//! What travels by hand: join tokens, join requests, and the claim of a beacon.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::cbor::{Fields, FormatError, Value};
use crate::certificate::{Certificate, MAX_CERTIFICATE, Subject, make_binding};
use crate::envelope::{self, Kind, Sealed};
use crate::keys::IdentityKey;
use crate::text::{self, TextError};
use crate::{IdentityPublic, MeshId, NodeId, NodeName, Trust, TrustError, UnixTime};

/// `cmt1…`: a membership for whoever holds the token key, or for the key of a request; with the
/// trust log and the beacons' memberships, so that its holder trusts nobody on the way.
pub struct Token {
    pub(crate) membership: Vec<u8>,
    pub(crate) trust_log: Vec<u8>,
    pub(crate) key: Option<IdentityKey>,
    pub(crate) beacons: Vec<Vec<u8>>,
}

/// A token opened by its joiner.
#[derive(Debug)]
pub struct Invitation {
    /// What the joiner believes from here on: the mesh, and its beacons.
    pub trust: Trust,
    /// Who the joiner will be.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// The beacon that must give a receipt, and until when; `None` where none is needed.
    pub redeem_at: Option<(NodeId, UnixTime)>,
}

/// `cmr1…`: a gateway asks to be invited by the key that it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    identity: IdentityPublic,
}

/// `cmc1…`: what an unclaimed beacon prints, and only its operator may know.
pub struct Claim {
    /// The beacon's identity key.
    pub identity: IdentityPublic,
    /// Proves the first operator.
    pub secret: Zeroizing<[u8; 32]>,
}

impl Token {
    /// The text to hand over; it is a secret unless it answers a request.
    pub fn to_text(&self) -> Zeroizing<String> {
        let key = self.key.as_ref().map(IdentityKey::to_bytes);
        let beacons = self.beacons.iter().map(|beacon| Value::Bytes(beacon));
        let bytes = Value::map([
            (MEMBERSHIP, Some(Value::Bytes(&self.membership))),
            (TRUST_LOG, Some(Value::Bytes(&self.trust_log))),
            (KEY, key.as_ref().map(|key| Value::Bytes(key.as_slice()))),
            (BEACONS, Some(Value::Array(beacons.collect()))),
        ]);
        text::encode(text::TOKEN, &Zeroizing::new(bytes.encode()))
    }

    /// Reads a token's text; verifies nothing but its checksum.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = text::decode(text::TOKEN, text)?;
        let mut fields = Fields::decode(&bytes)?;
        let membership: &[u8] = fields.required(MEMBERSHIP)?;
        let trust_log: &[u8] = fields.required(TRUST_LOG)?;
        let key: Option<[u8; 32]> = fields.optional(KEY)?;
        let beacons: Vec<&[u8]> = fields.required(BEACONS)?;
        fields.finish()?;
        if beacons.len() > MAX_BEACONS || beacons.iter().any(|b| b.len() > MAX_CERTIFICATE) {
            return Err(FormatError::TooLong.into());
        }
        Ok(Self {
            membership: membership.to_vec(),
            trust_log: trust_log.to_vec(),
            key: key.map(IdentityKey::generate),
            beacons: beacons.into_iter().map(<[u8]>::to_vec).collect(),
        })
    }

    /// The trust log in it.
    pub fn trust_log(&self) -> &[u8] {
        &self.trust_log
    }

    /// The beacons' certificates in it.
    pub fn beacons(&self) -> &[Vec<u8>] {
        &self.beacons
    }

    /// Verifies all of it, as its holder.
    pub fn open(&self, now: UnixTime) -> Result<Invitation, TokenError> {
        let mut trust = Trust::new(&self.trust_log, now)?;
        for beacon in &self.beacons {
            // One that is over or revoked meanwhile is no reason not to join by another.
            let _ = trust.accept_certificate(beacon, now);
        }
        let mesh = trust.mesh();
        let bytes = Certificate::join(&[&self.membership]);
        let certificate = Certificate::parse(&bytes, &mesh)?;
        let issuer = trust.current_issuer(certificate.membership.issuer_epoch)?;
        certificate
            .verify_issuer(&mesh, &issuer)
            .map_err(TrustError::from)?;
        let redeem_at = match &certificate.membership.subject {
            Subject::Identity(_) => None,
            Subject::Token(window) => Some((window.beacon, window.closes)),
        };
        let named = redeem_at.is_none_or(|(beacon, _)| trust.member(&beacon).is_some());
        if !named {
            return Err(TrustError::UnknownBeacon.into());
        }
        let name = certificate.membership.name.clone();
        Ok(Invitation {
            trust,
            node: certificate.node(&mesh),
            name,
            redeem_at,
        })
    }

    /// The certificate of the joiner that made this identity key: whole where the issuer signed
    /// that key, without its receipt where it comes by token.
    pub fn certify(&self, mesh: &MeshId, identity: &IdentityKey) -> Result<Vec<u8>, TokenError> {
        let bytes = Certificate::join(&[&self.membership]);
        let certificate = Certificate::parse(&bytes, mesh)?;
        match (&certificate.membership.subject, &self.key) {
            (Subject::Identity(named), _) if *named == identity.public() => Ok(bytes),
            (Subject::Identity(_), _) => Err(TokenError::OtherKey),
            (Subject::Token(_), Some(key)) => {
                let node = certificate.node(mesh);
                let binding = make_binding(&node, &identity.public(), mesh, key);
                Ok(Certificate::join(&[&self.membership, &binding]))
            }
            (Subject::Token(_), None) => Err(TokenError::NoKey),
        }
    }

    /// Adds the receipt that the beacon gave; the joiner verifies it by [`Trust::enroll`].
    pub fn complete(
        certificate: &[u8],
        receipt: &[u8],
        mesh: &MeshId,
    ) -> Result<Vec<u8>, TokenError> {
        let parsed = Certificate::parse(certificate, mesh)?;
        let binding = parsed.binding_bytes().ok_or(FormatError::Contradiction)?;
        Ok(Certificate::join(&[
            parsed.membership_bytes(),
            binding,
            receipt,
        ]))
    }
}

impl Request {
    /// A request by this key, signed by it.
    pub fn make(identity: &IdentityKey) -> Zeroizing<String> {
        let payload = Value::map([(KEY, Some(Value::Bytes(&identity.public().0)))]).encode();
        let bytes = envelope::sign(Kind::Request, &MeshId([0; 32]), &payload, identity);
        text::encode(text::REQUEST, &bytes)
    }

    /// Reads and verifies a request.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = text::decode(text::REQUEST, text)?;
        let sealed = Sealed::open(Kind::Request, &bytes)?;
        let mut fields = sealed.claims()?;
        let identity = fields.required(KEY)?;
        fields.finish()?;
        sealed
            .verify(&MeshId([0; 32]), &identity)
            .map_err(TrustError::from)?;
        Ok(Self { identity })
    }

    /// The key that asks.
    pub fn identity(&self) -> IdentityPublic {
        self.identity
    }
}

impl Claim {
    /// The line that the beacon prints after `claim `.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([self.identity.0, *self.secret].concat());
        text::encode(text::CLAIM, &bytes)
    }

    /// Reads a claim.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let bytes = text::decode(text::CLAIM, text)?;
        let (identity, secret) = bytes.split_first_chunk().ok_or(FormatError::Malformed)?;
        let secret: &[u8; 32] = secret.try_into().map_err(|_| FormatError::Malformed)?;
        Ok(Self {
            identity: IdentityPublic(*identity),
            secret: Zeroizing::new(*secret),
        })
    }

    /// HMAC-SHA-256 of a transcript under the secret, which itself never travels.
    pub fn mac(&self, transcript: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.key(), transcript);
        tag.as_ref().try_into().expect("HMAC-SHA-256 is 32 bytes")
    }

    /// Compares in constant time.
    pub fn verify_mac(&self, transcript: &[u8], mac: &[u8; 32]) -> bool {
        hmac::verify(&self.key(), transcript, mac).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_slice())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claim(of {})", self.identity)
    }
}

/// As many beacons as a joiner could try in turn.
const MAX_BEACONS: usize = 16;

const MEMBERSHIP: u64 = 0;
const TRUST_LOG: u64 = 1;
const KEY: u64 = 2;
const BEACONS: u64 = 3;

/// Why a text from somebody's hand is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not a text of this kind, or damaged.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Whole, but not what its prefix says.
    #[error("the content cannot be read")]
    Format(#[source] FormatError),
    /// What it says does not verify.
    #[error("the content does not verify")]
    Trust(#[from] TrustError),
    /// It answers the request of another gateway.
    #[error("it was made for another gateway's key")]
    OtherKey,
    /// It needs a token key and has none.
    #[error("the token key is missing")]
    NoKey,
}

impl From<FormatError> for TokenError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}
