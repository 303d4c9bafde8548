//! What passes between two nodes: messages, packets and capabilities, each case asked of the
//! decision itself in both versions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use identity::AgentName;

use super::ranges::{Ranges, pieces};
use super::{AgentSet, Comparison, Held, Onto, Right, Rights, What};
use crate::crowd::Own;
use crate::decide::{Case, Decision, To, When};
use crate::document::{AgentPattern, Ports};
use crate::resolve::{End, Place, ResolvedRule, ends_in};
use crate::world::fresh;
use crate::{GrantRef, Skill, Verb};

/// Two nodes, as one version sees them, and the rules that it has between them.
#[derive(Clone)]
pub(super) struct Between<'a> {
    pub src: &'a Place,
    pub dst: &'a Place,
    pub rules: Vec<&'a ResolvedRule>,
}

/// How one case differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Gain,
    Loss,
    /// It passes or not as before, but under other conditions: those before and after.
    Condition(Box<(String, String)>),
}

/// The addresses at both ends, where they make a difference.
type Addresses = (Option<IpAddr>, Option<IpAddr>);

type AgentPair<'a> = (Option<&'a AgentName>, Option<&'a AgentName>);

impl<'a> Comparison<'a> {
    pub(super) fn compare_pair(&mut self, src: usize, dst: usize, own: Own) {
        let crowd = self.crowd;
        let Some((from, onto)) = crowd.pair(src, dst, own) else {
            return;
        };
        let sides = [0, 1].map(|version: usize| {
            let resolved = &crowd.resolved[version];
            let (src, dst) = (resolved.node(&from)?, resolved.node(&onto)?);
            let rules = resolved.rules_between(src, dst);
            let rules = rules.filter(|rule| rule.destinations(src, dst).next().is_some());
            let rules = rules.collect();
            Some(Between { src, dst, rules })
        });
        let [Some(before), Some(after)] = sides else {
            return;
        };
        let sides = [before, after];
        let column = Onto::Kind(dst, own);
        let any = |of: fn(&ResolvedRule) -> bool| {
            sides
                .iter()
                .any(|side| side.rules.iter().any(|rule| of(rule)))
        };
        if any(ResolvedRule::is_for_messages) {
            self.compare_messages(&sides, src, &column);
        }
        if any(|rule| !rule.ip.is_empty()) {
            let addresses = (
                &crowd.kinds[src].addresses[..],
                &crowd.kinds[dst].addresses[..],
            );
            self.compare_packets(&sides, addresses, src, &column);
        }
        if any(|rule| !rule.http.is_empty())
            || (any(|rule| !rule.ip.is_empty()) && self.tell_agents_apart(&sides))
        {
            self.compare_requests(&sides, src, &column);
        }
        if any(|rule| !rule.app.is_empty() || !rule.via.is_empty()) {
            self.compare_others(&sides, src, &column);
        }
    }

