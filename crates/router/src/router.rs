//! [`Router`]: what comes in, what goes out, and the timers between. The two halves of its story
//! are in `sender.rs` (from a local agent to a peer) and `receiver.rs` (from a peer to an agent); what
//! it says is in `output.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use identity::{AgentName, NodeId};
use wire::message::{MessageFrame, MessageKey};
use wire::{InstanceId, MessageId};

use crate::away::Loads;
use crate::causes::Causes;
use crate::clock::{Clock, Dice};
use crate::counters::Counters;
use crate::inbox::{Inbox, Mailbox};
use crate::limits;
use crate::outbox::{LaneId, Outbox, Usage};
use crate::output::{Event, HolderId, Output, Ticket};
use crate::rates::{Drawn, Rates};
use crate::rows::{DeadRow, Row, RowId, Table, Write};
use crate::words::{Agent, Authority, Delivery, Failure, Refusal, Status};

/// The messages of one gateway.
pub struct Router {
    pub(crate) node: NodeId,
    pub(crate) epoch: u64,
    pub(crate) clock: Clock,
    pub(crate) now: Instant,
    pub(crate) dice: Dice,
    pub(crate) authority: Arc<dyn Authority + Send + Sync>,
    pub(crate) outbox: Outbox,
    pub(crate) inbox: Inbox,
    /// What the rate guards let pass, of what comes in.
    pub(crate) rates: Rates,
    /// What led to what.
    pub(crate) causes: Causes,
    /// Letters at the head of each inbox that stay in memory.
    pub(crate) keep: usize,
    pub(crate) loads: Loads,
    pub(crate) counters: Counters,
    next_row: u64,
    /// Rows below are from before this start.
    pub(crate) first_row: RowId,
    next_ticket: u64,
    /// What was handed to the disk before this was judged by an earlier authority.
    judged_from: Ticket,
    /// Stores that somebody waits for, in the order in which they were asked for.
    pub(crate) pending: BTreeMap<Ticket, Pending>,
    pub(crate) timers: BTreeSet<(Instant, Timer)>,
    /// When [`Timer::Late`] is set.
    pub(crate) late: Option<Instant>,
    /// Peers and mailboxes that may have something to do.
    pub(crate) to_pump: BTreeSet<NodeId>,
    pub(crate) to_serve: BTreeSet<InstanceId>,
    outputs: VecDeque<Output>,
    /// What peers did, in order. Each is taken after all is said, and answered, that the one before
    /// led to: what is behind another in its stream must not be ahead of it on the disk.
    arrivals: VecDeque<Arrival>,
}

/// What a peer did.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "moved once, from the stream to the queue"
)]
enum Arrival {
    Up(NodeId),
    Down(NodeId),
    Frame(NodeId, MessageFrame),
}

/// What a ticket stands for.
#[derive(Debug)]
pub(crate) enum Pending {
    /// A message of a local agent; for a reply also the letter that it acks.
    Accept { row: RowId, acks: Option<RowId> },
    /// A reply that its asker has already, and the request that it answers.
    Late { row: RowId, request: RowId },
    /// A message from a peer, the request that it answers, and what rate guards took for it.
    Receive {
        row: RowId,
        answers: Option<RowId>,
        drawn: Drawn,
    },
    /// An ack alone.
    Ack { row: RowId },
    /// That a message was taken back.
    Cancel { peer: NodeId, key: MessageKey },
    /// Nothing but that everything before it is stored.
    Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A message of a local agent: first its time to live, then its memory.
    Outgoing(RowId),
    Lane(LaneId),
    Dial(NodeId),
    /// A message to a local agent: first its time to live, then its memory.
    Incoming(RowId),
    Hold(RowId),
    /// What was handed over before it was stored has waited for company long enough.
    Late,
}

