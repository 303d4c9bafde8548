//! A gateway as the policy sees it.

use std::net::IpAddr;

use identity::{Member, NodeId, NodeName, Role, Tag, UserName};

use crate::Attributes;
use crate::address::Prefix;

/// A gateway, from its verified membership. A beacon is never one: it matches no selector
/// ([`Node::from_member`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its authenticated id.
    pub id: NodeId,
    /// Its name in the mesh.
    pub name: NodeName,
    /// Whose it is. Ignored where it has tags: a tagged node has no user.
    pub user: Option<UserName>,
    /// What it is for.
    pub tags: Vec<Tag>,
    /// Its addresses inside the mesh.
    pub addresses: Vec<IpAddr>,
    /// The networks behind it that it offers to reach.
    pub routes: Vec<Prefix>,
    /// Those of them that somebody approved; what `autoApprovers` approves need not be in it.
    pub approved_routes: Vec<Prefix>,
    /// What is known of it, for postures.
    pub attributes: Attributes,
}

impl Node {
    /// A gateway of which no more than its name is known.
    pub fn new(id: NodeId, name: NodeName) -> Self {
        Self {
            id,
            name,
            user: None,
            tags: Vec::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            approved_routes: Vec::new(),
            attributes: Attributes::new(),
        }
    }

    /// A gateway from its verified membership; none from a beacon's.
    pub fn from_member(member: &Member) -> Option<Self> {
        (member.role == Role::Gateway).then(|| Self {
            user: member.user.clone(),
            tags: member.tags.clone(),
            addresses: member.overlay.into_iter().map(IpAddr::from).collect(),
            ..Self::new(member.node, member.name.clone())
        })
    }

    /// The user whose node it is: none where it has tags.
    pub fn owner(&self) -> Option<&UserName> {
        self.user.as_ref().filter(|_| self.tags.is_empty())
    }
}
