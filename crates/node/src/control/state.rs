//! The control task that decides: what this gateway believes, and what follows from it. No tokio,
//! no file, no clock.
//!
//! Whoever brings a document, a beacon, a peer, a relay's introduction, it goes the same way:
//! [`Trust`] verifies it; if it is news it is persisted; then, and only then, it is activated (the
//! snapshots) and passed on (the gossip). **Invariant:** a beacon's silence, its lies about
//! presence and its `Removed` take nothing away; only signed documents and the clock do.

mod compiled;
mod disk;
mod farewell;
mod kill;
mod spread;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::{
    Alarm, Block, BoundedClock, Change, Digest, Heads, IdentityKey, NodeId, Order, Role, Standing,
    Trust, TrustError, UnixTime, WireGuardPublic,
};
use net::link::Papers;
use tunnel::PeerConfig;
use wire::link::Refusal;
use wire::map::{Cursor, Document, MapRequest, MapUpdate, PublishError};
use wire::peer::{Hello, PeerFrame};

use crate::control::Beacon;
use crate::control::gossip::{self, CloneAlarm, Gossip, Kind};
use crate::control::own::{Own, Wanted};
use crate::world::World;
use compiled::Compiled;
use farewell::Farewell;

pub use kill::Applied;

/// The moment of an input, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For delays.
    pub instant: Instant,
    /// For dates in documents.
    pub clock: UnixTime,
}

/// What the shell does for the state.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write this snapshot durably, then call [`State::handle_persisted`]: nothing else comes
    /// before that.
    Persist(Vec<u8>),
    /// The policy and the members.
    World(Arc<World>),
    /// The peers of the tunnel, all of them.
    Peers(Arc<Vec<PeerConfig>>),
    /// The beacons to keep links to, all of them.
    Beacons(Arc<Vec<Beacon>>),
    /// What this node shows.
    Papers(Papers),
    /// For `status`.
    Status(Arc<Status>),
    /// Open a session with this peer where there is none: it should hear of news.
    Dial(NodeId),
    /// On a peer's control stream.
    ToPeer(NodeId, PeerFrame),
    /// On a beacon's link.
    ToBeacon(NodeId, MapRequest),
    /// For people, and for who judges messages.
    Event(Event),
}

/// What somebody should know.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Messages on this peer's session may be judged: it holds nothing newer than this node.
    Ready(NodeId),
    /// Messages on this peer's session must wait for newer documents, 5 s at most.
    Unready(NodeId),
    /// This member is cut off: end its sessions, park its outbox.
    Revoked(NodeId),
    /// The policy changed.
    Policy(Order),
    /// The revocations changed.
    Revocations(Order),
    /// The signed policy cannot be read by this program: nothing is allowed. Says why.
    PolicyUnreadable(String),
    /// This node's membership ends in so many days.
    ExpiresIn(u64),
    /// This node's membership is over, or revoked.
    Ended(Standing),
    /// The local clock is behind what root and role keys signed: dates are judged by that instead.
    ClockBehind,
    /// Two machines hold one key.
    Clone(CloneAlarm),
    /// Something about documents, keys or clocks is wrong.
    Alarm(Alarm),
}

/// What `status` shows of the control task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// How this node stands.
    pub standing: Option<Standing>,
    /// When its membership ends.
    pub expires_at: Option<UnixTime>,
    /// The policy in force, and when it was signed.
    pub policy: Option<(Order, UnixTime)>,
    /// The revocation set in force, and the blocks in it.
    pub revocations: Option<(Order, Vec<Block>)>,
    /// When the map was last known to be whole. Its age counts from here.
    pub map_at: Option<UnixTime>,
    /// Whether a beacon tells of changes now: then the age of the map is nought.
    pub map_live: bool,
    /// Who is online and was last seen when, by the word of beacons.
    pub presence: BTreeMap<NodeId, (bool, UnixTime)>,
    /// Beacons that serve this node's cure only, and why.
    pub restricted: BTreeMap<NodeId, Refusal>,
}

/// What this node is; see [`crate::control::ControlConfig`].
#[derive(Clone, Debug)]
pub struct Me {
    /// Its id.
    pub node: NodeId,
    /// Signs its record.
    pub identity: Arc<IdentityKey>,
    /// Its tunnel's key.
    pub wireguard: WireGuardPublic,
    /// This start's number.
    pub boot: u64,
    /// Addresses of last resort.
    pub addresses: Vec<SocketAddr>,
    /// Randomness for challenges.
    pub seed: [u8; 32],
}

