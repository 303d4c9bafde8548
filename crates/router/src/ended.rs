//! Messages that one side ends before their time: taken back by who sent them, or rejected by who
//! should do them.
//!
//! Taken back is a promise about the sender alone: nothing more is waited for and no answer counts.
//! The receiver is told, on each new session until it says that it knows; what it has shown already
//! its agent hears as [`Event::Cancelled`], and may be half done.

use std::time::Instant;

use identity::NodeId;
use wire::message::{MessageFrame, MessageKey, Nack};
use wire::{InstanceId, MessageId};

use crate::inbox::{Content, Phase};
use crate::outbox::Place;
use crate::output::{Event, Ticket};
use crate::router::{Pending, Router};
use crate::rows::{InboxRow, Row, RowId, Write};
use crate::words::{CANCELLED, Failure, NO_OPEN_REQUEST, Refusal, Status};

impl Router {
    /// A local agent takes its message back. What is settled already stays as it is: see the state.
    pub fn cancel(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        now: Instant,
    ) -> Result<Status, Refusal> {
        self.now = now;
        let key = MessageKey { instance, id };
        let row = *self.outbox.by_key.get(&key).ok_or(Refusal::NotFound)?;
        self.take_back(row);
        let message = self.outbox.messages.get(&row).ok_or(Refusal::NotFound)?;
        Ok(message.sent.status())
    }

    /// A local agent will never do what it was shown: a dead letter, and its sender is told. Done
    /// when the ticket is stored.
    pub fn reject(
        &mut self,
        instance: InstanceId,
        id: MessageId,
        why: Option<&str>,
        now: Instant,
    ) -> Result<Ticket, Refusal> {
        self.now = now;
        let (row, entry) = self.inbox.find(instance, id)?;
        if entry.cancelled {
            return Err(Refusal::Cancelled);
        }
        if matches!(entry.letter(), Some((_, Phase::Storing))) || entry.away().is_some() {
            return Err(Refusal::NotFound);
        }
        let reason = match why {
            Some(why) => format!("the agent here will not do it: {why}"),
            None => "the agent here will not do it".to_owned(),
        };
        self.give_up(row, Failure::new("rejected", &reason));
        Ok(self.flush(now))
    }

    /// Whether the sender took back a message that this agent was shown; `None` where it is not
    /// known, or settled otherwise.
    pub fn is_cancelled(&self, instance: InstanceId, id: MessageId) -> Option<bool> {
        let (_, entry) = self.inbox.find(instance, id).ok()?;
        match &entry.content {
            _ if entry.cancelled => Some(true),
            Content::Letter { .. } => Some(false),
            Content::Away(away) => (!away.is_ending()).then_some(false),
            Content::Known(known) => known.open.then_some(false),
        }
    }

    /// Ends a message of ours; one that is not yet on disk when it is.
    pub(crate) fn take_back(&mut self, row: RowId) {
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        if message.sent.state.is_final() {
            return;
        }
        let (node, key) = (message.sent.node, message.key());
        let storing = message.storing.is_some();
        let may_be_there = match message.place {
            Place::Settled => true,
            Place::Waiting => false,
            Place::Lane(lane) => {
                let flies = self.outbox.flies(lane, row);
                if storing && !flies {
                    if let Some(message) = self.outbox.messages.get_mut(&row) {
                        message.sent.taken_back = true;
                    }
                    return;
                }
                self.call_back(lane, row, 1);
                flies
            }
        };
        if let Some(message) = self.outbox.messages.get_mut(&row) {
            message.sent.taken_back = may_be_there;
        }
        if may_be_there {
            self.outbox.taken_back.insert((node, row));
        }
        self.fail(row, Failure::of_nack(Nack::Cancelled));
        if may_be_there {
            self.send_frame(node, MessageFrame::Cancel { key });
        }
    }

