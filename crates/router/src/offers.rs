//! Offering a peer what waits for it, in the order of each lane, until it is stored there.

use std::time::Duration;

use identity::NodeId;
use wire::message::{MessageFrame, Nack};

use crate::limits;
use crate::outbox::{LaneId, LaneKey};
use crate::output::Event;
use crate::router::{Router, Timer};
use crate::rows::RowId;
use crate::words::Failure;

impl Router {
    /// Offers a peer what it has room for; asks for a session where there is none.
    pub(crate) fn pump(&mut self, node: NodeId) {
        let Some(peer) = self.outbox.peers.get_mut(&node) else {
            return;
        };
        // Frozen: who is not a member now gets nothing, until it is again or the time passes.
        if node != self.node && self.authority.name_of(&node).is_none() {
            return;
        }
        if !peer.up {
            if peer.queued > 0 && peer.dial_at.is_none() {
                let wait = self
                    .dice
                    .backoff(peer.dials, limits::RETRY_MIN, limits::RETRY_MAX);
                peer.dial_at = Some(self.now + wait);
                self.timers.insert((self.now + wait, Timer::Dial(node)));
                self.event(Event::Wanted { peer: node });
            }
            return;
        }
        while let Some((row, after, lane)) = self.outbox.next_offer(&node, self.now) {
            let message = self.outbox.messages.get(&row);
            let Some(envelope) = message.and_then(|message| message.envelope.clone()) else {
                continue;
            };
            self.counters.offered += 1;
            self.send_frame(node, MessageFrame::Offer { envelope, after });
            self.lane_changed(lane);
        }
    }

    /// Everything to a peer that went up or down is to be offered again.
    pub(crate) fn recall(&mut self, peer: NodeId) {
        for id in self.outbox.lanes_to(peer) {
            self.outbox.rewind(id, 0);
            if let Some(lane) = self.outbox.lanes.get_mut(&id) {
                (lane.attempts, lane.stale, lane.due) = (0, 0, None);
            }
            self.outbox.refresh(id);
            self.lane_changed(id);
        }
    }

    pub(crate) fn dial_timer(&mut self, node: NodeId) {
        let Some(peer) = self.outbox.peers.get_mut(&node) else {
            return;
        };
        peer.dial_at = None;
        peer.dials = if peer.queued > 0 {
            peer.dials.saturating_add(1)
        } else {
            0
        };
        self.pump(node);
    }

    pub(crate) fn lane_timer(&mut self, id: LaneId) {
        let Some(lane) = self.outbox.lanes.get_mut(&id) else {
            return;
        };
        lane.timer = None;
        let node = lane.key.node;
        if lane.due.is_some_and(|due| due <= self.now) {
            lane.due = None;
            self.outbox.refresh(id);
        } else if lane.due.is_none() && lane.answer_by.is_some_and(|by| by <= self.now) {
            self.answer_is_late(id);
        }
        self.to_pump.insert(node);
        self.lane_changed(id);
    }

    /// Nothing was said of what a lane has in flight: it stands in a slow stream, or it is lost and
    /// goes again, one message first.
    fn answer_is_late(&mut self, id: LaneId) {
        let coming = self.outbox.still_coming(id, self.now);
        let Some(lane) = self.outbox.lanes.get_mut(&id) else {
            return;
        };
        if coming.is_some() {
            lane.answer_by = coming;
            return;
        }
        lane.attempts = lane.attempts.saturating_add(1);
        (lane.stale, lane.window) = (0, 1);
        self.outbox.rewind(id, 0);
    }

    /// Sets the lane's timer where it has none early enough, and drops a lane that is empty.
    pub(crate) fn lane_changed(&mut self, id: LaneId) {
        if let Some(timer) = self.outbox.forget_empty(id) {
            if let Some(at) = timer {
                self.timers.remove(&(at, Timer::Lane(id)));
            }
            return;
        }
        let Some(lane) = self.outbox.lanes.get_mut(&id) else {
            return;
        };
        let Some(at) = lane.wants() else { return };
        // A timer that comes too early looks again; only one that comes too late must move.
        if lane.timer.is_none_or(|timer| timer > at) {
            if let Some(timer) = lane.timer.replace(at) {
                self.timers.remove(&(timer, Timer::Lane(id)));
            }
            self.timers.insert((at, Timer::Lane(id)));
        }
    }

    pub(crate) fn back_off(&mut self, id: LaneId, at_least: Duration) {
        let Some(lane) = self.outbox.lanes.get_mut(&id) else {
            return;
        };
        let wait = self
            .dice
            .backoff(lane.attempts, limits::RETRY_MIN, limits::RETRY_MAX);
        lane.attempts = lane.attempts.saturating_add(1);
        lane.due = Some(self.now + wait.max(at_least).min(limits::RETRY_MAX));
        self.outbox.refresh(id);
        self.lane_changed(id);
    }

    /// The receiver said when there is room for this message, the first of its lane: not before
    /// and not long after. What a policy there gives back earlier is found within a minute.
    pub(crate) fn wait_for_token(&mut self, id: LaneId, row: RowId, wait: Duration) {
        if let Some(lane) = self.outbox.lanes.get_mut(&id) {
            lane.due = Some(self.now + wait.min(limits::RETRY_MAX));
        }
        self.outbox.refresh(id);
        self.lane_changed(id);
        let message = self.outbox.messages.get_mut(&row);
        if let Some(message) = message.filter(|it| it.sent.error.is_none()) {
            let nack = Nack::Throttled { retry_after_ms: 0 };
            message.sent.error = Some(Failure::of_nack(nack));
            self.changed(row);
        }
    }

    /// Calls back what flies from a refused message on; `skip` where that one itself is settled.
    /// Each offer after it gets an `OutOfOrder` of its own, which says nothing new.
    pub(crate) fn call_back(&mut self, id: LaneId, row: RowId, skip: usize) {
        let Some(lane) = self.outbox.lanes.get_mut(&id) else {
            return;
        };
        let Ok(at) = lane.queue.binary_search(&row) else {
            return;
        };
        if at < lane.flying {
            lane.stale += lane.flying - at - 1;
            self.outbox.rewind(id, at + skip);
        }
    }

    pub(crate) fn leave_lane(&mut self, row: RowId, lane: LaneId) {
        let size = self
            .outbox
            .messages
            .get(&row)
            .map_or(0, |message| message.size());
        self.outbox.remove_from_lane(row, self.now);
        self.lane_changed(lane);
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        message.envelope = None;
        self.to_pump.insert(message.sent.node);
        let usage = self.outbox.usage.entry(message.sent.instance).or_default();
        usage.rows -= 1;
        usage.bytes -= size;
        usage.settled.insert(message.sent.id);
    }

    /// An ack freed room at the receiver: a lane that waits for room need not wait longer.
    pub(crate) fn hurry(&mut self, row: RowId) {
        let Some(message) = self.outbox.messages.get(&row) else {
            return;
        };
        let key = LaneKey {
            node: message.sent.node,
            instance: message.sent.instance,
            to: message.sent.to.agent.clone(),
        };
        let Some(id) = self.outbox.lane_ids.get(&key).copied() else {
            return;
        };
        if let Some(lane) = self
            .outbox
            .lanes
            .get_mut(&id)
            .filter(|lane| lane.due.is_some())
        {
            lane.due = None;
            self.outbox.refresh(id);
            self.to_pump.insert(key.node);
            self.lane_changed(id);
        }
    }
}