/// The state.
pub struct State {
    me: Me,
    trust: Trust,
    own: Own,
    gossip: Gossip,
    links: BTreeMap<NodeId, LinkView>,
    last_good: BTreeMap<NodeId, Vec<SocketAddr>>,
    proved: BTreeSet<(NodeId, WireGuardPublic)>,
    ready: BTreeSet<NodeId>,
    challenges: u64,
    rotation: usize,
    map_at: Option<UnixTime>,
    compiled: Option<Compiled>,
    told: Told,
    tick_at: Instant,
    now: Now,
    dirty: bool,
    retry_at: Option<Instant>,
    stale: bool,
    farewell: Farewell,
    outputs: VecDeque<Output>,
}

/// One beacon, as this node sees it.
#[derive(Debug, Default)]
struct LinkView {
    up: bool,
    down_at: Option<Instant>,
    restricted: Option<Refusal>,
    cursor: Option<Cursor>,
    caught_up: bool,
    requests: u32,
    /// Something could not be stored there: say everything again.
    again: bool,
    presence: BTreeMap<NodeId, (bool, UnixTime)>,
}

/// What a world is made of: the policy, the revocations, the membership of each gateway in good
/// standing, and whether the clock can be trusted.
#[derive(Debug, PartialEq, Eq)]
struct WorldKey {
    policy: Option<Digest>,
    revocations: Option<Digest>,
    members: Vec<(NodeId, Digest)>,
    clock: BoundedClock,
    clock_is_behind: bool,
}

/// What was last put out: only changes are.
#[derive(Debug, Default)]
struct Told {
    world: Option<WorldKey>,
    /// The time of that world, and when dates in its policy make another one of it.
    at: UnixTime,
    change_at: Option<UnixTime>,
    snapshot: Option<Arc<World>>,
    peers: Option<Arc<Vec<PeerConfig>>>,
    beacons: Option<Arc<Vec<Beacon>>>,
    papers: Option<Papers>,
    status: Option<Arc<Status>>,
    standing: Option<Standing>,
    revoked: BTreeSet<NodeId>,
    clock_behind: bool,
}

/// Where a document came from: it is not sent back there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Beacon(NodeId),
    Peer(NodeId),
    Here,
}

impl State {
    /// The state of a node that holds these beliefs, be it after `join` or after a reboot.
    pub fn new(
        me: Me,
        trust: Trust,
        last_good: BTreeMap<NodeId, Vec<SocketAddr>>,
        map_at: Option<UnixTime>,
        now: Now,
    ) -> Self {
        let mut state = Self {
            me,
            trust,
            own: Own::default(),
            gossip: Gossip::default(),
            links: BTreeMap::new(),
            last_good,
            proved: BTreeSet::new(),
            ready: BTreeSet::new(),
            challenges: 0,
            rotation: 0,
            map_at,
            compiled: None,
            told: Told::default(),
            tick_at: now.instant + TICK,
            now,
            dirty: false,
            retry_at: None,
            stale: true,
            farewell: Farewell::default(),
            outputs: VecDeque::new(),
        };
        state.tick();
        state
    }

    /// What this node believes.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// A link to a beacon is up.
    pub fn handle_link_up(&mut self, beacon: NodeId, restricted: Option<Refusal>, now: Now) {
        self.now = now;
        let link = self.links.entry(beacon).or_default();
        link.up = true;
        link.down_at = None;
        link.restricted = restricted;
        link.caught_up = false;
        let watch = MapRequest::Watch {
            cursor: link.cursor,
            heads: self.trust.heads(),
        };
        self.outputs.push_back(Output::ToBeacon(beacon, watch));
        if restricted.is_none() {
            self.publish_own(beacon);
        }
        self.stale = true;
    }

    /// A link to a beacon is down; it dials by itself.
    pub fn handle_link_down(&mut self, beacon: NodeId, now: Now) {
        self.now = now;
        if self.is_live() {
            self.map_at = Some(now.clock);
        }
        if let Some(link) = self.links.get_mut(&beacon) {
            link.up = false;
            link.caught_up = false;
            link.down_at = Some(now.instant);
            // Who is online by the word of a beacon that cannot be asked is not known.
            for (online, _) in link.presence.values_mut() {
                *online = false;
            }
        }
        self.stale = true;
    }

