//! What the rest of the node may rely on: the members and the policy, as one snapshot that the
//! control task publishes in a watch channel. A reader keeps its `Arc` for one decision at most.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use identity::{
    AgentName, IdentityPublic, MeshName, NodeId, NodeName, Order, Tag, UnixTime, UserName,
};
use policy::{Denial, MessageRequest, Policy, Verdict};
use router::Authority;

/// The mesh as this gateway believes it at one moment.
#[derive(Clone, Debug)]
pub struct World {
    /// This gateway.
    pub node: NodeId,
    /// The mesh's name.
    pub mesh: MeshName,
    /// Every gateway whose membership is good now, this one included. Who is revoked or expired
    /// is absent.
    pub members: BTreeMap<NodeId, WorldMember>,
    /// The same by name.
    pub names: BTreeMap<NodeName, NodeId>,
    /// The policy in force; none, no traffic.
    pub policy: Option<WorldPolicy>,
    /// When the snapshot was made, by the clock that dates are judged by. The next one comes no
    /// later than the first date or hour of the policy that changes something.
    pub at: UnixTime,
}

/// One gateway of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldMember {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Whose it is, where it has no tags.
    pub user: Option<UserName>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// The key that its TLS must prove, inside its tunnel and at beacons.
    pub identity: IdentityPublic,
    /// Its address inside the mesh.
    pub overlay: Ipv6Addr,
    /// When its membership ends.
    pub expires_at: UnixTime,
}

/// The policy in force, and where it stands.
#[derive(Clone, Debug)]
pub struct WorldPolicy {
    /// Compiled for the members of the same snapshot.
    pub policy: Arc<Policy>,
    /// Epoch and version.
    pub order: Order,
    /// When it was signed.
    pub signed_at: UnixTime,
    /// The file as it was pushed.
    pub text: Arc<str>,
}

impl World {
    /// A gateway that knows itself alone and has no policy: nothing may pass.
    pub fn alone(node: NodeId, mesh: MeshName) -> Self {
        Self {
            node,
            mesh,
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            policy: None,
            at: UnixTime(0),
        }
    }

    /// Puts one more member, or a newer view of it, into the snapshot.
    pub fn insert(&mut self, member: WorldMember) {
        self.names.insert(member.name.clone(), member.node);
        self.members.insert(member.node, member);
    }

    /// The member of that name.
    pub fn named(&self, name: &NodeName) -> Option<&WorldMember> {
        self.members.get(self.names.get(name)?)
    }

    /// Whether an agent there (any, without a name) may do anything to an agent here. For
    /// directories and pings; messages are judged one by one.
    pub fn reachable(&self, from: (NodeId, Option<&AgentName>), to: (NodeId, &AgentName)) -> bool {
        let policy = self.policy.as_ref().map(|policy| &policy.policy);
        policy.is_some_and(|policy| policy.reachable((&from.0, from.1), (&to.0, to.1), self.at))
    }

    /// This gateway's own name, once it knows its membership.
    pub fn own_name(&self) -> Option<&NodeName> {
        self.members.get(&self.node).map(|member| &member.name)
    }
}

impl Authority for World {
    fn authorize(&self, request: &MessageRequest<'_>) -> Verdict {
        match &self.policy {
            Some(WorldPolicy { policy, .. }) => policy.authorize(request),
            None => Verdict::Denied(Denial {
                code: "no_policy",
                reason: "this gateway has no policy yet, so nothing is allowed".into(),
                rule: None,
                missing_grant: None,
            }),
        }
    }

    fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    fn node_named(&self, name: &NodeName) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    fn name_of(&self, node: &NodeId) -> Option<NodeName> {
        self.members.get(node).map(|member| member.name.clone())
    }
}
