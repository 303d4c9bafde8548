//! Grants that add nothing: another one allows all of it.
//!
//! Rules are looked up by one source and one destination that would have to cover theirs, so that
//! ten thousand rules are not held against each other.

use std::collections::{BTreeMap, BTreeSet};

use identity::UserName;

use crate::address::Prefix;
use crate::diagnostic::Diagnostic;
use crate::document::{AgentPattern, Document, HttpRule, NodeSelector, Rule, Selector, Spanned};

pub(super) fn lint(document: &Document) -> Vec<Diagnostic> {
    let shadows = Shadows::new(document);
    let mut found = Vec::new();
    for (index, rule) in document.rules.iter().enumerate() {
        let Some(other) = shadows.of(index) else {
            continue;
        };
        let name = other.name.phrase("grant");
        let message = format!("{name} allows all of this already");
        found.push(
            Diagnostic::warning("W109", rule.span.clone(), message)
                .label("adds nothing")
                .help("grants only add: take this one out, or narrow the other"),
        );
    }
    found
}

/// The rules by what they cover.
struct Shadows<'a> {
    document: &'a Document,
    by_ends: BTreeMap<(Key<'a>, Key<'a>), Vec<usize>>,
    groups_of: BTreeMap<&'a UserName, Vec<&'a str>>,
    /// The lengths of the blocks that are written.
    lengths: BTreeSet<u8>,
}

/// A selector as it is looked up; patterns that are endless are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    Selector(std::borrow::Cow<'a, Selector>),
    Topic,
    Internet,
}

impl<'a> Shadows<'a> {
    fn new(document: &'a Document) -> Self {
        let mut shadows = Self {
            document,
            by_ends: BTreeMap::new(),
            groups_of: BTreeMap::new(),
            lengths: BTreeSet::new(),
        };
        for (name, members) in &document.names.groups {
            for user in members {
                shadows.groups_of.entry(user).or_default().push(name);
            }
        }
        for (index, rule) in document.rules.iter().enumerate() {
            for entry in rule.selectors() {
                if let Some(NodeSelector::Within(block)) = entry.value.node() {
                    shadows.lengths.insert(block.bits());
                }
            }
            if rule.src.len() * rule.dst.len() > MAX_ENDS {
                continue;
            }
            for src in &rule.src {
                for dst in &rule.dst {
                    let key = (Key::written(&src.value), Key::written(&dst.value));
                    let listed = shadows.by_ends.entry(key).or_default();
                    if listed.len() < MAX_LISTED {
                        listed.push(index);
                    }
                }
            }
        }
        shadows
    }

    /// A rule that allows all that another one does.
    fn of(&self, index: usize) -> Option<&'a Rule> {
        let rule = &self.document.rules[index];
        let (src, dst) = (rule.src.first()?, rule.dst.first()?);
        let (above_src, above_dst) = (self.above(&src.value), self.above(&dst.value));
        let pairs = above_src
            .iter()
            .flat_map(|a| above_dst.iter().map(move |b| (a, b)));
        for (a, b) in pairs {
            let listed = self.by_ends.get(&(a.clone(), b.clone()));
            for other in listed
                .into_iter()
                .flatten()
                .filter(|other| **other != index)
            {
                let candidate = &self.document.rules[*other];
                // Of two that are equal the later one is told.
                let first = *other < index || !self.covers(rule, candidate);
                if first && self.covers(candidate, rule) {
                    return Some(candidate);
                }
            }
        }
        None
    }

    /// What could stand in a rule and cover a selector.
    fn above(&self, selector: &'a Selector) -> Vec<Key<'a>> {
        let of = |selector: Selector| Key::Selector(std::borrow::Cow::Owned(selector));
        match selector {
            Selector::Topic(_) => vec![Key::Topic],
            Selector::Internet(_) => vec![Key::Internet],
            Selector::Service(_) => vec![Key::written(selector)],
            Selector::Node(node) => self
                .above_node(node)
                .into_iter()
                .map(|it| of(Selector::Node(it)))
                .collect(),
            Selector::Agent(agent, node) => {
                let mut keys = Vec::new();
                for node in self.above_node(node) {
                    keys.push(of(Selector::Agent(agent.clone(), node.clone())));
                    keys.push(of(Selector::Agent(AgentPattern::Every, node.clone())));
                    keys.push(of(Selector::Node(node)));
                }
                keys
            }
        }
    }

    fn above_node(&self, node: &NodeSelector) -> Vec<NodeSelector> {
        let mut above = vec![node.clone()];
        match node {
            NodeSelector::Within(block) => {
                let wider = self.lengths.range(..block.bits());
                above.extend(
                    wider.map(|bits| NodeSelector::Within(Prefix::around(block.first(), *bits))),
                );
            }
            // Not of this mesh alone.
            NodeSelector::Set(_) | NodeSelector::Anywhere | NodeSelector::Internet => {}
            NodeSelector::User(user) => {
                let groups = self.groups_of.get(user).into_iter().flatten();
                above.extend(groups.map(|name| NodeSelector::Group((*name).into())));
                if let Some((_, domain)) = user.as_str().split_once('@') {
                    above.push(NodeSelector::UsersOf(domain.into()));
                }
                above.extend([NodeSelector::Member, NodeSelector::Every]);
            }
            NodeSelector::Group(_) | NodeSelector::UsersOf(_) | NodeSelector::OfSourceUser => {
                above.extend([NodeSelector::Member, NodeSelector::Every]);
            }
            NodeSelector::Tag(_) => above.extend([NodeSelector::Tagged, NodeSelector::Every]),
            _ => above.push(NodeSelector::Every),
        }
        above
    }

    fn covers(&self, wide: &Rule, narrow: &Rule) -> bool {
        let all = |wide: &[Spanned<Selector>], narrow: &[Spanned<Selector>]| {
            narrow.iter().all(|narrow| {
                wide.iter()
                    .any(|wide| self.selector_covers(&wide.value, &narrow.value))
            })
        };
        allows_all(wide, narrow) && all(&wide.src, &narrow.src) && all(&wide.dst, &narrow.dst)
    }

    fn selector_covers(&self, wide: &Selector, narrow: &Selector) -> bool {
        match (wide, narrow) {
            (Selector::Topic(wide), Selector::Topic(narrow)) => wide.covers(narrow),
            (Selector::Internet(wide), Selector::Internet(narrow)) => wide.covers(narrow),
            (Selector::Service(wide), Selector::Service(narrow)) => wide == narrow,
            (Selector::Node(wide), Selector::Node(narrow) | Selector::Agent(_, narrow)) => {
                self.node_covers(wide, narrow)
            }
            (Selector::Agent(agents, wide), Selector::Agent(agent, narrow)) => {
                let agents = *agents == AgentPattern::Every || agents == agent;
                agents && self.node_covers(wide, narrow)
            }
            _ => false,
        }
    }

    fn node_covers(&self, wide: &NodeSelector, narrow: &NodeSelector) -> bool {
        wide == narrow || self.above_node(narrow).contains(wide)
    }
}

