//! What goes where no node is, and requests: by the patterns of the rules.
//!
//! The alphabets of names are endless, so a pattern lies within a union of patterns exactly where it
//! lies within one of them: what is left of one after another is written "A but not B".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use identity::AgentName;

use super::nodes::{Between, Change, Ranges, named};
use super::{AgentSet, Comparison, Held, HttpPath, Onto, Right, What};
use crate::decide::When;
use crate::document::{Domain, Levels, Ports, Selector, TCP};
use crate::resolve::{End, Place, Resolved, ResolvedGuard, ResolvedRule, ends_in};
use crate::{GrantRef, Verb};

/// Where a right goes that goes to no node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot {
    Topic(Levels),
    /// Its port is part of the right.
    Internet(Domain),
    Service(Box<str>),
    /// Out over a gateway that is a way to the internet.
    Exit,
    /// A node that is named apart: a request to one of its ports.
    Node,
}

/// One right at one spot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Element {
    spot: Spot,
    what: What,
}

/// The elements of one version, for one agent of one node.
#[derive(Default)]
struct Side {
    granted: BTreeMap<Element, Held>,
    /// Those that some grant allows at this moment, with its name.
    open: BTreeMap<Element, GrantRef>,
    /// What guards take away at this moment.
    denied: BTreeSet<Element>,
}

type Found =
    BTreeMap<(Change, Element, Vec<String>), (BTreeSet<Option<AgentName>>, Option<GrantRef>)>;

impl<'a> Comparison<'a> {
    /// Topics, services and the internet.
    pub(super) fn compare_row(&mut self, src: usize) {
        let crowd = self.crowd;
        let Some(places) = crowd.source(src) else {
            return;
        };
        let is_onward = |rule: &&ResolvedRule| !rule.resources.is_empty() || rule.to_internet;
        let rules = [0, 1].map(|version: usize| {
            let all = crowd.resolved[version].rules_from(places[version]);
            all.filter(is_onward).collect::<Vec<_>>()
        });
        let guards = [0, 1].map(|version: usize| {
            let all = crowd.resolved[version].guards_from(places[version]);
            all.filter(|guard| !guard.resources.is_empty())
                .collect::<Vec<_>>()
        });
        let ends = |version: usize| {
            let rules = rules[version].iter().map(|rule| &rule.src);
            rules.chain(guards[version].iter().map(|guard| &guard.src))
        };
        let known = self.known_agents([0, 1].map(|version| (places[version], ends(version))));
        let mut found = Found::new();
        for agent in known.iter().copied().map(Some).chain([None]) {
            let sides = [0, 1].map(|version: usize| {
                let place = places[version];
                let mut side = Side::default();
                for rule in rules[version]
                    .iter()
                    .filter(|rule| means(&rule.src, place, agent))
                {
                    let open = self.is_open(rule, place) && !self.is_blocked(version, place, agent);
                    for element in onward(rule) {
                        side.add(element, rule, open, crowd.documents[version]);
                    }
                }
                for guard in &guards[version] {
                    if means(&guard.src, place, agent) && self.denies(guard) {
                        side.denied.extend(guarded(guard));
                    }
                }
                side
            });
            self.compare_sides(sides, agent, &mut found);
        }
        self.record_elements(found, &known, src, None);
    }

