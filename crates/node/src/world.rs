//! What the rest of the node may rely on: the members, the policy and the kills, as one snapshot
//! that the control task publishes in a watch channel. A reader keeps its `Arc` for one decision at
//! most.
//!
//! **Invariant:** a kill goes before the policy, in every decision that is made here.

mod kills;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::sync::Arc;

use identity::{
    AgentName, BoundedClock, IdentityPublic, MeshName, NodeId, NodeName, Order, Tag, UnixTime,
    UserName,
};
use policy::{Denial, Feature, MessageRequest, Policy, Verb, Verdict};
use router::Authority;

pub use kills::Kills;

/// The mesh as this gateway believes it at one moment.
#[derive(Clone, Debug)]
pub struct World {
    /// This gateway.
    pub node: NodeId,
    /// The mesh's name.
    pub mesh: MeshName,
    /// Every gateway whose membership is good now, this one included. Who is revoked or expired
    /// is absent.
    pub members: BTreeMap<NodeId, WorldMember>,
    /// The same by name.
    pub names: BTreeMap<NodeName, NodeId>,
    /// The policy in force; none, no traffic.
    pub policy: Option<WorldPolicy>,
    /// When the snapshot was made, by the clock that dates are judged by. The next one comes no
    /// later than the first date or hour of the policy that changes something.
    pub at: UnixTime,
    /// What is believed of the clock of whoever asks later.
    pub clock: BoundedClock,
    /// Whom the operator killed.
    pub kills: Kills,
}

/// One gateway of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorldMember {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Whose it is, where it has no tags.
    pub user: Option<UserName>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// The key that its TLS must prove, inside its tunnel and at beacons.
    pub identity: IdentityPublic,
    /// Its address inside the mesh.
    pub overlay: Ipv6Addr,
    /// When its membership ends.
    pub expires_at: UnixTime,
}

/// The policy in force, and where it stands.
#[derive(Clone, Debug)]
pub struct WorldPolicy {
    /// Compiled for the members of the same snapshot.
    pub policy: Arc<Policy>,
    /// Epoch and version.
    pub order: Order,
    /// When it was signed.
    pub signed_at: UnixTime,
    /// The file as it was pushed.
    pub text: Arc<str>,
}

impl World {
    /// A gateway that knows itself alone and has no policy: nothing may pass.
    pub fn alone(node: NodeId, mesh: MeshName) -> Self {
        Self {
            node,
            mesh,
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            policy: None,
            at: UnixTime(0),
            clock: BoundedClock::default(),
            kills: Kills::default(),
        }
    }

    /// Puts one more member, or a newer view of it, into the snapshot.
    pub fn insert(&mut self, member: WorldMember) {
        self.names.insert(member.name.clone(), member.node);
        self.members.insert(member.node, member);
    }

    /// The member of that name.
    pub fn named(&self, name: &NodeName) -> Option<&WorldMember> {
        self.members.get(self.names.get(name)?)
    }

    /// Whether an agent there (any, without a name) may do anything to an agent here. For
    /// directories and pings; messages are judged one by one.
    pub fn reachable(&self, from: (NodeId, Option<&AgentName>), to: (NodeId, &AgentName)) -> bool {
        !self.cut(from, to)
            && self
                .policy
                .as_ref()
                .is_some_and(|WorldPolicy { policy, .. }| {
                    policy.reachable((&from.0, from.1), (&to.0, to.1), self.at)
                })
    }

    /// The same for asking with parts of the answer as they come.
    pub fn may_stream(&self, from: (NodeId, Option<&AgentName>), to: (NodeId, &AgentName)) -> bool {
        !self.cut(from, to)
            && self
                .policy
                .as_ref()
                .is_some_and(|WorldPolicy { policy, .. }| {
                    policy.reachable_by(Verb::Stream, (&from.0, from.1), (&to.0, to.1), self.at)
                })
    }

