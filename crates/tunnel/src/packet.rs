//! Inner packets: just enough of IPv6 to route, to check the source, to ask the filter, and to tell
//! which flow a packet belongs to.

use std::net::{IpAddr, Ipv6Addr};

use policy::InnerPacket;
use wire::peer::ROUTER_PORT;
use wire::probe::{IPV6_HEADER, NEXT_HEADER};

/// The largest inner packet.
pub const MAX_PACKET: usize = 1500;

/// The addresses and ports of an inner packet, and its part in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    protocol: u8,
    src_port: u16,
    dst_port: u16,
    pub(crate) part: Part,
}

/// What a packet is in the conversation of two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A TCP segment.
    Segment(TcpFlags),
    /// A packet of a protocol with ports that says nothing about beginning and end.
    Datagram,
    /// An echo request (RFC 4443 §4.1) with its identifier.
    EchoRequest(u16),
    /// An echo reply (RFC 4443 §4.2) with its identifier.
    EchoReply(u16),
    /// An ICMPv6 error (RFC 4443 §3), and the ends of the packet that it quotes, if they can be read.
    Error(Option<Ends>),
    /// A fragment, the first ones included.
    Fragment,
    /// Anything else: no answer to it can be told from a packet that answers nothing.
    Lone,
}

/// The two ends of a conversation, from the sender of a packet to its receiver.
///
/// A port is of 16 bits. Who asks for an echo has its identifier for a port, who answers has
/// [`NO_PORT`]: so our questions are never taken for the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) protocol: u8,
    pub(crate) src: (Ipv6Addr, u32),
    pub(crate) dst: (Ipv6Addr, u32),
}

/// The flags that begin and end a TCP connection (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpFlags {
    pub(crate) fin: bool,
    pub(crate) syn: bool,
    pub(crate) rst: bool,
    pub(crate) ack: bool,
}

impl Header {
    /// Reads an IPv6 packet whose length field is right.
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[0] >> 4 != 6 || packet.len() != IPV6_HEADER + length || packet.len() > MAX_PACKET
        {
            return None;
        }
        let protocol = header[6];
        let body = packet.get(IPV6_HEADER..)?;
        // Extension headers are left to the filter, which knows them by number and finds no port.
        let (src_port, dst_port) = match protocol {
            TCP | UDP | SCTP => ports(body)?,
            _ => (0, 0),
        };
        let part = match protocol {
            TCP => Part::Segment(TcpFlags::parse(body)?),
            UDP | SCTP => Part::Datagram,
            ICMPV6 => Part::of_icmp(body),
            FRAGMENT => Part::Fragment,
            _ => Part::Lone,
        };
        Some(Self {
            src: address(&header[8..24])?,
            dst: address(&header[24..40])?,
            protocol,
            src_port,
            dst_port,
            part,
        })
    }

    /// Whether it is one of our own control packets.
    pub(crate) fn is_control(&self) -> bool {
        self.protocol == NEXT_HEADER
    }

    /// The conversation that it is a part of, if answers to it can be told.
    pub(crate) fn ends(&self) -> Option<Ends> {
        let (src, dst) = match self.part {
            Part::Segment(_) | Part::Datagram => (self.src_port.into(), self.dst_port.into()),
            Part::EchoRequest(id) => (id.into(), NO_PORT),
            Part::EchoReply(id) => (NO_PORT, id.into()),
            Part::Error(_) | Part::Fragment | Part::Lone => return None,
        };
        Some(Ends {
            protocol: self.protocol,
            src: (self.src, src),
            dst: (self.dst, dst),
        })
    }

    /// Whether it goes between two routers.
    pub(crate) fn is_router(&self) -> bool {
        self.protocol == UDP && self.src_port == ROUTER_PORT && self.dst_port == ROUTER_PORT
    }

    /// What the filter looks at of a packet that comes in.
    pub(crate) fn inbound(&self) -> InnerPacket {
        InnerPacket {
            src: IpAddr::V6(self.src),
            dst: IpAddr::V6(self.dst),
            protocol: self.protocol,
            src_port: self.src_port,
            dst_port: self.dst_port,
        }
    }
}

