//! What a new version of a policy changes: who gains what, who loses what, and what passes as before
//! but under other conditions. Order, names of rules, and how rules are divided change nothing.
//!
//! Rules that both versions have are passed over; of the others every case that they are about is
//! held against both versions ([`crate::rights`]). Guards that count (rates, sizes) and blocks are
//! compared as they are written: what they do shows only in time.

mod lines;
mod written;

use std::collections::BTreeSet;
use std::sync::Arc;

use identity::{AgentName, NodeId, UnixTime};
use serde::{Serialize, Serializer};

use crate::crowd::{Crowd, Own, Roster};
use crate::rights::{AgentSet, Comparison, Onto};
use crate::{Document, Node};

pub(crate) use self::lines::cells;

/// What differs between two versions of a policy, at one moment, for these gateways and for those
/// that may join.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PolicyDiff {
    /// What was not allowed, and is.
    pub gains: Vec<Access>,
    /// What was allowed, and is not.
    pub losses: Vec<Access>,
    /// What passes or not as before at this moment, but under other conditions.
    pub conditions: Vec<ConditionChange>,
    /// What changed beside the grants: guards, blocks, postures, tag owners, approvers.
    pub rules: Vec<RuleChange>,
    /// Whether all was compared: what is too much to compare is not all here.
    pub complete: bool,
}

/// Some sources may do the same things to some destinations.
#[derive(Clone, Debug, Serialize)]
pub struct Access {
    /// From whom.
    pub src: Party,
    /// To whom or what.
    pub dst: Party,
    /// Verbs, skills, ports, requests and capabilities, in the words of the file.
    pub what: Vec<String>,
    /// The grants that allow it, in the version that does.
    pub by: Vec<String>,
}

/// One side of an [`Access`].
#[derive(Clone, Debug)]
pub struct Party {
    /// Selectors of the file, or names of gateways.
    pub names: Vec<String>,
    /// Which agents there; none where it is about gateways or what has no agents.
    pub agents: Option<String>,
    /// How many gateways of the mesh these are now.
    pub gateways: usize,
    members: Members,
}

/// Who is meant, for questions about single nodes.
#[derive(Clone, Debug)]
struct Members {
    agents: Option<AgentSet>,
    onto: BTreeSet<Onto>,
    roster: Arc<Roster>,
}

/// Something passes under other conditions than before.
#[derive(Clone, Debug, Serialize)]
pub struct ConditionChange {
    /// What.
    #[serde(flatten)]
    pub access: Access,
    /// Before: `always`, `never`, or when.
    pub was: String,
    /// Now.
    pub is: String,
}

/// Something other than a grant changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleChange {
    /// `guard`, `block`, `posture`, `tag owner` or `approver`.
    pub kind: &'static str,
    /// Its name or place.
    pub name: String,
    /// What it said; none where it is new.
    pub was: Option<String>,
    /// What it says; none where it is gone.
    pub is: Option<String>,
}

impl PolicyDiff {
    /// Compares two versions.
    pub fn between(old: &Document, new: &Document, nodes: &[Node], at: UnixTime) -> Self {
        Self::bounded(old, new, nodes, at, MAX_CASES)
    }

    /// The same, with at most so many cases.
    pub(crate) fn bounded(
        old: &Document,
        new: &Document,
        nodes: &[Node],
        at: UnixTime,
        most: usize,
    ) -> Self {
        let rules = written::changes([old, new]);
        let marks = written::changed_grants([old, new]);
        let guards = written::denying([old, new], at);
        let unchanged = marks.iter().flatten().all(|changed| !changed);
        if unchanged && guards.iter().all(Vec::is_empty) {
            return Self {
                rules,
                complete: true,
                ..Self::default()
            };
        }
        let crowd = Crowd::new([old, new], nodes);
        let mut marks = marks;
        written::mark_guarded(&crowd, &guards, &mut marks);
        let found = Comparison::run(&crowd, [&marks[0], &marks[1]], at, most);
        // Selectors are fewer than ways to combine them: what is granted to gateways is granted by
        // those, so nothing that only adds is missed.
        if found.cut_short && !nodes.is_empty() {
            return Self {
                complete: false,
                ..Self::bounded(old, new, &[], at, most)
            };
        }
        let mut conditions = Vec::new();
        for ((was, is), rights) in &found.conditions {
            conditions.extend(lines::lines(&crowd, 1, rights).into_iter().map(|access| {
                ConditionChange {
                    access,
                    was: was.clone(),
                    is: is.clone(),
                }
            }));
        }
        Self {
            gains: lines::lines(&crowd, 1, &found.gains),
            losses: lines::lines(&crowd, 0, &found.losses),
            conditions,
            rules,
            complete: !found.cut_short,
        }
    }

    /// Whether both versions mean the same.
    pub fn is_empty(&self) -> bool {
        self.complete
            && self.gains.is_empty()
            && self.losses.is_empty()
            && self.conditions.is_empty()
            && self.rules.is_empty()
    }
}

impl Access {
    /// Whether it is about what goes from one node to another, and these agents there; without
    /// agents: of the gateways themselves.
    pub fn is_about(
        &self,
        src: (&NodeId, Option<&AgentName>),
        dst: (&NodeId, Option<&AgentName>),
    ) -> bool {
        let roster = &self.src.members.roster;
        let (Some((_, from)), Some((kind, onto))) = (roster.get(src.0), roster.get(dst.0)) else {
            return false;
        };
        let same = from.is_some() && from == onto;
        let meets = |own: Own| match own {
            Own::Any => true,
            Own::Same => same,
            Own::Other => !same,
        };
        let columns = &self.dst.members.onto;
        let goes = columns.iter().any(|column| match column {
            Onto::Kind(other, own) => other == kind && meets(*own),
            Onto::Own => same,
            Onto::Spot(_) => false,
        });
        goes && self.src.is(src) && self.dst.is_of(dst.1)
    }

    /// Whether it is about what comes from a node, and this agent there.
    pub fn is_from(&self, src: (&NodeId, Option<&AgentName>)) -> bool {
        self.src.is(src)
    }
}

impl Party {
    fn is(&self, (node, agent): (&NodeId, Option<&AgentName>)) -> bool {
        let kind = self.members.roster.get(node).map(|(kind, _)| *kind);
        let is_here =
            kind.is_some_and(|kind| self.members.onto.contains(&Onto::Kind(kind, Own::Any)));
        is_here && self.is_of(agent)
    }

    fn is_of(&self, agent: Option<&AgentName>) -> bool {
        match (&self.members.agents, agent) {
            (None, _) => true,
            (Some(set), Some(agent)) => set.contains(agent),
            (Some(set), None) => set.is_every(),
        }
    }
}

impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.agents {
            None => f.write_str(&self.names.join(", ")),
            Some(agents) if agents.contains([',', ' ']) => {
                write!(f, "agents {agents} on {}", self.names.join(", "))
            }
            Some(agent) => {
                let each = self
                    .names
                    .iter()
                    .map(|name| format!("agent:{agent}@{name}"));
                f.write_str(&each.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Serialize for Party {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let mut fields = serializer.serialize_struct("Party", 3)?;
        fields.serialize_field("names", &self.names)?;
        fields.serialize_field("agents", &self.agents)?;
        fields.serialize_field("gateways", &self.gateways)?;
        fields.end()
    }
}

/// A few seconds' worth.
const MAX_CASES: usize = 2_000_000;