    /// Tells a peer again what was taken back, as it may have been down.
    pub(crate) fn say_cancels(&mut self, peer: NodeId) {
        let rows = self
            .outbox
            .taken_back
            .range((peer, RowId(0))..=(peer, RowId(u64::MAX)));
        let keys = rows.filter_map(|(_, row)| self.outbox.messages.get(row).map(|it| it.key()));
        for key in keys.collect::<Vec<_>>() {
            self.send_frame(peer, MessageFrame::Cancel { key });
        }
    }

    /// The peer knows that it was taken back.
    pub(crate) fn cancel_heard(&mut self, row: RowId) {
        let Some(message) = self.outbox.messages.get_mut(&row) else {
            return;
        };
        if std::mem::take(&mut message.sent.taken_back) {
            let put = Write::Put(row, message.row());
            let node = message.sent.node;
            self.outbox.taken_back.remove(&(node, row));
            self.store_some_time(vec![put]);
        }
    }

    /// The sender took a message back: shown to nobody from here on.
    pub(crate) fn handle_cancel(&mut self, peer: NodeId, key: MessageKey) {
        let nack = Nack::Cancelled;
        let Some(row) = self.inbox.by_key.get(&(peer, key)).copied() else {
            return self.send_frame(peer, MessageFrame::Refused { key, nack });
        };
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let before = std::mem::replace(&mut entry.cancelled, true);
        match &mut entry.content {
            // Settled by the store that is under way.
            Content::Letter {
                phase: Phase::Storing,
                ..
            } => {}
            Content::Letter {
                phase: Phase::Settling { .. },
                ..
            } => self.send_frame(peer, MessageFrame::Refused { key, nack }),
            Content::Letter { .. } => self.settle_cancelled(row),
            Content::Away(_) => self.end_away(row, None),
            Content::Known(known) => {
                // An agent that acked it first may still work on its answer.
                let owner = known.owner.instance;
                let open = std::mem::take(&mut known.open);
                let put = Row::Inbox(InboxRow::Known((**known).clone()));
                entry.answered = true;
                if open && !before {
                    self.store_some_time(vec![Write::Put(row, put)]);
                    self.event(Event::Cancelled {
                        instance: owner,
                        node: peer,
                        key,
                    });
                }
                self.send_frame(peer, MessageFrame::Refused { key, nack });
            }
        }
    }

    /// A letter that was taken back is known again and never shown.
    pub(crate) fn settle_cancelled(&mut self, row: RowId) {
        let phase = self.inbox.entries.get(&row).and_then(|it| it.letter());
        let Some(phase) = phase.map(|(_, phase)| phase) else {
            return;
        };
        let Some((letter, known)) = self.inbox.settle(row, false) else {
            return;
        };
        let (owner, peer, key) = (letter.owner.instance, letter.node, letter.key);
        self.let_go(owner, row, phase);
        if let Some(entry) = self.inbox.entries.get_mut(&row) {
            entry.answered = true;
        }
        self.counters.cancelled += 1;
        let mut writes = vec![Write::Put(row, Row::Inbox(InboxRow::Known(known)))];
        self.trim_known(&peer, &mut writes);
        self.store(writes, Pending::Cancel { peer, key });
        if matches!(phase, Phase::Held { .. }) {
            self.event(Event::Cancelled {
                instance: owner,
                node: peer,
                key,
            });
        }
    }

    /// It is on disk that a message was taken back: its sender need not say so again.
    pub(crate) fn cancelled(&mut self, peer: NodeId, key: MessageKey) {
        let nack = Nack::Cancelled;
        self.send_frame(peer, MessageFrame::Refused { key, nack });
    }
}

impl Failure {
    /// Whether the agent itself ended the message: no loss, and no news to it.
    pub(crate) fn is_cancel(&self) -> bool {
        &*self.code == CANCELLED
    }

    /// Whether it is a reply that nobody waits for.
    pub(crate) fn is_unasked(&self) -> bool {
        &*self.code == NO_OPEN_REQUEST
    }
}
