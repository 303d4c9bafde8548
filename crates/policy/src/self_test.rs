//! The `tests` of a policy file, held against its own rules.
//!
//! An expectation speaks of every node and agent that its selectors match: `accept` holds where
//! all of them are allowed, `deny` where none is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use identity::{AgentName, NodeId, NodeName, Tag, UnixTime, UserName};
use serde::Serialize;

use crate::diagnostic::Diagnostic;
use crate::document::{AgentPattern, Document, Expectation, NodeSelector, Selector, Target};
use crate::resolve::{Matcher, Place, Resolved};
use crate::{MessageRequest, Node, Policy, Verb, Verdict};

/// What became of the `tests` of a document.
#[derive(Clone, Debug, Default)]
pub struct TestReport {
    /// One for each expectation, in the order of the file.
    pub outcomes: Vec<TestOutcome>,
}

/// What became of one expectation of a test.
#[derive(Clone, Debug, Serialize)]
pub struct TestOutcome {
    /// Whether it held.
    pub passed: bool,
    /// Its source, as written.
    pub src: String,
    /// Its destination with port or verb, as written.
    pub dst: String,
    /// What was expected: `accept` or `deny`.
    pub expected: &'static str,
    /// Why it is so: the deciding grant, or the denial.
    pub reason: String,
    /// Where it is in the file, and what to do; where it failed.
    #[serde(skip)]
    pub diagnostic: Option<Diagnostic>,
}

impl TestReport {
    /// Whether every expectation held; also where there is none.
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.passed)
    }

    /// How many did not hold.
    pub fn failures(&self) -> usize {
        self.outcomes
            .iter()
            .filter(|outcome| !outcome.passed)
            .count()
    }
}

pub(crate) fn run(document: &Document, nodes: &[Node]) -> TestReport {
    let mut world = World::new(document, nodes);
    let cases: Vec<_> = document
        .expectations
        .iter()
        .map(|expectation| {
            let src = world.nodes_of(&expectation.src.node);
            let dst = match expectation.target.node() {
                NodeSelector::OfSourceUser => Vec::new(),
                node => world.nodes_of(node),
            };
            (src, dst)
        })
        .collect();
    let policy = Policy::compile(document, &world.nodes);
    let resolved = policy.resolved().expect("compiled just above");
    let outcomes = document
        .expectations
        .iter()
        .zip(cases)
        .map(|(expectation, (src, dst))| {
            let run = Run {
                policy: &policy,
                resolved,
                world: &world,
                expectation,
            };
            let verdict = run.decide(&src, &dst);
            outcome(document, expectation, verdict)
        })
        .collect();
    TestReport { outcomes }
}

fn outcome(
    document: &Document,
    expectation: &Expectation,
    verdict: Result<String, (String, Option<String>)>,
) -> TestOutcome {
    let expected = if expectation.allowed {
        "accept"
    } else {
        "deny"
    };
    let (src, dst) = (
        expectation.src_text.clone(),
        expectation.target_text.clone(),
    );
    match verdict {
        Ok(reason) => TestOutcome {
            passed: true,
            src,
            dst,
            expected,
            reason,
            diagnostic: None,
        },
        Err((reason, missing)) => {
            let span = expectation.span.clone();
            let failed = Diagnostic::error("E070", span, "test(s) failed".into())
                .label(format!("{expected} from {src}: {reason}"))
                .with_source(&document.source);
            let diagnostic = Some(match missing {
                Some(grant) => failed.help(format!("missing grant: {grant}")),
                None => failed,
            });
            TestOutcome {
                passed: false,
                src,
                dst,
                expected,
                reason,
                diagnostic,
            }
        }
    }
}

/// One expectation, and what decides it.
struct Run<'a> {
    policy: &'a Policy,
    resolved: &'a Resolved,
    world: &'a World<'a>,
    expectation: &'a Expectation,
}

/// Whether one case of an expectation is allowed and by what, or why not and which grant would.
type Case = Result<String, (String, Option<String>)>;