    /// Requests on the ports of a node.
    pub(super) fn compare_requests(&mut self, sides: &[Between<'a>; 2], src: usize, column: &Onto) {
        let crowd = self.crowd;
        let ends = |version: usize| {
            let side: &Between<'_> = &sides[version];
            let rules = side.rules.iter().filter(|rule| !rule.ip.is_empty());
            let guards = crowd.resolved[version].guards_between(side.src, side.dst);
            rules
                .map(|rule| &rule.src)
                .chain(guards.map(|guard| &guard.src))
        };
        let known = self.known_agents([0, 1].map(|version| (sides[version].src, ends(version))));
        let mut found = Found::new();
        for agent in known.iter().copied().map(Some).chain([None]) {
            let both = [0, 1].map(|version: usize| {
                let (resolved, between) = (&crowd.resolved[version], &sides[version]);
                let mut side = Side::default();
                let closed = self.is_blocked(version, between.src, agent)
                    || resolved
                        .blocks_of(between.dst)
                        .any(|it| it.block.holds(self.at) && means_node(&it.matches, between.dst))
                    || self.is_guarded(resolved, between, agent);
                let rules = between.rules.iter().filter(|rule| {
                    let to_node = |end: &End| end.agent.is_none();
                    rule.via.is_empty()
                        && means(&rule.src, between.src, agent)
                        && rule.destinations(between.src, between.dst).any(to_node)
                });
                for rule in rules {
                    let open = !closed && self.is_open(rule, between.src);
                    for what in rule
                        .ip
                        .iter()
                        .filter_map(tcp)
                        .flat_map(|it| requests(rule, &it))
                    {
                        let element = Element {
                            spot: Spot::Node,
                            what,
                        };
                        side.add(element, rule, open, crowd.documents[version]);
                    }
                }
                side
            });
            self.compare_sides(both, agent, &mut found);
        }
        self.record_elements(found, &known, src, Some(column));
    }

    fn compare_sides(&mut self, sides: [Side; 2], agent: Option<&AgentName>, found: &mut Found) {
        let cuts: BTreeSet<Ports> = sides.iter().flat_map(Side::ports).collect();
        let [before, after] = sides.map(|side| side.divided(&cuts));
        self.left = self
            .left
            .saturating_sub(before.granted.len() + after.granted.len());
        let mut changed = BTreeSet::new();
        for (change, new, old) in [
            (Change::Gain, &after, &before),
            (Change::Loss, &before, &after),
        ] {
            for (element, by) in &new.open {
                for (region, but) in new.beyond(element, old) {
                    changed.insert(element.clone());
                    let but = but.iter().map(Element::beside).collect();
                    let entry = found.entry((change.clone(), region, but)).or_default();
                    entry.0.insert(agent.cloned());
                    entry.1.get_or_insert_with(|| by.clone());
                }
            }
        }
        let all: BTreeSet<&Element> = before.granted.keys().chain(after.granted.keys()).collect();
        for element in all.into_iter().filter(|it| !changed.contains(it)) {
            let (was, is) = (before.held(element), after.held(element));
            if was.is_same(&is) {
                continue;
            }
            let by = is.by.clone().or(was.by.clone());
            let change = Change::condition(&was, &is);
            let entry = found
                .entry((change, element.clone(), Vec::new()))
                .or_default();
            entry.0.insert(agent.cloned());
            entry.1 = entry.1.take().or(by);
        }
    }

    fn record_elements(
        &mut self,
        found: Found,
        known: &BTreeSet<&AgentName>,
        src: usize,
        column: Option<&Onto>,
    ) {
        for ((change, what, spot, but), (agents, ranges, by)) in joined(found) {
            let agents = agents.iter().map(Option::as_ref).collect();
            for ports in ranges {
                let right = Right {
                    from: AgentSet::of(&agents, known),
                    but: but.clone(),
                    ..Right::new(what.on(ports))
                };
                let spot = Onto::Spot(spot.clone());
                self.record(&change, right, src, column.unwrap_or(&spot), by.clone());
            }
        }
    }

    fn known_agents<'e>(
        &self,
        sides: [(&'e Place, impl Iterator<Item = &'e Vec<End>>); 2],
    ) -> BTreeSet<&'e AgentName>
    where
        'a: 'e,
    {
        let mut known = BTreeSet::new();
        for (version, (place, ends)) in sides.into_iter().enumerate() {
            ends.for_each(|ends| known.extend(named(ends, place)));
            for block in self.crowd.resolved[version].blocks_of(place) {
                known.extend(named(&block.matches, place));
            }
        }
        known
    }

    fn is_blocked(&self, version: usize, place: &Place, agent: Option<&AgentName>) -> bool {
        let mut blocks = self.crowd.resolved[version].blocks_of(place);
        blocks.any(|it| it.block.holds(self.at) && means(&it.matches, place, agent))
    }

    fn is_guarded(
        &self,
        resolved: &Resolved,
        side: &Between<'_>,
        agent: Option<&AgentName>,
    ) -> bool {
        resolved.guards_between(side.src, side.dst).any(|guard| {
            guard.msg.is_empty()
                && means(&guard.src, side.src, agent)
                && means_node(&guard.dst, side.dst)
                && self.denies(guard)
        })
    }

    /// Whether a guard lets nothing pass now, of whatever size.
    fn denies(&self, guard: &ResolvedGuard) -> bool {
        guard.asks_a_person() || When::At(self.at).denied(&guard.deny).is_some()
    }
}

impl Side {
    fn add(
        &mut self,
        element: Element,
        rule: &ResolvedRule,
        open: bool,
        document: &crate::Document,
    ) {
        if open {
            self.open
                .entry(element.clone())
                .or_insert_with(|| rule.name.clone());
        }
        self.granted.entry(element).or_default().add(document, rule);
    }