impl Part {
    /// Reads an ICMPv6 message (RFC 4443 §2.1); one that is cut short belongs to nothing.
    fn of_icmp(message: &[u8]) -> Self {
        let Some(&[kind, _, _, _, high, low, _, _]) = message.first_chunk::<ICMP_HEADER>() else {
            return Self::Lone;
        };
        let id = u16::from_be_bytes([high, low]);
        match kind {
            ECHO_REQUEST => Self::EchoRequest(id),
            ECHO_REPLY => Self::EchoReply(id),
            0..ECHO_REQUEST => Self::Error(quoted(&message[ICMP_HEADER..])),
            _ => Self::Lone,
        }
    }

    /// Whether it asks for a new connection.
    pub(crate) fn is_opening(&self) -> bool {
        matches!(self, Self::Segment(flags) if flags.syn && !flags.ack && !flags.rst && !flags.fin)
    }
}

impl TcpFlags {
    fn parse(segment: &[u8]) -> Option<Self> {
        let header: &[u8; TCP_HEADER] = segment.first_chunk()?;
        let flags = header[13];
        Some(Self {
            fin: flags & 0x01 != 0,
            syn: flags & 0x02 != 0,
            rst: flags & 0x04 != 0,
            ack: flags & 0x10 != 0,
        })
    }
}

/// The ends of the packet that an error is about: its beginning follows the error's header. One with
/// extension headers, or an error itself, has none.
fn quoted(packet: &[u8]) -> Option<Ends> {
    let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
    let body = packet.get(IPV6_HEADER..)?;
    let protocol = header[6];
    let (part, (src_port, dst_port)) = match protocol {
        // Which segment or datagram it was does not matter, and its flags may be cut off.
        TCP | UDP | SCTP => (Part::Datagram, ports(body)?),
        ICMPV6 => match body.first() {
            Some(&(ECHO_REQUEST | ECHO_REPLY)) => (Part::of_icmp(body), (0, 0)),
            _ => return None,
        },
        _ => return None,
    };
    let quoted = Header {
        src: address(&header[8..24])?,
        dst: address(&header[24..40])?,
        protocol,
        src_port,
        dst_port,
        part,
    };
    quoted.ends().filter(|_| header[0] >> 4 == 6)
}

fn ports(body: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *body.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    bytes
        .first_chunk::<16>()
        .map(|octets| Ipv6Addr::from(*octets))
}

/// Protocol numbers of IANA.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

/// The port of an end that has none.
pub(crate) const NO_PORT: u32 = 1 << 16;

/// Types of ICMPv6 messages (RFC 4443 §4); those below are errors, known or not (§2.1).
const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;

/// A TCP header without options (RFC 9293 §3.1).
const TCP_HEADER: usize = 20;

