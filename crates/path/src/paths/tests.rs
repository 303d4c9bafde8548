//! Two peers' paths against each other, over a relay and a direct link that can be cut.

use super::*;

const RELAY: NodeId = NodeId([9; 16]);
const MS: Duration = Duration::from_millis(1);

#[test]
fn data_goes_over_the_relay_first_and_straight_once_that_is_proven() {
    let mut world = World::new();

    world.meet();
    assert_eq!(world.kind(0), "relay");
    world.run(1000 * MS);

    assert_eq!([world.kind(0), world.kind(1)], ["direct", "direct"]);
    assert_eq!(
        world.size(0),
        1440,
        "the ladder found the whole Ethernet frame"
    );
    assert!(world.good.contains(&world.addrs[1]));
}

#[test]
fn a_direct_path_that_dies_silently_gives_way_to_the_relay_within_a_second() {
    let mut world = World::direct();
    world.cut = [true, true];
    let died = world.now;

    while world.kind(0) == "direct" {
        world.talk();
        world.run(20 * MS);
        assert!(world.now < died + 1200 * MS, "still on the dead path");
    }

    let twice = world.copied_at.expect("data was sent twice meanwhile");
    assert!(twice <= died + 400 * MS);
    world.cut = [false, false];
    world.run_talking(10_000 * MS);
    assert_eq!(world.kind(0), "direct", "the path came back after its rest");
}

#[test]
fn a_path_that_is_cut_one_way_is_left_by_both() {
    let mut world = World::direct();
    world.cut = [true, false];

    world.run_talking(1200 * MS);

    assert_eq!([world.kind(0), world.kind(1)], ["relay", "relay"]);
}

#[test]
fn a_path_that_drops_large_packets_never_takes_over() {
    let mut world = World::new();
    world.mtu = 1000;

    world.meet();
    world.run_talking(60_000 * MS);

    assert_eq!(world.kind(0), "relay");
}

#[test]
fn a_path_that_begins_to_drop_large_packets_is_left_although_small_ones_pass() {
    let mut world = World::direct();
    world.mtu = 1000;

    world.run_talking(24_000 * MS);

    assert_eq!(world.kind(0), "relay");
}

#[test]
fn an_idle_direct_path_falls_silent_and_the_next_packet_looks_for_it_again() {
    let mut world = World::direct();

    world.run(310_000 * MS);
    assert_eq!(world.kind(0), "relay");
    let before = world.sent;
    world.run(600_000 * MS);
    assert_eq!(world.sent, before, "nothing is sent for an idle peer");
    world.talk();
    world.run(1000 * MS);

    assert_eq!(world.kind(0), "direct");
}

#[test]
fn an_active_direct_path_is_kept_alive_every_twenty_seconds() {
    let mut world = World::direct();
    let before = world.sent;

    world.run(100_000 * MS);

    let packets = world.sent - before;
    assert!(
        (16..=28).contains(&packets),
        "{packets} packets: two sides, a probe and an answer each"
    );
}

#[test]
fn without_a_beacon_the_direct_path_is_kept_alive_every_twelve_seconds_for_hours() {
    let mut world = World::direct();
    world.lose_beacon();
    world.run(1000 * MS);
    let before = world.sent;

    world.run(3_600_000 * MS);

    assert_eq!([world.kind(0), world.kind(1)], ["direct", "direct"]);
    let packets = world.sent - before;
    assert!(
        (1100..=1300).contains(&packets),
        "{packets} packets in an hour"
    );
}

#[test]
fn losing_the_beacon_while_relayed_looks_for_the_direct_path_at_once() {
    let mut world = World::new();
    world.cut = [true, true];
    world.meet();
    world.run_talking(30_000 * MS);
    assert_eq!(world.kind(0), "relay");

    world.cut = [false, false];
    world.lose_beacon();
    world.run(2000 * MS);

    assert_eq!([world.kind(0), world.kind(1)], ["direct", "direct"]);
}

#[test]
fn a_late_datagram_does_not_bring_a_lost_relay_back() {
    let mut world = World::new();
    world.cut = [true, true];
    world.meet();
    world.run(500 * MS);
    let link = world.relay_link(0);

    world.lose_beacon();
    world.peers[0].handle_heard(&link, world.now);

    assert_eq!(world.kind(0), "none");
}

