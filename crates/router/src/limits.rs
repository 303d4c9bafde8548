//! The bounds of every queue, from messaging.md §4.2 unless a line says otherwise.

use std::time::Duration;

/// The longest time to live.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// The time to live where the agent names none.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// How far an id's time may be ahead.
pub const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);
/// How long after its expiry a message is still known again.
pub const DEDUPE_GRACE: Duration = Duration::from_secs(10 * 60);
/// Gateways that a message may cross.
pub const HOPS: u8 = 8;
/// Messages that lead to each other, one after the other.
pub const MAX_DEPTH: u8 = 16;
/// Of these, messages back and forth between the same two agents. Proposed by us: six rounds.
pub const MAX_BOUNCES: u8 = 12;
/// Messages that one may lead to, as far as they pass one gateway. Proposed by us: a request that is
/// shared out among fifty agents, and their answers.
pub const MAX_PER_ROOT: u32 = 100;

/// How long a message is hidden after it was shown, unless a heartbeat says otherwise.
pub const VISIBILITY: Duration = Duration::from_secs(30);
/// The longest that one heartbeat or hold may hide it.
pub const MAX_HOLD: Duration = Duration::from_secs(3600);
/// A message that was shown so often and never acked is a dead letter.
pub const MAX_ATTEMPTS: u32 = 5;

/// Messages of one inbox.
pub const INBOX_ROWS: usize = 1000;
/// Bytes of one inbox.
pub const INBOX_BYTES: usize = 64 << 20;
/// The part of an inbox that one node may fill: a quarter.
pub const INBOX_SHARE: usize = 4;
/// Letters at the head of one inbox that stay in memory; what waits behind them is on disk alone.
/// Proposed by us: what agents take at once.
pub const KEEP: usize = 64;
/// Letters that are read from the disk at once, over all inboxes. Proposed by us: one inbox's head.
pub const LOADS_ROWS: usize = 64;
/// Bytes of these from which on no more are asked for. Proposed by us: what is in flight to a peer.
pub const LOADS_BYTES: usize = 8 << 20;
/// Queues (pairs of a sending agent and an agent here) that one node may have open.
pub const PAIRS_PER_NODE: usize = 64;
/// Pairs of one node whose order is remembered; beyond, the node is throttled, never forgotten.
/// Proposed by us: 64 open ones, and 64 times as many that were used within a time to live.
pub const KNOWN_PAIRS_PER_NODE: usize = 4096;
/// Settled ids of one node that are remembered one by one. Beyond, the oldest are forgotten as
/// ids; the order of their pair still knows them again. Proposed by us: 2 MB of memory a node.
pub const KNOWN_IDS_PER_NODE: usize = 16_384;

/// Messages of one agent on their way. Proposed by us: ten inboxes.
pub const OUTBOX_ROWS: usize = 10_000;
/// Bytes of one agent on their way. Proposed by us: one inbox.
pub const OUTBOX_BYTES: usize = 64 << 20;
/// Requests of one agent that wait for an answer. Their answers have room beyond the inbox's
/// limit, so this is also the bound of that room. Proposed by us: one inbox.
pub const OPEN_REQUESTS: usize = 1000;
/// Settled messages of one agent whose state can still be asked for. Proposed by us: 2 MB of memory.
pub const SENT_ROWS: usize = 16_384;
/// Dead letters of one agent. Proposed by us.
pub const DEAD_ROWS: usize = 1000;
/// Bytes of dead letters of one agent. Proposed by us.
pub const DEAD_BYTES: usize = 16 << 20;

/// Messages offered to one peer and not yet stored there.
pub const IN_FLIGHT_ROWS: usize = 256;
/// The bytes of these.
pub const IN_FLIGHT_BYTES: usize = 8 << 20;

/// The first and the last step of the retry, with full jitter between.
pub const RETRY_MIN: Duration = Duration::from_millis(200);
/// See [`RETRY_MIN`].
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long an offer may stay unanswered at first on a stream that is up, before it is offered again.
/// Proposed by us: far above an fsync on a busy SD card, so that it means a lost answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The most that it may become on a link that was seen to be slow: a body of 256 KiB at 20 kbit/s.
pub const MAX_ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// How long a reply that its asker has already may wait for an fsync to share. Its sender keeps it for
/// that long, and a crash within it shows the reply once more. Proposed by us: longer than an agent
/// that asks again needs, shorter than anybody notices.
pub const LATE: Duration = Duration::from_millis(50);
