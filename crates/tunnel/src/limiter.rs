//! How many handshakes a source may make us compute: in front of any Diffie-Hellman, by source, so
//! that one flooder does not cost the peers their handshakes (boringtun counts them all together).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use identity::NodeId;
use path::Link;

/// Token buckets by source.
#[derive(Debug)]
pub(crate) struct Limiter {
    sources: BTreeMap<Source, Bucket>,
    /// What all strangers together may use.
    strangers: Bucket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// One IPv4 address, or one IPv6 /64: what a single host can choose from.
    Address(IpAddr),
    /// A node, by the word of a relay that checked it.
    Node(NodeId),
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
}

impl Limiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            sources: BTreeMap::new(),
            strangers: Bucket {
                tokens: STRANGERS_BURST,
                refilled: now,
            },
        }
    }

    /// Whether one more handshake from there may be computed. `known` says that something authentic
    /// came from there before.
    pub(crate) fn allows(&mut self, link: &Link, known: bool, now: Instant) -> bool {
        let source = match link {
            Link::Direct { remote } => Source::Address(block(remote.ip())),
            Link::Relay { peer, .. } => Source::Node(*peer),
            _ => return false,
        };
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            // Sources whose bucket would be full again by now are forgotten first.
            self.sources
                .retain(|_, bucket| now.saturating_duration_since(bucket.refilled) < FORGET);
            if self.sources.len() >= MAX_SOURCES {
                return known && self.strangers.take(STRANGERS_BURST, STRANGERS_REFILL, now);
            }
        }
        let fresh = Bucket {
            tokens: SOURCE_BURST,
            refilled: now,
        };
        let bucket = self.sources.entry(source).or_insert(fresh);
        bucket.take(SOURCE_BURST, SOURCE_REFILL, now)
            && (known || self.strangers.take(STRANGERS_BURST, STRANGERS_REFILL, now))
    }
}

impl Bucket {
    fn take(&mut self, burst: u32, every: Duration, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_micros() / every.as_micros();
        if passed > 0 {
            self.tokens = self
                .tokens
                .saturating_add(u32::try_from(passed).unwrap_or(u32::MAX))
                .min(burst);
            self.refilled = now;
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }
}

fn block(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

const MAX_SOURCES: usize = 1024;
const FORGET: Duration = Duration::from_secs(10);

/// A peer behind one address may retry each 5 s; a home with some of them gets this much at once.
const SOURCE_BURST: u32 = 20;
const SOURCE_REFILL: Duration = Duration::from_millis(200);

/// An answer costs 134 µs (paths.md §3.3): strangers get at most 3 % of a core.
const STRANGERS_BURST: u32 = 200;
const STRANGERS_REFILL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> Link {
        Link::Direct {
            remote: text.parse().expect("an address"),
        }
    }

    #[test]
    fn one_flooder_does_not_cost_the_others_their_handshakes() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);

        let allowed = (0..10_000)
            .filter(|_| limiter.allows(&from("192.0.2.1:1"), false, now))
            .count();

        assert_eq!(allowed, SOURCE_BURST as usize);
        assert!(limiter.allows(&from("192.0.2.2:1"), false, now));
        assert!(
            !limiter.allows(&from("192.0.2.1:2"), false, now),
            "another port is the same source"
        );
        assert!(limiter.allows(&from("192.0.2.1:1"), false, now + Duration::from_secs(1)));
    }

    #[test]
    fn many_sources_are_bounded_in_memory_and_in_sum() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);

        let allowed = (0..5000u32)
            .filter(|n| {
                let remote = (std::net::Ipv4Addr::from(0x0a00_0000 + n), 1).into();
                limiter.allows(&Link::Direct { remote }, false, now)
            })
            .count();

        assert_eq!(allowed, STRANGERS_BURST as usize);
        assert!(limiter.sources.len() <= MAX_SOURCES);
        let known = Link::Relay {
            relay: NodeId([1; 16]),
            peer: NodeId([2; 16]),
        };
        assert!(
            limiter.allows(&known, true, now + FORGET),
            "who is known gets through"
        );
    }
}
