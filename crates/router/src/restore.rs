//! After a start: the same router from its rows.

use std::sync::Arc;
use std::time::Instant;

use identity::NodeId;
use wire::message::{Kind, MessageKey};

use crate::clock::Clock;
use crate::inbox::{Content, Entry, Keeping, Pair, Phase};
use crate::limits;
use crate::outbox::{OVERHEAD, Outgoing, Place};
use crate::router::{Router, Timer};
use crate::rows::{InboxRow, Known, Letter, OutboxRow, Row, RowId, Sent, Table, Write};
use crate::words::{Agent, Authority, Failure};

impl Router {
    /// The router that wrote these rows, as far as they reached the disk. What was on its way is
    /// offered again, what was shown is shown again. `agents` are those that live now; what
    /// belongs to others becomes dead letters.
    #[allow(
        clippy::too_many_arguments,
        reason = "the facts of a start, each of them once"
    )]
    pub fn restore(
        node: NodeId,
        epoch: u64,
        first_row: RowId,
        agents: impl IntoIterator<Item = Agent>,
        rows: impl IntoIterator<Item = (RowId, Row)>,
        authority: Arc<dyn Authority + Send + Sync>,
        seed: [u8; 32],
        clock: Clock,
        now: Instant,
    ) -> Self {
        let mut router = Self::new(node, epoch, first_row, authority, seed, clock, now);
        for agent in agents {
            router.add_agent(agent, now);
        }
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(row, _)| *row);
        for (row, value) in rows {
            router.restore_row(row, value);
        }
        router.restored();
        router
    }

    /// One row of an earlier start, for a router that is new and has its agents: row by row, so
    /// that most of them need never be in memory together. Those of a table come in their order,
    /// the inbox's before the outbox's. Then [`Router::restored`].
    pub fn restore_row(&mut self, row: RowId, value: Row) {
        match value {
            Row::Outbox(OutboxRow::Waiting {
                node,
                to,
                envelope,
                hash,
            }) => {
                let ends =
                    self.clock
                        .instant_of(envelope.expires_at_ms(), envelope.ttl_ms, self.now);
                self.restore_waiting(row, Outgoing::new(node, to, envelope, hash, ends));
            }
            Row::Outbox(OutboxRow::Sent(sent)) => self.restore_sent(row, sent),
            Row::Inbox(InboxRow::Waiting(letter)) => self.restore_letter(row, letter),
            Row::Inbox(InboxRow::Known(known)) => self.restore_known(row, known),
            Row::Dead(dead) => {
                let usage = self.outbox.usage.entry(dead.instance).or_default();
                let size = dead.body.len() + OVERHEAD;
                usage.dead.insert(row, size);
                usage.dead_bytes += size;
            }
        }
    }

    /// That was the last row of earlier starts.
    pub fn restored(&mut self) {
        self.mend_requests();
        self.bury_orphans();
        // The last word of the operator may have reached the disk and its consequences not.
        if self.authority.has_policy() {
            self.judge_outgoing_again();
        }
    }

    fn restore_waiting(&mut self, row: RowId, message: Outgoing) {
        let usage = self.outbox.usage.entry(message.sent.instance).or_default();
        usage.rows += 1;
        usage.bytes += message.size();
        usage.open += usize::from(message.open);
        // A reply on disk closed its request in the same store.
        if let Some(Kind::Reply { in_reply_to }) = message.envelope.as_ref().map(|it| it.kind)
            && let Some(acked) = self.inbox.by_id.get(&(message.sent.instance, in_reply_to))
            && let Some(entry) = self.inbox.entries.get_mut(acked)
        {
            entry.answered = true;
        }
        self.timers.insert((message.expires, Timer::Outgoing(row)));
        self.outbox.by_key.insert(message.key(), row);
        let node = message.sent.node;
        self.outbox.messages.insert(row, Box::new(message));
        self.outbox.enqueue(row);
        self.to_pump.insert(node);
    }

    fn restore_sent(&mut self, row: RowId, sent: Sent) {
        let ends = sent.created_at_ms.saturating_add(sent.ttl_ms);
        let expires = self.clock.instant_of(ends, sent.ttl_ms, self.now);
        let failed = sent.error.is_some();
        let open = sent.expects_reply && sent.reply.is_none() && !failed;
        let usage = self.outbox.usage.entry(sent.instance).or_default();
        usage.open += usize::from(open);
        usage.settled.insert(sent.id);
        self.outbox.by_key.insert(
            MessageKey {
                instance: sent.instance,
                id: sent.id,
            },
            row,
        );
        self.timers.insert((expires, Timer::Outgoing(row)));
        let message = Outgoing {
            sent,
            envelope: None,
            storing: None,
            leaves_early: false,
            offer: None,
            place: Place::Settled,
            expires,
            watched: false,
            open,
            expired: false,
            handed_over: false,
            taken: false,
            looped: false,
        };
        if message.sent.taken_back {
            self.outbox.taken_back.insert((message.sent.node, row));
        }
        self.outbox.messages.insert(row, Box::new(message));
    }

    fn restore_letter(&mut self, row: RowId, mut letter: Letter) {
        // It may have been shown just before the crash: the next time is not the first.
        letter.shown = letter.shown.max(1);
        let ends = letter.created_at_ms.saturating_add(letter.ttl_ms);
        let expires = self.clock.instant_of(ends, letter.ttl_ms, self.now);
        let (owner, notice, sequence) =
            (letter.owner.instance, letter.is_notice(), letter.sequence);
        let pair_key = letter.pair_key();
        self.inbox.insert(row, letter, Phase::Ready, expires);
        self.timers.insert((expires, Timer::Incoming(row)));
        if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
            mailbox.ready.insert(row);
        }
        if !notice {
            self.inbox
                .pairs
                .entry(pair_key)
                .or_default()
                .reached(sequence, row);
        }
        self.put_away_if_far(row, owner);
    }

    fn restore_known(&mut self, row: RowId, known: Known) {
        let ends = known.created_at_ms.saturating_add(known.ttl_ms);
        let expires = self.clock.instant_of(ends, known.ttl_ms, self.now);
        let key = (known.node, known.key);
        self.inbox
            .by_id
            .insert((known.owner.instance, known.key.id), row);
        let (sequence, answered) = (known.sequence, !known.open);
        let content = Content::Known(Box::new(known));
        let entry = Entry {
            expires,
            answered,
            expired: false,
            cancelled: false,
            shown: false,
            keeping: Keeping::No,
            content,
        };
        let pair_key = entry.pair_key();
        self.inbox.entries.insert(row, entry);
        self.timers.insert((expires, Timer::Incoming(row)));
        // A notice was in no pair.
        if sequence > 0 {
            self.inbox.by_key.insert(key, row);
            let source = self.inbox.sources.entry(key.0).or_default();
            source.known.insert(row);
            let pair = self.inbox.pairs.entry(pair_key).or_insert_with(|| {
                source.pairs += 1;
                Pair::default()
            });
            pair.reached(sequence, row);
        }
    }

    /// A reply may have reached the disk without what it meant for its request.
    fn mend_requests(&mut self) {
        let replies = self.inbox.entries.values().filter_map(|entry| {
            let (letter, _) = entry.letter()?;
            let crate::rows::Subject::Reply { in_reply_to } = letter.subject else {
                return None;
            };
            let request = MessageKey {
                instance: letter.owner.instance,
                id: in_reply_to,
            };
            Some((*self.outbox.by_key.get(&request)?, letter.key.id))
        });
        let replies: Vec<_> = replies.collect();
        for (request, reply) in replies {
            self.answered(request, reply);
        }
    }

    /// An agent may have been removed while the last process died.
    fn bury_orphans(&mut self) {
        let lives = |router: &Self, instance| router.inbox.mailboxes.contains_key(&instance);
        let orphans = self.inbox.entries.iter().filter_map(|(row, entry)| {
            let (letter, _) = entry.letter()?;
            (!lives(self, letter.owner.instance)).then_some(*row)
        });
        let gone = Failure::new("agent_removed", "the agent was removed from its gateway");
        for row in orphans.collect::<Vec<_>>() {
            self.give_up(row, gone.clone());
        }
        let orphans = self.outbox.messages.iter();
        let orphans = orphans.filter(|(_, message)| !lives(self, message.sent.instance));
        for row in orphans.map(|(row, _)| *row).collect::<Vec<_>>() {
            self.abandon_outgoing(row, &gone);
        }
        let mut writes = Vec::new();
        for usage in self.outbox.usage.values_mut() {
            while usage.dead.len() > limits::DEAD_ROWS {
                let Some((row, size)) = usage.dead.pop_first() else {
                    break;
                };
                usage.dead_bytes -= size;
                writes.push(Write::Delete(Table::Dead, row));
            }
        }
        self.store_some_time(writes);
    }
}

impl Pair {
    fn reached(&mut self, sequence: u64, row: RowId) {
        if sequence > self.high {
            (self.high, self.last) = (sequence, Some(row));
            self.pending = self.pending.max(sequence);
        }
    }
}
