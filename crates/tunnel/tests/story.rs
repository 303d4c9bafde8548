//! What two gateways live through together.

#[path = "pair/harness.rs"]
mod pair;

use identity::{NodeId, WireGuardKey};
use pair::{MS, Pair, RELAY, count, packet};
use tunnel::{DatagramError, Event, Link, PacketError, PeerConfig};

#[test]
fn both_send_at_once_and_one_session_carries_both_packets() {
    let mut pair = Pair::new();

    pair.send(0, 300).expect("queued");
    pair.send(1, 300).expect("queued");
    pair.run(200 * MS);

    assert_eq!([pair.delivered[0].len(), pair.delivered[1].len()], [1, 1]);
    assert_eq!(
        [pair.handshakes(0), pair.handshakes(1)],
        [1, 1],
        "the larger key's handshake won"
    );
}

#[test]
fn the_first_message_takes_the_relay_and_soon_all_is_direct() {
    let mut pair = Pair::new();

    pair.send(0, 300).expect("queued");
    pair.run(100 * MS);
    assert_eq!(
        pair.delivered[1].len(),
        1,
        "over the relay, after one round trip"
    );
    pair.run(1900 * MS);

    assert_eq!(
        [pair.kind(0), pair.kind(1)],
        ["direct", "direct"],
        "two seconds after the first message"
    );
    let good = Event::GoodAddress {
        peer: pair.nodes[1].id,
        remote: pair.nodes[1].addr,
    };
    assert_eq!(count(&pair.events[0], &good), 1);
    pair.wire.clear();
    pair.send(0, 1440).expect("sent");
    assert_eq!(pair.wire.len(), 1, "one datagram, straight");
    assert!(pair.wire[0].1.is_direct());
    assert_eq!(pair.wire[0].2, 1472, "a whole Ethernet frame");
}

#[test]
fn a_silently_dead_direct_path_costs_at_most_a_second() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);
    pair.cut = [true, true];
    pair.delivered[1].clear();
    let died = pair.now;

    while pair.delivered[1].is_empty() {
        pair.send(0, 300).expect("sent");
        pair.run(20 * MS);
        assert!(pair.now < died + 1200 * MS, "nothing arrives any more");
    }
    pair.run_talking(1000 * MS);

    assert_eq!([pair.kind(0), pair.kind(1)], ["relay", "relay"]);
    assert_eq!(pair.handshakes(0), 1, "the path died, not the session");
    pair.cut = [false, false];
    pair.run_talking(8000 * MS);
    assert_eq!([pair.kind(0), pair.kind(1)], ["direct", "direct"]);
}

#[test]
fn both_restart_with_the_beacon_dead_and_meet_again_at_their_last_addresses() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);
    pair.lose_relay();
    let good = [pair.nodes[0].addr, pair.nodes[1].addr];

    pair.restart(0);
    pair.restart(1);
    // Their NATs have forgotten them.
    pair.nodes.iter_mut().for_each(|side| side.opened.clear());
    pair.introduce(&[RELAY], &good);
    pair.run(6000 * MS);

    assert_eq!([pair.kind(0), pair.kind(1)], ["direct", "direct"]);
    pair.send(0, 300).expect("sent");
    pair.run(50 * MS);
    assert_eq!(pair.delivered[1].len(), 2);
}

#[test]
fn they_meet_again_though_one_starts_minutes_after_the_other() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);
    pair.lose_relay();
    let good = [pair.nodes[0].addr, pair.nodes[1].addr];

    pair.restart(0);
    let config = pair.nodes[1].as_peer(&[RELAY], &good);
    pair.nodes[0].tunnel.set_peers(&[config], pair.now);
    pair.cut = [false, true];
    pair.run(300_000 * MS);
    pair.cut = [false, false];
    pair.restart(1);
    let config = pair.nodes[0].as_peer(&[RELAY], &good);
    pair.nodes[1].tunnel.set_peers(&[config], pair.now);
    pair.run(13_000 * MS);

    assert_eq!([pair.kind(0), pair.kind(1)], ["direct", "direct"]);
}

