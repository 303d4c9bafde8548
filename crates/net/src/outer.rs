//! QUIC to the beacons over the mesh socket: quinn's socket, fed by the data plane.
//!
//! **Invariant:** quinn sees a datagram only if it came from an address that we dial. Even without
//! a server configured it would answer a stranger's Initial with a stateless reset (paths.md §1),
//! and a port that answers is a port that is found.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tracing::trace;

use crate::ring::Ring;
use crate::udp::{MeshSocket, mapped, plain};

/// The mesh socket as the outer QUIC endpoint sees it.
///
/// To quinn it is an IPv6 socket: an IPv4 beacon appears under its mapped address there, so pass
/// what quinn reports through [`crate::udp::plain`].
pub struct OuterSocket {
    mesh: Arc<MeshSocket>,
    inbound: Mutex<Inbound>,
    /// Whether the last send met a full socket: only then is there anything to wait for.
    full: AtomicBool,
    strangers: AtomicU64,
    dropped: AtomicU64,
}

impl OuterSocket {
    /// Nothing is allowed yet.
    pub fn new(mesh: Arc<MeshSocket>) -> Arc<Self> {
        let inbound = Inbound {
            ring: Ring::new(RING_BYTES, RING_SLOTS),
            dialled: Vec::new(),
            reader: None,
        };
        Arc::new(Self {
            mesh,
            inbound: Mutex::new(inbound),
            full: AtomicBool::new(false),
            strangers: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// Lets datagrams from this address through: call it before dialling. Counted: each call
    /// wants one [`Self::forbid`].
    pub fn allow(&self, beacon: SocketAddr) {
        let beacon = plain(beacon);
        let mut inbound = self.inbound();
        match inbound.dialled.iter_mut().find(|(addr, _)| *addr == beacon) {
            Some((_, count)) => *count += 1,
            None => inbound.dialled.push((beacon, 1)),
        }
    }

    /// Takes one [`Self::allow`] back.
    pub fn forbid(&self, beacon: SocketAddr) {
        let beacon = plain(beacon);
        let mut inbound = self.inbound();
        inbound.dialled.retain_mut(|(addr, count)| {
            if *addr == beacon {
                *count -= 1;
            }
            *count > 0
        });
    }

    /// Whether this address is dialled.
    pub fn is_allowed(&self, beacon: SocketAddr) -> bool {
        self.inbound().is_dialled(plain(beacon))
    }

    /// Hands over datagrams of `stride` bytes each (the last may be shorter) that came from
    /// `remote`. A stranger's are dropped and counted.
    pub fn deliver(&self, remote: SocketAddr, bytes: &[u8], stride: usize) {
        let stride = stride.max(1);
        let mut inbound = self.inbound();
        if !inbound.is_dialled(plain(remote)) {
            self.strangers
                .fetch_add(bytes.len().div_ceil(stride) as u64, Ordering::Relaxed);
            trace!("quic datagram from nobody we dial");
            return;
        }
        // Quinn's buffers hold so many bytes: never more in one.
        for batch in bytes.chunks((BUFFER / stride).max(1) * stride) {
            match inbound.ring.push((mapped(remote), stride), batch.len()) {
                Some(slot) => slot.copy_from_slice(batch),
                None => {
                    let lost = batch.len().div_ceil(stride) as u64;
                    self.dropped.fetch_add(lost, Ordering::Relaxed);
                }
            }
        }
        let reader = inbound.reader.take();
        drop(inbound);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Datagrams dropped so far: from strangers, and for want of room.
    pub fn dropped(&self) -> (u64, u64) {
        (
            self.strangers.load(Ordering::Relaxed),
            self.dropped.load(Ordering::Relaxed),
        )
    }

    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for OuterSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            outer: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        match self
            .mesh
            .try_send(plain(transmit.destination), transmit.contents, segment)
        {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.full.store(true, Ordering::Relaxed);
                Err(error)
            }
            // Any other error would end the connection; to QUIC it is a lost datagram.
            Err(error) => {
                trace!(%error, "quic datagram not sent");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbound = self.inbound();
        let mut count = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((&(addr, stride), bytes)) = inbound.ring.front() else {
                break;
            };
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            *meta = RecvMeta {
                addr,
                len,
                stride,
                ecn: None,
                dst_ip: None,
            };
            inbound.ring.pop();
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        match &mut inbound.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv6Addr::UNSPECIFIED, self.mesh.local_addr().port()).into())
    }

    fn max_transmit_segments(&self) -> usize {
        RECEIVE_SEGMENTS
    }

    fn max_receive_segments(&self) -> usize {
        RECEIVE_SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        false // quinn-udp forbids it on the mesh socket
    }
}

impl fmt::Debug for OuterSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OuterSocket")
            .field("mesh", &self.mesh)
            .finish_non_exhaustive()
    }
}

struct Inbound {
    /// The source as quinn knows it, and the stride.
    ring: Ring<(SocketAddr, usize)>,
    /// A handful of beacons: a scan is cheaper than a map.
    dialled: Vec<(SocketAddr, usize)>,
    reader: Option<Waker>,
}

impl Inbound {
    fn is_dialled(&self, addr: SocketAddr) -> bool {
        self.dialled.iter().any(|(dialled, _)| *dialled == addr)
    }
}

/// Each connection waits with a future of its own: the socket's `poll_send_ready` would remember
/// only one of them.
struct Poller {
    outer: Arc<OuterSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.outer.full.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mesh = Arc::clone(&self.outer.mesh);
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(async move { mesh.writable().await }));
        let result = waiting.as_mut().poll(cx);
        if result.is_ready() {
            self.waiting = None;
            self.outer.full.store(false, Ordering::Relaxed);
        }
        result
    }
}

impl fmt::Debug for Poller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

/// Relayed datagrams of a few milliseconds; beyond that the newest are dropped.
const RING_BYTES: usize = 512 << 10;
const RING_SLOTS: usize = 512;

/// What quinn takes from one buffer.
const RECEIVE_SEGMENTS: usize = 32;

/// How large quinn makes that buffer.
const BUFFER: usize = RECEIVE_SEGMENTS * MAX_DATAGRAM;

/// Quinn's default `max_udp_payload_size`, which `endpoint` leaves as it is on the outer endpoint.
const MAX_DATAGRAM: usize = 1472;
