//! What follows from the beliefs: the snapshots that the rest of the node acts on. Each is made
//! anew from [`Trust`](identity::Trust) and put out only where it differs from the last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use identity::{Block, Digest, Member, NodeId, Role, Standing, UnixTime, WireGuardPublic};
use net::link::Papers;
use tunnel::PeerConfig;

use super::{Event, Output, State, Status, WorldKey};
use crate::control::Beacon;
use crate::world::{Kills, World, WorldMember, WorldPolicy};

impl State {
    /// Makes every snapshot again, and puts out those that changed.
    pub(super) fn rebuild(&mut self) {
        let clock = self.now.clock;
        let standing = self.trust.standing(&self.me.node, clock);
        if self.told.standing.replace(standing) != Some(standing) && standing != Standing::Good {
            self.event(Event::Ended(standing));
        }
        let revoked: BTreeSet<NodeId> = self
            .trust
            .members()
            .map(|member| member.node)
            .filter(|node| self.trust.standing(node, clock) == Standing::Revoked)
            .collect();
        for node in revoked
            .difference(&self.told.revoked)
            .copied()
            .collect::<Vec<_>>()
        {
            self.event(Event::Revoked(node));
        }
        self.told.revoked = revoked;
        self.rebuild_world();
        let mut peers = self.peers();
        let calls = self.to_call(&peers);
        self.say_farewell(&mut peers);
        if self.told.peers.as_deref() != Some(&peers) {
            let peers = Arc::new(peers);
            self.told.peers = Some(Arc::clone(&peers));
            self.outputs.push_back(Output::Peers(peers));
        }
        self.outputs.extend(calls.into_iter().map(Output::Dial));
        // Not before the last word is out: links to whatever key answers are new links.
        let ended = standing != Standing::Good && self.farewell.is_over();
        let beacons = self.beacons(ended);
        if self.told.beacons.as_deref() != Some(&beacons) {
            let beacons = Arc::new(beacons);
            self.links
                .retain(|node, _| beacons.iter().any(|beacon| beacon.node == *node));
            self.told.beacons = Some(Arc::clone(&beacons));
            self.outputs.push_back(Output::Beacons(beacons));
        }
        if let Some(papers) = self.papers()
            && self.told.papers.as_ref() != Some(&papers)
        {
            self.told.papers = Some(papers.clone());
            self.outputs.push_back(Output::Papers(papers));
        }
        let status = self.status(standing);
        if self.told.status.as_deref() != Some(&status) {
            let status = Arc::new(status);
            self.told.status = Some(Arc::clone(&status));
            self.outputs.push_back(Output::Status(status));
        }
    }

    fn rebuild_world(&mut self) {
        let clock = self.now.clock;
        let members: Vec<(NodeId, Digest)> = self
            .trust
            .members()
            .filter(|member| member.role == Role::Gateway)
            .filter(|member| self.trust.standing(&member.node, clock) == Standing::Good)
            .map(|member| (member.node, member.membership))
            .collect();
        let key = WorldKey {
            policy: self.trust.policy().map(|bundle| bundle.digest),
            revocations: self.trust.revocations().map(|held| held.digest),
            members: members.clone(),
            clock: self.trust.bounded_clock(),
            clock_is_behind: self.trust.clock_is_behind(clock),
        };
        let at = self.trust.clock(clock);
        // A clock that was set back makes another world as well.
        let same_hours = at >= self.told.at && self.told.change_at.is_none_or(|change| at < change);
        if self.told.world.as_ref() == Some(&key) && same_hours {
            return;
        }
        let clock_is_behind = key.clock_is_behind;
        let policy_is_news = self
            .told
            .world
            .as_ref()
            .is_none_or(|told| told.policy != key.policy);
        let set_is_news = self
            .told
            .world
            .as_ref()
            .is_none_or(|told| told.revocations != key.revocations);
        self.told.world = Some(key);
        if let Some(order) = self.trust.revocations().map(|held| held.order)
            && set_is_news
        {
            self.event(Event::Revocations(order));
        }
        self.compile(&members, clock_is_behind);
        let mut world = World::alone(self.me.node, self.trust.mesh_name().clone());
        for (node, _) in &members {
            if let Some(member) = self.trust.member(node).and_then(world_member) {
                world.insert(member);
            }
        }
        (world.at, world.clock) = (at, self.trust.bounded_clock());
        world.kills = self.kills();
        let bundle = self.trust.policy();
        let policy = self
            .compiled
            .as_ref()
            .and_then(|compiled| compiled.policy.clone());
        self.told.at = at;
        let compiled = self.compiled.as_ref();
        self.told.change_at = compiled.and_then(|compiled| compiled.next_change(at));
        if let (Some(bundle), Some(policy)) = (bundle, policy) {
            let (order, signed_at) = (bundle.order, bundle.signed_at);
            let text = bundle.text.as_str().into();
            world.policy = Some(WorldPolicy {
                policy,
                order,
                signed_at,
                text,
            });
            if policy_is_news {
                self.event(Event::Policy(order));
            }
        }
        let world = Arc::new(world);
        self.told.snapshot = Some(Arc::clone(&world));
        self.outputs.push_back(Output::World(world));
    }

