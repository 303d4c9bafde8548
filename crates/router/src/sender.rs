//! From a local agent to a peer: taking a message, offering it until it is stored there, and
//! saying what became of it.

use std::time::{Duration, Instant};

use identity::{AgentAddress, NodeId};
use policy::Verdict;
use wire::message::{
    Cause, Kind, MAX_BODY, MAX_CONTENT_TYPE, MessageFrame, MessageKey, Nack, Stage, is_conversation,
};
use wire::{Envelope, InstanceId, MessageId};

use crate::inbox::{Content, Phase};
use crate::limits;
use crate::outbox::{LaneId, LaneKey, Outgoing, Place};
use crate::router::{Accept, Event, Pending, Router, Timer};
use crate::rows::{DeadRow, InboxRow, Row, RowId, Sent, Table, Write, content_hash};
use crate::words::{Agent, Answer, Draft, Failure, Refusal, State, Status};

impl Router {
    /// Takes a message of a local agent. It is accepted once the ticket is stored; handing in the
    /// same message again finds out how it stands.
    pub fn send(&mut self, from: &Agent, draft: Draft, now: Instant) -> Result<Accept, Refusal> {
        self.now = now;
        let taken = self.try_send(from, draft);
        self.counters.refused += u64::from(taken.is_err());
        taken
    }

    /// Takes the answer to a request that this agent was shown, and acks that request with it.
    pub fn reply(
        &mut self,
        from: &Agent,
        request: MessageId,
        answer: Answer,
        now: Instant,
    ) -> Result<Accept, Refusal> {
        self.now = now;
        let taken = self.try_reply(from, request, answer);
        self.counters.refused += u64::from(taken.is_err());
        taken
    }

    /// Somebody waits for what becomes of a message, or nobody does any longer. While somebody
    /// does, its reply goes there and not to the inbox.
    pub fn watch(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        watched: bool,
        now: Instant,
    ) -> Result<Status, Refusal> {
        self.now = now;
        let row = *self
            .outbox
            .by_key
            .get(&MessageKey { instance, id })
            .ok_or(Refusal::NotFound)?;
        let message = self
            .outbox
            .messages
            .get_mut(&row)
            .ok_or(Refusal::NotFound)?;
        message.watched = watched;
        let status = message.sent.status();
        if watched && let Some(reply) = message.sent.reply {
            self.answer_from_inbox(instance, id, reply);
        }
        Ok(status)
    }

    fn try_send(&mut self, from: &Agent, draft: Draft) -> Result<Accept, Refusal> {
        if !self.inbox.mailboxes.contains_key(&from.instance) {
            return Err(Refusal::UnknownAgent);
        }
        let kind = match (draft.stream, draft.expects_reply) {
            (true, _) => Kind::Stream,
            (false, true) => Kind::Request,
            (false, false) => Kind::Message,
        };
        let ttl_ms = u64::try_from(draft.ttl.as_millis()).unwrap_or(u64::MAX);
        let envelope = Envelope {
            id: draft.id,
            kind,
            from: from.name.clone(),
            to: draft.to.agent.clone(),
            instance: from.instance,
            epoch: self.epoch,
            sequence: 0,
            created_at_ms: draft.id.unix_ms(),
            ttl_ms,
            hops_left: limits::HOPS,
            cause: Cause::none(draft.id),
            conversation: draft.conversation,
            content_type: draft.content_type,
            body: draft.body,
        };
        check_content(&envelope.content_type, &envelope.body)?;
        if draft.ttl > limits::MAX_TTL || draft.ttl.is_zero() {
            return Err(Refusal::Schema(
                "a time to live is between a moment and 7 days",
            ));
        }
        if !envelope.conversation.as_deref().is_none_or(is_conversation) {
            return Err(Refusal::Schema(
                "a conversation is 1 to 64 letters, digits, '.', '_', ':' or '-'",
            ));
        }
        let hash = content_hash(&envelope);
        if let Some(known) = self.known_already(envelope.key(), &draft.to, hash)? {
            return Ok(known);
        }
        let node = self
            .authority
            .node_named(&draft.to.node)
            .ok_or_else(|| Refusal::UnknownGateway(draft.to.node.clone()))?;
        let src = (self.node, &envelope.from);
        let bytes = Some(envelope.body.len());
        match self.judge(src, (node, &envelope.to), &envelope.kind, bytes) {
            // What rate guards take, they take where the message arrives.
            Verdict::Allowed { .. } => {}
            Verdict::Denied(denial) => return Err(Refusal::Denied(denial)),
        }
        let led = self.origin(
            from.instance,
            draft.origin,
            (node, &envelope.to),
            envelope.id,
        )?;
        let envelope = Envelope {
            cause: led.cause,
            ..envelope
        };
        self.check_budgets(&envelope, &draft.to, led.by)?;
        self.check_new(&envelope)?;
        Ok(self.accept(node, draft.to, envelope, hash, None))
    }

