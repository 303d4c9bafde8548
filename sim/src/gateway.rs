//! One gateway: a real tunnel, a real router, a disk that survives, an agent that acks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{NodeId, NodeName, WireGuardKey};
use path::{Candidate, CandidateKind};
use policy::{Document, MessageRequest, Node, PacketFilter, Policy, Verdict};
use router::{
    Accept, Agent, Answer, Authority, Clock, Delivery, Draft, HolderId, Origin, Refusal, Router,
    Row, RowId, Table, Ticket, Write,
};
use tunnel::{PeerConfig, Tunnel, TunnelConfig};
use wire::InstanceId;
use wire::message::MessageId;

use crate::network::{Place, RELAY};
use crate::stream::Stream;

/// One gateway.
pub struct Gateway {
    pub number: usize,
    pub id: NodeId,
    pub overlay: Ipv6Addr,
    pub tunnel: Tunnel,
    pub tunnel_wake: Option<Instant>,
    pub router: Router,
    pub router_wake: Option<Instant>,
    pub streams: BTreeMap<NodeId, Stream>,
    pub disk: BTreeMap<(Table, RowId), Row>,
    pub unsynced: VecDeque<(Instant, Option<Ticket>, Vec<Write>)>,
    pub boot: u32,
    /// Times that it forgot something: it was killed, or its disk took nothing.
    pub upsets: u32,
    pub disk_is_full: bool,
    pub agent: Agent,
    pub holder: u64,
    pub last_good: BTreeSet<(NodeId, std::net::SocketAddr)>,
    pub connected: bool,
    made: u64,
    key: WireGuardKey,
    rules: Arc<Rules>,
}

/// What agents may do.
#[derive(Debug)]
pub struct Rules {
    policy: Policy,
    names: BTreeMap<NodeName, NodeId>,
}

impl Authority for Rules {
    fn authorize(&self, request: &MessageRequest<'_>) -> Verdict {
        self.policy.authorize(request)
    }

    fn authorize_reply(&self, request: &MessageRequest<'_>) -> Verdict {
        self.policy.authorize_reply(request)
    }

    fn has_policy(&self) -> bool {
        true
    }

    fn node_named(&self, name: &NodeName) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    fn name_of(&self, node: &NodeId) -> Option<NodeName> {
        self.names
            .iter()
            .find(|(_, id)| *id == node)
            .map(|(name, _)| name.clone())
    }
}

impl Rules {
    /// A mesh of so many gateways, whose agents may do everything.
    pub fn open(nodes: usize) -> Arc<Self> {
        Self::of(nodes, OPEN)
    }

    /// The same, and they may do nothing.
    pub fn closed(nodes: usize) -> Arc<Self> {
        Self::of(nodes, CLOSED)
    }

    fn filter(&self, number: usize) -> PacketFilter {
        self.policy
            .packet_filter(&id(number), PORT, identity::UnixTime(0))
    }

    fn of(nodes: usize, policy: &str) -> Arc<Self> {
        let (document, _) = Document::parse("policy.hujson", policy).expect("the policy is right");
        let nodes: Vec<Node> = (0..nodes)
            .map(|n| Node {
                user: None,
                tags: vec!["tag:home".parse().expect("a tag")],
                addresses: vec![overlay(n).into()],
                ..Node::new(id(n), name(n))
            })
            .collect();
        let names = nodes
            .iter()
            .map(|node| (node.name.clone(), node.id))
            .collect();
        Arc::new(Self {
            policy: Policy::compile(&document, &nodes),
            names,
        })
    }
}

impl Gateway {
    pub fn new(number: usize, rules: Arc<Rules>, seed: u64, clock: Clock, now: Instant) -> Self {
        let key = WireGuardKey::generate(bytes(seed ^ 0x77, number as u64));
        let name = format!("agent-{number}").parse().expect("a name");
        let agent = Agent {
            name,
            instance: InstanceId([u8::try_from(number).expect("small") + 1; 16]),
        };
        let tunnel = make_tunnel(number, &key, &rules, seed, now);
        let mut gateway = Self {
            number,
            id: id(number),
            overlay: overlay(number),
            tunnel,
            tunnel_wake: None,
            router: Router::new(
                id(number),
                1,
                RowId(1),
                rules.clone(),
                bytes(seed, 1),
                clock,
                now,
            ),
            router_wake: None,
            streams: BTreeMap::new(),
            disk: BTreeMap::new(),
            unsynced: VecDeque::new(),
            boot: 1,
            upsets: 0,
            disk_is_full: false,
            agent,
            holder: 1,
            last_good: BTreeSet::new(),
            connected: false,
            made: 0,
            key,
            rules,
        };
        gateway.router.set_keep(KEEP);
        gateway.router.add_agent(gateway.agent.clone(), now);
        gateway.demand(now);
        gateway
    }