impl Run<'_> {
    /// Why the expectation holds, or why it does not and which grant is missing.
    fn decide(&self, src: &[NodeId], dst: &[NodeId]) -> Case {
        let mut last = None;
        let mut tried = BTreeSet::new();
        for src in src {
            let own = match self.expectation.target.node() {
                NodeSelector::OfSourceUser => self.world.of_user(src),
                _ => Vec::new(),
            };
            for dst in dst.iter().chain(&own) {
                let (Some(from), Some(to)) = (self.resolved.node(src), self.resolved.node(dst))
                else {
                    continue;
                };
                // Pairs that no rule tells apart have one verdict. Addresses tell packets apart.
                let is_message = matches!(self.expectation.target, Target::Message { .. });
                let pair = (from.class(), to.class(), from.has_user_of(to));
                if is_message && !tried.insert(pair) {
                    continue;
                }
                for case in self.cases(src, dst, from, to) {
                    match (case, self.expectation.allowed) {
                        (Ok(grant), true) => last = Some(format!("allowed by {grant}")),
                        (Err((reason, _)), false) => last = Some(reason),
                        (Ok(grant), false) => {
                            let between = format!("from {} to {}", from.name, to.name);
                            return Err((format!("allowed {between} by {grant}"), None));
                        }
                        (Err(denied), true) => return Err(denied),
                    }
                }
            }
        }
        last.ok_or_else(|| {
            let nobody = "nothing can match: the group is empty, or the source has no user";
            (nobody.to_owned(), None)
        })
    }

    /// Every case between two nodes.
    fn cases(&self, src: &NodeId, dst: &NodeId, from: &Place, to: &Place) -> Vec<Case> {
        match &self.expectation.target {
            Target::Message { agent, verb, .. } => {
                let senders = self.world.agents(self.expectation.src.agent.as_ref());
                let receivers = self.world.agents(Some(agent));
                let pairs = senders
                    .iter()
                    .flat_map(|a| receivers.iter().map(move |b| (a, b)));
                pairs
                    .map(|(a, b)| self.message((*src, a), (*dst, b), *verb))
                    .collect()
            }
            Target::Packet { protocol, port, .. } => {
                let senders = addresses(from, &self.expectation.src.node);
                let receivers = addresses(to, self.expectation.target.node());
                let pairs = senders
                    .iter()
                    .flat_map(|a| receivers.iter().map(move |b| (*a, *b)));
                pairs
                    .map(|ends| self.packet((from, to), ends, (*protocol, *port)))
                    .collect()
            }
        }
    }

    fn message(&self, src: (NodeId, &AgentName), dst: (NodeId, &AgentName), verb: Verb) -> Case {
        let request = MessageRequest {
            src,
            dst,
            verb,
            at: UnixTime::default(),
        };
        match self.policy.authorize(&request) {
            Verdict::Allowed { grant } => Ok(grant.phrase()),
            Verdict::Denied(denial) => Err((denial.reason, denial.missing_grant)),
        }
    }

    fn packet(
        &self,
        (from, to): (&Place, &Place),
        (src, dst): (IpAddr, IpAddr),
        (protocol, port): (u8, u16),
    ) -> Case {
        let rule = self.resolved.packet_rules(from, to).find(|rule| {
            let is_meant = |block: Option<crate::document::Prefix>, address| {
                block.is_none_or(|block| block.contains(address))
            };
            rule.ip.iter().any(|ports| ports.matches(protocol, port))
                && self
                    .resolved
                    .sources(rule, from)
                    .any(|end| end.agent.is_none() && is_meant(end.within, src))
                && self
                    .resolved
                    .destinations(rule, from, to)
                    .any(|end| is_meant(end.within, dst))
        });
        rule.map(|rule| rule.name.phrase()).ok_or_else(|| {
            let (src, dst) = (&from.name, &to.name);
            let missing =
                format!(r#"{{"src": ["{src}"], "dst": ["{dst}"], "ip": ["{protocol}:{port}"]}}"#);
            let missing = missing.replace("\"6:", "\"tcp:").replace("\"17:", "\"udp:");
            let missing = missing.replace(":0\"", ":*\"");
            (
                format!("no grant lets {src} reach port {port} of {dst}"),
                Some(missing),
            )
        })
    }
}

impl Target {
    fn node(&self) -> &NodeSelector {
        match self {
            Self::Packet { node, .. } | Self::Message { node, .. } => node,
        }
    }
}

/// The addresses that a selector means of a node: those in its block, or else all.
fn addresses(place: &Place, selector: &NodeSelector) -> Vec<IpAddr> {
    let is_meant = |address: &&IpAddr| match selector {
        NodeSelector::Within(block) => block.contains(**address),
        _ => true,
    };
    place.addresses.iter().filter(is_meant).copied().collect()
}

/// The nodes of the mesh, and the hypothetical ones that the tests need beside them.
struct World<'a> {
    document: &'a Document,
    nodes: Vec<Node>,
    real: usize,
    selectors: BTreeMap<NodeSelector, Vec<NodeId>>,
    named: BTreeSet<AgentName>,
    /// An agent that no rule names.
    anyone: AgentName,
}

impl<'a> World<'a> {
    fn new(document: &'a Document, nodes: &[Node]) -> Self {
        let targets = document
            .expectations
            .iter()
            .filter_map(|e| match &e.target {
                Target::Message {
                    agent: AgentPattern::Named(name),
                    ..
                } => Some(name.clone()),
                _ => None,
            });
        let rules = document
            .rules
            .iter()
            .flat_map(|rule| rule.src.iter().chain(&rule.dst));
        let sources = document.expectations.iter().map(|e| &e.src);
        let mut named: BTreeSet<AgentName> = rules
            .chain(sources)
            .filter_map(named_agent)
            .cloned()
            .collect();
        named.extend(targets);
        let anyone = fresh("any-other-agent", |name| named.contains(name));
        let (nodes, selectors) = (nodes.to_vec(), BTreeMap::new());
        Self {
            document,
            real: nodes.len(),
            nodes,
            selectors,
            named,
            anyone,
        }
    }

