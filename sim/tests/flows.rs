//! Two real tunnels, hosts that send whatever they like, policies that change at any moment: nothing
//! ever enters that neither the filter allows nor the receiver asked for, and what it asked for does.
//!
//! The judge knows the history of the two hosts and the timeouts of the RFCs, and nothing of the flow
//! table. A seed decides everything: `FLOW_SEED=7` replays one, `FLOW_SEEDS=1000` runs more.

#[path = "../../crates/tunnel/tests/pair/harness.rs"]
mod pair;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mock_instant::MockClock;
use pair::{MS, Pair, filter_under};
use path::Random;
use policy::{InnerPacket, PacketFilter};

#[test]
fn nothing_enters_that_is_neither_allowed_nor_an_answer() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("FLOW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLOW_SEEDS").unwrap_or(30),
    };
    let mut told = Told::default();
    for seed in seeds {
        told.add(&Run::new(seed).finish());
    }
    println!("{told:?}");
    assert!(
        told.allowed > 0 && told.answers > 0 && told.refused > 0 && told.cut > 0,
        "a run in which something never happens shows nothing: {told:?}"
    );
}

/// What happened.
#[derive(Debug, Default)]
struct Told {
    allowed: u64,
    answers: u64,
    refused: u64,
    cut: u64,
}

/// One seed.
struct Run {
    seed: u64,
    random: Random,
    pair: Pair,
    filters: [PacketFilter; 2],
    /// What each node saw of a conversation: protocol, its port, the other's.
    histories: [BTreeMap<(u8, u16, u16), History>; 2],
    told: Told,
}

/// A conversation, as one node saw it.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    /// When it last sent something, and something that opens: a datagram, a SYN.
    sent: Option<Instant>,
    asked: Option<Instant>,
    /// When it last sent or took in something.
    last: Option<Instant>,
    /// The other began, by leave of the filter, and it was never silent since for so long that
    /// anybody could have forgotten it.
    theirs: bool,
    /// It began itself, likewise.
    ours: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        MockClock::set_time(Duration::ZERO);
        let mut pair = Pair::new();
        pair.on_time = MockClock::set_time;
        pair.send(0, 300).expect("queued");
        pair.run(2000 * MS);
        let mut run = Self {
            seed,
            random: Random::new(seed),
            pair,
            filters: [PacketFilter::deny_all(), PacketFilter::deny_all()],
            histories: Default::default(),
            told: Told::default(),
        };
        (0..2).for_each(|n| run.change_policy(n));
        run
    }

    fn finish(mut self) -> Told {
        for _ in 0..300 {
            match self.below(20) {
                0 => {
                    let n = self.one_of([0, 1]);
                    self.change_policy(n);
                }
                1 => {
                    let seconds = self.one_of([10, 50, 115, 130, 290, 310, 500, 8000]);
                    self.pair.run(Duration::from_secs(seconds));
                }
                _ => {
                    let n = self.one_of([0, 1]);
                    self.send(n);
                }
            }
        }
        for n in 0..2 {
            let status = self.pair.nodes[n].tunnel.status(self.pair.now).next();
            self.told.cut += status.expect("one peer").flows.cut;
        }
        self.told
    }

    /// Node `n` allows some ports of its own from now on.
    fn change_policy(&mut self, n: usize) {
        let grant = self.one_of([
            r#""udp:1""#,
            r#""udp:1", "tcp:1""#,
            r#""udp:2", "tcp:1-2""#,
            r#""tcp:3""#,
            r#""*""#,
        ]);
        let (src, dst) = [("gw-b", "gw-a"), ("gw-a", "gw-b")][n];
        let text =
            format!(r#"{{"grants": [{{"src": ["{src}"], "dst": ["{dst}"], "ip": [{grant}]}}]}}"#);
        let filter = filter_under(&text, &self.pair.nodes, n);
        self.pair.nodes[n]
            .tunnel
            .set_filter(filter.clone(), self.pair.now);
        self.filters[n] = filter;
    }

    /// Node `n` sends something, whether it makes sense or not, and the other's gateway decides.
    fn send(&mut self, n: usize) {
        let protocol = self.one_of([6, 17]);
        let (from, to) = (1 + self.below(3), 1 + self.below(3));
        let flags = self.one_of([SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST]);
        let packet = self.packet(n, protocol, from, to, flags);
        let (now, to_node) = (self.pair.now, 1 - n);
        let seen = self.pair.delivered[to_node].len();
        self.pair.send_packet(n, &packet).expect("sent or queued");
        self.pair.run(500 * MS);
        let entered = self.pair.delivered[to_node][seen..].contains(&packet);

        let opens = protocol == 17 || flags == SYN;
        self.history(n, (protocol, from, to))
            .handle_sent(opens, now);
        let inner = InnerPacket {
            src: IpAddr::V6(self.pair.nodes[n].overlay),
            dst: IpAddr::V6(self.pair.nodes[to_node].overlay),
            protocol,
            src_port: from,
            dst_port: to,
        };
        let allowed = self.filters[to_node].allows(&self.pair.nodes[n].id, &inner);
        let before = *self.history(to_node, (protocol, to, from));
        let opening = protocol == 6 && flags == SYN;
        if entered {
            self.history(to_node, (protocol, to, from))
                .handle_entered(allowed, now);
        }
        let (may, must) = (
            allowed || before.explains(protocol, now),
            allowed || before.surely_explains(protocol, opening, now),
        );
        let story = || {
            format!(
                "seed {}: {protocol} from {from} to {to} of node {to_node}, flags {flags:#x}, allowed: {allowed}, {before:?}",
                self.seed
            )
        };
        assert!(may || !entered, "entered: {}", story());
        assert!(entered || !must, "did not enter: {}", story());
        match (entered, allowed) {
            (true, true) => self.told.allowed += 1,
            (true, false) => self.told.answers += 1,
            (false, _) => self.told.refused += 1,
        }
    }

    fn packet(&self, n: usize, protocol: u8, from: u16, to: u16, flags: u8) -> Vec<u8> {
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        let body = match protocol {
            6 => [&ports[..], &[0; 8], &[0x50, flags], &[0; 6]].concat(),
            _ => [&ports[..], &[0, 8, 0, 0]].concat(),
        };
        let nodes = &self.pair.nodes;
        let length = u8::try_from(body.len()).expect("small");
        let head = [0x60, 0, 0, 0, 0, length, protocol, 64];
        let ends = [nodes[n].overlay, nodes[1 - n].overlay].map(|overlay| overlay.octets());
        [&head[..], &ends.concat(), &body].concat()
    }

    fn history(&mut self, n: usize, talk: (u8, u16, u16)) -> &mut History {
        self.histories[n].entry(talk).or_default()
    }

    fn one_of<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        all[usize::from(self.below(u16::try_from(N).expect("few")))]
    }

    fn below(&mut self, bound: u16) -> u16 {
        u16::try_from(self.random.next_u64() % u64::from(bound)).expect("small")
    }
}

