//! What peers say, sorted: gossip to control, messages to the message plane, and here the two
//! things that are neither, directories and pings of agents.
//!
//! Messages of a peer wait while control pulls what the peer holds that is newer (identity.md §5):
//! nothing is judged by a policy that is known to be old. **Invariant:** this task never waits for
//! one neighbour while another waits for it; it stops reading from peers instead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{AgentName, NodeId};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;
use wire::message::MessageFrame;
use wire::peer::{DirectoryEntry, PeerFrame};

use crate::control::{ControlInput, Event as ControlEvent, Status};
use crate::directories::{Known, Own, Rights, Told};
use crate::messages::PeerInput;
use crate::sessions::{SessionCommand, SessionEvent};
use crate::world::World;

/// What the rest of the node asks.
#[derive(Debug)]
pub enum ExchangeCommand {
    /// Whether `to` is there and lets `from` reach it; `None` without an answer in time.
    Reachable {
        /// The gateway.
        peer: NodeId,
        /// My agent.
        from: AgentName,
        /// Its agent.
        to: AgentName,
        /// The answer.
        answer: oneshot::Sender<Option<bool>>,
    },
    /// Local agents as they are now: tell the peers what they do not know.
    Agents(Vec<DirectoryEntry>),
    /// This peer's packets come from here now.
    Underlay(NodeId, Option<std::net::SocketAddr>),
}

/// What the task is joined to.
pub struct ExchangePorts {
    /// From the rest of the node.
    pub commands: mpsc::Receiver<ExchangeCommand>,
    /// From the sessions.
    pub sessions: mpsc::Receiver<SessionEvent>,
    /// To the sessions, which never wait.
    pub to_sessions: mpsc::Sender<SessionCommand>,
    /// From control.
    pub control: mpsc::Receiver<ControlEvent>,
    /// To control.
    pub to_control: mpsc::Sender<ControlInput>,
    /// To the message plane.
    pub to_messages: mpsc::Sender<PeerInput>,
    /// The policy and the members.
    pub world: watch::Receiver<Arc<World>>,
    /// Who is there, by the word of beacons.
    pub status: watch::Receiver<Arc<Status>>,
    /// What others told of their agents; changed also when the agents here do.
    pub known: watch::Sender<Arc<Known>>,
}

/// The task.
pub struct Exchange {
    ports: ExchangePorts,
    peers: BTreeMap<NodeId, Peer>,
    underlay: BTreeMap<NodeId, std::net::SocketAddr>,
    agents: Own,
    told: BTreeMap<NodeId, Told>,
    /// Peers without a session that should hear of something.
    owed: BTreeMap<NodeId, Owed>,
    asked: BTreeMap<u64, (oneshot::Sender<Option<bool>>, Instant)>,
    next_token: u64,
    for_control: VecDeque<ControlInput>,
    for_messages: VecDeque<PeerInput>,
}

/// A peer in session.
#[derive(Default)]
struct Peer {
    /// Control judged its hello.
    ready: bool,
    /// Frames that came before that.
    held: VecDeque<MessageFrame>,
}

/// When a peer is dialled, and how long after that again.
struct Owed {
    at: Instant,
    wait: Duration,
}

impl Exchange {
    /// Nobody is in session yet.
    pub fn new(ports: ExchangePorts) -> Self {
        Self {
            ports,
            peers: BTreeMap::new(),
            underlay: BTreeMap::new(),
            agents: Own::default(),
            told: BTreeMap::new(),
            owed: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 0,
            for_control: VecDeque::new(),
            for_messages: VecDeque::new(),
        }
    }