    /// Whether a kill stands between the two.
    fn cut(&self, from: (NodeId, Option<&AgentName>), to: (NodeId, &AgentName)) -> bool {
        let from_agent = from.1.map(|agent| (from.0, agent));
        self.kills.gateway(&from.0).is_some()
            || [from_agent, Some(to)]
                .into_iter()
                .flatten()
                .any(|end| self.kills.denial(end).is_some())
    }

    /// By which time a question is judged that is asked at `now`: never an earlier one than that
    /// of the snapshot, or what it closed would be open for whose clock is a moment behind.
    fn time_of(&self, now: UnixTime) -> UnixTime {
        self.clock.at(now).max(self.at)
    }

    /// Asks the policy, unless a kill says no.
    fn judge(
        &self,
        request: &MessageRequest<'_>,
        ask: impl FnOnce(&Policy, &MessageRequest<'_>) -> Verdict,
    ) -> Verdict {
        let killed = [request.src, request.dst]
            .into_iter()
            .find_map(|end| self.kills.denial(end));
        if let Some(denial) = killed {
            return Verdict::Denied(denial);
        }
        let request = MessageRequest {
            at: self.time_of(request.at),
            ..*request
        };
        match &self.policy {
            Some(WorldPolicy { policy, .. }) => ask(policy, &request),
            None => Verdict::Denied(Denial {
                code: "no_policy",
                reason: "this gateway has no policy yet, so nothing is allowed".into(),
                rule: None,
                missing_grant: None,
            }),
        }
    }

    /// This gateway's own name, once it knows its membership.
    pub fn own_name(&self) -> Option<&NodeName> {
        self.members.get(&self.node).map(|member| &member.name)
    }
}

impl Authority for World {
    fn authorize(&self, request: &MessageRequest<'_>) -> Verdict {
        self.judge(request, Policy::authorize)
    }

    fn authorize_reply(&self, request: &MessageRequest<'_>) -> Verdict {
        self.judge(request, Policy::authorize_reply)
    }

    fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    fn node_named(&self, name: &NodeName) -> Option<NodeId> {
        // Who was cut off is told so; only whom nobody ever met is unknown.
        self.names
            .get(name)
            .copied()
            .or_else(|| self.kills.gateway_named(name))
    }

    fn name_of(&self, node: &NodeId) -> Option<NodeName> {
        self.members.get(node).map(|member| member.name.clone())
    }
}

/// What guards may demand of this program. The others are parsed and explained, deny what they are
/// about, and are refused at a push, so that nobody believes in a guard that is not there.
pub const ENFORCES: [Feature; 3] = [Feature::Rate, Feature::MaxBytes, Feature::DenyWindows];

#[cfg(test)]
mod tests {
    use policy::{Document, Node, Verb};
    use router::{BLOCKED, CUT_OFF};

    use super::*;

    const ANA: NodeId = NodeId([1; 16]);
    const BOB: NodeId = NodeId([2; 16]);

    /// `gw-1` and `gw-2`, whose agents may do everything.
    fn world() -> World {
        let text =
            r#"{"grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["send", "request"]}]}"#;
        let mut world = World::alone(ANA, "home".parse().expect("a name"));
        for (node, name) in [(ANA, "gw-1"), (BOB, "gw-2")] {
            let name: NodeName = name.parse().expect("a name");
            let user: Option<UserName> = Some("ana@example.com".parse().expect("a user"));
            world.insert(WorldMember {
                node,
                name,
                user,
                tags: Vec::new(),
                identity: IdentityPublic(node.0.repeat(2).try_into().expect("32 bytes")),
                overlay: Ipv6Addr::LOCALHOST,
                expires_at: UnixTime(u64::MAX),
            });
        }
        set_policy(&mut world, text);
        world
    }

