//! Who may reach whom, at a glance: a row for each kind of source, a column for each kind of
//! destination. Kinds that may do the same and may be reached in the same way are one.

mod svg;

use std::collections::{BTreeMap, BTreeSet};

use identity::UnixTime;
use serde::Serialize;

use crate::crowd::{Crowd, Own};
use crate::diff::cells;
use crate::rights::{AgentSet, Comparison, Difference, Onto, Rights};
use crate::{Document, Node};

/// The table of a policy.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Matrix {
    /// The sources.
    pub rows: Vec<MatrixKind>,
    /// The destinations: gateways, and then what is none.
    pub columns: Vec<MatrixKind>,
    /// What passes; where there is no cell, nothing does.
    pub cells: Vec<MatrixCell>,
    /// Whether all of the policy is in it.
    pub complete: bool,
}

/// One row or column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct MatrixKind {
    /// Selectors of the file, or names of gateways.
    pub name: String,
    /// How many gateways of the mesh it is now; none where no gateway is meant.
    pub gateways: Option<usize>,
}

/// What may pass from one row to one column.
#[derive(Clone, Debug, Serialize)]
pub struct MatrixCell {
    /// The number of the row, from 0.
    pub row: usize,
    /// The number of the column, from 0.
    pub column: usize,
    /// Verbs and skills, with the agents that are named: `planner → coder: request`.
    pub messages: Vec<String>,
    /// Ports, requests, capabilities and whatever else is no message.
    pub others: Vec<String>,
}

/// What passes between two kinds, as a cell says it.
type Says = BTreeSet<(bool, String)>;

impl Matrix {
    /// The table of a policy at one moment, for these gateways and for those that may join.
    pub fn new(document: &Document, nodes: &[Node], at: UnixTime) -> Self {
        let nothing = document.without_rules();
        let crowd = Crowd::new([&nothing, document], nodes);
        let all = vec![true; document.rules.len()];
        let found = Comparison::run(&crowd, [&[], &all], at, MAX_CASES);
        // Too many ways to combine selectors: then the selectors alone.
        if found.cut_short && !nodes.is_empty() {
            return Self {
                complete: false,
                ..Self::new(document, &[], at)
            };
        }
        let cells = said(&crowd, &found);
        let mut matrix = Self::merged(&crowd, &cells);
        matrix.complete &= !found.cut_short;
        matrix
    }

    /// As a picture that needs nothing else: no script, no font, in light and in dark.
    pub fn to_svg(&self, title: &str) -> String {
        svg::draw(self, title)
    }

    /// What is in a cell.
    pub fn cell(&self, row: usize, column: usize) -> Option<&MatrixCell> {
        let mut cells = self.cells.iter();
        cells.find(|cell| (cell.row, cell.column) == (row, column))
    }

    fn merged(crowd: &Crowd<'_>, cells: &BTreeMap<(usize, Onto), Says>) -> Self {
        let alike = alike(crowd, cells);
        let one_of = |kind: usize| alike[kind];
        let mut members: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for kind in 0..crowd.kinds.len() {
            members.entry(one_of(kind)).or_default().insert(kind);
        }
        let named = |one: usize| {
            let kinds = &members[&one];
            let count = kinds.iter().map(|kind| crowd.kinds[*kind].count).sum();
            let name = crowd.names(1, kinds).join(", ");
            (count, name)
        };
        let (mut sources, mut targets) = (BTreeSet::new(), BTreeSet::new());
        for (src, onto) in cells.keys() {
            sources.insert(one_of(*src));
            targets.insert(match onto {
                Onto::Kind(kind, _) => Onto::Kind(one_of(*kind), Own::Any),
                other => other.clone(),
            });
        }
        // Gateways of the mesh are there although nothing is granted them.
        for (one, kinds) in &members {
            if kinds.iter().any(|kind| crowd.kinds[*kind].count > 0) {
                sources.insert(*one);
                targets.insert(Onto::Kind(*one, Own::Any));
            }
        }
        let order = |one: &usize| {
            let (count, name) = named(*one);
            (count == 0, name)
        };
        let mut sources: Vec<usize> = sources.into_iter().collect();
        sources.sort_by_cached_key(order);
        let mut targets: Vec<Onto> = targets.into_iter().collect();
        targets.sort_by_cached_key(|onto| match onto {
            Onto::Kind(one, _) => (0, order(one), None),
            Onto::Own => (1, (false, String::new()), None),
            Onto::Spot(spot) => (2, (false, String::new()), Some(spot.clone())),
        });
        let whole = sources.len() <= MAX_SIDE && targets.len() <= MAX_SIDE;
        sources.truncate(MAX_SIDE);
        targets.truncate(MAX_SIDE);
        let row_of: BTreeMap<usize, usize> = sources
            .iter()
            .enumerate()
            .map(|(row, one)| (*one, row))
            .collect();
        let column_of: BTreeMap<&Onto, usize> = targets
            .iter()
            .enumerate()
            .map(|(column, onto)| (onto, column))
            .collect();
        let mut said: BTreeMap<(usize, usize), Says> = BTreeMap::new();
        for ((src, onto), says) in cells {
            let (target, suffix) = match onto {
                Onto::Kind(kind, own) => {
                    let suffix = match own {
                        Own::Any => "",
                        Own::Same => " (of the same user)",
                        Own::Other => " (of other users)",
                    };
                    (Onto::Kind(one_of(*kind), Own::Any), suffix)
                }
                other => (other.clone(), ""),
            };
            let place = (row_of.get(&one_of(*src)), column_of.get(&target));
            if let (Some(row), Some(column)) = place {
                let words = says
                    .iter()
                    .map(|(message, text)| (*message, format!("{text}{suffix}")));
                said.entry((*row, *column)).or_default().extend(words);
            }
        }
        let row = |one: &usize| {
            let (count, name) = named(*one);
            MatrixKind {
                name,
                gateways: Some(count),
            }
        };
        Self {
            rows: sources.iter().map(row).collect(),
            columns: targets
                .iter()
                .map(|onto| match onto {
                    Onto::Kind(one, _) => row(one),
                    Onto::Own => resource("autogroup:self".into()),
                    Onto::Spot(spot) => resource(spot.to_string()),
                })
                .collect(),
            cells: said.into_iter().map(MatrixCell::new).collect(),
            complete: whole,
        }
    }
}

