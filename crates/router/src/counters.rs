//! What was counted, and what the queues hold.

use identity::NodeId;

use crate::router::Router;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages of local agents that were accepted.
    pub accepted: u64,
    /// Messages of local agents that were refused at once.
    pub refused: u64,
    /// Offers made, again or for the first time.
    pub offered: u64,
    /// Messages that are known to be stored at their receiver.
    pub stored_there: u64,
    /// Messages of local agents that came to nothing.
    pub failed: u64,
    /// Messages that were stored here.
    pub received: u64,
    /// Messages that were here before.
    pub duplicates: u64,
    /// Messages from peers that were refused.
    pub refused_peers: u64,
    /// The part of them that a rate guard of the policy made wait.
    pub throttled: u64,
    /// Times that a message was shown.
    pub shown: u64,
    /// Acks.
    pub acked: u64,
    /// Messages to local agents that their senders took back.
    pub cancelled: u64,
    /// Chains of messages that were stopped here or, as their next gateway said, there.
    pub loops: u64,
    /// Messages to local agents that were given up.
    pub dead_letters: u64,
    /// Dead letters that were dropped, the oldest first, as there is no room for more.
    pub dead_letters_dropped: u64,
    /// Failure notices that found no room.
    pub notices_dropped: u64,
    /// Waiting messages that the disk could not give back.
    pub unreadable: u64,
    /// Frames that made no sense where they arrived.
    pub strays: u64,
}

/// What the queues hold now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Counts since the start.
    pub counters: Counters,
    /// Messages on their way.
    pub outbox_rows: usize,
    /// Their bytes.
    pub outbox_bytes: usize,
    /// Messages that wait for an ack.
    pub inbox_rows: usize,
    /// Their bytes.
    pub inbox_bytes: usize,
    /// Dead letters.
    pub dead_rows: usize,
    /// Token buckets that are kept.
    pub buckets: usize,
    /// Messages that wait for each peer.
    pub queued: Vec<(NodeId, usize)>,
}

impl Router {
    /// What the queues hold.
    pub fn stats(&self) -> Stats {
        Stats {
            counters: self.counters,
            outbox_rows: self.outbox.usage.values().map(|usage| usage.rows).sum(),
            outbox_bytes: self.outbox.usage.values().map(|usage| usage.bytes).sum(),
            inbox_rows: self
                .inbox
                .mailboxes
                .values()
                .map(|mailbox| mailbox.rows)
                .sum(),
            inbox_bytes: self
                .inbox
                .mailboxes
                .values()
                .map(|mailbox| mailbox.bytes)
                .sum(),
            dead_rows: self
                .outbox
                .usage
                .values()
                .map(|usage| usage.dead.len())
                .sum(),
            buckets: self.rates.count(),
            queued: self.queued(),
        }
    }

    /// How many messages wait for each other peer.
    pub fn queued(&self) -> Vec<(NodeId, usize)> {
        let others = self
            .outbox
            .peers
            .iter()
            .filter(|(node, _)| **node != self.node);
        others
            .filter(|(_, peer)| peer.queued > 0)
            .map(|(node, peer)| (*node, peer.queued))
            .collect()
    }
}