/// Type, code, checksum, and four bytes that depend on the type (RFC 4443 §3 and §4).
const ICMP_HEADER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("small");
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([protocol, 64]);
        packet.extend([1; 16]);
        packet.extend([2; 16]);
        packet.extend(body);
        packet
    }

    fn part(protocol: u8, body: &[u8]) -> Option<Part> {
        Header::parse(&packet(protocol, body)).map(|header| header.part)
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut packet = vec![0; 60];
        packet[0] = 0x60;
        packet[5] = 20;
        packet[6] = 17;
        assert!(Header::parse(&packet).is_some());

        packet[5] = 21;
        assert_eq!(Header::parse(&packet), None);
        packet[5] = 20;
        packet[0] = 0x45;
        assert_eq!(Header::parse(&packet), None);
        assert_eq!(Header::parse(&packet[..39]), None);
        let mut short = vec![0; 42];
        (short[0], short[5], short[6]) = (0x60, 2, 17);
        assert_eq!(Header::parse(&short), None, "a UDP packet without ports");
    }

    #[test]
    fn tcp_flags_are_read_and_a_segment_without_a_whole_header_is_refused() {
        let mut segment = [0; TCP_HEADER];
        segment[13] = 0x12;
        let syn_ack = TcpFlags {
            fin: false,
            syn: true,
            rst: false,
            ack: true,
        };

        assert_eq!(part(TCP, &segment), Some(Part::Segment(syn_ack)));
        assert_eq!(part(TCP, &segment[..19]), None);
        assert!(!Part::Segment(syn_ack).is_opening());
        let syn = TcpFlags {
            ack: false,
            ..syn_ack
        };
        assert!(Part::Segment(syn).is_opening());
    }

    #[test]
    fn echoes_carry_their_identifier_and_cut_ones_belong_to_nothing() {
        let request = [ECHO_REQUEST, 0, 0, 0, 0x12, 0x34, 0, 1];

        assert_eq!(part(ICMPV6, &request), Some(Part::EchoRequest(0x1234)));
        assert_eq!(part(ICMPV6, &request[..7]), Some(Part::Lone));
        assert_eq!(part(ICMPV6, &[]), Some(Part::Lone));
        assert_eq!(
            part(ICMPV6, &[135, 0, 0, 0, 0, 0, 0, 0]),
            Some(Part::Lone),
            "a neighbour solicitation"
        );
    }

    #[test]
    fn an_error_quotes_the_packet_that_it_is_about() {
        let quoted = packet(UDP, &[0x13, 0x88, 0x00, 0x35, 0, 8, 0, 0]);
        let error = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &quoted].concat();

        let ends = Ends {
            protocol: UDP,
            src: ([1; 16].into(), 5000),
            dst: ([2; 16].into(), 53),
        };
        assert_eq!(part(ICMPV6, &error), Some(Part::Error(Some(ends))));
        for length in 0..error.len() - 4 {
            let cut = part(ICMPV6, &error[..length]);
            let unreadable = matches!(cut, Some(Part::Error(None) | Part::Lone));
            assert!(unreadable, "{length} bytes: {cut:?}");
        }
        let fragment = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &packet(FRAGMENT, &[0; 8])].concat();
        assert_eq!(part(ICMPV6, &fragment), Some(Part::Error(None)));
    }

    #[test]
    fn an_error_about_an_error_or_in_another_version_quotes_nothing() {
        let error = |quoted: &[u8]| [&[3, 0, 0, 0, 0, 0, 0, 0][..], quoted].concat();
        let about = error(&packet(ICMPV6, &error(&packet(UDP, &[0; 8]))));
        let mut old = error(&packet(UDP, &[0; 8]));
        old[8] = 0x45;

        assert_eq!(part(ICMPV6, &about), Some(Part::Error(None)));
        assert_eq!(part(ICMPV6, &old), Some(Part::Error(None)));
    }

    #[test]
    fn who_asks_for_an_echo_has_a_port_and_who_answers_has_none() {
        let ends = |kind| {
            let header = Header::parse(&packet(ICMPV6, &[kind, 0, 0, 0, 0, 7, 0, 1]));
            let ends = header.and_then(|header| header.ends()).expect("an echo");
            (ends.src.1, ends.dst.1)
        };

        assert_eq!(ends(ECHO_REQUEST), (7, NO_PORT));
        assert_eq!(ends(ECHO_REPLY), (NO_PORT, 7));
    }

    #[test]
    fn a_fragment_is_known_as_one_whichever_it_is() {
        let first = [UDP, 0, 0, 1, 0, 0, 0, 7, 0x13, 0x88, 0, 0x35];

        assert_eq!(part(FRAGMENT, &first), Some(Part::Fragment));
        assert_eq!(part(FRAGMENT, &[]), Some(Part::Fragment));
    }
}
