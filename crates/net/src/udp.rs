//! The one UDP socket of a gateway: WireGuard to the peers and QUIC to the beacons leave from the
//! same port, so that the address a beacon observes is the address at which peers are met.
//!
//! Reads are GRO batches, writes are GSO batches (performance.md §A3: 27 times cheaper a packet
//! than one call each). **Invariant:** nothing is allocated for a packet.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tracing::{debug, info};

/// A nonblocking UDP socket for IPv4 and IPv6, or for IPv4 alone where there is no IPv6.
///
/// Addresses are always plain: an IPv4 peer is an IPv4 address on both kinds of socket.
#[derive(Debug)]
pub struct MeshSocket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// Cleared for good when the kernel or a driver refuses a segmented send.
    gso: AtomicBool,
    counters: Counters,
}

impl MeshSocket {
    /// Binds `port` on all addresses, or a free port where that one is taken (0: any).
    ///
    /// Must be called inside a tokio runtime with I/O.
    pub fn bind(port: u16) -> io::Result<Self> {
        let any = |port| {
            Self::bind_to((Ipv6Addr::UNSPECIFIED, port).into())
                .or_else(|_| Self::bind_to((Ipv4Addr::UNSPECIFIED, port).into()))
        };
        match any(port) {
            Err(error) if port != 0 => {
                debug!(port, %error, "wanted udp port is not free");
                any(0)
            }
            bound => bound,
        }
    }

    /// Binds exactly this address; `[::]` takes IPv4 too.
    pub fn bind_to(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        enlarge_buffers(&socket);
        socket.bind(&addr.into())?;
        let socket: std::net::UdpSocket = socket.into();
        let state = UdpSocketState::new((&socket).into())?; // also sets O_NONBLOCK
        let local = socket.local_addr()?;
        let gso = AtomicBool::new(state.max_gso_segments() > 1);
        Ok(Self {
            io: UdpSocket::from_std(socket)?,
            state,
            local,
            gso,
            counters: Counters::default(),
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether the socket can send to IPv6 addresses.
    pub fn has_ipv6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// Fills `batch` with what has arrived; the number of buffers filled, at least one.
    ///
    /// One task at a time is woken: the data plane's. An error here is worth a log line and a
    /// pause, never the end of the loop.
    pub fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        batch: &mut RecvBatch,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let (mut buffers, metas) = batch.buffers();
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv((&self.io).into(), &mut buffers, metas)
            });
            match received {
                Ok(count) => {
                    batch.count = count;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Somebody's ICMP message about an earlier send; it says nothing about receiving.
                Err(error) if SendFault::of(&error) == SendFault::Unreachable => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As [`Self::poll_recv`].
    pub async fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, batch)).await
    }

