//! The relay that decides: who is here, what goes to whom, who gets too much. No tokio, no socket,
//! no clock.
//!
//! **Invariants:** a datagram passes only between two unrestricted members; every queue is bounded,
//! and what a queue loses is counted and told to the sender; the newest connection of a node is
//! the one that is reached.

mod bucket;
mod queue;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use identity::NodeId;
use net::beacon::{Admission, Who};
use wire::link::{BeaconFrame, GoneReason, MAX_INTRODUCTION, MAX_RELAYED};

pub use bucket::Bucket;
pub use queue::FairQueue;

/// Names a connection within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(u64);

/// What the relay bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one IPv4 address, or of one IPv6 /64: an office of gateways behind one NAT.
    pub connections_per_address: usize,
    /// Connections that have not proved themselves, in all; beyond a quarter of it a QUIC client
    /// must first show that its address is its own.
    pub strangers: usize,
    /// The same, of one address.
    pub strangers_per_address: usize,
    /// Datagrams that wait for one client.
    pub queue: usize,
    /// What a client may send, steadily.
    pub bytes_per_second: u64,
    /// And at once.
    pub burst: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000, // 44 kB each, so 500 MB (coordinator.md §3.4)
            connections_per_address: 1024,
            strangers: 1024,
            strangers_per_address: 256,
            queue: 512, // paths.md §1
            bytes_per_second: 16 << 20,
            burst: 4 << 20,
        }
    }
}

/// What the relay counted since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections now.
    pub connections: u64,
    /// Of these, not yet proved.
    pub strangers: u64,
    /// Members now.
    pub members: u64,
    /// Connections turned away for want of room.
    pub turned_away: u64,
    /// Strangers that broke the protocol or their budget, or were refused.
    pub refused: u64,
    /// Datagrams taken in.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams handed to their destination's connection.
    pub passed: u64,
    /// Datagrams dropped because a queue was full.
    pub dropped: u64,
    /// Datagrams for nodes that are not here.
    pub absent: u64,
    /// Datagrams and introductions that their sender may not send: too long, or from no member.
    pub forbidden: u64,
    /// Introductions passed on.
    pub introductions: u64,
}

/// Whom to wake after an input: they have something to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// This connection has datagrams.
    pub datagrams: Option<ConnectionId>,
    /// This connection has frames.
    pub frames: Option<ConnectionId>,
    /// The sender should rest so long before it sends more.
    pub pause: Duration,
}

/// The state of one relay.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    next: u64,
    clients: BTreeMap<ConnectionId, Client>,
    members: BTreeMap<NodeId, ConnectionId>,
    addresses: BTreeMap<IpAddr, Address>,
    strangers: usize,
    counts: Counts,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    admitted: bool,
    /// Set for members.
    node: Option<NodeId>,
    /// Set for members that are not restricted: only they send and receive.
    member: Option<NodeId>,
    queue: FairQueue,
    frames: VecDeque<BeaconFrame>,
    reports: BTreeMap<NodeId, Report>,
    bytes: Bucket,
    introductions: Bucket,
}

/// What a sender is to be told of one destination, not more often than once in [`REPORT_EVERY`].
#[derive(Debug)]
struct Report {
    dropped: u32,
    absent: bool,
    due: Instant,
}

#[derive(Debug, Default)]
struct Address {
    connections: usize,
    strangers: usize,
}

/// The relay has no room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another connection")]
pub struct Full;

