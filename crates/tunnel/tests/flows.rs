//! What two gateways and their hosts live through under `ip` grants: replies pass, the rest asks the
//! filter of the gateway that it enters.

#[path = "pair/harness.rs"]
mod pair;

use std::time::Duration;

use pair::{MS, Pair, count, filter_under};
use policy::PacketFilter;
use tunnel::{DatagramError, FlowStatus};

const BEGIN: &str = r#"{
  "tagOwners": {"tag:home": ["ana@example.com"]},
  "grants": [{"src": ["agent:*@tag:home"], "dst": ["agent:*@tag:home"], "msg": ["send"]},
             {"src": ["gw-a"], "dst": ["gw-b"], "ip": ["#;
const END: &str = "]}]}";

/// Node 0 is `gw-a`, which may use these ports of `gw-b`, node 1; nothing may be used the other way.
fn pair_with(ports: &str) -> Pair {
    let mut pair = Pair::new();
    grant(&mut pair, ports);
    pair.send(0, 300).expect("queued");
    pair.run(2000 * MS);
    assert_eq!([pair.kind(0), pair.kind(1)], ["direct", "direct"]);
    pair.delivered = Default::default();
    pair
}

/// From now on these, at both.
fn grant(pair: &mut Pair, ports: &str) {
    for n in 0..2 {
        let filter = filter_under(&format!("{BEGIN}{ports}{END}"), &pair.nodes, n);
        pair.nodes[n].tunnel.set_filter(filter, pair.now);
    }
}

/// Node `n` sends, from one port to another; says whether it arrived.
fn udp(pair: &mut Pair, n: usize, from: u16, to: u16) -> bool {
    let body = [
        from.to_be_bytes(),
        to.to_be_bytes(),
        [0, 12],
        [0, 0],
        *b"da",
        *b"ta",
    ]
    .concat();
    let packet = inner(pair, n, 17, &body);
    arrives(pair, n, &packet)
}

/// Node `n` sends a TCP segment with these flags.
fn tcp(pair: &mut Pair, n: usize, from: u16, to: u16, flags: u8) -> bool {
    let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let body = [&ports[..], &[0; 8], &[0x50, flags], &[0; 6]].concat();
    let packet = inner(pair, n, 6, &body);
    arrives(pair, n, &packet)
}

fn echo(pair: &mut Pair, n: usize, kind: u8, id: u8) -> bool {
    let packet = inner(pair, n, 58, &[kind, 0, 0, 0, 0, id, 0, 1]);
    arrives(pair, n, &packet)
}

fn arrives(pair: &mut Pair, n: usize, packet: &[u8]) -> bool {
    let before = pair.delivered[1 - n].len();
    pair.send_packet(n, packet).expect("sent");
    pair.run(20 * MS);
    let new = &pair.delivered[1 - n][before..];
    assert!(new.iter().all(|arrived| arrived == packet));
    !new.is_empty()
}

fn inner(pair: &Pair, n: usize, protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("small");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol, 64]);
    packet.extend(pair.nodes[n].overlay.octets());
    packet.extend(pair.nodes[1 - n].overlay.octets());
    packet.extend(body);
    packet
}

fn flows(pair: &Pair, n: usize) -> FlowStatus {
    let status = pair.nodes[n].tunnel.status(pair.now).next();
    status.expect("one peer").flows
}

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

#[test]
fn replies_pass_one_way_without_a_grant_back() {
    let mut pair = pair_with(r#""tcp:22", "udp:53", "ipv6-icmp:*""#);

    assert!(!udp(&mut pair, 1, 53, 4999), "nothing was asked");
    assert!(udp(&mut pair, 0, 5000, 53));
    assert!(udp(&mut pair, 1, 53, 5000));
    assert!(tcp(&mut pair, 0, 5000, 22, SYN));
    assert!(tcp(&mut pair, 1, 22, 5000, SYN_ACK));
    assert!(tcp(&mut pair, 0, 5000, 22, ACK));
    assert!(tcp(&mut pair, 1, 22, 5000, ACK));
    assert!(echo(&mut pair, 0, 128, 1));
    assert!(echo(&mut pair, 1, 129, 1));
    assert_eq!((flows(&pair, 0).local, flows(&pair, 0).remote), (3, 0));
    let theirs = flows(&pair, 1);
    assert_eq!(
        (theirs.local, theirs.remote),
        (1, 3),
        "the unasked one is its own"
    );
}

#[test]
fn what_answers_nothing_is_dropped_and_counted() {
    let mut pair = pair_with(r#""tcp:22""#);
    assert!(tcp(&mut pair, 0, 5000, 22, SYN));

    assert!(!tcp(&mut pair, 1, 5000, 22, SYN), "there is no grant back");
    assert!(
        !tcp(&mut pair, 1, 22, 5001, SYN_ACK),
        "to a port that did not ask"
    );
    assert!(!udp(&mut pair, 1, 22, 5000));
    assert!(!echo(&mut pair, 1, 128, 1));
    assert!(!tcp(&mut pair, 0, 5000, 23, SYN));

    assert_eq!(count(&pair.errors[0], &DatagramError::Denied), 4);
    assert_eq!(count(&pair.errors[1], &DatagramError::Denied), 1);
    let status = pair.nodes[0].tunnel.status(pair.now).next();
    assert_eq!(status.expect("one peer").dropped, 4);
}

#[test]
fn a_change_of_policy_cuts_a_connection_under_way() {
    let mut pair = pair_with(r#""tcp:22", "udp:53""#);
    assert!(tcp(&mut pair, 0, 5000, 22, SYN));
    assert!(tcp(&mut pair, 1, 22, 5000, SYN_ACK));
    assert!(tcp(&mut pair, 0, 5000, 22, ACK));
    assert!(udp(&mut pair, 0, 5000, 53));
    assert_eq!((flows(&pair, 0).local, flows(&pair, 1).remote), (2, 2));

    grant(&mut pair, r#""udp:9""#);

    assert_eq!((flows(&pair, 1).cut, flows(&pair, 1).remote), (2, 0));
    assert!(!tcp(&mut pair, 0, 5000, 22, ACK));
    // The server's host goes on answering. Its packets arrive, as node 0 asked for them, and bring
    // nothing back.
    for _ in 0..30 {
        assert!(udp(&mut pair, 1, 53, 5000));
        assert!(tcp(&mut pair, 1, 22, 5000, ACK));
        assert!(!udp(&mut pair, 0, 5000, 53));
        assert!(!tcp(&mut pair, 0, 5000, 22, ACK));
        pair.run(Duration::from_secs(30));
    }
    assert_eq!(flows(&pair, 1).local, 0);
}

#[test]
fn what_we_opened_outlives_a_change_of_our_policy_until_we_fall_silent() {
    let mut pair = pair_with(r#""udp:53""#);
    assert!(udp(&mut pair, 0, 5000, 53));
    pair.nodes[0]
        .tunnel
        .set_filter(PacketFilter::deny_all(), pair.now);

    assert!(udp(&mut pair, 1, 53, 5000));
    pair.run(Duration::from_secs(299));
    assert!(udp(&mut pair, 1, 53, 5000));
    pair.run(Duration::from_secs(10));

    assert!(!udp(&mut pair, 1, 53, 5000));
    assert_eq!(flows(&pair, 0).cut, 0);
}

#[test]
fn the_routers_packets_pass_by_their_grants_and_are_no_flow() {
    let mut pair = pair_with(r#""udp:53""#);
    pair.run_talking(500 * MS);
    let before = pair.delivered[0].len();
    assert!(before > 0);

    pair.nodes[0]
        .tunnel
        .set_filter(PacketFilter::deny_all(), pair.now);
    pair.run_talking(500 * MS);

    assert_eq!(pair.delivered[0].len(), before, "though node 0 sends");
    assert_eq!(flows(&pair, 0).local, 0);
}

#[test]
fn a_hostile_flood_stays_in_bounds_and_costs_us_nothing_of_ours() {
    let mut pair = pair_with(r#""udp:*""#);
    // Node 1 has something open itself, which node 0 is to be glad to answer.
    let filter = filter_under(
        r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}"#,
        &pair.nodes,
        0,
    );
    pair.nodes[0].tunnel.set_filter(filter, pair.now);
    assert!(udp(&mut pair, 1, 6000, 6001));

    for from in 10_000..20_000u16 {
        let body = [from.to_be_bytes(), [0, 53], [0, 8], [0, 0]].concat();
        let packet = inner(&pair, 0, 17, &body);
        pair.send_packet(0, &packet).expect("sent");
        if from % 100 == 0 {
            pair.run(20 * MS);
        }
    }
    pair.run(20 * MS);

    let status = flows(&pair, 1);
    assert_eq!((status.remote, status.local), (4096, 1));
    assert_eq!((status.refused, status.evicted), (10_000 - 4096, 0));
    assert_eq!(pair.delivered[1].len(), 4096);
    let refused = count(&pair.errors[1], &DatagramError::TooManyFlows);
    assert_eq!(refused, 10_000 - 4096);
    grant(&mut pair, r#""udp:9""#);
    assert!(udp(&mut pair, 0, 6001, 6000), "our own goes on");
    assert_eq!(flows(&pair, 1).cut, 4096);
}

#[test]
fn a_peer_that_is_dropped_takes_its_flows_along() {
    let mut pair = pair_with(r#""udp:53""#);
    assert!(udp(&mut pair, 0, 5000, 53));

    pair.nodes[0].tunnel.set_peers(&[], pair.now);
    let peer = pair.nodes[1].as_peer(&[pair::RELAY], &[]);
    pair.nodes[0].tunnel.set_peers(&[peer], pair.now);

    assert_eq!(flows(&pair, 0), FlowStatus::default());
}
