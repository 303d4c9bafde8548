//! The paths of the world: which there should be, and how long a packet may stand still.

use std::time::{Duration, Instant};

use super::{FLOW, Flow, Happening, World, inner_packet};
use crate::gateway::overlay;

impl World {
    /// From here on the gap between two gateways is measured, where the fault alone can make one.
    pub(super) fn watch(&mut self, a: usize, b: usize) {
        let direct = |from: usize, to: usize| {
            let id = self.gateways[to].id;
            self.gateways[from]
                .tunnel
                .status(self.time.now)
                .any(|peer| peer.node == id && peer.link.is_some_and(|link| link.is_direct()))
        };
        let fair = !self.forbade
            && self.network.relay_up
            && self.network.loss == 0
            && self.network.cuts.is_empty()
            && self.network.mtu == 1472
            && self.gateways[a].connected
            && self.gateways[b].connected
            && direct(a, b)
            && direct(b, a);
        for pair in [(a, b), (b, a)] {
            self.flows.remove(&pair);
            if fair {
                self.flows.insert(
                    pair,
                    Flow {
                        last: Some(self.time.now),
                        worst: Duration::ZERO,
                    },
                );
            }
        }
    }

    /// One packet of a flow, and the next 20 ms later.
    pub(super) fn flow(&mut self, from: usize, to: usize, until: Instant) {
        let now = self.time.now;
        if now >= until {
            if let Some(flow) = self.flows.remove(&(from, to)) {
                let worst = flow
                    .worst
                    .max(flow.last.map_or(Duration::ZERO, |last| now - last));
                let latency = self.network.places[from].latency + self.network.places[to].latency;
                // Who sends into a cut of one direction hears of it from the other side, over the
                // relay, and its next packet goes there: a round trip beyond the silence.
                if worst > GAP + 2 * latency {
                    self.violation(format!("I5: {from} to {to} stood still for {worst:?}"));
                }
            }
            return;
        }
        let packet = inner_packet(overlay(from), overlay(to), &[FLOW; 300]);
        let _ = self.gateways[from].tunnel.handle_packet(&packet, now);
        self.schedule(
            Duration::from_millis(20),
            Happening::Flow { from, to, until },
        );
    }

    pub(super) fn expect_direct(&mut self, a: usize, b: usize) {
        // With loss or a fault it may take a round more.
        if !self.calm || self.scenario.loss > 0 {
            return;
        }
        let possible = self.possible(a, b);
        for (from, to) in [(a, b), (b, a)] {
            let id = self.gateways[to].id;
            let status = self.gateways[from]
                .tunnel
                .status(self.time.now)
                .find(|peer| peer.node == id);
            let link = status.and_then(|status| status.link);
            match link {
                None => self.violation(format!(
                    "I4: {from} has no path to {to} two seconds after the first message"
                )),
                Some(link) if possible && !link.is_direct() => {
                    self.violation(format!(
                        "I3: {from} to {to} is relayed two seconds after the first message"
                    ));
                }
                Some(link) if !possible && link.is_direct() => {
                    self.violation(format!(
                        "the oracle knows no direct path from {from} to {to}, yet {link}"
                    ));
                }
                Some(_) => {}
            }
        }
    }

    fn possible(&self, a: usize, b: usize) -> bool {
        self.possible.contains(&(a, b))
    }

    /// I4 and I11: after the network has healed everybody in use has a path, and queues are bounded.
    pub(super) fn check_paths(&mut self) {
        for n in 0..self.gateways.len() {
            for peer in self.gateways[n]
                .tunnel
                .status(self.time.now)
                .collect::<Vec<_>>()
            {
                let heard = peer
                    .last_heard
                    .is_some_and(|ago| ago < Duration::from_secs(60));
                if heard && peer.link.is_none() {
                    self.violation(format!(
                        "I4: {n} has no path to {}: {}",
                        peer.node, peer.why
                    ));
                }
                if peer.queued > 256 {
                    self.violation(format!("I11: {n} queues {} packets", peer.queued));
                }
            }
        }
    }

    /// I7: a path changes when something happens, and not else.
    pub(super) fn check_changes(&mut self) {
        let excuses = self.scenario.faults.len();
        let minutes = usize::try_from(self.time.since_start().as_secs() / 60).expect("short") + 1;
        let allowed = 3
            + 3 * excuses
            + if self.scenario.loss >= 20 {
                2 * minutes
            } else {
                0
            };
        for ((n, peer), changes) in std::mem::take(&mut self.changes) {
            if changes.len() > allowed {
                self.violation(format!(
                    "I7: {n} changed its path to {peer} {} times, {allowed} allowed",
                    changes.len()
                ));
            }
        }
    }
}

/// No fault of a direct path may cost more while a relay works (I5).
const GAP: Duration = Duration::from_millis(1200);
