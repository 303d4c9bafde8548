//! Two versions as they are written: which rules only one of them has, whatever their names and
//! their order.

use std::collections::{BTreeMap, BTreeSet};

use identity::UnixTime;

use super::RuleChange;
use crate::Document;
use crate::crowd::Crowd;
use crate::document::{Block, Guard, NodeSelector, Ports, Rule, Selector, Spanned, rfc3339};
use crate::resolve::End;

/// One thing that is written: how it is called, what it means, and what it says.
struct Item {
    kind: &'static str,
    name: String,
    means: String,
    says: String,
}

/// Guards, blocks, postures, tag owners and approvers that differ.
pub(super) fn changes(documents: [&Document; 2]) -> Vec<RuleChange> {
    let shifted = shifted(documents);
    let [old, new] = [0, 1].map(|version: usize| items(documents[version], &shifted, version));
    let only = |mine: &[Item], theirs: &[Item]| {
        let theirs: BTreeSet<_> = theirs.iter().map(|item| (item.kind, &item.means)).collect();
        let mine = mine
            .iter()
            .filter(|item| !theirs.contains(&(item.kind, &item.means)));
        let entries = mine.map(|item| ((item.kind, item.name.clone()), item.says.clone()));
        entries.collect::<BTreeMap<_, _>>()
    };
    let (mut gone, mut added) = (only(&old, &new), only(&new, &old));
    let keys: BTreeSet<_> = gone.keys().chain(added.keys()).cloned().collect();
    keys.into_iter()
        .map(|key| RuleChange {
            was: gone.remove(&key),
            is: added.remove(&key),
            kind: key.0,
            name: key.1,
        })
        .collect()
}

/// By version, whether each grant is one that the other does not have.
pub(super) fn changed_grants(documents: [&Document; 2]) -> [Vec<bool>; 2] {
    let shifted = shifted(documents);
    let meanings = [0, 1].map(|version: usize| {
        let document = documents[version];
        let rules = document.rules.iter();
        rules
            .map(|rule| grant(document, rule, &shifted, version))
            .collect::<Vec<_>>()
    });
    let sets = [0, 1].map(|version: usize| meanings[version].iter().collect::<BTreeSet<_>>());
    [0, 1].map(|version: usize| {
        let other = &sets[1 - version];
        meanings[version]
            .iter()
            .map(|means| !other.contains(means))
            .collect()
    })
}

/// By version, the numbers of the guards and blocks that only it has and that deny at this moment.
pub(super) fn denying(documents: [&Document; 2], at: UnixTime) -> [Vec<Denying>; 2] {
    let shifted = shifted(documents);
    let meanings = [0, 1].map(|version: usize| {
        let document = documents[version];
        let guards = document.guards.iter().filter(|guard| {
            guard.approve.is_some()
                || guard.spend.is_some()
                || guard.deny.iter().any(|window| window.holds(at))
        });
        let guards = guards.map(|guard| guard_means(guard, &shifted, version));
        let blocks = document.blocks.iter().filter(|block| block.holds(at));
        let blocks = blocks.map(|block| block_means(block, &shifted, version));
        guards.chain(blocks).collect::<BTreeSet<String>>()
    });
    [0, 1].map(|version: usize| {
        let (document, other) = (documents[version], &meanings[1 - version]);
        let is_new = |means: &String| meanings[version].contains(means) && !other.contains(means);
        let guards = document.guards.iter().enumerate();
        let guards = guards.filter(|(_, guard)| is_new(&guard_means(guard, &shifted, version)));
        let blocks = document.blocks.iter().enumerate();
        let blocks = blocks.filter(|(_, block)| is_new(&block_means(block, &shifted, version)));
        let guards = guards.map(|(index, _)| Denying::Guard(index));
        guards
            .chain(blocks.map(|(index, _)| Denying::Block(index)))
            .collect()
    })
}

/// A guard or a block, by its number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Denying {
    Guard(usize),
    Block(usize),
}

