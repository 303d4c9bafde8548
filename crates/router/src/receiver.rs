//! From the inbox to a local agent: who is shown what, for how long, and when it is settled.

use std::time::{Duration, Instant};

use policy::Verdict;
use wire::message::{Kind, MessageFrame, MessageKey, Nack, Stage};
use wire::{InstanceId, MessageId};

use crate::inbox::{Content, Entry, Holder, Phase};
use crate::limits;
use crate::rates::Drawn;
use crate::router::{Event, HolderId, Pending, Router, Ticket, Timer, waiting};
use crate::rows::{DeadRow, InboxRow, Letter, Row, RowId, Subject, Table, Write};
use crate::words::{Agent, Delivery, DeliveryKind, Failure, Refusal};

impl Router {
    /// Shows a holder up to `credit` messages of an agent, now or when they come. Each stays
    /// hidden for `hold`, or without one until [`Router::release_holder`].
    pub fn demand(
        &mut self,
        holder: HolderId,
        instance: InstanceId,
        credit: usize,
        hold: Option<Duration>,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.now = now;
        let mailbox = self
            .inbox
            .mailboxes
            .get_mut(&instance)
            .ok_or(Refusal::UnknownAgent)?;
        let hold = hold.map(|hold| hold.min(limits::MAX_HOLD));
        let entry = self.inbox.holders.entry(holder).or_insert_with(|| Holder {
            owner: instance,
            credit: 0,
            hold,
            held: Default::default(),
        });
        if credit > 0 && !mailbox.wanting.contains(&holder) {
            mailbox.wanting.push_back(holder);
        }
        entry.credit = credit;
        self.to_serve.insert(instance);
        Ok(())
    }

    /// A holder wants no more; what it was shown stays hidden for its hold.
    pub fn dismiss_holder(&mut self, holder: HolderId, now: Instant) {
        self.now = now;
        self.inbox.remove_holder(holder);
    }

    /// A holder is gone: what it was shown and did not ack is shown to the next.
    pub fn release_holder(&mut self, holder: HolderId, now: Instant) {
        self.now = now;
        let Some(gone) = self.inbox.remove_holder(holder) else {
            return;
        };
        for row in gone.held {
            self.show_again(row);
        }
    }

    /// An agent is done with a message. `None`: it was before; otherwise when that is stored.
    pub fn ack(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        now: Instant,
    ) -> Result<Option<Ticket>, Refusal> {
        self.now = now;
        let row = *self
            .inbox
            .by_id
            .get(&(instance, id))
            .ok_or(Refusal::NotFound)?;
        let ticket = self.new_ticket();
        let entry = self.inbox.entries.get_mut(&row).ok_or(Refusal::NotFound)?;
        let (letter, phase) = match &mut entry.content {
            Content::Letter { letter, phase } => (letter, phase),
            Content::Away(_) => return Err(Refusal::NotFound),
            Content::Known(_) => return Ok(None),
        };
        match *phase {
            Phase::Storing => return Err(Refusal::NotFound),
            Phase::Settling { ticket } => return Ok(self.settling(row, ticket)),
            Phase::Ready | Phase::Held { .. } => {}
        }
        let known = letter.known(!entry.answered);
        let before = std::mem::replace(phase, Phase::Settling { ticket });
        self.let_go(instance, row, before);
        let writes = vec![Write::Put(row, Row::Inbox(InboxRow::Known(known)))];
        self.store_as(ticket, writes, Pending::Ack { row });
        Ok(Some(ticket))
    }

    /// An agent still works on a message: it stays hidden for `hold` from now.
    pub fn heartbeat(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        hold: Duration,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.now = now;
        let row = *self
            .inbox
            .by_id
            .get(&(instance, id))
            .ok_or(Refusal::NotFound)?;
        let entry = self.inbox.entries.get_mut(&row).ok_or(Refusal::NotFound)?;
        if entry.cancelled {
            return Err(Refusal::Cancelled);
        }
        let phase = match &mut entry.content {
            Content::Letter { phase, .. } => phase,
            // Not held, as nobody was shown it since the start.
            Content::Away(_) => return Err(Refusal::NotFound),
            Content::Known(_) => return Ok(()),
        };
        let until = now + hold.min(limits::MAX_HOLD);
        match phase {
            Phase::Held {
                until: Some(before),
                ..
            } => {
                self.timers.remove(&(*before, Timer::Hold(row)));
                *before = until;
                self.timers.insert((until, Timer::Hold(row)));
                Ok(())
            }
            Phase::Held { until: None, .. } | Phase::Settling { .. } => Ok(()),
            Phase::Storing | Phase::Ready => Err(Refusal::NotFound),
        }
    }

