//! What waits for one destination: a queue for each sender, served in turn, so that one who sends
//! more than the destination can take drowns only itself.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use identity::NodeId;

/// Bounded by the datagrams that it holds.
#[derive(Debug, Default)]
pub struct FairQueue {
    senders: BTreeMap<NodeId, VecDeque<Bytes>>,
    turns: VecDeque<NodeId>,
    length: usize,
}

impl FairQueue {
    /// Adds a datagram. Where `limit` wait already, the oldest of whoever has most waiting goes,
    /// and that sender is returned.
    pub fn push(&mut self, from: NodeId, datagram: Bytes, limit: usize) -> Option<NodeId> {
        let loser = if self.length >= limit {
            self.drop_oldest()
        } else {
            None
        };
        let waiting = self.senders.entry(from).or_default();
        if waiting.is_empty() {
            self.turns.push_back(from);
        }
        waiting.push_back(datagram);
        self.length += 1;
        loser
    }

    /// The next datagram: each sender in turn, each in its own order.
    pub fn pop(&mut self) -> Option<Bytes> {
        let from = self.turns.pop_front()?;
        let waiting = self.senders.get_mut(&from)?;
        let datagram = waiting.pop_front();
        match waiting.is_empty() {
            true => drop(self.senders.remove(&from)),
            false => self.turns.push_back(from),
        }
        self.length -= usize::from(datagram.is_some());
        datagram
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn drop_oldest(&mut self) -> Option<NodeId> {
        let (from, waiting) = self
            .senders
            .iter_mut()
            .max_by_key(|(_, waiting)| waiting.len())?;
        let from = *from;
        waiting.pop_front()?;
        self.length -= 1;
        if waiting.is_empty() {
            self.senders.remove(&from);
            self.turns.retain(|turn| *turn != from);
        }
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOUD: NodeId = NodeId([1; 16]);
    const QUIET: NodeId = NodeId([2; 16]);

    fn datagram(n: u8) -> Bytes {
        Bytes::copy_from_slice(&[n])
    }

    #[test]
    fn a_loud_sender_drowns_only_itself() {
        let mut queue = FairQueue::default();
        queue.push(QUIET, datagram(200), 4);

        let losers: Vec<_> = (0..10)
            .filter_map(|n| queue.push(LOUD, datagram(n), 4))
            .collect();

        assert_eq!(losers, [LOUD; 7]);
        let left: Vec<u8> = std::iter::from_fn(|| queue.pop())
            .map(|bytes| bytes[0])
            .collect();
        assert_eq!(left, [200, 7, 8, 9]);
        assert!(queue.is_empty());
    }

    #[test]
    fn senders_take_turns_and_keep_their_order() {
        let mut queue = FairQueue::default();
        for (from, n) in [(LOUD, 0), (LOUD, 1), (LOUD, 2), (QUIET, 10), (QUIET, 11)] {
            assert_eq!(queue.push(from, datagram(n), 100), None);
        }

        let order: Vec<u8> = std::iter::from_fn(|| queue.pop())
            .map(|bytes| bytes[0])
            .collect();
        assert_eq!(order, [0, 10, 1, 11, 2]);
    }

    #[test]
    fn a_queue_of_one_holds_the_newest() {
        let mut queue = FairQueue::default();
        queue.push(LOUD, datagram(1), 1);

        assert_eq!(queue.push(QUIET, datagram(2), 1), Some(LOUD));
        assert_eq!(queue.pop(), Some(datagram(2)));
        assert_eq!(queue.pop(), None);
    }
}