    fn try_reply(
        &mut self,
        from: &Agent,
        request: MessageId,
        answer: Answer,
    ) -> Result<Accept, Refusal> {
        check_content(&answer.content_type, &answer.body)?;
        let row = self
            .inbox
            .by_id
            .get(&(from.instance, request))
            .ok_or(Refusal::NotFound)?;
        let (row, entry) = (*row, self.inbox.entries.get(row).ok_or(Refusal::NotFound)?);
        if entry.cancelled {
            return Err(Refusal::Cancelled);
        }
        let (node, to, cause, conversation, open) = match &entry.content {
            Content::Letter {
                phase: Phase::Storing,
                ..
            }
            | Content::Away(_) => return Err(Refusal::NotFound),
            Content::Letter { letter, .. } => {
                let open = letter.subject.expects_reply();
                let conversation = letter.conversation.clone();
                (
                    letter.node,
                    letter.from.clone(),
                    letter.cause,
                    conversation,
                    open,
                )
            }
            Content::Known(known) => {
                let conversation = known.conversation.clone();
                (
                    known.node,
                    known.from.clone(),
                    known.cause,
                    conversation,
                    known.open,
                )
            }
        };
        let left = entry
            .expires
            .saturating_duration_since(self.now)
            .min(limits::MAX_TTL);
        let (answered, expired) = (entry.answered, entry.expired || left.is_zero());
        let envelope = Envelope {
            id: answer.id,
            kind: Kind::Reply {
                in_reply_to: request,
            },
            from: from.name.clone(),
            to: to.agent.clone(),
            instance: from.instance,
            epoch: self.epoch,
            sequence: 0,
            created_at_ms: answer.id.unix_ms(),
            // What is left of the request's time, counted from now and not from the id's time.
            ttl_ms: u64::try_from(left.as_millis())
                .unwrap_or(u64::MAX)
                .saturating_add(self.unix_ms().saturating_sub(answer.id.unix_ms())),
            hops_left: limits::HOPS,
            cause: cause.next(true),
            conversation,
            content_type: answer.content_type,
            body: answer.body,
        };
        let hash = content_hash(&envelope);
        if let Some(known) = self.known_already(envelope.key(), &to, hash)? {
            return Ok(known);
        }
        if expired {
            return Err(Refusal::Expired);
        }
        // Before what stands open: a request that a kill ended is no longer, and that is why.
        match self.judge(
            (self.node, &envelope.from),
            (node, &envelope.to),
            &envelope.kind,
            Some(envelope.body.len()),
        ) {
            Verdict::Allowed { .. } => {}
            Verdict::Denied(denial) => return Err(Refusal::Denied(denial)),
        }
        if answered || !open {
            return Err(Refusal::NotOpen);
        }
        self.check_new(&envelope)?;
        Ok(self.accept(node, to, envelope, hash, Some(row)))
    }

    /// The same message, handed in before.
    fn known_already(
        &self,
        key: MessageKey,
        to: &AgentAddress,
        hash: [u8; 16],
    ) -> Result<Option<Accept>, Refusal> {
        let Some(row) = self.outbox.by_key.get(&key) else {
            return Ok(None);
        };
        let message = self.outbox.messages.get(row).ok_or(Refusal::NotFound)?;
        if message.sent.hash != hash || message.sent.to != *to {
            return Err(Refusal::Conflict);
        }
        Ok(Some(match message.storing {
            Some(ticket) => Accept::Storing(ticket),
            None => Accept::Known(message.sent.status()),
        }))
    }

    /// Whether there is time and room for a message that was not here before.
    fn check_new(&mut self, envelope: &Envelope) -> Result<(), Refusal> {
        let now_ms = self.unix_ms();
        let ahead = u64::try_from(limits::MAX_AHEAD.as_millis()).unwrap_or(u64::MAX);
        if envelope.created_at_ms > now_ms.saturating_add(ahead) {
            return Err(Refusal::FromTheFuture);
        }
        let usage = self.outbox.usage.entry(envelope.instance).or_default();
        if envelope.expires_at_ms() <= now_ms || envelope.created_at_ms <= usage.floor_ms {
            return Err(Refusal::Expired);
        }
        let bytes = usage.bytes + envelope.body.len();
        if usage.rows >= limits::OUTBOX_ROWS || bytes > limits::OUTBOX_BYTES {
            return Err(Refusal::OutboxFull);
        }
        if envelope.kind.expects_reply() && usage.open >= limits::OPEN_REQUESTS {
            return Err(Refusal::TooManyRequests);
        }
        Ok(())
    }

    fn accept(
        &mut self,
        node: NodeId,
        to: AgentAddress,
        mut envelope: Envelope,
        hash: [u8; 16],
        acks: Option<RowId>,
    ) -> Accept {
        let row = self.new_row();
        envelope.sequence = row.0;
        let expires = self
            .clock
            .instant_of(envelope.expires_at_ms(), envelope.ttl_ms, self.now);
        let mut writes = Vec::with_capacity(2);
        if let Some(acked) = acks {
            writes.extend(self.begin_answer(acked));
        }
        let key = envelope.key();
        self.causes.count(envelope.cause, self.now);
        self.causes.note_sent(key.instance, node, &envelope.to);
        let ticket = self.new_ticket();
        let mut message = Box::new(Outgoing::new(node, to, envelope, hash, expires));
        message.storing = Some(ticket);
        writes.insert(0, Write::Put(row, message.row()));
        self.store_as(ticket, writes, Pending::Accept { row, acks });
        let usage = self.outbox.usage.entry(key.instance).or_default();
        usage.rows += 1;
        usage.bytes += message.size();
        usage.open += usize::from(message.open);
        self.outbox.by_key.insert(key, row);
        self.outbox.messages.insert(row, message);
        self.outbox.enqueue(row);
        if acks.is_some() {
            self.to_pump.insert(node);
        }
        self.timers.insert((expires, Timer::Outgoing(row)));
        Accept::Storing(ticket)
    }