#[test]
fn an_unreachable_link_is_left_at_once() {
    let mut world = World::direct();
    let link = Link::Direct {
        remote: world.addrs[1],
    };

    world.peers[0].handle_link_error(&link, world.now);

    assert_eq!(world.kind(0), "relay");
}

#[test]
fn probing_an_address_that_never_answers_ends() {
    let mut world = World::new();
    world.cut = [true, true];

    world.meet();
    let before = world.probes_cut;
    world.run_talking(300_000 * MS);

    let probes = (world.probes_cut - before) / 2;
    assert!(probes <= 12 * 5, "{probes} probes in five minutes");
}

#[test]
fn a_hostile_list_of_candidates_makes_few_probes() {
    let start = Instant::now();
    let mut paths = World::paths(0, start);
    paths.set_relays(&[RELAY], &[RELAY], start);
    paths.handle_session(start);

    let mut probes = 0;
    for epoch in 0..50 {
        let now = start + Duration::from_secs(u64::from(epoch));
        let victim = (1000..1100).map(|port| Candidate {
            addr: (
                [203, 0, 113, 1],
                port + u16::try_from(epoch).expect("small"),
            )
                .into(),
            kind: path_kind(),
        });
        paths.handle_candidates(epoch, victim, now);
        for tick in 0..50 {
            paths.handle_timeout(now + tick * 20 * MS);
            while let Some(action) = paths.poll_action() {
                probes += usize::from(matches!(
                    action,
                    Action::Probe {
                        link: Link::Direct { .. },
                        ..
                    }
                ));
            }
        }
        assert!(paths.pairs.len() <= Paths::MAX_PAIRS);
    }

    assert!(
        probes <= 120,
        "{probes} probes to one host in fifty seconds"
    );
}

fn path_kind() -> wire::probe::CandidateKind {
    wire::probe::CandidateKind::Host
}

