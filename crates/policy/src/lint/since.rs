//! What a version changes that its author may not mean: somebody is locked out, or it is wider.

use std::collections::BTreeSet;
use std::ops::Range;

use identity::{UnixTime, UserName};

use crate::diagnostic::Diagnostic;
use crate::document::{Document, NodeSelector};
use crate::{Node, PolicyDiff};

pub(super) fn lint(
    document: &Document,
    before: &Document,
    nodes: &[Node],
    at: UnixTime,
) -> Vec<Diagnostic> {
    let mut found = locked_out(document, before, nodes);
    let diff = PolicyDiff::bounded(before, document, nodes, at, MAX_CASES);
    for gain in &diff.gains {
        let message = format!(
            "wider than the policy in force: {} -> {} gains {}",
            gain.src,
            gain.dst,
            gain.what.join(", ")
        );
        let span = gain.by.first().map_or(0..0, |name| span_of(document, name));
        found.push(Diagnostic::warning("W116", span, message).label("permits more than before"));
    }
    if !diff.complete {
        let message = "not compared in full with the policy in force: it may be wider".to_owned();
        found.push(
            Diagnostic::warning("W116", 0..0, message)
                .help("crabmesh policy diff compares more, and takes longer"),
        );
    }
    found
}

/// People whom some grant had as a source, and none has any more.
fn locked_out(document: &Document, before: &Document, nodes: &[Node]) -> Vec<Diagnostic> {
    let mut people: BTreeSet<&UserName> = nodes.iter().filter_map(Node::owner).collect();
    for group in before.names.groups.values() {
        people.extend(group);
    }
    for rule in &before.rules {
        for entry in &rule.src {
            if let Some(NodeSelector::User(user)) = entry.value.node() {
                people.insert(user);
            }
        }
    }
    let (had, has) = (Sources::new(before), Sources::new(document));
    let lost = people
        .into_iter()
        .filter(|user| had.name(user) && !has.name(user));
    lost.map(|user| {
        let message = format!("{user} loses the last grant: whatever it was, it is denied now");
        Diagnostic::warning("W115", 0..0, message).help(format!(
            "add a grant with {user} or a group of theirs as src, if they are to keep any"
        ))
    })
    .collect()
}

/// Whom the grants of a version have as sources.
struct Sources<'a> {
    everybody: bool,
    users: BTreeSet<&'a UserName>,
    domains: BTreeSet<&'a str>,
}

impl<'a> Sources<'a> {
    fn new(document: &'a Document) -> Self {
        let mut sources = Self {
            everybody: false,
            users: BTreeSet::new(),
            domains: BTreeSet::new(),
        };
        let mut groups: BTreeSet<&str> = BTreeSet::new();
        for entry in document.rules.iter().flat_map(|rule| &rule.src) {
            match entry.value.node() {
                Some(NodeSelector::Every | NodeSelector::Member | NodeSelector::Anywhere) => {
                    sources.everybody = true;
                }
                Some(NodeSelector::User(user)) => drop(sources.users.insert(user)),
                Some(NodeSelector::UsersOf(domain)) => drop(sources.domains.insert(domain)),
                Some(NodeSelector::Group(name)) if groups.insert(name) => {
                    sources
                        .users
                        .extend(document.names.groups.get(name).into_iter().flatten());
                }
                _ => {}
            }
        }
        sources
    }

    fn name(&self, user: &UserName) -> bool {
        let domain = user.as_str().split_once('@').map(|(_, domain)| domain);
        self.everybody
            || self.users.contains(user)
            || domain.is_some_and(|domain| self.domains.contains(domain))
    }
}

fn span_of(document: &Document, name: &str) -> Range<usize> {
    let mut rules = document.rules.iter();
    rules
        .find(|rule| rule.name.as_str() == name)
        .map_or(0..0, |rule| rule.span.clone())
}

/// What `check` takes its time for.
const MAX_CASES: usize = 100_000;
