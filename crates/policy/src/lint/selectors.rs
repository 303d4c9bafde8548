//! Selectors and postures, held against the gateways that are known.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use identity::UserName;

use crate::Node;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, NodeSelector, Selector, Spanned};
use crate::resolve::Matcher;

/// A mistyped name permits nothing, and says nothing either: each once.
pub(super) fn lint(document: &Document, nodes: &[Node]) -> Vec<Diagnostic> {
    let mut ids = BTreeMap::new();
    for selector in written(document).filter_map(|entry| entry.value.node()) {
        let next = u32::try_from(ids.len()).expect("a file has fewer than 2^32 bytes");
        ids.entry(selector.clone()).or_insert(next);
    }
    let matcher = Matcher::new(document, &ids);
    let matched: BTreeSet<u32> = nodes
        .iter()
        .flat_map(|node| matcher.selectors_of(node))
        .collect();
    let tagged = only_tagged(nodes);
    let mut said = BTreeSet::new();
    let mut warnings = Vec::new();
    for entry in written(document) {
        let Some(selector) = entry.value.node() else {
            continue;
        };
        if matched.contains(&ids[selector]) || !said.insert(selector) {
            continue;
        }
        let span = entry.span.clone();
        warnings.push(match lost_user(document, selector, &tagged) {
            Some(user) => removed_by_tag(selector, user, span),
            None => matches_nobody(selector, span),
        });
    }
    warnings.extend(attributes(document, nodes));
    warnings
}

fn written(document: &Document) -> impl Iterator<Item = &Spanned<Selector>> {
    let rules = document.rules.iter().flat_map(|rule| rule.selectors());
    let guards = document.guards.iter().flat_map(|guard| guard.selectors());
    let blocks = document.blocks.iter().flat_map(|block| &block.matches);
    rules.chain(guards).chain(blocks)
}

/// The users who have gateways, all of which have tags: these count as nobody's.
fn only_tagged(nodes: &[Node]) -> BTreeSet<&UserName> {
    let named: BTreeSet<&UserName> = nodes.iter().filter_map(|node| node.user.as_ref()).collect();
    let owning: BTreeSet<&UserName> = nodes.iter().filter_map(Node::owner).collect();
    named.difference(&owning).copied().collect()
}

/// Somebody whom a selector means, and whose gateways all have tags.
fn lost_user<'a>(
    document: &Document,
    selector: &NodeSelector,
    tagged: &BTreeSet<&'a UserName>,
) -> Option<&'a UserName> {
    let is_meant = |user: &&&UserName| match selector {
        NodeSelector::User(meant) => **user == meant,
        NodeSelector::Group(name) => {
            let members = document.names.groups.get(name);
            members.is_some_and(|members| members.contains(**user))
        }
        NodeSelector::UsersOf(domain) => {
            let of = user.as_str().split_once('@').map(|(_, domain)| domain);
            of == Some(&**domain)
        }
        NodeSelector::Member | NodeSelector::OfSourceUser => true,
        _ => false,
    };
    tagged.iter().find(is_meant).copied()
}

fn removed_by_tag(selector: &NodeSelector, user: &UserName, span: Range<usize>) -> Diagnostic {
    let message = format!("\"{selector}\" matches no gateway: those of {user} all have tags");
    Diagnostic::warning("W112", span, message)
        .label("a gateway with a tag has no user")
        .help("name the tag instead, or invite a gateway without one")
}

fn matches_nobody(selector: &NodeSelector, span: Range<usize>) -> Diagnostic {
    let message = format!("\"{selector}\" matches no gateway of this mesh");
    let warning = Diagnostic::warning("W107", span, message);
    match selector {
        NodeSelector::Tag(tag) => warning.help(format!(
            "invite one: crabmesh invite --name NAME --tag {tag}"
        )),
        NodeSelector::User(user) => warning.help(format!(
            "invite one: crabmesh invite --name NAME --user {user}"
        )),
        _ => warning,
    }
}

/// Attributes that postures in use ask for and no gateway tells, each at the first grant.
fn attributes(document: &Document, nodes: &[Node]) -> Vec<Diagnostic> {
    let told: BTreeSet<&str> = nodes
        .iter()
        .flat_map(|node| node.attributes.keys())
        .map(|key| &**key)
        .collect();
    let mut said = BTreeSet::new();
    let mut warnings = Vec::new();
    for rule in &document.rules {
        for name in &rule.postures {
            let asserted = document.names.postures.get(name).into_iter().flatten();
            let unmet = asserted.filter(|it| it.asks_value() && !told.contains(it.attribute()));
            for assertion in unmet.filter(|it| said.insert((name, it.attribute()))) {
                let attribute = assertion.attribute();
                let message = format!("no known gateway tells {attribute:?}: {name} is never met");
                warnings.push(
                    Diagnostic::warning("W113", rule.span.clone(), message)
                        .label(format!("asks for {name}: {assertion}"))
                        .help("until one does, what asks for this posture is denied"),
                );
            }
        }
    }
    warnings
}
