//! The messages from here: which wait, which are in flight, in what order.
//!
//! A *lane* is one sending agent and one addressed agent: it is offered in order, a prefix of it
//! is in flight, and whatever goes wrong with one message rewinds the lane to it (go-back-N). A
//! *peer* bounds what all its lanes have in flight together.
//!
//! A message has its place in its lane before it is on disk, so that the order is that of the sender.
//! It is offered when it is on disk, and a reply to another gateway before: whoever asked need not
//! wait for this disk too. A crash between the two shows the request again, whose second reply is then
//! one too many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use identity::{AgentName, NodeId};
use wire::message::MessageKey;
use wire::{Envelope, InstanceId, MessageId};

use crate::limits;
use crate::output::Ticket;
use crate::rows::{OutboxRow, Row, RowId, Sent};

/// All messages from local agents.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Boxed: half a kilobyte each, and a map in order of arrival is half empty in its leaves.
    pub(crate) messages: BTreeMap<RowId, Box<Outgoing>>,
    pub(crate) by_key: BTreeMap<MessageKey, RowId>,
    pub(crate) lanes: BTreeMap<LaneId, Lane>,
    pub(crate) lane_ids: BTreeMap<LaneKey, LaneId>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) usage: BTreeMap<InstanceId, Usage>,
    /// Taken back by their agents, and their receivers are not known to have heard.
    pub(crate) taken_back: BTreeSet<(NodeId, RowId)>,
    next_lane: u64,
}

/// One message from a local agent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) sent: Sent,
    /// Until the receiver has it.
    pub(crate) envelope: Option<Envelope>,
    pub(crate) place: Place,
    /// Not yet on disk.
    pub(crate) storing: Option<Ticket>,
    /// A reply, which is offered while it is being stored.
    pub(crate) leaves_early: bool,
    /// Its last offer.
    pub(crate) offer: Option<Offer>,
    pub(crate) expires: Instant,
    /// Somebody waits for what becomes of it.
    pub(crate) watched: bool,
    /// Counted among the agent's open requests.
    pub(crate) open: bool,
    /// Its time to live has passed; what is left is to forget it.
    pub(crate) expired: bool,
    /// Its reply was handed over before it was stored.
    pub(crate) handed_over: bool,
    /// Whoever asked has its reply, though the disk here refused it: settled when it comes again.
    pub(crate) taken: bool,
    /// Its agent was told that what it led to was stopped.
    pub(crate) looped: bool,
}

/// That a message was offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// As its peer counts them.
    number: u64,
    at: Instant,
    /// Not for the first time, so nobody knows which of them is answered.
    again: bool,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On its way to its lane.
    Waiting,
    /// In its lane.
    Lane(LaneId),
    /// The receiver has it, or never will.
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LaneId(u64);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LaneKey {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) to: AgentName,
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    /// In order; the first `flying` are in flight.
    pub(crate) queue: VecDeque<RowId>,
    pub(crate) flying: usize,
    /// Nacks and silences in a row.
    pub(crate) attempts: u32,
    /// At most so many in flight: after a throttle one, and twice as many with each that is stored.
    pub(crate) window: usize,
    /// Not before this.
    pub(crate) due: Option<Instant>,
    /// What is in flight should be answered by then.
    pub(crate) answer_by: Option<Instant>,
    /// The timer that is set for the lane.
    pub(crate) timer: Option<Instant>,
    /// So many `OutOfOrder` answers are still to come for offers that were rewound already.
    pub(crate) stale: usize,
    /// As which row it stands in its peer's ready set.
    ready: Option<RowId>,
}

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) up: bool,
    pub(crate) flying_rows: usize,
    pub(crate) flying_bytes: usize,
    /// Messages that wait for it, in flight or not.
    pub(crate) queued: usize,
    /// Offers made to it, and the latest that it answered, and when: a stream keeps their order, so
    /// what was offered after that is on its way yet.
    offers: u64,
    answered: u64,
    answered_at: Option<Instant>,
    /// How long an answer may take: twice what the last one took, twice as long after a silence
    /// (RFC 6298 and Karn's algorithm, in a coarse way).
    patience: Duration,
    /// Lanes that may offer, by their next message: the oldest goes first.
    pub(crate) ready: BTreeSet<(RowId, LaneId)>,
    pub(crate) dials: u32,
    pub(crate) dial_at: Option<Instant>,
}

/// What one agent has on its way.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    pub(crate) open: usize,
    /// Settled messages, whose state can be asked for.
    pub(crate) settled: BTreeSet<MessageId>,
    /// Ids up to this time were forgotten, and so are refused: never twice.
    pub(crate) floor_ms: u64,
    /// Dead letters: row and size, oldest first.
    pub(crate) dead: BTreeMap<RowId, usize>,
    pub(crate) dead_bytes: usize,
}

