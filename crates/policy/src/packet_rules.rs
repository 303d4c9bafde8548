//! What a gateway lets in, as addresses: the form in which Tailscale hands out a policy, and the
//! one that knows of networks behind gateways.
//!
//! [`crate::PacketFilter`] is the same for the packets of known peers, asked once for each packet.
//! This one is for people and programs that read a policy: `export`, `matrix`, the conformance test.
//! It is what the grants open at most: dates, hours, postures, guards and blocks only take away from
//! it, and are not in it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use identity::UserName;

use crate::Node;
use crate::address::{AddressSet, Prefix};
use crate::document::{Capability, Document, NodeSelector, Ports, Rule, Selector};
use crate::resolve::Matcher;

/// One thing that a gateway lets in.
#[derive(Clone, Debug, PartialEq)]
pub struct PacketRule {
    /// From these addresses.
    pub sources: AddressSet,
    /// To these, each with first and last port; none where only capabilities are granted.
    pub destinations: Vec<(AddressSet, (u16, u16))>,
    /// IANA protocol numbers; none: TCP, UDP, ICMP and ICMPv6.
    pub protocols: Vec<u8>,
    /// Capabilities by name, with their values, on these addresses of the gateway.
    pub capabilities: Vec<(String, serde_json::Value)>,
    /// See `capabilities`.
    pub on: AddressSet,
}

/// The addresses of a mesh, and the nodes that have them.
pub struct Network<'a> {
    document: &'a Document,
    nodes: Vec<Known<'a>>,
    /// What `*` means as a source, beside the networks behind gateways.
    every: AddressSet,
}

struct Known<'a> {
    node: &'a Node,
    /// The networks behind it, without the internet.
    routes: Vec<Prefix>,
}

impl<'a> Network<'a> {
    /// The mesh of these nodes, whose own addresses are all in `mesh`.
    pub fn new(document: &'a Document, nodes: &'a [Node], mesh: &AddressSet) -> Self {
        let mut every = mesh.clone();
        let nodes: Vec<Known<'_>> = nodes
            .iter()
            .map(|node| Known {
                node,
                routes: document.routes_of(node),
            })
            .collect();
        nodes
            .iter()
            .flat_map(|known| &known.routes)
            .for_each(|route| every.insert(*route));
        Self {
            document,
            nodes,
            every,
        }
    }

    /// What this node lets in, rule by rule.
    pub fn rules_for(&self, node: &Node) -> Vec<PacketRule> {
        let here = Known {
            routes: self.document.routes_of(node),
            node,
        };
        let mut rules = Vec::new();
        for rule in &self.document.rules {
            self.packets(rule, &here, &mut rules);
            self.capabilities(rule, &here, &mut rules);
        }
        rules
    }

    fn packets(&self, rule: &Rule, here: &Known<'_>, rules: &mut Vec<PacketRule>) {
        // A rule with `http` opens nothing by itself: its proxy does.
        if rule.ip.is_empty() || !rule.http.is_empty() {
            return;
        }
        let (to_self, to_others): (Vec<&NodeSelector>, Vec<&NodeSelector>) =
            nodes_of(&rule.dst).partition(|selector| **selector == NodeSelector::OfSourceUser);
        let blocks: Vec<AddressSet> = to_others
            .into_iter()
            .filter_map(|selector| self.destination(rule, selector, here))
            .collect();
        if !blocks.is_empty() {
            push(rules, self.sources(rule, None), &blocks, &rule.ip);
        }
        if let Some(user) = here.node.owner().filter(|_| !to_self.is_empty()) {
            let own = vec![addresses(here.node)];
            push(rules, self.sources(rule, Some(user)), &own, &rule.ip);
        }
    }

