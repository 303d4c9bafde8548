//! From names to nodes: which rules may concern which gateways.
//!
//! Nodes that match the same selectors form one *class*. Per class the rules are listed that have
//! it as source or destination, so that a verdict intersects two short lists instead of walking
//! the file; at the gateway for which a policy is compiled that intersection is made beforehand.

mod matcher;
mod nodes;
mod quick;
mod rules;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use identity::{NodeId, NodeName, UserName};

pub(crate) use self::matcher::Matcher;
use self::nodes::Nodes;
pub(crate) use self::quick::Way;
pub(crate) use self::rules::{
    Addresses, End, Posture, ResolvedBlock, ResolvedGuard, ResolvedRule, Rules, ends_in,
};
use crate::{Document, Node};

/// A document, resolved for the nodes of a mesh. Cheap to clone: a clone shares what it does not
/// change.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    rules: Arc<Rules>,
    nodes: Nodes,
    local: Option<Local>,
    next_class: u32,
}

/// The gateway for which a policy is compiled.
#[derive(Clone, Debug)]
struct Local {
    id: NodeId,
    class: Arc<Class>,
    /// The same as in the map, without the way there.
    place: Option<Place>,
    /// What every gateway may send here, and what this one may send to every other.
    to_all: Box<[Way]>,
    from_all: Box<[Way]>,
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub class: Arc<Class>,
    pub facts: Arc<Facts>,
    has: Has,
}

/// What a class has at all, beside the pointer to it: most nodes of a large mesh have nothing to do
/// with the local gateway, and to find that out must not cost a look at their class.
#[derive(Clone, Copy, Debug, Default)]
struct Has {
    ways_to_local: bool,
    ways_from_local: bool,
    blocks: bool,
    /// Guards on either side beside those of all.
    guards_as_src: bool,
    guards_as_dst: bool,
    /// It is the local gateway itself.
    is_local: bool,
}

/// What is told of a node, and what only its own user's rules ask.
#[derive(Debug)]
pub(crate) struct Facts {
    pub id: NodeId,
    /// Only where it has no tags.
    pub user: Option<UserName>,
    pub name: NodeName,
    /// The selector that it stands for, of a hypothetical node.
    pub stands_for: Option<Box<str>>,
    pub addresses: Box<[IpAddr]>,
}

/// Nodes that no selector of the file tells apart.
#[derive(Debug, Default)]
pub(crate) struct Class {
    pub id: u32,
    /// The selectors that match, sorted.
    selectors: Box<[u32]>,
    /// The rules that have it on one side, ascending.
    src: Box<[u32]>,
    dst: Box<[u32]>,
    guard_src: Box<[u32]>,
    guard_dst: Box<[u32]>,
    blocks: Box<[u32]>,
    /// The ways for messages to the local gateway, and from it, beside those that are everybody's.
    to_local: Box<[Way]>,
    from_local: Box<[Way]>,
}

impl Resolved {
    pub fn new(document: &Document, nodes: &[Node], local: Option<&NodeId>) -> Self {
        let rules = Arc::new(Rules::new(document));
        let local = local.and_then(|id| nodes.iter().find(|node| node.id == *id));
        let local = local.map(|node| Local::new(&rules, node));
        let mut resolved = Self {
            rules,
            nodes: Nodes::default(),
            local,
            next_class: 0,
        };
        let mut classes: BTreeMap<Box<[u32]>, Arc<Class>> = BTreeMap::new();
        for node in nodes {
            let selectors = resolved.rules.matcher.selectors_of(node);
            let class = match classes.get(&selectors) {
                Some(class) => class.clone(),
                None => {
                    let class = resolved.new_class(selectors.clone());
                    classes.insert(selectors, class.clone());
                    class
                }
            };
            let place = Place::new(node, class, &resolved.rules);
            resolved.nodes.insert(place);
        }
        resolved.settle_local();
        resolved
    }

    /// Marks the local gateway's place, and keeps it at hand.
    fn settle_local(&mut self) {
        let Some(local) = &mut self.local else {
            return;
        };
        if let Some(place) = self.nodes.get(&local.id) {
            let mut place = place.clone();
            place.has.is_local = true;
            local.place = Some(place.clone());
            self.nodes.insert(place);
        }
    }

    /// One node more, or a newer view of it. The local gateway itself cannot change in this way.
    pub fn insert(&mut self, node: &Node) {
        let class = self.new_class(self.rules.matcher.selectors_of(node));
        let place = Place::new(node, class, &self.rules);
        self.nodes.insert(place);
    }