    fn compare_messages(&mut self, sides: &[Between<'a>; 2], src: usize, column: &Onto) {
        let (senders, receivers) = self.agents(sides);
        let anyone = fresh("any-other-agent", |name: &AgentName| {
            senders.contains(name) || receivers.contains(name)
        });
        let rules = || sides.iter().flat_map(|side| &side.rules);
        let verbs: BTreeSet<Verb> = rules().flat_map(|rule| rule.msg.iter()).collect();
        let skills: BTreeSet<&Skill> = rules().flat_map(|rule| &rule.skills).collect();
        let skills = known_skills(skills);

        let mut found: BTreeMap<(Change, What, Vec<String>), BTreeSet<AgentPair<'_>>> =
            BTreeMap::new();
        let mut by: BTreeMap<(Change, What), GrantRef> = BTreeMap::new();
        for from in senders.iter().copied().map(Some).chain([None]) {
            for to in receivers.iter().copied().map(Some).chain([None]) {
                let agents = (from.unwrap_or(&anyone), to.unwrap_or(&anyone));
                for verb in &verbs {
                    let asked = self.ask(sides, Some(agents.0), |side| To::Message {
                        dst: side.dst,
                        agent: agents.1,
                        verb: *verb,
                    });
                    if let Some((change, name)) = asked {
                        let what = What::Verb(*verb);
                        by.entry((change.clone(), what.clone())).or_insert(name);
                        found
                            .entry((change, what, Vec::new()))
                            .or_default()
                            .insert((from, to));
                    }
                }
                for (every, named, other) in &skills {
                    let mut changed: BTreeMap<Change, BTreeSet<Option<&Skill>>> = BTreeMap::new();
                    for skill in named.iter().copied().map(Some).chain([None]) {
                        let asked = self.ask(sides, Some(agents.0), |side| To::Skill {
                            dst: side.dst,
                            agent: agents.1,
                            skill: skill.unwrap_or(other),
                        });
                        if let Some((change, name)) = asked {
                            let what = What::Skill(skill.unwrap_or(every).clone());
                            by.entry((change.clone(), what)).or_insert(name);
                            changed.entry(change).or_default().insert(skill);
                        }
                    }
                    for (change, skills) in changed {
                        for (what, but) in summed(every, named, &skills) {
                            let pairs = found.entry((change.clone(), what, but)).or_default();
                            pairs.insert((from, to));
                        }
                    }
                }
            }
        }
        for ((change, what, but), pairs) in found {
            let name = by.get(&(change.clone(), what.clone())).cloned();
            for (from, to) in rectangles(&pairs, &senders, &receivers) {
                let right = Right {
                    from,
                    to,
                    but: but.clone(),
                    ..Right::new(what.clone())
                };
                self.record(&change, right, src, column, name.clone());
            }
        }
    }

    fn compare_packets(
        &mut self,
        sides: &[Between<'a>; 2],
        (from, onto): (&[IpAddr], &[IpAddr]),
        src: usize,
        column: &Onto,
    ) {
        let rules = || sides.iter().flat_map(|side| &side.rules);
        let ports: BTreeSet<&Ports> = rules().flat_map(|rule| &rule.ip).collect();
        let protocols: BTreeSet<u8> = ports
            .iter()
            .flat_map(|ports| ports.all_protocols().iter().copied())
            .collect();
        let several = (from.len() > 1, onto.len() > 1);
        let mut found: BTreeMap<(Change, Addresses), Ranges> = BTreeMap::new();
        let mut by: BTreeMap<Change, GrantRef> = BTreeMap::new();
        for (from, onto) in from
            .iter()
            .flat_map(|from| onto.iter().map(move |onto| (*from, *onto)))
        {
            for protocol in &protocols {
                for (first, last) in pieces(*protocol, &ports) {
                    let asked = self.ask(sides, None, |side| To::Packet {
                        dst: side.dst,
                        ends: (from, onto),
                        protocol: *protocol,
                        port: first,
                    });
                    if let Some((change, name)) = asked {
                        by.entry(change.clone()).or_insert(name);
                        let ends = (several.0.then_some(from), several.1.then_some(onto));
                        found
                            .entry((change, ends))
                            .or_default()
                            .push(*protocol, first, last);
                    }
                }
            }
        }
        for ((change, ends), ranges) in found {
            let name = by.get(&change).cloned();
            for ports in ranges.into_ports() {
                let right = Right {
                    ends,
                    ..Right::new(What::Ports(ports))
                };
                self.record(&change, right, src, column, name.clone());
            }
        }
    }

    /// Capabilities, and what is open over other gateways only: granted or not, as a whole.
    fn compare_others(&mut self, sides: &[Between<'a>; 2], src: usize, column: &Onto) {
        let [before, after] = [0, 1].map(|version: usize| self.others(version, &sides[version]));
        let nothing = Other::default();
        let all: BTreeSet<&What> = before.keys().chain(after.keys()).collect();
        for what in all {
            let was = before.get(what).unwrap_or(&nothing);
            let is = after.get(what).unwrap_or(&nothing);
            let change = match (was.holds, is.holds) {
                (false, true) => Change::Gain,
                (true, false) => Change::Loss,
                _ if was.held.is_same(&is.held) => continue,
                _ => Change::condition(&was.held, &is.held),
            };
            let name = is.held.by.clone().or(was.held.by.clone());
            self.record(&change, Right::new(what.clone()), src, column, name);
        }
    }

    fn others(&self, version: usize, side: &Between<'a>) -> BTreeMap<What, Other> {
        let document = self.crowd.documents[version];
        let resolved = &self.crowd.resolved[version];
        let is_blocked = |place: &Place| {
            let mut blocks = resolved.blocks_of(place);
            blocks.any(|it| it.block.holds(self.at) && it.names(place, None))
        };
        let blocked = is_blocked(side.src) || is_blocked(side.dst);
        let of_nodes = |end: &End| end.agent.is_none();
        let mut others: BTreeMap<What, Other> = BTreeMap::new();
        let rules = side.rules.iter().filter(|rule| {
            ends_in(&rule.src, &side.src.class).any(of_nodes)
                && rule.destinations(side.src, side.dst).any(of_nodes)
        });
        for rule in rules {
            let via = (!rule.via.is_empty()).then(|| {
                let mut tags = rule.via.clone();
                tags.sort();
                tags
            });
            let ports = via.iter().flat_map(|tags| {
                rule.ip
                    .iter()
                    .map(|ports| What::Via(tags.clone(), ports.clone()))
            });
            let apps = rule.app.iter().filter(|_| via.is_none());
            let apps = apps.map(|app| What::App(app.name.clone(), app.values.to_string()));
            for what in ports.chain(apps) {
                let other = others.entry(what).or_default();
                other.holds |= !blocked && self.is_open(rule, side.src);
                other.held.add(document, rule);
            }
        }
        others
    }

    /// Whether a rule holds now for what comes from a node.
    pub(super) fn is_open(&self, rule: &ResolvedRule, src: &Place) -> bool {
        rule.is_met_by(&src.class) && rule.valid.as_ref().is_none_or(|valid| valid.holds(self.at))
    }

    /// Whether something here is about agents: then requests, of which a proxy may know the agent,
    /// need not pass where packets do.
    fn tell_agents_apart(&self, sides: &[Between<'a>; 2]) -> bool {
        let of_agents = |ends: &[End]| ends.iter().any(|end| end.agent.is_some());
        sides.iter().enumerate().any(|(version, side)| {
            let resolved = &self.crowd.resolved[version];
            let mut rules = side.rules.iter().filter(|rule| !rule.ip.is_empty());
            let mut guards = resolved.guards_between(side.src, side.dst);
            let mut blocks = resolved.blocks_of(side.src);
            rules.any(|rule| of_agents(&rule.src))
                || guards.any(|guard| of_agents(&guard.src) || of_agents(&guard.dst))
                || blocks.any(|block| of_agents(&block.matches))
        })
    }

    /// The agents that rules, guards and blocks of either version tell apart at each end.
    fn agents(
        &self,
        sides: &[Between<'a>; 2],
    ) -> (BTreeSet<&'a AgentName>, BTreeSet<&'a AgentName>) {
        let (mut senders, mut receivers) = (BTreeSet::new(), BTreeSet::new());
        for (version, side) in sides.iter().enumerate() {
            let resolved = &self.crowd.resolved[version];
            let (src, dst) = (side.src, side.dst);
            for rule in side.rules.iter().filter(|rule| rule.is_for_messages()) {
                senders.extend(named(&rule.src, src));
                receivers.extend(named(&rule.dst, dst));
            }
            for guard in resolved.guards_between(src, dst) {
                senders.extend(named(&guard.src, src));
                receivers.extend(named(&guard.dst, dst));
            }
            for block in resolved.blocks_of(src) {
                senders.extend(named(&block.matches, src));
            }
            for block in resolved.blocks_of(dst) {
                receivers.extend(named(&block.matches, dst));
            }
        }
        (senders, receivers)
    }

    /// Asks both versions, and says how they differ and by which grant.
    fn ask<'c>(
        &mut self,
        sides: &'c [Between<'a>; 2],
        agent: Option<&'c AgentName>,
        to: impl Fn(&'c Between<'a>) -> To<'c>,
    ) -> Option<(Change, GrantRef)>
    where
        'a: 'c,
    {
        self.left = self.left.saturating_sub(1);
        let crowd = self.crowd;
        let cases = [0, 1].map(|version: usize| Case {
            src: sides[version].src,
            agent,
            to: to(&sides[version]),
            when: When::At(self.at),
            bytes: None,
            strict: true,
            attributes: None,
        });
        let granted =
            [0, 1].map(
                |version: usize| match cases[version].decide(&crowd.resolved[version]) {
                    Decision::Allowed { rule, .. } => Some(rule.name.clone()),
                    _ => None,
                },
            );
        match granted {
            [None, Some(by)] => return Some((Change::Gain, by)),
            [Some(by), None] => return Some((Change::Loss, by)),
            _ => {}
        }
        let conditional = |rule: &&ResolvedRule| rule.valid.is_some() || !rule.postures.is_empty();
        if !sides.iter().any(|side| side.rules.iter().any(conditional)) {
            return None;
        }
        let held = [0, 1].map(|version: usize| {
            let mut held = Held::default();
            for rule in &sides[version].rules {
                let fit = cases[version].fit(rule);
                if fit.src && fit.dst && fit.operation {
                    held.add(crowd.documents[version], rule);
                }
            }
            held
        });
        let [was, is] = &held;
        if was.is_same(is) {
            return None;
        }
        let by = is.by.clone().or(was.by.clone())?;
        Some((Change::condition(was, is), by))
    }

    pub(super) fn record(
        &mut self,
        change: &Change,
        right: Right,
        src: usize,
        column: &Onto,
        by: Option<GrantRef>,
    ) {
        let by = by.unwrap_or(GrantRef("".into()));
        match change {
            Change::Gain => note(&mut self.found.gains, right, src, column.clone(), by),
            Change::Loss => note(&mut self.found.losses, right, src, column.clone(), by),
            Change::Condition(both) => {
                let rights = self.found.conditions.entry((**both).clone()).or_default();
                note(rights, right, src, column.clone(), by);
            }
        }
    }
}

impl Change {
    pub(super) fn condition(was: &Held, is: &Held) -> Self {
        Self::Condition(Box::new((was.to_string(), is.to_string())))
    }
}

fn note(rights: &mut Rights, right: Right, src: usize, onto: Onto, by: GrantRef) {
    let by_onto = rights.entry(right).or_default().entry(src).or_default();
    by_onto.entry(onto).or_insert(by);
}

#[derive(Default)]
struct Other {
    holds: bool,
    held: Held,
}

/// The agents that ends name at a node.
pub(super) fn named<'a>(ends: &'a [End], place: &'a Place) -> impl Iterator<Item = &'a AgentName> {
    ends_in(ends, &place.class).filter_map(|end| match &end.agent {
        Some(AgentPattern::Named(name)) => Some(name),
        _ => None,
    })
}

/// For each kind of skill in use: every one, those that are named, and one that is not.
fn known_skills(skills: BTreeSet<&Skill>) -> Vec<(Skill, Vec<&Skill>, Skill)> {
    let mut known = Vec::new();
    for kind in ["call", "admin"] {
        let Ok(every) = format!("{kind}:*").parse::<Skill>() else {
            continue;
        };
        let of_kind = skills.iter().copied().filter(|skill| every.covers(skill));
        let (all, named): (Vec<&Skill>, Vec<&Skill>) = of_kind.partition(|skill| skill.is_every());
        if all.is_empty() && named.is_empty() {
            continue;
        }
        let other = fresh(&format!("{kind}:any-other"), |skill: &Skill| {
            named.contains(&skill)
        });
        known.push((every, named, other));
    }
    known
}

/// Skills in as few words as possible.
fn summed(
    every: &Skill,
    named: &[&Skill],
    changed: &BTreeSet<Option<&Skill>>,
) -> Vec<(What, Vec<String>)> {
    if !changed.contains(&None) {
        let each = changed.iter().flatten();
        return each
            .map(|skill| (What::Skill((*skill).clone()), Vec::new()))
            .collect();
    }
    let others = named
        .iter()
        .filter(|skill| !changed.contains(&Some(**skill)));
    let but = others.map(|skill| skill.to_string()).collect();
    vec![(What::Skill(every.clone()), but)]
}

/// Pairs of agents as products of sets, as few as one pass finds.
fn rectangles(
    pairs: &BTreeSet<AgentPair<'_>>,
    senders: &BTreeSet<&AgentName>,
    receivers: &BTreeSet<&AgentName>,
) -> Vec<(AgentSet, AgentSet)> {
    let mut rows: BTreeMap<Option<&AgentName>, BTreeSet<Option<&AgentName>>> = BTreeMap::new();
    for (from, to) in pairs {
        rows.entry(*from).or_default().insert(*to);
    }
    let mut equal: BTreeMap<AgentSet, BTreeSet<Option<&AgentName>>> = BTreeMap::new();
    for (from, to) in rows {
        equal
            .entry(AgentSet::of(&to, receivers))
            .or_default()
            .insert(from);
    }
    let products = equal.into_iter();
    products
        .map(|(to, from)| (AgentSet::of(&from, senders), to))
        .collect()
}
