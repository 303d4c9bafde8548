//! Each rule of the flow table on its own; `model.rs` has them all at once.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::{Flows, MAX_FLOWS, MAX_PEER_FLOWS, MAX_REMOVALS, room};
use crate::packet::Header;
use crate::types::{DatagramError, FlowStatus};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    We,
    Peer,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Udp,
    Tcp(Flag),
    EchoRequest,
    EchoReply,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flag {
    Syn,
    SynAck,
    Ack,
    Fin,
    Reset,
}

impl Kind {
    pub(super) fn protocol(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp(_) => 6,
            Self::EchoRequest | Self::EchoReply => 58,
        }
    }
}

const WE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const SECOND: Duration = Duration::from_secs(1);
const DENIED: Result<(), DatagramError> = Err(DatagramError::Denied);

/// A packet between one of our ports and one of the peer's; an echo has both as its identifier.
pub(super) fn packet(from: Host, kind: Kind, ours: u16, theirs: u16) -> Vec<u8> {
    let (src, dst) = match from {
        Host::We => (ours, theirs),
        Host::Peer => (theirs, ours),
    };
    let ports = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    let id = (ours << 4 | theirs).to_be_bytes();
    let body = match kind {
        Kind::Udp => [&ports[..], &[0; 4]].concat(),
        Kind::Tcp(flag) => {
            let flags = match flag {
                Flag::Syn => 0x02,
                Flag::SynAck => 0x12,
                Flag::Ack => 0x10,
                Flag::Fin => 0x11,
                Flag::Reset => 0x14,
            };
            [&ports[..], &[0; 8], &[0x50, flags], &[0; 6]].concat()
        }
        Kind::EchoRequest => [&[128, 0, 0, 0][..], &id, &[0; 2]].concat(),
        Kind::EchoReply => [&[129, 0, 0, 0][..], &id, &[0; 2]].concat(),
    };
    inner(from, kind.protocol(), &body)
}

/// The peer's error about this packet: port unreachable (RFC 4443 §3.1).
pub(super) fn error(quoted: &[u8]) -> Vec<u8> {
    inner(
        Host::Peer,
        58,
        &[&[1, 4, 0, 0, 0, 0, 0, 0], quoted].concat(),
    )
}

fn inner(from: Host, protocol: u8, body: &[u8]) -> Vec<u8> {
    let (src, dst) = match from {
        Host::We => (WE, PEER),
        Host::Peer => (PEER, WE),
    };
    let length = u16::try_from(body.len()).expect("small");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([protocol, 64]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    packet.extend(body);
    packet
}

/// A table, its clock, and a filter that allows our ports of a list.
struct World {
    flows: Flows,
    now: Instant,
    allowed: Vec<u16>,
}

impl World {
    fn new() -> Self {
        Self::with_room(100)
    }

    fn with_room(room: usize) -> Self {
        Self {
            flows: Flows::new(room),
            now: Instant::now(),
            allowed: Vec::new(),
        }
    }

    fn allow(&mut self, ours: &[u16]) {
        self.allowed = ours.to_vec();
        let allowed = &self.allowed;
        self.flows
            .handle_filter(|packet| allowed.contains(&packet.dst_port), self.now);
    }

    fn out(&mut self, kind: Kind, ours: u16, theirs: u16) {
        let packet = packet(Host::We, kind, ours, theirs);
        let header = Header::parse(&packet).expect("a packet");
        self.flows.handle_outbound(&header, self.now);
    }

    fn enter(&mut self, kind: Kind, ours: u16, theirs: u16) -> Result<(), DatagramError> {
        self.enter_packet(&packet(Host::Peer, kind, ours, theirs))
    }

    fn enter_packet(&mut self, packet: &[u8]) -> Result<(), DatagramError> {
        let header = Header::parse(packet).expect("a packet");
        let allowed = &self.allowed;
        self.flows.handle_inbound(
            &header,
            |packet| allowed.contains(&packet.dst_port),
            self.now,
        )
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn status(&self) -> FlowStatus {
        self.flows.status(self.now)
    }

    /// We open a connection, and the peer accepts it.
    fn connect(&mut self, ours: u16, theirs: u16) {
        self.out(Kind::Tcp(Flag::Syn), ours, theirs);
        assert_eq!(self.enter(Kind::Tcp(Flag::SynAck), ours, theirs), Ok(()));
        self.out(Kind::Tcp(Flag::Ack), ours, theirs);
    }

    /// The peer opens one, and we accept it.
    fn accept(&mut self, ours: u16, theirs: u16) {
        assert_eq!(self.enter(Kind::Tcp(Flag::Syn), ours, theirs), Ok(()));
        self.out(Kind::Tcp(Flag::SynAck), ours, theirs);
        assert_eq!(self.enter(Kind::Tcp(Flag::Ack), ours, theirs), Ok(()));
    }
}

#[test]
fn a_reply_passes_without_a_grant_and_nothing_else_does() {
    let mut world = World::new();

    world.out(Kind::Udp, 5000, 53);

    assert_eq!(world.enter(Kind::Udp, 5000, 53), Ok(()));
    assert_eq!(world.enter(Kind::Udp, 5000, 54), DENIED, "another port");
    assert_eq!(world.enter(Kind::Udp, 5001, 53), DENIED);
    assert_eq!(world.enter(Kind::Tcp(Flag::Syn), 5000, 53), DENIED);
    assert_eq!((world.status().local, world.status().remote), (1, 0));
}

#[test]
fn what_the_filter_allows_passes_and_is_the_peers() {
    let mut world = World::new();
    world.allow(&[80]);

    world.accept(80, 4000);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), Ok(()));

    assert_eq!((world.status().local, world.status().remote), (0, 2));
}

