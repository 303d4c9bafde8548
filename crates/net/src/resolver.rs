//! From `HOST:PORT` to addresses: IP literals, the hosts file, then DNS as this system is set up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use identity::HostPort;
use tracing::debug;

/// The addresses of a beacon, at most [`MAX_ADDRESSES`], IPv6 and IPv4 in turn.
///
/// The system's configuration is read each time: a laptop moves between networks, and a beacon is
/// looked up only to dial it.
pub async fn resolve(beacon: &HostPort) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Ok(ip) = beacon.host().parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, beacon.port())]);
    }
    if beacon.host() == "localhost" {
        // Loopback by definition (RFC 6761 §6.3), also where no hosts file says so.
        let loopback = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ];
        return Ok(loopback
            .map(|ip| SocketAddr::new(ip, beacon.port()))
            .to_vec());
    }
    let host = || beacon.host().to_owned();
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        // A minimal container without resolv.conf may still have a hosts file.
        debug!(%error, "no usable resolver configuration: hosts file only");
        TokioResolver::builder_with_config(
            ResolverConfig::from_name_servers(Vec::new()),
            TokioRuntimeProvider::default(),
        )
    });
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.timeout = ATTEMPT;
    options.attempts = 2;
    let resolver = builder
        .build()
        .map_err(|source| ResolveError::Configuration {
            host: host(),
            source: Box::new(source),
        })?;
    let found = tokio::time::timeout(TIMEOUT, resolver.lookup_ip(beacon.host()))
        .await
        .map_err(|_| ResolveError::TimedOut { host: host() })?
        .map_err(|source| ResolveError::Lookup {
            host: host(),
            source: Box::new(source),
        })?;
    let addresses = in_turn(found.iter());
    match addresses.is_empty() {
        true => Err(ResolveError::NoAddress { host: host() }),
        false => Ok(addresses
            .into_iter()
            .map(|ip| SocketAddr::new(ip, beacon.port()))
            .collect()),
    }
}

/// IPv6 and IPv4 in turn (RFC 8305 §4), so that a broken family costs one try, not all.
fn in_turn(found: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = found.partition(IpAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut addresses = Vec::new();
    while addresses.len() < MAX_ADDRESSES {
        match (v6.next(), v4.next()) {
            (None, None) => break,
            (first, second) => addresses.extend(first.into_iter().chain(second)),
        }
    }
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// Why a beacon's name has no address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The resolver could not be set up.
    #[error("cannot look up {host}: the system's resolver configuration is unusable")]
    Configuration {
        /// What was looked up.
        host: String,
        /// Why.
        source: Box<NetError>,
    },
    /// No name server answered in time.
    #[error("cannot look up {host}: no answer within {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// What was looked up.
        host: String,
    },
    /// The name does not exist, or the name servers failed.
    #[error("cannot look up {host}")]
    Lookup {
        /// What was looked up.
        host: String,
        /// Why.
        source: Box<NetError>,
    },
    /// The name exists and has neither an A nor an AAAA record.
    #[error("{host} has no address")]
    NoAddress {
        /// What was looked up.
        host: String,
    },
}

/// What one name may make us dial.
pub const MAX_ADDRESSES: usize = 8;

const ATTEMPT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_and_localhost_need_no_name_server() {
        for (text, first) in [
            ("192.0.2.1:443", "192.0.2.1:443"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("localhost:4747", "127.0.0.1:4747"),
        ] {
            let found = resolve(&text.parse().expect("an address"))
                .await
                .expect("known");
            assert_eq!(found[0], first.parse().expect("an address"));
        }
    }

    #[test]
    fn families_take_turns_and_are_bounded() {
        let v6: IpAddr = "2001:db8::1".parse().expect("literal");
        let v4: Vec<IpAddr> = (1..20u8).map(|n| IpAddr::from([192, 0, 2, n])).collect();

        let found = in_turn(v4.iter().copied().chain([v6]));
        assert_eq!(found.len(), MAX_ADDRESSES);
        assert_eq!(found[..3], [v6, v4[0], v4[1]]);
    }
}
