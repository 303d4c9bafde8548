//! The agents of the world: what they send, what they are shown, and what must be true of it.

use std::collections::BTreeSet;
use std::time::Duration;

use router::{Delivery, DeliveryKind, Origin, Output as RouterOutput};

use super::asks::ASKS;
use super::{Happening, World};
use crate::gateway::{Gateway, ack_id};
use crate::scenario::Deed;

impl World {
    pub(super) fn send_message(&mut self, from: usize) {
        let now = self.time.now;
        let count = self.gateways.len() as u64;
        // Now and then to itself: the same road, within one gateway.
        let ahead = match self.random.below(20) {
            0 => 0,
            _ => 1 + self.random.below(count - 1),
        };
        let to = (from + usize::try_from(ahead).expect("small")) % self.gateways.len();
        if self.time.since_start() < self.scenario.ends {
            let unix_ms = self.unix_ms();
            let kind = self.random.below(ONE_IN);
            let asks = ASKS.contains(&kind);
            let ttl = match self.random.below(ONE_IN) {
                0 => Duration::from_millis(500 + self.random.below(20_000)),
                _ => DAY,
            };
            let id = self.gateways[from].send(Origin::Nothing, to, asks, ttl, unix_ms, now);
            if ttl < DAY {
                self.mortal.insert(id);
            }
            match kind {
                // Some are taken back: before they go, on their way, while they are worked on.
                0 => {
                    let after = Duration::from_millis(self.random.below(400));
                    self.schedule(after, Happening::Cancel { gateway: from, id });
                }
                // And some are for agents that answer whatever they are shown.
                1 => drop(self.chains.insert(id, BTreeSet::new())),
                _ if asks => self.wait_for(from, id),
                _ => {}
            }
            self.did(from, Deed::Sends);
            let pair = (from.min(to), from.max(to));
            // What is taken back before it goes wants no path.
            if kind != 0 && from != to && self.first_messages.insert(pair) {
                self.schedule(
                    Duration::from_secs(2),
                    Happening::ExpectDirect(pair.0, pair.1),
                );
            }
            let every = u64::try_from(self.scenario.message_every.as_millis()).expect("short");
            let after = Duration::from_millis(1 + self.random.below(2 * every));
            self.schedule(after, Happening::Message(from));
        }
    }

    pub(super) fn drain_router(&mut self, n: usize) -> bool {
        let now = self.time.now;
        let mut spoke = false;
        loop {
            let fsync = now + Duration::from_millis(1 + self.random.below(4));
            let gateway = &mut self.gateways[n];
            match gateway.router.poll_output() {
                RouterOutput::Send { peer, frame } => gateway.stream(peer).send(&frame, now),
                RouterOutput::Store { ticket, writes } => {
                    let after = gateway
                        .unsynced
                        .back()
                        .map_or(fsync, |(at, ..)| fsync.max(*at));
                    gateway.unsynced.push_back((after, ticket, writes));
                }
                RouterOutput::Load(row) => gateway.load(row, now),
                RouterOutput::Deliver { delivery, .. } => {
                    let id = ack_id(&delivery);
                    if self.acked.contains(&id) {
                        self.violation(format!("I1: {id} is shown after its ack"));
                    }
                    self.shown.insert(id);
                    self.answer_in_chain(n, &delivery);
                    self.note_answer(n, &delivery, false);
                    self.settle_soon(n, &delivery);
                    self.gateways[n].demand(now);
                }
                RouterOutput::Answer { request, delivery } => {
                    self.hand_over(n, request, &delivery);
                }
                RouterOutput::Event(event) => self.handle_router_event(n, event),
                RouterOutput::Wait(wake) => {
                    gateway.router_wake = wake;
                    break;
                }
            }
            spoke = true;
        }
        // Acks that reached the disk.
        let gateway = &self.gateways[n];
        let waiting: BTreeSet<_> = gateway
            .unsynced
            .iter()
            .filter_map(|(_, ticket, _)| *ticket)
            .collect();
        let stored: Vec<_> = self
            .acking
            .extract_if(.., |(owner, ticket), _| {
                *owner == n && !waiting.contains(ticket)
            })
            .collect();
        self.acked.extend(stored.into_iter().map(|(_, id)| id));
        spoke
    }

    /// An agent that answers everything, told or not that it does.
    fn answer_in_chain(&mut self, n: usize, delivery: &Delivery) {
        let (now, unix_ms) = (self.time.now, self.unix_ms());
        let root = delivery.cause.root;
        let Some(chain) = self.chains.get_mut(&root) else {
            return;
        };
        // Notices of what failed are no talk, and what is shown again was answered.
        if delivery.kind != DeliveryKind::Message || !self.answered.insert(delivery.id) {
            return;
        }
        let from = self
            .gateways
            .iter()
            .position(|gateway| gateway.agent.name == delivery.from.agent);
        let Some(from) = from else { return };
        let origin = Origin::Message(delivery.id);
        chain.insert(delivery.id);
        self.gateways[n].send(origin, from, false, DAY, unix_ms, now);
    }

    fn handle_router_event(&mut self, n: usize, event: router::Event) {
        let now = self.time.now;
        match event {
            router::Event::Accepted { key, .. } => drop(self.accepted.insert(key)),
            router::Event::Wanted { peer } => self.gateways[n].stream(peer).want(now),
            router::Event::Looped { .. } => self.loops += 1,
            router::Event::Failed { key, error } | router::Event::DeadLetter { key, error, .. } => {
                // What led to a loop came to something itself.
                if &*error.code == "loop" {
                    return;
                }
                self.failed.insert(key.id, error.code.to_string());
            }
            _ => {}
        }
    }

    /// What waits where, for the trace.
    pub(super) fn backlog(&self) -> String {
        let one = |gateway: &Gateway| {
            let streams: Vec<_> = gateway
                .streams
                .values()
                .map(|stream| stream.backlog())
                .collect();
            format!(
                "{}: queued {:?}, streams {streams:?}",
                gateway.number,
                gateway.router.queued()
            )
        };
        self.gateways.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    pub(super) fn is_settled(&self) -> bool {
        let arrived = self
            .accepted
            .iter()
            .map(|key| &key.id)
            .all(|id| self.is_excused(id) || self.failed.contains_key(id));
        arrived && self.time.since_start() > self.scenario.ends + Duration::from_secs(3)
    }

    pub(super) fn check_messages(&mut self) {
        let lost: Vec<_> = self
            .accepted
            .iter()
            .filter(|key| !self.is_excused(&key.id))
            .map(|key| key.id)
            .collect();
        for id in lost.iter().take(3) {
            let fate = self
                .failed
                .get(id)
                .cloned()
                .unwrap_or_else(|| "no word of it".into());
            let shown = self.shown.contains(id);
            self.violation(format!(
                "I1: accepted, never acked: {id} ({fate}, shown: {shown}); {} in all",
                lost.len()
            ));
        }
    }

    /// Agents that answer everything are stopped, and not before.
    pub(super) fn check_chains(&mut self) {
        let longest = usize::from(router::limits::MAX_BOUNCES);
        for (root, chain) in std::mem::take(&mut self.chains) {
            if chain.len() > longest {
                self.violation(format!(
                    "{root} led to {} messages, {longest} allowed",
                    chain.len()
                ));
            }
        }
    }
}

/// Of so many messages, one is taken back, one is for agents that answer everything, and [`ASKS`] are
/// requests.
const ONE_IN: u64 = 20;

const DAY: Duration = Duration::from_secs(24 * 3600);
