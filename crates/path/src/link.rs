//! Links, and the addresses to which no probe is ever sent.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use wire::NodeId;

/// A way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Link {
    /// Straight, from the one mesh socket to this address.
    Direct {
        /// The peer's address, never IPv4-mapped.
        remote: SocketAddr,
    },
    /// Over a beacon's relay.
    Relay {
        /// The beacon.
        relay: NodeId,
        /// The peer: whom the relay hands it to; on what arrives, by the relay's word, the sender.
        peer: NodeId,
    },
}

impl Link {
    /// Whether the link is straight.
    pub fn is_direct(&self) -> bool {
        matches!(self, Self::Direct { .. })
    }

    /// The peer's address on a straight link.
    pub fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Direct { remote } => Some(*remote),
            Self::Relay { .. } => None,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct { remote } => write!(f, "direct {remote}"),
            Self::Relay { relay, .. } => write!(f, "relay {relay}"),
        }
    }
}

/// Which addresses a peer may be looked for at: a peer names its candidates itself, so a hostile
/// one must not make us probe services of others.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Whether both ends are configured to meet on one machine (`demo`, `bench`).
    pub allow_loopback: bool,
    /// Our overlay address: candidates inside its /48 would put the tunnel inside itself.
    pub overlay: Ipv6Addr,
}

impl Reach {
    /// Whether packets may be sent to this address before it is proven.
    pub fn admits(&self, addr: SocketAddr) -> bool {
        if DENIED_PORTS.contains(&addr.port()) {
            return false;
        }
        match addr.ip().to_canonical() {
            IpAddr::V4(v4) => {
                let loopback = v4.is_loopback();
                let strange = v4.is_unspecified()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || v4.octets()[0] == 0
                    || v4.octets()[0] >= 240;
                !strange && (!loopback || self.allow_loopback)
            }
            IpAddr::V6(v6) => {
                // Link-local needs a scope that no candidate carries.
                let strange = v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unicast_link_local()
                    || v6.segments()[..3] == self.overlay.segments()[..3];
                !strange && (!v6.is_loopback() || self.allow_loopback)
            }
        }
    }

    /// Addresses of one network come before others.
    pub(crate) fn is_near(addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_loopback(),
        }
    }
}

/// Echo-like and amplifying services: none, chargen, DNS, NTP, SSDP, mDNS, memcached.
const DENIED_PORTS: [u16; 7] = [0, 19, 53, 123, 1900, 5353, 11211];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_could_harm_others_are_never_probed() {
        let reach = |allow_loopback| Reach {
            allow_loopback,
            overlay: "fd12:3456:789a::1".parse().expect("an address"),
        };
        let admits = |text: &str| reach(false).admits(text.parse().expect("an address"));

        assert!(admits("192.0.2.1:4747"));
        assert!(admits("10.0.0.1:4747"));
        assert!(admits("[fd00::1]:4747"));
        assert!(!admits("192.0.2.1:53"));
        assert!(!admits("127.0.0.1:4747"));
        assert!(!admits("224.0.0.1:4747"));
        assert!(!admits("255.255.255.255:4747"));
        assert!(!admits("[fe80::1]:4747"));
        assert!(!admits("[::ffff:127.0.0.1]:4747"));
        assert!(!admits("[fd12:3456:789a::2]:4747"));
        assert!(reach(true).admits("127.0.0.1:4747".parse().expect("an address")));
    }
}
