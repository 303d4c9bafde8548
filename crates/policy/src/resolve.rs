//! From names to nodes: which rules may concern which gateways.
//!
//! Nodes that match the same selectors form one *class*. Per class the rules are listed that have
//! it as source or destination, so that a verdict intersects two short lists instead of walking
//! the file; at the gateway for which a policy is compiled that intersection is made beforehand.

mod matcher;
mod nodes;
mod rules;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use identity::{NodeId, NodeName, UserName};

pub(crate) use self::matcher::Matcher;
use self::nodes::Nodes;
pub(crate) use self::rules::{
    Addresses, End, Posture, ResolvedBlock, ResolvedGuard, ResolvedRule, Rules, ends_in,
};
use crate::{Document, Node};

/// A document, resolved for the nodes of a mesh. Cheap to clone: a clone shares what it does not
/// change.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    rules: Arc<Rules>,
    nodes: Nodes,
    local: Option<Local>,
    next_class: u32,
}

/// The gateway for which a policy is compiled.
#[derive(Clone, Debug)]
struct Local {
    id: NodeId,
    class: Arc<Class>,
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub class: Arc<Class>,
    pub facts: Arc<Facts>,
}

/// What is told of a node, and what only its own user's rules ask.
#[derive(Debug)]
pub(crate) struct Facts {
    pub id: NodeId,
    /// Only where it has no tags.
    pub user: Option<UserName>,
    pub name: NodeName,
    /// The selector that it stands for, of a hypothetical node.
    pub stands_for: Option<Box<str>>,
    pub addresses: Box<[IpAddr]>,
}

/// Nodes that no selector of the file tells apart.
#[derive(Debug, Default)]
pub(crate) struct Class {
    pub id: u32,
    /// The selectors that match, sorted.
    selectors: Box<[u32]>,
    /// The rules that have it on one side, ascending.
    src: Box<[u32]>,
    dst: Box<[u32]>,
    guard_src: Box<[u32]>,
    guard_dst: Box<[u32]>,
    blocks: Box<[u32]>,
    /// The rules for messages to the local gateway, and from it.
    to_local: Box<[u32]>,
    from_local: Box<[u32]>,
}

impl Resolved {
    pub fn new(document: &Document, nodes: &[Node], local: Option<&NodeId>) -> Self {
        let rules = Arc::new(Rules::new(document));
        let local = local.and_then(|id| nodes.iter().find(|node| node.id == *id));
        let local = local.map(|node| Local {
            id: node.id,
            class: Arc::new(Class::new(
                &rules,
                rules.matcher.selectors_of(node),
                None,
                0,
            )),
        });
        let mut resolved = Self {
            rules,
            nodes: Nodes::default(),
            local,
            next_class: 0,
        };
        let mut classes: BTreeMap<Box<[u32]>, Arc<Class>> = BTreeMap::new();
        for node in nodes {
            let selectors = resolved.rules.matcher.selectors_of(node);
            let class = match classes.get(&selectors) {
                Some(class) => class.clone(),
                None => {
                    let class = resolved.new_class(selectors.clone());
                    classes.insert(selectors, class.clone());
                    class
                }
            };
            resolved.nodes.insert(Place::new(node, class));
        }
        resolved
    }

    /// One node more, or a newer view of it. The local gateway itself cannot change in this way.
    pub fn insert(&mut self, node: &Node) {
        let class = self.new_class(self.rules.matcher.selectors_of(node));
        self.nodes.insert(Place::new(node, class));
    }

    pub fn remove(&mut self, id: &NodeId) {
        self.nodes.remove(id);
    }

    /// Says what a hypothetical node stands for: it is called by that.
    pub fn stand_for(&mut self, id: &NodeId, selector: &str) {
        let Some(place) = self.nodes.get(id) else {
            return;
        };
        let facts = Facts {
            id: *id,
            user: place.facts.user.clone(),
            name: place.facts.name.clone(),
            stands_for: Some(selector.into()),
            addresses: place.facts.addresses.clone(),
        };
        let class = place.class.clone();
        self.nodes.insert(Place {
            class,
            facts: Arc::new(facts),
        });
    }

    fn new_class(&mut self, selectors: Box<[u32]>) -> Arc<Class> {
        let id = self.next_class;
        self.next_class += 1;
        let local = self.local.as_ref().map(|local| &*local.class);
        Arc::new(Class::new(&self.rules, selectors, local, id))
    }