    pub fn remove(&mut self, id: &NodeId) {
        self.nodes.remove(id);
    }

    /// Says what a hypothetical node stands for: it is called by that.
    pub fn stand_for(&mut self, id: &NodeId, selector: &str) {
        let Some(place) = self.nodes.get(id) else {
            return;
        };
        let facts = Facts {
            id: *id,
            user: place.facts.user.clone(),
            name: place.facts.name.clone(),
            stands_for: Some(selector.into()),
            addresses: place.facts.addresses.clone(),
        };
        let place = Place {
            facts: Arc::new(facts),
            ..place.clone()
        };
        self.nodes.insert(place);
    }

    fn new_class(&mut self, selectors: Box<[u32]>) -> Arc<Class> {
        let id = self.next_class;
        self.next_class += 1;
        let local = self.local.as_ref().map(|local| &*local.class);
        Arc::new(Class::new(&self.rules, selectors, local, id))
    }

    /// The gateway that it is prepared for.
    pub fn local(&self) -> Option<&NodeId> {
        self.local.as_ref().map(|local| &local.id)
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn node(&self, id: &NodeId) -> Option<&Place> {
        match &self.local {
            Some(Local {
                place: Some(place), ..
            }) if place.facts.id == *id => Some(place),
            _ => self.nodes.get(id),
        }
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Place> {
        self.nodes.iter()
    }

    /// The rules that may allow a message between agents of two nodes, in file order.
    pub fn message_rules<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedRule> {
        common(&src.class.src, &dst.class.dst)
            .map(|index| self.rules.rule(index))
            .filter(|rule| rule.is_for_messages())
    }

    /// The ways for messages between two nodes of which one is the local gateway, in two parts, each
    /// in file order; none where neither is.
    pub fn ways<'a>(&'a self, src: &'a Place, dst: &'a Place) -> Option<[&'a [Way]; 2]> {
        let local = self.local.as_ref()?;
        if dst.has.is_local {
            let own = src.has.ways_to_local.then(|| &*src.class.to_local);
            return Some([&local.to_all, own.unwrap_or_default()]);
        }
        let own = || dst.has.ways_from_local.then(|| &*dst.class.from_local);
        src.has
            .is_local
            .then(|| [&*local.from_all, own().unwrap_or_default()])
    }

    /// The rules that may let packets from `src` to `dst`, in file order.
    pub fn packet_rules<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedRule> {
        common(&src.class.src, &dst.class.dst)
            .map(|index| self.rules.rule(index))
            .filter(|rule| !rule.ip.is_empty())
    }

    /// The rules that have a node as source, in file order.
    pub fn rules_from<'a>(&'a self, src: &'a Place) -> impl Iterator<Item = &'a ResolvedRule> {
        src.class.src.iter().map(|index| self.rules.rule(*index))
    }

    /// The rules that have one node as source and another as destination, in file order.
    pub fn rules_between<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedRule> {
        common(&src.class.src, &dst.class.dst).map(|index| self.rules.rule(index))
    }

    /// The guards that may be about what goes from one node to another, in file order.
    pub fn guards_between<'a>(
        &'a self,
        src: &'a Place,
        dst: &'a Place,
    ) -> impl Iterator<Item = &'a ResolvedGuard> {
        // What is in both lists and not of all is on either side beside those of all.
        let own = src.has.guards_as_src && dst.has.guards_as_dst;
        let all = (!own).then(|| self.rules.guards_of_all.iter().copied());
        let listed = own.then(|| common(&src.class.guard_src, &dst.class.guard_dst));
        let indices = all.into_iter().flatten();
        indices
            .chain(listed.into_iter().flatten())
            .map(|index| self.rules.guard(index))
    }

    /// The guards that have a node as source, in file order.
    pub fn guards_from<'a>(&'a self, src: &'a Place) -> impl Iterator<Item = &'a ResolvedGuard> {
        src.class
            .guard_src
            .iter()
            .map(|index| self.rules.guard(*index))
    }

    /// The blocks that may be about a node or its agents, in file order.
    pub fn blocks_of<'a>(&'a self, place: &'a Place) -> impl Iterator<Item = &'a ResolvedBlock> {
        let blocks = place.has.blocks.then(|| place.class.blocks.iter());
        blocks
            .into_iter()
            .flatten()
            .map(|index| self.rules.block(*index))
    }
}

