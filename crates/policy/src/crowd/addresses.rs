//! The addresses that the blocks of two versions tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::NodeId;

use crate::address::{AddressSet, Prefix, predecessor, successor};
use crate::document::NodeSelector;
use crate::resolve::Resolved;
use crate::world::{World, selectors};
use crate::{Document, Node};

/// Adds a node for every piece that the blocks of both versions divide the addresses into, where no
/// node has one.
pub(super) fn add_addresses(
    documents: [&Document; 2],
    all: &mut Vec<Node>,
    stand_for: &mut BTreeMap<NodeId, String>,
) {
    let mut blocks = AddressSet::default();
    let (mut starts, mut ends) = (BTreeSet::new(), BTreeSet::new());
    for document in documents {
        for selector in selectors(document).filter_map(|it| it.node()) {
            let ranges = match selector {
                NodeSelector::Within(block) => vec![(block.first(), block.last())],
                NodeSelector::Set(name) => match document.names.ipsets.get(name) {
                    Some(set) => set.ranges().to_vec(),
                    None => Vec::new(),
                },
                _ => Vec::new(),
            };
            for (first, last) in ranges {
                blocks.insert_range(first, last);
                starts.insert(first);
                ends.insert(last);
            }
        }
    }
    // A piece begins where a block does, and right after one that ends inside another.
    let after = ends.iter().filter_map(|end| successor(*end));
    starts.extend(after.filter(|start| blocks.contains(*start)));
    let taken: BTreeSet<IpAddr> = all.iter().flat_map(|node| node.addresses.clone()).collect();
    let stranger = World::new(documents[0], all, &[]).nobody().clone();
    let mut serial = u64::try_from(all.len()).unwrap_or(u64::MAX / 2);
    let starts: Vec<IpAddr> = starts.into_iter().collect();
    for (index, start) in starts.iter().enumerate() {
        let next = starts
            .get(index + 1)
            .filter(|next| next.is_ipv4() == start.is_ipv4());
        let before_next = next.and_then(|next| predecessor(*next));
        let last = ends.range(*start..).next().copied();
        let last = before_next.into_iter().chain(last).min().unwrap_or(*start);
        if taken.range(*start..=last).next().is_some() {
            continue;
        }
        serial += 1;
        let mut id = [0xfe; 16];
        id[8..].copy_from_slice(&serial.to_be_bytes());
        all.push(Node {
            addresses: vec![*start],
            ..Node::new(NodeId(id), stranger.clone())
        });
        stand_for.insert(NodeId(id), piece(*start, last));
    }
}

fn piece(first: IpAddr, last: IpAddr) -> String {
    let whole: AddressSet = {
        let mut set = AddressSet::default();
        set.insert_range(first, last);
        set
    };
    match whole.blocks()[..] {
        [block] => Prefix::to_string(&block),
        _ => format!("{first}-{last}"),
    }
}

/// Which blocks of both versions an address is in: addresses of one signature are alike.
pub(super) struct Signatures<'a> {
    resolved: &'a [Resolved; 2],
    asked: bool,
}

impl<'a> Signatures<'a> {
    pub fn new(documents: [&Document; 2], resolved: &'a [Resolved; 2]) -> Self {
        let of_addresses =
            |it: &NodeSelector| matches!(it, NodeSelector::Within(_) | NodeSelector::Set(_));
        let mut all = documents.into_iter().flat_map(selectors);
        let asked = all.any(|selector| selector.node().is_some_and(of_addresses));
        Self { resolved, asked }
    }

    /// One address of a node for each signature.
    pub fn of(&self, node: &Node) -> BTreeMap<[Box<[u32]>; 2], IpAddr> {
        let mut found = BTreeMap::new();
        for address in &node.addresses {
            let key = match self.asked {
                false => [Box::default(), Box::default()],
                true => [0, 1].map(|version: usize| {
                    let matcher = &self.resolved[version].rules().matcher;
                    matcher.blocks_of(*address).into_boxed_slice()
                }),
            };
            found.entry(key).or_insert(*address);
        }
        found
    }
}