#[test]
fn a_change_of_policy_cuts_what_the_peer_opened_and_leaves_what_we_opened() {
    let mut world = World::new();
    world.allow(&[80, 443]);
    world.accept(80, 4000);
    world.accept(443, 4000);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), Ok(()));
    world.connect(5000, 22);

    world.allow(&[443]);

    assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 80, 4000), DENIED);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), DENIED);
    assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 443, 4000), Ok(()));
    assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 5000, 22), Ok(()));
    let status = world.status();
    assert_eq!((status.local, status.remote, status.cut), (1, 1, 2));
}

#[test]
fn our_answers_do_not_bring_back_what_was_cut() {
    let mut world = World::new();
    world.allow(&[80]);
    world.accept(80, 4000);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), Ok(()));
    world.out(Kind::Udp, 80, 4000);
    world.allow(&[]);

    // Our host knows nothing of it, and goes on for longer than any timeout of datagrams.
    for _ in 0..100 {
        world.out(Kind::Udp, 80, 4000);
        world.out(Kind::Tcp(Flag::Ack), 80, 4000);
        world.pass(60 * SECOND);
        assert_eq!(world.enter(Kind::Udp, 80, 4000), DENIED);
        assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 80, 4000), DENIED);
    }

    assert_eq!((world.status().local, world.status().remote), (0, 0));
    world.allow(&[80]);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), Ok(()), "allowed again");
    assert_eq!((world.status().local, world.status().remote), (0, 1));
}

#[test]
fn once_cut_and_silent_the_ports_are_free_for_us() {
    let mut world = World::new();
    world.allow(&[80]);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), Ok(()));
    world.pass(100 * SECOND);
    world.allow(&[]);

    // Its time runs from the cut, and the peer's attempts do not count.
    world.pass(100 * SECOND);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), DENIED);
    world.out(Kind::Udp, 80, 4000);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), DENIED, "we answered");
    world.pass(299 * SECOND);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), DENIED);
    world.pass(SECOND);
    world.out(Kind::Udp, 80, 4000);

    assert_eq!(world.enter(Kind::Udp, 80, 4000), Ok(()), "we asked");
}

#[test]
fn the_middle_of_a_connection_opens_nothing_of_ours() {
    let mut world = World::new();

    for flag in [Flag::SynAck, Flag::Ack, Flag::Fin, Flag::Reset] {
        world.out(Kind::Tcp(flag), 80, 4000);
        assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 80, 4000), DENIED);
    }

    assert_eq!(world.status().local, 0);
}

