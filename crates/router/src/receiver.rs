//! From a peer to a local agent: what is kept, who is shown it, and when it is settled.

use std::time::{Duration, Instant};

use identity::{AgentAddress, NodeId};
use policy::{Bucket, Verdict};
use wire::message::{Kind, MAX_BODY, MessageFrame, MessageKey, Nack, Stage};
use wire::{Envelope, InstanceId, MessageId};

use crate::inbox::{Content, Holder, PairKey, Phase};
use crate::limits;
use crate::rates::Drawn;
use crate::router::{Event, HolderId, Pending, Router, Ticket, Timer, waiting};
use crate::rows::{DeadRow, InboxRow, Letter, Row, RowId, Subject, Table, Write, content_hash};
use crate::sender::is_content_type;
use crate::words::{Agent, Delivery, DeliveryKind, Failure, Refusal, State};

/// What the receiver does with an offer.
enum Judged {
    /// Keeps it: the agent, the request that it answers, and what rate guards take for it.
    Keep {
        owner: Agent,
        from: AgentAddress,
        answers: Option<RowId>,
        buckets: Vec<Bucket>,
    },
    /// Has it, or had it.
    Had,
    /// Has it on the way to the disk; the answer comes with that.
    Coming,
    Refuse(Nack),
    /// Refuses it by this gateway's policy: why in full is for people here alone.
    Deny(Failure),
}

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
        let Content::Letter { letter, phase } = &mut entry.content else {
            return Ok(None);
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
        let Content::Letter { phase, .. } = &mut entry.content else {
            return Ok(());
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

    /// The reply reached whoever waited for it: as good as acked.
    pub fn handle_answer_taken(&mut self, request: MessageKey, now: Instant) {
        self.now = now;
        let Some((row, phase)) = self.reply_to(request) else {
            return;
        };
        if phase == Phase::Storing {
            return self.taken_early(request, row);
        }
        let Some((letter, known)) = self.inbox.settle(row, false) else {
            return;
        };
        self.counters.acked += 1;
        let mut writes = vec![Write::Put(row, Row::Inbox(InboxRow::Known(known)))];
        self.trim_known(&letter.node, &mut writes);
        self.store_some_time(writes);
        self.send_frame(
            letter.node,
            MessageFrame::Progress {
                key: letter.key,
                stage: Stage::Done,
            },
        );
    }

    /// Nobody waits any longer: the reply goes to the inbox.
    pub fn handle_answer_left(&mut self, request: MessageKey, now: Instant) {
        self.now = now;
        if let Some(row) = self.outbox.by_key.get(&request)
            && let Some(message) = self.outbox.messages.get_mut(row)
        {
            message.watched = false;
        }
        match self.reply_to(request) {
            Some((row, Phase::Storing)) => self.left_early(request, row),
            Some((row, _)) => self.show_again(row),
            None => {}
        }
    }

    pub(crate) fn handle_offer(&mut self, peer: NodeId, envelope: Envelope, after: u64) {
        let key = envelope.key();
        let hash = content_hash(&envelope);
        match self.judge_offer(peer, &envelope, after, hash) {
            Judged::Keep {
                owner,
                from,
                answers,
                buckets,
            } => match self.rates.draw(peer, &buckets, self.now) {
                Ok(drawn) => self.keep(peer, envelope, hash, owner, from, answers, drawn),
                Err(wait) => {
                    self.counters.throttled += 1;
                    let ms = wait.as_nanos().div_ceil(1_000_000);
                    let retry_after_ms = u32::try_from(ms).unwrap_or(u32::MAX);
                    let nack = Nack::Throttled { retry_after_ms };
                    self.refuse(peer, key, nack, Failure::of_nack(nack));
                }
            },
            Judged::Had => {
                self.counters.duplicates += 1;
                self.send_frame(peer, MessageFrame::Stored { key });
            }
            Judged::Coming => self.counters.duplicates += 1,
            Judged::Refuse(nack) => self.refuse(peer, key, nack, Failure::of_nack(nack)),
            Judged::Deny(why) => {
                let nack = why.denial_nack().unwrap_or(Nack::Denied);
                self.refuse(peer, key, nack, why);
            }
        }
    }

    /// Only what is judged `Keep` enters the dedupe set, and draws from buckets: a message that was
    /// here before, or may not pass for any other reason, draws nothing. What came before is
    /// answered as before, whatever the policy says by now: its sender asks about a message that is
    /// here.
    fn judge_offer(&mut self, peer: NodeId, it: &Envelope, after: u64, hash: [u8; 16]) -> Judged {
        if let Some(row) = self.inbox.by_key.get(&(peer, it.key())) {
            let entry = self.inbox.entries.get(row);
            return match entry {
                Some(entry) if entry.hash() != hash => Judged::Refuse(Nack::Conflict),
                Some(entry) if matches!(entry.letter(), Some((_, Phase::Storing))) => {
                    Judged::Coming
                }
                _ => Judged::Had,
            };
        }
        let pair_key = PairKey {
            node: peer,
            instance: it.instance,
            epoch: it.epoch,
            to: it.to.clone(),
        };
        let pair = self.inbox.pairs.get(&pair_key);
        let (high, pending) = pair.map_or((0, 0), |pair| (pair.high, pair.pending));
        if it.sequence <= high {
            return Judged::Had;
        }
        if let Err(nack) = self.check_bounds(it) {
            return Judged::Refuse(nack);
        }
        let Some(node) = self.authority.name_of(&peer) else {
            return Judged::Refuse(Nack::Denied);
        };
        let bytes = Some(it.body.len());
        let verdict = self.judge((peer, &it.from), (self.node, &it.to), &it.kind, bytes);
        let buckets = match verdict {
            Verdict::Allowed { buckets, .. } => buckets,
            Verdict::Denied(denial) => return Judged::Deny(Failure::denied(denial)),
        };
        let mailbox = self
            .inbox
            .names
            .get(&it.to)
            .and_then(|owner| self.inbox.mailboxes.get(owner));
        let Some(mailbox) = mailbox else {
            return Judged::Refuse(Nack::UnknownAgent);
        };
        let owner = mailbox.agent.clone();
        let answers = match it.kind {
            Kind::Reply { in_reply_to } => {
                match self.open_request(owner.instance, in_reply_to, peer, &it.from) {
                    Some(row) => Some(row),
                    None => return Judged::Refuse(Nack::NoOpenRequest),
                }
            }
            Kind::Message | Kind::Request => None,
        };
        if after > pending {
            return Judged::Refuse(Nack::OutOfOrder);
        }
        // Two senders that chose one id would be one message to the agent that acks it.
        if self.inbox.by_id.contains_key(&(owner.instance, it.id)) {
            return Judged::Refuse(Nack::Conflict);
        }
        match self.check_room(peer, it, &owner, &pair_key) {
            Ok(()) => {
                let from = AgentAddress {
                    agent: it.from.clone(),
                    node,
                };
                Judged::Keep {
                    owner,
                    from,
                    answers,
                    buckets,
                }
            }
            Err(nack) => Judged::Refuse(nack),
        }
    }

    fn check_bounds(&self, it: &Envelope) -> Result<(), Nack> {
        let now_ms = self.unix_ms();
        let ms = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let ahead = now_ms.saturating_add(ms(limits::MAX_AHEAD));
        if it.body.len() > MAX_BODY {
            return Err(Nack::TooLarge);
        }
        // A sequence is a row number, and those end where SQLite's do.
        let sequence = 1..=u64::try_from(i64::MAX).expect("positive");
        if !is_content_type(&it.content_type)
            || it.ttl_ms > ms(limits::MAX_TTL)
            || !sequence.contains(&it.sequence)
        {
            return Err(Nack::Schema);
        }
        if it.id.unix_ms() > ahead || it.created_at_ms > ahead {
            return Err(Nack::FromTheFuture);
        }
        if it.expires_at_ms() <= now_ms {
            return Err(Nack::Expired);
        }
        match it.hops_left == 0 || it.depth > limits::MAX_DEPTH {
            true => Err(Nack::Loop),
            false => Ok(()),
        }
    }

    /// The node is charged first, then the agent. A reply was asked for: its room is bounded by
    /// the requests that its agent may have open.
    fn check_room(
        &self,
        peer: NodeId,
        it: &Envelope,
        owner: &Agent,
        pair: &PairKey,
    ) -> Result<(), Nack> {
        let throttled = Nack::Throttled {
            retry_after_ms: 5_000,
        };
        if let Some(source) = self.inbox.sources.get(&peer) {
            let pair = self.inbox.pairs.get(pair);
            if pair.is_none() && source.pairs >= limits::KNOWN_PAIRS_PER_NODE {
                return Err(throttled);
            }
            if pair.is_none_or(|pair| pair.open == 0) && source.open_pairs >= limits::PAIRS_PER_NODE
            {
                return Err(throttled);
            }
        }
        let Some(mailbox) = self.inbox.mailboxes.get(&owner.instance) else {
            return Err(Nack::UnknownAgent);
        };
        if matches!(it.kind, Kind::Reply { .. }) {
            let most = limits::INBOX_BYTES * 2;
            return if mailbox.bytes + it.body.len() > most {
                Err(Nack::Full)
            } else {
                Ok(())
            };
        }
        let (rows, bytes) = mailbox.by_node.get(&peer).copied().unwrap_or_default();
        let share_is_used = rows >= limits::INBOX_ROWS / limits::INBOX_SHARE
            || bytes + it.body.len() > limits::INBOX_BYTES / limits::INBOX_SHARE;
        let is_full = mailbox.rows >= limits::INBOX_ROWS
            || mailbox.bytes + it.body.len() > limits::INBOX_BYTES;
        if share_is_used || is_full {
            Err(Nack::Full)
        } else {
            Ok(())
        }
    }

    /// The request that a reply answers: of this agent, to exactly that agent on that node, not
    /// answered, within its time to live.
    fn open_request(
        &self,
        instance: InstanceId,
        id: MessageId,
        peer: NodeId,
        from: &identity::AgentName,
    ) -> Option<RowId> {
        let row = *self.outbox.by_key.get(&MessageKey { instance, id })?;
        let sent = &self.outbox.messages.get(&row)?.sent;
        let failed = sent.state.is_final() && sent.state != State::Done;
        let open = self.outbox.messages.get(&row)?.open && !failed && sent.reply.is_none();
        (open && sent.node == peer && sent.to.agent == *from).then_some(row)
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of one judgement, used once"
    )]
    fn keep(
        &mut self,
        peer: NodeId,
        envelope: Envelope,
        hash: [u8; 16],
        owner: Agent,
        from: AgentAddress,
        answers: Option<RowId>,
        drawn: Drawn,
    ) {
        let expires = self
            .clock
            .instant_of(envelope.expires_at_ms(), envelope.ttl_ms, self.now);
        let letter = Letter {
            owner,
            node: peer,
            from,
            key: envelope.key(),
            epoch: envelope.epoch,
            sequence: envelope.sequence,
            subject: match envelope.kind {
                Kind::Message => Subject::Message,
                Kind::Request => Subject::Request,
                Kind::Reply { in_reply_to } => Subject::Reply { in_reply_to },
            },
            depth: envelope.depth,
            created_at_ms: envelope.created_at_ms,
            ttl_ms: envelope.ttl_ms,
            content_type: envelope.content_type,
            body: envelope.body,
            hash,
            shown: 0,
            strikes: 0,
        };
        if let Some(request) = answers
            && let Some(message) = self.outbox.messages.get_mut(&request)
        {
            // From here on no other reply is the one; taken back if this cannot be stored.
            message.sent.reply = Some(letter.key.id);
            // It may have been handed over before, and not stored.
            let before = message.handed_over || request < self.first_row;
            let mut letter = letter;
            letter.shown = u32::from(before);
            if message.watched {
                return self.answer_early(letter, expires, request);
            }
            return self.put_letter(letter, expires, answers, drawn);
        }
        self.put_letter(letter, expires, answers, drawn);
    }

    fn put_letter(
        &mut self,
        letter: Letter,
        expires: Instant,
        answers: Option<RowId>,
        drawn: Drawn,
    ) {
        let row = self.new_row();
        let writes = vec![Write::Put(row, waiting(&letter))];
        self.inbox.insert(row, letter, Phase::Storing, expires);
        self.timers.insert((expires, Timer::Incoming(row)));
        let pending = Pending::Receive {
            row,
            answers,
            drawn,
        };
        self.store(writes, pending);
    }

    /// Hands a reply to whoever waits for it, and lets the disk wait: its sender keeps it until it
    /// hears that it is stored here. The shell says at once whether somebody took it.
    fn answer_early(&mut self, mut letter: Letter, expires: Instant, request: RowId) {
        let Some(key) = self.outbox.messages.get(&request).map(|it| it.key()) else {
            return;
        };
        let row = self.new_row();
        letter.shown = letter.shown.saturating_add(1);
        let delivery = letter.delivery();
        self.inbox.insert(row, letter, Phase::Storing, expires);
        self.timers.insert((expires, Timer::Incoming(row)));
        self.answer(key, delivery);
    }

    /// The asker has it: as good as acked. Reply and request settle in one store, which goes with
    /// the next that somebody waits for.
    fn taken_early(&mut self, request: MessageKey, row: RowId) {
        let (Some(asked), Some(entry)) = (
            self.outbox.by_key.get(&request).copied(),
            self.inbox.entries.get(&row),
        ) else {
            return;
        };
        let Some(known) = entry.letter().map(|(letter, _)| letter.known(false)) else {
            return;
        };
        let mut writes = vec![Write::Put(row, Row::Inbox(InboxRow::Known(known)))];
        self.done_early(asked, &mut writes);
        let ticket = self.new_ticket();
        let late = Pending::Late {
            row,
            request: asked,
        };
        self.pending.insert(ticket, late);
        self.store_some_time(writes);
        self.counters.shown += 1;
        if self.late.is_none() {
            let at = self.now + limits::LATE;
            self.late = Some(at);
            self.timers.insert((at, Timer::Late));
        }
    }

    /// Nobody was there: it is stored as any letter is, and nobody has been shown it.
    fn left_early(&mut self, request: MessageKey, row: RowId) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Letter { letter, .. } = &mut entry.content else {
            return;
        };
        letter.shown = letter.shown.saturating_sub(1);
        let writes = vec![Write::Put(row, waiting(letter))];
        let answers = self.outbox.by_key.get(&request).copied();
        // What was drawn for it stays drawn, also if the disk fails now: then it comes again.
        let drawn = Drawn::default();
        let pending = Pending::Receive {
            row,
            answers,
            drawn,
        };
        self.store(writes, pending);
    }

    pub(crate) fn late_timer(&mut self) {
        self.late = None;
        let waits = |pending: &Pending| matches!(pending, Pending::Late { .. });
        if self.pending.values().any(waits) {
            self.store(Vec::new(), Pending::Flush);
        }
    }

    /// What the asker has is on disk now: told to its sender, never shown again.
    pub(crate) fn received_late(&mut self, row: RowId) {
        let Some((letter, _)) = self.inbox.settle(row, false) else {
            return;
        };
        let pair = self.inbox.pairs.entry(letter.pair_key()).or_default();
        if letter.sequence > pair.high {
            (pair.high, pair.last) = (letter.sequence, Some(row));
        }
        self.counters.received += 1;
        self.counters.acked += 1;
        let mut writes = Vec::new();
        self.trim_known(&letter.node, &mut writes);
        self.store_some_time(writes);
        let key = letter.key;
        self.send_frame(letter.node, MessageFrame::Stored { key });
        let stage = Stage::Done;
        self.send_frame(letter.node, MessageFrame::Progress { key, stage });
    }

    /// What the asker has is not on disk: its sender offers it again, and then it may come twice.
    pub(crate) fn late_failed(&mut self, row: RowId, request: RowId) {
        self.undo_early(request);
        self.receive_failed(row, Some(request));
        // An earlier commit than the one that failed may have taken it along.
        let mut writes = vec![Write::Delete(Table::Inbox, row)];
        let asked = self.outbox.messages.get(&request);
        writes.extend(asked.map(|asked| Write::Put(request, asked.row())));
        self.store_some_time(writes);
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
            depth: 0,
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

    /// The letter is on disk: told to its sender, shown to its agent. `doubted` where the world
    /// changed meanwhile.
    pub(crate) fn received(&mut self, row: RowId, answers: Option<RowId>, doubted: bool) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Letter { letter, phase } = &mut entry.content else {
            return;
        };
        *phase = Phase::Ready;
        let (owner, node, key) = (letter.owner.instance, letter.node, letter.key);
        let (notice, sequence, pair_key) = (letter.is_notice(), letter.sequence, letter.pair_key());
        if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
            mailbox.ready.insert(row);
        }
        if !notice {
            let pair = self.inbox.pairs.entry(pair_key).or_default();
            if sequence > pair.high {
                (pair.high, pair.last) = (sequence, Some(row));
            }
            self.counters.received += 1;
            self.send_frame(node, MessageFrame::Stored { key });
        }
        if let Some(request) = answers {
            self.answered(request, key.id);
            let message = self.outbox.messages.get(&request);
            if let Some(request) = message.filter(|it| it.watched).map(|it| it.key()) {
                self.answer_from_inbox(owner, request.id, key.id);
            }
        }
        if doubted
            && self.is_ready(row)
            && let Some(refused) = self.refusal_now(row)
        {
            self.give_up(row, refused);
        }
        self.to_serve.insert(owner);
    }

    pub(crate) fn receive_failed(&mut self, row: RowId, answers: Option<RowId>) {
        if let Some(request) = answers
            && let Some(message) = self.outbox.messages.get_mut(&request)
        {
            message.sent.reply = None;
        }
        let expires = self.inbox.entries.get(&row).map(|entry| entry.expires);
        let Some(letter) = self.inbox.take_back(row) else {
            return;
        };
        if let Some(at) = expires {
            self.timers.remove(&(at, Timer::Incoming(row)));
        }
        if letter.is_notice() {
            self.counters.notices_dropped += 1;
            return;
        }
        let full = Failure::of_nack(Nack::Full);
        self.refuse(letter.node, letter.key, Nack::Full, full);
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
            mailbox.ready.remove(&row);
            if let Some(refused) = self.refusal_now(row) {
                self.give_up(row, refused);
                continue;
            }
            mailbox_turn(self, owner, id);
            if let Some(delivery) = self.show(row, id, hold) {
                self.deliver(id, delivery);
            }
        }
    }

    /// Why a letter that was admitted must not be shown now: the world may have changed.
    fn refusal_now(&self, row: RowId) -> Option<Failure> {
        let entry = self.inbox.entries.get(&row)?;
        let (letter, _) = entry.letter()?;
        if entry.expires <= self.now {
            return Some(Failure::of_nack(Nack::Expired));
        }
        if letter.strikes >= limits::MAX_ATTEMPTS {
            return Some(Failure::new(
                "failed",
                "it was shown too often and never acked",
            ));
        }
        match self.verdict_on_letter(letter)? {
            Verdict::Allowed { .. } => None,
            Verdict::Denied(denial) => Some(Failure::denied(denial)),
        }
    }

    fn verdict_on_letter(&self, letter: &Letter) -> Option<Verdict> {
        let kind = match letter.subject {
            Subject::Message => Kind::Message,
            Subject::Request => Kind::Request,
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
    fn show_again(&mut self, row: RowId) {
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
            Content::Letter { .. } => {
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
                letter.subject == Subject::Request && matches!(phase, Phase::Held { .. })
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
        let phase = self
            .inbox
            .entries
            .get(&row)
            .and_then(|entry| entry.letter())
            .map(|it| it.1);
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

    fn refuse(&mut self, peer: NodeId, key: MessageKey, nack: Nack, error: Failure) {
        self.counters.refused_peers += 1;
        if nack.is_final() {
            self.event(Event::Refused {
                node: peer,
                key,
                error,
            });
        }
        self.send_frame(peer, MessageFrame::Refused { key, nack });
    }

    /// The reply to a request of a local agent, where it is a letter.
    fn reply_to(&self, request: MessageKey) -> Option<(RowId, Phase)> {
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

    fn trim_known(&mut self, node: &NodeId, writes: &mut Vec<Write>) {
        let too_many = |router: &Self| {
            router
                .inbox
                .sources
                .get(node)
                .is_some_and(|it| it.known.len() > limits::KNOWN_IDS_PER_NODE)
        };
        while too_many(self) {
            let Some(row) = self.inbox.oldest_spare(node) else {
                return;
            };
            if let Some(expires) = self.inbox.forget(row) {
                self.timers.remove(&(expires, Timer::Incoming(row)));
            }
            writes.push(Write::Delete(Table::Inbox, row));
        }
    }
}

impl Letter {
    fn delivery(&self) -> Delivery {
        Delivery {
            id: self.key.id,
            kind: match &self.subject {
                Subject::Message => DeliveryKind::Message,
                Subject::Request => DeliveryKind::Request,
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
            attempt: self.shown,
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
