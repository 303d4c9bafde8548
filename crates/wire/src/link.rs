//! The link of a client (gateway, operator, joiner) to a beacon: one connection that carries
//! relay, map and presence.
//!
//! On QUIC: one bidirectional stream, opened by the beacon (who speaks first; a client can open
//! none), carries [`ClientFrame`] one way and [`BeaconFrame`] the other; relayed datagrams are QUIC DATAGRAMs (RFC 9221) of
//! [`RelayDatagram`]. On TLS over TCP the same frames, and relayed datagrams are frames too.
//!
//! ```text
//! client                               beacon
//!   (dials)                      ◄──  Challenge { nonce, key }
//!   Hello { nonce, key, caller, proof } ──►
//!                                ◄──  Welcome { proof, observed, .. }  or  Refused
//! ```
//! Both proofs are Ed25519 signatures by the identity key (operator: the operator key) over
//! [`Transcript`]; on QUIC it holds the TLS exporter too, so nobody in between can splice.

use std::net::SocketAddr;

use bytes::Bytes;
use identity::{IdentityPublic, NodeId};
use serde::{Deserialize, Serialize};

use crate::map::{MapRequest, MapUpdate};

/// The ALPN protocol (RFC 7301) of the link, on QUIC and on TLS over TCP.
pub const ALPN: &[u8] = b"crabmesh-link/1";

/// The TLS exporter label (RFC 8446 §7.5) whose 32 bytes go into the QUIC transcript.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-crabmesh-link v1";

/// What a client that has not proved itself may send: 4 KiB (identity.md §4).
pub const PRE_AUTHENTICATION_BYTES: usize = 4 << 10;

/// How long the handshake of the link may take: 2 s (identity.md §4).
pub const PRE_AUTHENTICATION_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// The largest relayed datagram: a WireGuard message for an Ethernet path (1500 less IPv4 and UDP).
pub const MAX_RELAYED: usize = 1472;

/// The longest certificate and record, taken together, by which a client may introduce itself.
pub const MAX_INTRODUCTION: usize = 4 << 10;

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientFrame {
    /// Answers the challenge; the first frame.
    Hello {
        /// Random; the beacon's proof covers it.
        nonce: [u8; 32],
        /// The key that signed `proof`, and on QUIC the client's TLS key. That the caller's
        /// certificate or role names it is for the beacon to check.
        key: IdentityPublic,
        /// Who calls.
        caller: Caller,
        /// Ed25519 over the transcript, by the caller's key: 64 bytes.
        proof: Bytes,
    },
    /// Shows my certificate and record to a peer before my first datagram to it, so that it need
    /// not wait for the map.
    Introduce {
        /// The peer.
        to: NodeId,
        /// My certificate.
        certificate: Bytes,
        /// My record.
        record: Bytes,
    },
    /// On TCP: one datagram for a peer.
    Relay(RelayDatagram),
    /// To the coordinator.
    Map(MapRequest),
    /// Echoed by [`BeaconFrame::Pong`].
    Ping(u64),
}

/// Who calls a beacon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caller {
    /// A gateway, or another beacon, with its certificate and newest record; the proof is by its
    /// identity key. One that is expired or revoked is let in for its cure only.
    Member {
        /// Membership, with binding and receipt where it came by token.
        certificate: Bytes,
        /// Signed by the identity key.
        record: Bytes,
    },
    /// Who holds the operator role key of the trust log; the proof is by that key.
    Operator {
        /// The operator's public key.
        key: IdentityPublic,
    },
    /// A joiner that holds a token: membership and binding; the proof is by the identity key that
    /// the binding names. It may ask for its receipt, and nothing else.
    Joiner {
        /// Certificate without receipt.
        certificate: Bytes,
    },
    /// The operator of a beacon that nobody has claimed: proves that it knows the claim's secret
    /// without sending it. The proof is by the operator key.
    Claimant {
        /// The operator's public key.
        key: IdentityPublic,
        /// HMAC-SHA-256 under the claim's secret, over the transcript.
        mac: [u8; 32],
    },
}

