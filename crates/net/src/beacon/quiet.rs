//! A beacon's UDP socket that hears nothing but our version of QUIC.
//!
//! Quinn answers a long header of another version with Version Negotiation (RFC 9000 §6.1), and
//! so would tell any scanner what listens here. Our clients never send one.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

/// Drops what quinn would answer without knowing who asks.
pub(crate) struct QuietSocket(pub(crate) Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for QuietSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.0.poll_recv(cx, buffers, metas);
        if let Poll::Ready(Ok(count)) = &received {
            for (buffer, meta) in buffers.iter().zip(metas.iter_mut()).take(*count) {
                let mut datagrams = buffer[..meta.len].chunks(meta.stride.max(1));
                // One batch has one sender: who sends such a thing once may lose the rest of it.
                if !datagrams.all(is_ours) {
                    meta.len = 0;
                }
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}

impl fmt::Debug for QuietSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether this is a short header, or a long one of QUIC version 1 (RFC 9000 §17).
fn is_ours(datagram: &[u8]) -> bool {
    match datagram {
        [first, ..] if first & LONG == 0 => true,
        [_, version @ ..] => version.starts_with(&VERSION_1),
        [] => true,
    }
}

const LONG: u8 = 0x80;
const VERSION_1: [u8; 4] = [0, 0, 0, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_headers_of_another_version_are_not_ours() {
        assert!(is_ours(&[0x40, 9, 9, 9, 9]));
        assert!(is_ours(&[0xc0, 0, 0, 0, 1, 8]));
        assert!(!is_ours(&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8]));
        assert!(!is_ours(&[0xc0, 0, 0]));
    }
}
