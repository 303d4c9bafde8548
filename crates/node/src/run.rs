//! From a state directory to a running gateway: makes every task, joins them, and ends them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{IdentityKey, IdentityPublic, NodeId, Trust, WireGuardKey};
use net::tls::KeyVerifier;
use net::udp::MeshSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};
use tunnel::Link;
use wire::peer::{Presence, ROUTER_PORT};
use zeroize::Zeroizing;

use crate::a2a;
use crate::agents::{Agent, Agents};
use crate::api::Api;
use crate::candidates::Candidates;
use crate::config::Config;
use crate::control::{Control, ControlConfig, ControlHandles, ControlInput};
use crate::exchange::{Exchange, ExchangeCommand, ExchangePorts};
use crate::files::{self, Addresses, NodeFile};
use crate::links::{Links, LinksPorts};
use crate::messages::{self, MessagesConfig, PeerOutput};
use crate::plane::{PlaneCommand, PlaneEvent};
use crate::road::{Road, RoadConfig};
use crate::sessions::{SessionCommand, Sessions};
use crate::spool::Spool;
use crate::state::{StateDir, StateError};
use crate::streams::Streams;
use crate::view::{View, local_directory};
use crate::workers::Supervisor;
use crate::world::World;

/// Runs the gateway of this state directory until `stop` is done. `ready` is called once the local
/// API answers, whether or not a beacon is in sight.
pub async fn run(
    config: Config,
    ready: impl FnOnce(&Ready),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let state = StateDir::open(&config.state_dir)?;
    let _lock = state.lock()?;
    let joined = Joined::load(&state)?;
    let node = joined.file.node;
    let addresses: Addresses = state.read_json(files::ADDRESSES)?.unwrap_or_default();
    let seed = || random::<32>().map(|seed| *seed);

    let port = config.port.or(addresses.port).unwrap_or(0);
    let socket = Arc::new(MeshSocket::bind(port).map_err(RunError::Socket)?);
    let port = socket.local_addr().port();
    if config.port.is_some_and(|wanted| wanted != port) {
        warn!(port, "the configured UDP port is taken; using another");
    }

    let (control, handles) = Control::new(
        ControlConfig {
            state_dir: state.clone(),
            node,
            identity: Arc::clone(&joined.identity),
            wireguard: joined.wireguard.public(),
            boot: joined.file.boot,
            addresses: config.addresses.clone(),
            last_good: addresses.last_good.clone(),
            map_at: None,
            seed: seed()?,
        },
        joined.trust,
    )?;
    let ControlHandles {
        inputs,
        world,
        peers,
        beacons,
        papers,
        status,
        dials,
        to_peers,
        to_beacons,
        events,
    } = handles;
    let overlay = joined.overlay;

    let verifier: Arc<dyn KeyVerifier> = Arc::new(MemberKeys(world.clone()));
    let identity = &joined.identity;
    let Road {
        plane,
        commands,
        relayed,
        events: news,
        outer,
        endpoint,
        client,
    } = Road::lay(
        socket,
        RoadConfig {
            node,
            wireguard: joined.wireguard,
            overlay,
            allow_loopback: config.allow_loopback,
            identity,
            verifier,
            seed: seed()?,
        },
    )?;
    let outer_endpoint =
        net::endpoint::outer_endpoint(Arc::clone(&outer)).map_err(RunError::Socket)?;

    let (session_commands, to_sessions) = mpsc::channel(QUEUE);
    let (session_events, from_sessions) = mpsc::channel(QUEUE);
    let (allowed, allowed_seen) = watch::channel(Arc::new(BTreeSet::new()));
    let streams = Streams::new(node, session_commands.clone());
    let sessions = Sessions::new(
        endpoint,
        client,
        world.clone(),
        allowed_seen,
        to_sessions,
        session_events,
        streams.clone(),
    );

    let agents = Agents::open(state.clone())?;
    let (messages, message_ends, message_plane) = messages::start(MessagesConfig {
        node,
        agents: agents
            .list()
            .iter()
            .map(|agent| agent.local.clone())
            .collect(),
        spool: Spool::open(&state, config.durability)?,
        world: world.clone(),
        budgets: config.loops.into(),
        streams,
        seed: seed()?,
    })?;

    let (exchange_commands, for_exchange) = mpsc::channel(QUEUE);
    let (known, known_seen) = watch::channel(Arc::default());
    let exchange = Exchange::new(ExchangePorts {
        commands: for_exchange,
        sessions: from_sessions,
        to_sessions: session_commands.clone(),
        control: events,
        to_control: inputs.clone(),
        to_messages: message_ends.inputs,
        world: world.clone(),
        status: status.clone(),
        known,
    });

    let (observed, observed_seen) = watch::channel(BTreeMap::new());
    let (retry, retries) = mpsc::channel(1);
    let (links_view, links_seen) = watch::channel(Arc::default());
    let links = Links::new(
        net::link::Dialer::mesh(outer_endpoint, outer),
        Arc::clone(identity),
        papers,
        LinksPorts {
            beacons,
            requests: to_beacons,
            retry: retries,
            control: inputs.clone(),
            plane: commands.clone(),
            relayed,
            observed,
            view: links_view,
        },
    );
    let candidates = Candidates {
        port,
        overlay,
        allow_loopback: config.allow_loopback,
        observed: observed_seen,
        plane: commands.clone(),
        retry,
    };
    let view = Arc::new(View {
        world: world.clone(),
        status,
        links: links_seen,
        plane: commands.clone(),
        exchange: exchange_commands.clone(),
        messages: messages.clone(),
        agents: agents.clone(),
        known: known_seen,
        control: inputs.clone(),
    });
    let keeper = AddressKeeper {
        state: state.clone(),
        addresses,
        port,
        control: inputs,
        exchange: exchange_commands.clone(),
    };

    let mut tasks = JoinSet::new();
    tasks.spawn(plane.run());
    tasks.spawn(control.run());
    tasks.spawn(sessions.run());
    tasks.spawn(exchange.run());
    tasks.spawn(links.run());
    tasks.spawn(candidates.run());
    let mut message_plane = tokio::spawn(message_plane.run());
    tasks.spawn(forward(
        message_ends.outputs,
        session_commands.clone(),
        |output| match output {
            PeerOutput::Frame(peer, frame) => SessionCommand::Message(peer, frame),
            PeerOutput::Wanted(peer) => SessionCommand::Dial(peer),
        },
    ));
    tasks.spawn(forward(
        to_peers,
        session_commands.clone(),
        |(peer, frame)| SessionCommand::Control(peer, frame),
    ));
    tasks.spawn(forward(
        dials,
        session_commands.clone(),
        SessionCommand::Dial,
    ));
    tasks.spawn(keeper.run(news));
    tasks.spawn(follow_peers(
        peers,
        allowed,
        commands.clone(),
        session_commands,
    ));
    let own_name = {
        let world = world.clone();
        move || Some(world.borrow().members.get(&node)?.name.clone())
    };
    let supervisor = Supervisor::new(agents.clone(), messages.clone(), own_name);
    let workers = supervisor.workers();
    tasks.spawn(follow_policy(world, node, commands));
    tasks.spawn(tell_agents(agents.clone(), exchange_commands));

    // Before any agent may ask for its inbox, where the reply to a task may wait.
    let (a2a_tasks, keeper) = a2a::start(&state, messages.clone())?;
    let locals: Vec<_> = agents.list().iter().map(|it| it.local.clone()).collect();
    let posted = a2a_tasks.posted();
    let drivers = keeper.resume(&locals).await;
    let keeper = tokio::spawn(keeper.run(drivers));

    let api = Api::bind(
        &state,
        config.api,
        agents,
        workers,
        messages.clone(),
        a2a_tasks,
        view,
    )
    .await?;
    ready(&Ready {
        node,
        port,
        api: api.endpoints().clone(),
    });
    let (end_api, api_ends) = oneshot::channel::<()>();
    let api = tokio::spawn(api.run(async {
        // Dropped or sent, it means the same.
        let _ = api_ends.await;
    }));
    let (end_workers, workers_end) = oneshot::channel::<()>();
    let supervisor = supervisor.remembering(posted);
    let supervisor = tokio::spawn(supervisor.run(async {
        let _ = workers_end.await;
    }));
    let ended = tokio::select! {
        () = stop => None,
        ended = tasks.join_next() => ended,
        ended = &mut message_plane => Some(ended),
    };
    drop((end_api, end_workers));
    // Before the plane: what a worker has just done is still settled.
    if let Err(error) = supervisor.await {
        warn!(%error, "the workers failed");
    }
    if let Err(error) = api.await {
        warn!(%error, "the local API failed");
    }
    // The API had the last handle of the tasks.
    if let Err(error) = keeper.await {
        warn!(%error, "the tasks of A2A failed");
    }
    // With the last handle gone the plane puts everything on disk and ends.
    drop(messages);
    if ended.is_none()
        && tokio::time::timeout(DRAIN_TIME, message_plane)
            .await
            .is_err()
    {
        warn!("the spool did not finish in time; what was accepted is on disk");
    }
    match ended {
        None => {
            info!("stopping");
            Ok(())
        }
        Some(ended) => Err(RunError::Task(ended.err().map(|error| error.to_string()))),
    }
}

