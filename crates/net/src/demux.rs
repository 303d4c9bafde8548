//! Which protocol a datagram on the mesh socket is, by its first bytes (paths.md §1).
//!
//! WireGuard messages begin with a type of 1 to 4 and three zero bytes; QUIC packets (RFC 9000
//! §17) have the fixed bit 0x40 or, long headers, 0x80: we never grease it. Everything else is a
//! stranger's and meets silence.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a datagram claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// For the tunnel.
    WireGuard,
    /// For the outer QUIC endpoint, where it comes from a dialled beacon.
    Quic,
    /// For nobody.
    Unknown,
}

/// Classifies one datagram.
pub fn classify(datagram: &[u8]) -> Protocol {
    match datagram {
        [1..=4, 0, 0, 0, ..] => Protocol::WireGuard,
        [first, ..] if first & 0xC0 != 0 => Protocol::Quic,
        _ => Protocol::Unknown,
    }
}

/// Splits a batch of datagrams into its longest runs of one protocol. A batch is one source's, but
/// anybody may forge a source: what one forged datagram is must not decide for its neighbours.
pub fn runs(bytes: &mut [u8], stride: usize) -> Runs<'_> {
    Runs {
        rest: bytes,
        stride: stride.max(1),
    }
}

/// The iterator of [`runs`]: protocol, and datagrams back to back at the same stride.
#[derive(Debug)]
pub struct Runs<'a> {
    rest: &'a mut [u8],
    stride: usize,
}

impl<'a> Iterator for Runs<'a> {
    type Item = (Protocol, &'a mut [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        let protocol = match rest {
            [] => return None,
            _ => classify(rest),
        };
        let same = rest
            .chunks(self.stride)
            .take_while(|datagram| classify(datagram) == protocol);
        let len = same.map(<[u8]>::len).sum();
        let (run, rest) = rest.split_at_mut(len);
        self.rest = rest;
        Some((protocol, run))
    }
}

/// How many datagrams of each kind came; the data plane counts them.
#[derive(Debug, Default)]
pub struct DemuxCounters {
    wireguard: AtomicU64,
    quic: AtomicU64,
    unknown: AtomicU64,
}

impl DemuxCounters {
    /// Counts so many datagrams.
    pub fn record(&self, protocol: Protocol, datagrams: usize) {
        self.of(protocol)
            .fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    /// How many came of this protocol.
    pub fn count(&self, protocol: Protocol) -> u64 {
        self.of(protocol).load(Ordering::Relaxed)
    }

    fn of(&self, protocol: Protocol) -> &AtomicU64 {
        match protocol {
            Protocol::WireGuard => &self.wireguard,
            Protocol::Quic => &self.quic,
            Protocol::Unknown => &self.unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_name_the_protocol() {
        assert_eq!(classify(&[1, 0, 0, 0, 9]), Protocol::WireGuard);
        assert_eq!(classify(&[4, 0, 0, 0]), Protocol::WireGuard);
        assert_eq!(classify(&[4, 0, 1, 0]), Protocol::Unknown);
        assert_eq!(classify(&[0x40]), Protocol::Quic);
        assert_eq!(classify(&[0xC3, 0, 0, 1]), Protocol::Quic);
        assert_eq!(classify(&[5, 0, 0, 0]), Protocol::Unknown);
        assert_eq!(classify(&[]), Protocol::Unknown);
    }

    #[test]
    fn a_forged_datagram_does_not_decide_for_its_neighbours() {
        let mut batch = [4, 0, 0, 0, 4, 0, 0, 0, 0xC0, 0, 0, 0, 4, 0, 0, 0, 7];
        let seen: Vec<_> = runs(&mut batch, 4)
            .map(|(protocol, run)| (protocol, run.len()))
            .collect();

        assert_eq!(
            seen,
            [
                (Protocol::WireGuard, 8),
                (Protocol::Quic, 4),
                (Protocol::WireGuard, 4),
                (Protocol::Unknown, 1)
            ]
        );
    }
}