    /// Sends `bytes` as datagrams of `segment_size` (the last may be shorter), in as few calls as
    /// the kernel allows. What an error means, [`SendFault::of`] tells.
    ///
    /// `WouldBlock`: nothing was sent. Where the socket fills up in the middle, the rest is lost
    /// and counted, as it would be on any network: sent twice it would be worse.
    pub fn try_send(
        &self,
        remote: SocketAddr,
        bytes: &[u8],
        segment_size: usize,
    ) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let destination = self.destination(remote)?;
        let segment = segment_size.clamp(1, bytes.len());
        let mut first = true;
        let mut rest = bytes;
        while !rest.is_empty() {
            let segments = match self.gso.load(Ordering::Relaxed) {
                true => (MAX_GSO_BYTES / segment).clamp(1, MAX_GSO_SEGMENTS),
                false => 1,
            };
            let (batch, after) = rest.split_at((segments * segment).min(rest.len()));
            match self.send_batch(destination, batch, segment) {
                Ok(true) => rest = after,
                Ok(false) => continue, // without GSO now: the same bytes, one by one
                Err(error) if !first && error.kind() == io::ErrorKind::WouldBlock => {
                    let lost = rest.len().div_ceil(segment);
                    add(&self.counters.send_dropped, lost);
                    return Ok(());
                }
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        add(&self.counters.send_failed, 1);
                    }
                    return Err(error);
                }
            }
            first = false;
        }
        Ok(())
    }

    /// Waits until a send that met `WouldBlock` is worth another try. Any number of tasks may wait.
    pub async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }

    /// As [`Self::writable`] for the one task (the data plane) that polls.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }

    /// What went through so far.
    pub fn counters(&self) -> UdpCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UdpCounters {
            sent_batches: read(&self.counters.sent_batches),
            sent_bytes: read(&self.counters.sent_bytes),
            send_dropped: read(&self.counters.send_dropped),
            send_failed: read(&self.counters.send_failed),
        }
    }

    /// One call to the kernel; false where it must be repeated without GSO.
    fn send_batch(
        &self,
        destination: SocketAddr,
        bytes: &[u8],
        segment: usize,
    ) -> io::Result<bool> {
        let segmented = bytes.len() > segment;
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: bytes,
            segment_size: segmented.then_some(segment),
            src_ip: None,
        };
        match self.transmit(&transmit) {
            Ok(()) => {
                add(&self.counters.sent_batches, 1);
                add(&self.counters.sent_bytes, bytes.len());
                Ok(true)
            }
            Err(error) if segmented && refuses_segmentation(&error) => {
                // EINVAL is also what a segment above the interface's MTU gets: one datagram alone
                // tells the two apart, and only in the one case is GSO at fault.
                self.probe_segment(destination, &bytes[..segment])?;
                info!(%error, "segmentation offload is refused; sending one by one from now on");
                self.gso.store(false, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends one datagram of a refused batch alone. It will be sent again with the batch: the
    /// receiver drops the copy (WireGuard's counter, QUIC's packet number), once a process.
    fn probe_segment(&self, destination: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: None,
        };
        self.transmit(&transmit)
    }

    /// Asks the kernel first and tokio's reactor only when the kernel says no: the reactor takes a
    /// turn to notice that a new socket is writable at all.
    fn transmit(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let send = || self.state.try_send((&self.io).into(), transmit);
        match send() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.io.try_io(Interest::WRITABLE, send)
            }
            sent => sent,
        }
    }

    fn destination(&self, remote: SocketAddr) -> io::Result<SocketAddr> {
        match (self.local, remote) {
            (SocketAddr::V6(_), SocketAddr::V4(_)) => Ok(mapped(remote)),
            (SocketAddr::V4(_), SocketAddr::V6(_)) => match plain(remote) {
                remote @ SocketAddr::V4(_) => Ok(remote),
                SocketAddr::V6(_) => {
                    add(&self.counters.send_failed, 1);
                    Err(io::ErrorKind::NetworkUnreachable.into())
                }
            },
            _ => Ok(remote),
        }
    }
}

/// Buffers for one batch of reads, made once.
pub struct RecvBatch {
    bytes: Box<[u8]>,
    metas: [RecvMeta; RECV_BUFFERS],
    count: usize,
}

impl RecvBatch {
    /// Buffers for the largest batch.
    pub fn new() -> Self {
        Self {
            bytes: vec![0; RECV_BUFFERS * RECV_BUFFER].into_boxed_slice(),
            metas: [RecvMeta::default(); RECV_BUFFERS],
            count: 0,
        }
    }

    /// What the last read filled.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Received<'_>> {
        let metas = self.metas[..self.count].iter();
        metas
            .zip(self.bytes.chunks_exact_mut(RECV_BUFFER))
            .filter(|(meta, _)| meta.len > 0)
            .map(|(meta, buffer)| Received {
                remote: plain(meta.addr),
                stride: meta.stride.clamp(1, meta.len),
                bytes: &mut buffer[..meta.len],
            })
    }

    fn buffers(&mut self) -> ([IoSliceMut<'_>; RECV_BUFFERS], &mut [RecvMeta]) {
        let mut chunks = self.bytes.chunks_exact_mut(RECV_BUFFER);
        let buffers = std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        (buffers, &mut self.metas)
    }
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// One or more datagrams of one source.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent them, never an IPv4-mapped address.
    pub remote: SocketAddr,
    /// The datagrams, back to back; never empty.
    pub bytes: &'a mut [u8],
    /// The size of each, but for the last, which may be shorter; at least 1.
    pub stride: usize,
}

