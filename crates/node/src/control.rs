//! The control task: what this gateway believes, and who else must hear of it.
//!
//! It owns [`identity::Trust`] and is the only task that changes it. What beacons say (the map)
//! and what peers say (their control streams) comes in by one bounded channel of [`ControlInput`];
//! what the rest of the node acts on goes out as snapshots in watch channels: the policy and the
//! members ([`World`]), the peers of the tunnel, the beacons to dial, the papers to show.
//!
//! **Invariant:** nothing is activated before it is on disk (identity.md §3). The deciding half,
//! [`state`], knows no tokio and no file; this half is the loop that drives it.
//!
//! ```text
//! links ──ControlInput──┐                     ┌─ watch: World, peers, beacons, papers, status
//! peers ──ControlInput──┤► State ─ Persist ─► disk ─► handle_persisted ─┤
//! lead  ──ControlInput──┘                     └─ mpsc: frames to peers, requests to beacons, events
//! ```

pub mod gossip;
pub mod own;
pub mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use identity::{
    HostPort, IdentityKey, IdentityPublic, KillFile, NodeId, Trust, TrustError, UnixTime,
    WireGuardPublic,
};
use net::link::{LinkEvent, Papers};
use tokio::sync::{mpsc, oneshot, watch};
use tunnel::PeerConfig;
use wire::map::MapRequest;
use wire::peer::PeerFrame;

use crate::files;
use crate::state::{StateDir, StateError};
use crate::world::World;

pub use gossip::CloneAlarm;
pub use state::{Applied, Event, Me, Now, Output, State, Status};

/// What the control task needs to know of this node.
pub struct ControlConfig {
    /// Where `trust.cbor` and `certificate.cbor` live.
    pub state_dir: StateDir,
    /// Who this is.
    pub node: NodeId,
    /// Signs the node's own record.
    pub identity: Arc<IdentityKey>,
    /// What that record names.
    pub wireguard: WireGuardPublic,
    /// The boot counter, already raised and written for this start.
    pub boot: u64,
    /// Addresses of last resort for the record: configured, not observed.
    pub addresses: Vec<SocketAddr>,
    /// Where peers were reached the last time, newest first.
    pub last_good: BTreeMap<NodeId, Vec<SocketAddr>>,
    /// When the map was last known to be whole; `None` where it never was.
    pub map_at: Option<UnixTime>,
    /// Randomness for the challenges of hellos.
    pub seed: [u8; 32],
}

/// What happens to the control task.
#[derive(Debug)]
pub enum ControlInput {
    /// On the link to that beacon. Datagrams are not for here.
    Link(NodeId, LinkEvent),
    /// The control stream of a peer is open both ways; `remote` is where its packets come from.
    PeerUp {
        /// The peer, proved by its TLS key inside its tunnel.
        peer: NodeId,
        /// Its underlay address, where the path is direct.
        remote: Option<SocketAddr>,
    },
    /// The session with that peer is over.
    PeerDown(NodeId),
    /// A frame of a peer's control stream: `Hello`, `Heads`, `Pull`, `Document`. Others are ignored.
    Peer(NodeId, PeerFrame),
    /// A peer was reached at this address: remembered for after a restart.
    GoodAddress(NodeId, SocketAddr),
    /// The addresses of last resort changed.
    Addresses(Vec<SocketAddr>),
    /// The admin brings a kill file. Answered when it is on disk and in force, or refused.
    Kill(Box<KillFile>, oneshot::Sender<Result<Applied, KillError>>),
}

/// Why a kill file is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KillError {
    /// It is not believed.
    #[error("the kill file is refused")]
    Untrusted(#[source] TrustError),
    /// It is believed and obeyed, and not on disk: nobody else hears of it before that.
    #[error("it is obeyed here, but the disk does not take it; it is told to others when it does")]
    NotKept,
}

/// A beacon to keep a link to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// Its node id.
    pub node: NodeId,
    /// Where it listens, as the issuer signed it.
    pub address: HostPort,
    /// Its identity key.
    pub key: IdentityPublic,
    /// Set where this node itself is expired or revoked and looks for its cure: then any key may
    /// answer there (identity.md §6).
    pub any_key: bool,
}

/// The ends of the control task's channels.
pub struct ControlHandles {
    /// Tell the control task.
    pub inputs: mpsc::Sender<ControlInput>,
    /// The policy and the members.
    pub world: watch::Receiver<Arc<World>>,
    /// The full list for `Tunnel::set_peers`; who is absent is dropped at once.
    pub peers: watch::Receiver<Arc<Vec<PeerConfig>>>,
    /// The beacons to keep links to.
    pub beacons: watch::Receiver<Arc<Vec<Beacon>>>,
    /// What links and introductions show.
    pub papers: watch::Receiver<Option<Papers>>,
    /// Ages, presence, standing: for `status`.
    pub status: watch::Receiver<Arc<Status>>,
    /// Peers to open a session with, that they hear of news.
    pub dials: mpsc::Receiver<NodeId>,
    /// Frames for peers' control streams.
    pub to_peers: mpsc::Receiver<(NodeId, PeerFrame)>,
    /// Requests for beacons.
    pub to_beacons: mpsc::Receiver<(NodeId, MapRequest)>,
    /// What a person should hear, and which sessions may judge messages.
    pub events: mpsc::Receiver<Event>,
}