impl Outgoing {
    /// The row that says how the message stands now.
    pub(crate) fn row(&self) -> Row {
        Row::Outbox(match (&self.envelope, self.place) {
            (Some(envelope), Place::Waiting | Place::Lane(_)) => OutboxRow::Waiting {
                node: self.sent.node,
                to: self.sent.to.clone(),
                envelope: envelope.clone(),
                hash: self.sent.hash,
            },
            _ => OutboxRow::Sent(self.sent.clone()),
        })
    }

    pub(crate) fn size(&self) -> usize {
        self.envelope
            .as_ref()
            .map_or(0, |envelope| envelope.body.len())
            + OVERHEAD
    }

    /// Whether a peer may be offered it.
    fn may_leave(&self) -> bool {
        self.storing.is_none() || self.leaves_early
    }

    pub(crate) fn key(&self) -> MessageKey {
        MessageKey {
            instance: self.sent.instance,
            id: self.sent.id,
        }
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            up: false,
            flying_rows: 0,
            flying_bytes: 0,
            queued: 0,
            offers: 0,
            answered: 0,
            answered_at: None,
            patience: limits::ANSWER_WITHIN,
            ready: BTreeSet::new(),
            dials: 0,
            dial_at: None,
        }
    }
}

impl Peer {
    /// A new session, on another way perhaps.
    pub(crate) fn start(&mut self) {
        (self.up, self.dials) = (true, 0);
        (self.answered_at, self.patience) = (None, limits::ANSWER_WITHIN);
    }

    fn has_room(&self) -> bool {
        self.up
            && self.flying_rows < limits::IN_FLIGHT_ROWS
            && self.flying_bytes < limits::IN_FLIGHT_BYTES
    }
}

