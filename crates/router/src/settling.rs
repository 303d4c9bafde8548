//! How a letter ends: its agent acks or answers it, its time is up, or it may not be shown any more.

use std::time::Instant;

use policy::Verdict;
use wire::message::{MessageFrame, Nack, Stage};
use wire::{InstanceId, MessageId};

use crate::inbox::{Content, Entry, Phase};
use crate::limits;
use crate::output::{Event, Ticket};
use crate::receiver::ASKER;
use crate::router::{Pending, Router, Timer};
use crate::rows::{DeadRow, InboxRow, Row, RowId, Table, Write};
use crate::words::{Failure, Refusal};

impl Router {
    /// An agent is done with a message. `None`: it was before; otherwise when that is stored.
    pub fn ack(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        now: Instant,
    ) -> Result<Option<Ticket>, Refusal> {
        self.now = now;
        let ticket = self.new_ticket();
        let (row, entry) = self.inbox.find_mut(instance, id)?;
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
