//! The rules, guards and blocks of a file with numbers for selectors: what depends on the document
//! alone and is shared by every snapshot.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::quick::AgentNumbers;
use identity::Tag;

use super::{Class, Matcher, Place};
use crate::address::{AddressSet, Prefix};
use crate::document::{
    AgentPattern, Approve, Assertion, Block, Capability, Guard, HttpRule, NodeSelector, Ports,
    Rate, Rule, Selector, Spanned, Spend, Valid, Window,
};
use crate::{Document, GrantRef, Skill, VerbSet};

/// Everything of a file that asks about nodes.
#[derive(Debug)]
pub(crate) struct Rules {
    rules: Vec<ResolvedRule>,
    guards: Vec<ResolvedGuard>,
    blocks: Vec<ResolvedBlock>,
    pub matcher: Matcher,
    pub agents: AgentNumbers,
    pub by_src: Postings,
    pub by_dst: Postings,
    pub guards_by_src: Postings,
    pub guards_by_dst: Postings,
    /// The guards that are about every pair of gateways, ascending.
    pub guards_of_all: Box<[u32]>,
    pub blocks_by_match: Postings,
    /// By number.
    pub selectors: Box<[NodeSelector]>,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct ResolvedRule {
    pub name: GrantRef,
    pub ip: Vec<Ports>,
    pub msg: VerbSet,
    pub skills: Vec<Skill>,
    pub app: Vec<Capability>,
    /// Only over gateways with one of these tags.
    pub via: Vec<Tag>,
    pub http: Vec<HttpRule>,
    pub credential: Option<Box<str>>,
    pub valid: Option<Valid>,
    /// The postures of which the source must meet one, and what each asserts.
    pub postures: Box<[Posture]>,
    pub src: Vec<End>,
    pub dst: Vec<End>,
    /// The destinations that are no nodes.
    pub resources: Vec<Selector>,
    /// Whether it also opens the way to the internet over a gateway that is one.
    pub to_internet: bool,
}

/// One posture that a rule asks for.
#[derive(Debug)]
pub(crate) struct Posture {
    pub selector: u32,
    pub name: Box<str>,
    pub assertions: Vec<Assertion>,
}

/// One guard.
#[derive(Debug)]
pub(crate) struct ResolvedGuard {
    pub name: GrantRef,
    pub msg: VerbSet,
    pub rate: Option<Rate>,
    pub max_bytes: Option<u64>,
    pub approve: Option<Approve>,
    pub spend: Option<Spend>,
    pub deny: Vec<Window>,
    pub src: Vec<End>,
    pub dst: Vec<End>,
    pub resources: Vec<Selector>,
}

/// One block.
#[derive(Debug)]
pub(crate) struct ResolvedBlock {
    pub block: Block,
    pub matches: Vec<End>,
}

/// One selector of a rule.
#[derive(Debug)]
pub(crate) struct End {
    pub selector: u32,
    /// Whether the selector is `*`.
    pub is_every: bool,
    pub agent: Option<AgentPattern>,
    pub of_source_user: bool,
    /// Narrows packets to these addresses of the node.
    pub within: Option<Addresses>,
}

/// Addresses as a selector names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Addresses {
    Block(Prefix),
    Set(std::sync::Arc<AddressSet>),
}

/// By selector, the indices of those that have it, ascending.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    by_selector: Vec<Box<[u32]>>,
}

