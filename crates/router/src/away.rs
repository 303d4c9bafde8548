//! Letters that wait behind many others wait on disk alone.
//!
//! An agent that is away for long fills its inbox, and most of what is in it nobody wants soon. The
//! first [`KEEP`](crate::limits::KEEP) letters of an inbox stay in memory, ready to be shown; of
//! what waits behind them only a stub stays: who has it, from whom, its place in the order, its
//! hash, its size. That is enough to know a duplicate from a conflict, to keep every bound, to serve
//! in order, and to ask the policy; the rest is read again ([`Output::Load`]) when the letter's turn
//! comes, when it is to end, or when its agent names it.
//!
//! **Invariants.** Only what is stored goes away, and nothing about it changes while it is away:
//! what its row says is what the letter was. A stub has its place in the order as its letter had, and
//! keeps it; one that is to end leaves the order at once, so that nobody waits for it, and is settled
//! when its letter is here. Replies and notices never go away: somebody may wait for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use identity::{AgentName, NodeId};
use policy::Verdict;
use wire::message::{Kind, MessageFrame, MessageKey, Stage};
use wire::{InstanceId, MessageId};

use crate::inbox::{Content, Entry, PairKey, Phase};
use crate::limits;
use crate::output::{Event, HolderId, Output};
use crate::router::{Router, Timer};
use crate::rows::{InboxRow, Letter, Row, RowId, Subject};
use crate::words::{Agent, Failure};

/// What is left in memory of a letter that waits on disk.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) way: Arc<Way>,
    pub(crate) id: MessageId,
    pub(crate) hash: [u8; 16],
    /// Of the body.
    bytes: u32,
    kind: OneWay,
    /// It was asked for.
    loading: bool,
    /// Why it ends as soon as it is here.
    gone: Option<Box<Failure>>,
}

/// What many letters of one sender to one agent have in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) owner: Agent,
    pub(crate) node: NodeId,
    from: AgentName,
    instance: InstanceId,
    epoch: u64,
}

/// The kinds of letters that may be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OneWay {
    Message,
    Request,
    Stream,
}

/// Which letters the disk was asked for.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    /// Letters that are away.
    away: usize,
    /// And the bytes of each.
    asked: BTreeMap<RowId, usize>,
    /// Somebody waits for these: asked for next.
    soon: BTreeSet<RowId>,
    /// These are to end, when there is time.
    later: BTreeSet<RowId>,
}

impl Router {
    /// Another number of letters of each inbox that stay in memory than
    /// [`KEEP`](crate::limits::KEEP). To be said at the start, before anything was shown.
    pub fn set_keep(&mut self, keep: usize) {
        self.keep = keep;
        let ready = self.inbox.mailboxes.values().map(|mailbox| &mailbox.ready);
        let far = ready.flat_map(|ready| ready.iter().skip(keep));
        for row in far.copied().collect::<Vec<_>>() {
            self.put_away(row);
        }
    }

    /// The answer to [`Output::Load`]: what the spool has in that row of the inbox; `None` where it
    /// cannot be read and never will be.
    pub fn handle_loaded(&mut self, row: RowId, found: Option<Row>, now: Instant) {
        self.now = now;
        if self.loads.asked.remove(&row).is_none() {
            return;
        }
        match found {
            Some(Row::Inbox(InboxRow::Waiting(letter))) => self.come_back(row, letter),
            _ => self.lose(row),
        }
        self.load_next();
    }

    /// Whether a message that an agent names waits on disk. Then it is asked for, and the agent's
    /// word is to be heard again after [`Router::handle_loaded`].
    pub fn is_away(&mut self, instance: InstanceId, id: MessageId) -> bool {
        // Mostly none is, and then there is nothing to look for.
        if self.loads.away == 0 {
            return false;
        }
        let Ok((row, entry)) = self.inbox.find(instance, id) else {
            return false;
        };
        let is_away = entry.away().is_some();
        if is_away {
            self.load(row, true);
        }
        is_away
    }

    /// Whether more comes to this holder, from the disk, without anything happening before.
    pub fn is_loading_for(&self, holder: HolderId) -> bool {
        let holder = self.inbox.holders.get(&holder).filter(|it| it.credit > 0);
        let mailbox = holder.and_then(|it| self.inbox.mailboxes.get(&it.owner));
        let first = mailbox.and_then(|mailbox| mailbox.ready.first());
        let entry = first.and_then(|row| self.inbox.entries.get(row));
        entry
            .and_then(Entry::away)
            .is_some_and(|(away, _)| away.loading)
    }

