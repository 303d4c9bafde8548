//! Why a document is not believed, and what a person must hear of.

use crate::cbor::FormatError;
use crate::keys::SignatureError;
use crate::{NodeId, Order};

/// Why a document is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Not a document of this kind.
    #[error("the document cannot be read")]
    Format(#[source] FormatError),
    /// Signed by somebody else, or changed since.
    #[error("the signature does not verify")]
    Signature,
    /// An entry of the trust log does not follow from the one before.
    #[error("entry {index} of the trust log does not follow from the one before")]
    Chain {
        /// Which.
        index: u32,
    },
    /// The trust log of another mesh.
    #[error("it belongs to another mesh")]
    OtherMesh,
    /// A newer one is held.
    #[error("older than what is held")]
    Older,
    /// Two documents of one order: two machines sign with one key, or it was stolen.
    #[error("another document of the same order is held")]
    Conflict,
    /// Signed in an epoch that root ended.
    #[error("signed by a key that root has replaced")]
    EndedEpoch,
    /// Signed in an epoch that the trust log held here does not know; a newer log may.
    #[error("signed in an epoch that the trust log does not know")]
    UnknownEpoch,
    /// Below what this node's own membership lets it accept.
    #[error("older than this node's own membership lets it accept")]
    BelowFloor,
    /// Leaves out what an earlier set of the same epoch had.
    #[error("the revocation set leaves out what an earlier one had")]
    Shrinks,
    /// The beacon whose receipt counts is not known here (yet).
    #[error("the beacon that this certificate names is not known here")]
    UnknownBeacon,
    /// The member whose record this is is not known here (yet).
    #[error("the node is not known here")]
    UnknownNode,
    /// A membership for a token without a binding of that token's key for that node.
    #[error("the certificate binds no identity key")]
    NoBinding,
    /// A binding without a receipt for that node and key.
    #[error("the certificate has no receipt of its beacon")]
    NoReceipt,
    /// The issuer signed the identity key itself.
    #[error("this membership needs no receipt")]
    NoReceiptNeeded,
    /// The token names another beacon.
    #[error("the token names another beacon")]
    OtherBeacon,
    /// Redeemed before or after the token's window.
    #[error("the token's time is over, or has not begun")]
    OutsideWindow,
    /// The token was redeemed with another key.
    #[error("the token was used already")]
    TokenSpent,
    /// Another identity key is pinned for this node, and no higher membership names this one.
    #[error("another identity key is known for this node")]
    PinnedOther,
    /// The certificate is for another identity key than one's own.
    #[error("the certificate is for another key")]
    OtherKey,
    /// Before its not-before.
    #[error("not valid yet")]
    NotYetValid,
    /// After its expiry.
    #[error("expired")]
    Expired,
    /// It claims to live longer than its kind may.
    #[error("it claims to live too long")]
    LivesTooLong,
    /// The membership was revoked.
    #[error("the membership was revoked")]
    Revoked,
}

/// What a person must hear of: each is an attack or two machines that sign with one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Alarm {
    /// Two branches of the trust log; the one that root signed last counts.
    #[error("root signed two branches of the trust log; the later one counts")]
    TrustLogFork,
    /// Two policies of one order.
    #[error("two policies are signed as {}.{}", .order.epoch, .order.version)]
    PolicyConflict {
        /// Which.
        order: Order,
    },
    /// Two revocation sets of one order, or one that takes a revocation back.
    #[error("two revocation sets contradict each other at {}.{}", .order.epoch, .order.version)]
    RevocationsConflict {
        /// Which.
        order: Order,
    },
    /// Two memberships of one node and order.
    #[error("two memberships of node {node} have one serial")]
    MembershipConflict {
        /// Whose.
        node: NodeId,
    },
    /// Two identity keys for one node, and the issuer named neither.
    #[error("a second identity key claims to be node {node}")]
    RivalIdentity {
        /// Whose.
        node: NodeId,
    },
    /// Two records of one node and sequence: a cloned key.
    #[error("two records of node {node} have one sequence")]
    RecordConflict {
        /// Whose.
        node: NodeId,
    },
}

impl From<SignatureError> for TrustError {
    fn from(_: SignatureError) -> Self {
        Self::Signature
    }
}
