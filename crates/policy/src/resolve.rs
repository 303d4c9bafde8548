//! From names to nodes: which rules may concern which gateways.
//!
//! Nodes that match the same selectors form one *class*. Per class the rules are listed that have
//! it as source or destination, so that a verdict intersects two short lists instead of walking
//! the file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::{Member, NodeId, NodeName, Role, Tag, UserName};

use crate::document::{AgentPattern, Document, NodeSelector, Ports, Prefix, Rule, Selector};
use crate::{GrantRef, VerbSet};

/// A gateway as the policy sees it, from its verified membership. A beacon is never one: it
/// matches no selector ([`Node::from_member`]).
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
}

/// A document, resolved for the nodes of a mesh.
#[derive(Debug)]
pub(crate) struct Resolved {
    nodes: BTreeMap<NodeId, Place>,
    /// By class: the selectors that match, sorted.
    classes: Vec<Box<[u32]>>,
    rules: Vec<ResolvedRule>,
    /// The rules with `msg`, and those with `ip`.
    messages: Postings,
    packets: Postings,
}

/// One node.
#[derive(Debug)]
pub(crate) struct Place {
    class: u32,
    /// Only where it has no tags.
    pub user: Option<UserName>,
    pub name: NodeName,
    pub addresses: Box<[IpAddr]>,
}

/// One rule, its selectors replaced by numbers.
#[derive(Debug)]
pub(crate) struct ResolvedRule {
    pub name: GrantRef,
    pub ip: Vec<Ports>,
    pub msg: VerbSet,
    src: Vec<End>,
    dst: Vec<End>,
}

/// One selector of a rule.
#[derive(Debug)]
pub(crate) struct End {
    selector: u32,
    pub agent: Option<AgentPattern>,
    of_source_user: bool,
    /// Narrows packets to these addresses of the node.
    pub within: Option<Prefix>,
}

/// By class, the indices of the rules that have it on one side, ascending.
#[derive(Debug, Default)]
struct Postings {
    src: Vec<Box<[u32]>>,
    dst: Vec<Box<[u32]>>,
}

impl Node {
    /// A gateway from its verified membership; none from a beacon's.
    pub fn from_member(member: &Member) -> Option<Self> {
        (member.role == Role::Gateway).then(|| Self {
            id: member.node,
            name: member.name.clone(),
            user: member.user.clone(),
            tags: member.tags.clone(),
            addresses: member.overlay.into_iter().map(IpAddr::from).collect(),
        })
    }

    /// The user whose node it is: none where it has tags.
    fn owner(&self) -> Option<&UserName> {
        self.user.as_ref().filter(|_| self.tags.is_empty())
    }
}

impl Resolved {
    pub fn new(document: &Document, nodes: &[Node]) -> Self {
        let mut selectors = BTreeMap::new();
        let rules: Vec<_> = document
            .rules
            .iter()
            .map(|rule| ResolvedRule::new(rule, &mut selectors))
            .collect();
        let matcher = Matcher::new(document, &selectors);
        let mut ids: BTreeMap<Box<[u32]>, u32> = BTreeMap::new();
        let mut places = BTreeMap::new();
        for node in nodes {
            let next = u32::try_from(ids.len()).expect("fewer classes than nodes, fewer than 2^32");
            let class = *ids.entry(matcher.selectors_of(node)).or_insert(next);
            let place = Place {
                class,
                user: node.owner().cloned(),
                name: node.name.clone(),
                addresses: node.addresses.as_slice().into(),
            };
            places.insert(node.id, place);
        }
        let mut classes = vec![Box::default(); ids.len()];
        for (class, id) in ids {
            classes[id as usize] = class;
        }
        let messages = Postings::new(&rules, &classes, |rule| !rule.msg.is_empty());
        let packets = Postings::new(&rules, &classes, |rule| !rule.ip.is_empty());
        Self {
            nodes: places,
            classes,
            rules,
            messages,
            packets,
        }
    }

    pub fn node(&self, id: &NodeId) -> Option<&Place> {
        self.nodes.get(id)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Place)> {
        self.nodes.iter()
    }

    pub fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// The rules by which some agent of `src` may message some agent of `dst`, in file order.
    pub fn message_rules(&self, src: &Place, dst: &Place) -> impl Iterator<Item = &ResolvedRule> {
        self.messages
            .common(src, dst)
            .map(|index| &self.rules[index as usize])
    }

    /// The rules by which packets may flow from `src` to `dst`, in file order.
    pub fn packet_rules(&self, src: &Place, dst: &Place) -> impl Iterator<Item = &ResolvedRule> {
        self.packets
            .common(src, dst)
            .map(|index| &self.rules[index as usize])
    }

