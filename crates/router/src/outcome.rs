//! What became of a message of ours: stored there, shown, done, refused, expired; and when it is
//! forgotten.

use std::time::{Duration, Instant};

use identity::NodeId;
use policy::Verdict;
use wire::MessageId;
use wire::message::{Kind, MessageKey, Nack, Stage};

use crate::inbox::Keeping;
use crate::limits;
use crate::outbox::Place;
use crate::output::Event;
use crate::rates::Drawn;
use crate::router::{Router, Timer};
use crate::rows::{DeadRow, Letter, RowId, Subject, Table, Write};
use crate::words::{Agent, Failure, State};

impl Router {
    /// The message of that key, where `peer` is the node that it was sent to: nobody else's word
    /// about it counts.
    pub(crate) fn settled_by(&mut self, peer: NodeId, key: MessageKey) -> Option<RowId> {
        let row = self.outbox.by_key.get(&key).copied();
        let sent_there = |row: &RowId| {
            self.outbox
                .messages
                .get(row)
                .is_some_and(|message| message.sent.node == peer)
        };
        let row = row.filter(sent_there);
        self.counters.strays += u64::from(row.is_none());
        if let Some(row) = row {
            self.outbox.note_answer(row, self.now);
        }
        row
    }

    pub(crate) fn handle_stored_there(&mut self, peer: NodeId, key: MessageKey) {
        if let Some(row) = self.settled_by(peer, key) {
            self.stored_there(row, State::Stored);
        }
    }

    /// The receiver has it: the body may go, the state stays.
    fn stored_there(&mut self, row: RowId, state: State) {
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        let Place::Lane(lane) = message.place else {
            if message.sent.state < state && !message.sent.state.is_final() {
                message.sent.state = state;
                // Only what is final is worth a write; the rest is asked for while it is fresh.
                let write = state.is_final().then(|| Write::Put(row, message.row()));
                self.store_some_time(write.into_iter().collect());
                self.changed(row);
            }
            return;
        };
        message.sent.state = state;
        // It waits no longer.
        message.sent.error = None;
        let node = message.sent.node;
        if let Some(lane) = self.outbox.lanes.get_mut(&lane) {
            lane.attempts = 0;
            lane.window = lane.window.saturating_mul(2);
        }
        self.leave_lane(row, lane);
        self.counters.stored_there += 1;
        let put = self
            .outbox
            .messages
            .get(&row)
            .map(|message| Write::Put(row, message.row()));
        let mut writes: Vec<_> = put.into_iter().collect();
        self.trim_sent(row, &mut writes);
        self.store_some_time(writes);
        self.to_pump.insert(node);
        self.changed(row);
    }

    pub(crate) fn handle_progress(&mut self, peer: NodeId, key: MessageKey, stage: Stage) {
        let Some(row) = self.settled_by(peer, key) else {
            return;
        };
        match stage {
            Stage::Delivered => self.stored_there(row, State::Delivered),
            Stage::Done => {
                self.stored_there(row, State::Done);
                self.hurry(row);
            }
            Stage::Failed => {
                let gone = Failure::new(
                    "failed",
                    "the receiving agent was shown it and never acked it",
                );
                self.fail(row, gone);
            }
        }
    }

    pub(crate) fn handle_refused(&mut self, peer: NodeId, key: MessageKey, nack: Nack) {
        let Some(row) = self.settled_by(peer, key) else {
            return;
        };
        let Some(message) = self.outbox.messages.get(&row) else {
            return;
        };
        let place = message.place;
        if nack == Nack::Cancelled {
            self.cancel_heard(row);
        }
        if nack.is_final() {
            if let Place::Lane(id) = place {
                self.call_back(id, row, 1);
            }
            let failure = self.explain(row, nack);
            self.fail(row, failure);
            return;
        }
        let Place::Lane(id) = place else { return };
        let Some(lane) = self.outbox.lanes.get_mut(&id) else {
            return;
        };
        let flies = lane
            .queue
            .binary_search(&row)
            .is_ok_and(|at| at < lane.flying);
        match nack {
            Nack::OutOfOrder if lane.stale > 0 => lane.stale -= 1,
            _ if !flies => {}
            Nack::OutOfOrder => {
                // Something before it was lost: all that is in flight goes again, at first at once.
                lane.stale = lane.flying - 1;
                let first = lane.attempts == 0;
                lane.attempts = lane.attempts.saturating_add(1);
                self.outbox.rewind(id, 0);
                match first {
                    true => self.lane_changed(id),
                    false => self.back_off(id, Duration::ZERO),
                }
            }
            Nack::Throttled { retry_after_ms } => {
                lane.window = 1;
                self.call_back(id, row, 0);
                self.wait_for_token(id, row, Duration::from_millis(retry_after_ms.into()));
            }
            _ => {
                self.call_back(id, row, 0);
                self.back_off(id, Duration::ZERO);
            }
        }
        self.to_pump.insert(peer);
    }