    /// A beacon tells.
    pub fn handle_map(&mut self, beacon: NodeId, update: MapUpdate, now: Now) {
        self.now = now;
        match update {
            MapUpdate::Document(document) => {
                self.accept(&document, Source::Beacon(beacon));
            }
            MapUpdate::Presence {
                node,
                online,
                last_seen,
            } => {
                if self.trust.member(&node).is_some()
                    && let Some(link) = self.links.get_mut(&beacon)
                {
                    link.presence.insert(node, (online, UnixTime(last_seen)));
                    self.stale = true;
                }
            }
            MapUpdate::Removed { node } => {
                if let Some(link) = self.links.get_mut(&beacon) {
                    link.presence.remove(&node);
                    self.stale = true;
                }
            }
            MapUpdate::CaughtUp { cursor, heads, .. } => self.caught_up(beacon, cursor, &heads),
            MapUpdate::Answer {
                result: Err(PublishError::Store),
                ..
            } => {
                if let Some(link) = self.links.get_mut(&beacon) {
                    link.again = true;
                }
            }
            MapUpdate::Answer {
                result: Err(error), ..
            } if error != PublishError::Older => {
                tracing::warn!(%beacon, %error, "a beacon did not take a document");
            }
            MapUpdate::Answer { .. } | MapUpdate::Receipt { .. } => {}
        }
    }

    /// A relay passed on how a peer introduces itself, before its first datagram.
    pub fn handle_introduced(&mut self, certificate: Bytes, record: Bytes, now: Now) {
        self.now = now;
        self.accept(&Document::Certificate(certificate), Source::Here);
        self.accept(&Document::Record(record), Source::Here);
    }

    /// A session with a peer is up: its TLS key is that of the node whose record names the key of
    /// its tunnel, so that node has proved that key.
    pub fn handle_peer_up(&mut self, peer: NodeId, remote: Option<SocketAddr>, now: Now) {
        self.now = now;
        if let Some(key) = self.trust.record(&peer).map(|(record, _)| record.wireguard) {
            self.proved.insert((peer, key));
            if self.trust.pin_wireguard(&peer, &key) == Change::Newer {
                self.dirty = true;
                self.stale = true;
            }
        }
        self.gossip.handle_up(peer, remote, now.instant);
        let hello = Hello {
            heads: self.trust.heads(),
            boot: self.me.boot,
            challenge: self.challenge(),
        };
        self.send_peer(peer, PeerFrame::Hello(hello));
        for document in self.greeting(&peer) {
            self.send_peer(peer, PeerFrame::Document(document));
        }
        self.tell_ready();
    }

    /// The session with a peer is over.
    pub fn handle_peer_down(&mut self, peer: NodeId, now: Now) {
        self.now = now;
        self.gossip.handle_down(&peer);
        self.ready.remove(&peer);
    }

    /// A peer says something on its control stream.
    pub fn handle_peer(&mut self, peer: NodeId, frame: PeerFrame, now: Now) {
        self.now = now;
        if !self.gossip.is_up(&peer) {
            return;
        }
        match frame {
            PeerFrame::Hello(hello) => {
                if let Some(alarm) = self.gossip.handle_boot(peer, hello.boot) {
                    self.event(Event::Clone(alarm));
                }
                self.handle_heads(peer, &hello.heads);
            }
            PeerFrame::Heads(heads) => self.handle_heads(peer, &heads),
            PeerFrame::Pull(theirs) => {
                let mine = self.trust.heads();
                for kind in self.gossip.handle_pull(&peer, &theirs, &mine, now.instant) {
                    if let Some(document) = self.head_document(kind) {
                        self.send_peer(peer, PeerFrame::Document(document));
                    }
                }
            }
            PeerFrame::Document(document) => {
                self.accept(&document, Source::Peer(peer));
                if let Some(kind) = kind_of(&document) {
                    self.gossip.handle_document(&peer, kind);
                }
            }
            PeerFrame::Directory(_)
            | PeerFrame::News { .. }
            | PeerFrame::Ping { .. }
            | PeerFrame::Pong { .. } => {}
        }
        self.tell_ready();
    }

    /// A peer was reached at this address.
    pub fn handle_good_address(&mut self, peer: NodeId, remote: SocketAddr) {
        let known = self.last_good.entry(peer).or_default();
        if known.first() != Some(&remote) {
            known.retain(|address| *address != remote);
            known.insert(0, remote);
            known.truncate(MAX_GOOD);
        }
    }