    fn ports(&self) -> impl Iterator<Item = Ports> {
        let all = self.granted.keys().chain(&self.denied);
        all.filter_map(|element| element.what.ports().cloned())
    }

    /// The same with every range of ports divided where some range begins or ends.
    fn divided(self, cuts: &BTreeSet<Ports>) -> Self {
        let mut side = Self::default();
        for (element, held) in self.granted {
            for piece in element.pieces(cuts) {
                let entry = side.granted.entry(piece).or_default();
                for condition in &held.conditions {
                    entry.conditions.insert(condition.clone());
                }
                if entry.conditions.contains("") {
                    entry.conditions.retain(String::is_empty);
                }
                entry.by = entry.by.take().or(held.by.clone());
            }
        }
        for (element, by) in self.open {
            for piece in element.pieces(cuts) {
                side.open.entry(piece).or_insert(by.clone());
            }
        }
        for element in self.denied {
            side.denied.extend(element.pieces(cuts));
        }
        side
    }

    /// What an element of this side allows here and the other side does not: all of the first of
    /// each pair but the second ones.
    fn beyond(&self, element: &Element, other: &Self) -> Vec<(Element, Vec<Element>)> {
        let mut regions = Vec::new();
        let is_denied = |element: &Element| self.denied.iter().any(|it| it.covers(element));
        if is_denied(element) {
            return regions;
        }
        let meets = |it: &&Element| it.meet(element).is_some();
        let taken: Vec<Element> = self.denied.iter().filter(meets).cloned().collect();
        let whole = !other.open.keys().any(|it| it.covers(element));
        if whole {
            let there = other.open.keys().filter(meets).cloned();
            regions.push((element.clone(), widest(there.chain(taken.clone()))));
        }
        // What a guard takes away on the other side alone.
        for guarded in &other.denied {
            let Some(both) = guarded.meet(element) else {
                continue;
            };
            let is_new = !whole || other.open.keys().any(|it| it.meet(&both).is_some());
            if is_new && !is_denied(&both) {
                let but = taken.iter().filter(|it| it.meet(&both).is_some()).cloned();
                regions.push((both.clone(), widest(but)));
            }
        }
        regions
    }

    fn held(&self, element: &Element) -> Held {
        let mut held = Held::default();
        for (_, other) in self.granted.iter().filter(|(it, _)| it.covers(element)) {
            held.conditions.extend(other.conditions.iter().cloned());
            held.by = held.by.or(other.by.clone());
        }
        if held.conditions.contains("") {
            held.conditions.retain(String::is_empty);
        }
        held
    }
}

impl Element {
    fn covers(&self, other: &Self) -> bool {
        self.spot.covers(&other.spot) && self.what.covers(&other.what)
    }

    fn meet(&self, other: &Self) -> Option<Self> {
        Some(Self {
            spot: self.spot.meet(&other.spot)?,
            what: self.what.meet(&other.what)?,
        })
    }

    fn pieces(&self, cuts: &BTreeSet<Ports>) -> Vec<Self> {
        let Some(ports) = self.what.ports() else {
            return vec![self.clone()];
        };
        let mut pieces = Vec::new();
        for protocol in ports.all_protocols() {
            let all = super::nodes::pieces(*protocol, &cuts.iter().collect());
            let (first, last) = ports.range();
            let inside = all.into_iter().filter(|(a, b)| *a >= first && *b <= last);
            pieces.extend(inside.map(|range| {
                Self {
                    spot: self.spot.clone(),
                    what: self
                        .what
                        .clone()
                        .on(Some(Ports::new(Some(*protocol), range))),
                }
            }));
        }
        pieces
    }

    /// In words, beside another of its kind.
    fn beside(&self) -> String {
        match (&self.spot, &self.what) {
            (Spot::Node, what) => what.to_string(),
            (spot, What::Verb(_)) => spot.to_string(),
            (spot, What::Connect(ports) | What::Http(ports, None, None)) => match ports.range() {
                (0, u16::MAX) => spot.to_string(),
                _ => format!("{spot}:{}", ports_alone(ports)),
            },
            (spot, what) => format!("{what} of {spot}"),
        }
    }
}

impl Spot {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Topic(mine), Self::Topic(theirs)) => mine.covers(theirs),
            (Self::Internet(mine), Self::Internet(theirs)) => mine.covers(theirs),
            (mine, theirs) => mine == theirs,
        }
    }

    fn meet(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Topic(mine), Self::Topic(theirs)) => mine.meet(theirs).map(Self::Topic),
            (Self::Internet(mine), Self::Internet(theirs)) => mine.meet(theirs).map(Self::Internet),
            (mine, theirs) => (mine == theirs).then(|| mine.clone()),
        }
    }
}

