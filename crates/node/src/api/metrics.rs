//! Metrics in Prometheus' text format (version 0.0.4).

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::Counters;
use crate::messages::Stats;

pub(super) fn text(api: &Counters, stats: &Stats) -> String {
    let mut text = String::with_capacity(4096);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let size = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
    let (router, counters) = (&stats.router, &stats.router.counters);
    for (kind, name, help, value) in [
        (
            "counter",
            "api_calls",
            "Calls of the local API.",
            count(&api.calls),
        ),
        (
            "counter",
            "api_unauthorized",
            "Calls without a valid token.",
            count(&api.unauthorized),
        ),
        (
            "counter",
            "api_throttled",
            "Calls beyond an agent's allowance.",
            count(&api.throttled),
        ),
        (
            "counter",
            "api_connections",
            "Connections to the local API.",
            count(&api.connections),
        ),
        (
            "counter",
            "messages_accepted",
            "Messages of local agents that were accepted.",
            counters.accepted,
        ),
        (
            "counter",
            "messages_refused",
            "Messages of local agents that were refused at once.",
            counters.refused,
        ),
        (
            "counter",
            "messages_offered",
            "Offers to peers, again or for the first time.",
            counters.offered,
        ),
        (
            "counter",
            "messages_stored_there",
            "Messages known to be stored at their receiver.",
            counters.stored_there,
        ),
        (
            "counter",
            "messages_failed",
            "Messages of local agents that came to nothing.",
            counters.failed,
        ),
        (
            "counter",
            "messages_received",
            "Messages that were stored here.",
            counters.received,
        ),
        (
            "counter",
            "messages_throttled",
            "Messages from peers that a rate guard made wait.",
            counters.throttled,
        ),
        (
            "gauge",
            "policy_buckets",
            "Token buckets of rate guards that are kept.",
            size(stats.router.buckets),
        ),
        (
            "counter",
            "messages_duplicates",
            "Messages that were here before.",
            counters.duplicates,
        ),
        (
            "counter",
            "messages_refused_peers",
            "Messages from peers that were refused.",
            counters.refused_peers,
        ),
        (
            "counter",
            "messages_shown",
            "Times that a message was shown to an agent.",
            counters.shown,
        ),
        (
            "counter",
            "messages_acked",
            "Acks of local agents.",
            counters.acked,
        ),
        (
            "counter",
            "messages_cancelled",
            "Messages to local agents that their senders took back.",
            counters.cancelled,
        ),
        (
            "counter",
            "loops_stopped",
            "Chains of messages that were stopped, here or by the gateway that they went to.",
            counters.loops,
        ),
        (
            "counter",
            "dead_letters",
            "Messages to local agents that were given up.",
            counters.dead_letters,
        ),
        (
            "counter",
            "dead_letters_dropped",
            "Dead letters dropped for want of room.",
            counters.dead_letters_dropped,
        ),
        (
            "counter",
            "notices_dropped",
            "Failure notices that found no room.",
            counters.notices_dropped,
        ),
        (
            "counter",
            "inbox_unreadable",
            "Waiting messages whose row in the spool could not be read.",
            counters.unreadable,
        ),
        (
            "counter",
            "frames_strays",
            "Frames from peers that made no sense.",
            counters.strays,
        ),
        (
            "gauge",
            "outbox_messages",
            "Messages on their way.",
            size(router.outbox_rows),
        ),
        (
            "gauge",
            "outbox_bytes",
            "Bytes of messages on their way.",
            size(router.outbox_bytes),
        ),
        (
            "gauge",
            "inbox_messages",
            "Messages that wait for an ack.",
            size(router.inbox_rows),
        ),
        (
            "gauge",
            "inbox_bytes",
            "Bytes of messages that wait for an ack.",
            size(router.inbox_bytes),
        ),
        (
            "gauge",
            "dead_letters_kept",
            "Dead letters that are kept.",
            size(router.dead_rows),
        ),
    ] {
        let total = if kind == "counter" { "_total" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "# HELP crabmesh_{name}{total} {help}\n# TYPE crabmesh_{name}{total} {kind}\ncrabmesh_{name}{total} {value}\n"
        );
    }
    text
}