impl Outbox {
    /// Whether a message of a lane is in flight.
    pub(crate) fn flies(&self, lane: LaneId, row: RowId) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| {
            let at = lane.queue.binary_search(&row);
            at.is_ok_and(|at| at < lane.flying)
        })
    }

    /// Puts a message at the end of its lane.
    pub(crate) fn enqueue(&mut self, row: RowId) {
        let Some(message) = self.messages.get_mut(&row) else {
            return;
        };
        let Some(envelope) = &message.envelope else {
            return;
        };
        let key = LaneKey {
            node: message.sent.node,
            instance: message.sent.instance,
            to: envelope.to.clone(),
        };
        let id = match self.lane_ids.get(&key) {
            Some(id) => *id,
            None => {
                self.next_lane += 1;
                let id = LaneId(self.next_lane);
                self.lane_ids.insert(key.clone(), id);
                self.lanes.insert(id, Lane::new(key));
                id
            }
        };
        message.place = Place::Lane(id);
        self.peers.entry(message.sent.node).or_default().queued += 1;
        let lane = self.lanes.get_mut(&id).expect("made above");
        lane.queue.push_back(row);
        // Behind another that waits it changes nothing.
        if lane.queue.len() == lane.flying + 1 {
            self.refresh(id);
        }
    }

    /// The message is on disk: its lane may offer it.
    pub(crate) fn stored(&mut self, row: RowId) {
        let Some(message) = self.messages.get_mut(&row) else {
            return;
        };
        message.storing = None;
        if let Place::Lane(id) = message.place {
            self.refresh(id);
        }
    }

    /// The next message that may be offered to a peer, and what must be stored there before it.
    pub(crate) fn next_offer(
        &mut self,
        node: &NodeId,
        now: Instant,
    ) -> Option<(RowId, u64, LaneId)> {
        let peer = self.peers.get_mut(node).filter(|peer| peer.has_room())?;
        let (row, id) = *peer.ready.first()?;
        let lane = self.lanes.get_mut(&id)?;
        let after = match lane.flying {
            0 => 0,
            flying => lane.queue[flying - 1].0,
        };
        lane.flying += 1;
        lane.answer_by.get_or_insert(now + peer.patience);
        peer.flying_rows += 1;
        peer.offers += 1;
        if let Some(message) = self.messages.get_mut(&row) {
            message.offer = Some(Offer {
                number: peer.offers,
                at: now,
                again: message.offer.is_some(),
            });
            peer.flying_bytes += message.size();
        }
        self.refresh(id);
        Some((row, after, id))
    }

    /// Takes a message out of its lane, because it is settled or gone. True where it was in flight.
    pub(crate) fn remove_from_lane(&mut self, row: RowId, now: Instant) -> bool {
        let Some(message) = self.messages.get_mut(&row) else {
            return false;
        };
        let Place::Lane(id) = message.place else {
            return false;
        };
        let (node, size) = (message.sent.node, message.size());
        message.place = Place::Settled;
        let lane = self.lanes.get_mut(&id).expect("a message's lane is there");
        let at = lane
            .queue
            .binary_search(&row)
            .expect("a lane is in row order");
        let flew = at < lane.flying;
        lane.queue.remove(at);
        let peer = self.peers.entry(node).or_default();
        peer.queued -= 1;
        if flew {
            lane.flying -= 1;
            peer.flying_rows -= 1;
            peer.flying_bytes -= size;
        }
        lane.answer_by = (lane.flying > 0).then_some(now + peer.patience);
        self.refresh(id);
        flew
    }

    /// A peer said something of a message that it was offered.
    pub(crate) fn note_answer(&mut self, row: RowId, now: Instant) {
        let Some(message) = self.messages.get(&row) else {
            return;
        };
        let Some(peer) = self.peers.get_mut(&message.sent.node) else {
            return;
        };
        let Some(offer) = message.offer.filter(|_| message.envelope.is_some()) else {
            return;
        };
        peer.answered = peer.answered.max(offer.number);
        peer.answered_at = Some(now);
        if !offer.again {
            let took = now.saturating_duration_since(offer.at);
            peer.patience = (2 * took).clamp(limits::ANSWER_WITHIN, limits::MAX_ANSWER_WITHIN);
        }
    }

    /// Until when a lane whose answer is late may still wait for it: what was offered before it is
    /// being answered, so it stands in a slow stream. `None`: it is lost, and the next may take longer.
    pub(crate) fn still_coming(&mut self, id: LaneId, now: Instant) -> Option<Instant> {
        let lane = self.lanes.get(&id)?;
        let first = self.messages.get(lane.queue.front()?)?.offer?;
        let peer = self.peers.get_mut(&lane.key.node)?;
        let until = peer.answered_at.map(|at| at + peer.patience);
        let coming = until.filter(|until| *until > now && first.number > peer.answered);
        if coming.is_none() {
            peer.patience = (2 * peer.patience).min(limits::MAX_ANSWER_WITHIN);
        }
        coming
    }

    /// Calls back what is in flight of a lane, from the `from`th message on.
    pub(crate) fn rewind(&mut self, id: LaneId, from: usize) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        if lane.flying <= from {
            return;
        }
        let peer = self.peers.entry(lane.key.node).or_default();
        for row in lane.queue.range(from..lane.flying) {
            peer.flying_rows -= 1;
            peer.flying_bytes -= self.messages.get(row).map_or(0, |message| message.size());
        }
        lane.flying = from;
        if from == 0 {
            lane.answer_by = None;
        }
        self.refresh(id);
    }

    /// Makes the peer's ready set say what the lane says; an empty lane goes.
    pub(crate) fn refresh(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let peer = self.peers.entry(lane.key.node).or_default();
        let ready = (lane.due.is_none() && lane.flying < lane.window)
            .then(|| lane.queue.get(lane.flying).copied())
            .flatten()
            .filter(|row| self.messages.get(row).is_some_and(|it| it.may_leave()));
        if ready != lane.ready {
            if let Some(old) = lane.ready {
                peer.ready.remove(&(old, id));
            }
            if let Some(new) = ready {
                peer.ready.insert((new, id));
            }
            lane.ready = ready;
        }
    }

    /// Forgets a lane without messages; returns the timer to take back.
    pub(crate) fn forget_empty(&mut self, id: LaneId) -> Option<Option<Instant>> {
        self.lanes.get(&id).filter(|lane| lane.queue.is_empty())?;
        let lane = self.lanes.remove(&id)?;
        self.lane_ids.remove(&lane.key);
        Some(lane.timer)
    }

    /// The lanes to a peer.
    pub(crate) fn lanes_to(&self, node: NodeId) -> Vec<LaneId> {
        let first = LaneKey {
            node,
            instance: InstanceId([0; 16]),
            to: first_name(),
        };
        let to_node = self
            .lane_ids
            .range(first..)
            .take_while(|(key, _)| key.node == node);
        to_node.map(|(_, id)| *id).collect()
    }
}

impl Lane {
    fn new(key: LaneKey) -> Self {
        Self {
            key,
            queue: VecDeque::new(),
            flying: 0,
            attempts: 0,
            window: usize::MAX,
            due: None,
            answer_by: None,
            timer: None,
            stale: 0,
            ready: None,
        }
    }

    /// When the lane wants to be looked at again.
    pub(crate) fn wants(&self) -> Option<Instant> {
        self.due.or(self.answer_by)
    }
}

/// The lowest agent name there is, for ranges.
fn first_name() -> AgentName {
    "0".parse().expect("a name")
}

/// What a message costs beside its body, in the byte bounds.
pub(crate) const OVERHEAD: usize = 256;