#[test]
fn a_connection_of_ours_does_not_let_the_peer_open_another() {
    let mut world = World::new();

    world.out(Kind::Tcp(Flag::Syn), 5000, 5000);
    assert_eq!(
        world.enter(Kind::Tcp(Flag::Syn), 5000, 5000),
        Ok(()),
        "both at once"
    );
    world.out(Kind::Tcp(Flag::SynAck), 5000, 5000);
    world.out(Kind::Tcp(Flag::Ack), 5000, 5000);

    assert_eq!(world.enter(Kind::Tcp(Flag::Syn), 5000, 5000), DENIED);
    assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 5000, 5000), Ok(()));
    world.out(Kind::Tcp(Flag::Reset), 5000, 5000);
    assert_eq!(world.enter(Kind::Tcp(Flag::Syn), 5000, 5000), DENIED);
    world.allow(&[5000]);
    world.accept(5000, 5000);
    assert_eq!(
        (world.status().local, world.status().remote),
        (0, 1),
        "who asks for it has opened it"
    );
}

#[test]
fn each_phase_ends_after_its_own_silence() {
    type Begin = fn(&mut World);
    let phases: [(&str, u64, Kind, Begin); 7] = [
        ("half-open", 240, Kind::Tcp(Flag::SynAck), |world| {
            world.out(Kind::Tcp(Flag::Syn), 5000, 1);
        }),
        ("standing", 7440, Kind::Tcp(Flag::Ack), |world| {
            world.connect(5000, 1);
        }),
        ("half-closed", 7440, Kind::Tcp(Flag::Ack), |world| {
            world.connect(5000, 1);
            world.out(Kind::Tcp(Flag::Fin), 5000, 1);
        }),
        ("closed", 240, Kind::Tcp(Flag::Ack), |world| {
            world.connect(5000, 1);
            world.out(Kind::Tcp(Flag::Fin), 5000, 1);
            assert_eq!(world.enter(Kind::Tcp(Flag::Fin), 5000, 1), Ok(()));
        }),
        ("reset", 240, Kind::Tcp(Flag::Ack), |world| {
            world.connect(5000, 1);
            assert_eq!(world.enter(Kind::Tcp(Flag::Reset), 5000, 1), Ok(()));
        }),
        ("unanswered", 120, Kind::Udp, |world| {
            world.out(Kind::Udp, 5000, 1);
        }),
        ("answered", 300, Kind::Udp, |world| {
            world.out(Kind::Udp, 5000, 1);
            assert_eq!(world.enter(Kind::Udp, 5000, 1), Ok(()));
        }),
    ];
    for (name, seconds, reply, begin) in phases {
        let mut world = World::new();
        begin(&mut world);

        world.pass(Duration::from_secs(seconds) - Duration::from_millis(1));
        assert_eq!(world.status().local, 1, "{name}");
        world.pass(Duration::from_millis(1));

        assert_eq!(world.status().local, 0, "{name}");
        assert_eq!(world.enter(reply, 5000, 1), DENIED, "{name}");
    }
}

#[test]
fn a_peer_alone_cannot_keep_a_flow_of_ours_alive() {
    let mut world = World::new();
    world.out(Kind::Udp, 5000, 53);

    let mut entered = 0;
    for _ in 0..1000 {
        world.pass(SECOND);
        entered += usize::from(world.enter(Kind::Udp, 5000, 53).is_ok());
    }

    assert_eq!(entered, 300, "the first answer counts, no other");
    world.out(Kind::Udp, 5000, 53);
    for _ in 0..10 {
        world.pass(100 * SECOND);
        assert_eq!(world.enter(Kind::Udp, 5000, 53), Ok(()));
        world.out(Kind::Udp, 5000, 53);
    }
}