/// What is told once the local API answers.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Who this is.
    pub node: NodeId,
    /// The UDP port of the mesh socket.
    pub port: u16,
    /// Where the API listens.
    pub api: ::api::Endpoints,
}

/// What `join` left in the state directory.
struct Joined {
    file: NodeFile,
    identity: Arc<IdentityKey>,
    wireguard: WireGuardKey,
    overlay: std::net::Ipv6Addr,
    trust: Trust,
}

impl Joined {
    /// Reads it, and counts this start before anything is said to anybody.
    fn load(state: &StateDir) -> Result<Self, RunError> {
        let mut file: NodeFile = state.read_json(files::NODE)?.ok_or(RunError::NotJoined)?;
        let snapshot = state.read(files::TRUST)?.ok_or(RunError::NotJoined)?;
        let trust = Trust::restore(&snapshot).map_err(|error| RunError::Damaged {
            file: files::TRUST,
            why: error.to_string(),
        })?;
        let identity = IdentityKey::from_bytes(&*key(state, files::NODE_KEY)?);
        let wireguard = WireGuardKey::from_bytes(&*key(state, files::WIREGUARD_KEY)?);
        file.boot += 1;
        state.write_json(files::NODE, &file)?;
        let overlay = identity::overlay_address(&trust.mesh(), &file.node);
        Ok(Self {
            file,
            identity: Arc::new(identity),
            wireguard,
            overlay,
            trust,
        })
    }
}

