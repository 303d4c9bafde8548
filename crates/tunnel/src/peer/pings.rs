//! Signs of life that somebody asked a peer for.

use std::time::{Duration, Instant};

use path::Link;
use wire::probe::{Probe, ProbeAck, SMALL_PROBE};

use super::Peer;
use crate::outbox::Outbox;
use crate::types::Event;

/// A ping that is not answered yet.
pub(super) struct Ping {
    token: u64,
    sequence: u32,
    asked: Instant,
    /// When it was sent; it waits for a session before.
    sent: Option<Instant>,
}

impl Peer {
    /// Asks the peer for a sign of life.
    pub(crate) fn ping(&mut self, token: u64, out: &mut Outbox, now: Instant) {
        self.pings
            .retain(|ping| now.saturating_duration_since(ping.asked) < PING_LIFE);
        if self.pings.len() >= MAX_PINGS {
            self.pings.remove(0);
        }
        self.ping_sequence = self.ping_sequence.wrapping_add(1);
        self.pings.push(Ping {
            token,
            sequence: self.ping_sequence,
            asked: now,
            sent: None,
        });
        self.paths.handle_app(now);
        if self.session.is_ready(now) {
            self.wanted_at = Some(now);
            self.send_pings(out, now);
        } else {
            self.want(out, now);
        }
        self.act(out, now);
    }

    pub(super) fn send_pings(&mut self, out: &mut Outbox, now: Instant) {
        let Some(route) = self.paths.route() else {
            return;
        };
        let mut pings = std::mem::take(&mut self.pings);
        for ping in pings.iter_mut().filter(|ping| ping.sent.is_none()) {
            ping.sent = Some(now);
            let probe = Probe {
                pair: PING_PAIR,
                sequence: ping.sequence,
                sent_us: 0,
                primary: true,
            };
            self.send_control(route.link, out, |bytes, from, to| {
                probe.encode(from, to, SMALL_PROBE, bytes);
            });
            self.paths.handle_sent(SMALL_PROBE, now);
        }
        self.pings = pings;
        self.rekey(out, now);
    }

    pub(super) fn handle_pong(
        &mut self,
        link: &Link,
        ack: &ProbeAck,
        out: &mut Outbox,
        now: Instant,
    ) {
        let answered = |ping: &Ping| ping.sequence == ack.sequence && ping.sent.is_some();
        if let Some(place) = self.pings.iter().position(answered) {
            let ping = self.pings.swap_remove(place);
            let rtt = now.saturating_duration_since(ping.sent.unwrap_or(now));
            let peer = self.config.node;
            out.tell(Event::Pong {
                peer,
                token: ping.token,
                link: *link,
                rtt,
            });
        }
    }
}

/// What our pings call their pair: no path has this number.
pub(super) const PING_PAIR: u32 = u32::MAX;
const MAX_PINGS: usize = 64;
const PING_LIFE: Duration = Duration::from_secs(10);