impl Core {
    /// Nobody is here.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            clients: BTreeMap::new(),
            members: BTreeMap::new(),
            addresses: BTreeMap::new(),
            strangers: 0,
            counts: Counts::default(),
        }
    }

    /// Whether so many strangers are at the door that each must show its address first.
    pub fn is_busy(&self) -> bool {
        self.strangers >= self.limits.strangers / 4
    }

    /// Somebody connects.
    pub fn handle_arrival(&mut self, from: IpAddr, now: Instant) -> Result<ConnectionId, Full> {
        let address = block(from);
        let here = self.addresses.entry(address).or_default();
        let full = self.clients.len() >= self.limits.connections
            || self.strangers >= self.limits.strangers
            || here.connections >= self.limits.connections_per_address
            || here.strangers >= self.limits.strangers_per_address;
        if full {
            if here.connections == 0 {
                self.addresses.remove(&address);
            }
            self.counts.turned_away += 1;
            return Err(Full);
        }
        here.connections += 1;
        here.strangers += 1;
        self.strangers += 1;
        let id = ConnectionId(self.next);
        self.next += 1;
        self.clients
            .insert(id, Client::new(address, &self.limits, now));
        Ok(id)
    }

    /// A stranger has proved who it is. Returns the older connection of that node, to be closed.
    pub fn handle_admitted(
        &mut self,
        id: ConnectionId,
        admission: &Admission,
    ) -> Option<ConnectionId> {
        let client = self.clients.get_mut(&id)?;
        if !std::mem::replace(&mut client.admitted, true) {
            self.strangers -= 1;
            if let Some(address) = self.addresses.get_mut(&client.address) {
                address.strangers -= 1;
            }
        }
        let Who::Member(node) = admission.who else {
            return None;
        };
        client.node = Some(node);
        client.member = admission.restricted.is_none().then_some(node);
        self.members.insert(node, id)
    }

    /// A connection is gone, whoever closed it.
    pub fn handle_closed(&mut self, id: ConnectionId) {
        let Some(client) = self.clients.remove(&id) else {
            return;
        };
        if !client.admitted {
            self.strangers -= 1;
            self.counts.refused += 1;
        }
        if let Some(address) = self.addresses.get_mut(&client.address) {
            address.connections -= 1;
            address.strangers -= usize::from(!client.admitted);
            if address.connections == 0 {
                self.addresses.remove(&client.address);
            }
        }
        if let Some(node) = client.node
            && self.members.get(&node) == Some(&id)
        {
            self.members.remove(&node);
        }
    }

    /// A client sends a datagram to a node.
    pub fn handle_datagram(
        &mut self,
        id: ConnectionId,
        to: NodeId,
        payload: &[u8],
        now: Instant,
    ) -> Wake {
        let Some((from, pause)) = self.sender(id, payload.len(), now) else {
            self.counts.forbidden += 1;
            return Wake::default();
        };
        self.counts.received += 1;
        self.counts.received_bytes += payload.len() as u64;
        if payload.len() > MAX_RELAYED {
            self.counts.forbidden += 1;
            return Wake {
                pause,
                ..Wake::default()
            };
        }
        let Some(destination) = self.reachable(&to) else {
            self.counts.absent += 1;
            let frames = self.report(id, to, now, |report| report.absent = true);
            return Wake {
                frames,
                pause,
                datagrams: None,
            };
        };
        // A copy of its own: what QUIC hands over would pin the whole batch it came in.
        let mut datagram = BytesMut::with_capacity(from.0.len() + payload.len());
        datagram.put_slice(&from.0);
        datagram.put_slice(payload);
        let limit = self.limits.queue;
        let queue = self
            .clients
            .get_mut(&destination)
            .map(|client| &mut client.queue);
        let loser = queue.and_then(|queue| queue.push(from, datagram.freeze(), limit));
        let frames = loser.and_then(|loser| {
            self.counts.dropped += 1;
            let loser = *self.members.get(&loser)?;
            self.report(loser, to, now, |report| {
                report.dropped = report.dropped.saturating_add(1);
            })
        });
        Wake {
            datagrams: Some(destination),
            frames,
            pause,
        }
    }

    /// A client shows its papers to a node.
    pub fn handle_introduction(
        &mut self,
        id: ConnectionId,
        to: NodeId,
        certificate: Bytes,
        record: Bytes,
        now: Instant,
    ) -> Wake {
        let length = certificate.len().saturating_add(record.len());
        let sender = self.sender(id, length, now);
        let Some((from, _)) = sender.filter(|_| length <= MAX_INTRODUCTION) else {
            self.counts.forbidden += 1;
            return Wake::default();
        };
        let pause = match self.clients.get_mut(&id) {
            Some(client) => client.introductions.take(1, now),
            None => Duration::ZERO,
        };
        let Some(destination) = self.reachable(&to) else {
            self.counts.absent += 1;
            let frames = self.report(id, to, now, |report| report.absent = true);
            return Wake {
                frames,
                pause,
                datagrams: None,
            };
        };
        let frames = self.push_frame(
            destination,
            BeaconFrame::Introduced {
                from,
                certificate,
                record,
            },
        );
        self.counts.introductions += u64::from(frames.is_some());
        Wake {
            frames,
            pause,
            datagrams: None,
        }
    }

    /// Adds a frame for a client: returns whom to wake, or nobody if there is no room for it.
    pub fn push_frame(&mut self, id: ConnectionId, frame: BeaconFrame) -> Option<ConnectionId> {
        let client = self.clients.get_mut(&id)?;
        if client.frames.len() >= FRAMES {
            self.counts.dropped += 1;
            return None;
        }
        client.frames.push_back(frame);
        Some(id)
    }

    /// The next datagram for a client, its sender's node id before it
    /// ([`wire::link::RelayDatagram`]).
    pub fn take_datagram(&mut self, id: ConnectionId) -> Option<Bytes> {
        let datagram = self.clients.get_mut(&id)?.queue.pop()?;
        self.counts.passed += 1;
        Some(datagram)
    }

    /// The frames for a client, and when to ask again if nobody wakes it before.
    pub fn take_frames(
        &mut self,
        id: ConnectionId,
        now: Instant,
        out: &mut Vec<BeaconFrame>,
    ) -> Option<Instant> {
        let client = self.clients.get_mut(&id)?;
        out.extend(client.frames.drain(..));
        client.reports.retain(|node, report| {
            if report.due > now {
                return true;
            }
            let quiet = report.dropped == 0 && !report.absent;
            if std::mem::take(&mut report.absent) {
                out.push(BeaconFrame::Gone {
                    node: *node,
                    reason: GoneReason::NotConnected,
                });
            }
            if report.dropped > 0 {
                let count = std::mem::take(&mut report.dropped);
                out.push(BeaconFrame::Gone {
                    node: *node,
                    reason: GoneReason::Dropped { count },
                });
            }
            report.due = now + REPORT_EVERY;
            !quiet
        });
        client.reports.values().map(|report| report.due).min()
    }

    /// The connection of a node, restricted or not.
    pub fn connection_of(&self, node: &NodeId) -> Option<ConnectionId> {
        self.members.get(node).copied()
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts {
            connections: self.clients.len() as u64,
            strangers: self.strangers as u64,
            members: self.members.len() as u64,
            ..self.counts
        }
    }

    /// Who sends, if it may, and how long it should rest then.
    fn sender(
        &mut self,
        id: ConnectionId,
        length: usize,
        now: Instant,
    ) -> Option<(NodeId, Duration)> {
        let client = self.clients.get_mut(&id)?;
        let from = client.member?;
        Some((from, client.bytes.take(length, now)))
    }

    /// Where a node is reached, if it may receive.
    fn reachable(&self, node: &NodeId) -> Option<ConnectionId> {
        let id = *self.members.get(node)?;
        let client = self.clients.get(&id)?;
        (client.member == Some(*node)).then_some(id)
    }

    /// Notes something to tell a sender of a destination; returns whom to wake for it.
    fn report(
        &mut self,
        id: ConnectionId,
        about: NodeId,
        now: Instant,
        note: impl FnOnce(&mut Report),
    ) -> Option<ConnectionId> {
        let client = self.clients.get_mut(&id)?;
        if client.reports.len() >= REPORTS && !client.reports.contains_key(&about) {
            return None;
        }
        let report = client.reports.entry(about).or_insert(Report {
            dropped: 0,
            absent: false,
            due: now,
        });
        let told = report.dropped > 0 || report.absent;
        note(report);
        (!told).then_some(id)
    }
}

impl Client {
    fn new(address: IpAddr, limits: &Limits, now: Instant) -> Self {
        Self {
            address,
            admitted: false,
            node: None,
            member: None,
            queue: FairQueue::default(),
            frames: VecDeque::new(),
            reports: BTreeMap::new(),
            bytes: Bucket::new(limits.bytes_per_second, limits.burst, now),
            introductions: Bucket::new(INTRODUCTIONS_PER_SECOND, INTRODUCTIONS, now),
        }
    }
}

/// Who counts as one: an IPv4 address, or an IPv6 /64, since one host owns all of that.
fn block(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Introductions and pongs that wait for one client.
const FRAMES: usize = 256;

/// Destinations of which one sender is told at a time.
const REPORTS: usize = 64;

/// A sender learns at once, and then once a second.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A gateway that comes back introduces itself to all its peers at once.
const INTRODUCTIONS: u64 = 512;
const INTRODUCTIONS_PER_SECOND: u64 = 32;

#[cfg(test)]
mod tests;
