//! Which packets may enter a gateway: small, shared by peers that the rules do not tell apart, and
//! asked once for each packet without allocating.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use identity::NodeId;

use crate::document::{Ports, Prefix, UDP};
use crate::resolve::{Place, Resolved};

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

/// One thing that a rule permits; without a block, any address of that side.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permit {
    src: Option<Prefix>,
    dst: Option<Prefix>,
    ports: Ports,
}

impl PacketFilter {
    /// A filter that lets nothing in.
    pub fn deny_all() -> Self {
        Self::default()
    }

    pub(crate) fn new(
        resolved: &Resolved,
        local: &NodeId,
        router_port: u16,
        may_talk: impl Fn(&Place) -> bool,
    ) -> Self {
        let Some(here) = resolved.node(local) else {
            return Self::deny_all();
        };
        let mut known: BTreeMap<(u32, bool), Arc<[Permit]>> = BTreeMap::new();
        let mut peers = BTreeMap::new();
        for (id, place) in resolved.nodes().filter(|(id, _)| *id != local) {
            let permits = known
                .entry((place.class(), place.has_user_of(here)))
                .or_insert_with(|| permits(resolved, place, here).into());
            let peer = Peer {
                router: may_talk(place),
                permits: permits.clone(),
            };
            if peer.router || !peer.permits.is_empty() {
                peers.insert(*id, peer);
            }
        }
        Self {
            local: here.addresses.clone(),
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
            && self.src.is_none_or(|block| block.contains(packet.src))
            && self.dst.is_none_or(|block| block.contains(packet.dst))
    }
}

fn permits(resolved: &Resolved, src: &Place, dst: &Place) -> Vec<Permit> {
    let mut permits = Vec::new();
    for rule in resolved.packet_rules(src, dst) {
        // An agent's packets cannot be told from its gateway's: such a source matches none.
        let sources: BTreeSet<Option<Prefix>> = resolved
            .sources(rule, src)
            .filter(|end| end.agent.is_none())
            .map(|end| end.within)
            .collect();
        let destinations: BTreeSet<Option<Prefix>> = resolved
            .destinations(rule, src, dst)
            .map(|end| end.within)
            .collect();
        for ports in &rule.ip {
            for (&src, &dst) in sources
                .iter()
                .flat_map(|src| destinations.iter().map(move |dst| (src, dst)))
            {
                let permit = Permit {
                    src,
                    dst,
                    ports: ports.clone(),
                };
                if !permits.contains(&permit) {
                    permits.push(permit);
                }
            }
        }
    }
    permits
}