impl What {
    fn ports(&self) -> Option<&Ports> {
        match self {
            Self::Ports(ports) | Self::Connect(ports) | Self::Http(ports, _, _) => Some(ports),
            _ => None,
        }
    }

    /// The same on other ports, where it is on any.
    fn on(&self, ports: Option<Ports>) -> Self {
        match (self, ports) {
            (Self::Ports(_), Some(ports)) => Self::Ports(ports),
            (Self::Connect(_), Some(ports)) => Self::Connect(ports),
            (Self::Http(_, method, path), Some(ports)) => {
                Self::Http(ports, method.clone(), path.clone())
            }
            _ => self.clone(),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ports(mine), Self::Ports(theirs))
            | (Self::Connect(mine), Self::Connect(theirs)) => mine.covers(theirs),
            (Self::Http(mine, method, path), Self::Http(theirs, their_method, their_path)) => {
                let paths = match (path, their_path) {
                    (None, _) => true,
                    (Some(mine), Some(theirs)) => mine.covers(theirs),
                    (Some(_), None) => false,
                };
                mine.covers(theirs) && (method.is_none() || method == their_method) && paths
            }
            (mine, theirs) => mine == theirs,
        }
    }

    /// What is in both, of parts whose ports are the same or apart.
    fn meet(&self, other: &Self) -> Option<Self> {
        if let (Self::Http(ports, a, p), Self::Http(theirs, b, q)) = (self, other) {
            let method = match (a, b) {
                (Some(a), Some(b)) if a != b => return None,
                (a, b) => a.clone().or(b.clone()),
            };
            let path: Option<HttpPath> = match (p, q) {
                (Some(p), Some(q)) => Some(p.meet(q)?),
                (p, q) => p.clone().or(q.clone()),
            };
            return (ports == theirs).then(|| Self::Http(ports.clone(), method, path));
        }
        (self == other).then(|| self.clone())
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(levels) => write!(f, "topic:{levels}"),
            Self::Internet(domain) => domain.fmt(f),
            Self::Service(name) => write!(f, "svc:{name}"),
            Self::Exit => f.write_str("autogroup:internet"),
            Self::Node => f.write_str("its ports"),
        }
    }
}

/// Whether a node with this agent is meant; without an agent: with any that nothing names.
fn means(ends: &[End], place: &Place, agent: Option<&AgentName>) -> bool {
    ends_in(ends, &place.class).any(|end| match &end.agent {
        None => true,
        Some(crate::document::AgentPattern::Every) => true,
        Some(pattern) => agent.is_some_and(|agent| pattern.matches(agent)),
    })
}

/// Whether a node is meant as such, and not an agent there.
fn means_node(ends: &[End], place: &Place) -> bool {
    ends_in(ends, &place.class).any(|end| end.agent.is_none())
}

/// What a rule opens where no node is.
fn onward(rule: &ResolvedRule) -> Vec<Element> {
    let mut elements = Vec::new();
    let every_port = [Ports::new(Some(TCP), (0, u16::MAX))];
    for selector in &rule.resources {
        match selector {
            Selector::Topic(levels) => {
                elements.extend(verbs(rule.msg.iter(), &Spot::Topic(levels.clone())));
            }
            Selector::Service(name) => {
                let what = What::Connect(every_port[0].clone());
                let spot = Spot::Service(name.clone());
                elements.push(Element { spot, what });
            }
            Selector::Internet(domain) => {
                let spot = Spot::Internet(domain.on_every_port());
                let only = domain.port().map_or((0, u16::MAX), |port| (port, port));
                let opened: Vec<Ports> = match rule.ip.is_empty() {
                    true => every_port.to_vec(),
                    false => rule.ip.iter().filter_map(tcp).collect(),
                };
                for ports in opened {
                    let (first, last) = ports.range();
                    let range = (first.max(only.0), last.min(only.1));
                    if range.0 > range.1 {
                        continue;
                    }
                    let ports = Ports::new(Some(TCP), range);
                    let connect = rule.http.is_empty().then(|| What::Connect(ports.clone()));
                    let all = connect.into_iter().chain(requests(rule, &ports));
                    elements.extend(all.map(|what| Element {
                        spot: spot.clone(),
                        what,
                    }));
                }
                elements.extend(rule.credential.iter().map(|name| Element {
                    spot: spot.clone(),
                    what: What::Credential(name.clone()),
                }));
            }
            Selector::Node(_) | Selector::Agent(..) => {}
        }
    }
    if rule.to_internet {
        elements.extend(rule.ip.iter().map(|ports| Element {
            spot: Spot::Exit,
            what: What::Ports(ports.clone()),
        }));
    }
    elements
}