impl Rules {
    pub fn new(document: &Document) -> Self {
        let mut numbers = Numbers {
            document,
            ids: BTreeMap::new(),
        };
        let rules: Vec<_> = document
            .rules
            .iter()
            .map(|rule| numbers.rule(rule))
            .collect();
        let guards: Vec<_> = document
            .guards
            .iter()
            .map(|guard| numbers.guard(guard))
            .collect();
        let blocks: Vec<_> = document
            .blocks
            .iter()
            .map(|block| ResolvedBlock {
                matches: numbers.ends(&block.matches),
                block: block.clone(),
            })
            .collect();
        let ids = numbers.ids;
        let postings = |ends: &mut dyn Iterator<Item = &Vec<End>>| Postings::new(ids.len(), ends);
        Self {
            by_src: postings(&mut rules.iter().map(|rule| &rule.src)),
            by_dst: postings(&mut rules.iter().map(|rule| &rule.dst)),
            guards_by_src: postings(&mut guards.iter().map(|guard| &guard.src)),
            guards_of_all: (0u32..)
                .zip(&guards)
                .filter(|(_, guard)| {
                    let everybody = |ends: &[End]| ends.iter().any(|end| end.is_every);
                    everybody(&guard.src) && everybody(&guard.dst)
                })
                .map(|(index, _)| index)
                .collect(),
            guards_by_dst: postings(&mut guards.iter().map(|guard| &guard.dst)),
            blocks_by_match: postings(&mut blocks.iter().map(|block| &block.matches)),
            matcher: Matcher::new(document, &ids),
            agents: AgentNumbers::new(
                rules
                    .iter()
                    .flat_map(|rule| rule.src.iter().chain(&rule.dst)),
            ),
            selectors: {
                let mut numbered: Vec<_> = ids.iter().map(|(it, id)| (*id, it.clone())).collect();
                numbered.sort_unstable_by_key(|(id, _)| *id);
                numbered.into_iter().map(|(_, selector)| selector).collect()
            },
            rules,
            guards,
            blocks,
        }
    }

    pub fn rule(&self, index: u32) -> &ResolvedRule {
        &self.rules[index as usize]
    }

    pub fn guard(&self, index: u32) -> &ResolvedGuard {
        &self.guards[index as usize]
    }

    pub fn block(&self, index: u32) -> &ResolvedBlock {
        &self.blocks[index as usize]
    }

    pub fn all(&self) -> &[ResolvedRule] {
        &self.rules
    }

    pub fn all_guards(&self) -> &[ResolvedGuard] {
        &self.guards
    }

    pub fn all_blocks(&self) -> &[ResolvedBlock] {
        &self.blocks
    }
}

impl ResolvedRule {
    /// Whether it allows something between agents.
    pub fn is_for_messages(&self) -> bool {
        !self.msg.is_empty() || !self.skills.is_empty()
    }

    /// Whether a node meets one of its postures, where it has any.
    pub fn is_met_by(&self, src: &Class) -> bool {
        let meets = |posture: &Posture| src.has(posture.selector);
        self.postures.is_empty() || self.postures.iter().any(meets)
    }

    /// The destinations that match a node, for what comes from `src`.
    pub fn destinations<'a>(
        &'a self,
        src: &Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a End> {
        let same_user = src.has_user_of(dst);
        ends_in(&self.dst, &dst.class).filter(move |end| same_user || !end.of_source_user)
    }
}

impl ResolvedGuard {
    /// Whether it asks for what only a person or a ledger can give, which nobody here has: then
    /// nothing that it is about passes.
    pub fn asks_a_person(&self) -> bool {
        self.approve.is_some() || self.spend.is_some()
    }
}

impl End {
    /// Whether it matches a class.
    pub fn is_of(&self, class: &Class) -> bool {
        // What is everybody's needs no look at the class.
        self.is_every || class.has(self.selector)
    }

    /// Whether it is `autogroup:self`.
    pub fn is_of_source_user(&self) -> bool {
        self.of_source_user
    }
}

/// The selectors of one side that match a class.
pub(crate) fn ends_in<'a>(ends: &'a [End], class: &'a Class) -> impl Iterator<Item = &'a End> {
    ends.iter().filter(|end| end.is_of(class))
}

impl Addresses {
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Block(block) => block.contains(address),
            Self::Set(set) => set.contains(address),
        }
    }
}

