//! What may enter a gateway: what its filter allows, and what answers a packet of its own. Written
//! from the rules and not from `tunnel`, which is held to it (`members`). Time is left out: the
//! tunnel may let in less.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use identity::NodeId;
use policy::{InnerPacket, PacketFilter};

/// What went over a gateway's inner network.
#[derive(Default)]
pub struct Witness {
    /// Conversations that a packet of the gateway can have opened.
    opened: BTreeSet<Talk>,
    /// All conversations, either way.
    known: BTreeSet<Talk>,
}

/// Protocol, the gateway's port and its peer's; for an echo its identifier, and who asks.
type Talk = (u8, u16, u16);

impl Witness {
    /// The gateway sent this packet.
    pub fn handle_sent(&mut self, packet: &[u8]) {
        let Some(talk) = talk(packet, true) else {
            return;
        };
        self.known.insert(talk);
        let opens = match packet[6] {
            TCP => flags(packet) & (FIN | SYN | RST | ACK) == SYN,
            ICMPV6 => packet.get(40) == Some(&128),
            _ => true,
        };
        if opens {
            self.opened.insert(talk);
        }
    }

    /// The gateway took this packet in. Panics if it may not have.
    pub fn handle_entered(&mut self, packet: &[u8], peer: &NodeId, filter: &PacketFilter) {
        let talk = talk(packet, false);
        let answers = talk.is_some_and(|talk| self.opened.contains(&talk));
        let allowed = || filter.allows(peer, &seen(packet));
        let may = match (packet[6], packet.get(40), packet.len()) {
            (FRAGMENT, ..) => false,
            (ICMPV6, Some(..128), 48..) => {
                let about = self::talk(packet.get(48..).unwrap_or_default(), true);
                about.is_some_and(|about| self.known.contains(&about))
            }
            _ => answers || allowed(),
        };
        assert!(may, "neither allowed nor an answer: {packet:02x?}");
        self.known.extend(talk);
    }
}

fn talk(packet: &[u8], from_gateway: bool) -> Option<Talk> {
    let (protocol, body) = (*packet.get(6)?, packet.get(40..)?);
    let word = |at: usize| {
        let bytes = body.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*bytes))
    };
    match protocol {
        TCP | UDP | SCTP => {
            let (from, to) = (word(0)?, word(2)?);
            let ports = if from_gateway { (from, to) } else { (to, from) };
            let router = protocol == UDP && (from == ROUTER_PORT || to == ROUTER_PORT);
            (!router).then_some((protocol, ports.0, ports.1))
        }
        ICMPV6 if body.len() >= 8 => {
            let asks = match body.first()? {
                128 => from_gateway,
                129 => !from_gateway,
                _ => return None,
            };
            Some((protocol, word(4)?, u16::from(asks)))
        }
        _ => None,
    }
}

fn seen(packet: &[u8]) -> InnerPacket {
    let address = |at: usize| {
        let octets = packet[at..].first_chunk::<16>().expect("a whole header");
        IpAddr::V6(Ipv6Addr::from(*octets))
    };
    let port = |at: usize| match packet[6] {
        TCP | UDP | SCTP => u16::from_be_bytes([packet[at], packet[at + 1]]),
        _ => 0,
    };
    InnerPacket {
        src: address(8),
        dst: address(24),
        protocol: packet[6],
        src_port: port(40),
        dst_port: port(42),
    }
}

fn flags(packet: &[u8]) -> u8 {
    packet.get(53).copied().unwrap_or(0)
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
/// Flags of TCP.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const ROUTER_PORT: u16 = 4747;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::PEER;

    #[test]
    #[should_panic(expected = "neither allowed nor an answer")]
    fn what_nobody_asked_for_is_noticed() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, UDP, 64];
        packet.extend([0; 32]);
        packet.extend([0, 53, 0x13, 0x88, 0, 8, 0, 0]);

        let deny = PacketFilter::deny_all();
        Witness::default().handle_entered(&packet, &PEER, &deny);
    }
}