    /// Whom the revocations name, in the terms of decisions: agents of members, and gateways that
    /// are out.
    pub(super) fn kills(&self) -> Kills {
        let mut kills = Kills::default();
        let Some(held) = self.trust.revocations() else {
            return kills;
        };
        let gateways = || {
            self.trust
                .members()
                .filter(|member| member.role == Role::Gateway)
        };
        for block in &held.set.blocks {
            if let Block::Agent(agent) = block {
                // A gateway of that name that takes the place of another inherits this.
                let there = gateways().filter(|member| member.name == agent.node);
                there.for_each(|member| kills.add_agent(member.node, agent));
            }
        }
        for member in gateways() {
            if self.trust.standing(&member.node, self.now.clock) == Standing::Revoked {
                let by = held.set.block_of(member).map(ToString::to_string);
                let by = by.as_deref().unwrap_or("it was revoked by its id");
                kills.add_gateway(member.node, member.name.clone(), by);
            }
        }
        kills
    }

    /// Everybody whom some grant joins to us, in good standing, with a record. Beacons never.
    pub(super) fn peers(&self) -> Vec<PeerConfig> {
        let clock = self.now.clock;
        let me = self.me.node;
        let policy = self
            .compiled
            .as_ref()
            .and_then(|compiled| compiled.policy.as_ref());
        let Some(policy) = policy else {
            return Vec::new();
        };
        if self.trust.standing(&me, clock) != Standing::Good {
            return Vec::new();
        }
        let by_trust_clock = self.trust.clock(clock);
        self.trust
            .members()
            .filter(|member| member.role == Role::Gateway && member.node != me)
            .filter(|member| self.trust.standing(&member.node, clock) == Standing::Good)
            .filter(|member| policy.may_talk(&me, &member.node, by_trust_clock))
            .filter_map(|member| {
                let (record, _) = self.trust.record(&member.node)?;
                if record.expires_at <= by_trust_clock || !self.owns(member.node, record.wireguard)
                {
                    return None;
                }
                Some(PeerConfig {
                    node: member.node,
                    wireguard: record.wireguard,
                    overlay: member.overlay?,
                    relays: record.relays.clone(),
                    addresses: record.addresses.clone(),
                    last_good: self
                        .last_good
                        .get(&member.node)
                        .cloned()
                        .unwrap_or_default(),
                    leaving: false,
                })
            })
            .collect()
    }

    /// Whether this node is the one to expect behind that WireGuard key. A claim excludes nobody
    /// (identity.md §5): who proved it has it; while nobody did, the claimants take turns.
    fn owns(&self, node: NodeId, key: WireGuardPublic) -> bool {
        let claimants: Vec<NodeId> = self
            .trust
            .claimants(&key)
            .filter(|node| self.trust.standing(node, self.now.clock) == Standing::Good)
            .collect();
        if claimants.len() <= 1 {
            return true;
        }
        match claimants
            .iter()
            .find(|claimant| self.proved.contains(&(**claimant, key)))
        {
            Some(owner) => *owner == node,
            None => claimants.get(self.rotation % claimants.len()) == Some(&node),
        }
    }

    fn beacons(&self, ended: bool) -> Vec<Beacon> {
        self.trust
            .members()
            .filter(|member| member.role == Role::Beacon)
            .filter(|member| {
                ended || self.trust.standing(&member.node, self.now.clock) == Standing::Good
            })
            .filter_map(|member| {
                let address = member.beacon.clone()?;
                Some(Beacon {
                    node: member.node,
                    address,
                    key: member.identity,
                    any_key: ended,
                })
            })
            .collect()
    }

    fn papers(&self) -> Option<Papers> {
        let certificate = self.trust.certificate(&self.me.node)?;
        let (_, record) = self.trust.record(&self.me.node)?;
        Some(Papers {
            certificate: Bytes::copy_from_slice(certificate),
            record: Bytes::copy_from_slice(record),
        })
    }

    fn status(&self, standing: Standing) -> Status {
        let mut presence: BTreeMap<NodeId, (bool, UnixTime)> = BTreeMap::new();
        for (node, (online, seen)) in self.links.values().flat_map(|link| &link.presence) {
            let known = presence.entry(*node).or_insert((*online, *seen));
            *known = (known.0 || *online, known.1.max(*seen));
        }
        Status {
            standing: Some(standing),
            expires_at: self
                .trust
                .member(&self.me.node)
                .map(|member| member.expires_at),
            policy: self
                .trust
                .policy()
                .map(|bundle| (bundle.order, bundle.signed_at)),
            revocations: self
                .trust
                .revocations()
                .map(|held| (held.order, held.set.blocks.iter().cloned().collect())),
            map_at: self.map_at,
            map_live: self.is_live(),
            presence,
            restricted: self
                .links
                .iter()
                .filter(|(_, link)| link.up)
                .filter_map(|(node, link)| Some((*node, link.restricted?)))
                .collect(),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.links.values().any(|link| link.up && link.caught_up)
    }
}

fn world_member(member: &Member) -> Option<WorldMember> {
    Some(WorldMember {
        node: member.node,
        name: member.name.clone(),
        user: member.user.clone(),
        tags: member.tags.clone(),
        identity: member.identity,
        overlay: member.overlay?,
        expires_at: member.expires_at,
    })
}