/// What a failed send says about the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFault {
    /// The socket's buffer is full: wait for [`MeshSocket::writable`].
    Full,
    /// This host cannot reach that address now, or may not: the path is down at once.
    Unreachable,
    /// A datagram exceeds the interface's MTU: the path is fine, the size is not.
    TooLarge,
    /// Anything else: this datagram is lost.
    Other,
}

impl SendFault {
    /// What this error of a send means.
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::WouldBlock => Self::Full,
            Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::NetworkDown
            | Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::PermissionDenied
            | Kind::AddrNotAvailable => Self::Unreachable,
            _ if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => Self::TooLarge,
            _ => Self::Other,
        }
    }
}

/// What went through a [`MeshSocket`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    /// Calls that sent.
    pub sent_batches: u64,
    /// Bytes that they took.
    pub sent_bytes: u64,
    /// Datagrams lost because the socket's buffer filled up in the middle of a batch.
    pub send_dropped: u64,
    /// Sends that failed for another reason than a full buffer.
    pub send_failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent_batches: AtomicU64,
    sent_bytes: AtomicU64,
    send_dropped: AtomicU64,
    send_failed: AtomicU64,
}

/// An address as the rest of the program writes it: IPv4 where it is IPv4.
pub fn plain(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// An address as a dual-stack socket, and quinn over one, writes it.
pub(crate) fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
        SocketAddr::V6(_) => addr,
    }
}

/// Asks for large socket buffers; the kernel gives what `net.core.{r,w}mem_max` allows.
pub(crate) fn enlarge_buffers(socket: &Socket) {
    for result in [
        socket.set_recv_buffer_size(SOCKET_BUFFER),
        socket.set_send_buffer_size(SOCKET_BUFFER),
    ] {
        if let Err(error) = result {
            debug!(%error, "socket buffer stays as it is");
        }
    }
}

fn refuses_segmentation(error: &io::Error) -> bool {
    let refusals = [Errno::IO, Errno::INVAL, Errno::OPNOTSUPP].map(|errno| errno.raw_os_error());
    error
        .raw_os_error()
        .is_some_and(|errno| refusals.contains(&errno))
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

/// Reads of one call. With GRO each may be 64 KiB of datagrams: more would only fall out of the
/// second-level cache before it is worked on.
const RECV_BUFFERS: usize = 4;

/// The largest UDP payload, so that nothing is ever truncated.
const RECV_BUFFER: usize = 65_535;

/// `UDP_MAX_SEGMENTS` of Linux before 6.9.
const MAX_GSO_SEGMENTS: usize = 64;

/// The largest UDP payload over IPv4, which bounds a segmented send too.
const MAX_GSO_BYTES: usize = 65_507;

/// 4 MiB each way: 20 ms at 1.6 Gbit/s, and small beside a container of 256 MB.
const SOCKET_BUFFER: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_segmentation_a_batch_goes_out_one_by_one() {
        let a = MeshSocket::bind_to((Ipv4Addr::LOCALHOST, 0).into()).expect("bound");
        let b = MeshSocket::bind_to((Ipv4Addr::LOCALHOST, 0).into()).expect("bound");
        a.gso.store(false, Ordering::Relaxed);

        a.try_send(b.local_addr(), &[1, 1, 2, 2, 3], 2)
            .expect("sent");

        assert_eq!(a.counters().sent_batches, 3);
        let (mut batch, mut seen) = (RecvBatch::new(), Vec::new());
        while seen.len() < 3 {
            b.recv(&mut batch).await.expect("received");
            for received in batch.iter_mut() {
                seen.extend(received.bytes.chunks(received.stride).map(<[u8]>::to_vec));
            }
        }
        assert_eq!(seen, [vec![1, 1], vec![2, 2], vec![3]]);
    }
}