#[test]
fn an_echo_is_answered_to_who_asked_and_asks_nothing_back() {
    let mut world = World::new();

    world.out(Kind::EchoRequest, 0, 7);
    assert_eq!(world.enter(Kind::EchoReply, 0, 7), Ok(()));
    assert_eq!(world.enter(Kind::EchoRequest, 0, 7), DENIED);
    assert_eq!(
        world.enter(Kind::EchoReply, 0, 8),
        DENIED,
        "another identifier"
    );
    world.out(Kind::EchoReply, 0, 8);
    assert_eq!(world.enter(Kind::EchoReply, 0, 8), DENIED);
    world.pass(60 * SECOND);

    assert_eq!(world.enter(Kind::EchoReply, 0, 7), DENIED);
}

#[test]
fn an_error_passes_for_what_it_quotes_and_for_nothing_else() {
    let mut world = World::new();
    // ICMP is granted, which makes no error true.
    world.allow(&[0, 80]);
    world.out(Kind::Udp, 5000, 53);
    assert_eq!(world.enter(Kind::Udp, 80, 4000), Ok(()));
    let ours = packet(Host::We, Kind::Udp, 5000, 53);
    let answer = packet(Host::We, Kind::Udp, 80, 4000);

    assert_eq!(world.enter_packet(&error(&ours)), Ok(()));
    assert_eq!(world.enter_packet(&error(&answer)), Ok(()));
    assert_eq!(world.enter_packet(&error(&ours[..48])), Ok(()), "cut off");
    for strange in [
        packet(Host::We, Kind::Udp, 5000, 54),
        packet(Host::Peer, Kind::Udp, 5000, 53),
        packet(Host::We, Kind::Tcp(Flag::Syn), 5000, 53),
        error(&ours),
        ours[..43].to_vec(),
        Vec::new(),
    ] {
        assert_eq!(world.enter_packet(&error(&strange)), DENIED, "{strange:x?}");
    }
    let mut elsewhere = error(&ours);
    elsewhere[39] = 9;
    assert_eq!(world.enter_packet(&elsewhere), DENIED, "not to who sent it");
    world.allow(&[0]);
    assert_eq!(world.enter_packet(&error(&answer)), DENIED, "cut");
    world.pass(119 * SECOND);
    assert_eq!(world.enter_packet(&error(&ours)), Ok(()));
    world.pass(SECOND);
    assert_eq!(
        world.enter_packet(&error(&ours)),
        DENIED,
        "errors keep nothing alive"
    );
}

#[test]
fn fragments_do_not_enter_whatever_is_granted() {
    let mut world = World::new();
    world.allow(&[0, 80]);
    world.out(Kind::Udp, 5000, 53);

    let first = [17, 0, 0, 1, 0, 0, 0, 7, 0, 53, 0x13, 0x88, 0, 8, 0, 0];
    assert_eq!(world.enter_packet(&inner(Host::Peer, 44, &first)), DENIED);
}

#[test]
fn the_routers_port_is_in_no_flow() {
    let mut world = World::new();

    for (ours, theirs) in [(4747, 4747), (5000, 4747), (4747, 53)] {
        world.out(Kind::Udp, ours, theirs);
        assert_eq!(world.enter(Kind::Udp, ours, theirs), DENIED);
        let ours = packet(Host::We, Kind::Udp, ours, theirs);
        assert_eq!(world.enter_packet(&error(&ours)), DENIED);
    }
    world.allow(&[4747]);
    assert_eq!(world.enter(Kind::Udp, 4747, 4747), Ok(()));

    assert_eq!((world.status().local, world.status().remote), (0, 0));
}

#[test]
fn what_has_no_ports_answers_to_the_filter_alone() {
    let mut world = World::new();
    let gre = |from| inner(from, 47, &[0; 8]);
    let header = gre(Host::We);
    let header = Header::parse(&header).expect("a packet");

    world.flows.handle_outbound(&header, world.now);

    assert_eq!(world.enter_packet(&gre(Host::Peer)), DENIED);
    world.allow(&[0]);
    assert_eq!(world.enter_packet(&gre(Host::Peer)), Ok(()));
    assert_eq!((world.status().local, world.status().remote), (0, 0));
}

