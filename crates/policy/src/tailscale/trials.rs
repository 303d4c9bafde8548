//! The `tests` of a file, as far as Tailscale can run them and they hold.

use std::collections::BTreeSet;

use crate::document::{Document, Expectation, NodeSelector, Selector, Target};
use crate::text::{Item, List};

/// The lines that Tailscale understands, by their place among all lines of all tests.
pub(super) fn understood(document: &Document) -> BTreeSet<usize> {
    let lines = document.expectations.iter().enumerate();
    lines
        .filter(|(_, line)| is_understood(line))
        .map(|(index, _)| index)
        .collect()
}

/// Leaves only these lines in the section.
pub(super) fn keep(section: &mut List, lines: &BTreeSet<usize>) {
    let mut next = 0;
    for test in &mut section.items {
        let Some(test) = test.value.list() else {
            continue;
        };
        // In this order they are read, whatever the order in the file.
        for key in ["accept", "deny"] {
            let Some(list) = test.member(key).and_then(|item| item.value.list()) else {
                continue;
            };
            list.items.retain(|_| {
                next += 1;
                lines.contains(&(next - 1))
            });
        }
        test.items.retain(|item| {
            let ours = ["at", "why", "strict"].iter().any(|key| item.is(key));
            !ours && !is_empty(item)
        });
    }
    section.items.retain_mut(|test| {
        let test = test.value.list();
        test.is_some_and(|test| test.member("accept").is_some() || test.member("deny").is_some())
    });
}

fn is_empty(item: &Item) -> bool {
    let lines = item.is("accept") || item.is("deny");
    lines
        && item
            .value
            .clone()
            .list()
            .is_some_and(|list| list.items.is_empty())
}

/// Its tests are about users, groups, tags and hosts, and about packets.
fn is_understood(line: &Expectation) -> bool {
    let plain = |node: &NodeSelector| {
        matches!(
            node,
            NodeSelector::User(_)
                | NodeSelector::Group(_)
                | NodeSelector::Tag(_)
                | NodeSelector::Within(_)
        )
    };
    let src = matches!(&line.src, Selector::Node(node) if plain(node));
    let dst = matches!(&line.target, Target::Packet { node, .. } if plain(node));
    src && dst && line.at.is_none() && line.why.is_none()
}