/// Marks the grants of both versions that a guard or block of one of them may be about.
pub(super) fn mark_guarded(
    crowd: &Crowd<'_>,
    denying: &[Vec<Denying>; 2],
    marks: &mut [Vec<bool>; 2],
) {
    if denying.iter().all(Vec::is_empty) {
        return;
    }
    let kinds = |version: usize, ends: &[End]| -> BTreeSet<usize> {
        ends.iter()
            .flat_map(|end| crowd.matching(version, end.selector))
            .collect()
    };
    let sides: [Vec<_>; 2] = [0, 1].map(|version: usize| {
        let rules = crowd.resolved[version].rules().all().iter();
        rules
            .map(|rule| (kinds(version, &rule.src), kinds(version, &rule.dst)))
            .collect()
    });
    for (version, all) in denying.iter().enumerate() {
        let rules = crowd.resolved[version].rules();
        for one in all {
            let (src, dst, either) = match one {
                Denying::Guard(index) => {
                    let guard = &rules.all_guards()[*index];
                    (
                        kinds(version, &guard.src),
                        kinds(version, &guard.dst),
                        false,
                    )
                }
                Denying::Block(index) => {
                    let matched = kinds(version, &rules.all_blocks()[*index].matches);
                    (matched.clone(), matched, true)
                }
            };
            for (marks, sides) in marks.iter_mut().zip(&sides) {
                for (mark, (from, onto)) in marks.iter_mut().zip(sides) {
                    let (from_it, onto_it) = (!from.is_disjoint(&src), !onto.is_disjoint(&dst));
                    // Where no node is, the source alone tells.
                    let about = match either {
                        true => from_it || onto_it,
                        false => from_it && (onto_it || onto.is_empty() || dst.is_empty()),
                    };
                    *mark |= about;
                }
            }
        }
    }
}

fn items(document: &Document, shifted: &BTreeSet<NodeSelector>, version: usize) -> Vec<Item> {
    let mut items = Vec::new();
    for guard in &document.guards {
        let msg: Vec<&str> = guard.msg.iter().map(|verb| verb.as_str()).collect();
        let only = if msg.is_empty() {
            String::new()
        } else {
            format!(" {}", msg.join(", "))
        };
        let per = guard.rate.as_ref().map(|rate| rate.key).into_iter();
        let per = per
            .chain(guard.spend.as_ref().map(|spend| spend.key))
            .map(|key| {
                let parts = [(key.src, "src"), (key.dst, "dst"), (key.user, "user")];
                let named: Vec<&str> = parts
                    .iter()
                    .filter(|part| part.0)
                    .map(|part| part.1)
                    .collect();
                format!(" per {}", named.join(","))
            });
        items.push(Item {
            kind: "guard",
            name: guard.name.to_string(),
            means: guard_means(guard, shifted, version),
            says: format!(
                "{} -> {}{only}: {}{}",
                words(&guard.src),
                words(&guard.dst),
                guard.demands().join(", "),
                per.collect::<String>()
            ),
        });
    }
    for block in &document.blocks {
        let until = block
            .until
            .map(|until| format!(" until {}", rfc3339(until)));
        items.push(Item {
            kind: "block",
            name: block.name.to_string(),
            means: block_means(block, shifted, version),
            says: format!("{}{}", words(&block.matches), until.unwrap_or_default()),
        });
    }
    let names = &document.names;
    for (name, assertions) in &names.postures {
        let mut all: Vec<String> = assertions.iter().map(ToString::to_string).collect();
        all.sort();
        items.push(Item {
            kind: "posture",
            name: name.to_string(),
            means: all.join(" and "),
            says: all.join(" and "),
        });
    }
    for (tag, owners) in &names.tags {
        let owners: BTreeSet<&str> = owners.iter().map(String::as_str).collect();
        let owners: Vec<&str> = owners.into_iter().collect();
        items.push(named_item("tag owner", tag.to_string(), &owners.join(", ")));
    }
    let exit = (!names.approvers.exit_node.is_empty())
        .then(|| ("exit node".to_owned(), &names.approvers.exit_node));
    let routes = names.approvers.routes.iter();
    let routes = routes.map(|(block, owners)| (block.to_string(), owners));
    for (route, owners) in routes.chain(exit) {
        let owners: BTreeSet<String> = owners.iter().map(ToString::to_string).collect();
        let owners: Vec<String> = owners.into_iter().collect();
        items.push(named_item("approver", route, &owners.join(", ")));
    }
    items
}