impl Local {
    fn new(rules: &Rules, node: &Node) -> Self {
        let class = Class::new(rules, rules.matcher.selectors_of(node), None, 0);
        let (mut to_all, mut from_all) = (Vec::new(), Vec::new());
        for index in class.dst.iter().copied() {
            let rule = rules.rule(index);
            if rule.postures.is_empty() && !rule.msg.is_empty() {
                let src = |end: &End| end.is_every;
                Way::of_rule(rules, index, src, |end| end.is_of(&class), &mut to_all);
            }
        }
        for index in class.src.iter().copied() {
            if Way::is_open(rules.rule(index), &class) {
                let dst = |end: &End| end.is_every;
                Way::of_rule(rules, index, |end| end.is_of(&class), dst, &mut from_all);
            }
        }
        Self {
            id: node.id,
            class: Arc::new(class),
            place: None,
            to_all: to_all.into(),
            from_all: from_all.into(),
        }
    }
}

impl Place {
    pub fn new(node: &Node, class: Arc<Class>, rules: &Rules) -> Self {
        let facts = Facts {
            id: node.id,
            user: node.owner().cloned(),
            name: node.name.clone(),
            stands_for: None,
            addresses: node.addresses.as_slice().into(),
        };
        Self {
            has: class.has_at_all(rules),
            class,
            facts: Arc::new(facts),
        }
    }

    /// Whether both belong to one user.
    pub fn has_user_of(&self, other: &Self) -> bool {
        self.facts.user.is_some() && self.facts.user == other.facts.user
    }
}

impl Facts {
    /// What people call it: its name, or the selector that it stands for.
    pub fn called(&self) -> &str {
        self.stands_for.as_deref().unwrap_or(self.name.as_str())
    }
}

impl Class {
    fn new(rules: &Rules, selectors: Box<[u32]>, local: Option<&Self>, id: u32) -> Self {
        let listed = |postings: &rules::Postings| postings.of_any(&selectors);
        let mut class = Self {
            id,
            src: listed(&rules.by_src),
            dst: listed(&rules.by_dst),
            guard_src: listed(&rules.guards_by_src),
            guard_dst: listed(&rules.guards_by_dst),
            blocks: listed(&rules.blocks_by_match),
            selectors,
            ..Self::default()
        };
        if let Some(local) = local {
            class.to_local = class.ways_to(rules, local);
            class.from_local = class.ways_from(rules, local);
        }
        class
    }

    /// The ways from this class to the local gateway's that are not everybody's. What asks for a
    /// posture is nobody's but of those who meet it.
    fn ways_to(&self, rules: &Rules, local: &Self) -> Box<[Way]> {
        let mut ways = Vec::new();
        for index in common(&self.src, &local.dst) {
            let rule = rules.rule(index);
            if Way::is_open(rule, self) {
                let everybody = rule.postures.is_empty();
                let src = |end: &End| end.is_of(self) && !(everybody && end.is_every);
                Way::of_rule(rules, index, src, |end| end.is_of(local), &mut ways);
            }
        }
        ways.into()
    }

    /// The ways from the local gateway's class to this one that do not lead everywhere.
    fn ways_from(&self, rules: &Rules, local: &Self) -> Box<[Way]> {
        let mut ways = Vec::new();
        for index in common(&local.src, &self.dst) {
            if Way::is_open(rules.rule(index), local) {
                let dst = |end: &End| end.is_of(self) && !end.is_every;
                Way::of_rule(rules, index, |end| end.is_of(local), dst, &mut ways);
            }
        }
        ways.into()
    }

    fn has_at_all(&self, rules: &Rules) -> Has {
        // Those of all are in every list, so that more is others.
        let others = |list: &[u32]| list.len() > rules.guards_of_all.len();
        Has {
            ways_to_local: !self.to_local.is_empty(),
            ways_from_local: !self.from_local.is_empty(),
            blocks: !self.blocks.is_empty(),
            guards_as_src: others(&self.guard_src),
            guards_as_dst: others(&self.guard_dst),
            is_local: false,
        }
    }

    /// The numbers of the selectors that match, sorted.
    pub fn selectors(&self) -> &[u32] {
        &self.selectors
    }

    /// Whether a selector of the file matches.
    pub fn has(&self, selector: u32) -> bool {
        self.selectors.binary_search(&selector).is_ok()
    }
}

/// What is in both of two ascending lists.
fn common<'a>(left: &'a [u32], right: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
    let mut left = left.iter().copied().peekable();
    let mut right = right.iter().copied().peekable();
    std::iter::from_fn(move || {
        loop {
            let (a, b) = (*left.peek()?, *right.peek()?);
            if a <= b {
                left.next();
            }
            if b <= a {
                right.next();
            }
            if a == b {
                return Some(a);
            }
        }
    })
}