impl History {
    fn handle_sent(&mut self, opens: bool, now: Instant) {
        self.pause(now);
        self.ours |= opens && !self.theirs && self.forgotten(now);
        (self.sent, self.last) = (Some(now), Some(now));
        if opens {
            self.asked = Some(now);
        }
    }

    fn handle_entered(&mut self, allowed: bool, now: Instant) {
        self.pause(now);
        self.theirs |= allowed && !self.ours && self.forgotten(now);
        self.last = Some(now);
    }

    /// After the shortest timeout nobody can say any more who began.
    fn pause(&mut self, now: Instant) {
        if self.last.is_some_and(|at| now - at > SHORTEST) {
            (self.ours, self.theirs) = (false, false);
        }
    }

    /// Even the longest timeout is over.
    fn forgotten(&self, now: Instant) -> bool {
        self.last.is_none_or(|at| now - at > LONGEST)
    }

    /// Whether a packet of the other may be an answer.
    fn explains(mut self, protocol: u8, now: Instant) -> bool {
        self.pause(now);
        let within = |at: Option<Instant>, most| at.is_some_and(|at| now - at < most);
        match protocol {
            17 => within(self.sent, UNANSWERED + ANSWERED) && !self.theirs,
            // Its own SYN has opened it, however long ago.
            _ => self.asked.is_some() && within(self.sent, LONGEST),
        }
    }

    /// Whether it certainly is: it began, and lately.
    fn surely_explains(mut self, protocol: u8, opening: bool, now: Instant) -> bool {
        self.pause(now);
        let lately = self.sent.is_some_and(|at| now - at < SHORTEST);
        protocol == 17 && !opening && self.ours && lately
    }
}

impl Told {
    fn add(&mut self, other: &Self) {
        self.allowed += other.allowed;
        self.answers += other.answers;
        self.refused += other.refused;
        self.cut += other.cut;
    }
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// RFC 4787 REQ-5.
const UNANSWERED: Duration = Duration::from_secs(120);
const ANSWERED: Duration = Duration::from_secs(300);

/// Below any timeout of TCP and UDP, by what a packet may travel.
const SHORTEST: Duration = Duration::from_secs(118);

/// RFC 5382 REQ-5: a connection, and one that is then closed.
const LONGEST: Duration = Duration::from_secs(7440 + 240);