    /// Runs until the node stops.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(ANSWER_TIME);
        loop {
            let room =
                self.for_control.len() < MAX_WAITING && self.for_messages.len() < MAX_WAITING;
            tokio::select! {
                biased;
                event = self.ports.control.recv() => match event {
                    Some(event) => self.handle_control(event),
                    None => return,
                },
                permit = self.ports.to_control.clone().reserve_owned(), if !self.for_control.is_empty() => match permit {
                    Ok(permit) => send_first(permit, &mut self.for_control),
                    Err(_) => return,
                },
                permit = self.ports.to_messages.clone().reserve_owned(), if !self.for_messages.is_empty() => match permit {
                    Ok(permit) => send_first(permit, &mut self.for_messages),
                    Err(_) => return,
                },
                event = self.ports.sessions.recv(), if room => match event {
                    Some(event) => self.handle_session(event).await,
                    None => return,
                },
                command = self.ports.commands.recv() => match command {
                    Some(command) => self.handle_command(command).await,
                    None => return,
                },
                changed = self.ports.world.changed() => match changed {
                    Ok(()) => self.handle_world().await,
                    Err(_) => return,
                },
                _ = tick.tick() => self.handle_tick().await,
            }
        }
    }

    async fn handle_session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Up(peer) => {
                self.peers.insert(peer, Peer::default());
                let remote = self.underlay.get(&peer).copied();
                self.for_control
                    .push_back(ControlInput::PeerUp { peer, remote });
                self.owed.remove(&peer);
                self.know(|known| known.handle_up(peer, Instant::now()));
                self.tell_all(peer).await;
            }
            SessionEvent::Down(peer) => {
                if let Some(gone) = self.peers.remove(&peer)
                    && gone.ready
                {
                    self.for_messages.push_back(PeerInput::Down(peer));
                }
                self.for_control.push_back(ControlInput::PeerDown(peer));
                self.know(|known| known.handle_down(peer, Instant::now()));
            }
            SessionEvent::Message(peer, frame) => match self.peers.get_mut(&peer) {
                Some(known) if !known.ready => {
                    // More than a peer may have in flight is its own fault; it offers again.
                    if known.held.len() < MAX_WAITING {
                        known.held.push_back(frame);
                    }
                }
                _ => self.for_messages.push_back(PeerInput::Frame(peer, frame)),
            },
            SessionEvent::Control(peer, frame) => self.handle_frame(peer, frame).await,
        }
    }

    async fn handle_frame(&mut self, peer: NodeId, frame: PeerFrame) {
        match frame {
            PeerFrame::Ping { token, agents } => {
                let reachable = agents.is_none_or(|(from, to)| self.reaches_here(peer, &from, &to));
                self.tell(peer, PeerFrame::Pong { token, reachable }).await;
            }
            PeerFrame::Pong { token, reachable } => {
                if let Some((answer, _)) = self.asked.remove(&token) {
                    // Whoever asked may have gone.
                    let _ = answer.send(Some(reachable));
                }
            }
            PeerFrame::Directory(agents) if self.peers.contains_key(&peer) => {
                self.know(|known| known.handle_directory(peer, agents, Instant::now()));
            }
            PeerFrame::News { changed, gone } if self.peers.contains_key(&peer) => {
                self.know(|known| known.handle_news(peer, changed, &gone, Instant::now()));
            }
            PeerFrame::Directory(_) | PeerFrame::News { .. } => {}
            frame => self.for_control.push_back(ControlInput::Peer(peer, frame)),
        }
    }

    fn handle_control(&mut self, event: ControlEvent) {
        match event {
            ControlEvent::Ready(peer) => {
                if let Some(known) = self.peers.get_mut(&peer)
                    && !known.ready
                {
                    known.ready = true;
                    let held = std::mem::take(&mut known.held);
                    self.for_messages.push_back(PeerInput::Up(peer));
                    let frames = held.into_iter().map(|frame| PeerInput::Frame(peer, frame));
                    self.for_messages.extend(frames);
                }
            }
            ControlEvent::Unready(peer) => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.ready = false;
                }
            }
            // Control has told people of the rest itself.
            _ => {}
        }
    }

    async fn handle_command(&mut self, command: ExchangeCommand) {
        match command {
            ExchangeCommand::Reachable {
                peer,
                from,
                to,
                answer,
            } => {
                if !self.peers.contains_key(&peer) {
                    // The dial goes on for the next try; there is no session to ask on now.
                    self.command(SessionCommand::Dial(peer)).await;
                    let _ = answer.send(None);
                    return;
                }
                let token = self.next_token;
                self.next_token += 1;
                self.asked
                    .insert(token, (answer, Instant::now() + ANSWER_TIME));
                self.tell(
                    peer,
                    PeerFrame::Ping {
                        token,
                        agents: Some((from, to)),
                    },
                )
                .await;
            }
            ExchangeCommand::Agents(agents) => {
                if self.agents.set(agents, Instant::now()) {
                    self.know(|_| {});
                    self.tell_news(false).await;
                }
            }
            ExchangeCommand::Underlay(peer, remote) => {
                match remote {
                    Some(remote) => self.underlay.insert(peer, remote),
                    None => self.underlay.remove(&peer),
                };
            }
        }
    }

    /// Whether an agent of that peer may reach one of mine that exists.
    fn reaches_here(&self, peer: NodeId, from: &AgentName, to: &AgentName) -> bool {
        let world = self.ports.world.borrow();
        self.agents.has(to) && world.reachable((peer, Some(from)), (world.node, to))
    }

    /// What agents there may do here may be something else.
    async fn handle_world(&mut self) {
        {
            let world = self.ports.world.borrow_and_update().clone();
            let is_member = |node: &NodeId| world.members.contains_key(node);
            self.told.retain(|node, _| is_member(node));
            self.owed.retain(|node, _| is_member(node));
            if self
                .ports
                .known
                .borrow()
                .gateways()
                .any(|(node, _)| !is_member(node))
            {
                self.know(|known| known.retain(is_member));
            }
        }
        self.tell_news(true).await;
    }

    async fn handle_tick(&mut self) {
        self.expire();
        let now = Instant::now();
        let whole = self.told.iter().filter(|(_, told)| told.wants_whole(now));
        let whole = whole.map(|(peer, _)| *peer);
        let whole: Vec<_> = whole.filter(|peer| self.peers.contains_key(peer)).collect();
        for peer in whole {
            self.tell_all(peer).await;
        }
        self.dial_owed(now).await;
    }

    /// Tells whoever is in session what it does not know, and dials whoever is not: sessions end
    /// while there is nothing to say.
    async fn tell_news(&mut self, all: bool) {
        let (now, world) = (Instant::now(), self.ports.world.borrow().clone());
        let mut frames = Vec::new();
        for (peer, told) in &mut self.told {
            let rights = rights(&world, *peer);
            if self.peers.contains_key(peer) {
                frames.extend(
                    self.agents
                        .tell(told, rights, now)
                        .map(|frame| (*peer, frame)),
                );
            } else if self.agents.is_news(told, rights, all) {
                self.owed.entry(*peer).or_insert(Owed {
                    at: now,
                    wait: DIAL_AGAIN,
                });
            }
        }
        for (peer, frame) in frames {
            self.tell(peer, frame).await;
        }
        self.dial_owed(now).await;
    }

    /// The agents here that some agent there may reach: others are none of its business.
    async fn tell_all(&mut self, peer: NodeId) {
        let world = self.ports.world.borrow().clone();
        let told = self.told.entry(peer).or_default();
        let frame = self
            .agents
            .tell_all(told, rights(&world, peer), Instant::now());
        self.tell(peer, frame).await;
    }

    /// Whoever a beacon says is gone dials itself when it is back.
    async fn dial_owed(&mut self, now: Instant) {
        let status = self.ports.status.borrow().clone();
        let gone = |peer| status.map_live && matches!(status.presence.get(peer), Some((false, _)));
        let mut due = Vec::new();
        for (peer, owed) in &mut self.owed {
            if owed.at <= now && !gone(peer) {
                owed.at = now + owed.wait;
                owed.wait = (owed.wait * 2).min(DIAL_AGAIN_MOST);
                due.push(*peer);
            }
        }
        for peer in due {
            self.command(SessionCommand::Dial(peer)).await;
        }
    }

    fn know(&self, change: impl FnOnce(&mut Known)) {
        self.ports
            .known
            .send_modify(|known| change(Arc::make_mut(known)));
    }

    async fn tell(&self, peer: NodeId, frame: PeerFrame) {
        self.command(SessionCommand::Control(peer, frame)).await;
    }

    async fn command(&self, command: SessionCommand) {
        if self.ports.to_sessions.send(command).await.is_err() {
            debug!("the sessions have ended");
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let late = self.asked.extract_if(.., |_, (_, until)| *until <= now);
        late.for_each(|(_, (answer, _))| {
            let _ = answer.send(None);
        });
    }
}

/// What agents of a peer may do with those here.
fn rights(world: &World, peer: NodeId) -> impl Fn(&AgentName) -> Rights {
    move |agent| {
        let (from, to) = ((peer, None), (world.node, agent));
        match world.reachable(from, to) {
            false => Rights::None,
            true if world.may_stream(from, to) => Rights::Streams,
            true => Rights::Some,
        }
    }
}

fn send_first<T>(permit: mpsc::OwnedPermit<T>, queue: &mut VecDeque<T>) {
    if let Some(first) = queue.pop_front() {
        permit.send(first);
    }
}

/// What may wait here for a neighbour: twice what a peer may have in flight.
const MAX_WAITING: usize = 512;

/// A peer in session answers within a round trip; 2 s is a lost one.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A dial takes up to 15 s; whoever could not be told is dialled again after this, and then more and
/// more rarely.
const DIAL_AGAIN: Duration = Duration::from_secs(20);

/// See [`DIAL_AGAIN`].
const DIAL_AGAIN_MOST: Duration = Duration::from_secs(900);

#[cfg(test)]
mod tests;