/// The task. [`Control::run`] ends when every sender of inputs is gone.
pub struct Control {
    state: State,
    state_dir: StateDir,
    inputs: mpsc::Receiver<ControlInput>,
    world: watch::Sender<Arc<World>>,
    peers: watch::Sender<Arc<Vec<PeerConfig>>>,
    beacons: watch::Sender<Arc<Vec<Beacon>>>,
    papers: watch::Sender<Option<Papers>>,
    status: watch::Sender<Arc<Status>>,
    /// Who brought a kill that is not on disk yet.
    killers: Vec<(Applied, oneshot::Sender<Result<Applied, KillError>>)>,
    dials: mpsc::Sender<NodeId>,
    to_peers: mpsc::Sender<(NodeId, PeerFrame)>,
    to_beacons: mpsc::Sender<(NodeId, MapRequest)>,
    events: mpsc::Sender<Event>,
}

impl Control {
    /// The task, and the ends of its channels. The snapshots hold what follows from `trust` at
    /// once: a gateway that was rebooted with no beacon in sight has its peers before any packet.
    pub fn new(config: ControlConfig, trust: Trust) -> Result<(Self, ControlHandles), StateError> {
        let me = Me {
            node: config.node,
            identity: config.identity,
            wireguard: config.wireguard,
            boot: config.boot,
            addresses: config.addresses,
            seed: config.seed,
        };
        let world = World::alone(me.node, trust.mesh_name().clone());
        let state = State::new(me, trust, config.last_good, config.map_at, now());
        let (inputs, inbox) = mpsc::channel(INPUTS);
        let (world, world_seen) = watch::channel(Arc::new(world));
        let (peers, peers_seen) = watch::channel(Arc::default());
        let (beacons, beacons_seen) = watch::channel(Arc::default());
        let (papers, papers_seen) = watch::channel(None);
        let (status, status_seen) = watch::channel(Arc::default());
        let (dials, dials_wanted) = mpsc::channel(OUTPUTS);
        let (to_peers, peer_frames) = mpsc::channel(OUTPUTS);
        let (to_beacons, beacon_requests) = mpsc::channel(OUTPUTS);
        let (events, events_heard) = mpsc::channel(OUTPUTS);
        let mut control = Self {
            state,
            state_dir: config.state_dir,
            inputs: inbox,
            world,
            peers,
            beacons,
            papers,
            status,
            killers: Vec::new(),
            dials,
            to_peers,
            to_beacons,
            events,
        };
        control.begin()?;
        let handles = ControlHandles {
            inputs,
            world: world_seen,
            peers: peers_seen,
            beacons: beacons_seen,
            papers: papers_seen,
            status: status_seen,
            dials: dials_wanted,
            to_peers: peer_frames,
            to_beacons: beacon_requests,
            events: events_heard,
        };
        Ok((control, handles))
    }

