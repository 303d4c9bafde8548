//! Where relay and coordinator meet, in the one process of a beacon.
//!
//! The relay owns the connections; it asks a [`Gatekeeper`] whom to let in, and hands every client
//! that is in to the coordinator as a [`MapSession`]. Neither crate names the other.
//!
//! ```text
//! client ── Hello ──► relay ── admit ──► Gatekeeper
//!        ◄─ Welcome ──   │
//!        ── Map ──►      ├── MapSession.requests ──► coordinator
//!        ◄── Map ──      ◄── MapSession.updates ───      │
//!                        ◄───────────── Cut ─────────────┘
//! ```

pub(crate) mod quiet;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac;
use identity::{IdentityKey, NodeId};
use tokio::sync::{Notify, mpsc};
use wire::link::{Caller, Refusal, Transcript};
use wire::map::{MapRequest, MapUpdate};

/// Says who may come in, by what they prove. Answers at once: it is asked on the relay's tasks.
pub trait Gatekeeper: Send + Sync {
    /// The beacon's own identity key: its TLS key, and what signs its half of the link handshake.
    fn key(&self) -> Arc<IdentityKey>;

    /// Judges a hello. `proof` is to be an Ed25519 signature over [`Transcript::client_bytes`] by
    /// `transcript.client`; on QUIC the relay has checked already that this is the caller's TLS
    /// key. The gatekeeper checks the signature, that the caller's certificate (or role) names
    /// that very key, and whether it may come in at all.
    fn admit(
        &self,
        caller: &Caller,
        transcript: &Transcript,
        proof: &[u8],
    ) -> Result<Admission, Refusal>;
}

/// A client may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who it is.
    pub who: Who,
    /// Set where only its cure is served: it gets a map session, but no relay.
    pub restricted: Option<Refusal>,
}

/// Who a client is, once that is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// A gateway, or another beacon.
    Member(NodeId),
    /// The holder of the operator's role key.
    Operator,
    /// The holder of a token that waits for its receipt.
    Joiner,
    /// The operator of a mesh that is about to claim this beacon.
    Claimant,
}

/// One client's end of the map, given to the coordinator.
///
/// It lives as long as the connection: `requests` ends when the client is gone, and a coordinator
/// that drops `updates` closes the link. `updates` is bounded and must only be filled by
/// `try_send`: a client whose queue is full is to be dropped, and resumes by its cursor. When a
/// member connects anew, its newer session arrives before the older one ends.
#[derive(Debug)]
pub struct MapSession {
    /// Who.
    pub who: Who,
    /// Set where only the cure is served.
    pub restricted: Option<Refusal>,
    /// The client's address.
    pub observed: SocketAddr,
    /// From the client.
    pub requests: mpsc::Receiver<MapRequest>,
    /// To the client; dropping it closes the link.
    pub updates: mpsc::Sender<MapUpdate>,
}

/// Closes the links of members at once: held by the coordinator, obeyed by the relay.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<Cuts>);

/// A set, not a queue: it is bounded by the number of members, and nothing in it is ever lost.
#[derive(Debug, Default)]
struct Cuts {
    nodes: Mutex<BTreeSet<NodeId>>,
    changed: Notify,
}

impl Cut {
    /// Nobody is to be cut off yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Closes every link of this node, now. It may dial again, and is judged anew.
    pub fn cut(&self, node: NodeId) {
        self.nodes().insert(node);
        self.0.changed.notify_one();
    }

    /// The nodes to cut off, once there are any. For the relay alone.
    pub async fn next(&self) -> BTreeSet<NodeId> {
        loop {
            let nodes = std::mem::take(&mut *self.nodes());
            if !nodes.is_empty() {
                return nodes;
            }
            self.0.changed.notified().await;
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a claimant shows instead of the claim's secret: HMAC-SHA-256 over the transcript.
pub fn claim_mac(secret: &[u8; 32], transcript: &Transcript) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, &transcript.client_bytes());
    tag.as_ref().try_into().expect("HMAC-SHA-256 is 32 bytes")
}

/// Whether the claimant knows the secret; takes the same time whatever the answer.
pub fn verify_claim_mac(secret: &[u8; 32], transcript: &Transcript, mac: &[u8; 32]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::verify(&key, &transcript.client_bytes(), mac).is_ok()
}

#[cfg(test)]
mod tests {
    use identity::IdentityPublic;

    use super::*;

    #[test]
    fn a_claim_is_bound_to_its_secret_and_to_its_transcript() {
        let transcript = |nonce: u8| Transcript {
            beacon_nonce: [nonce; 32],
            client_nonce: [2; 32],
            beacon: IdentityPublic([3; 32]),
            client: IdentityPublic([4; 32]),
            exporter: [5; 32],
        };

        let mac = claim_mac(&[9; 32], &transcript(1));

        assert!(verify_claim_mac(&[9; 32], &transcript(1), &mac));
        assert!(!verify_claim_mac(&[8; 32], &transcript(1), &mac));
        assert!(!verify_claim_mac(&[9; 32], &transcript(7), &mac));
    }
}
