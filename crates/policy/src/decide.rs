//! One decision: `not blocked AND some grant AND every guard`. Everything that judges asks here, so
//! that an explanation cannot differ from what is enforced.

use std::net::IpAddr;

use identity::{AgentName, UnixTime};

use crate::document::{Attributes, Selector, TCP, Valid, Window};
use crate::resolve::Way;
use crate::resolve::{
    Addresses, End, Place, Posture, Resolved, ResolvedBlock, ResolvedGuard, ResolvedRule, ends_in,
};
use crate::verdict::Bucket;
use crate::{Skill, Verb};

/// What is to be decided.
#[derive(Clone, Debug)]
pub(crate) struct Case<'a> {
    pub src: &'a Place,
    /// The agent that the source vouches for; none for packets.
    pub agent: Option<&'a AgentName>,
    pub to: To<'a>,
    pub when: When,
    /// The size of the body, once it is known.
    pub bytes: Option<u64>,
    /// Whether guards that ask for what nobody here can answer deny.
    pub strict: bool,
    /// What the source is said to be like, instead of what is known of it.
    pub attributes: Option<&'a Attributes>,
}

/// Where it goes, and as what.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To<'a> {
    Message {
        dst: &'a Place,
        agent: &'a AgentName,
        verb: Verb,
    },
    Skill {
        dst: &'a Place,
        agent: &'a AgentName,
        skill: &'a Skill,
    },
    Packet {
        dst: &'a Place,
        /// From this address to that one.
        ends: (IpAddr, IpAddr),
        protocol: u8,
        port: u16,
    },
    HttpNode {
        dst: &'a Place,
        port: u16,
        method: &'a str,
        path: &'a str,
    },
    Topic {
        topic: &'a str,
        verb: Verb,
    },
    Internet {
        host: &'a str,
        port: u16,
    },
    HttpInternet {
        host: &'a str,
        port: u16,
        method: &'a str,
        path: &'a str,
    },
    Service(&'a str),
}

/// At which moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    At(UnixTime),
    /// Whenever the grants hold and no guard's hours deny. Blocks are judged by this moment.
    Whenever(UnixTime),
}

/// What was decided, and by what.
#[derive(Clone, Debug)]
pub(crate) enum Decision<'a> {
    Allowed {
        rule: &'a ResolvedRule,
        /// What it draws from.
        buckets: Vec<Bucket>,
    },
    Blocked(&'a ResolvedBlock),
    NoGrant,
    Guarded {
        guard: &'a ResolvedGuard,
        demand: Demand<'a>,
    },
}

/// What a guard demands that is not met.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Demand<'a> {
    NotNow(&'a Window),
    MaxBytes(u64),
    Approve,
    Spend,
}

/// Whether a rule allows a case, part by part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    pub src: bool,
    pub dst: bool,
    pub operation: bool,
    pub posture: bool,
    pub time: bool,
}

