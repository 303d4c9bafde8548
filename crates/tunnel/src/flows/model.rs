//! The flow table as a list that is read from end to end for each packet: slow, and easy to believe.
//! The table must say the same, whatever happens in which order.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::Flows;
use super::tests::{Flag, Host, Kind, packet};
use crate::packet::Header;
use crate::types::FlowStatus;

const ROOM: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Out(Kind, u16, u16),
    In(Kind, u16, u16),
    /// Our packet, as an error of the peer quotes it.
    Error(Kind, u16, u16),
    Silence(u64),
    /// From now on the filter allows our ports below this one.
    Filter(u16),
}

/// Who may do what, by the book.
#[derive(Default)]
struct Model {
    flows: Vec<Entry>,
    allowed: u16,
    refused: u64,
    evicted: u64,
    cut: u64,
    /// Seconds since the start.
    now: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    protocol: u8,
    ours: u16,
    theirs: u16,
    /// An echo that we asked for.
    we_ask: bool,
    origin: &'static str,
    /// TCP: what was seen of it, in order. Others: one entry for each packet.
    seen: Vec<(Host, Kind)>,
    renewed: u64,
}

impl Entry {
    fn opener(&self) -> Host {
        match self.origin {
            "local" => Host::We,
            _ => Host::Peer,
        }
    }

    fn over(&self) -> bool {
        let has = |host: Host, flag: Flag| {
            self.seen
                .iter()
                .any(|(by, kind)| *by == host && *kind == Kind::Tcp(flag))
        };
        let reset = [Host::We, Host::Peer]
            .into_iter()
            .any(|host| has(host, Flag::Reset));
        self.protocol == 6 && (reset || (has(Host::We, Flag::Fin) && has(Host::Peer, Flag::Fin)))
    }

    fn stands(&self) -> bool {
        let opener = self.opener();
        let answer = self
            .seen
            .iter()
            .position(|(by, kind)| *by != opener && *kind != Kind::Tcp(Flag::Reset));
        answer.is_some_and(|answer| {
            self.seen[answer..]
                .iter()
                .any(|(by, kind)| *by == opener && matches!(kind, Kind::Tcp(Flag::Ack | Flag::Fin)))
        })
    }

    fn life(&self) -> u64 {
        match self.protocol {
            6 if self.stands() && !self.over() => 7440,
            6 => 240,
            58 => 60,
            _ if self.seen.iter().any(|(by, _)| *by != self.opener()) => 300,
            _ => 120,
        }
    }

    /// The order in which flows of this side give way; `None` for never.
    fn gives_way(&self) -> Option<u8> {
        match (self.life(), self.origin) {
            (_, "cut") => None,
            (240, _) => Some(0),
            (60, _) => Some(1),
            (120, "local") => Some(2),
            (7440, "remote") => Some(2),
            _ => None,
        }
    }
}

impl Model {
    fn allows(&self, ours: u16) -> bool {
        ours < self.allowed
    }

    fn live(&self, origin: &str) -> usize {
        let live =
            |entry: &&Entry| entry.origin == origin && self.now - entry.renewed < entry.life();
        self.flows.iter().filter(live).count()
    }

    /// The flow that this packet is of.
    fn find(&mut self, host: Host, kind: Kind, ours: u16, theirs: u16) -> Option<usize> {
        let now = self.now;
        self.flows
            .retain(|entry| now - entry.renewed < entry.life());
        let we_ask = match kind {
            Kind::EchoRequest => host == Host::We,
            Kind::EchoReply => host == Host::Peer,
            _ => false,
        };
        self.flows.iter().position(|entry| {
            entry.protocol == kind.protocol()
                && entry.ours == ours
                && entry.theirs == theirs
                && entry.we_ask == we_ask
        })
    }

    fn out(&mut self, kind: Kind, ours: u16, theirs: u16) {
        let known = self.find(Host::We, kind, ours, theirs);
        let anew = |entry: &Entry| kind == Kind::Tcp(Flag::Syn) && entry.over();
        match known {
            Some(at) if !anew(&self.flows[at]) => self.go_on(at, Host::We, kind),
            _ if matches!(kind, Kind::Udp | Kind::EchoRequest | Kind::Tcp(Flag::Syn)) => {
                self.open(known, "local", Host::We, kind, ours, theirs);
            }
            _ => {}
        }
    }

    fn enters(&mut self, kind: Kind, ours: u16, theirs: u16) -> bool {
        let known = self.find(Host::Peer, kind, ours, theirs);
        let syn = kind == Kind::Tcp(Flag::Syn);
        if let Some(at) = known {
            let entry = &self.flows[at];
            let asking = !entry.stands() && !entry.over();
            if entry.origin == "local" && (!syn || asking) {
                self.go_on(at, Host::Peer, kind);
                return true;
            }
        }
        if !self.allows(if kind.protocol() == 58 { 0 } else { ours }) {
            return false;
        }
        match known {
            Some(at) if syn && self.flows[at].over() => {}
            Some(at) if self.flows[at].origin == "local" => return true,
            Some(at) => {
                self.flows[at].origin = "remote";
                self.go_on(at, Host::Peer, kind);
                return true;
            }
            None if kind == Kind::EchoReply || kind == Kind::Tcp(Flag::Reset) => return true,
            None => {}
        }
        self.open(known, "remote", Host::Peer, kind, ours, theirs)
    }