    /// The gateway that it is prepared for.
    pub fn local(&self) -> Option<&NodeId> {
        self.local.as_ref().map(|local| &local.id)
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn node(&self, id: &NodeId) -> Option<&Place> {
        self.nodes.get(id)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Place> {
        self.nodes.iter()
    }

    /// The rules that may allow a message between agents of two nodes, in file order.
    pub fn message_rules<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedRule> {
        // Made beforehand where the local gateway is an end.
        let (made, rest) = match &self.local {
            Some(local) if local.id == dst.facts.id => (Some(&*src.class.to_local), None),
            Some(local) if local.id == src.facts.id => (Some(&*dst.class.from_local), None),
            _ => (None, Some(common(&src.class.src, &dst.class.dst))),
        };
        let made = made.into_iter().flatten().copied();
        made.chain(rest.into_iter().flatten())
            .map(|index| self.rules.rule(index))
            .filter(|rule| rule.is_for_messages())
    }

    /// The rules that may let packets from `src` to `dst`, in file order.
    pub fn packet_rules<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedRule> {
        common(&src.class.src, &dst.class.dst)
            .map(|index| self.rules.rule(index))
            .filter(|rule| !rule.ip.is_empty())
    }

    /// The rules that have a node as source, in file order.
    pub fn rules_from<'a>(&'a self, src: &'a Place) -> impl Iterator<Item = &'a ResolvedRule> {
        src.class.src.iter().map(|index| self.rules.rule(*index))
    }

    /// The rules that have one node as source and another as destination, in file order.
    pub fn rules_between<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedRule> {
        common(&src.class.src, &dst.class.dst).map(|index| self.rules.rule(index))
    }

    /// The guards that may be about what goes from one node to another, in file order.
    pub fn guards_between<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedGuard> {
        common(&src.class.guard_src, &dst.class.guard_dst).map(|index| self.rules.guard(index))
    }

    /// The guards that have a node as source, in file order.
    pub fn guards_from<'a>(&'a self, src: &'a Place) -> impl Iterator<Item = &'a ResolvedGuard> {
        src.class
            .guard_src
            .iter()
            .map(|index| self.rules.guard(*index))
    }

    /// The blocks that may be about a node or its agents, in file order.
    pub fn blocks_of<'a>(&'a self, place: &'a Place) -> impl Iterator<Item = &'a ResolvedBlock> {
        place
            .class
            .blocks
            .iter()
            .map(|index| self.rules.block(*index))
    }
}

impl Place {
    pub fn new(node: &Node, class: Arc<Class>) -> Self {
        let facts = Facts {
            id: node.id,
            user: node.owner().cloned(),
            name: node.name.clone(),
            stands_for: None,
            addresses: node.addresses.as_slice().into(),
        };
        Self {
            class,
            facts: Arc::new(facts),
        }
    }

    /// Whether both belong to one user.
    pub fn has_user_of(&self, other: &Self) -> bool {
        self.facts.user.is_some() && self.facts.user == other.facts.user
    }
}

impl Facts {
    /// What people call it: its name, or the selector that it stands for.
    pub fn called(&self) -> &str {
        self.stands_for.as_deref().unwrap_or(self.name.as_str())
    }
}

impl Class {
    fn new(rules: &Rules, selectors: Box<[u32]>, local: Option<&Self>, id: u32) -> Self {
        let listed = |postings: &rules::Postings| postings.of_any(&selectors);
        let mut class = Self {
            id,
            src: listed(&rules.by_src),
            dst: listed(&rules.by_dst),
            guard_src: listed(&rules.guards_by_src),
            guard_dst: listed(&rules.guards_by_dst),
            blocks: listed(&rules.blocks_by_match),
            selectors,
            ..Self::default()
        };
        if let Some(local) = local {
            let messages = |index: &u32| rules.rule(*index).is_for_messages();
            class.to_local = common(&class.src, &local.dst).filter(messages).collect();
            class.from_local = common(&local.src, &class.dst).filter(messages).collect();
        }
        class
    }

    /// The numbers of the selectors that match, sorted.
    pub fn selectors(&self) -> &[u32] {
        &self.selectors
    }

    /// Whether a selector of the file matches.
    pub fn has(&self, selector: u32) -> bool {
        self.selectors.binary_search(&selector).is_ok()
    }
}

/// What is in both of two ascending lists.
fn common<'a>(left: &'a [u32], right: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
    let mut left = left.iter().copied().peekable();
    let mut right = right.iter().copied().peekable();
    std::iter::from_fn(move || {
        loop {
            let (a, b) = (*left.peek()?, *right.peek()?);
            if a <= b {
                left.next();
            }
            if b <= a {
                right.next();
            }
            if a == b {
                return Some(a);
            }
        }
    })
}
