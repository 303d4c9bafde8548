//! An answer that somebody waits for: handed over as it arrives, and stored behind that.
//!
//! **Invariants.** Its sender keeps it until it is stored here, so that a crash in between shows it
//! once more and loses nothing. And nothing that came behind it from the same agent is on disk before
//! it, as the highest sequence there says what was had: frames are taken one at a time, each after the
//! shell said what became of the answer before it.

use std::time::Instant;

use wire::message::{MessageFrame, MessageKey, Stage};

use crate::inbox::{Content, Entry, Keeping, Phase};
use crate::limits;
use crate::rates::Drawn;
use crate::router::{Pending, Router, Timer};
use crate::rows::{InboxRow, Letter, Row, RowId, Table, Write};

impl Router {
    /// The reply reached whoever waited for it: as good as acked.
    pub fn handle_answer_taken(&mut self, request: MessageKey, now: Instant) {
        self.now = now;
        let Some((row, phase)) = self.reply_to(request) else {
            return self.taken_unstored(request);
        };
        if phase == Phase::Storing {
            return match self.inbox.entries.get_mut(&row) {
                Some(entry) if entry.keeping != Keeping::No => entry.keeping = Keeping::Kept,
                _ => self.taken_early(request, row),
            };
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

    /// Who waits for the reply keeps it on a disk of their own, and says by
    /// [`Router::handle_answer_taken`] when it is there. Until then it is stored here too, as what
    /// comes behind it is; hidden from the inbox, and handed over again after a crash.
    pub fn handle_answer_kept(&mut self, request: MessageKey, now: Instant) {
        self.now = now;
        let Some((row, Phase::Storing)) = self.reply_to(request) else {
            return;
        };
        if let Some(entry) = self.inbox.entries.get_mut(&row) {
            entry.keeping = Keeping::Hidden;
        }
        self.store_early(request, row);
    }

    /// Hands a reply to whoever waits for it, and lets the disk wait: its sender keeps it until it
    /// hears that it is stored here. The shell says at once whether somebody took it.
    pub(crate) fn answer_early(&mut self, mut letter: Letter, expires: Instant, request: RowId) {
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

    /// The asker has a reply that the disk refused.
    fn taken_unstored(&mut self, request: MessageKey) {
        if let Some(row) = self.outbox.by_key.get(&request)
            && let Some(message) = self.outbox.messages.get_mut(row)
        {
            message.taken = message.handed_over;
        }
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
        if let Some(entry) = self.inbox.entries.get_mut(&row)
            && let Content::Letter { letter, .. } = &mut entry.content
        {
            letter.shown = letter.shown.saturating_sub(1);
        }
        self.store_early(request, row);
    }

    fn store_early(&mut self, request: MessageKey, row: RowId) {
        let entry = self.inbox.entries.get(&row);
        let Some((letter, _)) = entry.and_then(Entry::letter) else {
            return;
        };
        let writes = vec![Write::Put(row, letter.row())];
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

    /// What the asker has is not on disk: its sender offers it again, and then nobody is shown it,
    /// but after a crash.
    pub(crate) fn late_failed(&mut self, row: RowId, request: RowId) {
        self.undo_early(request);
        self.receive_failed(row, Some(request));
        if let Some(asked) = self.outbox.messages.get_mut(&request) {
            asked.taken = true;
        }
        // An earlier commit than the one that failed may have taken it along.
        let mut writes = vec![Write::Delete(Table::Inbox, row)];
        let asked = self.outbox.messages.get(&request);
        writes.extend(asked.map(|asked| Write::Put(request, asked.row())));
        self.store_some_time(writes);
    }
}
