//! What guards and blocks may take from packets. Tailscale has nothing that takes away, so a rule
//! from which something may be taken cannot be exported as it is.

use identity::UnixTime;

use crate::document::{Document, NodeSelector, Selector, Spanned};

/// The guards and blocks of a file, as far as packets are concerned.
pub(super) struct Taken<'a> {
    document: &'a Document,
    now: UnixTime,
}

impl<'a> Taken<'a> {
    pub fn new(document: &'a Document, now: UnixTime) -> Self {
        Self { document, now }
    }

    /// The guard or block that may take something from packets between these.
    pub fn from(&self, src: &[&NodeSelector], dst: &[&NodeSelector]) -> Option<String> {
        let meets = |side: &[&NodeSelector], others: &[Spanned<Selector>]| {
            whole_nodes(others).any(|other| side.iter().any(|own| self.may_overlap(own, other)))
        };
        let guards = self.document.guards.iter().filter(|guard| {
            // Rates and sizes count messages, and a verb says nothing of packets.
            let denies = !guard.deny.is_empty() || guard.approve.is_some() || guard.spend.is_some();
            denies && guard.msg.is_empty()
        });
        let mut guards = guards.filter(|guard| meets(src, &guard.src) && meets(dst, &guard.dst));
        let blocks = self.document.blocks.iter();
        let mut blocks = blocks
            .filter(|block| block.holds(self.now))
            .filter(|block| meets(src, &block.matches) || meets(dst, &block.matches));
        let guard = guards.next().map(|guard| guard.name.phrase("guard"));
        guard.or_else(|| blocks.next().map(|block| block.name.phrase("block")))
    }

    /// Whether some node may match both; yes in doubt.
    fn may_overlap(&self, a: &NodeSelector, b: &NodeSelector) -> bool {
        let groups = &self.document.names.groups;
        let is_in = |group: &str, user| groups.get(group).is_some_and(|all| all.contains(user));
        match (a, b) {
            // A tag removes the user.
            (NodeSelector::Tag(_) | NodeSelector::Tagged, other)
            | (other, NodeSelector::Tag(_) | NodeSelector::Tagged)
                if other.is_of_users() || *other == NodeSelector::OfSourceUser =>
            {
                false
            }
            (NodeSelector::User(a), NodeSelector::User(b)) => a == b,
            (NodeSelector::User(user), NodeSelector::Group(group))
            | (NodeSelector::Group(group), NodeSelector::User(user)) => is_in(group, user),
            (NodeSelector::Group(a), NodeSelector::Group(b)) => {
                let members = groups.get(a);
                members.is_some_and(|all| all.iter().any(|user| is_in(b, user)))
            }
            (NodeSelector::Named(a), NodeSelector::Named(b)) => a == b,
            _ => true,
        }
    }
}

/// Packets are of no agent.
fn whole_nodes(side: &[Spanned<Selector>]) -> impl Iterator<Item = &NodeSelector> {
    side.iter().filter_map(|entry| match &entry.value {
        Selector::Node(node) => Some(node),
        _ => None,
    })
}
