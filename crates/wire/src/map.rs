//! What a client asks of the coordinator, and what the coordinator tells it, inside the link.
//!
//! The coordinator is an untrusted cache: every document here is verified by who receives it.

use bytes::Bytes;
use identity::{Heads, NodeId};
use serde::{Deserialize, Serialize};

use crate::link::Refusal;

/// From a client to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapRequest {
    /// Follow the map from here on; the first request of a gateway.
    Watch {
        /// Where an earlier watch stood; `None` for all.
        cursor: Option<Cursor>,
        /// What this node has already: newer documents are sent, older ones ignored.
        heads: Heads,
    },
    /// Give this document to the mesh. Answered by [`MapUpdate::Answer`] with the same number.
    Publish {
        /// Chosen by the client.
        request: u32,
        /// Any member publishes its own certificate and record and the newest of the rest that it
        /// holds; only the operator or a claimant may bring what the coordinator does not know.
        document: Document,
    },
    /// A joiner asks for its receipt. Answered by [`MapUpdate::Receipt`] or an answer.
    Enroll {
        /// Chosen by the client.
        request: u32,
        /// Membership and binding, without receipt.
        certificate: Bytes,
    },
}

/// From the coordinator to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapUpdate {
    /// A document that is newer than the client's heads, or a member's certificate or record.
    Document(Document),
    /// A member came or went.
    Presence {
        /// Who.
        node: NodeId,
        /// Whether it has a link here.
        online: bool,
        /// When it was last seen here, seconds since 1970 by the beacon's clock.
        last_seen: u64,
    },
    /// A member is in the map no more.
    Removed {
        /// Who.
        node: NodeId,
    },
    /// All up to this cursor was sent: only now may the client drop members that were not in it.
    CaughtUp {
        /// Where a later watch may resume.
        cursor: Cursor,
        /// Whether what came since the watch began was everything (not only changes).
        complete: bool,
        /// What the coordinator holds: the client publishes what it has newer.
        heads: Heads,
    },
    /// The receipt of an enrolment.
    Receipt {
        /// The client's number.
        request: u32,
        /// Signed by the beacon.
        receipt: Bytes,
    },
    /// How a request ended.
    Answer {
        /// The client's number.
        request: u32,
        /// Stored durably, or why not.
        result: Result<(), PublishError>,
    },
}

/// A signed document in its own encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Document {
    /// The whole trust log.
    TrustLog(Bytes),
    /// The policy bundle.
    Policy(Bytes),
    /// The revocation set.
    Revocations(Bytes),
    /// A member's certificate.
    Certificate(Bytes),
    /// A member's record.
    Record(Bytes),
}

/// Where a watch stands: numbers of one coordinator process's log of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Random for each coordinator database.
    pub epoch: u64,
    /// Counts changes.
    pub sequence: u64,
}

/// Why a published document was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A newer one is stored.
    #[error("the beacon holds a newer one")]
    Older,
    /// Another document of the same order is stored: two machines sign with one key.
    #[error("the beacon holds another document of the same version")]
    Conflict,
    /// A signature, date or field is wrong.
    #[error("the beacon could not verify it")]
    Unverified,
    /// The caller may not do this.
    #[error("{0}")]
    Refused(Refusal),
    /// The store failed; try again.
    #[error("the beacon could not store it")]
    Store,
}
