//! What rides inside the WireGuard session beside ordinary packets: IPv6 packets with next header
//! 253 (RFC 3692, for experiments), from the sender's overlay address to the receiver's.
//!
//! ```text
//! IPv6 header 40 │ version 1 │ type 1 │ flags 2 │ body          (all little endian)
//!   PROBE      pair 4  sequence 4  sent_us 8  primary 1  reserved 3  zeros up to the probe's size
//!   PROBE_ACK  pair 4  sequence 4  sent_us 8  received 2  port 2  address 16
//!   CANDS      epoch 4  n 1  { kind 1  priority 1  port 2  address 16 } × n ≤ 32
//!   NOTE       kind 1  reserved 3
//!   FRAGMENT   id 4  index 1  count 1  reserved 2  a part of one packet
//! ```
//! Authenticated and replay-protected by the session, so nothing here carries a MAC. Decoders are
//! total: what does not fit is `None`, and unknown types of a later version are `None` too.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The next-header value of everything in this module (RFC 3692 §2.1).
pub const NEXT_HEADER: u8 = 253;

/// An IPv6 header.
pub const IPV6_HEADER: usize = 40;

/// What precedes the body of each: version, type, flags.
pub const PREFIX: usize = 4;

/// The smallest probe, as an inner packet: header and 40 bytes, so that the answer is no longer.
pub const SMALL_PROBE: usize = IPV6_HEADER + 40;

/// A probe that proves a path for data: a full inner QUIC packet of 1200 bytes with its UDP and
/// IPv6 headers, 1280 bytes as a WireGuard message (paths.md §1, MTU).
pub const FULL_PROBE: usize = 1248;

/// The most candidates that one node tells or believes.
pub const MAX_CANDIDATES: usize = 32;

/// What a fragment spends beside its part of the packet.
pub const FRAGMENT_OVERHEAD: usize = IPV6_HEADER + PREFIX + 8;

/// The most fragments of one packet: 4, so that 1500 bytes pass through any link of 500.
pub const MAX_FRAGMENTS: usize = 4;

/// Asks whether a path carries a packet of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which of the sender's paths; means nothing to the receiver.
    pub pair: u32,
    /// Counts up.
    pub sequence: u32,
    /// The sender's clock in microseconds, any origin.
    pub sent_us: u64,
    /// Whether the sender sends its data on this path.
    pub primary: bool,
}

/// Answers a probe, on the path that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAck {
    /// From the probe.
    pub pair: u32,
    /// From the probe.
    pub sequence: u32,
    /// From the probe.
    pub sent_us: u64,
    /// The size of the probe as it arrived, as an inner packet.
    pub received: u16,
    /// Whence the probe came, where it came straight.
    pub observed: Option<SocketAddr>,
}

/// An address at which a node may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// The address.
    pub addr: SocketAddr,
    /// How it is known.
    pub kind: CandidateKind,
}

/// How a candidate is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of the host itself.
    Host,
    /// What a beacon saw.
    Observed,
    /// Written in the configuration.
    Static,
    /// Mapped by a router on request.
    Mapped,
}

/// One control packet inside the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// Answer me.
    Probe(Probe),
    /// An answer.
    ProbeAck(ProbeAck),
    /// Where I may be reached; replaces what an earlier epoch said.
    Candidates(Candidates<'a>),
    /// A word about the session or its paths.
    Note(Note),
    /// A part of a packet.
    Fragment(Fragment<'a>),
}

/// The candidates of one packet, decoded one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates<'a> {
    /// Counts up each time the list changes.
    pub epoch: u32,
    entries: &'a [u8],
}

/// A word about the session or its paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Please start a new handshake: I have the smaller key.
    PleaseInit,
    /// I send my data over a relay now: what I sent straight was not answered.
    PrimaryRelayed,
    /// My addresses changed: probe me anew.
    NetChange,
    /// I stop keeping our direct path alive.
    GoingIdle,
}

/// A part of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The same for all parts of one packet.
    pub id: u32,
    /// Which part, from 0.
    pub index: u8,
    /// How many parts, 2 to [`MAX_FRAGMENTS`].
    pub count: u8,
    /// The bytes; all parts but the last have the same length.
    pub part: &'a [u8],
}

impl Probe {
    /// Writes a probe of `size` bytes (at least [`SMALL_PROBE`]) as an inner packet.
    pub fn encode(&self, from: Ipv6Addr, to: Ipv6Addr, size: usize, out: &mut Vec<u8>) {
        let start = begin(from, to, PROBE, out);
        out.extend_from_slice(&self.pair.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.sent_us.to_le_bytes());
        out.extend_from_slice(&[u8::from(self.primary), 0, 0, 0]);
        out.resize(start + size.max(SMALL_PROBE), 0);
        finish(start, out);
    }
}