    /// A nack in words; where it is ours to say which grant is missing, we do.
    fn explain(&self, row: RowId, nack: Nack) -> Failure {
        if matches!(nack, Nack::Denied | Nack::Blocked)
            && let Some(Verdict::Denied(denial)) = self.verdict_on(row)
        {
            return Failure::denied(denial);
        }
        Failure::of_nack(nack)
    }

    /// A message that was accepted comes to nothing: it gets a name and a place.
    pub(crate) fn fail(&mut self, row: RowId, failure: Failure) {
        let now_ms = self.unix_ms();
        let quiet = failure.is_cancel() || failure.is_unasked() && self.may_be_second(row);
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        if message.sent.state.is_final() {
            return;
        }
        message.sent.state = failure.state();
        message.sent.error = Some(failure.clone());
        let (key, watched) = (message.key(), message.watched);
        let mut writes = Vec::with_capacity(2);
        let lost = message.envelope.as_ref().filter(|_| !failure.is_cancel());
        let dead = lost.map(|envelope| DeadRow {
            instance: message.sent.instance,
            agent: message.sent.from.clone(),
            other: message.sent.to.clone(),
            id: message.sent.id,
            error: failure.clone(),
            at_ms: now_ms,
            content_type: envelope.content_type.clone(),
            body: envelope.body.clone(),
        });
        let place = message.place;
        self.close_request(row);
        if let Place::Lane(lane) = place {
            self.leave_lane(row, lane);
        }
        if let Some(message) = self.outbox.messages.get(&row) {
            writes.push(Write::Put(row, message.row()));
        }
        if let Some(dead) = dead {
            self.bury(dead, &mut writes);
        }
        self.trim_sent(row, &mut writes);
        self.store_some_time(writes);
        self.counters.failed += 1;
        self.event(Event::Failed {
            key,
            error: failure.clone(),
        });
        self.changed(row);
        if !watched && !quiet {
            self.notify(row, failure);
        }
    }

    /// Tells the owner of a message, in its inbox, that it came to nothing.
    pub(crate) fn notify(&mut self, failed: RowId, error: Failure) {
        let Some(message) = self.outbox.messages.get(&failed) else {
            return;
        };
        let sent = &message.sent;
        let owner = Agent {
            name: sent.from.clone(),
            instance: sent.instance,
        };
        let (of, from) = (sent.id, sent.to.clone());
        let cause = sent.cause.next(true);
        let room = self
            .inbox
            .mailboxes
            .get(&owner.instance)
            .is_some_and(|mailbox| mailbox.rows < limits::INBOX_ROWS + limits::OPEN_REQUESTS);
        if !room {
            self.counters.notices_dropped += 1;
            return;
        }
        let id = MessageId::new(self.unix_ms(), self.dice.ten_bytes());
        let ttl_ms = u64::try_from(limits::MAX_TTL.as_millis()).unwrap_or(u64::MAX);
        let letter = Letter {
            key: MessageKey {
                instance: owner.instance,
                id,
            },
            owner,
            node: self.node,
            from,
            epoch: self.epoch,
            sequence: 0,
            subject: Subject::Failure { of, error },
            // Who answers a failure goes on with the same chain.
            cause,
            conversation: None,
            created_at_ms: id.unix_ms(),
            ttl_ms,
            content_type: "text/plain".into(),
            body: bytes::Bytes::new(),
            hash: [0; 16],
            shown: 0,
            strikes: 0,
        };
        let expires = self.now + limits::MAX_TTL;
        self.put_letter(letter, expires, None, Drawn::default(), Keeping::No);
    }

    /// Whether a reply may be the second one of its agent: a crash may have come after the first was
    /// offered and before it was stored. That nobody waits for it is then no news.
    fn may_be_second(&self, row: RowId) -> bool {
        let Some(message) = self.outbox.messages.get(&row) else {
            return false;
        };
        let Some(Kind::Reply { in_reply_to }) = message.envelope.as_ref().map(|it| it.kind) else {
            return false;
        };
        let request = self.inbox.by_id.get(&(message.sent.instance, in_reply_to));
        request.is_some_and(|request| *request < self.first_row)
    }

    /// The agent is gone: what it sent and what never left becomes a dead letter, without notice.
    pub(crate) fn abandon_outgoing(&mut self, row: RowId, failure: &Failure) {
        if let Some(message) = self.outbox.messages.get_mut(&row) {
            message.watched = true;
        }
        self.fail(row, failure.clone());
        self.forget_outgoing(row);
        self.store_some_time(vec![Write::Delete(Table::Outbox, row)]);
    }