impl Postings {
    fn new(selectors: usize, all: &mut dyn Iterator<Item = &Vec<End>>) -> Self {
        let mut by_selector = vec![Vec::new(); selectors];
        for (index, ends) in (0u32..).zip(all) {
            for end in ends {
                let list: &mut Vec<u32> = &mut by_selector[end.selector as usize];
                // A rule may name one selector twice.
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        Self {
            by_selector: by_selector.into_iter().map(Vec::into_boxed_slice).collect(),
        }
    }

    /// Whatever has one of these selectors, ascending.
    pub fn of_any(&self, selectors: &[u32]) -> Box<[u32]> {
        let lists = selectors
            .iter()
            .filter_map(|selector| self.by_selector.get(*selector as usize));
        let mut indices: Vec<u32> = lists.flat_map(|list| list.iter().copied()).collect();
        indices.sort_unstable();
        indices.dedup();
        indices.into()
    }
}

/// Gives each selector of a file its number.
struct Numbers<'a> {
    document: &'a Document,
    ids: BTreeMap<NodeSelector, u32>,
}

impl Numbers<'_> {
    fn id(&mut self, selector: &NodeSelector) -> u32 {
        if let Some(id) = self.ids.get(selector) {
            return *id;
        }
        let id = u32::try_from(self.ids.len()).expect("a file has fewer than 2^32 bytes");
        self.ids.insert(selector.clone(), id);
        id
    }

    fn ends(&mut self, side: &[Spanned<Selector>]) -> Vec<End> {
        let mut ends = Vec::with_capacity(side.len());
        for entry in side {
            let Some(node) = entry.value.node() else {
                continue;
            };
            ends.push(End {
                selector: self.id(node),
                is_every: *node == NodeSelector::Every,
                agent: entry.value.agent().cloned(),
                of_source_user: *node == NodeSelector::OfSourceUser,
                within: self.addresses(node),
            });
        }
        ends
    }

    fn addresses(&self, node: &NodeSelector) -> Option<Addresses> {
        match node {
            NodeSelector::Within(block) => Some(Addresses::Block(*block)),
            NodeSelector::Set(name) => {
                let set = self.document.names.ipsets.get(name).cloned();
                Some(Addresses::Set(set.unwrap_or_default().into()))
            }
            _ => None,
        }
    }

    fn rule(&mut self, rule: &Rule) -> ResolvedRule {
        let mut postures = Vec::new();
        for name in &rule.postures {
            let asserted = self.document.names.postures.get(name);
            postures.push(Posture {
                selector: self.id(&NodeSelector::Posture(name.clone())),
                name: name.clone(),
                assertions: asserted.cloned().unwrap_or_default(),
            });
        }
        ResolvedRule {
            name: rule.name.clone(),
            ip: rule.ip.clone(),
            msg: rule.msg,
            skills: rule.skills.clone(),
            app: rule.app.clone(),
            via: rule.via.clone(),
            http: rule.http.clone(),
            credential: rule.credential.clone(),
            valid: rule.valid.clone(),
            postures: postures.into(),
            src: self.ends(&rule.src),
            dst: self.ends(&rule.dst),
            resources: resources(&rule.dst),
            to_internet: (rule.dst.iter())
                .any(|entry| entry.value.node() == Some(&NodeSelector::Internet)),
        }
    }

    fn guard(&mut self, guard: &Guard) -> ResolvedGuard {
        ResolvedGuard {
            name: guard.name.clone(),
            msg: guard.msg,
            rate: guard.rate.clone(),
            max_bytes: guard.max_bytes,
            approve: guard.approve.clone(),
            spend: guard.spend.clone(),
            deny: guard.deny.clone(),
            src: self.ends(&guard.src),
            dst: self.ends(&guard.dst),
            resources: resources(&guard.dst),
        }
    }
}

fn resources(side: &[Spanned<Selector>]) -> Vec<Selector> {
    let resources = side.iter().filter(|entry| entry.value.node().is_none());
    resources.map(|entry| entry.value.clone()).collect()
}
