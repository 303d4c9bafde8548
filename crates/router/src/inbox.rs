//! The messages to here: who may see them, who saw them, and which were here before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{AgentName, NodeId};
use wire::message::MessageKey;
use wire::{InstanceId, MessageId};

use crate::away::{Away, Way};
use crate::outbox::OVERHEAD;
use crate::output::{HolderId, Ticket};
use crate::rows::{Known, Letter, RowId, Subject};
use crate::words::{Agent, Refusal};

/// All messages to local agents.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) mailboxes: BTreeMap<InstanceId, Mailbox>,
    pub(crate) names: BTreeMap<AgentName, InstanceId>,
    pub(crate) entries: BTreeMap<RowId, Entry>,
    /// A message by the node and agent that sent it.
    pub(crate) by_key: BTreeMap<(NodeId, MessageKey), RowId>,
    /// A message by the agent that it is for: the only way in from the API.
    pub(crate) by_id: BTreeMap<(InstanceId, MessageId), RowId>,
    pub(crate) pairs: BTreeMap<PairKey, Pair>,
    pub(crate) sources: BTreeMap<NodeId, Source>,
    pub(crate) holders: BTreeMap<HolderId, Holder>,
}

/// One message to a local agent.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) expires: Instant,
    /// A reply was made, or is on its way to the disk.
    pub(crate) answered: bool,
    /// Its time to live has passed; what is left is to forget it.
    pub(crate) expired: bool,
    /// Its sender took it back after it had been shown.
    pub(crate) cancelled: bool,
    /// It was shown since it came, or since the start.
    pub(crate) shown: bool,
    pub(crate) keeping: Keeping,
    pub(crate) content: Content,
}

/// What becomes of a letter that was handed over before it was stored, once it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// Nobody keeps it.
    #[default]
    No,
    /// Hidden, until who keeps it says that they have it.
    Hidden,
    /// They said so already: settled.
    Kept,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// To be shown until acked.
    Letter { letter: Box<Letter>, phase: Phase },
    /// To be shown in its turn, and on disk alone until then.
    Away(Away),
    /// Acked or given up: known again, never shown.
    Known(Box<Known>),
}

/// Where a letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not yet on disk.
    Storing,
    /// May be shown.
    Ready,
    /// Was shown, and is hidden from others while the holder has it.
    Held {
        holder: HolderId,
        until: Option<Instant>,
    },
    /// Its ack is on the way to the disk.
    Settling { ticket: Ticket },
}

/// What waits for one agent.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pub(crate) agent: Agent,
    /// In the order of arrival.
    pub(crate) ready: BTreeSet<RowId>,
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    pub(crate) by_node: BTreeMap<NodeId, (usize, usize)>,
    /// Letters came while somebody had room, and may be more than that.
    pub(crate) burst: bool,
    /// Who wants to see more, in turn.
    pub(crate) wanting: VecDeque<HolderId>,
}

/// Somebody who was shown messages, or wants to be.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) owner: InstanceId,
    /// How many more it takes.
    pub(crate) credit: usize,
    /// How long it holds one; `None`: until it is released.
    pub(crate) hold: Option<Duration>,
    pub(crate) held: BTreeSet<RowId>,
}

/// One sending agent in one life of its spool, and one agent here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PairKey {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) epoch: u64,
    pub(crate) to: AgentName,
}

/// The order within a pair. All up to `high` was stored here once, or skipped by its sender.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    pub(crate) high: u64,
    /// The same with what is on its way to the disk.
    pub(crate) pending: u64,
    /// The row that carries `high` over a restart.
    pub(crate) last: Option<RowId>,
    /// Letters that are not settled.
    pub(crate) open: usize,
    /// What those of them have in common that are away.
    pub(crate) way: Option<Arc<Way>>,
}

/// What one node has here.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) pairs: usize,
    pub(crate) open_pairs: usize,
    pub(crate) known: BTreeSet<RowId>,
}

impl Entry {
    pub(crate) fn letter(&self) -> Option<(&Letter, Phase)> {
        match &self.content {
            Content::Letter { letter, phase } => Some((letter, *phase)),
            Content::Away(_) | Content::Known(_) => None,
        }
    }

    pub(crate) fn pair_key(&self) -> PairKey {
        match &self.content {
            Content::Letter { letter, .. } => letter.pair_key(),
            Content::Away(away) => away.pair_key(),
            Content::Known(known) => PairKey {
                node: known.node,
                instance: known.key.instance,
                epoch: known.epoch,
                to: known.owner.name.clone(),
            },
        }
    }