    /// Every agent that a pattern means, as far as rules can tell agents apart.
    fn agents(&self, pattern: Option<&AgentPattern>) -> Vec<&AgentName> {
        match pattern {
            Some(AgentPattern::Named(name)) => vec![name_in(&self.named, name, &self.anyone)],
            Some(AgentPattern::Every) | None => self.named.iter().chain([&self.anyone]).collect(),
        }
    }

    /// The nodes of the user of a node, itself among them.
    fn of_user(&self, id: &NodeId) -> Vec<NodeId> {
        let owner = |node: &Node| node.user.clone().filter(|_| node.tags.is_empty());
        let Some(user) = self
            .nodes
            .iter()
            .find(|node| node.id == *id)
            .and_then(owner)
        else {
            return Vec::new();
        };
        let same = |node: &&Node| owner(node).as_ref() == Some(&user);
        self.nodes.iter().filter(same).map(|node| node.id).collect()
    }

    /// The nodes that a selector matches, or hypothetical ones where it matches none.
    fn nodes_of(&mut self, selector: &NodeSelector) -> Vec<NodeId> {
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
            for node in self.imagine(selector) {
                found.push(node.id);
                self.nodes.push(node);
            }
        }
        self.selectors.insert(selector.clone(), found.clone());
        found
    }

    fn imagine(&self, selector: &NodeSelector) -> Vec<Node> {
        let used: BTreeSet<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        let rules = self
            .document
            .rules
            .iter()
            .flat_map(|rule| rule.src.iter().chain(&rule.dst));
        let written: BTreeSet<&str> = rules
            .filter_map(|selector| match &selector.node {
                NodeSelector::Named(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let name: NodeName = fresh("some-gateway", |name: &NodeName| {
            used.contains(name.as_str()) || written.contains(name.as_str())
        });
        let node = |index: usize| {
            let serial = u64::try_from(self.nodes.len() + index).expect("nodes fit in memory");
            let mut id = [0xff; 16];
            id[8..].copy_from_slice(&serial.to_be_bytes());
            // From the documentation block, so that no real block holds it.
            let address = Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(serial));
            let addresses = vec![IpAddr::from(address)];
            Node {
                id: NodeId(id),
                name: name.clone(),
                user: None,
                tags: Vec::new(),
                addresses,
            }
        };
        let owned = |index: usize, user: &UserName| Node {
            user: Some(user.clone()),
            ..node(index)
        };
        let stranger = || {
            fresh("someone@example.invalid", |user| {
                self.document
                    .names
                    .groups
                    .values()
                    .any(|members| members.contains(user))
            })
        };
        let tag = || fresh("tag:some-tag", |tag: &Tag| self.document.declares(tag));
        match selector {
            NodeSelector::Every => {
                vec![
                    owned(0, &stranger()),
                    Node {
                        tags: vec![tag()],
                        ..node(1)
                    },
                ]
            }
            NodeSelector::Member => vec![owned(0, &stranger())],
            NodeSelector::Tagged => vec![Node {
                tags: vec![tag()],
                ..node(0)
            }],
            NodeSelector::Tag(tag) => vec![Node {
                tags: vec![tag.clone()],
                ..node(0)
            }],
            NodeSelector::User(user) => vec![owned(0, user)],
            NodeSelector::Named(name) => vec![Node {
                name: name.clone(),
                ..node(0)
            }],
            NodeSelector::Within(block) => vec![Node {
                addresses: vec![block.first()],
                ..node(0)
            }],
            NodeSelector::Group(group) => {
                let members = self.document.names.groups.get(group).into_iter().flatten();
                members
                    .enumerate()
                    .map(|(index, user)| owned(index, user))
                    .collect()
            }
            NodeSelector::OfSourceUser => Vec::new(),
        }
    }
}

fn named_agent(selector: &Selector) -> Option<&AgentName> {
    match &selector.agent {
        Some(AgentPattern::Named(name)) => Some(name),
        _ => None,
    }
}

fn name_in<'a>(
    named: &'a BTreeSet<AgentName>,
    name: &AgentName,
    otherwise: &'a AgentName,
) -> &'a AgentName {
    named.get(name).unwrap_or(otherwise)
}

/// A name that is not taken, made from `stem` (numbered before an `@`).
fn fresh<T: std::str::FromStr>(stem: &str, taken: impl Fn(&T) -> bool) -> T {
    let (head, tail) = stem.split_at(stem.find('@').unwrap_or(stem.len()));
    let plain = std::iter::once(stem.to_owned());
    plain
        .chain((2u64..).map(|number| format!("{head}-{number}{tail}")))
        .filter_map(|text| text.parse().ok())
        .find(|name| !taken(name))
        .expect("a file holds fewer names than there are numbers")
}
