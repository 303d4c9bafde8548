//! What comes from a peer: judged, kept, and told to be stored once it is.

use std::time::{Duration, Instant};

use identity::{AgentAddress, NodeId};
use policy::{Bucket, Verdict};
use wire::message::{Kind, MAX_BODY, MessageFrame, MessageKey, Nack, is_conversation};
use wire::{Envelope, InstanceId, MessageId};

use crate::inbox::{Content, Keeping, PairKey, Phase};
use crate::limits;
use crate::output::Event;
use crate::rates::Drawn;
use crate::receiver::ASKER;
use crate::router::{Pending, Router, Timer};
use crate::rows::{Letter, RowId, Subject, Table, Write, content_hash};
use crate::sender::is_content_type;
use crate::words::{Agent, Failure, State};

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
            Kind::Message | Kind::Request | Kind::Stream => None,
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
        if !it.conversation.as_deref().is_none_or(is_conversation) {
            return Err(Nack::Schema);
        }
        match it.hops_left == 0 || self.causes.excess(it).is_some() {
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
        let mut letter = Letter {
            owner,
            node: peer,
            from,
            key: envelope.key(),
            epoch: envelope.epoch,
            sequence: envelope.sequence,
            subject: match envelope.kind {
                Kind::Message => Subject::Message,
                Kind::Request => Subject::Request,
                Kind::Stream => Subject::Stream,
                Kind::Reply { in_reply_to } => Subject::Reply { in_reply_to },
            },
            cause: envelope.cause,
            conversation: envelope.conversation,
            created_at_ms: envelope.created_at_ms,
            ttl_ms: envelope.ttl_ms,
            content_type: envelope.content_type,
            body: envelope.body,
            hash,
            shown: 0,
            strikes: 0,
        };
        // What an agent here sent to another here was counted on its way out.
        if peer != self.node {
            self.causes.count(letter.cause, self.now);
        }
        let mut keeping = Keeping::No;
        if let Some(request) = answers
            && let Some(message) = self.outbox.messages.get_mut(&request)
        {
            // From here on no other reply is the one; taken back if this cannot be stored.
            message.sent.reply = Some(letter.key.id);
            // It may have been handed over before, and not stored.
            letter.shown = u32::from(message.handed_over || request < self.first_row);
            if message.taken {
                keeping = Keeping::Kept;
            } else if message.watched {
                return self.answer_early(letter, expires, request);
            }
        }
        self.put_letter(letter, expires, answers, drawn, keeping);
    }

    pub(crate) fn put_letter(
        &mut self,
        letter: Letter,
        expires: Instant,
        answers: Option<RowId>,
        drawn: Drawn,
        keeping: Keeping,
    ) {
        let row = self.new_row();
        let writes = vec![Write::Put(row, letter.row())];
        self.inbox.insert(row, letter, Phase::Storing, expires);
        if let Some(entry) = self.inbox.entries.get_mut(&row) {
            entry.keeping = keeping;
        }
        self.timers.insert((expires, Timer::Incoming(row)));
        let pending = Pending::Receive {
            row,
            answers,
            drawn,
        };
        self.store(writes, pending);
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
        let keeping = std::mem::take(&mut entry.keeping);
        *phase = match keeping {
            Keeping::No => Phase::Ready,
            Keeping::Hidden | Keeping::Kept => Phase::Held {
                holder: ASKER,
                until: None,
            },
        };
        let (owner, node, key) = (letter.owner.instance, letter.node, letter.key);
        let (notice, sequence, pair_key) = (letter.is_notice(), letter.sequence, letter.pair_key());
        let cancelled = entry.cancelled;
        if keeping == Keeping::No
            && let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner)
        {
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
            let asked = message.map(|it| (it.key(), it.watched));
            match asked {
                Some((request, _)) if keeping == Keeping::Kept => {
                    return self.handle_answer_taken(request, self.now);
                }
                Some((request, true)) => self.answer_from_inbox(owner, request.id, key.id),
                _ => {}
            }
        }
        if cancelled {
            return self.settle_cancelled(row);
        }
        if doubted
            && self.inbox.is_ready(row)
            && let Some(refused) = self.refusal_now(row)
        {
            self.give_up(row, refused);
        }
        if keeping == Keeping::No {
            self.put_away_if_far(row, owner);
            self.to_serve.insert(owner);
        }
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
        if letter.shown > 0
            && let Some(message) = answers.and_then(|row| self.outbox.messages.get_mut(&row))
        {
            message.handed_over = true;
        }
        let full = Failure::of_nack(Nack::Full);
        self.refuse(letter.node, letter.key, Nack::Full, full);
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

    pub(crate) fn trim_known(&mut self, node: &NodeId, writes: &mut Vec<Write>) {
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