    /// The answer to a request is stored: the request is done.
    pub(crate) fn answered(&mut self, row: RowId, reply: MessageId) {
        self.close_request(row);
        if let Some(message) = self.outbox.messages.get_mut(&row) {
            message.sent.reply = Some(reply);
        }
        self.stored_there(row, State::Done);
    }

    /// The answer to a request is with its asker, and not yet stored: done, if the disk agrees.
    pub(crate) fn done_early(&mut self, row: RowId, writes: &mut Vec<Write>) {
        self.close_request(row);
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        (message.sent.state, message.handed_over) = (State::Done, true);
        if let Place::Lane(lane) = message.place {
            // Whoever answers it has it, even where word of that is still on its way.
            self.leave_lane(row, lane);
            if let Some(lane) = self.outbox.lanes.get_mut(&lane) {
                lane.attempts = 0;
            }
            self.counters.stored_there += 1;
        }
        if let Some(message) = self.outbox.messages.get(&row) {
            writes.push(Write::Put(row, message.row()));
        }
        self.trim_sent(row, writes);
        self.changed(row);
    }

    /// The disk did not: the request waits for its answer as before.
    pub(crate) fn undo_early(&mut self, row: RowId) {
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        if message.sent.state == State::Done && !message.open && !message.expired {
            (message.sent.state, message.open) = (State::Stored, true);
            let usage = self.outbox.usage.entry(message.sent.instance).or_default();
            usage.open += 1;
        }
    }

    pub(crate) fn outgoing_timer(&mut self, row: RowId, at: Instant) {
        let Some(message) = self
            .outbox
            .messages
            .get_mut(&row)
            .filter(|it| it.expires == at)
        else {
            return;
        };
        if message.expired {
            self.forget_outgoing(row);
            return self.store_some_time(vec![Write::Delete(Table::Outbox, row)]);
        }
        let unsettled = message.place != Place::Settled || message.open;
        if message.storing.is_some() {
            message.expires = at + Duration::from_secs(1);
        } else {
            message.expired = true;
            message.expires = at + limits::DEDUPE_GRACE;
        }
        let (next, expired) = (message.expires, message.expired);
        self.timers.insert((next, Timer::Outgoing(row)));
        if expired && unsettled {
            self.fail(row, Failure::of_nack(Nack::Expired));
        }
    }

    fn close_request(&mut self, row: RowId) {
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        if std::mem::take(&mut message.open) {
            self.outbox
                .usage
                .entry(message.sent.instance)
                .or_default()
                .open -= 1;
        }
    }

    /// Forgets the oldest settled messages of an agent beyond the bound. Their ids are refused
    /// from then on, so none of them can be sent twice.
    fn trim_sent(&mut self, row: RowId, writes: &mut Vec<Write>) {
        let Some(instance) = self.outbox.messages.get(&row).map(|it| it.sent.instance) else {
            return;
        };
        loop {
            let Some(usage) = self.outbox.usage.get(&instance) else {
                return;
            };
            if usage.settled.len() <= limits::SENT_ROWS {
                return;
            }
            let row_of = |id: &MessageId| self.outbox.by_key.get(&MessageKey { instance, id: *id });
            let closed = |row: &&RowId| {
                self.outbox
                    .messages
                    .get(row)
                    .is_some_and(|it| !it.open && !it.watched)
            };
            let Some(oldest) = usage
                .settled
                .iter()
                .filter_map(row_of)
                .find(closed)
                .copied()
            else {
                return;
            };
            let id = self.outbox.messages.get(&oldest).map(|it| it.sent.id);
            self.forget_outgoing(oldest);
            writes.push(Write::Delete(Table::Outbox, oldest));
            let usage = self.outbox.usage.entry(instance).or_default();
            usage.floor_ms = usage.floor_ms.max(id.map_or(0, MessageId::unix_ms));
        }
    }

    /// Takes a message out of memory, wherever it is.
    pub(crate) fn forget_outgoing(&mut self, row: RowId) {
        self.close_request(row);
        let Some(message) = self.outbox.messages.get(&row) else {
            return;
        };
        if let Place::Lane(lane) = message.place {
            self.leave_lane(row, lane);
        }
        let Some(message) = self.outbox.messages.remove(&row) else {
            return;
        };
        self.timers.remove(&(message.expires, Timer::Outgoing(row)));
        self.outbox.by_key.remove(&message.key());
        if message.sent.taken_back {
            self.outbox.taken_back.remove(&(message.sent.node, row));
        }
        if let Some(usage) = self.outbox.usage.get_mut(&message.sent.instance) {
            usage.settled.remove(&message.sent.id);
        }
    }

    pub(crate) fn changed(&mut self, row: RowId) {
        let Some(message) = self.outbox.messages.get(&row).filter(|it| it.watched) else {
            return;
        };
        let (key, status) = (message.key(), message.sent.status());
        self.event(Event::Changed { key, status });
    }
}
