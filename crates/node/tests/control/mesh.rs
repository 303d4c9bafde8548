//! A mesh of gateways that are only their control state: what each is told, and what it puts out.
#![allow(dead_code, reason = "each test takes what it needs")]

#[path = "../../../coordinator/tests/fixture/mod.rs"]
pub mod fixture;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::{Heads, IdentityKey, NodeId, Trust, UnixTime};
use node::control::{Event, Me, Now, Output, State};
use node::world::World;
use wire::map::{Cursor, Document, MapRequest, MapUpdate};
use wire::peer::PeerFrame;

use fixture::{Member, Operator};

pub const OPEN: &str = r#"{ "grants": [ { "src": ["*"], "dst": ["*"], "msg": ["send"] } ] }"#;
pub const SHUT: &str = r#"{ "grants": [] }"#;
pub const NOW: UnixTime = UnixTime(1_800_000_000);
pub const DAY: Duration = Duration::from_secs(86_400);

/// An operator, a beacon, and gateways that know nothing of each other yet.
pub struct Mesh {
    pub operator: Operator,
    pub beacon: NodeId,
    pub beacon_key: IdentityKey,
    pub beacon_certificate: Bytes,
}

/// One gateway: its state, and the disk that it would have.
pub struct Gateway {
    pub node: NodeId,
    pub state: State,
    pub disk: Vec<u8>,
    pub at: Instant,
    pub clock: UnixTime,
}

impl Mesh {
    pub fn new() -> Self {
        let mut operator = Operator::found(1, NOW);
        let beacon_key = IdentityKey::generate([200; 32]);
        let (beacon, beacon_certificate) = operator.beacon(&beacon_key, "beacon", NOW);
        Self {
            operator,
            beacon,
            beacon_key,
            beacon_certificate,
        }
    }

    /// Two gateways' papers.
    pub fn two(&mut self) -> (Member, Member) {
        (
            self.operator.gateway("gw-a", NOW),
            self.operator.gateway("gw-b", NOW),
        )
    }

    /// A gateway as `join` leaves it.
    pub fn joined(&self, member: &Member) -> Gateway {
        let mut trust = Trust::new(self.operator.log.bytes(), NOW).expect("a good log");
        let _ = trust
            .accept_certificate(&self.beacon_certificate, NOW)
            .expect("a good beacon");
        trust
            .enroll(&member.certificate, &member.key.public(), NOW)
            .expect("its own");
        Gateway::start(member, trust)
    }

    /// A gateway that has a link, these peers, and an open policy.
    pub fn settled(&mut self, member: &Member, others: &[&Member]) -> Gateway {
        let policy = self.operator.policy(OPEN, NOW);
        self.settled_under(member, others, policy)
    }

    /// The same under this policy.
    pub fn settled_under(&self, member: &Member, others: &[&Member], policy: Bytes) -> Gateway {
        let mut gateway = self.joined(member);
        gateway.link_up(self.beacon);
        gateway.map(self.beacon, Document::Policy(policy));
        for other in others {
            gateway.map(
                self.beacon,
                Document::Certificate(other.certificate.clone()),
            );
            gateway.map(self.beacon, Document::Record(other.record.clone()));
        }
        gateway
    }
}

impl Gateway {
    pub fn start(member: &Member, trust: Trust) -> Self {
        let me = Me {
            node: member.node,
            identity: Arc::new(member.key.clone()),
            wireguard: member.wireguard.public(),
            boot: 1,
            addresses: Vec::new(),
            seed: [9; 32],
        };
        let (at, clock) = (Instant::now(), NOW);
        let state = State::new(me, trust, BTreeMap::new(), None, Now { instant: at, clock });
        Self {
            node: member.node,
            state,
            disk: Vec::new(),
            at,
            clock,
        }
    }

    pub fn now(&self) -> Now {
        Now {
            instant: self.at,
            clock: self.clock,
        }
    }

