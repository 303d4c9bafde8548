//! The message rules of one gateway in a form that a verdict walks in a few nanoseconds a rule:
//! selectors of nodes are settled beforehand, names of agents are numbers.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use identity::AgentName;

use super::nodes::IdHasher;
use super::rules::{End, ResolvedRule};
use super::{Class, Rules};
use crate::VerbSet;
use crate::document::AgentPattern;

/// One way in which a rule lets agents of one class message agents of another: one of its sources
/// with one of its destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub rule: u32,
    pub verbs: VerbSet,
    /// Only where both nodes are one user's.
    pub of_one_user: bool,
    /// Whether the rule has more to ask: dates, skills.
    pub asks_more: bool,
    from: AgentNumber,
    onto: AgentNumber,
}

/// The agents that the rules of a file name, by numbers.
#[derive(Debug, Default)]
pub(crate) struct AgentNumbers {
    numbers: HashMap<AgentName, AgentNumber, BuildHasherDefault<IdHasher>>,
}

/// What stands for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AgentNumber(u32);

impl AgentNumber {
    /// In a rule: every agent.
    const EVERY: Self = Self(u32::MAX);
    /// In a question: one that no rule names.
    const OTHER: Self = Self(u32::MAX - 1);
}

impl Way {
    /// Whether it is about these agents.
    pub fn is_between(self, from: AgentNumber, onto: AgentNumber) -> bool {
        (self.from == AgentNumber::EVERY || self.from == from)
            && (self.onto == AgentNumber::EVERY || self.onto == onto)
    }

    /// The ways of one rule between two sides of which the selectors are known to match.
    pub fn of_rule(
        rules: &Rules,
        index: u32,
        src: impl Fn(&End) -> bool,
        dst: impl Fn(&End) -> bool,
        ways: &mut Vec<Self>,
    ) {
        let rule = rules.rule(index);
        for from in rule.src.iter().filter(|end| src(end)) {
            for onto in rule.dst.iter().filter(|end| dst(end)) {
                let way = Self {
                    rule: index,
                    verbs: rule.msg,
                    of_one_user: onto.is_of_source_user(),
                    asks_more: rule.valid.is_some(),
                    from: rules.agents.in_rule(from),
                    onto: rules.agents.in_rule(onto),
                };
                if !ways.contains(&way) {
                    ways.push(way);
                }
            }
        }
    }

    /// Whether a rule has such ways at all for what comes from a class.
    pub fn is_open(rule: &ResolvedRule, src: &Class) -> bool {
        !rule.msg.is_empty() && rule.is_met_by(src)
    }
}

impl AgentNumbers {
    pub fn new<'a>(ends: impl Iterator<Item = &'a End>) -> Self {
        let mut numbers = Self::default();
        for end in ends {
            if let Some(AgentPattern::Named(name)) = &end.agent {
                let next = u32::try_from(numbers.numbers.len()).unwrap_or(u32::MAX - 2);
                let next = AgentNumber(next);
                numbers.numbers.entry(name.clone()).or_insert(next);
            }
        }
        numbers
    }

    /// The number of an agent in a question.
    pub fn of(&self, name: &AgentName) -> AgentNumber {
        self.numbers
            .get(name)
            .copied()
            .unwrap_or(AgentNumber::OTHER)
    }

    fn in_rule(&self, end: &End) -> AgentNumber {
        match &end.agent {
            None | Some(AgentPattern::Every) => AgentNumber::EVERY,
            Some(AgentPattern::Named(name)) => self.of(name),
        }
    }
}
