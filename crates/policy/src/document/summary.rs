//! The file retold, a line each: for `policy show`.

use serde::Serialize;

use super::reader::Spanned;
use super::{Document, Guard, Ports, Rule, Selector};

/// What one rule says, in the words of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleSummary {
    /// `grant`, `guard` or `block`.
    pub kind: &'static str,
    /// Its `id`, or its place in the file.
    pub name: String,
    /// From whom; of a block: who.
    pub src: Vec<String>,
    /// To whom.
    pub dst: Vec<String>,
    /// The verbs that it allows, or that a guard is about.
    pub msg: Vec<String>,
    /// The ports that it opens.
    pub ip: Vec<String>,
    /// The application capabilities that it gives.
    pub app: Vec<String>,
    /// What else must hold, or what a guard demands, or why a block is there.
    pub only: Vec<String>,
}

pub(super) fn of(document: &Document) -> impl Iterator<Item = RuleSummary> {
    let rules = document.rules.iter().map(rule);
    let guards = document.guards.iter().map(guard);
    let blocks = document.blocks.iter().map(|block| {
        let until = block.until.map(super::rfc3339);
        let until = until.map(|until| format!("until {until}"));
        RuleSummary {
            kind: "block",
            name: block.name.to_string(),
            src: words(&block.matches),
            dst: Vec::new(),
            msg: Vec::new(),
            ip: Vec::new(),
            app: Vec::new(),
            only: block.reason.clone().into_iter().chain(until).collect(),
        }
    });
    rules.chain(guards).chain(blocks)
}

fn rule(rule: &Rule) -> RuleSummary {
    let verbs = rule.msg.iter().map(|verb| verb.to_string());
    let via = rule.via.iter().map(|tag| format!("via {tag}"));
    let postures = rule.postures.iter().map(|posture| posture.to_string());
    let http = rule.http.iter().map(|http| format!("http {http}"));
    let credential = rule.credential.iter().map(|name| format!("secret:{name}"));
    let valid = rule.valid.iter().map(ToString::to_string);
    RuleSummary {
        kind: "grant",
        name: rule.name.to_string(),
        src: words(&rule.src),
        dst: words(&rule.dst),
        msg: verbs
            .chain(rule.skills.iter().map(ToString::to_string))
            .collect(),
        ip: rule.ip.iter().map(Ports::to_string).collect(),
        app: rule.app.iter().map(|app| app.name.to_string()).collect(),
        only: via
            .chain(postures)
            .chain(http)
            .chain(credential)
            .chain(valid)
            .collect(),
    }
}

fn guard(guard: &Guard) -> RuleSummary {
    RuleSummary {
        kind: "guard",
        name: guard.name.to_string(),
        src: words(&guard.src),
        dst: words(&guard.dst),
        msg: guard.msg.iter().map(|verb| verb.to_string()).collect(),
        ip: Vec::new(),
        app: Vec::new(),
        only: guard.demands(),
    }
}

fn words(selectors: &[Spanned<Selector>]) -> Vec<String> {
    selectors
        .iter()
        .map(|entry| entry.value.to_string())
        .collect()
}