/// What is the same only under the same name.
fn named_item(kind: &'static str, name: String, says: &str) -> Item {
    let says = if says.is_empty() { "nobody" } else { says };
    Item {
        kind,
        means: format!("{name}: {says}"),
        name,
        says: says.to_owned(),
    }
}

/// The groups and sets that do not mean the same in both versions.
fn shifted(documents: [&Document; 2]) -> BTreeSet<NodeSelector> {
    let [old, new] = documents.map(|document| &document.names);
    let groups = old.groups.keys().chain(new.groups.keys());
    let groups = groups.filter(|name| old.groups.get(*name) != new.groups.get(*name));
    let sets = old.ipsets.keys().chain(new.ipsets.keys());
    let sets = sets.filter(|name| old.ipsets.get(*name) != new.ipsets.get(*name));
    let groups = groups.map(|name| NodeSelector::Group(name.clone()));
    groups
        .chain(sets.map(|name| NodeSelector::Set(name.clone())))
        .collect()
}

/// The meaning of a grant as text: equal where two grants are.
fn grant(
    document: &Document,
    rule: &Rule,
    shifted: &BTreeSet<NodeSelector>,
    version: usize,
) -> String {
    let of = |side| side_means(side, shifted, version);
    let ip: BTreeSet<String> = rule.ip.iter().map(Ports::to_string).collect();
    let msg: Vec<&str> = rule.msg.iter().map(|verb| verb.as_str()).collect();
    let skills: BTreeSet<String> = rule.skills.iter().map(ToString::to_string).collect();
    let via: BTreeSet<&str> = rule.via.iter().map(|tag| tag.as_str()).collect();
    let app: BTreeSet<String> = rule
        .app
        .iter()
        .map(|app| format!("{} {}", app.name, app.values))
        .collect();
    let http: BTreeSet<String> = rule.http.iter().map(ToString::to_string).collect();
    let postures: BTreeSet<BTreeSet<String>> = rule
        .postures
        .iter()
        .map(|name| {
            let asserted = document.names.postures.get(name);
            asserted
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect()
        })
        .collect();
    let valid = rule.valid.as_ref().map(ToString::to_string);
    format!(
        "{:?} {:?} {ip:?} {msg:?} {skills:?} {via:?} {app:?} {http:?} {postures:?} {valid:?} {:?}",
        of(&rule.src),
        of(&rule.dst),
        rule.credential
    )
}

fn guard_means(guard: &Guard, shifted: &BTreeSet<NodeSelector>, version: usize) -> String {
    let of = |side| side_means(side, shifted, version);
    let msg: Vec<&str> = guard.msg.iter().map(|verb| verb.as_str()).collect();
    let deny: BTreeSet<String> = guard.deny.iter().map(ToString::to_string).collect();
    format!(
        "{:?} {:?} {msg:?} {:?} {:?} {:?} {:?} {deny:?}",
        of(&guard.src),
        of(&guard.dst),
        guard.rate,
        guard.max_bytes,
        guard.approve,
        guard.spend
    )
}

fn block_means(block: &Block, shifted: &BTreeSet<NodeSelector>, version: usize) -> String {
    format!(
        "{:?} {:?}",
        side_means(&block.matches, shifted, version),
        block.until
    )
}

fn side_means(
    side: &[Spanned<Selector>],
    shifted: &BTreeSet<NodeSelector>,
    version: usize,
) -> BTreeSet<String> {
    let means = |entry: &Spanned<Selector>| match entry.value.node() {
        Some(node) if shifted.contains(node) => format!("{} of version {version}", entry.value),
        _ => entry.value.to_string(),
    };
    side.iter().map(means).collect()
}

fn words(side: &[Spanned<Selector>]) -> String {
    let words: Vec<String> = side.iter().map(|entry| entry.value.to_string()).collect();
    words.join(", ")
}
