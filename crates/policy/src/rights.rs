//! What may pass between two kinds of gateways, in parts that two versions of a policy can be
//! compared by: every part is held by all of one end towards all of the other, or by none.
//!
//! Messages and packets are asked of [`crate::decide`], case by case. What has no nodes at its other
//! end (topics, the internet, services, requests) has too many cases: those patterns are compared
//! as such, in [`elements`].

mod elements;
mod nodes;
mod patterns;
mod ranges;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use identity::{AgentName, Tag, UnixTime};

use crate::crowd::{Crowd, Own};
use crate::document::{HttpRule, Ports};
use crate::resolve::ResolvedRule;
use crate::{Document, GrantRef, Skill, Verb};

pub(crate) use self::patterns::Spot;

/// One thing that may pass.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    pub from: AgentSet,
    pub to: AgentSet,
    pub what: What,
    /// All of it but these, in words.
    pub but: Vec<String>,
    /// Only from this address of the source and to that one of the destination, where they have
    /// several.
    pub ends: (Option<IpAddr>, Option<IpAddr>),
}

/// As what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Verb(Verb),
    Skill(Skill),
    Ports(Ports),
    /// Only over gateways with one of these tags.
    Via(Vec<Tag>, Ports),
    /// A connection to a port.
    Connect(Ports),
    /// A request on a port; without method or path: any.
    Http(Ports, Option<Box<str>>, Option<HttpPath>),
    /// A capability and its values.
    App(Box<str>, String),
    Credential(Box<str>),
}

/// The pattern of a request's path.
pub(crate) type HttpPath = crate::document::Levels;

/// Agents: these, or all but these.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AgentSet {
    all: bool,
    names: BTreeSet<AgentName>,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Onto {
    Kind(usize, Own),
    /// Every node of the source's own user.
    Own,
    Spot(Spot),
}

/// What differs between two versions, or what is in one: by right and source, where it goes and by
/// which grant.
pub(crate) type Rights = BTreeMap<Right, BTreeMap<usize, BTreeMap<Onto, GrantRef>>>;

/// The difference of two versions.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub gains: Rights,
    pub losses: Rights,
    /// What passes as before at this moment, but under other conditions: those before and after.
    pub conditions: BTreeMap<(String, String), Rights>,
    /// Whether there was more than could be compared.
    pub cut_short: bool,
}

/// Compares versions, up to so many cases.
pub(crate) struct Comparison<'a> {
    crowd: &'a Crowd<'a>,
    at: UnixTime,
    left: usize,
    found: Difference,
}

impl<'a> Comparison<'a> {
    /// What differs at a moment, for the nodes that the rules of either version are about which the
    /// other does not have.
    /// Where that is too much, as much as possible of it.
    pub fn run(
        crowd: &'a Crowd<'a>,
        changed: [&[bool]; 2],
        at: UnixTime,
        most: usize,
    ) -> Difference {
        let mut comparison = Self {
            crowd,
            at,
            left: most,
            found: Difference::default(),
        };
        comparison.compare(changed);
        comparison.found
    }

    fn compare(&mut self, changed: [&[bool]; 2]) {
        let crowd = self.crowd;
        let (mut pairs, mut rows) = (BTreeSet::new(), BTreeSet::new());
        for (version, changed) in changed.into_iter().enumerate() {
            let rules = crowd.resolved[version].rules().all();
            for rule in rules.iter().zip(changed).filter(|it| *it.1).map(|it| it.0) {
                if !rule.resources.is_empty() || rule.to_internet {
                    rows.extend(crowd.sources(version, rule));
                }
                self.found.cut_short |= !self.add_pairs(version, rule, &mut pairs);
            }
        }
        // Then the caller asks about selectors alone.
        if self.found.cut_short && crowd.kinds.iter().any(|kind| kind.count > 0) {
            return;
        }
        for (src, dst, own) in pairs {
            if self.left == 0 {
                self.found.cut_short = true;
                return;
            }
            self.compare_pair(src, dst, own);
        }
        for src in rows {
            self.compare_row(src);
        }
    }

    /// Whether there is still room.
    fn add_pairs(
        &mut self,
        version: usize,
        rule: &ResolvedRule,
        pairs: &mut BTreeSet<(usize, usize, Own)>,
    ) -> bool {
        let mut steps = 0;
        for end in &rule.dst {
            for dst in self.crowd.matching(version, end.selector) {
                for src in self.crowd.sources(version, rule) {
                    steps += 1;
                    let meetings = self.crowd.meetings(src, dst);
                    let met = |own: &Own| !end.of_source_user || *own == Own::Same;
                    pairs.extend(meetings.filter(met).map(|own| (src, dst, own)));
                    if pairs.len() + steps > self.left {
                        return false;
                    }
                }
            }
        }
        // Rules that are about the same pairs cost their time too.
        self.left -= steps / 16;
        true
    }
}