fn key(state: &StateDir, file: &'static str) -> Result<Zeroizing<[u8; 32]>, RunError> {
    let bytes = Zeroizing::new(state.read(file)?.ok_or(RunError::NotJoined)?);
    let key = bytes.as_slice().try_into().map_err(|_| RunError::Damaged {
        file,
        why: format!("{} bytes instead of 32", bytes.len()),
    })?;
    Ok(Zeroizing::new(key))
}

/// Lets in, at the handshake, whoever holds a member's key; whose it must be, the session checks
/// by the tunnel that it came through.
#[derive(Debug)]
struct MemberKeys(watch::Receiver<Arc<World>>);

impl KeyVerifier for MemberKeys {
    fn verify(&self, key: &IdentityPublic) -> bool {
        self.0
            .borrow()
            .members
            .values()
            .any(|member| member.identity == *key)
    }
}

async fn forward<T>(
    mut from: mpsc::Receiver<T>,
    to: mpsc::Sender<SessionCommand>,
    wrap: fn(T) -> SessionCommand,
) {
    while let Some(item) = from.recv().await {
        if to.send(wrap(item)).await.is_err() {
            return;
        }
    }
}

/// Gives the tunnel its peers, and a first call to who is new: hellos spread what the beacon has
/// not told, and directories.
async fn follow_peers(
    mut peers: watch::Receiver<Arc<Vec<tunnel::PeerConfig>>>,
    allowed: watch::Sender<Arc<BTreeSet<NodeId>>>,
    plane: mpsc::Sender<PlaneCommand>,
    sessions: mpsc::Sender<SessionCommand>,
) {
    let mut known = BTreeSet::new();
    loop {
        let list = peers.borrow_and_update().clone();
        let now: BTreeSet<NodeId> = list.iter().map(|peer| peer.node).collect();
        if plane.send(PlaneCommand::Peers(list)).await.is_err() {
            return;
        }
        allowed.send_replace(Arc::new(now.clone()));
        for peer in now.difference(&known) {
            if sessions.send(SessionCommand::Dial(*peer)).await.is_err() {
                return;
            }
        }
        known = now;
        if peers.changed().await.is_err() {
            return;
        }
    }
}

async fn follow_policy(
    mut world: watch::Receiver<Arc<World>>,
    node: NodeId,
    plane: mpsc::Sender<PlaneCommand>,
) {
    loop {
        let filter = {
            let world = world.borrow_and_update();
            match &world.policy {
                Some(policy) => policy.policy.packet_filter(&node, ROUTER_PORT, world.at),
                None => policy::PacketFilter::deny_all(),
            }
        };
        if plane.send(PlaneCommand::Filter(filter)).await.is_err() || world.changed().await.is_err()
        {
            return;
        }
    }
}

