//! Who has a link here, told with damping: coming is told at once, going only when it lasted, so
//! that a link that breaks and comes back within [`DAMPING`] is not news to anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use identity::{NodeId, UnixTime};

/// How long a node must be gone before it is told (coordinator.md §3.2).
pub const DAMPING: Duration = Duration::from_secs(5);

/// The presence of every node that had a link since this process began.
#[derive(Debug, Default)]
pub struct Presence {
    nodes: BTreeMap<NodeId, Entry>,
    changed: BTreeSet<NodeId>,
}

#[derive(Debug)]
struct Entry {
    links: usize,
    told: bool,
    gone_at: Option<Instant>,
    last_seen: UnixTime,
}

impl Presence {
    /// A link of this node came up.
    pub fn handle_up(&mut self, node: NodeId, clock: UnixTime) {
        let entry = self.nodes.entry(node).or_insert(Entry {
            links: 0,
            told: false,
            gone_at: None,
            last_seen: clock,
        });
        entry.links += 1;
        entry.gone_at = None;
        entry.last_seen = clock;
        if !entry.told {
            entry.told = true;
            self.changed.insert(node);
        }
    }

    /// A link of this node went down.
    pub fn handle_down(&mut self, node: NodeId, now: Instant, clock: UnixTime) {
        if let Some(entry) = self.nodes.get_mut(&node) {
            entry.links = entry.links.saturating_sub(1);
            entry.last_seen = clock;
            if entry.links == 0 {
                entry.gone_at = Some(now);
            }
        }
    }

    /// Tells of nodes that stayed away.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (node, entry) in &mut self.nodes {
            if entry.gone_at.is_some_and(|gone| now >= gone + DAMPING) {
                entry.gone_at = None;
                entry.told = false;
                self.changed.insert(*node);
            }
        }
    }

    /// When [`Presence::handle_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.nodes
            .values()
            .filter_map(|entry| entry.gone_at)
            .min()
            .map(|gone| gone + DAMPING)
    }

    /// Forgets a node that is in the map no more.
    pub fn remove(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// The nodes whose presence changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    /// What to tell of a node: whether it is here, and when it was last seen.
    pub fn of(&self, node: NodeId, clock: UnixTime) -> Option<(bool, UnixTime)> {
        let entry = self.nodes.get(&node)?;
        Some((
            entry.told,
            if entry.links > 0 {
                clock
            } else {
                entry.last_seen
            },
        ))
    }

    /// Every node that is known to have been here.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    /// How many nodes have a link now.
    pub fn online(&self) -> usize {
        self.nodes.values().filter(|entry| entry.links > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_comes_back_within_the_damping_is_no_news() {
        let (start, clock, node) = (Instant::now(), UnixTime(100), NodeId([1; 16]));
        let mut presence = Presence::default();
        presence.handle_up(node, clock);
        assert_eq!(presence.take_changed().len(), 1);

        presence.handle_down(node, start, clock);
        presence.handle_up(node, clock);
        presence.handle_timeout(start + DAMPING);

        assert!(presence.take_changed().is_empty());
        assert_eq!(presence.deadline(), None);
    }

    #[test]
    fn a_node_that_stays_away_is_told_once() {
        let (start, clock, node) = (Instant::now(), UnixTime(100), NodeId([1; 16]));
        let mut presence = Presence::default();
        presence.handle_up(node, clock);
        presence.handle_up(node, clock);
        presence.take_changed();
        presence.handle_down(node, start, clock);
        assert_eq!(presence.deadline(), None, "its other link is up");

        presence.handle_down(node, start, UnixTime(105));
        presence.handle_timeout(start + DAMPING / 2);
        assert!(presence.take_changed().is_empty());
        presence.handle_timeout(start + DAMPING);

        assert_eq!(presence.take_changed().len(), 1);
        assert_eq!(
            presence.of(node, UnixTime(200)),
            Some((false, UnixTime(105)))
        );
    }
}
