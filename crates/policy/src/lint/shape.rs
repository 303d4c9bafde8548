//! What a single grant probably does not mean as it is written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::diagnostic::Diagnostic;
use crate::document::{Document, Ports, Rule, Selector};

pub(super) fn lint(document: &Document) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = document.rules.iter().filter_map(product).collect();
    let mut unasked: BTreeMap<&'static str, &Rule> = BTreeMap::new();
    for rule in &document.rules {
        for kind in kinds(rule).filter(|kind| UNASKED.contains(kind)) {
            unasked.entry(kind).or_insert(rule);
        }
    }
    found.extend(unasked.into_iter().map(|(kind, rule)| {
        let message =
            format!("nothing in this version asks for {kind}: to grant it has no effect yet");
        Diagnostic::warning("W114", rule.span.clone(), message)
            .label(format!("the first grant of {kind}"))
            .help("it is checked, tested and explained, and permits nothing until something asks")
    }));
    found
}

/// Several destinations, and as many services: who writes two lists of one length means pairs, and
/// gets every port of every destination.
fn product(rule: &Rule) -> Option<Diagnostic> {
    let services: BTreeSet<(u16, u16)> = rule.ip.iter().map(Ports::range).collect();
    let single = services.iter().all(|(first, last)| first == last);
    // The web on both of its ports is one service.
    let web = services
        .iter()
        .all(|range| [(80, 80), (443, 443)].contains(range));
    let pairs = rule.dst.len() > 1 && services.len() == rule.dst.len() && single && !web;
    let spans = (rule.dst.first(), rule.dst.last());
    let (Some(first), Some(last)) = spans else {
        return None;
    };
    pairs.then(|| {
        let message = format!(
            "each of these {} destinations is opened on all {} ports",
            rule.dst.len(),
            services.len()
        );
        Diagnostic::warning("W111", first.span.start..last.span.end, message)
            .label("every src reaches every dst on every port")
            .help("where each has a port of its own, write a grant for each")
    })
}

/// What a rule grants, in the words of the warning.
fn kinds(rule: &Rule) -> impl Iterator<Item = &'static str> {
    let is = |meant: fn(&Selector) -> bool| rule.dst.iter().any(|entry| meant(&entry.value));
    let skill = |kind: &str| {
        rule.skills
            .iter()
            .any(|skill| skill.to_string().starts_with(kind))
    };
    let all = [
        (is(|it| matches!(it, Selector::Topic(_))), TOPIC),
        (skill("call:"), CALL),
        (skill("admin:"), ADMIN),
        (is(|it| matches!(it, Selector::Internet(_))), INTERNET),
        (is(|it| matches!(it, Selector::Service(_))), SERVICE),
        (!rule.http.is_empty(), HTTP),
    ];
    all.into_iter().filter(|(is, _)| *is).map(|(_, kind)| kind)
}

const TOPIC: &str = "topics";
const CALL: &str = "\"call:\"";
const ADMIN: &str = "\"admin:\"";
const INTERNET: &str = "\"internet:\"";
const SERVICE: &str = "\"svc:\"";
const HTTP: &str = "\"http\"";

/// What can be granted and is asked by nobody yet. Whoever makes something ask takes it out here.
const UNASKED: [&str; 6] = [TOPIC, CALL, ADMIN, INTERNET, SERVICE, HTTP];
