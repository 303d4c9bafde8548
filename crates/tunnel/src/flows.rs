//! Which packets answer to which: the conversations with one peer, so that replies pass without a
//! grant of their own.
//!
//! ```text
//! out ─► known? ── yes ─► it goes on, whoever opened it
//!               └─ no ──► it opens a Local flow
//! in ──► Local? ── yes ─► passes
//!               └─ no ──► filter ── allows ─► passes; opens a Remote flow, or goes on with it
//!                                └─ denies ─► dropped
//! ```
//! The receiver decides: only what comes in is judged, and what goes out is remembered. A Remote
//! flow lets nothing in, since the filter judges each of its packets; it is there so that our
//! answers to the peer do not open a Local one, which no change of policy would end.
//!
//! **Invariants.** Nothing enters that neither the filter allows nor a live Local flow explains.
//! Only our own packets open a Local flow, and only they keep it alive. A peer has a table of its
//! own, with room of its own for either side: what it sends costs no other peer a flow, and us no
//! Local one. The router's port is in none: it answers to `msg` grants alone. A packet costs a
//! look-up, and at most a few removals.
//!
//! Flows end with the process. After a restart a TCP connection of ours has no flow, as only its
//! first segment could open one: its peer's filter, or a new connection, decides. A UDP
//! conversation that was silent for longer than its timeout is then of whoever speaks first.

mod state;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use policy::InnerPacket;
use wire::peer::ROUTER_PORT;

use crate::packet::{Ends, Header, ICMPV6, Part, UDP};
use crate::slots::{Slot, Slots};
use crate::types::{DatagramError, FlowStatus};
use state::{Phase, State, Way};

/// The flows of one peer.
#[derive(Debug)]
pub(crate) struct Flows {
    index: BTreeMap<Key, Slot>,
    /// A list for each origin and phase: all in one list live equally long, so the oldest ends first.
    slots: Slots<Flow, LISTS>,
    /// How many there may be that we opened, and how many that the peer opened.
    room: usize,
    refused: u64,
    evicted: u64,
    cut: u64,
}

/// One conversation.
#[derive(Clone, Copy, Debug)]
struct Flow {
    key: Key,
    origin: Origin,
    state: State,
    /// Its timeout runs from here.
    renewed: Instant,
}

/// Who opened a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// We did.
    Local,
    /// The peer did, and the filter allows it.
    Remote,
    /// The peer did, and the filter allows it no more. It is kept for as long as we go on answering,
    /// or our next answer would open a Local flow.
    Cut,
}

/// What both ways of a conversation have in common. Ports first: they differ most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    remote_port: u32,
    local_port: u32,
    protocol: u8,
    remote: Ipv6Addr,
    local: Ipv6Addr,
}

/// How many flows a peer, and we with it, may have when there are so many peers.
///
/// Equal shares of a fixed sum: what one peer uses up is never another's.
pub(crate) fn room(peers: usize) -> usize {
    (MAX_FLOWS / peers.max(1)).clamp(1, MAX_PEER_FLOWS)
}

