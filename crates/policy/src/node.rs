//! A gateway as the policy sees it.

use std::net::IpAddr;

use identity::{Enrolment, Member, NodeId, NodeName, Role, Tag, UnixTime, UserName};

use crate::address::Prefix;
use crate::{Attribute, Attributes};

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

    /// A gateway from its verified membership; none from a beacon's. What depends on the clock is
    /// known only where there is one to trust.
    pub fn from_member(member: &Member, at: Option<UnixTime>) -> Option<Self> {
        let times = (member.issued_at, member.expires_at);
        (member.role == Role::Gateway).then(|| Self {
            user: member.user.clone(),
            tags: member.tags.clone(),
            addresses: member.overlay.into_iter().map(IpAddr::from).collect(),
            attributes: attributes(&member.enrolment, times, at),
            ..Self::new(member.node, member.name.clone())
        })
    }

    /// The user whose node it is: none where it has tags.
    pub fn owner(&self) -> Option<&UserName> {
        self.user.as_ref().filter(|_| self.tags.is_empty())
    }
}

/// What the issuer's signature tells of a gateway, for postures: nobody else's word counts.
///
/// Ages are in whole days, counted by midnights in UTC, so that a mesh changes its mind once a day
/// and everywhere at once.
pub fn attributes(
    enrolment: &Enrolment,
    (issued_at, expires_at): (UnixTime, UnixTime),
    at: Option<UnixTime>,
) -> Attributes {
    let way = match enrolment {
        Enrolment::Key(_) => "key",
        Enrolment::Token(_) => "token",
    };
    let mut known = Attributes::from([(ENROLMENT.into(), Attribute::Text(way.into()))]);
    if let Some(at) = at {
        let days = |from: UnixTime, to: UnixTime| (to.0 / DAY).saturating_sub(from.0 / DAY);
        // Days are few: exact as a float.
        let mut tell = |name: &str, days: u64| {
            known.insert(name.into(), Attribute::Number(days as f64));
        };
        tell(AGE, days(issued_at, at));
        tell(LEFT, days(at, expires_at));
    }
    known
}

/// `key` where the issuer signed the gateway's own key, `token` where it came by a one-time token.
const ENROLMENT: &str = "node:enrolment";

/// Days since its membership was signed.
const AGE: &str = "node:membershipAgeDays";

/// Days until its membership ends.
const LEFT: &str = "node:membershipDaysLeft";

/// In seconds.
const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use identity::IdentityPublic;

    use super::*;

    #[test]
    fn ages_are_whole_days_and_need_a_clock() {
        let enrolment = Enrolment::Key(IdentityPublic([1; 32]));
        let times = (UnixTime(10 * DAY + 5), UnixTime(40 * DAY));

        let known = attributes(&enrolment, times, Some(UnixTime(12 * DAY)));

        assert_eq!(known[AGE], Attribute::Number(2.0), "two midnights ago");
        assert_eq!(known[LEFT], Attribute::Number(28.0));
        assert_eq!(known[ENROLMENT], Attribute::Text("key".into()));
        assert_eq!(attributes(&enrolment, times, None).len(), 1);
        let before = attributes(&enrolment, times, Some(UnixTime(0)));
        assert_eq!(before[AGE], Attribute::Number(0.0));
    }
}
