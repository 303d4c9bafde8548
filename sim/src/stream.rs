//! A stand-in for QUIC between two routers: frames in order over packets that get lost. Go-back-N,
//! no congestion control; a new boot number on either side is a new connection.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use wire::frame;
use wire::message::MessageFrame;

/// One side of the connection to one peer.
#[derive(Debug)]
pub struct Stream {
    mine: u32,
    theirs: u32,
    next: u32,
    unacked: VecDeque<(u32, Vec<u8>)>,
    /// Offers that wait, each in its segments, and answers, which have a stream of their own in the
    /// real thing and so never wait behind offers.
    offers: VecDeque<VecDeque<Vec<u8>>>,
    answers: VecDeque<VecDeque<Vec<u8>>>,
    /// The frame that is being sent.
    sending: VecDeque<Vec<u8>>,
    expected: u32,
    early: BTreeMap<u32, Vec<u8>>,
    received: Vec<u8>,
    retry_at: Option<Instant>,
    backoff: u32,
    /// Packets that acked nothing new, since one did: the first segment is lost, likely.
    doubts: u32,
    hello_at: Option<Instant>,
    /// Payloads to send as packets.
    pub packets: VecDeque<Vec<u8>>,
}

/// What a packet brought.
#[derive(Debug, Default)]
pub struct Arrived {
    /// The peer has started anew: what was on the way is lost.
    pub restarted: bool,
    /// Whole frames.
    pub frames: Vec<MessageFrame>,
}

impl Stream {
    /// A side that has just booted with this number.
    pub fn new(mine: u32) -> Self {
        Self {
            mine,
            theirs: 0,
            next: 1,
            unacked: VecDeque::new(),
            offers: VecDeque::new(),
            answers: VecDeque::new(),
            sending: VecDeque::new(),
            expected: 1,
            early: BTreeMap::new(),
            received: Vec::new(),
            retry_at: None,
            backoff: 0,
            doubts: 0,
            hello_at: None,
            packets: VecDeque::new(),
        }
    }

    /// Whether the peer answered since it booted.
    pub fn is_up(&self) -> bool {
        self.theirs != 0
    }

    /// Segments that are acked, sent but not acked, and offers that wait.
    pub fn backlog(&self) -> (u32, usize, usize) {
        (
            self.unacked.front().map_or(self.next, |(first, _)| *first),
            self.unacked.len(),
            self.offers.len(),
        )
    }

    /// Somebody wants the connection.
    pub fn want(&mut self, now: Instant) {
        if !self.is_up() && self.hello_at.is_none() {
            self.hello_at = Some(now);
        }
    }

    /// Sends a frame.
    pub fn send(&mut self, message: &MessageFrame, now: Instant) {
        let mut bytes = Vec::new();
        if frame::encode(message, &mut bytes).is_ok() {
            let segments = bytes.chunks(SEGMENT).map(<[u8]>::to_vec).collect();
            match message {
                MessageFrame::Offer { .. } => self.offers.push_back(segments),
                _ => self.answers.push_back(segments),
            }
            self.fill(now);
        }
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at.into_iter().chain(self.hello_at).min()
    }

    /// Sends again what was not acked.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.hello_at.is_some_and(|at| at <= now) {
            self.hello_at = (!self.is_up()).then_some(now + HELLO);
            if !self.is_up() {
                self.push(0, &[]);
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.backoff = (self.backoff + 1).min(3);
            let first: Vec<_> = self.unacked.iter().take(4).cloned().collect();
            for (sequence, segment) in first {
                self.push(sequence, &segment);
            }
            self.arm(now);
        }
    }

    /// Takes a packet of the peer.
    pub fn handle(&mut self, packet: &[u8], now: Instant) -> Arrived {
        let mut arrived = Arrived::default();
        let [Some(mine), Some(theirs), Some(sequence), Some(ack)] =
            [0, 4, 8, 12].map(|at| u32_at(packet, at))
        else {
            return arrived;
        };
        if mine != self.theirs {
            // A delayed packet of an earlier life has a smaller number.
            if mine < self.theirs {
                return arrived;
            }
            let packets = std::mem::take(&mut self.packets);
            *self = Self {
                theirs: mine,
                packets,
                ..Self::new(self.mine)
            };
            arrived.restarted = true;
        }
        if theirs != self.mine {
            self.push(0, &[]);
            return arrived;
        }
        let before = self.unacked.len();
        while self
            .unacked
            .front()
            .is_some_and(|(sequence, _)| *sequence < ack)
        {
            self.unacked.pop_front();
        }
        if self.unacked.len() < before {
            (self.backoff, self.doubts) = (0, 0);
            self.arm(now);
        } else if sequence == 0 && !self.unacked.is_empty() {
            self.doubts += 1;
            if self.doubts % 16 == 3 {
                let first = self.unacked.front().cloned();
                first
                    .into_iter()
                    .for_each(|(sequence, segment)| self.push(sequence, &segment));
            }
        }
        if sequence != 0 {
            if sequence >= self.expected && sequence < self.expected + 1000 {
                self.early.insert(sequence, packet[16..].to_vec());
            }
            while let Some(segment) = self.early.remove(&self.expected) {
                self.expected += 1;
                self.received.extend_from_slice(&segment);
            }
            self.push(0, &[]);
        }
        while let Ok(Some(body)) = frame::next_body(&self.received) {
            let end = body.end;
            arrived
                .frames
                .extend(frame::decode(&self.received[body]).ok());
            self.received.drain(..end);
        }
        self.fill(now);
        arrived
    }

    fn fill(&mut self, now: Instant) {
        while self.is_up() && self.unacked.len() < WINDOW {
            if self.sending.is_empty() {
                let next = self.answers.pop_front().or_else(|| self.offers.pop_front());
                self.sending = next.unwrap_or_default();
            }
            let Some(segment) = self.sending.pop_front() else {
                break;
            };
            let sequence = self.next;
            self.next += 1;
            self.push(sequence, &segment);
            self.unacked.push_back((sequence, segment));
        }
        if self.retry_at.is_none() {
            self.arm(now);
        }
    }

    fn arm(&mut self, now: Instant) {
        self.retry_at = (!self.unacked.is_empty()).then_some(now + RETRY * (1 << self.backoff));
    }

    fn push(&mut self, sequence: u32, segment: &[u8]) {
        let mut packet = vec![STREAM];
        for word in [self.mine, self.theirs, sequence, self.expected] {
            packet.extend_from_slice(&word.to_le_bytes());
        }
        packet.extend_from_slice(segment);
        self.packets.push_back(packet);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

/// The first byte of a stream's packets; the rest is what [`Stream::handle`] takes.
pub const STREAM: u8 = 0;

const SEGMENT: usize = 1100;
const WINDOW: usize = 32;
const RETRY: Duration = Duration::from_millis(400);
const HELLO: Duration = Duration::from_millis(1000);
