//! Inner packets: just enough of IPv6 to route, to check the source and to ask the filter.

use std::net::{IpAddr, Ipv6Addr};

use policy::InnerPacket;
use wire::peer::ROUTER_PORT;
use wire::probe::{IPV6_HEADER, NEXT_HEADER};

/// The largest inner packet.
pub const MAX_PACKET: usize = 1500;

/// The protocol number of UDP.
const UDP: u8 = 17;

/// The addresses and ports of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    protocol: u8,
    src_port: u16,
    dst_port: u16,
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
        // TCP, UDP and SCTP begin with their ports; extension headers are left to the filter, which
        // knows them by number and finds no port.
        let ports = match protocol {
            6 | 17 | 132 => *packet.get(IPV6_HEADER..)?.first_chunk::<4>()?,
            _ => [0; 4],
        };
        Some(Self {
            src: address(&header[8..24])?,
            dst: address(&header[24..40])?,
            protocol,
            src_port: u16::from_be_bytes([ports[0], ports[1]]),
            dst_port: u16::from_be_bytes([ports[2], ports[3]]),
        })
    }

    /// Whether it is one of our own control packets.
    pub(crate) fn is_control(&self) -> bool {
        self.protocol == NEXT_HEADER
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

    /// What the filter looks at of a packet that goes out: the packet that would answer it. A
    /// filter says who may enter here, so we send what belongs to such a conversation.
    pub(crate) fn outbound(&self) -> InnerPacket {
        InnerPacket {
            src: IpAddr::V6(self.dst),
            dst: IpAddr::V6(self.src),
            protocol: self.protocol,
            src_port: self.dst_port,
            dst_port: self.src_port,
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    bytes
        .first_chunk::<16>()
        .map(|octets| Ipv6Addr::from(*octets))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
