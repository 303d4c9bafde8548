//! The inner packet: IPv6 (RFC 8200) with UDP (RFC 768) in it and nothing else.

use std::net::{Ipv6Addr, SocketAddrV6};

use quinn::udp::EcnCodepoint;

/// IPv6 and UDP headers.
pub const HEADER_BYTES: usize = IPV6_BYTES + UDP_BYTES;

/// A parsed inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerPacket<'a> {
    /// Who sent it; the tunnel has checked the address.
    pub source: SocketAddrV6,
    /// For whom.
    pub destination: SocketAddrV6,
    /// Congestion marks (RFC 3168).
    pub ecn: Option<EcnCodepoint>,
    /// What UDP carries; never empty.
    pub payload: &'a [u8],
}

impl<'a> InnerPacket<'a> {
    /// Reads a packet. The UDP checksum is not looked at: the tunnel has authenticated every bit.
    /// Bytes after the IPv6 length (WireGuard's padding) are ignored.
    pub fn parse(packet: &'a [u8]) -> Result<Self, PacketFault> {
        let header: &[u8; HEADER_BYTES] = packet.first_chunk().ok_or(PacketFault::Short)?;
        if header[0] >> 4 != 6 || header[6] != NEXT_HEADER_UDP {
            return Err(PacketFault::NotUdp);
        }
        let short = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let address = |at: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&header[at..at + 16]);
            Ipv6Addr::from(bytes)
        };
        let end = IPV6_BYTES + usize::from(short(4));
        let payload = packet.get(HEADER_BYTES..end).ok_or(PacketFault::Short)?;
        if usize::from(short(44)) != UDP_BYTES + payload.len() || payload.is_empty() {
            return Err(PacketFault::Length);
        }
        Ok(Self {
            source: SocketAddrV6::new(address(8), short(40), 0, 0),
            destination: SocketAddrV6::new(address(24), short(42), 0, 0),
            ecn: EcnCodepoint::from_bits(header[1] >> 4),
            payload,
        })
    }
}

/// Why bytes are no inner packet for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketFault {
    /// Shorter than its headers, or than they say.
    #[error("inner packet is cut short")]
    Short,
    /// Another protocol, or an extension header, which we never send.
    #[error("inner packet is not plain udp over ipv6")]
    NotUdp,
    /// The UDP length does not fit the IPv6 length.
    #[error("inner packet contradicts its length")]
    Length,
}

/// Writes headers and payload to `out`, which is as long as both.
pub(super) fn write(
    source: SocketAddrV6,
    destination: SocketAddrV6,
    ecn: Option<EcnCodepoint>,
    payload: &[u8],
    out: &mut [u8],
) {
    let Some((header, body)) = out.split_first_chunk_mut::<HEADER_BYTES>() else {
        return;
    };
    body.copy_from_slice(payload);
    // Quinn's datagrams are far below 64 KiB; anything else would be refused by the receiver.
    let udp_length = u16::try_from(UDP_BYTES + payload.len()).unwrap_or(u16::MAX);
    let traffic_class = ecn.map_or(0, |ecn| ecn as u8);
    header[..4].copy_from_slice(&[0x60, traffic_class << 4, 0, 0]);
    header[4..6].copy_from_slice(&udp_length.to_be_bytes());
    header[6] = NEXT_HEADER_UDP;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&source.ip().octets());
    header[24..40].copy_from_slice(&destination.ip().octets());
    header[40..42].copy_from_slice(&source.port().to_be_bytes());
    header[42..44].copy_from_slice(&destination.port().to_be_bytes());
    header[44..46].copy_from_slice(&udp_length.to_be_bytes());
    header[46..48].copy_from_slice(&[0, 0]);
    let [high, low] = udp_length.to_be_bytes();
    let pseudo = [high, low, 0, NEXT_HEADER_UDP];
    let total = sum(&header[8..]) + sum(&pseudo) + sum(body);
    header[46..48].copy_from_slice(&checksum(total).to_ne_bytes());
}

/// The one's complement sum (RFC 1071) in the machine's own byte order, four bytes at a time: the
/// sum does not care, as long as the result is stored in that order too.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let whole: u64 = words
        .by_ref()
        .map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .sum();
    let mut last = [0; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    whole + u64::from(u32::from_ne_bytes(last))
}

fn checksum(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    match u16::try_from(sum).map(|sum| !sum) {
        Ok(0) | Err(_) => 0xFFFF, // zero would mean "none", which IPv6 forbids (RFC 8200 §8.1)
        Ok(checksum) => checksum,
    }
}

const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const NEXT_HEADER_UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u16, port: u16) -> SocketAddrV6 {
        SocketAddrV6::new(
            Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0, 1, 2, 3, last),
            port,
            0,
            0,
        )
    }

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0xAA; HEADER_BYTES + payload.len()];
        write(
            addr(1, 4747),
            addr(2, 4748),
            Some(EcnCodepoint::Ect0),
            payload,
            &mut out,
        );
        out
    }

    #[test]
    fn a_packet_reads_back_as_written() {
        let bytes = packet(b"hello");

        let read = InnerPacket::parse(&bytes).expect("ours");
        assert_eq!(read.source, addr(1, 4747));
        assert_eq!(read.destination, addr(2, 4748));
        assert_eq!(read.ecn, Some(EcnCodepoint::Ect0));
        assert_eq!(read.payload, b"hello");
    }

    #[test]
    fn the_checksum_is_the_one_of_the_rfc() {
        for len in [1usize, 2, 3, 4, 5, 1199, 1200, 1392] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let bytes = packet(&payload);
            // Over pseudo-header, UDP header with checksum, and payload the sum is all ones.
            let mut plain = bytes[8..].to_vec();
            plain.extend([0, 0, 0, 17]);
            plain.extend(u32::try_from(8 + len).expect("short").to_be_bytes());
            let mut total = 0u32;
            // The two extra fields must stay on a 16-bit boundary.
            let split = plain.len() - 8;
            for part in [&plain[..split], &plain[split..]] {
                for pair in part.chunks(2) {
                    total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
                }
            }
            while total > 0xFFFF {
                total = (total & 0xFFFF) + (total >> 16);
            }
            assert_eq!(total, 0xFFFF, "{len} bytes");
        }
    }

    #[test]
    fn what_is_cut_or_contradicts_itself_is_refused() {
        let good = packet(b"hello");
        for len in 0..good.len() {
            assert!(InnerPacket::parse(&good[..len]).is_err(), "cut to {len}");
        }
        let mut padded = good.clone();
        padded.extend([0; 11]);
        assert_eq!(
            InnerPacket::parse(&padded).map(|read| read.payload),
            Ok(&b"hello"[..])
        );
        let mut tcp = good.clone();
        tcp[6] = 6;
        assert_eq!(InnerPacket::parse(&tcp), Err(PacketFault::NotUdp));
        let mut lying = good;
        lying[45] += 1;
        assert_eq!(InnerPacket::parse(&lying), Err(PacketFault::Length));
    }
}