    /// An agent gives a message back: it is shown again at once, and that counts as a try.
    pub fn give_back(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.now = now;
        let row = *self
            .inbox
            .by_id
            .get(&(instance, id))
            .ok_or(Refusal::NotFound)?;
        let held = self
            .inbox
            .entries
            .get(&row)
            .and_then(|entry| entry.letter());
        if let Some((_, Phase::Held { .. })) = held {
            self.strike(row);
        }
        Ok(())
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
        self.put_letter(letter, self.now + limits::MAX_TTL, None, Drawn::default());
    }

    /// Shows a reply to whoever waits for it, where it may still be shown.
    pub(crate) fn answer_from_inbox(
        &mut self,
        owner: InstanceId,
        request: MessageId,
        reply: MessageId,
    ) {
        let Some(row) = self.inbox.by_id.get(&(owner, reply)).copied() else {
            return;
        };
        if !self.is_ready(row) {
            return;
        }
        if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
            mailbox.ready.remove(&row);
        }
        if let Some(refused) = self.refusal_now(row) {
            return self.give_up(row, refused);
        }
        if let Some(delivery) = self.show(row, ASKER, None) {
            self.answer(
                MessageKey {
                    instance: owner,
                    id: request,
                },
                delivery,
            );
        }
    }

    /// Shows an agent's waiting messages to whoever wants them, oldest first.
    pub(crate) fn serve(&mut self, owner: InstanceId) {
        self.show_waiting(owner);
        self.put_away_burst(owner);
    }

    fn show_waiting(&mut self, owner: InstanceId) {
        loop {
            let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) else {
                return;
            };
            let (Some(row), Some(id)) = (
                mailbox.ready.first().copied(),
                mailbox.wanting.front().copied(),
            ) else {
                return;
            };
            let holder = self
                .inbox
                .holders
                .get(&id)
                .filter(|holder| holder.credit > 0);
            let Some(hold) = holder.map(|holder| holder.hold) else {
                mailbox.wanting.pop_front();
                continue;
            };
            if !self.authority.has_policy() {
                return;
            }
            if let Some(refused) = self.refusal_now(row) {
                if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
                    mailbox.ready.remove(&row);
                }
                self.give_up(row, refused);
                continue;
            }
            if !self.is_ready(row) {
                return self.load_head(owner);
            }
            if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
                mailbox.ready.remove(&row);
            }
            mailbox_turn(self, owner, id);
            if let Some(delivery) = self.show(row, id, hold) {
                self.deliver(id, delivery);
            }
        }
    }

    /// Why a letter that was admitted must not be shown now: the world may have changed.
    pub(crate) fn refusal_now(&self, row: RowId) -> Option<Failure> {
        let entry = self.inbox.entries.get(&row)?;
        if !matches!(entry.content, Content::Known(_)) && entry.expires <= self.now {
            return Some(Failure::of_nack(Nack::Expired));
        }
        let verdict = match &entry.content {
            Content::Letter { letter, .. } if letter.strikes >= limits::MAX_ATTEMPTS => {
                return Some(Failure::new(
                    "failed",
                    "it was shown too often and never acked",
                ));
            }
            Content::Letter { letter, .. } => self.verdict_on_letter(letter)?,
            Content::Away(away) => self.verdict_on_away(away),
            Content::Known(_) => return None,
        };
        match verdict {
            Verdict::Allowed { .. } => None,
            Verdict::Denied(denial) => Some(Failure::denied(denial)),
        }
    }

    fn verdict_on_letter(&self, letter: &Letter) -> Option<Verdict> {
        let kind = match letter.subject {
            Subject::Message => Kind::Message,
            Subject::Request => Kind::Request,
            Subject::Stream => Kind::Stream,
            Subject::Reply { in_reply_to } => Kind::Reply { in_reply_to },
            Subject::Failure { .. } => return None,
        };
        let dst = (self.node, &letter.owner.name);
        let bytes = Some(letter.body.len());
        Some(self.judge((letter.node, &letter.from.agent), dst, &kind, bytes))
    }

    fn show(&mut self, row: RowId, holder: HolderId, hold: Option<Duration>) -> Option<Delivery> {
        let entry = self.inbox.entries.get_mut(&row)?;
        let Content::Letter { letter, phase } = &mut entry.content else {
            return None;
        };
        let until = hold.map(|hold| self.now + hold);
        *phase = Phase::Held { holder, until };
        entry.shown = true;
        letter.shown = letter.shown.saturating_add(1);
        let delivery = letter.delivery();
        let (shown, key, node, notice) =
            (letter.shown, letter.key, letter.node, letter.is_notice());
        // The first time needs no write: after a crash a letter counts as shown once.
        let write = (shown > 1).then(|| Write::Put(row, waiting(letter)));
        if let Some(until) = until {
            self.timers.insert((until, Timer::Hold(row)));
        }
        if let Some(holder) = self.inbox.holders.get_mut(&holder) {
            holder.held.insert(row);
            holder.credit -= 1;
        }
        self.store_some_time(write.into_iter().collect());
        self.counters.shown += 1;
        self.note_shown(row);
        if shown == 1 && !notice {
            self.send_frame(
                node,
                MessageFrame::Progress {
                    key,
                    stage: Stage::Delivered,
                },
            );
        }
        Some(delivery)
    }

    /// A letter may be shown again.
    pub(crate) fn show_again(&mut self, row: RowId) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Letter { letter, phase } = &mut entry.content else {
            return;
        };
        let Phase::Held { .. } = phase else { return };
        let owner = letter.owner.instance;
        let before = std::mem::replace(phase, Phase::Ready);
        self.let_go(owner, row, before);
        if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
            mailbox.ready.insert(row);
        }
        self.to_serve.insert(owner);
    }

    /// A letter was shown and not settled in time, or given back.
    fn strike(&mut self, row: RowId) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Letter { letter, .. } = &mut entry.content else {
            return;
        };
        letter.strikes = letter.strikes.saturating_add(1);
        let put = Write::Put(row, waiting(letter));
        self.store_some_time(vec![put]);
        self.show_again(row);
        // Judged now and not when somebody asks: its sender should hear of it.
        if self.is_ready(row)
            && let Some(refused) = self
                .refusal_now(row)
                .filter(|_| self.authority.has_policy())
        {
            self.give_up(row, refused);
        }
    }

    pub(crate) fn hold_timer(&mut self, row: RowId) {
        let held = self
            .inbox
            .entries
            .get(&row)
            .and_then(|entry| entry.letter());
        if let Some((
            _,
            Phase::Held {
                until: Some(until), ..
            },
        )) = held
            && until <= self.now
        {
            self.strike(row);
        }
    }

    pub(crate) fn incoming_timer(&mut self, row: RowId, at: Instant) {
        let Some(entry) = self
            .inbox
            .entries
            .get_mut(&row)
            .filter(|it| it.expires == at)
        else {
            return;
        };
        match &entry.content {
            Content::Known(_) if entry.expired => {
                self.inbox.forget(row);
                self.store_some_time(vec![Write::Delete(Table::Inbox, row)]);
            }
            Content::Known(_) => {
                entry.expired = true;
                entry.expires = at + limits::DEDUPE_GRACE;
                let next = entry.expires;
                self.timers.insert((next, Timer::Incoming(row)));
            }
            // Whoever works on it may still finish; it is not shown again.
            Content::Letter { phase, .. } if *phase != Phase::Ready => {
                entry.expires = at + limits::VISIBILITY;
                let next = entry.expires;
                self.timers.insert((next, Timer::Incoming(row)));
            }
            Content::Letter { .. } | Content::Away(_) => {
                entry.expires = at + limits::DEDUPE_GRACE;
                let next = entry.expires;
                self.timers.insert((next, Timer::Incoming(row)));
                self.give_up(row, Failure::of_nack(Nack::Expired));
                if let Some(entry) = self.inbox.entries.get_mut(&row) {
                    entry.expired = true;
                }
            }
        }
    }

    /// The policy or the members changed: what they do not allow any longer is not kept, and
    /// nobody works on for an answer that may not leave.
    pub(crate) fn judge_incoming_again(&mut self) {
        let ready = self
            .inbox
            .mailboxes
            .values()
            .flat_map(|mailbox| &mailbox.ready);
        for row in ready.copied().collect::<Vec<_>>() {
            if let Some(refused) = self.refusal_now(row) {
                self.give_up(row, refused);
            }
        }
        let held = self.inbox.entries.iter().filter(|(_, entry)| {
            entry.letter().is_some_and(|(letter, phase)| {
                letter.subject.expects_reply() && matches!(phase, Phase::Held { .. })
            })
        });
        for row in held.map(|(row, _)| *row).collect::<Vec<_>>() {
            let letter = self.inbox.entries.get(&row).and_then(|it| it.letter());
            let verdict = letter.and_then(|(letter, _)| self.verdict_on_letter(letter));
            if let Some(Verdict::Denied(denial)) = verdict
                // Its sender may be a member again before the answer is made.
                && denial.code != "unknown_node"
            {
                self.give_up(row, Failure::denied(denial));
            }
        }
        self.to_serve.extend(self.inbox.mailboxes.keys().copied());
    }

    /// A stored letter becomes a dead letter, and its sender is told.
    pub(crate) fn give_up(&mut self, row: RowId, error: Failure) {
        let entry = self.inbox.entries.get(&row);
        if entry.and_then(Entry::away).is_some() {
            return self.end_away(row, Some(error));
        }
        let phase = entry.and_then(|entry| entry.letter()).map(|it| it.1);
        let Some(phase) = phase.filter(|phase| !matches!(phase, Phase::Settling { .. })) else {
            return;
        };
        let Some((letter, known)) = self.inbox.settle(row, false) else {
            return;
        };
        self.let_go(letter.owner.instance, row, phase);
        let (node, key, notice) = (letter.node, letter.key, letter.is_notice());
        let dead = DeadRow {
            instance: letter.owner.instance,
            agent: letter.owner.name,
            other: letter.from,
            id: key.id,
            error: error.clone(),
            at_ms: self.unix_ms(),
            content_type: letter.content_type,
            body: letter.body,
        };
        let mut writes = vec![Write::Put(row, Row::Inbox(InboxRow::Known(known)))];
        self.bury(dead, &mut writes);
        self.trim_known(&node, &mut writes);
        self.store_some_time(writes);
        self.counters.dead_letters += 1;
        self.event(Event::DeadLetter {
            node,
            key,
            error: error.clone(),
        });
        if !notice {
            let frame = match (&*error.code, error.denial_nack()) {
                (_, Some(nack)) => MessageFrame::Refused { key, nack },
                ("expired", _) => MessageFrame::Refused {
                    key,
                    nack: Nack::Expired,
                },
                ("agent_removed", _) => MessageFrame::Refused {
                    key,
                    nack: Nack::UnknownAgent,
                },
                ("rejected", _) => MessageFrame::Refused {
                    key,
                    nack: Nack::Rejected,
                },
                _ => MessageFrame::Progress {
                    key,
                    stage: Stage::Failed,
                },
            };
            self.send_frame(node, frame);
        }
    }

    /// The ack is on disk: never shown again.
    pub(crate) fn acked(&mut self, row: RowId) {
        let answered = self
            .inbox
            .entries
            .get(&row)
            .is_some_and(|entry| entry.answered);
        let Some((letter, _)) = self.inbox.settle(row, !answered) else {
            return;
        };
        self.counters.acked += 1;
        let mut writes = Vec::new();
        self.trim_known(&letter.node, &mut writes);
        self.store_some_time(writes);
        if !letter.is_notice() {
            let frame = MessageFrame::Progress {
                key: letter.key,
                stage: Stage::Done,
            };
            self.send_frame(letter.node, frame);
        }
    }

    /// The ack is not on disk, and its caller was told so: shown again in its time.
    pub(crate) fn ack_failed(&mut self, row: RowId) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Letter { phase, .. } = &mut entry.content else {
            return;
        };
        let until = self.now + limits::VISIBILITY;
        *phase = Phase::Held {
            holder: ASKER,
            until: Some(until),
        };
        self.timers.insert((until, Timer::Hold(row)));
    }

    /// The reply is on disk, and with it the ack of its request. The reply itself tells the asker.
    pub(crate) fn settle_answered(&mut self, row: RowId) {
        if let Some(entry) = self.inbox.entries.get_mut(&row)
            && let Content::Known(known) = &mut entry.content
        {
            known.open = false;
            return;
        }
        if let Some((letter, _)) = self.inbox.settle(row, false) {
            self.counters.acked += 1;
            let mut writes = Vec::new();
            self.trim_known(&letter.node, &mut writes);
            self.store_some_time(writes);
        }
    }

    pub(crate) fn answer_failed(&mut self, row: RowId) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        entry.answered = false;
        match &mut entry.content {
            Content::Known(known) => known.open = true,
            Content::Letter { .. } => self.ack_failed(row),
            Content::Away(_) => {}
        }
    }

    /// Undoes what a phase left behind: a place among the ready, a hold, a timer.
    pub(crate) fn let_go(&mut self, owner: InstanceId, row: RowId, before: Phase) {
        match before {
            Phase::Ready => {
                if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
                    mailbox.ready.remove(&row);
                }
            }
            Phase::Held { holder, until } => {
                if let Some(holder) = self.inbox.holders.get_mut(&holder) {
                    holder.held.remove(&row);
                }
                if let Some(until) = until {
                    self.timers.remove(&(until, Timer::Hold(row)));
                }
            }
            Phase::Storing | Phase::Settling { .. } => {}
        }
    }

    /// The reply to a request of a local agent, where it is a letter.
    pub(crate) fn reply_to(&self, request: MessageKey) -> Option<(RowId, Phase)> {
        let sent = self
            .outbox
            .by_key
            .get(&request)
            .and_then(|row| self.outbox.messages.get(row))?;
        let row = *self
            .inbox
            .by_id
            .get(&(request.instance, sent.sent.reply?))?;
        self.inbox
            .entries
            .get(&row)?
            .letter()
            .map(|(_, phase)| (row, phase))
    }

    /// The ticket by which a letter that is being settled will be: that of its ack, or that of
    /// the reply which acks it.
    fn settling(&self, row: RowId, ticket: Ticket) -> Option<Ticket> {
        let by_reply = self
            .pending
            .iter()
            .find_map(|(ticket, pending)| match pending {
                Pending::Accept {
                    acks: Some(acked), ..
                } if *acked == row => Some(*ticket),
                _ => None,
            });
        by_reply.or(self.pending.contains_key(&ticket).then_some(ticket))
    }
}