/// From the beacon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BeaconFrame {
    /// The first frame.
    Challenge {
        /// Random; the client's proof covers it.
        nonce: [u8; 32],
        /// The beacon's identity key.
        key: IdentityPublic,
    },
    /// The client is in.
    Welcome {
        /// Ed25519 over the transcript, by the beacon's identity key: 64 bytes.
        proof: Bytes,
        /// The client's address as the beacon sees it, on this transport.
        observed: SocketAddr,
        /// Set where only the cure is served: trust log, revocations, beacon memberships, and the
        /// caller's own renewal.
        restricted: Option<Refusal>,
    },
    /// The client stays out; the beacon closes after it.
    Refused(Refusal),
    /// The client's address changed (NAT rebinding).
    Observed(SocketAddr),
    /// A peer introduces itself.
    Introduced {
        /// The peer.
        from: NodeId,
        /// Its certificate.
        certificate: Bytes,
        /// Its record.
        record: Bytes,
    },
    /// On TCP: one datagram from a peer.
    Relay(RelayDatagram),
    /// A datagram could not be passed on.
    Gone {
        /// To this peer.
        node: NodeId,
        /// It is not connected here (or its queue is full: dropped).
        reason: GoneReason,
    },
    /// The beacon goes away in so many milliseconds: move to another.
    Drain {
        /// Milliseconds.
        reconnect_in_ms: u32,
    },
    /// From the coordinator.
    Map(MapUpdate),
    /// Echoes [`ClientFrame::Ping`].
    Pong(u64),
}

/// One relayed WireGuard datagram. As a QUIC DATAGRAM it is 16 bytes of node id, then the payload,
/// without length or tag ([`RelayDatagram::encode`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayDatagram {
    /// From the client: the destination. From the beacon: the source.
    pub peer: NodeId,
    /// Ciphertext, at most [`MAX_RELAYED`] bytes.
    pub payload: Bytes,
}

/// Why a relay did not pass a datagram on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GoneReason {
    /// That node is not connected to this beacon.
    NotConnected,
    /// Its queue was full; so many were dropped since the last word about it.
    Dropped {
        /// How many.
        count: u32,
    },
}

/// Why a beacon does not serve a caller, or only its cure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No mesh has claimed this beacon yet.
    #[error("this beacon is not claimed yet")]
    Unclaimed,
    /// A mesh has claimed it before.
    #[error("this beacon serves a mesh already")]
    AlreadyClaimed,
    /// The certificate, key or signature does not prove what the caller claims.
    #[error("the caller could not prove who it is")]
    Unproven,
    /// The membership belongs to another mesh.
    #[error("the caller belongs to another mesh")]
    OtherMesh,
    /// The membership has expired.
    #[error("the membership has expired")]
    Expired,
    /// The node was revoked.
    #[error("the membership was revoked")]
    Revoked,
    /// The token was used before by another key, or its window is over.
    #[error("the token was used already, or its time is over")]
    TokenSpent,
    /// The role of the caller may not do this.
    #[error("the caller's role may not do this")]
    Forbidden,
    /// Too many connections or requests.
    #[error("the beacon is busy")]
    Busy,
}

/// What both proofs of the link sign: everything that either side said, and the channel.
#[derive(Clone, Debug)]
pub struct Transcript {
    /// The beacon's nonce.
    pub beacon_nonce: [u8; 32],
    /// The client's nonce.
    pub client_nonce: [u8; 32],
    /// The beacon's identity key.
    pub beacon: IdentityPublic,
    /// The key that the client proves.
    pub client: IdentityPublic,
    /// QUIC: the TLS exporter under [`EXPORTER_LABEL`]. TCP: zeros, as a proxy may end the TLS.
    pub exporter: [u8; 32],
}

impl Transcript {
    /// The bytes that the client signs (and, as claimant, authenticates under the secret).
    pub fn client_bytes(&self) -> Vec<u8> {
        self.bytes(b"crabmesh link v1 client\0")
    }

    /// The bytes that the beacon signs.
    pub fn beacon_bytes(&self) -> Vec<u8> {
        self.bytes(b"crabmesh link v1 beacon\0")
    }

    fn bytes(&self, context: &[u8]) -> Vec<u8> {
        let parts: [&[u8]; 6] = [
            context,
            &self.beacon_nonce,
            &self.client_nonce,
            &self.beacon.0,
            &self.client.0,
            &self.exporter,
        ];
        parts.concat()
    }
}

impl RelayDatagram {
    /// What one datagram costs beside its payload, as a QUIC DATAGRAM.
    pub const OVERHEAD: usize = 16;

    /// The QUIC DATAGRAM of this payload for that peer, written to `out`.
    pub fn encode(peer: NodeId, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&peer.0);
        out.extend_from_slice(payload);
    }

    /// Reads a QUIC DATAGRAM; `None` where it is too short or too long.
    pub fn decode(mut datagram: Bytes) -> Option<Self> {
        let peer = NodeId(*datagram.first_chunk::<16>()?);
        let payload = datagram.split_off(Self::OVERHEAD);
        (payload.len() <= MAX_RELAYED).then_some(Self { peer, payload })
    }
}
