//! The task: takes what came, lets the router decide, does what it says, and again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use identity::NodeId;
use router::{
    Accept, Budgets, Clock, Delivery, Event, HolderId, Origin, Output, Refusal, Router, RowId,
    State, Status, Ticket,
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{debug, info, warn};
use wire::message::{MessageFrame, MessageKey};
use wire::{InstanceId, MessageId};

use super::handle::{CANCELS_AHEAD, Command, Followed, Reply, Waiter};
use super::{
    LocalAgent, Messages, Outcome, PeerInput, PeerOutput, SendError, Sent, Stats, WaitFor,
};
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

    fn handle_commands(&mut self, first: Command) {
        let now = Instant::now();
        self.handle_command(first, now);
        for _ in 1..BATCH {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            self.handle_command(command, now);
        }
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        if self.names_what_is_away(&command) {
            return self.parked.push_back(command);
        }
        match command {
            Command::AddAgent(agent, done) => {
                self.router.add_agent(agent, now);
                tell(done, Ok(()));
            }
            Command::RemoveAgent(instance, done) => {
                self.router.remove_agent(instance, now);
                let ticket = self.router.flush(now);
                self.promise(ticket, Promise::Done(done));
            }
            Command::Send {
                from,
                draft,
                answer,
                wait,
            } => {
                let id = draft.id;
                let accept = self.router.send(&from, draft, now);
                let taken = accept.is_ok();
                self.accept(id, accept, answer);
                if let Some(waiter) = wait.filter(|_| taken) {
                    self.wait(
                        MessageKey {
                            instance: from.instance,
                            id,
                        },
                        waiter,
                        now,
                    );
                }
            }
            Command::Reply {
                from,
                to,
                answer,
                done,
            } => {
                let id = answer.id;
                let parts = self.router.parts_target(from.instance, to);
                let accept = self.router.reply(&from, to, answer, now);
                if let (Ok(_), Ok(target)) = (&accept, parts) {
                    self.streams.end(target.peer, target.key);
                }
                self.accept(id, accept, done);
            }
            Command::Wait { agent, id, waiter } => {
                self.wait(
                    MessageKey {
                        instance: agent.instance,
                        id,
                    },
                    waiter,
                    now,
                );
            }
            Command::SettleReply { agent, id } => {
                let instance = agent.instance;
                self.router
                    .handle_answer_taken(MessageKey { instance, id }, now);
            }
            Command::Receive {
                agent,
                max,
                hold,
                wait,
                answer,
            } => {
                let holder = self.new_holder();
                let hold = hold.unwrap_or(router::limits::VISIBILITY);
                match self
                    .router
                    .demand(holder, agent.instance, max, Some(hold), now)
                {
                    Err(refusal) => tell(answer, Err(refusal.into())),
                    Ok(()) => {
                        let owner = agent.instance;
                        let poller = Poller {
                            owner,
                            answer,
                            deliveries: Vec::new(),
                            wait,
                        };
                        self.pollers.insert(holder, poller);
                        // Even with nothing to show, one that does not wait is to be answered.
                        self.served.insert(holder);
                    }
                }
            }
            Command::Follow { agent, followed } => {
                let holder = self.new_holder();
                let credit = room(&followed);
                // An unknown agent's follower is dropped, and so its stream ends.
                if self
                    .router
                    .demand(holder, agent.instance, credit, None, now)
                    .is_ok()
                {
                    self.followers.insert(
                        holder,
                        Follower {
                            owner: agent.instance,
                            followed,
                        },
                    );
                }
            }
            Command::Ack { agent, ids, done } => {
                let mut last = None;
                let results = ids.into_iter().map(|id| {
                    let ticket = self.router.ack(agent.instance, id, now)?;
                    last = last.max(ticket);
                    Ok(())
                });
                let results: Vec<_> = results.collect();
                match last {
                    Some(ticket) => self.promise(ticket, Promise::Acked(results, done)),
                    None => tell(done, Ok(results)),
                }
            }
            Command::Heartbeat {
                agent,
                ids,
                hold,
                done,
            } => {
                let hold = hold.unwrap_or(router::limits::VISIBILITY);
                let beat = |id| self.router.heartbeat(agent.instance, id, hold, now);
                let results = ids.into_iter().map(beat).collect();
                tell(done, Ok(results));
            }
            Command::Release { agent, ids } => {
                for id in ids {
                    // Unknown by now: settled, and that is as good.
                    let _ = self.router.give_back(agent.instance, id, now);
                }
            }
            Command::Cancel { agent, id, done } => {
                match self.router.cancel(agent.instance, id, now) {
                    Ok(status) => {
                        let ticket = self.router.flush(now);
                        self.promise(ticket, Promise::TakenBack(status, done));
                    }
                    Err(refusal) => tell(done, Err(refusal.into())),
                }
            }
            Command::Reject {
                agent,
                id,
                why,
                done,
            } => match self.router.reject(agent.instance, id, why.as_deref(), now) {
                Ok(ticket) => self.promise(ticket, Promise::Done(done)),
                Err(refusal) => tell(done, Err(refusal.into())),
            },
            Command::Cancelled { agent, id, heard } => {
                match self.router.is_cancelled(agent.instance, id) {
                    Some(true) => {
                        let _ = heard.send(());
                    }
                    Some(false) => {
                        let key = (agent.instance, id);
                        self.cancels.entry(key).or_default().push(heard);
                    }
                    None => {}
                }
            }
            Command::PartsTarget { agent, id, answer } => {
                let target = self.router.parts_target(agent.instance, id);
                tell(answer, target.map_err(Into::into));
            }
            Command::SentTo { agent, id, answer } => {
                let node = self.router.sent_to(agent.instance, id);
                tell(answer, node.map_err(Into::into));
            }
            Command::State { agent, id, answer } => {
                tell(
                    answer,
                    self.router.status(agent.instance, id).map_err(Into::into),
                );
            }
            Command::Queued(answer) => tell(answer, Ok(self.router.queued())),
            Command::Stats(answer) => {
                let stats = Stats {
                    router: self.router.stats(),
                    spool: self.spool.stats(),
                };
                // Who asked may be gone; so with every answer below.
                let _ = answer.send(stats);
            }
            Command::Drain(answer) => {
                let ticket = self.router.flush(now);
                self.promise(ticket, Promise::Drained(answer));
            }
        }
    }

    /// Whether a command needs a letter that is on disk alone; then that is asked for.
    fn names_what_is_away(&mut self, command: &Command) -> bool {
        let (instance, ids) = match command {
            Command::Reply { from, to, .. } => (from.instance, std::slice::from_ref(to)),
            Command::Ack { agent, ids, .. } => (agent.instance, ids.as_slice()),
            Command::Reject { agent, id, .. } | Command::PartsTarget { agent, id, .. } => {
                (agent.instance, std::slice::from_ref(id))
            }
            Command::Send { from, draft, .. } => match &draft.origin {
                Origin::Message(id) => (from.instance, std::slice::from_ref(id)),
                Origin::Unsaid | Origin::Nothing => return false,
            },
            _ => return false,
        };
        // All of them, so that the next look finds all of them.
        let away = ids.iter().filter(|id| self.router.is_away(instance, **id));
        away.count() > 0
    }

    fn accept(&mut self, id: MessageId, accept: Result<Accept, Refusal>, answer: Reply<Sent>) {
        match accept {
            Ok(Accept::Storing(ticket)) => self.promise(ticket, Promise::Sent(id, answer)),
            Ok(Accept::Known(Status {
                id, state, error, ..
            })) => {
                tell(answer, Ok(Sent { id, state, error }));
            }
            Err(refusal) => {
                debug!(%id, code = refusal.code(), "refused");
                tell(answer, Err(refusal.into()));
            }
        }
    }

    fn promise(&mut self, ticket: Ticket, promise: Promise) {
        self.next += 1;
        self.promises.insert((ticket, self.next), promise);
    }

    fn keep_promises(&mut self, stored: Ticket, failed: Option<Ticket>) {
        let up_to = failed.map_or(stored, |failed| failed.max(stored));
        while let Some(first) = self.promises.first_entry().filter(|it| it.key().0 <= up_to) {
            let kept = first.key().0 <= stored;
            match first.remove() {
                Promise::Sent(id, answer) if kept => {
                    tell(
                        answer,
                        Ok(Sent {
                            id,
                            state: State::Accepted,
                            error: None,
                        }),
                    );
                }
                Promise::Sent(_, answer) => tell(answer, Err(SendError::Store)),
                Promise::Acked(results, done) if kept => tell(done, Ok(results)),
                Promise::Acked(_, done) => tell(done, Err(SendError::Store)),
                Promise::Done(done) if kept => tell(done, Ok(())),
                Promise::Done(done) => tell(done, Err(SendError::Store)),
                Promise::TakenBack(status, done) if kept => tell(done, Ok(status)),
                Promise::TakenBack(_, done) => tell(done, Err(SendError::Store)),
                Promise::Drained(answer) => {
                    let _ = answer.send(());
                }
            }
        }
    }

    /// Lets a waiter wait, unless what it waits for is so already.
    fn wait(&mut self, key: MessageKey, waiter: Waiter, now: Instant) {
        // An unknown message: the waiter is dropped, and its caller asks for the state.
        let Ok(status) = self.router.watch(key.instance, key.id, true, now) else {
            return;
        };
        let others = self.waiters.entry(key).or_default();
        if waiter.what.met_by(&status) {
            let _ = waiter.answer.send(Outcome::Settled(status.clone()));
        } else {
            others.push(waiter);
        }
        // A reply that waits in the inbox comes as an answer now; one that was acked does not.
        self.do_outputs(now);
        let acked = status.state == State::Done && status.reply.is_some();
        if let Some(waiters) = self.waiters.get_mut(&key).filter(|_| acked) {
            for waiter in waiters.drain(..) {
                let _ = waiter.answer.send(Outcome::Settled(status.clone()));
            }
        }
        self.unwatch_unless_awaited(key, now);
    }

    fn unwatch_unless_awaited(&mut self, key: MessageKey, now: Instant) {
        if self.waiters.get(&key).is_some_and(Vec::is_empty) {
            self.waiters.remove(&key);
        }
        if !self.waiters.contains_key(&key) {
            // Unknown by now: nothing to watch.
            let _ = self.router.watch(key.instance, key.id, false, now);
        }
    }

    /// Hands a reply to the first who waits for it.
    fn answer(&mut self, request: MessageKey, delivery: Delivery, now: Instant) {
        let mut delivery = Some(delivery);
        let mut others = Vec::new();
        let mut kept = false;
        for waiter in self.waiters.remove(&request).unwrap_or_default() {
            let wants = matches!(waiter.what, WaitFor::Reply | WaitFor::KeptReply);
            let is_for_it = wants && !waiter.answer.is_closed();
            if let (true, Some(reply)) = (is_for_it, delivery.take_if(|_| is_for_it)) {
                kept = waiter.what == WaitFor::KeptReply;
                if let Err(Outcome::Answered(back)) = waiter.answer.send(Outcome::Answered(reply)) {
                    delivery = Some(back);
                }
            } else if !waiter.answer.is_closed() {
                others.push(waiter);
            }
        }
        let taken = delivery.is_none() && !kept;
        match delivery {
            // Its taker says so when it has it on disk.
            None if kept => {}
            None => self.router.handle_answer_taken(request, now),
            Some(_) => self.router.handle_answer_left(request, now),
        }
        let Ok(status) = self.router.status(request.instance, request.id) else {
            return;
        };
        for waiter in others {
            if taken || waiter.what.met_by(&status) {
                let _ = waiter.answer.send(Outcome::Settled(status.clone()));
            } else if self
                .router
                .watch(request.instance, request.id, true, now)
                .is_ok()
            {
                // The reply is not on disk yet; what this one waits for comes with it.
                self.waiters.entry(request).or_default().push(waiter);
            }
        }
    }

    fn deliver(&mut self, holder: HolderId, delivery: Delivery, now: Instant) {
        if let Some(poller) = self.pollers.get_mut(&holder) {
            poller.deliveries.push(delivery);
            self.served.insert(holder);
        } else if let Some(follower) = self.followers.get(&holder) {
            // The credit was its room, so what does not fit is only for one that is gone.
            if follower
                .followed
                .try_send(Followed::Delivery(delivery))
                .is_err()
            {
                self.followers.remove(&holder);
                self.router.release_holder(holder, now);
            }
        } else {
            self.router.release_holder(holder, now);
        }
    }

    /// Answers the pollers that have something or do not wait; true where one was gone, and the
    /// router has its messages back.
    fn answer_pollers(&mut self, now: Instant) -> bool {
        let mut gave_back = false;
        let mut loading = BTreeSet::new();
        while let Some(holder) = self.served.pop_first() {
            let waits = |poller: &Poller| poller.wait && poller.deliveries.is_empty();
            if self.pollers.get(&holder).is_none_or(waits) {
                continue;
            }
            // An inbox that is on disk is not an empty one.
            if self.router.is_loading_for(holder) {
                loading.insert(holder);
                continue;
            }
            let Some(poller) = self.pollers.remove(&holder) else {
                continue;
            };
            match poller.answer.send(Ok(poller.deliveries)) {
                Ok(()) => self.router.dismiss_holder(holder, now),
                Err(_) => {
                    self.router.release_holder(holder, now);
                    gave_back = true;
                }
            }
        }
        self.served = loading;
        gave_back
    }

    /// A caller went, or a follower has room again.
    fn forget_the_gone(&mut self) {
        let now = Instant::now();
        let gone = self
            .pollers
            .iter()
            .filter(|(_, poller)| poller.answer.is_closed());
        for holder in gone.map(|(holder, _)| *holder).collect::<Vec<_>>() {
            self.pollers.remove(&holder);
            self.router.release_holder(holder, now);
        }
        for holder in self.followers.keys().copied().collect::<Vec<_>>() {
            let Some(follower) = self.followers.get(&holder) else {
                continue;
            };
            let (owner, room) = (follower.owner, room(&follower.followed));
            if follower.followed.is_closed() {
                self.followers.remove(&holder);
                self.router.release_holder(holder, now);
            } else if self.router.demand(holder, owner, room, None, now).is_err() {
                self.followers.remove(&holder);
            }
        }
        self.cancels.retain(|_, waiting| {
            waiting.retain(|heard| !heard.is_closed());
            !waiting.is_empty()
        });
        for waiters in self.waiters.values_mut() {
            waiters.retain(|waiter| !waiter.answer.is_closed());
        }
        let left = self
            .waiters
            .iter()
            .filter(|(_, waiters)| waiters.is_empty());
        for key in left.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.unwatch_unless_awaited(key, now);
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
