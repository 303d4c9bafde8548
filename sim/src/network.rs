//! The wires: who gets a datagram, when, and whether.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use identity::NodeId;
use path::Random;

use crate::nat::Nat;

/// The network between the gateways.
#[derive(Debug)]
pub struct Network {
    /// NATs; a gateway behind none is public.
    pub nats: Vec<Nat>,
    /// Where each gateway is.
    pub places: Vec<Place>,
    /// Of a thousand datagrams.
    pub loss: u64,
    /// Of a thousand datagrams.
    pub duplicates: u64,
    /// Adds up to so much to each latency, which reorders.
    pub jitter: Duration,
    /// The largest UDP payload of a direct path.
    pub mtu: usize,
    /// Ordered pairs between which direct datagrams vanish.
    pub cuts: Vec<(usize, usize)>,
    /// Whether the relay runs.
    pub relay_up: bool,
    pub(crate) random: Random,
}

/// One gateway's place.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its own address.
    pub addr: SocketAddr,
    /// The NAT that it is behind.
    pub nat: Option<usize>,
    /// To the middle of the network.
    pub latency: Duration,
}

/// A datagram that arrives.
#[derive(Debug)]
pub struct Arrival {
    pub at: Instant,
    pub to: usize,
    pub from: SocketAddr,
}

impl Network {
    /// Sends one datagram straight; up to two arrive.
    pub fn send(
        &mut self,
        from: usize,
        remote: SocketAddr,
        size: usize,
        now: Instant,
    ) -> Vec<Arrival> {
        let place = self.places[from];
        let lan = self.places.iter().position(|other| {
            other.addr == remote && other.nat == place.nat && other.nat.is_some()
        });
        let (to, seen) = match lan {
            Some(to) => (Some(to), place.addr),
            None => {
                let seen = match place.nat {
                    Some(nat) => self.nats[nat].send(place.addr, remote, now),
                    None => place.addr,
                };
                (self.receiver(remote, seen, now), seen)
            }
        };
        let Some(to) = to.filter(|to| *to != from) else {
            return Vec::new();
        };
        if self.cuts.contains(&(from, to)) || size > self.mtu {
            return Vec::new();
        }
        let latency = match lan {
            Some(_) => Duration::from_millis(1),
            None => place.latency + self.places[to].latency,
        };
        self.copies(latency)
            .into_iter()
            .map(|delay| Arrival {
                at: now + delay,
                to,
                from: seen,
            })
            .collect()
    }

    /// Sends one datagram over the relay; `None` where it is lost.
    pub fn relay(&mut self, from: usize, to: usize, now: Instant) -> Vec<Instant> {
        if !self.relay_up {
            return Vec::new();
        }
        let latency =
            self.places[from].latency + self.places[to].latency + Duration::from_millis(4);
        self.copies(latency)
            .into_iter()
            .map(|delay| now + delay)
            .collect()
    }

    /// What the beacon sees of a gateway; keeps the mapping open.
    pub fn observe(&mut self, node: usize, now: Instant) -> SocketAddr {
        let place = self.places[node];
        match place.nat {
            Some(nat) => self.nats[nat].send(place.addr, BEACON.into(), now),
            None => place.addr,
        }
    }

    fn receiver(&mut self, remote: SocketAddr, from: SocketAddr, now: Instant) -> Option<usize> {
        let public = self
            .places
            .iter()
            .position(|place| place.nat.is_none() && place.addr == remote);
        if public.is_some() {
            return public;
        }
        let nat = self
            .nats
            .iter()
            .position(|nat| remote.ip() == nat.outside)?;
        let inside = self.nats[nat].receive(remote.port(), from, now)?;
        self.places
            .iter()
            .position(|place| place.nat == Some(nat) && place.addr == inside)
    }

    fn copies(&mut self, latency: Duration) -> Vec<Duration> {
        let copies = match self.random.below(1000) {
            n if n < self.loss => 0,
            n if n < self.loss + self.duplicates => 2,
            _ => 1,
        };
        let jitter = u64::try_from(self.jitter.as_micros()).unwrap_or(0);
        (0..copies)
            .map(|_| latency + Duration::from_micros(self.random.below(jitter + 1)))
            .collect()
    }
}

/// The beacon, which is also the relay.
pub const RELAY: NodeId = NodeId([0xbe; 16]);
const BEACON: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 443);
