use std::net::Ipv4Addr;

use super::*;

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const A: NodeId = NodeId([0xa; 16]);
const B: NodeId = NodeId([0xb; 16]);

fn small() -> Limits {
    Limits {
        queue: 4,
        strangers: 8,
        strangers_per_address: 2,
        connections_per_address: 3,
        ..Limits::default()
    }
}

fn member(core: &mut Core, node: NodeId, ip: u8, now: Instant) -> ConnectionId {
    let id = core
        .handle_arrival(Ipv4Addr::new(198, 51, 100, ip).into(), now)
        .expect("room");
    core.handle_admitted(
        id,
        &Admission {
            who: Who::Member(node),
            restricted: None,
        },
    );
    id
}

fn frames(core: &mut Core, id: ConnectionId, now: Instant) -> (Vec<BeaconFrame>, Option<Instant>) {
    let mut out = Vec::new();
    let due = core.take_frames(id, now, &mut out);
    (out, due)
}

fn dropped(node: NodeId, count: u32) -> BeaconFrame {
    BeaconFrame::Gone {
        node,
        reason: GoneReason::Dropped { count },
    }
}

fn absent(node: NodeId) -> BeaconFrame {
    BeaconFrame::Gone {
        node,
        reason: GoneReason::NotConnected,
    }
}

#[test]
fn a_datagram_arrives_with_its_sender_s_id_before_it() {
    let now = Instant::now();
    let mut core = Core::new(small());
    let (a, b) = (member(&mut core, A, 1, now), member(&mut core, B, 2, now));

    let wake = core.handle_datagram(a, B, b"x", now);

    assert_eq!(wake.datagrams, Some(b));
    assert_eq!(
        core.take_datagram(b),
        Some([&A.0[..], b"x"].concat().into())
    );
    assert_eq!(core.take_datagram(b), None);
}

#[test]
fn strangers_operators_and_the_restricted_neither_send_nor_receive() {
    let now = Instant::now();
    let mut core = Core::new(small());
    let a = member(&mut core, A, 1, now);
    let stranger = core.handle_arrival(HOME, now).expect("room");
    let operator = core.handle_arrival(HOME, now).expect("room");
    core.handle_admitted(
        operator,
        &Admission {
            who: Who::Operator,
            restricted: None,
        },
    );
    let restricted = core.handle_arrival(HOME, now).expect("room");
    let expired = Admission {
        who: Who::Member(B),
        restricted: Some(wire::link::Refusal::Expired),
    };
    core.handle_admitted(restricted, &expired);

    for id in [stranger, operator, restricted] {
        assert_eq!(core.handle_datagram(id, A, b"x", now), Wake::default());
        assert_eq!(
            core.handle_introduction(id, A, Bytes::new(), Bytes::new(), now),
            Wake::default()
        );
    }
    core.handle_datagram(a, B, b"x", now);

    assert_eq!(core.take_datagram(a), None);
    assert_eq!(core.take_datagram(restricted), None);
    assert_eq!(core.counts().forbidden, 6);
    assert_eq!(frames(&mut core, a, now).0, [absent(B)]);
}

#[test]
fn the_newest_connection_of_a_node_is_the_one_that_is_reached() {
    let now = Instant::now();
    let mut core = Core::new(small());
    let (a, older) = (member(&mut core, A, 1, now), member(&mut core, B, 2, now));
    let newer = core.handle_arrival(HOME, now).expect("room");

    let replaced = core.handle_admitted(
        newer,
        &Admission {
            who: Who::Member(B),
            restricted: None,
        },
    );
    core.handle_closed(older);
    let wake = core.handle_datagram(a, B, b"x", now);

    assert_eq!(replaced, Some(older));
    assert_eq!(wake.datagrams, Some(newer));
}

#[test]
fn a_full_queue_drops_the_oldest_and_the_sender_hears_how_many() {
    let now = Instant::now();
    let mut core = Core::new(small());
    let (a, b) = (member(&mut core, A, 1, now), member(&mut core, B, 2, now));

    let woken = (0..10u8)
        .filter(|n| core.handle_datagram(a, B, &[*n], now).frames == Some(a))
        .count();

    assert_eq!(woken, 1, "told once, until it has taken what there is");
    assert_eq!(frames(&mut core, a, now).0, [dropped(B, 6)]);
    let left: Vec<u8> = std::iter::from_fn(|| core.take_datagram(b))
        .map(|d| d[16])
        .collect();
    assert_eq!(left, [6, 7, 8, 9]);
    assert_eq!(core.counts().dropped, 6);
}