    /// What a destination selector means at a node; none where it means something elsewhere.
    fn destination(
        &self,
        rule: &Rule,
        selector: &NodeSelector,
        here: &Known<'_>,
    ) -> Option<AddressSet> {
        let is_here = |block: &Prefix| {
            let own = here.node.addresses.iter();
            let mut own = own.map(|address| block.contains(*address));
            own.any(|inside| inside) || here.routes.iter().any(|route| route.overlaps(block))
        };
        if !rule.via.is_empty() {
            let via = rule.via.iter().any(|tag| here.node.tags.contains(tag));
            let leads = |block: &Prefix| here.routes.iter().any(|route| route.overlaps(block));
            let blocks: Vec<Prefix> = self.blocks(selector).into_iter().filter(leads).collect();
            return (via && !blocks.is_empty()).then(|| blocks.into_iter().collect());
        }
        match selector {
            NodeSelector::Every => Some([Prefix::ALL_V4, Prefix::ALL_V6].into_iter().collect()),
            // The way out is an exit node's route, not a packet that somebody lets in.
            NodeSelector::Internet => None,
            NodeSelector::Within(_) | NodeSelector::Set(_) => {
                let blocks: Vec<Prefix> =
                    self.blocks(selector).into_iter().filter(is_here).collect();
                (!blocks.is_empty()).then(|| blocks.into_iter().collect())
            }
            _ => self
                .matches(selector, here.node)
                .then(|| addresses(here.node)),
        }
    }

    fn capabilities(&self, rule: &Rule, here: &Known<'_>, rules: &mut Vec<PacketRule>) {
        // What lies behind a gateway has no capabilities: nobody there asks for them.
        if rule.app.is_empty() || !rule.via.is_empty() {
            return;
        }
        let mut on = AddressSet::default();
        let mut of_self = false;
        for selector in nodes_of(&rule.dst) {
            match selector {
                NodeSelector::OfSourceUser => of_self = true,
                NodeSelector::Within(_) | NodeSelector::Set(_) => {
                    let blocks = self.blocks(selector);
                    let own = here.node.addresses.iter();
                    own.filter(|address| blocks.iter().any(|block| block.contains(**address)))
                        .for_each(|address| on.insert(Prefix::host(*address)));
                }
                _ if self.matches(selector, here.node) => on.extend(&addresses(here.node)),
                _ => {}
            }
        }
        let granted = rule.app.iter().map(named);
        let capabilities: Vec<_> = granted.collect();
        if !on.is_empty() {
            push_capabilities(rules, self.sources(rule, None), capabilities.clone(), on);
        }
        if let Some(user) = here.node.owner().filter(|_| of_self) {
            let sources = self.sources(rule, Some(user));
            push_capabilities(rules, sources, capabilities, addresses(here.node));
        }
        self.companions(rule, here, rules);
    }

    /// Some capabilities of Tailscale give the other side one in return.
    fn companions(&self, rule: &Rule, here: &Known<'_>, rules: &mut Vec<PacketRule>) {
        let is_source = nodes_of(&rule.src).any(|selector| self.matches(selector, here.node));
        if !is_source {
            return;
        }
        for (name, companion) in COMPANIONS {
            if !rule.app.iter().any(|app| &*app.name == name) {
                continue;
            }
            let mut sources = AddressSet::default();
            for selector in nodes_of(&rule.dst) {
                match selector {
                    NodeSelector::Every => sources.extend(&self.every),
                    _ => sources.extend(&self.addresses_of(selector, None)),
                }
            }
            let given = vec![(companion.to_owned(), serde_json::Value::Null)];
            push_capabilities(rules, sources, given, addresses(here.node));
        }
    }

    /// The addresses that the sources of a rule have; only those of one user's nodes, where given.
    fn sources(&self, rule: &Rule, user: Option<&UserName>) -> AddressSet {
        let mut sources = AddressSet::default();
        for selector in nodes_of(&rule.src) {
            sources.extend(&self.addresses_of(selector, user));
        }
        sources
    }

    fn addresses_of(&self, selector: &NodeSelector, user: Option<&UserName>) -> AddressSet {
        match (selector, user) {
            (NodeSelector::Every, None) => return self.every.clone(),
            (NodeSelector::Anywhere, None) => {
                return [Prefix::ALL_V4, Prefix::ALL_V6].into_iter().collect();
            }
            (NodeSelector::Within(_) | NodeSelector::Set(_), None) => {
                return self.blocks(selector).into_iter().collect();
            }
            _ => {}
        }
        let mut found = AddressSet::default();
        let is_theirs = |node: &Node| user.is_none_or(|user| node.owner() == Some(user));
        for known in self.nodes.iter().filter(|known| is_theirs(known.node)) {
            if self.matches(selector, known.node) {
                found.extend(&addresses(known.node));
            }
        }
        found
    }