/// Tells the exchange which agents are here and how they are, when that changes: at once, and once a
/// second where it goes on changing. Whoever is away and calls all the same is told of once a minute.
async fn tell_agents(agents: Agents, exchange: mpsc::Sender<ExchangeCommand>) {
    let (mut told, mut told_at) = (None, Instant::now());
    loop {
        let list = agents.list();
        let now: Vec<_> = list
            .iter()
            .map(|agent| (agent.clone(), agents.presence(agent)))
            .collect();
        let same = |told: &Vec<(Arc<Agent>, Presence)>| {
            let pairs = told.iter().zip(&now);
            let same = pairs.filter(|((a, was), (b, is))| Arc::ptr_eq(a, b) && was == is);
            told.len() == now.len() && same.count() == now.len()
        };
        if !told.as_ref().is_some_and(same) || told_at.elapsed() > DIRECTORY_AGE {
            (told, told_at) = (Some(now), Instant::now());
            let local = ExchangeCommand::Agents(local_directory(&agents));
            if exchange.send(local).await.is_err() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        // Nothing tells that an agent has been silent for long enough.
        let _ = tokio::time::timeout(LOOK, agents.news()).await;
    }
}

/// Keeps where peers were last met, for a start without a beacon.
struct AddressKeeper {
    state: StateDir,
    addresses: Addresses,
    port: u16,
    control: mpsc::Sender<ControlInput>,
    exchange: mpsc::Sender<ExchangeCommand>,
}

impl AddressKeeper {
    async fn run(mut self, mut news: mpsc::Receiver<PlaneEvent>) {
        self.addresses.port = Some(self.port);
        self.write().await;
        while let Some(event) = news.recv().await {
            match event {
                PlaneEvent::GoodAddress(peer, remote) => {
                    // Control ends only with the node.
                    let _ = self
                        .control
                        .send(ControlInput::GoodAddress(peer, remote))
                        .await;
                    if self.remember(peer, remote) {
                        self.write().await;
                    }
                }
                PlaneEvent::Path(peer, link) => {
                    let remote = link.as_ref().and_then(Link::remote);
                    let _ = self
                        .exchange
                        .send(ExchangeCommand::Underlay(peer, remote))
                        .await;
                }
            }
        }
    }

    /// Whether the list changed: the newest comes first.
    fn remember(&mut self, peer: NodeId, remote: SocketAddr) -> bool {
        let known = self.addresses.last_good.entry(peer).or_default();
        if known.first() == Some(&remote) {
            return false;
        }
        known.retain(|addr| *addr != remote);
        known.insert(0, remote);
        known.truncate(MAX_LAST_GOOD);
        true
    }

    async fn write(&self) {
        let (state, addresses) = (self.state.clone(), self.addresses.clone());
        let write = move || state.write_json(files::ADDRESSES, &addresses);
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "cannot keep where peers were met"),
            Err(error) => warn!(%error, "cannot keep where peers were met"),
        }
    }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, RunError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut()).map_err(|error| RunError::Random(error.to_string()))?;
    Ok(bytes)
}

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The directory holds no membership.
    #[error("this host has not joined a mesh; hint: crabmesh join - < token")]
    NotJoined,
    /// A file is not what was written.
    #[error("{file} is damaged: {why}; hint: restore it, or join again with a new token")]
    Damaged {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// No UDP socket.
    #[error("cannot open a UDP socket")]
    Socket(#[source] std::io::Error),
    /// The key does not suit TLS.
    #[error(transparent)]
    Tls(#[from] net::tls::TlsError),
    /// The durable store.
    #[error(transparent)]
    Spool(#[from] crate::spool::SpoolError),
    /// The tasks of A2A.
    #[error(transparent)]
    Tasks(#[from] crate::a2a::StoreError),
    /// The agents' file.
    #[error(transparent)]
    Agents(#[from] crate::agents::AgentsError),
    /// The local API.
    #[error(transparent)]
    Api(#[from] crate::api::ApiError),
    /// The kernel gives no randomness.
    #[error("no randomness: {0}")]
    Random(String),
    /// A task ended that never should.
    #[error("a task of the node ended{}", .0.as_deref().map(|why| format!(": {why}")).unwrap_or_default())]
    Task(Option<String>),
}

/// A commit takes milliseconds; a disk that needs longer than this is not waited for.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Things that may wait between two tasks.
pub(crate) const QUEUE: usize = 1024;

/// Addresses kept for each peer: its router may give it another now and then.
const MAX_LAST_GOOD: usize = 4;

/// How often the agents here are looked at, and the most often that peers hear of them.
const LOOK: Duration = Duration::from_secs(1);

/// How old the idle time of an agent that is away and calls may grow at its peers.
const DIRECTORY_AGE: Duration = Duration::from_secs(60);
