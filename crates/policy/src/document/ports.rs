//! What an `ip` grant opens: protocols and ports.

use std::cmp::Ordering;
use std::fmt;
use std::ops::RangeInclusive;

/// A set of protocols and a range of destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    protocols: Protocols,
    range: RangeInclusive<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocols {
    /// TCP, UDP, ICMP and ICMPv6: what Tailscale means where no protocol is written.
    Common,
    /// One IANA protocol number.
    Only(u8),
}

/// The protocols that have a name here, with their IANA numbers.
const NAMED: [(&str, u8); 11] = [
    ("icmp", ICMP),
    ("igmp", 2),
    ("ipv4", 4),
    ("tcp", TCP),
    ("egp", 8),
    ("igp", 9),
    ("udp", UDP),
    ("gre", 47),
    ("esp", 50),
    ("ipv6-icmp", ICMPV6),
    ("sctp", SCTP),
];

/// What is meant where no protocol is written.
pub(crate) const COMMON: [u8; 4] = [TCP, UDP, ICMP, ICMPV6];

const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

impl Ports {
    /// Whether a packet of this protocol to this port is meant. A protocol without ports passes
    /// whatever the range: who may open a port of a host may also ping it.
    pub fn matches(&self, protocol: u8, port: u16) -> bool {
        let meant = match self.protocols {
            Protocols::Common => COMMON.contains(&protocol),
            Protocols::Only(only) => protocol == only,
        };
        meant && (!has_ports(protocol) || self.range.contains(&port))
    }

    /// One entry of a grant's `ip`: `*`, `22`, `80-443`, `tcp:443`, `icmp:*`, `47:*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None => Ok(Self {
                protocols: Protocols::Common,
                range: parse_range(text)?,
            }),
            Some((protocol, ports)) => {
                let number = parse_protocol(protocol)?;
                let range = parse_range(ports)?;
                if !has_ports(number) && range != (0..=u16::MAX) {
                    return Err(format!("{protocol} has no ports: write \"{protocol}:*\""));
                }
                Ok(Self {
                    protocols: Protocols::Only(number),
                    range,
                })
            }
        }
    }

    /// The ports of an `acls` destination (`*`, `22`, `80,443`, `1000-2000`), with its `proto`.
    pub fn parse_list(text: &str, protocol: Option<u8>) -> Result<Vec<Self>, String> {
        let protocols = protocol.map_or(Protocols::Common, Protocols::Only);
        text.split(',')
            .map(|part| {
                Ok(Self {
                    protocols,
                    range: parse_range(part)?,
                })
            })
            .collect()
    }
}

impl Ports {
    /// The protocols, by their IANA numbers; none stands for the four of [`Protocols::Common`].
    pub fn protocol(&self) -> Option<u8> {
        match self.protocols {
            Protocols::Common => None,
            Protocols::Only(number) => Some(number),
        }
    }

    /// One protocol, or all four common ones, from one port to another.
    pub fn new(protocol: Option<u8>, (first, last): (u16, u16)) -> Self {
        Self {
            protocols: protocol.map_or(Protocols::Common, Protocols::Only),
            range: first..=last,
        }
    }

    /// Every protocol that it opens.
    pub fn all_protocols(&self) -> &[u8] {
        match &self.protocols {
            Protocols::Common => &COMMON,
            Protocols::Only(number) => std::slice::from_ref(number),
        }
    }

    /// First and last port.
    pub fn range(&self) -> (u16, u16) {
        (*self.range.start(), *self.range.end())
    }

    /// Whether everything that the other opens is opened by this one too.
    pub fn covers(&self, other: &Self) -> bool {
        let protocols = match (self.protocols, other.protocols) {
            (Protocols::Common, Protocols::Only(number)) => COMMON.contains(&number),
            (Protocols::Only(_), Protocols::Common) => false,
            (mine, theirs) => mine == theirs,
        };
        let inside =
            self.range.start() <= other.range.start() && self.range.end() >= other.range.end();
        let portless = other.all_protocols().iter().all(|it| !has_ports(*it));
        protocols && (inside || portless)
    }
}

impl PartialOrd for Ports {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ports {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |ports: &Self| (ports.protocol(), ports.range());
        key(self).cmp(&key(other))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Protocols::Only(number) = self.protocols {
            match NAMED.iter().find(|(_, named)| *named == number) {
                Some((name, _)) => write!(f, "{name}:")?,
                None => write!(f, "{number}:")?,
            }
        }
        match (*self.range.start(), *self.range.end()) {
            (0, u16::MAX) => f.write_str("*"),
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Whether a protocol has ports where TCP has them.
pub(crate) fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// A protocol by name or by its IANA number, 1 to 255.
pub(crate) fn parse_protocol(text: &str) -> Result<u8, String> {
    let named = NAMED
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, number)| *number);
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    named
        .or_else(|| {
            digits
                .then(|| text.parse().ok())
                .flatten()
                .filter(|number| *number != 0)
        })
        .ok_or_else(|| format!("protocol {text:?}: neither a name nor a number from 1 to 255"))
}

/// A single port from 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    if text == "*" {
        return Ok(0..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first =
        parse_port(first).ok_or_else(|| format!("port range {text:?}: invalid first integer"))?;
    let last =
        parse_port(last).ok_or_else(|| format!("port range {text:?}: invalid last integer"))?;
    if first == 0 {
        return Err(format!(
            "port range {text:?}: first port must be >0, or use '*' for wildcard"
        ));
    }
    match first <= last {
        true => Ok(first..=last),
        false => Err(format!(
            "port range {text:?}: first port must be <= last port"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_a_port_on_four_protocols() {
        let ports = Ports::parse("47").expect("a port");

        assert!(ports.matches(TCP, 47) && ports.matches(UDP, 47) && ports.matches(ICMPV6, 0));
        assert!(!ports.matches(TCP, 48) && !ports.matches(47, 0));
        assert!(Ports::parse("47:*").expect("gre").matches(47, 0));
        for text in ["*", "22", "80-443", "tcp:443", "gre:*", "99:*"] {
            assert_eq!(
                Ports::parse(text).map(|ports| ports.to_string()),
                Ok(text.into())
            );
        }
    }

    #[test]
    fn mistakes_are_named_as_tailscale_names_them() {
        let of = |text| Ports::parse(text).expect_err("refused");

        assert_eq!(of("icmp"), "port range \"icmp\": invalid first integer");
        assert_eq!(
            of("0"),
            "port range \"0\": first port must be >0, or use '*' for wildcard"
        );
        assert_eq!(
            of("443-80"),
            "port range \"443-80\": first port must be <= last port"
        );
        assert!(of("icmp:22").contains("no ports"));
        assert!(of("tpc:22").starts_with("protocol \"tpc\""));
        assert!(of("+22").contains("invalid first integer"));
        assert!(of("65536").contains("invalid first integer"));
    }
}