    /// SIGKILL, and a start: the disk and the last good addresses stay.
    pub fn restart(&mut self, peers: &[PeerConfig], seed: u64, clock: Clock, now: Instant) {
        self.boot += 1;
        self.upsets += 1;
        self.holder += 1;
        self.connected = false;
        self.unsynced.clear();
        self.streams.clear();
        self.tunnel = make_tunnel(self.number, &self.key, &self.rules, seed, now);
        self.tunnel.set_peers(peers, now);
        let rows: Vec<_> = self
            .disk
            .iter()
            .map(|((_, id), row)| (*id, row.clone()))
            .collect();
        self.router = Router::restore(
            self.id,
            1,
            RowId(u64::from(self.boot) << ROWS_PER_START),
            [self.agent.clone()],
            rows,
            self.rules.clone(),
            bytes(seed, 2),
            clock,
            now,
        );
        self.router.set_keep(KEEP);
        self.demand(now);
    }

    /// Asks for whatever comes.
    pub fn demand(&mut self, now: Instant) {
        let hold = Some(Duration::from_secs(30));
        let _ = self
            .router
            .demand(HolderId(self.holder), self.agent.instance, 64, hold, now);
    }

    /// Another policy arrives.
    pub fn obey(&mut self, rules: Arc<Rules>, now: Instant) {
        self.rules = rules.clone();
        self.tunnel.set_filter(rules.filter(self.number), now);
        self.router.set_authority(rules, now);
    }

    /// The agent lets go of all that it was shown, and asks anew.
    pub fn leave(&mut self, now: Instant) {
        self.router.release_holder(HolderId(self.holder), now);
        self.holder += 1;
        self.demand(now);
    }

    pub fn stream(&mut self, peer: NodeId) -> &mut Stream {
        let boot = self.boot;
        self.streams
            .entry(peer)
            .or_insert_with(|| Stream::new(boot))
    }

    /// What is stored can be read at once.
    pub fn load(&mut self, row: RowId, now: Instant) {
        let found = self.disk.get(&(Table::Inbox, row)).cloned();
        self.router.handle_loaded(row, found, now);
    }

    /// Applies what was fsynced by now. Returns the ticket up to which nothing was, if the disk is
    /// full.
    pub fn sync(&mut self, now: Instant) -> Option<Ticket> {
        if self.disk_is_full && self.unsynced.front().is_some_and(|(at, ..)| *at <= now) {
            self.upsets += 1;
            let tickets = self.unsynced.drain(..).filter_map(|(_, ticket, _)| ticket);
            let failed = tickets.max();
            if let Some(ticket) = failed {
                self.router.handle_store_failed(ticket, now);
            }
            return failed;
        }
        while let Some((_, ticket, writes)) = self.unsynced.pop_front_if(|(at, ..)| *at <= now) {
            for write in writes {
                match write {
                    Write::Put(id, row) => drop(self.disk.insert((row.table(), id), row)),
                    Write::Delete(table, id) => drop(self.disk.remove(&(table, id))),
                }
            }
            if let Some(ticket) = ticket {
                self.router.handle_stored(ticket, now);
            }
        }
        None
    }

    /// The agent sends a message, because of what it was shown, perhaps.
    pub fn send(
        &mut self,
        origin: Origin,
        to: usize,
        asks: bool,
        ttl: Duration,
        unix_ms: u64,
        now: Instant,
    ) -> MessageId {
        let id = self.fresh_id(unix_ms);
        let draft = Draft {
            id,
            to: format!("agent-{to}@gw-{to}").parse().expect("an address"),
            expects_reply: asks,
            stream: false,
            origin,
            conversation: None,
            ttl,
            content_type: "text/plain".into(),
            body: self.body().into(),
        };
        // A full outbox refuses, which is its right.
        let _ = self.router.send(&self.agent, draft, now);
        id
    }

