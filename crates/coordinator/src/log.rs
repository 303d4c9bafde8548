//! The map as a log of changes, compacted by key: each document stands at the place of its newest
//! version, so a reader that was away for an hour or a year resumes at its cursor and is sent every
//! key at most once. The log is as long as the mesh has members, whatever they did: that is its
//! bound. **Invariant:** nobody is told of a change before it is stored.

use std::collections::BTreeMap;

use bytes::Bytes;
use identity::{NodeId, UnixTime};
use wire::map::Cursor;

use crate::store::{Key, Loaded, Row, Write};

/// The changes of one coordinator database.
#[derive(Debug, Default)]
pub struct ChangeLog {
    epoch: u64,
    last: u64,
    stored: u64,
    changes: BTreeMap<u64, Change>,
    newest: BTreeMap<Key, u64>,
    removed: BTreeMap<NodeId, u64>,
}

/// What stands at one place of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The newest document of this key.
    Document(Key, Bytes),
    /// A node left the map.
    Removed(NodeId),
}

impl ChangeLog {
    /// The log as it was stored.
    pub fn restore(loaded: &Loaded) -> Self {
        let mut log = Self {
            epoch: loaded.epoch,
            ..Self::default()
        };
        for &(sequence, node) in &loaded.removed {
            log.removed.insert(node, sequence);
            log.changes.insert(sequence, Change::Removed(node));
        }
        for row in &loaded.rows {
            log.stand(row.sequence, row.key, row.bytes.clone());
        }
        log.last = log.changes.keys().next_back().copied().unwrap_or(0);
        log.stored = log.last;
        log
    }

    /// Appends a document that replaces the older one of its key.
    pub fn put(&mut self, key: Key, bytes: Bytes, now: UnixTime) -> Write {
        self.last += 1;
        self.stand(self.last, key, bytes.clone());
        Write::Put(Row {
            sequence: self.last,
            accepted_at: now,
            key,
            bytes,
        })
    }

    /// Takes a node out of the map; `None` where it was not in.
    pub fn remove(&mut self, node: NodeId) -> Option<Write> {
        let certificate = self.newest.remove(&Key::Certificate(node));
        let record = self.newest.remove(&Key::Record(node));
        for place in [certificate, record].into_iter().flatten() {
            self.changes.remove(&place);
        }
        certificate.or(record)?;
        if let Some(place) = self.removed.remove(&node) {
            self.changes.remove(&place);
        }
        self.last += 1;
        self.removed.insert(node, self.last);
        self.changes.insert(self.last, Change::Removed(node));
        Some(Write::Remove {
            sequence: self.last,
            node,
        })
    }

    /// Empties the log; its numbers go on.
    pub fn reset(&mut self) -> Write {
        self.changes.clear();
        self.newest.clear();
        self.removed.clear();
        Write::Reset
    }

    /// The place of the newest change, stored or not.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Everything up to this place is on disk.
    pub fn handle_stored(&mut self, through: u64) {
        self.stored = self.stored.max(through);
    }

    /// Where a reader stands that has read everything stored.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            sequence: self.stored,
        }
    }

    /// Where a reader resumes, or `None` where its cursor is of another database or of a future
    /// that was lost with a crash: then it is sent everything.
    pub fn resume(&self, cursor: Option<Cursor>) -> Option<u64> {
        let cursor = cursor?;
        (cursor.epoch == self.epoch && cursor.sequence <= self.stored).then_some(cursor.sequence)
    }

    /// The first stored change after this place.
    pub fn after(&self, place: u64) -> Option<(u64, &Change)> {
        if place >= self.stored {
            return None;
        }
        let (&place, change) = self.changes.range(place + 1..=self.stored).next()?;
        Some((place, change))
    }

    /// The newest document of this key with its place, once it is stored.
    pub fn newest(&self, key: Key) -> Option<(u64, &Bytes)> {
        let place = *self.newest.get(&key)?;
        match self.changes.get(&place)? {
            Change::Document(_, bytes) if place <= self.stored => Some((place, bytes)),
            _ => None,
        }
    }

    /// The place of the newest document of this key, stored or not; 0 where there is none.
    pub fn place(&self, key: Key) -> u64 {
        self.newest.get(&key).copied().unwrap_or(0)
    }

    /// Every node with a certificate in the map.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.newest.keys().filter_map(|key| match key {
            Key::Certificate(node) => Some(*node),
            _ => None,
        })
    }

    fn stand(&mut self, place: u64, key: Key, bytes: Bytes) {
        if let Some(older) = self.newest.insert(key, place) {
            self.changes.remove(&older);
        }
        self.changes.insert(place, Change::Document(key, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime(1_000);

    fn told(log: &ChangeLog, mut place: u64) -> Vec<String> {
        let mut told = Vec::new();
        while let Some((next, change)) = log.after(place) {
            place = next;
            told.push(match change {
                Change::Document(Key::Record(node), bytes) => format!("{node} {bytes:?}"),
                Change::Document(key, _) => format!("{key:?}"),
                Change::Removed(node) => format!("{node} removed"),
            });
        }
        told
    }

    #[test]
    fn a_reader_is_told_each_key_once_and_only_what_is_stored() {
        let mut log = ChangeLog::default();
        let node = NodeId([1; 16]);
        log.put(Key::Record(node), Bytes::from_static(b"a"), NOW);
        log.put(Key::Policy, Bytes::from_static(b"p"), NOW);
        log.handle_stored(log.last());
        log.put(Key::Record(node), Bytes::from_static(b"b"), NOW);

        assert_eq!(
            told(&log, 0),
            ["Policy"],
            "the record moved on and is not stored yet"
        );
        log.handle_stored(log.last());
        assert_eq!(told(&log, 0), ["Policy", "01010101 b\"b\""]);
        assert_eq!(told(&log, 2), ["01010101 b\"b\""]);
    }

    #[test]
    fn a_removal_is_told_explicitly_and_outlives_a_restart() {
        let mut log = ChangeLog::default();
        let node = NodeId([1; 16]);
        log.put(Key::Certificate(node), Bytes::from_static(b"c"), NOW);
        let write = log.remove(node);
        log.handle_stored(log.last());

        assert_eq!(write, Some(Write::Remove { sequence: 2, node }));
        assert_eq!(told(&log, 0), ["01010101 removed"]);
        assert_eq!(log.remove(node), None);

        let loaded = Loaded {
            epoch: 9,
            removed: vec![(2, node)],
            ..Loaded::default()
        };
        let again = ChangeLog::restore(&loaded);
        assert_eq!(told(&again, 1), ["01010101 removed"]);
        assert_eq!(
            again.resume(Some(Cursor {
                epoch: 9,
                sequence: 1
            })),
            Some(1)
        );
        assert_eq!(
            again.resume(Some(Cursor {
                epoch: 9,
                sequence: 3
            })),
            None
        );
        assert_eq!(
            again.resume(Some(Cursor {
                epoch: 8,
                sequence: 1
            })),
            None
        );
    }
}
