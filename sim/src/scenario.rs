//! What a seed means: who is where, how bad the network is, what breaks when.

use std::net::Ipv4Addr;
use std::time::Duration;

use path::Random;

use crate::nat::{Filtering, Mapping, Nat};
use crate::network::Place;

/// A world to be.
#[derive(Debug)]
pub struct Scenario {
    /// Decides everything.
    pub seed: u64,
    /// The NATs.
    pub nats: Vec<Nat>,
    /// The gateways.
    pub places: Vec<Place>,
    /// Of a thousand datagrams.
    pub loss: u64,
    /// Of a thousand datagrams.
    pub duplicates: u64,
    /// How much datagrams overtake each other.
    pub jitter: Duration,
    /// Messages between all, at this average distance.
    pub message_every: Duration,
    /// What breaks, in order of time.
    pub faults: Vec<(Duration, Fault)>,
    /// When the faults end and the network heals.
    pub ends: Duration,
}

/// Something breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Direct datagrams between two gateways vanish.
    Cut(usize, usize),
    /// Only those of the first to the second do.
    CutOneWay(usize, usize),
    /// All direct paths work again.
    Heal,
    /// The relay stops.
    RelayDown,
    /// And starts.
    RelayUp,
    /// A NAT forgets its mappings.
    Flush(usize),
    /// A gateway is killed and started again.
    Restart(usize),
    /// The same, moments after the next time that its agent does this, so that its disk may or may
    /// not have it.
    Strike(usize, Deed),
    /// Direct paths carry no large datagrams any more.
    SmallMtu,
    /// A policy reaches a gateway that allows nothing.
    Forbid(usize),
    /// And one that allows everything.
    Allow(usize),
    /// The disk of a gateway takes nothing any more.
    DiskFull(usize),
    /// And takes again.
    DiskFree(usize),
}

/// What an agent does with its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// It sends a message or a request.
    Sends,
    /// It acks.
    Acks,
    /// It answers a request.
    Replies,
    /// It takes the answer that it waited for.
    Takes,
}

impl Scenario {
    /// The world of this seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let nodes = if random.below(10) < 7 {
            2
        } else {
            3 + usize::try_from(random.below(3)).expect("small")
        };
        let mut nats = Vec::new();
        let mut places = Vec::new();
        for n in 0..nodes {
            let octet = u8::try_from(n).expect("small") + 1;
            let latency = Duration::from_millis(1 + random.below(40));
            let kind = random.below(100);
            let (mapping, filtering) = match kind {
                0..15 => {
                    places.push(Place {
                        addr: (Ipv4Addr::new(198, 51, 100, octet), 4000).into(),
                        nat: None,
                        latency,
                    });
                    continue;
                }
                15..60 => (Mapping::EndpointIndependent, Filtering::AddressAndPort),
                60..75 => (Mapping::EndpointIndependent, Filtering::Address),
                75..82 => (Mapping::EndpointIndependent, Filtering::EndpointIndependent),
                _ => (Mapping::EndpointDependent, Filtering::AddressAndPort),
            };
            // Some live behind the NAT of their neighbour.
            let shared = !nats.is_empty() && random.below(10) == 0;
            if !shared {
                let timeout = Duration::from_secs(30 + random.below(150));
                nats.push(Nat::new(
                    Ipv4Addr::new(203, 0, 113, octet),
                    mapping,
                    filtering,
                    timeout,
                    random.next_u64(),
                ));
            }
            let addr = (Ipv4Addr::new(10, 0, 0, octet), 4000).into();
            places.push(Place {
                addr,
                nat: Some(nats.len() - 1),
                latency,
            });
        }
        let loss = [0, 0, 0, 5, 20, 50][usize::try_from(random.below(6)).expect("small")];
        let duplicates = [0, 0, 20][usize::try_from(random.below(3)).expect("small")];
        let jitter =
            Duration::from_millis([0, 0, 2, 10][usize::try_from(random.below(4)).expect("small")]);
        let message_every = Duration::from_millis(
            [50, 200, 1000, 5000][usize::try_from(random.below(4)).expect("small")],
        );
        let mut faults = Vec::new();
        let mut at = Duration::from_secs(8);
        for _ in 0..random.below(5) {
            let a = usize::try_from(random.below(nodes as u64)).expect("small");
            let b =
                (a + 1 + usize::try_from(random.below(nodes as u64 - 1)).expect("small")) % nodes;
            let lasts = Duration::from_millis(500 + random.below(20_000));
            match random.below(7) {
                0 | 1 => faults.extend([(at, Fault::Cut(a, b)), (at + lasts, Fault::Heal)]),
                2 => faults.extend([(at, Fault::CutOneWay(a, b)), (at + lasts, Fault::Heal)]),
                3 => faults.extend([(at, Fault::RelayDown), (at + lasts, Fault::RelayUp)]),
                4 => faults.extend(places[a].nat.map(|nat| (at, Fault::Flush(nat)))),
                5 => faults.push((at, Fault::Restart(a))),
                _ => faults.extend([(at, Fault::SmallMtu), (at + lasts, Fault::Heal)]),
            }
            at += lasts + Duration::from_secs(8) + Duration::from_millis(random.below(10_000));
        }
        let mut strike = Duration::from_secs(4);
        for _ in 0..random.below(16) {
            let n = usize::try_from(random.below(nodes as u64)).expect("small");
            let deeds = [Deed::Sends, Deed::Acks, Deed::Replies, Deed::Takes];
            let deed = deeds[usize::try_from(random.below(4)).expect("small")];
            faults.push((strike, Fault::Strike(n, deed)));
            strike += Duration::from_millis(500 + random.below(4000));
        }
        if random.below(3) == 0 {
            let n = usize::try_from(random.below(nodes as u64)).expect("small");
            let full = Duration::from_millis(4000 + random.below(20_000));
            let lasts = Duration::from_millis(random.below(8000));
            faults.push((full, Fault::DiskFull(n)));
            faults.push((full + lasts, Fault::DiskFree(n)));
        }
        if random.below(4) == 0 {
            let n = usize::try_from(random.below(nodes as u64)).expect("small");
            let from = Duration::from_millis(4000 + random.below(20_000));
            let lasts = Duration::from_millis(random.below(3000));
            faults.push((from, Fault::Forbid(n)));
            faults.push((from + lasts, Fault::Allow(n)));
        }
        faults.sort_by_key(|(at, _)| *at);
        let last = faults.last().map_or(at, |(last, _)| *last);
        let ends = at.max(strike).max(last) + Duration::from_secs(2);
        Self {
            seed,
            nats,
            places,
            loss,
            duplicates,
            jitter,
            message_every,
            faults,
            ends,
        }
    }

    /// Whether two gateways can reach each other straight (the oracle of paths.md §1).
    pub fn direct_is_possible(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.places[a].nat, self.places[b].nat);
        let (Some(a), Some(b)) = (a, b) else {
            return true;
        };
        if a == b {
            return true;
        }
        let (a, b) = (&self.nats[a], &self.nats[b]);
        let cone = |nat: &Nat| nat.mapping == Mapping::EndpointIndependent;
        let strict = |nat: &Nat| nat.filtering == Filtering::AddressAndPort;
        match (cone(a), cone(b)) {
            (true, true) => true,
            (true, false) => !strict(a),
            (false, true) => !strict(b),
            (false, false) => false,
        }
    }
}
