//! Which packets may enter a gateway: small, shared by peers that the rules do not tell apart, and
//! asked once for each packet without allocating.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use identity::{NodeId, UnixTime};

use crate::decide::When;
use crate::document::{Ports, UDP};
use crate::resolve::{Addresses, Place, Resolved, ResolvedGuard, ends_in};

/// What the filter looks at of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket {
    /// Source address; the tunnel has checked that it is the peer's.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port; 0 where the protocol has none.
    pub src_port: u16,
    /// Destination port; 0 where the protocol has none.
    pub dst_port: u16,
}

/// Which packets of which peer may enter a node. The default denies all.
#[derive(Clone, Debug, Default)]
pub struct PacketFilter {
    local: Box<[IpAddr]>,
    router_port: u16,
    peers: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Debug)]
struct Peer {
    /// Whether the router's port is open.
    router: bool,
    permits: Arc<[Permit]>,
}

/// One thing that a rule permits; without addresses, any address of that side.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permit {
    src: Option<Addresses>,
    dst: Option<Addresses>,
    ports: Ports,
    /// What a guard denies of it now.
    except: Vec<Except>,
}

/// The packets that a guard is about: those between these addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Except {
    src: Option<Addresses>,
    dst: Option<Addresses>,
}

impl PacketFilter {
    /// A filter that lets nothing in.
    pub fn deny_all() -> Self {
        Self::default()
    }

    pub(crate) fn new(
        resolved: &Resolved,
        here: &Place,
        router_port: u16,
        at: UnixTime,
        may_talk: impl Fn(&Place) -> bool,
    ) -> Self {
        let mut known: BTreeMap<(u32, bool), Arc<[Permit]>> = BTreeMap::new();
        let mut peers = BTreeMap::new();
        for place in resolved.nodes().filter(|it| it.facts.id != here.facts.id) {
            let permits = known
                .entry((place.class.id, place.has_user_of(here)))
                .or_insert_with(|| permits(resolved, place, here, at).into());
            let peer = Peer {
                router: may_talk(place),
                permits: permits.clone(),
            };
            if peer.router || !peer.permits.is_empty() {
                peers.insert(place.facts.id, peer);
            }
        }
        Self {
            local: here.facts.addresses.clone(),
            router_port,
            peers,
        }
    }

    /// Whether this packet of that peer may enter.
    pub fn allows(&self, peer: &NodeId, packet: &InnerPacket) -> bool {
        if !self.local.contains(&packet.dst) {
            return false;
        }
        let Some(peer) = self.peers.get(peer) else {
            return false;
        };
        // The router's port answers to `msg` grants alone, and only the peer's router may use it.
        if packet.protocol == UDP && packet.dst_port == self.router_port {
            return peer.router && packet.src_port == self.router_port;
        }
        peer.permits.iter().any(|permit| permit.allows(packet))
    }
}

impl Permit {
    fn allows(&self, packet: &InnerPacket) -> bool {
        self.ports.matches(packet.protocol, packet.dst_port)
            && is_between(self.src.as_ref(), self.dst.as_ref(), packet)
            && !self
                .except
                .iter()
                .any(|except| is_between(except.src.as_ref(), except.dst.as_ref(), packet))
    }
}

fn is_between(src: Option<&Addresses>, dst: Option<&Addresses>, packet: &InnerPacket) -> bool {
    src.is_none_or(|within| within.contains(packet.src))
        && dst.is_none_or(|within| within.contains(packet.dst))
}

/// What may enter `dst` from `src` at a moment.
fn permits(resolved: &Resolved, src: &Place, dst: &Place, at: UnixTime) -> Vec<Permit> {
    let is_blocked = |place: &Place| {
        resolved
            .blocks_of(place)
            .any(|it| it.block.holds(at) && it.names(place, None))
    };
    if is_blocked(src) || is_blocked(dst) {
        return Vec::new();
    }
    let except = exceptions(resolved, src, dst, at);
    let mut permits = Vec::new();
    let rules = resolved.packet_rules(src, dst).filter(|rule| {
        let valid = rule.valid.as_ref().is_none_or(|valid| valid.holds(at));
        // Of a rule with `http` the proxy alone knows what passes; of one with `via` the route.
        valid && rule.http.is_empty() && rule.via.is_empty() && rule.is_met_by(&src.class)
    });
    for rule in rules {
        // An agent's packets cannot be told from its gateway's: such a source matches none.
        let of_nodes = ends_in(&rule.src, &src.class).filter(|end| end.agent.is_none());
        let sources: BTreeSet<Option<Addresses>> = of_nodes.map(|end| end.within.clone()).collect();
        let destinations: BTreeSet<Option<Addresses>> = rule
            .destinations(src, dst)
            .filter(|end| end.agent.is_none())
            .map(|end| end.within.clone())
            .collect();
        for ports in &rule.ip {
            for (src, dst) in sources
                .iter()
                .flat_map(|src| destinations.iter().map(move |dst| (src, dst)))
            {
                let permit = Permit {
                    src: src.clone(),
                    dst: dst.clone(),
                    ports: ports.clone(),
                    except: except.clone(),
                };
                if !permits.contains(&permit) {
                    permits.push(permit);
                }
            }
        }
    }
    permits
}

/// What the guards between two nodes deny of packets at a moment.
fn exceptions(resolved: &Resolved, src: &Place, dst: &Place, at: UnixTime) -> Vec<Except> {
    // A message's verb says nothing of packets, and rates and sizes count messages.
    let denies = |guard: &&ResolvedGuard| {
        let now = When::At(at);
        guard.msg.is_empty() && (now.denied(&guard.deny).is_some() || guard.asks_a_person())
    };
    let mut except = Vec::new();
    for guard in resolved.guards_between(src, dst).filter(denies) {
        let sources = ends_in(&guard.src, &src.class).filter(|end| end.agent.is_none());
        for from in sources {
            let onto = ends_in(&guard.dst, &dst.class).filter(|end| end.agent.is_none());
            except.extend(onto.map(|end| Except {
                src: from.within.clone(),
                dst: end.within.clone(),
            }));
        }
    }
    except
}