#[test]
fn a_sender_is_told_at_once_and_then_once_a_second() {
    let start = Instant::now();
    let mut core = Core::new(small());
    let a = member(&mut core, A, 1, start);

    core.handle_datagram(a, B, b"x", start);
    assert_eq!(
        frames(&mut core, a, start),
        (vec![absent(B)], Some(start + REPORT_EVERY))
    );
    core.handle_datagram(a, B, b"x", start);
    assert_eq!(frames(&mut core, a, start).0, []);
    let later = start + REPORT_EVERY;
    assert_eq!(frames(&mut core, a, later).0, [absent(B)]);
    assert_eq!(frames(&mut core, a, later + REPORT_EVERY), (vec![], None));
}

#[test]
fn an_address_has_its_share_of_strangers_and_of_connections() {
    let now = Instant::now();
    let mut core = Core::new(small());
    let other: IpAddr = Ipv4Addr::new(192, 0, 2, 2).into();

    let first = core.handle_arrival(HOME, now).expect("room");
    let second = core.handle_arrival(HOME, now).expect("room");
    assert_eq!(core.handle_arrival(HOME, now), Err(Full));
    assert!(core.handle_arrival(other, now).is_ok());
    for (id, node) in [(first, A), (second, B)] {
        core.handle_admitted(
            id,
            &Admission {
                who: Who::Member(node),
                restricted: None,
            },
        );
    }
    let third = core
        .handle_arrival(HOME, now)
        .expect("proved clients are no strangers");
    assert_eq!(core.handle_arrival(HOME, now), Err(Full));
    core.handle_closed(third);
    assert!(core.handle_arrival(HOME, now).is_ok());
    assert_eq!(core.counts().turned_away, 2);
}

#[test]
fn an_ipv6_network_counts_as_one_address() {
    let now = Instant::now();
    let mut core = Core::new(small());

    assert!(
        core.handle_arrival("2001:db8::1".parse().expect("literal"), now)
            .is_ok()
    );
    assert!(
        core.handle_arrival("2001:db8::2".parse().expect("literal"), now)
            .is_ok()
    );
    assert!(
        core.handle_arrival("2001:db8::3".parse().expect("literal"), now)
            .is_err()
    );
    assert!(
        core.handle_arrival("2001:db8:0:1::3".parse().expect("literal"), now)
            .is_ok()
    );
}

#[test]
fn many_strangers_make_it_busy_and_their_leaving_frees_it() {
    let now = Instant::now();
    let mut core = Core::new(small());

    let ids: Vec<_> = (0..8u8)
        .map(|n| {
            core.handle_arrival(Ipv4Addr::new(10, 0, 0, n).into(), now)
                .expect("room")
        })
        .collect();
    assert!(core.is_busy());
    assert_eq!(core.handle_arrival(HOME, now), Err(Full));
    ids.into_iter().for_each(|id| core.handle_closed(id));

    assert!(!core.is_busy());
    assert_eq!(core.counts().strangers, 0);
    assert_eq!(core.counts().refused, 8);
}

#[test]
fn who_sends_beyond_its_share_is_told_to_rest() {
    let now = Instant::now();
    let mut core = Core::new(Limits {
        bytes_per_second: 1000,
        burst: 1000,
        ..small()
    });
    let a = member(&mut core, A, 1, now);
    member(&mut core, B, 2, now);

    assert_eq!(
        core.handle_datagram(a, B, &[0; 1000], now).pause,
        Duration::ZERO
    );
    assert_eq!(
        core.handle_datagram(a, B, &[0; 500], now).pause,
        Duration::from_millis(500)
    );
}

#[test]
fn introductions_pass_within_their_size_and_number() {
    let now = Instant::now();
    let mut core = Core::new(small());
    let (a, b) = (member(&mut core, A, 1, now), member(&mut core, B, 2, now));
    let paper = |length: usize| Bytes::from(vec![1; length]);

    let wake = core.handle_introduction(a, B, paper(1000), paper(200), now);
    assert_eq!(wake.frames, Some(b));
    let long = core.handle_introduction(a, B, paper(MAX_INTRODUCTION), paper(1), now);
    assert_eq!(long.frames, None);
    let passed = (0..1000).filter(|_| {
        core.handle_introduction(a, B, paper(1), paper(1), now)
            .frames
            .is_some()
    });

    assert_eq!(passed.count(), FRAMES - 1);
    let introduced = BeaconFrame::Introduced {
        from: A,
        certificate: paper(1000),
        record: paper(200),
    };
    assert_eq!(frames(&mut core, b, now).0[0], introduced);
}
