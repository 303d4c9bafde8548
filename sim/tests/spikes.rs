//! What boringtun's control half does on a virtual clock, and that ours copes: the spikes that the
//! tunnel was built on, kept as tests.
//!
//! Under `mock-instant` a new `Tunn` stamps its handshakes from the real clock plus its own virtual
//! age: a node that restarts after an hour of virtual time stamps an hour behind. That is exactly a
//! node whose clock was set back.

#[path = "../../crates/tunnel/tests/pair/harness.rs"]
mod pair;

use std::time::Duration;

use mock_instant::MockClock;
use pair::{MS, Pair, RELAY};

fn virtual_pair() -> Pair {
    MockClock::set_time(Duration::ZERO);
    let mut pair = Pair::new();
    pair.on_time = MockClock::set_time;
    pair
}

fn hours(n: u32) -> Duration {
    Duration::from_secs(3600) * n
}

/// Node `n` starts again: same keys, a clock that stands where it stood when the world began.
fn restart_with_clock_set_back(pair: &mut Pair, n: usize) {
    pair.restart(n);
    let peer = pair.nodes[1 - n].as_peer(&[RELAY], &[]);
    let now = pair.now;
    pair.nodes[n].tunnel.set_peers(&[peer], now);
    pair.nodes[n].tunnel.set_relays(&[RELAY], now);
    pair.drain();
}

#[test]
fn both_start_at_the_same_virtual_instant_and_share_one_session() {
    let mut pair = virtual_pair();

    pair.send(0, 300).expect("queued");
    pair.send(1, 300).expect("queued");
    pair.run(500 * MS);

    assert_eq!([pair.delivered[0].len(), pair.delivered[1].len()], [1, 1]);
    assert_eq!([pair.handshakes(0), pair.handshakes(1)], [1, 1]);
}

#[test]
fn both_start_at_once_without_a_relay_behind_two_nats() {
    let mut pair = virtual_pair();
    pair.lose_relay();
    let good = [pair.nodes[0].addr, pair.nodes[1].addr];
    pair.restart(0);
    pair.restart(1);

    pair.introduce(&[RELAY], &good);
    pair.run(6000 * MS);

    assert_eq!([pair.kind(0), pair.kind(1)], ["direct", "direct"]);
}

#[test]
fn a_one_way_outage_ends_with_the_outage() {
    for deaf in 0..2 {
        let mut pair = virtual_pair();
        pair.send(0, 300).expect("queued");
        pair.run(2000 * MS);
        pair.lose_relay();
        pair.cut[1 - deaf] = true;

        pair.run_talking(300_000 * MS);
        let before = pair.handshakes(0) + pair.handshakes(1);
        pair.cut = [false, false];
        pair.run_talking(6000 * MS);

        assert_eq!(
            [pair.kind(0), pair.kind(1)],
            ["direct", "direct"],
            "deaf: {deaf}"
        );
        assert!(before <= 6, "{before} handshakes while it lasted");
        let received = [pair.delivered[0].len(), pair.delivered[1].len()];
        pair.run_talking(1000 * MS);
        assert!(
            pair.delivered[0].len() >= received[0] + 45
                && pair.delivered[1].len() >= received[1] + 45
        );
    }
}

#[test]
fn a_node_whose_clock_was_set_back_by_an_hour_is_called_by_its_peer() {
    for n in 0..2 {
        let mut pair = virtual_pair();
        pair.send(0, 300).expect("queued");
        pair.run(2000 * MS);
        pair.run(hours(1));
        // A session of the last minutes, so that the peer remembers the later stamp.
        pair.send(n, 300).expect("queued");
        pair.run(2000 * MS);

        restart_with_clock_set_back(&mut pair, n);
        let received = pair.delivered[1 - n].len();
        pair.send(n, 300).expect("queued");
        pair.run(5000 * MS);

        assert_eq!(
            pair.delivered[1 - n].len(),
            received + 1,
            "node {n} was locked out"
        );
    }
}

#[test]
fn a_day_of_sparse_traffic_makes_no_more_handshakes_than_its_keys_need() {
    for every in [16, 60, 300] {
        let mut pair = virtual_pair();
        for _ in 0..24 * 3600 / every {
            pair.send(0, 300).expect("sent or queued");
            pair.run(100 * MS);
            pair.send(1, 100).expect("sent or queued");
            pair.run(Duration::from_secs(every) - 100 * MS);
        }

        let messages = usize::try_from(24 * 3600 / every).expect("small");
        let handshakes = pair.handshakes(0) / 24;
        assert!(
            handshakes <= 40,
            "{handshakes} handshakes an hour, a message each {every} s"
        );
        assert!(pair.delivered[1].len() >= messages - 1);
    }
}

#[test]
fn a_day_of_silence_sends_nothing_and_the_next_message_arrives() {
    let mut pair = virtual_pair();
    pair.send(0, 300).expect("queued");
    pair.run(400_000 * MS);
    pair.wire.clear();

    pair.run(hours(24));
    assert_eq!(pair.wire.len(), 0);
    pair.send(0, 300).expect("queued");
    pair.run(1000 * MS);

    assert_eq!(pair.delivered[1].len(), 2);
    assert_eq!([pair.kind(0), pair.kind(1)], ["direct", "direct"]);
}

#[test]
fn a_day_without_beacon_keeps_the_direct_path_and_few_handshakes() {
    let mut pair = virtual_pair();
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);
    pair.lose_relay();

    pair.run(hours(23));

    assert_eq!([pair.kind(0), pair.kind(1)], ["direct", "direct"]);
    let handshakes = pair.handshakes(0) / 23;
    assert!(handshakes <= 40, "{handshakes} handshakes an hour");
    pair.send(1, 300).expect("sent");
    pair.run(20 * MS);
    assert_eq!(pair.delivered[0].len(), 1);
}