    fn set_policy(world: &mut World, text: &str) {
        let (document, _) = Document::parse("policy.hujson", text).expect("a policy");
        let node = |member: &WorldMember| Node {
            user: member.user.clone(),
            ..Node::new(member.node, member.name.clone())
        };
        let nodes: Vec<Node> = world.members.values().map(node).collect();
        world.policy = Some(WorldPolicy {
            policy: Arc::new(Policy::compile(&document, &nodes)),
            order: Order::default(),
            signed_at: UnixTime(0),
            text: text.into(),
        });
    }

    fn name(text: &str) -> AgentName {
        text.parse().expect("a name")
    }

    /// The code of the denial, where it is one.
    fn verdict(world: &World, from: (NodeId, &str), to: (NodeId, &str)) -> Option<&'static str> {
        let (from, to) = ((from.0, name(from.1)), (to.0, name(to.1)));
        let request = MessageRequest {
            src: (from.0, &from.1),
            dst: (to.0, &to.1),
            verb: Verb::Request,
            at: UnixTime(0),
            bytes: None,
        };
        match world.authorize(&request) {
            Verdict::Allowed { .. } => None,
            Verdict::Denied(denial) => Some(denial.code),
        }
    }

    #[test]
    fn a_killed_agent_may_do_nothing_and_its_neighbours_everything() {
        let mut world = world();
        let coder = name("coder");
        world
            .kills
            .add_agent(BOB, &"coder@gw-2".parse().expect("an address"));

        assert_eq!(
            verdict(&world, (ANA, "planner"), (BOB, "coder")),
            Some(BLOCKED)
        );
        assert_eq!(
            verdict(&world, (BOB, "coder"), (ANA, "planner")),
            Some(BLOCKED)
        );
        assert_eq!(
            verdict(&world, (BOB, "coder"), (BOB, "tester")),
            Some(BLOCKED)
        );
        assert_eq!(verdict(&world, (ANA, "coder"), (BOB, "tester")), None);

        let planner = name("planner");
        assert!(!world.reachable((ANA, Some(&planner)), (BOB, &coder)));
        assert!(!world.reachable((BOB, Some(&coder)), (ANA, &planner)));
        assert!(world.reachable((BOB, None), (ANA, &planner)));
    }

    #[test]
    fn a_clock_that_is_behind_the_snapshot_opens_nothing_again() {
        let mut world = world();
        let grant = r#"{"grants": [{"src": ["*"], "dst": ["agent:*@*"], "msg": ["request"],
            "valid": {"notBefore": "2027-01-01T00:00:00Z", "notAfter": "2027-02-01T00:00:00Z"}}]}"#;
        set_policy(&mut world, grant);
        let [before, inside, after] = [1_798_000_000, 1_799_000_000, 1_802_000_000].map(UnixTime);
        let verdict_at = |world: &World, at| {
            let (from, to) = (name("planner"), name("coder"));
            let request = MessageRequest {
                src: (ANA, &from),
                dst: (BOB, &to),
                verb: Verb::Request,
                at,
                bytes: None,
            };
            world.authorize(&request).is_allowed()
        };

        let seen = [before, inside, after].map(|at| verdict_at(&world, at));
        assert_eq!(seen, [false, true, false]);
        world.at = after;
        assert!(!verdict_at(&world, inside));
    }

    #[test]
    fn a_gateway_that_was_cut_off_is_named_and_not_unknown() {
        let mut world = world();
        let gone = world.members.remove(&BOB).expect("a member");
        world.names.remove(&gone.name);
        world
            .kills
            .add_gateway(BOB, gone.name.clone(), "user:ana@example.com");

        assert_eq!(world.node_named(&gone.name), Some(BOB));
        assert_eq!(world.name_of(&BOB), None, "and so nothing is sent there");
        assert_eq!(
            verdict(&world, (ANA, "planner"), (BOB, "coder")),
            Some(CUT_OFF)
        );
        assert!(!world.reachable((BOB, None), (ANA, &name("planner"))));
    }
}
