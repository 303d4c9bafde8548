//! What a local agent sends: taken, or refused, and accepted once it is on disk.

use std::time::Instant;

use identity::{AgentAddress, NodeId};
use policy::Verdict;
use wire::message::{Cause, Kind, MAX_BODY, MAX_CONTENT_TYPE, MessageKey, is_conversation};
use wire::{Envelope, InstanceId, MessageId};

use crate::inbox::{Content, Phase};
use crate::limits;
use crate::outbox::{Outgoing, Place};
use crate::output::{Accept, Event, Ticket};
use crate::router::{Pending, Router, Timer};
use crate::rows::{InboxRow, Row, RowId, Sent, Write, content_hash};
use crate::words::{Agent, Answer, Draft, Refusal, State, Status};

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
        let (row, entry) = self.inbox.find(from.instance, request)?;
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
        // Here one crash would take both what was answered and what was heard.
        message.leaves_early = acks.is_some() && node != self.node;
        if message.leaves_early {
            self.to_pump.insert(node);
        }
        writes.insert(0, Write::Put(row, message.row()));
        self.store_as(ticket, writes, Pending::Accept { row, acks });
        let usage = self.outbox.usage.entry(key.instance).or_default();
        usage.rows += 1;
        usage.bytes += message.size();
        usage.open += usize::from(message.open);
        self.outbox.by_key.insert(key, row);
        self.outbox.messages.insert(row, message);
        self.outbox.enqueue(row);
        self.timers.insert((expires, Timer::Outgoing(row)));
        Accept::Storing(ticket)
    }

    /// The letter that a reply acks: hidden from now on, settled with the reply.
    fn begin_answer(&mut self, row: RowId) -> Option<Write> {
        let ticket = Ticket(u64::MAX);
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
            leaves_early: false,
            offer: None,
            expires,
            watched: false,
            open: expects_reply,
            expired: false,
            handed_over: false,
            taken: false,
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
