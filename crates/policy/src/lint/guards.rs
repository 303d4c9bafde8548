//! Guards that take nothing away: no grant could be about what they are about.

use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;
use crate::document::{AgentPattern, Document, Guard, NodeSelector, Rule, Selector, Spanned};

pub(super) fn lint(document: &Document) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut left = MAX_TRIED;
    for guard in &document.guards {
        let mut about = false;
        for rule in &document.rules {
            left = left.saturating_sub(1);
            if is_about(document, guard, rule) {
                about = true;
                break;
            }
        }
        if left == 0 {
            break;
        }
        if !about {
            let name = guard.name.phrase("guard");
            let message = format!("{name} has no effect: nothing that it is about is granted");
            found.push(
                Diagnostic::warning("W110", guard.span.clone(), message)
                    .label("takes nothing away")
                    .help("guards only subtract: without a grant everything is denied anyway"),
            );
        }
    }
    found
}

fn is_about(document: &Document, guard: &Guard, rule: &Rule) -> bool {
    let verbs = guard.msg.is_empty() || guard.msg.iter().any(|verb| rule.msg.contains(verb));
    // Rates and sizes are of messages.
    let counts = guard.deny.is_empty() && guard.approve.is_none() && guard.spend.is_none();
    let kind = !counts || rule.is_for_messages();
    let meet = |a: &[Spanned<Selector>], b: &[Spanned<Selector>]| {
        a.iter()
            .any(|a| b.iter().any(|b| may_meet(document, &a.value, &b.value)))
    };
    verbs && kind && meet(&guard.src, &rule.src) && meet(&guard.dst, &rule.dst)
}

/// Whether something could match both; in doubt yes.
fn may_meet(document: &Document, a: &Selector, b: &Selector) -> bool {
    match (a, b) {
        (Selector::Topic(a), Selector::Topic(b)) => a.meet(b).is_some(),
        (Selector::Internet(a), Selector::Internet(b)) => a.meet(b).is_some(),
        (Selector::Service(a), Selector::Service(b)) => a == b,
        (
            Selector::Agent(AgentPattern::Named(a), _),
            Selector::Agent(AgentPattern::Named(b), _),
        ) if a != b => false,
        _ => match (a.node(), b.node()) {
            (Some(a), Some(b)) => nodes_may_meet(document, a, b),
            _ => false,
        },
    }
}

fn nodes_may_meet(document: &Document, a: &NodeSelector, b: &NodeSelector) -> bool {
    use NodeSelector as N;

    let nobody = |it: &N| matches!(it, N::Role(_) | N::Internet);
    let people = |it: &N| it.is_of_users() || *it == N::OfSourceUser;
    let tagged = |it: &N| matches!(it, N::Tag(_) | N::Tagged);
    if nobody(a) || nobody(b) || (people(a) && tagged(b)) || (tagged(a) && people(b)) {
        return false;
    }
    let members = |name: &str| document.names.groups.get(name);
    match (a, b) {
        (N::User(a), N::User(b)) => a == b,
        (N::Named(a), N::Named(b)) => a == b,
        (N::User(user), N::Group(group)) | (N::Group(group), N::User(user)) => {
            members(group).is_some_and(|members| members.contains(user))
        }
        (N::Group(a), N::Group(b)) => {
            let none = BTreeSet::new();
            !members(a)
                .unwrap_or(&none)
                .is_disjoint(members(b).unwrap_or(&none))
        }
        _ => true,
    }
}

/// A thousand guards without effect before ten thousand grants are more than a person waits for.
const MAX_TRIED: usize = 1_000_000;