#[test]
fn a_peer_that_restarts_is_found_again_by_who_keeps_sending() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);

    pair.restart(1);
    let config = pair.nodes[0].as_peer(&[RELAY], &[]);
    pair.nodes[1].tunnel.set_peers(&[config], pair.now);
    pair.nodes[1].tunnel.set_relays(&[RELAY], pair.now);
    pair.delivered[1].clear();
    for _ in 0..200 {
        pair.send(0, 300).expect("sent");
        pair.run(20 * MS);
    }

    assert!(!pair.delivered[1].is_empty());
    assert!(count(&pair.errors[1], &DatagramError::UnknownSession) > 0);
}

#[test]
fn a_peer_may_only_send_from_its_own_inner_address() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(100 * MS);
    // Node 1 comes to believe that node 0 has another address; node 0's true one is then foreign.
    let strange = PeerConfig {
        overlay: "fd11:2233:4455::bad".parse().expect("an address"),
        ..pair.nodes[0].as_peer(&[RELAY], &[])
    };
    pair.nodes[1].tunnel.set_peers(&[strange], pair.now);
    pair.delivered[1].clear();

    for _ in 0..250 {
        pair.send(0, 300).expect("sent");
        pair.run(20 * MS);
    }

    assert_eq!(pair.delivered[1].len(), 0);
    assert!(count(&pair.errors[1], &DatagramError::ForeignSource) > 0);
    let spoofed = packet(
        "fd11:2233:4455::bad".parse().expect("an address"),
        pair.nodes[1].overlay,
        4747,
        300,
    );
    assert_eq!(
        pair.send_packet(0, &spoofed),
        Err(PacketError::Malformed),
        "nor do we send such"
    );
}

#[test]
fn an_unknown_key_is_told_to_the_node_and_gets_no_answer() {
    let mut pair = Pair::new();
    let known = pair.nodes[0].as_peer(&[RELAY], &[]);
    let stranger = PeerConfig {
        wireguard: WireGuardKey::generate([77; 32]).public(),
        ..known
    };
    pair.nodes[1].tunnel.set_peers(&[stranger], pair.now);

    pair.send(0, 300).expect("queued");
    pair.run(200 * MS);

    let wireguard = pair.nodes[0].key.public();
    let link = Link::Relay {
        relay: RELAY,
        peer: pair.nodes[0].id,
    };
    assert!(count(&pair.events[1], &Event::UnknownPeer { wireguard, link }) > 0);
    assert!(pair.wire.iter().all(|(from, ..)| *from == 0), "silence");
}

#[test]
fn what_no_grant_allows_is_dropped_where_it_enters() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(100 * MS);
    let ssh = packet(pair.nodes[0].overlay, pair.nodes[1].overlay, 22, 300);

    pair.send_packet(0, &ssh).expect("sent");
    pair.run(100 * MS);
    assert_eq!(count(&pair.errors[1], &DatagramError::Denied), 1);
    let deny = policy::PacketFilter::deny_all();
    pair.nodes[1].tunnel.set_filter(deny, pair.now);
    pair.send(0, 300).expect("sent");
    pair.run(100 * MS);

    assert_eq!(pair.delivered[1].len(), 1, "only the first");
    assert_eq!(count(&pair.errors[1], &DatagramError::Denied), 2);
}

#[test]
fn large_packets_cross_a_relay_in_parts() {
    let mut pair = Pair::new();
    pair.cut = [true, true];
    pair.send(0, 300).expect("queued");
    pair.run(100 * MS);
    let mut large = pair.packet(0, 1440);
    large[100..]
        .iter_mut()
        .enumerate()
        .for_each(|(n, byte)| *byte = n.to_le_bytes()[0]);

    pair.send_packet(0, &large).expect("sent");
    pair.run(100 * MS);

    assert_eq!(pair.delivered[1].last(), Some(&large));
}

#[test]
fn packets_without_a_session_wait_and_their_number_is_bounded() {
    let mut pair = Pair::new();
    pair.relay = false;

    let refused = (0..1000)
        .filter(|_| pair.send(0, 300) == Err(PacketError::QueueFull))
        .count();

    assert_eq!(refused, 1000 - 256);
    let status = pair.nodes[0]
        .tunnel
        .status(pair.now)
        .next()
        .expect("one peer");
    assert_eq!((status.queued, status.dropped), (256, 744));
    pair.relay = true;
    pair.run(6000 * MS);
    assert_eq!(pair.delivered[1].len(), 256);
}

