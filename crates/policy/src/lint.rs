//! What may be a mistake although the file is well-formed, once the gateways are known.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::document::{Document, NodeSelector};
use crate::resolve::{Matcher, Node};

impl Document {
    /// Warns of selectors that match none of these gateways, each once: a mistyped name permits
    /// nothing, and says nothing either.
    pub fn lint(&self, nodes: &[Node]) -> Vec<Diagnostic> {
        let mut ids = BTreeMap::new();
        for selector in self
            .rules
            .iter()
            .flat_map(|rule| rule.src.iter().chain(&rule.dst))
        {
            let next = u32::try_from(ids.len()).expect("a file has fewer than 2^32 bytes");
            ids.entry(selector.node.clone()).or_insert(next);
        }
        let matcher = Matcher::new(self, &ids);
        let matched: BTreeSet<u32> = nodes
            .iter()
            .flat_map(|node| matcher.selectors_of(node))
            .collect();
        let mut said = BTreeSet::new();
        let mut warnings = Vec::new();
        for rule in &self.rules {
            let selectors = rule.src.iter().chain(&rule.dst).zip(&rule.spans);
            for (selector, span) in selectors {
                let nobody = !matched.contains(&ids[&selector.node]);
                if nobody && said.insert(&selector.node) {
                    warnings.push(self.matches_nobody(&selector.node, span.clone()));
                }
            }
        }
        warnings
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
