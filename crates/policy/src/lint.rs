//! What may be a mistake although the file is well-formed, once the gateways are known.

use std::collections::{BTreeMap, BTreeSet};

use crate::Node;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, NodeSelector, Selector, Spanned};
use crate::resolve::Matcher;

impl Document {
    /// Warns of selectors that match none of these gateways, each once: a mistyped name permits
    /// nothing, and says nothing either.
    pub fn lint(&self, nodes: &[Node]) -> Vec<Diagnostic> {
        let mut ids = BTreeMap::new();
        for selector in self.written().filter_map(|entry| entry.value.node()) {
            let next = u32::try_from(ids.len()).expect("a file has fewer than 2^32 bytes");
            ids.entry(selector.clone()).or_insert(next);
        }
        let matcher = Matcher::new(self, &ids);
        let matched: BTreeSet<u32> = nodes
            .iter()
            .flat_map(|node| matcher.selectors_of(node))
            .collect();
        let mut said = BTreeSet::new();
        let mut warnings = Vec::new();
        for entry in self.written() {
            let Some(selector) = entry.value.node() else {
                continue;
            };
            let nobody = !matched.contains(&ids[selector]);
            if nobody && said.insert(selector) {
                warnings.push(self.matches_nobody(selector, entry.span.clone()));
            }
        }
        warnings
    }

    fn written(&self) -> impl Iterator<Item = &Spanned<Selector>> {
        let rules = self.rules.iter().flat_map(|rule| rule.selectors());
        let guards = self.guards.iter().flat_map(|guard| guard.selectors());
        let blocks = self.blocks.iter().flat_map(|block| &block.matches);
        rules.chain(guards).chain(blocks)
    }

    fn matches_nobody(&self, selector: &NodeSelector, span: std::ops::Range<usize>) -> Diagnostic {
        let message = format!("\"{selector}\" matches no gateway of this mesh");
        let warning = Diagnostic::warning("W107", span, message).with_source(&self.source);
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
}
