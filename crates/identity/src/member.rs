//! The verified views of a member: what the issuer said, and what the node says of itself.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Digest, HostPort, IdentityPublic, MeshId, NodeId, NodeName, Order, Tag, UnixTime, UserName,
    WireGuardPublic,
};

/// What a member is. Exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Carries agents.
    Gateway,
    /// Relays and coordinates; has no agents and no overlay address, and matches no selector.
    Beacon,
}

/// How a member came in: the kind and the key that its node id is made of, for life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enrolment {
    /// The issuer signed the identity key itself.
    Key(IdentityPublic),
    /// By a one-time token with this key.
    Token(IdentityPublic),
}

/// One member as the issuer signed it, with the identity key that is proven to be its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Derived from mesh and enrolment.
    pub node: NodeId,
    /// Exactly one.
    pub role: Role,
    /// Unique among living members, as the issuer keeps it.
    pub name: NodeName,
    /// Whose it is; never together with tags.
    pub user: Option<UserName>,
    /// What it is.
    pub tags: Vec<Tag>,
    /// A gateway's address inside the mesh.
    pub overlay: Option<Ipv6Addr>,
    /// Where a beacon listens.
    pub beacon: Option<HostPort>,
    /// Proves the node: in TLS, on records.
    pub identity: IdentityPublic,
    /// How it came in.
    pub enrolment: Enrolment,
    /// The beacon whose receipt this certificate rests on; `None` where the issuer signed the key.
    pub enrolled_by: Option<NodeId>,
    /// Counts up through an issuer's memberships.
    pub serial: u64,
    /// The issuer's epoch in the trust log.
    pub issuer_epoch: u32,
    /// When the issuer signed.
    pub issued_at: UnixTime,
    /// Not before this.
    pub not_before: UnixTime,
    /// And not after this.
    pub expires_at: UnixTime,
    /// The least that the holder itself may accept.
    pub floors: Floors,
    /// SHA-256 of the membership.
    pub membership: Digest,
}

/// The lowest documents that the holder of a membership may accept, as of its issue: what stops
/// somebody from feeding the oldest of everything to a fresh node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    /// When the newest entry of the trust log was signed.
    pub trust_log: UnixTime,
    /// The newest policy.
    pub policy: Order,
    /// The newest revocation set.
    pub revocations: Order,
}

/// What a node says of itself, signed by its identity key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Whose record.
    pub node: NodeId,
    /// The key of its tunnel: a claim until a session proved it.
    pub wireguard: WireGuardPublic,
    /// The beacons where it keeps a link.
    pub relays: Vec<NodeId>,
    /// Addresses of last resort.
    pub addresses: Vec<SocketAddr>,
    /// The higher one replaces.
    pub sequence: u64,
    /// At most 30 days after it was signed.
    pub expires_at: UnixTime,
}

impl Member {
    /// Where this membership stands: the highest one of a node counts.
    pub fn order(&self) -> (u32, u64) {
        (self.issuer_epoch, self.serial)
    }
}

impl Enrolment {
    /// The node id that this enrolment makes in that mesh.
    pub fn node_id(&self, mesh: &MeshId) -> NodeId {
        let (kind, key) = match self {
            Self::Key(key) => (0, key),
            Self::Token(key) => (1, key),
        };
        let mut hash = Sha256::new();
        hash.update(b"crabmesh node id v1\0");
        hash.update(mesh.0);
        hash.update([kind]);
        hash.update(key.0);
        let hash: [u8; 32] = hash.finalize().into();
        NodeId(*hash.first_chunk().expect("16 of 32 bytes"))
    }
}

/// The /48 of a mesh (RFC 4193 §3.1: `fd` and 40 bits), subnet 0, and the node's first 8 bytes.
pub fn overlay_address(mesh: &MeshId, node: &NodeId) -> Ipv6Addr {
    let hash: [u8; 32] = Sha256::digest(mesh.0).into();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[..5]);
    octets[8..].copy_from_slice(&node.0[..8]);
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_depends_on_mesh_kind_and_key() {
        let key = IdentityPublic([1; 32]);
        let id = Enrolment::Key(key).node_id(&MeshId([2; 32]));

        assert_eq!(id, Enrolment::Key(key).node_id(&MeshId([2; 32])));
        assert_ne!(id, Enrolment::Token(key).node_id(&MeshId([2; 32])));
        assert_ne!(id, Enrolment::Key(key).node_id(&MeshId([3; 32])));
    }

    #[test]
    fn overlay_addresses_of_one_mesh_share_a_48_and_differ_by_node() {
        let a = overlay_address(&MeshId([1; 32]), &NodeId([2; 16])).octets();
        let b = overlay_address(&MeshId([1; 32]), &NodeId([3; 16])).octets();

        assert_eq!(a[0], 0xfd);
        assert_eq!(a[..8], b[..8]);
        assert_eq!(a[6..8], [0, 0]);
        assert_eq!(a[8..], [2; 8]);
        assert_ne!(a, b);
    }
}