    /// Leaves a letter to the disk, where it waits far behind in its inbox.
    pub(crate) fn put_away_if_far(&mut self, row: RowId, owner: InstanceId) {
        let Some(mailbox) = self.inbox.mailboxes.get(&owner) else {
            return;
        };
        if mailbox.ready.len() <= self.keep {
            return;
        }
        let is_away = |row: &RowId| {
            let entry = self.inbox.entries.get(row);
            entry.and_then(Entry::away).is_some()
        };
        // Whoever has room now is shown it at once; but not before what must be read first.
        let mut holders = mailbox.wanting.iter();
        let is_wanted = holders.any(|holder| {
            let holder = self.inbox.holders.get(holder);
            holder.is_some_and(|holder| holder.credit > 0)
        });
        if is_wanted && !mailbox.ready.first().is_some_and(is_away) {
            if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
                mailbox.burst = true;
            }
            return;
        }
        let is_far =
            mailbox.ready.last() == Some(&row) || mailbox.ready.iter().nth(self.keep) <= Some(&row);
        if is_far {
            self.put_away(row);
        }
    }

    /// What came while somebody had room, and found none, is left to the disk too.
    pub(crate) fn put_away_burst(&mut self, owner: InstanceId) {
        let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) else {
            return;
        };
        if !std::mem::take(&mut mailbox.burst) {
            return;
        }
        let far = mailbox.ready.iter().skip(self.keep);
        for row in far.copied().collect::<Vec<_>>() {
            self.put_away(row);
        }
    }

    fn put_away(&mut self, row: RowId) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Letter {
            letter,
            phase: Phase::Ready,
        } = &entry.content
        else {
            return;
        };
        let Some(kind) = OneWay::of(&letter.subject) else {
            return;
        };
        // How often, its row may not say yet.
        if entry.shown {
            return;
        }
        let pair = self.inbox.pairs.entry(letter.pair_key()).or_default();
        let way = match &pair.way {
            Some(way) if way.is_of(letter) => way.clone(),
            _ => pair.way.insert(Arc::new(Way::of(letter))).clone(),
        };
        self.loads.away += 1;
        entry.content = Content::Away(Away {
            way,
            id: letter.key.id,
            hash: letter.hash,
            bytes: u32::try_from(letter.body.len()).unwrap_or(u32::MAX),
            kind,
            loading: false,
            gone: None,
        });
    }

    /// Asks for the letters at the head of an inbox, as one of them is wanted and away.
    pub(crate) fn load_head(&mut self, owner: InstanceId) {
        let Some(mailbox) = self.inbox.mailboxes.get(&owner) else {
            return;
        };
        let head = mailbox.ready.iter().take(self.keep.max(1));
        for row in head.copied().collect::<Vec<_>>() {
            self.load(row, true);
        }
    }

    /// What is away ends: for this reason, or as its sender took it back, if nothing was said
    /// before. It leaves the order now, and is settled when it is here.
    pub(crate) fn end_away(&mut self, row: RowId, why: Option<Failure>) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Away(away) = &mut entry.content else {
            return;
        };
        if let Some(why) = why.filter(|_| away.gone.is_none()) {
            away.gone = Some(Box::new(why));
        }
        let owner = away.way.owner.instance;
        if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
            mailbox.ready.remove(&row);
        }
        self.load(row, false);
    }

    /// What the policy says of a letter that is away, by now.
    pub(crate) fn verdict_on_away(&self, away: &Away) -> Verdict {
        let kind = match away.kind {
            OneWay::Message => Kind::Message,
            OneWay::Request => Kind::Request,
            OneWay::Stream => Kind::Stream,
        };
        let src = (away.way.node, &away.way.from);
        let dst = (self.node, &away.way.owner.name);
        self.judge(src, dst, &kind, usize::try_from(away.bytes).ok())
    }

    fn load(&mut self, row: RowId, soon: bool) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Away(away) = &mut entry.content else {
            return;
        };
        away.loading = true;
        if self.loads.asked.contains_key(&row) {
            return;
        }
        if soon {
            self.loads.later.remove(&row);
            self.loads.soon.insert(row);
        } else if !self.loads.soon.contains(&row) {
            self.loads.later.insert(row);
        }
        self.load_next();
    }

    fn load_next(&mut self) {
        loop {
            let asked = self.loads.asked.values();
            let has_room =
                asked.len() < limits::LOADS_ROWS && asked.sum::<usize>() < limits::LOADS_BYTES;
            if !has_room {
                return;
            }
            let next = self.loads.soon.pop_first();
            let Some(row) = next.or_else(|| self.loads.later.pop_first()) else {
                return;
            };
            let entry = self.inbox.entries.get(&row);
            if let Some((away, _)) = entry.and_then(Entry::away) {
                self.loads.asked.insert(row, away.size());
                self.output(Output::Load(row));
            }
        }
    }

    fn come_back(&mut self, row: RowId, mut letter: Letter) {
        let Some(entry) = self.inbox.entries.get_mut(&row) else {
            return;
        };
        let Content::Away(away) = &mut entry.content else {
            return;
        };
        if !away.way.is_of(&letter) || (away.key(), away.hash) != (letter.key, letter.hash) {
            return self.lose(row);
        }
        if row < self.first_row {
            letter.shown = letter.shown.max(1);
        }
        self.loads.away -= 1;
        let owner = letter.owner.instance;
        let gone = away.gone.take();
        entry.content = Content::Letter {
            letter: Box::new(letter),
            phase: Phase::Ready,
        };
        match gone {
            // No loss where its sender took it back.
            _ if entry.cancelled => self.settle_cancelled(row),
            Some(gone) => self.give_up(row, *gone),
            None => {
                self.to_serve.insert(owner);
            }
        }
    }

    /// The row of a letter is damaged: it is gone, and its sender hears so.
    fn lose(&mut self, row: RowId) {
        let Some(entry) = self.inbox.entries.get(&row) else {
            return;
        };
        let Some((away, expires)) = entry.away() else {
            return;
        };
        let (owner, node, key) = (away.way.owner.instance, away.way.node, away.key());
        self.timers.remove(&(expires, Timer::Incoming(row)));
        if let Some(mailbox) = self.inbox.mailboxes.get_mut(&owner) {
            mailbox.ready.remove(&row);
        }
        self.inbox.drop_away(row);
        self.loads.away -= 1;
        self.counters.unreadable += 1;
        self.event(Event::DeadLetter {
            node,
            key,
            error: Failure::new("failed", "its row in the spool cannot be read"),
        });
        let stage = Stage::Failed;
        self.send_frame(node, MessageFrame::Progress { key, stage });
        self.to_serve.insert(owner);
    }
}

