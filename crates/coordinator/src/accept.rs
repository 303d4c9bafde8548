//! Documents meet beliefs: every document of the map goes through the matching function of
//! [`Trust`], and what comes of it is put in the words of the map.

use bytes::Bytes;
use identity::{Change, IdentityPublic, NodeId, Standing, Trust, TrustError, UnixTime};
use wire::link::Refusal;
use wire::map::{Document, PublishError};

use crate::store::Key;

/// A document that verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It was known.
    Known,
    /// It is news, and belongs here.
    News(Key),
}

/// A member that showed its papers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Who.
    pub node: NodeId,
    /// What it must prove.
    pub identity: IdentityPublic,
    /// How it stands.
    pub standing: Standing,
}

/// Verifies one document and keeps it where it is newer.
pub fn accept(
    trust: &mut Trust,
    document: &Document,
    now: UnixTime,
) -> Result<Accepted, PublishError> {
    let change = match document {
        Document::TrustLog(bytes) => trust.accept_trust_log(bytes, now),
        Document::Policy(bytes) => trust.accept_policy(bytes, now),
        Document::Revocations(bytes) => trust.accept_revocations(bytes, now),
        Document::Certificate(bytes) => trust.accept_certificate(bytes, now),
        Document::Record(bytes) => trust.accept_record(bytes, now),
    };
    match change {
        Ok(Change::None) => Ok(Accepted::Known),
        Ok(Change::Newer) => key_of(trust, document).map(Accepted::News),
        Err(error) => {
            tracing::debug!(%error, "refused a document");
            Err(refused(&error))
        }
    }
}

/// Where a document belongs that was just accepted.
fn key_of(trust: &Trust, document: &Document) -> Result<Key, PublishError> {
    match document {
        Document::TrustLog(_) => Ok(Key::TrustLog),
        Document::Policy(_) => Ok(Key::Policy),
        Document::Revocations(_) => Ok(Key::Revocations),
        Document::Certificate(bytes) => {
            let member = trust
                .examine_certificate(bytes)
                .map_err(|error| refused(&error))?;
            Ok(Key::Certificate(member.node))
        }
        Document::Record(bytes) => {
            let mut nodes = trust.members().map(|member| member.node);
            let holds = |node: &NodeId| trust.record(node).is_some_and(|(_, held)| held == bytes);
            nodes
                .find(holds)
                .map(Key::Record)
                .ok_or(PublishError::Unverified)
        }
    }
}

/// Reads the papers of a member without believing in them yet: what was pinned before wins over
/// what is shown.
pub fn shown(trust: &Trust, certificate: &[u8], now: UnixTime) -> Result<Shown, Refusal> {
    let examined = trust.examine_certificate(certificate).map_err(|error| {
        tracing::debug!(%error, "refused the papers of a caller");
        refusal(&error)
    })?;
    let node = examined.node;
    match trust.member(&node) {
        Some(known) => {
            let standing = trust.standing(&node, now);
            Ok(Shown {
                node,
                identity: known.identity,
                standing,
            })
        }
        None => {
            let standing = trust.standing_of(&examined, now);
            Ok(Shown {
                node,
                identity: examined.identity,
                standing,
            })
        }
    }
}

/// The document's own bytes.
pub fn bytes(document: &Document) -> &Bytes {
    match document {
        Document::TrustLog(bytes)
        | Document::Policy(bytes)
        | Document::Revocations(bytes)
        | Document::Certificate(bytes)
        | Document::Record(bytes) => bytes,
    }
}

/// What a caller is told of papers that do not verify.
pub fn refusal(error: &TrustError) -> Refusal {
    match error {
        TrustError::OtherMesh => Refusal::OtherMesh,
        TrustError::TokenSpent | TrustError::OutsideWindow => Refusal::TokenSpent,
        TrustError::Revoked => Refusal::Revoked,
        TrustError::Expired => Refusal::Expired,
        _ => Refusal::Unproven,
    }
}

fn refused(error: &TrustError) -> PublishError {
    match error {
        TrustError::Older => PublishError::Older,
        TrustError::Conflict => PublishError::Conflict,
        _ => PublishError::Unverified,
    }
}
