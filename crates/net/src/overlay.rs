//! QUIC between the nodes, inside the tunnel: quinn's socket on one side, IPv6 packets for the
//! data plane on the other, in the same process and without a TUN.
//!
//! ```text
//! quinn ── try_send ──►  OverlaySocket ══ ring ══►  OverlayPort ── poll_packets ──► Tunnel
//! quinn ◄─ poll_recv ──  OverlaySocket ◄═ ring ═══  OverlayPort ◄── deliver ─────── Tunnel
//! ```
//! A segmented send of quinn becomes inner packets; inner packets of one source and size become
//! one segmented read of quinn. **Invariant:** both rings are made once and bounded: a full one
//! holds quinn back outward and drops, counted, inward; nothing is allocated for a packet.

mod packet;

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::ring::Ring;

pub use packet::{HEADER_BYTES, InnerPacket, PacketFault};

/// The UDP port of the router inside the tunnel.
pub const PORT: u16 = wire::peer::ROUTER_PORT;

/// The largest QUIC datagram inside the tunnel: 1500 less IPv4, UDP and WireGuard (28 + 32) and
/// the inner IPv6 and UDP headers (48).
pub const MAX_PAYLOAD: usize = 1392;

/// Both ends of the overlay of a node with this address.
pub fn overlay(local: Ipv6Addr) -> (Arc<OverlaySocket>, OverlayPort) {
    let local = SocketAddrV6::new(local, PORT, 0, 0);
    let shared = Arc::new(Shared {
        inbound: Mutex::new(Inbound {
            ring: Ring::new(INBOUND_BYTES, INBOUND_SLOTS),
            reader: None,
        }),
        outbound: Mutex::new(Outbound {
            ring: Ring::new(OUTBOUND_BYTES, OUTBOUND_SLOTS),
            lingered_at: 0,
            port: None,
            writers: Vec::new(),
            next_writer: 0,
            closed: false,
        }),
        counters: Counters::default(),
    });
    let socket = OverlaySocket {
        local,
        shared: Arc::clone(&shared),
    };
    (Arc::new(socket), OverlayPort { local, shared })
}

/// Quinn's end: a UDP socket on `[overlay address]:4747`.
#[derive(Debug)]
pub struct OverlaySocket {
    local: SocketAddrV6,
    shared: Arc<Shared>,
}

/// The data plane's end: inner IPv6 packets.
#[derive(Debug)]
pub struct OverlayPort {
    local: SocketAddrV6,
    shared: Arc<Shared>,
}