    /// The addresses of last resort changed.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>, now: Now) {
        self.now = now;
        self.me.addresses = addresses;
        self.renew_record();
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.gossip.handle_timeout(now.instant);
        self.tell_ready();
        if self.farewell.handle_timeout(now.instant) {
            self.stale = true;
        }
        if self.until_change().is_some_and(|left| left.is_zero()) {
            self.stale = true;
        }
        if now.instant >= self.tick_at {
            self.tick_at = now.instant + TICK;
            self.tick();
        }
    }

    /// When [`State::handle_timeout`] should be called.
    pub fn deadline(&self) -> Instant {
        let deadlines = [
            self.gossip.deadline(),
            self.farewell.deadline(),
            // Where it is known already, it waits for the disk.
            self.until_change()
                .filter(|_| !self.stale)
                .map(|left| self.now.instant + left),
            self.retry_at,
            Some(self.tick_at),
        ];
        deadlines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.tick_at)
    }

    /// How long the policy means what it meant when the world was last told; dates have whole
    /// seconds, so this is up to one too long.
    fn until_change(&self) -> Option<Duration> {
        let at = self.told.change_at?;
        let left = at.0.saturating_sub(self.trust.clock(self.now.clock).0);
        // A date may be in the year 9999; long before that another tick has looked.
        Some(Duration::from_secs(left).min(TICK))
    }

    /// What the shell must do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.dirty {
            if let Some(retry_at) = self.retry_at
                && self.now.instant < retry_at
            {
                return match self.outputs.front() {
                    Some(Output::Peers(_) | Output::World(_)) => self.outputs.pop_front(),
                    _ => None,
                };
            }
            return Some(Output::Persist(self.trust.snapshot()));
        }
        if std::mem::take(&mut self.stale) {
            self.rebuild();
        }
        self.outputs.pop_front()
    }

    /// Verifies a document, whoever brought it; news goes on to everybody else.
    fn accept(&mut self, document: &Document, source: Source) {
        let clock = self.now.clock;
        let result = match document {
            Document::TrustLog(bytes) => self.trust.accept_trust_log(bytes, clock),
            Document::Policy(bytes) => self.trust.accept_policy(bytes, clock),
            Document::Revocations(bytes) => self.trust.accept_revocations(bytes, clock),
            Document::Certificate(bytes) => self.trust.accept_certificate(bytes, clock),
            Document::Record(bytes) => self.trust.accept_record(bytes, clock),
        };
        for alarm in self.trust.take_alarms() {
            self.event(Event::Alarm(alarm));
        }
        match result {
            Ok(Change::Newer) => {}
            Ok(Change::None) | Err(TrustError::Older) => return,
            Err(error) => {
                tracing::debug!(%error, "refused a document");
                return;
            }
        }
        self.dirty = true;
        self.stale = true;
        match document {
            Document::TrustLog(_) | Document::Policy(_) | Document::Revocations(_) => {
                self.tell_news(source, document);
                // What ends by these may be this node's own membership, or cure it.
                self.renew_record();
            }
            Document::Certificate(bytes) => {
                self.send_peers_but(source, &PeerFrame::Document(document.clone()));
                let examined = self.trust.examine_certificate(bytes).ok();
                let common = examined.is_some_and(|member| {
                    member.role == Role::Beacon || member.node == self.me.node
                });
                if common {
                    self.publish_but(source, document);
                    self.renew_record();
                }
            }
            Document::Record(_) => {
                self.send_peers_but(source, &PeerFrame::Document(document.clone()));
                if source == Source::Here {
                    self.publish_own_record(document);
                }
            }
        }
    }

    fn handle_heads(&mut self, peer: NodeId, theirs: &Heads) {
        let mine = self.trust.heads();
        if self
            .gossip
            .handle_heads(&peer, theirs, &mine, self.now.instant)
        {
            self.send_peer(peer, PeerFrame::Pull(mine));
        }
    }

    fn caught_up(&mut self, beacon: NodeId, cursor: Cursor, theirs: &Heads) {
        let mine = self.trust.heads();
        let first = {
            let Some(link) = self.links.get_mut(&beacon).filter(|link| link.up) else {
                return;
            };
            link.cursor = Some(cursor);
            let first = !std::mem::replace(&mut link.caught_up, true);
            first && link.restricted.is_none()
        };
        self.map_at = Some(self.now.clock);
        self.stale = true;
        if first {
            for kind in gossip::newer(&mine, theirs) {
                if let Some(document) = self.head_document(kind) {
                    self.publish(beacon, document);
                }
            }
            for document in self.beacon_certificates(&beacon) {
                self.publish(beacon, document);
            }
        }
    }

    /// What happens every now and then whatever comes.
    fn tick(&mut self) {
        if self.trust.forget_expired(self.now.clock) == Change::Newer {
            self.dirty = true;
        }
        let again: Vec<NodeId> = self
            .links
            .iter_mut()
            .filter(|(_, link)| link.up && link.restricted.is_none())
            .filter_map(|(beacon, link)| std::mem::take(&mut link.again).then_some(*beacon))
            .collect();
        for beacon in again {
            self.publish_own(beacon);
            for kind in [Kind::TrustLog, Kind::Revocations, Kind::Policy] {
                if let Some(document) = self.head_document(kind) {
                    self.publish(beacon, document);
                }
            }
        }
        self.rotation = self.rotation.wrapping_add(1);
        let behind = self.trust.clock_is_behind(self.now.clock);
        if behind && !std::mem::replace(&mut self.told.clock_behind, behind) {
            self.event(Event::ClockBehind);
        }
        self.renew_record();
        if let Some(member) = self.trust.member(&self.me.node) {
            let expires_at = member.expires_at;
            if let Some(days) = self.own.warn(expires_at, self.trust.clock(self.now.clock)) {
                self.event(Event::ExpiresIn(days));
            }
        }
        self.stale = true;
    }

    /// Signs a new record where one is due, and tells everybody.
    fn renew_record(&mut self) {
        if self.trust.member(&self.me.node).is_none() {
            return;
        }
        let clock = self.trust.clock(self.now.clock);
        let current = self.trust.record(&self.me.node).map(|(record, _)| record);
        let relays = self.relays(
            current
                .map(|record| record.relays.as_slice())
                .unwrap_or(&[]),
        );
        let wanted = Wanted {
            node: self.me.node,
            wireguard: self.me.wireguard,
            relays,
            addresses: self.me.addresses.clone(),
        };
        let Some(record) = self.own.renew(&wanted, current, self.now.instant, clock) else {
            return;
        };
        let mesh = self.trust.mesh();
        let bytes = identity::make_record(&record, &mesh, &self.me.identity, clock);
        self.accept(&Document::Record(bytes.into()), Source::Here);
    }

    /// The beacons for the record: those of the current one that still are, in their order, then
    /// the others; one that is down for a while goes behind those that are up.
    fn relays(&self, current: &[NodeId]) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self
            .trust
            .members()
            .filter(|member| member.role == Role::Beacon)
            .map(|member| member.node)
            .filter(|node| self.trust.standing(node, self.now.clock) == Standing::Good)
            .collect();
        let lost = |node: &NodeId| match self.links.get(node) {
            Some(link) if link.up => false,
            Some(link) => link.down_at.is_some_and(|at| self.now.instant >= at + LOST),
            None => false,
        };
        let place = |node: &NodeId| current.iter().position(|other| other == node);
        all.sort_by_key(|node| (lost(node), place(node).unwrap_or(usize::MAX), *node));
        all.truncate(MAX_RELAYS);
        all
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Says which sessions may judge messages now.
    fn tell_ready(&mut self) {
        let now_ready: BTreeSet<NodeId> = self
            .gossip
            .peers()
            .filter(|peer| self.gossip.is_ready(peer))
            .collect();
        for peer in now_ready.difference(&self.ready) {
            self.outputs.push_back(Output::Event(Event::Ready(*peer)));
        }
        for peer in self.ready.difference(&now_ready) {
            self.outputs.push_back(Output::Event(Event::Unready(*peer)));
        }
        self.ready = now_ready;
    }

    fn challenge(&mut self) -> [u8; 16] {
        self.challenges += 1;
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(&self.me.seed);
        context.update(&self.challenges.to_le_bytes());
        let digest = context.finish();
        *digest.as_ref().first_chunk().expect("SHA-256 is 32 bytes")
    }
}

fn kind_of(document: &Document) -> Option<Kind> {
    match document {
        Document::TrustLog(_) => Some(Kind::TrustLog),
        Document::Policy(_) => Some(Kind::Policy),
        Document::Revocations(_) => Some(Kind::Revocations),
        Document::Certificate(_) | Document::Record(_) => None,
    }
}

/// How often dates are compared with the clock.
const TICK: Duration = Duration::from_secs(30);

/// A beacon that is down for so long is no longer named first.
const LOST: Duration = Duration::from_secs(60);

/// A record names at most so many beacons.
const MAX_RELAYS: usize = 4;

/// Addresses that are remembered of each peer.
const MAX_GOOD: usize = 4;
