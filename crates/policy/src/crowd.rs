//! Everybody whom two versions of a policy can tell apart: the gateways of the mesh, a hypothetical
//! one for each selector that matches none of them, and one that nothing names.
//!
//! Nodes that neither version tells apart are one [`Kind`]: what is said of one is said of all.

mod addresses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use identity::{NodeId, UserName};

use self::addresses::{Signatures, add_addresses};
use crate::document::NodeSelector;
use crate::resolve::{Place, Resolved, ResolvedRule};
use crate::world::{World, selectors};
use crate::{Document, Node};

/// The kinds of gateways of two versions.
pub(crate) struct Crowd<'a> {
    /// The version before, and the one after.
    pub documents: [&'a Document; 2],
    pub resolved: [Resolved; 2],
    pub kinds: Vec<Kind>,
    /// Of each node its kind and user.
    pub roster: Arc<Roster>,
    /// By version and selector, the kinds that it matches, ascending.
    matched: [Vec<Vec<usize>>; 2],
    /// By user the kinds that have a node of theirs; only where a version asks.
    of_user: BTreeMap<UserName, BTreeSet<usize>>,
}

/// Nodes that neither version tells apart.
pub(crate) struct Kind {
    /// As people call it.
    pub name: String,
    /// How many gateways of the mesh are of it; none of a hypothetical kind.
    pub count: usize,
    first: NodeId,
    /// One node of each user, where a version asks whose a node is.
    by_user: BTreeMap<UserName, NodeId>,
    without_user: Option<NodeId>,
    /// An address for each way in which the versions tell its addresses apart.
    pub addresses: Vec<IpAddr>,
}

/// Whom a node is counted with.
pub(crate) type Roster = BTreeMap<NodeId, (usize, Option<UserName>)>;

/// Whether two nodes have the same user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Own {
    /// That is not asked, or makes no difference.
    Any,
    /// Both are of one user.
    Same,
    Other,
}