impl Router {
    /// A router with empty queues. `epoch` is that of the spool, `first_row` lies above every row
    /// that the spool ever had.
    pub fn new(
        node: NodeId,
        epoch: u64,
        first_row: RowId,
        authority: Arc<dyn Authority + Send + Sync>,
        seed: [u8; 32],
        clock: Clock,
        now: Instant,
    ) -> Self {
        let mut outbox = Outbox::default();
        // This gateway is always up to itself.
        outbox.peers.entry(node).or_default().up = true;
        Self {
            node,
            epoch,
            clock,
            now,
            dice: Dice::new(seed),
            authority,
            outbox,
            inbox: Inbox::default(),
            rates: Rates::default(),
            causes: Causes::default(),
            keep: limits::KEEP,
            loads: Loads::default(),
            counters: Counters::default(),
            next_row: first_row.0.max(1),
            first_row,
            late: None,
            next_ticket: 1,
            judged_from: Ticket(0),
            pending: BTreeMap::new(),
            timers: BTreeSet::new(),
            to_pump: BTreeSet::new(),
            to_serve: BTreeSet::new(),
            outputs: VecDeque::new(),
            arrivals: VecDeque::new(),
        }
    }

    /// Lets a local agent have an inbox.
    pub fn add_agent(&mut self, agent: Agent, now: Instant) {
        self.now = now;
        let instance = agent.instance;
        if self.inbox.mailboxes.contains_key(&instance) {
            return;
        }
        self.inbox.names.insert(agent.name.clone(), instance);
        self.inbox.mailboxes.insert(instance, Mailbox::new(agent));
    }