    fn matches(&self, selector: &NodeSelector, node: &Node) -> bool {
        selector_matches(self.document, selector, node)
    }

    fn blocks(&self, selector: &NodeSelector) -> Vec<Prefix> {
        match selector {
            NodeSelector::Within(block) => vec![*block],
            NodeSelector::Set(name) => {
                let set = self.document.names.ipsets.get(name);
                set.map_or(Vec::new(), AddressSet::blocks)
            }
            _ => Vec::new(),
        }
    }
}

impl Document {
    /// The networks behind a node that count: those that somebody approved, and those that
    /// `autoApprovers` does. The way to the internet is not among them.
    pub fn routes_of(&self, node: &Node) -> Vec<Prefix> {
        let approvers = &self.names.approvers;
        let approved = node.routes.iter().filter(|route| {
            approvers.routes.iter().any(|(block, owners)| {
                let by = owners.iter();
                block.covers(route) && by.into_iter().any(|it| selector_matches(self, it, node))
            })
        });
        let all: BTreeSet<Prefix> = node
            .approved_routes
            .iter()
            .chain(approved)
            .copied()
            .collect();
        all.into_iter()
            .filter(|route| !route.is_everything())
            .collect()
    }

    /// Whether a node is an approved way to the internet.
    pub fn is_exit_node(&self, node: &Node) -> bool {
        let offers = node.routes.iter().any(Prefix::is_everything);
        let approvers = &self.names.approvers;
        let by_exit = approvers.exit_node.iter();
        let by_route = approvers
            .routes
            .iter()
            .filter(|(block, _)| block.is_everything());
        let mut owners = by_exit.chain(by_route.flat_map(|(_, owners)| owners));
        node.approved_routes.iter().any(Prefix::is_everything)
            || (offers && owners.any(|owner| selector_matches(self, owner, node)))
    }
}

fn selector_matches(document: &Document, selector: &NodeSelector, node: &Node) -> bool {
    let only = std::collections::BTreeMap::from([(selector.clone(), 0)]);
    !Matcher::new(document, &only).selectors_of(node).is_empty()
}

fn nodes_of(side: &[crate::document::Spanned<Selector>]) -> impl Iterator<Item = &NodeSelector> {
    side.iter().filter_map(|entry| match &entry.value {
        // Packets are of no agent.
        Selector::Node(node) => Some(node),
        _ => None,
    })
}

fn addresses(node: &Node) -> AddressSet {
    let own = node.addresses.iter();
    own.map(|address: &IpAddr| Prefix::host(*address)).collect()
}

fn named(app: &Capability) -> (String, serde_json::Value) {
    (app.name.to_string(), app.values.clone())
}

fn push(rules: &mut Vec<PacketRule>, sources: AddressSet, blocks: &[AddressSet], ip: &[Ports]) {
    if sources.is_empty() {
        return;
    }
    let protocols: BTreeSet<Option<u8>> = ip.iter().map(Ports::protocol).collect();
    for protocol in protocols {
        let of_protocol = ip.iter().filter(|ports| ports.protocol() == protocol);
        let destinations = of_protocol
            .flat_map(|ports| blocks.iter().map(|block| (block.clone(), ports.range())))
            .collect();
        rules.push(PacketRule {
            sources: sources.clone(),
            destinations,
            protocols: protocol.into_iter().collect(),
            capabilities: Vec::new(),
            on: AddressSet::default(),
        });
    }
}

fn push_capabilities(
    rules: &mut Vec<PacketRule>,
    sources: AddressSet,
    capabilities: Vec<(String, serde_json::Value)>,
    on: AddressSet,
) {
    if !sources.is_empty() && !on.is_empty() {
        rules.push(PacketRule {
            sources,
            destinations: Vec::new(),
            protocols: Vec::new(),
            capabilities,
            on,
        });
    }
}

/// Who may use one may be asked by the other side with the second: seen in the captured results of
/// Tailscale (drive) and in its documentation (relay).
const COMPANIONS: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];
