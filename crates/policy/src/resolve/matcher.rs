//! Finds the selectors that match a node, without trying each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::{NodeName, Tag, UserName};

use crate::address::{AddressSet, Prefix};
use crate::document::{Assertion, NodeSelector};
use crate::{Document, Node};

/// The selectors of a file, by what of a node they ask.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    every: Vec<u32>,
    members: Vec<u32>,
    tagged: Vec<u32>,
    tags: BTreeMap<Tag, u32>,
    names: BTreeMap<NodeName, u32>,
    /// A user's own selector, and those of its groups.
    users: BTreeMap<UserName, Vec<u32>>,
    domains: BTreeMap<Box<str>, u32>,
    /// By length of the blocks, then by block: as many look-ups as there are lengths.
    blocks: BTreeMap<u8, BTreeMap<Prefix, u32>>,
    sets: Vec<(AddressSet, u32)>,
    postures: Vec<(Vec<Assertion>, u32)>,
}

impl Matcher {
    pub fn new(document: &Document, ids: &BTreeMap<NodeSelector, u32>) -> Self {
        let names = &document.names;
        let mut matcher = Self::default();
        for (selector, &id) in ids {
            match selector {
                NodeSelector::Every | NodeSelector::Anywhere => matcher.every.push(id),
                NodeSelector::Member | NodeSelector::OfSourceUser => matcher.members.push(id),
                NodeSelector::Tagged => matcher.tagged.push(id),
                // Nobody has a role here, and no node is the internet.
                NodeSelector::Role(_) | NodeSelector::Internet => {}
                NodeSelector::Tag(tag) => drop(matcher.tags.insert(tag.clone(), id)),
                NodeSelector::Named(name) => drop(matcher.names.insert(name.clone(), id)),
                NodeSelector::User(user) => {
                    matcher.users.entry(user.clone()).or_default().push(id);
                }
                NodeSelector::UsersOf(domain) => {
                    matcher.domains.insert(domain.clone(), id);
                }
                NodeSelector::Group(group) => {
                    for user in names.groups.get(group).into_iter().flatten() {
                        matcher.users.entry(user.clone()).or_default().push(id);
                    }
                }
                NodeSelector::Within(block) => {
                    let of_length = matcher.blocks.entry(block.bits()).or_default();
                    of_length.insert(*block, id);
                }
                NodeSelector::Set(name) => {
                    let set = names.ipsets.get(name).cloned().unwrap_or_default();
                    matcher.sets.push((set, id));
                }
                NodeSelector::Posture(name) => {
                    let asserted = names.postures.get(name).cloned().unwrap_or_default();
                    matcher.postures.push((asserted, id));
                }
            }
        }
        matcher
    }

    /// The matching selectors, sorted.
    pub fn selectors_of(&self, node: &Node) -> Box<[u32]> {
        let mut found = self.every.clone();
        if !node.tags.is_empty() {
            found.extend(&self.tagged);
            found.extend(node.tags.iter().filter_map(|tag| self.tags.get(tag)));
        }
        if let Some(user) = node.owner() {
            found.extend(&self.members);
            found.extend(self.users.get(user).into_iter().flatten());
            let domain = user.as_str().split_once('@').map(|(_, domain)| domain);
            found.extend(domain.and_then(|domain| self.domains.get(domain)));
        }
        found.extend(self.names.get(&node.name));
        for address in &node.addresses {
            self.find_address(*address, &mut found);
        }
        for (assertions, id) in &self.postures {
            if assertions.iter().all(|it| it.holds(&node.attributes)) {
                found.push(*id);
            }
        }
        let found: BTreeSet<u32> = found.into_iter().collect();
        found.into_iter().collect()
    }

    /// The numbers of the blocks and sets that an address is in.
    pub fn blocks_of(&self, address: IpAddr) -> Vec<u32> {
        let mut found = Vec::new();
        self.find_address(address, &mut found);
        found
    }

    fn find_address(&self, address: IpAddr, found: &mut Vec<u32>) {
        for (bits, blocks) in &self.blocks {
            let block = Prefix::around(address, *bits);
            found.extend(blocks.get(&block).filter(|_| block.bits() == *bits));
        }
        let sets = self.sets.iter().filter(|(set, _)| set.contains(address));
        found.extend(sets.map(|(_, id)| *id));
    }
}