    /// The agent answers a request that it was shown.
    pub fn reply(
        &mut self,
        request: MessageId,
        unix_ms: u64,
        now: Instant,
    ) -> (MessageId, Result<Accept, Refusal>) {
        let answer = Answer {
            id: self.fresh_id(unix_ms),
            content_type: "text/plain".into(),
            body: self.body().into(),
        };
        let id = answer.id;
        (id, self.router.reply(&self.agent, request, answer, now))
    }

    fn fresh_id(&mut self, unix_ms: u64) -> MessageId {
        self.made += 1;
        let mut random = [0; 10];
        random[0] = u8::try_from(self.number).expect("small");
        random[2..].copy_from_slice(&self.made.to_be_bytes());
        MessageId::new(unix_ms, random)
    }

    fn body(&self) -> Vec<u8> {
        vec![b'x'; usize::try_from(self.made * 37 % 3000).expect("small")]
    }

    /// As the others know it.
    pub fn as_peer(&self, last_good: impl Iterator<Item = std::net::SocketAddr>) -> PeerConfig {
        PeerConfig {
            node: self.id,
            wireguard: self.key.public(),
            overlay: self.overlay,
            relays: vec![RELAY],
            addresses: Vec::new(),
            last_good: last_good.collect(),
            leaving: false,
        }
    }

    /// Where it may be reached.
    pub fn candidates(place: &Place, observed: std::net::SocketAddr) -> Vec<Candidate> {
        let host = Candidate {
            addr: place.addr,
            kind: CandidateKind::Host,
        };
        vec![
            host,
            Candidate {
                addr: observed,
                kind: CandidateKind::Observed,
            },
        ]
    }
}

/// What a delivery must be acked with.
pub fn ack_id(delivery: &Delivery) -> MessageId {
    delivery.id
}

fn make_tunnel(
    number: usize,
    key: &WireGuardKey,
    rules: &Rules,
    seed: u64,
    now: Instant,
) -> Tunnel {
    let config = TunnelConfig {
        node: id(number),
        key: key.clone(),
        overlay: overlay(number),
        allow_loopback: false,
    };
    let mut tunnel = Tunnel::new(config, bytes(seed, 3 + number as u64), now);
    tunnel.set_filter(rules.filter(number), now);
    tunnel
}

/// The id of gateway `n`.
pub fn id(n: usize) -> NodeId {
    NodeId([u8::try_from(n).expect("small") + 1; 16])
}

/// Its address inside the mesh.
pub fn overlay(n: usize) -> Ipv6Addr {
    Ipv6Addr::new(
        0xfd11,
        0x2233,
        0x4455,
        0,
        0,
        0,
        0,
        u16::try_from(n).expect("small") + 1,
    )
}

fn name(n: usize) -> NodeName {
    format!("gw-{n}").parse().expect("a name")
}

fn bytes(seed: u64, salt: u64) -> [u8; 32] {
    let mut random = path::Random::new(seed ^ salt.wrapping_mul(0x9e37_79b9));
    let mut bytes = [0; 32];
    bytes
        .chunks_mut(8)
        .for_each(|chunk| chunk.copy_from_slice(&random.next_u64().to_le_bytes()));
    bytes
}

/// As in the node's spool: a row that a crash cut off is never given out again, as its peer may know it.
const ROWS_PER_START: u32 = 40;

/// Letters of an inbox that stay in memory: few, so that the rest comes from the disk.
const KEEP: usize = 2;

/// The router's port.
pub const PORT: u16 = 4747;

const OPEN: &str = r#"{
  "tagOwners": {"tag:home": ["ana@example.com"]},
  "grants": [{"src": ["agent:*@tag:home"], "dst": ["agent:*@tag:home"], "msg": ["send", "request"]}],
}"#;

const CLOSED: &str = r#"{"tagOwners": {"tag:home": ["ana@example.com"]}, "grants": []}"#;
