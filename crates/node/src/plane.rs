//! The data plane: one task that owns the [`Tunnel`] and joins it to what packets travel on.
//!
//! ```text
//! mesh socket ─┐                  ┌─► mesh socket (GSO batches)
//! relay links ─┼─► Tunnel ─drain──┼─► relay links
//! overlay QUIC ┘                  └─► overlay QUIC, events
//! ```
//! Each turn takes one input, then drains the tunnel. A socket that is full holds one batch and
//! the overlay behind it; everything else goes on, so two full nodes never wait for each other.
//! **Invariant:** nothing here allocates for a packet, and no error ends the loop.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use identity::NodeId;
use net::demux::{self, Protocol};
use net::outer::OuterSocket;
use net::overlay::OverlayPort;
use net::udp::{MeshSocket, RecvBatch, SendFault};
use policy::PacketFilter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;
use tracing::{debug, trace, warn};
use tunnel::{Candidate, Event, Link, Output, PeerConfig, PeerStatus, Tunnel};

/// What the rest of the node asks of the data plane.
pub enum PlaneCommand {
    /// The full list of peers; who is absent is dropped at once.
    Peers(Arc<Vec<PeerConfig>>),
    /// What packets may pass.
    Filter(PacketFilter),
    /// Where this node may be reached.
    Candidates(Vec<Candidate>),
    /// A beacon's relay can be used from now on, or no more.
    Relay(NodeId, Option<net::link::Link>),
    /// One probe to a peer; the answer says which way it took, or nothing if it was lost.
    Ping(NodeId, oneshot::Sender<Option<Pong>>),
    /// The state of all peers.
    Status(oneshot::Sender<Vec<PeerStatus>>),
    /// The addresses of this host changed.
    NetChange,
}

/// An answered probe.
#[derive(Clone, Debug)]
pub struct Pong {
    /// The way that it took.
    pub link: Link,
    /// There and back.
    pub rtt: Duration,
}

/// What the data plane tells the rest of the node.
#[derive(Clone, Debug)]
pub enum PlaneEvent {
    /// A peer was reached directly at this address.
    GoodAddress(NodeId, SocketAddr),
    /// The way to a peer changed; `None` where there is none.
    Path(NodeId, Option<Link>),
}

/// A datagram from a relay.
#[derive(Debug)]
pub struct Relayed {
    /// The relay.
    pub relay: NodeId,
    /// Who sent it, by the relay's word: WireGuard decides.
    pub from: NodeId,
    /// One WireGuard message.
    pub payload: Bytes,
}

/// The ends of the data plane's inputs and outputs.
pub struct PlanePorts {
    /// Commands.
    pub commands: mpsc::Receiver<PlaneCommand>,
    /// From all relays.
    pub relayed: mpsc::Receiver<Relayed>,
    /// News.
    pub events: mpsc::Sender<PlaneEvent>,
}

/// The task.
pub struct Plane {
    tunnel: Tunnel,
    socket: Arc<MeshSocket>,
    outer: Arc<OuterSocket>,
    overlay: OverlayPort,
    ports: PlanePorts,
    relays: BTreeMap<NodeId, net::link::Link>,
    pings: BTreeMap<u64, (oneshot::Sender<Option<Pong>>, Instant)>,
    next_ping: u64,
    wake: Option<Instant>,
    held: Held,
    scratch: Vec<u8>,
}

/// One batch that the socket had no room for.
#[derive(Default)]
struct Held {
    remote: Option<SocketAddr>,
    bytes: Vec<u8>,
    segment_size: usize,
}

/// What a turn of the loop begins with.
enum Turn {
    Udp(std::io::Result<usize>),
    Overlay,
    Relayed(Relayed),
    Command(PlaneCommand),
    Writable,
    Timeout,
    Ended,
}

impl Plane {
    /// A data plane that begins with nothing known.
    pub fn new(
        tunnel: Tunnel,
        socket: Arc<MeshSocket>,
        outer: Arc<OuterSocket>,
        overlay: OverlayPort,
        ports: PlanePorts,
    ) -> Self {
        Self {
            tunnel,
            socket,
            outer,
            overlay,
            ports,
            relays: BTreeMap::new(),
            pings: BTreeMap::new(),
            next_ping: 0,
            wake: None,
            held: Held::default(),
            scratch: Vec::new(),
        }
    }

