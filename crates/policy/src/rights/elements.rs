//! What goes where no node is, and requests: by the patterns of the rules.
//!
//! The alphabets of names are endless, so a pattern lies within a union of patterns exactly where it
//! lies within one of them: what is left of one after another is written "A but not B".

use std::collections::{BTreeMap, BTreeSet};

use identity::AgentName;

use super::nodes::{Between, Change, named};
use super::patterns::{Element, Spot, guarded, onward, requests, tcp};
use super::ranges::Ranges;
use super::{AgentSet, Comparison, Held, Onto, Right, What};
use crate::GrantRef;
use crate::decide::When;
use crate::document::{Ports, TCP};
use crate::resolve::{End, Place, Resolved, ResolvedGuard, ResolvedRule, ends_in};

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
        let mut all = Vec::new();
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
            all.push((agent, sides));
        }
        let found = self.compare_agents(all);
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
        let mut all = Vec::new();
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
            all.push((agent, both));
        }
        let found = self.compare_agents(all);
        self.record_elements(found, &known, src, Some(column));
    }

    /// Ports are divided in the same way for all, so that agents who differ in nothing are one.
    fn compare_agents(&mut self, all: Vec<(Option<&AgentName>, [Side; 2])>) -> Found {
        let sides = all.iter().flat_map(|(_, sides)| sides);
        let cuts: BTreeSet<Ports> = sides.flat_map(Side::ports).collect();
        let mut found = Found::new();
        for (agent, sides) in all {
            let sides = sides.map(|side| side.divided(&cuts));
            self.compare_sides(&sides, agent, &mut found);
        }
        found
    }

    fn compare_sides(&mut self, sides: &[Side; 2], agent: Option<&AgentName>, found: &mut Found) {
        let [before, after] = sides;
        self.left = self
            .left
            .saturating_sub(before.granted.len() + after.granted.len());
        let mut changed = BTreeSet::new();
        for (change, new, old) in [(Change::Gain, after, before), (Change::Loss, before, after)] {
            for (element, by) in &new.open {
                let follows = new.is_part_of_another(element);
                for (region, but) in new.beyond(element, old) {
                    changed.insert(element.clone());
                    if follows {
                        continue;
                    }
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

    /// Whether a wider element says the same.
    fn is_part_of_another(&self, element: &Element) -> bool {
        let wider = |other: &&Element| other.covers(element) && !element.covers(other);
        self.open.keys().any(|other| wider(&other))
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

/// Those of a list that no other covers.
fn widest(list: impl Iterator<Item = Element>) -> Vec<Element> {
    let all: BTreeSet<Element> = list.collect();
    let covered = |it: &Element| all.iter().any(|other| other != it && other.covers(it));
    all.iter().filter(|it| !covered(it)).cloned().collect()
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
