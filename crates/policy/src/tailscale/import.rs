//! A policy file of Tailscale's, for us.

use super::Translated;
use crate::Document;
use crate::diagnostic::Diagnostic;
use crate::document::{IGNORED, hujson};
use crate::text::{Brackets, Comment, Item, List, Node, Text};

/// Reads a policy file of Tailscale's and writes one of ours: without the sections that mean
/// nothing here, and with the words for what means something else. What does not load is refused.
pub fn import_from_tailscale(name: &str, text: &str) -> Result<Translated, Vec<Diagnostic>> {
    let (document, _) = Document::parse(name, text)?;
    let mut tree = Text::parse(&hujson::source(name, text)?)?;
    let mut notes = Vec::new();
    if let Some(sections) = tree.sections() {
        leave_out(sections, &IGNORED, "", &mut notes);
        let approvers = sections.member("autoApprovers");
        if let Some(approvers) = approvers.and_then(|item| item.value.list()) {
            leave_out(approvers, &["services"], "autoApprovers: ", &mut notes);
        }
        if sections.member("acls").is_none() && sections.member("grants").is_none() {
            sections.items.push(nothing_granted());
            notes.push(NOTHING_GRANTED.join(" "));
        }
    }
    if document.rules.iter().any(|rule| !rule.postures.is_empty()) {
        notes.push(
            "\"srcPosture\": no gateway of this version reports what it is like, so that rules \
             which ask for a posture permit nothing yet"
                .to_owned(),
        );
    }
    Ok(Translated {
        text: tree.print()?,
        notes,
    })
}

fn leave_out(list: &mut List, keys: &[&str], place: &str, notes: &mut Vec<String>) {
    let mut index = 0;
    while let Some(item) = list.items.get(index) {
        let Some(key) = keys.iter().find(|key| item.is(key)) else {
            index += 1;
            continue;
        };
        let why = "it only means something to Tailscale";
        let remark = Comment::line(&format!("{key:?} was here: {why}."));
        list.remove(index, vec![remark]);
        notes.push(format!("{place}{key:?} is left out: {why}"));
    }
}

/// The section that a file needs which relied on Tailscale's default.
fn nothing_granted() -> Item {
    let grants = List {
        brackets: Brackets::Array,
        items: Vec::new(),
        end: Vec::new(),
    };
    let mut item = Item::new(Some("grants"), Node::List(grants));
    NOTHING_GRANTED.iter().for_each(|line| item.remark(line));
    item.remark(r#"To permit all packets: {"src": ["*"], "dst": ["*"], "ip": ["*"]}"#);
    item
}

const NOTHING_GRANTED: [&str; 2] = [
    "The file had neither \"grants\" nor \"acls\".",
    "Tailscale permits everything then, and crabmesh nothing.",
];