    /// Runs until the senders of commands are gone.
    pub async fn run(mut self) {
        let mut batch = RecvBatch::new();
        let timer = sleep_until(Instant::now().into());
        tokio::pin!(timer);
        let mut failures = 0u32;
        self.drain();
        loop {
            let deadline = self.deadline();
            if timer.deadline().into_std() != deadline {
                timer.as_mut().reset(deadline.into());
            }
            let turn = self.turn(&mut batch, timer.as_mut()).await;
            let now = Instant::now();
            match turn {
                Turn::Udp(Ok(_)) => {
                    failures = 0;
                    self.handle_batch(&mut batch, now);
                }
                Turn::Udp(Err(error)) => {
                    // Never spin on a broken socket, and never end for it.
                    failures = failures.saturating_add(1);
                    warn!(%error, failures, "cannot receive");
                    tokio::time::sleep(Duration::from_millis(u64::from(failures.min(100)) * 10))
                        .await;
                }
                Turn::Overlay => {}
                Turn::Relayed(relayed) => self.handle_relayed(relayed, now),
                Turn::Command(command) => self.handle_command(command, now),
                Turn::Writable => self.release(),
                Turn::Timeout => {
                    self.tunnel.handle_timeout(now);
                    self.expire_pings(now);
                }
                Turn::Ended => return,
            }
            self.drain();
            if self.overlay.is_congested() {
                // Quinn first: meanwhile the kernel's buffer holds what comes, without loss.
                tokio::task::yield_now().await;
            }
        }
    }

    async fn turn(
        &mut self,
        batch: &mut RecvBatch,
        timer: std::pin::Pin<&mut tokio::time::Sleep>,
    ) -> Turn {
        let Self {
            tunnel,
            socket,
            overlay,
            ports,
            held,
            ..
        } = self;
        let blocked = held.remote.is_some();
        let overlay_packets = poll_fn(|cx| {
            overlay.poll_packets(cx, OVERLAY_BUDGET, &mut |packet| {
                if let Err(error) = tunnel.handle_packet(packet, Instant::now()) {
                    trace!(%error, "packet dropped");
                }
            })
        });
        tokio::select! {
            // Not biased: a flood from strangers must not keep our own packets and timers waiting.
            received = socket.recv(batch) => Turn::Udp(received),
            _ = overlay_packets, if !blocked => Turn::Overlay,
            Some(relayed) = ports.relayed.recv() => Turn::Relayed(relayed),
            command = ports.commands.recv() => command.map_or(Turn::Ended, Turn::Command),
            _ = socket.writable(), if blocked => Turn::Writable,
            () = timer => Turn::Timeout,
        }
    }

    fn deadline(&self) -> Instant {
        let pings = self.pings.values().map(|(_, until)| *until).min();
        let far = Instant::now() + IDLE;
        self.wake.into_iter().chain(pings).min().unwrap_or(far)
    }

    fn handle_batch(&mut self, batch: &mut RecvBatch, now: Instant) {
        for received in batch.iter_mut() {
            let link = Link::Direct {
                remote: received.remote,
            };
            for (protocol, run) in demux::runs(received.bytes, received.stride) {
                match protocol {
                    Protocol::WireGuard => {
                        for datagram in run.chunks_mut(received.stride) {
                            if let Err(error) = self.tunnel.handle_datagram(&link, datagram, now) {
                                trace!(%error, "datagram dropped");
                            }
                        }
                    }
                    Protocol::Quic => self.outer.deliver(received.remote, run, received.stride),
                    Protocol::Unknown => trace!("stranger's datagram dropped"),
                }
            }
        }
    }

