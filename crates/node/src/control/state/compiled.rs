//! The policy in force, resolved for the members. It is read once for each file, and resolved anew
//! only where that costs less than to follow who joined and who left.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{Digest, NodeId, UnixTime};
use policy::{Document, Policy};

use super::{Event, State};

/// A policy that was read and resolved, and for what.
#[derive(Debug)]
pub(super) struct Compiled {
    digest: Digest,
    document: Option<Document>,
    /// Resolved for this day, where something asks how old a gateway is; for none without a clock.
    day: Option<u64>,
    /// Resolved for whoever has no clock.
    clock_is_behind: bool,
    members: BTreeMap<NodeId, Digest>,
    /// Members that joined or left since it was last resolved anew.
    followed: usize,
    pub(super) policy: Option<Arc<Policy>>,
}

impl State {
    /// Reads the policy where it is new, and resolves it for these members.
    pub(super) fn compile(&mut self, members: &[(NodeId, Digest)], clock_is_behind: bool) {
        let at = self.trust.clock(self.now.clock);
        let at = (!clock_is_behind).then_some(at);
        let Some(bundle) = self.trust.policy() else {
            self.compiled = None;
            return;
        };
        let known = self.compiled.take();
        let known = known.filter(|compiled| compiled.digest == bundle.digest);
        let mut compiled = match known {
            Some(known) => known,
            None => match Document::parse(POLICY_NAME, &bundle.text) {
                Ok((document, _)) => Compiled::of(bundle.digest, Some(document)),
                Err(diagnostics) => {
                    // Signed, and newer than this program: to go on with the older policy would
                    // allow what was taken away.
                    let compiled = Compiled::of(bundle.digest, None);
                    let first = diagnostics.first().map(ToString::to_string);
                    self.event(Event::PolicyUnreadable(first.unwrap_or_default()));
                    compiled
                }
            },
        };
        let members = members.iter().copied().collect();
        let node = |id: &NodeId| policy::Node::from_member(self.trust.member(id)?, at);
        compiled.follow(members, at, node, &self.me.node);
        self.compiled = Some(compiled);
    }
}

impl Compiled {
    fn of(digest: Digest, document: Option<Document>) -> Self {
        Self {
            digest,
            document,
            day: None,
            clock_is_behind: false,
            members: BTreeMap::new(),
            followed: 0,
            policy: None,
        }
    }

    /// The next moment after `at` at which the policy may say something else: by its dates and
    /// hours, or because gateways are a day older.
    pub(super) fn next_change(&self, at: UnixTime) -> Option<UnixTime> {
        let hours = self
            .policy
            .as_ref()
            .and_then(|policy| policy.next_change(at));
        let midnight = self.day.map(|day| UnixTime((day + 1) * DAY));
        hours.into_iter().chain(midnight).min()
    }

    /// Makes it a policy for these members.
    fn follow(
        &mut self,
        members: BTreeMap<NodeId, Digest>,
        at: Option<UnixTime>,
        node: impl Fn(&NodeId) -> Option<policy::Node>,
        local: &NodeId,
    ) {
        let Some(document) = &self.document else {
            return;
        };
        let clock_is_behind = at.is_none();
        let day = at
            .filter(|_| document.asks_for_postures())
            .map(|at| at.0 / DAY);
        let same_clock = self.clock_is_behind == clock_is_behind && self.day == day;
        if let Some(policy) = self.policy.as_ref().filter(|_| same_clock) {
            let is_new =
                |(id, membership): &(&NodeId, &Digest)| self.members.get(*id) != Some(*membership);
            let joined = members.iter().filter(is_new).map(|(id, _)| id);
            let joined: Vec<policy::Node> = joined.filter_map(&node).collect();
            let left = self.members.keys().filter(|id| !members.contains_key(id));
            let left: Vec<NodeId> = left.copied().collect();
            let followed = self.followed + joined.len() + left.len();
            if followed == self.followed {
                return;
            }
            // What is followed shares less than what is made at once: that costs memory, and a
            // policy is made anew before this doubles.
            let changed = match followed <= members.len() {
                true => policy.with_changes(&joined, &left),
                false => None,
            };
            if let Some(changed) = changed {
                self.policy = Some(Arc::new(changed));
                (self.members, self.followed) = (members, followed);
                return;
            }
        }
        let nodes: Vec<policy::Node> = members.keys().filter_map(node).collect();
        let policy = match clock_is_behind {
            true => Policy::compile_for(&document.without_clock(), &nodes, local),
            false => Policy::compile_for(document, &nodes, local),
        };
        self.policy = Some(Arc::new(policy));
        (self.members, self.clock_is_behind, self.day) = (members, clock_is_behind, day);
        self.followed = 0;
    }
}

/// In seconds: attributes count days by midnights in UTC.
const DAY: u64 = 86_400;

/// How the policy is called in what is said about it.
const POLICY_NAME: &str = "policy.hujson";