#[test]
fn a_ping_says_which_way_it_took_and_how_long() {
    let mut pair = Pair::new();

    assert!(pair.nodes[0].tunnel.ping(&pair.nodes[1].id, 42, pair.now));
    pair.drain();
    pair.run(200 * MS);

    let link = Link::Relay {
        relay: RELAY,
        peer: pair.nodes[1].id,
    };
    let pong = Event::Pong {
        peer: pair.nodes[1].id,
        token: 42,
        link,
        rtt: 40 * MS,
    };
    assert_eq!(count(&pair.events[0], &pong), 1);
    assert!(!pair.nodes[0].tunnel.ping(&NodeId([7; 16]), 43, pair.now));
}

#[test]
fn malformed_and_altered_datagrams_never_panic_and_never_deliver() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(100 * MS);
    let link = Link::Relay {
        relay: RELAY,
        peer: pair.nodes[0].id,
    };
    let delivered = pair.delivered[1].len();
    let now = pair.now;

    for kind in 0..=5u8 {
        for length in [
            0, 1, 3, 4, 15, 16, 31, 32, 64, 91, 92, 147, 148, 149, 1500, 9001,
        ] {
            let mut datagram = vec![kind; length];
            datagram
                .iter_mut()
                .skip(1)
                .take(3)
                .for_each(|byte| *byte = 0);
            let taken = pair.nodes[1]
                .tunnel
                .handle_datagram(&link, &mut datagram, now);
            assert!(taken.is_err(), "{kind} {length}");
        }
    }

    pair.drain();
    assert_eq!(pair.delivered[1].len(), delivered);
}

#[test]
fn a_peer_that_is_no_longer_listed_is_cut_off_at_once() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);

    pair.nodes[1].tunnel.set_peers(&[], pair.now);
    pair.delivered[1].clear();
    pair.send(0, 300).expect("sent");
    pair.run(100 * MS);

    assert_eq!(pair.delivered[1].len(), 0);
    let back = pair.packet(1, 300);
    assert_eq!(pair.send_packet(1, &back), Err(PacketError::NoRoute));
}

#[test]
fn a_peer_that_leaves_hears_our_router_and_nothing_is_taken_of_it() {
    let mut pair = Pair::new();
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);
    pair.delivered[0].clear();
    pair.delivered[1].clear();

    let leaving = PeerConfig {
        leaving: true,
        ..pair.nodes[0].as_peer(&[RELAY], &[])
    };
    pair.nodes[1].tunnel.set_peers(&[leaving], pair.now);
    pair.send(0, 300).expect("sent");
    pair.run(100 * MS);
    assert_eq!(pair.delivered[1].len(), 0, "though the filter has a grant");
    assert_eq!(count(&pair.errors[1], &DatagramError::Denied), 1);

    pair.nodes[1]
        .tunnel
        .set_filter(policy::PacketFilter::deny_all(), pair.now);
    pair.send(1, 300).expect("why it is cut off");
    let other = packet(pair.nodes[1].overlay, pair.nodes[0].overlay, 22, 300);
    assert_eq!(pair.send_packet(1, &other), Err(PacketError::Denied));
    pair.run(100 * MS);
    assert_eq!(pair.delivered[0].len(), 1);
}

#[test]
fn sparse_traffic_over_hours_makes_few_handshakes() {
    for every in [16_000, 60_000] {
        let mut pair = Pair::new();

        for _ in 0..3_600_000 / every {
            pair.send(0, 300).expect("sent or queued");
            pair.run(100 * MS);
            // Somebody answers, as QUIC would.
            pair.send(1, 100).expect("sent");
            pair.run((every - 100) * MS);
        }

        let handshakes = pair.handshakes(0);
        assert!(handshakes <= 40, "{handshakes} handshakes an hour");
    }
}

#[test]
fn keys_change_every_two_minutes_without_losing_a_packet() {
    let mut pair = Pair::new();

    pair.run_talking(400_000 * MS);

    let lost = (400_000 / 20) - pair.delivered[1].len();
    assert!(lost <= 2, "{lost} packets lost");
    assert!(
        (3..=5).contains(&pair.handshakes(0)),
        "{} handshakes",
        pair.handshakes(0)
    );
}