impl OverlayPort {
    /// Takes in a decrypted packet whose source the tunnel has checked. What is not UDP for
    /// [`PORT`] at our address is dropped and counted, and so is what exceeds the ring.
    pub fn deliver(&mut self, packet: &[u8]) {
        let Ok(inner) = InnerPacket::parse(packet) else {
            count(&self.shared.counters.malformed);
            return;
        };
        if inner.destination != self.local {
            count(&self.shared.counters.malformed);
            return;
        }
        let mut inbound = self.shared.inbound();
        if !inbound.store(&inner) {
            count(&self.shared.counters.inbound_dropped);
            return;
        }
        let reader = inbound.reader.take();
        drop(inbound);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Whether quinn has much to take in already: the data plane should let the other tasks run
    /// (`yield_now`) before it reads more from the network, where the kernel's buffer waits
    /// without loss.
    pub fn is_congested(&self) -> bool {
        !self.shared.inbound().ring.is_half_free()
    }

    /// Hands up to `budget` queued packets to `take`, oldest first; how many they were. Call it
    /// until it is pending, which registers the task to be woken.
    ///
    /// Quinn sends at most 20 datagrams each time that it runs. Where it did, and so will again,
    /// this waits a turn or two of the other tasks, so that the tunnel gets up to a whole GSO
    /// batch at once: that is what makes QUIC inside WireGuard cheap (performance.md §C).
    pub fn poll_packets(
        &mut self,
        cx: &mut Context<'_>,
        budget: usize,
        take: &mut dyn FnMut(&[u8]),
    ) -> Poll<usize> {
        let mut outbound = self.shared.outbound();
        if outbound.ring.is_empty() {
            outbound.await_packets(cx);
            return Poll::Pending;
        }
        if outbound.should_linger() {
            outbound.lingered_at = outbound.ring.len();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut taken = 0;
        while taken < budget
            && let Some(((), packet)) = outbound.ring.front()
        {
            take(packet);
            outbound.ring.pop();
            taken += 1;
        }
        outbound.lingered_at = 0;
        outbound.wake_writers();
        Poll::Ready(taken)
    }

    /// What went wrong so far.
    pub fn counters(&self) -> OverlayCounters {
        self.shared.counters.read()
    }
}

impl Drop for OverlayPort {
    fn drop(&mut self) {
        let mut outbound = self.shared.outbound();
        outbound.closed = true;
        outbound.ring.clear();
        outbound.wake_writers();
    }
}

impl OverlaySocket {
    /// The address that peers dial.
    pub fn addr(&self) -> SocketAddrV6 {
        self.local
    }

    /// What went wrong so far.
    pub fn counters(&self) -> OverlayCounters {
        self.shared.counters.read()
    }
}

impl AsyncUdpSocket for OverlaySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let mut outbound = self.shared.outbound();
        let id = outbound.next_writer;
        outbound.next_writer += 1;
        drop(outbound);
        Box::pin(Writer {
            id,
            shared: Arc::clone(&self.shared),
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let SocketAddr::V6(destination) = transmit.destination else {
            count(&self.shared.counters.unroutable);
            return Ok(());
        };
        if transmit.contents.is_empty() {
            return Ok(());
        }
        let segment = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        let packets = transmit.contents.len().div_ceil(segment);
        let mut outbound = self.shared.outbound();
        if outbound.closed {
            return Ok(());
        }
        if !outbound
            .ring
            .has_room(packets, segment.min(transmit.contents.len()) + HEADER_BYTES)
        {
            count(&self.shared.counters.held_back);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for payload in transmit.contents.chunks(segment) {
            let Some(slot) = outbound.ring.push((), HEADER_BYTES + payload.len()) else {
                count(&self.shared.counters.unroutable); // cannot be: there was room
                break;
            };
            packet::write(self.local, destination, transmit.ecn, payload, slot);
        }
        let port = outbound.port.take();
        drop(outbound);
        if let Some(port) = port {
            port.wake();
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbound = self.shared.inbound();
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Some((batch, bytes)) = inbound.ring.front() else {
                break;
            };
            let len = bytes.len().min(buffer.len());
            buffer[..len].copy_from_slice(&bytes[..len]);
            *meta = RecvMeta {
                addr: SocketAddr::V6(batch.source),
                len,
                stride: batch.stride,
                ecn: batch.ecn,
                dst_ip: Some(IpAddr::V6(*self.local.ip())),
            };
            inbound.ring.pop();
            filled += 1;
        }
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        match &mut inbound.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            reader => *reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::V6(self.local))
    }

    fn max_transmit_segments(&self) -> usize {
        TRANSMIT_SEGMENTS
    }

    fn max_receive_segments(&self) -> usize {
        RECEIVE_SEGMENTS
    }

    fn may_fragment(&self) -> bool {
        // The tunnel does fragment what its path has not proven, but discovery must be allowed to
        // find that out: on a proven path 1392 passes whole.
        false
    }
}

/// What the overlay dropped or held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayCounters {
    /// Inner packets that were not for us to take.
    pub malformed: u64,
    /// Inner packets dropped because quinn did not keep up.
    pub inbound_dropped: u64,
    /// Sends that had to wait for the data plane.
    pub held_back: u64,
    /// Sends to what is no overlay address.
    pub unroutable: u64,
}

#[derive(Debug, Default)]
struct Counters {
    malformed: AtomicU64,
    inbound_dropped: AtomicU64,
    held_back: AtomicU64,
    unroutable: AtomicU64,
}

impl Counters {
    fn read(&self) -> OverlayCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OverlayCounters {
            malformed: read(&self.malformed),
            inbound_dropped: read(&self.inbound_dropped),
            held_back: read(&self.held_back),
            unroutable: read(&self.unroutable),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

struct Shared {
    inbound: Mutex<Inbound>,
    outbound: Mutex<Outbound>,
    counters: Counters,
}

impl Shared {
    // A lock is never held across foreign code that could panic but `poll_packets`' closure; the
    // rings stay valid whatever it does.
    fn inbound(&self) -> MutexGuard<'_, Inbound> {
        self.inbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbound(&self) -> MutexGuard<'_, Outbound> {
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

struct Inbound {
    ring: Ring<Batch>,
    reader: Option<Waker>,
}

/// Payloads of one source, back to back: all of `stride` bytes, but for a shorter last.
#[derive(Clone, Copy)]
struct Batch {
    source: SocketAddrV6,
    ecn: Option<EcnCodepoint>,
    stride: usize,
}

impl Inbound {
    /// Adds to the newest batch where it may, else begins another; false where there is no room.
    fn store(&mut self, inner: &InnerPacket<'_>) -> bool {
        let payload = inner.payload;
        if let Some((batch, len)) = self.ring.back_mut()
            && batch.source == inner.source
            && batch.ecn == inner.ecn
            && payload.len() <= batch.stride
            && len % batch.stride == 0
            && len + payload.len() <= RECEIVE_SEGMENTS * batch.stride.min(MAX_PAYLOAD)
            && let Some(slot) = self.ring.extend_back(payload.len())
        {
            slot.copy_from_slice(payload);
            return true;
        }
        let batch = Batch {
            source: inner.source,
            ecn: inner.ecn,
            stride: payload.len(),
        };
        match self.ring.push(batch, payload.len()) {
            Some(slot) => {
                slot.copy_from_slice(payload);
                true
            }
            None => false,
        }
    }
}

struct Outbound {
    ring: Ring<()>,
    /// How many packets waited when the port last let the others go first.
    lingered_at: usize,
    port: Option<Waker>,
    /// Connections that wait for room, by their poller's number: each at most once.
    writers: Vec<(u64, Waker)>,
    next_writer: u64,
    closed: bool,
}

impl Outbound {
    fn await_packets(&mut self, cx: &mut Context<'_>) {
        match &mut self.port {
            Some(port) => port.clone_from(cx.waker()),
            port => *port = Some(cx.waker().clone()),
        }
    }

    fn should_linger(&self) -> bool {
        let queued = self.ring.len();
        queued < LINGER_UNTIL && queued >= self.lingered_at + FULL_DRIVE
    }

    fn wake_writers(&mut self) {
        if !self.writers.is_empty() && self.ring.is_half_free() {
            for (_, writer) in self.writers.drain(..) {
                writer.wake();
            }
        }
    }
}

/// One connection's wait for room.
struct Writer {
    id: u64,
    shared: Arc<Shared>,
}

impl UdpPoller for Writer {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outbound = self.shared.outbound();
        if outbound.closed
            || outbound
                .ring
                .has_room(TRANSMIT_SEGMENTS, MAX_PAYLOAD + HEADER_BYTES)
        {
            return Poll::Ready(Ok(()));
        }
        let id = self.id;
        match outbound
            .writers
            .iter_mut()
            .find(|(writer, _)| *writer == id)
        {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => outbound.writers.push((id, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let id = self.id;
        self.shared
            .outbound()
            .writers
            .retain(|(writer, _)| *writer != id);
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Quinn's own cap for one send (`MAX_TRANSMIT_SEGMENTS` in quinn 0.11's connection.rs).
const TRANSMIT_SEGMENTS: usize = 10;

/// Quinn's own cap for one run of a connection (`MAX_TRANSMIT_DATAGRAMS`): so many packets at
/// once mean that it has more.
const FULL_DRIVE: usize = 20;

/// Two full runs of quinn: a GSO batch holds 44 datagrams of 1472 bytes, and 60 packets would make
/// one of 44 and one of 16.
const LINGER_UNTIL: usize = 40;

/// What quinn takes at once from one source. Its buffers are this times its largest datagram, and
/// a stream's unread bytes keep a whole one alive, so not the 64 that GRO may give.
pub(crate) const RECEIVE_SEGMENTS: usize = 32;

/// Twice what the mesh socket reads at once: until [`OverlayPort::is_congested`] one more read
/// fits whole, and the memory that a packet crosses stays within the caches.
const INBOUND_BYTES: usize = 512 << 10;
const INBOUND_SLOTS: usize = 1 << 10;

/// 360 full packets: a few batches ahead of the socket, and no standing queue behind it.
const OUTBOUND_BYTES: usize = 512 << 10;
const OUTBOUND_SLOTS: usize = 1 << 10;