impl<'a> Case<'a> {
    /// Decides. Blocks win over guards, and guards over grants; order never matters but for which
    /// of several reasons is named.
    pub fn decide(&self, resolved: &'a Resolved) -> Decision<'a> {
        if let Some(block) = self.block(resolved) {
            return Decision::Blocked(block);
        }
        let Some(rule) = self.grant(resolved) else {
            return Decision::NoGrant;
        };
        let mut buckets = Vec::new();
        for guard in self.guards(resolved) {
            if let Some(demand) = self.unmet(guard) {
                return Decision::Guarded { guard, demand };
            }
            buckets.extend(self.bucket(guard));
        }
        Decision::Allowed { rule, buckets }
    }

    /// The first block that is about either end, and holds.
    pub fn block(&self, resolved: &'a Resolved) -> Option<&'a ResolvedBlock> {
        let now = self.when.now();
        let of = |place: &'a Place, agent: Option<&'a AgentName>| {
            resolved
                .blocks_of(place)
                .find(|it| it.block.holds(now) && it.names(place, agent))
        };
        let (dst, agent) = self.to.end();
        of(self.src, self.agent).or_else(|| dst.and_then(|dst| of(dst, agent)))
    }

    /// The first rule that allows it.
    fn grant(&self, resolved: &'a Resolved) -> Option<&'a ResolvedRule> {
        let allows = |rule: &&ResolvedRule| self.is_allowed_by(rule);
        match self.to {
            To::Message { dst, agent, verb } if self.attributes.is_none() => {
                match resolved.ways(self.src, dst) {
                    Some(ways) => self.quick_grant(resolved, ways, (dst, agent), verb),
                    None => resolved.message_rules(self.src, dst).find(allows),
                }
            }
            To::Message { dst, .. } | To::Skill { dst, .. } => {
                resolved.message_rules(self.src, dst).find(allows)
            }
            To::Packet { dst, .. } | To::HttpNode { dst, .. } => {
                resolved.packet_rules(self.src, dst).find(allows)
            }
            To::Topic { .. } | To::Internet { .. } | To::HttpInternet { .. } | To::Service(_) => {
                resolved.rules_from(self.src).find(allows)
            }
        }
    }

    /// The same from what was settled beforehand.
    fn quick_grant(
        &self,
        resolved: &'a Resolved,
        ways: [&[Way]; 2],
        (dst, agent): (&Place, &AgentName),
        verb: Verb,
    ) -> Option<&'a ResolvedRule> {
        let rules = resolved.rules();
        let (from, onto) = (rules.agents.of(self.agent?), rules.agents.of(agent));
        let leads = |way: &&Way| {
            way.is_between(from, onto)
                && way.verbs.contains(verb)
                && (!way.of_one_user || self.src.has_user_of(dst))
                && (!way.asks_more || self.is_time(rules.rule(way.rule)))
        };
        let found = ways.map(|part| part.iter().find(leads).map(|way| way.rule));
        let first = found.into_iter().flatten().min()?;
        Some(rules.rule(first))
    }

    /// The rules that may allow it, in file order: what an explanation goes through.
    pub fn candidates(
        &self,
        resolved: &'a Resolved,
    ) -> Box<dyn Iterator<Item = &'a ResolvedRule> + 'a> {
        match self.to {
            To::Message { dst, .. } | To::Skill { dst, .. } => {
                Box::new(resolved.message_rules(self.src, dst))
            }
            To::Packet { dst, .. } | To::HttpNode { dst, .. } => {
                Box::new(resolved.packet_rules(self.src, dst))
            }
            To::Topic { .. } | To::Internet { .. } | To::HttpInternet { .. } | To::Service(_) => {
                let rules = resolved.rules_from(self.src);
                Box::new(rules.filter(|rule| !rule.resources.is_empty()))
            }
        }
    }

    fn is_allowed_by(&self, rule: &ResolvedRule) -> bool {
        self.is_operation(rule)
            && self.is_source(rule)
            && self.is_destination(rule)
            && self.meets_posture(rule)
            && self.is_time(rule)
    }

    /// The name of the node at each end, for people.
    pub fn source_node(&self) -> String {
        self.src.facts.called().to_owned()
    }

    /// The same of the destination; a resource is named as it is written.
    pub fn destination_node(&self) -> String {
        match self.to.end() {
            (Some(dst), _) => dst.facts.called().to_owned(),
            (None, _) => self.onto(),
        }
    }

    /// How a rule allows it, or what is missing.
    pub fn fit(&self, rule: &ResolvedRule) -> Fit {
        Fit {
            src: self.is_source(rule),
            dst: self.is_destination(rule),
            operation: self.is_operation(rule),
            posture: self.meets_posture(rule),
            time: self.is_time(rule),
        }
    }

    fn is_operation(&self, rule: &ResolvedRule) -> bool {
        let opens = |protocol, port| rule.ip.iter().any(|ports| ports.matches(protocol, port));
        let lets = |method, path| {
            rule.http.is_empty() || rule.http.iter().any(|http| http.matches(method, path))
        };
        match self.to {
            To::Message { verb, .. } | To::Topic { verb, .. } => rule.msg.contains(verb),
            To::Skill { skill, .. } => rule.skills.iter().any(|known| known.covers(skill)),
            // Of a rule with `http` the proxy alone knows what passes; of one with `via` the route.
            To::Packet { protocol, port, .. } => {
                rule.http.is_empty() && rule.via.is_empty() && opens(protocol, port)
            }
            To::HttpNode {
                port, method, path, ..
            } => rule.via.is_empty() && opens(TCP, port) && lets(method, path),
            To::Internet { port, .. } => {
                rule.http.is_empty() && (rule.ip.is_empty() || opens(TCP, port))
            }
            To::HttpInternet {
                port, method, path, ..
            } => (rule.ip.is_empty() || opens(TCP, port)) && lets(method, path),
            To::Service(_) => true,
        }
    }

    fn is_source(&self, rule: &ResolvedRule) -> bool {
        self.is_from(&rule.src)
    }

    fn is_destination(&self, rule: &ResolvedRule) -> bool {
        match self.to.end() {
            (Some(dst), agent) => rule
                .destinations(self.src, dst)
                .any(|end| self.is_meant(end, agent, |ends| ends.1)),
            (None, _) => rule.resources.iter().any(|known| self.to.is_in(known)),
        }
    }

    fn is_from(&self, ends: &[End]) -> bool {
        ends_in(ends, &self.src.class).any(|end| self.is_meant(end, self.agent, |ends| ends.0))
    }

    /// Whether a selector that matches a node also means the agent there, or for a packet the
    /// address: packets are of no agent.
    fn is_meant(
        &self,
        end: &End,
        agent: Option<&AgentName>,
        side: impl Fn((IpAddr, IpAddr)) -> IpAddr,
    ) -> bool {
        match self.to {
            To::Packet { ends, .. } => {
                let address = side(ends);
                let inside = |within: &Addresses| within.contains(address);
                end.agent.is_none() && end.within.as_ref().is_none_or(inside)
            }
            _ => end
                .agent
                .as_ref()
                .is_none_or(|pattern| agent.is_some_and(|agent| pattern.matches(agent))),
        }
    }

    fn meets_posture(&self, rule: &ResolvedRule) -> bool {
        rule.postures.is_empty() || rule.postures.iter().any(|posture| self.meets(posture))
    }

    fn meets(&self, posture: &Posture) -> bool {
        match self.attributes {
            None => self.src.class.has(posture.selector),
            Some(said) => posture.assertions.iter().all(|it| it.holds(said)),
        }
    }

    fn is_time(&self, rule: &ResolvedRule) -> bool {
        rule.valid
            .as_ref()
            .is_none_or(|valid| self.when.is_in(valid))
    }

    /// The guards that are about it, in file order.
    pub fn guards(
        &self,
        resolved: &'a Resolved,
    ) -> impl Iterator<Item = &'a ResolvedGuard> + use<'a, '_> {
        let (dst, _) = self.to.end();
        let between = dst.map(|dst| resolved.guards_between(self.src, dst));
        let onward = dst.is_none().then(|| resolved.guards_from(self.src));
        let all = between.into_iter().flatten();
        all.chain(onward.into_iter().flatten())
            .filter(|guard| self.is_guarded_by(guard))
    }

    fn is_guarded_by(&self, guard: &ResolvedGuard) -> bool {
        let verb = match self.to {
            To::Message { verb, .. } | To::Topic { verb, .. } => Some(verb),
            _ => None,
        };
        let operation = guard.msg.is_empty() || verb.is_some_and(|verb| guard.msg.contains(verb));
        let onto = || match self.to.end() {
            (Some(dst), agent) => {
                ends_in(&guard.dst, &dst.class).any(|end| self.is_meant(end, agent, |ends| ends.1))
            }
            (None, _) => guard.resources.iter().any(|known| self.to.is_in(known)),
        };
        operation && self.is_from(&guard.src) && onto()
    }

    /// What a guard demands in vain.
    pub fn unmet(&self, guard: &'a ResolvedGuard) -> Option<Demand<'a>> {
        if let Some(window) = self.when.denied(&guard.deny) {
            return Some(Demand::NotNow(window));
        }
        let is_long = |most: &u64| self.bytes.is_some_and(|bytes| bytes > *most);
        if let Some(most) = guard.max_bytes.filter(is_long) {
            return Some(Demand::MaxBytes(most));
        }
        if guard.approve.is_some() && self.strict {
            return Some(Demand::Approve);
        }
        if guard.spend.is_some() && self.strict {
            return Some(Demand::Spend);
        }
        None
    }

    /// The decision of the first guard that finds the body too long, whatever else guards say.
    pub fn too_long(&self, resolved: &'a Resolved) -> Option<Decision<'a>> {
        let is_long = |most: &u64| self.bytes.is_some_and(|bytes| bytes > *most);
        self.guards(resolved).find_map(|guard| {
            let demand = Demand::MaxBytes(guard.max_bytes.filter(is_long)?);
            Some(Decision::Guarded { guard, demand })
        })
    }

    /// What it draws from, of a guard with a rate: messages are counted, packets are not.
    fn bucket(&self, guard: &ResolvedGuard) -> Option<Bucket> {
        let rate = guard.rate.as_ref()?;
        let (dst, agent) = self.to.end();
        let counted = matches!(
            self.to,
            To::Message { .. } | To::Skill { .. } | To::Topic { .. }
        );
        counted.then(|| Bucket::new(guard, rate, (self.src, self.agent), (dst, agent)))
    }
}

impl<'a> To<'a> {
    /// The node and the agent at the other end, where there is one.
    pub fn end(&self) -> (Option<&'a Place>, Option<&'a AgentName>) {
        match *self {
            Self::Message { dst, agent, .. } | Self::Skill { dst, agent, .. } => {
                (Some(dst), Some(agent))
            }
            Self::Packet { dst, .. } | Self::HttpNode { dst, .. } => (Some(dst), None),
            Self::Topic { .. }
            | Self::Internet { .. }
            | Self::HttpInternet { .. }
            | Self::Service(_) => (None, None),
        }
    }

    fn is_in(&self, selector: &Selector) -> bool {
        match (self, selector) {
            (Self::Topic { topic, .. }, Selector::Topic(levels)) => levels.matches_topic(topic),
            (
                Self::Internet { host, port } | Self::HttpInternet { host, port, .. },
                Selector::Internet(domain),
            ) => domain.matches(host, *port),
            (Self::Service(name), Selector::Service(known)) => **known == **name,
            _ => false,
        }
    }
}

impl When {
    /// The moment itself.
    pub fn now(self) -> UnixTime {
        match self {
            Self::At(at) | Self::Whenever(at) => at,
        }
    }

    fn is_in(self, valid: &Valid) -> bool {
        match self {
            Self::At(at) => valid.holds(at),
            Self::Whenever(_) => true,
        }
    }

    pub fn denied(self, windows: &[Window]) -> Option<&Window> {
        match self {
            Self::At(at) => windows.iter().find(|window| window.holds(at)),
            Self::Whenever(_) => None,
        }
    }
}

impl ResolvedBlock {
    /// Whether it is about a node as a whole, or about this agent there.
    pub fn names(&self, place: &Place, agent: Option<&AgentName>) -> bool {
        ends_in(&self.matches, &place.class).any(|end| {
            end.agent
                .as_ref()
                .is_none_or(|pattern| agent.is_some_and(|agent| pattern.matches(agent)))
        })
    }
}

impl Fit {
    /// Whether nothing is missing.
    pub fn is_whole(self) -> bool {
        self.missing() == 0
    }

    /// How many parts are missing.
    pub fn missing(self) -> usize {
        let parts = [self.src, self.dst, self.operation, self.posture, self.time];
        parts.into_iter().filter(|part| !part).count()
    }
}