#[test]
fn a_flood_of_the_peer_takes_its_own_room_and_none_of_ours() {
    let mut world = World::with_room(8);
    world.allow(&[80]);
    for ours in 5000..5008 {
        world.out(Kind::Udp, ours, 53);
    }

    let entered = (10_000..20_000u16)
        .filter(|theirs| world.enter(Kind::Udp, 80, *theirs).is_ok())
        .count();

    assert_eq!(entered, 8);
    assert_eq!(
        world.enter(Kind::Udp, 80, 9999),
        Err(DatagramError::TooManyFlows)
    );
    let status = world.status();
    assert_eq!((status.local, status.remote), (8, 8));
    assert_eq!((status.refused, status.evicted), (9993, 0));
    for ours in 5000..5008 {
        assert_eq!(world.enter(Kind::Udp, ours, 53), Ok(()));
    }
}

#[test]
fn a_flow_that_made_room_opens_no_way_round_the_policy() {
    let mut world = World::with_room(2);
    world.allow(&[80]);

    for theirs in 0..100 {
        world.accept(80, theirs);
    }
    world.allow(&[]);
    for theirs in 0..100 {
        world.out(Kind::Tcp(Flag::Ack), 80, theirs);
        assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 80, theirs), DENIED);
    }

    assert_eq!((world.status().evicted, world.status().cut), (98, 2));
    assert_eq!(world.status().local, 0);
}

#[test]
fn without_room_what_nobody_answered_gives_way_and_what_stands_does_not() {
    let mut world = World::with_room(3);
    world.connect(5000, 1);
    world.connect(5001, 1);
    world.out(Kind::Udp, 5002, 1);

    world.out(Kind::Udp, 5003, 1);
    assert_eq!(world.enter(Kind::Udp, 5002, 1), DENIED, "it gave way");
    assert_eq!(world.enter(Kind::Udp, 5003, 1), Ok(()));
    world.out(Kind::Tcp(Flag::Syn), 5004, 1);

    assert_eq!(world.enter(Kind::Tcp(Flag::SynAck), 5004, 1), DENIED);
    assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 5000, 1), Ok(()));
    assert_eq!(world.enter(Kind::Tcp(Flag::Ack), 5001, 1), Ok(()));
    let status = world.status();
    assert_eq!((status.local, status.evicted, status.refused), (3, 1, 1));
    world.pass(300 * SECOND);
    world.out(Kind::Udp, 5005, 1);
    assert_eq!(world.enter(Kind::Udp, 5005, 1), Ok(()), "one timed out");
}

#[test]
fn a_table_is_bounded_though_nothing_ever_asks_for_the_ended() {
    let mut world = World::with_room(50);
    world.allow(&[80]);

    for round in 0..200u16 {
        for n in 0..40 {
            world.out(Kind::Udp, 5000 + n, round);
            let _ = world.enter(Kind::Udp, 80, round * 40 + n);
        }
        world.pass(121 * SECOND);
    }

    assert!(world.flows.index.len() <= 100);
    assert_eq!(world.status().refused, 0);
    assert_eq!((world.status().local, world.status().remote), (0, 0));
}

#[test]
fn a_table_that_has_too_many_shrinks_as_others_open() {
    let mut world = World::with_room(100);
    for ours in 0..100 {
        world.out(Kind::Udp, ours, 53);
    }

    world.flows.set_room(10);
    for ours in 0..20 {
        world.out(Kind::Udp, 1000 + ours, 53);
    }

    assert_eq!(world.status().local, 10);
    assert!(world.status().evicted >= 100 / MAX_REMOVALS as u64);
}

#[test]
fn all_peers_together_have_a_bounded_number_in_equal_shares() {
    assert_eq!([room(0), room(1), room(16)], [MAX_PEER_FLOWS; 3]);
    for peers in [17, 100, 1000, MAX_FLOWS] {
        assert!(room(peers) * peers <= MAX_FLOWS && room(peers) > 0);
    }
    assert_eq!(room(usize::MAX), 1);
}