    fn error_enters(&mut self, kind: Kind, ours: u16, theirs: u16) -> bool {
        let known = self.find(Host::We, kind, ours, theirs);
        known.is_some_and(|at| self.flows[at].origin != "cut")
    }

    fn filter(&mut self, allowed: u16) {
        self.allowed = allowed;
        let now = self.now;
        self.flows
            .retain(|entry| now - entry.renewed < entry.life());
        for mut entry in std::mem::take(&mut self.flows) {
            let ours = if entry.protocol == 58 { 0 } else { entry.ours };
            if entry.origin == "remote" && !self.allows(ours) {
                self.cut += 1;
                if entry.protocol != 17 {
                    continue;
                }
                (entry.origin, entry.renewed) = ("cut", now);
            }
            self.flows.push(entry);
        }
    }

    fn go_on(&mut self, at: usize, by: Host, kind: Kind) {
        let mut entry = self.flows.remove(at);
        let before = entry.life();
        entry.seen.push((by, kind));
        if by == Host::We || entry.origin != "local" || entry.life() != before {
            entry.renewed = self.now;
            // The last in the list is the youngest.
            self.flows.push(entry);
        } else {
            self.flows.insert(at, entry);
        }
    }

    fn open(
        &mut self,
        known: Option<usize>,
        origin: &'static str,
        by: Host,
        kind: Kind,
        ours: u16,
        theirs: u16,
    ) -> bool {
        let same_side = known.is_some_and(|at| self.flows[at].opener() == by);
        let side = |entry: &&Entry| entry.opener() == by;
        if !same_side && self.flows.iter().filter(side).count() >= ROOM {
            let rank = |at: &usize| self.flows[*at].gives_way();
            let candidates = (0..self.flows.len()).filter(|at| side(&&self.flows[*at]));
            let Some(at) = candidates
                .filter(|at| rank(at).is_some())
                .min_by_key(|at| rank(at))
            else {
                self.refused += 1;
                return false;
            };
            self.flows.remove(at);
            self.evicted += 1;
        }
        let we_ask = kind == Kind::EchoRequest && by == Host::We;
        self.flows.retain(|entry| {
            (entry.protocol, entry.ours, entry.theirs, entry.we_ask)
                != (kind.protocol(), ours, theirs, we_ask)
        });
        // A segment in the middle of a connection counts as its first.
        let first = match kind {
            Kind::Tcp(_) => Kind::Tcp(Flag::Syn),
            other => other,
        };
        self.flows.push(Entry {
            protocol: kind.protocol(),
            ours,
            theirs,
            we_ask,
            origin,
            seen: vec![(by, first)],
            renewed: self.now,
        });
        true
    }

    fn status(&self) -> FlowStatus {
        FlowStatus {
            local: self.live("local"),
            remote: self.live("remote"),
            refused: self.refused,
            evicted: self.evicted,
            cut: self.cut,
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Udp),
        2 => Just(Kind::Tcp(Flag::Syn)),
        2 => Just(Kind::Tcp(Flag::SynAck)),
        3 => Just(Kind::Tcp(Flag::Ack)),
        1 => Just(Kind::Tcp(Flag::Fin)),
        1 => Just(Kind::Tcp(Flag::Reset)),
        1 => Just(Kind::EchoRequest),
        1 => Just(Kind::EchoReply),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ports = || (kinds(), 0..3u16, 0..2u16);
    let step = prop_oneof![
        8 => ports().prop_map(|(kind, ours, theirs)| Step::Out(kind, ours, theirs)),
        8 => ports().prop_map(|(kind, ours, theirs)| Step::In(kind, ours, theirs)),
        1 => ports().prop_map(|(kind, ours, theirs)| Step::Error(kind, ours, theirs)),
        2 => prop_oneof![Just(1u64), 20..70u64, 100..320u64, Just(7440u64)].prop_map(Step::Silence),
        1 => (0..4u16).prop_map(Step::Filter),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_says_what_the_list_says(steps in steps()) {
        let start = Instant::now();
        let mut model = Model::default();
        let mut flows = Flows::new(ROOM);
        for step in steps {
            let now = start + Duration::from_secs(model.now);
            let allowed = model.allowed;
            let read = |packet: Vec<u8>| Header::parse(&packet).expect("a packet");
            match step.clone() {
                Step::Out(kind, ours, theirs) => {
                    flows.handle_outbound(&read(packet(Host::We, kind, ours, theirs)), now);
                    model.out(kind, ours, theirs);
                }
                Step::In(kind, ours, theirs) => {
                    let header = read(packet(Host::Peer, kind, ours, theirs));
                    let enters = flows.handle_inbound(&header, |seen| seen.dst_port < allowed, now);
                    prop_assert_eq!(enters.is_ok(), model.enters(kind, ours, theirs), "{:?}", step);
                }
                Step::Error(kind, ours, theirs) => {
                    let header = read(super::tests::error(&packet(Host::We, kind, ours, theirs)));
                    let enters = flows.handle_inbound(&header, |_| true, now);
                    prop_assert_eq!(enters.is_ok(), model.error_enters(kind, ours, theirs));
                }
                Step::Silence(seconds) => model.now += seconds,
                Step::Filter(allowed) => {
                    flows.handle_filter(|seen| seen.dst_port < allowed, now);
                    model.filter(allowed);
                }
            }
            let now = start + Duration::from_secs(model.now);
            prop_assert_eq!(flows.status(now), model.status(), "after {:?}", step);
        }
    }
}
