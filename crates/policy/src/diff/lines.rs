//! Many cells as few lines: what passes from the same sources to the same destinations is one line.

use std::collections::{BTreeMap, BTreeSet};

use super::{Access, Members, Party};
use crate::GrantRef;
use crate::crowd::{Crowd, Own};
use crate::document::Ports;
use crate::rights::{AgentSet, Onto, Right, Rights, What};

/// What passes between one kind and one destination.
pub(crate) struct Cell {
    pub src: usize,
    pub onto: Onto,
    /// By the agents at both ends; none where it is about gateways.
    pub rights: BTreeMap<(Option<AgentSet>, Option<AgentSet>), Vec<String>>,
}

type Key = (
    BTreeSet<usize>,
    BTreeSet<Onto>,
    Option<AgentSet>,
    Option<AgentSet>,
);

pub(super) fn lines(crowd: &Crowd<'_>, version: usize, rights: &Rights) -> Vec<Access> {
    let mut lines: BTreeMap<Key, (BTreeSet<&Right>, BTreeSet<&GrantRef>)> = BTreeMap::new();
    for (right, rows) in rights {
        let mut equal: BTreeMap<BTreeSet<Onto>, BTreeSet<usize>> = BTreeMap::new();
        for (src, columns) in rows {
            equal
                .entry(simplified(crowd, *src, columns))
                .or_default()
                .insert(*src);
        }
        for (columns, sources) in equal {
            let by: BTreeSet<&GrantRef> = sources
                .iter()
                .filter_map(|src| rows.get(src))
                .flat_map(BTreeMap::values)
                .collect();
            let (from, to) = agents(right, &columns);
            let line = lines.entry((sources, columns, from, to)).or_default();
            line.0.insert(right);
            line.1.extend(by);
        }
    }
    let mut all: Vec<Access> = lines
        .into_iter()
        .map(|((sources, columns, from, to), (rights, by))| Access {
            src: source(crowd, version, sources, from),
            dst: destination(crowd, version, columns, to),
            what: words(&rights),
            by: by
                .iter()
                .map(ToString::to_string)
                .filter(|name| !name.is_empty())
                .collect(),
        })
        .collect();
    all.sort_by_cached_key(|line| (line.src.to_string(), line.dst.to_string()));
    all
}

/// The same, each source and destination by itself.
pub(crate) fn cells(crowd: &Crowd<'_>, rights: &Rights) -> Vec<Cell> {
    let mut cells: BTreeMap<(usize, Onto), BTreeSet<&Right>> = BTreeMap::new();
    for (right, rows) in rights {
        for (src, columns) in rows {
            for onto in simplified(crowd, *src, columns) {
                cells.entry((*src, onto)).or_default().insert(right);
            }
        }
    }
    let grouped = |onto: &Onto, rights: BTreeSet<&Right>| {
        let columns = BTreeSet::from([onto.clone()]);
        let mut groups: BTreeMap<_, BTreeSet<&Right>> = BTreeMap::new();
        for right in rights {
            groups
                .entry(agents(right, &columns))
                .or_default()
                .insert(right);
        }
        groups
            .into_iter()
            .map(|(agents, rights)| (agents, words(&rights)))
            .collect()
    };
    cells
        .into_iter()
        .map(|((src, onto), rights)| Cell {
            src,
            rights: grouped(&onto, rights),
            onto,
        })
        .collect()
}