    /// The letter that a reply acks: hidden from now on, settled with the reply.
    fn begin_answer(&mut self, row: RowId) -> Option<Write> {
        let ticket = crate::router::Ticket(u64::MAX);
        let entry = self.inbox.entries.get_mut(&row)?;
        entry.answered = true;
        match &mut entry.content {
            Content::Letter { letter, phase } => {
                let (known, owner) = (letter.known(false), letter.owner.instance);
                let before = std::mem::replace(phase, Phase::Settling { ticket });
                self.let_go(owner, row, before);
                Some(Write::Put(row, Row::Inbox(InboxRow::Known(known))))
            }
            Content::Known(known) => {
                known.open = false;
                let known = (**known).clone();
                Some(Write::Put(row, Row::Inbox(InboxRow::Known(known))))
            }
            Content::Away(_) => None,
        }
    }

    /// The message is on disk: accepted. `doubted` where the world changed meanwhile.
    pub(crate) fn accepted(&mut self, row: RowId, acks: Option<RowId>, doubted: bool) {
        if let Some(acked) = acks {
            self.settle_answered(acked);
        }
        let Some(message) = self.outbox.messages.get(&row) else {
            return;
        };
        let (key, node) = (message.key(), message.sent.node);
        let taken_back = message.sent.taken_back;
        self.counters.accepted += 1;
        self.outbox.stored(row);
        self.to_pump.insert(node);
        self.event(Event::Accepted { key, node });
        if doubted {
            self.judge_row_again(row);
        }
        if taken_back {
            self.take_back(row);
        }
    }

    /// The message is not on disk: nothing was accepted, and nothing acked.
    pub(crate) fn accept_failed(&mut self, row: RowId, acks: Option<RowId>) {
        if let Some(acked) = acks {
            self.answer_failed(acked);
        }
        self.forget_outgoing(row);
    }

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
            lane.attempts = lane.attempts.saturating_add(1);
            lane.stale = 0;
            self.outbox.rewind(id, 0);
        }
        self.to_pump.insert(node);
        self.lane_changed(id);
    }

    /// Sets the lane's timer where it has none early enough, and drops a lane that is empty.
    fn lane_changed(&mut self, id: LaneId) {
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

    fn back_off(&mut self, id: LaneId, at_least: Duration) {
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
    fn wait_for_token(&mut self, id: LaneId, row: RowId, wait: Duration) {
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

    /// An ack freed room at the receiver: a lane that waits for room need not wait longer.
    fn hurry(&mut self, row: RowId) {
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
        if !watched && !failure.is_cancel() {
            self.notify(row, failure);
        }
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

    fn leave_lane(&mut self, row: RowId, lane: LaneId) {
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
    fn forget_outgoing(&mut self, row: RowId) {
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

    fn changed(&mut self, row: RowId) {
        let Some(message) = self.outbox.messages.get(&row).filter(|it| it.watched) else {
            return;
        };
        let (key, status) = (message.key(), message.sent.status());
        self.event(Event::Changed { key, status });
    }
}

impl Outgoing {
    pub(crate) fn new(
        node: NodeId,
        to: AgentAddress,
        envelope: Envelope,
        hash: [u8; 16],
        expires: Instant,
    ) -> Self {
        let expects_reply = envelope.kind.expects_reply();
        let sent = Sent {
            instance: envelope.instance,
            from: envelope.from.clone(),
            id: envelope.id,
            node,
            to,
            hash,
            expects_reply,
            stream: envelope.kind == Kind::Stream,
            cause: envelope.cause,
            reply: None,
            state: State::Accepted,
            error: None,
            taken_back: false,
            created_at_ms: envelope.created_at_ms,
            ttl_ms: envelope.ttl_ms,
        };
        Self {
            sent,
            envelope: Some(envelope),
            place: Place::Waiting,
            storing: None,
            expires,
            watched: false,
            open: expects_reply,
            expired: false,
            handed_over: false,
            looped: false,
        }
    }
}

fn check_content(content_type: &str, body: &[u8]) -> Result<(), Refusal> {
    if body.len() > MAX_BODY {
        return Err(Refusal::TooLarge);
    }
    if !is_content_type(content_type) {
        return Err(Refusal::Schema(
            "a content type is 1 to 127 printable ASCII characters",
        ));
    }
    Ok(())
}

pub(crate) fn is_content_type(text: &str) -> bool {
    (1..=MAX_CONTENT_TYPE).contains(&text.len()) && text.bytes().all(|b| matches!(b, b' '..=b'~'))
}
