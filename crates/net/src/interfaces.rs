//! The addresses of this host at which a peer on the same network might reach it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;

use if_addrs::Interface;

/// What counts as a candidate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Loopback addresses too, and alone where there are no others: for several gateways on one
    /// host (`demo`, `bench`), where both sides' configuration says so.
    pub loopback: bool,
    /// Our own overlay address: its /48 is never a candidate, or the tunnel would run in itself.
    pub overlay: Option<Ipv6Addr>,
}

/// The candidate addresses, best first, at most [`MAX_CANDIDATES`].
///
/// Tunnels, VPNs and container bridges are left out: a path through them is a detour, or our own
/// tail. So are link-local IPv6 addresses, which mean nothing without an interface.
pub fn local_addresses(wanted: Wanted) -> io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    Ok(choose(interfaces, default_sources(), wanted, is_tunnel))
}

fn choose(
    interfaces: Vec<Interface>,
    default_sources: [Option<IpAddr>; 2],
    wanted: Wanted,
    is_tunnel: impl Fn(&str) -> bool,
) -> Vec<IpAddr> {
    let rank = |ip: &IpAddr| match ip {
        ip if default_sources.contains(&Some(*ip)) => 0,
        ip if ip.is_loopback() => 3,
        IpAddr::V4(_) => 1,
        IpAddr::V6(_) => 2,
    };
    let mut addresses: Vec<(u8, IpAddr, String)> = interfaces
        .into_iter()
        .map(|interface| (interface.ip().to_canonical(), interface.name))
        .filter(|(ip, name)| wanted.takes(*ip) && (ip.is_loopback() || !is_bridge(name)))
        .map(|(ip, name)| (rank(&ip), ip, name))
        .collect();
    addresses.sort();
    addresses.dedup_by_key(|(_, ip, _)| *ip);
    // Asking about an interface reads a file: only of those that would be chosen.
    addresses
        .into_iter()
        .filter(|(_, ip, name)| ip.is_loopback() || !is_tunnel(name))
        .map(|(_, ip, _)| ip)
        .take(MAX_CANDIDATES)
        .collect()
}

impl Wanted {
    fn takes(self, ip: IpAddr) -> bool {
        match ip {
            ip if ip.is_loopback() => self.loopback,
            ip if ip.is_unspecified() || ip.is_multicast() => false,
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
            IpAddr::V6(v6) => {
                let mesh = |addr: Ipv6Addr| addr.octets()[..6] == v6.octets()[..6];
                !v6.is_unicast_link_local() && !self.overlay.is_some_and(mesh)
            }
        }
    }
}

/// Bridges of containers and virtual machines, by the names that their makers give them.
fn is_bridge(name: &str) -> bool {
    const BRIDGES: [&str; 9] = [
        "docker", "br-", "virbr", "cni", "lxcbr", "lxdbr", "podman", "flannel", "cali",
    ];
    BRIDGES.iter().any(|prefix| name.starts_with(prefix))
}

/// TUN and TAP devices and the kernel's WireGuard, whatever they are called; elsewhere than on
/// Linux by the usual names.
fn is_tunnel(name: &str) -> bool {
    const TUNNELS: [&str; 7] = ["tun", "tap", "wg", "utun", "tailscale", "zt", "ppp"];
    let device = Path::new("/sys/class/net").join(name);
    if device.join("tun_flags").exists() {
        return true;
    }
    match std::fs::read_to_string(device.join("uevent")) {
        Ok(uevent) => uevent.lines().any(|line| line == "DEVTYPE=wireguard"),
        Err(_) => TUNNELS.iter().any(|prefix| name.starts_with(prefix)),
    }
}

/// The source addresses of the default routes: connecting a UDP socket sends nothing.
fn default_sources() -> [Option<IpAddr>; 2] {
    let source = |any: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip())
    };
    // Documentation addresses (RFC 5737, RFC 3849): routed like any other, used by nobody.
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    [
        source(
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        source(Ipv6Addr::UNSPECIFIED.into(), v6.into()),
    ]
}

/// Of the 32 candidates that a peer may be told (paths.md §1), those that are not observed.
pub const MAX_CANDIDATES: usize = 16;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn interface(name: &str, ip: &str) -> Interface {
        let addr = match ip.parse().expect("literal") {
            IpAddr::V4(ip) => if_addrs::IfAddr::V4(if_addrs::Ifv4Addr {
                ip,
                netmask: Ipv4Addr::BROADCAST,
                prefixlen: 32,
                broadcast: None,
            }),
            IpAddr::V6(ip) => if_addrs::IfAddr::V6(if_addrs::Ifv6Addr {
                ip,
                netmask: Ipv6Addr::LOCALHOST,
                prefixlen: 128,
                broadcast: None,
            }),
        };
        Interface {
            name: name.into(),
            addr,
            index: None,
            oper_status: if_addrs::IfOperStatus::Up,
            is_p2p: false,
        }
    }

    #[test]
    fn detours_and_our_own_tail_are_no_candidates() {
        let all = || {
            vec![
                interface("lo", "127.0.0.1"),
                interface("eth0", "fe80::1"),
                interface("eth0", "2001:db8::5"),
                interface("eth0", "192.168.1.5"),
                interface("wlan0", "10.0.0.7"),
                interface("docker0", "172.17.0.1"),
                interface("crab0", "fd12:3456:789a::1"),
                interface("tailscale0", "100.64.0.9"),
            ]
        };
        let overlay = "fd12:3456:789a:0:1:2:3:4".parse().ok();
        let wanted = Wanted {
            loopback: false,
            overlay,
        };
        let default = [Some([10, 0, 0, 7].into()), None];

        let found = choose(all(), default, wanted, |name| name == "tailscale0");
        let texts: Vec<_> = found.iter().map(IpAddr::to_string).collect();
        assert_eq!(texts, ["10.0.0.7", "192.168.1.5", "2001:db8::5"]);
        let found = choose(
            all(),
            default,
            Wanted {
                loopback: true,
                overlay,
            },
            |_| true,
        );
        assert_eq!(found, [IpAddr::from([127, 0, 0, 1])]);
    }

    #[test]
    fn ten_thousand_interfaces_cost_a_few_questions() {
        let many = (0..10_000u32)
            .map(|n| {
                interface(
                    &format!("eth{n}"),
                    &Ipv4Addr::from(0x0A00_0001 + n).to_string(),
                )
            })
            .collect();
        let asked = Cell::new(0);

        let found = choose(many, [None, None], Wanted::default(), |_| {
            asked.set(asked.get() + 1);
            false
        });
        assert_eq!(found.len(), MAX_CANDIDATES);
        assert!(asked.get() <= MAX_CANDIDATES);
    }
}