impl Flows {
    /// No flows yet, and room for so many of either side.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            index: BTreeMap::new(),
            slots: Slots::new(),
            room,
            refused: 0,
            evicted: 0,
            cut: 0,
        }
    }

    /// How many there may be of either side from now on. Those beyond it give way as others open.
    pub(crate) fn set_room(&mut self, room: usize) {
        self.room = room;
    }

    /// Remembers a packet that goes out.
    pub(crate) fn handle_outbound(&mut self, header: &Header, now: Instant) {
        let Some(key) = header.ends().and_then(|ends| Key::of(&ends, Way::Out)) else {
            return;
        };
        let known = self.find(&key, now);
        match known.filter(|slot| !self.flow(*slot).begins_anew(&header.part)) {
            Some(slot) => self.go_on(slot, &header.part, Way::Out, now),
            None if may_open(&header.part, Way::Out) => {
                // Without room it goes out all the same; what answers it needs the filter.
                let _ = self.open(key, known, Origin::Local, &header.part, now);
            }
            None => {}
        }
    }

    /// Whether a packet of the peer may enter; `allows` asks the filter.
    pub(crate) fn handle_inbound(
        &mut self,
        header: &Header,
        allows: impl FnOnce(&InnerPacket) -> bool,
        now: Instant,
    ) -> Result<(), DatagramError> {
        match &header.part {
            // Only a first one shows ports (RFC 8900 §3.3), so no other can be told to be for a port
            // that is granted, or not to be for the router's; and without the others the first is
            // of no use. Hosts of the mesh send what fits its packets.
            Part::Fragment => return Err(DatagramError::Denied),
            // An error passes for the packet that it quotes (RFC 4890 §4.3.1, RFC 5508 REQ-4), and
            // for nothing else: a grant does not make it true.
            Part::Error(quoted) => {
                // It goes to where that came from (RFC 4443 §3.1); we have no other address.
                let quoted = quoted.filter(|quoted| quoted.src.0 == header.dst);
                let explained = quoted.is_some_and(|quoted| self.explains_error(&quoted, now));
                return explained.then_some(()).ok_or(DatagramError::Denied);
            }
            _ => {}
        }
        let key = header.ends().and_then(|ends| Key::of(&ends, Way::In));
        let known = key.and_then(|key| self.find(&key, now));
        if let Some(slot) = known.filter(|slot| self.flow(*slot).explains(&header.part)) {
            self.go_on(slot, &header.part, Way::In, now);
            return Ok(());
        }
        if !allows(&header.inbound()) {
            return Err(DatagramError::Denied);
        }
        let Some(key) = key else {
            return Ok(());
        };
        match known.filter(|slot| !self.flow(*slot).begins_anew(&header.part)) {
            // A connection that stands is asked for again: our own host knows better than to obey.
            Some(slot) if self.flow(slot).origin == Origin::Local => Ok(()),
            Some(slot) => {
                self.slots.get_mut(slot).origin = Origin::Remote;
                self.go_on(slot, &header.part, Way::In, now);
                Ok(())
            }
            None if may_open(&header.part, Way::In) => {
                self.open(key, known, Origin::Remote, &header.part, now)
            }
            None => Ok(()),
        }
    }

    /// The filter changed: what the peer opened and now could not open ends at once.
    pub(crate) fn handle_filter(&mut self, allows: impl Fn(&InnerPacket) -> bool, now: Instant) {
        let remote = lists([Origin::Remote]);
        let slots: Vec<Slot> = remote.flat_map(|list| self.slots.iter(list)).collect();
        for slot in slots {
            let flow = *self.flow(slot);
            if !flow.is_live(now) || allows(&flow.key.inbound()) {
                continue;
            }
            self.cut += 1;
            if flow.state.answers_open() {
                let cut = self.slots.get_mut(slot);
                (cut.origin, cut.renewed) = (Origin::Cut, now);
                let list = cut.list();
                self.slots.renew(slot, list);
            } else {
                self.forget(slot);
            }
        }
    }

    /// How many there are, and what became of others.
    pub(crate) fn status(&self, now: Instant) -> FlowStatus {
        let live = |list| {
            let ended = self.slots.iter(list).map(|slot| self.flow(slot));
            self.slots.length(list) - ended.take_while(|flow| !flow.is_live(now)).count()
        };
        FlowStatus {
            local: lists([Origin::Local]).map(live).sum(),
            remote: lists([Origin::Remote]).map(live).sum(),
            refused: self.refused,
            evicted: self.evicted,
            cut: self.cut,
        }
    }

    /// Whether an error may be about a packet of ours that belongs to a flow. It neither renews the
    /// flow nor ends it (RFC 5508 REQ-6).
    fn explains_error(&mut self, quoted: &Ends, now: Instant) -> bool {
        let known = Key::of(quoted, Way::Out).and_then(|key| self.find(&key, now));
        known.is_some_and(|slot| self.flow(slot).origin != Origin::Cut)
    }

    /// The flow with this key, unless its time is over.
    fn find(&mut self, key: &Key, now: Instant) -> Option<Slot> {
        let slot = *self.index.get(key)?;
        if self.flow(slot).is_live(now) {
            return Some(slot);
        }
        self.forget(slot);
        None
    }

    /// Opens a flow in the place of the one with this key, if there is one.
    fn open(
        &mut self,
        key: Key,
        known: Option<Slot>,
        origin: Origin,
        part: &Part,
        now: Instant,
    ) -> Result<(), DatagramError> {
        let flow = Flow {
            key,
            origin,
            state: State::opened(part),
            renewed: now,
        };
        if let Some(slot) = known.filter(|slot| self.flow(*slot).origin.side() == origin.side()) {
            *self.slots.get_mut(slot) = flow;
            self.slots.renew(slot, flow.list());
            return Ok(());
        }
        self.make_room(origin, now)?;
        if let Some(slot) = known {
            self.forget(slot);
        }
        let slot = self.slots.insert(flow.list(), flow);
        self.index.insert(key, slot);
        Ok(())
    }

    /// A packet of this flow was seen.
    fn go_on(&mut self, slot: Slot, part: &Part, way: Way, now: Instant) {
        let flow = self.slots.get_mut(slot);
        let before = flow.state.phase();
        flow.state.handle(part, way, flow.origin.side());
        // RFC 4787 REQ-6 wants what goes out to renew a flow, and leaves open what comes in: a peer
        // must not keep open by itself what we opened once. Its answer counts once, as a new phase.
        if way == Way::Out || flow.origin != Origin::Local || flow.state.phase() != before {
            flow.renewed = now;
            let list = flow.list();
            self.slots.renew(slot, list);
        }
    }

    /// Sees to it that one more flow of this side has room, at the cost of that side alone.
    fn make_room(&mut self, origin: Origin, now: Instant) -> Result<(), DatagramError> {
        let (side, evictable): (&[Origin], &[Phase]) = match origin {
            // What nobody answered, or is over, gives way; what stands does not.
            Origin::Local => (
                &[Origin::Local],
                &[Phase::Passing, Phase::Echo, Phase::Fresh],
            ),
            // A datagram's flow stays, or our answer to the next one would open a Local flow.
            Origin::Remote | Origin::Cut => (
                &[Origin::Remote, Origin::Cut],
                &[Phase::Passing, Phase::Echo, Phase::Standing],
            ),
        };
        let all = || lists(side.iter().copied());
        let oldest = |flows: &Self, list| flows.slots.iter(list).next();
        for list in all() {
            for _ in 0..MAX_REMOVALS {
                match oldest(self, list).filter(|slot| !self.flow(*slot).is_live(now)) {
                    Some(slot) => self.forget(slot),
                    None => break,
                }
            }
        }
        for _ in 0..MAX_REMOVALS {
            if all().map(|list| self.slots.length(list)).sum::<usize>() < self.room {
                return Ok(());
            }
            let mut evictable = evictable.iter().map(|phase| list(origin, *phase));
            let Some(slot) = evictable.find_map(|list| oldest(self, list)) else {
                break;
            };
            self.forget(slot);
            self.evicted += 1;
        }
        self.refused += 1;
        Err(DatagramError::TooManyFlows)
    }

    fn forget(&mut self, slot: Slot) {
        let flow = self.slots.remove(slot);
        self.index.remove(&flow.key);
    }

    fn flow(&self, slot: Slot) -> &Flow {
        self.slots.get(slot)
    }
}