impl<'a> Crowd<'a> {
    pub fn new(documents: [&'a Document; 2], nodes: &[Node]) -> Self {
        let (all, stand_for) = everybody(documents, nodes);
        let resolved = documents.map(|document| Resolved::new(document, &all, None));
        let asks_user = documents.iter().any(|document| {
            selectors(document).any(|it| it.node() == Some(&NodeSelector::OfSourceUser))
        });
        let mut crowd = Self {
            documents,
            resolved,
            kinds: Vec::new(),
            roster: Arc::default(),
            matched: [Vec::new(), Vec::new()],
            of_user: BTreeMap::new(),
        };
        crowd.divide(&all, nodes.len(), &stand_for, asks_user);
        crowd
    }

    fn divide(
        &mut self,
        all: &[Node],
        real: usize,
        stand_for: &BTreeMap<NodeId, String>,
        asks_user: bool,
    ) {
        let told_apart = Signatures::new(self.documents, &self.resolved);
        let mut known = BTreeMap::new();
        let mut roster = Roster::new();
        let mut members: Vec<Vec<&Node>> = Vec::new();
        for (index, node) in all.iter().enumerate() {
            let [Some(before), Some(after)] = self.places(&node.id) else {
                continue;
            };
            let by_address = told_apart.of(node);
            let signs: Vec<_> = by_address.keys().cloned().collect();
            // Of one with several kinds of addresses each address is named, so it stands alone.
            let alone = (signs.len() > 1).then_some(node.id);
            let key = (before.class.id, after.class.id, signs, alone);
            let kind = *known.entry(key).or_insert_with(|| {
                members.push(Vec::new());
                self.kinds.push(Kind {
                    name: String::new(),
                    count: 0,
                    first: node.id,
                    by_user: BTreeMap::new(),
                    without_user: None,
                    addresses: match by_address.is_empty() {
                        // One that is told nowhere still has one, which no block holds.
                        true => vec![Ipv6Addr::UNSPECIFIED.into()],
                        false => by_address.into_values().collect(),
                    },
                });
                self.kinds.len() - 1
            });
            let entry = &mut self.kinds[kind];
            entry.count += usize::from(index < real);
            members[kind].push(node);
            match node.owner().filter(|_| asks_user) {
                Some(user) => {
                    entry.by_user.entry(user.clone()).or_insert(node.id);
                    self.of_user.entry(user.clone()).or_default().insert(kind);
                }
                None => entry.without_user = entry.without_user.or(Some(node.id)),
            }
            roster.insert(node.id, (kind, node.owner().cloned()));
        }
        self.roster = roster.into();
        for version in 0..2 {
            let rules = self.resolved[version].rules();
            let mut matched = vec![Vec::new(); rules.selectors.len()];
            for (index, kind) in self.kinds.iter().enumerate() {
                let Some(place) = self.resolved[version].node(&kind.first) else {
                    continue;
                };
                for selector in place.class.selectors() {
                    matched[*selector as usize].push(index);
                }
            }
            self.matched[version] = matched;
        }
        self.call_kinds(&members, stand_for);
    }

    /// Gives each kind a name of its own.
    fn call_kinds(&mut self, members: &[Vec<&Node>], stand_for: &BTreeMap<NodeId, String>) {
        let mut names: Vec<String> = Vec::new();
        for (kind, nodes) in members.iter().enumerate() {
            names.push(self.call(kind, nodes, stand_for));
        }
        let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
        names
            .iter()
            .for_each(|name| *uses.entry(name).or_default() += 1);
        let unique: Vec<String> = names
            .iter()
            .zip(members)
            .map(|(name, nodes)| match uses[name.as_str()] {
                1 => name.clone(),
                _ => {
                    let listed: Vec<&str> = nodes
                        .iter()
                        .take(2)
                        .map(|node| node.name.as_str())
                        .collect();
                    let more = if nodes.len() > 2 { ", .." } else { "" };
                    format!("{name} ({}{more})", listed.join(", "))
                }
            })
            .collect();
        for (kind, name) in self.kinds.iter_mut().zip(unique) {
            kind.name = name;
        }
    }

    fn call(&self, kind: usize, nodes: &[&Node], stand_for: &BTreeMap<NodeId, String>) -> String {
        let one = nodes[0];
        if stand_for.contains_key(&one.id) {
            // All are hypothetical: a real one would be the first.
            let all = nodes.iter().filter_map(|node| stand_for.get(&node.id));
            let all: BTreeSet<&str> = all.map(String::as_str).collect();
            if all == BTreeSet::from(STRANGERS) {
                return "anyone else".into();
            }
            let few: Vec<&str> = all.iter().take(3).copied().collect();
            let more = if all.len() > few.len() { ", .." } else { "" };
            return format!("{}{more}", few.join(", "));
        }
        if nodes.len() == 1 {
            return one.name.to_string();
        }
        let tags: Vec<&str> = one
            .tags
            .iter()
            .filter(|tag| nodes.iter().all(|node| node.tags.contains(tag)))
            .map(|tag| tag.as_str())
            .collect();
        if !tags.is_empty() {
            return tags.join("+");
        }
        match one.owner() {
            None if one.tags.is_empty() => "gateways of nobody".into(),
            None => "autogroup:tagged".into(),
            Some(user) if nodes.iter().all(|node| node.owner() == Some(user)) => user.to_string(),
            Some(_) => {
                let is_group = |it: &&NodeSelector| matches!(it, NodeSelector::Group(_));
                let group = self.selectors_of(1, kind).map(|(_, it)| it).find(is_group);
                group.map_or("autogroup:member".into(), ToString::to_string)
            }
        }
    }

    fn places(&self, id: &NodeId) -> [Option<&Place>; 2] {
        [self.resolved[0].node(id), self.resolved[1].node(id)]
    }

    fn selectors_of(
        &self,
        version: usize,
        kind: usize,
    ) -> impl Iterator<Item = (usize, &NodeSelector)> {
        let resolved = &self.resolved[version];
        let place = resolved.node(&self.kinds[kind].first);
        let ids = place.map_or(&[][..], |place| place.class.selectors());
        ids.iter()
            .map(|id| (*id as usize, &resolved.rules().selectors[*id as usize]))
    }

    /// The kinds that are a source of a rule.
    pub fn sources<'c>(
        &'c self,
        version: usize,
        rule: &'c ResolvedRule,
    ) -> impl Iterator<Item = usize> + 'c {
        let ends = rule.src.iter();
        ends.flat_map(move |end| self.matching(version, end.selector))
    }

    /// The kinds that a selector matches, ascending.
    pub fn matching(&self, version: usize, selector: u32) -> impl Iterator<Item = usize> + '_ {
        self.matched[version][selector as usize].iter().copied()
    }

    /// One node of a kind as the source, in both versions.
    pub fn source(&self, kind: usize) -> Option<[&Place; 2]> {
        let [Some(before), Some(after)] = self.places(&self.kinds[kind].first) else {
            return None;
        };
        Some([before, after])
    }

    /// The ways in which two kinds can meet.
    pub fn meetings(&self, src: usize, dst: usize) -> impl Iterator<Item = Own> {
        let all = match self.of_user.is_empty() {
            true => vec![Own::Any],
            false => vec![Own::Same, Own::Other],
        };
        all.into_iter()
            .filter(move |own| self.pair(src, dst, *own).is_some())
    }

    /// A node of each of two kinds that meet in this way.
    pub fn pair(&self, src: usize, dst: usize, own: Own) -> Option<(NodeId, NodeId)> {
        let (a, b) = (&self.kinds[src], &self.kinds[dst]);
        match own {
            Own::Any => Some((a.first, b.first)),
            Own::Same => {
                let mut users = a.by_user.iter();
                users.find_map(|(user, from)| Some((*from, *b.by_user.get(user)?)))
            }
            Own::Other => match (a.without_user, b.without_user) {
                (Some(from), _) => Some((from, b.first)),
                (_, Some(onto)) => Some((a.first, onto)),
                _ => a.by_user.iter().take(2).find_map(|(user, from)| {
                    let mut others = b.by_user.iter().filter(|(other, _)| *other != user);
                    others.next().map(|(_, onto)| (*from, *onto))
                }),
            },
        }
    }

    /// The kinds that have a node of a user of this kind.
    pub fn of_same_user(&self, kind: usize) -> BTreeSet<usize> {
        let users = self.kinds[kind].by_user.keys();
        users
            .filter_map(|user| self.of_user.get(user))
            .flatten()
            .copied()
            .collect()
    }

    /// Names kinds by as few selectors of a version as possible, and what none names by itself.
    pub fn names(&self, version: usize, kinds: &BTreeSet<usize>) -> Vec<String> {
        let mut rest = kinds.clone();
        let mut names = Vec::new();
        while let Some(first) = rest.first().copied() {
            let widest = self
                .selectors_of(version, first)
                .filter(|(_, selector)| is_name(selector))
                .map(|(id, selector)| (&self.matched[version][id], selector))
                .filter(|(matched, _)| matched.len() <= kinds.len())
                .filter(|(matched, _)| matched.iter().all(|kind| kinds.contains(kind)))
                .max_by_key(|(matched, _)| matched.len());
            match widest {
                Some((matched, selector)) => {
                    rest.retain(|kind| !matched.contains(kind));
                    names.push(selector.to_string());
                }
                None => {
                    rest.remove(&first);
                    names.push(self.kinds[first].name.clone());
                }
            }
        }
        names.sort();
        names
    }
}