impl Letter {
    pub(crate) fn delivery(&self) -> Delivery {
        Delivery {
            id: self.key.id,
            kind: match &self.subject {
                Subject::Message => DeliveryKind::Message,
                Subject::Request | Subject::Stream => DeliveryKind::Request,
                Subject::Reply { in_reply_to } => DeliveryKind::Reply {
                    in_reply_to: *in_reply_to,
                },
                Subject::Failure { of, error } => DeliveryKind::Failure {
                    of: *of,
                    error: error.clone(),
                },
            },
            from: self.from.clone(),
            to: self.owner.name.clone(),
            content_type: self.content_type.clone(),
            body: self.body.clone(),
            created_at_ms: self.created_at_ms,
            expires_at_ms: self.created_at_ms.saturating_add(self.ttl_ms),
            attempt: self.shown,
            stream: self.subject == Subject::Stream,
            conversation: self.conversation.clone(),
            cause: self.cause,
        }
    }
}

/// The holder that was just served goes to the end of the queue, so that several share.
fn mailbox_turn(router: &mut Router, owner: InstanceId, served: HolderId) {
    if let Some(mailbox) = router.inbox.mailboxes.get_mut(&owner)
        && mailbox.wanting.len() > 1
    {
        mailbox.wanting.pop_front();
        mailbox.wanting.push_back(served);
    }
}

/// Whoever waits for a reply, and nobody else that the shell numbers.
const ASKER: HolderId = HolderId(u64::MAX);