    /// Ends an agent's life: what waits from it and for it becomes dead letters, and a new agent
    /// of the same name inherits nothing.
    pub fn remove_agent(&mut self, instance: InstanceId, now: Instant) {
        self.now = now;
        let gone = Failure::new("agent_removed", "the agent was removed from its gateway");
        let lowest = MessageKey {
            instance,
            id: MessageId::new(0, [0; 10]),
        };
        let from_it = self
            .outbox
            .by_key
            .range(lowest..)
            .take_while(|(key, _)| key.instance == instance);
        for row in from_it.map(|(_, row)| *row).collect::<Vec<_>>() {
            self.abandon_outgoing(row, &gone);
        }
        let to_it = self
            .inbox
            .by_id
            .range((instance, lowest.id)..)
            .take_while(|(key, _)| key.0 == instance);
        for row in to_it.map(|(_, row)| *row).collect::<Vec<_>>() {
            self.give_up(row, gone.clone());
        }
        let holders = self
            .inbox
            .holders
            .iter()
            .filter(|(_, holder)| holder.owner == instance);
        for holder in holders.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.inbox.holders.remove(&holder);
        }
        if let Some(mailbox) = self.inbox.mailboxes.remove(&instance)
            && self.inbox.names.get(&mailbox.agent.name) == Some(&instance)
        {
            self.inbox.names.remove(&mailbox.agent.name);
        }
        // Its dead letters stay, for people.
        if let Some(usage) = self.outbox.usage.get_mut(&instance) {
            let (dead, dead_bytes) = (std::mem::take(&mut usage.dead), usage.dead_bytes);
            *usage = Usage {
                dead,
                dead_bytes,
                ..Usage::default()
            };
        }
        self.event(Event::AgentGone { instance });
    }

    /// The policy or the members changed: everything that waits, is in flight or is open is judged
    /// again, and ends now if it is not allowed.
    pub fn set_authority(&mut self, authority: Arc<dyn Authority + Send + Sync>, now: Instant) {
        self.now = now;
        self.authority = authority;
        if !self.authority.has_policy() {
            return;
        }
        self.judged_from = Ticket(self.next_ticket);
        self.judge_outgoing_again();
        self.judge_incoming_again();
    }

    /// The wall clock was set. What waits keeps the time that it was given.
    pub fn set_clock(&mut self, clock: Clock, now: Instant) {
        self.now = now;
        self.clock = clock;
    }

    /// A session with that peer is up: whatever waits for it goes now.
    pub fn handle_up(&mut self, peer: NodeId, now: Instant) {
        self.now = now;
        self.arrivals.push_back(Arrival::Up(peer));
    }

    /// The session is gone, and with it what was in flight.
    pub fn handle_down(&mut self, peer: NodeId, now: Instant) {
        self.now = now;
        if peer != self.node {
            self.arrivals.push_back(Arrival::Down(peer));
        }
    }

    /// A frame arrived on the session of `peer`, whose identity that session has proved.
    pub fn handle_frame(&mut self, peer: NodeId, frame: MessageFrame, now: Instant) {
        self.now = now;
        self.arrivals.push_back(Arrival::Frame(peer, frame));
    }

    /// Everything up to this ticket is on disk.
    pub fn handle_stored(&mut self, up_to: Ticket, now: Instant) {
        self.now = now;
        while let Some(first) = self
            .pending
            .first_entry()
            .filter(|first| *first.key() <= up_to)
        {
            let doubted = *first.key() < self.judged_from;
            match first.remove() {
                Pending::Accept { row, acks } => self.accepted(row, acks, doubted),
                Pending::Receive { row, answers, .. } => self.received(row, answers, doubted),
                Pending::Late { row, .. } => self.received_late(row),
                Pending::Ack { row } => self.acked(row),
                Pending::Cancel { peer, key } => self.cancelled(peer, key),
                Pending::Flush => {}
            }
        }
    }

    /// Nothing up to this ticket that was not stored before is on disk, and it never will be. A
    /// later message must not be stored before an earlier one was tried again, so a spool that
    /// fails one store fails all that were asked for before the router heard of it.
    pub fn handle_store_failed(&mut self, up_to: Ticket, now: Instant) {
        self.now = now;
        while let Some(first) = self
            .pending
            .first_entry()
            .filter(|first| *first.key() <= up_to)
        {
            match first.remove() {
                Pending::Accept { row, acks } => self.accept_failed(row, acks),
                Pending::Receive {
                    row,
                    answers,
                    drawn,
                } => {
                    self.rates.give_back(drawn);
                    self.receive_failed(row, answers);
                }
                Pending::Late { row, request } => self.late_failed(row, request),
                Pending::Ack { row } => self.ack_failed(row),
                // Its sender says so again, with the next session.
                Pending::Cancel { .. } => {}
                Pending::Flush => {}
            }
        }
    }

    /// The time that [`Output::Wait`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some(first) = self.timers.first().copied().filter(|first| first.0 <= now) {
            self.timers.remove(&first);
            match first.1 {
                Timer::Outgoing(row) => self.outgoing_timer(row, first.0),
                Timer::Lane(lane) => self.lane_timer(lane),
                Timer::Dial(peer) => self.dial_timer(peer),
                Timer::Incoming(row) => self.incoming_timer(row, first.0),
                Timer::Hold(row) => self.hold_timer(row),
                Timer::Late => self.late_timer(),
            }
        }
    }

    /// The next thing to do. Ends with [`Output::Wait`].
    pub fn poll_output(&mut self) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            if let Some(arrival) = self.arrivals.pop_front() {
                self.take(arrival);
            } else if let Some(peer) = self.to_pump.pop_first() {
                self.pump(peer);
            } else if let Some(agent) = self.to_serve.pop_first() {
                self.serve(agent);
            } else {
                return Output::Wait(self.timers.first().map(|(at, _)| *at));
            }
        }
    }

    /// A ticket that is stored when everything asked for so far is.
    pub fn flush(&mut self, now: Instant) -> Ticket {
        self.now = now;
        self.store(Vec::new(), Pending::Flush)
    }

    /// How a message of a local agent stands.
    pub fn status(&self, instance: InstanceId, id: MessageId) -> Result<Status, Refusal> {
        let row = self
            .outbox
            .by_key
            .get(&MessageKey { instance, id })
            .ok_or(Refusal::NotFound)?;
        let message = self.outbox.messages.get(row).ok_or(Refusal::NotFound)?;
        Ok(message.sent.status())
    }

    /// The local agent of that name.
    pub fn agent(&self, name: &AgentName) -> Option<InstanceId> {
        self.inbox.names.get(name).copied()
    }
}

