//! The QUIC connections to peers, inside their tunnels.
//!
//! Either side dials when it has something to say. Each side opens three unidirectional streams for
//! what it says itself: control ([`PeerFrame`]), offers and answers ([`MessageFrame`]); the first
//! byte names which. Two connections of one pair (both dialled, or one side restarted) are both read;
//! the newest is written to, and the older one ends by its idle timeout.
//!
//! The task itself never waits for whoever hears its events, so that no cycle of full channels can
//! stop it; a connection's readers do wait, and QUIC's flow control then holds the peer.
//! **Invariant:** nothing is read from a connection before its TLS key proved to be the identity
//! key of the member whose tunnel it came through (identity.md §5): the address says which tunnel,
//! as the tunnel drops every packet whose inner source is not that of its peer.

mod connection;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use identity::NodeId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};
use wire::message::MessageFrame;
use wire::peer::{PeerFrame, ROUTER_PORT};

use crate::streams::Streams;
use crate::world::World;
use connection::{Connection, Heard};

/// What the rest of the node asks of the sessions.
#[derive(Debug)]
pub enum SessionCommand {
    /// Send this to a peer; dialled where there is no session.
    Message(NodeId, MessageFrame),
    /// Send this on the control stream of a peer that is up.
    Control(NodeId, PeerFrame),
    /// Open a session where there is none.
    Dial(NodeId),
    /// The connection in use, for a stream of its own; where there is none it is dialled, for the
    /// next try.
    Connection(NodeId, oneshot::Sender<Option<quinn::Connection>>),
}

/// What the sessions tell the rest of the node.
#[derive(Debug)]
pub enum SessionEvent {
    /// A session with this peer is up, or another one is in use from here on.
    Up(NodeId),
    /// The session that was in use is gone or replaced; what was in flight may be lost.
    Down(NodeId),
    /// A frame of its control stream.
    Control(NodeId, PeerFrame),
    /// A frame of its message stream.
    Message(NodeId, MessageFrame),
}

/// All sessions of this node; a task that ends when its commands end.
pub struct Sessions {
    endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
    world: watch::Receiver<Arc<World>>,
    allowed: watch::Receiver<Arc<BTreeSet<NodeId>>>,
    commands: mpsc::Receiver<SessionCommand>,
    events: mpsc::Sender<SessionEvent>,
    streams: Streams,
    /// Ups and downs that wait for room: at most two for each peer that anything happens to.
    untold: VecDeque<SessionEvent>,
    /// Newest last.
    open: BTreeMap<NodeId, Vec<Connection>>,
    dialling: BTreeMap<NodeId, Vec<MessageFrame>>,
    tasks: JoinSet<Done>,
}

/// How a task of the sessions ended.
enum Done {
    Dialled(NodeId, Option<quinn::Connection>),
    Answered(Option<(NodeId, quinn::Connection)>),
    Closed(NodeId, usize),
}

