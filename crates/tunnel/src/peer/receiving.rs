//! What comes from a peer: handshakes, then packets, each of which must be its own.

use std::time::Instant;

use path::Link;
use wire::probe::{Control, Note, ProbeAck};

use super::Peer;
use super::pings::PING_PAIR;
use crate::outbox::Outbox;
use crate::packet::{Header, MAX_PACKET};
use crate::session::{INIT, InitOutcome, Unopened};
use crate::types::DatagramError;

impl Peer {
    /// Takes an initiation that names this peer.
    pub(crate) fn handle_init(
        &mut self,
        link: &Link,
        init: &[u8],
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), DatagramError> {
        match self.session.handle_init(init, out.wire_room(INIT), now) {
            InitOutcome::Answer(size) => out.transmit(*link, size),
            InitOutcome::SendOurs => {
                if let Some(ours) = self.session.pending_init() {
                    out.transmit_bytes(*link, ours);
                }
            }
            InitOutcome::Initiate => {
                // Nobody need want it for long: the peer is there.
                self.wanted_at = Some(now);
                self.initiate(out, now);
                if let Some(ours) = self.session.pending_init() {
                    out.transmit_bytes(*link, ours);
                }
            }
            InitOutcome::Ignore => return Err(DatagramError::Unauthentic),
        }
        Ok(())
    }

    /// The answer to a copy of the last initiation, if this is one.
    pub(crate) fn answer_copy(
        &mut self,
        link: &Link,
        init: &[u8],
        out: &mut Outbox,
        now: Instant,
    ) -> bool {
        let Some(size) = self.session.answer_copy(init, out.wire_room(INIT), now) else {
            return false;
        };
        out.transmit(*link, size);
        true
    }

    /// Takes an answer to an initiation of ours.
    pub(crate) fn handle_response(
        &mut self,
        link: &Link,
        response: &[u8],
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), DatagramError> {
        let fresh = !self.session.is_ready(now);
        let size = self
            .session
            .handle_response(response, out.wire_room(INIT), now)
            .ok_or(DatagramError::Unauthentic)?;
        out.transmit(*link, size);
        self.paths.handle_heard(link, now);
        self.established(fresh, out, now);
        Ok(())
    }

    /// Takes a data message.
    pub(crate) fn handle_data(
        &mut self,
        link: &Link,
        datagram: &[u8],
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), DatagramError> {
        let fresh = !self.session.is_ready(now);
        let room = out.plain_room(datagram.len());
        let (size, confirms) =
            self.session
                .open(datagram, room, now)
                .map_err(|fault| match fault {
                    Unopened::Stale | Unopened::Unauthentic => DatagramError::Unauthentic,
                })?;
        self.paths.handle_heard(link, now);
        let taken = self.handle_opened(link, size, out, now);
        if confirms {
            self.established(fresh, out, now);
        }
        self.act(out, now);
        taken
    }

    /// Takes the packet of `size` bytes that stands in the outbox, decrypted.
    fn handle_opened(
        &mut self,
        link: &Link,
        size: usize,
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), DatagramError> {
        if size == 0 {
            return Ok(());
        }
        self.rx_bytes += size as u64;
        let packet = out.plain_room(size);
        let header = self.check(packet)?;
        if !header.is_control() {
            return self.deliver(&header, size, out, now);
        }
        if header.dst != self.local {
            return Err(DatagramError::BadPacket);
        }
        let mut control = std::mem::take(&mut self.control);
        control.clear();
        control.extend_from_slice(packet);
        let taken = match Control::decode(&control) {
            Some(told) => self.handle_control(link, &told, size, out, now),
            None => Err(DatagramError::BadPacket),
        };
        self.control = control;
        taken
    }

    /// An inner packet must parse and come from this peer's own address.
    fn check(&mut self, packet: &[u8]) -> Result<Header, DatagramError> {
        let header = Header::parse(packet).ok_or(DatagramError::BadPacket)?;
        if header.src != self.config.overlay {
            self.dropped += 1;
            return Err(DatagramError::ForeignSource);
        }
        Ok(header)
    }

    fn deliver(
        &mut self,
        header: &Header,
        size: usize,
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), DatagramError> {
        if self.config.leaving {
            self.dropped += 1;
            return Err(DatagramError::Denied);
        }
        let (filter, node) = (&self.filter, &self.config.node);
        self.flows
            .handle_inbound(header, |packet| filter.allows(node, packet), now)
            .inspect_err(|_| self.dropped += 1)?;
        self.paths.handle_app(now);
        out.deliver(self.config.node, size);
        Ok(())
    }

    fn handle_control(
        &mut self,
        link: &Link,
        told: &Control<'_>,
        size: usize,
        out: &mut Outbox,
        now: Instant,
    ) -> Result<(), DatagramError> {
        match told {
            Control::Probe(probe) => {
                let ack = ProbeAck {
                    pair: probe.pair,
                    sequence: probe.sequence,
                    sent_us: probe.sent_us,
                    received: u16::try_from(size).unwrap_or(u16::MAX),
                    observed: link.remote(),
                };
                if self.session.is_ready(now) {
                    self.send_control(*link, out, |bytes, from, to| ack.encode(from, to, bytes));
                }
                self.paths.handle_probe(link, now);
            }
            Control::ProbeAck(ack) if ack.pair == PING_PAIR => {
                self.handle_pong(link, ack, out, now)
            }
            Control::ProbeAck(ack) => self.paths.handle_ack(link, ack, now),
            Control::Candidates(told) => self.paths.handle_candidates(told.epoch, told.iter(), now),
            Control::Note(Note::PleaseInit) => {
                if self.session.handle_please(now) {
                    self.initiate(out, now);
                }
            }
            Control::Note(note) => self.paths.handle_note(*note, now),
            Control::Fragment(part) => {
                let room = out.plain_room(MAX_PACKET);
                if let Some(size) = self.reassembly.handle(part, room, now) {
                    let header = self.check(&out.plain_room(size)[..size])?;
                    if header.is_control() {
                        return Err(DatagramError::BadPacket);
                    }
                    return self.deliver(&header, size, out, now);
                }
            }
        }
        Ok(())
    }
}