/// Two peers, 10 ms apart straight and 15 ms over the relay.
struct World {
    now: Instant,
    peers: [Paths; 2],
    addrs: [SocketAddr; 2],
    flight: Vec<(Instant, usize, Link, Packet)>,
    /// Whether what peer 0, peer 1 sends straight is lost.
    cut: [bool; 2],
    mtu: usize,
    epoch: u32,
    sent: usize,
    probes_cut: usize,
    good: Vec<SocketAddr>,
    copied_at: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Packet {
    Probe(Probe, usize),
    Ack(ProbeAck),
    Candidates(u32),
    Note(Note),
    Data,
}

impl World {
    fn paths(n: u8, now: Instant) -> Paths {
        let reach = Reach {
            allow_loopback: false,
            overlay: "fd00::1".parse().expect("an address"),
        };
        Paths::new(
            PathsConfig {
                peer: NodeId([n; 16]),
                reach,
            },
            u64::from(n),
            now,
        )
    }

    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            peers: [Self::paths(1, now), Self::paths(0, now)],
            addrs: [([198, 51, 100, 1], 1).into(), ([203, 0, 113, 1], 1).into()],
            flight: Vec::new(),
            cut: [false, false],
            mtu: 1500,
            epoch: 1,
            sent: 0,
            probes_cut: 0,
            good: Vec::new(),
            copied_at: None,
        }
    }

    /// Both have a relay and a session.
    fn meet(&mut self) {
        for n in 0..2 {
            self.peers[n].set_relays(&[RELAY], &[RELAY], self.now);
            let link = self.relay_link(n);
            self.peers[n].handle_heard(&link, self.now);
            self.peers[n].handle_session(self.now);
            self.act(n);
        }
    }

    fn direct() -> Self {
        let mut world = Self::new();
        world.meet();
        world.run(2000 * MS);
        assert_eq!([world.kind(0), world.kind(1)], ["direct", "direct"]);
        world
    }

    fn lose_beacon(&mut self) {
        for n in 0..2 {
            self.peers[n].set_relays(&[], &[], self.now);
            self.act(n);
        }
    }

    fn relay_link(&self, n: usize) -> Link {
        Link::Relay {
            relay: RELAY,
            peer: self.peers[n].config.peer,
        }
    }

    fn kind(&self, n: usize) -> &'static str {
        match self.peers[n].primary() {
            Some(Link::Direct { .. }) => "direct",
            Some(Link::Relay { .. }) => "relay",
            None => "none",
        }
    }

    fn size(&self, n: usize) -> usize {
        self.peers[n].route().map_or(0, |route| route.size)
    }

    /// Both sides send one packet of data.
    fn talk(&mut self) {
        for n in 0..2 {
            self.peers[n].handle_app(self.now);
            self.act(n);
            if let Some(route) = self.peers[n].route() {
                self.peers[n].handle_sent(1200, self.now);
                self.send(n, route.link, Packet::Data, 1200);
                if let Some(copy) = route.copy {
                    self.copied_at.get_or_insert(self.now);
                    self.send(n, copy, Packet::Data, 1100);
                }
            }
        }
    }

    fn run_talking(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.talk();
            self.run(50 * MS);
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let timeouts = self.peers.iter().filter_map(Paths::poll_timeout);
            let arrivals = self.flight.iter().map(|(at, ..)| *at);
            let Some(next) = timeouts.chain(arrivals).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let due = |(at, ..): &mut (Instant, usize, Link, Packet)| *at <= self.now;
            let arrived: Vec<_> = self.flight.extract_if(.., due).collect();
            for (_, to, link, packet) in arrived {
                self.receive(to, link, packet);
            }
            for n in 0..2 {
                self.peers[n].handle_timeout(self.now);
                self.act(n);
                let again = self.peers[n].poll_timeout();
                assert!(
                    again.is_none_or(|at| at > self.now),
                    "due again at once: {again:?}"
                );
            }
        }
        self.now = end;
    }

    fn receive(&mut self, n: usize, link: Link, packet: Packet) {
        let now = self.now;
        let peer = &mut self.peers[n];
        peer.handle_heard(&link, now);
        match packet {
            Packet::Probe(probe, size) => {
                let received = u16::try_from(size).expect("small");
                let ack = ProbeAck {
                    pair: probe.pair,
                    sequence: probe.sequence,
                    sent_us: probe.sent_us,
                    received,
                    observed: link.remote(),
                };
                peer.handle_probe(&link, now);
                self.send_back(n, link, Packet::Ack(ack), 80);
            }
            Packet::Ack(ack) => peer.handle_ack(&link, &ack, now),
            Packet::Candidates(epoch) => {
                let addr = self.addrs[1 - n];
                peer.handle_candidates(
                    epoch,
                    [Candidate {
                        addr,
                        kind: path_kind(),
                    }]
                    .into_iter(),
                    now,
                );
            }
            Packet::Note(note) => peer.handle_note(note, now),
            Packet::Data => {}
        }
        self.act(n);
    }

    fn send_back(&mut self, n: usize, link: Link, packet: Packet, size: usize) {
        let link = match link {
            Link::Direct { .. } => Link::Direct {
                remote: self.addrs[1 - n],
            },
            Link::Relay { .. } => self.relay_link(n),
        };
        self.send(n, link, packet, size);
    }

    fn act(&mut self, n: usize) {
        while let Some(action) = self.peers[n].poll_action() {
            match action {
                Action::Probe { link, probe, size } => {
                    if self.peers[n].primary() == Some(link) {
                        self.peers[n].handle_sent(size, self.now);
                    }
                    self.send(n, link, Packet::Probe(probe, size), size);
                }
                Action::Note(note) => self.send_routed(n, Packet::Note(note)),
                Action::TellCandidates => self.send_routed(n, Packet::Candidates(self.epoch)),
                Action::Good(remote) => self.good.push(remote),
                Action::Changed { .. } => {}
            }
        }
    }

    fn send_routed(&mut self, n: usize, packet: Packet) {
        if let Some(route) = self.peers[n].route() {
            self.send(n, route.link, packet, 100);
        }
    }

    fn send(&mut self, n: usize, link: Link, packet: Packet, size: usize) {
        self.sent += 1;
        let from = match link {
            Link::Direct { .. } if self.cut[n] || size > self.mtu => {
                self.probes_cut += usize::from(matches!(packet, Packet::Probe(..)));
                return;
            }
            Link::Direct { .. } => Link::Direct {
                remote: self.addrs[n],
            },
            Link::Relay { .. } => self.relay_link(1 - n),
        };
        let latency = if link.is_direct() { 10 * MS } else { 15 * MS };
        self.flight.push((self.now + latency, 1 - n, from, packet));
    }
}