impl Sessions {
    /// The sessions over this endpoint. `allowed` are the peers of the tunnel: a session with
    /// anybody else is closed at once.
    pub fn new(
        endpoint: quinn::Endpoint,
        client: quinn::ClientConfig,
        world: watch::Receiver<Arc<World>>,
        allowed: watch::Receiver<Arc<BTreeSet<NodeId>>>,
        commands: mpsc::Receiver<SessionCommand>,
        events: mpsc::Sender<SessionEvent>,
        streams: Streams,
    ) -> Self {
        Self {
            endpoint,
            client,
            world,
            allowed,
            commands,
            events,
            streams,
            untold: VecDeque::new(),
            open: BTreeMap::new(),
            dialling: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Runs until the senders of commands are gone.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.answer(incoming),
                    None => break,
                },
                Some(done) = self.tasks.join_next() => self.handle_done(done),
                Ok(()) = self.allowed.changed() => self.close_forbidden(),
                permit = self.events.clone().reserve_owned(), if !self.untold.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.untold.pop_front() {
                            permit.send(event);
                        }
                    }
                    Err(_) => break,
                },
            }
        }
        self.endpoint.close(0u32.into(), b"shutting down");
        self.tasks.shutdown().await;
    }

    fn handle_command(&mut self, command: SessionCommand) {
        match command {
            SessionCommand::Message(peer, frame) => match self.newest(peer) {
                Some(connection) => connection.send_message(frame),
                None => {
                    self.dial(peer);
                    if let Some(waiting) = self.dialling.get_mut(&peer)
                        && waiting.len() < MAX_WAITING
                    {
                        waiting.push(frame);
                    }
                }
            },
            SessionCommand::Control(peer, frame) => {
                if let Some(connection) = self.newest(peer) {
                    connection.send_control(frame);
                }
            }
            SessionCommand::Dial(peer) => {
                if self.newest(peer).is_none() {
                    self.dial(peer);
                }
            }
            SessionCommand::Connection(peer, answer) => {
                let connection = self.newest(peer).map(Connection::quic);
                if connection.is_none() {
                    self.dial(peer);
                }
                // Who asked may be gone.
                let _ = answer.send(connection);
            }
        }
    }

    fn newest(&self, peer: NodeId) -> Option<&Connection> {
        self.open
            .get(&peer)
            .and_then(|connections| connections.last())
    }

    fn dial(&mut self, peer: NodeId) {
        if self.dialling.contains_key(&peer) || !self.allowed.borrow().contains(&peer) {
            return;
        }
        let Some(overlay) = self
            .world
            .borrow()
            .members
            .get(&peer)
            .map(|member| member.overlay)
        else {
            return;
        };
        let remote = SocketAddr::new(IpAddr::V6(overlay), ROUTER_PORT);
        let connecting =
            match self
                .endpoint
                .connect_with(self.client.clone(), remote, net::tls::SERVER_NAME)
            {
                Ok(connecting) => connecting,
                Err(error) => {
                    warn!(%peer, %error, "cannot dial");
                    return;
                }
            };
        self.dialling.insert(peer, Vec::new());
        self.tasks.spawn(async move {
            let connected = tokio::time::timeout(HANDSHAKE_TIME, connecting).await;
            match connected {
                Ok(Ok(connection)) => Done::Dialled(peer, Some(connection)),
                Ok(Err(error)) => {
                    debug!(%peer, %error, "no session");
                    Done::Dialled(peer, None)
                }
                Err(_) => Done::Dialled(peer, None),
            }
        });
    }

    fn answer(&mut self, incoming: quinn::Incoming) {
        let from = incoming.remote_address().ip();
        let Some(peer) = self.peer_at(from) else {
            incoming.ignore();
            return;
        };
        self.tasks.spawn(async move {
            let connecting = incoming.accept();
            let accepted = match connecting {
                Ok(connecting) => tokio::time::timeout(HANDSHAKE_TIME, connecting).await,
                Err(error) => {
                    debug!(%peer, %error, "session refused");
                    return Done::Answered(None);
                }
            };
            Done::Answered(
                accepted
                    .ok()
                    .and_then(Result::ok)
                    .map(|connection| (peer, connection)),
            )
        });
    }

    /// The member whose tunnel delivers packets from this address.
    fn peer_at(&self, address: IpAddr) -> Option<NodeId> {
        let IpAddr::V6(address) = address else {
            return None;
        };
        let world = self.world.borrow();
        let member = world
            .members
            .values()
            .find(|member| member.overlay == address)?;
        self.allowed
            .borrow()
            .contains(&member.node)
            .then_some(member.node)
    }

    fn handle_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Dialled(peer, connection)) => {
                let waiting = self.dialling.remove(&peer).unwrap_or_default();
                if let Some(connection) = connection {
                    self.open(peer, connection);
                }
                match self.newest(peer) {
                    Some(connection) => waiting
                        .into_iter()
                        .for_each(|frame| connection.send_message(frame)),
                    // The router learns that its offers went nowhere, and will offer again.
                    None if !waiting.is_empty() => self.tell(SessionEvent::Down(peer)),
                    None => {}
                }
            }
            Ok(Done::Answered(Some((peer, connection)))) => self.open(peer, connection),
            Ok(Done::Answered(None)) => {}
            Ok(Done::Closed(peer, id)) => self.handle_closed(peer, id),
            Err(error) => warn!(%error, "a session's task failed"),
        }
    }

    /// Takes a connection into use once its key is the peer's.
    fn open(&mut self, peer: NodeId, connection: quinn::Connection) {
        let expected = self
            .world
            .borrow()
            .members
            .get(&peer)
            .map(|member| member.identity);
        let proved = net::tls::peer_key(&connection);
        if proved.is_none() || proved != expected || !self.allowed.borrow().contains(&peer) {
            warn!(%peer, "session closed: its key is not that of the tunnel's peer");
            connection.close(1u32.into(), b"wrong key");
            return;
        }
        debug!(%peer, "session up");
        // The other side may have restarted: it wants a hello and every offer again.
        if self.newest(peer).is_some() {
            self.tell(SessionEvent::Down(peer));
        }
        // Before its readers run, so that nothing is heard of a peer that is not up.
        self.tell(SessionEvent::Up(peer));
        let id = connection.stable_id();
        let heard = Heard {
            peer,
            events: self.events.clone(),
            streams: self.streams.clone(),
        };
        let (handle, task) = Connection::new(connection, heard);
        self.tasks.spawn(async move {
            task.await;
            Done::Closed(peer, id)
        });
        self.open.entry(peer).or_default().push(handle);
    }

    /// Tells at once where there is room, else in order and when there is.
    fn tell(&mut self, event: SessionEvent) {
        if !self.untold.is_empty() {
            self.untold.push_back(event);
        } else if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            self.untold.push_back(event);
        }
    }

    fn handle_closed(&mut self, peer: NodeId, id: usize) {
        let Some(connections) = self.open.get_mut(&peer) else {
            return;
        };
        let was_newest = connections
            .last()
            .is_some_and(|connection| connection.id() == id);
        connections.retain(|connection| connection.id() != id);
        let others = !connections.is_empty();
        if !others {
            self.open.remove(&peer);
        }
        if was_newest {
            debug!(%peer, "session down");
            self.tell(SessionEvent::Down(peer));
            if others {
                self.tell(SessionEvent::Up(peer));
            }
        }
    }

    fn close_forbidden(&mut self) {
        let allowed = self.allowed.borrow_and_update().clone();
        for (peer, connections) in &self.open {
            if !allowed.contains(peer) {
                connections.iter().for_each(Connection::close);
            }
        }
    }
}

/// A peer that has not finished its handshake by then is dialled again on demand: relay, loss and
/// WireGuard's own handshake (5 s between retries) fit in.
const HANDSHAKE_TIME: Duration = Duration::from_secs(15);

/// Frames kept while a session is dialled; the router offers again what does not fit.
const MAX_WAITING: usize = 256;