impl Flow {
    fn is_live(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.renewed) < self.state.phase().timeout()
    }

    /// Whether this packet of the peer answers us. One that asks for a connection does so only while
    /// we ask for the same one (a simultaneous open, RFC 5382 REQ-2).
    fn explains(&self, part: &Part) -> bool {
        self.origin == Origin::Local && (!part.is_opening() || self.state.is_opening())
    }

    /// Whether this packet asks for a new connection where one is over.
    fn begins_anew(&self, part: &Part) -> bool {
        part.is_opening() && self.state.is_over()
    }

    fn list(&self) -> usize {
        list(self.origin, self.state.phase())
    }
}

impl Origin {
    /// The way that the first packet went.
    fn side(self) -> Way {
        match self {
            Self::Local => Way::Out,
            Self::Remote | Self::Cut => Way::In,
        }
    }
}

impl Key {
    /// The key of a packet that goes this way; none for the router's.
    fn of(ends: &Ends, way: Way) -> Option<Self> {
        let router = |port| ends.protocol == UDP && port == u32::from(ROUTER_PORT);
        if router(ends.src.1) || router(ends.dst.1) {
            return None;
        }
        let ((local, local_port), (remote, remote_port)) = match way {
            Way::Out => (ends.src, ends.dst),
            Way::In => (ends.dst, ends.src),
        };
        Some(Self {
            remote_port,
            local_port,
            protocol: ends.protocol,
            remote,
            local,
        })
    }

    /// What the filter would see of the peer's packets.
    fn inbound(&self) -> InnerPacket {
        let port = |port: u32| match self.protocol {
            // The filter knows no echo by its identifier.
            ICMPV6 => 0,
            _ => u16::try_from(port).unwrap_or(0),
        };
        InnerPacket {
            src: IpAddr::V6(self.remote),
            dst: IpAddr::V6(self.local),
            protocol: self.protocol,
            src_port: port(self.remote_port),
            dst_port: port(self.local_port),
        }
    }
}

/// Whether a packet that belongs to no flow opens one.
fn may_open(part: &Part, way: Way) -> bool {
    match (part, way) {
        // Ours only where it asks for a connection: what we send in a connection of the peer, after
        // its flow is gone, opens none.
        (Part::Segment(_), Way::Out) => part.is_opening(),
        // The peer's in the middle of a connection as well: it may be older than this process.
        (Part::Segment(flags), Way::In) => !flags.rst,
        (Part::Datagram | Part::EchoRequest(_), _) => true,
        (Part::EchoReply(_) | Part::Error(_) | Part::Fragment | Part::Lone, _) => false,
    }
}

fn list(origin: Origin, phase: Phase) -> usize {
    origin as usize * Phase::ALL.len() + phase as usize
}

/// The lists of these origins.
fn lists(origins: impl IntoIterator<Item = Origin>) -> impl Iterator<Item = usize> {
    let phases = |origin| Phase::ALL.into_iter().map(move |phase| list(origin, phase));
    origins.into_iter().flat_map(phases)
}

const LISTS: usize = 3 * Phase::ALL.len();

/// How many flows all peers together may open, and how many we may open to all: some 10 MB each.
const MAX_FLOWS: usize = 1 << 16;

/// What one peer may have where there are few: more than a busy web server's clients keep open.
const MAX_PEER_FLOWS: usize = 4096;

/// How many flows of a list one new flow removes at most; two would suffice to keep up.
const MAX_REMOVALS: usize = 8;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