impl Router {
    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Up(peer) => self.peer_up(peer),
            Arrival::Down(peer) => self.peer_down(peer),
            Arrival::Frame(peer, frame) => match frame {
                MessageFrame::Offer { envelope, after } => self.handle_offer(peer, envelope, after),
                MessageFrame::Stored { key } => self.handle_stored_there(peer, key),
                MessageFrame::Refused { key, nack } => self.handle_refused(peer, key, nack),
                MessageFrame::Progress { key, stage } => self.handle_progress(peer, key, stage),
                MessageFrame::Cancel { key } => self.handle_cancel(peer, key),
                MessageFrame::Looped { key } => self.handle_looped(peer, key),
            },
        }
    }

    fn peer_up(&mut self, peer: NodeId) {
        self.recall(peer);
        let entry = self.outbox.peers.entry(peer).or_default();
        entry.start();
        if let Some(at) = entry.dial_at.take() {
            self.timers.remove(&(at, Timer::Dial(peer)));
        }
        self.to_pump.insert(peer);
        self.say_cancels(peer);
    }

    fn peer_down(&mut self, peer: NodeId) {
        self.outbox.peers.entry(peer).or_default().up = false;
        self.recall(peer);
        self.to_pump.insert(peer);
    }

    pub(crate) fn unix_ms(&self) -> u64 {
        self.clock.unix_ms(self.now)
    }

    pub(crate) fn new_row(&mut self) -> RowId {
        self.next_row += 1;
        RowId(self.next_row - 1)
    }

    /// Asks for a store that something waits for.
    pub(crate) fn store(&mut self, writes: Vec<Write>, pending: Pending) -> Ticket {
        let ticket = self.new_ticket();
        self.store_as(ticket, writes, pending);
        ticket
    }

    pub(crate) fn store_as(&mut self, ticket: Ticket, writes: Vec<Write>, pending: Pending) {
        self.pending.insert(ticket, pending);
        self.outputs.push_back(Output::Store {
            ticket: Some(ticket),
            writes,
        });
    }

    pub(crate) fn new_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket - 1)
    }

    /// Asks for a store that may be lost with a crash without harm.
    pub(crate) fn store_some_time(&mut self, writes: Vec<Write>) {
        if !writes.is_empty() {
            self.outputs.push_back(Output::Store {
                ticket: None,
                writes,
            });
        }
    }

    pub(crate) fn send_frame(&mut self, peer: NodeId, frame: MessageFrame) {
        if peer == self.node {
            // An agent here is reached by the same road.
            self.arrivals.push_back(Arrival::Frame(peer, frame));
        } else if self.outbox.peers.get(&peer).is_some_and(|peer| peer.up) {
            self.outputs.push_back(Output::Send { peer, frame });
        }
    }

    pub(crate) fn deliver(&mut self, holder: HolderId, delivery: Delivery) {
        self.outputs.push_back(Output::Deliver { holder, delivery });
    }

    pub(crate) fn answer(&mut self, request: MessageKey, delivery: Delivery) {
        self.outputs.push_back(Output::Answer { request, delivery });
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.output(Output::Event(event));
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Keeps what was given up, within the bounds of its agent.
    pub(crate) fn bury(&mut self, dead: DeadRow, writes: &mut Vec<Write>) {
        let row = self.new_row();
        let usage = self.outbox.usage.entry(dead.instance).or_default();
        let size = dead.body.len() + crate::outbox::OVERHEAD;
        usage.dead.insert(row, size);
        usage.dead_bytes += size;
        writes.push(Write::Put(row, Row::Dead(dead)));
        while usage.dead.len() > limits::DEAD_ROWS || usage.dead_bytes > limits::DEAD_BYTES {
            let Some((oldest, size)) = usage.dead.pop_first() else {
                break;
            };
            usage.dead_bytes -= size;
            self.counters.dead_letters_dropped += 1;
            writes.push(Write::Delete(Table::Dead, oldest));
        }
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("node", &self.node)
            .field("outbox", &self.outbox.messages.len())
            .field("inbox", &self.inbox.entries.len())
            .finish_non_exhaustive()
    }
}
