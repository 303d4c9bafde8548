//! The nodes that a question is about: those of the mesh, and where a selector matches none of
//! them a hypothetical one, so that a file can be tested before the first gateway has joined.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use identity::{AgentName, NodeId, NodeName, Tag, UserName};

use crate::Node;
use crate::document::{AgentPattern, Document, Expectation, NodeSelector, Selector};
use crate::resolve::{Matcher, Resolved};

/// The nodes of the mesh, and the hypothetical ones that the questions need beside them.
pub(crate) struct World<'a> {
    document: &'a Document,
    nodes: Vec<Node>,
    real: usize,
    selectors: BTreeMap<NodeSelector, Vec<NodeId>>,
    /// What the hypothetical ones stand for.
    stand_for: Vec<(NodeId, String)>,
    /// A name that no node has and no rule names: what hypothetical ones are called.
    nobody: NodeName,
    agents: Agents,
}

/// The agents that rules and questions can tell apart.
pub(crate) struct Agents {
    named: BTreeSet<AgentName>,
    /// One that nothing names.
    anyone: AgentName,
}

impl<'a> World<'a> {
    pub fn new(document: &'a Document, nodes: &[Node], questions: &[Expectation]) -> Self {
        let asked = questions.iter().filter_map(|it| it.target.agent());
        let sources = questions.iter().filter_map(|it| it.src.agent());
        let written = selectors(document).filter_map(Selector::agent);
        let patterns = asked.chain(sources).chain(written);
        let used: BTreeSet<&NodeName> = nodes.iter().map(|node| &node.name).collect();
        let named: BTreeSet<&NodeName> = selectors(document)
            .filter_map(|selector| match selector.node() {
                Some(NodeSelector::Named(name)) => Some(name),
                _ => None,
            })
            .collect();
        let taken = |name: &NodeName| used.contains(name) || named.contains(name);
        Self {
            document,
            nobody: fresh("some-gateway", taken),
            real: nodes.len(),
            nodes: nodes.to_vec(),
            selectors: BTreeMap::new(),
            stand_for: Vec::new(),
            agents: Agents::new(patterns),
        }
    }

    /// The document, resolved for all of them.
    pub fn resolve(&self) -> Resolved {
        let mut resolved = Resolved::new(self.document, &self.nodes, None);
        for (id, selector) in &self.stand_for {
            resolved.stand_for(id, selector);
        }
        resolved
    }

    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// The nodes of the user of a node, itself among them.
    pub fn of_user(&self, id: &NodeId) -> Vec<NodeId> {
        let node = self.nodes.iter().find(|node| node.id == *id);
        let Some(user) = node.and_then(Node::owner) else {
            return Vec::new();
        };
        let same = self.nodes.iter().filter(|node| node.owner() == Some(user));
        same.map(|node| node.id).collect()
    }

    /// The nodes that a selector matches, or hypothetical ones where it matches none.
    pub fn nodes_of(&mut self, selector: &NodeSelector) -> Vec<NodeId> {
        if let Some(known) = self.selectors.get(selector) {
            return known.clone();
        }
        let ids = BTreeMap::from([(selector.clone(), 0)]);
        let matcher = Matcher::new(self.document, &ids);
        let real = self.nodes[..self.real].iter();
        let mut found: Vec<_> = real
            .filter(|node| !matcher.selectors_of(node).is_empty())
            .map(|node| node.id)
            .collect();
        if found.is_empty() {
            found = self.add_hypothetical(selector);
        }
        self.selectors.insert(selector.clone(), found.clone());
        found
    }

    /// Adds the nodes that a selector could match.
    pub fn add_hypothetical(&mut self, selector: &NodeSelector) -> Vec<NodeId> {
        let nodes = self.imagine(selector);
        let ids = nodes.iter().map(|node| node.id).collect();
        for node in nodes {
            self.stand_for.push((node.id, stands_for(selector, &node)));
            self.nodes.push(node);
        }
        ids
    }

    /// A name that no node has and no rule names.
    pub fn nobody(&self) -> &NodeName {
        &self.nobody
    }

    /// All nodes, and what the hypothetical ones stand for.
    pub fn into_nodes(self) -> (Vec<Node>, Vec<(NodeId, String)>) {
        (self.nodes, self.stand_for)
    }