impl<'a> Key<'a> {
    fn written(selector: &'a Selector) -> Self {
        match selector {
            Selector::Topic(_) => Self::Topic,
            Selector::Internet(_) => Self::Internet,
            other => Self::Selector(std::borrow::Cow::Borrowed(other)),
        }
    }
}

/// Whether one rule allows everything that another does, to whomever it is about.
fn allows_all(wide: &Rule, narrow: &Rule) -> bool {
    let time = wide.valid.is_none() || wide.valid == narrow.valid;
    let asked = |name| wide.postures.contains(name);
    let posture = wide.postures.is_empty()
        || (!narrow.postures.is_empty() && narrow.postures.iter().all(asked));
    let verbs = narrow.msg.iter().all(|verb| wide.msg.contains(verb));
    let skills = narrow
        .skills
        .iter()
        .all(|skill| wide.skills.iter().any(|other| other.covers(skill)));
    // For a place on the internet no `ip` means every port.
    let ports = match (wide.ip.is_empty(), narrow.ip.is_empty()) {
        (true, _) => narrow.ip.is_empty() || to_resources(narrow),
        (false, true) => !to_resources(narrow),
        (false, false) => narrow
            .ip
            .iter()
            .all(|ports| wide.ip.iter().any(|other| other.covers(ports))),
    };
    let requests = wide.http.is_empty()
        || (!narrow.http.is_empty()
            && narrow
                .http
                .iter()
                .all(|http| wide.http.iter().any(|other| lets_all(other, http))));
    let apps = narrow.app.iter().all(|app| wide.app.contains(app));
    time && posture
        && verbs
        && skills
        && ports
        && requests
        && apps
        && wide.via == narrow.via
        && wide.credential == narrow.credential
}

fn to_resources(rule: &Rule) -> bool {
    rule.dst
        .iter()
        .all(|entry| matches!(entry.value, Selector::Internet(_) | Selector::Service(_)))
}

fn lets_all(wide: &HttpRule, narrow: &HttpRule) -> bool {
    let methods = wide.methods.is_empty()
        || (!narrow.methods.is_empty()
            && narrow
                .methods
                .iter()
                .all(|method| wide.methods.contains(method)));
    let paths = wide.paths.is_empty()
        || (!narrow.paths.is_empty()
            && narrow
                .paths
                .iter()
                .all(|path| wide.paths.iter().any(|other| other.covers(path))));
    methods && paths
}

/// Longer products cover little that shorter ones do not, and fill the index.
const MAX_ENDS: usize = 1_024;

/// As many rules of the same two ends as are tried.
const MAX_LISTED: usize = 64;
