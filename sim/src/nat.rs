//! One NAT: how it maps what goes out and what it lets in (RFC 4787 words).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use path::Random;

/// How the outside port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// One for each inside address, whatever it talks to.
    EndpointIndependent,
    /// Another for each address that it talks to, at random.
    EndpointDependent,
}

/// What may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Anything, once a mapping stands.
    EndpointIndependent,
    /// What comes from an address that something was sent to.
    Address,
    /// What comes from an address and port that something was sent to.
    AddressAndPort,
}

/// A NAT with its state.
#[derive(Debug)]
pub struct Nat {
    /// Its outside address.
    pub outside: Ipv4Addr,
    /// How it maps.
    pub mapping: Mapping,
    /// What it lets in.
    pub filtering: Filtering,
    /// How long an unused mapping lasts.
    pub timeout: Duration,
    /// By inside address, and by destination where the mapping depends on it.
    ports: BTreeMap<(SocketAddr, Option<SocketAddr>), Port>,
    random: Random,
}

#[derive(Debug)]
struct Port {
    outside: u16,
    used: Instant,
    /// What was sent to, and when.
    contacted: BTreeMap<SocketAddr, Instant>,
}

impl Nat {
    /// A NAT without mappings.
    pub fn new(
        outside: Ipv4Addr,
        mapping: Mapping,
        filtering: Filtering,
        timeout: Duration,
        seed: u64,
    ) -> Self {
        Self {
            outside,
            mapping,
            filtering,
            timeout,
            ports: BTreeMap::new(),
            random: Random::new(seed),
        }
    }

    /// The outside address of a datagram from inside.
    pub fn send(&mut self, inside: SocketAddr, remote: SocketAddr, now: Instant) -> SocketAddr {
        let timeout = self.timeout;
        self.ports
            .retain(|_, port| now.saturating_duration_since(port.used) < timeout);
        let key = (
            inside,
            (self.mapping == Mapping::EndpointDependent).then_some(remote),
        );
        if !self.ports.contains_key(&key) {
            // Cone NATs keep the port where they can; the others take any.
            let free = |port: u16| self.ports.values().all(|taken| taken.outside != port);
            let preserved = (key.1.is_none() && free(inside.port())).then_some(inside.port());
            let outside = preserved.unwrap_or_else(|| {
                20_000 + u16::try_from(self.random.below(40_000)).expect("small")
            });
            self.ports.insert(
                key,
                Port {
                    outside,
                    used: now,
                    contacted: BTreeMap::new(),
                },
            );
        }
        let port = self.ports.get_mut(&key).expect("just made");
        port.used = now;
        port.contacted.insert(remote, now);
        (self.outside, port.outside).into()
    }

    /// Whom inside a datagram to this port from there is for, if it may come in.
    pub fn receive(&mut self, port: u16, from: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let timeout = self.timeout;
        let lately = |at: &Instant| now.saturating_duration_since(*at) < timeout;
        let ((inside, _), entry) = self
            .ports
            .iter()
            .find(|(_, entry)| entry.outside == port && lately(&entry.used))?;
        let admitted = match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::Address => entry
                .contacted
                .iter()
                .any(|(addr, at)| addr.ip() == from.ip() && lately(at)),
            Filtering::AddressAndPort => entry.contacted.get(&from).is_some_and(lately),
        };
        admitted.then_some(*inside)
    }

    /// Forgets every mapping, as after a restart of the router.
    pub fn flush(&mut self) {
        self.ports.clear();
    }
}
