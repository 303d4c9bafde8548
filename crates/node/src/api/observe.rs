//! Under which users agents were seen: what `status` says about isolation.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use api::Isolation;

use super::gate::Peer;

/// What was seen of agents' users since the start.
#[derive(Debug)]
pub(super) struct Seen {
    started: Instant,
    own: AtomicBool,
    other: AtomicBool,
    /// When the kernel was last asked about a TCP connection, in milliseconds, plus one.
    asked: AtomicU64,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            own: AtomicBool::new(false),
            other: AtomicBool::new(false),
            asked: AtomicU64::new(0),
        }
    }

    /// An agent called.
    pub(super) fn agent(&self, peer: Peer, own_uid: u32, loopback: SocketAddr) {
        let uid = match peer {
            Peer::Unix { uid } => Some(uid),
            Peer::Tcp { remote } if self.may_ask() => owner_of(remote, loopback),
            Peer::Tcp { .. } => None,
        };
        match uid {
            Some(uid) if uid == own_uid => self.own.store(true, Ordering::Relaxed),
            Some(_) => self.other.store(true, Ordering::Relaxed),
            None => {}
        }
    }

    pub(super) fn isolation(&self) -> Isolation {
        match (
            self.own.load(Ordering::Relaxed),
            self.other.load(Ordering::Relaxed),
        ) {
            (false, true) => Isolation::Uid,
            _ => Isolation::None,
        }
    }

    /// The kernel lists every socket of the host: at most one look in five seconds.
    fn may_ask(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0) + 1;
        let last = self.asked.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= 5_000;
        due && self
            .asked
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

/// The uid behind the far end of a loopback connection, from `/proc/net/tcp` (proc(5)).
fn owner_of(remote: SocketAddr, loopback: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (theirs, ours) = (hex(remote)?, hex(loopback)?);
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let found = fields.next() == Some(&theirs) && fields.next() == Some(&ours);
        // What follows: st, queues, timer, retransmits, and then the uid.
        found.then(|| fields.nth(4)).flatten()?.parse().ok()
    })
}

/// An IPv4 address as that table writes it: the address in the host's byte order.
fn hex(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V4(v4) => {
            let ip = u32::from_ne_bytes(v4.ip().octets());
            Some(format!("{ip:08X}:{:04X}", v4.port()))
        }
        SocketAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_kernel_tells_who_is_behind_a_loopback_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let ours = listener.local_addr().expect("an address");
        let client = TcpStream::connect(ours).expect("connected");
        let theirs = client.local_addr().expect("an address");

        assert_eq!(
            owner_of(theirs, ours),
            Some(rustix::process::geteuid().as_raw())
        );
    }
}