/// Under which conditions something is granted; empty: it is not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    conditions: BTreeSet<String>,
    by: Option<GrantRef>,
}

impl Held {
    fn add(&mut self, document: &Document, rule: &ResolvedRule) {
        if self.conditions.contains("") {
            return;
        }
        let condition = condition(document, rule);
        if condition.is_empty() {
            self.conditions.clear();
        }
        self.conditions.insert(condition);
        self.by.get_or_insert_with(|| rule.name.clone());
    }

    fn is_same(&self, other: &Self) -> bool {
        self.conditions == other.conditions
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.conditions.iter().map(String::as_str).collect();
        match all[..] {
            [] => f.write_str("never"),
            [""] => f.write_str("always"),
            _ => f.write_str(&all.join(", or ")),
        }
    }
}

/// When a rule holds, in words; empty where always.
fn condition(document: &Document, rule: &ResolvedRule) -> String {
    let mut parts: Vec<String> = rule.valid.iter().map(ToString::to_string).collect();
    if !rule.postures.is_empty() {
        let mut asked: Vec<String> = Vec::new();
        for posture in &rule.postures {
            let asserted = document.names.postures.get(&posture.name);
            let mut all: Vec<String> = asserted
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect();
            all.sort();
            asked.push(all.join(" and "));
        }
        asked.sort();
        asked.dedup();
        parts.push(format!("where {}", asked.join(" or ")));
    }
    parts.join(", ")
}

impl AgentSet {
    /// Those of `some`, out of all that can be told apart; none stands for any other.
    fn of(some: &BTreeSet<Option<&AgentName>>, known: &BTreeSet<&AgentName>) -> Self {
        let all = some.contains(&None);
        let listed = known
            .iter()
            .filter(|name| some.contains(&Some(name)) != all);
        Self {
            all,
            names: listed.map(|name| (*name).clone()).collect(),
        }
    }

    fn every() -> Self {
        Self {
            all: true,
            names: BTreeSet::new(),
        }
    }

    /// Whether it stands for all.
    pub fn is_every(&self) -> bool {
        self.all && self.names.is_empty()
    }

    pub fn contains(&self, agent: &AgentName) -> bool {
        self.names.contains(agent) != self.all
    }
}

impl Right {
    fn new(what: What) -> Self {
        Self {
            from: AgentSet::every(),
            to: AgentSet::every(),
            what,
            but: Vec::new(),
            ends: (None, None),
        }
    }

    /// Whether agents have a part in it: packets and capabilities are of their gateways.
    pub fn is_of_agents(&self) -> bool {
        matches!(self.what, What::Verb(_) | What::Skill(_))
    }
}

impl fmt::Display for AgentSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names.iter().map(AgentName::as_str).collect();
        match (self.all, names.is_empty()) {
            (true, true) => f.write_str("*"),
            (true, false) => write!(f, "* but {}", names.join(", ")),
            (false, _) => f.write_str(&names.join(", ")),
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)?;
        match self.ends {
            (None, None) => {}
            (Some(from), None) => write!(f, " (from {from})")?,
            (None, Some(onto)) => write!(f, " (to {onto})")?,
            (Some(from), Some(onto)) => write!(f, " (from {from} to {onto})")?,
        }
        match self.but.is_empty() {
            true => Ok(()),
            false => write!(f, " but not {}", self.but.join(", ")),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verb(verb) => verb.fmt(f),
            Self::Skill(skill) => skill.fmt(f),
            Self::Ports(ports) => match ports.to_string().as_str() {
                "*" => f.write_str("every port"),
                text => f.write_str(text),
            },
            Self::Via(tags, ports) => {
                let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
                write!(f, "{ports} via {}", tags.join(", "))
            }
            Self::Connect(ports) => match ports.range() {
                (0, u16::MAX) => f.write_str("connect"),
                _ => write!(f, "connect to {ports}"),
            },
            Self::Http(ports, method, path) => {
                let http = HttpRule {
                    methods: method.iter().cloned().collect(),
                    paths: path.iter().cloned().collect(),
                };
                write!(f, "{http}")?;
                match ports.range() {
                    (0, u16::MAX) => Ok(()),
                    _ => write!(f, " on {ports}"),
                }
            }
            Self::App(name, values) => match values.as_str() {
                "[]" => f.write_str(name),
                _ => write!(f, "{name} {values}"),
            },
            Self::Credential(name) => write!(f, "with secret:{name}"),
        }
    }
}