    fn handle_relayed(&mut self, relayed: Relayed, now: Instant) {
        let link = Link::Relay {
            relay: relayed.relay,
            peer: relayed.from,
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(&relayed.payload);
        if let Err(error) = self.tunnel.handle_datagram(&link, &mut self.scratch, now) {
            debug!(%error, from = %relayed.from, "relayed datagram dropped");
        }
    }

    fn handle_command(&mut self, command: PlaneCommand, now: Instant) {
        match command {
            PlaneCommand::Peers(peers) => self.tunnel.set_peers(&peers, now),
            PlaneCommand::Filter(filter) => self.tunnel.set_filter(filter, now),
            PlaneCommand::Candidates(candidates) => self.tunnel.set_candidates(candidates, now),
            PlaneCommand::Relay(beacon, link) => {
                match link {
                    Some(link) => self.relays.insert(beacon, link),
                    None => self.relays.remove(&beacon),
                };
                let up: Vec<NodeId> = self.relays.keys().copied().collect();
                self.tunnel.set_relays(&up, now);
            }
            PlaneCommand::Ping(peer, answer) => {
                let token = self.next_ping;
                self.next_ping += 1;
                if self.tunnel.ping(&peer, token, now) {
                    self.pings.insert(token, (answer, now + PING_TIME));
                }
            }
            PlaneCommand::Status(answer) => {
                // Whoever asked may have gone; that is fine.
                let _ = answer.send(self.tunnel.status(now).collect());
            }
            PlaneCommand::NetChange => self.tunnel.handle_net_change(now),
        }
    }

    fn expire_pings(&mut self, now: Instant) {
        let lost = self.pings.extract_if(.., |_, (_, until)| *until <= now);
        lost.for_each(|(_, (answer, _))| {
            let _ = answer.send(None);
        });
    }

    /// Carries out all that the tunnel decided.
    fn drain(&mut self) {
        let mut failed: Option<Link> = None;
        loop {
            match self.tunnel.poll_output() {
                Output::Transmit {
                    link,
                    bytes,
                    segment_size,
                } => match link {
                    Link::Direct { remote } => {
                        match self.socket.try_send(*remote, bytes, segment_size) {
                            Ok(()) => {}
                            Err(error) => match SendFault::of(&error) {
                                SendFault::Full if self.held.remote.is_none() => {
                                    self.held.hold(*remote, bytes, segment_size);
                                }
                                SendFault::Unreachable => failed = Some(*link),
                                _ => trace!(%error, "datagram not sent"),
                            },
                        }
                    }
                    Link::Relay { relay, peer } => match self.relays.get(relay) {
                        Some(relay) => bytes
                            .chunks(segment_size)
                            .for_each(|one| relay.send(*peer, one)),
                        None => trace!("datagram for a relay that is gone"),
                    },
                    _ => trace!("datagram for a link of a later version"),
                },
                Output::Deliver { packet, .. } => self.overlay.deliver(packet),
                Output::Event(event) => {
                    handle_event(event, &self.ports.events, &mut self.pings);
                }
                Output::Wait(until) => {
                    self.wake = until;
                    match failed.take() {
                        Some(link) => self.tunnel.handle_link_error(&link, Instant::now()),
                        None => return,
                    }
                }
            }
        }
    }

    fn release(&mut self) {
        if let Some(remote) = self.held.remote {
            match self
                .socket
                .try_send(remote, &self.held.bytes, self.held.segment_size)
            {
                Err(error) if SendFault::of(&error) == SendFault::Full => {}
                _ => self.held.remote = None,
            }
        }
    }
}

impl Held {
    fn hold(&mut self, remote: SocketAddr, bytes: &[u8], segment_size: usize) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        (self.remote, self.segment_size) = (Some(remote), segment_size);
    }
}

fn handle_event(
    event: Event,
    events: &mpsc::Sender<PlaneEvent>,
    pings: &mut BTreeMap<u64, (oneshot::Sender<Option<Pong>>, Instant)>,
) {
    let told = match event {
        Event::Pong {
            token, link, rtt, ..
        } => {
            if let Some((answer, _)) = pings.remove(&token) {
                let _ = answer.send(Some(Pong { link, rtt }));
            }
            return;
        }
        Event::PathChanged { peer, link, why } => {
            debug!(%peer, ?link, why, "path changed");
            PlaneEvent::Path(peer, link)
        }
        Event::GoodAddress { peer, remote } => PlaneEvent::GoodAddress(peer, remote),
        other => {
            debug!(event = ?other, "tunnel");
            return;
        }
    };
    // A full channel loses news that the next status shows anyway.
    let _ = events.try_send(told);
}

/// Inner packets taken from the overlay in one turn: a GSO batch of 44 and its neighbours.
const OVERLAY_BUDGET: usize = 128;

/// A probe that was not answered by then is reported lost: relay detours and a first handshake of
/// WireGuard fit in.
const PING_TIME: Duration = Duration::from_secs(2);

/// How long the loop may sleep when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);