/// What a guard is about where no node is.
fn guarded(guard: &ResolvedGuard) -> Vec<Element> {
    let mut elements = Vec::new();
    for selector in &guard.resources {
        match selector {
            Selector::Topic(levels) => {
                let all = Verb::ALL.into_iter();
                let meant = all.filter(|verb| guard.msg.is_empty() || guard.msg.contains(*verb));
                elements.extend(verbs(meant, &Spot::Topic(levels.clone())));
            }
            Selector::Internet(domain) if guard.msg.is_empty() => {
                let range = domain.port().map_or((0, u16::MAX), |port| (port, port));
                let ports = Ports::new(Some(TCP), range);
                for what in [What::Connect(ports.clone()), What::Http(ports, None, None)] {
                    let spot = Spot::Internet(domain.on_every_port());
                    elements.push(Element { spot, what });
                }
            }
            Selector::Service(name) if guard.msg.is_empty() => elements.push(Element {
                spot: Spot::Service(name.clone()),
                what: What::Connect(Ports::new(Some(TCP), (0, u16::MAX))),
            }),
            _ => {}
        }
    }
    elements
}

fn verbs(verbs: impl Iterator<Item = Verb>, spot: &Spot) -> impl Iterator<Item = Element> {
    verbs.map(|verb| Element {
        spot: spot.clone(),
        what: What::Verb(verb),
    })
}

/// The part of an entry that is TCP.
fn tcp(ports: &Ports) -> Option<Ports> {
    let is_tcp = ports.all_protocols().contains(&TCP);
    is_tcp.then(|| Ports::new(Some(TCP), ports.range()))
}

/// The requests that a rule lets through on these ports.
fn requests(rule: &ResolvedRule, ports: &Ports) -> Vec<What> {
    if rule.http.is_empty() {
        return vec![What::Http(ports.clone(), None, None)];
    }
    let mut requests = Vec::new();
    for http in &rule.http {
        let methods: Vec<Option<Box<str>>> = match http.methods.is_empty() {
            true => vec![None],
            false => http.methods.iter().cloned().map(Some).collect(),
        };
        let paths: Vec<Option<Levels>> = match http.paths.is_empty() {
            true => vec![None],
            false => http.paths.iter().cloned().map(Some).collect(),
        };
        for method in &methods {
            let each = paths.iter();
            requests
                .extend(each.map(|path| What::Http(ports.clone(), method.clone(), path.clone())));
        }
    }
    requests
}

/// Those of a list that no other covers.
fn widest(list: impl Iterator<Item = Element>) -> Vec<Element> {
    let all: BTreeSet<Element> = list.collect();
    let covered = |it: &Element| all.iter().any(|other| other != it && other.covers(it));
    all.iter().filter(|it| !covered(it)).cloned().collect()
}

fn ports_alone(ports: &Ports) -> String {
    let text = ports.to_string();
    text.strip_prefix("tcp:")
        .map_or(text.clone(), str::to_owned)
}

type Joined = Vec<(
    (Change, What, Spot, Vec<String>),
    (
        BTreeSet<Option<AgentName>>,
        Vec<Option<Ports>>,
        Option<GrantRef>,
    ),
)>;

/// Puts together again what only ports divide.
fn joined(found: Found) -> Joined {
    let mut joined: BTreeMap<_, (Ranges, Option<GrantRef>)> = BTreeMap::new();
    for ((change, element, but), (agents, by)) in found {
        let ports = element.what.ports().cloned();
        let what = element.what.on(Some(Ports::new(Some(TCP), (0, u16::MAX))));
        let key = (change, what, element.spot, but, agents);
        let entry = joined.entry(key).or_default();
        if let Some(ports) = ports {
            let (first, last) = ports.range();
            ports
                .all_protocols()
                .iter()
                .for_each(|it| entry.0.push(*it, first, last));
        }
        entry.1 = entry.1.take().or(by);
    }
    let mut all: Joined = Vec::new();
    for ((change, what, spot, but, agents), (ranges, by)) in joined {
        let ports: Vec<Option<Ports>> = match what.ports() {
            None => vec![None],
            Some(_) => ranges.into_ports().into_iter().map(Some).collect(),
        };
        all.push(((change, what, spot, but), (agents, ports, by)));
    }
    all
}