fn is_name(selector: &NodeSelector) -> bool {
    !matches!(
        selector,
        NodeSelector::OfSourceUser
            | NodeSelector::Internet
            | NodeSelector::Anywhere
            | NodeSelector::Posture(_)
            | NodeSelector::Role(_)
    )
}

/// Who may join tomorrow, with a user or a tag that no rule names.
const STRANGERS: [&str; 2] = ["any other user", "any other tag"];

/// The nodes of the mesh, and the hypothetical ones with what they stand for.
fn everybody(documents: [&Document; 2], nodes: &[Node]) -> (Vec<Node>, BTreeMap<NodeId, String>) {
    let (mut all, mut stand_for) = (nodes.to_vec(), BTreeMap::new());
    for (version, document) in documents.into_iter().enumerate() {
        let resolved = Resolved::new(document, &all, None);
        let written: BTreeSet<&NodeSelector> =
            selectors(document).filter_map(|it| it.node()).collect();
        let mut matched: BTreeSet<u32> = BTreeSet::new();
        for place in resolved.nodes() {
            matched.extend(place.class.selectors());
        }
        let unmatched: BTreeSet<&NodeSelector> = (0u32..)
            .zip(&resolved.rules().selectors)
            .filter(|(id, _)| !matched.contains(id))
            .map(|(_, selector)| selector)
            .collect();
        let mut world = World::new(document, &all, &[]);
        // Whoever may join tomorrow.
        if version == 0 {
            for (id, name) in world
                .add_hypothetical(&NodeSelector::Every)
                .into_iter()
                .zip(STRANGERS)
            {
                stand_for.insert(id, name.to_owned());
            }
        }
        let by_name = |it: &&NodeSelector| !it.is_of_addresses();
        for selector in written.intersection(&unmatched).copied().filter(by_name) {
            world.add_hypothetical(selector);
        }
        let (more, names) = world.into_nodes();
        all = more;
        for (id, name) in names {
            stand_for.entry(id).or_insert(name);
        }
    }
    add_addresses(documents, &mut all, &mut stand_for);
    (all, stand_for)
}