    pub fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Persist(snapshot) => {
                    self.disk = snapshot;
                    self.state.handle_persisted();
                }
                output => outputs.push(output),
            }
        }
        outputs
    }

    pub fn link_up(&mut self, beacon: NodeId) -> Vec<Output> {
        let now = self.now();
        self.state.handle_link_up(beacon, None, now);
        self.drain()
    }

    pub fn map(&mut self, beacon: NodeId, document: Document) -> Vec<Output> {
        self.tell(beacon, MapUpdate::Document(document))
    }

    /// The same, and the disk fails once.
    pub fn map_on_full_disk(&mut self, beacon: NodeId, document: Document) -> Vec<Output> {
        let now = self.now();
        self.state
            .handle_map(beacon, MapUpdate::Document(document), now);
        let first = self.state.poll_output();
        assert!(matches!(first, Some(Output::Persist(_))), "{first:?}");
        self.state.handle_persist_failed(now);
        std::iter::from_fn(|| self.state.poll_output()).collect()
    }

    pub fn tell(&mut self, beacon: NodeId, update: MapUpdate) -> Vec<Output> {
        let now = self.now();
        self.state.handle_map(beacon, update, now);
        self.drain()
    }

    /// Lets everything happen that is due within `duration`, with a look at the clock each hour.
    pub fn pass(&mut self, duration: Duration) -> Vec<Output> {
        let (start, clock, until) = (self.at, self.clock, self.at + duration);
        let mut outputs = self.drain();
        while self.state.deadline() <= until {
            let hour = (self.at + Duration::from_secs(3600)).min(until);
            self.at = hour.max(self.state.deadline());
            self.clock = clock.plus(self.at - start);
            let now = self.now();
            self.state.handle_timeout(now);
            outputs.extend(self.drain());
        }
        (self.at, self.clock) = (until, clock.plus(duration));
        outputs
    }
}

/// Runs two gateways against each other until neither has anything to say to the other; returns
/// what else they put out.
pub fn talk(a: &mut Gateway, b: &mut Gateway) -> (Vec<Output>, Vec<Output>) {
    let (now_a, now_b) = (a.now(), b.now());
    a.state.handle_peer_up(b.node, None, now_a);
    b.state.handle_peer_up(a.node, None, now_b);
    let mut kept = (Vec::new(), Vec::new());
    loop {
        let (mut to_a, mut to_b) = (VecDeque::new(), VecDeque::new());
        for output in a.drain() {
            match output {
                Output::ToPeer(to, frame) if to == b.node => to_b.push_back(frame),
                output => kept.0.push(output),
            }
        }
        for output in b.drain() {
            match output {
                Output::ToPeer(to, frame) if to == a.node => to_a.push_back(frame),
                output => kept.1.push(output),
            }
        }
        if to_a.is_empty() && to_b.is_empty() {
            return kept;
        }
        to_a.into_iter()
            .for_each(|frame| a.state.handle_peer(b.node, frame, now_a));
        to_b.into_iter()
            .for_each(|frame| b.state.handle_peer(a.node, frame, now_b));
    }
}

/// The last peer list among the outputs, if there is one, without those that leave.
pub fn peers(outputs: &[Output]) -> Option<Vec<NodeId>> {
    peer_list(outputs, false)
}

/// Those of the last peer list that leave.
pub fn leaving(outputs: &[Output]) -> Option<Vec<NodeId>> {
    peer_list(outputs, true)
}

fn peer_list(outputs: &[Output], leaving: bool) -> Option<Vec<NodeId>> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Peers(peers) => {
            let peers = peers.iter().filter(|peer| peer.leaving == leaving);
            Some(peers.map(|peer| peer.node).collect())
        }
        _ => None,
    })
}

/// What the world is now, if it is another.
pub fn world(outputs: &[Output]) -> Option<Arc<World>> {
    outputs.iter().rev().find_map(|output| match output {
        Output::World(world) => Some(Arc::clone(world)),
        _ => None,
    })
}

/// The documents for one peer.
pub fn told(outputs: &[Output], peer: NodeId) -> Vec<Document> {
    let document = |output: &Output| match output {
        Output::ToPeer(to, PeerFrame::Document(document)) if *to == peer => Some(document.clone()),
        _ => None,
    };
    outputs.iter().filter_map(document).collect()
}

pub fn events(outputs: &[Output]) -> Vec<Event> {
    let event = |output: &Output| match output {
        Output::Event(event) => Some(event.clone()),
        _ => None,
    };
    outputs.iter().filter_map(event).collect()
}

pub fn published(outputs: &[Output]) -> Vec<Document> {
    let document = |output: &Output| match output {
        Output::ToBeacon(_, MapRequest::Publish { document, .. }) => Some(document.clone()),
        _ => None,
    };
    outputs.iter().filter_map(document).collect()
}

/// The end of a whole map.
pub fn caught_up(epoch: u64) -> MapUpdate {
    let cursor = Cursor { epoch, sequence: 1 };
    MapUpdate::CaughtUp {
        cursor,
        complete: true,
        heads: Heads::default(),
    }
}