    /// The sources of a rule that match a node.
    pub fn sources<'a>(
        &'a self,
        rule: &'a ResolvedRule,
        src: &Place,
    ) -> impl Iterator<Item = &'a End> {
        let class = &self.classes[src.class as usize];
        rule.src
            .iter()
            .filter(|end| class.binary_search(&end.selector).is_ok())
    }

    /// The destinations of a rule that match a node, for packets or messages from `src`.
    pub fn destinations<'a>(
        &'a self,
        rule: &'a ResolvedRule,
        src: &Place,
        dst: &Place,
    ) -> impl Iterator<Item = &'a End> {
        let class = &self.classes[dst.class as usize];
        let same_user = src.has_user_of(dst);
        rule.dst.iter().filter(move |end| {
            class.binary_search(&end.selector).is_ok() && (same_user || !end.of_source_user)
        })
    }
}

impl Place {
    /// Whether both belong to one user.
    pub fn has_user_of(&self, other: &Self) -> bool {
        self.user.is_some() && self.user == other.user
    }

    /// Equal for nodes that no selector of the file tells apart.
    pub fn class(&self) -> u32 {
        self.class
    }
}

impl ResolvedRule {
    fn new(rule: &Rule, selectors: &mut BTreeMap<NodeSelector, u32>) -> Self {
        let mut end = |selector: &Selector| {
            let next = u32::try_from(selectors.len()).expect("a file has fewer than 2^32 bytes");
            End {
                selector: *selectors.entry(selector.node.clone()).or_insert(next),
                agent: selector.agent.clone(),
                of_source_user: selector.node == NodeSelector::OfSourceUser,
                within: match selector.node {
                    NodeSelector::Within(prefix) => Some(prefix),
                    _ => None,
                },
            }
        };
        let src = rule.src.iter().map(&mut end).collect();
        let dst = rule.dst.iter().map(&mut end).collect();
        Self {
            name: rule.name.clone(),
            ip: rule.ip.clone(),
            msg: rule.msg,
            src,
            dst,
        }
    }
}

impl Postings {
    fn new(
        rules: &[ResolvedRule],
        classes: &[Box<[u32]>],
        has: impl Fn(&ResolvedRule) -> bool,
    ) -> Self {
        let (mut src, mut dst) = (BTreeMap::new(), BTreeMap::new());
        for (index, rule) in (0u32..).zip(rules).filter(|(_, rule)| has(rule)) {
            for (ends, by_selector) in [(&rule.src, &mut src), (&rule.dst, &mut dst)] {
                for end in ends {
                    by_selector
                        .entry(end.selector)
                        .or_insert_with(Vec::new)
                        .push(index);
                }
            }
        }
        let by_class = |by_selector: BTreeMap<u32, Vec<u32>>| {
            let of_class = |class: &[u32]| {
                let lists = class
                    .iter()
                    .filter_map(|selector| by_selector.get(selector));
                let indices: BTreeSet<u32> = lists.flatten().copied().collect();
                indices.into_iter().collect()
            };
            classes.iter().map(|class| of_class(class)).collect()
        };
        Self {
            src: by_class(src),
            dst: by_class(dst),
        }
    }

    /// The rules that have one class as source and the other as destination.
    fn common(&self, src: &Place, dst: &Place) -> impl Iterator<Item = u32> {
        let mut left = self.src[src.class as usize].iter().copied().peekable();
        let mut right = self.dst[dst.class as usize].iter().copied().peekable();
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
}

/// Finds the selectors that match a node, without trying each.
pub(crate) struct Matcher<'a> {
    ids: &'a BTreeMap<NodeSelector, u32>,
    groups: BTreeMap<&'a UserName, Vec<&'a str>>,
    blocks: Vec<(Prefix, u32)>,
}

impl<'a> Matcher<'a> {
    pub fn new(document: &'a Document, ids: &'a BTreeMap<NodeSelector, u32>) -> Self {
        let mut groups: BTreeMap<&UserName, Vec<&str>> = BTreeMap::new();
        for (group, members) in &document.names.groups {
            for member in members {
                groups.entry(member).or_default().push(group);
            }
        }
        let blocks = ids
            .iter()
            .filter_map(|(selector, id)| match selector {
                NodeSelector::Within(prefix) => Some((*prefix, *id)),
                _ => None,
            })
            .collect();
        Self {
            ids,
            groups,
            blocks,
        }
    }

    /// The matching selectors, sorted.
    pub fn selectors_of(&self, node: &Node) -> Box<[u32]> {
        let mut names = vec![NodeSelector::Every, NodeSelector::Named(node.name.clone())];
        if !node.tags.is_empty() {
            names.push(NodeSelector::Tagged);
            names.extend(node.tags.iter().cloned().map(NodeSelector::Tag));
        }
        if let Some(user) = node.owner() {
            names.extend([NodeSelector::Member, NodeSelector::OfSourceUser]);
            names.push(NodeSelector::User(user.clone()));
            let groups = self.groups.get(user).into_iter().flatten();
            names.extend(groups.map(|group| NodeSelector::Group((*group).into())));
        }
        let named = names.iter().filter_map(|name| self.ids.get(name).copied());
        let blocks = self.blocks.iter().filter(|(block, _)| {
            node.addresses
                .iter()
                .any(|address| block.contains(*address))
        });
        let all: BTreeSet<u32> = named.chain(blocks.map(|(_, id)| *id)).collect();
        all.into_iter().collect()
    }
}
