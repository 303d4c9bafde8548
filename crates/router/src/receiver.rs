//! From the inbox to a local agent: who is shown what, and for how long. How it ends is in
//! `settling.rs`.

use std::time::{Duration, Instant};

use policy::Verdict;
use wire::message::{Kind, MessageFrame, MessageKey, Nack, Stage};
use wire::{InstanceId, MessageId};

use crate::inbox::{Content, Holder, Phase};
use crate::limits;
use crate::output::HolderId;
use crate::router::{Router, Timer};
use crate::rows::{Letter, RowId, Subject, Write};
use crate::words::{Delivery, DeliveryKind, Failure, Refusal};

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

    /// An agent still works on a message: it stays hidden for `hold` from now.
    pub fn heartbeat(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        hold: Duration,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.now = now;
        let (row, entry) = self.inbox.find_mut(instance, id)?;
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
        let (row, entry) = self.inbox.find(instance, id)?;
        if let Some((_, Phase::Held { .. })) = entry.letter() {
            self.strike(row);
        }
        Ok(())
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
        if !self.inbox.is_ready(row) {
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
            if !self.inbox.is_ready(row) {
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

    pub(crate) fn verdict_on_letter(&self, letter: &Letter) -> Option<Verdict> {
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
        let write = (shown > 1).then(|| Write::Put(row, letter.row()));
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
        let put = Write::Put(row, letter.row());
        self.store_some_time(vec![put]);
        self.show_again(row);
        // Judged now and not when somebody asks: its sender should hear of it.
        if self.inbox.is_ready(row)
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
pub(crate) const ASKER: HolderId = HolderId(u64::MAX);
