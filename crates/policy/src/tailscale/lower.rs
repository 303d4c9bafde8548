//! What only we can say, as application capabilities: a grant from nodes to nodes that carries the
//! rest (agents, verbs, requests, hours, demands) as values, for a gateway to read.
//!
//! ```text
//! agent:planner@tag:a ─► agent:coder@tag:b, request
//!   {"src": ["tag:a"], "dst": ["tag:b"], "app": {"crabmesh.dev/cap/msg": [
//!     {"src": ["planner"], "dst": ["coder"], "msg": ["request"]}]}}
//! ```
//! In a value, no `src` or `dst` means every agent of those nodes.

use std::collections::BTreeMap;

use crate::MAX_TEXT;
use crate::document::{AgentPattern, NodeSelector, Selector, Spanned};
use crate::text::{Brackets, Item, List, Node, unquoted};

/// One side of a rule: nodes, each group with the agents that it is about there.
#[derive(Debug, Default)]
pub(super) struct Side {
    pub groups: Vec<Group>,
    /// Topics, places of the internet, services.
    pub resources: Vec<String>,
    /// What Tailscale cannot say.
    pub unsaid: Vec<String>,
}

/// The nodes on which the same agents are meant: kept apart from others, because sources and
/// destinations of one grant all meet.
#[derive(Debug)]
pub(super) struct Group {
    /// None: every agent.
    pub agent: Option<String>,
    pub nodes: Vec<String>,
}

/// What becomes of a selector that Tailscale cannot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsaid {
    /// It is left out: a grant for fewer.
    LeaveOut,
    /// It becomes everybody: a guard or block for more.
    Widen,
}

/// The grants that come out: agents of both sides multiply, and so are counted.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub items: Vec<Item>,
    size: usize,
}

impl Lowered {
    pub fn push(&mut self, item: Item) {
        self.size = self.size.saturating_add(size(&item.value));
        self.items.push(item);
    }

    /// Whether it is no policy file any more, so that nothing needs to be added.
    pub fn is_full(&self) -> bool {
        self.size > MAX_TEXT
    }
}

/// At least one for each bracket and letter.
fn size(node: &Node) -> usize {
    match node {
        Node::Scalar(text) => text.len(),
        Node::List(list) => list
            .items
            .iter()
            .map(|item| item.key.as_ref().map_or(0, String::len) + size(&item.value))
            .sum::<usize>()
            .saturating_add(2),
    }
}

impl Side {
    pub fn new(text: &str, entries: &[Spanned<Selector>], unsaid: Unsaid) -> Self {
        let mut side = Self::default();
        let mut places: BTreeMap<Option<String>, usize> = BTreeMap::new();
        for entry in entries {
            let written = written(text, entry);
            let Some(node) = entry.value.node() else {
                side.resources.push(written);
                continue;
            };
            let agent = match entry.value.agent() {
                Some(AgentPattern::Named(name)) => Some(name.to_string()),
                Some(AgentPattern::Every) | None => None,
            };
            let said = match node {
                // No node is the internet.
                NodeSelector::Internet => continue,
                NodeSelector::Anywhere => "*".to_owned(),
                node if is_said(node) => node_part(&written).to_owned(),
                _ => {
                    side.unsaid.push(written);
                    // A role is nobody here.
                    if unsaid == Unsaid::LeaveOut || matches!(node, NodeSelector::Role(_)) {
                        continue;
                    }
                    "*".to_owned()
                }
            };
            let place = *places.entry(agent.clone()).or_insert(side.groups.len());
            match side.groups.get_mut(place) {
                Some(group) => group.nodes.push(said),
                None => side.groups.push(Group {
                    agent,
                    nodes: vec![said],
                }),
            }
        }
        side
    }
}

/// Whether Tailscale has a selector for the same nodes: it names no gateways, and who has a role
/// there has none here.
pub(super) fn is_said(node: &NodeSelector) -> bool {
    !matches!(node, NodeSelector::Named(_) | NodeSelector::Role(_))
}

/// A selector as the file has it: a host by its name, and not by its address.
pub(super) fn written(text: &str, entry: &Spanned<Selector>) -> String {
    text.get(entry.span.clone())
        .map_or_else(|| entry.value.to_string(), unquoted)
}

fn node_part(written: &str) -> &str {
    let agent = written.strip_prefix("agent:");
    agent
        .and_then(|agent| agent.split_once('@'))
        .map_or(written, |(_, node)| node)
}

/// A grant of one capability, with one value.
pub(super) fn capability(
    name: &str,
    src: &[String],
    dst: &[String],
    posture: Option<&Item>,
    value: Vec<Item>,
) -> Item {
    let value = Item::new(None, object(value));
    let values = Item::new(Some(&format!("{DOMAIN}/{name}")), array(vec![value]));
    let mut fields = vec![
        Item::new(Some("src"), strings(src)),
        Item::new(Some("dst"), strings(dst)),
    ];
    fields.extend(posture.map(|posture| Item::new(Some("srcPosture"), posture.value.clone())));
    fields.push(Item::new(Some("app"), object(vec![values])));
    Item::new(None, object(fields))
}

/// The agents of a side, for a value.
pub(super) fn agents(key: &str, agent: Option<&String>) -> Option<Item> {
    agent.map(|agent| Item::new(Some(key), strings(std::slice::from_ref(agent))))
}

pub(super) fn strings(texts: &[String]) -> Node {
    let text = |text: &String| Item::new(None, Node::from_json(&text.as_str().into()));
    array(texts.iter().map(text).collect())
}

pub(super) fn array(items: Vec<Item>) -> Node {
    list(Brackets::Array, items)
}

pub(super) fn object(items: Vec<Item>) -> Node {
    list(Brackets::Object, items)
}

fn list(brackets: Brackets, items: Vec<Item>) -> Node {
    let end = Vec::new();
    Node::List(List {
        brackets,
        items,
        end,
    })
}

/// Ours, so that no capability of others is meant.
const DOMAIN: &str = "crabmesh.dev/cap";