    fn imagine(&self, selector: &NodeSelector) -> Vec<Node> {
        let node = |index: usize| self.stranger(index);
        let owned = |index: usize, user: &UserName| Node {
            user: Some(user.clone()),
            ..node(index)
        };
        let person = || {
            fresh("someone@example.invalid", |user| {
                let groups = &self.document.names.groups;
                groups.values().any(|members| members.contains(user))
            })
        };
        let tag = || fresh("tag:some-tag", |tag: &Tag| self.document.declares(tag));
        let tagged = |index: usize, tag: Tag| Node {
            tags: vec![tag],
            ..node(index)
        };
        let at = |address: IpAddr| Node {
            addresses: vec![address],
            ..node(0)
        };
        match selector {
            NodeSelector::Every | NodeSelector::Anywhere => {
                vec![owned(0, &person()), tagged(1, tag())]
            }
            NodeSelector::Member => vec![owned(0, &person())],
            NodeSelector::Tagged => vec![tagged(0, tag())],
            NodeSelector::Tag(tag) => vec![tagged(0, tag.clone())],
            NodeSelector::User(user) => vec![owned(0, user)],
            NodeSelector::UsersOf(domain) => {
                let user = fresh(&format!("someone@{domain}"), |_: &UserName| false);
                vec![owned(0, &user)]
            }
            NodeSelector::Named(name) => vec![Node {
                name: name.clone(),
                ..node(0)
            }],
            NodeSelector::Within(block) => vec![at(block.first())],
            NodeSelector::Set(name) => {
                let set = self.document.names.ipsets.get(name);
                let first = set.and_then(|set| set.ranges().first());
                first.map(|(first, _)| at(*first)).into_iter().collect()
            }
            NodeSelector::Group(group) => {
                let members = self.document.names.groups.get(group).into_iter().flatten();
                members
                    .enumerate()
                    .map(|(index, user)| owned(index, user))
                    .collect()
            }
            NodeSelector::OfSourceUser
            | NodeSelector::Internet
            | NodeSelector::Role(_)
            | NodeSelector::Posture(_) => Vec::new(),
        }
    }

    /// A node that no rule names, without user and tags.
    fn stranger(&self, index: usize) -> Node {
        let serial = u64::try_from(self.nodes.len() + index).expect("nodes fit in memory");
        let mut id = [0xff; 16];
        id[8..].copy_from_slice(&serial.to_be_bytes());
        // From the documentation block (RFC 3849), so that no real block holds it.
        let address = Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(serial));
        Node {
            addresses: vec![address.into()],
            ..Node::new(NodeId(id), self.nobody.clone())
        }
    }
}

/// How a node that was made for a selector is called.
fn stands_for(selector: &NodeSelector, node: &Node) -> String {
    match (selector, node.owner(), &node.tags[..]) {
        // One of several for one selector: what tells it from the others.
        (NodeSelector::Group(_) | NodeSelector::Every, Some(user), _) => user.to_string(),
        (NodeSelector::Every, None, [tag, ..]) => tag.to_string(),
        _ => selector.to_string(),
    }
}

impl Agents {
    pub fn new<'p>(patterns: impl Iterator<Item = &'p AgentPattern>) -> Self {
        let named: BTreeSet<AgentName> = patterns
            .filter_map(|pattern| match pattern {
                AgentPattern::Named(name) => Some(name.clone()),
                AgentPattern::Every => None,
            })
            .collect();
        let anyone = fresh("any-other-agent", |name| named.contains(name));
        Self { named, anyone }
    }

    /// Every agent that a pattern means, as far as rules can tell agents apart.
    pub fn of(&self, pattern: Option<&AgentPattern>) -> Vec<&AgentName> {
        match pattern {
            Some(AgentPattern::Named(name)) => {
                vec![self.named.get(name).unwrap_or(&self.anyone)]
            }
            Some(AgentPattern::Every) | None => self.named.iter().chain([&self.anyone]).collect(),
        }
    }
}

/// Every selector of a file.
pub(crate) fn selectors(document: &Document) -> impl Iterator<Item = &Selector> {
    let rules = document.rules.iter().flat_map(|rule| rule.selectors());
    let guards = document.guards.iter().flat_map(|guard| guard.selectors());
    let blocks = document.blocks.iter().flat_map(|block| &block.matches);
    rules.chain(guards).chain(blocks).map(|entry| &entry.value)
}

/// A name that is not taken, made from `stem` (numbered before an `@`).
pub(crate) fn fresh<T: std::str::FromStr>(stem: &str, taken: impl Fn(&T) -> bool) -> T {
    let (head, tail) = stem.split_at(stem.find('@').unwrap_or(stem.len()));
    let plain = std::iter::once(stem.to_owned());
    plain
        .chain((2u64..).map(|number| format!("{head}-{number}{tail}")))
        .filter_map(|text| text.parse().ok())
        .find(|name| !taken(name))
        .expect("a file holds fewer names than there are numbers")
}