impl Away {
    pub(crate) fn key(&self) -> MessageKey {
        MessageKey {
            instance: self.way.instance,
            id: self.id,
        }
    }

    pub(crate) fn pair_key(&self) -> PairKey {
        PairKey {
            node: self.way.node,
            instance: self.way.instance,
            epoch: self.way.epoch,
            to: self.way.owner.name.clone(),
        }
    }

    /// As [`Letter::size`].
    pub(crate) fn size(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX) + crate::outbox::OVERHEAD
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.gone.is_some()
    }
}

impl Entry {
    /// What is left of it, where it is away, and when that expires.
    pub(crate) fn away(&self) -> Option<(&Away, Instant)> {
        match &self.content {
            Content::Away(away) => Some((away, self.expires)),
            Content::Letter { .. } | Content::Known(_) => None,
        }
    }
}

impl Way {
    fn of(letter: &Letter) -> Self {
        Self {
            owner: letter.owner.clone(),
            node: letter.node,
            from: letter.from.agent.clone(),
            instance: letter.key.instance,
            epoch: letter.epoch,
        }
    }

    fn is_of(&self, letter: &Letter) -> bool {
        self.owner == letter.owner
            && self.node == letter.node
            && self.from == letter.from.agent
            && self.instance == letter.key.instance
            && self.epoch == letter.epoch
    }
}

impl OneWay {
    fn of(subject: &Subject) -> Option<Self> {
        match subject {
            Subject::Message => Some(Self::Message),
            Subject::Request => Some(Self::Request),
            Subject::Stream => Some(Self::Stream),
            Subject::Reply { .. } | Subject::Failure { .. } => None,
        }
    }
}