/// The destinations of one source, without what follows from the rest.
fn simplified(crowd: &Crowd<'_>, src: usize, columns: &BTreeMap<Onto, GrantRef>) -> BTreeSet<Onto> {
    let is_same = |onto: &&Onto| matches!(onto, Onto::Kind(_, Own::Same));
    let to_others = columns
        .keys()
        .any(|onto| matches!(onto, Onto::Kind(_, Own::Other)));
    let own = columns.keys().filter(is_same).count();
    if own > 0 && !to_others && own == crowd.of_same_user(src).len() {
        let rest = columns.keys().filter(|onto| !is_same(onto));
        return rest.cloned().chain([Onto::Own]).collect();
    }
    let mut simple = BTreeSet::new();
    for onto in columns.keys() {
        match onto {
            Onto::Kind(dst, own) => {
                let mut meetings = crowd.meetings(src, *dst);
                let all = meetings.all(|own| columns.contains_key(&Onto::Kind(*dst, own)));
                simple.insert(Onto::Kind(*dst, if all { Own::Any } else { *own }));
            }
            _ => drop(simple.insert(onto.clone())),
        }
    }
    simple
}

fn agents(right: &Right, columns: &BTreeSet<Onto>) -> (Option<AgentSet>, Option<AgentSet>) {
    let shown = |set: &AgentSet| (right.is_of_agents() || !set.is_every()).then(|| set.clone());
    let to_nodes = !columns.iter().any(|onto| matches!(onto, Onto::Spot(_)));
    (shown(&right.from), shown(&right.to).filter(|_| to_nodes))
}

/// Rights in words, without those that others say too.
fn words(rights: &BTreeSet<&Right>) -> Vec<String> {
    let opened: Vec<(&Ports, &[String])> = rights
        .iter()
        .filter(|right| right.ends == (None, None))
        .filter_map(|right| match &right.what {
            What::Ports(ports) | What::Connect(ports) => Some((ports, &right.but[..])),
            _ => None,
        })
        .collect();
    let follows = |right: &Right| match &right.what {
        What::Http(ports, None, None) => {
            let mut all = opened.iter();
            all.any(|(open, but)| open.covers(ports) && *but == &right.but[..])
        }
        _ => false,
    };
    let kept = rights.iter().filter(|right| !follows(right));
    kept.map(ToString::to_string).collect()
}

/// As many names as somebody reads, and how many more there are.
fn few(mut names: Vec<String>) -> Vec<String> {
    let more = names.len().saturating_sub(MAX_NAMES);
    if more > 1 {
        names.truncate(MAX_NAMES);
        names.push(format!("{more} more"));
    }
    names
}

fn source(
    crowd: &Crowd<'_>,
    version: usize,
    kinds: BTreeSet<usize>,
    agents: Option<AgentSet>,
) -> Party {
    Party {
        names: few(crowd.names(version, &kinds)),
        agents: agents.as_ref().map(ToString::to_string),
        gateways: kinds.iter().map(|kind| crowd.kinds[*kind].count).sum(),
        members: Members {
            agents,
            onto: kinds
                .into_iter()
                .map(|kind| Onto::Kind(kind, Own::Any))
                .collect(),
            roster: crowd.roster.clone(),
        },
    }
}

fn destination(
    crowd: &Crowd<'_>,
    version: usize,
    columns: BTreeSet<Onto>,
    agents: Option<AgentSet>,
) -> Party {
    let mut names = Vec::new();
    for (own, suffix) in [
        (Own::Any, ""),
        (Own::Same, " of the same user"),
        (Own::Other, " of other users"),
    ] {
        let kinds = columns.iter().filter_map(|onto| match onto {
            Onto::Kind(kind, of) if *of == own => Some(*kind),
            _ => None,
        });
        let named = crowd.names(version, &kinds.collect());
        names.extend(named.into_iter().map(|name| format!("{name}{suffix}")));
    }
    let mut gateways = 0;
    for onto in &columns {
        match onto {
            Onto::Kind(kind, _) => gateways += crowd.kinds[*kind].count,
            Onto::Own => names.push("autogroup:self".into()),
            Onto::Spot(spot) => names.push(spot.to_string()),
        }
    }
    Party {
        names: few(names),
        agents: agents.as_ref().map(ToString::to_string),
        gateways,
        members: Members {
            agents,
            onto: columns,
            roster: crowd.roster.clone(),
        },
    }
}

/// Of one side of a line.
const MAX_NAMES: usize = 20;