impl MatrixCell {
    fn new(((row, column), says): ((usize, usize), Says)) -> Self {
        let of = |message: bool| {
            let some = says.iter().filter(|(is_message, _)| *is_message == message);
            some.map(|(_, text)| text.clone()).collect()
        };
        Self {
            row,
            column,
            messages: of(true),
            others: of(false),
        }
    }
}

fn resource(name: String) -> MatrixKind {
    MatrixKind {
        name,
        gateways: None,
    }
}

/// What passes by source and destination: what does now, and what does under conditions.
fn said(crowd: &Crowd<'_>, found: &Difference) -> BTreeMap<(usize, Onto), Says> {
    let mut said: BTreeMap<(usize, Onto), Says> = BTreeMap::new();
    let mut add = |rights: &Rights, suffix: &str| {
        for cell in cells(crowd, rights) {
            let to_nodes = !matches!(cell.onto, Onto::Spot(_));
            let says = said.entry((cell.src, cell.onto)).or_default();
            for ((from, to), what) in &cell.rights {
                let text = format!(
                    "{}{}{suffix}",
                    agents(from.as_ref(), to.as_ref()),
                    what.join(", ")
                );
                says.insert((from.is_some() && to.is_some() && to_nodes, text));
            }
        }
    };
    add(&found.gains, "");
    for ((_, is), rights) in &found.conditions {
        match is.as_str() {
            "always" => add(rights, " (held back by a guard or block)"),
            when => add(rights, &format!(" ({when})")),
        }
    }
    said
}

/// `planner → coder: `, where not every agent is meant.
fn agents(from: Option<&AgentSet>, to: Option<&AgentSet>) -> String {
    let is_every = |set: Option<&AgentSet>| set.is_none_or(AgentSet::is_every);
    match (from, to) {
        _ if is_every(from) && is_every(to) => String::new(),
        (Some(from), Some(to)) => format!("{from} → {to}: "),
        (Some(from), None) => format!("{from}: "),
        (None, to) => format!("→ {}: ", to.map(ToString::to_string).unwrap_or_default()),
    }
}

/// By kind, the first kind that may do the same and may be reached in the same way.
fn alike(crowd: &Crowd<'_>, cells: &BTreeMap<(usize, Onto), Says>) -> Vec<usize> {
    let mut shapes: Vec<BTreeMap<(bool, Onto), &Says>> = vec![BTreeMap::new(); crowd.kinds.len()];
    for ((src, onto), says) in cells {
        shapes[*src].insert((true, onto.clone()), says);
        if let Onto::Kind(dst, own) = onto {
            shapes[*dst].insert((false, Onto::Kind(*src, *own)), says);
        }
    }
    let mut known: BTreeMap<_, usize> = BTreeMap::new();
    let mut alike = Vec::new();
    for (kind, shape) in shapes.into_iter().enumerate() {
        let is_real = crowd.kinds[kind].count > 0;
        alike.push(*known.entry((is_real, shape)).or_insert(kind));
    }
    alike
}

/// As many rows or columns as somebody looks at.
const MAX_SIDE: usize = 60;

/// A few seconds' worth.
const MAX_CASES: usize = 1_000_000;
