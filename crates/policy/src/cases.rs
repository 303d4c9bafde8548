//! A question in selectors, spelled out: every case of it between real or hypothetical nodes and
//! every agent that rules can tell apart. The `tests` of a file and `explain` ask in this way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use identity::{AgentName, NodeId};

use crate::decide::{Case, To, When};
use crate::document::{Expectation, NodeSelector, Target};
use crate::resolve::{Place, Resolved};
use crate::world::World;

/// The nodes of a question.
pub(crate) struct Ends {
    src: Vec<NodeId>,
    dst: Vec<NodeId>,
}

impl Ends {
    pub fn new(world: &mut World<'_>, question: &Expectation) -> Self {
        let src = question
            .src
            .node()
            .map_or(Vec::new(), |it| world.nodes_of(it));
        let dst = match question.target.node() {
            None | Some(NodeSelector::OfSourceUser) => Vec::new(),
            Some(node) => world.nodes_of(node),
        };
        Self { src, dst }
    }
}

/// The most cases of one question: more is said by fewer.
const MAX_CASES: usize = 100_000;

/// Calls `each` with every case of a question, until it answers false.
pub(crate) fn for_each<'a>(
    resolved: &'a Resolved,
    world: &'a World<'_>,
    question: &'a Expectation,
    ends: &Ends,
    when: When,
    mut each: impl FnMut(&Case<'a>) -> bool,
) {
    let agents = world.agents();
    let senders: Vec<Option<&AgentName>> = match question.target {
        Target::Packet { .. } => vec![None],
        // A node as the source of a message stands for every agent there.
        _ => agents
            .of(question.src.agent())
            .into_iter()
            .map(Some)
            .collect(),
    };
    let mut tried = BTreeSet::new();
    let mut count = 0;
    let mut pass = |case: Case<'a>| {
        count += 1;
        count <= MAX_CASES && each(&case)
    };
    for src in ends.src.iter().filter_map(|id| resolved.node(id)) {
        let case = |agent: Option<&'a AgentName>, to: To<'a>| Case {
            src,
            agent,
            to,
            when,
            bytes: None,
            strict: question.strict || !question.allowed,
            attributes: Some(&question.attributes),
        };
        let Some(node) = question.target.node() else {
            // Sources that no rule tells apart have one answer.
            if tried.insert((src.class.id, 0, false)) {
                let Some(to) = resource(&question.target) else {
                    continue;
                };
                if !senders.iter().all(|agent| pass(case(*agent, to))) {
                    return;
                }
            }
            continue;
        };
        let own = match node {
            NodeSelector::OfSourceUser => world.of_user(&src.facts.id),
            _ => Vec::new(),
        };
        for dst in ends
            .dst
            .iter()
            .chain(&own)
            .filter_map(|id| resolved.node(id))
        {
            // Pairs that no rule tells apart have one answer. Addresses tell packets apart.
            let pair = (src.class.id, dst.class.id, src.has_user_of(dst));
            if !matches!(question.target, Target::Packet { .. }) && !tried.insert(pair) {
                continue;
            }
            for to in destinations(question, agents, src, dst) {
                if !senders.iter().all(|agent| pass(case(*agent, to))) {
                    return;
                }
            }
        }
    }
}

fn resource(target: &Target) -> Option<To<'_>> {
    match target {
        Target::Topic { topic, verb } => Some(To::Topic { topic, verb: *verb }),
        Target::Internet { host, port } => Some(To::Internet { host, port: *port }),
        Target::HttpInternet {
            method,
            path,
            host,
            port,
        } => Some(To::HttpInternet {
            host,
            port: *port,
            method,
            path,
        }),
        Target::Service(name) => Some(To::Service(name)),
        Target::Packet { .. }
        | Target::Message { .. }
        | Target::Skill { .. }
        | Target::HttpNode { .. } => None,
    }
}

fn destinations<'a>(
    question: &'a Expectation,
    agents: &'a crate::world::Agents,
    src: &'a Place,
    dst: &'a Place,
) -> Vec<To<'a>> {
    match &question.target {
        Target::Message { agent, verb, .. } => {
            let agents = agents.of(Some(agent)).into_iter();
            let verb = *verb;
            agents
                .map(|agent| To::Message { dst, agent, verb })
                .collect()
        }
        Target::Skill { agent, skill, .. } => {
            let agents = agents.of(Some(agent)).into_iter();
            agents
                .map(|agent| To::Skill { dst, agent, skill })
                .collect()
        }
        Target::Packet {
            node,
            protocol,
            port,
        } => {
            let from = addresses(src, question.src.node());
            let onto = addresses(dst, Some(node));
            let pairs = from.iter().flat_map(|a| onto.iter().map(move |b| (*a, *b)));
            pairs
                .map(|ends| To::Packet {
                    dst,
                    ends,
                    protocol: *protocol,
                    port: *port,
                })
                .collect()
        }
        Target::HttpNode {
            method, path, port, ..
        } => vec![To::HttpNode {
            dst,
            port: *port,
            method,
            path,
        }],
        Target::Topic { .. }
        | Target::Internet { .. }
        | Target::HttpInternet { .. }
        | Target::Service(_) => Vec::new(),
    }
}

/// The addresses that a selector means of a node: those in its block, or else all.
fn addresses(place: &Place, selector: Option<&NodeSelector>) -> Vec<IpAddr> {
    let is_meant = |address: &&IpAddr| match selector {
        Some(NodeSelector::Within(block)) => block.contains(**address),
        _ => true,
    };
    let all = place.facts.addresses.iter();
    all.filter(is_meant).copied().collect()
}