impl ProbeAck {
    /// Writes the answer as an inner packet of [`SMALL_PROBE`] bytes, never more than the probe.
    pub fn encode(&self, from: Ipv6Addr, to: Ipv6Addr, out: &mut Vec<u8>) {
        let start = begin(from, to, PROBE_ACK, out);
        out.extend_from_slice(&self.pair.to_le_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.sent_us.to_le_bytes());
        out.extend_from_slice(&self.received.to_le_bytes());
        let nowhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let observed = self.observed.unwrap_or(nowhere);
        out.extend_from_slice(&observed.port().to_le_bytes());
        out.extend_from_slice(&octets(observed.ip()));
        finish(start, out);
    }
}

impl<'a> Candidates<'a> {
    /// Writes the first [`MAX_CANDIDATES`] of these as an inner packet.
    pub fn encode(
        epoch: u32,
        candidates: &[Candidate],
        from: Ipv6Addr,
        to: Ipv6Addr,
        out: &mut Vec<u8>,
    ) {
        let candidates = &candidates[..candidates.len().min(MAX_CANDIDATES)];
        let start = begin(from, to, CANDS, out);
        out.extend_from_slice(&epoch.to_le_bytes());
        out.push(u8::try_from(candidates.len()).expect("at most MAX_CANDIDATES"));
        for candidate in candidates {
            out.extend_from_slice(&[candidate.kind.to_byte(), 0]);
            out.extend_from_slice(&candidate.addr.port().to_le_bytes());
            out.extend_from_slice(&octets(candidate.addr.ip()));
        }
        finish(start, out);
    }

    /// The candidates; those of an unknown kind are passed over.
    pub fn iter(&self) -> impl Iterator<Item = Candidate> + use<'a> {
        self.entries.chunks_exact(ENTRY).filter_map(|entry| {
            let kind = CandidateKind::from_byte(entry[0])?;
            let addr = address(entry.get(2..)?)?;
            Some(Candidate { addr, kind })
        })
    }
}

impl Note {
    /// Writes the note as an inner packet.
    pub fn encode(self, from: Ipv6Addr, to: Ipv6Addr, out: &mut Vec<u8>) {
        let start = begin(from, to, NOTE, out);
        let kind = match self {
            Self::PleaseInit => 1,
            Self::PrimaryRelayed => 2,
            Self::NetChange => 3,
            Self::GoingIdle => 4,
        };
        out.extend_from_slice(&[kind, 0, 0, 0]);
        finish(start, out);
    }
}

impl Fragment<'_> {
    /// Writes the fragment as an inner packet.
    pub fn encode(&self, from: Ipv6Addr, to: Ipv6Addr, out: &mut Vec<u8>) {
        let start = begin(from, to, FRAGMENT, out);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&[self.index, self.count, 0, 0]);
        out.extend_from_slice(self.part);
        finish(start, out);
    }
}

impl<'a> Control<'a> {
    /// Reads an inner IPv6 packet whose next header is [`NEXT_HEADER`]. The caller has checked the
    /// source address.
    pub fn decode(packet: &'a [u8]) -> Option<Self> {
        if packet.len() < IPV6_HEADER + PREFIX
            || packet[0] >> 4 != 6
            || packet[NEXT_HEADER_AT] != NEXT_HEADER
        {
            return None;
        }
        let body = &packet[IPV6_HEADER..];
        let (&[version, kind, _, _], body) = body.split_first_chunk::<PREFIX>()?;
        if version != VERSION {
            return None;
        }
        match kind {
            PROBE => {
                let (&primary, _) = body.get(16..20)?.split_first()?;
                Some(Self::Probe(Probe {
                    pair: u32_at(body, 0)?,
                    sequence: u32_at(body, 4)?,
                    sent_us: u64_at(body, 8)?,
                    primary: primary != 0,
                }))
            }
            PROBE_ACK => Some(Self::ProbeAck(ProbeAck {
                pair: u32_at(body, 0)?,
                sequence: u32_at(body, 4)?,
                sent_us: u64_at(body, 8)?,
                received: u16_at(body, 16)?,
                observed: address(body.get(18..36)?).filter(|addr| addr.port() != 0),
            })),
            CANDS => {
                let n = usize::from(*body.get(4)?);
                let entries = body.get(5..5 + n * ENTRY)?;
                let epoch = u32_at(body, 0)?;
                (n <= MAX_CANDIDATES).then_some(Self::Candidates(Candidates { epoch, entries }))
            }
            NOTE => match body.first()? {
                1 => Some(Self::Note(Note::PleaseInit)),
                2 => Some(Self::Note(Note::PrimaryRelayed)),
                3 => Some(Self::Note(Note::NetChange)),
                4 => Some(Self::Note(Note::GoingIdle)),
                _ => None,
            },
            FRAGMENT => {
                let (index, count, part) = (*body.get(4)?, *body.get(5)?, body.get(8..)?);
                let fits = (2..=MAX_FRAGMENTS).contains(&usize::from(count)) && index < count;
                let id = u32_at(body, 0)?;
                (fits && !part.is_empty()).then_some(Self::Fragment(Fragment {
                    id,
                    index,
                    count,
                    part,
                }))
            }
            _ => None,
        }
    }
}