    /// Runs until every sender of inputs is gone.
    pub async fn run(mut self) {
        loop {
            let deadline = tokio::time::Instant::from_std(self.state.deadline());
            tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => {
                        self.handle(input);
                        // A map comes in hundreds of documents: one snapshot serves them all.
                        for _ in 0..BATCH {
                            match self.inputs.try_recv() {
                                Ok(input) => self.handle(input),
                                Err(_) => break,
                            }
                        }
                    }
                    None => break,
                },
                () = tokio::time::sleep_until(deadline) => self.state.handle_timeout(now()),
            }
            self.drain().await;
        }
    }

    /// Puts out what is true already, before any task runs.
    fn begin(&mut self) -> Result<(), StateError> {
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Persist(snapshot) => {
                    self.state_dir.write(files::TRUST, &snapshot)?;
                    self.state.handle_persisted();
                }
                output => self.put(output),
            }
        }
        Ok(())
    }

    async fn drain(&mut self) {
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Persist(snapshot) => {
                    // An fsync takes milliseconds, and packets share this thread.
                    let state_dir = self.state_dir.clone();
                    let write = move || state_dir.write(files::TRUST, &snapshot);
                    match tokio::task::spawn_blocking(write).await {
                        Ok(Ok(())) => self.state.handle_persisted(),
                        Ok(Err(error)) => {
                            let error = &error as &dyn std::error::Error;
                            tracing::error!(error, "what is new of the mesh cannot be kept");
                            self.state.handle_persist_failed(now());
                        }
                        Err(_) => self.state.handle_persist_failed(now()),
                    }
                }
                output => self.put(output),
            }
        }
        for (applied, answer) in std::mem::take(&mut self.killers) {
            let kept = self.state.is_kept();
            // Whoever brought it may have gone; it counts all the same.
            let _ = answer.send(kept.then_some(applied).ok_or(KillError::NotKept));
        }
    }

    fn handle(&mut self, input: ControlInput) {
        let now = now();
        match input {
            ControlInput::Link(beacon, event) => self.handle_link(beacon, event, now),
            ControlInput::PeerUp { peer, remote } => self.state.handle_peer_up(peer, remote, now),
            ControlInput::PeerDown(peer) => self.state.handle_peer_down(peer, now),
            ControlInput::Peer(peer, frame) => self.state.handle_peer(peer, frame, now),
            ControlInput::GoodAddress(peer, remote) => {
                self.state.handle_good_address(peer, remote);
            }
            ControlInput::Addresses(addresses) => self.state.set_addresses(addresses, now),
            ControlInput::Kill(file, answer) => match self.state.handle_kill(&file, now) {
                Ok(applied) => self.killers.push((applied, answer)),
                Err(error) => {
                    let _ = answer.send(Err(KillError::Untrusted(error)));
                }
            },
        }
    }

    fn handle_link(&mut self, beacon: NodeId, event: LinkEvent, now: Now) {
        match event {
            LinkEvent::Up { restricted, .. } => {
                self.state.handle_link_up(beacon, restricted, now);
            }
            LinkEvent::Down { .. } => self.state.handle_link_down(beacon, now),
            LinkEvent::Map(update) => self.state.handle_map(beacon, update, now),
            LinkEvent::Introduced {
                certificate,
                record,
                ..
            } => {
                self.state.handle_introduced(certificate, record, now);
            }
            _ => {}
        }
    }

    /// Nobody who is slow stalls this task: what finds no room is dropped and said. Heads go out
    /// again with the next change, documents are pulled again, requests with the next link.
    fn put(&mut self, output: Output) {
        let dropped = match output {
            Output::Persist(_) => false,
            Output::World(world) => {
                self.world.send_replace(world);
                false
            }
            Output::Peers(peers) => {
                self.peers.send_replace(peers);
                false
            }
            Output::Beacons(beacons) => {
                self.beacons.send_replace(beacons);
                false
            }
            Output::Papers(papers) => {
                self.keep_certificate(&papers);
                self.papers.send_replace(Some(papers));
                false
            }
            Output::Status(status) => {
                self.status.send_replace(status);
                false
            }
            Output::Dial(peer) => self.dials.try_send(peer).is_err(),
            Output::ToPeer(peer, frame) => self.to_peers.try_send((peer, frame)).is_err(),
            Output::ToBeacon(beacon, request) => {
                self.to_beacons.try_send((beacon, request)).is_err()
            }
            Output::Event(event) => {
                tell(&event);
                self.events.try_send(event).is_err()
            }
        };
        if dropped {
            tracing::warn!("the control task found no room for what it had to say");
        }
    }

    /// Other commands on this state directory read the certificate from its own file.
    fn keep_certificate(&self, papers: &Papers) {
        let held = self.state_dir.read(files::CERTIFICATE).ok().flatten();
        if held.as_deref() != Some(&papers.certificate[..])
            && let Err(error) = self
                .state_dir
                .write(files::CERTIFICATE, &papers.certificate)
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the renewed certificate is not in its file");
        }
    }
}

/// Says what a person should hear.
fn tell(event: &Event) {
    match event {
        Event::Ready(_) | Event::Unready(_) => {}
        Event::Policy(order) => {
            tracing::info!(
                epoch = order.epoch,
                version = order.version,
                "a policy is in force"
            );
        }
        Event::Revocations(order) => {
            tracing::info!(
                target: "crabmesh::audit",
                epoch = order.epoch,
                version = order.version,
                "a revocation set is in force"
            );
        }
        Event::Revoked(node) => tracing::info!(%node, "a member was revoked"),
        Event::ExpiresIn(days) => {
            tracing::warn!(
                days,
                "this gateway's membership ends soon; hint: crabmesh renew"
            );
        }
        Event::ClockBehind => {
            tracing::warn!("this host's clock is behind what the mesh signed; hint: set it");
        }
        Event::Ended(standing) => tracing::error!(?standing, "this gateway is no member now"),
        Event::PolicyUnreadable(why) => {
            tracing::error!(why, "the policy cannot be read here: nothing is allowed");
        }
        Event::Clone(alarm) => tracing::error!(
            target: "crabmesh::audit",
            node = %alarm.node,
            one = ?alarm.one,
            other = ?alarm.other,
            "two machines use one key"
        ),
        Event::Alarm(alarm) => tracing::error!(target: "crabmesh::audit", %alarm, "alarm"),
    }
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        clock: wall_clock(),
    }
}

fn wall_clock() -> UnixTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime(since.as_secs())
}

/// Inputs that may wait: a map of a few hundred members in one go.
const INPUTS: usize = 1024;

/// Inputs that one snapshot covers.
const BATCH: usize = 512;

/// Frames, requests or events that may wait for who takes them.
const OUTPUTS: usize = 4096;