    pub(crate) fn hash(&self) -> [u8; 16] {
        match &self.content {
            Content::Letter { letter, .. } => letter.hash,
            Content::Away(away) => away.hash,
            Content::Known(known) => known.hash,
        }
    }
}

impl Letter {
    pub(crate) fn pair_key(&self) -> PairKey {
        PairKey {
            node: self.node,
            instance: self.key.instance,
            epoch: self.epoch,
            to: self.owner.name.clone(),
        }
    }

    /// Made here, about a message of the owner: in no pair, from no peer.
    pub(crate) fn is_notice(&self) -> bool {
        matches!(self.subject, Subject::Failure { .. })
    }

    pub(crate) fn size(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

impl Mailbox {
    pub(crate) fn new(agent: Agent) -> Self {
        Self {
            agent,
            ready: BTreeSet::new(),
            rows: 0,
            bytes: 0,
            by_node: BTreeMap::new(),
            burst: false,
            wanting: VecDeque::new(),
        }
    }

    pub(crate) fn charge(&mut self, letter: &Letter) {
        let share = self.by_node.entry(letter.node).or_default();
        for (rows, bytes) in [
            (&mut self.rows, &mut self.bytes),
            (&mut share.0, &mut share.1),
        ] {
            *rows += 1;
            *bytes += letter.size();
        }
    }

    pub(crate) fn discharge(&mut self, node: NodeId, size: usize) {
        self.rows -= 1;
        self.bytes -= size;
        if let Some(share) = self.by_node.get_mut(&node) {
            share.0 -= 1;
            share.1 -= size;
            if share.0 == 0 {
                self.by_node.remove(&node);
            }
        }
    }
}

impl Inbox {
    /// What an agent knows by that id.
    pub(crate) fn find(
        &self,
        agent: InstanceId,
        id: MessageId,
    ) -> Result<(RowId, &Entry), Refusal> {
        let row = *self.by_id.get(&(agent, id)).ok_or(Refusal::NotFound)?;
        let entry = self.entries.get(&row).ok_or(Refusal::NotFound)?;
        Ok((row, entry))
    }

    /// The same, to be changed.
    pub(crate) fn find_mut(
        &mut self,
        agent: InstanceId,
        id: MessageId,
    ) -> Result<(RowId, &mut Entry), Refusal> {
        let row = *self.by_id.get(&(agent, id)).ok_or(Refusal::NotFound)?;
        let entry = self.entries.get_mut(&row).ok_or(Refusal::NotFound)?;
        Ok((row, entry))
    }

    /// Whether a letter is in memory and may be shown now.
    pub(crate) fn is_ready(&self, row: RowId) -> bool {
        let letter = self.entries.get(&row).and_then(Entry::letter);
        letter.is_some_and(|(_, phase)| phase == Phase::Ready)
    }

    /// Puts a letter among what is here, charged to its node and its agent.
    pub(crate) fn insert(&mut self, row: RowId, letter: Letter, phase: Phase, expires: Instant) {
        self.by_id
            .insert((letter.owner.instance, letter.key.id), row);
        if !letter.is_notice() {
            self.by_key.insert((letter.node, letter.key), row);
            let source = self.sources.entry(letter.node).or_default();
            let pair = self.pairs.entry(letter.pair_key()).or_insert_with(|| {
                source.pairs += 1;
                Pair::default()
            });
            source.open_pairs += usize::from(pair.open == 0);
            pair.open += 1;
            pair.pending = pair.pending.max(letter.sequence);
        }
        if let Some(mailbox) = self.mailboxes.get_mut(&letter.owner.instance) {
            mailbox.charge(&letter);
        }
        let letter = Box::new(letter);
        let content = Content::Letter { letter, phase };
        self.entries.insert(
            row,
            Entry {
                expires,
                answered: false,
                expired: false,
                cancelled: false,
                shown: false,
                keeping: Keeping::No,
                content,
            },
        );
    }

    /// Takes back a letter that could not be stored.
    pub(crate) fn take_back(&mut self, row: RowId) -> Option<Letter> {
        let entry = self.entries.remove(&row)?;
        let Content::Letter { letter, .. } = entry.content else {
            return None;
        };
        self.by_id.remove(&(letter.owner.instance, letter.key.id));
        self.by_key.remove(&(letter.node, letter.key));
        self.close(&letter);
        if let Some(pair) = self.pairs.get_mut(&letter.pair_key()) {
            pair.pending = pair.high;
            if pair.last.is_none() && pair.open == 0 {
                self.forget_pair(&letter.pair_key());
            }
        }
        Some(*letter)
    }

    /// The letter is settled: its room is free, its id stays known.
    pub(crate) fn settle(&mut self, row: RowId, open: bool) -> Option<(Letter, Known)> {
        let entry = self.entries.get_mut(&row)?;
        let Content::Letter { letter, .. } = &entry.content else {
            return None;
        };
        let known = letter.known(open);
        let now_known = Content::Known(Box::new(known.clone()));
        let settled = std::mem::replace(&mut entry.content, now_known);
        let Content::Letter { letter, .. } = settled else {
            return None;
        };
        self.close(&letter);
        if !letter.is_notice() {
            self.sources
                .entry(letter.node)
                .or_default()
                .known
                .insert(row);
        }
        Some((*letter, known))
    }

    /// Forgets a letter whose row is lost.
    pub(crate) fn drop_away(&mut self, row: RowId) {
        let Some(entry) = self.entries.remove(&row) else {
            return;
        };
        let Content::Away(away) = entry.content else {
            return;
        };
        let (owner, node, key) = (away.way.owner.instance, away.way.node, away.key());
        let pair_key = away.pair_key();
        self.by_id.remove(&(owner, key.id));
        self.by_key.remove(&(node, key));
        self.close_one(owner, node, away.size(), Some(&pair_key));
        self.forget_idle_pair(&pair_key);
    }

    /// Forgets a settled message as an id. Its pair still knows its place.
    pub(crate) fn forget(&mut self, row: RowId) -> Option<Instant> {
        let entry = self.entries.remove(&row)?;
        let pair_key = entry.pair_key();
        if let Content::Known(known) = &entry.content {
            self.by_id.remove(&(known.owner.instance, known.key.id));
            self.by_key.remove(&(known.node, known.key));
            if let Some(source) = self.sources.get_mut(&known.node) {
                source.known.remove(&row);
            }
        }
        self.forget_idle_pair(&pair_key);
        Some(entry.expires)
    }

    /// Forgets a pair that has nothing open, and no row to carry its order.
    fn forget_idle_pair(&mut self, key: &PairKey) {
        let gone = |pair: &Pair| {
            pair.last
                .is_none_or(|last| !self.entries.contains_key(&last))
        };
        if self
            .pairs
            .get(key)
            .is_some_and(|pair| pair.open == 0 && gone(pair))
        {
            self.forget_pair(key);
        }
    }

    /// The oldest settled message of a node that no pair needs for its order.
    pub(crate) fn oldest_spare(&self, node: &NodeId) -> Option<RowId> {
        let known = &self.sources.get(node)?.known;
        let spare = |row: &&RowId| {
            let pair = self.entries.get(row).map(Entry::pair_key);
            pair.and_then(|key| self.pairs.get(&key))
                .is_none_or(|pair| pair.last != Some(**row))
        };
        known.iter().find(spare).copied()
    }

    /// Somebody wants no more.
    pub(crate) fn remove_holder(&mut self, id: HolderId) -> Option<Holder> {
        let gone = self.holders.remove(&id)?;
        if let Some(mailbox) = self.mailboxes.get_mut(&gone.owner) {
            mailbox.wanting.retain(|wanting| *wanting != id);
        }
        Some(gone)
    }

    fn close(&mut self, letter: &Letter) {
        let (owner, pair) = (letter.owner.instance, letter.pair_key());
        let pair = Some(&pair).filter(|_| !letter.is_notice());
        self.close_one(owner, letter.node, letter.size(), pair);
    }

    fn close_one(&mut self, owner: InstanceId, node: NodeId, size: usize, pair: Option<&PairKey>) {
        if let Some(mailbox) = self.mailboxes.get_mut(&owner) {
            mailbox.discharge(node, size);
        }
        if let Some(pair) = pair.and_then(|key| self.pairs.get_mut(key)) {
            pair.open -= 1;
            if pair.open == 0 {
                self.sources.entry(node).or_default().open_pairs -= 1;
            }
        }
    }

    fn forget_pair(&mut self, key: &PairKey) {
        if self.pairs.remove(key).is_some() {
            let source = self.sources.entry(key.node).or_default();
            source.pairs -= 1;
            if source.pairs == 0 && source.known.is_empty() {
                self.sources.remove(&key.node);
            }
        }
    }
}