impl CandidateKind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Host => 1,
            Self::Observed => 2,
            Self::Static => 3,
            Self::Mapped => 4,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Host),
            2 => Some(Self::Observed),
            3 => Some(Self::Static),
            4 => Some(Self::Mapped),
            _ => None,
        }
    }
}

fn begin(from: Ipv6Addr, to: Ipv6Addr, kind: u8, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    // Version 6; the length is filled in by `finish`; hop limit 1, as nobody forwards these.
    out.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, NEXT_HEADER, 1]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    out.extend_from_slice(&[VERSION, kind, 0, 0]);
    start
}

fn finish(start: usize, out: &mut [u8]) {
    let length = out.len() - start - IPV6_HEADER;
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    out[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A port and an address, as in `CANDS` and `PROBE_ACK`.
fn address(bytes: &[u8]) -> Option<SocketAddr> {
    let octets: [u8; 16] = *bytes.get(2..)?.first_chunk()?;
    Some(SocketAddr::new(
        IpAddr::from(octets).to_canonical(),
        u16_at(bytes, 0)?,
    ))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u64::from_le_bytes)
}

const VERSION: u8 = 1;
const PROBE: u8 = 1;
const PROBE_ACK: u8 = 2;
const CANDS: u8 = 3;
const NOTE: u8 = 4;
const FRAGMENT: u8 = 5;
const ENTRY: usize = 20;
const NEXT_HEADER_AT: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const THERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn all() -> Vec<Vec<u8>> {
        let mut packets = vec![Vec::new(); 5];
        let probe = Probe {
            pair: 7,
            sequence: 9,
            sent_us: 1 << 40,
            primary: true,
        };
        probe.encode(HERE, THERE, FULL_PROBE, &mut packets[0]);
        let observed = Some(addr("192.0.2.1:4747"));
        let ack = ProbeAck {
            pair: 7,
            sequence: 9,
            sent_us: 1 << 40,
            received: 1248,
            observed,
        };
        ack.encode(HERE, THERE, &mut packets[1]);
        let candidates = [
            Candidate {
                addr: addr("192.0.2.1:1"),
                kind: CandidateKind::Host,
            },
            Candidate {
                addr: addr("[2001:db8::1]:2"),
                kind: CandidateKind::Observed,
            },
        ];
        Candidates::encode(3, &candidates, HERE, THERE, &mut packets[2]);
        Note::PleaseInit.encode(HERE, THERE, &mut packets[3]);
        Fragment {
            id: 1,
            index: 1,
            count: 2,
            part: b"part",
        }
        .encode(HERE, THERE, &mut packets[4]);
        packets
    }

    #[test]
    fn every_control_packet_reads_back_what_was_written() {
        let packets = all();

        let probe = Probe {
            pair: 7,
            sequence: 9,
            sent_us: 1 << 40,
            primary: true,
        };
        assert_eq!(Control::decode(&packets[0]), Some(Control::Probe(probe)));
        assert_eq!(packets[0].len(), FULL_PROBE);
        let Some(Control::ProbeAck(ack)) = Control::decode(&packets[1]) else {
            panic!("an ack")
        };
        assert_eq!(
            (ack.received, ack.observed),
            (1248, Some(addr("192.0.2.1:4747")))
        );
        assert!(
            packets[1].len() <= SMALL_PROBE,
            "an answer is no longer than the smallest probe"
        );
        let Some(Control::Candidates(told)) = Control::decode(&packets[2]) else {
            panic!("cands")
        };
        let told: Vec<_> = told.iter().map(|one| one.addr.to_string()).collect();
        assert_eq!(told, ["192.0.2.1:1", "[2001:db8::1]:2"]);
        assert_eq!(
            Control::decode(&packets[3]),
            Some(Control::Note(Note::PleaseInit))
        );
        let part = Fragment {
            id: 1,
            index: 1,
            count: 2,
            part: b"part",
        };
        assert_eq!(Control::decode(&packets[4]), Some(Control::Fragment(part)));
    }

    #[test]
    fn truncated_or_altered_control_packets_never_panic() {
        for packet in all() {
            for end in 0..packet.len().min(200) {
                let _ = Control::decode(&packet[..end]);
            }
            for at in 0..packet.len().min(120) {
                for byte in [0, 1, 0x20, 0x7f, 0xff] {
                    let mut altered = packet.clone();
                    altered[at] = byte;
                    if let Some(Control::Candidates(told)) = Control::decode(&altered) {
                        assert!(told.iter().count() <= MAX_CANDIDATES);
                    }
                }
            }
        }
    }
}
