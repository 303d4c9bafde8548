//! What an operator asks of a file before it is pushed: whether gateways can hold what it demands,
//! and whether a person still may do anything.

use identity::{NodeId, NodeName, UnixTime, UserName};

use crate::Node;
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Feature};
use crate::resolve::{Resolved, ResolvedRule};

impl Document {
    /// The guards that demand what is not among the features of a gateway, each with its place.
    pub fn unenforced(&self, enforced: &[Feature]) -> Vec<Diagnostic> {
        let mut said = Vec::new();
        for guard in &self.guards {
            for feature in guard.features().filter(|it| !enforced.contains(it)) {
                let message = format!(
                    "{}: no gateway can enforce \"{}\" yet",
                    guard.name.phrase("guard"),
                    feature.as_str()
                );
                let wrong = Diagnostic::error("E088", guard.span.clone(), message);
                let wrong = wrong.with_source(&self.source).label("demanded here");
                said.push(wrong.help(
                    "nothing that it is about would pass: take the guard out until gateways can",
                ));
            }
        }
        said
    }

    /// Whether some grant that has not ended is for a gateway of this person or an agent there, and
    /// no block stops that gateway. A person without a gateway is taken to have one.
    pub fn grants_something_to(&self, user: &UserName, nodes: &[Node], at: UnixTime) -> bool {
        let is_theirs = |node: &&Node| node.owner() == Some(user);
        let mut theirs: Vec<Node> = nodes.iter().filter(is_theirs).cloned().collect();
        if theirs.is_empty() {
            theirs.push(Node {
                user: Some(user.clone()),
                ..Node::new(NodeId([0; 16]), hypothetical())
            });
        }
        let resolved = Resolved::new(self, &theirs, None);
        let is_over = |rule: &ResolvedRule| {
            let valid = rule.valid.as_ref();
            valid.is_some_and(|valid| valid.not_after.is_some_and(|end| end <= at))
        };
        resolved.nodes().any(|place| {
            let mut blocks = resolved.blocks_of(place);
            !blocks.any(|it| it.block.holds(at) && it.names(place, None))
                && resolved.rules_from(place).any(|rule| !is_over(rule))
        })
    }
}

fn hypothetical() -> NodeName {
    "hypothetical".parse().expect("a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    fn document(text: &str) -> Document {
        Document::parse("policy.hujson", text).expect("a policy").0
    }

    fn ana() -> UserName {
        "ana@example.com".parse().expect("a user")
    }

    #[test]
    fn a_guard_that_no_gateway_holds_is_named_with_its_feature_and_its_line() {
        let file = document(
            r#"{
                "groups": {"group:ops": ["ana@example.com"]},
                "guards": [
                    {"id": "size", "src": ["agent:*@*"], "dst": ["agent:*@*"], "maxBytes": "1MiB"},
                    {"id": "first", "src": ["agent:*@*"], "dst": ["agent:*@*"],
                     "approve": {"mode": "first-contact", "by": ["group:ops"]}},
                ],
            }"#,
        );

        let said = file.unenforced(&[Feature::MaxBytes]);

        let [wrong] = &said[..] else {
            panic!("{said:?}")
        };
        let shown = wrong.render(false);
        for part in ["guard first", "\"approve\"", "policy.hujson:5"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(
            file.unenforced(&[Feature::MaxBytes, Feature::Approve])
                .is_empty()
        );
    }

    #[test]
    fn a_person_is_locked_out_without_a_grant_that_still_holds() {
        let grants = |src: &str, more: &str| {
            document(&format!(
                r#"{{"tagOwners": {{"tag:a": []}}, "grants": [
                    {{"src": ["{src}"], "dst": ["*"], "msg": ["send"]{more}}}]}}"#
            ))
        };
        let over = r#", "valid": {"notAfter": "2000-01-01T00:00:00Z"}"#;
        let hours = r#", "valid": {"windows": [{"days": "mon", "hours": "00:00-00:01"}]}"#;

        for (src, more, expected) in [
            ("ana@example.com", "", true),
            ("agent:*@ana@example.com", "", true),
            ("autogroup:member", "", true),
            ("*", "", true),
            ("bob@example.com", "", false),
            ("tag:a", "", false),
            ("ana@example.com", over, false),
            ("ana@example.com", hours, true),
        ] {
            let seen = grants(src, more).grants_something_to(&ana(), &[], NOW);
            assert_eq!(seen, expected, "{src}{more}");
        }
    }

    #[test]
    fn a_person_whose_every_gateway_is_blocked_is_locked_out() {
        let file = document(
            r#"{"grants": [{"src": ["*"], "dst": ["*"], "msg": ["send"]}],
                "blocks": [{"match": ["gw-a"]}]}"#,
        );
        let gateway = |n: u8, name: &str| Node {
            user: Some(ana()),
            ..Node::new(NodeId([n; 16]), name.parse().expect("a name"))
        };
        let (a, b) = (gateway(1, "gw-a"), gateway(2, "gw-b"));

        assert!(!file.grants_something_to(&ana(), std::slice::from_ref(&a), NOW));
        assert!(file.grants_something_to(&ana(), &[a, b], NOW));
    }
}
