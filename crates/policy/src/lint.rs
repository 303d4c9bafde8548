//! What may be a mistake although the file is well-formed.
//!
//! | code | |
//! |---|---|
//! | W107 | a selector matches no gateway |
//! | W109 | another grant allows all of it |
//! | W110 | a guard is about nothing that is granted |
//! | W111 | several destinations, and as many ports: each opens all |
//! | W112 | a person is meant whose gateways all have tags |
//! | W113 | a posture asks for what no gateway tells |
//! | W114 | something is granted that nothing asks for in this version |
//! | W115 | somebody loses the last grant |
//! | W116 | wider than the version before |

mod guards;
mod selectors;
mod shadow;
mod shape;
mod since;

use std::collections::BTreeMap;

use identity::UnixTime;

use crate::Node;
use crate::diagnostic::Diagnostic;
use crate::document::Document;

impl Document {
    /// Warns of what the file says by itself, and of what it says of these gateways where there are
    /// any.
    pub fn lint(&self, nodes: &[Node]) -> Vec<Diagnostic> {
        let mut found = shape::lint(self);
        found.extend(shadow::lint(self));
        found.extend(guards::lint(self));
        // Before the first gateway has joined every name would match nobody.
        if !nodes.is_empty() {
            found.extend(selectors::lint(self, nodes));
        }
        self.few(found)
    }

    /// Warns of what this version takes from somebody altogether, and of what it permits that the
    /// version before did not.
    pub fn lint_since(&self, before: &Self, nodes: &[Node], at: UnixTime) -> Vec<Diagnostic> {
        self.few(since::lint(self, before, nodes, at))
    }

    /// In the order of the file; of each code as many as somebody reads.
    fn few(&self, mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
        found.sort_by_key(|warning| warning.span().start);
        let mut said: BTreeMap<&'static str, usize> = BTreeMap::new();
        found.retain(|warning| {
            let said = said.entry(warning.code()).or_default();
            *said += 1;
            *said <= MAX_OF_CODE
        });
        for (code, count) in said.into_iter().filter(|(_, count)| *count > MAX_OF_CODE) {
            let message = format!("{} more of {code} are not shown", count - MAX_OF_CODE);
            found.push(Diagnostic::warning(code, 0..0, message));
        }
        let all = found.into_iter();
        all.map(|warning| warning.with_source(&self.source))
            .collect()
    }
}

/// The next one helps nobody who has not mended these.
const MAX_OF_CODE: usize = 20;
