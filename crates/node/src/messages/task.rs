//! The task: takes what came, lets the router decide, does what it says, and again.

mod commands;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::NodeId;
use router::{
    Budgets, Clock, Delivery, Event, HolderId, Output, Refusal, Router, RowId, Status, Ticket,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{debug, info, warn};
use wire::message::{MessageFrame, MessageKey};
use wire::{InstanceId, MessageId};

use super::handle::{CANCELS_AHEAD, Command, Followed, Reply, Waiter};
use super::{LocalAgent, Messages, Outcome, PeerInput, PeerOutput, SendError, Sent};
use crate::spool::{Job, Spool, SpoolError, Unread, crash};
use crate::streams::Streams;
use crate::world::World;

/// What the plane is made of.
pub struct MessagesConfig {
    /// This gateway.
    pub node: NodeId,
    /// Every agent that is registered at the start. What the spool holds for others is given up.
    pub agents: Vec<LocalAgent>,
    /// The store, just opened.
    pub spool: Unread,
    /// The members and the policy.
    pub world: watch::Receiver<Arc<World>>,
    /// How much may follow from one message.
    pub budgets: Budgets,
    /// The parts of answers.
    pub streams: Streams,
    /// Random, for jitter.
    pub seed: [u8; 32],
}

/// The ends towards other gateways.
pub struct MessagesEnds {
    /// Tell the plane what happens there.
    pub inputs: mpsc::Sender<PeerInput>,
    /// What it wants there.
    pub outputs: mpsc::Receiver<PeerOutput>,
}

/// The task, to be run. It ends, with everything on disk, when the last [`Messages`] is dropped.
pub struct Plane {
    router: Router,
    spool: Spool,
    commands: mpsc::Receiver<Command>,
    inputs: mpsc::Receiver<PeerInput>,
    outputs: mpsc::Sender<PeerOutput>,
    /// What found no room in `outputs`.
    unsent: VecDeque<PeerOutput>,
    world: watch::Receiver<Arc<World>>,
    wake: Arc<Notify>,
    jobs: Vec<Job>,
    /// Letters that the router wants from the disk.
    reads: Vec<RowId>,
    /// What agents said of messages that are on disk alone, to be heard when these were read.
    parked: VecDeque<Command>,
    /// Whom to tell when a ticket is stored.
    promises: BTreeMap<(Ticket, u64), Promise>,
    waiters: BTreeMap<MessageKey, Vec<Waiter>>,
    pollers: BTreeMap<HolderId, Poller>,
    /// Pollers that were shown something since the last time that all output was done.
    served: BTreeSet<HolderId>,
    followers: BTreeMap<HolderId, Follower>,
    /// Whom to tell when a message that was shown is taken back.
    cancels: BTreeMap<(InstanceId, MessageId), Vec<oneshot::Sender<()>>>,
    streams: Streams,
    next: u64,
    clock_checked: Instant,
}

/// Told when its store is on disk.
enum Promise {
    Sent(MessageId, Reply<Sent>),
    Acked(Vec<Result<(), Refusal>>, Reply<Vec<Result<(), Refusal>>>),
    Done(Reply<()>),
    TakenBack(Status, Reply<Status>),
    Drained(oneshot::Sender<()>),
}

/// Waits once.
struct Poller {
    owner: InstanceId,
    answer: Reply<Vec<Delivery>>,
    deliveries: Vec<Delivery>,
    /// Waits until something comes.
    wait: bool,
}

/// Waits until it is gone.
struct Follower {
    owner: InstanceId,
    followed: mpsc::Sender<Followed>,
}

/// Reads the store, and joins a plane to its handle and to its ends.
pub fn start(config: MessagesConfig) -> Result<(Messages, MessagesEnds, Plane), SpoolError> {
    let MessagesConfig {
        node,
        agents,
        spool,
        world,
        budgets,
        streams,
        seed,
    } = config;
    let now = Instant::now();
    let authority = world.borrow().clone();
    let mut router = Router::new(
        node,
        spool.epoch,
        spool.first_row,
        authority,
        seed,
        Clock::new(unix_ms(), now),
        now,
    );
    for agent in &agents {
        router.add_agent(agent.into(), now);
    }
    let spool = spool.read(|row, value| router.restore_row(row, value))?;
    router.restored();
    router.set_budgets(budgets);
    let (commands, commands_in) = mpsc::channel(CHANNEL);
    let (inputs, inputs_in) = mpsc::channel(CHANNEL);
    let (outputs, outputs_out) = mpsc::channel(CHANNEL);
    let wake = Arc::new(Notify::new());
    let plane = Plane {
        router,
        spool,
        commands: commands_in,
        inputs: inputs_in,
        outputs,
        unsent: VecDeque::new(),
        world,
        wake: wake.clone(),
        jobs: Vec::new(),
        reads: Vec::new(),
        parked: VecDeque::new(),
        promises: BTreeMap::new(),
        waiters: BTreeMap::new(),
        pollers: BTreeMap::new(),
        served: BTreeSet::new(),
        followers: BTreeMap::new(),
        cancels: BTreeMap::new(),
        streams: streams.clone(),
        next: 0,
        clock_checked: now,
    };
    let ends = MessagesEnds {
        inputs,
        outputs: outputs_out,
    };
    let messages = Messages {
        commands,
        wake,
        streams,
    };
    Ok((messages, ends, plane))
}

impl Plane {
    /// Another number of letters of each inbox that stay in memory than usual; the rest waits on
    /// disk alone.
    pub fn set_keep(&mut self, keep: usize) {
        self.router.set_keep(keep);
    }

    /// Runs until the last handle is dropped.
    pub async fn run(mut self) {
        let (mut inputs_open, mut world_open) = (true, true);
        let outputs = self.outputs.clone();
        let mut wait = self.act(Instant::now());
        loop {
            let room = self.unsent.is_empty()
                && self.promises.len() < MOST_PROMISES
                && self.parked.len() < MOST_PARKED;
            let timer = async {
                match wait {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.spool.changed() => {}
                permit = outputs.reserve(), if !self.unsent.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(output) = self.unsent.pop_front() {
                            permit.send(output);
                        }
                        self.send_unsent();
                    }
                    // Nobody carries messages any longer; they wait in the spool.
                    Err(_) => self.unsent.clear(),
                },
                // Before anybody is heard: what comes now is judged by what is known now.
                changed = self.world.changed(), if world_open => match changed {
                    Ok(()) => {
                        let world = self.world.borrow_and_update().clone();
                        self.router.set_authority(world, Instant::now());
                    }
                    Err(_) => world_open = false,
                },
                input = self.inputs.recv(), if inputs_open && room => match input {
                    Some(input) => self.handle_inputs(input),
                    None => inputs_open = false,
                },
                command = self.commands.recv(), if room => match command {
                    Some(command) => self.handle_commands(command),
                    None => break,
                },
                () = self.wake.notified() => self.forget_the_gone(),
                () = timer => {}
            }
            wait = self.act(Instant::now());
        }
        self.act(Instant::now());
        info!(stores = self.spool.queued(), "message plane stopped");
    }

    /// Tells the router what the disk and the clock say, and does all it wants. Returns when it
    /// wants to be asked again.
    fn act(&mut self, now: Instant) -> Option<Instant> {
        self.check_clock(now);
        let failed = self.spool.clear_failure();
        let stored = self.spool.stored();
        self.router.handle_stored(stored, now);
        if let Some(failed) = failed {
            self.router.handle_store_failed(failed, now);
        }
        self.handle_loaded(now);
        self.router.handle_timeout(now);
        let wait = self.do_outputs(now);
        self.keep_promises(stored, failed);
        wait
    }

    /// Hands in what was read, and hears again what was said of it, before it is shown.
    fn handle_loaded(&mut self, now: Instant) {
        let loaded = self.spool.loaded();
        if loaded.is_empty() {
            return;
        }
        for (row, found) in loaded {
            self.router.handle_loaded(row, found, now);
        }
        for command in std::mem::take(&mut self.parked) {
            self.handle_command(command, now);
        }
    }

    fn do_outputs(&mut self, now: Instant) -> Option<Instant> {
        let wait = loop {
            match self.router.poll_output() {
                Output::Send { peer, frame } => self.send(peer, frame),
                Output::Store { ticket, writes } => self.jobs.push(Job { ticket, writes }),
                Output::Load(row) => self.reads.push(row),
                Output::Deliver { holder, delivery } => self.deliver(holder, delivery, now),
                Output::Answer { request, delivery } => self.answer(request, delivery, now),
                Output::Event(event) => self.handle_event(event, now),
                // Answering pollers can give the router something to say: who was gone gives back.
                Output::Wait(_) if self.answer_pollers(now) => {}
                Output::Wait(wait) => break wait,
            }
        };
        if !self.jobs.is_empty() {
            self.spool.submit(&mut self.jobs);
        }
        if !self.reads.is_empty() {
            self.spool.read(&mut self.reads);
        }
        wait
    }

    fn send(&mut self, peer: NodeId, frame: MessageFrame) {
        let points = match frame {
            MessageFrame::Offer { .. } => Some(("before-offer-write", "after-offer-write")),
            MessageFrame::Stored { .. } => Some(("before-stored-write", "after-stored-write")),
            _ => None,
        };
        if let Some((before, _)) = points {
            crash::point(before);
        }
        self.output(PeerOutput::Frame(peer, frame));
        if let Some((_, after)) = points {
            crash::point(after);
        }
    }

    fn output(&mut self, output: PeerOutput) {
        if !self.unsent.is_empty() {
            return self.unsent.push_back(output);
        }
        match self.outputs.try_send(output) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
            Err(mpsc::error::TrySendError::Full(output)) => self.unsent.push_back(output),
        }
    }

    fn send_unsent(&mut self) {
        while !self.unsent.is_empty()
            && let Ok(permit) = self.outputs.try_reserve()
        {
            if let Some(output) = self.unsent.pop_front() {
                permit.send(output);
            }
        }
    }

    fn handle_inputs(&mut self, first: PeerInput) {
        let now = Instant::now();
        self.handle_input(first, now);
        for _ in 1..BATCH {
            let Ok(input) = self.inputs.try_recv() else {
                break;
            };
            self.handle_input(input, now);
        }
    }

    fn handle_input(&mut self, input: PeerInput, now: Instant) {
        match input {
            PeerInput::Up(peer) => self.router.handle_up(peer, now),
            PeerInput::Down(peer) => self.router.handle_down(peer, now),
            PeerInput::Frame(peer, frame) => self.router.handle_frame(peer, frame, now),
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Accepted { key, node } => {
                debug!(target: "crabmesh::audit", agent = %key.instance, msg = %key.id, to = %node, "accepted");
            }
            Event::Changed { key, status } => {
                let Some(waiters) = self.waiters.get_mut(&key) else {
                    return;
                };
                let met = |waiter: &mut Waiter| waiter.what.met_by(&status);
                for waiter in waiters.extract_if(.., met).collect::<Vec<_>>() {
                    let _ = waiter.answer.send(Outcome::Settled(status.clone()));
                }
                self.unwatch_unless_awaited(key, now);
            }
            Event::Failed { key, error } => {
                info!(target: "crabmesh::audit", agent = %key.instance, msg = %key.id, code = %error.code, rule = error.rule.as_deref(), "failed");
            }
            Event::Refused { node, key, error } => {
                info!(target: "crabmesh::audit", peer = %node, agent = %key.instance, msg = %key.id, code = %error.code, rule = error.rule.as_deref(), "refused");
            }
            Event::DeadLetter { node, key, error } => {
                self.streams.end_known(node, key);
                warn!(target: "crabmesh::audit", peer = %node, agent = %key.instance, msg = %key.id, code = %error.code, rule = error.rule.as_deref(), "dead letter");
            }
            Event::Cancelled {
                instance,
                node,
                key,
            } => {
                let id = key.id;
                self.streams.end_known(node, key);
                info!(target: "crabmesh::audit", agent = %instance, msg = %id, "taken back by its sender");
                for heard in self.cancels.remove(&(instance, id)).into_iter().flatten() {
                    let _ = heard.send(());
                }
                let followers = self.followers.values();
                for follower in followers.filter(|it| it.owner == instance) {
                    // No room: its next heartbeat says so too.
                    let _ = follower.followed.try_send(Followed::Cancelled(id));
                }
            }
            Event::Looped { key, root, depth } => {
                warn!(target: "crabmesh::audit", agent = %key.instance, msg = %key.id, %root, depth, "stopped a loop of messages");
            }
            Event::Wanted { peer } => self.output(PeerOutput::Wanted(peer)),
            Event::AgentGone { instance } => {
                self.followers
                    .retain(|_, follower| follower.owner != instance);
                self.waiters.retain(|key, _| key.instance != instance);
                let gone = self
                    .pollers
                    .iter()
                    .filter(|(_, poller)| poller.owner == instance);
                for holder in gone.map(|(holder, _)| *holder).collect::<Vec<_>>() {
                    if let Some(poller) = self.pollers.remove(&holder) {
                        tell(poller.answer, Err(Refusal::UnknownAgent.into()));
                    }
                }
            }
            _ => {}
        }
    }

    fn new_holder(&mut self) -> HolderId {
        self.next += 1;
        HolderId(self.next)
    }

    /// The router counts time by instants; the wall clock may have been set meanwhile.
    fn check_clock(&mut self, now: Instant) {
        if now.saturating_duration_since(self.clock_checked) >= CHECK_CLOCK {
            self.clock_checked = now;
            self.streams.sweep();
            self.router.set_clock(Clock::new(unix_ms(), now), now);
        }
    }
}

/// Milliseconds since 1970, by the wall clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Deliveries that a follower has room for; the rest of its channel is for what was taken back.
fn room(followed: &mpsc::Sender<Followed>) -> usize {
    followed.capacity().saturating_sub(CANCELS_AHEAD)
}

fn tell<T>(answer: Reply<T>, result: Result<T, SendError>) {
    // A caller that went away misses nothing: what it asked for is decided all the same.
    let _ = answer.send(result);
}

/// The bound of each channel.
const CHANNEL: usize = 1024;
/// Taken from one channel before the others have their turn.
const BATCH: usize = 256;
/// Callers that wait for the disk before no more are heard.
const MOST_PROMISES: usize = 4096;
/// Calls about letters that are being read before no more are heard.
const MOST_PARKED: usize = 256;
const CHECK_CLOCK: Duration = Duration::from_secs(10);
